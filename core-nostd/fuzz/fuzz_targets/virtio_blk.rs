//! A hostile driver of virtio disks: registers of both kinds, and split and packed rings with anything in them, over a block
//! layer that fails now and then. No panic, and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::drives::virtio(bytes));
