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
pub(super) use native::{DEFAULT, Lanes, Native};

/// The low half of a register.
const LOW: u128 = u64::MAX as u128;

/// MXCSR, SDM volume 1, figure 10-3.
pub(super) mod mxcsr {
    /// Invalid operation, denormal operand, division by zero: found before anything is computed.
    pub(crate) const BEFORE: u32 = 0x07;
    /// Invalid operation.
    pub(crate) const INVALID: u32 = 1 << 0;
    /// Overflow.
    pub(crate) const OVERFLOW: u32 = 1 << 3;
    /// Underflow.
    pub(crate) const UNDERFLOW: u32 = 1 << 4;
    /// Precision: the result is inexact.
    pub(crate) const PRECISION: u32 = 1 << 5;
    /// Denormals are zeros.
    pub(crate) const DAZ: u32 = 1 << 6;
    /// Masks are so far above flags.
    pub(crate) const MASKS: u32 = 7;
    /// Rounding control, two bits.
    pub(crate) const ROUNDING: u32 = 13;
    /// Flush to zero.
    pub(crate) const FTZ: u32 = 1 << 15;
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
    pub(super) fn compare_scalar(&mut self, native: Native, a: u128, b: u128) -> Outcome {
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
pub(super) const fn arithmetic(name: Sse) -> Option<Native> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr::{RAX, RBX};
    use crate::cpu::soft::Exception;
    use crate::cpu::soft::testing::Guest;

    const XM: Result<(), Exception> = Err(Exception::SimdFloatingPoint);
    const GP: Result<(), Exception> = Err(Exception::GP0);
    /// MXCSR with all exceptions masked, and with none.
    const MASKED: u32 = 0x1f80;
    const UNMASKED: u32 = 0;

    fn double(value: f64) -> u128 {
        value.to_bits().into()
    }

    fn single(value: f32) -> u128 {
        value.to_bits().into()
    }

    /// In 64-bit mode with CR4.OSFXSR and CR4.OSXMMEXCPT, RBX = 3000h, and these registers.
    fn guest(mxcsr: u32, a: u128, b: u128) -> Guest {
        let mut guest = Guest::long();
        guest.change(|state| {
            state.cr4 |= 3 << 9;
            state.gpr[RBX] = 0x3000;
            state.fpu.mxcsr = mxcsr;
            (state.fpu.xmm[0], state.fpu.xmm[1]) = (a, b);
        });
        guest
    }

    /// What an instruction raises, and XMM0 and MXCSR's flags after it.
    fn run(code: &[u8], mxcsr: u32, a: u128, b: u128) -> (Result<(), Exception>, u128, u32) {
        let mut guest = guest(mxcsr, a, b);
        let raised = guest.attempt(code);
        let fpu = guest.state().fpu;
        assert_eq!(fpu.mxcsr & !0x3f, mxcsr & !0x3f);
        (raised, fpu.xmm[0], fpu.mxcsr & 0x3f)
    }

    const ADDSD: [u8; 4] = [0xf2, 0x0f, 0x58, 0xc1];
    const MULSD: [u8; 4] = [0xf2, 0x0f, 0x59, 0xc1];
    const DIVSD: [u8; 4] = [0xf2, 0x0f, 0x5e, 0xc1];
    const DIVPD: [u8; 4] = [0x66, 0x0f, 0x5e, 0xc1];

    #[test]
    fn scalar_arithmetic_keeps_the_upper_half() {
        let high = 5 << 64;
        let (raised, value, flags) = run(&ADDSD, MASKED, high | double(1.0), double(2.5));
        assert_eq!((raised, value, flags), (Ok(()), high | double(3.5), 0));
        let (_, value, flags) = run(&DIVSD, MASKED, double(1.0), double(3.0));
        assert_eq!((value, flags), (double(1.0 / 3.0), 0x20));
        // Rounding up, and flags stay set.
        let (_, value, flags) = run(&DIVSD, MASKED | 0x4001, double(1.0), double(3.0));
        assert_eq!((value, flags), (double(1.0 / 3.0) + 1, 0x21));
    }

    #[test]
    fn unmasked_exceptions_leave_the_destination() {
        let zero = double(0.0);
        assert_eq!(
            run(&DIVSD, UNMASKED, double(1.0), zero),
            (XM, double(1.0), 4)
        );
        assert_eq!(
            run(&DIVSD, UNMASKED, double(1.0), double(3.0)),
            (XM, double(1.0), 0x20)
        );
        // Found before anything is computed: the other number's inexact result is not told.
        let (a, b) = (double(1.0) << 64 | double(1.0), double(3.0) << 64 | zero);
        assert_eq!(run(&DIVPD, UNMASKED, a, b), (XM, a, 4));
        // Masked, it goes on.
        assert_eq!(run(&DIVPD, MASKED & !0x1000, a, b), (XM, a, 0x24));
        // Without CR4.OSXMMEXCPT.
        let mut guest = guest(UNMASKED, double(1.0), zero);
        guest.change(|state| state.cr4 &= !(1 << 10));
        assert_eq!(guest.attempt(&DIVSD), Err(Exception::UD));
        assert_eq!(guest.state().fpu.mxcsr, 4);
    }

    #[test]
    fn unmasked_underflow_is_any_tiny_result() {
        let (small, half) = (double(f64::MIN_POSITIVE), double(0.5));
        assert_eq!(
            run(&MULSD, MASKED, small, half),
            (Ok(()), double(f64::MIN_POSITIVE / 2.0), 0)
        );
        let unmasked = MASKED & !(1 << 11);
        assert_eq!(run(&MULSD, unmasked, small, half), (XM, small, 0x10));
        // FTZ is of no meaning then.
        assert_eq!(
            run(&MULSD, unmasked | 0x8000, small, half),
            (XM, small, 0x10)
        );
        assert_eq!(run(&MULSD, MASKED | 0x8000, small, half), (Ok(()), 0, 0x30));
    }

    #[test]
    fn precision_of_unmasked_overflow_has_any_exponent() {
        let (large, two) = (double(f64::MAX), double(2.0));
        assert_eq!(
            run(&MULSD, MASKED, large, two),
            (Ok(()), double(f64::INFINITY), 0x28)
        );
        let unmasked = MASKED & !(1 << 10);
        assert_eq!(run(&MULSD, unmasked, large, two), (XM, large, 8));
        assert_eq!(run(&MULSD, unmasked, large, double(2.5)), (XM, large, 0x28));
        // Sums, the second too small to matter.
        assert_eq!(run(&ADDSD, unmasked, large, large), (XM, large, 8));
        let tiny = unmasked | 0x4000;
        assert_eq!(run(&ADDSD, tiny, large, 1), (XM, large, 0x2a));
        // A tiny product of which bits are lost as a denormal number, but not with its own exponent.
        let unmasked = MASKED & !(1 << 11);
        let (a, b) = (double(f64::MIN_POSITIVE * 1.5), double(f64::EPSILON / 2.0));
        assert_eq!(run(&MULSD, unmasked, a, b), (XM, a, 0x10));
        // cvtsd2ss xmm0, xmm1
        let cvtsd2ss = [0xf2, 0x0f, 0x5a, 0xc1];
        assert_eq!(
            run(
                &cvtsd2ss,
                MASKED & !(1 << 10),
                7,
                double(f64::from(f32::MAX) * 2.0)
            ),
            (XM, 7, 8)
        );
    }

    #[test]
    fn comparisons() {
        let nan = double(f64::NAN);
        // cmpnltsd xmm0, xmm1 keeps the upper half; cmpltsd signals.
        let high = 9 << 64;
        assert_eq!(
            run(&[0xf2, 0x0f, 0xc2, 0xc1, 5], MASKED, high | nan, nan),
            (Ok(()), high | LOW, 1)
        );
        assert_eq!(
            run(&[0xf2, 0x0f, 0xc2, 0xc1, 4], MASKED, high | nan, nan),
            (Ok(()), high | LOW, 0)
        );
        for (a, b, flags) in [
            (1.0, 2.0, 0x01),
            (2.0, 1.0, 0),
            (1.0, 1.0, 0x40),
            (f64::NAN, 1.0, 0x45),
        ] {
            let mut guest = guest(MASKED, double(a), double(b));
            guest.change(|state| state.rflags |= 0x8d5);
            assert_eq!(guest.attempt(&[0x66, 0x0f, 0x2f, 0xc1]), Ok(()));
            let state = guest.state();
            assert_eq!(state.rflags & STATUS, flags);
            assert_eq!(state.fpu.mxcsr & 1, u32::from(a.is_nan()));
        }
        // An unmasked one leaves EFLAGS.
        let mut guest = guest(UNMASKED, nan, nan);
        guest.change(|state| state.rflags |= 0x8d5);
        assert_eq!(guest.attempt(&[0x66, 0x0f, 0x2f, 0xc1]), XM);
        assert_eq!(guest.state().rflags & STATUS, 0x8d5);
    }

    #[test]
    fn conversions_at_the_ends_of_integers() {
        for (value, code, result, flags) in [
            (2147483648.0, 0x2c, 0x8000_0000u64, 1),
            (-2147483648.9, 0x2c, 0x8000_0000, 0x20),
            (2.5, 0x2d, 2, 0x20),
            (3.5, 0x2d, 4, 0x20),
            (f64::NAN, 0x2d, 0x8000_0000, 1),
        ] {
            let mut guest = guest(MASKED, 0, double(value));
            guest.change(|state| state.gpr[RAX] = u64::MAX);
            assert_eq!(guest.attempt(&[0xf2, 0x0f, code, 0xc1]), Ok(()));
            let state = guest.state();
            assert_eq!((state.gpr[RAX], state.fpu.mxcsr & 0x3f), (result, flags));
        }
        // cvttsd2si rax, xmm1; cvtsi2sd xmm0, rbx
        let mut guest = guest(MASKED, 0, double(2147483648.0));
        assert_eq!(guest.attempt(&[0xf2, 0x48, 0x0f, 0x2c, 0xc1]), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 1 << 31);
        assert_eq!(guest.attempt(&[0xf2, 0x48, 0x0f, 0x2a, 0xc3]), Ok(()));
        assert_eq!(guest.state().fpu.xmm[0], double(12288.0));
    }

    #[test]
    fn conversions_go_over_to_mmx_before_arithmetic() {
        let mut guest = guest(UNMASKED, 0, single(0.5));
        guest.change(|state| {
            state.fpu.fsw = 3 << 11;
            state.fpu.ftw = 0;
        });
        // cvtps2pi mm2, xmm1
        assert_eq!(guest.attempt(&[0x0f, 0x2d, 0xd1]), XM);
        let fpu = guest.state().fpu;
        assert_eq!((fpu.fsw, fpu.ftw, fpu.st[2]), (0, 0xff, [0; 10]));
        // Of the two from memory only the one to single precision does so.
        for (code, fsw) in [
            ([0x0f, 0x2a, 0x03].as_slice(), 0),
            (&[0x66, 0x0f, 0x2a, 0x03], 3),
        ] {
            guest.change(|state| state.fpu.fsw = 3 << 11);
            assert_eq!(guest.attempt(code), Ok(()));
            assert_eq!(guest.state().fpu.fsw >> 11, fsw);
        }
    }

    #[test]
    fn an_unaligned_operand_of_16_bytes_is_checked() {
        let mut guest = guest(MASKED, 0, 0).user();
        guest.change(|state| {
            state.cr0 |= 1 << 18;
            state.rflags |= 1 << 18;
            state.gpr[RBX] = 0x3008;
        });
        // movups xmm0, [rbx]; addps xmm0, [rbx]; addsd xmm0, [rbx]
        assert_eq!(
            guest.attempt(&[0x0f, 0x10, 0x03]),
            Err(Exception::AlignmentCheck)
        );
        assert_eq!(guest.attempt(&[0x0f, 0x58, 0x03]), GP);
        assert_eq!(guest.attempt(&[0xf2, 0x0f, 0x58, 0x03]), Ok(()));
        guest.change(|state| state.rflags &= !(1 << 18));
        assert_eq!(guest.attempt(&[0x0f, 0x10, 0x03]), Ok(()));
    }

    #[test]
    fn checks_in_order() {
        let mut guest = guest(UNMASKED, 0, 0);
        // divpd xmm0, [rbx], unaligned and of zeros
        let divpd = [0x66, 0x0f, 0x5e, 0x03];
        guest.change(|state| state.gpr[RBX] = 0x20_0001);
        assert_eq!(guest.attempt(&divpd), GP);
        guest.change(|state| state.gpr[RBX] = 0x20_0000);
        assert_eq!(guest.attempt(&divpd), Err(Exception::PageFault(0)));
        guest.change(|state| state.cr0 |= 8);
        assert_eq!(guest.attempt(&divpd), Err(Exception::DeviceNotAvailable));
        guest.change(|state| state.cr4 &= !(1 << 9));
        assert_eq!(guest.attempt(&divpd), Err(Exception::UD));
    }
}
