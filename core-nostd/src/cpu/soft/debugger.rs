//! A debugger outside of the guest: breakpoints, watchpoints and single steps that the guest can't see.
//!
//! While any is set, [`slow::DEBUGGER`] makes the processor execute one instruction at a time and look around before
//! each; otherwise nothing in here runs. The guest's TF, RF and debug registers have no part in it, and its memory has
//! no other bytes than before. A processor that stops has done whole instructions, and what they cause: traps of the
//! guest's own are delivered before, interrupts only after it goes on.
//!
//! A breakpoint stops before its instruction, unless that is being stepped over. A watchpoint stops after the
//! instruction, or after the element of a repeated one, that used its bytes; so do accesses of the processor itself to
//! descriptor tables and stacks, but not its walks of page tables, nor fetches.

use super::access::Intent;
use super::{Activity, Cpu, slow};
use crate::cpu::debugger::{Breaks, Hit, Resume, WatchKind};
use crate::cpu::decode::SegmentRegister;

/// What a debugger wants of a processor. Valid when zero: nothing.
#[repr(C)]
pub(super) struct Debugger {
    breaks: Breaks,
    resume: Resume,
    /// The step is done.
    stepped: bool,
    /// A watchpoint was hit: `watched`.
    touched: bool,
    watched: (WatchKind, u64),
    /// Why the processor has stopped, until it is asked.
    hit: Option<Hit>,
    /// [`slow`], as far as it is up to the debugger.
    slow: u32,
}

impl Debugger {
    pub(super) const fn slow(&self) -> u32 {
        self.slow
    }

    pub(super) fn watches(&self) -> bool {
        !self.breaks.watchpoints().is_empty()
    }
}

impl Cpu {
    /// Sets where the processor is to stop from now on, and how it goes on. That it has stopped before is forgotten.
    /// It stays through resets.
    pub fn set_debugger(&mut self, breaks: &Breaks, resume: Resume) {
        let active = !breaks.is_empty() || resume.steps();
        let mut reasons = 0;
        if active {
            reasons |= slow::DEBUGGER;
        }
        if resume.steps() {
            reasons |= slow::HALT_DUE;
        }
        self.debugger = Debugger {
            breaks: breaks.clone(),
            resume,
            stepped: false,
            touched: false,
            watched: Default::default(),
            hit: None,
            slow: reasons,
        };
        self.changed_breakpoints();
        self.changed_waiting();
    }

    /// Why [`Stop::Debug`](super::Stop::Debug) has stopped the processor; tells it once.
    pub fn take_hit(&mut self) -> Option<Hit> {
        self.debugger.hit.take()
    }

    /// An instruction was executed, or an exception or interrupt delivered.
    #[inline]
    pub(super) fn progressed(&mut self) {
        if self.slow & slow::HALT_DUE != 0 && self.debugger.resume.steps() {
            self.debugger.stepped = true;
        }
    }

    /// An instruction has not happened after all.
    pub(super) fn untouched(&mut self) {
        if self.debugger.touched {
            self.debugger.touched = false;
            if !self.debugger.resume.steps() {
                self.debugger.slow &= !slow::HALT_DUE;
                self.slow &= !slow::HALT_DUE;
            }
        }
    }

    /// Notes a data access where a watchpoint may be.
    pub(super) fn note_access(&mut self, linear: u64, length: usize, intent: Intent) {
        let debugger = &mut self.debugger;
        if debugger.touched {
            return;
        }
        let wanted = |kind: WatchKind| match intent {
            Intent::Write => kind != WatchKind::Read,
            Intent::Read => kind != WatchKind::Write,
            Intent::Flush => false,
        };
        let mut watchpoints = debugger.breaks.watchpoints().iter();
        let found = watchpoints.find_map(|watchpoint| {
            let at = watchpoint.touched(linear, length as u64)?;
            wanted(watchpoint.kind).then_some((watchpoint.kind, at))
        });
        if let Some(found) = found {
            debugger.touched = true;
            debugger.watched = found;
            debugger.slow |= slow::HALT_DUE;
            self.slow |= slow::HALT_DUE;
        }
    }

    /// Whether the debugger is to be told of what has happened; it is noted then. Interrupts must not be taken before.
    pub(super) fn debugger_is_due(&mut self) -> bool {
        let debugger = &mut self.debugger;
        if debugger.touched {
            let (kind, at) = debugger.watched;
            debugger.touched = false;
            debugger.hit = Some(Hit::Watchpoint(kind, at));
        } else if debugger.stepped {
            debugger.hit = Some(Hit::Step);
        } else {
            return false;
        }
        debugger.stepped = false;
        true
    }

    /// Whether interrupts wait until a step is done.
    pub(super) fn steps_over_interrupts(&self) -> bool {
        self.debugger.resume == Resume::StepOverInterrupts && self.activity == Activity::Running
    }

    /// Whether a breakpoint is at the next instruction; it is noted then.
    pub(super) fn debugger_breaks(&mut self) -> bool {
        if self.debugger.resume.steps() {
            return false;
        }
        let linear = if self.bits64() {
            self.rip
        } else {
            let base = self.segment(SegmentRegister::Cs).base;
            base.wrapping_add(self.rip) & 0xffff_ffff
        };
        let found = self.debugger.breaks.at(linear).map(Hit::Breakpoint);
        if found.is_some() {
            self.debugger.hit = found;
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::debugger::{Break, Breakpoint, Watchpoint};
    use crate::cpu::gpr::{RAX, RCX, RDI, RSI};
    use crate::cpu::soft::Stop;
    use crate::cpu::soft::testing::Guest;
    use x86_64::registers::rflags::RFlags;

    fn breaks(all: &[Break]) -> Breaks {
        let mut breaks = Breaks::new();
        for what in all {
            breaks.insert(*what).unwrap();
        }
        breaks
    }

    fn code(address: u64) -> Break {
        let hardware = false;
        Break::Code(Breakpoint { address, hardware })
    }

    fn data(kind: WatchKind, address: u64, length: u64) -> Break {
        Break::Data(Watchpoint {
            kind,
            address,
            length,
        })
    }

    /// A guest in 64-bit mode with this code at 1000h.
    fn long(code: &[u8]) -> Guest {
        let mut guest = Guest::long();
        guest.change(|state| state.rip = 0x1000);
        guest.put(0x1000, code);
        guest
    }

    fn step(guest: &mut Guest) -> u64 {
        guest
            .cpu
            .set_debugger(&Breaks::new(), Resume::StepOverInterrupts);
        assert_eq!(guest.run(100), Stop::Debug);
        assert_eq!(guest.cpu.take_hit(), Some(Hit::Step));
        guest.state().rip
    }

    #[test]
    fn breakpoints_stop_before_their_instruction() {
        // inc eax; jmp to itself.
        let mut guest = long(&[0xff, 0xc0, 0xeb, 0xfc]);
        assert_eq!(guest.run(100), Stop::Budget);
        let set = breaks(&[code(0x1002), code(0x1001)]);
        guest.cpu.set_debugger(&set, Resume::Run);
        guest.change(|state| state.rip = 0x1000);
        let before = guest.state().gpr[RAX];
        for _ in 0..2 {
            // It is still there if nobody has stepped over it.
            assert_eq!(guest.run(100), Stop::Debug);
            let Some(Hit::Breakpoint(at)) = guest.cpu.take_hit() else {
                panic!("no breakpoint");
            };
            assert_eq!((at.address, guest.state().rip), (0x1002, 0x1002));
            assert_eq!(guest.state().gpr[RAX], before + 1);
        }
        guest.cpu.set_debugger(&set, Resume::Step);
        assert_eq!(guest.run(100), Stop::Debug);
        assert_eq!(guest.cpu.take_hit(), Some(Hit::Step));
        assert_eq!(guest.state().rip, 0x1000);
        guest.cpu.set_debugger(&Breaks::new(), Resume::Run);
        assert_eq!(guest.run(100), Stop::Budget);
    }

    #[test]
    fn breakpoints_are_by_linear_address() {
        let mut guest = Guest::new();
        guest.change(|state| {
            state.cs.base = 0x800;
            state.rip = 0x800;
        });
        guest.put(0x1000, &[0x90, 0x90, 0x90]);
        guest
            .cpu
            .set_debugger(&breaks(&[code(0x1001)]), Resume::Run);
        assert_eq!(guest.run(3), Stop::Debug);
        assert_eq!(guest.state().rip, 0x801);
    }

    #[test]
    fn a_step_is_not_seen_by_the_guest() {
        // pushfq; pop rax; pushfq; pop rcx.
        let mut guest = long(&[0x9c, 0x58, 0x9c, 0x59]);
        for expected in 0x1001..0x1005 {
            assert_eq!(step(&mut guest), expected);
            assert_eq!(guest.cpu.instructions(), expected - 0x1000);
        }
        let state = guest.state();
        assert_eq!(state.gpr[RAX] & RFlags::TRAP_FLAG.bits(), 0);
        assert_eq!(state.gpr[RAX], state.gpr[RCX]);
    }

    #[test]
    fn interrupts_wait_for_the_end_of_steps() {
        let mut guest = Guest::new();
        guest.put(0x100, &[0, 0x20, 0, 0]);
        guest.put(0x1000, &[0x90, 0x90, 0xf4]);
        guest.put(0x2000, &[0xcf]);
        guest.change(|state| {
            state.rip = 0x1000;
            state.rflags |= RFlags::INTERRUPT_FLAG.bits();
        });
        guest.board.interrupts.push_back(0x40);
        guest.signals.raise();
        assert_eq!(step(&mut guest), 0x1001);
        // Without that wish the delivery is the step.
        guest.cpu.set_debugger(&Breaks::new(), Resume::Step);
        assert_eq!(guest.run(100), Stop::Debug);
        assert_eq!(guest.state().rip, 0x2000);
        assert_eq!(step(&mut guest), 0x1001);
        assert_eq!(step(&mut guest), 0x1002);
        // HLT is a step, and what wakes the processor up is the next.
        assert_eq!(step(&mut guest), 0x1003);
        assert_eq!(guest.state().activity, Activity::Halted);
        guest
            .cpu
            .set_debugger(&Breaks::new(), Resume::StepOverInterrupts);
        assert_eq!(guest.run(100), Stop::Idle);
        guest.board.interrupts.push_back(0x40);
        guest.signals.raise();
        assert_eq!(guest.run(100), Stop::Debug);
        assert_eq!(guest.state().rip, 0x2000);
    }

    #[test]
    fn an_exception_is_a_step_to_its_handler() {
        let mut guest = Guest::new();
        guest.put(0x18, &[0, 0x30, 0, 0]);
        // ud2; handler: int3.
        guest.put(0x0c, &[0, 0x40, 0, 0]);
        guest.put(0x1000, &[0x0f, 0x0b]);
        guest.put(0x3000, &[0xcc]);
        guest.change(|state| state.rip = 0x1000);
        assert_eq!(step(&mut guest), 0x3000);
        assert_eq!(step(&mut guest), 0x4000);
        assert_eq!(guest.cpu.time(), 2);
    }

    #[test]
    fn watchpoints_stop_after_the_access() {
        // mov [2000h], al; mov al, [2004h]; inc dword [2008h]; cmpxchg [200ch], ecx.
        let code: &[&[u8]] = &[
            &[0x88, 0x04, 0x25, 0x00, 0x20, 0, 0],
            &[0x8a, 0x04, 0x25, 0x04, 0x20, 0, 0],
            &[0xff, 0x04, 0x25, 0x08, 0x20, 0, 0],
        ];
        use WatchKind::{Access, Read, Write};
        for (kind, address, length, behind) in [
            (Write, 0x2000, 1, Some(0x1007)),
            (Read, 0x2000, 1, None),
            (Access, 0x2000, 1, Some(0x1007)),
            (Write, 0x2004, 1, None),
            (Read, 0x2004, 1, Some(0x100e)),
            (Access, 0x2001, 4, Some(0x100e)),
            (Write, 0x200b, 1, Some(0x1015)),
            (Read, 0x200b, 9, Some(0x1015)),
            (Access, 0x2005, 3, None),
            (Access, 0x200c, 3, None),
        ] {
            let mut guest = long(&code.concat());
            guest.put(0x1015, &[0xf4]);
            let set = breaks(&[data(kind, address, length)]);
            guest.cpu.set_debugger(&set, Resume::Run);
            let stop = guest.run(100);
            let Some(behind) = behind else {
                assert_eq!(stop, Stop::Idle, "{address:x}");
                continue;
            };
            assert_eq!((stop, guest.state().rip), (Stop::Debug, behind));
            let at = match address {
                0x2001 => 0x2004,
                other => other,
            };
            assert_eq!(guest.cpu.take_hit(), Some(Hit::Watchpoint(kind, at)));
            assert_eq!(guest.run(100), Stop::Idle);
        }
    }

    #[test]
    fn accesses_that_cross_are_seen_whole() {
        // mov [1ffdh], rax: across a page, and into the watched bytes by one.
        let mut guest = long(&[0x48, 0x89, 0x04, 0x25, 0xfd, 0x1f, 0, 0, 0xf4]);
        let set = breaks(&[data(WatchKind::Write, 0x2004, 4)]);
        guest.cpu.set_debugger(&set, Resume::Run);
        assert_eq!(guest.run(100), Stop::Debug);
        let hit = Hit::Watchpoint(WatchKind::Write, 0x2004);
        assert_eq!(guest.cpu.take_hit(), Some(hit));
    }

    #[test]
    fn what_did_not_happen_is_not_told() {
        let mut guest = Guest::new();
        guest.put(0x34, &[0, 0x30, 0, 0]);
        guest.put(0x3000, &[0xf4]);
        // mov [ffffh], ax is #GP; before, a load at a good address by movsw.
        guest.put(0x1000, &[0xa5]);
        guest.change(|state| {
            state.rip = 0x1000;
            state.gpr[RSI] = 0x2000;
            state.gpr[RDI] = 0xffff;
        });
        let set = breaks(&[data(WatchKind::Access, 0x2000, 2)]);
        guest.cpu.set_debugger(&set, Resume::Run);
        assert_eq!(guest.run(100), Stop::Idle);
        assert_eq!(guest.state().rip, 0x3001);
    }

    #[test]
    fn repeated_instructions_stop_in_their_middle() {
        // rep stosb.
        let mut guest = long(&[0xf3, 0xaa, 0xf4]);
        guest.change(|state| {
            state.gpr[RCX] = 16;
            state.gpr[RDI] = 0x2000;
        });
        let set = breaks(&[data(WatchKind::Write, 0x2005, 1)]);
        guest.cpu.set_debugger(&set, Resume::Run);
        assert_eq!(guest.run(100), Stop::Debug);
        let state = guest.state();
        assert_eq!((state.rip, state.gpr[RCX]), (0x1000, 10));
        for left in [9, 8] {
            assert_eq!(step(&mut guest), 0x1000);
            assert_eq!(guest.state().gpr[RCX], left);
        }
        guest.cpu.set_debugger(&Breaks::new(), Resume::Run);
        assert_eq!(guest.run(100), Stop::Idle);
        assert_eq!(guest.state().gpr[RDI], 0x2010);
    }

    #[test]
    fn the_processors_own_accesses_are_seen() {
        let mut guest = Guest::new();
        guest.put(0x18, &[0, 0x30, 0, 0]);
        guest.put(0x1000, &[0x0f, 0x0b]);
        guest.put(0x3000, &[0xf4]);
        guest.change(|state| {
            state.rip = 0x1000;
            state.gpr[crate::cpu::gpr::RSP] = 0x800;
        });
        // The flags that are pushed, and the vector.
        for (kind, address) in [(WatchKind::Write, 0x7fe), (WatchKind::Read, 0x18)] {
            guest.change(|state| state.rip = 0x1000);
            let set = breaks(&[data(kind, address + guest.state().ss.base, 2)]);
            guest.change(|state| state.gpr[crate::cpu::gpr::RSP] = 0x800);
            guest.cpu.set_debugger(&set, Resume::Run);
            assert_eq!(guest.run(100), Stop::Debug, "{address:x}");
            assert_eq!(guest.state().rip, 0x3000);
        }
    }

    #[test]
    fn a_step_and_a_reset_do_not_forget_what_is_set() {
        let mut guest = long(&[0x90, 0x90, 0xf4]);
        let set = breaks(&[code(0x1001)]);
        guest.cpu.set_debugger(&set, Resume::Run);
        guest.change(|state| state.rflags |= RFlags::CARRY_FLAG.bits());
        assert_eq!(guest.run(100), Stop::Debug);
        assert_eq!(guest.state().rip, 0x1001);
    }
}
