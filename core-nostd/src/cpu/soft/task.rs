//! Hardware task switches.
//!
//! Source: Intel SDM volume 3, chapter 7 "Task Management"; offsets are those of figures 7-2 (32-bit
//! task-state segment) and 7-10 (16-bit). Long mode has no task switches.
//!
//! Everything that could fail before the new task is in charge is tried first. What fails afterwards fails in
//! the new task, as table 7-1 says.

use super::access::sized;
use super::segment::{Descriptor, is_null, null_segment, rpl, system};
use super::transfer::FLAGS;
use super::{Bus, Cpu, Exception, Outcome};
use crate::cpu::alu::Word as _;
use crate::cpu::decode::{SegmentRegister, Size};
use crate::cpu::mmu::{Access, Mode};
use crate::cpu::state::Segment;
use x86_64::registers::control::Cr0Flags;
use x86_64::registers::rflags::RFlags;

/// Selector of the task that called this one.
const LINK: u64 = 0;
/// CR3, in the 32-bit segment only.
const CR3: u64 = 0x1c;
/// T, in bit 0, in the 32-bit segment only.
const TRAP: u64 = 0x64;
/// DR7: L0 to L3 and LE.
const LOCAL_BREAKPOINTS: u64 = 0x155;
/// DR6: BT, the trap of a task with T set.
const BT: u64 = 1 << 15;

/// Where a kind of task-state segment has what.
struct Layout {
    /// Size of a slot.
    size: Size,
    /// Instruction pointer; flags and eight general registers follow.
    rip: u64,
    /// ES; the others follow in the order of encodings.
    segments: u64,
    /// How many segment registers there are.
    count: usize,
    ldt: u64,
    /// The limit must not be below this.
    limit: u32,
}

static TSS_16: Layout = Layout {
    size: Size::Word,
    rip: 0x0e,
    segments: 0x22,
    count: 4,
    ldt: 0x2a,
    limit: 0x2b,
};

static TSS_32: Layout = Layout {
    size: Size::Dword,
    rip: 0x20,
    segments: 0x48,
    count: 6,
    ldt: 0x60,
    limit: 0x67,
};

/// The layout of a task-state segment of a type.
fn layout(kind: u8) -> &'static Layout {
    if kind & 8 != 0 { &TSS_32 } else { &TSS_16 }
}

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// An interrupt or exception, with the flags as they are saved.
    Interrupt(u64),
    /// IRET with NT set.
    Return,
}

impl Switch {
    /// The new task returns to the old one.
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Interrupt(_))
    }
}

impl Cpu {
    /// Switches to the task of a task gate that may be used.
    pub(super) fn switch_through_gate(
        &mut self,
        bus: &mut Bus<'_>,
        gate: Descriptor,
        switch: Switch,
        rip: u64,
    ) -> Outcome {
        let failure = Exception::GeneralProtection;
        let selector = gate.gate_selector();
        if is_null(selector) || selector & 4 != 0 {
            return self.fail(failure, selector);
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        let available = matches!(descriptor.kind(), system::TSS | system::TSS_16);
        if descriptor.is_segment() || !available {
            return self.fail(failure, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.switch_task(bus, descriptor, selector, switch, rip)
    }

    /// IRET with NT set: back to the task that called this one.
    pub(super) fn return_from_task(&mut self, bus: &mut Bus<'_>) -> Outcome {
        let failure = Exception::InvalidTss;
        if self.tr.unusable || self.tr.limit < 1 {
            return self.fail(failure, self.tr.selector);
        }
        let selector: u16 = self.load_system(bus, self.tr.base.wrapping_add(LINK))?;
        if is_null(selector) || selector & 4 != 0 {
            return self.fail(failure, selector);
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        let busy = [
            system::TSS | system::TSS_BUSY,
            system::TSS_16 | system::TSS_BUSY,
        ];
        if descriptor.is_segment() || !busy.contains(&descriptor.kind()) {
            return self.fail(failure, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.switch_task(bus, descriptor, selector, Switch::Return, self.next_rip)
    }

    /// Raises the page fault that an access to the first bytes of a segment would raise.
    fn probe(
        &mut self,
        bus: &mut Bus<'_>,
        segment: &Segment,
        last: u64,
        access: Access,
    ) -> Outcome {
        // Less than a page: no byte is in a third one.
        for offset in [0, last] {
            let linear = segment.base.wrapping_add(offset);
            if let Err(fault) = self.mmu.translate(bus, linear, Mode::Supervisor, access) {
                return Err(self.access_fault(fault, SegmentRegister::Ds));
            }
        }
        Ok(())
    }

    /// Switches to a task; `rip` is where the old one will go on.
    pub(super) fn switch_task(
        &mut self,
        bus: &mut Bus<'_>,
        descriptor: Descriptor,
        selector: u16,
        switch: Switch,
        rip: u64,
    ) -> Outcome {
        let mut new = descriptor.segment(selector);
        let old = self.tr;
        let (to, from) = (layout(new.kind), layout(old.kind));
        if new.limit < to.limit {
            return self.fail(Exception::InvalidTss, selector);
        }
        if old.unusable || old.limit < from.limit {
            return self.fail(Exception::InvalidTss, old.selector);
        }
        self.probe(bus, &old, from.limit.into(), Access::Write)?;
        let access = if switch.nests() {
            Access::Write
        } else {
            Access::Read
        };
        self.probe(bus, &new, to.limit.into(), access)?;
        if switch != Switch::Return {
            self.mark_task(bus, selector, true)?;
        }
        if !switch.nests() {
            self.mark_task(bus, old.selector, false)?;
        }
        self.save_task(bus, &old, from, switch, rip)?;
        let mut added = 0;
        if switch.nests() {
            self.store_system(bus, new.base.wrapping_add(LINK), old.selector)?;
            added = RFlags::NESTED_TASK.bits();
        }
        new.kind |= system::TSS_BUSY;
        self.load_task(bus, new, to, added)
    }

    /// Saves the registers in the task-state segment of the task that is left.
    fn save_task(
        &mut self,
        bus: &mut Bus<'_>,
        tss: &Segment,
        layout: &Layout,
        switch: Switch,
        rip: u64,
    ) -> Outcome {
        let flags = match switch {
            Switch::Interrupt(flags) => flags,
            Switch::Return => self.rflags() & !RFlags::NESTED_TASK.bits(),
            Switch::Jump | Switch::Call => self.rflags(),
        };
        let bytes = u64::from(layout.size.bytes());
        let mut at = tss.base.wrapping_add(layout.rip);
        for index in 0..10 {
            let value = match index {
                0 => rip,
                1 => flags,
                _ => self.registers[index - 2],
            };
            sized!(layout.size, W => self.store_system(bus, at, value as W)?);
            at = at.wrapping_add(bytes);
        }
        let mut at = tss.base.wrapping_add(layout.segments);
        for index in 0..layout.count {
            self.store_system(bus, at, self.segments[index].selector)?;
            at = at.wrapping_add(bytes);
        }
        Ok(())
    }

    /// Loads the registers of the task that is entered; from here on faults are its own.
    fn load_task(
        &mut self,
        bus: &mut Bus<'_>,
        tss: Segment,
        layout: &Layout,
        added: u64,
    ) -> Outcome {
        let wide = layout.size == Size::Dword;
        let bytes = u64::from(layout.size.bytes());
        let mut values = [0; 10];
        let mut at = tss.base.wrapping_add(layout.rip);
        for value in &mut values {
            *value = sized!(layout.size, W => self.load_system::<W>(bus, at)?.zero_extend());
            at = at.wrapping_add(bytes);
        }
        let mut selectors = [0; 6];
        let mut at = tss.base.wrapping_add(layout.segments);
        for selector in &mut selectors[..layout.count] {
            *selector = self.load_system::<u16>(bus, at)?;
            at = at.wrapping_add(bytes);
        }
        let ldt: u16 = self.load_system(bus, tss.base.wrapping_add(layout.ldt))?;
        let (mut cr3, mut trap) = (0, 0);
        if wide {
            cr3 = self.load_system::<u32>(bus, tss.base.wrapping_add(CR3))?;
            trap = self.load_system::<u16>(bus, tss.base.wrapping_add(TRAP))? & 1;
        }
        let [rip, flags, registers @ ..] = values;
        self.tr = tss;
        let paging = self.mmu.registers().paging;
        // Nothing that CR0.TS depends on or changes can be refused.
        let task_switched = paging.cr0 | Cr0Flags::TASK_SWITCHED.bits();
        let _ = self.mmu.write_cr0(task_switched, paging.efer, bus);
        let paged = self.cr0().contains(Cr0Flags::PAGING);
        let tables = if wide && paged {
            self.mmu.write_cr3(cr3.into(), bus)
        } else {
            Ok(())
        };
        for (register, value) in self.registers.iter_mut().zip(registers) {
            // A 16-bit task has nothing for the upper halves.
            let kept = if wide { 0 } else { *register & 0xffff_0000 };
            *register = kept | value;
        }
        (self.rip, self.next_rip) = (rip, rip);
        self.dr7 &= !LOCAL_BREAKPOINTS;
        self.set_rflags((flags | added) & FLAGS);
        let code = selectors[SegmentRegister::Cs as usize];
        for (segment, selector) in self.segments.iter_mut().zip(selectors) {
            // Until they are loaded. Of all of them SS tells the privilege level.
            *segment = null_segment(selector, rpl(code));
        }
        self.ldtr = null_segment(ldt, 0);
        self.changed_mode();
        if tables.is_err() {
            return self.fail(Exception::InvalidTss, tss.selector);
        }
        let loaded = self.load_task_segments(bus, selectors, ldt);
        self.changed_mode();
        loaded?;
        self.check_entry(&self.segments[SegmentRegister::Cs as usize].clone(), rip)?;
        if trap != 0 {
            self.debug_trap_due(BT);
        }
        Ok(())
    }

    /// Loads LDTR and all segment registers for a new task.
    fn load_task_segments(&mut self, bus: &mut Bus<'_>, selectors: [u16; 6], ldt: u16) -> Outcome {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let failure = Exception::InvalidTss;
        self.ldtr = self.local_table(bus, ldt, failure, failure)?;
        let selector_of = |register: SegmentRegister| selectors[register as usize];
        if self.v86() {
            for register in [Es, Cs, Ss, Ds, Fs, Gs] {
                self.segments[register as usize] =
                    self.plain_segment(register, selector_of(register));
            }
            return Ok(());
        }
        let selector = selector_of(Cs);
        let level = rpl(selector);
        // Before CS: with it, a handler of the same level can tell what is wrong with CS.
        let stack = self.stack_segment(bus, selector_of(Ss), level, failure)?;
        self.segments[Ss as usize] = stack;
        if is_null(selector) {
            return self.fail(failure, selector);
        }
        let code = self.descriptor(bus, selector, failure)?;
        let allowed = if code.is_conforming() {
            code.dpl() <= level
        } else {
            code.is_code() && code.dpl() == level
        };
        if !allowed {
            return self.fail(failure, selector);
        }
        if !code.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.segments[Cs as usize] = self.use_descriptor(bus, code, selector)?;
        for register in [Ds, Es, Fs, Gs] {
            let segment = self.data_segment(bus, selector_of(register), failure)?;
            self.segments[register as usize] = segment;
        }
        Ok(())
    }
}
