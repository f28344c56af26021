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
    booting_sector(emulator, &boot_sector(), options)
}

/// The same with another boot sector.
pub(crate) fn booting_sector(emulator: Emulator, sector: &[u8], options: &[&str]) -> Launcher {
    let launcher = emulator.launcher();
    let mut image = sector.to_vec();
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

/// What is told of drives that write to temporary files, but for names and formats, which are each emulator's own.
#[test]
fn snapshots_look_the_same() {
    let drive = "if=none,id=d,file={dir}/a.img,format=raw,node-name=n";
    for (options, drive) in [
        (&["-snapshot"][..], drive.to_owned()),
        (&[], format!("{drive},snapshot=on")),
        (&["-snapshot"], format!("{drive},snapshot=off")),
        (&["-snapshot"], format!("{drive},readonly=on")),
        (&["-snapshot"], format!("{drive},cache=directsync")),
        (&[], format!("{drive},snapshot=on,copy-on-read=on")),
        (&["-snapshot"], "if=none,id=d".to_owned()),
    ] {
        let mut answers = Vec::new();
        for emulator in emulators() {
            let launcher = crate::block_nodes::with_images(emulator).args(options);
            let instance = launcher.args(["-drive", &drive]).start();
            let mut client = negotiated(&instance);
            for line in ["write 200k 512", "read 0 512"] {
                let line = format!("qemu-io d \"{line}\"");
                let arguments = json!({"command-line": line});
                command_with(&mut client, "human-monitor-command", arguments);
            }
            let shown = ask(&mut client, "query-block");
            let mut told = Vec::new();
            let inserted = &shown[0]["inserted"];
            for name in [
                "ro",
                "backing_file_depth",
                "cache",
                "encrypted",
                "detect_zeroes",
            ] {
                told.push(inserted[name].clone());
            }
            let image = &inserted["image"];
            for name in ["virtual-size", "cluster-size", "dirty-flag"] {
                told.push(image[name].clone());
            }
            for (below, name) in [("filename", "file"), ("filename", "backing_file")] {
                // It is that of the image itself where there is nothing above it.
                let path = inserted[name].as_str().unwrap_or_default();
                told.push(json!([
                    below,
                    path.starts_with("json:{\"backing\":"),
                    path.is_empty()
                ]));
            }
            told.push(image["backing-image"]["format"].clone());
            told.push(image["backing-image"]["virtual-size"].clone());
            let nodes = ask(&mut client, "query-named-block-nodes");
            let named = nodes.as_array().expect("a list").iter();
            let named = named.filter(|node| node["node-name"] == "n");
            told.extend(named.map(|node| json!([node["drv"], node["ro"]])));
            // What has been read is there, too, where that is asked for.
            if !inserted.is_null() {
                let line = json!({"command-line": "qemu-io d \"alloc 0 1M\""});
                command_with(&mut client, "human-monitor-command", line);
                assert!(instance.wait_stdout("bytes allocated at", crate::SOON));
                let out = String::from_utf8_lossy(&instance.stdout()).into_owned();
                told.push(json!(out.lines().last()));
            }
            answers.push(vec![(
                format!("{options:?} {drive}"),
                json!(told).to_string(),
            )]);
            let image = std::fs::read(instance.dir().join("a.img")).expect("the image");
            if !drive.contains("snapshot=off") {
                assert!(image.iter().all(|byte| *byte == 0), "{emulator:?} {drive}");
            }
        }
        compare("disks-snapshots", &answers);
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
