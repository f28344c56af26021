//! The process around the machine.

pub mod firmware_images;
