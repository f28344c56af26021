//! A command's arguments: from the rest of a line to typed values, or QEMU's words for what is wrong with it.
//!
//! Words end at white space. A string in quotes may have white space in it, and `\n`, `\r`, `\\`, `\'` and `\"`; with
//! these it is copied into a buffer that the caller lends, else it is a part of the line.

use super::Failed;
use super::expression::{Expected, evaluate, register};
use super::format::Request;
use super::table::{ARGUMENTS_MAX, Argument, Command, Kind};
use crate::Owner;

/// What stands before the first byte that `end` is true for, and the rest from there on.
pub(super) fn split(text: &[u8], end: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = text
        .iter()
        .position(|byte| end(*byte))
        .unwrap_or(text.len());
    text.split_at(at)
}

/// C's white space in this language.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

pub(super) fn skip_spaces(text: &[u8]) -> &[u8] {
    split(text, |byte| !is_space(byte)).1
}

/// A line's end, or what it goes on with.
pub(super) fn command_name(line: &[u8]) -> (&[u8], &[u8]) {
    split(skip_spaces(line), |byte| byte == b'/' || is_space(byte))
}

/// What stands for an argument.
#[derive(Clone, Copy, Debug, Default)]
enum Value<'l> {
    #[default]
    Absent,
    Flag,
    Format(Request),
    Int(i64),
    Switch(bool),
    Text(&'l [u8]),
}

/// A command's arguments, by their places in its table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arguments<'l>([Value<'l>; ARGUMENTS_MAX]);

impl<'l> Arguments<'l> {
    fn at(&self, place: usize) -> Value<'l> {
        self.0.get(place).copied().unwrap_or_default()
    }

    /// Whether a flag is given.
    pub(super) fn flag(&self, place: usize) -> bool {
        matches!(self.at(place), Value::Flag)
    }

    /// A format.
    pub(super) fn format(&self, place: usize) -> Request {
        match self.at(place) {
            Value::Format(request) => request,
            _ => Request::default(),
        }
    }

    /// A number, if it is given.
    pub(super) fn optional_int(&self, place: usize) -> Option<i64> {
        match self.at(place) {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// A number; 0 if it is missing.
    pub(super) fn int(&self, place: usize) -> i64 {
        self.optional_int(place).unwrap_or_default()
    }

    /// `on` or `off`, if it is given.
    pub(super) fn switch(&self, place: usize) -> Option<bool> {
        match self.at(place) {
            Value::Switch(value) => Some(value),
            _ => None,
        }
    }

    /// A text, if it is given.
    pub(super) fn optional_text(&self, place: usize) -> Option<&'l [u8]> {
        match self.at(place) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text; empty if it is missing.
    pub(super) fn text(&self, place: usize) -> &'l [u8] {
        self.optional_text(place).unwrap_or_default()
    }
}

/// Takes all of a command's arguments on behalf of processor `cpu`.
pub(super) fn arguments<'l>(
    command: &Command,
    rest: &'l [u8],
    buffer: &'l mut [u8],
    owner: &mut dyn Owner,
    cpu: u32,
) -> Result<Arguments<'l>, Failed<'l>> {
    let mut parser = Parser {
        rest,
        buffer,
        owner,
        cpu,
    };
    let mut arguments = Arguments::default();
    let wanted = command.arguments;
    for (at, value) in arguments.0.iter_mut().enumerate() {
        let Some(argument) = wanted.get(at) else {
            break;
        };
        *value = match argument.kind {
            Kind::Flag(letter) => parser.flag(letter, wanted.get(at..).unwrap_or_default())?,
            _ => parser.value(argument)?,
        };
    }
    match skip_spaces(parser.rest) {
        [] => Ok(arguments),
        _ => Err(Failed::Usage("extraneous characters at the end of line")),
    }
}

struct Parser<'l, 'o> {
    rest: &'l [u8],
    buffer: &'l mut [u8],
    owner: &'o mut dyn Owner,
    cpu: u32,
}

impl<'l> Parser<'l, '_> {
    /// Takes a flag. `wanted` begins with it: another that comes later may stand here, and then this one is missing.
    fn flag(&mut self, letter: u8, wanted: &[Argument]) -> Result<Value<'l>, Failed<'l>> {
        let rest = skip_spaces(self.rest);
        let [b'-', given @ ..] = rest else {
            return Ok(Value::Absent);
        };
        match given.split_first() {
            Some((given, rest)) if *given == letter => {
                self.rest = rest;
                Ok(Value::Flag)
            }
            Some((given, _)) => {
                let known = |argument: &Argument| argument.kind == Kind::Flag(*given);
                match wanted.iter().any(known) {
                    true => Ok(Value::Absent),
                    false => Err(Failed::Flag(*given)),
                }
            }
            None => Err(Failed::Flag(b' ')),
        }
    }

    fn value(&mut self, argument: &Argument) -> Result<Value<'l>, Failed<'l>> {
        if argument.kind == Kind::Format {
            let (request, rest) = Request::parse(self.rest, self.owner.dump_defaults())?;
            self.rest = rest;
            return Ok(Value::Format(request));
        }
        self.rest = skip_spaces(self.rest);
        if argument.optional && self.rest.is_empty() {
            return Ok(Value::Absent);
        }
        Ok(match argument.kind {
            Kind::Int32 => {
                let value = self.expression()?;
                // Whatever sign they have.
                u32::try_from(value).map_err(|_| Failed::Wide)?;
                Value::Int(value)
            }
            Kind::Int64 => Value::Int(self.expression()?),
            Kind::Switch => {
                let (word, rest) = split(self.rest, is_space);
                self.rest = rest;
                match word {
                    b"on" => Value::Switch(true),
                    b"off" => Value::Switch(false),
                    _ => return Err(Expected::Switch.into()),
                }
            }
            Kind::Text => Value::Text(self.text("string expected")?),
            Kind::File => Value::Text(self.text("filename expected")?),
            Kind::Drive => Value::Text(self.text("block device name expected")?),
            Kind::Size => {
                let (value, rest) = super::block::size(self.rest).ok_or(Expected::Size)?;
                self.rest = rest;
                Value::Int(value)
            }
            Kind::Rest if self.rest.is_empty() => return Err(Failed::Usage("string expected")),
            Kind::Rest => Value::Text(core::mem::take(&mut self.rest)),
            Kind::Flag(_) | Kind::Format => Value::Absent,
        })
    }

    fn expression(&mut self) -> Result<i64, Failed<'l>> {
        let (owner, cpu) = (&mut *self.owner, self.cpu);
        // They are asked for where they are named.
        let mut registers = None;
        let mut lookup = |name: &str| {
            let registers = registers.get_or_insert_with(|| owner.registers(cpu));
            registers
                .as_ref()
                .ok()
                .and_then(|registers| register(registers, name))
        };
        let evaluated = evaluate(self.rest, &mut lookup);
        if let Some(Err(error)) = registers {
            return Err(error.into());
        }
        let (value, rest) = evaluated?;
        self.rest = rest;
        Ok(value)
    }

    /// A word or a string; what is none is told as `wrong`.
    fn text(&mut self, wrong: &'static str) -> Result<&'l [u8], Failed<'l>> {
        let text = match self.rest.strip_prefix(b"\"") {
            Some(quoted) => self.quoted(quoted).ok(),
            None => {
                let (word, rest) = split(self.rest, is_space);
                self.rest = rest;
                (!word.is_empty()).then_some(word)
            }
        };
        text.ok_or(Failed::Usage(wrong))
    }

    /// A string up to its closing quotes.
    fn quoted(&mut self, text: &'l [u8]) -> Result<&'l [u8], Expected> {
        let (string, rest) = unquote(text, core::mem::take(&mut self.buffer))?;
        (self.rest, self.buffer) = (rest.0, rest.1);
        Ok(string)
    }
}

/// What is left of a line, and of a buffer.
type Left<'l> = (&'l [u8], &'l mut [u8]);

/// Takes a string up to its closing quotes, of which `text` is what follows the opening ones.
pub(super) fn unquote<'l>(
    text: &'l [u8],
    buffer: &'l mut [u8],
) -> Result<(&'l [u8], Left<'l>), Expected> {
    let (plain, rest) = split(text, |byte| matches!(byte, b'"' | b'\\'));
    match rest {
        [] => return Err(Expected::Quote),
        [b'"', rest @ ..] => return Ok((plain, (rest, buffer))),
        _ => {}
    }
    let mut length = 0;
    let mut rest = text;
    loop {
        let (byte, after) = match rest {
            [] => return Err(Expected::Quote),
            [b'"', after @ ..] => {
                rest = after;
                break;
            }
            [b'\\', escaped, after @ ..] => match escaped {
                b'n' => (b'\n', after),
                b'r' => (b'\r', after),
                b'\\' | b'\'' | b'"' => (*escaped, after),
                _ => return Err(Expected::Escape(*escaped)),
            },
            [byte, after @ ..] => (*byte, after),
        };
        *buffer.get_mut(length).ok_or(Expected::ShorterString)? = byte;
        length += 1;
        rest = after;
    }
    let (string, buffer) = buffer.split_at_mut(length);
    Ok((string, (rest, buffer)))
}
