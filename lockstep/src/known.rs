//! Where the oracle at hand and the manual differ, and the software CPU follows the manual; and where the manual
//! leaves open what processors do.
//!
//! The software CPU is an Intel; these are what AMD's processors do differently. Sections are those of the Intel SDM.

use std::arch::x86_64::__cpuid;

use thimble_core::cpu::FpuState;
use thimble_core::cpu::decode::{
    CodeSize, Fpu, Instruction, Operand, Operation, Packed, RegisterClass, Size, Sse,
};
use thimble_core::cpu::gpr;

use crate::assemble::is_string;
use crate::case::{CS, Case, End, FS, GS, Outcome, World};
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
    /// The kernel's emulator, which KVM asks about ring 3, too, when a page faults.
    Emulator,
    /// Both.
    All,
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

/// Condition code C1 of the x87's status word.
const C1: u16 = 1 << 9;

/// Registers of the x87 before and after.
fn x87<'c>(case: &'c Case, expected: &'c Outcome) -> Option<(&'c FpuState, &'c FpuState)> {
    Some((case.vectors.as_deref()?, expected.vectors.as_deref()?))
}

/// An instruction that compares, and whether EFLAGS tell the answer.
fn compares(i: &Instruction) -> Option<bool> {
    use Fpu::*;
    let Operation::Fpu(name) = i.operation() else {
        return None;
    };
    match name {
        Fcom | Fcomp | Fcompp | Ficom | Ficomp | Fucom | Fucomp | Fucompp | Ftst => Some(false),
        Fcomi | Fcomip | Fucomi | Fucomip => Some(true),
        _ => None,
    }
}

/// All of them.
pub(crate) static KNOWN: &[Known] = &[
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
        by: By::All,
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
        by: By::All,
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
        what: "branches that end with their segment raise #GP at times, even if they jump",
        section: "volume 2, LOOP, Jcc: a target beyond the limit is what faults",
        by: By::Amd,
        applies: |i, case, expected| {
            use Operation::*;
            let next = case.rip.wrapping_add(i.length().into());
            let branch = matches!(
                i.operation(),
                Loop | Loope | Loopne | Jcxz | Jcc(_) | Jmp | Call
            );
            let fault = matches!(expected.end, End::Exception { vector: 13, .. });
            branch && !long(case) && fault && next > u64::from(case.segment(CS).limit)
        },
    },
    Known {
        what: "CALL pushes before it looks where it goes",
        section: "volume 2, CALL: the target is checked first",
        by: By::Amd,
        applies: |i, case, expected| {
            let at_stack = matches!(
                expected.end,
                End::Exception {
                    vector: 12 | 14 | 17,
                    ..
                }
            );
            i.operation() == Operation::Call && at_stack && expected.rip == case.rip
        },
    },
    Known {
        what: "MOVSXD to 16 bits reads 32",
        section: "volume 2, MOVSXD: r16, r/m16",
        by: By::Amd,
        applies: |i, _, _| i.operation() == Operation::Movsxd && i.operand_size() == Size::Word,
    },
    Known {
        what: "LSS, LFS, LGS and far JMP and CALL have no 64-bit offsets",
        section: "volume 2, LDS, JMP, CALL: m16:64",
        by: By::Amd,
        applies: |i, case, _| {
            use Operation::*;
            matches!(i.operation(), Lss | Lfs | Lgs | JmpFar | CallFar)
                && long(case)
                && i.operand_size() == Size::Qword
        },
    },
    Known {
        what: "a single step between repetitions clears RF in the image",
        section: "volume 3, 17.3.1.1: it is set",
        by: By::Amd,
        applies: |i, case, expected| {
            let stepped = expected.end
                == End::Exception {
                    vector: 1,
                    error: None,
                };
            is_string(i.operation()) && stepped && expected.rip == case.rip
        },
    },
    Known {
        what: "far returns read the selector first",
        section: "volume 2, RET, IRET: nothing is said",
        by: By::Amd,
        applies: |i, case, expected| {
            let fault = matches!(
                expected.end,
                End::Exception {
                    vector: 14 | 17,
                    ..
                }
            );
            matches!(i.operation(), Operation::Retf | Operation::Iret)
                && fault
                && expected.rip == case.rip
        },
    },
    Known {
        what: "IRET of 64-bit mode looks at RIP before SS",
        section: "volume 2, IRET: SS first",
        by: By::Amd,
        applies: |i, case, expected| {
            let fault = expected.end
                == End::Exception {
                    vector: 13,
                    error: Some(0),
                };
            i.operation() == Operation::Iret && long(case) && fault && expected.rip == case.rip
        },
    },
    Known {
        what: "an offset that is not canonical faults, whatever the segment's base makes of it",
        section: "volume 1, 3.3.7.1: linear addresses are canonical",
        by: By::Amd,
        applies: |i, case, expected| {
            let based = i.operands().any(|operand| match operand {
                Operand::Memory(memory) => {
                    let number = memory.segment as usize;
                    matches!(number, FS | GS) && case.bases[number - FS] != 0
                }
                _ => false,
            });
            let fault = matches!(expected.end, End::Exception { vector: 13, .. });
            based && long(case) && fault && expected.rip == case.rip
        },
    },
    Known {
        what: "LZCNT and TZCNT are BSR and BSF",
        section: "volume 2, LZCNT, TZCNT",
        by: By::Emulator,
        applies: |i, _, _| matches!(i.operation(), Operation::Lzcnt | Operation::Tzcnt),
    },
    Known {
        what: "ENTER pushes at the stack's size, and does not look at the new top",
        section: "volume 2, ENTER",
        by: By::Emulator,
        applies: |i, _, _| i.operation() == Operation::Enter,
    },
    Known {
        what: "AAM and AAD give other flags",
        section: "volume 2, AAM, AAD: SF, ZF and PF by AL",
        by: By::Emulator,
        applies: |i, _, _| matches!(i.operation(), Operation::Aam | Operation::Aad),
    },
    Known {
        what: "INT with 66h pushes doublewords in real mode",
        section: "volume 2, INT n: 16 bits",
        by: By::Emulator,
        applies: |i, case, _| {
            use Operation::*;
            matches!(i.operation(), Int | Int3 | Into) && prefixed(case, 0x66)
        },
    },
    Known {
        what: "interrupts of real mode clear the upper half of ESP",
        section: "volume 1, 6.2.3: a 16-bit stack has SP",
        by: By::Emulator,
        applies: |_, case, expected| {
            case.world == World::Real16
                && case.gpr[gpr::RSP] >> 16 != 0
                && expected.gpr[gpr::RSP] >> 16 == 0
        },
    },
    Known {
        what: "TF that POPF sets is not heeded",
        section: "volume 3, 17.3.1.4",
        by: By::Emulator,
        applies: |i, _, expected| i.operation() == Operation::Popf && expected.rflags & 1 << 8 != 0,
    },
    Known {
        what: "CMPXCHG zero-extends a register that differs",
        section: "volume 2, CMPXCHG, read so; processors leave it alone",
        by: By::Emulator,
        applies: |i, case, _| {
            i.operation() == Operation::Cmpxchg
                && long(case)
                && i.operand_size() == Size::Dword
                && i.memory().is_none()
        },
    },
    Known {
        what: "36h names SS in 64-bit mode when it comes to faults",
        section: "volume 1, 3.3.7.1: ignored",
        by: By::Emulator,
        applies: |i, case, expected| {
            i.memory().is_some()
                && long(case)
                && prefixed(case, 0x36)
                && expected.is_at_handler(case.world, 12)
        },
    },
    Known {
        what: "LEAVE wraps at 4 GiB",
        section: "volume 3, 5.3: the limit is what faults, or wrapping is left open",
        by: By::Emulator,
        applies: |i, case, _| {
            i.operation() == Operation::Leave && case.gpr[gpr::RBP] as u32 > 0xffff_fffc
        },
    },
    Known {
        what: "67h is not heeded by NOP with an operand",
        section: "volume 2, 2.1.1",
        by: By::Emulator,
        applies: |i, case, _| i.operation() == Operation::Nop && prefixed(case, 0x67),
    },
    Known {
        what: "MOV of a segment register stores eight bytes with REX.W",
        section: "volume 2, MOV: m16",
        by: By::Emulator,
        applies: |i, case, _| {
            i.operation() == Operation::MovSegment
                && long(case)
                && i.operand_size() == Size::Qword
                && matches!(i.operand(0), Operand::Memory(_))
        },
    },
    Known {
        what: "IN and OUT are refused in ring 0 at times",
        section: "volume 1, 19.5.1: CPL is not above IOPL",
        by: By::Emulator,
        applies: |i, case, expected| {
            matches!(i.operation(), Operation::In | Operation::Out)
                && expected.is_at_handler(case.world, 13)
        },
    },
    Known {
        what: "POP of a segment register reads a word",
        section: "volume 2, POP",
        by: By::Emulator,
        applies: |i, _, _| {
            let Operand::Register(register) = i.operand(0) else {
                return false;
            };
            i.operation() == Operation::Pop && register.class == RegisterClass::Segment
        },
    },
    Known {
        what: "CMPS of two operands that fault tells of the second",
        section: "volume 2, CMPS: nothing is said; seen on Zen 4, while others tell of the first",
        by: By::Amd,
        applies: |i, case, expected| {
            let is_fault = |vector: u8| {
                matches!(expected.end, End::Exception { vector: v, .. } if v == vector)
                    || expected.is_at_handler(case.world, vector.into())
            };
            i.operation() == Operation::Cmps && (is_fault(13) || is_fault(14))
        },
    },
    Known {
        what: "a repeated CMPS or SCAS that faults leaves the flags of its last comparison",
        section: "volume 2, REP: those before it are restored",
        by: By::Amd,
        applies: |i, case, expected| {
            matches!(i.operation(), Operation::Cmps | Operation::Scas)
                && (i.rep() || i.repne())
                && expected.rip == case.rip
        },
    },
    Known {
        what: "MOVBE and MOV of segment registers are not there",
        section: "volume 2, MOV, MOVBE",
        by: By::Emulator,
        applies: |i, _, expected| {
            use Operation::*;
            matches!(i.operation(), Movbe | MovSegment) && expected.end == End::Shutdown
        },
    },
    Known {
        what: "a store into two pages of which the second faults is half done",
        section: "volume 3, 6.5: faults are restartable",
        by: By::Emulator,
        applies: |_, case, expected| {
            let fault = matches!(expected.end, End::Exception { vector: 14, .. })
                || expected.is_at_handler(case.world, 14)
                || expected.end == End::Shutdown && expected.cr2 != 0;
            fault && expected.cr2 & 0xfff == 0
        },
    },
    Known {
        what: "x87 comparisons tell that numbers are unordered where the invalid operation is not masked",
        section: "volume 2, FCOM, FUCOM, FICOM, FTST, FCOMI: codes and flags are not set",
        by: By::Amd,
        applies: |i, case, expected| {
            compares(i).is_some()
                && x87(case, expected).is_some_and(|(_, after)| after.fsw & !after.fcw & 1 != 0)
        },
    },
    Known {
        what: "FCOMI and its kin leave C1 alone",
        section: "volume 2, FCOMI: C1 is cleared",
        by: By::Amd,
        applies: |i, case, expected| {
            compares(i) == Some(true)
                && x87(case, expected)
                    .is_some_and(|(before, after)| before.fsw & after.fsw & C1 != 0)
        },
    },
    Known {
        what: "the x87's environment and state are accessed in another order",
        section: "volume 2, FSTENV, FSAVE, FLDENV, FRSTOR: nothing is said",
        by: By::Amd,
        applies: |i, case, expected| {
            use Fpu::*;
            matches!(
                i.operation(),
                Operation::Fpu(Fnstenv | Fnsave | Fldenv | Frstor)
            ) && expected.rip == case.rip
        },
    },
    Known {
        what: "POPA that faults has loaded registers",
        section: "volume 2, POPA: nothing is said",
        by: By::Amd,
        applies: |i, case, expected| i.operation() == Operation::Popa && expected.rip == case.rip,
    },
    Known {
        what: "CVTPI2PS from memory leaves the x87 alone",
        section: "volume 2, CVTPI2PS: goes over to MMX registers, and CVTPI2PD from a register only",
        by: By::Amd,
        applies: |i, case, _| {
            let vectors = case.vectors.as_deref();
            i.operation() == Operation::Sse(Sse::Cvtpi2ps)
                && matches!(i.operand(1), Operand::Memory(_))
                && vectors.is_some_and(|vectors| (vectors.fsw, vectors.ftw) != (0, 0xff))
        },
    },
    Known {
        what: "SHA takes sixteen bytes at any address",
        section: "volume 2, 2.4: exceptions of type 4",
        by: By::Amd,
        applies: |i, _, _| {
            use thimble_core::cpu::decode::Packed::*;
            let sha = matches!(
                i.operation(),
                Operation::Packed(
                    Sha1msg1
                        | Sha1msg2
                        | Sha1nexte
                        | Sha1rnds4
                        | Sha256msg1
                        | Sha256msg2
                        | Sha256rnds2
                )
            );
            sha && i.memory().is_some()
        },
    },
    Known {
        what: "MASKMOVQ that faults has gone over to MMX registers",
        section: "volume 3, 6.5: faults are restartable",
        by: By::Amd,
        applies: |i, case, expected| {
            i.operation() == Operation::Packed(Packed::Maskmovq) && expected.rip == case.rip
        },
    },
    Known {
        what: "MXCSR has a mask of exceptions for misaligned operands, bit 17",
        section: "volume 1, 10.2.3: reserved",
        by: By::Amd,
        applies: |i, _, expected| {
            let loaded = expected.vectors.as_ref().map(|vectors| vectors.mxcsr);
            i.operation() == Operation::Sse(Sse::Ldmxcsr)
                && loaded.is_some_and(|mxcsr| mxcsr & 1 << 17 != 0)
        },
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
            By::Emulator => oracle != Oracle::Process,
            By::All => !native(oracle) || !intel(),
        };
        oracle_has_it && (known.applies)(i, case, expected)
    })
}

/// The oracle is an Intel, too.
fn intel() -> bool {
    // EBX of leaf 0: "Genu".
    __cpuid(0).ebx == u32::from_le_bytes(*b"Genu")
}
