//! Prints what a kernel is told by a loader that knows PVH. Assembly only: `asm/told.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    ".set HEADER, 0",
    include_str!("../asm/print.s"),
    include_str!("../asm/told.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
