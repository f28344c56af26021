//! The real-time clock: what it shows, and the interrupts that it repeats.

use qemu_tests::{Comparison, Emulator, QtestClient};
use serde_json::{Value, json};

use crate::{ask, command_with, emulators, negotiated, passive, refused};

/// Where both emulators have the clock.
const CLOCK: &str = "/machine/unattached/device[9]";

fn register(client: &mut QtestClient, index: u8) -> u8 {
    let selected = client.request(&format!("outb 0x70 {index:#x}"));
    assert_eq!(selected.expect("an answer"), "OK");
    let answer = client.request("inb 0x71").expect("an answer");
    let digits = answer.strip_prefix("OK 0x").expect("a number");
    u8::from_str_radix(digits.trim_start_matches('0'), 16).unwrap_or(0)
}

fn set(client: &mut QtestClient, index: u8, value: u8) {
    for request in [
        format!("outb 0x70 {index:#x}"),
        format!("outb 0x71 {value:#x}"),
    ] {
        assert_eq!(client.request(&request).expect("an answer"), "OK");
    }
}

/// The date as the clock's own property and the machine's, at the start, once the guest has set it, and held.
#[test]
fn the_date_is_a_property() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-rtc", "base=2020-02-29T23:59:58,clock=vm"])
            .with_qtest()
            .start();
        let mut client = negotiated(&instance);
        let mut qtest = instance.qtest();
        let mut dates = Vec::new();
        let mut look = || {
            let get = |client: &mut _, path, property| {
                command_with(
                    client,
                    "qom-get",
                    json!({"path": path, "property": property}),
                )
            };
            let date = get(&mut client, CLOCK, "date");
            assert_eq!(get(&mut client, "/machine", "rtc-time"), date);
            dates.push(date);
        };
        look();
        set(&mut qtest, 4, 0x11);
        look();
        // Held, in binary and 12-hour form, with a date that no month has.
        set(&mut qtest, 0x0b, 0x84);
        for (index, value) in [
            (0x32, 20),
            (9, 99),
            (8, 12),
            (7, 31),
            (4, 0x8b),
            (2, 7),
            (0, 59),
        ] {
            set(&mut qtest, index, value);
        }
        look();
        set(&mut qtest, 0x0b, 0x04);
        look();
        let mut errors = Vec::new();
        for (path, property) in [("/machine", "rtc-time"), (CLOCK, "date")] {
            let arguments = json!({"path": path, "property": property, "value": 0});
            errors.push(refused(&mut client, "qom-set", arguments));
        }
        let path = json!({"path": "/machine"});
        let list = command_with(&mut client, "qom-list", path);
        let list = list.as_array().expect("a list").iter();
        let kind: Vec<Value> = list.filter(|p| p["name"] == "rtc-time").cloned().collect();
        answers.push(json!([dates, errors, kind]));
    }
    let first = json!({"tm_year": 120, "tm_mon": 1, "tm_mday": 29, "tm_hour": 23, "tm_min": 59, "tm_sec": 58});
    for answer in &answers {
        assert_eq!(answer[0][0], first);
        assert_eq!(answer, &answers[0]);
    }
}

#[test]
fn lost_interrupts_are_forgotten() {
    let mut comparison = Comparison::new("commands-clock");
    let mut replies = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-rtc", "base=2020-02-29T23:59:58,clock=vm,driftfix=slew"])
            .with_qtest()
            .start();
        let mut client = negotiated(&instance);
        let policy = json!({"path": CLOCK, "property": "lost_tick_policy"});
        let policy = command_with(&mut client, "qom-get", policy);
        assert_eq!(policy, "slew");
        if emulator == Emulator::Thimble {
            // QEMU's time stands still here.
            let mut qtest = instance.qtest();
            let mut lose = || {
                register(&mut qtest, 0x0c);
                set(&mut qtest, 0x0b, 0x42);
                let stepped = qtest.request("clock_step 100000000").expect("an answer");
                assert!(stepped.starts_with("OK"), "{stepped}");
                register(&mut qtest, 0x0c) & 0xc0
            };
            assert_eq!(lose(), 0xc0);
            let mut qtest_again = || register(&mut qtest, 0x0c) & 0xc0;
            assert_eq!((qtest_again(), qtest_again()), (0xc0, 0xc0));
            assert_eq!(ask(&mut client, "rtc-reset-reinjection"), json!({}));
            // One was on its way.
            assert_eq!((qtest_again(), qtest_again()), (0xc0, 0));
        }
        let reply = ask(&mut client, "rtc-reset-reinjection").to_string();
        let error = refused(&mut client, "rtc-reset-reinjection", json!({"x": 1}));
        replies.push((reply, error));
    }
    if let [qemu, thimble] = replies.as_slice() {
        comparison.add("rtc-reset-reinjection", &qemu.0, &thimble.0);
        comparison.add("rtc-reset-reinjection x", &qemu.1, &thimble.1);
    }
    comparison.finish();
}
