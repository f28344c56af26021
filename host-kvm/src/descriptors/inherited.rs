//! Descriptors that the parent process left for us, by their numbers on the command line.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, FdFlags};

use super::sets;
use crate::error_text;
use crate::options::{AddFd, OptionError};

/// Why a number is not an inherited descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotInherited {
    /// It is standard input, output or error.
    Stdio,
    /// It is not open.
    Closed,
    /// This process has opened it, or taken it over already.
    InUse,
}

/// Looks at an inherited descriptor without taking it over.
///
/// # Errors
/// If it is none.
pub(crate) fn borrow(number: i32) -> Result<BorrowedFd<'static>, NotInherited> {
    if (0..=libc::STDERR_FILENO).contains(&number) {
        return Err(NotInherited::Stdio);
    }
    if number < 0 {
        return Err(NotInherited::Closed);
    }
    // SAFETY: only asked for its flags here, which fails for a number that is not open. Who keeps it
    // for longer takes it over with the call below.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    // A descriptor that this process opened itself, or took over before, is close-on-exec: it has an
    // owner. One that was passed to us can't be.
    match rustix::io::fcntl_getfd(fd) {
        Ok(flags) if !flags.contains(FdFlags::CLOEXEC) => Ok(fd),
        Ok(_) => Err(NotInherited::InUse),
        Err(_) => Err(NotInherited::Closed),
    }
}

/// Takes an inherited descriptor over.
///
/// # Errors
/// If it is none.
pub(crate) fn take(number: i32) -> Result<OwnedFd, NotInherited> {
    let fd = borrow(number)?;
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(|_| NotInherited::Closed)?;
    // SAFETY: the number is open and, not being close-on-exec until now, has no owner here.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts inherited descriptors into sets: copies, as one may be meant for several. The originals are
/// closed.
///
/// # Errors
/// The first option that can't be met.
pub fn add(options: &[AddFd]) -> Result<(), OptionError> {
    for option in options {
        let failed = |reason: &str| OptionError::new(&option.origin, reason);
        let fd = borrow(option.fd).map_err(|error| {
            failed(match error {
                NotInherited::Stdio => "fd cannot be a standard I/O stream",
                NotInherited::Closed | NotInherited::InUse => "fd is not valid or already in use",
            })
        })?;
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|error: Errno| {
            let error = error_text(&error.into());
            failed(&format!("error duplicating fd: {error}"))
        })?;
        let opaque = option.opaque.as_deref().map(str::as_bytes);
        let added = sets::lock().add(Some(option.set), copy, opaque);
        added.map_err(|error| failed(&error.to_string()))?;
    }
    for option in options {
        // One that is in several sets is closed already.
        drop(take(option.fd));
    }
    Ok(())
}
