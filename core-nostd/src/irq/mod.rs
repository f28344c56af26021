//! Interrupt lines and the controllers they end in.

mod lines;
pub mod pic;

pub use lines::{IrqLine, LINES_MAX, LineChange, Lines};
pub use pic::Pic;
