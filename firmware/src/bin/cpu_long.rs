//! 64-bit mode beside paging: system calls, NMI, debugging, strings. Assembly only: `asm/cpu_long.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "cpu_long.s");
