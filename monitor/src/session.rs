//! A QMP session: the state of one connection.
//!
//! The wire is QEMU 7.2's, as observed: greeting, negotiation, commands in and out of band, `id` of
//! any type echoed, events before the reply of the command that caused them, `\r\n` after each
//! line. Commands are executed as they arrive; only one that goes on in the background makes others
//! wait, and those that come out of band do not.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use thimble_core::qmp::{
    Kept, Kind, ParseError, Parser, Sink, SinkFull, Value, Writer, write_escaped, write_value,
};

use thimble_core::trace::events;

use crate::error::Fail;
use crate::handlers::{Context, Outcome, VERSION};
use crate::hmp;
use crate::reply::{self, Reply, ShortText};
use crate::schema::{self, SCHEMA};
use crate::trace;
use crate::{ErrorClass, Event, JobId, Owner, QmpError, Timestamp};

/// Bytes that an [`Out`] holds at most.
pub const MONITOR_OUT_MAX: usize = 4 * 1024 * 1024;

/// Where a session writes: a queue of up to [`MONITOR_OUT_MAX`] bytes.
pub trait Out: Sink {
    /// Whether there are bytes that the peer has not taken yet.
    fn pending(&mut self) -> bool;

    /// Bytes put since some fixed point: a mark for [`Out::truncate`].
    fn mark(&self) -> usize;

    /// Takes back everything put since [`Out::mark`] told `mark`.
    fn truncate(&mut self, mark: usize);

    /// What was put since [`Out::mark`] told `mark`, to be traced; empty if it is out of reach.
    fn put_since(&self, mark: usize) -> &[u8];
}

impl<const N: usize> Out for heapless::Vec<u8, N> {
    fn pending(&mut self) -> bool {
        !self.is_empty()
    }

    fn mark(&self) -> usize {
        self.len()
    }

    fn truncate(&mut self, mark: usize) {
        Self::truncate(self, mark);
    }

    fn put_since(&self, mark: usize) -> &[u8] {
        self.get(mark..).unwrap_or_default()
    }
}

/// What the client has agreed to, and chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiation {
    pub(crate) complete: bool,
    pub(crate) oob: bool,
    /// The processor that commands mean where they are not told one.
    pub(crate) cpu: u32,
    /// Which of the process' connections it is: for traces.
    number: usize,
}

impl Negotiation {
    const START: Self = Self {
        complete: false,
        oob: false,
        cpu: 0,
        number: 0,
    };

    /// Of the human monitor, whose commands mean this processor.
    pub(crate) const fn of_human(cpu: u32) -> Self {
        Self {
            complete: true,
            oob: false,
            cpu,
            number: 0,
        }
    }
}

/// Connections so far.
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Commands of a connection that wait behind one that goes on in the background; behind them, nothing is read.
pub const MONITOR_QUEUE_MAX: usize = 8;

/// A message that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    message: Kept,
    fault: Option<ParseError>,
}

/// One connection. All zero bytes are a valid session; [`Session::open`] starts it.
///
/// It is about 192 KiB large and never moved: a `static` takes [`Session::new`], memory from the
/// system is used as it comes.
#[derive(Debug)]
#[repr(C)]
pub struct Session {
    negotiation: Negotiation,
    broken: bool,
    /// The command that goes on in the background. Its message is `commanded`.
    pending: Option<JobId>,
    commanded: Kept,
    /// What came after it, in order.
    waiting: heapless::Vec<Waiting, MONITOR_QUEUE_MAX>,
    parser: Parser,
}

impl Session {
    /// A fresh session. Large: meant to initialise a `static`.
    pub const fn new() -> Self {
        Self {
            negotiation: Negotiation::START,
            broken: false,
            pending: None,
            commanded: Kept::START,
            waiting: heapless::Vec::new(),
            parser: Parser::new(),
        }
    }

    /// Starts a connection: forgets the one before and writes the greeting.
    pub fn open<T: Out>(&mut self, out: &mut T) -> Result<(), SinkFull> {
        self.negotiation = Negotiation {
            number: CONNECTIONS.fetch_add(1, Relaxed) + 1,
            ..Negotiation::START
        };
        self.broken = false;
        self.pending = None;
        self.waiting.clear();
        self.parser.reset();
        let result = out
            .put(b"{\"QMP\": {\"version\": ")
            .and_then(|()| reply::put(out, &VERSION).map_err(|_| SinkFull))
            .and_then(|()| out.put(b", \"capabilities\": [\"oob\"]}}\r\n"));
        self.broken = result.is_err();
        result
    }

    /// Takes input and executes the commands in it, and returns how many bytes it took. It takes
    /// none while `out` has output pending, so that a client that does not read is not served.
    ///
    /// While a command goes on in the background, only those are executed that come out of band; others wait, up to
    /// [`MONITOR_QUEUE_MAX`]. Without out-of-band commands there is nothing to look for, and the input waits.
    pub fn feed<O: Owner, T: Out>(&mut self, bytes: &[u8], owner: &mut O, out: &mut T) -> usize {
        self.catch_up(owner, out);
        let mut used = 0;
        while let Some(input @ [_, ..]) = bytes.get(used..) {
            let idle = self.pending.is_none() && self.waiting.is_empty();
            let queues = self.negotiation.oob && !self.waiting.is_full();
            if out.pending() || self.broken || !(idle || queues) {
                break;
            }
            let progress = self.parser.push(input);
            used += progress.consumed;
            let Some(message) = progress.message else {
                break;
            };
            if message.is_ok() {
                trace::message(self.negotiation.number, self.parser.message());
            }
            if idle || (message.is_ok() && is_oob(self.parser.message())) {
                self.message(message, owner, out);
            } else {
                let fault = message.err();
                let message = self.parser.keep();
                // There is room, as was looked above.
                let _ = self.waiting.push(Waiting { message, fault });
                let waiting = self.waiting.len();
                events::monitor_qmp_in_band_enqueue(self.negotiation.number, waiting);
            }
        }
        used
    }

    /// Executes the message that the parser has just completed.
    fn message<O: Owner, T: Out>(
        &mut self,
        message: Result<(), ParseError>,
        owner: &mut O,
        out: &mut T,
    ) {
        let done = match message {
            Err(error) => refuse(error, self.parser.text(), self.negotiation.number, out),
            Ok(()) => execute(self.parser.message(), &mut self.negotiation, owner, out),
        };
        self.note(done, None);
    }

    /// Notes what came of a message: of one that waited, or of that which the parser has just completed.
    fn note(&mut self, done: Result<Outcome, SinkFull>, waited: Option<Kept>) {
        match done {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Pending(job)) => {
                events::monitor_suspend(self.negotiation.number, 1);
                self.commanded = waited.unwrap_or_else(|| self.parser.keep());
                self.pending = Some(job);
            }
            Err(SinkFull) => self.broken = true,
        }
    }

    /// The command that goes on in the background.
    pub fn pending(&self) -> Option<JobId> {
        self.pending
    }

    /// Whether there is something to execute that needs no more input: [`Session::feed`] does it.
    pub fn lags(&self) -> bool {
        self.pending.is_none() && !self.waiting.is_empty()
    }

    /// Answers the command that went on in the background, and then those that waited for it.
    pub fn complete<O: Owner, T: Out>(
        &mut self,
        result: Result<(), QmpError>,
        owner: &mut O,
        out: &mut T,
    ) {
        if self.pending.take().is_none() {
            return;
        }
        events::monitor_suspend(self.negotiation.number, -1);
        let message = self.parser.kept(self.commanded);
        let human = message.get(b"execute").and_then(Value::bytes) == Some(HUMAN);
        let (result, text) = if human {
            let mut text = ShortText::new();
            // It has room for any error.
            let _ = hmp::complete(&result, &mut hmp::Text::new(&mut text));
            (Ok(()), Some(text))
        } else {
            (result, None)
        };
        let result = result.map(|()| Outcome::Done).map_err(Fail::Owner);
        let written = finish(
            result,
            text,
            message,
            self.negotiation,
            out.mark(),
            owner,
            out,
        );
        self.broken |= written.is_err();
        self.catch_up(owner, out);
    }

    /// Executes what waits, as far as nothing holds it up.
    fn catch_up<O: Owner, T: Out>(&mut self, owner: &mut O, out: &mut T) {
        while self.pending.is_none() && !self.broken && !out.pending() {
            if self.waiting.is_empty() {
                self.parser.release();
                break;
            }
            let Waiting { message, fault } = self.waiting.remove(0);
            let waiting = self.waiting.len();
            events::monitor_qmp_in_band_dequeue(self.negotiation.number, waiting);
            let value = self.parser.kept(message);
            let done = match fault {
                Some(error) => refuse(
                    error,
                    self.parser.kept_text(message),
                    self.negotiation.number,
                    out,
                ),
                None => execute(value, &mut self.negotiation, owner, out),
            };
            self.note(done, Some(message));
        }
    }

    /// Tells the client of an event, if it has negotiated. An event that does not fit breaks the
    /// session.
    pub fn event<T: Out>(
        &mut self,
        event: &Event,
        time: Timestamp,
        out: &mut T,
    ) -> Result<(), SinkFull> {
        if !self.negotiation.complete || self.broken {
            return Ok(());
        }
        let result = put_event(event, time, self.negotiation.number, out);
        self.broken = result.is_err();
        result
    }

    /// Whether output was lost, so that the connection must be closed.
    pub fn broken(&self) -> bool {
        self.broken
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

fn put_event<T: Out>(
    event: &Event,
    time: Timestamp,
    number: usize,
    out: &mut T,
) -> Result<(), SinkFull> {
    let mark = out.mark();
    let result = event.write(time, out);
    if result.is_err() {
        out.truncate(mark);
    }
    events::monitor_protocol_event_emit(event.index(), event.name().as_bytes());
    if trace::wants_answers() {
        trace::answered(number, None, None, out.put_since(mark));
    }
    result
}

/// A command as the client sent it.
struct Request<'m> {
    name: &'m [u8],
    oob: bool,
    arguments: Option<Value<'m>>,
}

/// Whether a message asks to be executed out of band.
fn is_oob(message: Value<'_>) -> bool {
    message.get(b"exec-oob").is_some()
}

/// Answers what is no message.
fn refuse<T: Out>(
    error: ParseError,
    text: &[u8],
    number: usize,
    out: &mut T,
) -> Result<Outcome, SinkFull> {
    let pieces = error.pieces(text);
    if events::Event::monitor_qmp_err_in_band.is_on() {
        trace::refused(&pieces);
    }
    let fail = Err(Fail::generic(&pieces));
    answer(fail, None, number, out.mark(), out)?;
    Ok(Outcome::Done)
}

/// Executes one message and writes events and, unless it goes on, its reply.
fn execute<O: Owner, T: Out>(
    message: Value<'_>,
    negotiation: &mut Negotiation,
    owner: &mut O,
    out: &mut T,
) -> Result<Outcome, SinkFull> {
    trace::executed(message);
    let mark = out.mark();
    let mut reply = Reply::new(out);
    let client = *negotiation;
    let result = dispatch(message, negotiation, owner, &mut reply);
    // Events come before the reply of the command that caused them, unless that is streaming out.
    if reply.begun() && matches!(result, Ok(Outcome::Done)) {
        let result = reply.end().map_err(Fail::from);
        answer(result, Some(message), client.number, mark, out)?;
        put_events(owner, client.complete, client.number, out)?;
        return Ok(Outcome::Done);
    }
    let text = reply.take_text();
    finish(result, text, message, client, mark, owner, out)
}

/// Writes events and the reply of a command without result, or with a short text.
fn finish<O: Owner, T: Out>(
    result: Result<Outcome, Fail<'_>>,
    text: Option<ShortText>,
    message: Value<'_>,
    client: Negotiation,
    mark: usize,
    owner: &mut O,
    out: &mut T,
) -> Result<Outcome, SinkFull> {
    out.truncate(mark);
    put_events(owner, client.complete, client.number, out)?;
    if let Ok(pending @ Outcome::Pending(_)) = result {
        return Ok(pending);
    }
    let mark = out.mark();
    let result = result.and_then(|_| Ok(Reply::of_text(out, text).end()?));
    answer(result, Some(message), client.number, mark, out)?;
    Ok(Outcome::Done)
}

/// The command whose result is a text, also where a line goes on in the background.
const HUMAN: &[u8] = b"human-monitor-command";

fn put_events<O: Owner, T: Out>(
    owner: &mut O,
    tell: bool,
    number: usize,
    out: &mut T,
) -> Result<(), SinkFull> {
    while let Some((event, time)) = owner.take_event() {
        if tell {
            put_event(&event, time, number, out)?;
        }
    }
    Ok(())
}

/// Completes a reply that begins at `mark`, or puts an error in its place.
fn answer<T: Out>(
    result: Result<(), Fail<'_>>,
    message: Option<Value<'_>>,
    number: usize,
    mark: usize,
    out: &mut T,
) -> Result<(), SinkFull> {
    let id = message.and_then(|message| message.get(b"id"));
    let fail = result.and_then(|()| Ok(put_end(id, out)?)).err();
    if let Some(fail) = &fail {
        out.truncate(mark);
        let (class, pieces) = fail.parts();
        put_error(id, class, &pieces, out).inspect_err(|SinkFull| out.truncate(mark))?;
    }
    if trace::wants_answers() {
        trace::answered(number, message, fail.as_ref(), out.put_since(mark));
    }
    Ok(())
}

fn put_end<T: Out>(id: Option<Value<'_>>, out: &mut T) -> Result<(), SinkFull> {
    if let Some(id) = id {
        out.put(b", \"id\": ")?;
        write_value(out, id)?;
    }
    out.put(b"}\r\n")
}

fn put_error<T: Out>(
    id: Option<Value<'_>>,
    class: ErrorClass,
    pieces: &[&[u8]],
    out: &mut T,
) -> Result<(), SinkFull> {
    let mut w = Writer::new(out);
    w.begin_object()?;
    if let Some(id) = id {
        w.key(b"id")?;
        w.value(id)?;
    }
    w.key(b"error")?;
    w.begin_object()?;
    w.key(b"class")?;
    w.str(class.name())?;
    w.key(b"desc")?;
    out.put(b"\"")?;
    for piece in pieces {
        write_escaped(out, piece)?;
    }
    out.put(b"\"}}\r\n")
}

fn dispatch<'m, O: Owner, T: Out>(
    message: Value<'m>,
    negotiation: &mut Negotiation,
    owner: &mut O,
    reply: &mut Reply<'_, T>,
) -> Result<Outcome, Fail<'m>> {
    let request = request(message, negotiation.oob)?;
    let found = SCHEMA.command(request.name).and_then(|index| {
        let command = SCHEMA.commands.get(index)?;
        let negotiates = request.name == b"qmp_capabilities";
        (negotiation.complete || negotiates).then_some((index, command))
    });
    let Some((index, command)) = found else {
        return Err(if negotiation.complete {
            Fail::class(
                ErrorClass::CommandNotFound,
                &[b"The command ", request.name, b" has not been found"],
            )
        } else {
            Fail::class(
                ErrorClass::CommandNotFound,
                &[b"Expecting capabilities negotiation with 'qmp_capabilities'"],
            )
        });
    };
    if request.oob && !command.allow_oob {
        return Err(Fail::generic(&[
            b"The command ",
            request.name,
            b" does not support OOB",
        ]));
    }
    if owner.preconfig() && !command.allow_preconfig {
        return Err(Fail::generic(&[
            b"The command '",
            request.name,
            b"' is permitted only after machine initialization has completed",
        ]));
    }
    schema::check(&SCHEMA, command.arguments, request.arguments)?;
    #[cfg(feature = "sabotage")]
    if crate::SABOTAGED.load(core::sync::atomic::Ordering::Relaxed) == index {
        reply.raw(schema::EMPTY_RESULTS[index])?;
        return Ok(Outcome::Done);
    }
    let mut context = Context {
        owner,
        session: negotiation,
        text: heapless::String::new(),
    };
    trace::enter(index, request.arguments);
    schema::execute(index, request.arguments, &mut context, reply)
}

/// Checks a message's members, in the order in which QEMU's dictionary keeps them.
fn request(message: Value<'_>, oob_enabled: bool) -> Result<Request<'_>, Fail<'_>> {
    if message.kind() != Kind::Object {
        return Err(Fail::generic(&[b"QMP input must be a JSON object"]));
    }
    let member = |name: &[u8]| match name {
        b"execute" | b"arguments" | b"id" => true,
        b"exec-oob" => oob_enabled,
        _ => false,
    };
    let execute = message.get(b"execute");
    let exec_oob = message.get(b"exec-oob").filter(|_| oob_enabled);
    let arguments = message.get(b"arguments");
    // At most one fault is told: that of the member that comes first.
    let fault = message
        .members()
        .filter(|(name, value)| match *name {
            b"execute" => value.kind() != Kind::String || exec_oob.is_some(),
            b"exec-oob" if oob_enabled => value.kind() != Kind::String,
            b"arguments" => value.kind() != Kind::Object,
            other => !member(other),
        })
        .min_by_key(|(name, _)| bucket(name));
    match fault {
        None => {}
        Some((b"execute", _)) if exec_oob.is_some() => {
            return Err(Fail::generic(&[
                b"QMP input member 'execute' clashes with 'exec-oob'",
            ]));
        }
        Some((name, _)) if member(name) => {
            let must: &[u8] = if name == b"arguments" {
                b"' must be an object"
            } else {
                b"' must be a string"
            };
            return Err(Fail::generic(&[b"QMP input member '", name, must]));
        }
        Some((name, _)) => {
            let text: [&[u8]; 3] = [b"QMP input member '", name, b"' is unexpected"];
            return Err(Fail::generic(&text));
        }
    }
    match exec_oob.or(execute).and_then(Value::bytes) {
        Some(name) => Ok(Request {
            name,
            oob: exec_oob.is_some(),
            arguments,
        }),
        None => Err(Fail::generic(&[b"QMP input lacks member 'execute'"])),
    }
}

/// A member's place in QEMU's dictionary: 512 buckets by the hash of the Trivial Database.
fn bucket(name: &[u8]) -> u32 {
    let start = 0x238f_13af_u32.wrapping_mul(name.len() as u32);
    let sum = name.iter().enumerate().fold(start, |sum, (index, &byte)| {
        sum.wrapping_add(u32::from(byte) << (index * 5 % 24))
    });
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}
