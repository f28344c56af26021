//! Compressed dumps in kdump's format, version 6, within makedumpfile's flattened format, which can be written to a pipe.
//!
//! Follows makedumpfile's documents IMPLEMENTATION and README ("flattened format") and the diskdump format as `crash`
//! reads it, in its 64-bit form. Of the two bitmaps, which pages are there and which are in the file, both say the same:
//! nothing is left out. Pages of zeros are all described by the same bytes.
//!
//! ```text
//! flattened: start block | records: offset, length, bytes | end record
//! within:    header | sub header, notes | bitmap | bitmap | page descriptors | pages
//! ```
//! Numbers of the flattened format are big-endian, all others little-endian.

use super::Fields;

/// Bytes of a block, and of a page.
pub const BLOCK: u64 = 4096;
/// Bytes of the header.
pub const HEADER_SIZE: usize = 464;
/// Bytes of the sub header.
pub const SUB_HEADER_SIZE: usize = 104;
/// Bytes of a page's descriptor.
pub const DESCRIPTOR_SIZE: usize = 24;
/// Bytes in front of each record's.
pub const RECORD_SIZE: usize = 16;
/// Bytes of the flattened format's start.
pub const START_SIZE: usize = 4096;

/// header_version.
const VERSION: u32 = 6;
/// In the header's status: pages are zlib streams.
const COMPRESSED_ZLIB: u32 = 1;
/// In a descriptor: this one is.
const PAGE_ZLIB: u32 = 1;
/// dump_level: pages of zeros count as left out.
const LEVEL_NO_ZERO: u32 = 1;
/// Bytes of each of the six names in the header.
const NAME: usize = 65;

/// The flattened format's beginning.
pub fn start() -> [u8; START_SIZE] {
    let mut start = Fields::<START_SIZE>::new();
    start
        .set(0, *b"makedumpfile")
        .set(16, 1_u64.to_be_bytes())
        .set(24, 1_u64.to_be_bytes());
    start.bytes
}

/// What stands in front of the bytes that belong at an offset.
pub fn record(offset: u64, length: u64) -> [u8; RECORD_SIZE] {
    let mut record = Fields::<RECORD_SIZE>::new();
    record
        .set(0, offset.to_be_bytes())
        .set(8, length.to_be_bytes());
    record.bytes
}

/// The flattened format's end.
pub fn end() -> [u8; RECORD_SIZE] {
    [0xff; RECORD_SIZE]
}

/// The text within a guest's note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestInfo {
    /// Where it is among the notes.
    pub at: u64,
    /// Its bytes.
    pub length: u64,
    /// Where the kernel is.
    pub phys_base: u64,
}

/// A file: how much of everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Processors.
    pub cpus: u32,
    /// Bytes of notes, below 2^40.
    pub notes: u64,
    /// What the guest tells of itself.
    pub guest: Option<GuestInfo>,
    /// One more than the last page's number, below 2^52.
    pub end: u64,
    /// Pages, at most as many.
    pub pages: u64,
}

impl Layout {
    const fn sub_blocks(&self) -> u64 {
        (SUB_HEADER_SIZE as u64 + self.notes).div_ceil(BLOCK)
    }

    /// Bytes of one bitmap: a bit for each page, in whole blocks.
    pub const fn bitmap_size(&self) -> u64 {
        self.end.div_ceil(8 * BLOCK) * BLOCK
    }

    /// Where the sub header is.
    pub const fn sub_header_at(&self) -> u64 {
        BLOCK
    }

    /// Where the notes are.
    pub const fn notes_at(&self) -> u64 {
        self.sub_header_at() + SUB_HEADER_SIZE as u64
    }

    /// Where the two bitmaps are.
    pub const fn bitmaps_at(&self) -> [u64; 2] {
        let first = self.sub_header_at() + self.sub_blocks() * BLOCK;
        [first, first + self.bitmap_size()]
    }

    /// Where the descriptors are.
    pub const fn descriptors_at(&self) -> u64 {
        self.bitmaps_at()[1] + self.bitmap_size()
    }

    /// Where the pages begin.
    pub const fn pages_at(&self) -> u64 {
        self.descriptors_at() + self.pages * DESCRIPTOR_SIZE as u64
    }

    /// What the file begins with.
    pub fn header(&self) -> [u8; HEADER_SIZE] {
        let mut header = Fields::<HEADER_SIZE>::new();
        let small = |number: u64| number.min(u32::MAX.into()) as u32;
        header
            .set(0, *b"KDUMP   ")
            .u32(8, VERSION)
            // The fifth of the names that uname(2) gives.
            .set(12 + 4 * NAME, *b"x86_64")
            .u32(424, COMPRESSED_ZLIB)
            .u32(428, BLOCK as u32)
            .u32(432, small(self.sub_blocks()))
            .u32(436, small(2 * self.bitmap_size() / BLOCK))
            .u32(440, small(self.end))
            .u32(460, self.cpus);
        header.bytes
    }

    /// What the second block begins with, ahead of the notes.
    pub fn sub_header(&self) -> [u8; SUB_HEADER_SIZE] {
        let mut sub = Fields::<SUB_HEADER_SIZE>::new();
        if let Some(guest) = self.guest {
            sub.u64(0, guest.phys_base)
                .u64(32, self.notes_at() + guest.at)
                .u64(40, guest.length);
        }
        sub.u32(8, LEVEL_NO_ZERO)
            .u64(48, self.notes_at())
            .u64(56, self.notes)
            .u64(96, self.end);
        sub.bytes
    }
}

/// Where a page is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where its bytes are.
    pub at: u64,
    /// How many: [`BLOCK`] if they are the page's own.
    pub length: u32,
}

impl Page {
    /// The page's descriptor.
    pub fn descriptor(&self) -> [u8; DESCRIPTOR_SIZE] {
        let compressed = u64::from(self.length) < BLOCK;
        let mut descriptor = Fields::<DESCRIPTOR_SIZE>::new();
        descriptor
            .u64(0, self.at)
            .u32(8, self.length)
            .u32(12, if compressed { PAGE_ZLIB } else { 0 });
        descriptor.bytes
    }
}

/// Fills a piece of a bitmap whose first bit is of page `first`, a multiple of 8: bits of pages from `start` to before `end` are
/// set, others stay.
pub fn mark(bitmap: &mut [u8], first: u64, start: u64, end: u64) {
    let bits = bitmap.len() as u64 * 8;
    let (start, end) = (
        start.saturating_sub(first),
        end.saturating_sub(first).min(bits),
    );
    let (from, to) = (start / 8, end / 8);
    let low = !(u8::MAX << (end % 8));
    let mut set = |at: u64, bits: u8| {
        if let Some(byte) = bitmap.get_mut(at as usize) {
            *byte |= bits;
        }
    };
    if start >= end {
        return;
    }
    let high = u8::MAX << (start % 8);
    if from == to {
        return set(from, high & low);
    }
    set(from, high);
    set(to, low);
    if let Some(whole) = bitmap.get_mut(from as usize + 1..to as usize) {
        whole.fill(u8::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// What QEMU 7.2 wrote for a stopped PC of 16 MiB with one processor.
    #[test]
    fn as_observed() {
        let layout = Layout {
            cpus: 1,
            notes: 0x270,
            guest: None,
            end: 0x10_0000,
            pages: 4128,
        };
        let header = layout.header();
        assert_eq!(header[..12], *b"KDUMP   \x06\0\0\0");
        assert_eq!(header[272..278], *b"x86_64");
        for (at, value) in [
            (424, 1),
            (428, 4096),
            (432, 1),
            (436, 64),
            (440, 0x10_0000),
            (444, 0),
            (460, 1),
        ] {
            assert_eq!(u32_at(&header, at), value, "{at}");
        }
        let sub = layout.sub_header();
        for (at, value) in [
            (0, 0),
            (8, 1),
            (32, 0),
            (48, 0x1068),
            (56, 0x270),
            (64, 0),
            (96, 0x10_0000),
        ] {
            assert_eq!(u64_at(&sub, at), value, "{at}");
        }
        assert_eq!(layout.bitmaps_at(), [0x2000, 0x2_2000]);
        assert_eq!(layout.pages_at(), 0x5_a300);
        let zeros = Page {
            at: 0x5_a300,
            length: 4096,
        };
        assert_eq!(u64_at(&zeros.descriptor(), 8), 4096);
        let small = Page {
            at: 1 << 33,
            length: 14,
        };
        assert_eq!(u64_at(&small.descriptor(), 0), 1 << 33);
        assert_eq!(u64_at(&small.descriptor(), 8), 1 << 32 | 14);
    }

    #[test]
    fn notes_of_more_than_a_block_and_a_guest_s_text() {
        let layout = Layout {
            cpus: 16,
            notes: 16 * 816 + 1000,
            guest: Some(GuestInfo {
                at: 16 * 816 + 24,
                length: 976,
                phys_base: 0x3a00_0000,
            }),
            end: (1 << 40) + 1,
            pages: 5,
        };
        let sub = layout.sub_header();
        assert_eq!(u64_at(&sub, 0), 0x3a00_0000);
        assert_eq!(u64_at(&sub, 32), 4096 + 104 + 16 * 816 + 24);
        assert_eq!(u64_at(&sub, 40), 976);
        assert_eq!(u32_at(&layout.header(), 432), 4);
        assert_eq!(u32_at(&layout.header(), 440), u32::MAX);
        assert_eq!(u64_at(&sub, 96), (1 << 40) + 1);
        assert_eq!(layout.bitmaps_at()[0], 5 * 4096);
        assert_eq!(layout.bitmap_size(), (1 << 37) + 4096);
    }

    #[test]
    fn the_flattened_format() {
        let start = start();
        assert_eq!(start[..16], *b"makedumpfile\0\0\0\0");
        assert_eq!(start[16..32], *b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01");
        let record = record(0x1068, 2);
        assert_eq!(record, *b"\0\0\0\0\0\0\x10\x68\0\0\0\0\0\0\0\x02");
        assert_eq!(end(), [0xff; 16]);
    }

    proptest! {
        #[test]
        fn bits_of_a_range(first in 0..40_u64, start in 0..400_u64, length in 0..400_u64) {
            let (first, end) = (first * 8, start + length);
            let mut bitmap = [0; 16];
            mark(&mut bitmap, first, start, end);
            let bits: Vec<u64> = (0..128)
                .filter(|bit| bitmap[*bit as usize / 8] >> (bit % 8) & 1 != 0)
                .map(|bit| bit + first)
                .collect();
            let expected: Vec<u64> =
                (start..end).filter(|page| (first..first + 128).contains(page)).collect();
            prop_assert_eq!(bits, expected);
        }
    }
}
