//! object-add, object-del, qom-set, query-iothreads and query-memdev: threads are there, memory is seen from outside, what can't be had is
//! told in the same words.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::time::Instant;

use qemu_tests::{Emulator, Instance, skip_part};
use serde_json::{Value, json};

use crate::{
    NEVER, SOON, ask, command_with, compare, compare_answers, counts, doubleword, emulators,
    negotiated, passive, refused, roms, wait_console, wait_until, with, with_rom,
};

/// A MiB.
const MIB: u64 = 1 << 20;

/// "secret", encrypted with the key of the bytes 00h to 1Fh.
const ENCRYPTED: &str = "6H5G+J59TZQMdlkJH18ekw==";
/// That key.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// The vector of the bytes 00h to 0Fh.
const VECTOR: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// A list's entries by their ids.
fn by_id(list: Value) -> Vec<Value> {
    let mut entries = list.as_array().expect("a list").clone();
    entries.sort_by_key(|entry| entry["id"].to_string());
    entries
}

fn add(kind: &str, id: &str, more: Value) -> (&'static str, Value) {
    let arguments = with(json!({"qom-type": kind, "id": id}), more);
    ("object-add", arguments)
}

fn del(id: &str) -> (&'static str, Value) {
    ("object-del", json!({"id": id}))
}

fn get(path: &str, property: &str) -> (&'static str, Value) {
    ("qom-get", json!({"path": path, "property": property}))
}

fn set(path: &str, property: &str, value: Value) -> (&'static str, Value) {
    (
        "qom-set",
        json!({"path": path, "property": property, "value": value}),
    )
}

/// Whether the process has a thread of this number.
fn has_thread(instance: &Instance, thread: &Value) -> bool {
    let process = instance.pid().as_raw_nonzero();
    let thread = thread.as_i64().expect("a number");
    std::path::Path::new(&format!("/proc/{process}/task/{thread}")).exists()
}

#[test]
fn threads_say_the_same() {
    let max = i64::MAX;
    let path = "/objects/io1";
    compare_answers(
        "commands-iothreads",
        |emulator| passive(emulator).args(["-device", "isa-debug-exit,id=one"]),
        &[
            ("object-add", json!({})),
            ("object-add", json!({"qom-type": "iothread"})),
            ("object-add", json!({"id": "x"})),
            ("object-add", json!({"qom-type": 5, "id": "x"})),
            ("object-add", json!({"qom-type": "iothread", "id": 5})),
            add("nix", "x", json!({})),
            add("iothread", "", json!({})),
            add("iothread", "1x", json!({})),
            add("iothread", "x y", json!({})),
            add("iothread", "x/y", json!({})),
            add("iothread", "\u{e4}", json!({})),
            add("iothread", "io1", json!({"foo": 1})),
            add("iothread", "io1", json!({"poll-max-ns": -1})),
            add("iothread", "io1", json!({"poll-grow": -1})),
            add("iothread", "io1", json!({"poll-shrink": i64::MIN})),
            add("iothread", "io1", json!({"aio-max-batch": -1})),
            add("iothread", "io1", json!({"aio-max-batch": u64::MAX})),
            add("iothread", "io1", json!({"poll-max-ns": "5"})),
            add("iothread", "io1", json!({"aio-max-batch": max})),
            add("iothread", "io1", json!({})),
            add("iothread", "io1", json!({"poll-max-ns": -1})),
            add("secret", "io1", json!({})),
            get(path, "poll-max-ns"),
            get(path, "poll-grow"),
            get(path, "poll-shrink"),
            get(path, "aio-max-batch"),
            get(path, "type"),
            get("/objects", "io1"),
            set(path, "poll-max-ns", json!(77)),
            get(path, "poll-max-ns"),
            get("io1", "poll-max-ns"),
            set(path, "poll-max-ns", json!(-77)),
            set(path, "poll-max-ns", json!("77")),
            set(path, "poll-max-ns", json!(1.5)),
            set(path, "poll-max-ns", json!(u64::MAX)),
            set(path, "poll-max-ns", json!({})),
            set(path, "poll-max-ns", json!(null)),
            set(path, "nix", json!(1)),
            set(path, "type", json!("x")),
            set("/objects/io2", "poll-max-ns", json!(1)),
            set("/objects", "io1", json!("x")),
            set("", "x", json!(1)),
            set("device[0]", "x", json!(1)),
            set("/machine", "type", json!("x")),
            set("/machine", "peripheral", json!("x")),
            set("one", "iobase", json!(1)),
            set("one", "parent_bus", json!("")),
            set("one", "hotplugged", json!(true)),
            set("one", "nix", json!(true)),
            ("qom-set", json!({"path": path, "property": "poll-grow"})),
            get(path, "poll-max-ns"),
            del("nix"),
            del(""),
            del("../machine"),
            del("io1"),
            del("io1"),
            ("object-del", json!({})),
            ("query-iothreads", json!({})),
            get(path, "poll-max-ns"),
            ("qom-list", json!({"path": "/objects/io1"})),
            (
                "device-list-properties",
                json!({"typename": "memory-backend-ram"}),
            ),
            ("qom-list-properties", json!({"typename": "user-creatable"})),
        ],
    );
}

#[test]
fn an_iothread_is_a_thread_of_the_process() {
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-object", "iothread,id=first,poll-max-ns=0x10"])
            .args([
                "-object",
                r#"{"qom-type":"iothread","id":"second","poll-grow":3,"poll-shrink":4}"#,
            ])
            .start();
        let mut client = negotiated(&instance);
        let (command, arguments) = add("iothread", "third", json!({"aio-max-batch": 9}));
        command_with(&mut client, command, arguments);
        let threads = by_id(ask(&mut client, "query-iothreads"));
        let mut expected = [
            json!({"id": "first", "poll-max-ns": 16, "poll-grow": 0, "poll-shrink": 0, "aio-max-batch": 0}),
            json!({"id": "second", "poll-max-ns": 32768, "poll-grow": 3, "poll-shrink": 4, "aio-max-batch": 0}),
            json!({"id": "third", "poll-max-ns": 32768, "poll-grow": 0, "poll-shrink": 0, "aio-max-batch": 9}),
        ];
        for (expected, thread) in expected.iter_mut().zip(&threads) {
            expected["thread-id"] = thread["thread-id"].clone();
            assert!(has_thread(&instance, &thread["thread-id"]), "{emulator:?}");
        }
        assert_eq!(threads, expected, "{emulator:?}");

        let (command, arguments) = set("third", "poll-max-ns", json!(5));
        command_with(&mut client, command, arguments);
        let changed = by_id(ask(&mut client, "query-iothreads"));
        assert_eq!(changed[2]["poll-max-ns"], 5);

        let gone = &threads[1]["thread-id"];
        let (command, arguments) = del("second");
        command_with(&mut client, command, arguments);
        wait_until("the thread ends", || !has_thread(&instance, gone));
        let left = by_id(ask(&mut client, "query-iothreads"));
        let left: Vec<_> = left.iter().map(|thread| &thread["id"]).collect();
        assert_eq!(left, ["first", "third"]);
    }
}

/// Threads don't take the signals that end the process in order.
#[test]
fn a_process_with_threads_ends_in_order() {
    for emulator in emulators() {
        let mut launcher = passive(emulator);
        for id in ["a", "b", "c", "d"] {
            launcher = launcher.args(["-object", &format!("iothread,id={id}")]);
        }
        let instance = launcher.start();
        let mut client = negotiated(&instance);
        instance.signal(rustix::process::Signal::TERM);
        let event = client.event(SOON).expect("an event");
        assert_eq!(event["event"], "SHUTDOWN");
        assert_eq!(event["data"]["reason"], "host-signal");
        assert_eq!(instance.wait(SOON).code(), Some(0));
    }
}

#[test]
fn memory_says_the_same() {
    let ram = |id, more| add("memory-backend-ram", id, more);
    let file = |id, more| add("memory-backend-file", id, more);
    let memfd = |id, more| add("memory-backend-memfd", id, more);
    compare_answers(
        "commands-memory-backends",
        |emulator| {
            let launcher = passive(emulator);
            let file = |name: &str, content: &[u8]| {
                let path = launcher.dir().join(name);
                std::fs::write(&path, content).expect("a file");
                path
            };
            file("small", &[1; 4096]);
            let path = file("readonly", &[1; 8192]);
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o444)).expect("a file");
            std::fs::create_dir(launcher.dir().join("directory")).expect("a directory");
            launcher
        },
        &[
            get("/machine", "memory-backend"),
            ("query-memdev", json!({})),
            del("pc.ram"),
            ram("m0", json!({})),
            ram("m0", json!({"size": 0})),
            ram("m0", json!({"size": "5"})),
            ram("pc.ram", json!({"size": MIB})),
            ram("m0", json!({"size": 1_u64 << 62})),
            ram("m0", json!({"size": MIB, "mem-path": "x"})),
            ram("m0", json!({"size": MIB, "policy": "bind"})),
            ram("m0", json!({"size": MIB, "policy": "nix"})),
            ram("m0", json!({"size": MIB, "host-nodes": [0]})),
            ram(
                "m0",
                json!({"size": MIB, "host-nodes": [128], "policy": "bind"}),
            ),
            ram(
                "m0",
                json!({"size": MIB, "host-nodes": [100], "policy": "bind"}),
            ),
            ram("m0", json!({"size": MIB, "prealloc-threads": 0})),
            ram(
                "m0",
                json!({"size": MIB, "prealloc": true, "reserve": false}),
            ),
            ram("m0", json!({"size": 1})),
            get("m0", "size"),
            get("m0", "prealloc-threads"),
            get("m0", "host-nodes"),
            ram(
                "m1",
                json!({"size": MIB, "prealloc": true, "prealloc-threads": 2, "merge": false, "dump": false, "share": true}),
            ),
            ram(
                "m2",
                json!({"size": MIB, "host-nodes": [0], "policy": "bind", "reserve": false}),
            ),
            get("m2", "host-nodes"),
            get("m2", "policy"),
            set("m1", "size", json!(5)),
            set("m1", "merge", json!(5)),
            set("m1", "merge", json!(true)),
            get("m1", "merge"),
            set("m1", "dump", json!(true)),
            get("m1", "dump"),
            set("m1", "share", json!(false)),
            set("m1", "reserve", json!(false)),
            set("m2", "prealloc", json!(true)),
            set("m0", "prealloc", json!(true)),
            get("m0", "prealloc"),
            set("m0", "prealloc", json!("on")),
            del("m1"),
            file("f0", json!({"size": MIB})),
            file("f0", json!({"mem-path": "{dir}/new"})),
            file("f0", json!({"size": 0, "mem-path": "{dir}/new"})),
            file("f0", json!({"size": MIB, "mem-path": "{dir}/small"})),
            file("f0", json!({"size": MIB, "mem-path": "{dir}/nix/x"})),
            file("f0", json!({"size": MIB, "mem-path": ""})),
            file("f0", json!({"size": MIB, "mem-path": "/dev/null"})),
            file(
                "f0",
                json!({"size": MIB, "mem-path": "{dir}/new", "align": 3}),
            ),
            file("f1", json!({"size": MIB, "mem-path": "{dir}/new"})),
            file(
                "f2",
                json!({"size": MIB, "mem-path": "{dir}/directory", "share": true}),
            ),
            file(
                "f3",
                json!({"size": 8192, "mem-path": "{dir}/readonly", "readonly": true, "align": 65536}),
            ),
            get("f1", "mem-path"),
            get("f1", "align"),
            get("f3", "align"),
            get("f3", "readonly"),
            get("f1", "discard-data"),
            set("f1", "discard-data", json!(true)),
            get("f1", "discard-data"),
            set("f1", "mem-path", json!("x")),
            set("f1", "align", json!(4096)),
            set("f1", "readonly", json!(true)),
            memfd("d0", json!({"size": MIB})),
            memfd("d1", json!({"size": MIB, "share": false, "seal": false})),
            memfd("d2", json!({"size": MIB, "hugetlbsize": 0})),
            memfd("d2", json!({"size": MIB, "hugetlb": true})),
            get("d0", "seal"),
            get("d0", "hugetlb"),
            get("d0", "hugetlbsize"),
            set("d0", "hugetlbsize", json!(4096)),
        ],
    );
}

#[test]
fn memory_is_listed() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-machine", "mem-merge=off,memory-backend=ram", "-m", "16"])
            .args([
                "-object",
                "memory-backend-memfd,id=ram,size=16M,prealloc=on",
                "-object",
                "memory-backend-ram,id=nodes,size=1M,host-nodes=0,policy=interleave,dump=off",
                "-object",
                r#"{"qom-type":"memory-backend-file","id":"file","size":65536,"mem-path":".","share":true,"merge":true}"#,
            ])
            .start();
        let mut client = negotiated(&instance);
        let listed = by_id(ask(&mut client, "query-memdev"));
        assert_eq!(listed.len(), 3, "{emulator:?}: {listed:?}");
        let (command, arguments) = get("/machine", "memory-backend");
        assert_eq!(
            command_with(&mut client, command, arguments),
            "/objects/ram"
        );
        let (command, arguments) = del("ram");
        refused(&mut client, command, arguments);
        let info = json!({"command-line": "info memdev"});
        let text = command_with(&mut client, "human-monitor-command", info);
        let mut blocks: Vec<_> = text
            .as_str()
            .expect("a text")
            .split("memory backend")
            .map(str::trim_end)
            .collect();
        blocks.sort_unstable();
        answers.push(vec![
            ("query-memdev".to_string(), json!(listed).to_string()),
            ("info memdev".to_string(), json!(blocks).to_string()),
        ]);
    }
    compare("commands-memory-list", &answers);
}

/// The guest's counter, seen in the backend's file.
#[test]
fn shared_guest_ram_is_seen_from_outside() {
    for emulator in emulators() {
        for kind in ["file", "memfd"] {
            let launcher = with_rom(emulator, &roms::counter());
            let path = launcher.dir().join("ram");
            let object = match kind {
                "file" => format!(
                    "memory-backend-file,id=pc.ram,size=16M,share=on,discard-data=on,mem-path={}",
                    path.display()
                ),
                _ => "memory-backend-memfd,id=pc.ram,size=16M".to_string(),
            };
            let instance = launcher
                .args(["-object", &object, "-machine", "memory-backend=pc.ram"])
                .start();
            let mut client = negotiated(&instance);
            wait_console(&instance, "S");
            let seen = match kind {
                "file" => std::fs::File::open(&path).expect("the file"),
                _ => descriptor(&instance, "memory-backend-memfd"),
            };
            assert_eq!(seen.metadata().expect("a file").len(), 16 << 20);
            let count = || {
                let mut bytes = [0; 4];
                seen.read_exact_at(&mut bytes, 0x500).expect("the counter");
                u32::from_le_bytes(bytes)
            };
            let before = count();
            wait_until("the guest counts in the file", || count() != before);
            assert!(counts(&instance, &mut client));
            ask(&mut client, "stop");
            assert_eq!(count(), doubleword(&instance, &mut client, 0x500));
            ask(&mut client, "quit");
            assert_eq!(instance.wait(SOON).code(), Some(0));
            if kind == "file" {
                assert_eq!(count(), 0, "{emulator:?}: the data is discarded");
            }
        }
    }
}

/// The emulator's descriptor of a file without a name.
fn descriptor(instance: &Instance, name: &str) -> std::fs::File {
    let process = instance.pid().as_raw_nonzero();
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).expect("descriptors");
    let found = descriptors.flatten().find(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        target.to_string_lossy().contains(name)
    });
    std::fs::File::open(found.expect("the file").path()).expect("a file")
}

/// `-m` may be missing where a backend tells the size.
#[test]
fn a_backend_is_as_much_memory_as_it_is() {
    for emulator in emulators() {
        let instance = emulator
            .launcher()
            .args(emulator.passive_args())
            .args(["-M", "pc,memory-backend=mine"])
            .args(["-object", "memory-backend-ram,id=mine,size=24M"])
            .with_qmp()
            .start();
        let mut client = negotiated(&instance);
        let (command, arguments) = get("/machine", "memory");
        let memory = command_with(&mut client, command, arguments);
        assert_eq!(memory["size"], 24 << 20, "{emulator:?}");
        let listed = ask(&mut client, "query-memdev");
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        assert_eq!(listed[0]["id"], "mine");
    }
}

/// `-mem-path` makes guest RAM of a file.
#[test]
fn guest_ram_is_of_the_named_file() {
    for emulator in emulators() {
        let launcher = with_rom(emulator, &roms::counter());
        let path = launcher.dir().join("ram");
        let instance = launcher
            .args([
                "-mem-path",
                path.to_str().expect("a plain path"),
                "-mem-prealloc",
            ])
            .start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "S");
        assert_eq!(std::fs::metadata(&path).expect("the file").len(), 16 << 20);
        let listed = ask(&mut client, "query-memdev");
        assert_eq!(listed[0]["id"], "pc.ram", "{emulator:?}");
        assert_eq!(listed[0]["prealloc"], true);
        assert_eq!(listed[0]["share"], false);
        let (command, arguments) = get("/objects/pc.ram", "mem-path");
        let shown = command_with(&mut client, command, arguments);
        assert_eq!(shown, path.to_str().expect("a plain path"));
        assert!(counts(&instance, &mut client));
    }
}

/// Memory that a full file system has no room for is an error, and not the end of the process.
#[test]
fn a_full_file_system_is_told() {
    for emulator in emulators() {
        let launcher = passive(emulator);
        let full = launcher.dir().join("full");
        std::fs::create_dir(&full).expect("a directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1M", "none"])
            .arg(&full);
        if !mount.status().is_ok_and(|status| status.success()) {
            return skip_part("a file system can't be mounted here");
        }
        let instance = launcher.start();
        let mut client = negotiated(&instance);
        for (id, path) in [("a", full.join("file")), ("b", full.clone())] {
            let (command, arguments) = add(
                "memory-backend-file",
                id,
                json!({"size": 4 * MIB, "mem-path": path, "prealloc": true, "share": true}),
            );
            let text = refused(&mut client, command, arguments);
            let start = "GenericError: qemu_prealloc_mem: preallocating memory failed: ";
            assert!(text.starts_with(start), "{emulator:?}: {text}");
            if emulator == Emulator::Thimble {
                assert_eq!(&text[start.len()..], "No space left on device");
                assert!(!full.join("file").exists(), "nothing is left behind");
            }
        }
        let memory = ask(&mut client, "query-memdev");
        assert_eq!(memory.as_array().map(Vec::len), Some(1));
        drop(instance);
        let unmounted = Command::new("umount").arg(&full).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn secrets_say_the_same() {
    let secret = |id, more| add("secret", id, more);
    compare_answers(
        "commands-secrets",
        |emulator| {
            let launcher = passive(emulator);
            let bytes: Vec<u8> = (0..32).collect();
            std::fs::write(launcher.dir().join("key"), bytes).expect("a file");
            std::fs::write(launcher.dir().join("encrypted"), ENCRYPTED).expect("a file");
            // As libvirt does it.
            let key = launcher.dir().join("key");
            let option =
                json!({"qom-type": "secret", "id": "masterKey0", "format": "raw", "file": key});
            launcher.args(["-object", &option.to_string()]).args([
                "-object",
                &format!(
                    "secret,id=later,keyid=masterKey0,iv={VECTOR},format=base64,data={ENCRYPTED}"
                ),
            ])
        },
        &[
            get("masterKey0", "format"),
            get("masterKey0", "data"),
            get("masterKey0", "loaded"),
            get("later", "data"),
            get("later", "keyid"),
            get("later", "iv"),
            secret("s", json!({})),
            secret("s", json!({"data": "x", "file": "{dir}/key"})),
            secret("s", json!({"data": "x", "format": "hex"})),
            secret("s", json!({"data": "!!", "format": "base64"})),
            secret("s", json!({"data": "A A=", "format": "base64"})),
            secret("s", json!({"file": "{dir}/nix"})),
            secret("s", json!({"file": "{dir}"})),
            secret("s", json!({"data": "x", "keyid": "nix"})),
            secret("s", json!({"data": "x", "keyid": "masterKey0"})),
            secret("s", json!({"data": "x", "keyid": "masterKey0", "iv": "!"})),
            secret(
                "s",
                json!({"data": "x", "keyid": "masterKey0", "iv": "AAECAwQFBgc="}),
            ),
            secret(
                "s",
                json!({"data": "x", "keyid": "masterKey0", "iv": VECTOR}),
            ),
            secret(
                "s",
                json!({"data": "0".repeat(32), "keyid": "masterKey0", "iv": VECTOR}),
            ),
            // With the key as another secret says it.
            secret("key", json!({"data": KEY, "format": "base64"})),
            secret(
                "s0",
                json!({"file": "{dir}/encrypted", "format": "base64", "keyid": "key", "iv": VECTOR}),
            ),
            // What was encrypted is no key.
            secret(
                "s1",
                json!({"data": ENCRYPTED, "format": "base64", "keyid": "s0", "iv": VECTOR}),
            ),
            get("s0", "file"),
            get("s0", "data"),
            set("s0", "loaded", json!(true)),
            secret(
                "s2",
                json!({"data": "x", "keyid": "nosecret", "iv": VECTOR}),
            ),
            add("iothread", "thread", json!({})),
            secret("s2", json!({"data": "x", "keyid": "thread", "iv": VECTOR})),
            secret("s2", json!({"data": "eA==\n", "format": "base64"})),
            get("s2", "data"),
            get("s2", "format"),
            del("key"),
            del("key"),
            secret(
                "s3",
                json!({"data": ENCRYPTED, "format": "base64", "keyid": "key", "iv": VECTOR}),
            ),
        ],
    );
}

/// The same by lines of the human monitor.
#[test]
fn lines_about_objects_say_the_same() {
    let lines = [
        "object_add",
        "object_add   ",
        "object_add iothread",
        "object_add nix,id=a",
        "object_add iothread,id=a,x=y",
        "object_add iothread,id=a,poll-max-ns=-1",
        "object_add iothread,id=a,poll-max-ns=q",
        "object_add {",
        "object_add qom-type=iothread,id=a",
        "object_add iothread,id=a",
        "object_add {\"qom-type\":\"iothread\",\"id\":\"b\"}",
        "object_add memory-backend-ram,id=m,size=1M,host-nodes.0=0,policy=bind",
        "object_add secret,id=s,data=a\"b\u{e4}",
        "qom-set",
        "qom-set /objects/a",
        "qom-set /objects/a poll-max-ns",
        "qom-set /objects/a poll-max-ns xx",
        "qom-set /objects/a poll-max-ns -5",
        "qom-set /objects/a poll-max-ns 5 6",
        "qom-set /objects/a poll-max-ns 0x10",
        "qom-get /objects/a poll-max-ns",
        "qom-set -j /objects/a poll-max-ns 5",
        "qom-get a poll-max-ns",
        "qom-set -j /objects/a poll-max-ns \"5\"",
        "qom-set -j /objects/a poll-max-ns {",
        "qom-set -j /objects/a poll-max-ns 5 6",
        "qom-set -x /objects/a poll-max-ns 5",
        "qom-set /nix x y",
        "qom-set /objects/a x y",
        "qom-set /machine type y",
        "qom-set m size 5",
        "qom-set m merge maybe",
        "qom-set m merge off",
        "qom-get m merge",
        "qom-set -j m merge true",
        "qom-get m merge",
        "qom-get m host-nodes",
        "qom-get m policy",
        "qom-get m size",
        "qom-get s data",
        "qom-get /objects/pc.ram host-nodes",
        "qom-get /machine memory-backend",
        "qom-get /machine/peripheral type",
        "qom-get /nix x",
        "qom-get /objects/a nix",
        "qom-get /objects/a",
        "qom-list",
        "qom-list /nix",
        "qom-list /machine/peripheral",
        "qom-list /a /b",
        "object_del",
        "object_del nix",
        "object_del pc.ram",
        "object_del m x",
        "object_del m",
        "object_del m",
        "object_del b",
        "info iothreads x",
        "info memdev x",
    ];
    let lines = lines.map(|line| ("human-monitor-command", json!({"command-line": line})));
    compare_answers("commands-object-lines", passive, &lines);

    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-object", "iothread,id=io,poll-grow=3"])
            .start();
        let mut client = negotiated(&instance);
        let thread = ask(&mut client, "query-iothreads")[0]["thread-id"].clone();
        let info = json!({"command-line": "info iothreads"});
        assert_eq!(
            command_with(&mut client, "human-monitor-command", info),
            format!(
                "io:\r\n  thread_id={thread}\r\n  poll-max-ns=32768\r\n  poll-grow=3\r\n  poll-shrink=0\r\n  aio-max-batch=0\r\n"
            ),
            "{emulator:?}"
        );
        let list = json!({"command-line": "qom-list /objects"});
        let text = command_with(&mut client, "human-monitor-command", list);
        let mut lines: Vec<_> = text.as_str().expect("a text").lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "io (child<iothread>)",
                "pc.ram (child<memory-backend-ram>)",
                "type (string)"
            ],
            "{emulator:?}"
        );
    }
}

/// Commands that come fast leave the main thread free, whatever a thread is told about looking for work.
#[test]
fn a_thread_that_never_sleeps_holds_nothing_up() {
    let instance = passive(Emulator::Thimble)
        .args([
            "-object",
            "iothread,id=a,poll-max-ns=9223372036854775807,poll-grow=1000000000",
        ])
        .start();
    let mut client = negotiated(&instance);
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "query-iothreads")[0]["id"], "a");
    }
    assert!(start.elapsed() < SOON);
    let (command, arguments) = del("a");
    command_with(&mut client, command, arguments);
    std::thread::sleep(NEVER);
    assert_eq!(ask(&mut client, "query-iothreads"), json!([]));
}
