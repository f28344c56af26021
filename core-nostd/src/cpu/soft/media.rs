//! SSE's control: when XMM registers and MXCSR may be used, and the instructions on MXCSR.
//!
//! Source: Intel SDM volume 1, 10.2.3; volume 3, 2.5 and 13.1 (CR0.EM, CR0.TS, CR4.OSFXSR).

use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::{Instruction, Operation, Sse};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};

/// MXCSR: bits that there are, as FXSAVE says.
pub(super) const MXCSR_MASK: u32 = 0xffff;

impl Cpu {
    /// What instructions on XMM registers and MXCSR raise.
    pub(super) fn check_sse(&mut self) -> Outcome {
        if self.cr0().contains(Cr0Flags::EMULATE_COPROCESSOR)
            || !self.cr4().contains(Cr4Flags::OSFXSR)
        {
            return self.undefined();
        }
        self.check_float()
    }

    /// LDMXCSR, STMXCSR.
    pub(super) fn media_control(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_sse()?;
        if i.operation() == Operation::Sse(Sse::Stmxcsr) {
            return self.write(bus, i, 0, self.fpu.mxcsr);
        }
        let mxcsr = self.read::<u32>(bus, i, 0)?;
        if mxcsr & !MXCSR_MASK != 0 {
            return self.protection();
        }
        self.fpu.mxcsr = mxcsr;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::cpu::soft::Exception;
    use crate::cpu::soft::testing::media_guest as guest;

    const GP: Result<(), Exception> = Err(Exception::GP0);
    const UD: Result<(), Exception> = Err(Exception::UD);

    #[test]
    fn mxcsr() {
        let mut guest = guest();
        let (ldmxcsr, stmxcsr) = ([0x0f, 0xae, 0x13], [0x0f, 0xae, 0x1b]);
        guest.put(0x3000, &0xffbf_u32.to_le_bytes());
        assert_eq!(guest.attempt(&ldmxcsr), Ok(()));
        assert_eq!(guest.state().fpu.mxcsr, 0xffbf);
        guest.put(0x3000, &0x1_0000u32.to_le_bytes());
        assert_eq!(guest.attempt(&ldmxcsr), GP);
        assert_eq!(guest.attempt(&stmxcsr), Ok(()));
        assert_eq!(guest.get::<4>(0x3000), [0xbf, 0xff, 0, 0]);
        guest.change(|state| state.cr4 &= !(1 << 9));
        assert_eq!(guest.attempt(&stmxcsr), UD);
    }
}
