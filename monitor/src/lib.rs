//! QMP sessions and command handlers: bytes in, bytes out, no std, no heap.
//!
//! A [`Session`] is one connection's state. It executes commands on an [`Owner`], which is whatever
//! owns the machine, and writes replies into an [`Out`] that its caller lends.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod command;
mod error;
mod event;
mod handlers;
mod owner;
mod reply;
mod session;

#[cfg(feature = "sabotage")]
pub use command::SABOTAGED;
pub use command::{COMMANDS, Command, command_index};
pub use error::{DESC_MAX, ErrorClass, QmpError};
pub use event::{Event, Timestamp};
pub use owner::{KvmInfo, Owner};
pub use session::{MONITOR_OUT_MAX, Out, Session};
pub use thimble_core::devices::ShutdownCause;
