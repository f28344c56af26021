//! Floating-point numbers of SSE at which arithmetic changes its behaviour, and MXCSR.

use thimble_core::cpu::decode::{Operation, Sse};

use crate::random::Random;

/// MXCSR after a reset: all exceptions masked.
const MXCSR_DEFAULT: u32 = 0x1f80;

/// A format of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Single,
    Double,
}

impl Format {
    const fn bits(self) -> u32 {
        match self {
            Self::Single => 32,
            Self::Double => 64,
        }
    }

    /// Bits of the fraction.
    const fn fraction(self) -> u32 {
        match self {
            Self::Single => 23,
            Self::Double => 52,
        }
    }

    /// The exponent of 1.
    const fn bias(self) -> u64 {
        match self {
            Self::Single => 127,
            Self::Double => 1023,
        }
    }
}

/// The format of an operation's source, if it has one.
fn source(operation: Operation) -> Option<Format> {
    let Operation::Sse(name) = operation else {
        return None;
    };
    let name = format!("{name:?}").to_lowercase();
    let rest = name.trim_start_matches("cvtt").trim_start_matches("cvt");
    let by = |part: &str| match part {
        "ss" | "ps" => Some(Format::Single),
        "sd" | "pd" => Some(Format::Double),
        _ => None,
    };
    by(&rest[..2]).or_else(|| by(&rest[rest.len() - 2..]))
}

/// A fraction: few bits, all, around the middle, any.
fn fraction(format: Format, random: &mut Random) -> u64 {
    let bits = format.fraction();
    let all = (1 << bits) - 1;
    match random.below(8) {
        0 | 1 => 0,
        2 => all,
        3 => 1 << random.below(bits.into()),
        4 => all << random.below(bits.into()) & all,
        5 => random.below(4),
        _ => random.next() & all,
    }
}

/// A number.
fn number(format: Format, random: &mut Random) -> u64 {
    let (bits, bias) = (format.bits(), format.bias());
    let most = 2 * bias + 1;
    let width = u64::from(format.fraction());
    let fraction = fraction(format, random);
    let exponent = match random.below(20) {
        0 => return zero(format, random),
        // Denormal.
        1 | 2 => 0,
        // Infinities and NaNs, quiet and signalling.
        3 | 4 => most,
        // The ends of the normal range.
        5 => 1 + random.below(4),
        6 => most - 1 - random.below(4),
        // Products and quotients at the ends.
        7 => bias / 2 + random.below(4),
        8 => bias + bias / 2 + random.below(4),
        // What integers end at.
        9 => bias + random.pick(&[30, 31, 32, 62, 63, 64]),
        10 | 11 => bias - 2 + random.below(5),
        12 | 13 => bias + random.below(width + 2),
        14 => random.below(most),
        // Near each other, for sums.
        _ => bias - 8 + random.below(16),
    };
    let sign = random.below(2) << (bits - 1);
    sign | exponent << format.fraction() | fraction
}

fn zero(format: Format, random: &mut Random) -> u64 {
    random.below(2) << (format.bits() - 1)
}

/// A register or 16 bytes of memory for an operation.
pub(crate) fn operand(operation: Operation, random: &mut Random) -> u128 {
    let format = match (source(operation), random.below(10)) {
        (Some(format), 0..8) => format,
        (_, 0 | 8) => Format::Single,
        (_, 1 | 9) => Format::Double,
        _ => return u128::from(random.value()) << 64 | u128::from(random.value()),
    };
    let bits = format.bits();
    // Equal neighbours, and the same again in another register, are common enough this way.
    (0..128 / bits).fold(0, |all, place| {
        all | u128::from(number(format, random)) << (bits * place)
    })
}

/// MXCSR for an operation.
pub(crate) fn mxcsr(operation: Operation, random: &mut Random) -> u32 {
    let any = (random.next() & 0xffff) as u32;
    match (operation, random.below(10)) {
        (Operation::Sse(_), 0) => MXCSR_DEFAULT,
        (Operation::Sse(_), 1..6) => any | MXCSR_DEFAULT,
        // A few unmasked.
        (Operation::Sse(_), 6 | 7) => any | (random.next() as u32 & MXCSR_DEFAULT),
        (Operation::Sse(_), _) => any,
        _ => MXCSR_DEFAULT,
    }
}

/// What LDMXCSR may load.
pub(crate) fn loaded(random: &mut Random) -> u32 {
    match random.below(4) {
        0 => random.next() as u32,
        1 => 1 << random.below(32),
        _ => mxcsr(Operation::Sse(Sse::Ldmxcsr), random),
    }
}
