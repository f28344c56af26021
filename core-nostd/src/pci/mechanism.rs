//! Configuration mechanism 1 of the 82441FX: CONFADD at port CF8h and CONFDATA at CFCh, and who
//! stands at which address of bus 0.
//!
//! Follows Intel 290549 (82441FX), section 3.1, and the PCI Local Bus Specification 2.1, section
//! 3.7.4. CONFADD takes 32-bit writes only; a narrower one passes by. A narrower read gives
//! CONFADD's low bytes whichever byte is named, and CONFADD bits 1:0 are kept and are ored into the
//! register number, both as QEMU's host bridge does. Buses other than 0 come with bridges.
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

/// Why a function could not be put on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// Another function stands there.
    Taken(Address),
    /// The bus does not exist.
    Bus(u8),
    /// No device number is free.
    Full,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(address) => write!(f, "PCI address {address} is in use"),
            Self::Bus(bus) => write!(f, "there is no PCI bus {bus:#x}"),
            Self::Full => f.write_str("no PCI slot is free"),
        }
    }
}

/// Who stands where on bus 0: 32 devices of 8 functions. `T` is the machine's own name for one of
/// its functions, small and `Copy`.
#[derive(Clone, Debug)]
pub struct Slots<T> {
    functions: [Option<T>; 256],
}

impl<T: Copy> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Slots<T> {
    /// An empty bus.
    pub const fn new() -> Self {
        Self {
            functions: [None; 256],
        }
    }

    /// Puts a function at an address.
    pub fn insert(&mut self, address: Address, function: T) -> Result<(), SlotError> {
        if address.bus != 0 {
            return Err(SlotError::Bus(address.bus));
        }
        let slot = &mut self.functions[usize::from(address.devfn)];
        if slot.is_some() {
            return Err(SlotError::Taken(address));
        }
        *slot = Some(function);
        Ok(())
    }

    /// Puts function 0 of a new device at the lowest device number that is free.
    pub fn insert_free(&mut self, function: T) -> Result<Address, SlotError> {
        let device = self
            .functions
            .chunks(8)
            .position(|functions| functions.iter().all(Option::is_none))
            .ok_or(SlotError::Full)?;
        let address = Address::new(0, device as u8, 0);
        self.insert(address, function)?;
        Ok(address)
    }

    /// Takes a function off the bus.
    pub fn remove(&mut self, address: Address) -> Option<T> {
        if address.bus != 0 {
            return None;
        }
        self.functions[usize::from(address.devfn)].take()
    }

    /// Who stands at an address.
    pub fn get(&self, address: Address) -> Option<T> {
        if address.bus != 0 {
            return None;
        }
        self.functions[usize::from(address.devfn)]
    }

    /// All functions, by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = (Address, T)> {
        let functions = self.functions.iter().enumerate();
        functions.filter_map(|(devfn, function)| {
            let devfn = devfn as u8;
            function.map(|function| (Address { bus: 0, devfn }, function))
        })
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
    fn slots_hold_one_function_each() {
        let mut slots = Slots::new();
        let address = Address::new(0, 1, 0);
        slots.insert(address, 'i').unwrap();
        assert_eq!(slots.insert(address, 'x'), Err(SlotError::Taken(address)));
        assert_eq!(
            slots.insert(Address::new(1, 0, 0), 'x'),
            Err(SlotError::Bus(1))
        );
        slots.insert(Address::new(0, 0, 3), 'h').unwrap();
        assert_eq!(slots.insert_free('n'), Ok(Address::new(0, 2, 0)));
        assert_eq!(slots.get(Address::new(0, 1, 1)), None);
        assert_eq!(slots.get(Address::new(1, 1, 0)), None);
        let all: std::string::String = slots.iter().map(|(_, name)| name).collect();
        assert_eq!(all, "hin");
        assert_eq!(slots.remove(address), Some('i'));
        assert_eq!(slots.insert_free('m'), Ok(address));
        while slots.insert_free('f').is_ok() {}
        assert_eq!(slots.iter().count(), 32);
        assert_eq!(slots.insert_free('f'), Err(SlotError::Full));
        let text = std::format!("{}", Address::new(0, 31, 7));
        assert_eq!(text, "00:1f.7");
    }
}
