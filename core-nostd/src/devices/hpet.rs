//! High precision event timers: a 64-bit counter of 100 MHz and three comparators, in 1 KiB of memory at [`BASE`].
//!
//! Follows Intel's "IA-PC HPET (High Precision Event Timers) Specification", revision 1.0a; section numbers below are its own.
//! The counter is a formula over the virtual time, and the timer of the board is armed only while a comparator that may interrupt
//! has something to wait for: a guest that leaves the HPET alone pays nothing for it.
//!
//! Registers take whole doublewords: accesses of one or two bytes read zero and are lost, and one of eight is two.
//!
//! In legacy replacement mode comparators 0 and 1 stand for the interval timer and for the real-time clock at their interrupts.
//! The machine then keeps those two from driving their lines ([`Hpet::is_legacy`]).
//!
//! As QEMU 7.2 has it, and the specification leaves open or says otherwise: a comparator that is written behind the counter matches
//! with the next tick instead of after 2^32 or 2^64 of them, since a guest under a host can't know how late it is; the status bit
//! of a comparator that may not interrupt stays clear; routes are not checked against what the comparator offers. Deliberately
//! different from it: only a line that the HPET holds high is let down by it, a period that ends on time is one interrupt
//! instead of two, and what lies behind the last comparator reads zero.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Effect, Width};
use crate::irq::{IrqLine, Msi};
use crate::state::{SavedState, StateError};
use crate::time::TimerId;

/// Class of the device.
pub static CLASS: DeviceClass = DeviceClass {
    name: "hpet",
    parent: "sys-bus-device",
    bus: Some("System"),
    doc: "high precision event timers",
    user_creatable: false,
    properties: &[
        Property {
            name: "hpet-intcap",
            kind: PropertyKind::Uint32,
            default: Value::Uint(0),
            doc: "inputs of the I/O APIC that comparators offer, a bit each",
        },
        Property {
            name: "hpet-offset-saved",
            kind: PropertyKind::Bool,
            default: Value::Bool(true),
            doc: "the counter's phase is part of saved state",
        },
        Property {
            name: MSI,
            kind: PropertyKind::Bool,
            default: Value::Bool(false),
            doc: "comparators offer to interrupt by message",
        },
        Property {
            name: "timers",
            kind: PropertyKind::Uint8,
            default: Value::Uint(TIMERS as u64),
            doc: "comparators",
        },
    ],
};

/// The property that says whether comparators offer messages.
pub const MSI: &str = "msi";

/// Guest physical address of the registers.
pub const BASE: u64 = 0xfed0_0000;
/// Bytes of the registers.
pub const LENGTH: u64 = 0x400;
/// Comparators.
pub const TIMERS: usize = 3;
/// Low half of the capabilities, which identifies the device to firmware, too: Intel's, 64 bits, legacy replacement, revision 1.
pub const CAPABILITIES: u32 = 0x8086_a001 | (TIMERS as u32 - 1) << 8;
/// Inputs of the I/O APIC that comparators offer: the interval timer's.
pub const INTCAP: u32 = 1 << 2;

/// Femtoseconds of a tick, `COUNTER_CLK_PERIOD`.
const PERIOD_FS: u32 = 10_000_000;
/// The same in nanoseconds.
const TICK: u64 = PERIOD_FS as u64 / 1_000_000;

/// Registers of the block (table 2).
const GENERAL_CAPABILITIES: u64 = 0x000;
const GENERAL_CONFIGURATION: u64 = 0x010;
const GENERAL_INTERRUPT_STATUS: u64 = 0x020;
const MAIN_COUNTER: u64 = 0x0f0;
/// The first comparator's registers; the others' follow.
const TIMER_0: u64 = 0x100;
const TIMER_LENGTH: u64 = 0x20;
const TN_CONFIGURATION: u64 = 0x00;
const TN_COMPARATOR: u64 = 0x08;
const TN_FSB_ROUTE: u64 = 0x10;

/// Bits of the configuration (2.3.5).
const ENABLE_CNF: u32 = 1 << 0;
const LEG_RT_CNF: u32 = 1 << 1;

/// Bits of a comparator's configuration (2.3.8).
const TN_INT_TYPE_CNF: u32 = 1 << 1;
const TN_INT_ENB_CNF: u32 = 1 << 2;
const TN_TYPE_CNF: u32 = 1 << 3;
const TN_PER_INT_CAP: u32 = 1 << 4;
const TN_SIZE_CAP: u32 = 1 << 5;
const TN_VAL_SET_CNF: u32 = 1 << 6;
const TN_32MODE_CNF: u32 = 1 << 8;
/// Position of the 5 bits of the route.
const TN_INT_ROUTE_CNF: u32 = 9;
const TN_FSB_EN_CNF: u32 = 1 << 14;
const TN_FSB_INT_DEL_CAP: u32 = 1 << 15;
const TN_WRITABLE: u32 = TN_INT_TYPE_CNF
    | TN_INT_ENB_CNF
    | TN_TYPE_CNF
    | TN_VAL_SET_CNF
    | TN_32MODE_CNF
    | 0x1f << TN_INT_ROUTE_CNF
    | TN_FSB_EN_CNF;

/// Inputs of the I/O APIC.
const INPUTS: u32 = crate::irq::ioapic::PINS as u32;

/// What the device is wired to.
#[derive(Clone, Copy, Debug)]
pub struct HpetWiring {
    /// Fires when a comparator that may interrupt matches.
    pub timer: TimerId,
    /// What comparators 0 and 1 drive in legacy replacement mode: the lines of the interval timer and of the real-time clock.
    pub legacy: [IrqLine; 2],
}

/// One comparator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Comparator {
    /// The writable bits.
    config: u32,
    /// What the counter is compared with.
    value: u64,
    /// Ticks of a period, 0 for none.
    period: u64,
    /// Data and, in the high half, address of the message.
    message: u64,
    /// The virtual time of the next match, from which on `value` is old; `None`: nothing is waited for.
    due: Option<u64>,
    /// What is due is the wrap of the counter's low half, and not yet `value`.
    wraps: bool,
}

impl Comparator {
    const fn new() -> Self {
        Self {
            config: 0,
            value: u64::MAX,
            period: 0,
            message: 0,
            due: None,
            wraps: false,
        }
    }

    const fn is(&self, bit: u32) -> bool {
        self.config & bit != 0
    }

    /// The bits of the counter that are compared.
    const fn mask(&self) -> u64 {
        if self.is(TN_32MODE_CNF) {
            u32::MAX as u64
        } else {
            u64::MAX
        }
    }

    /// Ticks from `counter` to `value`, at least 1: what is behind comes with the next one.
    fn ticks_to_match(&self, counter: u64) -> u64 {
        let ahead = self.value.wrapping_sub(counter) & self.mask();
        match ahead {
            // Behind, by up to half of all values.
            _ if ahead > self.mask() >> 1 => 1,
            _ => ahead.max(1),
        }
    }

    /// Ticks until something is due, and whether that is the wrap.
    fn ticks_to_next(&self, counter: u64) -> (u64, bool) {
        let to_match = self.ticks_to_match(counter);
        if self.is(TN_32MODE_CNF) && !self.is(TN_TYPE_CNF) {
            let to_wrap = u64::from(u32::MAX - counter as u32) + 1;
            if to_wrap < to_match {
                return (to_wrap, true);
            }
        }
        (to_match, false)
    }

    /// Goes on by as many periods as it takes to be ahead of the counter.
    fn next_period(&mut self, counter: u64) {
        let mask = self.mask();
        let behind = counter.wrapping_sub(self.value) & mask;
        if self.period != 0 && behind <= mask >> 1 {
            let periods = (behind / self.period).saturating_add(1);
            let ahead = periods.wrapping_mul(self.period);
            self.value = self.value.wrapping_add(ahead) & mask;
        }
    }
}

/// Guest-visible state; the default is the state after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    config: u32,
    /// Comparators, a bit each, that hold their line high.
    status: u32,
    /// Lines that were driven last, a bit each: one that comparators share goes down with the first that lets go, as QEMU's.
    driven: u32,
    /// What the counter reads, or read at `since`.
    counter: u64,
    /// The virtual time at which it read so, while it runs.
    since: u64,
    timers: [Comparator; TIMERS],
}

impl State {
    const fn new() -> Self {
        Self {
            config: 0,
            status: 0,
            driven: 0,
            counter: 0,
            since: 0,
            timers: [Comparator::new(); TIMERS],
        }
    }

    const fn runs(&self) -> bool {
        self.config & ENABLE_CNF != 0
    }

    /// Whole ticks since the counter was started or set.
    const fn elapsed(&self, now: u64) -> u64 {
        now.saturating_sub(self.since) / TICK
    }

    fn counter(&self, now: u64) -> u64 {
        match self.runs() {
            true => self.counter.wrapping_add(self.elapsed(now)),
            false => self.counter,
        }
    }
}

/// The device.
#[derive(Clone, Debug)]
pub struct Hpet {
    /// Whether comparators offer messages.
    has_msi: bool,
    wiring: HpetWiring,
    state: State,
}

impl Hpet {
    /// The device after power-on; `has_msi` says whether comparators offer messages.
    pub const fn new(wiring: HpetWiring, has_msi: bool) -> Self {
        Self {
            has_msi,
            wiring,
            state: State::new(),
        }
    }

    /// Back to the state after power-on: the counter stands at 0, and no line is driven.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        for index in 0..TIMERS {
            self.release(cx, index);
        }
        self.state = State::new();
        self.arm(cx);
    }

    /// The timer of the wiring fired; others are ignored.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        if id == self.wiring.timer {
            self.sync(cx);
            self.arm(cx);
        }
    }

    /// Whether comparators 0 and 1 stand for the interval timer and the real-time clock, which are to be silent then.
    pub const fn is_legacy(&self) -> bool {
        self.state.config & LEG_RT_CNF != 0
    }

    /// Whether comparators offer messages.
    pub const fn has_msi(&self) -> bool {
        self.has_msi
    }

    /// Reads at `offset` from [`BASE`].
    pub fn mmio_read(&mut self, cx: &mut Context<'_>, offset: u64, width: Width) -> u64 {
        if width != Width::Dword {
            return 0;
        }
        self.sync(cx);
        let high = offset & 4 != 0;
        let half = |value: u64| {
            if high {
                value >> 32
            } else {
                value & 0xffff_ffff
            }
        };
        half(match offset & !7 {
            GENERAL_CAPABILITIES => u64::from(PERIOD_FS) << 32 | u64::from(CAPABILITIES),
            GENERAL_CONFIGURATION => self.state.config.into(),
            GENERAL_INTERRUPT_STATUS => self.state.status.into(),
            MAIN_COUNTER => self.state.counter(cx.now),
            at => match self.timer_at(at) {
                Some((index, register)) => self.timer_register(index, register),
                None => 0,
            },
        })
    }

    /// Writes at `offset` from [`BASE`].
    pub fn mmio_write(&mut self, cx: &mut Context<'_>, offset: u64, width: Width, value: u64) {
        if width != Width::Dword {
            return;
        }
        self.sync(cx);
        let (high, value) = (offset & 4 != 0, value as u32);
        match offset & !7 {
            GENERAL_CONFIGURATION if !high => self.write_config(cx, value),
            GENERAL_INTERRUPT_STATUS if !high => {
                for index in 0..TIMERS {
                    if value >> index & 1 != 0 {
                        self.release(cx, index);
                    }
                }
            }
            // It can be set only while it stands.
            MAIN_COUNTER if !self.state.runs() => put_half(&mut self.state.counter, high, value),
            at => match self.timer_at(at) {
                Some((index, TN_CONFIGURATION)) if !high => {
                    self.write_timer_config(cx, index, value);
                }
                Some((index, TN_COMPARATOR)) => self.write_comparator(cx.now, index, high, value),
                Some((index, TN_FSB_ROUTE)) => {
                    put_half(&mut self.state.timers[index].message, high, value);
                }
                _ => {}
            },
        }
        self.arm(cx);
    }

    /// The comparator that a register belongs to, and which of its registers it is.
    fn timer_at(&self, at: u64) -> Option<(usize, u64)> {
        let from = at.checked_sub(TIMER_0)?;
        let index = usize::try_from(from / TIMER_LENGTH).ok()?;
        (index < TIMERS).then_some((index, from % TIMER_LENGTH))
    }

    fn timer_register(&self, index: usize, register: u64) -> u64 {
        let timer = &self.state.timers[index];
        match register {
            TN_CONFIGURATION => {
                let messages = if self.has_msi { TN_FSB_INT_DEL_CAP } else { 0 };
                let low = timer.config | TN_PER_INT_CAP | TN_SIZE_CAP | messages;
                u64::from(INTCAP) << 32 | u64::from(low)
            }
            TN_COMPARATOR => timer.value,
            TN_FSB_ROUTE => timer.message,
            _ => 0,
        }
    }

    fn write_config(&mut self, cx: &mut Context<'_>, value: u32) {
        let new = value & (ENABLE_CNF | LEG_RT_CNF);
        let changed = new ^ self.state.config;
        if changed & ENABLE_CNF != 0 {
            self.state.counter = self.state.counter(cx.now);
            self.state.since = cx.now;
        }
        // Lines that the comparators hold change hands with the mode.
        let held = self.state.status;
        for index in 0..TIMERS {
            if changed & LEG_RT_CNF != 0 || new & ENABLE_CNF == 0 {
                self.release(cx, index);
            }
        }
        self.state.config = new;
        if changed & LEG_RT_CNF != 0 {
            self.take_legacy_lines(cx);
            for index in 0..TIMERS {
                if held >> index & 1 != 0 && self.state.runs() {
                    self.hold(cx, index);
                }
            }
        }
        if changed & ENABLE_CNF != 0 {
            for index in 0..TIMERS {
                self.state.timers[index].due = None;
                // None has ever waited for all ones, which is what they are reset to.
                if self.state.timers[index].value != u64::MAX {
                    self.wait(cx.now, index);
                }
            }
        }
    }

    fn write_timer_config(&mut self, cx: &mut Context<'_>, index: usize, value: u32) {
        let held = self.state.status >> index & 1 != 0;
        self.release(cx, index);
        let timer = &mut self.state.timers[index];
        let was_on = timer.is(TN_INT_ENB_CNF);
        timer.config = value & TN_WRITABLE;
        if timer.is(TN_32MODE_CNF) {
            timer.value &= timer.mask();
            timer.period &= timer.mask() >> 1;
        }
        let is_on = timer.is(TN_INT_ENB_CNF);
        let is_level = timer.is(TN_INT_TYPE_CNF) && !timer.is(TN_FSB_EN_CNF);
        match (was_on, is_on) {
            (false, true) => self.wait(cx.now, index),
            (true, false) => timer.due = None,
            _ if held && is_on && is_level => self.hold(cx, index),
            _ => {}
        }
    }

    fn write_comparator(&mut self, now: u64, index: usize, high: bool, value: u32) {
        let timer = &mut self.state.timers[index];
        // A high half has no say in 32-bit mode, but is kept.
        if !timer.is(TN_TYPE_CNF) || timer.is(TN_VAL_SET_CNF) {
            put_half(&mut timer.value, high, value);
        }
        // What is written with the bit set is the first period, too. That of the high half counts for itself only.
        if timer.is(TN_TYPE_CNF) && (!high || !timer.is(TN_VAL_SET_CNF)) {
            put_half(&mut timer.period, high, value);
            timer.period &= timer.mask() >> 1;
        }
        timer.config &= !TN_VAL_SET_CNF;
        self.wait(now, index);
    }

    /// Lets a comparator wait for its next match, if the counter runs.
    fn wait(&mut self, now: u64, index: usize) {
        if !self.state.runs() {
            return;
        }
        let (counter, elapsed) = (self.state.counter(now), self.state.elapsed(now));
        let timer = &mut self.state.timers[index];
        let (ticks, wraps) = timer.ticks_to_next(counter);
        let at = elapsed.saturating_add(ticks).saturating_mul(TICK);
        // What lies behind the end of time is never due.
        timer.due = Some(self.state.since.saturating_add(at)).filter(|at| *at != u64::MAX);
        timer.wraps = wraps;
    }

    /// Brings comparators up to date: what came since the last call is one match.
    fn sync(&mut self, cx: &mut Context<'_>) {
        let mut any = false;
        for index in 0..TIMERS {
            let timer = &mut self.state.timers[index];
            if timer.due.is_none_or(|due| due > cx.now) {
                continue;
            }
            any = true;
            timer.due = None;
            let counter = self.state.counter(cx.now);
            let timer = &mut self.state.timers[index];
            if timer.is(TN_TYPE_CNF) && timer.period != 0 {
                timer.next_period(counter);
                self.wait(cx.now, index);
            } else if core::mem::take(&mut timer.wraps) {
                self.wait(cx.now, index);
                self.state.timers[index].wraps = false;
            }
            self.interrupt(cx, index);
        }
        if any {
            self.arm(cx);
        }
    }

    /// A comparator has matched.
    fn interrupt(&mut self, cx: &mut Context<'_>, index: usize) {
        let timer = self.state.timers[index];
        if !timer.is(TN_INT_ENB_CNF) {
            return;
        }
        if timer.is(TN_FSB_EN_CNF) {
            cx.effects.push(Effect::Message(Msi {
                address: timer.message >> 32,
                data: timer.message as u32,
            }));
        } else if timer.is(TN_INT_TYPE_CNF) {
            self.hold(cx, index);
        } else if let Some(line) = self.line(index) {
            cx.lines.pulse(line);
            self.state.driven &= !(1 << line.number());
        }
    }

    /// The line that a comparator drives; none where its route leads nowhere.
    fn line(&self, index: usize) -> Option<IrqLine> {
        if let (true, Some(line)) = (self.is_legacy(), self.wiring.legacy.get(index)) {
            return Some(*line);
        }
        let route = self.state.timers[index].config >> TN_INT_ROUTE_CNF & 0x1f;
        (route < INPUTS).then_some(IrqLine::new(route as u8))
    }

    fn hold(&mut self, cx: &mut Context<'_>, index: usize) {
        self.state.status |= 1 << index;
        if let Some(line) = self.line(index) {
            self.state.driven |= 1 << line.number();
            cx.lines.set(line, true);
        }
    }

    fn release(&mut self, cx: &mut Context<'_>, index: usize) {
        if self.state.status >> index & 1 == 0 {
            return;
        }
        self.state.status &= !(1 << index);
        if let Some(line) = self.line(index) {
            self.state.driven &= !(1 << line.number());
            cx.lines.set(line, false);
        }
    }

    /// Arms the timer for the first match that interrupts. The others are found when somebody looks.
    fn arm(&self, cx: &mut Context<'_>) {
        let timers = self.state.timers.iter();
        let waiting = timers.filter(|timer| timer.is(TN_INT_ENB_CNF));
        match waiting.filter_map(|timer| timer.due).min() {
            Some(at) => cx.timers.arm(self.wiring.timer, at),
            None => cx.timers.disarm(self.wiring.timer),
        }
    }

    /// Lets lines down that others have driven before the legacy replacement mode.
    fn take_legacy_lines(&mut self, cx: &mut Context<'_>) {
        if self.is_legacy() {
            for line in self.wiring.legacy {
                self.state.driven &= !(1 << line.number());
                cx.lines.set(line, false);
            }
        }
    }

    /// Drives these lines instead of those of now.
    fn drive(&mut self, cx: &mut Context<'_>, driven: u32) {
        let before = core::mem::replace(&mut self.state.driven, driven);
        for line in (0..INPUTS).filter(|line| (before | driven) >> line & 1 != 0) {
            cx.lines
                .set(IrqLine::new(line as u8), driven >> line & 1 != 0);
        }
    }
}

/// Sets the low or the high half of a register.
fn put_half(register: &mut u64, high: bool, value: u32) {
    let shift = if high { 32 } else { 0 };
    *register = *register & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
}

/// Saved form of [`Hpet`].
#[derive(Serialize, Deserialize)]
pub struct SavedHpet(State);

impl SavedState for Hpet {
    const NAME: &'static str = "hpet";
    const VERSION: u16 = 1;
    type Saved = SavedHpet;

    fn save(&self) -> SavedHpet {
        let Self {
            has_msi: _,
            wiring: _,
            state,
        } = self;
        SavedHpet(*state)
    }

    fn load(
        &mut self,
        SavedHpet(state): SavedHpet,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        if state.config & !(ENABLE_CNF | LEG_RT_CNF) != 0 {
            return Err(StateError::Invalid("config"));
        }
        if state.status >> TIMERS != 0 || !state.runs() && state.status != 0 {
            return Err(StateError::Invalid("status"));
        }
        for (index, timer) in state.timers.iter().enumerate() {
            if timer.config & !TN_WRITABLE != 0 {
                return Err(StateError::Invalid("timer config"));
            }
            if timer.period > timer.mask() >> 1 {
                return Err(StateError::Invalid("period"));
            }
            let level = TN_INT_TYPE_CNF | TN_INT_ENB_CNF;
            let may_hold = timer.config & (level | TN_FSB_EN_CNF) == level;
            if state.status >> index & 1 != 0 && !may_hold {
                return Err(StateError::Invalid("status"));
            }
            if timer.due.is_some() && !state.runs() {
                return Err(StateError::Invalid("due"));
            }
        }
        if state.driven >> INPUTS != 0 {
            return Err(StateError::Invalid("driven"));
        }
        self.drive(cx, state.driven);
        self.state = state;
        if self.is_legacy() {
            for line in self.wiring.legacy {
                cx.lines.set(line, state.driven >> line.number() & 1 != 0);
            }
        }
        self.arm(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use proptest::prelude::*;

    const TIMER: TimerId = TimerId::new(31);
    const PIT: IrqLine = IrqLine::new(0);
    const RTC: IrqLine = IrqLine::new(8);
    const LINE: IrqLine = IrqLine::new(20);
    const ROUTE: u32 = 20 << TN_INT_ROUTE_CNF;

    fn hpet() -> Hpet {
        let wiring = HpetWiring {
            timer: TIMER,
            legacy: [PIT, RTC],
        };
        Hpet::new(wiring, true)
    }

    lifecycle_tests!(Hpet, hpet(), |hpet, bench| {
        set(hpet, bench, 0x140, ROUTE | 6);
        set(hpet, bench, 0x148, 1000);
        set(hpet, bench, 0x10, 3);
        bench.now = 5;
    });

    fn get(hpet: &mut Hpet, bench: &mut Bench, at: u64) -> u32 {
        hpet.mmio_read(&mut bench.context(), at, Width::Dword) as u32
    }

    fn set(hpet: &mut Hpet, bench: &mut Bench, at: u64, value: u32) {
        hpet.mmio_write(&mut bench.context(), at, Width::Dword, value.into());
    }

    /// Lets time pass up to a point, with each timer at its time.
    fn pass(hpet: &mut Hpet, bench: &mut Bench, to: u64) -> usize {
        let mut fired = 0;
        while let Some(at) = bench.timers.next_deadline().filter(|at| *at <= to) {
            bench.now = at;
            assert_eq!(bench.timers.take_expired(at), Some(TIMER));
            hpet.timer(&mut bench.context(), TIMER);
            fired += 1;
        }
        bench.now = to;
        fired
    }

    fn pulses(bench: &mut Bench, line: IrqLine) -> usize {
        let mut count = 0;
        while let Some(change) = bench.lines.take_change() {
            count += usize::from(change.line == line && change.level);
        }
        count
    }

    #[test]
    fn counts_while_enabled() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0xf0, 0xffff_fff0);
        bench.now = 1000;
        assert_eq!(get(&mut hpet, &mut bench, 0xf0), 0xffff_fff0);
        set(&mut hpet, &mut bench, 0x10, 1);
        bench.now = 1000 + 0x10 * TICK - 1;
        assert_eq!(get(&mut hpet, &mut bench, 0xf0), 0xffff_ffff);
        bench.now += 1;
        assert_eq!(get(&mut hpet, &mut bench, 0xf0), 0);
        assert_eq!(get(&mut hpet, &mut bench, 0xf4), 1);
        set(&mut hpet, &mut bench, 0xf0, 7);
        assert_eq!(get(&mut hpet, &mut bench, 0xf0), 0, "it runs");
        set(&mut hpet, &mut bench, 0x10, 0);
        bench.now = 1 << 40;
        assert_eq!(get(&mut hpet, &mut bench, 0xf4), 1);
        assert_eq!(bench.timers.next_deadline(), None);
    }

    #[test]
    fn one_shot_edges_come_once() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0x140, ROUTE | 4);
        set(&mut hpet, &mut bench, 0x10, 1);
        assert_eq!(bench.timers.next_deadline(), None, "nothing was written");
        set(&mut hpet, &mut bench, 0x14c, 0);
        set(&mut hpet, &mut bench, 0x148, 100);
        assert_eq!(bench.timers.next_deadline(), Some(1000));
        assert_eq!(pass(&mut hpet, &mut bench, 1 << 50), 1);
        assert_eq!(pulses(&mut bench, LINE), 1);
        assert_eq!(get(&mut hpet, &mut bench, 0x20), 0);
        // Behind: the next tick.
        set(&mut hpet, &mut bench, 0x148, 50);
        assert_eq!(
            bench.timers.next_deadline(),
            Some((1 << 50) / TICK * TICK + TICK)
        );
    }

    #[test]
    fn levels_stay_until_they_are_cleared() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0x10, 1);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 6);
        set(&mut hpet, &mut bench, 0x148, 100);
        set(&mut hpet, &mut bench, 0x14c, 0);
        pass(&mut hpet, &mut bench, 2000);
        assert!(bench.lines.level(LINE));
        set(&mut hpet, &mut bench, 0x20, 3);
        assert_eq!(get(&mut hpet, &mut bench, 0x20), 4);
        // Another line takes over with another route.
        set(&mut hpet, &mut bench, 0x140, 21 << TN_INT_ROUTE_CNF | 6);
        assert!(!bench.lines.level(LINE) && bench.lines.level(IrqLine::new(21)));
        set(&mut hpet, &mut bench, 0x20, 4);
        assert!(!bench.lines.level(IrqLine::new(21)));
        set(&mut hpet, &mut bench, 0x148, 300);
        pass(&mut hpet, &mut bench, 4000);
        assert_eq!(get(&mut hpet, &mut bench, 0x20), 4);
        // Whoever may not interrupt any more lets go.
        set(&mut hpet, &mut bench, 0x140, 21 << TN_INT_ROUTE_CNF | 2);
        assert_eq!(get(&mut hpet, &mut bench, 0x20), 0);
        assert!(!bench.lines.level(IrqLine::new(21)));
    }

    #[test]
    fn periods_go_on_and_missed_ones_are_one() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0x10, 1);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 4 | 8 | 0x40);
        set(&mut hpet, &mut bench, 0x148, 100);
        assert_eq!(get(&mut hpet, &mut bench, 0x148), 100);
        set(&mut hpet, &mut bench, 0x148, 30);
        assert_eq!(get(&mut hpet, &mut bench, 0x148), 100);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 4 | 8 | 0x40);
        set(&mut hpet, &mut bench, 0x14c, 0);
        assert_eq!(pass(&mut hpet, &mut bench, 1000), 1);
        assert_eq!(get(&mut hpet, &mut bench, 0x148), 130);
        assert_eq!(pass(&mut hpet, &mut bench, 1900), 3);
        assert_eq!(pulses(&mut bench, LINE), 4);
        bench.now = 19_000;
        hpet.timer(&mut bench.context(), TIMER);
        assert_eq!(pulses(&mut bench, LINE), 1);
        assert_eq!(get(&mut hpet, &mut bench, 0x148), 1900 + 30);
        assert_eq!(bench.timers.next_deadline(), Some(19_300));
    }

    /// The ICH's data sheets: one more interrupt when the counter's low half wraps.
    #[test]
    fn a_32_bit_comparator_tells_of_the_wrap() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0xf0, 0xffff_ff00);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 4 | 0x100);
        set(&mut hpet, &mut bench, 0x148, 0x10);
        set(&mut hpet, &mut bench, 0x10, 1);
        assert_eq!(bench.timers.next_deadline(), Some(0x100 * TICK));
        assert_eq!(pass(&mut hpet, &mut bench, 1 << 40), 2);
        assert_eq!(pulses(&mut bench, LINE), 2);
    }

    #[test]
    fn legacy_replacement_moves_lines() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        bench.lines.set(PIT, true);
        set(&mut hpet, &mut bench, 0x100, ROUTE | 6);
        set(&mut hpet, &mut bench, 0x10, 3);
        assert!(hpet.is_legacy() && !bench.lines.level(PIT));
        set(&mut hpet, &mut bench, 0x108, 10);
        set(&mut hpet, &mut bench, 0x10c, 0);
        pass(&mut hpet, &mut bench, 100);
        assert!(bench.lines.level(PIT) && !bench.lines.level(LINE));
        set(&mut hpet, &mut bench, 0x10, 1);
        assert!(!bench.lines.level(PIT) && bench.lines.level(LINE));
        set(&mut hpet, &mut bench, 0x10, 2);
        assert!(!bench.lines.level(PIT) && !bench.lines.level(LINE));
    }

    #[test]
    fn messages_go_where_they_are_sent() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0x150, 0x31);
        set(&mut hpet, &mut bench, 0x154, 0xfee0_1000);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 6 | TN_FSB_EN_CNF);
        set(&mut hpet, &mut bench, 0x10, 1);
        set(&mut hpet, &mut bench, 0x148, 10);
        set(&mut hpet, &mut bench, 0x14c, 0);
        pass(&mut hpet, &mut bench, 100);
        let message = Msi {
            address: 0xfee0_1000,
            data: 0x31,
        };
        assert_eq!(bench.effects.take(), Some(Effect::Message(message)));
        assert!(!bench.lines.level(LINE));
        assert_eq!(get(&mut hpet, &mut bench, 0x20), 0);
    }

    /// An idle guest stays idle: what may not interrupt arms nothing, and is brought up to date when somebody looks.
    #[test]
    fn silent_comparators_cost_nothing() {
        let (mut hpet, mut bench) = (hpet(), Bench::new());
        set(&mut hpet, &mut bench, 0x10, 1);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 8 | 0x40);
        set(&mut hpet, &mut bench, 0x148, 100);
        set(&mut hpet, &mut bench, 0x140, ROUTE | 8 | 0x40);
        set(&mut hpet, &mut bench, 0x14c, 0);
        assert_eq!(bench.timers.next_deadline(), None);
        bench.now = 10_240;
        assert_eq!(get(&mut hpet, &mut bench, 0x148), 1100);
        assert_eq!(pulses(&mut bench, LINE), 0);
    }

    #[test]
    fn impossible_states_are_refused() {
        let mut bench = Bench::new();
        let bad: [fn(&mut State); 6] = [
            |state| state.config = 4,
            |state| state.status = 8,
            |state| state.status = 1,
            |state| state.timers[0].config = 1,
            |state| state.timers[1].period = u64::MAX,
            |state| state.timers[2].due = Some(1),
        ];
        for change in bad {
            let mut state = State::new();
            change(&mut state);
            let mut hpet = hpet();
            assert!(hpet.load(SavedHpet(state), &mut bench.context()).is_err());
        }
    }

    proptest! {
        /// Whatever is written, time goes on, and what is saved in between goes on the same elsewhere.
        #[test]
        fn any_use_can_be_moved(steps in proptest::collection::vec((0u64..0x60, any::<u32>(), 0u32..34), 0..60)) {
            let (mut hpet, mut bench) = (hpet(), Bench::new());
            let (mut other, mut elsewhere) = (self::hpet(), Bench::new());
            for (register, value, shift) in steps {
                // The registers of the block, and those of the comparators more often.
                let at = match register {
                    0 => 0x10,
                    1 => 0x20,
                    2 => 0xf0,
                    3 => 0xf4,
                    register => 0x100 + (register - 4) % 24 * 4,
                };
                let value = value >> (shift % 32);
                let mut buffer = [0; 512];
                let length = crate::state::save(&hpet, &mut buffer).unwrap();
                elsewhere.now = bench.now;
                crate::state::load(&mut other, &buffer[..length], &mut elsewhere.context()).unwrap();
                prop_assert_eq!(bench.timers.next_deadline(), elsewhere.timers.next_deadline());
                for (hpet, bench) in [(&mut hpet, &mut bench), (&mut other, &mut elsewhere)] {
                    set(hpet, bench, at, value);
                    // Some steps of time, and some timers on the way.
                    let to = bench.now + (u64::from(value) << (shift / 2));
                    for _ in 0..20 {
                        let Some(due) = bench.timers.next_deadline().filter(|due| *due <= to) else { break };
                        prop_assert!(due > bench.now);
                        bench.now = due;
                        bench.timers.take_expired(due);
                        hpet.timer(&mut bench.context(), TIMER);
                        while bench.effects.take().is_some() {}
                    }
                    bench.now = to;
                    for at in (0..0x160).step_by(4) {
                        get(hpet, bench, at);
                        while bench.effects.take().is_some() {}
                    }
                }
                prop_assert_eq!(hpet.state, other.state);
                for line in 0..24 {
                    let line = IrqLine::new(line);
                    prop_assert_eq!(bench.lines.level(line), elsewhere.lines.level(line));
                }
            }
        }
    }
}
