//! Dumps of guest memory with the state of its processors.

use super::Context;
use crate::error::Fail;
use crate::owner::{DumpKind, DumpTarget};
use crate::schema::{DumpGuestMemoryFormat, arguments, results};
use crate::{JobId, Owner};

/// What is built in.
const FORMATS: &[DumpGuestMemoryFormat] =
    &[DumpGuestMemoryFormat::Elf, DumpGuestMemoryFormat::KdumpZlib];

/// What whoever wants another dump is told while one is written.
const BUSY: &[u8] = b"There is a dump in process, please wait.";

pub(crate) fn dump_guest_memory<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::DumpGuestMemory<'m>,
) -> Result<JobId, Fail<'m>> {
    let protocol = arguments.protocol;
    let (file, descriptor) = (
        protocol.strip_prefix(b"file:"),
        protocol.strip_prefix(b"fd:"),
    );
    let target = file
        .map(DumpTarget::File)
        .or(descriptor.map(DumpTarget::Descriptor));
    dump(context, &arguments, target)
}

/// The same to a file of this name, whatever the protocol says.
pub(crate) fn dump_to_file<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::DumpGuestMemory<'m>,
    filename: &'m [u8],
) -> Result<JobId, Fail<'m>> {
    dump(context, &arguments, Some(DumpTarget::File(filename)))
}

fn dump<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: &arguments::DumpGuestMemory<'m>,
    target: Option<DumpTarget<'m>>,
) -> Result<JobId, Fail<'m>> {
    if context.owner.dumping() {
        return Err(Fail::generic(&[BUSY]));
    }
    let format = arguments.format.unwrap_or(DumpGuestMemoryFormat::Elf);
    let elf = format == DumpGuestMemoryFormat::Elf;
    let (paging, part) = (arguments.paging, (arguments.begin, arguments.length));
    if !elf && (paging || part != (None, None)) {
        return Err(Fail::generic(&[
            b"kdump-compressed format doesn't support paging or filter",
        ]));
    }
    let missing = |name: &'static [u8]| Fail::generic(&[b"Parameter '", name, b"' is missing"]);
    let part = match part {
        // Numbers from 2^63 up are written as negative ones.
        (Some(begin), Some(length)) => Some((begin as u64, length as u64)),
        (Some(_), None) => return Err(missing(b"length")),
        (None, Some(_)) => return Err(missing(b"begin")),
        (None, None) => None,
    };
    if !FORMATS.contains(&format) {
        let name = format.name().as_bytes();
        return Err(Fail::generic(&[name, b" is not available now"]));
    }
    let bad = |name: &'static [u8]| Fail::generic(&[b"Invalid parameter '", name, b"'"]);
    let target = target.ok_or_else(|| bad(b"protocol"))?;
    match part {
        Some((_, 0)) => return Err(bad(b"length")),
        Some((begin, length)) if begin.checked_add(length - 1).is_none() => {
            return Err(bad(b"begin"));
        }
        _ => {}
    }
    let kind = match elf {
        true => DumpKind::Elf { paging, part },
        false => DumpKind::Kdump,
    };
    let detach = arguments.detach.unwrap_or(false);
    Ok(context.owner.dump(target, kind, detach)?)
}

pub(crate) fn query_dump<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<results::DumpQueryResult, Fail<'static>> {
    Ok(context.owner.dump_status())
}

pub(crate) fn query_dump_guest_memory_capability<O: Owner + ?Sized>(
    _context: &mut Context<'_, O>,
) -> Result<results::DumpGuestMemoryCapability<'static>, Fail<'static>> {
    Ok(results::DumpGuestMemoryCapability { formats: FORMATS })
}
