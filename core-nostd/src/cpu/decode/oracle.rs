//! What iced-x86 makes of the same bytes, compared part by part. The decoder's tests and its fuzz target share this.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use iced_x86::{Code, CpuidFeature, DecoderError, OpKind, Register as Iced};

use super::{
    Base, CodeSize, DecodeError, Instruction, LENGTH_MAX, Memory, Operand, Operation, Register,
    RegisterClass, SegmentRegister, Size, decode,
};

/// Decodes with both, and tells the first difference.
pub fn compare(bytes: &[u8], mode: CodeSize) -> Result<(), String> {
    let ours = decode(bytes, mode);
    let bits = match mode {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let mut decoder = iced_x86::Decoder::new(bits, bytes, iced_x86::DecoderOptions::NONE);
    let theirs = decoder.decode();
    let difference = match (ours, decoder.last_error()) {
        (Err(DecodeError::NeedMore), DecoderError::NoMoreBytes) if bytes.len() < LENGTH_MAX => None,
        // What is undefined may be known before its last byte; iced reads to the end first.
        (Err(DecodeError::Undefined), DecoderError::NoMoreBytes) => None,
        (Err(DecodeError::TooLong), _) if bytes.len() >= LENGTH_MAX => too_long(bytes, bits),
        (Err(DecodeError::Undefined), DecoderError::InvalidInstruction) => None,
        (Err(DecodeError::Undefined), DecoderError::None) if refused(&theirs) => None,
        // iced may know it to be invalid before its last byte.
        (Err(DecodeError::NeedMore), DecoderError::InvalidInstruction) => None,
        (Ok(ours), DecoderError::None) => differs(&ours, &theirs),
        (ours, error) => Some(format!("ours {ours:?}, iced {error:?}")),
    };
    match difference {
        None => Ok(()),
        Some(difference) => Err(format!(
            "{bytes:02x?} {mode:?}: {difference}; iced {:?} {theirs:?}",
            theirs.code()
        )),
    }
}

/// What is longer than 15 bytes has no valid beginning for iced, and is valid without its first prefix or can't be
/// shown to be.
fn too_long(bytes: &[u8], bits: u32) -> Option<String> {
    let mut decoder = iced_x86::Decoder::new(bits, bytes, iced_x86::DecoderOptions::NONE);
    decoder.decode();
    (decoder.last_error() == DecoderError::None).then(|| "ours TooLong".to_string())
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
        INTEL8086, INTEL186, INTEL286, INTEL386, INTEL486, X64, ADX, BMI1, BMI2, CET_IBT, CLFLUSHOPT, CLFSH, CLWB,
        CMOV, CMPXCHG16B, CPUID, CX8, FPU, FPU287, FPU387, FSGSBASE, FXSR, INVPCID, LZCNT, MMX, MONITOR, MOVBE, MSR,
        MULTIBYTENOP, PAUSE, PKU, POPCNT, PREFETCHW, PREFETCHWT1, RDPID, RDPMC, RDRAND, RDSEED, RDTSCP, SEP,
        SERIALIZE, SMAP, SMM, SSE, SSE2, SSE3, SSE4_1, SSE4_2, SSSE3, SYSCALL, TSC, WBNOINVD, XSAVE, XSAVEC,
        XSAVEOPT, XSAVES,
    ]
};

fn differs(ours: &Instruction, theirs: &iced_x86::Instruction) -> Option<String> {
    let mut differences = Vec::new();
    let mut check = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            differences.push(format!("{what}: ours {ours}, iced {theirs}"));
        }
    };
    check(
        "length",
        ours.length().to_string(),
        theirs.len().to_string(),
    );
    let mut their_name = operation(theirs);
    // Without their features these do nothing.
    if ours.operation() == Operation::Nop && HINTS.contains(&their_name.as_str()) {
        their_name = "nop".to_string();
    }
    check("operation", name(ours.operation()), their_name.clone());
    check(
        "lock",
        ours.lock().to_string(),
        theirs.has_lock_prefix().to_string(),
    );
    // A reserved NOP of iced has more operands than ours.
    if ours.operation() == Operation::Nop && their_name == "nop" {
        return (!differences.is_empty()).then(|| differences.join(", "));
    }
    if let Some(size) = operand_size(theirs) {
        check(
            "operand size",
            format!("{:?}", ours.operand_size()),
            format!("{size:?}"),
        );
    }
    let count = theirs.op_count() as usize;
    check(
        "operands",
        ours.operands().count().to_string(),
        count.to_string(),
    );
    for place in 0..count.min(3) {
        let mine = ours.operand(place);
        let other = operand(theirs, place as u32, ours);
        if is_word_or_more(ours.operation(), mine) {
            check("register", number(mine), number(other));
            continue;
        }
        check("operand", format!("{mine:?}"), format!("{other:?}"));
    }
    let string = is_string(ours.operation());
    if string {
        check(
            "rep",
            ours.rep().to_string(),
            theirs.has_rep_prefix().to_string(),
        );
        check(
            "repne",
            ours.repne().to_string(),
            theirs.has_repne_prefix().to_string(),
        );
    }
    // What our size leaves to the operation has none.
    if ours.memory_size() != 0 {
        check(
            "memory size",
            ours.memory_size().to_string(),
            theirs.memory_size().size().to_string(),
        );
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Reserved NOPs that have got a name.
const HINTS: &[&str] = &["cldemote", "prefetchit0", "prefetchit1", "rdsspd", "rdsspq"];

fn is_string(operation: Operation) -> bool {
    use Operation::*;
    matches!(operation, Movs | Cmps | Stos | Lods | Scas | Ins | Outs)
}

/// The register of a 16-bit source is named at the operand size by iced, at 16 bits by us: the SDM's r/m16.
fn is_word_or_more(operation: Operation, operand: Operand) -> bool {
    use Operation::*;
    matches!(
        operation,
        Arpl | Lar | Lldt | Lmsw | Lsl | Ltr | MovSegment | Verr | Verw
    ) && matches!(operand, Operand::Register(_))
}

fn number(operand: Operand) -> String {
    match operand {
        Operand::Register(register) => register.number.to_string(),
        other => format!("{other:?}"),
    }
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

/// The operand size that a code of iced tells by its name, of instructions without operands that would.
fn operand_size(theirs: &iced_x86::Instruction) -> Option<Size> {
    use Code::*;
    Some(match theirs.code() {
        Cbw | Cwd | Iretw | Pushaw | Popaw | Pushfw | Popfw | Retnw | Retnw_imm16 | Retfw
        | Retfw_imm16 | Leavew | Enterw_imm16_imm8 | Pushw_ES | Pushw_FS | Popw_GS | Push_r16
        | Pop_rm16 | Call_rm16 | Call_rel16 | Jmp_rel16 | Jmp_rel8_16 | Je_rel8_16
        | Loop_rel8_16_CX | Loop_rel8_16_ECX | Call_ptr1616 | Call_m1616 => Size::Word,
        Cwde | Cdq | Iretd | Pushad | Popad | Pushfd | Popfd | Retnd | Retnd_imm16 | Retfd
        | Retfd_imm16 | Leaved | Enterd_imm16_imm8 | Pushd_ES | Pushd_FS | Popd_GS | Push_r32
        | Pop_rm32 | Call_rm32 | Call_rel32_32 | Jmp_rel32_32 | Jmp_rel8_32 | Je_rel8_32
        | Loop_rel8_32_CX | Loop_rel8_32_ECX | Call_ptr1632 | Call_m1632 | Sysretd | Sysexitd
        | Fxsave_m512byte | Xsave_mem => Size::Dword,
        Cdqe | Cqo | Iretq | Pushfq | Popfq | Retnq | Retnq_imm16 | Retfq | Retfq_imm16
        | Leaveq | Enterq_imm16_imm8 | Pushq_FS | Popq_GS | Push_r64 | Pop_rm64 | Call_rm64
        | Call_rel32_64 | Jmp_rel32_64 | Jmp_rel8_64 | Je_rel8_64 | Loop_rel8_64_ECX
        | Loop_rel8_64_RCX | Call_m1664 | Sysretq | Sysexitq | Fxsave64_m512byte | Xsave64_mem => {
            Size::Qword
        }
        _ => return None,
    })
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
                scale: theirs.memory_index_scale() as u8,
                displacement: displacement as i64,
            })
        }
        _ => Operand::None,
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
