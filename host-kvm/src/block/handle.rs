//! An open image file, and what is done to it by calls that wait: for threads of the pool.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::buffer::{ALIGNMENT, Buffer, Entered, Gate};
use super::transfer::{Calls, Kind};
use crate::files::Opened;

/// BLKDISCARD and BLKZEROOUT of linux/fs.h.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

/// An open file, with what its requests share.
pub struct Handle {
    /// The file.
    pub file: Opened,
    /// It is open to be written.
    pub writable: bool,
    /// It is open for direct requests, past the page cache.
    pub direct: bool,
    /// It is a block device.
    pub is_device: bool,
    /// What direct requests are multiples of; 1 for others.
    pub alignment: usize,
    /// Writes of whole blocks are inside; who writes parts of some, closes it.
    blocks: Arc<Gate>,
    /// Whose turn it is to close it.
    parts: Mutex<()>,
}

impl Handle {
    /// An open file.
    pub fn new(file: Opened, writable: bool, direct: bool) -> Self {
        let facts = file.metadata();
        let is_device = facts.is_ok_and(|facts| facts.file_type().is_block_device());
        let alignment = match direct {
            true => alignment(&file),
            false => 1,
        };
        Self {
            file,
            writable,
            direct,
            is_device,
            alignment,
            blocks: Arc::default(),
            parts: Mutex::default(),
        }
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Moves bytes until all are there, or the file ends.
    fn transfer(&self, kind: Kind, at: u64, buffer: &Buffer) -> Result<usize, Errno> {
        Calls::new(kind, at, buffer.clone(), self.alignment).perform(self.fd())
    }

    /// Reads what the page cache has; fewer bytes than asked for where it hasn't all.
    pub fn read_cached(&self, at: u64, to: &Buffer) -> usize {
        let mut calls = Calls::new(Kind::Read, at, to.clone(), 1);
        match calls.prepare() {
            None => calls.call().at_once(self.fd()),
            Some(_) => 0,
        }
    }

    /// Whether a request is one that the file can have as it is.
    pub fn is_aligned(&self, at: u64, buffer: &Buffer) -> bool {
        let alignment = self.alignment as u64;
        at.is_multiple_of(alignment) && buffer.is_aligned(self.alignment)
    }

    /// The blocks around a request.
    fn around(&self, at: u64, length: usize) -> (u64, usize) {
        let alignment = self.alignment as u64;
        let start = at - at % alignment;
        let end = (at + length as u64).next_multiple_of(alignment);
        (start, (end - start) as usize)
    }

    /// Reads what is not aligned, by way of own memory.
    ///
    /// # Errors
    /// Whatever preadv(2) says; `ECANCELED` if the memory was taken back.
    pub fn read_parts(&self, at: u64, to: &Buffer) -> Result<(), Errno> {
        let (start, length) = self.around(at, to.len());
        let whole = Buffer::new(length);
        let done = self.transfer(Kind::Read, start, &whole)?;
        let before = (at - start) as usize;
        to.copy_from(&whole.slice(before, to.len()));
        let done = done.saturating_sub(before).min(to.len());
        to.slice(done, to.len()).fill(0);
        Ok(())
    }

    /// Begins to write whole blocks; nothing while parts of some are written. Never waits.
    pub fn enter_blocks(&self) -> Option<Entered> {
        self.blocks.enter()
    }

    /// Writes, whatever others write.
    ///
    /// # Errors
    /// Whatever preadv(2) and pwritev(2) say; `ECANCELED` if the memory was taken back.
    pub fn write(&self, at: u64, from: &Buffer) -> Result<(), Errno> {
        let turn = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_aligned(at, from) {
            let _blocks = self.blocks.enter();
            drop(turn);
            return self.transfer(Kind::Write, at, from).map(drop);
        }
        self.blocks.close();
        let result = self.write_parts(at, from);
        self.blocks.open();
        result
    }

    /// Writes parts of blocks, by way of own memory.
    fn write_parts(&self, at: u64, from: &Buffer) -> Result<(), Errno> {
        let (start, length) = self.around(at, from.len());
        let whole = Buffer::new(length);
        let before = (at - start) as usize;
        if before != 0 || length != from.len() {
            self.transfer(Kind::Read, start, &whole)?;
        }
        whole.slice(before, from.len()).copy_from(from);
        self.transfer(Kind::Write, start, &whole).map(drop)
    }

    fn device_range(&self, call: libc::c_ulong, at: u64, length: u64) -> Result<(), Errno> {
        let range = [at, length];
        // SAFETY: the call reads two numbers of 64 bits.
        match unsafe { libc::ioctl(self.fd().as_raw_fd(), call as _, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }

    fn allocate(&self, flags: FallocateFlags, at: u64, length: u64) -> Result<(), Errno> {
        loop {
            match rustix::fs::fallocate(self.fd(), flags, at, length) {
                Err(Errno::INTR) => {}
                // An old file system says so.
                Err(Errno::NOSYS) => return Err(Errno::OPNOTSUPP),
                result => return result,
            }
        }
    }

    /// Gives a range up.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system can't, and whatever else it says.
    pub fn discard(&self, at: u64, length: u64) -> Result<(), Errno> {
        match self.is_device {
            true => self.device_range(BLKDISCARD, at, length),
            false => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                self.allocate(flags, at, length)
            }
        }
    }

    /// Lets a range read as zeros.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system can't, and whatever else it says.
    pub fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> Result<(), Errno> {
        let end = at.saturating_add(length);
        if self.is_device {
            let result = self.device_range(BLKZEROOUT, at, length);
            return match result {
                Err(Errno::NOTTY | Errno::INVAL) => Err(Errno::OPNOTSUPP),
                result => result,
            };
        }
        let size = rustix::fs::fstat(self.fd())?.st_size as u64;
        if end > size {
            // A hole behind the end is what growing leaves.
            rustix::fs::ftruncate(self.fd(), end)?;
        }
        if may_unmap && self.discard(at, length).is_ok() {
            return Ok(());
        }
        self.allocate(FallocateFlags::ZERO_RANGE, at, length)
    }
}

/// What the last call has failed with.
pub fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// The alignment of direct requests: the smallest that a read succeeds with.
fn alignment(file: &Opened) -> usize {
    for alignment in [512, 1024, 2048, ALIGNMENT] {
        let buffer = Buffer::new(ALIGNMENT).slice(0, alignment);
        let (vectors, _) = buffer.vectors(1);
        // SAFETY: the vector names memory that the buffer keeps.
        let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), 1, 0) };
        if read >= 0 {
            return alignment;
        }
    }
    ALIGNMENT
}
