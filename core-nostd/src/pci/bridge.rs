//! A PCI-to-PCI bridge: `pci-bridge`, the generic one of the virtual PCI vendor 1B36h.
//!
//! Follows the PCI-to-PCI Bridge Architecture Specification 1.1: header type 1, a 16-bit I/O window, a
//! 32-bit memory window and a 64-bit prefetchable one, and the slot numbering capability (chapter
//! 13), by which firmware tells chassis apart. What the windows and bus numbers do is the board's:
//! it forwards what they cover. Interrupt pins pass a bridge turned by the device number (section
//! 9.1).
//!
//! Both memory windows pass every range below, whether it says that it is prefetchable or not, as
//! in QEMU. Not modelled: VGA and ISA decoding, discard timers, error forwarding, and the hot-plug
//! controller that QEMU's bridge has unless it is told `shpc=off`; with it goes the message-signalled
//! interrupt, which serves that controller alone.

use super::config::{ConfigSpace, Identity, PciFunction, SavedConfig, reg};
use crate::devices::class::{DeviceClass, Property, PropertyKind, Value};
use crate::devices::{Context, Width};
use crate::state::{SavedState, StateError};

/// What `-device pci-bridge` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "pci-bridge",
    parent: "base-pci-bridge",
    bus: Some("PCI"),
    doc: "bridge to one more PCI bus",
    user_creatable: true,
    properties: &[
        Property {
            name: "chassis_nr",
            kind: PropertyKind::Uint8,
            default: Value::Uint(0),
            doc: "number of the chassis, 1 to 255: it must be given",
        },
        Property {
            name: "shpc",
            kind: PropertyKind::Bool,
            default: Value::Bool(true),
            doc: "standard hot-plug controller, which is not modelled",
        },
    ],
};

/// Where the slot numbering capability is.
const SLOT_NUMBERING: u8 = 0x40;
/// Its capability ID.
const SLOT_NUMBERING_ID: u8 = 0x04;
/// Expansion slot register: it is the first bridge of its chassis.
const FIRST_IN_CHASSIS: u8 = 1 << 5;

/// Status: 66 MHz, and fast back-to-back.
const STATUS: u16 = 1 << 5 | 1 << 7;

/// Bridge control: the secondary bus is being reset.
const SECONDARY_RESET: u8 = 1 << 6;

/// Command: the function answers I/O accesses.
const COMMAND_IO: u16 = 1 << 0;
/// Command: the function answers memory accesses.
const COMMAND_MEMORY: u16 = 1 << 1;

/// Addresses that a bridge passes on: first and last.
pub type Window = (u64, u64);

/// A PCI-to-PCI bridge.
#[derive(Clone, Debug)]
pub struct PciBridge {
    config: ConfigSpace,
}

impl PciBridge {
    /// The bridge of a chassis, 1 to 255, as after power-on.
    pub fn new(chassis: u8) -> Self {
        let mut config = ConfigSpace::bridge(Identity {
            vendor: 0x1b36,
            device: 0x0001,
            revision: 0,
            class: 0x06_0400,
            subsystem_vendor: 0,
            subsystem: 0,
            multifunction: false,
            interrupt_pin: 0,
        });
        config.preset(reg::STATUS, &STATUS.to_le_bytes());
        config.preset(reg::SECONDARY_STATUS, &STATUS.to_le_bytes());
        config.allow_from(0x40);
        let slots = [FIRST_IN_CHASSIS, chassis];
        config.add_capability(SLOT_NUMBERING, SLOT_NUMBERING_ID, &slots);
        config.allow(SLOT_NUMBERING + 3, &[0xff]);
        Self { config }
    }

    /// Number of the bus above.
    pub fn primary(&self) -> u8 {
        self.config.byte(reg::BUS_NUMBERS)
    }

    /// Number of the bus below.
    pub fn secondary(&self) -> u8 {
        self.config.byte(reg::BUS_NUMBERS + 1)
    }

    /// The highest number of the buses below.
    pub fn subordinate(&self) -> u8 {
        self.config.byte(reg::BUS_NUMBERS + 2)
    }

    /// Whether the secondary bus is held in reset.
    pub fn is_resetting(&self) -> bool {
        self.config.byte(reg::BRIDGE_CONTROL) & SECONDARY_RESET != 0
    }

    /// Whether configuration accesses to this bus pass, if it is not the secondary bus itself.
    pub fn forwards(&self, bus: u8) -> bool {
        !self.is_resetting() && (self.secondary()..=self.subordinate()).contains(&bus)
    }

    /// The I/O window as its registers say, whether it is open or not.
    pub fn io_range(&self) -> Window {
        let base = u64::from(self.config.byte(reg::IO_WINDOW) & 0xf0) << 8;
        let limit = u64::from(self.config.byte(reg::IO_WINDOW + 1) & 0xf0) << 8;
        (base, limit | 0xfff)
    }

    /// The memory window as its registers say.
    pub fn memory_range(&self) -> Window {
        let (base, limit) = self.blocks(reg::MEMORY_WINDOW);
        (base, limit | 0xf_ffff)
    }

    /// The prefetchable window as its registers say.
    pub fn prefetchable_range(&self) -> Window {
        let (base, limit) = self.blocks(reg::PREFETCHABLE_WINDOW);
        let upper = |at| u64::from(self.config.read(at, Width::Dword)) << 32;
        (
            base | upper(reg::PREFETCHABLE_UPPER),
            limit | 0xf_ffff | upper(reg::PREFETCHABLE_UPPER + 4),
        )
    }

    /// A memory window's ends, in blocks of 1 MiB.
    fn blocks(&self, at: u8) -> Window {
        let block = |at| u64::from(self.config.read(at, Width::Word) & 0xfff0) << 16;
        (block(at), block(at + 2))
    }

    /// The I/O ports that are passed on now.
    pub fn io_window(&self) -> Option<Window> {
        let (first, last) = self.io_range();
        (self.config.command() & COMMAND_IO != 0 && first <= last).then_some((first, last))
    }

    /// The memory that is passed on now, in two windows.
    pub fn memory_windows(&self) -> [Option<Window>; 2] {
        let open = self.config.command() & COMMAND_MEMORY != 0;
        let window = |(first, last)| (open && first <= last).then_some((first, last));
        [
            window(self.memory_range()),
            window(self.prefetchable_range()),
        ]
    }
}

/// Which interrupt pin of a bridge a pin, 0 for INTA# to 3 for INTD#, of device `device` below it
/// becomes.
pub const fn swizzle(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin) & 3
}

impl PciFunction for PciBridge {
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

impl SavedState for PciBridge {
    const NAME: &'static str = CLASS.name;
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
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(PciBridge, PciBridge::new(3), |device, bench| {
        device.config_write(&mut bench.context(), 0x18, Width::Dword, 0x0005_0100);
    });

    /// Observed with QEMU 7.2: `-device pci-bridge,chassis_nr=3,shpc=off`.
    #[test]
    fn registers_after_power_on() {
        let set = [
            (0x00, 0x0001_1b36),
            (0x04, 0x00b0_0000),
            (0x08, 0x0604_0000),
            (0x0c, 0x0001_0000),
            (0x1c, 0x00a0_0000),
            (0x24, 0x0001_0001),
            (0x34, 0x0000_0040),
            (0x40, 0x0320_0004),
        ];
        assert_registers(&PciBridge::new(3), &set);
    }

    /// Observed with QEMU 7.2: all ones written to all registers.
    #[test]
    fn registers_after_all_ones() {
        let (mut device, mut bench) = (PciBridge::new(3), Bench::new());
        for offset in (0..=252).step_by(4) {
            device.config_write(&mut bench.context(), offset, Width::Dword, u32::MAX);
            let expected = match offset {
                0x00 => 0x0001_1b36,
                0x04 => 0x00b0_0507,
                0x08 => 0x0604_0000,
                0x0c => 0x0001_00ff,
                0x1c => 0x00a0_f0f0,
                0x20 => 0xfff0_fff0,
                0x24 => 0xfff1_fff1,
                0x34 => 0x40,
                0x3c => 0x0bff_00ff,
                0x40 => 0xff20_0004,
                0x18 | 0x28 | 0x2c | 0x44.. => u32::MAX,
                _ => 0,
            };
            let value = device.config_read(offset, Width::Dword);
            assert_eq!(value, expected, "{offset:#x}");
        }
    }

    fn write(device: &mut PciBridge, offset: u8, value: u32) {
        let mut bench = Bench::new();
        device.config_write(&mut bench.context(), offset, Width::Dword, value);
    }

    #[test]
    fn windows_open_with_the_command_register() {
        let mut device = PciBridge::new(1);
        write(&mut device, reg::MEMORY_WINDOW, 0xfe10_fe00);
        write(&mut device, reg::PREFETCHABLE_WINDOW, 0x0000_fff0);
        write(&mut device, reg::PREFETCHABLE_UPPER, 0x8);
        write(&mut device, reg::PREFETCHABLE_UPPER + 4, 0x9);
        write(&mut device, reg::IO_WINDOW, 0xd0c0);
        assert_eq!(device.io_window(), None);
        assert_eq!(device.memory_windows(), [None; 2]);
        write(&mut device, reg::COMMAND, 3);
        assert_eq!(device.io_window(), Some((0xc000, 0xdfff)));
        assert_eq!(
            device.memory_windows(),
            [
                Some((0xfe00_0000, 0xfe1f_ffff)),
                Some((0x8_fff0_0000, 0x9_000f_ffff))
            ]
        );
        write(&mut device, reg::IO_WINDOW, 0xc0d0);
        write(&mut device, reg::MEMORY_WINDOW, 0xfdf0_fe00);
        assert_eq!(device.io_window(), None, "the limit is below the base");
        assert_eq!(device.memory_windows()[0], None);
        assert_eq!(device.io_range(), (0xd000, 0xcfff));
    }

    #[test]
    fn bus_numbers_say_what_is_below() {
        let mut device = PciBridge::new(1);
        write(&mut device, reg::BUS_NUMBERS, 0x0005_0200);
        assert_eq!(
            (device.primary(), device.secondary(), device.subordinate()),
            (0, 2, 5)
        );
        assert!(!device.forwards(1) && device.forwards(2) && device.forwards(5));
        assert!(!device.forwards(6));
        write(&mut device, 0x3c, 0x0040_0000);
        assert!(device.is_resetting() && !device.forwards(3));
    }

    #[test]
    fn pins_turn_with_the_device_number() {
        assert_eq!(swizzle(0, 0), 0);
        assert_eq!(swizzle(1, 0), 1);
        assert_eq!(swizzle(5, 3), 0);
        assert_eq!(swizzle(31, 3), 2);
    }
}
