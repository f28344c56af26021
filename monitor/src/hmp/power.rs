//! Whether the machine runs, and its buttons.

use super::table::{Command, Kind, Names, command, required};
use super::{Call, Done};
use crate::error::Fail;
use crate::handlers::{self, Outcome};
use crate::schema::{WatchdogAction, arguments};

pub(super) static COMMANDS: &[Command] = &[
    command("cont|c", "", &[], "let the guest run", |call| {
        handlers::cont(&mut call.context)?;
        Ok(Outcome::Done)
    }),
    command(
        "exit_preconfig",
        "",
        &[],
        "build the machine, and go on",
        |call| {
            handlers::x_exit_preconfig(&mut call.context)?;
            Ok(Outcome::Done)
        },
    )
    .in_preconfig(),
    command("nmi", "", &[], "send all processors an NMI", |call| {
        handlers::inject_nmi(&mut call.context)?;
        Ok(Outcome::Done)
    }),
    command("quit|q", "", &[], "end the process", |call| {
        handlers::quit(&mut call.context)?;
        Ok(Outcome::Done)
    })
    .in_preconfig(),
    command("stop|s", "", &[], "stop the guest", |call| {
        handlers::stop(&mut call.context)?;
        Ok(Outcome::Done)
    }),
    command(
        "system_powerdown",
        "",
        &[],
        "press the power button",
        |call| {
            handlers::system_powerdown(&mut call.context)?;
            Ok(Outcome::Done)
        },
    ),
    command("system_reset", "", &[], "reset the machine", |call| {
        handlers::system_reset(&mut call.context)?;
        Ok(Outcome::Done)
    }),
    command(
        "system_wakeup",
        "",
        &[],
        "wake a guest up that sleeps",
        |call| {
            handlers::system_wakeup(&mut call.context)?;
            Ok(Outcome::Done)
        },
    ),
    command(
        "watchdog_action",
        "[reset|shutdown|poweroff|pause|debug|none]",
        &[required(Kind::Text).of(Names::Words(WatchdogAction::NAMES))],
        "choose what happens when a watchdog expires",
        watchdog_action,
    ),
];

fn watchdog_action<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let name = call.arguments.text(0);
    let action = core::str::from_utf8(name)
        .ok()
        .and_then(WatchdogAction::from_name)
        .ok_or_else(|| Fail::generic(&[b"invalid parameter value: ", name]))?;
    handlers::watchdog_set_action(&mut call.context, arguments::WatchdogSetAction { action })?;
    Ok(Outcome::Done)
}
