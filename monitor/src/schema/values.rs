//! Values of arguments and results that have no Rust type of their own.

use core::fmt;
use core::marker::PhantomData;

use serde::{Serialize, Serializer};
use thimble_core::qmp::{Elements, Value};
use thimble_core::qom::QomValue;

/// Reads an argument that the check has let through. What is not there, or not of the type, reads as zero.
pub(crate) trait FromValue<'m>: Sized {
    fn from_value(value: Option<Value<'m>>) -> Self;
}

/// A member of an object.
pub(crate) fn member<'m>(object: Option<Value<'m>>, name: &str) -> Option<Value<'m>> {
    object?.get(name.as_bytes())
}

impl<'m, T: FromValue<'m>> FromValue<'m> for Option<T> {
    fn from_value(value: Option<Value<'m>>) -> Self {
        value.map(|value| T::from_value(Some(value)))
    }
}

impl<'m> FromValue<'m> for Value<'m> {
    fn from_value(value: Option<Self>) -> Self {
        value.unwrap_or_default()
    }
}

impl<'m> FromValue<'m> for &'m [u8] {
    fn from_value(value: Option<Value<'m>>) -> Self {
        value.and_then(Value::bytes).unwrap_or_default()
    }
}

impl<'m> FromValue<'m> for bool {
    fn from_value(value: Option<Value<'m>>) -> Self {
        value.and_then(Value::bool).unwrap_or_default()
    }
}

impl<'m> FromValue<'m> for i64 {
    fn from_value(value: Option<Value<'m>>) -> Self {
        value.and_then(Value::int).unwrap_or_default()
    }
}

/// Integers of the narrower types, which the check has found to be in range.
macro_rules! integers {
    ($($kind:ty)*) => {
        $(impl<'m> FromValue<'m> for $kind {
            fn from_value(value: Option<Value<'m>>) -> Self {
                let number = value.and_then(|value| value.int().or(value.uint().map(|n| n as i64)));
                number.unwrap_or_default() as Self
            }
        })*
    };
}

integers!(i8 i16 i32 u8 u16 u32 u64);

/// A list of arguments, read one by one.
pub struct List<'m, T> {
    elements: Option<Elements<'m>>,
    kind: PhantomData<T>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        Self {
            elements: self.elements.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("List")
    }
}

impl<'m, T> FromValue<'m> for List<'m, T> {
    fn from_value(value: Option<Value<'m>>) -> Self {
        Self {
            elements: value.map(Value::elements),
            kind: PhantomData,
        }
    }
}

#[allow(private_bounds)]
impl<'m, T: FromValue<'m>> Iterator for List<'m, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let element = self.elements.as_mut()?.next()?;
        Some(T::from_value(Some(element)))
    }
}

/// An argument whose type may have one of its own type within: it is read when it is asked for.
pub struct Later<'m, T> {
    value: Option<Value<'m>>,
    kind: PhantomData<fn() -> T>,
}

#[allow(private_bounds)]
impl<'m, T: FromValue<'m>> Later<'m, T> {
    /// Reads it.
    pub fn get(&self) -> T {
        T::from_value(self.value)
    }
}

impl<T> Clone for Later<'_, T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value,
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Later<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

impl<'m, T> FromValue<'m> for Later<'m, T> {
    fn from_value(value: Option<Value<'m>>) -> Self {
        Self {
            value,
            kind: PhantomData,
        }
    }
}

/// A result of any type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Any<'a>(pub QomValue<'a>);

impl Serialize for Any<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            QomValue::Bool(value) => to.serialize_bool(value),
            QomValue::Int(value) => to.serialize_i64(value),
            QomValue::Uint(value) => to.serialize_u64(value),
            QomValue::Str(value) => to.serialize_str(value),
            QomValue::Numbers(numbers) => to.collect_seq(numbers),
            QomValue::Members(members) => {
                to.collect_map(members.iter().map(|(name, value)| (*name, Any(*value))))
            }
        }
    }
}

/// Bytes of a text in an event at most.
pub const EVENT_TEXT_MAX: usize = 128;

/// A text in an event, which outlives what it tells of.
pub type EventText = heapless::String<EVENT_TEXT_MAX>;
