# A guest that waits (AT&T syntax, behind `bare.s`): prints `.` and halts, with the interval timer at 100 Hz or with interrupts off, as TICKS says.
#
# Intel 8254 and 8259A data sheets.

mode 16
start:
.if TICKS
    movw $tick, 0x20
    movw $0, 0x22
    movb $0x11, %al                     # ICW1 to ICW4: vectors from 8 on, as PCs have them
    outb %al, $0x20
    movb $8, %al
    outb %al, $0x21
    movb $4, %al
    outb %al, $0x21
    movb $1, %al
    outb %al, $0x21
    movb $0xfe, %al                     # the timer alone
    outb %al, $0x21
    movb $0x34, %al                     # counter 0, rate generator
    outb %al, $0x43
    movb $(11932 & 255), %al
    outb %al, $0x40
    movb $(11932 >> 8), %al
    outb %al, $0x40
    print "."
    sti
.else
    print "."
.endif
1:  hlt
    jmp 1b
tick:
    pushw %ax
    movb $0x20, %al
    outb %al, $0x20
    popw %ax
    iretw
