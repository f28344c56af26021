//! What the manual asks for and translators leave out: limits of segments above all. Assembly only: `asm/cpu_strict.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "cpu_strict.s");
