# A kernel that uses what test suites use: the device pc-testdev, fw_cfg's counts, a board without interval timer (AT&T syntax). It
# prints what it reads on the debug port.
#
# Entered by multiboot 1; `print.s` comes first. Intel 8259A data sheet for the interrupt controllers.

.set MULTIBOOT_MAGIC, 0x1badb002
.set TESTDEV_DATA, 0xe0
.set TESTDEV_FLUSH, 0xe4
.set TESTDEV_BYTES, 0xe8
.set TESTDEV_LINES, 0x2000
.set TESTDEV_MEMORY, 0xff000000
.set FW_CFG, 0x510
.set FW_CFG_DATA, 0x511

.section .header, "ax"
.balign 4
    .long MULTIBOOT_MAGIC, 0, -MULTIBOOT_MAGIC

# Reads the port into the lowest bits of ebx.
.macro read port, register
    xorl %eax, %eax
    movw $\port, %dx
    in %dx, \register
    movl %eax, %ebx
.endm

.macro write port, register, value
    movl $\value, %eax
    movw $\port, %dx
    out \register, %dx
.endm

# A line goes to a level, and both interrupt controllers say what they have seen.
.macro drive line, level
    write (TESTDEV_LINES + \line), %al, \level
    print "line \line level \level\n"
    write 0x20, %al, 0x0a               # read IRR
    read 0x20, %al
    print_hex "master ", %ebx
    write 0xa0, %al, 0x0a
    read 0xa0, %al
    print_hex "slave ", %ebx
.endm

.section .text, "ax"
.code32
.globl start
start:
    movl $stack, %esp
    write TESTDEV_DATA, %eax, 0x12345678
    read TESTDEV_DATA, %eax
    print_hex "data ", %ebx
    read (TESTDEV_DATA + 1), %al
    print_hex "byte 1 ", %ebx
    read (TESTDEV_DATA + 2), %ax
    print_hex "word 2 ", %ebx
    write (TESTDEV_BYTES + 3), %al, 0x99
    read TESTDEV_DATA, %eax
    print_hex "data ", %ebx
    movl $text, %esi                    # by string instructions, too
    movl $4, %ecx
    movw $TESTDEV_BYTES, %dx
    rep outsb
    movl $buffer, %edi
    movl $2, %ecx
    movw $TESTDEV_DATA, %dx
    rep insw
    print_hex "words ", buffer

    movl TESTDEV_MEMORY, %ebx
    print_hex "memory ", %ebx
    movl $0x11223344, TESTDEV_MEMORY + 8
    movb $0x55, TESTDEV_MEMORY + 9
    movw $0x6677, TESTDEV_MEMORY + 0xfffe
    movl TESTDEV_MEMORY + 8, %ebx
    print_hex "memory ", %ebx
    movzwl TESTDEV_MEMORY + 0xfffe, %ebx
    print_hex "memory ", %ebx
    incl TESTDEV_MEMORY + 8
    movl TESTDEV_MEMORY + 8, %ebx
    print_hex "memory ", %ebx

    # Pages lose their mappings and keep their bytes: one of data, this one, one that is no RAM.
    movl $0xcafe0001, page
    write TESTDEV_FLUSH, %eax, page
    movl page, %ebx
    print_hex "page ", %ebx
    incl page
    write TESTDEV_FLUSH, %eax, page + 0x123
    movl page, %ebx
    print_hex "page ", %ebx
    write TESTDEV_FLUSH, %eax, start
    write TESTDEV_FLUSH, %eax, 0xf0000000
    write TESTDEV_FLUSH, %eax, 0xffffffff
    read TESTDEV_FLUSH, %eax
    print_hex "flush ", %ebx

    # Both interrupt controllers from the start: vectors 20h and 28h, everything masked. Line 10 counts by its level, line 5 by edges.
    write 0x4d0, %al, 0
    write 0x4d1, %al, 0x04
    write 0x20, %al, 0x11
    write 0x21, %al, 0x20
    write 0x21, %al, 0x04
    write 0x21, %al, 0x01
    write 0xa0, %al, 0x11
    write 0xa1, %al, 0x28
    write 0xa1, %al, 0x02
    write 0xa1, %al, 0x01
    write 0x21, %al, 0xff
    write 0xa1, %al, 0xff
    drive 5, 1
    drive 5, 0
    drive 10, 1
    drive 5, 1
    drive 10, 0
    drive 5, 0

    read 0x40, %al
    print_hex "timer ", %ebx
    read 0x61, %al
    print_hex "port 61 ", %ebx
    write FW_CFG, %ax, 5
    read FW_CFG_DATA, %al
    print_hex "processors ", %ebx
    write FW_CFG, %ax, 3
    movl $buffer, %edi
    movl $8, %ecx
    movw $FW_CFG_DATA, %dx
    rep insb
    print_hex "bytes of RAM ", buffer
    write DEBUG_EXIT, %al, 0x10
1:  cli
    hlt
    jmp 1b

.section .rodata, "a"
text: .ascii "abcd"

.section .bss, "aw", @nobits
.balign 4096
page: .skip 4096
buffer: .skip 16
.balign 16
    .skip 0x400
stack:
