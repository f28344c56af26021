//! Dumps of the guest.

use core::fmt::Write as _;

use super::table::{Command, Kind, command, flag, optional, required};
use super::{Call, Done};
use crate::error::Fail;
use crate::handlers::{self, Outcome};
use crate::schema::{DumpGuestMemoryFormat, DumpStatus, arguments};

pub(super) static COMMANDS: &[Command] = &[command(
    "dump-guest-memory",
    "[-p] [-d] [-z|-l|-s|-w] filename [begin length]",
    &[
        flag(b'p'),
        flag(b'd'),
        flag(b'w'),
        flag(b'z'),
        flag(b'l'),
        flag(b's'),
        required(Kind::File),
        optional(Kind::Int64),
        optional(Kind::Int64),
    ],
    "write the guest's memory and registers to a file\n\
     -p: with the linear addresses that processors see\n\
     -d: return at once, and go on in the background\n\
     -z: in kdump's format, compressed by zlib\n\
     -l: the same by LZO\n\
     -s: the same by Snappy\n\
     -w: as Windows does it\n\
     begin: the first physical address\n\
     length: how many bytes",
    dump_guest_memory,
)];

pub(super) static INFO: &[Command] = &[command(
    "dump",
    "",
    &[],
    "show how far the last dump is",
    info_dump,
)];

fn dump_guest_memory<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let given = &call.arguments;
    let mut format = None;
    for (place, chosen) in [
        (2, DumpGuestMemoryFormat::WinDmp),
        (3, DumpGuestMemoryFormat::KdumpZlib),
        (4, DumpGuestMemoryFormat::KdumpLzo),
        (5, DumpGuestMemoryFormat::KdumpSnappy),
    ] {
        if given.flag(place) && format.replace(chosen).is_some() {
            return Err(Fail::generic(&[b"only one of '-z|-l|-s|-w' can be set"]).into());
        }
    }
    let arguments = arguments::DumpGuestMemory {
        paging: given.flag(0),
        protocol: b"",
        detach: Some(given.flag(1)),
        begin: given.optional_int(7),
        length: given.optional_int(8),
        format,
    };
    let filename = given.text(6);
    let job = handlers::dump_to_file(&mut call.context, arguments, filename)?;
    Ok(Outcome::Pending(job))
}

fn info_dump<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let result = call.context.owner.dump_status();
    writeln!(call.text, "Status: {}", result.status.name())?;
    if result.status == DumpStatus::Active {
        // Hundredths of a percent.
        let total = result.total.max(1) as u128;
        let finished = result.completed as u128 * 10_000 / total;
        let (whole, part) = (finished / 100, finished % 100);
        writeln!(call.text, "Finished: {whole}.{part:02} %")?;
    }
    Ok(Outcome::Done)
}
