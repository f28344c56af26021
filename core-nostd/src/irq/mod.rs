//! Interrupt lines and the controllers they end in.

pub mod ioapic;
pub mod lapic;
mod lines;
mod msi;
pub mod pic;

pub use ioapic::IoApic;
pub use lapic::{LocalApic, LocalApics};
pub use lines::{IrqLine, LINES_MAX, LineChange, Lines};
pub use msi::{MSI_BASE, MSI_END, Msi};
pub use pic::Pic;
