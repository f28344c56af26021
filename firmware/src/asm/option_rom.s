# An option ROM (AT&T syntax): says on the debug port that it runs, and says it again when it is to boot something, which it
# leaves to the next one.
#
# PCI Firmware Specification 3.0, 5.1 (header, PCI data structure); Plug and Play BIOS Specification 1.0A, 3.2 (expansion header
# with a bootstrap entry vector, as a network card has it). `option.ld` puts it at 0, so that labels are offsets in the ROM;
# `builder.rs` fills in the checksums.

.set DEBUG_PORT, 0x402

.section .text, "ax"
.code16
    .byte 0x55, 0xaa
    .byte 1                             # its length in units of 512 bytes
    jmp init
    .org 0x18
    .word pci
    .word pnp

# Registers are the firmware's to keep.
init:
    pushaw
    movw $runs, %si
    call puts
    popaw
    lretw

boot:
    movw $boots, %si
    call puts
    int $0x18                           # it boots nothing: the next one, please

puts:
    cld
    movw $DEBUG_PORT, %dx
1:  lodsb %cs:(%si), %al
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  ret

runs:
    .asciz "the option ROM runs\n"
boots:
    .asciz "the option ROM boots\n"

    .balign 16
pnp:
    .ascii "$PnP"
    .byte 1, 2                          # revision, length in units of 16 bytes
    .word 0                             # the next header
    .byte 0, 0                          # the checksum
    .long 0                             # the device
    .word 0, 0                          # manufacturer and product
    .byte 2, 0, 0, 4                    # an Ethernet controller that may boot
    .word 0, 0, boot, 0, 0

    .balign 4
pci:
    .ascii "PCIR"
    .word 0x1b36, 0x0005, 0, 24         # the numbers of pci-testdev; the structure's length
    .byte 0, 0, 0, 0
    .word 1, 0                          # one unit of 512 bytes
    .byte 0, 0x80                       # for PCs; the last image
    .word 0
