//! Shifts and rotates.
//!
//! Source: Intel SDM volume 2, "SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", "SHLD", "SHRD", "RORX",
//! "SARX/SHLX/SHRX". Counts are as the instruction has them (CL, an immediate): they are masked to
//! five bits here, six for 64-bit operands. A masked count of zero changes no flag.

use super::flags::when;
use super::{AF, CF, LazyFlags, OF, Word};

/// `value << count`, zero from 64 on.
#[inline]
fn left(value: u64, count: u32) -> u64 {
    value.checked_shl(count).unwrap_or(0)
}

/// `value >> count`, zero from 64 on.
#[inline]
fn right(value: u64, count: u32) -> u64 {
    value.checked_shr(count).unwrap_or(0)
}

/// The bit of `a` that SHL by `count` puts in CF; none if it was shifted in.
#[inline]
fn left_carry<W: Word>(a: W, count: u32) -> bool {
    // Over the width, the difference wraps to far above 64.
    right(a.zero_extend(), W::BITS.wrapping_sub(count)) & 1 != 0
}

/// Whether the two highest bits differ: OF of shifts and rotates to the right.
#[inline]
fn top_bits_differ<W: Word>(result: W) -> bool {
    let result = result.zero_extend();
    ((result >> (W::BITS - 1)) ^ (result >> (W::BITS - 2))) & 1 != 0
}

/// The flags of shifts: CF and OF as given, AF set, the rest of the result.
#[inline]
fn shifted<W: Word>(result: W, carry: bool, overflow: bool) -> (W, LazyFlags) {
    let carries = when(carry, CF) | when(overflow, OF) | AF;
    (result, LazyFlags::result(result.sign_extend(), carries))
}

/// SHL, SAL.
#[inline]
pub fn shl<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    let result = W::truncate(a.zero_extend() << count);
    let carry = left_carry(a, count);
    shifted(result, carry, carry != result.top())
}

/// SHR.
#[inline]
pub fn shr<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    // All but the last bit; that one goes to CF.
    let shifting = a.zero_extend() >> (count - 1);
    let result = W::truncate(shifting >> 1);
    shifted(result, shifting & 1 != 0, top_bits_differ(result))
}

/// SAR.
#[inline]
pub fn sar<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    let shifting = a.sign_extend() as i64 >> (count - 1);
    let result = W::truncate((shifting >> 1) as u64);
    shifted(result, shifting & 1 != 0, false)
}

/// `a` rotated to the left by `count`, which is below the width.
#[inline]
fn rotate_left<W: Word>(a: W, count: u32) -> W {
    let a = a.zero_extend();
    W::truncate(left(a, count) | right(a, W::BITS - count))
}

/// ROL.
#[inline]
pub fn rol<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    let result = rotate_left(a, count % W::BITS);
    let carry = result.zero_extend() & 1 != 0;
    rotated(result, carry, carry != result.top(), flags)
}

/// ROR.
#[inline]
pub fn ror<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    let result = rorx(a, count as u8);
    rotated(result, result.top(), top_bits_differ(result), flags)
}

/// The flags of rotates: CF and OF, the others kept.
#[inline]
fn rotated<W: Word>(result: W, carry: bool, overflow: bool, flags: LazyFlags) -> (W, LazyFlags) {
    let carries = when(carry, CF) | when(overflow, OF);
    (result, flags.with_carries(CF | OF, carries))
}

/// RCL: a rotate through CF, so of one bit more than the width.
#[inline]
pub fn rcl<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let masked = u32::from(count) & W::COUNT_MASK;
    if masked == 0 {
        return (a, flags);
    }
    let count = masked % (W::BITS + 1);
    let (result, carry) = rotate_carry(a, flags.carry(), count);
    rotated(result, carry, carry != result.top(), flags)
}

/// RCR: a rotate through CF, so of one bit more than the width.
#[inline]
pub fn rcr<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let masked = u32::from(count) & W::COUNT_MASK;
    if masked == 0 {
        return (a, flags);
    }
    let count = W::BITS + 1 - masked % (W::BITS + 1);
    let (result, carry) = rotate_carry(a, flags.carry(), count % (W::BITS + 1));
    rotated(result, carry, top_bits_differ(result), flags)
}

/// Rotates `carry` with `a` below it to the left by `count`, 0 to the width.
#[inline]
fn rotate_carry<W: Word>(a: W, carry: bool, count: u32) -> (W, bool) {
    if count == 0 {
        return (a, carry);
    }
    let value = a.zero_extend();
    let result =
        left(value, count) | left(u64::from(carry), count - 1) | right(value, W::BITS + 1 - count);
    (W::truncate(result), left_carry(a, count))
}

/// SHLD: `a` shifted to the left, with the high bits of `b` coming in.
#[inline]
pub fn shld<W: Word>(a: W, b: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    let kept = W::truncate(left(a.zero_extend(), count));
    // Only 16-bit operands have counts over their width: then `b` follows itself.
    let coming = if count <= W::BITS {
        right(b.zero_extend(), W::BITS - count)
    } else {
        rotate_left(b, count - W::BITS).zero_extend()
    };
    let carry = left_carry(a, count);
    let result = W::truncate(kept.zero_extend() | coming);
    shifted(result, carry, carry != kept.top())
}

/// SHRD: `a` shifted to the right, with the low bits of `b` coming in.
#[inline]
pub fn shrd<W: Word>(a: W, b: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
    let count = u32::from(count) & W::COUNT_MASK;
    if count == 0 {
        return (a, flags);
    }
    let shifting = a.zero_extend() >> (count - 1);
    let coming = if count <= W::BITS {
        left(b.zero_extend(), W::BITS - count)
    } else {
        rorx(b, (count - W::BITS) as u8).zero_extend()
    };
    let result = W::truncate((shifting >> 1) | coming);
    shifted(result, shifting & 1 != 0, top_bits_differ(result))
}

/// RORX: a rotate to the right without flags.
#[inline]
pub fn rorx<W: Word>(a: W, count: u8) -> W {
    let count = u32::from(count) & W::COUNT_MASK;
    rotate_left(a, W::BITS.wrapping_sub(count) % W::BITS)
}

/// SHLX: SHL without flags, the count in a register.
#[inline]
pub fn shlx<W: Word>(a: W, count: W) -> W {
    shl(a, count.zero_extend() as u8, LazyFlags::default()).0
}

/// SHRX: SHR without flags, the count in a register.
#[inline]
pub fn shrx<W: Word>(a: W, count: W) -> W {
    shr(a, count.zero_extend() as u8, LazyFlags::default()).0
}

/// SARX: SAR without flags, the count in a register.
#[inline]
pub fn sarx<W: Word>(a: W, count: W) -> W {
    sar(a, count.zero_extend() as u8, LazyFlags::default()).0
}
