//! The guest's memory map as the file `etc/e820` tells it to firmware.
//!
//! Entries of 20 bytes, little-endian: address (64 bits), length (64 bits), type (32 bits), as in
//! ACPI 6.3, section 15.1. RAM is listed as it is installed; firmware itself takes out the holes
//! below 1 MiB.

use super::fw_cfg::{Content, INLINE_MAX};

/// Name of the file.
pub const FILE: &str = "etc/e820";

/// Bytes of an entry.
const ENTRY: usize = 20;

/// Type: RAM.
const RAM: u32 = 1;
/// Type: reserved.
const RESERVED: u32 = 2;

/// What AMD processors keep for HyperTransport, 12 GiB below 1 TiB (AMD 48751, I/O address space);
/// every PC lists it as reserved, so that a guest maps nothing there.
const HYPERTRANSPORT: (u64, u64) = (0xfd_0000_0000, 0x3_0000_0000);

const _: () = assert!(3 * ENTRY <= INLINE_MAX);

/// The map of a machine with `low_ram` bytes from 0 and `high_ram` bytes from 4 GiB.
pub fn table(low_ram: u64, high_ram: u64) -> Content<'static> {
    let mut bytes = [0; 3 * ENTRY];
    let entries = [
        (HYPERTRANSPORT.0, HYPERTRANSPORT.1, RESERVED),
        (0, low_ram, RAM),
        (1 << 32, high_ram, RAM),
    ];
    let mut length = 0;
    for (entry, (address, size, kind)) in bytes
        .chunks_exact_mut(ENTRY)
        .zip(entries.iter().filter(|(_, size, _)| *size != 0))
    {
        entry[..8].copy_from_slice(&address.to_le_bytes());
        entry[8..16].copy_from_slice(&size.to_le_bytes());
        entry[16..].copy_from_slice(&kind.to_le_bytes());
        length += ENTRY;
    }
    Content::inline(&bytes[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observed with QEMU 7.2: `-M pc`, 128 MiB.
    #[test]
    fn lists_ram_and_the_hole() {
        let Content::Inline { bytes, length } = table(128 << 20, 0) else {
            panic!("the table is small");
        };
        let mut expected = [0; 40];
        expected[4] = 0xfd;
        expected[12] = 3;
        expected[16] = 2;
        expected[31] = 8;
        expected[36] = 1;
        assert_eq!(bytes[..length.into()], expected);
        let Content::Inline { length, .. } = table(3 << 30, 1 << 30) else {
            panic!("the table is small");
        };
        assert_eq!(length, 60);
    }
}
