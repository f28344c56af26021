//! Memory as the debugger addresses it: linear addresses of a processor, or physical ones.

use thimble_core::cpu::PagingRegisters;
use thimble_core::memory::RamError;

use super::Choices;
use crate::Owner;

/// Calls `part` for each stretch of memory that is one physically: its address, and how many bytes come before it. False if
/// an address stands for nothing, or `part` says so.
fn walk(
    owner: &mut dyn Owner,
    choices: &Choices,
    address: u64,
    length: usize,
    part: &mut dyn FnMut(&mut dyn Owner, u64, usize, usize) -> bool,
) -> bool {
    if choices.physical {
        return part(owner, address, 0, length);
    }
    let Ok(registers) = owner.registers(choices.general) else {
        return false;
    };
    let paging = &registers.paging;
    let (mut address, mut done) = (address, 0);
    while done < length {
        let Some((gpa, bytes)) = translate(owner, paging, address) else {
            return false;
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let bytes = bytes.min(length - done);
        if !part(owner, gpa, done, bytes) {
            return false;
        }
        done += bytes;
        address = match address.checked_add(bytes as u64) {
            Some(address) => address,
            // The last byte of all may be used, but nothing behind it.
            None => return done == length,
        };
    }
    true
}

/// What a linear address stands for, and for how many bytes, at least one.
pub fn translate(
    owner: &mut dyn Owner,
    paging: &PagingRegisters,
    address: u64,
) -> Option<(u64, u64)> {
    let entry = |gpa, to: &mut [u8]| match owner.read_physical(gpa, to) {
        true => Ok(()),
        false => Err(RamError { gpa }),
    };
    let found = paging.translate(address, entry).ok()?;
    Some((found.gpa, found.length.max(1)))
}

/// Reads memory; false if something is not there.
pub(super) fn read(owner: &mut dyn Owner, choices: &Choices, address: u64, to: &mut [u8]) -> bool {
    let length = to.len();
    walk(
        owner,
        choices,
        address,
        length,
        &mut |owner, gpa, at, bytes| {
            to.get_mut(at..at + bytes)
                .is_some_and(|to| owner.read_physical(gpa, to))
        },
    )
}

/// Writes memory that is RAM; false if something is not.
pub(super) fn write(owner: &mut dyn Owner, choices: &Choices, address: u64, from: &[u8]) -> bool {
    let length = from.len();
    walk(
        owner,
        choices,
        address,
        length,
        &mut |owner, gpa, at, bytes| {
            from.get(at..at + bytes)
                .is_some_and(|from| owner.write_ram(gpa, from))
        },
    )
}
