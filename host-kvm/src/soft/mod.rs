//! The software CPU's accelerator: one thread, in which all processors take turns.
//!
//! A turn lasts about [`TURN`], and shorter where a processor halts. When all have halted the thread
//! sleeps until a processor's [`Wires`] are raised, by the machine's timers or by input: an idle guest
//! costs nothing. Guest code runs without any lock but the one on the processors themselves; what
//! another thread wants is heard at the end of a block of instructions.
//!
//! **Locks.** The processors are locked by their thread while it is not parked, and it takes the
//! machine's lock inside: whoever holds that must not wait for processors. [`Wires`] never wait;
//! [`SoftCpus::pause`], [`SoftCpus::shutdown`] and questions to one processor do.

mod board;
mod wires;
mod zeroed;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::{fmt, io, thread};

use thimble_core::cpu::soft::{Bus, CodeCache, Cpu, Stop};
use thimble_core::cpu::{Activity, CpuState, PagingRegisters};
use thimble_core::memory::CodeMarks;
use thimble_core::state::StateError;

use crate::clock::monotonic;
use crate::memory::{Ram, Rom};
use crate::registers::{self, Glance};
use board::Board;
pub use board::{Surroundings, TSC_HZ};
use wires::Wanted;
pub use wires::Wires;
pub(crate) use zeroed::Zeroed;

/// Memory of the software CPU at most, for one processor: itself with its table of translations,
/// decoded code, and the marks of pages that hold code. Each further processor takes
/// [`PROCESSOR_BYTES`].
pub const MEMORY_MAX: usize = 16 << 20;

/// Memory of one processor.
pub const PROCESSOR_BYTES: usize = size_of::<Cpu>();

const _: () =
    assert!(PROCESSOR_BYTES + size_of::<CodeCache>() + size_of::<CodeMarks>() <= MEMORY_MAX);

/// How long a turn lasts, in nanoseconds, as far as the last one of the same processor tells.
const TURN: u64 = 1_000_000;
/// Instructions of a turn, at least and at most.
const TURN_MIN: u64 = 1_000;
/// See [`TURN_MIN`].
const TURN_MAX: u64 = 10_000_000;
/// Those of the first turn.
const TURN_FIRST: u64 = 50_000;

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
    /// Instructions of its next turn.
    turn: u64,
}

/// All processors, and what they share.
struct Engine {
    seats: Vec<Seat>,
    code: Zeroed<CodeCache>,
    board: Board,
    wires: Arc<Wires>,
    /// Whose turn is next.
    next: usize,
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
        board.cpu = index as u16;
        let mut bus = Bus::new(board, wires.signals(index), code);
        call(&mut seats[index], &mut bus)
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
        let a20 = self.wires.a20();
        for seat in &mut self.seats {
            seat.cpu.set_a20(a20);
        }
    }

    /// Runs processors until they are to leave.
    fn run(&mut self) {
        let mut slept = 0;
        while !self.wires.leaves() {
            let index = self.next;
            self.next = (index + 1) % self.seats.len();
            let seat = &self.seats[index];
            if seat.stopped || seat.idle && !self.wires.signals(index).raised() {
                slept += 1;
                if slept == self.seats.len() {
                    self.wires.sleep();
                    slept = 0;
                }
                continue;
            }
            slept = 0;
            self.take_turn(index);
        }
    }

    fn take_turn(&mut self, index: usize) {
        let start = monotonic();
        let stop = self.with(index, |seat, bus| seat.cpu.run(bus, seat.turn));
        let seat = &mut self.seats[index];
        seat.idle = stop == Stop::Idle;
        match stop {
            Stop::Budget => {
                let elapsed = (monotonic() - start).max(1);
                // Half of what the last turn says, and half of what was known before.
                let fitting = seat.turn.saturating_mul(TURN) / elapsed;
                seat.turn = ((seat.turn + fitting) / 2).clamp(TURN_MIN, TURN_MAX);
            }
            Stop::Leave | Stop::Idle => {}
            Stop::Shutdown => {
                seat.stopped = true;
                self.board.surroundings().triple_fault(index as u16);
            }
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
        self.board
            .surroundings()
            .set_apic_state(index as u16, state, state.msrs.tsc)?;
        self.board.follow_map();
        self.with(index, |seat, bus| {
            seat.cpu.set_state(state, bus);
            (seat.idle, seat.stopped) = (false, false);
        });
        // What waits in its local APIC has not been looked at.
        self.wires.attention(index as u16);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_thread(engine: &Mutex<Engine>, wires: &Wires) {
    wires.started();
    while wires.may_run() {
        let mut engine = lock(engine);
        // What is noted from here on ends the run, or the next one.
        wires.take_leave();
        engine.follow();
        engine.run();
    }
}

/// All processors of a machine, on the software CPU. Made paused, in power-on state.
pub struct SoftCpus {
    engine: Arc<Mutex<Engine>>,
    wires: Arc<Wires>,
    join: Option<JoinHandle<()>>,
    signature: u32,
    apic_ids: Vec<u8>,
}

/// What [`SoftCpus`] are made from.
pub struct SoftConfig {
    /// APIC ids, one for each processor.
    pub apic_ids: Vec<u8>,
    /// What processors show of themselves.
    pub cpuid: CpuidTable,
    /// Guest RAM, which keeps marks of decoded code.
    pub ram: &'static Ram,
    /// The firmware.
    pub rom: &'static Rom,
}
