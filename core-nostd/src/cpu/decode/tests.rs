//! Tests of the decoder: opcode maps, addressing, prefixes and random bytes against the oracle; what instructions look
//! like; and the errors.

use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::oracle::{compare, cut};
use super::*;

const MODES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

/// Prefixes before each opcode.
const PREFIXES: [&[u8]; 15] = [
    &[],
    &[0x66],
    &[0xf3],
    &[0xf2],
    &[0x66, 0xf3],
    &[0x66, 0xf2],
    &[0x67],
    &[0xf0],
    &[0x48],
    &[0x66, 0x48],
    &[0xf3, 0x48],
    &[0xf2, 0x4f],
    &[0x41],
    &[0x2e, 0x44],
    &[0x65, 0x42],
];

/// What follows an opcode and its ModRM byte: no byte is like another, and no number is positive only.
const TAIL: [u8; 10] = [0x85, 0xf1, 0x82, 0x73, 0xe4, 0x55, 0x46, 0xb7, 0x28, 0x99];

/// Collects differences, and fails with the first twenty.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn look(&mut self, parts: &[&[u8]], mode: CodeSize) {
        if self.0.len() < 20 {
            self.0.extend(compare(&parts.concat(), mode).err());
        }
    }
}

impl Drop for Differences {
    fn drop(&mut self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// Compares all that begins with an opcode of one map, with all ModRM bytes.
fn map(escape: &[u8]) {
    let mut differences = Differences::default();
    for mode in MODES {
        for prefix in PREFIXES {
            // REX is INC or DEC elsewhere, and the map has these.
            let rex = prefix.iter().any(|byte| byte >> 4 == 4);
            if rex && mode != CodeSize::Bits64 {
                continue;
            }
            for opcode in 0..=0xff {
                for modrm in 0..=0xff {
                    differences.look(&[prefix, escape, &[opcode, modrm], &TAIL], mode);
                }
            }
        }
    }
}

#[test]
fn the_one_byte_map_agrees() {
    map(&[]);
}

#[test]
fn the_two_byte_map_agrees() {
    map(&[0x0f]);
}

#[test]
fn the_map_0f38_agrees() {
    map(&[0x0f, 0x38]);
}

#[test]
fn the_map_0f3a_agrees() {
    map(&[0x0f, 0x3a]);
}

#[test]
fn vex_prefixes_agree() {
    let mut differences = Differences::default();
    for mode in MODES {
        for opcode in 0..=0xff {
            for modrm in [0x05, 0x4c, 0x9a, 0xcb, 0xda] {
                // W, two of vvvv, L and pp; R, X, B and the map.
                for last in (0..=0xff_u8).filter(|last| matches!(last >> 3 & 0xf, 4 | 0xf)) {
                    for first in [0xe1, 0xe2, 0x42, 0xc2, 0xe3, 0xc3, 0xe8] {
                        let bytes = [0xc4, first, last, opcode, modrm];
                        differences.look(&[&bytes, &TAIL], mode);
                    }
                    differences.look(&[&[0xc5, last, opcode, modrm], &TAIL], mode);
                }
            }
        }
        // Other prefixes with it; and what isn't one, for want of 64-bit mode.
        for prefix in [0x2e, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x48] {
            for first in 0..=0xff {
                let bytes = [prefix, 0xc4, first, 0x78, 0xf2, 0xc8];
                differences.look(&[&bytes, &TAIL], mode);
            }
        }
    }
}

#[test]
fn evex_and_xop_are_recognised_and_undefined() {
    // VADDPS zmm1, zmm2, zmm3; BLCFILL eax, ecx; with EVEX's and XOP's bytes.
    let evex = [0x62, 0xf1, 0x6c, 0x48, 0x58, 0xcb];
    let xop = [0x8f, 0xe9, 0x78, 0x01, 0xc9];
    for mode in MODES {
        assert_eq!(decode(&evex, mode), Err(DecodeError::Undefined));
        assert_eq!(decode(&xop, mode), Err(DecodeError::Undefined));
    }
    // BOUND where it is one.
    let bound = decode(&[0x62, 0x08], CodeSize::Bits32).unwrap();
    assert_eq!(bound.operation(), Operation::Bound);
    assert_eq!(bound.memory_size(), 8);
}

#[test]
fn addressing_agrees() {
    let mut differences = Differences::default();
    let prefixes: [&[u8]; 11] = [
        &[],
        &[0x67],
        &[0x64],
        &[0x36],
        &[0x65, 0x2e],
        &[0x41],
        &[0x42],
        &[0x43],
        &[0x4f],
        &[0x67, 0x41],
        &[0x67, 0x64, 0x47],
    ];
    for mode in MODES {
        for prefix in prefixes {
            for modrm in (0..0xc0).filter(|modrm| modrm >> 3 & 7 == 2) {
                for sib in 0..=0xff {
                    differences.look(&[prefix, &[0x8b, modrm, sib], &TAIL], mode);
                }
            }
        }
    }
}

#[test]
fn three_prefixes_in_any_order_agree() {
    let prefixes = [
        0x26, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x48,
    ];
    let opcodes: [&[u8]; 14] = [
        &[0x01, 0x1d],
        &[0x88, 0xe4],
        &[0x90],
        &[0xa4],
        &[0xa7],
        &[0x6d],
        &[0xe3],
        &[0xe8],
        &[0xff, 0x2b],
        &[0xb8],
        &[0xa1],
        &[0x0f, 0xbc, 0xc1],
        &[0x0f, 0x10, 0x41],
        &[0x0f, 0x38, 0xf1, 0xc1],
    ];
    let mut differences = Differences::default();
    for mode in MODES {
        for a in prefixes {
            for b in prefixes {
                for c in prefixes {
                    for opcode in opcodes {
                        differences.look(&[&[a, b, c], opcode, &TAIL], mode);
                    }
                }
            }
        }
    }
}

/// What leads to the maps.
const ESCAPES: [&[u8]; 5] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a], &[0xc4, 0xe2]];

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_agree(bytes in any::<[u8; 18]>(), length in 0..19_usize, mode in 0..3_usize) {
        let verdict = compare(&bytes[..length], MODES[mode]);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
        prop_assert_eq!(cut(&bytes[..length], MODES[mode]), Ok(()));
    }

    /// With prefixes and escapes more often than chance has them.
    #[test]
    fn likely_bytes_agree(
        prefixes in prop::collection::vec(
            prop::sample::select(&[0x66_u8, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x65, 0x48, 0x41, 0x4d][..]), 0..14,
        ),
        escape in prop::sample::select(&ESCAPES[..]),
        rest in any::<[u8; 15]>(),
        mode in 0..3_usize,
    ) {
        let bytes = [&prefixes, escape, &rest].concat();
        let verdict = compare(&bytes, MODES[mode]);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
        prop_assert_eq!(cut(&bytes, MODES[mode]), Ok(()));
    }
}

#[test]
fn an_instruction_has_15_bytes_at_most() {
    let mut bytes = [0x66; 20];
    bytes[14] = 0x90;
    for mode in MODES {
        assert_eq!(decode(&bytes, mode).unwrap().length(), 15);
        assert_eq!(decode(&bytes[..14], mode), Err(DecodeError::NeedMore));
        assert_eq!(decode(&[0x66; 15], mode), Err(DecodeError::TooLong));
        assert_eq!(decode(&[0x66; 20], mode), Err(DecodeError::TooLong));
        assert_eq!(decode(&[], mode), Err(DecodeError::NeedMore));
    }
    // ADD m32, imm32 that would have 16 bytes.
    let mut bytes = [0x2e; 16];
    bytes[5..12].copy_from_slice(&[0x81, 0x84, 0x88, 1, 2, 3, 4]);
    assert_eq!(decode(&bytes, CodeSize::Bits32), Err(DecodeError::TooLong));
    assert_eq!(decode(&bytes[1..], CodeSize::Bits32).unwrap().length(), 15);
}

fn long(bytes: &[u8]) -> Instruction {
    decode(bytes, CodeSize::Bits64).unwrap()
}

const fn register(class: RegisterClass, number: u8) -> Operand {
    Operand::Register(Register { class, number })
}

#[test]
fn immediates_have_the_operands_width() {
    // ADD RAX, -1; ADD AX, -1; MOV EAX, FFFFFFFFh; ADD CL, FFh; PUSH -1.
    let cases: [(&[u8], u64); 5] = [
        (&[0x48, 0x83, 0xc0, 0xff], u64::MAX),
        (&[0x66, 0x83, 0xc0, 0xff], 0xffff),
        (&[0xb8, 0xff, 0xff, 0xff, 0xff], 0xffff_ffff),
        (&[0x80, 0xc1, 0xff], 0xff),
        (&[0x6a, 0xff], u64::MAX),
    ];
    for (bytes, value) in cases {
        let last = long(bytes).operands().last();
        assert_eq!(last, Some(Operand::Immediate(value)), "{bytes:x?}");
    }
    let enter = long(&[0xc8, 0x34, 0x12, 0x1f]);
    assert_eq!(enter.operand(0), Operand::Immediate(0x1234));
    assert_eq!(enter.operand(1), Operand::Immediate(0x1f));
}

#[test]
fn high_bytes_are_there_without_rex_only() {
    // MOV AH, BH.
    let high = long(&[0x88, 0xfc]);
    assert_eq!(high.operand(0), register(RegisterClass::Gpr8High, 0));
    assert_eq!(high.operand(1), register(RegisterClass::Gpr8High, 3));
    // MOV SPL, DIL.
    let low = long(&[0x40, 0x88, 0xfc]);
    assert_eq!(low.operand(0), register(RegisterClass::Gpr8, 4));
    assert_eq!(low.operand(1), register(RegisterClass::Gpr8, 7));
    // A REX prefix before another prefix is none.
    assert_eq!(
        long(&[0x40, 0x66, 0x88, 0xfc]).operand(0),
        register(RegisterClass::Gpr8High, 0)
    );
}

#[test]
fn memory_operands_have_all_parts() {
    // MOV FS:[R13 + R12*8 - 2], R9D.
    let store = long(&[0x64, 0x47, 0x89, 0x4c, 0xe5, 0xfe]);
    let memory = Memory {
        segment: SegmentRegister::Fs,
        base: Base::Register(13),
        index: Some(12),
        scale: 8,
        displacement: -2,
    };
    assert_eq!(store.operand(0), Operand::Memory(memory));
    assert_eq!(store.memory(), Some(memory));
    assert_eq!(store.memory_size(), 4);
    assert_eq!(store.operand_size(), Size::Dword);
    assert_eq!(store.address_size(), Size::Qword);
    // What RBP points to is in SS, what R13 points to is not.
    assert_eq!(long(&[0x8b, 0x45, 0]).segment(), SegmentRegister::Ss);
    assert_eq!(long(&[0x41, 0x8b, 0x45, 0]).segment(), SegmentRegister::Ds);
    // CS: does nothing in 64-bit mode.
    assert_eq!(long(&[0x2e, 0x8b, 0x45, 0]).segment(), SegmentRegister::Ss);
    // MOV AL, [1122334455667788h].
    let offset = long(&[0xa0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    let memory = offset.memory().unwrap();
    assert_eq!(memory.displacement, 0x1122_3344_5566_7788);
    assert_eq!(memory.base, Base::None);
    // LEA RAX, [RIP + 1].
    let lea = long(&[0x48, 0x8d, 0x05, 1, 0, 0, 0]);
    assert_eq!(lea.memory().unwrap().base, Base::Rip);
    assert_eq!(lea.memory_size(), 0);
}

#[test]
fn strings_name_both_ends() {
    // REP MOVSQ with GS.
    let movs = long(&[0x65, 0xf3, 0x48, 0xa5]);
    assert_eq!(movs.operation(), Operation::Movs);
    assert!(movs.rep() && !movs.repne());
    assert_eq!(movs.memory_size(), 8);
    let [Operand::Memory(to), Operand::Memory(from)] = [0, 1].map(|place| movs.operand(place))
    else {
        panic!("{movs:?}");
    };
    assert_eq!(
        (to.segment, to.base),
        (SegmentRegister::Es, Base::Register(7))
    );
    assert_eq!(
        (from.segment, from.base),
        (SegmentRegister::Gs, Base::Register(6))
    );
    // OUTSD with REX.W still has 32 bits.
    assert_eq!(long(&[0x48, 0x6f]).operand_size(), Size::Dword);
    // F3h of POPCNT is no REP.
    assert!(!long(&[0xf3, 0x0f, 0xb8, 0xc0]).rep());
}

#[test]
fn lock_is_for_memory_that_is_read_and_written() {
    // ADD [RAX], EAX; CMPXCHG16B [RAX]; NOT BYTE [RAX].
    let may: [&[u8]; 3] = [&[0x01, 0x00], &[0x48, 0x0f, 0xc7, 0x08], &[0xf6, 0x10]];
    // ADD EAX, EAX; ADD EAX, [RAX]; CMP [RAX], EAX; MOV [RAX], EAX; BT [RAX], EAX; NOP; MOV CR0.
    let must_not: [&[u8]; 7] = [
        &[0x01, 0xc0],
        &[0x03, 0x00],
        &[0x39, 0x00],
        &[0x89, 0x00],
        &[0x0f, 0xa3, 0x00],
        &[0x90],
        &[0x0f, 0x20, 0xc0],
    ];
    for bytes in may {
        assert!(long(&[&[0xf0], bytes].concat()).lock(), "{bytes:x?}");
        assert!(!long(bytes).lock());
    }
    for bytes in must_not {
        let locked = decode(&[&[0xf0], bytes].concat(), CodeSize::Bits64);
        assert_eq!(locked, Err(DecodeError::Undefined), "{bytes:x?}");
        assert!(!long(bytes).lock());
    }
}

#[test]
fn branches_know_their_size() {
    // JE -2 and CALL -5 with 66h: ignored in 64-bit mode.
    assert_eq!(long(&[0x66, 0x74, 0xfe]).operand_size(), Size::Qword);
    let call = long(&[0x66, 0xe8, 0xfb, 0xff, 0xff, 0xff]);
    assert_eq!(call.operand(0), Operand::Relative(-5));
    let short = decode(&[0xe8, 0xfd, 0xff], CodeSize::Bits16).unwrap();
    assert_eq!(short.operand(0), Operand::Relative(-3));
    assert_eq!(short.operand_size(), Size::Word);
    // JMP FAR 1234h:89ABCDEFh.
    let far = [0xea, 0xef, 0xcd, 0xab, 0x89, 0x34, 0x12];
    let far = decode(&far, CodeSize::Bits32).unwrap();
    assert_eq!(far.operation(), Operation::JmpFar);
    let target = Operand::Far {
        selector: 0x1234,
        offset: 0x89ab_cdef,
    };
    assert_eq!(far.operand(0), target);
    // JECXZ looks at the address size.
    let jecxz = long(&[0x67, 0xe3, 0]);
    assert_eq!(
        (jecxz.address_size(), jecxz.operand_size()),
        (Size::Dword, Size::Qword)
    );
}

#[test]
fn modes_have_instructions_of_their_own() {
    // PUSHA, AAM, PUSH ES, JMP FAR, 82h, SALC, INTO.
    let not_long: [&[u8]; 7] = [
        &[0x60],
        &[0xd4, 10],
        &[0x06],
        &[0xea, 0, 0, 0, 0, 0, 0],
        &[0x82, 0xc0, 1],
        &[0xd6],
        &[0xce],
    ];
    for bytes in not_long {
        assert!(decode(bytes, CodeSize::Bits32).is_ok(), "{bytes:x?}");
        assert_eq!(decode(bytes, CodeSize::Bits64), Err(DecodeError::Undefined));
    }
    // SWAPGS, RDFSBASE.
    for bytes in [&[0x0f, 0x01, 0xf8][..], &[0xf3, 0x0f, 0xae, 0xc0]] {
        assert!(decode(bytes, CodeSize::Bits64).is_ok(), "{bytes:x?}");
        assert_eq!(decode(bytes, CodeSize::Bits32), Err(DecodeError::Undefined));
    }
    // 48h is DEC EAX or a prefix; 63h is ARPL or MOVSXD.
    let dec = decode(&[0x48], CodeSize::Bits32).unwrap();
    assert_eq!(dec.operation(), Operation::Dec);
    let arpl = decode(&[0x63, 0xc0], CodeSize::Bits16).unwrap();
    assert_eq!(arpl.operation(), Operation::Arpl);
    assert_eq!(long(&[0x48, 0x63, 0xc0]).operation(), Operation::Movsxd);
}
