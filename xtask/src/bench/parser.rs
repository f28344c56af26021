//! The JSON parser by itself, in this process, beside serde_json: both as this program is built.

use std::hint::black_box;
use std::time::{Duration, Instant};

use thimble_core::qmp::Parser;

use super::{Bench, Pair, Row, row};

/// How long one run lasts.
const RUN: Duration = Duration::from_millis(20);

/// Bytes that a parser is given at a time, as if they came from a socket.
const PIECE: usize = 4096;

/// A text, and its parts that are whole messages: several, as a parser for documents needs them.
struct Corpus {
    name: &'static str,
    messages: Vec<String>,
}

/// What clients send: small commands, a large structure, long strings, numbers.
fn corpora() -> [Corpus; 4] {
    let commands = [
        "{\"execute\": \"query-status\"}",
        "{\"execute\": \"qom-get\", \"arguments\": {\"path\": \"/machine\", \"property\": \"type\"}, \"id\": \"libvirt-12\"}",
        "{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"qcow2\", \"node-name\": \"disk0\", \
         \"read-only\": false, \"cache\": {\"direct\": true, \"no-flush\": false}, \
         \"file\": {\"driver\": \"file\", \"filename\": \"/var/lib/images/disk0.qcow2\"}}, \"id\": 13}",
        "{\"exec-oob\": \"yank\", \"arguments\": {\"instances\": [{\"type\": \"chardev\", \"id\": \"c0\"}]}}",
    ];
    let string = "a".repeat(60_000);
    let number = "1234567890.5e-3, -42, 18446744073709551615, ".repeat(500);
    let nested = "{\"a\": [true, false, null, {\"b\": []}], \"name\": \"caf\\u00e9 \\\"quoted\\\" \u{e9}\"}, ";
    [
        Corpus {
            name: "commands",
            messages: commands.iter().map(|text| text.to_string()).collect(),
        },
        Corpus {
            name: "a string of 60 KB",
            messages: vec![format!("{{\"x\": \"{string}\"}}")],
        },
        Corpus {
            name: "numbers",
            messages: vec![format!("[{number}0]")],
        },
        Corpus {
            name: "nested values",
            messages: vec![format!("[{}0]", nested.repeat(250))],
        },
    ]
}

/// Bytes a second that `parse` gets through; it takes all messages once.
fn speed(bytes: usize, mut parse: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    parse()?;
    let started = Instant::now();
    let mut rounds = 0;
    while started.elapsed() < RUN {
        for _ in 0..8 {
            parse()?;
        }
        rounds += 8;
    }
    Ok((rounds * bytes) as f64 / started.elapsed().as_secs_f64())
}

fn ours(parser: &mut Parser, text: &[u8], messages: usize) -> Result<(), String> {
    let mut found = 0;
    for mut piece in text.chunks(PIECE) {
        while !piece.is_empty() {
            let progress = parser.push(piece);
            piece = piece.get(progress.consumed..).unwrap_or_default();
            match progress.message {
                Some(Ok(())) => {
                    black_box(parser.message().kind());
                    found += 1;
                }
                Some(Err(error)) => return Err(format!("the parser: {error:?}")),
                None => {}
            }
        }
    }
    match found == messages {
        true => Ok(()),
        false => Err(format!("the parser: {found} messages, not {messages}")),
    }
}

fn theirs(messages: &[String]) -> Result<(), String> {
    for message in messages {
        let value: serde_json::Value =
            serde_json::from_str(message).map_err(|error| format!("serde_json: {error}"))?;
        black_box(value);
    }
    Ok(())
}

/// Megabytes a second of either, a row for each kind of text.
pub(super) fn throughput(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut parser = Box::new(Parser::new());
    let mut rows = Vec::new();
    for Corpus { name, messages } in corpora() {
        let text = messages.concat();
        let mut both = Pair {
            thimble: Vec::new(),
            qemu: Vec::new(),
        };
        for _ in 0..bench.runs {
            let bytes = text.len();
            both.thimble.push(speed(bytes, || {
                ours(&mut parser, text.as_bytes(), messages.len())
            })?);
            both.qemu.push(speed(bytes, || theirs(&messages))?);
        }
        let medians = both.medians();
        let mut row = row(
            &format!("parser, {name}"),
            &medians,
            |rate| format!("{:.0} MB/s", rate / 1e6),
            None,
        );
        row.qemu = format!("serde_json: {}", row.qemu);
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_read_every_text() {
        let mut parser = Box::new(Parser::new());
        for Corpus { name, messages } in corpora() {
            let text = messages.concat();
            assert_eq!(
                ours(&mut parser, text.as_bytes(), messages.len()),
                Ok(()),
                "{name}"
            );
            assert_eq!(theirs(&messages), Ok(()), "{name}");
            parser.reset();
        }
    }
}
