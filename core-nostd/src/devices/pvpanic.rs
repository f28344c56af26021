//! The paravirtual panic device: a port by which a guest tells that its kernel has crashed.
//!
//! Follows QEMU's pvpanic specification (docs/specs/pvpanic): the port, 505h unless set otherwise,
//! reads as the events that the device knows; a write reports one. Bit 0 is a panic; bit 1 is a
//! panic that a crash kernel takes care of. Where both are written, bit 0 counts.
//!
//! As QEMU 7.2 shows it: the property `events` changes what the guest reads, not what the device
//! takes, and other bits are passed over. A wide access reads the same byte in each of its
//! positions, and writes its bytes one after the other. Firmware finds the port in the fw_cfg file
//! [`FW_CFG_FILE`].
//!
//! Not here: the PCI form of the device, and what ACPI tells of it.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Effect, GuestEvent, PortDevice, Width};
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

/// What `-device pvpanic` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "pvpanic",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "port by which a guest reports its panic",
    user_creatable: true,
    properties: &[
        Property {
            name: "events",
            kind: PropertyKind::Uint8,
            default: Value::Uint(EVENTS as u64),
            doc: "events that the guest is told of",
        },
        Property {
            name: "ioport",
            kind: PropertyKind::Uint16,
            default: Value::Uint(IOPORT as u64),
            doc: "the port",
        },
    ],
};

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
}

impl PortDevice for Pvpanic {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width) -> u32 {
        u32::from_ne_bytes([self.events; 4])
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, _offset: u16, width: Width, value: u32) {
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

// The lifecycle tests ask for a change that shows in the saved state, which can not exist here:
// what holds without one is tested below.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::{load, save};

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
}
