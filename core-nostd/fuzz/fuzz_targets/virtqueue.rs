//! Virtqueues alone, split and packed: loops, wild addresses, lengths of nothing and of everything, and saved state in the
//! middle. No panic, no hang, and no piece of memory that is not RAM.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::virtqueue::run(bytes));
