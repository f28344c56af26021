//! Parser and writer against serde_json, wherever QEMU's dialect is plain JSON. QEMU's own answers
//! are tested beside the session, in `monitor/tests/wire`.

use std::boxed::Box;
use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;
use serde_json::Value as Reference;

use super::{ParseError, Parser, Sink, SinkFull, Writer, write_json, write_value};

struct Bytes(Vec<u8>);

impl Sink for Bytes {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Parses one whole message and prints it again.
fn print(parser: &mut Parser, input: &[u8]) -> Result<String, ParseError> {
    parser.reset();
    let progress = parser.push(input);
    progress.message.unwrap_or(Err(ParseError::Premature))?;
    if progress.consumed < input.len() {
        return Err(ParseError::Premature);
    }
    let mut out = Bytes(Vec::new());
    write_value(&mut out, parser.message()).unwrap();
    Ok(String::from_utf8(out.0).unwrap())
}

fn parser() -> Box<Parser> {
    Box::new(Parser::new())
}

/// Any JSON value whose strings hold no noncharacters.
fn json() -> impl Strategy<Value = Reference> {
    let leaf = prop_oneof![
        Just(Reference::Null),
        any::<bool>().prop_map(Reference::from),
        any::<i64>().prop_map(Reference::from),
        any::<u64>().prop_map(Reference::from),
        (-1e300..1e300).prop_map(Reference::from),
        "[a-z\\\\\"/\u{1}-\u{1f}\u{7f}-\u{2ff}\u{10000}-\u{1fffd}]{0,8}".prop_map(Reference::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Reference::from),
            prop::collection::btree_map("[a-c\"\u{e4}]{0,3}", inner, 0..6)
                .prop_map(|map| Reference::Object(map.into_iter().collect())),
        ]
    })
}

/// Equality where whole doubles, printed without a fraction, are integers to the reader, and where
/// the reader may be off in a double's last place.
fn same(a: &Reference, b: &Reference) -> bool {
    match (a, b) {
        (Reference::Array(a), Reference::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Reference::Object(a), Reference::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }
        (Reference::Number(x), Reference::Number(y)) if x.is_f64() || y.is_f64() => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            (x - y).abs() <= x.abs() * 1e-15
        }
        _ => a == b,
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(value in json()) {
        let mut parser = parser();
        let input = format!("[{value}]");
        let printed = print(&mut parser, input.as_bytes()).unwrap();
        let read: Reference = serde_json::from_str(&printed).unwrap();
        prop_assert!(same(&read[0], &value), "{}", printed);
        prop_assert_eq!(print(&mut parser, printed.as_bytes()).unwrap(), printed);
    }

    #[test]
    fn both_accept_the_same(tokens in prop::collection::vec(prop::sample::select(&[
        "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"\\u00e4\"", "\"\\ud83d\\ude00\"",
        "\"\\ud800\"", "\"\\x\"", "\"", "\\", "0", "-", "1.5", "e3", ".", "01", "true", "nul", " ",
        "\n", "\t", "\u{b}", "\u{0}", "\u{7f}", "\u{e4}", "x",
    ][..]), 0..12)) {
        let input = format!("[{}]", tokens.concat());
        let ours = print(&mut parser(), input.as_bytes());
        // The differences on purpose: names are unique, and a lone zero has no exponent, as QEMU has it.
        if ours != Err(ParseError::DuplicateKey) && !input.contains("0e3") {
            let reference = serde_json::from_str::<Reference>(&input).ok();
            let ours = ours.ok().map(|text| serde_json::from_str(&text).unwrap());
            let agree = match (&ours, &reference) {
                (Some(ours), Some(reference)) => same(ours, reference),
                _ => ours == reference,
            };
            prop_assert!(agree, "{}: {:?} against {:?}", input, ours, reference);
        }
    }

    #[test]
    fn doubles_keep_their_value(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let mut out = Bytes(Vec::new());
        Writer::new(&mut out).float(value).unwrap();
        let text = String::from_utf8(out.0).unwrap();
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
    }
}

#[test]
fn values_are_found_and_read() {
    let mut parser = parser();
    let input = b"{'a': [1, {'b': []}, 'x'], 'c': 18446744073709551615, 'd': -1.5, 'e': true}";
    assert_eq!(parser.push(input).message, Some(Ok(())));
    let root = parser.message();
    let list = root.get(b"a").unwrap();
    assert_eq!(list.elements().count(), 3);
    assert_eq!(list.elements().last().unwrap().str(), Some("x"));
    assert_eq!(list.members().count(), 0);
    let c = root.get(b"c").unwrap();
    assert_eq!((c.int(), c.uint()), (None, Some(u64::MAX)));
    assert_eq!(root.get(b"d").unwrap().float(), Some(-1.5));
    assert_eq!(root.get(b"e").unwrap().bool(), Some(true));
    assert!(root.get(b"f").is_none());
    let names: Vec<_> = root.members().map(|(name, _)| name[0]).collect();
    assert_eq!(names, b"acde");
    let object = list.elements().nth(1).unwrap();
    assert_eq!(object.get(b"b").unwrap().elements().count(), 0);
}

#[test]
fn a_zero_character_is_no_text() {
    let mut parser = parser();
    assert_eq!(parser.push(b"'a\\u0000'").message, Some(Ok(())));
    assert_eq!(parser.message().bytes(), Some(b"a\xc0\x80".as_slice()));
    assert_eq!(parser.message().str(), None);
}

#[test]
fn json_becomes_ascii() {
    let mut out = Bytes(Vec::new());
    write_json(
        &mut out,
        "{\"caf\u{e9}\": \"\u{1f600}\\n\u{7f}\"}".as_bytes(),
    )
    .unwrap();
    assert_eq!(out.0, br#"{"caf\u00E9": "\uD83D\uDE00\n\u007F"}"#);
}
