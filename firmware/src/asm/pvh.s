# From the PVH entry of a kernel to the code that all images share (AT&T syntax).
#
# Xen's x86/HVM direct boot ABI: 32-bit protected mode with flat segments, no paging, interrupts off, ebx points at
# `hvm_start_info`. Nothing is said of the stack and of the GDT's place,
# and the information lies anywhere: what this kernel writes to is its own.

.section .note.Xen, "a", @note
.balign 4
    .long 4, 8, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .text.start, "ax"
.code32
.globl pvh_start
pvh_start:
    cli
    cld
    movl $gdt, %esi                     # to where it can be written, because ltr writes the busy bit
    movl $GDT, %edi
    movl $16, %ecx
    rep movsl
    enter_long_mode gdt_pointer
