# 64-bit mode beside paging: stacks of interrupts, system calls, NMI and shadows, debugging, code that changes itself, strings that are
# interrupted, compatibility mode (AT&T syntax, behind `bare.s`).
#
# Intel SDM volume 3: 5.8.7, 5.8.8 (fast system calls), 6.14 (interrupts in 64-bit mode), 6.7 (NMI), 6.8.3 (shadow), 8.1.3 (self-modifying
# code), 17.2, 17.3 (debug registers and exceptions).

.set APIC, 0xfee00000
.set SCRATCH, 0x30000

.macro gate64_to vector, target, type = 0x8e, stack = 0
    movw $\target, idt64 + 16 * \vector
    movw $CODE64, idt64 + 16 * \vector + 2
    movw $((\type << 8) | \stack), idt64 + 16 * \vector + 4
.endm

.macro in_ring3 selector = USER_CODE64, flags = 2
    pushq $USER_DATA
    pushq $USER_STACK
    pushq $\flags
    pushq $\selector
    pushq $6f
    iretq
6:
.endm

.macro apic register, value
    pushq %rax
    movl $APIC, %eax
    movl $\value, \register(%rax)
    popq %rax
.endm

.macro wrmsr_to register, value
    movl $\register, %ecx
    movl $(\value), %eax
    xorl %edx, %edx
    wrmsr
.endm

mode 16
start:
    enter_protected
    enter_long

    # Stacks of interrupts: aligned to 16 bytes, with SS and RSP pushed at every level.
    try "ud2"
    subq $5, %rsp
    ud2
    caught
    show "frame ends at ", trap_stack
    show "rsp saved ", trap_sp
    show "ss saved ", trap_ss
    gate64_to 6, stub64_6, 0x8e, 1
    try "ud2 with a stack of its own"
    ud2
    caught
    show "frame ends at ", trap_stack
    try "ud2 of ring 3 with a stack of its own"
    in_ring3
    ud2
    caught
    show "frame ends at ", trap_stack
    gate64_to 6, stub64_6
    try "ud2 of ring 3"
    in_ring3
    ud2
    caught
    show "frame ends at ", trap_stack
    show "rsp saved ", trap_sp
    show "ss saved ", trap_ss
    try "general protection with a stack of its own"
    gate64_to 13, stub64_13, 0x8e, 1
    movl $0x1ff8, %eax
    movl %eax, %ds
    caught
    show "frame ends at ", trap_stack
    gate64_to 13, stub64_13

    # What 64-bit mode has given up, and what it does to selectors.
    try "push es"
    .byte 0x06
    caught
    try "into"
    .byte 0xce
    caught
    try "far jump to an absolute pointer"
    .byte 0xea
    caught
    try "aaa"
    .byte 0x37
    caught
    try "null to ss in ring 0"
    xorl %eax, %eax
    movl %eax, %ss
    pushq %rax
    popq %rax
    movl %ss, %ebx
    caught
    show "ss ", %rbx
    movl $DATA, %eax
    movl %eax, %ss
    try "null to ss in ring 3"
    in_ring3
    xorl %eax, %eax
    movl %eax, %ss
    caught

    # Fast system calls.
    wrmsr_to 0xc0000082, service        # LSTAR
    wrmsr_to 0xc0000084, 0x4201         # FMASK: NT, IF, CF
    movl $0xc0000081, %ecx              # STAR
    xorl %eax, %eax
    movl $(CODE64 | (USER_CODE32 << 16)), %edx
    wrmsr
    try "syscall"
    in_ring3 USER_CODE64, 0x4003
    movl $0x11, %eax
    stc
    syscall
    movl %cs, %ebx
    movl %ss, %edx
    pushfq
    popq %rsi
    ud2
    caught
    show "flags inside ", service_flags
    show "flags in r11 ", %r11
    show "rcx ", %rcx
    show "cs inside ", service_cs
    show "ss inside ", service_ss
    show "cs ", %rbx
    show "ss ", %rdx
    show "flags ", %rsi
    show "result ", %rax
    try "syscall without SCE"
    movl $0xc0000080, %ecx
    rdmsr
    andl $~1, %eax
    wrmsr
    syscall
    caught
    movl $0xc0000080, %ecx
    rdmsr
    orl $1, %eax
    wrmsr
    try "sysret in ring 3"
    in_ring3
    sysretq
    caught
    # To compatibility mode and back.
    wrmsr_to 0xc0000083, service_compatible # CSTAR
    try "sysret to 32-bit code"
    movl $compatible, %ecx
    movl $2, %r11d
    sysretl
    mode 32
compatible:
    movl %cs, %ebx
    movl $-1, %eax
    incl %eax
    .byte 0x40                          # inc eax there, a prefix here
    nop
    ud2
    mode 64
    caught
    show "eax ", %rax
    show "cs ", %rbx
    try "compatibility mode by iret"
    in_ring3 USER_CODE32
    mode 32
    movl $0x12345678, %eax
    pushl %eax
    popl %edx
    ud2
    mode 64
    caught
    show "edx ", %rdx
    show "esp saved ", trap_sp
    try "far call to compatibility mode"
    lcalll *far_pointer
    caught
    show "edx there ", %rdx

    # NMI, from the processor's own APIC, and what holds it off.
    gate64_to 2, on_nmi
    movl $APIC, %edi
    movl $0x1ff, 0xf0(%rdi)             # on
    xorl %ebx, %ebx
    movl $0, nmis
    apic 0x300, 0x44400          # to itself: NMI
    nop
    nop
    show "nmis ", nmis
    show "within one ", nested
    # Single steps: the one behind a load of SS is left out.
    gate64_to 1, on_debug
    movl $0, steps
    pushq $0x102
    popfq
    nop
    movl %ss, %eax
    movl %eax, %ss
    nop
    nop
    pushq $2
    popfq
    show "steps ", steps
    show "last cause ", debug_status
    movl $0, steps
    pushq $0x102
    popfq
    movl $3, %ecx
    movl $SCRATCH, %edi
    rep stosb
    pushq $2
    popfq
    show "steps with a string of three ", steps
    movl $0, steps
    pushq $0x102
    popfq
    pushq %rax                          # two of ring 0's own
    popq %rax
    pushq $2
    popfq
    show "steps with a stack ", steps

    # Debug registers.
    movl $0, steps
    movl $1f, %eax
    movq %rax, %dr0
    movl $0x402, %eax
    movq %rax, %dr7
    nop
1:  nop
    show "instruction breakpoints ", steps
    show "cause ", debug_status
    movl $0, steps
    movl $SCRATCH, %eax
    movq %rax, %dr1
    movl $0xd00408, %eax                # dr1: writes of four bytes
    movq %rax, %dr7
    movl SCRATCH, %eax
    show "after a read ", steps
    movl $1, SCRATCH - 1
    show "after a write across it ", steps
    show "cause ", debug_status
    movl $1, SCRATCH + 4
    show "after a write behind it ", steps
    movl $0xf00408, %eax                # dr1: reads and writes
    movq %rax, %dr7
    movl SCRATCH, %eax
    show "after a read ", steps
    movl $0, steps
    movl $SCRATCH, %edi
    movl $12, %ecx
    xorl %eax, %eax
    rep stosb
    show "in a string ", steps
    movl $0x400, %eax
    movq %rax, %dr7
    movq %dr7, %rax
    show "dr7 ", %rax
    try "high half of dr7"
    movabsq $0x100000000, %rax
    movq %rax, %dr7
    caught
    movl $0xffff0ff0, %eax
    movq %rax, %dr6
    movq %dr6, %rax
    show "dr6 ", %rax
    # Code that changes itself: the instruction behind the store, one in the same block, one on another page.
    movl $5, %ecx
2:  incb changed + 1
changed:
    movb $0x10, %al
    decl %ecx
    jnz 2b
    movzbl %al, %eax
    show "changed ahead of itself ", %rax
    movl $SCRATCH, %edi
    movl $0xc3c3c0ff, (%rdi)            # inc eax; ret
    xorl %eax, %eax
    call *%rdi
    movb $0xc8, 1(%rdi)                 # dec eax
    call *%rdi
    call *%rdi
    show "changed elsewhere ", %rax
    movl $routine, %esi
    movl $(routine_end - routine), %ecx
    rep movsb
    movl $SCRATCH, %edi
    xorl %eax, %eax
    movl $3, %ecx
3:  call *%rdi
    addb $1, 1(%rdi)                    # another register
    decl %ecx
    jnz 3b
    show "copied and changed ", %rax

    movb $0xff, %al                     # nothing from the board
    outb %al, $0x21
    outb %al, $0xa1
    # A string that interrupts break into: the timer of the APIC ticks, the counts must come out.
    gate64_to 0x40, on_timer
    movl $APIC, %edi
    movl $0x0b, 0x3e0(%rdi)             # divided by one
    movl $0x20040, 0x320(%rdi)          # periodic
    movl $0, ticks
    movl $200000, 0x380(%rdi)
    sti
    movl $40, %ebx
4:  movl $0x200000, %esi
    movl $0x300000, %edi
    movl $0x100000, %ecx
    rep movsb
    testl %ecx, %ecx
    jnz 5f
    cmpl $0x300000, %esi
    jne 5f
    cmpl $0x400000, %edi
    jne 5f
    decl %ebx
    jnz 4b
5:  cli
    apic 0x320, 0x10000
    sti                                 # takes a tick that came before the mask
    nop
    cli
    show "strings left ", %rbx
    show "rcx ", %rcx
    show "rsi ", %rsi
    show "rdi ", %rdi
    cmpl $3, ticks
    setae %al
    movzbl %al, %eax
    show "three ticks or more ", %rax
    # sti holds interrupts off for one instruction, halts end by them.
    gate64_to 0x41, on_interrupt
    movl $0, ticks
    apic 0x300, 0x44041
    sti
    cli
    nop
    show "between sti and cli ", ticks
    sti
    nop
    cli
    show "behind sti ", ticks
    apic 0x300, 0x44041
    sti
    hlt
    cli
    show "behind hlt ", ticks
    end

mode 64
service:
    pushfq
    popq service_flags
    movw %cs, service_cs
    movw %ss, service_ss
    incl %eax
    sysretq
service_compatible:
    ud2

on_nmi:
    incl nmis
    cmpl $1, nmis
    jne 1f
    apic 0x300, 0x44400         # another one has to wait for iret
    nop
    nop
    movl nmis, %ebx
    decl %ebx
    movl %ebx, nested
1:  iretq

on_debug:
    pushq %rax
    incl steps
    movq %dr6, %rax
    movl %eax, debug_status
    xorl %eax, %eax
    movq %rax, %dr6
    testb $1, debug_status              # an instruction breakpoint comes again without RF
    jz 1f
    orl $0x10000, 24(%rsp)
1:  popq %rax
    iretq

on_timer:
    incl ticks
    apic 0xb0, 0
    iretq
on_interrupt:
    incl ticks
    apic 0xb0, 0
    iretq

routine:
    incl %eax                           # ff c0: the byte behind it says which register
    ret
routine_end:

mode 32
compatible_routine:
    movl $0x42, %edx
    lretl

.section .data, "aw"
.balign 8
far_pointer:
    .long compatible_routine
    .word CODE32

.section .bss, "aw", @nobits
.balign 8
service_flags: .skip 8
service_cs: .skip 8
service_ss: .skip 8
nmis: .skip 8
nested: .skip 8
steps: .skip 8
debug_status: .skip 8
ticks: .skip 8
