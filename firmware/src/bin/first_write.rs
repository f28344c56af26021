//! For measurement: the first instructions after reset write a byte to port 402h, and `10h` to F4h, and halt. No Rust runs.
#![no_std]
#![no_main]

core::arch::global_asm!(
    r#"
.section .reset, "ax"
.code16
.globl reset
reset:
    movw $0x402, %dx
    movb $0x2e, %al
    outb %al, %dx
    movb $0x10, %al
    outb %al, $0xf4
1:  hlt
    jmp 1b
    .balign 16, 0x90
"#,
    options(att_syntax)
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
