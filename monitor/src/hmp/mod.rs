//! The human monitor: a command line in, text out.
//!
//! Sans-IO: [`execute`] takes one line, asks the [`Owner`], and writes into what its caller lends. The language and the
//! words are QEMU 7.2's, as observed. Lines of the text end with `\r\n`, as on a terminal.
//!
//! Commands here are those that do all their work; others are unknown, in QEMU's words for that. Where QMP has a
//! command for something, its handler does the work here, too, and its errors are told behind `Error: `. There is no memory of
//! earlier lines but [`Defaults`] and the processor that is meant.
//!
//! Limits: parentheses nest 64 deep; strings with `\` in them have [`STRING_MAX`] bytes. The text is as long as its
//! sink lets it be.

mod apic;
pub mod block;
mod boot;
mod completion;
mod cpus;
mod debug;
mod descriptors;
mod devices;
mod dump;
mod editor;
mod expression;
mod format;
mod help;
mod history;
mod input;
mod machine;
mod memory;
mod numa;
mod objects;
mod parse;
mod pci;
mod ports;
mod power;
mod registers;
mod session;
pub mod table;
mod tables;
#[cfg(test)]
mod tests;
mod trace;

use core::fmt::{self, Write};

use thimble_core::qmp::{Sink, SinkFull};

use crate::error::Fail;
use crate::handlers::{Context, Outcome};
use crate::session::Negotiation;
use crate::{Owner, QmpError};
pub use editor::LINE_MAX;
use expression::Expected;
pub use format::Defaults;
pub use history::{HISTORY_BYTES, HISTORY_MAX, History};
use parse::Arguments;
pub use session::{HmpSession, PROMPT};
use table::{COMMANDS, Command, find};

/// Bytes of all strings of a line together that have to be copied at most: those in quotes with `\` in them.
pub const STRING_MAX: usize = 4096;

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

    fn pieces(&mut self, pieces: &[&[u8]]) -> fmt::Result {
        pieces.iter().try_for_each(|piece| self.bytes(piece))
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes())
    }
}

/// What a command acts on.
pub(crate) struct Call<'c, 'l> {
    /// For the handlers of QMP commands. Its session's processor is the one that is meant.
    pub(crate) context: Context<'c, dyn Owner + 'c>,
    /// The arguments, as the command's row has them.
    pub(crate) arguments: Arguments<'l>,
    /// What was typed, where it is typed.
    pub(crate) history: Option<&'c History>,
    /// What is answered.
    pub(crate) text: Text<'c>,
}

impl Call<'_, '_> {
    /// The processor that is meant.
    fn cpu(&self) -> u32 {
        self.context.session.cpu
    }
}

/// What comes of a command.
pub(crate) type Done<'l> = Result<Outcome, Failed<'l>>;

/// Why a command did not do its work.
// There is no heap to box an error.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Failed<'l> {
    /// The line is not as the command expects it: what to say before the hint at its help.
    Line(Expected),
    /// The same; what to say behind the command's names.
    Usage(&'static str),
    /// The command has no flag of this letter.
    Flag(u8),
    /// A number has more than 32 bits.
    Wide,
    /// The command failed.
    Error(Fail<'l>),
    /// The text does not fit.
    Full,
}

impl From<fmt::Error> for Failed<'_> {
    fn from(_: fmt::Error) -> Self {
        Self::Full
    }
}

impl From<Expected> for Failed<'_> {
    fn from(expected: Expected) -> Self {
        Self::Line(expected)
    }
}

impl<'l> From<Fail<'l>> for Failed<'l> {
    fn from(fail: Fail<'l>) -> Self {
        Self::Error(fail)
    }
}

impl From<QmpError> for Failed<'_> {
    fn from(error: QmpError) -> Self {
        Self::Error(error.into())
    }
}

/// Executes a line on behalf of processor `cpu`, which is below [`Owner::cpus`] and which the line may change.
///
/// A command may go on in the background. It has written nothing then, and its end is written by [`complete`].
///
/// # Errors
/// If the text does not fit. What is wrong with the line, or fails, is said in the text.
pub fn execute(
    line: &[u8],
    owner: &mut dyn Owner,
    cpu: &mut u32,
    text: &mut Text<'_>,
) -> Result<Outcome, SinkFull> {
    execute_typed(line, owner, cpu, None, text)
}

/// The same for a line that was typed behind these others.
fn execute_typed(
    line: &[u8],
    owner: &mut dyn Owner,
    cpu: &mut u32,
    history: Option<&History>,
    text: &mut Text<'_>,
) -> Result<Outcome, SinkFull> {
    crate::trace::human_line(line);
    let mut session = Negotiation::of_human(*cpu);
    let done = run(line, owner, &mut session, history, text);
    *cpu = session.cpu;
    done.map_err(|fmt::Error| SinkFull)
}

/// Writes what came of a command that went on in the background.
///
/// # Errors
/// If the text does not fit.
pub fn complete(result: &Result<(), QmpError>, text: &mut Text<'_>) -> Result<(), SinkFull> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => writeln!(text, "Error: {error}").map_err(|_| SinkFull),
    }
}

fn run(
    line: &[u8],
    owner: &mut dyn Owner,
    session: &mut Negotiation,
    history: Option<&History>,
    text: &mut Text<'_>,
) -> Result<Outcome, fmt::Error> {
    let start = parse::skip_spaces(line);
    let (name, mut rest) = parse::command_name(start);
    if start.is_empty() {
        return Ok(Outcome::Done);
    }
    let mut found = find(COMMANDS, name);
    let mut path = name;
    if let Some(Command {
        menu: Some(menu), ..
    }) = found
        && !parse::skip_spaces(rest).is_empty()
    {
        let (name, behind) = parse::command_name(rest);
        // As the line has it, with spaces.
        path = start.get(..start.len() - behind.len()).unwrap_or(start);
        (found, rest) = (find(menu, name), behind);
    }
    let Some(command) = found else {
        unknown(&[path], text)?;
        return Ok(Outcome::Done);
    };
    if owner.preconfig() && !command.preconfig {
        let after = b"' not available until machine initialization has completed.\n";
        text.pieces(&[b"Command '", path, after])?;
        return Ok(Outcome::Done);
    }
    let mut buffer = [0; STRING_MAX];
    let done =
        parse::arguments(command, rest, &mut buffer, owner, session.cpu).and_then(|arguments| {
            (command.run)(&mut Call {
                context: Context {
                    owner,
                    session,
                    text: heapless::String::new(),
                },
                arguments,
                history,
                text: Text::new(text.sink),
            })
        });
    let names = command.names;
    match done {
        Ok(outcome) => return Ok(outcome),
        Err(Failed::Full) => return Err(fmt::Error),
        Err(Failed::Error(fail)) => {
            text.bytes(b"Error: ")?;
            text.pieces(&fail.parts().1)?;
            text.bytes(b"\n")?;
            return Ok(Outcome::Done);
        }
        Err(Failed::Line(expected)) => writeln!(text, "{expected}")?,
        Err(Failed::Usage(wrong)) => writeln!(text, "{names}: {wrong}")?,
        Err(Failed::Flag(letter)) => {
            let letter = expression::shown(letter);
            writeln!(text, "{names}: unsupported option -{letter}")?;
        }
        Err(Failed::Wide) => writeln!(text, "'{names}' has failed: integer is for 32-bit values")?,
    }
    text.pieces(&[b"Try \"help ", path, b"\" for more information\n"])?;
    Ok(Outcome::Done)
}

/// Says that there is no such command.
fn unknown(name: &[&[u8]], text: &mut Text<'_>) -> fmt::Result {
    text.bytes(b"unknown command: '")?;
    text.pieces(name)?;
    text.bytes(b"'\n")
}
