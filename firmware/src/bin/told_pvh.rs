//! Prints what a kernel is told by a loader that knows PVH. Assembly only: `asm/told.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!(".set HEADER, 0"; "print.s", "told.s");
