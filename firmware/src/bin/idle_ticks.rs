//! For measurement: halts, with 100 interrupts of the timer a second. Assembly only: `asm/idle.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    ".set TICKS, 1",
    include_str!("../asm/bare.s"),
    include_str!("../asm/idle.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
