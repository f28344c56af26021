//! The local APIC with four processors. Assembly only: `asm/cpu_apic.s`.
#![no_std]
#![no_main]

thimble_firmware::assembly!("bare.s", "cpu_apic.s");
