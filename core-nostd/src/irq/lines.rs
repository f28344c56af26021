//! Levels of the board's interrupt lines, and a log of their changes since the last drain.
//!
//! A device owns lines, never interrupt numbers: the board says in one table where a line ends.
//! Changes are logged in order because an edge-triggered controller must see a pulse whose two
//! edges fall into one register access.

/// Lines that a board has at most.
pub const LINES_MAX: usize = 128;

/// Changes that are kept between two drains.
const CHANGES_MAX: usize = 32;

/// One interrupt line of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqLine(u8);

impl IrqLine {
    /// The line with this number, below [`LINES_MAX`]; higher numbers wrap around.
    pub const fn new(number: u8) -> Self {
        Self(number % LINES_MAX as u8)
    }

    /// The line's number on the board.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A line that rose or fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineChange {
    /// Which line.
    pub line: IrqLine,
    /// Its new level.
    pub level: bool,
}

/// Levels of all lines.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    levels: u128,
    changes: heapless::Deque<LineChange, CHANGES_MAX>,
}

impl Lines {
    /// All lines low, no change pending.
    pub const fn new() -> Self {
        Self {
            levels: 0,
            changes: heapless::Deque::new(),
        }
    }

    /// Drives a line; nothing happens where it has that level already.
    ///
    /// When the log is full its oldest change is dropped: the levels stay true, and a pulse that
    /// the controllers have not seen in 32 changes is lost, as on a real edge-triggered line.
    pub fn set(&mut self, line: IrqLine, level: bool) {
        if self.level(line) == level {
            return;
        }
        self.levels ^= 1 << line.0;
        let change = LineChange { line, level };
        if let Err(change) = self.changes.push_back(change) {
            self.changes.pop_front();
            let _ = self.changes.push_back(change);
        }
    }

    /// Raises a line and lowers it again.
    pub fn pulse(&mut self, line: IrqLine) {
        self.set(line, true);
        self.set(line, false);
    }

    /// The level of a line.
    pub fn level(&self, line: IrqLine) -> bool {
        self.levels >> line.0 & 1 != 0
    }

    /// The oldest change that has not been taken yet.
    pub fn take_change(&mut self) -> Option<LineChange> {
        self.changes.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_edges_in_order() {
        let mut lines = Lines::new();
        lines.pulse(IrqLine::new(4));
        lines.set(IrqLine::new(4), false);
        let line = IrqLine::new(4);
        assert_eq!(lines.take_change(), Some(LineChange { line, level: true }));
        assert_eq!(lines.take_change(), Some(LineChange { line, level: false }));
        assert_eq!(lines.take_change(), None);
    }

    #[test]
    fn full_log_keeps_levels_true() {
        let mut lines = Lines::new();
        for i in 0..101 {
            lines.set(IrqLine::new(1), i % 2 == 0);
        }
        assert!(lines.level(IrqLine::new(1)));
        let mut last = None;
        while let Some(change) = lines.take_change() {
            last = Some(change.level);
        }
        assert_eq!(last, Some(true));
    }
}
