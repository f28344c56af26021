//! Objects that users make: threads, memory, secrets.

use core::fmt;

use thimble_core::devices::block::DriveId;
use thimble_core::qmp::Value;
use thimble_core::qom::{self, PropertyInfo};

use crate::QmpError;
use crate::schema::arguments::{IothreadProperties, ObjectOptions};
use crate::schema::integer;
use crate::schema::results::{IOThreadInfo, Memdev};

/// The interface of types that users can make objects of.
const USER_CREATABLE: &str = "user-creatable";

/// What commands ask about objects that users make.
pub trait Objects {
    /// Makes an object, or nothing of it.
    fn object_add(&mut self, options: &ObjectOptions<'_>) -> Result<(), QmpError>;

    /// Takes an object away that nothing uses.
    fn object_del(&mut self, id: &[u8]) -> Result<(), QmpError>;

    /// Makes an object of a text, as the option `-object` does: `TYPE,id=ID[,...]` or JSON.
    fn object_add_text(&mut self, text: &[u8]) -> Result<(), QmpError>;

    /// Changes a property, one of its type's.
    fn object_set(
        &mut self,
        whose: Changeable,
        property: &str,
        value: NewValue<'_>,
    ) -> Result<(), QmpError>;

    /// The same, to a value in JSON.
    fn object_set_json(
        &mut self,
        whose: Changeable,
        property: &str,
        json: &[u8],
    ) -> Result<(), QmpError>;

    /// Tells of every thread for input and output.
    fn visit_iothreads(&self, visit: &mut dyn FnMut(&IOThreadInfo<'_>));

    /// Tells of all memory that a guest has or can be given.
    fn visit_memdevs(&self, visit: &mut dyn FnMut(&Memdev<'_>));
}

/// An id, if it is one: a letter, then letters, digits, `-`, `.` and `_`.
///
/// # Errors
/// In QEMU's words.
pub fn identifier(id: &[u8]) -> Result<&str, QmpError> {
    let valid = id.first().is_some_and(u8::is_ascii_alphabetic)
        && id
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let text = core::str::from_utf8(id).ok().filter(|_| valid);
    text.ok_or_else(|| QmpError::generic(format_args!("Parameter 'id' expects an identifier")))
}

/// The number that an iothread's property is set to; none of them is negative.
///
/// # Errors
/// In QEMU's words.
pub fn iothread_number(property: &str, value: i64) -> Result<i64, QmpError> {
    if value < 0 {
        return Err(QmpError::generic(format_args!(
            "{property} value must be in range [0, {}]",
            i64::MAX
        )));
    }
    Ok(value)
}

/// The properties of an iothread, and what they are at first.
pub const IOTHREAD_PROPERTIES: [(&str, i64); 4] = [
    ("poll-max-ns", 32768),
    ("poll-grow", 0),
    ("poll-shrink", 0),
    ("aio-max-batch", 0),
];

/// What these properties are to be.
///
/// # Errors
/// For a number that is out of range, in QEMU's words, and for threads that are not available.
pub fn iothread_parameters(
    given: &IothreadProperties,
) -> Result<[i64; IOTHREAD_PROPERTIES.len()], QmpError> {
    for (name, number) in [
        ("thread-pool-min", given.thread_pool_min),
        ("thread-pool-max", given.thread_pool_max),
    ] {
        if let Some(number) = number {
            iothread_number(name, number)?;
            return Err(QmpError::generic(format_args!(
                "threads for calls that may take long ('{name}') are not available"
            )));
        }
    }
    let given = [
        given.poll_max_ns,
        given.poll_grow,
        given.poll_shrink,
        given.aio_max_batch,
    ];
    let mut values = [0; IOTHREAD_PROPERTIES.len()];
    for ((to, given), (name, default)) in values.iter_mut().zip(given).zip(IOTHREAD_PROPERTIES) {
        *to = iothread_number(name, given.unwrap_or(default))?;
    }
    Ok(values)
}

/// Whose property is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changeable {
    /// That of the object at this position in the tree.
    Object(usize),
    /// That of the device of this drive, which says what node is in it.
    Drive(DriveId),
}

/// What a property is to be.
#[derive(Clone, Copy, Debug)]
pub enum NewValue<'v> {
    /// Of a JSON type.
    Json(Value<'v>),
    /// Written as in an option.
    Text(&'v [u8]),
}

impl<'v> NewValue<'v> {
    /// A text for this property.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn text(self, property: &str) -> Result<&'v [u8], QmpError> {
        match self {
            Self::Json(value) => value.bytes().ok_or_else(|| wrong_type(property, "string")),
            Self::Text(text) => Ok(text),
        }
    }

    /// An integer for this property.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn integer(self, property: &str) -> Result<i64, QmpError> {
        match self {
            Self::Json(value) => value.int().ok_or_else(|| wrong_type(property, "integer")),
            Self::Text(text) => {
                let number = core::str::from_utf8(text).ok().and_then(integer);
                let number = number.and_then(|number| i64::try_from(number).ok());
                number.ok_or_else(|| expects(property, "int64"))
            }
        }
    }

    /// A truth value for this property.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn boolean(self, property: &str) -> Result<bool, QmpError> {
        match self {
            Self::Json(value) => value.bool().ok_or_else(|| wrong_type(property, "boolean")),
            Self::Text(b"on" | b"yes" | b"true" | b"y") => Ok(true),
            Self::Text(b"off" | b"no" | b"false" | b"n") => Ok(false),
            Self::Text(_) => Err(expects(property, "'on' or 'off'")),
        }
    }
}

fn wrong_type(property: &str, expected: &str) -> QmpError {
    QmpError::generic(format_args!(
        "Invalid parameter type for '{property}', expected: {expected}"
    ))
}

fn expects(property: &str, expected: &str) -> QmpError {
    QmpError::generic(format_args!("Parameter '{property}' expects {expected}"))
}

/// What users can make of types, in the order of their names.
///
/// # Errors
/// The writer's.
pub fn write_types(out: &mut dyn fmt::Write) -> fmt::Result {
    out.write_str("List of user creatable objects:\n")?;
    let mut result = Ok(());
    qom::types(Some(USER_CREATABLE), false, &mut |kind| {
        // Their table is in this order.
        if result.is_ok() {
            result = writeln!(out, "  {}", kind.name);
        }
    });
    result
}

/// The properties of one of these types that can be given, in the order of their names; false if there is no such type.
///
/// # Errors
/// The writer's.
pub fn write_properties(type_name: &str, out: &mut dyn fmt::Write) -> Result<bool, fmt::Error> {
    let mut known = false;
    qom::types(Some(USER_CREATABLE), false, &mut |kind| {
        known |= kind.name == type_name;
    });
    if !known {
        return Ok(false);
    }
    writeln!(out, "{type_name} options:")?;
    let mut last: heapless::String<64> = heapless::String::new();
    loop {
        let mut next: Option<heapless::String<64>> = None;
        // The type is there.
        let _ = qom::type_properties(type_name, &mut |property| {
            let name = property.name;
            let better = next.as_ref().is_none_or(|next| name < next.as_str());
            if !matches!(name, "type" | "loaded") && name > last.as_str() && better {
                next = heapless::String::try_from(name).ok();
            }
        });
        let Some(name) = next else {
            return Ok(true);
        };
        let mut result = Ok(());
        let _ = qom::type_properties(type_name, &mut |property| {
            if property.name == name {
                result = write_property(property, out);
            }
        });
        result?;
        last = name;
    }
}

fn write_property(property: PropertyInfo<'_>, out: &mut dyn fmt::Write) -> fmt::Result {
    let PropertyInfo { name, kind, .. } = property;
    write!(out, "  {name}=<{kind}>")?;
    if let Some(text) = property.description {
        // In a column of their own, as far as names are short.
        for _ in name.len() + kind.len() + 5..24 {
            out.write_char(' ')?;
        }
        write!(out, " - {text}")?;
    }
    out.write_char('\n')
}

/// What is said of an id that is taken already.
pub fn duplicate(id: &str) -> QmpError {
    QmpError::generic(format_args!(
        "attempt to add duplicate property '{id}' to object (type 'container')"
    ))
}

/// What is said of an id that no object has.
pub fn missing(id: &[u8]) -> QmpError {
    let id = core::str::from_utf8(id).unwrap_or_default();
    QmpError::generic(format_args!("object '{id}' not found"))
}
