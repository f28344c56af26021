//! Every opcode with every ModRM byte and the prefixes that matter, in all three modes, against iced-x86.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use super::oracle::compare;
use super::*;

const MODES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

/// Prefixes before each opcode.
const PREFIXES: [&[u8]; 14] = [
    &[],
    &[0x66],
    &[0xf3],
    &[0xf2],
    &[0x66, 0xf3],
    &[0x66, 0xf2],
    &[0x67],
    &[0xf0],
    &[0x48],
    &[0x66, 0x48],
    &[0xf3, 0x48],
    &[0xf2, 0x4f],
    &[0x41],
    &[0x2e, 0x44],
];

/// Compares what begins with an opcode of one map, in all modes, with all ModRM bytes.
fn map(escape: &[u8]) {
    let mut differences = BTreeMap::<String, (usize, String)>::new();
    for mode in MODES {
        for prefix in PREFIXES {
            for opcode in 0..=0xff {
                for modrm in 0..=0xff {
                    let bytes = [
                        prefix,
                        escape,
                        &[opcode, modrm, 0x85, 0xf1, 0x82, 0x73, 0xe4],
                        &[0x55, 0x46, 0xb7, 0x28],
                    ]
                    .concat();
                    if let Err(difference) = compare(&bytes, mode) {
                        let key = std::format!("{escape:02x?} {opcode:02x}");
                        let entry = differences.entry(key).or_insert((0, difference));
                        entry.0 += 1;
                    }
                }
            }
        }
    }
    let all: Vec<_> = differences
        .iter()
        .map(|(key, (count, first))| std::format!("{key} x{count}: {first}"))
        .collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn the_one_byte_map_agrees() {
    map(&[]);
}

#[test]
fn the_two_byte_map_agrees() {
    map(&[0x0f]);
}

#[test]
fn the_three_byte_maps_agree() {
    map(&[0x0f, 0x38]);
    map(&[0x0f, 0x3a]);
}
