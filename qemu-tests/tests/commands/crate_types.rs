//! The crate `qapi-qmp` as an independent client: its types make the requests and decode the replies.
//!
//! Its version is the one that was made from QEMU 7.2's schema.

use qapi_qmp::{QapiCapabilities, QmpCommand};
use qemu_tests::{Instance, QmpClient};
use serde_json::{Value, json};

use crate::{SOON, emulators, negotiated, passive};

/// A connection that speaks with the crate's types only.
struct Client<'c> {
    client: &'c mut QmpClient,
    instance: &'c Instance,
    known: Vec<String>,
}

impl Client<'_> {
    /// Runs the command, unless the emulator doesn't list it.
    fn run<C: QmpCommand>(&mut self, command: C) -> Option<C::Ok> {
        if !self.known.iter().any(|name| name == C::NAME) {
            return None;
        }
        let request = qapi_spec::Execute::with_id(command, C::NAME);
        let request = serde_json::to_vec(&request).expect("a request");
        self.client.send_raw(&request).expect("a connection");
        loop {
            let line = self.client.line(SOON).expect("a reply");
            let text = String::from_utf8_lossy(&line);
            let told = |error: &dyn std::fmt::Display| -> ! {
                panic!("{}: {error}: {text}\n{}", C::NAME, self.instance.report())
            };
            match serde_json::from_slice(&line) {
                Ok(qapi_qmp::QmpMessage::<C::Ok>::Response(response)) => {
                    assert_eq!(response.id(), Some(&json!(C::NAME)));
                    return Some(response.result().unwrap_or_else(|error| told(&error)));
                }
                Ok(qapi_qmp::QmpMessage::Event(_)) => {}
                Err(error) => told(&error),
            }
        }
    }
}

#[test]
fn greetings_and_replies_are_of_the_crates_types() {
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-smp", "2", "-name", "guest"])
            .args(["-device", "isa-debug-exit,id=exit,iobase=0x501"])
            .start();
        let client = instance.qmp();
        let greeting: QapiCapabilities =
            serde_json::from_value(client.greeting().clone()).expect("a greeting");
        assert_eq!(greeting.QMP.capabilities.len(), 1);
        assert_eq!(greeting.QMP.version.qemu.major, 7);
        drop(client);

        let client = &mut negotiated(&instance);
        let list = crate::ask(client, "query-commands");
        let names = list.as_array().into_iter().flatten();
        let known = names
            .filter_map(|entry| entry["name"].as_str().map(String::from))
            .collect();
        let mut client = Client {
            client,
            instance: &instance,
            known,
        };
        let commands = client.run(qapi_qmp::query_commands {}).expect("always");
        assert_eq!(commands.len(), client.known.len());
        let version = client.run(qapi_qmp::query_version {}).expect("always");
        assert_eq!((version.qemu.major, version.qemu.minor), (7, 2));
        let state = client.run(qapi_qmp::query_status {}).expect("always");
        assert_eq!(state.status, qapi_qmp::RunState::prelaunch);
        let name = client.run(qapi_qmp::query_name {}).expect("always");
        assert_eq!(name.name.as_deref(), Some("guest"));
        let uuid = client.run(qapi_qmp::query_uuid {}).expect("always");
        assert_eq!(uuid.UUID.len(), 36);
        let kvm = client.run(qapi_qmp::query_kvm {}).expect("always");
        assert!(kvm.present && !kvm.enabled);
        let schema = client.run(qapi_qmp::query_qmp_schema {}).expect("always");
        assert!(schema.len() > client.known.len());
        let target = client.run(qapi_qmp::query_target {}).expect("always");
        assert_eq!(target.arch, qapi_qmp::SysEmuTarget::x86_64);
        let machines = client.run(qapi_qmp::query_machines {}).expect("always");
        assert_eq!(
            machines
                .iter()
                .filter(|m| m.is_default == Some(true))
                .count(),
            1
        );
        client
            .run(qapi_qmp::query_current_machine {})
            .expect("always");
        // The crate's union knows one architecture only, and not this one.
        let list = crate::ask(client.client, "query-cpus-fast");
        let processors: Vec<qapi_qmp::CpuInfoFastBase> =
            serde_json::from_value(list).expect("processors");
        assert_eq!(processors.len(), 2);
        let place = processors[1].props.as_ref().expect("a place");
        assert_eq!((place.socket_id, place.core_id), (Some(0), Some(1)));
        let options = client
            .run(qapi_qmp::query_command_line_options { option: None })
            .expect("always");
        assert!(options.iter().any(|option| option.option == "name"));
        let types = client
            .run(qapi_qmp::qom_list_types {
                abstract_: Some(false),
                implements: Some("isa-device".into()),
            })
            .expect("always");
        assert!(types.iter().any(|kind| kind.name == "isa-debug-exit"));
        let path = || "/machine/peripheral/exit".to_string();
        let properties = client
            .run(qapi_qmp::qom_list { path: path() })
            .expect("always");
        assert!(properties.iter().any(|property| property.name == "iobase"));
        let value: Value = client
            .run(qapi_qmp::qom_get {
                path: path(),
                property: "iobase".into(),
            })
            .expect("always");
        assert_eq!(value, 0x501);
        let typename = || "isa-debug-exit".to_string();
        let of_type = client
            .run(qapi_qmp::qom_list_properties {
                typename: typename(),
            })
            .expect("always");
        assert!(of_type.iter().any(|property| property.type_ == "uint32"));
        let of_device = client
            .run(qapi_qmp::device_list_properties {
                typename: typename(),
            })
            .expect("always");
        assert_eq!(of_device.len(), 2);
        let capabilities = client
            .run(qapi_qmp::query_migrate_capabilities {})
            .expect("always");
        client
            .run(qapi_qmp::migrate_set_capabilities {
                capabilities: capabilities.into_iter().take(0).collect(),
            })
            .expect("always");
        let yankable = client.run(qapi_qmp::query_yank {}).expect("always");
        assert!(!yankable.is_empty());
        client
            .run(qapi_qmp::yank { instances: vec![] })
            .expect("always");

        let file = instance.dir().join("saved");
        let filename = || file.to_str().expect("a plain path").to_string();
        client
            .run(qapi_qmp::memsave {
                cpu_index: Some(1),
                filename: filename(),
                size: 16,
                val: 0,
            })
            .expect("always");
        client
            .run(qapi_qmp::pmemsave {
                filename: filename(),
                size: 32,
                val: 0,
            })
            .expect("always");
        assert_eq!(std::fs::read(&file).expect("the file").len(), 32);
        client
            .run(qapi_qmp::set_action {
                panic: Some(qapi_qmp::PanicAction::none),
                reboot: Some(qapi_qmp::RebootAction::reset),
                shutdown: None,
                watchdog: Some(qapi_qmp::WatchdogAction::inject_nmi),
            })
            .expect("always");
        client
            .run(qapi_qmp::watchdog_set_action {
                action: qapi_qmp::WatchdogAction::debug,
            })
            .expect("always");
        client.run(qapi_qmp::inject_nmi {}).expect("always");
        client.run(qapi_qmp::system_reset {}).expect("always");
        client.run(qapi_qmp::cont {}).expect("always");
        client.run(qapi_qmp::stop {}).expect("always");
        client.run(qapi_qmp::quit {}).expect("always");
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    }
}

#[test]
fn events_are_of_the_crates_types() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        for command in ["cont", "stop", "system_reset", "quit"] {
            client.send_command(command, &json!({}));
        }
        let mut events = Vec::new();
        while let Ok(line) = client.line(SOON) {
            let message: qapi_qmp::QmpMessageAny =
                serde_json::from_slice(&line).unwrap_or_else(|error| {
                    panic!("{emulator:?}: {error}: {}", String::from_utf8_lossy(&line))
                });
            if let qapi_qmp::QmpMessage::Event(event) = message {
                events.push(event);
            }
        }
        use qapi_qmp::Event::{RESET, RESUME, SHUTDOWN, STOP};
        assert!(
            matches!(
                events.as_slice(),
                [RESUME { .. }, STOP { .. }, RESET { .. }, SHUTDOWN { data, .. }]
                    if !data.guest && data.reason == qapi_qmp::ShutdownCause::host_qmp_quit
            ),
            "{emulator:?}: {events:?}"
        );
    }
}
