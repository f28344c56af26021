//! QMP sessions, and those of the human monitor, on character devices.
//!
//! What comes in waits in its session's small queue until the machine's lock is free: commands take it
//! themselves, each as long as it needs it. Replies go to the device's queue; a session whose
//! client does not read is not served, and its device not read.

mod steps;

use std::os::fd::OwnedFd;

use thimble_core::qmp::{Sink, SinkFull};
use thimble_monitor::hmp::HmpSession;
use thimble_monitor::{Event, JobId, MONITOR_OUT_MAX, Out, Pretty, QmpError, Session, Timestamp};

use crate::chardev::{ChardevId, Chardevs};
use crate::descriptors::{Passed, sets};
use crate::report;
use crate::vm::{Shared, Vm};
use steps::{Step, Steps};

/// Bytes of replies to commands that came in one packet which are gathered, to be handed over at once.
const GATHERED: usize = 16 * 1024;

/// Output of one session on its way to the device.
struct Output<'a> {
    shared: &'a Shared,
    chardev: ChardevId,
    bytes: Vec<u8>,
    /// The device had nothing left when it was last looked at.
    flushed: bool,
    pretty: Option<Pretty>,
}

impl<'a> Output<'a> {
    /// Output of a session that some bytes are left of.
    fn new(shared: &'a Shared, monitor: &mut Monitor) -> Self {
        Self {
            shared,
            chardev: monitor.chardev,
            bytes: std::mem::take(&mut monitor.unsent),
            flushed: false,
            pretty: monitor.pretty.then(Pretty::default),
        }
    }

    /// Hands over to the device what was written; tells whether something still waits there.
    fn flush(&mut self) -> bool {
        let chardevs = &mut self.shared.lock().chardevs;
        let taken = chardevs.write(self.chardev, &self.bytes);
        self.bytes.drain(..taken);
        // Nothing more is to be done for a client that has gone.
        let idle = chardevs.pending(self.chardev) == 0 && !chardevs.is_doomed(self.chardev);
        self.flushed = self.bytes.is_empty() && idle;
        !self.flushed
    }
}

/// Bytes up to [`MONITOR_OUT_MAX`].
struct Bytes<'b>(&'b mut Vec<u8>);

impl Sink for Bytes<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self.0.len() + bytes.len() > MONITOR_OUT_MAX {
            return Err(SinkFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        let mut to = Bytes(&mut self.bytes);
        match &mut self.pretty {
            None => to.put(bytes),
            Some(pretty) => pretty.put(bytes, &mut to),
        }
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
        // A mark stands between two messages.
        self.pretty = self.pretty.map(|_| Pretty::default());
    }

    fn put_since(&self, mark: usize) -> &[u8] {
        self.bytes.get(mark..).unwrap_or_default()
    }
}

/// What is spoken on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// QMP.
    Qmp {
        /// Replies are spread over lines.
        pretty: bool,
    },
    /// The human monitor's.
    Human,
}

enum Speaker {
    Qmp(Box<Session>),
    Human {
        session: Box<HmpSession>,
        /// This connection was greeted.
        greeted: bool,
    },
}

impl Speaker {
    fn is_qmp(&self) -> bool {
        matches!(self, Self::Qmp(_))
    }

    fn pending(&self) -> Option<JobId> {
        match self {
            Self::Qmp(session) => session.pending(),
            Self::Human { session, .. } => session.pending(),
        }
    }

    fn broken(&self) -> bool {
        match self {
            Self::Qmp(session) => session.broken(),
            Self::Human { session, .. } => session.broken(),
        }
    }

    fn lags(&self) -> bool {
        match self {
            Self::Qmp(session) => session.lags(),
            Self::Human { .. } => false,
        }
    }

    fn complete(&mut self, result: Result<(), QmpError>, vm: &mut Vm, out: &mut Output<'_>) {
        match self {
            Self::Qmp(session) => session.complete(result, vm, out),
            Self::Human { session, .. } => session.complete(&result, out),
        }
    }

    fn feed(&mut self, input: &[u8], vm: &mut Vm, out: &mut Output<'_>) -> usize {
        match self {
            Self::Qmp(session) => session.feed(input, vm, out),
            Self::Human { session, .. } => session.feed(input, vm, out),
        }
    }

    /// A connection begins.
    fn open(&mut self, focus: bool, out: &mut Output<'_>) {
        match self {
            // A greeting that does not fit breaks the session.
            Self::Qmp(session) => drop(session.open(out)),
            Self::Human { greeted, .. } => {
                *greeted = false;
                if focus {
                    self.focus(true, out);
                }
            }
        }
    }

    /// A shared terminal is this session's, or others'. QMP does not care.
    fn focus(&mut self, on: bool, out: &mut Output<'_>) {
        if let Self::Human { session, greeted } = self {
            match (on, *greeted) {
                (true, true) => session.focus(out),
                (true, false) => session.open(out),
                (false, true) => session.blur(out),
                (false, false) => {}
            }
            *greeted |= on;
        }
    }
}

/// One session.
struct Monitor {
    chardev: ChardevId,
    speaker: Speaker,
    pretty: bool,
    /// What the session has not seen yet.
    steps: Steps,
    /// What the device has not taken yet.
    unsent: Vec<u8>,
    connected: bool,
    /// Its descriptors, except while a command is executed: then they are the VM's.
    passed: Passed,
    /// Descriptors that came with input which has not been taken yet.
    arriving: Vec<OwnedFd>,
}

/// All sessions of the process.
#[derive(Default)]
pub struct Monitors(Vec<Monitor>);

impl Monitors {
    /// Adds a session on this device.
    pub fn add(&mut self, chardev: ChardevId, language: Language) {
        let speaker = match language {
            Language::Qmp { .. } => {
                // SAFETY: all zero bytes are a valid session, as its documentation says; it is much too
                // large to be built on a stack.
                #[allow(unsafe_code)]
                let session = unsafe { Box::<Session>::new_zeroed().assume_init() };
                Speaker::Qmp(session)
            }
            Language::Human => Speaker::Human {
                session: Box::default(),
                greeted: false,
            },
        };
        self.0.push(Monitor {
            chardev,
            speaker,
            pretty: language == Language::Qmp { pretty: true },
            steps: Steps::default(),
            unsent: Vec::new(),
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

    /// A client has connected; a shared terminal may be others' at first.
    pub fn opened(&mut self, chardev: ChardevId, focus: bool) {
        if let Some(monitor) = self.at(chardev) {
            monitor.steps.clear();
            monitor.unsent.clear();
            monitor.steps.push(Step::Open { focus });
            if !std::mem::replace(&mut monitor.connected, true) && monitor.speaker.is_qmp() {
                sets::lock().client_came();
            }
        }
    }

    /// The client has left.
    pub fn closed(&mut self, chardev: ChardevId) {
        if let Some(monitor) = self.at(chardev) {
            monitor.steps.clear();
            monitor.unsent.clear();
            monitor.arriving = Vec::new();
            monitor.passed.disconnect();
            if std::mem::replace(&mut monitor.connected, false) && monitor.speaker.is_qmp() {
                sets::lock().client_left();
            }
        }
    }

    /// A shared terminal is this session's now, or others'.
    pub fn focus(&mut self, chardev: ChardevId, on: bool) {
        if let Some(monitor) = self.at(chardev).filter(|monitor| monitor.connected) {
            monitor.steps.push(Step::Focus(on));
        }
    }

    /// Takes input, if none waits.
    pub fn received(&mut self, chardev: ChardevId, bytes: &[u8]) -> usize {
        match self.at(chardev) {
            Some(monitor) if !monitor.steps.has_input() => {
                monitor.steps.push(Step::Input(bytes.to_vec()));
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
        while let Some((job, result)) = vm.next_outcome() {
            // Its connection may be gone.
            let mut monitors = self.0.iter();
            if let Some(index) = monitors.position(|m| m.speaker.pending() == Some(job)) {
                self.with_output(index, vm, |speaker, vm, out| {
                    speaker.complete(result, vm, out);
                });
                self.tell(vm, Some(index));
                served = true;
            } else {
                vm.finished_elsewhere(job, result);
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
        call: impl FnOnce(&mut Speaker, &mut Vm, &mut Output<'_>) -> R,
    ) -> R {
        let monitor = &mut self.0[index];
        let shared = vm.shared().clone();
        let mut out = Output::new(&shared, monitor);
        std::mem::swap(&mut monitor.passed, &mut vm.passed);
        let result = call(&mut monitor.speaker, vm, &mut out);
        std::mem::swap(&mut monitor.passed, &mut vm.passed);
        out.flush();
        monitor.unsent = out.bytes;
        if monitor.speaker.broken() {
            hang_up(&mut shared.lock().chardevs, monitor.chardev);
        }
        result
    }

    fn serve_one(&mut self, index: usize, vm: &mut Vm) -> bool {
        let mut served = false;
        loop {
            let monitor = &mut self.0[index];
            if vm.exit_status().is_some() {
                return served;
            }
            let Some(step) = monitor.steps.take() else {
                if monitor.speaker.lags() || !monitor.unsent.is_empty() {
                    // What waits within the session, or for the device.
                    self.with_output(index, vm, |speaker, vm, out| speaker.feed(&[], vm, out));
                }
                return served;
            };
            match step {
                Step::Open { focus } => {
                    self.with_output(index, vm, |speaker, _, out| speaker.open(focus, out));
                }
                Step::Focus(on) => {
                    self.with_output(index, vm, |speaker, _, out| speaker.focus(on, out));
                }
                Step::Input(mut input) => {
                    let taken = self
                        .with_output(index, vm, |speaker, vm, out| speaker.feed(&input, vm, out));
                    served |= taken > 0;
                    input.drain(..taken);
                    let monitor = &mut self.0[index];
                    if !input.is_empty() {
                        // The connection may have ended meanwhile.
                        monitor.steps.put_back(Step::Input(input));
                        return served;
                    }
                    let mut guarded = vm.shared().lock();
                    guarded.chardevs.pause_input(monitor.chardev, false);
                }
            }
        }
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
        let mut out = Output::new(shared, self);
        let Speaker::Qmp(session) = &mut self.speaker else {
            self.unsent = out.bytes;
            return;
        };
        let lost = events.any(|(event, time)| session.event(event, *time, &mut out).is_err());
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
