//! What two outcomes may differ in: what the manual leaves undefined, and what an oracle can't tell.

use thimble_core::cpu::FpuState;
use thimble_core::cpu::alu::undefined;
use thimble_core::cpu::decode::{CodeSize, Instruction, Operand, Operation, RegisterClass};

use crate::case::{CS, Case, End, FS, GS, Outcome};
use crate::layout::{KERNEL_CODE, MAPPED, USER_CODE};

/// An exception of the x87 is pending.
const PENDING: u16 = 1 << 7;
/// Resume flag.
const RF: u64 = 1 << 16;

/// What is left out of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask {
    /// Flags.
    pub(crate) rflags: u64,
    /// General registers, a bit each.
    pub(crate) gpr: u16,
    /// The window: the result of a memory destination.
    pub(crate) memory: bool,
    /// The bases of FS and GS.
    pub(crate) bases: bool,
}

/// What the SDM leaves undefined after an instruction, from the state before it.
pub(crate) fn undefined(instruction: &Instruction, case: &Case) -> Mask {
    use Operation::*;
    let mut mask = Mask::default();
    let width = u32::from(instruction.operand_size().bits());
    let size = instruction.operand_size().mask();
    let value = |operand: Operand| match operand {
        Operand::Register(register) => {
            let value = case.gpr[usize::from(register.number & 15)];
            Some(match register.class {
                RegisterClass::Gpr8High => value >> 8 & 0xff,
                _ => value,
            })
        }
        Operand::Immediate(value) => Some(value),
        _ => None,
    };
    let last = instruction.operands().last().unwrap_or(Operand::None);
    let count = value(last).unwrap_or(1) as u8;
    // The destination's value, too.
    let destination = |mask: &mut Mask| match instruction.operand(0) {
        Operand::Register(register) => mask.gpr |= 1 << (register.number & 15),
        Operand::Memory(_) => mask.memory = true,
        _ => {}
    };
    mask.rflags = match instruction.operation() {
        And | Or | Xor | Test => undefined::LOGIC,
        Mul | Imul => undefined::MULTIPLY,
        Div | Idiv => undefined::DIVIDE,
        Bsf | Bsr => {
            // A source in memory may be zero.
            if value(last).is_none_or(|source| source & size == 0) {
                destination(&mut mask);
            }
            undefined::BIT_SCAN
        }
        Tzcnt | Lzcnt => undefined::COUNT_ZEROS,
        Bt | Btc | Btr | Bts => undefined::BIT_TEST,
        Daa | Das => undefined::DECIMAL_ADJUST,
        Aaa | Aas => undefined::ASCII_ADJUST,
        Aam | Aad => undefined::ASCII_BASE,
        Andn | Blsi | Blsmsk | Blsr | Bzhi => undefined::BMI,
        Bextr => undefined::BEXTR,
        Sar => undefined::shift_arithmetic(width, count),
        Shl | Shr => undefined::shift(width, count),
        Rol | Ror | Rcl | Rcr => undefined::rotate(width, count),
        Shld | Shrd => {
            if u32::from(count & 31) > width {
                destination(&mut mask);
            }
            undefined::double_shift(width, count)
        }
        Bswap if width == 16 => {
            destination(&mut mask);
            0
        }
        _ => 0,
    };
    mask
}

/// The first address of the kernel's half.
const KERNEL_HALF: u64 = 0x7fff_ffff_f000;

/// The end, with all of the kernel's pages present: so Linux tells it to processes, whatever there is.
fn without_presence(outcome: &Outcome) -> End {
    match outcome.end {
        End::Exception {
            vector: 14,
            error: Some(code),
        } if outcome.cr2 >= KERNEL_HALF => End::Exception {
            vector: 14,
            error: Some(code | 1),
        },
        end => end,
    }
}

/// The first difference in words, or none.
pub(crate) fn difference(
    case: &Case,
    mask: Mask,
    oracle: (&Outcome, &[u8]),
    subject: (&Outcome, &[u8]),
) -> Option<String> {
    let (expected, window) = oracle;
    let (got, their_window) = subject;
    let long = case.world.code_size() == CodeSize::Bits64;
    if without_presence(expected) != without_presence(got) {
        return Some(format!("end: {:x?}, not {:x?}", got.end, expected.end));
    }
    // Outside 64-bit mode upper halves are nobody's, and so are R8 to R15.
    let still_long = long && matches!(expected.selectors[CS], USER_CODE | KERNEL_CODE);
    let (significant, count) = match still_long {
        true => (u64::MAX, 16),
        false => (0xffff_ffff, 8),
    };
    for number in 0..count {
        let (e, g) = (
            expected.gpr[number] & significant,
            got.gpr[number] & significant,
        );
        if e != g && mask.gpr & 1 << number == 0 {
            return Some(format!("register {number}: {g:x}, not {e:x}"));
        }
    }
    if expected.rip & significant != got.rip & significant {
        return Some(format!("rip: {:x}, not {:x}", got.rip, expected.rip));
    }
    let flags = !mask.rflags;
    let (e, g) = (expected.rflags & flags, got.rflags & flags);
    if e != g {
        let resume = if (e ^ g) & RF != 0 { " (RF)" } else { "" };
        return Some(format!("rflags{resume}: {g:x}, not {e:x}"));
    }
    for (number, name) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().enumerate() {
        let (e, g) = (expected.selectors[number], got.selectors[number]);
        // The way to a signal's handler clears null selectors' RPL.
        if e < 4 && g < 4 {
            continue;
        }
        if e != g {
            return Some(format!("{name}: {g:x}, not {e:x}"));
        }
    }
    if long && !mask.bases {
        for (number, name) in [(FS, "fs"), (GS, "gs")] {
            let (e, g) = (expected.bases[number - FS], got.bases[number - FS]);
            if e != g {
                return Some(format!("{name} base: {g:x}, not {e:x}"));
            }
        }
    }
    if case.vectors.is_some()
        && let (Some(e), Some(g)) = (&expected.vectors, &got.vectors)
        && let Some(difference) = vector_difference(e, g, if still_long { 16 } else { 8 })
    {
        return Some(difference);
    }
    if expected.cr2 != got.cr2 && case.world.user() {
        return Some(format!("cr2: {:x}, not {:x}", got.cr2, expected.cr2));
    }
    // Nobody says what a shutdown leaves half done.
    if !mask.memory && expected.end != End::Shutdown {
        for (start, end) in MAPPED {
            let part = start as usize..end as usize;
            let (e, g) = (&window[part.clone()], &their_window[part]);
            if e != g {
                let at = e.iter().zip(g).position(|(e, g)| e != g).unwrap_or(0);
                let end = (at + 16).min(e.len());
                return Some(format!(
                    "memory at {:x}: {:02x?}, not {:02x?}",
                    crate::layout::WINDOW + start + at as u64,
                    &g[at..end],
                    &e[at..end]
                ));
            }
        }
    }
    None
}

/// The first difference of vectors.
fn vector_difference(expected: &FpuState, got: &FpuState, count: usize) -> Option<String> {
    for (number, (e, g)) in expected.xmm[..count].iter().zip(&got.xmm).enumerate() {
        if e != g {
            return Some(format!("xmm{number}: {g:032x}, not {e:032x}"));
        }
    }
    for (number, (e, g)) in expected.st.iter().zip(&got.st).enumerate() {
        if e != g {
            return Some(format!("st{number}: {g:02x?}, not {e:02x?}"));
        }
    }
    let rest = |v: &FpuState| (v.fcw, v.fsw, v.ftw, v.mxcsr);
    let (e, g) = (rest(expected), rest(got));
    if e != g {
        return Some(format!("fcw, fsw, ftw, mxcsr: {g:x?}, not {e:x?}"));
    }
    // AMD's processors save them only where an exception is pending, and a 64-bit kernel saves no selectors.
    let mask = if count == 16 { u64::MAX } else { 0xffff_ffff };
    let last = |v: &FpuState| (v.fop, v.fip & mask, v.fdp & mask);
    let (e, g) = (last(expected), last(got));
    (e != g && expected.fsw & PENDING != 0).then(|| format!("fop, fip, fdp: {g:x?}, not {e:x?}"))
}

/// Whether an outcome says anything to compare with.
pub(crate) fn comparable(outcome: &Outcome) -> bool {
    !matches!(outcome.end, End::Timeout | End::Refused)
}
