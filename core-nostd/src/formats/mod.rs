//! Codecs of outside formats.

pub mod qtest;
pub mod telnet;
