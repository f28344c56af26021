# The boot ROM (AT&T syntax): starts the kernel that fw_cfg tells of, or says that there is none; and lets a kernel go on that slept.
#
# It knows no file formats: the machine has put down what is to be done, as a table of transfers for fw_cfg's DMA interface
# (QEMU's docs/specs/fw_cfg). The table is the item BF00h: count of transfers, entry point, EAX, EBX, ESI, whether the segments are
# to be Linux', address of the FACS or 0, 0: 32 bits each, little-endian;
# then the transfers, 16 bytes each, which the device takes as they are. All of that lies in the item's first 1024 bytes.
#
# The kernel is entered as multiboot 1, PVH and Linux ask for: 32-bit protected mode with flat segments, no paging, interrupts off, A20 open.
# Only integer instructions that every processor has are used, and a few dozen of them, because the processor may be an emulated one.
#
# Memory: the table in the last KiB of base memory, which PCs keep for firmware, and a few bytes below it. The stack there is the
# kernel's too until it has its own.
#
# After suspend to RAM, of which CMOS tells, a kernel goes on at the waking vector that it has put into the FACS, in real mode (ACPI 6.4,
# sections 5.2.10 and 16.3). Its memory is as it left it: all that is written then is in the last KiB of base memory. A kernel that has
# put down no vector is started anew.

.set TABLE, 0x9fc00
.set TABLE_BYTES, 1024
.set REQUEST, TABLE - 16
.set STACK, REQUEST
.set SCRATCH, 0x4f0                     # the BIOS data area's bytes for anyone
.set BOOT_KEY, 0xbf00
.set FW_CFG, 0x510
.set FW_CFG_DATA, 0x511
.set FW_CFG_DMA, 0x514
.set CODE, 0x08
.set DATA, 0x10
.set LINUX_CODE, 0x10                   # __BOOT_CS
.set LINUX_DATA, 0x18                   # __BOOT_DS
.set DEBUG_PORT, 0x402
.set COM1, 0x3f8
.set HEAD_BYTES, 32                     # of the table, but for transfers
.set HEAD_FACS, 24
.set WAKE_REQUEST, TABLE + HEAD_BYTES
.set WAKE_STACK, 0xa0000
.set FACS_VECTOR, 12                    # Firmware_Waking_Vector
.set CMOS, 0x70
.set SHUTDOWN_STATUS, 0x0f
.set RESUME, 0xfe                       # QEMU's word for the end of a sleep
.set CODE16, 0x18
.set DATA16, 0x20

.section .reset, "ax"
.code16
.globl reset
reset:
    .byte 0xe9                          # jmp start16; the wrap at 64 KiB is beyond what the linker accepts
    .word start16 - 0xEFFF3
    .fill 13, 1, 0x90

.section .text.start, "ax"
start16:
    cli
    cld
    xorl %ebp, %ebp                     # 1: a sleep has ended
    movb $SHUTDOWN_STATUS, %al
    outb %al, $CMOS
    inb $(CMOS + 1), %al
    cmpb $RESUME, %al
    jne 2f
    xorb %al, %al                       # the next start is another one
    outb %al, $(CMOS + 1)
    incl %ebp
    jmp 1f
    # A guest that jumps here to start again has devices as it left them. After a reset the GDT's base is 0 (SDM volume 3,
    # table 9-1), after protected mode it is not: then a triple fault resets the machine.
2:  sgdtl SCRATCH
    cmpl $0, SCRATCH + 2
    je 1f
    lidtl %cs:(no_idt - 0xF0000)
    int3
1:  lgdtl %cs:(gdt_pointer - 0xF0000)
    movl $0x11, %eax                    # ET, PE; the caches on
    movl %eax, %cr0
    ljmpl $CODE, $start32

.code32
start32:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
begin:
    movl $STACK, %esp
    movl $REQUEST, %ebx
    movl $TABLE_BYTES, %ecx
    testl %ebp, %ebp
    jz 1f
    movl $WAKE_STACK, %esp
    movl $WAKE_REQUEST, %ebx
    movl $HEAD_BYTES, %ecx
1:
    # The device's mark is the item that is selected by zero.
    xorl %eax, %eax
    movw $FW_CFG, %dx
    outw %ax, %dx
    incl %edx
    inb %dx, %al
    cmpb $'Q', %al
    movl $no_device, %esi
    jne stop

    # Key, SELECT and READ; the length; where to: all of it big-endian.
    movl $(((BOOT_KEY & 0xff) << 8 | BOOT_KEY >> 8) | 0x0a000000), (%ebx)
    bswapl %ecx
    movl %ecx, 4(%ebx)
    movl $0, 8(%ebx)
    movl $((TABLE & 0xff) << 24 | (TABLE & 0xff00) << 8 | (TABLE & 0xff0000) >> 8), 12(%ebx)
    call transfer
    testl %ebp, %ebp
    jnz wake
    movl $no_kernel, %esi
    movl TABLE, %edi
    testl %edi, %edi
    jz stop

    movl $(TABLE + 32), %ebx
1:  call transfer
    addl $16, %ebx
    decl %edi
    jnz 1b

    # A kernel that knows nothing of the 8259s hears nothing of them.
    movb $0xff, %al
    outb %al, $0x21
    outb %al, $0xa1
    movl TABLE + 4, %edx
    movl TABLE + 8, %eax
    movl TABLE + 12, %ebx
    movl TABLE + 16, %esi
    cmpl $0, TABLE + 20
    je 2f
    lgdtl linux_gdt_pointer
    movl $LINUX_DATA, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    movl %ecx, %fs
    movl %ecx, %gs
    movl %ecx, %ss
    ljmpl $LINUX_CODE, $2f
2:  xorl %ebp, %ebp                     # edi is 0 by now
    pushl $2                            # no flag but the one that is always set
    popfl
    jmpl *%edx

# To where the kernel wants to go on, a physical address below 1 MiB.
wake:
    xorl %ebp, %ebp
    movl TABLE + HEAD_FACS, %eax
    testl %eax, %eax
    jz begin
    movl FACS_VECTOR(%eax), %ebx
    testl %ebx, %ebx
    jz begin
    movl %ebx, %edx
    shrl $4, %edx                       # CS
    andl $15, %ebx                      # IP
    movl $DATA16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    ljmpl $CODE16, $(wake16 - 0xF0000)
.code16
wake16:
    movl $0x10, %eax                    # ET
    movl %eax, %cr0
    ljmpw $0xF000, $(1f - 0xF0000)
1:  xorl %eax, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw $((WAKE_STACK - 0x400) >> 4), %ax
    movw %ax, %ss
    movw $0x400, %sp
    pushw %dx
    pushw %bx
    lretw
.code32

# Does the transfer at ebx. Its first word is 0 when it is through, or has the error bit, in its last byte.
transfer:
    movw $FW_CFG_DMA, %dx
    xorl %eax, %eax
    outl %eax, %dx
    addl $4, %edx
    movl %ebx, %eax
    bswapl %eax
    outl %eax, %dx
1:  movl (%ebx), %eax
    testl $0x01000000, %eax
    jnz 2f
    testl %eax, %eax
    jnz 1b
    ret
2:  movl $failed, %esi

# Says the text at esi on the debug port and COM1, and stops for good.
stop:
    movl $prefix, %ebx
    call say
    movl %esi, %ebx
    call say
    movb $0xff, %al                     # no interrupt is wanted any more
    outb %al, $0x21
    outb %al, $0xa1
1:  cli
    hlt
    jmp 1b

say:
1:  movb (%ebx), %al
    testb %al, %al
    jz 3f
    movw $DEBUG_PORT, %dx
    outb %al, %dx
    cmpb $'\n', %al
    jne 2f
    movb $'\r', %al
    call serial
    movb $'\n', %al
2:  call serial
    incl %ebx
    jmp 1b
3:  ret

# Sends al over COM1; a port that is absent reads FFh and is left alone, one that is stuck is given up.
serial:
    movb %al, %ah
    movl $0x10000, %ecx
1:  movw $(COM1 + 5), %dx
    inb %dx, %al
    cmpb $0xff, %al
    je 2f
    testb $0x20, %al                    # the transmitter holding register is empty
    jnz 3f
    decl %ecx
    jnz 1b
2:  ret
3:  movw $COM1, %dx
    movb %ah, %al
    outb %al, %dx
    ret

.section .rodata.boot, "a"
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 08 code
    .quad 0x00cf93000000ffff            # 10 data
    .quad 0x00009b0f0000ffff            # 18 code of 16 bits, as real mode has it
    .quad 0x000093000000ffff            # 20 data of 16 bits
gdt_pointer:
    .word 39
    .long gdt
no_idt:
    .word 0
    .long 0
linux_gdt_pointer:
    .word 31
    .long linux_gdt
.balign 8
linux_gdt:
    .quad 0
    .quad 0
    .quad 0x00cf9b000000ffff            # 10 code
    .quad 0x00cf93000000ffff            # 18 data

prefix: .asciz "Thimble boot ROM: "
no_device: .asciz "no kernel: there is no fw_cfg device to get one from\n"
no_kernel: .asciz "no kernel: give one with -kernel, or other firmware with -bios\n"
failed: .asciz "fw_cfg failed while the kernel was read\n"
