//! For measurement: jumps to itself. Assembly only: `asm/spin.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!(".set PORTS, 0"; "bare.s", "spin.s");
