//! What firmware is told by the machine.

pub mod contents;
pub mod e820;
pub mod fw_cfg;
pub mod keys;

pub use contents::MachineFacts;
pub use fw_cfg::{Content, FwCfg, FwCfgError, INLINE_MAX};
