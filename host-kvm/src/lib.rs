//! The process around the machine: options, KVM, sockets, files and threads.
//!
//! The machine itself is `thimble_core`, its QMP sessions `thimble_monitor`; here bytes are moved.

pub mod chardev;
pub mod clock;
pub mod cpuid;
pub mod daemonize;
pub mod descriptors;
pub mod event_loop;
pub mod files;
pub mod firmware_images;
pub mod flash;
pub mod gdb;
pub mod kvm;
pub mod log;
pub mod memory;
pub mod messages;
pub mod monitors;
pub mod objects;
pub mod options;
pub mod qtest;
pub mod registers;
mod signals;
pub mod soft;
pub mod startup;
pub mod terminal;
pub mod trace;
pub mod vm;

pub use startup::main;

use messages::report;

/// The text of an error without Rust's number behind it, as users know it.
fn error_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
