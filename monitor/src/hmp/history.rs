//! What was typed before: the lines of a session, oldest first, each once.
//!
//! Limits: [`HISTORY_MAX`] lines of [`HISTORY_BYTES`] bytes together; the oldest ones make room.

use core::fmt::Write as _;

use super::table::{Command, command};
use crate::handlers::Outcome;

/// What `info` shows.
pub(super) static INFO: &[Command] = &[command(
    "history",
    "",
    &[],
    "show what was typed in this monitor",
    |call| {
        // Lines that come by QMP were not typed.
        for (number, line) in call.history.iter().flat_map(|h| h.lines()).enumerate() {
            write!(call.text, "{number}: '")?;
            call.text.bytes(line)?;
            writeln!(call.text, "'")?;
        }
        Ok(Outcome::Done)
    },
)
.in_preconfig()];

/// Lines that are remembered at most.
pub const HISTORY_MAX: usize = 64;

/// Bytes of all remembered lines at most: eight of the longest.
pub const HISTORY_BYTES: usize = 32 * 1024;

const _: () = assert!(super::editor::LINE_MAX <= HISTORY_BYTES);

/// Lines that were typed.
#[derive(Debug)]
pub struct History {
    /// How many bytes each line has; they fit, as a line is shorter than 64 KiB.
    lengths: heapless::Vec<u16, HISTORY_MAX>,
    bytes: heapless::Vec<u8, HISTORY_BYTES>,
}

impl History {
    /// Nothing was typed.
    pub(super) const fn new() -> Self {
        Self {
            lengths: heapless::Vec::new(),
            bytes: heapless::Vec::new(),
        }
    }

    /// How many lines there are.
    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        self.lengths.iter().map_while(move |length| {
            let (line, behind) = rest.split_at_checked(usize::from(*length))?;
            rest = behind;
            Some(line)
        })
    }

    /// Remembers a line as the newest, and forgets an equal one.
    pub(super) fn add(&mut self, line: &[u8]) {
        let Ok(length) = u16::try_from(line.len()) else {
            return;
        };
        if line.is_empty() || line.len() > HISTORY_BYTES {
            return;
        }
        let known = self.lines().position(|known| known == line);
        if let Some(index) = known {
            self.remove(index);
        }
        while self.lengths.is_full() || HISTORY_BYTES - self.bytes.len() < line.len() {
            self.remove(0);
        }
        // There is room, as was just seen to.
        let _ = self.bytes.extend_from_slice(line);
        let _ = self.lengths.push(length);
    }

    fn remove(&mut self, index: usize) {
        let start: usize = self
            .lengths
            .iter()
            .take(index)
            .map(|l| usize::from(*l))
            .sum();
        let end = start + usize::from(self.lengths.remove(index));
        self.bytes.copy_within(end.., start);
        self.bytes.truncate(self.bytes.len() - (end - start));
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn lines_are_kept_once_and_in_order() {
        let mut history = History::new();
        for line in ["a", "bb", "", "ccc", "bb"] {
            history.add(line.as_bytes());
        }
        let lines: Vec<_> = history.lines().collect();
        assert_eq!(lines, [&b"a"[..], b"ccc", b"bb"]);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut history = History::new();
        for number in 0..100_u8 {
            history.add(&[number]);
        }
        assert_eq!(history.len(), HISTORY_MAX);
        assert_eq!(history.lines().next(), Some(&[36][..]));
        for number in 0..9_u8 {
            history.add(&[number; 4095]);
        }
        assert_eq!(history.len(), 8);
        assert!(history.lines().all(|line| line.len() == 4095));
        assert_eq!(history.lines().next(), Some(&[1; 4095][..]));
    }
}
