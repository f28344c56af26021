//! Addition, subtraction, logic, multiplication, division and sign extension.
//!
//! Source: Intel SDM volume 2, the entries of the instructions that the functions are named after.

use core::fmt;

use super::flags::{top, when};
use super::{AF, CF, LazyFlags, OF, Word};

/// ADD, XADD: `a + b`.
#[inline]
pub fn add<W: Word>(a: W, b: W) -> (W, LazyFlags) {
    sum(a, b, false)
}

/// ADC: `a + b` and the carry of `flags`.
#[inline]
pub fn adc<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags) {
    sum(a, b, flags.carry())
}

#[inline]
fn sum<W: Word>(a: W, b: W, carry: bool) -> (W, LazyFlags) {
    let (a, b) = (a.sign_extend(), b.sign_extend());
    let result = W::truncate(a.wrapping_add(b).wrapping_add(u64::from(carry)));
    (result, LazyFlags::add(a, b, result.sign_extend()))
}

/// SUB: `a - b`.
#[inline]
pub fn sub<W: Word>(a: W, b: W) -> (W, LazyFlags) {
    let (a, b) = (a.sign_extend(), b.sign_extend());
    let result = W::truncate(a.wrapping_sub(b));
    (result, LazyFlags::sub(a, b, result.sign_extend()))
}

/// CMP, CMPS, SCAS, CMPXCHG: the flags of `a - b`. For CMPXCHG `a` is the accumulator and `b` the
/// destination.
#[inline]
pub fn cmp<W: Word>(a: W, b: W) -> LazyFlags {
    sub(a, b).1
}

/// SBB: `a - b` less the borrow of `flags`.
#[inline]
pub fn sbb<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags) {
    let (a, b) = (a.sign_extend(), b.sign_extend());
    let result = W::truncate(a.wrapping_sub(b).wrapping_sub(u64::from(flags.carry())));
    let extended = result.sign_extend();
    // Not the lazy form of SUB: with a borrow, `a` compared with `b` does not tell CF.
    let borrows = (!a & b) | ((!a | b) & extended);
    let overflows = (a ^ b) & (a ^ extended);
    let carries = when(top(borrows), CF) | ((a ^ b ^ extended) & AF) | when(top(overflows), OF);
    (result, LazyFlags::result(extended, carries))
}

/// INC: CF is kept.
#[inline]
pub fn inc<W: Word>(a: W, flags: LazyFlags) -> (W, LazyFlags) {
    let a = a.sign_extend();
    let result = W::truncate(a.wrapping_add(1));
    let extended = result.sign_extend();
    // Overflow is becoming negative; bit 4 changes if bit 3 carries.
    let carries = when(flags.carry(), CF) | ((a ^ extended) & AF) | when(top(!a & extended), OF);
    (result, LazyFlags::result(extended, carries))
}

/// DEC: CF is kept.
#[inline]
pub fn dec<W: Word>(a: W, flags: LazyFlags) -> (W, LazyFlags) {
    let a = a.sign_extend();
    let result = W::truncate(a.wrapping_sub(1));
    let extended = result.sign_extend();
    let carries = when(flags.carry(), CF) | ((a ^ extended) & AF) | when(top(a & !extended), OF);
    (result, LazyFlags::result(extended, carries))
}

/// NEG: `0 - a`.
#[inline]
pub fn neg<W: Word>(a: W) -> (W, LazyFlags) {
    sub(W::truncate(0), a)
}

/// The flags of a logical operation.
#[inline]
fn logic<W: Word>(result: u64) -> (W, LazyFlags) {
    let result = W::truncate(result);
    (result, LazyFlags::logic(result.sign_extend()))
}

/// AND.
#[inline]
pub fn and<W: Word>(a: W, b: W) -> (W, LazyFlags) {
    logic(a.zero_extend() & b.zero_extend())
}

/// OR.
#[inline]
pub fn or<W: Word>(a: W, b: W) -> (W, LazyFlags) {
    logic(a.zero_extend() | b.zero_extend())
}

/// XOR.
#[inline]
pub fn xor<W: Word>(a: W, b: W) -> (W, LazyFlags) {
    logic(a.zero_extend() ^ b.zero_extend())
}

/// TEST: the flags of AND.
#[inline]
pub fn test<W: Word>(a: W, b: W) -> LazyFlags {
    and(a, b).1
}

/// NOT: no flags.
#[inline]
pub fn not<W: Word>(a: W) -> W {
    W::truncate(!a.zero_extend())
}

/// ADCX: `a + b` and CF of `flags`; of the flags only CF changes.
#[inline]
pub fn adcx<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags) {
    let (result, sum) = sum(a, b, flags.carry());
    (result, flags.with_carry(sum.carry()))
}

/// ADOX: `a + b` and OF of `flags` as a carry, whose carry goes to OF; no other flag changes.
#[inline]
pub fn adox<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags) {
    let (result, sum) = sum(a, b, flags.overflow());
    (result, flags.with_overflow(sum.carry()))
}

/// CF and OF of a product: set if its high half says more than its low half.
#[inline]
fn product_flags(flags: LazyFlags, overflow: bool) -> LazyFlags {
    flags.with_carries(CF | OF, when(overflow, CF | OF))
}

/// MULX: the low and the high half of the unsigned product; no flags.
#[inline]
pub fn mulx<W: Word>(a: W, b: W) -> (W, W) {
    let (a, b) = (a.zero_extend(), b.zero_extend());
    if W::BITS < 64 {
        let product = a.wrapping_mul(b);
        (W::truncate(product), W::truncate(product >> W::BITS))
    } else {
        let product = u128::from(a) * u128::from(b);
        (
            W::truncate(product as u64),
            W::truncate((product >> 64) as u64),
        )
    }
}

/// MUL: the low and the high half of the unsigned product.
#[inline]
pub fn mul_wide<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, W, LazyFlags) {
    let (low, high) = mulx(a, b);
    (low, high, product_flags(flags, high.zero_extend() != 0))
}

/// IMUL with one operand: the low and the high half of the signed product.
#[inline]
pub fn imul_wide<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, W, LazyFlags) {
    let (a, b) = (a.sign_extend() as i64, b.sign_extend() as i64);
    let (low, high) = if W::BITS < 64 {
        let product = a.wrapping_mul(b) as u64;
        (W::truncate(product), W::truncate(product >> W::BITS))
    } else {
        let product = i128::from(a) * i128::from(b);
        (
            W::truncate(product as u64),
            W::truncate((product >> 64) as u64),
        )
    };
    (low, high, product_flags(flags, high != sign_fill(low)))
}

/// IMUL with two or three operands: the low half of the signed product.
#[inline]
pub fn imul<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags) {
    let (a, b) = (a.sign_extend() as i64, b.sign_extend() as i64);
    let (product, overflow) = a.overflowing_mul(b);
    let result = W::truncate(product as u64);
    // Products of narrower operands fit in 64 bits.
    let overflow = overflow || result.sign_extend() != product as u64;
    (result, product_flags(flags, overflow))
}

/// #DE: the divisor is zero, or the quotient does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DivideError;

impl fmt::Display for DivideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("divide error: the divisor is zero or the quotient does not fit")
    }
}

impl core::error::Error for DivideError {}

/// What a division gives.
#[derive(Clone, Copy, Debug)]
pub struct Division<W> {
    /// Rounded towards zero: AL, AX, EAX or RAX.
    pub quotient: W,
    /// With the sign of the dividend: AH, DX, EDX or RDX.
    pub remainder: W,
    /// The new flags.
    pub flags: LazyFlags,
}

/// The flags of a division: all undefined; see the module's table.
#[inline]
fn division_flags(flags: LazyFlags) -> LazyFlags {
    LazyFlags::from_rflags(when(flags.carry(), CF) | when(flags.overflow(), OF) | AF)
}

/// DIV: `high:low` by `divisor`, unsigned. `high` is AH, DX, EDX or RDX.
///
/// # Errors
///
/// [`DivideError`], with nothing changed.
#[inline]
pub fn div<W: Word>(
    high: W,
    low: W,
    divisor: W,
    flags: LazyFlags,
) -> Result<Division<W>, DivideError> {
    let (high, low, divisor) = (high.zero_extend(), low.zero_extend(), divisor.zero_extend());
    // The quotient fits exactly if this holds, and it never does for a divisor of zero.
    if high >= divisor {
        return Err(DivideError);
    }
    let (quotient, remainder) = if W::BITS < 64 {
        let dividend = (high << W::BITS) | low;
        (dividend / divisor, dividend % divisor)
    } else if high == 0 {
        (low / divisor, low % divisor)
    } else {
        let dividend = (u128::from(high) << 64) | u128::from(low);
        let divisor = u128::from(divisor);
        ((dividend / divisor) as u64, (dividend % divisor) as u64)
    };
    Ok(Division {
        quotient: W::truncate(quotient),
        remainder: W::truncate(remainder),
        flags: division_flags(flags),
    })
}

/// IDIV: `high:low` by `divisor`, signed. `high` is AH, DX, EDX or RDX.
///
/// # Errors
///
/// [`DivideError`], with nothing changed.
#[inline]
pub fn idiv<W: Word>(
    high: W,
    low: W,
    divisor: W,
    flags: LazyFlags,
) -> Result<Division<W>, DivideError> {
    let divisor = divisor.sign_extend() as i64;
    let fits_64 = W::BITS < 64 || high == sign_fill(low);
    let (quotient, remainder) = if fits_64 {
        let dividend = if W::BITS < 64 {
            ((high.sign_extend() << W::BITS) | low.zero_extend()) as i64
        } else {
            low.sign_extend() as i64
        };
        (
            dividend.checked_div(divisor).ok_or(DivideError)?,
            dividend.checked_rem(divisor).ok_or(DivideError)?,
        )
    } else {
        let dividend =
            (i128::from(high.sign_extend() as i64) << 64) | i128::from(low.zero_extend());
        let divisor = i128::from(divisor);
        let quotient = dividend.checked_div(divisor).ok_or(DivideError)?;
        let remainder = dividend.checked_rem(divisor).ok_or(DivideError)?;
        (
            i64::try_from(quotient).map_err(|_| DivideError)?,
            // Smaller than the divisor.
            remainder as i64,
        )
    };
    let narrow = W::truncate(quotient as u64);
    if narrow.sign_extend() != quotient as u64 {
        return Err(DivideError);
    }
    Ok(Division {
        quotient: narrow,
        remainder: W::truncate(remainder as u64),
        flags: division_flags(flags),
    })
}

/// CBW: AL to AX.
#[inline]
pub const fn cbw(al: u8) -> u16 {
    al as i8 as u16
}

/// CWDE: AX to EAX; also MOVSX.
#[inline]
pub const fn cwde(ax: u16) -> u32 {
    ax as i16 as u32
}

/// CDQE: EAX to RAX; also MOVSXD.
#[inline]
pub const fn cdqe(eax: u32) -> u64 {
    eax as i32 as u64
}

/// CWD, CDQ, CQO: what goes to DX, EDX or RDX, all copies of the highest bit of `a`.
#[inline]
pub fn sign_fill<W: Word>(a: W) -> W {
    W::truncate((a.sign_extend() as i64 >> 63) as u64)
}
