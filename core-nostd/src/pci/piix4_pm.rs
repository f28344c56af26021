//! The 82371AB (PIIX4), function 3: power management, 00:01.3 on the PC board.
//!
//! Follows Intel 290562 (82371AB), chapter 7. The function places ACPI's fixed hardware
//! ([`crate::devices::acpi_pm`]) in I/O space; the rest of its registers (device activity, clock
//! control, SMI sources …) hold what is written and do nothing. Registers from 40h on are writable
//! throughout, as in QEMU's function, which also shows the presets of a board whose firmware has been
//! there already. The SMBus controller is not modelled: its host is off after a reset
//! (SMBHSTCFG), and turning it on brings nothing. APMC_EN is set from the start, by which firmware
//! takes system management mode, which there isn't, for set up.

use serde::{Deserialize, Serialize};

use super::config::{ConfigSpace, Identity, PciFunction, SavedConfig, reg};
use super::mechanism::Address;
use crate::devices::acpi_pm::SleepStates;
use crate::devices::class::{DeviceClass, Property, PropertyKind, PropertyValues, Value};
use crate::devices::{Context, Width};
use crate::state::{SavedState, StateError};

/// Its property of whether guests are not told of suspend to RAM: not 0.
pub const DISABLE_S3: &str = "disable_s3";
/// The same of suspend to disk.
pub const DISABLE_S4: &str = "disable_s4";
/// Its property of what guests write for suspend to disk.
pub const S4_VAL: &str = "s4_val";

/// The function. Of the properties of QEMU's class those about hotplug are not offered, which is not modelled.
pub static CLASS: DeviceClass = DeviceClass {
    name: "PIIX4_PM",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "Power management 82371AB",
    user_creatable: false,
    properties: &[
        Property {
            name: DISABLE_S3,
            kind: PropertyKind::Uint8,
            default: Value::Uint(0),
            doc: "hide suspend to RAM from guests",
        },
        Property {
            name: DISABLE_S4,
            kind: PropertyKind::Uint8,
            default: Value::Uint(0),
            doc: "hide suspend to disk from guests",
        },
        Property {
            name: S4_VAL,
            kind: PropertyKind::Uint8,
            default: Value::Uint(SleepStates::DEFAULT.s4_type as u64),
            doc: "what guests write for suspend to disk",
        },
    ],
};

/// Where the function stands on the PC board.
pub const ADDRESS: Address = Address::new(0, 1, 3);

/// Base of the power-management ports (290562, 7.1.9): bits 15 to 6.
const PMBASE: u8 = 0x40;
/// Where PMBASE's address is.
const PMBASE_MASK: u16 = 0xffc0;
/// Power-management I/O (290562, 7.1.26).
const PMREGMISC: u8 = 0x80;
/// PMREGMISC: the ports answer.
const PMREGMISC_PMIOSE: u8 = 1 << 0;
/// SMBus base (290562, 7.1.27): an I/O address, 0.
const SMBBASE: u8 = 0x90;

/// Status: fast back-to-back, and DEVSEL# timing medium.
const STATUS: u16 = 1 << 7 | 1 << 9;

/// What registers from 40h on hold after a reset, where that is not 0. Observed with QEMU 7.2.
const DEFAULTS: [(u8, u8); 5] = [
    (PMBASE, 0x01),
    (0x5b, 0x02), // device activity B: APMC_EN
    (0x5f, 0x10), // device resources A
    (0x63, 0x60), // device resources B
    (SMBBASE, 0x01),
];

/// What the properties say of sleeping states.
pub fn sleep_states(values: &PropertyValues) -> SleepStates {
    let number = |name| values.uint(name).unwrap_or(0);
    SleepStates {
        s3: number(DISABLE_S3) == 0,
        s4: number(DISABLE_S4) == 0,
        s4_type: number(S4_VAL) as u8,
    }
}

/// The power-management function.
#[derive(Clone, Debug)]
pub struct Piix4Pm {
    config: ConfigSpace,
}

/// Saved form of [`Piix4Pm`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedPiix4Pm {
    config: SavedConfig,
}

impl Piix4Pm {
    /// The function as after power-on. `base` is where the ports are then already, for guests
    /// that no firmware has run before; else they are nowhere.
    pub fn new(base: Option<u16>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7113,
            revision: 3,
            class: 0x06_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 1,
        });
        config.preset(reg::STATUS, &STATUS.to_le_bytes());
        config.allow_from(0x40);
        for (offset, value) in DEFAULTS {
            config.preset(offset, &[value]);
        }
        if let Some(base) = base {
            config.preset(PMBASE, &(base & PMBASE_MASK | 1).to_le_bytes());
            config.preset(PMREGMISC, &[PMREGMISC_PMIOSE]);
        }
        Self { config }
    }

    /// First of the ports of ACPI's fixed hardware; `None` while they do not answer.
    pub fn base(&self) -> Option<u16> {
        let enabled = self.config.byte(PMREGMISC) & PMREGMISC_PMIOSE != 0;
        let base = self.config.read(PMBASE, Width::Word) as u16;
        enabled.then_some(base & PMBASE_MASK)
    }
}

impl PciFunction for Piix4Pm {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// All registers go to their defaults.
    fn reset(&mut self, _cx: &mut Context<'_>) {
        self.config.reset();
    }
}

impl SavedState for Piix4Pm {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = SavedPiix4Pm;

    fn save(&self) -> SavedPiix4Pm {
        let Self { config } = self;
        SavedPiix4Pm {
            config: config.save(),
        }
    }

    fn load(&mut self, saved: SavedPiix4Pm, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedPiix4Pm { config } = saved;
        self.config.load(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(Piix4Pm, Piix4Pm::new(None), |device, bench| {
        device.config_write(&mut bench.context(), PMBASE, Width::Dword, 0x601);
    });

    /// Observed with QEMU 7.2: `-M pc,smm=off`, but for the SMBus.
    #[test]
    fn registers_after_power_on() {
        let device = Piix4Pm::new(None);
        let set = [
            (0x00, 0x7113_8086),
            (0x04, 0x0280_0000),
            (0x08, 0x0680_0003),
            (0x2c, 0x1100_1af4),
            (0x3c, 0x0100),
            (0x40, 0x01),
            (0x58, 0x0200_0000),
            (0x5c, 0x1000_0000),
            (0x60, 0x6000_0000),
            (0x90, 0x01),
        ];
        assert_registers(&device, &set);
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn ports_are_where_and_when_the_registers_say() {
        let (mut device, mut bench) = (Piix4Pm::new(None), Bench::new());
        let mut write = |offset, value| {
            device.config_write(&mut bench.context(), offset, Width::Dword, value);
            device.base()
        };
        assert_eq!(write(PMBASE, 0xffff_ffff), None);
        assert_eq!(write(PMREGMISC, 0xffff_ffff), Some(0xffc0));
        assert_eq!(write(PMBASE, 0x601), Some(0x600));
        assert_eq!(write(PMBASE, 0), Some(0));
        assert_eq!(write(PMREGMISC, 0xfe), None);
        assert_eq!(Piix4Pm::new(Some(0x600)).base(), Some(0x600));
    }
}
