//! The x87 escape opcodes D8h to DFh (SDM volume 2, tables ): memory forms by ModRM.reg, register forms
//! by ModRM.reg and, where a row has eight instructions, by ModRM.rm.
//!
//! Encodings that the SDM leaves out but processors have: DC D0+i and D8+i (FCOM, FCOMP), DD C8+i (FXCH), DE D0+i
//! (FCOMP), DF C0+i (FFREEP), C8+i (FXCH), D0+i and D8+i (FSTP), D9 D8+i (FSTPNCE), and DB E0, E1 and E4 (FENI, FDISI
//! and FSETPM of older coprocessors: no operation).

use super::form::{Entry, Spec, Spec::*, op0, op1, op2};
use super::operation::{Fpu as Name, Fpu::*, Operation::Fpu};
use Entry::*;

/// An instruction without operands.
const fn none(name: Name) -> Entry {
    op0(Fpu(name))
}

/// An instruction with one operand: memory of a size, or ST(i).
const fn one(name: Name, operand: Spec) -> Entry {
    op1(Fpu(name), operand)
}

/// An instruction on ST(0) with ST(i).
const fn st0_sti(name: Name) -> Entry {
    op2(Fpu(name), St0, Sti)
}

/// An instruction on ST(i) with ST(0).
const fn sti_st0(name: Name) -> Entry {
    op2(Fpu(name), Sti, St0)
}

/// A row with one instruction, of the given ModRM.rm 0 or 1.
const fn only(rm: usize, name: Name) -> [Entry; 8] {
    let mut row = [Undefined; 8];
    row[rm] = none(name);
    row
}

/// D9 D0 to D7.
static D9_D0: [Entry; 8] = only(0, Fnop);

/// DA E8 to EF.
static DA_E8: [Entry; 8] = only(1, Fucompp);

/// DE D8 to DF.
static DE_D8: [Entry; 8] = only(1, Fcompp);

/// D9 E0 to E7.
static D9_E0: [Entry; 8] = [
    none(Fchs),
    none(Fabs),
    Undefined,
    Undefined,
    none(Ftst),
    none(Fxam),
    Undefined,
    Undefined,
];

/// D9 E8 to EF.
static D9_E8: [Entry; 8] = [
    none(Fld1),
    none(Fldl2t),
    none(Fldl2e),
    none(Fldpi),
    none(Fldlg2),
    none(Fldln2),
    none(Fldz),
    Undefined,
];

/// D9 F0 to F7.
static D9_F0: [Entry; 8] = [
    none(F2xm1),
    none(Fyl2x),
    none(Fptan),
    none(Fpatan),
    none(Fxtract),
    none(Fprem1),
    none(Fdecstp),
    none(Fincstp),
];

/// D9 F8 to FF.
static D9_F8: [Entry; 8] = [
    none(Fprem),
    none(Fyl2xp1),
    none(Fsqrt),
    none(Fsincos),
    none(Frndint),
    none(Fscale),
    none(Fsin),
    none(Fcos),
];

/// DB E0 to E7.
static DB_E0: [Entry; 8] = [
    none(Fneni),
    none(Fndisi),
    none(Fnclex),
    none(Fninit),
    none(Fnsetpm),
    Undefined,
    Undefined,
    Undefined,
];

/// DF E0 to E7.
static DF_E0: [Entry; 8] = [
    one(Fnstsw, Ax),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// D8: memory.
static D8_MEMORY: [Entry; 8] = [
    one(Fadd, Md),
    one(Fmul, Md),
    one(Fcom, Md),
    one(Fcomp, Md),
    one(Fsub, Md),
    one(Fsubr, Md),
    one(Fdiv, Md),
    one(Fdivr, Md),
];

/// D8: registers.
static D8_REGISTER: [Entry; 8] = [
    st0_sti(Fadd),
    st0_sti(Fmul),
    st0_sti(Fcom),
    st0_sti(Fcomp),
    st0_sti(Fsub),
    st0_sti(Fsubr),
    st0_sti(Fdiv),
    st0_sti(Fdivr),
];

/// Opcode D8h.
pub(super) static D8: [Entry; 2] = [Reg(&D8_MEMORY), Reg(&D8_REGISTER)];

/// D9: memory.
static D9_MEMORY: [Entry; 8] = [
    one(Fld, Md),
    Undefined,
    one(Fst, Md),
    one(Fstp, Md),
    one(Fldenv, M),
    one(Fldcw, Mw),
    one(Fnstenv, M),
    one(Fnstcw, Mw),
];

/// D9: registers.
static D9_REGISTER: [Entry; 8] = [
    one(Fld, Sti),
    st0_sti(Fxch),
    Rm(&D9_D0),
    one(Fstpnce, Sti),
    Rm(&D9_E0),
    Rm(&D9_E8),
    Rm(&D9_F0),
    Rm(&D9_F8),
];

/// Opcode D9h.
pub(super) static D9: [Entry; 2] = [Reg(&D9_MEMORY), Reg(&D9_REGISTER)];

/// DA: memory.
static DA_MEMORY: [Entry; 8] = [
    one(Fiadd, Md),
    one(Fimul, Md),
    one(Ficom, Md),
    one(Ficomp, Md),
    one(Fisub, Md),
    one(Fisubr, Md),
    one(Fidiv, Md),
    one(Fidivr, Md),
];

/// DA: registers.
static DA_REGISTER: [Entry; 8] = [
    st0_sti(Fcmovb),
    st0_sti(Fcmove),
    st0_sti(Fcmovbe),
    st0_sti(Fcmovu),
    Undefined,
    Rm(&DA_E8),
    Undefined,
    Undefined,
];

/// Opcode DAh.
pub(super) static DA: [Entry; 2] = [Reg(&DA_MEMORY), Reg(&DA_REGISTER)];

/// DB: memory.
static DB_MEMORY: [Entry; 8] = [
    one(Fild, Md),
    one(Fisttp, Md),
    one(Fist, Md),
    one(Fistp, Md),
    Undefined,
    one(Fld, Mt),
    Undefined,
    one(Fstp, Mt),
];

/// DB: registers.
static DB_REGISTER: [Entry; 8] = [
    st0_sti(Fcmovnb),
    st0_sti(Fcmovne),
    st0_sti(Fcmovnbe),
    st0_sti(Fcmovnu),
    Rm(&DB_E0),
    st0_sti(Fucomi),
    st0_sti(Fcomi),
    Undefined,
];

/// Opcode DBh.
pub(super) static DB: [Entry; 2] = [Reg(&DB_MEMORY), Reg(&DB_REGISTER)];

/// DC: memory.
static DC_MEMORY: [Entry; 8] = [
    one(Fadd, Mq),
    one(Fmul, Mq),
    one(Fcom, Mq),
    one(Fcomp, Mq),
    one(Fsub, Mq),
    one(Fsubr, Mq),
    one(Fdiv, Mq),
    one(Fdivr, Mq),
];

/// DC: registers.
static DC_REGISTER: [Entry; 8] = [
    sti_st0(Fadd),
    sti_st0(Fmul),
    st0_sti(Fcom),
    st0_sti(Fcomp),
    sti_st0(Fsubr),
    sti_st0(Fsub),
    sti_st0(Fdivr),
    sti_st0(Fdiv),
];

/// Opcode DCh.
pub(super) static DC: [Entry; 2] = [Reg(&DC_MEMORY), Reg(&DC_REGISTER)];

/// DD: memory.
static DD_MEMORY: [Entry; 8] = [
    one(Fld, Mq),
    one(Fisttp, Mq),
    one(Fst, Mq),
    one(Fstp, Mq),
    one(Frstor, M),
    Undefined,
    one(Fnsave, M),
    one(Fnstsw, Mw),
];

/// DD: registers.
static DD_REGISTER: [Entry; 8] = [
    one(Ffree, Sti),
    st0_sti(Fxch),
    one(Fst, Sti),
    one(Fstp, Sti),
    st0_sti(Fucom),
    st0_sti(Fucomp),
    Undefined,
    Undefined,
];

/// Opcode DDh.
pub(super) static DD: [Entry; 2] = [Reg(&DD_MEMORY), Reg(&DD_REGISTER)];

/// DE: memory.
static DE_MEMORY: [Entry; 8] = [
    one(Fiadd, Mw),
    one(Fimul, Mw),
    one(Ficom, Mw),
    one(Ficomp, Mw),
    one(Fisub, Mw),
    one(Fisubr, Mw),
    one(Fidiv, Mw),
    one(Fidivr, Mw),
];

/// DE: registers.
static DE_REGISTER: [Entry; 8] = [
    sti_st0(Faddp),
    sti_st0(Fmulp),
    st0_sti(Fcomp),
    Rm(&DE_D8),
    sti_st0(Fsubrp),
    sti_st0(Fsubp),
    sti_st0(Fdivrp),
    sti_st0(Fdivp),
];

/// Opcode DEh.
pub(super) static DE: [Entry; 2] = [Reg(&DE_MEMORY), Reg(&DE_REGISTER)];

/// DF: memory.
static DF_MEMORY: [Entry; 8] = [
    one(Fild, Mw),
    one(Fisttp, Mw),
    one(Fist, Mw),
    one(Fistp, Mw),
    one(Fbld, Mt),
    one(Fild, Mq),
    one(Fbstp, Mt),
    one(Fistp, Mq),
];

/// DF: registers.
static DF_REGISTER: [Entry; 8] = [
    one(Ffreep, Sti),
    st0_sti(Fxch),
    one(Fstp, Sti),
    one(Fstp, Sti),
    Rm(&DF_E0),
    st0_sti(Fucomip),
    st0_sti(Fcomip),
    Undefined,
];

/// Opcode DFh.
pub(super) static DF: [Entry; 2] = [Reg(&DF_MEMORY), Reg(&DF_REGISTER)];
