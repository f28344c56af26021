//! Large structures in zeroed memory of their own, which costs nothing before it is touched.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use thimble_core::cpu::soft::{CodeCache, Cpu};
use thimble_core::memory::CodeMarks;
use thimble_core::trace::events;
use vm_memory::MmapRegion;

/// Types that are valid when all their bytes are zero.
///
/// # Safety
/// They are, and they need nothing to be done when they are dropped.
pub(crate) unsafe trait ValidWhenZero {}

// SAFETY: it says so of itself, and holds no resources.
unsafe impl ValidWhenZero for Cpu {}
// SAFETY: as above.
unsafe impl ValidWhenZero for CodeCache {}
// SAFETY: as above.
unsafe impl ValidWhenZero for CodeMarks {}

/// A `T` in a mapping of its own.
pub(crate) struct Zeroed<T> {
    mapping: MmapRegion<()>,
    value: NonNull<T>,
}

// SAFETY: it owns the value, as a box would.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: ValidWhenZero> Zeroed<T> {
    /// One with all bytes zero.
    pub(crate) fn new() -> io::Result<Self> {
        const { assert!(align_of::<T>() <= crate::memory::PAGE as usize) };
        let length = size_of::<T>().next_multiple_of(crate::memory::PAGE as usize);
        let mapping = MmapRegion::new(length).map_err(io::Error::other)?;
        let address = mapping.as_ptr().addr();
        events::qemu_memalign(crate::memory::PAGE, length, address);
        let value = NonNull::new(mapping.as_ptr().cast())
            .ok_or_else(|| io::Error::other("a mapping at address zero"))?;
        Ok(Self { mapping, value })
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        debug_assert!(self.mapping.size() >= size_of::<T>());
        // SAFETY: the mapping is large enough, aligned to pages, valid as `T` when new, and only
        // reached through `self`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { self.value.as_mut() }
    }
}

impl<T> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Zeroed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_at_first_and_keeps_what_is_stored() {
        let marks = Zeroed::<CodeMarks>::new().unwrap();
        assert!(!marks.marked(0x5000) && !marks.written());
        assert!(marks.mark(0x5000));
        assert!(marks.marked(0x5fff));
    }
}
