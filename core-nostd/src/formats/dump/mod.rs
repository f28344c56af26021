//! Dumps of a guest's memory and processors, as `crash`, gdb and makedumpfile read them: [`elf`] core files, and
//! compressed [`kdump`] files. Both hold the same [`notes`].
//!
//! These modules know where everything is in a file and what its headers say. Whoever writes the file brings the memory
//! itself, straight from where it is. Both kinds are written from their beginning to their end, so that a pipe does.

pub mod elf;
pub mod kdump;
pub mod notes;

/// Bytes at the front of a buffer that is filled field by field.
struct Fields<const N: usize> {
    bytes: [u8; N],
}

impl<const N: usize> Fields<N> {
    const fn new() -> Self {
        Self { bytes: [0; N] }
    }

    /// Sets a field. One that is not within the bytes is a mistake that the first test finds.
    fn set<const M: usize>(&mut self, at: usize, field: [u8; M]) -> &mut Self {
        debug_assert!(at + M <= N);
        if let Some(to) = self.bytes.get_mut(at..at + M) {
            to.copy_from_slice(&field);
        }
        self
    }

    fn u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.set(at, value.to_le_bytes())
    }

    fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.set(at, value.to_le_bytes())
    }

    fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.set(at, value.to_le_bytes())
    }
}
