//! A processor's registers as text, for the terminal when a guest can not go on.

use std::fmt::Write;

use kvm_bindings::{kvm_dtable, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::vm::Vm;

/// Code bytes before and from the instruction pointer on.
const CODE_BEFORE: u64 = 16;
const CODE_BYTES: usize = 48;

/// Registers, segments, control registers and the code around the instruction pointer, which
/// stands in angle brackets. What can not be read is left out.
pub(super) fn dump(vm: &Vm, fd: &VcpuFd) -> String {
    let mut text = String::new();
    let _ = write_dump(vm, fd, &mut text);
    text
}

fn write_dump(vm: &Vm, fd: &VcpuFd, to: &mut String) -> std::fmt::Result {
    let (Ok(r), Ok(s)) = (fd.get_regs(), fd.get_sregs()) else {
        return writeln!(to, "the registers can not be read");
    };
    for row in [
        [
            ("RAX", r.rax),
            ("RBX", r.rbx),
            ("RCX", r.rcx),
            ("RDX", r.rdx),
        ],
        [
            ("RSI", r.rsi),
            ("RDI", r.rdi),
            ("RBP", r.rbp),
            ("RSP", r.rsp),
        ],
        [("R8 ", r.r8), ("R9 ", r.r9), ("R10", r.r10), ("R11", r.r11)],
        [
            ("R12", r.r12),
            ("R13", r.r13),
            ("R14", r.r14),
            ("R15", r.r15),
        ],
    ] {
        let row = row.map(|(name, value)| format!("{name}={value:016x}"));
        writeln!(to, "{}", row.join(" "))?;
    }
    let flags = [
        (11, 'O'),
        (10, 'D'),
        (7, 'S'),
        (6, 'Z'),
        (4, 'A'),
        (2, 'P'),
        (0, 'C'),
    ];
    let flags: String = flags
        .iter()
        .map(|(bit, name)| if r.rflags >> bit & 1 != 0 { *name } else { '-' })
        .collect();
    let cpl = s.ss.dpl;
    writeln!(
        to,
        "RIP={:016x} RFL={:08x} [{flags}] CPL={cpl}",
        r.rip, r.rflags
    )?;
    for (name, segment) in [
        ("ES", &s.es),
        ("CS", &s.cs),
        ("SS", &s.ss),
        ("DS", &s.ds),
        ("FS", &s.fs),
        ("GS", &s.gs),
        ("LDT", &s.ldt),
        ("TR", &s.tr),
    ] {
        write_segment(to, name, segment)?;
    }
    for (name, table) in [("GDT", &s.gdt), ("IDT", &s.idt)] {
        let kvm_dtable { base, limit, .. } = table;
        writeln!(to, "{name}=     {base:016x} {limit:08x}")?;
    }
    let (cr0, cr2, cr3, cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    writeln!(
        to,
        "CR0={cr0:08x} CR2={cr2:016x} CR3={cr3:016x} CR4={cr4:08x}"
    )?;
    writeln!(to, "EFER={:016x}", s.efer)?;
    let pc = s.cs.base.wrapping_add(r.rip);
    write!(to, "Code=")?;
    for i in 0..CODE_BYTES as u64 {
        let linear = pc.wrapping_sub(CODE_BEFORE).wrapping_add(i);
        let mut byte = [0];
        let known = fd.translate_gva(linear).is_ok_and(|translation| {
            translation.valid != 0 && vm.read_memory(translation.physical_address, &mut byte) == 1
        });
        let text = if known {
            format!("{:02x}", byte[0])
        } else {
            "??".into()
        };
        if i == CODE_BEFORE {
            write!(to, "<{text}> ")?;
        } else {
            write!(to, "{text} ")?;
        }
    }
    to.truncate(to.trim_end().len());
    writeln!(to)
}

fn write_segment(to: &mut String, name: &str, s: &kvm_segment) -> std::fmt::Result {
    let attributes = u32::from(s.type_)
        | u32::from(s.s) << 4
        | u32::from(s.dpl) << 5
        | u32::from(s.present) << 7
        | u32::from(s.avl) << 12
        | u32::from(s.l) << 13
        | u32::from(s.db) << 14
        | u32::from(s.g) << 15;
    let (selector, base, limit) = (s.selector, s.base, s.limit);
    writeln!(
        to,
        "{name:<3}={selector:04x} {base:016x} {limit:08x} {:08x} DPL={}",
        attributes << 8,
        s.dpl
    )
}
