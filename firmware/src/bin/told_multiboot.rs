//! Prints what a kernel is told by a loader that knows multiboot 1. Assembly only: `asm/told.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!(".set HEADER, 1"; "print.s", "told.s");
