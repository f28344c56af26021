//! `file` and `host_device`: images that are files or block devices of the host.
//!
//! Reads of what the host has in its page cache are done at once, everything else by the threads of the pool; both move
//! bytes between the file and the request's memory without a copy. With `cache.direct=on` the host's page cache is left
//! out, and what is not aligned as the file wants it goes through memory of our own.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use thimble_monitor::schema::OnOffAuto;

use super::buffer::{ALIGNMENT, Buffer};
use super::executor::{Boxed, Pool};
use super::locks;
use super::node::{
    Description, Discards, Driver, Io, Need, OptionValue, Permissions, Refusal, Settings,
};
use crate::error_text;
use crate::files::{self, OFlags, Opened};

/// Pieces that the kernel takes at once.
const VECTORS_MAX: usize = 1024;

/// Reads of more bytes are for the pool, wherever they come from.
const AT_ONCE_MAX: usize = 256 << 10;

/// BLKDISCARD and BLKZEROOUT of linux/fs.h.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

/// An open file, with what its requests share.
struct Handle {
    file: Opened,
    writable: bool,
    direct: bool,
    is_device: bool,
    /// What direct requests are multiples of; 1 for others.
    alignment: usize,
    /// Who writes parts of blocks has it alone.
    blocks: RwLock<()>,
}

impl Handle {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Moves bytes until all are there, or the file ends.
    fn transfer(&self, mut at: u64, buffer: &Buffer, write: bool) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = match done {
                0 => buffer.clone(),
                done => buffer.slice(done, buffer.len()),
            };
            let entered = rest.enter().ok_or(Errno::CANCELED)?;
            let (vectors, _) = rest.vectors(VECTORS_MAX);
            let (fd, count) = (self.fd().as_raw_fd(), vectors.len() as libc::c_int);
            let offset = libc::off_t::try_from(at).map_err(|_| Errno::FBIG)?;
            // SAFETY: the vectors name memory that the buffer keeps.
            let moved = unsafe {
                match write {
                    true => libc::pwritev(fd, vectors.as_ptr(), count, offset),
                    false => libc::preadv(fd, vectors.as_ptr(), count, offset),
                }
            };
            drop(entered);
            match moved {
                0 if write => return Err(Errno::NOSPC),
                0 => break,
                moved if moved > 0 => {
                    done += moved as usize;
                    at += moved as u64;
                }
                _ => match last_error() {
                    Errno::INTR => {}
                    error => return Err(error),
                },
            }
        }
        Ok(done)
    }

    /// Reads what the page cache has; fewer bytes than asked for where it hasn't all.
    fn read_cached(&self, at: u64, to: &Buffer) -> usize {
        let Some(_entered) = to.enter() else {
            return 0;
        };
        let (vectors, _) = to.vectors(VECTORS_MAX);
        let Ok(offset) = libc::off_t::try_from(at) else {
            return 0;
        };
        let (fd, count) = (self.fd().as_raw_fd(), vectors.len() as libc::c_int);
        // SAFETY: the vectors name memory that the buffer keeps.
        let moved = unsafe { libc::preadv2(fd, vectors.as_ptr(), count, offset, libc::RWF_NOWAIT) };
        usize::try_from(moved).unwrap_or(0)
    }

    fn is_aligned(&self, at: u64, buffer: &Buffer) -> bool {
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

    fn read(&self, at: u64, to: &Buffer) -> Result<(), Errno> {
        let done = match self.is_aligned(at, to) {
            true => self.transfer(at, to, false)?,
            false => {
                let (start, length) = self.around(at, to.len());
                let whole = Buffer::new(length);
                let done = self.transfer(start, &whole, false)?;
                let before = (at - start) as usize;
                to.copy_from(&whole.slice(before, to.len()));
                done.saturating_sub(before).min(to.len())
            }
        };
        to.slice(done, to.len()).fill(0);
        Ok(())
    }

    fn write(&self, at: u64, from: &Buffer) -> Result<(), Errno> {
        if self.is_aligned(at, from) {
            let _shared = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
            return self.transfer(at, from, true).map(drop);
        }
        let (start, length) = self.around(at, from.len());
        let _alone = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let whole = Buffer::new(length);
        let before = (at - start) as usize;
        if before != 0 || length != from.len() {
            self.transfer(start, &whole, false)?;
        }
        whole.slice(before, from.len()).copy_from(from);
        self.transfer(start, &whole, true).map(drop)
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

    fn discard(&self, at: u64, length: u64) -> Result<(), Errno> {
        match self.is_device {
            true => self.device_range(BLKDISCARD, at, length),
            false => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                self.allocate(flags, at, length)
            }
        }
    }

    fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> Result<(), Errno> {
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

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// See the module.
pub struct File {
    name: &'static str,
    filename: String,
    /// Whether users may lock it; nothing while locks do not work here.
    locking: bool,
    asked_locking: OnOffAuto,
    handle: RefCell<Arc<Handle>>,
    length: Cell<u64>,
    /// What is locked.
    locked: Cell<Need>,
    discards: Cell<Discards>,
    /// What a flush has failed with: see [`Driver::flush`].
    lost: Cell<Option<Errno>>,
    pool: Pool,
}

fn open(filename: &str, writable: bool, direct: bool) -> Result<Opened, Errno> {
    let mut flags = match writable {
        true => OFlags::RDWR,
        false => OFlags::RDONLY,
    };
    if direct {
        flags |= OFlags::DIRECT;
    }
    let opened = files::open(Path::new(filename), flags);
    let opened = opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if opened.metadata().is_ok_and(|facts| facts.is_dir()) {
        return Err(Errno::ISDIR);
    }
    Ok(opened)
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

/// The text of an error, as QEMU gives it.
pub fn errno_text(error: Errno) -> String {
    error_text(&error.into())
}

impl File {
    /// Opens an image.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn open(
        name: &'static str,
        filename: &str,
        locking: Option<OnOffAuto>,
        settings: &mut Settings,
        pool: Pool,
    ) -> Result<Self, Refusal> {
        let filename_text = filename.strip_prefix("file:").unwrap_or(filename);
        let failed = |error| format!("Could not open '{filename_text}': {}", errno_text(error));
        let kind = std::fs::metadata(filename_text).ok();
        let kind = kind.map(|facts| facts.file_type());
        let is_special = kind.is_some_and(|kind| kind.is_block_device() || kind.is_char_device());
        let is_other = kind.is_some_and(|kind| !kind.is_file()) && !is_special;
        if name == "file" && is_other {
            return Err(format!(
                "'file' driver requires '{filename_text}' to be a regular file"
            ));
        }
        if name == "host_device" && kind.is_some() && !is_special {
            return Err(format!(
                "'host_device' driver requires '{filename_text}' to be either a character or block device"
            ));
        }
        let mut writable = !settings.read_only;
        let opened = match open(filename_text, writable, settings.direct) {
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM)
                if writable && settings.auto_read_only =>
            {
                (writable, settings.read_only) = (false, true);
                open(filename_text, false, settings.direct)
            }
            Err(Errno::INVAL) if settings.direct => {
                return Err(format!(
                    "Could not open '{filename_text}': filesystem does not support O_DIRECT"
                ));
            }
            opened => opened,
        };
        let opened = opened.map_err(failed)?;
        let works = locks::work(opened.as_fd());
        let asked_locking = locking.unwrap_or(OnOffAuto::Auto);
        if asked_locking == OnOffAuto::On && !works {
            return Err("The host does not support file locks of open descriptions".to_owned());
        }
        let handle = Self::handle(opened, writable, settings.direct);
        let file = Self {
            name,
            filename: filename_text.to_owned(),
            locking: asked_locking != OnOffAuto::Off && works,
            asked_locking,
            length: Cell::new(0),
            handle: RefCell::new(Arc::new(handle)),
            locked: Cell::new(Need::NONE),
            discards: Cell::default(),
            lost: Cell::new(None),
            pool,
        };
        file.measure().map_err(failed)?;
        Ok(file)
    }

    fn handle(file: Opened, writable: bool, direct: bool) -> Handle {
        let facts = file.metadata();
        let is_device = facts.is_ok_and(|facts| facts.file_type().is_block_device());
        let alignment = match direct {
            true => alignment(&file),
            false => 1,
        };
        Handle {
            file,
            writable,
            direct,
            is_device,
            alignment,
            blocks: RwLock::new(()),
        }
    }

    /// Finds the length anew.
    fn measure(&self) -> Result<(), Errno> {
        let handle = self.handle.borrow();
        let length = match handle.is_device {
            true => rustix::fs::seek(handle.fd(), rustix::fs::SeekFrom::End(0))?,
            false => rustix::fs::fstat(handle.fd())?.st_size as u64,
        };
        self.length.set(length);
        Ok(())
    }

    fn work(&self, work: impl FnOnce(&Handle) -> Result<(), Errno> + Send + 'static) -> Io<'_> {
        let handle = self.handle.borrow().clone();
        Box::pin(self.pool.run(move || work(&handle)))
    }

    /// Another open file in place of this, with the same locks.
    fn reopen(&self, need: Need, settings: Settings, writable: bool) -> Result<(), Refusal> {
        let opened = open(&self.filename, writable, settings.direct)
            .map_err(|error| format!("Could not reopen file: {}", errno_text(error)))?;
        let handle = Self::handle(opened, writable, settings.direct);
        // The locks of the old one are our own, and in the way; they are given up only for the blink of an eye.
        let (old, locked) = (self.handle.borrow().clone(), self.locked.get());
        if self.locking {
            locks::give_up(old.fd(), locked, Need::NONE);
            if let Err(refusal) = locks::take(handle.fd(), &self.filename, Need::NONE, need) {
                let _ = locks::take(old.fd(), &self.filename, Need::NONE, locked);
                return Err(refusal);
            }
            self.locked.set(need);
        }
        self.handle.replace(Arc::new(handle));
        Ok(())
    }
}

impl Driver for File {
    fn name(&self) -> &'static str {
        self.name
    }

    fn length(&self) -> u64 {
        self.length.get()
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        let handle = self.handle.borrow().clone();
        let mut done = 0;
        if !handle.direct && to.len() <= AT_ONCE_MAX {
            done = handle.read_cached(at, &to);
            if done >= to.len() {
                return Box::pin(std::future::ready(Ok(())));
            }
        }
        let work = move || match done {
            0 => handle.read(at, &to),
            done => handle.read(at + done as u64, &to.slice(done, to.len())),
        };
        Box::pin(self.pool.run(work))
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        let Some(end) = at.checked_add(from.len() as u64) else {
            return Box::pin(std::future::ready(Err(Errno::FBIG)));
        };
        let written = self.work(move |handle| handle.write(at, &from));
        Box::pin(async move {
            written.await?;
            self.length.set(self.length.get().max(end));
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        let end = at.saturating_add(length);
        let written = self.work(move |handle| handle.write_zeroes(at, length, may_unmap));
        Box::pin(async move {
            written.await?;
            self.length.set(self.length.get().max(end));
            Ok(())
        })
    }

    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a> {
        let discarded = self.work(move |handle| handle.discard(at, length));
        Box::pin(async move {
            let result = discarded.await;
            let mut discards = self.discards.get();
            match result {
                Ok(()) => {
                    discards.done += 1;
                    discards.bytes += length;
                }
                Err(_) => discards.failed += 1,
            }
            self.discards.set(discards);
            match result {
                // A file system that can't has nothing to give up.
                Err(Errno::OPNOTSUPP) => Ok(()),
                result => result,
            }
        })
    }

    // The kernel tells of writes that it could not do once, and what it had of them is gone then: where it kept them for
    // us, no later flush may count as one that made everything stable.
    fn flush(&self) -> Io<'_> {
        if let Some(error) = self.lost.get() {
            return super::throttle::refuse(error);
        }
        let direct = self.handle.borrow().direct;
        let flushed = self.work(|handle| rustix::fs::fdatasync(handle.fd()));
        Box::pin(async move {
            let result = flushed.await;
            if !direct && let Err(error) = result {
                self.lost.set(Some(error));
            }
            result
        })
    }

    fn resize<'a>(&'a self, length: u64) -> Boxed<'a, Result<(), Refusal>> {
        let handle = self.handle.borrow().clone();
        Box::pin(async move {
            if handle.is_device {
                return Err("Cannot resize device".to_owned());
            }
            let resized = self.work(move |handle| rustix::fs::ftruncate(handle.fd(), length));
            resized
                .await
                .map_err(|error| format!("Failed to resize file: {}", errno_text(error)))?;
            self.length.set(length);
            Ok(())
        })
    }

    fn adapt(&self, need: Need, settings: Settings) -> Result<(), Refusal> {
        let mut need = need;
        if settings.force_share {
            need.shares = Permissions::all();
        }
        let writes = need
            .uses
            .intersects(Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE);
        let writable = match settings.auto_read_only {
            true => writes,
            false => !settings.read_only,
        };
        let handle = self.handle.borrow().clone();
        // What can be written stays so until the file is opened for another reason.
        if handle.direct != settings.direct || (writable && !handle.writable) {
            return self.reopen(need, settings, writable);
        }
        if self.locking {
            let locked = self.locked.get();
            locks::take(handle.fd(), &self.filename, locked, need)?;
            locks::give_up(handle.fd(), locked, need);
            self.locked.set(need);
        }
        Ok(())
    }

    fn describe(&self) -> Description {
        let mut options = vec![("filename".into(), OptionValue::Text(self.filename.clone()))];
        if self.asked_locking != OnOffAuto::Auto {
            let name = self.asked_locking.name().to_owned();
            options.push(("locking".into(), OptionValue::Text(name)));
        }
        Description {
            filename: Some(self.filename.clone()),
            options,
        }
    }

    fn allocated(&self) -> Option<u64> {
        let facts = self.handle.borrow().file.metadata().ok()?;
        Some(facts.blocks() * 512)
    }

    fn has_dirty_flag(&self) -> bool {
        true
    }

    fn discards(&self) -> Option<Discards> {
        Some(self.discards.get())
    }
}
