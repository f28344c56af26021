//! Instructions of the x87 that load, store and compute.
//!
//! Source: Intel SDM volume 1, 8.3 (instructions), 8.5 (exceptions, and what they leave masked and not
//! masked), 8.5.1.1 (stack faults); volume 2 for each instruction.

use super::native::{Code, Number, Results, execute};
use super::{C0, C1, C2, C3, INVALID, STACK_FAULT};
use crate::cpu::alu::{LazyFlags, STATUS};
use crate::cpu::decode::{Fpu, Instruction, SegmentRegister};
use crate::cpu::soft::access::Intent;
use crate::cpu::soft::{Bus, Cpu, Outcome};
use x86_64::registers::rflags::RFlags;

/// Where an operand in memory is.
type Place = (SegmentRegister, u64);

/// The real indefinite: what a masked invalid operation gives.
const INDEFINITE: Number = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
/// Exceptions that keep a result from being computed: invalid operation, denormal operand, division by
/// zero.
const BEFORE: u16 = 1 << 0 | 1 << 1 | 1 << 2;
/// Exceptions that keep a result from being stored to memory: the first two, overflow, underflow.
const NOT_STORED: u16 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4;
/// Control word: rounding towards zero.
const TRUNCATE: u16 = 3 << 10;
/// Bytes of a page: in one, no access faults where the one before it didn't.
const PAGE: u64 = 4096;
/// All condition codes.
const CODES: u16 = C0 | C1 | C2 | C3;

impl Cpu {
    /// Loads an operand.
    fn load_number(&mut self, bus: &mut Bus<'_>, i: &Instruction, place: Place) -> Outcome<Number> {
        let mut number = [0; 10];
        match i.memory_size() {
            2 => {
                number[..2].copy_from_slice(&self.load::<u16>(bus, place.0, place.1)?.to_le_bytes())
            }
            4 => {
                number[..4].copy_from_slice(&self.load::<u32>(bus, place.0, place.1)?.to_le_bytes())
            }
            8 => {
                number[..8].copy_from_slice(&self.load::<u64>(bus, place.0, place.1)?.to_le_bytes())
            }
            // Two accesses, each aligned by itself.
            _ => {
                let low: u64 = self.load(bus, place.0, place.1)?;
                let high: u16 = self.load(bus, place.0, Self::upper(i, place))?;
                number[..8].copy_from_slice(&low.to_le_bytes());
                number[8..].copy_from_slice(&high.to_le_bytes());
            }
        }
        Ok(number)
    }

    fn store_number(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        place: Place,
        number: &Number,
    ) -> Outcome {
        let word = u64::from_le_bytes(core::array::from_fn(|i| number[i]));
        match i.memory_size() {
            2 => self.store(bus, place.0, place.1, word as u16),
            4 => self.store(bus, place.0, place.1, word as u32),
            8 => self.store(bus, place.0, place.1, word),
            _ => {
                let inside = self.data_checks == 0
                    && self.linear(place.0, place.1, 10, Intent::Write)? % PAGE <= PAGE - 10;
                if !inside {
                    self.check_number(bus, i, place)?;
                }
                let high = u16::from_le_bytes([number[8], number[9]]);
                self.store(bus, place.0, place.1, word)?;
                self.store(bus, place.0, Self::upper(i, place), high)
            }
        }
    }

    /// The offset of the upper 16 of 80 bits.
    fn upper(i: &Instruction, place: Place) -> u64 {
        place.1.wrapping_add(8) & i.address_size().mask()
    }

    /// Raises what a store would raise.
    fn check_number(&mut self, bus: &mut Bus<'_>, i: &Instruction, place: Place) -> Outcome {
        let size = usize::from(i.memory_size());
        self.check_store(bus, place.0, place.1, size.min(8))?;
        if size > 8 {
            self.check_store(bus, place.0, Self::upper(i, place), size - 8)?;
        }
        Ok(())
    }

    /// Executes an instruction with the control word that there is.
    fn execute_number(&self, code: Code, top: Number, other: Number) -> Results {
        execute(code, self.fpu.fcw, self.fpu.fsw, top, other)
    }

    /// Executes what is not one of the control instructions.
    pub(super) fn numeric(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        name: Fpu,
        place: Option<Place>,
    ) -> Outcome {
        use Fpu::*;
        let [modrm, escape] = i.x87_opcode().to_le_bytes();
        let (reg, rm) = (modrm >> 3 & 7, modrm & 7);
        match name {
            Fadd | Faddp | Fiadd | Fmul | Fmulp | Fimul | Fsub | Fsubp | Fisub | Fsubr | Fsubrp
            | Fisubr | Fdiv | Fdivp | Fidiv | Fdivr | Fdivrp | Fidivr => {
                let pops = u8::from(place.is_none() && escape == 6);
                let (code, other, to) = match place {
                    Some(place) => {
                        let other = self.load_number(bus, i, place)?;
                        (Code::memory(escape, reg), other, 0)
                    }
                    // D8h has its result in ST(0), DCh and DEh in ST(i).
                    None => (
                        Code::registers(reg),
                        self.st(rm),
                        rm & 0u8.wrapping_sub(escape >> 2),
                    ),
                };
                if self.is_empty(0) || place.is_none() && self.is_empty(rm) {
                    self.underflow(to, pops);
                    return Ok(());
                }
                let results = self.execute_number(code, self.st(0), other);
                if self.take_status(results.status, C1) & BEFORE == 0 {
                    self.set_st(to, results.top);
                    self.pop_numbers(pops);
                }
            }
            Fcom | Fcomp | Fcompp | Ficom | Ficomp | Fucom | Fucomp | Fucompp | Ftst | Fcomi
            | Fcomip | Fucomi | Fucomip => {
                let (code, other) = match place {
                    Some(place) => {
                        let other = self.load_number(bus, i, place)?;
                        (Code::memory(escape, 2), other)
                    }
                    None => {
                        let code = match name {
                            Ftst => Code::TEST,
                            Fucom | Fucomp | Fucompp | Fucomi | Fucomip => Code::COMPARE_UNORDERED,
                            _ => Code::COMPARE,
                        };
                        (code, self.st(rm))
                    }
                };
                self.compare_numbers(
                    name,
                    code,
                    other,
                    (place.is_none() && name != Ftst).then_some(rm),
                );
            }
            Fxam => {
                let results = self.execute_number(Code::EXAMINE, self.st(0), [0; 10]);
                let empty = if self.is_empty(0) { C3 | C0 } else { 0 };
                let status = match empty {
                    0 => results.status,
                    // The sign is told all the same.
                    _ => results.status & C1 | empty,
                };
                self.take_status(status & CODES, CODES);
            }
            Fld if place.is_none() => {
                let value = self.st(rm);
                if self.is_empty(rm) {
                    if self.stack_fault(false) {
                        self.push_number(INDEFINITE);
                    }
                } else if self.room_to_push() {
                    self.fpu.fsw &= !C1;
                    self.push_number(value);
                }
            }
            Fld | Fild | Fbld | Fld1 | Fldl2t | Fldl2e | Fldpi | Fldlg2 | Fldln2 | Fldz => {
                let size = i.memory_size();
                let operand = match place {
                    Some(place) => self.load_number(bus, i, place)?,
                    None => [0; 10],
                };
                let code = match (name, size) {
                    (Fld, 4) => Code::LOAD_SINGLE,
                    (Fld, 8) => Code::LOAD_DOUBLE,
                    (Fbld, _) => Code::LOAD_DECIMAL,
                    (Fild, 2) => Code::LOAD_INT16,
                    (Fild, 4) => Code::LOAD_INT32,
                    (Fild, _) => Code::LOAD_INT64,
                    (Fld, _) => {
                        if self.room_to_push() {
                            self.fpu.fsw &= !C1;
                            self.push_number(operand);
                        }
                        return Ok(());
                    }
                    _ => Code::d9(modrm),
                };
                if self.room_to_push() {
                    let results = self.execute_number(code, [0; 10], operand);
                    self.take_status(results.status, C1);
                    if results.pushed() {
                        self.push_number(results.top);
                    }
                }
            }
            Fst | Fstp | Fist | Fistp | Fisttp | Fbstp if let Some(place) = place => {
                return self.store_top(bus, i, name, place);
            }
            Fst | Fstp | Fstpnce => {
                let pops = u8::from(name != Fst);
                if self.is_empty(0) && name == Fstpnce {
                    self.fpu.fsw &= !C1;
                    self.pop_number();
                } else if self.is_empty(0) {
                    self.underflow(rm, pops);
                } else {
                    self.fpu.fsw &= !C1;
                    self.set_st(rm, self.st(0));
                    self.pop_numbers(pops);
                }
            }
            Fxch => {
                if self.is_empty(0) || self.is_empty(rm) {
                    if !self.stack_fault(false) {
                        return Ok(());
                    }
                    for number in [0, rm] {
                        if self.is_empty(number) {
                            self.set_st(number, INDEFINITE);
                        }
                    }
                } else {
                    self.fpu.fsw &= !C1;
                }
                let (a, b) = (self.st(0), self.st(rm));
                self.set_st(0, b);
                self.set_st(rm, a);
            }
            Fcmovb | Fcmovbe | Fcmove | Fcmovnb | Fcmovnbe | Fcmovne | Fcmovnu | Fcmovu => {
                // ModRM.reg is the condition, DBh its opposite.
                let flags = &self.flags;
                let holds = match reg {
                    0 => flags.carry(),
                    1 => flags.zero(),
                    2 => flags.carry() || flags.zero(),
                    _ => flags.parity(),
                };
                if self.is_empty(0) || self.is_empty(rm) {
                    self.underflow(0, 0);
                } else if holds == (escape == 2) {
                    self.set_st(0, self.st(rm));
                }
            }
            Fchs | Fabs => {
                if self.is_empty(0) {
                    self.underflow(0, 0);
                    return Ok(());
                }
                let mut number = self.st(0);
                number[9] = match name {
                    Fchs => number[9] ^ 0x80,
                    _ => number[9] & 0x7f,
                };
                self.fpu.fsw &= !C1;
                self.set_st(0, number);
            }
            Ffree | Ffreep => {
                self.fpu.fsw &= !C1;
                self.free(rm);
                self.pop_numbers((name == Ffreep).into());
            }
            Fincstp | Fdecstp => {
                self.fpu.fsw &= !C1;
                self.turn(if name == Fincstp { 1 } else { 7 });
            }
            Fnop => {}
            _ => self.function(name, modrm),
        }
        Ok(())
    }

    /// ST(0) or another operand is empty: where that is masked the destination becomes indefinite.
    fn underflow(&mut self, to: u8, pops: u8) {
        if self.stack_fault(false) {
            self.set_st(to, INDEFINITE);
            self.pop_numbers(pops);
        }
    }

    fn pop_numbers(&mut self, times: u8) {
        for _ in 0..times {
            self.pop_number();
        }
    }

    /// Whether a number may be pushed. Where not, what is left to do is done.
    fn room_to_push(&mut self) -> bool {
        let room = self.is_empty(7);
        if !room && self.stack_fault(true) {
            self.push_number(INDEFINITE);
        }
        room
    }

    /// FCOM and its kin: ST(0) with a number, which may be a register's.
    fn compare_numbers(&mut self, name: Fpu, code: Code, other: Number, register: Option<u8>) {
        use Fpu::*;
        let flags = matches!(name, Fcomi | Fcomip | Fucomi | Fucomip);
        let pops = match name {
            Fcompp | Fucompp => 2,
            Fcomp | Ficomp | Fucomp | Fcomip | Fucomip => 1,
            _ => 0,
        };
        let changed = if flags { C1 } else { CODES };
        let empty = self.is_empty(0) || register.is_some_and(|number| self.is_empty(number));
        let status = if empty {
            INVALID | STACK_FAULT | C3 | C2 | C0
        } else {
            self.execute_number(code, self.st(0), other).status
        };
        let unmasked = self.take_status(status, C1);
        if unmasked & INVALID != 0 {
            return;
        }
        self.take_status(status, changed);
        if flags {
            let when = |code, flag: RFlags| if status & code != 0 { flag.bits() } else { 0 };
            let flags = when(C3, RFlags::ZERO_FLAG)
                | when(C2, RFlags::PARITY_FLAG)
                | when(C0, RFlags::CARRY_FLAG);
            self.flags = LazyFlags::from_rflags(flags & STATUS);
        }
        if unmasked & BEFORE == 0 {
            self.pop_numbers(pops);
        }
    }

    /// Stores ST(0) to memory.
    fn store_top(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        name: Fpu,
        place: Place,
    ) -> Outcome {
        use Fpu::*;
        let size = i.memory_size();
        let (top, fault) = if self.is_empty(0) {
            (INDEFINITE, INVALID | STACK_FAULT)
        } else {
            (self.st(0), 0)
        };
        let control = match name {
            Fisttp => self.fpu.fcw | TRUNCATE,
            _ => self.fpu.fcw,
        };
        let code = match (name, size) {
            (Fst | Fstp, 4) => Some(Code::STORE_SINGLE),
            (Fst | Fstp, 8) => Some(Code::STORE_DOUBLE),
            (Fbstp, _) => Some(Code::STORE_DECIMAL),
            (Fist | Fistp | Fisttp, 2) => Some(Code::STORE_INT16),
            (Fist | Fistp | Fisttp, 4) => Some(Code::STORE_INT32),
            (Fist | Fistp | Fisttp, _) => Some(Code::STORE_INT64),
            _ => None,
        };
        let (number, status) = match code {
            Some(code) => {
                let results = execute(code, control, self.fpu.fsw, top, [0; 10]);
                (results.memory, results.status | fault)
            }
            None => (top, fault),
        };
        if status & !self.fpu.fcw & NOT_STORED == 0 {
            self.store_number(bus, i, place, &number)?;
            self.take_status(status, C1);
            if !matches!(name, Fst | Fist) {
                self.pop_number();
            }
        } else {
            self.check_number(bus, i, place)?;
            self.take_status(status, C1);
        }
        Ok(())
    }

    /// What computes with ST(0), and ST(1) at times, alone.
    fn function(&mut self, name: Fpu, modrm: u8) {
        use Fpu::*;
        let incomplete = match name {
            Fprem | Fprem1 | Fsin | Fcos | Fsincos | Fptan => C2,
            _ => 0,
        };
        let pushes = matches!(name, Fptan | Fsincos | Fxtract);
        let pops = matches!(name, Fpatan | Fyl2x | Fyl2xp1);
        let two = pops || matches!(name, Fprem | Fprem1 | Fscale);
        let empty = self.is_empty(0) || two && self.is_empty(1);
        if empty || pushes && !self.is_empty(7) {
            self.fpu.fsw &= !incomplete;
            if self.stack_fault(!empty) {
                if pops {
                    self.pop_number();
                }
                self.set_st(0, INDEFINITE);
                if pushes {
                    self.push_number(INDEFINITE);
                }
            }
            return;
        }
        let results = self.execute_number(Code::d9(modrm), self.st(0), self.st(1));
        // Where there is no quotient, its bits stay as they were.
        let quotient = matches!(name, Fprem | Fprem1)
            && results.status & BEFORE & !self.fpu.fcw == 0
            && u16::from_le_bytes([results.top[8], results.top[9]]) & 0x7fff != 0x7fff;
        let codes = if quotient { CODES } else { C1 | incomplete };
        self.take_status(results.status, codes);
        if results.pushed() {
            self.set_st(0, results.below);
            self.push_number(results.top);
        } else {
            if results.popped() {
                self.pop_number();
            }
            self.set_st(0, results.top);
        }
    }
}
