//! The virtual machine of this process: the machine under its lock, its processors, and what it is
//! doing.
//!
//! [`Shared`] is what threads share; [`Vm`] belongs to the main thread, starts and stops the
//! processors, and never holds the lock while it waits for them.

mod bridge;
mod clock;
mod owner;
mod save;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

use thimble_core::devices::{PowerRequest, ShutdownCause};
use thimble_core::machine::{Machine, RunState};
use thimble_core::time::SECOND;
use thimble_monitor::{Event, Timestamp};

use crate::chardev::Chardevs;
use crate::event_loop::poller::Waker;
use crate::kvm::{self, Pauser, VcpuStop, Vcpus};

pub use bridge::{Bridge, BridgeState, CONSOLES_MAX, Exits, Pending};
pub use clock::{Clock, monotonic};
pub use save::{JobId, Outcome, SAVE_JOBS_MAX, SaveJobs, Space};

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
    /// Calls the machine with a [`Bridge`] to the host.
    pub fn machine_call<R>(
        &mut self,
        kvm: Option<&kvm::Vm>,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>) -> R,
    ) -> R {
        let (machine, chardevs) = (&mut *self.machine, &mut self.chardevs);
        let result = Bridge::call(machine, chardevs, &mut self.bridge_state, kvm, call);
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
    kvm: Option<Arc<kvm::Vm>>,
    waker: Arc<Waker>,
    timer: OwnedFd,
    pauser: OnceLock<Pauser>,
}

impl Shared {
    /// `timer` is a timerfd of the monotonic clock.
    pub fn new(
        guarded: Guarded,
        kvm: Option<Arc<kvm::Vm>>,
        waker: Arc<Waker>,
        timer: OwnedFd,
    ) -> Arc<Self> {
        let guarded = Mutex::new(guarded);
        Arc::new(Self {
            guarded,
            kvm,
            waker,
            timer,
            pauser: OnceLock::new(),
        })
    }

    /// Takes the machine's lock. A panic of another thread does not keep it.
    pub fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel's virtual machine, if there is one.
    pub fn kvm(&self) -> Option<&kvm::Vm> {
        self.kvm.as_deref()
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
        let result = guarded.machine_call(self.kvm(), |machine, bridge| call(machine, bridge, now));
        self.arm_timer(&mut guarded);
        result
    }

    /// Lets the timerfd expire when the machine's next timer does.
    pub fn arm_timer(&self, guarded: &mut Guarded) {
        let deadline = guarded.machine.next_deadline();
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
        if let Some(pauser) = self.pauser.get() {
            pauser.request_pause();
        }
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

/// How the VM behaves on power events, and what it is called.
pub struct Settings {
    /// `-no-reboot`: a reset ends the process.
    pub no_reboot: bool,
    /// `-no-shutdown`: a shutdown stops the VM only, unless it comes from `quit` or a signal.
    pub no_shutdown: bool,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: [u8; 16],
    /// Whether the accelerator is KVM.
    pub kvm: bool,
    /// Where the state of processors goes when they are reset.
    pub reset_log: Option<File>,
    /// What the real-time clock is ahead of the host's, in seconds, if it goes on while the VM is
    /// stopped.
    pub rtc_follows_host: Option<i64>,
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
    vcpus: Option<Vcpus>,
    settings: Settings,
    run_state: RunState,
    events: Events,
    /// Events that the executing session has been told of, and the others not yet.
    told: Events,
    exit: Option<i32>,
}

impl Vm {
    /// A VM that does not run yet.
    pub fn new(shared: Arc<Shared>, vcpus: Option<Vcpus>, settings: Settings) -> Self {
        if let Some(vcpus) = &vcpus {
            let _ = shared.pauser.set(vcpus.pauser());
        }
        Self {
            shared,
            vcpus,
            settings,
            run_state: RunState::Prelaunch,
            events: Events::new(),
            told: Events::new(),
            exit: None,
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
        self.run_state = RunState::Running;
        self.event(Event::Resume);
        self.resume();
    }

    fn resume(&self) {
        let mut guarded = self.shared.lock();
        if let Some(ahead) = self.settings.rtc_follows_host {
            let now = guarded.clock.now();
            let host = since_epoch().as_secs() as i64;
            guarded
                .machine
                .set_rtc_base(now, host + ahead - (now / SECOND) as i64);
        }
        guarded.clock.start();
        self.shared.arm_timer(&mut guarded);
        drop(guarded);
        if let Some(vcpus) = &self.vcpus {
            vcpus.resume();
        }
    }

    fn pause(&self) {
        if let Some(vcpus) = &self.vcpus {
            vcpus.pause();
        }
        let mut guarded = self.shared.lock();
        guarded.clock.stop();
        self.shared.arm_timer(&mut guarded);
    }

    /// Stops the guest, if it runs, and enters `state`.
    fn halt(&mut self, state: RunState) {
        if self.run_state == RunState::Running {
            self.pause();
            self.run_state = state;
            self.event(Event::Stop);
        } else {
            self.run_state = state;
        }
    }

    /// Resets the machine, whatever it is doing.
    fn reset(&mut self, cause: ShutdownCause) {
        // Whoever asks for it, as with QEMU.
        if self.settings.no_reboot {
            return self.shut_down(cause);
        }
        self.pause();
        self.log_reset();
        if let Some(kvm) = self.shared.kvm()
            && let Err(error) = kvm.reset_irqchip()
        {
            crate::report(format_args!("resetting the interrupt controllers: {error}"));
        }
        self.shared
            .call(|machine, bridge, now| machine.reset(bridge, now));
        {
            // What the guest asked for before the reset is void.
            self.shared.lock().bridge_state.pending = Pending::default();
        }
        if let Some(Err(error)) = self.vcpus.as_ref().map(Vcpus::reset) {
            crate::report(format_args!("resetting the processors: {error}"));
        }
        self.event(Event::Reset(cause));
        if self.run_state == RunState::Running {
            self.resume();
        } else {
            self.run_state = RunState::Prelaunch;
        }
    }

    fn log_reset(&mut self) {
        let (Some(log), Some(vcpus)) = (&mut self.settings.reset_log, &self.vcpus) else {
            return;
        };
        for index in 0..vcpus.count() {
            if let Ok(dump) = vcpus.dump(index) {
                // A log that can't be written must not stop the VM.
                let _ = writeln!(log, "CPU Reset (CPU {index})\n{dump}");
            }
        }
    }

    /// Powers the machine off.
    pub fn shut_down(&mut self, cause: ShutdownCause) {
        self.event(Event::Shutdown(cause));
        let insists = matches!(
            cause,
            ShutdownCause::HostQmpQuit | ShutdownCause::HostSignal
        );
        if self.settings.no_shutdown && !insists {
            self.halt(RunState::Shutdown);
        } else {
            self.end(0);
        }
    }

    /// Does what the guest has asked for since the last call.
    pub fn settle(&mut self) {
        let pending = std::mem::take(&mut self.shared.lock().bridge_state.pending);
        if let Some(stop) = pending.stop {
            self.stopped(&stop);
        }
        match pending.power {
            Some(PowerRequest::Reset(cause)) => self.reset(cause),
            Some(PowerRequest::Shutdown(cause)) => self.shut_down(cause),
            Some(PowerRequest::Exit(status)) => {
                self.pause();
                self.end(status);
            }
            None => {}
        }
    }

    /// A processor met what the accelerator can't run: the registers go to stderr, and the VM
    /// waits for someone to look.
    fn stopped(&mut self, stop: &VcpuStop) {
        crate::report(format_args!("{stop}"));
        self.halt(RunState::InternalError);
    }

    fn event(&mut self, event: Event) {
        let since = since_epoch();
        let time = Timestamp {
            seconds: since.as_secs() as i64,
            microseconds: since.subsec_micros(),
        };
        self.events.push_back((event, time));
    }

    /// Events that some sessions have not been told of: those that the executing session knows,
    /// and then the rest.
    pub fn take_events(&mut self) -> (Events, Events) {
        (
            std::mem::take(&mut self.told),
            std::mem::take(&mut self.events),
        )
    }

    /// Ends the processors' threads.
    pub fn shut_processors(&mut self) {
        if let Some(vcpus) = &mut self.vcpus {
            vcpus.shutdown();
        }
    }
}
