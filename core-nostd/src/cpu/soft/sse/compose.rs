//! Instructions on floating-point numbers that are newer than SSE2: ADDSUB, HADD, HSUB, DPPS, DPPD of
//! several of the host's instructions; ROUND, BLEND, INSERTPS, EXTRACTPS of integer arithmetic.
//!
//! Source: Intel SDM volume 2 for each instruction; volume 1, 12.3 (SSE3) and 12.10 (SSE4.1).

use super::super::packed::element;
use super::super::{Cpu, Outcome};
use super::native::Native;
use super::{LOW, mxcsr};
use crate::cpu::decode::Sse;

/// What is special about a format of numbers.
#[derive(Clone, Copy)]
pub(super) struct Format {
    /// Bits of a number.
    pub(super) bits: u32,
    /// Bits of its fraction.
    fraction: u32,
}

pub(super) const SINGLE: Format = Format {
    bits: 32,
    fraction: 23,
};
pub(super) const DOUBLE: Format = Format {
    bits: 64,
    fraction: 52,
};

impl Format {
    /// The exponent of 1.
    const fn bias(self) -> u64 {
        (1 << (self.bits - self.fraction - 2)) - 1
    }

    /// The sign.
    const fn sign(self) -> u64 {
        1 << (self.bits - 1)
    }

    /// A finite number's bits with an exponent that makes it 1 or more and less than 2; zero is 1.
    pub(super) fn significand(self, value: u64) -> u64 {
        let one = 1 << self.fraction;
        let mut fraction = value & (one - 1);
        if value & (self.sign() - one) == 0 && fraction != 0 {
            // A denormal one: the highest bit becomes the implied one.
            fraction <<= fraction.leading_zeros() - one.leading_zeros();
        }
        value & self.sign() | self.bias() << self.fraction | fraction & (one - 1)
    }

    /// A number divided by four; `None` if that is a denormal one, but not for zero.
    pub(super) fn smaller(self, value: u64) -> Option<u64> {
        let exponent = (value & (self.sign() - 1)) >> self.fraction;
        match exponent {
            _ if value & (self.sign() - 1) == 0 => Some(value),
            0..3 => None,
            _ => Some(value - (2 << self.fraction)),
        }
    }

    /// Rounds a number to an integer as MXCSR's rounding control says, and tells flags.
    ///
    /// Zeros and what is rounded to zero keep their sign. Denormal operands are no exception.
    fn round(self, value: u64, rounding: u32, denormals_are_zeros: bool) -> (u64, u32) {
        let (sign, bias) = (self.sign(), self.bias());
        let (negative, magnitude) = (value & sign != 0, value & (sign - 1));
        let fraction = (1u64 << self.fraction) - 1;
        let exponent = magnitude >> self.fraction;
        if exponent > 2 * bias {
            let quiet = 1 << (self.fraction - 1);
            return match magnitude & fraction {
                0 => (value, 0),
                payload if payload & quiet != 0 => (value, 0),
                _ => (value | quiet, mxcsr::INVALID),
            };
        }
        if magnitude == 0 || exponent == 0 && denormals_are_zeros {
            return (value & sign, 0);
        }
        if exponent >= bias + u64::from(self.fraction) {
            return (value, 0);
        }
        // The integer's bits, and whether what lies below is a half, or more or less than one.
        let (below, half, dropped) = if exponent < bias {
            // One half is 2^-1.
            (0, magnitude.cmp(&((bias - 1) << self.fraction)), true)
        } else {
            let places = bias + u64::from(self.fraction) - exponent;
            let rest = magnitude & ((1 << places) - 1);
            (magnitude - rest, rest.cmp(&(1 << (places - 1))), rest != 0)
        };
        if !dropped {
            return (value, 0);
        }
        // The next integer away from zero: in the encoding a carry into the exponent is right.
        let (above, odd) = if exponent < bias {
            (bias << self.fraction, false)
        } else {
            let places = bias + u64::from(self.fraction) - exponent;
            // The integer's lowest bit; of 1 it is the implied one.
            let odd = exponent == bias || magnitude >> places & 1 != 0;
            (below + (1 << places), odd)
        };
        let up = match rounding & 3 {
            0 => half.is_gt() || half.is_eq() && odd,
            1 => negative,
            2 => !negative,
            _ => false,
        };
        let result = if up { above } else { below };
        (value & sign | result, mxcsr::PRECISION)
    }
}

impl Cpu {
    /// What an instruction makes of its operands; `register` tells that the second one is a register.
    pub(super) fn composed(
        &mut self,
        name: Sse,
        a: u128,
        b: u128,
        by: u8,
        register: bool,
    ) -> Outcome<u128> {
        use Sse::*;
        match name {
            Addsubps => self.add_and_subtract(Native::AddPs, ODD_SINGLES, a, b),
            Addsubpd => self.add_and_subtract(Native::AddPd, !LOW, a, b),
            Haddps => self.horizontal(Native::AddPs, a, b),
            Haddpd => self.horizontal(Native::AddPd, a, b),
            Hsubps => self.horizontal(Native::SubPs, a, b),
            Hsubpd => self.horizontal(Native::SubPd, a, b),
            Dpps => self.dot_product(Native::MulPs, a, b, by),
            Dppd => self.dot_product(Native::MulPd, a, b, by),
            Roundps => self.round(SINGLE, 4, a, b, by),
            Roundpd => self.round(DOUBLE, 2, a, b, by),
            Roundss => self.round(SINGLE, 1, a, b, by),
            Roundsd => self.round(DOUBLE, 1, a, b, by),
            Blendps => Ok(blend(32, a, b, by)),
            Blendpd => Ok(blend(64, a, b, by)),
            Blendvps => Ok(blend(32, a, b, sign_bits(32, self.fpu.xmm[0]))),
            Blendvpd => Ok(blend(64, a, b, sign_bits(64, self.fpu.xmm[0]))),
            Insertps => {
                let from = if register { by >> 6 } else { 0 };
                let value = u128::from(element(32, b, from.into()));
                let at = 32 * u32::from(by >> 4 & 3);
                let inserted = a & !(0xffff_ffff << at) | value << at;
                // The low bits tell which numbers become zeros.
                Ok(blend(32, inserted, 0, by))
            }
            Extractps => Ok(element(32, b, (by & 3).into()).into()),
            _ => self.undefined(),
        }
    }

    /// ADDSUBPS, ADDSUBPD: adds the numbers in `odd`, subtracts the others.
    fn add_and_subtract(&mut self, add: Native, odd: u128, a: u128, b: u128) -> Outcome<u128> {
        // Others are zeros, of which nothing can be said.
        let sum = self.native(add, a & odd, b & odd, 0);
        let difference = self.native(add.plus(SUBTRACT), a & !odd, b & !odd, 0);
        self.settle(sum.flags | difference.flags)?;
        Ok(sum.xmm & odd | difference.xmm & !odd)
    }

    /// HADDPS and its like: neighbours of `a`, then those of `b`.
    fn horizontal(&mut self, native: Native, a: u128, b: u128) -> Outcome<u128> {
        let (left, right) = if matches!(native, Native::AddPs | Native::SubPs) {
            (pick(32, a, b, 0), pick(32, a, b, 1))
        } else {
            (pick(64, a, b, 0), pick(64, a, b, 1))
        };
        self.one(native, left, right)
    }

    /// DPPS, DPPD: the immediate's upper half tells which products count, the lower one where the sum
    /// goes. Each step raises its own exceptions.
    fn dot_product(&mut self, multiply: Native, a: u128, b: u128, by: u8) -> Outcome<u128> {
        let single = multiply == Native::MulPs;
        let bits = if single { 32 } else { 64 };
        // Numbers that do not count are not looked at.
        let (a, b) = (blend(bits, 0, a, by >> 4), blend(bits, 0, b, by >> 4));
        let products = self.one(multiply, a, b)?;
        let sum = if single {
            let pairs = self.one(
                Native::AddPs,
                pick(32, products, 0, 0),
                pick(32, products, 0, 1),
            )?;
            self.one(Native::AddSs, pairs, pairs >> 32)?
        } else {
            self.one(Native::AddSd, products, products >> 64)?
        };
        let number = u128::from(element(bits, sum, 0));
        let all = (0..128 / bits).fold(0, |all, place| all | number << (bits * place));
        Ok(blend(bits, 0, all, by))
    }

    /// ROUNDPS and its like, of so many numbers.
    fn round(&mut self, format: Format, count: u32, a: u128, b: u128, by: u8) -> Outcome<u128> {
        // Bit 2 of the immediate asks for MXCSR's rounding, bit 3 for no precision exception.
        let control = self.fpu.mxcsr;
        let rounding = if by & 4 != 0 {
            control >> mxcsr::ROUNDING
        } else {
            by.into()
        };
        let mut flags = 0;
        let mut result = a;
        for number in 0..count {
            let value = element(format.bits, b, number);
            let (value, raised) = format.round(value, rounding, control & mxcsr::DAZ != 0);
            let at = format.bits * number;
            let mask = u128::from(u64::MAX >> (64 - format.bits));
            result = result & !(mask << at) | u128::from(value) << at;
            flags |= raised;
        }
        if by & 8 != 0 {
            flags &= !mxcsr::PRECISION;
        }
        self.settle(flags)?;
        Ok(result)
    }
}

/// The second and fourth single.
const ODD_SINGLES: u128 = 0xffff_ffff_0000_0000_ffff_ffff_0000_0000;
/// From an addition to the subtraction of the same numbers.
const SUBTRACT: u8 = Native::SubPs as u8 - Native::AddPs as u8;

/// Every second number of `a` and then of `b`, from the first or the second on.
fn pick(bits: u32, a: u128, b: u128, first: u32) -> u128 {
    let pairs = 64 / bits;
    (0..2 * pairs).fold(0, |result, place| {
        let source = if place < pairs { a } else { b };
        let number = 2 * (place % pairs) + first;
        result | u128::from(element(bits, source, number)) << (bits * place)
    })
}

/// Numbers of `b` where a bit is set, else of `a`.
fn blend(bits: u32, a: u128, b: u128, by: u8) -> u128 {
    (0..128 / bits).fold(0, |result, place| {
        let source = if by >> place & 1 != 0 { b } else { a };
        result | u128::from(element(bits, source, place)) << (bits * place)
    })
}

/// Numbers' signs.
fn sign_bits(bits: u32, value: u128) -> u8 {
    super::signs(bits, 128, value) as u8
}
