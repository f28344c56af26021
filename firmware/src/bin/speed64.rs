//! For measurement: phases of 64-bit code that say how many instructions they run. Assembly only: `asm/speed64.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    include_str!("../asm/bare.s"),
    include_str!("../asm/phase.s"),
    include_str!("../asm/speed64.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
