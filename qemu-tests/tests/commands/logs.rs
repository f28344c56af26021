//! `-d in_asm,int,exec,cpu` of the software CPU beside QEMU's, on the same guests.

use std::collections::BTreeSet;

use qemu_tests::{Emulator, QmpClient};
use serde_json::json;

use crate::{SOON, command_with, emulators, negotiated, roms, wait_console, with_rom_under};

/// What is logged while a guest comes to its point.
fn log_of(emulator: Emulator, rom: &[u8], items: &str) -> String {
    let instance = with_rom_under(emulator, rom, "tcg")
        .args(["-d", items, "-D", "{dir}/log"])
        .start();
    let mut client: QmpClient = negotiated(&instance);
    wait_console(&instance, "P");
    command_with(&mut client, "quit", json!({}));
    assert!(instance.wait(SOON).success());
    std::fs::read_to_string(instance.dir().join("log")).expect("a log")
}

/// Addresses, bytes and instructions, with single spaces.
fn instructions(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter(|line| line.starts_with("0x"));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Vector, error code, INT n or not, level, RIP, stack, and RAX or CR2 of what was delivered.
fn deliveries(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once(" v="));
    lines
        .map(|(_, line)| {
            // RAX has another name in QEMU's.
            let (head, last) = line.rsplit_once(' ').expect("words");
            let (name, value) = last.split_once('=').expect("a value");
            let name = if name == "CR2" { name } else { "RAX" };
            format!("v={head} {name}={value}")
        })
        .collect()
}

/// What QEMU's log, which has no deliveries of real mode, tells of exceptions.
fn exceptions(log: &str) -> Vec<u8> {
    let lines = log
        .lines()
        .filter(|line| line.starts_with("check_exception"));
    let vectors = lines.filter_map(|line| line.rsplit_once("0x"));
    vectors
        .map(|(_, vector)| u8::from_str_radix(vector, 16).expect("a vector"))
        .collect()
}

fn vectors(deliveries: &[String], software: &str) -> Vec<u8> {
    deliveries
        .iter()
        .filter(|line| line.contains(software))
        .map(|line| u8::from_str_radix(&line[2..4], 16).expect("a vector"))
        .collect()
}

/// The same code is seen, in whatever pieces: none that did not run, and all that did.
fn check_code(rom: &[u8], least: usize) {
    let codes: Vec<_> = emulators()
        .into_iter()
        .map(|emulator| instructions(&log_of(emulator, rom, "in_asm")))
        .collect();
    for code in &codes {
        assert!(code.len() > least, "{code:#?}");
        let [first, last] = [&codes[0], code];
        let difference: Vec<_> = first.symmetric_difference(last).collect();
        assert!(difference.is_empty(), "{difference:#?}");
    }
}

#[test]
fn code_of_real_mode_is_the_same() {
    check_code(&roms::vectors_16(), 30);
}

#[test]
fn code_of_long_mode_is_the_same() {
    check_code(&roms::vectors_64(), 60);
}

#[test]
fn deliveries_of_real_mode_are_the_same() {
    for emulator in emulators() {
        let log = log_of(emulator, &roms::vectors_16(), "int");
        match emulator {
            Emulator::Qemu => assert_eq!(exceptions(&log), [0, 6]),
            Emulator::Thimble => {
                let deliveries = deliveries(&log);
                assert_eq!(vectors(&deliveries, " i=0 "), [0, 6], "{log}");
                assert_eq!(vectors(&deliveries, " i=1 "), [0x40, 3], "{log}");
            }
        }
    }
}

#[test]
fn deliveries_of_long_mode_are_the_same() {
    let logs: Vec<_> = emulators()
        .into_iter()
        .map(|emulator| deliveries(&log_of(emulator, &roms::vectors_64(), "int")))
        .collect();
    for log in &logs {
        let vectors = vectors(log, "v=");
        assert_eq!(vectors, [0x40, 3, 0, 6, 13, 14, 13], "{log:#?}");
        assert_eq!(*log, logs[0]);
    }
}

/// Blocks begin where they were listed, and each comes with its registers.
#[test]
fn blocks_are_entered() {
    let log = log_of(Emulator::Thimble, &roms::vectors_64(), "in_asm,exec,cpu");
    let listed: BTreeSet<&str> = log
        .split("IN: \n")
        .skip(1)
        .filter_map(|block| block.split_once(':').map(|(address, _)| address))
        .map(|address| address.trim_start_matches("0x").trim_start_matches('0'))
        .collect();
    let entered: BTreeSet<&str> = log
        .lines()
        .filter_map(|line| line.strip_prefix("Trace 0: ["))
        .map(|rest| rest.trim_end_matches(']').trim_start_matches('0'))
        .collect();
    assert!(entered.len() > 20, "{log}");
    assert_eq!(entered, listed);
    let times = |text| log.matches(text).count();
    assert_eq!(times("Trace 0: ["), times("\nRIP="));
}
