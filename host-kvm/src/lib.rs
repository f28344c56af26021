//! The process around the machine.

pub mod kvm;
pub mod memory;
