//! The human monitor: a command line in, text out.
//!
//! Sans-IO: [`execute`] takes one line, asks the [`Owner`], and writes into what its caller lends. The language and the
//! words are QEMU 7.2's, as observed. Lines of the text end with `\r\n`, as on a terminal.
//!
//! Commands here are those that do all their work; others are unknown, in QEMU's words for that. There is no memory of
//! earlier lines but [`Defaults`].
//!
//! Limits: parentheses nest 64 deep. The text is as long as its sink lets it be.

mod dump;
mod expression;
#[cfg(test)]
mod tests;

use core::fmt::{self, Write};

use thimble_core::cpu::Registers;
use thimble_core::qmp::{Sink, SinkFull};

use crate::Owner;
pub use dump::Defaults;
use expression::Expected;

/// A command.
struct Command {
    /// Its names, apart by `|`.
    names: &'static str,
    /// What stands behind it, in the help.
    arguments: &'static str,
    help: &'static str,
    action: Action,
}

/// What a command does.
#[derive(Clone, Copy)]
enum Action {
    Help,
    Print,
    Dump { physical: bool },
}

/// All commands, sorted by name.
static COMMANDS: [Command; 4] = [
    Command {
        names: "help|?",
        arguments: "[cmd]",
        help: "show what a command does, or all of them",
        action: Action::Help,
    },
    Command {
        names: "print|p",
        arguments: "/fmt expr",
        help: "print an expression's value (registers are $reg)",
        action: Action::Print,
    },
    Command {
        names: "x",
        arguments: "/fmt addr",
        help: "dump virtual memory from 'addr' on",
        action: Action::Dump { physical: false },
    },
    Command {
        names: "xp",
        arguments: "/fmt addr",
        help: "dump physical memory from 'addr' on",
        action: Action::Dump { physical: true },
    },
];

fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| {
        command
            .names
            .split('|')
            .any(|known| known.as_bytes() == name)
    })
}

/// The text that a command writes.
pub struct Text<'s> {
    sink: &'s mut dyn Sink,
}

impl<'s> Text<'s> {
    /// Text into a sink.
    pub fn new(sink: &'s mut dyn Sink) -> Self {
        Self { sink }
    }

    /// Writes bytes that may be no UTF-8, such as a part of the line.
    fn bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if index > 0 {
                self.sink.put(b"\r\n").map_err(|SinkFull| fmt::Error)?;
            }
            self.sink.put(line).map_err(|SinkFull| fmt::Error)?;
        }
        Ok(())
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes())
    }
}

/// Why a command did not do its work.
enum Failed {
    /// The line is not as the command expects it: what to say before the hint at its help.
    Line(Expected),
    /// More follows than the command takes.
    Extraneous,
    /// The text does not fit.
    Full,
}

impl From<fmt::Error> for Failed {
    fn from(_: fmt::Error) -> Self {
        Self::Full
    }
}

impl From<Expected> for Failed {
    fn from(expected: Expected) -> Self {
        Self::Line(expected)
    }
}

/// What stands before the first byte that `end` is true for, and the rest from there on.
fn split(text: &[u8], end: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = text
        .iter()
        .position(|byte| end(*byte))
        .unwrap_or(text.len());
    text.split_at(at)
}

/// C's white space in this language.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    split(text, |byte| !is_space(byte)).1
}

/// Executes a line on behalf of processor `cpu`, which is below [`Owner::cpus`].
///
/// # Errors
/// If the text does not fit. What is wrong with the line, or fails, is said in the text.
pub fn execute<O: Owner>(
    line: &[u8],
    owner: &mut O,
    cpu: u32,
    text: &mut Text<'_>,
) -> Result<(), SinkFull> {
    crate::trace::human_line(line);
    let line = skip_spaces(line);
    let (name, rest) = split(line, |byte| byte == b'/' || is_space(byte));
    if line.is_empty() {
        return Ok(());
    }
    let Some(command) = find(name) else {
        return unknown(name, text).map_err(|_| SinkFull);
    };
    let done = match command.action {
        Action::Help => help(rest, text),
        action => match owner.registers(cpu) {
            Ok(registers) => match action {
                Action::Dump { physical } => dump(rest, owner, &registers, physical, text),
                _ => print(rest, owner, &registers, text),
            },
            Err(error) => writeln!(text, "Error: {error}").map_err(Failed::from),
        },
    };
    let told = match done {
        Ok(()) => Ok(()),
        Err(Failed::Line(expected)) => writeln!(text, "{expected}").and_then(|()| hint(name, text)),
        Err(Failed::Extraneous) => {
            let names = command.names;
            writeln!(text, "{names}: extraneous characters at the end of line")
                .and_then(|()| hint(name, text))
        }
        Err(Failed::Full) => Err(fmt::Error),
    };
    told.map_err(|fmt::Error| SinkFull)
}

fn unknown(name: &[u8], text: &mut Text<'_>) -> fmt::Result {
    text.bytes(b"unknown command: '")?;
    text.bytes(name)?;
    text.bytes(b"'\n")
}

fn hint(name: &[u8], text: &mut Text<'_>) -> fmt::Result {
    text.bytes(b"Try \"help ")?;
    text.bytes(name)?;
    text.bytes(b"\" for more information\n")
}

fn help(rest: &[u8], text: &mut Text<'_>) -> Result<(), Failed> {
    let rest = skip_spaces(rest);
    let (word, _) = match rest.strip_prefix(b"\"") {
        Some(quoted) => {
            let (word, end) = split(quoted, |byte| byte == b'"');
            if end.is_empty() {
                return Err(Expected::Quote.into());
            }
            (word, end)
        }
        None => split(rest, is_space),
    };
    for command in &COMMANDS {
        let asked = command.names.split('|').any(|name| name.as_bytes() == word);
        if word.is_empty() || asked {
            let Command {
                names,
                arguments,
                help,
                ..
            } = command;
            writeln!(text, "{names} {arguments} -- {help}")?;
        }
    }
    if !word.is_empty() && find(word).is_none() {
        unknown(word, text)?;
    }
    Ok(())
}

/// Takes the format and the expression that are all of a command's arguments.
fn arguments<O: Owner>(
    rest: &[u8],
    owner: &mut O,
    registers: &Registers,
) -> Result<(dump::Request, i64), Failed> {
    let (request, rest) = dump::Request::parse(rest, owner.dump_defaults())?;
    let (value, rest) = expression::evaluate(skip_spaces(rest), registers)?;
    match skip_spaces(rest) {
        [] => Ok((request, value)),
        _ => Err(Failed::Extraneous),
    }
}

fn print<O: Owner>(
    rest: &[u8],
    owner: &mut O,
    registers: &Registers,
    text: &mut Text<'_>,
) -> Result<(), Failed> {
    let (request, value) = arguments(rest, owner, registers)?;
    request.print(value, text)?;
    Ok(writeln!(text)?)
}

fn dump<O: Owner>(
    rest: &[u8],
    owner: &mut O,
    registers: &Registers,
    physical: bool,
    text: &mut Text<'_>,
) -> Result<(), Failed> {
    let (request, address) = arguments(rest, owner, registers)?;
    let mut read = |address: u64, to: &mut [u8]| match physical {
        true => owner.read_physical(address, to),
        false => read_linear(owner, registers, address, to),
    };
    // Addresses from 2^63 up are negative numbers.
    request.dump(address as u64, registers.code_size(), &mut read, text)?;
    Ok(())
}

/// Reads by linear addresses; false if one is not mapped or nothing answers there.
fn read_linear<O: Owner>(
    owner: &mut O,
    registers: &Registers,
    mut address: u64,
    mut to: &mut [u8],
) -> bool {
    use thimble_core::memory::RamError;
    while !to.is_empty() {
        let entry = |gpa, to: &mut [u8]| match owner.read_physical(gpa, to) {
            true => Ok(()),
            false => Err(RamError { gpa }),
        };
        let Ok(found) = registers.paging.translate(address, entry) else {
            return false;
        };
        let length = usize::try_from(found.length).map_or(to.len(), |length| length.min(to.len()));
        let (part, rest) = to.split_at_mut(length);
        if !owner.read_physical(found.gpa, part) {
            return false;
        }
        let Some(next) = address.checked_add(length as u64) else {
            // The last byte of all may be read, but nothing behind it.
            return rest.is_empty();
        };
        address = next;
        to = rest;
    }
    true
}
