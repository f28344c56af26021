//! The writer: JSON into a sink, printed as QEMU prints it.
//!
//! Everything is ASCII: other characters are escaped as UTF-16 units with upper-case digits, DEL
//! and control characters too. Doubles have 17 significant digits. A colon and a comma are
//! followed by a space.

use core::fmt::{self, Write as _};

use super::unicode;
use super::value::{Kind, Value};

/// The sink has no room for what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkFull;

impl fmt::Display for SinkFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the output is full")
    }
}

/// Where bytes go.
pub trait Sink {
    /// Takes all of `bytes`, or none with [`SinkFull`].
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull>;
}

impl<const N: usize> Sink for heapless::Vec<u8, N> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.extend_from_slice(bytes).map_err(|_| SinkFull)
    }
}

/// Writes JSON values. Commas come by themselves; brackets and keys are the caller's.
pub struct Writer<'s, S: Sink> {
    sink: &'s mut S,
    comma: bool,
}

impl<'s, S: Sink> Writer<'s, S> {
    /// A writer for one value.
    pub fn new(sink: &'s mut S) -> Self {
        Self { sink, comma: false }
    }

    fn item(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self.comma {
            self.sink.put(b", ")?;
        }
        self.comma = true;
        self.sink.put(bytes)
    }

    /// `{`
    pub fn begin_object(&mut self) -> Result<(), SinkFull> {
        self.item(b"{")?;
        self.comma = false;
        Ok(())
    }

    /// `}`
    pub fn end_object(&mut self) -> Result<(), SinkFull> {
        self.comma = true;
        self.sink.put(b"}")
    }

    /// `[`
    pub fn begin_array(&mut self) -> Result<(), SinkFull> {
        self.item(b"[")?;
        self.comma = false;
        Ok(())
    }

    /// `]`
    pub fn end_array(&mut self) -> Result<(), SinkFull> {
        self.comma = true;
        self.sink.put(b"]")
    }

    /// A member's name.
    pub fn key(&mut self, name: &[u8]) -> Result<(), SinkFull> {
        self.bytes(name)?;
        self.comma = false;
        self.sink.put(b": ")
    }

    /// A string of bytes that should be UTF-8; what is not becomes U+FFFD.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.item(b"\"")?;
        write_escaped(self.sink, bytes)?;
        self.sink.put(b"\"")
    }

    /// A value that is JSON already; characters that are not printable ASCII are escaped.
    pub fn raw(&mut self, json: &[u8]) -> Result<(), SinkFull> {
        self.item(b"")?;
        write_json(self.sink, json)
    }

    /// A string.
    pub fn str(&mut self, text: &str) -> Result<(), SinkFull> {
        self.bytes(text.as_bytes())
    }

    /// An integer.
    pub fn int(&mut self, value: i64) -> Result<(), SinkFull> {
        self.print(format_args!("{value}"))
    }

    /// An integer without sign.
    pub fn uint(&mut self, value: u64) -> Result<(), SinkFull> {
        self.print(format_args!("{value}"))
    }

    fn print(&mut self, text: fmt::Arguments<'_>) -> Result<(), SinkFull> {
        let mut buffer = heapless::String::<32>::new();
        buffer.write_fmt(text).map_err(|_| SinkFull)?;
        self.item(buffer.as_bytes())
    }

    /// A finite double, with 17 significant digits. JSON has no others: they become `null`.
    pub fn float(&mut self, value: f64) -> Result<(), SinkFull> {
        if !value.is_finite() {
            return self.null();
        }
        let mut buffer = heapless::String::<32>::new();
        print_double(&mut buffer, value).map_err(|_| SinkFull)?;
        self.item(buffer.as_bytes())
    }

    /// `true` or `false`.
    pub fn bool(&mut self, value: bool) -> Result<(), SinkFull> {
        self.item(if value { b"true" } else { b"false" })
    }

    /// `null`
    pub fn null(&mut self) -> Result<(), SinkFull> {
        self.item(b"null")
    }

    /// Any part of a parsed message.
    pub fn value(&mut self, value: Value<'_>) -> Result<(), SinkFull> {
        for node in value.nodes() {
            match node.kind() {
                Kind::Object => self.begin_object(),
                Kind::EndObject => self.end_object(),
                Kind::Array => self.begin_array(),
                Kind::EndArray => self.end_array(),
                Kind::Key => self.key(node.bytes().unwrap_or_default()),
                Kind::String => self.bytes(node.bytes().unwrap_or_default()),
                Kind::Integer => self.int(node.int().unwrap_or_default()),
                Kind::Unsigned => self.uint(node.uint().unwrap_or_default()),
                Kind::Float => self.float(node.float().unwrap_or_default()),
                Kind::True => self.bool(true),
                Kind::False => self.bool(false),
                Kind::Null | Kind::Comma | Kind::Colon | Kind::Word => self.null(),
            }?;
        }
        Ok(())
    }
}

/// Writes a part of a parsed message.
pub fn write_value<S: Sink>(sink: &mut S, value: Value<'_>) -> Result<(), SinkFull> {
    Writer::new(sink).value(value)
}

/// Writes a string's inside: bytes that should be UTF-8, escaped. What is not becomes U+FFFD.
pub fn write_escaped<S: Sink + ?Sized>(sink: &mut S, mut bytes: &[u8]) -> Result<(), SinkFull> {
    while !bytes.is_empty() {
        let plain = bytes
            .iter()
            .position(|&b| !matches!(b, 0x20..=0x7e) || b == b'"' || b == b'\\')
            .unwrap_or(bytes.len());
        let (run, rest) = bytes.split_at(plain);
        sink.put(run)?;
        if rest.is_empty() {
            break;
        }
        let (code, length) = unicode::decode(rest);
        bytes = rest.get(length..).unwrap_or_default();
        match code {
            Some(0x22) => sink.put(b"\\\"")?,
            Some(0x5c) => sink.put(b"\\\\")?,
            Some(0x08) => sink.put(b"\\b")?,
            Some(0x0c) => sink.put(b"\\f")?,
            Some(0x0a) => sink.put(b"\\n")?,
            Some(0x0d) => sink.put(b"\\r")?,
            Some(0x09) => sink.put(b"\\t")?,
            code => character(sink, code)?,
        }
    }
    Ok(())
}

/// Writes what is JSON already, with the characters in its strings escaped that are not printable ASCII.
pub fn write_json<S: Sink>(sink: &mut S, mut json: &[u8]) -> Result<(), SinkFull> {
    while !json.is_empty() {
        let plain = json.iter().position(|&b| b >= 0x7f).unwrap_or(json.len());
        let (run, rest) = json.split_at(plain);
        sink.put(run)?;
        if rest.is_empty() {
            break;
        }
        let (code, length) = unicode::decode(rest);
        json = rest.get(length..).unwrap_or_default();
        character(sink, code)?;
    }
    Ok(())
}

/// A character by its UTF-16 units; U+FFFD for none.
fn character<S: Sink + ?Sized>(sink: &mut S, code: Option<u32>) -> Result<(), SinkFull> {
    match code {
        Some(code) if code > 0xffff => {
            let pair = code - 0x1_0000;
            unit(sink, 0xd800 | pair >> 10)?;
            unit(sink, 0xdc00 | pair & 0x3ff)
        }
        Some(code) => unit(sink, code),
        None => unit(sink, 0xfffd),
    }
}

fn unit<S: Sink + ?Sized>(sink: &mut S, unit: u32) -> Result<(), SinkFull> {
    let digit = |shift: u32| b"0123456789ABCDEF"[(unit >> shift & 0xf) as usize];
    sink.put(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)])
}

/// Prints as C's `%.17g` does: 17 significant digits without trailing zeros, with an exponent if
/// that is below -4 or above 16.
fn print_double(out: &mut heapless::String<32>, value: f64) -> fmt::Result {
    let mut scientific = heapless::String::<32>::new();
    write!(scientific, "{:.16e}", value.abs())?;
    let (mantissa, exponent) = scientific.split_once('e').ok_or(fmt::Error)?;
    let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
    let mut digits = heapless::String::<20>::new();
    for digit in mantissa.chars().filter(|&c| c != '.') {
        digits.push(digit).map_err(|_| fmt::Error)?;
    }
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    if value.is_sign_negative() {
        out.write_str("-")?;
    }
    if !(-4..=16).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        out.write_str(first)?;
        if !rest.is_empty() {
            write!(out, ".{rest}")?;
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(out, "e{sign}{:02}", exponent.unsigned_abs());
    }
    if exponent < 0 {
        out.write_str("0.")?;
        for _ in 0..-exponent - 1 {
            out.write_str("0")?;
        }
        return out.write_str(digits);
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        return write!(out, "{digits:0<whole$}");
    }
    let (integer, fraction) = digits.split_at(whole);
    write!(out, "{integer}.{fraction}")
}
