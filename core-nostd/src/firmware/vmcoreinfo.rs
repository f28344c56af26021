//! The device `vmcoreinfo`: a file of fw_cfg in which a guest's kernel tells where its note for dumps is.
//!
//! Follows QEMU's specification of the device (docs/specs/vmcoreinfo): 16 bytes, little-endian: the format that the host
//! takes, the one that the guest has written, a size of 32 bits, and a physical address of 64. Format 0 is none, 1 is an ELF
//! note. The guest writes the file by DMA; a reset empties it.
//!
//! As for the rules: what the guest says is not believed, see [`Vmcoreinfo::note`].

use crate::devices::class::DeviceClass;
use crate::formats::dump::notes::GUEST_NOTE_MAX;

/// What `-device vmcoreinfo` takes: nothing.
pub static CLASS: DeviceClass = DeviceClass {
    name: "vmcoreinfo",
    parent: "device",
    bus: None,
    doc: "file of fw_cfg in which a guest tells where its note for dumps is",
    user_creatable: true,
    properties: &[],
};

/// The file.
pub const FW_CFG_FILE: &str = "etc/vmcoreinfo";

/// Bytes of the file.
pub const SIZE: usize = 16;

/// No note.
const FORMAT_NONE: u16 = 0;
/// An ELF note.
const FORMAT_ELF: u16 = 1;

/// What the file holds after a reset: the host's format.
pub const INITIAL: [u8; SIZE] = {
    let mut bytes = [0; SIZE];
    bytes[0] = FORMAT_ELF as u8;
    bytes
};

/// Bytes of a note's header: less is no note.
const NOTE_MIN: u32 = 12;

/// Why there is no note to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoNote {
    /// The guest has not told of any.
    Absent,
    /// Its format is none that is known.
    Format,
    /// It is too small or too large.
    Size(u32),
}

/// What a guest has written into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vmcoreinfo(pub [u8; SIZE]);

impl Vmcoreinfo {
    /// Where the note is: its physical address, and its bytes, at most [`GUEST_NOTE_MAX`]. Whether there is memory, and in
    /// it a note, is still to be seen.
    ///
    /// # Errors
    /// Why there is none.
    pub fn note(&self) -> Result<(u64, usize), NoNote> {
        let bits = u128::from_le_bytes(self.0);
        let (format, size, address) = ((bits >> 16) as u16, (bits >> 32) as u32, bits >> 64);
        match format {
            FORMAT_NONE => Err(NoNote::Absent),
            FORMAT_ELF if size >= NOTE_MIN && size <= GUEST_NOTE_MAX as u32 => {
                Ok((address as u64, size as usize))
            }
            FORMAT_ELF => Err(NoNote::Size(size)),
            _ => Err(NoNote::Format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: u16, size: u32, address: u64) -> Result<(u64, usize), NoNote> {
        let bits = u128::from(address) << 64 | u128::from(size) << 32 | u128::from(format) << 16;
        Vmcoreinfo((bits | 1).to_le_bytes()).note()
    }

    #[test]
    fn what_guests_write() {
        assert_eq!(Vmcoreinfo(INITIAL).note(), Err(NoNote::Absent));
        assert_eq!(Vmcoreinfo([0; SIZE]).note(), Err(NoNote::Absent));
        assert_eq!(
            of(1, 0x1234, 0xffff_8000_1234),
            Ok((0xffff_8000_1234, 0x1234))
        );
        assert_eq!(of(2, 0x1234, 0), Err(NoNote::Format));
        assert_eq!(of(1, 12, u64::MAX), Ok((u64::MAX, 12)));
        assert_eq!(of(1, 1 << 20, 5), Ok((5, 1 << 20)));
        for size in [0, 11, (1 << 20) + 1, u32::MAX] {
            assert_eq!(of(1, size, 5), Err(NoNote::Size(size)));
        }
    }
}
