//! How other threads reach the one that runs the processors.
//!
//! Whatever they want, they note it first and raise the processors' [`Signals`] then: the one that
//! runs looks at the end of its block of instructions, and leaves guest code if it is to.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use thimble_core::cpu::soft::Signals;

use crate::clock::monotonic;

/// A deadline that is none.
pub(super) const NEVER: u64 = u64::MAX;

/// What the processors' thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Pause,
    Exit,
}

/// What the thread and those who want something of it agree on.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) wanted: Wanted,
    /// The thread is out of guest code and holds no lock.
    pub(super) parked: bool,
    /// So many want to look at a processor: the thread stays parked for them.
    pub(super) visitors: u32,
    /// The kernel's number of the thread; `None` before it has started.
    pub(super) tid: Option<rustix::thread::Pid>,
}

/// The wires to the processors. Nothing here waits but what says so, and nothing takes the machine's
/// lock.
#[derive(Debug)]
pub struct Wires {
    signals: Box<[Signals]>,
    /// The thread is to leave guest code and look at the rest.
    leave: AtomicBool,
    /// The processor whose turn it is.
    running: AtomicU16,
    /// Its turn is to end, as another processor has something to do.
    turn_over: AtomicBool,
    /// See [`Wires::deadline`].
    deadline: AtomicU64,
    remapped: AtomicBool,
    a20_masked: AtomicBool,
    control: Mutex<Control>,
    /// `control` has changed in a way that lets the thread go on or end.
    changed: Condvar,
    /// The thread has parked, or has started.
    parked: Condvar,
    thread: OnceLock<Thread>,
}

impl Wires {
    /// To so many processors, which are paused.
    pub fn new(processors: u32) -> Self {
        Self {
            signals: (0..processors).map(|_| Signals::new()).collect(),
            leave: AtomicBool::new(false),
            running: AtomicU16::new(0),
            turn_over: AtomicBool::new(false),
            deadline: AtomicU64::new(NEVER),
            remapped: AtomicBool::new(false),
            a20_masked: AtomicBool::new(false),
            control: Mutex::new(Control {
                wanted: Wanted::Pause,
                parked: true,
                visitors: 0,
                tid: None,
            }),
            changed: Condvar::new(),
            parked: Condvar::new(),
            thread: OnceLock::new(),
        }
    }

    /// How many processors there are.
    pub fn count(&self) -> u32 {
        self.signals.len() as u32
    }

    /// A processor has a reason to look at its local APIC.
    pub fn attention(&self, cpu: u16) {
        if let Some(signals) = self.signals.get(usize::from(cpu)) {
            signals.raise();
            let running = self.running.load(Ordering::Relaxed);
            if running != cpu {
                // It may well wait for what that one is about to do.
                self.end_turn(running);
            }
            self.wake();
        }
    }

    /// A processor's turn begins.
    pub(super) fn begin_turn(&self, cpu: u16) {
        self.running.store(cpu, Ordering::Relaxed);
        self.turn_over.store(false, Ordering::Relaxed);
    }

    /// Ends the turn of a processor before its time; only matters while it lasts.
    pub(super) fn end_turn(&self, cpu: u16) {
        if let Some(signals) = self.signals.get(usize::from(cpu)) {
            self.turn_over.store(true, Ordering::Relaxed);
            signals.raise();
        }
    }

    /// Whether the turn is to end.
    pub(super) fn turn_ends(&self) -> bool {
        self.turn_over.load(Ordering::Relaxed)
    }

    /// When the thread is to let the machine's timers expire: on the monotonic clock, or on the virtual
    /// one where that goes by instructions. A turn that might last longer ends.
    pub fn set_deadline(&self, deadline: Option<u64>) {
        let deadline = deadline.unwrap_or(NEVER);
        if deadline < self.deadline.swap(deadline, Ordering::AcqRel) {
            self.end_turn(self.running.load(Ordering::Relaxed));
            self.wake();
        }
    }

    /// What was set last; [`NEVER`] for none.
    pub(super) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Acquire)
    }

    /// The memory map has changed: no processor runs on before it knows.
    pub fn memory_remapped(&self) {
        self.remapped.store(true, Ordering::Release);
        self.request_leave();
    }

    /// The A20 gate was switched.
    pub fn set_a20(&self, enabled: bool) {
        if self.a20_masked.swap(!enabled, Ordering::AcqRel) == enabled {
            self.request_leave();
        }
    }

    /// Asks all processors to leave guest code and stay out of it. Does not wait: may be called under
    /// the machine's lock, and by the processors' own thread.
    pub fn request_pause(&self) {
        self.request(Wanted::Pause);
    }

    pub(super) fn request(&self, wanted: Wanted) {
        {
            let mut control = self.control();
            if control.wanted != Wanted::Exit {
                control.wanted = wanted;
            }
        }
        self.request_leave();
        self.changed.notify_all();
    }

    /// Lets the thread run the processors, unless it is to end.
    pub(super) fn resume(&self) {
        let mut control = self.control();
        if control.wanted != Wanted::Exit {
            control.wanted = Wanted::Run;
        }
        self.changed.notify_all();
    }

    fn request_leave(&self) {
        self.leave.store(true, Ordering::Release);
        for signals in &self.signals {
            signals.raise();
        }
        self.wake();
    }

    /// Ends a sleep of the thread, or the next one.
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the thread has parked, or someone lets it run.
    pub(super) fn wait_paused(&self) {
        let mut control = self.control();
        while control.wanted == Wanted::Pause && !control.parked {
            control = wait(&self.parked, control);
        }
    }

    /// Keeps the thread out of guest code, whatever is wanted of it, until [`Wires::end_visit`].
    pub(super) fn begin_visit(&self) {
        let mut control = self.control();
        control.visitors += 1;
        self.request_leave();
        while !control.parked {
            control = wait(&self.parked, control);
        }
    }

    pub(super) fn end_visit(&self) {
        self.control().visitors -= 1;
        self.changed.notify_all();
    }

    /// The kernel's number of the thread, as gettid(2) gives it. Waits for the thread to start.
    pub(super) fn thread_id(&self) -> u32 {
        let mut control = self.control();
        loop {
            if let Some(tid) = control.tid {
                return tid.as_raw_nonzero().get() as u32;
            }
            control = wait(&self.parked, control);
        }
    }

    // What follows is the processors' thread's.

    /// The thread has started.
    pub(super) fn started(&self) {
        // There is one thread only.
        let _ = self.thread.set(std::thread::current());
        self.control().tid = Some(rustix::thread::gettid());
        self.parked.notify_all();
    }

    /// Parks until processors are to run; false if the thread is to end. What is noted from then on
    /// ends the run.
    pub(super) fn may_run(&self) -> bool {
        let mut control = self.control();
        loop {
            match control.wanted {
                Wanted::Run if control.visitors == 0 => {
                    control.parked = false;
                    // Under the lock: later, a visitor's wish could be lost.
                    self.leave.store(false, Ordering::Release);
                    return true;
                }
                Wanted::Exit => {
                    control.parked = true;
                    self.parked.notify_all();
                    return false;
                }
                Wanted::Run | Wanted::Pause => {
                    control.parked = true;
                    self.parked.notify_all();
                    control = wait(&self.changed, control);
                }
            }
        }
    }

    pub(super) fn signals(&self, cpu: usize) -> &Signals {
        &self.signals[cpu]
    }

    /// Whether the thread is to leave guest code.
    pub(super) fn leaves(&self) -> bool {
        self.leave.load(Ordering::Acquire)
    }

    /// Whether the memory map has changed since the last call.
    pub(super) fn take_remapped(&self) -> bool {
        self.remapped.swap(false, Ordering::AcqRel)
    }

    /// Whether processors have yet to follow a change of the memory map.
    pub(super) fn remapped(&self) -> bool {
        self.remapped.load(Ordering::Acquire)
    }

    pub(super) fn a20(&self) -> bool {
        !self.a20_masked.load(Ordering::Acquire)
    }

    /// Sleeps until someone wants something, or the monotonic clock reads `until`.
    pub(super) fn sleep(&self, until: u64) {
        while !self.leaves() && !self.signals.iter().any(Signals::raised) {
            if until == NEVER {
                std::thread::park();
                continue;
            }
            let left = until.saturating_sub(monotonic());
            if left == 0 {
                return;
            }
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_reach_the_processor_that_is_meant() {
        let wires = Wires::new(2);
        wires.begin_turn(1);
        wires.attention(1);
        assert!(!wires.signals(0).raised() && wires.signals(1).raised());
        wires.attention(9);
        assert!(!wires.leaves());
        wires.sleep(NEVER);
    }

    #[test]
    fn an_earlier_deadline_ends_the_turn() {
        let wires = Wires::new(2);
        assert_eq!(wires.deadline(), NEVER);
        wires.begin_turn(1);
        wires.set_deadline(Some(50));
        assert!(wires.turn_ends() && wires.signals(1).raised() && !wires.signals(0).raised());
        wires.begin_turn(1);
        wires.set_deadline(Some(50));
        wires.set_deadline(Some(70));
        wires.set_deadline(None);
        assert!(!wires.turn_ends());
        assert_eq!(wires.deadline(), NEVER);
    }

    #[test]
    fn sleep_ends_in_time() {
        let wires = Wires::new(1);
        let until = monotonic() + 2_000_000;
        wires.sleep(until);
        assert!(monotonic() >= until && !wires.signals(0).raised());
    }

    #[test]
    fn a_turn_ends_for_another_processor() {
        let wires = Wires::new(2);
        wires.begin_turn(0);
        wires.attention(0);
        assert!(!wires.turn_ends());
        wires.attention(1);
        assert!(wires.turn_ends() && !wires.leaves());
        wires.begin_turn(1);
        assert!(!wires.turn_ends());
        wires.end_turn(1);
        assert!(wires.turn_ends());
    }

    #[test]
    fn all_leave_for_a_new_map_and_for_a20() {
        let wires = Wires::new(2);
        wires.resume();
        wires.set_a20(true);
        assert!(wires.a20() && !wires.leaves());
        wires.set_a20(false);
        assert!(!wires.a20() && wires.leaves());
        assert!(wires.may_run() && !wires.leaves());
        wires.memory_remapped();
        assert!(wires.leaves() && wires.take_remapped() && !wires.take_remapped());
        assert!(wires.signals(0).raised() && wires.signals(1).raised());
    }

    #[test]
    fn the_end_is_final() {
        let wires = Wires::new(1);
        wires.request(Wanted::Exit);
        wires.resume();
        wires.request_pause();
        assert!(!wires.may_run());
    }
}
