//! The walk through the page tables as a processor does it: permissions, protection keys, reserved
//! bits, accessed and dirty flags, page faults.
//!
//! Source: Intel SDM volume 3, chapter 4 "Paging": sections 4.1 to 4.5 (modes and reserved bits),
//! 4.6 (access rights, 4.6.2 protection keys), 4.7 (error codes), 4.8 (accessed and dirty flags).
//!
//! Where the manual leaves a choice: flags are set when the whole walk has succeeded and the
//! access is allowed, from the highest table down, and never in an entry that changed since it
//! was read; then the walk starts again. Tables in ROM keep their flags clear and work.
//!
//! PAT and PSE-36 are taken as there: every model has them. Not modelled: memory types, shadow
//! stacks, linear-address space separation, HLAT, nested paging.

use bitflags::bitflags;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;

use super::physical::{PhysicalMemory, load_entry};
use super::tables::{
    ACCESSED, DIRTY, Entry, Format, GLOBAL, KEY_SHIFT, NO_EXECUTE, PAGE_BITS, PRESENT, PagingMode,
    PagingRegisters, USER, WRITABLE,
};
use crate::memory::Exchange;

/// Walks that begin again because a table changed meanwhile. An entry that never holds still is
/// taken as absent in the end: the guest sees a page fault that it may try again.
const RETRIES_MAX: u32 = 64;

/// Bits of physical addresses that entries can hold.
const PHYSICAL_BITS_MAX: u8 = 52;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Access {
    /// Loads data.
    Read,
    /// Stores data.
    Write,
    /// Fetches instructions.
    Execute,
}

/// On whose behalf an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Mode {
    /// Supervisor mode, user-mode pages being out of bounds with CR4.SMAP: CPL 0 to 2 with
    /// EFLAGS.AC clear, and all implicit accesses (to descriptor tables, task-state segments and
    /// stacks of more privileged levels), whatever CPL and EFLAGS.AC are.
    Supervisor,
    /// Explicit accesses of CPL 0 to 2 with EFLAGS.AC set.
    SupervisorAc,
    /// Explicit accesses of CPL 3.
    User,
}

impl Mode {
    /// Modes.
    pub const COUNT: usize = 3;

    /// That of an instruction's own accesses at a privilege level, 0 to 3.
    pub const fn explicit(cpl: u8, ac: bool) -> Self {
        match (cpl, ac) {
            (3.., _) => Self::User,
            (_, false) => Self::Supervisor,
            (_, true) => Self::SupervisorAc,
        }
    }
}

bitflags! {
    /// Error code of a page fault (SDM section 4.7).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PageFaultCode: u32 {
        /// P: the page was there, and the access was not allowed.
        const PRESENT = 1 << 0;
        /// W/R: the access was a write.
        const WRITE = 1 << 1;
        /// U/S: it was one of user mode.
        const USER = 1 << 2;
        /// RSVD: a reserved bit was set in an entry.
        const RESERVED = 1 << 3;
        /// I/D: it was an instruction fetch.
        const FETCH = 1 << 4;
        /// PK: a protection key forbade it.
        const KEY = 1 << 5;
    }

    /// What a translation says of its page besides the address, joined over all tables.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PageFlags: u8 {
        /// R/W in all entries.
        const WRITABLE = 1 << 0;
        /// U/S in all entries: a user-mode address.
        const USER = 1 << 1;
        /// XD in any entry.
        const NO_EXECUTE = 1 << 2;
        /// G with CR4.PGE: belongs to all address spaces.
        const GLOBAL = 1 << 3;
        /// D is set: writes need no more walk.
        const DIRTY = 1 << 4;
    }
}

/// Which exception a failed access raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// #PF; the fault's address goes to CR2.
    Page,
    /// The linear address is not canonical: #SS(0) for accesses by the stack segment, else #GP(0).
    NotCanonical,
    /// None: the access reaches a device, which may not be accessed before the instruction is begun
    /// again ([`PhysicalMemory::admits_devices`]).
    Later,
}

/// Why an access failed. Nothing was loaded or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which exception.
    pub kind: FaultKind,
    /// Its error code: that of the page fault; 0 where the address is not canonical.
    pub error_code: u32,
    /// The first linear address that can't be accessed.
    pub linear: u64,
}

impl Fault {
    const fn page(linear: u64, code: PageFaultCode) -> Self {
        Self {
            kind: FaultKind::Page,
            error_code: code.bits(),
            linear,
        }
    }

    pub(super) const fn later(linear: u64) -> Self {
        Self {
            kind: FaultKind::Later,
            error_code: 0,
            linear,
        }
    }

    pub(super) const fn not_canonical(linear: u64) -> Self {
        Self {
            kind: FaultKind::NotCanonical,
            error_code: 0,
            linear,
        }
    }
}

/// A PAE page-directory-pointer-table entry has reserved bits set: loading it is #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedPointer;

/// A translation: the page that holds a linear address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Guest physical address of its first byte, A20 not yet masked.
    pub gpa: u64,
    /// Bits of an address within it: 12, 21, 22 or 30.
    pub bits: u8,
    /// What the tables say of it.
    pub flags: PageFlags,
    /// Protection key, 0 to 15; 0 outside of long mode.
    pub key: u8,
}

impl Page {
    /// The 4 KiB of it that hold `linear`.
    pub const fn frame(&self, linear: u64) -> u64 {
        self.gpa | linear & ((1 << self.bits) - 1) & !((1 << PAGE_BITS) - 1)
    }
}

/// What CPUID says of paging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingModel {
    /// MAXPHYADDR: bits of a physical address, 32 to 52 (CPUID.80000008H:EAX bits 7 to 0); other
    /// numbers count as the nearest of these.
    pub physical_bits: u8,
    /// There are 1 GiB pages (CPUID.80000001H:EDX.Page1GB).
    pub gib_pages: bool,
}

/// All that decides a translation besides the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmuRegisters {
    /// CR0, CR3, CR4, EFER.
    pub paging: PagingRegisters,
    /// The four page-directory-pointer-table entries of PAE paging, as loaded last.
    pub pointers: [u64; 4],
    /// PKRU: protection keys of user-mode addresses.
    pub pkru: u32,
    /// IA32_PKRS: protection keys of supervisor-mode addresses.
    pub pkrs: u32,
    /// CPUID.
    pub model: PagingModel,
    /// A20M#: bit 20 of physical addresses is forced to 0.
    pub a20_masked: bool,
}

impl MmuRegisters {
    /// All zero: no paging.
    pub const ZERO: Self = Self {
        paging: PagingRegisters {
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
        },
        pointers: [0; 4],
        pkru: 0,
        pkrs: 0,
        model: PagingModel {
            physical_bits: 0,
            gib_pages: false,
        },
        a20_masked: false,
    };
}

/// Bits `low` to `high` of an entry, none if they are the wrong way round.
const fn bits(high: u8, low: u8) -> u64 {
    if high < low {
        return 0;
    }
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

impl MmuRegisters {
    /// A physical address as it leaves the processor.
    #[inline]
    pub const fn physical(&self, gpa: u64) -> u64 {
        if self.a20_masked {
            gpa & !(1 << 20)
        } else {
            gpa
        }
    }

    /// MAXPHYADDR within the range that there is.
    fn physical_bits(&self) -> u8 {
        self.model.physical_bits.clamp(32, PHYSICAL_BITS_MAX)
    }

    /// Bits that must be clear in a present entry, by what it names (SDM section 4.2 to 4.5; bits
    /// of the levels that have no large pages are [`Entry::NoSuchSize`]).
    fn reserved(&self, format: Format, level: u8, large: bool) -> u64 {
        let width = self.physical_bits();
        let execute = self.paging.efer_flags();
        let execute = if execute.contains(EferFlags::NO_EXECUTE_ENABLE) {
            0
        } else {
            NO_EXECUTE
        };
        match (format.mode, level, large) {
            (PagingMode::Off, ..) | (PagingMode::Bits32, _, false) => 0,
            (PagingMode::Bits32, _, true) => bits(21, width.min(40) - 19),
            (PagingMode::Pae, _, false) => bits(62, width) | execute,
            (PagingMode::Pae, _, true) => bits(62, width) | bits(20, 13) | execute,
            (_, 3, true) if !self.model.gib_pages => u64::MAX,
            (_, 3, true) => bits(51, width) | bits(29, 13) | execute,
            (_, _, true) => bits(51, width) | bits(20, 13) | execute,
            (_, _, false) => bits(51, width) | execute,
        }
    }

    /// Reads the page-directory-pointer-table entries that CR3 names, as MOV to CR3 does in PAE
    /// paging, and MOV to CR0 and CR4 when they change the bits of SDM section 4.4.1. In other
    /// modes they stay what they are.
    ///
    /// # Errors
    /// One that is present has reserved bits set; what was loaded before stays in force.
    pub fn load_pointers(
        &self,
        memory: &mut impl PhysicalMemory,
    ) -> Result<[u64; 4], ReservedPointer> {
        let format = Format::new(&self.paging);
        if format.mode != PagingMode::Pae {
            return Ok(self.pointers);
        }
        let reserved = bits(2, 1) | bits(8, 5) | bits(63, self.physical_bits());
        let table = format.root(self.paging.cr3);
        let mut pointers = [0; 4];
        for (i, pointer) in (0..).zip(&mut pointers) {
            *pointer = load_entry(memory, self.physical(table + 8 * i), 8);
            if *pointer & PRESENT != 0 && *pointer & reserved != 0 {
                return Err(ReservedPointer);
            }
        }
        Ok(pointers)
    }

    /// The error code's bits that say what was tried.
    fn tried(&self, mode: Mode, access: Access) -> PageFaultCode {
        let cr4 = self.paging.cr4_flags();
        let efer = self.paging.efer_flags();
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, access == Access::Write);
        code.set(PageFaultCode::USER, mode == Mode::User);
        let tells_fetches = cr4.contains(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)
            || cr4.contains(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION)
                && efer.contains(EferFlags::NO_EXECUTE_ENABLE);
        code.set(
            PageFaultCode::FETCH,
            access == Access::Execute && tells_fetches,
        );
        code
    }

    /// Which accesses the page's protection key forbids, by [`Access`] (SDM section 4.6.2).
    fn key_denies(&self, page: &Page, mode: Mode) -> [bool; 3] {
        let cr4 = self.paging.cr4_flags();
        let user = page.flags.contains(PageFlags::USER);
        let (enable, rights) = if user {
            (Cr4Flags::PROTECTION_KEY_USER, self.pkru)
        } else {
            (Cr4Flags::PROTECTION_KEY_SUPERVISOR, self.pkrs)
        };
        let long = self
            .paging
            .efer_flags()
            .contains(EferFlags::LONG_MODE_ACTIVE);
        if !long || !cr4.contains(enable) {
            return [false; 3];
        }
        let rights = rights >> (2 * u32::from(page.key & 15));
        let (access_disabled, write_disabled) = (rights & 1 != 0, rights & 2 != 0);
        let protected = self.paging.cr0_flags().contains(Cr0Flags::WRITE_PROTECT);
        let write = access_disabled || write_disabled && (protected || mode == Mode::User);
        [access_disabled, write, false]
    }

    /// What the page's flags allow, by [`Access`] (SDM section 4.6.1).
    fn flags_allow(&self, page: &Page, mode: Mode) -> [bool; 3] {
        let user = page.flags.contains(PageFlags::USER);
        let writable = page.flags.contains(PageFlags::WRITABLE);
        let executable = !page.flags.contains(PageFlags::NO_EXECUTE);
        if mode == Mode::User {
            return [user, user && writable, user && executable];
        }
        let cr4 = self.paging.cr4_flags();
        let smap = cr4.contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
        let smep = cr4.contains(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
        let reachable = !user || !smap || mode == Mode::SupervisorAc;
        let protected = self.paging.cr0_flags().contains(Cr0Flags::WRITE_PROTECT);
        [
            reachable,
            reachable && (writable || !protected),
            executable && !(user && smep),
        ]
    }

    /// How a page may be accessed, by [`Access`].
    pub(super) fn rights(&self, page: &Page, mode: Mode) -> [bool; 3] {
        if self.paging.mode() == PagingMode::Off {
            return [true; 3];
        }
        let (mut allowed, denied) = (self.flags_allow(page, mode), self.key_denies(page, mode));
        for (allowed, denied) in allowed.iter_mut().zip(denied) {
            *allowed &= !denied;
        }
        allowed
    }

    /// Whether a page may be accessed.
    ///
    /// # Errors
    /// The page fault's error code.
    pub fn check(&self, page: &Page, mode: Mode, access: Access) -> Result<(), PageFaultCode> {
        if self.rights(page, mode)[access as usize] {
            return Ok(());
        }
        let key = self.key_denies(page, mode)[access as usize];
        let mut code = self.tried(mode, access) | PageFaultCode::PRESENT;
        code.set(PageFaultCode::KEY, key);
        Err(code)
    }

    /// Translates by the tables in memory. With `update`, accessed and dirty flags are set as an
    /// access that is made now wants it; without, memory stays as it is.
    ///
    /// # Errors
    /// A page fault, or an address that does not exist. Outside of long mode, where linear
    /// addresses have 32 bits, the caller has cut it to them.
    pub fn walk(
        &self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        access: Access,
        update: bool,
    ) -> Result<Page, Fault> {
        let format = Format::new(&self.paging);
        if !format.mode.has_address(linear) {
            return Err(Fault::not_canonical(linear));
        }
        if format.mode == PagingMode::Off {
            return Ok(Page {
                gpa: linear & !bits(PAGE_BITS as u8 - 1, 0),
                bits: PAGE_BITS as u8,
                flags: PageFlags::all() - PageFlags::NO_EXECUTE,
                key: 0,
            });
        }
        for _ in 0..RETRIES_MAX {
            let mut path = Path::default();
            let mut page = self
                .look(memory, format, linear, &mut path)
                .map_err(|code| Fault::page(linear, self.tried(mode, access) | code))?;
            self.check(&page, mode, access)
                .map_err(|code| Fault::page(linear, code))?;
            if !update {
                return Ok(page);
            }
            if path.mark(memory, format, access) {
                if access == Access::Write {
                    page.flags |= PageFlags::DIRTY;
                }
                return Ok(page);
            }
        }
        Err(Fault::page(linear, self.tried(mode, access)))
    }

    /// Follows the tables down to the page, noting the entries on the way.
    fn look(
        &self,
        memory: &mut impl PhysicalMemory,
        format: Format,
        linear: u64,
        path: &mut Path,
    ) -> Result<Page, PageFaultCode> {
        let reserved = PageFaultCode::PRESENT | PageFaultCode::RESERVED;
        let mut table = format.root(self.paging.cr3);
        let mut level = format.mode.levels();
        let mut flags = PageFlags::WRITABLE | PageFlags::USER;
        if format.mode == PagingMode::Pae {
            // The highest level is in registers, checked when they were loaded; it has no flags.
            let pointer = self.pointers[(linear >> 30 & 3) as usize];
            let Entry::Table { gpa } = format.entry(pointer, level) else {
                return Err(PageFaultCode::empty());
            };
            table = gpa;
            level -= 1;
        }
        loop {
            let at = self.physical(format.entry_address(table, level, linear));
            let value = load_entry(memory, at, format.entry_bytes());
            let named = format.entry(value, level);
            let large = level > 1 && matches!(named, Entry::Page { .. });
            match named {
                Entry::Absent => return Err(PageFaultCode::empty()),
                Entry::NoSuchSize => return Err(reserved),
                _ if value & self.reserved(format, level, large) != 0 => return Err(reserved),
                _ => path.push(at, value),
            }
            if value & WRITABLE == 0 {
                flags -= PageFlags::WRITABLE;
            }
            if value & USER == 0 {
                flags -= PageFlags::USER;
            }
            if value & NO_EXECUTE != 0 {
                flags |= PageFlags::NO_EXECUTE;
            }
            match named {
                Entry::Table { gpa } => table = gpa,
                Entry::Page { gpa, bits } => {
                    let global = self.paging.cr4_flags().contains(Cr4Flags::PAGE_GLOBAL);
                    flags.set(PageFlags::GLOBAL, global && value & GLOBAL != 0);
                    flags.set(PageFlags::DIRTY, value & DIRTY != 0);
                    let key = if format.mode.is_long() {
                        (value >> KEY_SHIFT & 15) as u8
                    } else {
                        0
                    };
                    return Ok(Page {
                        gpa,
                        bits: bits as u8,
                        flags,
                        key,
                    });
                }
                Entry::Absent | Entry::NoSuchSize => return Err(PageFaultCode::empty()),
            }
            level -= 1;
        }
    }
}

/// The entries of a walk, from the highest table down.
#[derive(Default)]
struct Path {
    entries: [(u64, u64); 5],
    length: usize,
}

impl Path {
    fn push(&mut self, at: u64, value: u64) {
        if let Some(entry) = self.entries.get_mut(self.length) {
            *entry = (at, value);
            self.length += 1;
        }
    }

    /// Sets the flags that are clear; false when an entry has changed since it was read.
    fn mark(&self, memory: &mut impl PhysicalMemory, format: Format, access: Access) -> bool {
        for (i, &(at, value)) in self.entries[..self.length].iter().enumerate() {
            let leaf = i + 1 == self.length;
            let mut marked = value | ACCESSED;
            if leaf && access == Access::Write {
                marked |= DIRTY;
            }
            if marked == value {
                continue;
            }
            let exchange = if format.entry_bytes() == 4 {
                Exchange::Bits32 {
                    current: value as u32,
                    new: marked as u32,
                }
            } else {
                Exchange::Bits64 {
                    current: value,
                    new: marked,
                }
            };
            if !memory.compare_exchange(at, exchange) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::mmu::testing::*;
    use crate::cpu::mmu::{HostPage, RamOnly};
    use PageFaultCode as Code;

    const READ: Access = Access::Read;
    const WRITE: Access = Access::Write;
    const FETCH: Access = Access::Execute;
    const ALL: [Access; 3] = [READ, WRITE, FETCH];
    const KERNEL: Mode = Mode::Supervisor;

    /// The page fault's code, or the address.
    fn ask(guest: &Guest, linear: u64, mode: Mode, access: Access) -> Result<u64, u32> {
        let page = guest
            .registers
            .walk(&mut guest.memory(), linear, mode, access, true)
            .map_err(|fault| {
                assert_eq!((fault.kind, fault.linear), (FaultKind::Page, linear));
                fault.error_code
            })?;
        Ok(page.frame(linear) | linear & 0xfff)
    }

    /// One page at [`AT`] with these flags in all of its entries.
    fn one(mode: PagingMode, flags: u64) -> Guest {
        let mut guest = Guest::new(mode);
        guest.map(AT, DATA, flags, 12);
        guest
    }

    const MODES: [PagingMode; 4] = [
        PagingMode::Bits32,
        PagingMode::Pae,
        PagingMode::Level4,
        PagingMode::Level5,
    ];

    /// Section 4.6.1 without the protections that CR4 adds.
    #[test]
    fn rights_of_user_and_supervisor() {
        for mode in MODES {
            for flags in [0, W, U, W | U] {
                let mut guest = one(mode, flags);
                for wp in [0, WP] {
                    guest.registers.paging.cr0 = PG | wp;
                    for access in ALL {
                        let fetch = access == FETCH && mode != PagingMode::Bits32;
                        let tried = u32::from(access == WRITE) * 2 + u32::from(fetch) * 16;
                        let user = flags & U != 0 && (access != WRITE || flags & W != 0);
                        let expected = if user { Ok(DATA) } else { Err(1 | tried | 4) };
                        assert_eq!(ask(&guest, AT, Mode::User, access), expected);
                        let kernel = access != WRITE || flags & W != 0 || wp == 0;
                        let expected = if kernel { Ok(DATA) } else { Err(1 | tried) };
                        assert_eq!(ask(&guest, AT, KERNEL, access), expected, "{mode:?}");
                    }
                }
                assert_eq!(ask(&guest, AT + 0x1000, Mode::User, WRITE), Err(2 | 4));
                assert_eq!(ask(&guest, AT + 0x1000, KERNEL, READ), Err(0));
            }
        }
    }

    /// Section 4.6.1: rights are those of all entries together.
    #[test]
    fn one_entry_is_enough_to_forbid() {
        for level in 1..=4 {
            for bit in [W, U] {
                let guest = one(PagingMode::Level4, W | U);
                let at = guest.entry_at(AT, level);
                let entry = guest.word(at);
                guest.put(at, entry & !bit);
                assert_eq!(ask(&guest, AT, Mode::User, WRITE), Err(7), "level {level}");
            }
            let guest = one(PagingMode::Level4, W | U);
            let at = guest.entry_at(AT, level);
            guest.put(at, guest.word(at) | NO_EXECUTE);
            assert_eq!(ask(&guest, AT, Mode::User, READ), Ok(DATA));
            assert_eq!(ask(&guest, AT, Mode::User, FETCH), Err(0x15));
            assert_eq!(ask(&guest, AT, KERNEL, FETCH), Err(0x11));
        }
    }

    /// Section 4.7: I/D needs NXE with PAE, or SMEP; section 4.6.1: SMEP.
    #[test]
    fn fetches_of_user_pages_by_the_supervisor() {
        let mut guest = one(PagingMode::Level4, W | U);
        guest.registers.paging.efer &= !NXE;
        assert_eq!(ask(&guest, AT, KERNEL, FETCH), Ok(DATA));
        assert_eq!(ask(&guest, AT + 0x1000, KERNEL, FETCH), Err(0));
        guest.registers.paging.cr4 |= SMEP;
        assert_eq!(ask(&guest, AT, KERNEL, FETCH), Err(0x11));
        assert_eq!(ask(&guest, AT, Mode::SupervisorAc, FETCH), Err(0x11));
        assert_eq!(ask(&guest, AT, KERNEL, WRITE), Ok(DATA));
        assert_eq!(ask(&guest, AT, Mode::User, FETCH), Ok(DATA));
        let mut guest = one(PagingMode::Bits32, U);
        guest.registers.paging.efer |= NXE;
        assert_eq!(ask(&guest, AT + 0x1000, KERNEL, FETCH), Err(0));
        guest.registers.paging.cr4 |= SMEP;
        assert_eq!(ask(&guest, AT, KERNEL, FETCH), Err(0x11));
    }

    /// Section 4.6.1: SMAP, EFLAGS.AC, implicit accesses.
    #[test]
    fn data_of_user_pages_by_the_supervisor() {
        let mut guest = one(PagingMode::Level4, W | U);
        guest.map(AT + 0x1000, DATA + 0x1000, W, 12);
        guest.registers.paging.cr4 |= SMAP;
        for cr0 in [PG, PG | WP] {
            guest.registers.paging.cr0 = cr0;
            assert_eq!(ask(&guest, AT, KERNEL, READ), Err(1));
            assert_eq!(ask(&guest, AT, KERNEL, WRITE), Err(3));
            assert_eq!(ask(&guest, AT, Mode::SupervisorAc, READ), Ok(DATA));
            assert_eq!(ask(&guest, AT, Mode::SupervisorAc, WRITE), Ok(DATA));
        }
        assert_eq!(ask(&guest, AT, KERNEL, FETCH), Ok(DATA));
        assert_eq!(ask(&guest, AT, Mode::User, WRITE), Ok(DATA));
        assert_eq!(ask(&guest, AT + 0x1000, KERNEL, WRITE), Ok(DATA + 0x1000));
        assert_eq!(Mode::explicit(3, true), Mode::User);
        assert_eq!(Mode::explicit(2, true), Mode::SupervisorAc);
        assert_eq!(Mode::explicit(0, false), Mode::Supervisor);
    }

    /// Sections 4.6.2 and 4.7: protection keys.
    #[test]
    fn protection_keys() {
        let key = 5 << KEY_SHIFT;
        let (access_disable, write_disable) = (1 << 10, 2 << 10);
        for user in [true, false] {
            let mut guest = one(PagingMode::Level4, W | if user { U } else { 0 });
            let at = guest.entry_at(AT, 1);
            guest.put(at, guest.word(at) | key);
            let both = [Mode::User, KERNEL];
            let modes = if user { &both[..] } else { &both[1..] };
            let set = |guest: &mut Guest, rights| {
                let (pkru, pkrs) = if user { (rights, 0) } else { (0, rights) };
                (guest.registers.pkru, guest.registers.pkrs) = (pkru, pkrs);
            };
            set(&mut guest, access_disable | write_disable);
            for &mode in modes {
                assert_eq!(ask(&guest, AT, mode, WRITE), Ok(DATA), "not enabled");
            }
            guest.registers.paging.cr4 |= if user { PKE } else { PKS };
            for &mode in modes {
                let code = if mode == Mode::User { 0x25 } else { 0x21 };
                guest.registers.paging.cr0 = PG | WP;
                set(&mut guest, access_disable);
                assert_eq!(ask(&guest, AT, mode, READ), Err(code));
                assert_eq!(ask(&guest, AT, mode, WRITE), Err(code | 2));
                assert_eq!(ask(&guest, AT, mode, FETCH), Ok(DATA));
                set(&mut guest, write_disable);
                assert_eq!(ask(&guest, AT, mode, READ), Ok(DATA));
                assert_eq!(ask(&guest, AT, mode, WRITE), Err(code | 2));
                // Writes of the supervisor are free without CR0.WP.
                guest.registers.paging.cr0 = PG;
                let expected = if mode == Mode::User {
                    Err(code | 2)
                } else {
                    Ok(DATA)
                };
                assert_eq!(ask(&guest, AT, mode, WRITE), expected);
                // The key of another page.
                set(&mut guest, !(3 << 10));
                assert_eq!(ask(&guest, AT, mode, WRITE), Ok(DATA));
            }
            if user {
                // Both reasons at once: PK is told although U/S or R/W forbids the access, too.
                set(&mut guest, access_disable);
                guest.put(at, guest.word(at) & !WRITABLE);
                assert_eq!(ask(&guest, AT, Mode::User, WRITE), Err(0x27));
            }
        }
        // Only in long mode (section 4.6.2).
        let mut guest = one(PagingMode::Pae, W | U);
        guest.registers.paging.cr4 |= PKE;
        guest.registers.pkru = u32::MAX;
        assert_eq!(ask(&guest, AT, Mode::User, WRITE), Ok(DATA));
    }

    /// Reserved bits by table 4-3 and on of the sections on each mode.
    #[test]
    fn reserved_bits() {
        // (mode, size of the page, level of the entry, reserved bits with 40 physical ones)
        let cases = [
            (PagingMode::Bits32, 12, 1, 0),
            (PagingMode::Bits32, 12, 2, 0),
            (PagingMode::Bits32, 22, 2, bits(21, 21)),
            (PagingMode::Pae, 12, 1, bits(62, 40)),
            (PagingMode::Pae, 12, 2, bits(62, 40)),
            (PagingMode::Pae, 21, 2, bits(62, 40) | bits(20, 13)),
            (PagingMode::Level4, 12, 1, bits(51, 40)),
            (PagingMode::Level4, 12, 2, bits(51, 40)),
            (PagingMode::Level4, 12, 3, bits(51, 40)),
            (PagingMode::Level4, 12, 4, bits(51, 40) | bits(7, 7)),
            (PagingMode::Level4, 21, 2, bits(51, 40) | bits(20, 13)),
            (PagingMode::Level4, 30, 3, bits(51, 40) | bits(29, 13)),
            (PagingMode::Level5, 12, 4, bits(51, 40) | bits(7, 7)),
            (PagingMode::Level5, 12, 5, bits(51, 40) | bits(7, 7)),
        ];
        for (mode, size, level, reserved) in cases {
            let mut guest = Guest::new(mode);
            guest.map(AT, DATA & !((1 << size) - 1), W | U, size);
            let at = guest.entry_at(AT, level);
            let entry = guest.word(at);
            let width = if mode == PagingMode::Bits32 { 32 } else { 64 };
            let mut found = 0;
            for bit in 1..width {
                // A table's entry with PS is a page's, and with other address bits it names a
                // table that is not in memory.
                let names_table = size == 12 && level > 1;
                if names_table && ((12..40).contains(&bit) || bit == 7 && level < 4) {
                    continue;
                }
                guest.put(at, entry | 1 << bit);
                let code = ask(&guest, AT, Mode::User, WRITE).err().unwrap_or(0);
                if code & 8 != 0 {
                    assert_eq!(code, 0xf);
                    found |= 1 << bit;
                }
            }
            assert_eq!(found, reserved, "{mode:?} {size} {level}: {found:#x}");
            guest.put(at, entry | NO_EXECUTE);
            guest.registers.paging.efer &= !NXE;
            if width == 64 {
                assert_eq!(ask(&guest, AT, KERNEL, READ), Err(9), "XD without NXE");
            }
        }
        let mut guest = Guest::new(PagingMode::Level4);
        guest.map(AT, 0, W, 30);
        assert_eq!(ask(&guest, AT, KERNEL, READ), Ok(AT & 0x3fff_ffff));
        guest.registers.model.gib_pages = false;
        assert_eq!(ask(&guest, AT, KERNEL, READ), Err(9));
        // PSE-36 has as many bits as the processor, up to 40 (section 4.3).
        let mut guest = Guest::new(PagingMode::Bits32);
        guest.map(AT, 0, W, 22);
        let at = guest.entry_at(AT, 2);
        guest.put(at, guest.word(at) | 0x11 << 13);
        assert!(ask(&guest, AT, KERNEL, READ).is_ok_and(|gpa| gpa >> 32 == 0x11));
        guest.registers.model.physical_bits = 36;
        assert_eq!(ask(&guest, AT, KERNEL, READ), Err(9));
    }

    /// Section 4.8, and that nothing is marked by an access that fails.
    #[test]
    fn accessed_and_dirty() {
        for mode in MODES {
            for (size, lowest) in [(12, 1), (mode.large(), 2)] {
                let mut guest = Guest::new(mode);
                guest.map(AT, DATA & !((1 << size) - 1), 0, size);
                let levels = if mode == PagingMode::Pae {
                    2
                } else {
                    mode.levels()
                };
                let marks = |guest: &Guest| {
                    let marks = |level| guest.word(guest.entry_at(AT, level)) & (A | D);
                    let upper = (lowest + 1..=levels).map(marks);
                    let upper = upper.reduce(|a, b| if a == b { a } else { u64::MAX });
                    (upper.unwrap_or(A), marks(lowest))
                };
                let clean = (if lowest == levels { A } else { 0 }, 0);
                assert_eq!(marks(&guest), clean);
                assert!(ask(&guest, AT, Mode::User, READ).is_err());
                assert!(ask(&guest, AT, KERNEL, WRITE).is_err());
                let look = guest
                    .registers
                    .walk(&mut guest.memory(), AT, KERNEL, READ, false);
                assert!(look.is_ok());
                assert_eq!(marks(&guest), clean, "{mode:?} {size}");
                ask(&guest, AT, KERNEL, FETCH).unwrap();
                assert_eq!(marks(&guest), (A, A));
                guest.registers.paging.cr0 = PG;
                ask(&guest, AT, KERNEL, WRITE).unwrap();
                assert_eq!(marks(&guest), (A, A | D), "{mode:?} {size}");
            }
        }
    }

    /// An entry that changes between its load and its mark is looked at again, not overwritten.
    #[test]
    fn a_race_starts_the_walk_again() {
        struct Racing<'a>(RamOnly<'a>, u32, u64, u64);
        // SAFETY: as the memory that it wraps.
        #[allow(unsafe_code)]
        unsafe impl PhysicalMemory for Racing<'_> {
            fn page(&mut self, gpa: u64) -> HostPage {
                self.0.page(gpa)
            }
            fn read(&mut self, gpa: u64, to: &mut [u8]) {
                self.0.read(gpa, to);
            }
            fn write(&mut self, gpa: u64, from: &[u8]) {
                self.0.write(gpa, from);
            }
            fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
                if self.1 > 0 && gpa == self.2 {
                    self.1 -= 1;
                    self.0
                        .write(gpa, &(self.3 | u64::from(self.1) << 52).to_le_bytes());
                }
                self.0.compare_exchange(gpa, exchange)
            }
        }
        let guest = one(PagingMode::Level4, W);
        let at = guest.entry_at(AT, 1);
        let moved = (DATA + 0x1000) | W | PRESENT;
        let mut memory = Racing(guest.memory(), 3, at, moved);
        let page = guest.registers.walk(&mut memory, AT, KERNEL, WRITE, true);
        assert_eq!(page.unwrap().gpa, DATA + 0x1000);
        assert_eq!(guest.word(at), moved | A | D);
        guest.put(at, moved);
        // One that never holds still is a page fault in the end.
        let mut memory = Racing(guest.memory(), u32::MAX, at, moved);
        let page = guest.registers.walk(&mut memory, AT, KERNEL, WRITE, true);
        assert_eq!(page.unwrap_err().error_code, 2);
    }

    /// A table that maps itself is marked like any page.
    #[test]
    fn recursive_tables() {
        let guest = one(PagingMode::Level4, W);
        let root = guest.registers.paging.cr3;
        guest.put(root + 8 * 511, root | W | PRESENT);
        assert_eq!(ask(&guest, !0xfff, KERNEL, WRITE), Ok(root));
        assert_eq!(guest.word(root + 8 * 511), root | W | PRESENT | A | D);
    }

    /// Section 4.4.1: the pointers are checked and kept when they are loaded.
    #[test]
    fn pae_pointers() {
        let mut guest = one(PagingMode::Pae, W | U);
        let index = AT >> 30 & 3;
        let at = guest.registers.paging.cr3 + 8 * index;
        let pointer = guest.word(at);
        let load = |guest: &Guest| guest.registers.load_pointers(&mut guest.memory());
        guest.put(at, 0);
        assert_eq!(ask(&guest, AT, KERNEL, READ), Ok(DATA), "kept in registers");
        guest.registers.pointers = load(&guest).unwrap();
        assert_eq!(ask(&guest, AT, KERNEL, READ), Err(0));
        for bit in (1..64).filter(|bit| !(12..40).contains(bit)) {
            guest.put(at, pointer | 1 << bit);
            let free = matches!(bit, 3 | 4 | 9 | 10 | 11);
            assert_eq!(load(&guest).is_ok(), free, "bit {bit}");
            guest.put(at, 1 << bit);
            assert!(load(&guest).is_ok(), "what is absent may hold anything");
        }
    }

    #[test]
    fn addresses_that_do_not_exist() {
        let guest = one(PagingMode::Level4, W);
        for linear in [1 << 47, u64::MAX << 46 << 1 & !(1 << 62), 1 << 63] {
            for access in ALL {
                let fault = guest
                    .registers
                    .walk(&mut guest.memory(), linear, KERNEL, access, true);
                assert_eq!(fault, Err(Fault::not_canonical(linear)), "{linear:#x}");
            }
        }
    }

    #[test]
    fn a20_masks_tables_and_pages() {
        let mut guest = Guest::new(PagingMode::Off);
        guest.registers.a20_masked = true;
        assert_eq!(guest.registers.physical(0x0010_ffef), 0xffef);
        assert_eq!(guest.registers.physical(0x0030_0000), 0x0020_0000);
        let mut guest = one(PagingMode::Bits32, W);
        guest.registers.paging.cr3 |= 1 << 20;
        // Where there is no memory, entries are all ones: bit 21 of a 4 MiB page is reserved.
        assert_eq!(ask(&guest, AT, KERNEL, READ), Err(9));
        guest.registers.a20_masked = true;
        assert_eq!(ask(&guest, AT, KERNEL, READ), Ok(DATA));
    }

    #[test]
    fn attributes_of_pages() {
        let mut guest = one(PagingMode::Level4, W | U | GLOBAL);
        let at = guest.entry_at(AT, 1);
        guest.put(at, guest.word(at) | 9 << KEY_SHIFT | NO_EXECUTE);
        let walk = |guest: &Guest, access| {
            guest
                .registers
                .walk(&mut guest.memory(), AT, KERNEL, access, true)
                .unwrap()
        };
        let rights = PageFlags::WRITABLE | PageFlags::USER | PageFlags::NO_EXECUTE;
        let page = walk(&guest, READ);
        assert_eq!((page.flags, page.key, page.bits), (rights, 9, 12));
        guest.registers.paging.cr4 |= PGE;
        let page = walk(&guest, WRITE);
        assert_eq!(page.flags, PageFlags::all());
        assert_eq!(Code::all().bits(), 0x3f);
    }
}
