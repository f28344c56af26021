# What the software CPU does in a second, in 64-bit mode (AT&T syntax, behind `bare.s` and `phase.s`). Counts are exact but for a handful of
# instructions around the loops.

mode 16
start:
    enter_protected
    enter_long

# Integer arithmetic: ten instructions a turn.
.set TURNS, 30000000
    phase "integer", TURNS * 10
    movl $TURNS, %ecx
    movl $12345, %eax
    xorl %ebx, %ebx
    movl $77, %edx
    xorl %esi, %esi
.balign 16
1:  addq %rax, %rbx
    imulq $0x343fd, %rax, %rax
    addq $0x269ec3, %rax
    movq %rbx, %rdx
    shrq $7, %rdx
    xorq %rdx, %rsi
    leaq 5(%rsi,%rax,4), %rdi
    andl $0xffff, %edi
    decl %ecx
    jnz 1b
    phase_ends

# Loads and stores: 6 instructions a word, 64 KiB at a time.
.set TURNS, 1400
    phase "copy", TURNS * 8192 * 6
    movl $TURNS, %ebx
1:  movl $SOURCE, %esi
    movl $TARGET, %edi
    movl $8192, %ecx
2:  movq (%rsi), %rax
    movq %rax, (%rdi)
    addq $8, %rsi
    addq $8, %rdi
    decl %ecx
    jnz 2b
    decl %ebx
    jnz 1b
    phase_ends

# The same by one instruction, counted by its words.
.set TURNS, 20000
    phase "movsq", TURNS * 8192
    movl $TURNS, %ebx
1:  movl $SOURCE, %esi
    movl $TARGET, %edi
    movl $8192, %ecx
    rep movsq
    decl %ebx
    jnz 1b
    phase_ends

# Calls, returns, jumps through a table and branches that follow pseudo-random data: 16.5 instructions a turn on average, as one of the
# two ways at `odd` is one instruction shorter.
.set TURNS, 2000000
    phase "branches", TURNS * 33 / 2
    movl $TURNS, %ecx
    movl $1, %eax
    xorl %ebx, %ebx
.balign 16
1:  imull $1103515245, %eax, %eax
    addl $12345, %eax
    movl %eax, %edx
    shrl $16, %edx
    testl $1, %edx
    jz 2f
    addl $3, %ebx
    jmp 3f
2:  xorl $5, %ebx
3:  shrl $3, %edx
    andl $3, %edx
    jmpq *ways(, %rdx, 8)
way0:
    call leaf
    jmp 4f
way1:
    call leaf
    jmp 4f
way2:
    call leaf
    jmp 4f
way3:
    call leaf
    jmp 4f
4:  decl %ecx
    jnz 1b
    phase_ends

# Exceptions of ring 0: ud2, its handler's two instructions, and what closes the loop.
    movl $skip_ud2, %eax
    movw %ax, idt64 + 6 * 16
.set TURNS, 600000
    phase "exceptions", TURNS * 5
    movl $TURNS, %ecx
1:  ud2
    decl %ecx
    jnz 1b
    phase_ends

# System calls from ring 3.
    movl $0xc0000081, %ecx              # STAR
    xorl %eax, %eax
    movl $(CODE64 | (USER_CODE32 << 16)), %edx
    wrmsr
    incl %ecx                           # LSTAR
    movl $service, %eax
    xorl %edx, %edx
    wrmsr
    addl $2, %ecx                       # FMASK
    xorl %eax, %eax
    wrmsr
.set TURNS, 3000000
    phase "syscalls", TURNS * 7
    movl $ring3, %ecx
    movl $2, %r11d
    movl $TURNS, %ebx
    sysretq
ring3:
    xorl %eax, %eax
    syscall
    decl %ebx
    jnz ring3
    movl $1, %eax
    syscall
service:
    testl %eax, %eax
    jnz 1f
    sysretq
1:  movl $STACK, %esp
    phase_ends

# Port I/O, and memory-mapped I/O: a register of the I/O APIC.
.set TURNS, 1500000
    phase "ports", TURNS * 3
    movl $TURNS, %ecx
1:  outb %al, $0x80
    decl %ecx
    jnz 1b
    phase_ends
    phase "registers", TURNS * 3
    movl $TURNS, %ecx
    movl $0xfec00000, %esi
1:  movl (%rsi), %eax
    decl %ecx
    jnz 1b
    phase_ends
    end

.balign 16
leaf:
    addl %edx, %ebx
    ret
skip_ud2:
    addq $2, (%rsp)
    iretq

.section .rodata, "a"
.balign 8
ways: .quad way0, way1, way2, way3
