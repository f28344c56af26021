//! Micro-operations on XMM registers: what compilers and C libraries use of SSE and SSE2.
//!
//! One function executes all of them; what it has to do is in [`Micro::immediate`]. Whatever they raise
//! but for arithmetic's exceptions is left to the long way.
//!
//! Reading MXCSR takes the host longer than all the rest. So sums and products of two ordinary numbers
//! (normal or zero) are computed without the guest's MXCSR where that can make no difference: rounding
//! is to nearest, as the host's, and PE is set already, and masked. The result is ordinary, too, or it
//! is computed again by `sse`; so no other exception can have been, and DAZ and FTZ do not matter.

use super::super::access::Intent;
use super::super::micro::{self, Flow, Micro, Place};
use super::super::packed::shuffle;
use super::super::sse::{Lanes, Native, arithmetic, mxcsr};
use super::super::{Bus, Cpu};
use crate::cpu::alu::LazyFlags;
use crate::cpu::decode::{
    CodeSize, Instruction, Operand, Operation, Packed, Register, RegisterClass, Size, Sse,
};
use crate::cpu::mmu::Access;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::rflags::RFlags;

/// The low half of a register, and its lowest number in single precision.
const LOW: u128 = u64::MAX as u128;
const LOWEST: u128 = u32::MAX as u128;

/// What is done with the source.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Kind {
    /// Moved to the whole register.
    Load,
    /// The register is stored.
    Store,
    /// The register's upper half is stored.
    StoreHigh,
    /// Moved to a part: the lowest 32 or 64 bits, or the upper half.
    Lowest,
    Low,
    High,
    /// The source's upper half moved to the low one.
    HighToLow,
    /// Moved to a general register: 32 or 64 bits.
    General,
    GeneralWide,
    /// Bytes' signs to a general register.
    Signs,
    /// An operation on integers, by its number.
    Lanes,
    /// Doublewords by the constant.
    Shuffle,
    /// Bytes shifted.
    ShiftLeft,
    ShiftRight,
    /// Arithmetic on floating-point numbers, by its number.
    Arithmetic,
    /// COMISS and its like, by number.
    Compare,
    /// A conversion to a floating-point number, by number.
    Convert,
    /// A conversion to an integer, by number.
    Integer,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::Load,
        Self::Store,
        Self::StoreHigh,
        Self::Lowest,
        Self::Low,
        Self::High,
        Self::HighToLow,
        Self::General,
        Self::GeneralWide,
        Self::Signs,
        Self::Lanes,
        Self::Shuffle,
        Self::ShiftLeft,
        Self::ShiftRight,
        Self::Arithmetic,
        Self::Compare,
        Self::Convert,
        Self::Integer,
    ];
}

/// Where the source is; of stores, the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Source {
    Xmm,
    /// A general register's low half, or all of it.
    General,
    GeneralWide,
    /// The immediate.
    Constant,
    /// Memory of so many bytes.
    Four,
    Eight,
    Sixteen,
    /// Memory, aligned to 16 bytes.
    Aligned,
}

impl Source {
    const ALL: [Self; 8] = [
        Self::Xmm,
        Self::General,
        Self::GeneralWide,
        Self::Constant,
        Self::Four,
        Self::Eight,
        Self::Sixteen,
        Self::Aligned,
    ];

    pub(in super::super) const fn bytes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
            _ => 16,
        }
    }
}

/// [`Micro::immediate`]: the kind.
const KIND: u32 = 0;
/// The source.
const SOURCE: u32 = 8;
/// The number of an operation.
const NUMBER: u32 = 16;
/// A constant of eight bits.
const CONSTANT: u32 = 24;
/// The source: the address needs no segment.
const FLAT: u8 = 1 << 7;

const fn field(m: Micro, at: u32) -> u8 {
    (m.immediate >> at) as u8
}

/// What one of these micro-operations does, besides its registers and address.
#[derive(Clone, Copy)]
pub(in super::super) struct Media {
    pub(in super::super) kind: Kind,
    pub(in super::super) source: Source,
    /// Of [`Lanes`] or [`Native`].
    pub(in super::super) number: u8,
    pub(in super::super) constant: u8,
    /// Where memory is, if the source is there.
    pub(in super::super) place: Place,
}

impl Media {
    #[inline(always)]
    pub(in super::super) fn of(m: Micro) -> Self {
        Self {
            kind: Kind::ALL[usize::from(field(m, KIND)) % Kind::ALL.len()],
            source: Source::ALL[usize::from(field(m, SOURCE) & 7)],
            number: field(m, NUMBER),
            constant: field(m, CONSTANT),
            place: if field(m, SOURCE) & FLAT != 0 {
                Place::Flat
            } else {
                Place::Segmented
            },
        }
    }
}

impl Cpu {
    /// Instructions on XMM registers raise neither #UD nor #NM.
    #[inline(always)]
    fn media_usable(&self) -> bool {
        let unusable = Cr0Flags::EMULATE_COPROCESSOR.union(Cr0Flags::TASK_SWITCHED);
        !self.cr0().intersects(unusable) && self.cr4().contains(Cr4Flags::OSFXSR)
    }

    /// The linear address of memory of a source; `None` if the long way is to be taken.
    #[inline(always)]
    fn media_linear(&mut self, m: Micro, source: Source, intent: Intent) -> Option<u64> {
        let offset = self.micro_offset(m);
        let linear = if field(m, SOURCE) & FLAT != 0 && self.data_checks == 0 {
            offset
        } else {
            // What it raises, the long way raises again.
            self.linear_anywhere(m, offset, source.bytes(), intent)
                .ok()?
        };
        (source != Source::Aligned || linear.is_multiple_of(16)).then_some(linear)
    }

    /// What is done where memory was not ready.
    #[cold]
    fn media_not_ready(
        &mut self,
        bus: &mut Bus<'_>,
        m: Micro,
        (linear, source): (u64, Source),
        access: Access,
    ) -> Flow {
        if linear % PAGE > PAGE - source.bytes() as u64 {
            return self.long_way(bus);
        }
        self.not_ready(bus, m, linear, access)
    }
}

/// Bytes of a page.
const PAGE: u64 = 4096;

/// The function of all of them.
pub(super) extern "C-unwind" fn media(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    if !cpu.media_usable() {
        return cpu.long_way(bus);
    }
    let Media {
        kind,
        source,
        number,
        constant,
        ..
    } = Media::of(m);
    let a = cpu.fpu.xmm[usize::from(m.a % 16)];
    if matches!(kind, Kind::Store | Kind::StoreHigh) {
        let value = if kind == Kind::StoreHigh { a >> 64 } else { a };
        return store(cpu, bus, m, source, value);
    }
    let b = match source {
        Source::Xmm => cpu.fpu.xmm[usize::from(m.b % 16)],
        Source::General => cpu.register::<u32>(m.b.into()).into(),
        Source::GeneralWide => cpu.register::<u64>(m.b.into()).into(),
        Source::Constant => constant.into(),
        _ => {
            let Some(linear) = cpu.media_linear(m, source, Intent::Read) else {
                return cpu.long_way(bus);
            };
            let (mmu, mode) = (&cpu.mmu, cpu.mode);
            let loaded = match source {
                Source::Four => mmu.try_read::<u32>(linear, mode).map(u128::from),
                Source::Eight => mmu.try_read::<u64>(linear, mode).map(u128::from),
                _ => mmu.try_read_double(linear, mode),
            };
            match loaded {
                Some(loaded) => loaded,
                None => return cpu.media_not_ready(bus, m, (linear, source), Access::Read),
            }
        }
    };
    let native = || Native::AddPs.plus(number);
    let value = match kind {
        Kind::Load => b,
        Kind::Lowest => a & !LOWEST | b & LOWEST,
        Kind::Low => a & !LOW | b & LOW,
        Kind::High => a & LOW | b << 64,
        Kind::HighToLow => a & !LOW | b >> 64,
        Kind::General => {
            cpu.set_register(m.a.into(), b as u32);
            return Flow::Next;
        }
        Kind::GeneralWide => {
            cpu.set_register(m.a.into(), b as u64);
            return Flow::Next;
        }
        Kind::Signs => {
            let signs = signs_of(b as u64) | signs_of((b >> 64) as u64) << 8;
            cpu.set_register(m.a.into(), signs as u32);
            return Flow::Next;
        }
        Kind::Lanes => match Lanes::from_number(number) {
            Some(lanes) => lanes.compute(a, b),
            None => return cpu.long_way(bus),
        },
        Kind::Shuffle => shuffle(32, b, constant),
        Kind::ShiftLeft => a.checked_shl(8 * b as u32).unwrap_or(0),
        Kind::ShiftRight => a.checked_shr(8 * b as u32).unwrap_or(0),
        Kind::Arithmetic => {
            let native = native();
            match quick(native, a, b, cpu.fpu.mxcsr) {
                Some(value) => value,
                None => match cpu.one(native, a, b) {
                    Ok(value) => value,
                    Err(_) => return Flow::Raised,
                },
            }
        }
        Kind::Compare => return compare(cpu, native(), a, b),
        Kind::Convert => {
            let native = native();
            match quick_convert(native, a, b, cpu.fpu.mxcsr) {
                Some(value) => value,
                None => {
                    let computed = cpu.native(native, a, b, b as u64);
                    if cpu.settle(computed.flags).is_err() {
                        return Flow::Raised;
                    }
                    computed.xmm
                }
            }
        }
        Kind::Integer => {
            let native = native();
            let value = match quick_integer(native, b, cpu.fpu.mxcsr) {
                Some(value) => value,
                None => {
                    let computed = cpu.native(native, a, b, 0);
                    if cpu.settle(computed.flags).is_err() {
                        return Flow::Raised;
                    }
                    computed.general
                }
            };
            cpu.set_register(m.a.into(), value);
            return Flow::Next;
        }
        Kind::Store | Kind::StoreHigh => return Flow::Next,
    };
    cpu.fpu.xmm[usize::from(m.a % 16)] = value;
    Flow::Next
}

/// Stores a register, or its lowest bytes.
#[inline(always)]
fn store(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro, to: Source, value: u128) -> Flow {
    let Some(linear) = cpu.media_linear(m, to, Intent::Write) else {
        return cpu.long_way(bus);
    };
    let mode = cpu.mode;
    let done = match to {
        Source::Four => cpu.mmu.try_write(linear, mode, value as u32),
        Source::Eight => cpu.mmu.try_write(linear, mode, value as u64),
        _ => cpu.mmu.try_write_double(linear, mode, value),
    };
    if !done {
        return cpu.media_not_ready(bus, m, (linear, to), Access::Write);
    }
    Flow::Next
}

/// The highest bits of eight bytes.
const fn signs_of(bytes: u64) -> u64 {
    // The product has bit 8 n at 56 + n.
    (bytes >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Whether inexact results change nothing of MXCSR, and rounding is the host's own.
const fn settled(control: u32) -> bool {
    let masked = mxcsr::PRECISION << mxcsr::MASKS;
    let looked_at = 3 << mxcsr::ROUNDING | masked | mxcsr::PRECISION;
    control & looked_at == masked | mxcsr::PRECISION
}

macro_rules! quick {
    ($quick:ident, $ordinary:ident, $certain:ident, $float:ty, $bits:ty, $fraction:literal, $highest:literal, $add:ident $sub:ident $mul:ident $div:ident $min:ident $max:ident) => {
        /// Normal or zero.
        #[inline(always)]
        const fn $ordinary(value: $bits) -> bool {
            let exponent = value << 1 >> ($fraction + 1);
            exponent.wrapping_sub(1) < $highest - 1 || value << 1 == 0
        }

        /// Normal, and not the smallest one: a result that is tiny may be rounded to that.
        #[inline(always)]
        const fn $certain(result: $bits) -> bool {
            $ordinary(result) && result << 1 > 2 << $fraction
        }

        /// The result of ordinary numbers, if it is one that needs no look at flags.
        #[inline(always)]
        fn $quick(native: Native, a: $bits, b: $bits, control: u32) -> Option<$bits> {
            if !($ordinary(a) && $ordinary(b)) {
                return None;
            }
            let (x, y) = (<$float>::from_bits(a), <$float>::from_bits(b));
            match native {
                Native::$min => return Some(if x < y { a } else { b }),
                Native::$max => return Some(if x > y { a } else { b }),
                _ if !settled(control) => return None,
                _ => {}
            }
            let (result, exact_zero) = match native {
                Native::$add => (x + y, true),
                Native::$sub => (x - y, true),
                Native::$mul => (x * y, x == 0.0 || y == 0.0),
                Native::$div if y != 0.0 => (x / y, x == 0.0),
                _ => return None,
            };
            let result = result.to_bits();
            ($certain(result) || result << 1 == 0 && exact_zero).then_some(result)
        }
    };
}

quick! { quick_double, ordinary_double, certain_double, f64, u64, 52, 0x7ff, AddSd SubSd MulSd DivSd MinSd MaxSd }
quick! { quick_single, ordinary_single, certain_single, f32, u32, 23, 0xff, AddSs SubSs MulSs DivSs MinSs MaxSs }

/// Arithmetic that needs no look at flags.
#[inline(always)]
fn quick(native: Native, a: u128, b: u128, control: u32) -> Option<u128> {
    // Packed ones by their scalar kin.
    let packed = native as u8 & 2 == 0;
    let scalar = native.plus(if packed { 2 } else { 0 });
    let mut result = a;
    if native as u8 & 1 == 0 {
        for at in [0, 32, 64, 96] {
            let number = quick_single(scalar, (a >> at) as u32, (b >> at) as u32, control)?;
            result = result & !(LOWEST << at) | u128::from(number) << at;
            if !packed {
                break;
            }
        }
    } else {
        for at in [0, 64] {
            let number = quick_double(scalar, (a >> at) as u64, (b >> at) as u64, control)?;
            result = result & !(LOW << at) | u128::from(number) << at;
            if !packed {
                break;
            }
        }
    }
    Some(result)
}

/// Conversions to floating-point numbers that need no look at flags.
#[inline(always)]
fn quick_convert(native: Native, a: u128, b: u128, control: u32) -> Option<u128> {
    let double = |value: f64| Some(a & !LOW | u128::from(value.to_bits()));
    match native {
        // All of them are numbers of this precision.
        Native::Si2Sd => double(f64::from(b as i32)),
        Native::Si2Sd64 if settled(control) || (b as i64).unsigned_abs() >> 53 == 0 => {
            double(b as i64 as f64)
        }
        Native::Ss2Sd if ordinary_single(b as u32) => double(f32::from_bits(b as u32).into()),
        Native::Sd2Ss if settled(control) && ordinary_double(b as u64) => {
            let result = (f64::from_bits(b as u64) as f32).to_bits();
            let zero = b as u64 & !(1 << 63) == 0;
            (certain_single(result) || result << 1 == 0 && zero)
                .then_some(a & !LOWEST | u128::from(result))
        }
        _ => None,
    }
}

/// Conversions to integers that need no look at flags: of numbers in range, cut off.
#[inline(always)]
fn quick_integer(native: Native, b: u128, control: u32) -> Option<u64> {
    let value = match native {
        Native::TruncateSd2Si | Native::TruncateSd2Si64 if ordinary_double(b as u64) => {
            f64::from_bits(b as u64)
        }
        Native::TruncateSs2Si | Native::TruncateSs2Si64 if ordinary_single(b as u32) => {
            f32::from_bits(b as u32).into()
        }
        _ => return None,
    };
    let wide = matches!(native, Native::TruncateSd2Si64 | Native::TruncateSs2Si64);
    let integer = value as i64;
    // The ends of the range are not worth a thought.
    let most = if wide { i64::MAX } else { i32::MAX.into() };
    let in_range = integer.unsigned_abs() < most as u64;
    // What is cut off is inexact.
    if !in_range || integer as f64 != value && !(settled(control)) {
        return None;
    }
    Some(if wide {
        integer as u64
    } else {
        integer as u32 as u64
    })
}

/// COMISS and its like.
#[inline(always)]
fn compare(cpu: &mut Cpu, native: Native, a: u128, b: u128) -> Flow {
    let pair = match native {
        Native::ComiSs | Native::UcomiSs => {
            (ordinary_single(a as u32) && ordinary_single(b as u32)).then(|| {
                let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
                (f64::from(a), f64::from(b))
            })
        }
        _ => (ordinary_double(a as u64) && ordinary_double(b as u64))
            .then(|| (f64::from_bits(a as u64), f64::from_bits(b as u64))),
    };
    let Some((a, b)) = pair else {
        return match cpu.compare_scalar(native, a, b) {
            Ok(()) => Flow::Next,
            Err(_) => Flow::Raised,
        };
    };
    let mut flags = RFlags::empty();
    flags.set(RFlags::CARRY_FLAG, a < b);
    flags.set(RFlags::ZERO_FLAG, a == b);
    cpu.flags = LazyFlags::from_rflags(flags.bits());
    Flow::Next
}

/// An XMM register's number.
fn xmm(operand: Operand) -> Option<u8> {
    match operand {
        Operand::Register(Register {
            class: RegisterClass::Xmm,
            number,
        }) => Some(number),
        _ => None,
    }
}

/// What is done, by the operation; the number is that of [`Lanes`] or [`Native`].
fn kind(i: &Instruction) -> Option<(Kind, u8)> {
    use Packed::*;
    use Sse::*;
    let registers = i.memory().is_none();
    let to_memory = matches!(i.operand(0), Operand::Memory(_));
    let wide = u8::from(i.operand_size() == Size::Qword);
    let plain = |kind| Some((kind, 0));
    let lanes = |name| Some((Kind::Lanes, Lanes::named(name)? as u8));
    match i.operation() {
        Operation::Packed(name) => match name {
            Movdqa | Movdqu | Movd | Movq | Movntdq | Lddqu if to_memory => plain(Kind::Store),
            Movd if xmm(i.operand(0)).is_none() => plain(Kind::General),
            Movq if xmm(i.operand(0)).is_none() => plain(Kind::GeneralWide),
            // Of a register's upper half nothing is moved, and the destination's is cleared.
            Movq if registers && xmm(i.operand(1)).is_some() => None,
            Movdqa | Movdqu | Movd | Movq | Lddqu => plain(Kind::Load),
            Pmovmskb => plain(Kind::Signs),
            Pshufd => plain(Kind::Shuffle),
            Pslldq => plain(Kind::ShiftLeft),
            Psrldq => plain(Kind::ShiftRight),
            name => lanes(name),
        },
        Operation::Sse(name) => match name {
            Movaps | Movapd | Movups | Movupd | Movss | Movsd | Movlps | Movlpd | Movntps
            | Movntpd
                if to_memory =>
            {
                plain(Kind::Store)
            }
            Movhps | Movhpd if to_memory => plain(Kind::StoreHigh),
            Movss if registers => plain(Kind::Lowest),
            Movsd if registers => plain(Kind::Low),
            Movaps | Movapd | Movups | Movupd | Movss | Movsd => plain(Kind::Load),
            Movlps | Movlpd => plain(Kind::Low),
            Movhps | Movhpd | Movlhps => plain(Kind::High),
            Movhlps => plain(Kind::HighToLow),
            Andps | Andpd => lanes(Pand),
            Andnps | Andnpd => lanes(Pandn),
            Orps | Orpd => lanes(Por),
            Xorps | Xorpd => lanes(Pxor),
            Unpcklps => lanes(Punpckldq),
            Unpckhps => lanes(Punpckhdq),
            Unpcklpd => lanes(Punpcklqdq),
            Unpckhpd => lanes(Punpckhqdq),
            Comiss => Some((Kind::Compare, Native::ComiSs as u8)),
            Comisd => Some((Kind::Compare, Native::ComiSd as u8)),
            Ucomiss => Some((Kind::Compare, Native::UcomiSs as u8)),
            Ucomisd => Some((Kind::Compare, Native::UcomiSd as u8)),
            Cvtsi2ss => Some((Kind::Convert, Native::Si2Ss as u8 + wide)),
            Cvtsi2sd => Some((Kind::Convert, Native::Si2Sd as u8 + wide)),
            Cvtss2sd => Some((Kind::Convert, Native::Ss2Sd as u8)),
            Cvtsd2ss => Some((Kind::Convert, Native::Sd2Ss as u8)),
            Cvttss2si => Some((Kind::Integer, Native::TruncateSs2Si as u8 + wide)),
            Cvttsd2si => Some((Kind::Integer, Native::TruncateSd2Si as u8 + wide)),
            name => Some((Kind::Arithmetic, arithmetic(name)? as u8)),
        },
        _ => None,
    }
}

/// Fills the micro-operation of an instruction in, if it is one of these.
pub(in super::super) fn translate(
    micro: &mut Micro,
    i: &Instruction,
    code: CodeSize,
    offset: u64,
) -> Option<u16> {
    let (kind, number) = kind(i)?;
    let stores = matches!(kind, Kind::Store | Kind::StoreHigh);
    let (destination, source) = if stores {
        (i.operand(1), i.operand(0))
    } else {
        (i.operand(0), i.operand(1))
    };
    micro.a = match kind {
        Kind::General | Kind::GeneralWide | Kind::Signs | Kind::Integer => {
            micro::general(destination)?
        }
        _ => xmm(destination)?,
    };
    let mut flat = 0;
    let mut constant = 0;
    let from = match source {
        Operand::Memory(memory) => {
            if micro::address(micro, &memory, i, code, offset)? == Place::Flat {
                flat = FLAT;
            }
            let unaligned = matches!(
                i.operation(),
                Operation::Packed(Packed::Movdqu | Packed::Lddqu)
                    | Operation::Sse(Sse::Movups | Sse::Movupd)
            );
            match i.memory_size() {
                4 => Source::Four,
                8 => Source::Eight,
                16 if unaligned => Source::Sixteen,
                16 => Source::Aligned,
                _ => return None,
            }
        }
        Operand::Immediate(value) => {
            constant = value as u8;
            Source::Constant
        }
        Operand::Register(register) => {
            micro.b = register.number;
            match register.class {
                RegisterClass::Xmm => Source::Xmm,
                RegisterClass::Gpr32 => Source::General,
                RegisterClass::Gpr64 => Source::GeneralWide,
                _ => return None,
            }
        }
        _ => return None,
    };
    if let Operand::Immediate(value) = i.operand(2) {
        constant = value as u8;
    }
    micro.immediate = i32::from_le_bytes([kind as u8, from as u8 | flat, number, constant]);
    Some(super::MEDIA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr::{RAX, RBX};
    use crate::cpu::soft::testing::Guest;
    use std::vec::Vec;

    /// The same number in all places.
    const SINGLES: u128 = 1 | 1 << 32 | 1 << 64 | 1 << 96;
    const DOUBLES: u128 = 1 | 1 << 64;
    /// PE set and masked, rounding to nearest; flushing must not matter.
    const SETTLED: u32 = 0x1fa0;

    fn numbers() -> impl FnMut() -> u64 {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        }
    }

    #[test]
    fn what_is_quick_is_what_the_processor_does() {
        let mut next = numbers();
        let mut quick_ones = 0;
        let mut exponents = numbers();
        // Ends of exponents, and a few in the middle, of either precision.
        let mut double = move || {
            let exponent = [
                0, 1, 2, 3, 511, 512, 895, 896, 897, 970, 1022, 1023, 1024, 1150, 2045, 2046, 2047,
            ][(exponents() % 17) as usize];
            let fraction = match exponents() % 4 {
                0 => 0,
                1 => u64::MAX,
                2 => u64::MAX << (exponents() % 52),
                _ => next(),
            };
            exponents() << 63 | exponent << 52 | fraction & ((1 << 52) - 1)
        };
        for _ in 0..20_000 {
            let (a, b) = (double(), double());
            let single = |value: u64| {
                u128::from((value >> 32 & 0x8000_0000 | value >> 29 & 0x7fff_ffff) as u32)
            };
            for number in 0..Native::SqrtPs as u8 {
                let native = Native::AddPs.plus(number);
                let (a, b) = match number & 3 {
                    0 => (single(a) * SINGLES, single(b) * SINGLES),
                    1 => (u128::from(a) * DOUBLES, u128::from(b) * DOUBLES),
                    2 => (single(a), single(b)),
                    _ => (a.into(), b.into()),
                };
                for control in [SETTLED, SETTLED | 0x8040] {
                    if let Some(value) = quick(native, a, b, control) {
                        let computed = native.compute(a, b, 0, control);
                        assert_eq!(
                            (value, computed.flags & !mxcsr::PRECISION),
                            (computed.xmm, 0),
                            "{native:?} {a:x} {b:x}"
                        );
                        quick_ones += 1;
                    }
                }
            }
            for native in [Native::Si2Sd, Native::Si2Sd64, Native::Ss2Sd, Native::Sd2Ss] {
                let b = if native == Native::Ss2Sd {
                    single(b)
                } else {
                    b.into()
                };
                for control in [SETTLED | 0x8040, 0x1f80] {
                    if let Some(value) = quick_convert(native, a.into(), b, control) {
                        let computed = native.compute(a.into(), b, b as u64, control);
                        assert_eq!(value, computed.xmm, "{native:?} {b:x}");
                        assert_eq!(computed.flags & !(control & 0x20), 0, "{native:?} {b:x}");
                        quick_ones += 1;
                    }
                }
            }
            for number in 0..4 {
                let native = Native::TruncateSs2Si.plus(number);
                let b = if number < 2 { single(b) } else { b.into() };
                for control in [SETTLED, 0x1f80] {
                    if let Some(value) = quick_integer(native, b, control) {
                        let computed = native.compute(0, b, 0, control);
                        assert_eq!(value, computed.general, "{native:?} {b:x}");
                        assert_eq!(computed.flags & !(control & 0x20), 0, "{native:?} {b:x}");
                        quick_ones += 1;
                    }
                }
            }
        }
        assert!(quick_ones > 200_000, "{quick_ones}");
        // What is rounded to the smallest normal number was tiny.
        let (a, b) = (0x3fef_ffff_ffff_ffff, 1 << 52);
        assert_eq!(quick(Native::MulSd, a, b, SETTLED), None);
        assert_eq!(Native::MulSd.compute(a, b, 0, SETTLED).flags, 0x30);
    }

    /// The state after an instruction, and a part of memory.
    fn after(code: &[u8], block: bool) -> (Vec<u64>, crate::cpu::FpuState, u64, [u8; 64]) {
        let mut guest = Guest::long();
        let mut next = numbers();
        let bytes: Vec<u8> = (0..64).map(|_| next() as u8).collect();
        guest.put(0x3000, &bytes);
        guest.change(|state| {
            state.cr4 |= 3 << 9;
            (state.gpr[RAX], state.gpr[RBX]) = (next(), 0x3010);
            state.fpu.mxcsr = SETTLED;
            for register in &mut state.fpu.xmm {
                *register = u128::from(next()) << 64 | u128::from(next());
            }
            // Ordinary numbers where arithmetic finds them.
            state.fpu.xmm[2] = u128::from(1.7f64.to_bits());
            state.fpu.xmm[3] = u128::from((-2.9f64).to_bits());
        });
        if block {
            guest.execute(code, 1);
        } else {
            guest.attempt(code).unwrap();
        }
        let state = guest.state();
        assert_eq!(state.rip, 0x1000 + code.len() as u64);
        (
            state.gpr.to_vec(),
            state.fpu,
            state.rflags,
            guest.get(0x3000),
        )
    }

    #[test]
    fn micro_operations_do_what_instructions_do() {
        // Opcodes after 0Fh, behind each prefix, with XMM2 and XMM3 or memory at RBX, and a constant
        // that some take.
        let prefixes: [&[u8]; 4] = [&[], &[0x66], &[0xf3], &[0xf2]];
        let mut tried = 0;
        for opcode in 0x10..=0xffu8 {
            for (prefix, rex) in prefixes
                .into_iter()
                .flat_map(|prefix| [(prefix, false), (prefix, true)])
            {
                for modrm in [0xd3, 0x13, 0x5b] {
                    let mut code = prefix.to_vec();
                    if rex {
                        code.push(0x48);
                    }
                    code.extend_from_slice(&[0x0f, opcode, modrm, 0x10, 0x10, 0x10, 0x10]);
                    let Ok(i) = crate::cpu::decode::decode(&code, CodeSize::Bits64) else {
                        continue;
                    };
                    code.truncate(i.length().into());
                    let mut micro = Micro::default();
                    if translate(&mut micro, &i, CodeSize::Bits64, 0).is_none() {
                        continue;
                    }
                    tried += 1;
                    assert_eq!(after(&code, true), after(&code, false), "{code:02x?} {i:?}");
                }
            }
        }
        assert!(tried > 400, "{tried}");
    }

    #[test]
    fn what_is_special_goes_the_long_way() {
        let mut guest = Guest::long();
        guest.change(|state| {
            state.cr4 |= 3 << 9;
            state.gpr[RBX] = 0x3ff8;
            state.fpu.xmm[0] = u128::MAX / 255;
        });
        // movups [rbx], xmm0; movups xmm1, [rbx]: in two pages
        guest.execute(&[0x0f, 0x11, 0x03, 0x0f, 0x10, 0x0b], 2);
        assert_eq!(guest.state().fpu.xmm[1], u128::MAX / 255);
        assert_eq!(guest.get(0x3ff8), [1; 16]);
        // movaps xmm0, [rbx] and, with CR0.TS, movups
        for (code, bit, vector) in [(0x28, 0, 13), (0x10, 8, 7)] {
            let mut guest = Guest::long();
            guest.change(|state| {
                state.cr4 |= 3 << 9;
                state.cr0 |= bit;
                state.gpr[RBX] = 0x3008;
            });
            guest.execute(&[0x0f, code, 0x03], 1);
            // Nobody takes it, and that is another exception.
            let raised = guest.cpu.raised.map(|raised| raised.vector_and_code().0);
            assert!(
                matches!(raised, Some(8 | 13)) || raised == Some(vector),
                "{raised:?}"
            );
            assert!(guest.state().events.triple_fault);
        }
    }
}
