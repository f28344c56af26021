//! Disks and drives for media under a hostile driver.

use thimble_core::devices::block::{Data, DriveId, Failure, Medium, Outcome, Request};
use thimble_core::devices::class::PropertyValues;
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, Width, ide};
use thimble_core::machine::{Board, Host, Irqchip, Machine, STATE_MAX};
use thimble_core::virtio::block;

use crate::{Source, local_apics, machine_with, plant};

/// Where the registers of the virtio disk and of the bus masters are.
const VIRTIO: u64 = 0xfe00_0000;
const LEGACY: u16 = 0xc100;
const MASTER: u16 = 0xc000;
/// Where rings, tables and buffers are: all of them near each other.
const RINGS: u64 = 0x1000;
const RING_BYTES: u64 = 0x4000;
/// Bytes of every medium.
const SIZE: u64 = 1 << 20;

/// A block layer that keeps requests until it is told how they end.
#[derive(Default)]
struct Storage {
    waiting: Vec<(DriveId, u32, usize)>,
}

impl Host for Storage {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn set_gsi(&mut self, _gsi: u8, _level: bool) {}

    fn set_intr(&mut self, _level: bool) {}

    fn power(&mut self, _request: PowerRequest) {}

    fn guest_event(&mut self, _event: GuestEvent) {}

    fn memory_remapped(&mut self) {}

    fn set_a20(&mut self, _enabled: bool) {}

    fn block(&mut self, request: Request<'_>) {
        let length = match request.data {
            Data::Guest(pieces) => pieces.iter().map(|piece| u64::from(piece.length)).sum(),
            Data::Write(bytes) => bytes.len() as u64,
            Data::Read | Data::None => request.length,
        };
        assert_eq!(length, request.length, "{request:?}");
        let end = request.offset.checked_add(request.length);
        assert!(end.is_some_and(|end| end <= SIZE), "{request:?}");
        let read = match request.data {
            Data::Read => request.length as usize,
            _ => 0,
        };
        let mut others = self.waiting.iter();
        let is_known = others.any(|(drive, tag, _)| (*drive, *tag) == (request.drive, request.tag));
        assert!(!is_known, "{request:?} twice");
        self.waiting.push((request.drive, request.tag, read));
    }

    fn block_cancel(&mut self, drive: DriveId) {
        self.waiting.retain(|request| request.0 != drive);
    }
}

fn configure(machine: &mut Machine<'_>, host: &mut Storage, devfn: u32, register: u32, value: u32) {
    let address = 1 << 31 | devfn << 8 | register;
    machine.pio_write(host, 0, 0xcf8, Width::Dword, address);
    machine.pio_write(host, 0, 0xcfc, Width::Dword, value);
}

fn build(machine: &mut Machine<'_>, host: &mut Storage) {
    for (class, unit) in [
        (&block::PCI_CLASS, "0"),
        (&ide::drive::HD_CLASS, "0"),
        (&ide::drive::CD_CLASS, "1"),
    ] {
        let mut values = PropertyValues::new(class);
        // Classes without them take no notice.
        let _ = values.set("unit", unit);
        let _ = values.set("addr", "9");
        machine.plug(&values).expect("there is room");
        let drive = machine.plugged().last().and_then(|plugged| plugged.drive());
        let medium = Medium {
            bytes: SIZE,
            read_only: false,
            write_cache: true,
        };
        machine.medium_changed(host, 0, drive.expect("a drive"), Some(medium));
    }
    for (devfn, register, value) in [
        (9 << 3, 0x10, u32::from(LEGACY)),
        (9 << 3, 0x14, VIRTIO as u32 + 0x1_0000),
        (9 << 3, 0x20, VIRTIO as u32),
        (9 << 3, 0x04, 7),
        (1 << 3 | 1, 0x20, u32::from(MASTER)),
        (1 << 3 | 1, 0x04, 5),
    ] {
        configure(machine, host, devfn, register, value);
    }
}

/// Brings the virtio disk up with its rings where they like to be.
fn start(machine: &mut Machine<'_>, host: &mut Storage) {
    let rings = [RINGS, RINGS + 0x1000, RINGS + 0x2000];
    let writes = [
        (0x14, 3_u32),
        (0x08, 1),
        (0x0c, 1),
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
        machine.physical_write(host, 0, VIRTIO + register, &bytes[..length]);
    }
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut apics = local_apics();
    let mut machine = machine_with(Board::Pc, Irqchip::Machine, &mut apics);
    let mut host = Storage::default();
    build(&mut machine, &mut host);
    let mut source = Source(bytes);
    let mut state = vec![0; STATE_MAX];
    while !source.is_empty() {
        let operation = source.byte();
        let width = [Width::Byte, Width::Word, Width::Dword][usize::from(operation >> 6) % 3];
        match operation & 0x0f {
            0 => start(&mut machine, &mut host),
            1 | 2 => {
                let gpa = RINGS + source.number(2) % RING_BYTES;
                let value = source.number(8).to_le_bytes();
                machine.physical_write(&mut host, 0, gpa, &value);
            }
            3 => {
                let gpa = VIRTIO + source.number(2) % 0x4000;
                let value = source.number(4).to_le_bytes();
                machine.physical_write(&mut host, 0, gpa, &value[..width as usize]);
            }
            4 => machine.physical_write(&mut host, 0, VIRTIO + 0x3000, &[0, 0]),
            5 => {
                let port = LEGACY + u16::from(source.byte() & 0x7f);
                let value = source.number(4) as u32;
                machine.pio_write(&mut host, 0, port, width, value);
                machine.pio_read(&mut host, 0, port, width);
            }
            6..=8 => {
                let port = 0x170 | u16::from(operation & 0x10) << 3 | u16::from(source.byte() & 7);
                let value = source.number(width as usize) as u32;
                machine.pio_write(&mut host, 0, port, width, value);
            }
            9 => {
                let port = 0x170 | u16::from(operation & 0x10) << 3;
                for _ in 0..source.byte() {
                    machine.pio_read(&mut host, 0, port, width);
                }
                let status = machine.pio_read(&mut host, 0, port + 7, Width::Byte);
                plant(status & 0x89 == 8);
            }
            10 => {
                let port = MASTER + u16::from(source.byte() & 15);
                let value = match operation & 0x10 {
                    0 => source.number(1) as u32,
                    _ => RINGS as u32,
                };
                machine.pio_write(&mut host, 0, port, width, value);
            }
            11 => {
                let port = 0x376 | u16::from(operation & 0x10) << 3;
                machine.pio_write(&mut host, 0, port, Width::Byte, source.byte().into());
            }
            12 | 13 => {
                let which = usize::from(source.byte());
                if let Some(index) = which.checked_rem(host.waiting.len()) {
                    let (drive, tag, read) = host.waiting.swap_remove(index);
                    let outcome: Outcome = match operation >> 4 & 3 {
                        0 => Err(Failure::Io),
                        _ => Ok(()),
                    };
                    let data = vec![0x5a; if outcome.is_ok() { read } else { 0 }];
                    machine.block_done(&mut host, 0, drive, tag, outcome, &data);
                }
            }
            14 => {
                let drive = DriveId(operation >> 4 & 3);
                machine.eject_requested(&mut host, 0, drive);
                machine.move_tray(&mut host, 0, drive, operation & 0x40 != 0);
            }
            _ => {
                let length = machine.save(&mut state).expect("the state fits");
                let at = source.number(2) as usize;
                if let Some(byte) = state[..length].get_mut(at) {
                    *byte ^= source.byte();
                }
                if machine.load(&mut host, 0, &state[..length]).is_err() {
                    machine.reset(&mut host, 0);
                }
                machine.resume_drives(&mut host, 0);
            }
        }
    }
}
