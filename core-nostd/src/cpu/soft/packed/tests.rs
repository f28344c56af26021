//! Results against those of the processor that the tests run on, operands, and what raises what.

use super::*;
use crate::cpu::gpr::{RBX, RDI};
use crate::cpu::soft::Exception;
use crate::cpu::soft::testing::Guest;

fn guest() -> Guest {
    let mut guest = Guest::long();
    guest.change(|state| {
        state.cr4 |= 1 << 9;
        state.gpr[RBX] = 0x3000;
        state.gpr[RDI] = 0x4ffc;
    });
    guest
}

/// Numbers with a liking for the ends of ranges.
#[cfg(target_arch = "x86_64")]
fn numbers() -> impl Iterator<Item = (u128, u128)> {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut number = move || {
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let random = next();
            *byte = match random >> 8 & 3 {
                0 => [0, 1, 0x7f, 0x80, 0xff][(random >> 16) as usize % 5],
                _ => random as u8,
            };
        }
        u128::from_le_bytes(bytes)
    };
    (0..2000).map(move |_| (number(), number()))
}

/// Compares results with those of the processor that the tests run on.
#[cfg(target_arch = "x86_64")]
macro_rules! as_the_processor {
    ($shift:expr; $($name:ident)*) => {$({
        for (mut a, mut b) in numbers() {
            if $shift {
                b = b % 70 | b & !LOW;
            }
            let expected = compute(Packed::$name, 128, a, b, 0).unwrap();
            let expected_mmx = compute(Packed::$name, 64, a & LOW, b & LOW, 0).unwrap() & LOW;
            let (a_before, mut mmx) = (a, a as u64);
            // SAFETY: only these variables are accessed, and MMX is left empty.
            unsafe {
                core::arch::asm!(
                    "movdqu xmm0, [{a}]",
                    "movdqu xmm1, [{b}]",
                    concat!(stringify!($name), " xmm0, xmm1"),
                    "movdqu [{a}], xmm0",
                    a = in(reg) &raw mut a,
                    b = in(reg) &raw mut b,
                    out("xmm0") _,
                    out("xmm1") _,
                );
            }
            assert_eq!(a, expected, "{} {a_before:#x} {b:#x}", stringify!($name));
            if matches!(Packed::$name, Packed::Punpcklqdq | Packed::Punpckhqdq) {
                continue;
            }
            as_the_processor!(@mmx $name, mmx, b);
            assert_eq!(u128::from(mmx), expected_mmx, "{} {a_before:#x} {b:#x}", stringify!($name));
        }
    })*};
    (@mmx Punpcklqdq, $a:ident, $b:ident) => { let _ = &mut $a; };
    (@mmx Punpckhqdq, $a:ident, $b:ident) => { let _ = &mut $a; };
    (@mmx $name:ident, $a:ident, $b:ident) => {
        // SAFETY: as above.
        unsafe {
            core::arch::asm!(
                "movq mm0, [{a}]",
                "movq mm1, [{b}]",
                concat!(stringify!($name), " mm0, mm1"),
                "movq [{a}], mm0",
                "emms",
                a = in(reg) &raw mut $a,
                b = in(reg) &raw mut $b,
                out("mm0") _,
                out("mm1") _,
            );
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[test]
fn results_are_the_processors() {
    as_the_processor! { false;
        Paddb Paddw Paddd Paddq Psubb Psubw Psubd Psubq Paddusb Paddusw Psubusb Psubusw Paddsb
        Paddsw Psubsb Psubsw Pcmpeqb Pcmpeqw Pcmpeqd Pcmpgtb Pcmpgtw Pcmpgtd Pavgb Pavgw Pminub
        Pmaxub Pminsw Pmaxsw Pmullw Pmulhw Pmulhuw Pmuludq Pmaddwd Psadbw Pand Pandn Por Pxor
        Packsswb Packssdw Packuswb Punpcklbw Punpcklwd Punpckldq Punpcklqdq Punpckhbw Punpckhwd
        Punpckhdq Punpckhqdq
    }
    as_the_processor! { true; Psllw Pslld Psllq Psrlw Psrld Psrlq Psraw Psrad }
    if std::is_x86_feature_detected!("ssse3") {
        as_the_processor! { false;
            Pshufb Phaddw Phaddd Phaddsw Phsubw Phsubd Phsubsw Pmaddubsw Pmulhrsw Psignb Psignw
            Psignd Pabsb Pabsw Pabsd
        }
    }
}

/// Compares instructions of XMM registers, with XMM0 in a part of its own.
#[cfg(target_arch = "x86_64")]
macro_rules! as_the_processor_with_xmm0 {
    ($($name:ident $($by:literal)?;)*) => {$({
        let mut xmm0 = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210u128;
        for (a, b) in numbers() {
            xmm0 = xmm0.wrapping_mul(0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f) ^ a;
            let (mut result, b_there) = (a, b);
            // SAFETY: only these variables are accessed.
            unsafe {
                core::arch::asm!(
                    "movdqu xmm0, [{c}]",
                    "movdqu xmm1, [{a}]",
                    "movdqu xmm2, [{b}]",
                    concat!(stringify!($name), " xmm1, xmm2", $(", ", stringify!($by))?),
                    "movdqu [{a}], xmm1",
                    a = in(reg) &raw mut result,
                    b = in(reg) &raw const b_there,
                    c = in(reg) &raw const xmm0,
                    out("xmm0") _,
                    out("xmm1") _,
                    out("xmm2") _,
                );
            }
            let by = 0 $(+ $by)?;
            let name = Packed::$name;
            let computed = compute(name, 128, a, b, by);
            let computed = computed.or_else(|| crypto::compute(name, a, b, by, xmm0));
            assert_eq!(computed, Some(result), "{name:?} {by} {a:#x} {b:#x} {xmm0:#x}");
        }
    })*};
}

#[cfg(target_arch = "x86_64")]
#[test]
fn newer_results_are_the_processors() {
    if std::is_x86_feature_detected!("sse4.1") {
        as_the_processor_with_xmm0! {
            Packusdw; Pcmpeqq; Pmaxsb; Pmaxsd; Pmaxud; Pmaxuw; Pminsb; Pminsd; Pminud; Pminuw;
            Pmuldq; Pmulld; Phminposuw; Pmovsxbw; Pmovsxbd; Pmovsxbq; Pmovsxwd; Pmovsxwq; Pmovsxdq;
            Pmovzxbw; Pmovzxbd; Pmovzxbq; Pmovzxwd; Pmovzxwq; Pmovzxdq; Pblendw 0; Pblendw 0x5a;
            Pblendw 0xff; Mpsadbw 0; Mpsadbw 1; Mpsadbw 6; Mpsadbw 7; Mpsadbw 0xf8;
        }
    }
    if std::is_x86_feature_detected!("sse4.2") {
        as_the_processor_with_xmm0! { Pcmpgtq; }
    }
    if std::is_x86_feature_detected!("aes") {
        as_the_processor_with_xmm0! {
            Aesenc; Aesenclast; Aesdec; Aesdeclast; Aesimc; Aeskeygenassist 0; Aeskeygenassist 0x36;
        }
    }
    if std::is_x86_feature_detected!("pclmulqdq") {
        as_the_processor_with_xmm0! {
            Pclmulqdq 0; Pclmulqdq 1; Pclmulqdq 0x10; Pclmulqdq 0x11; Pclmulqdq 0xee;
        }
    }
    if std::is_x86_feature_detected!("sha") {
        as_the_processor_with_xmm0! {
            Sha1msg1; Sha1msg2; Sha1nexte; Sha1rnds4 0; Sha1rnds4 1; Sha1rnds4 2; Sha1rnds4 3;
            Sha1rnds4 0xfe; Sha256msg1; Sha256msg2;
        }
        // The assembler wants the third operand written.
        for (a, b) in numbers() {
            let xmm0 = a.rotate_left(37) ^ b;
            let (mut result, b_there) = (a, b);
            // SAFETY: only these variables are accessed.
            unsafe {
                core::arch::asm!(
                    "movdqu xmm0, [{c}]",
                    "movdqu xmm1, [{a}]",
                    "movdqu xmm2, [{b}]",
                    "sha256rnds2 xmm1, xmm2, xmm0",
                    "movdqu [{a}], xmm1",
                    a = in(reg) &raw mut result,
                    b = in(reg) &raw const b_there,
                    c = in(reg) &raw const xmm0,
                    out("xmm0") _,
                    out("xmm1") _,
                    out("xmm2") _,
                );
            }
            assert_eq!(
                crypto::compute(Packed::Sha256rnds2, a, b, 0, xmm0),
                Some(result)
            );
        }
    }
}

/// One comparison of strings on the processor: index, mask and status flags. The constant is part of
/// the instruction, so there is code for each.
#[cfg(target_arch = "x86_64")]
macro_rules! processor_compares {
    ($by:expr; $($constant:literal)*) => {
        match $by {
            $($constant => |a: u128, b: u128, lengths: [u64; 2]| {
                let (mut implicit, mut explicit) = ((0u64, 0u64), (0u64, 0u64));
                let (mut masks, strings) = ([0u128; 2], [a, b]);
                // SAFETY: only these variables are accessed, and flags are.
                unsafe {
                    core::arch::asm!(
                        "movdqu xmm1, [{s}]",
                        "movdqu xmm2, [{s} + 16]",
                        concat!("pcmpistri xmm1, xmm2, ", stringify!($constant)),
                        "mov {i}, rcx",
                        "pushfq",
                        "pop {f}",
                        concat!("pcmpistrm xmm1, xmm2, ", stringify!($constant)),
                        "movdqu [{m}], xmm0",
                        s = in(reg) strings.as_ptr(),
                        m = in(reg) masks.as_mut_ptr(),
                        i = out(reg) implicit.0,
                        f = out(reg) implicit.1,
                        out("rcx") _, out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    );
                    core::arch::asm!(
                        "movdqu xmm1, [{s}]",
                        "movdqu xmm2, [{s} + 16]",
                        concat!("pcmpestri xmm1, xmm2, ", stringify!($constant)),
                        "mov {i}, rcx",
                        "pushfq",
                        "pop {f}",
                        concat!("pcmpestrm xmm1, xmm2, ", stringify!($constant)),
                        "movdqu [{m} + 16], xmm0",
                        s = in(reg) strings.as_ptr(),
                        m = in(reg) masks.as_mut_ptr(),
                        i = out(reg) explicit.0,
                        f = out(reg) explicit.1,
                        in("rax") lengths[0], in("rdx") lengths[1],
                        out("rcx") _, out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    );
                }
                [implicit, explicit].map(|(index, flags)| (index, flags & crate::cpu::alu::STATUS))
                    .into_iter().zip(masks).collect::<std::vec::Vec<_>>()
            },)*
            _ => unreachable!(),
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[test]
fn strings_compare_as_the_processor_does() {
    if !std::is_x86_feature_detected!("sse4.2") {
        return;
    }
    // Every constant but for bit 7, which is ignored.
    for by in 0..128u8 {
        let on_the_processor = processor_compares! { by;
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
            61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89
            90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113
            114 115 116 117 118 119 120 121 122 123 124 125 126 127
        };
        for (at, (a, b)) in numbers().take(500).enumerate() {
            // Few different characters, so that some are found.
            let few = |value: u128| match at % 3 {
                0 => value,
                1 => value & 0x8303_0303_0303_8303_0383_0303_0303_0303,
                _ => value & (u128::MAX / 0xffff * 3),
            };
            let (a, b) = (few(a), few(b));
            let length = |value: u128| (value % 40) as u64;
            let lengths = [length(a >> 64), length(b >> 70).wrapping_neg()];
            let control = Control(by);
            let explicit = |which: usize| control.explicit(lengths[which], false);
            let all = [
                (control.implicit(a), control.implicit(b)),
                (explicit(0), explicit(1)),
            ];
            let ours = all.map(|(first, second)| {
                let text = |characters, length| Text { characters, length };
                let matches = text::compare(control, text(a, first), text(b, second));
                let index = u64::from(matches.index());
                ((index, matches.flags.status()), matches.mask())
            });
            assert_eq!(
                ours[..],
                on_the_processor(a, b, lengths)[..],
                "{by:#x} {a:#x} {b:#x}"
            );
        }
    }
    let control = Control(0);
    assert_eq!(control.explicit(1 << 32, false), 0);
    assert_eq!(control.explicit(1 << 32, true), 16);
    assert_eq!(control.explicit(0xffff_fffb, false), 5);
    assert_eq!(control.explicit(i64::MIN as u64, true), 16);
    assert_eq!(control.explicit(i32::MIN as u32 as u64, false), 16);
    assert_eq!(Control(1).explicit(9, true), 8);
}

/// FIPS 197, appendix B; FIPS 180-4 is in the test images.
#[test]
fn a_block_of_the_standard() {
    let bytes = u128::from_be_bytes;
    let swapped = |value: u128| bytes(value.to_le_bytes());
    let mut key = swapped(0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c);
    let mut state = swapped(0x3243_f6a8_885a_308d_3131_98a2_e037_0734) ^ key;
    let run = |name, a, b, by| crypto::compute(name, a, b, by, 0).unwrap();
    let mut keys = std::vec![key];
    for (round, constant) in [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36]
        .into_iter()
        .enumerate()
    {
        let last = run(Packed::Aeskeygenassist, 0, key, constant) >> 96;
        key ^= key << 32;
        key ^= key << 64;
        key ^= last * (u128::MAX / 0xffff_ffff);
        keys.push(key);
        let name = if round == 9 {
            Packed::Aesenclast
        } else {
            Packed::Aesenc
        };
        state = run(name, state, key, 0);
    }
    assert_eq!(swapped(state), 0x3925_841d_02dc_09fb_dc11_8597_196a_0b32);
    state ^= key;
    for (round, key) in keys[..10].iter().rev().enumerate() {
        state = if round == 9 {
            run(Packed::Aesdeclast, state, *key, 0)
        } else {
            let key = run(Packed::Aesimc, 0, *key, 0);
            run(Packed::Aesdec, state, key, 0)
        };
    }
    assert_eq!(swapped(state), 0x3243_f6a8_885a_308d_3131_98a2_e037_0734);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn constants_shuffle_as_the_processor_does() {
    macro_rules! with {
        ($($name:ident $by:literal)*) => {$(
            for (a, b) in numbers().take(50) {
                let expected = compute(Packed::$name, 128, a, b, $by).unwrap();
                let (mut a, mut b) = (a, b);
                // SAFETY: only these variables are accessed.
                unsafe {
                    core::arch::asm!(
                        "movdqu xmm0, [{a}]",
                        "movdqu xmm1, [{b}]",
                        concat!(stringify!($name), " xmm0, xmm1, ", stringify!($by)),
                        "movdqu [{a}], xmm0",
                        a = in(reg) &raw mut a,
                        b = in(reg) &raw mut b,
                        out("xmm0") _,
                        out("xmm1") _,
                    );
                }
                assert_eq!(a, expected, "{} {}", stringify!($name), $by);
            }
        )*};
    }
    with! { Pshufd 0x1b Pshufd 0x72 Pshuflw 0x4e Pshufhw 0x93 Pshuflw 0xd8 Pshufhw 0x01 }
    if std::is_x86_feature_detected!("ssse3") {
        with! { Palignr 0 Palignr 5 Palignr 16 Palignr 17 Palignr 31 Palignr 32 Palignr 200 }
    }
    let (a, b) = (0x1122_3344_5566_7788u128, 0x99aa_bbcc_ddee_ff00);
    assert_eq!(
        compute(Packed::Palignr, 64, a, b, 3).map(|r| r & LOW),
        Some(0x6677_8899_aabb_ccdd)
    );
    assert_eq!(
        compute(Packed::Pshufw, 64, 0, a, 0x1b).map(|r| r & LOW),
        Some(0x7788_5566_3344_1122)
    );
    assert_eq!(compute(Packed::Pslldq, 128, a, 15, 0), Some(0x88 << 120));
    assert_eq!(compute(Packed::Psrldq, 128, a, 16, 0), Some(0));
}

#[test]
fn moves() {
    let mut guest = guest();
    let value = 0x1111_2222_3333_4444_5555_6666_7777_8888u128;
    guest.put(0x3000, &value.to_le_bytes());
    // What each makes of xmm0 = all ones, [rbx] or xmm1 = the value.
    let cases: [(&[u8], u128); 18] = [
        (&[0x0f, 0x28, 0x03], value),
        (&[0x66, 0x0f, 0x6f, 0xc1], value),
        (&[0xf3, 0x0f, 0x10, 0x03], 0x7777_8888),
        (&[0xf3, 0x0f, 0x10, 0xc1], u128::MAX << 32 | 0x7777_8888),
        (&[0xf2, 0x0f, 0x10, 0x03], value & LOW),
        (&[0xf2, 0x0f, 0x10, 0xc1], !LOW | value & LOW),
        (&[0x0f, 0x12, 0x03], !LOW | value & LOW),
        (&[0x0f, 0x12, 0xc1], !LOW | value >> 64),
        (&[0x0f, 0x16, 0x03], LOW | value << 64),
        (&[0x0f, 0x16, 0xc1], LOW | value << 64),
        (&[0x66, 0x0f, 0x6e, 0xc3], 0x3000),
        (&[0xf3, 0x0f, 0x7e, 0xc1], value & LOW),
        (&[0x66, 0x0f, 0xc4, 0xc3, 9], !(0xffff << 16) | 0x3000 << 16),
        (
            &[0x0f, 0xc6, 0xc1, 0x1b],
            0x7777_8888_5555_6666_ffff_ffff_ffff_ffff,
        ),
        (&[0x66, 0x0f, 0xc6, 0xc1, 2], value & !LOW | LOW),
        (
            &[0x0f, 0x14, 0xc1],
            0x5555_6666_ffff_ffff_7777_8888_ffff_ffff,
        ),
        (&[0x66, 0x0f, 0x55, 0xc1], 0),
        (
            &[0xf3, 0x0f, 0x16, 0xc1],
            0x1111_2222_1111_2222_5555_6666_5555_6666,
        ),
    ];
    for (code, expected) in cases {
        guest.change(|state| (state.fpu.xmm[0], state.fpu.xmm[1]) = (u128::MAX, value));
        assert_eq!(guest.attempt(code), Ok(()), "{code:02x?}");
        assert_eq!(guest.state().fpu.xmm[0], expected, "{code:02x?}");
    }
    // Stores from xmm1.
    for (code, expected) in [
        (&[0x0f, 0x11, 0x0b][..], value),
        (&[0x0f, 0x17, 0x0b], !LOW | value >> 64),
        (&[0xf3, 0x0f, 0x11, 0x0b], u128::MAX << 32 | 0x7777_8888),
        (&[0x66, 0x0f, 0xd6, 0x0b], !LOW | value & LOW),
        (&[0x66, 0x0f, 0xe7, 0x0b], value),
    ] {
        guest.put(0x3000, &[0xff; 16]);
        assert_eq!(guest.attempt(code), Ok(()));
        assert_eq!(
            u128::from_le_bytes(guest.get(0x3000)),
            expected,
            "{code:02x?}"
        );
    }
    // pmovmskb eax, xmm1; movmskps eax, xmm1; movq rax, xmm1; pextrw eax, xmm1, 7
    let masks: [(&[u8], u64); 4] = [
        (&[0x66, 0x0f, 0xd7, 0xc1], 0x0003),
        (&[0x0f, 0x50, 0xc1], 0),
        (&[0x66, 0x48, 0x0f, 0x7e, 0xc8], value as u64),
        (&[0x66, 0x0f, 0xc5, 0xc1, 7], 0x1111),
    ];
    for (code, expected) in masks {
        guest.change(|state| state.gpr[RAX] = u64::MAX);
        assert_eq!(guest.attempt(code), Ok(()));
        assert_eq!(guest.state().gpr[RAX], expected, "{code:02x?}");
    }
}

#[test]
fn sixteen_bytes_across_pages() {
    let mut guest = guest();
    let value = (u128::MAX / 255 * 3) ^ 0x1234;
    for at in [0x2ff0, 0x2ff1, 0x2ff8, 0x2fff] {
        guest.change(|state| {
            state.fpu.xmm[1] = value;
            state.gpr[RBX] = at;
        });
        // movups [rbx], xmm1; movups xmm0, [rbx]
        assert_eq!(guest.attempt(&[0x0f, 0x11, 0x0b]), Ok(()));
        assert_eq!(u128::from_le_bytes(guest.get(at)), value);
        assert_eq!(guest.attempt(&[0x0f, 0x10, 0x03]), Ok(()));
        assert_eq!(guest.state().fpu.xmm[0], value);
    }
    // The second page is not there: nothing is stored, and its first byte is at fault.
    guest.put(0x1f_fff8, &[0; 8]);
    guest.change(|state| state.gpr[RBX] = 0x1f_fff8);
    assert_eq!(
        guest.attempt(&[0x0f, 0x11, 0x0b]),
        Err(Exception::PageFault(2))
    );
    assert_eq!(guest.state().cr2, 0x20_0000);
    assert_eq!(guest.get::<8>(0x1f_fff8), [0; 8]);
    guest.change(|state| state.gpr[RBX] = 0x20_0010);
    assert_eq!(
        guest.attempt(&[0x0f, 0x28, 0x03]),
        Err(Exception::PageFault(0))
    );
    assert_eq!(guest.state().cr2, 0x20_0010);
}

#[test]
fn alignment_and_availability() {
    let mut guest = guest();
    guest.change(|state| state.gpr[RBX] = 0x3008);
    let (aligned, unaligned, mmx) = ([0x0f, 0x28, 0x03], [0x0f, 0x10, 0x03], [0x0f, 0xef, 0xc0]);
    assert_eq!(guest.attempt(&aligned), Err(Exception::GP0));
    assert_eq!(
        guest.attempt(&[0x66, 0x0f, 0xef, 0x03]),
        Err(Exception::GP0)
    );
    assert_eq!(guest.attempt(&unaligned), Ok(()));
    assert_eq!(guest.attempt(&[0x0f, 0x16, 0x03]), Ok(()));
    let set = |guest: &mut Guest, cr0: u64, cr4: u64| {
        guest.change(|state| {
            state.cr0 = state.cr0 & !0xc | cr0;
            state.cr4 = state.cr4 & !(1 << 9) | cr4;
        });
    };
    let nm = Err(Exception::DeviceNotAvailable);
    for (cr0, cr4, sse, on_mmx) in [
        (0, 1 << 9, Ok(()), Ok(())),
        (8, 1 << 9, nm, nm),
        (4, 1 << 9, Err(Exception::UD), Err(Exception::UD)),
        (12, 1 << 9, Err(Exception::UD), Err(Exception::UD)),
        (0, 0, Err(Exception::UD), Ok(())),
        (8, 0, Err(Exception::UD), nm),
    ] {
        set(&mut guest, cr0, cr4);
        assert_eq!(guest.attempt(&unaligned), sse, "{cr0} {cr4}");
        assert_eq!(guest.attempt(&mmx), on_mmx, "{cr0} {cr4}");
    }
    set(&mut guest, 0, 1 << 9);
}

#[test]
fn mmx_registers_are_the_x87s() {
    let mut guest = guest();
    guest.change(|state| {
        state.fpu.fsw = 3 << 11;
        // ST0 is physical register 3.
        state.fpu.st[0] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    });
    // movq rax, mm3; then movq mm0, rbx
    assert_eq!(guest.attempt(&[0x48, 0x0f, 0x7e, 0xd8]), Ok(()));
    let state = guest.state();
    assert_eq!(state.gpr[RAX], 0x0807_0605_0403_0201);
    assert_eq!((state.fpu.fsw, state.fpu.ftw), (0, 0xff));
    assert_eq!(state.fpu.st[3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(guest.attempt(&[0x48, 0x0f, 0x6e, 0xc3]), Ok(()));
    assert_eq!(
        guest.state().fpu.st[0],
        [0, 0x30, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    );
    // emms
    assert_eq!(guest.attempt(&[0x0f, 0x77]), Ok(()));
    assert_eq!(guest.state().fpu.ftw, 0);
    // A load that faults leaves the x87 alone.
    guest.change(|state| {
        state.fpu.fsw = 3 << 11;
        state.gpr[RBX] = 1 << 30;
    });
    assert!(guest.attempt(&[0x0f, 0x6f, 0x03]).is_err());
    assert_eq!(guest.state().fpu.fsw, 3 << 11);
}

#[test]
fn masked_stores() {
    let mut guest = guest();
    guest.change(|state| {
        state.fpu.xmm[1] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
        state.fpu.xmm[2] = 0x80 << 120 | 0x80 << 24 | 0x7f;
    });
    guest.put(0x4ff0, &[0xaa; 32]);
    // maskmovdqu xmm1, xmm2, across a page's end
    assert_eq!(guest.attempt(&[0x66, 0x0f, 0xf7, 0xca]), Ok(()));
    let mut expected = [0xaa; 32];
    (expected[12 + 3], expected[12 + 15]) = (3, 15);
    assert_eq!(guest.get::<32>(0x4ff0), expected);
}

/// In ring 3 with CR0.AM and EFLAGS.AC.
fn checked_for_alignment(at: u64) -> Guest {
    let mut guest = guest().user();
    guest.change(|state| {
        state.cr0 |= 1 << 18;
        state.rflags |= 1 << 18;
        (state.gpr[RBX], state.gpr[RDI]) = (at, at);
        state.fpu.xmm[1] = u128::MAX;
    });
    guest
}

/// Found by lockstep: the processor checks sixteen bytes where its instructions allow any address.
#[test]
fn sixteen_bytes_are_checked_for_alignment() {
    let anywhere: [&[u8]; 5] = [
        &[0xf3, 0x0f, 0x6f, 0x03],
        &[0xf3, 0x0f, 0x7f, 0x03],
        &[0xf2, 0x0f, 0xf0, 0x03],
        &[0x66, 0x0f, 0x3a, 0x63, 0x03, 0],
        &[0x66, 0x0f, 0x3a, 0x60, 0x03, 0],
    ];
    for code in anywhere {
        for at in [0x3001, 0x3008] {
            let mut guest = checked_for_alignment(at);
            assert_eq!(
                guest.attempt(code),
                Err(Exception::AlignmentCheck),
                "{code:02x?}"
            );
            guest.change(|state| state.rflags &= !(1 << 18));
            assert_eq!(guest.attempt(code), Ok(()), "{code:02x?}");
        }
        assert_eq!(checked_for_alignment(0x3010).attempt(code), Ok(()));
    }
    // movdqa, pshufb, sha1nexte: their own rule comes first.
    for code in [
        &[0x66, 0x0f, 0x6f, 0x03][..],
        &[0x66, 0x0f, 0x38, 0x00, 0x03],
        &[0x0f, 0x38, 0xc8, 0x03],
    ] {
        assert_eq!(
            checked_for_alignment(0x3008).attempt(code),
            Err(Exception::GP0)
        );
    }
    // pmovsxbq xmm0, [rbx]: two bytes; pextrd [rbx], xmm0, 1: four.
    for (code, boundary) in [
        (&[0x66, 0x0f, 0x38, 0x22, 0x03][..], 2),
        (&[0x66, 0x0f, 0x3a, 0x16, 0x03, 1], 4),
    ] {
        let misaligned = checked_for_alignment(0x3000 + boundary / 2).attempt(code);
        assert_eq!(misaligned, Err(Exception::AlignmentCheck));
        assert_eq!(
            checked_for_alignment(0x3000 + boundary).attempt(code),
            Ok(())
        );
    }
}

/// Found by lockstep: a mask of zeros stores nothing, but the processor looks at the addresses, eight
/// bytes at a time, and at whether all of them are canonical before it looks for pages.
#[test]
fn masked_stores_fault_whatever_the_mask() {
    for code in [[0x66, 0x0f, 0xf7, 0xca], [0x90, 0x0f, 0xf7, 0xca]] {
        let code = if code[0] == 0x90 { &code[1..] } else { &code };
        let mut guest = guest();
        guest.change(|state| {
            state.gpr[RDI] = 0x20_0000;
            state.fpu.xmm[2] = 0;
            state.fpu.st[2] = [0; 10];
        });
        assert_eq!(
            guest.attempt(code),
            Err(Exception::PageFault(2)),
            "{code:02x?}"
        );
        guest.change(|state| state.gpr[RDI] = 0x7fff_ffff_fffc);
        assert_eq!(guest.attempt(code), Err(Exception::GP0), "{code:02x?}");
        let mut guest = checked_for_alignment(0x3004);
        assert_eq!(guest.attempt(code), Err(Exception::AlignmentCheck));
        assert_eq!(checked_for_alignment(0x3008).attempt(code), Ok(()));
    }
}

/// Operands that are not the same on both sides: words in and out of registers, flags, XMM0.
#[test]
fn parts_of_registers() {
    let mut guest = guest();
    let value = 0x1111_2222_3333_4444_5555_6666_7777_8888u128;
    let put_in: [(&[u8], u128); 4] = [
        (&[0x66, 0x0f, 0x3a, 0x20, 0xc3, 0xf3], !(0xff << 24)),
        (
            &[0x66, 0x0f, 0x3a, 0x22, 0xc3, 2],
            !(0xffff_ffff << 64) | 0x3000 << 64,
        ),
        (&[0x66, 0x48, 0x0f, 0x3a, 0x22, 0xc3, 1], LOW | 0x3000 << 64),
        (&[0x66, 0x0f, 0x3a, 0x20, 0x03, 1], !(0xff << 8) | 0x88 << 8),
    ];
    guest.put(0x3000, &value.to_le_bytes());
    for (code, expected) in put_in {
        guest.change(|state| state.fpu.xmm[0] = u128::MAX);
        assert_eq!(guest.attempt(code), Ok(()));
        assert_eq!(guest.state().fpu.xmm[0], expected, "{code:02x?}");
    }
    let taken_out: [(&[u8], u64); 4] = [
        (&[0x66, 0x0f, 0x3a, 0x14, 0xc8, 0x11], 0x88),
        (&[0x66, 0x0f, 0x3a, 0x15, 0xc8, 7], 0x1111),
        (&[0x66, 0x0f, 0x3a, 0x16, 0xc8, 2], 0x3333_4444),
        (
            &[0x66, 0x48, 0x0f, 0x3a, 0x16, 0xc8, 1],
            (value >> 64) as u64,
        ),
    ];
    guest.change(|state| state.fpu.xmm[1] = value);
    for (code, expected) in taken_out {
        guest.change(|state| state.gpr[RAX] = u64::MAX);
        assert_eq!(guest.attempt(code), Ok(()));
        assert_eq!(guest.state().gpr[RAX], expected, "{code:02x?}");
    }
    // pextrb [rbx], xmm1, 15 and no byte more
    assert_eq!(guest.attempt(&[0x66, 0x0f, 0x3a, 0x14, 0x0b, 15]), Ok(()));
    assert_eq!(guest.get(0x3000), [0x11, 0x88, 0x77, 0x77]);
    // ptest xmm0, xmm1: ZF and CF, and nothing else.
    for (a, b, flags) in [(1, 2, 0x40), (3, 2, 1), (3, 6, 0), (0, 0, 0x41)] {
        guest.change(|state| {
            (state.fpu.xmm[0], state.fpu.xmm[1]) = (a, b);
            state.rflags |= crate::cpu::alu::STATUS;
        });
        assert_eq!(guest.attempt(&[0x66, 0x0f, 0x38, 0x17, 0xc1]), Ok(()));
        assert_eq!(guest.state().rflags & crate::cpu::alu::STATUS, flags);
    }
    // pblendvb xmm3, xmm1 by xmm0
    guest.change(|state| {
        state.fpu.xmm[0] = 0x80 << 8 | 0x7f;
        (state.fpu.xmm[1], state.fpu.xmm[3]) = (0, u128::MAX);
    });
    assert_eq!(guest.attempt(&[0x66, 0x0f, 0x38, 0x10, 0xd9]), Ok(()));
    assert_eq!(guest.state().fpu.xmm[3], !0xff00);
}

/// REX.W gives PCMPESTRI lengths of 64 bits; ECX is written as a whole register.
#[test]
fn lengths_of_strings() {
    let mut guest = guest();
    guest.change(|state| {
        (state.fpu.xmm[0], state.fpu.xmm[1]) = (u128::MAX / 255 * 0x61, u128::MAX / 255 * 0x61);
        state.gpr[RCX] = u64::MAX;
    });
    // pcmpestri xmm0, xmm1, equal each, negative and masked: the first that differs
    let code = [0x66, 0x48, 0x0f, 0x3a, 0x61, 0xc1, 0x38];
    let registers = [(RAX, 1 << 32 | 3), (RDX, 5)];
    assert_eq!(guest.attempt_with(&registers, &code), Ok(()));
    assert_eq!(guest.state().gpr[RCX], 16);
    let narrow = [&code[..1], &code[2..]].concat();
    assert_eq!(guest.attempt_with(&registers, &narrow), Ok(()));
    assert_eq!(guest.state().gpr[RCX], 3);
    assert_eq!(guest.state().rflags & crate::cpu::alu::STATUS, 0xc1);
}
