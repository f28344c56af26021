//! Real mode and unreal mode. Assembly only: `asm/cpu_real.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "cpu_real.s");
