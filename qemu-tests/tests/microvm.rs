//! The board without PCI beside QEMU's: registers of virtio devices in memory and of ACPI's event device, what a kernel is told of them,
//! and a Linux guest that uses them.

use std::path::Path;
use std::time::{Duration, Instant};

use qemu_tests::fw_cfg::{file, item};
use qemu_tests::linux_guest::LinuxGuest;
use qemu_tests::{Emulator, Launcher, ask_both, packages, skip};
use serde_json::json;

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(120);
/// Answers of an emulator that has nothing else to do.
const SOON: Duration = Duration::from_secs(20);

const MISSING: &str = "the Debian packages linux-image-cloud-amd64 and busybox-static can't be had";

/// Where the first disk's registers are: places are taken from the last on.
const DISK: u64 = 0xfeb0_2e00;

/// Writes an image of 64 KiB, each sector of which is different.
fn image(path: &Path) {
    let bytes: Vec<u8> = (0..64 << 10_u32)
        .map(|at| (at >> 9) as u8 ^ at as u8)
        .collect();
    std::fs::write(path, bytes).expect("an image");
}

fn with_disk(launcher: Launcher, device: &str) -> Launcher {
    image(&launcher.dir().join("disk"));
    launcher
        .args(["-drive", "if=none,id=d,file={dir}/disk,format=raw"])
        .args(["-device", device])
}

/// Reads and writes of the registers: what they are after power-on, what every width sees, and what a driver does before it has queues.
fn looks() -> Vec<String> {
    let at = |offset: u64| format!("{:#x}", DISK + offset);
    let mut requests: Vec<String> = Vec::new();
    for offset in (0..0x200).step_by(4) {
        requests.push(format!("readl {}", at(offset)));
    }
    for offset in [
        0, 1, 2, 4, 0x34, 0x70, 0x100, 0x114, 0x135, 0x136, 0x137, 0x138, 0x1fc,
    ] {
        for letter in ["b", "w", "l", "q"] {
            requests.push(format!("read{letter} {}", at(offset)));
        }
    }
    // A place without a device, and what is around the places.
    for address in [
        "0xfeb00000",
        "0xfeb00004",
        "0xfeb00008",
        "0xfeb00010",
        "0xfeb00034",
        "0xfeb02ffc",
        "0xfeb03000",
    ] {
        requests.push(format!("readl {address}"));
    }
    requests.push("writel 0xfeb00070 0xf".into());
    requests.push("readl 0xfeb00070".into());
    for (offset, value) in [
        (0x14, 1),
        (0x10, 0),
        (0x14, 7),
        (0x14, 0),
        (0x24, 0),
        (0x20, 0x3000_0054),
        (0x30, 1),
        (0x30, 0),
        (0x30, 1023),
        (0x30, 1024),
        (0x30, 0),
        (0x28, 0x1000),
        (0x38, 0x80),
        (0x38, 0x401),
        (0x38, 0),
        (0x3c, 0x1000),
        (0x40, 0x10),
        (0x40, 0x11),
        (0x28, 0x3000),
        (0x28, 0),
        (0x28, 0x1000),
        (0x44, 1),
        (0x80, 0x1_2000),
        (0x44, 1),
        (0x44, 0),
        (0x50, 5),
        (0x64, 3),
        (0x70, 3),
        (0x70, 0x1ff),
        (0x120, 0),
        (0x100, 0xff),
        (0x70, 0),
        (0x40, 0x12),
        (0x40, 0),
    ] {
        requests.push(format!("writel {} {value:#x}", at(offset)));
        for offset in [0x10, 0x34, 0x40, 0x44, 0x60, 0x70, 0xfc] {
            requests.push(format!("readl {}", at(offset)));
        }
    }
    requests.push(format!("writeb {} 0x7", at(0x70)));
    requests.push(format!("writew {} 0x7", at(0x70)));
    requests.push(format!("readl {}", at(0x70)));
    requests
}

/// A driver brings the disk up by either kind of registers and reads the third sector.
fn reads(legacy: bool) -> Vec<String> {
    let mut requests: Vec<String> = Vec::new();
    let mut set =
        |offset: u64, value: u64| requests.push(format!("writel {:#x} {value:#x}", DISK + offset));
    // Linux says its pages' size before it resets the device.
    if legacy {
        set(0x28, 0x1000);
    }
    set(0x70, 0);
    set(0x70, 1);
    set(0x70, 3);
    set(0x24, 0);
    set(0x20, 0);
    if !legacy {
        set(0x24, 1);
        set(0x20, 1);
        set(0x70, 0xb);
    }
    set(0x30, 0);
    set(0x38, 8);
    // Descriptors at 64 KiB; a legacy queue's rings follow them.
    let used = if legacy {
        set(0x3c, 0x100);
        set(0x40, 0x10);
        0x1_0100
    } else {
        for (offset, address) in [(0x80, 0x1_0000), (0x90, 0x1_0080), (0xa0, 0x1_0200)] {
            set(offset, address);
            set(offset + 4, 0);
        }
        set(0x44, 1);
        0x1_0200
    };
    set(0x70, 0xf);
    let mut write =
        |address: u64, value: u64| requests.push(format!("writeq {address:#x} {value:#x}"));
    // The header, the data and the status: address; length, flags and the next one.
    for (index, (address, length, flags)) in
        [(0x2_0000, 16, 1), (0x3_0000, 512, 3), (0x2_0010, 1, 2)]
            .into_iter()
            .enumerate()
    {
        let at = 0x1_0000 + 16 * index as u64;
        write(at, address);
        write(at + 8, length | flags << 32 | (index as u64 + 1) << 48);
    }
    write(0x2_0000, 0);
    write(0x2_0008, 2);
    write(0x2_0010, 0xff);
    // The available ring: no flags, one buffer, which is the first.
    write(0x1_0080, 1 << 16);
    requests.push(format!("writel {:#x} 0", DISK + 0x50));
    requests.push(format!("until {:#x}", DISK + 0x60));
    for address in [0x2_0010, 0x3_0000, 0x3_0008, 0x3_01f8, used, used + 8] {
        requests.push(format!("readq {address:#x}"));
    }
    for (offset, value) in [(0x64, 2), (0x64, 1)] {
        requests.push(format!("writel {:#x} {value:#x}", DISK + offset));
        requests.push(format!("readl {:#x}", DISK + 0x60));
    }
    requests
}

fn registers(kind: &str, requests: &[String]) {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let launcher = emulator.launcher().args(emulator.passive_args());
        let launcher = launcher.args(["-M", "microvm", "-m", "16", "-global"]);
        let launcher = launcher.args([&format!("virtio-mmio.force-legacy={kind}")]);
        let instance = with_disk(launcher, "virtio-blk-device,drive=d")
            .with_qtest()
            .start();
        let mut client = instance.qtest();
        let mut ask = |request: &str| {
            let Some(address) = request.strip_prefix("until ") else {
                return client.request(request).expect("an answer");
            };
            // A request ends when it does.
            let start = Instant::now();
            loop {
                let answer = client
                    .request(&format!("readl {address}"))
                    .expect("an answer");
                if answer != "OK 0x0000000000000000" || start.elapsed() > SOON {
                    return answer;
                }
            }
        };
        let answers = requests
            .iter()
            .map(|request| (request.clone(), ask(request)));
        answers.collect::<Vec<_>>()
    });
    for (theirs, ours) in qemu.iter().zip(&thimble) {
        assert_eq!(ours, theirs, "force-legacy={kind}");
    }
    assert_eq!(qemu.len(), requests.len());
}

#[test]
fn virtio_registers_are_those_of_qemu() {
    registers("on", &looks());
    registers("off", &looks());
}

#[test]
fn a_driver_reads_by_either_registers() {
    registers("on", &reads(true));
    registers("off", &reads(false));
}

#[test]
fn power_goes_by_the_event_device() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let instance = emulator
            .launcher()
            .args(emulator.passive_args())
            .args(["-M", "microvm", "-no-shutdown"])
            .with_qtest()
            .with_qmp()
            .start();
        let mut qmp = instance.qmp();
        qmp.negotiate();
        let mut qtest = instance.qtest();
        let mut answers = Vec::new();
        for width in ["b", "w", "l", "l"] {
            if width != "l" {
                assert_eq!(qmp.execute("system_powerdown", json!({})), Ok(json!({})));
                qmp.wait_event("POWERDOWN", SOON);
            }
            answers.push(
                qtest
                    .request(&format!("read{width} 0xfea00000"))
                    .expect("an answer"),
            );
        }
        for (request, event) in [
            ("writeb 0xfea00200 0x24", None),
            ("writeb 0xfea00202 0x41", None),
            ("writeb 0xfea00201 0xff", None),
            ("writeb 0xfea00200 0x34", Some("SHUTDOWN")),
            ("writeb 0xfea00202 0x42", Some("RESET")),
            ("writew 0xfea00202 0x42", Some("RESET")),
            ("writel 0xfea00200 0x420000", Some("RESET")),
        ] {
            answers.push(qtest.request(request).expect("an answer"));
            if let Some(event) = event {
                let event = qmp.wait_event(event, SOON);
                answers.push(event["data"].to_string());
            }
            answers.push(qtest.request("readl 0xfea00200").expect("an answer"));
        }
        answers
    });
    assert_eq!(thimble, qemu);
    assert_eq!(thimble[2], "OK 0x0000000000000002", "the button");
}

/// Without ACPI the kernel's command line tells of devices; with it the DSDT does.
#[test]
fn kernels_without_acpi_are_told_on_their_command_line() {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 can't be had");
    };
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let kernel = kernel.to_str().expect("a plain path");
    for machine in [
        "microvm,acpi=off",
        "microvm,acpi=off,auto-kernel-cmdline=off",
        "microvm",
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let launcher = launcher.args([
                "-M", machine, "-m", "64", "-kernel", kernel, "-append", "word",
            ]);
            let launcher = with_disk(launcher, "virtio-blk-device,drive=d,bootindex=3");
            image(&launcher.dir().join("other"));
            let instance = launcher
                .args(["-drive", "if=none,id=e,file={dir}/other,format=raw"])
                .args(["-device", "virtio-blk-device,drive=e,bus=virtio-mmio-bus.2"])
                .with_qtest()
                .start();
            let mut client = instance.qtest();
            let length =
                u32::from_le_bytes(item(&mut client, 0x14, 4).try_into().expect("4 bytes"));
            let line = String::from_utf8(item(&mut client, 0x15, length as usize)).expect("a line");
            let order = file(&mut client, "bootorder").expect("an order");
            let order = String::from_utf8(order).expect("paths");
            // QEMU's kernel comes by an option ROM.
            let disks = order.lines().filter(|line| line.contains("virtio"));
            (line, disks.map(str::to_owned).collect::<Vec<_>>())
        });
        assert_eq!(thimble, qemu, "{machine}");
    }
}

/// What there can be of old devices, and must not be. The last is what QEMU's manual calls the smallest.
const OLD_DEVICES: [&str; 7] = [
    "microvm",
    "microvm,pic=on,rtc=on,pit=on,isa-serial=on",
    "microvm,pic=auto,rtc=auto,pit=auto",
    "microvm,pic=off",
    "microvm,rtc=off",
    "microvm,pit=off,acpi=off",
    "microvm,pic=off,rtc=off,pit=off,isa-serial=off",
];

/// Ports, objects and what the monitor tells of them: what is absent is so everywhere.
#[test]
fn old_devices_are_there_or_not() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for machine in OLD_DEVICES {
        let [qemu, thimble] = ask_both(|emulator| {
            let instance = emulator
                .launcher()
                .args(emulator.passive_args())
                .args(["-M", machine, "-m", "16", "-serial", "null"])
                .args(["-rtc", "base=2020-02-29T11:00:00,clock=vm"])
                .with_qtest()
                .with_qmp()
                .start();
            let mut qmp = instance.qmp();
            qmp.negotiate();
            let mut qtest = instance.qtest();
            let mut answers = Vec::new();
            let mut ask = |request: &str| {
                let answer = qtest.request(request).expect("an answer");
                answers.push(format!("{request}: {answer}"));
            };
            // Interrupt masks, the timer's counter 2, the alarm's second.
            for (port, value) in [
                (0x21, 0x5a),
                (0xa1, 0xa5),
                (0x4d0, 0x20),
                (0x43, 0xb0),
                (0x42, 0x12),
                (0x42, 0x34),
                (0x70, 1),
                (0x71, 0x33),
                (0x3ff, 0x77),
            ] {
                ask(&format!("outb {port:#x} {value:#x}"));
            }
            // Port 61h, by which Linux measures clocks with the timer, QEMU's board has only where the kernel models both.
            for port in [
                0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x42, 0x70, 0x71, 0x3fd, 0x3ff,
            ] {
                ask(&format!("inb {port:#x}"));
            }
            ask("inw 0x4cf");
            ask("inl 0x6e");
            for line in ["info pic", "info irq"] {
                // QEMU shows controllers in an order that their numbers in the tree lead to.
                let arguments = json!({"command-line": line});
                let text = qmp.execute("human-monitor-command", arguments);
                let text = text.expect("text");
                let mut lines: Vec<_> = text.as_str().expect("text").lines().collect();
                lines.sort_unstable();
                answers.push(lines.join("\n"));
            }
            let mut ask = |command: &str, arguments| {
                let answer = qmp.execute(command, arguments);
                answers.push(format!("{command}: {answer:?}"));
            };
            ask("rtc-reset-reinjection", json!({}));
            for property in ["rtc-time", "isa-serial", "x-option-roms"] {
                let get = json!({"path": "/machine", "property": property});
                ask("qom-get", get);
            }
            let list = json!({"path": "/machine/unattached"});
            let objects = qmp.execute("qom-list", list).expect("a list");
            let mut objects: Vec<_> = objects
                .as_array()
                .expect("a list")
                .iter()
                .map(|object| format!("{} {}", object["name"], object["type"]))
                .filter(|object| object.contains("<isa-") || object.contains("rtc>"))
                .collect();
            objects.sort();
            answers.extend(objects);
            answers
        });
        assert_eq!(thimble, qemu, "{machine}");
    }
}

/// Under KVM guests have its clock, and need no other: there is none unless it is asked for.
#[test]
fn under_kvm_there_is_no_clock_by_default() {
    if !packages::qemu_and_kvm() {
        return;
    }
    for machine in [
        "microvm",
        "microvm,rtc=on",
        "microvm,rtc=auto,pic=off",
        "pc",
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let instance = emulator
                .launcher()
                .args(["-accel", "kvm", "-S", "-nodefaults", "-display", "none"])
                .args(["-M", machine, "-rtc", "base=2020-02-29,clock=vm"])
                .with_qmp()
                .start();
            let mut qmp = instance.qmp();
            qmp.negotiate();
            let get = json!({"path": "/machine", "property": "rtc-time"});
            let port = json!({"command-line": "i /b 0x71"});
            let pic = json!({"command-line": "info pic"});
            let pic = qmp.execute("human-monitor-command", pic).expect("text");
            [
                qmp.execute("qom-get", get)
                    .map_err(|error| error.to_string()),
                Ok(qmp.execute("human-monitor-command", port).expect("text")),
                Ok(json!(pic.as_str().expect("text").contains("pic0: "))),
            ]
        });
        assert_eq!(thimble, qemu, "{machine}");
    }
}

/// What boards don't have, and words that mean nothing.
#[test]
fn old_devices_are_asked_for_in_the_same_words() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for machine in [
        "microvm,isa-serial=auto",
        "microvm,x-option-roms=auto",
        "pc,rtc=off",
        "pc,x-option-roms=on",
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let instance = launcher.args(["-M", machine]).start();
            let status = instance.wait(SOON);
            let said = instance.stderr();
            // Whose line it is, and which option it is about, each says in its own way.
            let reason = ["Property '", "Parameter '"]
                .iter()
                .find_map(|word| Some(said[said.find(word)?..].trim().to_owned()));
            (status.code(), reason)
        });
        assert!(qemu.1.is_some(), "{machine}");
        assert_eq!(thimble, qemu, "{machine}");
    }
    // The kernel has all of its controllers or none.
    if packages::qemu_and_kvm() {
        let launcher = Emulator::Thimble.launcher();
        let instance = launcher
            .args(["-accel", "kvm", "-nodefaults", "-display", "none", "-S"])
            .args(["-M", "microvm,pic=off,kernel-irqchip=on"])
            .start();
        assert_eq!(instance.wait(SOON).code(), Some(1));
        let said = instance.stderr();
        assert!(
            said.contains("-machine pic=off: the kernel's own"),
            "{said}"
        );
    }
}

/// Option ROMs are for firmware that looks for them.
#[test]
fn option_roms_are_loaded_or_not() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for machine in ["microvm", "microvm,x-option-roms=off"] {
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            std::fs::write(launcher.dir().join("rom"), [0x55; 512]).expect("a file");
            let instance = launcher
                .args(["-M", machine, "-option-rom", "{dir}/rom"])
                .with_qtest()
                .start();
            file(&mut instance.qtest(), "genroms/rom")
        });
        assert_eq!(thimble, qemu, "{machine}");
        assert_eq!(thimble.is_some(), machine == "microvm");
    }
}

/// A disk of which Linux is told by the DSDT: it reads what the host has written, the host what Linux has; then the guest starts again by
/// the reset register, and powers off by the button.
#[test]
fn linux_uses_a_virtio_disk_in_memory() {
    const MODULES: [&str; 6] = [
        "virtio_ring",
        "virtio",
        "virtio_mmio",
        "virtio_blk",
        "button",
        "evdev",
    ];
    // Without what hardware-reduced ACPI can do without.
    let bare = "microvm,pic=off,pit=off,rtc=off";
    let launcher = Emulator::Thimble.launcher().args(["-M", bare]);
    let path = launcher.dir().join("disk");
    let launcher = with_disk(launcher, "virtio-blk-device,drive=d,serial=memory");
    let Some(mut guest) = LinuxGuest::start(launcher, &MODULES) else {
        return skip(MISSING);
    };
    let before = std::fs::read(&path).expect("the image");
    assert_eq!(guest.run("cat /sys/block/vda/serial"), "memory");
    assert_eq!(guest.run("blockdev --getsize64 /dev/vda"), "65536\n");
    assert_eq!(
        guest.run("basename $(readlink -f /sys/block/vda/device/..)"),
        "LNRO0005:00\n"
    );
    let shown = guest
        .run("dd if=/dev/vda bs=4096 count=1 skip=3 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'");
    let expected: String = before[3 << 12..4 << 12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(shown, expected);
    guest.run("dd if=/dev/vda of=/tmp/x bs=1024 count=20 2>/dev/null && dd if=/tmp/x of=/dev/vda bs=1024 seek=40 conv=fsync 2>/dev/null");
    let interrupts = guest.run("grep virtio0 /proc/interrupts");
    assert!(interrupts.contains("IO-APIC  23-fasteoi"), "{interrupts}");
    assert_eq!(guest.run("grep -c XT-PIC /proc/interrupts || true"), "0\n");
    assert_eq!(guest.run("ls /sys/class/rtc"), "");
    guest.run("cat /dev/input/event0 > /tmp/button & sleep 1");
    assert_eq!(
        guest.qmp.execute("system_powerdown", json!({})),
        Ok(json!({}))
    );
    guest.run("while ! [ -s /tmp/button ]; do sleep 1; done");
    guest.console.send("poweroff -f\n");
    guest.qmp.wait_event("SHUTDOWN", PATIENCE);
    assert!(guest.instance.wait(PATIENCE).success());
    let after = std::fs::read(&path).expect("the image");
    assert_eq!(after[40 << 10..60 << 10], before[..20 << 10]);
    assert_eq!(after[..40 << 10], before[..40 << 10]);
}

#[test]
fn places_are_refused_in_the_same_words() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for (machine, devices) in [
        (
            "microvm",
            &["virtio-blk-device,drive=d,bus=virtio-mmio-bus.24"][..],
        ),
        ("microvm", &["virtio-blk-device,drive=d,bus=isa.0"]),
        ("microvm", &["isa-serial,bus=virtio-mmio-bus.0"]),
        (
            "microvm",
            &[
                "virtio-blk-device,drive=d,bus=virtio-mmio-bus.3",
                "virtio-blk-device,drive=e,bus=virtio-mmio-bus.3",
            ],
        ),
        (
            "microvm,acpi=off",
            &["virtio-blk-device,drive=d,bus=virtio-mmio-bus.8"],
        ),
        (
            "microvm,ioapic2=off",
            &["virtio-blk-device,drive=d,bus=virtio-mmio-bus.8"],
        ),
        ("microvm", &["virtio-blk-pci,drive=d"]),
        ("pc", &["virtio-blk-device,drive=d"]),
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator
                .launcher()
                .args(emulator.passive_args())
                .args(["-M", machine]);
            for name in ["d", "e"] {
                image(&launcher.dir().join(name));
            }
            let mut launcher = launcher
                .args(["-drive", "if=none,id=d,file={dir}/d,format=raw"])
                .args(["-drive", "if=none,id=e,file={dir}/e,format=raw"]);
            for device in devices {
                launcher = launcher.args(["-device", device]);
            }
            let instance = launcher.start();
            let status = instance.wait(SOON);
            let said = instance.stderr();
            let reason = said
                .trim()
                .split_once(": ")
                .map(|(_, reason)| reason.to_owned());
            (status.code(), reason)
        });
        assert_eq!(thimble, qemu, "{machine} {devices:?}");
    }
}
