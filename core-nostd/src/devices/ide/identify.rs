//! What drives say of themselves: IDENTIFY DEVICE, IDENTIFY PACKET DEVICE and SMART's pages.
//!
//! Follows ATA/ATAPI-7 (T13 1532D), volume 1, sections 6.16, 6.17 and 6.54; the values are those of
//! QEMU's drives.

use super::drive::{Drive, Kind};

/// Bytes of a page.
pub const PAGE: usize = 512;

/// Sectors of one READ MULTIPLE or WRITE MULTIPLE at most.
pub const MULTIPLE_MAX: u8 = 16;

/// Words of the page, little-endian.
struct Words<'p>(&'p mut [u8; PAGE]);

impl Words<'_> {
    fn set(&mut self, word: usize, value: u16) {
        self.0[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Text, padded with blanks, two characters a word, the first in the high byte.
    fn text(&mut self, word: usize, words: usize, text: &str) {
        let mut text = text.bytes();
        for at in word..word + words {
            let [high, low] = [(); 2].map(|()| text.next().unwrap_or(b' '));
            self.set(at, u16::from_le_bytes([low, high]));
        }
    }
}

/// The page that a drive answers IDENTIFY DEVICE or IDENTIFY PACKET DEVICE with.
pub fn page(drive: &Drive) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut words = Words(&mut page);
    let settings = drive.settings();
    words.text(10, 10, &settings.serial);
    words.set(20, 3);
    words.set(21, 512);
    words.set(22, 4);
    words.text(23, 4, &settings.version);
    words.text(27, 20, &settings.model);
    words.set(48, 1);
    words.set(53, 7);
    let [single, multiword, ultra] = drive.modes();
    words.set(62, single);
    words.set(63, multiword);
    words.set(64, 3);
    words.set(88, ultra);
    match settings.kind {
        Kind::Disk => disk(&mut words, drive),
        Kind::Cdrom => {
            // ATAPI, CD-ROM, removable, 50 us until it takes a packet of 12 bytes.
            words.set(0, 0x85c0);
            // LBA and DMA.
            words.set(49, 0x0300);
            words.set(65, 0xb4);
            words.set(66, 0xb4);
            words.set(67, 0x12c);
            words.set(68, 0xb4);
            words.set(71, 30);
            words.set(72, 30);
            words.set(80, 0x1e);
            if settings.wwn != 0 {
                words.set(84, 1 << 8);
                words.set(87, 1 << 8);
                wwn(&mut words, settings.wwn);
            }
        }
    }
    page
}

fn wwn(words: &mut Words<'_>, wwn: u64) {
    for (index, word) in (108..112).enumerate() {
        words.set(word, (wwn >> (48 - 16 * index)) as u16);
    }
}

fn disk(words: &mut Words<'_>, drive: &Drive) {
    let settings = drive.settings();
    let (cylinders, heads, tracks) = drive.default_geometry();
    let sectors = drive.sectors();
    words.set(0, 0x40);
    words.set(1, cylinders);
    words.set(3, heads.into());
    words.set(4, 512 * u16::from(tracks));
    words.set(5, 512);
    words.set(6, tracks.into());
    words.set(47, 0x8000 | u16::from(MULTIPLE_MAX));
    // LBA, DMA, IORDY.
    words.set(49, 1 << 11 | 1 << 9 | 1 << 8);
    words.set(51, 0x200);
    words.set(52, 0x200);
    words.set(54, cylinders);
    words.set(55, heads.into());
    words.set(56, tracks.into());
    let small = u32::from(cylinders) * u32::from(heads) * u32::from(tracks);
    words.set(57, small as u16);
    words.set(58, (small >> 16) as u16);
    match drive.multiple() {
        0 => {}
        multiple => words.set(59, 0x100 | u16::from(multiple)),
    }
    let low = sectors.min(0xfff_ffff) as u32;
    words.set(60, low as u16);
    words.set(61, (low >> 16) as u16);
    for word in 65..69 {
        words.set(word, 120);
    }
    // Trimmed sectors read the same each time.
    words.set(69, 1 << 14);
    words.set(80, 0xf0);
    words.set(81, 0x16);
    // NOP, write cache, SMART; flushes, 48-bit addresses.
    words.set(82, 1 << 14 | 1 << 5 | 1);
    words.set(83, 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10);
    let has_wwn = u16::from(settings.wwn != 0) << 8;
    words.set(84, 1 << 14 | has_wwn);
    words.set(85, 1 << 14 | u16::from(drive.write_cache()) << 5 | 1);
    words.set(86, 1 << 13 | 1 << 12 | 1 << 10);
    words.set(87, 1 << 14 | has_wwn);
    words.set(93, 1 << 14 | 1 << 13 | 1);
    for word in 0..4 {
        words.set(100 + word, (sectors >> (16 * word)) as u16);
    }
    let exponent = (settings.physical / 512).trailing_zeros() as u16;
    words.set(106, 0x6000 | exponent);
    if settings.wwn != 0 {
        wwn(words, settings.wwn);
    }
    // TRIM.
    words.set(169, 1);
    words.set(217, settings.rotation_rate);
}

/// SMART's attributes: number, flags (16 bits), value, worst value, six raw bytes, threshold.
const ATTRIBUTES: [[u8; 12]; 7] = [
    [0x01, 0x03, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0x06],
    [0x03, 0x03, 0, 0x64, 0x64, 16, 0, 0, 0, 0, 0, 0x00],
    [0x04, 0x02, 0, 0x64, 0x64, 100, 0, 0, 0, 0, 0, 0x14],
    [0x05, 0x03, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0x24],
    [0x09, 0x03, 0, 0x64, 0x64, 1, 0, 0, 0, 0, 0, 0x00],
    [0x0c, 0x03, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0x00],
    [0xbe, 0x03, 0, 0x45, 0x45, 0x1f, 0, 0x1f, 0x1f, 0, 0, 0x32],
];

/// The last byte makes the sum of all 0.
fn seal(mut page: [u8; PAGE]) -> [u8; PAGE] {
    page[PAGE - 1] = 0;
    let sum = page.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    page[PAGE - 1] = 0_u8.wrapping_sub(sum);
    page
}

/// SMART READ THRESHOLDS.
pub fn thresholds() -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[0] = 1;
    for (entry, attribute) in page[2..].chunks_exact_mut(12).zip(ATTRIBUTES) {
        entry[0] = attribute[0];
        entry[1] = attribute[11];
    }
    seal(page)
}

/// SMART READ DATA; `autosave` says whether attributes are saved by themselves.
pub fn attributes(autosave: bool) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[0] = 1;
    for (entry, attribute) in page[2..].chunks_exact_mut(12).zip(ATTRIBUTES) {
        entry[..11].copy_from_slice(&attribute[..11]);
    }
    page[362] = 2 | u8::from(autosave) << 7;
    // Byte 363 stays 0: all self-tests have ended well.
    page[364] = 0x20;
    page[365] = 0x01;
    page[367] = 1 << 4 | 1 << 3 | 1;
    page[368] = 3;
    page[370] = 1;
    page[372] = 2;
    page[373] = 54;
    page[374] = 1;
    seal(page)
}

/// SMART READ LOG: the summary of errors, of which there are none.
pub fn error_log() -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[0] = 1;
    seal(page)
}

/// SMART READ LOG: self-tests, by their kinds. All have ended well, at the same hour.
pub fn test_log(kinds: &[u8]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[0] = 1;
    for (entry, kind) in page[2..].chunks_exact_mut(24).zip(kinds) {
        entry[..4].copy_from_slice(&[*kind, 0, 0x34, 0x12]);
    }
    page[508] = kinds.len() as u8;
    seal(page)
}
