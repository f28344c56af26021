//! Keys that a client types arrive in Debian's Linux: its driver for PS/2 keyboards tells of each press and release.

use std::time::Duration;

use qemu_tests::linux_guest::LinuxGuest;
use qemu_tests::{ask_both, packages, skip};
use serde_json::{Value, json};

/// Names of keys that a PS/2 keyboard has, one press each, and what Linux calls them (`input-event-codes.h`).
const KEYS: [(&str, u16); 30] = [
    ("esc", 1),
    ("1", 2),
    ("minus", 12),
    ("backspace", 14),
    ("tab", 15),
    ("q", 16),
    ("bracket_left", 26),
    ("ret", 28),
    ("ctrl", 29),
    ("a", 30),
    ("apostrophe", 40),
    ("grave_accent", 41),
    ("shift", 42),
    ("backslash", 43),
    ("m", 50),
    ("slash", 53),
    ("shift_r", 54),
    ("kp_multiply", 55),
    ("alt", 56),
    ("spc", 57),
    ("f1", 59),
    ("f10", 68),
    ("kp_7", 71),
    ("f12", 88),
    ("kp_enter", 96),
    ("ctrl_r", 97),
    ("kp_divide", 98),
    ("up", 103),
    ("delete", 111),
    ("meta_l", 125),
];

/// More of what clients send: several keys at once, numbers, and single events.
fn commands() -> Vec<(&'static str, Value)> {
    let key = |name: &str| json!({"type": "qcode", "data": name});
    let send = |keys: Vec<Value>| ("send-key", json!({"keys": keys, "hold-time": 20}));
    let mut all: Vec<_> = KEYS.iter().map(|(name, _)| send(vec![key(name)])).collect();
    all.push(send(vec![key("shift"), key("t")]));
    // Set 1's code of "h", and the one of "end" behind E0h.
    all.push(send(vec![json!({"type": "number", "data": 0x23})]));
    all.push(send(vec![json!({"type": "number", "data": 0xcf})]));
    for down in [true, false] {
        let event = json!({"type": "key", "data": {"down": down, "key": key("i")}});
        all.push(("input-send-event", json!({"events": [event]})));
    }
    all
}

/// Presses and releases of these commands, the auto-repeat of a slow host aside.
const EVENTS: usize = 2 * (KEYS.len() + 2 + 1 + 1 + 1);

#[test]
fn keys_arrive_in_linux() {
    const MISSING: &str = "the Debian packages qemu-system-x86, linux-image-cloud-amd64 and busybox-static can't be had";
    if packages::qemu().is_none() || packages::linux_with(&["evdev"]).is_none() {
        return skip(MISSING);
    }
    if packages::busybox().is_none() {
        return skip(MISSING);
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let mut guest = LinuxGuest::start(emulator.launcher(), &["evdev"]).expect("a kernel");
        guest.run(
            "for e in /sys/class/input/event*; do grep -q 'AT Translated' $e/device/name && \
             keys=/dev/input/${e##*/}; done; cat $keys > /keys &",
        );
        guest.run("while ! ls -l /proc/*/fd 2>/dev/null | grep -q /dev/input; do sleep 0.1; done");
        for (command, arguments) in commands() {
            assert_eq!(guest.qmp.execute(command, arguments), Ok(json!({})));
            // Keys of several commands wait for one another; let each be over.
            std::thread::sleep(Duration::from_millis(60));
        }
        // A press has three events: its code, itself, and that this was all.
        let wanted = EVENTS * 3 * 24;
        guest.run(&format!(
            "while [ $(stat -c %s /keys) -lt {wanted} ]; do sleep 0.1; done"
        ));
        let dump = guest.run(r#"hexdump -v -e '24/1 "%02x" "\n"' /keys"#);
        let number = |line: &str, at: usize| {
            let byte = |at| u16::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("a byte");
            byte(at) | byte(at + 1) << 8
        };
        let events = dump
            .lines()
            .map(|line| [16, 18, 20].map(|at| number(line, at)));
        // Presses and releases of keys.
        let events = events.filter(|[kind, _, value]| *kind == 1 && *value < 2);
        events
            .map(|[_, code, value]| (code, value))
            .collect::<Vec<_>>()
    });
    assert_eq!(qemu, thimble);
    let once = |code: u16| [(code, 1), (code, 0)];
    let names = KEYS.iter().flat_map(|(_, code)| once(*code));
    let expected: Vec<_> = names
        .chain([(42, 1), (20, 1), (20, 0), (42, 0)])
        .chain([35, 107, 23].into_iter().flat_map(once))
        .collect();
    let sorted = |mut events: Vec<_>| {
        // The order in which keys pressed together come up is not the point here.
        events.sort_unstable();
        events
    };
    assert_eq!(sorted(thimble), sorted(expected));
}
