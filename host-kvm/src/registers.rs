//! What is shown of a processor's registers, whoever runs it.

use std::fmt::Write;

use thimble_core::cpu::{CpuState, DescriptorTable, Registers, Segment};

/// Code bytes before and from the instruction pointer on.
const CODE_BEFORE: u64 = 16;
const CODE_BYTES: usize = 48;

/// What a processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// It executes nothing: it is in a HLT, or waits to be started by another processor.
    pub halted: bool,
    /// The linear address of the instruction that it is at.
    pub pc: u64,
}

/// Registers, segments, control registers and the code around the instruction pointer, which
/// stands in angle brackets, as text for the terminal. `code` reads a byte by its linear address.
pub(crate) fn dump(state: &CpuState, code: impl FnMut(u64) -> Option<u8>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_dump(state, code, &mut text);
    text
}

/// General registers, four a line, then the instruction pointer, flags and privilege level.
pub(crate) fn general(registers: &Registers, to: &mut String) {
    const NAMES: [&str; 16] = [
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12",
        "R13", "R14", "R15",
    ];
    /// In the order in which they are printed.
    const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
    const FLAGS: [(u32, char); 7] = [
        (11, 'O'),
        (10, 'D'),
        (7, 'S'),
        (6, 'Z'),
        (4, 'A'),
        (2, 'P'),
        (0, 'C'),
    ];
    for (place, number) in ORDER.into_iter().enumerate() {
        let end = if place % 4 == 3 { '\n' } else { ' ' };
        // Writing to a string does not fail.
        let _ = write!(to, "{}={:016x}{end}", NAMES[number], registers.gpr[number]);
    }
    let (rip, rflags, cpl) = (registers.rip, registers.rflags, registers.segments[2].dpl);
    let _ = write!(to, "RIP={rip:016x} RFL={rflags:08x} [");
    to.extend(FLAGS.map(|(bit, name)| if rflags >> bit & 1 != 0 { name } else { '-' }));
    let _ = writeln!(to, "] CPL={cpl}");
}

fn write_dump(
    state: &CpuState,
    mut code: impl FnMut(u64) -> Option<u8>,
    to: &mut String,
) -> std::fmt::Result {
    general(&Registers::from(state), to);
    for (name, segment) in state.named_segments() {
        write_segment(to, name, segment)?;
    }
    for (name, table) in [("GDT", &state.gdtr), ("IDT", &state.idtr)] {
        let DescriptorTable { base, limit } = table;
        writeln!(to, "{name}=     {base:016x} {limit:08x}")?;
    }
    let (cr0, cr2, cr3, cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    writeln!(
        to,
        "CR0={cr0:08x} CR2={cr2:016x} CR3={cr3:016x} CR4={cr4:08x}"
    )?;
    writeln!(to, "EFER={:016x}", state.efer)?;
    let pc = Registers::from(state).pc();
    write!(to, "Code=")?;
    for i in 0..CODE_BYTES as u64 {
        let byte = code(pc.wrapping_sub(CODE_BEFORE).wrapping_add(i));
        let text = byte.map_or("??".to_owned(), |byte| format!("{byte:02x}"));
        if i == CODE_BEFORE {
            write!(to, "<{text}> ")?;
        } else {
            write!(to, "{text} ")?;
        }
    }
    to.truncate(to.trim_end().len());
    writeln!(to)
}

fn write_segment(to: &mut String, name: &str, s: &Segment) -> std::fmt::Result {
    let attributes = u32::from(s.kind)
        | u32::from(s.code_or_data) << 4
        | u32::from(s.dpl) << 5
        | u32::from(s.present) << 7
        | u32::from(s.available) << 12
        | u32::from(s.long) << 13
        | u32::from(s.big) << 14
        | u32::from(s.granular) << 15;
    let (selector, base, limit) = (s.selector, s.base, s.limit);
    writeln!(
        to,
        "{name:<3}={selector:04x} {base:016x} {limit:08x} {:08x} DPL={}",
        attributes << 8,
        s.dpl
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_after_reset() {
        let state = CpuState::power_on(0, true, 0x663);
        let text = dump(&state, |linear| {
            (linear >= 0xffff_fff0).then_some(linear as u8)
        });
        for line in [
            "RAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000663",
            "RIP=000000000000fff0 RFL=00000002 [-------] CPL=0",
            "CS =f000 00000000ffff0000 0000ffff 00009b00 DPL=0",
            "IDT=     0000000000000000 0000ffff",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}:\n{text}");
        }
        assert!(text.contains("Code=?? ") && text.contains("?? <f0> f1 "));
    }
}
