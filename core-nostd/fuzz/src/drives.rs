//! Disks and drives for media under a hostile driver.

use thimble_core::devices::block::{Data, DriveId, Failure, Medium, Outcome, Request, SECTOR};
use thimble_core::devices::class::{DeviceClass, PropertyValues};
use thimble_core::devices::{Width, ide};
use thimble_core::machine::{Board, Irqchip, Machine, STATE_MAX};
use thimble_core::virtio::block;

use crate::{Sink, Source, local_apics, machine_without_memories, plant};

/// Where the registers of the virtio disk and of the bus masters are.
const VIRTIO: u64 = 0xfe00_0000;
const LEGACY: u16 = 0xc100;
const MASTER: u16 = 0xc000;
/// Where rings, tables and buffers are: all of them near each other.
const RINGS: u64 = 0x1000;
const RING_BYTES: u64 = 0x4000;
/// Bytes of every medium.
const SIZE: u64 = 1 << 20;
/// Every medium.
const MEDIUM: Medium = Medium {
    bytes: SIZE,
    read_only: false,
    write_cache: true,
};

/// A block layer that keeps requests until it is told how they end.
#[derive(Default)]
pub struct Disks {
    /// Bytes of every medium; 0 while there are no drives.
    size: u64,
    waiting: Vec<(DriveId, u32, usize)>,
}

impl Disks {
    /// Takes a request, which is one that a disk can carry out.
    pub fn take(&mut self, request: Request<'_>) {
        if self.size == 0 {
            return;
        }
        let length = match request.data {
            Data::Guest(pieces) => pieces.iter().map(|piece| u64::from(piece.length)).sum(),
            Data::Write(bytes) => bytes.len() as u64,
            Data::Read | Data::None => request.length,
        };
        assert_eq!(length, request.length, "{request:?}");
        let end = request.offset.checked_add(request.length);
        assert!(end.is_some_and(|end| end <= self.size), "{request:?}");
        let read = match request.data {
            Data::Read => request.length as usize,
            _ => 0,
        };
        let mut others = self.waiting.iter();
        let is_known = others.any(|(drive, tag, _)| (*drive, *tag) == (request.drive, request.tag));
        assert!(!is_known, "{request:?} twice");
        self.waiting.push((request.drive, request.tag, read));
    }

    /// Drops what a drive has under way.
    pub fn cancel(&mut self, drive: DriveId) {
        self.waiting.retain(|request| request.0 != drive);
    }
}

fn configure(
    machine: &mut Machine<'_>,
    host: &mut Sink,
    now: u64,
    devfn: u32,
    register: u32,
    value: u32,
) {
    let address = 1 << 31 | devfn << 8 | register;
    machine.pio_write(host, now, 0xcf8, Width::Dword, address);
    machine.pio_write(host, now, 0xcfc, Width::Dword, value);
}

/// Plugs devices in, each with a medium behind it, and lets their functions answer where the guest expects them.
fn build(
    machine: &mut Machine<'_>,
    host: &mut Sink,
    now: u64,
    classes: &[(&'static DeviceClass, &[(&str, &str)])],
) {
    host.disks.size = SIZE;
    for (class, properties) in classes {
        let mut values = PropertyValues::new(class);
        for (name, text) in *properties {
            values.set(name, text).expect("a property");
        }
        machine.plug(&values).expect("there is room");
        let drive = machine.plugged().last().and_then(|plugged| plugged.drive());
        machine.medium_changed(host, now, drive.expect("a drive"), Some(MEDIUM));
    }
    for (devfn, register, value) in [
        (9 << 3, 0x10, u32::from(LEGACY)),
        (9 << 3, 0x14, VIRTIO as u32 + 0x1_0000),
        (9 << 3, 0x20, VIRTIO as u32),
        (9 << 3, 0x04, 7),
        (1 << 3 | 1, 0x20, u32::from(MASTER)),
        (1 << 3 | 1, 0x04, 5),
    ] {
        configure(machine, host, now, devfn, register, value);
    }
}

/// Brings the virtio disk up with its rings where they like to be.
fn start(machine: &mut Machine<'_>, host: &mut Sink, now: u64, features: u32) {
    let rings = [RINGS, RINGS + 0x1000, RINGS + 0x2000];
    let writes = [
        (0x14, 0_u32),
        (0x14, 3),
        (0x08, 0),
        (0x0c, features << 28),
        (0x08, 1),
        (0x0c, 1 | features & 4 | features << 5 & 0x100),
        (0x14, 11),
        (0x18, 16),
        (0x20, rings[0] as u32),
        (0x28, rings[1] as u32),
        (0x30, rings[2] as u32),
        (0x1c, 1),
        (0x14, 15),
    ];
    for (register, value) in writes {
        let bytes = value.to_le_bytes();
        let length = match register {
            0x14 => 1,
            0x18 | 0x1c => 2,
            _ => 4,
        };
        machine.physical_write(host, now, VIRTIO + register, &bytes[..length]);
    }
}

/// The flag of each side's turn in a packed ring.
const TURNS: [u16; 2] = [1 << 7, 1 << 15];

/// Lays out a request that a driver could make, nearly: header, pieces of data, status; and makes it available.
fn request(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let control = source.byte();
    let is_packed = control & 1 != 0;
    let first = u16::from(source.byte() & 15);
    let kinds = [0, 1, 0, 1, 4, 8, 11, 13];
    let kind: u32 = kinds[usize::from(control >> 5)];
    let mut header = Vec::from(kind.to_le_bytes());
    header.extend([0; 4]);
    header.extend((source.number(2) & 0xfff).to_le_bytes());
    let at = RINGS + 0x3000 + 16 * u64::from(first);
    machine.physical_write(host, now, at, &header);
    let data = u16::from(source.byte() & 7);
    let writes = u16::from(kind & 1 == 0) << 1;
    for index in 0..data + 2 {
        let (address, length, flags) = match index {
            0 => (at, 16, 1),
            last if last == data + 1 => (RINGS + 0x3f00, 1, 2),
            _ => (
                RINGS + 0x4000,
                512 * u32::from(1 + source.byte() % 4),
                1 | writes,
            ),
        };
        let number = (first + index) % 16;
        let turn = TURNS[usize::from(control >> 1 & 1)];
        let (third, fourth) = match is_packed {
            true => (first, flags | turn),
            false => (flags, (number + 1) % 16),
        };
        let mut bytes = Vec::from(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(third.to_le_bytes());
        bytes.extend(fourth.to_le_bytes());
        machine.physical_write(host, now, RINGS + 16 * u64::from(number), &bytes);
    }
    let mut index = [0; 2];
    machine.physical_read(host, now, RINGS + 0x1002, &mut index);
    let index = u16::from_le_bytes(index);
    let entry = RINGS + 0x1004 + 2 * u64::from(index % 16);
    machine.physical_write(host, now, entry, &first.to_le_bytes());
    if !is_packed {
        let next = index.wrapping_add(1).to_le_bytes();
        machine.physical_write(host, now, RINGS + 0x1002, &next);
    }
    machine.physical_write(host, now, VIRTIO + 0x3000, &[0, 0]);
}

/// A request ends, well or not.
fn end(
    machine: &mut Machine<'_>,
    host: &mut Sink,
    now: u64,
    source: &mut Source<'_>,
    operation: u8,
) {
    let which = usize::from(source.byte());
    if let Some(index) = which.checked_rem(host.disks.waiting.len()) {
        let (drive, tag, read) = host.disks.waiting.swap_remove(index);
        let failures = [
            Failure::Io,
            Failure::NoSpace,
            Failure::NoMedium,
            Failure::Memory,
        ];
        let outcome: Outcome = match operation >> 4 & 7 {
            failed @ 0..4 => Err(failures[usize::from(failed)]),
            _ => Ok(()),
        };
        let data = vec![0x5a; if outcome.is_ok() { read } else { 0 }];
        machine.block_done(host, now, drive, tag, outcome, &data);
    }
}

/// Media come, go, grow and shrink, and trays move, whatever is under way.
fn medium(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let operation = source.byte();
    let drive = DriveId(operation & 3);
    match operation >> 2 & 7 {
        0 => machine.eject_requested(host, now, drive),
        1..=3 => machine.move_tray(host, now, drive, operation & 0x40 != 0),
        4 => machine.medium_changed(host, now, drive, None),
        5 => {
            let bytes = source.number(2) * SECTOR % (SIZE + 1);
            let medium = Medium { bytes, ..MEDIUM };
            machine.medium_changed(host, now, drive, Some(medium));
        }
        _ => machine.medium_changed(host, now, drive, Some(MEDIUM)),
    }
}

/// The machine's state is saved, spoilt and loaded.
fn move_away(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let mut state = vec![0; STATE_MAX];
    let length = machine.save(&mut state).expect("the state fits");
    let at = source.number(2) as usize;
    if let Some(byte) = state[..length].get_mut(at) {
        *byte ^= source.byte();
    }
    if machine.load(host, now, &state[..length]).is_err() {
        machine.reset(host, now);
    }
    machine.resume_drives(host, now);
}

fn width(operation: u8) -> Width {
    [Width::Byte, Width::Word, Width::Dword][usize::from(operation >> 6) % 3]
}

/// Memory near the rings and tables is written.
fn write_memory(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let gpa = RINGS + source.number(2) % RING_BYTES;
    let value = source.number(8).to_le_bytes();
    machine.physical_write(host, now, gpa, &value);
}

/// A hostile driver of a virtio disk: does what the bytes say.
pub fn virtio(bytes: &[u8]) {
    let mut apics = local_apics();
    let mut machine = machine_without_memories(Board::Pc, Irqchip::Machine, &mut apics);
    let mut host = Sink::default();
    let now = 0;
    let properties: &[_] = &[("addr", "9"), ("packed", "on"), ("num-queues", "2")];
    let classes = [(&block::PCI_CLASS, properties)];
    build(&mut machine, &mut host, now, &classes);
    let mut source = Source(bytes);
    while !source.is_empty() {
        let operation = source.byte();
        let width = width(operation);
        match operation & 0x0f {
            0 => start(&mut machine, &mut host, now, u32::from(operation >> 4)),
            1 | 2 => write_memory(&mut machine, &mut host, now, &mut source),
            3 => {
                let gpa = VIRTIO + source.number(2) % 0x4000;
                let value = source.number(4).to_le_bytes();
                machine.physical_write(&mut host, now, gpa, &value[..width as usize]);
                machine.physical_read(&mut host, now, gpa, &mut [0; 4][..width as usize]);
            }
            4 => machine.physical_write(&mut host, now, VIRTIO + 0x3000, &[0, 0]),
            5 => {
                let port = LEGACY + u16::from(source.byte() & 0x7f);
                let value = source.number(4) as u32;
                machine.pio_write(&mut host, now, port, width, value);
                machine.pio_read(&mut host, now, port, width);
            }
            6 => {
                let register = u32::from(source.byte() & !3);
                let value = source.number(4) as u32;
                configure(&mut machine, &mut host, now, 9 << 3, register, value);
            }
            7..=10 => {
                request(&mut machine, &mut host, now, &mut source);
                plant(host.disks.waiting.len() > 2);
            }
            11..=13 => end(&mut machine, &mut host, now, &mut source, operation),
            14 => medium(&mut machine, &mut host, now, &mut source),
            _ => move_away(&mut machine, &mut host, now, &mut source),
        }
    }
}

/// A hostile driver of an IDE disk and a drive for CDs: does what the bytes say.
pub fn ata(bytes: &[u8]) {
    let mut apics = local_apics();
    let mut machine = machine_without_memories(Board::Pc, Irqchip::Machine, &mut apics);
    let mut host = Sink::default();
    let now = 0;
    let classes: [(_, &[_]); 3] = [
        (&ide::drive::HD_CLASS, &[("unit", "0")]),
        (&ide::drive::CD_CLASS, &[("unit", "1")]),
        (&ide::drive::CD_CLASS, &[]),
    ];
    build(&mut machine, &mut host, now, &classes);
    let mut source = Source(bytes);
    while !source.is_empty() {
        let operation = source.byte();
        let width = width(operation);
        let base = 0x170 | u16::from(operation & 0x10) << 3;
        match operation & 0x0f {
            0 | 1 => write_memory(&mut machine, &mut host, now, &mut source),
            2..=4 => {
                let port = base | u16::from(source.byte() & 7);
                let value = source.number(width as usize) as u32;
                machine.pio_write(&mut host, now, port, width, value);
            }
            5 | 6 => {
                for _ in 0..source.byte() {
                    machine.pio_read(&mut host, now, base, width);
                }
                let status = machine.pio_read(&mut host, now, base + 7, Width::Byte);
                plant(status & 0x89 == 8);
            }
            7 => {
                for _ in 0..source.byte() {
                    machine.pio_write(&mut host, now, base, width, 0x5a5a_5a5a);
                }
            }
            8 | 9 => {
                // A whole packet.
                machine.pio_write(
                    &mut host,
                    0,
                    base + 1,
                    Width::Byte,
                    u32::from(operation >> 5),
                );
                let limit = source.number(2) as u32;
                machine.pio_write(&mut host, now, base + 4, Width::Byte, limit & 0xff);
                machine.pio_write(&mut host, now, base + 5, Width::Byte, limit >> 8);
                machine.pio_write(&mut host, now, base + 7, Width::Byte, 0xa0);
                for _ in 0..6 {
                    let word = source.number(2) as u32;
                    machine.pio_write(&mut host, now, base, Width::Word, word);
                }
            }
            10 | 11 => {
                let port = MASTER + u16::from(source.byte() & 15);
                let value = match operation & 0x10 {
                    0 => source.number(1) as u32,
                    _ => RINGS as u32,
                };
                machine.pio_write(&mut host, now, port, width, value);
            }
            12 => {
                let value = source.byte().into();
                machine.pio_write(&mut host, now, base + 0x206, Width::Byte, value);
            }
            13 => end(&mut machine, &mut host, now, &mut source, operation),
            14 => medium(&mut machine, &mut host, now, &mut source),
            _ => move_away(&mut machine, &mut host, now, &mut source),
        }
    }
}

/// Plugs disks and a drive for media into a machine of all devices.
pub fn plug(machine: &mut Machine<'_>, board: Board, host: &mut Sink, now: u64) {
    if board == Board::Microvm {
        return build(machine, host, now, &[(&block::MMIO_CLASS, &[])]);
    }
    let classes: [(_, &[_]); 3] = [
        (&block::PCI_CLASS, &[("addr", "9"), ("packed", "on")]),
        (&ide::drive::HD_CLASS, &[("unit", "0")]),
        (&ide::drive::CD_CLASS, &[("unit", "1")]),
    ];
    build(machine, host, now, &classes);
}

/// What drivers of those disks do, and what becomes of it.
pub fn act(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let operation = source.byte();
    match operation & 7 {
        0 => start(machine, host, now, u32::from(operation >> 4)),
        1..=3 => request(machine, host, now, source),
        4 => medium(machine, host, now, source),
        5 => {
            // The bus master has a table, and a transfer begins.
            let channel = u16::from(operation >> 3 & 1);
            for (port, width, value) in [
                (MASTER + 8 * channel + 4, Width::Dword, RINGS as u32),
                (
                    0x1f6 - 0x80 * channel,
                    Width::Byte,
                    0xe0 | source.byte() as u32 & 0x10,
                ),
                (
                    0x1f7 - 0x80 * channel,
                    Width::Byte,
                    [0xc8, 0xca, 0x06, 0xa0][usize::from(operation >> 6)],
                ),
                (MASTER + 8 * channel, Width::Byte, 9),
            ] {
                machine.pio_write(host, now, port, width, value);
            }
        }
        _ => end(machine, host, now, source, operation),
    }
}
