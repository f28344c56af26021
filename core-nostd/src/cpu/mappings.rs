//! All linear addresses that stand for something: a walk through every entry of the page tables.
//!
//! Source: as for [`super::paging`]. The tables are the guest's: they may name themselves, so that a few pages of them map
//! all addresses that there are. Whoever asks bounds the work by what it makes of tables and mappings.

use super::mmu::{Entry, Format, PagingMode, PagingRegisters};
use crate::memory::RamError;

/// Levels of tables at most.
const LEVELS_MAX: usize = 5;
/// Bytes of the largest table.
const TABLE: usize = 4096;
/// Bytes of a table that are copied at a time: an eighth of a table.
const COPIED: usize = TABLE / 8;

/// A page, or several that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first linear address.
    pub linear: u64,
    /// The guest physical address that it stands for.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
}

/// Where a walk is, and what it meets.
pub trait Visitor {
    /// Copies guest physical memory, a table or a part of it.
    ///
    /// # Errors
    /// If it is not all there: what the rest would say is passed over.
    fn read(&mut self, gpa: u64, to: &mut [u8]) -> Result<(), RamError>;

    /// Takes a mapping; ascending by linear addresses, each pages of one entry.
    fn mapping(&mut self, mapping: Mapping);

    /// Whether to go on, asked before each table.
    fn goes_on(&mut self) -> bool;
}

impl PagingRegisters {
    /// Shows every mapping, in ascending order of linear addresses. Without paging there is none.
    /// Returns whether it came to the end.
    pub fn visit(&self, visitor: &mut dyn Visitor) -> bool {
        let format = Format::new(self);
        if format.mode == PagingMode::Off {
            return true;
        }
        let levels = format.mode.levels();
        walk(format, levels, format.root(self.cr3), 0, visitor)
    }
}

const _: () = assert!(PagingMode::Level5.levels() as usize == LEVELS_MAX);

/// Visits a table of `level`, which translates addresses from `linear` on. Calls itself for the tables of the level
/// below, and so at most [`LEVELS_MAX`] deep.
fn walk(format: Format, level: u8, table: u64, linear: u64, visitor: &mut dyn Visitor) -> bool {
    if !visitor.goes_on() {
        return false;
    }
    let size = format.entry_bytes();
    let entries = format.entries(level);
    let step = format.step(level);
    let mut copied = [0; COPIED];
    let a_time = (COPIED / size).min(entries);
    for first in (0..entries).step_by(a_time) {
        let Some(part) = copied.get_mut(..a_time * size) else {
            return true;
        };
        // Of a part that is not all there, nothing counts.
        if visitor.read(table + (first * size) as u64, part).is_err() {
            continue;
        }
        for (index, bytes) in part.chunks_exact(size).enumerate() {
            let mut entry = [0; 8];
            if let Some(entry) = entry.get_mut(..size) {
                entry.copy_from_slice(bytes);
            }
            let linear = format.canonical(linear.wrapping_add((first + index) as u64 * step));
            match format.entry(u64::from_le_bytes(entry), level) {
                Entry::Absent | Entry::NoSuchSize => {}
                Entry::Page { gpa, bits } => visitor.mapping(Mapping {
                    linear,
                    physical: gpa,
                    length: 1 << bits,
                }),
                Entry::Table { gpa } => {
                    if !walk(format, level - 1, gpa, linear, visitor) {
                        return false;
                    }
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{ArrayRam, GuestRam};
    use std::vec::Vec;

    const PG: u64 = 1 << 31;
    const PSE: u64 = 1 << 4;
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const LMA: u64 = 1 << 10;
    const PS: u64 = 1 << 7;
    const MIB: u64 = 1 << 20;

    struct Guest {
        registers: PagingRegisters,
        ram: ArrayRam<0x1_0000>,
        seen: Vec<Mapping>,
        tables: usize,
    }

    impl Visitor for Guest {
        fn read(&mut self, gpa: u64, to: &mut [u8]) -> Result<(), RamError> {
            self.ram.read(gpa, to)
        }

        fn mapping(&mut self, mapping: Mapping) {
            self.seen.push(mapping);
        }

        fn goes_on(&mut self) -> bool {
            self.tables -= 1;
            self.tables > 0
        }
    }

    impl Guest {
        fn new(cr4: u64, efer: u64) -> Self {
            Self {
                registers: PagingRegisters {
                    cr0: PG,
                    cr3: 0x1000,
                    cr4,
                    efer,
                },
                ram: ArrayRam::new(),
                seen: Vec::new(),
                tables: 1000,
            }
        }

        fn put(&self, table: u64, index: u64, entry: u64) {
            let size = Format::new(&self.registers).entry_bytes();
            let bytes = entry.to_le_bytes();
            let at = table + index * size as u64;
            self.ram.write(at, &bytes[..size]).unwrap();
        }

        /// All mappings, each found by the translation of one address, too.
        fn all(mut self) -> Vec<(u64, u64, u64)> {
            let registers = self.registers;
            assert!(registers.visit(&mut self));
            for seen in &self.seen {
                for offset in [0, seen.length - 1] {
                    let read = |gpa, to: &mut [u8]| self.ram.read(gpa, to);
                    let found = registers.translate(seen.linear + offset, read).unwrap();
                    assert_eq!(found.gpa, seen.physical + offset);
                }
            }
            let seen = self.seen.iter();
            seen.map(|seen| (seen.linear, seen.physical, seen.length))
                .collect()
        }
    }

    #[test]
    fn two_levels() {
        let guest = Guest::new(PSE, 0);
        guest.put(0x1000, 0x301, 0x2067);
        guest.put(0x2000, 0x2a3, 0xfedc_b067);
        guest.put(0x2000, 0x3ff, 0x1067);
        guest.put(0x1000, 0x3ff, 0x0840_0000 | 0xa5 << 13 | PS | 1);
        guest.put(0x1000, 2, 0x2066);
        // A table where there is no memory.
        guest.put(0x1000, 3, 0x10_0067);
        assert_eq!(
            guest.all(),
            [
                (0xc06a_3000, 0xfedc_b000, 0x1000),
                (0xc07f_f000, 0x1000, 0x1000),
                (0xffc0_0000, 0xa5_0840_0000, 4 * MIB),
            ]
        );
    }

    #[test]
    fn three_levels() {
        let mut guest = Guest::new(PAE, 0);
        guest.registers.cr3 = 0x1fe0;
        guest.put(0x1fe0, 2, 0x3001);
        // Behind the four pointers.
        guest.put(0x1fe0, 4, 0x3001);
        guest.put(0x3000, 0x1ff, 0x4001);
        guest.put(0x4000, 7, 1 << 63 | 0xa987_6001);
        guest.put(0x3000, 3, 0x3460_0000 | PS | 1);
        assert_eq!(
            guest.all(),
            [
                (2 << 30 | 3 << 21, 0x3460_0000, 2 * MIB),
                (2 << 30 | 0x1ff << 21 | 7 << 12, 0xa987_6000, 0x1000),
            ]
        );
    }

    #[test]
    fn long_mode() {
        let guest = Guest::new(PAE, LMA);
        guest.put(0x1000, 0x100, 0x2001);
        guest.put(0x1000, 0xff, 0x2001);
        guest.put(0x1000, 3, 0x2000 | PS | 1);
        guest.put(0x2000, 0x1ff, 0x4000_0000 | PS | 1);
        assert_eq!(
            guest.all(),
            [
                (0x7fff_c000_0000, 0x4000_0000, 1 << 30),
                (0xffff_807f_c000_0000, 0x4000_0000, 1 << 30),
            ]
        );
        let guest = Guest::new(PAE | LA57, LMA);
        for (table, index, next) in [(1, 0x100, 2), (2, 0, 3), (3, 0, 4), (4, 0, 5), (5, 1, 6)] {
            guest.put(table << 12, index, next << 12 | 1);
        }
        assert_eq!(guest.all(), [(0xff00_0000_0000_1000, 0x6000, 0x1000)]);
    }

    #[test]
    fn tables_that_name_themselves_end_when_they_are_told_to() {
        let mut guest = Guest::new(PAE, LMA);
        for index in 0..512 {
            guest.put(0x1000, index, 0x1001);
        }
        let registers = guest.registers;
        assert!(!registers.visit(&mut guest));
        assert_eq!(guest.tables, 0);
        assert!(guest.seen.len() > 100_000);
        assert_eq!(guest.seen[0].linear, 0);
    }

    #[test]
    fn without_paging_there_is_nothing() {
        let mut guest = Guest::new(PAE, LMA);
        guest.registers.cr0 = 0;
        assert_eq!(guest.all(), []);
    }
}
