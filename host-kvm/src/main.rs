//! The thimble binary.
fn main() {}
