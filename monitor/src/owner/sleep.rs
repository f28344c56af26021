//! What sleeping guests, and who wakes them up, ask of the machine's owner.

/// Sleep, and its end.
pub trait Sleep {
    /// Whether the guest can go to sleep so that it can be woken up again.
    fn can_sleep(&self) -> bool;

    /// Presses the button that wakes a sleeping guest up. Called only if [`Sleep::can_sleep`] and the guest sleeps.
    fn wake(&mut self);
}
