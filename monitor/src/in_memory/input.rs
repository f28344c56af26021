//! Keys and movements go to the machine, whose clock stands.

use thimble_core::devices::input::{InputEvent, QKeyCode};
use thimble_core::machine::{Host, TypedFull};

use super::InMemory;
use crate::owner::Inputs;

impl<H: Host> Inputs for InMemory<'_, H> {
    fn input(&mut self, events: &mut dyn Iterator<Item = InputEvent>) {
        self.machine.input(&mut self.host, 0, events);
    }

    fn type_keys(&mut self, keys: &[QKeyCode], pause: Option<u32>) -> Result<(), TypedFull> {
        self.machine.type_keys(&mut self.host, 0, keys, pause)
    }

    fn held_buttons(&mut self) -> &mut u8 {
        &mut self.held_buttons
    }
}
