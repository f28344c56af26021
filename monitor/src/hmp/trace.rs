//! Trace events, and the log.

use core::fmt::Write as _;

use super::table::{Command, Kind, Names, command, optional, required};
use super::{Call, Done, Failed};
use crate::error::Fail;
use crate::handlers::{self, Outcome};
use crate::trace;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "log",
        "item1[,...]",
        &[required(Kind::Text)],
        "log these items from now on, and no others ('none': nothing)",
        log,
    ),
    command(
        "logfile",
        "filename",
        &[required(Kind::File)],
        "let log and traces go to 'filename'",
        logfile,
    ),
    command(
        "trace-event",
        "name on|off [vcpu]",
        &[
            required(Kind::Text).of(Names::TraceEvents),
            required(Kind::Switch),
            optional(Kind::Int32),
        ],
        "trace an event, or those of a pattern, or don't (vcpu: for this processor only)",
        trace_event,
    ),
];

pub(super) static INFO: &[Command] = &[command(
    "trace-events",
    "[name] [vcpu]",
    &[
        optional(Kind::Text).of(Names::TraceEvents),
        optional(Kind::Int32),
    ],
    "show which trace events there are, and which are traced (name: a pattern; vcpu: for this processor)",
    trace_events,
)];

/// Errors stand for themselves here.
fn tell<'l>(call: &mut Call<'_, 'l>, fail: &Fail<'_>) -> Done<'l> {
    call.text.pieces(&fail.parts().1)?;
    call.text.bytes(b"\n")?;
    Ok(Outcome::Done)
}

fn trace_event<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (name, on) = (call.arguments.text(0), call.arguments.switch(1));
    let vcpu = call.arguments.optional_int(2);
    match handlers::meant_processor(call.context.owner, name, vcpu) {
        Ok(cpu) => trace::visit(name, |point, _| point.set(on.unwrap_or(false), cpu)),
        Err(fail) => return tell(call, &fail),
    }
    Ok(Outcome::Done)
}

fn trace_events<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let name = call.arguments.optional_text(0).unwrap_or(b"*");
    let cpu =
        match handlers::meant_processor(call.context.owner, name, call.arguments.optional_int(1)) {
            Ok(cpu) => cpu,
            Err(fail) => return tell(call, &fail),
        };
    let mut written = Ok(());
    trace::visit(name, |point, name| {
        let Some(on) = point.state(cpu) else {
            return;
        };
        if written.is_ok() {
            written = writeln!(call.text, "{name} : state {}", u8::from(on));
        }
    });
    written?;
    Ok(Outcome::Done)
}

fn log<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    match call.context.owner.set_log(call.arguments.text(0)) {
        Ok(true) => {}
        Ok(false) => {
            let mut written = call
                .text
                .bytes(b"Log items (comma separated):\nnone            remove all logs\n");
            let text = &mut call.text;
            call.context.owner.visit_log_items(&mut |items| {
                if written.is_ok() {
                    written = text.bytes(items.as_bytes());
                }
            });
            written?;
        }
        Err(error) => writeln!(call.text, "{error}").map_err(Failed::from)?,
    }
    Ok(Outcome::Done)
}

fn logfile<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    if let Err(error) = call.context.owner.set_log_file(call.arguments.text(0)) {
        writeln!(call.text, "{error}")?;
    }
    Ok(Outcome::Done)
}
