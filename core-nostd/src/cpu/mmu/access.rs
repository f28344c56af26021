//! Checked accesses by linear address: loads, stores and fetches of 1 to 16 bytes.
//!
//! Source: Intel SDM volume 3, sections 4.6 to 4.8 (what may be accessed), 4.10.4.1 (a page fault
//! forgets the translations of its address), volume 1 section 3.3.7.1 (canonical addresses).
//!
//! An access that crosses into the next page checks both pages before anything is loaded, stored
//! or marked; the fault names the first byte in the page at fault, as CR2 does. A page whose
//! bytes no host pointer reaches goes byte for byte through [`PhysicalMemory`].
#![allow(unsafe_code)]

use super::Mmu;
use super::physical::{PAGE_BYTES, PhysicalMemory, Word};
use super::tables::PagingMode;
use super::walk::{Access, Fault, Mode, Page, PageFlags};
use crate::memory::Exchange;

/// Bytes of an access at most: an XMM register.
pub const ACCESS_MAX: usize = 16;

const OFFSET: u64 = PAGE_BYTES as u64 - 1;
/// The last linear address outside of long mode.
const LINEAR_32: u64 = 0xffff_ffff;

/// A part of an access, within one page.
#[derive(Clone, Copy)]
struct Span {
    /// Host address, if the access may be made there.
    host: Option<*mut u8>,
    /// Guest physical address, A20 masked.
    gpa: u64,
    /// Bytes.
    length: usize,
}

impl Span {
    const NONE: Self = Self {
        host: None,
        gpa: 0,
        length: 0,
    };

    fn load(&self, memory: &mut impl PhysicalMemory, to: &mut [u8]) {
        let Some(host) = self.host else {
            memory.read(self.gpa, to);
            return;
        };
        // SAFETY: `to` is as long as the span, which lies within the page.
        unsafe { load_bytes(host, to) }
    }

    fn store(&self, memory: &mut impl PhysicalMemory, from: &[u8]) {
        let Some(host) = self.host else {
            memory.write(self.gpa, from);
            return;
        };
        // SAFETY: `from` is as long as the span, which lies within the page.
        unsafe { store_bytes(host, from) }
    }
}

/// Loads bytes, by eight as far as it goes.
///
/// # Safety
/// They must be valid for loads, and no Rust reference may point there.
unsafe fn load_bytes(from: *const u8, to: &mut [u8]) {
    let (words, bytes) = to.as_chunks_mut::<8>();
    let rest = from.wrapping_add(8 * words.len());
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: within the bytes.
        *word = unsafe { u64::load(from.wrapping_add(8 * i)) }.to_le_bytes();
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: within the bytes.
        *byte = unsafe { u8::load(rest.wrapping_add(i)) };
    }
}

/// Stores bytes, likewise.
///
/// # Safety
/// They must be valid for stores, and no Rust reference may point there.
unsafe fn store_bytes(to: *mut u8, from: &[u8]) {
    let (words, bytes) = from.as_chunks::<8>();
    let rest = to.wrapping_add(8 * words.len());
    for (i, word) in words.iter().enumerate() {
        // SAFETY: within the bytes.
        unsafe { u64::from_le_bytes(*word).store(to.wrapping_add(8 * i)) };
    }
    for (i, byte) in bytes.iter().enumerate() {
        // SAFETY: within the bytes.
        unsafe { byte.store(rest.wrapping_add(i)) };
    }
}

/// The first and, where there is one, the second page of an access.
#[derive(Clone, Copy)]
struct Spans(Span, Span);

impl Spans {
    fn load(&self, memory: &mut impl PhysicalMemory, to: &mut [u8]) {
        let (first, second) = to.split_at_mut(self.0.length);
        self.0.load(memory, first);
        if !second.is_empty() {
            self.1.load(memory, second);
        }
    }

    fn store(&self, memory: &mut impl PhysicalMemory, from: &[u8]) {
        let (first, second) = from.split_at(self.0.length);
        self.0.store(memory, first);
        if !second.is_empty() {
            self.1.store(memory, second);
        }
    }

    /// The host address of an access that is within one page.
    fn host(&self) -> Option<*mut u8> {
        self.0.host.filter(|_| self.1.length == 0)
    }

    fn load_word<W: Word>(&self, memory: &mut impl PhysicalMemory) -> W {
        if let Some(host) = self.host() {
            // SAFETY: the span is of the word's size.
            return unsafe { W::load(host) };
        }
        let mut bytes = [0; 8];
        self.load(memory, &mut bytes[..W::SIZE]);
        W::from_bytes(bytes)
    }

    fn store_word<W: Word>(&self, memory: &mut impl PhysicalMemory, word: W) {
        if let Some(host) = self.host() {
            // SAFETY: the span is of the word's size.
            return unsafe { word.store(host) };
        }
        self.store(memory, &word.to_bytes()[..W::SIZE]);
    }
}

impl Mmu {
    /// Loads a word.
    ///
    /// # Errors
    /// The exception that the access raises.
    #[inline]
    pub fn read<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
    ) -> Result<W, Fault> {
        self.read_as(memory, linear, mode, Access::Read)
    }

    /// Loads a word with the rights of this kind of access.
    #[inline]
    fn read_as<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        access: Access,
    ) -> Result<W, Fault> {
        if within_page(linear, W::SIZE)
            && let Some(host) = self.tlb.hit(linear, mode, access)
        {
            // SAFETY: the page's bytes are valid by the contract of `PhysicalMemory`, and the word
            // is within it.
            return Ok(unsafe { W::load(host) });
        }
        self.read_anywhere(memory, linear, mode, access)
    }

    /// Loads a word whose page is not ready. Apart from the rest, because that is in each instruction.
    #[cold]
    #[inline(never)]
    fn read_anywhere<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        access: Access,
    ) -> Result<W, Fault> {
        let spans = self.spans(memory, linear, W::SIZE, mode, access)?;
        Ok(spans.load_word(memory))
    }

    /// Stores a word.
    ///
    /// # Errors
    /// The exception that the access raises; nothing is stored then.
    #[inline]
    pub fn write<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        word: W,
    ) -> Result<(), Fault> {
        if within_page(linear, W::SIZE)
            && let Some(host) = self.tlb.hit(linear, mode, Access::Write)
        {
            // SAFETY: as in `read_as`, and stores are allowed.
            unsafe { word.store(host) };
            return Ok(());
        }
        self.write_anywhere(memory, linear, mode, word)
    }

    /// Stores a word to a page that is not ready.
    #[cold]
    #[inline(never)]
    fn write_anywhere<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        word: W,
    ) -> Result<(), Fault> {
        let spans = self.spans(memory, linear, W::SIZE, mode, Access::Write)?;
        spans.store_word(memory, word);
        self.stored(memory);
        Ok(())
    }

    /// Follows what a store that was not by pointer has changed: the very next access may be to another thing at the same
    /// address.
    fn stored(&mut self, memory: &mut impl PhysicalMemory) {
        if memory.remapped() {
            self.tlb.forget_host();
        }
    }

    /// Loads a word, if its page is ready; else the caller must take the long way.
    #[inline(always)]
    pub fn try_read<W: Word>(&self, linear: u64, mode: Mode) -> Option<W> {
        let host = self.tlb.hit(linear, mode, Access::Read)?;
        // SAFETY: as in `read_as`.
        within_page(linear, W::SIZE).then(|| unsafe { W::load(host) })
    }

    /// Stores a word, if its page is ready, and says whether.
    #[inline(always)]
    pub fn try_write<W: Word>(&mut self, linear: u64, mode: Mode, word: W) -> bool {
        let host = self.tlb.hit(linear, mode, Access::Write);
        match host.filter(|_| within_page(linear, W::SIZE)) {
            Some(host) => {
                // SAFETY: as in `write`.
                unsafe { word.store(host) };
                true
            }
            None => false,
        }
    }

    /// Loads two words side by side, the first one low, if their page is ready.
    #[inline(always)]
    pub fn try_read_double(&self, linear: u64, mode: Mode) -> Option<u128> {
        let host = self.tlb.hit(linear, mode, Access::Read)?;
        within_page(linear, 16).then(|| {
            // SAFETY: as in `try_read`, of two words.
            let (low, high) = unsafe { (u64::load(host), u64::load(host.wrapping_add(8))) };
            u128::from(low) | u128::from(high) << 64
        })
    }

    /// Stores two words side by side, if their page is ready, and says whether.
    #[inline(always)]
    pub fn try_write_double(&mut self, linear: u64, mode: Mode, words: u128) -> bool {
        let host = self.tlb.hit(linear, mode, Access::Write);
        let Some(host) = host.filter(|_| within_page(linear, 16)) else {
            return false;
        };
        // SAFETY: as in `try_write`, of two words.
        unsafe {
            (words as u64).store(host);
            ((words >> 64) as u64).store(host.wrapping_add(8));
        }
        true
    }

    /// Changes a word, if its page is ready.
    #[inline(always)]
    pub fn try_modify<W: Word, R>(
        &mut self,
        linear: u64,
        mode: Mode,
        change: impl FnOnce(W) -> (W, R),
    ) -> Option<R> {
        let host = self.tlb.hit(linear, mode, Access::Write)?;
        if !within_page(linear, W::SIZE) {
            return None;
        }
        // SAFETY: as in `write`; what may be stored to may be loaded from.
        let (word, result) = change(unsafe { W::load(host) });
        // SAFETY: as in `write`.
        unsafe { word.store(host) };
        Some(result)
    }

    /// Makes a page ready for accesses by [`Mmu::try_read`] and the like, as far as its first bytes of
    /// an access are at `linear` and none behind the page. False where it can't be: what the access
    /// raises, or whatever else is special, is for the long way to find out.
    #[cold]
    pub fn prepare(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        access: Access,
    ) -> bool {
        within_page(linear, size_of::<u64>())
            && self.spans(memory, linear, 1, mode, access).is_ok()
            && self.tlb.hit(linear, mode, access).is_some()
    }

    /// Loads a word that is stored again afterwards: raises what the store would raise.
    ///
    /// # Errors
    /// The exception that a store raises.
    #[inline]
    pub fn read_to_modify<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
    ) -> Result<W, Fault> {
        self.read_as(memory, linear, mode, Access::Write)
    }

    /// Replaces a word if it is `current`, else says what it is: what instructions with LOCK are
    /// made of. It is one step where the word is aligned and may be stored to at once, or has 4
    /// or 8 bytes; else only other processors, which take turns with this one, can't interfere.
    ///
    /// # Errors
    /// The exception that a store raises.
    pub fn compare_exchange<W: Word>(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        current: W,
        new: W,
    ) -> Result<Result<(), W>, Fault> {
        let aligned = linear.is_multiple_of(W::SIZE as u64);
        if aligned && let Some(host) = self.tlb.hit(linear, mode, Access::Write) {
            // SAFETY: as in `write`; an aligned word is within the page, which is aligned.
            return Ok(unsafe { current.exchange(host, new) });
        }
        let spans = self.spans(memory, linear, W::SIZE, mode, Access::Write)?;
        if let Some(host) = spans.host().filter(|_| aligned) {
            // SAFETY: the word is within the page, aligned as the page is.
            return Ok(unsafe { current.exchange(host, new) });
        }
        let found: W = spans.load_word(memory);
        if found != current {
            return Ok(Err(found));
        }
        let (old, replacement) = (
            u64::from_le_bytes(current.to_bytes()),
            u64::from_le_bytes(new.to_bytes()),
        );
        let exchange = match W::SIZE {
            4 => Some(Exchange::Bits32 {
                current: old as u32,
                new: replacement as u32,
            }),
            8 => Some(Exchange::Bits64 {
                current: old,
                new: replacement,
            }),
            _ => None,
        };
        let gpa = spans.0.gpa;
        let in_memory = memory.page(gpa & !OFFSET).pointer.is_some();
        if let Some(exchange) = exchange.filter(|_| aligned && in_memory) {
            if !memory.compare_exchange(gpa, exchange) {
                return Ok(Err(spans.load_word(memory)));
            }
        } else {
            spans.store_word(memory, new);
        }
        Ok(Ok(()))
    }

    /// Loads [`ACCESS_MAX`] bytes or fewer.
    ///
    /// # Errors
    /// The exception that the access raises.
    pub fn read_bytes(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        self.transfer(memory, linear, mode, Access::Read, to)
    }

    /// Loads instruction bytes, [`ACCESS_MAX`] or fewer.
    ///
    /// # Errors
    /// The exception that the fetch raises. A decoder that does not know yet whether the
    /// instruction goes on in the next page asks for the bytes of this one first.
    pub fn fetch(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        self.transfer(memory, linear, mode, Access::Execute, to)
    }

    fn transfer(
        &mut self,
        memory: &mut impl PhysicalMemory,
        mut linear: u64,
        mode: Mode,
        access: Access,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        // More than an access is several, without the promise that all of it is checked first.
        for to in to.chunks_mut(ACCESS_MAX) {
            if within_page(linear, to.len())
                && let Some(host) = self.tlb.hit(linear, mode, access)
            {
                // SAFETY: as in `read_as`.
                unsafe { load_bytes(host, to) };
            } else {
                self.spans(memory, linear, to.len(), mode, access)?
                    .load(memory, to);
            }
            linear = self.add(linear, to.len());
        }
        Ok(())
    }

    /// Stores [`ACCESS_MAX`] bytes or fewer.
    ///
    /// # Errors
    /// The exception that the access raises; nothing is stored then.
    pub fn write_bytes(
        &mut self,
        memory: &mut impl PhysicalMemory,
        mut linear: u64,
        mode: Mode,
        from: &[u8],
    ) -> Result<(), Fault> {
        for from in from.chunks(ACCESS_MAX) {
            if within_page(linear, from.len())
                && let Some(host) = self.tlb.hit(linear, mode, Access::Write)
            {
                // SAFETY: as in `write`.
                unsafe { store_bytes(host, from) };
            } else {
                self.spans(memory, linear, from.len(), mode, Access::Write)?
                    .store(memory, from);
                self.stored(memory);
            }
            linear = self.add(linear, from.len());
        }
        Ok(())
    }

    /// Where an instruction is in guest physical memory: decoded code is kept by this.
    ///
    /// # Errors
    /// The exception that the fetch of its first byte raises.
    #[inline]
    pub fn fetch_address(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
    ) -> Result<u64, Fault> {
        if let Some(gpa) = self.tlb.hit_frame(linear, mode) {
            return Ok(gpa);
        }
        self.translate(memory, linear, mode, Access::Execute)
    }

    /// Copies elements of 1, 2, 4 or 8 bytes upwards, one after the other, as far as both places are
    /// plain memory that is ready to be accessed and lie in their first pages: how many. It may be
    /// none; the caller copies the next one by [`Mmu::read`] and [`Mmu::write`].
    pub fn copy(&mut self, from: u64, to: u64, count: usize, bytes: u8, mode: Mode) -> usize {
        let Some(source) = self.tlb.hit(from, mode, Access::Read) else {
            return 0;
        };
        let Some(target) = self.tlb.hit(to, mode, Access::Write) else {
            return 0;
        };
        let bytes = usize::from(bytes);
        let room = |linear: u64| PAGE_BYTES - (linear & OFFSET) as usize;
        let count = count.min(room(from).min(room(to)) / bytes);
        // A target that begins within the eight bytes before it takes what was stored just now.
        let overlap = target.addr().wrapping_sub(source.addr()) < 8;
        let (mut done, length) = (0, count * bytes);
        // SAFETY: both places are valid up to the end of their pages.
        unsafe {
            while !overlap && done + 8 <= length {
                u64::load(source.wrapping_add(done)).store(target.wrapping_add(done));
                done += 8;
            }
            while done < length {
                let (source, target) = (source.wrapping_add(done), target.wrapping_add(done));
                match bytes {
                    1 => u8::load(source).store(target),
                    2 => u16::load(source).store(target),
                    4 => u32::load(source).store(target),
                    _ => u64::load(source).store(target),
                }
                done += bytes;
            }
        }
        count
    }

    /// Stores an element of 1, 2, 4 or 8 bytes again and again, as [`Mmu::copy`] copies.
    pub fn fill(&mut self, to: u64, value: u64, count: usize, bytes: u8, mode: Mode) -> usize {
        let Some(target) = self.tlb.hit(to, mode, Access::Write) else {
            return 0;
        };
        let bytes = usize::from(bytes);
        let count = count.min((PAGE_BYTES - (to & OFFSET) as usize) / bytes);
        let pattern = match bytes {
            1 => (value & 0xff).wrapping_mul(0x0101_0101_0101_0101),
            2 => (value & 0xffff).wrapping_mul(0x0001_0001_0001_0001),
            4 => (value & 0xffff_ffff).wrapping_mul(0x0000_0001_0000_0001),
            _ => value,
        };
        let (mut done, length) = (0, count * bytes);
        // SAFETY: the place is valid up to the end of its page.
        unsafe {
            while done + 8 <= length {
                pattern.store(target.wrapping_add(done));
                done += 8;
            }
            while done < length {
                let target = target.wrapping_add(done);
                match bytes {
                    1 => (pattern as u8).store(target),
                    2 => (pattern as u16).store(target),
                    4 => (pattern as u32).store(target),
                    _ => pattern.store(target),
                }
                done += bytes;
            }
        }
        count
    }

    /// Guest physical address, A20 masked, of an access that is made now: accessed and dirty
    /// flags are set.
    ///
    /// # Errors
    /// The exception that the access raises.
    pub fn translate(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        access: Access,
    ) -> Result<u64, Fault> {
        Ok(self.spans(memory, linear, 1, mode, access)?.0.gpa)
    }

    /// An address further on, at the beginning again behind the end of the address space.
    fn add(&self, linear: u64, length: usize) -> u64 {
        let next = linear.wrapping_add(length as u64);
        if self.registers.paging.mode().is_long() {
            next
        } else {
            next & LINEAR_32
        }
    }

    /// Both pages of an access, checked and marked, neither before the other is known to be good.
    #[cold]
    fn spans(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        length: usize,
        mode: Mode,
        access: Access,
    ) -> Result<Spans, Fault> {
        let linear = self.add(linear, 0);
        let paging = self.registers.paging.mode();
        let first = length.min(PAGE_BYTES - (linear & OFFSET) as usize);
        let rest = length - first;
        let next = self.add(linear, first);
        if !paging.has_address(linear) {
            return Err(Fault::not_canonical(linear));
        }
        if rest == 0 {
            let span = self.span(memory, linear, first, mode, access)?;
            return Ok(Spans(span, Span::NONE));
        }
        if !paging.has_address(next) {
            return Err(Fault::not_canonical(next));
        }
        self.page(memory, linear, mode, access, false)?;
        self.page(memory, next, mode, access, false)?;
        Ok(Spans(
            self.span(memory, linear, first, mode, access)?,
            self.span(memory, next, rest, mode, access)?,
        ))
    }

    /// One page of an access: from the hot table, or into it.
    fn span(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        length: usize,
        mode: Mode,
        access: Access,
    ) -> Result<Span, Fault> {
        let page = self.page(memory, linear, mode, access, true)?;
        let frame = self.registers.physical(page.frame(linear));
        let host = memory.page(frame);
        let dirty = page.flags.contains(PageFlags::DIRTY);
        let [read, write, execute] = self.registers.rights(&page, mode);
        let allowed = [read, write && dirty, execute];
        self.tlb.heat(linear, mode, &page, frame, host, allowed);
        let offset = linear & OFFSET;
        let direct = access != Access::Write || host.write;
        let device = host.pointer.is_none();
        let host = host.pointer.filter(|_| direct);
        if device && !memory.admits_devices() {
            return Err(Fault::later(linear));
        }
        Ok(Span {
            host: host.map(|page| page.as_ptr().wrapping_add(offset as usize)),
            gpa: frame | offset,
            length,
        })
    }

    /// The page of an address for an access that is allowed: remembered, or found in the tables.
    /// With `update`, its flags are set in the tables and it is remembered.
    fn page(
        &mut self,
        memory: &mut impl PhysicalMemory,
        linear: u64,
        mode: Mode,
        access: Access,
        update: bool,
    ) -> Result<Page, Fault> {
        let registers = &self.registers;
        if registers.paging.mode() == PagingMode::Off {
            return registers.walk(memory, linear, mode, access, update);
        }
        let context = self.context();
        let known = self.tlb.find(linear, context);
        if let Some(page) = known {
            let marked =
                !update || access != Access::Write || page.flags.contains(PageFlags::DIRTY);
            if marked && registers.check(&page, mode, access).is_ok() {
                return Ok(page);
            }
        }
        // What is remembered does not do. The tables may allow more by now, as they may without
        // an invalidation.
        match registers.walk(memory, linear, mode, access, update) {
            Ok(page) => {
                if known.is_some_and(|known| known.bits != page.bits) {
                    self.tlb.forget_page(linear, context, true);
                }
                if update {
                    self.tlb.insert(linear, context, &page);
                }
                Ok(page)
            }
            Err(fault) => {
                self.tlb.forget_page(linear, context, true);
                Err(fault)
            }
        }
    }
}

/// Whether an access ends in the page of 4 KiB that it begins in.
#[inline]
const fn within_page(linear: u64, length: usize) -> bool {
    linear & OFFSET <= (PAGE_BYTES - length) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::mmu::tables::GLOBAL;
    use crate::cpu::mmu::testing::*;
    use crate::cpu::mmu::{FaultKind, HostPage, Invpcid, MmuRegisters, RamOnly};
    use crate::memory::{Exchange, GuestRam};
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    const KERNEL: Mode = Mode::Supervisor;
    const USER: Mode = Mode::User;

    /// Zeroed memory is an empty unit.
    fn mmu(guest: &Guest) -> Box<Mmu> {
        // SAFETY: integers, flags without invalid values, and enums that are not stored.
        let mut mmu = unsafe { Box::<Mmu>::new_zeroed().assume_init() };
        mmu.load(&guest.registers, &mut guest.memory());
        mmu
    }

    fn word(guest: &Guest, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        guest.ram.read(gpa, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Long mode with two pages at [`AT`], one global.
    fn long() -> (Guest, Box<Mmu>) {
        let mut guest = Guest::new(PagingMode::Level4);
        guest.registers.paging.cr4 |= PGE | PCIDE;
        guest.map(AT, DATA, W | U, 12);
        guest.map(AT + 0x1000, DATA + 0x3000, W | U | GLOBAL, 12);
        for page in 0..16u64 {
            let gpa = DATA + page * 0x1000;
            guest.ram.write(gpa, &page.to_le_bytes()).unwrap();
        }
        let mmu = mmu(&guest);
        (guest, mmu)
    }

    #[test]
    fn loads_and_stores_of_all_sizes() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        for _ in 0..2 {
            for offset in [0, 1, 0xff8, 0xff9, 0xffd, 0xfff] {
                let at = AT + offset;
                mmu.write(memory, at, USER, 0x1122_3344_5566_7788u64)
                    .unwrap();
                assert_eq!(mmu.read(memory, at, USER), Ok(0x1122_3344_5566_7788u64));
                assert_eq!(mmu.read(memory, at + 1, USER), Ok(0x4455_6677u32));
                assert_eq!(mmu.read(memory, at + 6, KERNEL), Ok(0x1122u16));
                assert_eq!(mmu.read_to_modify(memory, at, USER), Ok(0x88u8));
                let mut bytes = [0; 16];
                for i in 0..16 {
                    bytes[i as usize] = i ^ offset as u8;
                }
                mmu.write_bytes(memory, at, USER, &bytes).unwrap();
                let mut back = [0; 16];
                mmu.read_bytes(memory, at, USER, &mut back).unwrap();
                assert_eq!(back, bytes);
                mmu.fetch(memory, at, USER, &mut back[..15]).unwrap();
                assert_eq!(back, bytes);
            }
        }
        // The second page is elsewhere.
        mmu.write(memory, AT + 0xffe, USER, 0x0403_0201u32).unwrap();
        assert_eq!(word(&guest, DATA + 0xff8) >> 48, 0x0201);
        assert_eq!(word(&guest, DATA + 0x3000) & 0xffff, 0x0403);
        assert_eq!(
            mmu.fetch_address(memory, AT + 0x1010, USER),
            Ok(DATA + 0x3010)
        );
        assert_eq!(
            mmu.fetch_address(memory, AT + 0x1020, USER),
            Ok(DATA + 0x3020)
        );
        assert_eq!(
            mmu.translate(memory, AT + 5, USER, Access::Write),
            Ok(DATA + 5)
        );
    }

    #[test]
    fn both_pages_are_checked_before_anything_is_stored() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        // The third page is absent, the second read-only.
        let at = guest.entry_at(AT + 0x1000, 1);
        for (entry, from, to, code) in [
            (guest.word(at) & !W, AT + 0xffc, AT + 0x1000, 7),
            (guest.word(at), AT + 0x1ff9, AT + 0x2000, 6),
        ] {
            guest.put(at, entry);
            mmu.invlpg(AT + 0x1000);
            let before = word(&guest, DATA + 0xff8);
            let fault = mmu.write(memory, from, USER, u64::MAX).unwrap_err();
            assert_eq!((fault.kind, fault.error_code), (FaultKind::Page, code));
            assert_eq!(fault.linear, to);
            assert!(mmu.write_bytes(memory, from, USER, &[1; 16]).is_err());
            assert!(mmu.read_to_modify::<u64>(memory, from, USER).is_err());
            assert_eq!(word(&guest, DATA + 0xff8), before);
            assert_eq!(guest.word(guest.entry_at(AT, 1)) & (A | D), 0);
            assert_eq!(guest.word(at) & (A | D), 0);
        }
        // The first page counts first.
        guest.put(guest.entry_at(AT, 1), 0);
        guest.put(at, 0);
        mmu.invpcid(Invpcid::All);
        let fault = mmu.read::<u64>(memory, AT + 0xfff, KERNEL).unwrap_err();
        assert_eq!((fault.error_code, fault.linear), (0, AT + 0xfff));
    }

    #[test]
    fn addresses_that_end() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        for linear in [(1 << 47) - 4, 1 << 47, (u64::MAX << 47) - 1, 1 << 63] {
            let fault = mmu.read::<u64>(memory, linear, KERNEL).unwrap_err();
            assert_eq!((fault.kind, fault.error_code), (FaultKind::NotCanonical, 0));
        }
        // From the last byte of the address space to the first.
        let fault = mmu.read::<u64>(memory, u64::MAX, KERNEL).unwrap_err();
        assert_eq!((fault.kind, fault.linear), (FaultKind::Page, u64::MAX));
        // 32-bit linear addresses wrap.
        let guest = Guest::new(PagingMode::Off);
        let memory = &mut guest.memory();
        let mut mmu = self::mmu(&guest);
        guest.ram.write(0, &[1, 2, 3, 4]).unwrap();
        assert_eq!(mmu.read(memory, 0xffff_fffe, USER), Ok(0x0201_ffffu32));
        assert_eq!(mmu.read(memory, 1 << 32, USER), Ok(0x0403_0201u32));
        mmu.set_a20(false);
        assert_eq!(mmu.read(memory, 0x10_0001, USER), Ok(0x0302u16));
        mmu.set_a20(true);
        assert_eq!(mmu.read(memory, 0x10_0001, USER), Ok(0xffffu16));
    }

    #[test]
    fn pages_of_all_modes() {
        use PagingMode::{Bits32, Level4, Level5, Pae};
        for mode in [Bits32, Pae, Level4, Level5] {
            let mut guest = Guest::new(mode);
            guest.map(AT, DATA, W | U, 12);
            // The large page is all of RAM, and the tables' place is seen through it.
            let large = 0x8080_0000;
            guest.map(large, 0, W | U, mode.large());
            let mut mmu = mmu(&guest);
            let memory = &mut guest.memory();
            for round in 0..3u64 {
                mmu.write(memory, AT + 8, USER, round).unwrap();
                assert_eq!(mmu.read(memory, large + DATA + 8, USER), Ok(round));
                mmu.write(memory, large + DATA + 16, KERNEL, !round)
                    .unwrap();
                assert_eq!(mmu.read(memory, AT + 16, KERNEL), Ok(!round));
                // The last bytes of the page, and what follows it.
                let last = large + (1 << mode.large()) - 4;
                assert_eq!(mmu.read(memory, last, USER), Ok(u32::MAX));
                let fault = mmu.read::<u64>(memory, last, USER).unwrap_err();
                assert_eq!((fault.error_code, fault.linear), (4, last + 4));
                let entry = guest.word(guest.entry_at(large, 2));
                assert_eq!(entry & (A | D), A | D);
            }
            mmu.write_pkru(u32::MAX);
            assert_eq!(
                mmu.read(memory, AT + 8, USER),
                Ok(2u64),
                "keys are not enabled"
            );
        }
    }

    #[test]
    fn exchanges_of_locked_instructions() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        for offset in [8, 9, 0xffd] {
            let at = AT + offset;
            mmu.write(memory, at, USER, 5u32).unwrap();
            assert_eq!(mmu.compare_exchange(memory, at, USER, 4u32, 6), Ok(Err(5)));
            assert_eq!(mmu.compare_exchange(memory, at, USER, 5u32, 6), Ok(Ok(())));
            assert_eq!(mmu.read(memory, at, USER), Ok(6u32));
        }
        assert!(
            mmu.compare_exchange(memory, AT + 0x2000, USER, 0u8, 1)
                .is_err()
        );
    }

    /// Memory with pages that must be noticed: devices, ROM, decoded code.
    struct Watched<'a> {
        ram: RamOnly<'a>,
        devices: BTreeSet<u64>,
        code: BTreeSet<u64>,
        noticed: Vec<(u64, Vec<u8>)>,
        lookups: usize,
        remapped: bool,
    }

    // SAFETY: as the memory that it wraps.
    unsafe impl PhysicalMemory for Watched<'_> {
        fn page(&mut self, gpa: u64) -> HostPage {
            self.lookups += 1;
            let page = self.ram.page(gpa);
            HostPage {
                pointer: page.pointer.filter(|_| !self.devices.contains(&gpa)),
                write: page.write && !self.code.contains(&gpa),
            }
        }
        fn read(&mut self, gpa: u64, to: &mut [u8]) {
            self.noticed.push((gpa, Vec::new()));
            self.ram.read(gpa, to);
        }
        fn write(&mut self, gpa: u64, from: &[u8]) {
            self.noticed.push((gpa, from.to_vec()));
            self.code.remove(&(gpa & !0xfff));
            self.ram.write(gpa, from);
        }
        fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
            self.ram.compare_exchange(gpa, exchange)
        }
        fn remapped(&mut self) -> bool {
            self.remapped
        }
    }

    fn watched(guest: &Guest) -> Watched<'_> {
        Watched {
            ram: guest.memory(),
            devices: BTreeSet::new(),
            code: BTreeSet::new(),
            noticed: Vec::new(),
            lookups: 0,
            remapped: false,
        }
    }

    #[test]
    fn stores_to_code_and_devices_are_noticed() {
        let (guest, mut mmu) = long();
        let mut memory = watched(&guest);
        mmu.write(&mut memory, AT + 8, USER, 1u32).unwrap();
        mmu.write(&mut memory, AT + 8, KERNEL, 1u32).unwrap();
        assert!(memory.noticed.is_empty());
        // Code is decoded: each table forgets that it may store, not that it may load.
        memory.code.insert(DATA);
        mmu.tlb().forget_writes(DATA + 0x123);
        let lookups = memory.lookups;
        assert_eq!(mmu.read(&mut memory, AT + 8, USER), Ok(1u32));
        assert_eq!(memory.lookups, lookups, "still hot");
        mmu.write(&mut memory, AT + 8, KERNEL, 2u16).unwrap();
        assert_eq!(memory.noticed.pop(), Some((DATA + 8, std::vec![2, 0])));
        memory.code.insert(DATA);
        mmu.write(&mut memory, AT + 9, USER, 3u8).unwrap();
        assert_eq!(memory.noticed.pop(), Some((DATA + 9, std::vec![3])));
        // The code is gone, so stores are nobody's business again.
        mmu.write(&mut memory, AT + 10, USER, 4u8).unwrap();
        assert!(memory.noticed.is_empty());
        // A locked instruction on a page with code.
        memory.code.insert(DATA);
        mmu.tlb().forget_writes(DATA);
        assert_eq!(
            mmu.compare_exchange(&mut memory, AT + 8, USER, 0x0004_0302u32, 9),
            Ok(Ok(()))
        );
        assert_eq!(mmu.read(&mut memory, AT + 8, USER), Ok(9u32));
        // A device is mapped over the page: loads and stores go there once pointers are forgotten.
        memory.code.clear();
        memory.noticed.clear();
        memory.devices.insert(DATA);
        mmu.tlb().forget_host();
        for _ in 0..2 {
            assert_eq!(mmu.read(&mut memory, AT + 8, USER), Ok(9u32));
            assert_eq!(memory.noticed.pop(), Some((DATA + 8, Vec::new())));
        }
        mmu.write(&mut memory, AT + 0xffe, USER, 0x0403_0201u32)
            .unwrap();
        assert_eq!(memory.noticed, [(DATA + 0xffe, std::vec![1, 2])]);
    }

    /// As flash that gives its status instead of its contents once it is written to.
    #[test]
    fn a_store_that_remaps_is_followed_at_once() {
        let (guest, mut mmu) = long();
        let mut memory = watched(&guest);
        for bytes in [0, 1, 9] {
            memory.devices.clear();
            memory.remapped = false;
            memory.code.insert(DATA);
            mmu.tlb().forget_host();
            memory.noticed.clear();
            mmu.read::<u8>(&mut memory, AT, USER).unwrap();
            assert!(memory.noticed.is_empty());
            memory.devices.insert(DATA);
            memory.remapped = true;
            match bytes {
                0 => mmu.write(&mut memory, AT, USER, 0x70u8).unwrap(),
                _ => {
                    let from = &[0x70; 9][..bytes];
                    mmu.write_bytes(&mut memory, AT, USER, from).unwrap();
                }
            }
            memory.noticed.clear();
            mmu.read::<u8>(&mut memory, AT, USER).unwrap();
            assert_eq!(memory.noticed, [(DATA, Vec::new())], "{bytes}");
        }
    }

    #[test]
    fn hits_ask_nobody() {
        let (guest, mut mmu) = long();
        let mut memory = watched(&guest);
        for mode in [USER, KERNEL] {
            mmu.write(&mut memory, AT, mode, 7u64).unwrap();
            let lookups = memory.lookups;
            for offset in 0..100 {
                mmu.write(&mut memory, AT + offset, mode, offset).unwrap();
                mmu.read::<u64>(&mut memory, AT + offset, mode).unwrap();
                mmu.fetch_address(&mut memory, AT + offset, mode).unwrap();
            }
            assert_eq!(memory.lookups, lookups);
        }
    }

    /// Section 4.8: a page that was only read is marked dirty by the first store that follows.
    #[test]
    fn the_first_store_marks_the_page() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        let at = guest.entry_at(AT, 1);
        for mode in [KERNEL, USER] {
            guest.put(at, guest.word(at) & !(A | D));
            mmu.invlpg(AT);
            mmu.read::<u8>(memory, AT, mode).unwrap();
            assert_eq!(guest.word(at) & (A | D), A);
            mmu.write(memory, AT, mode, 1u8).unwrap();
            assert_eq!(guest.word(at) & (A | D), A | D);
        }
    }

    /// What each invalidation takes and leaves, seen by tables that were changed behind it.
    #[test]
    fn invalidations() {
        // Contexts 1 and 2 have the same tables; the second page is global. Which of the pages
        // are still remembered in which context afterwards: (local in 1, local in 2, global).
        type Operation = fn(&mut Mmu, &mut RamOnly<'_>);
        let cr3 = |pcid: u64| 0x1000 | pcid;
        let cases: [(&str, Operation, [bool; 3]); 16] = [
            ("nothing", |_, _| (), [true, true, true]),
            (
                "invlpg local",
                |m, _| m.invlpg(AT + 0xfff),
                [false, true, true],
            ),
            (
                "invlpg global",
                |m, _| m.invlpg(AT + 0x1000),
                [true, true, false],
            ),
            (
                "invpcid 0",
                |m, _| {
                    m.invpcid(Invpcid::Address {
                        pcid: 2,
                        linear: AT,
                    })
                },
                [true, false, true],
            ),
            (
                "invpcid 0 of a global page",
                |m, _| {
                    m.invpcid(Invpcid::Address {
                        pcid: 1,
                        linear: AT + 0x1000,
                    })
                },
                [true, true, true],
            ),
            (
                "invpcid 1",
                |m, _| m.invpcid(Invpcid::Context { pcid: 2 }),
                [true, false, true],
            ),
            ("invpcid 2", |m, _| m.invpcid(Invpcid::All), [false; 3]),
            (
                "invpcid 3",
                |m, _| m.invpcid(Invpcid::AllButGlobal),
                [false, false, true],
            ),
            (
                "mov cr3",
                |m, memory| m.write_cr3(0x1001, memory).unwrap(),
                [false, true, true],
            ),
            (
                "mov cr3, keeping",
                |m, memory| m.write_cr3(0x1001 | 1 << 63, memory).unwrap(),
                [true, true, true],
            ),
            (
                "CR0.WP",
                |m, memory| m.write_cr0(PG, LMA | NXE, memory).unwrap(),
                [true, true, true],
            ),
            (
                "CR4.SMAP",
                |m, memory| m.write_cr4(PAE | PGE | PCIDE | SMAP, memory).unwrap(),
                [true, true, true],
            ),
            (
                "CR4.PGE",
                |m, memory| {
                    m.write_cr4(PAE | PCIDE, memory).unwrap();
                    m.write_cr4(PAE | PGE | PCIDE, memory).unwrap();
                },
                [false; 3],
            ),
            (
                "CR4.SMEP",
                |m, memory| m.write_cr4(PAE | PGE | PCIDE | SMEP, memory).unwrap(),
                [false; 3],
            ),
            ("EFER.NXE", |m, _| m.write_efer(LMA), [false; 3]),
            ("PKRU", |m, _| m.write_pkru(4), [true; 3]),
        ];
        for (name, operation, expected) in cases {
            let (guest, mut mmu) = long();
            let memory = &mut guest.memory();
            // CR3's bit 63 keeps translations.
            let enter = |mmu: &mut Mmu, pcid| {
                let memory = &mut guest.memory();
                mmu.write_cr3(cr3(pcid) | 1 << 63, memory).unwrap();
            };
            // User-mode loads, which CR4.SMAP does not refuse.
            for pcid in [2, 1] {
                enter(&mut mmu, pcid);
                assert_eq!(mmu.registers().paging.cr3, cr3(pcid));
                assert_eq!(mmu.read(memory, AT, USER), Ok(0u64));
                assert_eq!(mmu.read(memory, AT + 0x1000, USER), Ok(3u64));
            }
            for (linear, page) in [(AT, 5), (AT + 0x1000, 6)] {
                let at = guest.entry_at(linear, 1);
                let flags = guest.word(at) & 0xfff;
                guest.put(at, (DATA + page * 0x1000) | flags);
            }
            operation(&mut mmu, memory);
            let mut read = |mmu: &mut Mmu, linear| mmu.read::<u64>(memory, linear, USER).unwrap();
            let first = read(&mut mmu, AT) == 0;
            let global = read(&mut mmu, AT + 0x1000) == 3;
            enter(&mut mmu, 2);
            let second = read(&mut mmu, AT) == 0;
            assert_eq!([first, second, global], expected, "{name}");
        }
        // Without contexts, MOV to CR3 takes all but global pages (section 4.10.4.1).
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        mmu.write_cr4(PAE | PGE, memory).unwrap();
        for linear in [AT, AT + 0x1000] {
            mmu.read::<u64>(memory, linear, USER).unwrap();
            guest.put(guest.entry_at(linear, 1), 0);
        }
        mmu.write_cr3(0x1000, memory).unwrap();
        assert!(mmu.read::<u64>(memory, AT, USER).is_err());
        assert_eq!(mmu.read(memory, AT + 0x1000, USER), Ok(3u64));
        mmu.write_cr0(0, 0, memory).unwrap();
        mmu.write_cr0(PG, LMA | NXE, memory).unwrap();
        assert!(mmu.read::<u64>(memory, AT + 0x1000, USER).is_err());
    }

    /// Section 4.10.4.1: INVLPG takes the whole of a large page, however it is remembered.
    #[test]
    fn invlpg_of_large_pages() {
        for size in [21, 30] {
            let mut guest = Guest::new(PagingMode::Level4);
            guest.map(AT, 0, W | U, size);
            let mut mmu = mmu(&guest);
            let memory = &mut guest.memory();
            let start = AT & !((1 << size) - 1);
            // Some in RAM, some without host memory, in one or several entries of 2 MiB.
            let far = (1 << (size - 3)) + if size == 30 { 0x20_0000 } else { 0 };
            let pages = [0, 0x3000, 0x8000, 0x2_1000, far, 3 * far, 6 * far].map(|at| start + at);
            for linear in pages {
                mmu.read::<u8>(memory, linear, USER).unwrap();
            }
            guest.put(guest.entry_at(AT, if size == 30 { 3 } else { 2 }), 0);
            for linear in pages {
                assert!(mmu.read::<u8>(memory, linear, USER).is_ok(), "{linear:#x}");
            }
            mmu.invlpg(start + 5 * far + 0x5123);
            for linear in pages {
                assert!(mmu.read::<u8>(memory, linear, USER).is_err(), "{linear:#x}");
            }
        }
    }

    /// Sections 4.10.4.1 and 4.10.4.3: a fault comes from the tables, and forgets the page.
    #[test]
    fn faults_are_never_stale() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        let at = guest.entry_at(AT, 1);
        guest.put(at, guest.word(at) & !W);
        assert_eq!(mmu.read(memory, AT, USER), Ok(0u64));
        assert!(mmu.write(memory, AT, USER, 1u8).is_err());
        // More rights need no invalidation.
        guest.put(at, guest.word(at) | W);
        mmu.write(memory, AT + 8, USER, 1u8).unwrap();
        // Less do, unless a fault has forgotten them.
        guest.put(at, guest.word(at) & !(W | U));
        assert_eq!(mmu.read(memory, AT, USER), Ok(0u64));
        guest.put(guest.entry_at(AT + 0x2000, 1), 0);
        assert!(mmu.fetch(memory, AT + 0xfff, USER, &mut [0; 2]).is_ok());
        mmu.invlpg(AT);
        assert_eq!(mmu.read::<u8>(memory, AT, USER).unwrap_err().error_code, 5);
        assert_eq!(mmu.read(memory, AT, KERNEL), Ok(0u8));
    }

    #[test]
    fn numbers_of_generations_run_out() {
        let (guest, mut mmu) = long();
        let memory = &mut guest.memory();
        for round in 0..10_000u64 {
            mmu.tlb().forget_host();
            if round % 3 == 0 {
                assert_eq!(mmu.read(memory, AT + round % 8 * 8, USER), Ok(0u64));
            }
        }
        assert_eq!(
            mmu.read::<u64>(memory, AT & 0xfff, USER)
                .unwrap_err()
                .linear,
            0
        );
    }

    /// What a guest does to its tables and asks for, in [`agrees_with_the_walk`].
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Changes the entry of a level that an address goes through, and invalidates.
        Edit(u64, u8, u64, u8),
        /// Loads (0), stores (1), fetches (2).
        Access(u64, u8, u8),
        /// CR0.WP, CR4.SMAP, PKRU.
        Rights(u8),
        /// MOV to CR3 with a context, keeping translations or not.
        Switch(u8, bool),
    }

    fn linear() -> impl Strategy<Value = u64> {
        // Few pages, so that they meet; far ones share sets and hot entries with near ones.
        (0..4u64, 0..3u64, 0..0x1000u64)
            .prop_map(|(page, far, offset)| AT + (page << 12) + (far << 21) + offset)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (linear(), 1..4u8, any::<u64>(), any::<u8>())
                .prop_map(|(at, level, entry, how)| Step::Edit(at, level, entry, how)),
            8 => (linear(), 0..3u8, 0..3u8).prop_map(|(at, mode, what)| Step::Access(at, mode, what)),
            1 => any::<u8>().prop_map(Step::Rights),
            1 => (1..4u8, any::<bool>()).prop_map(|(pcid, keep)| Step::Switch(pcid, keep)),
        ]
    }

    /// An entry that is likely to work: flags from `random`, a table where there is one.
    fn edited(old: u64, level: u8, random: u64) -> u64 {
        let likely = |bits: u64, one_in: u32| {
            if random.rotate_right(one_in) & 7 == 0 {
                0
            } else {
                bits
            }
        };
        let flags = likely(1, 3) | likely(W, 6) | likely(U, 9) | random & (1 << 63);
        let key = (random >> 20 & 3) << 59;
        if level == 1 {
            (DATA + (random >> 32 & 15) * 0x1000) | flags | key | random & GLOBAL
        } else if level == 2 && random >> 40 & 3 == 0 {
            flags | 0x80 | key | random & GLOBAL
        } else if old & 0x80 != 0 {
            0x9000 | flags
        } else {
            old & !0x8000_0000_0000_0007 | flags
        }
    }

    fn agrees_with_the_walk(steps: &[Step]) {
        let (mut guest, _) = long();
        guest.registers.paging.cr4 |= SMEP | PKE;
        for far in 0..3 {
            for page in 0..4 {
                let flags = W | U | if page == 3 { GLOBAL } else { 0 };
                guest.map(
                    AT + (page << 12) + (far << 21),
                    DATA + page * 0x1000,
                    flags,
                    12,
                );
            }
        }
        let mut mmu = mmu(&guest);
        let memory = &mut guest.memory();
        for &step in steps {
            match step {
                Step::Edit(linear, level, random, how) => {
                    let at = guest.entry_at(linear, level);
                    // Tables may be pages of data by now: leave those alone.
                    if at >= DATA {
                        continue;
                    }
                    guest.put(at, edited(guest.word(at), level, random));
                    // Global pages, other contexts and all pages below a table may be concerned.
                    match how % 4 {
                        0 => mmu.invpcid(Invpcid::All),
                        1 => {
                            let cr4 = mmu.registers().paging.cr4;
                            mmu.write_cr4(cr4 ^ PGE, memory).unwrap();
                            mmu.write_cr4(cr4, memory).unwrap();
                        }
                        2 => {
                            for pcid in 0..4 {
                                mmu.invpcid(Invpcid::Context { pcid });
                            }
                            for far in 0..3 {
                                for page in 0..512 {
                                    mmu.invlpg((AT & !0x1f_ffff) + (far << 21) + (page << 12));
                                }
                            }
                        }
                        _ => {
                            mmu.invpcid(Invpcid::AllButGlobal);
                            for far in 0..3 {
                                for page in 0..512 {
                                    mmu.invlpg((AT & !0x1f_ffff) + (far << 21) + (page << 12));
                                }
                            }
                        }
                    }
                }
                Step::Access(linear, mode, what) => {
                    let mode = [KERNEL, Mode::SupervisorAc, USER][usize::from(mode)];
                    let access = [Access::Read, Access::Write, Access::Execute][usize::from(what)];
                    let registers: MmuRegisters = *mmu.registers();
                    let expected = registers.walk(memory, linear, mode, access, false);
                    let expected = expected.map(|page| page.frame(linear) | linear & 0xfff);
                    // A store of what is there keeps the tables as they are.
                    let found = match access {
                        Access::Read => mmu.read::<u8>(memory, linear, mode),
                        Access::Write => mmu
                            .read_to_modify::<u8>(memory, linear, mode)
                            .and_then(|byte| mmu.write(memory, linear, mode, byte).map(|()| byte)),
                        Access::Execute => {
                            let mut byte = [0];
                            mmu.fetch(memory, linear, mode, &mut byte).map(|()| byte[0])
                        }
                    };
                    let gpa = mmu.translate(memory, linear, mode, access);
                    assert_eq!(gpa, expected);
                    assert_eq!(found.err(), expected.err());
                    if let (Ok(found), Ok(gpa)) = (found, expected) {
                        let mut byte = [0];
                        memory.read(gpa, &mut byte);
                        // Marking may have changed the very byte, where tables are the data.
                        assert!(found == byte[0] || gpa < DATA);
                        let page = registers.walk(memory, linear, mode, access, false).unwrap();
                        let dirty = page.flags.contains(PageFlags::DIRTY);
                        assert!(access != Access::Write || dirty, "marked");
                    }
                }
                Step::Rights(bits) => {
                    let bit = |n: u8, flag| if bits >> n & 1 != 0 { flag } else { 0 };
                    mmu.write_cr0(PG | bit(0, WP), LMA | NXE, memory).unwrap();
                    let cr4 = PAE | PGE | PCIDE | SMEP | PKE;
                    mmu.write_cr4(cr4 | bit(1, SMAP), memory).unwrap();
                    mmu.write_pkru(u32::from(bits >> 2) & 0x3c);
                }
                Step::Switch(pcid, keep) => {
                    let keep = u64::from(keep) << 63;
                    mmu.write_cr3(0x1000 | u64::from(pcid) | keep, memory)
                        .unwrap();
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_walk(steps in prop::collection::vec(step(), 1..60)) {
            agrees_with_the_walk(&steps);
        }

        /// Any registers, any tables: an answer, and no access outside of RAM.
        #[test]
        fn hostile_tables_are_survived(
            cr0: u64, cr3 in 0..0x4_0000u64, cr4: u64, efer: u64, a20_masked: bool,
            linear: [u64; 4], words in prop::collection::vec(any::<u64>(), 64),
        ) {
            let mut guest = Guest::new(PagingMode::Off);
            for (i, word) in (0..).zip(&words) {
                // Sprinkled, with addresses within RAM.
                let word = word & !0x0000_ffff_fffc_0000 | 1;
                for copy in 0..64 {
                    guest.ram.write(i * 8 + copy * 0x1000 + (copy << 9) % 0x1000, &word.to_le_bytes()).unwrap();
                }
            }
            let paging = &mut guest.registers.paging;
            (paging.cr0, paging.cr3, paging.cr4, paging.efer) = (cr0, cr3, cr4, efer);
            guest.registers.a20_masked = a20_masked;
            let mut mmu = mmu(&guest);
            let memory = &mut guest.memory();
            for linear in linear {
                for mode in [KERNEL, Mode::SupervisorAc, USER] {
                    for linear in [linear, linear & 0xffff_ffff, linear & 0x3f_ffff] {
                        let _ = mmu.read::<u64>(memory, linear, mode);
                        let _ = mmu.write_bytes(memory, linear, mode, &[0xa5; 16]);
                        let _ = mmu.fetch_address(memory, linear, mode);
                        let _ = mmu.compare_exchange(memory, linear, mode, 0u32, 1);
                        mmu.invlpg(linear);
                    }
                }
            }
        }
    }
}
