//! SSE up to SSE4.2, AES, SHA, PCLMULQDQ: results of published examples, and sums over many operands.
//!
//! SHA-256 is computed without its instructions where there are none: its digest is the same.
#![no_std]
#![no_main]

use core::arch::x86_64::*;
use core::hint::black_box;

use thimble_firmware::{power, say};

thimble_firmware::image!(main);

/// A register as a number.
fn number(register: __m128i) -> u128 {
    // SAFETY: both are 16 bytes of which each value is one.
    unsafe { core::mem::transmute(register) }
}

/// A number as a register.
fn register(number: u128) -> __m128i {
    // SAFETY: as above.
    unsafe { core::mem::transmute(number) }
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn register(&mut self) -> __m128i {
        register(u128::from(self.next()) << 64 | u128::from(self.next()))
    }
}

/// FIPS 197, appendix C.1.
#[target_feature(enable = "aes,sse4.1")]
fn aes() {
    let mut keys = [register(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100); 11];
    macro_rules! expand {
        ($($round:literal $constant:literal)*) => {$(
            let key = keys[$round - 1];
            let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
            let key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
            let last = _mm_aeskeygenassist_si128::<$constant>(keys[$round - 1]);
            keys[$round] = _mm_xor_si128(key, _mm_shuffle_epi32::<0xff>(last));
        )*};
    }
    expand! { 1 1 2 2 3 4 4 8 5 16 6 32 7 64 8 128 9 0x1b 10 0x36 }
    say!(
        "AES-128 last round key {:032x}",
        number(keys[10]).swap_bytes()
    );
    let mut block = register(0xffee_ddcc_bbaa_9988_7766_5544_3322_1100);
    block = _mm_xor_si128(block, keys[0]);
    for key in &keys[1..10] {
        block = _mm_aesenc_si128(block, *key);
    }
    block = _mm_aesenclast_si128(block, keys[10]);
    say!("AES-128 cipher {:032x}", number(block).swap_bytes());
    block = _mm_xor_si128(block, keys[10]);
    for key in keys[1..10].iter().rev() {
        block = _mm_aesdec_si128(block, _mm_aesimc_si128(*key));
    }
    block = _mm_aesdeclast_si128(block, keys[0]);
    say!("AES-128 plain {:032x}", number(block).swap_bytes());
}

/// The round constants of SHA-256: fractions of the cube roots of the first primes (FIPS 180-4, 4.2.2).
const K: [u32; 64] = {
    let mut constants = [0; 64];
    let (mut found, mut candidate) = (0, 2u128);
    while found < 64 {
        let mut divisor = 2;
        while candidate % divisor != 0 {
            divisor += 1;
        }
        if divisor == candidate {
            // The cube root times 2^32, bit by bit; below 7 * 2^32.
            let (mut root, mut bit) = (0u128, 1 << 35);
            while bit != 0 {
                let more: u128 = root | bit;
                if more * more * more <= candidate << 96 {
                    root = more;
                }
                bit >>= 1;
            }
            constants[found] = root as u32;
            found += 1;
        }
        candidate += 1;
    }
    constants
};

/// The state before the first block (5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// One block without the instructions.
fn sha256_plain(block: &[u32; 16]) -> [u32; 8] {
    let mut w = [0u32; 64];
    w[..16].copy_from_slice(block);
    for at in 16..64 {
        let first = w[at - 15].rotate_right(7) ^ w[at - 15].rotate_right(18) ^ w[at - 15] >> 3;
        let second = w[at - 2].rotate_right(17) ^ w[at - 2].rotate_right(19) ^ w[at - 2] >> 10;
        w[at] = w[at - 16]
            .wrapping_add(first)
            .wrapping_add(w[at - 7])
            .wrapping_add(second);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = START;
    for (word, constant) in w.into_iter().zip(K) {
        let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let first = h
            .wrapping_add(sum)
            .wrapping_add(e & f ^ !e & g)
            .wrapping_add(constant)
            .wrapping_add(word);
        let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = sum.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e, d, c, b) = (g, f, e, d.wrapping_add(first), c, b, a);
        a = first.wrapping_add(second);
    }
    let end = [a, b, c, d, e, f, g, h];
    core::array::from_fn(|at| START[at].wrapping_add(end[at]))
}

/// Words as a register, the first in the highest place.
fn words(words: [u32; 4]) -> __m128i {
    register(
        words
            .iter()
            .fold(0, |all, word| all << 32 | u128::from(*word)),
    )
}

/// One block with the instructions.
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn sha256(block: &[u32; 16]) -> [u32; 8] {
    let mut w: [__m128i; 4] =
        core::array::from_fn(|at| words(core::array::from_fn(|i| block[4 * at + 3 - i])));
    let [a, b, c, d, e, f, g, h] = START;
    let (mut abef, mut cdgh) = (words([a, b, e, f]), words([c, d, g, h]));
    for round in 0..16 {
        let constants = words(core::array::from_fn(|i| K[4 * round + 3 - i]));
        let sum = _mm_add_epi32(w[0], constants);
        let next = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        (cdgh, abef) = (abef, next);
        let next = _mm_sha256rnds2_epu32(cdgh, abef, _mm_shuffle_epi32::<0x0e>(sum));
        (cdgh, abef) = (abef, next);
        let early = _mm_sha256msg1_epu32(w[0], w[1]);
        let early = _mm_add_epi32(early, _mm_alignr_epi8::<4>(w[3], w[2]));
        w = [w[1], w[2], w[3], _mm_sha256msg2_epu32(early, w[3])];
    }
    let [f, e, b, a] = split(abef);
    let [h, g, d, c] = split(cdgh);
    let end = [a, b, c, d, e, f, g, h];
    core::array::from_fn(|at| START[at].wrapping_add(end[at]))
}

/// Words of a register, the lowest first.
fn split(register: __m128i) -> [u32; 4] {
    core::array::from_fn(|at| (number(register) >> (32 * at)) as u32)
}

/// FIPS 180-4's example of one block: "abc".
fn sha() {
    let mut block = [0; 16];
    (block[0], block[15]) = (u32::from_be_bytes(*b"abc\x80"), 24);
    let digest = if __cpuid_count(7, 0).ebx >> 29 & 1 != 0 {
        // SAFETY: the processor has just said that it has it.
        unsafe { sha256(&block) }
    } else {
        sha256_plain(&block)
    };
    let plain = sha256_plain(&block);
    say!(
        "SHA-256 {:08x?}, the same by other means: {}",
        digest,
        digest == plain
    );
}

/// CRC-32C's check value; a string's length; a word's place; a product without carries; a population.
#[target_feature(enable = "sse4.2,pclmulqdq,popcnt")]
fn text_and_bits() {
    let crc = b"123456789"
        .iter()
        .fold(u32::MAX, |crc, byte| _mm_crc32_u8(crc, *byte));
    say!("CRC-32C {:08x}", !crc);
    let text = *b"a string of twenty-six letters\0\0";
    let load = |at: usize| register(u128::from_le_bytes(core::array::from_fn(|i| text[at + i])));
    let zeros = register(0);
    let mut length = 0;
    for at in [0, 16] {
        const EACH: i32 = _SIDD_CMP_EQUAL_EACH;
        let part = black_box(load(at));
        length += _mm_cmpistri::<EACH>(zeros, part);
        if _mm_cmpistrz::<EACH>(zeros, part) != 0 {
            break;
        }
    }
    say!("string of {length}");
    let word = register(u128::from_le_bytes(*b"twenty\0\0\0\0\0\0\0\0\0\0"));
    say!(
        "word at {} and {}, of 3 letters at {}",
        _mm_cmpistri::<_SIDD_CMP_EQUAL_ORDERED>(word, load(8)),
        _mm_cmpistri::<_SIDD_CMP_EQUAL_ORDERED>(word, load(0)),
        _mm_cmpestri::<_SIDD_CMP_EQUAL_ORDERED>(word, 3, load(8), 16),
    );
    let ranges = register(u128::from_le_bytes(*b"azAZ09\0\0\0\0\0\0\0\0\0\0"));
    say!(
        "letters {:032x} {:04x}",
        number(_mm_cmpistrm::<{ _SIDD_CMP_RANGES | _SIDD_UNIT_MASK }>(
            ranges,
            load(16)
        )),
        number(_mm_cmpistrm::<
            { _SIDD_CMP_RANGES | _SIDD_MASKED_NEGATIVE_POLARITY },
        >(ranges, load(16))),
    );
    let (a, b) = (
        register(0x7b5b_5465_7374_5665_6374_6f72_5d53_475d),
        register(0x4869_2853_6861_7929_5b47_7565_726f_6e5d),
    );
    say!(
        "products {:032x} {:032x}",
        number(_mm_clmulepi64_si128::<0x00>(a, b)),
        number(_mm_clmulepi64_si128::<0x11>(a, b)),
    );
    say!("population {}", _popcnt64(black_box(0x0123_4567_89ab_cdef)));
}

/// Sums of results over many operands, a line for each instruction.
#[target_feature(enable = "sse4.2,aes,pclmulqdq")]
fn sums() {
    macro_rules! sums {
        ($a:ident $b:ident $c:ident; $($name:ident $(::<$by:literal>)? ($($operand:tt),+);)*) => {$({
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
            let mut sum = 0u128;
            for _ in 0..64 {
                let ($a, $b) = (numbers.register(), numbers.register());
                // Half of them is equal at times.
                let equal = if number($b) & 1 == 0 { u64::MAX } else { 0xffff_0000_ff00 };
                let $b = register(number($b) & !u128::from(equal) | number($a) & u128::from(equal));
                let $c = numbers.register();
                let _ = ($b, $c);
                let result = $name$(::<$by>)?($($operand),+);
                sum = sum.rotate_left(5) ^ number(result);
            }
            say!("{} {:032x}", stringify!($name), sum);
        })*};
    }
    sums! {
        a b c;
        _mm_shuffle_epi8(a, b);
        _mm_hadd_epi16(a, b);
        _mm_hsubs_epi16(a, b);
        _mm_maddubs_epi16(a, b);
        _mm_mulhrs_epi16(a, b);
        _mm_sign_epi32(a, b);
        _mm_abs_epi8(a);
        _mm_alignr_epi8::<5>(a, b);
        _mm_mullo_epi32(a, b);
        _mm_mul_epi32(a, b);
        _mm_min_epi8(a, b);
        _mm_max_epi8(a, b);
        _mm_min_epu16(a, b);
        _mm_max_epu16(a, b);
        _mm_min_epi32(a, b);
        _mm_max_epu32(a, b);
        _mm_packus_epi32(a, b);
        _mm_cmpeq_epi64(a, b);
        _mm_cmpgt_epi64(a, b);
        _mm_blend_epi16::<0x5a>(a, b);
        _mm_blendv_epi8(a, b, c);
        _mm_mpsadbw_epu8::<6>(a, b);
        _mm_minpos_epu16(a);
        _mm_cvtepi8_epi64(a);
        _mm_cvtepu16_epi32(a);
        _mm_sad_epu8(a, b);
        _mm_madd_epi16(a, b);
        _mm_packs_epi32(a, b);
        _mm_unpackhi_epi16(a, b);
        _mm_aesenc_si128(a, b);
        _mm_aesdec_si128(a, b);
        _mm_clmulepi64_si128::<0x10>(a, b);
        _mm_cmpestrm::<0x49>(a, 7, b, 9);
    }
    let mut numbers = Numbers(1);
    let tests = (0..64).fold(0u64, |tests, _| {
        let (a, b) = (numbers.register(), numbers.register());
        let b = match number(b) & 3 {
            0 => _mm_and_si128(a, b),
            1 => _mm_andnot_si128(a, b),
            _ => b,
        };
        tests << 1 ^ (_mm_testc_si128(a, b) | _mm_testz_si128(a, b) << 1) as u64
    });
    say!("_mm_test {tests:016x}");
}

/// Arithmetic in both precisions.
fn floats() {
    let (a, b) = (black_box(1.0f64), black_box(3.0f64));
    say!(
        "doubles {:016x} {:016x} {:016x}",
        (a / b).to_bits(),
        (a + a / b).to_bits(),
        (b * b - a / b).to_bits()
    );
    let root: f64;
    // SAFETY: two registers.
    unsafe { core::arch::asm!("sqrtsd {}, {}", out(xmm_reg) root, in(xmm_reg) b) };
    say!("root {:016x}", root.to_bits());
    let (a, b) = (black_box(1.0f32), black_box(10.0f32));
    say!(
        "singles {:08x} {:08x} {:08x}",
        (a / b).to_bits(),
        (b - a / b).to_bits(),
        (b as f64 as f32 * a).to_bits()
    );
    say!(
        "whole {} {}",
        black_box(-2.5f64) as i64,
        black_box(1e9f32) as i32
    );
}

fn main() -> ! {
    floats();
    // SAFETY: the processor is one that has all of it.
    unsafe {
        aes();
        text_and_bits();
        sums();
    }
    sha();
    power::end(power::DONE)
}
