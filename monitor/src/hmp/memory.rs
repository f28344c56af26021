//! Guest memory: shown, saved, translated; and values of expressions.

use core::fmt::Write as _;

use thimble_core::cpu::Registers;
use thimble_core::machine::listing::HostMemory;
use thimble_core::memory::RamError;

use super::table::{Command, Kind, command, required};
use super::{Call, Done, Failed, tables};
use crate::handlers::{self, Outcome};
use crate::schema::arguments;
use crate::{Owner, QmpError};

/// Bytes that `sum` adds up at most: what takes longer would hold others up.
const SUM_MAX: u64 = 64 << 20;

/// Bytes of a page.
const PAGE: u64 = 4096;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "gpa2hpa",
        "addr",
        &[required(Kind::Int64)],
        "print the host's physical address of a guest's",
        gpa2hpa,
    ),
    command(
        "gpa2hva",
        "addr",
        &[required(Kind::Int64)],
        "print the host's virtual address of a guest's physical one",
        gpa2hva,
    ),
    command(
        "gva2gpa",
        "addr",
        &[required(Kind::Int64)],
        "print the physical address that a virtual one stands for",
        gva2gpa,
    ),
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
        "sum",
        "addr size",
        &[required(Kind::Int32), required(Kind::Int32)],
        "add up 'size' bytes of physical memory from 'addr' on, as BSD's sum does",
        sum,
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

pub(super) static INFO: &[Command] = &[
    command(
        "mem",
        "",
        &[],
        "show which virtual addresses are mapped, and what is allowed there",
        |call| {
            let owner = &mut *call.context.owner;
            let paging = owner.registers(call.context.session.cpu)?.paging;
            tables::ranges(&paging, owner, &mut call.text)?;
            Ok(Outcome::Done)
        },
    ),
    command(
        "memory_size_summary",
        "",
        &[],
        "show how much memory the guest has",
        memory_size,
    ),
    command(
        "tlb",
        "",
        &[],
        "show the physical address of every page that is mapped",
        |call| {
            let owner = &mut *call.context.owner;
            let paging = owner.registers(call.context.session.cpu)?.paging;
            tables::pages(&paging, owner, &mut call.text)?;
            Ok(Outcome::Done)
        },
    ),
];

fn memory_size<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let mut size = 0;
    call.context
        .owner
        .visit_objects(&mut |tree| size = tree.outside.settings().memory);
    // Nothing can be plugged.
    writeln!(call.text, "base memory: {size}\nplugged memory: 0")?;
    Ok(Outcome::Done)
}

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

fn gva2gpa<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let address = call.arguments.int(0) as u64;
    let cpu = call.cpu();
    let owner = &mut *call.context.owner;
    let registers = owner.registers(cpu)?;
    match translate(owner, &registers, address) {
        Some((0, _)) => writeln!(call.text, "gpa: 0")?,
        Some((gpa, _)) => writeln!(call.text, "gpa: {gpa:#x}")?,
        None => writeln!(call.text, "Unmapped")?,
    }
    Ok(Outcome::Done)
}

/// Where the process has a byte of guest memory: the memory's name, and the address.
fn host_memory<'l>(
    call: &mut Call<'_, 'l>,
    gpa: u64,
) -> Result<Option<(&'static str, usize)>, Failed<'l>> {
    let mut found = HostMemory::Nothing;
    let owner = &mut *call.context.owner;
    owner.look_at_machine(&mut |machine| found = machine.host_memory(gpa));
    Ok(match found {
        HostMemory::At { name, address } => Some((name, address)),
        HostMemory::Nothing => {
            writeln!(call.text, "No memory is mapped at address 0x{gpa:x}")?;
            None
        }
        HostMemory::Device => {
            writeln!(call.text, "Memory at address 0x{gpa:x} is not RAM")?;
            None
        }
    })
}

fn gpa2hva<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let gpa = call.arguments.int(0) as u64;
    if let Some((name, address)) = host_memory(call, gpa)? {
        writeln!(
            call.text,
            "Host virtual address for 0x{gpa:x} ({name}) is 0x{address:x}"
        )?;
    }
    Ok(Outcome::Done)
}

fn gpa2hpa<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let gpa = call.arguments.int(0) as u64;
    if let Some((name, address)) = host_memory(call, gpa)? {
        let host = call.context.owner.host_physical(address)?;
        writeln!(
            call.text,
            "Host physical address for 0x{gpa:x} ({name}) is 0x{host:x}"
        )?;
    }
    Ok(Outcome::Done)
}

fn sum<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (mut gpa, size) = (call.arguments.int(0) as u64, call.arguments.int(1) as u64);
    if size > SUM_MAX {
        let error = format_args!("'size' is larger than the limit ({SUM_MAX} bytes)");
        return Err(QmpError::generic(error).into());
    }
    let mut sum = 0_u16;
    let mut buffer = [0; PAGE as usize];
    let mut left = size;
    while left > 0 {
        // Up to the page's end: something answers in all of it, or nothing.
        let length = left.min(PAGE - gpa % PAGE);
        let bytes = buffer.get_mut(..length as usize).unwrap_or_default();
        if !call.context.owner.read_physical(gpa, bytes) {
            bytes.fill(0);
        }
        for byte in bytes {
            sum = sum.rotate_right(1).wrapping_add((*byte).into());
        }
        gpa = gpa.wrapping_add(length);
        left -= length;
    }
    writeln!(call.text, "{sum:05}")?;
    Ok(Outcome::Done)
}

/// What a linear address stands for, and how many bytes there are to the end of its page.
fn translate(owner: &mut dyn Owner, registers: &Registers, address: u64) -> Option<(u64, u64)> {
    let entry = |gpa, to: &mut [u8]| match owner.read_physical(gpa, to) {
        true => Ok(()),
        false => Err(RamError { gpa }),
    };
    let found = registers.paging.translate(address, entry).ok()?;
    Some((found.gpa, found.length))
}

/// Reads by linear addresses; false if one is not mapped or nothing answers there.
fn read_linear(
    owner: &mut dyn Owner,
    registers: &Registers,
    mut address: u64,
    mut to: &mut [u8],
) -> bool {
    while !to.is_empty() {
        let Some((gpa, length)) = translate(owner, registers, address) else {
            return false;
        };
        let length = usize::try_from(length).map_or(to.len(), |length| length.min(to.len()));
        let (part, rest) = to.split_at_mut(length);
        if !owner.read_physical(gpa, part) {
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
