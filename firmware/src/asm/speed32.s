# What the software CPU does in a second, in 32-bit protected mode with paging (AT&T syntax, behind `bare.s` and `phase.s`): see `speed64.s`.

mode 16
start:
    enter_protected
    movl $0x10, %eax                    # PSE
    movl %eax, %cr4
    movl $0x83, TABLES
    movl $(0xfec00000 + 0x83), TABLES + 0xfec
    movl $TABLES, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    jmp 1f
1:

.set TURNS, 8000000
    phase "integer", TURNS * 10
    movl $TURNS, %ecx
    movl $12345, %eax
    xorl %ebx, %ebx
    xorl %esi, %esi
.balign 16
1:  addl %eax, %ebx
    imull $0x343fd, %eax, %eax
    addl $0x269ec3, %eax
    movl %ebx, %edx
    shrl $7, %edx
    xorl %edx, %esi
    leal 5(%esi,%eax,4), %edi
    andl $0xffff, %edi
    decl %ecx
    jnz 1b
    phase_ends

.set TURNS, 350
    phase "copy", TURNS * 16384 * 6
    movl $TURNS, %ebx
1:  movl $SOURCE, %esi
    movl $TARGET, %edi
    movl $16384, %ecx
2:  movl (%esi), %eax
    movl %eax, (%edi)
    addl $4, %esi
    addl $4, %edi
    decl %ecx
    jnz 2b
    decl %ebx
    jnz 1b
    phase_ends

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
    jmpl *ways(, %edx, 4)
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
    end

.balign 16
leaf:
    addl %edx, %ebx
    ret

.section .rodata, "a"
.balign 4
ways: .long way0, way1, way2, way3
