//! Decimal and ASCII adjustment: DAA, DAS, AAA, AAS, AAM, AAD.
//!
//! Source: Intel SDM volume 2, the entries of these instructions. None of them exists in 64-bit mode.

use super::flags::when;
use super::{AF, CF, DivideError, LazyFlags, OF, Word};

/// Whether the low digit is over nine or carried, which asks for an adjustment.
#[inline]
fn low_digit_over(al: u8, flags: LazyFlags) -> bool {
    al & 15 > 9 || flags.auxiliary()
}

/// DAA: AL after an addition of packed decimal numbers.
pub fn daa(al: u8, flags: LazyFlags) -> (u8, LazyFlags) {
    let low = low_digit_over(al, flags);
    let high = al > 0x99 || flags.carry();
    let result = al.wrapping_add(adjustment(low, high));
    decimal(result, low, high, !al & result)
}

/// DAS: AL after a subtraction of packed decimal numbers.
pub fn das(al: u8, flags: LazyFlags) -> (u8, LazyFlags) {
    let low = low_digit_over(al, flags);
    let high = al > 0x99 || flags.carry();
    let result = al.wrapping_sub(adjustment(low, high));
    // The low digit's adjustment may borrow where the high digit needs none.
    let carry = high || (low && al < 6);
    decimal(result, low, carry, al & !result)
}

#[inline]
fn adjustment(low: bool, high: bool) -> u8 {
    (if low { 6 } else { 0 }) + (if high { 0x60 } else { 0 })
}

/// `overflow` in the highest bit of its argument.
#[inline]
fn decimal(result: u8, low: bool, high: bool, overflow: u8) -> (u8, LazyFlags) {
    let carries = when(low, AF) | when(high, CF) | when(overflow >> 7 != 0, OF);
    (result, LazyFlags::result(result.sign_extend(), carries))
}

/// AAA: AX after an addition of unpacked decimal numbers.
pub fn aaa(ax: u16, flags: LazyFlags) -> (u16, LazyFlags) {
    let adjust = low_digit_over(ax as u8, flags);
    unpacked(super::add(ax, one_and_six(adjust)), adjust)
}

/// AAS: AX after a subtraction of unpacked decimal numbers.
pub fn aas(ax: u16, flags: LazyFlags) -> (u16, LazyFlags) {
    let adjust = low_digit_over(ax as u8, flags);
    unpacked(super::sub(ax, one_and_six(adjust)), adjust)
}

/// One in AH and six in AL: a carry out of AL goes to AH as well.
#[inline]
fn one_and_six(adjust: bool) -> u16 {
    if adjust { 0x106 } else { 0 }
}

/// One digit of AL, and the flags of the adjustment of AX.
#[inline]
fn unpacked((ax, flags): (u16, LazyFlags), adjust: bool) -> (u16, LazyFlags) {
    let carries = when(adjust, AF | CF);
    (ax & 0xff0f, flags.with_carries(AF | CF, carries))
}

/// AAM: AX from AL, its quotient by `base` in AH and its remainder in AL.
///
/// # Errors
///
/// [`DivideError`] if `base` is zero.
pub fn aam(al: u8, base: u8) -> Result<(u16, LazyFlags), DivideError> {
    let quotient = al.checked_div(base).ok_or(DivideError)?;
    let remainder = al.checked_rem(base).ok_or(DivideError)?;
    Ok((
        u16::from_le_bytes([remainder, quotient]),
        LazyFlags::logic(remainder.sign_extend()),
    ))
}

/// AAD: AX from its two digits, AH by `base` added to AL; AH becomes zero.
pub fn aad(ax: u16, base: u8) -> (u16, LazyFlags) {
    let [al, ah] = ax.to_le_bytes();
    let (result, flags) = super::add(al, ah.wrapping_mul(base));
    (u16::from(result), flags)
}
