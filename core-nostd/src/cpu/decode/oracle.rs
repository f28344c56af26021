//! What iced-x86 makes of the same bytes, compared part by part. The decoder's tests and its fuzz target share this.
//!
//! Where the two differ, and who is followed:
//!
//! - Features that are left out (see [`HAVE`]) are #UD here. The SDM: an opcode of an absent feature is.
//! - Reserved NOPs have no operands to look at in the SDM; iced gives them a register too. PREFETCHIT0, PREFETCHIT1,
//!   CLDEMOTE and RDSSP do nothing where they are absent, and are NOP here.
//! - ES, CS, SS and DS prefixes do nothing in 64-bit mode (SDM volume 1, 3.3.7.1), not even replace SS as the
//!   segment of what RSP and RBP point to. iced keeps them as the segment.
//! - LLDT, LTR, LMSW, VERR, VERW, ARPL and MOV to a segment register have a 16-bit source in the SDM; iced
//!   names the register at the operand size. (LAR and LSL have one of the operand size in the SDM too.)
//! - What is longer than 15 bytes is invalid for iced, and not told apart from what is undefined.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::string::{String, ToString};
use std::{format, thread_local};

use iced_x86::{Code, CpuidFeature, DecoderError, OpKind, Register as Iced};

use super::{
    Base, CodeSize, DecodeError, Instruction, LENGTH_MAX, Memory, Operand, Operation, Register,
    RegisterClass, SegmentRegister, Size, decode,
};

/// Says if an instruction is seen before its last byte, or not the same with nothing behind it.
pub(crate) fn cut(bytes: &[u8], mode: CodeSize) -> Result<(), String> {
    let Ok(whole) = decode(bytes, mode) else {
        return Ok(());
    };
    let length = usize::from(whole.length());
    same("alone", decode(&bytes[..length], mode), Ok(whole))?;
    for less in 0..length {
        same(
            "cut",
            decode(&bytes[..less], mode),
            Err(DecodeError::NeedMore),
        )?;
    }
    Ok(())
}

/// Decodes with both, and tells the first difference.
pub(crate) fn compare(bytes: &[u8], mode: CodeSize) -> Result<(), String> {
    let ours = decode(bytes, mode);
    let bits = match mode {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let mut decoder = iced_x86::Decoder::new(bits, bytes, iced_x86::DecoderOptions::NONE);
    let theirs = decoder.decode();
    let verdict = match (ours, decoder.last_error()) {
        (Ok(ours), DecoderError::None) => agree(&ours, &theirs),
        (Err(DecodeError::NeedMore), DecoderError::NoMoreBytes) if bytes.len() < LENGTH_MAX => {
            Ok(())
        }
        (Err(DecodeError::Undefined), DecoderError::InvalidInstruction) => Ok(()),
        (Err(DecodeError::Undefined), DecoderError::None) if refused(&theirs) => Ok(()),
        (Err(DecodeError::TooLong), DecoderError::InvalidInstruction)
            if bytes.len() >= LENGTH_MAX =>
        {
            Ok(())
        }
        // That it is undefined may be known before its last byte; either may see that first.
        (Err(DecodeError::Undefined), DecoderError::NoMoreBytes)
        | (Err(DecodeError::NeedMore), DecoderError::InvalidInstruction)
            if bytes.len() < LENGTH_MAX || ours == Err(DecodeError::Undefined) =>
        {
            Ok(())
        }
        (ours, error) => Err(format!("ours {ours:?}, iced {error:?}")),
    };
    verdict.map_err(|difference| {
        let code = theirs.code();
        format!("{bytes:02x?} {mode:?}: {difference}; ours {ours:?}; iced {code:?} {theirs:?}")
    })
}

/// Instructions of features that this processor doesn't have.
fn refused(theirs: &iced_x86::Instruction) -> bool {
    !theirs
        .cpuid_features()
        .iter()
        .all(|feature| HAVE.contains(feature))
}

/// Features whose instructions are decoded.
#[rustfmt::skip]
const HAVE: &[CpuidFeature] = {
    use CpuidFeature::*;
    &[
        INTEL8086, INTEL186, INTEL286, INTEL386, INTEL486, X64, ADX, AES, BMI1, BMI2, CET_IBT, CLFLUSHOPT, CLFSH, CLWB,
        CMOV, CMPXCHG16B, CPUID, CX8, FPU, FPU287, FPU387, FSGSBASE, FXSR, INVPCID, LZCNT, MMX, MONITOR, MOVBE, MSR,
        MULTIBYTENOP, PAUSE, PCLMULQDQ, PKU, POPCNT, PREFETCHW, PREFETCHWT1, RDPID, RDPMC, RDRAND, RDSEED, RDTSCP, SEP,
        SERIALIZE, SHA, SMAP, SMM, SSE, SSE2, SSE3, SSE4_1, SSE4_2, SSSE3, SYSCALL, TSC, WBNOINVD, XSAVE, XSAVEC,
        XSAVEOPT, XSAVES,
    ]
};

/// What follows from our operation and iced's code: how their names differ, and what iced's tells of the size.
type Named = (Result<(), String>, Option<Size>);

thread_local! {
    /// What was found before: making names takes the most time.
    static NAMED: RefCell<HashMap<(Operation, Code), Named>> = RefCell::default();
}

/// Compares the operations by their names.
fn named(ours: Operation, theirs: &iced_x86::Instruction) -> Named {
    let compare = || {
        let (mine, other) = (name(ours), operation(theirs));
        // Without their features these do nothing.
        let hint = ours == Operation::Nop && HINTS.contains(&other.as_str());
        let verdict = match mine == other || hint {
            true => Ok(()),
            false => Err(format!("ours {mine}, iced {other}")),
        };
        let code = format!("{:?}", theirs.code()).to_lowercase();
        (verdict, operand_size(&code))
    };
    NAMED.with_borrow_mut(|named| {
        named
            .entry((ours, theirs.code()))
            .or_insert_with(compare)
            .clone()
    })
}

fn same<T: PartialEq + Debug>(what: &str, ours: T, theirs: T) -> Result<(), String> {
    match ours == theirs {
        true => Ok(()),
        false => Err(format!("{what}: ours {ours:?}, iced {theirs:?}")),
    }
}

/// Compares part by part.
fn agree(ours: &Instruction, theirs: &iced_x86::Instruction) -> Result<(), String> {
    same("length", usize::from(ours.length()), theirs.len())?;
    same("lock", ours.lock(), theirs.has_lock_prefix())?;
    let (verdict, size) = named(ours.operation(), theirs);
    verdict?;
    if let Some(size) = size {
        same("operand size", ours.operand_size(), size)?;
    }
    if ours.operation() == Operation::Nop {
        return Ok(());
    }
    let count = theirs.op_count() as usize;
    same("operands", ours.operands().count(), count)?;
    for place in 0..count {
        let mine = ours.operand(place);
        let other = operand(theirs, place as u32, ours);
        match (mine, other) {
            (Operand::Register(mine), Operand::Register(other)) if is_word(ours.operation()) => {
                same("register", mine.number, other.number)?;
            }
            _ => same("operand", mine, other)?,
        }
    }
    if is_string(ours.operation()) {
        same("rep", ours.rep(), theirs.has_rep_prefix())?;
        same("repne", ours.repne(), theirs.has_repne_prefix())?;
    }
    // What our size leaves to the operation has none.
    if ours.memory_size() != 0 {
        let size = theirs.memory_size().size();
        same("memory size", usize::from(ours.memory_size()), size)?;
    }
    Ok(())
}

/// Reserved NOPs that have got a name.
const HINTS: &[&str] = &["cldemote", "prefetchit0", "prefetchit1", "rdsspd", "rdsspq"];

fn is_string(operation: Operation) -> bool {
    use Operation::*;
    matches!(operation, Movs | Cmps | Stos | Lods | Scas | Ins | Outs)
}

/// Instructions with a 16-bit source that iced names at the operand size.
fn is_word(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        Arpl | Lldt | Lmsw | Ltr | MovSegment | Verr | Verw
    )
}

/// Our operation's name in small letters, without what it is part of.
fn name(operation: Operation) -> String {
    let text = format!("{operation:?}").to_lowercase();
    match text.split_once('(') {
        None => text,
        Some((family, rest)) => {
            let rest = rest.trim_end_matches(')');
            match family {
                "jcc" => format!("j{rest}"),
                "setcc" => format!("set{rest}"),
                "cmovcc" => format!("cmov{rest}"),
                _ => rest.to_string(),
            }
        }
    }
}

/// iced's name as ours would be.
fn operation(theirs: &iced_x86::Instruction) -> String {
    let code = format!("{:?}", theirs.code()).to_lowercase();
    let name = format!("{:?}", theirs.mnemonic()).to_lowercase();
    let far = matches!(theirs.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
        || code.contains("_m161")
        || code.contains("_m163")
        || code.contains("_m166");
    match name.as_str() {
        "reservednop" => "nop",
        "call" if far => "callfar",
        "jmp" if far => "jmpfar",
        "mov" if code.contains("_cr") => "movcontrol",
        "mov" if code.contains("_dr") => "movdebug",
        "mov" if code.contains("sreg") => "movsegment",
        "movsb" | "movsw" | "movsq" => "movs",
        "movsd" if !code.contains("xmm") => "movs",
        "cmpsb" | "cmpsw" | "cmpsq" => "cmps",
        "cmpsd" if !code.contains("xmm") => "cmps",
        "stosb" | "stosw" | "stosd" | "stosq" => "stos",
        "lodsb" | "lodsw" | "lodsd" | "lodsq" => "lods",
        "scasb" | "scasw" | "scasd" | "scasq" => "scas",
        "insb" | "insw" | "insd" => "ins",
        "outsb" | "outsw" | "outsd" => "outs",
        "cwde" | "cdqe" => "cbw",
        "cdq" | "cqo" => "cwd",
        "iretd" | "iretq" => "iret",
        "pushad" => "pusha",
        "popad" => "popa",
        "pushfd" | "pushfq" => "pushf",
        "popfd" | "popfq" => "popf",
        "sysretq" => "sysret",
        "sysexitq" => "sysexit",
        "jecxz" | "jrcxz" => "jcxz",
        "sal" => "shl",
        "xlatb" => "xlat",
        "fxsave64" => "fxsave",
        "fxrstor64" => "fxrstor",
        "xsave64" => "xsave",
        "xrstor64" => "xrstor",
        "xsavec64" => "xsavec",
        "xsaves64" => "xsaves",
        "xsaveopt64" => "xsaveopt",
        "xrstors64" => "xrstors",
        "pcmpestri64" => "pcmpestri",
        "pcmpestrm64" => "pcmpestrm",
        other => return other.to_string(),
    }
    .to_string()
}

/// The operand size that iced's code tells by its name, of what has no operand that would.
fn operand_size(code: &str) -> Option<Size> {
    /// Instructions whose size is a letter behind this.
    const STEMS: [&str; 15] = [
        "push", "pop", "pushf", "popf", "pusha", "popa", "iret", "retn", "retf", "enter", "leave",
        "sysret", "sysexit", "ins", "outs",
    ];
    /// Parts of names: branches, far pointers, pseudo-descriptors, stack operands and states.
    const PARTS: [(&str, Size); 20] = [
        ("_m1632_16", Size::Word),
        ("_m1632", Size::Dword),
        ("_m1664", Size::Qword),
        ("_m1616", Size::Word),
        ("_rel8_16", Size::Word),
        ("_rel8_32", Size::Dword),
        ("_rel8_64", Size::Qword),
        ("_rel16", Size::Word),
        ("_rel32_32", Size::Dword),
        ("_rel32_64", Size::Qword),
        ("_ptr1616", Size::Word),
        ("_ptr1632", Size::Dword),
        ("push_r16", Size::Word),
        ("push_rm64", Size::Qword),
        ("pop_r64", Size::Qword),
        ("pop_rm32", Size::Dword),
        ("call_rm64", Size::Qword),
        ("fxsave_", Size::Dword),
        ("xrstor64_", Size::Qword),
        ("fldenv_m14", Size::Word),
    ];
    for stem in STEMS {
        let mut rest = code.strip_prefix(stem).unwrap_or_default().bytes();
        let (letter, end) = (rest.next(), rest.next());
        if end.is_none_or(|byte| byte == b'_') {
            match letter {
                Some(b'b') => return Some(Size::Byte),
                Some(b'w') => return Some(Size::Word),
                Some(b'd') => return Some(Size::Dword),
                Some(b'q') => return Some(Size::Qword),
                _ => {}
            }
        }
    }
    let part = PARTS.iter().find(|(part, _)| code.contains(part));
    part.map(|(_, size)| *size)
}

fn operand(theirs: &iced_x86::Instruction, place: u32, ours: &Instruction) -> Operand {
    let string = |register: Iced, segment| {
        Operand::Memory(Memory {
            segment,
            base: Base::Register(register.number() as u8),
            index: None,
            scale: 1,
            displacement: 0,
        })
    };
    let segment = || match segment(theirs.memory_segment()) {
        other @ (SegmentRegister::Fs | SegmentRegister::Gs) => other,
        other if theirs.code_size() != iced_x86::CodeSize::Code64 => other,
        // iced keeps a prefix that does nothing.
        _ => match theirs.memory_base() {
            Iced::ESP | Iced::EBP | Iced::RSP | Iced::RBP => SegmentRegister::Ss,
            _ => SegmentRegister::Ds,
        },
    };
    match theirs.op_kind(place) {
        OpKind::Register => Operand::Register(register(theirs.op_register(place))),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            let relative = theirs.near_branch_target().wrapping_sub(theirs.next_ip());
            let unused = 64 - u32::from(ours.operand_size().bits());
            // Ours is not cut to the operand size.
            let cut = (relative << unused) as i64 >> unused;
            match ours.operand(place as usize) {
                Operand::Relative(mine) if (mine << unused) >> unused == cut => {
                    Operand::Relative(mine)
                }
                _ => Operand::Relative(cut),
            }
        }
        OpKind::FarBranch16 => Operand::Far {
            selector: theirs.far_branch_selector(),
            offset: theirs.far_branch16().into(),
        },
        OpKind::FarBranch32 => Operand::Far {
            selector: theirs.far_branch_selector(),
            offset: theirs.far_branch32(),
        },
        kind @ (OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64) => Operand::Immediate(
            theirs.immediate(place)
                & match kind {
                    OpKind::Immediate8to16 => 0xffff,
                    OpKind::Immediate8to32 => 0xffff_ffff,
                    _ => u64::MAX,
                },
        ),
        OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
            string(Iced::RSI, segment())
        }
        OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
            string(Iced::RDI, segment())
        }
        OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => {
            string(Iced::RDI, SegmentRegister::Es)
        }
        OpKind::Memory => {
            let mask = ours.address_size().mask();
            let relative = theirs.is_ip_rel_memory_operand();
            let mut displacement = theirs.memory_displacement64();
            if relative {
                displacement = displacement.wrapping_sub(theirs.next_ip());
            }
            // Equal where the address is: ours is sign-extended.
            if let Operand::Memory(mine) = ours.operand(place as usize)
                && mine.displacement as u64 & mask == displacement & mask
            {
                displacement = mine.displacement as u64;
            }
            let index = match theirs.memory_index() {
                // Of XLAT.
                Iced::None | Iced::AL => None,
                index => Some(general(index)),
            };
            Operand::Memory(Memory {
                segment: segment(),
                base: match theirs.memory_base() {
                    Iced::None => Base::None,
                    Iced::RIP | Iced::EIP => Base::Rip,
                    base => Base::Register(general(base)),
                },
                index,
                // Without an index there is nothing to scale.
                scale: match index {
                    None => 1,
                    Some(_) => theirs.memory_index_scale() as u8,
                },
                displacement: displacement as i64,
            })
        }
    }
}

fn general(register: Iced) -> u8 {
    register.number() as u8
}

fn segment(register: Iced) -> SegmentRegister {
    SegmentRegister::from_number(register.number() as u8).expect("one of six")
}

fn register(theirs: Iced) -> Register {
    let class = match theirs {
        Iced::AH | Iced::CH | Iced::DH | Iced::BH => RegisterClass::Gpr8High,
        _ if theirs.is_gpr8() => RegisterClass::Gpr8,
        _ if theirs.is_gpr16() => RegisterClass::Gpr16,
        _ if theirs.is_gpr32() => RegisterClass::Gpr32,
        _ if theirs.is_gpr64() => RegisterClass::Gpr64,
        _ if theirs.is_segment_register() => RegisterClass::Segment,
        _ if theirs.is_cr() => RegisterClass::Control,
        _ if theirs.is_dr() => RegisterClass::Debug,
        _ if theirs.is_st() => RegisterClass::X87,
        _ if theirs.is_mm() => RegisterClass::Mmx,
        _ => RegisterClass::Xmm,
    };
    Register {
        class,
        number: if theirs.is_gpr() {
            general(theirs.full_register())
        } else {
            theirs.number() as u8
        },
    }
}
