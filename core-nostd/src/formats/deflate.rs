//! Compression of small pieces into zlib streams, made for speed and for a few KiB of code.
//!
//! Follows RFC 1950 (zlib) and RFC 1951 (deflate). A stream is one block with the fixed codes, filled by a greedy search
//! that remembers one earlier place for each hash of four bytes: about what the fastest level of other compressors finds.
//! Where little is found, the search takes longer and longer steps.
//!
//! Deliberately not here: codes made for the data, which cost a second pass, and decompression. A piece that does not get
//! smaller is the caller's to store as it is.

/// Bytes of a piece at most: places are 16 bits, and no match may reach farther back than 32 KiB.
pub const PIECE_MAX: usize = 32 << 10;

/// Bits of a hash.
const HASH_BITS: u32 = 11;
/// Bytes that are hashed, and so a match's at least.
const MATCH_MIN: usize = 4;
/// Bytes of a match at most (RFC 1951, 3.2.5).
const MATCH_MAX: usize = 258;
/// A step grows by one byte for so many that began no match.
const PATIENCE: usize = 32;
/// CMF and FLG: deflate, a window of 32 KiB, the fastest level.
const HEADER: [u8; 2] = [0x78, 0x01];
/// Bits of a block's header: the last one, with fixed codes.
const BLOCK: (u64, u32) = (0b011, 3);
/// The code of the block's end: 256, seven zeros.
const END: (u64, u32) = (0, 7);
/// Modulus of Adler-32.
const ADLER: u32 = 65_521;
/// Bytes of which Adler-32's sums surely fit 32 bits.
const ADLER_RUN: usize = 5552;

/// A code's bits, the first one lowest, and how many there are.
#[derive(Clone, Copy)]
struct Code {
    bits: u16,
    length: u8,
}

/// Huffman codes begin with their highest bit.
const fn reversed(code: u16, length: u8) -> Code {
    Code {
        bits: code.reverse_bits() >> (16 - length),
        length,
    }
}

/// The fixed codes of bytes (RFC 1951, 3.2.6).
static LITERALS: [Code; 256] = {
    let mut codes = [reversed(0, 8); 256];
    let mut byte = 0;
    while byte < 256 {
        codes[byte] = match byte {
            0..144 => reversed(0x30 + byte as u16, 8),
            _ => reversed(0x190 + byte as u16 - 144, 9),
        };
        byte += 1;
    }
    codes
};

/// The code of a match's length with its extra bits (RFC 1951, 3.2.5 and 3.2.6).
fn length_code(length: usize) -> (u64, u32) {
    let above = (length - 3) as u32;
    let (symbol, extra, bits) = match above {
        0..8 => (257 + above, 0, 0),
        255.. => (285, 0, 0),
        _ => {
            // Four symbols for each number of extra bits.
            let bits = above.ilog2() - 2;
            let symbol = 257 + 4 * (bits + 1) + (above >> bits & 3);
            (symbol, above & ((1 << bits) - 1), bits)
        }
    };
    let code = match symbol {
        ..280 => reversed((symbol - 256) as u16, 7),
        _ => reversed(0xc0 + (symbol - 280) as u16, 8),
    };
    let length = u32::from(code.length);
    (
        u64::from(code.bits) | u64::from(extra) << length,
        length + bits,
    )
}

/// The code of a distance with its extra bits.
fn distance_code(distance: usize) -> (u64, u32) {
    let above = (distance - 1) as u32;
    let (symbol, extra, bits) = match above {
        0..4 => (above, 0, 0),
        _ => {
            // Two symbols for each number of extra bits.
            let bits = above.ilog2() - 1;
            (
                2 * (bits + 1) + (above >> bits & 1),
                above & ((1 << bits) - 1),
                bits,
            )
        }
    };
    let code = u64::from(reversed(symbol as u16, 5).bits);
    (code | u64::from(extra) << 5, 5 + bits)
}

/// Adler-32 of a piece (RFC 1950, 9).
fn adler32(piece: &[u8]) -> u32 {
    let (mut a, mut b) = (1, 0);
    for run in piece.chunks(ADLER_RUN) {
        for &byte in run {
            a += u32::from(byte);
            b += a;
        }
        a %= ADLER;
        b %= ADLER;
    }
    b << 16 | a
}

/// The stream on its way into a buffer that may turn out too small.
struct Bits<'o> {
    out: &'o mut [u8],
    used: usize,
    bits: u64,
    count: u32,
}

impl Bits<'_> {
    /// Adds up to 32 bits, the lowest first.
    fn put(&mut self, (bits, count): (u64, u32)) -> Option<()> {
        self.bits |= bits << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes(&(self.bits as u32).to_le_bytes())?;
            self.bits >>= 32;
            self.count -= 32;
        }
        Some(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.used + bytes.len();
        self.out.get_mut(self.used..end)?.copy_from_slice(bytes);
        self.used = end;
        Some(())
    }

    /// Fills the last byte with zeros.
    fn align(&mut self) -> Option<()> {
        let bytes = self.bits.to_le_bytes();
        let count = self.count.div_ceil(8) as usize;
        self.bytes(bytes.get(..count)?)?;
        (self.bits, self.count) = (0, 0);
        Some(())
    }
}

/// A compressor and what it remembers of the piece before.
#[derive(Clone, Debug)]
pub struct Deflate {
    /// Where the last four bytes with this hash are, plus one.
    places: [u16; 1 << HASH_BITS],
}

impl Default for Deflate {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflate {
    /// A compressor.
    pub const fn new() -> Self {
        Self {
            places: [0; 1 << HASH_BITS],
        }
    }

    /// Compresses a piece of at most [`PIECE_MAX`] bytes into a zlib stream at the front of `out`, and tells its length.
    /// `None` if the piece is longer, or `out` too short.
    pub fn compress(&mut self, piece: &[u8], out: &mut [u8]) -> Option<usize> {
        if piece.len() > PIECE_MAX {
            return None;
        }
        self.places.fill(0);
        let mut bits = Bits {
            out,
            used: 0,
            bits: 0,
            count: 0,
        };
        bits.bytes(&HEADER)?;
        bits.put(BLOCK)?;
        let mut at = 0;
        // The first byte that is not in the stream yet.
        let mut from = 0;
        while let Some(word) = word(piece, at) {
            let hash = word.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
            let place = self.places.get_mut(hash as usize)?;
            let earlier = usize::from(core::mem::replace(place, at as u16 + 1));
            let found = earlier
                .checked_sub(1)
                .filter(|earlier| self::word(piece, *earlier) == Some(word));
            let Some(earlier) = found else {
                at += 1 + (at - from) / PATIENCE;
                continue;
            };
            literals(&mut bits, piece.get(from..at)?)?;
            let length = MATCH_MIN + alike(piece, earlier + MATCH_MIN, at + MATCH_MIN);
            bits.put(length_code(length))?;
            bits.put(distance_code(at - earlier))?;
            at += length;
            from = at;
        }
        literals(&mut bits, piece.get(from..)?)?;
        bits.put(END)?;
        bits.align()?;
        bits.bytes(&adler32(piece).to_be_bytes())?;
        Some(bits.used)
    }
}

fn literals(bits: &mut Bits<'_>, bytes: &[u8]) -> Option<()> {
    bytes.iter().try_for_each(|byte| {
        let code = LITERALS[usize::from(*byte)];
        bits.put((code.bits.into(), code.length.into()))
    })
}

/// The four bytes at a place.
fn word(piece: &[u8], at: usize) -> Option<u32> {
    let bytes = piece.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// How many bytes are the same from two places on, at most as many as a match may have further.
fn alike(piece: &[u8], earlier: usize, later: usize) -> usize {
    let most = MATCH_MAX - MATCH_MIN;
    let (Some(one), Some(other)) = (piece.get(earlier..), piece.get(later..)) else {
        return 0;
    };
    let other = other.get(..most).unwrap_or(other);
    let mut length = 0;
    while let (Some(a), Some(b)) = (chunk(one, length), chunk(other, length)) {
        let different = a ^ b;
        if different != 0 {
            return length + (different.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    let rest = one.iter().skip(length).zip(other.iter().skip(length));
    length + rest.take_while(|(a, b)| a == b).count()
}

fn chunk(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn inflated(stream: &[u8]) -> Vec<u8> {
        miniz_oxide::inflate::decompress_to_vec_zlib(stream).expect("a zlib stream")
    }

    /// Compresses it and takes it apart again with another implementation.
    fn there_and_back(piece: &[u8]) -> usize {
        let mut out = std::vec![0xee; 64 + piece.len() * 9 / 8];
        let length = Deflate::new().compress(piece, &mut out).unwrap();
        assert_eq!(inflated(&out[..length]), piece);
        assert!(out[length..].iter().all(|byte| *byte == 0xee));
        // A buffer that is a byte too short.
        assert_eq!(Deflate::new().compress(piece, &mut out[..length - 1]), None);
        length
    }

    #[test]
    fn lengths_and_distances() {
        // Every length of a match, at two distances.
        for length in 0..600 {
            let run = std::vec![7; length];
            there_and_back(&run);
            let mut pair: Vec<u8> = (0..length).map(|i| (i * i / 8) as u8).collect();
            pair.extend_from_within(..);
            there_and_back(&pair);
        }
        for distance in 1..PIECE_MAX - 8 {
            let mut piece = std::vec![0; distance + 8];
            piece[..8].copy_from_slice(b"distance");
            let end = piece.len() - 8;
            piece[end..].copy_from_slice(b"distance");
            if distance < 300 || distance.is_multiple_of(97) {
                there_and_back(&piece);
            }
        }
    }

    #[test]
    fn what_repeats_gets_small() {
        assert!(there_and_back(&[0; 4096]) < 60);
        let text: Vec<u8> = (0..400u32)
            .flat_map(|line| std::format!("line {line} of a log\n").into_bytes())
            .collect();
        assert!(there_and_back(&text) < text.len() * 2 / 5);
    }

    #[test]
    fn what_was_before_is_forgotten() {
        let mut deflate = Deflate::new();
        let mut out = [0; 400];
        let first = deflate.compress(b"thimble, thimble", &mut out).unwrap();
        assert_eq!(inflated(&out[..first]), b"thimble, thimble");
        let second = deflate.compress(b"thimble", &mut out).unwrap();
        assert_eq!(inflated(&out[..second]), b"thimble");
        assert_eq!(deflate.compress(&[0; PIECE_MAX + 1], &mut out), None);
        assert!(deflate.compress(&[0; PIECE_MAX], &mut out).is_some());
    }

    proptest! {
        #[test]
        fn any_piece_comes_back(piece: Vec<u8>, few in 1..=255_u8) {
            there_and_back(&piece);
            let narrow: Vec<u8> = piece.iter().map(|byte| byte % few).collect();
            there_and_back(&narrow);
        }
    }
}
