//! 64-bit mode beside paging: system calls, NMI, debugging, strings. Assembly only: `asm/cpu_long.s`.
#![no_std]
#![no_main]

core::arch::global_asm!(
    include_str!("../asm/bare.s"),
    include_str!("../asm/cpu_long.s"),
    options(att_syntax)
);

/// Never called: there is no Rust code in this image.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
