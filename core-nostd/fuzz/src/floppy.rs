//! Floppy drives under a hostile driver, with a block layer that answers when it is told to, or not at all.

use thimble_core::devices::Width;
use thimble_core::devices::block::{Data, DriveId, Failure, Medium, Outcome, Request, SECTOR};
use thimble_core::devices::class::PropertyValues;
use thimble_core::devices::fdc::{self, drive};
use thimble_core::machine::{Board, Irqchip};

use crate::rig::Rig;
use crate::{Source, local_apics, machine_without_memories, plant};

/// Main status, and the FIFO.
const MSR: u16 = fdc::BASE + 4;
const FIFO: u16 = fdc::BASE + 5;

/// MSR: a transfer by the processor, with bytes for it.
const READING: u32 = 0xe0;

/// Sectors of media: of formats, and of none.
const SIZES: [u64; 4] = [2880, 720, 5760, 100];

/// What no request goes beyond: tracks, heads and sectors of a byte each.
const LAST: u64 = 1024 * 256 * 512;

/// What every request of the controller is.
fn check(request: &Request<'_>, waiting: usize) {
    assert_eq!(request.length, SECTOR, "{request:?}");
    assert!(request.offset.is_multiple_of(SECTOR), "{request:?}");
    let by_bytes = matches!(request.data, Data::Read | Data::Write(_));
    assert!(by_bytes, "{request:?}");
    // The controller has one at a time.
    assert_eq!(waiting, 0, "{request:?} beside another one");
}

fn medium(rig: &mut Rig<'_>, drive: DriveId, code: u8) {
    let sectors = SIZES[usize::from(code & 3)];
    let medium = (code & 4 == 0).then_some(Medium {
        bytes: sectors * SECTOR,
        read_only: code & 8 != 0,
        write_cache: true,
    });
    rig.call(|machine, host, now| machine.medium_changed(host, now, drive, medium));
}

fn out(rig: &mut Rig<'_>, port: u16, value: u8) {
    rig.output(port, Width::Byte, value.into());
}

/// Ends the request that waits, well or not.
fn end(rig: &mut Rig<'_>, operation: u8) {
    let outcome: Outcome = match operation >> 4 {
        0 => Err(Failure::Io),
        1 => Err(Failure::Range),
        2 => Err(Failure::ReadOnly),
        _ => Ok(()),
    };
    rig.end(0, outcome);
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut apics = local_apics();
    let mut machine = machine_without_memories(Board::Pc, Irqchip::Machine, &mut apics);
    // Drive A is every machine's.
    machine
        .plug(&PropertyValues::new(&drive::CLASS))
        .expect("there is room");
    let drives: Vec<DriveId> = machine.plugged().iter().filter_map(|p| p.drive()).collect();
    let mut rig = Rig::new(machine);
    rig.host.disks.size = LAST;
    rig.host.disks.check = Some(check);
    medium(&mut rig, drives[0], 0);
    let mut source = Source(bytes);
    while !source.is_empty() {
        let operation = source.byte();
        match operation & 0x0f {
            0 | 1 => {
                let port = fdc::BASE + u16::from(source.byte() & 7);
                out(&mut rig, port, source.byte());
            }
            2 => {
                let port = fdc::BASE + u16::from(source.byte() & 7);
                rig.input(port, Width::Byte);
            }
            3..=5 => {
                // A command of 9 bytes, or the front of a shorter one.
                for _ in 0..9 {
                    out(&mut rig, FIFO, source.byte());
                }
            }
            6 => {
                for _ in 0..1 + 3 * u16::from(source.byte()) {
                    rig.input(FIFO, Width::Byte);
                }
                let status = rig.input(MSR, Width::Byte);
                plant(status & READING == READING);
            }
            7 => {
                let value = source.byte();
                for _ in 0..1 + 3 * u16::from(source.byte()) {
                    out(&mut rig, FIFO, value);
                }
            }
            8 => {
                // The channel, with any mode and count.
                let (mode, count) = (source.byte(), source.number(2) as u16);
                let [low, high] = count.to_le_bytes();
                for (port, value) in [
                    (0x0c, 0),
                    (0x0b, mode & 0xfc | 2),
                    (0x04, 0),
                    (0x04, operation),
                    (0x05, low),
                    (0x05, high),
                    (0x0a, 2 | mode << 2 & 4),
                ] {
                    out(&mut rig, port, value);
                }
            }
            9 | 10 => end(&mut rig, operation),
            11 => {
                for _ in 0..source.byte() {
                    end(&mut rig, 0xf0);
                }
            }
            12 => {
                let code = source.byte();
                let drive = drives[usize::from(code >> 7) % drives.len()];
                medium(&mut rig, drive, code);
            }
            13 => {
                rig.now += 30_000_000;
                rig.call(|machine, host, now| machine.advance(host, now));
            }
            14 => rig.reset(),
            _ => rig.move_away(&mut source),
        }
    }
}
