//! MSI-X: a table of interrupt messages in a function's memory, each with its own mask.
//!
//! Follows the PCI Local Bus Specification 3.0, section 6.8.2. The capability is in configuration
//! space; the table and the pending bits are in ranges of base address registers, which the
//! function hands to [`MsiX::read`] and [`MsiX::write`]. Both are of doublewords; the
//! specification has quadwords too, which are two.
//!
//! A function that is not allowed to be bus master sends nothing: a message is a write to memory.

use serde::{Deserialize, Serialize};

use crate::devices::{Context, Effect, Width};
use crate::irq::Msi;
use crate::state::StateError;

use super::config::{ConfigSpace, MESSAGES_AT_ONCE};

/// Capability ID.
const ID: u8 = 0x11;

/// Vectors that a function has at most here; the specification allows 2,048.
pub const VECTORS_MAX: usize = 64;

/// Bytes of an entry of the table.
pub const ENTRY: u64 = 16;

/// Message control, 16 bits, from the capability's begin on; vectors less one in bits 10:0.
const CONTROL: u8 = 2;
/// Message control: all vectors are masked.
const CONTROL_MASK: u16 = 1 << 14;
/// Message control: the function sends messages, and leaves its interrupt pin alone.
const CONTROL_ENABLE: u16 = 1 << 15;

/// An entry's doublewords: address, low and high half.
const ADDRESS: usize = 0;
/// An entry's doublewords: data.
const DATA: usize = 2;
/// An entry's doublewords: vector control.
const VECTOR_CONTROL: usize = 3;
/// Vector control: masked.
const MASKED: u32 = 1 << 0;

/// An entry after a reset.
const RESET: [u32; 4] = [0, 0, 0, MASKED];

/// Where a part of MSI-X is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The base address register.
    pub bar: u8,
    /// Offset in its range, a multiple of 8.
    pub offset: u32,
}

/// MSI-X of one function.
#[derive(Clone, Debug)]
pub struct MsiX {
    /// Where the capability begins in configuration space.
    at: u8,
    table: Location,
    pending_at: Location,
    state: State,
}

/// What the guest sees, apart from configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    entries: heapless::Vec<[u32; 4], VECTORS_MAX>,
    /// A bit for each entry.
    pending: u64,
}

const _: () = assert!(VECTORS_MAX <= u64::BITS as usize);

/// Saved form of [`MsiX`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedMsiX {
    entries: heapless::Vec<[u32; 4], VECTORS_MAX>,
    pending: u64,
}

impl MsiX {
    /// Adds the capability at `at`, 40h to F4h, to a function with `vectors` interrupts, 1 to
    /// [`VECTORS_MAX`].
    pub fn add(
        config: &mut ConfigSpace,
        at: u8,
        vectors: usize,
        table: Location,
        pending: Location,
    ) -> Self {
        let vectors = vectors.clamp(1, VECTORS_MAX);
        // Message control, then where the table and the pending bits are: offset, and the base
        // address register in bits 2:0.
        let mut content = [0; 10];
        content[..2].copy_from_slice(&(vectors as u16 - 1).to_le_bytes());
        for (place, from) in [(table, 2), (pending, 6)] {
            let word = place.offset & !7 | u32::from(place.bar & 7);
            content[from..from + 4].copy_from_slice(&word.to_le_bytes());
        }
        config.add_capability(at, ID, &content);
        let control = CONTROL_MASK | CONTROL_ENABLE;
        config.allow(at + CONTROL, &control.to_le_bytes());
        let mut entries = heapless::Vec::new();
        // There is room: see above.
        let _ = entries.resize(vectors, RESET);
        Self {
            at,
            table,
            pending_at: pending,
            state: State {
                entries,
                pending: 0,
            },
        }
    }

    /// All vectors are masked, and none is pending.
    pub fn reset(&mut self) {
        self.state.entries.fill(RESET);
        self.state.pending = 0;
    }

    /// None is pending; the table stays.
    pub fn reset_pending(&mut self) {
        self.state.pending = 0;
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> usize {
        self.state.entries.len()
    }

    fn control(&self, config: &ConfigSpace) -> u16 {
        config.read(self.at + CONTROL, Width::Word) as u16
    }

    /// Whether the guest has chosen messages over the interrupt pin.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        self.control(config) & CONTROL_ENABLE != 0
    }

    /// Whether an offset in the range of base address register `bar` is here.
    pub fn claims(&self, bar: usize, offset: u64) -> bool {
        self.entry_at(bar, offset).is_some() || self.pending_word(bar, offset).is_some()
    }

    /// The entry and its doubleword at an offset.
    fn entry_at(&self, bar: usize, offset: u64) -> Option<(usize, usize)> {
        let into = offset.checked_sub(self.table.offset.into())?;
        let entry = (into / ENTRY) as usize;
        let inside = bar == usize::from(self.table.bar) && entry < self.state.entries.len();
        inside.then_some((entry, (into % ENTRY / 4) as usize))
    }

    /// Which doubleword of the pending bits is at an offset. They come in quadwords.
    fn pending_word(&self, bar: usize, offset: u64) -> Option<u32> {
        let into = offset.checked_sub(self.pending_at.offset.into())?;
        (bar == usize::from(self.pending_at.bar) && into < 8).then_some((into / 4) as u32)
    }

    /// Reads the doubleword that holds an offset; what is not here reads as zeros.
    pub fn read(&self, bar: usize, offset: u64) -> u32 {
        if let Some((entry, word)) = self.entry_at(bar, offset) {
            let entry = self.state.entries.get(entry);
            return entry.map_or(0, |entry| entry[word & 3]);
        }
        let word = self.pending_word(bar, offset);
        word.map_or(0, |word| (self.state.pending >> (32 * word)) as u32)
    }

    /// Writes the doubleword that holds an offset; the pending bits can't be written. What waited
    /// for an entry to be unmasked is sent by [`MsiX::send_pending`], which must be called next.
    pub fn write(&mut self, bar: usize, offset: u64, value: u32) {
        if let Some((entry, word)) = self.entry_at(bar, offset)
            && let Some(entry) = self.state.entries.get_mut(entry)
        {
            entry[word & 3] = value;
        }
    }

    /// The message that [`MsiX::notify`] would send for `vector`, if it would send one now.
    pub fn message(&self, config: &ConfigSpace, vector: usize) -> Option<Msi> {
        let entry = self.state.entries.get(vector)?;
        let is_masked =
            self.control(config) & CONTROL_MASK != 0 || entry[VECTOR_CONTROL] & MASKED != 0;
        let is_sent = self.is_enabled(config) && config.is_bus_master() && !is_masked;
        is_sent.then(|| message(entry))
    }

    /// Asks for the interrupt `vector`. Nothing happens unless [`MsiX::is_enabled`], or if there is
    /// no such vector.
    pub fn notify(&mut self, config: &ConfigSpace, cx: &mut Context<'_>, vector: usize) {
        let (true, Some(entry)) = (self.is_enabled(config), self.state.entries.get(vector)) else {
            return;
        };
        let all_masked = self.control(config) & CONTROL_MASK != 0;
        if all_masked || entry[VECTOR_CONTROL] & MASKED != 0 {
            self.state.pending |= 1 << vector;
        } else {
            send(config, cx, entry);
        }
    }

    /// Sends what has waited until it was unmasked: see [`super::PciFunction::send_pending`].
    pub fn send_pending(&mut self, config: &ConfigSpace, cx: &mut Context<'_>) -> bool {
        let State { entries, pending } = &mut self.state;
        let control = config.read(self.at + CONTROL, Width::Word) as u16;
        if *pending == 0 || control & (CONTROL_ENABLE | CONTROL_MASK) != CONTROL_ENABLE {
            return false;
        }
        let mut sent = 0;
        for (vector, entry) in entries.iter().enumerate() {
            if *pending >> vector & 1 == 0 || entry[VECTOR_CONTROL] & MASKED != 0 {
                continue;
            }
            if sent == MESSAGES_AT_ONCE {
                return true;
            }
            *pending &= !(1 << vector);
            send(config, cx, entry);
            sent += 1;
        }
        false
    }

    /// The saved form.
    pub fn save(&self) -> SavedMsiX {
        let State { entries, pending } = self.state.clone();
        SavedMsiX { entries, pending }
    }

    /// Takes over a saved form.
    ///
    /// # Errors
    /// If it is of another number of vectors.
    pub fn load(&mut self, saved: SavedMsiX) -> Result<(), StateError> {
        let SavedMsiX { entries, pending } = saved;
        let vectors = entries.len();
        let beyond = pending.checked_shr(vectors as u32).unwrap_or(0);
        if vectors != self.state.entries.len() || beyond != 0 {
            return Err(StateError::Invalid("entries"));
        }
        self.state = State { entries, pending };
        Ok(())
    }
}

fn message(entry: &[u32; 4]) -> Msi {
    Msi {
        address: u64::from(entry[ADDRESS + 1]) << 32 | u64::from(entry[ADDRESS] & !3),
        data: entry[DATA],
    }
}

fn send(config: &ConfigSpace, cx: &mut Context<'_>, entry: &[u32; 4]) {
    if config.is_bus_master() {
        cx.effects.push(Effect::Message(message(entry)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::{reg, some_function};
    use std::vec::Vec;

    const AT: u8 = 0x80;
    const BAR: usize = 2;

    fn function(vectors: usize) -> (ConfigSpace, MsiX) {
        let mut config = some_function();
        let place = |offset| Location { bar: 2, offset };
        let msix = MsiX::add(&mut config, AT, vectors, place(0x1000), place(0x1800));
        config.write(reg::COMMAND, Width::Word, 4);
        (config, msix)
    }

    fn messages(bench: &mut Bench) -> Vec<(u64, u32)> {
        core::iter::from_fn(|| bench.effects.take())
            .map(|effect| match effect {
                Effect::Message(Msi { address, data }) => (address, data),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn fill(msix: &mut MsiX, entry: u64, masked: u32) {
        let at = 0x1000 + 16 * entry;
        msix.write(BAR, at, 0xfee0_0000 + (entry as u32) * 0x1000);
        msix.write(BAR, at + 4, 0);
        msix.write(BAR, at + 8, 0x40 + entry as u32);
        msix.write(BAR, at + 12, masked);
    }

    #[test]
    fn capability_says_where_things_are() {
        let (mut config, _) = function(3);
        config.write(AT, Width::Dword, u32::MAX);
        config.write(AT + 4, Width::Dword, u32::MAX);
        config.write(AT + 8, Width::Dword, u32::MAX);
        assert_eq!(config.read(AT, Width::Dword), 0xc002_0011);
        assert_eq!(config.read(AT + 4, Width::Dword), 0x1002);
        assert_eq!(config.read(AT + 8, Width::Dword), 0x1802);
        config.write(AT + 12, Width::Dword, u32::MAX);
        assert_eq!(
            config.read(AT + 12, Width::Dword),
            u32::MAX,
            "not part of it"
        );
    }

    #[test]
    fn table_is_memory_and_pending_bits_are_not() {
        let (_, mut msix) = function(3);
        assert_eq!(msix.read(BAR, 0x100c), MASKED);
        for word in 0..12 {
            msix.write(BAR, 0x1000 + 4 * word, 0x1111 * word as u32);
        }
        for word in 0..12 {
            assert_eq!(msix.read(BAR, 0x1000 + 4 * word), 0x1111 * word as u32);
        }
        assert!(msix.claims(BAR, 0x102f) && !msix.claims(BAR, 0x1030));
        assert!(!msix.claims(BAR, 0xfff) && !msix.claims(1, 0x1000));
        assert!(msix.claims(BAR, 0x1807) && !msix.claims(BAR, 0x1808));
        msix.write(BAR, 0x1800, u32::MAX);
        assert_eq!(msix.read(BAR, 0x1800), 0);
        msix.reset();
        assert_eq!(msix.read(BAR, 0x1004), 0);
        assert_eq!(msix.read(BAR, 0x102c), MASKED);
    }

    #[test]
    fn each_vector_has_its_own_message_and_mask() {
        let (mut config, mut msix) = function(4);
        let mut bench = Bench::new();
        for entry in 0..4 {
            fill(&mut msix, entry, u32::from(entry == 2));
        }
        let mut notify = |config: &ConfigSpace, msix: &mut MsiX, vector| {
            msix.notify(config, &mut bench.context(), vector);
            messages(&mut bench)
        };
        assert_eq!(notify(&config, &mut msix, 1), [], "off");
        assert_eq!(msix.read(BAR, 0x1800), 0);
        config.write(AT + 2, Width::Word, CONTROL_ENABLE.into());
        assert_eq!(notify(&config, &mut msix, 1), [(0xfee0_1000, 0x41)]);
        assert_eq!(notify(&config, &mut msix, 4), [], "there are four");
        assert_eq!(notify(&config, &mut msix, 2), []);
        assert_eq!(msix.read(BAR, 0x1800), 4);
        msix.write(BAR, 0x102c, 0);
        assert!(!msix.send_pending(&config, &mut bench.context()));
        assert_eq!(messages(&mut bench), [(0xfee0_2000, 0x42)]);
        assert_eq!(msix.read(BAR, 0x1800), 0);
        config.write(reg::COMMAND, Width::Word, 0);
        msix.notify(&config, &mut bench.context(), 0);
        assert_eq!(messages(&mut bench), [], "no bus master");
    }

    #[test]
    fn the_functions_mask_holds_all() {
        let (mut config, mut msix) = function(VECTORS_MAX);
        let mut bench = Bench::new();
        config.write(AT + 2, Width::Word, 0xc000);
        for vector in 0..VECTORS_MAX {
            fill(&mut msix, vector as u64, 0);
            msix.notify(&config, &mut bench.context(), vector);
        }
        assert!(!msix.send_pending(&config, &mut bench.context()));
        assert_eq!(msix.read(BAR, 0x1804), u32::MAX);
        config.write(AT + 2, Width::Word, 0x8000);
        let mut seen = Vec::new();
        for round in 1.. {
            let more = msix.send_pending(&config, &mut bench.context());
            seen.extend(messages(&mut bench));
            assert_eq!(seen.len(), round * MESSAGES_AT_ONCE);
            if !more {
                break;
            }
        }
        let data: Vec<u32> = seen.iter().map(|(_, data)| *data).collect();
        assert_eq!(data, (0x40..0x80).collect::<Vec<_>>());
        assert_eq!(msix.read(BAR, 0x1800), 0);
    }

    #[test]
    fn state_of_another_size_is_refused() {
        let (_, mut msix) = function(4);
        fill(&mut msix, 3, 0);
        let saved = msix.save();
        let (_, mut other) = function(5);
        assert!(other.load(saved.clone()).is_err());
        let (_, mut same) = function(4);
        same.load(saved.clone()).unwrap();
        assert_eq!(same.state, msix.state);
        let mut beyond = saved;
        beyond.pending = 1 << 4;
        assert_eq!(same.load(beyond), Err(StateError::Invalid("entries")));
    }
}
