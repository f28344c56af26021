//! Integers side by side at which their instructions change their behaviour: ends of ranges in each lane, characters
//! that are found, counts that are too far.

use thimble_core::cpu::decode::Packed;

use crate::random::Random;

/// A register or 16 bytes of memory for an operation.
pub(crate) fn operand(name: Packed, random: &mut Random) -> u128 {
    use Packed::*;
    match name {
        Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm if random.percent(80) => text(random),
        Psllw | Pslld | Psllq | Psrlw | Psrld | Psrlq | Psraw | Psrad if random.percent(60) => {
            random.below(70).into()
        }
        _ if random.percent(50) => edges(random),
        _ => u128::from(random.value()) << 64 | u128::from(random.value()),
    }
}

/// A register that tells how long a string is.
pub(crate) fn length(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.value(),
        1 => random.below(20).wrapping_neg(),
        2 => random.below(20).wrapping_neg() & 0xffff_ffff,
        _ => random.below(20),
    }
}

/// Lanes of one width with ends of their ranges.
fn edges(random: &mut Random) -> u128 {
    let bits = 8 << random.below(4);
    let all = u64::MAX >> (64 - bits);
    (0..128 / bits).fold(0, |lanes, _| {
        let lane = match random.below(8) {
            0 => 0,
            1 => 1,
            2 => all,
            3 => all >> 1,
            4 => (all >> 1) + 1,
            5 => random.below(4),
            _ => random.next() & all,
        };
        let shifted = if bits == 64 {
            lanes << 32 << 32
        } else {
            lanes << bits
        };
        shifted | u128::from(lane)
    })
}

/// Characters of a small alphabet, with an end at times.
fn text(random: &mut Random) -> u128 {
    let words = random.percent(50);
    let letters = 1 + random.below(5);
    let high = if random.percent(20) { 0x80 } else { 0 };
    (0..if words { 8 } else { 16 }).fold(0, |text, _| {
        let letter = match random.below(30) {
            0 => 0,
            1 => random.next() & 0xff,
            _ => (0x61 + random.below(letters)) | high,
        };
        text << if words { 16 } else { 8 } | u128::from(letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lanes_have_numbers() {
        let mut random = Random::new(&[5]);
        let all = (0..500).fold(0, |all, _| all | edges(&mut random));
        assert_eq!(all, u128::MAX);
        let found = (0..100).any(|_| {
            let text = text(&mut random).to_le_bytes();
            text.iter().filter(|byte| **byte == b'a').count() > 8
        });
        assert!(found);
    }
}
