//! Integer arithmetic of the software CPU: results and flags, nothing else.
//!
//! Source: Intel SDM volume 2, the "Operation" and "Flags Affected" of each instruction; AMD64
//! Architecture Programmer's Manual volume 3. What both leave undefined is what a processor does:
//! AMD's family 1Ah, on which the table below was measured. The tests compare every result and flag
//! with the processor that they run on, and on any other family leave those of the table out.
//!
//! Every function is pure. Widths are those of the type: `u8`, `u16`, `u32`, `u64` ([`Word`]). An
//! operation returns its result and the new [`LazyFlags`]; one that keeps or reads flags takes the
//! old ones. Who needs no flags drops them, and the compiler drops their computation.
//!
//! Deliberately not here: operands, registers and memory; which widths an instruction has (all work
//! for all, so a caller must not offer what does not exist); CPUID; exceptions but
//! [`DivideError`].
//!
//! # What the manuals leave undefined
//!
//! | operation | undefined | here |
//! |---|---|---|
//! | AND, OR, XOR, TEST | AF | 0 |
//! | SHL, SHR, SAR, count not 0 | AF | 1 |
//! | SHL, SHR, count the width or more | CF | the last bit shifted out; 0 for a count over the width |
//! | SHL, count over 1 | OF | CF xor the result's highest bit, as for 1 |
//! | SHR, count over 1 | OF | the xor of the result's two highest bits, as for 1: 0 |
//! | SAR, count over 1 | OF | 0, as for 1 |
//! | ROL, RCL, count over 1 | OF | CF xor the result's highest bit, as for 1 |
//! | ROR, RCR, count over 1 | OF | the xor of the result's two highest bits, as for 1 |
//! | SHLD, SHRD, count not 0 | AF | 1 |
//! | SHLD, count over 1 | OF | what SHL of the first operand gives |
//! | SHRD, count over 1 | OF | the xor of the result's two highest bits |
//! | SHLD, SHRD, 16 bits, count over 16 | the result | the second operand follows itself: it comes in twice |
//! | the same | CF, SF, ZF, PF | CF 0, SF, ZF and PF of that result |
//! | MUL, IMUL | SF, ZF, AF, PF | kept |
//! | DIV, IDIV | all | CF and OF kept; AF 1; SF, ZF, PF 0 |
//! | BSF, BSR | CF, OF, SF, AF | 0 |
//! | BSF, BSR | PF | of the index; 1 if the source is 0 |
//! | BSF, BSR, source 0 | the destination | kept, all 64 bits of it (AMD's manual: defined) |
//! | TZCNT, LZCNT | OF | kept |
//! | TZCNT, LZCNT | SF, AF, PF | 0 |
//! | BT, BTS, BTR, BTC | OF, SF, AF, PF | kept |
//! | DAA | OF | set if the highest bit of AL went from 0 to 1 |
//! | DAS | OF | set if the highest bit of AL went from 1 to 0 |
//! | AAA, AAS | OF, SF, ZF, PF | of the addition of 106h or 0 to AX, or its subtraction, before AL loses its high digit |
//! | AAM | OF, AF, CF | 0 |
//! | AAD | OF, AF, CF | of the addition of AL and the product |
//! | ANDN, BLSI, BLSMSK, BLSR, BZHI | AF | 0 |
//! | the same | PF | of the result |
//! | BEXTR | AF | 1 |
//! | BEXTR | SF | 0, even if the result's highest bit is 1 |
//! | BEXTR | PF | of the result |
//! | BSWAP, 16 bits | the result | 0 |
//!
//! [`undefined`] has the same as masks.

mod arithmetic;
mod bits;
mod decimal;
mod flags;
mod shift;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
pub mod undefined;

pub use arithmetic::{
    DivideError, Division, adc, adcx, add, adox, and, cbw, cdqe, cmp, cwde, dec, div, idiv, imul,
    imul_wide, inc, mul_wide, mulx, neg, not, or, sbb, sign_fill, sub, test, xor,
};
pub use bits::{
    andn, bextr, bit_displacement, blsi, blsmsk, blsr, bsf, bsr, bswap, bt, btc, btr, bts, bzhi,
    crc32, lzcnt, movbe, pdep, pext, popcnt, tzcnt,
};
pub use decimal::{aaa, aad, aam, aas, daa, das};
pub use flags::{AF, CF, Condition, LazyFlags, OF, PF, SF, STATUS, ZF};
pub use shift::{rcl, rcr, rol, ror, rorx, sar, sarx, shl, shld, shlx, shr, shrd, shrx};

/// An operand's type: `u8`, `u16`, `u32` or `u64`.
pub trait Word: Copy + Eq + core::fmt::Debug + sealed::Sealed {
    /// Its width.
    const BITS: u32;
    /// The bits of a shift count that count: 31, or 63 for 64-bit operands.
    const COUNT_MASK: u32 = if Self::BITS == 64 { 63 } else { 31 };

    /// The low bits of a value.
    fn truncate(value: u64) -> Self;
    /// The value with zeros above.
    fn zero_extend(self) -> u64;
    /// The value with copies of its highest bit above.
    fn sign_extend(self) -> u64;

    /// Its highest bit.
    #[inline]
    fn top(self) -> bool {
        (self.sign_extend() as i64) < 0
    }
}

mod sealed {
    /// Only this module's types are words: the formulas hold for no other widths.
    pub trait Sealed {}
}

macro_rules! words {
    ($($unsigned:ident $signed:ident),+) => {$(
        impl sealed::Sealed for $unsigned {}

        impl Word for $unsigned {
            const BITS: u32 = $unsigned::BITS;

            #[inline]
            fn truncate(value: u64) -> Self {
                value as $unsigned
            }

            #[inline]
            fn zero_extend(self) -> u64 {
                u64::from(self)
            }

            #[inline]
            fn sign_extend(self) -> u64 {
                i64::from(self as $signed) as u64
            }
        }
    )+};
}

words!(u8 i8, u16 i16, u32 i32, u64 i64);
