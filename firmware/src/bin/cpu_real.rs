//! Real mode and unreal mode. Assembly only: `asm/cpu_real.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    include_str!("../asm/bare.s"),
    include_str!("../asm/cpu_real.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
