//! Codecs of outside formats.

pub mod gdb;
pub mod qtest;
pub mod telnet;
