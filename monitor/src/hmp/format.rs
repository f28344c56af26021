//! Memory and values in the formats of `x`, `xp` and `print`: `/COUNT FORMAT SIZE`.
//!
//! Formats are `x d u o` for numbers, `c` for characters and `i` for instructions; sizes `b h w g` for 1 to 8 bytes.
//! What is left out is as it was the last time.

use core::fmt::{self, Write};

use thimble_core::cpu::decode::{CodeSize, LENGTH_MAX, list};

use super::Text;
use super::expression::Expected;
use super::parse::{is_space, skip_spaces};

/// How values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Hexadecimal,
    Signed,
    Unsigned,
    Octal,
    Character,
    Instruction,
}

/// What `x`, `xp` and `print` do where they are not told: what they did the last time, on whichever monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    format: Format,
    /// Bytes of an item: 1, 2, 4 or 8.
    size: u8,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            format: Format::Hexadecimal,
            size: 4,
        }
    }
}

/// A format as a line asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    count: u64,
    format: Format,
    size: u8,
}

/// Reads guest memory; false if some of it isn't there.
type Read<'r> = dyn FnMut(u64, &mut [u8]) -> bool + 'r;

impl Request {
    /// How many bytes an item has.
    pub(super) const fn size(&self) -> u8 {
        self.size
    }

    /// Takes the format, if the rest of the line has one, and notes it for the next time.
    pub(super) fn parse<'t>(
        text: &'t [u8],
        defaults: &mut Defaults,
    ) -> Result<(Self, &'t [u8]), Expected> {
        let mut rest = skip_spaces(text);
        let (mut count, mut format, mut size) = (1, None, None);
        if let Some(after) = rest.strip_prefix(b"/") {
            rest = after;
            if rest.first().is_some_and(u8::is_ascii_digit) {
                count = 0_u64;
            }
            while let Some((digit @ b'0'..=b'9', after)) = rest.split_first() {
                count = count
                    .saturating_mul(10)
                    .saturating_add(u64::from(digit - b'0'));
                rest = after;
            }
            while let Some((letter, after)) = rest.split_first() {
                match letter {
                    b'x' => format = Some(Format::Hexadecimal),
                    b'd' => format = Some(Format::Signed),
                    b'u' => format = Some(Format::Unsigned),
                    b'o' => format = Some(Format::Octal),
                    b'c' => format = Some(Format::Character),
                    b'i' => format = Some(Format::Instruction),
                    b'b' => size = Some(1),
                    b'h' => size = Some(2),
                    b'w' => size = Some(4),
                    b'g' | b'L' => size = Some(8),
                    _ if is_space(*letter) => break,
                    _ => return Err(Expected::Format(*letter)),
                }
                rest = after;
            }
        }
        let format = format.unwrap_or(defaults.format);
        defaults.format = format;
        // Instructions have the size that they have.
        if format != Format::Instruction {
            defaults.size = size.unwrap_or(defaults.size);
        }
        let request = Self {
            count,
            format,
            size: defaults.size,
        };
        Ok((request, rest))
    }

    /// Writes one value, of whatever size.
    pub(super) fn print(&self, value: i64, text: &mut Text<'_>) -> fmt::Result {
        let bits = value as u64;
        match self.format {
            // As C does: without a sign of their base, zeros.
            Format::Hexadecimal | Format::Octal if value == 0 => text.write_str("0"),
            Format::Hexadecimal => write!(text, "{bits:#x}"),
            Format::Octal => write!(text, "0{bits:o}"),
            Format::Unsigned => write!(text, "{bits}"),
            Format::Signed | Format::Instruction => write!(text, "{value}"),
            Format::Character => character(bits as u32, text),
        }
    }

    /// Writes memory from `address` on, until all is written or some isn't there.
    pub(super) fn dump(
        &self,
        address: u64,
        code: CodeSize,
        read: &mut Read<'_>,
        text: &mut Text<'_>,
    ) -> fmt::Result {
        match self.format {
            Format::Instruction => self.instructions(address, code, read, text),
            _ => self.items(address, read, text),
        }
    }

    fn items(&self, mut address: u64, read: &mut Read<'_>, text: &mut Text<'_>) -> fmt::Result {
        let mut left = self.count.saturating_mul(self.size.into());
        let (line, item) = match (self.size, self.format) {
            (1, _) => (8, 1),
            // Characters are bytes, however many the size makes of them.
            (_, Format::Character) => (16, 1),
            (size, _) => (16, usize::from(size)),
        };
        let mut buffer = [0; 16];
        while left > 0 {
            let length = usize::try_from(left).map_or(line, |left| left.min(line));
            let bytes = &mut buffer[..length];
            write!(text, "{address:016x}:")?;
            if !read(address, bytes) {
                return writeln!(text, " Cannot access memory");
            }
            for bytes in bytes.chunks(item) {
                let value = bytes
                    .iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u64::from(*byte));
                text.write_str(" ")?;
                self.item(value, bytes.len(), text)?;
            }
            writeln!(text)?;
            address = address.wrapping_add(length as u64);
            left -= length as u64;
        }
        Ok(())
    }

    /// A value in columns that are wide enough for any of its size; for octal ones almost.
    fn item(&self, value: u64, bytes: usize, text: &mut Text<'_>) -> fmt::Result {
        let bits = 8 * bytes;
        match self.format {
            Format::Hexadecimal => write!(text, "0x{value:0width$x}", width = bits / 4),
            Format::Octal => {
                let mut digits = heapless::String::<24>::new();
                // 22 digits are the most.
                let _ = match value {
                    0 => digits.write_str("0"),
                    _ => write!(digits, "0{value:o}"),
                };
                write!(text, "{digits:>width$}", width = bits.div_ceil(3))
            }
            Format::Signed if bytes == 8 => write!(text, "{:>20}", value as i64),
            Format::Character => character(value as u32, text),
            _ => write!(text, "{value:>width$}", width = (10 * bits).div_ceil(33)),
        }
    }

    fn instructions(
        &self,
        mut address: u64,
        code: CodeSize,
        read: &mut Read<'_>,
        text: &mut Text<'_>,
    ) -> fmt::Result {
        let mut buffer = [0; LENGTH_MAX];
        for _ in 0..self.count {
            let here = fetch(address, &mut buffer, read);
            let length = list(text, address, here, code)?;
            if length == 0 {
                return writeln!(text, "{address:#010x}: unable to read memory");
            }
            address = address.wrapping_add(length as u64);
        }
        Ok(())
    }
}

/// Reads as much of an instruction as there is.
fn fetch<'b>(address: u64, buffer: &'b mut [u8; LENGTH_MAX], read: &mut Read<'_>) -> &'b [u8] {
    if read(address, buffer) {
        return buffer;
    }
    let mut length = 0;
    for (at, byte) in (0..).zip(buffer.iter_mut()) {
        if !read(address.wrapping_add(at), core::slice::from_mut(byte)) {
            break;
        }
        length += 1;
    }
    &buffer[..length]
}

/// A character in apostrophes, as in C.
fn character(value: u32, text: &mut Text<'_>) -> fmt::Result {
    match u8::try_from(value) {
        Ok(byte @ (b'\'' | b'\\')) => write!(text, "'\\{}'", char::from(byte)),
        Ok(b'\n') => text.write_str("'\\n'"),
        Ok(b'\r') => text.write_str("'\\r'"),
        Ok(byte @ b' '..=b'~') => write!(text, "'{}'", char::from(byte)),
        _ => write!(text, "'\\x{value:02x}'"),
    }
}
