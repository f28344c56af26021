//! gdb's remote protocol on a character device: `-gdb`, `-s`, and the human monitor's `gdbserver`.
//!
//! One debugger at a time: others wait in the socket's backlog. What comes in waits until the machine's lock is free.

use thimble_core::qmp::{Sink, SinkFull};
use thimble_monitor::gdb::Session;

use crate::chardev::{ChardevId, Chardevs};
use crate::report;
use crate::vm::{Shared, Vm};

/// Bytes for a debugger that does not read. With more its connection is closed.
pub const OUT_MAX: usize = 1 << 20;

/// The name of the character device that the stub makes for itself.
pub const LABEL: &str = "gdb";

/// What a session writes, on its way to the device.
#[derive(Default)]
struct Output(Vec<u8>);

impl Sink for Output {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self.0.len() + bytes.len() > OUT_MAX {
            return Err(SinkFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The debugger's connection.
#[derive(Default)]
pub struct GdbServer {
    chardev: Option<ChardevId>,
    session: Option<Box<Session>>,
    /// Bytes that the session has not taken yet.
    input: Vec<u8>,
    /// A debugger has connected, or left, since the last look.
    opened: bool,
    closed: bool,
}

impl GdbServer {
    /// Serves debuggers on this device from now on, or on none.
    pub fn attach(&mut self, chardev: Option<ChardevId>) {
        self.input.clear();
        self.opened = false;
        self.closed = self.chardev.is_some();
        self.chardev = chardev;
    }

    /// Whether debuggers come by this device.
    pub fn owns(&self, chardev: ChardevId) -> bool {
        self.chardev == Some(chardev)
    }

    /// A debugger has connected.
    pub fn opened(&mut self) {
        self.input.clear();
        self.opened = true;
    }

    /// The debugger has left.
    pub fn closed(&mut self) {
        self.input.clear();
        self.opened = false;
        self.closed = true;
    }

    /// Takes input, if none waits.
    pub fn received(&mut self, bytes: &[u8]) -> usize {
        if !self.input.is_empty() {
            return 0;
        }
        self.input.extend_from_slice(bytes);
        bytes.len()
    }

    /// Does what the debugger has asked for, and tells it whether the VM has stopped. Tells whether there was anything to do.
    pub fn serve(&mut self, vm: &mut Vm) -> bool {
        let mut served = false;
        if let Some(change) = vm.take_gdb_device() {
            self.attach(change);
            served = true;
        }
        if std::mem::take(&mut self.closed)
            && let Some(mut session) = self.session.take()
        {
            session.close(vm);
            served = true;
        }
        if std::mem::take(&mut self.opened) {
            let mut session = Box::<Session>::default();
            session.open(vm);
            self.session = Some(session);
            served = true;
        }
        let finished = vm.take_finished();
        let (Some(session), Some(chardev)) = (&mut self.session, self.chardev) else {
            self.input.clear();
            return served;
        };
        let mut out = Output::default();
        let mut done = Ok(());
        if let Some((job, result)) = finished
            && session.pending() == Some(job)
        {
            done = session.complete(&result, &mut out);
        }
        if !self.input.is_empty() && vm.exit_status().is_none() {
            done = done.and_then(|()| session.feed(&self.input, vm, &mut out));
            self.input.clear();
            served = true;
            vm.shared().lock().chardevs.pause_input(chardev, false);
        }
        if vm.exit_status().is_none() {
            done = done.and_then(|()| session.settle(vm, &mut out));
        }
        served |= !out.0.is_empty();
        send(vm.shared(), chardev, &out, done);
        served
    }

    /// Tells the debugger, if it waits for the guest, that the process ends.
    pub fn exit(&mut self, status: i32, shared: &Shared) {
        if let (Some(session), Some(chardev)) = (&mut self.session, self.chardev) {
            let mut out = Output::default();
            let done = session.exit(status as u8, &mut out);
            send(shared, chardev, &out, done);
        }
    }
}

/// Hands over to the device what was written; a debugger that does not read loses its connection.
fn send(shared: &Shared, chardev: ChardevId, out: &Output, done: Result<(), SinkFull>) {
    if out.0.is_empty() && done.is_ok() {
        return;
    }
    let chardevs = &mut shared.lock().chardevs;
    if done.is_err() || chardevs.write(chardev, &out.0) < out.0.len() {
        hang_up(chardevs, chardev);
    }
}

fn hang_up(chardevs: &mut Chardevs, chardev: ChardevId) {
    let who = chardevs.describe(chardev);
    report(format_args!(
        "{who}: the debugger does not read its answers: connection closed"
    ));
    chardevs.hang_up(chardev);
}
