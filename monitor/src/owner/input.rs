//! What commands do to the machine's keyboard and mouse.

use thimble_core::devices::input::{InputEvent, QKeyCode};
use thimble_core::machine::TypedFull;

/// The machine's keyboard and mouse, where it has any.
pub trait Inputs {
    /// Lets someone do something, at once and together.
    fn input(&mut self, events: &mut dyn Iterator<Item = InputEvent>);

    /// Types keys with `pause` milliseconds after each, or behind others only, without pauses: see
    /// [`type_keys`](thimble_core::machine::Machine::type_keys).
    ///
    /// # Errors
    /// If there is no room for all of them; then none is typed.
    fn type_keys(&mut self, keys: &[QKeyCode], pause: Option<u32>) -> Result<(), TypedFull>;

    /// The mouse's buttons that the human monitor holds down: left, right and middle in bits 0 to 2.
    fn held_buttons(&mut self) -> &mut u8;
}
