# The ground that images of assembly alone stand on (AT&T syntax): from the reset vector to RAM, into protected and long mode, output,
# and exceptions that are told of. All of it is ring 0 and integer code, for processors that know no SSE.
#
# Intel SDM volume 3: 10.9 (mode switching), 6.12 to 6.14 (interrupt handling). `ram.ld` says where the image lies; RAM above it:
# 0d000-10000 the stack, 10000 and up page tables and what an image wants. RAM of a fresh machine is zero.
#
# `mode` says which code follows. What prints keeps all registers and flags; it reads by CS.

.set STACK, 0xff00
.set USER_STACK, 0x2fff0
.set TABLES, 0x10000
.set DEBUG_PORT, 0x402
.set DEBUG_EXIT, 0xf4

.set CODE32, 0x08
.set CODE64, 0x10
.set DATA, 0x18
.set USER_CODE32, 0x23
.set USER_DATA, 0x2b
.set USER_CODE64, 0x33
.set TSS_SELECTOR, 0x38
.set CODE16, 0x48
.set DATA16, 0x50
.set SPARE, 0x58

.section .reset, "ax"
.code16
.globl reset
reset:
    .byte 0xe9                          # jmp copy; the wrap at 64 KiB is beyond what the linker accepts
    .word copy - 0xEFFF3
    .fill 13, 1, 0x90

.section .boot, "ax"
copy:
    cli
    cld
    movw $0xf000, %ax
    movw %ax, %ds
    xorw %ax, %ax
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    xorw %si, %si
    movw $0x1000, %di
    movw $0x7800, %cx
    rep movsw
    movw %ax, %ds
    ljmpw $0, $start

.macro mode bits
    .set BITS, \bits
    .code\bits
.endm

# One of three texts, by the code's mode.
.macro by_mode text16, text32, text64
.if BITS == 16
    \text16
.elseif BITS == 32
    \text32
.else
    \text64
.endif
.endm

.macro print text
    by_mode "pushl %esi", "pushl %esi", "pushq %rsi"
    movl $9f, %esi
    by_mode "call puts16", "call puts32", "call puts64"
    by_mode "popl %esi", "popl %esi", "popq %rsi"
    .section .rodata, "a"
9:  .asciz "\text"
    .section .text, "ax"
.endm

# A text and a value of 32 bits, or of 64 in 64-bit code.
.macro tell text, value:vararg
    print "\text"
    by_mode "pushl \value", "pushl \value", "pushq \value"
    by_mode "call hex16", "call hex32", "call hex64"
    by_mode "leal 4(%esp), %esp", "leal 4(%esp), %esp", "leaq 8(%rsp), %rsp"
.endm

# The same as a line of its own.
.macro show text, value:vararg
    tell "\text", \value
    print "\n"
.endm

.macro end
    movl $0x10, %eax
    movw $DEBUG_EXIT, %dx
    outl %eax, %dx
1:  cli
    hlt
    jmp 1b
.endm

.macro save_all
    by_mode "pushfl", "pushfl", "pushfq"
.if BITS == 64
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
.else
    pushal
.endif
.endm

.macro restore_all
.if BITS == 64
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
.else
    popal
.endif
    by_mode "popfl", "popfl", "popfq"
.endm

.section .text, "ax"
image_begin:

# The text at esi.
.macro console puts, hex, report, unexpected
\puts:
    save_all
    cld
    movw $DEBUG_PORT, %dx
1:  movb %cs:(%esi), %al
    incl %esi
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  restore_all
    ret

# The value that was pushed last, without leading zeros.
\hex:
    save_all
.if BITS == 64
    movq 56(%rsp), %rbx
    movb $16, %cl
.elseif BITS == 32
    movl 40(%esp), %ebx
    movb $8, %cl
.else
    movl %ss:38(%esp), %ebx
    movb $8, %cl
.endif
    movw $DEBUG_PORT, %dx
    movb $0, %ah
1:  by_mode "roll $4, %ebx", "roll $4, %ebx", "rolq $4, %rbx"
    movb %bl, %al
    andb $15, %al
    orb %al, %ah                        # the first digit that counts has been
    jnz 2f
    cmpb $1, %cl
    jne 4f
2:  addb $'0', %al
    cmpb $'9', %al
    jbe 3f
    addb $('a' - '9' - 1), %al
3:  outb %al, %dx
4:  decb %cl
    jnz 1b
    restore_all
    ret

# What the exception was, as the rest of a line.
\report:
    cmpl $-1, trap_vector
    jne 1f
    print ": nothing\n"
    ret
1:  tell ": vector ", trap_vector
.if BITS != 16
    tell " error ", trap_error
.endif
    by_mode "pushl %eax", "pushl %eax", "pushq %rax"
    by_mode "movl trap_ip, %eax", "movl trap_ip, %eax", "movq trap_ip, %rax"
    by_mode "subl tried, %eax", "subl tried, %eax", "subq tried, %rax"
    tell " cs:ip ", trap_cs
.if BITS == 64
    tell ":+", %rax
    popq %rax
.else
    tell ":+", %eax
    popl %eax
.endif
    cmpl $14, trap_vector
    jne 2f
    tell " cr2 ", trap_cr2
2:  print "\n"
    ret

# An exception that nobody tries ends the image.
\unexpected:
    print "unexpected"
    call \report
    end
.endm

mode 16
console puts16, hex16, report16, unexpected16
mode 32
console puts32, hex32, report32, unexpected32
mode 64
console puts64, hex64, report64, unexpected64

# Prints a name and goes on behind `caught` if what follows causes an exception, with the stack as it is here.
.macro try name
    print "\name"
    movl $-1, trap_vector
.if BITS == 64
    movq $7f, resume
    movq $8f, tried
    movq %rsp, resume_sp
.else
    movl $7f, resume
    movl $8f, tried
    movl %esp, resume_sp
.endif
8:
.endm

.macro caught
7:  by_mode "call report16", "call report32", "call report64"
    by_mode "movl $unexpected16, resume", "movl $unexpected32, resume", "movq $unexpected64, resume"
.endm

# From real mode: flat segments of 32 bits, interrupts off, exceptions told of.
.macro enter_protected
    lgdtl gdt_pointer
    lidtl idt32_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $CODE32, $1f
    mode 32
1:  movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $STACK, %esp
.endm

# From protected mode without paging, or from real mode's flat segments: 4-level paging that maps 4 GiB one to one for everybody, IA-32e mode.
.set PML4, TABLES
.set PDPT, TABLES + 0x1000
.set PD, TABLES + 0x2000
.macro enter_long
    movl $TABLES, %edi
    movl $0x1800, %ecx
    xorl %eax, %eax
    rep stosl
    movl $(PDPT + 7), PML4
    movl $PD, %edi
    movl $0x87, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $(PD + 7), PDPT
    movl $(PD + 0x1007), PDPT + 8
    movl $(PD + 0x2007), PDPT + 16
    movl $(PD + 0x3007), PDPT + 24
    movl $0x20, %eax                    # PAE
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER: LME, SCE
    movl $0x101, %eax
    xorl %edx, %edx
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmpl $CODE64, $1f
    mode 64
1:  movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $STACK, %esp
    lidt idt64_pointer
    movq $STACK - 0x800, tss + 4        # RSP0
    movq $STACK - 0x1000, tss + 36      # IST1
    andb $0xfd, gdt + TSS_SELECTOR + 5  # not busy, should an image have used it before
    movl $TSS_SELECTOR, %eax
    ltr %ax
.endm

# Exceptions. Those of 64-bit mode and of 32-bit mode have stubs of their own; the handlers leave what happened in the record and
# go to where the code that tried says. Vectors from 20h on go to the hook of the mode, with the stack as the processor left it.

.macro stubs prefix, trap
.altmacro
.set v, 0
.rept 32
    stub \prefix, %v, \trap
    .set v, v + 1
.endr
.noaltmacro
.endm
.macro stub prefix, vector, trap
\prefix\()\vector:
.if \vector == 8 || \vector == 17 || \vector == 21 || (\vector >= 10 && \vector <= 14)
.else
    by_mode "", "pushl $0", "pushq $0"
.endif
    by_mode "pushw $\vector", "pushl $\vector", "pushq $\vector"
    jmp \trap
.endm

mode 32
stubs stub32_, trap32
trap32:
    pushal
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl 32(%esp), %eax
    movl %eax, trap_vector
    movl 36(%esp), %eax
    movl %eax, trap_error
    movl 40(%esp), %eax
    movl %eax, trap_ip
    movl 44(%esp), %eax
    movl %eax, trap_cs
    movl 48(%esp), %eax
    movl %eax, trap_flags
    movl 52(%esp), %eax
    movl %eax, trap_sp
    movl 56(%esp), %eax
    movl %eax, trap_ss
    movl %cr2, %eax
    movl %eax, trap_cr2
    popal
    pushl $DATA
    popl %ss
    movl resume_sp, %esp
    jmpl *resume

mode 64
stubs stub64_, trap64
trap64:
    pushq %rax
    movq 8(%rsp), %rax
    movq %rax, trap_vector
    movq 16(%rsp), %rax
    movq %rax, trap_error
    movq 24(%rsp), %rax
    movq %rax, trap_ip
    movq 32(%rsp), %rax
    movq %rax, trap_cs
    movq 40(%rsp), %rax
    movq %rax, trap_flags
    movq 48(%rsp), %rax
    movq %rax, trap_sp
    movq 56(%rsp), %rax
    movq %rax, trap_ss
    movq %rsp, trap_stack
    movq %cr2, %rax
    movq %rax, trap_cr2
    movl $DATA, %eax
    movl %eax, %ss
    popq %rax
    movq resume_sp, %rsp
    jmpq *resume

mode 16
stubs stub16_, trap16
trap16:
    popw %cs:trap_vector
    movw $0, %cs:trap_vector + 2
    popw %cs:trap_ip
    popw %cs:trap_cs
    popw %cs:trap_flags
    movw %ss, %cs:trap_ss
    movl %esp, %cs:trap_sp
    pushw $0
    popw %ss
    movl %cs:resume_sp, %esp
    movw %cs, %cs:trap_scratch
    jmpw *%cs:resume

# Real mode's vectors for exceptions.
set_vectors:
    movw $stubs16, %si
    xorw %di, %di
    movw $32, %cx
1:  movw (%si), %ax
    movw %ax, (%di)
    movw $0, 2(%di)
    addw $2, %si
    addw $4, %di
    decw %cx
    jnz 1b
    ret

.macro gates prefix, gate
.altmacro
.set v, 0
.rept 32
    \gate \prefix, %v
    .set v, v + 1
.endr
.noaltmacro
.endm

.section .data, "aw"
.balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 08 ring-0 code, 32-bit
    .quad 0x00af9b000000ffff            # 10 ring-0 code, 64-bit
    .quad 0x00cf93000000ffff            # 18 ring-0 data
    .quad 0x00cffb000000ffff            # 20 ring-3 code, 32-bit
    .quad 0x00cff3000000ffff            # 28 ring-3 data
    .quad 0x00affb000000ffff            # 30 ring-3 code, 64-bit
    .word 0x2067                        # 38 TSS with its I/O bitmap
    .word tss
    .quad 0x0000000000008900
    .long 0
    .quad 0x00009b000000ffff            # 48 ring-0 code, 16-bit
    .quad 0x000093000000ffff            # 50 ring-0 data, 16-bit
gdt_spare:
    .fill 16, 8, 0                      # 58
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.balign 8
idt32_pointer:
    .word 0x7ff
    .long idt32
idt64_pointer:
    .word 0xfff
    .quad idt64
real_pointer:
    .word 0x3ff
    .long 0

.macro gate32 prefix, vector
    .word \prefix\()\vector, CODE32, 0x8e00, 0
.endm
.balign 16
idt32:
gates stub32_, gate32
    .fill 224, 8, 0
.macro gate64 prefix, vector
    .word \prefix\()\vector, CODE64, 0x8e00, 0
    .quad 0
.endm
idt64:
gates stub64_, gate64
    .fill 448, 8, 0
.macro gate16 prefix, vector
    .word \prefix\()\vector
.endm
stubs16:
gates stub16_, gate16

.section .bss, "aw", @nobits
.balign 16
trap_vector: .skip 8
trap_error: .skip 8
trap_ip: .skip 8
trap_cs: .skip 8
trap_flags: .skip 8
trap_sp: .skip 8
trap_ss: .skip 8
trap_cr2: .skip 8
trap_stack: .skip 8
trap_scratch: .skip 8
resume: .skip 8
resume_sp: .skip 8
tried: .skip 8
.balign 16
tss: .skip 0x2068

.section .text, "ax"
