//! Exceptions taken from ring 3: vector, error code, CR2, and how far the saved instruction pointer is from the instruction.
#![no_std]
#![no_main]

use core::arch::asm;

use thimble_firmware::{power, say, trap};

thimble_firmware::image!(main);

/// Runs instructions that fault and prints what came; execution goes on behind them.
macro_rules! probe {
    ($name:literal, $($code:literal),+ $(, in $register:tt = $value:expr)*) => {{
        let start: u64;
        trap::forget();
        // SAFETY: the handler resumes at label 3; named registers are declared, and no instruction before the fault writes memory that is in use.
        unsafe {
            asm!(
                "lea {start}, [rip + 3f]",
                "mov qword ptr [trap_resume], {start}",
                "lea {start}, [rip + 2f]",
                "2:",
                $($code,)+
                "3:",
                "mov qword ptr [trap_resume], 0",
                start = out(reg) start,
                $(in($register) $value,)*
                out("rax") _, out("rdx") _,
            );
        }
        let trap = trap::last();
        let page_fault = if trap.vector == 14 { trap.cr2 } else { 0 };
        say!(concat!($name, ": vector {} error {:x} cr2 {:x} rip+{:x}"), trap.vector, trap.error, page_fault, if trap.vector == trap::NONE { 0 } else { trap.rip.wrapping_sub(start) });
    }};
}

fn main() -> ! {
    probe!("div by zero", "xor edx, edx", "xor eax, eax", "div rdx");
    probe!(
        "div overflow",
        "mov edx, 1",
        "xor eax, eax",
        "div dl",
        "mov ah, 2",
        "div dl"
    );
    probe!("int3", "int3");
    probe!("ud2", "ud2");
    probe!("hlt", "hlt");
    probe!("int without gate", "int 0x80");
    probe!("int to a ring-0 gate", "int 0x21");
    probe!("mov from cr0", "mov rax, cr0");
    probe!("wrmsr", "wrmsr");
    probe!("lgdt", "lgdt [0x1000]");
    probe!("null selector to ss", "xor eax, eax", "mov ss, ax");
    probe!("selector beyond the GDT", "mov eax, 0x1ff8", "mov ds, ax");
    probe!("ring-0 selector", "mov eax, 0x10", "mov ds, ax");
    probe!("non-canonical read", "mov rax, [rcx]", in "rcx" = 0x8000_0000_0000_0000u64);
    probe!("unmapped read", "mov rax, [rcx]", in "rcx" = 0x40_0000_0000u64);
    probe!("unmapped write", "mov [rcx], rax", in "rcx" = 0x12_3456_7000u64);
    probe!("unmapped jump", "jmp rcx", in "rcx" = 0x20_0000_0000u64);
    probe!("misaligned sse", "movaps xmm0, [rcx]", in "rcx" = 0xff_ff01u64);
    probe!(
        "sse divide by zero",
        "mov edx, 0x1d80",
        "push rdx",
        "ldmxcsr [rsp]",
        "pop rdx",
        "pxor xmm0, xmm0",
        "mov eax, 1",
        "cvtsi2sd xmm1, eax",
        "divsd xmm1, xmm0"
    );
    // SAFETY: back to the default, with all exceptions masked.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &0x1f80u32) };
    probe!("single step", "push 0x102", "popfq", "nop");
    for vector in [0, 1, 3, 6, 13, 14, 19] {
        say!("count {vector} {}", trap::count(vector));
    }
    power::end(power::DONE)
}
