//! Properties of disks and drives: what is behind them, who serves them, and what they have settled by themselves.

use qemu_tests::{Emulator, Launcher};
use serde_json::{Value, json};

use crate::block_nodes::with_images;
use crate::{ask, command_with, compare, compare_answers, emulators, negotiated, refused};

/// Disks of all kinds with drives of all kinds.
fn with_disks(emulator: Emulator) -> Launcher {
    with_images(emulator)
        .args(["-object", "iothread,id=first", "-object", "iothread,id=io"])
        .args(["-drive", "if=none,id=d,file={dir}/a.img,format=raw"])
        .args(["-device", "virtio-blk-pci,id=v,drive=d,iothread=io"])
        .args(["-blockdev", "null-co,node-name=n,size=1048576"])
        .args([
            "-device",
            "virtio-blk-pci,id=w,drive=n,serial=S,werror=stop",
        ])
        .args(["-drive", "if=ide,file={dir}/b.img,format=raw"])
        .args(["-drive", "if=none,id=e,driver=null-co,size=9G"])
        .args([
            "-device",
            "ide-hd,id=hd,drive=e,bus=ide.1,ver=V,write-cache=off",
        ])
        .args(["-device", "ide-cd,id=cd,bus=ide.1,unit=1"])
        .args(["-drive", "if=none,id=f,file={dir}/odd.img,format=raw"])
        .args(["-device", "floppy,id=fl,drive=f"])
}

fn get(path: &str, property: &str) -> (&'static str, Value) {
    ("qom-get", json!({"path": path, "property": property}))
}

#[test]
fn disks_tell_what_is_behind_them() {
    let mut asked = Vec::new();
    for (device, properties) in [
        (
            "v",
            &[
                "drive",
                "iothread",
                "logical_block_size",
                "num-queues",
                "vectors",
            ][..],
        ),
        (
            "w",
            &[
                "drive", "iothread", "serial", "rerror", "werror", "cyls", "heads", "secs",
            ],
        ),
        (
            "hd",
            &[
                "drive",
                "serial",
                "model",
                "ver",
                "bios-chs-trans",
                "cyls",
                "write-cache",
            ],
        ),
        (
            "hd",
            &["physical_block_size", "discard_granularity", "iothread"],
        ),
        ("cd", &["drive", "serial", "logical_block_size", "werror"]),
        ("fl", &["drive", "write-cache", "logical_block_size"]),
    ] {
        let path = format!("/machine/peripheral/{device}");
        asked.extend(properties.iter().map(|property| get(&path, property)));
    }
    // A thread stays as long as it is used; what a device has is told as long as it has it.
    asked.push(("object-del", json!({"id": "first"})));
    asked.push(get("/machine/peripheral/v", "iothread"));
    asked.push((
        "human-monitor-command",
        json!({"command-line": "drive_del d"}),
    ));
    asked.push(("eject", json!({"id": "fl"})));
    for device in ["v", "fl"] {
        asked.push(get(&format!("/machine/peripheral/{device}"), "drive"));
    }
    compare_answers("commands-disk-properties", with_disks, &asked);
}

/// What a monitor shows of disks here, QEMU shows as often.
#[test]
fn disks_are_shown_with_what_is_behind_them() {
    const NAMES: [&str; 17] = [
        "drive",
        "iothread",
        "serial",
        "model",
        "ver",
        "write-cache",
        "rerror",
        "werror",
        "bios-chs-trans",
        "logical_block_size",
        "physical_block_size",
        "discard_granularity",
        "min_io_size",
        "cyls",
        "num-queues",
        "vectors",
        "disable-legacy",
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_disks(emulator).start();
        let mut client = negotiated(&instance);
        let arguments = json!({"command-line": "info qtree"});
        let shown = command_with(&mut client, "human-monitor-command", arguments);
        let lines = shown.as_str().expect("text").lines().map(str::trim);
        let mut lines: Vec<&str> = lines
            .filter(|line| {
                let name = line.split(" = ").next().unwrap_or_default();
                // A floppy drive's errors, for which QEMU has a property that does nothing.
                NAMES.contains(&name)
            })
            .collect();
        lines.sort_unstable();
        // How deep they are shown tells what they are on.
        let places = shown.as_str().expect("text").lines().filter(|line| {
            let shown = ["dev: virtio-", "bus: virtio-", "type virtio-", "drive = "];
            shown
                .iter()
                .any(|start| line.trim_start().starts_with(start))
        });
        let places: Vec<&str> = places.collect();
        answers.push(vec![
            ("info qtree".to_owned(), lines.join("\n")),
            ("places".to_owned(), places.join("\n")),
        ]);
    }
    compare("commands-disk-properties-shown", &answers);
}

/// Chips of flash with their drives, as properties of theirs and of the machine.
#[test]
fn flash_tells_what_is_behind_it() {
    let one = [
        "-drive",
        "if=pflash,id=code,format=raw,readonly=on,file={dir}/flash.img",
    ];
    let two = ["-drive", "if=pflash,format=raw,unit=1,file={dir}/more.img"];
    let node = ["-blockdev", "file,node-name=n,filename={dir}/flash.img"];
    let named = ["-machine", "pc,pflash0=n"];
    for (test, options) in [
        ("none", &[][..]),
        ("one", &[one]),
        ("two", &[one, two]),
        ("node", &[node, named]),
    ] {
        let launch = |emulator| {
            let launcher = with_images(emulator);
            for name in ["flash.img", "more.img"] {
                let file = std::fs::File::create(launcher.dir().join(name)).expect("a file");
                file.set_len(128 << 10).expect("room");
            }
            launcher.args(options.iter().flatten().copied())
        };
        let asked = [
            get("/machine", "pflash0"),
            get("/machine", "pflash1"),
            get("/machine/system.flash0", "drive"),
            get("/machine/system.flash1", "drive"),
        ];
        compare_answers(
            &format!("commands-disk-properties-flash-{test}"),
            launch,
            &asked,
        );
        let mut answers = Vec::new();
        for emulator in emulators() {
            let instance = launch(emulator).start();
            let mut client = negotiated(&instance);
            let listed = command_with(&mut client, "qom-list", json!({"path": "/machine"}));
            let listed = listed.as_array().expect("a list").iter();
            let flash = |item: &&Value| item["name"].to_string().contains("flash");
            let mut flash: Vec<String> = listed.filter(flash).map(Value::to_string).collect();
            flash.sort_unstable();
            let drives = ask(&mut client, "query-block")
                .as_array()
                .map_or(0, Vec::len);
            answers.push(vec![(test.to_owned(), format!("{flash:?} {drives}"))]);
        }
        compare("commands-disk-properties-flash", &answers);
    }
}

/// What properties can't be is refused in the same words.
#[test]
fn wrong_values_are_refused_alike() {
    for device in [
        "virtio-blk-pci,drive=d,bootindex=x",
        "virtio-blk-pci,drive=d,bootindex=",
        "virtio-blk-pci,drive=d,bootindex=1x",
        "virtio-blk-pci,drive=d,bootindex=5000000000",
        "virtio-blk-pci,drive=d,num-queues=70000",
        "virtio-blk-pci,drive=d,write-cache=x",
        "virtio-blk-pci,drive=d,share-rw=x",
        "virtio-blk-pci,drive=d,logical_block_size=x",
        "ide-hd,drive=d,bootindex=99999999999999999999",
        "ide-hd,drive=d,cyls=x",
        "ide-hd,drive=d,wwn=x",
        "ide-cd,bootindex=x",
        "ide-cd,unit=4294967296",
    ] {
        let mut answers = Vec::new();
        for emulator in emulators() {
            let instance = with_images(emulator)
                .args(["-drive", "if=none,id=d,driver=null-co,size=1M"])
                .args(["-device", device])
                .start();
            let ended = instance.wait(crate::SOON).code();
            let said = instance.stderr();
            let said = said.split_once(": ").map_or("", |(_, said)| said);
            answers.push(vec![(device.to_owned(), format!("{ended:?} {said}"))]);
        }
        compare("commands-disk-properties-wrong", &answers);
    }
}

/// The same steps with a disk or drive of each kind.
#[test]
fn other_nodes_take_the_place_of_media() {
    let set = |device: &str, value: Value| {
        let path = format!("/machine/peripheral/{device}");
        let arguments = json!({"path": path, "property": "drive", "value": value});
        ("qom-set", arguments)
    };
    let line = |line: &str| ("human-monitor-command", json!({"command-line": line}));
    for device in ["ide-hd", "virtio-blk-pci", "ide-cd", "floppy"] {
        let launch = |emulator| {
            with_images(emulator)
                .args([
                    "-drive",
                    "if=none,id=d,file={dir}/a.img,format=raw,node-name=r,file.node-name=f",
                ])
                .args(["-drive", "if=none,id=other,driver=null-co,node-name=o"])
                .args(["-blockdev", "file,node-name=n,filename={dir}/b.img"])
                .args(["-blockdev", "raw,node-name=over,file=n,offset=4096"])
                .args(["-blockdev", "null-co,node-name=ro,read-only=on"])
                .args(["-device", &format!("{device},id=x,drive=d")])
                .args(["-blockdev", "null-co,node-name=used"])
                .args(["-device", "ide-hd,id=y,drive=used,bus=ide.1"])
        };
        let mut steps = vec![line("qemu-io d \"write -P 1 0 4k\"")];
        for value in ["other", "d", "nix", "", "ro", "used", "n"] {
            steps.push(set("x", value.into()));
            steps.push(get("/machine/peripheral/x", "drive"));
            steps.push(line("info block d"));
        }
        steps.extend([
            set("x", json!(5)),
            set("x", Value::Null),
            // What has been in it is gone, as nobody else has it.
            ("query-named-block-nodes", json!({"flat": true})),
            line("qemu-io d \"write -P 2 4096 512\""),
            ("blockdev-del", json!({"node-name": "n"})),
            // One that is on the other one.
            set("x", "over".into()),
            line("qemu-io d \"read -P 2 0 512\""),
            line("info block d"),
            ("query-blockstats", json!({})),
            // Devices of nodes are known by those.
            set("y", "ro".into()),
            set("y", "over".into()),
            set("y", "d".into()),
            line("qom-set /machine/peripheral/x drive n"),
            line("qom-set -j /machine/peripheral/x drive \"ro\""),
            line("qom-set -j /machine/peripheral/x drive 5"),
            get("/machine/peripheral/y", "drive"),
        ]);
        let name = format!("commands-disk-replaced-{device}");
        compare_answers(&name, launch, &steps);
    }
}

/// The disk behind a function has a bus to itself, and its properties are the function's, too.
#[test]
fn a_virtio_function_has_a_device_behind_it() {
    let mut steps = Vec::new();
    for (path, value) in [
        ("w", "first"),
        ("w/virtio-backend", "second"),
        ("w/virtio-bus", "third"),
    ] {
        for property in [
            "addr",
            "child[0]",
            "drive",
            "nix",
            "num-queues",
            "parent_bus",
            "serial",
            "type",
            "virtio-backend",
            "virtio-bus",
        ] {
            let path = format!("/machine/peripheral/{path}");
            let arguments = json!({"path": path, "property": property, "value": value});
            steps.push(("qom-set", arguments));
        }
        steps.push(("query-block", json!({})));
    }
    for path in [
        "virtio-backend",
        "virtio-bus",
        "w/virtio-bus/child[0]/parent_bus",
        "v/virtio-backend/iothread",
        "w/virtio-backend/iothread",
        "w/virtio-backend/virtio-bus",
    ] {
        steps.push(get(path, "type"));
    }
    let launch = |emulator| {
        let nodes = ["first", "second", "third", "own", "other"];
        let nodes = nodes.map(|node| format!("null-co,node-name={node}"));
        let nodes = nodes.iter().flat_map(|node| ["-blockdev", node]);
        with_images(emulator)
            .args(["-object", "iothread,id=io"])
            .args(nodes)
            .args(["-device", "virtio-blk-pci,id=w,drive=own"])
            .args(["-device", "virtio-blk-pci,id=v,drive=other,iothread=io"])
    };
    compare_answers("commands-disk-behind", launch, &steps);
}

/// QEMU fails an assertion, or reads where there is nothing.
#[test]
fn a_node_does_not_take_the_place_of_nothing() {
    let instance = with_disks(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let set = |device: &str, node: &str| {
        let path = format!("/machine/peripheral/{device}");
        json!({"path": path, "property": "drive", "value": node})
    };
    let refusal = refused(&mut client, "qom-set", set("cd", "n"));
    assert_eq!(refusal, "GenericError: Device has no medium");
    command_with(&mut client, "qom-set", set("w", "n"));
}
