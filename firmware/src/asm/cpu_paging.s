# Paging in all its forms, with the faults that it makes (AT&T syntax, behind `bare.s`): error codes, CR2, accessed and dirty bits.
#
# Intel SDM volume 3: 4 (paging), 2.5 (control registers). Reserved bits of entries are in `cpu_strict.s`. What a translation cache may keep is not asked for: entries are changed
# only where INVLPG or a write to CR3 follows.

.set FRAME, 0x30000
.set DIRECTORY, 0x10000
.set TABLE, 0x11000
.set POINTERS, 0x12000
.set PAE_DIRECTORY, 0x13000
.set PAE_TABLE, 0x14000
.set TEST, 0x400000
.set LONG_TABLE, 0x18000

.macro in_ring3
.if BITS == 64
    pushq $USER_DATA
    pushq $USER_STACK
    pushq $2
    pushq $USER_CODE64
    pushq $6f
    iretq
.else
    pushl $USER_DATA
    pushl $USER_STACK
    pushl $2
    pushl $USER_CODE32
    pushl $6f
    iretl
.endif
6:
.endm

# Reads, writes and runs what is at ebx, in ring 0 and in ring 3. There, vector 6 says that all went well.
.macro touches name, address
\name:
    show "page ", \address
    try "  read"
    movl (\address), %eax
    caught
    try "  write"
    movb $0xc3, (\address)
    caught
    try "  run"
    by_mode "", "call *%ebx", "call *%rbx"
    caught
    try "  read in ring 3"
    in_ring3
    movl %ss:(\address), %eax
    ud2
    caught
    try "  write in ring 3"
    in_ring3
    movb $0xc3, %ss:(\address)
    ud2
    caught
    try "  run in ring 3"
    in_ring3
    by_mode "", "call *%ebx", "call *%rbx"
    ud2
    caught
    ret
.endm

.macro with control, set, clear = 0
    by_mode "", "movl %\control, %eax", "movq %\control, %rax"
    andl $~(\clear), %eax
    orl $(\set), %eax
    by_mode "", "movl %eax, %\control", "movq %rax, %\control"
.endm

mode 16
start:
    enter_protected
    movl $(STACK - 0x800), tss + 4
    movl $DATA, tss + 8
    movw $TSS_SELECTOR, %ax
    ltr %ax
    movb $0xc3, FRAME

    # 32-bit paging.
    with cr4, 0x10                      # PSE
    movl $0x87, DIRECTORY
    movl $(TABLE + 7), DIRECTORY + 4
    movl $(TABLE + 5), DIRECTORY + 16
    movl $(TABLE + 3), DIRECTORY + 20
    movl $(FRAME + 7), TABLE
    movl $(FRAME + 5), TABLE + 4
    movl $(FRAME + 3), TABLE + 8
    movl $(FRAME + 1), TABLE + 12
    movl $0, TABLE + 16
    movl $(FRAME + 6), TABLE + 20
    movl $DIRECTORY, %eax
    movl %eax, %cr3
    with cr0, 0x80000000
    print "32-bit paging\n"
    call touch_all
    print "with write protection\n"
    with cr0, 0x10000
    call touch_all
    show "table: ", TABLE
    show "read only: ", TABLE + 4
    show "supervisor's: ", TABLE + 8
    show "supervisor's, read only: ", TABLE + 12
    show "absent: ", TABLE + 16
    show "directory: ", DIRECTORY
    show "to the table: ", DIRECTORY + 4
    movl $(FRAME + 0x1007), TABLE
    movl $0x600d, FRAME + 0x1000
    invlpg TEST
    movl TEST, %eax
    show "another frame: ", %eax
    show "its entry: ", TABLE
    try "across pages"
    movl $(FRAME + 0x2007), TABLE + 12
    invlpg TEST + 0x3000
    movl $0x11223344, TEST + 0x3ffe
    caught
    movl FRAME + 0x2ffc, %eax
    show "nothing of it is written: ", %eax
    with cr0, 0, 0x10000

    # PAE.
    with cr0, 0, 0x80000000
    movl $(PAE_DIRECTORY + 1), POINTERS
    movl $0x87, PAE_DIRECTORY
    movl $(PAE_TABLE + 7), PAE_DIRECTORY + 16
    movl $(FRAME + 7), PAE_TABLE
    movl $(FRAME + 5), PAE_TABLE + 8
    movl $(FRAME + 3), PAE_TABLE + 16
    movl $(FRAME + 1), PAE_TABLE + 24
    movl $(FRAME + 7), PAE_TABLE + 32
    movl $0x80000000, PAE_TABLE + 36    # never to be run
    movl $0x87, PAE_DIRECTORY + 24
    movl $0x80000000, PAE_DIRECTORY + 28
    with cr4, 0x20
    movl $POINTERS, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER: NXE
    rdmsr
    orl $0x800, %eax
    wrmsr
    with cr0, 0x80000000
    print "PAE\n"
    call touch_pae
    show "table: ", PAE_TABLE
    show "read only: ", PAE_TABLE + 8
    show "never run: ", PAE_TABLE + 32
    show "never run, high: ", PAE_TABLE + 36
    show "to the table: ", PAE_DIRECTORY + 16
    show "large: ", PAE_DIRECTORY + 24
    movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    andl $0x100080, %ebx                # SMEP, SMAP
    show "features ", %ebx
    testl $0x80, %ebx
    jz 1f
    # The image's own page is everybody's: a page of its own for ring 0 is in the way of neither.
    andl $~4, PAE_DIRECTORY
    movl %cr3, %eax
    movl %eax, %cr3
    print "execution prevention\n"
    with cr4, 0x100000
    movl $TEST, %ebx
    try "run"
    call *%ebx
    caught
    movl $(TEST + 0x2000), %ebx
    try "run the supervisor's"
    call *%ebx
    caught
    print "access prevention\n"
    with cr4, 0x200000, 0x100000
    try "read"
    movl TEST, %eax
    caught
    try "write"
    movb $0xc3, TEST
    caught
    try "write to what is read only"
    movb $0xc3, TEST + 0x1000
    caught
    try "read with AC"
    .byte 0x0f, 0x01, 0xcb              # stac
    movl TEST, %eax
    .byte 0x0f, 0x01, 0xca              # clac
    caught
    pushl $2
    popfl
    with cr4, 0, 0x300000
    orl $4, PAE_DIRECTORY
1:
    try "cr1"
    .byte 0x0f, 0x20, 0xc8
    caught
    movl %cr0, %eax
    show "cr0 ", %eax
    movl %cr4, %eax
    show "cr4 ", %eax
    with cr0, 0, 0x80000000

    # Four levels.
    enter_long
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x800, %eax
    wrmsr
    movq $(LONG_TABLE + 7), PD + 16     # for 400000h
    movq $(FRAME + 7), LONG_TABLE
    movq $(FRAME + 5), LONG_TABLE + 8
    movq $(FRAME + 3), LONG_TABLE + 16
    movq $(FRAME + 1), LONG_TABLE + 24
    movabsq $(0x8000000000000000 + FRAME + 7), %rax
    movq %rax, LONG_TABLE + 32
    movabsq $(0x7ff0000000000e00 + FRAME + 7), %rax # bits that are software's
    movq %rax, LONG_TABLE + 40
    movq %cr3, %rax
    movq %rax, %cr3
    print "four levels\n"
    movl $TEST, %ebx
1:  call touch64
    addl $0x1000, %ebx
    cmpl $(TEST + 0x7000), %ebx
    jne 1b
    movabsq $0x8000000000, %rbx         # no table of level 3
    call touch64
    movabsq $0x800000000000, %rbx
    try "not canonical: read"
    movl (%rbx), %eax
    caught
    try "not canonical: fs base"
    movl $0xc0000100, %ecx
    xorl %eax, %eax
    movl $0x8000, %edx
    wrmsr
    caught
    show "table: ", LONG_TABLE
    show "read only: ", LONG_TABLE + 8
    show "software's bits: ", LONG_TABLE + 40
    show "directory: ", PD + 16
    show "level 4: ", PML4
    movl $0x80000001, %eax
    cpuid
    andl $0x4000000, %edx               # pages of 1 GiB
    show "huge pages ", %rdx
    testl %edx, %edx
    jz 1f
    movq $0x87, PDPT + 8
    movl $0x40000000, %ebx
    try "huge page"
    movl FRAME(%rbx), %eax
    caught
1:  movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    andl $8, %ecx                       # protection keys
    show "keys ", %rcx
    testl %ecx, %ecx
    jz 1f
    with cr4, 0x400000
    movabsq $(0x0800000000000000 + FRAME + 7), %rax # key 1
    movq %rax, LONG_TABLE
    movq %cr3, %rax
    movq %rax, %cr3
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $8, %eax                       # key 1: no writes
    .byte 0x0f, 0x01, 0xef              # wrpkru
    movl $TEST, %ebx
    call touch64
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $4, %eax                       # key 1: no access
    .byte 0x0f, 0x01, 0xef
    call touch64
    xorl %ecx, %ecx
    .byte 0x0f, 0x01, 0xee              # rdpkru
    show "rights ", %rax
    try "wrpkru with ecx"
    movl $1, %ecx
    .byte 0x0f, 0x01, 0xef
    caught
1:
    movq %cr8, %rax
    show "cr8 ", %rax
    end

mode 32
touch_all:
    movl $TEST, %ebx
1:  call touch32
    addl $0x1000, %ebx
    cmpl $(TEST + 0x6000), %ebx
    jne 1b
    movl $(TEST * 2), %ebx
    call touch32
    movl $(TEST * 4), %ebx
    call touch32
    movl $(TEST * 5), %ebx
    jmp touch32
touch_pae:
    movl $TEST, %ebx
1:  call touch32
    addl $0x1000, %ebx
    cmpl $(TEST + 0x5000), %ebx
    jne 1b
    movl $(0x600000 + FRAME), %ebx
    call touch32
    movl $0x40000000, %ebx              # no directory
    jmp touch32
touches touch32, "%ebx"
mode 64
touches touch64, "%rbx"
