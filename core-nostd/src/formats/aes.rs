//! AES-256 in CBC mode with PKCS#7 padding: how a secret is encrypted with another one.
//!
//! Source: FIPS 197 (the cipher), NIST SP 800-38A 6.2 (CBC), RFC 5652 6.3 (the padding). The rounds are those of the software CPU's
//! AES instructions, put together as Intel's white paper on them does, so there is no second cipher here. Only decryption: nothing
//! encrypts. Times depend on data as far as the host's caches make them, see there; who could measure them shares the host with a
//! process that has the secrets anyway.

use crate::cpu::decode::Packed;
use crate::cpu::soft::packed::crypto::compute;

/// Bytes of a block, and of an initialization vector.
pub const BLOCK: usize = 16;

/// Bytes of a key.
pub const KEY: usize = 32;

/// Keys of the rounds: fourteen, and one before them.
const ROUND_KEYS: usize = 15;

/// What an instruction makes of its operands. Those that are asked for here are there.
fn instruction(name: Packed, a: u128, b: u128, constant: u8) -> u128 {
    compute(name, a, b, constant, 0).unwrap_or_default()
}

/// The same word four times.
fn everywhere(word: u32) -> u128 {
    u128::from(word) * (u128::MAX / 0xffff_ffff)
}

/// Each word added to all above it.
fn sums(words: u128) -> u128 {
    let pairs = words ^ words << 32;
    pairs ^ pairs << 64
}

/// The key expansion (5.2): rounds take the two halves in turn.
fn round_keys(key: &[u8; KEY]) -> [u128; ROUND_KEYS] {
    let (mut even, mut odd) = (0, 0);
    let mut keys = [0; ROUND_KEYS];
    for (round, to) in keys.iter_mut().enumerate() {
        let half = |at: usize| {
            let mut half = [0; BLOCK];
            half.copy_from_slice(&key[at..at + BLOCK]);
            u128::from_le_bytes(half)
        };
        *to = match round {
            0 => {
                even = half(0);
                even
            }
            1 => {
                odd = half(BLOCK);
                odd
            }
            _ if round % 2 == 0 => {
                // Substituted, rotated, and with a power of x added.
                let assisted = instruction(Packed::Aeskeygenassist, 0, odd, 1 << (round / 2 - 1));
                even = sums(even) ^ everywhere((assisted >> 96) as u32);
                even
            }
            _ => {
                // Substituted only.
                let assisted = instruction(Packed::Aeskeygenassist, 0, even, 0);
                odd = sums(odd) ^ everywhere((assisted >> 64) as u32);
                odd
            }
        };
    }
    keys
}

/// The equivalent inverse cipher (5.3.5) on one block.
fn decrypt_block(keys: &[u128; ROUND_KEYS], block: u128) -> u128 {
    let [first, middle @ .., last] = keys;
    let state = middle.iter().rev().fold(block ^ last, |state, key| {
        let key = instruction(Packed::Aesimc, 0, *key, 0);
        instruction(Packed::Aesdec, state, key, 0)
    });
    instruction(Packed::Aesdeclast, state, *first, 0)
}

/// Why there is nothing to decrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AesError {
    /// The length is no multiple of [`BLOCK`].
    Length,
    /// The padding, which ends with this byte, is wrong: most likely, the key or the vector is.
    Padding(u8),
}

/// Decrypts in place and returns how many bytes of it are the plaintext.
///
/// # Errors
/// [`AesError`]; the bytes are of no use then.
pub fn decrypt_cbc(
    key: &[u8; KEY],
    vector: &[u8; BLOCK],
    data: &mut [u8],
) -> Result<usize, AesError> {
    let (blocks, []) = data.as_chunks_mut::<BLOCK>() else {
        return Err(AesError::Length);
    };
    let keys = round_keys(key);
    let mut before = u128::from_le_bytes(*vector);
    for block in blocks {
        let encrypted = u128::from_le_bytes(*block);
        *block = (decrypt_block(&keys, encrypted) ^ before).to_le_bytes();
        before = encrypted;
    }
    let padding = data.last().copied().unwrap_or_default();
    let length = data.len().checked_sub(padding.into());
    let whole = |length: &usize| {
        let padded = data.get(*length..).unwrap_or_default();
        padding != 0 && usize::from(padding) <= BLOCK && padded.iter().all(|b| *b == padding)
    };
    length.filter(whole).ok_or(AesError::Padding(padding))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of SP 800-38A's examples of AES-256.
    const EXAMPLE: [u8; KEY] = [
        0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77,
        0x81, 0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14,
        0xdf, 0xf4,
    ];

    #[test]
    fn keys_expand_as_fips_197_shows() {
        let keys = round_keys(&EXAMPLE);
        // A.3: w[8], w[12] and w[59].
        assert_eq!((keys[2] as u32).swap_bytes(), 0x9ba3_5411);
        assert_eq!((keys[3] as u32).swap_bytes(), 0xa8b0_9c1a);
        assert_eq!(((keys[14] >> 96) as u32).swap_bytes(), 0x706c_631e);
    }

    #[test]
    fn blocks_are_those_of_the_examples() {
        // FIPS 197 C.3.
        let key = core::array::from_fn(|at| at as u8);
        let plain: [u8; BLOCK] = core::array::from_fn(|at| at as u8 * 0x11);
        let encrypted = 0x8ea2_b7ca_5167_45bf_eafc_4990_4b49_6089_u128.swap_bytes();
        let decrypted = decrypt_block(&round_keys(&key), encrypted);
        assert_eq!(decrypted.to_le_bytes(), plain);
        // SP 800-38A F.2.6, the first two blocks, which have no padding.
        let vector = core::array::from_fn(|at| at as u8);
        let mut data = [0; 2 * BLOCK];
        data[..BLOCK]
            .copy_from_slice(&0xf58c_4c04_d6e5_f1ba_779e_abfb_5f7b_fbd6_u128.to_be_bytes());
        data[BLOCK..]
            .copy_from_slice(&0x9cfc_4e96_7edb_808d_679f_777b_c670_2c7d_u128.to_be_bytes());
        let error = decrypt_cbc(&EXAMPLE, &vector, &mut data);
        assert_eq!(error, Err(AesError::Padding(0x51)));
        let first = 0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172a_u128;
        let second = 0xae2d_8a57_1e03_ac9c_9eb7_6fac_45af_8e51_u128;
        assert_eq!(data[..BLOCK], first.to_be_bytes());
        assert_eq!(data[BLOCK..], second.to_be_bytes());
    }

    #[test]
    fn padding_is_taken_off_or_refused() {
        // "secret", encrypted by OpenSSL with the key 00h to 1Fh and the vector 00h to 0Fh.
        let key = core::array::from_fn(|at| at as u8);
        let vector = core::array::from_fn(|at| at as u8);
        let mut data = 0xe87e_46f8_9e7d_4d94_0c76_5909_1f5f_1e93_u128.to_be_bytes();
        assert_eq!(decrypt_cbc(&key, &vector, &mut data), Ok(6));
        assert_eq!(&data[..6], b"secret");
        let mut data = [b'0'; 2 * BLOCK];
        let wrong = decrypt_cbc(&key, &vector, &mut data);
        assert_eq!(wrong, Err(AesError::Padding(243)));
        assert_eq!(
            decrypt_cbc(&key, &vector, &mut [0; 8]),
            Err(AesError::Length)
        );
        assert_eq!(
            decrypt_cbc(&key, &vector, &mut []),
            Err(AesError::Padding(0))
        );
    }
}
