//! The software CPU: an interpreter of x86-64 instructions, in every mode of the processor.
//!
//! Source: Intel SDM volumes 1 to 3; sections are named where they are followed. Where processors
//! differ it is an Intel, except for what [`alu`](super::alu) says of undefined flags.
//!
//! [`Cpu::run`] runs instructions until its budget is used up or something waits. What it needs of
//! the machine around it comes through a [`Bus`]: memory, ports, interrupts, time. Files:
//!
//! - `code`: decoded instructions by guest physical page, and what happens when code is overwritten;
//! - `micro`, `fast`: common instructions in 16 bytes, and the functions that execute them;
//! - `run`: the loop, and what is looked at between instructions;
//! - `access`: segments' checks, effective addresses, operands, the stack;
//! - `execute`: which method does which operation;
//! - `integer`, `bits`, `string`, `stack`, `control`: instructions of applications;
//! - `x87`, `media`, `xsave`: the x87, SSE's control, and what saves and loads their state;
//! - `packed`: moves and integers in MMX and XMM registers;
//! - `sse`: floating-point numbers in XMM registers;
//! - `system`, `msr`, `cpuid`, `io`: those of systems, and what the processor says of itself;
//! - `segment`, `transfer`, `task`, `exception`, `debug`: protection;
//! - `translate`: blocks that run often as code of the host;
//! - `watch`: what logs are made from;
//! - `debugger`: breakpoints, watchpoints and steps that the guest does not see.

mod access;
mod bits;
mod bus;
mod code;
mod control;
pub mod cpuid;
mod debug;
mod debugger;
mod exception;
mod execute;
mod fast;
mod integer;
mod io;
mod media;
mod micro;
mod msr;
pub(crate) mod packed;
mod run;
mod segment;
mod sse;
mod stack;
mod string;
mod system;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transfer;
mod translate;
mod watch;
mod x87;
mod xsave;

use super::alu::{LazyFlags, STATUS};
use super::decode::{CodeSize, SegmentRegister};
use super::features::FeatureSet;
use super::mmu::{Mmu, MmuRegisters, Mode};
use super::msr::Msrs;
use super::state::{Activity, CpuState, DescriptorTable, Events, ExtendedState, FpuState, Segment};
use x86_64::registers::control::Cr0Flags;
use x86_64::registers::model_specific::EferFlags;
use x86_64::registers::rflags::RFlags;

pub use bus::{Attention, Bus, Event, Platform, Signals};
pub use code::CodeCache;
pub use exception::{Exception, Raised};
pub use run::Stop;
pub use translate::CodeMemory;
pub use watch::{Cause, Delivery, Watch};

/// What an instruction gives, unless it raises an exception, whose details are in the processor.
pub type Outcome<T = ()> = Result<T, Raised>;

/// Index of the registers' file behind the general registers: RIP of the block that runs.
const BLOCK_RIP: usize = 16;
/// Index of the registers' file: always zero, which stands for an absent base or index.
const ZERO: usize = 17;
/// Registers in the file, a power of two so that an index needs no check.
const REGISTERS: usize = 32;

/// Reasons to look around between two instructions; none in straight code.
pub(super) mod slow {
    /// EFLAGS.TF: a trap after the next instruction.
    pub(crate) const TRAP: u32 = 1 << 0;
    /// STI, MOV SS or POP SS holds interrupts back for one instruction.
    pub(crate) const SHADOW: u32 = 1 << 1;
    /// DR7 enables breakpoints of instructions or data: after each instruction one may be due.
    pub(crate) const BREAKPOINTS: u32 = 1 << 2;
    /// An interrupt waits, and EFLAGS.IF lets it in.
    pub(crate) const INTERRUPT: u32 = 1 << 3;
    /// An NMI waits and is not masked, a delivery that had begun before the state was saved goes on,
    /// or the processor has shut down.
    pub(crate) const EVENT: u32 = 1 << 4;
    /// A debug trap is due after this instruction.
    pub(crate) const DEBUG: u32 = 1 << 5;
    /// The processor does not run: HLT, or waits for its start.
    pub(crate) const IDLE: u32 = 1 << 6;
    /// EFLAGS.RF: cleared once the next instruction is done.
    pub(crate) const RESUME: u32 = 1 << 7;
    /// Somebody is told of each block that is entered.
    pub(crate) const WATCHED: u32 = 1 << 8;
    /// A debugger outside of the guest has set something.
    pub(crate) const DEBUGGER: u32 = 1 << 9;
    /// It is to be told when this instruction, or this element of a repeated one, is done.
    pub(crate) const HALT_DUE: u32 = 1 << 10;
}

/// [`Events::shadow`]: MOV SS or POP SS holds interrupts and debug traps back for one instruction.
const SHADOW_SS: u8 = 1 << 0;
/// [`Events::shadow`]: STI holds interrupts back for one instruction.
const SHADOW_STI: u8 = 1 << 1;

/// Accesses to data need more than translation; bits of [`Cpu::data_checks`].
pub(super) mod data_check {
    /// CR0.AM, EFLAGS.AC and CPL 3: misaligned accesses raise #AC.
    pub(crate) const ALIGNMENT: u8 = 1 << 0;
    /// DR7 enables data breakpoints.
    pub(crate) const WATCH: u8 = 1 << 1;
    /// A debugger outside of the guest has set watchpoints.
    pub(crate) const DEBUGGER: u8 = 1 << 2;
}

/// A processor. It is valid when all bytes are zero, and large: it belongs in zeroed memory, where
/// [`Cpu::set_state`] gives it a state.
#[repr(C)]
pub struct Cpu {
    /// General registers by number, then [`BLOCK_RIP`] and [`ZERO`].
    registers: [u64; REGISTERS],
    /// What translated code and the rest tell each other.
    frame: translate::Frame,
    /// The instruction that runs; between instructions the next one.
    rip: u64,
    /// Where the instruction that runs will go on unless it says otherwise.
    next_rip: u64,
    /// Status flags.
    flags: LazyFlags,
    /// The other flags; those of [`STATUS`] are zero here.
    system_flags: u64,
    /// Reasons to look around between instructions: [`slow`].
    slow: u32,
    /// [`data_check`].
    data_checks: u8,
    /// Segments, by number, that are flat: base 0, limit 4 GiB, readable and writable.
    flat: u8,
    /// Current privilege level.
    cpl: u8,
    /// Size of code: CS.D and CS.L.
    code_size: CodeSize,
    /// Rights of explicit accesses.
    mode: Mode,
    /// The stack pointer's size as a mask: FFFFh, FFFF_FFFFh or all ones.
    stack_mask: u64,
    /// Segment registers by number.
    segments: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: DescriptorTable,
    idtr: DescriptorTable,
    /// CR2. CR0, CR3, CR4 and EFER are in `mmu`.
    cr2: u64,
    /// XCR0.
    xcr0: u64,
    /// DR0 to DR3.
    dr: [u64; 4],
    dr6: u64,
    dr7: u64,
    /// Bits that go to DR6 with the debug trap that is due.
    debug_trap: u64,
    /// What the last [`Raised`] was about.
    raised: Option<Exception>,
    /// The platform's INTR is up.
    interrupt_waits: bool,
    /// What the platform is told of.
    watched: Watch,
    activity: Activity,
    events: Events,
    /// Time stamp counter: what is added to the platform's.
    tsc_offset: u64,
    /// Instructions executed.
    instructions: u64,
    /// Instructions that raised an exception instead.
    faults: u64,
    /// Pages that were marked in the code cache when this one last looked.
    marks_seen: u64,
    msrs: Msrs,
    /// x87 and SSE, with registers of the x87 by physical number.
    fpu: FpuState,
    extended: ExtendedState,
    /// What CPUID says.
    cpuid: cpuid::Cpuid,
    /// Its feature bits; instructions of absent features are #UD.
    features: FeatureSet,
    mmu: Mmu,
    debugger: debugger::Debugger,
}

impl Cpu {
    /// Takes over a state, whole. The platform's local APIC is loaded apart; interrupts that wait
    /// there are found out at the next [`Cpu::run`].
    pub fn set_state(&mut self, state: &CpuState, bus: &mut Bus<'_>) {
        self.registers = [0; REGISTERS];
        self.registers[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.next_rip = state.rip;
        self.set_rflags(state.rflags);
        self.segments = [state.es, state.cs, state.ss, state.ds, state.fs, state.gs];
        (self.ldtr, self.tr) = (state.ldtr, state.tr);
        (self.gdtr, self.idtr) = (state.gdtr, state.idtr);
        self.cr2 = state.cr2;
        self.xcr0 = state.xcr0;
        (self.dr, self.dr6, self.dr7) = (state.dr, state.dr6, state.dr7);
        self.debug_trap = 0;
        self.raised = None;
        self.activity = state.activity;
        self.events = state.events;
        self.tsc_offset = state.msrs.tsc.wrapping_sub(bus.tsc());
        self.msrs = state.msrs.clone();
        self.set_float_state(&state.fpu);
        self.extended = state.extended.clone();
        let registers = MmuRegisters {
            paging: state.into(),
            pkru: self.kept_pkru(),
            pkrs: self.kept_pkrs(),
            model: self.paging_model(),
            ..*self.mmu.registers()
        };
        self.mmu.load(&registers, bus);
        self.slow = 0;
        self.changed_mode();
    }

    /// Gives the state, whole but for the local APIC, CR8 and the APIC base, which are the
    /// platform's.
    pub fn state(&mut self, state: &mut CpuState, bus: &mut Bus<'_>) {
        state.gpr.copy_from_slice(&self.registers[..16]);
        state.rip = self.rip;
        state.rflags = self.rflags();
        [state.es, state.cs, state.ss, state.ds, state.fs, state.gs] = self.segments;
        (state.ldtr, state.tr) = (self.ldtr, self.tr);
        (state.gdtr, state.idtr) = (self.gdtr, self.idtr);
        let paging = self.mmu.registers().paging;
        (state.cr0, state.cr3) = (paging.cr0, paging.cr3);
        (state.cr4, state.efer) = (paging.cr4, paging.efer);
        state.cr2 = self.cr2;
        state.xcr0 = self.xcr0;
        (state.dr, state.dr6, state.dr7) = (self.dr, self.dr6, self.dr7);
        state.activity = self.activity;
        state.events = self.events;
        state.msrs = self.msrs.clone();
        state.msrs.tsc = self.tsc(bus);
        state.fpu = self.float_state();
        state.extended = self.extended.clone();
        self.keep_pkru(&mut state.extended);
    }

    /// What is mapped at guest physical addresses has changed: forgets pointers to host memory. The
    /// code cache is told apart, by [`CodeCache::forget_all`].
    pub fn forget_memory(&mut self) {
        self.mmu.tlb().forget_host();
    }

    /// The A20 gate: whether bit 20 of physical addresses passes.
    pub fn set_a20(&mut self, enabled: bool) {
        self.mmu.set_a20(enabled);
    }

    /// Instructions executed since it was made.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// How far it is since it was made, as [counted time](Bus::count_time) goes: instructions
    /// executed, and those that raised an exception instead. A repeated string instruction that
    /// something interrupts is not counted yet there.
    pub fn time(&self) -> u64 {
        self.instructions.wrapping_add(self.faults)
    }

    /// The exception that an instruction raised last: after a triple fault, the one that could not
    /// be delivered.
    pub fn raised(&self) -> Option<Exception> {
        self.raised
    }

    /// Time stamp counter, as RDTSC shows it.
    fn tsc(&self, bus: &mut Bus<'_>) -> u64 {
        bus.tsc().wrapping_add(self.tsc_offset)
    }

    /// The address behind an instruction at RIP of so many bytes.
    #[inline(always)]
    fn behind(&self, length: u8) -> u64 {
        let next = self.rip.wrapping_add(length.into());
        if self.bits64() {
            next
        } else {
            next & 0xffff_ffff
        }
    }

    /// RFLAGS, whole.
    fn rflags(&self) -> u64 {
        self.flags.to_rflags(self.system_flags)
    }

    /// Sets all flags; bit 1 is always set. The caller calls [`Cpu::changed_mode`] if VM, IF, TF,
    /// AC may have changed.
    fn set_rflags(&mut self, rflags: u64) {
        self.flags = LazyFlags::from_rflags(rflags);
        self.system_flags = rflags & !STATUS | 2;
    }

    fn flag(&self, flag: RFlags) -> bool {
        self.system_flags & flag.bits() != 0
    }

    fn cr0(&self) -> Cr0Flags {
        Cr0Flags::from_bits_retain(self.mmu.registers().paging.cr0)
    }

    fn cr4(&self) -> x86_64::registers::control::Cr4Flags {
        x86_64::registers::control::Cr4Flags::from_bits_retain(self.mmu.registers().paging.cr4)
    }

    fn efer(&self) -> EferFlags {
        EferFlags::from_bits_retain(self.mmu.registers().paging.efer)
    }

    /// Real mode.
    fn real_mode(&self) -> bool {
        !self.cr0().contains(Cr0Flags::PROTECTED_MODE_ENABLE)
    }

    /// Virtual-8086 mode.
    fn v86(&self) -> bool {
        self.flag(RFlags::VIRTUAL_8086_MODE) && !self.real_mode()
    }

    /// Protected mode without virtual-8086 mode; long mode, too.
    fn protected(&self) -> bool {
        !self.real_mode() && !self.flag(RFlags::VIRTUAL_8086_MODE)
    }

    /// Long mode: 64-bit or compatibility mode.
    fn long_mode(&self) -> bool {
        self.efer().contains(EferFlags::LONG_MODE_ACTIVE)
    }

    /// 64-bit mode.
    fn bits64(&self) -> bool {
        self.code_size == CodeSize::Bits64
    }

    fn segment(&self, register: SegmentRegister) -> &Segment {
        &self.segments[register as usize]
    }

    /// Brings what is derived in step with CR0, EFER, flags, segments and debug registers. Whoever
    /// changes one of these calls this before the next access.
    fn changed_mode(&mut self) {
        let real = self.real_mode();
        let v86 = self.v86();
        let long = self.long_mode();
        let cs = *self.segment(SegmentRegister::Cs);
        let ss = *self.segment(SegmentRegister::Ss);
        self.code_size = match (long && cs.long, cs.big) {
            (true, _) => CodeSize::Bits64,
            (false, true) => CodeSize::Bits32,
            (false, false) => CodeSize::Bits16,
        };
        self.cpl = if real {
            0
        } else if v86 {
            3
        } else {
            ss.dpl
        };
        self.mode = Mode::explicit(self.cpl, self.flag(RFlags::ALIGNMENT_CHECK));
        self.stack_mask = if self.bits64() {
            u64::MAX
        } else if ss.big {
            0xffff_ffff
        } else {
            0xffff
        };
        self.flat = 0;
        for (number, segment) in self.segments.iter().enumerate() {
            // Data, writable, expand-up: a code segment is never both readable and writable.
            let data = segment.kind & 0b1110 == 0b0010;
            if data && segment.base == 0 && segment.limit == u32::MAX && !segment.unusable {
                self.flat |= 1 << number;
            }
        }
        self.data_checks = 0;
        if self.cpl == 3
            && self.flag(RFlags::ALIGNMENT_CHECK)
            && self.cr0().contains(Cr0Flags::ALIGNMENT_MASK)
        {
            self.data_checks |= data_check::ALIGNMENT;
        }
        self.changed_breakpoints();
        self.changed_waiting();
    }

    /// Brings what depends on DR7 in step with it.
    fn changed_breakpoints(&mut self) {
        self.slow &= !slow::BREAKPOINTS;
        self.data_checks &= !(data_check::WATCH | data_check::DEBUGGER);
        if self.debugger.watches() {
            self.data_checks |= data_check::DEBUGGER;
        }
        for number in 0..4 {
            // L0, G0 to L3, G3, then four bits R/W and LEN for each (SDM volume 3, 17.2.4).
            if self.dr7 >> (2 * number) & 3 == 0 {
                continue;
            }
            match self.dr7 >> (16 + 4 * number) & 3 {
                0 => self.slow |= slow::BREAKPOINTS,
                2 => {}
                _ => {
                    self.slow |= slow::BREAKPOINTS;
                    self.data_checks |= data_check::WATCH;
                }
            }
        }
    }

    /// Brings the reasons to look around in step with flags, events and activity.
    fn changed_waiting(&mut self) {
        let mut reasons = self.slow & (slow::BREAKPOINTS | slow::DEBUG) | self.debugger.slow();
        if self.flag(RFlags::TRAP_FLAG) {
            reasons |= slow::TRAP;
        }
        if self.flag(RFlags::RESUME_FLAG) {
            reasons |= slow::RESUME;
        }
        if self.events.shadow != 0 {
            reasons |= slow::SHADOW;
        }
        if self.interrupt_waits && self.flag(RFlags::INTERRUPT_FLAG) {
            reasons |= slow::INTERRUPT;
        }
        let events = &self.events;
        if events.nmi_pending && !events.nmi_masked || events.under_way() || events.triple_fault {
            reasons |= slow::EVENT;
        }
        if self.activity != Activity::Running {
            reasons |= slow::IDLE;
        }
        if self.watched.contains(Watch::ENTERED) {
            reasons |= slow::WATCHED;
        }
        self.slow = reasons;
    }
}
