//! Drives two emulators with one script, and compares what they answer.
//!
//! The pieces, from the bottom up:
//!
//! - [`Instance`] is one running emulator: its process group, its temporary directory, its output.
//!   Whatever happens to the test, the group is killed, at a deadline or when the value is dropped.
//! - [`QmpClient`] and [`QtestClient`] speak to its sockets. Both give up at a timeout.
//! - [`Console`] is a guest's serial port, and [`linux_guest`] a Linux that does what it is told there, line by line; [`media`]
//!   makes the disks and CDs for it.
//! - [`Comparison`] collects pairs of answers to the same input. A pair that differs fails the test
//!   unless `differences.list` has exactly that entry, and an entry that nothing matches fails too.
//! - [`packages`] finds or installs what a test needs, and [`skip`] says loudly what could not run.
//!
//! The expectation of nearly every test here is what Debian's QEMU 7.2 answers to the same bytes.

mod clients;
mod console;
mod differences;
mod emulator;
pub mod fw_cfg;
pub mod images;
pub mod initramfs;
pub mod linux_guest;
pub mod media;
pub mod packages;
pub mod python;
pub mod reference;
mod skips;

pub use clients::qmp::{QmpClient, QmpError};
pub use clients::qtest::{QtestClient, connection_closed};
pub use console::Console;
pub use differences::{Comparison, ask_both, check_list};
pub use emulator::{Emulator, Instance, Launcher, thimble_binary};
pub use python::program_output;
pub use skips::{skip, skip_part};

/// The folder of this crate in the source tree, where scripts and lists live.
pub fn source_dir() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The top folder of the source tree.
pub fn workspace_dir() -> &'static std::path::Path {
    source_dir()
        .parent()
        .expect("the crate lies in the workspace")
}
