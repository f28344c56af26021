//! Trace events of all layers by name: the core's table, and two for each QMP command, `qmp_enter_NAME` and `qmp_exit_NAME`, which
//! the schema makes.
//!
//! What clients send and get may be traced, but for what might be secret: values of members and options with names such as
//! `password`, and answers about such properties.

use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::Relaxed;

use thimble_core::qmp::{Kind, Sink as _, SinkFull, Value, write_escaped, write_value};
use thimble_core::trace::events::{self, Event};
use thimble_core::trace::{Line, matches};

use crate::error::Fail;
use crate::schema::SCHEMA;

/// What a command's events are called before its name.
const SIDES: [(&str, u8); 2] = [("qmp_enter_", ENTER), ("qmp_exit_", EXIT)];

/// In [`COMMANDS`]: its arguments are traced.
const ENTER: u8 = 1 << 0;
/// In [`COMMANDS`]: its result is traced.
const EXIT: u8 = 1 << 1;

/// For each command, in the order of the schema, what is traced of it.
static COMMANDS: [AtomicU8; SCHEMA.commands.len()] =
    [const { AtomicU8::new(0) }; SCHEMA.commands.len()];

/// Whether the result of any command is traced.
static EXITS: AtomicU8 = AtomicU8::new(0);

/// Names of members and options whose values are not traced.
const SECRETS: [&[u8]; 6] = [
    b"data",
    b"iv",
    b"passphrase",
    b"password",
    b"password-secret",
    b"secret",
];

/// Bytes of an event's name at most.
const NAME_MAX: usize = 64;

/// An event that is switched by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// One of the core's table.
    Table(Event),
    /// One of a command: its number, and which side.
    Command(usize, u8),
}

impl Point {
    /// Its name.
    pub fn name(self) -> heapless::String<NAME_MAX> {
        let mut name = heapless::String::new();
        // Names of commands are shorter, as a test looks.
        let _ = match self {
            Self::Table(event) => name.push_str(event.name()),
            Self::Command(index, side) => put_command_name(&mut name, index, side),
        };
        name
    }

    /// Whether it belongs to processors.
    pub fn is_vcpu(self) -> bool {
        matches!(self, Self::Table(event) if event.is_vcpu())
    }

    /// Whether it is on; for one that belongs to processors, for any of them.
    pub fn is_on(self) -> bool {
        match self {
            Self::Table(event) => event.is_on(),
            Self::Command(index, side) => command(index) & side != 0,
        }
    }

    /// Whether it is on for a processor.
    pub fn is_on_for(self, cpu: u32) -> bool {
        matches!(self, Self::Table(event) if event.is_on_for(cpu))
    }

    /// Whether it is on, for a processor or for any; `None` if it is to be for one, and does not belong to processors.
    pub fn state(self, cpu: Option<u32>) -> Option<bool> {
        match cpu {
            Some(cpu) => self.is_vcpu().then(|| self.is_on_for(cpu)),
            None => Some(self.is_on()),
        }
    }

    /// Switches it, for all processors or for one. Nothing happens if it is to be for one, and does not belong to processors.
    pub fn set(self, on: bool, cpu: Option<u32>) {
        match (self, cpu) {
            (Self::Table(event), None) => event.set(on),
            (Self::Table(event), Some(cpu)) => event.set_for(cpu, on),
            (Self::Command(index, side), None) => {
                let Some(state) = COMMANDS.get(index) else {
                    return;
                };
                match on {
                    true => state.fetch_or(side, Relaxed),
                    false => state.fetch_and(!side, Relaxed),
                };
                let exits = (0..COMMANDS.len()).any(|index| command(index) & EXIT != 0);
                EXITS.store(exits.into(), Relaxed);
            }
            (Self::Command(..), Some(_)) => {}
        }
    }
}

fn command(index: usize) -> u8 {
    COMMANDS.get(index).map_or(0, |state| state.load(Relaxed))
}

fn put_command_name<const N: usize>(
    name: &mut heapless::String<N>,
    index: usize,
    side: u8,
) -> Result<(), heapless::CapacityError> {
    for (prefix, of) in SIDES {
        if of == side {
            name.push_str(prefix)?;
        }
    }
    let command = SCHEMA.commands.get(index);
    for c in command.map_or("", |row| SCHEMA.name(row.name)).chars() {
        name.push(if c == '-' { '_' } else { c })?;
    }
    Ok(())
}

/// Shows each event whose name a pattern means, with its name.
pub fn visit(pattern: &[u8], mut visit: impl FnMut(Point, &str)) {
    let mut show = |point, name: &str| {
        if matches(pattern, name.as_bytes()) {
            visit(point, name);
        }
    };
    for (event, name) in Event::names() {
        show(Point::Table(event), name);
    }
    for index in 0..COMMANDS.len() {
        for (_, side) in SIDES {
            let point = Point::Command(index, side);
            show(point, &point.name());
        }
    }
}

/// Switches all events whose names a pattern means, and tells how many they are.
pub fn set(pattern: &[u8], on: bool) -> usize {
    let mut count = 0;
    visit(pattern, |point, _| {
        point.set(on, None);
        count += 1;
    });
    count
}

/// A command begins.
pub(crate) fn enter(index: usize, arguments: Option<Value<'_>>) {
    if command(index) & ENTER != 0 {
        tell_enter(index, arguments);
    }
}

#[cold]
fn tell_enter(index: usize, arguments: Option<Value<'_>>) {
    let mut line = Line::new(&Point::Command(index, ENTER).name());
    match arguments {
        // A line that is full says so itself.
        Some(arguments) => {
            let _ = put_request(&mut line, arguments);
        }
        None => line.put(b"{}"),
    }
    line.send();
}

/// A message has come, to be executed now or when its turn is.
pub(crate) fn message(monitor: usize, message: Value<'_>) {
    if Event::handle_qmp_command.is_on() {
        let mut text = heapless::Vec::<u8, { thimble_core::trace::LINE_MAX }>::new();
        let _ = put_request(&mut text, message);
        events::handle_qmp_command(monitor, &text);
    }
}

/// A message is executed.
pub(crate) fn executed(message: Value<'_>) {
    let oob = message.get(b"exec-oob").is_some();
    let event = match oob {
        true => Event::monitor_qmp_cmd_out_of_band,
        false => Event::monitor_qmp_cmd_in_band,
    };
    if event.is_on() {
        let mut text = heapless::Vec::<u8, 128>::new();
        if let Some(id) = message.get(b"id") {
            // A long one is left out.
            let _ = write_value(&mut text, id);
        }
        event.tell(&[], &[&text]);
    }
}

/// A message can't be understood, for a reason of these pieces.
#[cold]
pub(crate) fn refused(pieces: &[&[u8]]) {
    let mut text = heapless::Vec::<u8, 512>::new();
    for piece in pieces {
        // A long one is left out.
        let _ = text.put(piece);
    }
    events::monitor_qmp_err_in_band(&text);
}

/// Whether answers are to be told.
#[inline(always)]
pub(crate) fn wants_answers() -> bool {
    EXITS.load(Relaxed) != 0 || Event::monitor_qmp_respond.is_on()
}

/// A message is answered: with an error, or with these bytes.
#[cold]
pub(crate) fn answered(
    monitor: usize,
    message: Option<Value<'_>>,
    fail: Option<&Fail<'_>>,
    answer: &[u8],
) {
    let answer = answer.strip_suffix(b"\r\n").unwrap_or(answer);
    let name = message.and_then(|message| {
        let name = message.get(b"exec-oob").or(message.get(b"execute"))?;
        name.bytes()
    });
    let secret = message.is_some_and(asks_for_secret);
    if let Some(index) = name.and_then(|name| SCHEMA.command(name))
        && command(index) & EXIT != 0
    {
        let mut line = Line::new(&Point::Command(index, EXIT).name());
        match fail {
            Some(fail) => {
                fail.parts().1.iter().for_each(|piece| line.put(piece));
                line.put(b" 0");
            }
            None if secret => line.put(b"... 1"),
            None => {
                let id = message.and_then(|message| message.get(b"id"));
                line.put(result_of(answer, id));
                line.put(b" 1");
            }
        }
        line.send();
    }
    let shown: &[u8] = if secret { b"..." } else { answer };
    events::monitor_qmp_respond(monitor, shown);
}

/// The result in an answer with this id: what is between its first member's name, and the id or the end.
fn result_of<'a>(answer: &'a [u8], id: Option<Value<'_>>) -> &'a [u8] {
    let result = answer.strip_prefix(b"{\"return\": ").unwrap_or(answer);
    let mut end = Length(1);
    if let Some(id) = id {
        // A length has no limit.
        let _ = end.put(b", \"id\": ");
        let _ = write_value(&mut end, id);
    }
    let length = result.len().saturating_sub(end.0);
    result.get(..length).unwrap_or_default()
}

/// Counts what is put into it.
struct Length(usize);

impl thimble_core::qmp::Sink for Length {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.0 += bytes.len();
        Ok(())
    }
}

fn is_secret(name: &[u8]) -> bool {
    SECRETS.contains(&name)
}

/// Whether a message asks for the value of a property that might be secret.
fn asks_for_secret(message: Value<'_>) -> bool {
    let property = message
        .get(b"arguments")
        .and_then(|arguments| arguments.get(b"property"));
    property.and_then(Value::bytes).is_some_and(is_secret)
}

/// Writes a part of a message without what might be secret in it.
fn put_request<S: thimble_core::qmp::Sink>(sink: &mut S, value: Value<'_>) -> Result<(), SinkFull> {
    let secret_property = value
        .get(b"property")
        .and_then(Value::bytes)
        .is_some_and(is_secret);
    match value.kind() {
        Kind::Object => {
            sink.put(b"{")?;
            for (index, (name, member)) in value.members().enumerate() {
                if index > 0 {
                    sink.put(b", ")?;
                }
                sink.put(b"\"")?;
                write_escaped(sink, name)?;
                sink.put(b"\": ")?;
                let composed = matches!(member.kind(), Kind::Object | Kind::Array);
                if !composed && is_secret(name) || secret_property && name == b"value" {
                    sink.put(b"\"...\"")?;
                } else if name == b"command-line" {
                    sink.put(b"\"")?;
                    put_line(member.bytes().unwrap_or_default(), |piece| {
                        write_escaped(sink, piece)
                    })?;
                    sink.put(b"\"")?;
                } else {
                    put_request(sink, member)?;
                }
            }
            sink.put(b"}")
        }
        Kind::Array => {
            sink.put(b"[")?;
            for (index, element) in value.elements().enumerate() {
                if index > 0 {
                    sink.put(b", ")?;
                }
                put_request(sink, element)?;
            }
            sink.put(b"]")
        }
        _ => write_value(sink, value),
    }
}

/// The human monitor's commands that have a password among their arguments.
const SECRET_COMMANDS: [&[u8]; 3] = [b"change", b"set_password", b"object_set_secret"];

/// Hands out the pieces of a line of the human monitor, without what might be secret in it.
fn put_line(
    line: &[u8],
    mut put: impl FnMut(&[u8]) -> Result<(), SinkFull>,
) -> Result<(), SinkFull> {
    let separates = |byte: &u8| matches!(byte, b',' | b' ' | b'\t');
    let mut words = line.split_inclusive(separates);
    let first = words.clone().find(|word| !word.trim_ascii().is_empty());
    if first.is_some_and(|word| SECRET_COMMANDS.contains(&word.trim_ascii())) {
        put(first.unwrap_or_default())?;
        return put(b"...");
    }
    words.try_for_each(|word| {
        match word.iter().position(|byte| *byte == b'=') {
            Some(at) if is_secret(&word[..at]) => {
                put(&word[..=at])?;
                put(b"...")?;
                // What separates it from the next.
                put(word
                    .get(word.len() - 1..)
                    .filter(|last| last.iter().all(separates))
                    .unwrap_or_default())
            }
            _ => put(word),
        }
    })
}

/// The human monitor gets a line.
pub(crate) fn human_line(line: &[u8]) {
    if Event::handle_hmp_command.is_on() {
        let mut text = heapless::Vec::<u8, 512>::new();
        // A long one is cut.
        let _ = put_line(line, |piece| text.put(piece));
        events::handle_hmp_command(&text);
    }
}
