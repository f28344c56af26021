//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM: characters of one string looked for in another.
//!
//! Source: Intel SDM volume 2, 4.1. Both strings lie in 16 bytes each; the explicit forms get their
//! lengths from RAX and RDX, the implicit ones end at a character of zero.

use super::lanes::{element, signed};
use crate::cpu::alu::LazyFlags;
use x86_64::registers::rflags::RFlags;

/// What a comparison is about, as its constant says.
#[derive(Clone, Copy)]
pub(super) struct Control(pub(super) u8);

impl Control {
    /// Characters of 16 bits, not 8.
    const WORDS: u8 = 1 << 0;
    /// They have signs.
    const SIGNED: u8 = 1 << 1;
    /// The result is inverted.
    const NEGATIVE: u8 = 1 << 4;
    /// Inverted only where the second string has characters.
    const MASKED: u8 = 1 << 5;
    /// The last place instead of the first; a mask of characters instead of bits.
    const LAST_OR_EXPANDED: u8 = 1 << 6;

    /// Bits of a character.
    const fn bits(self) -> u32 {
        if self.0 & Self::WORDS != 0 { 16 } else { 8 }
    }

    /// Characters in a register.
    const fn count(self) -> u32 {
        128 / self.bits()
    }

    /// The length that a register tells: how far it is from zero, 32 bits of it or all.
    pub(super) fn explicit(self, register: u64, wide: bool) -> u32 {
        let length = if wide {
            (register as i64).unsigned_abs()
        } else {
            (register as i32).unsigned_abs().into()
        };
        length.min(self.count().into()) as u32
    }

    /// The length of a string that ends at a zero.
    pub(super) fn implicit(self, text: u128) -> u32 {
        let end = (0..self.count()).find(|number| element(self.bits(), text, *number) == 0);
        end.unwrap_or(self.count())
    }
}

/// A string: its characters and how many count.
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) characters: u128,
    pub(super) length: u32,
}

/// What a comparison gives: a bit for each character of the second string.
pub(super) struct Matches {
    control: Control,
    bits: u32,
    pub(super) flags: LazyFlags,
}

/// Compares. The first string is the set, the ranges or the word that is looked for in the second.
pub(super) fn compare(control: Control, first: Text, second: Text) -> Matches {
    let count = control.count();
    let character = |text: Text, number| {
        let value = element(control.bits(), text.characters, number);
        if control.0 & Control::SIGNED != 0 {
            signed(control.bits(), value)
        } else {
            value as i64
        }
    };
    let equal = |i, j| character(first, i) == character(second, j);
    let matches = |place: u32| match control.0 >> 2 & 3 {
        // Any of a set.
        0 => place < second.length && (0..first.length).any(|i| equal(i, place)),
        // In one of the ranges whose ends are side by side; half a range is none.
        1 => {
            let wanted = character(second, place);
            place < second.length
                && (0..first.length / 2).any(|i| {
                    (character(first, 2 * i)..=character(first, 2 * i + 1)).contains(&wanted)
                })
        }
        // The same at the same place; behind both ends they are.
        2 => match (place < first.length, place < second.length) {
            (true, true) => equal(place, place),
            (first, second) => first == second,
        },
        // The word begins here, or as much of it as there is room for.
        _ => (0..count - place).all(|i| {
            let place = place + i;
            i >= first.length || place < second.length && equal(i, place)
        }),
    };
    let mut bits = (0..count).fold(0, |bits, place| bits | u32::from(matches(place)) << place);
    if control.0 & Control::NEGATIVE != 0 {
        let length = if control.0 & Control::MASKED != 0 {
            second.length
        } else {
            count
        };
        bits ^= (1 << length) - 1;
    }
    let mut flags = RFlags::empty();
    flags.set(RFlags::CARRY_FLAG, bits != 0);
    flags.set(RFlags::ZERO_FLAG, second.length < count);
    flags.set(RFlags::SIGN_FLAG, first.length < count);
    flags.set(RFlags::OVERFLOW_FLAG, bits & 1 != 0);
    Matches {
        control,
        bits,
        flags: LazyFlags::from_rflags(flags.bits()),
    }
}

impl Matches {
    /// The first or the last place that matches, or how many characters there are.
    pub(super) fn index(&self) -> u32 {
        if self.bits == 0 {
            self.control.count()
        } else if self.control.0 & Control::LAST_OR_EXPANDED != 0 {
            self.bits.ilog2()
        } else {
            self.bits.trailing_zeros()
        }
    }

    /// A bit for each place, or a character of ones.
    pub(super) fn mask(&self) -> u128 {
        let bits = self.control.bits();
        if self.control.0 & Control::LAST_OR_EXPANDED == 0 {
            return self.bits.into();
        }
        (0..self.control.count())
            .filter(|place| self.bits >> place & 1 != 0)
            .fold(0, |mask, place| mask | ((1 << bits) - 1) << (bits * place))
    }
}
