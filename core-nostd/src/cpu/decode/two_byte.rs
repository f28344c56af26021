//! The two-byte opcode map, 0Fh first (SDM volume 2, table A-3), and its groups (table A-6).
//!
//! Four entries in a row are for no mandatory prefix, 66h, F3h and F2h.

use super::form::{Entry, Spec::*, op0, op1, op2, op3};
use super::operation::{Condition::*, Operation::*, Packed::*, Sse::*};
// Not the operand or the condition of this name.
use super::operation::Condition::No;
use Entry::*;

/// One operation on packed single, packed double, scalar single and scalar double precision.
macro_rules! float {
    ($ps:ident, $pd:ident, $ss:ident, $sd:ident) => {
        Prefix(&[
            op2(Sse($ps), Vx, Wx),
            op2(Sse($pd), Vx, Wx),
            op2(Sse($ss), Vx, Wd),
            op2(Sse($sd), Vx, Wq),
        ])
    };
}

/// One operation on MMX and XMM registers.
macro_rules! packed {
    ($name:ident) => {
        Prefix(&[
            op2(Packed($name), Pq, Qq),
            op2(Packed($name), Vx, Wx),
            Undefined,
            Undefined,
        ])
    };
}

/// Group 6: descriptor tables by selector. JMPE is of another architecture, LKGS of FRED.
static GROUP_6: [Entry; 8] = [
    op1(Sldt, RvMw),
    op1(Str, RvMw),
    op1(Lldt, Ew),
    op1(Ltr, Ew),
    op1(Verr, Ew),
    op1(Verw, Ew),
    Undefined,
    Undefined,
];

/// Group 7, 0F 01 C8 to CF. The rest is SGX and TDX.
static GROUP_7_1: [Entry; 8] = [
    Prefix(&[op0(Monitor), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Mwait), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Clac), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Stac), Undefined, Undefined, Undefined]),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// Group 7, 0F 01 D0 to D7. The rest is VMX, TSX and SGX.
static GROUP_7_2: [Entry; 8] = [
    Prefix(&[op0(Xgetbv), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Xsetbv), Undefined, Undefined, Undefined]),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// Group 7, 0F 01 E8 to EF. The rest is shadow stacks, user interrupts and TSX.
static GROUP_7_5: [Entry; 8] = [
    Prefix(&[op0(Serialize), Undefined, Undefined, Undefined]),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Prefix(&[op0(Rdpkru), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Wrpkru), Undefined, Undefined, Undefined]),
];

/// Group 7, 0F 01 F8 to FF. The rest is AMD's.
static GROUP_7_7: [Entry; 8] = [
    op0(Swapgs).o64(),
    op0(Rdtscp),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// Group 7: descriptor tables, and what has no operands.
static GROUP_7: [Entry; 8] = [
    op1(Sgdt, Ms).f64(),
    Mod(&[op1(Sidt, Ms).f64(), Rm(&GROUP_7_1)]),
    Mod(&[op1(Lgdt, Ms).f64(), Rm(&GROUP_7_2)]),
    op1(Lidt, Ms).f64(),
    op1(Smsw, RvMw),
    Mod(&[Undefined, Rm(&GROUP_7_5)]),
    op1(Lmsw, Ew),
    Mod(&[op1(Invlpg, M), Rm(&GROUP_7_7)]),
];

/// Group 8: bits by number.
static GROUP_8: [Entry; 8] = [
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    op2(Bt, Ev, Ib),
    op2(Bts, Ev, Ib).lock(),
    op2(Btr, Ev, Ib).lock(),
    op2(Btc, Ev, Ib).lock(),
];

/// Group 9: memory. The rest is VMX.
static GROUP_9_MEMORY: [Entry; 8] = [
    Undefined,
    RexW(&[op1(Cmpxchg8b, Mq).lock(), op1(Cmpxchg16b, Mdq).lock()]),
    Undefined,
    Prefix(&[op1(Xrstors, M).y(), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Xsavec, M).y(), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Xsaves, M).y(), Undefined, Undefined, Undefined]),
    Undefined,
    Undefined,
];

/// Group 9: registers.
static GROUP_9_REGISTER: [Entry; 8] = [
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Prefix(&[op1(Rdrand, Rv), op1(Rdrand, Rv), Undefined, Undefined]),
    Prefix(&[op1(Rdseed, Rv), op1(Rdseed, Rv), op1(Rdpid, Rn), Undefined]),
];

/// Group 12: shifts of words.
static GROUP_12: [Entry; 8] = [
    Undefined,
    Undefined,
    Prefix(&[
        op2(Packed(Psrlw), Nq, Ib),
        op2(Packed(Psrlw), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Undefined,
    Prefix(&[
        op2(Packed(Psraw), Nq, Ib),
        op2(Packed(Psraw), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Undefined,
    Prefix(&[
        op2(Packed(Psllw), Nq, Ib),
        op2(Packed(Psllw), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Undefined,
];

/// Group 13: shifts of doublewords.
static GROUP_13: [Entry; 8] = [
    Undefined,
    Undefined,
    Prefix(&[
        op2(Packed(Psrld), Nq, Ib),
        op2(Packed(Psrld), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Undefined,
    Prefix(&[
        op2(Packed(Psrad), Nq, Ib),
        op2(Packed(Psrad), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Undefined,
    Prefix(&[
        op2(Packed(Pslld), Nq, Ib),
        op2(Packed(Pslld), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Undefined,
];

/// Group 14: shifts of quadwords and of all.
static GROUP_14: [Entry; 8] = [
    Undefined,
    Undefined,
    Prefix(&[
        op2(Packed(Psrlq), Nq, Ib),
        op2(Packed(Psrlq), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Prefix(&[Undefined, op2(Packed(Psrldq), Ux, Ib), Undefined, Undefined]),
    Undefined,
    Undefined,
    Prefix(&[
        op2(Packed(Psllq), Nq, Ib),
        op2(Packed(Psllq), Ux, Ib),
        Undefined,
        Undefined,
    ]),
    Prefix(&[Undefined, op2(Packed(Pslldq), Ux, Ib), Undefined, Undefined]),
];

/// Group 15: memory.
static GROUP_15_MEMORY: [Entry; 8] = [
    Prefix(&[op1(Fxsave, M).y(), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Fxrstor, M).y(), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Sse(Ldmxcsr), Md), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Sse(Stmxcsr), Md), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Xsave, M).y(), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Xrstor, M).y(), Undefined, Undefined, Undefined]),
    Prefix(&[op1(Xsaveopt, M).y(), op1(Clwb, Mb), Undefined, Undefined]),
    Prefix(&[op1(Clflush, Mb), op1(Clflushopt, Mb), Undefined, Undefined]),
];

/// Group 15: registers, and fences whatever ModRM.rm is.
static GROUP_15_REGISTER: [Entry; 8] = [
    Prefix(&[Undefined, Undefined, op1(Rdfsbase, Ry).o64(), Undefined]),
    Prefix(&[Undefined, Undefined, op1(Rdgsbase, Ry).o64(), Undefined]),
    Prefix(&[Undefined, Undefined, op1(Wrfsbase, Ry).o64(), Undefined]),
    Prefix(&[Undefined, Undefined, op1(Wrgsbase, Ry).o64(), Undefined]),
    Undefined,
    Prefix(&[op0(Lfence), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Mfence), Undefined, Undefined, Undefined]),
    Prefix(&[op0(Sfence), Undefined, Undefined, Undefined]),
];

/// Group 16: memory. What is reserved does nothing.
static GROUP_16_MEMORY: [Entry; 8] = [
    op1(Prefetchnta, Mb),
    op1(Prefetcht0, Mb),
    op1(Prefetcht1, Mb),
    op1(Prefetcht2, Mb),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
];

/// F3 0F 1E with registers: hints of control-flow enforcement. RDSSP does nothing where there are no shadow stacks.
static REG_1E: [Entry; 8] = [
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    Rm(&REG_1E_7),
];

/// F3 0F 1E F8 to FF.
static REG_1E_7: [Entry; 8] = [
    op1(Nop, Ev),
    op1(Nop, Ev),
    op0(Endbr64),
    op0(Endbr32),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
    op1(Nop, Ev),
];

/// Group P: memory. What is reserved is one of them.
static GROUP_P_MEMORY: [Entry; 8] = [
    op1(Prefetch, Mb),
    op1(Prefetchw, Mb),
    op1(Prefetchwt1, Mb),
    op1(Prefetchw, Mb),
    op1(Prefetch, Mb),
    op1(Prefetch, Mb),
    op1(Prefetch, Mb),
    op1(Prefetch, Mb),
];

/// Group 9: CMPXCHG8B and what came after it.
static GROUP_9: [Entry; 2] = [Reg(&GROUP_9_MEMORY), Reg(&GROUP_9_REGISTER)];

/// Group 15: states, fences and cache lines.
static GROUP_15: [Entry; 2] = [Reg(&GROUP_15_MEMORY), Reg(&GROUP_15_REGISTER)];

/// Group 16: prefetches.
static GROUP_16: [Entry; 2] = [Reg(&GROUP_16_MEMORY), op1(Nop, Ev)];

/// Group P: prefetches for writing.
static GROUP_P: [Entry; 2] = [Reg(&GROUP_P_MEMORY), op1(Nop, Ev)];

/// The two-byte map. 38h and 3Ah lead to further maps.
#[rustfmt::skip]
pub(super) static TWO_BYTE: [Entry; 256] = [
    /* 00 */ Reg(&GROUP_6),
    /* 01 */ Reg(&GROUP_7),
    /* 02 */ op2(Lar, Gv, RvMw),
    /* 03 */ op2(Lsl, Gv, RvMw),
    /* 04 */ Undefined,
    /* 05 */ op0(Syscall),
    /* 06 */ op0(Clts),
    /* 07 */ op0(Sysret).y(),
    /* 08 */ op0(Invd),
    /* 09 */ Prefix(&[op0(Wbinvd), op0(Wbinvd), op0(Wbnoinvd), op0(Wbinvd)]),
    /* 0A */ Undefined,
    /* 0B */ op0(Ud2),
    /* 0C */ Undefined,
    /* 0D */ Mod(&GROUP_P),
    /* 0E */ Undefined,
    /* 0F */ Undefined,
    /* 10 */ Prefix(&[
                op2(Sse(Movups), Vx, Wx),
                op2(Sse(Movupd), Vx, Wx),
                op2(Sse(Movss), Vx, Wd),
                op2(Sse(Movsd), Vx, Wq),
             ]),
    /* 11 */ Prefix(&[
                op2(Sse(Movups), Wx, Vx),
                op2(Sse(Movupd), Wx, Vx),
                op2(Sse(Movss), Wd, Vx),
                op2(Sse(Movsd), Wq, Vx),
             ]),
    /* 12 */ Prefix(&[
                Mod(&[op2(Sse(Movlps), Vx, Mq), op2(Sse(Movhlps), Vx, Ux)]),
                op2(Sse(Movlpd), Vx, Mq),
                op2(Sse(Movsldup), Vx, Wx),
                op2(Sse(Movddup), Vx, Wq),
             ]),
    /* 13 */ Prefix(&[op2(Sse(Movlps), Mq, Vx), op2(Sse(Movlpd), Mq, Vx), Undefined, Undefined]),
    /* 14 */ Prefix(&[op2(Sse(Unpcklps), Vx, Wx), op2(Sse(Unpcklpd), Vx, Wx), Undefined, Undefined]),
    /* 15 */ Prefix(&[op2(Sse(Unpckhps), Vx, Wx), op2(Sse(Unpckhpd), Vx, Wx), Undefined, Undefined]),
    /* 16 */ Prefix(&[
                Mod(&[op2(Sse(Movhps), Vx, Mq), op2(Sse(Movlhps), Vx, Ux)]),
                op2(Sse(Movhpd), Vx, Mq),
                op2(Sse(Movshdup), Vx, Wx),
                Undefined,
             ]),
    /* 17 */ Prefix(&[op2(Sse(Movhps), Mq, Vx), op2(Sse(Movhpd), Mq, Vx), Undefined, Undefined]),
    /* 18 */ Mod(&GROUP_16),
    /* 19 */ op1(Nop, Ev),
    /* 1A */ op1(Nop, Ev),
    /* 1B */ op1(Nop, Ev),
    /* 1C */ op1(Nop, Ev),
    /* 1D */ op1(Nop, Ev),
    /* 1E */ Prefix(&[op1(Nop, Ev), op1(Nop, Ev), Mod(&[op1(Nop, Ev), Reg(&REG_1E)]), op1(Nop, Ev)]),
    /* 1F */ op1(Nop, Ev),
    /* 20 */ op2(MovControl, Rn, Cn),
    /* 21 */ op2(MovDebug, Rn, Dn),
    /* 22 */ op2(MovControl, Cn, Rn),
    /* 23 */ op2(MovDebug, Dn, Rn),
    /* 24 */ Undefined,
    /* 25 */ Undefined,
    /* 26 */ Undefined,
    /* 27 */ Undefined,
    /* 28 */ Prefix(&[op2(Sse(Movaps), Vx, Wx), op2(Sse(Movapd), Vx, Wx), Undefined, Undefined]),
    /* 29 */ Prefix(&[op2(Sse(Movaps), Wx, Vx), op2(Sse(Movapd), Wx, Vx), Undefined, Undefined]),
    /* 2A */ Prefix(&[
                op2(Sse(Cvtpi2ps), Vx, Qq),
                op2(Sse(Cvtpi2pd), Vx, Qq),
                op2(Sse(Cvtsi2ss), Vx, Ey),
                op2(Sse(Cvtsi2sd), Vx, Ey),
             ]),
    /* 2B */ Prefix(&[op2(Sse(Movntps), Mdq, Vx), op2(Sse(Movntpd), Mdq, Vx), Undefined, Undefined]),
    /* 2C */ Prefix(&[
                op2(Sse(Cvttps2pi), Pq, Wq),
                op2(Sse(Cvttpd2pi), Pq, Wx),
                op2(Sse(Cvttss2si), Gy, Wd),
                op2(Sse(Cvttsd2si), Gy, Wq),
             ]),
    /* 2D */ Prefix(&[
                op2(Sse(Cvtps2pi), Pq, Wq),
                op2(Sse(Cvtpd2pi), Pq, Wx),
                op2(Sse(Cvtss2si), Gy, Wd),
                op2(Sse(Cvtsd2si), Gy, Wq),
             ]),
    /* 2E */ Prefix(&[op2(Sse(Ucomiss), Vx, Wd), op2(Sse(Ucomisd), Vx, Wq), Undefined, Undefined]),
    /* 2F */ Prefix(&[op2(Sse(Comiss), Vx, Wd), op2(Sse(Comisd), Vx, Wq), Undefined, Undefined]),
    /* 30 */ op0(Wrmsr),
    /* 31 */ op0(Rdtsc),
    /* 32 */ op0(Rdmsr),
    /* 33 */ op0(Rdpmc),
    /* 34 */ op0(Sysenter),
    /* 35 */ op0(Sysexit).y(),
    /* 36 */ Undefined,
    /* 37 */ Undefined,
    /* 38 */ Undefined,
    /* 39 */ Undefined,
    /* 3A */ Undefined,
    /* 3B */ Undefined,
    /* 3C */ Undefined,
    /* 3D */ Undefined,
    /* 3E */ Undefined,
    /* 3F */ Undefined,
    /* 40 */ op2(Cmovcc(O), Gv, Ev),
    /* 41 */ op2(Cmovcc(No), Gv, Ev),
    /* 42 */ op2(Cmovcc(B), Gv, Ev),
    /* 43 */ op2(Cmovcc(Ae), Gv, Ev),
    /* 44 */ op2(Cmovcc(E), Gv, Ev),
    /* 45 */ op2(Cmovcc(Ne), Gv, Ev),
    /* 46 */ op2(Cmovcc(Be), Gv, Ev),
    /* 47 */ op2(Cmovcc(A), Gv, Ev),
    /* 48 */ op2(Cmovcc(S), Gv, Ev),
    /* 49 */ op2(Cmovcc(Ns), Gv, Ev),
    /* 4A */ op2(Cmovcc(P), Gv, Ev),
    /* 4B */ op2(Cmovcc(Np), Gv, Ev),
    /* 4C */ op2(Cmovcc(L), Gv, Ev),
    /* 4D */ op2(Cmovcc(Ge), Gv, Ev),
    /* 4E */ op2(Cmovcc(Le), Gv, Ev),
    /* 4F */ op2(Cmovcc(G), Gv, Ev),
    /* 50 */ Prefix(&[op2(Sse(Movmskps), Gy, Ux), op2(Sse(Movmskpd), Gy, Ux), Undefined, Undefined]),
    /* 51 */ float!(Sqrtps, Sqrtpd, Sqrtss, Sqrtsd),
    /* 52 */ Prefix(&[op2(Sse(Rsqrtps), Vx, Wx), Undefined, op2(Sse(Rsqrtss), Vx, Wd), Undefined]),
    /* 53 */ Prefix(&[op2(Sse(Rcpps), Vx, Wx), Undefined, op2(Sse(Rcpss), Vx, Wd), Undefined]),
    /* 54 */ Prefix(&[op2(Sse(Andps), Vx, Wx), op2(Sse(Andpd), Vx, Wx), Undefined, Undefined]),
    /* 55 */ Prefix(&[op2(Sse(Andnps), Vx, Wx), op2(Sse(Andnpd), Vx, Wx), Undefined, Undefined]),
    /* 56 */ Prefix(&[op2(Sse(Orps), Vx, Wx), op2(Sse(Orpd), Vx, Wx), Undefined, Undefined]),
    /* 57 */ Prefix(&[op2(Sse(Xorps), Vx, Wx), op2(Sse(Xorpd), Vx, Wx), Undefined, Undefined]),
    /* 58 */ float!(Addps, Addpd, Addss, Addsd),
    /* 59 */ float!(Mulps, Mulpd, Mulss, Mulsd),
    /* 5A */ Prefix(&[
                op2(Sse(Cvtps2pd), Vx, Wq),
                op2(Sse(Cvtpd2ps), Vx, Wx),
                op2(Sse(Cvtss2sd), Vx, Wd),
                op2(Sse(Cvtsd2ss), Vx, Wq),
             ]),
    /* 5B */ Prefix(&[
                op2(Sse(Cvtdq2ps), Vx, Wx),
                op2(Sse(Cvtps2dq), Vx, Wx),
                op2(Sse(Cvttps2dq), Vx, Wx),
                Undefined,
             ]),
    /* 5C */ float!(Subps, Subpd, Subss, Subsd),
    /* 5D */ float!(Minps, Minpd, Minss, Minsd),
    /* 5E */ float!(Divps, Divpd, Divss, Divsd),
    /* 5F */ float!(Maxps, Maxpd, Maxss, Maxsd),
    /* 60 */ Prefix(&[op2(Packed(Punpcklbw), Pq, Qd), op2(Packed(Punpcklbw), Vx, Wx), Undefined, Undefined]),
    /* 61 */ Prefix(&[op2(Packed(Punpcklwd), Pq, Qd), op2(Packed(Punpcklwd), Vx, Wx), Undefined, Undefined]),
    /* 62 */ Prefix(&[op2(Packed(Punpckldq), Pq, Qd), op2(Packed(Punpckldq), Vx, Wx), Undefined, Undefined]),
    /* 63 */ packed!(Packsswb),
    /* 64 */ packed!(Pcmpgtb),
    /* 65 */ packed!(Pcmpgtw),
    /* 66 */ packed!(Pcmpgtd),
    /* 67 */ packed!(Packuswb),
    /* 68 */ packed!(Punpckhbw),
    /* 69 */ packed!(Punpckhwd),
    /* 6A */ packed!(Punpckhdq),
    /* 6B */ packed!(Packssdw),
    /* 6C */ Prefix(&[Undefined, op2(Packed(Punpcklqdq), Vx, Wx), Undefined, Undefined]),
    /* 6D */ Prefix(&[Undefined, op2(Packed(Punpckhqdq), Vx, Wx), Undefined, Undefined]),
    /* 6E */ Prefix(&[
                RexW(&[op2(Packed(Movd), Pq, Ey), op2(Packed(Movq), Pq, Ey)]),
                RexW(&[op2(Packed(Movd), Vx, Ey), op2(Packed(Movq), Vx, Ey)]),
                Undefined,
                Undefined,
             ]),
    /* 6F */ Prefix(&[
                op2(Packed(Movq), Pq, Qq),
                op2(Packed(Movdqa), Vx, Wx),
                op2(Packed(Movdqu), Vx, Wx),
                Undefined,
             ]),
    /* 70 */ Prefix(&[
                op3(Packed(Pshufw), Pq, Qq, Ib),
                op3(Packed(Pshufd), Vx, Wx, Ib),
                op3(Packed(Pshufhw), Vx, Wx, Ib),
                op3(Packed(Pshuflw), Vx, Wx, Ib),
             ]),
    /* 71 */ Reg(&GROUP_12),
    /* 72 */ Reg(&GROUP_13),
    /* 73 */ Reg(&GROUP_14),
    /* 74 */ packed!(Pcmpeqb),
    /* 75 */ packed!(Pcmpeqw),
    /* 76 */ packed!(Pcmpeqd),
    /* 77 */ Prefix(&[op0(Packed(Emms)), Undefined, Undefined, Undefined]),
    /* 78 */ Undefined,
    /* 79 */ Undefined,
    /* 7A */ Undefined,
    /* 7B */ Undefined,
    /* 7C */ Prefix(&[Undefined, op2(Sse(Haddpd), Vx, Wx), Undefined, op2(Sse(Haddps), Vx, Wx)]),
    /* 7D */ Prefix(&[Undefined, op2(Sse(Hsubpd), Vx, Wx), Undefined, op2(Sse(Hsubps), Vx, Wx)]),
    /* 7E */ Prefix(&[
                RexW(&[op2(Packed(Movd), Ey, Pq), op2(Packed(Movq), Ey, Pq)]),
                RexW(&[op2(Packed(Movd), Ey, Vx), op2(Packed(Movq), Ey, Vx)]),
                op2(Packed(Movq), Vx, Wq),
                Undefined,
             ]),
    /* 7F */ Prefix(&[
                op2(Packed(Movq), Qq, Pq),
                op2(Packed(Movdqa), Wx, Vx),
                op2(Packed(Movdqu), Wx, Vx),
                Undefined,
             ]),
    /* 80 */ op1(Jcc(O), Jz).f64(),
    /* 81 */ op1(Jcc(No), Jz).f64(),
    /* 82 */ op1(Jcc(B), Jz).f64(),
    /* 83 */ op1(Jcc(Ae), Jz).f64(),
    /* 84 */ op1(Jcc(E), Jz).f64(),
    /* 85 */ op1(Jcc(Ne), Jz).f64(),
    /* 86 */ op1(Jcc(Be), Jz).f64(),
    /* 87 */ op1(Jcc(A), Jz).f64(),
    /* 88 */ op1(Jcc(S), Jz).f64(),
    /* 89 */ op1(Jcc(Ns), Jz).f64(),
    /* 8A */ op1(Jcc(P), Jz).f64(),
    /* 8B */ op1(Jcc(Np), Jz).f64(),
    /* 8C */ op1(Jcc(L), Jz).f64(),
    /* 8D */ op1(Jcc(Ge), Jz).f64(),
    /* 8E */ op1(Jcc(Le), Jz).f64(),
    /* 8F */ op1(Jcc(G), Jz).f64(),
    /* 90 */ op1(Setcc(O), Eb),
    /* 91 */ op1(Setcc(No), Eb),
    /* 92 */ op1(Setcc(B), Eb),
    /* 93 */ op1(Setcc(Ae), Eb),
    /* 94 */ op1(Setcc(E), Eb),
    /* 95 */ op1(Setcc(Ne), Eb),
    /* 96 */ op1(Setcc(Be), Eb),
    /* 97 */ op1(Setcc(A), Eb),
    /* 98 */ op1(Setcc(S), Eb),
    /* 99 */ op1(Setcc(Ns), Eb),
    /* 9A */ op1(Setcc(P), Eb),
    /* 9B */ op1(Setcc(Np), Eb),
    /* 9C */ op1(Setcc(L), Eb),
    /* 9D */ op1(Setcc(Ge), Eb),
    /* 9E */ op1(Setcc(Le), Eb),
    /* 9F */ op1(Setcc(G), Eb),
    /* A0 */ op1(Push, Fs).d64(),
    /* A1 */ op1(Pop, Fs).d64(),
    /* A2 */ op0(Cpuid),
    /* A3 */ op2(Bt, Ev, Gv),
    /* A4 */ op3(Shld, Ev, Gv, Ib),
    /* A5 */ op3(Shld, Ev, Gv, Cl),
    /* A6 */ Undefined,
    /* A7 */ Undefined,
    /* A8 */ op1(Push, Gs).d64(),
    /* A9 */ op1(Pop, Gs).d64(),
    /* AA */ op0(Rsm),
    /* AB */ op2(Bts, Ev, Gv).lock(),
    /* AC */ op3(Shrd, Ev, Gv, Ib),
    /* AD */ op3(Shrd, Ev, Gv, Cl),
    /* AE */ Mod(&GROUP_15),
    /* AF */ op2(Imul, Gv, Ev),
    /* B0 */ op2(Cmpxchg, Eb, Gb).lock(),
    /* B1 */ op2(Cmpxchg, Ev, Gv).lock(),
    /* B2 */ op2(Lss, Gv, Mp),
    /* B3 */ op2(Btr, Ev, Gv).lock(),
    /* B4 */ op2(Lfs, Gv, Mp),
    /* B5 */ op2(Lgs, Gv, Mp),
    /* B6 */ op2(Movzx, Gv, Eb),
    /* B7 */ op2(Movzx, Gv, Ew),
    /* B8 */ Prefix(&[Undefined, Undefined, op2(Popcnt, Gv, Ev), Undefined]),
    /* B9 */ op2(Ud1, Gv, Ev),
    /* BA */ Reg(&GROUP_8),
    /* BB */ op2(Btc, Ev, Gv).lock(),
    /* BC */ Prefix(&[op2(Bsf, Gv, Ev), op2(Bsf, Gv, Ev), op2(Tzcnt, Gv, Ev), op2(Bsf, Gv, Ev)]),
    /* BD */ Prefix(&[op2(Bsr, Gv, Ev), op2(Bsr, Gv, Ev), op2(Lzcnt, Gv, Ev), op2(Bsr, Gv, Ev)]),
    /* BE */ op2(Movsx, Gv, Eb),
    /* BF */ op2(Movsx, Gv, Ew),
    /* C0 */ op2(Xadd, Eb, Gb).lock(),
    /* C1 */ op2(Xadd, Ev, Gv).lock(),
    /* C2 */ Prefix(&[
                op3(Sse(Cmpps), Vx, Wx, Ib),
                op3(Sse(Cmppd), Vx, Wx, Ib),
                op3(Sse(Cmpss), Vx, Wd, Ib),
                op3(Sse(Cmpsd), Vx, Wq, Ib),
             ]),
    /* C3 */ Prefix(&[op2(Movnti, My, Gy), Undefined, Undefined, Undefined]),
    /* C4 */ Prefix(&[op3(Packed(Pinsrw), Pq, RyMw, Ib), op3(Packed(Pinsrw), Vx, RyMw, Ib), Undefined, Undefined]),
    /* C5 */ Prefix(&[op3(Packed(Pextrw), Gy, Nq, Ib), op3(Packed(Pextrw), Gy, Ux, Ib), Undefined, Undefined]),
    /* C6 */ Prefix(&[op3(Sse(Shufps), Vx, Wx, Ib), op3(Sse(Shufpd), Vx, Wx, Ib), Undefined, Undefined]),
    /* C7 */ Mod(&GROUP_9),
    /* C8 */ op1(Bswap, Zv),
    /* C9 */ op1(Bswap, Zv),
    /* CA */ op1(Bswap, Zv),
    /* CB */ op1(Bswap, Zv),
    /* CC */ op1(Bswap, Zv),
    /* CD */ op1(Bswap, Zv),
    /* CE */ op1(Bswap, Zv),
    /* CF */ op1(Bswap, Zv),
    /* D0 */ Prefix(&[Undefined, op2(Sse(Addsubpd), Vx, Wx), Undefined, op2(Sse(Addsubps), Vx, Wx)]),
    /* D1 */ packed!(Psrlw),
    /* D2 */ packed!(Psrld),
    /* D3 */ packed!(Psrlq),
    /* D4 */ packed!(Paddq),
    /* D5 */ packed!(Pmullw),
    /* D6 */ Prefix(&[
                Undefined,
                op2(Packed(Movq), Wq, Vx),
                op2(Packed(Movq2dq), Vx, Nq),
                op2(Packed(Movdq2q), Pq, Ux),
             ]),
    /* D7 */ Prefix(&[op2(Packed(Pmovmskb), Gy, Nq), op2(Packed(Pmovmskb), Gy, Ux), Undefined, Undefined]),
    /* D8 */ packed!(Psubusb),
    /* D9 */ packed!(Psubusw),
    /* DA */ packed!(Pminub),
    /* DB */ packed!(Pand),
    /* DC */ packed!(Paddusb),
    /* DD */ packed!(Paddusw),
    /* DE */ packed!(Pmaxub),
    /* DF */ packed!(Pandn),
    /* E0 */ packed!(Pavgb),
    /* E1 */ packed!(Psraw),
    /* E2 */ packed!(Psrad),
    /* E3 */ packed!(Pavgw),
    /* E4 */ packed!(Pmulhuw),
    /* E5 */ packed!(Pmulhw),
    /* E6 */ Prefix(&[
                Undefined,
                op2(Sse(Cvttpd2dq), Vx, Wx),
                op2(Sse(Cvtdq2pd), Vx, Wq),
                op2(Sse(Cvtpd2dq), Vx, Wx),
             ]),
    /* E7 */ Prefix(&[op2(Packed(Movntq), Mq, Pq), op2(Packed(Movntdq), Mdq, Vx), Undefined, Undefined]),
    /* E8 */ packed!(Psubsb),
    /* E9 */ packed!(Psubsw),
    /* EA */ packed!(Pminsw),
    /* EB */ packed!(Por),
    /* EC */ packed!(Paddsb),
    /* ED */ packed!(Paddsw),
    /* EE */ packed!(Pmaxsw),
    /* EF */ packed!(Pxor),
    /* F0 */ Prefix(&[Undefined, Undefined, Undefined, op2(Packed(Lddqu), Vx, Mdq)]),
    /* F1 */ packed!(Psllw),
    /* F2 */ packed!(Pslld),
    /* F3 */ packed!(Psllq),
    /* F4 */ packed!(Pmuludq),
    /* F5 */ packed!(Pmaddwd),
    /* F6 */ packed!(Psadbw),
    /* F7 */ Prefix(&[
                op3(Packed(Maskmovq), MaskedQ, Pq, Nq),
                op3(Packed(Maskmovdqu), MaskedX, Vx, Ux),
                Undefined,
                Undefined,
             ]),
    /* F8 */ packed!(Psubb),
    /* F9 */ packed!(Psubw),
    /* FA */ packed!(Psubd),
    /* FB */ packed!(Psubq),
    /* FC */ packed!(Paddb),
    /* FD */ packed!(Paddw),
    /* FE */ packed!(Paddd),
    /* FF */ op2(Ud0, Gv, Ev),
];
