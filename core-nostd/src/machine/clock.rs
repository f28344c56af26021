//! What the host asks of the real-time clock.

use super::{Context, Host, Machine};
use crate::devices::rtc::RtcBase;

impl Machine<'_> {
    /// Corrects what the real-time clock showed, in seconds since 1970, when the virtual clock
    /// read 0: for a clock that goes on while the VM is stopped.
    pub fn set_rtc_base(&mut self, now: u64, seconds: i64) {
        self.rtc.set_base(RtcBase { seconds }, context!(self, now));
    }

    /// What the real-time clock shows at `now`, in seconds since 1970-01-01 00:00; `None` on a board without one.
    pub fn rtc_seconds(&self, now: u64) -> Option<i64> {
        self.has_rtc.then(|| self.rtc.shown(now))
    }

    /// Whether the real-time clock repeats periodic interrupts that the guest has lost.
    pub fn rtc_slews(&self) -> bool {
        self.rtc.slews()
    }

    /// Lets the real-time clock forget the periodic interrupts that the guest has lost.
    pub fn reset_rtc_reinjection<H: Host>(&mut self, host: &mut H, now: u64) {
        self.rtc.reset_reinjection(context!(self, now));
        self.drain(host, now, None);
    }
}
