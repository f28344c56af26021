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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    /// A pipe whose writing end is as a parent process leaves it.
    fn pipe() -> (OwnedFd, i32) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::fcntl_setfd(&writer, FdFlags::empty()).unwrap();
        (reader, writer.into_raw_fd())
    }

    #[test]
    fn only_what_was_inherited_is_taken() {
        let (reader, number) = pipe();
        assert!(borrow(number).is_ok());
        let taken = take(number).unwrap();
        assert_eq!(take(number).unwrap_err(), NotInherited::InUse);
        drop(taken);
        assert_eq!(rustix::io::read(&reader, &mut [0]), Ok(0));
        let own = File::open("/dev/null").unwrap();
        assert_eq!(borrow(own.as_raw_fd()).unwrap_err(), NotInherited::InUse);
        for (number, why) in [
            (0, NotInherited::Stdio),
            (2, NotInherited::Stdio),
            (-1, NotInherited::Closed),
            (i32::MIN, NotInherited::Closed),
            (i32::MAX, NotInherited::Closed),
        ] {
            assert_eq!(borrow(number).unwrap_err(), why);
        }
    }

    #[test]
    fn sets_get_copies_and_the_original_is_closed() {
        let (reader, number) = pipe();
        let option = |fd, set| AddFd {
            fd,
            set,
            opaque: None,
            origin: format!("-add-fd fd={fd},set={set}"),
        };
        // Sets of this process that no other test uses, each in use: so nobody else cleans them.
        add(&[option(number, 7_000_001), option(number, 7_000_002)]).unwrap();
        let error = add(&[option(number, 7_000_003)]).unwrap_err().to_string();
        assert!(
            error.ends_with("fd is not valid or already in use"),
            "{error}"
        );
        assert!(error.starts_with("-add-fd fd="), "{error}");
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        for set in [7_000_001, 7_000_002] {
            let name = format!("/dev/fdset/{set}");
            let used = sets::open(name.as_bytes(), rustix::fs::OFlags::WRONLY);
            let (copy, keep) = used.unwrap().unwrap();
            rustix::io::write(&copy, b"x").unwrap();
            assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(1));
            assert_eq!(rustix::io::read(&reader, &mut [0]), Err(Errno::AGAIN));
            let mut sets = sets::lock();
            sets.set_running(true);
            sets.remove(set, None).unwrap();
            drop(sets);
            drop((copy, keep));
        }
        assert_eq!(rustix::io::read(&reader, &mut [0]), Ok(0));
    }
}
