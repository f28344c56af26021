//! What the opcode maps are made of: forms of instructions, and how an opcode leads to one.

use super::operation::Operation;

/// An operand in an encoding, named as in the SDM, volume 2, appendix A.2: where it is, then its size.
///
/// Sizes are those of A.2.2: `b` byte, `w` word, `d` doubleword, `q` quadword, `dq` 16 bytes, `v` the operand size,
/// `z` the operand size but at most 32 bits, `y` 32 bits or with REX.W 64, `p` far pointer, `a` two bounds, `s`
/// pseudo-descriptor. `n` is ours: 64 bits in 64-bit mode, else 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    /// None.
    No,
    // ModRM: a general register or memory.
    Eb,
    Ew,
    Ev,
    Ez,
    Ey,
    /// A register of the operand size, or a word of memory.
    RvMw,
    /// A register of 32 bits (64 with REX.W), or a byte of memory.
    RyMb,
    /// A register of 32 bits (64 with REX.W), or a word of memory.
    RyMw,
    /// A register of 32 bits (64 with REX.W), or a doubleword of memory.
    RyMd,
    // ModRM.rm: a general register only.
    Rv,
    Ry,
    /// Whatever ModRM.mod says.
    Rn,
    // ModRM.reg: a general register.
    Gb,
    Gw,
    Gv,
    Gy,
    Gn,
    // ModRM: memory only.
    /// Of no size, or of a size that the operation tells.
    M,
    Mb,
    Mw,
    Md,
    Mq,
    /// The ten bytes of an x87 operand.
    Mt,
    Mdq,
    Mv,
    My,
    Mp,
    Ma,
    Ms,
    // ModRM.reg: other registers.
    /// A segment register.
    Sw,
    /// A segment register that can be loaded: all but CS.
    SwLoad,
    Cn,
    Dn,
    // The opcode's low three bits: a general register.
    Zb,
    Zv,
    // Fixed registers.
    Al,
    Ax,
    /// The accumulator at the operand size.
    Rax,
    /// The accumulator at the operand size, at most 32 bits.
    Eax,
    Cl,
    Dx,
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    // Immediates.
    One,
    Ib,
    /// A byte, sign-extended to the operand size.
    SIb,
    Iw,
    /// A second immediate byte.
    I2b,
    /// Sign-extended to the operand size.
    Iz,
    Iv,
    Jb,
    Jz,
    Ap,
    // Direct offsets.
    Ob,
    Ov,
    // Strings: rSI in DS, rDI in ES.
    Xb,
    Xv,
    Xz,
    Yb,
    Yv,
    Yz,
    /// The byte at DS:[rBX + AL] of XLAT. AL is left to the executor.
    Bb,
    /// VEX.vvvv: a general register.
    By,
    // MMX and SSE. The size is that of memory.
    /// ModRM.reg: an MMX register.
    Pq,
    /// ModRM: an MMX register or memory.
    Qd,
    Qq,
    /// ModRM.rm: an MMX register only.
    Nq,
    /// ModRM.reg: an XMM register.
    Vx,
    /// ModRM: an XMM register or memory.
    Ww,
    Wd,
    Wq,
    Wx,
    /// ModRM.rm: an XMM register only.
    Ux,
    /// rDI in DS: eight bytes, and sixteen.
    MaskedQ,
    MaskedX,
    /// ST(0).
    St0,
    /// ST(ModRM.rm).
    Sti,
}

/// What the operand size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeRule {
    /// 8 bits.
    B,
    /// CS.D, 66h and REX.W.
    V,
    /// As V; 32 bits where V is 64.
    Z,
    /// 32 bits, or 64 with REX.W.
    Y,
    /// As V; in 64-bit mode 64 bits instead of 32 (appendix A.2.5, d64).
    D64,
    /// As V; in 64-bit mode 64 bits (f64).
    F64,
    /// 64 bits in 64-bit mode, else 32.
    N,
}

/// [`Form::flags`]: may be locked if the first operand is memory.
pub(super) const MAY_LOCK: u8 = 1 << 0;
/// [`Form::flags`]: #UD in 64-bit mode (i64).
pub(super) const NOT_64: u8 = 1 << 1;
/// [`Form::flags`]: #UD outside 64-bit mode (o64).
pub(super) const ONLY_64: u8 = 1 << 2;
/// [`Form::flags`]: has a ModRM byte.
pub(super) const MODRM: u8 = 1 << 3;
/// [`Form::flags`]: has no memory operand, whatever ModRM.mod says.
pub(super) const MOD_IGNORED: u8 = 1 << 4;

/// One form of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) operation: Operation,
    pub(super) operands: [Spec; 3],
    pub(super) size: SizeRule,
    pub(super) flags: u8,
}

/// What an opcode means, or what else must be looked at to know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// #UD.
    Undefined,
    /// An instruction.
    Form(Form),
    /// By ModRM.reg: an opcode group (appendix A.4).
    Reg(&'static [Entry; 8]),
    /// By ModRM.rm.
    Rm(&'static [Entry; 8]),
    /// By ModRM.mod: memory, or a register.
    Mod(&'static [Entry; 2]),
    /// By the mandatory prefix: none, 66h, F3h, F2h. A later F2h or F3h hides an earlier, and 66h.
    Prefix(&'static [Entry; 4]),
    /// By REX.B: NOP is XCHG with the accumulator.
    RexB(&'static [Entry; 2]),
    /// By REX.W.
    RexW(&'static [Entry; 2]),
    /// By the mode: 16 and 32 bits, or 64.
    Long(&'static [Entry; 2]),
}

/// A form without operands.
pub(super) const fn op0(operation: Operation) -> Entry {
    op3(operation, Spec::No, Spec::No, Spec::No)
}

/// A form with one operand.
pub(super) const fn op1(operation: Operation, a: Spec) -> Entry {
    op3(operation, a, Spec::No, Spec::No)
}

/// A form with two operands.
pub(super) const fn op2(operation: Operation, a: Spec, b: Spec) -> Entry {
    op3(operation, a, b, Spec::No)
}

/// A form with three operands. What follows from the operands is computed here, not written in the maps.
pub(super) const fn op3(operation: Operation, a: Spec, b: Spec, c: Spec) -> Entry {
    // A port number is no operand to compute with.
    let computed = match a {
        Spec::Dx | Spec::Ib => b,
        _ => a,
    };
    use SizeRule::*;
    let size = if computed.is_byte() {
        B
    } else if a.is_y() || b.is_y() {
        Y
    } else if a.is_n() || b.is_n() {
        N
    } else if a.is_z() || b.is_z() {
        Z
    } else {
        V
    };
    let mut flags = 0;
    if a.in_modrm() || b.in_modrm() || c.in_modrm() {
        flags |= MODRM;
    }
    if matches!(a, Spec::Rn) || matches!(b, Spec::Rn) {
        flags |= MOD_IGNORED;
    }
    Entry::Form(Form {
        operation,
        operands: [a, b, c],
        size,
        flags,
    })
}

impl Entry {
    const fn with(self, flags: u8) -> Self {
        match self {
            Self::Form(mut form) => {
                form.flags |= flags;
                Self::Form(form)
            }
            other => other,
        }
    }

    /// 32 bits, or 64 with REX.W.
    pub(super) const fn y(self) -> Self {
        self.sized(SizeRule::Y)
    }

    /// With another size than the operands tell.
    pub(super) const fn sized(self, size: SizeRule) -> Self {
        match self {
            Self::Form(mut form) => {
                form.size = size;
                Self::Form(form)
            }
            other => other,
        }
    }

    /// May be locked.
    pub(super) const fn lock(self) -> Self {
        self.with(MAY_LOCK)
    }

    /// Not in 64-bit mode.
    pub(super) const fn i64(self) -> Self {
        self.with(NOT_64)
    }

    /// In 64-bit mode only.
    pub(super) const fn o64(self) -> Self {
        self.with(ONLY_64)
    }

    /// 64 bits by default in 64-bit mode.
    pub(super) const fn d64(self) -> Self {
        self.sized(SizeRule::D64)
    }

    /// Always 64 bits in 64-bit mode.
    pub(super) const fn f64(self) -> Self {
        self.sized(SizeRule::F64)
    }
}

impl Spec {
    const fn is_byte(self) -> bool {
        use Spec::*;
        matches!(self, Eb | Gb | Zb | Al | Ob | Xb | Yb | Bb)
    }

    const fn is_y(self) -> bool {
        use Spec::*;
        matches!(self, Ey | Gy | My | Ry | RyMb | RyMw | RyMd | By)
    }

    const fn is_n(self) -> bool {
        use Spec::*;
        matches!(self, Gn | Rn)
    }

    const fn is_z(self) -> bool {
        use Spec::*;
        matches!(self, Eax | Xz | Yz)
    }

    const fn in_modrm(self) -> bool {
        use Spec::*;
        !matches!(
            self,
            No | Zb
                | Zv
                | Al
                | Ax
                | Rax
                | Eax
                | Cl
                | Dx
                | Es
                | Cs
                | Ss
                | Ds
                | Fs
                | Gs
                | One
                | Ib
                | SIb
                | Iw
                | I2b
                | Iz
                | Iv
                | Jb
                | Jz
                | Ap
                | Ob
                | Ov
                | Xb
                | Xv
                | Xz
                | Yb
                | Yv
                | Yz
                | Bb
                | By
                | St0
        )
    }
}
