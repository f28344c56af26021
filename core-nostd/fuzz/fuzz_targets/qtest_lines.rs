//! A hostile device test: raw bytes into the qtest protocol on the whole `pc` machine. Each line
//! gets one answer, `OK` or `FAIL`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::machine::qtest::Qtest;
use thimble_core::machine::{Board, Irqchip};
use thimble_fuzz::{Sink, machine, plant};

/// Bytes of one answer that a test can ask for are many; requests for more are passed over here.
const OUT_MAX: usize = 1 << 16;

/// Timers that fire one by one within one step of the clock: a test may ask for as many steps as it likes.
const FIRINGS: u32 = 100;

fuzz_target!(|bytes: &[u8]| {
    let mut machine = machine(Board::Pc, Irqchip::Machine);
    let mut host = Sink::default();
    let mut buffer = [0; 512];
    let mut qtest = Qtest::new(&mut buffer);
    qtest.firings = FIRINGS;
    let (mut clock, mut rest) = (0, bytes);
    while !rest.is_empty() {
        let mut out = String::new();
        let taken = qtest.feed(&mut machine, &mut host, &mut clock, rest, &mut out);
        assert!(taken > 0);
        let answered = out.lines().filter(|line| !line.starts_with("IRQ ")).count();
        assert_eq!(answered, usize::from(rest[..taken].ends_with(b"\n")));
        // A test has written memory and read it back.
        plant(out.starts_with("OK 0x12"));
        if out.len() > OUT_MAX {
            return;
        }
        rest = &rest[taken..];
    }
});
