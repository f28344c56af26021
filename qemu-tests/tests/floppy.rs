//! The floppy disk controller and its media beside QEMU's: registers under any driver, formats, changed media, and SeaBIOS's own driver.
//!
//! Not compared, because QEMU does them otherwise than the datasheet says: FORMAT TRACK, which it takes and forgets, and programmed
//! writes up to a track's last sector, which never end. READ ID takes time, which stands still in both.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_tests::linux_guest::{self, LinuxGuest};
use qemu_tests::{Emulator, Instance, QmpClient, QtestClient, media, packages, skip};
use serde_json::{Value, json};

/// Guests may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(100);

/// The main status register, and the FIFO.
const MSR: u16 = 0x3f4;
const FIFO: u16 = 0x3f5;

/// Bytes of a medium, each sector of which is told by its contents.
fn image(sectors: usize) -> Vec<u8> {
    (0..sectors * 512)
        .map(|at| (at / 512 * 7 + at % 512 / 300) as u8)
        .collect()
}

/// One emulator whose devices are driven from outside.
struct Side {
    instance: Instance,
    qtest: QtestClient,
}

/// QEMU and Thimble, asked for the same things.
struct Both {
    sides: [Side; 2],
    asked: Vec<String>,
}

impl Both {
    /// With images `a.img` and `b.img` of so many sectors.
    fn new(options: &[&str], sectors: [usize; 2]) -> Self {
        let sides = [Emulator::Qemu, Emulator::Thimble].map(|emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            for (name, sectors) in ["a.img", "b.img"].into_iter().zip(sectors) {
                std::fs::write(launcher.dir().join(name), image(sectors)).expect("a file");
            }
            let instance = launcher
                .args(["-M", "pc", "-m", "16"])
                .args(options)
                .with_qmp()
                .with_qtest()
                .start();
            let qtest = instance.qtest();
            Side { instance, qtest }
        });
        let asked = Vec::new();
        Self { sides, asked }
    }

    /// What both answer. Main status registers are compared when Thimble's transfers, which take their time, have come to an end.
    fn ask(&mut self, request: &str) -> String {
        self.asked.push(request.to_owned());
        let [qemu, thimble] = &mut self.sides;
        let expected = qemu.qtest.request(request).expect("an answer");
        let mut answer = thimble.qtest.request(request).expect("an answer");
        let is_status = request == format!("inb {MSR:#x}");
        for _ in 0..2000 {
            if !is_status || answer == expected {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
            answer = thimble.qtest.request(request).expect("an answer");
        }
        let before = &self.asked[self.asked.len().saturating_sub(60)..];
        assert_eq!(expected, answer, "the last of {before:?}");
        expected
    }

    fn read(&mut self, port: u16) -> u8 {
        let answer = self.ask(&format!("inb {port:#x}"));
        let digits = answer.strip_prefix("OK 0x").expect("a number");
        u8::from_str_radix(&digits[digits.len() - 2..], 16).expect("a byte")
    }

    fn write(&mut self, port: u16, value: u8) {
        self.ask(&format!("outb {port:#x} {value:#x}"));
    }

    /// Leaves the reset that it goes into.
    fn reset(&mut self) {
        self.write(0x3f2, 0);
        self.write(0x3f2, 0x1c);
        self.write(0x3f7, 0);
        self.read(MSR);
    }

    /// Lets the controller's channel move so many bytes from or to 1000h.
    fn channel(&mut self, mode: u8, bytes: u16) {
        let [low, high] = (bytes - 1).to_le_bytes();
        for (port, value) in [
            (0x0a, 6),
            (0x0c, 0),
            (0x0b, mode | 2),
            (0x04, 0),
            (0x04, 0x10),
            (0x81, 0),
            (0x05, low),
            (0x05, high),
            (0x0a, 2),
        ] {
            self.write(port, value);
        }
    }

    /// A command and its result, as far as there is one.
    fn command(&mut self, bytes: &[u8]) -> Vec<u8> {
        for byte in bytes {
            self.write(FIFO, *byte);
        }
        let mut result = Vec::new();
        while self.read(MSR) & 0xe0 == 0xc0 {
            result.push(self.read(FIFO));
        }
        result
    }

    fn qmp(&self) -> [QmpClient; 2] {
        [0, 1].map(|side| {
            let mut client = self.sides[side].instance.qmp();
            client.negotiate();
            client
        })
    }

    fn files(&self, name: &str) -> [Vec<u8>; 2] {
        [0, 1].map(|side| {
            let path = self.sides[side].instance.dir().join(name);
            std::fs::read(path).expect("an image")
        })
    }
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % below as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Commands without transfers, and their parameters.
const OTHERS: [(u8, usize); 22] = [
    (0x03, 2),
    (0x04, 1),
    (0x07, 1),
    (0x08, 0),
    (0x0e, 0),
    (0x0f, 2),
    (0x10, 0),
    (0x12, 1),
    (0x13, 3),
    (0x14, 0),
    (0x17, 2),
    (0x18, 0),
    (0x2e, 0),
    (0x33, 1),
    (0x4e, 17),
    (0x8e, 5),
    (0x8f, 2),
    (0x94, 0),
    (0xcd, 10),
    (0xcf, 2),
    (0x01, 0),
    (0xff, 0),
];

/// Commands that move sectors, without their options.
const TRANSFERS: [u8; 9] = [0x02, 0x05, 0x06, 0x09, 0x0c, 0x11, 0x16, 0x19, 0x1d];

/// Any command with parameters that mostly make sense.
fn any_command(dice: &mut Dice) -> Vec<u8> {
    if dice.below(2) == 0 {
        let (code, parameters) = dice.one_of(&OTHERS);
        let mut command = vec![code];
        command.extend((0..parameters).map(|_| dice.byte()));
        match code {
            // DMA stays on, mostly; and tracks are there.
            0x03 => command[2] = dice.one_of(&[2, 2, 2, 3]),
            0x0f => command[2] %= 90,
            // A track without sectors, or with any number of them, is one that QEMU divides by, or leaves its image on.
            0x4e => command[9] = 18,
            _ => {}
        }
        return command;
    }
    let sector = match dice.below(8) {
        0 => dice.byte(),
        _ => dice.one_of(&[0, 1, 2, 3, 9, 17, 18, 19]),
    };
    let track = dice.below(90) as u8;
    vec![
        dice.one_of(&TRANSFERS) | dice.one_of(&[0, 0x20, 0x40, 0x80, 0xc0]),
        dice.one_of(&[0, 0, 0, 1, 4]),
        dice.one_of(&[0, 1, 5, 79, 80, track]),
        dice.one_of(&[0, 0, 1, 2]),
        sector,
        dice.one_of(&[2, 2, 2, 0, 1, 3]),
        dice.one_of(&[18, 18, 9, sector, sector.wrapping_add(1), 0, 255]),
        0x1b,
        dice.one_of(&[0xff, 16, 0]),
    ]
}

/// Moves bytes of a transfer by the processor, until it ends or is given up.
fn move_bytes(both: &mut Both, dice: &mut Dice) {
    for _ in 0..dice.one_of(&[16, 512, 1024, 1100, 600]) {
        match both.read(MSR) & 0x60 {
            0x60 => {
                both.read(FIFO);
            }
            0x20 => both.write(FIFO, dice.byte()),
            _ => return,
        }
    }
    if both.read(MSR) & 0x20 != 0 {
        both.reset();
    }
}

fn step(both: &mut Both, dice: &mut Dice) {
    match dice.below(100) {
        0..10 => {
            let port = 0x3f0 + dice.one_of(&[0, 1, 2, 3, 4, 7]);
            both.read(port);
        }
        10..14 => {
            let any = dice.byte();
            both.write(0x3f2, dice.one_of(&[0x1c, 0x1d, 0, 0x14, 0x2d, 0x0c, any]));
            both.read(MSR);
        }
        14..18 => {
            let value = dice.byte();
            both.write(dice.one_of(&[0x3f3, 0x3f4]), value);
            both.read(MSR);
        }
        18..22 => both.write(0x3f7, dice.one_of(&[0, 0, 1, 2, 3])),
        _ => {
            let command = any_command(dice);
            let is_transfer = command.len() == 9;
            if is_transfer {
                let mode = match command[0] & 0x1f {
                    0x05 | 0x11 | 0x19 | 0x1d => 0x48,
                    _ => 0x44,
                };
                both.channel(mode, dice.one_of(&[512, 1024, 100, 700, 5000, 1]));
                both.ask(&format!("memset 0x1000 0x2000 {:#x}", dice.byte()));
            }
            for byte in &command {
                both.write(FIFO, *byte);
            }
            if both.read(MSR) & 0x20 != 0 {
                move_bytes(both, dice);
            }
            if is_transfer {
                both.ask("read 0x1000 0x1400");
            }
            while both.read(MSR) & 0xd0 == 0xd0 && dice.below(40) > 0 {
                both.read(FIFO);
            }
            if dice.below(3) == 0 {
                both.write(FIFO, 0x08);
            }
        }
    }
    // Which interrupts are pending.
    both.write(0x20, 0x0a);
    both.read(0x20);
}

#[test]
fn registers_at_random() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let drive_a = "if=floppy,format=raw,file={dir}/a.img";
    let read_only = "if=floppy,format=raw,file={dir}/a.img,readonly=on";
    let drive_b = "if=floppy,format=raw,file={dir}/b.img,index=1";
    for (seed, options, sectors) in [
        (1, &["-drive", drive_a, "-drive", drive_b][..], [2880, 1440]),
        (2, &["-drive", read_only], [2880, 0]),
        (3, &["-drive", drive_b], [0, 5760]),
        (4, &["-device", "floppy"], [0, 0]),
        (5, &["-drive", drive_a], [1234, 0]),
        (6, &[], [0, 0]),
    ] {
        let mut dice = Dice(0x2545_f491_4f6c_dd1d * seed);
        let mut both = Both::new(options, sectors);
        for _ in 0..300 {
            step(&mut both, &mut dice);
        }
        for name in ["a.img", "b.img"] {
            let [qemu, thimble] = both.files(name);
            assert!(qemu == thimble, "{name} differs after seed {seed}");
        }
    }
}

/// Media of all sizes that are known, and others, in drives of all kinds.
#[test]
fn sizes_tell_formats() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    // 3.5 and 5.25 inches; what no format has; and sizes that two kinds of drives have.
    let sizes = [
        1, 100, 320, 360, 640, 720, 820, 840, 1440, 1600, 1640, 1660, 1760, 2080, 2240, 2400, 2880,
        2952, 2988, 3200, 3360, 3444, 3486, 3520, 3680, 3840, 5760, 6240, 6400, 7040, 7680, 7200,
    ];
    let kinds = [
        ["auto", "auto"],
        ["144", "120"],
        ["288", "auto"],
        ["auto", "none"],
    ];
    for (pair, kinds) in sizes.chunks_exact(2).zip(kinds.into_iter().cycle()) {
        check_formats([pair[0], pair[1]], kinds);
    }
    check_formats([2880, 5760], ["288", "144"]);
    check_formats([720, 720], ["144", "120"]);
}

fn check_formats(sizes: [usize; 2], kinds: [&str; 2]) {
    let nodes = ["a", "b"].map(|name| {
        format!("raw,node-name={name},file.driver=file,file.filename={{dir}}/{name}.img")
    });
    let devices = [0, 1].map(|unit| {
        let (node, kind) = (["a", "b"][unit], kinds[unit]);
        format!("floppy,unit={unit},drive={node},drive-type={kind}")
    });
    let options = [
        "-blockdev",
        &nodes[0],
        "-blockdev",
        &nodes[1],
        "-device",
        &devices[0],
        "-device",
        &devices[1],
    ];
    let mut both = Both::new(&options, sizes);
    for byte in [0x10, 0x14] {
        both.write(0x70, byte);
        both.read(0x71);
    }
    for unit in 0..2 {
        both.write(0x3f2, 0x1c | unit);
        both.command(&[0x0e]);
        for rate in 0..4 {
            both.write(0x3f7, rate);
            both.channel(0x44, 512);
            both.command(&[0x46, unit, 1, 0, 2, 2, 9, 0x1b, 0xff]);
            both.channel(0x44, 512);
            both.command(&[0x46, unit, 2, 1, 8, 2, 9, 0x1b, 0xff]);
            both.ask("read 0x1000 0x200");
        }
        for track in [39, 40, 41, 42, 43, 79, 80, 81, 82, 83, 84] {
            both.command(&[0x0f, unit, track]);
            both.command(&[0x08]);
        }
    }
}

/// What `query-block` tells, without what differs by run.
fn drives(client: &mut QmpClient) -> Value {
    let mut drives = client.execute("query-block", json!({})).expect("drives");
    for drive in drives.as_array_mut().expect("a list") {
        if let Some(inserted) = drive.get_mut("inserted").and_then(Value::as_object_mut) {
            inserted.retain(|name, _| ["ro", "drv", "cache"].contains(&name.as_str()));
        }
    }
    drives
}

fn show(both: &mut Both) {
    both.write(0x3f2, 0x1c);
    both.read(0x3f7);
    both.command(&[0x0e]);
    both.command(&[0x04, 0]);
    for rate in [0, 2] {
        both.write(0x3f7, rate);
        both.channel(0x44, 512);
        both.command(&[0x46, 0, 7 + rate, 0, 2, 2, 9, 0x1b, 0xff]);
        both.ask("read 0x1000 0x200");
        both.channel(0x48, 512);
        both.command(&[0x45, 0, 7, 0, 3, 2, 9, 0x1b, 0xff]);
        both.read(0x3f7);
    }
    both.command(&[0x0f, 0, 200]);
    both.command(&[0x08]);
    both.command(&[0x07, 0]);
    both.command(&[0x08]);
}

#[test]
fn media_are_changed() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in [
        &["-drive", "if=floppy,format=raw,file={dir}/a.img"][..],
        &["-device", "floppy"],
        &["-drive", "if=floppy"],
        &["-fda", "{dir}/a.img", "-device", "floppy,id=second"],
    ] {
        let mut both = Both::new(options, [2880, 1440]);
        let mut clients = both.qmp();
        let has_name = options[1] != "floppy";
        show(&mut both);
        let change = |mode: &str, name: &str| json!({"filename": name, "format": "raw", "read-only-mode": mode});
        for (command, arguments) in [
            ("eject", json!({})),
            ("eject", json!({})),
            ("blockdev-change-medium", change("read-only", "b.img")),
            ("blockdev-open-tray", json!({})),
            ("blockdev-close-tray", json!({})),
            ("blockdev-change-medium", change("read-write", "a.img")),
            ("blockdev-change-medium", change("retain", "b.img")),
            ("blockdev-remove-medium", json!({})),
            ("system_reset", Value::Null),
            ("blockdev-insert-medium", json!({"node-name": "none"})),
        ] {
            let of_id = matches!(command, "blockdev-remove-medium" | "blockdev-insert-medium");
            let answers = [0, 1].map(|side| {
                let instance = &both.sides[side].instance;
                let client = &mut clients[side];
                let path = drives(client)[0]["qdev"].clone();
                let mut arguments = arguments.clone();
                if let Some(name) = arguments.get_mut("filename") {
                    let path = instance.dir().join(name.as_str().expect("a name"));
                    *name = path.to_str().expect("a plain path").into();
                }
                match arguments.as_object_mut() {
                    None => arguments = json!({}),
                    Some(members) if has_name && !of_id => {
                        members.insert("device".into(), "floppy0".into());
                    }
                    Some(members) => {
                        members.insert("id".into(), path);
                    }
                }
                let answer = client.execute(command, arguments);
                (answer.map_err(|error| error.to_string()), drives(client))
            });
            let [qemu, thimble] = answers;
            assert_eq!(qemu, thimble, "{options:?}: {command}");
            if command != "system_reset" {
                show(&mut both);
            }
        }
    }
}

/// What Debian's driver does with a disk: it reads, writes and formats, and sees that there is another one, or none.
#[test]
fn linux_uses_floppy_disks() {
    let Some((kernel, module)) = packages::linux_with_floppy() else {
        return skip("the Debian package linux-image-amd64 can't be had");
    };
    let Some(initrd) = linux_guest::initrd(&[module]) else {
        return skip("the Debian package busybox-static can't be had");
    };
    let launcher = Emulator::Thimble.launcher();
    let directory = launcher.dir().to_path_buf();
    std::fs::write(directory.join("initrd"), initrd.finish()).expect("a file");
    for (name, sectors) in [("a.img", 2880), ("b.img", 1440)] {
        std::fs::write(directory.join(name), image(sectors)).expect("a file");
    }
    let kernel = kernel.to_str().expect("a plain path");
    let mut guest = LinuxGuest::boot(launcher.args([
        "-kernel",
        kernel,
        "-initrd",
        "{dir}/initrd",
        "-append",
        linux_guest::APPEND,
        "-drive",
        "if=floppy,format=raw,file={dir}/a.img",
    ]));
    let said = guest.run("dmesg | grep -i floppy");
    assert!(said.contains("fd0 is 1.44M"), "{said}");
    let sum = |name: &str| {
        let output = Command::new("md5sum").arg(directory.join(name)).output();
        let output = String::from_utf8(output.expect("md5sum").stdout).expect("text");
        output.split(' ').next().expect("a sum").to_owned()
    };
    let read = "md5sum < /dev/fd0 | cut -d ' ' -f 1";
    assert_eq!(guest.run(read).trim(), sum("a.img"));
    guest.run("head -c 36864 /dev/fd0 > /tmp/part");
    guest.run("dd if=/tmp/part of=/dev/fd0 bs=9k seek=100 conv=fsync 2> /dev/null");
    let mut expected = image(2880);
    expected.copy_within(..36864, 100 * 9216);
    let written = std::fs::read(directory.join("a.img")).expect("an image");
    assert!(written == expected);
    let change = |guest: &mut LinuxGuest, name: &str, mode: &str| {
        let path = directory.join(name);
        let medium = json!({"device": "floppy0", "filename": path.to_str(), "format": "raw", "read-only-mode": mode});
        let answer = guest.qmp.execute("blockdev-change-medium", medium);
        assert_eq!(answer, Ok(json!({})));
    };
    change(&mut guest, "b.img", "read-only");
    assert_eq!(guest.run(read).trim(), sum("b.img"));
    let write = "dd if=/tmp/part of=/dev/fd0 bs=9k conv=fsync 2> /dev/null";
    assert_ne!(guest.status(write).1, 0);
    let gone = guest.qmp.execute("eject", json!({"device": "floppy0"}));
    assert_eq!(gone, Ok(json!({})));
    assert_ne!(guest.status("head -c 512 /dev/fd0 > /dev/null 2>&1").1, 0);
    change(&mut guest, "a.img", "read-write");
    assert_eq!(guest.run(read).trim(), sum("a.img"));
    guest.run(write);
    let written = std::fs::read(directory.join("a.img")).expect("an image");
    assert!(written == expected, "the same bytes at the same place");
    guest.console.send("poweroff -f\n");
    assert!(guest.instance.wait(PATIENCE).success());
}

/// A boot sector that reads the sector behind it, writes it to the one behind that, and prints its first byte, or `E` if something
/// fails.
fn boot_sector() -> Vec<u8> {
    let code = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xc0, // mov es, ax
        0xbb, 0x00, 0x80, // mov bx, 8000h
        0xb8, 0x01, 0x02, // mov ax, 0201h: read a sector
        0xb9, 0x02, 0x00, // mov cx, 2
        0xb6, 0x00, // mov dh, 0
        0xcd, 0x13, // int 13h
        0x72, 0x11, // jc to the `E`
        0xb8, 0x01, 0x03, // mov ax, 0301h: write it
        0xb9, 0x05, 0x4f, // mov cx, 4f05h: track 79, sector 5
        0xb6, 0x01, // mov dh, 1
        0xcd, 0x13, // int 13h
        0xa0, 0x00, 0x80, // mov al, [8000h]
        0x73, 0x02, // jnc over the next one
        0xb0, b'E', // mov al, 'E'
        0xe6, 0xe9, // out e9h, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];
    media::boot_sector(&code)
}

/// Boots SeaBIOS from a disk of drive A, and gives what was written.
fn boot(accel: &str, options: &[&str], prepare: impl Fn(&Path)) -> Vec<u8> {
    let launcher = Emulator::Thimble.launcher();
    let mut image = boot_sector();
    image.extend([b'F'; 512]);
    image.resize(1440 << 10, 0);
    std::fs::write(launcher.dir().join("boot.img"), image).expect("a file");
    prepare(launcher.dir());
    let bios = packages::seabios().expect("it was looked for");
    let instance = launcher
        .args(["-accel", accel, "-nodefaults", "-display", "none", "-bios"])
        .args([bios.to_str().expect("a plain path")])
        .args(["-m", "32", "-boot", "a", "-debugcon", "stdio"])
        .args(["-global", "isa-debugcon.iobase=0xe9"])
        .args(options)
        .start();
    assert!(instance.wait_stdout("F", PATIENCE), "{}", instance.report());
    let image = std::fs::read(instance.dir().join("boot.img")).expect("the image");
    let at = ((79 * 2 + 1) * 18 + 4) * 512;
    image[at..at + 512].to_vec()
}

#[test]
fn seabios_boots_from_a_floppy_disk_and_writes() {
    if packages::seabios().is_none() {
        return skip("the Debian package seabios is missing");
    }
    let option = ["-drive", "if=floppy,format=raw,file={dir}/boot.img"];
    // With the kernel's PIC nobody's SeaBIOS hears of IRQ 6 where KVM emulates the system's instructions, QEMU's included.
    let accelerators = packages::accelerators().into_iter();
    for accel in accelerators.filter(|accel| !accel.contains("kvm") || accel.ends_with("split")) {
        assert_eq!(boot(accel, &option, |_| {}), [b'F'; 512], "{accel}");
    }
    let devices = [
        "-blockdev",
        "raw,node-name=n,file.driver=file,file.filename={dir}/boot.img",
        "-device",
        "floppy,drive=n,id=f",
    ];
    assert_eq!(boot("tcg", &devices, |_| {}), [b'F'; 512]);
}
