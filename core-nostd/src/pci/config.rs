//! The 256 bytes of configuration space of one function, with header type 0 or, for bridges, 1.
//!
//! Follows the PCI Local Bus Specification 2.3, chapter 6, and for header type 1 the PCI-to-PCI
//! Bridge Architecture Specification 1.1, chapter 3. A function has its capabilities linked by
//! [`ConfigSpace::add_capability`] and fills in what they hold itself.
//!
//! A base of 0 is no address for a BAR, as it is not in QEMU: it is what nobody has placed yet.

use serde::{Deserialize, Serialize};

use crate::devices::{Context, Width};
use crate::state::StateError;

/// Bytes of configuration space of a function.
pub const CONFIG_BYTES: usize = 256;

/// Base address registers of a type-0 header.
pub const BARS: usize = 6;

/// Stands for the expansion ROM's base where base address registers are numbered.
pub const ROM_BAR: usize = BARS;

/// Bytes of an expansion ROM's range: at least these (PCI 2.3, section 6.2.5.2).
pub const ROM_MIN: u32 = 2048;
/// Bytes of an expansion ROM's range: at most these (PCI 2.3, section 6.2.5.2).
pub const ROM_MAX: u32 = 16 << 20;

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
    /// Bridges: primary, secondary and subordinate bus number, a byte each.
    pub const BUS_NUMBERS: u8 = 0x18;
    /// Bridges: first and last block of 4 KiB of the I/O window, a byte each.
    pub const IO_WINDOW: u8 = 0x1c;
    /// Bridges: status of the secondary bus, 16 bits.
    pub const SECONDARY_STATUS: u8 = 0x1e;
    /// Bridges: first and last block of 1 MiB of the memory window, 16 bits each.
    pub const MEMORY_WINDOW: u8 = 0x20;
    /// Bridges: the same for prefetchable memory.
    pub const PREFETCHABLE_WINDOW: u8 = 0x24;
    /// Bridges: bits 63:32 of the prefetchable window's ends, 32 bits each.
    pub const PREFETCHABLE_UPPER: u8 = 0x28;
    /// Subsystem vendor ID, 16 bits.
    pub const SUBSYSTEM_VENDOR_ID: u8 = 0x2c;
    /// Subsystem ID, 16 bits.
    pub const SUBSYSTEM_ID: u8 = 0x2e;
    /// Expansion ROM base address of a type-0 header, 32 bits.
    pub const ROM: u8 = 0x30;
    /// Offset of the first capability.
    pub const CAPABILITIES: u8 = 0x34;
    /// Expansion ROM base address of a bridge, 32 bits.
    pub const BRIDGE_ROM: u8 = 0x38;
    /// Interrupt line: scratch for the firmware.
    pub const INTERRUPT_LINE: u8 = 0x3c;
    /// Interrupt pin: 0 for none, 1 to 4 for INTA# to INTD#.
    pub const INTERRUPT_PIN: u8 = 0x3d;
    /// Bridges: bridge control, 16 bits.
    pub const BRIDGE_CONTROL: u8 = 0x3e;
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
/// Status: the function asks for an interrupt by its pin (PCI 2.3).
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Status: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// Expansion ROM base: the ROM answers.
const ROM_ENABLE: u32 = 1 << 0;
/// Header type: a bridge.
const HEADER_BRIDGE: u8 = 1;
/// Header type: the device has functions beyond 0.
const HEADER_MULTIFUNCTION: u8 = 1 << 7;
/// Status bits that writing a one clears: master data parity error, target and master aborts,
/// signalled system error, detected parity error.
const STATUS_W1C: u16 = 0xf900;

/// Bridge control bits that can be written: parity error response, SERR#, ISA and VGA decoding,
/// master abort mode, secondary bus reset, fast back-to-back, and discard timers.
const BRIDGE_CONTROL: u16 = 0x0bff;

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
    Memory32 {
        /// Whether reads have no side effect.
        prefetchable: bool,
    },
    /// Memory anywhere; it takes this register and the next one.
    Memory64 {
        /// Whether reads have no side effect.
        prefetchable: bool,
    },
}

/// A function on a PCI bus: its configuration space and what answers in its ranges.
///
/// The bus owns bus facts: it knows where a range is, splits an access into pieces that are aligned
/// and no wider than [`PciFunction::widest`], and drives the interrupt line.
pub trait PciFunction {
    /// The registers.
    fn config(&self) -> &ConfigSpace;

    /// The registers, for the bus: what it changes shows in no other part of the function.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// Reads up to 4 bytes at `offset`; bytes beyond the 256th read 0.
    fn config_read(&self, offset: u8, width: Width) -> u32 {
        self.config().read(offset, width)
    }

    /// Writes up to 4 bytes at `offset`; bytes beyond the 256th are dropped.
    fn config_write(&mut self, cx: &mut Context<'_>, offset: u8, width: Width, value: u32) {
        let _ = cx;
        self.config_mut().write(offset, width, value);
    }

    /// State after a reset of the bus, or of the machine.
    fn reset(&mut self, cx: &mut Context<'_>);

    /// The widest access that a base address register's range takes whole.
    fn widest(&self, bar: usize) -> Width {
        let _ = bar;
        Width::Dword
    }

    /// Reads at `offset` of the range of base address register `bar`.
    fn bar_read(&mut self, cx: &mut Context<'_>, bar: usize, offset: u64, width: Width) -> u64 {
        let _ = (cx, bar, offset, width);
        0
    }

    /// Writes at `offset` of the range of base address register `bar`.
    fn bar_write(
        &mut self,
        cx: &mut Context<'_>,
        bar: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        let _ = (cx, bar, offset, width, value);
    }

    /// Sends interrupt messages that have waited until they were unmasked, at most
    /// [`MESSAGES_AT_ONCE`] of them, and says whether more wait.
    fn send_pending(&mut self, cx: &mut Context<'_>) -> bool {
        let _ = cx;
        false
    }
}

/// Interrupt messages that [`PciFunction::send_pending`] sends at most: the queue of effects has
/// room for them.
pub const MESSAGES_AT_ONCE: usize = 8;

/// The registers of one function and which of their bits the guest may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bars: [Option<Bar>; BARS],
    /// Bytes of the expansion ROM's range; 0 without a ROM.
    rom: u32,
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
            rom: 0,
            initial: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            clearable: [0; CONFIG_BYTES],
            bytes: [0; CONFIG_BYTES],
        };
        new.preset(reg::VENDOR_ID, &identity.vendor.to_le_bytes());
        new.preset(reg::DEVICE_ID, &identity.device.to_le_bytes());
        new.preset(reg::REVISION_ID, &[identity.revision]);
        new.preset(reg::CLASS_CODE, &identity.class.to_le_bytes()[..3]);
        new.set_multifunction(identity.multifunction);
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

    /// A type-1 header: that of a bridge, with 16-bit I/O and 64-bit prefetchable addresses, and as
    /// much of it writable as the specification has. It has two base address registers, and no
    /// subsystem IDs.
    pub fn bridge(identity: Identity) -> Self {
        let mut new = Self::new(identity);
        new.preset(
            reg::HEADER_TYPE,
            &[new.byte(reg::HEADER_TYPE) | HEADER_BRIDGE],
        );
        new.preset(reg::SUBSYSTEM_VENDOR_ID, &[0; 4]);
        new.preset(reg::PREFETCHABLE_WINDOW, &[1, 0, 1, 0]);
        // The secondary bus's latency timer, too.
        new.allow(reg::BUS_NUMBERS, &[0xff; 4]);
        new.allow(reg::IO_WINDOW, &[0xf0; 2]);
        let window = [0xf0, 0xff, 0xf0, 0xff];
        new.allow(reg::MEMORY_WINDOW, &window);
        new.allow(reg::PREFETCHABLE_WINDOW, &window);
        new.allow(reg::PREFETCHABLE_UPPER, &[0xff; 8]);
        new.allow(reg::BRIDGE_CONTROL, &BRIDGE_CONTROL.to_le_bytes());
        let status = usize::from(reg::SECONDARY_STATUS);
        new.clearable[status..status + 2].copy_from_slice(&STATUS_W1C.to_le_bytes());
        new
    }

    /// Whether it is a bridge's: the header is of type 1.
    pub fn is_bridge(&self) -> bool {
        self.initial[usize::from(reg::HEADER_TYPE)] & HEADER_BRIDGE != 0
    }

    /// Says that the device has functions beyond 0, or that it has none. For constructors.
    pub fn set_multifunction(&mut self, multifunction: bool) {
        let kind = self.initial[usize::from(reg::HEADER_TYPE)] & !HEADER_MULTIFUNCTION;
        let bit = u8::from(multifunction) << 7;
        self.preset(reg::HEADER_TYPE, &[kind | bit]);
    }

    /// Whether it says so.
    pub fn is_multifunction(&self) -> bool {
        self.initial[usize::from(reg::HEADER_TYPE)] & HEADER_MULTIFUNCTION != 0
    }

    /// Puts a capability at `offset`, 40h or above, in front of the list: its ID, the link to the
    /// one that was first, and `content` behind them. The guest may change nothing of it but what
    /// is allowed afterwards. For constructors.
    pub fn add_capability(&mut self, offset: u8, id: u8, content: &[u8]) {
        let next = self.byte(reg::CAPABILITIES);
        self.preset(offset, &[id, next]);
        self.preset(offset.saturating_add(2), content);
        let at = usize::from(offset);
        let end = (at + 2 + content.len()).min(CONFIG_BYTES);
        self.writable[at..end].fill(0);
        self.preset(reg::CAPABILITIES, &[offset]);
        let status = self.initial[usize::from(reg::STATUS)] | STATUS_CAPABILITIES;
        self.preset(reg::STATUS, &[status]);
    }

    /// Claims `size` bytes of memory for an expansion ROM, a power of two from [`ROM_MIN`] to
    /// [`ROM_MAX`]. Returns whether it can have them. For constructors.
    pub fn set_rom(&mut self, size: u32) -> bool {
        if !size.is_power_of_two() || !(ROM_MIN..=ROM_MAX).contains(&size) {
            return false;
        }
        self.rom = size;
        let mask = !(size - 1) | ROM_ENABLE;
        self.allow(self.rom_register(), &mask.to_le_bytes());
        true
    }

    fn rom_register(&self) -> u8 {
        if self.is_bridge() {
            reg::BRIDGE_ROM
        } else {
            reg::ROM
        }
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
    /// of two, at least 4 for I/O, 2 for 32-bit and 16 for 64-bit memory, below 4 GiB but for 64-bit
    /// memory. Returns whether such a register can be there. For constructors.
    ///
    /// The specification has no memory below 16 bytes; QEMU's `pvpanic-pci` does, and of its register
    /// the bits that say what kind of memory it is can be written.
    pub fn set_bar(&mut self, index: usize, kind: BarKind, size: u64) -> bool {
        let (least, most, registers) = match kind {
            BarKind::Io => (4, 1 << 8, 1),
            BarKind::Memory32 { .. } => (2, 1 << 31, 1),
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
            BarKind::Memory32 { prefetchable } => u8::from(prefetchable) << 3,
            BarKind::Memory64 { prefetchable } => 4 | u8::from(prefetchable) << 3,
        };
        let offset = reg::BAR0 + 4 * index as u8;
        let mask = !(size - 1);
        self.preset(offset, &[flags, 0, 0, 0]);
        self.allow(offset, &mask.to_le_bytes()[..4 * registers]);
        true
    }

    /// What base address register `index` claims, and how many bytes; [`ROM_BAR`] claims memory below
    /// 4 GiB. `None` where there is no such register.
    pub fn bar_kind(&self, index: usize) -> Option<(BarKind, u64)> {
        if index == ROM_BAR {
            let prefetchable = false;
            return (self.rom != 0)
                .then_some((BarKind::Memory32 { prefetchable }, self.rom.into()));
        }
        let Bar { kind, size } = (*self.bars.get(index)?)?;
        Some((kind, size))
    }

    /// Where base address register `index`, or [`ROM_BAR`], puts its range now, and how many bytes it
    /// has; `None` while the range does not answer, or where there is no such register.
    ///
    /// The command register and the ROM's own bit keep ranges from answering. Base 0 is where
    /// nobody has placed a range, and what ends with the space is what sizing leaves behind: both
    /// are no address.
    pub fn bar(&self, index: usize) -> Option<(u64, u64)> {
        let (kind, size) = self.bar_kind(index)?;
        let offset = match index {
            ROM_BAR => self.rom_register(),
            _ => reg::BAR0 + 4 * index as u8,
        };
        let low = self.read(offset, Width::Dword);
        let high = match kind {
            BarKind::Memory64 { .. } => self.read(offset + 4, Width::Dword),
            _ => 0,
        };
        let (enable, end) = match kind {
            BarKind::Io => (COMMAND_IO, 0xffff),
            BarKind::Memory32 { .. } => (COMMAND_MEMORY, u64::from(u32::MAX) - 1),
            BarKind::Memory64 { .. } => (COMMAND_MEMORY, u64::MAX - 1),
        };
        let base = (u64::from(high) << 32 | u64::from(low)) & !(size - 1);
        let answers = self.command() & enable != 0 && (index != ROM_BAR || low & ROM_ENABLE != 0);
        let last = base.checked_add(size - 1)?;
        (answers && base != 0 && last <= end).then_some((base, size))
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

    /// The function asks for an interrupt by its pin, or no longer does.
    pub fn set_intx(&mut self, level: bool) {
        let status = self.byte(reg::STATUS) & !STATUS_INTERRUPT;
        let bit = if level { STATUS_INTERRUPT } else { 0 };
        self.set_byte(reg::STATUS, status | bit);
    }

    /// Level of the function's interrupt pin: it asks for an interrupt, and the command register
    /// lets it.
    pub fn intx(&self) -> bool {
        self.byte(reg::STATUS) & STATUS_INTERRUPT != 0 && !self.is_intx_disabled()
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
            let mut fixed = !(self.writable[i] | self.clearable[i]);
            if i == usize::from(reg::STATUS) {
                fixed &= !STATUS_INTERRUPT;
            }
            if (byte ^ self.initial[i]) & fixed != 0 {
                return Err(StateError::Invalid("registers"));
            }
        }
        self.bytes.copy_from_slice(registers.as_flattened());
        Ok(())
    }
}

/// A function that has nothing of its own yet, with room for capabilities.
#[cfg(test)]
pub(crate) fn some_function() -> ConfigSpace {
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1234,
        device: 0x5678,
        revision: 0,
        class: 0,
        subsystem_vendor: 0,
        subsystem: 0,
        multifunction: false,
        interrupt_pin: 1,
    });
    config.allow_from(0x40);
    config
}

/// Asserts what all registers of a function read, by four bytes; those that are not listed read 0.
#[cfg(test)]
pub(crate) fn assert_registers(device: &impl PciFunction, set: &[(u8, u32)]) {
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
        assert!(space.set_bar(
            1,
            BarKind::Memory32 {
                prefetchable: false
            },
            0x1000
        ));
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
        assert!(!space.set_bar(
            0,
            BarKind::Memory32 {
                prefetchable: false
            },
            1
        ));
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
