//! A generic PCI Express host bridge: configuration space in memory (ECAM), and windows for the functions' own addresses.
//!
//! Follows the PCI Express Base Specification 3.0, section 7.2.2 (enhanced configuration access mechanism), and section 2.2.13 of the
//! PCI-to-PCI Bridge Architecture Specification for the interrupt pins; addresses are those of QEMU's microvm, which calls the bridge
//! GPEX. There are no ports on this bus: nothing translates accesses to memory into them. Functions have the 256 bytes of
//! configuration space of conventional PCI; what is behind them reads as ones. There are no root ports, and nothing is plugged in
//! while the machine runs. Function 00:00.0 says what the bus hangs on, and does nothing.

use super::config::{CONFIG_BYTES, ConfigSpace, Identity, PciFunction, SavedConfig};
use super::mechanism::Address;
use crate::devices::Context;
use crate::devices::class::DeviceClass;
use crate::state::{SavedState, StateError};

/// The host bridge.
pub static HOST_CLASS: DeviceClass = DeviceClass {
    name: "gpex-pcihost",
    parent: "pcie-host-bridge",
    bus: Some("System"),
    doc: "Generic PCI Express host bridge",
    user_creatable: false,
    properties: &[],
};

/// Its function. QEMU's properties of this class are those of any PCI device and do nothing for a fixed one, so that none is
/// offered.
pub static CLASS: DeviceClass = DeviceClass {
    name: "gpex-root",
    parent: "pci-device",
    bus: Some("PCIE"),
    doc: "QEMU generic PCIe host bridge",
    user_creatable: false,
    properties: &[],
};

/// Where the function stands.
pub const ADDRESS: Address = Address::new(0, 0, 0);
/// The name of the bus.
pub const BUS: &str = "pcie.0";

/// First address of configuration space.
pub const ECAM: u64 = 0xe000_0000;
/// Bytes of configuration space: 1 MiB a bus.
pub const ECAM_LENGTH: u64 = 256 << 20;

/// First and last address of the windows in which functions answer: below 4 GiB, and the topmost quarter of 40 bits.
pub const WINDOWS: [(u64, u64); 2] = [(0xc000_0000, 0xdfff_ffff), (0xc0_0000_0000, 0xff_ffff_ffff)];

/// Interrupts of the bus.
pub const PINS: u8 = 4;

/// The function and its register at an offset of configuration space; `None` for a register behind those that functions have.
pub const fn decode(offset: u64) -> (Address, Option<u8>) {
    let register = offset & 0xfff;
    let register = match register < CONFIG_BYTES as u64 {
        true => Some(register as u8),
        false => None,
    };
    (
        Address::at((offset >> 20) as u8, (offset >> 12) as u8),
        register,
    )
}

/// Which of the bus's interrupts, 0 to 3, a pin, 0 to 3, of a slot is.
pub const fn interrupt_of(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin) % PINS
}

/// The function of the host bridge.
#[derive(Clone, Debug)]
pub struct Gpex {
    config: ConfigSpace,
}

impl Gpex {
    /// The function after power-on.
    pub fn new() -> Self {
        Self {
            config: ConfigSpace::new(Identity {
                vendor: 0x1b36,
                device: 0x0008,
                revision: 0,
                class: 0x06_0000,
                subsystem_vendor: 0x1af4,
                subsystem: 0x1100,
                multifunction: false,
                interrupt_pin: 0,
            }),
        }
    }
}

impl Default for Gpex {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for Gpex {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn reset(&mut self, _cx: &mut Context<'_>) {
        self.config.reset();
    }
}

impl SavedState for Gpex {
    const NAME: &'static str = "gpex-root";
    const VERSION: u16 = 1;
    type Saved = SavedConfig;

    fn save(&self) -> SavedConfig {
        let Self { config } = self;
        config.save()
    }

    fn load(&mut self, saved: SavedConfig, _cx: &mut Context<'_>) -> Result<(), StateError> {
        self.config.load(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Width;
    use crate::pci::config::reg;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(Gpex, Gpex::new(), |device, bench| {
        device.config_write(&mut bench.context(), reg::COMMAND, Width::Byte, 7);
    });

    #[test]
    fn offsets_are_functions_and_registers() {
        assert_eq!(decode(0), (ADDRESS, Some(0)));
        assert_eq!(decode(0x1f_a0ff), (Address::new(1, 31, 2), Some(0xff)));
        assert_eq!(decode(0x8100), (Address::new(0, 1, 0), None));
        assert_eq!(decode(ECAM_LENGTH - 1), (Address::new(255, 31, 7), None));
    }

    #[test]
    fn pins_go_round() {
        for (device, pin, interrupt) in [(0, 0, 0), (1, 0, 1), (1, 3, 0), (31, 2, 1)] {
            assert_eq!(interrupt_of(device, pin), interrupt);
        }
    }
}
