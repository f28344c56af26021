//! System control port A, 92h: the fast A20 gate and fast reset of the PS/2.
//!
//! It follows the IBM PS/2 Technical Reference's system control port A as QEMU's `port92` shows
//! it: all eight bits read back as written. Not modelled are the security lock and the fixed
//! disk activity light (bits 3, 6 and 7), which have nothing to act on here, and the watchdog
//! status (bit 4). The keyboard controller has an A20 gate of its own; the one written last
//! counts, and neither shows what the other did.

use serde::{Deserialize, Serialize};

use super::class::DeviceClass;
use super::{Context, Effect, PortDevice, PowerRequest, ShutdownCause, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// The port that a board maps it at.
pub const PORT: u16 = 0x92;

/// Alternate hot reset: a rising edge resets.
const FAST_RESET: u8 = 1 << 0;
/// Alternate gate A20: address bit 20 passes.
const FAST_A20: u8 = 1 << 1;

/// The class, which boards create only.
pub static CLASS: DeviceClass = DeviceClass {
    name: "port92",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "system control port A: fast A20 gate and reset",
    user_creatable: false,
    properties: &[],
};

/// System control port A.
#[derive(Debug, Default)]
pub struct Port92 {
    state: State,
}

/// What the guest has written.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    control: u8,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    control: u8,
}

impl Port92 {
    /// The port after power-on: all bits zero.
    pub const fn new() -> Self {
        Self {
            state: State { control: 0 },
        }
    }

    /// Clears the port. It drives the A20 gate at writes only, so the gate is left to the board.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.state = State::default();
    }
}

impl PortDevice for Port92 {
    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width) -> u32 {
        trace::port92_read(self.state.control);
        self.state.control.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, _offset: u16, _width: Width, value: u32) {
        trace::port92_write(value as u8);
        let old = core::mem::replace(&mut self.state.control, value as u8);
        let new = self.state.control;
        cx.effects.push(Effect::A20(new & FAST_A20 != 0));
        if new & !old & FAST_RESET != 0 {
            let reset = PowerRequest::Reset(ShutdownCause::GuestReset);
            cx.effects.push(Effect::Power(reset));
        }
    }
}

impl SavedState for Port92 {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State { control } = self.state;
        Saved { control }
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { control } = saved;
        self.state = State { control };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(Port92, Port92::new(), |device, bench| {
        bench.out(device, 0, FAST_A20)
    });

    #[test]
    fn bits_read_back_and_gate_a20() {
        let mut bench = Bench::new();
        let mut port = Port92::new();
        assert_eq!(bench.inb(&mut port, 0), 0);
        for (value, gate) in [(0x02, true), (0xfe, true), (0x00, false)] {
            bench.out(&mut port, 0, value);
            assert_eq!(bench.inb(&mut port, 0), value);
            assert_eq!(bench.effects.take(), Some(Effect::A20(gate)));
            assert_eq!(bench.effects.take(), None);
        }
    }

    #[test]
    fn only_the_rising_edge_resets() {
        let mut bench = Bench::new();
        let mut port = Port92::new();
        let reset = Some(Effect::Power(PowerRequest::Reset(
            ShutdownCause::GuestReset,
        )));
        bench.out(&mut port, 0, 0x01);
        assert_eq!(bench.effects.take(), Some(Effect::A20(false)));
        assert_eq!(bench.effects.take(), reset);
        bench.out(&mut port, 0, 0x03);
        assert_eq!(bench.effects.take(), Some(Effect::A20(true)));
        assert_eq!(bench.effects.take(), None);
    }
}
