//! The command handlers: small functions from checked arguments to a result, a file for each part of the schema.

mod clock;
mod control;
mod descriptors;
mod dump;
mod human;
mod input;
mod introspect;
mod machine;
mod memory;
mod migration;
mod objects;
pub(crate) mod pci;
mod qom;
mod run_state;
mod trace;
mod yank;

use crate::session::Negotiation;
use crate::{JobId, Owner};

pub(crate) use clock::*;
pub(crate) use control::*;
pub(crate) use descriptors::*;
pub(crate) use dump::*;
pub(crate) use human::*;
pub(crate) use input::*;
pub(crate) use introspect::*;
pub(crate) use machine::*;
pub(crate) use memory::*;
pub(crate) use migration::*;
pub(crate) use objects::*;
pub(crate) use pci::query_pci;
pub(crate) use qom::*;
pub(crate) use run_state::*;
pub(crate) use trace::*;
pub(crate) use yank::*;

/// What a handler acts on.
pub(crate) struct Context<'c, O: Owner + ?Sized> {
    pub(crate) owner: &'c mut O,
    pub(crate) session: &'c mut Negotiation,
    /// Where a handler forms a text that its result borrows. Empty at first.
    pub(crate) text: heapless::String<64>,
}

/// How far a command has come when its handler returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It goes on in the background.
    Pending(JobId),
}
