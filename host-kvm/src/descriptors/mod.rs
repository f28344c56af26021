//! Descriptors that came from outside: passed over a monitor's socket, or inherited and put into a
//! set by `-add-fd`.
//!
//! [`Passed`] is what one monitor has: the descriptors of its last message until a command takes
//! one, and those that `getfd` gave a name. Names outlive the connection, as with QEMU: they belong
//! to the monitor. [`sets`] are the process' own, and files by the name of `/dev/fdset/N`.
//!
//! All is bounded. Who passes more than fits gets an error, and the descriptor is closed.

pub mod inherited;
pub mod sets;

use std::fmt;
use std::mem;
use std::os::fd::OwnedFd;

/// Descriptors with a name that one monitor holds at most.
pub const NAMED_MAX: usize = 256;

/// Bytes of such a name at most.
pub const NAME_MAX: usize = 255;

/// Why a descriptor was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are [`NAMED_MAX`] already.
    Count,
    /// The name has more than [`NAME_MAX`] bytes.
    Name,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => write!(
                f,
                "No more than {NAMED_MAX} file descriptors can have names at a time"
            ),
            Self::Name => write!(f, "A file descriptor's name has at most {NAME_MAX} bytes"),
        }
    }
}

/// The descriptors of one monitor.
#[derive(Debug, Default)]
pub struct Passed {
    received: Vec<OwnedFd>,
    named: Vec<(Box<[u8]>, OwnedFd)>,
}

impl Passed {
    /// Takes what came with a message. What came before and no command took is closed.
    pub fn receive(&mut self, fds: Vec<OwnedFd>) {
        for fd in &fds {
            // The flag comes along with the open file, and what commands do with it may block.
            // Whatever has no such flag fails here, and does not need it.
            let _ = rustix::io::ioctl_fionbio(fd, false);
        }
        self.received = fds;
    }

    /// The connection is gone, and with it what no command took.
    pub fn disconnect(&mut self) {
        self.received = Vec::new();
    }

    /// The descriptor that came with a command: the first one. Others are closed.
    pub fn received(&mut self) -> Option<OwnedFd> {
        mem::take(&mut self.received).into_iter().next()
    }

    /// Gives a descriptor a name; the one that had it is closed.
    ///
    /// # Errors
    /// At the limits; the descriptor is closed then.
    pub fn name(&mut self, name: &[u8], fd: OwnedFd) -> Result<(), Full> {
        if let Some((_, known)) = self.named.iter_mut().find(|(known, _)| **known == *name) {
            *known = fd;
        } else if name.len() > NAME_MAX {
            return Err(Full::Name);
        } else if self.named.len() >= NAMED_MAX {
            return Err(Full::Count);
        } else {
            self.named.push((name.into(), fd));
        }
        Ok(())
    }

    /// Takes the descriptor with this name, which is forgotten.
    pub fn take(&mut self, name: &[u8]) -> Option<OwnedFd> {
        let index = self.named.iter().position(|(known, _)| **known == *name)?;
        Some(self.named.remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
    }

    /// Whether the writing end, whose reading end is given, is closed everywhere.
    fn closed(reader: &OwnedFd) -> bool {
        rustix::io::ioctl_fionbio(reader, true).unwrap();
        rustix::io::read(reader, &mut [0]) == Ok(0)
    }

    #[test]
    fn the_last_message_counts_and_of_it_the_first_descriptor() {
        let mut passed = Passed::default();
        assert!(passed.received().is_none());
        let (pipes, writers): (Vec<_>, Vec<_>) = (0..4).map(|_| pipe()).unzip();
        let mut writers = writers.into_iter();
        passed.receive(writers.by_ref().take(1).collect());
        assert!(!closed(&pipes[0]));
        passed.receive(writers.collect());
        assert!(closed(&pipes[0]) && !closed(&pipes[3]));
        let first = passed.received().unwrap();
        assert!(!closed(&pipes[1]) && closed(&pipes[2]) && closed(&pipes[3]));
        assert!(passed.received().is_none());
        passed.receive(vec![first]);
        passed.disconnect();
        assert!(closed(&pipes[1]) && passed.received().is_none());
    }

    #[test]
    fn names_are_replaced_taken_and_limited() {
        let mut passed = Passed::default();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let (reader, writer) = pipe();
        passed.name(b"a", writer).unwrap();
        passed.name(b"", null()).unwrap();
        assert!(!closed(&reader));
        passed.name(b"a", null()).unwrap();
        assert!(closed(&reader));
        assert!(passed.take(b"b").is_none());
        assert!(passed.take(b"a").is_some() && passed.take(b"a").is_none());
        assert!(passed.take(b"").is_some());
        assert_eq!(passed.name(&[b'x'; NAME_MAX + 1], null()), Err(Full::Name));
        for index in 0..NAMED_MAX {
            passed.name(index.to_string().as_bytes(), null()).unwrap();
        }
        let (reader, writer) = pipe();
        assert_eq!(passed.name(b"one more", writer), Err(Full::Count));
        assert!(closed(&reader));
        passed.name(b"0", null()).unwrap();
    }

    #[test]
    fn what_is_received_blocks() {
        let (reader, _writer) = pipe();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let mut passed = Passed::default();
        passed.receive(vec![reader]);
        let flags = rustix::fs::fcntl_getfl(passed.received().unwrap()).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }
}
