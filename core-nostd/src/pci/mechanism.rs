//! Configuration mechanism 1 of the 82441FX: CONFADD at port CF8h and CONFDATA at CFCh.
//!
//! Follows Intel 290549 (82441FX), section 3.1, and the PCI Local Bus Specification 2.1, section
//! 3.7.4. CONFADD takes 32-bit writes only; a narrower one passes by. A narrower read gives
//! CONFADD's low bytes whichever byte is named, and CONFADD bits 1:0 are kept and are ored into the
//! register number, both as QEMU's host bridge does. Who stands at an address is for the board to say
//! ([`crate::pci::topology`]).
//!
//! Port CF9h lies inside CONFADD and belongs to the ISA bridge ([`crate::pci::piix3`]): the board
//! decodes a byte access there before this device.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::devices::class::DeviceClass;
use crate::devices::{Context, Width};
use crate::state::{SavedState, StateError};

/// The host bridge as a device on the system bus. QEMU's properties of this class size its PCI
/// holes, which are fixed here, so that none is offered.
pub static CLASS: DeviceClass = DeviceClass {
    name: "i440FX-pcihost",
    parent: "pci-host-bridge",
    bus: Some("System"),
    doc: "PCI host bridge: configuration mechanism 1",
    user_creatable: false,
    properties: &[],
};

/// First port of CONFADD; it has four.
pub const CONFADD: u16 = 0xcf8;

/// First port of CONFDATA; it has four.
pub const CONFDATA: u16 = 0xcfc;

/// CONFADD: CONFDATA reaches configuration space.
const CONE: u32 = 1 << 31;

/// A function's place: bus, device and function number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Bus number.
    pub bus: u8,
    /// Device and function: `device << 3 | function`.
    devfn: u8,
}

impl Address {
    /// The function at this place; `device` is taken modulo 32 and `function` modulo 8.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self {
            bus,
            devfn: device << 3 | function & 7,
        }
    }

    /// The function at a place in one byte, as [`Address::devfn`] gives it.
    pub const fn at(bus: u8, devfn: u8) -> Self {
        Self { bus, devfn }
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }

    /// Device and function in one byte: `device << 3 | function`.
    pub const fn devfn(self) -> u8 {
        self.devfn
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, function) = (self.device(), self.function());
        write!(f, "{:02x}:{device:02x}.{function:x}", self.bus)
    }
}

/// Where an access to CONFDATA goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which function.
    pub address: Address,
    /// The first byte in its configuration space.
    pub register: u8,
}

/// The address register of configuration mechanism 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMechanism1 {
    /// CONFADD.
    address: u32,
}

/// Saved form of [`ConfigMechanism1`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedMechanism {
    address: u32,
}

impl ConfigMechanism1 {
    /// CONFADD as after power-on: 0.
    pub const fn new() -> Self {
        Self { address: 0 }
    }

    /// CONFADD goes to its default, 0 (290549, section 3.1.1). QEMU keeps it over a reset.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        *self = Self::new();
    }

    /// Reads CONFADD; a narrow access gives its low bytes.
    pub fn address_read(&self, width: Width) -> u32 {
        self.address & width.ones() as u32
    }

    /// Writes at `offset`, 0 to 3, from CONFADD. Only a whole 32-bit write counts.
    pub fn address_write(&mut self, offset: u16, width: Width, value: u32) {
        if offset == 0 && width == Width::Dword {
            self.address = value;
        }
    }

    /// Where an access at `offset`, 0 to 3, from CONFDATA goes; `None` while CONE is off: the read
    /// gives all ones and the write nothing, as where no function stands at the target.
    pub fn target(&self, offset: u16) -> Option<Target> {
        if self.address & CONE == 0 {
            return None;
        }
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        Some(Target {
            address: Address { bus, devfn },
            register: register | offset as u8 & 3,
        })
    }
}

impl SavedState for ConfigMechanism1 {
    const NAME: &'static str = "i440FX-pcihost";
    const VERSION: u16 = 1;
    type Saved = SavedMechanism;

    fn save(&self) -> SavedMechanism {
        let Self { address } = *self;
        SavedMechanism { address }
    }

    fn load(&mut self, saved: SavedMechanism, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedMechanism { address } = saved;
        *self = Self { address };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(
        ConfigMechanism1,
        ConfigMechanism1::new(),
        |device, _bench| {
            device.address_write(0, Width::Dword, 0x8000_0840);
        }
    );

    #[test]
    fn takes_whole_writes_only() {
        let mut device = ConfigMechanism1::new();
        device.address_write(0, Width::Byte, 0x55);
        device.address_write(0, Width::Word, 0x5566);
        device.address_write(1, Width::Dword, 0x1122_3344);
        assert_eq!(device.address_read(Width::Dword), 0);
        device.address_write(0, Width::Dword, 0x8001_7854);
        assert_eq!(device.address_read(Width::Dword), 0x8001_7854);
        assert_eq!(device.address_read(Width::Word), 0x7854);
        assert_eq!(device.address_read(Width::Byte), 0x54);
    }

    #[test]
    fn resolves_the_target() {
        let mut device = ConfigMechanism1::new();
        assert_eq!(device.target(0), None);
        // Reserved bits 30:24 play no part.
        device.address_write(0, Width::Dword, 0xff02_1d54);
        let target = device.target(2).unwrap();
        assert_eq!(target.address, Address::new(2, 3, 5));
        assert_eq!(target.register, 0x56);
        device.address_write(0, Width::Dword, 0x8000_0003);
        assert_eq!(device.target(2).unwrap().register, 3);
        device.address_write(0, Width::Dword, 0x7fff_ffff);
        assert_eq!(device.target(0), None);
    }

    #[test]
    fn addresses_are_written_as_everywhere() {
        let text = std::format!("{}", Address::new(0, 31, 7));
        assert_eq!(text, "00:1f.7");
    }
}
