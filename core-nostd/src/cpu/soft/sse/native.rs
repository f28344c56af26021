//! The host's SSE and SSE2 instructions that compute for the guest.
//!
//! Results, flags and NaNs are the host processor's own: an operation runs with the guest's rounding,
//! DAZ and FTZ, and with all exceptions masked, so that the host never sees one; what would have been
//! raised is told by the flags. Of the host nothing newer than SSE2 is presumed: later instructions
//! are made of these, so that what CPUID offers never depends on the host.
//!
//! Operands are loaded by halves, because the compiler stores them so: one load of both would wait until
//! they are in the cache. Each operation is a stub of eight bytes in one function, found by its number. Operations on integers
//! are here for micro-operations, which are to be fast; they have no flags.
#![allow(unsafe_code)]

use crate::cpu::decode::Packed;

/// What an operation reads and leaves.
#[repr(C, align(16))]
struct Operands {
    /// XMM0: the destination.
    a: u128,
    /// XMM1: the source.
    b: u128,
    /// RAX: the source of conversions from integers; the result of conversions to integers and the
    /// flags of comparisons.
    general: u64,
    /// MXCSR during the operation, and after it.
    mxcsr: u32,
    /// MXCSR of all other code: Rust's rules ask for its default control bits.
    host: u32,
}

/// MXCSR's control bits by default: all exceptions masked.
pub(in crate::cpu::soft) const DEFAULT: u32 = 0x1f80;
/// MXCSR: the six exception flags.
const FLAGS: u32 = 0x3f;

/// What an operation gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu::soft) struct Computed {
    /// The destination.
    pub(in crate::cpu::soft) xmm: u128,
    /// An integer, or EFLAGS of a comparison.
    pub(in crate::cpu::soft) general: u64,
    /// Exception flags of MXCSR that this operation has set.
    pub(in crate::cpu::soft) flags: u32,
}

macro_rules! natives {
    ($($name:ident $code:literal,)+) => {
        /// An operation of the host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(in crate::cpu::soft) enum Native {
            $($name,)+
        }

        impl Native {
            /// All of them, by number.
            const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The operation `number` places behind this one.
            pub(in crate::cpu::soft) fn plus(self, number: u8) -> Self {
                let index = usize::from(self as u8) + usize::from(number);
                Self::ALL.get(index).copied().unwrap_or(self)
            }

            /// Computes, with rounding, DAZ and FTZ of `mxcsr`, whose other bits do not matter.
            #[inline(never)]
            pub(in crate::cpu::soft) fn compute(self, a: u128, b: u128, general: u64, mxcsr: u32) -> Computed {
                let mut operands = Operands {
                    a,
                    b,
                    general,
                    mxcsr: mxcsr & CONTROL | DEFAULT,
                    host: DEFAULT,
                };
                // SAFETY: only `operands` is accessed; the stub called is one of those below, because the
                // enumeration has one variant for each; MXCSR is what Rust asks for afterwards.
                unsafe {
                    core::arch::asm!(
                        "ldmxcsr [{p} + 40]",
                        "movq xmm0, [{p}]",
                        "movhps xmm0, [{p} + 8]",
                        "movq xmm1, [{p} + 16]",
                        "movhps xmm1, [{p} + 24]",
                        "mov rax, [{p} + 32]",
                        "lea {stub}, [rip + 2f]",
                        "lea {stub}, [{stub} + 8 * {number}]",
                        "call {stub}",
                        "stmxcsr [{p} + 40]",
                        "ldmxcsr [{p} + 44]",
                        "movdqa [{p}], xmm0",
                        "mov [{p} + 32], rax",
                        "jmp 3f",
                        ".p2align 3",
                        "2:",
                        $(concat!($code, "\nret\n.p2align 3"),)+
                        "3:",
                        p = in(reg) &raw mut operands,
                        number = in(reg) u64::from(self as u8),
                        stub = out(reg) _,
                        out("rax") _,
                        out("xmm0") _,
                        out("xmm1") _,
                    );
                }
                Computed {
                    xmm: operands.a,
                    general: operands.general,
                    flags: operands.mxcsr & FLAGS,
                }
            }
        }
    };
}

macro_rules! lanes {
    ($($name:ident $opcode:literal,)+) => {
        /// An operation of the host on integers in XMM registers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(in crate::cpu::soft) enum Lanes {
            $($name,)+
        }

        impl Lanes {
            /// All of them, by number.
            const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The operation of a number.
            pub(in crate::cpu::soft) fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            /// The instruction's opcode behind 66h, 0Fh (SDM volume 2, table A-3).
            pub(in crate::cpu::soft) const fn opcode(self) -> u8 {
                match self {
                    $(Self::$name => $opcode,)+
                }
            }

            /// The one of the same name.
            pub(in crate::cpu::soft) const fn named(name: Packed) -> Option<Self> {
                match name {
                    $(Packed::$name => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Computes.
            #[inline(never)]
            pub(in crate::cpu::soft) fn compute(self, a: u128, b: u128) -> u128 {
                let mut operands = Pair { a, b };
                // SAFETY: only `operands` is accessed; the stub called is one of those below, because the
                // enumeration has one variant for each.
                unsafe {
                    core::arch::asm!(
                        "movq xmm0, [{p}]",
                        "movhps xmm0, [{p} + 8]",
                        "movq xmm1, [{p} + 16]",
                        "movhps xmm1, [{p} + 24]",
                        "lea {stub}, [rip + 2f]",
                        "lea {stub}, [{stub} + 8 * {number}]",
                        "call {stub}",
                        "movdqa [{p}], xmm0",
                        "jmp 3f",
                        ".p2align 3",
                        "2:",
                        $(concat!(stringify!($name), " xmm0, xmm1\nret\n.p2align 3"),)+
                        "3:",
                        p = in(reg) &raw mut operands,
                        number = in(reg) u64::from(self as u8),
                        stub = out(reg) _,
                        out("xmm0") _,
                        out("xmm1") _,
                    );
                }
                operands.a
            }
        }
    };
}

/// What an operation on integers reads and leaves.
#[repr(C, align(16))]
struct Pair {
    a: u128,
    b: u128,
}

/// MXCSR: DAZ, rounding and FTZ.
const CONTROL: u32 = 0xe040;

natives! {
    // In the order of mandatory prefixes: packed single, packed double, scalar single, scalar double.
    AddPs "addps xmm0, xmm1",
    AddPd "addpd xmm0, xmm1",
    AddSs "addss xmm0, xmm1",
    AddSd "addsd xmm0, xmm1",
    SubPs "subps xmm0, xmm1",
    SubPd "subpd xmm0, xmm1",
    SubSs "subss xmm0, xmm1",
    SubSd "subsd xmm0, xmm1",
    MulPs "mulps xmm0, xmm1",
    MulPd "mulpd xmm0, xmm1",
    MulSs "mulss xmm0, xmm1",
    MulSd "mulsd xmm0, xmm1",
    DivPs "divps xmm0, xmm1",
    DivPd "divpd xmm0, xmm1",
    DivSs "divss xmm0, xmm1",
    DivSd "divsd xmm0, xmm1",
    MinPs "minps xmm0, xmm1",
    MinPd "minpd xmm0, xmm1",
    MinSs "minss xmm0, xmm1",
    MinSd "minsd xmm0, xmm1",
    MaxPs "maxps xmm0, xmm1",
    MaxPd "maxpd xmm0, xmm1",
    MaxSs "maxss xmm0, xmm1",
    MaxSd "maxsd xmm0, xmm1",
    SqrtPs "sqrtps xmm0, xmm1",
    SqrtPd "sqrtpd xmm0, xmm1",
    SqrtSs "sqrtss xmm0, xmm1",
    SqrtSd "sqrtsd xmm0, xmm1",
    RcpPs "rcpps xmm0, xmm1",
    RcpSs "rcpss xmm0, xmm1",
    RsqrtPs "rsqrtps xmm0, xmm1",
    RsqrtSs "rsqrtss xmm0, xmm1",
    // Comparisons by bits 1 to 0 of the predicate; bit 2 inverts the result.
    EqualPs "cmpeqps xmm0, xmm1",
    LessPs "cmpltps xmm0, xmm1",
    LessEqualPs "cmpleps xmm0, xmm1",
    UnorderedPs "cmpunordps xmm0, xmm1",
    EqualPd "cmpeqpd xmm0, xmm1",
    LessPd "cmpltpd xmm0, xmm1",
    LessEqualPd "cmplepd xmm0, xmm1",
    UnorderedPd "cmpunordpd xmm0, xmm1",
    EqualSs "cmpeqss xmm0, xmm1",
    LessSs "cmpltss xmm0, xmm1",
    LessEqualSs "cmpless xmm0, xmm1",
    UnorderedSs "cmpunordss xmm0, xmm1",
    EqualSd "cmpeqsd xmm0, xmm1",
    LessSd "cmpltsd xmm0, xmm1",
    LessEqualSd "cmplesd xmm0, xmm1",
    UnorderedSd "cmpunordsd xmm0, xmm1",
    UcomiSs "ucomiss xmm0, xmm1\npushfq\npop rax",
    UcomiSd "ucomisd xmm0, xmm1\npushfq\npop rax",
    ComiSs "comiss xmm0, xmm1\npushfq\npop rax",
    ComiSd "comisd xmm0, xmm1\npushfq\npop rax",
    Dq2Ps "cvtdq2ps xmm0, xmm1",
    Dq2Pd "cvtdq2pd xmm0, xmm1",
    Ps2Dq "cvtps2dq xmm0, xmm1",
    Pd2Dq "cvtpd2dq xmm0, xmm1",
    TruncatePs2Dq "cvttps2dq xmm0, xmm1",
    TruncatePd2Dq "cvttpd2dq xmm0, xmm1",
    Ps2Pd "cvtps2pd xmm0, xmm1",
    Pd2Ps "cvtpd2ps xmm0, xmm1",
    Ss2Sd "cvtss2sd xmm0, xmm1",
    Sd2Ss "cvtsd2ss xmm0, xmm1",
    // From and to integers: 32 bits, then 64.
    Si2Ss "cvtsi2ss xmm0, eax",
    Si2Ss64 "cvtsi2ss xmm0, rax",
    Si2Sd "cvtsi2sd xmm0, eax",
    Si2Sd64 "cvtsi2sd xmm0, rax",
    Ss2Si "cvtss2si eax, xmm1",
    Ss2Si64 "cvtss2si rax, xmm1",
    Sd2Si "cvtsd2si eax, xmm1",
    Sd2Si64 "cvtsd2si rax, xmm1",
    TruncateSs2Si "cvttss2si eax, xmm1",
    TruncateSs2Si64 "cvttss2si rax, xmm1",
    TruncateSd2Si "cvttsd2si eax, xmm1",
    TruncateSd2Si64 "cvttsd2si rax, xmm1",
}

lanes! {
    Paddb 0xfc, Paddw 0xfd, Paddd 0xfe, Paddq 0xd4, Psubb 0xf8, Psubw 0xf9, Psubd 0xfa, Psubq 0xfb, Paddusb 0xdc, Paddusw 0xdd, Psubusb 0xd8, Psubusw 0xd9, Paddsb 0xec, Paddsw 0xed, Psubsb 0xe8, Psubsw 0xe9, Pcmpeqb 0x74, Pcmpeqw 0x75, Pcmpeqd 0x76, Pcmpgtb 0x64, Pcmpgtw 0x65, Pcmpgtd 0x66, Pavgb 0xe0, Pavgw 0xe3, Pminub 0xda, Pmaxub 0xde, Pminsw 0xea, Pmaxsw 0xee, Pmullw 0xd5, Pmulhw 0xe5, Pmulhuw 0xe4, Pmuludq 0xf4, Pmaddwd 0xf5, Psadbw 0xf6, Pand 0xdb, Pandn 0xdf, Por 0xeb, Pxor 0xef, Psllw 0xf1, Pslld 0xf2, Psllq 0xf3, Psrlw 0xd1, Psrld 0xd2, Psrlq 0xd3, Psraw 0xe1, Psrad 0xe2, Packsswb 0x63, Packssdw 0x6b, Packuswb 0x67, Punpcklbw 0x60, Punpcklwd 0x61, Punpckldq 0x62, Punpcklqdq 0x6c, Punpckhbw 0x68, Punpckhwd 0x69, Punpckhdq 0x6a, Punpckhqdq 0x6d,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_where_their_numbers_say() {
        let one = u128::from(1f64.to_bits());
        let last = Native::ALL.last().copied().unwrap();
        assert_eq!(last, Native::TruncateSd2Si64);
        assert_eq!(last.compute(0, one, 0, 0).general, 1);
        let two = u128::from(2f64.to_bits());
        let sum = Native::AddSs.plus(1).compute(one, two, 0, 0);
        assert_eq!((sum.xmm, sum.flags), (3f64.to_bits().into(), 0));
        assert_eq!(Native::UcomiSd.compute(one, two, 0, 0).general & 0x45, 1);
        assert_eq!(Native::Si2Ss.compute(0, 0, 3, 0).xmm, 3f32.to_bits().into());
        let third = Native::DivSd.compute(one, u128::from(3f64.to_bits()), 0, 0x6000);
        let nearest = (1f64 / 3.0).to_bits();
        assert_eq!((third.xmm as u64, third.flags), (nearest, 0x20));
        let third = Native::DivSd.compute(one, u128::from(3f64.to_bits()), 0, 0x4000);
        assert_eq!(third.xmm as u64, nearest + 1);
    }

    #[test]
    fn the_default_is_restored() {
        Native::AddSd.compute(0, 0, 0, u32::MAX);
        let mut mxcsr = 0u32;
        // SAFETY: only this variable is accessed.
        unsafe { core::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr) };
        assert_eq!(mxcsr & !FLAGS, DEFAULT);
    }
}
