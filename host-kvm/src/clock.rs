//! The virtual clock: nanoseconds that the VM has run.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use thimble_core::time::SECOND;

/// Nanoseconds of the host's monotonic clock.
pub fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// A clock that stands still while the VM is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// It runs, and read 0 when the monotonic clock read this.
    Running {
        /// Nanoseconds of the monotonic clock.
        zero: u64,
    },
    /// It stands.
    Stopped {
        /// What it reads.
        now: u64,
    },
    /// It goes by instructions, and stands where none are executed.
    Counted {
        /// What it reads.
        now: &'static AtomicU64,
    },
}

impl Clock {
    /// What the clock reads.
    pub fn now(self) -> u64 {
        match self {
            Self::Running { zero } => monotonic().wrapping_sub(zero),
            Self::Stopped { now } => now,
            Self::Counted { now } => now.load(Ordering::Relaxed),
        }
    }

    /// Sets the clock, which does not run.
    pub fn set(&mut self, to: u64) {
        match self {
            Self::Counted { now } => now.store(to, Ordering::Relaxed),
            Self::Running { .. } | Self::Stopped { .. } => *self = Self::Stopped { now: to },
        }
    }

    /// Lets the clock run.
    pub fn start(&mut self) {
        if let Self::Stopped { now } = *self {
            *self = Self::Running {
                zero: monotonic().wrapping_sub(now),
            };
        }
    }

    /// Holds the clock.
    pub fn stop(&mut self) {
        if !matches!(self, Self::Counted { .. }) {
            *self = Self::Stopped { now: self.now() };
        }
    }

    /// What the monotonic clock will read, once the clock reads `deadline`; `None` while it stands,
    /// or where it does not go with that clock.
    pub fn host_time(self, deadline: u64) -> Option<u64> {
        match self {
            Self::Running { zero } => Some(deadline.saturating_add(zero)),
            Self::Stopped { .. } | Self::Counted { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_while_stopped() {
        let mut clock = Clock::Stopped { now: 5 };
        assert_eq!(clock.now(), 5);
        assert_eq!(clock.host_time(7), None);
        clock.set(6);
        clock.start();
        let first = clock.now();
        assert!(first >= 5);
        clock.stop();
        let held = clock.now();
        assert!(held >= first);
        assert_eq!(clock.now(), held);
    }

    #[test]
    fn goes_by_what_is_counted() {
        let mut clock = Clock::Counted {
            now: Box::leak(Box::new(AtomicU64::new(5))),
        };
        let other = clock;
        clock.start();
        assert_eq!((clock.now(), clock.host_time(7)), (5, None));
        clock.stop();
        clock.set(9);
        assert_eq!((clock.now(), other.now()), (9, 9));
    }
}
