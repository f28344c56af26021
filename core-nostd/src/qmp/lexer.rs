//! The lexer: a byte-by-byte state machine over input in pieces that stores tokens until their
//! brackets balance.
//!
//! Token text is kept without the white space between tokens in one fixed buffer, tokens in one
//! fixed tape; `parser` then checks the grammar on that tape. After a byte that fits no token,
//! everything is skipped up to a structural character, a control character other than tab, or
//! 0xFE/0xFF, which is also how a client forces the lexer into a known state.
//!
//! A message can be kept while later ones are parsed behind it in the same buffers; when they are full, input has to
//! wait until what was kept is released.

use super::parser::{self, ParseError, Span};
use super::value::{Kind, Node, Value};

/// Bytes of a message at most, white space between tokens not counted.
pub const QMP_MESSAGE_MAX: usize = 128 * 1024;

/// Depth of nested lists and objects at most.
pub const QMP_NESTING_MAX: i32 = 1024;

/// Tokens of a message at most: brackets, commas, colons, strings, numbers and words.
pub const QMP_TOKENS_MAX: usize = 8192;

/// What a message over [`QMP_MESSAGE_MAX`] is answered.
pub const SIZE_LIMIT_TEXT: &str = "JSON token size limit exceeded (131072 bytes)";

/// What a message over [`QMP_TOKENS_MAX`] is answered.
pub const TOKENS_LIMIT_TEXT: &str = "JSON token count limit exceeded (8192 tokens)";

const _: () = assert!(QMP_MESSAGE_MAX == 131_072 && QMP_TOKENS_MAX == 8192);

/// Where the lexer stands inside a token. The first variant has the value zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Start = 0,
    DoubleQuoted,
    DoubleEscape,
    SingleQuoted,
    SingleEscape,
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Word,
    Recovery,
}

/// What one byte does to the lexer.
enum Step {
    /// Stay in or go to a state; the byte belongs to the token.
    Go(State),
    /// White space or skipped input.
    Skip(State),
    /// The byte ends a token and belongs to it.
    Take(Kind),
    /// The token ended before the byte.
    Before(Kind),
    /// The byte fits no token.
    Stray,
}

/// What [`Parser::push`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes used of the input.
    pub consumed: usize,
    /// A message that ended there: complete, to be read with [`Parser::message`], or in error.
    /// `None` when the input was used up without one.
    pub message: Option<Result<(), ParseError>>,
}

/// A message that a parser keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    text: u32,
    tape: u32,
}

impl Kept {
    /// The first message that a fresh parser keeps.
    pub const START: Self = Self { text: 0, tape: 0 };
}

/// The parser of one connection. All zero bytes are a valid, fresh parser.
#[derive(Debug)]
#[repr(C)]
pub struct Parser {
    state: State,
    /// An oversized message was answered; the rest of it is skipped.
    skipping: bool,
    /// A message was returned and is still in the buffer.
    complete: bool,
    braces: i32,
    brackets: i32,
    /// Where the message begins in `text`, behind those that are kept. Offsets in it count from there.
    text_base: u32,
    /// Where it begins in `tape`.
    tape_base: u32,
    text_length: u32,
    token_start: u32,
    tokens: u32,
    tape: [Node; QMP_TOKENS_MAX],
    text: [u8; QMP_MESSAGE_MAX],
}

impl Parser {
    /// A fresh parser. It is large: use this to initialise a `static`, and zeroed memory elsewhere.
    pub const fn new() -> Self {
        Self {
            state: State::Start,
            skipping: false,
            complete: false,
            braces: 0,
            brackets: 0,
            text_base: 0,
            tape_base: 0,
            text_length: 0,
            token_start: 0,
            tokens: 0,
            tape: [Node::ZERO; QMP_TOKENS_MAX],
            text: [0; QMP_MESSAGE_MAX],
        }
    }

    /// Forgets all input, as at the start of a connection. Buffers are not touched.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.skipping = false;
        self.text_base = 0;
        self.tape_base = 0;
        self.clear();
    }

    fn clear(&mut self) {
        self.complete = false;
        self.braces = 0;
        self.brackets = 0;
        self.text_length = 0;
        self.token_start = 0;
        self.tokens = 0;
    }

    /// Takes input up to the end of the next message. What was returned before is forgotten.
    pub fn push(&mut self, input: &[u8]) -> Progress {
        if self.complete {
            self.complete = false;
            if !self.skipping {
                self.clear();
            }
        }
        let mut consumed = 0;
        while let Some(&byte) = input.get(consumed) {
            if self.waits() {
                break;
            }
            if let State::DoubleQuoted | State::SingleQuoted = self.state {
                let run = plain_run(&input[consumed..], self.state).min(self.room());
                if run > 0 {
                    let message = self.store(&input[consumed..consumed + run]);
                    consumed += run;
                    if message.is_some() {
                        return self.finish(consumed, message);
                    }
                    continue;
                }
            }
            let message = match step(self.state, byte) {
                Step::Skip(state) => {
                    self.state = state;
                    consumed += 1;
                    None
                }
                Step::Go(state) => {
                    self.state = state;
                    consumed += 1;
                    self.store(&[byte])
                }
                Step::Take(kind) => {
                    self.state = State::Start;
                    consumed += 1;
                    let limit = self.store(&[byte]);
                    let message = self.token(kind);
                    limit.or(message)
                }
                Step::Before(kind) => {
                    self.state = State::Start;
                    self.token(kind)
                }
                Step::Stray => {
                    self.state = State::Recovery;
                    consumed += 1;
                    self.stray(byte)
                }
            };
            if message.is_some() {
                return self.finish(consumed, message);
            }
        }
        Progress {
            consumed,
            message: None,
        }
    }

    fn finish(&mut self, consumed: usize, message: Option<Result<(), ParseError>>) -> Progress {
        self.complete = true;
        Progress { consumed, message }
    }

    /// The message that [`Parser::push`] returned last.
    pub fn message(&self) -> Value<'_> {
        self.kept(self.at())
    }

    /// Token text of the message returned last, for [`ParseError::pieces`].
    pub fn text(&self) -> &[u8] {
        self.kept_text(self.at())
    }

    fn at(&self) -> Kept {
        Kept {
            text: self.text_base,
            tape: self.tape_base,
        }
    }

    /// Keeps the message that [`Parser::push`] returned last until [`Parser::release`].
    pub fn keep(&mut self) -> Kept {
        let kept = self.at();
        if self.complete && !self.skipping {
            self.text_base += self.text_length;
            self.tape_base += self.tokens;
            self.complete = false;
            self.clear();
        }
        kept
    }

    /// A message that is kept.
    pub fn kept(&self, kept: Kept) -> Value<'_> {
        let tape = self.tape.get(kept.tape as usize..).unwrap_or_default();
        Value::root(self.kept_text(kept), tape)
    }

    /// Its token text, for [`ParseError::pieces`].
    pub fn kept_text(&self, kept: Kept) -> &[u8] {
        self.text.get(kept.text as usize..).unwrap_or_default()
    }

    /// Gives up all messages that are kept.
    pub fn release(&mut self) {
        let (text, tape) = (self.text_base as usize, self.tape_base as usize);
        self.text
            .copy_within(text..text + self.text_length as usize, 0);
        self.tape.copy_within(tape..tape + self.tokens as usize, 0);
        self.text_base = 0;
        self.tape_base = 0;
    }

    /// Bytes that fit before the message would have to wait.
    fn room(&self) -> usize {
        if self.text_base == 0 {
            return usize::MAX;
        }
        QMP_MESSAGE_MAX - (self.text_base + self.text_length) as usize
    }

    /// Whether the rest of a message must wait for the release of others: one byte adds a byte and two tokens at most.
    fn waits(&self) -> bool {
        let full = (self.tape_base + self.tokens) as usize + 2 > QMP_TOKENS_MAX;
        self.room() == 0 || (self.tape_base > 0 && full)
    }

    fn store(&mut self, bytes: &[u8]) -> Option<Result<(), ParseError>> {
        if self.skipping {
            return None;
        }
        let at = (self.text_base + self.text_length) as usize;
        match self.text.get_mut(at..at + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.text_length += bytes.len() as u32;
                None
            }
            None => self.skip(ParseError::MessageSize),
        }
    }

    /// Answers a limit at once; the rest of the message is lexed without being stored.
    fn skip(&mut self, error: ParseError) -> Option<Result<(), ParseError>> {
        self.skipping = true;
        Some(Err(error))
    }

    fn stray(&mut self, byte: u8) -> Option<Result<(), ParseError>> {
        if self.skipping {
            self.skipping = false;
            self.clear();
            return None;
        }
        // A token that fills the buffer is told without the byte at fault.
        let start = self.token_start;
        let end = (self.text_base + self.text_length) as usize;
        if let Some(room) = self.text.get_mut(end) {
            *room = byte;
            self.text_length += 1;
        }
        Some(Err(ParseError::Stray(Span {
            start,
            length: self.text_length - start,
        })))
    }

    fn token(&mut self, kind: Kind) -> Option<Result<(), ParseError>> {
        match kind {
            Kind::Object => self.braces = self.braces.saturating_add(1),
            Kind::EndObject => self.braces = self.braces.saturating_sub(1),
            Kind::Array => self.brackets = self.brackets.saturating_add(1),
            Kind::EndArray => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        let open = (self.braces > 0 || self.brackets > 0) && self.braces >= 0 && self.brackets >= 0;
        if self.skipping {
            if !open {
                self.skipping = false;
                self.clear();
            }
            return None;
        }
        if self.braces.saturating_add(self.brackets) > QMP_NESTING_MAX {
            return Some(Err(ParseError::Nesting));
        }
        let start = self.token_start;
        let end = (self.tape_base + self.tokens) as usize;
        let Some(node) = self.tape.get_mut(end) else {
            let answer = self.skip(ParseError::TokenCount);
            if !open {
                self.skipping = false;
            }
            return answer;
        };
        *node = Node::new(kind, start, self.text_length - start);
        self.tokens += 1;
        self.token_start = self.text_length;
        if open {
            return None;
        }
        Some(parser::check(
            &mut self.text[self.text_base as usize..],
            &mut self.tape[self.tape_base as usize..=end],
        ))
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes at the front of a string's rest that only belong to it.
fn plain_run(input: &[u8], state: State) -> usize {
    let quote = if state == State::DoubleQuoted {
        b'"'
    } else {
        b'\''
    };
    input
        .iter()
        .position(|&b| b == quote || b == b'\\' || !matches!(b, 0x20..=0xfd))
        .unwrap_or(input.len())
}

fn step(state: State, byte: u8) -> Step {
    use State as S;
    let text = matches!(byte, 0x20..=0xfd);
    match (state, byte) {
        (S::Start, b' ' | b'\t' | b'\r' | b'\n') => Step::Skip(S::Start),
        (S::Start, b'{') => Step::Take(Kind::Object),
        (S::Start, b'}') => Step::Take(Kind::EndObject),
        (S::Start, b'[') => Step::Take(Kind::Array),
        (S::Start, b']') => Step::Take(Kind::EndArray),
        (S::Start, b',') => Step::Take(Kind::Comma),
        (S::Start, b':') => Step::Take(Kind::Colon),
        (S::Start, b'"') => Step::Go(S::DoubleQuoted),
        (S::Start, b'\'') => Step::Go(S::SingleQuoted),
        (S::Start, b'-') => Step::Go(S::Minus),
        (S::Start | S::Minus, b'0') => Step::Go(S::Zero),
        (S::Start | S::Minus, b'1'..=b'9') => Step::Go(S::Digits),
        (S::Start | S::Word, b'a'..=b'z') => Step::Go(S::Word),
        (S::DoubleQuoted, b'"') | (S::SingleQuoted, b'\'') => Step::Take(Kind::String),
        (S::DoubleQuoted, b'\\') => Step::Go(S::DoubleEscape),
        (S::SingleQuoted, b'\\') => Step::Go(S::SingleEscape),
        (S::DoubleQuoted | S::DoubleEscape, _) if text => Step::Go(S::DoubleQuoted),
        (S::SingleQuoted | S::SingleEscape, _) if text => Step::Go(S::SingleQuoted),
        (S::Digits, b'0'..=b'9') => Step::Go(S::Digits),
        (S::Zero | S::Digits, b'.') => Step::Go(S::Point),
        (S::Zero, b'0'..=b'9') => Step::Stray,
        // A zero ends at an exponent, in this dialect.
        (S::Digits | S::Fraction, b'e' | b'E') => Step::Go(S::Exponent),
        (S::Zero | S::Digits, _) => Step::Before(Kind::Integer),
        (S::Point | S::Fraction, b'0'..=b'9') => Step::Go(S::Fraction),
        (S::Exponent, b'+' | b'-') => Step::Go(S::ExponentSign),
        (S::Exponent | S::ExponentSign | S::ExponentDigits, b'0'..=b'9') => {
            Step::Go(S::ExponentDigits)
        }
        (S::Fraction | S::ExponentDigits, _) => Step::Before(Kind::Float),
        (S::Word, _) => Step::Before(Kind::Word),
        (S::Recovery, b'\t') => Step::Skip(S::Recovery),
        (S::Recovery, b'{' | b'}' | b'[' | b']' | b',' | b':') => step(S::Start, byte),
        (S::Recovery, _) if text => Step::Skip(S::Recovery),
        (S::Recovery, _) => step(S::Start, byte),
        _ => Step::Stray,
    }
}
