//! Conversions between floating-point numbers and integers, and between precisions.
//!
//! Source: Intel SDM volume 2, CVT*; volume 1, 4.8.4 and 11.4.1.6; for those on MMX registers 9.6.2 and
//! volume 2, tables 23-4 to 23-6.
//!
//! Conversions to MMX registers, and from them, switch the x87 to MMX as other MMX instructions do;
//! so does CVTPI2PS from memory, but not CVTPI2PD.

use super::super::packed::Alignment;
use super::super::{Bus, Cpu, Outcome};
use super::LOW;
use super::native::Native;
use crate::cpu::decode::{Instruction, Operand, RegisterClass, Size, Sse};

/// Whether it is one.
pub(super) const fn is_conversion(name: Sse) -> bool {
    use Sse::*;
    matches!(
        name,
        Cvtdq2pd
            | Cvtdq2ps
            | Cvtpd2dq
            | Cvtpd2pi
            | Cvtpd2ps
            | Cvtpi2pd
            | Cvtpi2ps
            | Cvtps2dq
            | Cvtps2pd
            | Cvtps2pi
            | Cvtsd2si
            | Cvtsd2ss
            | Cvtsi2sd
            | Cvtsi2ss
            | Cvtss2sd
            | Cvtss2si
            | Cvttpd2dq
            | Cvttpd2pi
            | Cvttps2dq
            | Cvttps2pi
            | Cvttsd2si
            | Cvttss2si
    )
}

impl Cpu {
    /// CVT*, after the checks of all instructions on XMM registers.
    pub(super) fn convert(&mut self, bus: &mut Bus<'_>, i: &Instruction, name: Sse) -> Outcome {
        use Sse::*;
        let from_mmx = matches!(name, Cvtpi2pd | Cvtpi2ps);
        let to_mmx = matches!(name, Cvtpd2pi | Cvtps2pi | Cvttpd2pi | Cvttps2pi);
        let in_memory = matches!(i.operand(1), Operand::Memory(_));
        let mmx = to_mmx || from_mmx && !(name == Cvtpi2pd && in_memory);
        if mmx {
            self.check_mmx()?;
        }
        let b = self.vector(bus, i, 1, Alignment::Natural)?;
        let a = match i.operand(0) {
            Operand::Register(register) if register.class == RegisterClass::Xmm => {
                self.fpu.xmm[usize::from(register.number % 16)]
            }
            _ => 0,
        };
        let wide = u8::from(i.operand_size() == Size::Qword);
        let native = match name {
            Cvtdq2pd | Cvtpi2pd => Native::Dq2Pd,
            Cvtdq2ps | Cvtpi2ps => Native::Dq2Ps,
            Cvtpd2dq | Cvtpd2pi => Native::Pd2Dq,
            Cvttpd2dq | Cvttpd2pi => Native::TruncatePd2Dq,
            Cvtps2dq | Cvtps2pi => Native::Ps2Dq,
            Cvttps2dq | Cvttps2pi => Native::TruncatePs2Dq,
            Cvtps2pd => Native::Ps2Pd,
            Cvtpd2ps => Native::Pd2Ps,
            Cvtss2sd => Native::Ss2Sd,
            Cvtsd2ss => Native::Sd2Ss,
            Cvtsi2ss => Native::Si2Ss.plus(wide),
            Cvtsi2sd => Native::Si2Sd.plus(wide),
            Cvtss2si => Native::Ss2Si.plus(wide),
            Cvtsd2si => Native::Sd2Si.plus(wide),
            Cvttss2si => Native::TruncateSs2Si.plus(wide),
            Cvttsd2si => Native::TruncateSd2Si.plus(wide),
            _ => return self.undefined(),
        };
        // Numbers that the instruction does not have are zeros, which convert to zeros.
        let b = match name {
            Cvtpi2ps | Cvtps2pi | Cvttps2pi => b & LOW,
            _ => b,
        };
        // Arithmetic that raises an exception comes too late to keep it from happening.
        if mmx {
            self.use_mmx();
        }
        let computed = self.native(native, a, b, b as u64);
        self.settle(computed.flags)?;
        let value = match name {
            Cvtpi2ps => a & !LOW | computed.xmm & LOW,
            Cvtss2si | Cvtsd2si | Cvttss2si | Cvttsd2si => computed.general.into(),
            _ => computed.xmm,
        };
        self.set_vector(bus, i, Alignment::Natural, value)
    }
}
