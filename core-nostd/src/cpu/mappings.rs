//! Everything that page tables map, in the order of linear addresses: what a monitor lists.
//!
//! Source: Intel SDM volume 3, chapter "Paging"; the format of the tables is in [`super::mmu`].
//!
//! Tables are a guest's and may be anything: they can name themselves, so that a few of them map all there is, or lead
//! to no page at all a billion times. So the number of tables is limited; the same table counts each time it is come by.

use core::ops::ControlFlow;

use super::mmu::{Entry, Format, PagingMode, PagingRegisters};

/// Tables that are looked at: those of 16 GiB in pages of 4 KiB.
pub const TABLES_MAX: u32 = 1 << 13;

/// Levels of tables at most.
const LEVELS_MAX: usize = 5;

/// Bytes of a table that are read at a time.
const CHUNK: usize = 512;

/// Reads guest physical memory; false if some of it isn't there.
pub type ReadPhysical<'r> = dyn FnMut(u64, &mut [u8]) -> bool + 'r;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first linear address, canonical.
    pub linear: u64,
    /// Its first guest physical address.
    pub gpa: u64,
    /// Bits of an address within it: 12, 21, 22 or 30.
    pub bits: u32,
    /// The entry that maps it.
    pub entry: u64,
    /// What the entries on all levels have in common: P, R/W and U/S count for the page only where all have them.
    pub common: u64,
}

/// How a listing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It has all there is.
    All,
    /// Whoever looked had seen enough.
    Stopped,
    /// There are more than [`TABLES_MAX`] tables.
    TooMany,
}

/// A table, as far as it has been looked at.
#[derive(Clone, Copy)]
struct Place {
    /// Where it is.
    table: u64,
    /// The linear address of its first entry, without sign.
    linear: u64,
    /// The next entry.
    next: usize,
    /// What the entries above have in common.
    common: u64,
}

impl PagingRegisters {
    /// Visits all pages that the tables map. Where memory is missing, so are its pages. Without paging there are none.
    pub fn mappings(
        &self,
        read: &mut ReadPhysical<'_>,
        visit: &mut dyn FnMut(&Mapping) -> ControlFlow<()>,
    ) -> Listed {
        let format = Format::new(self);
        if format.mode == PagingMode::Off {
            return Listed::All;
        }
        let start = Place {
            table: format.root(self.cr3),
            linear: 0,
            next: 0,
            common: u64::MAX,
        };
        let mut places = [start; LEVELS_MAX + 1];
        let mut chunks = [[0; CHUNK]; LEVELS_MAX + 1];
        let (top, size) = (format.mode.levels(), format.entry_bytes());
        let mut level = top;
        let mut tables = 1;
        loop {
            let entries = format.entries(level);
            let (Some(place), Some(chunk)) = (
                places.get_mut(usize::from(level)),
                chunks.get_mut(usize::from(level)),
            ) else {
                return Listed::All;
            };
            if place.next == entries {
                if level == top {
                    return Listed::All;
                }
                level += 1;
                continue;
            }
            let (index, at) = (place.next, place.next * size % CHUNK);
            if at == 0 {
                let length = CHUNK.min(entries * size);
                let from = place.table + (index * size) as u64;
                let bytes = chunk.get_mut(..length).unwrap_or_default();
                if !read(from, bytes) {
                    bytes.fill(0);
                }
            }
            place.next += 1;
            let mut bytes = [0; 8];
            if let (Some(to), Some(from)) = (bytes.get_mut(..size), chunk.get(at..at + size)) {
                to.copy_from_slice(from);
            }
            let entry = u64::from_le_bytes(bytes);
            let linear = place.linear | (index as u64) << format.below(level);
            let common = place.common & entry;
            match format.entry(entry, level) {
                Entry::Absent | Entry::NoSuchSize => {}
                Entry::Page { gpa, bits } => {
                    let mapping = Mapping {
                        linear: format.mode.canonical(linear),
                        gpa,
                        bits,
                        entry,
                        common,
                    };
                    if visit(&mapping).is_break() {
                        return Listed::Stopped;
                    }
                }
                Entry::Table { gpa } => {
                    if tables == TABLES_MAX {
                        return Listed::TooMany;
                    }
                    tables += 1;
                    // PAE's pointers have no such bits, and forbid nothing.
                    let common = match (format.mode, level) {
                        (PagingMode::Pae, 3) => u64::MAX,
                        _ => common,
                    };
                    level -= 1;
                    if let Some(place) = places.get_mut(usize::from(level)) {
                        *place = Place {
                            table: gpa,
                            linear,
                            next: 0,
                            common,
                        };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{ArrayRam, GuestRam};

    const PG: u64 = 1 << 31;
    const PSE: u64 = 1 << 4;
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const LMA: u64 = 1 << 10;
    const PS: u64 = 1 << 7;

    struct Guest {
        registers: PagingRegisters,
        ram: ArrayRam<0x1_0000>,
    }

    impl Guest {
        fn new(cr4: u64, efer: u64) -> Self {
            let registers = PagingRegisters {
                cr0: PG,
                cr3: 0x1000,
                cr4,
                efer,
            };
            Self {
                registers,
                ram: ArrayRam::new(),
            }
        }

        fn put(&self, at: u64, entry: u64) {
            let size = Format::new(&self.registers).entry_bytes();
            self.ram.write(at, &entry.to_le_bytes()[..size]).unwrap();
        }

        fn list(&self) -> (std::vec::Vec<(u64, u64, u32, u64)>, Listed) {
            let mut pages = std::vec::Vec::new();
            let listed = self.registers.mappings(
                &mut |gpa, to| self.ram.read(gpa, to).is_ok(),
                &mut |page| {
                    pages.push((page.linear, page.gpa, page.bits, page.common & 7));
                    ControlFlow::Continue(())
                },
            );
            (pages, listed)
        }
    }

    #[test]
    fn two_levels() {
        let guest = Guest::new(PSE, 0);
        guest.put(0x1000, 0x2007);
        guest.put(0x1ffc, 0x0840_0000 | PS | 5);
        guest.put(0x2004, 0x5003);
        guest.put(0x2ffc, 0x6005);
        // No memory there.
        guest.put(0x1004, 0xffff_f007);
        let pages = [
            (0x1000, 0x5000, 12, 3),
            (0x3f_f000, 0x6000, 12, 5),
            (0xffc0_0000, 0x0840_0000, 22, 5),
        ];
        assert_eq!(guest.list(), (pages.to_vec(), Listed::All));
    }

    #[test]
    fn three_levels() {
        let guest = Guest::new(PAE, 0);
        // Bits 1 and 2 of a pointer are reserved: what is below is writable all the same.
        guest.put(0x1018, 0x3001);
        guest.put(0x3000, 0x4007);
        guest.put(0x3ff8, 0x1_0020_0000 | PS | 3);
        guest.put(0x4008, 0x9007);
        // Behind the four pointers there is nothing more.
        guest.put(0x1020, 0x3001);
        let pages = [
            (0xc000_1000, 0x9000, 12, 7),
            (0xffe0_0000, 0x1_0020_0000, 21, 3),
        ];
        assert_eq!(guest.list(), (pages.to_vec(), Listed::All));
    }

    #[test]
    fn four_and_five_levels() {
        let guest = Guest::new(PAE, LMA);
        guest.put(0x1000, 0x2007);
        guest.put(0x1ff8, 0x2003);
        guest.put(0x2000, 0x4000_0000 | PS | 7);
        guest.put(0x2008, 0x3005);
        guest.put(0x3000, 0x0020_0000 | PS | 7);
        let pages = [
            (0, 0x4000_0000, 30, 7),
            (0x4000_0000, 0x20_0000, 21, 5),
            (0xffff_ff80_0000_0000, 0x4000_0000, 30, 3),
            (0xffff_ff80_4000_0000, 0x20_0000, 21, 1),
        ];
        assert_eq!(guest.list(), (pages.to_vec(), Listed::All));
        let guest = Guest::new(PAE | LA57, LMA);
        guest.put(0x1800, 0x2003);
        guest.put(0x2000, 0x3003);
        guest.put(0x3000, PS | 3);
        let pages = [(0xff00_0000_0000_0000, 0, 30, 3)];
        assert_eq!(guest.list(), (pages.to_vec(), Listed::All));
    }

    #[test]
    fn tables_that_name_themselves_end() {
        let guest = Guest::new(PAE, LMA);
        for index in 0..512 {
            guest.put(0x1000 + 8 * index, 0x1007);
        }
        let mut pages = 0_u64;
        let read = &mut |gpa, to: &mut [u8]| guest.ram.read(gpa, to).is_ok();
        let listed = guest.registers.mappings(read, &mut |_| {
            pages += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(listed, Listed::TooMany);
        assert!(pages / 512 <= u64::from(TABLES_MAX));
        let stopped = guest
            .registers
            .mappings(read, &mut |_| ControlFlow::Break(()));
        assert_eq!(stopped, Listed::Stopped);
    }

    #[test]
    fn without_paging_there_are_none() {
        let guest = Guest {
            registers: PagingRegisters::default(),
            ram: ArrayRam::new(),
        };
        assert_eq!(guest.list(), (std::vec::Vec::new(), Listed::All));
    }
}
