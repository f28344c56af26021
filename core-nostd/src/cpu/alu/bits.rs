//! Bit tests, scans and counts, byte swaps, CRC-32C, BMI1 and BMI2.
//!
//! Source: Intel SDM volume 2, the entries of the instructions that the functions are named after.

use super::flags::{even_parity, when};
use super::{AF, CF, LazyFlags, OF, PF, Word, ZF};

/// The flags of BSF and BSR.
#[inline]
fn scanned<W: Word>(index: Option<u64>) -> (Option<W>, LazyFlags) {
    let flags = match index {
        Some(index) => when(even_parity(index), PF),
        None => ZF | PF,
    };
    (index.map(W::truncate), LazyFlags::from_rflags(flags))
}

/// BSF: the index of the lowest one, or `None` if there is none; the destination is kept then, all
/// 64 bits of it whatever the width.
#[inline]
pub fn bsf<W: Word>(source: W) -> (Option<W>, LazyFlags) {
    let source = source.zero_extend();
    scanned((source != 0).then(|| u64::from(source.trailing_zeros())))
}

/// BSR: the index of the highest one, or `None` if there is none; the destination is kept then, all
/// 64 bits of it whatever the width.
#[inline]
pub fn bsr<W: Word>(source: W) -> (Option<W>, LazyFlags) {
    let source = source.zero_extend();
    scanned(source.checked_ilog2().map(u64::from))
}

/// The flags of TZCNT and LZCNT.
#[inline]
fn counted<W: Word>(count: u32, flags: LazyFlags) -> (W, LazyFlags) {
    let flags = when(count == W::BITS, CF) | when(count == 0, ZF) | when(flags.overflow(), OF);
    (W::truncate(u64::from(count)), LazyFlags::from_rflags(flags))
}

/// TZCNT: the number of zeros below the lowest one; the width if there is none.
#[inline]
pub fn tzcnt<W: Word>(source: W, flags: LazyFlags) -> (W, LazyFlags) {
    counted(source.zero_extend().trailing_zeros().min(W::BITS), flags)
}

/// LZCNT: the number of zeros above the highest one; the width if there is none.
#[inline]
pub fn lzcnt<W: Word>(source: W, flags: LazyFlags) -> (W, LazyFlags) {
    let above = 64 - W::BITS;
    counted(source.zero_extend().leading_zeros() - above, flags)
}

/// POPCNT: the number of ones.
#[inline]
pub fn popcnt<W: Word>(source: W) -> (W, LazyFlags) {
    let count = u64::from(source.zero_extend().count_ones());
    (
        W::truncate(count),
        LazyFlags::from_rflags(when(count == 0, ZF)),
    )
}

/// The selected bit as a mask; the index is taken modulo the width.
#[inline]
fn bit<W: Word>(index: W) -> u64 {
    1 << (index.zero_extend() & u64::from(W::BITS - 1))
}

/// BT: CF is the selected bit; the index is taken modulo the width.
#[inline]
pub fn bt<W: Word>(a: W, index: W, flags: LazyFlags) -> LazyFlags {
    flags.with_carry(a.zero_extend() & bit(index) != 0)
}

/// BTS: BT, and sets the bit.
#[inline]
pub fn bts<W: Word>(a: W, index: W, flags: LazyFlags) -> (W, LazyFlags) {
    let result = W::truncate(a.zero_extend() | bit(index));
    (result, bt(a, index, flags))
}

/// BTR: BT, and clears the bit.
#[inline]
pub fn btr<W: Word>(a: W, index: W, flags: LazyFlags) -> (W, LazyFlags) {
    let result = W::truncate(a.zero_extend() & !bit(index));
    (result, bt(a, index, flags))
}

/// BTC: BT, and inverts the bit.
#[inline]
pub fn btc<W: Word>(a: W, index: W, flags: LazyFlags) -> (W, LazyFlags) {
    let result = W::truncate(a.zero_extend() ^ bit(index));
    (result, bt(a, index, flags))
}

/// Where BT and its kin find the bit of a register index in memory: bytes to add to the operand's
/// address, a multiple of the operand's size. An immediate index reaches no further than the operand.
#[inline]
pub fn bit_displacement<W: Word>(index: W) -> i64 {
    let words = index.sign_extend() as i64 >> W::BITS.trailing_zeros();
    words * i64::from(W::BITS / 8)
}

/// MOVBE: the bytes in the opposite order.
#[inline]
pub fn movbe<W: Word>(a: W) -> W {
    W::truncate(a.zero_extend().swap_bytes() >> (64 - W::BITS))
}

/// BSWAP: the bytes in the opposite order; zero with 16-bit operands.
#[inline]
pub fn bswap<W: Word>(a: W) -> W {
    if W::BITS == 16 {
        return W::truncate(0);
    }
    movbe(a)
}

/// The polynomial 11EDC6F41h without its highest bit, in reflected order.
const CRC32C: u32 = 0x82f6_3b78;

/// What four bits do to the checksum.
const CRC32C_NIBBLES: [u32; 16] = {
    let mut table = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let mut crc = nibble as u32;
        let mut step = 0;
        while step < 4 {
            crc = (crc >> 1) ^ if crc & 1 != 0 { CRC32C } else { 0 };
            step += 1;
        }
        table[nibble] = crc;
        nibble += 1;
    }
    table
};

/// CRC32: the checksum `crc` with `data` appended, lowest byte first; no flags.
#[inline]
pub fn crc32<W: Word>(crc: u32, data: W) -> u32 {
    let mut crc = crc;
    let mut data = data.zero_extend();
    for _ in 0..W::BITS / 4 {
        let index = (u64::from(crc) ^ data) & 15;
        crc = (crc >> 4) ^ CRC32C_NIBBLES[index as usize];
        data >>= 4;
    }
    crc
}

/// A result with all flags of it, and CF.
#[inline]
fn with_carry<W: Word>(result: u64, carry: bool) -> (W, LazyFlags) {
    let result = W::truncate(result);
    (
        result,
        LazyFlags::result(result.sign_extend(), when(carry, CF)),
    )
}

/// ANDN: `!a & b`.
#[inline]
pub fn andn<W: Word>(a: W, b: W) -> (W, LazyFlags) {
    super::and(super::not(a), b)
}

/// BEXTR: the bits of `source` from bits 7 to 0 of `control` on, as many as its bits 15 to 8 say.
#[inline]
pub fn bextr<W: Word>(source: W, control: W) -> (W, LazyFlags) {
    let control = control.zero_extend();
    let start = control as u8;
    let length = (control >> 8) as u8;
    let shifted = source
        .zero_extend()
        .checked_shr(u32::from(start))
        .unwrap_or(0);
    let result = low_bits(shifted, length);
    let flags = when(result == 0, ZF) | when(even_parity(result), PF) | AF;
    (W::truncate(result), LazyFlags::from_rflags(flags))
}

/// The lowest `count` bits of `value`.
#[inline]
fn low_bits(value: u64, count: u8) -> u64 {
    let above = u64::MAX.checked_shl(u32::from(count)).unwrap_or(0);
    value & !above
}

/// BLSI: the lowest one alone.
#[inline]
pub fn blsi<W: Word>(source: W) -> (W, LazyFlags) {
    let source = source.zero_extend();
    with_carry(source & source.wrapping_neg(), source != 0)
}

/// BLSMSK: ones up to and with the lowest one.
#[inline]
pub fn blsmsk<W: Word>(source: W) -> (W, LazyFlags) {
    let source = source.zero_extend();
    with_carry(source ^ source.wrapping_sub(1), source == 0)
}

/// BLSR: all but the lowest one.
#[inline]
pub fn blsr<W: Word>(source: W) -> (W, LazyFlags) {
    let source = source.zero_extend();
    with_carry(source & source.wrapping_sub(1), source == 0)
}

/// BZHI: the bits of `source` below the number in bits 7 to 0 of `index`.
#[inline]
pub fn bzhi<W: Word>(source: W, index: W) -> (W, LazyFlags) {
    let index = index.zero_extend() as u8;
    with_carry(
        low_bits(source.zero_extend(), index),
        u32::from(index) >= W::BITS,
    )
}

/// PDEP: the lowest bits of `source`, in order, to the places of the ones in `mask`; no flags.
#[inline]
pub fn pdep<W: Word>(source: W, mask: W) -> W {
    let mut source = source.zero_extend();
    let mut mask = mask.zero_extend();
    let mut result = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & 1 != 0 {
            result |= lowest;
        }
        source >>= 1;
        mask ^= lowest;
    }
    W::truncate(result)
}

/// PEXT: the bits of `source` at the places of the ones in `mask`, packed to the low end; no flags.
#[inline]
pub fn pext<W: Word>(source: W, mask: W) -> W {
    let source = source.zero_extend();
    let mut mask = mask.zero_extend();
    let mut result = 0;
    let mut place = 1u64;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & lowest != 0 {
            result |= place;
        }
        place <<= 1;
        mask ^= lowest;
    }
    W::truncate(result)
}
