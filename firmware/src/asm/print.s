# Output on the debug port, for kernels of assembly (AT&T syntax, 32-bit code). What a kernel calls keeps all registers but eax, ecx
# and esi; `print` keeps ecx, too.

.set DEBUG_PORT, 0x402
.set DEBUG_EXIT, 0xf4

.macro print text
    movl $9f, %esi
    call puts
    .section .rodata, "a"
9:  .asciz "\text"
    .section .text, "ax"
.endm

.macro print_hex text, value:vararg
    print "\text"
    movl \value, %eax
    call hex
.endm

.section .text, "ax"
.code32
# The text at esi as a line of its own.
line:
    call puts
    movb $'\n', %al
    jmp putc

puts:
    lodsb
    testb %al, %al
    jz 1f
    call putc
    jmp puts
1:  ret

# Prints eax and a line feed.
hex:
    movl %eax, %esi
    movl $8, %ecx
1:  roll $4, %esi
    movl %esi, %eax
    andl $15, %eax
    movb digits(%eax), %al
    call putc
    decl %ecx
    jnz 1b
    movb $'\n', %al
putc:
    pushl %edx
    movw $DEBUG_PORT, %dx
    outb %al, %dx
    popl %edx
    ret

.section .rodata, "a"
digits: .ascii "0123456789abcdef"
