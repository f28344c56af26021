//! For measurement: writes to a port without end. Assembly only: `asm/spin.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!(".set PORTS, 1"; "bare.s", "spin.s");
