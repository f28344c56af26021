//! PCI: configuration space, configuration mechanism 1, buses and bridges, interrupt messages, and
//! the chipset: host bridge, ISA bridge and power management.
//!
//! A function owns its [`ConfigSpace`]; the machine owns the functions. [`Functions`] says which of
//! them stands where, and the machine dispatches with a `match` on that.

pub mod bridge;
pub mod config;
pub mod gpex;
pub mod i440fx;
pub mod mechanism;
pub mod msi;
pub mod msix;
pub mod piix3;
pub mod piix4_pm;
pub mod topology;

pub use bridge::PciBridge;
pub use config::{BARS, BarKind, CONFIG_BYTES, ConfigSpace, Identity, PciFunction, ROM_BAR, reg};
pub use gpex::Gpex;
pub use i440fx::I440fx;
pub use mechanism::{Address, ConfigMechanism1, Target};
pub use msi::MsiCapability;
pub use msix::MsiX;
pub use piix3::Piix3;
pub use piix4_pm::Piix4Pm;
pub use topology::{BusId, FUNCTIONS_MAX, Functions, Placed, SlotError};
