//! x
pub mod opts;
