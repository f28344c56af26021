//! Timers on the virtual clock: one fixed slot for each timer of the board.
//!
//! Time is nanoseconds of the virtual clock, handed in by whoever drives the machine. It starts
//! at 0 when the machine is built and stands still while the VM is stopped.

pub mod calendar;

/// Timers that a board has at most.
pub const TIMERS_MAX: usize = 32;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// One timer of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(u8);

impl TimerId {
    /// The timer in this slot, below [`TIMERS_MAX`]; higher numbers wrap around.
    pub const fn new(slot: u8) -> Self {
        Self(slot % TIMERS_MAX as u8)
    }

    /// The slot's number.
    pub const fn slot(self) -> u8 {
        self.0
    }
}

/// Deadlines of all timers. A timer fires once and must be armed again.
#[derive(Clone, Debug)]
pub struct Timers {
    deadlines: [u64; TIMERS_MAX],
    /// The least of `deadlines`.
    next: u64,
}

/// Deadline of a timer that is not armed.
const NEVER: u64 = u64::MAX;

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// No timer armed.
    pub const fn new() -> Self {
        Self {
            deadlines: [NEVER; TIMERS_MAX],
            next: NEVER,
        }
    }

    /// Lets `timer` fire once the clock reads `deadline` or later, in place of any earlier setting.
    pub fn arm(&mut self, timer: TimerId, deadline: u64) {
        self.set(timer, deadline.min(NEVER - 1));
    }

    /// Keeps `timer` from firing.
    pub fn disarm(&mut self, timer: TimerId) {
        self.set(timer, NEVER);
    }

    fn set(&mut self, timer: TimerId, deadline: u64) {
        let old = core::mem::replace(&mut self.deadlines[usize::from(timer.0)], deadline);
        if deadline <= self.next {
            self.next = deadline;
        } else if old == self.next {
            self.next = self.deadlines.iter().copied().min().unwrap_or(NEVER);
        }
    }

    /// When the next timer fires.
    pub fn next_deadline(&self) -> Option<u64> {
        (self.next != NEVER).then_some(self.next)
    }

    /// Disarms and returns a timer whose deadline is at or before `now`, the earliest first.
    pub fn take_expired(&mut self, now: u64) -> Option<TimerId> {
        if self.next > now || self.next == NEVER {
            return None;
        }
        let slot = self
            .deadlines
            .iter()
            .position(|deadline| *deadline == self.next)?;
        let timer = TimerId(slot as u8);
        self.disarm(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_and_once() {
        let mut timers = Timers::new();
        timers.arm(TimerId::new(3), 50);
        timers.arm(TimerId::new(1), 20);
        timers.arm(TimerId::new(2), 70);
        timers.disarm(TimerId::new(2));
        assert_eq!(timers.next_deadline(), Some(20));
        assert_eq!(timers.take_expired(19), None);
        assert_eq!(timers.take_expired(60), Some(TimerId::new(1)));
        assert_eq!(timers.take_expired(60), Some(TimerId::new(3)));
        assert_eq!(timers.take_expired(u64::MAX), None);
        assert_eq!(timers.next_deadline(), None);
    }
}
