//! The device `vmgenid`: a number in memory that changes whenever the guest goes on from an older state of itself, as after a snapshot was
//! loaded: what has to be unique, such as the state of random number generators, is to be renewed then.
//!
//! Follows Microsoft's "Virtual Machine Generation ID" (2018) and QEMU's specification of the device (docs/specs/vmgenid): the number lies
//! [`GUID_AT`] bytes into a page of its own, which firmware loads from the file [`PAGE_FILE`] and whose number's address it writes to
//! [`ADDRESS_FILE`]; the boot ROM loads it with the ACPI tables. These have a device with the identifier `VM_Gen_Counter`, and its object
//! `ADDR`. A change is told by general-purpose event [`EVENT`].
//!
//! The number itself belongs to the process and is no part of saved state: that is its purpose.

use core::fmt;

use super::class::{DeviceClass, Property, PropertyKind, Value};

/// Its property: a UUID, or [`AUTO`].
pub const GUID: &str = "guid";

/// In [`GUID`]: a random one.
pub const AUTO: &str = "auto";

/// Bytes of a UUID as text.
const TEXT: usize = 36;

/// What `-device vmgenid` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "vmgenid",
    parent: "device",
    bus: None,
    doc: "number that changes when the guest is not what it was",
    user_creatable: true,
    properties: &[Property {
        name: GUID,
        kind: PropertyKind::Uuid,
        default: Value::Word(AUTO),
        doc: "the number: a UUID, or \"auto\" for a random one, which is the default",
    }],
};

/// The file of the page.
pub const PAGE_FILE: &str = "etc/vmgenid_guid";
/// Bytes of the page.
pub const PAGE: usize = 4096;
/// Where the number is in the page.
pub const GUID_AT: usize = 40;
/// The file in which firmware tells where the number is: 64 bits, little-endian. 0 is nowhere.
pub const ADDRESS_FILE: &str = "etc/vmgenid_addr";
/// Bytes of that file.
pub const ADDRESS: usize = 8;
/// The general-purpose event of a change.
pub const EVENT: u16 = 5;

/// A generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationId(pub [u8; 16]);

impl GenerationId {
    /// From a UUID's text: 8-4-4-4-12 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut digits = 0;
        if text.len() != TEXT {
            return None;
        }
        for (index, character) in text.chars().enumerate() {
            if matches!(index, 8 | 13 | 18 | 23) {
                if character != '-' {
                    return None;
                }
                continue;
            }
            let digit = character.to_digit(16)? as u8;
            let byte: &mut u8 = bytes.get_mut(digits / 2)?;
            *byte = *byte << 4 | digit;
            digits += 1;
        }
        Some(Self(bytes))
    }

    /// As it lies in memory: the first three fields are little-endian.
    pub fn in_memory(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// Observed with QEMU 7.2.
    #[test]
    fn texts_and_memory() {
        let text = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
        let id = GenerationId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        let memory = [
            0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91,
            0xfb, 0x87,
        ];
        assert_eq!(id.in_memory(), memory);
        for wrong in [
            "",
            "auto",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb8",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb870",
            "324e6eaf-d1d1-4bf6-bf41+b9bb6c91fb87",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fbxx",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91f\u{e9}7",
        ] {
            assert_eq!(GenerationId::parse(wrong), None, "{wrong}");
        }
    }
}
