//! For measurement: writes to a port without end. Assembly only: `asm/spin.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    ".set PORTS, 1",
    include_str!("../asm/bare.s"),
    include_str!("../asm/spin.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
