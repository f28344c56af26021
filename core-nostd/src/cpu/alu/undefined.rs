//! Which flags an operation leaves undefined, for whoever compares two processors.
//!
//! Source: Intel SDM volume 2, "Flags Affected" of each instruction. The parent module's table says
//! what they are here.

use super::{AF, CF, OF, PF, SF, STATUS, ZF};

/// AND, OR, XOR, TEST.
pub const LOGIC: u64 = AF;
/// MUL, IMUL.
pub const MULTIPLY: u64 = SF | ZF | AF | PF;
/// DIV, IDIV.
pub const DIVIDE: u64 = STATUS;
/// BSF, BSR; with a source of zero the destination too.
pub const BIT_SCAN: u64 = CF | OF | SF | AF | PF;
/// TZCNT, LZCNT.
pub const COUNT_ZEROS: u64 = OF | SF | AF | PF;
/// BT, BTS, BTR, BTC.
pub const BIT_TEST: u64 = OF | SF | AF | PF;
/// DAA, DAS.
pub const DECIMAL_ADJUST: u64 = OF;
/// AAA, AAS.
pub const ASCII_ADJUST: u64 = OF | SF | ZF | PF;
/// AAM, AAD.
pub const ASCII_BASE: u64 = OF | AF | CF;
/// ANDN, BLSI, BLSMSK, BLSR, BZHI.
pub const BMI: u64 = AF | PF;
/// BEXTR.
pub const BEXTR: u64 = AF | SF | PF;

/// The bits of `count` that count.
const fn masked(width: u32, count: u8) -> u32 {
    count as u32 & if width == 64 { 63 } else { 31 }
}

/// OF where a count is over 1.
const fn overflow(count: u32) -> u64 {
    if count > 1 { OF } else { 0 }
}

/// SAR of `width` bits by an unmasked `count`; its CF is defined for all counts.
pub const fn shift_arithmetic(width: u32, count: u8) -> u64 {
    let count = masked(width, count);
    let auxiliary = if count > 0 { AF } else { 0 };
    auxiliary | overflow(count)
}

/// SHL, SHR of `width` bits by an unmasked `count`.
pub const fn shift(width: u32, count: u8) -> u64 {
    let carry = if masked(width, count) >= width { CF } else { 0 };
    carry | shift_arithmetic(width, count)
}

/// ROL, ROR, RCL, RCR of `width` bits by an unmasked `count`.
pub const fn rotate(width: u32, count: u8) -> u64 {
    overflow(masked(width, count))
}

/// SHLD, SHRD of `width` bits by an unmasked `count`; with a count over the width all flags, and the
/// result too.
pub const fn double_shift(width: u32, count: u8) -> u64 {
    let count = masked(width, count);
    if count > width {
        return STATUS;
    }
    let auxiliary = if count > 0 { AF } else { 0 };
    auxiliary | overflow(count)
}
