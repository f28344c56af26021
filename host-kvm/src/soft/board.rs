//! The machine as a processor of the software CPU sees it: memory by pointer, all else through
//! [`Surroundings`].

use std::sync::Arc;

use thimble_core::cpu::debugger::Hit;
use thimble_core::cpu::decode::CodeSize;
use thimble_core::cpu::mmu::{HostPage, PAGE_BYTES, PhysicalMemory};
use thimble_core::cpu::msr_index::IA32_TSC_DEADLINE;
use thimble_core::cpu::soft::{Attention, Delivery, Platform};
use thimble_core::cpu::{LocalApicState, Registers};
use thimble_core::devices::Width;
use thimble_core::memory::{Backing, Block, CodeMarks, Exchange, GuestRam, MemoryMap, Region};
use thimble_core::state::StateError;
use thimble_core::time::SECOND;

use super::icount::{Counter, Generator, Icount};
use super::wires::{NEVER, Wires};
use crate::clock::{Clock, monotonic};
use crate::log::Sink;
use crate::memory::{PAGE, Ram, Rom};

/// Ticks of the time stamp counter in a second: nanoseconds of the virtual clock, so that it stands
/// still while the VM is stopped. No guest that runs on the software CPU could count finer.
pub const TSC_HZ: u64 = 1_000_000_000;

/// What processors ask of the machine and the process around them. Called on the processors' thread,
/// or on one that looks at a parked processor; each call may take the machine's lock.
pub trait Surroundings: Send + Sync {
    /// Reads a port.
    fn pio_read(&self, cpu: u16, port: u16, width: Width) -> u32;

    /// Writes a port.
    fn pio_write(&self, cpu: u16, port: u16, width: Width, value: u32);

    /// Reads physical memory, whatever answers there; the processor's own local APIC, too.
    fn memory_read(&self, cpu: u16, gpa: u64, to: &mut [u8]);

    /// Writes physical memory, whatever answers there.
    fn memory_write(&self, cpu: u16, gpa: u64, from: &[u8]);

    /// Takes the next event of a processor, and tells whether an interrupt waits.
    fn attend(&self, cpu: u16) -> Attention;

    /// A processor takes its interrupt: the vector.
    fn acknowledge(&self, cpu: u16) -> Option<u8>;

    /// CR8.
    fn task_priority(&self, cpu: u16) -> u8;

    /// Sets CR8.
    fn set_task_priority(&self, cpu: u16, class: u8);

    /// IA32_APIC_BASE.
    fn apic_base(&self, cpu: u16) -> u64;

    /// Where a processor's local APIC has its page, if anywhere.
    fn apic_page(&self, cpu: u16) -> Option<u64>;

    /// Sets IA32_APIC_BASE; false is #GP.
    fn set_apic_base(&self, cpu: u16, value: u64) -> bool;

    /// Reads a register of x2APIC mode; `None` is #GP.
    fn apic_read_msr(&self, cpu: u16, index: u32) -> Option<u64>;

    /// Writes one; false is #GP.
    fn apic_write_msr(&self, cpu: u16, index: u32, value: u64) -> bool;

    /// Reads IA32_TSC_DEADLINE; `None` where the processor has none.
    fn tsc_deadline(&self, cpu: u16) -> Option<u64>;

    /// Writes it, in ticks of a counter that reads `tsc` now and has [`TSC_HZ`]; false where the
    /// processor has none.
    fn set_tsc_deadline(&self, cpu: u16, value: u64, tsc: u64) -> bool;

    /// The local APIC's registers, for the processor's saved state.
    fn apic_state(&self, cpu: u16) -> Option<LocalApicState>;

    /// Sets the local APIC's registers and IA32_APIC_BASE. Events that wait there are gone.
    ///
    /// # Errors
    /// If it can't have them.
    fn set_apic_state(&self, cpu: u16, state: &LocalApicState, base: u64)
    -> Result<(), StateError>;

    /// Lets the machine's timers expire that are due.
    fn advance(&self);

    /// The virtual clock, which changes only while processors are paused.
    fn clock(&self) -> Clock;

    /// The memory map as it is now.
    fn memory_map(&self) -> MemoryMap;

    /// Pulses LINT1 of all local APICs; tells how many NMIs got through.
    fn pulse_nmi(&self) -> u32;

    /// A processor has shut down: a triple fault.
    fn triple_fault(&self, cpu: u16);

    /// A processor has stopped as a debugger wishes.
    fn debugged(&self, cpu: u16, hit: Hit);
}

/// Whom processors talk to.
pub(super) struct Outside {
    pub(super) surroundings: Arc<dyn Surroundings>,
    pub(super) wires: Arc<Wires>,
    /// Where it goes what they do.
    pub(super) log: Arc<Sink>,
    /// Time goes by instructions.
    pub(super) icount: Option<Icount>,
    /// Random numbers are those of a seed.
    pub(super) generator: Option<Generator>,
}

/// What is around the processor whose turn it is.
pub(super) struct Board {
    /// The processor.
    pub(super) cpu: u16,
    /// When its turn is over, on the host's clock, however few instructions it has executed; without
    /// `-icount` only.
    pub(super) turn_end: u64,
    surroundings: Arc<dyn Surroundings>,
    wires: Arc<Wires>,
    /// Where it goes what processors do.
    pub(super) log: Arc<Sink>,
    /// The clock, where it goes by instructions.
    pub(super) counter: Option<Counter>,
    pub(super) generator: Option<Generator>,
    ram: &'static Ram,
    rom: &'static Rom,
    /// RAM's marks of pages with decoded code.
    pub(super) marks: &'static CodeMarks,
    /// As of the last time that anything changed.
    map: MemoryMap,
    /// Likewise.
    clock: Clock,
    /// Pages of local APICs, by processor.
    apic_pages: Vec<Option<u64>>,
}

impl Board {
    pub(super) fn new(
        outside: Outside,
        ram: &'static Ram,
        rom: &'static Rom,
        marks: &'static CodeMarks,
        processors: u32,
    ) -> Self {
        let Outside {
            surroundings,
            wires,
            log,
            icount,
            generator,
        } = outside;
        let (map, clock) = (surroundings.memory_map(), surroundings.clock());
        let counter = match clock {
            Clock::Counted { now } => icount.map(|icount| Counter::new(icount, now)),
            Clock::Running { .. } | Clock::Stopped { .. } => None,
        };
        let apic_pages = (0..processors)
            .map(|cpu| surroundings.apic_page(cpu as u16))
            .collect();
        Self {
            cpu: 0,
            turn_end: NEVER,
            surroundings,
            wires,
            log,
            counter,
            generator,
            ram,
            rom,
            marks,
            map,
            clock,
            apic_pages,
        }
    }

    pub(super) fn surroundings(&self) -> &dyn Surroundings {
        &*self.surroundings
    }

    /// Catches up with the clock, after a pause.
    pub(super) fn follow_clock(&mut self) {
        self.clock = self.surroundings.clock();
        if let Some(counter) = &mut self.counter {
            counter.resume(monotonic());
        }
    }

    /// Catches up with the memory map and the pages of local APICs.
    pub(super) fn follow_map(&mut self) {
        self.map = self.surroundings.memory_map();
        for (cpu, page) in self.apic_pages.iter_mut().enumerate() {
            *page = self.surroundings.apic_page(cpu as u16);
        }
    }

    /// The region that holds all of these bytes, which are in one page, unless the processor's own
    /// local APIC is there.
    fn region(&self, gpa: u64, length: usize) -> Option<&Region> {
        let page = gpa & !(PAGE - 1);
        let own = self.apic_pages.get(usize::from(self.cpu));
        if own.is_some_and(|own| *own == Some(page)) {
            return None;
        }
        let region = self.map.find(gpa)?;
        (region.length - (gpa - region.gpa) >= length as u64).then_some(region)
    }

    /// Copies memory of one region, as far as it is RAM or ROM; false where it is not.
    pub(super) fn peek(&self, gpa: u64, to: &mut [u8]) -> bool {
        let Some(region) = self.region(gpa, to.len()) else {
            return false;
        };
        match region.read {
            Backing::Ram => self.ram.read(gpa, to).is_ok(),
            Backing::Rom { offset } => {
                self.rom.read(offset + (gpa - region.gpa), to);
                true
            }
            Backing::Bus => false,
        }
    }

    /// Host memory that answers loads, from `gpa` on.
    fn block(&self, region: &Region, gpa: u64) -> Option<Block> {
        match region.read {
            Backing::Ram => self.ram.block(gpa),
            Backing::Rom { offset } => self.rom.block(offset.checked_add(gpa - region.gpa)?),
            Backing::Bus => None,
        }
    }
}

// SAFETY: blocks are valid as long as RAM and ROM live, which is for ever. ROM is shared by reference, but is only ever loaded from. When
// what is mapped at a page changes, the processors' thread leaves guest code and lets all tables
// forget before a processor runs on.
unsafe impl PhysicalMemory for Board {
    fn page(&mut self, gpa: u64) -> HostPage {
        let found = self.region(gpa, PAGE_BYTES).and_then(|region| {
            let block = self.block(region, gpa)?;
            let whole =
                block.length >= PAGE_BYTES && block.pointer.addr().get().is_multiple_of(PAGE_BYTES);
            whole.then_some((region, block))
        });
        let Some((region, block)) = found else {
            return HostPage::default();
        };
        HostPage {
            pointer: Some(block.pointer),
            write: region.read == Backing::Ram && region.write_ram && !self.marks.marked(gpa),
        }
    }

    fn read(&mut self, gpa: u64, to: &mut [u8]) {
        let region = self.region(gpa, to.len());
        if region.is_some_and(|region| region.read == Backing::Ram)
            && self.ram.read(gpa, to).is_ok()
        {
            return;
        }
        self.surroundings.memory_read(self.cpu, gpa, to);
    }

    fn write(&mut self, gpa: u64, from: &[u8]) {
        let region = self.region(gpa, from.len());
        if region.is_some_and(|region| region.write_ram) && self.ram.write(gpa, from).is_ok() {
            return;
        }
        self.surroundings.memory_write(self.cpu, gpa, from);
    }

    fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
        let ram = self
            .region(gpa, size_of::<u64>())
            .or_else(|| self.region(gpa, size_of::<u32>()))
            .is_some_and(|region| region.read == Backing::Ram && region.write_ram);
        // Elsewhere words do not keep what is stored.
        !ram || self.ram.compare_exchange(gpa, exchange).unwrap_or(true)
    }

    // The other processors, and decoded code, follow when this one has left guest code, soon.
    fn remapped(&mut self) -> bool {
        let remapped = self.wires.remapped();
        if remapped {
            self.follow_map();
        }
        remapped
    }
}

// SAFETY: as above.
unsafe impl Platform for Board {
    fn pio_read(&mut self, port: u16, width: Width) -> u32 {
        self.surroundings.pio_read(self.cpu, port, width)
    }

    fn pio_write(&mut self, port: u16, width: Width, value: u32) {
        self.surroundings.pio_write(self.cpu, port, width, value);
    }

    fn attend(&mut self) -> Attention {
        let over = self.counter.is_none() && monotonic() >= self.turn_end;
        Attention {
            leave: over || self.wires.leaves() || self.wires.turn_ends(),
            ..self.surroundings.attend(self.cpu)
        }
    }

    fn pause(&mut self) {
        if self.wires.count() > 1 {
            self.wires.end_turn(self.cpu);
        }
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.surroundings.acknowledge(self.cpu)
    }

    fn task_priority(&mut self) -> u8 {
        self.surroundings.task_priority(self.cpu)
    }

    fn set_task_priority(&mut self, class: u8) {
        self.surroundings.set_task_priority(self.cpu, class);
    }

    fn apic_base(&mut self) -> u64 {
        self.surroundings.apic_base(self.cpu)
    }

    fn set_apic_base(&mut self, value: u64) -> bool {
        let done = self.surroundings.set_apic_base(self.cpu, value);
        if done && self.surroundings.apic_page(self.cpu) != self.apic_pages[usize::from(self.cpu)] {
            // What is mapped where is another thing for this processor now.
            self.wires.memory_remapped();
        }
        done
    }

    fn apic_read_msr(&mut self, index: u32) -> Option<u64> {
        match index {
            IA32_TSC_DEADLINE => self.surroundings.tsc_deadline(self.cpu),
            _ => self.surroundings.apic_read_msr(self.cpu, index),
        }
    }

    fn apic_write_msr(&mut self, index: u32, value: u64, tsc: u64) -> bool {
        match index {
            IA32_TSC_DEADLINE => self.surroundings.set_tsc_deadline(self.cpu, value, tsc),
            _ => self.surroundings.apic_write_msr(self.cpu, index, value),
        }
    }

    // The local APIC has been reset by the time that the processor is told of INIT.
    fn apic_init(&mut self) {}

    fn tsc(&mut self) -> u64 {
        const { assert!(TSC_HZ == SECOND) };
        self.clock.now()
    }

    fn reached(&mut self, time: u64) {
        if let Some(counter) = &mut self.counter {
            counter.reached(time);
        }
    }

    fn random(&mut self) -> u64 {
        if let Some(generator) = &mut self.generator {
            return generator.next();
        }
        let mut bytes = [0; 8];
        // SAFETY: the buffer is as long as it says. Requests of this size are never cut short once
        // the kernel's generator has been seeded, for which the call waits.
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        u64::from_ne_bytes(bytes)
    }

    fn decoded(&mut self, linear: u64, bytes: &[u8], code: CodeSize) {
        self.log.decoded(linear, bytes, code);
    }

    fn entered(&mut self, linear: u64, registers: &Registers) {
        self.log.entered(self.cpu.into(), linear, registers);
    }

    fn delivered(&mut self, delivery: &Delivery, registers: &Registers) {
        self.log.delivered(self.cpu.into(), delivery, registers);
    }
}
