//! The process around the machine.

pub mod chardev;
pub mod daemonize;
pub mod event_loop;
pub mod options;
pub mod terminal;
