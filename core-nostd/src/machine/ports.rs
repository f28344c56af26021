//! Address decoding: which device answers at which port, or at which address of the PCI buses.

use core::fmt;

use crate::devices::Width;

/// Ranges that the table holds at most.
pub(crate) const RANGES_MAX: usize = 96;

/// A number of a port, or of a byte of memory.
pub(crate) trait Number:
    Copy + Ord + core::ops::Add<Output = Self> + core::ops::Sub<Output = Self>
{
    const ONE: Self;
    const LAST: Self;
}

impl Number for u16 {
    const ONE: Self = 1;
    const LAST: Self = Self::MAX;
}

impl Number for u64 {
    const ONE: Self = 1;
    const LAST: Self = Self::MAX;
}

/// Ports `base` to `last` belong to `device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range<A, T> {
    base: A,
    last: A,
    /// Port of the device's register 0: differs from `base` where another range covers the front.
    origin: A,
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

/// Disjoint ranges of ports, or of memory, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Decoder<A, T> {
    ranges: heapless::Vec<Range<A, T>, RANGES_MAX>,
}

/// Who answers at which port.
pub(crate) type PortMap<T> = Decoder<u16, T>;

impl<A: Number, T: Copy> Decoder<A, T> {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: heapless::Vec::new(),
        }
    }

    /// Gives `length` ports from `base` on to `device`. Ports past the last one are passed over;
    /// where others had ports there, the newcomer takes them.
    pub(crate) fn add(&mut self, base: A, length: A, device: T) -> Result<(), PortsFull> {
        if length < A::ONE {
            return Ok(());
        }
        let past = length - A::ONE;
        let last = base + past.min(A::LAST - base);
        let new = Range {
            base,
            last,
            origin: base,
            device,
        };
        let mut ranges = heapless::Vec::new();
        let mut push = |range| ranges.push(range).map_err(|_| PortsFull);
        let mut added = false;
        for old in &self.ranges {
            if old.base < base {
                let last = old.last.min(base - A::ONE);
                push(Range { last, ..*old })?;
            }
            if old.last > last {
                if !added {
                    push(new)?;
                    added = true;
                }
                let base = old.base.max(last + A::ONE);
                push(Range { base, ..*old })?;
            }
        }
        if !added {
            push(new)?;
        }
        self.ranges = ranges;
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Visits all ranges, ascending: the first and the last port, the register at the first one, and the device.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(A, A, A, T)) {
        for range in &self.ranges {
            let register = range.base - range.origin;
            visit(range.base, range.last, register, range.device);
        }
    }

    /// The device at a port, and which of its registers this is.
    pub(crate) fn find(&self, port: A) -> Option<(T, A)> {
        let after = self.ranges.partition_point(|range| range.base <= port);
        let range = &self.ranges[after.checked_sub(1)?];
        (port <= range.last).then(|| (range.device, port - range.origin))
    }

    /// The first port from `port` on that is not of the same range, or of the same gap; `None` where
    /// there is none.
    pub(crate) fn end(&self, port: A) -> Option<A> {
        let after = self.ranges.partition_point(|range| range.base <= port);
        let before = after
            .checked_sub(1)
            .and_then(|index| self.ranges.get(index));
        match before {
            Some(range) if port <= range.last => {
                (range.last < A::LAST).then(|| range.last + A::ONE)
            }
            _ => self.ranges.get(after).map(|range| range.base),
        }
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
        let mut map = PortMap::<_>::new();
        map.add(0x60, 16, 'k').unwrap();
        map.add(0x64, 1, 's').unwrap();
        map.add(0xfffe, 8, 'e').unwrap();
        assert_eq!(map.find(0x5f), None);
        assert_eq!(map.find(0x63), Some(('k', 3)));
        assert_eq!(map.find(0x64), Some(('s', 0)));
        assert_eq!(map.find(0x6f), Some(('k', 15)));
        assert_eq!(map.find(0x70), None);
        assert_eq!(map.find(0xffff), Some(('e', 1)));
        assert_eq!(map.end(0), Some(0x60));
        assert_eq!(map.end(0x60), Some(0x64));
        assert_eq!(map.end(0x64), Some(0x65));
        assert_eq!(map.end(0x70), Some(0xfffe));
        assert_eq!(map.end(0xfffe), None);
        map.add(0, 0x100, 'a').unwrap();
        assert_eq!(map.find(0x64), Some(('a', 0x64)));
        assert_eq!(map.find(0xfffe), Some(('e', 0)));
    }

    #[test]
    fn memory_has_its_own_last_address() {
        let mut map = Decoder::<u64, _>::new();
        assert!(map.is_empty());
        map.add(u64::MAX - 7, 16, 'm').unwrap();
        map.add(1 << 40, 0, 'n').unwrap();
        map.add(1 << 40, u64::MAX, 'o').unwrap();
        assert_eq!(map.find(u64::MAX), Some(('o', u64::MAX - (1 << 40))));
        assert_eq!(map.find((1 << 40) - 1), None);
    }

    #[test]
    fn full_table_is_refused_and_kept() {
        let mut map = PortMap::<_>::new();
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
