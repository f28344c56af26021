//! Segments and descriptors: loads of segment registers, descriptor tables, and what may be asked of
//! descriptors.
//!
//! Source: Intel SDM volume 3, chapter 3 "Protected-Mode Memory Management", 5.2 to 5.8, 20.1 (real
//! mode), volume 2, the "Operation" of each instruction, whose order of checks is kept.
//!
//! What manuals leave open is as processors do it: in real mode a load changes selector and base only, so
//! that limits from protected mode stay; SGDT and SIDT store the whole base at every operand size;
//! LAR shows the limit's bits 19 to 16.

use super::access::{EXCHANGES, Intent, sized};
use super::{Bus, Cpu, Exception, Outcome, SHADOW_SS, data_check};
use crate::cpu::alu::Word as _;
use crate::cpu::decode::{Instruction, Operand, Operation, RegisterClass, SegmentRegister, Size};
use crate::cpu::mmu::Mode;
use crate::cpu::state::{DescriptorTable, Segment};

/// Selector: the requested privilege level.
const RPL: u16 = 3;
/// Selector: TI, the descriptor is in the local table.
const LOCAL: u16 = 1 << 2;
/// Bit 8 of a descriptor's upper half: a code or data segment was used.
const ACCESSED: u32 = 1 << 8;
/// Bit 9 of a descriptor's upper half: a task is busy.
const BUSY: u32 = 1 << 9;
/// Bits 12 to 8 of the last part of a 16-byte descriptor, which must be zero.
const UPPER_TYPE: u64 = 0x1f << 40;
/// What LAR shows of a descriptor's upper half.
const ACCESS_RIGHTS: u32 = 0x00ff_ff00;

/// Types of system descriptors (SDM volume 3, table 3-2).
pub(super) mod system {
    pub(crate) const TSS_16: u8 = 1;
    pub(crate) const LDT: u8 = 2;
    pub(crate) const CALL_GATE_16: u8 = 4;
    pub(crate) const TASK_GATE: u8 = 5;
    pub(crate) const INTERRUPT_GATE_16: u8 = 6;
    pub(crate) const TRAP_GATE_16: u8 = 7;
    pub(crate) const TSS: u8 = 9;
    pub(crate) const CALL_GATE: u8 = 0xc;
    pub(crate) const INTERRUPT_GATE: u8 = 0xe;
    pub(crate) const TRAP_GATE: u8 = 0xf;
    /// Bit 1 of a task-state segment's type.
    pub(crate) const TSS_BUSY: u8 = 2;
}

/// Makes an exception of a selector that is at fault.
pub(super) type Failure = fn(u16) -> Exception;

/// The privilege level that a selector asks for.
pub(super) const fn rpl(selector: u16) -> u8 {
    (selector & RPL) as u8
}

/// Whether a selector names no descriptor.
pub(super) const fn is_null(selector: u16) -> bool {
    selector & !RPL == 0
}

/// The same selector with another RPL.
pub(super) const fn with_rpl(selector: u16, rpl: u8) -> u16 {
    selector & !RPL | rpl as u16
}

/// The first eight bytes of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    const fn upper(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn kind(self) -> u8 {
        (self.0 >> 40) as u8 & 0xf
    }

    pub(super) const fn dpl(self) -> u8 {
        (self.0 >> 45) as u8 & 3
    }

    pub(super) const fn present(self) -> bool {
        self.0 >> 47 & 1 != 0
    }

    /// Not a system segment or gate.
    pub(super) const fn is_segment(self) -> bool {
        self.0 >> 44 & 1 != 0
    }

    pub(super) const fn is_code(self) -> bool {
        self.is_segment() && self.kind() & 8 != 0
    }

    pub(super) const fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    pub(super) const fn is_writable_data(self) -> bool {
        self.is_segment() && self.kind() & 0b1010 == 0b0010
    }

    const fn is_readable(self) -> bool {
        self.is_segment() && self.kind() & 0b1010 != 0b1000
    }

    pub(super) const fn long(self) -> bool {
        self.0 >> 53 & 1 != 0
    }

    pub(super) const fn big(self) -> bool {
        self.0 >> 54 & 1 != 0
    }

    const fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 56 << 24
    }

    pub(super) const fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 >> 55 & 1 != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// A gate's selector.
    pub(super) const fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// A gate's offset: 32 bits.
    pub(super) const fn gate_offset(self) -> u32 {
        (self.0 & 0xffff | self.0 >> 32 & 0xffff_0000) as u32
    }

    /// How many parameters a call gate copies.
    pub(super) const fn gate_parameters(self) -> u8 {
        (self.0 >> 32) as u8 & 0x1f
    }

    /// The stack that a gate of long mode asks for: IST, 0 to 7.
    pub(super) const fn gate_stack(self) -> u8 {
        (self.0 >> 32) as u8 & 7
    }

    /// What a segment register holds once this is loaded.
    pub(super) const fn segment(self, selector: u16) -> Segment {
        Segment {
            base: self.base(),
            limit: self.limit(),
            selector,
            // A code or data segment has been accessed by then.
            kind: self.kind() | self.is_segment() as u8,
            dpl: self.dpl(),
            code_or_data: self.is_segment(),
            present: self.present(),
            available: self.0 >> 52 & 1 != 0,
            long: self.long(),
            big: self.big(),
            granular: self.0 >> 55 & 1 != 0,
            unusable: false,
        }
    }
}

/// What a segment register holds after a null selector. Of SS the privilege level remains.
pub(super) const fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment {
        base: 0,
        limit: 0,
        selector,
        kind: 0,
        dpl,
        code_or_data: false,
        present: false,
        available: false,
        long: false,
        big: false,
        granular: false,
        unusable: true,
    }
}

impl Cpu {
    /// Raises an exception about a selector.
    #[cold]
    pub(super) fn fail<T>(&mut self, failure: Failure, selector: u16) -> Outcome<T> {
        Err(self.raise(failure(selector & !RPL)))
    }

    /// Where a descriptor of so many bytes is; `None` behind its table's limit.
    fn descriptor_address(&self, selector: u16, bytes: u32) -> Option<u64> {
        let (base, limit) = if selector & LOCAL == 0 {
            (self.gdtr.base, self.gdtr.limit.into())
        } else if self.ldtr.unusable {
            return None;
        } else {
            (self.ldtr.base, self.ldtr.limit)
        };
        let offset = selector & !(LOCAL | RPL);
        (u32::from(offset) + bytes - 1 <= limit).then(|| base.wrapping_add(offset.into()))
    }

    /// A descriptor by its selector, which is not null; `failure` where the table has none.
    pub(super) fn descriptor(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        failure: Failure,
    ) -> Outcome<Descriptor> {
        match self.descriptor_address(selector, 8) {
            Some(address) => self.load_system(bus, address).map(Descriptor),
            None => self.fail(failure, selector),
        }
    }

    /// The second half of a descriptor of long mode: bits 63 to 32 of its base or offset, shifted up.
    pub(super) fn descriptor_upper(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        failure: Failure,
    ) -> Outcome<u64> {
        let Some(address) = self.descriptor_address(selector, 16) else {
            return self.fail(failure, selector);
        };
        let upper: u64 = self.load_system(bus, address.wrapping_add(8))?;
        if upper & UPPER_TYPE != 0 {
            return self.fail(failure, selector);
        }
        Ok(upper << 32)
    }

    /// Sets and clears bits in a descriptor's upper half, locked. It is not written if they are so
    /// already.
    fn change_descriptor(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        set: u32,
        clear: u32,
    ) -> Outcome {
        let Some(address) = self.descriptor_address(selector, 8) else {
            return Ok(());
        };
        let address = address.wrapping_add(4);
        let mut old: u32 = self.load_system(bus, address)?;
        for _ in 0..EXCHANGES {
            let new = old & !clear | set;
            if new == old {
                return Ok(());
            }
            if self.data_checks & data_check::DEBUGGER != 0 {
                self.note_access(address, size_of::<u32>(), Intent::Write);
            }
            let exchanged = self
                .mmu
                .compare_exchange(bus, address, Mode::Supervisor, old, new);
            match exchanged {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(found)) => old = found,
                Err(fault) => return Err(self.access_fault(fault, SegmentRegister::Ds)),
            }
        }
        self.store_system(bus, address, old & !clear | set)
    }

    /// Notes in a descriptor that its segment is in use, and makes a segment register's content of it.
    pub(super) fn use_descriptor(
        &mut self,
        bus: &mut Bus<'_>,
        descriptor: Descriptor,
        selector: u16,
    ) -> Outcome<Segment> {
        if descriptor.upper() & ACCESSED == 0 {
            self.change_descriptor(bus, selector, ACCESSED, 0)?;
        }
        Ok(descriptor.segment(selector))
    }

    /// Marks a task in its descriptor as busy, or as available again.
    pub(super) fn mark_task(&mut self, bus: &mut Bus<'_>, selector: u16, busy: bool) -> Outcome {
        if busy {
            self.change_descriptor(bus, selector, BUSY, 0)
        } else {
            self.change_descriptor(bus, selector, 0, BUSY)
        }
    }

    /// A segment in real or virtual-8086 mode.
    pub(super) fn plain_segment(&self, register: SegmentRegister, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        let old = self.segment(register);
        if self.v86() {
            return Segment {
                dpl: 3,
                ..Segment::real(selector, base, 3)
            };
        }
        if old.unusable {
            return Segment::real(selector, base, 3);
        }
        Segment {
            selector,
            base,
            ..*old
        }
    }

    /// Checks a selector for SS at a privilege level: `failure`, or #SS if it is not present.
    pub(super) fn stack_segment(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        cpl: u8,
        failure: Failure,
    ) -> Outcome<Segment> {
        if is_null(selector) {
            return self.fail(failure, 0);
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return self.fail(failure, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::StackFault, selector);
        }
        self.use_descriptor(bus, descriptor, selector)
    }

    /// Checks a selector for DS, ES, FS or GS: `failure`, or #NP.
    pub(super) fn data_segment(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        failure: Failure,
    ) -> Outcome<Segment> {
        if is_null(selector) {
            return Ok(null_segment(selector, 0));
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        let privilege = self.cpl.max(rpl(selector));
        if !descriptor.is_readable() || !descriptor.is_conforming() && privilege > descriptor.dpl()
        {
            return self.fail(failure, selector);
        }
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.use_descriptor(bus, descriptor, selector)
    }

    /// Loads a segment register other than CS.
    pub(super) fn load_segment(
        &mut self,
        bus: &mut Bus<'_>,
        register: SegmentRegister,
        selector: u16,
    ) -> Outcome {
        let segment = if !self.protected() {
            self.plain_segment(register, selector)
        } else if register != SegmentRegister::Ss {
            self.data_segment(bus, selector, Exception::GeneralProtection)?
        } else if is_null(selector) && self.bits64() && self.cpl < 3 && rpl(selector) == self.cpl {
            null_segment(selector, self.cpl)
        } else {
            self.stack_segment(bus, selector, self.cpl, Exception::GeneralProtection)?
        };
        self.segments[register as usize] = segment;
        self.changed_mode();
        Ok(())
    }

    /// The segment register that is an operand.
    fn segment_operand(&mut self, i: &Instruction, place: usize) -> Outcome<SegmentRegister> {
        if let Operand::Register(register) = i.operand(place)
            && register.class == RegisterClass::Segment
            && let Some(segment) = SegmentRegister::from_number(register.number)
        {
            return Ok(segment);
        }
        self.undefined()
    }

    /// A load of SS holds interrupts and debug traps back until the next instruction is done.
    fn shadow_after(&mut self, register: SegmentRegister) {
        if register == SegmentRegister::Ss {
            self.events.shadow |= SHADOW_SS;
            self.changed_waiting();
        }
    }

    /// MOV from and to segment registers.
    pub(super) fn mov_segment(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let to_segment = matches!(i.operand(0), Operand::Register(register)
            if register.class == RegisterClass::Segment);
        if !to_segment {
            let register = self.segment_operand(i, 1)?;
            return self.store_word(bus, i, self.segment(register).selector);
        }
        let register = self.segment_operand(i, 0)?;
        let selector = self.read::<u16>(bus, i, 1)?;
        self.load_segment(bus, register, selector)?;
        self.shadow_after(register);
        Ok(())
    }

    /// Writes 16 bits: to memory as they are, to a register zero-extended to the operand size.
    pub(super) fn store_word(&mut self, bus: &mut Bus<'_>, i: &Instruction, value: u16) -> Outcome {
        if let Operand::Memory(_) = i.operand(0) {
            return self.write(bus, i, 0, value);
        }
        sized!(i.operand_size(), W => self.write(bus, i, 0, value as W))
    }

    /// POP of segment registers.
    pub(super) fn pop_segment(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let register = self.segment_operand(i, 0)?;
        let mut stack = self.stack();
        let selector = stack.pop(self, bus, i.operand_size())? as u16;
        // With POP SS the size of the stack pointer may change.
        self.load_segment(bus, register, selector)?;
        stack.leave(self);
        self.shadow_after(register);
        Ok(())
    }

    /// A far pointer: selector and offset.
    pub(super) fn far_pointer(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        place: usize,
    ) -> Outcome<(u16, u64)> {
        match i.operand(place) {
            Operand::Far { selector, offset } => Ok((selector, offset.into())),
            Operand::Memory(memory) => {
                let size = i.operand_size();
                let at = self.offset(&memory, i.address_size());
                let next = at.wrapping_add(size.bytes().into()) & i.address_size().mask();
                let offset = sized!(size, W => {
                    self.load::<W>(bus, memory.segment, at)?.zero_extend()
                });
                let selector: u16 = self.load(bus, memory.segment, next)?;
                Ok((selector, offset))
            }
            _ => self.undefined(),
        }
    }

    /// LDS, LES, LFS, LGS, LSS.
    pub(super) fn load_far_pointer(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let register = match i.operation() {
            Operation::Lds => SegmentRegister::Ds,
            Operation::Les => SegmentRegister::Es,
            Operation::Lfs => SegmentRegister::Fs,
            Operation::Lgs => SegmentRegister::Gs,
            _ => SegmentRegister::Ss,
        };
        let (selector, offset) = self.far_pointer(bus, i, 1)?;
        self.load_segment(bus, register, selector)?;
        sized!(i.operand_size(), W => self.write(bus, i, 0, offset as W))
    }

    /// #UD outside of protected mode, where there are no descriptors.
    fn with_descriptors(&mut self) -> Outcome {
        if self.protected() {
            Ok(())
        } else {
            self.undefined()
        }
    }

    /// LLDT.
    pub(super) fn load_local_table(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.with_descriptors()?;
        self.check_privileged()?;
        let selector = self.read::<u16>(bus, i, 0)?;
        self.ldtr = self.local_table(
            bus,
            selector,
            Exception::GeneralProtection,
            Exception::SegmentNotPresent,
        )?;
        Ok(())
    }

    /// Checks a selector for LDTR: `failure`, or `absent`.
    pub(super) fn local_table(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        failure: Failure,
        absent: Failure,
    ) -> Outcome<Segment> {
        if is_null(selector) {
            return Ok(null_segment(selector, 0));
        }
        if selector & LOCAL != 0 {
            return self.fail(failure, selector);
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        if descriptor.is_segment() || descriptor.kind() != system::LDT {
            return self.fail(failure, selector);
        }
        let upper = self.upper_base(bus, selector, failure)?;
        if !descriptor.present() {
            return self.fail(absent, selector);
        }
        let mut table = descriptor.segment(selector);
        table.base |= upper;
        Ok(table)
    }

    /// In long mode the upper half of the base in a system descriptor.
    fn upper_base(&mut self, bus: &mut Bus<'_>, selector: u16, failure: Failure) -> Outcome<u64> {
        if self.long_mode() {
            self.descriptor_upper(bus, selector, failure)
        } else {
            Ok(0)
        }
    }

    /// LTR.
    pub(super) fn load_task_register(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let failure = Exception::GeneralProtection;
        self.with_descriptors()?;
        self.check_privileged()?;
        let selector = self.read::<u16>(bus, i, 0)?;
        if is_null(selector) {
            return self.protection();
        }
        if selector & LOCAL != 0 {
            return self.fail(failure, selector);
        }
        let descriptor = self.descriptor(bus, selector, failure)?;
        let available = match descriptor.kind() {
            system::TSS => true,
            system::TSS_16 => !self.long_mode(),
            _ => false,
        };
        if descriptor.is_segment() || !available {
            return self.fail(failure, selector);
        }
        let upper = self.upper_base(bus, selector, failure)?;
        if !descriptor.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        self.mark_task(bus, selector, true)?;
        let mut task = descriptor.segment(selector);
        task.base |= upper;
        task.kind |= system::TSS_BUSY;
        self.tr = task;
        Ok(())
    }

    /// SLDT, STR.
    pub(super) fn store_selector(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.with_descriptors()?;
        self.check_user_mode_instruction()?;
        let segment = if i.operation() == Operation::Sldt {
            &self.ldtr
        } else {
            &self.tr
        };
        self.store_word(bus, i, segment.selector)
    }

    /// SGDT, SIDT.
    pub(super) fn store_table(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_user_mode_instruction()?;
        let (segment, offset) = self.memory_at(i)?;
        let table = if i.operation() == Operation::Sgdt {
            self.gdtr
        } else {
            self.idtr
        };
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
        bytes[2..].copy_from_slice(&table.base.to_le_bytes());
        let length = if self.bits64() { 10 } else { 6 };
        self.store_bytes(bus, segment, offset, &bytes[..length])
    }

    /// LGDT, LIDT.
    pub(super) fn load_table(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_privileged()?;
        let (segment, at) = self.memory_at(i)?;
        let limit: u16 = self.load(bus, segment, at)?;
        let at = at.wrapping_add(2) & i.address_size().mask();
        let base = if self.bits64() {
            let base: u64 = self.load(bus, segment, at)?;
            if !self.canonical_base(base) {
                return self.protection();
            }
            base
        } else {
            let base: u32 = self.load(bus, segment, at)?;
            u64::from(match i.operand_size() {
                Size::Word => base & 0xff_ffff,
                _ => base,
            })
        };
        let table = DescriptorTable { base, limit };
        if i.operation() == Operation::Lgdt {
            self.gdtr = table;
        } else {
            self.idtr = table;
        }
        Ok(())
    }

    /// The descriptor that LAR, LSL, VERR or VERW asks about; `None` for a selector that they find
    /// nothing good about.
    fn visible_descriptor(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
    ) -> Outcome<Option<Descriptor>> {
        if is_null(selector) {
            return Ok(None);
        }
        let Some(address) = self.descriptor_address(selector, 8) else {
            return Ok(None);
        };
        let descriptor = Descriptor(self.load_system(bus, address)?);
        let privilege = self.cpl.max(rpl(selector));
        let visible = descriptor.is_conforming() || privilege <= descriptor.dpl();
        Ok(visible.then_some(descriptor))
    }

    /// LAR, LSL.
    pub(super) fn ask_descriptor(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.with_descriptors()?;
        let selector = self.read::<u16>(bus, i, 1)?;
        let rights = i.operation() == Operation::Lar;
        let long = self.long_mode();
        let found = self.visible_descriptor(bus, selector)?.filter(|found| {
            found.is_segment()
                || match (found.kind() & !system::TSS_BUSY, found.kind()) {
                    (_, system::LDT) | (system::TSS, _) => true,
                    (system::TSS_16, _) => !long,
                    (_, system::CALL_GATE) => rights,
                    (_, system::CALL_GATE_16 | system::TASK_GATE) => rights && !long,
                    _ => false,
                }
        });
        if let Some(found) = found {
            let value = if rights {
                found.upper() & ACCESS_RIGHTS
            } else {
                found.limit()
            };
            sized!(i.operand_size(), W => self.write(bus, i, 0, value as W)?);
        }
        self.flags = self.flags.with_zero(found.is_some());
        Ok(())
    }

    /// VERR, VERW.
    pub(super) fn verify_segment(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.with_descriptors()?;
        let selector = self.read::<u16>(bus, i, 0)?;
        let found = self.visible_descriptor(bus, selector)?;
        let good = found.is_some_and(|found| match i.operation() {
            Operation::Verr => found.is_readable(),
            _ => found.is_writable_data(),
        });
        self.flags = self.flags.with_zero(good);
        Ok(())
    }

    /// ARPL.
    pub(super) fn adjust_rpl(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.with_descriptors()?;
        let source = self.read::<u16>(bus, i, 1)?;
        // What need not be changed is not stored.
        let selector = self.read::<u16>(bus, i, 0)?;
        let raised = rpl(selector) < rpl(source);
        if raised {
            self.write(bus, i, 0, with_rpl(selector, rpl(source)))?;
        }
        self.flags = self.flags.with_zero(raised);
        Ok(())
    }
}
