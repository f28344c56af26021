//! Local APIC: one for each processor, in xAPIC and x2APIC mode.
//!
//! Follows Intel's Software Developer's Manual, volume 3A, chapter "Advanced Programmable Interrupt
//! Controller (APIC)"; version 14h with six entries in the local vector table. [`LocalApics`] has
//! those of a machine and carries messages between them.
//!
//! Registers: in xAPIC mode a page of memory at the address in IA32_APIC_BASE, one doubleword every
//! 16 bytes; the low four bits of an address are not decoded, and narrower accesses do nothing, as
//! on QEMU. In x2APIC mode model-specific registers 800h to 83Fh. What an access sends to others
//! is its result: see [`Outgoing`]. Time is an argument, in nanoseconds; the timer's clock is 1 GHz,
//! as under KVM.
//!
//! LINT0 is the INTR output of the 8259A pair, LINT1 the platform's NMI. A processor whose APIC is
//! off takes both directly.
//!
//! Deliberately not modelled: suppressed EOI broadcasts (the version register does not offer them),
//! arbitration (its register reads as zero), focus processors, SMI and remote reads (nothing here
//! has either), ExtINT as a message (as under KVM, only LINT0 does it), the delivery status bits
//! (delivery takes no time), and the spurious vector's own interrupt: a vector is taken in the
//! moment when it is asked for, so that none can disappear in between. The thermal and performance
//! counter entries are registers without a source.

mod group;
mod message;

pub use group::{CPUS_MAX, LocalApics};
pub use message::{DeliveryMode, Destination, Message};

use message::icr;

use crate::cpu::LocalApicState;
use crate::devices::Width;
use crate::devices::class::{DeviceClass, Property, PropertyKind, Value};
use crate::state::StateError;
use crate::trace::events as trace;

/// Class of the device.
pub static CLASS: DeviceClass = DeviceClass {
    name: "apic",
    parent: "apic-common",
    bus: None,
    doc: "local APIC",
    user_creatable: false,
    properties: PROPERTIES,
};

/// What a local APIC has, whoever models it.
pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "id",
        kind: PropertyKind::Uint32,
        default: Value::Unset,
        doc: "APIC id",
    },
    Property {
        name: "version",
        kind: PropertyKind::Uint8,
        default: Value::Uint(0x14),
        doc: "low byte of the version register",
    },
];

/// Where the registers are after power-on.
pub const BASE: u64 = 0xfee0_0000;
/// Bytes of the registers.
pub const LENGTH: u64 = 0x1000;
/// First and last of the model-specific registers that belong to local APICs in x2APIC mode.
pub const X2APIC_MSRS: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// Bits of IA32_APIC_BASE.
pub mod apic_base {
    /// The bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// The local APIC is there at all.
    pub const EN: u64 = 1 << 11;
    /// First bit of the address.
    pub const ADDRESS: u32 = 12;
}

/// Registers: offset in the page by 16, which is also the number from MSR 800h on.
mod register {
    pub(super) const ID: u8 = 0x02;
    pub(super) const VERSION: u8 = 0x03;
    pub(super) const TPR: u8 = 0x08;
    pub(super) const APR: u8 = 0x09;
    pub(super) const PPR: u8 = 0x0a;
    pub(super) const EOI: u8 = 0x0b;
    pub(super) const LDR: u8 = 0x0d;
    pub(super) const DFR: u8 = 0x0e;
    pub(super) const SVR: u8 = 0x0f;
    pub(super) const ISR: u8 = 0x10;
    pub(super) const ISR_LAST: u8 = 0x17;
    pub(super) const TMR: u8 = 0x18;
    pub(super) const TMR_LAST: u8 = 0x1f;
    pub(super) const IRR: u8 = 0x20;
    pub(super) const IRR_LAST: u8 = 0x27;
    pub(super) const ESR: u8 = 0x28;
    pub(super) const ICR_LOW: u8 = 0x30;
    pub(super) const ICR_HIGH: u8 = 0x31;
    pub(super) const LVT_TIMER: u8 = 0x32;
    pub(super) const LVT_THERMAL: u8 = 0x33;
    pub(super) const LVT_PMC: u8 = 0x34;
    pub(super) const LVT_LINT0: u8 = 0x35;
    pub(super) const LVT_LINT1: u8 = 0x36;
    pub(super) const LVT_ERROR: u8 = 0x37;
    pub(super) const TIMER_INITIAL: u8 = 0x38;
    pub(super) const TIMER_CURRENT: u8 = 0x39;
    pub(super) const TIMER_DIVIDE: u8 = 0x3e;
    /// In x2APIC mode only.
    pub(super) const SELF_IPI: u8 = 0x3f;
}

/// Bits of SVR.
mod svr {
    pub(super) const ENABLED: u32 = 1 << 8;
    pub(super) const WRITABLE: u32 = 0x1ff;
    /// Focus processor checking: taken, and without effect.
    pub(super) const FOCUS: u32 = 1 << 9;
}

/// Bits of ESR.
mod esr {
    pub(super) const SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
    pub(super) const RECEIVE_ILLEGAL_VECTOR: u8 = 1 << 6;
    pub(super) const ILLEGAL_REGISTER: u8 = 1 << 7;
}

/// Bits of the local vector table's entries.
mod lvt {
    pub(super) const VECTOR: u32 = 0xff;
    /// Position of the 3 bits of the delivery mode.
    pub(super) const DELIVERY_MODE: u32 = 8;
    pub(super) const DELIVERY_STATUS: u32 = 1 << 12;
    pub(super) const REMOTE_IRR: u32 = 1 << 14;
    pub(super) const LEVEL: u32 = 1 << 15;
    pub(super) const MASKED: u32 = 1 << 16;
    /// Position of the 2 bits of the timer's mode.
    pub(super) const TIMER_MODE: u32 = 17;
    /// Writable bits: with neither delivery mode nor pin, with a mode, and with a pin.
    pub(super) const TIMER: u32 = 0x7_00ff;
    pub(super) const ERROR: u32 = 0x1_00ff;
    pub(super) const SENSOR: u32 = 0x1_07ff;
    pub(super) const LINT: u32 = 0x1_a7ff;
}

/// Writable bits of the divide configuration.
const DIVIDE: u32 = 0xb;
/// DFR's bits that are not writable are ones.
const DFR_ONES: u32 = 0x0fff_ffff;
/// Position of the logical id in LDR, and of the id in ID, in xAPIC mode.
const XAPIC_ID: u32 = 24;
/// Vectors below this are reserved for exceptions.
const FIRST_VECTOR: u8 = 16;

/// A periodic timer interrupts no more often than this, in nanoseconds: a shorter period would keep
/// the host busy with nothing else. Its count is exact all the same.
pub const PERIOD_MIN: u64 = 20_000;

/// An access to a model-specific register that raises #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// What a local APIC has to tell others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// An interrupt for local APICs, perhaps for itself.
    Message(Message),
    /// The end of the level-triggered interrupt of this vector, for the I/O APIC.
    EndOfInterrupt(u8),
}

/// What a processor must do, other than take an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuEvent {
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: into the state after it; the local APIC is there already.
    Init,
    /// Start at page `.0` in real mode, if the processor waits for its start; else nothing.
    Startup(u8),
}

/// A processor's time stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tsc {
    /// What it reads now.
    pub value: u64,
    /// Its ticks in a second.
    pub hz: u64,
}

impl Tsc {
    /// Nanoseconds until it reads `value`; 0 if it has.
    fn until(self, value: u64) -> u64 {
        let ticks = u128::from(value.saturating_sub(self.value));
        let nanoseconds = (ticks * 1_000_000_000).div_ceil(self.hz.max(1).into());
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

/// What does not change while the machine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicWiring {
    /// Its id after a reset, and always in x2APIC mode. FFh is the broadcast.
    pub id: u8,
    /// Whether its processor starts by itself after a reset.
    pub bootstrap: bool,
    /// Whether CPUID shows x2APIC mode.
    pub x2apic: bool,
    /// Whether CPUID shows the timer's deadline mode.
    pub tsc_deadline: bool,
    /// Bits of physical addresses.
    pub address_bits: u8,
}

/// How the timer counts: LVT timer's bits 18 and 17.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TimerMode {
    OneShot,
    Periodic,
    Deadline,
}

/// A count that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counting {
    /// When it had this count, on the virtual clock.
    since: u64,
    /// Above 0.
    count: u32,
}

/// The local APIC of one processor.
#[derive(Clone, Debug)]
pub struct LocalApic {
    wiring: LocalApicWiring,

    /// Level of LINT0. Not a register: a reset leaves it.
    lint0: bool,
    /// What waits for the processor to look.
    nmi: bool,
    init: bool,
    startup: Option<u8>,

    /// Errors since ESR was written.
    errors: u8,
    /// IA32_APIC_BASE.
    base: u64,
    /// Registers. Those that follow from others or from time are not kept up to date here.
    registers: LocalApicState,
    counting: Option<Counting>,
    /// IA32_TSC_DEADLINE.
    tsc_deadline: u64,
    /// The same on the virtual clock.
    deadline: Option<u64>,
}

impl LocalApic {
    /// After power-on, INTR low.
    pub const fn new(wiring: LocalApicWiring) -> Self {
        let bootstrap = if wiring.bootstrap { apic_base::BSP } else { 0 };
        Self {
            wiring,
            lint0: false,
            nmi: false,
            init: false,
            startup: None,
            errors: 0,
            base: BASE | apic_base::EN | bootstrap,
            registers: LocalApicState::power_on(wiring.id, wiring.bootstrap),
            counting: None,
            tsc_deadline: 0,
            deadline: None,
        }
    }

    /// Back to the state after power-on, but for the level of INTR.
    pub fn reset(&mut self) {
        *self = Self {
            lint0: self.lint0,
            ..Self::new(self.wiring)
        };
    }

    /// What INIT does: registers are as after power-on but for the id, and IA32_APIC_BASE stays.
    fn init_reset(&mut self) {
        let (base, id) = (self.base, self.registers.id);
        let nmi = self.nmi;
        self.reset();
        (self.base, self.registers.id, self.nmi) = (base, id, nmi);
        if self.is_x2apic() {
            self.registers.ldr = logical_id(id);
        }
    }

    /// What it is wired to.
    pub fn wiring(&self) -> &LocalApicWiring {
        &self.wiring
    }

    /// Whether it is there: IA32_APIC_BASE's EN.
    pub fn is_on(&self) -> bool {
        self.base & apic_base::EN != 0
    }

    /// Whether its registers are model-specific ones.
    pub fn is_x2apic(&self) -> bool {
        self.base & apic_base::EXTD != 0
    }

    /// Where its page is in guest physical memory, if it has one now.
    pub fn page(&self) -> Option<u64> {
        (self.base & (apic_base::EN | apic_base::EXTD) == apic_base::EN)
            .then_some(self.base & !(LENGTH - 1))
    }

    /// Its id, as messages name it.
    pub fn id(&self) -> u32 {
        match self.is_x2apic() {
            true => self.registers.id,
            false => self.registers.id >> XAPIC_ID,
        }
    }

    fn is_enabled(&self) -> bool {
        self.is_on() && self.registers.svr & svr::ENABLED != 0
    }

    fn matches_logical(&self, set: u32) -> bool {
        let ldr = self.registers.ldr;
        if self.is_x2apic() {
            return ldr >> 16 == set >> 16 && ldr & set & 0xffff != 0;
        }
        let (own, set) = (ldr >> XAPIC_ID, set & 0xff);
        match self.registers.dfr >> 28 {
            // Flat.
            0xf => own & set != 0,
            // Clusters; Fh are all of them.
            0 => (set >> 4 == 0xf || own >> 4 == set >> 4) && own & set & 0xf != 0,
            _ => false,
        }
    }

    /// Processor priority: that of the interrupt in service, or of the task.
    pub fn processor_priority(&self) -> u8 {
        let serving = highest(&self.registers.isr).unwrap_or(0) & 0xf0;
        let task = self.registers.tpr as u8;
        if task >> 4 >= serving >> 4 {
            task
        } else {
            serving
        }
    }

    /// The vector that the processor would be given now.
    pub fn interrupt(&self) -> Option<u8> {
        let vector = highest(&self.registers.irr)?;
        (self.is_on() && vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Gives the processor its interrupt, which is in service then.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.interrupt()?;
        clear(&mut self.registers.irr, vector);
        set(&mut self.registers.isr, vector);
        Some(vector)
    }

    /// Whether an interrupt of the 8259A waits for the processor.
    pub fn external_interrupt(&self) -> bool {
        self.lint0 && self.accepts_external()
    }

    /// Whether INTR gets through to the processor, if it rises.
    pub fn accepts_external(&self) -> bool {
        let entry = self.registers.lvt_lint0;
        !self.is_on() || entry & lvt::MASKED == 0 && mode_of(entry) == DeliveryMode::ExtInt
    }

    /// Whether the processor has a reason to look: an interrupt or an event.
    pub fn needs_attention(&self) -> bool {
        self.has_event() || self.interrupt().is_some() || self.external_interrupt()
    }

    /// Whether [`LocalApic::take_event`] has something.
    pub fn has_event(&self) -> bool {
        self.nmi || self.init || self.startup.is_some()
    }

    /// Takes what the processor must do next.
    pub fn take_event(&mut self) -> Option<CpuEvent> {
        if self.init {
            // What came after INIT stays.
            let startup = self.startup;
            self.init_reset();
            self.startup = startup;
            return Some(CpuEvent::Init);
        }
        if let Some(page) = self.startup.take() {
            return Some(CpuEvent::Startup(page));
        }
        core::mem::take(&mut self.nmi).then_some(CpuEvent::Nmi)
    }

    /// Takes a message. The sender has found out that it is meant ([`Message::reaches`]).
    pub fn accept(&mut self, message: &Message) {
        if self.is_on() {
            self.deliver(message.mode, message.vector, message.level);
        }
    }

    fn deliver(&mut self, mode: DeliveryMode, vector: u8, level: bool) {
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.request(vector, level),
            DeliveryMode::Nmi => self.nmi = true,
            DeliveryMode::Init => {
                self.init = true;
                self.startup = None;
            }
            DeliveryMode::Startup => self.startup = Some(vector),
            DeliveryMode::Smi | DeliveryMode::RemoteRead | DeliveryMode::ExtInt => {}
        }
    }

    fn request(&mut self, vector: u8, level: bool) {
        if vector < FIRST_VECTOR {
            return self.error(esr::RECEIVE_ILLEGAL_VECTOR);
        }
        if !self.is_enabled() {
            return;
        }
        set(&mut self.registers.irr, vector);
        if level {
            set(&mut self.registers.tmr, vector);
        } else {
            clear(&mut self.registers.tmr, vector);
        }
    }

    fn error(&mut self, bit: u8) {
        let new = self.errors & bit == 0;
        self.errors |= bit;
        let entry = self.registers.lvt_error;
        let vector = (entry & lvt::VECTOR) as u8;
        // A vector that is an error itself changes nothing any more.
        if new && entry & lvt::MASKED == 0 && vector >= FIRST_VECTOR {
            tell_local(5, entry);
            self.request(vector, false);
        }
    }

    /// Drives LINT0.
    pub fn set_lint0(&mut self, level: bool) {
        let rises = level && !self.lint0;
        self.lint0 = level;
        let entry = self.registers.lvt_lint0;
        if rises && self.is_on() && entry & lvt::MASKED == 0 {
            tell_local(3, entry);
            match mode_of(entry) {
                // The level is all that counts.
                DeliveryMode::ExtInt => {}
                DeliveryMode::Fixed if entry & lvt::LEVEL != 0 => self.sample_lint0(),
                _ => self.deliver_local(entry),
            }
        }
    }

    /// An edge at a pin, as its entry says.
    fn deliver_local(&mut self, entry: u32) {
        let mode = mode_of(entry);
        // The others are reserved for pins.
        if let DeliveryMode::Fixed | DeliveryMode::Nmi | DeliveryMode::Init = mode {
            self.deliver(mode, (entry & lvt::VECTOR) as u8, false);
        }
    }

    /// A level-triggered interrupt of LINT0 while it is high and none is under way.
    fn sample_lint0(&mut self) {
        let entry = &mut self.registers.lvt_lint0;
        let waits = *entry & (lvt::MASKED | lvt::LEVEL | lvt::REMOTE_IRR) == lvt::LEVEL;
        if self.lint0 && waits && mode_of(*entry) == DeliveryMode::Fixed {
            *entry |= lvt::REMOTE_IRR;
            let vector = (*entry & lvt::VECTOR) as u8;
            self.request(vector, true);
        }
    }

    /// Pulses LINT1, the platform's NMI; tells whether it got through. Where the local APIC is off
    /// it is the processor's own NMI input.
    pub fn pulse_lint1(&mut self) -> bool {
        let entry = self.registers.lvt_lint1;
        if !self.is_on() {
            self.nmi = true;
            return true;
        }
        if entry & lvt::MASKED != 0 {
            return false;
        }
        tell_local(4, entry);
        self.deliver_local(entry);
        mode_of(entry) == DeliveryMode::Nmi
    }

    /// Task priority, bits 7 to 4: CR8.
    pub fn task_priority(&self) -> u8 {
        (self.registers.tpr >> 4) as u8 & 0xf
    }

    /// Sets the task priority by writing CR8: 0 to 15, higher bits are ignored.
    pub fn set_task_priority(&mut self, class: u8) {
        self.registers.tpr = u32::from(class & 0xf) << 4;
    }

    fn end_of_interrupt(&mut self) -> Option<Outgoing> {
        let vector = highest(&self.registers.isr)?;
        clear(&mut self.registers.isr, vector);
        if self.registers.tmr[usize::from(vector / 32)] >> (vector % 32) & 1 == 0 {
            return None;
        }
        let entry = &mut self.registers.lvt_lint0;
        if *entry & lvt::REMOTE_IRR != 0 && *entry & lvt::VECTOR == u32::from(vector) {
            *entry &= !lvt::REMOTE_IRR;
            self.sample_lint0();
        }
        Some(Outgoing::EndOfInterrupt(vector))
    }
}

/// IA32_APIC_BASE.
impl LocalApic {
    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. Switched on again after it was off, all is as after power-on.
    ///
    /// # Errors
    /// [`Fault`] for reserved bits and for transitions that the manual forbids: into x2APIC mode
    /// from off, and out of it to xAPIC mode.
    pub fn set_base(&mut self, value: u64) -> Result<(), Fault> {
        let (reserved, mode) = (self.base_reserved(), apic_base::EN | apic_base::EXTD);
        let (from, to) = (self.base & mode, value & mode);
        if value & reserved != 0 || to == apic_base::EXTD {
            return Err(Fault);
        }
        let off_to_x2apic = from == 0 && to == mode;
        let x2apic_to_xapic = from == mode && to == apic_base::EN;
        if off_to_x2apic || x2apic_to_xapic {
            return Err(Fault);
        }
        if from != to && (from == 0 || to == 0) {
            let nmi = self.nmi;
            self.reset();
            self.nmi = nmi;
        }
        self.base = value;
        if from != mode && to == mode {
            let id = u32::from(self.wiring.id);
            self.registers.id = id;
            self.registers.ldr = logical_id(id);
            self.registers.icr[1] = 0;
        }
        Ok(())
    }

    fn base_reserved(&self) -> u64 {
        let known = apic_base::BSP | apic_base::EN;
        let x2apic = if self.wiring.x2apic {
            apic_base::EXTD
        } else {
            0
        };
        let bits = u32::from(self.wiring.address_bits).clamp(apic_base::ADDRESS, 52);
        let address = (1u64 << bits) - (1 << apic_base::ADDRESS);
        !(known | x2apic | address)
    }
}

/// The timer.
impl LocalApic {
    fn timer_mode(&self) -> TimerMode {
        match self.registers.lvt_timer >> lvt::TIMER_MODE & 3 {
            0 => TimerMode::OneShot,
            2 if self.wiring.tsc_deadline => TimerMode::Deadline,
            1 => TimerMode::Periodic,
            // Reserved: as without the bits.
            _ => TimerMode::OneShot,
        }
    }

    /// Position of the timer's clock in a count of nanoseconds.
    fn shift(&self) -> u32 {
        let divide = self.registers.timer_divide;
        ((divide & 3 | divide >> 1 & 4) + 1) & 7
    }

    fn current_count(&self, now: u64) -> u32 {
        let Some(Counting { since, count }) = self.counting else {
            return 0;
        };
        let elapsed = now.saturating_sub(since) >> self.shift();
        match elapsed.checked_sub(count.into()) {
            // Not there yet: it fits.
            None => count - elapsed as u32,
            Some(over) if self.timer_mode() == TimerMode::Periodic => {
                let initial = self.registers.timer_initial.max(1);
                initial - (over % u64::from(initial)) as u32
            }
            Some(_) => 0,
        }
    }

    /// When the timer interrupts next, in nanoseconds; not while it is masked.
    pub fn next_deadline(&self) -> Option<u64> {
        if !self.is_on() || self.registers.lvt_timer & lvt::MASKED != 0 {
            return None;
        }
        if self.timer_mode() == TimerMode::Deadline {
            return self.deadline;
        }
        let Counting { since, count } = self.counting?;
        let mut left = u64::from(count) << self.shift();
        if self.timer_mode() == TimerMode::Periodic {
            left = left.max(PERIOD_MIN);
        }
        Some(since.saturating_add(left))
    }

    /// Lets the timer do what it has to at `now`; tells whether it has interrupted.
    pub fn advance(&mut self, now: u64) -> bool {
        let expired = match self.timer_mode() {
            TimerMode::Deadline => {
                let expired = self.deadline.is_some_and(|deadline| deadline <= now);
                if expired {
                    self.disarm();
                }
                expired
            }
            _ => self.count_down(now),
        };
        let entry = self.registers.lvt_timer;
        let interrupts = expired && entry & lvt::MASKED == 0;
        if interrupts {
            tell_local(0, entry);
            self.request((entry & lvt::VECTOR) as u8, false);
        }
        interrupts
    }

    /// Follows the count up to `now`; tells whether it has reached 0.
    fn count_down(&mut self, now: u64) -> bool {
        let shift = self.shift();
        let Some(Counting { since, count }) = self.counting else {
            return false;
        };
        let elapsed = now.saturating_sub(since) >> shift;
        let Some(over) = elapsed.checked_sub(count.into()) else {
            return false;
        };
        let initial = self.registers.timer_initial;
        self.counting = if self.timer_mode() == TimerMode::Periodic && initial != 0 {
            let into = over % u64::from(initial);
            Some(Counting {
                // Both are ticks of the past.
                since: since.saturating_add((elapsed - into) << shift),
                count: initial,
            })
        } else {
            None
        };
        true
    }

    fn start_count(&mut self, now: u64, count: u32) {
        self.counting = (count != 0).then_some(Counting { since: now, count });
    }

    fn disarm(&mut self) {
        self.tsc_deadline = 0;
        self.deadline = None;
    }

    fn write_lvt_timer(&mut self, now: u64, value: u32) {
        let before = self.timer_mode();
        self.registers.lvt_timer = value;
        let after = self.timer_mode();
        // Either way it is disarmed; between the other two modes it counts on.
        if (before == TimerMode::Deadline) != (after == TimerMode::Deadline) {
            self.disarm();
            self.counting = None;
            self.registers.timer_initial = 0;
        }
        // One that has stopped at 0 begins again: a periodic count is never at 0.
        if after == TimerMode::Periodic && self.counting.is_none() {
            self.start_count(now, self.registers.timer_initial);
        }
    }

    fn write_divide(&mut self, now: u64, value: u32) {
        let count = self.current_count(now);
        self.registers.timer_divide = value & DIVIDE;
        self.start_count(now, count);
    }

    /// IA32_TSC_DEADLINE: 0 while it is not armed.
    pub fn tsc_deadline(&mut self, now: u64) -> u64 {
        self.advance(now);
        self.tsc_deadline
    }

    /// Writes IA32_TSC_DEADLINE: the timer interrupts when the time stamp counter has this value,
    /// or never if that is 0. Without effect in other modes. To be called again with the same
    /// value when the counter is written.
    pub fn set_tsc_deadline(&mut self, now: u64, value: u64, tsc: Tsc) {
        self.advance(now);
        self.disarm();
        if self.is_on() && self.timer_mode() == TimerMode::Deadline && value != 0 {
            self.tsc_deadline = value;
            self.deadline = Some(now.saturating_add(tsc.until(value)));
            self.advance(now);
        }
    }
}

/// Registers.
impl LocalApic {
    /// Reads at `offset` in the page; zero while it has none.
    pub fn mmio_read(&mut self, now: u64, offset: u64, width: Width) -> u32 {
        if width != Width::Dword || self.page().is_none() {
            return 0;
        }
        let number = (offset >> 4) as u8;
        self.read(now, number).unwrap_or_else(|| {
            self.error(esr::ILLEGAL_REGISTER);
            0
        })
    }

    /// Writes at `offset` in the page; lost while it has none.
    pub fn mmio_write(
        &mut self,
        now: u64,
        offset: u64,
        width: Width,
        value: u32,
    ) -> Option<Outgoing> {
        if width != Width::Dword || self.page().is_none() {
            return None;
        }
        match (offset >> 4) as u8 {
            register::ID => self.registers.id = value & 0xff << XAPIC_ID,
            register::LDR => self.registers.ldr = value & 0xff << XAPIC_ID,
            register::DFR => self.registers.dfr = value | DFR_ONES,
            register::ICR_HIGH => self.registers.icr[1] = value & 0xff << icr::DESTINATION,
            register::ICR_LOW => return self.command(value, self.registers.icr[1]),
            number => return self.write(now, number, value),
        }
        None
    }

    /// Reads a model-specific register of [`X2APIC_MSRS`].
    ///
    /// # Errors
    /// [`Fault`] outside x2APIC mode, and for registers that don't exist or can't be read.
    pub fn msr_read(&mut self, now: u64, index: u32) -> Result<u64, Fault> {
        let number = self.msr_register(index)?;
        match number {
            register::APR | register::DFR | register::EOI | register::ICR_HIGH => Err(Fault),
            register::ICR_LOW => {
                let [low, high] = self.registers.icr;
                Ok(u64::from(high) << 32 | u64::from(low))
            }
            _ => self.read(now, number).map(u64::from).ok_or(Fault),
        }
    }

    /// Writes a model-specific register of [`X2APIC_MSRS`].
    ///
    /// # Errors
    /// [`Fault`] outside x2APIC mode, for registers that don't exist or can't be written, and for
    /// bits that are reserved.
    pub fn msr_write(
        &mut self,
        now: u64,
        index: u32,
        value: u64,
    ) -> Result<Option<Outgoing>, Fault> {
        let number = self.msr_register(index)?;
        let writable = match number {
            register::ICR_LOW => u64::from(u32::MAX) << 32 | u64::from(icr::ALL),
            register::TPR | register::SELF_IPI => 0xff,
            register::EOI | register::ESR => 0,
            register::SVR => (svr::WRITABLE | svr::FOCUS).into(),
            register::TIMER_INITIAL => u32::MAX.into(),
            register::TIMER_DIVIDE => DIVIDE.into(),
            register::LVT_TIMER => (lvt::TIMER | lvt::DELIVERY_STATUS).into(),
            register::LVT_ERROR => (lvt::ERROR | lvt::DELIVERY_STATUS).into(),
            register::LVT_THERMAL | register::LVT_PMC => {
                (lvt::SENSOR | lvt::DELIVERY_STATUS).into()
            }
            register::LVT_LINT0 | register::LVT_LINT1 => {
                (lvt::LINT | lvt::DELIVERY_STATUS | lvt::REMOTE_IRR).into()
            }
            _ => return Err(Fault),
        };
        if value & !writable != 0 {
            return Err(Fault);
        }
        let low = value as u32;
        Ok(match number {
            register::ICR_LOW => {
                self.registers.icr[1] = (value >> 32) as u32;
                self.command(low, self.registers.icr[1])
            }
            // A fixed interrupt to oneself.
            register::SELF_IPI => self.send(Message {
                destination: Destination::Sender,
                mode: DeliveryMode::Fixed,
                vector: low as u8,
                level: false,
            }),
            _ => self.write(now, number, low),
        })
    }

    fn msr_register(&self, index: u32) -> Result<u8, Fault> {
        let number = index.wrapping_sub(*X2APIC_MSRS.start());
        match u8::try_from(number) {
            Ok(number) if self.is_on() && self.is_x2apic() => Ok(number),
            _ => Err(Fault),
        }
    }

    /// Reads what both modes have, and what only memory has.
    fn read(&mut self, now: u64, number: u8) -> Option<u32> {
        let registers = &self.registers;
        Some(match number {
            register::ID => registers.id,
            register::VERSION => registers.version,
            register::TPR => registers.tpr,
            register::APR | register::EOI => 0,
            register::PPR => self.processor_priority().into(),
            register::LDR => registers.ldr,
            register::DFR => registers.dfr,
            register::SVR => registers.svr,
            register::ISR..=register::ISR_LAST => registers.isr[word(number)],
            register::TMR..=register::TMR_LAST => registers.tmr[word(number)],
            register::IRR..=register::IRR_LAST => registers.irr[word(number)],
            register::ESR => registers.esr,
            register::ICR_LOW => registers.icr[0],
            register::ICR_HIGH => registers.icr[1],
            register::LVT_TIMER => registers.lvt_timer,
            register::LVT_THERMAL => registers.lvt_thermal,
            register::LVT_PMC => registers.lvt_pmc,
            register::LVT_LINT0 => registers.lvt_lint0,
            register::LVT_LINT1 => registers.lvt_lint1,
            register::LVT_ERROR => registers.lvt_error,
            register::TIMER_INITIAL => registers.timer_initial,
            register::TIMER_CURRENT => self.current_count(now),
            register::TIMER_DIVIDE => registers.timer_divide,
            _ => return None,
        })
    }

    /// Writes what both modes have.
    fn write(&mut self, now: u64, number: u8, value: u32) -> Option<Outgoing> {
        // Whatever becomes of the timer, what it has done until now it has done.
        self.advance(now);
        match number {
            register::TPR => self.registers.tpr = value & 0xff,
            register::EOI => return self.end_of_interrupt(),
            register::SVR => self.write_svr(value),
            register::ESR => self.registers.esr = core::mem::take(&mut self.errors).into(),
            register::LVT_TIMER => {
                let value = self.lvt(value, lvt::TIMER);
                self.write_lvt_timer(now, value);
            }
            register::LVT_THERMAL => self.registers.lvt_thermal = self.lvt(value, lvt::SENSOR),
            register::LVT_PMC => self.registers.lvt_pmc = self.lvt(value, lvt::SENSOR),
            register::LVT_LINT0 => {
                let waits = self.registers.lvt_lint0 & lvt::REMOTE_IRR;
                let value = self.lvt(value, lvt::LINT);
                let waits = if value & lvt::LEVEL != 0 { waits } else { 0 };
                self.registers.lvt_lint0 = value | waits;
                self.sample_lint0();
            }
            // Its interrupts are edges: the manual forbids levels there.
            register::LVT_LINT1 => self.registers.lvt_lint1 = self.lvt(value, lvt::LINT),
            register::LVT_ERROR => self.registers.lvt_error = self.lvt(value, lvt::ERROR),
            register::TIMER_INITIAL => {
                if self.timer_mode() != TimerMode::Deadline {
                    self.registers.timer_initial = value;
                    self.start_count(now, value);
                }
            }
            register::TIMER_DIVIDE => self.write_divide(now, value),
            // Read only.
            register::VERSION
            | register::APR
            | register::PPR
            | register::ISR..=register::IRR_LAST
            | register::TIMER_CURRENT => {}
            _ => self.error(esr::ILLEGAL_REGISTER),
        }
        None
    }

    /// What an entry of the local vector table becomes by a write: masked while SVR has the local
    /// APIC disabled.
    fn lvt(&self, value: u32, writable: u32) -> u32 {
        let masked = if self.registers.svr & svr::ENABLED == 0 {
            lvt::MASKED
        } else {
            0
        };
        value & writable | masked
    }

    fn write_svr(&mut self, value: u32) {
        let registers = &mut self.registers;
        registers.svr = value & svr::WRITABLE;
        if value & svr::ENABLED == 0 {
            for entry in [
                &mut registers.lvt_timer,
                &mut registers.lvt_thermal,
                &mut registers.lvt_pmc,
                &mut registers.lvt_lint0,
                &mut registers.lvt_lint1,
                &mut registers.lvt_error,
            ] {
                *entry |= lvt::MASKED;
            }
        }
    }

    /// A write to the interrupt command register.
    fn command(&mut self, low: u32, high: u32) -> Option<Outgoing> {
        self.registers.icr[0] = low & icr::ALL;
        self.send(Message::from_icr(low, high, self.is_x2apic())?)
    }

    fn send(&mut self, message: Message) -> Option<Outgoing> {
        let vectored = matches!(
            message.mode,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if vectored && message.vector < FIRST_VECTOR {
            self.error(esr::SEND_ILLEGAL_VECTOR);
            return None;
        }
        Some(Outgoing::Message(message))
    }
}

/// Saved state.
impl LocalApic {
    /// The registers at `now`. IA32_APIC_BASE and IA32_TSC_DEADLINE, and events that the processor
    /// has not taken, are not among them. Errors since ESR was written count as read from it.
    pub fn state(&self, now: u64) -> LocalApicState {
        LocalApicState {
            ppr: self.processor_priority().into(),
            esr: self.registers.esr | u32::from(self.errors),
            timer_current: match self.timer_mode() {
                TimerMode::Deadline => 0,
                _ => self.current_count(now),
            },
            ..self.registers
        }
    }

    /// Takes over registers, perhaps from another model of the part, and IA32_APIC_BASE. Bits that
    /// this one does not have are as if the guest had never written them; events that wait are
    /// gone. IA32_TSC_DEADLINE is to be set behind it.
    ///
    /// # Errors
    /// If IA32_APIC_BASE is impossible; nothing changes then.
    pub fn set_state(
        &mut self,
        now: u64,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        let mode = base & (apic_base::EN | apic_base::EXTD);
        if base & self.base_reserved() != 0 || mode == apic_base::EXTD {
            return Err(StateError::Invalid("apic_base"));
        }
        let new = Self::new(self.wiring);
        let x2apic = base & apic_base::EXTD != 0;
        let id = match x2apic {
            true => self.wiring.id.into(),
            false => state.id & 0xff << XAPIC_ID,
        };
        let pin = lvt::LINT | lvt::REMOTE_IRR;
        *self = Self {
            lint0: self.lint0,
            base,
            registers: LocalApicState {
                id,
                version: new.registers.version,
                tpr: state.tpr & 0xff,
                apr: 0,
                ppr: 0,
                ldr: match x2apic {
                    true => logical_id(id),
                    false => state.ldr & 0xff << XAPIC_ID,
                },
                dfr: state.dfr | DFR_ONES,
                svr: state.svr & svr::WRITABLE,
                isr: state.isr,
                tmr: state.tmr,
                irr: state.irr,
                esr: state.esr & 0xff,
                icr: [
                    state.icr[0] & icr::ALL,
                    match x2apic {
                        true => state.icr[1],
                        false => state.icr[1] & 0xff << icr::DESTINATION,
                    },
                ],
                lvt_cmci: 0,
                lvt_timer: state.lvt_timer & lvt::TIMER,
                lvt_thermal: state.lvt_thermal & lvt::SENSOR,
                lvt_pmc: state.lvt_pmc & lvt::SENSOR,
                lvt_lint0: state.lvt_lint0 & pin,
                lvt_lint1: state.lvt_lint1 & lvt::LINT,
                lvt_error: state.lvt_error & lvt::ERROR,
                timer_initial: state.timer_initial,
                timer_current: 0,
                timer_divide: state.timer_divide & DIVIDE,
            },
            ..new
        };
        // No request and no service can have these.
        for set in [&mut self.registers.irr, &mut self.registers.isr] {
            set[0] &= u32::MAX << FIRST_VECTOR;
        }
        match self.timer_mode() {
            TimerMode::Deadline => {}
            // One that counts for ever is never at 0.
            TimerMode::Periodic if state.timer_current == 0 => {
                self.start_count(now, state.timer_initial);
            }
            _ => self.start_count(now, state.timer_current),
        }
        Ok(())
    }
}

/// The logical id of an x2APIC: cluster and bit.
const fn logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

/// Tells of an entry of the local vector table that is due, by its number in QEMU's log: 0 is the timer, 3 and 4 the pins, 5 errors.
fn tell_local(number: usize, entry: u32) {
    trace::apic_local_deliver(number, entry >> lvt::DELIVERY_MODE & 7);
}

const fn mode_of(entry: u32) -> DeliveryMode {
    DeliveryMode::from_bits(entry >> lvt::DELIVERY_MODE)
}

/// Which of the eight registers of ISR, TMR or IRR it is.
fn word(number: u8) -> usize {
    usize::from(number & 7)
}

/// The highest vector of a set.
fn highest(set: &[u32; 8]) -> Option<u8> {
    let at = set.iter().rposition(|word| *word != 0)?;
    Some((at as u32 * 32 + set[at].ilog2()) as u8)
}

fn set(set: &mut [u32; 8], vector: u8) {
    set[usize::from(vector / 32)] |= 1 << (vector % 32);
}

fn clear(set: &mut [u32; 8], vector: u8) {
    set[usize::from(vector / 32)] &= !(1 << (vector % 32));
}

#[cfg(test)]
mod tests;
