# From the reset vector to the code that all images share (AT&T syntax).
#
# Intel SDM volume 3: 10.1.4 (first instruction). Long mode is entered straight from real mode.

.section .reset, "ax"
.code16
.globl reset
reset:
    .byte 0xe9                          # jmp start16; the wrap at 64 KiB is beyond what the linker accepts
    .word start16 - 0xEFFF3
    .fill 13, 1, 0x90

.section .text.start, "ax"
.code16
start16:
    ljmpw $0xf000, $(alias - 0xF0000)   # CS base from FFFF0000h to F0000h, which the page tables map
alias:
    cli
    cld
    movw $0xf000, %ax
    movw %ax, %ds
    xorw %ax, %ax
    movw %ax, %es
    movw $(gdt - 0xF0000), %si          # to RAM, because ltr writes the busy bit
    movw $GDT, %di
    movw $16, %cx
    rep movsl
    movw %ax, %ds
    enter_long_mode %cs:(gdt_pointer - 0xF0000)
