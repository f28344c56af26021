# What the manual asks for and translators are known to leave out: limits of segments above all (AT&T syntax, behind `bare.s`).
#
# Intel SDM volume 3: 5.3 (limit checking), 20.1 (real-address mode), volume 2: LOCK.

.set FAR, 0x150000
.set READ_ONLY, 0x58
.set SMALL, 0x60
.set DOWN, 0x68
.set DIRECTORY, 0x10000

mode 16
start:
    call set_vectors
    try "lock of a load"
    .byte 0xf0, 0x8b, 0x07
    caught
    # Limits of 64 KiB.
    movw $0xffff, %bx
    try "byte at ffff"
    movb (%bx), %al
    caught
    try "word at ffff"
    movw (%bx), %ax
    caught
    try "word at ffff of ss"
    movw %ss:(%bx), %ax
    caught
    try "beyond 64 KiB"
    movl $0x10000, %ebx
    movb (%ebx), %al
    caught
    try "doubleword at fffe"
    movw $0xfffe, %bx
    movl (%bx), %eax
    caught
    try "string across the end"
    movw $0xffff, %si
    movw $0xd800, %di
    movw $2, %cx
    rep movsw
    caught
    movzwl %cx, %ecx
    movzwl %si, %esi
    show "words left ", %ecx
    show "at ", %esi


    # Unreal mode: only fs has another limit.
    lgdtl gdt_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    jmp 1f
1:  movw $DATA, %bx
    movw %bx, %fs
    andb $0xfe, %al
    movl %eax, %cr0
    jmp 1f
1:  movl $FAR, %ebx
    try "fs with 4 GiB"
    movl %fs:(%ebx), %eax
    caught
    try "not so ds"
    movl (%ebx), %eax
    caught

    # Protected mode.
    xorl %eax, %eax
    xorl %ebx, %ebx
    enter_protected
    movl $0x0000ffff, gdt + READ_ONLY
    movl $0x00cf9000, gdt + READ_ONLY + 4
    movl $0x000000ff, gdt + SMALL
    movl $0x00409200, gdt + SMALL + 4
    movl $0x00000fff, gdt + DOWN        # from 1000h on
    movl $0x00409600, gdt + DOWN + 4
    try "read-only to fs"
    movl $READ_ONLY, %eax
    movl %eax, %fs
    movl %fs:0x1000, %eax
    movl %eax, %fs:0x1000
    caught
    xorl %eax, %eax
    movl %eax, %fs
    try "null used"
    movl %fs:0x1000, %eax
    caught
    try "write to code"
    movl %eax, %cs:0x1000
    caught
    movl $SMALL, %eax
    movl %eax, %fs
    try "last byte"
    movb %fs:0xff, %al
    caught
    try "behind the last byte"
    movb %fs:0x100, %al
    caught
    try "across the last byte"
    movl %fs:0xfd, %eax
    caught
    try "far beyond"
    movl $-4, %ebx
    movl %fs:(%ebx), %eax
    caught
    movl $DOWN, %eax
    movl %eax, %fs
    try "expand-down, first byte"
    movb %fs:0x1000, %al
    caught
    try "expand-down, below"
    movb %fs:0xfff, %al
    caught
    try "lock of a store"
    .byte 0xf0, 0x89, 0x05
    .long 0x28000
    caught
    try "flags of a fault"
    pushl $2
    popfl
    ud2
    caught
    show "flags ", trap_flags

    # Reserved bits of entries of page tables.
    xorl %eax, %eax
    movl %eax, %fs
    movl $0x10, %eax                    # PSE
    movl %eax, %cr4
    movl $0x87, DIRECTORY
    movl $0x200087, DIRECTORY + 4       # bit 21 in a page of 4 MiB
    movl $DIRECTORY, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    try "reserved bit of a large page: read"
    movl 0x400000, %eax
    caught
    try "reserved bit of a large page: write"
    movl %eax, 0x400000
    caught
    movl %cr0, %eax
    andl $~0x80000000, %eax
    movl %eax, %cr0
    movl $(DIRECTORY + 0x1001), DIRECTORY
    movl $0x87, DIRECTORY + 0x1000
    movl $0x87, DIRECTORY + 0x1008
    movl $0x80000, DIRECTORY + 0x100c   # beyond the widest address
    movl $0x20, %eax                    # PAE
    movl %eax, %cr4
    movl $0, DIRECTORY + 4
    movl $DIRECTORY, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    movl 0x1000, %ecx
    show "pointer, used: ", DIRECTORY
    try "address beyond the widest"
    movl 0x200000, %eax
    caught
    try "execution disable without NXE"
    movl $0x80000000, DIRECTORY + 0x100c
    movl %cr3, %eax
    movl %eax, %cr3
    movl 0x200000, %eax
    caught
    try "reserved bits of a pointer"
    movl $0x1e7, DIRECTORY + 8
    movl %cr3, %eax
    movl %eax, %cr3
    caught

    # Long mode: addresses that are not canonical.
    movl %cr0, %eax
    andl $~0x80000000, %eax
    movl %eax, %cr0
    enter_long
    movabsq $0x800000000000, %rbx
    try "not canonical: read by rbp"
    movq %rbx, %rbp
    movl (%rbp), %eax
    caught
    try "not canonical: jump"
    jmpq *%rbx
    caught
    try "not canonical: return"
    pushq %rbx
    ret
    caught
    try "not canonical: iret"
    pushq $DATA
    pushq $STACK
    pushq $2
    pushq $CODE64
    pushq %rbx
    iretq
    caught
    try "across the gap"
    movabsq $0x7ffffffffffd, %rbx
    movq (%rbx), %rax
    caught
    try "reserved bits of cr8"
    movl $0x10, %eax
    movq %rax, %cr8
    caught
    try "general detect"
    movl $0x2400, %eax
    movq %rax, %dr7
    movq %dr0, %rax
    caught
    movq %dr6, %rax
    show "cause ", %rax
    movl $0x400, %eax
    movq %rax, %dr7
    try "int1"
    .byte 0xf1
    caught
    end
