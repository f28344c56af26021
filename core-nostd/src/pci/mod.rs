//! PCI: configuration space, configuration mechanism 1, the host bridge, the ISA bridge and power
//! management.
//!
//! A function owns its [`ConfigSpace`]; the machine owns the functions and dispatches with a
//! `match` on what [`Slots`] says stands at the address that [`ConfigMechanism1`] resolved.

pub mod config;
pub mod i440fx;
pub mod mechanism;
pub mod piix3;
pub mod piix4_pm;

pub use config::{BARS, BarKind, CONFIG_BYTES, ConfigSpace, Identity, PciFunction, reg};
pub use i440fx::I440fx;
pub use mechanism::{Address, ConfigMechanism1, SlotError, Slots, Target};
pub use piix3::Piix3;
pub use piix4_pm::Piix4Pm;
