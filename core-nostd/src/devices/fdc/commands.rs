//! The 82078's commands (Intel 290475, section 5): which there are, and what each of them does once its parameters are there.
//!
//! What moves sectors is begun here and goes on in the controller itself, a sector at a time.

use super::{
    DOR_DMA, Fdc, RESET_SENSES, ST0_ABNORMAL, ST0_HEAD, ST0_INVALID, ST0_READY_CHANGED,
    ST0_SEEK_END, Stage, State, Task,
};
use crate::devices::Context;
use crate::time::SECOND;

/// Commands, without the bits that are options.
mod command {
    pub(super) const READ_TRACK: u8 = 0x02;
    pub(super) const SPECIFY: u8 = 0x03;
    pub(super) const SENSE_DRIVE_STATUS: u8 = 0x04;
    pub(super) const WRITE_DATA: u8 = 0x05;
    pub(super) const READ_DATA: u8 = 0x06;
    pub(super) const RECALIBRATE: u8 = 0x07;
    pub(super) const SENSE_INTERRUPT: u8 = 0x08;
    pub(super) const WRITE_DELETED: u8 = 0x09;
    pub(super) const READ_ID: u8 = 0x0a;
    pub(super) const READ_DELETED: u8 = 0x0c;
    pub(super) const FORMAT_TRACK: u8 = 0x0d;
    pub(super) const DUMPREG: u8 = 0x0e;
    pub(super) const SEEK: u8 = 0x0f;
    pub(super) const VERSION: u8 = 0x10;
    pub(super) const SCAN_EQUAL: u8 = 0x11;
    pub(super) const PERPENDICULAR: u8 = 0x12;
    pub(super) const CONFIGURE: u8 = 0x13;
    pub(super) const LOCK: u8 = 0x14;
    pub(super) const VERIFY: u8 = 0x16;
    pub(super) const POWERDOWN_MODE: u8 = 0x17;
    pub(super) const PART_ID: u8 = 0x18;
    pub(super) const SCAN_LOW_OR_EQUAL: u8 = 0x19;
    pub(super) const SCAN_HIGH_OR_EQUAL: u8 = 0x1d;
    pub(super) const SAVE: u8 = 0x2e;
    pub(super) const OPTION: u8 = 0x33;
    pub(super) const RESTORE: u8 = 0x4e;
    pub(super) const DRIVE_SPECIFICATION: u8 = 0x8e;
    pub(super) const RELATIVE_SEEK_OUT: u8 = 0x8f;
    pub(super) const FORMAT_AND_WRITE: u8 = 0xcd;
    pub(super) const RELATIVE_SEEK_IN: u8 = 0xcf;
    /// What is none of them.
    pub(super) const INVALID: u8 = 0xff;
}

/// Commands: which bits tell one, and how many parameters it has. The first that fits counts.
const COMMANDS: [(u8, u8, u8); 30] = [
    (command::READ_DATA, 0x1f, 8),
    (command::WRITE_DATA, 0x1f, 8),
    (command::SEEK, 0xff, 2),
    (command::SENSE_INTERRUPT, 0xff, 0),
    (command::RECALIBRATE, 0xff, 1),
    (command::FORMAT_TRACK, 0xbf, 5),
    (command::READ_TRACK, 0xbf, 8),
    (command::RESTORE, 0xff, 17),
    (command::SAVE, 0xff, 0),
    (command::READ_DELETED, 0x1f, 8),
    (command::SCAN_EQUAL, 0x1f, 8),
    (command::VERIFY, 0x1f, 8),
    (command::SCAN_LOW_OR_EQUAL, 0x1f, 8),
    (command::SCAN_HIGH_OR_EQUAL, 0x1f, 8),
    (command::WRITE_DELETED, 0x3f, 8),
    (command::READ_ID, 0xbf, 1),
    (command::SPECIFY, 0xff, 2),
    (command::SENSE_DRIVE_STATUS, 0xff, 1),
    (command::PERPENDICULAR, 0xff, 1),
    (command::CONFIGURE, 0xff, 3),
    (command::POWERDOWN_MODE, 0xff, 2),
    (command::OPTION, 0xff, 1),
    (command::DRIVE_SPECIFICATION, 0xff, 5),
    (command::RELATIVE_SEEK_OUT, 0xff, 2),
    (command::FORMAT_AND_WRITE, 0xef, 10),
    (command::RELATIVE_SEEK_IN, 0xff, 2),
    (command::LOCK, 0x7f, 0),
    (command::DUMPREG, 0xff, 0),
    (command::VERSION, 0xff, 0),
    (command::PART_ID, 0xff, 0),
];

/// A command's first byte: several sides. In LOCK: to lock. In VERIFY: a count is given.
pub(super) const OPTION_HIGH: u8 = 1 << 7;

/// The command that a byte begins, and its parameters.
pub(super) fn decode(byte: u8) -> (u8, u8) {
    let known = COMMANDS.iter().find(|(code, mask, _)| byte & mask == *code);
    known.map_or((command::INVALID, 0), |(code, _, parameters)| {
        (*code, *parameters)
    })
}

/// Answer of VERSION: an enhanced controller.
const ENHANCED: u8 = 0x90;
/// Answer of PART ID: an 82078.
const PART: u8 = 0x41;
/// ST3: bits that are always 1: two sides, and ready.
const ST3_ONES: u8 = 0x28;
/// ST3: on the first track.
const ST3_TRACK_0: u8 = 1 << 4;
/// ST3: write-protected.
const ST3_PROTECTED: u8 = 1 << 6;

/// The time until the next sector's header comes by, in nanoseconds.
const NEXT_HEADER: u64 = SECOND / 50;

impl Fdc {
    /// All parameters of a command are there.
    pub(super) fn execute(&mut self, cx: &mut Context<'_>) {
        let mut parameters = [0; 18];
        parameters.copy_from_slice(&self.fifo[..18]);
        let [first, a, b, c, ..] = parameters;
        match decode(first).0 {
            command::READ_DATA | command::READ_TRACK => self.start(cx, Task::Read),
            command::WRITE_DATA => self.start(cx, Task::Write),
            command::VERIFY => self.start(cx, Task::Verify),
            command::SCAN_EQUAL => self.start(cx, Task::ScanEqual),
            command::SCAN_LOW_OR_EQUAL => self.start(cx, Task::ScanLow),
            command::SCAN_HIGH_OR_EQUAL => self.start(cx, Task::ScanHigh),
            command::READ_DELETED | command::WRITE_DELETED => {
                self.finish(cx, [ST0_ABNORMAL | ST0_SEEK_END, 0, 0]);
            }
            command::FORMAT_TRACK => self.start_format(cx),
            command::READ_ID => {
                self.drive_mut().state.head = a >> 2 & 1;
                self.state.stage = Stage::Header;
                self.state.header_at = cx.now.saturating_add(NEXT_HEADER);
                cx.timers.arm(self.wiring.timer, self.state.header_at);
            }
            command::SEEK => {
                self.choose(a);
                self.step_to(cx, b);
            }
            command::RECALIBRATE => {
                self.choose(a);
                self.drive_mut().recalibrate();
                self.stepped(cx);
            }
            command::RELATIVE_SEEK_IN => {
                self.choose(a);
                let drive = self.drive();
                let most = drive.last_track();
                let track = match drive.state.track.checked_add(b) {
                    Some(track) if track < most => track,
                    // Where there is no drive it goes nowhere.
                    _ => most.wrapping_sub(1),
                };
                self.step_to(cx, track);
            }
            command::RELATIVE_SEEK_OUT => {
                self.choose(a);
                let track = self.drive().state.track.saturating_sub(b);
                self.step_to(cx, track);
            }
            command::SENSE_INTERRUPT => self.sense_interrupt(cx),
            command::SENSE_DRIVE_STATUS => {
                self.choose(a);
                let chosen = self.chosen();
                let drive = self.drive_mut();
                drive.state.head = a >> 2 & 1;
                let mut status = ST3_ONES | drive.state.head << 2 | chosen;
                if drive.state.track == 0 {
                    status |= ST3_TRACK_0;
                }
                if drive.is_read_only() {
                    status |= ST3_PROTECTED;
                }
                self.result(&[status]);
            }
            command::SPECIFY => {
                self.state.timers = [a >> 4, b >> 1];
                self.state.dor = match b & 1 {
                    0 => self.state.dor | DOR_DMA,
                    _ => self.state.dor & !DOR_DMA,
                };
                self.command_phase();
            }
            command::PERPENDICULAR => {
                if a & OPTION_HIGH != 0 {
                    self.drive_mut().state.perpendicular = a & 7;
                }
                self.command_phase();
            }
            command::CONFIGURE => {
                (self.state.config, self.state.precompensation) = (b, c);
                self.command_phase();
            }
            command::LOCK => {
                self.state.lock = first & OPTION_HIGH != 0;
                self.result(&[u8::from(self.state.lock) << 4]);
            }
            command::POWERDOWN_MODE => {
                self.state.power = a;
                self.result(&[a]);
            }
            command::OPTION => self.command_phase(),
            command::DRIVE_SPECIFICATION => match parameters[5] {
                last if last & 0xc0 == 0xc0 => self.result(&[a, a, 0, 0]),
                last if last & 0x80 != 0 => self.command_phase(),
                // More are to come, for which there are no drives.
                _ => {}
            },
            command::VERSION => self.result(&[ENHANCED]),
            command::PART_ID => self.result(&[PART]),
            command::DUMPREG => {
                let [first, second] = self.tracks();
                let [step, load] = self.state.timers;
                let dma = u8::from(self.state.dor & DOR_DMA != 0);
                let [last, modes] = self.drive_modes();
                let State {
                    config,
                    precompensation,
                    ..
                } = self.state;
                let load = load << 1 | dma;
                self.result(&[
                    first,
                    second,
                    0,
                    0,
                    step,
                    load,
                    last,
                    modes,
                    config,
                    precompensation,
                ]);
            }
            command::SAVE => {
                let [first, second] = self.tracks();
                let [step, load] = self.state.timers;
                let [last, modes] = self.drive_modes();
                let State {
                    config,
                    precompensation,
                    power,
                    ..
                } = self.state;
                let saved = [0, 0, first, second, 0, 0, step, load, last, modes];
                let mut all = [0; 15];
                all[..10].copy_from_slice(&saved);
                all[10..13].copy_from_slice(&[config, precompensation, power]);
                self.result(&all);
            }
            command::RESTORE => self.restore(&parameters),
            _ => {
                self.result(&[ST0_INVALID]);
            }
        }
    }

    fn tracks(&self) -> [u8; 2] {
        [0, 1].map(|number| self.drives[self.index(number)].state.track)
    }

    /// The last sector of the drive, and its modes with the lock.
    fn drive_modes(&self) -> [u8; 2] {
        let drive = &self.drive().state;
        let lock = u8::from(self.state.lock) << 7;
        [drive.last_sector, lock | drive.perpendicular << 2]
    }

    fn restore(&mut self, parameters: &[u8; 18]) {
        for number in 0..2 {
            let index = self.index(number);
            self.drives[index].state.track = parameters[3 + usize::from(number)];
        }
        let drive = self.drive_mut();
        drive.state.last_sector = parameters[9];
        drive.state.perpendicular = parameters[10] >> 2 & 0xf;
        let state = &mut self.state;
        state.timers = [parameters[7], parameters[8]];
        state.lock = parameters[10] & 0x80 != 0;
        state.config = parameters[11];
        state.precompensation = parameters[12];
        state.power = parameters[13];
        self.command_phase();
    }

    /// Moves the head to another track.
    fn step_to(&mut self, cx: &mut Context<'_>, track: u8) {
        let drive = self.drive_mut();
        let (head, sector) = (drive.state.head, drive.state.sector);
        // A head that can't go there stays where it is, and a drive says nothing of it.
        let _ = drive.seek(head, track, sector);
        self.stepped(cx);
    }

    fn stepped(&mut self, cx: &mut Context<'_>) {
        self.command_phase();
        self.state.status0 |= ST0_SEEK_END;
        self.raise(cx);
    }

    fn sense_interrupt(&mut self, cx: &mut Context<'_>) {
        let chosen = self.chosen();
        let status0 = if self.state.senses > 0 {
            let done = RESET_SENSES.saturating_sub(self.state.senses);
            self.state.senses -= 1;
            ST0_READY_CHANGED | done
        } else if self.state.line {
            self.state.status0 & !(ST0_HEAD | 3) | chosen
        } else {
            return self.result(&[ST0_INVALID]);
        };
        let track = self.drive().state.track;
        self.result(&[status0, track]);
        self.lower(cx);
        self.state.status0 = ST0_READY_CHANGED;
    }
}
