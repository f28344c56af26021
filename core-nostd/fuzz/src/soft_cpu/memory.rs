//! Guest RAM and ROM, each between pages that nobody may touch.

use std::ptr::NonNull;
use std::sync::OnceLock;

use thimble_core::cpu::soft::CodeMemory;
use thimble_core::memory::{Block, CodeMarks, GuestRam};

/// Bytes of guest RAM: there is some above 1 MiB, for A20 to matter.
pub const RAM_BYTES: usize = 0x11_0000;
/// Bytes of the firmware image.
pub const ROM_BYTES: usize = 0x1_0000;
/// Bytes that nobody may touch, before and behind.
const GUARD: usize = 1 << 20;

/// Types that are valid when all their bytes are zero.
///
/// # Safety
/// They are.
pub unsafe trait ValidWhenZero {}

// SAFETY: it says so of itself.
unsafe impl ValidWhenZero for thimble_core::cpu::soft::Cpu {}
// SAFETY: as above.
unsafe impl ValidWhenZero for thimble_core::cpu::soft::CodeCache {}
// SAFETY: as above.
unsafe impl ValidWhenZero for CodeMarks {}

/// A value of zeros.
pub fn zeroed<T: ValidWhenZero>() -> Box<T> {
    // SAFETY: the type is valid so.
    unsafe { Box::<T>::new_zeroed().assume_init() }
}

/// The marks of pages with decoded code.
pub type Marks = CodeMarks;

/// Pages that may be touched, between pages that may not; never unmapped.
struct Mapping(NonNull<u8>);

impl Mapping {
    fn new(bytes: usize) -> Self {
        // SAFETY: a new mapping, which overlaps nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes + 2 * GUARD,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "no memory for the guest");
        let inner = start.cast::<u8>().wrapping_add(GUARD);
        let mapping = Self(NonNull::new(inner).expect("not at address zero"));
        mapping.protect(bytes, libc::PROT_READ | libc::PROT_WRITE);
        mapping
    }

    fn protect(&self, bytes: usize, protection: i32) {
        // SAFETY: part of the own mapping.
        let result = unsafe { libc::mprotect(self.0.as_ptr().cast(), bytes, protection) };
        assert_eq!(result, 0, "the guest's memory can't be protected");
    }
}

// SAFETY: nobody else has the mapping.
unsafe impl Send for Mapping {}
// SAFETY: as above; bytes are reached by pointers only.
unsafe impl Sync for Mapping {}

/// Memory for translations, never unmapped.
pub fn code() -> CodeMemory {
    const BYTES: usize = 1 << 20;
    let mapping = Mapping::new(BYTES);
    mapping.protect(BYTES, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    let start = mapping.0.as_ptr();
    // SAFETY: a new mapping, which nobody else has.
    unsafe { CodeMemory::new(start, start, BYTES) }
}

/// Guest RAM.
pub struct Ram {
    mapping: Mapping,
    marks: Box<Marks>,
}

// SAFETY: the mapping is never unmapped, and no reference to its bytes lives longer than a call of this file.
unsafe impl GuestRam for Ram {
    fn block(&self, gpa: u64) -> Option<Block> {
        let offset = usize::try_from(gpa).ok().filter(|at| *at < RAM_BYTES)?;
        Some(Block {
            pointer: NonNull::new(self.mapping.0.as_ptr().wrapping_add(offset))?,
            length: RAM_BYTES - offset,
        })
    }

    fn written(&self, gpa: u64, length: usize) {
        self.marks.stored(gpa, length);
    }
}

impl Ram {
    /// The only one.
    pub fn get() -> &'static Self {
        static RAM: OnceLock<Ram> = OnceLock::new();
        RAM.get_or_init(|| Self {
            mapping: Mapping::new(RAM_BYTES),
            marks: zeroed(),
        })
    }

    /// Marks of pages with decoded code.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Fills it with zeros.
    pub fn clear(&self) {
        // SAFETY: the whole mapping, while nobody else uses it.
        unsafe { self.mapping.0.as_ptr().write_bytes(0, RAM_BYTES) };
    }

    /// All its bytes.
    pub fn copy(&self) -> Vec<u8> {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.mapping.0.as_ptr(), RAM_BYTES) }.to_vec()
    }

    /// Sets all its bytes.
    pub fn fill(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), RAM_BYTES);
        // SAFETY: as above.
        unsafe {
            self.mapping
                .0
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), RAM_BYTES);
        }
    }
}

/// The firmware image, which can't be written to.
#[derive(Clone, Copy)]
pub struct Rom(&'static Mapping);

impl Rom {
    /// The only one, with these bytes.
    pub fn with(bytes: &[u8; ROM_BYTES]) -> Self {
        static ROM: OnceLock<Mapping> = OnceLock::new();
        let mapping = ROM.get_or_init(|| Mapping::new(ROM_BYTES));
        mapping.protect(ROM_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the whole mapping, while nobody else uses it.
        unsafe {
            mapping
                .0
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), ROM_BYTES);
        }
        mapping.protect(ROM_BYTES, libc::PROT_READ);
        Self(mapping)
    }

    /// Its bytes.
    pub fn bytes(self) -> &'static [u8] {
        // SAFETY: written to by `with` only, before an input runs.
        unsafe { std::slice::from_raw_parts(self.0.0.as_ptr(), ROM_BYTES) }
    }

    /// Host memory behind an offset.
    pub fn block(self, offset: u64) -> Option<Block> {
        let offset = usize::try_from(offset).ok().filter(|at| *at < ROM_BYTES)?;
        Some(Block {
            pointer: NonNull::new(self.0.0.as_ptr().wrapping_add(offset))?,
            length: ROM_BYTES - offset,
        })
    }
}
