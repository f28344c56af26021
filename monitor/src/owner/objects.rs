//! Objects that users make: threads, memory, secrets.

use thimble_core::qmp::Value;

use crate::QmpError;
use crate::schema::arguments::ObjectOptions;
use crate::schema::results::{IOThreadInfo, Memdev};

/// What commands ask about objects that users make.
pub trait Objects {
    /// Makes an object, or nothing of it.
    fn object_add(&mut self, options: &ObjectOptions<'_>) -> Result<(), QmpError>;

    /// Takes an object away that nothing uses.
    fn object_del(&mut self, id: &[u8]) -> Result<(), QmpError>;

    /// Changes a property, one of its type's, of the object at this position in the tree.
    fn object_set(
        &mut self,
        position: usize,
        property: &str,
        value: Value<'_>,
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

/// The value that a property is to have, if it is of the right type.
fn typed<T>(property: &str, value: Option<T>, expected: &str) -> Result<T, QmpError> {
    value.ok_or_else(|| {
        QmpError::generic(format_args!(
            "Invalid parameter type for '{property}', expected: {expected}"
        ))
    })
}

/// An integer that a property is to have.
///
/// # Errors
/// In QEMU's words.
pub fn integer(property: &str, value: Value<'_>) -> Result<i64, QmpError> {
    typed(property, value.int(), "integer")
}

/// A truth value that a property is to have.
///
/// # Errors
/// In QEMU's words.
pub fn boolean(property: &str, value: Value<'_>) -> Result<bool, QmpError> {
    typed(property, value.bool(), "boolean")
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
