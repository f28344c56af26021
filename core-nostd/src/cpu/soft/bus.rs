//! What a processor needs of the machine around it.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, Ordering};

use super::code::CodeCache;
use super::watch::Delivery;
use crate::cpu::Registers;
use crate::cpu::decode::CodeSize;
use crate::cpu::mmu::{HostPage, PhysicalMemory};
use crate::devices::Width;
use crate::memory::{CodeMarks, Exchange};

/// What comes to a processor besides interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// NMI.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI with its vector.
    Startup(u8),
}

/// What [`Platform::attend`] has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// The processor is to leave [`Cpu::run`](super::Cpu::run).
    pub leave: bool,
    /// INTR is up: [`Platform::acknowledge`] has a vector.
    pub interrupt: bool,
    /// The next event; asked again until there is none.
    pub event: Option<Event>,
}

/// The machine around one processor. Every method may take the machine's lock.
///
/// # Safety
/// That of [`PhysicalMemory`].
pub unsafe trait Platform: PhysicalMemory {
    /// Reads a port, 1, 2 or 4 bytes.
    fn pio_read(&mut self, port: u16, width: Width) -> u32;

    /// Writes a port, 1, 2 or 4 bytes.
    fn pio_write(&mut self, port: u16, width: Width, value: u32);

    /// Looks what waits, once [`Signals`] were raised or an interrupt was acknowledged.
    fn attend(&mut self) -> Attention;

    /// PAUSE: the processor waits for another one. Does nothing unless overridden.
    fn pause(&mut self) {}

    /// Takes an interrupt: the vector. `None` if none waits any more.
    fn acknowledge(&mut self) -> Option<u8>;

    /// The task priority's class, which CR8 shows: 0 to 15.
    fn task_priority(&mut self) -> u8;

    /// Sets the task priority's class.
    fn set_task_priority(&mut self, class: u8);

    /// IA32_APIC_BASE.
    fn apic_base(&mut self) -> u64;

    /// Sets IA32_APIC_BASE; false for what the local APIC refuses: #GP(0).
    fn set_apic_base(&mut self, value: u64) -> bool;

    /// Reads a register of the local APIC in x2APIC mode, by MSR number (800h to 8FFh), or
    /// IA32_TSC_DEADLINE; `None` is #GP(0).
    fn apic_read_msr(&mut self, index: u32) -> Option<u64>;

    /// Writes one; false is #GP(0). `tsc` is what the processor's time stamp counter reads, by which a
    /// deadline counts.
    fn apic_write_msr(&mut self, index: u32, value: u64, tsc: u64) -> bool;

    /// The processor was reset by INIT: its local APIC is, too.
    fn apic_init(&mut self);

    /// A counter that never stops and is the same for all processors: what RDTSC counts.
    fn tsc(&mut self) -> u64;

    /// Sixty-four random bits.
    fn random(&mut self) -> u64;

    /// Of a [counting](Bus::count_time) bus: how far the processor is ([`Cpu::time`](super::Cpu::time)).
    /// Told before each call that could depend on it.
    fn reached(&mut self, time: u64) {
        let _ = time;
    }

    /// [`Watch::DECODED`](super::Watch::DECODED): instructions were decoded at a linear address, and
    /// `bytes` are all of theirs. Those that can't be kept are told of each time: between two pages,
    /// and in memory that is no RAM or ROM.
    fn decoded(&mut self, linear: u64, bytes: &[u8], code: CodeSize) {
        let _ = (linear, bytes, code);
    }

    /// [`Watch::ENTERED`](super::Watch::ENTERED): a block at a linear address is about to run, or one
    /// instruction by itself.
    fn entered(&mut self, linear: u64, registers: &Registers) {
        let _ = (linear, registers);
    }

    /// [`Watch::DELIVERED`](super::Watch::DELIVERED): an interrupt or exception is about to be
    /// delivered, with the registers that it finds. RIP is the instruction's that asks for it or faults.
    fn delivered(&mut self, delivery: &Delivery, registers: &Registers) {
        let _ = (delivery, registers);
    }
}

/// What other threads raise to be heard by a processor that runs.
#[derive(Debug, Default)]
pub struct Signals {
    attention: AtomicBool,
}

impl Signals {
    /// Nothing raised.
    pub const fn new() -> Self {
        Self {
            attention: AtomicBool::new(false),
        }
    }

    /// Makes the processor call [`Platform::attend`] before long.
    pub fn raise(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Whether they are raised; lowers them.
    pub(super) fn take(&self) -> bool {
        self.attention.swap(false, Ordering::AcqRel)
    }

    /// The byte that is not zero while they are raised.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.attention
    }

    /// Whether they are raised.
    #[inline]
    pub fn raised(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }
}

/// A processor's way out: the platform, its signals, and the code that all processors of a thread
/// share.
pub struct Bus<'b> {
    pub(super) platform: &'b mut dyn Platform,
    /// RAM's marks of pages with decoded code.
    pub(super) marks: &'b CodeMarks,
    pub(super) signals: &'b Signals,
    pub(super) code: &'b mut CodeCache,
    /// Time goes by instructions.
    counts: bool,
    /// The platform knows how far the processor is, or does not ask.
    exact: bool,
}

impl<'b> Bus<'b> {
    /// Joins them. `marks` are those that are told of each store to the platform's RAM.
    pub fn new(
        platform: &'b mut dyn Platform,
        marks: &'b CodeMarks,
        signals: &'b Signals,
        code: &'b mut CodeCache,
    ) -> Self {
        Self {
            platform,
            marks,
            signals,
            code,
            counts: false,
            exact: true,
        }
    }

    /// Lets time go by instructions: the platform is told by [`Platform::reached`] how far the
    /// processor is whenever it is asked for something. An instruction that meets a device or a clock
    /// within a block is begun again by itself for that, so that what a guest sees does not depend on
    /// where blocks begin and end, or on how they are executed.
    #[must_use]
    pub fn count_time(mut self) -> Self {
        self.counts = true;
        self
    }

    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// The processor is so far, and between two instructions: devices may be accessed until
    /// [`Bus::begin_block`].
    pub(super) fn settle(&mut self, time: u64) {
        if self.counts {
            self.exact = true;
            self.platform.reached(time);
        }
    }

    /// Several instructions follow.
    #[inline]
    pub(super) fn begin_block(&mut self) {
        self.exact = !self.counts;
    }

    /// Whether an instruction may ask devices and clocks.
    pub(super) fn exact(&self) -> bool {
        self.exact
    }

    pub(super) fn tsc(&mut self) -> u64 {
        self.platform.tsc()
    }

    /// Whether code that was decoded has been overwritten since it was last looked after.
    #[inline]
    pub(super) fn code_written(&self) -> bool {
        self.marks.written()
    }
}

// SAFETY: the platform keeps the trait's promises.
unsafe impl PhysicalMemory for Bus<'_> {
    fn page(&mut self, gpa: u64) -> HostPage {
        self.platform.page(gpa)
    }

    fn read(&mut self, gpa: u64, to: &mut [u8]) {
        self.platform.read(gpa, to);
    }

    fn write(&mut self, gpa: u64, from: &[u8]) {
        self.platform.write(gpa, from);
    }

    fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
        self.platform.compare_exchange(gpa, exchange)
    }

    fn remapped(&mut self) -> bool {
        self.platform.remapped()
    }

    fn admits_devices(&self) -> bool {
        self.exact
    }
}
