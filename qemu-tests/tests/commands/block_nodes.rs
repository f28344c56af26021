//! Block nodes: blockdev-add, blockdev-del, blockdev-reopen, query-named-block-nodes, block-set-write-threshold.

use std::fs::File;

use qemu_tests::{Emulator, Launcher};
use serde_json::{Value, json};

use crate::{answer, command_with, compare_answers, emulators, negotiated, passive, with};

/// An emulator with two images: `a.img` of 1 MiB and `odd.img` of 1000 bytes.
pub(crate) fn with_images(emulator: Emulator) -> Launcher {
    let launcher = passive(emulator);
    for (name, length) in [("a.img", 1 << 20), ("b.img", 2 << 20), ("odd.img", 1000)] {
        let file = File::create(launcher.dir().join(name)).expect("a file");
        file.set_len(length).expect("room");
    }
    launcher
}

fn add(options: Value) -> (&'static str, Value) {
    ("blockdev-add", options)
}

fn del(node: &str) -> (&'static str, Value) {
    ("blockdev-del", json!({"node-name": node}))
}

fn file(node: &str) -> Value {
    json!({"driver": "file", "filename": "{dir}/a.img", "node-name": node})
}

const NODES: (&str, bool) = ("query-named-block-nodes", true);

fn nodes() -> (&'static str, Value) {
    (NODES.0, json!({"flat": NODES.1}))
}

#[test]
fn graphs_look_the_same() {
    let rules = json!([{"event": "read_aio", "errno": 5, "once": true}]);
    compare_answers(
        "commands-block-graphs",
        with_images,
        &[
            nodes(),
            add(json!({"driver": "file", "filename": "{dir}/nope", "node-name": "f"})),
            add(json!({"driver": "file", "filename": "{dir}/a.img"})),
            add(json!({"driver": "file", "filename": "{dir}", "node-name": "f"})),
            add(json!({"driver": "host_device", "filename": "{dir}/a.img", "node-name": "f"})),
            add(file("f")),
            add(json!({"driver": "null-co", "node-name": "f"})),
            add(json!({"driver": "null-co", "node-name": "1f"})),
            add(json!({"driver": "null-co", "node-name": "f/"})),
            add(json!({"driver": "null-co", "node-name": "x".repeat(31)})),
            add(json!({"driver": "null-co", "node-name": "x".repeat(32)})),
            add(json!({"driver": "nix", "node-name": "x"})),
            add(json!({"driver": "raw", "node-name": "x"})),
            add(json!({"driver": "raw", "node-name": "x", "file": 5})),
            add(json!({"driver": "raw", "node-name": "x", "file": "nix"})),
            add(json!({"driver": "raw", "node-name": "r", "file": "f"})),
            add(
                json!({"driver": "raw", "node-name": "r1", "file": "f", "offset": 4096, "size": 8192}),
            ),
            add(
                json!({"driver": "raw", "node-name": "r2", "file": "f", "offset": 4096, "read-only": true}),
            ),
            add(json!({"driver": "raw", "node-name": "x", "file": "f", "offset": 2 << 20})),
            add(json!({"driver": "raw", "node-name": "x", "file": "f", "size": 2 << 20})),
            add(json!({"driver": "null-co", "node-name": "n", "size": 777})),
            add(
                json!({"driver": "null-aio", "node-name": "n2", "read-only": true, "read-zeroes": true}),
            ),
            add(json!({"driver": "null-co", "node-name": "n3", "latency-ns": 5})),
            add(
                json!({"driver": "blkdebug", "node-name": "bd", "image": "n", "inject-error": rules}),
            ),
            add(json!({"driver": "copy-on-read", "node-name": "cor", "file": "f"})),
            add(
                json!({"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g"}),
            ),
            add(json!({"driver": "blkverify", "node-name": "v", "test": "n3", "raw": "f"})),
            add(
                json!({"driver": "file", "node-name": "d", "filename": "{dir}/a.img", "cache": {"no-flush": true},
                       "discard": "unmap", "detect-zeroes": "unmap"}),
            ),
            add(
                json!({"driver": "file", "node-name": "x", "filename": "{dir}/a.img", "detect-zeroes": "unmap"}),
            ),
            add(
                json!({"driver": "file", "node-name": "x", "filename": "{dir}/a.img", "force-share": true}),
            ),
            add(
                json!({"driver": "file", "node-name": "x", "filename": "{dir}/a.img", "aio": "native"}),
            ),
            add(json!({"driver": "file", "node-name": "odd", "filename": "{dir}/odd.img"})),
            add(json!({"driver": "raw", "node-name": "oddr", "file": "odd"})),
            nodes(),
            del("f"),
            del("nix"),
            del("r"),
            del("r"),
            del("bd"),
            del("n"),
            nodes(),
            (NODES.0, json!({"flat": 1})),
        ],
    );
}

#[test]
fn options_change_while_nodes_stand() {
    let reopen = |options: Value| ("blockdev-reopen", json!({"options": options}));
    let mut read_only = file("f");
    read_only["read-only"] = true.into();
    let mut other = file("f");
    other["filename"] = "{dir}/b.img".into();
    let mut nameless = file("f");
    nameless
        .as_object_mut()
        .expect("members")
        .remove("node-name");
    let mut unmap = file("f");
    unmap["discard"] = "unmap".into();
    unmap["detect-zeroes"] = "unmap".into();
    compare_answers(
        "commands-block-reopen",
        with_images,
        &[
            add(file("f")),
            reopen(json!([file("f")])),
            reopen(json!([nameless])),
            reopen(json!([file("g")])),
            reopen(json!([other])),
            reopen(json!([read_only])),
            nodes(),
            reopen(json!([unmap])),
            nodes(),
            // What is left out gets its default back.
            reopen(json!([file("f"), read_only])),
            nodes(),
            reopen(json!([unmap, other])),
            nodes(),
        ],
    );
}

#[test]
fn drivers_change_while_nodes_stand() {
    let reopen = |options: Value| ("blockdev-reopen", json!({"options": [options]}));
    let group = |id: &str| {
        (
            "object-add",
            json!({"qom-type": "throttle-group", "id": id}),
        )
    };
    let part = |more: Value| {
        with(
            json!({"driver": "raw", "node-name": "r", "file": "f"}),
            more,
        )
    };
    let null = |node: &str| json!({"driver": "null-co", "node-name": node, "size": 1 << 20});
    let limited = |group: &str| json!({"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": group});
    let debugged = |more: Value| {
        with(
            json!({"driver": "blkdebug", "node-name": "b", "image": "n"}),
            more,
        )
    };
    let filter = json!({"driver": "copy-on-read", "node-name": "c", "file": "n"});
    let verify = json!({"driver": "blkverify", "node-name": "v", "test": "n", "raw": "f"});
    let mut locking = file("f");
    locking["locking"] = "off".into();
    let mut native = file("f");
    native["aio"] = "native".into();
    compare_answers(
        "commands-block-reopen-drivers",
        with_images,
        &[
            group("g"),
            group("g2"),
            add(file("f")),
            add(part(json!({}))),
            add(null("n")),
            add(null("n2")),
            add(limited("g")),
            add(filter.clone()),
            add(debugged(json!({}))),
            add(verify.clone()),
            reopen(part(json!({"offset": 4096, "size": 8192}))),
            nodes(),
            reopen(part(json!({"offset": 4096, "size": 81_920_000}))),
            reopen(part(json!({"offset": 409_600_000}))),
            reopen(part(json!({"offset": -1}))),
            (
                "blockdev-reopen",
                json!({"options": [part(json!({})), {"driver": "null-co", "node-name": "nix"}]}),
            ),
            nodes(),
            reopen(part(json!({}))),
            nodes(),
            reopen(limited("g2")),
            nodes(),
            reopen(limited("nix")),
            ("object-del", json!({"id": "g"})),
            ("object-del", json!({"id": "g2"})),
            reopen(filter),
            reopen(verify),
            reopen(debugged(json!({}))),
            reopen(debugged(json!({"image": "n2"}))),
            reopen(debugged(json!({"align": 4096}))),
            reopen(null("n")),
            reopen(locking),
            reopen(native),
            reopen(json!({"driver": "raw", "node-name": "f", "file": "n"})),
        ],
    );
}

/// What a node is on can be another one: `raw` and filters.
#[test]
fn children_change_while_nodes_stand() {
    let reopen = |options: Value| ("blockdev-reopen", json!({"options": options}));
    let raw = |node: &str, file: Value| json!({"driver": "raw", "node-name": node, "file": file});
    let limited = |file: &str| json!({"driver": "throttle", "node-name": "t", "file": file, "throttle-group": "g"});
    let null = json!({"driver": "null-co", "node-name": "n", "size": 4096});
    let file = |node: &str, name: &str| json!({"driver": "file", "node-name": node, "filename": format!("{{dir}}/{name}")});
    let mut read_only = file("o", "odd.img");
    read_only["read-only"] = true.into();
    let own = json!({"driver": "file", "node-name": "own", "filename": "{dir}/odd.img", "locking": "off"});
    let filter = |file: &str| json!({"driver": "copy-on-read", "node-name": "c", "file": file});
    let launch = |emulator| {
        with_images(emulator)
            .args(["-object", "throttle-group,id=g"])
            .args(["-blockdev", "file,node-name=f,filename={dir}/a.img"])
            .args(["-blockdev", "raw,node-name=r,file=f"])
            .args(["-device", "virtio-blk-pci,drive=r,id=v"])
    };
    let show = || ("query-block", json!({}));
    compare_answers(
        "commands-block-reopen-children",
        launch,
        &[
            add(file("g", "b.img")),
            add(null),
            add(limited("n")),
            add(read_only),
            add(raw("r2", own.clone())),
            add(raw("up", "t".into())),
            add(filter("n")),
            nodes(),
            reopen(json!([raw("r", "g".into())])),
            nodes(),
            show(),
            reopen(json!([raw("r", "nix".into())])),
            reopen(json!([raw("r", json!({"driver": "null-co"}))])),
            reopen(json!([raw("r", "r".into())])),
            reopen(json!([raw("r", Value::Null)])),
            reopen(json!([raw("r", "o".into())])),
            show(),
            reopen(json!([raw("r", "n".into())])),
            show(),
            // What is above shows the old length in QEMU.
            reopen(json!([limited("g")])),
            reopen(json!([limited("n")])),
            reopen(json!([limited("up")])),
            reopen(json!([limited("t")])),
            reopen(json!([limited("nix")])),
            reopen(json!([filter("g")])),
            // One that nobody else has goes when it is left.
            reopen(json!([raw("r2", "g".into())])),
            nodes(),
            reopen(json!([raw("r2", "own".into())])),
            reopen(json!([raw("r2", own)])),
            // All of them or none, and what one gives up another one can have.
            reopen(json!([raw("r", "g".into()), raw("r2", "nix".into())])),
            nodes(),
            reopen(json!([raw("r", "g".into()), raw("r2", "f".into())])),
            nodes(),
            reopen(json!([raw("r", "f".into()), raw("r2", "g".into())])),
            nodes(),
            del("f"),
            del("g"),
            reopen(json!([raw("up", "n".into())])),
            reopen(json!([raw("up", "t".into())])),
            reopen(json!([raw("r", "up".into())])),
            reopen(json!([limited("r")])),
            nodes(),
            del("f"),
            show(),
        ],
    );
}

/// `blockdev-reopen` of a raw node on a file, with this and nothing else said of it.
pub(crate) fn reopen_raw(node: &str, file: &str, more: Value) -> (&'static str, Value) {
    let options = json!({"driver": "raw", "node-name": node, "file": file});
    ("blockdev-reopen", json!({"options": [with(options, more)]}))
}

/// What was written is on stable storage before a node is made one that can't be flushed.
#[test]
fn nodes_are_flushed_before_they_are_reopened() {
    let drive = "if=none,id=d,format=raw,node-name=r,file.driver=blkdebug,file.node-name=b,file.image.driver=file,\
                 file.image.filename={dir}/a.img,file.inject-error.0.event=flush_to_disk,\
                 file.inject-error.0.iotype=flush,file.inject-error.0.errno=28";
    let reopen = |read_only: bool| reopen_raw("r", "b", json!({"read-only": read_only}));
    let line = |line: &str| ("human-monitor-command", json!({"command-line": line}));
    compare_answers(
        "commands-block-reopen-flush",
        |emulator| with_images(emulator).args(["-drive", drive]),
        &[
            reopen(false),
            line("qemu-io d \"write 0 4k\""),
            reopen(false),
            reopen(true),
        ],
    );
}

/// What a node that was made with another one does not say of itself is as is said of that one.
#[test]
fn nodes_follow_the_one_that_they_were_made_with() {
    let made = |node: &str, more: Value| {
        let file = with(
            json!({"driver": "file", "node-name": format!("{node}f"), "filename": "{dir}/a.img"}),
            more,
        );
        json!({"driver": "raw", "node-name": node, "file": file})
    };
    let reader = json!({"read-only": true, "cache": {"direct": true}});
    let mut own = file("ownf");
    own["cache"] = json!({"no-flush": true});
    compare_answers(
        "commands-block-followers",
        with_images,
        &[
            add(made("r", json!({}))),
            add(made(
                "own",
                json!({"read-only": false, "cache": {"direct": false}}),
            )),
            add(file("apart")),
            add(json!({"driver": "raw", "node-name": "a", "file": "apart"})),
            reopen_raw("r", "rf", reader.clone()),
            reopen_raw("own", "ownf", reader.clone()),
            reopen_raw("a", "apart", reader),
            nodes(),
            reopen_raw("r", "rf", json!({"auto-read-only": true})),
            reopen_raw("own", "ownf", json!({"cache": {"no-flush": true}})),
            ("blockdev-reopen", json!({"options": [own]})),
            nodes(),
            reopen_raw("r", "rf", json!({"cache": {"no-flush": true}})),
            reopen_raw("r", "nix", json!({"read-only": false})),
            reopen_raw(
                "own",
                "ownf",
                json!({"read-only": false, "detect-zeroes": "on"}),
            ),
            nodes(),
            reopen_raw("r", "rf", json!({"read-only": false})),
            nodes(),
        ],
    );
}

/// How files are read and written is the image's user's affair: it stays as it is, and is no part of a name.
#[test]
fn ways_to_read_files_look_the_same() {
    let reopen = |options: Value| ("blockdev-reopen", json!({"options": [options]}));
    let with = |node: &str, aio: &str, direct: bool| {
        json!({"driver": "file", "filename": "{dir}/a.img", "node-name": node, "aio": aio,
               "cache": {"direct": direct}})
    };
    let part = |node: &str, file: &str| json!({"driver": "raw", "node-name": node, "file": file, "offset": 4096});
    let mut missing = with("f", "native", false);
    missing["filename"] = "{dir}/nope".into();
    let mut nowhere = with("fn", "native", true);
    nowhere["locking"] = "off".into();
    compare_answers(
        "commands-block-aio",
        with_images,
        &[
            add(with("f", "nix", false)),
            add(with("f", "native", false)),
            add(missing),
            add(with("ft", "threads", true)),
            add(with("fn", "native", true)),
            add(with("fu", "io_uring", true)),
            add(part("pt", "ft")),
            add(part("pn", "fn")),
            add(part("pu", "fu")),
            nodes(),
            reopen(file("fu")),
            reopen(with("fu", "native", true)),
            reopen(with("fn", "io_uring", true)),
            reopen(with("ft", "native", true)),
            reopen(nowhere),
            reopen(with("fn", "native", false)),
            reopen(with("ft", "threads", false)),
            reopen(with("fu", "io_uring", false)),
            nodes(),
        ],
    );
}

#[test]
fn the_old_name_of_blockdev_reopen_works() {
    let instance = with_images(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let image = instance.dir().join("a.img");
    let mut options = json!({"driver": "file", "node-name": "f", "filename": image.to_str()});
    command_with(&mut client, "blockdev-add", options.clone());
    options["read-only"] = true.into();
    command_with(&mut client, "x-blockdev-reopen", options);
    let nodes = command_with(&mut client, "query-named-block-nodes", json!({}));
    assert_eq!(nodes[0]["ro"], true, "{nodes}");
}

#[test]
fn rules_come_from_files() {
    let files: [(&str, &str); 10] = [
        (
            "good",
            "# rules\n\n[inject-error]\nevent = \"read_aio\"\nerrno = \"28\"\nonce = \"on\"\n\n\
             [set-state]\nevent = \"write_aio\"\nstate = \"1\"\nnew_state = \"2\"\n\
             [inject-error]\nstate = \"2\"\nevent = \"read_aio\"\nsector = \"3\"\n",
        ),
        ("group", "[nix]\nevent = \"read_aio\"\n"),
        ("event", "[inject-error]\nevent = \"nix\"\n"),
        ("member", "[inject-error]\nnix = \"read_aio\"\n"),
        ("none", "event = \"read_aio\"\n"),
        ("quotes", "[inject-error]\nevent = read_aio\n"),
        ("missing", "[inject-error]\nerrno = \"5\"\n"),
        (
            "number",
            "[inject-error]\nevent = \"read_aio\"\nerrno = \"x\"\n",
        ),
        (
            "kind",
            "[inject-error]\nevent = \"read_aio\"\niotype = \"x\"\n",
        ),
        ("state", "[set-state]\nevent = \"read_aio\"\n"),
    ];
    let launch = |emulator| {
        let launcher = with_images(emulator);
        for (name, text) in files {
            std::fs::write(launcher.dir().join(name), text).expect("a file");
        }
        launcher
    };
    let image = json!({"driver": "null-co", "read-zeroes": true, "size": 1 << 20});
    let limits = |more: Value| {
        let options = with(
            json!({"driver": "blkdebug", "node-name": "l", "image": {"driver": "null-co"}}),
            more,
        );
        add(options)
    };
    let mut commands: Vec<(&str, Value)> = files
        .iter()
        .map(|(name, _)| *name)
        .chain(["nope"])
        .map(|name| {
            let config = format!("{{dir}}/{name}");
            add(json!({"driver": "blkdebug", "node-name": name, "config": config, "image": image}))
        })
        .collect();
    commands.push(add(
        json!({"driver": "raw", "node-name": "r", "file": "good"}),
    ));
    for line in [
        "qemu-io r \"read -q 0 512\"",
        "qemu-io r \"read -q 0 512\"",
        "qemu-io r \"write -q 0 512\"",
        "qemu-io r \"read -q 0 512\"",
        "qemu-io r \"read -q 1536 512\"",
    ] {
        let line = json!({"command-line": line});
        commands.push(("human-monitor-command", line));
    }
    commands.extend([
        limits(json!({"align": 3})),
        limits(json!({"align": 4096, "opt-write-zero": 512})),
        limits(json!({"align": 4096, "max-write-zero": 512})),
        limits(json!({"align": 4096, "opt-discard": 512})),
        limits(json!({"align": 4096, "max-discard": 512})),
        limits(json!({"align": 4096, "max-transfer": 512})),
        limits(json!({"opt-write-zero": -1})),
        limits(json!({"opt-discard": 8192, "max-discard": 4096})),
        limits(json!({"opt-write-zero": 8192, "max-write-zero": 4096})),
        limits(
            json!({"align": 512, "max-transfer": 4096, "opt-write-zero": 8192, "max-write-zero": 65536,
                   "opt-discard": 8192, "max-discard": 32768, "image": "n"}),
        ),
        add(json!({"driver": "null-co", "node-name": "n"})),
        limits(
            json!({"align": 512, "max-transfer": 4096, "opt-write-zero": 8192, "max-write-zero": 65536,
                   "opt-discard": 8192, "max-discard": 32768, "image": "n"}),
        ),
    ]);
    compare_answers("commands-block-rules", launch, &commands);
}

#[test]
fn thresholds_are_shown() {
    let set = |node: &str, threshold: u64| {
        (
            "block-set-write-threshold",
            json!({"node-name": node, "write-threshold": threshold}),
        )
    };
    compare_answers(
        "commands-block-threshold",
        with_images,
        &[
            add(file("f")),
            set("nix", 5),
            set("f", 4096),
            nodes(),
            set("f", 0),
            nodes(),
            ("block-set-write-threshold", json!({"node-name": "f"})),
        ],
    );
}

#[test]
fn the_old_name_of_blockdev_del_works() {
    let instance = with_images(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let options = json!({"driver": "null-co", "node-name": "n"});
    command_with(&mut client, "blockdev-add", options.clone());
    command_with(&mut client, "x-blockdev-del", json!({"node-name": "n"}));
    // Its name is free again.
    command_with(&mut client, "blockdev-add", options);
}

#[test]
fn options_make_nodes() {
    for (option, value) in [
        ("-blockdev", "file,node-name=f,filename={dir}/a.img"),
        (
            "-blockdev",
            r#"{"driver": "file", "node-name": "f", "filename": "{dir}/a.img", "read-only": true}"#,
        ),
        (
            "-blockdev",
            "raw,node-name=r,file.driver=file,file.node-name=f,file.filename={dir}/a.img,offset=512",
        ),
        (
            "-drive",
            "if=none,id=d,node-name=r,file.node-name=f,file={dir}/a.img,format=raw,cache=none",
        ),
        (
            "-drive",
            "if=none,id=d,node-name=r,file.node-name=f,file={dir}/a.img,format=raw,readonly=on,discard=on",
        ),
        ("-drive", "if=none,id=d,node-name=n,driver=null-co"),
    ] {
        let mut answers = Vec::new();
        for emulator in emulators() {
            let instance = with_images(emulator).args([option, value]).start();
            let mut client = negotiated(&instance);
            let (command, arguments) = nodes();
            let text = answer(&instance, &mut client, command, &arguments);
            answers.push(vec![(format!("{option} {value}"), text)]);
        }
        crate::compare("commands-block-options", &answers);
    }
}
