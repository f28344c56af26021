//! The format of page tables: where entries are, and what they name.
//!
//! Source: Intel SDM volume 3, chapter 4 "Paging", sections 4.1 to 4.5. This is the one place that
//! knows it: the software CPU's walk and the debugger's both read tables through it.

use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;

use crate::cpu::CpuState;

/// P: the entry maps a page or names a table.
pub(in crate::cpu) const PRESENT: u64 = 1 << 0;
/// R/W: writes are allowed.
pub(super) const WRITABLE: u64 = 1 << 1;
/// U/S: user-mode accesses are allowed.
pub(super) const USER: u64 = 1 << 2;
/// A: the entry was used.
pub(super) const ACCESSED: u64 = 1 << 5;
/// D: the page was written.
pub(super) const DIRTY: u64 = 1 << 6;
/// PS: the entry maps a page although it is not of the lowest level.
pub(in crate::cpu) const PAGE_SIZE: u64 = 1 << 7;
/// G: the translation is one of all address spaces.
pub(super) const GLOBAL: u64 = 1 << 8;
/// Bits 62 to 59: the protection key.
pub(super) const KEY_SHIFT: u32 = 59;
/// XD: no instructions are fetched from there.
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51 to 12: the physical address in an entry, and in CR3.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 31 to 5 of CR3: the four entries of PAE paging.
const PAE_POINTERS: u64 = 0xffff_ffe0;
/// Bits 31 to 22 of a directory entry: a 4 MiB page below 4 GiB.
const PSE_ADDRESS: u64 = 0xffc0_0000;
/// Bits 20 to 13 of the same: bits 39 to 32 of the page's address (PSE-36).
const PSE_HIGH: u64 = 0xff;
const PSE_HIGH_SHIFT: u32 = 13;
/// Bits of an address within the smallest page.
pub(super) const PAGE_BITS: u32 = 12;
/// Linear addresses outside of long mode are below this.
const LINEAR_END: u64 = 1 << 32;

/// The registers that decide what a linear address stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingRegisters {
    /// CR0: PG, WP.
    pub cr0: u64,
    /// CR3: where the tables begin, and the process-context identifier.
    pub cr3: u64,
    /// CR4: PSE, PAE, PGE, LA57, PCIDE, SMEP, SMAP, PKE, PKS.
    pub cr4: u64,
    /// EFER: LMA, NXE.
    pub efer: u64,
}

impl From<&CpuState> for PagingRegisters {
    fn from(state: &CpuState) -> Self {
        Self {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
        }
    }
}

impl PagingRegisters {
    /// How a processor with these registers translates.
    pub fn mode(&self) -> PagingMode {
        let cr4 = self.cr4_flags();
        if !self.cr0_flags().contains(Cr0Flags::PAGING) {
            PagingMode::Off
        } else if !cr4.contains(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION) {
            PagingMode::Bits32
        } else if !self.efer_flags().contains(EferFlags::LONG_MODE_ACTIVE) {
            PagingMode::Pae
        } else if !cr4.contains(Cr4Flags::L5_PAGING) {
            PagingMode::Level4
        } else {
            PagingMode::Level5
        }
    }

    pub(super) const fn cr0_flags(&self) -> Cr0Flags {
        Cr0Flags::from_bits_retain(self.cr0)
    }

    pub(super) const fn cr4_flags(&self) -> Cr4Flags {
        Cr4Flags::from_bits_retain(self.cr4)
    }

    pub(super) const fn efer_flags(&self) -> EferFlags {
        EferFlags::from_bits_retain(self.efer)
    }
}

/// How a processor translates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagingMode {
    /// Not at all: a linear address is the physical one.
    #[default]
    Off,
    /// 32-bit paging: two levels, pages of 4 KiB and, with CR4.PSE, 4 MiB.
    Bits32,
    /// PAE paging: three levels, pages of 4 KiB and 2 MiB.
    Pae,
    /// Long mode's four levels, 48-bit addresses, pages of 4 KiB, 2 MiB and 1 GiB.
    Level4,
    /// Long mode's five levels, 57-bit addresses.
    Level5,
}

impl PagingMode {
    /// Levels of tables; the highest is the one that CR3 names.
    pub const fn levels(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Bits32 => 2,
            Self::Pae => 3,
            Self::Level4 => 4,
            Self::Level5 => 5,
        }
    }

    /// Whether it is one of long mode's.
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Level4 | Self::Level5)
    }

    /// Whether there is such an address: 32 bits outside of long mode, there 48 or 57 bits of
    /// which the highest is repeated above.
    pub const fn has_address(self, linear: u64) -> bool {
        match self {
            Self::Off | Self::Bits32 | Self::Pae => linear < LINEAR_END,
            Self::Level4 | Self::Level5 => self.canonical(linear) == linear,
        }
    }

    /// The address of these low bits: in long mode the highest of them is repeated above.
    pub(in crate::cpu) const fn canonical(self, linear: u64) -> u64 {
        let spare = match self {
            Self::Off | Self::Bits32 | Self::Pae => return linear,
            Self::Level4 => 64 - 48,
            Self::Level5 => 64 - 57,
        };
        ((linear << spare) as i64 >> spare) as u64
    }
}

/// What an entry of a table names. Reserved bits and permissions are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Entry {
    /// Nothing: P is clear.
    Absent,
    /// A page of a size that the level does not have.
    NoSuchSize,
    /// A page: its first byte, and the bits of an address within it.
    Page { gpa: u64, bits: u32 },
    /// A table of the next lower level.
    Table { gpa: u64 },
}

/// How to read the tables in one mode.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Format {
    /// Which.
    pub(in crate::cpu) mode: PagingMode,
    /// CR4.PSE.
    pse: bool,
}

impl Format {
    pub(in crate::cpu) fn new(registers: &PagingRegisters) -> Self {
        Self {
            mode: registers.mode(),
            pse: registers
                .cr4_flags()
                .contains(Cr4Flags::PAGE_SIZE_EXTENSION),
        }
    }

    /// Bytes of an entry.
    pub(in crate::cpu) const fn entry_bytes(self) -> usize {
        match self.mode {
            PagingMode::Bits32 => 4,
            _ => 8,
        }
    }

    /// Bits of the address that choose an entry of one table.
    const fn index_bits(self) -> u32 {
        match self.mode {
            PagingMode::Bits32 => 10,
            _ => 9,
        }
    }

    /// Entries of a table of `level`.
    pub(in crate::cpu) const fn entries(self, level: u8) -> usize {
        match (self.mode, level) {
            (PagingMode::Pae, 3) => 4,
            _ => 1 << self.index_bits(),
        }
    }

    /// Bits of the address that the tables below `level` translate, or the page holds.
    pub(in crate::cpu) const fn below(self, level: u8) -> u32 {
        PAGE_BITS + self.index_bits() * (level as u32 - 1)
    }

    /// The highest table that CR3 names.
    pub(in crate::cpu) const fn root(self, cr3: u64) -> u64 {
        match self.mode {
            PagingMode::Off => 0,
            PagingMode::Bits32 => cr3 & ADDRESS & (LINEAR_END - 1),
            PagingMode::Pae => cr3 & PAE_POINTERS,
            PagingMode::Level4 | PagingMode::Level5 => cr3 & ADDRESS,
        }
    }

    /// Where the entry of a table of `level`, 1 or more, is. Tables are below 2^52.
    pub(in crate::cpu) const fn entry_address(self, table: u64, level: u8, linear: u64) -> u64 {
        let index = linear >> self.below(level) & ((1 << self.index_bits()) - 1);
        table + index * self.entry_bytes() as u64
    }

    /// What an entry of a table of `level` names.
    pub(in crate::cpu) const fn entry(self, entry: u64, level: u8) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Absent;
        }
        let large = entry & PAGE_SIZE != 0
            && match (self.mode, level) {
                (PagingMode::Bits32, 2) => self.pse,
                (PagingMode::Pae, 3) => false,
                (_, 4..) => return Entry::NoSuchSize,
                // Of the lowest level: part of the memory type.
                (_, 1) => false,
                _ => true,
            };
        if !large && level > 1 {
            return Entry::Table {
                gpa: entry & ADDRESS,
            };
        }
        let bits = self.below(level);
        let gpa = match self.mode {
            PagingMode::Bits32 if large => {
                entry & PSE_ADDRESS | (entry >> PSE_HIGH_SHIFT & PSE_HIGH) << 32
            }
            _ => entry & ADDRESS & !((1 << bits) - 1),
        };
        Entry::Page { gpa, bits }
    }
}
