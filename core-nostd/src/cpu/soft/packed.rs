//! Instructions on MMX and XMM registers: moves, logic and integers.
//!
//! Source: Intel SDM volume 2 for each instruction; volume 1, 9.2 (MMX registers) and 11.4. There
//! are all of MMX, the integer part of SSE and SSE2, SSSE3, and of SSE, SSE2 and SSE3 what moves,
//! shuffles and combines floating-point numbers as bits. #UD are arithmetic, comparison and
//! conversion of floating-point numbers, and SSE4.

use super::access::Intent;
use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::{Instruction, Operand, Packed, RegisterClass, SegmentRegister, Sse};

const LOW: u128 = u64::MAX as u128;

/// Applies an operation to each pair of elements of a width.
#[inline]
fn each(bits: u32, a: u128, b: u128, operate: impl Fn(u64, u64) -> u64) -> u128 {
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
fn each_signed(bits: u32, a: u128, b: u128, operate: impl Fn(i64, i64) -> i64) -> u128 {
    each(bits, a, b, |a, b| {
        operate(signed(bits, a), signed(bits, b)) as u64
    })
}

/// An element with its sign extended.
const fn signed(bits: u32, value: u64) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

/// One element by number.
const fn element(bits: u32, value: u128, number: u32) -> u64 {
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
fn interleave(bits: u32, width: u32, high: bool, a: u128, b: u128) -> u128 {
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
fn shuffle(bits: u32, source: u128, by: u8) -> u128 {
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

/// What an instruction makes of its operands, `width` being 64 for MMX registers; `None` if it is
/// not here. Bits above the width are of no meaning.
#[rustfmt::skip]
fn compute(name: Packed, width: u32, a: u128, b: u128, by: u8) -> Option<u128> {
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
        Pcmpgtb => greater(8),
        Pcmpgtw => greater(16),
        Pcmpgtd => greater(32),
        Pavgb => average(8),
        Pavgw => average(16),
        Pminub => each(8, a, b, u64::min),
        Pmaxub => each(8, a, b, u64::max),
        Pminsw => each_signed(16, a, b, i64::min),
        Pmaxsw => each_signed(16, a, b, i64::max),
        Pmullw => product(|p| p),
        Pmulhw => product(|p| p >> 16),
        Pmulhrsw => product(|p| ((p >> 14) + 1) >> 1),
        Pmulhuw => each(16, a, b, |a, b| (a * b) >> 16),
        Pmuludq => each(64, a, b, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
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
fn signs(bits: u32, width: u32, value: u128) -> u128 {
    (0..width / bits).fold(0, |result, number| {
        result | (value >> (bits * number + bits - 1) & 1) << number
    })
}

/// What an operand's memory must be aligned to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alignment {
    /// Sixteen bytes, if it has as many.
    Natural,
    /// Nothing.
    Any,
}

impl Cpu {
    fn class(operand: Operand) -> Option<RegisterClass> {
        match operand {
            Operand::Register(register) => Some(register.class),
            _ => None,
        }
    }

    /// Segment and offset of the memory operand, aligned as asked.
    fn vector_at(
        &mut self,
        i: &Instruction,
        alignment: Alignment,
    ) -> Outcome<(SegmentRegister, u64)> {
        if i.memory_size() == 16 && alignment == Alignment::Natural {
            self.aligned_area(i, 16)
        } else {
            self.memory_at(i)
        }
    }

    /// An operand as an integer, zero-extended.
    fn vector(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        place: usize,
        alignment: Alignment,
    ) -> Outcome<u128> {
        match i.operand(place) {
            Operand::Register(register) => Ok(match register.class {
                RegisterClass::Xmm => self.fpu.xmm[usize::from(register.number % 16)],
                RegisterClass::Mmx => self.mmx(register.number).into(),
                RegisterClass::Gpr64 => self.register::<u64>(register.number.into()).into(),
                _ => self.register::<u32>(register.number.into()).into(),
            }),
            Operand::Memory(_) => {
                let (segment, offset) = self.vector_at(i, alignment)?;
                let mut bytes = [0; 16];
                let length = usize::from(i.memory_size()).min(bytes.len());
                self.load_bytes(bus, segment, offset, &mut bytes[..length])?;
                Ok(u128::from_le_bytes(bytes))
            }
            Operand::Immediate(value) => Ok(value.into()),
            _ => Ok(0),
        }
    }

    /// Writes an operand, cut to its size.
    fn set_vector(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        alignment: Alignment,
        value: u128,
    ) -> Outcome {
        match i.operand(0) {
            Operand::Register(register) => match register.class {
                RegisterClass::Xmm => self.fpu.xmm[usize::from(register.number % 16)] = value,
                RegisterClass::Mmx => {
                    self.use_mmx();
                    self.set_mmx(register.number, value as u64);
                }
                RegisterClass::Gpr64 => self.set_register(register.number.into(), value as u64),
                _ => self.set_register(register.number.into(), value as u32),
            },
            Operand::Memory(_) => {
                let (segment, offset) = self.vector_at(i, alignment)?;
                let length = usize::from(i.memory_size()).min(16);
                self.store_bytes(bus, segment, offset, &value.to_le_bytes()[..length])?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Instructions on MMX and XMM registers as integers.
    pub(super) fn packed(&mut self, bus: &mut Bus<'_>, i: &Instruction, name: Packed) -> Outcome {
        use Packed::*;
        let any = |class| {
            i.operands()
                .any(|operand| Self::class(operand) == Some(class))
        };
        let mmx = any(RegisterClass::Mmx);
        if any(RegisterClass::Xmm) {
            self.check_sse()?;
        }
        if mmx || name == Emms {
            self.check_mmx()?;
        }
        let width = if mmx { 64 } else { 128 };
        let alignment = match name {
            Movdqu | Lddqu => Alignment::Any,
            _ => Alignment::Natural,
        };
        let by = match i.operand(2) {
            Operand::Immediate(value) => value as u8,
            _ => 0,
        };
        let value = match name {
            Emms => return self.empty_mmx(),
            Maskmovq | Maskmovdqu => return self.masked_store(bus, i, width),
            Movd | Movdqa | Movdqu | Lddqu | Movntdq | Movntq => {
                self.vector(bus, i, 1, alignment)?
            }
            Movq | Movq2dq | Movdq2q => self.vector(bus, i, 1, alignment)? & LOW,
            Pmovmskb => signs(8, width, self.vector(bus, i, 1, alignment)?),
            Pinsrw => {
                let word = self.vector(bus, i, 1, alignment)? & 0xffff;
                let at = 16 * (u32::from(by) % (width / 16));
                self.vector(bus, i, 0, alignment)? & !(0xffff << at) | word << at
            }
            Pextrw => {
                let number = u32::from(by) % (width / 16);
                element(16, self.vector(bus, i, 1, alignment)?, number).into()
            }
            _ => {
                let b = self.vector(bus, i, 1, alignment)?;
                let a = self.vector(bus, i, 0, alignment)?;
                match compute(name, width, a, b, by) {
                    Some(value) => value,
                    None => return self.undefined(),
                }
            }
        };
        self.set_vector(bus, i, alignment, value)?;
        if mmx {
            self.use_mmx();
        }
        Ok(())
    }

    /// MASKMOVQ, MASKMOVDQU: bytes whose mask has its sign set.
    fn masked_store(&mut self, bus: &mut Bus<'_>, i: &Instruction, width: u32) -> Outcome {
        let value = self.vector(bus, i, 1, Alignment::Any)?;
        let mask = self.vector(bus, i, 2, Alignment::Any)?;
        let (segment, offset) = self.memory_at(i)?;
        let length = width as usize / 8;
        if signs(8, width, mask) != 0 {
            self.check_access(bus, segment, offset, length, Intent::Write)?;
        }
        let bytes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
        for (at, (byte, mask)) in (0..).zip(bytes.take(length)) {
            if mask & 0x80 != 0 {
                let offset = offset.wrapping_add(at) & i.address_size().mask();
                self.store(bus, segment, offset, byte)?;
            }
        }
        if width == 64 {
            self.use_mmx();
        }
        Ok(())
    }

    /// Instructions on floating-point numbers in XMM registers.
    pub(super) fn media(&mut self, bus: &mut Bus<'_>, i: &Instruction, name: Sse) -> Outcome {
        use Sse::*;
        if matches!(name, Ldmxcsr | Stmxcsr) {
            return self.media_control(bus, i);
        }
        self.check_sse()?;
        let alignment = match name {
            Movups | Movupd => Alignment::Any,
            _ => Alignment::Natural,
        };
        let b = self.vector(bus, i, 1, alignment)?;
        let to_memory = matches!(i.operand(0), Operand::Memory(_));
        // Of a destination in memory nothing is read.
        let a = if to_memory {
            0
        } else {
            self.vector(bus, i, 0, alignment)?
        };
        let by = match i.operand(2) {
            Operand::Immediate(value) => value as u8,
            _ => 0,
        };
        let both_registers = i.memory().is_none();
        let value = match name {
            Movaps | Movapd | Movups | Movupd | Movntps | Movntpd => b,
            // From memory the rest of the register is cleared, from a register it is kept.
            Movss if both_registers => a & !0xffff_ffff | b & 0xffff_ffff,
            Movsd if both_registers => a & !LOW | b & LOW,
            Movss | Movsd => b,
            Movlps | Movlpd if to_memory => b,
            Movlps | Movlpd => a & !LOW | b & LOW,
            Movhps | Movhpd if to_memory => b >> 64,
            Movhps | Movhpd | Movlhps => a & LOW | b << 64,
            Movhlps => a & !LOW | b >> 64,
            Movddup => b & LOW | b << 64,
            Movshdup => each(64, b, 0, |b, _| b >> 32 | b & !0xffff_ffff),
            Movsldup => each(64, b, 0, |b, _| b & 0xffff_ffff | b << 32),
            Movmskps => signs(32, 128, b),
            Movmskpd => signs(64, 128, b),
            Andps | Andpd => a & b,
            Andnps | Andnpd => !a & b,
            Orps | Orpd => a | b,
            Xorps | Xorpd => a ^ b,
            Unpcklps => interleave(32, 128, false, a, b),
            Unpckhps => interleave(32, 128, true, a, b),
            Unpcklpd => interleave(64, 128, false, a, b),
            Unpckhpd => interleave(64, 128, true, a, b),
            Shufps => shuffle(32, a, by) & LOW | shuffle(32, b, by) & !LOW,
            Shufpd => {
                let (a, b) = (
                    element(64, a, (by & 1).into()),
                    element(64, b, (by >> 1 & 1).into()),
                );
                u128::from(a) | u128::from(b) << 64
            }
            _ => return self.undefined(),
        };
        self.set_vector(bus, i, alignment, value)
    }
}
