//! query-pci and `info pci`, before and after a guest has set devices up; what `-device` says of places that can't be had; and
//! expansion ROMs.

use std::time::Duration;

use qemu_tests::{Emulator, Instance, Launcher, QtestClient};
use serde_json::json;

use crate::{ask, command_with, compare, emulators, negotiated, passive};

/// Two bridges, one below the other, and devices on all three buses.
const DEVICES: [&str; 7] = [
    "pci-bridge,chassis_nr=1,id=one,shpc=off",
    "pci-bridge,chassis_nr=2,id=two,shpc=off,bus=one,addr=3",
    "pci-testdev,membar=1M,id=test,bus=one,addr=5",
    "pci-serial,bus=two,addr=1.1,multifunction=on",
    "pci-serial-4x,bus=two,addr=1,multifunction=on",
    "i6300esb,id=watchdog,addr=1f",
    "pci-serial,addr=7",
];

fn with_devices(emulator: Emulator) -> Launcher {
    let devices = DEVICES.into_iter().flat_map(|device| ["-device", device]);
    passive(emulator).args(devices).with_qtest()
}

/// Writes a doubleword of configuration space.
fn configure(client: &mut QtestClient, at: (u32, u32, u32), register: u32, value: u32) {
    let (bus, device, function) = at;
    let address = 1 << 31 | bus << 16 | device << 11 | function << 8 | register;
    for request in [
        format!("outl 0xcf8 {address:#x}"),
        format!("outl 0xcfc {value:#x}"),
    ] {
        assert_eq!(client.request(&request).expect("an answer"), "OK");
    }
}

/// What firmware would do.
fn set_up(client: &mut QtestClient) {
    let (one, two, test) = ((0, 2, 0), (1, 3, 0), (1, 5, 0));
    configure(client, one, 0x18, 0x0002_0100);
    configure(client, one, 0x1c, 0x0000_d0c0);
    configure(client, one, 0x20, 0xfe10_fe00);
    configure(client, one, 0x24, 0xe01f_e001);
    configure(client, two, 0x18, 0x0002_0201);
    configure(client, two, 0x1c, 0x0000_d0d0);
    configure(client, test, 0x10, 0xfe00_0000);
    configure(client, test, 0x14, 0xc000);
    configure(client, test, 0x18, 0xe000_0000);
    configure(client, (2, 1, 0), 0x10, 0xd000);
    configure(client, (2, 1, 1), 0x10, 0xd100);
    configure(client, (2, 1, 0), 0x3c, 0x0b);
    for at in [one, two, test, (2, 1, 0)] {
        configure(client, at, 4, 3);
    }
}

fn info_pci(instance: &Instance) -> String {
    let arguments = json!({"command-line": "info pci"});
    let mut client = negotiated(instance);
    let text = command_with(&mut client, "human-monitor-command", arguments);
    let text = text.as_str().expect("a text");
    text.to_owned()
}

#[test]
fn buses_are_shown_as_the_guest_has_set_them_up() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_devices(emulator).start();
        let mut client = negotiated(&instance);
        let mut qtest = instance.qtest();
        let before = ask(&mut client, "query-pci");
        drop(client);
        let text_before = info_pci(&instance);
        set_up(&mut qtest);
        let mut client = negotiated(&instance);
        let after = ask(&mut client, "query-pci");
        drop(client);
        let bridge = &after[0]["devices"][4]["pci_bridge"];
        assert_eq!(bridge["bus"]["subordinate"], 2, "{emulator:?}: {after}");
        let below = &bridge["devices"][0]["pci_bridge"]["devices"];
        assert_eq!(below[0]["irq"], 11, "{emulator:?}: {after}");
        assert_eq!(bridge["devices"][1]["regions"][2]["size"], 1 << 20);
        answers.push((before, after, text_before, info_pci(&instance)));
    }
    if let [qemu, thimble] = &answers[..] {
        assert_eq!(qemu.0, thimble.0, "before");
        assert_eq!(qemu.1, thimble.1, "after");
        assert_eq!(qemu.2, thimble.2, "before, as text");
        assert_eq!(qemu.3, thimble.3, "after, as text");
    }
}

#[test]
fn a_board_without_pci_has_none() {
    for emulator in emulators() {
        let launcher = emulator.launcher().args(emulator.passive_args());
        let instance = launcher.args(["-M", "microvm"]).with_qmp().start();
        let mut client = negotiated(&instance);
        assert_eq!(ask(&mut client, "query-pci"), json!([]), "{emulator:?}");
    }
}

/// Devices in the object tree: their places there, their buses, and their properties.
#[test]
fn devices_stand_in_the_tree() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_devices(emulator).start();
        let mut client = negotiated(&instance);
        let mut get = |path: &str, property: &str| {
            let arguments = json!({"path": path, "property": property});
            let value = command_with(&mut client, "qom-get", arguments);
            (format!("{path} {property}"), value.to_string())
        };
        let two = "/machine/peripheral/two";
        answers.push(vec![
            get(two, "addr"),
            get(two, "parent_bus"),
            get(two, "multifunction"),
            get(two, "chassis_nr"),
            get(two, "romfile"),
            get(two, "romsize"),
            get(two, "rombar"),
            get(two, "hotpluggable"),
            get("/machine/peripheral/two/two", "type"),
            get("/machine/peripheral/two/two", "child[0]"),
            get("/machine/peripheral/two/two", "child[1]"),
            get("/machine/peripheral/one/one", "child[1]"),
            get("/machine/peripheral-anon/device[0]", "addr"),
            get("/machine/peripheral-anon/device[0]", "multifunction"),
            get("/machine/peripheral-anon/device[1]", "type"),
            get("/machine/peripheral-anon/device[2]", "addr"),
            get("/machine/peripheral-anon/device[2]", "prog_if"),
            get("/machine/peripheral-anon/device[2]", "parent_bus"),
            get("/machine/peripheral/test", "membar"),
            get("/machine/peripheral/watchdog", "type"),
        ]);
    }
    compare("qom-pci", &answers);
}

#[test]
fn places_that_cannot_be_had_are_named_as_by_qemu() {
    let cases: &[&[&str]] = &[
        &["pci-bridge"],
        &["pci-bridge,chassis_nr=0"],
        &["pci-serial,addr=1"],
        &["pci-serial,addr=33"],
        &["pci-serial,addr=5.9"],
        &["pci-serial,addr=xx"],
        &["pci-serial,addr="],
        &["pci-serial,addr=-1"],
        &["pci-serial,bus=foo"],
        &["pci-serial,bus=pci"],
        &["pci-serial,bus=isa.0"],
        &["isa-debug-exit,bus=pci.0"],
        &["isa-debug-exit,addr=3"],
        &["pci-serial,foo=1"],
        &["pci-serial,bootindex=1"],
        &["pci-serial,romsize=3"],
        &["pci-serial,romfile=nope"],
        &["pci-serial,romfile=/dev/null"],
        &["pci-serial,romfile=/etc/passwd,romsize=16"],
        &["pci-serial,addr=4.1", "pci-serial,addr=4.0"],
        &["pci-serial,addr=4", "pci-serial,addr=4.1"],
        &["i6300esb,id=dog,addr=6", "pci-testdev,addr=6"],
        &[
            "pci-bridge,chassis_nr=1,shpc=off",
            "pci-serial,bus=pci.1,addr=1",
            "pci-serial,bus=pci.1,addr=1",
        ],
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let says = |case: &&[&str]| {
            let devices = case.iter().flat_map(|device| ["-device", device]);
            let instance = passive(emulator).args(devices).start();
            let status = instance.wait(Duration::from_secs(20));
            assert_eq!(status.code(), Some(1), "{}", instance.report());
            let text = instance.stderr();
            let said = text.split_once(": ").map_or(&*text, |(_, said)| said);
            (case.join(" "), said.trim_end().to_string())
        };
        answers.push(cases.iter().map(says).collect());
    }
    compare("commands-pci-errors", &answers);
}

#[test]
fn expansion_roms_are_in_their_range() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let launcher = passive(emulator).with_qtest();
        let image: Vec<u8> = (0..5000_u32).map(|byte| (byte * 7) as u8).collect();
        std::fs::write(launcher.dir().join("a-rom-in-a-file.bin"), image).expect("a file");
        let instance = launcher
            .args(["-device", "pci-testdev,romfile={dir}/a-rom-in-a-file.bin"])
            .start();
        let mut qtest = instance.qtest();
        let mut asked = Vec::new();
        let at = (0, 2, 0);
        configure(&mut qtest, at, 0x30, 0xffff_ffff);
        asked.push("inl 0xcfc");
        let mut seen = vec![qtest.request("inl 0xcfc").expect("an answer")];
        configure(&mut qtest, at, 0x30, 0xfe00_0001);
        configure(&mut qtest, at, 4, 2);
        for request in [
            "read 0xfe000000 32",
            "readl 0xfe001385",
            "readl 0xfe001388",
            "readl 0xfe001ffc",
            "readl 0xfe002000",
            "writel 0xfe000000 0",
            "readq 0xfe000001",
        ] {
            asked.push(request);
            seen.push(qtest.request(request).expect("an answer"));
        }
        let mut client = negotiated(&instance);
        let list = ask(&mut client, "query-pci");
        let devices = list[0]["devices"].as_array().expect("devices");
        asked.push("regions");
        seen.push(devices.last().expect("a device")["regions"].to_string());
        let pairs = asked.into_iter().map(String::from).zip(seen);
        answers.push(pairs.collect::<Vec<_>>());
    }
    compare("commands-pci-rom", &answers);
}
