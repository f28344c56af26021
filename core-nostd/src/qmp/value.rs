//! A parsed message: a tape of nodes over the text, and views on it.
//!
//! Containers are an opening node that knows the index of its closing node; an object's members
//! are a key node followed by the value. Strings are already unescaped.

use core::fmt;
use core::str;

/// What a node of the tape is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `null`
    Null = 0,
    /// `true`
    True,
    /// `false`
    False,
    /// The start of an object.
    Object,
    /// The end of an object.
    EndObject,
    /// The start of a list.
    Array,
    /// The end of a list.
    EndArray,
    /// A member's name.
    Key,
    /// A string.
    String,
    /// An integer from -2^63 to 2^63 - 1.
    Integer,
    /// An integer from 2^63 to 2^64 - 1.
    Unsigned,
    /// Any other number.
    Float,
    /// A comma; on the unchecked tape only.
    Comma,
    /// A colon; on the unchecked tape only.
    Colon,
    /// A bare word; on the unchecked tape only.
    Word,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::Null,
        Self::True,
        Self::False,
        Self::Object,
        Self::EndObject,
        Self::Array,
        Self::EndArray,
        Self::Key,
        Self::String,
        Self::Integer,
        Self::Unsigned,
        Self::Float,
        Self::Comma,
        Self::Colon,
        Self::Word,
    ];
}

/// A node: where its text starts, and kind (upper four bits) with length. A container's start is
/// the index of its opening node's parent while the tape is being checked, and of its closing node
/// after.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Node {
    start: u32,
    word: u32,
}

const LENGTH: u32 = (1 << 28) - 1;

impl Node {
    pub(super) const ZERO: Self = Self { start: 0, word: 0 };

    pub(super) const fn new(kind: Kind, start: u32, length: u32) -> Self {
        Self {
            start,
            word: (kind as u32) << 28 | (length & LENGTH),
        }
    }

    pub(super) fn kind(self) -> Kind {
        Kind::ALL
            .get((self.word >> 28) as usize)
            .copied()
            .unwrap_or(Kind::Null)
    }

    pub(super) const fn start(self) -> usize {
        self.start as usize
    }

    pub(super) const fn length(self) -> usize {
        (self.word & LENGTH) as usize
    }

    pub(super) fn bytes(self, text: &[u8]) -> &[u8] {
        text.get(self.start()..self.start() + self.length())
            .unwrap_or_default()
    }
}

/// The index after the value at `index`.
pub(super) fn after(tape: &[Node], index: usize) -> usize {
    match tape.get(index) {
        Some(node) if matches!(node.kind(), Kind::Object | Kind::Array) => {
            node.start().max(index) + 1
        }
        _ => index + 1,
    }
}

/// A value inside a parsed message. The default is `null`, of no message.
#[derive(Clone, Copy, Default)]
pub struct Value<'m> {
    text: &'m [u8],
    tape: &'m [Node],
    index: usize,
}

impl<'m> Value<'m> {
    pub(super) fn root(text: &'m [u8], tape: &'m [Node]) -> Self {
        Self {
            text,
            tape,
            index: 0,
        }
    }

    fn node(self) -> Node {
        self.tape.get(self.index).copied().unwrap_or(Node::ZERO)
    }

    /// What it is.
    pub fn kind(self) -> Kind {
        self.node().kind()
    }

    /// A string's or key's unescaped bytes: modified UTF-8, where U+0000 is C0 80.
    pub fn bytes(self) -> Option<&'m [u8]> {
        match self.kind() {
            Kind::String | Kind::Key => Some(self.node().bytes(self.text)),
            _ => None,
        }
    }

    /// A string that is UTF-8: any but those that contain U+0000.
    pub fn str(self) -> Option<&'m str> {
        str::from_utf8(self.bytes()?).ok()
    }

    fn number(self) -> Option<&'m str> {
        match self.kind() {
            Kind::Integer | Kind::Unsigned | Kind::Float => {
                str::from_utf8(self.node().bytes(self.text)).ok()
            }
            _ => None,
        }
    }

    /// An integer in the range of `i64`.
    pub fn int(self) -> Option<i64> {
        self.number()?.parse().ok()
    }

    /// An integer in the range of `u64`.
    pub fn uint(self) -> Option<u64> {
        self.number()?.parse().ok()
    }

    /// Any number. Integers lose what does not fit 53 bits.
    pub fn float(self) -> Option<f64> {
        self.number()?.parse().ok()
    }

    /// A boolean.
    pub fn bool(self) -> Option<bool> {
        match self.kind() {
            Kind::True => Some(true),
            Kind::False => Some(false),
            _ => None,
        }
    }

    /// An object's members in their order; nothing for other values.
    pub fn members(self) -> Members<'m> {
        Members(self.inside(Kind::Object))
    }

    /// A list's elements; nothing for other values.
    pub fn elements(self) -> Elements<'m> {
        Elements(self.inside(Kind::Array))
    }

    /// The first member of that name.
    pub fn get(self, name: &[u8]) -> Option<Self> {
        self.members()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    fn inside(self, kind: Kind) -> Self {
        let index = if self.kind() == kind {
            self.index + 1
        } else {
            self.tape.len()
        };
        Self { index, ..self }
    }

    /// The nodes of this value, with their text, in order.
    pub(super) fn nodes(self) -> impl Iterator<Item = Self> {
        let end = after(self.tape, self.index).min(self.tape.len());
        (self.index..end).map(move |index| Self { index, ..self })
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

/// Iterator over an object's members.
#[derive(Clone)]
pub struct Members<'m>(Value<'m>);

impl<'m> Iterator for Members<'m> {
    type Item = (&'m [u8], Value<'m>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0;
        if key.index >= key.tape.len() || key.kind() != Kind::Key {
            return None;
        }
        let value = Value {
            index: key.index + 1,
            ..key
        };
        self.0.index = after(key.tape, value.index);
        Some((key.bytes().unwrap_or_default(), value))
    }
}

/// Iterator over a list's elements.
#[derive(Clone)]
pub struct Elements<'m>(Value<'m>);

impl<'m> Iterator for Elements<'m> {
    type Item = Value<'m>;

    fn next(&mut self) -> Option<Self::Item> {
        let value = self.0;
        if value.index >= value.tape.len() || value.kind() == Kind::EndArray {
            return None;
        }
        self.0.index = after(value.tape, value.index);
        Some(value)
    }
}
