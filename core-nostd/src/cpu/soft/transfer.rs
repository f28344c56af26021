//! Far transfers: JMP, CALL, RET and IRET between segments and privilege levels, and fast system calls.
//!
//! Source: Intel SDM volume 2, the "Operation" of each instruction, whose order of checks is kept;
//! volume 3, 5.8 (privilege), 7.3 (task switches, which are in `task`), 20.2 and 20.3 (virtual-8086
//! mode). SYSCALL and SYSRET outside of 64-bit mode are as AMD's manual says, since most processor models are
//! AMD's and systems use them there; SYSENTER and SYSEXIT in long mode as Intel's.
//!
//! A transfer works on copies. What the processor holds changes only once nothing can fail any more.

use super::access::{Intent, sized, within_limit};
use super::segment::{Descriptor, Failure, is_null, null_segment, rpl, system, with_rpl};
use super::task::Switch;
use super::{Bus, Cpu, Exception, Outcome, data_check};
use crate::cpu::alu::{STATUS, Word as _};
use crate::cpu::decode::{Instruction, SegmentRegister, Size};
use crate::cpu::gpr::{R8, RCX, RDX, RSP};
use crate::cpu::mmu::Mode;
use crate::cpu::state::Segment;
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::model_specific::EferFlags;
use x86_64::registers::rflags::RFlags;

/// R11: the flags of SYSCALL and SYSRET.
const R11: usize = R8 + 3;
/// EFLAGS.IOPL.
pub(super) const IOPL: u64 = RFlags::IOPL_LOW.bits() | RFlags::IOPL_HIGH.bits();
/// Flags that IRET takes at every privilege level.
const RETURNED: u64 =
    STATUS | RFlags::TRAP_FLAG.bits() | RFlags::DIRECTION_FLAG.bits() | RFlags::NESTED_TASK.bits();
/// And with an operand size of 32 or 64 bits.
const RETURNED_32: u64 =
    RFlags::RESUME_FLAG.bits() | RFlags::ALIGNMENT_CHECK.bits() | RFlags::ID.bits();
/// VIF and VIP.
const VIRTUAL_INTERRUPT: u64 =
    RFlags::VIRTUAL_INTERRUPT.bits() | RFlags::VIRTUAL_INTERRUPT_PENDING.bits();
/// Flags that there are, but bit 1.
pub(super) const FLAGS: u64 =
    RETURNED | RETURNED_32 | VIRTUAL_INTERRUPT | IOPL | RFlags::INTERRUPT_FLAG.bits() | VM;
const VM: u64 = RFlags::VIRTUAL_8086_MODE.bits();

/// A stack that may not be the processor's yet: what is pushed and popped changes no register before
/// [`Stack::leave`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack {
    segment: Segment,
    /// RSP, whole.
    pointer: u64,
    /// The stack pointer's size as a mask.
    mask: u64,
    /// Code is 64-bit: the segment says nothing.
    long: bool,
    mode: Mode,
    /// What #SS has as its error code.
    code: u16,
}

impl Stack {
    /// A stack of 64-bit code that the processor itself switches to.
    pub(super) const fn long(pointer: u64) -> Self {
        Self {
            segment: null_segment(0, 0),
            pointer,
            mask: u64::MAX,
            long: true,
            mode: Mode::Supervisor,
            code: 0,
        }
    }

    /// A stack of 16 or 32-bit code that the processor itself switches to.
    pub(super) const fn inner(segment: Segment, pointer: u64) -> Self {
        Self {
            segment,
            pointer,
            mask: if segment.big { 0xffff_ffff } else { 0xffff },
            long: false,
            mode: Mode::Supervisor,
            code: with_rpl(segment.selector, 0),
        }
    }

    /// The linear address of bytes at an offset.
    fn linear(&self, cpu: &mut Cpu, offset: u64, length: usize) -> Outcome<u64> {
        if self.long {
            if !cpu.canonical(offset) {
                return cpu.fail(Exception::StackFault, self.code);
            }
            return Ok(offset);
        }
        if self.segment.unusable || !within_limit(&self.segment, offset, length) {
            return cpu.fail(Exception::StackFault, self.code);
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Alignment, which counts on an application's own stack, and data breakpoints.
    fn check(&self, cpu: &mut Cpu, linear: u64, length: usize, intent: Intent) -> Outcome {
        if cpu.data_checks & data_check::ALIGNMENT != 0
            && self.mode == Mode::User
            && !linear.is_multiple_of(length as u64)
        {
            return Err(cpu.raise(Exception::AlignmentCheck));
        }
        if cpu.data_checks & data_check::WATCH != 0 {
            cpu.watch(linear, length, intent);
        }
        if cpu.data_checks & data_check::DEBUGGER != 0 {
            cpu.note_access(linear, length, intent);
        }
        Ok(())
    }

    /// The pointer moved by a distance.
    fn moved(&self, distance: u64) -> u64 {
        let moved = self.pointer.wrapping_add(distance) & self.mask;
        if self.mask == 0xffff {
            self.pointer & !0xffff | moved
        } else {
            moved
        }
    }

    /// Pushes a value cut to a size.
    pub(super) fn push(
        &mut self,
        cpu: &mut Cpu,
        bus: &mut Bus<'_>,
        size: Size,
        value: u64,
    ) -> Outcome {
        let length = usize::from(size.bytes());
        let pointer = self.moved((length as u64).wrapping_neg());
        let linear = self.linear(cpu, pointer & self.mask, length)?;
        self.check(cpu, linear, length, Intent::Write)?;
        let written = sized!(size, W => cpu.mmu.write(bus, linear, self.mode, value as W));
        written.map_err(|fault| cpu.access_fault(fault, SegmentRegister::Ss))?;
        self.pointer = pointer;
        Ok(())
    }

    /// Pushes several values of a size.
    pub(super) fn push_all(
        &mut self,
        cpu: &mut Cpu,
        bus: &mut Bus<'_>,
        size: Size,
        values: &[u64],
    ) -> Outcome {
        for value in values {
            self.push(cpu, bus, size, *value)?;
        }
        Ok(())
    }

    /// Pops a value of a size, zero-extended.
    pub(super) fn pop(&mut self, cpu: &mut Cpu, bus: &mut Bus<'_>, size: Size) -> Outcome<u64> {
        let length = usize::from(size.bytes());
        let linear = self.linear(cpu, self.pointer & self.mask, length)?;
        self.check(cpu, linear, length, Intent::Read)?;
        let value = sized!(size, W => {
            cpu.mmu.read::<W>(bus, linear, self.mode).map(W::zero_extend)
        });
        self.pointer = self.moved(length as u64);
        value.map_err(|fault| cpu.access_fault(fault, SegmentRegister::Ss))
    }

    /// Passes over bytes.
    pub(super) fn release(&mut self, bytes: u64) {
        self.pointer = self.moved(bytes);
    }

    /// The same stack for handlers of 64-bit code.
    pub(super) const fn as_long(mut self) -> Self {
        self.long = true;
        self.mask = u64::MAX;
        self
    }

    /// Aligns the pointer as interrupts of long mode do.
    pub(super) fn align(&mut self) {
        self.pointer &= !0xf;
    }

    /// Makes the pointer the processor's; the segment is the caller's affair.
    pub(super) fn leave(&self, cpu: &mut Cpu) {
        cpu.registers[RSP] = self.pointer;
    }
}

impl Cpu {
    /// The stack as it is.
    pub(super) fn stack(&self) -> Stack {
        Stack {
            segment: *self.segment(SegmentRegister::Ss),
            pointer: self.registers[RSP],
            mask: self.stack_mask,
            long: self.bits64(),
            mode: self.mode,
            code: 0,
        }
    }

    /// Whether the task-state segment is a 32-bit one; those of long mode are, too.
    pub(super) fn wide_task(&self) -> bool {
        self.tr.kind & 8 != 0
    }

    /// Loads a field of the task-state segment, `size` bytes; #TS if it ends before.
    fn task_field(&mut self, bus: &mut Bus<'_>, offset: u32, size: Size) -> Outcome<u64> {
        let last = offset + u32::from(size.bytes()) - 1;
        if self.tr.unusable || last > self.tr.limit {
            return self.fail(Exception::InvalidTss, self.tr.selector);
        }
        let linear = self.tr.base.wrapping_add(offset.into());
        sized!(size, W => self.load_system::<W>(bus, linear).map(W::zero_extend))
    }

    /// The stack of an inner privilege level, outside of long mode: the segment for SS and the stack.
    pub(super) fn inner_stack(&mut self, bus: &mut Bus<'_>, dpl: u8) -> Outcome<(Segment, Stack)> {
        let dpl_offset = u32::from(dpl);
        // The selector is at the end of each pair: its check covers both.
        let (pointer, selector) = if self.wide_task() {
            let at = dpl_offset * 8 + 4;
            let selector = self.task_field(bus, at + 4, Size::Word)?;
            (self.task_field(bus, at, Size::Dword)?, selector)
        } else {
            let at = dpl_offset * 4 + 2;
            let selector = self.task_field(bus, at + 2, Size::Word)?;
            (self.task_field(bus, at, Size::Word)?, selector)
        };
        let segment = self.stack_segment(bus, selector as u16, dpl, Exception::InvalidTss)?;
        Ok((segment, Stack::inner(segment, pointer)))
    }

    /// The stack of a privilege level, or one of the interrupt stack table (1 to 7), in long mode.
    pub(super) fn long_stack(&mut self, bus: &mut Bus<'_>, dpl: u8, ist: u8) -> Outcome<Stack> {
        let offset = if ist == 0 {
            u32::from(dpl) * 8 + 4
        } else {
            u32::from(ist) * 8 + 28
        };
        let pointer = self.task_field(bus, offset, Size::Qword)?;
        if !self.canonical(pointer) {
            return Err(self.raise(Exception::SS0));
        }
        Ok(Stack::long(pointer))
    }

    /// Whether code may be at an offset: #GP(0) if not.
    pub(super) fn check_entry(&mut self, code: &Segment, rip: u64) -> Outcome {
        let good = if code.long && self.long_mode() {
            self.canonical(rip)
        } else {
            rip <= u64::from(code.limit)
        };
        if good { Ok(()) } else { self.protection() }
    }

    /// Goes on in another code segment. SS and RSP, if they change, have changed before.
    pub(super) fn enter_code(&mut self, code: Segment, rip: u64) {
        self.segments[SegmentRegister::Cs as usize] = code;
        self.next_rip = rip;
        self.changed_mode();
    }

    /// A far transfer in real or virtual-8086 mode: the new CS.
    fn plain_target(&mut self, selector: u16, offset: u64) -> Outcome<Segment> {
        let code = self.plain_segment(SegmentRegister::Cs, selector);
        if offset > u64::from(code.limit) {
            return self.protection();
        }
        Ok(code)
    }

    /// Checks that a descriptor is of code that may run: not both 64-bit and 32-bit.
    fn check_code(&mut self, descriptor: Descriptor, selector: u16, failure: Failure) -> Outcome {
        let contradiction = self.long_mode() && descriptor.long() && descriptor.big();
        if !descriptor.is_code() || contradiction {
            return self.fail(failure, selector);
        }
        Ok(())
    }

    /// Code that is jumped to or called without a change of privilege.
    fn same_level_code(
        &mut self,
        bus: &mut Bus<'_>,
        descriptor: Descriptor,
        selector: u16,
        rpl: u8,
    ) -> Outcome<Segment> {
        let failure = Exception::GeneralProtection;
        self.check_code(descriptor, selector, failure)?;
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            rpl <= self.cpl && descriptor.dpl() == self.cpl
        };
        if !allowed {
            return self.fail(failure, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        let code = self.use_descriptor(bus, descriptor, with_rpl(selector, self.cpl))?;
        Ok(code)
    }

    /// Checks a call gate and finds the code behind it: its descriptor, selector and offset, and
    /// the size of what is pushed.
    fn through_gate(
        &mut self,
        bus: &mut Bus<'_>,
        gate: Descriptor,
        selector: u16,
    ) -> Outcome<(Descriptor, u16, u64, Size)> {
        let failure = Exception::GeneralProtection;
        self.check_gate(gate, selector)?;
        let mut offset = u64::from(gate.gate_offset());
        let long = self.long_mode();
        let size = match gate.kind() {
            _ if long => Size::Qword,
            system::CALL_GATE => Size::Dword,
            _ => Size::Word,
        };
        if size == Size::Word {
            offset &= 0xffff;
        }
        if long {
            offset |= self.descriptor_upper(bus, selector, failure)?;
        }
        let target = gate.gate_selector();
        if is_null(target) {
            return self.protection();
        }
        let code = self.descriptor(bus, target, failure)?;
        let wrong_mode = long && (!code.long() || code.big());
        if !code.is_code() || code.dpl() > self.cpl || wrong_mode {
            return self.fail(failure, target);
        }
        if !code.present() {
            return self.fail(Exception::SegmentNotPresent, target);
        }
        Ok((code, target, offset, size))
    }

    /// Whether a gate or task-state segment may be used by an instruction, and is present.
    pub(super) fn check_gate(&mut self, gate: Descriptor, selector: u16) -> Outcome {
        if gate.dpl() < self.cpl.max(rpl(selector)) {
            return self.fail(Exception::GeneralProtection, selector);
        }
        if !gate.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        Ok(())
    }

    /// JMP and CALL to a task-state segment or task gate.
    fn transfer_to_task(
        &mut self,
        bus: &mut Bus<'_>,
        descriptor: Descriptor,
        selector: u16,
        switch: Switch,
    ) -> Outcome {
        if self.long_mode() {
            return self.fail(Exception::GeneralProtection, selector);
        }
        let kind = descriptor.kind();
        if kind == system::TASK_GATE {
            self.check_gate(descriptor, selector)?;
            return self.switch_through_gate(bus, descriptor, switch, self.next_rip);
        }
        if kind & !system::TSS_BUSY != system::TSS && kind & !system::TSS_BUSY != system::TSS_16 {
            return self.fail(Exception::GeneralProtection, selector);
        }
        // A busy task is found out before an absent one.
        if descriptor.dpl() < self.cpl.max(rpl(selector)) || kind & system::TSS_BUSY != 0 {
            return self.fail(Exception::GeneralProtection, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.switch_task(bus, descriptor, selector, switch, self.next_rip)
    }

    /// Whether a descriptor is a call gate in this mode.
    fn is_call_gate(&self, descriptor: Descriptor) -> bool {
        match descriptor.kind() {
            system::CALL_GATE => true,
            system::CALL_GATE_16 => !self.long_mode(),
            _ => false,
        }
    }

    /// JMP to another segment.
    pub(super) fn jump_far(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (selector, offset) = self.far_pointer(bus, i, 0)?;
        if !self.protected() {
            let code = self.plain_target(selector, offset)?;
            self.enter_code(code, offset);
            return Ok(());
        }
        if is_null(selector) {
            return self.protection();
        }
        let failure = Exception::GeneralProtection;
        let descriptor = self.descriptor(bus, selector, failure)?;
        let (descriptor, selector, offset, rpl) = if descriptor.is_segment() {
            (descriptor, selector, offset, rpl(selector))
        } else if self.is_call_gate(descriptor) {
            let (code, target, offset, _) = self.through_gate(bus, descriptor, selector)?;
            // Of a selector in a gate RPL counts for nothing.
            (code, target, offset, 0)
        } else {
            return self.transfer_to_task(bus, descriptor, selector, Switch::Jump);
        };
        let code = self.same_level_code(bus, descriptor, selector, rpl)?;
        self.check_entry(&code, offset)?;
        self.enter_code(code, offset);
        Ok(())
    }

    /// CALL to another segment.
    pub(super) fn call_far(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (selector, offset) = self.far_pointer(bus, i, 0)?;
        let from = self.segment(SegmentRegister::Cs).selector;
        if !self.protected() {
            let code = self.plain_target(selector, offset)?;
            let mut stack = self.stack();
            let frame = [from.into(), self.next_rip];
            stack.push_all(self, bus, i.operand_size(), &frame)?;
            stack.leave(self);
            self.enter_code(code, offset);
            return Ok(());
        }
        if is_null(selector) {
            return self.protection();
        }
        let failure = Exception::GeneralProtection;
        let descriptor = self.descriptor(bus, selector, failure)?;
        let (code, offset, size) = if descriptor.is_segment() {
            let code = self.same_level_code(bus, descriptor, selector, rpl(selector))?;
            (code, offset, i.operand_size())
        } else if self.is_call_gate(descriptor) {
            let (code, target, offset, size) = self.through_gate(bus, descriptor, selector)?;
            if !code.is_conforming() && code.dpl() < self.cpl {
                let parameters = descriptor.gate_parameters();
                return self.call_inner(bus, code, target, offset, size, parameters);
            }
            let code = self.same_level_code(bus, code, target, 0)?;
            (code, offset, size)
        } else {
            return self.transfer_to_task(bus, descriptor, selector, Switch::Call);
        };
        let mut stack = self.stack();
        if code.long && self.long_mode() {
            stack = stack.as_long();
        }
        stack.push_all(self, bus, size, &[from.into(), self.next_rip])?;
        self.check_entry(&code, offset)?;
        stack.leave(self);
        self.enter_code(code, offset);
        Ok(())
    }

    /// CALL through a gate to more privileged code.
    fn call_inner(
        &mut self,
        bus: &mut Bus<'_>,
        descriptor: Descriptor,
        selector: u16,
        offset: u64,
        size: Size,
        parameters: u8,
    ) -> Outcome {
        let dpl = descriptor.dpl();
        let old = self.segment(SegmentRegister::Ss).selector;
        let from = self.segment(SegmentRegister::Cs).selector;
        let (segment, mut stack) = if self.long_mode() {
            let stack = self.long_stack(bus, dpl, 0)?;
            (null_segment(dpl.into(), dpl), stack)
        } else {
            self.inner_stack(bus, dpl)?
        };
        let frame = [old.into(), self.registers[RSP]];
        stack.push_all(self, bus, size, &frame)?;
        if !self.long_mode() {
            // The last of the parameters is highest.
            let mut outer = self.stack();
            let mut values = [0; 31];
            let values = &mut values[..usize::from(parameters)];
            for value in values.iter_mut().rev() {
                *value = outer.pop(self, bus, size)?;
            }
            stack.push_all(self, bus, size, values)?;
        }
        stack.push_all(self, bus, size, &[from.into(), self.next_rip])?;
        let code = self.use_descriptor(bus, descriptor, with_rpl(selector, dpl))?;
        self.check_entry(&code, offset)?;
        self.segments[SegmentRegister::Ss as usize] = segment;
        stack.leave(self);
        self.enter_code(code, offset);
        Ok(())
    }

    /// Checks the code segment that a far return goes to.
    fn returned_code(&mut self, bus: &mut Bus<'_>, selector: u16) -> Outcome<Segment> {
        let failure = Exception::GeneralProtection;
        if is_null(selector) {
            return self.protection();
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        self.check_code(descriptor, selector, failure)?;
        let level = rpl(selector);
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= level
        } else {
            descriptor.dpl() == level
        };
        if level < self.cpl || !allowed {
            return self.fail(failure, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.use_descriptor(bus, descriptor, selector)
    }

    /// Checks the stack segment that a far return goes to, along with code.
    fn returned_stack(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        code: &Segment,
    ) -> Outcome<Segment> {
        let level = rpl(code.selector);
        if is_null(selector) && self.long_mode() && code.long && level < 3 {
            // Its RPL must be right, too.
            if rpl(selector) != level {
                return self.fail(Exception::GeneralProtection, selector);
            }
            return Ok(null_segment(selector, level));
        }
        self.stack_segment(bus, selector, level, Exception::GeneralProtection)
    }

    /// Makes segments null that less privileged code may not use.
    fn hide_segments(&mut self) {
        use SegmentRegister::{Ds, Es, Fs, Gs};
        for register in [Es, Ds, Fs, Gs] {
            let segment = &mut self.segments[register as usize];
            let conforming = segment.code_or_data && segment.kind & 0b1100 == 0b1100;
            if !segment.unusable && !conforming && segment.dpl < self.cpl {
                // The base stays: of FS and GS it is apart from the selector in 64-bit mode.
                segment.selector = 0;
                segment.unusable = true;
            }
        }
        self.changed_mode();
    }

    /// Returns to code, with or without another stack: the end of RETF and IRET.
    fn return_to(
        &mut self,
        code: Segment,
        rip: u64,
        outer: Option<(Segment, u64)>,
        flags: Option<u64>,
    ) {
        let old = self.cpl;
        if let Some((segment, pointer)) = outer {
            let kept = if segment.big || code.long && self.long_mode() {
                0
            } else {
                self.registers[RSP] & 0xffff_0000
            };
            let mask = match (code.long && self.long_mode(), segment.big) {
                (true, _) => u64::MAX,
                (false, true) => 0xffff_ffff,
                (false, false) => 0xffff,
            };
            self.registers[RSP] = kept | pointer & mask;
            self.segments[SegmentRegister::Ss as usize] = segment;
        }
        if let Some(flags) = flags {
            self.set_rflags(flags);
        }
        self.enter_code(code, rip);
        if self.cpl > old {
            self.hide_segments();
        }
    }

    /// RET to another segment.
    pub(super) fn return_far(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let size = i.operand_size();
        let released = u64::from(self.read::<u16>(bus, i, 0)?);
        let mut stack = self.stack();
        let rip = stack.pop(self, bus, size)?;
        let selector = stack.pop(self, bus, size)? as u16;
        if !self.protected() {
            stack.release(released);
            let code = self.plain_target(selector, rip)?;
            stack.leave(self);
            self.enter_code(code, rip);
            return Ok(());
        }
        let code = self.returned_code(bus, selector)?;
        if rpl(selector) == self.cpl {
            self.check_entry(&code, rip)?;
            // The stack has the size that it has for the code that it returns to.
            if code.long && self.long_mode() {
                stack = stack.as_long();
            }
            stack.release(released);
            stack.leave(self);
            self.enter_code(code, rip);
            return Ok(());
        }
        stack.release(released);
        let pointer = stack.pop(self, bus, size)?;
        let selector = stack.pop(self, bus, size)? as u16;
        let segment = self.returned_stack(bus, selector, &code)?;
        self.check_entry(&code, rip)?;
        let pointer = pointer.wrapping_add(released);
        self.return_to(code, rip, Some((segment, pointer)), None);
        Ok(())
    }

    /// The flags that IRET leaves, of those that it found on the stack.
    fn returned_flags(&self, image: u64, size: Size) -> u64 {
        let wide = size != Size::Word;
        let mut taken = RETURNED;
        if wide {
            taken |= RETURNED_32;
        }
        if self.cpl <= self.iopl() {
            taken |= RFlags::INTERRUPT_FLAG.bits();
        }
        if self.cpl == 0 {
            taken |= IOPL;
            if wide && !self.real_mode() {
                taken |= VIRTUAL_INTERRUPT;
            }
        }
        self.rflags() & !taken | image & taken
    }

    /// IRET.
    pub(super) fn return_from_interrupt(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let size = i.operand_size();
        // It unblocks NMIs even if it fails (SDM volume 3, 6.7.1).
        self.events.nmi_masked = false;
        self.changed_waiting();
        if self.v86() {
            return self.return_in_v86(bus, size);
        }
        if self.protected() && self.flag(RFlags::NESTED_TASK) {
            if self.long_mode() {
                return self.protection();
            }
            return self.return_from_task(bus);
        }
        let mut stack = self.stack();
        let rip = stack.pop(self, bus, size)?;
        let selector = stack.pop(self, bus, size)? as u16;
        let image = stack.pop(self, bus, size)?;
        let flags = self.returned_flags(image, size);
        if self.real_mode() {
            let code = self.plain_target(selector, rip)?;
            stack.leave(self);
            self.set_rflags(flags);
            self.enter_code(code, rip);
            return Ok(());
        }
        let legacy = !self.long_mode();
        if legacy && size == Size::Dword && image & VM != 0 && self.cpl == 0 {
            return self.return_to_v86(bus, stack, selector, rip, image);
        }
        let code = self.returned_code(bus, selector)?;
        if rpl(selector) == self.cpl && !self.bits64() {
            self.check_entry(&code, rip)?;
            stack.leave(self);
            self.return_to(code, rip, None, Some(flags));
            return Ok(());
        }
        let pointer = stack.pop(self, bus, size)?;
        let selector = stack.pop(self, bus, size)? as u16;
        let segment = self.returned_stack(bus, selector, &code)?;
        self.check_entry(&code, rip)?;
        self.return_to(code, rip, Some((segment, pointer)), Some(flags));
        Ok(())
    }

    /// IRET to virtual-8086 mode, once three values are popped.
    fn return_to_v86(
        &mut self,
        bus: &mut Bus<'_>,
        mut stack: Stack,
        code: u16,
        rip: u64,
        image: u64,
    ) -> Outcome {
        use SegmentRegister::{Ds, Es, Fs, Gs, Ss};
        let pointer = stack.pop(self, bus, Size::Dword)?;
        let mut selectors = [0; 5];
        for selector in &mut selectors {
            *selector = stack.pop(self, bus, Size::Dword)? as u16;
        }
        // A segment of that mode has 64 KiB.
        if rip > 0xffff {
            return self.protection();
        }
        self.set_rflags(image & FLAGS);
        for (register, selector) in [Ss, Es, Ds, Fs, Gs].into_iter().zip(selectors) {
            self.segments[register as usize] = self.plain_segment(register, selector);
        }
        self.registers[RSP] = pointer;
        let code = self.plain_segment(SegmentRegister::Cs, code);
        self.enter_code(code, rip);
        Ok(())
    }

    /// IRET in virtual-8086 mode (SDM volume 3, 20.2.7 and 20.3.3.4).
    fn return_in_v86(&mut self, bus: &mut Bus<'_>, size: Size) -> Outcome {
        let trusted = self.iopl() == 3;
        let extended = self.cr4().contains(Cr4Flags::VIRTUAL_8086_MODE_EXTENSIONS);
        if !trusted && (!extended || size != Size::Word) {
            return self.protection();
        }
        let mut stack = self.stack();
        let rip = stack.pop(self, bus, size)?;
        let selector = stack.pop(self, bus, size)? as u16;
        let image = stack.pop(self, bus, size)?;
        let code = self.plain_target(selector, rip)?;
        let flags = if trusted {
            self.returned_flags(image, size)
        } else {
            let interrupt = image & RFlags::INTERRUPT_FLAG.bits() != 0;
            let pending = self.flag(RFlags::VIRTUAL_INTERRUPT_PENDING);
            if image & RFlags::TRAP_FLAG.bits() != 0 || interrupt && pending {
                return self.protection();
            }
            let virtual_flag = RFlags::VIRTUAL_INTERRUPT.bits();
            let flags = self.returned_flags(image, size) & !virtual_flag;
            if interrupt {
                flags | virtual_flag
            } else {
                flags
            }
        };
        stack.leave(self);
        self.set_rflags(flags);
        self.enter_code(code, rip);
        Ok(())
    }

    /// A flat code segment of the fast system calls.
    fn flat_code(selector: u16, dpl: u8, long: bool) -> Segment {
        Segment {
            limit: u32::MAX,
            dpl,
            long,
            big: !long,
            granular: true,
            ..Segment::real(with_rpl(selector, dpl), 0, 0xb)
        }
    }

    /// And of their stack segments.
    fn flat_stack(selector: u16, dpl: u8) -> Segment {
        Segment {
            kind: 3,
            ..Self::flat_code(selector, dpl, false)
        }
    }

    /// #UD where SYSCALL and SYSRET do not exist.
    fn with_system_calls(&mut self) -> Outcome {
        if self.protected() && self.efer().contains(EferFlags::SYSTEM_CALL_EXTENSIONS) {
            Ok(())
        } else {
            self.undefined()
        }
    }

    /// SYSCALL.
    pub(super) fn system_call(&mut self) -> Outcome {
        self.with_system_calls()?;
        let selector = (self.msrs.star >> 32) as u16;
        let resume = RFlags::RESUME_FLAG.bits();
        let flags = self.rflags() & !resume;
        let long = self.long_mode();
        self.registers[RCX] = self.next_rip;
        let (rip, kept) = if long {
            self.registers[R11] = flags;
            let rip = if self.bits64() {
                self.msrs.lstar
            } else {
                self.msrs.cstar
            };
            (rip, !self.msrs.sfmask)
        } else {
            let interrupt = RFlags::INTERRUPT_FLAG.bits();
            (self.msrs.star & 0xffff_ffff, !interrupt)
        };
        self.set_rflags(flags & kept);
        let stack = selector.wrapping_add(8);
        self.segments[SegmentRegister::Ss as usize] = Self::flat_stack(stack, 0);
        self.enter_code(Self::flat_code(selector, 0, long), rip);
        Ok(())
    }

    /// SYSRET.
    pub(super) fn system_return(&mut self, i: &Instruction) -> Outcome {
        self.with_system_calls()?;
        self.check_privileged()?;
        let long = i.operand_size() == Size::Qword;
        let rip = self.registers[RCX];
        if long && !self.canonical(rip) {
            return self.protection();
        }
        let base = (self.msrs.star >> 48) as u16;
        let flags = if self.long_mode() {
            self.registers[R11] & FLAGS & !(VM | RFlags::RESUME_FLAG.bits())
        } else {
            self.rflags() | RFlags::INTERRUPT_FLAG.bits()
        };
        self.set_rflags(flags);
        let stack = base.wrapping_add(8);
        self.segments[SegmentRegister::Ss as usize] = Self::flat_stack(stack, 3);
        if long {
            self.enter_code(Self::flat_code(base.wrapping_add(16), 3, true), rip);
        } else {
            self.enter_code(Self::flat_code(base, 3, false), rip & 0xffff_ffff);
        }
        self.system_returned();
        Ok(())
    }

    /// #GP(0) where SYSENTER and SYSEXIT do not work; the selector they count from.
    fn system_entry(&mut self) -> Outcome<u16> {
        let selector = self.msrs.sysenter_cs as u16;
        if self.real_mode() || is_null(selector) {
            return self.protection();
        }
        Ok(with_rpl(selector, 0))
    }

    /// SYSENTER.
    pub(super) fn system_enter(&mut self) -> Outcome {
        let selector = self.system_entry()?;
        let cleared = VM | RFlags::INTERRUPT_FLAG.bits() | RFlags::RESUME_FLAG.bits();
        self.set_rflags(self.rflags() & !cleared);
        let long = self.long_mode();
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.registers[RSP] = self.msrs.sysenter_esp & mask;
        let stack = selector.wrapping_add(8);
        self.segments[SegmentRegister::Ss as usize] = Self::flat_stack(stack, 0);
        let rip = self.msrs.sysenter_eip & mask;
        self.enter_code(Self::flat_code(selector, 0, long), rip);
        Ok(())
    }

    /// SYSEXIT.
    pub(super) fn system_exit(&mut self, i: &Instruction) -> Outcome {
        let selector = self.system_entry()?;
        self.check_privileged()?;
        let long = i.operand_size() == Size::Qword;
        let (pointer, rip) = (self.registers[RCX], self.registers[RDX]);
        if long && !(self.canonical(pointer) && self.canonical(rip)) {
            return self.protection();
        }
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.registers[RSP] = pointer & mask;
        let code = selector.wrapping_add(if long { 32 } else { 16 });
        let stack = code.wrapping_add(8);
        self.segments[SegmentRegister::Ss as usize] = Self::flat_stack(stack, 3);
        self.enter_code(Self::flat_code(code, 3, long), rip & mask);
        Ok(())
    }

    /// BOUND: #BR where an index is outside of its bounds.
    pub(super) fn check_bounds(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (segment, at) = self.memory_at(i)?;
        let bytes = u64::from(i.operand_size().bytes());
        let next = at.wrapping_add(bytes) & i.address_size().mask();
        let inside = if i.operand_size() == Size::Word {
            let index = self.read::<u16>(bus, i, 0)? as i16;
            let lower = self.load::<u16>(bus, segment, at)? as i16;
            let upper = self.load::<u16>(bus, segment, next)? as i16;
            (lower..=upper).contains(&index)
        } else {
            let index = self.read::<u32>(bus, i, 0)? as i32;
            let lower = self.load::<u32>(bus, segment, at)? as i32;
            let upper = self.load::<u32>(bus, segment, next)? as i32;
            (lower..=upper).contains(&index)
        };
        if inside {
            Ok(())
        } else {
            Err(self.raise(Exception::BoundRange))
        }
    }
}
