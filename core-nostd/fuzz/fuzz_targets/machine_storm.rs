//! A hostile guest: port-I/O and memory storms on the whole `pc` machine, with time, console input,
//! resets and saved state between them. No panic, and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::storm::run(bytes));
