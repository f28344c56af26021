//! The names of operations.
//!
//! They are the SDM's mnemonics (volume 2), except where several name one operation: string instructions have no
//! size letter (MOVSB to MOVSQ are `Movs`), nor have CBW, CWD, IRET, PUSHA, POPA, PUSHF, POPF, SYSRET, SYSEXIT and
//! the 64-bit forms of FXSAVE and XSAVE: [`Instruction::operand_size`](super::Instruction::operand_size) tells. Near
//! and far transfers are apart, and so are the moves that aren't between general registers and memory.

/// A condition of Jcc, SETcc and CMOVcc, by its number in opcodes (SDM volume 2, appendix B.1.4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the SDM's letters")]
pub enum Condition {
    O,
    No,
    B,
    Ae,
    E,
    Ne,
    Be,
    A,
    S,
    Ns,
    P,
    Np,
    L,
    Ge,
    Le,
    G,
}

/// What an instruction does.
///
/// A name says nothing about CPUID: an instruction whose feature is absent is #UD, and it's for the executor to say
/// so. Without their features Lzcnt is BSR, Tzcnt is BSF, and Endbr32, Endbr64 and Prefetchw do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the SDM's mnemonics")]
pub enum Operation {
    Aaa,
    Aad,
    Aam,
    Aas,
    Adc,
    Adcx,
    Add,
    Adox,
    And,
    Andn,
    Arpl,
    Bextr,
    Blsi,
    Blsmsk,
    Blsr,
    Bound,
    Bsf,
    Bsr,
    Bswap,
    Bt,
    Btc,
    Btr,
    Bts,
    Bzhi,
    /// A near call.
    Call,
    CallFar,
    /// CBW, CWDE, CDQE.
    Cbw,
    Clac,
    Clc,
    Cld,
    Clflush,
    Clflushopt,
    Cli,
    Clts,
    Clwb,
    Cmc,
    Cmovcc(Condition),
    Cmp,
    Cmps,
    Cmpxchg,
    Cmpxchg16b,
    Cmpxchg8b,
    Cpuid,
    Crc32,
    /// CWD, CDQ, CQO.
    Cwd,
    Daa,
    Das,
    Dec,
    Div,
    Endbr32,
    Endbr64,
    Enter,
    Fxrstor,
    Fxsave,
    Hlt,
    Idiv,
    Imul,
    In,
    Inc,
    Ins,
    Int,
    Int1,
    Int3,
    Into,
    Invd,
    Invlpg,
    Invpcid,
    /// IRET, IRETD, IRETQ.
    Iret,
    Jcc(Condition),
    /// JCXZ, JECXZ, JRCXZ, by the address size.
    Jcxz,
    /// A near jump.
    Jmp,
    JmpFar,
    Lahf,
    Lar,
    Lds,
    Lea,
    Leave,
    Les,
    Lfence,
    Lfs,
    Lgdt,
    Lgs,
    Lidt,
    Lldt,
    Lmsw,
    Lods,
    Loop,
    Loope,
    Loopne,
    Lsl,
    Lss,
    Ltr,
    Lzcnt,
    Mfence,
    Monitor,
    /// Between general registers and memory.
    Mov,
    Movbe,
    MovControl,
    MovDebug,
    Movnti,
    Movs,
    /// From or to a segment register.
    MovSegment,
    Movsx,
    Movsxd,
    Movzx,
    Mul,
    Mulx,
    Mwait,
    Neg,
    Nop,
    Not,
    Or,
    Out,
    Outs,
    Pause,
    Pdep,
    Pext,
    Pop,
    Popa,
    Popcnt,
    Popf,
    Prefetchnta,
    Prefetcht0,
    Prefetcht1,
    Prefetcht2,
    Prefetchw,
    Prefetchwt1,
    /// AMD's PREFETCH.
    Prefetch,
    Push,
    Pusha,
    Pushf,
    Rcl,
    Rcr,
    Rdfsbase,
    Rdgsbase,
    Rdmsr,
    Rdpid,
    Rdpkru,
    Rdpmc,
    Rdrand,
    Rdseed,
    Rdtsc,
    Rdtscp,
    /// A near return.
    Ret,
    /// A far return.
    Retf,
    Rol,
    Ror,
    Rorx,
    Rsm,
    Sahf,
    Salc,
    Sar,
    Sarx,
    Sbb,
    Scas,
    Serialize,
    Setcc(Condition),
    Sfence,
    Sgdt,
    /// Also SAL.
    Shl,
    Shld,
    Shlx,
    Shr,
    Shrd,
    Shrx,
    Sidt,
    Sldt,
    Smsw,
    Stac,
    Stc,
    Std,
    Sti,
    Stos,
    Str,
    Sub,
    Swapgs,
    Syscall,
    Sysenter,
    Sysexit,
    Sysret,
    Test,
    Tzcnt,
    Ud0,
    Ud1,
    Ud2,
    Verr,
    Verw,
    /// WAIT, also named FWAIT.
    Wait,
    Wbinvd,
    Wbnoinvd,
    Wrfsbase,
    Wrgsbase,
    Wrmsr,
    Wrpkru,
    Xadd,
    Xchg,
    Xgetbv,
    Xlat,
    Xor,
    Xrstor,
    Xrstors,
    Xsave,
    Xsavec,
    Xsaveopt,
    Xsaves,
    Xsetbv,
    /// The x87.
    Fpu(Fpu),
    /// SSE on floating-point numbers, its moves, and MXCSR.
    Sse(Sse),
    /// MMX and SSE on integers.
    Packed(Packed),
}

const _: () = assert!(size_of::<Operation>() == 2);

/// Operations of the x87. Forms that wait for pending exceptions and forms that don't have the same opcode: WAIT
/// is an instruction of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the SDM's mnemonics")]
#[rustfmt::skip]
pub enum Fpu {
    F2xm1, Fabs, Fadd, Faddp, Fbld, Fbstp, Fchs, Fcmovb, Fcmovbe, Fcmove, Fcmovnb, Fcmovnbe, Fcmovne, Fcmovnu,
    Fcmovu, Fcom, Fcomi, Fcomip, Fcomp, Fcompp, Fcos, Fdecstp, Fdiv, Fdivp, Fdivr, Fdivrp, Ffree, Ffreep, Fiadd,
    Ficom, Ficomp, Fidiv, Fidivr, Fild, Fimul, Fincstp, Fist, Fistp, Fisttp, Fisub, Fisubr, Fld, Fld1, Fldcw, Fldenv,
    Fldl2e, Fldl2t, Fldlg2, Fldln2, Fldpi, Fldz, Fmul, Fmulp, Fnclex, Fndisi, Fneni, Fninit, Fnop, Fnsave, Fnsetpm,
    Fnstcw, Fnstenv, Fnstsw, Fpatan, Fprem, Fprem1, Fptan, Frndint, Frstor, Fscale, Fsin, Fsincos, Fsqrt, Fst, Fstp,
    Fsub, Fsubp, Fsubr, Fsubrp, Ftst, Fucom, Fucomi, Fucomip, Fucomp, Fucompp, Fxam, Fxch, Fxtract, Fyl2x, Fyl2xp1,
    /// FSTP that leaves no exception for an empty register (D9h /3 with a register).
    Fstpnce,
}

/// Operations of SSE on floating-point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the SDM's mnemonics")]
#[rustfmt::skip]
pub enum Sse {
    Addpd, Addps, Addsd, Addss, Addsubpd, Addsubps, Andnpd, Andnps, Andpd, Andps, Blendpd, Blendps, Blendvpd,
    Blendvps, Cmppd, Cmpps, Cmpsd, Cmpss, Comisd, Comiss, Cvtdq2pd, Cvtdq2ps, Cvtpd2dq, Cvtpd2pi, Cvtpd2ps,
    Cvtpi2pd, Cvtpi2ps, Cvtps2dq, Cvtps2pd, Cvtps2pi, Cvtsd2si, Cvtsd2ss, Cvtsi2sd, Cvtsi2ss, Cvtss2sd, Cvtss2si,
    Cvttpd2dq, Cvttpd2pi, Cvttps2dq, Cvttps2pi, Cvttsd2si, Cvttss2si, Divpd, Divps, Divsd, Divss, Dppd, Dpps,
    Extractps, Haddpd, Haddps, Hsubpd, Hsubps, Insertps, Ldmxcsr, Maxpd, Maxps, Maxsd, Maxss, Minpd, Minps, Minsd,
    Minss, Movapd, Movaps, Movddup, Movhlps, Movhpd, Movhps, Movlhps, Movlpd, Movlps, Movmskpd, Movmskps, Movntpd,
    Movntps, Movsd, Movshdup, Movsldup, Movss, Movupd, Movups, Mulpd, Mulps, Mulsd, Mulss, Orpd, Orps, Rcpps, Rcpss,
    Roundpd, Roundps, Roundsd, Roundss, Rsqrtps, Rsqrtss, Shufpd, Shufps, Sqrtpd, Sqrtps, Sqrtsd, Sqrtss, Stmxcsr,
    Subpd, Subps, Subsd, Subss, Ucomisd, Ucomiss, Unpckhpd, Unpckhps, Unpcklpd, Unpcklps, Xorpd, Xorps,
}

/// Operations of MMX and SSE on integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the SDM's mnemonics")]
#[rustfmt::skip]
pub enum Packed {
    Emms, Lddqu, Maskmovdqu, Maskmovq, Movd, Movdq2q, Movdqa, Movdqu, Movntdq, Movntdqa, Movntq, Movq, Movq2dq,
    Mpsadbw, Pabsb, Pabsd, Pabsw, Packssdw, Packsswb, Packusdw, Packuswb, Paddb, Paddd, Paddq, Paddsb, Paddsw,
    Paddusb, Paddusw, Paddw, Palignr, Pand, Pandn, Pavgb, Pavgw, Pblendvb, Pblendw, Pcmpeqb, Pcmpeqd, Pcmpeqq,
    Pcmpeqw, Pcmpestri, Pcmpestrm, Pcmpgtb, Pcmpgtd, Pcmpgtq, Pcmpgtw, Pcmpistri, Pcmpistrm, Pextrb, Pextrd, Pextrq,
    Pextrw, Phaddd, Phaddsw, Phaddw, Phminposuw, Phsubd, Phsubsw, Phsubw, Pinsrb, Pinsrd, Pinsrq, Pinsrw, Pmaddubsw,
    Pmaddwd, Pmaxsb, Pmaxsd, Pmaxsw, Pmaxub, Pmaxud, Pmaxuw, Pminsb, Pminsd, Pminsw, Pminub, Pminud, Pminuw,
    Pmovmskb, Pmovsxbd, Pmovsxbq, Pmovsxbw, Pmovsxdq, Pmovsxwd, Pmovsxwq, Pmovzxbd, Pmovzxbq, Pmovzxbw, Pmovzxdq,
    Pmovzxwd, Pmovzxwq, Pmuldq, Pmulhrsw, Pmulhuw, Pmulhw, Pmulld, Pmullw, Pmuludq, Por, Psadbw, Pshufb, Pshufd,
    Pshufhw, Pshuflw, Pshufw, Psignb, Psignd, Psignw, Pslld, Pslldq, Psllq, Psllw, Psrad, Psraw, Psrld, Psrldq,
    Psrlq, Psrlw, Psubb, Psubd, Psubq, Psubsb, Psubsw, Psubusb, Psubusw, Psubw, Ptest, Punpckhbw, Punpckhdq,
    Punpckhqdq, Punpckhwd, Punpcklbw, Punpckldq, Punpcklqdq, Punpcklwd, Pxor,
}
