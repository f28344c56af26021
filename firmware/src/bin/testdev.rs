//! Uses the device `pc-testdev` and prints what it reads, for loaders that know multiboot 1.
//! Assembly only: `asm/testdev.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("print.s", "testdev.s");
