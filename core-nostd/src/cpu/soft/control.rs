//! Near transfers of control, and conditions.
//!
//! Source: Intel SDM volume 2, CALL, JMP, RET, Jcc, LOOP. A target beyond the limit of CS, or one
//! that is not canonical, is a fault of the instruction that jumps.

use super::access::sized;
use super::{Bus, Cpu, Outcome};
use crate::cpu::alu;
use crate::cpu::decode::{Instruction, Operand, Operation, SegmentRegister, Size};
use crate::cpu::gpr::RCX;

impl Cpu {
    /// Goes on at a target, cut to the operand size, if code may be there.
    pub(super) fn jump(&mut self, target: u64, size: Size) -> Outcome {
        let target = target & size.mask();
        self.check_target(target)?;
        self.next_rip = target;
        Ok(())
    }

    /// Whether code may be at a target.
    pub(super) fn check_target(&mut self, target: u64) -> Outcome {
        let good = if self.bits64() {
            self.canonical(target)
        } else {
            target <= u64::from(self.segment(SegmentRegister::Cs).limit)
        };
        if good { Ok(()) } else { self.protection() }
    }

    /// Whether a linear address is canonical: bits above the highest that are translated equal it.
    pub(super) fn canonical(&self, address: u64) -> bool {
        let unused = if self
            .cr4()
            .contains(x86_64::registers::control::Cr4Flags::L5_PAGING)
        {
            7
        } else {
            16
        };
        ((address << unused) as i64 >> unused) as u64 == address
    }

    /// The target of a relative or an absolute near branch.
    fn target(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome<u64> {
        match i.operand(0) {
            Operand::Relative(distance) => Ok(self.next_rip.wrapping_add(distance as u64)),
            _ => {
                sized!(i.operand_size(), W => self.read::<W>(bus, i, 0).map(alu::Word::zero_extend))
            }
        }
    }

    /// JMP.
    pub(super) fn jump_near(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let target = self.target(bus, i)?;
        self.jump(target, i.operand_size())
    }

    /// CALL.
    pub(super) fn call_near(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let target = self.target(bus, i)? & i.operand_size().mask();
        self.check_target(target)?;
        self.push_sized(bus, i.operand_size(), self.next_rip)?;
        self.next_rip = target;
        Ok(())
    }

    /// RET.
    pub(super) fn return_near(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let released = u64::from(self.read::<u16>(bus, i, 0)?);
        let before = self.registers[crate::cpu::gpr::RSP];
        let target = self.pop_sized(bus, i.operand_size())?;
        if let Err(raised) = self.jump(target, i.operand_size()) {
            self.registers[crate::cpu::gpr::RSP] = before;
            return Err(raised);
        }
        self.set_stack_pointer(self.stack_pointer().wrapping_add(released));
        Ok(())
    }

    /// Jcc.
    pub(super) fn jump_if(&mut self, i: &Instruction, holds: bool) -> Outcome {
        match i.operand(0) {
            Operand::Relative(distance) if holds => self.jump(
                self.next_rip.wrapping_add(distance as u64),
                i.operand_size(),
            ),
            _ => Ok(()),
        }
    }

    /// LOOP, LOOPE, LOOPNE, JCXZ: counts at the address size.
    pub(super) fn count_and_jump(&mut self, i: &Instruction) -> Outcome {
        let size = i.address_size();
        if i.operation() == Operation::Jcxz {
            return self.jump_if(i, self.pointer(RCX, size) == 0);
        }
        let before = self.registers[RCX];
        self.advance(RCX, size, u64::MAX);
        let left = self.pointer(RCX, size) != 0;
        let holds = match i.operation() {
            Operation::Loope => left && self.flags.zero(),
            Operation::Loopne => left && !self.flags.zero(),
            _ => left,
        };
        let jumped = self.jump_if(i, holds);
        if jumped.is_err() {
            self.registers[RCX] = before;
        }
        jumped
    }
}
