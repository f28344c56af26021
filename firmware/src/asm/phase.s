# Phases of images that are measured (AT&T syntax): each prints its name and the number of its instructions as a line, then `<`, works,
# and prints `>`. The time between the two marks is the phase's; the line is known before it.

.macro phase name, instructions
    print "\name "
    by_mode "pushl $(\instructions)", "pushl $(\instructions)", "pushq $(\instructions)"
    by_mode "call hex16", "call hex32", "call hex64"
    by_mode "leal 4(%esp), %esp", "leal 4(%esp), %esp", "leaq 8(%rsp), %rsp"
    print "\n<"
.endm

.macro phase_ends
    print ">"
.endm

# The pages of the two don't share places in a translation cache that is indexed by a page's number: that would be another measure.
.set SOURCE, 0x200000
.set TARGET, 0x311000
