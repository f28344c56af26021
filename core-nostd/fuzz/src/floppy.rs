//! Floppy drives under a hostile driver, with a block layer that answers when it is told to, or not at all.

use thimble_core::devices::block::{Data, DriveId, Failure, Medium, Outcome, Request};
use thimble_core::devices::class::PropertyValues;
use thimble_core::devices::fdc::{self, drive};
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, Width};
use thimble_core::machine::{Board, Host, Irqchip, Machine, STATE_MAX};

use crate::{Source, local_apics, machine_with, plant};

/// Main status, and the FIFO.
const MSR: u16 = fdc::BASE + 4;
const FIFO: u16 = fdc::BASE + 5;

/// MSR: a transfer by the processor, with bytes for it.
const READING: u32 = 0xe0;

/// Sectors of media: of formats, and of none.
const SIZES: [u64; 4] = [2880, 720, 5760, 100];

/// What no request goes beyond: tracks, heads and sectors of a byte each.
const LAST: u64 = 1024 * 256 * 512;

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
        assert_eq!(request.length, 512, "{request:?}");
        assert!(request.offset < LAST, "{request:?}");
        assert!(request.offset.is_multiple_of(512), "{request:?}");
        let read = match request.data {
            Data::Read => 512,
            Data::Write(bytes) => {
                assert_eq!(bytes.len(), 512);
                0
            }
            other => panic!("{other:?}"),
        };
        // The controller has one at a time.
        assert!(self.waiting.is_empty(), "{request:?} beside another one");
        self.waiting.push((request.drive, request.tag, read));
    }

    fn block_cancel(&mut self, drive: DriveId) {
        self.waiting.retain(|request| request.0 != drive);
    }
}

fn medium(machine: &mut Machine<'_>, host: &mut Storage, drive: DriveId, code: u8) {
    let sectors = SIZES[usize::from(code & 3)];
    let medium = (code & 4 == 0).then_some(Medium {
        bytes: sectors * 512,
        read_only: code & 8 != 0,
        write_cache: true,
    });
    machine.medium_changed(host, 0, drive, medium);
}

fn out(machine: &mut Machine<'_>, host: &mut Storage, port: u16, value: u8) {
    machine.pio_write(host, 0, port, Width::Byte, value.into());
}

/// Ends the request that waits, well or not.
fn end(machine: &mut Machine<'_>, host: &mut Storage, operation: u8) {
    if let Some((drive, tag, read)) = host.waiting.pop() {
        let outcome: Outcome = match operation >> 4 {
            0 => Err(Failure::Io),
            1 => Err(Failure::Range),
            2 => Err(Failure::ReadOnly),
            _ => Ok(()),
        };
        let data = vec![0x5a; if outcome.is_ok() { read } else { 0 }];
        machine.block_done(host, 0, drive, tag, outcome, &data);
    }
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut apics = local_apics();
    let mut machine = machine_with(Board::Pc, Irqchip::Machine, &mut apics);
    let mut host = Storage::default();
    // Drive A is every machine's.
    machine
        .plug(&PropertyValues::new(&drive::CLASS))
        .expect("there is room");
    let drives: Vec<DriveId> = machine.plugged().iter().filter_map(|p| p.drive()).collect();
    medium(&mut machine, &mut host, drives[0], 0);
    let (mut source, mut now) = (Source(bytes), 0_u64);
    let mut state = vec![0; STATE_MAX];
    while !source.is_empty() {
        let operation = source.byte();
        match operation & 0x0f {
            0 | 1 => {
                let port = fdc::BASE + u16::from(source.byte() & 7);
                out(&mut machine, &mut host, port, source.byte());
            }
            2 => {
                let port = fdc::BASE + u16::from(source.byte() & 7);
                machine.pio_read(&mut host, now, port, Width::Byte);
            }
            3..=5 => {
                // A command of 9 bytes, or the front of a shorter one.
                for _ in 0..9 {
                    out(&mut machine, &mut host, FIFO, source.byte());
                }
            }
            6 => {
                for _ in 0..1 + 3 * u16::from(source.byte()) {
                    machine.pio_read(&mut host, now, FIFO, Width::Byte);
                }
                let status = machine.pio_read(&mut host, now, MSR, Width::Byte);
                plant(status & READING == READING);
            }
            7 => {
                let value = source.byte();
                for _ in 0..1 + 3 * u16::from(source.byte()) {
                    out(&mut machine, &mut host, FIFO, value);
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
                    out(&mut machine, &mut host, port, value);
                }
            }
            9 | 10 => end(&mut machine, &mut host, operation),
            11 => {
                for _ in 0..source.byte() {
                    end(&mut machine, &mut host, 0xf0);
                }
            }
            12 => {
                let code = source.byte();
                let drive = drives[usize::from(code >> 7) % drives.len()];
                medium(&mut machine, &mut host, drive, code);
            }
            13 => {
                now += 30_000_000;
                machine.advance(&mut host, now);
            }
            14 => machine.reset(&mut host, now),
            _ => {
                let length = machine.save(&mut state).expect("the state fits");
                let at = source.number(2) as usize;
                if let Some(byte) = state[..length].get_mut(at) {
                    *byte ^= source.byte();
                }
                host.waiting.clear();
                if machine.load(&mut host, now, &state[..length]).is_err() {
                    machine.reset(&mut host, now);
                }
                machine.resume_drives(&mut host, now);
            }
        }
    }
}
