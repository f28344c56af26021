//! A thin wrapper over epoll(7): descriptors with a 64-bit token, a wait with a timeout in
//! nanoseconds, and an eventfd with which other threads end a wait.
//!
//! Descriptors that epoll refuses because they never block (regular files, `/dev/null`) are kept
//! in a list and reported as ready by every wait, so that a user need not know the difference.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// Events that one [`Poller::wait`] reports at most; the next wait reports the rest.
pub const EVENTS_MAX: usize = 32;

/// What to wait for. With neither set only errors and hang-ups are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Data to read, a connection to accept, or the end of the stream.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Readable only.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    /// Writable only.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };
    /// Errors and hang-ups only.
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A read will not block.
    pub read: bool,
    /// A write will not block.
    pub write: bool,
    /// The peer hung up or the descriptor is in error. Reported without being asked for.
    pub hangup: bool,
}

/// One report of [`Poller::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token given to [`Poller::add`].
    pub token: u64,
    /// What the descriptor is ready for.
    pub readiness: Readiness,
}

/// A descriptor that epoll does not take.
struct AlwaysReady {
    fd: RawFd,
    token: u64,
    interest: Interest,
}

/// A set of descriptors to wait for. Any thread may change the set, also during a wait.
pub struct Poller {
    epoll: OwnedFd,
    always: Mutex<Vec<AlwaysReady>>,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// Whatever epoll_create1(2) says: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            always: Mutex::new(Vec::new()),
        })
    }

    /// Adds a descriptor. It must be removed before it is closed.
    ///
    /// # Errors
    /// Whatever epoll_ctl(2) says, such as EEXIST.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let fd = fd.as_fd();
        match epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags()) {
            Err(Errno::PERM) => {
                self.always().push(AlwaysReady {
                    fd: fd.as_raw_fd(),
                    token,
                    interest,
                });
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Changes what a descriptor in the set is waited for.
    ///
    /// # Errors
    /// ENOENT for a descriptor that is not in the set.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let fd = fd.as_fd();
        if let Some(entry) = self
            .always()
            .iter_mut()
            .find(|entry| entry.fd == fd.as_raw_fd())
        {
            entry.token = token;
            entry.interest = interest;
            return Ok(());
        }
        Ok(epoll::modify(
            &self.epoll,
            fd,
            EventData::new_u64(token),
            interest.flags(),
        )?)
    }

    /// Takes a descriptor out of the set.
    ///
    /// # Errors
    /// ENOENT for a descriptor that is not in the set.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        let fd = fd.as_fd();
        let mut always = self.always();
        if let Some(index) = always.iter().position(|entry| entry.fd == fd.as_raw_fd()) {
            always.swap_remove(index);
            return Ok(());
        }
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until a descriptor is ready, `timeout` nanoseconds have passed (`None`: without
    /// limit) or a signal handler has run, and reports what is ready. No event is an answer.
    ///
    /// # Errors
    /// Whatever epoll_pwait2(2) says, EINTR excepted.
    pub fn wait(&self, timeout: Option<u64>) -> io::Result<heapless::Vec<Event, EVENTS_MAX>> {
        let mut events = heapless::Vec::new();
        for entry in self.always().iter() {
            if entry.interest != Interest::NONE {
                // The list holds a handful of entries: standard input and output.
                let _ = events.push(Event {
                    token: entry.token,
                    readiness: Readiness {
                        read: entry.interest.read,
                        write: entry.interest.write,
                        hangup: false,
                    },
                });
            }
        }
        let timeout = if events.is_empty() { timeout } else { Some(0) };
        let timeout = timeout.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        let room = EVENTS_MAX - events.len();
        if room == 0 {
            return Ok(events);
        }
        let (ready, _) = match epoll::wait(&self.epoll, &mut space[..room], timeout.as_ref()) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(events),
            Err(error) => return Err(error.into()),
        };
        for event in ready {
            let flags = event.flags;
            let _ = events.push(Event {
                token: event.data.u64(),
                readiness: Readiness {
                    read: flags.contains(EventFlags::IN),
                    write: flags.contains(EventFlags::OUT),
                    hangup: flags.intersects(EventFlags::HUP | EventFlags::ERR),
                },
            });
        }
        Ok(events)
    }

    fn always(&self) -> MutexGuard<'_, Vec<AlwaysReady>> {
        self.always.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a wait from another thread. Add it to a [`Poller`] with a token of its own.
pub struct Waker(OwnedFd);

impl Waker {
    /// A waker that has not been used.
    ///
    /// # Errors
    /// Whatever eventfd2(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Makes the descriptor readable. Never blocks: a full counter is readable already.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Takes all calls of [`Waker::wake`] so far back; to be called when the token is reported.
    pub fn drain(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn reports_tokens_and_readiness() {
        let poller = Poller::new().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        poller.add(&a, 7, Interest::READ).unwrap();
        assert!(poller.wait(Some(0)).unwrap().is_empty());
        rustix::io::write(&b, b"x").unwrap();
        let events = poller.wait(None).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].token, 7);
        assert!(events[0].readiness.read && !events[0].readiness.write);
        poller.modify(&a, 8, Interest::WRITE).unwrap();
        let events = poller.wait(None).unwrap();
        assert_eq!(events[0].token, 8);
        assert!(events[0].readiness.write && !events[0].readiness.read);
        poller.modify(&a, 8, Interest::NONE).unwrap();
        assert!(poller.wait(Some(0)).unwrap().is_empty());
        drop(b);
        assert!(poller.wait(None).unwrap()[0].readiness.hangup);
        poller.remove(&a).unwrap();
        assert!(poller.wait(Some(0)).unwrap().is_empty());
        assert!(poller.remove(&a).is_err());
    }

    #[test]
    fn waits_shorter_than_a_millisecond() {
        let poller = Poller::new().unwrap();
        let start = Instant::now();
        assert!(poller.wait(Some(300_000)).unwrap().is_empty());
        assert!(start.elapsed() >= Duration::from_nanos(300_000));
    }

    #[test]
    fn takes_descriptors_that_never_block() {
        let poller = Poller::new().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        poller.add(&null, 3, Interest::READ).unwrap();
        assert_eq!(poller.wait(None).unwrap()[0].token, 3);
        poller.modify(&null, 3, Interest::NONE).unwrap();
        assert!(poller.wait(Some(0)).unwrap().is_empty());
        poller.remove(&null).unwrap();
    }

    #[test]
    fn wakes_from_another_thread() {
        let poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        poller.add(&waker, 1, Interest::READ).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            assert_eq!(poller.wait(None).unwrap()[0].token, 1);
        });
        waker.drain();
        assert!(poller.wait(Some(0)).unwrap().is_empty());
    }
}
