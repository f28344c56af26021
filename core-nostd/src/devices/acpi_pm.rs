//! ACPI's fixed hardware as the 82371AB (PIIX4) has it: the PM1 event and control registers, the
//! power-management timer, a block of general-purpose events and the command port.
//!
//! Follows Intel 290562 (82371AB), chapter 7.2, and ACPI 6.4, section 4.8. On the PC board the block
//! belongs to [`crate::pci::piix4_pm`], which says where it is; microvm has it at [`BASE`]. Of the
//! chip's 64 ports those of ACPI alone answer: the others (processor control, throttling, global
//! status, general-purpose I/O) read as ones. General-purpose events are where QEMU's guests look for
//! them, at [`GPE0`], and not at the chip's own place.
//!
//! The timer counts at 3.579545 MHz with 24 bits and is computed from the virtual clock; only
//! its overflow interrupt costs a timer. The command port knows what ACPI needs: there is no system
//! management mode, so that writing [`ACPI_ENABLE`] and [`ACPI_DISABLE`] switches at once, and other
//! commands are kept as bytes. Without the port (microvm) the hardware is in ACPI mode always.
//!
//! The sleeping states are those of QEMU's firmware: soft-off, suspend to RAM, and suspend to disk,
//! which is soft-off with a word to the host; SLP_EN with another type does nothing. Who wakes the
//! machine up resets it first: what is left is the state of memory, and why it woke. As the chip's
//! manual says, TMROF_STS is clear after a reset, and PM1 events that are pending while SCI_EN is off
//! raise nothing; QEMU has both otherwise.

use serde::{Deserialize, Serialize};

use super::{Context, Effect, GuestEvent, PortDevice, PowerRequest, ShutdownCause, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::time::{SECOND, TimerId};
use crate::trace::events as trace;

/// Where firmware puts the block on a PC, and where it is on a board without PCI.
pub const BASE: u16 = 0x600;
/// Ports of the block.
pub const PORTS: u16 = 64;
/// First port of the general-purpose events: status, then enable.
pub const GPE0: u16 = 0xafe0;
/// Ports of the general-purpose events.
pub const GPE0_PORTS: u16 = 4;
/// First port of the command (APMC) and its data (APMS), a byte each.
pub const APMC: u16 = 0xb2;
/// Ports of command and data.
pub const APMC_PORTS: u16 = 2;

/// Offset of PM1 status (PMSTS), 16 bits, in the block; enable (PMEN) follows.
pub const EVENT: u16 = 0x00;
/// Ports of the PM1 events.
pub const EVENT_PORTS: u16 = 4;
/// Offset of PM1 control (PMCNTRL), 16 bits.
pub const CONTROL: u16 = 0x04;
/// Ports of PM1 control.
pub const CONTROL_PORTS: u16 = 2;
/// Offset of the timer (PMTMR), 32 bits of which 24 count.
pub const TIMER: u16 = 0x08;
/// Ports of the timer.
pub const TIMER_PORTS: u16 = 4;

/// What is written to [`APMC`] to let the guest have the hardware.
pub const ACPI_ENABLE: u8 = 0xf1;
/// What is written to [`APMC`] to give the hardware back to the firmware.
pub const ACPI_DISABLE: u8 = 0xf0;

/// PMCNTRL, SUS_TYP of soft-off (290562, 7.2.3).
pub const SOFT_OFF: u8 = 0;
/// PMCNTRL, SUS_TYP of suspend to RAM.
pub const SUSPEND_TO_RAM: u8 = 1;

/// The sleeping states of a machine that sleeps, besides soft-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepStates {
    /// Whether guests are told of suspend to RAM. The hardware can do it in any case.
    pub s3: bool,
    /// Whether they are told of suspend to disk.
    pub s4: bool,
    /// SUS_TYP of suspend to disk. One that does not fit the register's three bits is never written.
    pub s4_type: u8,
}

impl SleepStates {
    /// What a PC has unless its user wants otherwise.
    pub const DEFAULT: Self = Self {
        s3: true,
        s4: true,
        s4_type: 2,
    };
}

/// Why a machine wakes up, with QEMU's numbers for it in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// The alarm of the real-time clock.
    Rtc = 1,
    /// Somebody at the machine. Guests see a press of the power button.
    Button = 3,
}

/// Offset of the general-purpose events, behind the block.
pub(crate) const GPE0_OFFSET: u16 = PORTS;
/// Offset of command and data, behind those.
pub(crate) const APMC_OFFSET: u16 = GPE0_OFFSET + GPE0_PORTS;

/// PMSTS and PMEN: the timer's highest bit has changed.
const TMROF: u16 = 1 << 0;
/// PMSTS and PMEN: the power button was pressed.
const PWRBTN: u16 = 1 << 8;
/// PMSTS and PMEN: the real-time clock's alarm. It is noticed by a machine that sleeps alone.
const RTC: u16 = 1 << 10;
/// PMSTS: the machine has slept, and woken up.
const WAK: u16 = 1 << 15;
/// PMCNTRL: events raise the system control interrupt.
const SCI_EN: u16 = 1 << 0;
/// PMCNTRL: where SUS_TYP begins; it has three bits.
const SUS_TYP: u16 = 10;
/// PMCNTRL: sleep now. It reads as zero.
const SUS_EN: u16 = 1 << 13;

/// Ticks of the timer a second.
pub const TIMER_HZ: u64 = 3_579_545;
/// Bits of the timer.
const TIMER_BITS: u32 = 24;

/// What the block drives.
#[derive(Clone, Copy, Debug)]
pub struct AcpiPmWiring {
    /// The system control interrupt.
    pub sci: IrqLine,
    /// For the timer's overflow.
    pub timer: TimerId,
    /// Whether there is a command port, which switches to ACPI mode and back; ACPI mode is on always
    /// without.
    pub has_command: bool,
    /// SUS_TYP of suspend to disk; `None` where the machine knows soft-off alone.
    pub s4_type: Option<u8>,
}

/// ACPI's fixed hardware.
#[derive(Clone, Debug)]
pub struct AcpiPm {
    wiring: AcpiPmWiring,
    /// Level of the interrupt as it was driven last: the line is let alone while it stays, for others
    /// that drive it.
    level: bool,
    state: SavedAcpiPm,
}

/// Registers of [`AcpiPm`], which are its saved form, too.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SavedAcpiPm {
    /// PMSTS, but for TMROF.
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    command: u8,
    data: u8,
    /// Which half turn of the timer was the current one when TMROF was cleared last.
    half: u64,
}

impl AcpiPm {
    /// The block as after power-on.
    pub fn new(wiring: AcpiPmWiring) -> Self {
        let mut new = Self {
            wiring,
            level: false,
            state: SavedAcpiPm::default(),
        };
        new.state.control = new.fixed_control();
        new
    }

    /// All registers go to their defaults; the timer runs on.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = SavedAcpiPm {
            control: self.fixed_control(),
            half: half_of(cx.now),
            ..SavedAcpiPm::default()
        };
        self.update(cx);
    }

    /// The power button is pressed.
    pub fn press_power_button(&mut self, cx: &mut Context<'_>) {
        self.state.status |= PWRBTN;
        self.update(cx);
    }

    /// Whether the real-time clock's alarm wakes the machine up.
    pub fn wakes_by_rtc(&self) -> bool {
        self.state.enable & RTC != 0
    }

    /// The machine has woken up, and was reset.
    pub fn woken(&mut self, cx: &mut Context<'_>, reason: WakeReason) {
        self.state.status |= WAK
            | match reason {
                WakeReason::Rtc => RTC,
                WakeReason::Button => PWRBTN,
            };
        self.update(cx);
    }

    /// The timer's overflow has come.
    pub fn timer(&mut self, cx: &mut Context<'_>, _id: TimerId) {
        self.update(cx);
    }

    /// Bits of control that the guest can't change.
    const fn fixed_control(&self) -> u16 {
        if self.wiring.has_command { 0 } else { SCI_EN }
    }

    /// PMSTS.
    fn status(&self, now: u64) -> u16 {
        let over = half_of(now) != self.state.half;
        self.state.status | if over { TMROF } else { 0 }
    }

    /// Drives the interrupt and arms the timer as the registers say.
    fn update(&mut self, cx: &mut Context<'_>) {
        let SavedAcpiPm {
            enable,
            control,
            gpe_status,
            gpe_enable,
            half,
            ..
        } = self.state;
        let status = self.status(cx.now);
        let level = control & SCI_EN != 0 && status & enable | gpe_status & gpe_enable != 0;
        if level != self.level {
            self.level = level;
            trace::acpi_sci(level);
            cx.lines.set(self.wiring.sci, level);
        }
        if enable & TMROF != 0 && status & TMROF == 0 {
            cx.timers.arm(self.wiring.timer, begin_of_half(half + 1));
        } else {
            cx.timers.disarm(self.wiring.timer);
        }
    }

    /// The 16-bit register at an even offset.
    fn word(&self, now: u64, offset: u16) -> u16 {
        let ticks = ticks(now) as u32 & ((1 << TIMER_BITS) - 1);
        match offset {
            EVENT => self.status(now),
            0x02 => self.state.enable,
            CONTROL => self.state.control,
            TIMER => ticks as u16,
            0x0a => (ticks >> 16) as u16,
            GPE0_OFFSET => self.state.gpe_status,
            0x42 => self.state.gpe_enable,
            APMC_OFFSET => u16::from_le_bytes([self.state.command, self.state.data]),
            _ => u16::MAX,
        }
    }

    /// Writes those bits of the 16-bit register at an even offset that `mask` has.
    fn set_word(&mut self, cx: &mut Context<'_>, offset: u16, value: u16, mask: u16) {
        let merged = |old: u16| old & !mask | value & mask;
        let state = &mut self.state;
        match offset {
            EVENT => {
                state.status &= !(value & mask);
                if value & mask & TMROF != 0 {
                    state.half = half_of(cx.now);
                }
            }
            0x02 => state.enable = merged(state.enable),
            CONTROL => self.set_control(cx, merged(self.state.control), mask),
            GPE0_OFFSET => state.gpe_status &= !(value & mask),
            0x42 => state.gpe_enable = merged(state.gpe_enable),
            APMC_OFFSET => {
                let registers = u16::from_le_bytes([state.command, state.data]);
                [state.command, state.data] = merged(registers).to_le_bytes();
                if mask & 0xff != 0 {
                    self.run_command();
                }
            }
            _ => {}
        }
        self.update(cx);
    }

    fn set_control(&mut self, cx: &mut Context<'_>, value: u16, mask: u16) {
        self.state.control = value & !SUS_EN | self.fixed_control();
        let kind = (value >> SUS_TYP & 7) as u8;
        if value & mask & SUS_EN == 0 {
            return;
        }
        let off = PowerRequest::Shutdown(ShutdownCause::GuestShutdown);
        match (kind, self.wiring.s4_type) {
            (SOFT_OFF, _) => cx.effects.push(Effect::Power(off)),
            (SUSPEND_TO_RAM, Some(_)) => cx.effects.push(Effect::Power(PowerRequest::Suspend)),
            (_, Some(s4_type)) if kind == s4_type => {
                cx.effects.push(Effect::Guest(GuestEvent::SuspendedToDisk));
                cx.effects.push(Effect::Power(off));
            }
            _ => {}
        }
    }

    fn run_command(&mut self) {
        match self.state.command {
            ACPI_ENABLE => self.state.control |= SCI_EN,
            ACPI_DISABLE => self.state.control &= !SCI_EN,
            _ => {}
        }
    }
}

/// Ticks of the timer since the virtual clock began.
fn ticks(now: u64) -> u64 {
    (u128::from(now) * u128::from(TIMER_HZ) / u128::from(SECOND)) as u64
}

/// How often the timer's highest bit has changed.
fn half_of(now: u64) -> u64 {
    ticks(now) >> (TIMER_BITS - 1)
}

/// When a half turn begins.
fn begin_of_half(half: u64) -> u64 {
    let ticks = u128::from(half) << (TIMER_BITS - 1);
    let time = (ticks * u128::from(SECOND)).div_ceil(u128::from(TIMER_HZ));
    u64::try_from(time).unwrap_or(u64::MAX)
}

impl PortDevice for AcpiPm {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, width: Width) -> u32 {
        let value = (0..u16::from(width.bytes())).rev().fold(0, |value, i| {
            let at = offset.wrapping_add(i);
            let byte = self.word(cx.now, at & !1) >> (8 * (at & 1)) & 0xff;
            value << 8 | u32::from(byte)
        });
        match offset {
            ..GPE0_OFFSET => trace::acpi_pm_read(offset, width.bytes(), value),
            GPE0_OFFSET..APMC_OFFSET => {
                trace::piix4_gpe_readb(offset - GPE0_OFFSET, width.bytes(), value);
            }
            _ => trace::apm_io_read(offset - APMC_OFFSET, value),
        }
        value
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, width: Width, value: u32) {
        match offset {
            ..GPE0_OFFSET => trace::acpi_pm_write(offset, width.bytes(), value),
            GPE0_OFFSET..APMC_OFFSET => {
                trace::piix4_gpe_writeb(offset - GPE0_OFFSET, width.bytes(), value);
            }
            _ => trace::apm_io_write(offset - APMC_OFFSET, value),
        }
        let shift = 8 * (offset & 1);
        let mut value = u64::from(value) << shift;
        let mut mask = width.ones() << shift;
        let mut at = offset & !1;
        while mask != 0 {
            self.set_word(cx, at, value as u16, mask as u16);
            (value, mask, at) = (value >> 16, mask >> 16, at.wrapping_add(2));
        }
    }
}

impl SavedState for AcpiPm {
    const NAME: &'static str = "acpi-pm";
    const VERSION: u16 = 1;
    type Saved = SavedAcpiPm;

    fn save(&self) -> SavedAcpiPm {
        self.state
    }

    fn load(&mut self, saved: SavedAcpiPm, cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedAcpiPm {
            status,
            control,
            half,
            ..
        } = saved;
        if control & SUS_EN != 0 || control | self.fixed_control() != control {
            return Err(StateError::Invalid("control"));
        }
        if status & TMROF != 0 {
            return Err(StateError::Invalid("status"));
        }
        if half > half_of(u64::MAX) {
            return Err(StateError::Invalid("half"));
        }
        self.state = saved;
        self.update(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;

    const WIRING: AcpiPmWiring = AcpiPmWiring {
        sci: IrqLine::new(9),
        timer: TimerId::new(8),
        has_command: true,
        s4_type: Some(2),
    };

    lifecycle_tests!(AcpiPm, AcpiPm::new(WIRING), |device, bench| {
        bench.out(device, 0x03, 1);
        device.press_power_button(&mut bench.context());
        bench.out(device, APMC_OFFSET, ACPI_ENABLE);
        bench.out(device, APMC_OFFSET + 1, 7);
        bench.out(device, 0x42, 7);
    });

    fn device() -> (AcpiPm, Bench) {
        (AcpiPm::new(WIRING), Bench::new())
    }

    fn read(device: &mut AcpiPm, bench: &mut Bench, offset: u16, width: Width) -> u32 {
        device.pio_read(&mut bench.context(), offset, width)
    }

    fn write(device: &mut AcpiPm, bench: &mut Bench, offset: u16, width: Width, value: u32) {
        device.pio_write(&mut bench.context(), offset, width, value);
    }

    /// Observed with QEMU 7.2, but for SCI_EN.
    #[test]
    fn registers_keep_what_is_written() {
        let (mut device, mut bench) = device();
        let (d, b) = (&mut device, &mut bench);
        assert_eq!(read(d, b, CONTROL, Width::Dword), 0xffff_0000);
        write(d, b, EVENT, Width::Dword, 0xffff_ffff);
        assert_eq!(read(d, b, EVENT, Width::Dword), 0xffff_0000);
        write(d, b, CONTROL, Width::Word, 0xdfff);
        assert_eq!(read(d, b, CONTROL, Width::Dword), 0xffff_dfff);
        write(d, b, GPE0_OFFSET, Width::Dword, 0xffff_ffff);
        assert_eq!(read(d, b, GPE0_OFFSET, Width::Dword), 0xffff_0000);
        assert_eq!(read(d, b, 0x0c, Width::Dword), 0xffff_ffff);
        assert_eq!(read(d, b, 0x03, Width::Word), 0xffff);
        write(d, b, 0x02, Width::Byte, 0);
        assert_eq!(read(d, b, EVENT, Width::Dword), 0xff00_0000);
    }

    #[test]
    fn command_port_switches_the_mode() {
        let (mut device, mut bench) = device();
        let (d, b) = (&mut device, &mut bench);
        for (command, mode) in [(ACPI_ENABLE, 1), (0x55, 1), (ACPI_DISABLE, 0), (0, 0)] {
            b.out(d, APMC_OFFSET, command);
            assert_eq!(b.inb(d, CONTROL), mode, "{command:#x}");
            assert_eq!(b.inb(d, APMC_OFFSET), command);
        }
        b.out(d, APMC_OFFSET + 1, ACPI_ENABLE);
        assert_eq!(b.inb(d, CONTROL), 0, "data is no command");
        let mut always = AcpiPm::new(AcpiPmWiring {
            has_command: false,
            ..WIRING
        });
        write(&mut always, b, CONTROL, Width::Word, 0);
        assert_eq!(b.inb(&mut always, CONTROL), 1);
    }

    #[test]
    fn power_button_interrupts_while_enabled() {
        let (mut device, mut bench) = device();
        let (d, b) = (&mut device, &mut bench);
        d.press_power_button(&mut b.context());
        assert_eq!(read(d, b, EVENT, Width::Word), 0x100);
        assert!(!b.lines.level(WIRING.sci));
        b.out(d, 0x03, 1);
        assert!(!b.lines.level(WIRING.sci), "ACPI mode is off");
        b.out(d, APMC_OFFSET, ACPI_ENABLE);
        assert!(b.lines.level(WIRING.sci));
        write(d, b, EVENT, Width::Word, 0x100);
        assert!(!b.lines.level(WIRING.sci));
        d.press_power_button(&mut b.context());
        assert!(b.lines.level(WIRING.sci));
        d.reset(&mut b.context());
        assert!(!b.lines.level(WIRING.sci));
    }

    #[test]
    fn timer_counts_24_bits_and_overflows() {
        let (mut device, mut bench) = device();
        let (d, b) = (&mut device, &mut bench);
        b.now = SECOND;
        assert_eq!(read(d, b, TIMER, Width::Dword), TIMER_HZ as u32);
        b.now = 5 * SECOND;
        let expected = (5 * TIMER_HZ as u32) % (1 << TIMER_BITS);
        assert_eq!(read(d, b, TIMER, Width::Dword), expected);
        assert_eq!(read(d, b, TIMER + 1, Width::Byte), expected >> 8 & 0xff);
        assert_eq!(
            read(d, b, EVENT, Width::Word),
            1,
            "the highest bit has changed"
        );
        write(d, b, EVENT, Width::Word, 1);
        b.out(d, APMC_OFFSET, ACPI_ENABLE);
        b.out(d, 0x02, 1);
        assert_eq!(read(d, b, EVENT, Width::Word), 0);
        let next = b.timers.next_deadline().unwrap();
        assert_eq!(next, 7_030_453_312);
        b.now = next - 1;
        assert_eq!(read(d, b, EVENT, Width::Word), 0);
        b.now = next;
        assert_eq!(b.timers.take_expired(next), Some(WIRING.timer));
        d.timer(&mut b.context(), WIRING.timer);
        assert!(b.lines.level(WIRING.sci));
        assert_eq!(read(d, b, EVENT, Width::Word), 1);
        assert_eq!(b.timers.next_deadline(), None, "until it is cleared");
        write(d, b, EVENT, Width::Word, 1);
        assert!(!b.lines.level(WIRING.sci));
        assert!(b.timers.next_deadline().is_some());
        b.out(d, 0x02, 0);
        assert_eq!(b.timers.next_deadline(), None);
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn sleeping_states_are_what_the_wiring_says() {
        let off = Effect::Power(PowerRequest::Shutdown(ShutdownCause::GuestShutdown));
        let ram = Effect::Power(PowerRequest::Suspend);
        let disk = Effect::Guest(GuestEvent::SuspendedToDisk);
        for (s4_type, states) in [
            (None, [Some(off), None, None, None]),
            (Some(2), [Some(off), Some(ram), Some(disk), None]),
            (Some(3), [Some(off), Some(ram), None, Some(disk)]),
            (Some(1), [Some(off), Some(ram), None, None]),
            (Some(10), [Some(off), Some(ram), None, None]),
        ] {
            let mut device = AcpiPm::new(AcpiPmWiring { s4_type, ..WIRING });
            let (d, b) = (&mut device, &mut Bench::new());
            let all = states.into_iter().chain([None; 4]);
            for (kind, effect) in all.enumerate() {
                write(d, b, CONTROL, Width::Word, 0x2001 | (kind as u32) << 10);
                assert_eq!(b.effects.take(), effect, "{s4_type:?} {kind}");
                let second = (effect == Some(disk)).then_some(off);
                assert_eq!(b.effects.take(), second, "{s4_type:?} {kind}");
                let kept = u32::from(d.state.control);
                assert_eq!(kept, 1 | (kind as u32) << 10, "SLP_EN reads as zero");
            }
        }
    }

    #[test]
    fn who_wakes_up_knows_why() {
        for (reason, status) in [(WakeReason::Rtc, 0x8400), (WakeReason::Button, 0x8100)] {
            let (mut device, mut bench) = device();
            let (d, b) = (&mut device, &mut bench);
            assert!(!d.wakes_by_rtc());
            write(d, b, 0x02, Width::Word, RTC.into());
            assert!(d.wakes_by_rtc());
            d.reset(&mut b.context());
            assert!(!d.wakes_by_rtc());
            d.woken(&mut b.context(), reason);
            assert_eq!(read(d, b, EVENT, Width::Word), status);
            assert!(!b.lines.level(WIRING.sci));
            // As Linux does it when it is up again.
            write(d, b, 0x02, Width::Word, 0x0500);
            write(d, b, CONTROL, Width::Word, 1);
            assert!(b.lines.level(WIRING.sci));
            write(d, b, EVENT, Width::Word, 0xffff);
            assert_eq!(read(d, b, EVENT, Width::Word), 0);
            assert!(!b.lines.level(WIRING.sci));
        }
    }

    #[test]
    fn a_sleep_is_asked_for_once() {
        let (mut device, mut bench) = device();
        let (d, b) = (&mut device, &mut bench);
        write(d, b, CONTROL, Width::Word, 1);
        assert_eq!(b.effects.take(), None);
        let off = Some(Effect::Power(PowerRequest::Shutdown(
            ShutdownCause::GuestShutdown,
        )));
        write(d, b, CONTROL, Width::Word, 0x2001);
        assert_eq!(b.effects.take(), off);
        assert_eq!(read(d, b, CONTROL, Width::Word), 1);
        // As a byte of its own, and within a wide access.
        b.out(d, CONTROL + 1, 0x20);
        assert_eq!(b.effects.take(), off);
        write(d, b, 0x02, Width::Dword, 0x2000_0000);
        assert_eq!(b.effects.take(), off);
        b.out(d, CONTROL, 0x20);
        assert_eq!(b.effects.take(), None);
    }

    #[test]
    fn times_far_off_are_no_trouble() {
        let (mut device, mut bench) = device();
        let (d, b) = (&mut device, &mut bench);
        b.now = u64::MAX;
        write(d, b, EVENT, Width::Dword, 0x0001_0001);
        assert_eq!(read(d, b, EVENT, Width::Dword), 0x0001_0000);
        assert_eq!(b.timers.next_deadline(), Some(u64::MAX - 1));
    }

    #[test]
    fn refuses_impossible_state() {
        let (mut device, mut bench) = device();
        let mut refused = |change: fn(&mut SavedAcpiPm), field| {
            let mut saved = AcpiPm::new(WIRING).save();
            change(&mut saved);
            let result = device.load(saved, &mut bench.context());
            assert_eq!(result, Err(StateError::Invalid(field)));
        };
        refused(|saved| saved.control = SUS_EN, "control");
        refused(|saved| saved.status = TMROF, "status");
        refused(|saved| saved.half = u64::MAX, "half");
    }
}
