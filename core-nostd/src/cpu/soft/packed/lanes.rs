//! Integers side by side in a register of 64 or 128 bits: what instructions make of two of them.
//!
//! Source: Intel SDM volume 2 for each instruction. A lane is one of the integers; lane 0 has the
//! lowest bits.

use super::LOW;
use crate::cpu::decode::Packed;

/// Applies an operation to each pair of elements of a width.
#[inline]
pub(super) fn each(bits: u32, a: u128, b: u128, operate: impl Fn(u64, u64) -> u64) -> u128 {
    let mask = u64::MAX >> (64 - bits);
    let mut result = 0;
    let mut at = 0;
    while at < 128 {
        let value = operate((a >> at) as u64 & mask, (b >> at) as u64 & mask) & mask;
        result |= u128::from(value) << at;
        at += bits;
    }
    result
}

/// The same on signed elements.
#[inline]
pub(super) fn each_signed(bits: u32, a: u128, b: u128, operate: impl Fn(i64, i64) -> i64) -> u128 {
    each(bits, a, b, |a, b| {
        operate(signed(bits, a), signed(bits, b)) as u64
    })
}

/// An element with its sign extended.
pub(super) const fn signed(bits: u32, value: u64) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

/// One element by number.
pub(in crate::cpu::soft) const fn element(bits: u32, value: u128, number: u32) -> u64 {
    (value >> (bits * number)) as u64 & (u64::MAX >> (64 - bits))
}

/// The nearest number that a signed element can hold.
fn saturate(bits: u32, value: i64) -> i64 {
    let most = i64::MAX >> (64 - bits);
    value.clamp(-most - 1, most)
}

/// The nearest number that an unsigned element can hold.
fn saturate_unsigned(bits: u32, value: i64) -> i64 {
    value.clamp(0, (1 << bits) - 1)
}

/// Puts elements of both operands' low or high halves side by side.
pub(in crate::cpu::soft) fn interleave(
    bits: u32,
    width: u32,
    high: bool,
    a: u128,
    b: u128,
) -> u128 {
    let half = width / bits / 2;
    let first = if high { half } else { 0 };
    let mut result = 0;
    for number in 0..half {
        let (a, b) = (
            element(bits, a, first + number),
            element(bits, b, first + number),
        );
        result |= u128::from(a) << (2 * number * bits);
        result |= u128::from(b) << ((2 * number + 1) * bits);
    }
    result
}

/// Halves elements' width: those of `a`, then those of `b`.
fn pack(bits: u32, width: u32, a: u128, b: u128, narrow: fn(u32, i64) -> i64) -> u128 {
    let (half, count) = (bits / 2, width / bits);
    let mask = u64::MAX >> (64 - half);
    let mut result = 0;
    for number in 0..count {
        for (source, place) in [(a, number), (b, count + number)] {
            let value = narrow(half, signed(bits, element(bits, source, number)));
            result |= u128::from(value as u64 & mask) << (half * place);
        }
    }
    result
}

/// Joins neighbours: the sums or differences of `a`, then those of `b`.
fn horizontal(bits: u32, width: u32, a: u128, b: u128, join: fn(i64, i64) -> i64) -> u128 {
    let pairs = width / bits / 2;
    let mask = u64::MAX >> (64 - bits);
    let mut result = 0;
    for number in 0..pairs {
        for (source, place) in [(a, number), (b, pairs + number)] {
            let of = |number| signed(bits, element(bits, source, number));
            let value = join(of(2 * number), of(2 * number + 1));
            result |= u128::from(value as u64 & mask) << (bits * place);
        }
    }
    result
}

/// Elements by two bits of a constant each.
pub(in crate::cpu::soft) fn shuffle(bits: u32, source: u128, by: u8) -> u128 {
    (0..4).fold(0, |result, place| {
        let number = u32::from(by >> (2 * place) & 3);
        result | u128::from(element(bits, source, number)) << (bits * place)
    })
}

/// Shifts each element by a count; what is shifted too far is gone, or all sign.
fn shift(bits: u32, a: u128, count: u64, operation: Packed) -> u128 {
    let (far, count) = (count >= bits.into(), count.min(u64::from(bits) - 1) as u32);
    match operation {
        Packed::Psraw | Packed::Psrad => {
            each_signed(bits, a, 0, |a, _| a >> if far { bits - 1 } else { count })
        }
        _ if far => 0,
        Packed::Psrlw | Packed::Psrld | Packed::Psrlq => each(bits, a, 0, |a, _| a >> count),
        _ => each(bits, a, 0, |a, _| a << count),
    }
}

/// Widens the lowest elements of `from` bits to `to` bits, with zeros or signs.
fn widen(from: u32, to: u32, source: u128, with_sign: bool) -> u128 {
    (0..128 / to).fold(0, |result, number| {
        let value = element(from, source, number);
        let value = if with_sign {
            signed(from, value) as u64
        } else {
            value
        };
        result | u128::from(value & (u64::MAX >> (64 - to))) << (to * number)
    })
}

/// Elements of `b` where a bit of `by` is set, else those of `a`; bits repeat after eight.
fn choose(bits: u32, a: u128, b: u128, by: u8) -> u128 {
    (0..128 / bits).fold(0, |result, number| {
        let source = if by >> (number % 8) & 1 != 0 { b } else { a };
        result | u128::from(element(bits, source, number)) << (bits * number)
    })
}

/// MPSADBW: distances between four bytes of `b` and those of `a` from eight places on.
fn sums_of_distances(a: u128, b: u128, by: u8) -> u128 {
    let block = element(32, b, u32::from(by & 3)) as u32;
    let first = u32::from(by & 4);
    (0..8).fold(0, |result, place| {
        let bytes = (a >> (8 * (first + place))) as u32;
        let pairs = bytes.to_le_bytes().into_iter().zip(block.to_le_bytes());
        let sum: u16 = pairs.map(|(a, b)| u16::from(a.abs_diff(b))).sum();
        result | u128::from(sum) << (16 * place)
    })
}

/// PHMINPOSUW: the least word, and behind it the place where it is first.
fn least_word(source: u128) -> u128 {
    let words = (0..8).map(|number| (element(16, source, number), number));
    let (least, place) = words.min().unwrap_or_default();
    u128::from(least) | u128::from(place) << 16
}

/// What an instruction makes of its operands, `width` being 64 for MMX registers; `None` if it is
/// not here. Bits above the width are of no meaning.
#[rustfmt::skip]
pub(super) fn compute(name: Packed, width: u32, a: u128, b: u128, by: u8) -> Option<u128> {
    use Packed::*;
    let sum = |bits| each(bits, a, b, u64::wrapping_add);
    let difference = |bits| each(bits, a, b, u64::wrapping_sub);
    let equal = |bits| each(bits, a, b, |a, b| if a == b { u64::MAX } else { 0 });
    let greater = |bits| each_signed(bits, a, b, |a, b| if a > b { -1 } else { 0 });
    // Differences of unsigned elements go through signed numbers.
    let unsigned = |bits, operate: fn(i64, i64) -> i64| each(bits, a, b, |a, b| {
        saturate_unsigned(bits, operate(a as i64, b as i64)) as u64
    });
    let saturated = |bits, operate: fn(i64, i64) -> i64| each_signed(bits, a, b, |a, b| {
        saturate(bits, operate(a, b))
    });
    let average = |bits| each(bits, a, b, |a, b| (a + b + 1) >> 1);
    let product = |operate: fn(i64) -> i64| each_signed(16, a, b, |a, b| operate(a * b));
    let absolute = |bits| each_signed(bits, b, 0, |b, _| b.wrapping_abs());
    let sign = |bits| each_signed(bits, a, b, |a, b| a.wrapping_mul(b.signum()));
    let low = |bits| interleave(bits, width, false, a, b);
    let high = |bits| interleave(bits, width, true, a, b);
    let count = b as u64;
    Some(match name {
        Paddb => sum(8),
        Paddw => sum(16),
        Paddd => sum(32),
        Paddq => sum(64),
        Psubb => difference(8),
        Psubw => difference(16),
        Psubd => difference(32),
        Psubq => difference(64),
        Paddusb => unsigned(8, |a, b| a + b),
        Paddusw => unsigned(16, |a, b| a + b),
        Psubusb => unsigned(8, |a, b| a - b),
        Psubusw => unsigned(16, |a, b| a - b),
        Paddsb => saturated(8, |a, b| a + b),
        Paddsw => saturated(16, |a, b| a + b),
        Psubsb => saturated(8, |a, b| a - b),
        Psubsw => saturated(16, |a, b| a - b),
        Pcmpeqb => equal(8),
        Pcmpeqw => equal(16),
        Pcmpeqd => equal(32),
        Pcmpeqq => equal(64),
        Pcmpgtb => greater(8),
        Pcmpgtw => greater(16),
        Pcmpgtd => greater(32),
        Pcmpgtq => greater(64),
        Pavgb => average(8),
        Pavgw => average(16),
        Pminub => each(8, a, b, u64::min),
        Pminuw => each(16, a, b, u64::min),
        Pminud => each(32, a, b, u64::min),
        Pmaxub => each(8, a, b, u64::max),
        Pmaxuw => each(16, a, b, u64::max),
        Pmaxud => each(32, a, b, u64::max),
        Pminsb => each_signed(8, a, b, i64::min),
        Pminsw => each_signed(16, a, b, i64::min),
        Pminsd => each_signed(32, a, b, i64::min),
        Pmaxsb => each_signed(8, a, b, i64::max),
        Pmaxsw => each_signed(16, a, b, i64::max),
        Pmaxsd => each_signed(32, a, b, i64::max),
        Pmullw => product(|p| p),
        Pmulhw => product(|p| p >> 16),
        Pmulhrsw => product(|p| ((p >> 14) + 1) >> 1),
        Pmulhuw => each(16, a, b, |a, b| (a * b) >> 16),
        Pmuludq => each(64, a, b, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
        Pmuldq => each(64, a, b, |a, b| signed(32, a).wrapping_mul(signed(32, b)) as u64),
        Pmulld => each(32, a, b, u64::wrapping_mul),
        Pmaddwd => each(32, a, b, |a, b| {
            let of = |value: u64, number| signed(16, element(16, value.into(), number));
            (of(a, 0) * of(b, 0) + of(a, 1) * of(b, 1)) as u64
        }),
        Pmaddubsw => each(16, a, b, |a, b| {
            let unsigned = |number| element(8, a.into(), number) as i64;
            let of = |number| signed(8, element(8, b.into(), number));
            saturate(16, unsigned(0) * of(0) + unsigned(1) * of(1)) as u64
        }),
        Psadbw => each(64, a, b, |a, b| {
            let pairs = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            pairs.map(|(a, b)| u64::from(a.abs_diff(b))).sum()
        }),
        Mpsadbw => sums_of_distances(a, b, by),
        Phminposuw => least_word(b),
        Pand => a & b,
        Pandn => !a & b,
        Por => a | b,
        Pxor => a ^ b,
        Psllw | Psrlw | Psraw => shift(16, a, count, name),
        Pslld | Psrld | Psrad => shift(32, a, count, name),
        Psllq | Psrlq => shift(64, a, count, name),
        Pslldq if count < 16 => a << (8 * count),
        Psrldq if count < 16 => a >> (8 * count),
        Pslldq | Psrldq => 0,
        Packsswb => pack(16, width, a, b, saturate),
        Packssdw => pack(32, width, a, b, saturate),
        Packuswb => pack(16, width, a, b, saturate_unsigned),
        Packusdw => pack(32, width, a, b, saturate_unsigned),
        Pmovsxbw => widen(8, 16, b, true),
        Pmovsxbd => widen(8, 32, b, true),
        Pmovsxbq => widen(8, 64, b, true),
        Pmovsxwd => widen(16, 32, b, true),
        Pmovsxwq => widen(16, 64, b, true),
        Pmovsxdq => widen(32, 64, b, true),
        Pmovzxbw => widen(8, 16, b, false),
        Pmovzxbd => widen(8, 32, b, false),
        Pmovzxbq => widen(8, 64, b, false),
        Pmovzxwd => widen(16, 32, b, false),
        Pmovzxwq => widen(16, 64, b, false),
        Pmovzxdq => widen(32, 64, b, false),
        Pblendw => choose(16, a, b, by),
        Punpcklbw => low(8),
        Punpcklwd => low(16),
        Punpckldq => low(32),
        Punpcklqdq => low(64),
        Punpckhbw => high(8),
        Punpckhwd => high(16),
        Punpckhdq => high(32),
        Punpckhqdq => high(64),
        Pshufd => shuffle(32, b, by),
        Pshufw => shuffle(16, b, by),
        Pshuflw => b & !LOW | shuffle(16, b, by),
        Pshufhw => b & LOW | shuffle(16, b >> 64, by) << 64,
        Pshufb => each(8, b, 0, |b, _| {
            let number = b as u32 & (width / 8 - 1);
            if b & 0x80 != 0 { 0 } else { element(8, a, number) }
        }),
        Palignr => {
            // `a` lies above `b`.
            let bits = 8 * u32::from(by);
            let part = |value: u128, left: i64| match left {
                0..128 => value << left,
                -127..0 => value >> -left,
                _ => 0,
            };
            let b = if width == 64 { b & LOW } else { b };
            let a = if width == 64 { a & LOW } else { a };
            part(a, i64::from(width) - i64::from(bits)) | part(b, -i64::from(bits))
        }
        Phaddw => horizontal(16, width, a, b, |a, b| a + b),
        Phaddd => horizontal(32, width, a, b, |a, b| a + b),
        Phaddsw => horizontal(16, width, a, b, |a, b| saturate(16, a + b)),
        Phsubw => horizontal(16, width, a, b, |a, b| a - b),
        Phsubd => horizontal(32, width, a, b, |a, b| a - b),
        Phsubsw => horizontal(16, width, a, b, |a, b| saturate(16, a - b)),
        Pabsb => absolute(8),
        Pabsw => absolute(16),
        Pabsd => absolute(32),
        Psignb => sign(8),
        Psignw => sign(16),
        Psignd => sign(32),
        _ => return None,
    })
}

/// The signs of elements, as PMOVMSKB and its like collect them.
pub(in crate::cpu::soft) fn signs(bits: u32, width: u32, value: u128) -> u128 {
    (0..width / bits).fold(0, |result, number| {
        result | (value >> (bits * number + bits - 1) & 1) << number
    })
}
