//! Disks that guests use: SeaBIOS boots from one, what it loads writes a sector; errors stop the machine, and images are locked.

use qemu_tests::{Emulator, Launcher, media};
use serde_json::{Value, json};

use crate::{
    ask, command_with, compare, console, emulators, events, negotiated, status, wait_console,
    wait_until,
};

/// A boot sector that writes itself to the sector behind it, and prints `O`, or `E` if that fails.
fn boot_sector() -> Vec<u8> {
    let code = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xc0, // mov es, ax
        0xbb, 0x00, 0x7c, // mov bx, 7c00h
        0xb8, 0x01, 0x03, // mov ax, 0301h: write a sector
        0xb9, 0x02, 0x00, // mov cx, 2
        0xb6, 0x00, // mov dh, 0
        0xcd, 0x13, // int 13h
        0xb0, b'O', // mov al, 'O'
        0x73, 0x02, // jnc over the next one
        0xb0, b'E', // mov al, 'E'
        0xe6, 0xe9, // out e9h, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];
    media::boot_sector(&code)
}

/// An emulator whose SeaBIOS boots from the image `{dir}/boot.img` of 1 MiB, which the options put behind a disk.
fn booting(emulator: Emulator, options: &[&str]) -> Launcher {
    let launcher = emulator.launcher();
    let mut image = boot_sector();
    image.resize(1 << 20, 0);
    std::fs::write(launcher.dir().join("boot.img"), image).expect("a file");
    launcher
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(["-M", "pc", "-m", "32", "-bios", "bios-256k.bin"])
        .args([
            "-debugcon",
            "file:{dir}/console",
            "-global",
            "isa-debugcon.iobase=0xe9",
        ])
        .args(options)
        .with_qmp()
}

/// The second sector of the image.
fn second_sector(instance: &qemu_tests::Instance) -> Vec<u8> {
    let image = std::fs::read(instance.dir().join("boot.img")).expect("the image");
    image[512..1024].to_vec()
}

/// How much the only drive has read, written and flushed.
fn counts(client: &mut qemu_tests::QmpClient) -> Value {
    let stats = ask(client, "query-blockstats")[0]["stats"].clone();
    json!([
        stats["wr_operations"],
        stats["wr_bytes"],
        stats["wr_highest_offset"],
        stats["failed_wr_operations"]
    ])
}

#[test]
fn guests_boot_from_disks_and_write() {
    for options in [
        &["-drive", "file={dir}/boot.img,format=raw,if=virtio"][..],
        &[
            "-drive",
            "file={dir}/boot.img,format=raw,if=virtio,cache=writethrough",
        ],
        &[
            "-drive",
            "file={dir}/boot.img,format=raw,if=virtio,throttling.iops-total=50",
        ],
        &[
            "-blockdev",
            "file,node-name=f,filename={dir}/boot.img",
            "-blockdev",
            "raw,node-name=r,file=f",
            "-device",
            "virtio-blk-pci,drive=r",
        ],
    ] {
        let mut answers = Vec::new();
        for emulator in emulators() {
            let instance = booting(emulator, options).start();
            let mut client = negotiated(&instance);
            wait_console(&instance, "O");
            let counted = counts(&mut client).to_string();
            answers.push(vec![(options.join(" "), counted)]);
            assert_eq!(second_sector(&instance), boot_sector(), "{emulator:?}");
        }
        compare("disks-boot", &answers);
    }
}

#[test]
fn snapshots_leave_the_image_alone() {
    for emulator in emulators() {
        let drive = "file={dir}/boot.img,format=raw,if=virtio,snapshot=on";
        let instance = booting(emulator, &["-drive", drive]).start();
        wait_console(&instance, "O");
        assert_eq!(second_sector(&instance), [0; 512], "{emulator:?}");
    }
}

/// A disk whose image is behind rules.
fn with_rules(rules: &str) -> [&str; 6] {
    let above = "raw,node-name=r,file=bd";
    let device = "virtio-blk-pci,drive=r,id=vd";
    ["-blockdev", rules, "-blockdev", above, "-device", device]
}

#[test]
fn errors_are_told_to_the_guest() {
    let rules = "blkdebug,node-name=bd,image.driver=file,image.filename={dir}/boot.img,inject-error.0.event=write_aio,\
                 inject-error.0.iotype=write";
    let mut answers = Vec::new();
    for emulator in emulators() {
        let options = with_rules(rules);
        let instance = booting(emulator, &options).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "E");
        let told = events(&mut client);
        answers.push(vec![
            ("events".to_owned(), json!(told).to_string()),
            ("counts".to_owned(), counts(&mut client).to_string()),
        ]);
        assert_eq!(status(&mut client), "running");
    }
    compare("disks-errors", &answers);
}

#[test]
fn errors_stop_the_machine_until_it_goes_on() {
    let rules = "blkdebug,node-name=bd,image.driver=file,image.filename={dir}/boot.img,inject-error.0.event=write_aio,\
                 inject-error.0.iotype=write,inject-error.0.errno=28,inject-error.0.once=on";
    let mut answers = Vec::new();
    for emulator in emulators() {
        let options = with_rules(rules);
        let instance = booting(emulator, &options).start();
        let mut client = negotiated(&instance);
        wait_until("the error stops the machine", || {
            status(&mut client) == "io-error"
        });
        let mut told = vec![json!(events(&mut client))];
        told.push(ask(&mut client, "query-block")[0]["io-status"].clone());
        assert_eq!(console(&instance), "", "{emulator:?}");
        command_with(&mut client, "cont", json!({}));
        wait_console(&instance, "O");
        assert_eq!(second_sector(&instance), boot_sector(), "{emulator:?}");
        told.push(ask(&mut client, "query-block")[0]["io-status"].clone());
        told.push(json!(events(&mut client)));
        answers.push(vec![("a full disk".to_owned(), json!(told).to_string())]);
    }
    compare("disks-stop", &answers);
}

#[test]
fn what_was_written_beyond_a_threshold_is_told() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let options = [
            "-blockdev",
            "file,node-name=f,filename={dir}/boot.img",
            "-device",
            "virtio-blk-pci,drive=f",
            "-S",
        ];
        let instance = booting(emulator, &options).start();
        let mut client = negotiated(&instance);
        let threshold = json!({"node-name": "f", "write-threshold": 600});
        command_with(&mut client, "block-set-write-threshold", threshold);
        command_with(&mut client, "cont", json!({}));
        wait_console(&instance, "O");
        let told = events(&mut client);
        let told: Vec<_> = told
            .iter()
            .filter(|event| event[0] == "BLOCK_WRITE_THRESHOLD")
            .collect();
        answers.push(vec![("beyond".to_owned(), json!(told).to_string())]);
    }
    compare("disks-threshold", &answers);
}

#[test]
fn one_image_has_one_writer() {
    for holder in emulators() {
        let drive = "file={dir}/boot.img,format=raw,if=virtio";
        let held = booting(holder, &["-drive", drive, "-S"]).start();
        // By its first answer it has the image.
        let _client = negotiated(&held);
        let image = held.dir().join("boot.img");
        let image = image.to_str().expect("a plain path");
        for other in emulators() {
            let drive = format!("file={image},format=raw,if=virtio");
            let launcher = other.launcher().args(other.passive_args());
            let instance = launcher.args(["-drive", &drive]).start();
            let ended = instance.wait(crate::SOON);
            let said = instance.stderr();
            assert_eq!(
                ended.code(),
                Some(1),
                "{holder:?} holds, {other:?} asks: {said}"
            );
            let lock = "Failed to get \"write\" lock";
            assert!(
                said.contains(lock),
                "{holder:?} holds, {other:?} asks: {said}"
            );
            assert!(
                said.contains("Is another process using the image"),
                "{said}"
            );
        }
    }
}

#[test]
fn latencies_are_counted() {
    for emulator in emulators() {
        let drive = "file={dir}/boot.img,format=raw,if=virtio,id=d";
        let instance = booting(emulator, &["-drive", drive, "-S"]).start();
        let mut client = negotiated(&instance);
        let device = ask(&mut client, "query-block")[0]["qdev"].clone();
        let arguments = json!({"id": device, "boundaries": [1000, 1_000_000_000_000_u64]});
        command_with(&mut client, "block-latency-histogram-set", arguments);
        command_with(&mut client, "cont", json!({}));
        wait_console(&instance, "O");
        let stats = ask(&mut client, "query-blockstats")[0]["stats"].clone();
        assert_eq!(
            stats["wr_latency_histogram"]["bins"],
            json!([0, 1, 0]),
            "{emulator:?}"
        );
    }
}
