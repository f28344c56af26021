//! What a linear address stands for, as a debugger asks: a walk through the page tables.
//!
//! Source: Intel SDM volume 3, chapter "Paging": 32-bit paging with 4 MiB pages and PSE-36, PAE
//! paging, 4-level and 5-level paging with 2 MiB and 1 GiB pages, and no paging at all. The format
//! of the tables is in [`super::mmu`], shared with the walk of the software CPU.
//!
//! Deliberately not here: permissions, protection keys, accessed and dirty flags, and the caches
//! that a processor keeps of its tables; PAE's four page-directory-pointer entries are read
//! from memory, where a processor has them in registers since it loaded CR3. Of the reserved bits
//! only the page size of the upper levels is looked at: the others depend on what CPUID shows, and
//! a debugger rather sees a page that the processor would refuse than none. SMAP, encryption bits
//! and nested paging are not modelled.

use core::fmt;

use super::mmu::{Entry, Format, PagingMode, PagingRegisters};
use crate::memory::RamError;

/// Where linear addresses end without paging.
const LINEAR_END: u64 = 1 << 32;

impl PagingRegisters {
    /// What a linear address stands for. `read` copies guest physical memory, in which tables may
    /// lie anywhere: an entry of 4 or 8 bytes at a time, at most five.
    ///
    /// # Errors
    /// Why it stands for nothing.
    pub fn translate(
        &self,
        linear: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), RamError>,
    ) -> Result<Translation, TranslateError> {
        let format = Format::new(self);
        if !format.mode.has_address(linear) {
            return Err(TranslateError::NotAnAddress);
        }
        if format.mode == PagingMode::Off {
            return Ok(Translation {
                gpa: linear,
                length: LINEAR_END - linear,
            });
        }
        let size = format.entry_bytes();
        let mut table = format.root(self.cr3);
        let mut level = format.mode.levels();
        loop {
            let at = format.entry_address(table, level, linear);
            let mut bytes = [0; 8];
            read(at, &mut bytes[..size])
                .map_err(|RamError { gpa }| TranslateError::NoTable { level, gpa })?;
            match format.entry(u64::from_le_bytes(bytes), level) {
                Entry::Absent => return Err(TranslateError::NotPresent { level }),
                Entry::NoSuchSize => return Err(TranslateError::Reserved { level }),
                Entry::Page { gpa, bits } => {
                    let offset = linear & ((1 << bits) - 1);
                    return Ok(Translation {
                        gpa: gpa | offset,
                        length: (1 << bits) - offset,
                    });
                }
                Entry::Table { gpa } => table = gpa,
            }
            level -= 1;
        }
    }
}

/// What a linear address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest physical address, below 2^52.
    pub gpa: u64,
    /// Bytes from there to the end of the page, at least 1.
    pub length: u64,
}

/// Why a linear address stands for nothing. Levels count from 1, the tables of 4 KiB pages, up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TranslateError {
    /// It has more bits than addresses have in this mode: in long mode it is not canonical.
    NotAnAddress,
    /// An entry maps nothing.
    NotPresent {
        /// The entry's level.
        level: u8,
    },
    /// An entry asks for a page of a size that does not exist.
    Reserved {
        /// The entry's level.
        level: u8,
    },
    /// There is no memory where a table should be.
    NoTable {
        /// The table's level.
        level: u8,
        /// Its first guest physical address without memory.
        gpa: u64,
    },
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnAddress => f.write_str("not an address in this mode"),
            Self::NotPresent { level } => write!(f, "not mapped (level {level})"),
            Self::Reserved { level } => write!(f, "a reserved bit is set (level {level})"),
            Self::NoTable { level, gpa } => {
                write!(f, "the table of level {level} at {gpa:#x} is not in memory")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuState;
    use crate::cpu::mmu::{PAGE_SIZE, PRESENT};
    use crate::memory::{ArrayRam, GuestRam};

    const PG: u64 = 1 << 31;
    const PSE: u64 = 1 << 4;
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const LMA: u64 = 1 << 10;
    const PS: u64 = PAGE_SIZE;
    const NX: u64 = 1 << 63;
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A processor and its tables.
    struct Guest {
        registers: PagingRegisters,
        ram: ArrayRam<0x1_0000>,
    }

    impl Guest {
        fn new(cr0: u64, cr4: u64, efer: u64) -> Self {
            let cr3 = 0x1000;
            Self {
                registers: PagingRegisters {
                    cr0,
                    cr3,
                    cr4,
                    efer,
                },
                ram: ArrayRam::new(),
            }
        }

        fn long() -> Self {
            Self::new(PG, PAE, LMA)
        }

        fn put(&self, table: u64, index: u64, entry: u64) {
            let bytes = entry.to_le_bytes();
            let size = Format::new(&self.registers).entry_bytes();
            let at = table + index * size as u64;
            self.ram.write(at, &bytes[..size]).unwrap();
        }

        fn ask(&self, linear: u64) -> Result<(u64, u64), TranslateError> {
            let read = |gpa, to: &mut [u8]| self.ram.read(gpa, to);
            let found = self.registers.translate(linear, read)?;
            Ok((found.gpa, found.length))
        }
    }

    #[test]
    fn the_mode_follows_the_registers() {
        let mode = |cr0, cr4, efer| Guest::new(cr0, cr4, efer).registers.mode();
        assert_eq!(mode(0, PAE | LA57, LMA), PagingMode::Off);
        assert_eq!(mode(!PG, u64::MAX, u64::MAX), PagingMode::Off);
        assert_eq!(mode(PG, PSE | LA57, 0), PagingMode::Bits32);
        assert_eq!(mode(PG, PAE | LA57, !LMA), PagingMode::Pae);
        assert_eq!(mode(PG, PAE, LMA), PagingMode::Level4);
        assert_eq!(mode(PG, PAE | LA57, LMA), PagingMode::Level5);
        let state = CpuState {
            cr0: PG,
            cr3: 0x5000,
            cr4: PAE,
            efer: LMA,
            ..CpuState::default()
        };
        let registers = PagingRegisters::from(&state);
        assert_eq!(
            (registers.mode(), registers.cr3),
            (PagingMode::Level4, 0x5000)
        );
    }

    #[test]
    fn without_paging_addresses_stay() {
        let guest = Guest::new(0x11, PAE, 0);
        assert_eq!(guest.ask(0), Ok((0, 4 * GIB)));
        assert_eq!(guest.ask(0xffff_fff0), Ok((0xffff_fff0, 16)));
        assert_eq!(guest.ask(4 * GIB), Err(TranslateError::NotAnAddress));
        assert_eq!(guest.ask(u64::MAX), Err(TranslateError::NotAnAddress));
    }

    #[test]
    fn two_levels_of_32_bits() {
        let mut guest = Guest::new(PG, 0, 0);
        // CR3's low bits are PWT, PCD and ignored ones, and its high half does not count.
        guest.registers.cr3 = 0xdead_beef_0000_1fff;
        // Directory entry 0x301, table entry 0x2a3: 0xc06a3000.
        guest.put(0x1000, 0x301, 0x2067);
        guest.put(0x2000, 0x2a3, 0xfedc_b067);
        assert_eq!(guest.ask(0xc06a_3abc), Ok((0xfedc_babc, 0x1000 - 0xabc)));
        assert_eq!(guest.ask(0xc06a_3fff), Ok((0xfedc_bfff, 1)));
        let absent = |level| Err(TranslateError::NotPresent { level });
        assert_eq!(guest.ask(0xc06a_4000), absent(1));
        assert_eq!(guest.ask(0xc0a0_0000), absent(2));
        assert_eq!(
            guest.ask(0x1_c06a_3abc),
            Err(TranslateError::NotAnAddress),
            "33 bits"
        );
        // The neighbour's entry is not read as the upper half of this one.
        guest.put(0x2000, 0x2a4, 0xffff_ffff);
        assert_eq!(guest.ask(0xc06a_3000), Ok((0xfedc_b000, 0x1000)));
        // Bit 7 of a table's entry is PAT, no size.
        guest.put(0x2000, 0x2a3, 0xfedc_b067 | PS);
        assert_eq!(guest.ask(0xc06a_3abc), Ok((0xfedc_babc, 0x1000 - 0xabc)));
    }

    #[test]
    fn pages_of_4_mib() {
        let mut guest = Guest::new(PG, PSE, 0);
        guest.put(0x1000, 0x3ff, 0x0840_0000 | PS | 0x63);
        assert_eq!(
            guest.ask(0xffc1_2345),
            Ok((0x0841_2345, 4 * MIB - 0x1_2345))
        );
        // PSE-36: bits 20 to 13 are 39 to 32; bit 21 is reserved and PAT (12) is no address.
        guest.put(0x1000, 0x3ff, 0x0840_0000 | 0xa5 << 13 | 1 << 12 | PS | 1);
        assert_eq!(guest.ask(0xffff_ffff), Ok((0xa5_087f_ffff, 1)));
        // Without CR4.PSE the bit is ignored, and the entry names a table.
        guest.registers.cr4 = 0;
        guest.put(0x1000, 0x3ff, 0x3000 | PS | 1);
        guest.put(0x3000, 0x3fe, 0x7001);
        assert_eq!(guest.ask(0xffff_e010), Ok((0x7010, 0xff0)));
        // A table of four bytes' entries where there is no memory.
        guest.put(0x1000, 0, 0xffff_f001);
        let no_table = TranslateError::NoTable {
            level: 1,
            gpa: 0xffff_f004,
        };
        assert_eq!(guest.ask(0x1000), Err(no_table));
    }

    #[test]
    fn three_levels_of_pae() {
        let mut guest = Guest::new(PG, PAE | PSE, 0);
        // The four pointers are 32-byte aligned, anywhere below 4 GiB.
        guest.registers.cr3 = 0xffff_ffff_0000_1fff & !0x1f | 0x18;
        let pointers = 0x1fe0;
        guest.put(pointers, 2, 0x3001);
        guest.put(0x3000, 0x1ff, 0x4001);
        guest.put(0x4000, 7, NX | 0x000f_edcb_a987_6001);
        let linear = 2 << 30 | 0x1ff << 21 | 7 << 12 | 0x123;
        assert_eq!(guest.ask(linear), Ok((0x000f_edcb_a987_6123, 0xedd)));
        let absent = |level| Err(TranslateError::NotPresent { level });
        assert_eq!(guest.ask(linear + 0x1000), absent(1));
        assert_eq!(guest.ask(2 << 30), absent(2));
        assert_eq!(guest.ask(1 << 30), absent(3));
        assert_eq!(
            guest.ask(4 << 30 | linear),
            Err(TranslateError::NotAnAddress)
        );
        // 2 MiB, whatever CR4.PSE says.
        guest.put(0x3000, 3, 0x12_3460_0000 | PS | 1 << 12 | 1);
        for cr4 in [PAE, PAE | PSE] {
            guest.registers.cr4 = cr4;
            let linear = 2 << 30 | 3 << 21 | 0x1f_f00d;
            assert_eq!(guest.ask(linear), Ok((0x12_347f_f00d, 0xff3)));
        }
        // There are no 1 GiB pages here: a pointer always names a directory.
        guest.put(pointers, 3, 0x3000 | PS | 1);
        assert_eq!(guest.ask(3 << 30 | 3 << 21), Ok((0x12_3460_0000, 2 * MIB)));
    }

    #[test]
    fn four_levels() {
        let mut guest = Guest::long();
        // The process-context identifier in CR3 is no address.
        guest.registers.cr3 |= 0xfff | 1 << 63;
        let linear = 0xffff_8000_0000_0000 | 5 << 39 | 6 << 30 | 7 << 21 | 8 << 12 | 0x9ab;
        guest.put(0x1000, 0x105, NX | 0x2067);
        guest.put(0x2000, 6, 0x3067);
        guest.put(0x3000, 7, 0x4067);
        guest.put(
            0x4000,
            8,
            NX | 0x7ff0_0000_5000_0000 | 0x0005_0000_0000_0067,
        );
        assert_eq!(guest.ask(linear), Ok((0x0005_0000_5000_09ab, 0x655)));
        let absent = |level| Err(TranslateError::NotPresent { level });
        assert_eq!(guest.ask(linear + 4 * KIB), absent(1));
        assert_eq!(guest.ask(linear + 2 * MIB), absent(2));
        assert_eq!(guest.ask(linear + GIB), absent(3));
        assert_eq!(guest.ask(linear + 512 * GIB), absent(4));
        // Bits above 52 and the low ones of an entry without P map nothing either.
        guest.put(0x4000, 8, !PRESENT);
        assert_eq!(guest.ask(linear), absent(1));
    }

    #[test]
    fn large_pages_of_long_mode() {
        let guest = Guest::long();
        guest.put(0x1000, 0, 0x2001);
        guest.put(0x2000, 0, 0x3001);
        guest.put(0x2000, 1, 0x000f_ffff_c000_0000 | 1 << 12 | PS | 1);
        guest.put(0x3000, 1, 0x000f_ffff_ffe0_0000 | 1 << 12 | PS | 1);
        assert_eq!(
            guest.ask(2 * MIB + 0x1234),
            Ok((0x000f_ffff_ffe0_1234, 2 * MIB - 0x1234))
        );
        assert_eq!(
            guest.ask(GIB + 0x1234_5678),
            Ok((0x000f_ffff_d234_5678, GIB - 0x1234_5678))
        );
        assert_eq!(guest.ask(2 * GIB - 1), Ok((0x000f_ffff_ffff_ffff, 1)));
        // Bits between the page's size and its entry's address are reserved, not added.
        guest.put(0x3000, 2, 0x40_001f_f000 | PS | 1);
        assert_eq!(guest.ask(4 * MIB), Ok((0x40_0000_0000, 2 * MIB)));
    }

    #[test]
    fn there_are_no_larger_pages() {
        let guest = Guest::long();
        guest.put(0x1000, 0, 0x2000 | PS | 1);
        assert_eq!(guest.ask(0), Err(TranslateError::Reserved { level: 4 }));
        let guest = Guest::new(PG, PAE | LA57, LMA);
        guest.put(0x1000, 0, 0x2000 | PS | 1);
        assert_eq!(guest.ask(0), Err(TranslateError::Reserved { level: 5 }));
        guest.put(0x1000, 0, 0x2001);
        guest.put(0x2000, 0, 0x3000 | PS | 1);
        assert_eq!(guest.ask(0), Err(TranslateError::Reserved { level: 4 }));
    }

    #[test]
    fn five_levels() {
        let guest = Guest::new(PG, PAE | LA57, LMA);
        guest.put(0x1000, 0x1ff, 0x2001);
        guest.put(0x2000, 0x1fe, 0x3001);
        guest.put(0x3000, 0x1fd, 0x4001);
        guest.put(0x4000, 0x1fc, 0x5001);
        guest.put(0x5000, 0x1fb, 0x6001);
        let linear = u64::MAX << 57 | 0x1ff << 48 | 0x1fe << 39 | 0x1fd << 30 | 0x1fc << 21;
        let linear = linear | 0x1fb << 12 | 0x10;
        assert_eq!(guest.ask(linear), Ok((0x6010, 0xff0)));
        guest.put(0x1000, 3, 0x2001);
        assert_eq!(
            guest.ask(linear & 0xffff_ffff_ffff | 3 << 48),
            Ok((0x6010, 0xff0))
        );
        assert_eq!(guest.ask(0), Err(TranslateError::NotPresent { level: 5 }));
    }

    #[test]
    fn canonical_addresses_only() {
        let four = Guest::long();
        let five = Guest::new(PG, PAE | LA57, LMA);
        let is = |guest: &Guest, linear| guest.ask(linear) != Err(TranslateError::NotAnAddress);
        for (linear, of_four, of_five) in [
            (0, true, true),
            (0x7fff_ffff_ffff, true, true),
            (0x8000_0000_0000, false, true),
            (0xffff_7fff_ffff_ffff, false, true),
            (0xffff_8000_0000_0000, true, true),
            (0x00ff_ffff_ffff_ffff, false, true),
            (0x0100_0000_0000_0000, false, false),
            (0xfeff_ffff_ffff_ffff, false, false),
            (0xff00_0000_0000_0000, false, true),
            (0x8000_0000_0000_0000, false, false),
            (u64::MAX, true, true),
        ] {
            assert_eq!(is(&four, linear), of_four, "{linear:#x}");
            assert_eq!(is(&five, linear), of_five, "{linear:#x}");
        }
    }

    #[test]
    fn tables_outside_of_memory() {
        let mut guest = Guest::long();
        let no_table = |level, gpa| Err(TranslateError::NoTable { level, gpa });
        guest.put(0x1000, 0, 0x1_0001);
        assert_eq!(guest.ask(5 << 30), no_table(3, 0x1_0028));
        guest.registers.cr3 = u64::MAX;
        assert_eq!(guest.ask(u64::MAX), no_table(4, 0x000f_ffff_ffff_fff8));
        assert_eq!(guest.ask(0), no_table(4, 0x000f_ffff_ffff_f000));
    }

    #[test]
    fn a_table_may_name_itself() {
        let guest = Guest::long();
        guest.put(0x1000, 0x1ff, 0x1001);
        assert_eq!(guest.ask(u64::MAX), Ok((0x1fff, 1)));
    }

    proptest::proptest! {
        #[test]
        fn any_tables_give_an_address_or_a_reason(
            cr0: u64,
            cr3: u64,
            cr4: u64,
            efer: u64,
            linear: u64,
            entries: [u64; 5],
        ) {
            let registers = PagingRegisters { cr0: cr0 | PG, cr3, cr4, efer };
            let mut reads = 0;
            let found = registers.translate(linear, |gpa, to| {
                let bytes = entries[reads].to_le_bytes();
                to.copy_from_slice(&bytes[..to.len()]);
                assert!(gpa < 1 << 52 && gpa % to.len() as u64 == 0);
                reads += 1;
                Ok(())
            });
            if let Ok(found) = found {
                let last = found.gpa + (found.length - 1);
                assert!(found.length >= 1 && found.length <= GIB && last < 1 << 52);
                assert_eq!((last + 1) % 0x1000, 0);
                assert_eq!(found.gpa % 0x1000, linear % 0x1000);
            }
        }
    }
}
