//! Expressions of the human monitor: 64-bit integers, registers, and operators.
//!
//! Three levels bind ever tighter: `+ -`; `& | ^`; `* / %`; all of one level go from left to right. Before a value stand
//! any number of `+ - ~`. Values are numbers as C writes them (0x16, 020, 16), `'c'`, `$register` and `(expression)`.
//! Arithmetic wraps, and division is signed.
//!
//! Registers have the names of QEMU's monitor (`$eax` to `$edi` whatever their width, `$r8` to `$r15`, `$eflags`, `$eip`,
//! `$pc`, the segments with `.base` and `.limit`), and besides these of the Intel SDM in 64-bit mode.

use core::fmt;

use thimble_core::cpu::{Registers, gpr};

use super::parse::{is_space, skip_spaces, split};

/// Parentheses that may be open at a time.
pub(super) const NESTING_MAX: u32 = 64;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Something behind its end.
    More,
    /// A value instead of this byte.
    Value(u8),
    /// A number that fits 64 bits.
    SmallerNumber,
    /// A register of some other name.
    Register,
    /// A character behind `'`.
    Character,
    /// A `'` behind a character.
    Apostrophe,
    /// A `"` that ends a string.
    Quote,
    /// A `)`.
    Parenthesis,
    /// Fewer `(`: see [`NESTING_MAX`].
    LessNesting,
    /// A divisor other than zero.
    Divisor,
    /// A letter of a format instead of this byte.
    Format(u8),
    /// `on` or `off`.
    Switch,
    /// A number of bytes.
    Size,
    /// Something else than this behind a `\`.
    Escape(u8),
    /// Less in quotes: see [`STRING_MAX`](super::STRING_MAX).
    ShorterString,
}

/// A byte of a line in a message. Half a character is none.
pub(super) fn shown(byte: u8) -> char {
    match byte.is_ascii() {
        true => char::from(byte),
        false => char::REPLACEMENT_CHARACTER,
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::More => f.write_str("unexpected end of expression"),
            Self::Value(byte) => write!(f, "invalid char '{}' in expression", shown(byte)),
            Self::SmallerNumber => f.write_str("number too large"),
            Self::Register => f.write_str("unknown register"),
            Self::Character => f.write_str("character constant expected"),
            Self::Apostrophe => f.write_str("missing terminating ' character"),
            Self::Quote => f.write_str("unterminated string literal"),
            Self::Parenthesis => f.write_str("')' expected"),
            Self::LessNesting => {
                write!(f, "parentheses are nested more than {NESTING_MAX} deep")
            }
            Self::Divisor => f.write_str("division by zero"),
            Self::Format(byte) => write!(f, "invalid char in format: '{}'", shown(byte)),
            Self::Switch => f.write_str("Expected 'on' or 'off'"),
            Self::Size => f.write_str("invalid size"),
            Self::Escape(byte) => write!(f, "unsupported escape code: '\\{}'", shown(byte)),
            Self::ShorterString => f.write_str("string too long"),
        }
    }
}

/// Tells a register's value by its name, if there is such a one.
pub(super) type Lookup<'r> = dyn FnMut(&str) -> Option<u64> + 'r;

/// Evaluates the expression that `text` begins with, and returns what stands behind it.
pub(super) fn evaluate<'t>(
    text: &'t [u8],
    registers: &mut Lookup<'_>,
) -> Result<(i64, &'t [u8]), Expected> {
    let mut cursor = Cursor {
        rest: text,
        registers,
        open: 0,
    };
    let value = cursor.sum()?;
    Ok((value, cursor.rest))
}

struct Cursor<'t, 'r> {
    rest: &'t [u8],
    registers: &'r mut Lookup<'r>,
    open: u32,
}

impl<'t> Cursor<'t, '_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Goes past a byte, and spaces behind it.
    fn skip(&mut self) {
        self.rest = skip_spaces(self.rest.get(1..).unwrap_or_default());
    }

    /// Takes one of these operators.
    fn operator(&mut self, known: &[u8]) -> Option<u8> {
        let operator = self.peek().filter(|byte| known.contains(byte))?;
        self.skip();
        Some(operator)
    }

    fn sum(&mut self) -> Result<i64, Expected> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator(b"+-") {
            let other = self.logic()?;
            value = match operator {
                b'+' => value.wrapping_add(other),
                _ => value.wrapping_sub(other),
            };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, Expected> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator(b"&|^") {
            let other = self.product()?;
            value = match operator {
                b'&' => value & other,
                b'|' => value | other,
                _ => value ^ other,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, Expected> {
        let mut value = self.signed()?;
        while let Some(operator) = self.operator(b"*/%") {
            let other = self.signed()?;
            value = match operator {
                b'*' => value.wrapping_mul(other),
                _ if other == 0 => return Err(Expected::Divisor),
                b'/' => value.wrapping_div(other),
                _ => value.wrapping_rem(other),
            };
        }
        Ok(value)
    }

    /// A value with signs before it. Each is applied to all on its right, so together they multiply by 1 or -1 and add
    /// a number: no recursion is needed.
    fn signed(&mut self) -> Result<i64, Expected> {
        let (mut factor, mut addend) = (1_i64, 0_i64);
        while let Some(sign) = self.operator(b"+-~") {
            match sign {
                b'-' => factor = -factor,
                // The complement is the negative, less one.
                b'~' => {
                    addend = addend.wrapping_sub(factor);
                    factor = -factor;
                }
                _ => {}
            }
        }
        Ok(self.value()?.wrapping_mul(factor).wrapping_add(addend))
    }

    fn value(&mut self) -> Result<i64, Expected> {
        match self.peek().ok_or(Expected::More)? {
            b'(' => {
                if self.open >= NESTING_MAX {
                    return Err(Expected::LessNesting);
                }
                self.skip();
                self.open += 1;
                let value = self.sum()?;
                self.open -= 1;
                self.operator(b")").ok_or(Expected::Parenthesis)?;
                Ok(value)
            }
            b'\'' => match *self.rest.get(1..).unwrap_or_default() {
                [] => Err(Expected::Character),
                [character, b'\'', ..] => {
                    self.rest = self.rest.get(2..).unwrap_or_default();
                    self.skip();
                    Ok(character.into())
                }
                _ => Err(Expected::Apostrophe),
            },
            b'$' => {
                let name = self.rest.get(1..).unwrap_or_default();
                let (name, rest) = split(name, |byte| {
                    !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
                });
                self.rest = skip_spaces(rest);
                let name = core::str::from_utf8(name).unwrap_or_default();
                let value = (self.registers)(name).ok_or(Expected::Register)?;
                // From 2^63 up: negative.
                Ok(value as i64)
            }
            first => {
                let (value, rest) = number(self.rest, first)?;
                self.rest = skip_spaces(rest);
                Ok(value as i64)
            }
        }
    }
}

/// A number as C's strtoull takes it: as far as its digits go.
fn number(text: &[u8], first: u8) -> Result<(u64, &[u8]), Expected> {
    let (base, digits) = match *text {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => {
            (16, text.get(2..).unwrap_or_default())
        }
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let (digits, rest) = split(digits, |byte| !char::from(byte).is_digit(base));
    if digits.is_empty() {
        debug_assert!(!is_space(first));
        return Err(Expected::Value(first));
    }
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(base)?;
        value.checked_mul(base.into())?.checked_add(digit.into())
    });
    Ok((value.ok_or(Expected::SmallerNumber)?, rest))
}

/// A register's value by its name.
pub(super) fn register(registers: &Registers, name: &str) -> Option<u64> {
    /// In the order of encodings.
    const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
    let at = |index: usize| registers.gpr.get(index).copied();
    match name {
        "eax" | "rax" => at(gpr::RAX),
        "ecx" | "rcx" => at(gpr::RCX),
        "edx" | "rdx" => at(gpr::RDX),
        "ebx" | "rbx" => at(gpr::RBX),
        "esp" | "sp" | "rsp" => at(gpr::RSP),
        "ebp" | "fp" | "rbp" => at(gpr::RBP),
        "esi" | "rsi" => at(gpr::RSI),
        "edi" | "rdi" => at(gpr::RDI),
        "eflags" | "rflags" => Some(registers.rflags),
        "eip" | "rip" => Some(registers.rip),
        "pc" => Some(registers.cs().base.wrapping_add(registers.rip)),
        _ => {
            if let Some(number) = name.strip_prefix('r') {
                // Not `r08`.
                let number = match number.as_bytes() {
                    [digit @ b'8'..=b'9'] => digit - b'0',
                    [b'1', digit @ b'0'..=b'5'] => 10 + digit - b'0',
                    _ => return None,
                };
                return at(number.into());
            }
            let (segment, part) = match name.split_once('.') {
                Some((segment, part)) => (segment, Some(part)),
                None => (name, None),
            };
            let number = SEGMENTS.iter().position(|known| *known == segment)?;
            let segment = registers.segments.get(number)?;
            match part {
                None => Some(segment.selector.into()),
                Some("base") => Some(segment.base),
                Some("limit") => Some(segment.limit.into()),
                Some(_) => None,
            }
        }
    }
}
