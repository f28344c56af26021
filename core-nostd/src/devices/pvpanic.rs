//! The paravirtual panic device: a register by which a guest tells that its kernel has crashed, at a
//! port (`pvpanic`) or in the memory of a PCI function (`pvpanic-pci`).
//!
//! Follows QEMU's pvpanic specification (docs/specs/pvpanic): the register reads as the events that
//! the device knows; a write reports one. Bit 0 is a panic; bit 1 is a panic that a crash kernel
//! takes care of. Where both are written, bit 0 counts. The port is 505h unless set otherwise;
//! the PCI function, 1B36h:0011h, has the register in both bytes of BAR 0.
//!
//! As QEMU 7.2 shows it: the property `events` changes what the guest reads, not what the device
//! takes, and other bits are passed over. A wide access reads the same byte in each of its
//! positions, and writes its bytes one after the other. Firmware finds the port in the fw_cfg file
//! [`FW_CFG_FILE`]; of the PCI function nobody tells it but the bus.
//!
//! Not here: what ACPI tells of the port.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Effect, GuestEvent, PortDevice, Width};
use crate::pci::config::SavedConfig;
use crate::pci::{BarKind, ConfigSpace, Identity, PciFunction};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// The port unless `ioport` says otherwise.
pub const IOPORT: u16 = 0x505;

/// The file of fw_cfg that holds the port: 16 bits, little-endian.
pub const FW_CFG_FILE: &str = "etc/pvpanic-port";

/// The guest's kernel has panicked.
const PANICKED: u8 = 1 << 0;
/// The guest's kernel has panicked, and its crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;

/// Events that the device knows unless `events` says otherwise.
pub const EVENTS: u8 = PANICKED | CRASH_LOADED;

const EVENTS_PROPERTY: Property = Property {
    name: "events",
    kind: PropertyKind::Uint8,
    default: Value::Uint(EVENTS as u64),
    doc: "events that the guest is told of",
};

/// What `-device pvpanic` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "pvpanic",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "port by which a guest reports its panic",
    user_creatable: true,
    properties: &[
        EVENTS_PROPERTY,
        Property {
            name: "ioport",
            kind: PropertyKind::Uint16,
            default: Value::Uint(IOPORT as u64),
            doc: "the port",
        },
    ],
};

/// What `-device pvpanic-pci` takes.
pub static PCI_CLASS: DeviceClass = DeviceClass {
    name: "pvpanic-pci",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "PCI function by which a guest reports its panic",
    user_creatable: true,
    properties: &[EVENTS_PROPERTY],
};

/// Bytes of the PCI function's range: fewer than the 16 that PCI has as the least, as in QEMU.
const RANGE: u64 = 2;

/// The panic device. It has no state.
#[derive(Clone, Debug)]
pub struct Pvpanic {
    /// What the port reads.
    events: u8,
}

/// Saved form, version 1: empty, since the device remembers nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {}

impl Pvpanic {
    /// A device that tells the guest of these events; the board maps it at its `ioport`.
    pub const fn new(events: u8) -> Self {
        Self { events }
    }

    /// Does nothing: there is no state.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {}

    fn read(&self) -> u32 {
        u32::from_ne_bytes([self.events; 4])
    }

    fn write(&mut self, cx: &mut Context<'_>, width: Width, value: u32) {
        trace::pvpanic_write(value);
        for byte in value.to_le_bytes().into_iter().take(width as usize) {
            let event = if byte & PANICKED != 0 {
                GuestEvent::Panicked
            } else if byte & CRASH_LOADED != 0 {
                GuestEvent::CrashLoaded
            } else {
                continue;
            };
            cx.effects.push(Effect::Guest(event));
        }
    }
}

impl PortDevice for Pvpanic {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width) -> u32 {
        self.read()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, _offset: u16, width: Width, value: u32) {
        self.write(cx, width, value);
    }
}

impl SavedState for Pvpanic {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self { events: _ } = self;
        Saved {}
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {} = saved;
        Ok(())
    }
}

/// The panic device as a PCI function.
#[derive(Clone, Debug)]
pub struct PvpanicPci {
    device: Pvpanic,
    config: ConfigSpace,
}

/// Saved form of the PCI function, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPci {
    config: SavedConfig,
}

impl PvpanicPci {
    /// A function that tells the guest of these events.
    pub fn new(events: u8) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1b36,
            device: 0x0011,
            revision: 1,
            class: 0x08_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 0,
        });
        config.allow_from(0x40);
        let prefetchable = false;
        let fits = config.set_bar(0, BarKind::Memory32 { prefetchable }, RANGE);
        debug_assert!(fits, "2 bytes");
        Self {
            device: Pvpanic::new(events),
            config,
        }
    }
}

impl PciFunction for PvpanicPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        self.config.reset();
        self.device.reset(cx);
    }

    fn bar_read(&mut self, _cx: &mut Context<'_>, _bar: usize, _at: u64, width: Width) -> u64 {
        u64::from(self.device.read()) & width.ones()
    }

    fn bar_write(
        &mut self,
        cx: &mut Context<'_>,
        _bar: usize,
        _offset: u64,
        width: Width,
        value: u64,
    ) {
        self.device.write(cx, width, value as u32);
    }
}

impl SavedState for PvpanicPci {
    const NAME: &'static str = PCI_CLASS.name;
    const VERSION: u16 = 1;
    type Saved = SavedPci;

    fn save(&self) -> SavedPci {
        let Self { device: _, config } = self;
        SavedPci {
            config: config.save(),
        }
    }

    fn load(&mut self, saved: SavedPci, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedPci { config } = saved;
        self.config.load(config)
    }
}

// The lifecycle tests ask for a change that shows in the saved state, which can not exist for the port:
// what holds without one is tested below.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::pci::config::reg;
    use crate::state::{lifecycle_tests, load, save};

    /// The events that a write causes.
    fn written(width: Width, value: u32) -> std::vec::Vec<GuestEvent> {
        let mut bench = Bench::new();
        Pvpanic::new(EVENTS).pio_write(&mut bench.context(), 0, width, value);
        core::iter::from_fn(|| bench.effects.take())
            .map(|effect| match effect {
                Effect::Guest(event) => event,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn bits_are_events_and_the_panic_counts() {
        use GuestEvent::{CrashLoaded, Panicked};
        for (value, events) in [
            (0x01, &[Panicked][..]),
            (0x02, &[CrashLoaded]),
            (0x03, &[Panicked]),
            (0xff, &[Panicked]),
            (0x00, &[]),
            (0xfc, &[]),
        ] {
            assert_eq!(written(Width::Byte, value), events, "{value:#x}");
        }
        assert_eq!(written(Width::Byte, 0x0200), []);
        assert_eq!(written(Width::Word, 0x0200), [CrashLoaded]);
        assert_eq!(written(Width::Word, 0x0102), [CrashLoaded, Panicked]);
        assert_eq!(written(Width::Dword, 0x0202_0202), [CrashLoaded; 4]);
    }

    #[test]
    fn reads_tell_the_events_and_have_no_effect() {
        let mut bench = Bench::new();
        for events in [0, 1, 3, 0xff] {
            let mut device = Pvpanic::new(events);
            assert_eq!(bench.inb(&mut device, 0), events);
        }
        let wide = Pvpanic::new(3).pio_read(&mut bench.context(), 0, Width::Dword);
        assert_eq!(wide, 0x0303_0303);
        assert_eq!(bench.effects.take(), None);
    }

    #[test]
    fn its_section_is_checked() {
        let mut bench = Bench::new();
        let mut bytes = [0; 64];
        let mut device = Pvpanic::new(1);
        let length = save(&device, &mut bytes).unwrap();
        assert_eq!(
            load(&mut device, &bytes[..length], &mut bench.context()),
            Ok(&[][..])
        );
        assert!(load(&mut device, &bytes[..length - 1], &mut bench.context()).is_err());
        assert_eq!(bench.inb(&mut device, 0), 1, "the configuration stays");
    }

    lifecycle_tests!(PvpanicPci, PvpanicPci::new(EVENTS), |device, bench| {
        let memory = 1 << 1;
        device.config_write(&mut bench.context(), reg::COMMAND, Width::Byte, memory);
    });

    /// Observed with QEMU 7.2.
    #[test]
    fn the_function_after_power_on() {
        let set = [
            (0x00, 0x0011_1b36),
            (0x08, 0x0880_0001),
            (0x2c, 0x1100_1af4),
        ];
        let mut device = PvpanicPci::new(EVENTS);
        assert_registers(&device, &set);
        device.config_write(
            &mut Bench::new().context(),
            reg::BAR0,
            Width::Dword,
            u32::MAX,
        );
        assert_eq!(device.config_read(reg::BAR0, Width::Dword), 0xffff_fffe);
    }

    #[test]
    fn both_bytes_of_the_range_are_the_register() {
        let mut bench = Bench::new();
        let mut device = PvpanicPci::new(0x81);
        let read = |device: &mut PvpanicPci, at, width| {
            device.bar_read(&mut Bench::new().context(), 0, at, width)
        };
        assert_eq!(read(&mut device, 0, Width::Byte), 0x81);
        assert_eq!(read(&mut device, 1, Width::Byte), 0x81);
        assert_eq!(read(&mut device, 0, Width::Word), 0x8181);
        device.bar_write(&mut bench.context(), 0, 1, Width::Byte, 1);
        device.bar_write(&mut bench.context(), 0, 0, Width::Word, 0x0100);
        device.bar_write(&mut bench.context(), 0, 0, Width::Byte, 2);
        for event in [
            GuestEvent::Panicked,
            GuestEvent::Panicked,
            GuestEvent::CrashLoaded,
        ] {
            assert_eq!(bench.effects.take(), Some(Effect::Guest(event)));
        }
        assert_eq!(bench.effects.take(), None);
    }
}
