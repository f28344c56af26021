//! SSE to SSE4.1 on floating-point numbers: operands, MXCSR, exceptions; moves and shuffles.
//!
//! Source: Intel SDM volume 1, 10.2.3 (MXCSR), 11.5 (exceptions), E.4 (their details); volume 2 for
//! each instruction, and its tables of exceptions by class (2.4). Files:
//!
//! - `native`: the host's SSE and SSE2 instructions, which compute;
//! - `exceptions`: what MXCSR's masks make of the flags;
//! - `convert`: conversions, and the way from the x87 to MMX registers that some of them take;
//! - `compose`: instructions after SSE2, made of several of the host's or of integer arithmetic.
//!
//! Results are the host processor's own, bit by bit; RCP and RSQRT approximate as it does. MXCSR's
//! masks are not the host's business: operations run with all exceptions masked, and what the flags
//! say is looked at afterwards. Nothing else is left to the host, so that instructions newer than SSE2
//! are there on every host.
//!
//! An instruction checks, in this order: #UD and #NM; a pending exception of the x87 (#MF), if it uses
//! MMX registers; its memory operand, be it #GP for alignment to 16 bytes or #AC; arithmetic.

mod compose;
mod convert;
mod exceptions;
mod native;

use super::packed::{Alignment, element, interleave, shuffle, signs};
use super::{Bus, Cpu, Outcome};
use crate::cpu::alu::{LazyFlags, STATUS};
use crate::cpu::decode::{Instruction, Operand, Sse};
use native::Native;

/// The low half of a register.
const LOW: u128 = u64::MAX as u128;

/// MXCSR, SDM volume 1, figure 10-3.
mod mxcsr {
    /// Invalid operation, denormal operand, division by zero: found before anything is computed.
    pub(super) const BEFORE: u32 = 0x07;
    /// Invalid operation.
    pub(super) const INVALID: u32 = 1 << 0;
    /// Overflow.
    pub(super) const OVERFLOW: u32 = 1 << 3;
    /// Underflow.
    pub(super) const UNDERFLOW: u32 = 1 << 4;
    /// Precision: the result is inexact.
    pub(super) const PRECISION: u32 = 1 << 5;
    /// Denormals are zeros.
    pub(super) const DAZ: u32 = 1 << 6;
    /// Masks are so far above flags.
    pub(super) const MASKS: u32 = 7;
    /// Rounding control, two bits.
    pub(super) const ROUNDING: u32 = 13;
    /// Flush to zero.
    pub(super) const FTZ: u32 = 1 << 15;
}

impl Cpu {
    /// CMPccPS and its like: the predicate is in the immediate's low bits.
    fn compare_packed(&mut self, native: Native, a: u128, b: u128, by: u8) -> Outcome<u128> {
        let result = self.one(native.plus(by & 3), a, b)?;
        let written = match native {
            Native::EqualSs => 0xffff_ffff,
            Native::EqualSd => LOW,
            _ => u128::MAX,
        };
        Ok(if by & 4 != 0 {
            result ^ written
        } else {
            result
        })
    }

    /// COMISS and its like: ZF, PF and CF tell the order.
    fn compare_scalar(&mut self, native: Native, a: u128, b: u128) -> Outcome {
        let computed = self.native(native, a, b, 0);
        self.settle(computed.flags)?;
        self.flags = LazyFlags::from_rflags(computed.general & STATUS);
        Ok(())
    }

    /// Instructions on floating-point numbers in XMM registers.
    pub(super) fn media(&mut self, bus: &mut Bus<'_>, i: &Instruction, name: Sse) -> Outcome {
        use Sse::*;
        if matches!(name, Ldmxcsr | Stmxcsr) {
            return self.media_control(bus, i);
        }
        self.check_sse()?;
        if convert::is_conversion(name) {
            return self.convert(bus, i, name);
        }
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
            Movshdup => shuffle(32, b, 0b11_11_01_01),
            Movsldup => shuffle(32, b, 0b10_10_00_00),
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
            Comiss => return self.compare_scalar(Native::ComiSs, a, b),
            Comisd => return self.compare_scalar(Native::ComiSd, a, b),
            Ucomiss => return self.compare_scalar(Native::UcomiSs, a, b),
            Ucomisd => return self.compare_scalar(Native::UcomiSd, a, b),
            Cmpps => self.compare_packed(Native::EqualPs, a, b, by)?,
            Cmppd => self.compare_packed(Native::EqualPd, a, b, by)?,
            Cmpss => self.compare_packed(Native::EqualSs, a, b, by)?,
            Cmpsd => self.compare_packed(Native::EqualSd, a, b, by)?,
            _ => match arithmetic(name) {
                Some(native) => self.one(native, a, b)?,
                None => self.composed(name, a, b, by, both_registers)?,
            },
        };
        self.set_vector(bus, i, alignment, value)
    }
}

/// The host's instruction of the same name, if SSE or SSE2 has it.
const fn arithmetic(name: Sse) -> Option<Native> {
    use Sse::*;
    Some(match name {
        Addps => Native::AddPs,
        Addpd => Native::AddPd,
        Addss => Native::AddSs,
        Addsd => Native::AddSd,
        Subps => Native::SubPs,
        Subpd => Native::SubPd,
        Subss => Native::SubSs,
        Subsd => Native::SubSd,
        Mulps => Native::MulPs,
        Mulpd => Native::MulPd,
        Mulss => Native::MulSs,
        Mulsd => Native::MulSd,
        Divps => Native::DivPs,
        Divpd => Native::DivPd,
        Divss => Native::DivSs,
        Divsd => Native::DivSd,
        Minps => Native::MinPs,
        Minpd => Native::MinPd,
        Minss => Native::MinSs,
        Minsd => Native::MinSd,
        Maxps => Native::MaxPs,
        Maxpd => Native::MaxPd,
        Maxss => Native::MaxSs,
        Maxsd => Native::MaxSd,
        Sqrtps => Native::SqrtPs,
        Sqrtpd => Native::SqrtPd,
        Sqrtss => Native::SqrtSs,
        Sqrtsd => Native::SqrtSd,
        Rcpps => Native::RcpPs,
        Rcpss => Native::RcpSs,
        Rsqrtps => Native::RsqrtPs,
        Rsqrtss => Native::RsqrtSs,
        _ => return None,
    })
}
