//! A guest's memory and tables, for tests.

use super::tables::{ADDRESS, Entry, Format, GLOBAL, KEY_SHIFT, NO_EXECUTE};
use super::{MmuRegisters, PAGE_SIZE, PRESENT, PagingMode, PagingModel, PagingRegisters, RamOnly};
use crate::memory::{ArrayRam, GuestRam};
use std::boxed::Box;

pub(super) const PG: u64 = 1 << 31;
pub(super) const WP: u64 = 1 << 16;
pub(super) const PSE: u64 = 1 << 4;
pub(super) const PAE: u64 = 1 << 5;
pub(super) const PGE: u64 = 1 << 7;
pub(super) const LA57: u64 = 1 << 12;
pub(super) const PCIDE: u64 = 1 << 17;
pub(super) const SMEP: u64 = 1 << 20;
pub(super) const SMAP: u64 = 1 << 21;
pub(super) const PKE: u64 = 1 << 22;
pub(super) const PKS: u64 = 1 << 24;
pub(super) const LMA: u64 = 1 << 10;
pub(super) const NXE: u64 = 1 << 11;
pub(super) const W: u64 = super::tables::WRITABLE;
pub(super) const U: u64 = super::tables::USER;
pub(super) const A: u64 = super::tables::ACCESSED;
pub(super) const D: u64 = super::tables::DIRTY;

/// Bytes of RAM.
pub(super) const RAM: usize = 0x4_0000;
/// A linear address of all modes.
pub(super) const AT: u64 = 0x4020_3000;
/// A page of RAM behind the tables.
pub(super) const DATA: u64 = 0x2_0000;

impl PagingMode {
    /// Bits of an address in the smaller large page.
    pub(super) const fn large(self) -> u32 {
        match self {
            Self::Bits32 => 22,
            _ => 21,
        }
    }
}

/// A processor's registers, and RAM whose low half is for tables.
pub(super) struct Guest {
    pub(super) registers: MmuRegisters,
    pub(super) ram: Box<ArrayRam<RAM>>,
    next_table: u64,
}

impl Guest {
    pub(super) fn new(mode: PagingMode) -> Self {
        let (cr0, cr4, efer) = match mode {
            PagingMode::Off => (0, 0, 0),
            PagingMode::Bits32 => (PG | WP, PSE, 0),
            PagingMode::Pae => (PG | WP, PAE, NXE),
            PagingMode::Level4 => (PG | WP, PAE, LMA | NXE),
            PagingMode::Level5 => (PG | WP, PAE | LA57, LMA | NXE),
        };
        let paging = PagingRegisters {
            cr0,
            cr3: 0x1000,
            cr4,
            efer,
        };
        let model = PagingModel {
            physical_bits: 40,
            gib_pages: true,
        };
        Self {
            registers: MmuRegisters {
                paging,
                model,
                ..MmuRegisters::default()
            },
            ram: Box::new(ArrayRam::new()),
            next_table: 0x2000,
        }
    }

    pub(super) fn memory(&self) -> RamOnly<'_> {
        RamOnly(&*self.ram)
    }

    fn format(&self) -> Format {
        Format::new(&self.registers.paging)
    }

    /// An entry of a table.
    pub(super) fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        let size = self.format().entry_bytes();
        self.ram.read(at, &mut bytes[..size]).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(super) fn put(&self, at: u64, entry: u64) {
        let size = self.format().entry_bytes();
        self.ram.write(at, &entry.to_le_bytes()[..size]).unwrap();
    }

    /// Where the entry of a level is that an address goes through.
    pub(super) fn entry_at(&self, linear: u64, level: u8) -> u64 {
        let format = self.format();
        let mut table = format.root(self.registers.paging.cr3);
        for above in (level + 1..=format.mode.levels()).rev() {
            table = self.word(format.entry_address(table, above, linear)) & ADDRESS;
        }
        format.entry_address(table, level, linear)
    }

    /// Maps a page with tables as needed; `flags` go to all entries that are new, and G and the
    /// key to the page's only.
    pub(super) fn map(&mut self, linear: u64, gpa: u64, flags: u64, bits: u32) {
        let format = self.format();
        let top = format.mode.levels();
        let lowest = match bits {
            12 => 1,
            30 => 3,
            _ => 2,
        };
        let leaf_only = GLOBAL | 15 << KEY_SHIFT | NO_EXECUTE;
        for level in (lowest + 1..=top).rev() {
            let at = self.entry_at(linear, level);
            if !matches!(format.entry(self.word(at), level), Entry::Table { .. }) {
                let mut flags = flags & !leaf_only;
                if format.mode == PagingMode::Pae && level == 3 {
                    flags = 0;
                }
                self.put(at, self.next_table | flags | PRESENT);
                self.next_table += 0x1000;
                assert!(self.next_table <= DATA);
            }
        }
        let size = if lowest > 1 { PAGE_SIZE } else { 0 };
        self.put(self.entry_at(linear, lowest), gpa | flags | size | PRESENT);
        let pointers = self.registers.load_pointers(&mut self.memory());
        self.registers.pointers = pointers.unwrap();
    }
}
