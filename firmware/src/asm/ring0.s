# What every image does in ring 0 (AT&T syntax): the way into long mode and ring 3, exceptions, service calls.
#
# Intel SDM volume 3: 10.8.5 (entering long mode), 6.14 (64-bit interrupt handling, IST). All ring-0 code of an image is in
# this file and in its entry: `start.s` for ROMs, `pvh.s` for kernels. It is kept short because some hosts run ring 0 through an
# instruction emulator, and it keeps to integer instructions for the same reason.
#
# Two names are set in front of this file. CODE_BASE is a multiple of 64 KiB, and all ring-0 code lies in the 64 KiB from there on.
# TABLES is where free RAM is: from there 01000 PML4, 02000 PDPT, 03000 first PD, 04000-07fff the four PDs, 08000 GDT, 08080 TSS
# with its I/O bitmap, below 0a900 the stack of service calls, below 0b000 that of exceptions. Both lie below 2 MiB.
# The linker script says where .bss and the ring-3 stack are.
#
# Ring 3 has IOPL 3, and an I/O bitmap of zeros besides, because a host that runs ring 0 through an emulator may lose IOPL in iretq.
# cli and sti are service calls for the same reason.

.set PML4, TABLES + 0x1000
.set PDPT, TABLES + 0x2000
.set PD_FIRST, TABLES + 0x3000
.set PD_ALL, TABLES + 0x4000
.set GDT, TABLES + 0x8000
.set TSS, TABLES + 0x8080
.set IO_BITMAP, TSS + 104
.set SERVICE_STACK, TABLES + 0xa900
.set EXCEPTION_STACK, TABLES + 0xb000
.set SERVICE_MARK, 0x63727673

# From real mode or from protected mode without paging, with flat data segments from address 0 on: fills the tables for the first
# 2 MiB, loads `gdtr`, and goes to start64. Ring 3 maps the rest at its own speed.
.macro enter_long_mode gdtr:vararg
    movl $(PDPT + 0x27), PML4
    movl $(PD_FIRST + 0x27), PDPT
    movl $0xe7, PD_FIRST
    xorl %eax, %eax
    movl %eax, PML4 + 4
    movl %eax, PDPT + 4
    movl %eax, PD_FIRST + 4
    movl $EXCEPTION_STACK, TSS + 36     # IST1
    movl %eax, TSS + 40
    movl $SERVICE_STACK, TSS + 44       # IST2
    movl %eax, TSS + 48
    movw $104, TSS + 102                # offset of the I/O bitmap
    lgdtl \gdtr
    movl $0x620, %eax                   # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER: LME
    movl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80000033, %eax              # PG, NE, ET, MP, PE
    movl %eax, %cr0
    ljmpl $0x08, $start64
.endm

.section .text.start, "ax"
# ebx is kept up to image_main, where it is the argument.
.code64
start64:
    movl $0x10, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    lidt idt_pointer
    movl $0x30, %eax
    ltr %ax
    movl $SERVICE_STACK, %esp
    pushq $0x1b
    pushq $user_stack
    pushq $0x3002                       # IOPL 3
    pushq $0x23
    pushq $start_ring3
    iretq

start_ring3:
    movl $IO_BITMAP, %edi
    movl $0x2000, %ecx
    xorl %eax, %eax
    rep stosb
    movb $0xff, (%rdi)
    # Identity map of 4 GiB: the tables are filled before they are linked.
    movl $PD_ALL, %edi
    movl $0xe7, %eax
    movl $2048, %ecx
1:  movq %rax, (%rdi)
    addq $8, %rdi
    addq $0x200000, %rax
    decl %ecx
    jnz 1b
    movq $(PD_ALL + 0x0027), PDPT
    movq $(PD_ALL + 0x1027), PDPT + 8
    movq $(PD_ALL + 0x2027), PDPT + 16
    movq $(PD_ALL + 0x3027), PDPT + 24
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
    xorl %ebp, %ebp
    movl %ebx, %edi
    call image_main
    ud2

# Exceptions and interrupts: recorded here, handled in ring 3.

.macro stub vector
stub_\vector:
.if \vector == 8 || \vector == 17 || \vector == 21 || (\vector >= 10 && \vector <= 14)
.else
    pushq $0
.endif
    pushq $\vector
.if \vector == 6
    jmp trap_6
.else
    jmp trap
.endif
.endm
.altmacro
.set v, 0
.rept 48
    stub %v
    .set v, v + 1
.endr

# An invalid opcode with the mark in r11 is a service call: software interrupts are not possible on every host.
trap_6:
    cmpl $SERVICE_MARK, %r11d
    jne trap
    addq $16, %rsp
    addq $2, (%rsp)
    jmp service

# Stack: rax, vector, error code, rip, cs, rflags, rsp, ss.
trap:
    pushq %rax
    movq 8(%rsp), %rax
    incl trap_counts(, %rax, 4)
    cmpl $32, %eax
    jae interrupt
    movq %rax, trap_record
    movq 16(%rsp), %rax
    movq %rax, trap_record + 8
    movq %cr2, %rax
    movq %rax, trap_record + 16
    movq 24(%rsp), %rax
    movq %rax, trap_record + 24
    movq 40(%rsp), %rax
    movq %rax, trap_record + 32
    andl $~0x10100, 40(%rsp)            # RF, TF
    movq trap_resume, %rax
    movq $0, trap_resume
    testq %rax, %rax
    jnz 1f
    movq $(user_stack - 8), 48(%rsp)    # nobody expects it: ring 3 reports it and ends
    movq $image_trap, %rax
    movq $0x23, 32(%rsp)
    movq $0x1b, 56(%rsp)
1:  movq %rax, 24(%rsp)
    popq %rax
    addq $16, %rsp
    iretq
interrupt:
    andl $~0x200, 40(%rsp)              # one interrupt, then ring 3 says when it wants the next
    popq %rax
    addq $16, %rsp
    iretq

# Service calls: ud2 with the mark in r11 and the number in eax.
service:
    cmpl $2, %eax
    je read_msr
    cmpl $3, %eax
    je triple_fault
    cmpl $4, %eax
    je interrupts_on
    cmpl $5, %eax
    je interrupts_off
    sti                                 # 0: wait for an interrupt
    hlt
    cli
    iretq
interrupts_on:                          # 4
    orl $0x200, 16(%rsp)
    iretq
interrupts_off:                         # 5
    andl $~0x200, 16(%rsp)
    iretq
read_msr:                               # 2: MSR ecx to edx:eax
    rdmsr
    iretq
triple_fault:                           # 3
    lidt idt_none
    ud2

.section .rodata.boot, "a"
.balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 08 ring-0 code, 64-bit
    .quad 0x00cf93000000ffff            # 10 ring-0 data
    .quad 0x00cff3000000ffff            # 18 ring-3 data
    .quad 0x00affb000000ffff            # 20 ring-3 code, 64-bit
    .quad 0                             # 28 nothing
    .quad 0x0000890000002068 + (TSS << 16)  # 30 TSS
    .quad 0
gdt_pointer:
    .word 63
    .long GDT
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
idt_none:
    .word 0
    .quad 0

.macro gate vector
    .word stub_\vector - CODE_BASE
    .word 0x08
.if \vector == 3 || \vector == 4
    .word 0xee01                        # ring 3 may use int3 and into
.elseif \vector == 6
    .word 0x8e02                        # apart from interrupts, which come in while a service call waits
.else
    .word 0x8e01
.endif
    .word CODE_BASE >> 16
    .quad 0
.endm
.balign 16
idt:
.set v, 0
.rept 48
    gate %v
    .set v, v + 1
.endr
idt_end:
.noaltmacro

.section .bss.trap, "aw", @nobits
.balign 8
.globl trap_record, trap_resume, trap_counts
trap_record: .skip 40
trap_resume: .skip 8
trap_counts: .skip 192
