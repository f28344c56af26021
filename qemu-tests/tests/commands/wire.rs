//! What a monitor does with bytes that the list of byte strings doesn't have: a request cut at every place, and events that come too fast.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{SOON, console, emulators, negotiated, passive, roms, with_rom};

/// Every kind of token, escape and length of a character, and two commands.
const REQUESTS: &str = "{'execute': \"query-name\", \"id\": [\"\\u00e9\\ud83d\\ude00\\n\\\"\", -12, 1.5e3, true, null, \
                        {\"\u{e9}\u{20ac}\u{1f600}\": 18446744073709551615}]}\r\n {\"execute\": \"query-uuid\"}";

#[test]
fn a_request_may_be_cut_anywhere() {
    let mut whole = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).args(["-name", "guest"]).start();
        let mut client = negotiated(&instance);
        let bytes = REQUESTS.as_bytes();
        for cut in 0..=bytes.len() {
            client.send_raw(&bytes[..cut]).expect("a connection");
            // The other end reads what there is.
            std::thread::sleep(Duration::from_millis(1));
            client.send_raw(&bytes[cut..]).expect("a connection");
            let replies: Vec<Value> = (0..2)
                .map(|_| client.message(SOON).expect("a reply"))
                .collect();
            whole.push(json!(replies).to_string());
        }
    }
    assert!(whole[0].contains("guest") && whole[0].contains("UUID"));
    whole.dedup();
    assert_eq!(whole.len(), 1, "{whole:?}");
}

/// A third of a megabyte of requests at once: every one gets its reply, in order.
#[test]
fn many_requests_in_one_go_are_answered_in_order() {
    const COUNT: usize = 300;
    for emulator in emulators() {
        let instance = passive(emulator).args(["-name", "guest"]).start();
        let mut client = negotiated(&instance);
        let long = "x".repeat(1000);
        let requests: String = (0..COUNT)
            .map(|number| json!({"execute": "query-name", "id": [number, long]}).to_string())
            .collect();
        client.send_raw(requests.as_bytes()).expect("a connection");
        for number in 0..COUNT {
            let reply = client.message(SOON).expect("a reply");
            assert_eq!(
                reply,
                json!({"return": {"name": "guest"}, "id": [number, long]})
            );
        }
    }
}

/// A guest that sets its clock time and again: no more than one event a second, and the last of all is the last that is told.
#[test]
fn events_that_come_too_fast_are_thinned() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::clock_setter())
            .args(["-S", "-rtc", "base=2020-06-15T10:30:30"])
            .start();
        let mut client = negotiated(&instance);
        let begin = Instant::now();
        client.send_command("cont", &json!({}));
        let mut changes = Vec::new();
        while begin.elapsed() < Duration::from_millis(3500) {
            let Ok(message) = client.message(Duration::from_millis(500)) else {
                continue;
            };
            if message["event"] == "RTC_CHANGE" {
                // The event's own time is when it happened, and not when it was told.
                changes.push((begin.elapsed(), message["data"]["offset"].clone()));
            }
        }
        assert_eq!(console(&instance), "C");
        // The first at once, and the last after its second.
        assert_eq!(changes.len(), 2, "{emulator:?}: {changes:?}");
        let [(first, _), (last, offset)] = changes.as_slice() else {
            unreachable!("two");
        };
        let apart = *last - *first;
        assert!(
            apart > Duration::from_millis(900),
            "{emulator:?}: {changes:?}"
        );
        // From 10 to 23 o'clock.
        let hours = offset.as_i64().expect("a number");
        assert!(
            (13 * 3600 - 60..13 * 3600 + 60).contains(&hours),
            "{emulator:?}: {changes:?}"
        );
    }
}
