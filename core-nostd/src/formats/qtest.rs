//! The qtest protocol: request lines that device tests send in place of a guest.
//!
//! Each request is one line of words with single spaces between them; it gets one line in answer,
//! `OK …` or `FAIL …`. Numbers are decimal, hexadecimal behind `0x` or octal behind `0`. This
//! module splits input into lines and lines into requests; `machine::qtest` carries them out.

use core::fmt;

use crate::devices::Width;

/// Bytes of the longest request line: room for a `write` of 512 KiB.
pub const LINE_MAX: usize = 1 << 20;

/// Bytes that one request reads at most.
pub const READ_MAX: u64 = 1 << 20;

/// Bytes that one `memset` writes at most.
pub const MEMSET_MAX: u64 = 1 << 30;

/// How bytes are written in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `0x` and two digits a byte.
    Hexadecimal,
    /// Base64 as in RFC 4648 section 4.
    Base64,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `inb`, `inw`, `inl`.
    In(u16, Width),
    /// `outb`, `outw`, `outl`.
    Out(u16, Width, u32),
    /// `readb` to `readq`.
    Read(u64, Width),
    /// `writeb` to `writeq`.
    Write(u64, Width, u64),
    /// `read`, `b64read`: address and number of bytes, at most [`READ_MAX`].
    ReadBytes(u64, u64, Encoding),
    /// `write`, `b64write`: address, number of bytes, and the text that holds them. What the text
    /// lacks is written as zeros, what it has too much is passed over.
    WriteBytes(u64, u64, Encoding, &'a str),
    /// `memset`: address, number of bytes, value.
    Fill(u64, u64, u8),
    /// `endianness`.
    Endianness,
    /// `irq_intercept_in`: reports changes of the inputs of this device from now on.
    InterceptIn(&'a str),
    /// `irq_intercept_out`: reports changes of the outputs of this device from now on.
    InterceptOut(&'a str),
    /// `set_irq_in`: drives an input of a device.
    SetIrqIn {
        /// The device.
        device: &'a str,
        /// The group of inputs.
        name: &'a str,
        /// Which one.
        number: u64,
        /// Its new level.
        level: bool,
    },
    /// `clock_step`: by nanoseconds, or to the next timer.
    ClockStep(Option<u64>),
    /// `clock_set`: to this time in nanoseconds.
    ClockSet(u64),
}

/// Why a line is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError<'a> {
    /// No such verb.
    Unknown(&'a str),
    /// The verb wants more words: this one is missing.
    Missing(&'static str),
    /// The word, named, is not a number of its range.
    Number(&'static str, &'a str),
    /// More bytes than a request may name.
    Size(u64),
    /// The data word is not `0x` and digits, or not base64.
    Data,
    /// The data word has no room for `0x` and a digit.
    Digits,
    /// The line is longer than [`LINE_MAX`].
    Long,
    /// The line is not UTF-8.
    Encoding,
}

impl fmt::Display for RequestError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(verb) => write!(f, "Unknown command '{verb}'"),
            Self::Missing(what) => write!(f, "Missing {what}"),
            Self::Number(what, word) => write!(f, "Invalid {what} '{word}'"),
            Self::Size(most) => write!(f, "Invalid size: at most {most} bytes"),
            Self::Data => f.write_str("Invalid data"),
            Self::Digits => f.write_str("invalid argument size"),
            Self::Long => write!(f, "Line longer than {LINE_MAX} bytes"),
            Self::Encoding => f.write_str("Line is not UTF-8"),
        }
    }
}

/// The words of a line, taken one by one.
struct Words<'a>(core::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn word(&mut self, what: &'static str) -> Result<&'a str, RequestError<'a>> {
        self.0.next().ok_or(RequestError::Missing(what))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, RequestError<'a>> {
        let word = self.word(what)?;
        number(word).ok_or(RequestError::Number(what, word))
    }

    fn port(&mut self) -> Result<u16, RequestError<'a>> {
        let word = self.word("port")?;
        let port = number(word).and_then(|port| port.try_into().ok());
        port.ok_or(RequestError::Number("port", word))
    }
}

/// A number as strtoull(3) reads it, but whole and in range: a minus sign makes the two's complement.
fn number(word: &str) -> Option<u64> {
    if let Some(word) = word.strip_prefix('-') {
        return natural(word).map(u64::wrapping_neg);
    }
    natural(word)
}

fn natural(word: &str) -> Option<u64> {
    let lower = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let (digits, radix) = match (lower, word.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (word, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn width(letter: &str) -> Option<Width> {
    match letter {
        "b" => Some(Width::Byte),
        "w" => Some(Width::Word),
        "l" => Some(Width::Dword),
        "q" => Some(Width::Qword),
        _ => None,
    }
}

/// Reads one line, without its line end.
pub fn parse(line: &str) -> Result<Request<'_>, RequestError<'_>> {
    let mut words = Words(line.split(' '));
    let verb = words.word("command")?;
    let sized = |prefix: &str| verb.strip_prefix(prefix).and_then(width);
    let limit = |size, most| {
        if size > most {
            Err(RequestError::Size(most))
        } else {
            Ok(size)
        }
    };
    Ok(match verb {
        "inb" | "inw" | "inl" => Request::In(words.port()?, sized("in").unwrap_or(Width::Byte)),
        "outb" | "outw" | "outl" => Request::Out(
            words.port()?,
            sized("out").unwrap_or(Width::Byte),
            words.number("value")? as u32,
        ),
        "readb" | "readw" | "readl" | "readq" => Request::Read(
            words.number("address")?,
            sized("read").unwrap_or(Width::Byte),
        ),
        "writeb" | "writew" | "writel" | "writeq" => Request::Write(
            words.number("address")?,
            sized("write").unwrap_or(Width::Byte),
            words.number("value")?,
        ),
        "read" | "b64read" => {
            let (gpa, size) = (words.number("address")?, words.number("size")?);
            // A `read` of nothing would have to answer with a number without digits.
            if size == 0 && verb == "read" {
                return Err(RequestError::Number("size", "0"));
            }
            Request::ReadBytes(gpa, limit(size, READ_MAX)?, encoding(verb))
        }
        "write" | "b64write" => {
            let (gpa, size) = (words.number("address")?, words.number("size")?);
            let data = words.word("data")?;
            if verb == "write" && data.len() < 3 {
                return Err(RequestError::Digits);
            }
            Request::WriteBytes(gpa, limit(size, READ_MAX)?, encoding(verb), data)
        }
        "memset" => {
            let (gpa, size) = (words.number("address")?, words.number("size")?);
            Request::Fill(
                gpa,
                limit(size, MEMSET_MAX)?,
                words.number("pattern")? as u8,
            )
        }
        "endianness" => Request::Endianness,
        "irq_intercept_in" => Request::InterceptIn(words.word("device")?),
        "irq_intercept_out" => Request::InterceptOut(words.word("device")?),
        "set_irq_in" => Request::SetIrqIn {
            device: words.word("device")?,
            name: words.word("name")?,
            number: words.number("number")?,
            level: words.number("level")? != 0,
        },
        "clock_step" => Request::ClockStep(match words.0.next() {
            None => None,
            Some(word) => Some(number(word).ok_or(RequestError::Number("nanoseconds", word))?),
        }),
        "clock_set" => Request::ClockSet(words.number("nanoseconds")?),
        _ => return Err(RequestError::Unknown(verb)),
    })
}

fn encoding(verb: &str) -> Encoding {
    match verb {
        "b64read" | "b64write" => Encoding::Base64,
        _ => Encoding::Hexadecimal,
    }
}

/// The bytes that a data word holds, one by one.
pub fn decode(
    text: &str,
    encoding: Encoding,
) -> Result<impl Iterator<Item = u8>, RequestError<'_>> {
    let (digits, bits) = match encoding {
        Encoding::Hexadecimal => {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(RequestError::Data);
            }
            (digits, 4)
        }
        Encoding::Base64 => {
            let digits = text.trim_end_matches('=');
            if !text.len().is_multiple_of(4)
                || text.len() - digits.len() > 2
                || !digits.bytes().all(|c| sextet(c).is_some())
            {
                return Err(RequestError::Data);
            }
            (digits, 6)
        }
    };
    let mut digits = digits.bytes();
    let (mut held, mut bits_held) = (0u32, 0);
    Ok(core::iter::from_fn(move || {
        while bits_held < 8 {
            let digit = digits.next()?;
            let value = match encoding {
                Encoding::Hexadecimal => char::from(digit).to_digit(16)?,
                Encoding::Base64 => sextet(digit)?,
            };
            held = held << bits | value;
            bits_held += bits;
        }
        bits_held -= 8;
        let byte = (held >> bits_held) as u8;
        held &= (1 << bits_held) - 1;
        Some(byte)
    }))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// Writes bytes in pieces as base64; pieces but the last are multiples of 3 bytes.
pub fn encode_base64(bytes: &[u8], to: &mut impl fmt::Write) -> fmt::Result {
    for group in bytes.chunks(3) {
        let held = group
            .iter()
            .fold(0u32, |held, byte| held << 8 | u32::from(*byte));
        let held = held << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = if place > group.len() {
                b'='
            } else {
                ALPHABET[(held >> (18 - 6 * place) & 63) as usize]
            };
            to.write_char(digit.into())?;
        }
    }
    Ok(())
}

/// Puts input together to lines.
#[derive(Debug)]
pub struct LineBuffer<'b> {
    buffer: &'b mut [u8],
    length: usize,
    overlong: bool,
}

impl<'b> LineBuffer<'b> {
    /// An empty line in `buffer`, whose length is the longest line that is accepted.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self {
            buffer,
            length: 0,
            overlong: false,
        }
    }

    /// Takes input up to the first line end. Returns how many bytes it took, and the line if it
    /// is complete: it stands until the next call.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Result<&str, RequestError<'static>>>) {
        let end = input.iter().position(|byte| *byte == b'\n');
        let piece = &input[..end.unwrap_or(input.len())];
        match self.buffer.get_mut(self.length..self.length + piece.len()) {
            Some(room) if !self.overlong => {
                room.copy_from_slice(piece);
                self.length += piece.len();
            }
            _ => self.overlong = true,
        }
        if end.is_none() {
            return (piece.len(), None);
        }
        let length = core::mem::take(&mut self.length);
        let line = &self.buffer[..length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = match core::mem::take(&mut self.overlong) {
            true => Err(RequestError::Long),
            false => core::str::from_utf8(line).map_err(|_| RequestError::Encoding),
        };
        (piece.len() + 1, Some(line))
    }

    /// Forgets what has come of the current line.
    pub fn clear(&mut self) {
        self.length = 0;
        self.overlong = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn requests() {
        assert_eq!(parse("inw 0x3f8"), Ok(Request::In(0x3f8, Width::Word)));
        assert_eq!(
            parse("outl 0xcf8 2147483648"),
            Ok(Request::Out(0xcf8, Width::Dword, 1 << 31))
        );
        assert_eq!(
            parse("writeq 010 5"),
            Ok(Request::Write(8, Width::Qword, 5))
        );
        assert_eq!(
            parse("outl 1 -2"),
            Ok(Request::Out(1, Width::Dword, u32::MAX - 1))
        );
        assert_eq!(parse("clock_step"), Ok(Request::ClockStep(None)));
        assert_eq!(
            parse("write 0x10 2 0x1234"),
            Ok(Request::WriteBytes(
                0x10,
                2,
                Encoding::Hexadecimal,
                "0x1234"
            ))
        );
    }

    #[test]
    fn malformed_lines() {
        assert_eq!(parse(""), Err(RequestError::Unknown("")));
        assert_eq!(parse("inx 1"), Err(RequestError::Unknown("inx")));
        assert_eq!(parse("inb"), Err(RequestError::Missing("port")));
        assert_eq!(
            parse("inb 0x10000"),
            Err(RequestError::Number("port", "0x10000"))
        );
        assert_eq!(parse("outb 1  2"), Err(RequestError::Number("value", "")));
        assert_eq!(parse("outb -1 2"), Err(RequestError::Number("port", "-1")));
        assert_eq!(
            parse("outb 1 --2"),
            Err(RequestError::Number("value", "--2"))
        );
        assert_eq!(parse("write 0 0 0x"), Err(RequestError::Digits));
        assert_eq!(
            parse("readb 08"),
            Err(RequestError::Number("address", "08"))
        );
        assert_eq!(parse("read 0 0"), Err(RequestError::Number("size", "0")));
        assert_eq!(parse("read 0 0x100001"), Err(RequestError::Size(READ_MAX)));
        assert!(decode("0x1g", Encoding::Hexadecimal).is_err());
        assert!(decode("AQI", Encoding::Base64).is_err());
        assert!(decode("A===", Encoding::Base64).is_err());
    }

    #[test]
    fn encodings() {
        for length in 0..20u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(37) ^ 0xa5).collect();
            let mut text = String::new();
            encode_base64(&bytes, &mut text).unwrap();
            let back: Vec<u8> = decode(&text, Encoding::Base64).unwrap().collect();
            assert_eq!(back, bytes, "{text}");
        }
        let bytes: Vec<u8> = decode("0x0aFf1", Encoding::Hexadecimal).unwrap().collect();
        assert_eq!(bytes, [0x0a, 0xff]);
    }

    #[test]
    fn lines_in_pieces() {
        let mut buffer = [0; 8];
        let mut lines = LineBuffer::new(&mut buffer);
        assert_eq!(lines.feed(b"in"), (2, None));
        assert_eq!(lines.feed(b"b 1\r\nrest"), (5, Some(Ok("inb 1"))));
        assert_eq!(lines.feed(b"much too long"), (13, None));
        assert_eq!(lines.feed(b"x\n"), (2, Some(Err(RequestError::Long))));
        assert_eq!(
            lines.feed(b"\xff\n"),
            (2, Some(Err(RequestError::Encoding)))
        );
        assert_eq!(lines.feed(b"\n"), (1, Some(Ok(""))));
    }
}
