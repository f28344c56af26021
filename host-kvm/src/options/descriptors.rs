//! `-add-fd`.

use super::opts::{Kind, OptsTable, Reason, SubOption};

/// An inherited descriptor that goes into a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddFd {
    /// Its number, as it was inherited.
    pub fd: i32,
    /// The set's number, not negative.
    pub set: i64,
    /// What its giver wants to be told about it.
    pub opaque: Option<String>,
    /// The option as given, for messages.
    pub origin: String,
}

pub(super) static ADD_FD: OptsTable = OptsTable {
    name: "add-fd",
    implied: None,
    options: &[
        SubOption::new("fd", Kind::Number, "inherited descriptor"),
        SubOption::new("set", Kind::Number, "number of the set"),
        SubOption::new("opaque", Kind::Text, "a text to recognise it by"),
    ],
};

pub(super) fn parse_add_fd(text: &str) -> Result<AddFd, Reason> {
    let given = ADD_FD.parse(text)?;
    let missing = |name: &str| format!("{name} option is required and must be non-negative");
    let fd = given.number("fd").ok_or_else(|| missing("fd"))?;
    // A number that is too large for a descriptor's is none that is open.
    let fd = i32::try_from(fd).unwrap_or(i32::MAX);
    let set = given.number("set").and_then(|set| i64::try_from(set).ok());
    Ok(AddFd {
        fd,
        set: set.ok_or_else(|| missing("set"))?,
        opaque: given.owned("opaque"),
        origin: format!("-add-fd {text}"),
    })
}
