//! What sleeping guests, and who wakes them up, ask of the machine's owner.

use thimble_core::devices::vmgenid::GenerationId;

/// Sleep, its end, and what guests that were asleep on disk have to know.
pub trait Sleep {
    /// Whether the guest can go to sleep so that it can be woken up again.
    fn can_sleep(&self) -> bool;

    /// The guest's generation, if a device tells the guest of it.
    fn generation(&self) -> Option<GenerationId>;

    /// Presses the button that wakes a sleeping guest up. Called only if [`Sleep::can_sleep`] and the guest sleeps.
    fn wake(&mut self);
}
