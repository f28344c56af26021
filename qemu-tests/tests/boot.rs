//! What the guest boots from, side by side: what firmware is told by `-boot` and `-option-rom`, and what Debian's SeaBIOS makes
//! of it, on the debug port and on the serial port.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use qemu_tests::{
    Emulator, Instance, Launcher, QtestClient, ask_both, images, packages, skip, thimble_binary,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(50);

/// Reads a byte of CMOS.
fn cmos(client: &mut QtestClient, index: u8) -> String {
    client
        .request(&format!("outb 0x70 {index:#x}"))
        .expect("alive");
    client.request("inb 0x71").expect("alive")
}

fn number(answer: &str) -> u32 {
    let digits = answer.strip_prefix("OK 0x").expect("a number");
    u32::from_str_radix(digits, 16).expect("a number")
}

/// Reads an item of fw_cfg.
fn item(client: &mut QtestClient, key: u32, length: u32) -> Vec<u8> {
    client
        .request(&format!("outw 0x510 {key:#x}"))
        .expect("alive");
    let mut byte = || number(&client.request("inb 0x511").expect("alive")) as u8;
    (0..length).map(|_| byte()).collect()
}

/// The files of fw_cfg that tell of booting, by name. The empty one that QEMU always has is left out.
fn boot_files(client: &mut QtestClient) -> Vec<(String, Vec<u8>)> {
    let big = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |all, byte| all << 8 | u32::from(*byte))
    };
    let count = big(&item(client, 0x19, 4));
    let directory = item(client, 0x19, 4 + 64 * count);
    let mut files = Vec::new();
    for entry in directory[4..].chunks(64) {
        let name = entry[8..].split(|byte| *byte == 0).next().expect("a name");
        let name = String::from_utf8(name.to_vec()).expect("a name");
        let is_ours = name.starts_with("genroms/") && !name.ends_with("kvmvapic.bin");
        let is_told = name.starts_with("boot") || name.starts_with("etc/boot");
        if is_ours || is_told {
            let content = item(client, big(&entry[4..6]), big(&entry[..4]).min(600));
            files.push((name, content));
        }
    }
    files.retain(|(_, content)| !content.is_empty());
    files
}

/// Images for disks that no controller has yet.
const DISKS: &str = "-drive if=none,id=a,file={dir}/a.rom,format=raw -drive if=none,id=b,file={dir}/b.rom,format=raw \
                     -drive if=none,id=c,file={dir}/a.bmp,format=raw -drive if=none,id=d,file={dir}/a.jpg,format=raw";

fn passive(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher().args(emulator.passive_args());
    std::fs::write(launcher.dir().join("a.rom"), images::option_rom()).expect("a file");
    std::fs::write(launcher.dir().join("b.rom"), b"other").expect("a file");
    let mut picture = vec![0_u8; 64];
    picture[..2].copy_from_slice(b"BM");
    picture[28] = 24;
    std::fs::write(launcher.dir().join("a.bmp"), &picture).expect("a file");
    std::fs::write(launcher.dir().join("a.jpg"), [0xff, 0xd8].repeat(20)).expect("a file");
    launcher.args(["-vga", "none"])
}

#[test]
fn firmware_is_told_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in [
        "",
        "-boot n",
        "-boot order=dca,menu=on,splash-time=3000,reboot-timeout=5000,strict=on",
        "-boot once=n,order=d",
        "-boot c -boot menu=on -boot order=ab -no-fd-bootchk",
        "-boot order=,reboot-timeout=0",
        "-boot menu=off,splash={dir}/a.bmp,splash-time=0",
        "-boot splash={dir}/a.jpg,reboot-timeout=65535",
        "-option-rom {dir}/a.rom",
        "-option-rom {dir}/a.rom,bootindex=5 -option-rom romfile={dir}/b.rom,bootindex=2",
        "-option-rom {dir}/a.rom,bootindex=0 -boot strict=on",
        "-option-rom {dir}/b.rom,bootindex=-3 -boot strict=on",
        "-machine graphics=off -nographic",
        "{disks} -device ide-hd,drive=a,bootindex=3 -device ide-cd,drive=b,bootindex=1,bus=ide.1,unit=1 \
         -device virtio-blk-pci,drive=c,bootindex=2 -device virtio-blk-pci,drive=d",
        "{disks} -device pci-bridge,id=br,chassis_nr=1,shpc=off -boot strict=on \
         -device virtio-blk-pci,drive=c,bootindex=2,bus=br,addr=3,multifunction=on \
         -device virtio-blk-pci,drive=a,bootindex=4,bus=br,addr=3.1 -option-rom {dir}/a.rom,bootindex=3",
        "{disks} -device virtio-blk-pci,drive=a,bootindex=-3 -device ide-cd,drive=b,bootindex=-3 -boot strict=on",
        "-global isa-fdc.bootindexA=4 -global isa-fdc.bootindexB=2 -option-rom {dir}/a.rom,bootindex=3",
        "{disks} -global isa-fdc.bootindexB=2 -device virtio-blk-pci,drive=a,bootindex=1 -device floppy,drive=b",
        "{disks} -global ide-cd.bootindex=7 -device ide-cd,bus=ide.0,unit=1 -boot strict=on,order=dc",
    ] {
        let options = &options.replace("{disks}", DISKS);
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = passive(emulator).args(options.split_whitespace());
            let instance = launcher.with_qtest().start();
            let client = &mut instance.qtest();
            let files = boot_files(client);
            let menu = item(client, 0x0e, 2);
            let nographic = item(client, 0x04, 2);
            let order = [cmos(client, 0x38), cmos(client, 0x3d)];
            (files, menu, nographic, order)
        });
        assert_eq!(qemu, thimble, "{options}");
    }
}

#[test]
fn wrong_options_are_refused_in_the_same_words() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in [
        "-boot q",
        "-boot order=aba",
        "-boot once=C",
        "-boot menu",
        "-boot abcd",
        "-boot once=ce",
        "-boot order=c,foo=1",
        "-boot menu=x",
        "-boot strict=2",
        "-boot splash-time=x",
        "-boot splash-time=65536",
        "-boot splash-time=-1",
        "-boot reboot-timeout=-2",
        "-boot reboot-timeout=65536",
        "-option-rom bootindex=1",
        "-option-rom {dir}/a.rom,bootindex=x",
        "-option-rom {dir}/a.rom,foo=1",
        "-option-rom {dir}/a.rom -option-rom {dir}/a.rom",
        "{disks} -device ide-hd,drive=a,bootindex=3 -device virtio-blk-pci,drive=b,bootindex=3",
        "{disks} -device virtio-blk-pci,drive=a,bootindex=0 -device ide-cd,drive=b,bootindex=0",
        "{disks} -global isa-fdc.bootindexA=5 -device ide-cd,bootindex=5",
        "{disks} -device ide-cd,bootindex=5 -option-rom {dir}/a.rom,bootindex=5",
        "-parallel null -parallel null -parallel null -parallel null",
        "-device isa-parallel",
        "-chardev null,id=a -device isa-parallel,chardev=a,index=3",
    ] {
        let options = &options.replace("{disks}", DISKS);
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = passive(emulator).args(options.split_whitespace());
            let directory = launcher.dir().to_str().expect("a plain path").to_owned();
            let instance = launcher.start();
            assert_eq!(instance.wait(SOON).code(), Some(1), "{options}");
            let text = instance.stderr().replace(&directory, "{dir}");
            text.trim_end().to_owned()
        });
        // Behind the program's name; QEMU names the option only sometimes.
        let reason = qemu.split_once(": ").map_or("", |(_, reason)| reason);
        let reason = reason
            .strip_prefix(&format!("{options}: "))
            .unwrap_or(reason);
        let last = reason.rsplit(": ").next().unwrap_or_default();
        assert!(
            thimble.ends_with(reason) || (reason.starts_with('-') && thimble.ends_with(last)),
            "{options}:\n{qemu}\n{thimble}"
        );
    }
}

#[test]
fn the_order_is_set_while_the_machine_is_there() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let launcher = passive(emulator).args(["-boot", "once=n,order=dc"]);
        let instance = launcher.with_qmp().with_qtest().start();
        let (mut client, mut monitor) = (instance.qtest(), instance.qmp());
        monitor.negotiate();
        let mut seen = Vec::new();
        for line in [
            "",
            "boot_set",
            "boot_set q",
            "boot_set cc",
            "boot_set abcd",
            "boot_set e",
            "boot_set a b",
            "boot_set ca",
            "reset",
            "boot_set \"\"",
            "boot_set n",
            "reset",
        ] {
            if line == "reset" {
                monitor.execute("system_reset", json!({})).expect("a reset");
                monitor.wait_event("RESET", SOON);
            } else {
                let arguments = json!({"command-line": line});
                let answer = monitor.execute("human-monitor-command", arguments);
                seen.push(format!("{line}: {answer:?}"));
            }
            seen.push(cmos(&mut client, 0x38) + &cmos(&mut client, 0x3d));
        }
        seen
    });
    assert_eq!(qemu, thimble);
}

#[test]
fn other_boards_have_no_order() {
    let launcher = Emulator::Thimble.launcher();
    let args = Emulator::Thimble.passive_args();
    let instance = launcher
        .args(args)
        .args(["-M", "microvm", "-boot", "abcdefgh"])
        .with_qmp()
        .start();
    let mut monitor = instance.qmp();
    monitor.negotiate();
    let arguments = json!({"command-line": "boot_set c"});
    let answer = monitor.execute("human-monitor-command", arguments);
    let text = "no function defined to set boot device list for this architecture\r\n";
    assert_eq!(answer, Ok(json!(text)));
}

/// What a printer gets arrives in a file.
#[test]
fn parallel_ports_print() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let launcher = passive(emulator).args(["-parallel", "file:{dir}/printed"]);
        let instance = launcher.with_qtest().start();
        let mut client = instance.qtest();
        let mut ask = |request: &str| client.request(request).expect("alive");
        for byte in b"printed\n\x0c" {
            ask(&format!("outb 0x378 {byte:#x}"));
            ask("outb 0x37a 0x0d");
            ask("outb 0x37a 0x0c");
            while ask("inb 0x379") != "OK 0x00d9" {}
        }
        std::fs::read(instance.dir().join("printed")).expect("a file")
    });
    assert_eq!(qemu, b"printed\n\x0c");
    assert_eq!(qemu, thimble);
}

/// QEMU tells of such pictures, and goes on without.
#[test]
fn pictures_that_can_not_be_shown_are_refused() {
    for (file, reason) in [
        ("missing", "failed to find file"),
        ("b.rom", "format not recognized; must be JPEG or 24 bit BMP"),
    ] {
        let option = format!("splash={{dir}}/{file}");
        let instance = passive(Emulator::Thimble).args(["-boot", &option]).start();
        assert_eq!(instance.wait(SOON).code(), Some(1));
        assert!(instance.stderr().contains(reason), "{}", instance.report());
    }
}

/// An emulator that runs Debian's SeaBIOS with its messages on standard output.
fn seabios(emulator: Emulator, options: &str) -> Option<Launcher> {
    let bios = packages::seabios()?;
    let accel = match emulator {
        Emulator::Qemu => "tcg",
        Emulator::Thimble => packages::accelerator(),
    };
    let launcher = emulator.launcher();
    std::fs::write(launcher.dir().join("a.rom"), images::option_rom()).expect("a file");
    Some(
        launcher
            .args(["-accel", accel, "-nodefaults", "-display", "none"])
            .args(["-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402"])
            // Without an option ROM of QEMU's own, which SeaBIOS takes for a hard disk.
            .args(match emulator {
                Emulator::Qemu => &["-global", "apic-common.vapic=off"][..],
                Emulator::Thimble => &[],
            })
            .args(["-bios", bios.to_str().expect("a plain path")])
            .args(options.split_whitespace()),
    )
}

/// Standard output once it has `text` so many times.
fn output(instance: &Instance, text: &str, times: usize) -> String {
    let end = Instant::now() + SOON;
    loop {
        let output = String::from_utf8_lossy(&instance.stdout()).into_owned();
        if output.matches(text).count() >= times {
            return output;
        }
        assert!(Instant::now() < end, "{text}: {}", instance.report());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn seabios_tries_devices_in_this_order() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    if packages::seabios().is_none() {
        return skip("the Debian package seabios is missing");
    }
    // How often it comes to the end of its list.
    for (options, rounds) in [
        ("", 1),
        ("-option-rom {dir}/a.rom", 1),
        ("-option-rom {dir}/a.rom -boot n", 1),
        ("-option-rom {dir}/a.rom -boot cna", 1),
        ("-option-rom {dir}/a.rom -boot acn", 1),
        (
            "-option-rom {dir}/a.rom -boot once=nc,order=ac,reboot-timeout=100",
            2,
        ),
        (
            "-option-rom {dir}/a.rom,bootindex=1 -boot order=ac,strict=off",
            1,
        ),
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = seabios(emulator, options).expect("SeaBIOS");
            let instance = launcher.start();
            let output = output(&instance, "No bootable device", rounds);
            let lines = output.lines().filter(|line| {
                let texts = [
                    "Booting from",
                    "Boot failed",
                    "No bootable device",
                    "the option ROM",
                ];
                texts.iter().any(|text| line.starts_with(text))
            });
            let mut rest = rounds;
            let lines = lines.take_while(|line| {
                let goes_on = rest > 0;
                rest -= usize::from(line.starts_with("No bootable device"));
                goes_on
            });
            lines.map(str::to_owned).collect::<Vec<_>>()
        });
        assert_eq!(qemu, thimble, "{options}");
    }
}

#[test]
fn seabios_runs_option_roms() {
    if packages::seabios().is_none() {
        return skip("the Debian package seabios is missing");
    }
    let emulators = match packages::qemu() {
        Some(_) => Emulator::BOTH.to_vec(),
        None => vec![Emulator::Thimble],
    };
    for options in [
        "-option-rom {dir}/a.rom",
        "-device pci-testdev,romfile={dir}/a.rom",
        "-device pci-testdev,romfile={dir}/a.rom,rombar=0",
        "-device pci-bridge,chassis_nr=1,id=b,shpc=off -device pci-testdev,bus=b,addr=3,romfile={dir}/a.rom",
    ] {
        for emulator in &emulators {
            let instance = seabios(*emulator, options).expect("SeaBIOS").start();
            output(&instance, "the option ROM runs", 1);
        }
    }
}

/// Reads a console until it has shown all of `texts`, and types `keys` when the first one has come.
fn converse(stream: &mut UnixStream, texts: [&str; 2], keys: &[u8], instance: &Instance) {
    let (end, mut seen, mut typed) = (Instant::now() + SOON, String::new(), false);
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout");
    while !seen.contains(texts[1]) {
        let mut bytes = [0; 256];
        if let Ok(length) = stream.read(&mut bytes) {
            seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
        if !typed && seen.contains(texts[0]) {
            stream.write_all(keys).expect("a reader");
            typed = true;
        }
        assert!(Instant::now() < end, "{seen}\n{}", instance.report());
    }
}

#[test]
fn the_boot_menu_is_on_the_serial_port() {
    let options = "-machine graphics=off -boot menu=on,splash-time=30000 \
        -serial unix:{dir}/serial.sock,server=on,wait=on";
    let Some(launcher) = seabios(Emulator::Thimble, options) else {
        return skip("the Debian package seabios is missing");
    };
    let instance = launcher.start();
    let end = Instant::now() + SOON;
    let mut stream = loop {
        match UnixStream::connect(instance.dir().join("serial.sock")) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < end, "{error}: {}", instance.report()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let texts = ["Press ESC for boot menu", "Select boot device"];
    converse(&mut stream, texts, b"\x1b", &instance);
}

/// Who does not say that there is no display finds the firmware on the serial port, too; who does, does not.
#[test]
fn without_a_word_about_displays_firmware_is_on_the_serial_port() {
    let Some(bios) = packages::seabios() else {
        return skip("the Debian package seabios is missing");
    };
    let bios = bios.to_str().expect("a plain path");
    for (vga, speaks) in [(&[][..], true), (&["-vga", "none"], false)] {
        let instance = Emulator::Thimble
            .launcher()
            .args(["-accel", packages::accelerator(), "-display", "none"])
            .args(["-bios", bios, "-serial", "stdio", "-monitor", "none"])
            .args(["-debugcon", "file:{dir}/debug"])
            .args(["-global", "isa-debugcon.iobase=0x402"])
            .args(vga)
            .start();
        let end = Instant::now() + SOON;
        let told = || std::fs::read_to_string(instance.dir().join("debug")).unwrap_or_default();
        while !told().contains("No bootable device") {
            assert!(Instant::now() < end, "{}\n{}", told(), instance.report());
            std::thread::sleep(Duration::from_millis(50));
        }
        let shown = String::from_utf8_lossy(&instance.stdout()).contains("SeaBIOS");
        assert_eq!(shown, speaks, "{vga:?}");
    }
}

#[test]
fn displays_that_are_not_there_are_refused() {
    for card in ["std", "cirrus", "virtio"] {
        let output = Command::new(thimble_binary())
            .args(["-accel", "qtest", "-vga", card])
            .output()
            .expect("a process");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(&format!("-vga {card}")), "{text}");
        assert!(text.contains("only 'none' is available"), "{text}");
    }
}
