//! Port-I/O decoding: which device answers at which port.

use core::fmt;

use crate::devices::Width;

/// Ranges that the table holds at most.
pub(crate) const RANGES_MAX: usize = 64;

/// Ports `base` to `last` belong to `device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range<T> {
    base: u16,
    last: u16,
    /// Port of the device's register 0: differs from `base` where another range covers the front.
    origin: u16,
    device: T,
}

/// No room for another range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsFull;

impl fmt::Display for PortsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {RANGES_MAX} ranges of I/O ports")
    }
}

/// Disjoint ranges of ports, ascending.
#[derive(Clone, Debug)]
pub(crate) struct PortMap<T> {
    ranges: heapless::Vec<Range<T>, RANGES_MAX>,
}

impl<T: Copy> PortMap<T> {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: heapless::Vec::new(),
        }
    }

    /// Gives `length` ports from `base` on to `device`. Ports past FFFFh are passed over; where
    /// others had ports there, the newcomer takes them.
    pub(crate) fn add(&mut self, base: u16, length: u16, device: T) -> Result<(), PortsFull> {
        let Some(past) = length.checked_sub(1) else {
            return Ok(());
        };
        let last = base.saturating_add(past);
        let mut ranges = heapless::Vec::new();
        let mut push = |range| ranges.push(range).map_err(|_| PortsFull);
        let mut added = false;
        for old in &self.ranges {
            if old.base < base {
                let last = old.last.min(base - 1);
                push(Range { last, ..*old })?;
            }
            if old.last > last {
                if !added {
                    push(Range {
                        base,
                        last,
                        origin: base,
                        device,
                    })?;
                    added = true;
                }
                let base = old.base.max(last + 1);
                push(Range { base, ..*old })?;
            }
        }
        if !added {
            push(Range {
                base,
                last,
                origin: base,
                device,
            })?;
        }
        self.ranges = ranges;
        Ok(())
    }

    /// Visits all ranges, ascending: the first and the last port, the register at the first one, and the device.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(u16, u16, u16, T)) {
        for range in &self.ranges {
            let register = range.base - range.origin;
            visit(range.base, range.last, register, range.device);
        }
    }

    /// The device at a port, and which of its registers this is.
    pub(crate) fn find(&self, port: u16) -> Option<(T, u16)> {
        let after = self.ranges.partition_point(|range| range.base <= port);
        let range = &self.ranges[after.checked_sub(1)?];
        (port <= range.last).then(|| (range.device, port - range.origin))
    }
}

/// The next piece of an access to `remaining` bytes at a register: as wide as the device takes,
/// and no wider than the register's offset is aligned. A real bus does the same with bus cycles.
pub(crate) fn piece(offset: u64, remaining: usize, widest: Width) -> Width {
    let aligned = 1 << offset.trailing_zeros().min(3);
    let bytes = remaining.min(widest as usize).min(aligned);
    match bytes {
        8 => Width::Qword,
        4..=7 => Width::Dword,
        2..=3 => Width::Word,
        _ => Width::Byte,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_cover_and_split() {
        let mut map = PortMap::new();
        map.add(0x60, 16, 'k').unwrap();
        map.add(0x64, 1, 's').unwrap();
        map.add(0xfffe, 8, 'e').unwrap();
        assert_eq!(map.find(0x5f), None);
        assert_eq!(map.find(0x63), Some(('k', 3)));
        assert_eq!(map.find(0x64), Some(('s', 0)));
        assert_eq!(map.find(0x6f), Some(('k', 15)));
        assert_eq!(map.find(0x70), None);
        assert_eq!(map.find(0xffff), Some(('e', 1)));
        map.add(0, 0x100, 'a').unwrap();
        assert_eq!(map.find(0x64), Some(('a', 0x64)));
        assert_eq!(map.find(0xfffe), Some(('e', 0)));
    }

    #[test]
    fn full_table_is_refused_and_kept() {
        let mut map = PortMap::new();
        for i in 0..RANGES_MAX as u16 {
            map.add(i * 2, 1, i).unwrap();
        }
        assert_eq!(map.add(0x1000, 1, 99), Err(PortsFull));
        assert_eq!(map.find(6), Some((3, 0)));
    }

    #[test]
    fn pieces_are_aligned() {
        assert_eq!(piece(0, 4, Width::Dword), Width::Dword);
        assert_eq!(piece(2, 4, Width::Dword), Width::Word);
        assert_eq!(piece(1, 4, Width::Dword), Width::Byte);
        assert_eq!(piece(0, 3, Width::Dword), Width::Word);
        assert_eq!(piece(0, 8, Width::Byte), Width::Byte);
    }
}
