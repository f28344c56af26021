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

use super::access::sized;
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
        self.privileged()?;
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
        self.privileged()?;
        let value = self.cr0() - Cr0Flags::TASK_SWITCHED;
        self.set_cr0(bus, value.bits())
    }

    /// LMSW.
    pub(super) fn load_machine_status(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.privileged()?;
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
        self.privileged()?;
        let linear = self.unchecked_linear(i)?;
        if !self.bits64() || self.canonical(linear) {
            self.mmu.invlpg(linear);
        }
        Ok(())
    }

    /// INVPCID.
    pub(super) fn invalidate_context(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.privileged()?;
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

    /// CLFLUSH, CLFLUSHOPT, CLWB: only their address is checked, as that of a load.
    pub(super) fn flush_line(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (segment, offset) = self.memory_at(i)?;
        self.check_access(bus, segment, offset, 1, super::access::Intent::Read)
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
        self.privileged()?;
        self.activity = Activity::Halted;
        self.changed_waiting();
        Ok(())
    }

    /// SWAPGS.
    pub(super) fn swap_gs(&mut self) -> Outcome {
        self.privileged()?;
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
        self.privileged()?;
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
