//! What firmware is told by the machine.

pub mod fw_cfg;
