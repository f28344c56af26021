//! Intel 8254 programmable interval timer with a PC's port 61h (speaker and counter 2 gate).
//!
//! Follows Intel's 8254 datasheet (231164). A counter is a formula over the time at which it was
//! loaded, so no work is done for each tick and a late host skips periods.
//!
//! Ports: a decode table maps 40h to 43h at offset 0 and port 61h at [`PORT_B_OFFSET`].
//!
//! Deliberate differences from the part: a new count is loaded at once and not on the next clock
//! pulse; in modes 2 and 3 a count that is written while counting takes effect at the end of the
//! full cycle. Counter 0's one-tick low pulse of mode 2 reaches its line as a fall and a rise at
//! the end of the cycle. Bit 4 of port 61h toggles on each read instead of each DRAM refresh,
//! and the speaker is silent.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, PortDevice, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::time::{SECOND, TimerId};
use crate::trace::events as trace;

/// Class of the timer.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-pit",
    parent: "pit-common",
    bus: Some("ISA"),
    doc: "Intel 8254 interval timer",
    user_creatable: false,
    properties: &[Property {
        name: "iobase",
        kind: PropertyKind::Uint32,
        default: Value::Uint(0xffff_ffff),
        doc: "first of the four ports",
    }],
};

/// Class of port 61h.
pub static PCSPK_CLASS: DeviceClass = DeviceClass {
    name: "isa-pcspk",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "PC speaker port",
    user_creatable: false,
    properties: &[Property {
        name: "iobase",
        kind: PropertyKind::Uint32,
        default: Value::Uint(0x61),
        doc: "the port",
    }],
};

/// Ticks of the input clock in a second.
pub const FREQUENCY: u64 = 1_193_182;

/// Offset of port 61h; offsets 0 to 3 are ports 40h to 43h.
pub const PORT_B_OFFSET: u16 = 4;

const CONTROL_OFFSET: u16 = 3;
/// Read-back command: do not latch the count.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back command: do not latch the status.
const READ_BACK_NO_STATUS: u8 = 1 << 4;
const STATUS_OUT: u8 = 1 << 7;
const STATUS_NULL_COUNT: u8 = 1 << 6;

const PORT_B_GATE2: u8 = 1 << 0;
const PORT_B_SPEAKER: u8 = 1 << 1;
const PORT_B_REFRESH: u8 = 1 << 4;
const PORT_B_OUT2: u8 = 1 << 5;

/// Ticks of the input clock at a time in nanoseconds.
pub const fn ticks(now: u64) -> u64 {
    // Less than `now`, so it fits.
    (now as u128 * FREQUENCY as u128 / SECOND as u128) as u64
}

/// The first nanosecond at which [`ticks`] gives `tick`; saturates.
pub fn nanoseconds(tick: u64) -> u64 {
    let time = (u128::from(tick) * u128::from(SECOND)).div_ceil(u128::from(FREQUENCY));
    time.try_into().unwrap_or(u64::MAX)
}

/// Registers of one counter. All times are ticks since the clock's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// 0 to 5.
    pub mode: u8,
    /// Counts in decimal digits.
    pub bcd: bool,
    /// RW bits of the control word: 1 low byte, 2 high byte, 3 low then high.
    pub access: u8,
    /// The count register: what is loaded next, 0 meaning the most.
    pub reload: u16,
    /// The count that runs, 1 to 65,536 or 10,000.
    pub count: u32,
    /// When the running count was loaded; `None` while it waits for a count or a trigger.
    pub start: Option<u64>,
    /// Ticks counted before GATE fell, while it is low and stops the counter.
    pub paused: Option<u64>,
    /// Level of GATE.
    pub gate: bool,
    /// A count was written that is not in the counting element yet.
    pub null_count: bool,
    /// The next byte written is the high one of a pair.
    pub write_high: bool,
    /// The low one that came before.
    pub low_byte: u8,
    /// The next byte read is the high one of a pair.
    pub read_high: bool,
    /// The count that a command has latched.
    pub latched_count: Option<u16>,
    /// The status that a command has latched.
    pub latched_status: Option<u8>,
}

impl Counter {
    /// As firmware expects to find it: in mode 3 with the longest count, loaded at tick `now`.
    pub fn new(gate: bool, now: u64) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: 3,
            reload: 0,
            count: 0x1_0000,
            start: Some(now),
            paused: (!gate).then_some(0),
            gate,
            null_count: false,
            write_high: false,
            low_byte: 0,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The count register as a number of ticks. Digits above 9 count for what they are.
    pub fn reload_ticks(&self) -> u32 {
        let reload = u32::from(self.reload);
        let count = if self.bcd {
            (0..4)
                .rev()
                .fold(0, |n, i| n * 10 + (reload >> (4 * i) & 15))
        } else {
            reload
        };
        match count % self.modulus() {
            0 => self.modulus(),
            count => count,
        }
    }

    /// Whether the count is loaded again when it has run out.
    pub fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Ticks at `tick` since the running count was loaded, as far as GATE let them count.
    pub fn elapsed(&self, tick: u64) -> Option<u64> {
        let start = self.start?;
        Some(self.paused.unwrap_or(tick.saturating_sub(start)))
    }

    /// Loads the count that waits for the end of a cycle, if that has come.
    fn sync(&mut self, tick: u64) {
        if !self.null_count || !self.periodic() || self.write_high || self.paused.is_some() {
            return;
        }
        if let Some(start) = self.start {
            let end = start.saturating_add(self.count.into());
            if tick >= end {
                self.load(end);
            }
        }
    }

    fn load(&mut self, tick: u64) {
        self.count = self.reload_ticks();
        trace::pit_load(self.count, self.mode, tick);
        self.start = Some(tick);
        self.null_count = false;
        self.paused = (!self.gate && !matches!(self.mode, 1 | 5)).then_some(0);
    }

    fn out(&self, tick: u64) -> bool {
        let Some(elapsed) = self.elapsed(tick) else {
            return self.mode != 0;
        };
        let count = u64::from(self.count);
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => !self.gate || elapsed % count != count - 1,
            3 => !self.gate || elapsed % count < count.div_ceil(2),
            // Low for the one tick after the count ran out.
            _ => elapsed != count,
        }
    }

    /// The tick after `tick` at which OUT changes next; in mode 2 only rising edges.
    fn next_edge(&self, tick: u64) -> Option<u64> {
        if self.paused.is_some() {
            return None;
        }
        let start = self.start?;
        let elapsed = tick.saturating_sub(start);
        let count = u64::from(self.count);
        let cycle = elapsed - elapsed % count;
        let next = match self.mode {
            0 | 1 => Some(count),
            2 => Some(cycle + count),
            3 if elapsed - cycle < count.div_ceil(2) && count > 1 => {
                Some(cycle + count.div_ceil(2))
            }
            3 => Some(cycle + count),
            _ if elapsed < count => Some(count),
            _ => Some(count + 1),
        };
        next.filter(|next| *next > elapsed)
            .map(|next| start.saturating_add(next))
    }

    /// The counting element as a guest reads it.
    fn value(&self, tick: u64) -> u16 {
        let count = u64::from(self.count);
        let modulus = u64::from(self.modulus());
        let value = match self.elapsed(tick) {
            None => u64::from(self.reload_ticks()),
            Some(elapsed) => match self.mode {
                2 => count - elapsed % count,
                3 => {
                    let position = elapsed % count;
                    let half = count.div_ceil(2);
                    let position = position.checked_sub(half).unwrap_or(position);
                    // Odd counts are loaded without their lowest bit.
                    (count & !1).saturating_sub(2 * position)
                }
                _ => (count + modulus - elapsed % modulus) % modulus,
            },
        } % modulus;
        let value = value as u16;
        if self.bcd {
            (value % 10)
                | ((value / 10 % 10) << 4)
                | ((value / 100 % 10) << 8)
                | ((value / 1000 % 10) << 12)
        } else {
            value
        }
    }

    fn control(&mut self, word: u8) {
        *self = Self {
            mode: match word >> 1 & 7 {
                mode @ 0..6 => mode,
                mode => mode - 4,
            },
            bcd: word & 1 != 0,
            access: word >> 4 & 3,
            start: None,
            paused: None,
            null_count: true,
            write_high: false,
            read_high: false,
            latched_count: None,
            latched_status: None,
            ..*self
        };
        // Modulo the new base, as the old count may not exist in it.
        self.count = self.reload_ticks();
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    fn status(&self, tick: u64) -> u8 {
        let mut status = self.access << 4 | self.mode << 1 | u8::from(self.bcd);
        if self.out(tick) {
            status |= STATUS_OUT;
        }
        if self.null_count {
            status |= STATUS_NULL_COUNT;
        }
        status
    }

    fn write(&mut self, tick: u64, value: u8) {
        match self.access {
            1 => self.reload = value.into(),
            2 => self.reload = u16::from(value) << 8,
            _ if !self.write_high => {
                self.low_byte = value;
                self.write_high = true;
                if self.mode == 0 {
                    // The first byte stops the count, and OUT falls.
                    self.start = None;
                }
                return;
            }
            _ => {
                self.reload = u16::from_le_bytes([self.low_byte, value]);
                self.write_high = false;
            }
        }
        self.null_count = true;
        let waits = match self.mode {
            1 | 5 => true,
            2 | 3 => self.start.is_some(),
            _ => false,
        };
        if !waits {
            self.load(tick);
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.value(tick))
            .to_le_bytes();
        let is_high = match self.access {
            1 => false,
            2 => true,
            _ => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if !self.read_high {
            self.latched_count = None;
        }
        if is_high { high } else { low }
    }

    fn set_gate(&mut self, tick: u64, gate: bool) {
        if self.gate == gate {
            return;
        }
        let elapsed = self.elapsed(tick);
        self.gate = gate;
        match self.mode {
            // A trigger; without a count written ever since the mode, there is nothing to run.
            1 | 5 if gate => self.load(tick),
            1 | 5 => {}
            2 | 3 if gate && self.start.is_some() => self.load(tick),
            _ if gate => {
                if let Some(counted) = self.paused.take() {
                    self.start = Some(tick.saturating_sub(counted));
                }
            }
            _ => self.paused = elapsed,
        }
    }

    fn check(&self) -> Result<(), StateError> {
        let most = self.modulus();
        if self.mode > 5 {
            return Err(StateError::Invalid("mode"));
        }
        if !(1..=3).contains(&self.access) {
            return Err(StateError::Invalid("access"));
        }
        if !(1..=most).contains(&self.count) {
            return Err(StateError::Invalid("count"));
        }
        if self.paused.is_some() && self.gate {
            return Err(StateError::Invalid("paused"));
        }
        Ok(())
    }
}

/// What the timer is wired to.
#[derive(Clone, Copy, Debug)]
pub struct PitWiring {
    /// OUT of counter 0: input 0 of the interrupt controllers.
    pub irq: IrqLine,
    /// Fires at OUT's edges.
    pub timer: TimerId,
}

/// Guest-visible state.
#[derive(Clone, Debug)]
struct State {
    counters: [Counter; 3],
    speaker: bool,
    refresh: bool,
    /// The tick up to which counter 0's edges have been driven.
    driven: u64,
}

impl State {
    fn new(tick: u64) -> Self {
        Self {
            // GATE of counters 0 and 1 is tied high.
            counters: [true, true, false].map(|gate| Counter::new(gate, tick)),
            speaker: false,
            refresh: false,
            driven: tick,
        }
    }
}

/// The timer and port 61h.
#[derive(Clone, Debug)]
pub struct Pit {
    wiring: PitWiring,
    /// Somebody else drives the line.
    muted: bool,
    state: State,
}

impl Pit {
    /// The timer at time 0. Call [`Pit::reset`] before use: it arms the timer.
    pub fn new(wiring: PitWiring) -> Self {
        Self {
            wiring,
            muted: false,
            state: State::new(0),
        }
    }

    /// Says whether something else drives the line of counter 0, as an HPET does in legacy replacement mode. Nothing is done for
    /// counter 0 then. A muted timer that is unmuted drives its line again.
    pub fn set_muted(&mut self, cx: &mut Context<'_>, muted: bool) {
        if core::mem::replace(&mut self.muted, muted) != muted {
            self.drive(cx);
        }
    }

    /// All counters in mode 3 with the longest count, as firmware expects to find them.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = State::new(ticks(cx.now));
        self.drive(cx);
    }

    /// The timer of the wiring fired; others are ignored.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        if id == self.wiring.timer {
            self.advance(cx);
            self.drive(cx);
        }
    }

    /// The same, right after state was loaded.
    pub fn load_muted(&mut self, cx: &mut Context<'_>, muted: bool) {
        self.muted = muted;
        self.resume(cx);
    }

    /// Level of OUT of a counter, 0 to 2, at `now` nanoseconds; low for others.
    pub fn out(&self, counter: usize, now: u64) -> bool {
        self.state
            .counters
            .get(counter)
            .is_some_and(|c| c.out(ticks(now)))
    }

    /// Whether the speaker's data bit is set in port 61h.
    pub fn speaker(&self) -> bool {
        self.state.speaker
    }

    /// Drives the edges of counter 0 since the last call, as one where there were several.
    fn advance(&mut self, cx: &mut Context<'_>) {
        let tick = ticks(cx.now);
        let counter = &self.state.counters[0];
        let late = !self.muted
            && counter
                .next_edge(self.state.driven)
                .is_some_and(|edge| edge <= tick);
        if late && counter.periodic() && counter.out(tick) {
            cx.lines.set(self.wiring.irq, false);
        } else if late && counter.mode >= 4 {
            // The strobe.
            cx.lines.set(self.wiring.irq, false);
        }
        if !self.muted {
            cx.lines.set(self.wiring.irq, counter.out(tick));
        }
        for counter in &mut self.state.counters {
            counter.sync(tick);
        }
        self.state.driven = tick;
    }

    /// Drives the line to OUT of counter 0 and arms the timer for its next edge.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let tick = ticks(cx.now);
        self.state.driven = tick;
        self.resume(cx);
    }

    /// The same as of when that was done last: an edge between saving and loading is due at once.
    fn resume(&self, cx: &mut Context<'_>) {
        let (counter, driven) = (&self.state.counters[0], self.state.driven);
        if !self.muted {
            cx.lines.set(self.wiring.irq, counter.out(driven));
        }
        match counter.next_edge(driven).filter(|_| !self.muted) {
            Some(edge) => cx.timers.arm(self.wiring.timer, nanoseconds(edge)),
            None => cx.timers.disarm(self.wiring.timer),
        }
    }

    fn write_control(&mut self, tick: u64, value: u8) {
        let selected = value >> 6;
        if let Some(counter) = self.state.counters.get_mut(usize::from(selected)) {
            if value >> 4 & 3 == 0 {
                counter.latch_count(tick);
            } else {
                counter.control(value);
            }
            return;
        }
        for (i, counter) in self.state.counters.iter_mut().enumerate() {
            if value >> (i + 1) & 1 == 0 {
                continue;
            }
            if value & READ_BACK_NO_COUNT == 0 {
                counter.latch_count(tick);
            }
            if value & READ_BACK_NO_STATUS == 0 && counter.latched_status.is_none() {
                counter.latched_status = Some(counter.status(tick));
            }
        }
    }
}

impl PortDevice for Pit {
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        let value = self.read(cx, offset);
        trace::pit_ioport_read(offset, value);
        value.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        let (tick, value) = (ticks(cx.now), value as u8);
        trace::pit_ioport_write(offset, value);
        self.advance(cx);
        match offset {
            CONTROL_OFFSET => self.write_control(tick, value),
            PORT_B_OFFSET => {
                self.state.speaker = value & PORT_B_SPEAKER != 0;
                self.state.counters[2].set_gate(tick, value & PORT_B_GATE2 != 0);
            }
            _ => {
                if let Some(counter) = self.state.counters.get_mut(usize::from(offset)) {
                    counter.write(tick, value);
                }
            }
        }
        self.drive(cx);
    }
}

impl Pit {
    fn read(&mut self, cx: &mut Context<'_>, offset: u16) -> u8 {
        let tick = ticks(cx.now);
        if offset == PORT_B_OFFSET {
            self.state.refresh = !self.state.refresh;
            let counter = &mut self.state.counters[2];
            counter.sync(tick);
            let bits = [
                (counter.gate, PORT_B_GATE2),
                (self.state.speaker, PORT_B_SPEAKER),
                (self.state.refresh, PORT_B_REFRESH),
                (counter.out(tick), PORT_B_OUT2),
            ];
            return bits
                .iter()
                .map(|(on, bit)| if *on { *bit } else { 0 })
                .sum();
        }
        self.advance(cx);
        match self.state.counters.get_mut(usize::from(offset)) {
            Some(counter) => counter.read(tick),
            // The control register can not be read.
            None => 0,
        }
    }
}

/// Saved form of [`Pit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPit {
    /// All counters.
    pub counters: [Counter; 3],
    /// The speaker's data bit in port 61h.
    pub speaker: bool,
    /// The refresh bit in port 61h.
    pub refresh: bool,
    /// The tick up to which counter 0's edges have been driven.
    pub driven: u64,
}

impl SavedState for Pit {
    const NAME: &'static str = "isa-pit";
    const VERSION: u16 = 1;
    type Saved = SavedPit;

    fn save(&self) -> SavedPit {
        let Self {
            wiring: _,
            muted: _,
            state,
        } = self;
        let State {
            counters,
            speaker,
            refresh,
            driven,
        } = state.clone();
        SavedPit {
            counters,
            speaker,
            refresh,
            driven,
        }
    }

    fn load(&mut self, saved: SavedPit, cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedPit {
            counters,
            speaker,
            refresh,
            driven,
        } = saved;
        counters.iter().try_for_each(Counter::check)?;
        if !counters[0].gate || !counters[1].gate {
            return Err(StateError::Invalid("gate"));
        }
        self.state = State {
            counters,
            speaker,
            refresh,
            driven,
        };
        self.resume(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use proptest::prelude::*;

    const IRQ: IrqLine = IrqLine::new(0);

    fn pit() -> Pit {
        Pit::new(PitWiring {
            irq: IRQ,
            timer: TimerId::new(0),
        })
    }

    lifecycle_tests!(Pit, pit(), |pit, bench| {
        bench.out(pit, 3, 0x34);
        bench.out(pit, 0, 0x12);
        bench.out(pit, 4, 3);
    });

    fn program(pit: &mut Pit, bench: &mut Bench, counter: u16, mode: u8, count: u16) {
        bench.out(pit, 3, (counter as u8) << 6 | 0x30 | mode << 1);
        let [low, high] = count.to_le_bytes();
        bench.out(pit, counter, low);
        bench.out(pit, counter, high);
    }

    fn read(pit: &mut Pit, bench: &mut Bench, counter: u16) -> u16 {
        u16::from_le_bytes([bench.inb(pit, counter), bench.inb(pit, counter)])
    }

    #[test]
    fn conversions_hold_at_any_time() {
        assert_eq!(ticks(SECOND), FREQUENCY);
        assert!(ticks(u64::MAX) > 0);
        for tick in [0, 1, 2, 65_536, FREQUENCY, ticks(u64::MAX)] {
            assert_eq!(ticks(nanoseconds(tick)), tick);
        }
        assert_eq!(nanoseconds(u64::MAX), u64::MAX);
    }

    #[test]
    fn mode_0_counts_down_once() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        program(&mut pit, &mut bench, 0, 0, 1000);
        assert!(!bench.lines.level(IRQ));
        assert_eq!(bench.timers.next_deadline(), Some(nanoseconds(1000)));
        bench.now = nanoseconds(400);
        assert_eq!(read(&mut pit, &mut bench, 0), 600);
        bench.now = nanoseconds(1000);
        pit.timer(&mut bench.context(), TimerId::new(0));
        assert!(bench.lines.level(IRQ));
        bench.now = nanoseconds(1001);
        assert_eq!(read(&mut pit, &mut bench, 0), 0xffff);
    }

    #[test]
    fn mode_2_skips_lost_periods() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        program(&mut pit, &mut bench, 0, 2, 11932);
        while bench.lines.take_change().is_some() {}
        for _ in 0..3 {
            let deadline = bench.timers.next_deadline().unwrap();
            bench.now = deadline + 10 * SECOND;
            pit.timer(&mut bench.context(), TimerId::new(0));
            assert_eq!(bench.lines.take_change().map(|c| c.level), Some(false));
            assert_eq!(bench.lines.take_change().map(|c| c.level), Some(true));
            assert_eq!(bench.lines.take_change(), None);
            let next = bench.timers.next_deadline().unwrap();
            assert!(next > bench.now && next - bench.now <= nanoseconds(11932));
        }
    }

    #[test]
    fn mode_3_is_a_square_wave() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        bench.out(&mut pit, 4, 1);
        program(&mut pit, &mut bench, 2, 3, 5);
        let seen: std::vec::Vec<_> = (0..6)
            .map(|t| (pit.out(2, nanoseconds(t)), pit.state.counters[2].value(t)))
            .collect();
        let expected = [
            (true, 4),
            (true, 2),
            (true, 0),
            (false, 4),
            (false, 2),
            (true, 4),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn gate_2_pauses_and_triggers() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        program(&mut pit, &mut bench, 2, 0, 100);
        bench.now = SECOND;
        assert_eq!(read(&mut pit, &mut bench, 2), 100);
        bench.out(&mut pit, 4, 1);
        assert_eq!(bench.inb(&mut pit, 4) & 0x23, 0x01);
        bench.now = nanoseconds(ticks(SECOND) + 100);
        assert_eq!(bench.inb(&mut pit, 4) & 0x23, 0x21);
        bench.out(&mut pit, 4, 0);
        program(&mut pit, &mut bench, 2, 1, 10);
        assert!(pit.out(2, bench.now));
        bench.out(&mut pit, 4, 1);
        assert!(!pit.out(2, bench.now));
        assert!(pit.out(2, bench.now + nanoseconds(11)));
    }

    #[test]
    fn strobe_is_one_tick_low() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        program(&mut pit, &mut bench, 0, 4, 7);
        let low: std::vec::Vec<_> = (0..20).filter(|t| !pit.out(0, nanoseconds(*t))).collect();
        assert_eq!(low, [7]);
    }

    #[test]
    fn latches_and_read_back() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        program(&mut pit, &mut bench, 0, 2, 1000);
        bench.out(&mut pit, 3, 0xc2);
        bench.now = nanoseconds(500);
        bench.out(&mut pit, 3, 0x00);
        assert_eq!(bench.inb(&mut pit, 0), 0xb4);
        assert_eq!(read(&mut pit, &mut bench, 0), 1000);
        assert_eq!(read(&mut pit, &mut bench, 0), 500);
        bench.out(&mut pit, 3, 0x3a);
        bench.out(&mut pit, 3, 0xe2);
        assert_eq!(bench.inb(&mut pit, 0), 0xfa, "OUT high, null count, mode 5");
    }

    #[test]
    fn counts_in_bcd() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        bench.out(&mut pit, 3, 0x31);
        bench.out(&mut pit, 0, 0x00);
        bench.out(&mut pit, 0, 0x10);
        bench.now = nanoseconds(1);
        assert_eq!(read(&mut pit, &mut bench, 0), 0x0999);
        bench.now = nanoseconds(1001);
        assert_eq!(read(&mut pit, &mut bench, 0), 0x9999);
    }

    #[test]
    fn new_count_waits_for_the_cycle() {
        let (mut pit, mut bench) = (pit(), Bench::new());
        program(&mut pit, &mut bench, 0, 2, 100);
        bench.now = nanoseconds(40);
        bench.out(&mut pit, 0, 50);
        bench.out(&mut pit, 0, 0);
        assert_eq!(read(&mut pit, &mut bench, 0), 60);
        bench.now = nanoseconds(110);
        assert_eq!(read(&mut pit, &mut bench, 0), 40);
    }

    proptest! {
        /// Any program at any time keeps the next deadline in the future.
        #[test]
        fn never_panics(steps in proptest::collection::vec((0u16..5, any::<u8>(), any::<u64>()), 0..60)) {
            let (mut pit, mut bench) = (pit(), Bench::new());
            for (offset, value, step) in steps {
                bench.now = bench.now.saturating_add(step >> (value & 63));
                bench.out(&mut pit, offset, value);
                bench.inb(&mut pit, offset);
                pit.timer(&mut bench.context(), TimerId::new(0));
                prop_assert!(bench.timers.next_deadline().is_none_or(|t| t > bench.now || t >= u64::MAX - 1));
            }
        }
    }
}
