//! What page tables map, as `info mem` and `info tlb` show it.
//!
//! A guest's tables may map more than anyone can read: a listing has [`LINES_MAX`] lines, and tables are limited, too. Where
//! there are more, a last line says so.

use core::fmt::{self, Write as _};
use core::ops::ControlFlow;

use thimble_core::cpu::{Listed, Mapping, PagingMode, PagingRegisters, TABLES_MAX};

use super::Text;
use crate::Owner;

/// Lines of a listing: about 3 MB.
pub(super) const LINES_MAX: u32 = 1 << 16;

/// R/W and U/S.
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;

/// PS.
const LARGE: u32 = 7;

/// Bits of an entry from the highest on that have a letter.
const LETTERS: [(u32, char); 9] = [
    (63, 'X'),
    (8, 'G'),
    (7, 'P'),
    (6, 'D'),
    (5, 'A'),
    (4, 'C'),
    (3, 'T'),
    (2, 'U'),
    (1, 'W'),
];

/// Writes every page with the bits of its entry.
pub(super) fn pages(
    paging: &PagingRegisters,
    owner: &mut dyn Owner,
    text: &mut Text<'_>,
) -> fmt::Result {
    let listed = list(paging, owner, text, |mapping, text| {
        write!(text, "{:016x}: {:016x} ", mapping.linear, mapping.gpa)?;
        for (bit, letter) in LETTERS {
            // On the lowest level, what would be a large page is part of the memory type.
            let is_set = mapping.entry >> bit & 1 != 0 && (bit != LARGE || mapping.bits > 12);
            text.write_char(if is_set { letter } else { '-' })?;
        }
        writeln!(text)?;
        Ok(1)
    })?;
    end(listed, text)
}

/// A range of addresses that may be accessed in the same way.
#[derive(Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
    rights: u64,
}

impl Range {
    fn show(self, text: &mut Text<'_>) -> fmt::Result {
        let Self {
            first,
            last,
            rights,
        } = self;
        let (end, length) = (last.wrapping_add(1), (last - first).wrapping_add(1));
        let user = if rights & USER != 0 { 'u' } else { '-' };
        let write = if rights & WRITABLE != 0 { 'w' } else { '-' };
        writeln!(text, "{first:016x}-{end:016x} {length:016x} {user}r{write}")
    }
}

/// Writes ranges of pages that may be accessed in the same way.
pub(super) fn ranges(
    paging: &PagingRegisters,
    owner: &mut dyn Owner,
    text: &mut Text<'_>,
) -> fmt::Result {
    let mut range: Option<Range> = None;
    let listed = list(paging, owner, text, |mapping, text| {
        let rights = mapping.common & (USER | WRITABLE);
        let last = mapping.linear + ((1 << mapping.bits) - 1);
        if let Some(range) = &mut range
            && range.rights == rights
            && range.last.checked_add(1) == Some(mapping.linear)
        {
            range.last = last;
            return Ok(0);
        }
        let before = range.replace(Range {
            first: mapping.linear,
            last,
            rights,
        });
        before.map_or(Ok(0), |range| range.show(text).map(|()| 1))
    })?;
    range.map_or(Ok(()), |range| range.show(text))?;
    end(listed, text)
}

/// Shows all pages one after the other; `show` tells how many lines it has written.
fn list(
    paging: &PagingRegisters,
    owner: &mut dyn Owner,
    text: &mut Text<'_>,
    mut show: impl FnMut(&Mapping, &mut Text<'_>) -> Result<u32, fmt::Error>,
) -> Result<Listed, fmt::Error> {
    if paging.mode() == PagingMode::Off {
        writeln!(text, "PG disabled")?;
    }
    let mut written = Ok(());
    let mut lines = 0;
    let listed = paging.mappings(
        &mut |gpa, to| owner.read_physical(gpa, to),
        &mut |mapping| {
            if lines >= LINES_MAX {
                return ControlFlow::Break(());
            }
            match show(mapping, text) {
                Ok(more) => {
                    lines += more;
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    written = Err(error);
                    ControlFlow::Break(())
                }
            }
        },
    );
    written.map(|()| listed)
}

/// Tells of what is not shown.
fn end(listed: Listed, text: &mut Text<'_>) -> fmt::Result {
    match listed {
        Listed::All => Ok(()),
        Listed::Stopped => writeln!(text, "there is more than {LINES_MAX} lines have room for"),
        Listed::TooMany => writeln!(text, "there are more than {TABLES_MAX} page tables"),
    }
}
