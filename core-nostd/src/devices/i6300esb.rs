//! The watchdog timer of Intel's 6300ESB I/O controller hub, as a PCI function of its own.
//!
//! Follows Intel 300641 (6300ESB), chapter "Watchdog Timer (D29:F4)". Two stages count down one
//! after the other, each from a preload value of 20 bits, at 1 kHz or 1 MHz (33 MHz divided by 2^15
//! or 2^5). The end of the second is the watchdog's: the host's watchdog action says what happens.
//! A write of 80h and then 86h to the reload register unlocks the next write to a preload value
//! or of the reload bit.
//!
//! Departures, all shown by QEMU's `i6300esb` too: the end of the first stage sets its status bit but
//! interrupts nobody, because its interrupt goes to a second I/O APIC, or is an SMI, which this board
//! lacks; and the time-out bit, bit 9 by the data sheet, is shown as bit 12 as well, where Linux
//! looks for it. A preload value of 0 counts as 1.

use serde::{Deserialize, Serialize};

use super::class::DeviceClass;
use super::{Context, Effect, GuestEvent, Width};
use crate::pci::config::SavedConfig;
use crate::pci::{BarKind, ConfigSpace, Identity, PciFunction};
use crate::state::{SavedState, StateError};
use crate::time::{SECOND, TimerId};

/// What `-device i6300esb` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "i6300esb",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "watchdog of the 6300ESB hub",
    user_creatable: true,
    properties: &[],
};

/// Bytes of its memory range.
const MEMORY: u64 = 16;

/// In configuration space: WDT Configuration, 16 bits.
const CONFIGURATION: u8 = 0x60;
/// WDT Configuration, WDT_INT_TYPE: what the first stage ends with.
const INT_TYPE: u8 = 3;
/// WDT_INT_TYPE: nothing.
const INT_NONE: u8 = 3;
/// WDT Configuration, WDT_PRE_SEL: 1 MHz instead of 1 kHz.
const PRE_SEL: u8 = 1 << 2;
/// WDT Configuration, WDT_OUTPUT: the second stage ends with nothing.
const OUTPUT_OFF: u8 = 1 << 5;

/// In configuration space: WDT Lock, 8 bits.
const LOCK: u8 = 0x68;
/// WDT Lock, WDT_LOCK: the register stays as it is until a reset.
const LOCK_LOCKED: u8 = 1 << 0;
/// WDT Lock, WDT_ENABLE: the timer counts.
const LOCK_ENABLE: u8 = 1 << 1;
/// WDT Lock, WDT_TOUT_CNF: the first stage follows the second.
const LOCK_FREE_RUN: u8 = 1 << 2;

// Offsets in the memory range.

/// Preload Value 1.
const PRELOAD_1: u64 = 0x0;
/// Preload Value 2.
const PRELOAD_2: u64 = 0x4;
/// General Interrupt Status: bit 0 is WDT_INT_ACT.
const INTERRUPT_STATUS: u64 = 0x8;
/// Reload.
const RELOAD: u64 = 0xc;

/// Bits of a preload value, all set after a reset.
const PRELOAD_MASK: u32 = 0xf_ffff;

/// The first and the second value that unlock a register.
const UNLOCK: [u64; 2] = [0x80, 0x86];

/// Reload, WDT_RELOAD: counting begins anew.
const RELOAD_NOW: u64 = 1 << 8;
/// Reload, WDT_TIMEOUT: the watchdog has expired once; a written one clears it. See above for the
/// second bit.
const RELOAD_TIMEOUT: u64 = 1 << 9 | 1 << 12;

/// The PCI clock that it counts, in Hz.
const CLOCK: u64 = 33_000_000;
/// Logarithms of what divides it: by default, and with [`PRE_SEL`].
const PRESCALERS: (u32, u32) = (15, 5);

/// The watchdog.
#[derive(Clone, Debug)]
pub struct I6300Esb {
    /// Fires when a stage ends.
    timer: TimerId,
    config: ConfigSpace,
    /// WDT_TIMEOUT, which a reset does not clear.
    timed_out: bool,
    state: State,
}

/// Guest-visible state, apart from configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    preload: [u32; 2],
    /// How many values of [`UNLOCK`] were written.
    unlocked: u8,
    /// WDT_INT_ACT.
    interrupt: bool,
    /// The stage that counts, 0 or 1, and when it ends, in nanoseconds of the virtual clock.
    running: Option<(u8, u64)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            preload: [PRELOAD_MASK; 2],
            unlocked: 0,
            interrupt: false,
            running: None,
        }
    }
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    config: SavedConfig,
    timed_out: bool,
    preload: [u32; 2],
    unlocked: u8,
    interrupt: bool,
    running: Option<(u8, u64)>,
}

impl I6300Esb {
    /// The watchdog after power-on: stopped.
    pub fn new(timer: TimerId) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x25ab,
            revision: 0,
            class: 0x08_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 0,
        });
        config.allow_from(0x40);
        config.allow(CONFIGURATION, &[INT_TYPE | PRE_SEL | OUTPUT_OFF, 0]);
        config.allow(LOCK, &[LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN]);
        let prefetchable = false;
        let fits = config.set_bar(0, BarKind::Memory32 { prefetchable }, MEMORY);
        debug_assert!(fits, "16 bytes");
        Self {
            timer,
            config,
            timed_out: false,
            state: State::default(),
        }
    }

    fn configuration(&self) -> u8 {
        self.config.byte(CONFIGURATION)
    }

    fn lock(&self) -> u8 {
        self.config.byte(LOCK)
    }

    /// The timer of the wiring fired; others are ignored.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        let Some((stage, end)) = self.state.running else {
            return;
        };
        if id != self.timer || end > cx.now {
            return;
        }
        self.state.running = None;
        if stage == 0 {
            self.state.interrupt |= self.configuration() & INT_TYPE != INT_NONE;
            self.start(cx, 1);
            return;
        }
        if self.configuration() & OUTPUT_OFF == 0 {
            self.timed_out = true;
            cx.effects.push(Effect::Guest(GuestEvent::WatchdogExpired));
        }
        if self.lock() & LOCK_FREE_RUN != 0 {
            self.start(cx, 0);
        }
    }

    /// How long a stage takes, in nanoseconds.
    fn duration(&self, stage: u8) -> u64 {
        let preload = self.state.preload[usize::from(stage & 1)].max(1);
        let prescaler = match self.configuration() & PRE_SEL {
            0 => PRESCALERS.0,
            _ => PRESCALERS.1,
        };
        // At most 2^35 clocks: nothing overflows in 128 bits, and the result is some minutes.
        let clocks = u128::from(preload) << prescaler;
        (clocks * u128::from(SECOND) / u128::from(CLOCK)) as u64
    }

    fn start(&mut self, cx: &mut Context<'_>, stage: u8) {
        let end = cx.now.saturating_add(self.duration(stage));
        self.state.running = Some((stage, end));
        self.arm(cx);
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.state.running = None;
        self.arm(cx);
    }

    fn arm(&self, cx: &mut Context<'_>) {
        match self.state.running {
            Some((_, end)) => cx.timers.arm(self.timer, end),
            None => cx.timers.disarm(self.timer),
        }
    }

    /// A write to the reload register, or to one that it unlocks.
    fn write(&mut self, cx: &mut Context<'_>, offset: u64, width: Width, value: u64) {
        let unlocked = usize::from(self.state.unlocked);
        if offset == RELOAD && UNLOCK.get(unlocked) == Some(&value) {
            self.state.unlocked += 1;
            return;
        }
        let is_unlocked = unlocked == UNLOCK.len();
        // The first value may come again.
        self.state.unlocked = u8::from(offset == RELOAD && value == UNLOCK[0]);
        if !is_unlocked {
            return;
        }
        match (offset, width) {
            (PRELOAD_1 | PRELOAD_2, Width::Dword) => {
                self.state.preload[usize::from(offset == PRELOAD_2)] = value as u32 & PRELOAD_MASK;
            }
            (RELOAD, Width::Word | Width::Dword) => {
                if value & RELOAD_NOW != 0 && self.lock() & LOCK_ENABLE != 0 {
                    self.start(cx, 0);
                }
                if value & RELOAD_TIMEOUT != 0 {
                    self.timed_out = false;
                }
            }
            _ => {}
        }
    }
}

impl PciFunction for I6300Esb {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, cx: &mut Context<'_>, offset: u8, width: Width, value: u32) {
        let before = self.lock();
        self.config.write(offset, width, value);
        if before & LOCK_LOCKED != 0 {
            self.config.set_byte(LOCK, before);
        }
        match (before & LOCK_ENABLE != 0, self.lock() & LOCK_ENABLE != 0) {
            (false, true) => self.start(cx, 0),
            (true, false) => self.stop(cx),
            _ => {}
        }
    }

    /// The time-out bit stays.
    fn reset(&mut self, cx: &mut Context<'_>) {
        self.config.reset();
        self.state = State::default();
        self.arm(cx);
    }

    fn bar_read(&mut self, _cx: &mut Context<'_>, _bar: usize, offset: u64, width: Width) -> u64 {
        let register = match offset & !3 {
            PRELOAD_1 => self.state.preload[0].into(),
            PRELOAD_2 => self.state.preload[1].into(),
            INTERRUPT_STATUS => u64::from(self.state.interrupt),
            RELOAD if self.timed_out => RELOAD_TIMEOUT,
            _ => 0,
        };
        register >> (8 * (offset & 3)) & width.ones()
    }

    fn bar_write(
        &mut self,
        cx: &mut Context<'_>,
        _bar: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        if offset == INTERRUPT_STATUS {
            self.state.interrupt &= value & 1 == 0;
        } else {
            self.write(cx, offset, width, value);
        }
    }
}

impl SavedState for I6300Esb {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self {
            timer: _,
            config,
            timed_out,
            state:
                State {
                    preload,
                    unlocked,
                    interrupt,
                    running,
                },
        } = self;
        Saved {
            config: config.save(),
            timed_out: *timed_out,
            preload: *preload,
            unlocked: *unlocked,
            interrupt: *interrupt,
            running: *running,
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            config,
            timed_out,
            preload,
            unlocked,
            interrupt,
            running,
        } = saved;
        if preload.iter().any(|value| *value > PRELOAD_MASK) {
            return Err(StateError::Invalid("preload"));
        }
        if usize::from(unlocked) > UNLOCK.len() {
            return Err(StateError::Invalid("unlocked"));
        }
        let longest = (u64::from(PRELOAD_MASK) << PRESCALERS.0) / CLOCK * SECOND + SECOND;
        let possible = |(stage, end): (u8, u64)| stage < 2 && end.saturating_sub(cx.now) <= longest;
        if !running.is_none_or(possible) {
            return Err(StateError::Invalid("running"));
        }
        self.config.load(config)?;
        self.timed_out = timed_out;
        self.state = State {
            preload,
            unlocked,
            interrupt,
            running,
        };
        self.arm(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;

    const TIMER: TimerId = TimerId::new(17);
    const EXPIRED: Option<Effect> = Some(Effect::Guest(GuestEvent::WatchdogExpired));

    fn watchdog() -> I6300Esb {
        I6300Esb::new(TIMER)
    }

    fn write(device: &mut I6300Esb, bench: &mut Bench, offset: u64, width: Width, value: u64) {
        device.bar_write(&mut bench.context(), 0, offset, width, value);
    }

    fn read(device: &mut I6300Esb, offset: u64, width: Width) -> u64 {
        device.bar_read(&mut Bench::new().context(), 0, offset, width)
    }

    fn unlock(device: &mut I6300Esb, bench: &mut Bench) {
        write(device, bench, RELOAD, Width::Word, 0x80);
        write(device, bench, RELOAD, Width::Word, 0x86);
    }

    fn preload(device: &mut I6300Esb, bench: &mut Bench, values: [u64; 2]) {
        for (offset, value) in [PRELOAD_1, PRELOAD_2].into_iter().zip(values) {
            unlock(device, bench);
            write(device, bench, offset, Width::Dword, value);
        }
    }

    fn set(device: &mut I6300Esb, bench: &mut Bench, register: u8, value: u8) {
        device.config_write(&mut bench.context(), register, Width::Byte, value.into());
    }

    /// What happens until the clock reads `now`.
    fn at(bench: &mut Bench, device: &mut I6300Esb, now: u64) -> Option<Effect> {
        while let Some(deadline) = bench.timers.next_deadline().filter(|at| *at <= now) {
            bench.now = deadline;
            while let Some(id) = bench.timers.take_expired(deadline) {
                device.timer(&mut bench.context(), id);
            }
        }
        bench.now = now;
        bench.effects.take()
    }

    lifecycle_tests!(I6300Esb, watchdog(), |device, bench| {
        set(device, bench, LOCK, LOCK_ENABLE);
    });

    /// Observed with QEMU 7.2.
    #[test]
    fn registers_after_power_on() {
        let set = [
            (0x00, 0x25ab_8086),
            (0x08, 0x0880_0000),
            (0x2c, 0x1100_1af4),
        ];
        assert_registers(&watchdog(), &set);
        let mut device = watchdog();
        assert_eq!(read(&mut device, PRELOAD_1, Width::Dword), 0xf_ffff);
        assert_eq!(read(&mut device, PRELOAD_2 + 1, Width::Byte), 0xff);
        assert_eq!(read(&mut device, RELOAD, Width::Word), 0);
    }

    #[test]
    fn both_stages_count_down() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        // 2^10 ticks of 2^15 clocks: about a second each.
        preload(&mut device, &mut bench, [0x400, 0x800]);
        set(&mut device, &mut bench, LOCK, LOCK_ENABLE);
        let stage = (0x400_u64 << 15) * SECOND / CLOCK;
        assert_eq!(bench.timers.next_deadline(), Some(stage));
        assert_eq!(at(&mut bench, &mut device, stage), None);
        assert_eq!(read(&mut device, INTERRUPT_STATUS, Width::Dword), 1);
        write(&mut device, &mut bench, INTERRUPT_STATUS, Width::Byte, 1);
        assert_eq!(read(&mut device, INTERRUPT_STATUS, Width::Dword), 0);
        assert_eq!(at(&mut bench, &mut device, 3 * stage - 1), None);
        assert_eq!(at(&mut bench, &mut device, 3 * stage + 1), EXPIRED);
        assert_eq!(read(&mut device, RELOAD, Width::Word), 0x1200);
        assert_eq!(bench.timers.next_deadline(), None);
        // It outlives a reset, and is cleared by a one.
        device.reset(&mut bench.context());
        assert_eq!(read(&mut device, RELOAD, Width::Word), 0x1200);
        unlock(&mut device, &mut bench);
        write(&mut device, &mut bench, RELOAD, Width::Word, 1 << 9);
        assert_eq!(read(&mut device, RELOAD, Width::Word), 0);
    }

    #[test]
    fn reloading_keeps_it_quiet() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        preload(&mut device, &mut bench, [0x400, 0x400]);
        set(&mut device, &mut bench, LOCK, LOCK_ENABLE);
        for step in 1..100 {
            assert_eq!(at(&mut bench, &mut device, step * SECOND / 2), None);
            unlock(&mut device, &mut bench);
            write(&mut device, &mut bench, RELOAD, Width::Word, RELOAD_NOW);
        }
        // Without unlocking it does not count.
        write(&mut device, &mut bench, RELOAD, Width::Word, RELOAD_NOW);
        assert_eq!(at(&mut bench, &mut device, 60 * SECOND), EXPIRED);
    }

    #[test]
    fn unlocking_is_for_one_write() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        let mut store = |device: &mut I6300Esb, keys: &[u64], value| {
            for key in keys {
                write(device, &mut bench, RELOAD, Width::Byte, *key);
            }
            write(device, &mut bench, PRELOAD_1, Width::Dword, value);
            read(device, PRELOAD_1, Width::Dword)
        };
        assert_eq!(store(&mut device, &[], 1), 0xf_ffff);
        assert_eq!(store(&mut device, &[0x80], 1), 0xf_ffff);
        assert_eq!(store(&mut device, &[0x86, 0x80], 1), 0xf_ffff);
        assert_eq!(store(&mut device, &[0x80, 0x86, 0x00], 1), 0xf_ffff);
        assert_eq!(
            store(&mut device, &[0x80, 0x80, 0x86], 0xff12_3456),
            0x2_3456
        );
        assert_eq!(store(&mut device, &[], 2), 0x2_3456);
    }

    #[test]
    fn the_lock_register_locks_itself() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        set(&mut device, &mut bench, LOCK, 0xff);
        assert_eq!(device.config_read(LOCK, Width::Byte), 7);
        set(&mut device, &mut bench, LOCK, 0);
        assert_eq!(device.config_read(LOCK, Width::Byte), 7);
        device.reset(&mut bench.context());
        assert_eq!(device.config_read(LOCK, Width::Byte), 0);
        assert_eq!(bench.timers.next_deadline(), None);
        set(&mut device, &mut bench, LOCK, LOCK_ENABLE);
        assert!(bench.timers.next_deadline().is_some());
        set(&mut device, &mut bench, LOCK, 0);
        assert_eq!(bench.timers.next_deadline(), None);
    }

    #[test]
    fn modes_of_the_second_stage() {
        let (mut bench, mut device) = (Bench::new(), watchdog());
        preload(&mut device, &mut bench, [0, 1]);
        // 1 MHz, nothing at the end of the first stage, and free running.
        set(&mut device, &mut bench, CONFIGURATION, PRE_SEL | INT_NONE);
        set(&mut device, &mut bench, LOCK, LOCK_ENABLE | LOCK_FREE_RUN);
        let tick = 32 * SECOND / CLOCK;
        assert_eq!(bench.timers.next_deadline(), Some(tick), "0 counts as 1");
        assert_eq!(at(&mut bench, &mut device, 2 * tick), EXPIRED);
        assert_eq!(read(&mut device, INTERRUPT_STATUS, Width::Dword), 0);
        assert_eq!(at(&mut bench, &mut device, 4 * tick), EXPIRED);
        // Its output is off.
        set(&mut device, &mut bench, CONFIGURATION, PRE_SEL | OUTPUT_OFF);
        assert_eq!(at(&mut bench, &mut device, 100 * tick), None);
        assert!(bench.timers.next_deadline().is_some());
    }

    #[test]
    fn impossible_state_is_refused() {
        let mut device = watchdog();
        for change in [
            (|saved| saved.preload[1] = 1 << 20) as fn(&mut Saved),
            |saved| saved.unlocked = 3,
            |saved| saved.running = Some((2, 5)),
            |saved| saved.running = Some((0, u64::MAX)),
        ] {
            let mut saved = device.save();
            change(&mut saved);
            assert!(device.load(saved, &mut Bench::new().context()).is_err());
        }
        assert_eq!(device.state, State::default());
    }
}
