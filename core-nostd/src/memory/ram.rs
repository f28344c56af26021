//! The [`GuestRam`] trait and its in-memory implementation for tests, fuzzers and bare metal.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::CodeMarks;

/// Contiguous host memory behind a guest physical address.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Host address of the first byte.
    pub pointer: NonNull<u8>,
    /// Bytes that follow contiguously, at least 1.
    pub length: usize,
}

/// A guest physical range that is not wholly RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamError {
    /// First address that has no RAM behind it.
    pub gpa: u64,
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no RAM at guest physical address {:#x}", self.gpa)
    }
}

/// A word that [`GuestRam::compare_exchange`] takes, with what is expected and what is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Four bytes.
    Bits32 {
        /// What must be there.
        current: u32,
        /// What is stored then.
        new: u32,
    },
    /// Eight bytes.
    Bits64 {
        /// What must be there.
        current: u64,
        /// What is stored then.
        new: u64,
    },
}

/// Plain guest RAM by guest physical address, whatever ROM or device is mapped over it.
///
/// # Safety
///
/// A [`Block`] must stay valid for reads and writes of its whole length for as long as the
/// implementor lives, and must not be memory that Rust references point into.
pub unsafe trait GuestRam: Sync {
    /// RAM at `gpa` and how far it goes on contiguously; `None` where there is no RAM.
    fn block(&self, gpa: u64) -> Option<Block>;

    /// Notes that `length` bytes at `gpa` were written: the dirty log and decoded code hang on it.
    fn written(&self, gpa: u64, length: usize);

    /// The marks of pages with decoded code, if it keeps any: they are told of each store.
    fn code_marks(&self) -> Option<&CodeMarks> {
        None
    }

    /// Copies RAM at `gpa` into `to`. On error `to` holds what could be read before it.
    fn read(&self, mut gpa: u64, mut to: &mut [u8]) -> Result<(), RamError> {
        while !to.is_empty() {
            let block = self.block(gpa).ok_or(RamError { gpa })?;
            let length = block.length.min(to.len());
            let (now, later) = to.split_at_mut(length);
            for (i, byte) in now.iter_mut().enumerate() {
                // SAFETY: `i < block.length`, and the block is valid by the trait's contract.
                *byte = unsafe { AtomicU8::from_ptr(block.pointer.as_ptr().add(i)) }
                    .load(Ordering::Relaxed);
            }
            to = later;
            gpa = gpa.wrapping_add(length as u64);
        }
        Ok(())
    }

    /// Copies `from` into RAM at `gpa`. On error the part before the hole has been written.
    fn write(&self, mut gpa: u64, mut from: &[u8]) -> Result<(), RamError> {
        while !from.is_empty() {
            let block = self.block(gpa).ok_or(RamError { gpa })?;
            let length = block.length.min(from.len());
            let (now, later) = from.split_at(length);
            for (i, byte) in now.iter().enumerate() {
                // SAFETY: `i < block.length`, and the block is valid by the trait's contract.
                unsafe { AtomicU8::from_ptr(block.pointer.as_ptr().add(i)) }
                    .store(*byte, Ordering::Relaxed);
            }
            self.written(gpa, length);
            from = later;
            gpa = gpa.wrapping_add(length as u64);
        }
        Ok(())
    }

    /// Reads 16 bits in one step, before anything that is read afterwards: an index that another
    /// processor counts up. `gpa` is even, or else the halves are read one after the other.
    fn load16(&self, gpa: u64) -> Result<u16, RamError> {
        let block = self.block(gpa).ok_or(RamError { gpa })?;
        let pointer = block.pointer.as_ptr();
        if block.length < 2 || !pointer.addr().is_multiple_of(2) {
            let mut bytes = [0; 2];
            self.read(gpa, &mut bytes)?;
            return Ok(u16::from_le_bytes(bytes));
        }
        // SAFETY: two bytes of a valid block, aligned; all access is atomic.
        let value = unsafe { AtomicU16::from_ptr(pointer.cast()) }.load(Ordering::Acquire);
        Ok(u16::from_le(value))
    }

    /// Writes 16 bits in one step, behind all that was written before. `gpa` is even, or else the
    /// halves are written one after the other.
    fn store16(&self, gpa: u64, value: u16) -> Result<(), RamError> {
        let block = self.block(gpa).ok_or(RamError { gpa })?;
        let pointer = block.pointer.as_ptr();
        if block.length < 2 || !pointer.addr().is_multiple_of(2) {
            return self.write(gpa, &value.to_le_bytes());
        }
        // SAFETY: two bytes of a valid block, aligned; all access is atomic.
        unsafe { AtomicU16::from_ptr(pointer.cast()) }.store(value.to_le(), Ordering::Release);
        self.written(gpa, 2);
        Ok(())
    }

    /// Replaces an aligned word in one step if it is what it is expected to be, and says whether
    /// it was. Page tables are changed so: other processors and devices write to them, too.
    ///
    /// # Errors
    /// `gpa` is no multiple of the word's size, or not all of the word is RAM.
    fn compare_exchange(&self, gpa: u64, exchange: Exchange) -> Result<bool, RamError> {
        let size = match exchange {
            Exchange::Bits32 { .. } => 4,
            Exchange::Bits64 { .. } => 8,
        };
        let block = self.block(gpa).ok_or(RamError { gpa })?;
        let pointer = block.pointer.as_ptr();
        if block.length < size || !pointer.addr().is_multiple_of(size) {
            return Err(RamError { gpa });
        }
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let done = match exchange {
            Exchange::Bits32 { current, new } => {
                // SAFETY: four bytes of a valid block, aligned; all access is atomic.
                unsafe { AtomicU32::from_ptr(pointer.cast()) }
                    .compare_exchange(current.to_le(), new.to_le(), success, failure)
                    .is_ok()
            }
            Exchange::Bits64 { current, new } => {
                // SAFETY: eight bytes of a valid block, aligned; all access is atomic.
                unsafe { AtomicU64::from_ptr(pointer.cast()) }
                    .compare_exchange(current.to_le(), new.to_le(), success, failure)
                    .is_ok()
            }
        };
        if done {
            self.written(gpa, size);
        }
        Ok(done)
    }
}

/// RAM of `N` bytes at guest physical address 0, for tests, fuzzers and the bare-metal proof.
#[repr(C, align(4096))]
pub struct ArrayRam<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: the bytes are only reached through `Block`s, with atomics.
unsafe impl<const N: usize> Sync for ArrayRam<N> {}

impl<const N: usize> ArrayRam<N> {
    /// RAM full of zeros.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }
}

impl<const N: usize> Default for ArrayRam<N> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the array lives as long as `self` and no reference to its bytes is ever made.
unsafe impl<const N: usize> GuestRam for ArrayRam<N> {
    fn block(&self, gpa: u64) -> Option<Block> {
        let offset = usize::try_from(gpa).ok().filter(|offset| *offset < N)?;
        // SAFETY: `offset < N`, so the pointer stays inside the array.
        let pointer = NonNull::new(unsafe { self.0.get().cast::<u8>().add(offset) })?;
        Some(Block {
            pointer,
            length: N - offset,
        })
    }

    fn written(&self, _gpa: u64, _length: usize) {}
}

/// [`ArrayRam`] with marks of pages that hold decoded code. Valid when all bytes are zero.
#[derive(Default)]
#[repr(C)]
pub struct MarkedRam<const N: usize> {
    ram: ArrayRam<N>,
    marks: CodeMarks,
}

impl<const N: usize> MarkedRam<N> {
    /// Its marks.
    pub fn marks(&self) -> &CodeMarks {
        &self.marks
    }
}

// SAFETY: that of `ArrayRam`.
unsafe impl<const N: usize> GuestRam for MarkedRam<N> {
    fn block(&self, gpa: u64) -> Option<Block> {
        self.ram.block(gpa)
    }

    fn written(&self, gpa: u64, length: usize) {
        self.marks.stored(gpa, length);
    }

    fn code_marks(&self) -> Option<&CodeMarks> {
        Some(&self.marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_names_the_hole() {
        let ram = ArrayRam::<16>::new();
        ram.write(4, b"thimble").unwrap();
        let mut back = [0; 7];
        ram.read(4, &mut back).unwrap();
        assert_eq!(&back, b"thimble");
        assert_eq!(ram.write(14, b"abc"), Err(RamError { gpa: 16 }));
        assert_eq!(
            ram.read(u64::MAX, &mut back),
            Err(RamError { gpa: u64::MAX })
        );
    }

    #[test]
    fn sixteen_bits_at_any_address() {
        let ram = ArrayRam::<16>::new();
        for (gpa, value) in [(4, 0x1234), (7, 0x5678)] {
            ram.store16(gpa, value).unwrap();
            assert_eq!(ram.load16(gpa), Ok(value));
        }
        let mut back = [0; 5];
        ram.read(4, &mut back).unwrap();
        assert_eq!(back, [0x34, 0x12, 0, 0x78, 0x56]);
        assert!(ram.load16(15).is_err() && ram.store16(16, 0).is_err());
    }

    #[test]
    fn exchanges_whole_words() {
        let ram = ArrayRam::<32>::new();
        let narrow = |current, new| Exchange::Bits32 { current, new };
        let wide = |current, new| Exchange::Bits64 { current, new };
        assert_eq!(ram.compare_exchange(4, narrow(0, 0x0403_0201)), Ok(true));
        assert_eq!(ram.compare_exchange(4, narrow(0, 9)), Ok(false));
        assert_eq!(
            ram.compare_exchange(0, wide(0x0403_0201 << 32, 0x1122_3344_5566_7788)),
            Ok(true)
        );
        let mut back = [0; 8];
        ram.read(0, &mut back).unwrap();
        assert_eq!(back, 0x1122_3344_5566_7788u64.to_le_bytes());
        for gpa in [1, 2, 4, 28, 32, u64::MAX] {
            assert!(ram.compare_exchange(gpa, wide(0, 1)).is_err(), "{gpa}");
        }
    }
}
