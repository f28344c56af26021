//! Guest memory: shown, saved, translated; and values of expressions.

use core::fmt::Write as _;

use thimble_core::cpu::Registers;
use thimble_core::memory::RamError;

use super::table::{Command, Kind, command, required};
use super::{Call, Done};
use crate::Owner;
use crate::handlers::{self, Outcome};
use crate::schema::arguments;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "memsave",
        "addr size file",
        &[
            required(Kind::Int64),
            required(Kind::Int32),
            required(Kind::Text),
        ],
        "write 'size' bytes of virtual memory from 'addr' on to a file",
        memsave,
    ),
    command(
        "pmemsave",
        "addr size file",
        &[
            required(Kind::Int64),
            required(Kind::Int32),
            required(Kind::Text),
        ],
        "write 'size' bytes of physical memory from 'addr' on to a file",
        pmemsave,
    ),
    command(
        "print|p",
        "/fmt expr",
        &[required(Kind::Format), required(Kind::Int64)],
        "print an expression's value (registers are $reg)",
        print,
    ),
    command(
        "x",
        "/fmt addr",
        &[required(Kind::Format), required(Kind::Int64)],
        "dump virtual memory from 'addr' on",
        |call| dump(call, false),
    ),
    command(
        "xp",
        "/fmt addr",
        &[required(Kind::Format), required(Kind::Int64)],
        "dump physical memory from 'addr' on",
        |call| dump(call, true),
    ),
];

fn memsave<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let arguments = arguments::Memsave {
        val: call.arguments.int(0),
        size: call.arguments.int(1),
        filename: call.arguments.text(2),
        cpu_index: None,
        cpu: None,
    };
    let job = handlers::memsave(&mut call.context, arguments)?;
    Ok(Outcome::Pending(job))
}

fn pmemsave<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let arguments = arguments::Pmemsave {
        val: call.arguments.int(0),
        size: call.arguments.int(1),
        filename: call.arguments.text(2),
    };
    let job = handlers::pmemsave(&mut call.context, arguments)?;
    Ok(Outcome::Pending(job))
}

fn print<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (request, value) = (call.arguments.format(0), call.arguments.int(1));
    request.print(value, &mut call.text)?;
    writeln!(call.text)?;
    Ok(Outcome::Done)
}

fn dump<'l>(call: &mut Call<'_, 'l>, physical: bool) -> Done<'l> {
    // Addresses from 2^63 up are negative numbers.
    let (request, address) = (call.arguments.format(0), call.arguments.int(1) as u64);
    let cpu = call.cpu();
    let owner = &mut *call.context.owner;
    let registers = owner.registers(cpu)?;
    let mut read = |address: u64, to: &mut [u8]| match physical {
        true => owner.read_physical(address, to),
        false => read_linear(owner, &registers, address, to),
    };
    request.dump(address, registers.code_size(), &mut read, &mut call.text)?;
    Ok(Outcome::Done)
}

/// Reads by linear addresses; false if one is not mapped or nothing answers there.
fn read_linear(
    owner: &mut dyn Owner,
    registers: &Registers,
    mut address: u64,
    mut to: &mut [u8],
) -> bool {
    while !to.is_empty() {
        let entry = |gpa, to: &mut [u8]| match owner.read_physical(gpa, to) {
            true => Ok(()),
            false => Err(RamError { gpa }),
        };
        let Ok(found) = registers.paging.translate(address, entry) else {
            return false;
        };
        let length = usize::try_from(found.length).map_or(to.len(), |length| length.min(to.len()));
        let (part, rest) = to.split_at_mut(length);
        if !owner.read_physical(found.gpa, part) {
            return false;
        }
        let Some(next) = address.checked_add(length as u64) else {
            // The last byte of all may be read, but nothing behind it.
            return rest.is_empty();
        };
        address = next;
        to = rest;
    }
    true
}
