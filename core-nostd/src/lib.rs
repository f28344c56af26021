//! The machine without an operating system under it: device models, memory map, CPU state and
//! the QMP parser as plain state machines in fixed-size storage.
//!
//! Bytes and time come in through method arguments, bytes and requests go out through the
//! [`machine::Host`] trait. Nothing here blocks, reads a clock or allocates.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod cpu;
pub mod devices;
pub mod firmware;
pub mod formats;
pub mod irq;
pub mod machine;
pub mod memory;
mod names;
pub mod pci;
pub mod qmp;
pub mod qom;
pub mod state;
pub mod time;
pub mod trace;
pub mod virtio;
