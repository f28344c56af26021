//! system_wakeup, SUSPEND, SUSPEND_DISK and WAKEUP: guests that put themselves to sleep, and what wakes them up.

use qemu_tests::{Emulator, Instance, QmpClient, packages, skip};
use serde_json::{Value, json};

use crate::{
    SOON, ask, command_with, console, counts, doubleword, emulators, events, negotiated, passive,
    refused, roms, status, wait_console, with_rom,
};

const ASLEEP: &str = "GenericError: Unable to wake up: guest is not in suspended state";

fn wait(client: &mut QmpClient, name: &str) -> Value {
    client.wait_event(name, SOON)["data"].clone()
}

/// A guest that has put itself to sleep.
fn asleep(emulator: Emulator) -> (Instance, QmpClient) {
    let instance = with_rom(emulator, &roms::sleeper()).args(["-S"]).start();
    let mut client = negotiated(&instance);
    ask(&mut client, "cont");
    wait(&mut client, "SUSPEND");
    (instance, client)
}

#[test]
fn a_guest_sleeps_until_it_is_woken() {
    for emulator in emulators() {
        let (instance, mut client) = asleep(emulator);
        assert_eq!(console(&instance), "S");
        assert_eq!(status(&mut client), "suspended");
        // Nothing but what wakes it up lets it go on.
        for command in ["cont", "stop", "inject-nmi"] {
            assert_eq!(ask(&mut client, command), json!({}));
            assert_eq!(status(&mut client), "suspended", "{emulator:?} {command}");
        }
        assert_eq!(ask(&mut client, "system_powerdown"), json!({}));
        assert_eq!(events(&mut client), [json!(["POWERDOWN", null])]);
        assert!(!counts(&instance, &mut client), "{emulator:?}");
        assert_eq!(
            command_with(
                &mut client,
                "human-monitor-command",
                json!({"command-line": "info status"})
            ),
            "VM status: paused (suspended)\r\n"
        );
        assert_eq!(ask(&mut client, "system_wakeup"), json!({}));
        wait(&mut client, "WAKEUP");
        // It sleeps again, and the alarm of its clock wakes it up.
        wait(&mut client, "SUSPEND");
        wait(&mut client, "WAKEUP");
        wait_console(&instance, "SWBWRG");
        assert_eq!(status(&mut client), "running");
        assert!(counts(&instance, &mut client), "states that are none");
        assert_eq!(refused(&mut client, "system_wakeup", json!({})), ASLEEP);
        // A reset ends no sleep of its own.
        ask(&mut client, "system_reset");
        wait(&mut client, "SUSPEND");
        ask(&mut client, "system_reset");
        let reset = wait(&mut client, "RESET");
        assert_eq!(
            reset,
            json!({"guest": false, "reason": "host-qmp-system-reset"})
        );
        assert_eq!(status(&mut client), "prelaunch");
        assert_eq!(doubleword(&instance, &mut client, 0x504), 4);
        assert_eq!(refused(&mut client, "system_wakeup", json!({})), ASLEEP);
        // To disk: a power-off.
        ask(&mut client, "cont");
        wait(&mut client, "SUSPEND_DISK");
        let shutdown = wait(&mut client, "SHUTDOWN");
        assert_eq!(
            shutdown,
            json!({"guest": true, "reason": "guest-shutdown"}),
            "{emulator:?}"
        );
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    }
}

#[test]
fn a_sleeping_guest_is_woken_by_the_human_monitor_and_ended_by_quit() {
    for emulator in emulators() {
        let (_instance, mut client) = asleep(emulator);
        let wakeup = json!({"command-line": "system_wakeup"});
        assert_eq!(
            command_with(&mut client, "human-monitor-command", wakeup),
            ""
        );
        wait(&mut client, "WAKEUP");
        let (instance, mut client) = asleep(emulator);
        assert_eq!(ask(&mut client, "quit"), json!({}));
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    }
}

#[test]
fn keys_and_buttons_wake_a_sleeping_guest() {
    for emulator in emulators() {
        let key = json!({"type": "qcode", "data": "a"});
        let event = json!({"type": "key", "data": {"down": true, "key": key}});
        let button = |name| json!({"type": "btn", "data": {"button": name, "down": true}});
        for (command, arguments) in [
            ("send-key", json!({"keys": [key]})),
            ("input-send-event", json!({"events": [event]})),
            ("input-send-event", json!({"events": [button("left")]})),
            (
                "human-monitor-command",
                json!({"command-line": "mouse_button 4"}),
            ),
        ] {
            let (instance, mut client) = asleep(emulator);
            // Neither a movement nor the wheel does.
            let axis = json!({"type": "rel", "data": {"axis": "x", "value": 3}});
            for event in [axis, button("wheel-up")] {
                let moved = json!({"events": [event]});
                command_with(&mut client, "input-send-event", moved);
                assert_eq!(status(&mut client), "suspended", "{emulator:?}");
            }
            command_with(&mut client, command, arguments);
            wait(&mut client, "WAKEUP");
            crate::wait_until("why", || console(&instance).starts_with("SWB"));
        }
    }
}

/// What hides a state from guests leaves it where it is; another number of it moves it.
#[test]
fn properties_tell_guests_and_move_the_suspend_to_disk() {
    for emulator in emulators() {
        let globals = ["disable_s3=1", "disable_s4=1", "s4_val=6"];
        let mut launcher = passive(emulator).with_qtest();
        for global in globals {
            launcher = launcher.args(["-global", &format!("PIIX4_PM.{global}")]);
        }
        let instance = launcher.start();
        let mut client = negotiated(&instance);
        let machine = ask(&mut client, "query-current-machine");
        assert_eq!(machine, json!({"wakeup-suspend-support": true}));
        let mut qtest = instance.qtest();
        for request in [
            "outl 0xcf8 0x80000b40",
            "outl 0xcfc 0x601",
            "outl 0xcf8 0x80000b80",
            "outl 0xcfc 0x1",
            "outw 0x604 0x2800",
            "outw 0x604 0x3c00",
        ] {
            assert_eq!(qtest.request(request).expect("an answer"), "OK");
        }
        assert!(events(&mut client).is_empty(), "{emulator:?}");
        assert_eq!(qtest.request("outw 0x604 0x3800").expect("alive"), "OK");
        wait(&mut client, "SUSPEND_DISK");
        wait(&mut client, "SHUTDOWN");
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    }
}

/// Where the FACS is, and what CMOS needs for it: as a guest finds it.
fn facs(instance: &Instance, client: &mut QmpClient) -> u32 {
    let shadow = crate::physical(instance, client, 0xe_0000, 0x2_0000);
    let mut places = (0..shadow.len()).step_by(16);
    let rsdp = places.find(|at| shadow[*at..].starts_with(b"RSD PTR "));
    let rsdp = 0xe_0000 + rsdp.expect("an RSDP") as i64;
    let rsdt = i64::from(doubleword(instance, client, rsdp + 16));
    let tables = (doubleword(instance, client, rsdt + 4) - 36) / 4;
    for index in 0..i64::from(tables) {
        let table = doubleword(instance, client, rsdt + 36 + 4 * index);
        let name = doubleword(instance, client, table.into()).to_le_bytes();
        if &name == b"FACP" {
            return doubleword(instance, client, i64::from(table) + 36);
        }
    }
    panic!("no FADT");
}

/// SeaBIOS lets a guest go on at the vector that it has put down.
#[test]
fn seabios_finds_the_waking_vector() {
    let Some(bios) = packages::seabios() else {
        return skip("the Debian package seabios is missing");
    };
    let bios = std::fs::read(bios).expect("an image");
    for emulator in emulators() {
        // Protected mode and much more: not what KVM runs everywhere.
        let launcher = crate::with_rom_under(emulator, &bios, "tcg");
        let instance = launcher.with_qtest().start();
        let mut client = negotiated(&instance);
        if emulator == Emulator::Thimble {
            ask(&mut client, "cont");
        }
        let come = || console(&instance).contains("No bootable device");
        let deadline = std::time::Instant::now() + 6 * SOON;
        while !come() {
            assert!(
                std::time::Instant::now() < deadline,
                "{}",
                console(&instance)
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let facs = facs(&instance, &mut client);
        let mut qtest = instance.qtest();
        // mov $0x402, %dx; mov $'#', %al; out %al, %dx; hlt
        for request in [
            "write 0x8000 0x9 0xba0204b023eef4ebfd".to_string(),
            format!("writel {:#x} 0x8000", facs + 12),
            "outw 0x604 0x2400".to_string(),
        ] {
            assert_eq!(qtest.request(&request).expect("an answer"), "OK");
        }
        wait(&mut client, "SUSPEND");
        assert!(!console(&instance).ends_with('#'));
        ask(&mut client, "system_wakeup");
        wait(&mut client, "WAKEUP");
        crate::wait_until("the guest goes on", || console(&instance).ends_with('#'));
        assert!(events(&mut client).is_empty(), "{emulator:?}");
    }
}

const GUID: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";

#[test]
fn the_generation_is_what_the_device_has() {
    for emulator in emulators() {
        let info = json!({"command-line": "info vm-generation-id"});
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let missing = "VM Generation ID device not found";
        assert_eq!(
            refused(&mut client, "query-vm-generation-id", json!({})),
            format!("GenericError: {missing}")
        );
        let said = command_with(&mut client, "human-monitor-command", info.clone());
        assert_eq!(said, format!("Error: {missing}\r\n"));
        let device = format!("vmgenid,guid={GUID},id=g");
        let instance = passive(emulator).args(["-device", &device]).start();
        let mut client = negotiated(&instance);
        let found = ask(&mut client, "query-vm-generation-id");
        assert_eq!(found, json!({"guid": GUID}), "{emulator:?}");
        let said = command_with(&mut client, "human-monitor-command", info);
        assert_eq!(said, format!("{GUID}\r\n"));
        let property = json!({"path": "/machine/peripheral/g", "property": "guid"});
        assert_eq!(command_with(&mut client, "qom-get", property), GUID);
        // By chance: two of them differ.
        let random = || {
            let instance = passive(emulator).args(["-device", "vmgenid"]).start();
            let mut client = negotiated(&instance);
            ask(&mut client, "query-vm-generation-id")["guid"].clone()
        };
        let (first, second) = (random(), random());
        assert_ne!(first, second);
        for guid in [first, second] {
            let text = guid.as_str().expect("a text");
            assert_eq!((text.len(), &text[14..15]), (36, "4"), "{emulator:?}");
        }
        for (device, reason) in [
            (
                "vmgenid,guid=x",
                "Property 'vmgenid.guid' doesn't take value 'x'",
            ),
            (
                "vmgenid,guid=",
                "Property 'vmgenid.guid' doesn't take value ''",
            ),
        ] {
            let instance = passive(emulator).args(["-device", device]).start();
            assert_eq!(instance.wait(SOON).code(), Some(1));
            assert!(instance.stderr().contains(reason), "{}", instance.report());
        }
        let twice = ["-device", "vmgenid", "-device", "vmgenid"];
        let instance = passive(emulator).args(twice).start();
        assert_eq!(instance.wait(SOON).code(), Some(1));
        let reason = "at most one vmgenid device is permitted";
        assert!(instance.stderr().contains(reason), "{}", instance.report());
    }
}
