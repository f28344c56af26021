//! Intel 82093AA I/O APIC, as later chipsets have it: version 20h, with an EOI register.
//!
//! Follows the 82093AA datasheet (290566) and, for messages and the EOI register, the ICH
//! datasheets and the Software Developer's Manual, volume 3A, "Advanced Programmable Interrupt
//! Controller". 24 inputs; a board has one or two of them. Its output are messages to the local APICs, which
//! [`IoApic::take_message`] hands out one by one.
//!
//! Registers: 4 KiB of memory at [`BASE`] or [`SECOND_BASE`], of which only the low byte of an address is decoded.
//! IOREGSEL takes accesses of any width; IOWIN and EOI take whole doublewords and nothing else.
//!
//! An input of an edge-triggered entry that rises while the entry is masked is forgotten. The end
//! of a level-triggered interrupt comes by [`IoApic::end_of_interrupt`], whoever tells of it.
//!
//! Deliberately not modelled: polarity (lines here are asserted or not, whatever their voltage),
//! the delivery status bit (delivery takes no time, so it always reads as idle), arbitration (its
//! register shows the id), and the low-priority and SMI rules about which vectors make sense.

use serde::{Deserialize, Serialize};

use super::lines::IrqLine;
use super::msi::Msi;
use crate::devices::class::{DeviceClass, Property, PropertyKind, Value};
use crate::devices::{Context, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// Class of the device.
pub static CLASS: DeviceClass = DeviceClass {
    name: "ioapic",
    parent: "ioapic-common",
    bus: Some("System"),
    doc: "Intel 82093AA I/O APIC",
    user_creatable: false,
    properties: &[Property {
        name: "version",
        kind: PropertyKind::Uint8,
        default: Value::Uint(VERSION as u64),
        doc: "low byte of the version register",
    }],
};

/// Guest physical address of the registers.
pub const BASE: u64 = 0xfec0_0000;
/// The same of a second one.
pub const SECOND_BASE: u64 = 0xfec1_0000;
/// Bytes of the registers.
pub const LENGTH: u64 = 0x1000;
/// Inputs, and entries of the redirection table.
pub const PINS: usize = 24;
/// The input that line 0 ends at, the PC's interval timer, by every firmware's tables.
const TIMER_PIN: u8 = 2;

/// The version with an EOI register.
const VERSION: u8 = 0x20;

/// Register select.
const IOREGSEL: u64 = 0x00;
/// Window to the selected register.
const IOWIN: u64 = 0x10;
/// End of interrupt, by vector. Write only.
const EOI: u64 = 0x40;

/// Selectable registers.
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
/// Low and high half of the first entry; the others follow.
const IOREDTBL: u8 = 0x10;

/// Position of the id in IOAPICID and IOAPICARB: 4 bits.
const ID_SHIFT: u32 = 24;
const ID_MAX: u8 = 0xf;

/// Bits of an entry of the redirection table.
pub mod entry {
    /// The vector.
    pub const VECTOR: u64 = 0xff;
    /// Position of the 3 bits of the delivery mode.
    pub const DELIVERY_MODE: u32 = 8;
    /// The destination is a set of logical ids.
    pub const LOGICAL: u64 = 1 << 11;
    /// A message is on its way. Read only.
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    /// A level-triggered interrupt was sent and has not ended. Read only.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
    /// Position of the 8 bits of the destination.
    pub const DESTINATION: u32 = 56;
}

const READ_ONLY: u64 = entry::DELIVERY_STATUS | entry::REMOTE_IRR;

/// Guest-visible state; the default is the state after power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    /// IOREGSEL.
    pub select: u8,
    /// The id in IOAPICID: 4 bits.
    pub id: u8,
    /// Levels at the inputs, a bit each. Not a register: a reset finds them low.
    pub pins: u32,
    /// Edges that no message was sent for yet, a bit each.
    pub edges: u32,
    /// IOREDTBL.
    pub redirection: [u64; PINS],
}

impl IoApicState {
    const fn new() -> Self {
        Self {
            select: 0,
            id: 0,
            pins: 0,
            edges: 0,
            redirection: [entry::MASKED; PINS],
        }
    }

    fn check(&self) -> Result<(), StateError> {
        if self.id > ID_MAX {
            return Err(StateError::Invalid("id"));
        }
        if self.pins >> PINS != 0 {
            return Err(StateError::Invalid("pins"));
        }
        if self.edges >> PINS != 0 {
            return Err(StateError::Invalid("edges"));
        }
        let impossible = |entry: &u64| {
            entry & entry::DELIVERY_STATUS != 0
                || entry & (entry::REMOTE_IRR | entry::LEVEL) == entry::REMOTE_IRR
        };
        if self.redirection.iter().any(impossible) {
            return Err(StateError::Invalid("redirection"));
        }
        Ok(())
    }
}

impl Default for IoApicState {
    fn default() -> Self {
        Self::new()
    }
}

/// The input that a line of the board ends at; there may be none of this number.
pub const fn pin_of(line: IrqLine) -> u8 {
    match line.number() {
        0 => TIMER_PIN,
        number => number,
    }
}

/// The message that an entry sends, whether or not it is masked.
const fn message(entry: u64) -> Msi {
    Msi::new(
        (entry >> entry::DESTINATION) as u8,
        entry & entry::LOGICAL != 0,
        (entry >> entry::DELIVERY_MODE) as u8 & 7,
        (entry & entry::VECTOR) as u8,
        entry & entry::LEVEL != 0,
    )
}

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct IoApic {
    state: IoApicState,
    /// Entries, a bit each, whose route was not asked for since it changed.
    rerouted: u32,
}

impl IoApic {
    /// The controller after power-on, all inputs low. It has no wiring: the machine routes lines
    /// in and messages out.
    pub const fn new() -> Self {
        Self {
            state: IoApicState::new(),
            rerouted: 0,
        }
    }

    /// Back to the state after power-on, all inputs low. Lines that devices still hold high must
    /// be handed in again.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.state = IoApicState::new();
        self.rerouted = (1 << PINS) - 1;
    }

    /// Sets the level at an input, 0 to 23; others are ignored.
    pub fn set_irq(&mut self, pin: u8, level: bool) {
        let state = &mut self.state;
        let Some(entry) = state.redirection.get(usize::from(pin)) else {
            return;
        };
        trace::ioapic_set_irq(pin, level);
        let bit = 1 << pin;
        let rises = level && state.pins & bit == 0;
        if level {
            state.pins |= bit;
        } else {
            state.pins &= !bit;
        }
        if rises && entry & (entry::LEVEL | entry::MASKED) == 0 {
            state.edges |= bit;
        }
    }

    /// The next message to send, of the lowest input that has one. Call it after everything that
    /// may have caused one, until there is none: at most [`PINS`] times.
    pub fn take_message(&mut self) -> Option<Msi> {
        let state = &mut self.state;
        let mut wanted = state.edges | state.pins;
        while wanted != 0 {
            let pin = wanted.trailing_zeros();
            let bit = 1 << pin;
            wanted &= !bit;
            let entry = state.redirection.get_mut(pin as usize)?;
            if *entry & entry::MASKED != 0 {
                continue;
            }
            if *entry & entry::LEVEL != 0 {
                if state.pins & bit == 0 || *entry & entry::REMOTE_IRR != 0 {
                    continue;
                }
                *entry |= entry::REMOTE_IRR;
                trace::ioapic_set_remote_irr(pin);
            } else if state.edges & bit == 0 {
                continue;
            }
            state.edges &= !bit;
            return Some(message(*entry));
        }
        None
    }

    /// An input whose message has changed since the last call, and the message that it sends now;
    /// `None` while it is masked. For a host whose local APICs must know beforehand which
    /// interrupts end with a word to the I/O APIC.
    pub fn take_rerouted(&mut self) -> Option<(u8, Option<Msi>)> {
        if self.rerouted == 0 {
            return None;
        }
        let pin = self.rerouted.trailing_zeros();
        self.rerouted &= self.rerouted - 1;
        let entry = *self.state.redirection.get(pin as usize)?;
        let message = (entry & entry::MASKED == 0).then(|| message(entry));
        Some((pin as u8, message))
    }

    /// A processor has ended the level-triggered interrupt of this vector. Inputs that are still
    /// high have a message again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        trace::ioapic_eoi_broadcast(vector);
        for (pin, entry) in self.state.redirection.iter_mut().enumerate() {
            if *entry & entry::VECTOR == u64::from(vector) && *entry & entry::LEVEL != 0 {
                if *entry & entry::REMOTE_IRR != 0 {
                    trace::ioapic_clear_remote_irr(pin, vector);
                }
                *entry &= !entry::REMOTE_IRR;
            }
        }
    }

    /// The whole state, as the guest sees it.
    pub fn state(&self) -> &IoApicState {
        &self.state
    }

    /// Takes over a state from another model of the part.
    ///
    /// # Errors
    /// If the part can't have this state; nothing changes then.
    pub fn set_state(&mut self, state: &IoApicState) -> Result<(), StateError> {
        state.check()?;
        self.state = *state;
        self.rerouted = (1 << PINS) - 1;
        Ok(())
    }

    /// Reads at `offset` from [`BASE`].
    pub fn mmio_read(&self, _cx: &mut Context<'_>, offset: u64, width: Width) -> u64 {
        let value = match (offset & 0xff, width) {
            (IOREGSEL, _) => self.state.select.into(),
            (IOWIN, Width::Dword) => self.selected().into(),
            _ => 0,
        };
        trace::ioapic_mem_read(offset as u8, self.state.select, width.bytes(), value);
        value
    }

    /// Writes at `offset` from [`BASE`].
    pub fn mmio_write(&mut self, _cx: &mut Context<'_>, offset: u64, width: Width, value: u64) {
        trace::ioapic_mem_write(offset as u8, self.state.select, width.bytes(), value);
        match (offset & 0xff, width) {
            (IOREGSEL, _) => self.state.select = value as u8,
            (IOWIN, Width::Dword) => self.write_selected(value as u32),
            (EOI, Width::Dword) => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    /// The entry that the selected register is half of, and whether it is the high half.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let at = self.state.select.checked_sub(IOREDTBL)?;
        let pin = usize::from(at / 2);
        (pin < PINS).then_some((pin, at & 1 != 0))
    }

    fn selected(&self) -> u32 {
        match self.state.select {
            IOAPICID | IOAPICARB => u32::from(self.state.id) << ID_SHIFT,
            IOAPICVER => (PINS as u32 - 1) << 16 | u32::from(VERSION),
            _ => match self.selected_entry() {
                Some((pin, false)) => self.state.redirection[pin] as u32,
                Some((pin, true)) => (self.state.redirection[pin] >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.state.select == IOAPICID {
            self.state.id = (value >> ID_SHIFT) as u8 & ID_MAX;
            return;
        }
        let Some((pin, high)) = self.selected_entry() else {
            return;
        };
        let value = u64::from(value);
        let entry = &mut self.state.redirection[pin];
        if high {
            *entry = *entry & 0xffff_ffff | value << 32;
        } else {
            *entry = *entry & (READ_ONLY | !0xffff_ffff) | value & !READ_ONLY;
        }
        if *entry & entry::LEVEL == 0 {
            // Whatever ends now is no longer waited for.
            *entry &= !entry::REMOTE_IRR;
        }
        self.rerouted |= 1 << pin;
    }
}

/// Saved form of [`IoApic`].
#[derive(Serialize, Deserialize)]
pub struct SavedIoApic {
    state: IoApicState,
}

impl SavedState for IoApic {
    const NAME: &'static str = "ioapic";
    const VERSION: u16 = 1;
    type Saved = SavedIoApic;

    fn save(&self) -> SavedIoApic {
        // What the host knows of routes is told again after a load.
        let Self { state, rerouted: _ } = self;
        SavedIoApic { state: *state }
    }

    fn load(&mut self, saved: SavedIoApic, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedIoApic { state } = saved;
        self.set_state(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use proptest::prelude::*;

    lifecycle_tests!(IoApic, IoApic::new(), |apic, bench| {
        program(apic, bench, 4, entry::LEVEL | 0x31);
        apic.set_irq(4, true);
        apic.take_message();
    });

    fn write(apic: &mut IoApic, bench: &mut Bench, offset: u64, value: u32) {
        apic.mmio_write(&mut bench.context(), offset, Width::Dword, value.into());
    }

    fn read_selected(apic: &mut IoApic, bench: &mut Bench, select: u8) -> u32 {
        write(apic, bench, IOREGSEL, select.into());
        apic.mmio_read(&mut bench.context(), IOWIN, Width::Dword) as u32
    }

    fn program(apic: &mut IoApic, bench: &mut Bench, pin: u8, value: u64) {
        for half in [1, 0] {
            write(
                apic,
                bench,
                IOREGSEL,
                (IOREDTBL + 2 * pin + half as u8).into(),
            );
            write(apic, bench, IOWIN, (value >> (32 * half)) as u32);
        }
    }

    fn low(apic: &mut IoApic, bench: &mut Bench, pin: u8) -> u64 {
        read_selected(apic, bench, IOREDTBL + 2 * pin).into()
    }

    #[test]
    fn registers_after_power_on() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        assert_eq!(read_selected(&mut apic, &mut bench, 0), 0);
        assert_eq!(read_selected(&mut apic, &mut bench, 1), 0x0017_0020);
        for register in 0x10..0x40 {
            let masked = if register & 1 == 0 { 0x1_0000 } else { 0 };
            assert_eq!(read_selected(&mut apic, &mut bench, register), masked);
        }
        assert_eq!(read_selected(&mut apic, &mut bench, 0x40), 0);
        write(&mut apic, &mut bench, IOREGSEL, 0);
        write(&mut apic, &mut bench, IOWIN, u32::MAX);
        assert_eq!(read_selected(&mut apic, &mut bench, 2), 0x0f00_0000);
    }

    #[test]
    fn the_window_takes_doublewords_only() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        write(&mut apic, &mut bench, IOREGSEL, 0x10);
        for width in [Width::Byte, Width::Word] {
            apic.mmio_write(&mut bench.context(), IOWIN, width, 0x31);
            assert_eq!(apic.mmio_read(&mut bench.context(), IOWIN, width), 0);
        }
        assert_eq!(low(&mut apic, &mut bench, 0), 0x1_0000);
        apic.mmio_write(&mut bench.context(), IOREGSEL, Width::Byte, 1);
        let version = apic.mmio_read(&mut bench.context(), 0x310, Width::Dword);
        assert_eq!(version, 0x17_0020, "only the low byte is decoded");
    }

    #[test]
    fn an_edge_is_one_message() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        apic.set_irq(4, true);
        program(&mut apic, &mut bench, 4, 0x0300_0000_0000_0931);
        assert_eq!(apic.take_message(), None, "masked when the edge came");
        apic.set_irq(4, false);
        apic.set_irq(4, true);
        apic.set_irq(4, true);
        let expected = Msi::new(3, true, 1, 0x31, false);
        assert_eq!(apic.take_message(), Some(expected));
        assert_eq!(apic.take_message(), None);
        apic.set_irq(24, true);
        apic.set_irq(255, true);
        assert_eq!(apic.take_message(), None);
    }

    #[test]
    fn a_level_waits_for_its_end() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        program(&mut apic, &mut bench, 10, entry::LEVEL | 0x55);
        apic.set_irq(10, true);
        let expected = Msi::new(0, false, 0, 0x55, true);
        assert_eq!(apic.take_message(), Some(expected));
        let sent = entry::LEVEL | entry::REMOTE_IRR | 0x55;
        assert_eq!(low(&mut apic, &mut bench, 10), sent);
        assert_eq!(apic.take_message(), None);
        write(&mut apic, &mut bench, EOI, 0x54);
        assert_eq!(apic.take_message(), None, "of another vector");
        write(&mut apic, &mut bench, EOI, 0x55);
        assert_eq!(apic.take_message(), Some(expected), "still high");
        apic.set_irq(10, false);
        assert_eq!(low(&mut apic, &mut bench, 10), sent);
        apic.end_of_interrupt(0x55);
        assert_eq!(low(&mut apic, &mut bench, 10), entry::LEVEL | 0x55);
        assert_eq!(apic.take_message(), None);
    }

    #[test]
    fn masks_hold_levels_back() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        let level = entry::LEVEL | 0x40;
        program(&mut apic, &mut bench, 0, level | entry::MASKED);
        apic.set_irq(0, true);
        assert_eq!(apic.take_message(), None);
        program(&mut apic, &mut bench, 0, level);
        assert!(apic.take_message().is_some());
        // Switching to edges forgets that an end is waited for.
        program(&mut apic, &mut bench, 0, 0x40);
        assert_eq!(low(&mut apic, &mut bench, 0), 0x40);
        program(&mut apic, &mut bench, 0, level);
        assert!(apic.take_message().is_some());
    }

    #[test]
    fn one_end_serves_all_inputs_of_a_vector() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        for pin in 0..PINS as u8 {
            program(&mut apic, &mut bench, pin, entry::LEVEL | 0x77);
            apic.set_irq(pin, true);
        }
        for _ in 0..2 {
            let messages = core::iter::from_fn(|| apic.take_message()).count();
            assert_eq!(messages, PINS);
            apic.end_of_interrupt(0x77);
        }
    }

    #[test]
    fn routes_are_told_once() {
        let (mut apic, mut bench) = (IoApic::new(), Bench::new());
        assert_eq!(apic.take_rerouted(), None);
        program(&mut apic, &mut bench, 5, entry::LEVEL | 0x31);
        let route = Msi::new(0, false, 0, 0x31, true);
        assert_eq!(apic.take_rerouted(), Some((5, Some(route))));
        assert_eq!(apic.take_rerouted(), None);
        apic.reset(&mut bench.context());
        assert_eq!(apic.take_rerouted(), Some((0, None)));
        assert_eq!(
            core::iter::from_fn(|| apic.take_rerouted()).count(),
            PINS - 1
        );
    }

    #[test]
    fn impossible_states_are_refused() {
        let mut apic = IoApic::new();
        let spoil: [fn(&mut IoApicState); 5] = [
            |state| state.id = 16,
            |state| state.pins = 1 << 24,
            |state| state.edges = 1 << 31,
            |state| state.redirection[3] = entry::REMOTE_IRR,
            |state| state.redirection[23] = entry::DELIVERY_STATUS,
        ];
        for spoil in spoil {
            let mut state = IoApicState::new();
            spoil(&mut state);
            assert!(apic.set_state(&state).is_err(), "{state:?}");
        }
        assert_eq!(*apic.state(), IoApicState::new());
    }

    proptest! {
        /// Whatever the guest writes, messages end, and what can be reached can be loaded.
        #[test]
        fn messages_end(
            steps in proptest::collection::vec((any::<u8>(), any::<u32>(), 0u8..32), 0..80),
        ) {
            let (mut apic, mut bench) = (IoApic::new(), Bench::new());
            for (select, value, pin) in steps {
                write(&mut apic, &mut bench, IOREGSEL, select.into());
                write(&mut apic, &mut bench, IOWIN, value);
                apic.set_irq(pin, value & 1 != 0);
                if value & 2 != 0 {
                    write(&mut apic, &mut bench, EOI, value >> 8);
                }
                let messages = core::iter::from_fn(|| apic.take_message()).take(PINS + 1).count();
                prop_assert!(messages <= PINS);
                prop_assert!(IoApic::new().set_state(apic.state()).is_ok());
            }
        }
    }
}
