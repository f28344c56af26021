//! A hostile driver of disks: virtqueues with anything in them, IDE registers, tables of the bus
//! master and packets, with a block layer that fails now and then. No panic, and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::drives::run(bytes));
