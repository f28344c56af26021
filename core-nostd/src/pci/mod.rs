//! PCI: configuration space, configuration mechanism 1, and the functions of the chipset.
//!
//! After the PCI Local Bus Specification 2.1. There is one bus; the machine owns the functions
//! and dispatches to them by number.

pub mod i440fx;
pub mod piix3;

use serde::{Deserialize, Serialize};

use crate::devices::{Context, Width};
use crate::state::{SavedState, StateError};

/// Registers that every function has (section 6.1).
pub mod register {
    /// Vendor identification, 16 bits.
    pub const VENDOR_ID: usize = 0x00;
    /// Device identification, 16 bits.
    pub const DEVICE_ID: usize = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: usize = 0x04;
    /// Status, 16 bits; bits are cleared by writing ones.
    pub const STATUS: usize = 0x06;
    /// Revision, 8 bits.
    pub const REVISION_ID: usize = 0x08;
    /// Class code, 24 bits.
    pub const CLASS_CODE: usize = 0x09;
    /// Cache line size, 8 bits.
    pub const CACHE_LINE_SIZE: usize = 0x0c;
    /// Header type, 8 bits.
    pub const HEADER_TYPE: usize = 0x0e;
    /// Subsystem vendor and subsystem, 16 bits each.
    pub const SUBSYSTEM: usize = 0x2c;
    /// Interrupt line, 8 bits.
    pub const INTERRUPT_LINE: usize = 0x3c;
    /// First register that belongs to the device.
    pub const DEVICE_SPECIFIC: usize = 0x40;
}

/// Bits of the command register that can be set: I/O space, memory space, bus master, SERR#,
/// interrupt disable (section 6.2.2).
const COMMAND_WRITABLE: u16 = 0x0507;

/// Bytes of configuration space.
pub const CONFIG_SIZE: usize = 256;

/// Subsystem of functions without one of their own: vendor 1AF4h, device 1100h, as QEMU's.
const SUBSYSTEM: u32 = 0x1100_1af4;

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, sub-class and programming interface, in the bits 23 to 0.
    pub class: u32,
    /// Header type.
    pub header: u8,
}

/// The configuration space of one function: bytes, and which of their bits can be written.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
}

impl ConfigSpace {
    /// The space of a function whose own registers, from 40h on, can be written whole.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
        };
        space.put(register::VENDOR_ID, &identity.vendor.to_le_bytes());
        space.put(register::DEVICE_ID, &identity.device.to_le_bytes());
        space.put(register::REVISION_ID, &[identity.revision]);
        space.put(register::CLASS_CODE, &identity.class.to_le_bytes()[..3]);
        space.put(register::HEADER_TYPE, &[identity.header]);
        space.put(register::SUBSYSTEM, &SUBSYSTEM.to_le_bytes());
        space.writable[register::COMMAND..register::COMMAND + 2]
            .copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space.writable[register::CACHE_LINE_SIZE] = 0xff;
        space.writable[register::INTERRUPT_LINE] = 0xff;
        space.writable[register::DEVICE_SPECIFIC..].fill(0xff);
        space
    }

    /// Sets bytes from `at` on, whether a guest could write them or not.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    /// One byte.
    pub fn byte(&self, at: u8) -> u8 {
        self.bytes[usize::from(at)]
    }

    /// A guest reads. What lies past the end reads as ones.
    pub fn read(&self, at: u8, width: Width) -> u32 {
        let bytes = self.bytes.get(usize::from(at)..).unwrap_or(&[]);
        (0..width as usize).fold(0, |value, i| {
            value | u32::from(bytes.get(i).copied().unwrap_or(0xff)) << (8 * i)
        })
    }

    /// A guest writes: bits that can be written change.
    pub fn write(&mut self, at: u8, width: Width, value: u32) {
        let bytes = value.to_le_bytes();
        for (i, new) in (usize::from(at)..CONFIG_SIZE).zip(&bytes[..width as usize]) {
            let mask = self.writable[i];
            self.bytes[i] = self.bytes[i] & !mask | new & mask;
        }
    }

    /// Bits that can be written, to be saved.
    pub fn bytes(&self) -> &[u8; CONFIG_SIZE] {
        &self.bytes
    }

    /// Whether `bytes` is a space that a guest can have made of this one.
    pub fn can_become(&self, bytes: &[u8]) -> bool {
        bytes.len() == CONFIG_SIZE
            && (0..CONFIG_SIZE).all(|i| (self.bytes[i] ^ bytes[i]) & !self.writable[i] == 0)
    }
}

/// A function on the bus.
pub trait PciFunction {
    /// The guest reads its configuration space.
    fn config_read(&self, at: u8, width: Width) -> u32;

    /// The guest writes its configuration space.
    fn config_write(&mut self, cx: &mut Context<'_>, at: u8, width: Width, value: u32);
}

/// A register of some function's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress {
    /// The bus.
    pub bus: u8,
    /// The device, 0 to 31.
    pub device: u8,
    /// The function, 0 to 7.
    pub function: u8,
    /// The register's byte.
    pub register: u8,
}

/// CONFIG_ADDRESS at port CF8h: what CONFIG_DATA at CFCh reaches (section 3.7.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigMechanism1 {
    address: u32,
}

impl ConfigMechanism1 {
    /// The address register as it was written.
    pub fn address(&self) -> u32 {
        self.address
    }

    /// A doubleword write to CF8h. Narrower ones pass the register by.
    pub fn set_address(&mut self, address: u32) {
        self.address = address;
    }

    /// What an access to byte `offset` of CONFIG_DATA reaches; `None` unless enabled by bit 31.
    pub fn target(&self, offset: u16) -> Option<ConfigAddress> {
        let address = self.address;
        (address >> 31 != 0).then_some(ConfigAddress {
            bus: (address >> 16) as u8,
            device: (address >> 11) as u8 & 0x1f,
            function: (address >> 8) as u8 & 7,
            register: address as u8 & 0xfc | offset as u8 & 3,
        })
    }
}

/// Saved form of [`ConfigMechanism1`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedMechanism {
    address: u32,
}

impl SavedState for ConfigMechanism1 {
    const NAME: &'static str = "pci-config";
    const VERSION: u16 = 1;
    type Saved = SavedMechanism;

    fn save(&self) -> SavedMechanism {
        let Self { address } = *self;
        SavedMechanism { address }
    }

    fn load(&mut self, saved: SavedMechanism, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedMechanism { address } = saved;
        self.address = address;
        Ok(())
    }
}

/// The saved form of [`ConfigSpace`]: its bytes in pieces that serde knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedSpace([[u8; 32]; 8]);

impl SavedSpace {
    pub(crate) fn new(space: &ConfigSpace) -> Self {
        let mut saved = Self([[0; 32]; 8]);
        saved.0.as_flattened_mut().copy_from_slice(space.bytes());
        saved
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_flattened()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_bits_change() {
        let identity = Identity {
            vendor: 0x8086,
            device: 1,
            revision: 2,
            class: 0x06_0000,
            header: 0,
        };
        let mut space = ConfigSpace::new(identity);
        let new = space.clone();
        space.write(0, Width::Dword, 0);
        assert_eq!(space.read(0, Width::Dword), 0x0001_8086);
        space.write(4, Width::Dword, u32::MAX);
        assert_eq!(space.read(4, Width::Dword), 0x0507);
        space.write(0xff, Width::Word, 0x1234);
        assert_eq!(space.read(0xff, Width::Word), 0xff34);
        assert!(new.can_become(space.bytes()));
        space.put(0, &[1]);
        assert!(!new.can_become(space.bytes()));
    }

    #[test]
    fn addresses() {
        let mut mechanism = ConfigMechanism1::default();
        assert_eq!(mechanism.target(0), None);
        mechanism.set_address(0x8001_fb5f);
        let target = ConfigAddress {
            bus: 1,
            device: 31,
            function: 3,
            register: 0x5e,
        };
        assert_eq!(mechanism.target(2), Some(target));
    }
}
