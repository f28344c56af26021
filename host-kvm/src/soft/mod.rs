//! The software CPU's accelerator: one thread, in which all processors take turns.
//!
//! A turn lasts about a tenth of a millisecond, and shorter where a processor halts or waits for
//! another one. The thread also lets the machine's timers expire, before a turn: where all processors
//! have halted it sleeps until then, or until a processor's [`Wires`] are raised, so that an idle
//! guest's tick is one wake-up of one thread. Guest code runs without any lock but the one on the
//! processors themselves; what another thread wants is heard at the end of a block of instructions.
//!
//! With `-icount` ([`Icount`]) turns, timers and time stamps go by instructions, and nothing in here by
//! the host's time.
//!
//! **Locks.** The processors are locked by their thread while it is not parked, and it takes the
//! machine's lock inside: whoever holds that must not wait for processors. [`Wires`] never wait;
//! [`SoftCpus::pause`], [`SoftCpus::shutdown`] and questions to one processor do.

mod board;
mod code_memory;
mod cpuid;
mod icount;
mod wires;
mod zeroed;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::{fmt, io, thread};

use thimble_core::cpu::debugger::{Breaks, Resume};
use thimble_core::cpu::soft::cpuid::CPUID_MAX;
use thimble_core::cpu::soft::{Bus, CodeCache, Cpu, Event, Stop};
use thimble_core::cpu::{Activity, CpuState, PagingRegisters, Registers};
use thimble_core::memory::{CodeMarks, RamError};
use thimble_core::state::StateError;
use thimble_core::trace::events;

use crate::clock::monotonic;
use crate::cpuid::CpuidTable;
use crate::log::Sink;
use crate::memory::{Ram, Rom};
use crate::registers::{self, Glance};
use board::{Board, Outside};
pub use board::{Surroundings, TSC_HZ};
use code_memory::Executable;
pub use cpuid::offer;
use icount::{Counter, Generator};
pub use icount::{Icount, SHIFT_MAX};
pub use wires::Wires;
use wires::{NEVER, Wanted};
pub(crate) use zeroed::Zeroed;

/// Memory of the software CPU at most, for one processor: itself with its table of translated
/// addresses, decoded code, its translations, and the marks of pages that hold code. Each further processor takes
/// [`PROCESSOR_BYTES`].
pub const MEMORY_MAX: usize = 16 << 20;

/// Memory of one processor.
pub const PROCESSOR_BYTES: usize = size_of::<Cpu>();

const _: () = {
    let code = size_of::<CodeCache>() + size_of::<CodeMarks>() + code_memory::LENGTH;
    assert!(PROCESSOR_BYTES + code <= MEMORY_MAX);
};

/// How long a turn lasts, in nanoseconds, as far as the last one of the same processor tells. Others
/// that spin on a lock wait that long, so it is short. Who waits by PAUSE or HLT gives the rest of its
/// turn away, and who interrupts another processor, too: Linux' spin locks and TLB shootdowns then cost
/// turns of those only that have something to do. With four processors Linux boots in 1.3 times the
/// host's time that one takes.
const TURN: u64 = 100_000;
/// Instructions of a turn, at least and at most.
const TURN_MIN: u64 = 1_000;
/// See [`TURN_MIN`].
const TURN_MAX: u64 = 1_000_000;
/// Those of the first turn.
const TURN_FIRST: u64 = 50_000;
/// Those of each turn where time goes by instructions.
const TURN_COUNTED: u64 = 20_000;

/// Bytes of the thread's stack.
const STACK: usize = 512 << 10;

/// What can go wrong.
#[derive(Debug)]
pub enum SoftError {
    /// There is no processor of this number.
    NoProcessor,
    /// A processor runs that must not.
    Runs,
    /// A processor can't be in this state.
    State(StateError),
    /// Guest RAM does not keep marks of decoded code.
    NoMarks,
    /// CPUID has more leaves than a processor keeps.
    Leaves,
    /// A processor's APIC id does not fit 8 bits, or is the broadcast.
    ApicId(u32),
    /// There is no memory, or no thread.
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl fmt::Display for SoftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcessor => f.write_str("there is no processor of this number"),
            Self::Runs => f.write_str("a processor runs that must not"),
            Self::State(error) => write!(f, "a processor can't have this state: {error}"),
            Self::NoMarks => f.write_str("guest RAM keeps no marks of decoded code"),
            Self::ApicId(id) => write!(f, "a processor would have APIC id {id}, above 254"),
            Self::Leaves => write!(f, "CPUID has more than {CPUID_MAX} leaves"),
            Self::System { what, error } => {
                write!(f, "{what} failed: {}", crate::error_text(error))
            }
        }
    }
}

impl std::error::Error for SoftError {}

impl From<StateError> for SoftError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> SoftError {
    move |error| SoftError::System { what, error }
}

/// A processor and what its turns are about.
struct Seat {
    cpu: Zeroed<Cpu>,
    /// Nothing to do before its signals are raised.
    idle: bool,
    /// It has shut down, and waits for a reset.
    stopped: bool,
    /// A debugger holds it back.
    held: bool,
    /// Instructions of its next turn.
    turn: u64,
}

/// All processors, and what they share.
struct Engine {
    seats: Vec<Seat>,
    code: Zeroed<CodeCache>,
    /// What `code` is translated to, if the host allows it.
    _executable: Option<Executable>,
    board: Board,
    wires: Arc<Wires>,
    /// Whose turn is next, or goes on.
    next: usize,
    /// Instructions that its turn still has, where time goes by them; 0: the turn begins.
    left: u64,
}

/// What processors have in common, as saved: with it a guest whose time goes by instructions goes on as
/// it would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    next: usize,
    left: u64,
    shift: Option<u32>,
    generator: Option<u64>,
}

impl Engine {
    /// Calls a processor with its way out.
    fn with<R>(&mut self, index: usize, call: impl FnOnce(&mut Seat, &mut Bus<'_>) -> R) -> R {
        let Self {
            seats,
            code,
            board,
            wires,
            ..
        } = self;
        let seat = &mut seats[index];
        board.cpu = index as u16;
        let counts = board
            .counter
            .as_mut()
            .map(|counter| counter.begin(seat.cpu.time()));
        let marks = board.marks;
        let mut bus = Bus::new(board, marks, wires.signals(index), code);
        if counts.is_some() {
            bus = bus.count_time();
        }
        call(seat, &mut bus)
    }

    /// Catches up with what has happened while no processor ran.
    fn follow(&mut self) {
        self.board.follow_clock();
        if self.wires.take_remapped() {
            self.board.follow_map();
            self.code.forget_all();
            for seat in &mut self.seats {
                seat.cpu.forget_memory();
            }
        }
        let (a20, watch) = (self.wires.a20(), self.board.log.watch());
        for seat in &mut self.seats {
            seat.cpu.set_a20(a20);
            seat.cpu.set_watch(watch);
        }
    }

    /// Runs processors until they are to leave.
    fn run(&mut self) {
        while !self.wires.leaves() {
            let counted = self.board.counter.as_ref().map(Counter::now);
            let now = counted.unwrap_or_else(monotonic);
            if self.wires.deadline() <= now {
                self.wires.begin_turn(self.next as u16);
                self.board.surroundings().advance();
                if self.wires.turn_ends() {
                    // That was for another processor.
                    (self.next, self.left) = ((self.next + 1) % self.seats.len(), 0);
                }
            }
            let count = self.seats.len();
            let can_run = |index: &usize| {
                let seat = &self.seats[*index];
                !seat.stopped && !seat.held && (!seat.idle || self.wires.signals(*index).raised())
            };
            let order = (self.next..count).chain(0..self.next);
            let found = order.into_iter().find(can_run);
            match (found, counted.is_some()) {
                (Some(index), false) => self.take_turn(index, now),
                (Some(index), true) => self.take_counted_turn(index),
                (None, false) => self.rest(),
                (None, true) => self.rest_counted(),
            }
        }
    }

    fn take_turn(&mut self, index: usize, start: u64) {
        let until_due = self.wires.deadline().saturating_sub(start).min(TURN);
        // As many instructions as fit before the next timer.
        let budget = (self.seats[index].turn * until_due / TURN).max(TURN_MIN);
        // Long enough for some of them, whatever is due.
        self.board.turn_end = start.saturating_add(until_due.max(TURN / 10));
        let stop = self.run_seat(index, budget);
        self.next = (index + 1) % self.seats.len();
        if stop == Stop::Budget {
            let elapsed = (monotonic() - start).max(1);
            let seat = &mut self.seats[index];
            // Half of what the last turn says, and half of what was known before.
            let fitting = budget.saturating_mul(TURN) / elapsed;
            seat.turn = ((seat.turn + fitting) / 2).clamp(TURN_MIN, TURN_MAX);
        }
    }

    /// Runs a processor, and tells whether it can go on.
    fn run_seat(&mut self, index: usize, instructions: u64) -> Stop {
        self.wires.begin_turn(index as u16);
        let stop = self.with(index, |seat, bus| seat.cpu.run(bus, instructions));
        let seat = &mut self.seats[index];
        seat.idle = stop == Stop::Idle;
        if stop == Stop::Shutdown {
            seat.stopped = true;
            self.board.surroundings().triple_fault(index as u16);
        }
        if stop == Stop::Debug
            && let Some(hit) = seat.cpu.take_hit()
        {
            self.board.surroundings().debugged(index as u16, hit);
        }
        stop
    }

    /// Nobody can run: waits for the next timer, or for a signal.
    fn rest(&mut self) {
        self.wires.sleep(self.wires.deadline());
    }

    /// The same as [`Engine::take_turn`], by instructions: a turn that is interrupted to look after
    /// timers, or because another thread asks for something, goes on where it was.
    fn take_counted_turn(&mut self, index: usize) {
        let Some(counter) = &self.board.counter else {
            return;
        };
        let left = match self.left {
            left if index == self.next && left > 0 => left,
            _ => TURN_COUNTED,
        };
        let budget = counter.instructions_until(self.wires.deadline()).min(left);
        let seat = &self.seats[index];
        let (before, idle) = (seat.cpu.time(), seat.idle);
        let stop = self.run_seat(index, budget);
        let time = self.seats[index].cpu.time();
        if let Some(counter) = &mut self.board.counter {
            counter.reached(time);
            counter.tune(monotonic);
        }
        if idle && stop == Stop::Idle && time == before {
            // It was asked to look for nothing, perhaps by another thread: that is no turn.
            return;
        }
        let left = left.saturating_sub(time.wrapping_sub(before));
        let over = matches!(stop, Stop::Idle | Stop::Shutdown) || self.wires.turn_ends();
        (self.next, self.left) = if over || left == 0 {
            ((index + 1) % self.seats.len(), 0)
        } else {
            (index, left)
        };
    }

    /// The same as [`Engine::rest`]; the clock does not go by itself meanwhile.
    fn rest_counted(&mut self) {
        let Some(counter) = &mut self.board.counter else {
            return;
        };
        let (due, now) = (self.wires.deadline(), counter.now());
        if due != NEVER && !counter.sleeps() {
            return counter.set(due.max(now));
        }
        let start = monotonic();
        let until = match due {
            NEVER => NEVER,
            due => start.saturating_add(counter.wait(due, start)),
        };
        self.wires.sleep(until);
        let end = monotonic();
        if counter.sleeps() {
            counter.slept(end - start);
            let passed = now.saturating_add(end - start).min(due.max(now));
            counter.set(if end >= until { due.max(now) } else { passed });
        }
    }

    fn state(&mut self, index: usize) -> Box<CpuState> {
        let mut state = Box::new(CpuState::default());
        self.with(index, |seat, bus| seat.cpu.state(&mut state, bus));
        let (cpu, machine) = (index as u16, self.board.surroundings());
        state.apic = machine.apic_state(cpu);
        state.apic_base = machine.apic_base(cpu);
        state.cr8 = machine.task_priority(cpu).into();
        state.msrs.tsc_deadline = machine.tsc_deadline(cpu).unwrap_or(0);
        state
    }

    fn set_state(&mut self, index: usize, state: &CpuState) -> Result<(), SoftError> {
        state.validate()?;
        let mut started;
        let mut state = state;
        if state.activity == Activity::SipiReceived {
            // It starts right away here.
            started = state.clone();
            started.start_up(started.events.sipi_vector);
            state = &started;
        }
        let (cpu, machine) = (index as u16, self.board.surroundings());
        let apic = state.apic.as_ref().ok_or(StateError::Invalid("apic"))?;
        machine.set_apic_state(cpu, apic, state.apic_base)?;
        machine.set_task_priority(cpu, state.cr8 as u8);
        if state.msrs.tsc_deadline != 0 {
            machine.set_tsc_deadline(cpu, state.msrs.tsc_deadline, state.msrs.tsc);
        }
        self.board.follow_map();
        self.with(index, |seat, bus| {
            seat.cpu.set_state(state, bus);
            (seat.idle, seat.stopped) = (false, false);
        });
        // What waits in its local APIC has not been looked at.
        self.wires.attention(index as u16);
        Ok(())
    }

    fn dump(&mut self, index: usize) -> String {
        let state = self.state(index);
        self.board.cpu = index as u16;
        let (paging, board) = (PagingRegisters::from(&*state), &self.board);
        // Devices would notice, and are not asked.
        let peek = |gpa, to: &mut [u8]| match board.peek(gpa, to) {
            true => Ok(()),
            false => Err(RamError { gpa }),
        };
        registers::dump(&state, |linear| {
            let found = paging.translate(linear, peek).ok()?;
            let mut byte = [0];
            peek(found.gpa, &mut byte).ok()?;
            Some(byte[0])
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_thread(engine: &Mutex<Engine>, wires: &Wires) {
    wires.started();
    // Timers of the guest are as exact as the host's: by default a sleep may last 50 microseconds longer.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    while wires.may_run() {
        let mut engine = lock(engine);
        engine.follow();
        engine.run();
    }
}

/// All processors of a machine, on the software CPU. Made paused, in power-on state.
pub struct SoftCpus {
    engine: Arc<Mutex<Engine>>,
    wires: Arc<Wires>,
    join: Option<JoinHandle<()>>,
    surroundings: Arc<dyn Surroundings>,
    signature: u32,
    apic_ids: Vec<u8>,
}

/// What the command line says of time and chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Determinism {
    /// `-icount`.
    pub icount: Option<Icount>,
    /// `-seed`: random numbers are those of this seed, not the host's.
    pub seed: Option<u64>,
}

/// What the machine lends its processors.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Guest RAM, which keeps marks of decoded code.
    pub ram: &'static Ram,
    /// The firmware.
    pub rom: &'static Rom,
}

impl SoftCpus {
    /// Makes as many processors as there are wires, and their thread. `cpuid` says what they show of
    /// themselves, `log` hears what they do.
    ///
    /// # Errors
    /// If there is no memory or no thread for them, or more leaves than a processor keeps.
    pub fn new(
        wires: Arc<Wires>,
        cpuid: &CpuidTable,
        memory: Memory,
        surroundings: Arc<dyn Surroundings>,
        log: Arc<Sink>,
        determinism: Determinism,
    ) -> Result<Self, SoftError> {
        let what = "mapping memory for the software CPU";
        let count = wires.count();
        let Memory { ram, rom } = memory;
        let marks = ram.code_marks().ok_or(SoftError::NoMarks)?;
        if let Some(id) = (0..count).map(|i| cpuid.apic_id(i)).find(|id| *id >= 0xff) {
            return Err(SoftError::ApicId(id));
        }
        let mut seats = Vec::with_capacity(count as usize);
        for index in 0..count {
            let mut cpu = Zeroed::<Cpu>::new().map_err(failed(what))?;
            events::guest_cpu_enter(index);
            cpu.set_cpuid(&cpuid.for_cpu(index))
                .map_err(|_| SoftError::Leaves)?;
            seats.push(Seat {
                cpu,
                idle: false,
                stopped: false,
                held: false,
                turn: TURN_FIRST,
            });
        }
        let outside = Outside {
            surroundings: surroundings.clone(),
            wires: wires.clone(),
            log,
            icount: determinism.icount,
            generator: determinism.seed.map(Generator),
        };
        let board = Board::new(outside, ram, rom, marks, count);
        let mut code = Zeroed::<CodeCache>::new().map_err(failed(what))?;
        // SAFETY: the engine drops it after the cache.
        let executable = unsafe { Executable::lend(&mut code) }.ok();
        let engine = Engine {
            seats,
            code,
            _executable: executable,
            board,
            wires: wires.clone(),
            next: 0,
            left: 0,
        };
        let engine = Arc::new(Mutex::new(engine));
        let mut cpus = Self {
            engine: engine.clone(),
            wires: wires.clone(),
            join: None,
            surroundings,
            signature: cpuid.signature(),
            apic_ids: (0..count).map(|i| cpuid.apic_id(i) as u8).collect(),
        };
        cpus.reset()?;
        let _mask = crate::signals::Blocked::all();
        let join = thread::Builder::new()
            .name("CPU/TCG".to_owned())
            .stack_size(STACK)
            .spawn(move || run_thread(&engine, &wires))
            .map_err(failed("starting the processors' thread"))?;
        cpus.join = Some(join);
        Ok(cpus)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.wires.count()
    }

    /// Lets all processors run that can.
    pub fn resume(&self) {
        self.wires.resume();
    }

    /// Asks all processors to leave guest code, and waits until they have: on return none runs, and
    /// all state is whole. Not under the machine's lock.
    pub fn pause(&self) {
        self.wires.request_pause();
        self.wires.wait_paused();
    }

    /// Puts all processors into their power-on state, with A20 open: the first at the reset vector,
    /// the others waiting to be started. They must be paused.
    ///
    /// # Errors
    /// If they are not.
    pub fn reset(&self) -> Result<(), SoftError> {
        self.wires.set_a20(true);
        for (index, apic_id) in (0..).zip(&self.apic_ids) {
            let state = CpuState::power_on(*apic_id, index == 0, self.signature);
            self.set_state(index, &state)?;
        }
        let mut engine = self.parked(0)?;
        (engine.next, engine.left) = (0, 0);
        Ok(())
    }

    /// What processors have in common, to be saved with them. All must be paused.
    ///
    /// # Errors
    /// If they are not.
    pub fn turns(&self) -> Result<Turns, SoftError> {
        let engine = self.parked(0)?;
        Ok(Turns {
            next: engine.next,
            left: engine.left,
            shift: engine.board.counter.as_ref().map(Counter::shift),
            generator: engine.board.generator.map(|Generator(state)| state),
        })
    }

    /// Goes on from [`SoftCpus::turns`], which another accelerator does not have. All must be paused.
    ///
    /// # Errors
    /// If they are not.
    pub fn set_turns(&self, turns: &Turns) -> Result<(), SoftError> {
        let mut engine = self.parked(0)?;
        let engine = &mut *engine;
        engine.next = turns.next % engine.seats.len();
        engine.left = turns.left.min(TURN_COUNTED);
        if let (Some(counter), Some(shift)) = (&mut engine.board.counter, turns.shift) {
            counter.set_shift(shift);
        }
        if let (Some(generator), Some(state)) = (&mut engine.board.generator, turns.generator) {
            *generator = Generator(state);
        }
        Ok(())
    }

    /// Sets what a debugger wants of processors from now on, and how each goes on. All must be paused.
    ///
    /// # Errors
    /// If they are not.
    pub fn set_debugger(
        &self,
        breaks: &Breaks,
        resume: &dyn Fn(u32) -> Resume,
    ) -> Result<(), SoftError> {
        let mut engine = self.parked(0)?;
        for (index, seat) in (0..).zip(&mut engine.seats) {
            let resume = resume(index);
            seat.cpu.set_debugger(breaks, resume);
            seat.held = resume == Resume::Stay;
        }
        Ok(())
    }

    /// The whole state of a processor. All must be paused.
    ///
    /// # Errors
    /// If they are not, or there is no such processor.
    pub fn state(&self, index: u32) -> Result<Box<CpuState>, SoftError> {
        let mut engine = self.parked(index)?;
        let (at, cpu) = (index as usize, index as u16);
        // What waits in the local APIC to be looked at is part of the processor's state.
        let mut events = Vec::new();
        while let Some(event) = engine.board.surroundings().attend(cpu).event {
            events.push(event);
        }
        let mut state = engine.state(at);
        for event in &events {
            match event {
                Event::Nmi => state.events.nmi_pending = true,
                Event::Init => state.init(self.signature),
                Event::Startup(page) if state.activity == Activity::WaitForSipi => {
                    state.start_up(*page);
                }
                Event::Startup(_) => {}
            }
        }
        if !events.is_empty() {
            engine.set_state(at, &state)?;
        }
        Ok(state)
    }

    /// Sets the whole state of a processor, which can go on from it even if it had stopped. All
    /// must be paused.
    ///
    /// # Errors
    /// If they are not, or there is no such processor, or no processor can be in that state.
    pub fn set_state(&self, index: u32, state: &CpuState) -> Result<(), SoftError> {
        self.parked(index)?.set_state(index as usize, state)
    }

    /// The registers of a processor as text. All must be paused.
    ///
    /// # Errors
    /// As for [`SoftCpus::state`].
    pub fn dump(&self, index: u32) -> Result<String, SoftError> {
        Ok(self.parked(index)?.dump(index as usize))
    }

    fn parked(&self, index: u32) -> Result<MutexGuard<'_, Engine>, SoftError> {
        if index >= self.count() {
            return Err(SoftError::NoProcessor);
        }
        let mut engine = match self.engine.try_lock() {
            Ok(engine) => engine,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(SoftError::Runs),
        };
        engine.follow();
        Ok(engine)
    }

    /// The kernel's number of the thread that runs the processors, as gettid(2) gives it.
    ///
    /// # Errors
    /// If there is no such processor.
    pub fn thread_id(&self, index: u32) -> Result<u32, SoftError> {
        if index >= self.count() {
            return Err(SoftError::NoProcessor);
        }
        Ok(self.wires.thread_id())
    }

    /// Looks at the processors, which leave guest code for that long. Not under the machine's lock.
    fn visit<R>(
        &self,
        index: u32,
        visit: impl FnOnce(&mut Engine, usize) -> R,
    ) -> Result<R, SoftError> {
        if index >= self.count() {
            return Err(SoftError::NoProcessor);
        }
        self.wires.begin_visit();
        let mut engine = lock(&self.engine);
        engine.follow();
        let result = visit(&mut engine, index as usize);
        drop(engine);
        self.wires.end_visit();
        Ok(result)
    }

    /// What a processor is doing.
    ///
    /// # Errors
    /// If there is no such processor.
    pub fn glance(&self, index: u32) -> Result<Glance, SoftError> {
        self.visit(index, |engine, at| {
            let state = engine.state(at);
            Glance {
                halted: !matches!(state.activity, Activity::Running | Activity::SipiReceived),
                pc: Registers::from(&*state).pc(),
            }
        })
    }

    /// The registers by which a processor translates linear addresses.
    ///
    /// # Errors
    /// If there is no such processor.
    pub fn paging(&self, index: u32) -> Result<PagingRegisters, SoftError> {
        self.visit(index, |engine, at| (&*engine.state(at)).into())
    }

    /// Where a processor is, and what it sees.
    ///
    /// # Errors
    /// If there is no such processor.
    pub fn registers(&self, index: u32) -> Result<Registers, SoftError> {
        self.visit(index, |engine, at| Registers::from(&*engine.state(at)))
    }

    /// Asserts the platform's NMI, which is wired to LINT1 of all processors; tells how many took
    /// it.
    pub fn inject_nmi(&self) -> u32 {
        self.surroundings.pulse_nmi()
    }

    /// Ends the thread and waits for it. Not under the machine's lock.
    pub fn shutdown(&mut self) {
        self.wires.request(Wanted::Exit);
        if let Some(join) = self.join.take() {
            let _ = join.join();
        }
    }
}

impl Drop for SoftCpus {
    fn drop(&mut self) {
        self.shutdown();
    }
}
