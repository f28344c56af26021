//! The x87: when it may be used, its control instructions, and MMX's view of its registers.
//!
//! Source: Intel SDM volume 1, chapter 8; volume 2 for each instruction; volume 3, 2.5 and 13.1 (CR0.EM,
//! CR0.TS), 12.2 (MMX).
//!
//! With CR0.NE clear a pending exception of the x87 waits for ever: no FERR# leads to the interrupt
//! controller. Selectors of the x87's last instruction and operand are saved as 0, as newer
//! processors do.

use super::{Bus, Cpu, Exception, Outcome};
use crate::cpu::decode::{Fpu, Instruction};
use x86_64::registers::control::Cr0Flags;

/// x87 control word after FNINIT.
pub(super) const FCW_INIT: u16 = 0x37f;
/// x87 control word: bits that there are, and the one that is always set.
const FCW_BITS: u16 = 0x1f7f;
const FCW_SET: u16 = 0x40;
/// x87 control and status word: the six exceptions.
const EXCEPTIONS: u16 = 0x3f;
/// x87 status word: an unmasked exception is pending, in both of its places.
const PENDING: u16 = 1 << 15 | 1 << 7;
/// x87 status word: what FNCLEX clears.
const FNCLEX: u16 = 0x80ff;
/// x87 status word: the top of the stack.
const TOP: u16 = 7 << 11;

impl Cpu {
    /// #NM of x87 instructions, FXSAVE and their like.
    pub(super) fn check_float(&mut self) -> Outcome {
        if self
            .cr0()
            .intersects(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED)
        {
            return Err(self.raise(Exception::DeviceNotAvailable));
        }
        Ok(())
    }

    /// #MF that an earlier x87 instruction left behind.
    pub(super) fn check_pending_float(&mut self) -> Outcome {
        if self.fpu.fsw & PENDING != 0 && self.cr0().contains(Cr0Flags::NUMERIC_ERROR) {
            return Err(self.raise(Exception::FloatingPoint));
        }
        Ok(())
    }

    /// What instructions on MMX registers raise.
    pub(super) fn check_mmx(&mut self) -> Outcome {
        if self.cr0().contains(Cr0Flags::EMULATE_COPROCESSOR) {
            return self.undefined();
        }
        self.check_float()?;
        self.check_pending_float()
    }

    /// An instruction uses MMX registers: they are the x87's registers by physical number.
    pub(super) fn use_mmx(&mut self) {
        self.clear_top();
        self.fpu.ftw = 0xff;
    }

    /// Makes physical register 0 the top of the stack, leaving each where it is.
    fn clear_top(&mut self) {
        let top = usize::from((self.fpu.fsw & TOP) >> 11);
        self.fpu.st.rotate_right(top);
        self.fpu.fsw &= !TOP;
    }

    /// An MMX register, wherever the top of the stack is.
    pub(super) fn mmx(&self, number: u8) -> u64 {
        let top = (self.fpu.fsw & TOP) >> 11;
        let register = &self.fpu.st[usize::from(number.wrapping_sub(top as u8) % 8)];
        u64::from_le_bytes(core::array::from_fn(|i| register[i]))
    }

    /// Sets an MMX register, after [`Cpu::use_mmx`]: its exponent's bits become ones.
    pub(super) fn set_mmx(&mut self, number: u8, value: u64) {
        let register = &mut self.fpu.st[usize::from(number % 8)];
        *register = [0xff; 10];
        register[..8].copy_from_slice(&value.to_le_bytes());
    }

    /// Sets the x87's control and status words, and whether an exception is pending by them.
    pub(super) fn set_float_words(&mut self, fcw: u16, fsw: u16) {
        self.fpu.fcw = fcw & FCW_BITS | FCW_SET;
        let pending = fsw & !self.fpu.fcw & EXCEPTIONS != 0;
        self.fpu.fsw = fsw & !PENDING | if pending { PENDING } else { 0 };
    }

    /// The x87 as FNINIT leaves it; the registers keep what they hold.
    pub(super) fn initialise_float(&mut self) {
        self.clear_top();
        (self.fpu.fcw, self.fpu.fsw, self.fpu.ftw) = (FCW_INIT, 0, 0);
        (self.fpu.fop, self.fpu.fip, self.fpu.fdp) = (0, 0, 0);
    }

    /// x87 instructions.
    pub(super) fn float(&mut self, bus: &mut Bus<'_>, i: &Instruction, name: Fpu) -> Outcome {
        self.check_float()?;
        match name {
            Fpu::Fninit => self.initialise_float(),
            Fpu::Fnclex => self.fpu.fsw &= !FNCLEX,
            Fpu::Fnstcw => self.write(bus, i, 0, self.fpu.fcw)?,
            Fpu::Fnstsw => self.write(bus, i, 0, self.fpu.fsw)?,
            // Of coprocessors before the 387.
            Fpu::Fneni | Fpu::Fndisi | Fpu::Fnsetpm => {}
            Fpu::Fnop => self.check_pending_float()?,
            Fpu::Fldcw => {
                self.check_pending_float()?;
                let fcw = self.read::<u16>(bus, i, 0)?;
                self.set_float_words(fcw, self.fpu.fsw);
            }
            _ => return self.undefined(),
        }
        Ok(())
    }

    /// EMMS: all registers are empty.
    pub(super) fn empty_mmx(&mut self) -> Outcome {
        self.check_mmx()?;
        self.clear_top();
        self.fpu.ftw = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::FpuState;
    use crate::cpu::gpr::{RAX, RBX};
    use crate::cpu::soft::testing::Guest;

    const UD: Result<(), Exception> = Err(Exception::UD);
    const NM: Result<(), Exception> = Err(Exception::DeviceNotAvailable);

    /// In 64-bit mode with RBX = 3000h, CR4.OSFXSR and CR4.OSXSAVE.
    fn guest() -> Guest {
        let mut guest = Guest::long();
        guest.change(|state| {
            state.cr4 |= 1 << 9 | 1 << 18;
            state.gpr[RBX] = 0x3000;
            state.xcr0 = 0x203;
        });
        guest
    }

    fn filled() -> FpuState {
        let mut fpu = FpuState {
            fcw: 0x27f,
            fsw: 5 << 11,
            ftw: 0x81,
            fop: 0x123,
            fip: 0xffff_8000_1111_2222,
            fdp: 0x7fff_3333_4444,
            mxcsr: 0x1fa0,
            ..FpuState::default()
        };
        for number in 0..16u8 {
            fpu.xmm[usize::from(number)] = u128::MAX / 255 * u128::from(number + 1);
            fpu.st[usize::from(number % 8)] = [number | 0x40; 10];
        }
        fpu
    }

    #[test]
    fn control_words() {
        let mut guest = guest();
        // fldcw [rbx]; fnstcw [rbx]
        for (word, kept) in [(0, 0x40), (0xffff, 0x1f7f), (0x37f, 0x37f)] {
            guest.put(0x3000, &u16::to_le_bytes(word));
            assert_eq!(guest.attempt(&[0xd9, 0x2b]), Ok(()));
            assert_eq!(guest.attempt(&[0xd9, 0x3b]), Ok(()));
            assert_eq!(guest.get::<2>(0x3000), u16::to_le_bytes(kept));
        }
        // An exception that is unmasked becomes pending, and FNINIT and FNCLEX forget it.
        guest.change(|state| {
            state.fpu.fsw = 0x3804;
            state.cr0 |= 1 << 5;
        });
        guest.put(0x3000, &[0x7b, 3]);
        assert_eq!(guest.attempt(&[0xd9, 0x2b]), Ok(()));
        assert_eq!(guest.state().fpu.fsw, 0xb884);
        let mf = Err(Exception::FloatingPoint);
        assert_eq!(guest.attempt(&[0x9b]), mf);
        assert_eq!(guest.attempt(&[0xd9, 0xd0]), mf);
        assert_eq!(guest.attempt(&[0xd9, 0x2b]), mf);
        assert_eq!(guest.attempt(&[0x0f, 0xef, 0xc0]), mf);
        // fnstsw ax; fnclex; fninit
        assert_eq!(guest.attempt(&[0xdf, 0xe0]), Ok(()));
        assert_eq!(guest.state().gpr[RAX] & 0xffff, 0xb884);
        assert_eq!(guest.attempt(&[0xdb, 0xe2]), Ok(()));
        assert_eq!(guest.state().fpu.fsw, 0x3800);
        guest.change(|state| state.fpu = filled());
        assert_eq!(guest.attempt(&[0xdb, 0xe3]), Ok(()));
        let fpu = guest.state().fpu;
        assert_eq!((fpu.fcw, fpu.fsw, fpu.ftw, fpu.fip), (0x37f, 0, 0, 0));
        // Physical register 5 was the top.
        assert_eq!(fpu.st[5], filled().st[0]);
        // fld1 is not here; with CR0.EM or TS none is.
        assert_eq!(guest.attempt(&[0xd9, 0xe8]), UD);
        for bit in [2, 3] {
            guest.change(|state| state.cr0 = state.cr0 & !0xc | 1 << bit);
            assert_eq!(guest.attempt(&[0xdb, 0xe3]), NM);
            assert_eq!(guest.attempt(&[0x0f, 0xae, 0x03]), NM);
        }
    }
}
