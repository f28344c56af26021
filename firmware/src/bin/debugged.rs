//! What a debugger looks at. Assembly only: `asm/debugged.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "debugged.s");
