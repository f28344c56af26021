//! Schema types as options take them: a list of `key=value`, or JSON.
//!
//! Keys are paths: `file.driver=x` is a member of a member, `children.0=x` an element of a list. A comma in a value is
//! doubled. Values are text, and become what the schema says: numbers in C's spellings, sizes with a suffix, `on` and
//! `off`. What comes out is parsed and checked like a command's arguments, so both forms mean the same.

use core::fmt::{self, Write as _};

use thimble_core::qmp::{Parser, Sink, SinkFull, Value, write_escaped};

use super::check::{Paths, check_with};
use super::tables::{Builtin, MemberRow, Tables, TypeId, TypeRow};
use crate::error::{Cut, DESC_MAX, Fail};

/// A part of a key is shorter than this.
const PART_MAX: usize = 128;

/// Parts of a key at most: nobody nests deeper, and the stack has an end.
const PARTS_MAX: usize = 64;

/// What is wrong with an option's text: a sentence without a full stop, cut where it is longer than
/// [`DESC_MAX`](crate::DESC_MAX) bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError(heapless::String<DESC_MAX>);

impl OptionError {
    fn new(text: fmt::Arguments<'_>) -> Self {
        let mut cut = Cut::default();
        // A full buffer is the cut.
        let _ = cut.write_fmt(text);
        Self(cut.0)
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A type that an option takes.
pub trait OptionType<'m>: Sized {
    /// The type.
    const KIND: TypeId;
    /// The key of a first value that comes without one.
    const IMPLIED: &'static str;

    /// Reads what has been checked.
    fn read(value: Value<'m>) -> Self;
}

/// Reads an option's argument into the parser, checks it, and returns it.
///
/// # Errors
/// In QEMU's words.
pub fn read_option<'m, T: OptionType<'m>>(
    parser: &'m mut Parser,
    text: &str,
) -> Result<T, OptionError> {
    parse(&super::SCHEMA, T::KIND, T::IMPLIED, parser, text)?;
    Ok(T::read(parser.message()))
}

fn parse(
    tables: &Tables,
    kind: TypeId,
    implied: &str,
    parser: &mut Parser,
    text: &str,
) -> Result<(), OptionError> {
    parser.reset();
    let mut sink = ParserSink {
        parser,
        message: None,
        behind: false,
    };
    let (converted, paths) = if text.starts_with('{') {
        // A limit of the parser is in the message.
        let _ = sink.put(text.as_bytes());
        (Ok(()), Paths::Json)
    } else {
        let given = Given { text, implied };
        given.check()?;
        let mut converter = Converter {
            tables,
            given: &given,
            sink: &mut sink,
        };
        (converter.value(Some(kind), &Path::ROOT), Paths::Keyval)
    };
    let (message, behind) = (sink.message, sink.behind);
    one_value(parser, message, behind, converted)?;
    check_with(tables, kind, Some(parser.message()), paths)
        .map_err(|fail: Fail<'_>| joined(&fail.parts().1))
}

/// What a parser has taken: one value, or an error.
fn one_value(
    parser: &Parser,
    message: Option<Result<(), thimble_core::qmp::ParseError>>,
    behind: bool,
    converted: Result<(), OptionError>,
) -> Result<(), OptionError> {
    match message {
        Some(Err(error)) => Err(joined(&error.pieces(parser.text()))),
        _ if behind => Err(OptionError::new(format_args!(
            "Expecting at most one JSON value"
        ))),
        Some(Ok(())) => converted,
        None => converted.and(Err(OptionError::new(format_args!(
            "JSON parse error, premature EOI"
        )))),
    }
}

/// Reads one JSON value into the parser and returns it.
///
/// # Errors
/// In QEMU's words.
pub fn read_json<'m>(parser: &'m mut Parser, text: &[u8]) -> Result<Value<'m>, OptionError> {
    parser.reset();
    let mut sink = ParserSink {
        parser,
        message: None,
        behind: false,
    };
    // A limit of the parser is in the message; a number ends with the space behind it.
    let _ = sink.put(text).and_then(|()| sink.put(b" "));
    let (message, behind) = (sink.message, sink.behind);
    one_value(parser, message, behind, Ok(()))?;
    Ok(parser.message())
}

fn joined(pieces: &[&[u8]]) -> OptionError {
    let mut text = Cut::default();
    for chunk in pieces.iter().flat_map(|piece| piece.utf8_chunks()) {
        // A full buffer is the cut.
        let _ = text.write_str(chunk.valid());
    }
    OptionError(text.0)
}

/// Feeds a parser with one message.
struct ParserSink<'p> {
    parser: &'p mut Parser,
    message: Option<Result<(), thimble_core::qmp::ParseError>>,
    /// Something came behind the message.
    behind: bool,
}

impl Sink for ParserSink<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), SinkFull> {
        if self.message.is_none() {
            let progress = self.parser.push(bytes);
            self.message = progress.message;
            bytes = bytes.get(progress.consumed..).unwrap_or_default();
        }
        self.behind |= !bytes.trim_ascii().is_empty();
        match self.message {
            Some(Err(_)) => Err(SinkFull),
            _ => Ok(()),
        }
    }
}

/// An option's text.
struct Given<'t> {
    text: &'t str,
    implied: &'t str,
}

/// One `key=value`; commas in the value are still doubled.
#[derive(Clone, Copy)]
struct Entry<'t> {
    key: &'t str,
    value: Option<&'t str>,
}

impl<'t> Given<'t> {
    fn entries(&self) -> impl Iterator<Item = Entry<'t>> + use<'t> {
        let (mut rest, mut implied) = (self.text, Some(self.implied));
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = value_end(rest);
            let (part, after) = rest.split_at(end);
            rest = after.strip_prefix(',').unwrap_or(after);
            let first = implied.take();
            // An equals sign behind a doubled comma belongs to a value.
            let equals = part.find('=').filter(|at| !part[..*at].contains(','));
            Some(match (equals, first) {
                (Some(at), _) => Entry {
                    key: &part[..at],
                    value: Some(&part[at + 1..]),
                },
                (None, Some(implied)) if !implied.is_empty() => Entry {
                    key: implied,
                    value: Some(part),
                },
                (None, _) => Entry {
                    key: part,
                    value: None,
                },
            })
        })
    }

    /// What was given for a path itself; the last one counts.
    fn value(&self, path: &Path<'_>) -> Option<&'t str> {
        let at = self
            .entries()
            .filter(|entry| path.strip(entry.key) == Some(""));
        at.last()?.value
    }

    /// Checks the keys by themselves.
    fn check(&self) -> Result<(), OptionError> {
        for Entry { key, value } in self.entries() {
            let valid = |(index, part): (usize, &str)| {
                let number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                let name = part.starts_with(|c: char| c.is_ascii_alphabetic())
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
                part.len() < PART_MAX && (name || (number && index > 0))
            };
            if !key.split('.').enumerate().all(valid) {
                return Err(OptionError::new(format_args!("Invalid parameter '{key}'")));
            }
            if key.split('.').count() > PARTS_MAX {
                return Err(OptionError::new(format_args!(
                    "A key has more than {PARTS_MAX} parts: '{key}'"
                )));
            }
            if value.is_none() {
                return Err(OptionError::new(format_args!(
                    "Expected '=' after parameter '{key}'"
                )));
            }
        }
        Ok(())
    }
}

/// The length of the part before the next single comma.
fn value_end(text: &str) -> usize {
    let mut at = 0;
    loop {
        match text[at..].find(',') {
            None => return text.len(),
            Some(comma) if text[at + comma + 1..].starts_with(',') => at += comma + 2,
            Some(comma) => return at + comma,
        }
    }
}

/// A key on the way down.
#[derive(Clone, Copy)]
struct Path<'p> {
    outer: Option<&'p Path<'p>>,
    part: &'p str,
}

impl Path<'_> {
    const ROOT: Path<'static> = Path {
        outer: None,
        part: "",
    };

    fn child<'c>(&'c self, part: &'c str) -> Path<'c> {
        Path {
            outer: Some(self),
            part,
        }
    }

    /// What is left of a key below this path; nothing for the path itself.
    fn strip<'k>(&self, key: &'k str) -> Option<&'k str> {
        let Some(outer) = self.outer else {
            return Some(key);
        };
        let rest = outer.strip(key).filter(|rest| !rest.is_empty())?;
        let (part, rest) = rest.split_once('.').unwrap_or((rest, ""));
        same_part(part, self.part).then_some(rest)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outer {
            None => Ok(()),
            Some(outer) if outer.outer.is_none() => f.write_str(self.part),
            Some(outer) => write!(f, "{outer}.{}", self.part),
        }
    }
}

fn index(part: &str) -> Option<u32> {
    part.parse().ok()
}

/// Numbers may have zeros in front.
fn same_part(given: &str, wanted: &str) -> bool {
    given == wanted || (index(given).is_some() && index(given) == index(wanted))
}

/// The parts of keys directly below a path, each once, in their order.
fn parts<'g, 'p>(
    given: &'g Given<'g>,
    path: &'p Path<'p>,
) -> impl Iterator<Item = &'g str> + use<'g, 'p> {
    let part = move |entry: Entry<'g>| {
        let rest = path.strip(entry.key).filter(|rest| !rest.is_empty())?;
        Some(rest.split_once('.').map_or(rest, |(part, _)| part))
    };
    given.entries().enumerate().filter_map(move |(at, entry)| {
        let found = part(entry)?;
        let mut before = given.entries().take(at);
        let repeated = before.any(|entry| part(entry).is_some_and(|p| same_part(p, found)));
        (!repeated).then_some(found)
    })
}

/// Writes what was given as JSON of the schema's types. What does not fit the schema is written as text, for the check to
/// say what is wrong with it.
struct Converter<'c, S: Sink> {
    tables: &'c Tables,
    given: &'c Given<'c>,
    sink: &'c mut S,
}

impl<S: Sink> Converter<'_, S> {
    fn put(&mut self, text: &str) -> Result<(), OptionError> {
        let full = |_| OptionError::new(format_args!("The option is too long"));
        self.sink.put(text.as_bytes()).map_err(full)
    }

    fn print(&mut self, value: fmt::Arguments<'_>) -> Result<(), OptionError> {
        let mut text = heapless::String::<32>::new();
        // Numbers always fit.
        let _ = text.write_fmt(value);
        self.put(&text)
    }

    fn string(&mut self, value: &str) -> Result<(), OptionError> {
        self.put("\"")?;
        // A doubled comma is one.
        for (index, piece) in value.split(",,").enumerate() {
            if index > 0 {
                self.put(",")?;
            }
            let full = |_| OptionError::new(format_args!("The option is too long"));
            write_escaped(self.sink, piece.as_bytes()).map_err(full)?;
        }
        self.put("\"")
    }

    /// Writes what was given for a path, and below it. Without a type, all is text.
    fn value(&mut self, kind: Option<TypeId>, path: &Path<'_>) -> Result<(), OptionError> {
        let given = self.given;
        let value = given.value(path);
        let (mut numbers, mut names) = (0_u32, 0_u32);
        for part in parts(given, path) {
            match index(part) {
                Some(_) => numbers += 1,
                None => names += 1,
            }
        }
        if [value.is_some(), numbers > 0, names > 0]
            .into_iter()
            .filter(|given| *given)
            .count()
            > 1
        {
            return Err(OptionError::new(format_args!(
                "Parameters '{path}.*' used inconsistently"
            )));
        }
        let row = kind.map(|kind| self.tables.kind(kind));
        if let Some(TypeRow::Alternate { branches, .. }) = row {
            let branch = self.tables.members(branches).iter().find(|branch| {
                match self.tables.kind(branch.kind) {
                    TypeRow::Object { .. } => names > 0,
                    TypeRow::Array(_) => numbers > 0,
                    TypeRow::Builtin(Builtin::Str) | TypeRow::Enum { .. } => value.is_some(),
                    _ => false,
                }
            });
            if let Some(branch) = branch {
                return self.value(Some(branch.kind), path);
            }
        }
        match (row, value) {
            (Some(TypeRow::Builtin(builtin)), Some(value)) => self.scalar(builtin, value, path),
            (_, Some(value)) => self.string(value),
            (Some(TypeRow::Array(element)), None) if numbers > 0 => {
                self.list(Some(element), numbers, path)
            }
            (_, None) if numbers > 0 => self.list(None, numbers, path),
            (_, None) => self.object(kind, path),
        }
    }

    fn list(
        &mut self,
        element: Option<TypeId>,
        count: u32,
        path: &Path<'_>,
    ) -> Result<(), OptionError> {
        let given = self.given;
        self.put("[")?;
        for number in 0..count {
            let mut found = parts(given, path).filter(|part| index(part) == Some(number));
            let Some(part) = found.next() else {
                return Err(OptionError::new(format_args!(
                    "Parameter '{path}.{number}' missing"
                )));
            };
            if number > 0 {
                self.put(",")?;
            }
            self.value(element, &path.child(part))?;
        }
        self.put("]")
    }

    fn object(&mut self, kind: Option<TypeId>, path: &Path<'_>) -> Result<(), OptionError> {
        let tables = self.tables;
        let (mut members, mut more): (&[MemberRow], &[MemberRow]) = (&[], &[]);
        if let Some(TypeRow::Object {
            members: own,
            tag,
            variants,
            ..
        }) = kind.map(|kind| tables.kind(kind))
        {
            members = tables.members(own);
            let chosen = members
                .get(usize::from(tag))
                .and_then(|tag| self.given.value(&path.child(tables.name(tag.name))));
            let mut variants = tables.variants(variants).iter();
            let variant = variants.find(|variant| Some(tables.name(variant.case)) == chosen);
            if let Some(TypeRow::Object { members, .. }) = variant.map(|v| tables.kind(v.kind)) {
                more = tables.members(members);
            }
        }
        let given = self.given;
        self.put("{")?;
        for (at, part) in parts(given, path).enumerate() {
            if at > 0 {
                self.put(",")?;
            }
            self.string(part)?;
            self.put(":")?;
            let mut known = members.iter().chain(more);
            let member = known.find(|member| tables.name(member.name) == part);
            self.value(member.map(|member| member.kind), &path.child(part))?;
        }
        self.put("}")
    }

    fn scalar(&mut self, builtin: Builtin, text: &str, path: &Path<'_>) -> Result<(), OptionError> {
        let expects =
            |what: &str| OptionError::new(format_args!("Parameter '{path}' expects {what}"));
        match builtin {
            Builtin::Str | Builtin::Any => self.string(text),
            Builtin::Null if text.is_empty() => self.put("null"),
            Builtin::Null => Err(expects("null")),
            Builtin::Bool => match text {
                "on" | "yes" | "true" | "y" => self.put("true"),
                "off" | "no" | "false" | "n" => self.put("false"),
                _ => Err(expects("'on' or 'off'")),
            },
            Builtin::Number => match text.parse::<f64>() {
                // As it is written: the parser reads it again.
                Ok(number) if number.is_finite() => self.print(format_args!("{number:e}")),
                _ => Err(expects("number")),
            },
            Builtin::Size => match size(text) {
                Some(size) => self.print(format_args!("{size}")),
                None => Err(expects("size")),
            },
            Builtin::Int | Builtin::Int8 | Builtin::Int16 | Builtin::Int32 | Builtin::Int64 => {
                match integer(text).and_then(|number| i64::try_from(number).ok()) {
                    Some(number) => self.print(format_args!("{number}")),
                    None => Err(expects("integer")),
                }
            }
            Builtin::Uint8 | Builtin::Uint16 | Builtin::Uint32 | Builtin::Uint64 => {
                match integer(text) {
                    // Negative numbers count as the two's complement that they are.
                    Some(number) => self.print(format_args!("{}", number as u64)),
                    None => Err(expects("integer")),
                }
            }
        }
    }
}

/// A number as C's `strtoll` reads it: decimal, octal behind `0`, hexadecimal behind `0x`; in 64 bits, with or without sign.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let number = if negative { -number } else { number };
    (number >= i64::MIN.into()).then_some(number)
}

/// A number of bytes: a number, with a fraction if a suffix follows it, and the suffix.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() && !text.starts_with("0x") => {
            let shift = "bkmgtpe".find(suffix.to_ascii_lowercase())? as u32 * 10;
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    if let Some(number) = digits.strip_prefix("0x") {
        return u64::from_str_radix(number, 16).ok();
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if !whole
        .bytes()
        .chain(fraction.bytes())
        .all(|b| b.is_ascii_digit())
        || fraction.is_empty()
    {
        return None;
    }
    let unit = 1_u64 << shift;
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let mut part = 0.0;
    for digit in fraction.bytes().rev() {
        part = (part + f64::from(digit - b'0')) / 10.0;
    }
    // Less than a unit.
    whole.checked_add((part * unit as f64) as u64)
}

#[cfg(test)]
#[allow(unreachable_pub)]
mod tests {
    use std::boxed::Box;
    use std::string::ToString;

    use super::super::tables::*;
    use super::*;

    include!(concat!(env!("OUT_DIR"), "/checks.rs"));

    #[test]
    fn says_what_was_observed() {
        let mut parser = Box::new(Parser::new());
        let mut count = 0;
        for line in include_str!("../../tests/options.list").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (option, rest) = line.split_once(' ').expect("an option");
            let (text, expected) = rest.split_once(" => ").expect("an answer");
            let (command, implied) = match option {
                "blockdev" => ("blockdev-add", "driver"),
                _ => ("object-add", "qom-type"),
            };
            let index = SCHEMA.command(command.as_bytes()).expect(command);
            let kind = SCHEMA.commands[index].arguments;
            let answer = match parse(&SCHEMA, kind, implied, &mut parser, text) {
                Ok(()) => "ok".into(),
                Err(error) => error.to_string(),
            };
            assert_eq!(answer, expected, "{line}");
            count += 1;
        }
        assert!(count > 60);
    }

    #[test]
    fn both_forms_mean_the_same() {
        let mut parser = Box::new(Parser::new());
        let index = SCHEMA.command(b"blockdev-add").unwrap();
        let kind = SCHEMA.commands[index].arguments;
        let mut read = |text: &str| {
            parse(&SCHEMA, kind, "driver", &mut parser, text).unwrap();
            let mut out = heapless::Vec::<u8, 1024>::new();
            thimble_core::qmp::write_value(&mut out, parser.message()).unwrap();
            out
        };
        for (keyval, json) in [
            (
                "quorum,vote-threshold=0x2,children.0=a,,b,children.1.driver=null-co,children.1.size=-010",
                r#"{"driver":"quorum","vote-threshold":2,"children":["a,b",{"driver":"null-co","size":-8}]}"#,
            ),
            (
                "qcow2,file.driver=file,file.filename=x,,,,y,backing=,read-only=on,cache.direct=n",
                r#"{"driver":"qcow2","file":{"driver":"file","filename":"x,,y"},"backing":"","read-only":true,"cache":{"direct":false}}"#,
            ),
            (
                "node-name=a,driver=null-co,node-name=b,latency-ns=-1",
                r#"{"node-name":"b","driver":"null-co","latency-ns":18446744073709551615}"#,
            ),
        ] {
            assert_eq!(read(keyval), read(json), "{keyval}");
        }
    }

    #[test]
    fn sizes_have_suffixes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("0x1000", Some(4096)),
            ("1.5M", Some(3 << 19)),
            ("2k", Some(2048)),
            ("15E", Some(15 << 60)),
            ("16E", None),
            ("1.", None),
            ("-1", None),
            ("4q", None),
            ("4kx", None),
            ("", None),
            ("k", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn hostile_options_are_refused() {
        let mut parser = Box::new(Parser::new());
        let index = SCHEMA.command(b"blockdev-add").unwrap();
        let kind = SCHEMA.commands[index].arguments;
        let mut error = |text: &str| {
            let error = parse(&SCHEMA, kind, "driver", &mut parser, text).unwrap_err();
            error.to_string()
        };
        let deep = "a.".repeat(PARTS_MAX) + "a=1";
        assert!(error(&deep).starts_with("A key has more than 64 parts"));
        assert!(error(&deep["a.".len()..]).contains("'driver' is missing"));
        let deep = "{\"a\":".repeat(2000);
        assert_eq!(error(&deep), "JSON nesting depth limit exceeded");
        let long = "driver=".to_string() + &"x".repeat(200_000);
        assert!(error(&long).contains("131072"));
        for text in [
            ",",
            "=",
            "a=b=c",
            "\u{fc}=1",
            "driver=\u{fc}",
            "a,,b=c",
            "{\"a\"}",
        ] {
            assert!(!error(text).is_empty());
        }
    }
}
