//! `file` and `host_device`: images that are files or block devices of the host.
//!
//! Reads of what the host has in its page cache are done at once, everything else by the kernel on its own or by the threads of the
//! pool, as `aio=` says (see [`super::engines`]); all move bytes between the file and the request's memory without a copy. With
//! `cache.direct=on` the host's page cache is left out, and what is not aligned as the file wants it goes through memory of our
//! own.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use thimble_monitor::schema::arguments::BlockdevOptionsFile;
use thimble_monitor::schema::{BlockdevAioOptions, OnOffAuto};

use super::buffer::Buffer;
use super::engines::{self, Engines};
use super::executor::Boxed;
use super::handle::Handle;
use super::locks;
use super::node::{
    Description, Discards, Driver, Io, Need, OptionValue, Permissions, Refusal, Settings,
};
use super::transfer::{Kind, Transfer};
use crate::error_text;
use crate::files::{self, OFlags, Opened};

/// Reads of more bytes are not done at once, wherever they come from.
const AT_ONCE_MAX: usize = 256 << 10;

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
    /// How it is read and written.
    aio: Option<BlockdevAioOptions>,
    asked_aio: Option<BlockdevAioOptions>,
    engines: Engines,
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
        options: &BlockdevOptionsFile<'_>,
        settings: &mut Settings,
        engines: Engines,
    ) -> Result<Self, Refusal> {
        let filename_text = filename.strip_prefix("file:").unwrap_or(filename);
        let failed = |error| format!("Could not open '{filename_text}': {}", errno_text(error));
        let facts = std::fs::metadata(filename_text);
        let is_special = facts.as_ref().is_ok_and(|facts| {
            facts.file_type().is_block_device() || facts.file_type().is_char_device()
        });
        if name == "host_device" && facts.is_ok() && !is_special {
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
        let aio = options.aio.or(settings.aio);
        engines::check(aio, settings.direct)?;
        let works = locks::work(opened.as_fd());
        let asked_locking = options.locking.unwrap_or(OnOffAuto::Auto);
        if asked_locking == OnOffAuto::On && !works {
            return Err("The host does not support file locks of open descriptions".to_owned());
        }
        let handle = Handle::new(opened, writable, settings.direct);
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
            aio,
            asked_aio: options.aio,
            engines,
        };
        file.measure().map_err(failed)?;
        Ok(file)
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

    /// Lets a thread do something.
    fn work(&self, work: impl FnOnce(&Handle) -> Result<(), Errno> + Send + 'static) -> Io<'_> {
        let handle = self.handle.borrow().clone();
        Box::pin(self.engines.pool.run(move || work(&handle)))
    }

    /// Lets bytes be moved that are not in the page cache.
    fn transfer(&self, kind: Kind, at: u64, buffer: Buffer) -> Io<'_> {
        let handle = self.handle.borrow().clone();
        let mut blocks = None;
        if handle.alignment > 1 && kind != Kind::Flush {
            let write = kind == Kind::Write;
            let aligned = handle.is_aligned(at, &buffer);
            if aligned && write {
                blocks = handle.enter_blocks();
            }
            if !aligned || (write && blocks.is_none()) {
                return self.work(move |handle| match write {
                    true => handle.write(at, &buffer),
                    false => handle.read_parts(at, &buffer),
                });
            }
        }
        let aio = match self.aio {
            // Without direct requests the kernel would let us wait.
            Some(BlockdevAioOptions::Native) if !handle.direct => Some(BlockdevAioOptions::Threads),
            aio => aio,
        };
        let (transfer, end) = Transfer::new(handle, kind, at, buffer, blocks);
        self.engines.start(aio, transfer);
        Box::pin(end)
    }

    /// Another open file in place of this, with the same locks.
    fn reopen(&self, need: Need, settings: Settings, writable: bool) -> Result<(), Refusal> {
        let opened = open(&self.filename, writable, settings.direct)
            .map_err(|error| format!("Could not reopen file: {}", errno_text(error)))?;
        let handle = Handle::new(opened, writable, settings.direct);
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

/// What a file is told by.
pub fn described(
    filename: &str,
    locking: OnOffAuto,
    aio: Option<BlockdevAioOptions>,
) -> Vec<(Cow<'static, str>, OptionValue)> {
    let mut options = vec![("filename".into(), OptionValue::Text(filename.to_owned()))];
    if locking != OnOffAuto::Auto {
        options.push(("locking".into(), OptionValue::Unnamed(locking.name())));
    }
    if let Some(aio) = aio {
        options.push(("aio".into(), OptionValue::Unnamed(aio.name())));
    }
    options
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
        let rest = match done {
            0 => to,
            done => to.slice(done, to.len()),
        };
        self.transfer(Kind::Read, at + done as u64, rest)
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        let Some(end) = at.checked_add(from.len() as u64) else {
            return Box::pin(std::future::ready(Err(Errno::FBIG)));
        };
        let written = self.transfer(Kind::Write, at, from);
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
        let flushed = self.transfer(Kind::Flush, 0, Buffer::new(0));
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
        let options = described(&self.filename, self.asked_locking, self.asked_aio);
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
