# Real mode and unreal mode, as a processor shows them (AT&T syntax, behind `bare.s`).
#
# Intel SDM volume 3: 20.1 (real-address mode), 10.9.2 (back to it; the limits of segments stay), volume 2 for the instructions.

.set FAR, 0x150000                      # beyond the first MiB, an even one, so that A20 shows

mode 16
start:
    call set_vectors
    movw $interrupt_20, 0x20 * 4
    movw $0, 0x20 * 4 + 2

    try "divide by zero"
    xorw %cx, %cx
    movw $7, %ax
    divw %cx
    caught
    try "divide overflow"
    movb $1, %cl
    movw $0x1234, %ax
    divb %cl
    caught
    try "aam of zero"
    aam $0
    caught
    try "breakpoint"
    int3
    caught
    try "into without overflow"
    xorw %ax, %ax
    into
    caught
    try "into"
    movb $0x7f, %al
    incb %al
    into
    caught
    try "bound"
    movw $3, bounds
    movw $5, bounds + 2
    movw $4, %ax
    .byte 0x62, 0x06                    # bound ax
    .word bounds
    movw $6, %ax
    .byte 0x62, 0x06                    # bound ax
    .word bounds
    caught
    try "undefined"
    ud2
    caught
    try "lock of a register"
    .byte 0xf0, 0x01, 0xd8
    caught
    try "lldt"
    lldt %ax
    caught
    try "verr"
    verr %ax
    caught
    try "arpl"
    .byte 0x63, 0xc0
    caught
    try "too long"
    .fill 15, 1, 0x66
    nop
    caught
    try "just short enough"
    .fill 14, 1, 0x66
    nop
    caught

    try "push at 0"
    movw $0x8000, %ax
    movw %ax, %ss
    movw $0, %sp
    pushw $0x55aa
    movzwl %sp, %eax
    popw %cx
    xorw %cx, %cx
    movw %cx, %ss
    movw $STACK, %sp
    caught
    show "sp ", %eax

    # Interrupts and far transfers.
    try "int 20"
    stc
    sti
    int $0x20
    pushfw
    popw %ax
    cli
    caught
    movzwl %ax, %eax
    andl $0x201, %eax
    show "flags ", %eax
    movzwl interrupt_flags, %eax
    andl $0x301, %eax
    show "flags inside ", %eax
    try "far call"
    lcallw $0x100, $(far_routine - 0x1000)
    caught
    movzwl %ax, %eax
    show "cs ", %eax
    try "iret"
    pushl $0x3003
    pushl $0
    pushl $1f
    iretl
1:  pushfw
    popw %ax
    caught
    movzwl %ax, %eax
    show "flags ", %eax
    # Flags that can be changed, and what processors leave behind.
    pushfl
    popl %eax
    show "eflags ", %eax
    pushl $0xffffffff & ~0x10100        # neither TF nor VM's neighbour RF
    popfl
    pushfl
    popl %eax
    pushl $2
    popfl
    andl $~0x200000, %eax               # ID is told of by nobody here
    show "eflags of ones ", %eax
    movw $0x7002, %cx
    pushw %cx
    popfw
    pushfw
    popw %ax
    pushw $2
    popfw
    movzwl %ax, %eax
    show "flags of 7002 ", %eax
    smsww %ax
    movzwl %ax, %eax
    andl $0xffef, %eax
    show "machine status ", %eax
    movl %cr0, %eax
    show "cr0 ", %eax
    sgdtl table
    sidtl table + 8
    movzwl table + 8, %eax
    show "idt limit ", %eax
    pushw %sp
    popw %ax
    subw %sp, %ax
    movzwl %ax, %eax
    show "pushed sp less sp ", %eax
    movw $0x1234, %ax
    movw $21, %cx
    shlw %cl, %ax
    movzwl %ax, %eax
    show "shifted by 21 ", %eax
    movb $0x9a, %al
    daa
    movzbl %al, %eax
    show "daa ", %eax
    movw $0x0f09, %ax
    aaa
    movzwl %ax, %eax
    show "aaa ", %eax
    stc
    .byte 0xd6                          # salc
    movzbl %al, %eax
    show "salc ", %eax
    movw $0x1000, %ax
    movw %ax, %ds
    movw $0x4321, 0x10
    xorw %ax, %ax
    movw %ax, %ds
    movw $0x1000, %ax
    movw %ax, %fs
    movzwl %fs:0x10, %eax
    show "through fs ", %eax
    movw $digits, %bx
    movb $5, %al
    xlatb
    movzbl %al, %eax
    show "xlat ", %eax

    # A20.
    movw $0xffff, %ax
    movw %ax, %fs
    movw $0x1111, 0x500
    movw $0x2222, %fs:0x510
    movzwl 0x500, %eax
    show "gate open: ", %eax
    inb $0x92, %al
    andb $0xfc, %al
    outb %al, $0x92
    movw $0x3333, %fs:0x510
    movzwl 0x500, %eax
    show "gate shut: ", %eax
    inb $0x92, %al
    andb $0xfe, %al
    orb $2, %al
    outb %al, $0x92
    movzwl %fs:0x510, %eax
    show "open again: ", %eax

    # Single step.
    movw $step, 4
    try "trap flag"
    movl $0, steps
    pushw $0x102
    popfw
    nop
    movw %ss, %ax
    movw %ax, %ss                       # the step after this one is left out
    nop
    pushw $2
    popfw
    caught
    show "steps ", steps

    # Unreal mode: fs keeps the limit that it had in protected mode, es doesn't get it.
    lgdtl gdt_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    jmp 1f
1:  movw $DATA, %bx
    movw %bx, %fs
    movw %bx, %gs
    andb $0xfe, %al
    movl %eax, %cr0
    jmp 1f
1:  movl $FAR, %ebx
    movl $0xcafe, %fs:(%ebx)
    try "unreal"
    movl %gs:(%ebx), %eax
    caught
    show "far memory ", %eax
    movw $0x10, %ax                     # the base is new, the limit stays
    movw %ax, %fs
    movl %fs:-0x100(%ebx), %eax
    show "with a base ", %eax
    end

interrupt_20:
    pushw %bp
    movw %sp, %bp
    pushfw
    popw %cs:interrupt_flags
    andw $0xfffe, 6(%bp)
    popw %bp
    iretw

far_routine:
    movw %cs, %ax
    lretw

step:
    incl %cs:steps
    iretw

.section .rodata, "a"
digits: .ascii "0123456789"

.section .bss, "aw", @nobits
.balign 4
bounds: .skip 4
table: .skip 16
steps: .skip 4
interrupt_flags: .skip 4
