//! The grammar: checks a message's tokens and turns them into the tape that `value` reads, in
//! place and without recursion.
//!
//! The first fault in the order of the tokens is the one that is told, in QEMU's words.

use core::str;

use super::lexer::{SIZE_LIMIT_TEXT, TOKENS_LIMIT_TEXT};
use super::unicode;
use super::value::{Kind, Node, after};

/// A stretch of the message's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(super) start: u32,
    pub(super) length: u32,
}

/// Why input is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// A byte that fits no token, with the token before it.
    Stray(Span),
    /// The text is longer than `QMP_MESSAGE_MAX`.
    MessageSize,
    /// There are more tokens than `QMP_TOKENS_MAX`.
    TokenCount,
    /// Brackets are nested deeper than `QMP_NESTING_MAX`.
    Nesting,
    /// A comma, a colon or a closing bracket where a value must be.
    ExpectingValue,
    /// No colon after a member's name.
    MissingColon,
    /// No comma between members.
    SeparatorInObject,
    /// No comma between elements.
    SeparatorInList,
    /// A member's name is not a string.
    KeyNotString,
    /// Two members have one name.
    DuplicateKey,
    /// A bare word that is none of `true`, `false` and `null`.
    Keyword(Span),
    /// A backslash with a character that makes no escape.
    Escape,
    /// A string is not UTF-8, or holds a noncharacter.
    Utf8,
    /// An escape that names no character.
    Unicode(Span),
    /// A number beyond the range of a double.
    NumberRange(Span),
    /// The tokens end inside a value.
    Premature,
}

impl ParseError {
    /// The error's text, to be joined. `text` is that of the parser that gave the error.
    pub fn pieces<'t>(&self, text: &'t [u8]) -> [&'t [u8]; 3] {
        let of = |span: &Span| {
            let start = span.start as usize;
            text.get(start..start + span.length as usize)
                .unwrap_or_default()
        };
        let whole = |text: &'static str| [text.as_bytes(), &[], &[]];
        match self {
            Self::Stray(span) => {
                let token = of(span);
                // The text ends at a zero byte, as C strings do.
                let end = token.iter().position(|&b| b == 0).unwrap_or(token.len());
                [b"JSON parse error, stray '", &token[..end], b"'"]
            }
            Self::MessageSize => whole(SIZE_LIMIT_TEXT),
            Self::TokenCount => whole(TOKENS_LIMIT_TEXT),
            Self::Nesting => whole("JSON nesting depth limit exceeded"),
            Self::ExpectingValue => whole("JSON parse error, expecting value"),
            Self::MissingColon => whole("JSON parse error, missing : in object pair"),
            Self::SeparatorInObject => whole("JSON parse error, expected separator in dict"),
            Self::SeparatorInList => whole("JSON parse error, expected separator in list"),
            Self::KeyNotString => whole("JSON parse error, key is not a string in object"),
            Self::DuplicateKey => whole("JSON parse error, duplicate key"),
            Self::Keyword(span) => [b"JSON parse error, invalid keyword '", of(span), b"'"],
            Self::Escape => whole("JSON parse error, invalid escape sequence in string"),
            Self::Utf8 => whole("JSON parse error, invalid UTF-8 sequence in string"),
            Self::Unicode(span) => [
                b"JSON parse error, ",
                of(span),
                b" is not a valid Unicode character",
            ],
            Self::NumberRange(span) => [b"JSON parse error, number ", of(span), b" out of range"],
            Self::Premature => whole("JSON parse error, premature EOI"),
        }
    }
}

/// What the next token must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A value.
    Value,
    /// A member's name or, after the opening brace, its end.
    KeyOrEnd,
    /// A member's name.
    Key,
    Colon,
    /// An element or the end of the list.
    ValueOrEnd,
    /// A comma or the closing bracket.
    Separator,
}

/// No container around. Indices are below it: `QMP_TOKENS_MAX` is far smaller.
const NO_PARENT: u32 = u32::MAX;

/// Checks the tokens and rewrites them as a tape with the value at its front.
pub(super) fn check(text: &mut [u8], tape: &mut [Node]) -> Result<(), ParseError> {
    // The innermost open container. Its node holds its parent's index in `start`, and in the
    // length whether the container stands where a member's name must be.
    let mut parent = NO_PARENT;
    let mut expect = Expect::Value;
    let mut out = 0;
    for index in 0..tape.len() {
        let token = tape[index];
        let in_object = tape
            .get(parent as usize)
            .is_some_and(|node| node.kind() == Kind::Object);
        let closes = match token.kind() {
            Kind::EndObject => in_object,
            Kind::EndArray => !in_object && parent != NO_PARENT,
            _ => false,
        };
        match expect {
            Expect::Colon => {
                if token.kind() != Kind::Colon {
                    return Err(ParseError::MissingColon);
                }
                expect = Expect::Value;
                continue;
            }
            Expect::Separator if token.kind() == Kind::Comma => {
                expect = if in_object {
                    Expect::Key
                } else {
                    Expect::Value
                };
                continue;
            }
            Expect::Separator | Expect::KeyOrEnd | Expect::ValueOrEnd if closes => {
                let open = parent as usize;
                let (outer, as_key) = (tape[open].start() as u32, tape[open].length() != 0);
                tape[open] = Node::new(tape[open].kind(), out as u32, 0);
                tape[out] = Node::new(token.kind(), 0, 0);
                out += 1;
                parent = outer;
                if as_key {
                    return Err(ParseError::KeyNotString);
                }
                value_done(text, &tape[..out], parent, open)?;
                expect = Expect::Separator;
                continue;
            }
            Expect::Separator if in_object => return Err(ParseError::SeparatorInObject),
            Expect::Separator => return Err(ParseError::SeparatorInList),
            _ => {}
        }
        let as_key = matches!(expect, Expect::Key | Expect::KeyOrEnd);
        let node = match token.kind() {
            Kind::Object | Kind::Array => {
                tape[out] = Node::new(token.kind(), parent, u32::from(as_key));
                parent = out as u32;
                out += 1;
                expect = if token.kind() == Kind::Object {
                    Expect::KeyOrEnd
                } else {
                    Expect::ValueOrEnd
                };
                continue;
            }
            Kind::String => string(text, token)?,
            Kind::Integer | Kind::Float => number(text, token)?,
            Kind::Word => word(text, token)?,
            _ => return Err(ParseError::ExpectingValue),
        };
        if as_key {
            if node.kind() != Kind::String {
                return Err(ParseError::KeyNotString);
            }
            tape[out] = Node::new(Kind::Key, node.start() as u32, node.length() as u32);
            out += 1;
            expect = Expect::Colon;
        } else {
            tape[out] = node;
            out += 1;
            value_done(text, &tape[..out], parent, out - 1)?;
            expect = Expect::Separator;
        }
    }
    if parent == NO_PARENT && out > 0 {
        Ok(())
    } else {
        Err(ParseError::Premature)
    }
}

/// A value at `index` is complete. If it is a member, its name must be new to the object.
fn value_done(text: &[u8], tape: &[Node], parent: u32, index: usize) -> Result<(), ParseError> {
    let parent = parent as usize;
    let Some(Kind::Object) = tape.get(parent).map(|node| node.kind()) else {
        return Ok(());
    };
    let last = index - 1;
    let key = tape[last];
    let mut earlier = parent + 1;
    while earlier < last {
        let other = tape[earlier];
        if other.length() == key.length() && other.bytes(text) == key.bytes(text) {
            return Err(ParseError::DuplicateKey);
        }
        earlier = after(tape, earlier + 1);
    }
    Ok(())
}

fn span(token: Node) -> Span {
    Span {
        start: token.start() as u32,
        length: token.length() as u32,
    }
}

fn word(text: &[u8], token: Node) -> Result<Node, ParseError> {
    let kind = match token.bytes(text) {
        b"true" => Kind::True,
        b"false" => Kind::False,
        b"null" => Kind::Null,
        _ => return Err(ParseError::Keyword(span(token))),
    };
    Ok(Node::new(kind, 0, 0))
}

fn number(text: &[u8], token: Node) -> Result<Node, ParseError> {
    let range = ParseError::NumberRange(span(token));
    let digits = str::from_utf8(token.bytes(text)).map_err(|_| range)?;
    let kind = if token.kind() == Kind::Integer && digits.parse::<i64>().is_ok() {
        Kind::Integer
    } else if token.kind() == Kind::Integer && digits.parse::<u64>().is_ok() {
        Kind::Unsigned
    } else if digits.parse::<f64>().is_ok_and(f64::is_finite) {
        Kind::Float
    } else {
        return Err(range);
    };
    Ok(Node::new(kind, token.start() as u32, token.length() as u32))
}

/// Unescapes a quoted string in place, where it never grows, and checks its UTF-8.
fn string(text: &mut [u8], token: Node) -> Result<Node, ParseError> {
    let end = token.start() + token.length() - 1;
    let start = token.start() + 1;
    let node = |length: usize| Node::new(Kind::String, start as u32, length as u32);
    let plain = text[start..end]
        .iter()
        .position(|&b| b == b'\\' || b >= 0x80)
        .unwrap_or(end - start);
    let (mut from, mut to) = (start + plain, start + plain);
    while from < end {
        if text[from] != b'\\' {
            let (code, length) = unicode::decode(&text[from..end]);
            if code.is_none() {
                return Err(ParseError::Utf8);
            }
            text.copy_within(from..from + length, to);
            from += length;
            to += length;
            continue;
        }
        // The lexer never ends a string right after a backslash.
        let (code, length) = match text.get(from + 1) {
            Some(&escaped @ (b'"' | b'\'' | b'\\' | b'/')) => (u32::from(escaped), 2),
            Some(b'b') => (0x08, 2),
            Some(b'f') => (0x0c, 2),
            Some(b'n') => (u32::from(b'\n'), 2),
            Some(b'r') => (u32::from(b'\r'), 2),
            Some(b't') => (u32::from(b'\t'), 2),
            Some(b'u') => escape(&text[from..end]).map_err(|length| {
                ParseError::Unicode(Span {
                    start: from as u32,
                    // With the closing quote if the escape is cut short.
                    length: (end + 1 - from).min(length) as u32,
                })
            })?,
            _ => return Err(ParseError::Escape),
        };
        let (bytes, count) = unicode::encode(code);
        text[to..to + count].copy_from_slice(&bytes[..count]);
        from += length;
        to += count;
    }
    Ok(node(to - start))
}

/// Reads `\uXXXX`, or a surrogate pair of them: the code point and the length of the escape. One that names no character
/// is told by its length.
fn escape(bytes: &[u8]) -> Result<(u32, usize), usize> {
    const SINGLE: usize = 6;
    const PAIR: usize = 12;
    let unit = bytes.get(2..SINGLE).and_then(hex).ok_or(SINGLE)?;
    let (code, length) = if let 0xd800..=0xdbff = unit {
        let low = match bytes.get(SINGLE..PAIR) {
            Some([b'\\', b'u', digits @ ..]) => hex(digits).ok_or(SINGLE)?,
            _ => return Err(SINGLE),
        };
        if !(0xdc00..=0xdfff).contains(&low) {
            return Err(SINGLE);
        }
        (0x1_0000 + ((unit & 0x3ff) << 10 | low & 0x3ff), PAIR)
    } else {
        (unit, SINGLE)
    };
    match unicode::is_valid(code) {
        true => Ok((code, length)),
        false => Err(length),
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)?)
    })
}
