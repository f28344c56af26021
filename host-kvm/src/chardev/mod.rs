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
//! Writes to regular files are direct, as the kernel buffers them; bytes for a full disk are
//! dropped with one warning.

mod escape;
mod queue;
mod socket;
pub mod spec;

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, sockopt,
};

use crate::descriptors::sets::Copy;
use crate::error_text;
use crate::event_loop::poller::{Interest, Poller, Readiness, Waker};
use crate::files::{self, OFlags};
use crate::terminal::{self, RawMode};
use escape::{Command, Escape};
use queue::Queue;
use socket::{Connecting, Listener};
use spec::{Address, Backend, ChardevSpec, SocketSpec};

pub use escape::DEFAULT_KEY as DEFAULT_ESCAPE_KEY;

/// Bytes read from a device in one go.
const READ_MAX: usize = 4096;

/// Descriptors that one message may pass; the kernel's SCM_MAX_FD is 253, of which the rest is
/// closed by the kernel.
const PASSED_MAX: usize = 16;

/// Character devices at most.
pub const CHARDEVS_MAX: usize = 256;

/// A character device that has been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChardevId(u16);

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
    /// `writable` is due when there is room.
    starved: bool,
    paused: bool,
    /// A failed write has been reported.
    warned: bool,
    /// Counts connections, so that input of an old one is not taken for the new one's.
    generation: u32,
    queue: Queue,
    /// Input that the frontend did not take.
    rest: Vec<u8>,
    escape: Option<Escape>,
    /// Keep the sets that its descriptors come from.
    _copies: Vec<Copy>,
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
            starved: false,
            paused: false,
            warned: false,
            generation: 0,
            queue: Queue::new(queue_max),
            rest: Vec::new(),
            escape: spec.mux.then(|| Escape::new(self.escape_key)),
            _copies: Vec::new(),
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
        &self.slots[usize::from(id.0)].label
    }

    /// What the device is connected to.
    pub fn backend(&self, id: ChardevId) -> &Backend {
        &self.slots[usize::from(id.0)].backend
    }

    /// What the device is connected to, as query-chardev tells it.
    pub fn describe(&self, id: ChardevId) -> String {
        let slot = &self.slots[usize::from(id.0)];
        match &slot.backend {
            Backend::Null => "null".to_owned(),
            Backend::Stdio { .. } => "stdio".to_owned(),
            Backend::File { .. } => "file".to_owned(),
            Backend::Socket(socket) => {
                let address = slot
                    .listener
                    .as_ref()
                    .map_or(&socket.address, |listener| &listener.address);
                let prefix = if slot.open { "" } else { "disconnected:" };
                let server = if socket.server { ",server=on" } else { "" };
                format!("{prefix}{address}{server}")
            }
        }
    }

    /// The TCP port that a server listens on, which the user may have left to the system.
    pub fn port(&self, id: ChardevId) -> Option<u16> {
        match &self.slots[usize::from(id.0)].listener.as_ref()?.address {
            Address::Tcp { address, .. } => Some(address.port()),
            _ => None,
        }
    }

    /// Whether there is someone at the other end.
    pub fn is_open(&self, id: ChardevId) -> bool {
        self.slots[usize::from(id.0)].open
    }

    /// Bytes of output that wait.
    pub fn pending(&self, id: ChardevId) -> usize {
        self.slots[usize::from(id.0)].queue.len()
    }

    /// Bytes that [`Chardevs::write`] takes at least.
    pub fn room(&self, id: ChardevId) -> usize {
        self.slots[usize::from(id.0)].queue.room()
    }

    /// Writes without blocking and returns how many bytes were taken: written, queued, or dropped
    /// because nobody is at the other end. If not all were taken, [`Frontends::writable`] will
    /// be called.
    pub fn write(&mut self, id: ChardevId, bytes: &[u8]) -> usize {
        let slot = &mut self.slots[usize::from(id.0)];
        if !slot.can_write() {
            return bytes.len();
        }
        let mut taken = 0;
        if slot.queue.is_empty() {
            taken = slot.send(bytes);
        }
        if !slot.doomed {
            taken += slot.queue.push(&bytes[taken..]);
            slot.starved |= taken < bytes.len();
        } else {
            taken = bytes.len();
            self.waker.wake();
        }
        self.watch(id);
        taken
    }

    /// Stops or resumes the input of a device. While it is stopped nothing is read, so that the
    /// peer feels the back-pressure.
    pub fn pause_input(&mut self, id: ChardevId, paused: bool) {
        let slot = &mut self.slots[usize::from(id.0)];
        slot.paused = paused;
        if !paused && !slot.rest.is_empty() {
            self.waker.wake();
        }
        self.watch(id);
    }

    /// Whether a device is a socket, with or without a connection.
    pub fn is_socket(&self, id: ChardevId) -> bool {
        matches!(self.slots[usize::from(id.0)].backend, Backend::Socket(_))
    }

    /// Closes the connection of a device, with what waits for it, when the loop comes by; a
    /// server then listens again.
    pub fn hang_up(&mut self, id: ChardevId) {
        let slot = &mut self.slots[usize::from(id.0)];
        if slot.open {
            slot.doomed = true;
            self.waker.wake();
        }
    }

    /// Writes what waits, for as long as `timeout` nanoseconds at most: for the end of the
    /// process, when a reply or the guest's last words are still on their way.
    pub fn flush(&mut self, timeout: u64) {
        let end = std::time::Instant::now() + std::time::Duration::from_nanos(timeout);
        for id in self.ids() {
            loop {
                let slot = &mut self.slots[usize::from(id.0)];
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
                let slot = &mut self.slots[usize::from(id.0)];
                if let Some(timer) = slot.timer.take() {
                    let _ = self.poller.remove(&timer);
                    self.reconnect(id, frontends);
                }
            }
        }
    }

    /// What was put off until the loop comes by.
    fn catch_up<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[usize::from(id.0)];
        if slot.fresh {
            slot.fresh = false;
            frontends.opened(self, id);
        }
        let slot = &mut self.slots[usize::from(id.0)];
        if slot.doomed {
            self.disconnect(id, frontends);
            return;
        }
        if !slot.paused && !slot.rest.is_empty() {
            let bytes = std::mem::take(&mut slot.rest);
            self.deliver(id, &bytes, frontends);
            self.watch(id);
        }
    }

    fn input_ready<F: Frontends>(
        &mut self,
        id: ChardevId,
        readiness: Readiness,
        frontends: &mut F,
    ) {
        self.catch_up(id, frontends);
        let slot = &mut self.slots[usize::from(id.0)];
        if slot.connecting {
            let decided = slot
                .input
                .as_ref()
                .map(|input| sockopt::socket_error(&input.fd));
            match decided {
                Some(Ok(Ok(()))) => {
                    slot.connecting = false;
                    slot.open = true;
                    self.watch(id);
                    frontends.opened(self, id);
                }
                _ => self.disconnect(id, frontends),
            }
            return;
        }
        let waiting = self.pending(id) > 0;
        if readiness.write || readiness.hangup && waiting {
            self.output_ready(id, readiness, frontends);
        }
        if (readiness.read || readiness.hangup) && self.slots[usize::from(id.0)].reads() {
            self.read(id, frontends);
        }
    }

    fn output_ready<F: Frontends>(
        &mut self,
        id: ChardevId,
        readiness: Readiness,
        frontends: &mut F,
    ) {
        let slot = &mut self.slots[usize::from(id.0)];
        slot.drain();
        if slot.doomed || (readiness.hangup && slot.output.is_some() && !slot.queue.is_empty()) {
            self.disconnect(id, frontends);
            return;
        }
        let tell = slot.starved && slot.queue.room() > 0;
        if tell {
            slot.starved = false;
        }
        self.watch(id);
        if tell {
            frontends.writable(self, id);
        }
    }

    fn read<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[usize::from(id.0)];
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

    /// Takes the escape key and its commands out of the input.
    fn filter<F: Frontends>(&mut self, id: ChardevId, bytes: &mut [u8], frontends: &mut F) {
        let slot = &mut self.slots[usize::from(id.0)];
        let Some(mut escape) = slot.escape.take() else {
            return self.deliver(id, bytes, frontends);
        };
        let mut kept = 0;
        let mut commands = Vec::new();
        for index in 0..bytes.len() {
            let (byte, command) = escape.feed(bytes[index]);
            if let Some(byte) = byte {
                bytes[kept] = byte;
                kept += 1;
            }
            commands.extend(command);
        }
        let messages: Vec<_> = commands.iter().map(|c| escape.message(*c)).collect();
        slot.escape = Some(escape);
        if kept > 0 {
            self.deliver(id, &bytes[..kept], frontends);
        }
        for (command, message) in commands.into_iter().zip(messages) {
            // What does not fit is lost: it is for a user who does not read.
            self.write(id, message.as_bytes());
            if command == Command::Quit {
                frontends.quit(self, id);
            }
        }
    }

    fn deliver<F: Frontends>(&mut self, id: ChardevId, bytes: &[u8], frontends: &mut F) {
        let generation = self.slots[usize::from(id.0)].generation;
        let taken = frontends.received(self, id, bytes).min(bytes.len());
        let slot = &mut self.slots[usize::from(id.0)];
        if taken < bytes.len() && slot.generation == generation {
            slot.rest.extend_from_slice(&bytes[taken..]);
            slot.paused = true;
        }
    }

    fn accept<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[usize::from(id.0)];
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
        slot.fresh = false;
        self.listen(id, false);
        self.watch(id);
        frontends.opened(self, id);
    }

    /// Whether clients are accepted.
    fn listen(&self, id: ChardevId, on: bool) {
        if let Some(listener) = &self.slots[usize::from(id.0)].listener {
            let interest = if on { Interest::READ } else { Interest::NONE };
            let token = self.token(id, Which::Listener);
            let _ = self.poller.modify(&listener.fd, token, interest);
        }
    }

    fn disconnect<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let slot = &mut self.slots[usize::from(id.0)];
        let was_open = slot.open;
        slot.generation = slot.generation.wrapping_add(1);
        slot.connecting = false;
        slot.fresh = false;
        slot.doomed = false;
        slot.paused = false;
        slot.rest = Vec::new();
        if let Some(input) = slot.input.take()
            && input.interest != Interest::NONE
        {
            let _ = self.poller.remove(&input.fd);
        }
        let is_socket = matches!(slot.backend, Backend::Socket(_));
        if is_socket {
            slot.open = false;
            slot.starved = false;
            slot.queue.clear();
        }
        // The end of standard input or of an input file leaves the output usable.
        if was_open {
            frontends.closed(self, id);
        }
        self.listen(id, true);
        if is_socket {
            self.schedule(id);
        }
    }

    /// Arms the timer of a client that connects again.
    fn schedule(&mut self, id: ChardevId) {
        let token = self.token(id, Which::Timer);
        let slot = &mut self.slots[usize::from(id.0)];
        if let Backend::Socket(spec) = &slot.backend
            && spec.reconnect != 0
            && slot.timer.is_none()
            && let Ok(timer) = socket::timer(spec.reconnect)
            && self.poller.add(&timer, token, Interest::READ).is_ok()
        {
            slot.timer = Some(timer);
        }
    }

    fn reconnect<F: Frontends>(&mut self, id: ChardevId, frontends: &mut F) {
        let index = usize::from(id.0);
        let Backend::Socket(spec) = self.slots[index].backend.clone() else {
            return;
        };
        match socket::connect_later(&spec) {
            Ok(Connecting::Done(fd)) => {
                self.slots[index].connected(fd, &spec);
                self.slots[index].fresh = false;
                self.watch(id);
                frontends.opened(self, id);
            }
            Ok(Connecting::Pending(fd)) => {
                self.slots[index].connecting(fd);
                self.watch(id);
            }
            Err(_) => self.schedule(id),
        }
    }

    /// The first attempt of a client that connects again; it may fail without harm.
    fn try_connect(&self, id: ChardevId, slot: &mut Slot, spec: &SocketSpec) {
        match socket::connect_later(spec) {
            Ok(Connecting::Done(fd)) => slot.connected(fd, spec),
            Ok(Connecting::Pending(fd)) => slot.connecting(fd),
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
        self.base | u64::from(id.0) << 2 | which as u64
    }

    /// Brings what the poller waits for in line with the state of a device.
    fn watch(&mut self, id: ChardevId) {
        let tokens = [self.token(id, Which::Input), self.token(id, Which::Output)];
        let slot = &mut self.slots[usize::from(id.0)];
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
        self.set_open();
    }

    fn connecting(&mut self, fd: OwnedFd) {
        self.input = Some(unwatched(fd));
        self.connecting = true;
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
            let (fd, copy) = opened.map_err(|error| failed(path, &error))?.into_parts();
            self._copies.extend(copy);
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

    /// Whether input is wanted now.
    fn reads(&self) -> bool {
        !self.paused && self.rest.is_empty() && !self.connecting
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        let watched = self.output.as_ref().or(match self.backend {
            Backend::Socket(_) => self.input.as_ref(),
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
