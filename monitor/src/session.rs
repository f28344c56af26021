//! A QMP session: the state of one connection.
//!
//! The wire is QEMU 7.2's, as observed: greeting, negotiation, commands in and out of band, `id` of
//! any type echoed, events before the reply of the command that caused them, `\r\n` after each
//! line. Out-of-band commands need no second queue, because commands are executed as they arrive
//! and none blocks.

#[cfg(feature = "sabotage")]
use core::sync::atomic::Ordering;

use thimble_core::qmp::{Kind, Parser, Sink, SinkFull, Value, Writer, write_escaped, write_value};

use crate::command::{self, COMMANDS};
use crate::error::Fail;
use crate::handlers::{self, Args, Handler, VERSION};
use crate::reply::Reply;
use crate::{ErrorClass, Event, Owner, Timestamp};

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
}

/// What the client has agreed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiation {
    pub(crate) complete: bool,
    pub(crate) oob: bool,
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
    parser: Parser,
}

impl Session {
    /// A fresh session. Large: meant to initialise a `static`.
    pub const fn new() -> Self {
        Self {
            negotiation: Negotiation {
                complete: false,
                oob: false,
            },
            broken: false,
            parser: Parser::new(),
        }
    }

    /// Starts a connection: forgets the one before and writes the greeting.
    pub fn open<T: Out>(&mut self, out: &mut T) -> Result<(), SinkFull> {
        self.negotiation.complete = false;
        self.negotiation.oob = false;
        self.broken = false;
        self.parser.reset();
        let mut version = [0; 256];
        let length = serde_json_core::to_slice(&VERSION, &mut version).map_err(|_| SinkFull)?;
        let parts: [&[u8]; 3] = [
            b"{\"QMP\": {\"version\": ",
            &version[..length],
            b", \"capabilities\": [\"oob\"]}}\r\n",
        ];
        let result = parts.into_iter().try_for_each(|part| out.put(part));
        self.broken = result.is_err();
        result
    }

    /// Takes input and executes the commands in it, and returns how many bytes it took. It takes
    /// none while `out` has output pending, so that a client that does not read is not served.
    pub fn feed<O: Owner, T: Out>(&mut self, bytes: &[u8], owner: &mut O, out: &mut T) -> usize {
        let mut used = 0;
        while let Some(input @ [_, ..]) = bytes.get(used..) {
            if out.pending() || self.broken {
                break;
            }
            let progress = self.parser.push(input);
            used += progress.consumed;
            let written = match progress.message {
                None => break,
                Some(Err(error)) => {
                    let pieces = error.pieces(self.parser.text());
                    answer(Err(Fail::generic(&pieces)), None, out.mark(), out)
                }
                Some(Ok(())) => execute(self.parser.message(), &mut self.negotiation, owner, out),
            };
            self.broken = written.is_err();
        }
        used
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
        let result = put_event(event, time, out);
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

fn put_event<T: Out>(event: &Event, time: Timestamp, out: &mut T) -> Result<(), SinkFull> {
    let mark = out.mark();
    event
        .write(time, out)
        .inspect_err(|SinkFull| out.truncate(mark))
}

/// A command as the client sent it.
struct Request<'m> {
    name: &'m [u8],
    oob: bool,
    arguments: Option<Value<'m>>,
}

/// Executes one message and writes events and reply.
fn execute<O: Owner, T: Out>(
    message: Value<'_>,
    negotiation: &mut Negotiation,
    owner: &mut O,
    out: &mut T,
) -> Result<(), SinkFull> {
    let id = message.get(b"id");
    let mark = out.mark();
    let mut reply = Reply::new(out);
    let tell = negotiation.complete;
    let result = dispatch(message, negotiation, owner, &mut reply);
    // Events come before the reply of the command that caused them, unless that is streaming out.
    if reply.begun() && result.is_ok() {
        let result = result.and_then(|()| Ok(reply.end()?));
        answer(result, id, mark, out)?;
        return put_events(owner, tell, out);
    }
    out.truncate(mark);
    put_events(owner, tell, out)?;
    let mark = out.mark();
    let result = result.and_then(|()| Ok(Reply::new(out).end()?));
    answer(result, id, mark, out)
}

fn put_events<O: Owner, T: Out>(owner: &mut O, tell: bool, out: &mut T) -> Result<(), SinkFull> {
    while let Some((event, time)) = owner.take_event() {
        if tell {
            put_event(&event, time, out)?;
        }
    }
    Ok(())
}

/// Completes a reply that begins at `mark`, or puts an error in its place.
fn answer<T: Out>(
    result: Result<(), Fail<'_>>,
    id: Option<Value<'_>>,
    mark: usize,
    out: &mut T,
) -> Result<(), SinkFull> {
    let fail = match result.and_then(|()| Ok(put_end(id, out)?)) {
        Ok(()) => return Ok(()),
        Err(fail) => fail,
    };
    out.truncate(mark);
    let (class, pieces): (_, [&[u8]; 5]) = match &fail {
        Fail::Text(class, pieces) => (*class, *pieces),
        Fail::Owner(error) => (error.class, [error.desc.as_bytes(), b"", b"", b"", b""]),
        Fail::Sink(SinkFull) => (
            ErrorClass::Generic,
            [
                b"The reply is larger than the output limit (4194304 bytes)",
                b"",
                b"",
                b"",
                b"",
            ],
        ),
    };
    put_error(id, class, &pieces, out).inspect_err(|SinkFull| out.truncate(mark))
}

const _: () = assert!(MONITOR_OUT_MAX == 4_194_304);

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
) -> Result<(), Fail<'m>> {
    let request = request(message, negotiation.oob)?;
    let found = COMMANDS.iter().enumerate().find(|(_, command)| {
        command.name.as_bytes() == request.name
            && (negotiation.complete || command.handler == Handler::QmpCapabilities)
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
    let name = command.name.as_bytes();
    if request.oob && !command.allow_oob {
        return Err(Fail::generic(&[
            b"The command ",
            name,
            b" does not support OOB",
        ]));
    }
    if owner.preconfig() && !command.allow_preconfig {
        return Err(Fail::generic(&[
            b"The command '",
            name,
            b"' is permitted only after machine initialization has completed",
        ]));
    }
    command::check(command.args, request.arguments)?;
    #[cfg(feature = "sabotage")]
    if command::SABOTAGED.load(Ordering::Relaxed) == index {
        return Ok(reply.raw(command.empty)?);
    }
    let _ = index;
    let args = Args(request.arguments);
    handlers::run(command.handler, args, negotiation, owner, reply)
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
