//! The six status flags, kept as what they are computed from, and the sixteen conditions.
//!
//! Source: Intel SDM volume 1, "Status Flags", and volume 1, appendix B, "EFLAGS Condition Codes".
//!
//! Most flags are overwritten before anything reads them. So an operation stores its operands and
//! its result, and each flag is worked out when asked for. Operands and result are stored
//! **sign-extended to 64 bits**. Sign extension keeps the order of signed and of unsigned values,
//! the low bits, and the sign in bit 63: no formula here needs to know the operation's width, and
//! the conditions after a comparison are single comparisons of 64-bit values.
//!
//! Deliberately not here: the other bits of RFLAGS, which stay in the processor's state.

use x86_64::registers::rflags::RFlags;

/// CF, bit 0: carry or borrow out of the highest bit.
pub const CF: u64 = RFlags::CARRY_FLAG.bits();
/// PF, bit 2: the lowest byte of the result has an even number of ones.
pub const PF: u64 = RFlags::PARITY_FLAG.bits();
/// AF, bit 4: carry or borrow out of bit 3.
pub const AF: u64 = RFlags::AUXILIARY_CARRY_FLAG.bits();
/// ZF, bit 6: the result is zero.
pub const ZF: u64 = RFlags::ZERO_FLAG.bits();
/// SF, bit 7: the highest bit of the result.
pub const SF: u64 = RFlags::SIGN_FLAG.bits();
/// OF, bit 11: the result as a signed number does not fit.
pub const OF: u64 = RFlags::OVERFLOW_FLAG.bits();
/// All status flags.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// Bit 1 of RFLAGS and of what LAHF stores reads as one.
const ALWAYS_ONE: u8 = 1 << 1;
/// What SAHF takes from AH.
const SAHF: u64 = CF | PF | AF | ZF | SF;

/// How the flags follow from the other fields of [`LazyFlags`].
// Of 32 bits, so that there is no padding: copies are two vector moves then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    /// All six are in `bits`.
    #[default]
    Bits = 0,
    /// ZF, SF and PF follow from `result`; CF, AF and OF are in `bits`.
    Result,
    /// `result = a + b`, or that plus one; `bits` is unused.
    Add,
    /// `result = a - b`; `bits` is unused. Logical operations are the subtraction of zero from
    /// their result, which clears CF, OF and AF too, so that what a compiler branches on is nearly
    /// always of this kind.
    Sub,
}

/// The status flags after the last operation that set any.
///
/// The default, which is also all zero bytes, has all flags clear. Two values with the same flags
/// need not be equal: compare [`status`](Self::status).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LazyFlags {
    /// Sign-extended.
    result: u64,
    /// The first operand, sign-extended.
    a: u64,
    /// The second operand, sign-extended.
    b: u64,
    /// Flags that are known, at their places in RFLAGS. Other bits may be anything.
    bits: u32,
    kind: Kind,
}

const _: () = assert!(
    core::mem::offset_of!(LazyFlags, kind) == LazyFlags::BITS_OFFSET + 4
        && LazyFlags::BITS_OFFSET.is_multiple_of(8)
);

/// Bit 63 as a truth value.
#[inline]
pub(super) const fn top(value: u64) -> bool {
    (value as i64) < 0
}

/// A flag's bit if it is set.
#[inline]
pub(super) const fn when(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

/// Whether the lowest byte has an even number of ones: PF.
#[inline]
pub(super) const fn even_parity(value: u64) -> bool {
    // Bit n says whether the number n has an even number of ones.
    const EVEN: u32 = 0x9669;
    (EVEN >> ((value ^ (value >> 4)) & 15)) & 1 != 0
}

impl LazyFlags {
    /// Where `bits` is, with [`Kind`] in the four bytes behind it: storing flags there as eight bytes
    /// is [`Self::from_rflags`].
    pub(in crate::cpu) const BITS_OFFSET: usize = core::mem::offset_of!(Self, bits);

    /// After an addition; all three sign-extended.
    #[inline]
    pub(super) const fn add(a: u64, b: u64, result: u64) -> Self {
        Self {
            result,
            a,
            b,
            bits: 0,
            kind: Kind::Add,
        }
    }

    /// After a subtraction without a borrow; all three sign-extended.
    #[inline]
    pub(super) const fn sub(a: u64, b: u64, result: u64) -> Self {
        Self {
            result,
            a,
            b,
            bits: 0,
            kind: Kind::Sub,
        }
    }

    /// After a logical operation: CF, OF and AF clear, the others of the sign-extended result.
    #[inline]
    pub(super) const fn logic(result: u64) -> Self {
        Self::sub(result, 0, result)
    }

    /// ZF, SF and PF of a sign-extended result, and CF, AF and OF as given.
    #[inline]
    pub(super) const fn result(result: u64, carries: u64) -> Self {
        Self {
            result,
            a: 0,
            b: 0,
            bits: carries as u32,
            kind: Kind::Result,
        }
    }

    /// The status flags of `rflags`; its other bits are ignored.
    #[inline]
    pub const fn from_rflags(rflags: u64) -> Self {
        Self {
            result: 0,
            a: 0,
            b: 0,
            bits: (rflags & STATUS) as u32,
            kind: Kind::Bits,
        }
    }

    /// `rflags` with its status flags replaced by these.
    #[inline]
    pub const fn to_rflags(&self, rflags: u64) -> u64 {
        (rflags & !STATUS) | self.status()
    }

    /// All six flags at their places in RFLAGS, the other bits zero.
    pub const fn status(&self) -> u64 {
        if let Kind::Bits = self.kind {
            return self.bits as u64 & STATUS;
        }
        when(self.carry(), CF)
            | when(self.parity(), PF)
            | when(self.auxiliary(), AF)
            | when(self.zero(), ZF)
            | when(self.sign(), SF)
            | when(self.overflow(), OF)
    }

    /// A flag out of `bits`.
    #[inline]
    const fn bit(&self, flag: u64) -> bool {
        self.bits as u64 & flag != 0
    }

    /// CF.
    #[inline]
    pub const fn carry(&self) -> bool {
        match self.kind {
            Kind::Bits | Kind::Result => self.bit(CF),
            // Carries out of each bit, whatever came in at the lowest.
            Kind::Add => top((self.a & self.b) | ((self.a | self.b) & !self.result)),
            Kind::Sub => self.a < self.b,
        }
    }

    /// PF.
    #[inline]
    pub const fn parity(&self) -> bool {
        match self.kind {
            Kind::Bits => self.bit(PF),
            Kind::Result | Kind::Add | Kind::Sub => even_parity(self.result),
        }
    }

    /// AF.
    #[inline]
    pub const fn auxiliary(&self) -> bool {
        match self.kind {
            Kind::Bits | Kind::Result => self.bit(AF),
            // What came into bit 4 is the difference from a sum without carries.
            Kind::Add | Kind::Sub => (self.a ^ self.b ^ self.result) & AF != 0,
        }
    }

    /// ZF.
    #[inline]
    pub const fn zero(&self) -> bool {
        match self.kind {
            Kind::Bits => self.bit(ZF),
            Kind::Result | Kind::Add | Kind::Sub => self.result == 0,
        }
    }

    /// SF.
    #[inline]
    pub const fn sign(&self) -> bool {
        match self.kind {
            Kind::Bits => self.bit(SF),
            Kind::Result | Kind::Add | Kind::Sub => top(self.result),
        }
    }

    /// OF.
    #[inline]
    pub const fn overflow(&self) -> bool {
        match self.kind {
            Kind::Bits | Kind::Result => self.bit(OF),
            Kind::Add => top((self.a ^ self.result) & (self.b ^ self.result)),
            Kind::Sub => top((self.a ^ self.b) & (self.a ^ self.result)),
        }
    }

    /// Whether a condition holds.
    #[inline]
    pub const fn holds(&self, condition: Condition) -> bool {
        let code = condition as u8;
        // Conditions come in pairs of one and its opposite.
        let positive = match code >> 1 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.below_or_equal(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.less(),
            _ => self.less_or_equal(),
        };
        positive != (code & 1 != 0)
    }

    /// CF or ZF.
    #[inline]
    const fn below_or_equal(&self) -> bool {
        if let Kind::Sub = self.kind {
            return self.a <= self.b;
        }
        self.carry() || self.zero()
    }

    /// SF differs from OF.
    #[inline]
    const fn less(&self) -> bool {
        if let Kind::Sub = self.kind {
            return (self.a as i64) < (self.b as i64);
        }
        self.sign() != self.overflow()
    }

    /// ZF, or SF differs from OF.
    #[inline]
    const fn less_or_equal(&self) -> bool {
        if let Kind::Sub = self.kind {
            return self.a as i64 <= self.b as i64;
        }
        self.zero() || self.sign() != self.overflow()
    }

    /// The flags in `mask`, a subset of CF, AF and OF, replaced by those of `values`. ZF, SF and PF
    /// stay as lazy as they are.
    #[inline]
    pub(super) const fn with_carries(self, mask: u64, values: u64) -> Self {
        let bits = match self.kind {
            Kind::Bits | Kind::Result => self.bits as u64,
            Kind::Add | Kind::Sub => {
                when(self.carry(), CF) | when(self.auxiliary(), AF) | when(self.overflow(), OF)
            }
        };
        Self {
            result: self.result,
            a: 0,
            b: 0,
            bits: ((bits & !mask) | (values & mask)) as u32,
            kind: match self.kind {
                Kind::Bits => Kind::Bits,
                Kind::Result | Kind::Add | Kind::Sub => Kind::Result,
            },
        }
    }

    /// The same flags but for CF: CLC, STC, CMC and whatever changes CF alone.
    #[inline]
    pub const fn with_carry(self, carry: bool) -> Self {
        self.with_carries(CF, when(carry, CF))
    }

    /// The same flags but for OF.
    #[inline]
    pub const fn with_overflow(self, overflow: bool) -> Self {
        self.with_carries(OF, when(overflow, OF))
    }

    /// The same flags but for ZF: CMPXCHG8B, CMPXCHG16B, LAR, LSL, VERR, VERW, ARPL.
    #[inline]
    pub const fn with_zero(self, zero: bool) -> Self {
        Self::from_rflags((self.status() & !ZF) | when(zero, ZF))
    }

    /// LAHF: what it stores in AH.
    #[inline]
    pub const fn lahf(&self) -> u8 {
        (self.status() & SAHF) as u8 | ALWAYS_ONE
    }

    /// SAHF: all flags but OF from AH.
    #[inline]
    pub const fn sahf(self, ah: u8) -> Self {
        Self::from_rflags((ah as u64 & SAHF) | when(self.overflow(), OF))
    }
}

/// A condition of Jcc, SETcc and CMOVcc, by its number in opcodes (SDM volume 2, appendix B.1.4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Condition {
    /// O: OF.
    O = 0,
    /// NO: not OF.
    No = 1,
    /// B, C, NAE: CF.
    B = 2,
    /// AE, NB, NC: not CF.
    Ae = 3,
    /// E, Z: ZF.
    E = 4,
    /// NE, NZ: not ZF.
    Ne = 5,
    /// BE, NA: CF or ZF.
    Be = 6,
    /// A, NBE: neither CF nor ZF.
    A = 7,
    /// S: SF.
    S = 8,
    /// NS: not SF.
    Ns = 9,
    /// P, PE: PF.
    P = 10,
    /// NP, PO: not PF.
    Np = 11,
    /// L, NGE: SF differs from OF.
    L = 12,
    /// GE, NL: SF equals OF.
    Ge = 13,
    /// LE, NG: ZF, or SF differs from OF.
    Le = 14,
    /// G, NLE: not ZF, and SF equals OF.
    G = 15,
}

impl Condition {
    /// All of them, by code.
    pub const ALL: [Self; 16] = [
        Self::O,
        Self::No,
        Self::B,
        Self::Ae,
        Self::E,
        Self::Ne,
        Self::Be,
        Self::A,
        Self::S,
        Self::Ns,
        Self::P,
        Self::Np,
        Self::L,
        Self::Ge,
        Self::Le,
        Self::G,
    ];

    /// The condition in the low four bits of an opcode.
    #[inline]
    pub const fn from_opcode(opcode: u8) -> Self {
        Self::ALL[(opcode & 15) as usize]
    }
}
