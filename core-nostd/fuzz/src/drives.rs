//! Disks and drives for media under a hostile driver.

use thimble_core::devices::block::{Data, DriveId, Failure, Medium, Outcome, Request, SECTOR};
use thimble_core::devices::class::{DeviceClass, PropertyValues};
use thimble_core::devices::{Width, ide};
use thimble_core::machine::{Board, Irqchip};
use thimble_core::virtio::block;

use crate::rig::Rig;
use crate::{Source, local_apics, machine_without_memories, plant};

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
    /// Bytes that no request goes beyond; 0 while there are no drives.
    pub size: u64,
    /// What must hold of a request besides, and of how many wait.
    pub check: Option<fn(&Request<'_>, usize)>,
    /// Requests that wait: whose, which, and bytes that are wanted with its end.
    pub waiting: Vec<(DriveId, u32, usize)>,
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
        if let Some(check) = self.check {
            check(&request, self.waiting.len());
        }
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

fn configure(rig: &mut Rig<'_>, devfn: u32, register: u32, value: u32) {
    let address = 1 << 31 | devfn << 8 | register;
    rig.output(0xcf8, Width::Dword, address);
    rig.output(0xcfc, Width::Dword, value);
}

/// Plugs devices in, each with a medium behind it, and lets their functions answer where the guest expects them.
fn build(rig: &mut Rig<'_>, classes: &[(&'static DeviceClass, &[(&str, &str)])]) {
    rig.host.disks.size = SIZE;
    for (class, properties) in classes {
        let mut values = PropertyValues::new(class);
        for (name, text) in *properties {
            values.set(name, text).expect("a property");
        }
        rig.call(|machine, host, now| {
            machine.plug(&values).expect("there is room");
            let drive = machine.plugged().last().and_then(|plugged| plugged.drive());
            machine.medium_changed(host, now, drive.expect("a drive"), Some(MEDIUM));
        });
    }
    for (devfn, register, value) in [
        (9 << 3, 0x10, u32::from(LEGACY)),
        (9 << 3, 0x14, VIRTIO as u32 + 0x1_0000),
        (9 << 3, 0x20, VIRTIO as u32),
        (9 << 3, 0x04, 7),
        (1 << 3 | 1, 0x20, u32::from(MASTER)),
        (1 << 3 | 1, 0x04, 5),
    ] {
        configure(rig, devfn, register, value);
    }
}

/// Brings the virtio disk up with its rings where they like to be.
fn start(rig: &mut Rig<'_>, features: u32) {
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
        rig.write(VIRTIO + register, &bytes[..length]);
    }
}

/// The flag of each side's turn in a packed ring.
const TURNS: [u16; 2] = [1 << 7, 1 << 15];

/// Lays out a request that a driver could make, nearly: header, pieces of data, status; and makes it available.
fn request(rig: &mut Rig<'_>, source: &mut Source<'_>) {
    let control = source.byte();
    let is_packed = control & 1 != 0;
    let first = u16::from(source.byte() & 15);
    let kinds = [0, 1, 0, 1, 4, 8, 11, 13];
    let kind: u32 = kinds[usize::from(control >> 5)];
    let mut header = Vec::from(kind.to_le_bytes());
    header.extend([0; 4]);
    header.extend((source.number(2) & 0xfff).to_le_bytes());
    let at = RINGS + 0x3000 + 16 * u64::from(first);
    rig.write(at, &header);
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
        rig.write(RINGS + 16 * u64::from(number), &bytes);
    }
    let mut index = [0; 2];
    rig.read(RINGS + 0x1002, &mut index);
    let index = u16::from_le_bytes(index);
    let entry = RINGS + 0x1004 + 2 * u64::from(index % 16);
    rig.write(entry, &first.to_le_bytes());
    if !is_packed {
        let next = index.wrapping_add(1).to_le_bytes();
        rig.write(RINGS + 0x1002, &next);
    }
    rig.write(VIRTIO + 0x3000, &[0, 0]);
}

/// A request ends, well or not.
fn end(rig: &mut Rig<'_>, source: &mut Source<'_>, operation: u8) {
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
    rig.end(source.byte().into(), outcome);
}

/// Media come, go, grow and shrink, and trays move, whatever is under way.
fn medium(rig: &mut Rig<'_>, source: &mut Source<'_>) {
    let operation = source.byte();
    let drive = DriveId(operation & 3);
    let medium = match operation >> 2 & 7 {
        0 => return rig.call(|machine, host, now| machine.eject_requested(host, now, drive)),
        1..=3 => {
            let open = operation & 0x40 != 0;
            return rig.call(|machine, host, now| machine.move_tray(host, now, drive, open));
        }
        4 => None,
        5 => Some(Medium {
            bytes: source.number(2) * SECTOR % (SIZE + 1),
            ..MEDIUM
        }),
        _ => Some(MEDIUM),
    };
    rig.call(|machine, host, now| machine.medium_changed(host, now, drive, medium));
}

fn width(operation: u8) -> Width {
    [Width::Byte, Width::Word, Width::Dword][usize::from(operation >> 6) % 3]
}

/// The capability ID of MSI-X.
const MSIX: u32 = 0x11;

/// Each queue of the virtio disk gets a message of its own, as drivers arrange it.
fn use_messages(rig: &mut Rig<'_>) {
    let read = |rig: &mut Rig<'_>, register: u32| {
        let address = 1 << 31 | 9 << 11 | register & 0xfc;
        rig.output(0xcf8, Width::Dword, address);
        rig.input(0xcfc, Width::Dword)
    };
    let mut at = read(rig, 0x34) & 0xff;
    // More there are not.
    for _ in 0..16 {
        let capability = read(rig, at);
        if capability & 0xff == MSIX {
            configure(rig, 9 << 3, at & 0xfc, capability | 1 << 31);
            break;
        }
        at = capability >> 8 & 0xff;
    }
    for vector in 0..3_u16 {
        let entry = VIRTIO + 0x1_0000 + 16 * u64::from(vector);
        for (at, value) in [
            (0, 0xfee0_0000),
            (4, 0),
            (8, 0x40 + u32::from(vector)),
            (12, 0),
        ] {
            rig.write(entry + at, &u32::to_le_bytes(value));
        }
        rig.write(VIRTIO + 0x16, &vector.to_le_bytes());
        rig.write(VIRTIO + 0x1a, &vector.to_le_bytes());
    }
}

/// Queues are lent, served, and taken back.
fn lend(rig: &mut Rig<'_>, what: u8) {
    match what & 3 {
        0 => rig.set_lending(what & 4 == 0),
        1 => use_messages(rig),
        _ => rig.serve(what & 1 != 0),
    }
}

/// Memory near the rings and tables is written.
fn write_memory(rig: &mut Rig<'_>, source: &mut Source<'_>) {
    let gpa = RINGS + source.number(2) % RING_BYTES;
    let value = source.number(8).to_le_bytes();
    rig.write(gpa, &value);
}

/// A hostile driver of a virtio disk: does what the bytes say.
pub fn virtio(bytes: &[u8]) {
    let mut source = Source(bytes);
    let mut apics = local_apics();
    // Interrupts of lent queues are messages where the machine has no local APICs.
    let kept = if source.byte() & 1 == 0 { 2 } else { 0 };
    let apics = &mut apics[..kept];
    let mut rig = Rig::new(machine_without_memories(Board::Pc, Irqchip::Machine, apics));
    let properties: &[_] = &[("addr", "9"), ("packed", "on"), ("num-queues", "2")];
    let classes = [(&block::PCI_CLASS, properties)];
    build(&mut rig, &classes);
    while !source.is_empty() {
        let operation = source.byte();
        let width = width(operation);
        match operation & 0x0f {
            0 => start(&mut rig, u32::from(operation >> 4)),
            1 | 2 => write_memory(&mut rig, &mut source),
            3 => {
                let gpa = VIRTIO + source.number(2) % 0x4000;
                let value = source.number(4).to_le_bytes();
                rig.write(gpa, &value[..width as usize]);
                rig.read(gpa, &mut [0; 4][..width as usize]);
            }
            4 => rig.write(VIRTIO + 0x3000, &[0, 0]),
            5 => {
                let port = LEGACY + u16::from(source.byte() & 0x7f);
                let value = source.number(4) as u32;
                rig.output(port, width, value);
                rig.input(port, width);
            }
            6 => {
                let register = u32::from(source.byte() & !3);
                let value = source.number(4) as u32;
                configure(&mut rig, 9 << 3, register, value);
            }
            7..=10 => {
                request(&mut rig, &mut source);
                plant(rig.host.disks.waiting.len() > 2);
            }
            11 | 12 => end(&mut rig, &mut source, operation),
            13 => lend(&mut rig, operation >> 4),
            14 => medium(&mut rig, &mut source),
            _ => rig.move_away(&mut source),
        }
    }
}

/// A hostile driver of an IDE disk and a drive for CDs: does what the bytes say.
pub fn ata(bytes: &[u8]) {
    let mut apics = local_apics();
    let machine = machine_without_memories(Board::Pc, Irqchip::Machine, &mut apics);
    let mut rig = Rig::new(machine);
    let classes: [(_, &[_]); 3] = [
        (&ide::drive::HD_CLASS, &[("unit", "0")]),
        (&ide::drive::CD_CLASS, &[("unit", "1")]),
        (&ide::drive::CD_CLASS, &[]),
    ];
    build(&mut rig, &classes);
    let mut source = Source(bytes);
    while !source.is_empty() {
        let operation = source.byte();
        let width = width(operation);
        let base = 0x170 | u16::from(operation & 0x10) << 3;
        match operation & 0x0f {
            0 | 1 => write_memory(&mut rig, &mut source),
            2..=4 => {
                let port = base | u16::from(source.byte() & 7);
                let value = source.number(width as usize) as u32;
                rig.output(port, width, value);
            }
            5 | 6 => {
                for _ in 0..source.byte() {
                    rig.input(base, width);
                }
                let status = rig.input(base + 7, Width::Byte);
                plant(status & 0x89 == 8);
            }
            7 => {
                for _ in 0..source.byte() {
                    rig.output(base, width, 0x5a5a_5a5a);
                }
            }
            8 | 9 => {
                // A whole packet.
                rig.output(base + 1, Width::Byte, u32::from(operation >> 5));
                let limit = source.number(2) as u32;
                rig.output(base + 4, Width::Byte, limit & 0xff);
                rig.output(base + 5, Width::Byte, limit >> 8);
                rig.output(base + 7, Width::Byte, 0xa0);
                for _ in 0..6 {
                    let word = source.number(2) as u32;
                    rig.output(base, Width::Word, word);
                }
            }
            10 | 11 => {
                let port = MASTER + u16::from(source.byte() & 15);
                let value = match operation & 0x10 {
                    0 => source.number(1) as u32,
                    _ => RINGS as u32,
                };
                rig.output(port, width, value);
            }
            12 => {
                let value = source.byte().into();
                rig.output(base + 0x206, Width::Byte, value);
            }
            13 => end(&mut rig, &mut source, operation),
            14 => medium(&mut rig, &mut source),
            _ => rig.move_away(&mut source),
        }
    }
}

/// Plugs disks and a drive for media into a machine of all devices.
pub fn plug(rig: &mut Rig<'_>, board: Board) {
    if board == Board::Microvm {
        return build(rig, &[(&block::MMIO_CLASS, &[])]);
    }
    let classes: [(_, &[_]); 3] = [
        (&block::PCI_CLASS, &[("addr", "9"), ("packed", "on")]),
        (&ide::drive::HD_CLASS, &[("unit", "0")]),
        (&ide::drive::CD_CLASS, &[("unit", "1")]),
    ];
    build(rig, &classes);
}

/// What drivers of those disks do, and what becomes of it.
pub fn act(rig: &mut Rig<'_>, source: &mut Source<'_>) {
    let operation = source.byte();
    match operation & 7 {
        0 => start(rig, u32::from(operation >> 4)),
        1..=3 => request(rig, source),
        4 => medium(rig, source),
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
                rig.output(port, width, value);
            }
        }
        6 => end(rig, source, operation),
        _ => lend(rig, operation >> 3),
    }
}
