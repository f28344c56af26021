//! The x87: when it may be used, its registers and words, and MMX's view of them.
//!
//! Source: Intel SDM volume 1, chapter 8; volume 2 for each instruction; volume 3, 2.5 and 13.1 (CR0.EM,
//! CR0.TS), 12.2 (MMX). What the manual leaves undefined is as the processor below has it. Files:
//!
//! - `native`: arithmetic, which the processor below does;
//! - `numeric`: what loads, stores and computes;
//! - `environment`: FNSTENV, FNSAVE, FLDENV and FRSTOR.
//!
//! Selectors of the last instruction and its operand are kept, and the operand's pointer changes
//! with every instruction that has one: CPUID.7.0:EBX shows neither bit 13 nor bit 6. The opcode is
//! kept always, too, where newer processors keep it for unmasked exceptions only.
//!
//! With CR0.NE clear there is no FERR#, and so no interrupt 13: instructions go on as they do with
//! IGNNE# asserted, which is what the handler of that interrupt brings about.

mod environment;
mod native;
mod numeric;
#[cfg(test)]
mod tests;

use super::{Bus, Cpu, Exception, Outcome};
use crate::cpu::decode::{Fpu, Instruction, Operand, SegmentRegister};
use crate::cpu::state::FpuState;
use native::Number;
use x86_64::registers::control::Cr0Flags;

/// Control word after FNINIT.
pub(super) const FCW_INIT: u16 = 0x37f;
/// Control word: bits that there are, and the one that is always set.
const FCW_BITS: u16 = 0x1f7f;
const FCW_SET: u16 = 0x40;
/// Control and status word: the six exceptions.
const EXCEPTIONS: u16 = 0x3f;
/// Status word: invalid operation.
const INVALID: u16 = 1 << 0;
/// Status word: the invalid operation is one of the stack.
const STACK_FAULT: u16 = 1 << 6;
/// Status word: an unmasked exception is pending, in both of its places.
const PENDING: u16 = 1 << 15 | 1 << 7;
/// Status word: condition codes.
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
/// Status word: what FNCLEX clears.
const FNCLEX: u16 = 0x80ff;
/// Status word: the top of the stack.
const TOP: u16 = 7 << 11;

/// The state with registers by physical number instead of from the top, or the other way.
fn turned(state: &FpuState, from_top: bool) -> FpuState {
    let mut state = *state;
    let top = usize::from(state.fsw >> 11 & 7);
    if from_top {
        state.st.rotate_left(top);
    } else {
        state.st.rotate_right(top);
    }
    state
}

impl Cpu {
    /// The state of x87, MMX and SSE as FXSAVE orders it.
    pub(super) fn float_state(&self) -> FpuState {
        turned(&self.fpu, true)
    }

    /// Takes such a state over.
    pub(super) fn set_float_state(&mut self, state: &FpuState) {
        self.fpu = turned(state, false);
    }

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
        self.fpu.fsw &= !TOP;
        self.fpu.ftw = 0xff;
    }

    /// An MMX register, wherever the top of the stack is.
    pub(super) fn mmx(&self, number: u8) -> u64 {
        let register = &self.fpu.st[usize::from(number % 8)];
        u64::from_le_bytes(core::array::from_fn(|i| register[i]))
    }

    /// Sets an MMX register, after [`Cpu::use_mmx`]: its exponent's bits become ones.
    pub(super) fn set_mmx(&mut self, number: u8, value: u64) {
        let register = &mut self.fpu.st[usize::from(number % 8)];
        *register = [0xff; 10];
        register[..8].copy_from_slice(&value.to_le_bytes());
    }

    /// EMMS: all registers are empty.
    pub(super) fn empty_mmx(&mut self) -> Outcome {
        self.check_mmx()?;
        self.use_mmx();
        self.fpu.ftw = 0;
        Ok(())
    }

    /// Sets the control and status words, and whether an exception is pending by them.
    pub(super) fn set_float_words(&mut self, fcw: u16, fsw: u16) {
        self.fpu.fcw = fcw & FCW_BITS | FCW_SET;
        let pending = fsw & !self.fpu.fcw & EXCEPTIONS != 0;
        self.fpu.fsw = fsw & !PENDING | if pending { PENDING } else { 0 };
    }

    /// The x87 as FNINIT leaves it; the registers keep what they hold.
    pub(super) fn initialise_float(&mut self) {
        (self.fpu.fcw, self.fpu.fsw, self.fpu.ftw) = (FCW_INIT, 0, 0);
        (self.fpu.fop, self.fpu.fip, self.fpu.fdp) = (0, 0, 0);
    }

    /// The physical number of ST(i).
    fn physical(&self, number: u8) -> usize {
        usize::from((self.fpu.fsw >> 11) as u8).wrapping_add(number.into()) % 8
    }

    /// Whether ST(i) is empty.
    fn is_empty(&self, number: u8) -> bool {
        self.fpu.ftw >> self.physical(number) & 1 == 0
    }

    /// What ST(i) holds, be it empty.
    fn st(&self, number: u8) -> Number {
        self.fpu.st[self.physical(number)]
    }

    /// Gives ST(i) a value.
    fn set_st(&mut self, number: u8, value: Number) {
        let place = self.physical(number);
        self.fpu.st[place] = value;
        self.fpu.ftw |= 1 << place;
    }

    fn turn(&mut self, by: u16) {
        self.fpu.fsw = self.fpu.fsw & !TOP | self.fpu.fsw.wrapping_add(by << 11) & TOP;
    }

    fn push_number(&mut self, value: Number) {
        self.turn(7);
        self.set_st(0, value);
    }

    /// Empties ST(i).
    fn free(&mut self, number: u8) {
        self.fpu.ftw &= !(1 << self.physical(number));
    }

    fn pop_number(&mut self) {
        self.free(0);
        self.turn(1);
    }

    /// Takes condition codes and exceptions over from a status word. The answer are the exceptions
    /// that are not masked.
    fn take_status(&mut self, status: u16, codes: u16) -> u16 {
        let status = status & (codes | EXCEPTIONS | STACK_FAULT);
        self.fpu.fsw = self.fpu.fsw & !codes | status;
        let unmasked = !self.fpu.fcw & EXCEPTIONS;
        if self.fpu.fsw & unmasked != 0 {
            self.fpu.fsw |= PENDING;
        }
        status & unmasked
    }

    /// A register is empty that should not be, or not empty that should be. The answer is whether
    /// the exception is masked.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        let code = if overflow { C1 } else { 0 };
        self.take_status(INVALID | STACK_FAULT | code, C1) == 0
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
            Fpu::Fnstenv => self.store_environment(bus, i)?,
            Fpu::Fnsave => self.store_float_state(bus, i)?,
            _ => {
                self.check_pending_float()?;
                match name {
                    Fpu::Fldcw => {
                        let fcw = self.read::<u16>(bus, i, 0)?;
                        self.set_float_words(fcw, self.fpu.fsw);
                    }
                    Fpu::Fldenv => self.load_environment(bus, i)?,
                    Fpu::Frstor => self.load_float_state(bus, i)?,
                    _ => {
                        let place = match i.operand(0) {
                            Operand::Memory(memory) => {
                                Some((memory.segment, self.offset(&memory, i.address_size())))
                            }
                            _ => None,
                        };
                        self.numeric(bus, i, name, place)?;
                        self.note_last(i, place);
                    }
                }
            }
        }
        Ok(())
    }

    /// A pointer with its selector, where that counts.
    fn last_pointer(&self, segment: SegmentRegister, offset: u64) -> u64 {
        if self.bits64() {
            return offset;
        }
        u64::from(self.segment(segment).selector) << 32 | offset & 0xffff_ffff
    }

    /// Notes what the last instruction was, and where its operand is.
    fn note_last(&mut self, i: &Instruction, place: Option<(SegmentRegister, u64)>) {
        self.fpu.fop = i.x87_opcode();
        self.fpu.fip = self.last_pointer(SegmentRegister::Cs, self.rip);
        if let Some((segment, offset)) = place {
            self.fpu.fdp = self.last_pointer(segment, offset);
        }
    }
}
