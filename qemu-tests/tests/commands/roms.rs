//! Guest programs: ROMs of 64 KiB that start at F0000h, in the assembler of the test's own compiler.
//!
//! Each says on the debug port 402h that it has come to its point, with a letter, and goes round a loop then.

/// Declares a program: the function that returns its bytes, the label of its start and the one of its end.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident, $($text:literal),+) => {
        core::arch::global_asm!(
            ".pushsection .rodata.guests, \"a\", @progbits",
            ".code16",
            concat!(stringify!($start), ":"),
            $($text,)+
            concat!(stringify!($end), ":"),
            ".code64",
            ".popsection",
            options(att_syntax)
        );

        $(#[$doc])*
        pub(crate) fn $name() -> Vec<u8> {
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            let (start, end) = (&raw const $start, &raw const $end);
            // SAFETY: the labels enclose the program's bytes, which nothing changes.
            rom(unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) })
        }
    };
}

/// A ROM with real-mode code at its start, where the reset vector jumps.
fn rom(code: &[u8]) -> Vec<u8> {
    let mut rom = vec![0xf4; 0x1_0000];
    rom[..code.len()].copy_from_slice(code);
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    // What a test finds at the reset vector differs from what stands anywhere else.
    rom[0xfff3..].copy_from_slice(b"thimble ROM\0\x7f");
    rom
}

program!(
    /// Counts its starts in the doubleword at 504h, and its rounds in the one at 500h.
    counter, counter_start, counter_end,
    "   xorw %ax, %ax
        movw %ax, %ds
        incl 0x504
        movw $0x402, %dx
        movb $'S', %al
        outb %al, %dx
    1:  incl 0x500
        jmp 1b"
);

program!(
    /// Prints `K`, and then every byte of the keyboard in two digits.
    keyboard, keyboard_start, keyboard_end,
    "   movw $0x402, %dx
        movb $'K', %al
        outb %al, %dx
    keyboard_next:
    1:  inb $0x64, %al
        testb $1, %al
        jz 1b
        inb $0x60, %al
        movb %al, %bl
        shrb $4, %al
        movw $(keyboard_low - keyboard_start), %di
        jmp 4f
    keyboard_low:
        movb %bl, %al
        andb $15, %al
        movw $(keyboard_next - keyboard_start), %di
    4:  addb $'0', %al
        cmpb $'9', %al
        jbe 5f
        addb $7, %al
    5:  outb %al, %dx
        jmp *%di"
);

program!(
    /// Fills 1000h to 8FFFh with words: the offset, with A55Ah exclusive-ored.
    pattern, pattern_start, pattern_end,
    "   xorw %ax, %ax
        movw %ax, %es
        movw $0x1000, %di
        cld
    1:  movw %di, %ax
        xorw $0xa55a, %ax
        stosw
        cmpw $0x9000, %di
        jb 1b
        movw $0x402, %dx
        movb $'W', %al
        outb %al, %dx
    2:  jmp 2b"
);

program!(
    /// Protected mode with 32-bit paging. The lowest 4 MiB are mapped one to one by pages of 4 KiB; 400000h is the page at
    /// 20000h, which is full of `A`, 401000h the one at 23000h, full of `B`; 402000h is not mapped; 800000h is a page of
    /// 4 MiB onto the lowest ones.
    paging_32, paging_32_start, paging_32_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl %cs:paging_32_gdtr - paging_32_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(0xf0000 + (paging_32_flat - paging_32_start))
    .code32
    paging_32_flat:
        movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        cld
        movl $0x11000, %edi
        movl $3, %eax
    1:  movl %eax, (%edi)
        addl $0x1000, %eax
        addl $4, %edi
        cmpl $0x12000, %edi
        jb 1b
        movl $0x11003, 0x10000
        movl $0x12003, 0x10004
        movl $0x00083, 0x10008
        movl $0x20003, 0x12000
        movl $0x23003, 0x12004
        movl $0x41414141, %eax
        movl $0x20000, %edi
        movl $0x400, %ecx
        rep stosl
        movl $0x42424242, %eax
        movl $0x23000, %edi
        movl $0x400, %ecx
        rep stosl
        movl $0x10, %eax
        movl %eax, %cr4
        movl $0x10000, %eax
        movl %eax, %cr3
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        movw $0x402, %dx
        movb $'P', %al
        outb %al, %dx
    2:  jmp 2b
    paging_32_gdt:
        .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    paging_32_gdtr:
        .word 23
        .long 0xf0000 + (paging_32_gdt - paging_32_start)"
);

program!(
    /// Long mode. The lowest 2 MiB are mapped one to one by a page of 2 MiB; 200000h is the page at 20000h, which is full of
    /// `A`, 201000h the one at 23000h, full of `B`; 202000h is not mapped; and all of it once more from FFFF800000000000h.
    paging_64, paging_64_start, paging_64_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl %cs:paging_64_gdtr - paging_64_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(0xf0000 + (paging_64_flat - paging_64_start))
    .code32
    paging_64_flat:
        movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        cld
        movl $0x11003, 0x10000
        movl $0x11003, 0x10800
        movl $0x12003, 0x11000
        movl $0x00083, 0x12000
        movl $0x13003, 0x12008
        movl $0x20003, 0x13000
        movl $0x23003, 0x13008
        movl $0x41414141, %eax
        movl $0x20000, %edi
        movl $0x400, %ecx
        rep stosl
        movl $0x42424242, %eax
        movl $0x23000, %edi
        movl $0x400, %ecx
        rep stosl
        movl $0x20, %eax
        movl %eax, %cr4
        movl $0x10000, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        xorl %edx, %edx
        movl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        ljmpl $24, $(0xf0000 + (paging_64_long - paging_64_start))
    .code64
    paging_64_long:
        movw $0x402, %dx
        movb $'P', %al
        outb %al, %dx
    2:  jmp 2b
    paging_64_gdt:
        .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
    paging_64_gdtr:
        .word 31
        .long 0xf0000 + (paging_64_gdt - paging_64_start)"
);

program!(
    /// Protected mode with PAE paging, and values in registers of the x87 and of SSE. The lowest 2 MiB are mapped one to one
    /// for everybody; behind them are pages of 4 KiB with every right and mark, NX too, below directories that forbid some of it.
    paging_pae, paging_pae_start, paging_pae_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl %cs:paging_pae_gdtr - paging_pae_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(0xf0000 + (paging_pae_flat - paging_pae_start))
    .code32
    paging_pae_flat:
        movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        movl $0x11001, 0x10000
        movl $0x12001, 0x10018
        movl $0x000e7, 0x11000
        movl $0x13027, 0x11008
        movl $0x14005, 0x11010
        movl $0x000e3, 0x12ff8
        movl $0x1501f, 0x12fe8
        movl $0x80000000, 0x12fec
        movl $0x20107, 0x13000
        movl $0x23003, 0x13008
        movl $0x24065, 0x13010
        movl $0x25003, 0x14000
        movl $0x26007, 0x14ff8
        movl $0x27187, 0x15000
        movl $0x28187, 0x15008
        movl $0xc0000080, %ecx
        xorl %edx, %edx
        movl $0x800, %eax
        wrmsr
        movl $0x6a0, %eax
        movl %eax, %cr4
        movl $0x10000, %eax
        movl %eax, %cr3
        movl %cr0, %eax
        andl $0x1fffffff, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        fninit
        fldpi
        fld1
        movl $0x12345678, %eax
        movd %eax, %xmm1
        pshufd $0x11, %xmm1, %xmm6
        movl $0x1234, %ebx
        movl %ebx, %dr0
        std
        movw $0x402, %dx
        movb $'P', %al
        outb %al, %dx
    2:  jmp 2b
    paging_pae_gdt:
        .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    paging_pae_gdtr:
        .word 23
        .long 0xf0000 + (paging_pae_gdt - paging_pae_start)"
);

program!(
    /// Protected mode, with something else than at power-on in the local APIC, the I/O APIC and both PICs. No interrupt comes.
    controllers, controllers_start, controllers_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl %cs:controllers_gdtr - controllers_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(0xf0000 + (controllers_flat - controllers_start))
    .code32
    controllers_flat:
        movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        movl $0xfee00000, %edi
        movl $0x1a5, 0xf0(%edi)
        movl $0x30, 0x80(%edi)
        movl $0x0f000000, 0xe0(%edi)
        movl $0x04000000, 0xd0(%edi)
        movl $0x000300f1, 0x320(%edi)
        movl $0x0001a0e2, 0x350(%edi)
        movl $0x00010400, 0x360(%edi)
        movl $0x000000e3, 0x370(%edi)
        movl $0xb, 0x3e0(%edi)
        movl $0x07000000, 0x310(%edi)
        movl $0x000408c5, 0x300(%edi)
        movl $0xfec00000, %edi
        movl $0x17, (%edi)
        movl $0x0a000000, 0x10(%edi)
        movl $0x16, (%edi)
        movl $0x000189b2, 0x10(%edi)
        movl $0x2f, (%edi)
        movl $0xff000000, 0x10(%edi)
        movl $0x2e, (%edi)
        movl $0x0001a4fe, 0x10(%edi)
        movb $0x11, %al
        outb %al, $0x20
        movb $0x20, %al
        outb %al, $0x21
        movb $4, %al
        outb %al, $0x21
        movb $1, %al
        outb %al, $0x21
        movb $0xfa, %al
        outb %al, $0x21
        movb $0xc3, %al
        outb %al, $0x20
        movb $0x0b, %al
        outb %al, $0x20
        movb $0x11, %al
        outb %al, $0xa0
        movb $0x78, %al
        outb %al, $0xa1
        movb $2, %al
        outb %al, $0xa1
        movb $0x11, %al
        outb %al, $0xa1
        movb $0x0c, %al
        movw $0x4d1, %dx
        outb %al, %dx
        movw $0x402, %dx
        movb $'P', %al
        outb %al, %dx
    2:  jmp 2b
    controllers_gdt:
        .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    controllers_gdtr:
        .word 23
        .long 0xf0000 + (controllers_gdt - controllers_start)"
);

program!(
    /// Real mode: an interrupt and two exceptions of software's own making, #DE and #UD, and prints `P`. The handler skips what
    /// faults, two bytes.
    vectors_16, vectors_16_start, vectors_16_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %ss
        movw $0x7c00, %sp
        movw $(vectors_16_handler - vectors_16_start), %ax
        movw %ax, 0
        movw %ax, 0x0c
        movw %ax, 0x18
        movw %ax, 0x100
        movw $0xf000, %ax
        movw %ax, 2
        movw %ax, 0x0e
        movw %ax, 0x1a
        movw %ax, 0x102
        ljmpw $0xf000, $(vectors_16_low - vectors_16_start)
    vectors_16_low:
        xorw %cx, %cx
        int $0x40
        int3
        incw %cx
        xorw %bx, %bx
        divw %bx
        ud2
        movw $3, %cx
    1:  decw %cx
        jnz 1b
        movw $0x402, %dx
        movb $'P', %al
        outb %al, %dx
    2:  jmp 2b
    vectors_16_handler:
        jcxz 3f
        pushw %bp
        movw %sp, %bp
        addw $2, 2(%bp)
        popw %bp
    3:  iretw"
);

program!(
    /// Long mode, the lowest 2 MiB mapped one to one: interrupts and exceptions, with error codes and without, and prints `P`.
    vectors_64, vectors_64_start, vectors_64_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl %cs:vectors_64_gdtr - vectors_64_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(0xf0000 + (vectors_64_flat - vectors_64_start))
    .code32
    vectors_64_flat:
        movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $0x9000, %esp
        movl $0x11003, 0x10000
        movl $0x12003, 0x11000
        movl $0x00083, 0x12000
        movl $0x14000, %edi
    1:  movl $(0x180000 + (vectors_64_handler - vectors_64_start)), (%edi)
        movl $0x000f8e00, 4(%edi)
        movl $0, 8(%edi)
        movl $0, 12(%edi)
        addl $16, %edi
        cmpl $0x14410, %edi
        jb 1b
        movl $0x20, %eax
        movl %eax, %cr4
        movl $0x10000, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        xorl %edx, %edx
        movl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        ljmpl $24, $(0xf0000 + (vectors_64_long - vectors_64_start))
    .code64
    vectors_64_long:
        lidt vectors_64_idtr(%rip)
        leaq 1f(%rip), %rbx
        int $0x40
    1:  leaq 1f(%rip), %rbx
        int3
    1:  leaq 1f(%rip), %rbx
        xorl %ecx, %ecx
        movl $0x1234, %eax
        divl %ecx
    1:  leaq 1f(%rip), %rbx
        ud2
    1:  leaq 1f(%rip), %rbx
        movq $-1, %rax
        shrq %rax
        movq (%rax), %rcx
    1:  leaq 1f(%rip), %rbx
        movq $0x203456, %rax
        movl %ecx, (%rax)
    1:  leaq 1f(%rip), %rbx
        movw $0x50, %ax
        movw %ax, %ds
    1:  movw $0x402, %dx
        movb $'P', %al
        outb %al, %dx
    2:  jmp 2b
    vectors_64_handler:
        movl $0x9000, %esp
        jmp *%rbx
    vectors_64_gdt:
        .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
    vectors_64_gdtr:
        .word 31
        .long 0xf0000 + (vectors_64_gdt - vectors_64_start)
    vectors_64_idtr:
        .word 0x40f
        .quad 0x14000"
);

/// The doubleword at ROM offset F00h goes into the local APIC's LVT entry of LINT1 (SDM volume 3, 11.5.1).
fn with_lint1(mut rom: Vec<u8>, entry: u32) -> Vec<u8> {
    rom[0xf00..0xf04].copy_from_slice(&entry.to_le_bytes());
    rom
}

/// NMIs that come over LINT1 are taken.
pub(crate) fn nmi() -> Vec<u8> {
    with_lint1(nmi_program(), 0x400)
}

/// NMIs that come over LINT1 are masked.
pub(crate) fn nmi_masked() -> Vec<u8> {
    with_lint1(nmi_program(), 0x1_0400)
}

program!(
    /// Real mode, with a handler of vector 2 that prints `N`, and a loop that counts at 500h. Protected mode is only for the local APIC,
    /// which lies too high for real mode.
    nmi_program, nmi_start, nmi_end,
    "   cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl %cs:nmi_gdtr - nmi_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(0xf0000 + (nmi_flat - nmi_start))
    .code32
    nmi_flat:
        movw $16, %ax
        movw %ax, %ds
        movl $0x1ff, 0xfee000f0
        movl 0xf0f00, %eax
        movl %eax, 0xfee00360
        movw $32, %ax
        movw %ax, %ds
        ljmpl $24, $(nmi_narrow - nmi_start)
    .code16
    nmi_narrow:
        movl %cr0, %eax
        andb $0xfe, %al
        movl %eax, %cr0
        ljmpw $0xf000, $(nmi_real - nmi_start)
    nmi_real:
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %ss
        movw $0x8000, %sp
        movw $(nmi_handler - nmi_start), 8
        movw $0xf000, 10
        movw $0x402, %dx
        movb $'R', %al
        outb %al, %dx
    1:  incl 0x500
        jmp 1b
    nmi_handler:
        movw $0x402, %dx
        movb $'N', %al
        outb %al, %dx
        iretw
    nmi_gdt:
        .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
        .quad 0x00009b0f0000ffff, 0x000093000000ffff
    nmi_gdtr:
        .word 39
        .long 0xf0000 + (nmi_gdt - nmi_start)"
);

program!(
    /// Sends `s` over the first serial port, on and on.
    serial, serial_start, serial_end,
    "1: movw $0x3fd, %dx
    2:  inb %dx, %al
        testb $0x20, %al
        jz 2b
        movw $0x3f8, %dx
        movb $'s', %al
        outb %al, %dx
        jmp 1b"
);

program!(
    /// Resets the machine by the chip set's reset control register, CF9h.
    reset_cf9, reset_cf9_start, reset_cf9_end,
    "   movw $0xcf9, %dx
        movb $2, %al
        outb %al, %dx
        movb $6, %al
        outb %al, %dx
    1:  jmp 1b"
);

program!(
    /// Resets the machine by the keyboard controller's pulse on its output 0.
    reset_64, reset_64_start, reset_64_end,
    "   movb $0xfe, %al
        outb %al, $0x64
    1:  jmp 1b"
);

program!(
    /// Resets the machine by a triple fault: there is no descriptor for the exception, nor for the one after it. The first is a general
    /// protection fault by a selector behind the descriptor table.
    triple_fault, triple_fault_start, triple_fault_end,
    "   cli
        lidtl %cs:triple_fault_zero - triple_fault_start
        lgdtl %cs:triple_fault_zero - triple_fault_start
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        movw $0x40, %ax
        movw %ax, %ds
    1:  jmp 1b
    triple_fault_zero:
        .word 0
        .long 0"
);

program!(
    /// Ends the process by the test device at port F4h, with status 33.
    debug_exit, debug_exit_start, debug_exit_end,
    "   movb $16, %al
        outb %al, $0xf4
    1:  jmp 1b"
);

program!(
    /// Starts the watchdog `ib700` with the shortest time, none at all, and counts at 500h.
    watchdog, watchdog_start, watchdog_end,
    "   xorw %ax, %ax
        movw %ax, %ds
        movw $0x402, %dx
        movb $'D', %al
        outb %al, %dx
        movw $0x443, %dx
        movb $0x0f, %al
        outb %al, %dx
    1:  incl 0x500
        jmp 1b"
);

program!(
    /// Tells the device `pvpanic` of a panic, and counts at 500h.
    panic, panic_start, panic_end,
    "   xorw %ax, %ax
        movw %ax, %ds
        movw $0x505, %dx
        movb $1, %al
        outb %al, %dx
    1:  incl 0x500
        jmp 1b"
);

program!(
    /// Sets the hour of the real-time clock to 0 to 23 in turn, with a pause of 55 ms by the timer after the first, and prints `C`.
    clock_setter, clock_setter_start, clock_setter_end,
    "   movb $0x0b, %al
        outb %al, $0x70
        movb $0x06, %al
        outb %al, $0x71
        movb $0, %bl
    1:  movb $0x04, %al
        outb %al, $0x70
        movb %bl, %al
        outb %al, $0x71
        testb %bl, %bl
        jnz 3f
        movb $0x01, %al
        outb %al, $0x61
        movb $0xb0, %al
        outb %al, $0x43
        movb $0xff, %al
        outb %al, $0x42
        outb %al, $0x42
    2:  inb $0x61, %al
        testb $0x20, %al
        jz 2b
    3:  incb %bl
        cmpb $24, %bl
        jb 1b
        movw $0x402, %dx
        movb $'C', %al
        outb %al, %dx
    4:  jmp 4b"
);

/// Common instructions, in the code of the mode that the directive tells. Not to be run: to be looked at.
macro_rules! listing {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident, $mode:literal, $more:literal) => {
        program!(
            $(#[$doc])*
            $name, $start, $end,
            $mode,
            $more,
            "
            cli; cld; hlt; nop; leave; lahf; cmc; int3; int $0x80; wait
            xorl %eax, %eax
            xorw %bx, %bx
            movb $0x41, %al
            movw $0x402, %dx
            movl $0x12345678, %ecx
            movw %ax, %ds
            movw %es, %bx
            outb %al, %dx
            inl $0x71, %eax
            outw %ax, $0x80
            addb $-3, %cl
            addl $-3, %ecx
            subl $0x80, %ecx
            andl $-16, %esp
            orw $0xff00, %di
            cmpl $9, %esi
            testb $1, %al
            incl %ecx
            negw %dx
            imull $100, %eax, %edx
            imulw %cx, %dx
            divl %ebx
            shll $4, %eax
            shrw %cl, %bx
            sarl $1, %ecx
            rolw $8, %ax
            shldl $3, %eax, %edx
            btsl $5, %eax
            bsrl %eax, %ecx
            cmovel %eax, %ebx
            setne %al
            movzbl %al, %ecx
            movsbl %ah, %edx
            movzwl %cx, %eax
            xchgl %eax, %ebx
            xaddl %eax, %ebx
            bswapl %eax
            cpuid; rdtsc; wrmsr; rdmsr
            movb $0, (%ebx)
            movl %eax, 8(%ebx,%ecx,4)
            movl -0x1234(%ebp), %eax
            movl (,%ecx,8), %eax
            lock; incl (%ebx)
            lock; cmpxchgl %ecx, (%ebx)
            movl %fs:(%ebx), %eax
            leal -1(%eax,%eax), %edx
            rep; movsb
            rep; stosl
            repne; scasb
            lodsb
            insb
            outsl
            fldl (%ebx)
            fadds 4(%ebx)
            faddp %st, %st(1)
            fsubr %st, %st(2)
            fildl (%ebx)
            fistpll (%ebx)
            fnstcw (%ebx)
            fnstsw %ax
            fninit
            movd %eax, %mm1
            paddw %mm1, %mm2
            1: jmp 1b
            jne 1b
            call 1b
            loop 1b
            ret
            lret
            "
        );
    };
}

listing!(
    /// Besides: what 16-bit code is full of.
    listing_16, listing_16_start, listing_16_end,
    ".code16",
    "   pushw %ds
        popw %es
        pushaw
        popal
        pushfw
        ljmpw $0xf000, $0xe05b
        lcalll $8, $0x12345678
        lgdtl %cs:0x1234
        lidtw (%bx)
        movl %cr0, %eax
        smsww %ax
        daa; aaa
        movb %es:-1(%bx,%si), %al
        movw (%bp,%di), %dx
        movw 0x46c, %ax
        movb %al, 0x410
        lesw (%bx), %di
        jcxz 1f
        1:
        iretw
        lretw $4
        enter $0x10, $1"
);

listing!(
    /// Besides: what is of protected mode.
    listing_32, listing_32_start, listing_32_end,
    ".code32",
    "   pushl %ebp
        popl %ebx
        pushl $-5
        pushl $0x12345
        pushal
        pushfl
        ljmpl $8, $0x1234
        ljmpl *(%eax)
        lgdtl 0x1000
        lldtw %ax
        ltrw %bx
        strl %eax
        verr %cx
        larl %eax, %ebx
        arpl %ax, %bx
        invlpg (%eax)
        movl %eax, %cr3
        movl %dr7, %eax
        movl $1, 0xb8000
        calll *4(%eax)
        jmpl *%eax
        bound %eax, (%ebx)
        decl %eax
        cwtl; cltd; pause
        iretl
        movaps (%eax), %xmm1
        addsd %xmm1, %xmm2
        pshufd $0x1b, %xmm1, %xmm2
        cvtsi2ssl %eax, %xmm0
        cmpltps %xmm1, %xmm2"
);

listing!(
    /// Besides: what is of 64-bit mode.
    listing_64, listing_64_start, listing_64_end,
    ".code64",
    "   pushq %rbp
        popq %r12
        pushq $-5
        movabsq $0x123456789abcdef0, %rax
        movabsl 0x123456789abcdef0, %eax
        movq $-1, %rcx
        movq %rsp, %rbp
        movb %sil, %r8b
        movl (%r8,%r9,8), %r10d
        leaq 0x1000(%rip), %rax
        addq $0x12345, 8(%rsp)
        andq $-16, %rsp
        movslq %eax, %rdx
        callq *%rax
        jmpq *(%rax,%rbx,8)
        movq %cr3, %rax
        movq %rax, %cr8
        movq %gs:0x10, %rax
        syscall; sysretq; swapgs; iretq
        cqto; cltq; pause
        stosq
        lgdt (%rax)
        rdfsbaseq %rax
        cmpxchg16b (%rax)
        popcntq %rax, %rbx
        crc32b %al, %ecx
        andnl %eax, %ebx, %ecx
        movdqu %xmm8, (%rax)
        punpcklbw %xmm1, %xmm9
        cvttsd2si %xmm1, %rax
        endbr64
        ud2"
);

program!(
    /// Says `S` when it starts and `W` when it wakes up, of which CMOS tells, and then why: `B` for the button, `R` for the clock. Starts
    /// are counted at 504h: it sleeps after the first; sleeps after the second and is woken by the clock's alarm, of each second; goes to
    /// no sleep but for states that are none after the third, and says `G`; sleeps after the fourth; and suspends to disk after the fifth.
    sleeper, sleeper_start, sleeper_end,
    "   xorw %ax, %ax
        movw %ax, %ds
        movb $0xd4, %al                 # the mouse reports
        outb %al, $0x64
        movb $0xf4, %al
        outb %al, $0x60
        movl $0x80000b40, %eax          # the power-management ports
        movw $0xcf8, %dx
        outl %eax, %dx
        movl $0x601, %eax
        movw $0xcfc, %dx
        outl %eax, %dx
        movl $0x80000b80, %eax
        movw $0xcf8, %dx
        outl %eax, %dx
        movl $1, %eax
        movw $0xcfc, %dx
        outl %eax, %dx
        movb $0x0f, %al
        outb %al, $0x70
        inb $0x71, %al
        movb %al, %bl
        xorb %al, %al
        outb %al, $0x71
        movw $0x600, %dx
        inw %dx, %ax
        movw %ax, %cx
        movw $0x402, %dx
        movb $'S', %al
        cmpb $0xfe, %bl
        jne 2f
        movb $'W', %al
        outb %al, %dx
        movb $'B', %al
        cmpb $0x81, %ch
        je 2f
        movb $'R', %al
        cmpb $0x84, %ch
        je 2f
        movb $'?', %al
    2:  outb %al, %dx
        incl 0x504
        movl 0x504, %ebx
        cmpb $2, %bl
        jne 3f
        movw $0x600, %dx                # what has woken it is forgotten, and the clock may wake it
        movw $0xffff, %ax
        outw %ax, %dx
        movw $0x602, %dx
        movw $0x400, %ax
        outw %ax, %dx
        movw $0xff01, %ax               # an alarm each second
        call 9f
        movw $0xff03, %ax
        call 9f
        movw $0xff05, %ax
        call 9f
        movw $0x220b, %ax
        call 9f
    3:  cmpb $3, %bl
        jne 5f
        movw $0x2c00, %ax               # states 3 to 7
    4:  movw $0x604, %dx
        outw %ax, %dx
        addw $0x400, %ax
        cmpw $0x4000, %ax
        jne 4b
        movw $0x402, %dx
        movb $'G', %al
        outb %al, %dx
        jmp 8f
    5:  movw $0x604, %dx
        movw $0x2400, %ax
        cmpb $5, %bl
        jb 6f
        movw $0x2800, %ax
    6:  outw %ax, %dx
    8:  incl 0x500
        jmp 8b
    9:  outb %al, $0x70
        movb %ah, %al
        outb %al, $0x71
        ret"
);
