//! Numbers, words and images that make an x87 do something.

use thimble_core::cpu::FpuState;
use thimble_core::cpu::decode::{Fpu, Instruction, Operation};

use crate::random::Random;

/// Bias of an exponent of 15 bits.
const BIAS: u64 = 0x3fff;
/// Bits of an exponent.
const EXPONENT: u64 = 0x7fff;
/// The integer bit.
const INTEGER: u64 = 1 << 63;

/// Exponents at which something changes: of numbers of 32 and 64 bits, of integers, of shifts, and a few more. They
/// are distances from the bias.
const EXPONENTS: [i64; 30] = [
    -16_382, -16_381, -16_300, -16_446, -1_074, -1_023, -1_022, -149, -127, -126, -64, -63, -1, 0,
    1, 2, 14, 15, 16, 30, 31, 32, 62, 63, 64, 127, 128, 1_023, 1_024, 16_383,
];

/// A number of 80 bits: of all kinds, those among them that no instruction makes.
pub(crate) fn number(random: &mut Random) -> [u8; 10] {
    let fraction = match random.below(6) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        // Half-way between numbers of 32 and 64 bits, or nearly so.
        3 => random.next() << 40 | random.pick(&[1 << 39, 1 << 10, 1 << 39 | 1, (1 << 10) - 1]),
        4 => random.next() & u64::MAX << random.below(64),
        _ => random.next(),
    } & !INTEGER;
    let near = |random: &mut Random| {
        let exponent = random.pick(&EXPONENTS) + random.below(3) as i64 - 1;
        BIAS.wrapping_add_signed(exponent).clamp(1, EXPONENT - 1)
    };
    let (exponent, significand) = match random.below(32) {
        0..2 => (0, 0),
        2..4 => (EXPONENT, INTEGER),
        // Quiet and signalling.
        4..6 => (EXPONENT, INTEGER | 1 << 62 | fraction),
        6..8 => (EXPONENT, INTEGER | 1 | fraction & !(1 << 62)),
        // Denormal, and pseudo-denormal.
        8..10 => (0, fraction),
        10 => (0, INTEGER | fraction),
        // Unnormal, pseudo-infinity and pseudo-NaN.
        11 => (near(random), fraction),
        12 => (EXPONENT, fraction),
        13..17 => {
            let integer = random.value() >> random.below(64);
            let zeros = integer.leading_zeros();
            match integer {
                0 => (0, 0),
                _ => (BIAS + 63 - u64::from(zeros), integer << zeros),
            }
        }
        17..23 => (near(random), INTEGER | fraction),
        23..29 => (BIAS - 4 + random.below(9), INTEGER | fraction),
        _ => (random.next() & EXPONENT, INTEGER | fraction),
    };
    let sign = u64::from(random.percent(40)) << 15;
    let mut number = [0; 10];
    number[..8].copy_from_slice(&significand.to_le_bytes());
    number[8..].copy_from_slice(&((exponent | sign) as u16).to_le_bytes());
    number
}

/// A number of 32 or 64 bits, by the bits of its fraction.
fn narrow(random: &mut Random, fraction_bits: u32, bits: u32) -> u64 {
    let highest = (1 << (bits - 1 - fraction_bits)) - 1;
    let fraction = match random.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => random.next() << random.below(52),
        _ => random.next(),
    } & ((1 << fraction_bits) - 1);
    let exponent = match random.below(10) {
        0 => 0,
        1 => highest,
        2 => 1,
        3 => highest - 1,
        4..8 => highest / 2 - 3 + random.below(7),
        _ => random.below(highest + 1),
    };
    let fraction = if random.percent(15) { 0 } else { fraction };
    random.below(2) << (bits - 1) | exponent << fraction_bits | fraction
}

/// A control word.
fn control(random: &mut Random) -> u16 {
    let masks = match random.below(4) {
        0 => random.next() & 0x3f,
        1 => 0x3f ^ 1 << random.below(6),
        _ => 0x3f,
    };
    match random.percent(25) {
        true => 0x37f,
        // Precision and rounding; infinity control does nothing.
        false => (masks | 0x40 | random.next() & 0x1f00) as u16,
    }
}

/// A status word under a control word.
fn status(random: &mut Random, control: u16) -> u16 {
    let mut status = random.next() as u16 & 0x7f00;
    match random.below(20) {
        0 => status |= random.next() as u16 & 0x7f,
        // Of what is masked.
        1..6 => status |= random.next() as u16 & control & 0x3f,
        _ => {}
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    status
}

/// Registers for instructions of the x87.
pub(crate) fn vectors(random: &mut Random) -> Box<FpuState> {
    let mut vectors = Box::new(FpuState::default());
    vectors.fcw = control(random);
    vectors.fsw = status(random, vectors.fcw);
    for register in &mut vectors.st {
        *register = number(random);
    }
    let top = u32::from(vectors.fsw >> 11 & 7);
    // A bit for ST(i), then by physical number.
    let used: u8 = match random.below(8) {
        0..2 => 0xff,
        2..6 => 0x7f,
        6 => random.byte() | random.byte(),
        _ => random.byte(),
    };
    vectors.ftw = used.rotate_left(top);
    vectors.fop = random.next() as u16 & 0x7ff;
    // Elsewhere than in 64-bit mode selectors are above.
    vectors.fip = random.next() >> 32;
    vectors.fdp = random.next() >> 32;
    vectors
}

/// What lies where an instruction of the x87 looks for its operand.
pub(crate) fn operand(instruction: &Instruction, random: &mut Random) -> Vec<u8> {
    use Fpu::*;
    let Operation::Fpu(name) = instruction.operation() else {
        return Vec::new();
    };
    let size = usize::from(instruction.memory_size());
    match name {
        Fldcw => control(random).to_le_bytes().to_vec(),
        Fldenv | Frstor => image(random, instruction.operand_size().bytes() == 2),
        Fbld => match random.percent(70) {
            // Digits, most of them zero at times.
            true => {
                let last = random.below(10) as usize;
                let mut bytes: Vec<u8> = (0..9)
                    .map(|at| match at < last {
                        true => (random.below(10) | random.below(10) << 4) as u8,
                        false => 0,
                    })
                    .collect();
                bytes.push(random.byte() & 0x80);
                bytes
            }
            false => (0..10).map(|_| random.byte()).collect(),
        },
        Fild | Fiadd | Fimul | Ficom | Ficomp | Fisub | Fisubr | Fidiv | Fidivr => {
            random.value().to_le_bytes()[..size].to_vec()
        }
        _ => match size {
            4 => (narrow(random, 23, 32) as u32).to_le_bytes().to_vec(),
            8 => narrow(random, 52, 64).to_le_bytes().to_vec(),
            _ => number(random).to_vec(),
        },
    }
}

/// An environment and registers behind it.
fn image(random: &mut Random, narrow: bool) -> Vec<u8> {
    let fcw = control(random);
    let fsw = status(random, fcw);
    let mut image = Vec::new();
    let words = [
        fcw.into(),
        fsw.into(),
        random.next() as u32,
        random.next() as u32,
        random.next() as u32,
        random.next() as u32,
        random.next() as u32,
    ];
    for word in words {
        match narrow {
            true => image.extend((word as u16).to_le_bytes()),
            false => image.extend(word.to_le_bytes()),
        }
    }
    for _ in 0..8 {
        image.extend(number(random));
    }
    image
}
