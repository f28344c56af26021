//! For measurement: phases of 32-bit code that say how many instructions they run. Assembly only: `asm/speed32.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "phase.s", "speed32.s");
