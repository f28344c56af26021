//! Drives and their media: query-block, query-blockstats, trays, block_resize, limits, histograms.

use qemu_tests::{Emulator, Launcher};
use serde_json::{Value, json};

use crate::block_nodes::with_images;
use crate::{ask, command_with, compare_answers, negotiated, refused, with};

/// A drive without a device, whose nodes have names, and one without a medium.
fn with_drives(emulator: Emulator) -> Launcher {
    let drive = "if=none,id=d,node-name=r,file.node-name=f,file={dir}/a.img,format=raw";
    with_images(emulator).args(["-drive", drive, "-drive", "if=none,id=empty"])
}

fn by_name(command: &'static str) -> (&'static str, Value) {
    (command, json!({"device": "d"}))
}

const NO_LIMITS: [&str; 6] = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];

/// `block_set_io_throttle` of a drive, with these limits and no others.
fn limit(drive: &str, limits: Value) -> (&'static str, Value) {
    let mut arguments = json!({"device": drive});
    for name in NO_LIMITS {
        arguments[name] = 0.into();
    }
    ("block_set_io_throttle", with(arguments, limits))
}

#[test]
fn drives_look_the_same() {
    compare_answers(
        "commands-drives",
        with_drives,
        &[
            ("query-block", json!({})),
            ("query-blockstats", json!({})),
            ("query-blockstats", json!({"query-nodes": false})),
            ("query-blockstats", json!({"query-nodes": true})),
            ("query-blockstats", json!({"query-nodes": 1})),
            ("blockdev-del", json!({"node-name": "r"})),
            ("blockdev-del", json!({"node-name": "f"})),
        ],
    );
}

#[test]
fn media_come_and_go() {
    let node = json!({"driver": "null-co", "node-name": "n"});
    let change = |more: Value| {
        let arguments = with(
            json!({"device": "d", "filename": "{dir}/b.img", "format": "raw"}),
            more,
        );
        ("blockdev-change-medium", arguments)
    };
    let sizes = ("query-blockstats", json!({}));
    compare_answers(
        "commands-media",
        with_drives,
        &[
            ("eject", json!({})),
            ("eject", json!({"device": "d", "id": "d"})),
            ("eject", json!({"device": "nix"})),
            ("eject", json!({"id": "nix"})),
            ("blockdev-open-tray", json!({"device": "nix"})),
            ("blockdev-open-tray", json!({"id": "nix"})),
            ("blockdev-close-tray", json!({"device": "nix"})),
            ("blockdev-remove-medium", json!({"id": "nix"})),
            (
                "blockdev-insert-medium",
                json!({"id": "nix", "node-name": "n"}),
            ),
            (
                "blockdev-change-medium",
                json!({"device": "nix", "filename": "x"}),
            ),
            by_name("blockdev-open-tray"),
            by_name("blockdev-close-tray"),
            ("blockdev-add", node),
            by_name("eject"),
            ("query-block", json!({})),
            ("query-named-block-nodes", json!({"flat": true})),
            sizes,
            by_name("eject"),
            change(json!({"filename": "{dir}/nope"})),
            change(json!({"format": "nix"})),
        ],
    );
}

#[test]
fn media_change() {
    for emulator in crate::emulators() {
        let instance = with_drives(emulator).start();
        let mut client = negotiated(&instance);
        let image = instance.dir().join("b.img");
        let image = image.to_str().expect("a plain path");
        let size = |client: &mut _| {
            let drives = ask(client, "query-block");
            let inserted = &drives[0]["inserted"];
            (
                inserted["image"]["virtual-size"].clone(),
                inserted["ro"].clone(),
            )
        };
        assert_eq!(size(&mut client), (json!(1 << 20), json!(false)));
        let arguments = json!({"device": "d", "filename": image, "format": "raw", "read-only-mode": "read-only"});
        command_with(&mut client, "blockdev-change-medium", arguments);
        assert_eq!(size(&mut client), (json!(2 << 20), json!(true)));
        let arguments = json!({"device": "d", "filename": image, "format": "raw"});
        command_with(&mut client, "blockdev-change-medium", arguments);
        assert_eq!(size(&mut client), (json!(2 << 20), json!(true)));
        if emulator == Emulator::Thimble {
            let first = image.replace("b.img", "a.img");
            let arguments = json!({"device": "d", "target": first, "arg": "raw"});
            command_with(&mut client, "change", arguments);
            assert_eq!(size(&mut client), (json!(1 << 20), json!(true)));
        }
        command_with(&mut client, "eject", json!({"device": "d"}));
        assert_eq!(size(&mut client), (Value::Null, Value::Null));
    }
}

#[test]
fn lengths_change() {
    let resize = |arguments: Value| ("block_resize", arguments);
    compare_answers(
        "commands-resize",
        with_drives,
        &[
            resize(json!({"size": 512})),
            resize(json!({"device": "nix", "size": 512})),
            resize(json!({"node-name": "nix", "size": 512})),
            resize(json!({"device": "d", "size": -1})),
            resize(json!({"device": "d", "size": 4096})),
            ("query-block", json!({})),
            resize(json!({"node-name": "r", "size": 8192})),
            ("query-block", json!({})),
            resize(json!({"node-name": "f", "size": 12288})),
            ("query-named-block-nodes", json!({"flat": true})),
        ],
    );
}

#[test]
fn limits_are_checked_and_shown() {
    compare_answers(
        "commands-throttle",
        with_drives,
        &[
            limit("nix", json!({})),
            limit("empty", json!({"bps": 1})),
            limit("d", json!({"bps": 1, "bps_rd": 1})),
            limit("d", json!({"iops": 1, "iops_wr": 1})),
            limit("d", json!({"bps": -1})),
            limit("d", json!({"bps": 1_000_000_000_000_001_i64})),
            limit("d", json!({"bps_rd": 100, "bps_rd_max": 50})),
            limit("d", json!({"bps_rd": 100, "bps_wr_max": 50})),
            limit("d", json!({"bps_rd": 100, "bps_rd_max_length": 7})),
            limit(
                "d",
                json!({"bps_rd": 100, "bps_rd_max": 500, "bps_rd_max_length": 0}),
            ),
            limit("d", json!({"bps_rd": 100, "iops_size": 7})),
            limit("d", json!({"bps_rd": 100, "iops": 5})),
            ("query-block", json!({})),
            limit(
                "d",
                json!({"bps_rd": 100, "bps_rd_max": 500, "bps_rd_max_length": 7, "iops": 9, "iops_size": 99,
                              "group": "g"}),
            ),
            ("query-block", json!({})),
            limit("d", json!({"iops": 9})),
            ("query-block", json!({})),
            limit("d", json!({})),
            ("query-block", json!({})),
        ],
    );
}

#[test]
fn passwords_are_refused() {
    let instance = with_drives(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let text = refused(
        &mut client,
        "block_passwd",
        json!({"device": "d", "password": "x"}),
    );
    assert!(text.contains("no longer supported"), "{text}");
}

#[test]
fn histograms_are_checked() {
    let set = |id: &str, more: Value| {
        let arguments = with(json!({"id": id}), more);
        ("block-latency-histogram-set", arguments)
    };
    compare_answers(
        "commands-histograms",
        with_drives,
        &[
            set("nix", json!({"boundaries": [1, 2]})),
            set("d", json!({"boundaries": [1, 2]})),
            set("nix", json!({"boundaries": "x"})),
        ],
    );
}

/// What queries tell of drives and nodes of many kinds, each with the options of a command line.
#[test]
fn graphs_of_drives_look_the_same() {
    let queries = [
        ("query-block", json!({})),
        ("query-blockstats", json!({})),
        ("query-blockstats", json!({"query-nodes": true})),
        ("query-named-block-nodes", json!({"flat": true})),
        ("query-named-block-nodes", json!({"flat": false})),
    ];
    let mut answers = Vec::new();
    for emulator in crate::emulators() {
        let mut said = Vec::new();
        for options in [
            "-drive file={dir}/a.img,format=raw,if=ide -drive file={dir}/b.img,format=raw,if=virtio",
            "-drive file={dir}/a.img,format=raw,media=cdrom",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,cache=writethrough,discard=unmap,detect-zeroes=unmap,\
             aio=threads",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,cache=unsafe,readonly=on",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,copy-on-read=on",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,werror=stop,rerror=stop -device virtio-blk-pci,drive=d",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,werror=ignore,rerror=report -device ide-hd,drive=d",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,werror=report,rerror=stop -device ide-hd,drive=d",
            "-drive if=none,id=d,file.driver=blkdebug,file.image.driver=file,file.image.filename={dir}/a.img,format=raw",
            "-drive if=none,id=d,driver=blkdebug,image.driver=file,image.filename={dir}/a.img",
            "-blockdev raw,node-name=r,offset=4096,size=8192,file.filename={dir}/a.img,file.driver=file \
             -device virtio-blk-pci,drive=r,id=v",
            "-drive if=none,id=d,driver=throttle,throttle-group=g,file.driver=null-co \
             -object throttle-group,id=g,x-iops-total=5",
            "-drive if=none,id=d,driver=blkverify,test.driver=file,test.filename={dir}/a.img,raw.driver=file,\
             raw.filename={dir}/b.img",
            "-drive if=none,id=d,file={dir}/a.img,format=raw,iops=50,bps_rd=100,bps_rd_max=1000,iops_size=4096,group=x",
            "-blockdev file,node-name=f,filename={dir}/a.img -blockdev raw,node-name=r,file=f \
             -blockdev copy-on-read,node-name=c,file=r -device virtio-blk-pci,drive=c,id=v",
            "-blockdev file,node-name=f,filename={dir}/a.img,read-only=on -device ide-cd,drive=f,id=v",
            "-blockdev null-aio,node-name=f -device virtio-blk-pci,drive=f,id=v,write-cache=off",
            "-cdrom {dir}/a.img",
            "-drive file=null-co://,format=raw,if=none,id=d",
            "-drive file=file:{dir}/a.img,format=raw,if=none,id=d",
        ] {
            let instance = with_images(emulator)
                .args(options.split_whitespace())
                .start();
            let mut client = negotiated(&instance);
            for (command, arguments) in &queries {
                let text = crate::answer(&instance, &mut client, command, arguments);
                let text = crate::block_human::without_numbers(&text);
                said.push((format!("{options}: {command} {arguments}"), text));
            }
        }
        answers.push(said);
    }
    crate::compare("commands-block-drive-graphs", &answers);
}
