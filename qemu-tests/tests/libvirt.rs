//! libvirt, unmodified, asks the binary what it can do.

use std::process::Command;
use std::time::Duration;

use qemu_tests::{Emulator, packages, program_output, skip, thimble_binary};

/// Where libvirt keeps its driver for QEMU.
const DRIVER: &str = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so";

/// `virsh domcapabilities` starts the emulator, asks it about fifty commands over QMP, and draws its conclusions.
#[test]
fn domcapabilities_succeeds() {
    let driver = packages::file(DRIVER, "libvirt-daemon-driver-qemu");
    let (Some(virsh), Some(_)) = (packages::program("virsh", "libvirt-clients"), driver) else {
        return skip("libvirt is missing");
    };
    if !packages::kvm_usable() {
        return skip("libvirt wants an accelerator, and /dev/kvm can't be used");
    }
    // For a directory: libvirt may run the binary as a user who can't enter this one's.
    let launcher = Emulator::Thimble.launcher();
    let directory = launcher.dir().to_path_buf();
    let binary = directory.join("thimble");
    std::fs::copy(thimble_binary(), &binary).expect("a copy");
    let mut command = Command::new(virsh);
    command
        .arg("-c")
        // The driver inside virsh, without a daemon.
        .arg(format!(
            "qemu:///embed?root={}",
            directory.join("root").display()
        ))
        .args(["domcapabilities", "--emulatorbin"])
        .arg(&binary);
    let output = program_output(&mut command, Duration::from_secs(60));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for fact in [
        format!("<path>{}</path>", binary.display()),
        "<machine>pc-i440fx-7.2</machine>".into(),
        "<arch>x86_64</arch>".into(),
        "<vcpu max='255'/>".into(),
        "<os supported='yes'>".into(),
        "<domain>kvm</domain>".into(),
    ] {
        assert!(text.contains(&fact), "{fact} is missing:\n{text}");
    }
}
