//! The debugger's stub: gdb's remote serial protocol on one connection.
//!
//! Sans-IO: a [`Session`] takes bytes, acts on an [`Owner`], and writes bytes into the sink that its caller lends. Whenever
//! the VM may have stopped, [`Session::settle`] tells the debugger that waits for it.
//!
//! Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol"; error numbers, the order of things at a connection,
//! and what is there of `qqemu.` are QEMU 7.2's, as observed. A processor is a thread of process 1; addresses are linear,
//! by the page tables of the thread that `Hg` has chosen, or physical after `Qqemu.PhyMemMode:1`.
//!
//! A packet that comes while the VM runs stops it. `?` takes all breakpoints away, as a debugger asks it first of all.
//! Setting a breakpoint that is set, or removing one that is not, is a success, as the manual asks for.
//!
//! Not modelled: non-stop mode, extended mode (`!`, `R`, `vRun`, `vAttach`), reverse execution, file I/O, conditions of
//! breakpoints on this side.

mod memory;
mod registers;
mod run;
#[cfg(test)]
mod tests;

pub use memory::translate;

use core::fmt::{self, Write};

use thimble_core::cpu::debugger::{Break, Breakpoint, Hit, WatchKind, Watchpoint};
use thimble_core::formats::gdb::{self, Decoder, Direction, Item, PACKET_MAX};
use thimble_core::machine::RunState;
use thimble_core::qmp::{Sink, SinkFull};

use crate::hmp::{self, Text};
use crate::{JobId, Outcome, Owner, QmpError, Stepping};

/// Bytes of an answer.
type Answer = heapless::Vec<u8, PACKET_MAX>;

/// Bytes of memory in one packet, as two digits each.
const MEMORY_MAX: usize = PACKET_MAX / 2;

/// Bytes of the human monitor's text in one packet.
const CONSOLE_MAX: usize = 512;

/// Bits of `qqemu.sstep`.
mod sstep {
    pub(super) const ENABLE: u64 = 1;
    pub(super) const NOIRQ: u64 = 2;
    pub(super) const NOTIMER: u64 = 4;
}

/// Signals by gdb's numbers, with which it is told why the VM stands still.
mod signal {
    pub(super) const INT: u8 = 2;
    pub(super) const QUIT: u8 = 3;
    pub(super) const TRAP: u8 = 5;
    pub(super) const ABRT: u8 = 6;
    pub(super) const ALRM: u8 = 14;
}

/// What a packet can't have: the number goes to the debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// EPERM: the monitor's command is no text.
    Text,
    /// EFAULT: nothing is there.
    Address,
    /// EINVAL: arguments that don't parse, or are out of range.
    Arguments,
    /// The annex of a `qXfer` does not exist.
    Annex,
    /// The packet is not known: the answer is empty.
    Unknown,
}

impl From<SinkFull> for Wrong {
    fn from(_: SinkFull) -> Self {
        Self::Arguments
    }
}

/// What a packet leads to.
enum Next {
    /// What was composed is sent.
    Send,
    /// Nothing is sent until the VM stops.
    Wait,
    /// Nothing is sent.
    Nothing,
    /// The answer is sent when the monitor's command is done.
    Pending(JobId),
}

type Done = Result<Next, Wrong>;

/// Which threads are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    All,
    Any,
    /// A processor's index.
    One(u32),
}

/// What the debugger has chosen.
#[derive(Default)]
struct Choices {
    /// Whose registers and memory are meant.
    general: u32,
    /// Who is stepped, where it is another one.
    control: Option<u32>,
    /// Thread ids are to have a process before them.
    multiprocess: bool,
    /// It asks to be told which kind of breakpoint was hit.
    tells_breaks: bool,
    /// Addresses of memory are physical.
    physical: bool,
    stepping: Option<Stepping>,
    /// The first thread that `qsThreadInfo` has not told of.
    next_thread: u32,
    /// Acknowledgments are to end with this packet.
    unacknowledged: bool,
}

/// One connection.
pub struct Session {
    decoder: Decoder,
    answer: Answer,
    connected: bool,
    acknowledges: bool,
    /// The debugger expects to be told when the VM stops.
    waiting: bool,
    /// The monitor's command that goes on in the background, and whose end is the answer.
    job: Option<JobId>,
    choices: Choices,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Nobody is there yet.
    pub const fn new() -> Self {
        Self {
            decoder: Decoder::new(Direction::Requests),
            answer: Answer::new(),
            connected: false,
            acknowledges: true,
            waiting: false,
            job: None,
            choices: Choices {
                general: 0,
                control: None,
                multiprocess: false,
                tells_breaks: false,
                physical: false,
                stepping: None,
                next_thread: 0,
                unacknowledged: false,
            },
        }
    }

    /// A debugger has connected: the VM stops.
    pub fn open(&mut self, owner: &mut dyn Owner) {
        *self = Self::new();
        self.connected = true;
        // A VM that can't be stopped stops at the first packet, or never.
        let _ = owner.stop();
    }

    /// The debugger is gone: what it has set is taken away, and the VM left as it is.
    pub fn close(&mut self, owner: &mut dyn Owner) {
        if core::mem::take(&mut self.connected) {
            owner.clear_breaks();
        }
    }

    /// Whether a debugger has connected.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Takes input and acts on it.
    ///
    /// # Errors
    /// If the sink is full: the connection is to be closed.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        owner: &mut dyn Owner,
        out: &mut dyn Sink,
    ) -> Result<(), SinkFull> {
        for byte in bytes {
            match self.decoder.push(*byte) {
                None | Some(Item::Ack) => {}
                Some(Item::Nak) => gdb::encode(&self.answer, out)?,
                Some(Item::BadSum) if self.acknowledges => out.put(b"-")?,
                // Without acknowledgments sums mean nothing.
                Some(Item::Packet | Item::BadSum) => self.packet(owner, out)?,
                Some(Item::TooLong) => {
                    self.acknowledge(out)?;
                    self.answer.clear();
                    self.compose(Err(Wrong::Arguments));
                    gdb::encode(&self.answer, out)?;
                }
                Some(Item::Interrupt) => {
                    if owner.run_state() == RunState::Running {
                        let _ = owner.stop();
                    }
                    self.settle(owner, out)?;
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&self, out: &mut dyn Sink) -> Result<(), SinkFull> {
        match self.acknowledges {
            true => out.put(b"+"),
            false => Ok(()),
        }
    }

    /// Tells the debugger that the VM has stopped, if it has and the debugger waits for it.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn settle(&mut self, owner: &mut dyn Owner, out: &mut dyn Sink) -> Result<(), SinkFull> {
        // A guest that sleeps goes on by itself some time, as one that waits for an interrupt does.
        let goes_on = matches!(owner.run_state(), RunState::Running | RunState::Suspended);
        if !self.connected || !self.waiting || goes_on {
            return Ok(());
        }
        self.waiting = false;
        self.answer.clear();
        // It fits.
        let _ = stopped(&mut self.choices, owner, &mut self.answer);
        gdb::encode(&self.answer, out)
    }

    /// Tells the debugger, if it waits, that the process is about to end.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn exit(&mut self, status: u8, out: &mut dyn Sink) -> Result<(), SinkFull> {
        if !self.connected || !self.waiting {
            return Ok(());
        }
        self.waiting = false;
        let [high, low] = [status >> 4, status & 15].map(gdb::hex_digit);
        gdb::encode(&[b'W', high, low], out)
    }

    /// The monitor's command that goes on in the background.
    pub fn pending(&self) -> Option<JobId> {
        self.job
    }

    /// Answers the monitor's command that went on in the background.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn complete(
        &mut self,
        result: &Result<(), QmpError>,
        out: &mut dyn Sink,
    ) -> Result<(), SinkFull> {
        if self.job.take().is_none() {
            return Ok(());
        }
        let mut console = Console {
            out,
            gathered: heapless::Vec::new(),
        };
        hmp::complete(result, &mut Text::new(&mut console))?;
        console.flush()?;
        self.answer.clear();
        self.answer.put(b"OK")?;
        gdb::encode(&self.answer, out)
    }

    /// Acts on the packet that has come.
    fn packet(&mut self, owner: &mut dyn Owner, out: &mut dyn Sink) -> Result<(), SinkFull> {
        self.acknowledge(out)?;
        (self.waiting, self.job) = (false, None);
        if owner.run_state() == RunState::Running {
            // Nothing can be looked at before.
            let _ = owner.stop();
        }
        self.answer.clear();
        let packet = self.decoder.packet();
        let mut call = Call {
            choices: &mut self.choices,
            owner,
            answer: &mut self.answer,
            out,
            lost: false,
        };
        let done = call.packet(packet);
        if call.lost {
            return Err(SinkFull);
        }
        match done {
            Ok(Next::Wait) => {
                self.waiting = true;
                return self.settle(owner, out);
            }
            Ok(Next::Nothing) => return Ok(()),
            Ok(Next::Pending(job)) => {
                self.job = Some(job);
                return Ok(());
            }
            done => self.compose(done),
        }
        gdb::encode(&self.answer, out)?;
        if core::mem::take(&mut self.choices.unacknowledged) {
            self.acknowledges = false;
        }
        Ok(())
    }

    /// Composes the answer to what can't be done.
    fn compose(&mut self, done: Done) {
        let text: &[u8] = match done {
            Ok(_) => return,
            Err(Wrong::Text) => b"E01",
            Err(Wrong::Address) => b"E14",
            Err(Wrong::Arguments) => b"E22",
            Err(Wrong::Annex) => b"E00",
            Err(Wrong::Unknown) => b"",
        };
        self.answer.clear();
        // It fits.
        let _ = self.answer.put(text);
    }
}

/// Writes text into an answer.
struct Paper<'a>(&'a mut Answer);

impl Write for Paper<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.put(text.as_bytes()).map_err(|SinkFull| fmt::Error)
    }
}

/// Writes a thread's id, as QEMU does: numbers have two digits at least.
fn put_thread(choices: &Choices, index: u32, answer: &mut Answer) -> Result<(), SinkFull> {
    let process = if choices.multiprocess { "p01." } else { "" };
    write!(Paper(answer), "{process}{:02x}", u64::from(index) + 1).map_err(|fmt::Error| SinkFull)
}

/// Composes why the VM stands still.
fn stopped(
    choices: &mut Choices,
    owner: &mut dyn Owner,
    answer: &mut Answer,
) -> Result<(), SinkFull> {
    let stop = owner.take_debug_stop();
    let signal = match owner.run_state() {
        _ if stop.is_some() => signal::TRAP,
        RunState::Paused | RunState::SaveVm => signal::INT,
        RunState::Shutdown => signal::QUIT,
        RunState::InternalError | RunState::GuestPanicked => signal::ABRT,
        RunState::Watchdog => signal::ALRM,
        RunState::Debug | RunState::Prelaunch | RunState::Running | RunState::Suspended => {
            signal::TRAP
        }
    };
    if let Some(stop) = stop {
        choices.general = stop.cpu;
        choices.control = Some(stop.cpu);
    }
    write!(Paper(answer), "T{signal:02x}thread:").map_err(|fmt::Error| SinkFull)?;
    put_thread(choices, choices.general, answer)?;
    answer.put(b";")?;
    match stop.map(|stop| stop.hit) {
        Some(Hit::Watchpoint(kind, address)) => {
            let name = match kind {
                WatchKind::Write => "watch",
                WatchKind::Read => "rwatch",
                WatchKind::Access => "awatch",
            };
            write!(Paper(answer), "{name}:{address:016x};").map_err(|fmt::Error| SinkFull)
        }
        Some(Hit::Breakpoint(at)) if choices.tells_breaks => {
            // Behind a segment that does not begin at 0 the debugger sees another address, and would go on at once if it were
            // told of a breakpoint that it does not know.
            let registers = owner.registers(choices.general);
            if registers.is_ok_and(|registers| registers.rip != at.address) {
                return Ok(());
            }
            match at.hardware {
                true => answer.put(b"hwbreak:;"),
                false => answer.put(b"swbreak:;"),
            }
        }
        Some(Hit::Breakpoint(_) | Hit::Step) | None => Ok(()),
    }
}

/// A packet being acted on.
struct Call<'c> {
    choices: &'c mut Choices,
    owner: &'c mut dyn Owner,
    answer: &'c mut Answer,
    /// For what is sent before the answer.
    out: &'c mut dyn Sink,
    /// `out` was full.
    lost: bool,
}

impl Call<'_> {
    fn packet(&mut self, packet: &[u8]) -> Done {
        let Some((&letter, rest)) = packet.split_first() else {
            return Err(Wrong::Unknown);
        };
        match letter {
            b'?' => {
                self.owner.clear_breaks();
                stopped(self.choices, self.owner, self.answer)?;
                Ok(Next::Send)
            }
            b'g' => self.registers(),
            b'G' => self.set_registers(rest),
            b'p' => self.register(rest),
            b'P' => self.set_register(rest),
            b'm' => self.read_memory(rest),
            b'M' => self.write_memory(rest, false),
            b'X' => self.write_memory(rest, true),
            b'c' | b'C' | b's' | b'S' => self.resume(letter, rest),
            b'H' => self.choose_thread(rest),
            b'T' => match self.thread(rest)? {
                (Thread::One(_), _) => self.ok(),
                _ => Err(Wrong::Arguments),
            },
            b'Z' | b'z' => self.set_break(rest, letter == b'Z'),
            b'D' => self.detach(rest),
            b'k' => {
                self.owner.kill();
                Ok(Next::Nothing)
            }
            b'q' | b'Q' => self.query(packet),
            b'v' => self.named(packet),
            _ => Err(Wrong::Unknown),
        }
    }

    fn text(&mut self, text: &[u8]) -> Done {
        self.answer.put(text)?;
        Ok(Next::Send)
    }

    fn ok(&mut self) -> Done {
        self.text(b"OK")
    }

    fn print(&mut self, text: fmt::Arguments<'_>) -> Done {
        Paper(self.answer)
            .write_fmt(text)
            .map_err(|fmt::Error| Wrong::Arguments)?;
        Ok(Next::Send)
    }

    /// Takes a thread's id from the front of a text.
    fn thread<'t>(&self, text: &'t [u8]) -> Result<(Thread, &'t [u8]), Wrong> {
        let (thread, rest) = match text.strip_prefix(b"p") {
            Some(text) => {
                let (process, rest) = id(text)?;
                if !matches!(process, Some(0 | 1) | None) {
                    return Err(Wrong::Arguments);
                }
                match rest.strip_prefix(b".") {
                    Some(rest) => id(rest)?,
                    None => (None, rest),
                }
            }
            None => id(text)?,
        };
        let thread = match thread {
            None => Thread::All,
            Some(0) => Thread::Any,
            Some(number) => {
                let index = u32::try_from(number - 1).map_err(|_| Wrong::Arguments)?;
                if index >= self.owner.cpus() {
                    return Err(Wrong::Arguments);
                }
                Thread::One(index)
            }
        };
        Ok((thread, rest))
    }

    fn choose_thread(&mut self, text: &[u8]) -> Done {
        let (operation, text) = text.split_first().ok_or(Wrong::Arguments)?;
        let (thread, rest) = self.thread(text)?;
        if !rest.is_empty() {
            return Err(Wrong::Arguments);
        }
        match (operation, thread) {
            (b'c', Thread::One(index)) => self.choices.control = Some(index),
            (b'c', _) => self.choices.control = None,
            (b'g', Thread::One(index)) => self.choices.general = index,
            (b'g', Thread::Any) => self.choices.general = 0,
            (b'g', Thread::All) => {}
            _ => return Err(Wrong::Arguments),
        }
        self.ok()
    }

    /// All registers.
    fn registers(&mut self) -> Done {
        let answer = &mut *self.answer;
        let mut put = Ok(());
        let looked = self
            .owner
            .look_at_processor(self.choices.general, &mut |state| {
                for number in 0..registers::COUNT {
                    if put.is_ok() {
                        put = put_register(state, number, answer);
                    }
                }
            });
        put?;
        looked.map(|()| Next::Send).map_err(|_| Wrong::Address)
    }

    fn register(&mut self, text: &[u8]) -> Done {
        let number = match gdb::number(text) {
            Some((number, [])) => usize::try_from(number).map_err(|_| Wrong::Address)?,
            _ => return Err(Wrong::Arguments),
        };
        registers::size(number).ok_or(Wrong::Address)?;
        let answer = &mut *self.answer;
        let mut put = Ok(());
        let looked = self
            .owner
            .look_at_processor(self.choices.general, &mut |state| {
                put = put_register(state, number, answer);
            });
        put?;
        looked.map(|()| Next::Send).map_err(|_| Wrong::Address)
    }

    fn set_registers(&mut self, text: &[u8]) -> Done {
        let mut all = [0; registers::BYTES];
        match gdb::bytes(text, &mut all) {
            Some([]) => {}
            _ => return Err(Wrong::Arguments),
        }
        let mut rest = &all[..];
        let mut taken = true;
        let set = self
            .owner
            .change_processor(self.choices.general, &mut |state| {
                rest = &all;
                for number in 0..registers::COUNT {
                    let size = registers::size(number).unwrap_or(0);
                    let (value, behind) = rest.split_at(size.min(rest.len()));
                    taken &= registers::set(state, number, value_of(value));
                    rest = behind;
                }
                taken
            });
        if !set || !taken {
            return Err(Wrong::Arguments);
        }
        self.ok()
    }

    fn set_register(&mut self, text: &[u8]) -> Done {
        let (number, text) = gdb::number(text).ok_or(Wrong::Arguments)?;
        let text = text.strip_prefix(b"=").ok_or(Wrong::Arguments)?;
        let number = usize::try_from(number).map_err(|_| Wrong::Address)?;
        let size = registers::size(number).ok_or(Wrong::Address)?;
        let mut value = [0; registers::WIDEST];
        match gdb::bytes(text, &mut value[..size]) {
            Some([]) => {}
            _ => return Err(Wrong::Arguments),
        }
        let mut taken = true;
        let set = self
            .owner
            .change_processor(self.choices.general, &mut |state| {
                taken = registers::set(state, number, value_of(&value[..size]));
                taken
            });
        if !set || !taken {
            return Err(Wrong::Arguments);
        }
        self.ok()
    }

    /// `ADDRESS,LENGTH`, and what is behind.
    fn range<'t>(&self, text: &'t [u8]) -> Result<(u64, u64, &'t [u8]), Wrong> {
        let (address, text) = gdb::number(text).ok_or(Wrong::Arguments)?;
        let text = text.strip_prefix(b",").ok_or(Wrong::Arguments)?;
        let (length, text) = gdb::number(text).ok_or(Wrong::Arguments)?;
        Ok((address, length, text))
    }

    fn read_memory(&mut self, text: &[u8]) -> Done {
        let (address, length, rest) = self.range(text)?;
        let length = usize::try_from(length).map_err(|_| Wrong::Arguments)?;
        let mut bytes = [0; MEMORY_MAX];
        let bytes = bytes.get_mut(..length).ok_or(Wrong::Arguments)?;
        if !rest.is_empty() {
            return Err(Wrong::Arguments);
        }
        if !memory::read(self.owner, self.choices, address, bytes) {
            return Err(Wrong::Address);
        }
        gdb::put_bytes(bytes, self.answer)?;
        Ok(Next::Send)
    }

    fn write_memory(&mut self, text: &[u8], binary: bool) -> Done {
        let (address, length, text) = self.range(text)?;
        let text = text.strip_prefix(b":").ok_or(Wrong::Arguments)?;
        let length = usize::try_from(length).map_err(|_| Wrong::Arguments)?;
        let mut bytes = [0; MEMORY_MAX];
        let bytes = match binary {
            true if text.len() == length => text,
            true => return Err(Wrong::Arguments),
            false => {
                let bytes = bytes.get_mut(..length).ok_or(Wrong::Arguments)?;
                match gdb::bytes(text, bytes) {
                    Some([]) => bytes,
                    _ => return Err(Wrong::Arguments),
                }
            }
        };
        if !memory::write(self.owner, self.choices, address, bytes) {
            return Err(Wrong::Address);
        }
        self.ok()
    }

    /// `TYPE,ADDRESS,KIND`.
    fn set_break(&mut self, text: &[u8], set: bool) -> Done {
        let (kind, text) = gdb::number(text).ok_or(Wrong::Arguments)?;
        let text = text.strip_prefix(b",").ok_or(Wrong::Arguments)?;
        let (address, length, _) = self.range(text)?;
        let watch = |kind| {
            Break::Data(Watchpoint {
                kind,
                address,
                length,
            })
        };
        let what = match kind {
            0 | 1 => Break::Code(Breakpoint {
                address,
                hardware: kind == 1,
            }),
            2 => watch(WatchKind::Write),
            3 => watch(WatchKind::Read),
            4 => watch(WatchKind::Access),
            _ => return Err(Wrong::Unknown),
        };
        if set {
            self.owner
                .set_break(self.choices.general, what)
                .map_err(|_| Wrong::Arguments)?;
        } else {
            self.owner.remove_break(what);
        }
        self.ok()
    }

    /// Packets that begin with a word.
    fn query(&mut self, packet: &[u8]) -> Done {
        let is = |name: &[u8]| packet == name;
        let behind = |name: &[u8]| packet.strip_prefix(name);
        if let Some(features) = behind(b"qSupported") {
            return self.supported(features);
        }
        if is(b"QStartNoAckMode") {
            self.choices.unacknowledged = true;
            return self.ok();
        }
        if let Some(text) = behind(b"qXfer:features:read:") {
            return self.description(text);
        }
        if is(b"qfThreadInfo") {
            self.choices.next_thread = 0;
            return self.list_threads();
        }
        if is(b"qsThreadInfo") {
            return self.list_threads();
        }
        if let Some(text) = behind(b"qThreadExtraInfo,") {
            return self.describe_thread(text);
        }
        if is(b"qC") {
            self.answer.put(b"QC")?;
            put_thread(self.choices, self.choices.general, self.answer)?;
            return Ok(Next::Send);
        }
        if is(b"qAttached") || behind(b"qAttached:").is_some() {
            // The debugger is to detach where it would kill what it has started.
            return self.text(b"1");
        }
        if let Some(text) = behind(b"qRcmd,") {
            return self.monitor(text);
        }
        if is(b"qqemu.Supported") {
            return self.text(b"sstepbits;sstep;PhyMemMode");
        }
        if is(b"qqemu.sstepbits") {
            self.print(format_args!("ENABLE={}", sstep::ENABLE))?;
            let supported = self.owner.stepping();
            if supported.no_interrupts {
                self.print(format_args!(",NOIRQ={}", sstep::NOIRQ))?;
            }
            if supported.no_timers {
                self.print(format_args!(",NOTIMER={}", sstep::NOTIMER))?;
            }
            return Ok(Next::Send);
        }
        if is(b"qqemu.sstep") {
            let bits = bits_of(self.stepping());
            return self.print(format_args!("{bits:#x}"));
        }
        if let Some(text) = behind(b"Qqemu.sstep=") {
            return self.set_stepping(text);
        }
        if is(b"qqemu.PhyMemMode") {
            return self.print(format_args!("{}", u8::from(self.choices.physical)));
        }
        if let Some(text) = behind(b"Qqemu.PhyMemMode:") {
            let (value, _) = gdb::number(text).ok_or(Wrong::Arguments)?;
            self.choices.physical = value != 0;
            return self.ok();
        }
        Err(Wrong::Unknown)
    }

    fn supported(&mut self, features: &[u8]) -> Done {
        let features = features.strip_prefix(b":").unwrap_or(features);
        for feature in features.split(|byte| *byte == b';') {
            match feature {
                b"multiprocess+" => self.choices.multiprocess = true,
                // Who knows the one knows the other.
                b"swbreak+" => self.choices.tells_breaks = true,
                _ => {}
            }
        }
        self.print(format_args!(
            "PacketSize={PACKET_MAX:x};qXfer:features:read+;vContSupported+;multiprocess+;\
             QStartNoAckMode+;swbreak+;hwbreak+"
        ))
    }

    /// `ANNEX:OFFSET,LENGTH`: a part of the target description.
    fn description(&mut self, text: &[u8]) -> Done {
        let text = text.strip_prefix(b"target.xml:").ok_or(Wrong::Annex)?;
        let (offset, length, _) = self.range(text)?;
        self.answer.put(b"l")?;
        let room = (PACKET_MAX - self.answer.len()) as u64;
        let mut window = Window {
            skip: offset,
            left: length.min(room),
            more: false,
            answer: self.answer,
        };
        registers::describe(&mut window).map_err(|fmt::Error| Wrong::Arguments)?;
        if window.more
            && let Some(first) = self.answer.first_mut()
        {
            *first = b'm';
        }
        Ok(Next::Send)
    }

    fn list_threads(&mut self) -> Done {
        let cpus = self.owner.cpus();
        // The longest id, and what is before it.
        const ROOM: usize = 16;
        if self.choices.next_thread >= cpus {
            return self.text(b"l");
        }
        let mut before: &[u8] = b"m";
        while self.choices.next_thread < cpus && self.answer.len() + ROOM <= PACKET_MAX {
            self.answer.put(before)?;
            put_thread(self.choices, self.choices.next_thread, self.answer)?;
            self.choices.next_thread += 1;
            before = b",";
        }
        Ok(Next::Send)
    }

    fn describe_thread(&mut self, text: &[u8]) -> Done {
        let (Thread::One(index), []) = self.thread(text)? else {
            return Err(Wrong::Arguments);
        };
        let state = self.owner.cpu_state(index).map_err(|_| Wrong::Arguments)?;
        let mut text = heapless::String::<32>::new();
        let doing = if state.halted { "halted " } else { "running" };
        write!(text, "CPU#{index} [{doing}]").map_err(|fmt::Error| Wrong::Arguments)?;
        gdb::put_bytes(text.as_bytes(), self.answer)?;
        Ok(Next::Send)
    }

    /// A line of the human monitor.
    fn monitor(&mut self, text: &[u8]) -> Done {
        let mut line = [0; MEMORY_MAX];
        let line = line.get_mut(..text.len() / 2).ok_or(Wrong::Text)?;
        match gdb::bytes(text, line) {
            Some([]) => {}
            _ => return Err(Wrong::Text),
        }
        let mut console = Console {
            out: self.out,
            gathered: heapless::Vec::new(),
        };
        let mut cpu = self.choices.general;
        let done = hmp::execute(line, self.owner, &mut cpu, &mut Text::new(&mut console))
            .and_then(|outcome| console.flush().map(|()| outcome));
        self.choices.general = cpu;
        match done {
            Ok(Outcome::Done) => self.ok(),
            Ok(Outcome::Pending(job)) => Ok(Next::Pending(job)),
            Err(SinkFull) => {
                self.lost = true;
                Ok(Next::Nothing)
            }
        }
    }

    fn stepping(&self) -> Stepping {
        let default = || self.owner.stepping();
        self.choices.stepping.unwrap_or_else(default)
    }

    fn set_stepping(&mut self, text: &[u8]) -> Done {
        let (bits, _) = gdb::number(text).ok_or(Wrong::Arguments)?;
        // A step without being enabled would be none.
        if bits & !bits_of(self.owner.stepping()) != 0 || bits & sstep::ENABLE == 0 {
            return Err(Wrong::Arguments);
        }
        self.choices.stepping = Some(Stepping {
            no_interrupts: bits & sstep::NOIRQ != 0,
            no_timers: bits & sstep::NOTIMER != 0,
        });
        self.ok()
    }
}

const fn bits_of(stepping: Stepping) -> u64 {
    let mut bits = sstep::ENABLE;
    if stepping.no_interrupts {
        bits |= sstep::NOIRQ;
    }
    if stepping.no_timers {
        bits |= sstep::NOTIMER;
    }
    bits
}

/// Takes a process' or thread's number from the front of a text; -1, which means all, is `None`.
fn id(text: &[u8]) -> Result<(Option<u64>, &[u8]), Wrong> {
    if let Some(rest) = text.strip_prefix(b"-1") {
        return Ok((None, rest));
    }
    let (number, rest) = gdb::number(text).ok_or(Wrong::Arguments)?;
    Ok((Some(number), rest))
}

fn put_register(
    state: &thimble_core::cpu::CpuState,
    number: usize,
    answer: &mut Answer,
) -> Result<(), SinkFull> {
    let value = registers::get(state, number).unwrap_or(0).to_le_bytes();
    let size = registers::size(number).unwrap_or(0);
    gdb::put_bytes(&value[..size.min(value.len())], answer)
}

fn value_of(bytes: &[u8]) -> u128 {
    let fold = |value, byte: &u8| value << 8 | u128::from(*byte);
    bytes.iter().rev().fold(0, fold)
}

/// Keeps a part of a text that is longer.
struct Window<'a> {
    /// Bytes that come before it.
    skip: u64,
    /// Bytes that it still takes.
    left: u64,
    /// There is something behind it.
    more: bool,
    answer: &'a mut Answer,
}

impl Write for Window<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let skip = self.skip.min(text.len() as u64);
        self.skip -= skip;
        let text = &text.as_bytes()[skip as usize..];
        let take = self.left.min(text.len() as u64);
        self.left -= take;
        self.more |= take < text.len() as u64;
        // `left` is never more than there is room for.
        self.answer
            .put(&text[..take as usize])
            .map_err(|SinkFull| fmt::Error)
    }
}

/// The human monitor's text on its way to the debugger, in packets that it prints.
struct Console<'o> {
    out: &'o mut dyn Sink,
    gathered: heapless::Vec<u8, CONSOLE_MAX>,
}

impl Console<'_> {
    fn flush(&mut self) -> Result<(), SinkFull> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut packet = heapless::Vec::<u8, { 1 + 2 * CONSOLE_MAX }>::new();
        packet.put(b"O")?;
        gdb::put_bytes(&self.gathered, &mut packet)?;
        self.gathered.clear();
        gdb::encode(&packet, self.out)
    }
}

impl Sink for Console<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        for byte in bytes {
            if self.gathered.push(*byte).is_err() {
                self.flush()?;
                self.gathered.put(&[*byte])?;
            }
        }
        Ok(())
    }
}
