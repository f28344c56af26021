//! The power button, sleep and waking up.
//!
//! A machine that sleeps is one whose processors the host has stopped, with its virtual clock: the host keeps that state
//! ([`super::RunState::Suspended`]), and waits for the clock's alarm by its own time. Memory stays as it is. Waking up is a reset of all
//! else, save that the host bridge keeps what it was told of memory below 1 MiB: firmware there is how firmware is found again.

use super::{Board, Host, Machine};
use crate::devices::Context;
use crate::devices::acpi_pm::{SleepStates, WakeReason};
use crate::trace::events as trace;

/// CMOS byte in which firmware finds why it starts.
const SHUTDOWN_STATUS: u8 = 0x0f;
/// In [`SHUTDOWN_STATUS`]: the machine has slept. The value is QEMU's, which SeaBIOS and OVMF look for.
const RESUME: u8 = 0xfe;

impl Machine<'_> {
    /// Presses the power button. A board without one does nothing.
    pub fn press_power_button<H: Host>(&mut self, host: &mut H, now: u64) {
        trace::qemu_system_powerdown_request();
        if let Some(ged) = &mut self.microvm.ged {
            ged.press_power_button(context!(self, now));
        } else if self.has_acpi {
            self.acpi_pm.press_power_button(context!(self, now));
        }
        self.drain(host, now, None);
    }

    /// Whether the board has a state that guests wake up from.
    pub fn can_sleep(&self) -> bool {
        self.has_acpi && self.board == Board::Pc
    }

    /// The sleeping states that guests of a board that can sleep are told of.
    pub fn sleep_states(&self) -> SleepStates {
        self.sleep
    }

    /// The guest goes to sleep, as it has asked for: its firmware is to find that out when it wakes up.
    pub fn fall_asleep(&mut self) {
        self.rtc.set_cmos(SHUTDOWN_STATUS, RESUME);
    }

    /// When a machine that fell asleep at `now` is to be woken by its real-time clock, on the virtual clock, as if that went on.
    pub fn alarm_at(&self, now: u64) -> Option<u64> {
        let wakes = self.can_sleep() && self.acpi_pm.wakes_by_rtc();
        self.rtc.alarm_at(now).filter(|_| wakes)
    }

    /// Wakes the machine up. The host resets processors and in-kernel controllers itself.
    pub fn wake<H: Host>(&mut self, host: &mut H, now: u64, reason: WakeReason) {
        let bridge = self.i440fx.clone();
        self.reset(host, now);
        self.i440fx = bridge;
        self.remap();
        host.memory_remapped();
        self.acpi_pm.woken(context!(self, now), reason);
        self.drain(host, now, None);
    }
}
