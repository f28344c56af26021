//! What the monitors ask of the real-time clock.

use thimble_monitor::owner::RealTimeClock;

use super::Vm;

impl RealTimeClock for Vm {
    fn reset_rtc_reinjection(&mut self) {
        self.shared
            .call(|machine, bridge, now| machine.reset_rtc_reinjection(bridge, now));
    }
}
