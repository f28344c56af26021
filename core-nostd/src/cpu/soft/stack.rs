//! The stack: PUSH and POP in all forms but those of flags and segments, ENTER, LEAVE.
//!
//! Source: Intel SDM volume 1, 6.2 "Stacks": the stack pointer has the stack's address size, what
//! is pushed the operand size.

use super::access::{Word, sized};
use super::{Bus, Cpu, Outcome};
use crate::cpu::alu;
use crate::cpu::decode::{Instruction, Operand, SegmentRegister, Size};
use crate::cpu::gpr::{RAX, RBP, RSP};

impl Cpu {
    /// The stack pointer at its size.
    #[inline]
    pub(super) fn stack_pointer(&self) -> u64 {
        self.registers[RSP] & self.stack_mask
    }

    /// Sets the stack pointer at its size: 16 bits leave the others alone.
    #[inline]
    pub(super) fn set_stack_pointer(&mut self, value: u64) {
        let kept = if self.stack_mask == 0xffff {
            self.registers[RSP] & !0xffff
        } else {
            0
        };
        self.registers[RSP] = kept | value & self.stack_mask;
    }

    /// Pushes a word.
    #[inline]
    pub(super) fn push<W: Word>(&mut self, bus: &mut Bus<'_>, value: W) -> Outcome {
        let top = self.stack_pointer().wrapping_sub(W::SIZE as u64) & self.stack_mask;
        self.store(bus, SegmentRegister::Ss, top, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Pops a word.
    #[inline]
    pub(super) fn pop<W: Word>(&mut self, bus: &mut Bus<'_>) -> Outcome<W> {
        let top = self.stack_pointer();
        let value = self.load(bus, SegmentRegister::Ss, top)?;
        self.set_stack_pointer(top.wrapping_add(W::SIZE as u64));
        Ok(value)
    }

    /// Pushes a value cut to a size.
    pub(super) fn push_sized(&mut self, bus: &mut Bus<'_>, size: Size, value: u64) -> Outcome {
        sized!(size, W => self.push(bus, value as W))
    }

    /// Pops a value of a size, zero-extended.
    pub(super) fn pop_sized(&mut self, bus: &mut Bus<'_>, size: Size) -> Outcome<u64> {
        sized!(size, W => self.pop::<W>(bus).map(alu::Word::zero_extend))
    }

    /// PUSH of registers, memory, immediates and segment registers.
    pub(super) fn push_operand(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        // A selector is stored as a word into a slot of 32 bits, and zero-extended to 64 (volume 2, PUSH).
        if let Operand::Register(register) = i.operand(0)
            && register.class == crate::cpu::decode::RegisterClass::Segment
        {
            let selector = self.read::<u16>(bus, i, 0)?;
            if i.operand_size() != Size::Dword {
                return self.push_sized(bus, i.operand_size(), selector.into());
            }
            let top = self.stack_pointer().wrapping_sub(4) & self.stack_mask;
            self.store(bus, SegmentRegister::Ss, top, selector)?;
            self.set_stack_pointer(top);
            return Ok(());
        }
        sized!(i.operand_size(), W => {
            let value = self.read::<W>(bus, i, 0)?;
            self.push(bus, value)
        })
    }

    /// POP to registers and memory. An address that counts from the stack pointer counts from where
    /// it is after the pop (volume 2, POP).
    pub(super) fn pop_operand(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        if let Operand::Register(register) = i.operand(0)
            && register.class == crate::cpu::decode::RegisterClass::Segment
        {
            return self.pop_segment(bus, i);
        }
        let before = self.registers[RSP];
        sized!(i.operand_size(), W => {
            let value = self.pop::<W>(bus)?;
            let written = self.write(bus, i, 0, value);
            if written.is_err() {
                self.registers[RSP] = before;
            }
            written
        })
    }

    /// PUSHA, PUSHAD.
    pub(super) fn push_all(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let before = self.registers[RSP];
        let registers = self.registers;
        for register in &registers[..8] {
            // Also that of RSP is what it was before.
            if let Err(raised) = self.push_sized(bus, i.operand_size(), *register) {
                self.registers[RSP] = before;
                return Err(raised);
            }
        }
        Ok(())
    }

    /// POPA, POPAD: the stack pointer's value is passed over.
    pub(super) fn pop_all(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let before = self.registers;
        for number in (RAX..8).rev() {
            match self.pop_sized(bus, i.operand_size()) {
                Ok(_) if number == RSP => {}
                Ok(value) if i.operand_size() == Size::Word => {
                    self.set_register(number, value as u16);
                }
                Ok(value) => self.set_register(number, value as u32),
                Err(raised) => {
                    self.registers = before;
                    return Err(raised);
                }
            }
        }
        Ok(())
    }

    /// ENTER.
    pub(super) fn enter(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let before = (self.registers[RSP], self.registers[RBP]);
        let entered = self.enter_frame(bus, i);
        if entered.is_err() {
            (self.registers[RSP], self.registers[RBP]) = before;
        }
        entered
    }

    fn enter_frame(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let size = i.operand_size();
        let step = u64::from(size.bytes());
        let room = u64::from(self.read::<u16>(bus, i, 0)?);
        let level = self.read::<u8>(bus, i, 1)? % 32;
        self.push_sized(bus, size, self.registers[RBP])?;
        // Whole: of a 16-bit stack the upper half of ESP, too.
        let frame = self.registers[RSP];
        if level > 0 {
            let mut display = self.registers[RBP];
            for _ in 1..level {
                display = display.wrapping_sub(step) & self.stack_mask;
                let pointer = sized!(size, W => {
                    alu::Word::zero_extend(self.load::<W>(bus, SegmentRegister::Ss, display)?)
                });
                self.push_sized(bus, size, pointer)?;
            }
            self.push_sized(bus, size, frame)?;
        }
        let top = self.stack_pointer().wrapping_sub(room) & self.stack_mask;
        // The new top is checked as a store there would be (volume 2, ENTER).
        sized!(size, W => {
            self.modify(bus, SegmentRegister::Ss, top, false, |old: W| (old, ()))?;
        });
        self.set_stack_pointer(top);
        sized!(size, W => self.set_register(RBP, frame as W));
        Ok(())
    }

    /// LEAVE.
    pub(super) fn leave(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let frame = self.registers[RBP] & self.stack_mask;
        sized!(i.operand_size(), W => {
            let outer = self.load::<W>(bus, SegmentRegister::Ss, frame)?;
            self.set_stack_pointer(frame.wrapping_add(u64::from(i.operand_size().bytes())));
            self.set_register(RBP, outer);
        });
        Ok(())
    }
}
