//! Interrupt lines and the controllers they end in.

mod lines;

pub use lines::{IrqLine, LINES_MAX, LineChange, Lines};
