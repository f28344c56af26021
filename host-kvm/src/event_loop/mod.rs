//! The main thread: waits for descriptors, timers and signals, and hands each to who owns it.

pub mod poller;

use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::io::read;
use thimble_core::devices::{ConsoleId, ShutdownCause};
use thimble_core::machine::Machine;

use crate::block::turn::Turn;
use crate::chardev::{ChardevId, Chardevs, Frontends};
use crate::clock::{Clock, monotonic};
use crate::gdb::GdbServer;
use crate::monitors::Monitors;
use crate::qtest::QtestServer;
use crate::report;
use crate::vm::{Accelerator, Bridge, BridgeState, Guarded, Vm};
use poller::{Interest, Poller, Waker};
use thimble_core::trace::events;

/// Tokens of the main thread's own descriptors; character devices have [`CHARDEVS`] and above.
const WAKER: u64 = 0;
const TIMER: u64 = 1;
const SIGNALS: u64 = 2;
/// Base of the tokens of character devices.
pub const CHARDEVS: u64 = 1 << 32;

/// Nanoseconds that output may take to leave when the process ends.
const LAST_WORDS: u64 = 200_000_000;

/// Nanoseconds for which the loop looks for the next command without sleeping.
const EXPECTANT: u64 = 50_000;

/// What one wait reports.
type Events = heapless::Vec<poller::Event, { poller::EVENTS_MAX }>;

/// SIGTERM, SIGINT and SIGHUP as a descriptor. They are blocked for all threads made from now on.
///
/// # Errors
/// If there is no descriptor left.
pub fn signals() -> std::io::Result<OwnedFd> {
    // SAFETY: the set is initialised before it is used, and the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(std::io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// What the main thread owns.
pub struct EventLoop {
    /// Where all descriptors are registered.
    pub poller: Arc<Poller>,
    /// Other threads end the wait by it.
    pub waker: Arc<Waker>,
    /// From [`signals`].
    pub signals: OwnedFd,
    /// The turn to touch the block layer, which the loop has but while it waits.
    pub turn: Arc<Turn>,
    /// The VM.
    pub vm: Vm,
    /// Its QMP sessions.
    pub monitors: Monitors,
    /// Its device test connection.
    pub qtest: Option<QtestServer>,
    /// Its debugger's connection.
    pub gdb: GdbServer,
}

impl EventLoop {
    /// Serves all until the process is to end, and returns its exit status.
    pub fn run(mut self) -> i32 {
        let shared = self.vm.shared().clone();
        let registered = [
            self.poller.add(&*self.waker, WAKER, Interest::READ),
            self.poller.add(shared.timer(), TIMER, Interest::READ),
            self.poller.add(&self.signals, SIGNALS, Interest::READ),
        ];
        if let Some(Err(error)) = registered.into_iter().find(Result::is_err) {
            report(format_args!(
                "the event loop: {}",
                crate::error_text(&error)
            ));
            return 1;
        }
        let several_cpus =
            rustix::thread::sched_getaffinity(None).is_ok_and(|cpus| cpus.count() > 1);
        let status = loop {
            self.vm.settle();
            self.vm.release_events();
            let mut served = self.gdb.serve(&mut self.vm);
            served |= self.monitors.serve(&mut self.vm);
            if self.gdb.serve(&mut self.vm) {
                // Whatever that has led to.
                self.monitors.serve(&mut self.vm);
                served = true;
            }
            if let Some(status) = self.vm.exit_status() {
                break status;
            }
            let ready = match self.wait(served && several_cpus) {
                Ok(ready) => ready,
                Err(error) => {
                    report(format_args!(
                        "waiting for events: {}",
                        crate::error_text(&error)
                    ));
                    break 1;
                }
            };
            events::event_loop_ready(ready.len());
            for event in ready {
                match event.token {
                    WAKER => self.waker.drain(),
                    TIMER => {
                        let _ = read(shared.timer(), &mut [0; 8]);
                        shared.lock().timer_at = 0;
                        shared.call_apart(|machine, bridge, now| machine.advance(bridge, now));
                    }
                    SIGNALS => self.signal(),
                    token => self.chardev_ready(token, event.readiness),
                }
            }
        };
        self.gdb.exit(status, &shared);
        self.vm.cancel_jobs();
        self.vm.shut_processors();
        self.vm.close_blocks();
        self.vm.discard_objects();
        shared.lock().chardevs.flush(LAST_WORDS);
        status
    }

    /// Waits for events. Who has just answered a command expects the next one at once: a sleep
    /// and a wake-up would cost several times what the command does.
    fn wait(&self, expectant: bool) -> std::io::Result<Events> {
        if expectant {
            let end = monotonic() + EXPECTANT;
            while monotonic() < end {
                let events = self.turn.without(|| self.poller.wait(Some(0)))?;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
        }
        let until = self.vm.next_deadline();
        let timeout = until.map(|until| until.saturating_sub(monotonic()));
        events::event_loop_wait(timeout.map_or(-1, |ns| (ns / 1_000_000) as i64));
        self.turn.without(|| self.poller.wait(timeout))
    }

    fn chardev_ready(&mut self, token: u64, readiness: poller::Readiness) {
        let shared = self.vm.shared().clone();
        let mut guarded = shared.lock();
        let Guarded {
            machine,
            chardevs,
            bridge_state,
            clock,
            input_waits,
            timer_at: _,
        } = &mut *guarded;
        let mut users = Users {
            machine,
            bridge_state,
            clock,
            input_waits,
            accelerator: shared.accelerator(),
            monitors: &mut self.monitors,
            qtest: &mut self.qtest,
            gdb: &mut self.gdb,
            quit: false,
        };
        chardevs.ready(token, readiness, &mut users);
        if users.quit {
            self.vm.end(0);
        }
        shared.arm_timer(&mut guarded);
    }

    fn signal(&mut self) {
        // SAFETY: the structure is plain data that the kernel fills in.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = size_of_val(&info);
        // SAFETY: the buffer is as long as it says.
        let got = unsafe { libc::read(self.signals.as_raw_fd(), (&raw mut info).cast(), size) };
        if got == size as isize {
            let (signal, pid) = (info.ssi_signo, info.ssi_pid);
            events::signal(signal);
            report(format_args!(
                "terminating on signal {signal} from pid {pid}"
            ));
            self.vm.shut_down(ShutdownCause::HostSignal);
        }
    }
}

/// Who uses character devices, for the length of one report of the poller.
struct Users<'a> {
    machine: &'a mut Machine<'static>,
    bridge_state: &'a mut BridgeState,
    clock: &'a mut Clock,
    input_waits: &'a mut bool,
    accelerator: &'a Accelerator,
    monitors: &'a mut Monitors,
    qtest: &'a mut Option<QtestServer>,
    gdb: &'a mut GdbServer,
    quit: bool,
}

impl Users<'_> {
    fn console(&self, chardev: ChardevId) -> Option<ConsoleId> {
        let index = self
            .bridge_state
            .consoles
            .iter()
            .position(|console| *console == Some(chardev))?;
        Some(ConsoleId(index as u8))
    }

    fn qtest(&mut self, chardev: ChardevId) -> Option<&mut QtestServer> {
        self.qtest
            .as_mut()
            .filter(|qtest| qtest.chardev() == chardev)
    }

    /// Calls the machine, or the device test that drives it.
    fn call<R>(
        &mut self,
        chardevs: &mut Chardevs,
        call: impl FnOnce(
            &mut Machine<'static>,
            &mut Bridge<'_>,
            &mut Clock,
            Option<&mut QtestServer>,
        ) -> R,
    ) -> R {
        let (clock, qtest) = (&mut *self.clock, self.qtest.as_mut());
        Bridge::call(
            self.machine,
            chardevs,
            self.bridge_state,
            self.accelerator,
            |machine, bridge| call(machine, bridge, clock, qtest),
        )
    }
}

impl Frontends for Users<'_> {
    fn opened(&mut self, chardevs: &mut Chardevs, id: ChardevId) {
        events::chardev_open(chardevs.label(id).as_bytes());
        self.monitors.opened(id, chardevs.has_focus(id));
        if self.gdb.owns(id) {
            self.gdb.opened();
        }
        if let Some(qtest) = self.qtest(id) {
            qtest.opened();
        }
    }

    fn received(&mut self, chardevs: &mut Chardevs, id: ChardevId, bytes: &[u8]) -> usize {
        events::chardev_read(bytes.len(), chardevs.label(id).as_bytes());
        if self.monitors.owns(id) {
            return self.monitors.received(id, bytes);
        }
        if self.gdb.owns(id) {
            return self.gdb.received(bytes);
        }
        if self.qtest(id).is_some() {
            return self.call(chardevs, |machine, bridge, clock, qtest| {
                qtest.map_or(0, |qtest| qtest.received(machine, bridge, clock, bytes))
            });
        }
        let Some(console) = self.console(id) else {
            return bytes.len();
        };
        let taken = self.call(chardevs, |machine, bridge, clock, _| {
            machine.console_receive(bridge, clock.now(), console, bytes)
        });
        *self.input_waits |= taken < bytes.len();
        taken
    }

    fn received_fds(&mut self, _chardevs: &mut Chardevs, id: ChardevId, fds: Vec<OwnedFd>) {
        self.monitors.received_fds(id, fds);
    }

    fn closed(&mut self, chardevs: &mut Chardevs, id: ChardevId) {
        events::chardev_close(chardevs.label(id).as_bytes());
        self.monitors.closed(id);
        if self.gdb.owns(id) {
            self.gdb.closed();
        }
        if let Some(qtest) = self.qtest(id) {
            qtest.closed();
        }
    }

    fn writable(&mut self, chardevs: &mut Chardevs, id: ChardevId) {
        if let Some(qtest) = self.qtest(id) {
            qtest.writable(chardevs);
        } else if let Some(console) = self.console(id) {
            self.call(chardevs, |machine, bridge, clock, _| {
                machine.console_writable(bridge, clock.now(), console);
            });
        }
    }

    fn line_break(&mut self, chardevs: &mut Chardevs, id: ChardevId) {
        if let Some(console) = self.console(id) {
            self.call(chardevs, |machine, bridge, clock, _| {
                machine.console_break(bridge, clock.now(), console);
            });
        }
    }

    fn focus(&mut self, chardevs: &mut Chardevs, id: ChardevId, on: bool) {
        let _ = chardevs;
        self.monitors.focus(id, on);
    }

    fn quit(&mut self, _chardevs: &mut Chardevs, _id: ChardevId) {
        self.quit = true;
    }
}
