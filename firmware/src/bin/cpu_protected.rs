//! Protected mode: privilege levels, gates, the LDT, tasks, virtual-8086 mode. Assembly only: `asm/cpu_protected.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "cpu_protected.s");
