//! Uses the device `pc-testdev` and prints what it reads, for loaders that know multiboot 1.
//! Assembly only: `asm/testdev.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    include_str!("../asm/print.s"),
    include_str!("../asm/testdev.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
