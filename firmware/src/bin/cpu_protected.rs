//! Protected mode: privilege levels, gates, the LDT, tasks, virtual-8086 mode. Assembly only: `asm/cpu_protected.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    include_str!("../asm/bare.s"),
    include_str!("../asm/cpu_protected.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
