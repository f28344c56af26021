//! Pseudo-terminals: a terminal whose other end is this process (pty(7)).

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::terminal;

/// A new terminal in raw mode, and its name. Nobody has opened it yet.
pub(super) fn open() -> io::Result<(OwnedFd, String)> {
    let (master, slave) = both()?;
    let name = rustix::termios::ttyname(&slave, Vec::new())?;
    terminal::make_line(&slave);
    rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok((master, name.to_string_lossy().into_owned()))
}

/// Both ends of a new terminal.
fn both() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: a plain call; the descriptors are new and ours.
    unsafe {
        let (mut master, mut slave) = (0, 0);
        let none = std::ptr::null_mut();
        if libc::openpty(
            &mut master,
            &mut slave,
            none,
            std::ptr::null(),
            std::ptr::null(),
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)))
    }
}

/// Whether somebody has the terminal open.
pub(super) fn is_open(master: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&master, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::HUP)
}
