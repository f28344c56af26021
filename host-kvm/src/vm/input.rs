//! Keys, buttons and movements. A key wakes a guest up that sleeps, and is lost in the reset; mice, which guests switch off before they
//! go to sleep, do not.

use thimble_core::devices::acpi_pm::WakeReason;
use thimble_core::devices::input::{InputEvent, QKeyCode};
use thimble_core::machine::TypedFull;
use thimble_monitor::Inputs;

use super::Vm;

impl Inputs for Vm {
    fn input(&mut self, events: &mut dyn Iterator<Item = InputEvent>) {
        let mut keys = false;
        let mut events = events.inspect(|event| keys |= matches!(event, InputEvent::Key { .. }));
        self.shared
            .call(|machine, bridge, now| machine.input(bridge, now, &mut events));
        if keys {
            self.wake_up(WakeReason::Button);
        }
    }

    fn type_keys(&mut self, keys: &[QKeyCode], pause: Option<u32>) -> Result<(), TypedFull> {
        let typed = self
            .shared
            .call(|machine, bridge, now| machine.type_keys(bridge, now, keys, pause));
        if typed.is_ok() && !keys.is_empty() {
            self.wake_up(WakeReason::Button);
        }
        typed
    }

    fn held_buttons(&mut self) -> &mut u8 {
        &mut self.held_buttons
    }
}
