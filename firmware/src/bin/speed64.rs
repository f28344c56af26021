//! For measurement: phases of 64-bit code that say how many instructions they run. Assembly only: `asm/speed64.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "phase.s", "speed64.s");
