//! System instructions: control registers, flags, caches and translations, time, random numbers.
//!
//! Source: Intel SDM volume 2 for each instruction, volume 3, 2.5 (control registers), 4.10.4
//! (INVLPG, INVPCID), 21.3 (virtual interrupts with CR4.VME and CR4.PVI).
//!
//! There are no caches: instructions about them check their addresses and privileges, and do
//! nothing. There is no system management mode: RSM is #UD. MONITOR and MWAIT are #UD, as a
//! processor without their feature has it: whoever waits is to use HLT. RDPMC is #GP(0) for every
//! counter, as there are none.

use core::sync::atomic::{Ordering, fence};

use super::access::{Intent, sized};
use super::cpuid::Feature;
use super::{Bus, Cpu, Exception, Outcome, SHADOW_STI};
use crate::cpu::Activity;
use crate::cpu::alu::{CF, LazyFlags, Word as _};
use crate::cpu::decode::{
    Instruction, Operand, Operation, Register, RegisterClass, SegmentRegister, Size,
};
use crate::cpu::gpr::{RAX, RCX, RDX, RSP};
use crate::cpu::mmu::{Invpcid, ReservedPointer};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;
use x86_64::registers::rflags::RFlags;
use x86_64::registers::xcontrol::XCr0Flags;

/// CR0's bits that there are. Others can't be set, and ET can't be cleared.
const CR0_BITS: Cr0Flags = Cr0Flags::PROTECTED_MODE_ENABLE
    .union(Cr0Flags::MONITOR_COPROCESSOR)
    .union(Cr0Flags::EMULATE_COPROCESSOR)
    .union(Cr0Flags::TASK_SWITCHED)
    .union(Cr0Flags::NUMERIC_ERROR)
    .union(Cr0Flags::WRITE_PROTECT)
    .union(Cr0Flags::ALIGNMENT_MASK)
    .union(Cr0Flags::NOT_WRITE_THROUGH)
    .union(Cr0Flags::CACHE_DISABLE)
    .union(Cr0Flags::PAGING);
/// What LMSW changes; it can't clear PE.
const LMSW_BITS: u64 = 0b1111;
/// Bits 11 to 0 of CR3: the process context, with CR4.PCIDE.
const PCID: u64 = 0xfff;
/// Bit 63 of what is moved to CR3, with CR4.PCIDE.
const CR3_KEEP: u64 = 1 << 63;
/// Task-state segments of 16 bits lack this bit of their type.
const TSS_WIDE: u8 = 0b1000;
/// EFLAGS.IOPL.
const IOPL: u64 = RFlags::IOPL_LOW.bits() | RFlags::IOPL_HIGH.bits();
/// Flags that POPF changes in CPL 0, apart from the status flags.
const POPF: u64 = RFlags::TRAP_FLAG.bits()
    | RFlags::DIRECTION_FLAG.bits()
    | RFlags::NESTED_TASK.bits()
    | RFlags::ALIGNMENT_CHECK.bits()
    | RFlags::ID.bits()
    | RFlags::INTERRUPT_FLAG.bits()
    | IOPL
    | crate::cpu::alu::STATUS;
/// Bits of the time stamp counter in EAX.
const LOW: u64 = 0xffff_ffff;

impl Cpu {
    /// #GP(0) unless CPL is 0.
    pub(super) fn check_privileged(&mut self) -> Outcome {
        if self.cpl == 0 {
            Ok(())
        } else {
            self.protection()
        }
    }

    /// EFLAGS.IOPL.
    pub(super) fn iopl(&self) -> u8 {
        (self.system_flags >> 12 & 3) as u8
    }

    /// #UD in real and virtual-8086 mode: for what is VEX-encoded.
    pub(super) fn check_vex(&mut self) -> Outcome {
        if self.protected() {
            Ok(())
        } else {
            self.undefined()
        }
    }

    /// Whether a base address may be loaded: canonical by the widest addresses that the processor
    /// has, whatever paging is in use.
    pub(super) fn canonical_base(&self, address: u64) -> bool {
        let unused = if self.has(Feature::LA57) { 7 } else { 16 };
        ((address << unused) as i64 >> unused) as u64 == address
    }

    /// Sets the base of FS or GS, and nothing else.
    pub(super) fn set_segment_base(&mut self, register: SegmentRegister, base: u64) {
        self.segments[register as usize].base = base;
        self.changed_mode();
    }

    /// Sets flags among those that are not status flags.
    fn set_flag(&mut self, flag: RFlags, on: bool) {
        if on {
            self.system_flags |= flag.bits();
        } else {
            self.system_flags &= !flag.bits();
        }
    }

    /// Raises what PAE's pointers raise when they are loaded.
    fn loaded(&mut self, result: Result<(), ReservedPointer>) -> Outcome {
        match result {
            Ok(()) => {
                self.changed_mode();
                Ok(())
            }
            Err(ReservedPointer) => self.protection(),
        }
    }

    /// MOV from and to control registers.
    pub(super) fn mov_control(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_privileged()?;
        match (i.operand(0), i.operand(1)) {
            (
                Operand::Register(Register {
                    class: RegisterClass::Control,
                    number,
                }),
                _,
            ) => {
                let value = sized!(i.operand_size(), W => self.read::<W>(bus, i, 1)?.zero_extend());
                match number {
                    0 => self.set_cr0(bus, value),
                    2 => {
                        self.cr2 = value;
                        Ok(())
                    }
                    3 => self.set_cr3(bus, value),
                    4 => self.set_cr4(bus, value),
                    _ => {
                        if value > 15 {
                            return self.protection();
                        }
                        self.exactly(bus)?;
                        bus.platform.set_task_priority(value as u8);
                        // Another interrupt may be let in now, or none.
                        bus.signals.raise();
                        Ok(())
                    }
                }
            }
            (_, Operand::Register(Register { number, .. })) => {
                let value = match number {
                    0 => self.cr0().bits(),
                    2 => self.cr2,
                    3 => self.mmu.registers().paging.cr3,
                    4 => self.cr4().bits(),
                    _ => bus.platform.task_priority().into(),
                };
                match i.operand_size() {
                    Size::Qword => self.write(bus, i, 0, value),
                    _ => self.write(bus, i, 0, value as u32),
                }
            }
            _ => self.undefined(),
        }
    }

    /// Sets CR0, if a processor would.
    pub(super) fn set_cr0(&mut self, bus: &mut Bus<'_>, value: u64) -> Outcome {
        if value >> 32 != 0 {
            return self.protection();
        }
        let old = self.cr0();
        let new = Cr0Flags::from_bits_retain(value) & CR0_BITS | Cr0Flags::EXTENSION_TYPE;
        let paging = new.contains(Cr0Flags::PAGING);
        let through = new.contains(Cr0Flags::NOT_WRITE_THROUGH);
        if paging && !new.contains(Cr0Flags::PROTECTED_MODE_ENABLE)
            || through && !new.contains(Cr0Flags::CACHE_DISABLE)
        {
            return self.protection();
        }
        let mut efer = self.efer();
        let cs_long = self.segment(SegmentRegister::Cs).long;
        if paging && !old.contains(Cr0Flags::PAGING) {
            if efer.contains(EferFlags::LONG_MODE_ENABLE) {
                let pae = self.cr4().contains(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION);
                if !pae || cs_long || self.tr.kind & TSS_WIDE == 0 {
                    return self.protection();
                }
                efer |= EferFlags::LONG_MODE_ACTIVE;
            }
        } else if !paging && old.contains(Cr0Flags::PAGING) {
            if self.bits64() || self.cr4().contains(Cr4Flags::PCID) {
                return self.protection();
            }
            efer -= EferFlags::LONG_MODE_ACTIVE;
        }
        let written = self.mmu.write_cr0(new.bits(), efer.bits(), bus);
        self.loaded(written)
    }

    /// Sets CR3, if a processor would.
    fn set_cr3(&mut self, bus: &mut Bus<'_>, value: u64) -> Outcome {
        let mut reserved = u64::MAX << self.physical_bits();
        if self.cr4().contains(Cr4Flags::PCID) {
            reserved &= !CR3_KEEP;
        }
        if value & reserved != 0 {
            return self.protection();
        }
        let written = self.mmu.write_cr3(value, bus);
        self.loaded(written)
    }

    /// CR4's bits that can be set.
    fn cr4_bits(&self) -> Cr4Flags {
        use Cr4Flags as B;
        use Feature as F;
        let by_feature = [
            (F::VME, B::VIRTUAL_8086_MODE_EXTENSIONS),
            (F::VME, B::PROTECTED_MODE_VIRTUAL_INTERRUPTS),
            (F::TSC, B::TIMESTAMP_DISABLE),
            (F::DE, B::DEBUGGING_EXTENSIONS),
            (F::PSE, B::PAGE_SIZE_EXTENSION),
            (F::PAE, B::PHYSICAL_ADDRESS_EXTENSION),
            (F::MCE, B::MACHINE_CHECK_EXCEPTION),
            (F::PGE, B::PAGE_GLOBAL),
            (F::FXSR, B::OSFXSR),
            (F::SSE, B::OSXMMEXCPT_ENABLE),
            (F::UMIP, B::USER_MODE_INSTRUCTION_PREVENTION),
            (F::LA57, B::L5_PAGING),
            (F::FSGSBASE, B::FSGSBASE),
            (F::PCID, B::PCID),
            (F::XSAVE, B::OSXSAVE),
            (F::SMEP, B::SUPERVISOR_MODE_EXECUTION_PROTECTION),
            (F::SMAP, B::SUPERVISOR_MODE_ACCESS_PREVENTION),
            (F::PKU, B::PROTECTION_KEY_USER),
            (F::PKS, B::PROTECTION_KEY_SUPERVISOR),
        ];
        let mut bits = B::PERFORMANCE_MONITOR_COUNTER;
        for (feature, bit) in by_feature {
            bits.set(bit, bits.contains(bit) || self.has(feature));
        }
        bits
    }

    /// Sets CR4, if a processor would.
    fn set_cr4(&mut self, bus: &mut Bus<'_>, value: u64) -> Outcome {
        let (old, new) = (self.cr4(), Cr4Flags::from_bits_retain(value));
        if !self.cr4_bits().contains(new) {
            return self.protection();
        }
        let changed = old ^ new;
        if self.long_mode() {
            let pae = new.contains(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION);
            if !pae || changed.contains(Cr4Flags::L5_PAGING) {
                return self.protection();
            }
        }
        if changed.contains(Cr4Flags::PCID) && new.contains(Cr4Flags::PCID) {
            let context = self.mmu.registers().paging.cr3 & PCID;
            if !self.long_mode() || context != 0 {
                return self.protection();
            }
        }
        let written = self.mmu.write_cr4(value, bus);
        self.loaded(written)
    }

    /// CLTS.
    pub(super) fn clear_task_switched(&mut self, bus: &mut Bus<'_>) -> Outcome {
        self.check_privileged()?;
        let value = self.cr0() - Cr0Flags::TASK_SWITCHED;
        self.set_cr0(bus, value.bits())
    }

    /// LMSW.
    pub(super) fn load_machine_status(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_privileged()?;
        let word = u64::from(self.read::<u16>(bus, i, 0)?);
        let old = self.cr0().bits();
        let kept = old & (!LMSW_BITS | Cr0Flags::PROTECTED_MODE_ENABLE.bits());
        self.set_cr0(bus, kept | word & LMSW_BITS)
    }

    /// #GP(0) with CR4.UMIP outside of CPL 0.
    pub(super) fn check_user_mode_instruction(&mut self) -> Outcome {
        let prevented = self
            .cr4()
            .contains(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION);
        if prevented && self.cpl != 0 {
            return self.protection();
        }
        Ok(())
    }

    /// SMSW: a word to memory, as much as fits to a register.
    pub(super) fn store_machine_status(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_user_mode_instruction()?;
        let value = self.cr0().bits();
        if i.memory().is_some() {
            return self.write(bus, i, 0, value as u16);
        }
        sized!(i.operand_size(), W => self.write(bus, i, 0, value as W))
    }

    /// The linear address of an operand that is not accessed: limits and rights do not matter.
    fn unchecked_linear(&mut self, i: &Instruction) -> Outcome<u64> {
        let (segment, offset) = self.memory_at(i)?;
        let base = self.segment(segment).base;
        Ok(match segment {
            _ if !self.bits64() => base.wrapping_add(offset) & LOW,
            SegmentRegister::Fs | SegmentRegister::Gs => base.wrapping_add(offset),
            _ => offset,
        })
    }

    /// INVLPG. An address that is not canonical has no translation.
    pub(super) fn invalidate_page(&mut self, i: &Instruction) -> Outcome {
        self.check_privileged()?;
        let linear = self.unchecked_linear(i)?;
        if !self.bits64() || self.canonical(linear) {
            self.mmu.invlpg(linear);
        }
        Ok(())
    }

    /// INVPCID.
    pub(super) fn invalidate_context(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_privileged()?;
        let kind = sized!(i.operand_size(), W => self.read::<W>(bus, i, 0)?.zero_extend());
        if kind > 3 {
            return self.protection();
        }
        let (segment, offset) = self.memory_at(i)?;
        let mut descriptor = [0; 16];
        self.load_bytes(bus, segment, offset, &mut descriptor)?;
        let descriptor = u128::from_le_bytes(descriptor);
        let (context, linear) = (descriptor as u64, (descriptor >> 64) as u64);
        let pcid = (context & PCID) as u16;
        let contexts = self.cr4().contains(Cr4Flags::PCID);
        if context & !PCID != 0 || kind <= 1 && pcid != 0 && !contexts {
            return self.protection();
        }
        let what = match kind {
            0 if !self.canonical_base(linear) => return self.protection(),
            0 => Invpcid::Address { pcid, linear },
            1 => Invpcid::Context { pcid },
            2 => Invpcid::All,
            _ => Invpcid::AllButGlobal,
        };
        self.mmu.invpcid(what);
        Ok(())
    }

    /// CLFLUSH, CLFLUSHOPT, CLWB: only their address is checked, as that of a load, which may be of
    /// code that can't be read.
    pub(super) fn flush_line(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (segment, offset) = self.memory_at(i)?;
        self.check_access(bus, segment, offset, 1, Intent::Flush)
    }

    /// LFENCE, MFENCE, SFENCE, SERIALIZE: devices' threads see stores in order.
    pub(super) fn memory_fence(&self) {
        fence(Ordering::SeqCst);
    }

    /// What CLI and STI may change: the flag, or #GP(0).
    fn interrupt_flag(&mut self) -> Outcome<RFlags> {
        if self.real_mode() || self.iopl() >= self.cpl {
            return Ok(RFlags::INTERRUPT_FLAG);
        }
        let extension = if self.v86() {
            Cr4Flags::VIRTUAL_8086_MODE_EXTENSIONS
        } else {
            Cr4Flags::PROTECTED_MODE_VIRTUAL_INTERRUPTS
        };
        if self.cpl == 3 && self.cr4().contains(extension) {
            Ok(RFlags::VIRTUAL_INTERRUPT)
        } else {
            self.protection()
        }
    }

    /// CLI.
    pub(super) fn clear_interrupts(&mut self) -> Outcome {
        let flag = self.interrupt_flag()?;
        self.set_flag(flag, false);
        self.changed_waiting();
        Ok(())
    }

    /// STI: interrupts are held back for one more instruction.
    pub(super) fn set_interrupts(&mut self) -> Outcome {
        let flag = self.interrupt_flag()?;
        if flag == RFlags::VIRTUAL_INTERRUPT {
            if self.flag(RFlags::VIRTUAL_INTERRUPT_PENDING) {
                return self.protection();
            }
        } else if !self.flag(RFlags::INTERRUPT_FLAG) {
            self.events.shadow |= SHADOW_STI;
        }
        self.set_flag(flag, true);
        self.changed_waiting();
        Ok(())
    }

    /// CLD, STD.
    pub(super) fn set_direction(&mut self, down: bool) {
        self.set_flag(RFlags::DIRECTION_FLAG, down);
    }

    /// CLAC, STAC.
    pub(super) fn set_alignment_check(&mut self, on: bool) -> Outcome {
        if self.cpl != 0 {
            return self.undefined();
        }
        self.set_flag(RFlags::ALIGNMENT_CHECK, on);
        self.changed_mode();
        Ok(())
    }

    /// Whether PUSHF and POPF work on virtual flags; #GP(0) where they can't.
    fn virtual_flags(&mut self, size: Size) -> Outcome<bool> {
        if !self.v86() || self.iopl() == 3 {
            return Ok(false);
        }
        let extended = self.cr4().contains(Cr4Flags::VIRTUAL_8086_MODE_EXTENSIONS);
        if extended && size == Size::Word {
            Ok(true)
        } else {
            self.protection()
        }
    }

    /// PUSHF.
    pub(super) fn push_flags(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let size = i.operand_size();
        let mut image = self.rflags();
        if self.virtual_flags(size)? {
            image |= IOPL;
            let interrupt = RFlags::INTERRUPT_FLAG.bits();
            image = if self.flag(RFlags::VIRTUAL_INTERRUPT) {
                image | interrupt
            } else {
                image & !interrupt
            };
        }
        image &= !(RFlags::VIRTUAL_8086_MODE.bits() | RFlags::RESUME_FLAG.bits());
        self.push_sized(bus, size, image)
    }

    /// POPF.
    pub(super) fn pop_flags(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let size = i.operand_size();
        let in_virtual = self.virtual_flags(size)?;
        let before = self.registers[RSP];
        let popped = self.pop_sized(bus, size)?;
        let flags = RFlags::from_bits_retain(popped);
        let mut old = self.rflags();
        let mut change = POPF;
        if in_virtual {
            let pending = self.flag(RFlags::VIRTUAL_INTERRUPT_PENDING);
            let interrupt = flags.contains(RFlags::INTERRUPT_FLAG);
            if pending && interrupt || flags.contains(RFlags::TRAP_FLAG) {
                self.registers[RSP] = before;
                return self.protection();
            }
            let flag = RFlags::VIRTUAL_INTERRUPT.bits();
            old = if interrupt { old | flag } else { old & !flag };
            change &= !(IOPL | RFlags::INTERRUPT_FLAG.bits());
        } else if self.cpl != 0 {
            change &= !IOPL;
            if self.cpl > self.iopl() {
                change &= !RFlags::INTERRUPT_FLAG.bits();
            }
        }
        change &= size.mask();
        old &= !RFlags::RESUME_FLAG.bits();
        self.set_rflags(old & !change | popped & change);
        self.changed_mode();
        Ok(())
    }

    /// HLT.
    pub(super) fn halt(&mut self) -> Outcome {
        self.check_privileged()?;
        self.activity = Activity::Halted;
        self.changed_waiting();
        Ok(())
    }

    /// SWAPGS.
    pub(super) fn swap_gs(&mut self) -> Outcome {
        self.check_privileged()?;
        let gs = self.segment(SegmentRegister::Gs).base;
        let kernel = core::mem::replace(&mut self.msrs.kernel_gs_base, gs);
        self.set_segment_base(SegmentRegister::Gs, kernel);
        Ok(())
    }

    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    pub(super) fn segment_base(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        if !self.cr4().contains(Cr4Flags::FSGSBASE) {
            return self.undefined();
        }
        let register = match i.operation() {
            Operation::Rdfsbase | Operation::Wrfsbase => SegmentRegister::Fs,
            _ => SegmentRegister::Gs,
        };
        if matches!(i.operation(), Operation::Rdfsbase | Operation::Rdgsbase) {
            let base = self.segment(register).base;
            return sized!(i.operand_size(), W => self.write(bus, i, 0, base as W));
        }
        let base = sized!(i.operand_size(), W => self.read::<W>(bus, i, 0)?.zero_extend());
        if !self.canonical_base(base) {
            return self.protection();
        }
        self.set_segment_base(register, base);
        Ok(())
    }

    /// RDPID.
    pub(super) fn read_processor_id(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let id = self.msrs.tsc_aux;
        sized!(i.operand_size(), W => self.write(bus, i, 0, id as W))
    }

    /// RDTSC, RDTSCP.
    pub(super) fn read_time(&mut self, bus: &mut Bus<'_>, with_id: bool) -> Outcome {
        let disabled = self.cr4().contains(Cr4Flags::TIMESTAMP_DISABLE);
        if disabled && self.cpl != 0 {
            return self.protection();
        }
        self.exactly(bus)?;
        let time = self.tsc(bus);
        self.registers[RAX] = time & LOW;
        self.registers[RDX] = time >> 32;
        if with_id {
            self.registers[RCX] = self.msrs.tsc_aux & LOW;
        }
        Ok(())
    }

    /// RDRAND, RDSEED: there is always a number.
    pub(super) fn random(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let value = bus.platform.random();
        sized!(i.operand_size(), W => self.write(bus, i, 0, value as W))?;
        self.flags = LazyFlags::from_rflags(CF);
        Ok(())
    }

    /// RDPKRU, WRPKRU.
    pub(super) fn protection_keys(&mut self, i: &Instruction) -> Outcome {
        if !self.cr4().contains(Cr4Flags::PROTECTION_KEY_USER) {
            return self.undefined();
        }
        let write = i.operation() == Operation::Wrpkru;
        if self.register::<u32>(RCX) != 0 || write && self.register::<u32>(RDX) != 0 {
            return self.protection();
        }
        if write {
            self.mmu.write_pkru(self.register(RAX));
        } else {
            self.set_register(RAX, self.mmu.registers().pkru);
            self.set_register(RDX, 0u32);
        }
        Ok(())
    }

    /// XCR0's bits that can be set: the components that CPUID shows and the processor has.
    pub(super) fn xcr0_bits(&self) -> u64 {
        let shown = self.cpuid.find(0xd, 0).map_or(0, |entry| entry.eax.into());
        let mut known = XCr0Flags::X87 | XCr0Flags::SSE;
        known.set(XCr0Flags::MPK, self.has(Feature::PKU));
        shown & known.bits() | XCr0Flags::X87.bits()
    }

    /// XGETBV.
    pub(super) fn get_extended_control(&mut self) -> Outcome {
        if !self.cr4().contains(Cr4Flags::OSXSAVE) {
            return self.undefined();
        }
        let value = match self.register::<u32>(RCX) {
            0 => self.xcr0,
            1 if self.has(Feature::XGETBV1) => self.xcr0 & self.components_in_use(),
            _ => return self.protection(),
        };
        self.registers[RAX] = value & LOW;
        self.registers[RDX] = value >> 32;
        Ok(())
    }

    /// XSETBV.
    pub(super) fn set_extended_control(&mut self) -> Outcome {
        if !self.cr4().contains(Cr4Flags::OSXSAVE) {
            return self.undefined();
        }
        self.check_privileged()?;
        let value =
            u64::from(self.register::<u32>(RDX)) << 32 | u64::from(self.register::<u32>(RAX));
        let x87 = XCr0Flags::X87.bits();
        if self.register::<u32>(RCX) != 0 || value & x87 == 0 || value & !self.xcr0_bits() != 0 {
            return self.protection();
        }
        self.xcr0 = value;
        Ok(())
    }

    /// WAIT: #NM with CR0.TS and CR0.MP, and what the x87 has pending.
    pub(super) fn wait(&mut self) -> Outcome {
        if self
            .cr0()
            .contains(Cr0Flags::TASK_SWITCHED | Cr0Flags::MONITOR_COPROCESSOR)
        {
            return Err(self.raise(Exception::DeviceNotAvailable));
        }
        self.check_pending_float()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr::RBX;
    use crate::cpu::soft::Stop;
    use crate::cpu::soft::testing::Guest;

    const GP: Result<(), Exception> = Err(Exception::GP0);
    const UD: Result<(), Exception> = Err(Exception::UD);
    const NM: Result<(), Exception> = Err(Exception::DeviceNotAvailable);

    /// mov crN, rax; mov rax, crN.
    const fn to_cr(number: u8) -> [u8; 3] {
        [0x0f, 0x22, 0xc0 | number << 3]
    }
    const fn from_cr(number: u8) -> [u8; 3] {
        [0x0f, 0x20, 0xc0 | number << 3]
    }

    fn set_cr(guest: &mut Guest, number: u8, value: u64) -> Result<(), Exception> {
        guest.attempt_with(&[(RAX, value)], &to_cr(number))
    }

    #[test]
    fn cr0() {
        let mut guest = Guest::protected();
        // PG without PE, NW without CD.
        assert_eq!(set_cr(&mut guest, 0, 1 << 31), GP);
        assert_eq!(set_cr(&mut guest, 0, 1 << 29 | 1), GP);
        assert_eq!(set_cr(&mut guest, 0, 3 << 29 | 1), Ok(()));
        // ET can't be cleared, reserved bits can't be set.
        assert_eq!(set_cr(&mut guest, 0, 0x1ffa_ffc1), Ok(()));
        assert_eq!(guest.state().cr0, 0x11);
        assert_eq!(guest.attempt(&from_cr(0)), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 0x11);
        // Back in real mode, where it may be set again.
        assert_eq!(set_cr(&mut guest, 0, 0x10), Ok(()));
        assert!(guest.cpu.real_mode());
        let mut guest = Guest::long();
        assert_eq!(set_cr(&mut guest, 0, 1 << 32 | 0x8000_0011), GP);
        assert_eq!(set_cr(&mut guest, 0, 0x11), GP, "paging off in 64-bit mode");
        assert_eq!(set_cr(&mut guest.user(), 0, 0x8000_0011), GP);
    }

    #[test]
    fn long_mode_comes_and_goes_with_paging() {
        let enter = |change: fn(&mut crate::cpu::CpuState)| {
            let mut guest = Guest::long();
            guest.change(|state| {
                state.cr0 &= !(1 << 31);
                state.efer = 1 << 8;
                (state.cs.long, state.cs.big) = (false, true);
                change(state);
            });
            let result = set_cr(&mut guest, 0, 0x8000_0011);
            (result, guest)
        };
        let (result, mut guest) = enter(|_| ());
        assert_eq!(result, Ok(()));
        assert_eq!(guest.state().efer, 1 << 8 | 1 << 10);
        // Compatibility mode: it may be left.
        assert_eq!(set_cr(&mut guest, 0, 0x11), Ok(()));
        assert_eq!(guest.state().efer, 1 << 8);
        assert_eq!(enter(|state| state.cr4 = 0).0, GP);
        assert_eq!(enter(|state| state.cs.long = true).0, GP);
        assert_eq!(enter(|state| state.tr.kind = 3).0, GP);
    }

    #[test]
    fn cr3_cr4_and_cr8() {
        let mut guest = Guest::long();
        assert_eq!(set_cr(&mut guest, 3, 1 << 40), GP, "beyond 40 bits");
        assert_eq!(
            set_cr(&mut guest, 3, 1 << 63 | 0x1f_0000),
            GP,
            "without PCIDE"
        );
        assert_eq!(set_cr(&mut guest, 3, 0x1f_0018), Ok(()));
        assert_eq!(guest.state().cr3, 0x1f_0018);
        let pae = 1 << 5;
        for (value, result) in [
            (pae | 1 << 13, GP),
            (pae | 1 << 15, GP),
            (pae | 1 << 32, GP),
            (0, GP),
            (pae | 1 << 12, GP),
            // PCIDE with bits in CR3's context.
            (pae | 1 << 17, GP),
            (pae | 1 << 18 | 1 << 9 | 0xd, Ok(())),
        ] {
            assert_eq!(set_cr(&mut guest, 4, value), result, "{value:#x}");
        }
        assert_eq!(set_cr(&mut guest, 3, 0x1f_0000), Ok(()));
        assert_eq!(set_cr(&mut guest, 4, pae | 1 << 17), Ok(()));
        assert_eq!(set_cr(&mut guest, 3, 1 << 63 | 0x1f_0005), Ok(()));
        assert_eq!(guest.state().cr3, 0x1f_0005);
        // Outside of long mode there are no contexts.
        assert_eq!(set_cr(&mut Guest::protected(), 4, 1 << 17), GP);
        // mov cr8, rax; mov rax, cr8
        assert_eq!(
            guest.attempt_with(&[(RAX, 16)], &[0x44, 0x0f, 0x22, 0xc0]),
            GP
        );
        assert_eq!(
            guest.attempt_with(&[(RAX, 9)], &[0x44, 0x0f, 0x22, 0xc0]),
            Ok(())
        );
        assert!(guest.signals.raised());
        assert_eq!(
            guest.attempt_with(&[(RAX, 0)], &[0x44, 0x0f, 0x20, 0xc0]),
            Ok(())
        );
        assert_eq!(guest.state().gpr[RAX], 9);
    }

    #[test]
    fn machine_status() {
        let mut guest = Guest::new();
        // lmsw ax: into protected mode, and never back.
        assert_eq!(
            guest.attempt_with(&[(RAX, 0xfff3)], &[0x0f, 0x01, 0xf0]),
            Ok(())
        );
        assert!(!guest.cpu.real_mode());
        assert_eq!(guest.attempt_with(&[(RAX, 0)], &[0x0f, 0x01, 0xf0]), Ok(()));
        assert_eq!(guest.state().cr0 & 0xf, 1);
        let mut guest = Guest::protected().user();
        guest.change(|state| {
            state.cr0 = 0x8005_0039;
            state.cr3 = 0x1f_0000;
            state.cr0 &= !(1 << 31);
            state.gpr[RAX] = u64::MAX;
            state.gpr[RBX] = 0x3000;
        });
        guest.put(0x3000, &[0xaa; 4]);
        // smsw eax; smsw ax; smsw [ebx]
        assert_eq!(guest.attempt(&[0x0f, 0x01, 0xe0]), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 0x5_0039);
        assert_eq!(guest.attempt(&[0x0f, 0x01, 0x23]), Ok(()));
        assert_eq!(guest.get::<4>(0x3000), [0x39, 0, 0xaa, 0xaa]);
        guest.change(|state| state.cr4 |= 1 << 11);
        assert_eq!(guest.attempt(&[0x0f, 0x01, 0xe0]), GP);
        // clts
        assert_eq!(guest.attempt(&[0x0f, 0x06]), GP);
        guest.change(|state| (state.cs.dpl, state.ss.dpl) = (0, 0));
        assert_eq!(guest.attempt(&[0x0f, 0x06]), Ok(()));
        assert_eq!(guest.state().cr0, 0x5_0031);
    }

    #[test]
    fn what_applications_may_not() {
        let privileged: [&[u8]; 9] = [
            &[0xf4],
            &[0x0f, 0x08],
            &[0x0f, 0x09],
            &[0xf3, 0x0f, 0x09],
            &[0x0f, 0x01, 0x38],
            &[0x66, 0x0f, 0x38, 0x82, 0x00],
            &[0x0f, 0x30],
            &[0x0f, 0x32],
            &[0x0f, 0x33],
        ];
        for mut guest in [
            Guest::long().user(),
            Guest::protected().user(),
            Guest::v86(),
        ] {
            for code in privileged {
                assert_eq!(guest.attempt(code), GP, "{code:02x?}");
            }
            // clac, stac, rsm, ud2, and wrpkru without CR4.PKE
            for code in [
                [0x0f, 0x01, 0xca],
                [0x0f, 0x01, 0xcb],
                [0x0f, 0xaa, 0],
                [0x0f, 0x0b, 0],
            ] {
                assert_eq!(guest.attempt(&code), UD, "{code:02x?}");
            }
            assert_eq!(guest.attempt(&[0x0f, 0x01, 0xef]), UD);
            // rdtsc
            assert_eq!(guest.attempt(&[0x0f, 0x31]), Ok(()));
            guest.change(|state| state.cr4 |= 1 << 2);
            assert_eq!(guest.attempt(&[0x0f, 0x31]), GP);
        }
        // swapgs
        assert_eq!(Guest::long().user().attempt(&[0x0f, 0x01, 0xf8]), GP);
    }

    /// IF, VIF, VIP.
    const IF: u64 = 1 << 9;
    const VIF: u64 = 1 << 19;
    const VIP: u64 = 1 << 20;
    const SHADOW: u8 = 2;

    #[test]
    fn cli_and_sti() {
        const VME: u64 = 1;
        const PVI: u64 = 2;
        // Flags and CR4 before, then what CLI and STI make of the flags, or #GP(0).
        type Case = (u64, u64, Option<u64>, Option<u64>);
        let run = |make: &dyn Fn() -> Guest, cases: &[Case]| {
            for &(flags, cr4, cleared, set) in cases {
                for (opcode, expected) in [(0xfa, cleared), (0xfb, set)] {
                    let mut guest = make();
                    guest.change(|state| {
                        state.rflags |= flags;
                        state.cr4 |= cr4;
                    });
                    let before = guest.state().rflags & !(IF | VIF | VIP | 3 << 12);
                    let result = guest.attempt(&[opcode]);
                    let state = guest.state();
                    match expected {
                        None => assert_eq!(result, GP, "{opcode:#x} {flags:#x} {cr4}"),
                        Some(after) => {
                            assert_eq!(result, Ok(()));
                            assert_eq!(state.rflags & !(3 << 12), before | after);
                            let first = after & !flags & IF != 0;
                            let shadow = if first { SHADOW } else { 0 };
                            assert_eq!(state.events.shadow, shadow);
                        }
                    }
                }
            }
        };
        run(&Guest::new, &[(0, 0, Some(0), Some(IF))]);
        run(&Guest::long, &[(0, 0, Some(0), Some(IF))]);
        let iopl = 3 << 12;
        run(
            &|| Guest::protected().user(),
            &[
                (0, 0, None, None),
                (iopl, PVI, Some(0), Some(IF)),
                (0, VME, None, None),
                (0, PVI, Some(0), Some(VIF)),
                (VIP | VIF, PVI, Some(VIP), None),
                (2 << 12 | IF, PVI, Some(IF), Some(IF | VIF)),
            ],
        );
        run(
            &Guest::v86,
            &[
                (0, PVI, None, None),
                (iopl, 0, Some(0), Some(IF)),
                (0, VME, Some(0), Some(VIF)),
                (VIP, VME, Some(VIP), None),
            ],
        );
        // Only the first STI holds interrupts back.
        let mut guest = Guest::new();
        guest.change(|state| state.rflags |= IF);
        assert_eq!(guest.attempt(&[0xfb]), Ok(()));
        assert_eq!(guest.state().events.shadow, 0);
    }

    /// Pushes `flags`, pops them with the code, and returns the flags.
    fn popf(guest: &mut Guest, code: &[u8], flags: u64) -> Result<u64, Exception> {
        guest.change(|state| state.gpr[RSP] = 0x8000);
        guest.put(0x8000, &flags.to_le_bytes());
        let result = guest.attempt(code);
        let rsp = guest.state().gpr[RSP];
        assert_eq!(result.is_err(), rsp == 0x8000);
        result.map(|()| guest.state().rflags)
    }

    #[test]
    fn popf_changes_what_it_may() {
        let all = 0x3f_ffff;
        // Neither VM, RF, VIF nor VIP; the fixed bits.
        let kernel = 0x24_7fd7;
        assert_eq!(popf(&mut Guest::long(), &[0x9d], all), Ok(kernel));
        assert_eq!(popf(&mut Guest::protected(), &[0x9d], all), Ok(kernel));
        assert_eq!(
            popf(&mut Guest::protected(), &[0x66, 0x9d], all),
            Ok(0x7fd7)
        );
        assert_eq!(popf(&mut Guest::new(), &[0x66, 0x9d], all), Ok(kernel));
        assert_eq!(popf(&mut Guest::new(), &[0x9d], all), Ok(0x7fd7));
        let mut user = Guest::long().user();
        assert_eq!(popf(&mut user, &[0x9d], all), Ok(kernel & !(IF | 3 << 12)));
        user.change(|state| state.rflags = 2 | 3 << 12 | VIF);
        assert_eq!(popf(&mut user, &[0x9d], all & !(3 << 12)), Ok(kernel | VIF));
        let mut v86 = Guest::v86();
        assert_eq!(popf(&mut v86, &[0x9d], 0), Err(Exception::GP0));
        v86.change(|state| state.rflags |= 3 << 12);
        let expected = 0x2_7fd7 & !(1 << 17) | 1 << 17;
        assert_eq!(popf(&mut v86, &[0x9d], 0xffff), Ok(expected));
        // With virtual interrupts.
        v86.change(|state| {
            state.rflags = 2 | 1 << 17;
            state.cr4 |= 1;
        });
        assert_eq!(popf(&mut v86, &[0x66, 0x9d], 0), Err(Exception::GP0));
        assert_eq!(popf(&mut v86, &[0x9d], 1 << 8), Err(Exception::GP0));
        assert_eq!(popf(&mut v86, &[0x9d], IF | 1), Ok(3 | 1 << 17 | VIF));
        v86.change(|state| state.rflags |= VIP);
        assert_eq!(popf(&mut v86, &[0x9d], IF), Err(Exception::GP0));
        assert_eq!(popf(&mut v86, &[0x9d], 1), Ok(3 | 1 << 17 | VIP));
    }

    #[test]
    fn pushf_hides_and_invents() {
        let pushed = |guest: &mut Guest, code: &[u8], flags: u64| {
            guest.change(|state| {
                state.gpr[RSP] = 0x8000;
                state.rflags |= flags;
            });
            guest.attempt(code)?;
            let rsp = guest.state().gpr[RSP];
            let mut bytes = [0; 8];
            let length = 0x8000 - rsp as usize;
            bytes[..length].copy_from_slice(&guest.get::<8>(rsp)[..length]);
            Ok((length, u64::from_le_bytes(bytes)))
        };
        let rf = 1 << 16;
        assert_eq!(
            pushed(&mut Guest::long(), &[0x9c], rf | 0x41),
            Ok((8, 0x43))
        );
        assert_eq!(pushed(&mut Guest::new(), &[0x9c], rf | 0x41), Ok((2, 0x43)));
        assert_eq!(pushed(&mut Guest::v86(), &[0x9c], 0), Err(Exception::GP0));
        assert_eq!(
            pushed(&mut Guest::v86(), &[0x66, 0x9c], 3 << 12 | VIF),
            Ok((4, 0x8_3002))
        );
        let mut v86 = Guest::v86();
        v86.change(|state| state.cr4 |= 1);
        assert_eq!(pushed(&mut v86, &[0x9c], VIF), Ok((2, 0x3202)));
        assert_eq!(pushed(&mut v86, &[0x66, 0x9c], 0), Err(Exception::GP0));
    }

    #[test]
    fn halt_is_left_by_what_comes() {
        let mut guest = Guest::long();
        guest.put(0x1000, &[0xfb, 0xf4, 0x90]);
        assert_eq!(guest.run(10), Stop::Idle);
        let state = guest.state();
        assert_eq!((state.rip, state.activity), (0x1002, Activity::Halted));
        assert_eq!(state.events.shadow, 0);
    }

    #[test]
    fn segment_bases() {
        let mut guest = Guest::long();
        // wrfsbase rax; rdfsbase ebx
        let (wrfsbase, rdfsbase) = ([0xf3, 0x48, 0x0f, 0xae, 0xd0], [0xf3, 0x0f, 0xae, 0xc3]);
        assert_eq!(guest.attempt(&wrfsbase), UD);
        guest.change(|state| state.cr4 |= 1 << 16);
        let base = 0xffff_8000_1234_5678;
        assert_eq!(guest.attempt_with(&[(RAX, base)], &wrfsbase), Ok(()));
        assert_eq!(guest.state().fs.base, base);
        assert_eq!(guest.attempt(&rdfsbase), Ok(()));
        assert_eq!(guest.state().gpr[RBX], 0x1234_5678);
        // With LA57 in CPUID addresses of 57 bits may be loaded, whatever CR4.LA57 is.
        assert_eq!(guest.attempt_with(&[(RAX, 1 << 56)], &wrfsbase), GP);
        assert_eq!(guest.attempt_with(&[(RAX, 1 << 55)], &wrfsbase), Ok(()));
        // swapgs
        guest.change(|state| {
            state.gs.base = 5;
            state.msrs.kernel_gs_base = 6;
        });
        assert_eq!(guest.attempt(&[0x0f, 0x01, 0xf8]), Ok(()));
        let state = guest.state();
        assert_eq!((state.gs.base, state.msrs.kernel_gs_base), (6, 5));
    }

    #[test]
    fn invpcid_checks_its_descriptor() {
        let invpcid = [0x66, 0x0f, 0x38, 0x82, 0x03];
        let mut guest = Guest::long();
        guest.change(|state| state.gpr[RBX] = 0x3000);
        for (kind, context, linear, result) in [
            (0, 0, 0x1000, Ok(())),
            (0, 0, 1 << 62, GP),
            (0, 1, 0, GP),
            (1, 1, 0, GP),
            (1, 0, 1 << 62, Ok(())),
            (2, 1, 0, Ok(())),
            (2, 1 << 12, 0, GP),
            (3, 0, 0, Ok(())),
            (4, 0, 0, GP),
            (1 << 32, 0, 0, GP),
        ] {
            guest.put(0x3000, &u64::to_le_bytes(context));
            guest.put(0x3008, &u64::to_le_bytes(linear));
            assert_eq!(
                guest.attempt_with(&[(RAX, kind)], &invpcid),
                result,
                "{kind}"
            );
        }
        guest.change(|state| state.cr4 |= 1 << 17);
        guest.put(0x3000, &0xfffu64.to_le_bytes());
        assert_eq!(guest.attempt_with(&[(RAX, 1)], &invpcid), Ok(()));
    }

    #[test]
    fn cache_lines_are_checked_as_loads() {
        let mut guest = Guest::protected();
        guest.change(|state| {
            state.gpr[RBX] = 0x3000;
            state.es.limit = 0x2fff;
            // Not to be read.
            state.cs.kind = 9;
        });
        // clflush [ebx], es:[ebx], cs:[ebx]; mov al, cs:[ebx]
        assert_eq!(guest.attempt(&[0x0f, 0xae, 0x3b]), Ok(()));
        assert_eq!(guest.attempt(&[0x26, 0x0f, 0xae, 0x3b]), GP);
        assert_eq!(guest.attempt(&[0x2e, 0x0f, 0xae, 0x3b]), Ok(()));
        assert_eq!(guest.attempt(&[0x2e, 0x8a, 0x03]), GP);
        let mut guest = Guest::long();
        let fault = Err(Exception::PageFault(0));
        assert_eq!(
            guest.attempt_with(&[(RBX, 0x20_0000)], &[0x0f, 0xae, 0x3b]),
            fault
        );
        assert_eq!(
            guest.attempt_with(&[(RBX, 1 << 62)], &[0x0f, 0xae, 0x3b]),
            GP
        );
        // A prefetch checks nothing.
        assert_eq!(guest.attempt(&[0x0f, 0x18, 0x03]), Ok(()));
    }

    #[test]
    fn stale_translations_live_until_invlpg() {
        let mut guest = Guest::long();
        // mov al, [rbx]; invlpg [rbx]; mov al, [rbx], the page being given away between.
        guest.put(
            0x1000,
            &[0x8a, 0x03, 0x8a, 0x03, 0x0f, 0x01, 0x3b, 0x8a, 0x03],
        );
        // A second mapping of the first 2 MiB, at 4 MiB.
        guest.put(0x1f_2010, &0x87u64.to_le_bytes());
        guest.change(|state| {
            state.gpr[RBX] = 0x40_0000;
            state.rip = 0x1000;
        });
        guest.put(0, &[7]);
        guest.run(1);
        guest.put(0x1f_2010, &0u64.to_le_bytes());
        assert_eq!(guest.run(2), Stop::Budget);
        assert_eq!(guest.state().gpr[RAX], 7);
        assert_eq!(guest.state().cr2, 0);
        guest.run(1);
        assert_eq!(guest.state().cr2, 0x40_0000);
    }

    #[test]
    fn time_and_chance() {
        let mut guest = Guest::long();
        assert_eq!(guest.attempt(&[0x0f, 0x01, 0xf9]), Ok(()));
        let state = guest.state();
        assert!(state.gpr[RAX] < 100 && state.gpr[RDX] == 0 && state.gpr[RCX] == 0);
        // rdrand ax; rdseed rax; rdpid rcx
        guest.change(|state| {
            state.gpr[RAX] = u64::MAX;
            state.rflags |= 0x8d4;
            state.msrs.tsc_aux = 9;
        });
        assert_eq!(guest.attempt(&[0x66, 0x0f, 0xc7, 0xf0]), Ok(()));
        let state = guest.state();
        assert_eq!(state.gpr[RAX] >> 16, 0xffff_ffff_ffff);
        assert_eq!(state.rflags & 0x8d5, 1);
        assert_eq!(guest.attempt(&[0x48, 0x0f, 0xc7, 0xf8]), Ok(()));
        assert_eq!(guest.attempt(&[0xf3, 0x0f, 0xc7, 0xf9]), Ok(()));
        assert_eq!(guest.state().gpr[RCX], 9);
    }

    #[test]
    fn extended_control_and_keys() {
        let mut guest = Guest::long();
        let (xgetbv, xsetbv) = ([0x0f, 0x01, 0xd0], [0x0f, 0x01, 0xd1]);
        let (rdpkru, wrpkru) = ([0x0f, 0x01, 0xee], [0x0f, 0x01, 0xef]);
        for code in [xgetbv, xsetbv, rdpkru, wrpkru] {
            assert_eq!(guest.attempt(&code), UD);
        }
        guest.change(|state| state.cr4 |= 1 << 18 | 1 << 22);
        for (value, index, result) in [
            (1, 0, Ok(())),
            (2, 0, GP),
            (7, 0, GP),
            (3, 1, GP),
            (1 << 32 | 1, 0, GP),
            (0x203, 0, Ok(())),
        ] {
            let registers = [(RAX, value), (RDX, value >> 32), (RCX, index)];
            assert_eq!(
                guest.attempt_with(&registers, &xsetbv),
                result,
                "{value:#x}"
            );
        }
        assert_eq!(guest.attempt_with(&[(RCX, 0)], &xgetbv), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 0x203);
        assert_eq!(guest.attempt_with(&[(RCX, 2)], &xgetbv), GP);
        assert_eq!(
            guest.attempt_with(&[(RCX, 0), (RAX, 0xc), (RDX, 1)], &wrpkru),
            GP
        );
        assert_eq!(
            guest.attempt_with(&[(RCX, 0), (RAX, 0xc), (RDX, 0)], &wrpkru),
            Ok(())
        );
        assert_eq!(guest.attempt_with(&[(RAX, 0)], &rdpkru), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 0xc);
        assert_eq!(
            guest.state().extended.xstate_bv,
            1 << 9,
            "the saved state has it"
        );
        assert_eq!(guest.attempt_with(&[(RCX, 1)], &rdpkru), GP);
        // wait
        assert_eq!(guest.attempt(&[0x9b]), Ok(()));
        guest.change(|state| state.cr0 |= 1 << 3 | 1 << 1);
        assert_eq!(guest.attempt(&[0x9b]), NM);
    }
}
