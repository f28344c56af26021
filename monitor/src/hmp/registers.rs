//! A processor's registers as `info registers` shows them: general, segment, control and debug registers, x87 and SSE.
//!
//! Registers are as wide as the code that runs; descriptor tables and control registers as long mode makes them. Not
//! shown: the upper halves of AVX and AVX-512 registers.

use core::fmt::{self, Write as _};

use thimble_core::cpu::{Activity, CpuState, DescriptorTable, Segment, gpr};

use super::Text;

/// CR0.PE.
const PROTECTED: u64 = 1;
/// RFLAGS.VM.
const VIRTUAL_8086: u64 = 1 << 17;
/// EFER.LMA.
const LONG_MODE: u64 = 1 << 10;

/// In the order in which they are shown.
const NAMES: [(&str, usize); 8] = [
    ("AX", gpr::RAX),
    ("BX", gpr::RBX),
    ("CX", gpr::RCX),
    ("DX", gpr::RDX),
    ("SI", gpr::RSI),
    ("DI", gpr::RDI),
    ("BP", gpr::RBP),
    ("SP", gpr::RSP),
];

const FLAGS: [(u32, char); 7] = [
    (10, 'D'),
    (11, 'O'),
    (7, 'S'),
    (6, 'Z'),
    (4, 'A'),
    (2, 'P'),
    (0, 'C'),
];

/// Types of system descriptors outside of long mode, and in it (Intel SDM volume 3, table "System-Segment and
/// Gate-Descriptor Types").
const SYSTEM: [[&str; 16]; 2] = [
    [
        "Reserved",
        "TSS16-avl",
        "LDT",
        "TSS16-busy",
        "CallGate16",
        "TaskGate",
        "IntGate16",
        "TrapGate16",
        "Reserved",
        "TSS32-avl",
        "Reserved",
        "TSS32-busy",
        "CallGate32",
        "Reserved",
        "IntGate32",
        "TrapGate32",
    ],
    [
        "<hiword>",
        "Reserved",
        "LDT",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "TSS64-avl",
        "Reserved",
        "TSS64-busy",
        "CallGate64",
        "Reserved",
        "IntGate64",
        "TrapGate64",
    ],
];

/// Writes all of it.
pub(super) fn show(state: &CpuState, a20: bool, text: &mut Text<'_>) -> fmt::Result {
    let long = state.efer & LONG_MODE != 0;
    let code_64 = long && state.cs.long;
    general(state, code_64, a20, text)?;
    for (name, segment) in state.named_segments() {
        write!(text, "{name:<3}={:04x} ", segment.selector)?;
        wide(segment.base, code_64, text)?;
        descriptor(segment, state, long, text)?;
    }
    for (name, table) in [("GDT", &state.gdtr), ("IDT", &state.idtr)] {
        let DescriptorTable { base, limit } = table;
        write!(text, "{name}=     ")?;
        wide(*base, long, text)?;
        writeln!(text, " {limit:08x}")?;
    }
    write!(text, "CR0={:08x} CR2=", state.cr0)?;
    wide(state.cr2, long, text)?;
    text.write_str(" CR3=")?;
    wide(state.cr3, long, text)?;
    writeln!(text, " CR4={:08x}", state.cr4)?;
    for (number, value) in state.dr.iter().enumerate() {
        write!(text, "DR{number}={value:016x} ")?;
    }
    writeln!(text, "\nDR6={:016x} DR7={:016x}", state.dr6, state.dr7)?;
    writeln!(text, "EFER={:016x}", state.efer)?;
    floating_point(state, code_64, text)
}

fn wide(value: u64, long: bool, text: &mut Text<'_>) -> fmt::Result {
    match long {
        true => write!(text, "{value:016x}"),
        false => write!(text, "{:08x}", value as u32),
    }
}

/// What stands behind one of so many columns.
const fn behind(place: usize, columns: usize) -> char {
    match place % columns == columns - 1 {
        true => '\n',
        false => ' ',
    }
}

fn general(state: &CpuState, code_64: bool, a20: bool, text: &mut Text<'_>) -> fmt::Result {
    let letter = if code_64 { 'R' } else { 'E' };
    let value = |number: usize| state.gpr.get(number).copied().unwrap_or_default();
    for (place, (name, number)) in NAMES.into_iter().enumerate() {
        write!(text, "{letter}{name}=")?;
        wide(value(number), code_64, text)?;
        text.write_char(behind(place, 4))?;
    }
    if code_64 {
        for number in gpr::R8..16 {
            let end = behind(number, 4);
            write!(text, "R{number:<2}={:016x}{end}", value(number))?;
        }
    }
    write!(text, "{letter}IP=")?;
    wide(state.rip, code_64, text)?;
    let name = if code_64 { "RFL" } else { "EFL" };
    write!(text, " {name}={:08x} [", state.rflags)?;
    for (bit, name) in FLAGS {
        let is_set = state.rflags >> bit & 1 != 0;
        text.write_char(if is_set { name } else { '-' })?;
    }
    let inhibited = u8::from(state.events.shadow != 0);
    let halted = u8::from(state.activity != Activity::Running);
    let (cpl, a20) = (state.ss.dpl, u8::from(a20));
    writeln!(
        text,
        "] CPL={cpl} II={inhibited} A20={a20} SMM=0 HLT={halted}"
    )
}

/// A descriptor's limit and upper doubleword, and what they mean where there are descriptors.
fn descriptor(segment: &Segment, state: &CpuState, long: bool, text: &mut Text<'_>) -> fmt::Result {
    let limit = match segment.granular {
        true => segment.limit >> 12,
        false => segment.limit,
    };
    let attributes = u32::from(segment.kind) << 8
        | u32::from(segment.code_or_data) << 12
        | u32::from(segment.dpl) << 13
        | u32::from(segment.present) << 15
        | limit & 0x000f_0000
        | u32::from(segment.available) << 20
        | u32::from(segment.long) << 21
        | u32::from(segment.big) << 22
        | u32::from(segment.granular) << 23;
    write!(text, " {:08x} {attributes:08x}", segment.limit)?;
    let described = state.cr0 & PROTECTED != 0 && state.rflags & VIRTUAL_8086 == 0;
    if !described || !segment.present {
        return writeln!(text);
    }
    write!(text, " DPL={} ", segment.dpl)?;
    let kind = segment.kind;
    if !segment.code_or_data {
        let names = SYSTEM.get(usize::from(long));
        let name = names.and_then(|names| names.get(usize::from(kind)));
        return writeln!(text, "{}", name.unwrap_or(&"Reserved"));
    }
    let code = kind & 8 != 0;
    let name = match (code, segment.long, segment.big) {
        (true, true, _) => "CS64",
        (true, false, true) => "CS32",
        (true, false, false) => "CS16",
        (false, _, big) if big || long => "DS  ",
        (false, ..) => "DS16",
    };
    let [second, third] = match code {
        true => ['C', 'R'],
        false => ['E', 'W'],
    };
    let mark = |bit: u8, name| if kind & bit != 0 { name } else { '-' };
    let (second, third, accessed) = (mark(4, second), mark(2, third), mark(1, 'A'));
    writeln!(text, "{name} [{second}{third}{accessed}]")
}

fn floating_point(state: &CpuState, code_64: bool, text: &mut Text<'_>) -> fmt::Result {
    let fpu = &state.fpu;
    let top = usize::from(fpu.fsw >> 11 & 7);
    let (fcw, fsw, ftw, mxcsr) = (fpu.fcw, fpu.fsw, fpu.ftw, fpu.mxcsr);
    writeln!(
        text,
        "FCW={fcw:04x} FSW={fsw:04x} [ST={top}] FTW={ftw:02x} MXCSR={mxcsr:08x}"
    )?;
    for number in 0..8_usize {
        // By their physical numbers.
        let value = fpu.st.get(number.wrapping_sub(top) & 7).copied();
        let [a, b, c, d, e, f, g, h, exponent @ ..] = value.unwrap_or_default();
        let mantissa = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let exponent = u16::from_le_bytes(exponent);
        let end = behind(number, 2);
        write!(text, "FPR{number}={mantissa:016x} {exponent:04x}{end}")?;
    }
    let shown = if code_64 { 16 } else { 8 };
    for (number, value) in fpu.xmm.iter().enumerate().take(shown) {
        let (high, low) = ((value >> 64) as u64, *value as u64);
        let end = behind(number, 2);
        write!(text, "XMM{number:02}={high:016x} {low:016x}{end}")?;
    }
    Ok(())
}
