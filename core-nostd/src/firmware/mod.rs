//! What firmware is told by the machine.

pub mod acpi;
pub mod boot;
pub mod boot_order;
pub mod contents;
pub mod e820;
pub mod fw_cfg;
pub mod keys;
pub mod linux;
pub mod loader;
pub mod numa;
pub mod smbios;
pub mod vmcoreinfo;

pub use boot_order::BootSettings;
pub use contents::MachineFacts;
pub use fw_cfg::{Content, FwCfg, FwCfgError, INLINE_MAX};
pub use numa::Numa;
pub use vmcoreinfo::Vmcoreinfo;
