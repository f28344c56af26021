//! AES, SHA and multiplication without carries.
//!
//! Source: Intel SDM volume 2 for each instruction; FIPS 197 (AES) and FIPS 180-4 (SHA) for what they
//! are made of. Times depend on data no more than the host's caches make them: one table of 256
//! bytes, reciprocals in AES's field, serves both directions.

use crate::cpu::decode::Packed;

/// Reciprocals in AES's field (FIPS 197, 4.2), and 0 of 0.
static RECIPROCALS: [u8; 256] = {
    let mut table = [0; 256];
    // Powers of 3, which are all elements but 0, and of its reciprocal, F6h, side by side.
    let (mut power, mut reciprocal) = (1u8, 1u8);
    let mut at = 0;
    while at < 255 {
        table[power as usize] = reciprocal;
        power ^= twice(power);
        // Division by 3: F6h times.
        reciprocal = product(reciprocal, 0xf6);
        at += 1;
    }
    table
};

/// Multiplication by x in the field.
const fn twice(a: u8) -> u8 {
    (a << 1) ^ ((a >> 7) * 0x1b)
}

const fn product(mut a: u8, mut b: u8) -> u8 {
    let mut result = 0;
    while b != 0 {
        result ^= a * (b & 1);
        a = twice(a);
        b >>= 1;
    }
    result
}

/// SubBytes (5.1.1): the reciprocal, then an affine transformation.
fn substitute(byte: u8) -> u8 {
    let b = RECIPROCALS[usize::from(byte)];
    let rotated = |count| b.rotate_left(count);
    b ^ rotated(1) ^ rotated(2) ^ rotated(3) ^ rotated(4) ^ 0x63
}

/// InvSubBytes (5.3.2).
fn substitute_back(byte: u8) -> u8 {
    let rotated = |count| byte.rotate_left(count);
    RECIPROCALS[usize::from(rotated(1) ^ rotated(3) ^ rotated(6) ^ 5)]
}

/// ShiftRows and SubBytes, or their inverses. The state is a column after the other; row `r` moves by
/// `r` columns, which makes a byte's place five times, or thirteen times, what it was.
fn shift_and_substitute(state: u128, stride: usize, substitute: fn(u8) -> u8) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(core::array::from_fn(|at| {
        substitute(bytes[at * stride % 16])
    }))
}

/// Bit 0 of each byte.
const ONES: u128 = u128::MAX / 0xff;

/// Multiplies each byte by x.
const fn twice_each(state: u128) -> u128 {
    ((state & (ONES * 0x7f)) << 1) ^ ((state >> 7 & ONES) * 0x1b)
}

/// Moves each column's bytes up by `rows` places, around.
fn rotate_columns(state: u128, rows: u32) -> u128 {
    let low = u128::MAX / 0xffff_ffff * (0xffff_ffff >> (8 * rows));
    state >> (8 * rows) & low | state << (32 - 8 * rows) & !low
}

/// MixColumns (5.1.3).
fn mix(state: u128) -> u128 {
    let doubled = twice_each(state);
    doubled
        ^ rotate_columns(doubled ^ state, 1)
        ^ rotate_columns(state, 2)
        ^ rotate_columns(state, 3)
}

/// InvMixColumns (5.3.3): MixColumns of what 4 times the sum of every other byte is added to.
fn mix_back(state: u128) -> u128 {
    mix(state ^ twice_each(twice_each(state ^ rotate_columns(state, 2))))
}

/// AESKEYGENASSIST: the second and the last word, substituted, and both rotated with a constant.
fn assist(source: u128, constant: u8) -> u128 {
    let word = |at: u32| {
        let bytes = ((source >> at) as u32).to_le_bytes();
        u32::from_le_bytes(bytes.map(substitute))
    };
    let rotated = |word: u32| word.rotate_right(8) ^ u32::from(constant);
    let (second, last) = (word(32), word(96));
    join([second, rotated(second), last, rotated(last)])
}

/// Words, the lowest first.
fn split(value: u128) -> [u32; 4] {
    core::array::from_fn(|at| (value >> (32 * at)) as u32)
}

fn join(words: [u32; 4]) -> u128 {
    words
        .iter()
        .rev()
        .fold(0, |value, word| value << 32 | u128::from(*word))
}

/// Ch (FIPS 180-4, 4.1): bits of `y` where `x` has ones, else of `z`.
const fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

/// Parity.
const fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

/// Maj.
const fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

/// SHA1RNDS4: four rounds of the kind that a constant tells. Words go from the highest down.
fn sha1_rounds(state: u128, words: u128, kind: u8) -> u128 {
    type Mix = fn(u32, u32, u32) -> u32;
    const KINDS: [(Mix, u32); 4] = [
        (choose, 0x5a82_7999),
        (parity, 0x6ed9_eba1),
        (majority, 0x8f1b_bcdc),
        (parity, 0xca62_c1d6),
    ];
    let (mix, constant) = KINDS[usize::from(kind & 3)];
    let [mut d, mut c, mut b, mut a] = split(state);
    // The first word comes with E added.
    let mut e = 0u32;
    for word in split(words).into_iter().rev() {
        let next = mix(b, c, d)
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(word)
            .wrapping_add(e)
            .wrapping_add(constant);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    join([d, c, b, a])
}

/// SHA1MSG2: the last part of four words of the schedule, of which the last needs the first.
fn sha1_schedule(a: u128, b: u128) -> u128 {
    let ([a3, a2, a1, a0], [w15, w14, w13, _]) = (split(a), split(b));
    let w16 = (a0 ^ w13).rotate_left(1);
    let w = [(a3 ^ w16), (a2 ^ w15), (a1 ^ w14)].map(|word| word.rotate_left(1));
    join([w[0], w[1], w[2], w16])
}

/// SHA256RNDS2: two rounds.
fn sha256_rounds(cdgh: u128, abef: u128, words: u128) -> u128 {
    let ([mut h, mut g, mut d, mut c], [mut f, mut e, mut b, mut a]) = (split(cdgh), split(abef));
    for word in &split(words)[..2] {
        let sum = |x: u32, by: [u32; 3]| by.into_iter().fold(0, |sum, by| sum ^ x.rotate_right(by));
        let first = choose(e, f, g)
            .wrapping_add(sum(e, [6, 11, 25]))
            .wrapping_add(*word)
            .wrapping_add(h);
        let second = majority(a, b, c).wrapping_add(sum(a, [2, 13, 22]));
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    join([f, e, b, a])
}

/// The small sigmas of SHA-256: rotated twice, and shifted.
const fn sigma(x: u32, [first, second, shift]: [u32; 3]) -> u32 {
    x.rotate_right(first) ^ x.rotate_right(second) ^ x >> shift
}

/// SHA256MSG1.
fn sha256_schedule_first(a: u128, b: u128) -> u128 {
    let ([w0, w1, w2, w3], w4) = (split(a), b as u32);
    let next = |word: u32, next| word.wrapping_add(sigma(next, [7, 18, 3]));
    join([next(w0, w1), next(w1, w2), next(w2, w3), next(w3, w4)])
}

/// SHA256MSG2: the upper two words need the lower.
fn sha256_schedule_last(a: u128, b: u128) -> u128 {
    let ([w0, w1, w2, w3], [_, _, w14, w15]) = (split(a), split(b));
    let next = |word: u32, before| word.wrapping_add(sigma(before, [17, 19, 10]));
    let (w16, w17) = (next(w0, w14), next(w1, w15));
    join([w16, w17, next(w2, w16), next(w3, w17)])
}

/// PCLMULQDQ: halves by two bits of a constant, multiplied as polynomials over one bit.
fn multiply_without_carries(a: u128, b: u128, by: u8) -> u128 {
    let half = |value: u128, high: bool| (value >> if high { 64 } else { 0 }) as u64;
    let (a, mut b) = (half(a, by & 1 != 0), half(b, by & 0x10 != 0));
    let mut result = 0;
    while b != 0 {
        result ^= u128::from(a) << b.trailing_zeros();
        b &= b - 1;
    }
    result
}

/// What an instruction makes of its operands, its constant and XMM0; `None` if it is not here.
pub(crate) fn compute(name: Packed, a: u128, b: u128, by: u8, xmm0: u128) -> Option<u128> {
    use Packed::*;
    Some(match name {
        Aesenc => mix(shift_and_substitute(a, 5, substitute)) ^ b,
        Aesenclast => shift_and_substitute(a, 5, substitute) ^ b,
        Aesdec => mix_back(shift_and_substitute(a, 13, substitute_back)) ^ b,
        Aesdeclast => shift_and_substitute(a, 13, substitute_back) ^ b,
        Aesimc => mix_back(b),
        Aeskeygenassist => assist(b, by),
        Pclmulqdq => multiply_without_carries(a, b, by),
        Sha1rnds4 => sha1_rounds(a, b, by),
        Sha1nexte => {
            let [low, middle, high, last] = split(b);
            let e = split(a)[3].rotate_left(30);
            join([low, middle, high, last.wrapping_add(e)])
        }
        Sha1msg1 => a ^ (a << 64 | b >> 64),
        Sha1msg2 => sha1_schedule(a, b),
        Sha256rnds2 => sha256_rounds(a, b, xmm0),
        Sha256msg1 => sha256_schedule_first(a, b),
        Sha256msg2 => sha256_schedule_last(a, b),
        _ => return None,
    })
}
