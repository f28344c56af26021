//! Ports, read and written as a processor does.

use core::fmt::Write as _;

use thimble_core::devices::Width;

use super::table::{Command, Kind, command, required};
use super::{Call, Done};
use crate::handlers::Outcome;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "i",
        "/fmt addr",
        &[required(Kind::Format), required(Kind::Int32)],
        "read a port",
        read,
    ),
    command(
        "o",
        "/fmt addr value",
        &[
            required(Kind::Format),
            required(Kind::Int32),
            required(Kind::Int32),
        ],
        "write a port",
        write,
    ),
];

/// The width that a format's size means; the bytes to show; and its letter. There are no wider accesses.
fn width(call: &Call<'_, '_>) -> (Width, u8, char) {
    match call.arguments.format(0).size() {
        2 => (Width::Word, 2, 'w'),
        4 => (Width::Dword, 4, 'l'),
        bytes => (Width::Byte, bytes, 'b'),
    }
}

fn read<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (width, bytes, letter) = width(call);
    // The address bus has 16 lines.
    let port = call.arguments.int(1) as u16;
    let value = call.context.owner.port_read(port, width);
    let digits = usize::from(bytes) * 2;
    writeln!(
        call.text,
        "port{letter}[0x{port:04x}] = 0x{value:0digits$x}"
    )?;
    Ok(Outcome::Done)
}

fn write<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (width, ..) = width(call);
    let port = call.arguments.int(1) as u16;
    let value = call.arguments.int(2) as u32;
    call.context.owner.port_write(port, width, value);
    Ok(Outcome::Done)
}
