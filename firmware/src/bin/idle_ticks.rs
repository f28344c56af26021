//! For measurement: halts, with 100 interrupts of the timer a second. Assembly only: `asm/idle.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!(".set TICKS, 1"; "bare.s", "idle.s");
