//! Sleep: the guest's processors and its clock stand still until somebody wakes it up.
//!
//! The real-time clock goes on, as seen by the guest afterwards, unless `-rtc clock=vm` wants it to stand. Its alarm is waited for by
//! the host's own time.

use thimble_core::devices::acpi_pm::WakeReason;
use thimble_core::machine::RunState;
use thimble_core::trace::events;
use thimble_monitor::{Event, Sleep};

use super::Vm;
use crate::clock::monotonic;
use crate::descriptors::sets;
use crate::options::RtcClock;

impl Vm {
    /// The guest has asked for sleep. One that does not run, as in device tests, stays what it is.
    pub(super) fn suspend(&mut self) {
        if self.run_state != RunState::Running {
            return;
        }
        self.pause();
        let mut guarded = self.shared.lock();
        let now = guarded.clock.now();
        guarded.machine.fall_asleep();
        let alarm = guarded.machine.alarm_at(now);
        drop(guarded);
        self.wake_at = alarm
            .filter(|_| self.settings.rtc_clock != RtcClock::Vm)
            .map(|at| monotonic().saturating_add(at.saturating_sub(now)));
        self.enter(RunState::Suspended);
        sets::lock().set_running(false);
        self.event(Event::Suspend);
    }

    /// When the alarm wakes a sleeping guest up, on the monotonic clock.
    pub(super) fn alarm_deadline(&self) -> Option<u64> {
        self.wake_at
            .filter(|_| self.run_state == RunState::Suspended)
    }

    /// Wakes a guest up whose alarm has rung.
    pub(super) fn ring_alarm(&mut self) {
        if self.alarm_deadline().is_some_and(|at| at <= monotonic()) {
            self.wake_up(WakeReason::Rtc);
        }
    }

    /// Wakes the guest up, if it sleeps.
    pub(super) fn wake_up(&mut self, reason: WakeReason) {
        if self.run_state != RunState::Suspended {
            return;
        }
        events::system_wakeup_request(reason as u32);
        self.reset_all(|machine, bridge, now| machine.wake(bridge, now, reason));
        self.enter(RunState::Running);
        sets::lock().set_running(true);
        self.resume();
        self.event(Event::Wakeup);
    }
}

impl Sleep for Vm {
    fn can_sleep(&self) -> bool {
        self.shared.lock().machine.can_sleep()
    }

    fn wake(&mut self) {
        self.wake_up(WakeReason::Button);
    }
}
