//! The firmware test images in both emulators: what they print on the debug console, and how they end.
//!
//! Images print what they observe and no verdicts, so that QEMU's output is the expectation.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use qemu_tests::images::{self, Image};
use qemu_tests::{Comparison, Emulator, Instance, packages, skip, skip_part};

/// How long an image may run. QEMU's software CPU shares the machine with the other tests.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long one may run that needs a processor which runs ring 0 in full: another may stop, or run in circles.
const PATIENCE_RING0: Duration = Duration::from_secs(8);

/// The lines of the debug console, and the exit status.
fn run(emulator: Emulator, accel: &str, image: &Image) -> (Vec<String>, String) {
    let launcher = emulator.launcher().args(["-accel", accel]);
    let mut launcher = launcher
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-M", "pc", "-m", "64"])
        .args(["-debugcon", "file:{dir}/console"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-bios", image.rom().to_str().expect("a plain path")])
        .args(image.options);
    if !image.reboots {
        launcher = launcher.args(["-no-reboot"]);
    }
    let instance = launcher.start();
    if image.ring0 && accel.starts_with("kvm") && !ends(&instance, PATIENCE_RING0) {
        return (Vec::new(), "none".to_string());
    }
    let status = instance.wait(PATIENCE);
    let console = std::fs::read(instance.dir().join("console")).expect("the console's file");
    let text = String::from_utf8_lossy(&console);
    let status = match status.code() {
        // 33 is the images' own; any other end is worth the whole report.
        Some(33) => "33".to_string(),
        _ => format!("{status}: {}", instance.stderr()),
    };
    (text.lines().map(String::from).collect(), status)
}

/// Whether a process ends in time.
fn ends(instance: &Instance, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while instance.try_wait().is_none() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Whether this host's KVM runs ring-0 code to its end: where it is a guest itself, it may know only some instructions.
fn runs_ring0() -> bool {
    static RUNS: LazyLock<bool> = LazyLock::new(|| {
        let mut images = images::all().filter(|image| image.ring0);
        images.all(|image| run(Emulator::Thimble, "kvm", &image).1 == "33")
    });
    *RUNS
}

#[test]
fn images_print_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let accelerators = packages::accelerators();
    let mut failures = Vec::new();
    let mut count = 0;
    for image in images::all() {
        count += 1;
        let ran = std::panic::catch_unwind(|| compare(&image, &accelerators));
        if ran.is_err() {
            failures.push(image.name);
        }
    }
    assert!(count > 0, "there are no images");
    assert!(failures.is_empty(), "differences in {failures:?}");
}

/// Whether the image for exceptions ran where `int n` is an invalid instruction: some hosts that are guests themselves.
fn lacks_software_interrupts(lines: &[String]) -> bool {
    lines
        .iter()
        .any(|line| line.starts_with("int without gate: vector 6 "))
}

fn compare(image: &Image, accelerators: &[&str]) {
    let qemu = run(Emulator::Qemu, "tcg", image);
    for accel in accelerators {
        if image.ring0 && accel.starts_with("kvm") && !runs_ring0() {
            let name = image.name;
            skip_part(&format!("{name}: this KVM can't run its ring-0 code"));
            break;
        }
        let kernels_apics = accel.ends_with("=on") || accel.ends_with("=split");
        if image.local_apic && kernels_apics {
            continue;
        }
        eprintln!("{} with {accel}", image.name);
        let thimble = run(Emulator::Thimble, accel, image);
        compare_runs(image, &qemu, &thimble);
    }
}

fn compare_runs(image: &Image, qemu: &(Vec<String>, String), thimble: &(Vec<String>, String)) {
    assert!(!qemu.0.is_empty(), "{}: QEMU printed nothing", image.name);
    let mut comparison = Comparison::new(&image.test_name());
    let lines = qemu.0.len().max(thimble.0.len());
    let no_gates = lacks_software_interrupts(&thimble.0);
    for number in 0..lines {
        let line = |lines: &[String]| lines.get(number).cloned().unwrap_or("<nothing>".into());
        let told = line(&qemu.0);
        let input = format!("line {}", number + 1);
        let affected = ["int ", "count 6 ", "count 13 "];
        if no_gates && affected.iter().any(|start| told.starts_with(start)) {
            skip_part(&format!("this KVM has no `int n`: {}: {told}", image.name));
            comparison.leave_out(&input);
            continue;
        }
        comparison.add(&input, &line(&qemu.0), &line(&thimble.0));
    }
    comparison.add("exit status", &qemu.1, &thimble.1);
    comparison.finish();
}
