//! JSON as serde_json understands it: the strict reference that the QMP parser is held against.
//!
//! Its own tree rather than `serde_json::Value`, because names that occur twice must be seen.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use thimble_core::qmp::{Kind, Value};

/// A value.
#[derive(Clone, Debug)]
pub enum Tree {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer in the range of `i64`.
    Int(i64),
    /// An integer above it, in the range of `u64`.
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// An object, in the order of the text.
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(i64::try_from(value).map_or(Tree::Uint(value), Tree::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = from.next_element()? {
            list.push(element);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = from.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}

impl Tree {
    /// Reads one document.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut from = serde_json::Deserializer::from_slice(text);
        from.disable_recursion_limit();
        let tree = Self::deserialize(&mut from).ok()?;
        from.end().ok().map(|()| tree)
    }

    /// What the QMP parser has read. Strings must be modified UTF-8, and numbers readable as their
    /// kind says.
    pub fn of(value: Value<'_>) -> Self {
        match value.kind() {
            Kind::Null => Self::Null,
            Kind::True | Kind::False => Self::Bool(value.bool().expect("a boolean")),
            Kind::Integer => Self::Int(value.int().expect("in the range of i64")),
            Kind::Unsigned => {
                assert_eq!(value.int(), None);
                Self::Uint(value.uint().expect("in the range of u64"))
            }
            Kind::Float => Self::Float(value.float().expect("a double")),
            Kind::String => Self::Text(text(value.bytes().expect("a string"))),
            Kind::Array => Self::List(value.elements().map(Self::of).collect()),
            Kind::Object => {
                let member = |(name, value)| (text(name), Self::of(value));
                Self::Object(value.members().map(member).collect())
            }
            Kind::EndObject
            | Kind::EndArray
            | Kind::Key
            | Kind::Comma
            | Kind::Colon
            | Kind::Word => {
                panic!("{:?} is no value", value.kind())
            }
        }
    }

    /// Whether both are the same value with the same kinds of number. `-0`, which is an integer in
    /// QMP and a double to the reference, is one value.
    pub fn same(&self, reference: &Self) -> bool {
        match (self, reference) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Int(0), Self::Float(b)) => b.to_bits() == (-0.0_f64).to_bits(),
            _ => self.alike(reference, Self::same),
        }
    }

    /// As [`Tree::same`], but a double without fraction may have become an integer: it is printed
    /// as one.
    pub fn equal(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Float(a), Self::Int(b)) => *a == *b as f64,
            (Self::Float(a), Self::Uint(b)) => *a == *b as f64,
            _ => self.alike(other, Self::equal),
        }
    }

    fn alike(&self, other: &Self, same: fn(&Self, &Self) -> bool) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Uint(a), Self::Uint(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Self::Object(a), Self::Object(b)) => {
                let member =
                    |(a, b): (&(String, Self), &(String, Self))| a.0 == b.0 && same(&a.1, &b.1);
                a.len() == b.len() && a.iter().zip(b).all(member)
            }
            _ => false,
        }
    }

    /// Calls `visit` with every value in it, itself included.
    pub fn visit(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        match self {
            Self::List(list) => list.iter().for_each(|element| element.visit(visit)),
            Self::Object(members) => members.iter().for_each(|(_, value)| value.visit(visit)),
            _ => {}
        }
    }
}

/// Modified UTF-8, where U+0000 is C0 80.
fn text(bytes: &[u8]) -> String {
    assert!(!bytes.contains(&0), "a zero byte in a string");
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        plain.push(match (byte, rest.peek()) {
            (0xc0, Some(0x80)) => {
                rest.next();
                0
            }
            _ => byte,
        });
    }
    String::from_utf8(plain).expect("UTF-8")
}
