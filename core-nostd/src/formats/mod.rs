//! Codecs of outside formats.

pub mod qtest;
