//! libvirt, unmodified, asks the binary what it can do.

use std::process::Command;
use std::time::Duration;

use qemu_tests::{Emulator, packages, program_output, skip, thimble_binary};

/// libvirt's settings for QEMU. The package brings the driver, and the user that the driver wants to exist.
const SETTINGS: &str = "/etc/libvirt/qemu.conf";

/// `virsh domcapabilities` starts the emulator, asks it about fifty commands over QMP, and draws its conclusions.
#[test]
fn domcapabilities_succeeds() {
    let settings = packages::file(SETTINGS, "libvirt-daemon-system");
    let (Some(virsh), Some(_)) = (packages::program("virsh", "libvirt-clients"), settings) else {
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
