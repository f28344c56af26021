//! Operands: effective addresses, segments' checks, loads and stores, registers.
//!
//! Source: Intel SDM volume 1, 3.7.5 (effective addresses), volume 3, 5.3 (limits), 5.5 (types),
//! 5.3.1 (64-bit mode), 6.15 "Interrupt 17" (alignment).

use super::{Bus, Cpu, Exception, Outcome, Raised, data_check};
use crate::cpu::alu;
use crate::cpu::decode::{
    Base, Instruction, Memory, Operand, Register, RegisterClass, SegmentRegister, Size,
};
use crate::cpu::mmu::{self, Mode};
use crate::cpu::state::Segment;

/// How often a locked change is tried before it is stored whatever is there by then: a device's
/// register may have another value each time.
pub(super) const EXCHANGES: usize = 16;

/// An operand's type: `u8` to `u64`, to compute with, load and store.
pub(super) trait Word: alu::Word + mmu::Word {}

impl<W: alu::Word + mmu::Word> Word for W {}

/// Runs code once for the type of an operand's size.
macro_rules! sized {
    ($size:expr, $word:ident => $code:expr) => {
        match $size {
            $crate::cpu::decode::Size::Byte => {
                type $word = u8;
                $code
            }
            $crate::cpu::decode::Size::Word => {
                type $word = u16;
                $code
            }
            $crate::cpu::decode::Size::Dword => {
                type $word = u32;
                $code
            }
            $crate::cpu::decode::Size::Qword => {
                type $word = u64;
                $code
            }
        }
    };
}
pub(super) use sized;

/// Whether a segment's limit allows `length` bytes, at least one, at an offset.
pub(super) fn within_limit(segment: &Segment, offset: u64, length: usize) -> bool {
    let last = offset.wrapping_add(length as u64 - 1);
    let limit = u64::from(segment.limit);
    // Data may expand down.
    if segment.kind & 0b1100 == 0b0100 {
        let most = if segment.big { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= most && last >= offset
    } else {
        last <= limit && last >= offset
    }
}

/// What an access does with its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Read,
    Write,
    /// As a load, and of code that cannot be read, too: a cache line by its address.
    Flush,
}

impl Cpu {
    /// A general register at the width of a type. 8-bit registers are the low bytes.
    #[inline]
    pub(super) fn register<W: Word>(&self, number: usize) -> W {
        <W as alu::Word>::truncate(self.registers[number % 16])
    }

    /// Sets a general register: 32-bit values clear the upper half, smaller ones keep the rest.
    #[inline]
    pub(super) fn set_register<W: Word>(&mut self, number: usize, value: W) {
        let register = &mut self.registers[number % 16];
        *register = match W::BITS {
            8 => *register & !0xff | value.zero_extend(),
            16 => *register & !0xffff | value.zero_extend(),
            _ => value.zero_extend(),
        };
    }

    /// A register operand.
    fn register_operand<W: Word>(&self, register: Register) -> W {
        let number = usize::from(register.number);
        match register.class {
            RegisterClass::Gpr8High => alu::Word::truncate(self.registers[number % 16] >> 8),
            RegisterClass::Segment => {
                let segment = self.segments.get(number);
                alu::Word::truncate(segment.map_or(0, |segment| segment.selector.into()))
            }
            _ => self.register(number),
        }
    }

    fn set_register_operand<W: Word>(&mut self, register: Register, value: W) {
        let number = usize::from(register.number);
        match register.class {
            RegisterClass::Gpr8High => {
                let register = &mut self.registers[number % 16];
                *register = *register & !0xff00 | (value.zero_extend() & 0xff) << 8;
            }
            _ => self.set_register(number, value),
        }
    }

    /// The offset of a memory operand in its segment, cut to the address size.
    pub(super) fn offset(&self, memory: &Memory, size: Size) -> u64 {
        let base = match memory.base {
            Base::None => 0,
            Base::Register(number) => self.registers[usize::from(number) % 16],
            Base::Rip => self.next_rip,
        };
        let index = memory
            .index
            .map_or(0, |number| self.registers[usize::from(number) % 16]);
        base.wrapping_add(index.wrapping_mul(memory.scale.into()))
            .wrapping_add(memory.displacement as u64)
            & size.mask()
    }

    /// The linear address of `length` bytes at an offset in a segment, which allows the access.
    #[inline]
    pub(super) fn linear(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        length: usize,
        intent: Intent,
    ) -> Outcome<u64> {
        let linear = if self.bits64() {
            match segment {
                SegmentRegister::Fs | SegmentRegister::Gs => {
                    self.segment(segment).base.wrapping_add(offset)
                }
                // What is not canonical the memory management unit refuses.
                _ => offset,
            }
        } else if self.flat & 1 << segment as u8 != 0 && offset <= 0xffff_ffff - (length as u64 - 1)
        {
            offset
        } else {
            self.checked_linear(segment, offset, length, intent)?
        };
        if self.data_checks != 0 {
            self.check_data(linear, length, intent)?;
        }
        Ok(linear)
    }

    /// The same outside of 64-bit mode with all checks.
    #[cold]
    fn checked_linear(
        &mut self,
        register: SegmentRegister,
        offset: u64,
        length: usize,
        intent: Intent,
    ) -> Outcome<u64> {
        let segment = *self.segment(register);
        let code = segment.kind & 8 != 0;
        // In code bit 1 is "readable", in data "writable".
        let allowed = match (code, intent) {
            _ if segment.unusable => false,
            (true, Intent::Read) => segment.kind & 2 != 0,
            (_, Intent::Flush) => true,
            // In real mode CS may be written: its type says nothing there (volume 3, 20.1.1).
            (true, Intent::Write) => !self.protected(),
            (false, Intent::Read) => true,
            (false, Intent::Write) => segment.kind & 2 != 0,
        };
        if !allowed || !within_limit(&segment, offset, length) {
            return Err(self.raise(if register == SegmentRegister::Ss {
                Exception::SS0
            } else {
                Exception::GP0
            }));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Alignment and data breakpoints.
    #[cold]
    fn check_data(&mut self, linear: u64, length: usize, intent: Intent) -> Outcome {
        // XMM operands whose instruction does not ask for alignment are checked, too: the manual leaves
        // it to the processor. Larger ones have rules of their own.
        let aligned = match length {
            ..=8 | 16 => linear.is_multiple_of(length.next_power_of_two() as u64),
            _ => true,
        };
        // Bytes that are not canonical are #GP or #SS first.
        let last = linear.wrapping_add(length as u64 - 1);
        if self.data_checks & data_check::ALIGNMENT != 0
            && !aligned
            && self.canonical(linear)
            && self.canonical(last)
        {
            return Err(self.raise(Exception::AlignmentCheck));
        }
        if self.data_checks & data_check::WATCH != 0 {
            self.watch(linear, length, intent);
        }
        if self.data_checks & data_check::DEBUGGER != 0 {
            self.note_access(linear, length, intent);
        }
        Ok(())
    }

    /// Loads a word by segment and offset.
    #[inline(never)]
    pub(super) fn load<W: Word>(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
    ) -> Outcome<W> {
        let linear = self.linear(segment, offset, W::SIZE, Intent::Read)?;
        self.mmu
            .read(bus, linear, self.mode)
            .map_err(|fault| self.access_fault(fault, segment))
    }

    /// Stores a word by segment and offset.
    #[inline(never)]
    pub(super) fn store<W: Word>(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
        value: W,
    ) -> Outcome {
        let linear = self.linear(segment, offset, W::SIZE, Intent::Write)?;
        self.mmu
            .write(bus, linear, self.mode, value)
            .map_err(|fault| self.access_fault(fault, segment))
    }

    /// Changes a word by segment and offset: `change` gets the old value and gives the new one and a
    /// result. With `lock` nobody else stores between load and store.
    pub(super) fn modify<W: Word, R>(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
        lock: bool,
        mut change: impl FnMut(W) -> (W, R),
    ) -> Outcome<R> {
        let linear = self.linear(segment, offset, W::SIZE, Intent::Write)?;
        if self.data_checks & data_check::DEBUGGER != 0 {
            self.note_access(linear, W::SIZE, Intent::Read);
        }
        let fault = |cpu: &mut Self, fault| -> Raised { cpu.access_fault(fault, segment) };
        let mut old: W = match self.mmu.read_to_modify(bus, linear, self.mode) {
            Ok(old) => old,
            Err(error) => return Err(fault(self, error)),
        };
        let mut tries = 0;
        loop {
            let (new, result) = change(old);
            if !lock || tries == EXCHANGES {
                return match self.mmu.write(bus, linear, self.mode, new) {
                    Ok(()) => Ok(result),
                    Err(error) => Err(fault(self, error)),
                };
            }
            tries += 1;
            match self.mmu.compare_exchange(bus, linear, self.mode, old, new) {
                Ok(Ok(())) => return Ok(result),
                Ok(Err(found)) => old = found,
                Err(error) => return Err(fault(self, error)),
            }
        }
    }

    /// Loads bytes by segment and offset, 16 at most.
    pub(super) fn load_bytes(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
        to: &mut [u8],
    ) -> Outcome {
        let linear = self.linear(segment, offset, to.len(), Intent::Read)?;
        self.mmu
            .read_bytes(bus, linear, self.mode, to)
            .map_err(|fault| self.access_fault(fault, segment))
    }

    /// Stores bytes by segment and offset, 16 at most.
    pub(super) fn store_bytes(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
        from: &[u8],
    ) -> Outcome {
        let linear = self.linear(segment, offset, from.len(), Intent::Write)?;
        self.mmu
            .write_bytes(bus, linear, self.mode, from)
            .map_err(|fault| self.access_fault(fault, segment))
    }

    /// Loads a word of a descriptor table or task-state segment by linear address: an access of the
    /// processor itself, with supervisor's rights.
    pub(super) fn load_system<W: Word>(&mut self, bus: &mut Bus<'_>, linear: u64) -> Outcome<W> {
        if self.data_checks & data_check::DEBUGGER != 0 {
            self.note_access(linear, W::SIZE, Intent::Read);
        }
        self.mmu
            .read(bus, linear, Mode::Supervisor)
            .map_err(|fault| self.access_fault(fault, SegmentRegister::Ds))
    }

    /// Stores such a word.
    pub(super) fn store_system<W: Word>(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        value: W,
    ) -> Outcome {
        if self.data_checks & data_check::DEBUGGER != 0 {
            self.note_access(linear, W::SIZE, Intent::Write);
        }
        self.mmu
            .write(bus, linear, Mode::Supervisor, value)
            .map_err(|fault| self.access_fault(fault, SegmentRegister::Ds))
    }

    /// The value of an operand, cut to the type.
    pub(super) fn read<W: Word>(
        &mut self,
        bus: &mut Bus<'_>,
        instruction: &Instruction,
        place: usize,
    ) -> Outcome<W> {
        match instruction.operand(place) {
            Operand::Register(register) => Ok(self.register_operand(register)),
            Operand::Memory(memory) => {
                let offset = self.offset(&memory, instruction.address_size());
                self.load(bus, memory.segment, offset)
            }
            Operand::Immediate(value) => Ok(alu::Word::truncate(value)),
            Operand::None | Operand::Relative(_) | Operand::Far { .. } => Ok(W::default()),
        }
    }

    /// Writes an operand.
    pub(super) fn write<W: Word>(
        &mut self,
        bus: &mut Bus<'_>,
        instruction: &Instruction,
        place: usize,
        value: W,
    ) -> Outcome {
        match instruction.operand(place) {
            Operand::Register(register) => {
                self.set_register_operand(register, value);
                Ok(())
            }
            Operand::Memory(memory) => {
                let offset = self.offset(&memory, instruction.address_size());
                self.store(bus, memory.segment, offset, value)
            }
            _ => Ok(()),
        }
    }

    /// Changes an operand, as [`Cpu::modify`] does.
    pub(super) fn update<W: Word, R>(
        &mut self,
        bus: &mut Bus<'_>,
        instruction: &Instruction,
        place: usize,
        mut change: impl FnMut(W) -> (W, R),
    ) -> Outcome<Option<R>> {
        match instruction.operand(place) {
            Operand::Register(register) => {
                let (value, result) = change(self.register_operand(register));
                self.set_register_operand(register, value);
                Ok(Some(result))
            }
            Operand::Memory(memory) => {
                let offset = self.offset(&memory, instruction.address_size());
                self.modify(bus, memory.segment, offset, instruction.lock(), change)
                    .map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The memory operand's segment and offset; every instruction that asks has one.
    pub(super) fn memory_at(
        &mut self,
        instruction: &Instruction,
    ) -> Outcome<(SegmentRegister, u64)> {
        match instruction.memory() {
            Some(memory) => Ok((
                memory.segment,
                self.offset(&memory, instruction.address_size()),
            )),
            None => self.undefined(),
        }
    }
}
