//! Codecs of outside formats.

pub mod aes;
pub mod qtest;
