//! QEMU's `isa-debugcon`, the Bochs debug port: each byte written goes to a console, and a read
//! gives a constant by which firmware finds out that the port exists.
//!
//! No hardware has it; the behaviour is QEMU's, observed. The port is E9h unless `iobase` says
//! otherwise (SeaBIOS and OVMF write to 402h). There is no flow control: a console that can not
//! take a byte loses it or keeps it, as its owner decides. The device remembers nothing, so
//! its saved form carries only the constant, and a machine whose constant differs refuses it.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{ConsoleId, Context, Effect, PortDevice, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// The port unless `iobase` says otherwise.
pub const IOBASE: u16 = 0xe9;

/// What reads give unless `readback` says otherwise.
pub const READBACK: u8 = 0xe9;

/// What `-device isa-debugcon` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-debugcon",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "debug console port",
    user_creatable: true,
    properties: &[
        Property {
            name: "chardev",
            kind: PropertyKind::Chardev,
            default: Value::Unset,
            doc: "character device that the bytes go to",
        },
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(IOBASE as u64),
            doc: "the port",
        },
        Property {
            name: "readback",
            kind: PropertyKind::Uint32,
            default: Value::Uint(READBACK as u64),
            doc: "what reads of the port give; its low byte counts",
        },
    ],
};

/// The debug console port.
#[derive(Debug)]
pub struct Debugcon {
    console: ConsoleId,
    readback: u8,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    readback: u8,
}

impl Debugcon {
    /// A port that writes to `console` and reads as the low byte of `readback`.
    pub const fn new(console: ConsoleId, readback: u32) -> Self {
        Self {
            console,
            readback: readback as u8,
        }
    }

    /// Does nothing: there is no state.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {}
}

impl PortDevice for Debugcon {
    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width) -> u32 {
        self.readback.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, _offset: u16, _width: Width, value: u32) {
        trace::debugcon_write(self.console.0, value as u8);
        cx.effects.push(Effect::Console(self.console, value as u8));
    }
}

impl SavedState for Debugcon {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self {
            console: _,
            readback,
        } = *self;
        Saved { readback }
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { readback } = saved;
        if readback != self.readback {
            return Err(StateError::Invalid("readback"));
        }
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

    #[test]
    fn bytes_go_to_the_console_and_reads_give_the_constant() {
        let mut bench = Bench::new();
        let mut device = Debugcon::new(ConsoleId(3), READBACK.into());
        bench.out(&mut device, 0, b'A');
        assert_eq!(
            bench.effects.take(),
            Some(Effect::Console(ConsoleId(3), b'A'))
        );
        assert_eq!(bench.effects.take(), None);
        assert_eq!(bench.inb(&mut device, 0), 0xe9);
        let mut other = Debugcon::new(ConsoleId(3), 0x1234);
        assert_eq!(bench.inb(&mut other, 0), 0x34);
    }

    #[test]
    fn a_different_constant_is_refused() {
        let mut bench = Bench::new();
        let mut bytes = [0; 64];
        let mut device = Debugcon::new(ConsoleId(0), 0xe9);
        let length = save(&device, &mut bytes).unwrap();
        assert!(load(&mut device, &bytes[..length], &mut bench.context()).is_ok());
        assert!(load(&mut device, &bytes[..length - 1], &mut bench.context()).is_err());
        let mut other = Debugcon::new(ConsoleId(0), 0x12);
        assert_eq!(
            load(&mut other, &bytes[..length], &mut bench.context()),
            Err(StateError::Invalid("readback"))
        );
    }
}
