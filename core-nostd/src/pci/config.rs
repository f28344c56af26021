//! The 256 bytes of configuration space of one function, with header type 0.
//!
//! Follows the PCI Local Bus Specification 2.1, chapter 6. Capabilities are not laid out here: a
//! function places them itself above 3Fh. An expansion ROM is not modelled; its base reads 0.

use serde::{Deserialize, Serialize};

use crate::devices::{Context, Width};
use crate::state::StateError;

/// Bytes of configuration space of a function.
pub const CONFIG_BYTES: usize = 256;

/// Base address registers of a type-0 header.
pub const BARS: usize = 6;

/// Offsets of the registers that every type-0 header has (PCI 2.1, figure 6-1).
pub mod reg {
    /// Vendor ID, 16 bits.
    pub const VENDOR_ID: u8 = 0x00;
    /// Device ID, 16 bits.
    pub const DEVICE_ID: u8 = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Status, 16 bits.
    pub const STATUS: u8 = 0x06;
    /// Revision ID.
    pub const REVISION_ID: u8 = 0x08;
    /// Class code: programming interface, subclass and base class, a byte each.
    pub const CLASS_CODE: u8 = 0x09;
    /// Cache line size in 32-bit words.
    pub const CACHE_LINE_SIZE: u8 = 0x0c;
    /// Header type; bit 7 says that the device has more than one function.
    pub const HEADER_TYPE: u8 = 0x0e;
    /// The first of six base address registers, 32 bits each.
    pub const BAR0: u8 = 0x10;
    /// Subsystem vendor ID, 16 bits.
    pub const SUBSYSTEM_VENDOR_ID: u8 = 0x2c;
    /// Subsystem ID, 16 bits.
    pub const SUBSYSTEM_ID: u8 = 0x2e;
    /// Interrupt line: scratch for the firmware.
    pub const INTERRUPT_LINE: u8 = 0x3c;
    /// Interrupt pin: 0 for none, 1 to 4 for INTA# to INTD#.
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// Command: the function answers I/O accesses.
const COMMAND_IO: u16 = 1 << 0;
/// Command: the function answers memory accesses.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: the function may become bus master.
const COMMAND_MASTER: u16 = 1 << 2;
/// Command: SERR# enable.
const COMMAND_SERR: u16 = 1 << 8;
/// Command: INTx# disable (PCI 2.3).
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status bits that writing a one clears: master data parity error, target and master aborts,
/// signalled system error, detected parity error.
const STATUS_W1C: u16 = 0xf900;

/// What a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code as one number: `0xBBSSPP`, base class, subclass, programming interface.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Whether the device has functions beyond 0.
    pub multifunction: bool,
    /// Interrupt pin: 0 for none, 1 to 4 for INTA# to INTD#.
    pub interrupt_pin: u8,
}

/// Which space a base address register claims (PCI 2.1, section 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; it takes this register and the next one.
    Memory64 {
        /// Whether reads have no side effect.
        prefetchable: bool,
    },
}

/// A function that answers in configuration space.
pub trait PciFunction {
    /// Reads up to 4 bytes at `offset`; bytes beyond the 256th read 0.
    fn config_read(&self, offset: u8, width: Width) -> u32;

    /// Writes up to 4 bytes at `offset`; bytes beyond the 256th are dropped.
    fn config_write(&mut self, cx: &mut Context<'_>, offset: u8, width: Width, value: u32);
}

/// The registers of one function and which of their bits the guest may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bars: [Option<Bar>; BARS],
    /// Registers after a reset.
    initial: [u8; CONFIG_BYTES],
    /// Bits that take what is written.
    writable: [u8; CONFIG_BYTES],
    /// Bits that a written one clears.
    clearable: [u8; CONFIG_BYTES],
    bytes: [u8; CONFIG_BYTES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bar {
    kind: BarKind,
    size: u64,
}

/// Saved form of a [`ConfigSpace`]: its registers. Masks and layout belong to the device's model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedConfig {
    registers: [[u8; 32]; 8],
}

impl ConfigSpace {
    /// A type-0 header: command, cache line size and interrupt line can be written, the error bits
    /// of status are cleared by ones, and no base address register is there. All of 40h to FFh is
    /// read-only until [`ConfigSpace::allow`] says otherwise.
    pub fn new(identity: Identity) -> Self {
        let mut new = Self {
            bars: [None; BARS],
            initial: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            clearable: [0; CONFIG_BYTES],
            bytes: [0; CONFIG_BYTES],
        };
        new.preset(reg::VENDOR_ID, &identity.vendor.to_le_bytes());
        new.preset(reg::DEVICE_ID, &identity.device.to_le_bytes());
        new.preset(reg::REVISION_ID, &[identity.revision]);
        new.preset(reg::CLASS_CODE, &identity.class.to_le_bytes()[..3]);
        new.preset(reg::HEADER_TYPE, &[u8::from(identity.multifunction) << 7]);
        new.preset(
            reg::SUBSYSTEM_VENDOR_ID,
            &identity.subsystem_vendor.to_le_bytes(),
        );
        new.preset(reg::SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        new.preset(reg::INTERRUPT_PIN, &[identity.interrupt_pin]);
        let command =
            COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_SERR | COMMAND_INTX_DISABLE;
        new.allow(reg::COMMAND, &command.to_le_bytes());
        new.allow(reg::CACHE_LINE_SIZE, &[0xff]);
        new.allow(reg::INTERRUPT_LINE, &[0xff]);
        let status = usize::from(reg::STATUS);
        new.clearable[status..status + 2].copy_from_slice(&STATUS_W1C.to_le_bytes());
        new
    }

    /// Sets what registers from `offset` on hold now and after each reset. For constructors.
    pub fn preset(&mut self, offset: u8, values: &[u8]) {
        let at = usize::from(offset);
        for (i, value) in values.iter().enumerate().take(CONFIG_BYTES - at) {
            self.initial[at + i] = *value;
            self.bytes[at + i] = *value;
        }
    }

    /// Lets the guest change these bits of the registers from `offset` on. For constructors.
    pub fn allow(&mut self, offset: u8, bits: &[u8]) {
        let at = usize::from(offset);
        for (i, bits) in bits.iter().enumerate().take(CONFIG_BYTES - at) {
            self.writable[at + i] = *bits;
        }
    }

    /// Lets the guest change all bits of the registers from `offset` to the end. For constructors.
    pub fn allow_from(&mut self, offset: u8) {
        self.writable[usize::from(offset)..].fill(0xff);
    }

    /// Claims `size` bytes of address space with base address register `index`; `size` is a power
    /// of two, at least 4 for I/O and 16 for memory, below 4 GiB but for 64-bit memory. Returns
    /// whether such a register can be there. For constructors.
    pub fn set_bar(&mut self, index: usize, kind: BarKind, size: u64) -> bool {
        let (least, most, registers) = match kind {
            BarKind::Io => (4, 1 << 8, 1),
            BarKind::Memory32 => (16, 1 << 31, 1),
            BarKind::Memory64 { .. } => (16, 1 << 62, 2),
        };
        let free = self.bars.get(index..index.saturating_add(registers));
        let before = index.checked_sub(1).and_then(|i| self.bars.get(i).copied());
        let is_half = matches!(
            before.flatten(),
            Some(Bar {
                kind: BarKind::Memory64 { .. },
                ..
            })
        );
        if !free.is_some_and(|bars| bars.iter().all(Option::is_none))
            || is_half
            || !size.is_power_of_two()
            || !(least..=most).contains(&size)
        {
            return false;
        }
        self.bars[index] = Some(Bar { kind, size });
        let flags = match kind {
            BarKind::Io => 1,
            BarKind::Memory32 => 0,
            BarKind::Memory64 { prefetchable } => 4 | u8::from(prefetchable) << 3,
        };
        let offset = reg::BAR0 + 4 * index as u8;
        let mask = !(size - 1);
        self.preset(offset, &[flags, 0, 0, 0]);
        self.allow(offset, &mask.to_le_bytes()[..4 * registers]);
        true
    }

    /// Where base address register `index` puts its range now and how long that is; `None` while
    /// the command register keeps that space from answering, or where there is no such register.
    ///
    /// A base of all ones is what sizing leaves behind: it is no address.
    pub fn bar(&self, index: usize) -> Option<(u64, u64)> {
        let Bar { kind, size } = (*self.bars.get(index)?)?;
        let offset = reg::BAR0 + 4 * index as u8;
        let low = u64::from(self.read(offset, Width::Dword));
        let (base, enable, ones) = match kind {
            BarKind::Io => (low & !3, COMMAND_IO, u64::from(u32::MAX)),
            BarKind::Memory32 => (low & !0xf, COMMAND_MEMORY, u64::from(u32::MAX)),
            BarKind::Memory64 { .. } => {
                let high = u64::from(self.read(offset + 4, Width::Dword));
                (high << 32 | low & !0xf, COMMAND_MEMORY, u64::MAX)
            }
        };
        let sizing = base == ones & !(size - 1);
        (self.command() & enable != 0 && !sizing).then_some((base, size))
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.read(reg::COMMAND, Width::Word) as u16
    }

    /// Whether the guest lets the function read and write RAM.
    pub fn is_bus_master(&self) -> bool {
        self.command() & COMMAND_MASTER != 0
    }

    /// Whether the guest keeps the function from driving its interrupt pin.
    pub fn is_intx_disabled(&self) -> bool {
        self.command() & COMMAND_INTX_DISABLE != 0
    }

    /// One register.
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// Sets one register from the device's side, whatever the guest may write.
    pub fn set_byte(&mut self, offset: u8, value: u8) {
        self.bytes[usize::from(offset)] = value;
    }

    /// Reads up to 4 bytes, little-endian; bytes beyond the 256th read 0.
    pub fn read(&self, offset: u8, width: Width) -> u32 {
        let bytes = self.bytes[usize::from(offset)..].iter();
        bytes
            .take(width.bytes().min(4).into())
            .enumerate()
            .fold(0, |value, (i, byte)| value | u32::from(*byte) << (8 * i))
    }

    /// Writes up to 4 bytes as the guest does; bytes beyond the 256th are dropped.
    pub fn write(&mut self, offset: u8, width: Width, value: u32) {
        let at = usize::from(offset);
        let length = usize::from(width.bytes().min(4)).min(CONFIG_BYTES - at);
        for (i, value) in value.to_le_bytes().into_iter().enumerate().take(length) {
            let (writable, clearable) = (self.writable[at + i], self.clearable[at + i]);
            let byte = &mut self.bytes[at + i];
            *byte = *byte & !writable | value & writable;
            *byte &= !(value & clearable);
        }
    }

    /// All registers as they were built.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// The saved form.
    pub fn save(&self) -> SavedConfig {
        let mut registers = [[0; 32]; 8];
        registers.as_flattened_mut().copy_from_slice(&self.bytes);
        SavedConfig { registers }
    }

    /// Takes over a saved form. Refuses one in which a bit differs that neither guest nor reset
    /// can change: it is of another device or configuration.
    pub fn load(&mut self, saved: SavedConfig) -> Result<(), StateError> {
        let SavedConfig { registers } = saved;
        for (i, byte) in registers.as_flattened().iter().enumerate() {
            let fixed = !(self.writable[i] | self.clearable[i]);
            if (byte ^ self.initial[i]) & fixed != 0 {
                return Err(StateError::Invalid("registers"));
            }
        }
        self.bytes.copy_from_slice(registers.as_flattened());
        Ok(())
    }
}

/// Asserts what all registers of a function read, by four bytes; those that are not listed read 0.
#[cfg(test)]
pub(super) fn assert_registers(device: &impl PciFunction, set: &[(u8, u32)]) {
    for offset in (0..=252).step_by(4) {
        let expected = set.iter().find(|(at, _)| *at == offset);
        let expected = expected.map_or(0, |(_, value)| *value);
        let value = device.config_read(offset, Width::Dword);
        assert_eq!(value, expected, "{offset:#x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            revision: 1,
            class: 0x02_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 1,
        })
    }

    #[test]
    fn header_reads_as_identity() {
        let space = space();
        assert_eq!(space.read(0, Width::Dword), 0x1041_1af4);
        assert_eq!(space.read(8, Width::Dword), 0x0200_0001);
        assert_eq!(space.read(0x2c, Width::Dword), 0x1100_1af4);
        assert_eq!(space.read(0x3d, Width::Byte), 1);
        assert_eq!(space.read(0xff, Width::Dword), 0);
    }

    #[test]
    fn only_writable_bits_change() {
        let mut space = space();
        for offset in (0..=252).step_by(4) {
            space.write(offset, Width::Dword, u32::MAX);
        }
        assert_eq!(space.read(0, Width::Dword), 0x1041_1af4);
        assert_eq!(space.read(4, Width::Dword), 0x0000_0507);
        assert_eq!(space.read(0xc, Width::Dword), 0xff);
        assert_eq!(space.read(0x10, Width::Dword), 0);
        assert_eq!(space.read(0x3c, Width::Dword), 0x01ff);
        assert_eq!(space.read(0x40, Width::Dword), 0);
    }

    #[test]
    fn ones_clear_error_bits_of_status() {
        let mut space = space();
        space.set_byte(reg::STATUS + 1, 0xfa);
        space.write(reg::STATUS, Width::Word, 0x8000);
        assert_eq!(space.byte(reg::STATUS + 1), 0x7a);
        space.write(reg::STATUS, Width::Word, 0xffff);
        assert_eq!(space.byte(reg::STATUS + 1), 0x02);
    }

    #[test]
    fn writes_stop_at_the_end() {
        let mut space = space();
        space.allow_from(0x40);
        space.write(0xfe, Width::Dword, 0xaabb_ccdd);
        assert_eq!(space.read(0xfc, Width::Dword), 0xccdd_0000);
        assert_eq!(space.read(0, Width::Dword), 0x1041_1af4);
    }

    #[test]
    fn bars_are_sized_and_placed() {
        let mut space = space();
        assert!(space.set_bar(0, BarKind::Io, 0x20));
        assert!(space.set_bar(1, BarKind::Memory32, 0x1000));
        assert!(space.set_bar(4, BarKind::Memory64 { prefetchable: true }, 0x4000));
        for (offset, size) in [
            (0x10, 0xffff_ffe1),
            (0x14, 0xffff_f000),
            (0x18, 0),
            (0x20, 0xffff_c00c),
            (0x24, 0xffff_ffff),
        ] {
            space.write(offset, Width::Dword, u32::MAX);
            assert_eq!(space.read(offset, Width::Dword), size, "{offset:#x}");
        }
        space.write(reg::COMMAND, Width::Word, 3);
        assert_eq!(space.bar(0), None, "a base of all ones is no address");
        assert_eq!(space.bar(4), None);
        space.write(0x10, Width::Dword, 0xc0ff);
        space.write(0x14, Width::Dword, 0xfebf_1234);
        space.write(0x20, Width::Dword, 0x8000);
        space.write(0x24, Width::Dword, 1);
        assert_eq!(space.bar(0), Some((0xc0e0, 0x20)));
        assert_eq!(space.bar(1), Some((0xfebf_1000, 0x1000)));
        assert_eq!(space.bar(2), None);
        assert_eq!(space.bar(4), Some((0x1_0000_8000, 0x4000)));
        assert_eq!(space.bar(BARS), None);
        space.write(reg::COMMAND, Width::Word, 1);
        assert_eq!(space.bar(1), None, "memory space is off");
        space.reset();
        assert_eq!(space.read(0x10, Width::Dword), 1);
    }

    #[test]
    fn impossible_bars_are_refused() {
        let mut space = space();
        assert!(!space.set_bar(0, BarKind::Io, 24));
        assert!(!space.set_bar(0, BarKind::Memory32, 8));
        assert!(!space.set_bar(6, BarKind::Io, 4));
        assert!(!space.set_bar(
            5,
            BarKind::Memory64 {
                prefetchable: false
            },
            0x1000
        ));
        assert!(space.set_bar(
            0,
            BarKind::Memory64 {
                prefetchable: false
            },
            0x1000
        ));
        assert!(!space.set_bar(1, BarKind::Io, 4), "upper half of the first");
        assert!(!space.set_bar(usize::MAX, BarKind::Io, 4));
    }

    #[test]
    fn state_of_another_device_is_refused() {
        let mut space = space();
        let mut other = space.clone();
        other.preset(reg::DEVICE_ID, &[0x42]);
        let before = space.clone();
        assert_eq!(
            space.load(other.save()),
            Err(StateError::Invalid("registers"))
        );
        assert_eq!(space, before);
        other.preset(reg::DEVICE_ID, &[0x41]);
        other.write(reg::COMMAND, Width::Word, 7);
        assert_eq!(space.load(other.save()), Ok(()));
        assert_eq!(space.command(), 7);
    }
}
