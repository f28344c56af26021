//! The real-time clock of a machine whose time stands still.

use thimble_core::machine::Host;

use super::InMemory;
use crate::owner::RealTimeClock;

impl<H: Host> RealTimeClock for InMemory<'_, H> {
    fn reset_rtc_reinjection(&mut self) {
        self.machine.reset_rtc_reinjection(&mut self.host, 0);
    }
}
