//! Keys, buttons and movements.

use thimble_core::devices::input::{InputEvent, QKeyCode};
use thimble_core::machine::TypedFull;
use thimble_monitor::Inputs;

use super::Vm;

impl Inputs for Vm {
    fn input(&mut self, events: &mut dyn Iterator<Item = InputEvent>) {
        self.shared
            .call(|machine, bridge, now| machine.input(bridge, now, events));
    }

    fn type_keys(&mut self, keys: &[QKeyCode], pause: Option<u32>) -> Result<(), TypedFull> {
        self.shared
            .call(|machine, bridge, now| machine.type_keys(bridge, now, keys, pause))
    }

    fn held_buttons(&mut self) -> &mut u8 {
        &mut self.held_buttons
    }
}
