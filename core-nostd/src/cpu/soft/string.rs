//! String instructions: MOVS, CMPS, SCAS, LODS, STOS, with REP. INS and OUTS are in `io`.
//!
//! Source: Intel SDM volume 1, 7.3.9. A repeated instruction stops after so many elements, or where
//! something waits, with its registers telling how far it came, and is then fetched again.

use super::access::{Intent, Word, sized};
use super::{Bus, Cpu, Outcome, slow};
use crate::cpu::alu;
use crate::cpu::decode::{Instruction, Operation, SegmentRegister, Size};
use crate::cpu::gpr::{RAX, RCX, RDI, RSI};
use crate::cpu::mmu::Access;
use x86_64::registers::rflags::RFlags;

/// Elements of a repeated instruction before it counts as another one: where devices are, each takes
/// long.
const ELEMENTS_MAX: u64 = 256;

impl Cpu {
    /// What an element adds to a pointer.
    pub(super) fn string_step(&self, size: Size) -> u64 {
        let bytes = u64::from(size.bytes());
        if self.flag(RFlags::DIRECTION_FLAG) {
            bytes.wrapping_neg()
        } else {
            bytes
        }
    }

    /// A register that points or counts, at the address size.
    pub(super) fn pointer(&self, number: usize, size: Size) -> u64 {
        self.registers[number] & size.mask()
    }

    /// Moves a pointer or count on, at the address size.
    pub(super) fn advance(&mut self, number: usize, size: Size, by: u64) {
        let value = self.registers[number].wrapping_add(by);
        match size {
            Size::Word => self.set_register(number, value as u16),
            Size::Dword => self.set_register(number, value as u32),
            _ => self.registers[number] = value,
        }
    }

    /// Runs a string instruction: one element, or as its prefix says. `element` says whether to go on.
    pub(super) fn repeat(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        mut element: impl FnMut(&mut Self, &mut Bus<'_>) -> Outcome<bool>,
    ) -> Outcome {
        if !i.rep() && !i.repne() {
            return element(self, bus).map(drop);
        }
        let size = i.address_size();
        for _ in 0..ELEMENTS_MAX {
            if self.pointer(RCX, size) == 0 {
                // With a 32-bit count its upper half is cleared even if there is nothing to do.
                self.advance(RCX, size, 0);
                return Ok(());
            }
            let go_on = element(self, bus)?;
            self.advance(RCX, size, u64::MAX);
            if !go_on || self.pointer(RCX, size) == 0 {
                return Ok(());
            }
            if self.slow & (slow::TRAP | slow::DEBUG | slow::HALT_DUE) != 0
                || self.debug_trap != 0
                || bus.signals.raised()
                || bus.code_written()
            {
                break;
            }
        }
        // It has taken longer than other instructions: the platform may look at its clock.
        bus.signals.raise();
        // An event between two elements finds RF set (SDM volume 3, 17.3.1.1).
        self.system_flags |= RFlags::RESUME_FLAG.bits();
        self.slow |= slow::RESUME;
        self.next_rip = self.rip;
        if bus.counts() {
            // Where it stopped is chance, but not how many instructions there are.
            self.instructions = self.instructions.wrapping_sub(1);
        }
        Ok(())
    }

    /// MOVS, STOS, LODS, CMPS, SCAS.
    pub(super) fn string(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let flags = self.flags;
        if (i.rep() || i.repne()) && self.data_checks == 0 && self.slow == 0 {
            self.bulk(bus, i);
        }
        let done = sized!(i.operand_size(), W => self.string_of::<W>(bus, i));
        if done.is_err() {
            // Comparisons before the fault leave nothing behind (volume 2, REP).
            self.flags = flags;
        }
        done
    }

    fn string_of<W: Word>(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (operation, size) = (i.operation(), i.address_size());
        let step = self.string_step(i.operand_size());
        let (source, repne) = (i.segment(), i.repne());
        self.repeat(bus, i, |cpu, bus| {
            let (from, to) = (cpu.pointer(RSI, size), cpu.pointer(RDI, size));
            let es = SegmentRegister::Es;
            match operation {
                Operation::Movs => {
                    let value: W = cpu.load(bus, source, from)?;
                    cpu.store(bus, es, to, value)?;
                }
                Operation::Stos => cpu.store(bus, es, to, cpu.register::<W>(RAX))?,
                Operation::Lods => {
                    let value: W = cpu.load(bus, source, from)?;
                    cpu.set_register(RAX, value);
                }
                Operation::Cmps => {
                    let a: W = cpu.load(bus, source, from)?;
                    let b: W = cpu.load(bus, es, to)?;
                    cpu.flags = alu::cmp(a, b);
                }
                _ => {
                    let b: W = cpu.load(bus, es, to)?;
                    cpu.flags = alu::cmp(cpu.register::<W>(RAX), b);
                }
            }
            if !matches!(operation, Operation::Stos | Operation::Scas) {
                cpu.advance(RSI, size, step);
            }
            if !matches!(operation, Operation::Lods) {
                cpu.advance(RDI, size, step);
            }
            Ok(match operation {
                Operation::Cmps | Operation::Scas => cpu.flags.zero() != repne,
                _ => true,
            })
        })
    }

    /// REP MOVS and REP STOS upwards over plain RAM, a page at a time; whatever it leaves is done
    /// element by element.
    fn bulk(&mut self, bus: &mut Bus<'_>, i: &Instruction) {
        let moves = i.operation() == Operation::Movs;
        if !moves && i.operation() != Operation::Stos || self.flag(RFlags::DIRECTION_FLAG) {
            return;
        }
        let (size, bytes) = (i.address_size(), i.operand_size().bytes());
        for _ in 0..32 {
            let (from, to) = (self.pointer(RSI, size), self.pointer(RDI, size));
            let count = self.pointer(RCX, size);
            // Neither pointer may pass the end of its segment or of the address size.
            let page = 4096 / u64::from(bytes);
            let room = |at: u64| (size.mask() - at) / u64::from(bytes);
            let elements = count.min(page).min(room(to));
            let elements = if moves {
                elements.min(room(from))
            } else {
                elements
            };
            let length = elements as usize * usize::from(bytes);
            if elements < 4 {
                return;
            }
            let Ok(target) = self.linear(SegmentRegister::Es, to, length, Intent::Write) else {
                return;
            };
            let mut source = None;
            if moves {
                let Ok(linear) = self.linear(i.segment(), from, length, Intent::Read) else {
                    return;
                };
                source = Some(linear);
            }
            let (elements, mode) = (elements as usize, self.mode);
            let done = match source {
                Some(source) => self.mmu.copy(source, target, elements, bytes, mode),
                None => {
                    let value = self.registers[RAX];
                    self.mmu.fill(target, value, elements, bytes, mode)
                }
            };
            if done == 0 {
                // The load comes first, and if it faults nothing is known of the store.
                let mmu = &mut self.mmu;
                if source.is_none_or(|source| mmu.prepare(bus, source, mode, Access::Read))
                    && mmu.prepare(bus, target, mode, Access::Write)
                {
                    continue;
                }
                return;
            }
            let moved = done as u64 * u64::from(bytes);
            if moves {
                self.advance(RSI, size, moved);
            }
            self.advance(RDI, size, moved);
            self.advance(RCX, size, (done as u64).wrapping_neg());
            if bus.signals.raised() {
                return;
            }
        }
    }
}
