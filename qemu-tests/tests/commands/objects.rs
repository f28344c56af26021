//! qom-list-types, qom-list, qom-get, qom-list-properties and device-list-properties: the tree has what the command line asked for.

use serde_json::{Value, json};

use crate::{ask, command_with, emulators, negotiated, passive, refused};

/// The member `name` of every entry of a list, sorted.
fn names(list: &Value) -> Vec<String> {
    let entries = list.as_array().expect("a list").iter();
    let mut names: Vec<_> = entries
        .map(|entry| entry["name"].as_str().expect("a name").to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn a_device_stands_in_the_tree_with_its_values() {
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-device", "isa-debug-exit,id=one,iobase=0x501"])
            .args(["-device", "isa-debug-exit,iobase=0x601,iosize=4"])
            .start();
        let mut client = negotiated(&instance);
        let mut get = |path: &str, property: &str| {
            let arguments = json!({"path": path, "property": property});
            command_with(&mut client, "qom-get", arguments)
        };
        let named = "/machine/peripheral/one";
        assert_eq!(get(named, "iobase"), 0x501);
        assert_eq!(get(named, "iosize"), 2);
        assert_eq!(get(named, "type"), "isa-debug-exit");
        assert_eq!(get(named, "realized"), true);
        assert_eq!(get(named, "hotplugged"), false);
        let nameless = "/machine/peripheral-anon/device[0]";
        assert_eq!(get(nameless, "iobase"), 0x601, "{emulator:?}");
        assert_eq!(get(nameless, "iosize"), 4);
        // The last part of a path is enough where there is one such only.
        assert_eq!(get("one", "iobase"), 0x501);
        assert_eq!(get("/machine", "type"), "pc-i440fx-7.2-machine");
        // A child's value is its path.
        assert_eq!(get("/machine/peripheral", "one"), named);
        assert_eq!(get("/", "machine"), "/machine");

        let mut list = |path: &str| command_with(&mut client, "qom-list", json!({"path": path}));
        let child = json!({"name": "one", "type": "child<isa-debug-exit>"});
        let children = list("/machine/peripheral");
        assert!(children.as_array().expect("a list").contains(&child));
        let others = list("/machine/peripheral-anon");
        assert!(names(&others).contains(&"device[0]".to_string()));
        assert!(!names(&others).contains(&"one".to_string()));
        let listed = names(&list(named));
        let of_type = command_with(
            &mut client,
            "qom-list-properties",
            json!({"typename": "isa-debug-exit"}),
        );
        let of_type = names(&of_type);
        assert!(of_type.contains(&"iobase".to_string()), "{emulator:?}");
        for name in of_type {
            assert!(listed.contains(&name), "{emulator:?}: {name} is missing");
        }
    }
}

/// Types by ancestor and by whether they are abstract; the four answers fit together.
#[test]
fn types_are_chosen_by_ancestor() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let mut list = |arguments: Value| {
            let list = command_with(&mut client, "qom-list-types", arguments);
            names(&list)
        };
        let all = list(json!({"abstract": true}));
        let concrete = list(json!({"abstract": false}));
        assert_eq!(list(json!({})), concrete, "{emulator:?}");
        assert!(concrete.len() < all.len());
        assert!(concrete.iter().all(|name| all.contains(name)));
        for (ancestor, child, stranger) in [
            ("isa-device", "isa-debug-exit", "container"),
            ("device", "isa-serial", "pc-i440fx-7.2-machine"),
            ("machine", "none-machine", "isa-serial"),
            ("object", "container", "nosuch"),
        ] {
            let chosen = list(json!({"implements": ancestor}));
            assert!(
                chosen.iter().any(|name| name == child),
                "{emulator:?}: {child}"
            );
            assert!(!chosen.iter().any(|name| name == stranger));
            assert!(chosen.iter().all(|name| concrete.contains(name)));
            let more = list(json!({"implements": ancestor, "abstract": true}));
            assert!(more.len() >= chosen.len());
        }
        assert!(all.contains(&"isa-device".to_string()));
        assert!(!concrete.contains(&"isa-device".to_string()));
        assert_eq!(list(json!({"implements": "nosuch"})), [""; 0]);
    }
}

/// What is listed for a device class is what `-device` takes.
#[test]
fn a_classs_properties_are_listed() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let list = command_with(
            &mut client,
            "device-list-properties",
            json!({"typename": "isa-debug-exit"}),
        );
        let mut list = list.as_array().expect("a list").clone();
        list.sort_by_key(|entry| entry["name"].to_string());
        let kept: Vec<_> = list
            .iter()
            .map(|entry| json!([entry["name"], entry["type"], entry["default-value"]]))
            .collect();
        assert_eq!(
            kept,
            [
                json!(["iobase", "uint32", 0x501]),
                json!(["iosize", "uint32", 2])
            ],
            "{emulator:?}"
        );
        for (typename, text) in [
            ("nosuch", "DeviceNotFound: Device 'nosuch' not found"),
            (
                "isa-device",
                "GenericError: Parameter 'typename' expects a non-abstract device type",
            ),
            (
                "container",
                "GenericError: Parameter 'typename' expects device",
            ),
        ] {
            let arguments = json!({"typename": typename});
            let answer = client.execute("device-list-properties", arguments);
            let answer = answer.expect_err("no such device").to_string();
            if typename == "container" {
                assert!(
                    answer.starts_with("GenericError: "),
                    "{emulator:?}: {answer}"
                );
            } else {
                assert_eq!(answer, text, "{emulator:?}");
            }
        }
    }
}

#[test]
fn wrong_paths_are_refused() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        for path in [
            "/nosuch",
            "nosuch",
            "/machine/nosuch",
            "/machine/peripheral/one",
        ] {
            let text = format!("DeviceNotFound: Device '{path}' not found");
            assert_eq!(
                refused(&mut client, "qom-list", json!({"path": path})),
                text
            );
            let arguments = json!({"path": path, "property": "type"});
            assert_eq!(refused(&mut client, "qom-get", arguments), text);
        }
        assert_eq!(
            refused(
                &mut client,
                "qom-get",
                json!({"path": "/machine", "property": "nosuch"})
            ),
            "GenericError: Property 'pc-i440fx-7.2-machine.nosuch' not found"
        );
        assert_eq!(
            refused(&mut client, "qom-list", json!({"path": ""})),
            "GenericError: Path '' is ambiguous"
        );
        ask(&mut client, "query-status");
    }
}
