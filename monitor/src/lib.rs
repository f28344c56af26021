//! QMP sessions and command handlers: bytes in, bytes out, no std, no heap.
//!
//! A [`Session`] is one connection's state. It executes commands on an [`Owner`], which is whatever
//! owns the machine, and writes replies into an [`Out`] that its caller lends. What commands, events and
//! types there are, the [`schema`] says, and the files of `monitor/schema/` alone.
//!
//! Limits, each answered with an error that names it, after which the session goes on: a message has at most
//! [`QMP_MESSAGE_MAX`](thimble_core::qmp::QMP_MESSAGE_MAX) bytes,
//! [`QMP_TOKENS_MAX`](thimble_core::qmp::QMP_TOKENS_MAX) tokens and
//! [`QMP_NESTING_MAX`](thimble_core::qmp::QMP_NESTING_MAX) levels; a reply has [`MONITOR_OUT_MAX`] bytes, one value in
//! it 16 KiB. Behind a command that goes on in the background [`MONITOR_QUEUE_MAX`] others wait; then nothing is read.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod error;
mod event;
pub mod gdb;
mod handlers;
pub mod hmp;
mod in_memory;
pub mod owner;
mod pretty;
mod reply;
pub mod schema;
mod session;
pub mod trace;

#[cfg(feature = "sabotage")]
use core::sync::atomic::AtomicUsize;

pub use error::{DESC_MAX, ErrorClass, QmpError};
pub use event::{Event, RateLimits, Timestamp};
pub use handlers::Outcome;
pub use in_memory::InMemory;
pub use owner::{
    Booting, BreakRefused, CpuState, DebugStop, Debugger, Descriptors, DumpKind, DumpTarget, Dumps,
    Inputs, Inspection, JobId, KvmInfo, Owner, SetMember, Sleep, Space, Stepping, Traces, Typing,
    answers, write_ram,
};
pub use pretty::Pretty;
pub use schema::SCHEMA;
pub use session::{MONITOR_OUT_MAX, MONITOR_QUEUE_MAX, Out, Session};
pub use thimble_core::devices::ShutdownCause;

/// The number of the command that answers an empty success instead of acting; `usize::MAX` for none.
#[cfg(feature = "sabotage")]
pub static SABOTAGED: AtomicUsize = AtomicUsize::new(usize::MAX);
