//! The watchdog of iBASE's IB700 single board computer, at ports 441h to 444h.
//!
//! Follows the board's manual, "Watchdog Timer Configuration": a write to port 443h starts the
//! timer, or starts it anew, with 30 seconds less two for each unit of the value's low four bits;
//! any write to port 441h stops it. A guest that does not write again in time is taken for hung.
//! As QEMU's `ib700` shows it, the port behind each of the two does the same, and nothing can be
//! read.
//!
//! Deliberate difference: the board's timer resets the processor; this one tells the host, whose
//! watchdog action says what happens (a reset unless set otherwise). It then stays off until it is
//! started again.

use serde::{Deserialize, Serialize};

use super::class::DeviceClass;
use super::{Context, Effect, GuestEvent, PortDevice, Width};
use crate::state::{SavedState, StateError};
use crate::time::{SECOND, TimerId};
use crate::trace::events as trace;

/// First port.
pub const BASE: u16 = 0x441;

/// Ports from [`BASE`] on.
pub const PORTS: u16 = 4;

/// Offset from which on writes start the timer; those below stop it.
const ENABLE: u16 = 2;

/// The bits of a written value that choose the time.
const TIME_SELECT: u32 = 0x0f;

/// Seconds for the value 0; each unit takes [`STEP`] seconds off.
const LONGEST: u64 = 30;
/// See [`LONGEST`].
const STEP: u64 = 2;

/// What `-device ib700` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "ib700",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "watchdog of the IB700 board",
    user_creatable: true,
    properties: &[],
};

/// The watchdog.
#[derive(Clone, Debug)]
pub struct Ib700 {
    /// Fires when the guest is late.
    timer: TimerId,
    state: State,
}

/// Guest-visible state.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When the time is up, in nanoseconds of the virtual clock; `None` while it is stopped.
    deadline: Option<u64>,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    deadline: Option<u64>,
}

impl Ib700 {
    /// The watchdog after power-on: stopped.
    pub const fn new(timer: TimerId) -> Self {
        Self {
            timer,
            state: State { deadline: None },
        }
    }

    /// Stops the timer.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = State::default();
        self.arm(cx);
    }

    /// The timer of the wiring fired; others are ignored.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        if id == self.timer && self.state.deadline.is_some_and(|at| at <= cx.now) {
            self.state.deadline = None;
            trace::ib700_expired();
            cx.effects.push(Effect::Guest(GuestEvent::WatchdogExpired));
        }
    }

    fn arm(&self, cx: &mut Context<'_>) {
        trace::ib700_arm(self.state.deadline.unwrap_or(0));
        match self.state.deadline {
            Some(at) => cx.timers.arm(self.timer, at),
            None => cx.timers.disarm(self.timer),
        }
    }
}

/// The time that a written value stands for, in nanoseconds.
const fn timeout(value: u32) -> u64 {
    (LONGEST - STEP * (value & TIME_SELECT) as u64) * SECOND
}

impl PortDevice for Ib700 {
    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, width: Width) -> u32 {
        width.ones() as u32
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        self.state.deadline = if offset < ENABLE {
            None
        } else {
            Some(cx.now.saturating_add(timeout(value)))
        };
        self.arm(cx);
    }
}

impl SavedState for Ib700 {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self {
            timer: _,
            state: State { deadline },
        } = *self;
        Saved { deadline }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { deadline } = saved;
        // No setting reaches further into the future.
        if deadline.is_some_and(|at| at.saturating_sub(cx.now) > timeout(0)) {
            return Err(StateError::Invalid("deadline"));
        }
        self.state = State { deadline };
        self.arm(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::{lifecycle_tests, load, save};

    const TIMER: TimerId = TimerId::new(2);

    fn watchdog() -> Ib700 {
        Ib700::new(TIMER)
    }

    lifecycle_tests!(Ib700, watchdog(), |device, bench| {
        bench.out(device, 2, 0x05);
    });

    /// What happens when the clock reads `now`.
    fn at(bench: &mut Bench, device: &mut Ib700, now: u64) -> Option<Effect> {
        bench.now = now;
        while let Some(id) = bench.timers.take_expired(now) {
            device.timer(&mut bench.context(), id);
        }
        bench.effects.take()
    }

    #[test]
    fn the_low_four_bits_choose_the_time() {
        for (value, seconds) in [(0x00, 30), (0x01, 28), (0x0e, 2), (0xf7, 16), (0xff, 0)] {
            for offset in [2, 3] {
                let (mut bench, mut device) = (Bench::new(), watchdog());
                bench.now = 5;
                bench.out(&mut device, offset, value);
                assert_eq!(bench.timers.next_deadline(), Some(5 + seconds * SECOND));
            }
        }
    }

    #[test]
    fn it_expires_once() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        bench.out(&mut device, 2, 0x0e);
        assert_eq!(at(&mut bench, &mut device, 2 * SECOND - 1), None);
        assert_eq!(
            at(&mut bench, &mut device, 2 * SECOND),
            Some(Effect::Guest(GuestEvent::WatchdogExpired))
        );
        assert_eq!(at(&mut bench, &mut device, 100 * SECOND), None);
        assert_eq!(bench.timers.next_deadline(), None);
    }

    #[test]
    fn writes_in_time_and_stops_keep_it_quiet() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        bench.out(&mut device, 2, 0x0e);
        assert_eq!(at(&mut bench, &mut device, SECOND), None);
        bench.out(&mut device, 2, 0x0e);
        assert_eq!(at(&mut bench, &mut device, 2 * SECOND), None);
        for offset in [0, 1] {
            bench.out(&mut device, 2, 0x0f);
            bench.out(&mut device, offset, 0x0f);
            assert_eq!(bench.timers.next_deadline(), None);
        }
        bench.out(&mut device, 2, 0x0f);
        device.reset(&mut bench.context());
        assert_eq!(at(&mut bench, &mut device, 100 * SECOND), None);
    }

    #[test]
    fn nothing_can_be_read() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        for offset in 0..PORTS {
            assert_eq!(bench.inb(&mut device, offset), 0xff);
        }
        assert_eq!(bench.effects.take(), None);
    }

    #[test]
    fn a_loaded_timer_runs_on_and_an_endless_one_is_refused() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        bench.out(&mut device, 2, 0x00);
        let mut bytes = [0; 64];
        let length = save(&device, &mut bytes).unwrap();
        let mut other = Bench::new();
        other.now = 10 * SECOND;
        let mut loaded = watchdog();
        load(&mut loaded, &bytes[..length], &mut other.context()).unwrap();
        assert_eq!(other.timers.next_deadline(), Some(30 * SECOND));

        bench.now = SECOND;
        bench.out(&mut device, 2, 0x00);
        let length = save(&device, &mut bytes).unwrap();
        let refused = load(&mut loaded, &bytes[..length], &mut Bench::new().context());
        assert_eq!(refused, Err(StateError::Invalid("deadline")));
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        bench.now = u64::MAX - 1;
        bench.out(&mut device, 2, 0x00);
        assert_eq!(at(&mut bench, &mut device, u64::MAX - 1), None);
    }
}
