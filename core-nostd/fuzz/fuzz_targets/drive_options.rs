//! `-drive`, `-blockdev`, `-device` and their kin as the process parses them, by lines of text. Nothing is opened. No panic,
//! and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::options::drives(bytes));
