//! Files that the user names. All of them are opened here, so that `/dev/fdset/N` means a
//! descriptor of that set wherever there is a file's name.
//!
//! Not so for what is no plain file to the user: sockets, the pid file, which is locked and removed
//! by its name, and directories to look in.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::Mode;
pub use rustix::fs::OFlags;

use crate::descriptors::sets::{self, Lease};

/// An open file. It keeps the set that it comes from, if any.
#[derive(Debug)]
pub struct Opened {
    file: File,
    lease: Option<Lease>,
}

impl Opened {
    /// The descriptor and what is to be dropped together with it.
    pub fn into_parts(self) -> (OwnedFd, Option<Lease>) {
        (self.file.into(), self.lease)
    }

    /// Whether it was passed to us: it is its giver's then, and never removed.
    pub fn is_passed(&self) -> bool {
        self.lease.is_some()
    }
}

impl From<File> for Opened {
    fn from(file: File) -> Self {
        Self { file, lease: None }
    }
}

impl Deref for Opened {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl io::Write for Opened {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Opens a file as open(2) does; one that is created may be read and written by all whom the umask
/// lets. Of a set, the descriptor must have the same access mode, and of the other flags only APPEND
/// and TRUNC have an effect: it may block.
///
/// # Errors
/// What open(2) says; for sets: EINVAL if behind `/dev/fdset/` there is no number, ENOENT if there is
/// no such set, EACCES if none of its descriptors has that access mode.
pub fn open(path: &Path, flags: OFlags) -> io::Result<Opened> {
    open_mode(path, flags, 0o666)
}

fn open_mode(path: &Path, flags: OFlags, mode: u32) -> io::Result<Opened> {
    if let Some(found) = sets::open(path.as_os_str().as_bytes(), flags) {
        let (fd, lease) = found?;
        let file = fd.into();
        let lease = Some(lease);
        return Ok(Opened { file, lease });
    }
    let mode = Mode::from_raw_mode(mode);
    let flags = flags | OFlags::CLOEXEC;
    let fd = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, mode))?;
    Ok(File::from(fd).into())
}

/// Opens a file to be written from its beginning on; it is created or made empty.
///
/// # Errors
/// As [`open`].
pub fn create(path: &Path) -> io::Result<Opened> {
    open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
}

/// The same, but a file that is created is the owner's alone.
///
/// # Errors
/// As [`open`].
pub fn create_private(path: &Path) -> io::Result<Opened> {
    open_mode(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o600)
}
