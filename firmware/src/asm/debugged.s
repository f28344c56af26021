# What a debugger looks at (AT&T syntax, behind `bare.s`): places in real, protected and 64-bit mode with known registers, stores and
# loads at known addresses, a second processor that spins, and a counter without end. It prints nothing and ends by its debugger.

.set APIC, 0xfee00000
.set SPINNER, 0x80000

.macro place name
.globl \name
\name:
.endm

.macro ground name
.globl \name
\name: .skip 8
.endm

mode 16
start:
place in_real
    movl $0x12345678, %ebx
    movw %bx, word
place real_stored
    pushw $0x55aa
    popw %cx
    enter_protected
place in_protected
    movl $0x11112222, %ebx
    movl %ebx, word
place protected_stored
    pushfl
    popl %edx
    enter_long
place in_long
    movq %cr4, %rax
    orl $0x600, %eax                    # OSFXSR, OSXMMEXCPT
    movq %rax, %cr4
    movabsq $0x1122334455667788, %rbx
    movabsq $0x8070605040302010, %r12
    movd %ebx, %xmm3
    punpcklbw %xmm3, %xmm3
    movdqa pattern, %xmm15
    fninit
    fld1
    fldpi
    movl $0xc0000102, %ecx              # IA32_KERNEL_GS_BASE
    movl $0x5000, %eax
    xorl %edx, %edx
    wrmsr
    movl $4, %eax
    movq %rax, %cr8
    xorl %eax, %eax
place registers_set
    movl $3, %esi
1:  call bump
place behind_call
    decl %esi
    jnz 1b
place behind_loop
    movl $0x77, word
place word_stored
    movl word, %eax
place word_loaded
    incl word
place word_changed
    movl $block, %edi
    movl $16, %ecx
    movb $0x5a, %al
    rep stosb
place block_filled
    movq %rbx, block + 13               # into the bytes behind it
place behind_block
    movl $1, %eax
    pushfq
    popq %rdx
place flags_read
    movq $behind_ud2, resume
    movq %rsp, resume_sp
place at_ud2
    ud2
place behind_ud2

# The second processor, if there is one.
    movw $0xfeeb, SPINNER               # jmp to itself
    movl $APIC, %edi
    movl $0x1ff, 0xf0(%rdi)
    movl $0xc4500, 0x300(%rdi)          # INIT to the others
    movl $0xc4680, 0x300(%rdi)          # start-up at 80000h
    movl $0xc4680, 0x300(%rdi)
    movl $200, %ecx                   # it is there before long
1:  pause
    decl %ecx
    jnz 1b
place counting
    xorl %eax, %eax
1:  incq counter
    jmp 1b

place bump
    incq bumps
    ret

.section .rodata, "a"
.balign 16
pattern: .quad 0x0706050403020100, 0x0f0e0d0c0b0a0908

.section .bss, "aw", @nobits
.balign 16
ground word
ground counter
ground bumps
.balign 16
ground block
    .skip 8
ground behind
    .skip 8

.section .text, "ax"
