//! Codecs of outside formats.

pub mod aes;
pub mod deflate;
pub mod dump;
pub mod gdb;
pub mod qtest;
pub mod telnet;
