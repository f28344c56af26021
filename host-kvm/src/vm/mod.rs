//! The virtual machine of this process: the machine under its lock, its processors, and what it is
//! doing.
//!
//! [`Shared`] is what threads share; [`Vm`] belongs to the main thread, starts and stops the
//! processors, and never holds the lock while it waits for them.

mod block;
mod boot;
mod bridge;
mod clock;
mod debug;
mod descriptors;
mod drives;
mod dump;
mod input;
mod inspect;
mod jobs;
mod lending;
mod objects;
mod owner;
mod processors;
mod save;
mod sleep;
mod snapshot;
mod trace;
mod typing;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

use thimble_core::cpu::features::FeatureSet;
use thimble_core::devices::{GuestEvent, PowerRequest, ShutdownCause};
use thimble_core::firmware::Numa;
use thimble_core::machine::actions::{
    Actions, GuestPanicAction, PanicAction, RebootAction, ShutdownAction, WatchdogAction,
};
use thimble_core::machine::{Machine, RunState};
use thimble_core::time::SECOND;
use thimble_core::trace::events;
use thimble_monitor::schema::EventText;
use thimble_monitor::{Event, JobId, QmpError, RateLimits, Timestamp};

use crate::block::Graph;
use crate::chardev::Chardevs;
use crate::clock::{Clock, monotonic};
use crate::cpuid::Topology;
use crate::descriptors::{Passed, sets};
use crate::event_loop::poller::Waker;
use crate::flash::Flash;
use crate::kvm::{Pauser, VcpuStop};
use crate::log::{Items, Sink};
use crate::options::{BlockOption, RtcClock};
use crate::trace::run_state as tell_run_state;

pub use block::DriveRequests;
pub use bridge::{Bridge, BridgeState, CONSOLES_MAX, Exits, Pending};
use dump::Dump;
pub use jobs::{JOBS_MAX, Jobs, Step};
pub use lending::{DiskSettings, ExecutorCall};
pub use objects::ObjectFacts;
pub use processors::{Accelerator, ProcessorError, Processors};
pub use save::Space;
pub use snapshot::{MoveError, Snapshot};

/// What the machine's lock guards.
pub struct Guarded {
    /// The machine.
    pub machine: Box<Machine<'static>>,
    /// All byte streams to the outside.
    pub chardevs: Chardevs,
    /// What the bridge between both keeps from call to call.
    pub bridge_state: BridgeState,
    /// The virtual clock.
    pub clock: Clock,
    /// Some console did not take all its input.
    pub input_waits: bool,
    /// What the timerfd is set to, in nanoseconds of the monotonic clock; 0: it is not.
    pub timer_at: u64,
}

impl Guarded {
    /// Calls the machine with a [`Bridge`] to the host. No queues are lent meanwhile.
    pub fn machine_call<R>(
        &mut self,
        accelerator: &Accelerator,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>) -> R,
    ) -> R {
        self.take_queues_back(accelerator);
        let result = self.machine_call_apart(accelerator, call);
        self.lend_queues(accelerator);
        result
    }

    /// The same for what does not reach disks whose queues are lent.
    pub fn machine_call_apart<R>(
        &mut self,
        accelerator: &Accelerator,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>) -> R,
    ) -> R {
        let (machine, chardevs) = (&mut *self.machine, &mut self.chardevs);
        let state = &mut self.bridge_state;
        let result = Bridge::call(machine, chardevs, state, accelerator, call);
        if self.input_waits {
            self.offer_input();
        }
        result
    }

    /// Lets the input of consoles go on that have room again.
    fn offer_input(&mut self) {
        self.input_waits = false;
        for (console, chardev) in self.bridge_state.consoles.iter().enumerate() {
            let Some(chardev) = *chardev else { continue };
            let console = thimble_core::devices::ConsoleId(console as u8);
            if self.machine.console_room(console) > 0 {
                self.chardevs.pause_input(chardev, false);
            } else {
                self.input_waits = true;
            }
        }
    }
}

/// What the threads of the process share.
pub struct Shared {
    guarded: Mutex<Guarded>,
    /// How many wait for `guarded` before whom processors are to stand back.
    waiting: AtomicU32,
    accelerator: Accelerator,
    waker: Arc<Waker>,
    timer: OwnedFd,
    pauser: OnceLock<Pauser>,
    disks: OnceLock<lending::Disks>,
}

impl Shared {
    /// `timer` is a timerfd of the monotonic clock.
    pub fn new(
        guarded: Guarded,
        accelerator: Accelerator,
        waker: Arc<Waker>,
        timer: OwnedFd,
    ) -> Arc<Self> {
        let guarded = Mutex::new(guarded);
        Arc::new(Self {
            guarded,
            waiting: AtomicU32::new(0),
            accelerator,
            waker,
            timer,
            pauser: OnceLock::new(),
            disks: OnceLock::new(),
        })
    }

    /// Takes the machine's lock. A panic of another thread does not keep it.
    pub fn lock(&self) -> MutexGuard<'_, Guarded> {
        match self.guarded.try_lock() {
            Ok(guarded) => return guarded,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guarded = self.guarded.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        guarded
    }

    /// Takes the machine's lock for a processor, after all others who wait for it: the lock is not
    /// fair, and a guest that does nothing but accesses to devices would take it again and again.
    fn lock_for_processor(&self) -> MutexGuard<'_, Guarded> {
        while self.waiting.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs the guest.
    pub fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// The timerfd of [`Shared::arm_timer`].
    pub fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// Calls the machine from the main thread and settles what that caused.
    pub fn call<R>(
        &self,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>, u64) -> R,
    ) -> R {
        let mut guarded = self.lock();
        let now = guarded.clock.now();
        let result = guarded.machine_call(self.accelerator(), |machine, bridge| {
            call(machine, bridge, now)
        });
        self.arm_timer(&mut guarded);
        result
    }

    /// The same for what does not reach disks.
    pub fn call_apart<R>(
        &self,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>, u64) -> R,
    ) -> R {
        let mut guarded = self.lock();
        let now = guarded.clock.now();
        let result = guarded.machine_call_apart(self.accelerator(), |machine, bridge| {
            call(machine, bridge, now)
        });
        self.arm_timer(&mut guarded);
        result
    }

    /// Lets the timerfd expire when the machine's next timer does. The software CPU's thread waits for
    /// that itself: an idle guest's tick wakes one thread only.
    pub fn arm_timer(&self, guarded: &mut Guarded) {
        let deadline = guarded.machine.next_deadline();
        if let Accelerator::Soft(wires) = &self.accelerator {
            let deadline = match guarded.clock {
                Clock::Counted { .. } => deadline,
                clock => deadline.and_then(|deadline| clock.host_time(deadline)),
            };
            wires.set_deadline(deadline);
            return;
        }
        let deadline = deadline.and_then(|deadline| guarded.clock.host_time(deadline));
        // An expiry of 0 would disarm the timer; so does this where there is no deadline.
        let at = deadline.map_or(0, |deadline| deadline.max(1));
        if std::mem::replace(&mut guarded.timer_at, at) == at {
            return;
        }
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let it_value = Timespec {
            tv_sec: (at / SECOND) as i64,
            tv_nsec: (at % SECOND) as i64,
        };
        let setting = Itimerspec {
            it_interval: zero,
            it_value,
        };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting);
    }

    fn request_pause(&self) {
        if let Accelerator::Soft(wires) = &self.accelerator {
            wires.request_pause();
        } else if let Some(pauser) = self.pauser.get() {
            pauser.request_pause();
        }
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

/// How the VM behaves on power events, and what it is called.
pub struct Settings {
    /// `-action`, `-no-reboot`, `-no-shutdown`, `-watchdog-action`.
    pub actions: Actions,
    /// `--preconfig`: the VM waits for `x-exit-preconfig` before anything else.
    pub preconfig: bool,
    /// The guest starts by itself: there is no `-S`.
    pub autostart: bool,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: [u8; 16],
    /// Whether the accelerator is KVM.
    pub kvm: bool,
    /// What the processors show of themselves.
    pub features: FeatureSet,
    /// Time goes by instructions: a run can be repeated.
    pub icount: bool,
    /// How many processors there are.
    pub cpus: u32,
    /// Where they are.
    pub topology: Topology,
    /// NUMA nodes.
    pub numa: Numa<'static>,
    /// What processors do, for `-d`.
    pub log: Arc<Sink>,
    /// What the real-time clock shows at the start, in seconds since 1970.
    pub rtc_start: i64,
    /// What makes it go.
    pub rtc_clock: RtcClock,
    /// Its path in the object tree.
    pub rtc_path: EventText,
    /// What the object tree shows of the process.
    pub objects: ObjectFacts,
    /// What users have made.
    pub made: crate::objects::Objects,
    /// Images and drives.
    pub blocks: Rc<Graph>,
    /// What is behind the chips of the system flash.
    pub flash: Flash,
    /// The options that made drives.
    pub drive_options: Vec<BlockOption>,
}

/// The host's time since 1970-01-01 00:00 UTC.
pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// What has happened, oldest first.
pub type Events = VecDeque<(Event, Timestamp)>;

/// The VM, as the main thread drives it.
pub struct Vm {
    shared: Arc<Shared>,
    processors: Option<Processors>,
    settings: Settings,
    run_state: RunState,
    events: Events,
    /// Events that the executing session has been told of, and the others not yet.
    told: Events,
    /// Events that may not be told too often.
    rate_limits: RateLimits,
    /// When the alarm wakes the guest up that sleeps, on the monotonic clock.
    wake_at: Option<u64>,
    /// What a debugger has set.
    debug: debug::Debug,
    /// Memory on its way to files.
    jobs: Jobs,
    /// The last dump, or the one that is being written.
    dump: Dump,
    /// `migrate-set-capabilities`: whether migration is told by events.
    migration_events: bool,
    dump_defaults: thimble_monitor::hmp::Defaults,
    /// The mouse's buttons that the human monitor holds down.
    held_buttons: u8,
    /// The descriptors of the monitor whose command is being executed.
    pub passed: Passed,
    /// The same, while it lets something be executed that has none.
    passed_aside: Passed,
    exit: Option<i32>,
    /// The host's time when the VM was made.
    made_at: Duration,
    /// The same on the host's monotonic clock, in nanoseconds.
    made_at_monotonic: u64,
}

impl Vm {
    /// A VM that does not run yet.
    pub fn new(shared: Arc<Shared>, processors: Option<Processors>, settings: Settings) -> Self {
        if let Some(Processors::Kvm(vcpus)) = &processors {
            let _ = shared.pauser.set(vcpus.pauser());
        }
        Self {
            shared,
            processors,
            settings,
            run_state: RunState::Prelaunch,
            events: Events::new(),
            told: Events::new(),
            rate_limits: RateLimits::default(),
            wake_at: None,
            debug: debug::Debug::default(),
            jobs: Jobs::default(),
            dump: Dump::default(),
            migration_events: false,
            dump_defaults: thimble_monitor::hmp::Defaults::default(),
            held_buttons: 0,
            passed: Passed::default(),
            passed_aside: Passed::default(),
            exit: None,
            made_at: since_epoch(),
            made_at_monotonic: monotonic(),
        }
    }

    /// What threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The status that the process is to end with, once it is to end.
    pub fn exit_status(&self) -> Option<i32> {
        self.exit
    }

    /// Ends the process with this status when the loop comes by.
    pub fn end(&mut self, status: i32) {
        self.exit.get_or_insert(status);
    }

    /// Lets the guest run.
    pub fn start(&mut self) {
        self.debug.run_all();
        self.enter(RunState::Running);
        sets::lock().set_running(true);
        self.event(Event::Resume);
        self.resume_blocks();
        self.resume();
    }

    /// Notes what the VM is doing from now on.
    fn enter(&mut self, state: RunState) {
        tell_run_state(self.run_state, state);
        self.run_state = state;
    }

    fn resume(&mut self) {
        self.arm_debugger();
        let mut guarded = self.shared.lock();
        self.shared.allow_lending(&mut guarded);
        if self.settings.rtc_clock != RtcClock::Vm {
            let now = guarded.clock.now();
            let base = self.settings.rtc_start + self.behind(self.settings.rtc_clock, now);
            guarded.machine.set_rtc_base(now, base);
        }
        if !self.debug.clock_stands() {
            guarded.clock.start();
        }
        self.shared.arm_timer(&mut guarded);
        drop(guarded);
        if let Some(processors) = &self.processors {
            processors.resume();
        }
    }

    /// Whole seconds that the virtual clock, which reads `now`, is behind another since the VM was
    /// made: it stood still while the VM was stopped.
    fn behind(&self, clock: RtcClock, now: u64) -> i64 {
        let passed = match clock {
            RtcClock::Host => since_epoch().as_nanos() as i128 - self.made_at.as_nanos() as i128,
            RtcClock::Rt => i128::from(monotonic()) - i128::from(self.made_at_monotonic),
            RtcClock::Vm => now.into(),
        };
        ((passed - i128::from(now)) / i128::from(SECOND)) as i64
    }

    fn pause(&mut self) {
        if let Some(processors) = &self.processors {
            processors.pause();
        }
        let mut guarded = self.shared.lock();
        guarded.clock.stop();
        self.shared.end_lending(&mut guarded);
        self.shared.arm_timer(&mut guarded);
        drop(guarded);
        self.disarm_debugger();
        self.drain_blocks();
    }

    /// Stops the guest, if it runs, and enters `state`.
    fn halt(&mut self, state: RunState) {
        if self.run_state == RunState::Running {
            self.pause();
            self.enter(state);
            sets::lock().set_running(false);
            self.event(Event::Stop);
        }
    }

    /// Resets the machine, whatever it is doing.
    fn reset(&mut self, cause: ShutdownCause) {
        events::qemu_system_reset_request(cause.name().as_bytes());
        // Whoever asks for it, as with QEMU.
        if self.settings.actions.reboot == RebootAction::Shutdown {
            return self.shut_down(cause);
        }
        self.reset_all(|machine, bridge, now| machine.reset(bridge, now));
        self.event(Event::Reset {
            guest: cause.by_guest(),
            reason: cause,
        });
        if self.run_state == RunState::Running {
            self.resume();
        } else {
            self.enter(RunState::Prelaunch);
        }
    }

    /// Stops all, and resets the machine by a call, and what the machine does not reset itself.
    fn reset_all(&mut self, call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>, u64)) {
        self.pause();
        self.log_reset();
        if let Some(kvm) = self.shared.accelerator().kvm()
            && let Err(error) = kvm.reset_irqchip()
        {
            crate::report(format_args!("resetting the interrupt controllers: {error}"));
        }
        self.shared.call(call);
        {
            // What the guest asked for before the reset is void; what it told was told.
            let pending = &mut self.shared.lock().bridge_state.pending;
            pending.power = None;
            pending.stop = None;
            pending.debug = None;
        }
        if let Some(Err(error)) = self.processors.as_ref().map(Processors::reset) {
            crate::report(format_args!("resetting the processors: {error}"));
        }
    }

    fn log_reset(&mut self) {
        let Some(processors) = &self.processors else {
            return;
        };
        let log = &self.settings.log;
        for index in 0..processors.count() {
            events::guest_cpu_reset(index);
            if log.wants(Items::CPU_RESET)
                && let Ok(dump) = processors.dump(index)
            {
                log.reset(index, &dump);
            }
        }
    }

    /// Powers the machine off.
    pub fn shut_down(&mut self, cause: ShutdownCause) {
        events::qemu_system_shutdown_request(cause.name().as_bytes());
        self.event(Event::Shutdown {
            guest: cause.by_guest(),
            reason: cause,
        });
        let insists = matches!(
            cause,
            ShutdownCause::HostQmpQuit | ShutdownCause::HostSignal
        );
        let actions = self.settings.actions;
        if actions.shutdown == ShutdownAction::Pause && !insists {
            self.halt(RunState::Shutdown);
        } else {
            let failed =
                cause == ShutdownCause::GuestPanic && actions.panic == PanicAction::ExitFailure;
            self.end(failed.into());
        }
    }

    /// Sends all processors an NMI, as far as their interrupt controllers let it through.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn inject_nmi(&self) -> Result<(), ProcessorError> {
        match &self.processors {
            Some(processors) => processors.inject_nmi().map(drop),
            None => Ok(()),
        }
    }

    /// Does what the settings say about an event.
    fn guest_event(&mut self, event: GuestEvent) {
        match event {
            GuestEvent::Panicked => {
                let action = self.settings.actions.on_panic();
                self.event(Event::GuestPanicked { action });
                match action {
                    GuestPanicAction::Pause => self.halt(RunState::GuestPanicked),
                    GuestPanicAction::Poweroff => self.shut_down(ShutdownCause::GuestPanic),
                    GuestPanicAction::Run => {}
                }
            }
            // Its crash kernel is to run, whatever the setting for panics.
            GuestEvent::CrashLoaded => self.event(Event::GuestCrashloaded {
                action: GuestPanicAction::Run,
            }),
            GuestEvent::SuspendedToDisk => self.event(Event::SuspendDisk),
            GuestEvent::WatchdogExpired => self.watchdog_expired(),
            GuestEvent::RtcChanged { offset } => {
                // Clients are told offsets from a clock that never stood still.
                let behind = match self.settings.rtc_clock {
                    RtcClock::Vm => {
                        let now = self.shared.lock().clock.now();
                        self.behind(RtcClock::Host, now)
                    }
                    RtcClock::Host | RtcClock::Rt => 0,
                };
                let offset = offset.saturating_sub(behind);
                let qom_path = self.settings.rtc_path.clone();
                self.event(Event::RtcChange { offset, qom_path });
            }
        }
    }

    /// Presses the power button, and tells of it.
    pub(super) fn press_power_button(&mut self) {
        self.shared
            .call(|machine, bridge, now| machine.press_power_button(bridge, now));
        self.event(Event::Powerdown);
    }

    fn watchdog_expired(&mut self) {
        let action = self.settings.actions.watchdog;
        self.event(Event::Watchdog { action });
        match action {
            WatchdogAction::Reset => self.reset(ShutdownCause::GuestReset),
            WatchdogAction::Shutdown => self.press_power_button(),
            WatchdogAction::Poweroff => {
                self.pause();
                self.end(0);
            }
            WatchdogAction::Pause => self.halt(RunState::Watchdog),
            WatchdogAction::Debug => crate::report(format_args!("watchdog: timer fired")),
            WatchdogAction::None => {}
            WatchdogAction::InjectNmi => {
                if let Err(error) = self.inject_nmi() {
                    crate::report(format_args!("watchdog: {error}"));
                }
            }
        }
    }

    /// Does what the guest has asked for since the last call, and wakes it up when it is time.
    pub fn settle(&mut self) {
        self.settle_blocks();
        self.ring_alarm();
        let pending = std::mem::take(&mut self.shared.lock().bridge_state.pending);
        let held = pending.holds_guest();
        for event in pending.events {
            self.guest_event(event);
        }
        if let Some(stop) = pending.stop {
            self.stopped(&stop);
        }
        if let Some(stop) = pending.debug {
            self.debugged(stop);
        }
        match pending.power {
            Some(PowerRequest::Suspend) => self.suspend(),
            Some(PowerRequest::Reset(cause)) => self.reset(cause),
            Some(PowerRequest::Shutdown(cause)) => self.shut_down(cause),
            Some(PowerRequest::Exit(status)) => {
                self.pause();
                self.end(status);
            }
            None if held => self.go_on(),
            None => {}
        }
    }

    /// Lets a guest go on that was held to be looked at, if it is still to run.
    fn go_on(&self) {
        if self.run_state != RunState::Running {
            return;
        }
        let guarded = self.shared.lock();
        // Under the lock, so that whoever asks for another hold does so after this.
        if let Some(processors) = &self.processors
            && !guarded.bridge_state.pending.holds_guest()
        {
            processors.resume();
        }
    }

    /// A processor met what the accelerator can't run: the registers go to stderr, and the VM
    /// waits for someone to look.
    fn stopped(&mut self, stop: &VcpuStop) {
        crate::report(format_args!("{stop}"));
        self.halt(RunState::InternalError);
        // Even where a client had stopped the VM in the meantime.
        self.enter(RunState::InternalError);
    }

    fn event(&mut self, event: Event) {
        let since = since_epoch();
        let time = Timestamp {
            seconds: since.as_secs() as i64,
            microseconds: since.subsec_micros(),
        };
        self.events
            .extend(self.rate_limits.admit(event, time, monotonic()));
    }

    /// Lets events happen that were held back until now.
    pub fn release_events(&mut self) {
        while let Some(event) = self.rate_limits.expired(monotonic()) {
            self.events.push_back(event);
        }
    }

    /// When [`Vm::release_events`] or [`Vm::settle`] has something to do next, on the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let deadlines = [
            self.rate_limits.next_deadline(),
            self.alarm_deadline(),
            self.blocks_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// A command that went on in the background, and its end.
    pub fn next_outcome(&mut self) -> Option<(JobId, Result<(), QmpError>)> {
        while let Some((job, step)) = self.jobs.next_step() {
            let outcome = match step {
                Step::Opened => self.dump_opened(),
                Step::Ended(result) if self.dump.is_job(job) => self.dump_ended(result),
                Step::Ended(result) => Some(result),
            };
            if let Some(result) = outcome {
                return Some((job, result));
            }
        }
        None
    }

    /// Gives up what goes on in the background, without a trace.
    pub fn cancel_jobs(&mut self) {
        self.jobs.cancel();
    }

    /// Events that some sessions have not been told of: those that the executing session knows,
    /// and then the rest.
    pub fn take_events(&mut self) -> (Events, Events) {
        (
            std::mem::take(&mut self.told),
            std::mem::take(&mut self.events),
        )
    }

    /// Waits for all requests, and for what was written to be on stable storage: the process ends.
    pub fn close_blocks(&mut self) {
        self.drain_blocks();
    }

    /// Frees what objects hold that is of no use without the process.
    pub fn discard_objects(&self) {
        self.settings.made.discard();
    }

    /// Ends the processors' threads.
    pub fn shut_processors(&mut self) {
        if let Some(processors) = &mut self.processors {
            processors.shutdown();
        }
    }
}

#[cfg(test)]
mod tests;
