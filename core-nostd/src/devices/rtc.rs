//! Motorola MC146818A real-time clock with 128 bytes of CMOS RAM at ports 70h and 71h.
//!
//! Follows Motorola's MC146818A datasheet; the century byte at 32h (and at 37h, as on the PS/2)
//! is the PC's convention. The device has no clock: the time of day is a base, plus the virtual
//! time, plus an offset that the guest sets. Flags are computed from the time when they are
//! looked at, so nothing runs each second, and a late host skips periods. The host is told whenever
//! the guest sets the time: it may want to start the clock with the same offset again.
//!
//! Deliberate differences: the day of the week follows from the date; daylight saving (DSE), the
//! square wave (SQWE) and the time bases other than 32.768 kHz are kept as bits without effect.
//!
//! Periodic interrupts that come while the last one waits are dropped, as by the part, unless the device is told to keep them
//! (`lost_tick_policy=slew`, for guests that count them as time): then they come later, the first [`SLEW_ACKS`] at once when
//! register C is read, and more of them between regular ones. Whether an interrupt reached a processor is not known here, as it is
//! in QEMU: one is lost if the guest has not read register C since the one before.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::kernel::LOST_TICK_POLICY;
use super::{Context, Effect, GuestEvent, PortDevice, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::time::calendar::{date_from_days, days_from_date};
use crate::time::{SECOND, TimerId};
use crate::trace::events as trace;

/// Class of the device.
pub static CLASS: DeviceClass = DeviceClass {
    name: "mc146818rtc",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "MC146818A real-time clock",
    user_creatable: true,
    properties: &[
        Property {
            name: "base_year",
            kind: PropertyKind::Int32,
            default: Value::Int(1980),
            doc: "year that the registers count from",
        },
        Property {
            name: "iobase",
            kind: PropertyKind::Uint16,
            default: Value::Uint(0x70),
            doc: "first of the two ports",
        },
        Property {
            name: "irq",
            kind: PropertyKind::Uint8,
            default: Value::Uint(8),
            doc: "input of the interrupt controllers",
        },
        Property {
            name: LOST_TICK_POLICY,
            kind: PropertyKind::Word {
                name: "LostTickPolicy",
                words: &["discard", "delay", "slew"],
            },
            default: Value::Word("discard"),
            doc: "what becomes of ticks that the guest is too late for",
        },
    ],
};

/// First of the two ports that a board has it at.
pub const PORT: u16 = 0x70;

/// Bytes of CMOS RAM, registers included.
pub const CMOS_SIZE: usize = 128;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const DAY_OF_WEEK: usize = 0x06;
const DAY_OF_MONTH: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
/// Where the century is; the PC's convention.
pub(crate) const CENTURY: usize = 0x32;
/// Where the PS/2 has the century; the same byte here.
const CENTURY_PS2: usize = 0x37;

const A_UIP: u8 = 1 << 7;
/// Divider bits; 110 and 111 hold the divider in reset, 000 to 010 run.
const A_DV: u8 = 0x70;
const A_RS: u8 = 0x0f;
const B_SET: u8 = 1 << 7;
const B_PIE: u8 = 1 << 6;
const B_AIE: u8 = 1 << 5;
const B_UIE: u8 = 1 << 4;
const B_SQWE: u8 = 1 << 3;
const B_DM: u8 = 1 << 2;
const B_24: u8 = 1 << 1;
const C_IRQF: u8 = 1 << 7;
const C_PF: u8 = 1 << 6;
const C_AF: u8 = 1 << 5;
const C_UF: u8 = 1 << 4;
const D_VRT: u8 = 1 << 7;
const HOURS_PM: u8 = 1 << 7;
const NMI_DISABLE: u8 = 1 << 7;

/// Alarm bytes with these bits match any value.
const ALARM_ANY: u8 = 0xc0;

const DAY: i64 = 86_400;

/// Lost periodic interrupts that are repeated at once, one with each acknowledge, until a regular one comes.
pub const SLEW_ACKS: u8 = 20;

/// More of them come between two regular ones at most.
const SLEW_BETWEEN: u32 = 7;

/// UIP rises this long before an update: 8 cycles of 32.768 kHz, in nanoseconds.
const UIP_HOLD: u64 = 244_140;

/// Seconds since the epoch that the clock can show, years 0 to 9999.
const EARLIEST: i64 = -62_167_219_200;
const LATEST: i64 = 253_402_300_799;

/// The time of day at virtual time 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcBase {
    /// Seconds since 1970-01-01 of the clock that the guest shall see: UTC or local time.
    pub seconds: i64,
}

/// What the clock is wired to.
#[derive(Clone, Copy, Debug)]
pub struct RtcWiring {
    /// The interrupt output: input 8 of the interrupt controllers.
    pub irq: IrqLine,
    /// Fires when an enabled flag is due.
    pub timer: TimerId,
}

/// Guest-visible state.
#[derive(Clone, Debug)]
struct State {
    index: u8,
    nmi_disabled: bool,
    cmos: [u8; CMOS_SIZE],
    /// What the guest added to the base, in seconds.
    offset: i64,
    /// Nanoseconds to add to the virtual time so that updates fall on whole seconds.
    phase: u64,
    /// The virtual time up to which the flags of register C are known.
    flags_at: u64,
    /// Periodic interrupts that are to be repeated.
    lost: u32,
    /// Those that were repeated at once since there was a regular one.
    repeated: u8,
    /// The virtual time at which the next one is to be repeated.
    repeat_at: Option<u64>,
}

/// The clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    base: RtcBase,
    wiring: RtcWiring,
    /// Whether lost periodic interrupts are repeated.
    slews: bool,
    /// Somebody else drives the line.
    muted: bool,
    state: State,
}

impl Rtc {
    /// The clock with an empty CMOS RAM, in BCD and 24-hour form; `slews` says whether lost periodic interrupts are repeated.
    pub fn new(wiring: RtcWiring, base: RtcBase, slews: bool) -> Self {
        let mut cmos = [0; CMOS_SIZE];
        cmos[REGISTER_A] = 0x26;
        cmos[REGISTER_B] = B_24;
        cmos[REGISTER_D] = D_VRT;
        let mut rtc = Self {
            base,
            wiring,
            slews,
            muted: false,
            state: State {
                index: 0,
                nmi_disabled: false,
                cmos,
                offset: 0,
                phase: 0,
                flags_at: 0,
                lost: 0,
                repeated: 0,
                repeat_at: None,
            },
        };
        rtc.show(0);
        rtc
    }

    /// The RESET pin: interrupts off, flags clear. Time, alarm and RAM live on the battery.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state.cmos[REGISTER_B] &= !(B_PIE | B_AIE | B_UIE | B_SQWE);
        self.state.cmos[REGISTER_C] = 0;
        self.state.flags_at = cx.now;
        self.forget_lost();
        self.state.index = 0;
        self.state.nmi_disabled = false;
        self.drive(cx);
    }

    /// The timer of the wiring fired; others are ignored.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        if id == self.wiring.timer {
            self.sync(cx);
            self.drive(cx);
            trace::rtc_timer(self.state.cmos[REGISTER_C]);
        }
    }

    /// A byte of CMOS RAM as last written, without effect on the device; index modulo 128.
    pub fn cmos(&self, index: u8) -> u8 {
        self.state.cmos[usize::from(index) % CMOS_SIZE]
    }

    /// Fills in a byte of CMOS RAM for the board. Clock and control registers (below 0Eh and the
    /// century) are left alone.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        let index = usize::from(index) % CMOS_SIZE;
        if index > REGISTER_D && index != CENTURY {
            self.state.cmos[index] = value;
        }
    }

    /// What the guest's settings of the date add to the base, in seconds.
    pub fn offset_seconds(&self) -> i64 {
        self.state.offset
    }

    /// Corrects the base, where the host's clock and the virtual clock drift apart.
    pub fn set_base(&mut self, base: RtcBase, cx: &mut Context<'_>) {
        self.sync(cx);
        self.base = base;
        self.drive(cx);
    }

    /// Whether lost periodic interrupts are repeated.
    pub const fn slews(&self) -> bool {
        self.slews
    }

    /// Gives up on periodic interrupts that the guest has lost: they are not repeated. For a host that has told the guest the
    /// time by other means.
    pub fn reset_reinjection(&mut self, cx: &mut Context<'_>) {
        self.sync(cx);
        self.forget_lost();
        self.drive(cx);
    }

    fn forget_lost(&mut self) {
        self.state.lost = 0;
        self.state.repeated = 0;
        self.state.repeat_at = None;
    }

    /// Whether an alarm that may interrupt has come and was not acknowledged: what wakes a sleeping machine up.
    pub fn alarm_rings(&self) -> bool {
        self.state.cmos[REGISTER_C] & C_AF != 0 && self.state.cmos[REGISTER_B] & B_AIE != 0
    }

    /// What the clock shows at `now`: seconds since 1970-01-01 00:00, in whatever time zone the guest keeps it. One that the guest
    /// holds shows what it did then.
    pub fn shown(&self, now: u64) -> i64 {
        match self.running() {
            true => self.seconds(now),
            false => self.registers().clamp(EARLIEST, LATEST),
        }
    }

    /// Says whether something else drives the line, as an HPET does in legacy replacement mode. A muted clock that is unmuted
    /// drives its line again.
    pub fn set_muted(&mut self, cx: &mut Context<'_>, muted: bool) {
        if core::mem::replace(&mut self.muted, muted) != muted {
            self.drive(cx);
        }
    }

    /// When the first alarm after `now` asks for an interrupt, on the virtual clock; `None` if none does.
    pub fn alarm_at(&self, now: u64) -> Option<u64> {
        let enabled = self.state.cmos[REGISTER_B] & B_AIE != 0 && self.running();
        self.next_alarm(now).filter(|_| enabled)
    }

    /// Whether the guest masked NMI through bit 7 of port 70h.
    pub fn nmi_disabled(&self) -> bool {
        self.state.nmi_disabled
    }

    fn running(&self) -> bool {
        self.state.cmos[REGISTER_B] & B_SET == 0 && self.state.cmos[REGISTER_A] & A_DV <= 0x20
    }

    /// Nanoseconds since the divider chain was at a whole second.
    fn chain(&self, now: u64) -> u128 {
        u128::from(now) + u128::from(self.state.phase)
    }

    /// Seconds since the epoch that the clock shows.
    fn seconds(&self, now: u64) -> i64 {
        self.base
            .seconds
            .saturating_add(self.state.offset)
            .saturating_add(self.ticked(now))
            .clamp(EARLIEST, LATEST)
    }

    fn ticked(&self, now: u64) -> i64 {
        (self.chain(now) / u128::from(SECOND)) as i64
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value as u8;
        if self.state.cmos[REGISTER_B] & B_DM != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> i64 {
        if self.state.cmos[REGISTER_B] & B_DM != 0 {
            value.into()
        } else {
            i64::from(value >> 4) * 10 + i64::from(value & 15)
        }
    }

    fn decode_hours(&self, value: u8) -> i64 {
        if self.state.cmos[REGISTER_B] & B_24 != 0 {
            return self.decode(value);
        }
        let hours = self.decode(value & !HOURS_PM) % 12;
        hours + if value & HOURS_PM != 0 { 12 } else { 0 }
    }

    /// Brings the time registers up to date.
    fn show(&mut self, now: u64) {
        if !self.running() {
            return;
        }
        let seconds = self.seconds(now);
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = date_from_days(days);
        let hour = second / 3600;
        let hours = if self.state.cmos[REGISTER_B] & B_24 != 0 {
            self.encode(hour)
        } else {
            let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
            self.encode(twelve) | if hour >= 12 { HOURS_PM } else { 0 }
        };
        for (index, value) in [
            (SECONDS, self.encode(second % 60)),
            (MINUTES, self.encode(second / 60 % 60)),
            (HOURS, hours),
            // 1 is Sunday; day 0 of the epoch was a Thursday.
            (DAY_OF_WEEK, self.encode((days + 4).rem_euclid(7) + 1)),
            (DAY_OF_MONTH, self.encode(day)),
            (MONTH, self.encode(month)),
            (YEAR, self.encode(year % 100)),
            (CENTURY, self.encode(year / 100)),
        ] {
            self.state.cmos[index] = value;
        }
    }

    /// The time that stands in the registers, however odd their values.
    fn registers(&self) -> i64 {
        let cmos = &self.state.cmos;
        let year = self.decode(cmos[CENTURY]) * 100 + self.decode(cmos[YEAR]);
        let month = self.decode(cmos[MONTH]).clamp(1, 12);
        let days = days_from_date(year, month, self.decode(cmos[DAY_OF_MONTH]));
        days * DAY
            + self.decode_hours(cmos[HOURS]) * 3600
            + self.decode(cmos[MINUTES]) * 60
            + self.decode(cmos[SECONDS])
    }

    /// Takes the time from the registers and tells the host.
    fn take(&mut self, cx: &mut Context<'_>) {
        self.state.offset = self
            .registers()
            .saturating_sub(self.base.seconds)
            .saturating_sub(self.ticked(cx.now));
        trace::rtc_set_time(self.state.offset);
        cx.effects.push(Effect::Guest(GuestEvent::RtcChanged {
            offset: self.state.offset,
        }));
    }

    /// Nanoseconds between periodic flags, as a fraction: cycles of 32.768 kHz.
    fn period_cycles(&self) -> Option<u32> {
        match self.state.cmos[REGISTER_A] & A_RS {
            0 => None,
            // The first two select what 8 and 9 do.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
        .filter(|_| self.state.cmos[REGISTER_A] & A_DV <= 0x20)
    }

    /// The virtual time of the first periodic flag after `now`.
    fn next_period(&self, now: u64) -> Option<u64> {
        let cycles = u128::from(self.period_cycles()?);
        let second = u128::from(SECOND);
        let done = self.chain(now) * 32_768 / (second * cycles);
        let next = ((done + 1) * cycles * second).div_ceil(32_768);
        (next - u128::from(self.state.phase)).try_into().ok()
    }

    /// Whole periods until `now`.
    fn periods(&self, now: u64) -> u128 {
        let cycles = self.period_cycles().map_or(u128::MAX, u128::from);
        self.chain(now) * 32_768 / u128::from(SECOND) / cycles
    }

    /// The virtual time of the `n`th update after `now`.
    fn nth_update(&self, now: u64, n: u64) -> Option<u64> {
        let second = u128::from(SECOND);
        let next = (self.chain(now) / second + u128::from(n)) * second;
        (next - u128::from(self.state.phase)).try_into().ok()
    }

    /// The virtual time of the first alarm after `now`.
    fn next_alarm(&self, now: u64) -> Option<u64> {
        let any = |value: u8| value & ALARM_ANY == ALARM_ANY;
        let cmos = &self.state.cmos;
        let pick = |value: u8, decoded: i64| if any(value) { None } else { Some(decoded) };
        let hours = cmos[HOURS_ALARM];
        let hour = pick(hours, self.decode_hours(hours));
        let minute = pick(cmos[MINUTES_ALARM], self.decode(cmos[MINUTES_ALARM]));
        let second = pick(cmos[SECONDS_ALARM], self.decode(cmos[SECONDS_ALARM]));
        let first = self.seconds(now).rem_euclid(DAY) + 1;
        // The least second of this or the next day: hours, minutes and seconds one by one.
        (0..=24)
            .map(|h| (first / 3600 + h) * 3600)
            .filter(|start| hour.is_none_or(|hour| start / 3600 % 24 == hour))
            .flat_map(|start| (0..60).map(move |m| start + m * 60))
            .filter(|start| minute.is_none_or(|m| start / 60 % 60 == m) && start + 59 >= first)
            .find_map(|start| match second {
                None => Some(start.max(first)),
                Some(s) => Some(start + s).filter(|at| s < 60 && *at >= first),
            })
            .and_then(|at| self.nth_update(now, (at - first + 1) as u64))
    }

    /// The next time at which each flag is set after `now`.
    fn next_flags(&self, now: u64) -> [(u8, Option<u64>); 3] {
        let running = self.running();
        [
            (C_PF, self.next_period(now)),
            (C_UF, self.nth_update(now, 1).filter(|_| running)),
            (C_AF, self.next_alarm(now).filter(|_| running)),
        ]
    }

    /// Sets the flags that came since the last call.
    fn sync(&mut self, cx: &Context<'_>) {
        self.count_lost(cx.now);
        for (flag, at) in self.next_flags(self.state.flags_at) {
            if at.is_some_and(|at| at <= cx.now) {
                self.state.cmos[REGISTER_C] |= flag;
            }
        }
        self.state.flags_at = cx.now.max(self.state.flags_at);
    }

    /// Counts the periodic interrupts that come while the last one waits, and repeats one if it is time.
    fn count_lost(&mut self, now: u64) {
        if !self.slews || self.state.cmos[REGISTER_B] & B_PIE == 0 {
            return;
        }
        let waits = self.state.cmos[REGISTER_C] & C_PF != 0;
        let came = self.periods(now.max(self.state.flags_at)) - self.periods(self.state.flags_at);
        if came > 0 {
            self.state.repeated = 0;
        }
        let lost = came.saturating_sub(u128::from(!waits));
        self.state.lost = u32::try_from(lost + u128::from(self.state.lost)).unwrap_or(u32::MAX);
        if self.state.repeat_at.is_some_and(|at| at <= now) {
            self.state.repeat_at = None;
            if !waits && came == 0 {
                self.repeat();
            }
        }
    }

    /// A periodic interrupt that was lost comes again.
    fn repeat(&mut self) {
        if let Some(left) = self.state.lost.checked_sub(1) {
            self.state.lost = left;
            self.state.cmos[REGISTER_C] |= C_PF;
        }
    }

    /// Register C was read: of the lost interrupts one comes at once, or before the next regular one.
    fn acknowledged(&mut self, cx: &mut Context<'_>) {
        if self.state.lost == 0 || self.state.cmos[REGISTER_B] & B_PIE == 0 {
            return;
        }
        if self.state.repeated < SLEW_ACKS {
            self.state.repeated += 1;
            // A new edge.
            self.drive(cx);
            self.repeat();
        } else if self.state.repeat_at.is_none() {
            let cycles = self.period_cycles().map_or(0, u64::from);
            let parts = u64::from(self.state.lost.min(SLEW_BETWEEN)) + 1;
            let wait = cycles * SECOND / 32_768 / parts;
            self.state.repeat_at = cx.now.checked_add(wait).filter(|_| wait > 0);
        }
    }

    /// Periodic interrupts come at another rate than once in `before` cycles, or no more: the same time is lost.
    fn recount_lost(&mut self, before: Option<u32>) {
        let wanted = self.state.cmos[REGISTER_B] & B_PIE != 0;
        match (before, self.period_cycles()) {
            (Some(before), Some(now)) if wanted => {
                let lost = u64::from(self.state.lost) * u64::from(before);
                self.state.lost = lost.div_ceil(now.into()).try_into().unwrap_or(u32::MAX);
            }
            _ => self.forget_lost(),
        }
    }

    /// Derives IRQF and the line from the flags, and arms the timer for the next enabled one.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let enabled = self.state.cmos[REGISTER_B] & (B_PIE | B_AIE | B_UIE);
        let flags = self.state.cmos[REGISTER_C] & !C_IRQF;
        let irq = flags & enabled != 0;
        self.state.cmos[REGISTER_C] = flags | if irq { C_IRQF } else { 0 };
        if !self.muted {
            cx.lines.set(self.wiring.irq, irq);
        }
        let next = if irq || enabled == 0 {
            // Nothing changes until the guest reads register C.
            None
        } else {
            self.next_flags(self.state.flags_at)
                .iter()
                .filter(|(flag, _)| flag & enabled != 0)
                .filter_map(|(_, at)| *at)
                .chain(self.state.repeat_at)
                .min()
        };
        match next {
            Some(at) => cx.timers.arm(self.wiring.timer, at),
            None => cx.timers.disarm(self.wiring.timer),
        }
    }

    fn update_in_progress(&self, now: u64) -> bool {
        let left = SECOND - (self.chain(now) % u128::from(SECOND)) as u64;
        self.running() && left <= UIP_HOLD
    }

    fn selected(&self) -> usize {
        match usize::from(self.state.index) % CMOS_SIZE {
            CENTURY_PS2 => CENTURY,
            index => index,
        }
    }

    fn write_data(&mut self, cx: &mut Context<'_>, value: u8) {
        let now = cx.now;
        let index = self.selected();
        trace::rtc_write(index, value);
        self.show(now);
        let ran = self.running();
        let period = self.period_cycles();
        match index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK | DAY_OF_MONTH | MONTH | YEAR | CENTURY => {
                self.state.cmos[index] = value;
                if ran {
                    self.take(cx);
                }
            }
            REGISTER_A => {
                let held = self.state.cmos[REGISTER_A] & 0x60 == 0x60;
                self.state.cmos[REGISTER_A] = value & !A_UIP;
                if held && value & A_DV <= 0x20 {
                    // The first update comes half a second after the divider is let go.
                    let half = SECOND / 2;
                    self.state.phase = (half + SECOND - now % SECOND) % SECOND;
                }
                if !ran && self.running() {
                    self.take(cx);
                }
            }
            REGISTER_B => {
                let value = if value & B_SET != 0 {
                    value & !B_UIE
                } else {
                    value
                };
                let starts = self.state.cmos[REGISTER_B] & B_SET != 0 && value & B_SET == 0;
                self.state.cmos[REGISTER_B] = value;
                if starts && self.running() {
                    self.take(cx);
                }
            }
            REGISTER_C | REGISTER_D => {}
            _ => self.state.cmos[index] = value,
        }
        if self.slews && (index == REGISTER_A || index == REGISTER_B) {
            self.recount_lost(period);
        }
    }
}

impl PortDevice for Rtc {
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        if offset & 1 == 0 {
            return 0xff;
        }
        self.sync(cx);
        self.show(cx.now);
        let index = self.selected();
        let mut value = self.state.cmos[index];
        if index == REGISTER_A && self.update_in_progress(cx.now) {
            value |= A_UIP;
        }
        if index == REGISTER_C {
            self.drive(cx);
            value = core::mem::take(&mut self.state.cmos[REGISTER_C]);
            self.acknowledged(cx);
        }
        self.drive(cx);
        trace::rtc_read(index, value);
        value.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        let value = value as u8;
        if offset & 1 == 0 {
            self.state.index = value & !NMI_DISABLE;
            self.state.nmi_disabled = value & NMI_DISABLE != 0;
            return;
        }
        self.sync(cx);
        self.write_data(cx, value);
        self.drive(cx);
    }
}

/// Saved form of [`Rtc`].
#[derive(Serialize, Deserialize)]
pub struct SavedRtc {
    index: u8,
    nmi_disabled: bool,
    /// In quarters, as long arrays have no serde form.
    cmos: [[u8; CMOS_SIZE / 4]; 4],
    base: i64,
    offset: i64,
    phase: u64,
    flags_at: u64,
    lost: u32,
    repeated: u8,
    repeat_at: Option<u64>,
}

impl SavedState for Rtc {
    const NAME: &'static str = "mc146818rtc";
    const VERSION: u16 = 2;
    type Saved = SavedRtc;

    fn save(&self) -> SavedRtc {
        let Self {
            base,
            wiring: _,
            slews: _,
            muted: _,
            state,
        } = self;
        let State {
            index,
            nmi_disabled,
            cmos,
            offset,
            phase,
            flags_at,
            lost,
            repeated,
            repeat_at,
        } = state.clone();
        SavedRtc {
            index,
            nmi_disabled,
            cmos: core::array::from_fn(|i| core::array::from_fn(|j| cmos[i * CMOS_SIZE / 4 + j])),
            base: base.seconds,
            offset,
            phase,
            flags_at,
            lost,
            repeated,
            repeat_at,
        }
    }

    fn load(&mut self, saved: SavedRtc, cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedRtc {
            index,
            nmi_disabled,
            cmos,
            base,
            offset,
            phase,
            flags_at,
            lost,
            repeated,
            repeat_at,
        } = saved;
        if usize::from(index) >= CMOS_SIZE {
            return Err(StateError::Invalid("index"));
        }
        if phase >= SECOND {
            return Err(StateError::Invalid("phase"));
        }
        if repeated > SLEW_ACKS {
            return Err(StateError::Invalid("repeated"));
        }
        let cmos = core::array::from_fn(|i| cmos[i / (CMOS_SIZE / 4)][i % (CMOS_SIZE / 4)]);
        self.base.seconds = base;
        self.state = State {
            index,
            nmi_disabled,
            cmos,
            offset,
            phase,
            flags_at,
            lost,
            repeated,
            repeat_at,
        };
        self.drive(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use proptest::prelude::*;

    const IRQ: IrqLine = IrqLine::new(8);
    /// 2020-02-29T23:59:58, a Saturday.
    const LEAP: i64 = 1_583_020_798;

    fn rtc() -> Rtc {
        slewing(false)
    }

    fn slewing(slews: bool) -> Rtc {
        let wiring = RtcWiring {
            irq: IRQ,
            timer: TimerId::new(1),
        };
        Rtc::new(wiring, RtcBase { seconds: LEAP }, slews)
    }

    lifecycle_tests!(Rtc, slewing(true), |rtc, bench| {
        set(rtc, bench, 0x0b, 0x72);
    });

    fn get(rtc: &mut Rtc, bench: &mut Bench, index: u8) -> u8 {
        bench.out(rtc, 0, index);
        bench.inb(rtc, 1)
    }

    fn set(rtc: &mut Rtc, bench: &mut Bench, index: u8, value: u8) {
        bench.out(rtc, 0, index);
        bench.out(rtc, 1, value);
    }

    fn date(rtc: &mut Rtc, bench: &mut Bench) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| get(rtc, bench, index))
    }

    #[test]
    fn rolls_over_the_leap_day() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        assert_eq!(
            date(&mut rtc, &mut bench),
            [0x20, 0x20, 2, 0x29, 7, 0x23, 0x59, 0x58]
        );
        bench.now = 2 * SECOND;
        assert_eq!(date(&mut rtc, &mut bench), [0x20, 0x20, 3, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn set_moves_the_offset() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        set(&mut rtc, &mut bench, 0x0b, 0x86);
        for (index, value) in [(0x32, 20), (9, 20), (8, 3), (7, 1), (4, 11), (2, 0), (0, 0)] {
            set(&mut rtc, &mut bench, index, value);
        }
        set(&mut rtc, &mut bench, 0x0b, 0x04);
        assert_eq!(rtc.offset_seconds(), 2 + 11 * 3600);
        let told = Effect::Guest(GuestEvent::RtcChanged {
            offset: 2 + 11 * 3600,
        });
        assert_eq!(bench.effects.take(), Some(told));
        assert_eq!(bench.effects.take(), None, "nothing while SET is on");
        set(&mut rtc, &mut bench, 4, 0x8c);
        bench.now = SECOND;
        assert_eq!(date(&mut rtc, &mut bench), [20, 20, 3, 1, 1, 0x8c, 0, 1]);
    }

    #[test]
    fn registers_read_as_on_a_pc() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        assert_eq!(bench.inb(&mut rtc, 0), 0xff);
        assert_eq!(
            [0xa, 0xb, 0xc, 0xd].map(|i| get(&mut rtc, &mut bench, i)),
            [0x26, 2, 0, 0x80]
        );
        set(&mut rtc, &mut bench, 0x0d, 0);
        assert_eq!(get(&mut rtc, &mut bench, 0x0d), 0x80);
        set(&mut rtc, &mut bench, 0x0b, 0x92);
        assert_eq!(get(&mut rtc, &mut bench, 0x0b), 0x82, "SET clears UIE");
        bench.out(&mut rtc, 0, 0x8f);
        assert!(rtc.nmi_disabled());
    }

    #[test]
    fn periodic_interrupts_skip_lost_ones() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        set(&mut rtc, &mut bench, 0x0b, 0x42);
        assert_eq!(bench.timers.next_deadline(), Some(976_563));
        bench.now = 100 * SECOND;
        rtc.timer(&mut bench.context(), TimerId::new(1));
        assert!(bench.lines.level(IRQ));
        assert_eq!(bench.timers.next_deadline(), None);
        assert_eq!(get(&mut rtc, &mut bench, 0x0c) & 0xd0, 0xd0);
        assert!(!bench.lines.level(IRQ));
        assert_eq!(bench.timers.next_deadline(), Some(100 * SECOND + 976_563));
    }

    /// A guest that is away for 50 periods gets them all: 20 at once, the others between regular ones.
    #[test]
    fn lost_interrupts_come_later() {
        let (mut rtc, mut bench) = (slewing(true), Bench::new());
        get(&mut rtc, &mut bench, 0x0c);
        // 1,024 Hz.
        set(&mut rtc, &mut bench, 0x0b, 0x42);
        let period = SECOND / 1024;
        bench.now = 51 * period + 5000;
        rtc.timer(&mut bench.context(), TimerId::new(1));
        let mut at_once = 0;
        while get(&mut rtc, &mut bench, 0x0c) & 0xc0 == 0xc0 {
            at_once += 1;
        }
        assert_eq!(at_once, 1 + 20);
        assert!(!bench.lines.level(IRQ));
        // Eight in a period, all acknowledged, in place of one.
        let (mut came, end) = (0, bench.now + 40 * period);
        while let Some(at) = bench.timers.next_deadline().filter(|at| *at <= end) {
            bench.now = at;
            bench.timers.take_expired(at);
            rtc.timer(&mut bench.context(), TimerId::new(1));
            assert!(bench.lines.level(IRQ));
            while get(&mut rtc, &mut bench, 0x0c) & 0xc0 == 0xc0 {
                came += 1;
            }
        }
        assert_eq!(came, 40 + 30);
        assert_eq!(rtc.state.lost, 0);
        // Whoever is told the time otherwise wants none of them.
        bench.now += 50 * period;
        rtc.reset_reinjection(&mut bench.context());
        assert_eq!(get(&mut rtc, &mut bench, 0x0c) & 0xc0, 0xc0);
        assert_eq!(get(&mut rtc, &mut bench, 0x0c) & 0xc0, 0);
        // The same time at half the rate.
        bench.now += 41 * period;
        set(&mut rtc, &mut bench, 0x0a, 0x27);
        assert_eq!(rtc.state.lost, 20);
        set(&mut rtc, &mut bench, 0x0b, 0x02);
        assert_eq!(rtc.state.lost, 0);
    }

    #[test]
    fn what_the_clock_shows() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        assert_eq!(rtc.shown(2 * SECOND), LEAP + 2);
        set(&mut rtc, &mut bench, 0x0b, 0x82);
        assert_eq!(rtc.shown(2 * SECOND), LEAP);
        set(&mut rtc, &mut bench, 0x08, 0xff);
        set(&mut rtc, &mut bench, 0x07, 0xff);
        rtc.shown(0);
    }

    #[test]
    fn an_alarm_rings_until_it_is_acknowledged() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        for (index, value) in [(5, 0x23), (3, 0x59), (1, 0x59), (0x0b, 0x22)] {
            set(&mut rtc, &mut bench, index, value);
        }
        get(&mut rtc, &mut bench, 0x0c);
        rtc.set_muted(&mut bench.context(), true);
        assert!(!rtc.alarm_rings());
        bench.now = SECOND;
        assert_eq!(bench.timers.take_expired(SECOND), Some(TimerId::new(1)));
        rtc.timer(&mut bench.context(), TimerId::new(1));
        assert!(rtc.alarm_rings() && !bench.lines.level(IRQ));
        rtc.set_muted(&mut bench.context(), false);
        assert!(bench.lines.level(IRQ));
        get(&mut rtc, &mut bench, 0x0c);
        assert!(!rtc.alarm_rings());
    }

    #[test]
    fn update_ended_and_uip() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        set(&mut rtc, &mut bench, 0x0b, 0x12);
        bench.now = SECOND - 1000;
        assert_eq!(get(&mut rtc, &mut bench, 0x0a), 0xa6);
        bench.now = SECOND;
        rtc.timer(&mut bench.context(), TimerId::new(1));
        assert!(bench.lines.level(IRQ));
        assert_eq!(get(&mut rtc, &mut bench, 0x0a), 0x26);
        assert_eq!(get(&mut rtc, &mut bench, 0x0c) & 0x90, 0x90);
    }

    #[test]
    fn alarms_and_wildcards() {
        for (alarm, seconds) in [
            ([0x00, 0x00, 0x00], 2),
            ([0xff, 0xff, 0xff], 1),
            ([0xff, 0xff, 0x57], 59),
            ([0xff, 0x59, 0xff], 1),
            ([0x23, 0x59, 0x58], 86_400),
            ([0x01, 0xff, 0x05], 3607),
        ] {
            let (mut rtc, mut bench) = (rtc(), Bench::new());
            for (index, value) in [5, 3, 1].into_iter().zip(alarm) {
                set(&mut rtc, &mut bench, index, value);
            }
            set(&mut rtc, &mut bench, 0x0b, 0x22);
            assert_eq!(
                bench.timers.next_deadline(),
                Some(seconds * SECOND),
                "{alarm:x?}"
            );
        }
    }

    #[test]
    fn divider_restart_updates_after_half_a_second() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        set(&mut rtc, &mut bench, 0x0a, 0x76);
        bench.now = 7 * SECOND / 4;
        assert_eq!(get(&mut rtc, &mut bench, 0), 0x58);
        set(&mut rtc, &mut bench, 0x0a, 0x26);
        bench.now += SECOND / 2 - 1;
        assert_eq!(get(&mut rtc, &mut bench, 0), 0x58);
        bench.now += 1;
        assert_eq!(get(&mut rtc, &mut bench, 0), 0x59);
    }

    #[test]
    fn the_host_hears_of_each_setting_of_the_running_clock() {
        let (mut rtc, mut bench) = (rtc(), Bench::new());
        for (index, value, told) in [
            (0x06, 0x03, true),
            (0x32, 0x20, true),
            (0x37, 0x20, true),
            (0x0a, 0x76, false),
            (0x00, 0x30, false),
            (0x0a, 0x26, true),
            (0x01, 0x05, false),
            (0x0b, 0x82, false),
            (0x02, 0x10, false),
            (0x0a, 0x76, false),
            (0x0b, 0x02, false),
            (0x0a, 0x26, true),
            (0x0b, 0x02, false),
            (0x0d, 0x00, false),
            (0x40, 0x00, false),
        ] {
            set(&mut rtc, &mut bench, index, value);
            let event = bench.effects.take();
            assert_eq!(event.is_some(), told, "{index:#x} {value:#x}: {event:?}");
        }
    }

    #[test]
    fn board_fills_ram_only() {
        let mut rtc = rtc();
        rtc.set_cmos(0x34, 0xab);
        rtc.set_cmos(0x0b, 0xff);
        assert_eq!((rtc.cmos(0x34), rtc.cmos(0x0b)), (0xab, 2));
    }

    proptest! {
        #[test]
        fn never_panics(steps in proptest::collection::vec((0u8..16, any::<u8>(), any::<u64>()), 0..40)) {
            let (mut rtc, mut bench) = (slewing(true), Bench::new());
            for (index, value, step) in steps {
                bench.now = bench.now.saturating_add(step >> (value & 63));
                set(&mut rtc, &mut bench, index, value);
                get(&mut rtc, &mut bench, index);
                rtc.timer(&mut bench.context(), TimerId::new(1));
                while bench.effects.take().is_some() {}
            }
        }
    }
}
