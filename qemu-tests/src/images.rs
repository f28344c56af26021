//! The firmware test images that run in both emulators.
//!
//! `firmware/builder.rs` is the one description of which there are; here each is built when a test asks for it, into
//! `target/images`.

#[allow(dead_code)]
#[path = "../../firmware/builder.rs"]
mod builder;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// One image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name.
    pub name: &'static str,
    /// It runs ring-0 code that some hosts' KVM can't run.
    pub ring0: bool,
    /// It resets the machine, so that `-no-reboot` must not be given.
    pub reboots: bool,
    /// It is only for accelerators that use the machine's own local APICs.
    pub local_apic: bool,
    /// More options for both emulators.
    pub options: &'static [&'static str],
}

/// All test images.
pub fn all() -> impl Iterator<Item = Image> {
    let tests = builder::IMAGES.iter().filter(|image| image.test);
    tests.map(|image| Image {
        name: image.name,
        ring0: image.ring0,
        reboots: image.reboots,
        local_apic: image.local_apic,
        options: image.options,
    })
}

impl Image {
    /// What the list of differences calls this image's test.
    pub fn test_name(&self) -> String {
        format!("firmware/{}", self.name)
    }

    /// Builds the image, unless it is up to date, and returns its ROM file.
    ///
    /// # Panics
    ///
    /// If it can't be built.
    pub fn rom(&self) -> PathBuf {
        rom(self.name)
    }
}

/// Builds any image of the firmware's, unless it is up to date, and returns its ROM file. A process asks cargo once for each.
///
/// # Panics
///
/// If there is none of this name, or it can't be built.
pub fn rom(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = built.entry(name.to_string());
    known.or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> PathBuf {
    let workspace = crate::workspace_dir();
    let target = workspace.join("target/images");
    let used = builder::build(name, workspace, &target).unwrap_or_else(|error| panic!("{error}"));
    let rom = target.join(format!("{name}.rom"));
    // Another process may have it open.
    let new = target.join(format!("{name}.{}", std::process::id()));
    std::fs::write(&new, builder::pad(&used)).expect("a file in target/images");
    std::fs::rename(&new, &rom).expect("a file in target/images");
    rom
}

/// Builds the option ROM, unless it is up to date: it says on the debug port that it runs, and when it is to boot.
///
/// # Panics
///
/// If it can't be built.
pub fn option_rom() -> Vec<u8> {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    let build = || {
        let workspace = crate::workspace_dir();
        let rom = builder::build_option_rom(workspace, &workspace.join("target/images"));
        rom.unwrap_or_else(|error| panic!("{error}"))
    };
    BUILT.get_or_init(build).clone()
}

/// The ELF file of an image whose ROM was built, with its symbols.
///
/// # Panics
///
/// If there is none.
pub fn elf(name: &str) -> PathBuf {
    let target = crate::workspace_dir().join("target/images");
    let path = target.join("x86_64-unknown-linux-gnu/firmware").join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}
