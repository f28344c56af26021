//! The process around the machine.
