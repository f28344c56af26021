//! Several monitors, capabilities of migration, and yank: connections that drop, and those that stand.

use std::io::Read;
use std::os::unix::net::UnixStream;

use qemu_tests::Emulator;
use serde_json::{Value, json};

use crate::{
    NEVER, SOON, ask, command_with, connect, emulators, ends, events, negotiated, out_of_band,
    passive, refused, roms, status, with_rom,
};

#[test]
fn each_monitor_negotiates_for_itself_and_all_hear_the_events() {
    for emulator in emulators() {
        let mut launcher = passive(emulator);
        for number in 0..3 {
            let monitor = format!("unix:{{dir}}/monitor{number},server=on,wait=off");
            launcher = launcher.args(["-qmp", &monitor]);
        }
        let instance = launcher.start();
        let mut first = negotiated(&instance);
        let mut plain = connect(&instance, "monitor0");
        plain.negotiate();
        let mut with_oob = connect(&instance, "monitor1");
        command_with(
            &mut with_oob,
            "qmp_capabilities",
            json!({"enable": ["oob"]}),
        );
        let mut silent = connect(&instance, "monitor2");

        // Out of band is for the one that has asked for it.
        let request = json!({"exec-oob": "query-yank", "id": 1}).to_string();
        for (client, allowed) in [(&mut plain, false), (&mut with_oob, true)] {
            client.send_raw(request.as_bytes()).expect("a connection");
            let reply = client.message(SOON).expect("a reply");
            assert_eq!(
                reply.get("return").is_some(),
                allowed,
                "{emulator:?}: {reply}"
            );
        }
        ask(&mut first, "cont");
        ask(&mut plain, "stop");
        ask(&mut with_oob, "system_reset");
        let expected = [
            json!(["RESUME", null]),
            json!(["STOP", null]),
            json!(["RESET", {"guest": false, "reason": "host-qmp-system-reset"}]),
        ];
        for client in [&mut first, &mut plain, &mut with_oob] {
            assert_eq!(events(client), expected, "{emulator:?}");
        }
        assert!(silent.message(NEVER).is_err(), "not before negotiation");
        assert_eq!(
            refused(&mut silent, "query-status", json!({})),
            "CommandNotFound: Expecting capabilities negotiation with 'qmp_capabilities'"
        );
        silent.negotiate();
        assert_eq!(events(&mut silent), [""; 0], "what is past is past");

        // One that leaves comes back to a greeting, without what it had negotiated.
        drop(with_oob);
        let mut again = connect(&instance, "monitor1");
        assert!(again.greeting()["QMP"]["capabilities"].is_array());
        refused(&mut again, "query-status", json!({}));
        again.negotiate();
        again.send_raw(request.as_bytes()).expect("a connection");
        let reply = again.message(SOON).expect("a reply");
        assert!(reply.get("error").is_some(), "{emulator:?}: {reply}");
    }
}

/// The guest sends without an end over its serial port; yank takes its reader's connection away, and a new one gets on.
#[test]
fn yank_drops_a_connection_and_no_more() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::serial())
            .args([
                "-chardev",
                "socket,id=line,path={dir}/line,server=on,wait=off",
            ])
            .args(["-serial", "chardev:line"])
            .start();
        let mut client = out_of_band(&instance);
        let listed = |client: &mut qemu_tests::QmpClient| {
            let list = ask(client, "query-yank");
            let wanted = json!({"type": "chardev", "id": "line"});
            list.as_array().expect("a list").contains(&wanted)
        };
        assert!(listed(&mut client), "{emulator:?}");
        let path = instance.dir().join("line");
        for round in 0..3 {
            let mut line = UnixStream::connect(&path).expect("a connection");
            line.set_read_timeout(Some(SOON)).expect("a socket");
            let mut bytes = [0; 64];
            line.read_exact(&mut bytes).expect("the guest's bytes");
            assert_eq!(bytes, [b's'; 64]);
            // A yank of nothing takes nothing.
            command_with(&mut client, "yank", json!({"instances": []}));
            line.read_exact(&mut bytes).expect("the guest's bytes");
            let arguments = json!({"instances": [{"type": "chardev", "id": "line"}]});
            if round == 1 {
                let request = json!({"exec-oob": "yank", "id": "now", "arguments": arguments});
                let request = request.to_string();
                client.send_raw(request.as_bytes()).expect("a connection");
                let reply = client.message(SOON).expect("a reply");
                assert_eq!(reply, json!({"return": {}, "id": "now"}));
            } else {
                assert_eq!(command_with(&mut client, "yank", arguments), json!({}));
            }
            assert!(ends(&mut line, SOON), "{emulator:?}: the connection stands");
            assert_eq!(status(&mut client), "running");
        }
        assert!(listed(&mut client), "{emulator:?}");
    }
}

/// One unknown instance, and nothing of the whole is done.
#[test]
fn a_refused_yank_drops_nothing() {
    for emulator in emulators() {
        let instance = passive(emulator)
            .args([
                "-chardev",
                "socket,id=line,path={dir}/line,server=on,wait=off",
            ])
            .args(["-serial", "chardev:line"])
            .start();
        let mut client = negotiated(&instance);
        let mut line = UnixStream::connect(instance.dir().join("line")).expect("a connection");
        let yank = |instances: Value| json!({"instances": instances});
        let ours = json!({"type": "chardev", "id": "line"});
        for (other, text) in [
            (
                json!({"type": "chardev", "id": "nosuch"}),
                "DeviceNotFound: Instance not found",
            ),
            (
                json!({"type": "migration"}),
                "DeviceNotFound: Instance not found",
            ),
            (
                json!({"type": "block-node", "node-name": "nosuch"}),
                "DeviceNotFound: Instance not found",
            ),
            (
                json!({"type": "nosuch"}),
                "GenericError: Parameter 'type' does not accept value 'nosuch'",
            ),
        ] {
            let arguments = yank(json!([ours, other]));
            assert_eq!(
                refused(&mut client, "yank", arguments),
                text,
                "{emulator:?}"
            );
        }
        assert!(!ends(&mut line, NEVER), "{emulator:?}");
        command_with(&mut client, "yank", yank(json!([ours, ours])));
        assert!(ends(&mut line, SOON), "{emulator:?}");
    }
}

/// The monitor's own connection can be yanked, too, and it listens again.
#[test]
fn a_monitor_can_be_yanked() {
    for emulator in emulators() {
        let instance = passive(emulator)
            .args([
                "-chardev",
                "socket,id=other,path={dir}/other,server=on,wait=off",
            ])
            .args(["-mon", "chardev=other,mode=control"])
            .start();
        let mut client = negotiated(&instance);
        let mut other = connect(&instance, "other");
        other.negotiate();
        let arguments = json!({"instances": [{"type": "chardev", "id": "other"}]});
        command_with(&mut client, "yank", arguments);
        assert!(other.closed(SOON), "{emulator:?}");
        let mut other = connect(&instance, "other");
        other.negotiate();
        ask(&mut other, "query-status");
    }
}

/// Every capability that is listed can be switched, or its refusal leaves it as it was; one that isn't listed can't.
#[test]
fn capabilities_of_migration_are_switched_as_listed() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let states = |client: &mut qemu_tests::QmpClient| -> Vec<(String, bool)> {
            let list = ask(client, "query-migrate-capabilities");
            let entries = list.as_array().expect("a list").iter();
            entries
                .map(|entry| {
                    let name = entry["capability"].as_str().expect("a name");
                    (name.to_string(), entry["state"].as_bool().expect("a state"))
                })
                .collect()
        };
        let before = states(&mut client);
        let set = |name: &str, state: bool| json!({"capabilities": [{"capability": name, "state": state}]});
        for (name, state) in &before {
            let reply = client.execute("migrate-set-capabilities", set(name, !state));
            let expected: Vec<_> = before
                .iter()
                .map(|(other, value)| {
                    let switched = reply.is_ok() && other == name;
                    (other.clone(), *value != switched)
                })
                .collect();
            assert_eq!(
                states(&mut client),
                expected,
                "{emulator:?} {name}: {reply:?}"
            );
            if reply.is_ok() {
                command_with(&mut client, "migrate-set-capabilities", set(name, *state));
            }
        }
        assert_eq!(states(&mut client), before);
        assert_eq!(
            command_with(
                &mut client,
                "migrate-set-capabilities",
                json!({"capabilities": []})
            ),
            json!({})
        );
        // What both know by name, and what nobody does.
        for name in ["events", "xbzrle", "nosuch", ""] {
            if before.iter().any(|(known, _)| known == name) {
                continue;
            }
            let text = refused(&mut client, "migrate-set-capabilities", set(name, true));
            assert!(text.contains(name), "{emulator:?}: {text}");
        }
        if emulator == Emulator::Qemu {
            assert!(!before.is_empty());
        }
    }
}
