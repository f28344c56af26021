//! Instructions on MMX and XMM registers: moves, logic and integers.
//!
//! Source: Intel SDM volume 2 for each instruction; volume 1, 9.2 (MMX registers) and 11.4. There
//! are all of MMX, the integer part of SSE and SSE2, SSSE3, and of SSE, SSE2 and SSE3 what moves,
//! shuffles and combines floating-point numbers as bits. #UD are arithmetic, comparison and
//! conversion of floating-point numbers, and SSE4.

#![cfg_attr(test, allow(unsafe_code))]

use super::access::Intent;
use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::{Instruction, Operand, Packed, RegisterClass, SegmentRegister};

const LOW: u128 = u64::MAX as u128;
/// Bytes of a page.
const PAGE: u64 = 4096;

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
pub(super) const fn element(bits: u32, value: u128, number: u32) -> u64 {
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
pub(super) fn interleave(bits: u32, width: u32, high: bool, a: u128, b: u128) -> u128 {
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
pub(super) fn shuffle(bits: u32, source: u128, by: u8) -> u128 {
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
pub(super) fn signs(bits: u32, width: u32, value: u128) -> u128 {
    (0..width / bits).fold(0, |result, number| {
        result | (value >> (bits * number + bits - 1) & 1) << number
    })
}

/// What an operand's memory must be aligned to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alignment {
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
    pub(super) fn vector_at(
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

    /// Loads so many bytes, 16 at most, zero-extended. Where sixteen lie in one page they are two
    /// words: no second one faults where a first one did not.
    pub(super) fn load_vector(
        &mut self,
        bus: &mut Bus<'_>,
        (segment, offset): (SegmentRegister, u64),
        length: u8,
    ) -> Outcome<u128> {
        match length {
            4 => return Ok(self.load::<u32>(bus, segment, offset)?.into()),
            8 => return Ok(self.load::<u64>(bus, segment, offset)?.into()),
            _ => {}
        }
        let mut bytes = [0; 16];
        let length = usize::from(length).min(bytes.len());
        let linear = self.linear(segment, offset, length, Intent::Read)?;
        if length == 16 && linear % PAGE <= PAGE - 16 {
            let mut word = |at| self.mmu.read::<u64>(bus, linear + at, self.mode);
            return match (word(0), word(8)) {
                (Ok(low), Ok(high)) => Ok(u128::from(low) | u128::from(high) << 64),
                (Err(fault), _) | (_, Err(fault)) => Err(self.access_fault(fault, segment)),
            };
        }
        self.load_bytes(bus, segment, offset, &mut bytes[..length])?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Stores the lowest bytes in the same way.
    pub(super) fn store_vector(
        &mut self,
        bus: &mut Bus<'_>,
        (segment, offset): (SegmentRegister, u64),
        length: u8,
        value: u128,
    ) -> Outcome {
        match length {
            4 => return self.store(bus, segment, offset, value as u32),
            8 => return self.store(bus, segment, offset, value as u64),
            _ => {}
        }
        let length = usize::from(length).min(16);
        let linear = self.linear(segment, offset, length, Intent::Write)?;
        if length == 16 && linear % PAGE <= PAGE - 16 {
            for (at, word) in [(0, value as u64), (8, (value >> 64) as u64)] {
                if let Err(fault) = self.mmu.write(bus, linear + at, self.mode, word) {
                    return Err(self.access_fault(fault, segment));
                }
            }
            return Ok(());
        }
        self.store_bytes(bus, segment, offset, &value.to_le_bytes()[..length])
    }

    /// An operand as an integer, zero-extended.
    pub(super) fn vector(
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
                let at = self.vector_at(i, alignment)?;
                self.load_vector(bus, at, i.memory_size())
            }
            Operand::Immediate(value) => Ok(value.into()),
            _ => Ok(0),
        }
    }

    /// Writes an operand, cut to its size.
    pub(super) fn set_vector(
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
                let at = self.vector_at(i, alignment)?;
                self.store_vector(bus, at, i.memory_size(), value)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr::{RAX, RBX, RDI};
    use crate::cpu::soft::Exception;
    use crate::cpu::soft::testing::Guest;

    fn guest() -> Guest {
        let mut guest = Guest::long();
        guest.change(|state| {
            state.cr4 |= 1 << 9;
            state.gpr[RBX] = 0x3000;
            state.gpr[RDI] = 0x4ffc;
        });
        guest
    }

    /// Numbers with a liking for the ends of ranges.
    #[cfg(target_arch = "x86_64")]
    fn numbers() -> impl Iterator<Item = (u128, u128)> {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut number = move || {
            let mut bytes = [0; 16];
            for byte in &mut bytes {
                let random = next();
                *byte = match random >> 8 & 3 {
                    0 => [0, 1, 0x7f, 0x80, 0xff][(random >> 16) as usize % 5],
                    _ => random as u8,
                };
            }
            u128::from_le_bytes(bytes)
        };
        (0..2000).map(move |_| (number(), number()))
    }

    /// Compares results with those of the processor that the tests run on.
    #[cfg(target_arch = "x86_64")]
    macro_rules! as_the_processor {
        ($shift:expr; $($name:ident)*) => {$({
            for (mut a, mut b) in numbers() {
                if $shift {
                    b = b % 70 | b & !LOW;
                }
                let expected = compute(Packed::$name, 128, a, b, 0).unwrap();
                let expected_mmx = compute(Packed::$name, 64, a & LOW, b & LOW, 0).unwrap() & LOW;
                let (a_before, mut mmx) = (a, a as u64);
                // SAFETY: only these variables are accessed, and MMX is left empty.
                unsafe {
                    core::arch::asm!(
                        "movdqu xmm0, [{a}]",
                        "movdqu xmm1, [{b}]",
                        concat!(stringify!($name), " xmm0, xmm1"),
                        "movdqu [{a}], xmm0",
                        a = in(reg) &raw mut a,
                        b = in(reg) &raw mut b,
                        out("xmm0") _,
                        out("xmm1") _,
                    );
                }
                assert_eq!(a, expected, "{} {a_before:#x} {b:#x}", stringify!($name));
                if matches!(Packed::$name, Packed::Punpcklqdq | Packed::Punpckhqdq) {
                    continue;
                }
                as_the_processor!(@mmx $name, mmx, b);
                assert_eq!(u128::from(mmx), expected_mmx, "{} {a_before:#x} {b:#x}", stringify!($name));
            }
        })*};
        (@mmx Punpcklqdq, $a:ident, $b:ident) => { let _ = &mut $a; };
        (@mmx Punpckhqdq, $a:ident, $b:ident) => { let _ = &mut $a; };
        (@mmx $name:ident, $a:ident, $b:ident) => {
            // SAFETY: as above.
            unsafe {
                core::arch::asm!(
                    "movq mm0, [{a}]",
                    "movq mm1, [{b}]",
                    concat!(stringify!($name), " mm0, mm1"),
                    "movq [{a}], mm0",
                    "emms",
                    a = in(reg) &raw mut $a,
                    b = in(reg) &raw mut $b,
                    out("mm0") _,
                    out("mm1") _,
                );
            }
        };
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn results_are_the_processors() {
        as_the_processor! { false;
            Paddb Paddw Paddd Paddq Psubb Psubw Psubd Psubq Paddusb Paddusw Psubusb Psubusw Paddsb
            Paddsw Psubsb Psubsw Pcmpeqb Pcmpeqw Pcmpeqd Pcmpgtb Pcmpgtw Pcmpgtd Pavgb Pavgw Pminub
            Pmaxub Pminsw Pmaxsw Pmullw Pmulhw Pmulhuw Pmuludq Pmaddwd Psadbw Pand Pandn Por Pxor
            Packsswb Packssdw Packuswb Punpcklbw Punpcklwd Punpckldq Punpcklqdq Punpckhbw Punpckhwd
            Punpckhdq Punpckhqdq
        }
        as_the_processor! { true; Psllw Pslld Psllq Psrlw Psrld Psrlq Psraw Psrad }
        if std::is_x86_feature_detected!("ssse3") {
            as_the_processor! { false;
                Pshufb Phaddw Phaddd Phaddsw Phsubw Phsubd Phsubsw Pmaddubsw Pmulhrsw Psignb Psignw
                Psignd Pabsb Pabsw Pabsd
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn constants_shuffle_as_the_processor_does() {
        macro_rules! with {
            ($($name:ident $by:literal)*) => {$(
                for (a, b) in numbers().take(50) {
                    let expected = compute(Packed::$name, 128, a, b, $by).unwrap();
                    let (mut a, mut b) = (a, b);
                    // SAFETY: only these variables are accessed.
                    unsafe {
                        core::arch::asm!(
                            "movdqu xmm0, [{a}]",
                            "movdqu xmm1, [{b}]",
                            concat!(stringify!($name), " xmm0, xmm1, ", stringify!($by)),
                            "movdqu [{a}], xmm0",
                            a = in(reg) &raw mut a,
                            b = in(reg) &raw mut b,
                            out("xmm0") _,
                            out("xmm1") _,
                        );
                    }
                    assert_eq!(a, expected, "{} {}", stringify!($name), $by);
                }
            )*};
        }
        with! { Pshufd 0x1b Pshufd 0x72 Pshuflw 0x4e Pshufhw 0x93 Pshuflw 0xd8 Pshufhw 0x01 }
        if std::is_x86_feature_detected!("ssse3") {
            with! { Palignr 0 Palignr 5 Palignr 16 Palignr 17 Palignr 31 Palignr 32 Palignr 200 }
        }
        let (a, b) = (0x1122_3344_5566_7788u128, 0x99aa_bbcc_ddee_ff00);
        assert_eq!(
            compute(Packed::Palignr, 64, a, b, 3).map(|r| r & LOW),
            Some(0x6677_8899_aabb_ccdd)
        );
        assert_eq!(
            compute(Packed::Pshufw, 64, 0, a, 0x1b).map(|r| r & LOW),
            Some(0x7788_5566_3344_1122)
        );
        assert_eq!(compute(Packed::Pslldq, 128, a, 15, 0), Some(0x88 << 120));
        assert_eq!(compute(Packed::Psrldq, 128, a, 16, 0), Some(0));
    }

    #[test]
    fn moves() {
        let mut guest = guest();
        let value = 0x1111_2222_3333_4444_5555_6666_7777_8888u128;
        guest.put(0x3000, &value.to_le_bytes());
        // What each makes of xmm0 = all ones, [rbx] or xmm1 = the value.
        let cases: [(&[u8], u128); 18] = [
            (&[0x0f, 0x28, 0x03], value),
            (&[0x66, 0x0f, 0x6f, 0xc1], value),
            (&[0xf3, 0x0f, 0x10, 0x03], 0x7777_8888),
            (&[0xf3, 0x0f, 0x10, 0xc1], u128::MAX << 32 | 0x7777_8888),
            (&[0xf2, 0x0f, 0x10, 0x03], value & LOW),
            (&[0xf2, 0x0f, 0x10, 0xc1], !LOW | value & LOW),
            (&[0x0f, 0x12, 0x03], !LOW | value & LOW),
            (&[0x0f, 0x12, 0xc1], !LOW | value >> 64),
            (&[0x0f, 0x16, 0x03], LOW | value << 64),
            (&[0x0f, 0x16, 0xc1], LOW | value << 64),
            (&[0x66, 0x0f, 0x6e, 0xc3], 0x3000),
            (&[0xf3, 0x0f, 0x7e, 0xc1], value & LOW),
            (&[0x66, 0x0f, 0xc4, 0xc3, 9], !(0xffff << 16) | 0x3000 << 16),
            (
                &[0x0f, 0xc6, 0xc1, 0x1b],
                0x7777_8888_5555_6666_ffff_ffff_ffff_ffff,
            ),
            (&[0x66, 0x0f, 0xc6, 0xc1, 2], value & !LOW | LOW),
            (
                &[0x0f, 0x14, 0xc1],
                0x5555_6666_ffff_ffff_7777_8888_ffff_ffff,
            ),
            (&[0x66, 0x0f, 0x55, 0xc1], 0),
            (
                &[0xf3, 0x0f, 0x16, 0xc1],
                0x1111_2222_1111_2222_5555_6666_5555_6666,
            ),
        ];
        for (code, expected) in cases {
            guest.change(|state| (state.fpu.xmm[0], state.fpu.xmm[1]) = (u128::MAX, value));
            assert_eq!(guest.attempt(code), Ok(()), "{code:02x?}");
            assert_eq!(guest.state().fpu.xmm[0], expected, "{code:02x?}");
        }
        // Stores from xmm1.
        for (code, expected) in [
            (&[0x0f, 0x11, 0x0b][..], value),
            (&[0x0f, 0x17, 0x0b], !LOW | value >> 64),
            (&[0xf3, 0x0f, 0x11, 0x0b], u128::MAX << 32 | 0x7777_8888),
            (&[0x66, 0x0f, 0xd6, 0x0b], !LOW | value & LOW),
            (&[0x66, 0x0f, 0xe7, 0x0b], value),
        ] {
            guest.put(0x3000, &[0xff; 16]);
            assert_eq!(guest.attempt(code), Ok(()));
            assert_eq!(
                u128::from_le_bytes(guest.get(0x3000)),
                expected,
                "{code:02x?}"
            );
        }
        // pmovmskb eax, xmm1; movmskps eax, xmm1; movq rax, xmm1; pextrw eax, xmm1, 7
        let masks: [(&[u8], u64); 4] = [
            (&[0x66, 0x0f, 0xd7, 0xc1], 0x0003),
            (&[0x0f, 0x50, 0xc1], 0),
            (&[0x66, 0x48, 0x0f, 0x7e, 0xc8], value as u64),
            (&[0x66, 0x0f, 0xc5, 0xc1, 7], 0x1111),
        ];
        for (code, expected) in masks {
            guest.change(|state| state.gpr[RAX] = u64::MAX);
            assert_eq!(guest.attempt(code), Ok(()));
            assert_eq!(guest.state().gpr[RAX], expected, "{code:02x?}");
        }
    }

    #[test]
    fn sixteen_bytes_across_pages() {
        let mut guest = guest();
        let value = (u128::MAX / 255 * 3) ^ 0x1234;
        for at in [0x2ff0, 0x2ff1, 0x2ff8, 0x2fff] {
            guest.change(|state| {
                state.fpu.xmm[1] = value;
                state.gpr[RBX] = at;
            });
            // movups [rbx], xmm1; movups xmm0, [rbx]
            assert_eq!(guest.attempt(&[0x0f, 0x11, 0x0b]), Ok(()));
            assert_eq!(u128::from_le_bytes(guest.get(at)), value);
            assert_eq!(guest.attempt(&[0x0f, 0x10, 0x03]), Ok(()));
            assert_eq!(guest.state().fpu.xmm[0], value);
        }
        // The second page is not there: nothing is stored, and its first byte is at fault.
        guest.put(0x1f_fff8, &[0; 8]);
        guest.change(|state| state.gpr[RBX] = 0x1f_fff8);
        assert_eq!(
            guest.attempt(&[0x0f, 0x11, 0x0b]),
            Err(Exception::PageFault(2))
        );
        assert_eq!(guest.state().cr2, 0x20_0000);
        assert_eq!(guest.get::<8>(0x1f_fff8), [0; 8]);
        guest.change(|state| state.gpr[RBX] = 0x20_0010);
        assert_eq!(
            guest.attempt(&[0x0f, 0x28, 0x03]),
            Err(Exception::PageFault(0))
        );
        assert_eq!(guest.state().cr2, 0x20_0010);
    }

    #[test]
    fn alignment_and_availability() {
        let mut guest = guest();
        guest.change(|state| state.gpr[RBX] = 0x3008);
        let (aligned, unaligned, mmx) =
            ([0x0f, 0x28, 0x03], [0x0f, 0x10, 0x03], [0x0f, 0xef, 0xc0]);
        assert_eq!(guest.attempt(&aligned), Err(Exception::GP0));
        assert_eq!(
            guest.attempt(&[0x66, 0x0f, 0xef, 0x03]),
            Err(Exception::GP0)
        );
        assert_eq!(guest.attempt(&unaligned), Ok(()));
        assert_eq!(guest.attempt(&[0x0f, 0x16, 0x03]), Ok(()));
        let set = |guest: &mut Guest, cr0: u64, cr4: u64| {
            guest.change(|state| {
                state.cr0 = state.cr0 & !0xc | cr0;
                state.cr4 = state.cr4 & !(1 << 9) | cr4;
            });
        };
        let nm = Err(Exception::DeviceNotAvailable);
        for (cr0, cr4, sse, on_mmx) in [
            (0, 1 << 9, Ok(()), Ok(())),
            (8, 1 << 9, nm, nm),
            (4, 1 << 9, Err(Exception::UD), Err(Exception::UD)),
            (12, 1 << 9, Err(Exception::UD), Err(Exception::UD)),
            (0, 0, Err(Exception::UD), Ok(())),
            (8, 0, Err(Exception::UD), nm),
        ] {
            set(&mut guest, cr0, cr4);
            assert_eq!(guest.attempt(&unaligned), sse, "{cr0} {cr4}");
            assert_eq!(guest.attempt(&mmx), on_mmx, "{cr0} {cr4}");
        }
        set(&mut guest, 0, 1 << 9);
        // addps, sqrtsd: not here.
        assert_eq!(guest.attempt(&[0x0f, 0x58, 0xc0]), Err(Exception::UD));
        assert_eq!(guest.attempt(&[0xf2, 0x0f, 0x51, 0xc0]), Err(Exception::UD));
    }

    #[test]
    fn mmx_registers_are_the_x87s() {
        let mut guest = guest();
        guest.change(|state| {
            state.fpu.fsw = 3 << 11;
            // ST0 is physical register 3.
            state.fpu.st[0] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        });
        // movq rax, mm3; then movq mm0, rbx
        assert_eq!(guest.attempt(&[0x48, 0x0f, 0x7e, 0xd8]), Ok(()));
        let state = guest.state();
        assert_eq!(state.gpr[RAX], 0x0807_0605_0403_0201);
        assert_eq!((state.fpu.fsw, state.fpu.ftw), (0, 0xff));
        assert_eq!(state.fpu.st[3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(guest.attempt(&[0x48, 0x0f, 0x6e, 0xc3]), Ok(()));
        assert_eq!(
            guest.state().fpu.st[0],
            [0, 0x30, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
        );
        // emms
        assert_eq!(guest.attempt(&[0x0f, 0x77]), Ok(()));
        assert_eq!(guest.state().fpu.ftw, 0);
        // A load that faults leaves the x87 alone.
        guest.change(|state| {
            state.fpu.fsw = 3 << 11;
            state.gpr[RBX] = 1 << 30;
        });
        assert!(guest.attempt(&[0x0f, 0x6f, 0x03]).is_err());
        assert_eq!(guest.state().fpu.fsw, 3 << 11);
    }

    #[test]
    fn masked_stores() {
        let mut guest = guest();
        guest.change(|state| {
            state.fpu.xmm[1] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
            state.fpu.xmm[2] = 0x80 << 120 | 0x80 << 24 | 0x7f;
        });
        guest.put(0x4ff0, &[0xaa; 32]);
        // maskmovdqu xmm1, xmm2, across a page's end
        assert_eq!(guest.attempt(&[0x66, 0x0f, 0xf7, 0xca]), Ok(()));
        let mut expected = [0xaa; 32];
        (expected[12 + 3], expected[12 + 15]) = (3, 15);
        assert_eq!(guest.get::<32>(0x4ff0), expected);
    }
}
