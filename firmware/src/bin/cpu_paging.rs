//! Paging in all its forms, and its faults. Assembly only: `asm/cpu_paging.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "cpu_paging.s");
