//! The boot ROM: starts the kernel that `-kernel`, `-initrd` and `-append` name. It is assembly only
//! (`asm/boot.s`), so that it runs on processors without SSE, and in an instant on emulated ones.
#![no_std]
#![no_main]

thimble_firmware::assembly!("boot.s");
