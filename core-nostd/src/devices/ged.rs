//! Generic Event Device: what a guest without ACPI's fixed hardware hears of the power button by, and powers off and resets with.
//!
//! Follows ACPI 6.4, section 4.1 (hardware-reduced ACPI), section 4.8.3.7 (sleep control and status registers), section 4.8.3.6
//! (reset register) and section 5.6.9 (interrupt-signaled events). Registers are those of QEMU's `acpi-ged`, in memory: one of 32 bits
//! that says which events have come, and is cleared by being read, and three bytes of sleep control, sleep status and reset. Each event
//! is a pulse on the device's line. The guest learns of all that from the DSDT.
//!
//! Soft-off is the one sleeping state. Deliberately not modelled: events of memory, processors and storage that come and go, for which
//! QEMU's has a bit each; the wake status, since nobody wakes up from soft-off. A reset clears events that nobody has read.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Effect, PowerRequest, ShutdownCause, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};

/// Class of the device.
pub static CLASS: DeviceClass = DeviceClass {
    name: "acpi-ged-x86",
    parent: "acpi-ged",
    bus: Some("System"),
    doc: "ACPI's Generic Event Device",
    user_creatable: false,
    properties: &[Property {
        name: "ged-event",
        kind: PropertyKind::Uint32,
        default: Value::Uint(0),
        doc: "events that it knows of, a bit each",
    }],
};

/// Guest physical address of the event register.
pub const EVENTS: u64 = 0xfea0_0000;
/// Bytes of the event register, which is read as a whole.
pub const EVENTS_LENGTH: u64 = 4;
/// Guest physical address of sleep control; sleep status and reset follow.
pub const REGISTERS: u64 = 0xfea0_0200;
/// Bytes of these registers.
pub const REGISTERS_LENGTH: u64 = 3;

/// Offset of sleep control among these registers.
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of sleep status.
pub const SLEEP_STATUS: u64 = 1;
/// Offset of the reset register.
pub const RESET: u64 = 2;
/// What is written there to reset the machine.
pub const RESET_VALUE: u8 = 0x42;
/// SLP_TYPx of soft-off.
pub const SOFT_OFF: u8 = 5;

/// Event: the power button was pressed.
pub const POWER_BUTTON: u32 = 1 << 1;

/// Sleep control: SLP_TYPx begins here; it has three bits.
const SLP_TYP: u8 = 2;
/// Sleep control: SLP_EN, sleep now.
const SLP_EN: u8 = 1 << 5;

/// The device.
#[derive(Clone, Debug)]
pub struct Ged {
    line: IrqLine,
    state: State,
}

/// Guest-visible state, which is the saved form, too, version 1.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Events that have come and were not read, a bit each.
    events: u32,
}

impl Ged {
    /// The device as after power-on, with the line that it tells of events by.
    pub const fn new(line: IrqLine) -> Self {
        Self {
            line,
            state: State { events: 0 },
        }
    }

    /// No event has come.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.state = State::default();
    }

    /// The power button is pressed.
    pub fn press_power_button(&mut self, cx: &mut Context<'_>) {
        self.state.events |= POWER_BUTTON;
        cx.lines.pulse(self.line);
    }

    /// Reads the event register, which knows of whole accesses alone.
    pub fn events_read(&mut self, width: Width) -> u32 {
        match width {
            Width::Dword => core::mem::take(&mut self.state.events),
            _ => 0,
        }
    }

    /// Writes a byte of the other registers, of which none can be read.
    pub fn write(&mut self, cx: &mut Context<'_>, offset: u64, value: u8) {
        let request = match offset {
            SLEEP_CONTROL if value & SLP_EN != 0 && value >> SLP_TYP & 7 == SOFT_OFF => {
                PowerRequest::Shutdown(ShutdownCause::GuestShutdown)
            }
            RESET if value == RESET_VALUE => PowerRequest::Reset(ShutdownCause::GuestReset),
            _ => return,
        };
        cx.effects.push(Effect::Power(request));
    }
}

impl SavedState for Ged {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = State;

    fn save(&self) -> State {
        self.state
    }

    fn load(&mut self, saved: State, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let State { events } = saved;
        if events & !POWER_BUTTON != 0 {
            return Err(StateError::Invalid("events"));
        }
        self.state = saved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;

    const LINE: IrqLine = IrqLine::new(9);

    lifecycle_tests!(Ged, Ged::new(LINE), |device, bench| {
        device.press_power_button(&mut bench.context());
    });

    #[test]
    fn the_button_is_a_pulse_and_a_bit() {
        let mut bench = Bench::new();
        let mut ged = Ged::new(LINE);
        ged.press_power_button(&mut bench.context());
        let levels = core::iter::from_fn(|| bench.lines.take_change()).map(|change| change.level);
        assert_eq!(levels.collect::<std::vec::Vec<_>>(), [true, false]);
        // Observed with QEMU 7.2: other widths read zeros, and leave it.
        for width in [Width::Byte, Width::Word] {
            assert_eq!(ged.events_read(width), 0);
        }
        assert_eq!(ged.events_read(Width::Dword), POWER_BUTTON);
        assert_eq!(ged.events_read(Width::Dword), 0);
    }

    #[test]
    fn power_goes_by_the_right_words_alone() {
        let mut bench = Bench::new();
        let mut ged = Ged::new(LINE);
        for offset in 0..REGISTERS_LENGTH {
            for value in 0..=u8::MAX {
                ged.write(&mut bench.context(), offset, value);
                let expected = match (offset, value) {
                    (SLEEP_CONTROL, _) if value & 0x3c == 0x34 => {
                        Some(PowerRequest::Shutdown(ShutdownCause::GuestShutdown))
                    }
                    (RESET, 0x42) => Some(PowerRequest::Reset(ShutdownCause::GuestReset)),
                    _ => None,
                };
                assert_eq!(bench.effects.take(), expected.map(Effect::Power));
            }
        }
    }

    #[test]
    fn events_that_are_none_are_refused() {
        let mut bench = Bench::new();
        let mut ged = Ged::new(LINE);
        let error = ged.load(State { events: 1 }, &mut bench.context());
        assert_eq!(error, Err(StateError::Invalid("events")));
    }
}
