//! Media and trays of a CD-ROM drive that a guest may lock: eject, change and the blockdev-*-tray and -medium commands.

use qemu_tests::{Emulator, Launcher};
use serde_json::{Value, json};

use crate::block_human::without_numbers;
use crate::block_nodes::{reopen_raw, with_images};
use crate::{answer, command_with, compare, emulators, events, negotiated, with};

/// A disk, a CD-ROM drive with a medium in it, and a device that is neither.
fn with_devices(emulator: Emulator) -> Launcher {
    let images = with_images(emulator);
    std::fs::copy(images.dir().join("a.img"), images.dir().join("h.img")).expect("a file");
    let cd = "if=none,id=c,file={dir}/a.img,format=raw,media=cdrom,readonly=on";
    images
        .args(["-drive", cd, "-device", "ide-cd,drive=c,id=cd"])
        .args(["-drive", "if=none,id=h,file={dir}/h.img,format=raw"])
        .args(["-device", "ide-hd,drive=h,id=hd"])
        .args(["-device", "isa-debug-exit,id=exit"])
        .with_qtest()
}

/// What a guest sends to the drive, on the second channel.
fn packet(words: [u16; 6]) -> String {
    let mut lines = "outb 0x176 0xa0|outb 0x177 0xa0".to_owned();
    for word in words {
        lines.push_str(&format!("|outw 0x170 {word:#x}"));
    }
    lines.push_str("|inb 0x177|inb 0x171");
    lines
}

/// TEST UNIT READY: what has happened is told once.
fn ready() -> (&'static str, Value) {
    ("qtest", packet([0; 6]).into())
}

/// PREVENT ALLOW MEDIUM REMOVAL.
fn lock(on: bool) -> (&'static str, Value) {
    ("qtest", packet([0x1e, 0, u16::from(on), 0, 0, 0]).into())
}

/// START STOP UNIT: the tray moves.
fn load(inside: bool) -> (&'static str, Value) {
    let how = if inside { 3 } else { 2 };
    ("qtest", packet([0x1b, 0, how, 0, 0, 0]).into())
}

/// GET EVENT STATUS NOTIFICATION: what became of the medium; 8 bytes.
fn medium_event() -> (&'static str, Value) {
    let mut lines = "outb 0x174 8|outb 0x175 0|".to_owned();
    lines.push_str(&packet([0x014a, 0, 0x0010, 0, 0x0008, 0]));
    lines.push_str("|inw 0x170|inw 0x170|inw 0x170|inw 0x170|inb 0x177");
    ("qtest", lines.into())
}

/// Does the same with both emulators, and compares answers and, behind them, events.
fn compare_steps(test: &str, launch: impl Fn(Emulator) -> Launcher, steps: &[(&str, Value)]) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = launch(emulator).start();
        let mut client = negotiated(&instance);
        let mut qtest = instance.qtest();
        let mut said = Vec::new();
        for (command, arguments) in steps {
            let text = match arguments {
                Value::String(lines) => lines
                    .split('|')
                    .map(|line| qtest.request(line).expect("a connection"))
                    .collect::<Vec<_>>()
                    .join("|"),
                arguments => answer(&instance, &mut client, command, arguments),
            };
            said.push((format!("{command} {arguments}"), without_numbers(&text)));
        }
        let told = events(&mut client);
        said.push(("events".to_owned(), Value::from(told).to_string()));
        answers.push(said);
    }
    compare(test, &answers);
}

fn by_id(command: &'static str) -> (&'static str, Value) {
    (command, json!({"id": "cd"}))
}

fn insert(node: &str) -> (&'static str, Value) {
    (
        "blockdev-insert-medium",
        json!({"id": "cd", "node-name": node}),
    )
}

fn change(more: Value) -> (&'static str, Value) {
    let arguments = with(
        json!({"device": "c", "filename": "{dir}/b.img", "format": "raw"}),
        more,
    );
    ("blockdev-change-medium", arguments)
}

fn drives() -> (&'static str, Value) {
    ("query-block", json!({}))
}

#[test]
fn trays_move_and_media_change() {
    let file =
        json!({"driver": "file", "node-name": "n", "filename": "{dir}/b.img", "read-only": true});
    let of_disk = |command: &'static str| (command, json!({"id": "hd"}));
    compare_steps(
        "commands-trays",
        with_devices,
        &[
            by_id("blockdev-open-tray"),
            by_id("blockdev-open-tray"),
            ready(),
            by_id("blockdev-remove-medium"),
            drives(),
            ("blockdev-add", file),
            (
                "blockdev-add",
                json!({"driver": "null-co", "node-name": "w"}),
            ),
            insert("nix"),
            insert("n"),
            insert("n"),
            insert("w"),
            ("blockdev-del", json!({"node-name": "n"})),
            by_id("blockdev-close-tray"),
            by_id("blockdev-close-tray"),
            ready(),
            ready(),
            insert("w"),
            by_id("blockdev-remove-medium"),
            by_id("eject"),
            drives(),
            by_id("eject"),
            ready(),
            by_id("blockdev-close-tray"),
            ready(),
            insert("w"),
            ("blockdev-open-tray", json!({"device": "c"})),
            insert("w"),
            drives(),
            change(json!({})),
            drives(),
            change(json!({"read-only-mode": "read-write"})),
            drives(),
            change(json!({"filename": "{dir}/nope"})),
            change(json!({"filename": ""})),
            change(json!({"read-only-mode": "retain"})),
            change(json!({"read-only-mode": "read-only"})),
            drives(),
            change(json!({"read-only-mode": "nix"})),
            of_disk("blockdev-open-tray"),
            of_disk("blockdev-close-tray"),
            of_disk("blockdev-remove-medium"),
            (
                "blockdev-insert-medium",
                json!({"id": "hd", "node-name": "w"}),
            ),
            (
                "blockdev-change-medium",
                json!({"id": "hd", "filename": "{dir}/b.img", "format": "raw"}),
            ),
            ("eject", json!({"id": "hd", "force": true})),
            ("eject", json!({"device": "h"})),
            ("block_resize", json!({"device": "c", "size": 512})),
            (
                "blockdev-open-tray",
                json!({"id": "/machine/peripheral/cd"}),
            ),
            (
                "blockdev-open-tray",
                json!({"id": "/machine/peripheral/nix"}),
            ),
            ("blockdev-open-tray", json!({"id": "exit"})),
            ("eject", json!({"id": "exit"})),
        ],
    );
}

#[test]
fn a_guest_keeps_its_medium_until_it_is_asked_or_forced() {
    compare_steps(
        "commands-trays-locked",
        with_devices,
        &[
            ready(),
            ready(),
            lock(true),
            drives(),
            by_id("blockdev-open-tray"),
            drives(),
            medium_event(),
            medium_event(),
            by_id("eject"),
            ("eject", json!({"device": "c"})),
            medium_event(),
            change(json!({})),
            by_id("blockdev-remove-medium"),
            ("eject", json!({"id": "cd", "force": true})),
            drives(),
            ready(),
            change(json!({})),
            ready(),
            ready(),
            // The lock outlasts what was forced.
            by_id("eject"),
            change(json!({"force": true})),
            drives(),
            ready(),
            ready(),
            lock(false),
            by_id("eject"),
            drives(),
            // The guest moves the tray itself.
            load(true),
            load(false),
            drives(),
            change(json!({"force": true})),
            lock(true),
            load(false),
            ready(),
            ready(),
            lock(true),
            load(false),
            drives(),
            lock(false),
            load(false),
            load(true),
            drives(),
        ],
    );
}

/// Whether the host's cache is used, how files are read and the like are as they were with the medium before, or as the drive's
/// options are where there was none.
#[test]
fn a_new_medium_is_used_as_the_one_before() {
    let launch = |emulator| {
        let drives = [
            "if=none,id=empty,aio=native",
            "if=none,id=zeroes,detect-zeroes=unmap,copy-on-read=on",
            "if=none,id=direct,file={dir}/a.img,format=raw,cache=directsync,aio=native,detect-zeroes=unmap,\
             discard=unmap,node-name=r,file.node-name=f",
            "if=none,id=copies,file={dir}/odd.img,format=raw,cache=unsafe,copy-on-read=on,node-name=k,file.node-name=kf",
            "if=none,id=keeps,file={dir}/odd.img,format=raw,read-only=on,detect-zeroes=on,discard=unmap",
            "if=none,id=temporary,file={dir}/odd.img,format=raw,snapshot=on,cache=none,aio=native",
        ];
        let drives = drives.iter().flat_map(|drive| ["-drive", drive]);
        with_images(emulator).args(drives).with_qtest()
    };
    let line = |line: &str| ("human-monitor-command", json!({"command-line": line}));
    let change = |drive: &str| line(&format!("change {drive} {{dir}}/b.img raw"));
    let read_only = |drive: &str| line(&format!("change {drive} {{dir}}/b.img raw read-only"));
    let eject = |drive: &str| line(&format!("eject {drive}"));
    let info = |drive: &str| line(&format!("info block {drive}"));
    let steps = [
        change("empty"),
        change("zeroes"),
        info("zeroes"),
        read_only("zeroes"),
        eject("zeroes"),
        read_only("zeroes"),
        change("zeroes"),
        info("zeroes"),
        change("direct"),
        info("direct"),
        eject("direct"),
        change("direct"),
        info("direct"),
        change("copies"),
        info("copies"),
        read_only("copies"),
        change("keeps"),
        eject("keeps"),
        change("keeps"),
        info("keeps"),
        line("change keeps {dir}/b.img raw read-write"),
        eject("keeps"),
        change("keeps"),
        change("temporary"),
        drives(),
        // These can't be kept without a medium.
        line("drive_add 0 if=none,id=none,cache=writeback"),
        line("drive_add 0 if=none,id=none,cache.no-flush=off"),
        line("drive_add 0 if=none,id=none,discard=unmap"),
    ];
    compare_steps("commands-trays-kept", launch, &steps);
    // A reopened node is what it was where it is not asked otherwise.
    let steps = [
        reopen_raw("r", "f", json!({})),
        change("direct"),
        reopen_raw("k", "kf", json!({"read-only": true})),
        reopen_raw("k", "kf", json!({"cache": {"direct": true}})),
        change("copies"),
        info("direct"),
        info("copies"),
    ];
    compare_steps("commands-trays-reopened", launch, &steps);
}

/// Who puts another node in place of a medium does not mean that the guest is to notice.
#[test]
fn a_medium_is_replaced_unnoticed() {
    let node = json!({"driver": "file", "node-name": "n", "filename": "{dir}/b.img"});
    let replace = |path: &str| {
        let arguments = json!({"path": path, "property": "drive", "value": "n"});
        ("qom-set", arguments)
    };
    let steps = [
        ready(),
        ready(),
        ("blockdev-add", node),
        replace("/machine/peripheral/cd"),
        ready(),
        medium_event(),
        drives(),
        by_id("blockdev-open-tray"),
        by_id("blockdev-close-tray"),
        ready(),
        ready(),
        replace("/machine/peripheral/hd"),
        by_id("eject"),
        replace("/machine/peripheral/hd"),
        drives(),
    ];
    compare_steps("commands-trays-replaced", with_devices, &steps);
}

/// The names of QEMU 2.5 to 2.7, and `change`, which QEMU 6 still had.
#[test]
fn old_names_do_the_same() {
    let instance = with_devices(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let image = instance.dir().join("b.img");
    let image = image.to_str().expect("a plain path");
    let size = |client: &mut _| {
        let drives = command_with(client, "query-block", json!({}));
        drives[0]["inserted"]["image"]["virtual-size"].clone()
    };
    command_with(&mut client, "blockdev-open-tray", json!({"id": "cd"}));
    command_with(&mut client, "x-blockdev-remove-medium", json!({"id": "cd"}));
    assert_eq!(size(&mut client), Value::Null);
    let node = json!({"driver": "null-co", "size": 4096, "node-name": "n"});
    command_with(&mut client, "blockdev-add", node);
    let arguments = json!({"id": "cd", "node-name": "n"});
    command_with(&mut client, "x-blockdev-insert-medium", arguments);
    assert_eq!(size(&mut client), 4096);
    let arguments = json!({"device": "c", "target": image, "arg": "raw"});
    command_with(&mut client, "change", arguments);
    assert_eq!(size(&mut client), 2 << 20);
}
