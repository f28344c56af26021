//! Character devices: byte streams between the guest's consoles or a QMP session, and sockets,
//! files and the terminal.
//!
//! [`Chardevs`] owns every descriptor and registers it with the [`Poller`]. It never blocks: what
//! can't be written at once waits in a queue with a limit, and what a frontend does not take
//! stays here while the descriptor is not read. A frontend is who uses a device: it gets calls
//! through [`Frontends`] from [`Chardevs::ready`], and calls [`Chardevs::write`] when it likes.
//!
//! A server serves one client at a time and listens again when it is gone; others wait in the
//! socket's backlog. Descriptors passed with SCM_RIGHTS are handed to the frontend.
//!
//! A device with `mux=on` has up to [`USERS_MAX`] users, each with a [`ChardevId`] of its own: all
//! write as they like, one has the input, and the escape key gives it to the next.
//!
//! Writes to regular files are direct, as the kernel buffers them; bytes for a full disk are
//! dropped with one warning.

mod escape;
mod mux;
mod pty;
mod queue;
mod socket;
pub mod spec;

use std::fs::File;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, sockopt,
};

use thimble_core::formats::telnet::{self, Received, Telnet};

use crate::descriptors::sets::Lease;
use crate::error_text;
use crate::event_loop::poller::{Interest, Poller, Readiness, Waker};
use crate::files::{self, OFlags};
use crate::terminal::{self, RawMode};
use escape::Command;
use mux::{Mux, Port};
use queue::Queue;
use socket::{Connecting, Listener};
use spec::{Address, Backend, ChardevSpec, SocketSpec};
use thimble_core::trace::events;

pub use escape::DEFAULT_KEY as DEFAULT_ESCAPE_KEY;
pub use mux::USERS_MAX;

/// Bytes read from a device in one go.
const READ_MAX: usize = 4096;

/// Descriptors that one message may pass; the kernel's SCM_MAX_FD is 253, of which the rest is
/// closed by the kernel.
const PASSED_MAX: usize = 16;

/// Character devices at most.
pub const CHARDEVS_MAX: usize = 256;

/// Seconds between two looks whether a pseudo-terminal has been opened.
const PTY_LOOK: u32 = 1;

/// A character device that has been opened, or one of the places of one that several use: the device
/// in the lower byte, the place in the upper one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChardevId(u16);

const _: () = assert!(CHARDEVS_MAX <= 1 << 8 && USERS_MAX <= 1 << 8);

impl ChardevId {
    const fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }

    const fn port(self) -> usize {
        (self.0 >> 8) as usize
    }

    /// Another place of the same device.
    const fn at(self, port: usize) -> Self {
        Self(self.0 & 0xff | (port as u16) << 8)
    }
}

/// Who uses the devices. Every call may use the devices in turn, the calling one included.
pub trait Frontends {
    /// A client has connected, or the device is ready for the first time.
    fn opened(&mut self, chardevs: &mut Chardevs, id: ChardevId);

    /// Bytes came in. Returns how many were taken; if not all, the rest is offered again after
    /// [`Chardevs::pause_input`] with `false`, and nothing is read until then.
    fn received(&mut self, chardevs: &mut Chardevs, id: ChardevId, bytes: &[u8]) -> usize;

    /// The client is gone, or the input has ended.
    fn closed(&mut self, chardevs: &mut Chardevs, id: ChardevId);

    /// There is room again, after a [`Chardevs::write`] that did not take everything.
    fn writable(&mut self, chardevs: &mut Chardevs, id: ChardevId);

    /// Descriptors came with the bytes of the next [`Frontends::received`]. Dropping closes them.
    fn received_fds(&mut self, chardevs: &mut Chardevs, id: ChardevId, fds: Vec<OwnedFd>) {
        let _ = (chardevs, id, fds);
    }

    /// The line was held in a break.
    fn line_break(&mut self, chardevs: &mut Chardevs, id: ChardevId) {
        let _ = (chardevs, id);
    }

    /// The user has given this one of a device's users the input, or taken it away.
    fn focus(&mut self, chardevs: &mut Chardevs, id: ChardevId, on: bool) {
        let _ = (chardevs, id, on);
    }

    /// The user asked with the escape key for the end of the emulator.
    fn quit(&mut self, chardevs: &mut Chardevs, id: ChardevId);
}

/// Which descriptor of a device a token means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Input = 0,
    Output = 1,
    Listener = 2,
    Timer = 3,
}

/// A descriptor and how it is registered with the poller.
struct Watched {
    fd: OwnedFd,
    interest: Interest,
}

struct Slot {
    label: String,
    backend: Backend,
    /// What is read, and for sockets also written.
    input: Option<Watched>,
    /// What is written, if that is another descriptor.
    output: Option<Watched>,
    listener: Option<Listener>,
    timer: Option<OwnedFd>,
    /// The input is a socket that is not connected yet.
    connecting: bool,
    /// `opened` was called (or is due: `fresh`) and `closed` was not.
    open: bool,
    /// `opened` is due.
    fresh: bool,
    /// The connection is to be closed as soon as the loop comes by.
    doomed: bool,
    /// A failed write has been reported.
    warned: bool,
    /// Counts connections, so that input of an old one is not taken for the new one's.
    generation: u32,
    queue: Queue,
    /// Who uses it: one, unless it is shared.
    ports: Vec<Port>,
    /// Which of them has the input.
    focus: usize,
    mux: Option<Mux>,
    /// The protocol of the connection.
    telnet: Option<Telnet>,
    /// The name of the pseudo-terminal.
    terminal: String,
    /// Keep the sets that its descriptors come from.
    _leases: Vec<Lease>,
    /// Raw mode of the terminal, as long as the device lives.
    _raw: Option<RawMode>,
}

/// All character devices of the process.
pub struct Chardevs {
    poller: Arc<Poller>,
    base: u64,
    waker: Waker,
    escape_key: u8,
    slots: Vec<Slot>,
}

impl Chardevs {
    /// No devices yet. Tokens from `base` to `base + 0xffff_ffff` are taken for them; the lower
    /// half of `base` is zero.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn new(poller: Arc<Poller>, base: u64) -> io::Result<Self> {
        let base = base & !0xffff_ffff;
        let waker = Waker::new()?;
        poller.add(&waker, base | 0xffff_ffff, Interest::READ)?;
        Ok(Self {
            poller,
            base,
            waker,
            escape_key: DEFAULT_ESCAPE_KEY,
            slots: Vec::new(),
        })
    }

    /// Sets the escape key of devices that are opened from now on.
    pub fn set_escape_key(&mut self, key: u8) {
        self.escape_key = key;
    }

    /// Whether a token belongs to a character device.
    pub fn owns(&self, token: u64) -> bool {
        token & !0xffff_ffff == self.base
    }

    /// Opens a device. `queue_max` bounds the output that waits for a slow reader, in bytes. A
    /// server with `wait` blocks until its first client is there. [`Frontends::opened`] is called
    /// by the next [`Chardevs::ready`].
    ///
    /// # Errors
    /// One sentence that says what could not be opened and why.
    pub fn open(&mut self, spec: &ChardevSpec, queue_max: usize) -> Result<ChardevId, String> {
        if self.slots.len() >= CHARDEVS_MAX {
            return Err(format!("more than {CHARDEVS_MAX} character devices"));
        }
        if self.find(&spec.id).is_some() {
            return Err(format!("Duplicate ID '{}' for chardev", spec.id));
        }
        let id = ChardevId(self.slots.len() as u16);
        let mut slot = Slot {
            label: spec.id.clone(),
            backend: spec.backend.clone(),
            input: None,
            output: None,
            listener: None,
            timer: None,
            connecting: false,
            open: false,
            fresh: false,
            doomed: false,
            warned: false,
            generation: 0,
            queue: Queue::new(queue_max),
            ports: vec![Port::default()],
            focus: 0,
            mux: spec.mux.then(|| Mux::new(self.escape_key)),
            telnet: None,
            terminal: String::new(),
            _leases: Vec::new(),
            _raw: None,
        };
        match &spec.backend {
            Backend::Null => slot.set_open(),
            Backend::Stdio { signal } => {
                let used = |slot: &Slot| matches!(slot.backend, Backend::Stdio { .. });
                if self.slots.iter().any(used) {
                    return Err("cannot use stdio by multiple character devices".to_owned());
                }
                slot.open_stdio(signal.unwrap_or(!spec.mux))
                    .map_err(|error| format!("cannot use stdio: {}", error_text(&error)))?;
            }
            Backend::File {
                path,
                input,
                append,
            } => slot.open_file(path, input.as_deref(), *append)?,
            Backend::Serial { path } => slot.open_serial(path)?,
            Backend::Pty => {
                let failed = |error: io::Error| error_text(&error);
                let (master, name) = pty::open().map_err(failed)?;
                // Whoever started us needs to know, and may read no more than this.
                let _ = writeln!(
                    io::stdout(),
                    "char device redirected to {name} (label {})",
                    spec.id
                );
                slot.terminal = name;
                slot.input = Some(unwatched(master));
                let timer = socket::timer(PTY_LOOK).map_err(failed)?;
                self.poller
                    .add(&timer, self.token(id, Which::Timer), Interest::READ)
                    .map_err(failed)?;
                slot.timer = Some(timer);
            }
            Backend::Socket(socket) => self.open_socket(id, &mut slot, socket)?,
        }
        let fresh = slot.fresh;
        self.slots.push(slot);
        self.watch(id);
        if fresh {
            self.waker.wake();
        }
        Ok(id)
    }

    fn open_socket(&self, id: ChardevId, slot: &mut Slot, spec: &SocketSpec) -> Result<(), String> {
        let system = |error: io::Error| error_text(&error);
        if spec.server {
            let listener = socket::listen(spec)?;
            if spec.wait {
                eprintln!("thimble: waiting for a connection on {}", listener.address);
                let client = wait_for_client(&listener.fd).map_err(system)?;
                slot.connected(client, spec);
            }
            let interest = if slot.open {
                Interest::NONE
            } else {
                Interest::READ
            };
            self.poller
                .add(&listener.fd, self.token(id, Which::Listener), interest)
                .map_err(system)?;
            slot.listener = Some(listener);
        } else if spec.reconnect == 0 {
            slot.connected(socket::connect(spec)?, spec);
        } else {
            self.try_connect(id, slot, spec);
        }
        Ok(())
    }

    /// A place for one more user of the device with this id on the command line; whoever has the
    /// newest place of a shared device gets its input first. `None` if there is no such device, or its
    /// places are all taken.
    pub fn attach(&mut self, label: &str) -> Option<ChardevId> {
        let id = self.find(label)?;
        let slot = &mut self.slots[id.slot()];
        let Some(mux) = &mut slot.mux else {
            return Some(id);
        };
        if mux.used {
            if slot.ports.len() == USERS_MAX {
                return None;
            }
            slot.ports.push(Port::default());
        }
        mux.used = true;
        slot.focus = slot.ports.len() - 1;
        Some(id.at(slot.focus))
    }

    /// Whether a device can have several users.
    pub fn is_shared(&self, id: ChardevId) -> bool {
        self.slots[id.slot()].mux.is_some()
    }

    /// Whether this user of a device gets its input.
    pub fn has_focus(&self, id: ChardevId) -> bool {
        self.slots[id.slot()].focus == id.port()
    }

    /// The device with this id on the command line.
    pub fn find(&self, label: &str) -> Option<ChardevId> {
        self.slots
            .iter()
            .position(|slot| slot.label == label)
            .map(|index| ChardevId(index as u16))
    }

    /// Every device, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = ChardevId> + use<> {
        (0..self.slots.len() as u16).map(ChardevId)
    }

    /// The id on the command line.
    pub fn label(&self, id: ChardevId) -> &str {
        &self.slots[id.slot()].label
    }

    /// What the device is connected to.
    pub fn backend(&self, id: ChardevId) -> &Backend {
        &self.slots[id.slot()].backend
    }

    /// What the device is connected to, as query-chardev tells it.
    pub fn describe(&self, id: ChardevId) -> String {
        let slot = &self.slots[id.slot()];
        match &slot.backend {
            Backend::Null => "null".to_owned(),
            Backend::Pty => format!("pty:{}", slot.terminal),
            Backend::Serial { .. } => "serial".to_owned(),
            Backend::Stdio { .. } => "stdio".to_owned(),
            Backend::File { .. } => "file".to_owned(),
            Backend::Socket(socket) => {
                let address = slot
                    .listener
                    .as_ref()
                    .map_or(&socket.address, |listener| &listener.address);
                let prefix = if slot.open { "" } else { "disconnected:" };
                let server = if socket.server { ",server=on" } else { "" };
                match address {
                    Address::Tcp { address, .. } if socket.telnet => {
                        format!("{prefix}telnet:{address}{server}")
                    }
                    address => format!("{prefix}{address}{server}"),
                }
            }
        }
    }

    /// The TCP port that a server listens on, which the user may have left to the system.
    pub fn port(&self, id: ChardevId) -> Option<u16> {
        match &self.slots[id.slot()].listener.as_ref()?.address {
            Address::Tcp { address, .. } => Some(address.port()),
            _ => None,
        }
    }

    /// Whether there is someone at the other end.
    pub fn is_open(&self, id: ChardevId) -> bool {
        self.slots[id.slot()].open
    }

    /// Whether the connection has ended, and only the loop has to come by.
    pub fn is_doomed(&self, id: ChardevId) -> bool {
        self.slots[id.slot()].doomed
    }

    /// Bytes of output that wait.
    pub fn pending(&self, id: ChardevId) -> usize {
        self.slots[id.slot()].queue.len()
    }

    /// Bytes that [`Chardevs::write`] takes at least.
    pub fn room(&self, id: ChardevId) -> usize {
        self.slots[id.slot()].queue.room()
    }

    /// Writes without blocking and returns how many bytes were taken: written, queued, or dropped
    /// because nobody is at the other end. If not all were taken, [`Frontends::writable`] will
    /// be called.
    pub fn write(&mut self, id: ChardevId, bytes: &[u8]) -> usize {
        self.look(id);
        let slot = &mut self.slots[id.slot()];
        if !slot.can_write() {
            return bytes.len();
        }
        let taken = if slot.writes_plainly() {
            slot.write(bytes)
        } else {
            slot.write_encoded(bytes)
        };
        if let (Some(mux), Some(last)) = (&mut slot.mux, bytes[..taken].last()) {
            mux.wrote(*last);
        }
        if slot.doomed {
            self.waker.wake();
        }
        if taken < bytes.len()
            && let Some(port) = slot.ports.get_mut(id.port())
        {
            port.starved = true;
        }
        self.watch(id);
        let label = self.slots[id.slot()].label.as_bytes();
        events::chardev_write(bytes.len(), taken, label);
        taken
    }

    /// Stops or resumes the input of a device. While it is stopped nothing is read, so that the
    /// peer feels the back-pressure.
    pub fn pause_input(&mut self, id: ChardevId, paused: bool) {
        let slot = &mut self.slots[id.slot()];
        if let Some(port) = slot.ports.get_mut(id.port()) {
            port.paused = paused;
            if !paused && !port.rest.is_empty() {
                self.waker.wake();
            }
        }
        self.watch(id);
    }

    /// Whether a device is a socket, with or without a connection.
    pub fn is_socket(&self, id: ChardevId) -> bool {
        matches!(self.slots[id.slot()].backend, Backend::Socket(_))
    }

    /// Closes the connection of a device, with what waits for it, when the loop comes by; a
    /// server then listens again.
    pub fn hang_up(&mut self, id: ChardevId) {
        let slot = &mut self.slots[id.slot()];
        if slot.open {
            slot.doomed = true;
            self.waker.wake();
        }
    }

    /// Closes a device that nobody uses any more, and forgets its id.
    pub fn retire(&mut self, id: ChardevId) {
        self.hang_up(id);
        let slot = &mut self.slots[id.slot()];
        // Descriptors leave the poller as they are closed.
        (slot.listener, slot.timer) = (None, None);
        slot.label.clear();
    }

    /// Writes what waits, for as long as `timeout` nanoseconds at most: for the end of the
    /// process, when a reply or the guest's last words are still on their way.
    pub fn flush(&mut self, timeout: u64) {
        let end = std::time::Instant::now() + std::time::Duration::from_nanos(timeout);
        for id in self.ids() {
            loop {
                let slot = &mut self.slots[id.slot()];
                slot.drain();
                let left = end.saturating_duration_since(std::time::Instant::now());
                if slot.queue.is_empty() || slot.doomed || left.is_zero() {
                    break;
                }
                let Some(fd) = slot.write_fd() else { break };
                let mut fds = [rustix::event::PollFd::new(
                    &fd,
                    rustix::event::PollFlags::OUT,
                )];
                let timeout = rustix::event::Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                };
                if !matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1..)) {
                    break;
                }
            }
        }
    }

    /// Handles one report of the poller.
    pub fn ready<F: Frontends>(&mut self, token: u64, readiness: Readiness, frontends: &mut F) {
        if token == self.base | 0xffff_ffff {
            self.waker.drain();
            for id in self.ids() {
                self.catch_up(id, frontends);
            }
            return;
        }
        let index = (token & 0xffff_ffff) >> 2;
        if !self.owns(token) || index >= self.slots.len() as u64 {
            return;
        }
        let id = ChardevId(index as u16);
        match token & 3 {
            0 => self.input_ready(id, readiness, frontends),
            1 => self.output_ready(id, readiness, frontends),
            2 => self.accept(id, frontends),
            _ => {
                let slot = &mut self.slots[id.slot()];
                if let Some(timer) = slot.timer.take() {
                    let _ = self.poller.remove(&timer);
                    match slot.backend {
                        Backend::Pty => {
                            self.look(id);
                            self.schedule(id);
                            self.catch_up(id, frontends);
                        }
                        _ => self.reconnect(id, frontends),
                    }
                }
            }
        }
    }

    /// What was put off until the loop comes by.
    fn catch_up<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        if slot.fresh {
            self.opened(id, frontends);
        }
        let slot = &mut self.slots[id.slot()];
        if slot.doomed {
            self.disconnect(id, frontends);
            return;
        }
        for port in 0..slot.ports.len() {
            let Port { rest, paused, .. } = &mut self.slots[id.slot()].ports[port];
            if !*paused && !rest.is_empty() {
                let bytes = std::mem::take(rest);
                self.deliver(id.at(port), &bytes, frontends);
                self.watch(id);
            }
        }
    }

    /// A connection stands.
    fn opened<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        slot.fresh = false;
        let ports = slot.ports.len();
        if matches!(&slot.backend, Backend::Socket(spec) if spec.telnet && spec.server) {
            // The first bytes of a connection fit.
            slot.write(&telnet::OFFER);
        }
        self.watch(id);
        for port in 0..ports {
            frontends.opened(self, id.at(port));
        }
    }

    /// Notices that somebody has opened a pseudo-terminal.
    fn look(&mut self, id: ChardevId) {
        let slot = &mut self.slots[id.slot()];
        if matches!(slot.backend, Backend::Pty)
            && !slot.open
            && let Some(input) = &slot.input
            && pty::is_open(&input.fd)
        {
            slot.set_open();
            self.watch(id);
            self.waker.wake();
        }
    }

    fn input_ready<F: Frontends>(
        &mut self,
        id: ChardevId,
        readiness: Readiness,
        frontends: &mut F,
    ) {
        self.catch_up(id, frontends);
        let slot = &mut self.slots[id.slot()];
        if slot.connecting {
            let decided = slot
                .input
                .as_ref()
                .map(|input| sockopt::socket_error(&input.fd));
            match decided {
                Some(Ok(Ok(()))) => {
                    slot.connecting = false;
                    slot.open = true;
                    self.opened(id, frontends);
                }
                _ => self.disconnect(id, frontends),
            }
            return;
        }
        let waiting = self.pending(id) > 0;
        if readiness.write || readiness.hangup && waiting {
            self.output_ready(id, readiness, frontends);
        }
        if (readiness.read || readiness.hangup) && self.slots[id.slot()].reads() {
            self.read(id, frontends);
        }
    }

    fn output_ready<F: Frontends>(
        &mut self,
        id: ChardevId,
        readiness: Readiness,
        frontends: &mut F,
    ) {
        let slot = &mut self.slots[id.slot()];
        slot.drain();
        if slot.doomed || (readiness.hangup && slot.output.is_some() && !slot.queue.is_empty()) {
            self.disconnect(id, frontends);
            return;
        }
        let room = slot.queue.room() > 0;
        let ports = slot.ports.len();
        self.watch(id);
        for port in 0..ports {
            let starved = &mut self.slots[id.slot()].ports[port].starved;
            if room && std::mem::take(starved) {
                frontends.writable(self, id.at(port));
            }
        }
    }

    fn read<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        let Some(input) = &slot.input else { return };
        let mut buffer = [0; READ_MAX];
        let mut fds = Vec::new();
        let result = if slot.output.is_none() && matches!(slot.backend, Backend::Socket(_)) {
            receive(input.fd.as_fd(), &mut buffer, &mut fds)
        } else {
            rustix::io::read(&input.fd, &mut buffer)
        };
        let count = match result {
            Ok(0) => return self.disconnect(id, frontends),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.disconnect(id, frontends),
        };
        if !fds.is_empty() {
            frontends.received_fds(self, id, fds);
        }
        self.filter(id, &mut buffer[..count], frontends);
        self.watch(id);
    }

    /// Takes out of the input what is the connection's and the escape key's, and hands the rest over.
    fn filter<F: Frontends>(&mut self, id: ChardevId, bytes: &mut [u8], frontends: &mut F) {
        let slot = &self.slots[id.slot()];
        if slot.telnet.is_none() && slot.mux.is_none() {
            return self.deliver_to_focus(id, bytes, frontends);
        }
        let generation = slot.generation;
        let mut kept = 0;
        for index in 0..bytes.len() {
            let slot = &mut self.slots[id.slot()];
            let mut byte = bytes[index];
            let mut command = None;
            match slot.telnet.as_mut().map(|telnet| telnet.receive(byte)) {
                None => {}
                Some(Received::Byte(plain)) => byte = plain,
                Some(Received::Break) => command = Some(Command::Break),
                Some(Received::Nothing) => continue,
                Some(Received::Answer(answer)) => {
                    // A peer that does not read does not care for answers.
                    if slot.queue.room() >= answer.len() {
                        slot.write(&answer);
                    }
                    continue;
                }
            }
            if command.is_none() {
                let escaped = slot.mux.as_mut().map(|mux| mux.escape.feed(byte));
                let (plain, asked) = escaped.unwrap_or((Some(byte), None));
                command = asked;
                if let Some(plain) = plain {
                    bytes[kept] = plain;
                    kept += 1;
                }
            }
            if let Some(command) = command {
                self.deliver_to_focus(id, &bytes[..kept], frontends);
                kept = 0;
                self.command(id, command, frontends);
            }
            if self.slots[id.slot()].generation != generation {
                return;
            }
        }
        self.deliver_to_focus(id, &bytes[..kept], frontends);
    }

    fn deliver_to_focus<F: Frontends>(&mut self, id: ChardevId, bytes: &[u8], frontends: &mut F) {
        if !bytes.is_empty() {
            self.deliver(id.at(self.slots[id.slot()].focus), bytes, frontends);
        }
    }

    /// Does what the user has asked for with the escape key.
    fn command<F: Frontends>(&mut self, id: ChardevId, command: Command, frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        let focus = slot.focus;
        match command {
            Command::Break => frontends.line_break(self, id.at(focus)),
            Command::Quit => {
                slot.write(b"thimble: terminated\r\n");
                frontends.quit(self, id);
            }
            Command::Help => {
                let help = slot.mux.as_ref().map(|mux| mux.escape.help());
                // What does not fit is lost: it is for a user who does not read.
                self.write(id, help.unwrap_or_default().as_bytes());
            }
            Command::Timestamps => {
                if let Some(mux) = &mut slot.mux {
                    mux.toggle_stamps();
                }
            }
            Command::Switch => {
                let next = (focus + 1) % slot.ports.len();
                slot.focus = next;
                frontends.focus(self, id.at(focus), false);
                frontends.focus(self, id.at(next), true);
            }
        }
    }

    fn deliver<F: Frontends>(&mut self, id: ChardevId, bytes: &[u8], frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        let generation = slot.generation;
        // Shared devices are read on: what waits is not overtaken.
        if let Some(port) = slot.ports.get_mut(id.port())
            && (port.paused || !port.rest.is_empty())
        {
            port.rest.extend_from_slice(bytes);
            return;
        }
        let taken = frontends.received(self, id, bytes).min(bytes.len());
        let slot = &mut self.slots[id.slot()];
        if taken < bytes.len()
            && slot.generation == generation
            && let Some(port) = slot.ports.get_mut(id.port())
        {
            port.rest.extend_from_slice(&bytes[taken..]);
            port.paused = true;
        }
    }

    fn accept<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        let (Some(listener), Backend::Socket(spec)) = (&slot.listener, &slot.backend) else {
            return;
        };
        if slot.input.is_some() {
            return;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(client) = net::accept_with(&listener.fd, flags) else {
            // The client is gone again, or there is no descriptor left: it will be reported anew.
            return;
        };
        let spec = spec.clone();
        slot.connected(client, &spec);
        self.listen(id, false);
        self.opened(id, frontends);
    }

    /// Whether clients are accepted.
    fn listen(&self, id: ChardevId, on: bool) {
        if let Some(listener) = &self.slots[id.slot()].listener {
            let interest = if on { Interest::READ } else { Interest::NONE };
            let token = self.token(id, Which::Listener);
            let _ = self.poller.modify(&listener.fd, token, interest);
        }
    }

    fn disconnect<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[id.slot()];
        let was_open = slot.open;
        slot.generation = slot.generation.wrapping_add(1);
        slot.connecting = false;
        slot.fresh = false;
        slot.doomed = false;
        let is_pty = matches!(slot.backend, Backend::Pty);
        let ends = is_pty || matches!(slot.backend, Backend::Socket(_));
        for port in &mut slot.ports {
            port.paused = false;
            port.rest = Vec::new();
            port.starved &= !ends;
        }
        let ports = slot.ports.len();
        if let Some(input) = &mut slot.input
            && std::mem::replace(&mut input.interest, Interest::NONE) != Interest::NONE
        {
            let _ = self.poller.remove(&input.fd);
        }
        // A pseudo-terminal outlives who has opened it.
        slot.input.take_if(|_| !is_pty);
        if ends {
            slot.open = false;
            slot.queue.clear();
        }
        // The end of standard input or of an input file leaves the output usable.
        if was_open {
            for port in 0..ports {
                frontends.closed(self, id.at(port));
            }
        }
        self.listen(id, true);
        if ends {
            self.schedule(id);
        }
    }

    /// Arms the timer of a client that connects again, or of a pseudo-terminal that is not open.
    fn schedule(&mut self, id: ChardevId) {
        let token = self.token(id, Which::Timer);
        let slot = &mut self.slots[id.slot()];
        let seconds = match &slot.backend {
            Backend::Socket(spec) => spec.reconnect,
            Backend::Pty if !slot.open => PTY_LOOK,
            _ => 0,
        };
        if seconds != 0
            && slot.timer.is_none()
            && let Ok(timer) = socket::timer(seconds)
            && self.poller.add(&timer, token, Interest::READ).is_ok()
        {
            slot.timer = Some(timer);
        }
    }

    fn reconnect<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let index = id.slot();
        let Backend::Socket(spec) = self.slots[index].backend.clone() else {
            return;
        };
        match socket::connect_later(&spec) {
            Ok(Connecting::Done(fd)) => {
                self.slots[index].connected(fd, &spec);
                self.opened(id, frontends);
            }
            Ok(Connecting::Pending(fd)) => {
                self.slots[index].connecting(fd, &spec);
                self.watch(id);
            }
            Err(_) => self.schedule(id),
        }
    }

    /// The first attempt of a client that connects again; it may fail without harm.
    fn try_connect(&self, id: ChardevId, slot: &mut Slot, spec: &SocketSpec) {
        match socket::connect_later(spec) {
            Ok(Connecting::Done(fd)) => slot.connected(fd, spec),
            Ok(Connecting::Pending(fd)) => slot.connecting(fd, spec),
            Err(_) => {
                if let Ok(timer) = socket::timer(spec.reconnect) {
                    let token = self.token(id, Which::Timer);
                    let _ = self.poller.add(&timer, token, Interest::READ);
                    slot.timer = Some(timer);
                }
            }
        }
    }

    fn token(&self, id: ChardevId, which: Which) -> u64 {
        self.base | (id.slot() as u64) << 2 | which as u64
    }

    /// Brings what the poller waits for in line with the state of a device.
    fn watch(&mut self, id: ChardevId) {
        let tokens = [self.token(id, Which::Input), self.token(id, Which::Output)];
        let slot = &mut self.slots[id.slot()];
        let waiting = !slot.queue.is_empty();
        let separate = slot.output.is_some();
        let wanted = [
            Interest {
                read: slot.reads(),
                write: slot.connecting || waiting && !separate,
            },
            Interest {
                read: false,
                write: waiting,
            },
        ];
        for ((watched, token), wanted) in [&mut slot.input, &mut slot.output]
            .into_iter()
            .zip(tokens)
            .zip(wanted)
        {
            let Some(watched) = watched else { continue };
            if watched.interest == wanted {
                continue;
            }
            // epoll reports hang-ups even where nothing is asked for: a descriptor that nobody
            // waits for is taken out.
            let done = if watched.interest == Interest::NONE {
                self.poller.add(&watched.fd, token, wanted)
            } else if wanted == Interest::NONE {
                self.poller.remove(&watched.fd)
            } else {
                self.poller.modify(&watched.fd, token, wanted)
            };
            if done.is_ok() {
                watched.interest = wanted;
            }
        }
    }
}

impl Slot {
    fn set_open(&mut self) {
        self.open = true;
        self.fresh = true;
    }

    fn connected(&mut self, fd: OwnedFd, spec: &SocketSpec) {
        socket::prepare(&fd, spec);
        self.input = Some(unwatched(fd));
        self.connecting = false;
        self.speak(spec);
        self.set_open();
    }

    fn connecting(&mut self, fd: OwnedFd, spec: &SocketSpec) {
        self.input = Some(unwatched(fd));
        self.connecting = true;
        self.speak(spec);
    }

    /// Begins with the protocol of a new connection.
    fn speak(&mut self, spec: &SocketSpec) {
        self.telnet = match spec.server {
            _ if !spec.telnet => None,
            true => Some(Telnet::server()),
            false => Some(Telnet::client()),
        };
    }

    fn open_stdio(&mut self, signals: bool) -> io::Result<()> {
        self._raw = terminal::enter_raw(signals)?;
        let input = rustix::stdio::stdin();
        let output = rustix::stdio::stdout();
        // Standard input may be closed, or at its end like /dev/null: output works all the same.
        self.input = rustix::io::fcntl_dupfd_cloexec(input, 3)
            .ok()
            .map(unwatched);
        self.output = Some(unwatched(reopen(output)?));
        self.set_open();
        Ok(())
    }

    fn open_file(&mut self, path: &str, input: Option<&str>, append: bool) -> Result<(), String> {
        let failed = |path: &str, error: &io::Error| {
            format!("Could not open '{path}': {}", error_text(error))
        };
        let mut open = |path: &str, flags| {
            let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
            let opened = files::open(Path::new(path), flags);
            let (fd, lease) = opened.map_err(|error| failed(path, &error))?.into_parts();
            self._leases.extend(lease);
            Ok::<_, String>(unwatched(fd))
        };
        let start = match append {
            true => OFlags::APPEND,
            false => OFlags::TRUNC,
        };
        self.output = Some(open(path, OFlags::WRONLY | OFlags::CREATE | start)?);
        if let Some(input) = input {
            self.input = Some(open(input, OFlags::RDONLY)?);
        }
        self.set_open();
        Ok(())
    }

    fn open_serial(&mut self, path: &str) -> Result<(), String> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = files::open(Path::new(path), flags)
            .map_err(|error| format!("Could not open '{path}': {}", error_text(&error)))?;
        let (fd, lease) = opened.into_parts();
        self._leases.extend(lease);
        terminal::make_line(&fd);
        self.input = Some(unwatched(fd));
        self.set_open();
        Ok(())
    }

    /// Whether input is wanted now.
    fn reads(&self) -> bool {
        let Some(port) = self.ports.get(self.focus) else {
            return false;
        };
        let wanted = match &self.mux {
            None => !port.paused && port.rest.is_empty(),
            // Also for the escape key.
            Some(mux) => mux.used && port.rest.len() < mux::INPUT_MAX,
        };
        wanted && !self.connecting && (self.open || !matches!(self.backend, Backend::Pty))
    }

    /// Whether output is sent as it comes.
    fn writes_plainly(&self) -> bool {
        self.telnet.is_none() && !self.mux.as_ref().is_some_and(Mux::stamps)
    }

    /// Sends or queues bytes and returns how many.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.queue.is_empty() {
            taken = self.send(bytes);
        }
        if self.doomed {
            return bytes.len();
        }
        taken + self.queue.push(&bytes[taken..])
    }

    /// The same for bytes that become more on their way: as many as fit then, however little is sent
    /// at once.
    fn write_encoded(&mut self, bytes: &[u8]) -> usize {
        let room = self.queue.room();
        let mut wire = Vec::with_capacity(bytes.len());
        let mut taken = 0;
        for &byte in bytes {
            let stamp = self.mux.as_mut().map(Mux::stamp).unwrap_or_default();
            let doubled = self.telnet.is_some() && byte == telnet::IAC;
            if wire.len() + stamp.len() + 1 + usize::from(doubled) > room {
                break;
            }
            wire.extend_from_slice(stamp.as_bytes());
            wire.push(byte);
            if doubled {
                wire.push(byte);
            }
            if let Some(mux) = &mut self.mux {
                mux.wrote(byte);
            }
            taken += 1;
        }
        self.write(&wire);
        taken
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        let watched = self.output.as_ref().or(match self.backend {
            Backend::Socket(_) | Backend::Pty | Backend::Serial { .. } => self.input.as_ref(),
            _ => None,
        });
        watched.map(|watched| watched.fd.as_fd())
    }

    fn can_write(&self) -> bool {
        self.open && !self.doomed && self.write_fd().is_some()
    }

    /// Writes what can be written at once and returns how much was; a dead connection is doomed.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let Some(fd) = self.write_fd() else {
                return bytes.len();
            };
            let result = match self.backend {
                Backend::Socket(_) => net::send(
                    fd,
                    &bytes[sent..],
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                ),
                _ => write_plain(fd, &bytes[sent..]),
            };
            match result {
                Ok(0) | Err(Errno::AGAIN) => return sent,
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(_) if matches!(self.backend, Backend::Socket(_)) => {
                    self.doomed = true;
                    return sent;
                }
                Err(error) => {
                    // A full disk, a closed pipe: the guest goes on, its output is lost.
                    if !self.warned {
                        self.warned = true;
                        eprintln!(
                            "thimble: warning: chardev {}: output is lost: {}",
                            self.label,
                            error_text(&error.into())
                        );
                    }
                    return bytes.len();
                }
            }
        }
        sent
    }

    /// Writes from the queue.
    fn drain(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let mut queue = std::mem::take(&mut self.queue);
        let sent = self.send(queue.front());
        queue.pop(sent);
        self.queue = queue;
    }
}

impl Drop for Chardevs {
    fn drop(&mut self) {
        // The poller lives on without these descriptors. Closing does not take out those that
        // epoll refused, nor inherited ones that another process has open as well.
        for slot in &self.slots {
            if let Some(listener) = &slot.listener {
                let _ = self.poller.remove(&listener.fd);
            }
            for watched in [&slot.input, &slot.output].into_iter().flatten() {
                if watched.interest != Interest::NONE {
                    let _ = self.poller.remove(&watched.fd);
                }
            }
        }
        let _ = self.poller.remove(&self.waker);
    }
}

fn unwatched(fd: OwnedFd) -> Watched {
    Watched {
        fd,
        interest: Interest::NONE,
    }
}

/// Waits for the first client of a server.
fn wait_for_client(listener: &OwnedFd) -> io::Result<OwnedFd> {
    loop {
        let mut fds = [rustix::event::PollFd::new(
            listener,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match net::accept_with(listener, flags) {
            Ok(client) => return Ok(client),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A descriptor for the same terminal or pipe that does not block. The flag belongs to the open
/// file, which is shared with the shell that started us: it must not be set on the one we got.
/// Sockets and regular files can't be opened anew; for them a second number does.
fn reopen(fd: BorrowedFd<'static>) -> io::Result<OwnedFd> {
    let shared = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
    let kind = File::from(shared).metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let opened = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open("/proc/self/fd/1");
        if let Ok(file) = opened {
            return Ok(file.into());
        }
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Writes to something that may be a blocking descriptor: only what poll(2) says there is room
/// for. A pipe that is writable has room for PIPE_BUF bytes (pipe(7)).
fn write_plain(fd: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        fd,
        rustix::event::PollFlags::OUT,
    )];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if rustix::event::poll(&mut fds, Some(&now))? == 0 {
        return Err(Errno::AGAIN);
    }
    rustix::io::write(fd, &bytes[..bytes.len().min(libc::PIPE_BUF)])
}

/// Receives bytes and descriptors from a socket.
fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = net::recvmsg(fd, &mut parts, &mut control, flags)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            fds.extend(passed);
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests;
