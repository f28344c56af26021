//! For measurement: halts for good. Assembly only: `asm/idle.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!(".set TICKS, 0"; "bare.s", "idle.s");
