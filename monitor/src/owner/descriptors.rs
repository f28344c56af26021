//! What commands ask about descriptors from outside.

use crate::QmpError;

/// One of a set's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetMember<'a> {
    /// Its number in this process.
    pub fd: i32,
    /// The text that it was given, UTF-8.
    pub opaque: Option<&'a [u8]>,
}

/// The descriptors that clients pass: of the monitor whose command is being executed, and sets.
pub trait Descriptors {
    /// What is executed from now on has no monitor of its own, and no descriptors; or, with the next call, has again.
    fn swap_monitor(&mut self);

    /// Gives the descriptor that came with the command a name. If the name is not `valid`, that
    /// descriptor is closed, and nothing else happens. False if none came.
    ///
    /// # Errors
    /// At limits, in words; the descriptor is closed then.
    fn getfd(&mut self, name: &[u8], valid: bool) -> Result<bool, QmpError>;

    /// Closes the descriptor of a name; false if there is none.
    fn closefd(&mut self, name: &[u8]) -> bool;

    /// Puts the descriptor that came with the command into a set, or a new one, and tells the set's
    /// number and the descriptor's; `None` if none came.
    ///
    /// # Errors
    /// For a negative number, and at limits; the descriptor is closed then.
    fn add_fd(
        &mut self,
        set: Option<i64>,
        opaque: Option<&[u8]>,
    ) -> Result<Option<(i64, i32)>, QmpError>;

    /// Removes a descriptor from a set, or all; false if there is no such set or descriptor.
    fn remove_fd(&mut self, set: i64, fd: Option<i64>) -> bool;

    /// Tells of every set, the highest number first: its number, and its descriptors, oldest first.
    fn visit_fdsets(&self, visit: &mut dyn FnMut(i64, &mut dyn Iterator<Item = SetMember<'_>>));
}
