//! Dumps of guest memory with the state of its processors.

use super::Context;
use crate::error::Fail;
use crate::owner::{DumpKind, DumpTarget};
use crate::schema::{DumpGuestMemoryFormat, arguments, results};
use crate::{JobId, Owner};

/// What is built in.
const FORMATS: &[DumpGuestMemoryFormat] =
    &[DumpGuestMemoryFormat::Elf, DumpGuestMemoryFormat::KdumpZlib];

/// What whoever changes what a dump shows is told while it is written.
pub(crate) const BUSY: &str = "There is a dump in process, please wait.";

pub(crate) fn dump_guest_memory<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::DumpGuestMemory<'m>,
) -> Result<JobId, Fail<'m>> {
    let arguments::DumpGuestMemory {
        paging,
        protocol,
        detach,
        begin,
        length,
        format,
    } = arguments;
    if context.owner.dumping() {
        return Err(Fail::generic(&[BUSY.as_bytes()]));
    }
    let format = format.unwrap_or(DumpGuestMemoryFormat::Elf);
    let elf = format == DumpGuestMemoryFormat::Elf;
    if !elf && (paging || begin.is_some() || length.is_some()) {
        return Err(Fail::generic(&[
            b"kdump-compressed format doesn't support paging or filter",
        ]));
    }
    let missing = |name: &'static [u8]| Fail::generic(&[b"Parameter '", name, b"' is missing"]);
    let part = match (begin, length) {
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
    let target = match (
        protocol.strip_prefix(b"file:"),
        protocol.strip_prefix(b"fd:"),
    ) {
        (Some(path), _) => DumpTarget::File(path),
        (_, Some(name)) => DumpTarget::Descriptor(name),
        (None, None) => return Err(Fail::generic(&[b"Invalid parameter 'protocol'"])),
    };
    let bad = |name: &'static [u8]| Fail::generic(&[b"Invalid parameter '", name, b"'"]);
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
    let detach = detach.unwrap_or(false);
    Ok(context.owner.dump(target, kind, detach)?)
}

pub(crate) fn query_dump<O: Owner>(
    context: &mut Context<'_, O>,
) -> Result<results::DumpQueryResult, Fail<'static>> {
    Ok(context.owner.dump_status())
}

pub(crate) fn query_dump_guest_memory_capability<O: Owner>(
    _context: &mut Context<'_, O>,
) -> Result<results::DumpGuestMemoryCapability<'static>, Fail<'static>> {
    Ok(results::DumpGuestMemoryCapability { formats: FORMATS })
}
