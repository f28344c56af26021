//! What commands ask of the real-time clock.

/// The real-time clock.
pub trait RealTimeClock {
    /// Lets it forget the periodic interrupts that the guest has lost.
    fn reset_rtc_reinjection(&mut self);
}
