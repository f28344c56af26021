//! Debian's SeaBIOS under both accelerators, as far as it comes without a disk.

use std::time::Duration;

use qemu_tests::{Emulator, packages, skip};

#[test]
fn seabios_finds_nothing_to_boot() {
    let Some(bios) = packages::seabios() else {
        return skip("the Debian package seabios is missing");
    };
    for accel in packages::accelerators() {
        let thimble = Emulator::Thimble
            .launcher()
            .args(["-accel", accel, "-nodefaults", "-display", "none", "-bios"])
            .args([bios.to_str().expect("a plain path")])
            .args(["-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402"])
            .start();
        let patience = Duration::from_secs(50);
        for text in ["SeaBIOS (version", "No bootable device"] {
            assert!(thimble.wait_stdout(text, patience), "{}", thimble.report());
        }
    }
}
