//! The pair of 8237A DMA controllers of a PC: channels 0 to 3 move bytes, 5 to 7 words, and channel 4 joins the first
//! controller to the second.
//!
//! Follows Intel's 8237A datasheet and, for the page registers, the IBM PC AT technical reference: bits 16 to 23 of an address
//! stand in a register outside the chip, so that a transfer wraps around within its 64 KiB, or 128 KiB for words. The second
//! controller's registers are two ports apart.
//!
//! Where QEMU's machine shows other than the datasheet says, it is followed: counting begins when the high byte of an address
//! or a count is written; commands for what is not modelled are lost; the mask can be read at register 9; a
//! channel is not masked at its terminal count, and stands still instead until it is set up again.
//!
//! A transfer takes no time. A device with a request raises its channel's line ([`Dma::set_request`]), asks what the guest has
//! allowed ([`Dma::granted`]), and moves bytes in pieces of any size; who has the last byte moved is told so.
//!
//! Not modelled: memory-to-memory transfers, fixed addresses, compressed timing, rotating priority and other polarities, which
//! no PC's firmware uses; the single, block and demand modes are one, since time does not go on between two bytes; what
//! channel 4 is set to has no effect on the first controller. The page registers for bits 24 to 31, which the PIIX3 has at
//! 481h, are not there, as in QEMU's `pc`.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, PortDevice, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// The ports: where a range begins, and how many there are. Channels, then control registers, of both controllers; then the
/// page registers. A port is its own offset.
pub const PORTS: [(u8, u16); 8] = [
    (0x00, 0x08),
    (0x08, 0x08),
    (0xc0, 0x10),
    (0xd0, 0x10),
    (0x81, 3),
    (0x87, 1),
    (0x89, 3),
    (0x8f, 1),
];

/// What QEMU calls the registers of the range that begins at a port.
pub const fn range_name(base: u8) -> &'static str {
    match base {
        0x00 | 0xc0 => "dma-chan",
        0x08 | 0xd0 => "dma-cont",
        _ => "dma-page",
    }
}

/// Channels of both controllers.
pub const CHANNELS: usize = 8;

/// What `-device` knows of each controller.
pub static CLASS: DeviceClass = DeviceClass {
    name: "i8257",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "ISA DMA controller",
    user_creatable: false,
    properties: &[
        property("base", PropertyKind::Int32, Value::Int(0), "first port"),
        property(
            "dshift",
            PropertyKind::Int32,
            Value::Int(0),
            "1 where it moves words",
        ),
        property(
            "page-base",
            PropertyKind::Int32,
            Value::Int(0x80),
            "first port of bits 16 to 23",
        ),
        property(
            "pageh-base",
            PropertyKind::Int32,
            Value::Int(0x480),
            "first port of bits 24 to 31, where they are",
        ),
    ],
};

const fn property(
    name: &'static str,
    kind: PropertyKind,
    default: Value,
    doc: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default,
        doc,
    }
}

/// Registers of a controller behind those of its channels.
mod register {
    /// Status when read, command when written.
    pub(super) const STATUS_COMMAND: u16 = 0x8;
    /// Mask of all channels when read, request when written.
    pub(super) const REQUEST: u16 = 0x9;
    /// One bit of the mask.
    pub(super) const SINGLE_MASK: u16 = 0xa;
    /// Mode of a channel.
    pub(super) const MODE: u16 = 0xb;
    pub(super) const CLEAR_FLIP_FLOP: u16 = 0xc;
    pub(super) const MASTER_CLEAR: u16 = 0xd;
    pub(super) const CLEAR_MASK: u16 = 0xe;
    pub(super) const ALL_MASK: u16 = 0xf;
}

/// In a command: the controller does nothing.
const COMMAND_DISABLE: u8 = 1 << 2;

/// In the request and single-mask registers: set, not clear.
const SET: u8 = 1 << 2;

/// In a mode: the address goes down.
const MODE_DECREMENT: u8 = 1 << 5;
/// In a mode: at terminal count the channel starts over.
const MODE_AUTOINIT: u8 = 1 << 4;

/// Which channel of a controller the page register at 80h, or 88h, and this many ports on belongs to.
const PAGE_CHANNELS: [Option<u8>; 8] = [None, Some(2), Some(3), Some(1), None, None, None, Some(0)];

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device's bytes are counted and thrown away, and it gets zeros.
    Verify,
    /// From the device to guest memory: the datasheet's write transfer.
    ToMemory,
    /// From guest memory to the device.
    FromMemory,
}

/// What the guest lets a device do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which way.
    pub direction: Direction,
    /// Bytes until terminal count, 1 to 131,072.
    pub bytes: u32,
}

/// What became of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were moved or, without memory behind the address, lost.
    pub bytes: usize,
    /// That was all that the guest had asked for: the device sees TC.
    pub terminal_count: bool,
}

/// Both controllers with their page registers.
#[derive(Debug, Default)]
pub struct Dma {
    state: State,
}

/// What the guest and devices change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    controllers: [Controller; 2],
    channels: [Channel; CHANNELS],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Controller {
    command: u8,
    mask: u8,
    /// Channels that the guest wants to run.
    requested: u8,
    /// Channels whose devices want to.
    dreq: u8,
    /// Channels that have come to their terminal count since the status was read.
    terminal_count: u8,
    /// Whether the next byte of an address or a count is the high one.
    high_byte: bool,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            command: 0,
            mask: 0xff,
            requested: 0,
            dreq: 0,
            terminal_count: 0,
            high_byte: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
    base_address: u16,
    base_count: u16,
    /// In units of the channel, as the guest has written it.
    address: u16,
    /// Units that were moved since the counting began, at most 10000h.
    moved: u32,
    mode: u8,
    page: u8,
}

/// Saved form of [`Dma`], version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedDma {
    controllers: [Controller; 2],
    channels: [Channel; CHANNELS],
}

impl Channel {
    fn start_over(&mut self) {
        self.address = self.base_address;
        self.moved = 0;
    }

    /// All units that the guest wants to be moved, 1 to 10000h.
    fn whole(&self) -> u32 {
        u32::from(self.base_count) + 1
    }

    /// Units that are to be moved until terminal count.
    fn left(&self) -> u32 {
        self.whole().saturating_sub(self.moved)
    }

    fn direction(&self) -> Option<Direction> {
        match self.mode >> 2 & 3 {
            0 => Some(Direction::Verify),
            1 => Some(Direction::ToMemory),
            2 => Some(Direction::FromMemory),
            _ => None,
        }
    }
}

/// Words, for the channels of the second controller.
const fn shift(channel: usize) -> u32 {
    (channel >= 4) as u32
}

impl Dma {
    /// Controllers after power-on, all channels masked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Masks all channels and forgets what they were set to.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.state = State::default();
    }

    /// A device raises or drops its request for a channel below [`CHANNELS`].
    pub fn set_request(&mut self, channel: usize, raised: bool) {
        if let Some(controller) = self.state.controllers.get_mut(channel / 4) {
            let bit = 1 << (channel % 4);
            match raised {
                true => controller.dreq |= bit,
                false => controller.dreq &= !bit,
            }
        }
    }

    /// What a device with a request on a channel may move now; `None` while the channel is masked, its controller disabled, or
    /// its terminal count was reached.
    pub fn granted(&self, channel: usize) -> Option<Grant> {
        let controller = self.state.controllers.get(channel / 4)?;
        let state = self.state.channels.get(channel)?;
        let bit = 1 << (channel % 4);
        let wanted = (controller.dreq | controller.requested) & bit != 0;
        let held = controller.mask & bit != 0 || controller.command & COMMAND_DISABLE != 0;
        if !wanted || held || state.left() == 0 {
            return None;
        }
        Some(Grant {
            direction: state.direction()?,
            bytes: state.left() << shift(channel),
        })
    }

    /// Moves bytes of a device to guest memory as far as it is allowed to. Of the channels for words, an odd last byte stays.
    pub fn to_memory(&mut self, cx: &mut Context<'_>, channel: usize, from: &[u8]) -> Moved {
        self.transfer(channel, from.len(), |direction, gpa, at, length| {
            let piece = from.get(at..at + length).unwrap_or_default();
            if direction == Direction::ToMemory {
                // What no RAM is behind takes nothing.
                let _ = cx.ram.write(gpa, piece);
            }
        })
    }

    /// Moves bytes of guest memory to a device as far as it is allowed to; where there is no RAM they are ones. Of the channels
    /// for words, an odd last byte stays.
    pub fn from_memory(&mut self, cx: &mut Context<'_>, channel: usize, to: &mut [u8]) -> Moved {
        self.transfer(channel, to.len(), |direction, gpa, at, length| {
            let piece = to.get_mut(at..at + length).unwrap_or_default();
            if direction != Direction::FromMemory {
                piece.fill(0);
            } else if cx.ram.read(gpa, piece).is_err() {
                piece.fill(0xff);
            }
        })
    }

    /// Calls `copy` for pieces that lie together in memory: the direction, the first address, and where the piece begins and
    /// how long it is.
    fn transfer(
        &mut self,
        channel: usize,
        wanted: usize,
        mut copy: impl FnMut(Direction, u64, usize, usize),
    ) -> Moved {
        let Some(grant) = self.granted(channel) else {
            return Moved::default();
        };
        let shift = shift(channel);
        let state = &mut self.state.channels[channel];
        // Bits 0 of words' pages are not connected: they are bits of the address.
        let page = u64::from(state.page) << 16 & !(0x1_0000 * u64::from(shift));
        let mut units = (wanted.min(grant.bytes as usize) >> shift) as u32;
        let mut done = 0;
        while units > 0 {
            let (run, next) = match state.mode & MODE_DECREMENT {
                0 => {
                    let run = units.min(0x1_0000 - u32::from(state.address));
                    (run, state.address.wrapping_add(run as u16))
                }
                _ => (1, state.address.wrapping_sub(1)),
            };
            let length = (run << shift) as usize;
            let gpa = page | u64::from(state.address) << shift;
            copy(grant.direction, gpa, done, length);
            state.address = next;
            state.moved += run;
            units -= run;
            done += length;
        }
        let terminal_count = state.left() == 0;
        if terminal_count {
            if state.mode & MODE_AUTOINIT != 0 {
                state.start_over();
            }
            let controller = &mut self.state.controllers[channel / 4];
            let bit = 1 << (channel % 4);
            controller.terminal_count |= bit;
            controller.requested &= !bit;
        }
        Moved {
            bytes: done,
            terminal_count,
        }
    }

    fn page(&mut self, offset: u16) -> Option<&mut u8> {
        let first = usize::from(offset >> 3 & 1) * 4;
        let channel = PAGE_CHANNELS[usize::from(offset & 7)]?;
        let channel = first + usize::from(channel);
        self.state.channels.get_mut(channel).map(|c| &mut c.page)
    }

    /// Tells of a channel that runs without a device: what the guest asked for is not going to happen.
    fn tell_idle(&self, first: usize) {
        for channel in first..first + 4 {
            let is_requested = self.state.controllers[first / 4].requested >> (channel - first) & 1;
            if is_requested != 0
                && let Some(grant) = self.granted(channel)
            {
                let state = &self.state.channels[channel];
                let whole = state.whole() << shift(channel);
                let position = whole.saturating_sub(grant.bytes);
                trace::i8257_unregistered_dma(channel, position, whole);
            }
        }
    }

    fn read_register(&mut self, index: usize, offset: u16) -> u8 {
        let controller = &mut self.state.controllers[index];
        match offset {
            0..8 => {
                let high = controller.high_byte;
                controller.high_byte = !high;
                let channel = &self.state.channels[index * 4 + usize::from(offset / 2)];
                let value = match offset & 1 {
                    0 => channel.address,
                    _ => channel.base_count.wrapping_sub(channel.moved as u16),
                };
                value.to_le_bytes()[usize::from(high)]
            }
            register::STATUS_COMMAND => {
                let done = core::mem::take(&mut controller.terminal_count);
                done | (controller.requested | controller.dreq) << 4
            }
            register::REQUEST => controller.mask,
            _ => 0,
        }
    }

    fn write_register(&mut self, index: usize, offset: u16, value: u8) {
        let controller = &mut self.state.controllers[index];
        let bit = 1 << (value & 3);
        match offset {
            0..8 => {
                let high = controller.high_byte;
                controller.high_byte = !high;
                let channel = &mut self.state.channels[index * 4 + usize::from(offset / 2)];
                let base = match offset & 1 {
                    0 => &mut channel.base_address,
                    _ => &mut channel.base_count,
                };
                let mut bytes = base.to_le_bytes();
                bytes[usize::from(high)] = value;
                *base = u16::from_le_bytes(bytes);
                if high {
                    channel.start_over();
                }
            }
            register::STATUS_COMMAND if value & !COMMAND_DISABLE == 0 => {
                controller.command = value;
            }
            register::REQUEST => {
                match value & SET {
                    0 => controller.requested &= !bit,
                    _ => controller.requested |= bit,
                }
                controller.terminal_count &= !bit;
                self.tell_idle(index * 4);
            }
            register::SINGLE_MASK => {
                match value & SET {
                    0 => controller.mask &= !bit,
                    _ => controller.mask |= bit,
                }
                self.tell_idle(index * 4);
            }
            register::MODE => {
                self.state.channels[index * 4 + usize::from(value & 3)].mode = value;
            }
            register::CLEAR_FLIP_FLOP => controller.high_byte = false,
            register::MASTER_CLEAR => {
                *controller = Controller {
                    // The devices' lines are not the controller's.
                    dreq: controller.dreq,
                    ..Controller::default()
                };
            }
            register::CLEAR_MASK => {
                controller.mask = 0;
                self.tell_idle(index * 4);
            }
            register::ALL_MASK => {
                controller.mask = value;
                self.tell_idle(index * 4);
            }
            _ => {}
        }
    }
}

/// What is at a port.
enum Place {
    /// A register of a controller, by their numbers.
    Register(usize, u16),
    /// A page register.
    Page,
}

fn place(offset: u16) -> Place {
    match offset {
        0x00..0x10 => Place::Register(0, offset),
        0xc0..0xe0 => Place::Register(1, (offset - 0xc0) >> 1),
        _ => Place::Page,
    }
}

impl PortDevice for Dma {
    fn pio_read(&mut self, _cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        let value = match place(offset) {
            Place::Register(index, register) => self.read_register(index, register),
            Place::Page => self.page(offset).map_or(0, |page| *page),
        };
        value.into()
    }

    fn pio_write(&mut self, _cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        let value = value as u8;
        match place(offset) {
            Place::Register(index, register) => self.write_register(index, register, value),
            Place::Page => {
                if let Some(page) = self.page(offset) {
                    *page = value;
                }
            }
        }
    }
}

impl SavedState for Dma {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = SavedDma;

    fn save(&self) -> SavedDma {
        let State {
            controllers,
            channels,
        } = self.state.clone();
        SavedDma {
            controllers,
            channels,
        }
    }

    fn load(&mut self, saved: SavedDma, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedDma {
            controllers,
            channels,
        } = saved;
        if channels.iter().any(|channel| channel.moved > 0x1_0000) {
            return Err(StateError::Invalid("count"));
        }
        let nibble = |bits: u8| bits < 0x10;
        for controller in &controllers {
            let Controller {
                command,
                mask: _,
                requested,
                dreq,
                terminal_count,
                high_byte: _,
            } = *controller;
            if command & !COMMAND_DISABLE != 0 {
                return Err(StateError::Invalid("command"));
            }
            if !(nibble(requested) && nibble(dreq) && nibble(terminal_count)) {
                return Err(StateError::Invalid("requests"));
            }
        }
        self.state = State {
            controllers,
            channels,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::memory::GuestRam;
    use crate::state::{lifecycle_tests, load, save};

    lifecycle_tests!(Dma, Dma::new(), |device, bench| {
        bench.out(device, 0x0a, 2);
        bench.out(device, 0xc4, 0x34);
    });

    /// Sets a channel up: mode without its channel, address, bytes or words less one, page.
    fn set_up(bench: &mut Bench, dma: &mut Dma, channel: u8, mode: u8, at: u32, count: u16) {
        let second = channel >= 4;
        let port = |register: u16| match second {
            false => register,
            true => 0xc0 + 2 * register,
        };
        let local = channel & 3;
        let page = [0x87, 0x83, 0x81, 0x82, 0x8f, 0x8b, 0x89, 0x8a][usize::from(channel)];
        let [low, high] = ((at >> u32::from(second)) as u16).to_le_bytes();
        bench.out(dma, port(register::CLEAR_FLIP_FLOP), 0);
        bench.out(dma, port(register::MODE), mode | local);
        bench.out(dma, port(u16::from(local) * 2), low);
        bench.out(dma, port(u16::from(local) * 2), high);
        let [low, high] = count.to_le_bytes();
        bench.out(dma, port(u16::from(local) * 2 + 1), low);
        bench.out(dma, port(u16::from(local) * 2 + 1), high);
        bench.out(dma, page, (at >> 16) as u8);
        bench.out(dma, port(register::SINGLE_MASK), local);
    }

    fn current(bench: &mut Bench, dma: &mut Dma, register: u16) -> u16 {
        let low = bench.inb(dma, register);
        u16::from_le_bytes([low, bench.inb(dma, register)])
    }

    #[test]
    fn a_device_fills_memory_in_pieces_until_terminal_count() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        set_up(&mut bench, &mut dma, 2, 0x44, 0x1234, 9);
        assert_eq!(dma.granted(2), None);
        dma.set_request(2, true);
        assert_eq!(bench.inb(&mut dma, 8), 0x40);
        let grant = Grant {
            direction: Direction::ToMemory,
            bytes: 10,
        };
        assert_eq!(dma.granted(2), Some(grant));
        let moved = dma.to_memory(&mut bench.context(), 2, b"abcdef");
        assert_eq!((moved.bytes, moved.terminal_count), (6, false));
        assert_eq!(current(&mut bench, &mut dma, 4), 0x123a);
        assert_eq!(current(&mut bench, &mut dma, 5), 3);
        let moved = dma.to_memory(&mut bench.context(), 2, b"ghijkl");
        assert_eq!((moved.bytes, moved.terminal_count), (4, true));
        assert_eq!(current(&mut bench, &mut dma, 5), 0xffff);
        let mut bytes = [0; 12];
        bench.ram.read(0x1233, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0abcdefghij\0");
        // The status tells once, and no more bytes pass.
        assert_eq!(bench.inb(&mut dma, 8), 0x44);
        assert_eq!(bench.inb(&mut dma, 8), 0x40);
        assert_eq!(dma.granted(2), None);
        let moved = dma.to_memory(&mut bench.context(), 2, b"x");
        assert_eq!(moved, Moved::default());
    }

    #[test]
    fn masks_and_commands_hold_requests_back() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        set_up(&mut bench, &mut dma, 1, 0x48, 0, 0);
        dma.set_request(1, true);
        assert!(dma.granted(1).is_some());
        bench.out(&mut dma, 0xa, 5);
        assert_eq!(dma.granted(1), None);
        bench.out(&mut dma, 0xe, 0);
        assert!(dma.granted(1).is_some());
        bench.out(&mut dma, 0x8, COMMAND_DISABLE);
        assert_eq!(dma.granted(1), None);
        bench.out(&mut dma, 0x8, 0);
        // A command that asks for what is not there is lost.
        bench.out(&mut dma, 0x8, COMMAND_DISABLE | 1);
        assert!(dma.granted(1).is_some());
        bench.out(&mut dma, 0xd, 0);
        assert_eq!(dma.granted(1), None);
        assert_eq!(bench.inb(&mut dma, 8), 0x20);
        // A mode that the datasheet calls illegal moves nothing.
        bench.out(&mut dma, 0xe, 0);
        bench.out(&mut dma, 0xb, 0x4d);
        assert_eq!(dma.granted(1), None);
        for channel in [CHANNELS, usize::MAX] {
            dma.set_request(channel, true);
            assert_eq!(dma.granted(channel), None);
        }
    }

    #[test]
    fn transfers_wrap_within_their_page() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        bench.ram.write(0xfffe, b"yz").unwrap();
        bench.ram.write(0, b"ab").unwrap();
        set_up(&mut bench, &mut dma, 3, 0x48, 0xfffe, 0xffff);
        dma.set_request(3, true);
        let mut bytes = [0; 4];
        let moved = dma.from_memory(&mut bench.context(), 3, &mut bytes);
        assert_eq!(moved.bytes, 4);
        assert_eq!(&bytes, b"yzab");
        // Where there is no RAM the bus floats, and writes are lost.
        set_up(&mut bench, &mut dma, 3, 0x48, 0xff_0000, 3);
        dma.from_memory(&mut bench.context(), 3, &mut bytes);
        assert_eq!(bytes, [0xff; 4]);
    }

    #[test]
    fn addresses_go_down_and_channels_start_over() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        let mode = 0x44 | MODE_DECREMENT | MODE_AUTOINIT;
        set_up(&mut bench, &mut dma, 0, mode, 0x103, 3);
        dma.set_request(0, true);
        let moved = dma.to_memory(&mut bench.context(), 0, b"abcdef");
        assert_eq!((moved.bytes, moved.terminal_count), (4, true));
        let mut bytes = [0; 4];
        bench.ram.read(0x100, &mut bytes).unwrap();
        assert_eq!(&bytes, b"dcba");
        assert_eq!(dma.granted(0).map(|grant| grant.bytes), Some(4));
        assert_eq!(current(&mut bench, &mut dma, 0), 0x103);
    }

    #[test]
    fn the_second_controller_moves_words() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        set_up(&mut bench, &mut dma, 5, 0x44, 0x2000, 1);
        // Bit 16 of an address of words is one of the address.
        bench.out(&mut dma, 0x8b, 1);
        dma.set_request(5, true);
        assert_eq!(bench.inb(&mut dma, 0xd0), 0x20);
        assert_eq!(dma.granted(5).map(|grant| grant.bytes), Some(4));
        let moved = dma.to_memory(&mut bench.context(), 5, b"abc");
        assert_eq!(moved.bytes, 2);
        let moved = dma.to_memory(&mut bench.context(), 5, b"cd");
        assert_eq!((moved.bytes, moved.terminal_count), (2, true));
        let mut bytes = [0; 4];
        bench.ram.read(0x2000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"abcd");
    }

    #[test]
    fn verifying_counts_and_touches_nothing() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        set_up(&mut bench, &mut dma, 2, 0x40, 0x100, 1);
        dma.set_request(2, true);
        let moved = dma.to_memory(&mut bench.context(), 2, b"ab");
        assert!(moved.terminal_count);
        let mut bytes = [1; 2];
        bench.ram.read(0x100, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 2]);
    }

    #[test]
    fn impossible_states_are_refused() {
        let (mut bench, mut dma) = (Bench::new(), Dma::new());
        for spoil in [
            (|saved: &mut SavedDma| saved.channels[7].moved = 0x1_0001) as fn(&mut SavedDma),
            |saved| saved.controllers[1].command = 1,
            |saved| saved.controllers[0].dreq = 0x10,
        ] {
            let mut saved = dma.save();
            spoil(&mut saved);
            assert!(dma.load(saved, &mut bench.context()).is_err());
        }
        // In the middle of a transfer it moves.
        set_up(&mut bench, &mut dma, 2, 0x44, 0x100, 3);
        dma.set_request(2, true);
        dma.to_memory(&mut bench.context(), 2, b"ab");
        let mut bytes = [0; 256];
        let length = save(&dma, &mut bytes).unwrap();
        let mut other = Dma::new();
        load(&mut other, &bytes[..length], &mut bench.context()).unwrap();
        let moved = other.to_memory(&mut bench.context(), 2, b"cd");
        assert!(moved.terminal_count);
        let mut bytes = [0; 4];
        bench.ram.read(0x100, &mut bytes).unwrap();
        assert_eq!(&bytes, b"abcd");
    }
}
