//! Numbers that look random and follow from a seed: a case is found again by its seed alone.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).

/// A source of numbers.
#[derive(Clone)]
pub(crate) struct Random(u64);

/// Numbers at which arithmetic changes its behaviour.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    3,
    7,
    8,
    0xf,
    0x10,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

impl Random {
    /// The source that belongs to these numbers.
    pub(crate) fn new(numbers: &[u64]) -> Self {
        let mut random = Self(0);
        for number in numbers {
            random.0 ^= *number;
            random.0 = random.next();
        }
        random
    }

    /// 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// An operand's value: edges, small numbers, few bits, and anything.
    pub(crate) fn value(&mut self) -> u64 {
        match self.below(8) {
            0 | 1 => self.pick(&EDGES),
            // Edges of narrow parts under bits of others.
            2 => self.next() << 32 | self.pick(&EDGES) & 0xffff_ffff,
            3 => self.below(256),
            4 => (self.next() as i8) as u64,
            5 => 1 << self.below(64),
            _ => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_numbers_give_the_same_source() {
        assert_eq!(Random::new(&[1, 2]).next(), Random::new(&[1, 2]).next());
        assert_ne!(Random::new(&[1, 2]).next(), Random::new(&[2, 1]).next());
    }

    #[test]
    fn below_reaches_all() {
        let mut random = Random::new(&[7]);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[random.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
