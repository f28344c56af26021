//! QEMU's `isa-debug-exit`: a port whose writes end the process, so that test images can report
//! a verdict as its exit status.
//!
//! No hardware has it; the behaviour is QEMU's, observed: any write, of any width and at any of
//! its ports, ends the process with status `value << 1 | 1` (of which the operating system keeps 8
//! bits), so a guest can never report 0. Reads give 0.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Effect, PortDevice, PowerRequest, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// First port unless `iobase` says otherwise.
pub const IOBASE: u16 = 0x501;

/// Ports unless `iosize` says otherwise.
pub const IOSIZE: u16 = 2;

/// What `-device isa-debug-exit` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-debug-exit",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "port whose writes end the process with an exit status",
    user_creatable: true,
    properties: &[
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(IOBASE as u64),
            doc: "first port",
        },
        Property {
            name: "iosize",
            kind: PropertyKind::Uint32,
            default: Value::Uint(IOSIZE as u64),
            doc: "number of ports",
        },
    ],
};

/// The debug exit port. It has no state.
#[derive(Debug, Default)]
pub struct DebugExit;

/// Saved form, version 1: empty, since the device remembers nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {}

impl DebugExit {
    /// The device; the board maps it at its `iobase`.
    pub const fn new() -> Self {
        Self
    }

    /// Does nothing: there is no state.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {}
}

/// The exit status that a written value stands for.
pub const fn status(value: u32) -> i32 {
    (value.wrapping_shl(1) | 1) as i32
}

impl PortDevice for DebugExit {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width) -> u32 {
        0
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, _offset: u16, _width: Width, value: u32) {
        trace::debug_exit_write(value);
        cx.effects
            .push(Effect::Power(PowerRequest::Exit(status(value))));
    }
}

impl SavedState for DebugExit {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self = self;
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

    #[test]
    fn writes_exit_with_the_status_that_qemu_gives() {
        let mut bench = Bench::new();
        let mut device = DebugExit::new();
        for (width, value, low) in [
            (Width::Byte, 0x10, 33),
            (Width::Byte, 0x03, 7),
            (Width::Byte, 0xff, 255),
            (Width::Word, 0x1234, 105),
            (Width::Dword, 0x1234_5678, 241),
        ] {
            device.pio_write(&mut bench.context(), 0, width, value);
            let Some(Effect::Power(PowerRequest::Exit(status))) = bench.effects.take() else {
                panic!("no exit for {value:#x}");
            };
            assert_eq!(status & 0xff, low);
        }
    }

    #[test]
    fn reads_are_zero_and_without_effect() {
        let mut bench = Bench::new();
        assert_eq!(bench.inb(&mut DebugExit::new(), 1), 0);
        assert_eq!(bench.effects.take(), None);
    }

    #[test]
    fn its_section_is_checked() {
        let mut bench = Bench::new();
        let mut bytes = [0; 64];
        let length = save(&DebugExit::new(), &mut bytes).unwrap();
        let mut device = DebugExit::new();
        assert_eq!(
            load(&mut device, &bytes[..length], &mut bench.context()),
            Ok(&[][..])
        );
        assert!(load(&mut device, &bytes[..length - 1], &mut bench.context()).is_err());
    }
}
