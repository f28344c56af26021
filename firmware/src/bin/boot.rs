//! The boot ROM: starts the kernel that `-kernel`, `-initrd` and `-append` name. It is assembly only
//! (`asm/boot.s`), so that it runs on processors without SSE, and in an instant on emulated ones.
#![no_std]
#![no_main]

core::arch::global_asm!(include_str!("../asm/boot.s"), options(att_syntax));

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
