# Protected mode of 32 bits: privilege levels, gates, the LDT, tasks, virtual-8086 mode (AT&T syntax, behind `bare.s`).
#
# Intel SDM volume 3: 5 (protection), 7 (tasks), 20.2 (virtual-8086 mode). Limits of segments: `cpu_strict.s`.

.set LDT, 0x58
.set GATE, 0x60
.set SECOND_TASK, 0x68
.set TASK_GATE, 0x70
.set CONFORMING, 0x78
.set ABSENT, 0x80
.set EXECUTE_ONLY, 0x90
.set SHORT_TASK, 0x98
.set ABSENT_TASK, 0xa0
.set BAD_TASK, 0xa8
.set GATE16, 0xb0
.set TSS_BYTES, 104

# An entry of the GDT: limit (its lowest 16 bits), base below 64 KiB, the two bytes from the access rights on.
.macro describe selector, limit, base, rights
    movw $((\limit) & 0xffff), gdt + \selector
    movw $\base, gdt + \selector + 2
    movl $((\rights) << 8), gdt + \selector + 4
.endm
# A gate: selector and offset below 64 KiB, the two bytes of its type and of its parameters.
.macro gate_to place, selector, offset, type, parameters = 0
    movl $((\selector) << 16), \place
    addl $(\offset), \place
    movl $(((\type) << 8) | (\parameters)), 4 + \place
.endm

# Goes on in ring 3; the only way back is an exception.
.macro in_ring3 flags = 2
    pushl $USER_DATA
    pushl $USER_STACK
    pushl $\flags
    pushl $USER_CODE32
    pushl $6f
    iretl
6:
.endm

mode 16
start:
    enter_protected
    movl $(STACK - 0x800), tss + 4      # ESP0, SS0
    movl $DATA, tss + 8
    movl $(TSS_BYTES << 16), tss + 100
    movw $TSS_SELECTOR, %ax
    ltr %ax
    strw %ax
    movzwl %ax, %eax
    show "tr ", %eax
    movl gdt + TSS_SELECTOR + 4, %eax
    show "its descriptor ", %eax

    describe LDT, 0x17, ldt, 0x0082
    describe CONFORMING, 0xffff, 0, 0xcf9f
    describe ABSENT, 0xffff, 0, 0xcf13
    describe EXECUTE_ONLY, 0xffff, 0, 0xcff9
    gate_to gdt + GATE, CODE32, by_gate, 0xec, 2
    gate_to gdt + GATE16, CODE32, by_gate16, 0xe4, 1

    # Selectors, in ring 0.
    try "null to ss"
    xorl %eax, %eax
    movl %eax, %ss
    caught
    try "beyond the table to ds"
    movl $0x1ffb, %eax
    movl %eax, %ds
    caught
    try "code to ss"
    movl $CODE32, %eax
    movl %eax, %ss
    caught
    try "ring-3 data to ss"
    movl $USER_DATA, %eax
    movl %eax, %ss
    caught
    try "absent to ds"
    movl $ABSENT, %eax
    movl %eax, %ds
    caught
    try "absent to ss"
    movl $ABSENT, %eax
    movl %eax, %ss
    caught
    try "execute-only to fs"
    movl $EXECUTE_ONLY, %eax
    movl %eax, %fs
    caught
    try "tss to ds"
    movl $TSS_SELECTOR, %eax
    movl %eax, %ds
    caught
    try "ltr of a busy one"
    movl $TSS_SELECTOR, %eax
    ltr %ax
    caught
    try "ltr of data"
    movl $DATA, %eax
    ltr %ax
    caught
    try "lldt of data"
    movl $DATA, %eax
    lldt %ax
    caught
    try "far jump to data"
    ljmpl $DATA, $1f
1:  caught
    try "far jump to a null selector"
    ljmpl $0, $1f
1:  caught
    try "far jump to ring 3"
    ljmpl $USER_CODE32, $1f
1:  caught
    try "far jump to conforming code"
    ljmpl $CONFORMING, $1f
1:  movl %cs, %eax
    ljmpl $CODE32, $1f
1:  caught
    show "cs there ", %eax
    try "int without a gate"
    int $0x60
    caught
    try "int beyond the table"
    lidtl short_idt
    int $0x60
    caught
    lidtl idt32_pointer
    try "retf to an outer ring"
    pushl $USER_DATA
    pushl $USER_STACK
    pushl $USER_CODE32
    pushl $1f
    lretl
1:  movl %cs, %eax
    ud2
    caught
    show "cs ", %eax

    # The LDT.
    movl $0x0000ffff, ldt + 8
    movl $0x00cf9200, ldt + 12
    movl $0x80000fff, ldt + 16
    movl $0x00409202, ldt + 20
    try "ldt without one"
    movl $0x0c, %eax
    movl %eax, %fs
    caught
    movl $LDT, %eax
    lldt %ax
    try "ldt"
    movl $0x0c, %eax
    movl %eax, %fs
    movl $0x14, %eax
    movl %eax, %gs
    movl $0xabcd, 0x28010
    movl %gs:0x10, %ebx
    sldtl %ecx
    caught
    show "through it ", %ebx
    show "its selector ", %ecx
    movl ldt + 12, %eax
    show "accessed ", %eax
    try "beyond the ldt"
    movl $0x1c, %eax
    movl %eax, %fs
    caught
    xorl %eax, %eax
    movl %eax, %gs
    movl %eax, %fs

    # What can be asked of selectors.
.macro ask selector
    movl $\selector, %ecx
    xorl %eax, %eax
    larl %ecx, %eax
    setz %bl
    andl $0xf0ff00, %eax                # the manual leaves the others open
    xorl %edx, %edx
    lsll %ecx, %edx
    setz %bh
    tell "selector ", %ecx
    tell " rights ", %eax
    tell " limit ", %edx
    verr %cx
    setz %al
    verw %cx
    setz %ah
    andl $0x101, %ebx
    tell " known ", %ebx
    movzwl %ax, %eax
    show " read, written ", %eax
.endm
    ask 0
    ask CODE32
    ask CODE64
    ask DATA
    ask USER_CODE32
    ask TSS_SELECTOR
    ask LDT
    ask GATE
    ask CONFORMING
    ask ABSENT
    ask EXECUTE_ONLY
    ask 0x0c
    ask 0x1ff8
    movl $0x10, %eax
    movl $0x23, %ecx
    arpl %cx, %ax
    setz %cl
    movzbl %cl, %ecx
    tell "arpl ", %eax
    show " changed ", %ecx

    # Ring 3.
.macro ring3_try name
    try "ring 3: \name"
    in_ring3
.endm
.macro ring3_caught
    ud2
    caught
.endm
    ring3_try "hlt"
    hlt
    ring3_caught
    ring3_try "cli"
    cli
    ring3_caught
    ring3_try "mov from cr0"
    movl %cr0, %eax
    ring3_caught
    ring3_try "mov to dr7"
    movl %eax, %dr7
    ring3_caught
    ring3_try "lgdt"
    lgdtl gdt_pointer
    ring3_caught
    ring3_try "clts"
    clts
    ring3_caught
    ring3_try "invlpg"
    invlpg 0
    ring3_caught
    ring3_try "rdmsr"
    rdmsr
    ring3_caught
    ring3_try "wbinvd"
    wbinvd
    ring3_caught
    ring3_try "smsw"
    smswl %eax
    ring3_caught
    ring3_try "out to a port that is allowed"
    outb %al, $0x80
    ring3_caught
    ring3_try "int to a gate of ring 0"
    int $0x0d
    ring3_caught
    ring3_try "int without a gate"
    int $0x60
    ring3_caught
    ring3_try "breakpoint by a gate of ring 0"
    int3
    ring3_caught
    ring3_try "ring-0 data to ds"
    pushl $DATA
    popl %ds
    ring3_caught
    ring3_try "far call to ring 0"
    lcalll $CODE32, $0x1234
    ring3_caught
    ring3_try "far call to conforming code"
    lcalll $CONFORMING, $user_conforming
    ring3_caught
    ring3_try "return to ring 0"
    pushl $CODE32
    pushl $0x1234
    lretl
    ring3_caught
    ring3_try "popf"
    pushl $0x3202
    popfl
    pushfl
    popl %ebx
    ring3_caught
    show "flags ", %ebx
    movb $0xee, idt32 + 3 * 8 + 5
    ring3_try "breakpoint"
    int3
    ring3_caught
    show "flags saved ", trap_flags
    show "esp saved ", trap_sp
    show "ss saved ", trap_ss
    movb $0xff, tss + TSS_BYTES + 0x80 / 8
    ring3_try "out to a port that is denied"
    outb %al, $0x80
    ring3_caught
    ring3_try "out to a word's second half"
    outw %ax, $0x7f
    ring3_caught
    movw $0x2000, tss + 102
    ring3_try "out beyond the bitmap"
    movw $0x3ff, %dx
    outb %al, %dx
    ring3_caught
    movw $TSS_BYTES, tss + 102
    try "ring 3 with IOPL 3: out, cli, sti"
    in_ring3 0x3002
    outb %al, $0x80
    sti
    cli
    ud2
    caught

    # Call gates.
    ring3_try "call gate"
    pushl $0x1111
    pushl $0x2222
    lcalll $GATE | 3, $0
    ring3_caught
    show "esp back there ", trap_sp
    show "cs back there ", trap_cs
    ring3_try "call gate of 16 bits"
    pushw $0x3333
    lcallw $GATE16 | 3, $0
    ring3_caught
    show "esp back there ", trap_sp
    try "call gate in ring 0"
    pushl $0x4444
    pushl $0x5555
    lcalll $GATE, $0
    caught
    movb $0x8c, gdt + GATE + 5
    ring3_try "call gate of ring 0"
    lcalll $GATE | 3, $0
    ring3_caught
    movb $0x6c, gdt + GATE + 5
    ring3_try "absent call gate"
    lcalll $GATE | 3, $0
    ring3_caught
    movb $0xec, gdt + GATE + 5

    # Tasks.
    describe SECOND_TASK, TSS_BYTES - 1, second, 0x0089
    describe SHORT_TASK, TSS_BYTES - 2, second, 0x0089
    describe ABSENT_TASK, TSS_BYTES - 1, second, 0x0009
    describe BAD_TASK, TSS_BYTES - 1, bad, 0x0089
    gate_to gdt + TASK_GATE, SECOND_TASK, 0, 0xe5
    gate_to idt32 + 0x30 * 8, SECOND_TASK, 0, 0xe5
.macro fill task, data_segment
    movl $task, \task + 32
    movl $2, \task + 36
    movl $0x77, \task + 40
    movl $0x28000, \task + 56
    movl $DATA, \task + 72
    movl $CODE32, \task + 76
    movl $DATA, \task + 80
    movl $\data_segment, \task + 84
    movl $LDT, \task + 96
.endm
    fill second, DATA
    fill bad, 0x1ff8
    movl $0x11, %ecx
    try "jump to a task"
    ljmpl $SECOND_TASK, $0
    caught
    call tell_task
    movl $task, second + 32
    try "call of a task"
    lcalll $SECOND_TASK, $0
    caught
    call tell_task
    try "call of a task gate"
    movl $task, second + 32
    lcalll $TASK_GATE, $0
    caught
    call tell_task
    try "interrupt by a task gate"
    movl $task, second + 32
    int $0x30
    caught
    call tell_task
    movl $task, second + 32
    ring3_try "a task gate"
    lcalll $TASK_GATE | 3, $0
    ring3_caught
    call tell_task
    try "jump to a busy task"
    ljmpl $TSS_SELECTOR, $0
    caught
    try "jump to a short task"
    ljmpl $SHORT_TASK, $0
    caught
    try "jump to an absent task"
    ljmpl $ABSENT_TASK, $0
    caught
    try "jump to a task with bad data"
    ljmpl $BAD_TASK, $0
    caught
    strl %eax
    show "tr ", %eax
    movl $TSS_SELECTOR, %eax
    andb $0xfd, gdt + TSS_SELECTOR + 5
    ltr %ax
    try "iret with NT and a bad link"
    movl $DATA, tss
    pushl $0x4002
    popfl
    iretl
    caught
    clts

    # Virtual-8086 mode.
.macro v86 name, flags
    try "v86: \name"
    pushl $0                            # gs, fs, ds, es
    pushl $0
    pushl $0x10
    pushl $0
    pushl $0x2000                       # ss, sp
    pushl $0xff00
    pushl $(0x20002 | \flags)
    pushl $0x10
    pushl $(6f - 0x100)
    iretl
    mode 16
6:
.endm
.macro v86_caught
    ud2
    mode 32
    caught
    andl $~0x10000, trap_flags          # RF is `cpu_strict.s`'s
    tell "  flags ", trap_flags
    tell " ss:sp ", trap_ss
    show ":", trap_sp
.endm
    movb $0, tss + TSS_BYTES + 0x402 / 8
    v86 "out to a port that is allowed", 0
    movw $DEBUG_PORT, %dx
    movb $'*', %al
    outb %al, %dx
    v86_caught
    v86 "out to a port that is denied", 0x3000
    outb %al, $0x80
    v86_caught
    v86 "cli without IOPL", 0
    cli
    v86_caught
    v86 "pushf without IOPL", 0x2000
    pushfw
    v86_caught
    v86 "cli, pushf, popf with IOPL", 0x3000
    cli
    pushfw
    popfw
    v86_caught
    v86 "int without IOPL", 0
    int $3
    v86_caught
    v86 "int3 without IOPL", 0
    int3
    v86_caught
    v86 "int with IOPL to a gate of ring 0", 0x3000
    int $0x0d
    v86_caught
    v86 "int with IOPL", 0x3000
    int $3
    v86_caught
    v86 "hlt", 0x3000
    hlt
    v86_caught
    v86 "lldt", 0x3000
    lldt %ax
    v86_caught
    v86 "mov from cr0", 0x3000
    movl %cr0, %eax
    v86_caught
    v86 "segments as in real mode", 0
    movw $0x1234, %ax
    movw %ax, %ds
    movw $0xffff, %bx
    movb (%bx), %al
    movw %ds, %cx
    v86_caught
    movzwl %cx, %ecx
    show "ds ", %ecx
    v86 "iret with IOPL", 0x3000
    pushfw
    pushw $0x20
    pushw $(1f - 0x200)
    iretw
1:  movw %cs, %cx
    v86_caught
    movzwl %cx, %ecx
    show "cs ", %ecx
    # With virtual-8086 extensions, software interrupts go by the program's own vectors where the map says so.
    movl $1, %eax
    cpuid
    andl $2, %edx
    show "extensions ", %edx
    testl %edx, %edx
    jz 1f
    movl %cr4, %eax
    orl $1, %eax
    movl %eax, %cr4
    movw $v86_routine, 0x21 * 4
    movw $0, 0x21 * 4 + 2
    v86 "int with extensions, redirected", 0
    xorw %cx, %cx
    int $0x21
    movw %cx, %bx
    v86_caught
    movzwl %cx, %ecx
    show "cx ", %ecx
    v86 "sti with extensions", 0
    sti
    pushfw
    popw %cx
    v86_caught
    movzwl %cx, %ecx
    show "flags pushed ", %ecx
1:  end

user_conforming:
    movl %cs, %eax
    ud2

# Called by gates: two parameters behind the return address.
by_gate:
    movl %cs, %eax
    tell " <gate: cs ", %eax
    movl %ss, %eax
    tell " ss ", %eax
    tell " esp ", %esp
    tell " parameters ", 8(%esp)
    tell " ", 12(%esp)
    tell " esp ", 16(%esp)
    print ">"
    lretl $8
by_gate16:
    movzwl 4(%esp), %eax
    tell " <gate of 16 bits: parameter ", %eax
    tell " esp ", %esp
    print ">"
    lretw $2

# What a task switch has left behind.
tell_task:
    strl %eax
    tell "  tr ", %eax
    movl gdt + TSS_SELECTOR + 4, %eax
    tell " first ", %eax
    movl gdt + SECOND_TASK + 4, %eax
    tell " second ", %eax
    movl %cr0, %eax
    andl $8, %eax
    tell " TS ", %eax
    pushfl
    popl %eax
    andl $0x4000, %eax
    tell " NT ", %eax
    tell " link ", second
    tell " eax ", second + 40
    tell " eip ", second + 32
    show " ecx ", %ecx
    clts
    ret

# The second task: goes back by iret if it was called, else by a jump.
task:
    strl %ebx
    tell " <task: tr ", %ebx
    tell " eax ", %eax
    pushfl
    popl %eax
    andl $0x4000, %eax
    tell " NT ", %eax
    tell " esp ", %esp
    print ">"
    incl %ecx
    testl %eax, %eax
    jz 1f
    iretl
    ud2
1:  ljmpl $TSS_SELECTOR, $0
    ud2

mode 16
v86_routine:
    incw %cx
    pushw %bp
    movw %sp, %bp
    movw 6(%bp), %ax
    popw %bp
    iretw
mode 32

.section .data, "aw"
.balign 8
short_idt:
    .word 0x1ff
    .long idt32

.section .bss, "aw", @nobits
.balign 8
ldt: .skip 24
.balign 8
second: .skip 104
bad: .skip 104
