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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::soft::testing::Guest;

    /// What an instruction makes of XMM0 and XMM1, and MXCSR's flags.
    fn run(code: &[u8], a: u128, b: u128) -> (u128, u32) {
        let mut guest = Guest::long();
        guest.change(|state| {
            state.cr4 |= 3 << 9;
            (state.fpu.xmm[0], state.fpu.xmm[1]) = (a, b);
        });
        assert_eq!(guest.attempt(code), Ok(()));
        let fpu = guest.state().fpu;
        (fpu.xmm[0], fpu.mxcsr & 0x3f)
    }

    fn singles(values: [f32; 4]) -> u128 {
        let bits = values.map(|value| u128::from(value.to_bits()));
        bits[0] | bits[1] << 32 | bits[2] << 64 | bits[3] << 96
    }

    #[test]
    fn sums_of_neighbours() {
        let (a, b) = (
            singles([1.0, 2.0, 3.0, 4.0]),
            singles([10.0, 20.0, 30.0, 40.0]),
        );
        for (code, result) in [
            ([0xf2, 0x0f, 0xd0, 0xc1], [-9.0, 22.0, -27.0, 44.0]),
            ([0xf2, 0x0f, 0x7c, 0xc1], [3.0, 7.0, 30.0, 70.0]),
            ([0xf2, 0x0f, 0x7d, 0xc1], [-1.0, -1.0, -10.0, -10.0]),
        ] {
            assert_eq!(run(&code, a, b), (singles(result), 0));
        }
        // dpps xmm0, xmm1, 75h: the last product does not count.
        let dpps = [0x66, 0x0f, 0x3a, 0x40, 0xc1, 0x75];
        assert_eq!(run(&dpps, a, b), (singles([140.0, 0.0, 140.0, 0.0]), 0));
        // Nor is it looked at.
        let a = a | singles([0.0, 0.0, 0.0, f32::INFINITY]);
        let zeros = b & !(u128::MAX << 96);
        assert_eq!(run(&dpps, a, zeros).1, 0);
    }

    #[test]
    fn rounding_to_integers() {
        let numbers = [
            0.0,
            -0.0,
            0.4,
            -0.4,
            0.5,
            -0.5,
            0.6,
            1.0,
            1.5,
            -1.5,
            2.5,
            -2.5,
            3.7,
            -3.2,
            1e15,
            4503599627370495.5,
            -4503599627370497.0,
            9e15,
            1e300,
            f64::INFINITY,
            5e-324,
        ];
        for number in numbers {
            let bits = number.to_bits();
            let results = [
                number.round_ties_even(),
                number.floor(),
                number.ceil(),
                number.trunc(),
            ];
            for (rounding, result) in (0..).zip(results) {
                let flags = if result == number { 0 } else { 0x20 };
                assert_eq!(
                    DOUBLE.round(bits, rounding, false),
                    (result.to_bits(), flags),
                    "{number} {rounding}"
                );
                let number = number as f32;
                let results = [
                    number.round_ties_even(),
                    number.floor(),
                    number.ceil(),
                    number.trunc(),
                ];
                let result = u64::from(results[rounding as usize].to_bits());
                assert_eq!(
                    SINGLE.round(number.to_bits().into(), rounding, false).0,
                    result
                );
            }
        }
        // Denormals as zeros; NaNs.
        assert_eq!(DOUBLE.round(1, 2, true), (0, 0));
        assert_eq!(DOUBLE.round(1 << 63 | 1, 1, true), (1 << 63, 0));
        assert_eq!(
            DOUBLE.round(0x7ff0 << 48 | 1, 0, false),
            (0x7ff8 << 48 | 1, 1)
        );
        assert_eq!(
            DOUBLE.round(0x7ff8 << 48 | 1, 0, false),
            (0x7ff8 << 48 | 1, 0)
        );
        // roundsd xmm0, xmm1, up without precision exceptions
        let number = u128::from(1.5f64.to_bits());
        assert_eq!(
            run(&[0x66, 0x0f, 0x3a, 0x0b, 0xc1, 0xa], 7 << 64, number),
            (7 << 64 | u128::from(2f64.to_bits()), 0)
        );
    }

    #[test]
    fn blends_and_inserts() {
        let (a, b) = (
            0x4444_4444_3333_3333_2222_2222_1111_1111,
            0x8888_8888_7777_7777_6666_6666_5555_5555u128,
        );
        for (code, result) in [
            // blendps, blendpd, blendvps by XMM0's own signs
            (
                [0x0c, 0xc1, 5].as_slice(),
                0x4444_4444_7777_7777_2222_2222_5555_5555u128,
            ),
            (&[0x0d, 0xc1, 2], 0x8888_8888_7777_7777_2222_2222_1111_1111),
            // insertps: the fourth single goes to the second place, the first becomes zero
            (
                &[0x21, 0xc1, 0xd1],
                0x4444_4444_3333_3333_8888_8888_0000_0000,
            ),
        ] {
            let code = [&[0x66, 0x0f, 0x3a], code].concat();
            assert_eq!(run(&code, a, b), (result, 0));
        }
        let signs = a | 1 << 63;
        assert_eq!(
            run(&[0x66, 0x0f, 0x38, 0x14, 0xc1], signs, b).0,
            0x4444_4444_3333_3333_6666_6666_1111_1111
        );
    }
}
