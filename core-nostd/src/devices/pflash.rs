//! The PC board's system flash: chips of the Intel command set (QEMU's `cfi.pflash01`), at most [`UNITS_MAX`], 8 bits
//! wide, in sectors of 4 KiB.
//!
//! Follows Intel 290606 (28F320J5/28F640J5), chapter 4, for the commands, and JEDEC JESD68.01 for the query structure; where
//! they leave a choice, QEMU 7.2, observed. A chip that gives its array is memory to processors: they read and execute
//! it in place, and only writes come here. Any other mode takes it out of the memory map until it is back
//! ([`Effect::RemapMemory`]).
//!
//! Contents are cells that the host lends, and belong to whoever lends them: each change is told by
//! [`Effect::FlashChanged`], and the saved state has none of them.
//!
//! Not as on silicon, because firmware written for virtual chips expects it, and all as in QEMU: nothing takes time, so that
//! the chip is ready always; programming can set bits; the first cycle of an erase erases; lock bits are
//! taken and hold nothing; identifier codes are 0; suspending is no command. A full host disk is a programming or erase
//! error in the status register here; QEMU keeps it from the guest.

use core::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use super::block::DriveId;
use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Effect, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;
use crate::virtio::block::DRIVE;

/// Chips that a board has at most.
pub const UNITS_MAX: usize = 2;

/// Bytes of a sector, the unit of erasing and of a chip's size.
pub const SECTOR: usize = 4096;

/// Bytes of all chips at most.
pub const SIZE_MAX: usize = 8 << 20;

/// Bytes of the write buffer, which are programmed together.
const BUFFER: usize = 256;

/// Chips as firmware finds them.
pub static CLASS: DeviceClass = DeviceClass {
    name: "cfi.pflash01",
    parent: "sys-bus-device",
    bus: None,
    doc: "system flash",
    user_creatable: false,
    properties: &[
        DRIVE,
        Property {
            name: "name",
            kind: PropertyKind::Text,
            default: Value::Unset,
            doc: "which chip of the board it is",
        },
        Property {
            name: "num-blocks",
            kind: PropertyKind::Uint32,
            default: Value::Uint(0),
            doc: "sectors",
        },
        Property {
            name: "sector-length",
            kind: PropertyKind::Uint64,
            default: Value::Uint(0),
            doc: "bytes of a sector",
        },
        Property {
            name: "width",
            kind: PropertyKind::Uint8,
            default: Value::Uint(0),
            doc: "bytes of its data bus",
        },
    ],
};

/// Commands (290606, table 4).
mod command {
    pub(super) const READ_ARRAY_LEGACY: u8 = 0x00;
    pub(super) const PROGRAM_ALTERNATE: u8 = 0x10;
    pub(super) const BLOCK_ERASE: u8 = 0x20;
    pub(super) const PROGRAM: u8 = 0x40;
    pub(super) const CLEAR_STATUS: u8 = 0x50;
    pub(super) const LOCK_SETUP: u8 = 0x60;
    pub(super) const READ_STATUS: u8 = 0x70;
    pub(super) const READ_IDENTIFIER: u8 = 0x90;
    pub(super) const READ_QUERY: u8 = 0x98;
    pub(super) const WRITE_TO_BUFFER: u8 = 0xe8;
    /// AMD's command set; firmware tries it to find out which one a chip has.
    pub(super) const AMD_RESET: u8 = 0xf0;
    pub(super) const READ_ARRAY: u8 = 0xff;
    /// The second cycle of locking a block.
    pub(super) const SET_LOCK: u8 = 0x01;
    /// The second cycle of what has to be confirmed.
    pub(super) const CONFIRM: u8 = 0xd0;
}

/// Status register (290606, table 14).
mod status {
    /// SR.7: the chip is ready.
    pub(super) const READY: u8 = 1 << 7;
    /// SR.5: erasing failed.
    pub(super) const ERASE_ERROR: u8 = 1 << 5;
    /// SR.4: programming failed.
    pub(super) const PROGRAM_ERROR: u8 = 1 << 4;
}

/// The query structure (JESD68.01, table 1) from offset 10h on, but for what depends on the chip's size.
const QUERY: &[u8; 0x30] = &[
    b'Q', b'R', b'Y', // 10h
    0x01, 0x00, // 13h: Intel's command set
    0x31, 0x00, // 15h: where its own table is
    0x00, 0x00, 0x00, 0x00, // 17h: no other command set
    0x45, 0x55, 0x00, 0x00, // 1Bh: 4.5 to 5.5 V, no programming voltage
    0x07, 0x07, 0x0a, 0x00, // 1Fh: 128 us a byte or a buffer, 1 s a sector
    0x04, 0x04, 0x04, 0x00, // 23h: 16 times as long at most
    0x00, // 27h: size, a power of two
    0x02, 0x00, // 28h: 8 and 16 bits wide
    0x08, 0x00, // 2Ah: bytes of the write buffer, a power of two
    0x01, // 2Ch: one region of sectors
    0x00, 0x00, // 2Dh: its sectors less one
    0x10, 0x00, // 2Fh: bytes of a sector in units of 256
    b'P', b'R', b'I', b'1', b'0', // 31h: Intel's table, version 1.0
    0, 0, 0, 0, 0, 0, 0, 0, 0,    // 36h: no optional features
    0x01, // 3Fh: one register of protection
];
/// Where [`QUERY`] begins.
const QUERY_BASE: u32 = 0x10;
/// Offset of the chip's size in the query structure.
const QUERY_SIZE: u32 = 0x27;
/// Offset of the number of sectors less one, two bytes.
const QUERY_SECTORS: u32 = 0x2d;

/// What reads give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// The contents.
    #[default]
    Array,
    Status,
    Identifier,
    Query,
}

/// What the next write is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    /// A command.
    #[default]
    Command,
    /// The end of the query, if it is [`command::READ_ARRAY`].
    QueryEnd,
    ProgramData,
    EraseConfirm,
    LockConfirm,
    /// Number of writes to the buffer, less one.
    BufferCount,
    /// One of these writes.
    BufferData {
        /// How many follow it.
        left: u8,
    },
    BufferConfirm,
}

/// Bytes of the write buffer in arrays of a size that serde takes.
type Buffer = [[u8; 32]; BUFFER / 32];

/// All that the guest has done, but for the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    mode: Mode,
    step: Step,
    status: u8,
    /// Where the buffer's bytes belong, a multiple of [`BUFFER`].
    block: u32,
    buffer: Buffer,
}

impl Default for State {
    fn default() -> Self {
        Self {
            mode: Mode::Array,
            step: Step::Command,
            status: status::READY,
            block: 0,
            buffer: Buffer::default(),
        }
    }
}

/// A chip.
#[derive(Debug)]
pub struct Pflash<'m> {
    unit: u8,
    read_only: bool,
    cells: &'m [AtomicU8],
    state: State,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    size: u32,
    mode: Mode,
    step: Step,
    status: u8,
    block: u32,
    /// Nothing unless a write to the buffer is going on.
    buffer: Option<Buffer>,
}

impl Pflash<'_> {
    /// What the drive of a chip is known by, by the chip's number. No requests go by it.
    pub const fn drive(unit: u8) -> DriveId {
        DriveId(u8::MAX - unit)
    }
}

impl<'m> Pflash<'m> {
    /// Chip number `unit` with these contents: whole sectors, at most [`SIZE_MAX`] bytes. One that is
    /// read-only fails to program and erase.
    pub const fn new(unit: u8, cells: &'m [AtomicU8], read_only: bool) -> Self {
        Self {
            unit,
            read_only,
            cells,
            state: State {
                mode: Mode::Array,
                step: Step::Command,
                status: status::READY,
                block: 0,
                buffer: [[0; 32]; BUFFER / 32],
            },
        }
    }

    /// Gives the array, as after power-on. The contents stay.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        trace::pflash_reset(self.name().as_bytes());
        if !self.is_array() {
            cx.effects.push(Effect::RemapMemory);
        }
        self.state = State::default();
    }

    /// Its number.
    pub const fn unit(&self) -> u8 {
        self.unit
    }

    /// What QEMU calls the chip.
    pub const fn name(&self) -> &'static str {
        match self.unit {
            0 => "system.flash0",
            _ => "system.flash1",
        }
    }

    /// The contents.
    pub const fn cells(&self) -> &'m [AtomicU8] {
        self.cells
    }

    /// Whether the chip gives its contents, so that processors may read them as memory.
    pub fn is_array(&self) -> bool {
        self.state.mode == Mode::Array
    }

    /// Reads at an offset, at most 4 bytes; those behind the end read 0.
    pub fn read(&self, offset: u32, width: Width) -> u32 {
        let value = match self.state.mode {
            Mode::Array => {
                let bytes = self.cells.get(offset as usize..).unwrap_or(&[]);
                let bytes = bytes.iter().take(width as usize).rev();
                bytes.fold(0, |value, cell| {
                    value << 8 | u32::from(cell.load(Ordering::Relaxed))
                })
            }
            // Two chips of 16 bits side by side would answer so.
            Mode::Status if width == Width::Dword => u32::from(self.state.status) * 0x1_0001,
            Mode::Status => self.state.status.into(),
            Mode::Identifier => 0,
            Mode::Query => self.query(offset & 0xff).into(),
        };
        trace::pflash_io_read(offset, width.bytes(), value, self.name().as_bytes());
        value
    }

    fn query(&self, offset: u32) -> u8 {
        let size = self.cells.len() as u32;
        let sectors = (size / SECTOR as u32).wrapping_sub(1).to_le_bytes();
        match offset {
            QUERY_SIZE => size.trailing_zeros() as u8,
            QUERY_SECTORS => sectors[0],
            _ if offset == QUERY_SECTORS + 1 => sectors[1],
            _ => {
                let at = offset.checked_sub(QUERY_BASE);
                let byte = at.and_then(|at| QUERY.get(at as usize));
                byte.copied().unwrap_or(0)
            }
        }
    }

    /// Writes at an offset, at most 4 bytes: a command, in the low byte, or what one asks for.
    pub fn write(&mut self, cx: &mut Context<'_>, offset: u32, width: Width, value: u32) {
        trace::pflash_io_write(offset, width.bytes(), value, self.name().as_bytes());
        let before = self.is_array();
        let low = value as u8;
        match self.state.step {
            Step::Command => self.command(cx, offset, low),
            Step::QueryEnd if low != command::READ_ARRAY => {}
            Step::ProgramData => {
                self.state.step = Step::Command;
                self.program(cx, offset, width, value);
            }
            Step::EraseConfirm if low == command::CONFIRM => self.finish(),
            Step::LockConfirm if matches!(low, command::CONFIRM | command::SET_LOCK) => {
                self.finish();
            }
            Step::BufferCount => self.begin_buffer(offset, low),
            Step::BufferData { left } => {
                self.state.step = match left.checked_sub(1) {
                    Some(left) => Step::BufferData { left },
                    None => Step::BufferConfirm,
                };
                self.fill_buffer(offset, width, value);
            }
            Step::BufferConfirm
                if low == command::CONFIRM && self.state.status & status::PROGRAM_ERROR == 0 =>
            {
                self.flush_buffer(cx);
                self.finish();
            }
            Step::QueryEnd | Step::EraseConfirm | Step::LockConfirm | Step::BufferConfirm => {
                self.give_array();
            }
        }
        if self.is_array() != before {
            cx.effects.push(Effect::RemapMemory);
        }
    }

    fn command(&mut self, cx: &mut Context<'_>, offset: u32, command: u8) {
        use command::*;
        let (mode, step) = match command {
            PROGRAM | PROGRAM_ALTERNATE => (Mode::Status, Step::ProgramData),
            BLOCK_ERASE => {
                self.erase(cx, offset);
                (Mode::Status, Step::EraseConfirm)
            }
            LOCK_SETUP => (Mode::Status, Step::LockConfirm),
            READ_STATUS => (Mode::Status, Step::Command),
            READ_IDENTIFIER => (Mode::Identifier, Step::Command),
            READ_QUERY => (Mode::Query, Step::QueryEnd),
            WRITE_TO_BUFFER => {
                self.state.status |= status::READY;
                (Mode::Status, Step::BufferCount)
            }
            CLEAR_STATUS => {
                self.state.status = 0;
                return self.give_array();
            }
            READ_ARRAY | READ_ARRAY_LEGACY | AMD_RESET => return self.give_array(),
            _ => {
                trace::pflash_write_unknown(offset, command, self.name().as_bytes());
                return self.give_array();
            }
        };
        self.state.mode = mode;
        self.state.step = step;
    }

    fn give_array(&mut self) {
        trace::pflash_mode_read_array(self.name().as_bytes());
        self.state.mode = Mode::Array;
        self.state.step = Step::Command;
    }

    /// A command of several cycles is done.
    fn finish(&mut self) {
        self.state.step = Step::Command;
        self.state.status |= status::READY;
    }

    fn program(&mut self, cx: &mut Context<'_>, offset: u32, width: Width, value: u32) {
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..width as usize).unwrap_or(&bytes);
        self.store(cx, offset, bytes, status::PROGRAM_ERROR);
        self.state.status |= status::READY;
    }

    fn erase(&mut self, cx: &mut Context<'_>, offset: u32) {
        let begin = offset & !(SECTOR as u32 - 1);
        trace::pflash_write_block_erase(begin, SECTOR, self.name().as_bytes());
        self.store(cx, begin, &[0xff; SECTOR], status::ERASE_ERROR);
        self.state.status |= status::READY;
    }

    /// Changes contents, or notes the error where they can't be changed.
    fn store(&mut self, cx: &mut Context<'_>, offset: u32, bytes: &[u8], error: u8) {
        if self.read_only {
            self.state.status |= error;
            return;
        }
        let cells = self.cells.get(offset as usize..).unwrap_or(&[]);
        for (cell, byte) in cells.iter().zip(bytes) {
            cell.store(*byte, Ordering::Relaxed);
        }
        cx.effects.push(Effect::FlashChanged {
            unit: self.unit,
            offset,
            length: bytes.len().min(cells.len()) as u16,
        });
    }

    /// The host could not keep what was changed last.
    pub fn store_failed(&mut self) {
        self.state.status |= match self.state.step {
            Step::EraseConfirm => status::ERASE_ERROR,
            _ => status::PROGRAM_ERROR,
        };
    }

    fn begin_buffer(&mut self, offset: u32, left: u8) {
        self.state.step = Step::BufferData { left };
        self.state.block = offset & !(BUFFER as u32 - 1);
        let cells = self.cells.get(self.state.block as usize..).unwrap_or(&[]);
        let bytes = self.state.buffer.as_flattened_mut();
        for (byte, cell) in bytes.iter_mut().zip(cells) {
            *byte = cell.load(Ordering::Relaxed);
        }
    }

    fn fill_buffer(&mut self, offset: u32, width: Width, value: u32) {
        let from = value.to_le_bytes();
        let from = from.get(..width as usize).unwrap_or(&from);
        let at = offset.wrapping_sub(self.state.block) as usize;
        let end = at.saturating_add(from.len());
        match self.state.buffer.as_flattened_mut().get_mut(at..end) {
            Some(to) if !self.read_only => to.copy_from_slice(from),
            _ => self.state.status |= status::PROGRAM_ERROR,
        }
        self.state.status |= status::READY;
    }

    fn flush_buffer(&mut self, cx: &mut Context<'_>) {
        trace::pflash_write_block_flush(self.name().as_bytes());
        let buffer = self.state.buffer;
        let block = self.state.block;
        self.store(cx, block, buffer.as_flattened(), status::PROGRAM_ERROR);
    }

    fn writes_buffer(step: Step) -> bool {
        matches!(step, Step::BufferData { .. } | Step::BufferConfirm)
    }
}

impl SavedState for Pflash<'_> {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State {
            mode,
            step,
            status,
            block,
            buffer,
        } = self.state;
        Saved {
            size: self.cells.len() as u32,
            mode,
            step,
            status,
            block,
            buffer: Self::writes_buffer(step).then_some(buffer),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            size,
            mode,
            step,
            status,
            block,
            buffer,
        } = saved;
        if size as usize != self.cells.len() {
            return Err(StateError::Invalid("size"));
        }
        let fits = match step {
            Step::Command => mode != Mode::Query,
            Step::QueryEnd => mode == Mode::Query,
            _ => mode == Mode::Status,
        };
        if !fits {
            return Err(StateError::Invalid("mode"));
        }
        if !block.is_multiple_of(BUFFER as u32) || block >= size {
            return Err(StateError::Invalid("block"));
        }
        if buffer.is_some() != Self::writes_buffer(step) {
            return Err(StateError::Invalid("buffer"));
        }
        self.state = State {
            mode,
            step,
            status,
            block,
            buffer: buffer.unwrap_or_default(),
        };
        cx.effects.push(Effect::RemapMemory);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use std::vec::Vec;

    const SIZE: usize = 2 * SECTOR;

    fn chip(read_only: bool) -> Pflash<'static> {
        let cells: Vec<AtomicU8> = (0..SIZE).map(|_| AtomicU8::new(0x11)).collect();
        Pflash::new(1, cells.leak(), read_only)
    }

    lifecycle_tests!(Pflash<'static>, chip(false), |device, bench| {
        write(device, bench, 0x1010, 0xe8);
        write(device, bench, 0x1010, 3);
        write(device, bench, 0x1012, 0x77);
    });

    /// Writes a byte; whether the memory map changes, and what contents do.
    fn write(
        device: &mut Pflash<'_>,
        bench: &mut Bench,
        offset: u32,
        value: u8,
    ) -> (bool, Option<(u32, u16)>) {
        write_wide(device, bench, offset, Width::Byte, value.into())
    }

    fn write_wide(
        device: &mut Pflash<'_>,
        bench: &mut Bench,
        offset: u32,
        width: Width,
        value: u32,
    ) -> (bool, Option<(u32, u16)>) {
        device.write(&mut bench.context(), offset, width, value);
        let (mut remaps, mut changed) = (false, None);
        while let Some(effect) = bench.effects.take() {
            match effect {
                Effect::RemapMemory => remaps = true,
                Effect::FlashChanged {
                    unit: 1,
                    offset,
                    length,
                } => changed = Some((offset, length)),
                other => panic!("{other:?}"),
            }
        }
        (remaps, changed)
    }

    fn byte(device: &Pflash<'_>, offset: u32) -> u32 {
        device.read(offset, Width::Byte)
    }

    #[test]
    fn modes_come_and_go() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        for (enter, reads) in [(0x70, 0x80), (0x90, 0), (0x98, 0), (0x40, 0x80)] {
            assert_eq!(write(&mut device, &mut bench, 0, enter), (true, None));
            assert!(!device.is_array());
            assert_eq!(byte(&device, 0), reads, "{enter:#x}");
            device.reset(&mut bench.context());
            assert_eq!(bench.effects.take(), Some(Effect::RemapMemory));
            assert_eq!(byte(&device, 0), 0x11);
        }
        for none in [0x00, 0xff, 0xf0, 0x50, 0x28, 0xd0, 0x01, 0xb0, 0x33] {
            assert_eq!(write(&mut device, &mut bench, 0, none), (false, None));
            assert!(device.is_array(), "{none:#x}");
        }
        device.reset(&mut bench.context());
        assert_eq!(bench.effects.take(), None);
    }

    /// Observed with QEMU 7.2: a chip of 8 KiB.
    #[test]
    fn query_tells_of_the_chip() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        write(&mut device, &mut bench, 0, 0x98);
        let read = |offset| byte(&device, offset) as u8;
        assert_eq!([read(0x10), read(0x11), read(0x112)], *b"QRY");
        assert_eq!(
            [read(0x27), read(0x2a), read(0x2d), read(0x2f)],
            [13, 8, 1, 0x10]
        );
        assert_eq!([read(0x31), read(0x35), read(0x3f)], [b'P', b'0', 1]);
        assert_eq!((0..0x10).chain(0x40..0x100).find(|at| read(*at) != 0), None);
        assert_eq!(device.read(0x10, Width::Dword), u32::from(b'Q'));
        write(&mut device, &mut bench, 0, 0x70);
        assert_eq!(byte(&device, 0x10), u32::from(b'Q'), "only FFh ends it");
        write(&mut device, &mut bench, 0, 0xff);
        assert!(device.is_array());
    }

    #[test]
    fn programming_changes_contents_and_tells_where() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        write(&mut device, &mut bench, 0x1ff0, 0x40);
        let value = 0x1234_5678;
        let done = write_wide(&mut device, &mut bench, 0x1ffc, Width::Dword, value);
        assert_eq!(done, (false, Some((0x1ffc, 4))));
        assert_eq!(device.read(0, Width::Dword), 0x0080_0080);
        assert_eq!(device.read(0, Width::Word), 0x80);
        assert_eq!(write(&mut device, &mut bench, 0, 0xff), (true, None));
        assert_eq!(device.read(0x1ffc, Width::Dword), 0x1234_5678);
        write(&mut device, &mut bench, 0, 0x10);
        // Bits can be set, too.
        assert_eq!(write(&mut device, &mut bench, 3, 0xff).1, Some((3, 1)));
        write(&mut device, &mut bench, 0, 0xff);
        assert_eq!(byte(&device, 3), 0xff);
    }

    #[test]
    fn a_sector_is_erased_by_the_first_cycle() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        let erased = write(&mut device, &mut bench, 0x1234, 0x20);
        assert_eq!(erased, (true, Some((0x1000, 0x1000))));
        assert_eq!(write(&mut device, &mut bench, 0, 0xd0), (false, None));
        assert_eq!(byte(&device, 0), 0x80);
        write(&mut device, &mut bench, 0, 0xff);
        assert_eq!([byte(&device, 0xfff), byte(&device, 0x1000)], [0x11, 0xff]);
        assert_eq!(byte(&device, 0x1fff), 0xff);
    }

    #[test]
    fn the_buffer_is_written_at_once_or_not_at_all() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        let fill = |device: &mut Pflash<'_>, bench: &mut Bench, at: [u32; 2]| {
            write(device, bench, 0x10, 0xe8);
            write(device, bench, 0x210, 1);
            for at in at {
                assert_eq!(write(device, bench, at, 0x77), (false, None));
            }
        };
        fill(&mut device, &mut bench, [0x210, 0x2ff]);
        assert_eq!(
            write(&mut device, &mut bench, 0, 0xd0),
            (false, Some((0x200, 0x100)))
        );
        assert_eq!(byte(&device, 0), 0x80);
        write(&mut device, &mut bench, 0, 0xff);
        assert_eq!([byte(&device, 0x210), byte(&device, 0x211)], [0x77, 0x11]);
        // Another command than the confirmation.
        fill(&mut device, &mut bench, [0x220, 0x221]);
        assert_eq!(write(&mut device, &mut bench, 0, 0x70), (true, None));
        assert_eq!(byte(&device, 0x220), 0x11);
        // A byte of another block.
        fill(&mut device, &mut bench, [0x220, 0x300]);
        assert_eq!(byte(&device, 0), 0x90);
        assert_eq!(write(&mut device, &mut bench, 0, 0xd0), (true, None));
        assert_eq!(byte(&device, 0x220), 0x11);
    }

    #[test]
    fn what_is_read_only_says_so() {
        let (mut device, mut bench) = (chip(true), Bench::new());
        write(&mut device, &mut bench, 0, 0x40);
        assert_eq!(write(&mut device, &mut bench, 0, 0x77), (false, None));
        assert_eq!(byte(&device, 0), 0x90);
        assert_eq!(write(&mut device, &mut bench, 0, 0x20), (false, None));
        assert_eq!(byte(&device, 0), 0xb0);
        write(&mut device, &mut bench, 0, 0xd0);
        write(&mut device, &mut bench, 0, 0x50);
        assert_eq!(byte(&device, 0), 0x11);
        write(&mut device, &mut bench, 0, 0xe8);
        write(&mut device, &mut bench, 0, 0);
        write(&mut device, &mut bench, 0, 0x55);
        assert_eq!(byte(&device, 0), 0x90);
        assert_eq!(write(&mut device, &mut bench, 0, 0xd0), (true, None));
        assert_eq!(byte(&device, 0), 0x11);
    }

    #[test]
    fn the_host_s_failures_show() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        write(&mut device, &mut bench, 0, 0x20);
        device.store_failed();
        assert_eq!(byte(&device, 0), 0xa0);
        write(&mut device, &mut bench, 0, 0xd0);
        write(&mut device, &mut bench, 0, 0x40);
        write(&mut device, &mut bench, 0, 0x40);
        device.store_failed();
        assert_eq!(byte(&device, 0), 0xb0);
    }

    #[test]
    fn locks_are_taken_and_hold_nothing() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        for second in [0x01, 0xd0] {
            write(&mut device, &mut bench, 0, 0x60);
            assert_eq!(write(&mut device, &mut bench, 0, second), (false, None));
            assert_eq!(byte(&device, 0), 0x80);
        }
        write(&mut device, &mut bench, 0, 0x60);
        assert_eq!(write(&mut device, &mut bench, 0, 0x2f), (true, None));
        write(&mut device, &mut bench, 0, 0x40);
        assert!(write(&mut device, &mut bench, 5, 0x66).1.is_some());
    }

    #[test]
    fn impossible_states_are_refused() {
        let (mut device, mut bench) = (chip(false), Bench::new());
        let mut refused = |change: fn(&mut Saved)| {
            let mut saved = device.save();
            change(&mut saved);
            device.load(saved, &mut bench.context()).unwrap_err()
        };
        assert_eq!(refused(|s| s.size = 4096), StateError::Invalid("size"));
        assert_eq!(
            refused(|s| s.mode = Mode::Query),
            StateError::Invalid("mode")
        );
        assert_eq!(
            refused(|s| s.step = Step::QueryEnd),
            StateError::Invalid("mode")
        );
        assert_eq!(refused(|s| s.block = 5), StateError::Invalid("block"));
        assert_eq!(refused(|s| s.block = 0x4000), StateError::Invalid("block"));
        let buffer = refused(|s| s.buffer = Some(Buffer::default()));
        assert_eq!(buffer, StateError::Invalid("buffer"));
    }
}
