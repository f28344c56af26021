//! A device that several use by turns: who has the terminal, and the time before lines.

use crate::clock::monotonic;

use super::escape::Escape;

/// Users of one device at most.
pub const USERS_MAX: usize = 4;

/// Bytes of input that wait for a user who does not take them. While there is room the escape key
/// is heard.
pub(super) const INPUT_MAX: usize = 4096;

/// One of the users of a device.
#[derive(Debug, Default)]
pub(super) struct Port {
    /// Input that was not taken.
    pub(super) rest: Vec<u8>,
    /// No input is wanted.
    pub(super) paused: bool,
    /// `writable` is due when there is room.
    pub(super) starved: bool,
}

/// What a device that is shared has beside its ports.
pub(super) struct Mux {
    pub(super) escape: Escape,
    /// Whether a port was given to a user.
    pub(super) used: bool,
    /// A line of output begins.
    fresh: bool,
    /// The time is before each line: when the first one was written, in nanoseconds; 0 until then.
    stamps: Option<u64>,
}

impl Mux {
    pub(super) fn new(key: u8) -> Self {
        Self {
            escape: Escape::new(key),
            used: false,
            fresh: true,
            stamps: None,
        }
    }

    /// Switches the times on or off. They count from the first one.
    pub(super) fn toggle_stamps(&mut self) {
        self.stamps = match self.stamps {
            Some(_) => None,
            None => Some(0),
        };
    }

    /// Whether output is sent otherwise than as it comes.
    pub(super) fn stamps(&self) -> bool {
        self.stamps.is_some()
    }

    /// What comes before the next byte.
    pub(super) fn stamp(&mut self) -> String {
        let (Some(start), true) = (&mut self.stamps, self.fresh) else {
            return String::new();
        };
        let now = monotonic();
        if *start == 0 {
            *start = now;
        }
        let milliseconds = now.saturating_sub(*start) / 1_000_000;
        let seconds = milliseconds / 1000;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let (seconds, milliseconds) = (seconds % 60, milliseconds % 1000);
        format!("[{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}] ")
    }

    /// Notes the byte that was written last.
    pub(super) fn wrote(&mut self, byte: u8) {
        self.fresh = byte == b'\n';
    }
}
