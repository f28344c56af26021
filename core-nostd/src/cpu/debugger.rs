//! What a debugger outside of the guest asks of processors: where to stop, and why they did.
//!
//! Both accelerators take [`Breaks`] as they are. Nothing of this is the guest's: its debug registers, TF and
//! memory are not touched by the software CPU, and given back by KVM.
//!
//! Addresses are linear. Several requests for the same place are one.

use heapless::Vec;

/// Breakpoints at most.
pub const BREAKPOINTS_MAX: usize = 128;

/// Watchpoints at most.
pub const WATCHPOINTS_MAX: usize = 32;

/// A place in code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breakpoint {
    /// The instruction's address.
    pub address: u64,
    /// It was asked for as one of the hardware.
    pub hardware: bool,
}

/// Which accesses a watchpoint is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum WatchKind {
    /// Stores.
    #[default]
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// Bytes of memory whose use stops the processor, after the instruction that used them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watchpoint {
    /// Which accesses.
    pub kind: WatchKind,
    /// The first byte.
    pub address: u64,
    /// How many, at least one.
    pub length: u64,
}

impl Watchpoint {
    /// The first byte of an access of `length` bytes, at least one, that is watched.
    pub fn touched(&self, address: u64, length: u64) -> Option<u64> {
        // Either begins within the other; both may lie across the end of the address space.
        if address.wrapping_sub(self.address) < self.length {
            Some(address)
        } else if self.address.wrapping_sub(address) < length {
            Some(self.address)
        } else {
            None
        }
    }
}

/// Something that a debugger sets and takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A place in code.
    Code(Breakpoint),
    /// A place in memory.
    Data(Watchpoint),
}

/// There are [`BREAKPOINTS_MAX`] or [`WATCHPOINTS_MAX`] already, or a watchpoint of no bytes is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// All breakpoints and watchpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaks {
    /// Sorted.
    breakpoints: Vec<Breakpoint, BREAKPOINTS_MAX>,
    watchpoints: Vec<Watchpoint, WATCHPOINTS_MAX>,
}

impl Breaks {
    /// None.
    pub const fn new() -> Self {
        Self {
            breakpoints: Vec::new(),
            watchpoints: Vec::new(),
        }
    }

    /// Sets one, if it is not there.
    ///
    /// # Errors
    /// If there are too many, or it is of no bytes.
    pub fn insert(&mut self, what: Break) -> Result<(), Refused> {
        match what {
            Break::Code(breakpoint) => match self.breakpoints.binary_search(&breakpoint) {
                Ok(_) => Ok(()),
                Err(at) => self.breakpoints.insert(at, breakpoint).map_err(|_| Refused),
            },
            Break::Data(watchpoint) if watchpoint.length == 0 => Err(Refused),
            Break::Data(watchpoint) if self.watchpoints.contains(&watchpoint) => Ok(()),
            Break::Data(watchpoint) => self.watchpoints.push(watchpoint).map_err(|_| Refused),
        }
    }

    /// Takes one away, if it is there.
    pub fn remove(&mut self, what: Break) {
        match what {
            Break::Code(breakpoint) => self.breakpoints.retain(|other| *other != breakpoint),
            Break::Data(watchpoint) => self.watchpoints.retain(|other| *other != watchpoint),
        }
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.breakpoints.clear();
        self.watchpoints.clear();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.breakpoints.is_empty() && self.watchpoints.is_empty()
    }

    /// All breakpoints, by address.
    pub fn breakpoints(&self) -> &[Breakpoint] {
        &self.breakpoints
    }

    /// All watchpoints, in the order in which they were set.
    pub fn watchpoints(&self) -> &[Watchpoint] {
        &self.watchpoints
    }

    /// The breakpoint at an address.
    pub fn at(&self, address: u64) -> Option<Breakpoint> {
        let first = self
            .breakpoints
            .partition_point(|breakpoint| breakpoint.address < address);
        let found = self.breakpoints.get(first).copied();
        found.filter(|breakpoint| breakpoint.address == address)
    }
}

/// How a processor goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Resume {
    /// Until something stops it.
    #[default]
    Run,
    /// One instruction, or the delivery of one exception. A processor that has halted waits for what wakes it.
    Step,
    /// The same; interrupts and NMIs wait until it is done, unless the processor has halted.
    StepOverInterrupts,
    /// Not at all.
    Stay,
}

impl Resume {
    /// One instruction.
    pub const fn steps(self) -> bool {
        matches!(self, Self::Step | Self::StepOverInterrupts)
    }
}

/// Why a processor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// It has made its step.
    Step,
    /// It is at this place.
    Breakpoint(Breakpoint),
    /// It has used watched memory: the kind of the watchpoint, and the first byte that is watched.
    Watchpoint(WatchKind, u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(address: u64, hardware: bool) -> Break {
        Break::Code(Breakpoint { address, hardware })
    }

    #[test]
    fn breakpoints_are_sets() {
        let mut breaks = Breaks::new();
        for address in [5, 3, u64::MAX, 3, 0] {
            breaks.insert(code(address, false)).unwrap();
        }
        breaks.insert(code(3, true)).unwrap();
        assert_eq!(breaks.breakpoints().len(), 5);
        assert!(breaks.breakpoints().is_sorted());
        assert!(breaks.at(3).is_some_and(|found| !found.hardware));
        breaks.remove(code(3, false));
        assert!(breaks.at(3).is_some_and(|found| found.hardware));
        assert_eq!(breaks.at(4), None);
        assert!(breaks.at(u64::MAX).is_some());
        breaks.clear();
        assert!(breaks.is_empty());
    }

    #[test]
    fn there_is_a_limit() {
        let mut breaks = Breaks::new();
        for address in 0..BREAKPOINTS_MAX as u64 {
            breaks.insert(code(address, true)).unwrap();
        }
        assert_eq!(breaks.insert(code(u64::MAX, true)), Err(Refused));
        assert_eq!(breaks.insert(code(0, true)), Ok(()));
        let watch = |address, length| {
            Break::Data(Watchpoint {
                kind: WatchKind::Read,
                address,
                length,
            })
        };
        for address in 0..WATCHPOINTS_MAX as u64 {
            breaks.insert(watch(address, 1)).unwrap();
        }
        assert_eq!(breaks.insert(watch(0, 2)), Err(Refused));
        breaks.remove(watch(7, 1));
        assert_eq!(breaks.insert(watch(0, 0)), Err(Refused));
        assert_eq!(breaks.insert(watch(0, 2)), Ok(()));
    }

    #[test]
    fn accesses_touch_what_they_overlap() {
        let watch = |address, length| Watchpoint {
            kind: WatchKind::Write,
            address,
            length,
        };
        for (address, length, touched) in [
            (0x0ffe, 2, None),
            (0x0ffe, 4, Some(0x1000)),
            (0x1001, 1, Some(0x1001)),
            (0x1003, 8, Some(0x1003)),
            (0x1004, 4, None),
            (0x0000, 0x2000, Some(0x1000)),
        ] {
            assert_eq!(watch(0x1000, 4).touched(address, length), touched);
        }
        // Across the end of the address space.
        assert_eq!(watch(u64::MAX, 2).touched(0, 1), Some(0));
        assert_eq!(watch(0, 1).touched(u64::MAX, 2), Some(0));
        assert_eq!(watch(0, u64::MAX).touched(5, 1), Some(5));
    }
}
