//! The debugger's connection.

use core::fmt::Write as _;

use super::table::{Command, Kind, command, optional};
use super::{Call, Done};
use crate::handlers::Outcome;

pub(super) static COMMANDS: &[Command] = &[command(
    "gdbserver",
    "[device]",
    &[optional(Kind::Text)],
    "wait for gdb on a device (default: TCP port 1234), or on none with 'none'",
    gdbserver,
)];

fn gdbserver<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let device = match call.arguments.text(0) {
        b"" => b"tcp::1234",
        device => device,
    };
    let done = call.context.owner.serve_debugger(device);
    if device == b"none" && done.is_ok() {
        writeln!(call.text, "Disabled gdbserver")?;
        return Ok(Outcome::Done);
    }
    if let Err(error) = &done {
        writeln!(call.text, "{error}")?;
    }
    let text: &[u8] = match done {
        Ok(()) => b"Waiting for gdb connection on device '",
        Err(_) => b"Could not open gdbserver on device '",
    };
    call.text.pieces(&[text, device, b"'\n"])?;
    Ok(Outcome::Done)
}
