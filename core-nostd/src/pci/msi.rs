//! Message-signalled interrupts of a function: the capability with one address and up to 32 vectors.
//!
//! Follows the PCI Local Bus Specification 3.0, section 6.8.1. All registers are in configuration
//! space, so that saving and resetting it is enough. A message goes out when it is asked for, or
//! waits in the pending bits while its vector is masked; [`MsiCapability::send_pending`] sends those
//! that no longer have to.
//!
//! A function that is not allowed to be bus master sends nothing: a message is a write to memory.

use crate::devices::{Context, Effect, Width};
use crate::irq::Msi;

use super::config::{ConfigSpace, MESSAGES_AT_ONCE};

/// Capability ID.
const ID: u8 = 0x05;

/// Vectors that a function has at most.
pub const VECTORS_MAX: u8 = 32;

/// Message control, 16 bits, from the capability's begin on.
const CONTROL: u8 = 2;
/// Message control: the function sends messages, and leaves its interrupt pin alone.
const CONTROL_ENABLE: u16 = 1 << 0;
/// Message control, multiple message capable: logarithm of the number of vectors.
const CONTROL_CAPABLE_SHIFT: u32 = 1;
/// Message control, multiple message enable: logarithm of the number that the guest has granted.
const CONTROL_GRANTED: u16 = 7 << 4;
/// Message control: 64-bit addresses.
const CONTROL_64: u16 = 1 << 7;
/// Message control: vectors can be masked one by one.
const CONTROL_MASKABLE: u16 = 1 << 8;

/// Message address, low half.
const ADDRESS: u8 = 4;
/// Bits of the address that are there: messages are doublewords.
const ADDRESS_MASK: u32 = !3;
/// Bits of the data that are the guest's.
const DATA_MASK: u32 = 0xffff;

/// What a function's capability is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiCapability {
    /// Where it begins in configuration space.
    at: u8,
    /// 1, 2, 4, 8, 16 or 32.
    vectors: u8,
    is_64: bool,
    is_maskable: bool,
}

impl MsiCapability {
    /// Adds the capability at `at`, 40h to E8h, to a function with `vectors` interrupts, which are
    /// rounded up to a power of two of at most [`VECTORS_MAX`].
    pub fn add(
        config: &mut ConfigSpace,
        at: u8,
        vectors: u8,
        is_64: bool,
        is_maskable: bool,
    ) -> Self {
        let vectors = vectors.clamp(1, VECTORS_MAX).next_power_of_two();
        let new = Self {
            at,
            vectors,
            is_64,
            is_maskable,
        };
        let mut control = (vectors.trailing_zeros() as u16) << CONTROL_CAPABLE_SHIFT;
        if is_64 {
            control |= CONTROL_64;
        }
        if is_maskable {
            control |= CONTROL_MASKABLE;
        }
        let [low, high] = control.to_le_bytes();
        let mut content = [0; 22];
        content[..2].copy_from_slice(&[low, high]);
        let length = usize::from(new.end() - at) - 2;
        config.add_capability(at, ID, content.get(..length).unwrap_or(&content));
        config.allow(
            at + CONTROL,
            &(CONTROL_ENABLE | CONTROL_GRANTED).to_le_bytes(),
        );
        config.allow(at + ADDRESS, &ADDRESS_MASK.to_le_bytes());
        if is_64 {
            config.allow(at + ADDRESS + 4, &[0xff; 4]);
        }
        config.allow(new.data_at(), &DATA_MASK.to_le_bytes()[..2]);
        if is_maskable {
            config.allow(new.mask_at(), &new.all().to_le_bytes());
        }
        new
    }

    /// The register behind the capability.
    fn end(self) -> u8 {
        match self.is_maskable {
            true => self.pending_at() + 4,
            // The data's upper half is reserved.
            false => self.data_at() + 4,
        }
    }

    const fn data_at(self) -> u8 {
        self.at + if self.is_64 { 12 } else { 8 }
    }

    const fn mask_at(self) -> u8 {
        self.data_at() + 4
    }

    const fn pending_at(self) -> u8 {
        self.data_at() + 8
    }

    /// A bit for each vector.
    const fn all(self) -> u32 {
        u32::MAX >> (32 - self.vectors as u32)
    }

    fn control(self, config: &ConfigSpace) -> u16 {
        config.read(self.at + CONTROL, Width::Word) as u16
    }

    /// Whether the guest has chosen messages over the interrupt pin.
    pub fn is_enabled(self, config: &ConfigSpace) -> bool {
        self.control(config) & CONTROL_ENABLE != 0
    }

    /// How many vectors the guest has granted.
    pub fn granted(self, config: &ConfigSpace) -> u8 {
        let logarithm = (self.control(config) & CONTROL_GRANTED) >> 4;
        1 << logarithm.min(self.vectors.trailing_zeros() as u16)
    }

    /// Asks for the interrupt `vector`; vectors that were not granted are folded onto those that
    /// were. Nothing happens unless [`MsiCapability::is_enabled`].
    pub fn notify(self, config: &mut ConfigSpace, cx: &mut Context<'_>, vector: u8) {
        if !self.is_enabled(config) {
            return;
        }
        let vector = vector & (self.granted(config) - 1);
        if self.masked(config) & 1 << vector != 0 {
            self.set_pending(config, self.pending(config) | 1 << vector);
        } else {
            self.send(config, cx, vector);
        }
    }

    /// Sends what has waited until it was unmasked: see
    /// [`super::PciFunction::send_pending`].
    pub fn send_pending(self, config: &mut ConfigSpace, cx: &mut Context<'_>) -> bool {
        if !self.is_maskable || !self.is_enabled(config) {
            return false;
        }
        for _ in 0..MESSAGES_AT_ONCE {
            let due = self.pending(config) & !self.masked(config);
            if due == 0 {
                return false;
            }
            self.set_pending(config, self.pending(config) & !(due & due.wrapping_neg()));
            self.send(config, cx, due.trailing_zeros() as u8);
        }
        self.pending(config) & !self.masked(config) != 0
    }

    fn masked(self, config: &ConfigSpace) -> u32 {
        match self.is_maskable {
            true => config.read(self.mask_at(), Width::Dword),
            false => 0,
        }
    }

    fn pending(self, config: &ConfigSpace) -> u32 {
        config.read(self.pending_at(), Width::Dword) & self.all()
    }

    fn set_pending(self, config: &mut ConfigSpace, pending: u32) {
        for (at, byte) in (self.pending_at()..).zip(pending.to_le_bytes()) {
            config.set_byte(at, byte);
        }
    }

    fn send(self, config: &ConfigSpace, cx: &mut Context<'_>, vector: u8) {
        let register = |at| config.read(at, Width::Dword);
        let high = match self.is_64 {
            true => register(self.at + ADDRESS + 4),
            false => 0,
        };
        let low_bits = u32::from(self.granted(config) - 1);
        let message = Msi {
            address: u64::from(high) << 32 | u64::from(register(self.at + ADDRESS)),
            data: register(self.data_at()) & DATA_MASK & !low_bits | u32::from(vector),
        };
        if config.is_bus_master() {
            cx.effects.push(Effect::Message(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::{reg, some_function};
    use std::vec::Vec;

    const AT: u8 = 0x4c;

    fn messages(bench: &mut Bench) -> Vec<(u64, u32)> {
        core::iter::from_fn(|| bench.effects.take())
            .map(|effect| match effect {
                Effect::Message(Msi { address, data }) => (address, data),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The bridge's capability, as observed with QEMU 7.2: all ones and all zeros written.
    #[test]
    fn registers_of_one_maskable_vector() {
        let mut config = some_function();
        MsiCapability::add(&mut config, AT, 1, true, true);
        assert_eq!(config.byte(reg::CAPABILITIES), AT);
        assert_eq!(config.read(reg::STATUS, Width::Word), 0x10);
        for (offset, ones, zeros) in [
            (0x4c, 0x0181_0005, 0x0180_0005),
            (0x50, 0xffff_fffc, 0),
            (0x54, 0xffff_ffff, 0),
            (0x58, 0xffff, 0),
            (0x5c, 1, 0),
            (0x60, 0, 0),
            (0x64, 0xffff_ffff, 0),
        ] {
            config.write(offset, Width::Dword, u32::MAX);
            let value = config.read(offset, Width::Dword);
            // The number of vectors granted may be any.
            let value = if offset == AT {
                value & !0x70_0000
            } else {
                value
            };
            assert_eq!(value, ones, "{offset:#x}");
            config.write(offset, Width::Dword, 0);
            assert_eq!(config.read(offset, Width::Dword), zeros, "{offset:#x}");
        }
    }

    #[test]
    fn layouts_without_what_is_optional() {
        let mut config = some_function();
        MsiCapability::add(&mut config, AT, 32, false, false);
        config.write(AT + 8, Width::Dword, u32::MAX);
        assert_eq!(config.read(AT, Width::Dword), 0x000a_0005);
        assert_eq!(config.read(AT + 8, Width::Dword), 0xffff);
        config.write(AT + 12, Width::Dword, u32::MAX);
        assert_eq!(
            config.read(AT + 12, Width::Dword),
            u32::MAX,
            "not part of it"
        );
    }

    #[test]
    fn messages_carry_their_vector() {
        let (mut config, mut bench) = (some_function(), Bench::new());
        let msi = MsiCapability::add(&mut config, AT, 4, true, false);
        config.write(AT + 4, Width::Dword, 0xfee0_1004);
        config.write(AT + 8, Width::Dword, 0x1);
        config.write(AT + 12, Width::Word, 0x4043);
        let mut notify = |config: &mut ConfigSpace, vector| {
            msi.notify(config, &mut bench.context(), vector);
            messages(&mut bench)
        };
        assert_eq!(notify(&mut config, 0), [], "off");
        config.write(AT + 2, Width::Word, 1);
        assert_eq!(notify(&mut config, 0), [], "no bus master");
        config.write(reg::COMMAND, Width::Word, 4);
        let address = 0x1_fee0_1004;
        assert_eq!(notify(&mut config, 0), [(address, 0x4043)][..]);
        assert_eq!(
            notify(&mut config, 3),
            [(address, 0x4043)],
            "one vector is granted"
        );
        config.write(AT + 2, Width::Word, 0x21);
        assert_eq!(notify(&mut config, 2), [(address, 0x4042)]);
        assert_eq!(notify(&mut config, 5), [(address, 0x4041)]);
        config.write(AT + 2, Width::Word, 0x71);
        assert_eq!(msi.granted(&config), 4, "no more than there are");
    }

    #[test]
    fn masked_vectors_wait() {
        let (mut config, mut bench) = (some_function(), Bench::new());
        let msi = MsiCapability::add(&mut config, AT, 32, false, true);
        config.write(reg::COMMAND, Width::Word, 4);
        config.write(AT + 2, Width::Word, 0x51);
        config.write(AT + 8, Width::Word, 0x60);
        config.write(AT + 12, Width::Dword, u32::MAX);
        for vector in 0..32 {
            msi.notify(&mut config, &mut bench.context(), vector);
            msi.notify(&mut config, &mut bench.context(), vector);
        }
        assert_eq!(messages(&mut bench), []);
        assert_eq!(config.read(AT + 16, Width::Dword), u32::MAX);
        assert!(!msi.send_pending(&mut config, &mut bench.context()));
        config.write(AT + 12, Width::Dword, 2);
        let mut seen = Vec::new();
        while msi.send_pending(&mut config, &mut bench.context()) {
            let now = messages(&mut bench);
            assert_eq!(now.len(), MESSAGES_AT_ONCE);
            seen.extend(now);
        }
        seen.extend(messages(&mut bench));
        let vectors: Vec<u32> = seen.iter().map(|(_, data)| *data - 0x60).collect();
        assert_eq!(
            vectors,
            (0..32).filter(|vector| *vector != 1).collect::<Vec<_>>()
        );
        assert_eq!(config.read(AT + 16, Width::Dword), 2);
    }
}
