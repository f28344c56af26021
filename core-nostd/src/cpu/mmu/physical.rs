//! Guest physical memory as the memory management unit needs it, and words of it by host pointer.
//!
//! Source: Intel SDM volume 3, section "Memory Ordering": aligned accesses of up to 8 bytes are
//! single, loads are not reordered with loads nor stores with stores. On hosts that order so by
//! themselves, acquire and release cost nothing.
#![allow(unsafe_code)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::memory::{Exchange, GuestRam};

/// Bytes of the smallest page, guest and host.
pub const PAGE_BYTES: usize = 4096;

/// What is behind a page of 4 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostPage {
    /// The host memory that answers loads; `None` where a device does, or part of the page is not
    /// memory.
    pub pointer: Option<NonNull<u8>>,
    /// Whether stores may go through the same pointer without anyone's notice. Not for ROM, not
    /// while the page holds decoded code, not while the dirty log waits for its first store.
    pub write: bool,
}

/// Guest physical memory as one processor sees it: RAM, ROM and devices. A20 is not its business.
///
/// # Safety
///
/// A pointer that [`page`](Self::page) returns must be valid for loads (and stores, where it says
/// so) of 4096 bytes, aligned to 4096, and no Rust reference may point there, for as long
/// as a [`Tlb`](super::Tlb) that was used with this memory is used on, unless that one has been
/// told of the change by [`Tlb::forget_host`](super::Tlb::forget_host).
pub unsafe trait PhysicalMemory {
    /// What is behind the page at `gpa`, a multiple of 4096.
    fn page(&mut self, gpa: u64) -> HostPage;

    /// Loads at most 4096 bytes of one page from wherever they are.
    fn read(&mut self, gpa: u64, to: &mut [u8]);

    /// Stores at most 4096 bytes into one page, with all that a store entails: devices see it, the
    /// dirty log and decoded code are told.
    fn write(&mut self, gpa: u64, from: &[u8]);

    /// Replaces an aligned word if it is what it is expected to be, in one step where it is RAM,
    /// and says whether it was. Where words do not keep what is stored, the answer is true.
    fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool;

    /// Whether what is behind pages has changed, perhaps by the store that has just been made: pointers to host memory are
    /// forgotten then.
    fn remapped(&mut self) -> bool {
        false
    }

    /// Whether devices may be accessed now; if not, an access that would reach one fails with
    /// [`FaultKind::Later`](super::FaultKind::Later).
    fn admits_devices(&self) -> bool {
        true
    }
}

/// RAM, and nothing else: other addresses read all ones and drop what is stored. Stores go through
/// pointers, but to pages with decoded code, so that a dirty log learns nothing of them: this is for
/// tests, fuzzers and bare metal.
#[derive(Clone, Copy)]
pub struct RamOnly<'a>(pub &'a dyn GuestRam);

// SAFETY: a block is valid as long as the RAM is, which is borrowed; that the table of
// translations does not outlive it is for the owner of both, as the trait says.
unsafe impl PhysicalMemory for RamOnly<'_> {
    fn page(&mut self, gpa: u64) -> HostPage {
        let block = self.0.block(gpa);
        let block = block.filter(|block| {
            block.length >= PAGE_BYTES && block.pointer.addr().get().is_multiple_of(PAGE_BYTES)
        });
        HostPage {
            pointer: block.map(|block| block.pointer),
            write: block.is_some() && !self.0.code_marks().is_some_and(|marks| marks.marked(gpa)),
        }
    }

    fn read(&mut self, gpa: u64, to: &mut [u8]) {
        to.fill(0xff);
        // What lies past the hole stays all ones.
        let _ = self.0.read(gpa, to);
    }

    fn write(&mut self, gpa: u64, from: &[u8]) {
        let _ = self.0.write(gpa, from);
    }

    fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
        self.0.compare_exchange(gpa, exchange).unwrap_or(true)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// An integer that instructions load and store: 1, 2, 4 or 8 bytes, little-endian in memory.
pub trait Word: Copy + Default + Eq + sealed::Sealed {
    /// Bytes.
    const SIZE: usize;

    /// Its bytes in the first of these eight.
    fn to_bytes(self) -> [u8; 8];

    /// Of the first of these eight bytes.
    fn from_bytes(bytes: [u8; 8]) -> Self;

    /// Loads from host memory.
    ///
    /// # Safety
    /// The bytes must be valid for loads, and no Rust reference may point there.
    unsafe fn load(from: *const u8) -> Self;

    /// Stores to host memory.
    ///
    /// # Safety
    /// The bytes must be valid for stores, and no Rust reference may point there.
    unsafe fn store(self, to: *mut u8);

    /// Replaces `self` at an aligned address by `new` in one step, or says what is there instead.
    ///
    /// # Safety
    /// The bytes must be aligned, valid for stores, and no Rust reference may point there.
    unsafe fn exchange(self, at: *mut u8, new: Self) -> Result<(), Self>;
}

/// A word of any alignment.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<W>(W);

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl sealed::Sealed for $word {}

        impl Word for $word {
            const SIZE: usize = size_of::<Self>();

            #[inline]
            fn to_bytes(self) -> [u8; 8] {
                (self as u64).to_le_bytes()
            }

            #[inline]
            fn from_bytes(bytes: [u8; 8]) -> Self {
                u64::from_le_bytes(bytes) as Self
            }

            #[inline]
            unsafe fn load(from: *const u8) -> Self {
                // On x86-64 both are the same instruction.
                let apart = !cfg!(target_arch = "x86_64");
                let word = if apart && from.addr().is_multiple_of(Self::SIZE) {
                    // SAFETY: aligned, and valid as the caller says.
                    unsafe { <$atomic>::from_ptr(from.cast_mut().cast()) }.load(Ordering::Acquire)
                } else {
                    // SAFETY: valid as the caller says; the type has no alignment.
                    unsafe { ptr::read_volatile(from.cast::<Unaligned<Self>>()) }.0
                };
                Self::from_le(word)
            }

            #[inline]
            unsafe fn store(self, to: *mut u8) {
                let apart = !cfg!(target_arch = "x86_64");
                if apart && to.addr().is_multiple_of(Self::SIZE) {
                    // SAFETY: aligned, and valid as the caller says.
                    unsafe { <$atomic>::from_ptr(to.cast()) }
                        .store(self.to_le(), Ordering::Release);
                } else {
                    // SAFETY: valid as the caller says; the type has no alignment.
                    unsafe { ptr::write_volatile(to.cast(), Unaligned(self.to_le())) };
                }
            }

            #[inline]
            unsafe fn exchange(self, at: *mut u8, new: Self) -> Result<(), Self> {
                // SAFETY: aligned and valid as the caller says.
                let word = unsafe { <$atomic>::from_ptr(at.cast()) };
                word.compare_exchange(
                    self.to_le(),
                    new.to_le(),
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                )
                .map(drop)
                .map_err(Self::from_le)
            }
        }
    };
}

word!(u8, AtomicU8);
word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);

/// Loads an aligned entry of a page table in one step.
pub(super) fn load_entry(memory: &mut impl PhysicalMemory, gpa: u64, bytes: usize) -> u64 {
    let offset = gpa as usize % PAGE_BYTES / bytes * bytes;
    match memory.page(gpa & !(PAGE_BYTES as u64 - 1)).pointer {
        // SAFETY: the pointer is to 4096 bytes by the trait's contract, and the offset is aligned.
        Some(pointer) => unsafe {
            let at = pointer.as_ptr().add(offset);
            if bytes == 4 {
                u64::from(u32::load(at))
            } else {
                u64::load(at)
            }
        },
        None => {
            let mut entry = [0; 8];
            memory.read(gpa, &mut entry[..bytes.min(8)]);
            u64::from_le_bytes(entry)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ArrayRam;

    #[test]
    fn words_of_any_alignment() {
        let ram = ArrayRam::<0x1000>::new();
        let at = |offset| {
            RamOnly(&ram)
                .page(0)
                .pointer
                .unwrap()
                .as_ptr()
                .wrapping_add(offset)
        };
        for offset in 0..16 {
            // SAFETY: within the page.
            unsafe {
                0x1122_3344_5566_7788u64.store(at(offset));
                assert_eq!(u64::load(at(offset)), 0x1122_3344_5566_7788);
                assert_eq!(u32::load(at(offset + 4)), 0x1122_3344);
                assert_eq!(u16::load(at(offset + 1)), 0x6677);
                assert_eq!(u8::load(at(offset + 7)), 0x11);
            }
        }
        // SAFETY: aligned and within the page.
        unsafe {
            assert_eq!(0x88u8.exchange(at(15), 0x99), Ok(()));
            assert_eq!(0x88u8.exchange(at(15), 0x99), Err(0x99));
        }
    }

    #[test]
    fn only_whole_pages_have_a_pointer() {
        let ram = ArrayRam::<0x1800>::new();
        let mut memory = RamOnly(&ram);
        assert!(memory.page(0).pointer.is_some());
        assert!(memory.page(0x1000).pointer.is_none());
        let mut back = [0; 4];
        memory.write(0x17fe, &[1, 2, 3, 4]);
        memory.read(0x17fe, &mut back);
        assert_eq!(back, [1, 2, 0xff, 0xff]);
        assert_eq!(load_entry(&mut memory, 0x17f8, 8), 0x0201 << 48);
        assert_eq!(load_entry(&mut memory, 0x2000, 4), 0xffff_ffff);
        let exchange = Exchange::Bits32 { current: 9, new: 1 };
        assert!(memory.compare_exchange(0x2000, exchange));
        assert!(!memory.compare_exchange(0, exchange));
    }
}
