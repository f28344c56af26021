//! A hostile driver of IDE disks and drives for CDs: registers, tables of the bus master, packets and trays, with a block
//! layer that fails now and then. No panic, and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::drives::ata(bytes));
