//! A hostile telnet peer: raw bytes at a server, whose answers a client answers in turn.
//!
//! What must hold: what is heard was sent; each answer is a refusal or an agreement of three bytes; two ends that
//! answer each other come to an end; and once the peer is binary, every byte goes through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::formats::telnet::{ANSWERS_MAX, IAC, Received, Telnet};
use thimble_fuzz::plant;

/// What an end hears, how many breaks, and what it answers.
fn hear(telnet: &mut Telnet, bytes: &[u8]) -> (Vec<u8>, usize, Vec<u8>) {
    let (mut heard, mut breaks, mut answers) = (Vec::new(), 0, Vec::new());
    for byte in bytes {
        match telnet.receive(*byte) {
            Received::Nothing => {}
            Received::Byte(heard_byte) => {
                assert_eq!(heard_byte, *byte);
                heard.push(heard_byte);
            }
            Received::Break => breaks += 1,
            Received::Answer(answer) => {
                assert!(answer[0] == IAC && (251..=254).contains(&answer[1]));
                assert_eq!(answer[2], *byte);
                answers.extend(answer);
            }
        }
    }
    (heard, breaks, answers)
}

fuzz_target!(|bytes: &[u8]| {
    let (mut server, mut client) = (Telnet::server(), Telnet::client());
    let (heard, breaks, mut said) = hear(&mut server, bytes);
    assert!(heard.len() + 2 * breaks + said.len() <= bytes.len());
    assert!(said.len() <= 3 * usize::from(ANSWERS_MAX));
    // An agreement, a refusal, and a break between bytes.
    plant(breaks > 0 && !heard.is_empty() && said.len() > 3);
    for _ in 0..ANSWERS_MAX {
        said = hear(&mut client, &said).2;
        said = hear(&mut server, &said).2;
    }
    assert!(said.is_empty());

    let mut server = Telnet::server();
    hear(&mut server, &[IAC, 251, 0]);
    let mut sent = Vec::new();
    for byte in bytes {
        sent.push(*byte);
        if *byte == IAC {
            sent.push(IAC);
        }
    }
    assert_eq!(hear(&mut server, &sent), (bytes.to_vec(), 0, Vec::new()));
});
