//! A whole machine with one or two processors of the software CPU, and a guest made of the fuzzer's bytes.
//!
//! Guest RAM and ROM lie between pages that nobody may touch, and ROM can't be written to: an access beside them ends the
//! fuzzer. Virtual time is counted in instructions, so that a run depends on nothing but its input.
//!
//! The guest starts in one of several modes with descriptor tables, page tables and handlers that work; records of the input
//! change registers, tables and memory, and the rest of it is code.
//!
//! What goes on from a saved state runs in the interpreter once, and once in translations to host code: both must end the
//! same.

mod guest;
mod memory;

use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use thimble_core::cpu::CpuState;
use thimble_core::cpu::mmu::{HostPage, PAGE_BYTES, PhysicalMemory};
use thimble_core::cpu::msr_index::IA32_TSC_DEADLINE;
use thimble_core::cpu::soft::cpuid::{SUPPORTED, entries_of};
use thimble_core::cpu::soft::{Attention, Bus, CodeCache, Cpu, Event, Platform, Signals, Stop};
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, Width};
use thimble_core::irq::LocalApic;
use thimble_core::irq::lapic::{CpuEvent, Tsc};
use thimble_core::machine::{Board, Host, Irqchip, Machine, STATE_MAX};
use thimble_core::memory::{Backing, Exchange, GuestRam, MemoryMap, Region};
use thimble_core::time::SECOND;

use crate::{Memory, Sink, Source, clear, local_apics, machine_around, plant, testdev_memory};
use guest::Guest;
use memory::{RAM_BYTES, Ram, Rom, zeroed};

/// Instructions that an input may execute before its state is saved, and as many again afterwards.
const BUDGET: u64 = 3_000;
/// Instructions of a turn.
const TURN: u64 = 64;
/// What waiting for the next timer, a reset or another map of memory costs of the budget.
const EVENT_COST: u64 = 100;
/// Nanoseconds of virtual time that an instruction takes.
const INSTRUCTION: u64 = 500;
/// What a turn may take at most, on a machine that does other things besides.
const PATIENCE: Duration = Duration::from_secs(30);
/// CPUID.1:EAX.
const SIGNATURE: u32 = 0x663;
const PAGE: u64 = PAGE_BYTES as u64;

/// The host, which notes what processors are to know.
struct Wires {
    sink: Sink,
    signals: Rc<[Signals; 2]>,
    leave: bool,
    remapped: bool,
    a20: bool,
}

impl Wires {
    fn leave(&mut self) {
        self.leave = true;
        for signals in self.signals.iter() {
            signals.raise();
        }
    }
}

impl Host for Wires {
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize {
        self.sink.console_write(console, bytes)
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        self.sink.set_gsi(gsi, level);
    }

    fn set_intr(&mut self, level: bool) {
        self.sink.set_intr(level);
    }

    fn attention(&mut self, cpu: u16) {
        if let Some(signals) = self.signals.get(usize::from(cpu)) {
            signals.raise();
        }
    }

    fn power(&mut self, request: PowerRequest) {
        self.sink.power(request);
        self.leave();
    }

    fn guest_event(&mut self, event: GuestEvent) {
        self.sink.guest_event(event);
    }

    fn memory_remapped(&mut self) {
        self.remapped = true;
        self.leave();
    }

    fn flush_page(&mut self, _gpa: u64) {
        self.memory_remapped();
    }

    fn set_a20(&mut self, enabled: bool) {
        if self.a20 != enabled {
            self.a20 = enabled;
            self.leave();
        }
    }
}

/// The machine as the processor sees it whose turn it is.
struct Around<'m> {
    machine: Machine<'m>,
    wires: Wires,
    ram: &'static Ram,
    rom: Rom,
    /// As of the last time that it changed.
    map: MemoryMap,
    apic_pages: [Option<u64>; 2],
    cpu: u16,
    now: u64,
    random: u64,
}

impl Around<'_> {
    fn follow_map(&mut self) {
        self.map = self.machine.memory_map().clone();
        for (cpu, page) in (0..).zip(&mut self.apic_pages) {
            *page = self.machine.local_apic(cpu).and_then(LocalApic::page);
        }
    }

    /// The region that holds all of these bytes, unless the processor's own local APIC is there.
    fn region(&self, gpa: u64, length: usize) -> Option<Region> {
        assert!(
            gpa % PAGE + length as u64 <= PAGE,
            "more than a page: {gpa:#x}"
        );
        if self.apic_pages[usize::from(self.cpu)] == Some(gpa & !(PAGE - 1)) {
            return None;
        }
        let region = self.map.find(gpa)?;
        (region.length - (gpa - region.gpa) >= length as u64).then_some(*region)
    }
}

// SAFETY: RAM and ROM live for ever. Tables forget what they know when the map changes, before a processor runs on.
unsafe impl PhysicalMemory for Around<'_> {
    fn page(&mut self, gpa: u64) -> HostPage {
        let Some(region) = self.region(gpa, PAGE_BYTES) else {
            return HostPage::default();
        };
        let block = match region.read {
            Backing::Ram => self.ram.block(gpa),
            Backing::Rom { offset } => self.rom.block(offset + (gpa - region.gpa)),
            Backing::Bus => None,
        };
        let block = block.filter(|block| block.length >= PAGE_BYTES);
        HostPage {
            pointer: block.map(|block| block.pointer),
            write: block.is_some()
                && region.read == Backing::Ram
                && region.write_ram
                && !self.ram.marks().marked(gpa),
        }
    }

    fn read(&mut self, gpa: u64, to: &mut [u8]) {
        let region = self.region(gpa, to.len());
        if region.is_some_and(|region| region.read == Backing::Ram)
            && self.ram.read(gpa, to).is_ok()
        {
            return;
        }
        let (cpu, now) = (self.cpu, self.now);
        self.machine
            .processor_read(&mut self.wires, now, cpu, gpa, to);
    }

    fn write(&mut self, gpa: u64, from: &[u8]) {
        let region = self.region(gpa, from.len());
        if region.is_some_and(|region| region.write_ram) && self.ram.write(gpa, from).is_ok() {
            return;
        }
        let (cpu, now) = (self.cpu, self.now);
        self.machine
            .processor_write(&mut self.wires, now, cpu, gpa, from);
    }

    fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
        let bytes = match exchange {
            Exchange::Bits32 { .. } => 4,
            Exchange::Bits64 { .. } => 8,
        };
        let ram = self
            .region(gpa, bytes)
            .is_some_and(|region| region.read == Backing::Ram && region.write_ram);
        !ram || self.ram.compare_exchange(gpa, exchange).unwrap_or(true)
    }
}

// SAFETY: as above.
unsafe impl Platform for Around<'_> {
    fn pio_read(&mut self, port: u16, width: Width) -> u32 {
        self.machine
            .pio_read(&mut self.wires, self.now, port, width)
    }

    fn pio_write(&mut self, port: u16, width: Width, value: u32) {
        self.machine
            .pio_write(&mut self.wires, self.now, port, width, value);
    }

    fn attend(&mut self) -> Attention {
        let (cpu, now) = (self.cpu, self.now);
        let apic = self.machine.local_apic(cpu);
        let has_event = apic.is_some_and(LocalApic::has_event);
        let event = has_event.then(|| self.machine.take_event(&mut self.wires, now, cpu));
        Attention {
            leave: self.wires.leave,
            interrupt: self.machine.interrupt_waits(cpu),
            event: event.flatten().map(|event| match event {
                CpuEvent::Nmi => Event::Nmi,
                CpuEvent::Init => Event::Init,
                CpuEvent::Startup(page) => Event::Startup(page),
            }),
        }
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.machine
            .take_interrupt(&mut self.wires, self.now, self.cpu)
    }

    fn task_priority(&mut self) -> u8 {
        self.machine.task_priority(self.cpu)
    }

    fn set_task_priority(&mut self, class: u8) {
        let (cpu, now) = (self.cpu, self.now);
        self.machine
            .set_task_priority(&mut self.wires, now, cpu, class);
    }

    fn apic_base(&mut self) -> u64 {
        self.machine.apic_base(self.cpu)
    }

    fn set_apic_base(&mut self, value: u64) -> bool {
        let (cpu, now) = (self.cpu, self.now);
        let set = self.machine.set_apic_base(&mut self.wires, now, cpu, value);
        if set.is_ok() {
            self.wires.memory_remapped();
        }
        set.is_ok()
    }

    fn apic_read_msr(&mut self, index: u32) -> Option<u64> {
        let (cpu, now) = (self.cpu, self.now);
        if index == IA32_TSC_DEADLINE {
            return Some(self.machine.tsc_deadline(&mut self.wires, now, cpu));
        }
        self.machine
            .apic_msr_read(&mut self.wires, now, cpu, index)
            .ok()
    }

    fn apic_write_msr(&mut self, index: u32, value: u64, tsc: u64) -> bool {
        let (cpu, now) = (self.cpu, self.now);
        if index == IA32_TSC_DEADLINE {
            let tsc = Tsc {
                value: tsc,
                hz: SECOND,
            };
            self.machine
                .set_tsc_deadline(&mut self.wires, now, cpu, value, tsc);
            return true;
        }
        self.machine
            .apic_msr_write(&mut self.wires, now, cpu, index, value)
            .is_ok()
    }

    fn apic_init(&mut self) {}

    fn tsc(&mut self) -> u64 {
        self.now
    }

    fn random(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.random
    }
}

/// A processor, and whether it waits.
struct Seat {
    cpu: Box<Cpu>,
    idle: bool,
    stopped: bool,
}

/// What all inputs share: it would take long to make anew.
struct Shared {
    /// Without and with translations.
    codes: [Box<CodeCache>; 2],
    translates: bool,
    seats: [Seat; 2],
}

impl Shared {
    fn new() -> Self {
        let mut codes: [Box<CodeCache>; 2] = [zeroed(), zeroed()];
        codes[1].lend(memory::code().after(2));
        Self {
            codes,
            translates: false,
            seats: [(); 2].map(|()| Seat {
                cpu: zeroed(),
                idle: false,
                stopped: false,
            }),
        }
    }
}

/// Everything that a saved machine is made of.
#[derive(Debug, PartialEq)]
struct Saved {
    processors: Vec<CpuState>,
    machine: Vec<u8>,
    now: u64,
    random: u64,
    a20: bool,
    next: usize,
}

/// The machine, its processors, and whose turn is next.
struct Session<'m> {
    around: Around<'m>,
    signals: Rc<[Signals; 2]>,
    shared: &'m mut Shared,
    processors: usize,
    next: usize,
    /// The guest has powered the machine off.
    over: bool,
    /// A processor that shuts down resets the machine.
    resets: bool,
}

impl<'m> Session<'m> {
    fn new(
        ram: &'static Ram,
        rom: Rom,
        apics: &'m mut [LocalApic],
        shared: &'m mut Shared,
        guest: &Guest,
    ) -> Self {
        let signals = Rc::new([Signals::new(), Signals::new()]);
        let memory = Memory {
            ram,
            ram_size: RAM_BYTES,
            rom: rom.bytes(),
            flash: [None; 2],
        };
        for seat in &mut shared.seats {
            // Nothing of the last input is left.
            seat.cpu = zeroed();
            let entries = entries_of(&SUPPORTED);
            seat.cpu
                .set_cpuid(&entries)
                .expect("there is room for all leaves");
            (seat.idle, seat.stopped) = (false, false);
        }
        let mut session = Self {
            around: Around {
                machine: machine_around(Board::Pc, Irqchip::Machine, memory, apics, guest.testdev),
                wires: Wires {
                    sink: Sink::default(),
                    signals: signals.clone(),
                    leave: false,
                    remapped: true,
                    a20: true,
                },
                ram,
                rom,
                map: MemoryMap::new(),
                apic_pages: [None; 2],
                cpu: 0,
                now: 0,
                random: 1,
            },
            signals,
            shared,
            processors: if guest.second { 2 } else { 1 },
            next: 0,
            over: false,
            resets: guest.resets,
        };
        session.forget_code();
        session
    }

    fn with<R>(&mut self, index: usize, call: impl FnOnce(&mut Cpu, &mut Bus<'_>) -> R) -> R {
        self.around.cpu = index as u16;
        let marks = self.around.ram.marks();
        let Shared {
            codes,
            translates,
            seats,
        } = &mut *self.shared;
        let code = &mut codes[usize::from(*translates)];
        let mut bus = Bus::new(&mut self.around, marks, &self.signals[index], code);
        call(&mut seats[index].cpu, &mut bus)
    }

    /// Forgets decoded code, and that pages hold any.
    fn forget_code(&mut self) {
        let marks = self.around.ram.marks();
        marks.stored(0, 1 << 21);
        marks.stored(0xffe0_0000, 1 << 21);
        marks.take_written(|_| ());
        for code in &mut self.shared.codes {
            code.forget_all();
        }
    }

    /// Catches up with what has happened while no processor ran.
    fn follow(&mut self) {
        self.around.wires.leave = false;
        if std::mem::take(&mut self.around.wires.remapped) {
            self.around.follow_map();
            for code in &mut self.shared.codes {
                code.forget_all();
            }
            for seat in &mut self.shared.seats {
                seat.cpu.forget_memory();
            }
        }
        for seat in &mut self.shared.seats {
            seat.cpu.set_a20(self.around.wires.a20);
        }
    }

    fn state(&mut self, index: usize) -> CpuState {
        let mut state = CpuState::default();
        self.with(index, |cpu, bus| cpu.state(&mut state, bus));
        let (cpu, around) = (index as u16, &mut self.around);
        let now = around.now;
        state.apic = around.machine.local_apic_state(now, cpu);
        state.apic_base = around.machine.apic_base(cpu);
        state.cr8 = around.machine.task_priority(cpu).into();
        state.msrs.tsc_deadline = around.machine.tsc_deadline(&mut around.wires, now, cpu);
        state
    }

    fn set_state(&mut self, index: usize, state: &CpuState) {
        let (cpu, around) = (index as u16, &mut self.around);
        let (now, base) = (around.now, state.apic_base);
        let apic = state.apic.as_ref().expect("it has a local APIC");
        let Around { machine, wires, .. } = around;
        machine
            .set_local_apic_state(wires, now, cpu, apic, base)
            .expect("a state that a local APIC had");
        machine.set_task_priority(wires, now, cpu, state.cr8 as u8);
        if state.msrs.tsc_deadline != 0 {
            let tsc = Tsc {
                value: state.msrs.tsc,
                hz: SECOND,
            };
            machine.set_tsc_deadline(wires, now, cpu, state.msrs.tsc_deadline, tsc);
        }
        around.follow_map();
        self.with(index, |cpu, bus| cpu.set_state(state, bus));
        let seat = &mut self.shared.seats[index];
        (seat.idle, seat.stopped) = (false, false);
        self.signals[index].raise();
    }

    fn reset(&mut self) {
        let now = self.around.now;
        self.around.machine.reset(&mut self.around.wires, now);
        self.around.wires.a20 = true;
        for index in 0..self.processors {
            let state = CpuState::power_on(index as u8, index == 0, SIGNATURE);
            self.set_state(index, &state);
        }
    }

    /// Runs processors in turns.
    fn run(&mut self, mut budget: u64) {
        let mut slept = 0;
        while budget > 0 && !self.over {
            match self.around.wires.sink.power.take() {
                Some(PowerRequest::Reset(_)) => {
                    self.reset();
                    budget = budget.saturating_sub(EVENT_COST);
                }
                Some(_) => self.over = true,
                None => {}
            }
            if self.around.wires.remapped {
                budget = budget.saturating_sub(EVENT_COST);
            }
            self.follow();
            let index = self.next;
            self.next = (index + 1) % self.processors;
            let seat = &self.shared.seats[index];
            if seat.stopped || seat.idle && !self.signals[index].raised() {
                slept += 1;
                if slept < self.processors {
                    continue;
                }
                // All wait: for the next timer.
                let Some(deadline) = self.around.machine.next_deadline() else {
                    return;
                };
                self.pass(deadline.saturating_sub(self.around.now));
                budget = budget.saturating_sub(EVENT_COST);
                slept = 0;
                continue;
            }
            slept = 0;
            let (stop, executed) = self.take_turn(index, budget.min(TURN));
            self.pass(executed * INSTRUCTION);
            budget -= executed;
            let seat = &mut self.shared.seats[index];
            seat.idle = stop == Stop::Idle;
            if stop == Stop::Shutdown {
                seat.stopped = true;
                if self.resets {
                    self.reset();
                    budget = budget.saturating_sub(EVENT_COST);
                }
            }
        }
    }

    fn take_turn(&mut self, index: usize, instructions: u64) -> (Stop, u64) {
        let _watched = Watched::new();
        self.with(index, |cpu, bus| {
            let before = cpu.instructions();
            let stop = cpu.run(bus, instructions);
            let executed = cpu.instructions() - before;
            assert!(executed <= instructions, "{executed} of {instructions}");
            // Exceptions have taken the rest.
            let full = stop == Stop::Budget;
            (stop, if full { instructions } else { executed.max(1) })
        })
    }

    /// Lets time pass.
    fn pass(&mut self, nanoseconds: u64) {
        let around = &mut self.around;
        around.now = around.now.saturating_add(nanoseconds);
        let due = |deadline| deadline <= around.now;
        if around.machine.next_deadline().is_some_and(due) {
            around.machine.advance(&mut around.wires, around.now);
        }
    }

    fn save(&mut self) -> Saved {
        let mut machine = vec![0; STATE_MAX];
        let length = self
            .around
            .machine
            .save(&mut machine)
            .expect("the state fits");
        machine.truncate(length);
        Saved {
            processors: (0..self.processors)
                .map(|index| self.state(index))
                .collect(),
            machine,
            now: self.around.now,
            random: self.around.random,
            a20: self.around.wires.a20,
            next: self.next,
        }
    }

    /// Loads processors that were saved. What tables of translations and decoded code remember is no part of a state.
    fn load_processors(&mut self, saved: &Saved) {
        self.forget_code();
        for (index, state) in saved.processors.iter().enumerate() {
            assert_eq!(state.validate(), Ok(()), "{state:#x?}");
            self.set_state(index, state);
        }
        self.follow();
    }
}

/// A turn that ends the fuzzer if it takes longer than [`PATIENCE`].
struct Watched;

/// When the turn began, in milliseconds since [`epoch`] and at least 1; 0 between turns.
static BEGAN: AtomicU64 = AtomicU64::new(0);

fn milliseconds() -> u64 {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

impl Watched {
    fn new() -> Self {
        static WATCHDOG: Once = Once::new();
        WATCHDOG.call_once(|| {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                    let began = BEGAN.load(Ordering::Relaxed);
                    let patience = PATIENCE.as_millis() as u64;
                    if began != 0 && milliseconds().saturating_sub(began) > patience {
                        eprintln!("a turn has taken more than {PATIENCE:?}");
                        std::process::abort();
                    }
                }
            });
        });
        BEGAN.store(milliseconds(), Ordering::Relaxed);
        Self
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        BEGAN.store(0, Ordering::Relaxed);
    }
}

/// Other model-specific registers that an input may set.
const MSRS: [u32; 12] = [
    0x10,
    0x3b,
    0x174,
    0x175,
    0x176,
    0x1a0,
    0x277,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
];

/// Runs one input.
pub fn run(bytes: &[u8]) {
    thread_local! {
        static SHARED: std::cell::RefCell<Shared> = std::cell::RefCell::new(Shared::new());
    }
    SHARED.with_borrow_mut(|shared| run_with(bytes, shared));
}

fn run_with(bytes: &[u8], shared: &mut Shared) {
    let mut source = Source(bytes);
    let ram = Ram::get();
    ram.clear();
    let guest = Guest::new(&mut source, ram);
    if guest.testdev {
        clear(testdev_memory());
    }
    let rom = Rom::with(&guest.rom);
    let state = &guest.state;
    if state.validate().is_err() {
        return;
    }
    let mut apics = local_apics();
    shared.translates = bytes.len() % 2 == 0;
    let mut session = Session::new(ram, rom, &mut apics, shared, &guest);
    session.set_state(0, state);
    if guest.second {
        let mut second = CpuState::power_on(1, false, SIGNATURE);
        if let Some(running) = &guest.second_state {
            second = CpuState {
                apic: second.apic,
                apic_base: second.apic_base,
                ..(**running).clone()
            };
        }
        session.set_state(1, &second);
    }
    if guest.devices {
        guest::program_devices(&mut session.around);
    }
    session.run(guest.budget);

    let saved = session.save();
    if saved
        .processors
        .iter()
        .any(|state| state.validate().is_err())
    {
        for state in &saved.processors {
            assert_eq!(state.validate(), Ok(()), "{state:#x?}");
        }
    }
    let processor = &saved.processors[0];
    plant(processor.efer & 1 << 10 != 0 && processor.cr2 >> 32 == 0xffff_ffff);
    if !guest.compares || session.over {
        return;
    }
    // In a power request there is more than a state.
    if session.around.wires.sink.power.is_some() {
        return;
    }
    let memory = ram.copy();
    session.load_processors(&saved);
    assert_eq!(session.save(), saved, "a state that was loaded is another");
    session.run(BUDGET);
    let (over, went_on) = (session.over, session.save());
    let memory_then = ram.copy();

    // The same once more, from what was saved.
    ram.fill(&memory);
    drop(session);
    shared.translates = !shared.translates;
    let mut apics = local_apics();
    let mut session = Session::new(ram, rom, &mut apics, shared, &guest);
    (session.around.now, session.around.random) = (saved.now, saved.random);
    (session.next, session.around.cpu) = (saved.next, 0);
    let Around { machine, wires, .. } = &mut session.around;
    machine
        .load(wires, saved.now, &saved.machine)
        .expect("what a machine saves it can load");
    assert_eq!(wires.a20, saved.a20, "A20 of a machine that was loaded");
    session.load_processors(&saved);
    session.run(BUDGET);
    assert_eq!(session.over, over, "one has ended");
    let resumed = session.save();
    for (index, (one, other)) in went_on
        .processors
        .iter()
        .zip(&resumed.processors)
        .enumerate()
    {
        assert_eq!(one, other, "processor {index} after a load");
    }
    assert_eq!(went_on, resumed, "a machine after a load");
    let memory = ram.copy();
    // Byte by byte only if there is one to be found: coverage is counted for each.
    if memory != memory_then {
        let mut pairs = memory.iter().zip(&memory_then);
        let different = pairs.position(|(a, b)| a != b);
        assert_eq!(different, None, "RAM after a load");
    }
}

/// Sets one of [`MSRS`].
fn set_msr(state: &mut CpuState, which: u8, value: u64) {
    let index = MSRS[usize::from(which) % MSRS.len()];
    state.msrs.set(index, value);
}
