//! Debug registers, single steps and breakpoints.
//!
//! Source: Intel SDM volume 3, chapter "Debug, Branch Profile, TSC, …", 17.2 and 17.3. B0 to B3 of DR6
//! are set for enabled breakpoints only, and replaced by the next debug exception; the others stay
//! until software clears them.
//!
//! Not modelled: IA32_DEBUGCTL (branch records, single steps by branches), RTM, and debug traps for split
//! and bus locks.

use super::access::Intent;
use super::{Bus, Cpu, Exception, Outcome, SHADOW_SS, slow};
use crate::cpu::decode::{Instruction, Operand, Operation, Register, RegisterClass};
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::rflags::RFlags;

/// DR6: B0 to B3.
const B: u64 = 0xf;
/// DR6: BD, an access to debug registers while DR7.GD.
pub(super) const BD: u64 = 1 << 13;
/// DR6: BS, a single step.
const BS: u64 = 1 << 14;
/// Bits of DR6 that are written; the others are fixed.
const DR6_WRITABLE: u64 = 0xe00f;
/// Bits of DR6 that are always one.
const DR6_ONES: u64 = 0xffff_0ff0;
/// DR7: GD, accesses to debug registers are faults.
const GD: u64 = 1 << 13;
/// Bits of DR7 that are written.
const DR7_WRITABLE: u64 = 0xffff_23ff;
/// Bits of DR7 that are always one.
const DR7_ONES: u64 = 1 << 10;

/// R/W of DR7: what a breakpoint watches.
mod condition {
    pub(super) const EXECUTE: u64 = 0;
    pub(super) const WRITE: u64 = 1;
    pub(super) const PORT: u64 = 2;
    pub(super) const READ_WRITE: u64 = 3;
}

impl Cpu {
    /// Enabled breakpoints whose condition `kind` accepts and which touch the bytes: bits of DR6.
    fn matching(&self, address: u64, length: usize, kind: impl Fn(u64) -> bool) -> u64 {
        let mut bits = 0;
        for number in 0..4 {
            let enabled = self.dr7 >> (2 * number) & 3 != 0;
            let control = self.dr7 >> (16 + 4 * number);
            // LEN: 1, 2, 8 and 4 bytes.
            let bytes = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            let first = self.dr[number] & !(bytes - 1);
            let hit =
                address.wrapping_sub(first) < bytes || first.wrapping_sub(address) < length as u64;
            if enabled && hit && kind(control & 3) {
                bits |= 1 << number;
            }
        }
        bits
    }

    /// Makes a debug trap due after this instruction, with bits for DR6.
    pub(super) fn debug_trap_due(&mut self, bits: u64) {
        if bits != 0 {
            self.debug_trap |= bits;
            self.slow |= slow::DEBUG;
        }
    }

    /// Raises #DB where an instruction breakpoint is at RIP. RF, and a load of SS before, hold it back.
    pub(super) fn check_breakpoints(&mut self) -> Outcome {
        if self.flag(RFlags::RESUME_FLAG) || self.events.shadow & SHADOW_SS != 0 {
            return Ok(());
        }
        let linear = if self.bits64() {
            self.rip
        } else {
            let code = self.segment(crate::cpu::decode::SegmentRegister::Cs);
            code.base.wrapping_add(self.rip) & 0xffff_ffff
        };
        // Only with a length of one byte; with another it is undefined whether it is reached.
        match self.matching(linear, 1, |kind| kind == condition::EXECUTE) {
            0 => Ok(()),
            bits => Err(self.raise(Exception::Debug(bits))),
        }
    }

    /// An instruction that began with EFLAGS.TF set is done.
    pub(super) fn single_stepped(&mut self, instruction: &Instruction) {
        let steps = match instruction.operation() {
            // They clear TF before the trap.
            Operation::Int | Operation::Int1 | Operation::Int3 => false,
            Operation::Into | Operation::Syscall => self.flag(RFlags::TRAP_FLAG),
            // A load of SS holds the trap back, and the next instruction has its own.
            _ => self.events.shadow & SHADOW_SS == 0,
        };
        if steps {
            self.debug_trap_due(BS);
        }
    }

    /// Notes a data access where a breakpoint may be.
    pub(super) fn watch(&mut self, linear: u64, length: usize, intent: Intent) {
        let bits = self.matching(linear, length, |kind| match kind {
            condition::WRITE => intent == Intent::Write,
            kind => kind == condition::READ_WRITE,
        });
        self.debug_trap_due(bits);
    }

    /// Notes the use of a port where a breakpoint may be.
    pub(super) fn watch_port(&mut self, port: u16, bytes: u8) {
        if self.cr4().contains(Cr4Flags::DEBUGGING_EXTENSIONS) {
            let kind = |kind| kind == condition::PORT;
            let bits = self.matching(port.into(), bytes.into(), kind);
            self.debug_trap_due(bits);
        }
    }

    /// Notes in DR6 and DR7 that a debug exception is delivered.
    pub(super) fn report_debug(&mut self, bits: u64) {
        self.dr6 = self.dr6 & !B | bits | DR6_ONES;
        self.dr7 &= !GD;
    }

    /// MOV from and to debug registers.
    pub(super) fn mov_debug(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let debug = |operand| match operand {
            Operand::Register(Register {
                class: RegisterClass::Debug,
                number,
            }) => Some(number),
            _ => None,
        };
        let (number, write) = match (debug(i.operand(0)), debug(i.operand(1))) {
            (Some(number), _) => (number, true),
            (None, Some(number)) => (number, false),
            (None, None) => return self.undefined(),
        };
        let extended = self.cr4().contains(Cr4Flags::DEBUGGING_EXTENSIONS);
        if matches!(number, 4 | 5) && extended {
            return self.undefined();
        }
        self.check_privileged()?;
        if self.dr7 & GD != 0 {
            return Err(self.raise(Exception::DebugAccess));
        }
        if !write {
            let value = match number {
                0..=3 => self.dr[usize::from(number)],
                4 | 6 => self.dr6,
                _ => self.dr7,
            };
            return if self.bits64() {
                self.write(bus, i, 0, value)
            } else {
                self.write(bus, i, 0, value as u32)
            };
        }
        let value = if self.bits64() {
            self.read::<u64>(bus, i, 1)?
        } else {
            self.read::<u32>(bus, i, 1)?.into()
        };
        if number > 3 && value >> 32 != 0 {
            return self.protection();
        }
        match number {
            0..=3 => self.dr[usize::from(number)] = value,
            4 | 6 => self.dr6 = value & DR6_WRITABLE | DR6_ONES,
            _ => self.dr7 = value & DR7_WRITABLE | DR7_ONES,
        }
        self.changed_mode();
        Ok(())
    }
}
