//! QMP sessions on character devices.
//!
//! Input waits in its session's small buffer until the machine's lock is free: commands take it
//! themselves, each as long as it needs it. Replies go to the device's queue; a session whose
//! client does not read is not served, and its device not read.

use std::os::fd::OwnedFd;

use thimble_core::qmp::{Sink, SinkFull};
use thimble_monitor::{Event, MONITOR_OUT_MAX, Out, Session, Timestamp};

use crate::chardev::{ChardevId, Chardevs};
use crate::descriptors::{Passed, sets};
use crate::report;
use crate::vm::{Shared, Vm};

/// Bytes of replies to commands that came in one packet which are gathered, to be handed over at once.
const GATHERED: usize = 16 * 1024;

/// Output of one session on its way to the device.
struct Output<'a> {
    shared: &'a Shared,
    chardev: ChardevId,
    bytes: Vec<u8>,
    /// The device had nothing left when it was last looked at.
    flushed: bool,
}

impl<'a> Output<'a> {
    fn new(shared: &'a Shared, chardev: ChardevId) -> Self {
        Self {
            shared,
            chardev,
            bytes: Vec::new(),
            flushed: false,
        }
    }

    /// Hands over to the device what was written; tells whether something still waits there.
    fn flush(&mut self) -> bool {
        let chardevs = &mut self.shared.lock().chardevs;
        let taken = chardevs.write(self.chardev, &self.bytes);
        self.bytes.drain(..taken);
        self.flushed = self.bytes.is_empty() && chardevs.pending(self.chardev) == 0;
        !self.flushed
    }
}

impl Sink for Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self.bytes.len() + bytes.len() > MONITOR_OUT_MAX {
            return Err(SinkFull);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Out for Output<'_> {
    fn pending(&mut self) -> bool {
        // While the device has nothing left of what it was given, a write for each reply can be spared.
        let gathers = !self.bytes.is_empty() && self.bytes.len() < GATHERED;
        !(gathers && self.flushed) && self.flush()
    }

    fn mark(&self) -> usize {
        self.bytes.len()
    }

    fn truncate(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }
}

/// One QMP session.
struct Monitor {
    chardev: ChardevId,
    session: Box<Session>,
    /// Bytes that the session has not taken yet.
    input: Vec<u8>,
    /// A client has connected, or left, since the last look.
    opened: bool,
    connected: bool,
    /// Its descriptors, except while a command is executed: then they are the VM's.
    passed: Passed,
    /// Descriptors that came with input which has not been taken yet.
    arriving: Vec<OwnedFd>,
}

/// All QMP sessions of the process.
#[derive(Default)]
pub struct Monitors(Vec<Monitor>);

impl Monitors {
    /// Adds a session on this device.
    pub fn add(&mut self, chardev: ChardevId) {
        // SAFETY: all zero bytes are a valid session, as its documentation says; it is much too
        // large to be built on a stack.
        #[allow(unsafe_code)]
        let session = unsafe { Box::<Session>::new_zeroed().assume_init() };
        self.0.push(Monitor {
            chardev,
            session,
            input: Vec::new(),
            opened: false,
            connected: false,
            passed: Passed::default(),
            arriving: Vec::new(),
        });
    }

    /// Whether a session runs on this device.
    pub fn owns(&self, chardev: ChardevId) -> bool {
        self.0.iter().any(|monitor| monitor.chardev == chardev)
    }

    fn at(&mut self, chardev: ChardevId) -> Option<&mut Monitor> {
        self.0.iter_mut().find(|monitor| monitor.chardev == chardev)
    }

    /// A client has connected.
    pub fn opened(&mut self, chardev: ChardevId) {
        if let Some(monitor) = self.at(chardev) {
            monitor.input.clear();
            monitor.opened = true;
            if !std::mem::replace(&mut monitor.connected, true) {
                sets::lock().client_came();
            }
        }
    }

    /// The client has left.
    pub fn closed(&mut self, chardev: ChardevId) {
        if let Some(monitor) = self.at(chardev) {
            monitor.input.clear();
            monitor.opened = false;
            monitor.arriving = Vec::new();
            monitor.passed.disconnect();
            if std::mem::replace(&mut monitor.connected, false) {
                sets::lock().client_left();
            }
        }
    }

    /// Takes input, if none waits.
    pub fn received(&mut self, chardev: ChardevId, bytes: &[u8]) -> usize {
        match self.at(chardev) {
            Some(monitor) if monitor.input.is_empty() => {
                monitor.input.extend_from_slice(bytes);
                if !monitor.arriving.is_empty() {
                    let fds = std::mem::take(&mut monitor.arriving);
                    monitor.passed.receive(fds);
                }
                bytes.len()
            }
            _ => 0,
        }
    }

    /// Takes descriptors that came with the input that follows.
    pub fn received_fds(&mut self, chardev: ChardevId, fds: Vec<OwnedFd>) {
        if let Some(monitor) = self.at(chardev) {
            monitor.arriving = fds;
        }
    }

    /// Executes the commands that have come in, and tells whether there were any.
    pub fn serve(&mut self, vm: &mut Vm) -> bool {
        let mut served = false;
        while let Some((job, result)) = vm.saved() {
            // Its connection may be gone.
            let mut monitors = self.0.iter();
            if let Some(index) = monitors.position(|m| m.session.pending() == Some(job)) {
                self.with_output(index, vm, |session, vm, out| {
                    session.complete(result, vm, out);
                });
                self.tell(vm, Some(index));
                served = true;
            }
        }
        for index in 0..self.0.len() {
            served |= self.serve_one(index, vm);
            self.tell(vm, Some(index));
        }
        self.tell(vm, None);
        served
    }

    /// Lends a session its device's output, and sends what it has written.
    fn with_output<R>(
        &mut self,
        index: usize,
        vm: &mut Vm,
        call: impl FnOnce(&mut Session, &mut Vm, &mut Output<'_>) -> R,
    ) -> R {
        let monitor = &mut self.0[index];
        let shared = vm.shared().clone();
        let mut out = Output::new(&shared, monitor.chardev);
        std::mem::swap(&mut monitor.passed, &mut vm.passed);
        let result = call(&mut monitor.session, vm, &mut out);
        std::mem::swap(&mut monitor.passed, &mut vm.passed);
        out.flush();
        if monitor.session.broken() {
            hang_up(&mut shared.lock().chardevs, monitor.chardev);
        }
        result
    }

    fn serve_one(&mut self, index: usize, vm: &mut Vm) -> bool {
        let monitor = &mut self.0[index];
        if std::mem::take(&mut monitor.opened) {
            // A greeting that does not fit breaks the session.
            let _ = self.with_output(index, vm, |session, _, out| session.open(out));
        }
        let monitor = &mut self.0[index];
        let idle = monitor.input.is_empty() && !monitor.session.lags();
        if idle || vm.exit_status().is_some() {
            return false;
        }
        let mut input = std::mem::take(&mut monitor.input);
        let taken = self.with_output(index, vm, |session, vm, out| session.feed(&input, vm, out));
        input.drain(..taken);
        let monitor = &mut self.0[index];
        monitor.input = input;
        if monitor.input.is_empty() {
            let mut guarded = vm.shared().lock();
            guarded.chardevs.pause_input(monitor.chardev, false);
        }
        taken > 0
    }

    /// Tells sessions of what has happened: of what the executing one knows already, the others.
    fn tell(&mut self, vm: &mut Vm, executing: Option<usize>) {
        let (known, fresh) = vm.take_events();
        if known.is_empty() && fresh.is_empty() {
            return;
        }
        let shared = vm.shared().clone();
        for (index, monitor) in self.0.iter_mut().enumerate() {
            if Some(index) != executing {
                monitor.tell(&shared, known.iter());
            }
            monitor.tell(&shared, fresh.iter());
        }
    }
}

impl Monitor {
    fn tell<'e>(
        &mut self,
        shared: &Shared,
        mut events: impl Iterator<Item = &'e (Event, Timestamp)>,
    ) {
        if !self.connected {
            return;
        }
        let mut out = Output::new(shared, self.chardev);
        let lost = events.any(|(event, time)| self.session.event(event, *time, &mut out).is_err());
        out.flush();
        if lost || !out.bytes.is_empty() {
            hang_up(&mut shared.lock().chardevs, self.chardev);
        }
    }
}

/// Closes a connection whose client does not take what it must be told.
fn hang_up(chardevs: &mut Chardevs, chardev: ChardevId) {
    let who = chardevs.describe(chardev);
    report(format_args!(
        "{who}: the client does not read its events: connection closed"
    ));
    chardevs.hang_up(chardev);
}
