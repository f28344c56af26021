//! What the guest boots from.

use core::fmt::Write as _;

use super::table::{Command, Kind, command, required};
use super::{Call, Done};
use crate::handlers::Outcome;

pub(super) static COMMANDS: &[Command] = &[command(
    "boot_set",
    "bootdevice",
    &[required(Kind::Text)],
    "set the order of devices that firmware boots from",
    boot_set,
)];

fn boot_set<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    // What is no text is no letter either.
    let letters = core::str::from_utf8(call.arguments.text(0)).unwrap_or("?");
    // QEMU's words, without the prefix that other errors have.
    match call.context.owner.set_boot_order(letters) {
        Ok(()) => writeln!(call.text, "boot device list now set to {letters}")?,
        Err(error) => writeln!(call.text, "{error}")?,
    }
    Ok(Outcome::Done)
}
