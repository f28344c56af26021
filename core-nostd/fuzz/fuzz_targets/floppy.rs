//! A hostile driver of floppy drives: registers, commands, the DMA controller and other media, with a block layer that
//! fails now and then. No panic, and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::floppy::run(bytes));
