//! The schema: what `monitor/schema/` declares, as tables, as types, and as the check of arguments.

mod check;
mod option;
mod tables;
mod values;

use thimble_core::qmp::{Sink, SinkFull, Value, Writer};

use crate::Owner;
use crate::error::Fail;
use crate::handlers::{self, Context, Outcome};
use crate::reply::{Reply, put_member};
use values::{FromValue, member};

pub(crate) use check::check;
pub(crate) use option::integer;
pub use option::{OptionError, OptionType, read_json, read_option};
pub use tables::{
    Builtin, CommandRow, EventRow, MemberRow, NO_TAG, Name, Rows, Tables, TypeId, TypeRow,
    ValueRow, VariantRow,
};
pub use values::{Any, EVENT_TEXT_MAX, EventText, Later, List};

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

/// The reference of all commands, events and types.
#[doc = include_str!(concat!(env!("OUT_DIR"), "/reference.md"))]
pub mod reference {}
