# A kernel that prints on the debug port what its loader has told it, and in which state it was entered (AT&T syntax).
#
# Multiboot Specification 0.6.96, sections 3.2 and 3.3; Xen's public headers `arch-x86/hvm/start_info.h` and `elfnote.h`. It prints what
# every loader must or usually does tell; addresses and sizes that each PC firmware chooses for itself are left out.
#
# `print.s` comes first. HEADER is set in front of both files: 1 for a multiboot header, 0 for a PVH note. The header's addresses count
# only where somebody sets flag 16 in a flat copy of the file.

.set MULTIBOOT_MAGIC, 0x1badb002

.section .header, "ax"
.balign 4
.if HEADER
header:
    .long MULTIBOOT_MAGIC, 0, -MULTIBOOT_MAGIC
    .long header, image_start, data_end, bss_end, start
.endif

.if !HEADER
.section .note.Xen, "a", @note
.balign 4
    .long 4, 4, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start
.endif

.section .text, "ax"
.code32
.globl start
start:
    movl $stack, %esp
    pushfl
    popl flags
    andl $0x3ff00, flags                # but for those of arithmetic
    movl %eax, first_eax
    movl %ebx, %ebp
    print_hex "cr0 ", %cr0
    print_hex "cr4 ", %cr4
    print_hex "eflags ", flags
    xorl %edi, %edi
    movl %cs, %edi
    print_hex "cs ", %edi
    movl %ds, %edi
    print_hex "ds ", %edi
    movl %es, %edi
    print_hex "es ", %edi
    movl %ss, %edi
    print_hex "ss ", %edi
    # What of .bss the file lacks is zero.
    movl $bss_start, %esi
    movl $bss_probe_end, %ecx
    subl %esi, %ecx
    call sum
    print_hex "sum of bss ", %edx
.if HEADER
    print_hex "eax ", first_eax
    call tell_multiboot
.else
    call tell_pvh
.endif
    call tell_cpuid
    # A20: two places, or one. Last, since the loader may have put there what it tells.
    movl $0x11111111, 0x600
    movl $0x22222222, 0x100600
    print_hex "at 600 ", 0x600
    movb $0x10, %al
    outb %al, $DEBUG_EXIT
1:  cli
    hlt
    jmp 1b

tell_multiboot:
    print_hex "flags ", (%ebp)
    print_hex "lower memory ", 4(%ebp)
    print_hex "boot device ", 12(%ebp)
    print "command line: "
    movl 16(%ebp), %esi
    call line
    print_hex "modules ", 20(%ebp)
    movl 20(%ebp), %ebx
    movl 24(%ebp), %edi
1:  testl %ebx, %ebx
    jz 2f
    movl (%edi), %edx
    andl $0xfff, %edx                   # on a page boundary, wherever it is
    print_hex "module at page offset ", %edx
    movl 4(%edi), %edx
    subl (%edi), %edx
    print_hex "bytes ", %edx
    print_hex "reserved ", 12(%edi)
    movl (%edi), %esi
    movl 4(%edi), %ecx
    subl %esi, %ecx
    call sum
    print_hex "sum ", %edx
    print "text: "
    movl 8(%edi), %esi
    call line
    addl $16, %edi
    decl %ebx
    jmp 1b
2:  movl $probes, %ebx
3:  movl (%ebx), %edx
    cmpl $-1, %edx
    je 6f
    movl 48(%ebp), %edi
    movl 44(%ebp), %ecx
    addl %edi, %ecx
    xorl %eax, %eax                     # the type of what the map leaves out
4:  cmpl %ecx, %edi
    jae 5f
    call entry
    addl (%edi), %edi
    addl $4, %edi
    jmp 4b
5:  call tell_probe
    jmp 3b
6:  ret

# The type in eax becomes that of the map's entry at edi + 4 (address, length, type) if edx lies in it.
entry:
    cmpl $0, 8(%edi)                    # above 4 GiB
    jne 1f
    cmpl 4(%edi), %edx
    jb 1f
    movl %edx, %esi
    subl 4(%edi), %esi
    cmpl $0, 16(%edi)
    jne 2f
    cmpl 12(%edi), %esi
    jae 1f
2:  movl 20(%edi), %eax
1:  ret

# Prints the probe at ebx with its type, and goes on to the next one.
tell_probe:
    pushl %eax
    print_hex "memory at ", (%ebx)
    popl %edi
    print_hex "type ", %edi
    addl $4, %ebx
    ret

tell_pvh:
    print_hex "magic ", (%ebp)
    print_hex "version ", 4(%ebp)
    print_hex "flags ", 8(%ebp)
    print "command line: "
    movl 24(%ebp), %esi
    call line
    print_hex "modules ", 12(%ebp)
    movl 12(%ebp), %ebx
    movl 16(%ebp), %edi
1:  testl %ebx, %ebx
    jz 2f
    print_hex "bytes ", 8(%edi)
    print_hex "text at ", 16(%edi)
    movl (%edi), %esi
    movl 8(%edi), %ecx
    call sum
    print_hex "sum ", %edx
    addl $32, %edi
    decl %ebx
    jmp 1b
2:  movl $probes, %ebx
3:  movl (%ebx), %edx
    cmpl $-1, %edx
    je 6f
    movl 40(%ebp), %edi
    movl 48(%ebp), %ecx
    xorl %eax, %eax
    subl $4, %edi
4:  testl %ecx, %ecx
    jz 5f
    call entry
    addl $24, %edi
    decl %ecx
    jmp 4b
5:  call tell_probe
    jmp 3b
6:  ret

# Features that an emulator can switch on and off, and the vendor.
tell_cpuid:
    xorl %eax, %eax
    cpuid
    movl %ebx, vendor
    movl %edx, vendor + 4
    movl %ecx, vendor + 8
    print "vendor "
    movl $vendor, %esi
    call line
    movl $1, %eax
    cpuid
    movl %edx, %edi
    movl %ecx, %ebx
    andl $0x00002000, %ebx              # CX16
    print_hex "leaf 1 ecx ", %ebx
    andl $0x07808101, %edi              # SSE2, SSE, FXSR, MMX, CMOV, CX8, FPU
    print_hex "leaf 1 edx ", %edi
    movl $0x80000001, %eax
    cpuid
    movl %edx, %edi
    andl $0x00000001, %ecx              # LAHF in long mode
    movl %ecx, %ebx
    print_hex "leaf 80000001 ecx ", %ebx
    andl $0x20100000, %edi              # long mode, NX
    print_hex "leaf 80000001 edx ", %edi
    ret

# Sum of the ecx bytes at esi, in edx.
sum:
    xorl %edx, %edx
    xorl %eax, %eax
1:  testl %ecx, %ecx
    jz 2f
    lodsb
    addl %eax, %edx
    decl %ecx
    jmp 1b
2:  ret

.section .rodata, "a"
.balign 4
probes: .long 0, 0x8000, 0x9f000, 0x9ffff, 0xa0000, 0xb8000, 0xf0000, 0xfffff, 0x100000, 0x1fffff, 0x3000000, 0xfffffff0, -1

.section .bss, "aw", @nobits
.balign 16
bss_probe: .skip 0x1800
bss_probe_end:
first_eax: .skip 4
flags: .skip 4
vendor: .skip 16
.balign 16
    .skip 0x400
stack:
