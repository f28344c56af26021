//! send-key, input-send-event, query-mice and what the human monitor has for them: which bytes the keyboard controller has for the guest
//! then, when, and what is refused.
//!
//! Where no time passes, tests are in the guest's place, over qtest; typed keys are read by a guest.

use std::time::Instant;

use qemu_tests::{Emulator, Instance, QmpClient, QtestClient};
use serde_json::{Value, json};

use crate::{
    NEVER, SOON, answer, ask, command_with, compare, console, emulators, negotiated, passive,
    refused, roms, wait_console, with_rom,
};

/// A machine that runs, with a test in the guest's place.
struct Board {
    _instance: Instance,
    client: QmpClient,
    guest: QtestClient,
}

impl Board {
    /// A pc, after its keyboard controller got these settings, and what users do.
    fn new(emulator: Emulator) -> Self {
        let launcher = passive(emulator);
        // Its processor, where it has one, waits for ever.
        std::fs::write(launcher.dir().join("rom"), vec![0xf4; 0x1_0000]).expect("a file");
        let instance = launcher.args(["-bios", "{dir}/rom"]).with_qtest().start();
        let guest = instance.qtest();
        let mut client = negotiated(&instance);
        ask(&mut client, "cont");
        Self {
            _instance: instance,
            client,
            guest,
        }
    }

    fn read(&mut self, port: u16) -> u8 {
        let reply = self.guest.request(&format!("inb {port:#x}"));
        let reply = reply.expect("an answer");
        let digits = reply.strip_prefix("OK 0x").expect("a number");
        u8::from_str_radix(&digits[digits.len() - 2..], 16).expect("a number")
    }

    fn write(&mut self, port: u16, value: u8) {
        let reply = self.guest.request(&format!("outb {port:#x} {value:#x}"));
        assert_eq!(reply.expect("an answer"), "OK");
    }

    /// What the keyboard controller has, as text: the mouse's bytes are marked.
    fn bytes(&mut self) -> String {
        let mut bytes = Vec::new();
        loop {
            let status = self.read(0x64);
            if status & 1 == 0 {
                return bytes.join(" ");
            }
            let mark = if status & 0x20 != 0 { "m" } else { "" };
            bytes.push(format!("{mark}{:02x}", self.read(0x60)));
        }
    }

    /// Sets the keyboard controller's command byte.
    fn mode(&mut self, mode: u8) {
        self.write(0x64, 0x60);
        self.write(0x60, mode);
    }

    fn keyboard(&mut self, bytes: &[u8]) -> String {
        for byte in bytes {
            self.write(0x60, *byte);
        }
        self.bytes()
    }

    fn mouse(&mut self, bytes: &[u8]) -> String {
        for byte in bytes {
            self.write(0x64, 0xd4);
            self.write(0x60, *byte);
        }
        self.bytes()
    }

    /// Lets someone do something; the bytes that come of it.
    fn input(&mut self, events: &Value) -> String {
        let arguments = json!({"events": events});
        let reply = command_with(&mut self.client, "input-send-event", arguments);
        assert_eq!(reply, json!({}));
        self.bytes()
    }

    fn key(&mut self, key: &Value, down: bool) -> String {
        self.input(&json!([{"type": "key", "data": {"key": key, "down": down}}]))
    }

    fn named(&mut self, name: &str, down: bool) -> String {
        self.key(&json!({"type": "qcode", "data": name}), down)
    }

    /// A line of the human monitor: its answer, and the bytes.
    fn human(&mut self, line: &str) -> String {
        let arguments = json!({"command-line": line});
        let reply = command_with(&mut self.client, "human-monitor-command", arguments);
        format!("{reply} {}", self.bytes())
    }
}

/// The names of all keys, as the emulator lists them.
fn key_names(client: &mut QmpClient) -> Vec<String> {
    let schema = ask(client, "query-qmp-schema");
    let entities = schema.as_array().expect("a list").iter();
    let mut enums = entities.filter_map(|entity| entity["values"].as_array());
    let keys = enums.find(|values| values[0] == "unmapped");
    let names = keys.expect("the enumeration of keys").iter();
    names
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect()
}

/// Settings of the keyboard controller, and scan code sets, under which keys differ.
const SETTINGS: [(u8, u8); 5] = [(0x43, 2), (0x03, 1), (0x03, 2), (0x03, 3), (0x43, 3)];

#[test]
fn every_key_has_its_codes() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut board = Board::new(emulator);
        let mut seen = Vec::new();
        let names = key_names(&mut board.client);
        assert!(names.len() >= 150, "{names:?}");
        let keys = names
            .iter()
            .map(|name| json!({"type": "qcode", "data": name}))
            .chain((-1..=0x101).map(|number| json!({"type": "number", "data": number})));
        let keys: Vec<Value> = keys.collect();
        for (mode, set) in SETTINGS {
            board.mode(mode);
            board.keyboard(&[0xf0, set]);
            for key in &keys {
                let bytes = [true, false].map(|down| board.key(key, down));
                seen.push((format!("{mode:#x} {set} {key}"), bytes.join(" | ")));
            }
        }
        let translated = |input: &str| {
            let found = seen.iter().find(|(known, _)| known == input);
            found.expect("was asked").1.as_str()
        };
        let key = r#"0x43 2 {"data":"a","type":"qcode"}"#;
        assert_eq!(translated(key), "1e | 9e");
        answers.push(seen);
    }
    compare("every-key", &answers);
}

#[test]
fn held_keys_change_others() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut board = Board::new(emulator);
        let mut seen = Vec::new();
        for (mode, set) in SETTINGS {
            board.mode(mode);
            board.keyboard(&[0xf0, set]);
            for held in [
                "shift",
                "shift_r ctrl",
                "ctrl_r",
                "alt",
                "alt_r shift",
                "alt alt_r",
            ] {
                for key in ["print", "sysrq", "pause", "home", "kp_divide"] {
                    let mut bytes = Vec::new();
                    for held in held.split(' ') {
                        bytes.push(board.named(held, true));
                    }
                    bytes.push(board.named(key, true));
                    bytes.push(board.named(key, false));
                    for held in held.split(' ') {
                        bytes.push(board.named(held, false));
                    }
                    seen.push((format!("{mode:#x} {set} {held} {key}"), bytes.join(" | ")));
                }
            }
        }
        board.mode(0x43);
        board.keyboard(&[0xf0, 2]);
        // What is held is known still after commands, but not what happens while the keyboard is off.
        for command in [0xf5, 0xf4, 0xf6, 0xff] {
            let mut bytes = vec![board.named("alt", true)];
            bytes.push(board.keyboard(&[command]));
            bytes.push(board.named("print", true));
            bytes.push(board.named("alt", false));
            bytes.push(board.keyboard(&[0xf4]));
            bytes.push(board.named("print", false));
            bytes.push(board.named("alt", false));
            seen.push((format!("command {command:#x}"), bytes.join(" | ")));
        }
        board.named("alt", true);
        ask(&mut board.client, "system_reset");
        board.client.wait_event("RESET", SOON);
        seen.push(("reset".to_owned(), board.named("print", true)));
        answers.push(seen);
    }
    compare("held-keys", &answers);
}

fn key(name: &str) -> Value {
    let key = json!({"type": "qcode", "data": name});
    json!({"type": "key", "data": {"key": key, "down": true}})
}

fn button(name: &str, down: bool) -> Value {
    json!({"type": "btn", "data": {"button": name, "down": down}})
}

fn movement(axis: &str, value: i64) -> Value {
    json!({"type": "rel", "data": {"axis": axis, "value": value}})
}

#[test]
fn a_full_keyboard_loses_bytes() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut board = Board::new(emulator);
        let mut seen = Vec::new();
        board.mode(0x43);
        for (before, last) in [
            (17, "a"),
            (15, "left"),
            (14, "left"),
            (12, "print"),
            (11, "pause"),
        ] {
            // Together, so that nothing is read in between.
            let mut events = vec![key("b"); before];
            events.extend([key(last), key("c")]);
            let bytes = board.input(&json!(events));
            assert_eq!(bytes.split(' ').count(), 16, "{bytes}");
            seen.push((format!("{before} and {last}"), bytes));
        }
        // Replies have room, and take it from keys.
        board.write(0x60, 0xf2);
        let bytes = board.input(&json!(vec![key("a"); 20]));
        seen.push(("behind a reply".to_owned(), bytes));
        board.write(0x64, 0xad);
        board.input(&json!([key("left")]));
        board.write(0x64, 0xae);
        board.read(0x60);
        seen.push(("a reply between".to_owned(), board.keyboard(&[0xf2])));
        answers.push(seen);
    }
    compare("full-keyboard", &answers);
}

/// What is done with a mouse, one after the other.
fn mouse_events() -> Vec<Value> {
    let wheel = |name: &str, turns: usize| json!(vec![button(name, true); turns]);
    let mut events: Vec<Value> = [
        ("x", 5),
        ("y", 5),
        ("x", -127),
        ("x", -128),
        ("y", 129),
        ("x", 0),
        ("x", 1000),
        ("x", -365),
        ("y", (1 << 32) + 5),
        ("x", i64::MIN),
    ]
    .iter()
    .map(|(axis, by)| json!([movement(axis, *by)]))
    .collect();
    events.push(json!([]));
    events.push(json!([movement("x", 300), movement("y", -300)]));
    for down in [true, false] {
        for name in ["left", "middle", "right", "side", "extra"] {
            events.push(json!([button(name, down)]));
        }
        for name in ["wheel-up", "wheel-down", "wheel-left", "wheel-right"] {
            events.push(json!([button(name, down)]));
        }
    }
    events.push(json!([button("side", true), button("left", true)]));
    for (name, turns) in [
        ("wheel-up", 20),
        ("wheel-down", 300),
        ("wheel-left", 40),
        ("wheel-right", 33),
    ] {
        events.push(wheel(name, turns));
        events.push(wheel(name, 1));
    }
    events.push(json!([
        movement("x", 140),
        button("wheel-up", true),
        button("wheel-left", true)
    ]));
    events.push(json!([key("a"), movement("x", 1), button("left", false)]));
    events.push(json!([
        button("wheel-up", true),
        button("wheel-down", true)
    ]));
    events
}

#[test]
fn mice_tell_what_is_done_with_them() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut seen = Vec::new();
        for knock in [&[][..], &[200, 100, 80], &[200, 200, 80]] {
            let mut board = Board::new(emulator);
            for rate in knock {
                board.mouse(&[0xf3, *rate]);
            }
            let mut bytes = vec![board.mouse(&[0xf2])];
            bytes.push(board.input(&json!([button("left", true), movement("x", 3)])));
            board.mouse(&[0xf4]);
            for event in mouse_events() {
                bytes.push(board.input(&event));
            }
            // Off, remote, wrapping, and after commands: what it keeps.
            for command in [
                0xf5, 0xf0, 0xeb, 0xea, 0xee, 0xec, 0xf6, 0xf4, 0xff, 0xe9, 0xf4,
            ] {
                bytes.push(board.mouse(&[command]));
                let event = json!([button("right", true), movement("y", 140)]);
                bytes.push(board.input(&event));
            }
            // While it can't be heard it keeps reports as far as there is room, and then movements.
            board.write(0x64, 0xa7);
            for _ in 0..7 {
                bytes.push(board.input(&json!([movement("x", 100)])));
            }
            board.write(0x64, 0xa8);
            bytes.push(board.bytes());
            bytes.push(board.input(&json!([movement("x", 0)])));
            ask(&mut board.client, "system_reset");
            board.client.wait_event("RESET", SOON);
            bytes.push(board.mouse(&[0xf4, 0xe9]));
            bytes.push(board.input(&json!([movement("x", 0)])));
            let count = bytes.len();
            seen.extend((0..count).map(|at| format!("{knock:?} {at}")).zip(bytes));
        }
        answers.push(seen);
    }
    compare("mice", &answers);
}

#[test]
fn what_is_no_input_is_refused() {
    let good = json!([key("a")]);
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut seen = Vec::new();
        for board in ["pc", "microvm", "none"] {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let launcher = match board {
                "pc" => launcher.args(["-device", "pci-serial,id=there"]),
                _ => launcher,
            };
            let instance = launcher.args(["-M", board]).with_qmp().start();
            let mut client = negotiated(&instance);
            for (command, arguments) in [
                ("query-mice", json!({})),
                ("input-send-event", json!({"events": good})),
                ("input-send-event", json!({"events": []})),
                ("input-send-event", json!({"events": [], "device": "none"})),
                (
                    "input-send-event",
                    json!({"events": [], "device": "/machine"}),
                ),
                ("input-send-event", json!({"events": [], "device": ""})),
                ("send-key", json!({"keys": []})),
                (
                    "send-key",
                    json!({"keys": [{"type": "qcode", "data": "a"}], "hold-time": -1}),
                ),
                ("cont", json!({})),
                ("query-mice", json!({})),
                ("input-send-event", json!({"events": []})),
                ("input-send-event", json!({"events": good})),
                ("input-send-event", json!({"events": good, "head": 7})),
                (
                    "input-send-event",
                    json!({"events": good, "device": "there"}),
                ),
                (
                    "input-send-event",
                    json!({"events": good, "device": "there", "head": -3}),
                ),
                ("input-send-event", json!({"events": [movement("x", 1)]})),
                (
                    "input-send-event",
                    json!({"events": [button("left", true)]}),
                ),
                (
                    "input-send-event",
                    json!({"events": [key("a"), {"type": "abs", "data": {"axis": "x", "value": 1}}]}),
                ),
                ("input-send-event", json!({"events": [{"type": "touch"}]})),
                (
                    "input-send-event",
                    json!({"events": [{"type": "key", "data": {"down": true}}]}),
                ),
                ("input-send-event", json!({"events": [movement("z", 1)]})),
                (
                    "input-send-event",
                    json!({"events": [button("fourth", true)]}),
                ),
                ("input-send-event", json!({"events": [key("any")]})),
                ("send-key", json!({})),
                ("send-key", json!({"keys": ["a"]})),
                (
                    "send-key",
                    json!({"keys": [{"type": "qcode", "data": "A"}]}),
                ),
                (
                    "send-key",
                    json!({"keys": [{"type": "number", "data": 1_u64 << 40}]}),
                ),
                ("send-key", json!({"keys": [], "hold-time": "1"})),
            ] {
                let text = answer(&instance, &mut client, command, &arguments);
                seen.push((format!("{board} {command} {arguments}"), text));
            }
        }
        answers.push(seen);
    }
    compare("no-input", &answers);
}

#[test]
fn the_human_monitor_moves_the_mouse() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut board = Board::new(emulator);
        for byte in [0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf4] {
            board.mouse(&[byte]);
        }
        let mut seen = Vec::new();
        let mut ask_for = |board: &mut Board, line: &str| {
            let text = board.human(line);
            seen.push((line.to_owned(), text));
        };
        for line in [
            "info mice",
            "mouse_move",
            "mouse_move 1",
            "mouse_move 5 6",
            "mouse_move -5 -6 1",
            "mouse_move +5 6 -3",
            "mouse_move 0x10 010 0",
            "mouse_move -0x10 -019",
            "mouse_move a b c",
            "mouse_move 5x 0x",
            "mouse_move 0 0",
            "mouse_move 4294967297 0",
            "mouse_move 99999999999999999999 -99999999999999999999",
            "mouse_move 1 2 3 4",
            "mouse_button",
            "mouse_button 1",
            "mouse_button 1",
            "mouse_button 2+1",
            "mouse_button 4",
            "mouse_button 255",
            "mouse_button 248",
            "mouse_button 8",
            "mouse_button x",
            "mouse_set",
            "mouse_set 0",
            "mouse_set 1",
            "mouse_set 2",
            "mouse_set 3",
            "mouse_set 4294967295",
            "mouse_set x",
        ] {
            ask_for(&mut board, line);
        }
        // While it is stopped nothing happens, but buttons are known to be held.
        ask(&mut board.client, "stop");
        for line in ["mouse_move 1 1", "mouse_button 3", "sendkey a"] {
            ask_for(&mut board, line);
        }
        ask(&mut board.client, "cont");
        for line in ["mouse_button 3", "mouse_button 0", "mouse_move 0 0"] {
            ask_for(&mut board, line);
        }
        answers.push(seen);
    }
    compare("human-mouse", &answers);
}

/// A guest that prints what it reads from its keyboard, and `K` first.
fn typist(emulator: Emulator, args: &[&str]) -> (Instance, QmpClient) {
    let launcher = with_rom(emulator, &roms::keyboard()).args(args.iter());
    let instance = launcher.start();
    wait_console(&instance, "K");
    let client = negotiated(&instance);
    (instance, client)
}

fn send(client: &mut QmpClient, keys: &[&str], hold_time: Option<i64>) {
    let keys: Vec<_> = keys
        .iter()
        .map(|name| json!({"type": "qcode", "data": name}))
        .collect();
    let mut arguments = json!({"keys": keys});
    if let Some(time) = hold_time {
        arguments["hold-time"] = json!(time);
    }
    assert_eq!(command_with(client, "send-key", arguments), json!({}));
}

#[test]
fn keys_are_typed_one_after_the_other() {
    for emulator in emulators() {
        let (instance, mut client) = typist(emulator, &[]);
        send(&mut client, &["ctrl", "left"], None);
        wait_console(&instance, "K14E06BE0F06BF014");
        // The next keys wait for all of these.
        let start = Instant::now();
        send(&mut client, &["a", "unmapped"], Some(100));
        send(&mut client, &["b"], Some(1));
        let typed = "K14E06BE0F06BF0141CF01C32F032";
        wait_console(&instance, typed);
        assert!(start.elapsed().as_millis() >= 400, "{emulator:?}");
        // Those that change places with others don't wait. The pause behind the last one is over first.
        std::thread::sleep(NEVER);
        let start = Instant::now();
        send(&mut client, &["a"], Some(60_000));
        let events = json!({"events": [key("c")]});
        command_with(&mut client, "input-send-event", events);
        wait_console(&instance, &format!("{typed}1C21"));
        assert!(start.elapsed() < SOON, "{emulator:?}");
    }
}

#[test]
fn time_stands_while_the_machine_is_stopped() {
    for emulator in emulators() {
        let (instance, mut client) = typist(emulator, &[]);
        send(&mut client, &["a"], Some(150));
        wait_console(&instance, "K1C");
        ask(&mut client, "stop");
        // This one joins the keys that wait, and the pauses behind it are left out.
        send(&mut client, &["b"], Some(60_000));
        std::thread::sleep(2 * NEVER);
        assert_eq!(console(&instance), "K1C", "{emulator:?}");
        ask(&mut client, "cont");
        wait_console(&instance, "K1CF01C32F032");
        // With nothing before it a key is lost.
        std::thread::sleep(2 * NEVER);
        ask(&mut client, "stop");
        send(&mut client, &["c"], Some(1));
        ask(&mut client, "cont");
        send(&mut client, &["d"], Some(1));
        wait_console(&instance, "K1CF01C32F03223F023");
    }
}

/// A reset changes nothing about what is still to be typed.
#[test]
fn typed_keys_outlast_a_reset() {
    for emulator in emulators() {
        let (instance, mut client) = typist(emulator, &[]);
        send(&mut client, &["a"], Some(500));
        wait_console(&instance, "K1C");
        ask(&mut client, "system_reset");
        wait_console(&instance, "K1CKF01C");
    }
}

#[test]
fn the_human_monitor_types() {
    for emulator in emulators() {
        let (instance, mut client) = typist(emulator, &[]);
        let mut typed = String::from("K");
        let mut line = |line: &str| {
            let arguments = json!({"command-line": line});
            let reply = command_with(&mut client, "human-monitor-command", arguments);
            reply.as_str().expect("text").to_owned()
        };
        for (keys, codes) in [
            ("a", "1CF01C"),
            ("ctrl-alt-delete", "1411E071E0F071F011F014"),
            ("0x1e-0x9d 3", "1CE014E0F014F01C"),
            ("<-less 0", "6161F061F061"),
            ("unmapped-0xfff-0x-b", ""),
            ("shift_r-1 1", "5916F016F059"),
        ] {
            let reply = line(&format!("sendkey {keys}"));
            assert_eq!(reply.is_empty(), !codes.is_empty(), "{emulator:?} {keys}");
            typed.push_str(codes);
            wait_console(&instance, &typed);
        }
    }
    let lines = [
        "sendkey",
        "sendkey A",
        "sendkey ctrl-foo",
        "sendkey ctrl-",
        "sendkey --",
        "sendkey 30",
        "sendkey 0x",
        "sendkey 0X1e",
        "sendkey 0x1ez",
        "sendkey 0x-1",
        "sendkey <<",
        "sendkey a 1 2",
        "sendkey a b",
        "sendkey a -1",
        "sendkey \"a b\"",
        "info mice x",
    ];
    let commands = lines.map(|line| ("human-monitor-command", json!({"command-line": line})));
    crate::compare_answers("human-typing", passive, &commands);
}

/// Keys wake a sleeping guest up; a mouse that is off does not.
#[test]
fn keys_wake_a_sleeping_guest_up() {
    let key = json!({"type": "qcode", "data": "unmapped"});
    let release = json!([{"type": "key", "data": {"key": key, "down": false}}]);
    let mut rom = roms::sleeper();
    // It switches the mouse off instead of on: movb $0xf4, %al.
    let on = rom.windows(2).position(|code| code == [0xb0, 0xf4]);
    rom[on.expect("the mouse's command") + 1] = 0xf5;
    for emulator in emulators() {
        for (command, arguments) in [
            ("input-send-event", json!({"events": release})),
            ("send-key", json!({"keys": [key], "hold-time": 60_000})),
        ] {
            let instance = with_rom(emulator, &rom).args(["-S"]).start();
            let mut client = negotiated(&instance);
            ask(&mut client, "cont");
            client.wait_event("SUSPEND", SOON);
            let events = json!([button("left", true), movement("x", 1)]);
            command_with(&mut client, "input-send-event", json!({"events": events}));
            let seen = crate::events(&mut client);
            assert!(seen.is_empty(), "{emulator:?} {seen:?}");
            assert_eq!(command_with(&mut client, command, arguments), json!({}));
            client.wait_event("WAKEUP", SOON);
        }
    }
}

/// Here keys are refused that QEMU loses, or whose release it loses.
#[test]
fn what_waits_has_a_limit() {
    let (instance, mut client) = typist(Emulator::Thimble, &[]);
    let key = json!({"type": "qcode", "data": "a"});
    let sentence = "GenericError: more than 340 key events would wait to be typed";
    let many = |count: usize| json!({"keys": vec![key.clone(); count], "hold-time": 60_000});
    assert_eq!(refused(&mut client, "send-key", many(171)), sentence);
    command_with(&mut client, "send-key", many(170));
    for _ in 0..2 {
        assert_eq!(refused(&mut client, "send-key", many(1)), sentence);
    }
    wait_console(&instance, "K1C");
    let line = json!({"command-line": "sendkey a"});
    let reply = command_with(&mut client, "human-monitor-command", line);
    assert_eq!(
        reply,
        json!(format!("{}\r\n", sentence.replace("Generic", "")))
    );
}
