# The local APIC with four processors, from 64-bit mode (AT&T syntax, behind `bare.s`): timer modes, interrupts between processors,
# priorities. Run with `-smp 4`. Counts of what time decides are told of as yes or no.
#
# Intel SDM volume 3: 11 (APIC), 8.4 (starting processors).

.set APIC, 0xfee00000
.set IPI_SELF, 0x44000
.set IPI_ALL, 0x84000
.set IPI_OTHERS, 0xc4000

.macro gate64_to vector, target
    movw $\target, idt64 + 16 * \vector
    movw $CODE64, idt64 + 16 * \vector + 2
    movw $0x8e00, idt64 + 16 * \vector + 4
.endm
.macro apic register, value
    movl $\value, \register(%r15)
.endm
# Waits for what others do in their own time, but not for ever.
.macro wait_until condition
    movl $30000000, %ecx
1:  \condition
    je 2f
    pause
    decl %ecx
    jnz 1b
2:
.endm

mode 16
start:
    movb $0xff, %al                     # nothing from the board
    outb %al, $0x21
    outb %al, $0xa1
    enter_protected
    enter_long
    movl $APIC, %r15d
    gate64_to 0x40, on_tick
    gate64_to 0x50, on_call
    gate64_to 0x60, on_high
    gate64_to 0xff, on_spurious
    gate64_to 2, on_nmi
    movl $0x1b, %ecx
    rdmsr
    show "base ", %rax
    movl 0x20(%r15), %eax
    show "id ", %rax
    movl 0x30(%r15), %eax
    andl $0xff, %eax
    show "version ", %rax
    apic 0xf0, 0x1ff
    movl 0xd0(%r15), %eax
    show "logical ", %rax
    movl 0xe0(%r15), %eax
    show "format ", %rax

    # The timer: once, again and again, by divisors, masked, stopped.
    apic 0x3e0, 0xb
    apic 0x320, 0x40
    apic 0x380, 1000
    sti
    wait_until "cmpl $1, ticks"
    movl $200000, %ecx
1:  decl %ecx
    jnz 1b
    show "once ", ticks
    movl 0x390(%r15), %eax
    show "left ", %rax
    movl $0, ticks
    apic 0x320, 0x20040
    apic 0x380, 100000
    wait_until "cmpl $3, ticks"
    apic 0x380, 0
    movl 0x390(%r15), %eax
    show "stopped: left ", %rax
    cmpl $3, ticks
    setae %al
    movzbl %al, %eax
    show "three or more ", %rax
    movl $0, ticks
    apic 0x320, 0x10040
    apic 0x380, 1000
    movl $100000, %ecx
1:  decl %ecx
    jnz 1b
    show "masked ", ticks
    apic 0x380, 0x10000000
    movl 0x390(%r15), %eax
    movl $100000, %ecx
1:  decl %ecx
    jnz 1b
    movl 0x390(%r15), %ebx
    cmpl %eax, %ebx
    setb %al
    movzbl %al, %eax
    show "counts down ", %rax
    movl 0x380(%r15), %eax
    show "initial ", %rax
    apic 0x380, 0

    # Priorities.
    cli
    apic 0x300, IPI_SELF | 0x50
    apic 0x300, IPI_SELF | 0x60
    movl 0x220(%r15), %eax
    show "requested 40 to 5f ", %rax
    movl 0x230(%r15), %eax
    show "requested 60 to 7f ", %rax
    sti
    nop
    nop
    cli
    show "order ", order
    movl $0, order
    movl $5, %eax
    movq %rax, %cr8
    movl 0x80(%r15), %eax
    show "task priority ", %rax
    apic 0x300, IPI_SELF | 0x50
    apic 0x300, IPI_SELF | 0x60
    sti
    nop
    nop
    show "above class 5 ", order
    xorl %eax, %eax
    movq %rax, %cr8
    nop
    cli
    show "and then ", order
    movl $0, order
    apic 0x80, 0x60
    movl 0xa0(%r15), %eax
    show "processor priority ", %rax
    apic 0x80, 0
    movl $0, nmis
    apic 0x300, 0x44400
    nop
    show "nmis ", nmis

    # Three more processors.
    movl $trampoline, %esi
    movl $0x2f000, %edi
    movl $(trampoline_end - trampoline), %ecx
    rep movsb
    apic 0x300, 0xc4500                 # INIT to all others
    movl $1000000, %ecx
1:  decl %ecx
    jnz 1b
    apic 0x300, 0xc462f                 # start-up at 2f000h
    wait_until "cmpl $3, arrived"
    show "arrived ", arrived
    show "ids ", ids
    # To all others, to all, to one by its id, to some by logical destination.
    movl $0, calls
    apic 0x300, IPI_OTHERS | 0x50
    wait_until "cmpl $3, calls"
    show "all others: ", calls
    movl $0, calls
    sti
    apic 0x300, IPI_ALL | 0x50
    wait_until "cmpl $4, calls"
    cli
    show "all: ", calls
    movl $0, calls
    movl $0, called
    apic 0x310, 0x02000000
    apic 0x300, 0x4050
    wait_until "cmpl $1, calls"
    show "one: ", calls
    show "its mark ", called
    movl $0, calls
    movl $0, called
    apic 0x310, 0x0a000000              # logical: 1 and 3
    apic 0x300, 0x4850
    wait_until "cmpl $2, calls"
    show "by logical destination: ", calls
    show "their marks ", called
    movl $0, nmis
    apic 0x300, 0xc4400
    wait_until "cmpl $3, nmis"
    show "nmis elsewhere ", nmis
    # An exchange of all four on one counter, with lock.
    movl $1, go
    movl $10000, %ecx
1:  lock incl counter
    decl %ecx
    jnz 1b
    wait_until "cmpl $3, finished"
    show "counted ", counter
    end

on_tick:
    incl ticks
    apic 0xb0, 0
    iretq
on_call:
    pushq %rax
    pushq %rcx
    shll $4, order
    orl $5, order
    movl 0x20(%r15), %ecx
    shrl $24, %ecx
    movl $1, %eax
    shll %cl, %eax
    lock orl %eax, called
    lock incl calls
    apic 0xb0, 0
    popq %rcx
    popq %rax
    iretq
on_high:
    shll $4, order
    orl $6, order
    apic 0xb0, 0
    iretq
on_nmi:
    lock incl nmis
    iretq
on_spurious:
    iretq

# What the other processors do.
mode 16
trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    lgdtl gdt_pointer
    movl $0x20, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    movl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80000011, %eax
    movl %eax, %cr0
    ljmpl $CODE64, $other
trampoline_end:
mode 64
other:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    lidt idt64_pointer
    movl $APIC, %r15d
    apic 0xf0, 0x1ff
    movl 0x20(%r15), %ecx
    shrl $24, %ecx
    movl %ecx, %esp
    shll $12, %esp
    addl $0x28000, %esp
    movl $1, %eax
    shll %cl, %eax
    movl %eax, %ebx
    shll $24, %ebx
    movl %ebx, 0xd0(%r15)
    lock orl %eax, ids
    lock incl arrived
    sti
1:  pause
    cmpl $1, go
    jne 1b
    movl $10000, %ecx
2:  lock incl counter
    decl %ecx
    jnz 2b
    lock incl finished
3:  hlt
    jmp 3b

.section .bss, "aw", @nobits
.balign 8
ticks: .skip 8
order: .skip 8
calls: .skip 8
called: .skip 8
nmis: .skip 8
arrived: .skip 8
ids: .skip 8
go: .skip 8
counter: .skip 8
finished: .skip 8
