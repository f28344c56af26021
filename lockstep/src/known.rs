//! Where the oracle at hand and the manual differ, and the software CPU follows the manual; and where the manual
//! leaves open what processors do.
//!
//! The software CPU is an Intel; these are what AMD's processors do differently. Sections are those of the Intel SDM.

use std::arch::x86_64::__cpuid;

use thimble_core::cpu::decode::{CodeSize, Instruction, Operand, Operation, RegisterClass, Size};
use thimble_core::cpu::gpr;

use crate::case::{CS, Case, End, Outcome};
use crate::forms::{Oracle, native};

/// A difference that is known.
pub(crate) struct Known {
    /// What the oracle does instead.
    pub(crate) what: &'static str,
    /// Where the manual says what the software CPU does.
    pub(crate) section: &'static str,
    by: By,
    applies: fn(&Instruction, &Case, &Outcome) -> bool,
}

/// Whose difference it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Processors of AMD.
    Amd,
    /// The kernel's emulator.
    Emulator,
}

fn long(case: &Case) -> bool {
    case.world.code_size() == CodeSize::Bits64
}

/// Whether one of the prefixes before the opcode is this.
fn prefixed(case: &Case, prefix: u8) -> bool {
    let prefixes = case.code.iter().take_while(|byte| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    });
    prefixes.into_iter().any(|byte| *byte == prefix)
}

fn is_string(operation: Operation) -> bool {
    use Operation::*;
    matches!(operation, Movs | Cmps | Stos | Lods | Scas | Ins | Outs)
}

/// A segment register as the first operand.
fn pushes_segment(i: &Instruction) -> bool {
    let Operand::Register(register) = i.operand(0) else {
        return false;
    };
    i.operation() == Operation::Push && register.class == RegisterClass::Segment
}

/// Undefined opcode.
const UD: End = End::Exception {
    vector: 6,
    error: None,
};

/// All of them.
pub(crate) static KNOWN: [Known; 11] = [
    Known {
        what: "66h makes near branches of 64-bit mode 16 bits wide",
        section: "volume 2, CALL, JMP, RET, Jcc, LOOP; table A-1, superscript f64",
        by: By::Amd,
        applies: |i, case, _| {
            use Operation::*;
            let branch = matches!(
                i.operation(),
                Call | Jmp | Ret | Jcc(_) | Loop | Loope | Loopne | Jcxz
            );
            branch && long(case) && prefixed(case, 0x66)
        },
    },
    Known {
        what: "0F 0D with a register is #UD",
        section: "volume 2, table A-3: NOP",
        by: By::Amd,
        applies: |i, case, expected| {
            i.operation() == Operation::Nop && case.code.contains(&0x0d) && expected.end == UD
        },
    },
    Known {
        what: "F3 90 with REX.B exchanges R8 and RAX",
        section: "volume 2, table A-2: PAUSE",
        by: By::Amd,
        applies: |i, _, _| i.operation() == Operation::Pause,
    },
    Known {
        what: "UD0 and UD1 are known by their opcode, whatever is behind it",
        section: "volume 2, UD: with ModRM",
        by: By::Amd,
        applies: |i, _, expected| {
            matches!(i.operation(), Operation::Ud0 | Operation::Ud1) && expected.end == UD
        },
    },
    Known {
        what: "a repetition of no elements leaves the upper half of RCX and pointers as it was",
        section: "volume 1, 3.4.1.1: 32-bit results are zero-extended",
        by: By::Amd,
        applies: |i, case, _| {
            long(case)
                && is_string(i.operation())
                && (i.rep() || i.repne())
                && i.address_size() == Size::Dword
                && case.gpr[gpr::RCX] & 0xffff_ffff == 0
        },
    },
    Known {
        what: "pushes of segment registers store 32 bits",
        section: "volume 2, PUSH: recent Intel processors store 16 bits",
        by: By::Amd,
        applies: |i, _, _| pushes_segment(i) && i.operand_size() == Size::Dword,
    },
    Known {
        what: "F2h and F3h tell LOOPNE from LOOPE",
        section: "volume 2, 2.1.1: reserved",
        by: By::Amd,
        applies: |i, case, _| {
            matches!(i.operation(), Operation::Loope | Operation::Loopne)
                && (prefixed(case, 0xf2) || prefixed(case, 0xf3))
        },
    },
    Known {
        what: "LOOP and JCXZ that end with their segment raise #GP even if they jump",
        section: "volume 2, LOOP, Jcc: a target beyond the limit is what faults",
        by: By::Amd,
        applies: |i, case, _| {
            use Operation::*;
            let next = case.rip.wrapping_add(i.length().into());
            matches!(i.operation(), Loop | Loope | Loopne | Jcxz)
                && !long(case)
                && next > u64::from(case.segment(CS).limit)
        },
    },
    Known {
        what: "CALL pushes before it looks where it goes",
        section: "volume 2, CALL: the limit is checked first",
        by: By::Amd,
        applies: |i, case, expected| {
            let at_stack = matches!(
                expected.end,
                End::Exception {
                    vector: 12 | 14 | 17,
                    ..
                }
            );
            i.operation() == Operation::Call && !long(case) && at_stack && expected.rip == case.rip
        },
    },
    Known {
        what: "MOVSXD to 16 bits reads 32",
        section: "volume 2, MOVSXD: r16, r/m16",
        by: By::Amd,
        applies: |i, _, _| i.operation() == Operation::Movsxd && i.operand_size() == Size::Word,
    },
    Known {
        what: "POPA that faults has loaded registers",
        section: "volume 2, POPA: nothing is said",
        by: By::Amd,
        applies: |i, case, expected| i.operation() == Operation::Popa && expected.rip == case.rip,
    },
];

/// The place in [`KNOWN`] of a difference that a case may have.
pub(crate) fn known(
    i: &Instruction,
    case: &Case,
    expected: &Outcome,
    oracle: Oracle,
) -> Option<usize> {
    KNOWN.iter().position(|known| {
        let oracle_has_it = match known.by {
            By::Amd => native(oracle) && !intel(),
            By::Emulator => !native(oracle),
        };
        oracle_has_it && (known.applies)(i, case, expected)
    })
}

/// The oracle is an Intel, too.
fn intel() -> bool {
    // EBX of leaf 0: "Genu".
    __cpuid(0).ebx == u32::from_le_bytes(*b"Genu")
}
