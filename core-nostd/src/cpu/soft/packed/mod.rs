//! Instructions on MMX and XMM registers: moves, logic and integers.
//!
//! Source: Intel SDM volume 2 for each instruction; volume 1, 9.2 (MMX registers), 11.4 and 12. There
//! are all of MMX, the integer part of SSE to SSE4.2, SSSE3, AES, SHA and PCLMULQDQ; `sse` has what is
//! about floating-point numbers. This file has operands and dispatch, `lanes` integers side by side,
//! `text` comparisons of strings, `crypto` ciphers and hashes.
//!
//! All of it is integer code: no instruction is there by grace of the processor below, nor gives
//! another result on another one.

pub(crate) mod crypto;
mod lanes;
#[cfg(test)]
#[allow(unsafe_code)]
mod tests;
mod text;

use self::lanes::{compute, each_signed};
pub(super) use self::lanes::{element, interleave, shuffle, signs};
use self::text::{Control, Text};
use super::access::Intent;
use super::{Bus, Cpu, Outcome, data_check};
use crate::cpu::alu::LazyFlags;
use crate::cpu::decode::{Instruction, Operand, Packed, RegisterClass, SegmentRegister, Size};
use crate::cpu::gpr::{RAX, RCX, RDX};
use x86_64::registers::rflags::RFlags;

const LOW: u128 = u64::MAX as u128;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// What an operand's memory must be aligned to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alignment {
    /// Sixteen bytes, if it has as many.
    Natural,
    /// Nothing.
    Any,
}

/// Bits of the element that is put in or taken out.
const fn lane(name: Packed) -> u32 {
    match name {
        Packed::Pinsrb | Packed::Pextrb => 8,
        Packed::Pinsrw | Packed::Pextrw => 16,
        Packed::Pinsrd | Packed::Pextrd => 32,
        _ => 64,
    }
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
            Movd | Movdqa | Movdqu | Lddqu | Movntdq | Movntdqa | Movntq => {
                self.vector(bus, i, 1, alignment)?
            }
            Pblendvb => {
                let b = self.vector(bus, i, 1, alignment)?;
                let a = self.vector(bus, i, 0, alignment)?;
                let chosen = each_signed(8, self.fpu.xmm[0], 0, |mask, _| mask >> 7);
                a & !chosen | b & chosen
            }
            Movq | Movq2dq | Movdq2q => self.vector(bus, i, 1, alignment)? & LOW,
            Pmovmskb => signs(8, width, self.vector(bus, i, 1, alignment)?),
            Pinsrb | Pinsrw | Pinsrd | Pinsrq => {
                let bits = lane(name);
                let value = element(bits, self.vector(bus, i, 1, alignment)?, 0);
                let at = bits * (u32::from(by) % (width / bits));
                let rest = !(u128::from(u64::MAX >> (64 - bits)) << at);
                self.vector(bus, i, 0, alignment)? & rest | u128::from(value) << at
            }
            Pextrb | Pextrw | Pextrd | Pextrq => {
                let bits = lane(name);
                let number = u32::from(by) % (width / bits);
                element(bits, self.vector(bus, i, 1, alignment)?, number).into()
            }
            Ptest => {
                let b = self.vector(bus, i, 1, alignment)?;
                let a = self.vector(bus, i, 0, alignment)?;
                let mut flags = RFlags::empty();
                flags.set(RFlags::ZERO_FLAG, a & b == 0);
                flags.set(RFlags::CARRY_FLAG, !a & b == 0);
                self.flags = LazyFlags::from_rflags(flags.bits());
                return Ok(());
            }
            Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm => {
                return self.compare_text(bus, i, name, Control(by));
            }
            _ => {
                let b = self.vector(bus, i, 1, alignment)?;
                let a = self.vector(bus, i, 0, alignment)?;
                let xmm0 = self.fpu.xmm[0];
                let value = compute(name, width, a, b, by)
                    .or_else(|| crypto::compute(name, a, b, by, xmm0));
                match value {
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

    /// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: the index goes to ECX, the mask to XMM0.
    fn compare_text(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        name: Packed,
        control: Control,
    ) -> Outcome {
        let characters = [
            self.vector(bus, i, 0, Alignment::Any)?,
            self.vector(bus, i, 1, Alignment::Any)?,
        ];
        let explicit = matches!(name, Packed::Pcmpestri | Packed::Pcmpestrm);
        let wide = i.operand_size() == Size::Qword;
        let text = |characters, register| Text {
            characters,
            length: if explicit {
                control.explicit(self.register(register), wide)
            } else {
                control.implicit(characters)
            },
        };
        let (first, second) = (text(characters[0], RAX), text(characters[1], RDX));
        let matches = text::compare(control, first, second);
        self.flags = matches.flags;
        if matches!(name, Packed::Pcmpestri | Packed::Pcmpistri) {
            self.set_register(RCX, matches.index());
        } else {
            self.fpu.xmm[0] = matches.mask();
        }
        Ok(())
    }

    /// MASKMOVQ, MASKMOVDQU: bytes whose mask has its sign set.
    fn masked_store(&mut self, bus: &mut Bus<'_>, i: &Instruction, width: u32) -> Outcome {
        let value = self.vector(bus, i, 1, Alignment::Any)?;
        let mask = self.vector(bus, i, 2, Alignment::Any)?;
        let (segment, offset) = self.memory_at(i)?;
        let length = width as usize / 8;
        // Whatever the mask: implementations may, and the processors that were looked at do, eight
        // bytes at a time. Only what is stored meets breakpoints.
        let checks = self.data_checks;
        self.data_checks &= data_check::ALIGNMENT;
        let checked = (0..length).step_by(8).try_for_each(|at| {
            let offset = offset.wrapping_add(at as u64) & i.address_size().mask();
            self.check_access(bus, segment, offset, 8, Intent::Write)
        });
        self.data_checks = checks;
        checked?;
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
