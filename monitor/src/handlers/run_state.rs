//! What the virtual machine is doing, and what changes that.

use thimble_core::machine::actions::ActionChanges;

use super::Context;
use crate::Owner;
use crate::error::Fail;
use crate::schema::{RunState, arguments, results};

pub(crate) fn query_status<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<results::StatusInfo, Fail<'static>> {
    let status = context.owner.run_state();
    Ok(results::StatusInfo {
        running: status == RunState::Running,
        singlestep: false,
        status,
    })
}

pub(crate) fn stop<O: Owner + ?Sized>(context: &mut Context<'_, O>) -> Result<(), Fail<'static>> {
    Ok(context.owner.stop()?)
}

pub(crate) fn cont<O: Owner + ?Sized>(context: &mut Context<'_, O>) -> Result<(), Fail<'static>> {
    if context.owner.run_state() == RunState::Suspended {
        // Only what wakes it up lets it run, and nothing complains.
        return Ok(());
    }
    if context.owner.run_state().needs_reset() {
        return Err(Fail::generic(&[
            b"Resetting the Virtual Machine is required",
        ]));
    }
    Ok(context.owner.cont()?)
}

pub(crate) fn x_exit_preconfig<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<(), Fail<'static>> {
    if !context.owner.preconfig() {
        return Err(Fail::generic(&[
            b"The command is permitted only before machine initialization",
        ]));
    }
    Ok(context.owner.exit_preconfig()?)
}

pub(crate) fn system_reset<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<(), Fail<'static>> {
    Ok(context.owner.system_reset()?)
}

pub(crate) fn system_powerdown<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<(), Fail<'static>> {
    Ok(context.owner.system_powerdown()?)
}

pub(crate) fn system_wakeup<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<(), Fail<'static>> {
    if !context.owner.can_sleep() {
        return Err(Fail::generic(&[
            b"wake-up from suspend is not supported by this guest",
        ]));
    }
    if context.owner.run_state() != RunState::Suspended {
        return Err(Fail::generic(&[
            b"Unable to wake up: guest is not in suspended state",
        ]));
    }
    context.owner.wake();
    Ok(())
}

pub(crate) fn inject_nmi<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<(), Fail<'static>> {
    if context.owner.cpus() == 0 {
        return Err(Fail::generic(&[
            b"this feature or command is not currently supported",
        ]));
    }
    Ok(context.owner.inject_nmi()?)
}

pub(crate) fn watchdog_set_action<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::WatchdogSetAction,
) -> Result<(), Fail<'static>> {
    context.owner.set_actions(ActionChanges {
        watchdog: Some(arguments.action),
        ..ActionChanges::default()
    });
    Ok(())
}

pub(crate) fn set_action<O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::SetAction,
) -> Result<(), Fail<'static>> {
    context.owner.set_actions(ActionChanges {
        reboot: arguments.reboot,
        shutdown: arguments.shutdown,
        panic: arguments.panic,
        watchdog: arguments.watchdog,
    });
    Ok(())
}
