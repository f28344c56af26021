//! Memory for the software CPU's translations.
//!
//! It is an anonymous file that is mapped twice, writable and executable: no page can be both at one
//! address, and none changes its rights while guests run, which would cost two calls of the kernel and
//! a flush of TLBs for each translation. Where the kernel refuses executable memory, by
//! `vm.memfd_noexec` or a security module, the software CPU interprets.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use thimble_core::cpu::soft::{CodeCache, CodeMemory};

/// Bytes of it. What a Linux kernel runs while it boots takes two thirds.
pub(super) const LENGTH: usize = 8 << 20;

/// The two mappings.
pub(super) struct Executable {
    write: *mut u8,
    execute: *mut u8,
}

// SAFETY: it owns the mappings, and does nothing with them before it is dropped.
unsafe impl Send for Executable {}

impl Executable {
    /// Maps it, and lends it to a code cache.
    ///
    /// # Safety
    /// It is dropped after the cache.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2) and mmap(2).
    pub(super) unsafe fn lend(code: &mut CodeCache) -> io::Result<Self> {
        let file = memfd_create("thimble-code", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, LENGTH as u64)?;
        let mut memory = Self {
            write: map(&file, ProtFlags::READ | ProtFlags::WRITE)?,
            execute: ptr::null_mut(),
        };
        memory.execute = map(&file, ProtFlags::READ | ProtFlags::EXEC)?;
        // SAFETY: both are mappings of the same memory, and nobody else's.
        code.lend(unsafe { CodeMemory::new(memory.write, memory.execute, LENGTH) });
        Ok(memory)
    }
}

fn map(file: &OwnedFd, rights: ProtFlags) -> io::Result<*mut u8> {
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let mapping = unsafe { mmap(ptr::null_mut(), LENGTH, rights, MapFlags::SHARED, file, 0) };
    Ok(mapping?.cast())
}

impl Drop for Executable {
    fn drop(&mut self) {
        for mapping in [self.write, self.execute] {
            if !mapping.is_null() {
                // SAFETY: the mapping is of that length, and the cache does not use it any more.
                let _ = unsafe { munmap(mapping.cast(), LENGTH) };
            }
        }
    }
}
