# A guest that never rests (AT&T syntax, behind `bare.s`): prints `.` and jumps to itself, or writes to port 80h without end, as PORTS says.

mode 16
start:
    print "."
1:
.if PORTS
    outb %al, $0x80
.endif
    jmp 1b
