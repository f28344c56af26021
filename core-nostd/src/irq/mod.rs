//! Interrupt lines and the controllers they end in.

pub mod ioapic;
mod lines;
mod msi;
pub mod pic;

pub use ioapic::IoApic;
pub use lines::{IrqLine, LINES_MAX, LineChange, Lines};
pub use msi::{MSI_BASE, Msi};
pub use pic::Pic;
