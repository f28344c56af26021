//! Codecs of outside formats.

pub mod deflate;
pub mod dump;
pub mod qtest;
