//! Exceptions and interrupts on their way into the processor.
//!
//! Source: Intel SDM volume 3, chapter 6 "Interrupt and Exception Handling", 17.3.1.1 (RF), 20.1.4 (real
//! mode), 20.3 (virtual-8086 mode), table 9-1 (INIT); volume 2, INT n, whose order of checks is kept.
//!
//! A delivery works on copies: one that fails leaves the registers as they were, and what it raised is
//! delivered instead, as a double fault where table 6-5 says so.
//!
//! Not modelled: machine checks, virtualization exceptions, and shadow stacks.

use super::segment::{Descriptor, is_null, null_segment, system, with_rpl};
use super::task::Switch;
use super::transfer::{IOPL, Stack};
use super::{Bus, Cpu, Event, Outcome, Watch};
use crate::cpu::decode::{Instruction, Operation, SegmentRegister, Size};
use crate::cpu::mmu::{Fault, FaultKind, MmuRegisters};
use crate::cpu::state::{Activity, CpuState, Events, Segment};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::ApicBaseFlags;
use x86_64::registers::rflags::RFlags;

/// An exception, as its instruction raises it (SDM volume 3, table 6-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the SDM's names")]
pub enum Exception {
    DivideError,
    /// A trap, or an instruction breakpoint; the bits go to DR6.
    Debug(u64),
    /// #DB, a fault: DR7.GD keeps debug registers from being accessed.
    DebugAccess,
    BoundRange,
    InvalidOpcode,
    DeviceNotAvailable,
    DoubleFault,
    InvalidTss(u16),
    SegmentNotPresent(u16),
    StackFault(u16),
    GeneralProtection(u16),
    /// With its error code; the address is in CR2 by the time it is raised.
    PageFault(u32),
    FloatingPoint,
    AlignmentCheck,
    SimdFloatingPoint,
}

/// How an exception during the delivery of another is handled (SDM volume 3, table 6-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// Vectors of what is no [`Exception`].
mod vector {
    pub(super) const DEBUG: u8 = 1;
    pub(super) const NMI: u8 = 2;
    pub(super) const BREAKPOINT: u8 = 3;
    pub(super) const OVERFLOW: u8 = 4;
    pub(super) const PAGE_FAULT: u8 = 14;
}

/// Error code: EXT, the program did not ask for the event that failed.
const EXT: u16 = 1;
/// Error code: IDT, the index is one of the interrupt descriptor table.
const IDT: u16 = 2;
/// Offset in a task-state segment: where the I/O permission bitmap begins.
const IO_MAP: u64 = 0x66;
/// Bytes of the interrupt redirection bitmap, which ends there.
const REDIRECTION_BYTES: u64 = 32;
/// Flags that are cleared by every delivery in protected mode.
const CLEARED: u64 = RFlags::TRAP_FLAG.bits()
    | RFlags::VIRTUAL_8086_MODE.bits()
    | RFlags::RESUME_FLAG.bits()
    | RFlags::NESTED_TASK.bits();
/// And by every delivery in real mode.
const CLEARED_REAL: u64 = RFlags::TRAP_FLAG.bits()
    | RFlags::INTERRUPT_FLAG.bits()
    | RFlags::RESUME_FLAG.bits()
    | RFlags::ALIGNMENT_CHECK.bits();

impl Exception {
    /// #GP(0).
    pub const GP0: Self = Self::GeneralProtection(0);
    /// #SS(0).
    pub const SS0: Self = Self::StackFault(0);
    /// #UD.
    pub const UD: Self = Self::InvalidOpcode;

    /// The vector, and the error code if there is one.
    pub const fn vector_and_code(self) -> (u8, Option<u32>) {
        match self {
            Self::DivideError => (0, None),
            Self::Debug(_) | Self::DebugAccess => (vector::DEBUG, None),
            Self::BoundRange => (5, None),
            Self::InvalidOpcode => (6, None),
            Self::DeviceNotAvailable => (7, None),
            Self::DoubleFault => (8, Some(0)),
            Self::InvalidTss(code) => (10, Some(code as u32)),
            Self::SegmentNotPresent(code) => (11, Some(code as u32)),
            Self::StackFault(code) => (12, Some(code as u32)),
            Self::GeneralProtection(code) => (13, Some(code as u32)),
            Self::PageFault(code) => (vector::PAGE_FAULT, Some(code)),
            Self::FloatingPoint => (16, None),
            Self::AlignmentCheck => (17, Some(0)),
            Self::SimdFloatingPoint => (19, None),
        }
    }

    /// The same with EXT set in an error code that has it.
    const fn external(self) -> Self {
        match self {
            Self::InvalidTss(code) => Self::InvalidTss(code | EXT),
            Self::SegmentNotPresent(code) => Self::SegmentNotPresent(code | EXT),
            Self::StackFault(code) => Self::StackFault(code | EXT),
            Self::GeneralProtection(code) => Self::GeneralProtection(code | EXT),
            other => other,
        }
    }
}

/// The class of a vector.
const fn class(vector: u8) -> Class {
    match vector {
        0 | 10..=13 => Class::Contributory,
        vector::PAGE_FAULT => Class::PageFault,
        8 => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// An exception was raised; the processor has noted which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An exception, or INT1: privilege does not matter.
    Exception,
    /// An interrupt or NMI: privilege does not matter.
    Interrupt,
    /// INT3 and INTO.
    Software,
    /// INT n, which virtual-8086 mode treats in its own way.
    SoftwareByNumber,
}

impl Source {
    /// Whether an instruction asks for it.
    const fn is_software(self) -> bool {
        matches!(self, Self::Software | Self::SoftwareByNumber)
    }
}

/// An event to be delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) vector: u8,
    pub(super) error: Option<u32>,
    pub(super) source: Source,
    /// What is pushed as RIP.
    rip: u64,
    /// What is pushed as flags.
    flags: u64,
}

impl Arrival {
    /// What an error code has that names the event's gate.
    const fn gate_code(&self) -> u16 {
        (self.vector as u16) << 3 | IDT
    }
}

impl Cpu {
    /// Notes an exception, for `Err(self.raise(...))`.
    #[cold]
    pub(super) fn raise(&mut self, exception: Exception) -> Raised {
        self.raised = Some(exception);
        Raised
    }

    /// #UD.
    pub(super) fn undefined<T>(&mut self) -> Outcome<T> {
        Err(self.raise(Exception::UD))
    }

    /// #GP(0).
    pub(super) fn protection<T>(&mut self) -> Outcome<T> {
        Err(self.raise(Exception::GP0))
    }

    /// Raises what an access by a segment raises.
    #[cold]
    pub(super) fn access_fault(&mut self, fault: Fault, segment: SegmentRegister) -> Raised {
        let exception = match fault.kind {
            FaultKind::Page => {
                self.cr2 = fault.linear;
                Exception::PageFault(fault.error_code)
            }
            FaultKind::Later => return self.later(),
            FaultKind::NotCanonical if segment == SegmentRegister::Ss => Exception::SS0,
            FaultKind::NotCanonical => Exception::GP0,
        };
        self.raise(exception)
    }

    /// Delivers what was raised. An error is a triple fault.
    pub(super) fn deliver_raised(&mut self, bus: &mut Bus<'_>) -> Outcome {
        let Some(exception) = self.raised.take() else {
            return Ok(());
        };
        let resume = RFlags::RESUME_FLAG.bits();
        let flags = match exception {
            Exception::Debug(bits) => {
                self.report_debug(bits);
                self.rflags()
            }
            Exception::DebugAccess => {
                self.report_debug(super::debug::BD);
                self.rflags() | resume
            }
            _ => self.rflags() | resume,
        };
        if !matches!(exception, Exception::Debug(_)) {
            // The instruction did not happen, and neither did what it would have been trapped for.
            self.debug_trap = 0;
            self.slow &= !super::slow::DEBUG;
        }
        let (vector, error) = exception.vector_and_code();
        self.arrive_from_outside(bus, Source::Exception, (vector, error), flags)
            .inspect_err(|_| {
                // What was at the beginning of a triple fault tells more than its end.
                self.raised = Some(exception);
            })
    }

    /// Delivers an event that no instruction asks for, or what its delivery raises instead. An error
    /// is a triple fault.
    fn arrive(&mut self, bus: &mut Bus<'_>, mut event: Arrival) -> Outcome {
        loop {
            if self.deliver(bus, &event).is_ok() {
                self.progressed();
                self.activity = Activity::Running;
                self.events.shadow = 0;
                self.changed_waiting();
                return Ok(());
            }
            let Some(exception) = self.raised.take() else {
                return Ok(());
            };
            // Whatever way the first got, the second one comes from where the processor is now: in
            // a new task, if the first has switched to it.
            event.rip = self.rip;
            event.flags = self.rflags() | RFlags::RESUME_FLAG.bits();
            let (vector, error) = exception.vector_and_code();
            let first = match event.source {
                Source::Exception => class(event.vector),
                // Whatever its vector (SDM volume 3, table 6-4).
                _ => Class::Benign,
            };
            (event.vector, event.error) = match (first, class(vector)) {
                (Class::DoubleFault, _) => {
                    self.events.triple_fault = true;
                    self.changed_waiting();
                    return Err(Raised);
                }
                (Class::PageFault, Class::PageFault | Class::Contributory)
                | (Class::Contributory, Class::Contributory) => {
                    Exception::DoubleFault.vector_and_code()
                }
                // One after the other.
                _ => (vector, error),
            };
            event.source = Source::Exception;
        }
    }

    /// Delivers an event. If that raises an exception no register has changed, except that a task
    /// switch may be done.
    fn deliver(&mut self, bus: &mut Bus<'_>, event: &Arrival) -> Outcome {
        if self.watched.contains(Watch::DELIVERED) {
            self.tell_delivered(bus, event);
        }
        let delivered = if self.real_mode() {
            self.deliver_real(bus, event)
        } else {
            self.deliver_protected(bus, event)
        };
        if delivered.is_err() && !event.source.is_software() {
            self.raised = self.raised.map(Exception::external);
        }
        delivered
    }

    /// Goes on in a handler.
    fn enter_handler(&mut self, code: Segment, rip: u64, flags: u64) {
        self.set_rflags(flags);
        self.enter_code(code, rip);
        self.rip = rip;
    }

    /// Delivers through the interrupt vector table of real mode.
    fn deliver_real(&mut self, bus: &mut Bus<'_>, event: &Arrival) -> Outcome {
        let offset = u64::from(event.vector) * 4;
        if offset + 3 > self.idtr.limit.into() {
            return Err(self.raise(Exception::GeneralProtection(event.gate_code())));
        }
        let entry: u32 = self.load_system(bus, self.idtr.base.wrapping_add(offset))?;
        let (selector, rip) = ((entry >> 16) as u16, u64::from(entry & 0xffff));
        self.enter_plain(bus, event, event.flags, selector, rip, CLEARED_REAL)
    }

    /// Pushes three words and goes on where a vector of real mode says.
    fn enter_plain(
        &mut self,
        bus: &mut Bus<'_>,
        event: &Arrival,
        image: u64,
        selector: u16,
        rip: u64,
        cleared: u64,
    ) -> Outcome {
        let old = self.segment(SegmentRegister::Cs).selector;
        let mut stack = self.stack();
        stack.push_all(self, bus, Size::Word, &[image, old.into(), event.rip])?;
        let code = self.plain_segment(SegmentRegister::Cs, selector);
        self.check_entry(&code, rip)?;
        stack.leave(self);
        self.enter_handler(code, rip, self.rflags() & !cleared);
        Ok(())
    }

    /// INT n in virtual-8086 mode: whether the 8086 program's own handler was entered (SDM volume 3,
    /// 20.3.3).
    fn redirected(&mut self, bus: &mut Bus<'_>, event: &Arrival) -> Outcome<bool> {
        let trusted = self.iopl() == 3;
        if self.cr4().contains(Cr4Flags::VIRTUAL_8086_MODE_EXTENSIONS) {
            let tr = self.tr;
            if u64::from(tr.limit) < IO_MAP + 1 {
                return self.protection();
            }
            let map: u16 = self.load_system(bus, tr.base.wrapping_add(IO_MAP))?;
            let at = u64::from(map)
                .wrapping_sub(REDIRECTION_BYTES)
                .wrapping_add(u64::from(event.vector / 8));
            if at > tr.limit.into() {
                return self.protection();
            }
            let bits: u8 = self.load_system(bus, tr.base.wrapping_add(at))?;
            if bits >> (event.vector % 8) & 1 == 0 {
                let entry: u32 = self.load_system(bus, u64::from(event.vector) * 4)?;
                let (selector, rip) = ((entry >> 16) as u16, u64::from(entry & 0xffff));
                let interrupt = RFlags::INTERRUPT_FLAG.bits();
                let virtual_interrupt = RFlags::VIRTUAL_INTERRUPT.bits();
                let cleared = RFlags::TRAP_FLAG.bits() | RFlags::RESUME_FLAG.bits();
                let (image, cleared) = if trusted {
                    (event.flags, cleared | interrupt)
                } else {
                    // It sees its own idea of IF, and a processor of its own.
                    let shown = if event.flags & virtual_interrupt != 0 {
                        interrupt
                    } else {
                        0
                    };
                    (
                        event.flags & !interrupt | shown | IOPL,
                        cleared | virtual_interrupt,
                    )
                };
                self.enter_plain(bus, event, image, selector, rip, cleared)?;
                return Ok(true);
            }
        }
        if trusted {
            Ok(false)
        } else {
            self.protection()
        }
    }

    /// Delivers through the interrupt descriptor table.
    fn deliver_protected(&mut self, bus: &mut Bus<'_>, event: &Arrival) -> Outcome {
        let v86 = self.v86();
        if v86 && event.source == Source::SoftwareByNumber && self.redirected(bus, event)? {
            return Ok(());
        }
        let long = self.long_mode();
        let bytes = if long { 16 } else { 8 };
        let offset = u64::from(event.vector) * bytes;
        let bad_gate = Exception::GeneralProtection(event.gate_code());
        if offset + bytes - 1 > self.idtr.limit.into() {
            return Err(self.raise(bad_gate));
        }
        let at = self.idtr.base.wrapping_add(offset);
        let gate = Descriptor(self.load_system(bus, at)?);
        let upper: u32 = if long {
            self.load_system(bus, at.wrapping_add(8))?
        } else {
            0
        };
        let (size, masks) = match gate.kind() {
            _ if gate.is_segment() => return Err(self.raise(bad_gate)),
            system::INTERRUPT_GATE if long => (Size::Qword, true),
            system::TRAP_GATE if long => (Size::Qword, false),
            _ if long => return Err(self.raise(bad_gate)),
            system::INTERRUPT_GATE => (Size::Dword, true),
            system::TRAP_GATE => (Size::Dword, false),
            system::INTERRUPT_GATE_16 => (Size::Word, true),
            system::TRAP_GATE_16 => (Size::Word, false),
            system::TASK_GATE => (Size::Byte, false),
            _ => return Err(self.raise(bad_gate)),
        };
        if event.source.is_software() && gate.dpl() < self.cpl {
            return Err(self.raise(bad_gate));
        }
        if !gate.present() {
            return Err(self.raise(Exception::SegmentNotPresent(event.gate_code())));
        }
        if size == Size::Byte {
            return self.deliver_to_task(bus, event, gate);
        }
        let rip = u64::from(gate.gate_offset()) & size.mask() | u64::from(upper) << 32;

        let failure = Exception::GeneralProtection;
        let selector = gate.gate_selector();
        if is_null(selector) {
            return self.protection();
        }
        let target = self.descriptor(bus, selector, failure)?;
        let wrong_mode = long && (!target.long() || target.big());
        if !target.is_code() || target.dpl() > self.cpl || wrong_mode {
            return self.fail(failure, selector);
        }
        if !target.present() {
            return self.fail(Exception::SegmentNotPresent, selector);
        }
        let inner = !target.is_conforming() && target.dpl() < self.cpl;
        if v86 && (!inner || target.dpl() != 0) {
            return self.fail(failure, selector);
        }
        let level = if inner { target.dpl() } else { self.cpl };

        let ist = if long { gate.gate_stack() } else { 0 };
        let (new_stack, mut stack) = if long {
            // One of the table, too, comes with a null SS (SDM volume 3, 6.14.5).
            let switched = inner || ist != 0;
            let mut stack = if switched {
                self.long_stack(bus, level, ist)?
            } else {
                self.stack().as_long()
            };
            stack.align();
            (switched.then(|| null_segment(level.into(), level)), stack)
        } else if inner {
            let (segment, stack) = self.inner_stack(bus, level)?;
            (Some(segment), stack)
        } else {
            (None, self.stack())
        };
        self.push_frame(bus, event, &mut stack, size, long || inner)?;
        let code = self.use_descriptor(bus, target, with_rpl(selector, level))?;
        self.check_entry(&code, rip)?;

        // Nothing fails from here on.
        let mut flags = self.rflags() & !CLEARED;
        if masks {
            flags &= !RFlags::INTERRUPT_FLAG.bits();
        }
        if let Some(segment) = new_stack {
            self.segments[SegmentRegister::Ss as usize] = segment;
        }
        if v86 {
            use SegmentRegister::{Ds, Es, Fs, Gs};
            for register in [Es, Ds, Fs, Gs] {
                self.segments[register as usize] = null_segment(0, 0);
            }
        }
        stack.leave(self);
        self.enter_handler(code, rip, flags);
        Ok(())
    }

    /// Pushes what a handler finds on its stack.
    fn push_frame(
        &mut self,
        bus: &mut Bus<'_>,
        event: &Arrival,
        stack: &mut Stack,
        size: Size,
        with_stack: bool,
    ) -> Outcome {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let selector = |register| u64::from(self.segment(register).selector);
        let code = selector(Cs);
        let outer = [selector(Ss), self.registers[crate::cpu::gpr::RSP]];
        let data = [selector(Gs), selector(Fs), selector(Ds), selector(Es)];
        if self.v86() {
            stack.push_all(self, bus, size, &data)?;
        }
        if with_stack {
            stack.push_all(self, bus, size, &outer)?;
        }
        stack.push_all(self, bus, size, &[event.flags, code, event.rip])?;
        if let Some(error) = event.error {
            stack.push(self, bus, size, error.into())?;
        }
        Ok(())
    }

    /// Delivers through a task gate.
    fn deliver_to_task(&mut self, bus: &mut Bus<'_>, event: &Arrival, gate: Descriptor) -> Outcome {
        self.switch_through_gate(bus, gate, Switch::Interrupt(event.flags), event.rip)?;
        if let Some(error) = event.error {
            let size = if self.wide_task() {
                Size::Dword
            } else {
                Size::Word
            };
            let mut stack = self.stack();
            stack.push(self, bus, size, error.into())?;
            stack.leave(self);
        }
        Ok(())
    }

    /// INT n, INT3, INTO and INT1.
    pub(super) fn software_interrupt(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (vector, source) = match i.operation() {
            Operation::Int3 => (vector::BREAKPOINT, Source::Software),
            Operation::Into if !self.flags.overflow() => return Ok(()),
            Operation::Into => (vector::OVERFLOW, Source::Software),
            Operation::Int1 => (vector::DEBUG, Source::Exception),
            _ => (self.read::<u8>(bus, i, 0)?, Source::SoftwareByNumber),
        };
        let event = Arrival {
            vector,
            error: None,
            source,
            rip: self.next_rip,
            flags: self.rflags(),
        };
        if source == Source::Exception {
            // INT1 clears DR7.GD as every debug exception does, and brings what a load of SS has held
            // back.
            let due = self.take_debug_trap();
            self.report_debug(self.dr6 & 0xf | due);
        }
        self.deliver(bus, &event)
    }

    /// Delivers what was on its way when the state was saved. An error is a triple fault.
    pub(super) fn resume_delivery(&mut self, bus: &mut Bus<'_>) -> Outcome {
        let events = self.events;
        self.events.exception = Default::default();
        self.events.interrupt = Default::default();
        self.events.nmi_injected = false;
        let exception = events.exception;
        let (vector, error) = if exception.injected || exception.pending {
            match (exception.vector, exception.payload) {
                (vector::DEBUG, Some(bits)) => self.report_debug(bits),
                (vector::PAGE_FAULT, Some(address)) => self.cr2 = address,
                _ => {}
            }
            (exception.vector, exception.error_code)
        } else if events.nmi_injected {
            self.events.nmi_masked = true;
            (vector::NMI, None)
        } else if events.interrupt.injected && !events.interrupt.soft {
            (events.interrupt.vector, None)
        } else {
            // INT n that was on its way is executed once more.
            self.changed_waiting();
            return Ok(());
        };
        let fault = exception.injected || exception.pending;
        let mut flags = self.rflags();
        if fault && vector != vector::DEBUG {
            flags |= RFlags::RESUME_FLAG.bits();
        }
        let source = if fault {
            Source::Exception
        } else {
            Source::Interrupt
        };
        self.arrive_from_outside(bus, source, (vector, error), flags)
    }

    /// Delivers an event at RIP that no instruction asked for.
    fn arrive_from_outside(
        &mut self,
        bus: &mut Bus<'_>,
        source: Source,
        (vector, error): (u8, Option<u32>),
        flags: u64,
    ) -> Outcome {
        let event = Arrival {
            vector,
            error,
            source,
            rip: self.rip,
            flags,
        };
        self.arrive(bus, event)
    }

    /// Takes an NMI, or an interrupt if they are enabled. An error is a triple fault.
    pub(super) fn take_interrupts(&mut self, bus: &mut Bus<'_>) -> Outcome {
        if !matches!(self.activity, Activity::Running | Activity::Halted) {
            return Ok(());
        }
        if self.events.nmi_pending && !self.events.nmi_masked {
            self.events.nmi_pending = false;
            self.events.nmi_masked = true;
            self.arrive_from_outside(bus, Source::Interrupt, (vector::NMI, None), self.rflags())?;
        }
        if self.interrupt_waits && self.flag(RFlags::INTERRUPT_FLAG) {
            self.interrupt_waits = false;
            // Whether another one waits is found out before the next instruction.
            bus.signals.raise();
            if let Some(vector) = bus.platform.acknowledge() {
                return self.arrive_from_outside(
                    bus,
                    Source::Interrupt,
                    (vector, None),
                    self.rflags(),
                );
            }
            self.changed_waiting();
        }
        Ok(())
    }

    /// An NMI, INIT or start-up IPI has come.
    pub(super) fn event(&mut self, bus: &mut Bus<'_>, event: Event) {
        match event {
            Event::Nmi => self.events.nmi_pending = true,
            Event::Init => self.initialise(bus),
            Event::Startup(vector) if self.activity == Activity::WaitForSipi => {
                self.events.sipi_vector = vector;
                self.start();
            }
            // Only a processor that waits for it starts.
            Event::Startup(_) => {}
        }
    }

    /// Starts at the page that a start-up IPI has named.
    pub(super) fn start(&mut self) {
        let vector = self.events.sipi_vector;
        let code = &mut self.segments[SegmentRegister::Cs as usize];
        (code.selector, code.base) = (u16::from(vector) << 8, u64::from(vector) << 12);
        (self.rip, self.next_rip) = (0, 0);
        self.activity = Activity::Running;
        self.changed_mode();
    }

    /// INIT: the registers of a reset, but caches, floating-point and model-specific registers stay.
    fn initialise(&mut self, bus: &mut Bus<'_>) {
        let bootstrap =
            ApicBaseFlags::from_bits_retain(bus.platform.apic_base()).contains(ApicBaseFlags::BSP);
        let fresh = CpuState::power_on(0, bootstrap, self.signature());
        self.registers[..16].copy_from_slice(&fresh.gpr);
        (self.rip, self.next_rip) = (fresh.rip, fresh.rip);
        self.set_rflags(fresh.rflags);
        self.segments = [fresh.es, fresh.cs, fresh.ss, fresh.ds, fresh.fs, fresh.gs];
        (self.ldtr, self.tr) = (fresh.ldtr, fresh.tr);
        (self.gdtr, self.idtr) = (fresh.gdtr, fresh.idtr);
        self.cr2 = 0;
        (self.dr, self.dr6, self.dr7) = (fresh.dr, fresh.dr6, fresh.dr7);
        let kept = (Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH).bits();
        let cr0 = self.cr0().bits() & kept | fresh.cr0 & !kept;
        let mut registers = MmuRegisters {
            paging: (&fresh).into(),
            ..*self.mmu.registers()
        };
        registers.paging.cr0 = cr0;
        self.mmu.load(&registers, bus);
        self.debug_trap = 0;
        self.raised = None;
        self.events = Events::default();
        self.interrupt_waits = false;
        self.activity = if bootstrap {
            Activity::Running
        } else {
            Activity::WaitForSipi
        };
        self.slow = 0;
        self.changed_mode();
        bus.platform.apic_init();
    }
}
