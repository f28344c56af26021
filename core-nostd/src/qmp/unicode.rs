//! Modified UTF-8 as QMP uses it: UTF-8 where U+0000 is written C0 80, and where noncharacters are
//! refused.

/// Whether a code point may occur in a string: a Unicode scalar that is no noncharacter.
pub(super) const fn is_valid(code: u32) -> bool {
    code <= 0x10_ffff
        && !(0xd800 <= code && code <= 0xdfff)
        && !(0xfdd0 <= code && code <= 0xfdef)
        && code & 0xfffe != 0xfffe
}

/// Decodes the sequence at the front of `bytes`, which must not be empty: the code point (`None`
/// for a malformed, overlong or refused one) and how many bytes it took. A malformed sequence
/// takes its lead byte and the continuation bytes that the lead byte promised and that are there.
pub(super) fn decode(bytes: &[u8]) -> (Option<u32>, usize) {
    let Some(&lead) = bytes.first() else {
        return (None, 1);
    };
    if lead < 0x80 {
        return (Some(u32::from(lead)), 1);
    }
    let length = lead.leading_ones() as usize;
    if !(2..=6).contains(&length) {
        return (None, 1);
    }
    let mut code = u32::from(lead) & (0x7f >> length);
    for taken in 1..length {
        match bytes.get(taken) {
            Some(&byte) if byte & 0xc0 == 0x80 => code = code << 6 | u32::from(byte & 0x3f),
            _ => return (None, taken),
        }
    }
    let least = match length {
        2 => 0x80,
        3 => 0x800,
        4 => 0x1_0000,
        // No code point needs more than four bytes.
        _ => u32::MAX,
    };
    let good = is_valid(code) && (code >= least || (code == 0 && length == 2));
    (good.then_some(code), length)
}

/// Encodes a code point up to U+10FFFF and returns the bytes and their number.
pub(super) const fn encode(code: u32) -> ([u8; 4], usize) {
    if code != 0 && code < 0x80 {
        ([code as u8, 0, 0, 0], 1)
    } else if code < 0x800 {
        ([0xc0 | (code >> 6) as u8, low(code), 0, 0], 2)
    } else if code < 0x1_0000 {
        ([0xe0 | (code >> 12) as u8, low(code >> 6), low(code), 0], 3)
    } else {
        (
            [
                0xf0 | (code >> 18) as u8,
                low(code >> 12),
                low(code >> 6),
                low(code),
            ],
            4,
        )
    }
}

/// A continuation byte with the low six bits of `code`.
const fn low(code: u32) -> u8 {
    0x80 | (code & 0x3f) as u8
}
