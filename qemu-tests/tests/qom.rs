//! The object model side by side: every object, property and type of Thimble is looked up in QEMU.
//!
//! Thimble models less than QEMU, so what QEMU has beyond it is not compared: the comparison asks for what Thimble shows.
//! Values are compared, too, but for those of the machine itself, which tell what is not modelled.

use std::collections::BTreeMap;
use std::time::Duration;

use qemu_tests::{Comparison, Emulator, Instance, QmpClient, packages, skip};
use serde_json::{Value, json};

/// What is started: a name for the list of differences, and options.
type Setup = (&'static str, &'static [&'static str]);

const PC: Setup = (
    "pc",
    &[
        "-M",
        "pc",
        "-m",
        "16",
        "-smp",
        "3,maxcpus=4,sockets=1,cores=2,threads=2",
        "-chardev",
        "null,id=c0",
        "-chardev",
        "null,id=c1",
        "-chardev",
        "null,id=c2",
        "-serial",
        "chardev:c0",
        "-device",
        "isa-serial,chardev=c1,id=com2,irq=5",
        "-device",
        "isa-serial,index=3,iobase=0x3e0",
        "-device",
        "isa-debugcon,chardev=c2,iobase=0x402",
        "-device",
        "isa-debug-exit,id=exit,iosize=4",
        "-device",
        "ib700,id=dog",
        "-device",
        "pvpanic,ioport=0x506,events=1",
    ],
);
/// What a PCI function stands for is an object of its own.
const DISKS: Setup = (
    "pc",
    &[
        "-M",
        "pc",
        "-blockdev",
        "null-co,node-name=n",
        "-object",
        "iothread,id=thread",
        "-device",
        "virtio-blk-pci,drive=n,id=disk,serial=S,iothread=thread",
        "-device",
        "pci-bridge,id=bridge,chassis_nr=1,shpc=off",
        "-drive",
        "if=none,id=d,driver=null-co,size=1M",
        "-device",
        "virtio-blk-pci,drive=d,bus=bridge,bootindex=5,werror=stop",
        "-drive",
        "if=virtio,driver=null-co,size=1M",
    ],
);
const MICROVM: Setup = (
    "microvm",
    &[
        "-M",
        "microvm",
        "-m",
        "16",
        "-smp",
        "2",
        "-serial",
        "null",
        "-device",
        "isa-debug-exit",
    ],
);
const EXPRESS: Setup = (
    "microvm",
    &[
        "-M",
        "microvm,pcie=on",
        "-device",
        "pci-testdev,id=test",
        "-device",
        "pci-bridge,chassis_nr=1,shpc=off",
    ],
);
const NONE: Setup = ("none", &["-M", "none"]);

/// QEMU ends when it is asked for the properties of this type; those of the object are compared in the tree.
const CRASHES: &str = "microvm-machine";

const SOON: Duration = Duration::from_secs(20);

const SETUPS: [Setup; 5] = [PC, DISKS, MICROVM, EXPRESS, NONE];

fn start(emulator: Emulator, (_, options): Setup) -> (Instance, QmpClient) {
    let instance = emulator
        .launcher()
        .args(emulator.passive_args())
        // The date is a property, too.
        .args(["-rtc", "base=2020-02-29,clock=vm"])
        .args(options)
        .with_qmp()
        .start();
    let mut client = instance.qmp();
    client.negotiate();
    (instance, client)
}

/// The result of a command, or its error's class and sentence, as one line.
fn answer(client: &mut QmpClient, command: &str, arguments: Value) -> Result<Value, String> {
    client
        .execute(command, arguments)
        .map_err(|error| error.to_string())
}

/// Properties by name; objects have each name once.
fn by_name(list: &Value) -> BTreeMap<String, Value> {
    let list = list.as_array().expect("a list");
    let named: BTreeMap<_, _> = list
        .iter()
        .map(|item| {
            (
                item["name"].as_str().expect("a name").to_string(),
                item.clone(),
            )
        })
        .collect();
    assert_eq!(named.len(), list.len(), "names are unique: {list:?}");
    named
}

fn list(client: &mut QmpClient, path: &str) -> Result<BTreeMap<String, String>, String> {
    let listed = answer(client, "qom-list", json!({"path": path}))?;
    let kind = |item: &Value| item["type"].as_str().expect("a type").to_string();
    Ok(by_name(&listed)
        .iter()
        .map(|(name, item)| (name.clone(), kind(item)))
        .collect())
}

/// The paths of all objects, in order.
fn paths(client: &mut QmpClient) -> Vec<String> {
    let mut paths = vec!["/".to_string()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        let start = path.trim_end_matches('/');
        for (name, kind) in list(client, &path).expect("an object") {
            if kind.starts_with("child<") {
                paths.push(format!("{start}/{name}"));
            }
        }
    }
    paths
}

#[test]
fn objects_are_where_qemu_has_them() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut comparison = Comparison::new("qom-tree");
    for setup in SETUPS {
        let (_qemu, mut qemu) = start(Emulator::Qemu, setup);
        let (_thimble, mut thimble) = start(Emulator::Thimble, setup);
        let paths = paths(&mut thimble);
        assert!(paths.len() > 7, "{paths:?}");
        for path in paths {
            let ours = list(&mut thimble, &path).expect("an object");
            let theirs = list(&mut qemu, &path).unwrap_or_default();
            for (property, kind) in &ours {
                let input = format!("{}: {path} {property}", setup.0);
                let absent = "absent".to_string();
                comparison.add(&input, theirs.get(property).unwrap_or(&absent), kind);
                if path == "/machine" || !theirs.contains_key(property) {
                    continue;
                }
                let arguments = json!({"path": path, "property": property});
                let [theirs, ours] = [&mut qemu, &mut thimble].map(|client| {
                    let value = answer(client, "qom-get", arguments.clone());
                    value.unwrap_or_else(Value::from).to_string()
                });
                comparison.add(&format!("{input} =",), &theirs, &ours);
            }
        }
    }
    comparison.finish();
}

#[test]
fn the_machine_tells_what_it_is_made_of() {
    for (name, options) in [
        ("pc-i440fx-7.2-machine", PC),
        ("microvm-machine", MICROVM),
        ("none-machine", NONE),
    ] {
        let both = Emulator::BOTH.map(|emulator| {
            if emulator == Emulator::Qemu && packages::qemu().is_none() {
                return None;
            }
            let instance = emulator
                .launcher()
                .args(emulator.passive_args())
                .args(options.1)
                .args(["-machine", "dump-guest-core=off,mem-merge=off,graphics=off"])
                .with_qmp()
                .start();
            let mut client = instance.qmp();
            client.negotiate();
            let mut get = |property: &str| {
                answer(
                    &mut client,
                    "qom-get",
                    json!({"path": "/machine", "property": property}),
                )
                .unwrap_or_else(|error| panic!("{property}: {error}"))
            };
            assert_eq!(get("type"), name);
            Some(
                [
                    "dump-guest-core",
                    "mem-merge",
                    "graphics",
                    "kernel",
                    "initrd",
                    "append",
                    "memory",
                    "smp",
                    "usb",
                    "peripheral",
                    "unattached",
                ]
                .map(|property| (property, get(property))),
            )
        });
        let [qemu, thimble] = both;
        let thimble = thimble.expect("it ran");
        assert_eq!(thimble[0].1, false);
        assert_eq!(thimble[1].1, false);
        match qemu {
            Some(qemu) => assert_eq!(qemu, thimble, "{name}"),
            None => qemu_tests::skip_part("qemu-system-x86 is missing"),
        }
    }
}

#[test]
fn types_are_qemus() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut comparison = Comparison::new("qom-types");
    let (_qemu, mut qemu) = start(Emulator::Qemu, PC);
    let (_thimble, mut thimble) = start(Emulator::Thimble, PC);
    let [theirs, ours] = [&mut qemu, &mut thimble].map(|client| {
        let all = answer(client, "qom-list-types", json!({"abstract": true}));
        by_name(&all.expect("types"))
    });
    assert!(ours.len() > 100);
    for (name, kind) in &ours {
        let absent = json!("absent");
        let other = theirs.get(name).unwrap_or(&absent);
        comparison.add(name, &other.to_string(), &kind.to_string());
        if *other == absent || name == CRASHES {
            continue;
        }
        for command in ["qom-list-properties", "device-list-properties"] {
            let [theirs, ours] = [&mut qemu, &mut thimble].map(|client| {
                let answer = answer(client, command, json!({"typename": name}));
                answer.map(|list| by_name(&list))
            });
            let input = format!("{command} {name}");
            match (theirs, ours) {
                (Ok(theirs), Ok(ours)) => {
                    for (property, ours) in ours {
                        let told =
                            |of: &Value| json!([of["type"], of["default-value"]]).to_string();
                        let theirs = theirs.get(&property).map(told);
                        let theirs = theirs.unwrap_or("absent".to_string());
                        comparison.add(&format!("{input} {property}"), &theirs, &told(&ours));
                    }
                }
                (theirs, ours) => {
                    let text = |answer: Result<_, String>| match answer {
                        Ok(_) => "ok".to_string(),
                        Err(error) => error,
                    };
                    comparison.add(&input, &text(theirs), &text(ours));
                }
            }
        }
    }
    let arguments = json!({"typename": CRASHES});
    let [theirs, ours] = [&mut qemu, &mut thimble].map(|client| {
        client.send_command("qom-list-properties", &arguments);
        match client.message(SOON) {
            Ok(message) => String::from(if message["return"].is_array() {
                "ok"
            } else {
                "error"
            }),
            Err(_) => "<exits>".to_string(),
        }
    });
    comparison.add(&format!("qom-list-properties {CRASHES}"), &theirs, &ours);
    comparison.finish();
}

#[test]
fn types_are_selected_as_in_qemu() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let (_qemu, mut qemu) = start(Emulator::Qemu, PC);
    let (_thimble, mut thimble) = start(Emulator::Thimble, PC);
    let names = |client: &mut QmpClient, arguments: &Value| -> Vec<String> {
        let types = answer(client, "qom-list-types", arguments.clone()).expect("types");
        by_name(&types).into_keys().collect()
    };
    let known = names(&mut thimble, &json!({"abstract": true}));
    for arguments in [
        json!({}),
        json!({"abstract": false}),
        json!({"implements": "device"}),
        json!({"implements": "device", "abstract": true}),
        json!({"implements": "isa-serial"}),
        json!({"implements": "bus"}),
        json!({"implements": "machine", "abstract": false}),
        json!({"implements": "max-x86_64-cpu"}),
        json!({"implements": "nope"}),
        json!({"implements": ""}),
    ] {
        let mut theirs = names(&mut qemu, &arguments);
        theirs.retain(|name| known.contains(name));
        let mut ours = names(&mut thimble, &arguments);
        // QEMU's has no such accelerator, as Debian builds it.
        ours.retain(|name| name != "qtest-accel");
        assert_eq!(theirs, ours, "{arguments}");
    }
}

/// Names and paths that no object has, that several have, and that one has.
const PATHS: &[&str] = &[
    "",
    "/",
    "//",
    "/machine",
    "/machine/",
    "machine",
    "peripheral",
    "com2",
    "com2/",
    "dog",
    "exit",
    "peripheral//com2",
    "/machine//peripheral",
    "/machine/../machine",
    "..",
    ".",
    "./machine",
    "/machine/.",
    "device[0]",
    "device[99]",
    "unattached",
    "unattached/device[0]",
    "/machine/unattached/device[0",
    "/machine/unattached/device[00]",
    "rtc_state",
    "/machine/rtc_state",
    "/machine/peripheral/com2/chardev",
    "type",
    "/type",
    "pci.0",
    "isa.0",
    "isa.0/child[2]",
    "parent_bus",
    "com2/parent_bus",
    "com2/parent_bus/child[2]/parent_bus",
    "/nope",
    "nope",
    "nope/",
    "sysbus",
    "objects",
    "c0",
    "chardevs/",
    "i440fx",
    "/é",
    "a\\b",
    "a'b",
    "a\"b",
    " ",
    "/machine/peripheral/com2/parent_bus",
];

#[test]
fn paths_and_errors_are_qemus() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut comparison = Comparison::new("qom-paths");
    let (_qemu, mut qemu) = start(Emulator::Qemu, PC);
    let (_thimble, mut thimble) = start(Emulator::Thimble, PC);
    let mut compare = |command: &str, arguments: Value| {
        let [theirs, ours] = [&mut qemu, &mut thimble].map(|client| {
            match answer(client, command, arguments.clone()) {
                Ok(Value::Array(_)) => "a list".to_string(),
                Ok(value) => value.to_string(),
                Err(error) => error,
            }
        });
        comparison.add(&format!("{command} {arguments}"), &theirs, &ours);
    };
    let long = "x".repeat(400);
    for path in PATHS.iter().chain([&&*long]) {
        compare("qom-list", json!({"path": path}));
        compare("qom-get", json!({"path": path, "property": "type"}));
    }
    for property in [
        "",
        "nope",
        "irq ",
        "IRQ",
        "parent_bus",
        "chardev",
        "type/",
        &long,
    ] {
        compare("qom-get", json!({"path": "com2", "property": property}));
        compare("qom-get", json!({"path": "/machine", "property": property}));
    }
    for name in [
        "",
        "nope",
        "pc",
        "ISA",
        "bus",
        "object",
        "device",
        "isa-device",
        "accel",
        &long,
    ] {
        compare("qom-list-properties", json!({"typename": name}));
        compare("device-list-properties", json!({"typename": name}));
    }
    comparison.finish();
}

/// Devices come with the machine, and that is built when `x-exit-preconfig` says so.
#[test]
fn devices_come_when_the_machine_is_built() {
    for emulator in Emulator::BOTH {
        if emulator == Emulator::Qemu && packages::qemu().is_none() {
            qemu_tests::skip_part("qemu-system-x86 is missing");
            continue;
        }
        let (_instance, mut client) = start(
            emulator,
            (
                "preconfig",
                &["--preconfig", "-device", "isa-debug-exit,id=exit"],
            ),
        );
        let exit = "/machine/peripheral/exit";
        let not_found = |path: &str| Err(format!("DeviceNotFound: Device '{path}' not found"));
        for path in [exit, "/machine/unattached/device[0]", "/objects", "isa.0"] {
            assert_eq!(list(&mut client, path), not_found(path), "{emulator:?}");
        }
        let kept = list(&mut client, "/machine").expect("the machine");
        assert_eq!(kept["unattached"], "child<container>");
        assert_eq!(
            answer(&mut client, "x-exit-preconfig", json!({})),
            Ok(json!({}))
        );
        let found = list(&mut client, exit).expect("the device");
        assert_eq!(found["iobase"], "uint32", "{emulator:?}");
        assert!(list(&mut client, "isa.0").is_ok());
    }
}

/// What management tools rely on: the path that `query-cpus-fast` tells is a processor's.
#[test]
fn processors_are_found_by_their_path() {
    for emulator in Emulator::BOTH {
        if emulator == Emulator::Qemu && packages::qemu().is_none() {
            qemu_tests::skip_part("qemu-system-x86 is missing");
            continue;
        }
        let (_instance, mut client) = start(emulator, PC);
        let cpus = answer(&mut client, "query-cpus-fast", json!({})).expect("processors");
        let cpus = cpus.as_array().expect("a list").clone();
        assert_eq!(cpus.len(), 3);
        for cpu in cpus {
            let mut get = |property: &str| {
                let arguments = json!({"path": cpu["qom-path"], "property": property});
                answer(&mut client, "qom-get", arguments).expect("a property")
            };
            assert_eq!(get("type"), "qemu64-x86_64-cpu");
            assert_eq!(get("core-id"), cpu["props"]["core-id"]);
            assert_eq!(get("thread-id"), cpu["props"]["thread-id"]);
            assert_eq!(get("apic-id"), cpu["cpu-index"]);
            assert_eq!(get("lm"), true);
        }
    }
}
