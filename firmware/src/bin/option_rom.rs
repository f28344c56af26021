//! An option ROM for firmware to find and run. Assembly only: `asm/option_rom.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("option_rom.s");
