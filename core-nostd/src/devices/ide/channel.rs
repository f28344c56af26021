//! An IDE channel: the registers of its two drives, transfers by the data port and by the bus
//! master, and the commands of disks.
//!
//! Follows ATA/ATAPI-7 (T13 1532D), volumes 1 and 2. Both drives see what is written to the
//! registers; which of them answers is in the device register. One transfer is under way at a time,
//! because registers take no writes while the selected drive is busy or moves data.

use core::ops::Range;

use serde::{Deserialize, Serialize};

use super::atapi;
use super::bus_master::{BusMaster, Change};
use super::drive::{self, Drive};
use super::identify;
use crate::devices::block::{
    Data, DriveId, Operation, Outcome, Request, SECTOR, Segment, Segments,
};
use crate::devices::{Context, Width};
use crate::irq::IrqLine;
use crate::memory::GuestRam;
use crate::state::StateError;
use crate::trace::events as trace;
use crate::virtio::queue::copy_from;

/// Bytes that the data port moves between two requests at most: 16 sectors.
pub const BUFFER: usize = identify::MULTIPLE_MAX as usize * SECTOR as usize;

/// Offsets of the registers of the command block.
mod register {
    pub(super) const DATA: u16 = 0;
    /// Read: error; written: features.
    pub(super) const ERROR: u16 = 1;
    pub(super) const COUNT: u16 = 2;
    pub(super) const LBA_LOW: u16 = 3;
    pub(super) const LBA_MID: u16 = 4;
    pub(super) const LBA_HIGH: u16 = 5;
    pub(super) const DEVICE: u16 = 6;
    /// Read: status; written: command.
    pub(super) const STATUS: u16 = 7;
}

/// Status: the last command failed.
pub(super) const ERR: u8 = 1 << 0;
/// Status: the data port has, or wants, data.
pub(super) const DRQ: u8 = 1 << 3;
/// Status: the drive has found its place (DSC in older editions).
pub(super) const SEEK: u8 = 1 << 4;
/// Status: the drive takes commands.
pub(super) const READY: u8 = 1 << 6;
/// Status: the drive is busy.
pub(super) const BUSY: u8 = 1 << 7;

/// Error: the command was aborted.
pub(super) const ABORTED: u8 = 1 << 2;

/// Device: the second drive is selected.
const DEVICE_SECOND: u8 = 1 << 4;
/// Device: addresses are of blocks, not of cylinders, heads and sectors.
const DEVICE_LBA: u8 = 1 << 6;
/// Device: bits that are always 1.
const DEVICE_ONES: u8 = 0xa0;

/// Device control: no interrupts.
const NO_INTERRUPT: u8 = 1 << 1;
/// Device control: reset.
const SOFT_RESET: u8 = 1 << 2;
/// Device control: registers show what was written to them before the last write.
const PREVIOUS: u8 = 1 << 7;

/// Commands.
mod command {
    pub(super) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(super) const DEVICE_RESET: u8 = 0x08;
    pub(super) const RECALIBRATE: u8 = 0x10;
    pub(super) const READ: u8 = 0x20;
    pub(super) const READ_ONCE: u8 = 0x21;
    pub(super) const READ_EXT: u8 = 0x24;
    pub(super) const READ_DMA_EXT: u8 = 0x25;
    pub(super) const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub(super) const READ_MULTIPLE_EXT: u8 = 0x29;
    pub(super) const WRITE: u8 = 0x30;
    pub(super) const WRITE_ONCE: u8 = 0x31;
    pub(super) const WRITE_EXT: u8 = 0x34;
    pub(super) const WRITE_DMA_EXT: u8 = 0x35;
    pub(super) const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub(super) const WRITE_VERIFY: u8 = 0x3c;
    pub(super) const VERIFY: u8 = 0x40;
    pub(super) const VERIFY_ONCE: u8 = 0x41;
    pub(super) const VERIFY_EXT: u8 = 0x42;
    pub(super) const SEEK: u8 = 0x70;
    pub(super) const DIAGNOSTIC: u8 = 0x90;
    pub(super) const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub(super) const STANDBY_NOW_2: u8 = 0x94;
    pub(super) const IDLE_NOW_2: u8 = 0x95;
    pub(super) const STANDBY_2: u8 = 0x96;
    pub(super) const IDLE_2: u8 = 0x97;
    pub(super) const CHECK_POWER_2: u8 = 0x98;
    pub(super) const SLEEP_2: u8 = 0x99;
    pub(super) const PACKET: u8 = 0xa0;
    pub(super) const IDENTIFY_PACKET: u8 = 0xa1;
    pub(super) const SMART: u8 = 0xb0;
    pub(super) const READ_MULTIPLE: u8 = 0xc4;
    pub(super) const WRITE_MULTIPLE: u8 = 0xc5;
    pub(super) const SET_MULTIPLE: u8 = 0xc6;
    pub(super) const READ_DMA: u8 = 0xc8;
    pub(super) const READ_DMA_ONCE: u8 = 0xc9;
    pub(super) const WRITE_DMA: u8 = 0xca;
    pub(super) const WRITE_DMA_ONCE: u8 = 0xcb;
    pub(super) const STANDBY_NOW: u8 = 0xe0;
    pub(super) const IDLE_NOW: u8 = 0xe1;
    pub(super) const STANDBY: u8 = 0xe2;
    pub(super) const IDLE: u8 = 0xe3;
    pub(super) const CHECK_POWER: u8 = 0xe5;
    pub(super) const SLEEP: u8 = 0xe6;
    pub(super) const FLUSH: u8 = 0xe7;
    pub(super) const FLUSH_EXT: u8 = 0xea;
    pub(super) const IDENTIFY: u8 = 0xec;
    pub(super) const SET_FEATURES: u8 = 0xef;
    /// Of CompactFlash: how worn the medium is.
    pub(super) const WEAR_LEVEL: u8 = 0xf5;
    pub(super) const READ_NATIVE_MAX: u8 = 0xf8;
}

/// SMART's signature in LBA mid and high.
const SMART_SIGNATURE: (u8, u8) = (0x4f, 0xc2);

/// Ranges of one DATA SET MANAGEMENT at most: 8 sectors of them. QEMU's drives have no such limit.
const TRIM_RANGES: u32 = 8 * 64;

/// The registers of one drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) feature: u8,
    pub(super) error: u8,
    /// Sectors that are left; more than 8 bits while a command of 48-bit addresses is under way.
    pub(super) count: u32,
    /// LBA low, mid and high.
    pub(super) lba: [u8; 3],
    /// What was written to features, count and LBA before.
    previous: [u8; 5],
    pub(super) device: u8,
    pub(super) status: u8,
    /// The command has 48-bit addresses.
    is_48_bit: bool,
}

impl Registers {
    fn reset(&mut self, drive: Option<&Drive>) {
        *self = Self {
            feature: 0,
            error: 0,
            count: 0,
            lba: [0; 3],
            previous: [0; 5],
            device: DEVICE_ONES,
            status: READY | SEEK,
            is_48_bit: false,
        };
        self.sign(drive);
    }

    /// What drives are told apart by (volume 1, section 5.15).
    pub(super) fn sign(&mut self, drive: Option<&Drive>) {
        self.device &= 0xf0;
        self.count = 1;
        let [middle, high] = match drive {
            None => [0xff, 0xff],
            Some(drive) if drive.is_cdrom() => [0x14, 0xeb],
            Some(_) => [0, 0],
        };
        self.lba = [1, middle, high];
    }

    pub(super) fn abort(&mut self) {
        self.status = READY | ERR;
        self.error = ABORTED;
    }

    /// The first sector of a command.
    fn sector(&self, drive: &Drive) -> u64 {
        let [low, middle, high] = self.lba.map(u64::from);
        let head = u64::from(self.device & 0xf);
        if self.device & DEVICE_LBA == 0 {
            let (heads, sectors) = drive.translation();
            let cylinder = high << 8 | middle;
            return ((cylinder * heads + head) * sectors + low).wrapping_sub(1);
        }
        let low = high << 16 | middle << 8 | low;
        if !self.is_48_bit {
            return head << 24 | low;
        }
        let [_, _, a, b, c] = self.previous.map(u64::from);
        c << 40 | b << 32 | a << 24 | low
    }

    fn set_sector(&mut self, drive: &Drive, sector: u64) {
        let bytes = sector.to_le_bytes();
        if self.device & DEVICE_LBA == 0 {
            let (heads, sectors) = drive.translation();
            let (cylinder, rest) = (sector / (heads * sectors), sector % (heads * sectors));
            self.lba = [
                (rest % sectors + 1) as u8,
                cylinder as u8,
                (cylinder >> 8) as u8,
            ];
            self.device = self.device & 0xf0 | (rest / sectors) as u8 & 0xf;
            return;
        }
        self.lba = [bytes[0], bytes[1], bytes[2]];
        if self.is_48_bit {
            self.previous[2..].copy_from_slice(&bytes[3..6]);
        } else {
            self.device = self.device & 0xf0 | bytes[3] & 0xf;
        }
    }

    /// A count of 0 is that of all sectors that it can tell of.
    fn begin(&mut self, is_48_bit: bool) {
        self.is_48_bit = is_48_bit;
        let count = self.count & 0xff;
        self.count = match (is_48_bit, u32::from(self.previous[1]) << 8 | count) {
            (false, _) if count == 0 => 256,
            (false, _) => count,
            (true, 0) => 0x1_0000,
            (true, count) => count,
        };
    }
}

/// What is done with the data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Port {
    /// Nothing.
    Idle,
    /// The guest reads a page; that is all.
    Page,
    /// It reads sectors; others may follow.
    ReadSectors,
    /// It writes sectors, which then are written.
    WriteSectors,
    /// It writes a packet.
    Packet,
    /// It reads an answer to a packet; more may follow.
    Reply,
}

impl Port {
    /// Whether the guest writes.
    fn is_out(self) -> bool {
        matches!(self, Self::WriteSectors | Self::Packet)
    }
}

/// What the drive waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Job {
    /// Sectors for the data port.
    ReadSectors,
    /// Sectors from the data port.
    WriteSectors,
    /// Sectors to memory.
    ReadDma,
    /// Sectors from memory.
    WriteDma,
    /// Ranges in memory are trimmed: the number of the next one.
    Trim(u32),
    /// A flush.
    Flush,
    /// Blocks of a CD for the data port.
    ReadBlocks,
    /// Blocks of a CD, or an answer, to memory.
    BlocksDma,
}

/// One drive of the channel, or the place of one.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) registers: Registers,
    pub(super) drive: Option<Drive>,
}

/// A channel.
#[derive(Clone, Debug)]
pub struct Channel {
    line: IrqLine,
    pub(super) units: [Unit; 2],
    pub(super) master: BusMaster,
    pub(super) state: State,
    pub(super) buffer: heapless::Vec<u8, BUFFER>,
    /// A drive whose request was given up.
    cancelled: Option<DriveId>,
    /// Tags of requests.
    tag: u32,
}

/// What changes, beside the drives and the bus master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    control: u8,
    selected: u8,
    pub(super) port: Port,
    /// Where the data port is in the buffer, and where it ends.
    at: u16,
    end: u16,
    pub(super) job: Option<Job>,
    /// The job is at the block layer.
    issued: bool,
    /// The bus master's table has more room than is needed.
    longer: bool,
    /// Whether the interrupt line is high.
    line: bool,
}

const RESET: State = State {
    control: 0,
    selected: 0,
    port: Port::Idle,
    at: 0,
    end: 0,
    job: None,
    issued: false,
    longer: false,
    line: false,
};

/// Saved form of a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    units: [(Registers, Option<drive::State>); 2],
    master: BusMaster,
    state: State,
    buffer: heapless::Vec<u8, BUFFER>,
}

impl Channel {
    /// A channel without drives.
    pub fn new(line: IrqLine) -> Self {
        let mut registers = Registers {
            feature: 0,
            error: 0,
            count: 0,
            lba: [0; 3],
            previous: [0; 5],
            device: 0,
            status: 0,
            is_48_bit: false,
        };
        registers.reset(None);
        let unit = Unit {
            registers,
            drive: None,
        };
        Self {
            line,
            units: [unit.clone(), unit],
            master: BusMaster::default(),
            state: RESET,
            buffer: heapless::Vec::new(),
            cancelled: None,
            tag: 0,
        }
    }

    /// Adds a drive; `second` says which of the two.
    pub fn add(&mut self, second: bool, drive: Drive) {
        let unit = &mut self.units[usize::from(second)];
        unit.registers.reset(Some(&drive));
        unit.drive = Some(drive);
    }

    /// A drive.
    pub fn drive(&self, second: bool) -> Option<&Drive> {
        self.units[usize::from(second)].drive.as_ref()
    }

    /// Whether a drive is on this channel.
    pub fn has(&self, drive: DriveId) -> bool {
        let mut drives = self.units.iter().flat_map(|unit| &unit.drive);
        drives.any(|other| other.id() == drive)
    }

    /// State after a reset of the machine.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.drop_job();
        for unit in &mut self.units {
            if let Some(drive) = &mut unit.drive {
                drive.state = drive::State::default();
            }
            unit.registers.reset(unit.drive.as_ref());
        }
        self.state = RESET;
        self.master = BusMaster::default();
        self.buffer.clear();
        cx.lines.set(self.line, false);
    }

    /// What is under way is given up.
    fn drop_job(&mut self) {
        if self.state.job.take().is_some() && self.state.issued {
            self.cancelled = self.unit().drive.as_ref().map(Drive::id);
        }
        self.state.issued = false;
        self.state.port = Port::Idle;
        self.tag = self.tag.wrapping_add(1);
    }

    pub(super) fn unit(&self) -> &Unit {
        &self.units[usize::from(self.state.selected & 1)]
    }

    pub(super) fn unit_mut(&mut self) -> &mut Unit {
        &mut self.units[usize::from(self.state.selected & 1)]
    }

    pub(super) fn registers(&mut self) -> &mut Registers {
        &mut self.unit_mut().registers
    }

    /// The drive asks for an interrupt.
    pub(super) fn interrupt(&mut self, cx: &mut Context<'_>) {
        if self.state.control & NO_INTERRUPT == 0 {
            self.master.interrupt();
            self.set_line(cx, true);
        }
    }

    fn set_line(&mut self, cx: &mut Context<'_>, level: bool) {
        self.state.line = level;
        cx.lines.set(self.line, level);
    }

    /// Whether anything answers at the registers, and whether the selected drive does.
    fn presence(&self) -> (bool, bool) {
        let any = self.units.iter().any(|unit| unit.drive.is_some());
        let second = self.state.selected & 1 != 0;
        (any, any && (!second || self.unit().drive.is_some()))
    }

    /// The status register, without a consequence.
    fn status(&self) -> u8 {
        match self.presence().1 {
            true => self.unit().registers.status,
            false => 0,
        }
    }

    /// Reads the alternate status register.
    pub fn control_read(&mut self) -> u8 {
        let status = self.status();
        trace::ide_status_read(status);
        status
    }

    /// Writes the device control register.
    pub fn control_write(&mut self, cx: &mut Context<'_>, value: u8) {
        trace::ide_ctrl_write(value);
        let rises = value & !self.state.control & SOFT_RESET != 0;
        self.state.control = value;
        if !rises {
            return;
        }
        self.drop_job();
        self.state.control &= !SOFT_RESET;
        for index in 0..self.units.len() {
            let Unit { registers, drive } = &mut self.units[index];
            registers.reset(drive.as_ref());
            if let Some(drive) = drive {
                drive.state.multiple = identify::MULTIPLE_MAX;
                drive.state.packet.reset();
            }
            self.diagnose(cx, index);
        }
    }

    /// The outcome of the drive's test of itself.
    fn diagnose(&mut self, cx: &mut Context<'_>, index: usize) {
        let Unit { registers, drive } = &mut self.units[index & 1];
        registers.device = DEVICE_ONES;
        registers.sign(drive.as_ref());
        // The drive is well, and so is the other one.
        registers.error = 1;
        if drive.as_ref().is_some_and(Drive::is_cdrom) {
            // ATAPI drives are not ready until they are spoken to.
            registers.status = 0;
        } else {
            registers.status = READY | SEEK;
            self.interrupt(cx);
        }
    }

    /// Reads a register of the command block.
    pub fn read(&mut self, cx: &mut Context<'_>, offset: u16, width: Width) -> u32 {
        if offset == register::DATA && width != Width::Byte {
            let words = width.bytes() / 2;
            return (0..words).fold(0, |value, word| {
                value | u32::from(self.data_read(cx)) << (16 * word)
            });
        }
        (0..u16::from(width.bytes())).fold(0, |value, byte| {
            let read = self.read_byte(cx, offset + byte);
            value | u32::from(read) << (8 * byte)
        })
    }

    fn read_byte(&mut self, cx: &mut Context<'_>, offset: u16) -> u8 {
        let (any, answers) = self.presence();
        let Registers {
            error,
            count,
            lba,
            previous,
            device,
            ..
        } = self.unit().registers;
        let now = [error, count as u8, lba[0], lba[1], lba[2]];
        let value = match offset {
            // A word all the same, of which half is lost.
            register::DATA => return self.data_read(cx) as u8,
            register::STATUS => {
                self.set_line(cx, false);
                self.status()
            }
            _ if !any => 0,
            register::DEVICE => device,
            register::ERROR if !answers => 0,
            _ => {
                let shown = if self.state.control & PREVIOUS == 0 {
                    now
                } else {
                    previous
                };
                let index = usize::from(offset.wrapping_sub(register::ERROR));
                shown.get(index).copied().unwrap_or(0)
            }
        };
        trace::ide_ioport_read(offset, value);
        value
    }

    /// Writes a register of the command block.
    pub fn write(&mut self, cx: &mut Context<'_>, offset: u16, width: Width, value: u32) {
        if offset == register::DATA && width != Width::Byte {
            for word in 0..width.bytes() / 2 {
                self.data_write(cx, (value >> (16 * word)) as u16);
            }
            return;
        }
        for (offset, byte) in (offset..).zip(value.to_le_bytes()).take(width as usize) {
            self.write_byte(cx, offset, byte);
        }
    }

    fn write_byte(&mut self, cx: &mut Context<'_>, offset: u16, value: u8) {
        trace::ide_ioport_write(offset, value);
        let is_command = offset == register::STATUS;
        if !is_command && self.unit().registers.status & (BUSY | DRQ) != 0 {
            return;
        }
        self.state.control &= !PREVIOUS;
        if is_command {
            self.set_line(cx, false);
            return self.execute(cx, value);
        }
        for Unit { registers, .. } in &mut self.units {
            let Registers {
                feature,
                count,
                lba: [low, middle, high],
                previous,
                device,
                ..
            } = registers;
            let (register, before) = match offset {
                register::ERROR => (feature, &mut previous[0]),
                register::COUNT => {
                    previous[1] = *count as u8;
                    *count = value.into();
                    continue;
                }
                register::LBA_LOW => (low, &mut previous[2]),
                register::LBA_MID => (middle, &mut previous[3]),
                register::LBA_HIGH => (high, &mut previous[4]),
                register::DEVICE => {
                    *device = value | DEVICE_ONES;
                    continue;
                }
                _ => continue,
            };
            *before = *register;
            *register = value;
        }
        if offset == register::DEVICE {
            self.state.selected = u8::from(value & DEVICE_SECOND != 0);
        }
    }

    fn data_read(&mut self, cx: &mut Context<'_>) -> u16 {
        let State { at, end, port, .. } = self.state;
        let ready = self.unit().registers.status & DRQ != 0 && !port.is_out();
        if !ready || port == Port::Idle || at >= end {
            return 0;
        }
        // Behind an odd end is nothing.
        let byte = |at: u16| self.buffer.get(usize::from(at)).copied();
        let high = byte(at + 1).filter(|_| at + 1 < end).unwrap_or(0);
        let value = u16::from_le_bytes([byte(at).unwrap_or(0), high]);
        self.advance(cx);
        value
    }

    fn data_write(&mut self, cx: &mut Context<'_>, value: u16) {
        let at = usize::from(self.state.at);
        let ready = self.unit().registers.status & DRQ != 0 && self.state.port.is_out();
        let ready = ready && self.state.at < self.state.end;
        let word = self.buffer.get_mut(at..at + 2);
        let Some(word) = word.filter(|_| ready) else {
            return;
        };
        word.copy_from_slice(&value.to_le_bytes());
        self.advance(cx);
    }

    /// A word has passed the data port.
    fn advance(&mut self, cx: &mut Context<'_>) {
        self.state.at += 2;
        if self.state.at < self.state.end {
            return;
        }
        self.registers().status &= !DRQ;
        match core::mem::replace(&mut self.state.port, Port::Idle) {
            Port::Idle | Port::Page => {}
            Port::ReadSectors => self.read_sectors(cx),
            Port::WriteSectors => self.write_sectors(cx),
            Port::Packet => atapi::command(self, cx),
            Port::Reply => atapi::reply_end(self, cx),
        }
    }

    /// Lets the guest move these bytes of the buffer by the data port.
    pub(super) fn transfer(&mut self, port: Port, range: Range<usize>) {
        let end = range.end.min(BUFFER);
        self.state.port = port;
        self.state.at = range.start.min(end) as u16;
        self.state.end = end as u16;
        if self.buffer.len() < end {
            // There is room: no transfer has more than the buffer.
            let _ = self.buffer.resize(end, 0);
        }
        let registers = self.registers();
        if registers.status & ERR == 0 {
            registers.status |= DRQ;
        }
    }

    /// Lets the guest read a page.
    fn page(&mut self, cx: &mut Context<'_>, page: &[u8]) {
        self.buffer.clear();
        // It fits.
        let _ = self.buffer.extend_from_slice(page);
        self.registers().status = READY | SEEK;
        self.transfer(Port::Page, 0..page.len());
        self.interrupt(cx);
    }

    /// What the drive waits for.
    pub(super) fn wait(&mut self, job: Job) {
        self.state.job = Some(job);
        self.state.issued = false;
    }

    fn fail(&mut self, cx: &mut Context<'_>) {
        self.state.port = Port::Idle;
        self.registers().abort();
        self.interrupt(cx);
    }

    fn execute(&mut self, cx: &mut Context<'_>, code: u8) {
        trace::ide_exec_cmd(self.state.selected, code);
        let second = self.state.selected & 1 != 0;
        let Unit { registers, drive } = self.unit_mut();
        if second && drive.is_none() {
            return;
        }
        let is_cdrom = drive.as_ref().is_some_and(Drive::is_cdrom);
        if registers.status & (BUSY | DRQ) != 0 && !(is_cdrom && code == command::DEVICE_RESET) {
            return;
        }
        registers.status = READY | BUSY;
        registers.error = 0;
        let done = match (is_cdrom, is_for_disks(code), is_for_cds(code)) {
            (false, true, _) | (true, _, true) => self.run(cx, code),
            _ => Done::Aborted,
        };
        let registers = self.registers();
        match done {
            Done::Later => return,
            Done::Aborted => registers.abort(),
            Done::Now => registers.status &= !BUSY,
            Done::InPlace => registers.status = registers.status & !BUSY | SEEK,
        }
        self.interrupt(cx);
    }

    /// Carries out a command that the drive knows.
    fn run(&mut self, cx: &mut Context<'_>, code: u8) -> Done {
        let selected = usize::from(self.state.selected & 1);
        let Unit { registers, drive } = self.unit_mut();
        if code == command::DIAGNOSTIC {
            self.diagnose(cx, selected);
            return Done::Later;
        }
        let Some(drive) = drive else {
            return match code {
                command::FLUSH | command::FLUSH_EXT => Done::InPlace,
                _ => Done::Aborted,
            };
        };
        if drive.is_cdrom() {
            return self.run_packet(cx, code);
        }
        match code {
            command::RECALIBRATE | command::SEEK => Done::InPlace,
            command::VERIFY | command::VERIFY_ONCE | command::VERIFY_EXT => {
                registers.begin(code == command::VERIFY_EXT);
                Done::InPlace
            }
            command::READ_NATIVE_MAX | command::READ_NATIVE_MAX_EXT => {
                let Some(last) = drive.sectors().checked_sub(1) else {
                    return Done::Aborted;
                };
                registers.begin(code == command::READ_NATIVE_MAX_EXT);
                registers.set_sector(drive, last);
                Done::InPlace
            }
            command::READ | command::READ_ONCE | command::READ_EXT => {
                registers.begin(code == command::READ_EXT);
                self.start_sectors(cx, 1, false)
            }
            command::READ_MULTIPLE | command::READ_MULTIPLE_EXT => {
                let most = drive.state.multiple;
                registers.begin(code == command::READ_MULTIPLE_EXT);
                self.start_sectors(cx, most, false)
            }
            command::WRITE | command::WRITE_ONCE | command::WRITE_VERIFY | command::WRITE_EXT => {
                registers.begin(code == command::WRITE_EXT);
                self.start_sectors(cx, 1, true)
            }
            command::WRITE_MULTIPLE | command::WRITE_MULTIPLE_EXT => {
                let most = drive.state.multiple;
                registers.begin(code == command::WRITE_MULTIPLE_EXT);
                self.start_sectors(cx, most, true)
            }
            command::READ_DMA | command::READ_DMA_ONCE | command::READ_DMA_EXT => {
                registers.begin(code == command::READ_DMA_EXT);
                self.start_dma(Job::ReadDma)
            }
            command::WRITE_DMA | command::WRITE_DMA_ONCE | command::WRITE_DMA_EXT => {
                registers.begin(code == command::WRITE_DMA_EXT);
                self.start_dma(Job::WriteDma)
            }
            command::DATA_SET_MANAGEMENT if registers.feature == 1 => {
                // Ranges are counted in sectors, by 16 bits.
                self.start_dma(Job::Trim(0))
            }
            command::INITIALIZE_PARAMETERS => {
                drive.state.heads = Some(((registers.device & 0xf) + 1, registers.count as u8));
                Done::InPlace
            }
            command::SET_MULTIPLE => {
                let count = registers.count as u8;
                if count > identify::MULTIPLE_MAX || count & count.wrapping_sub(1) != 0 {
                    return Done::Aborted;
                }
                drive.state.multiple = count;
                Done::InPlace
            }
            command::CHECK_POWER | command::CHECK_POWER_2 => {
                // It is active, or idle.
                registers.count = 0xff;
                Done::InPlace
            }
            command::WEAR_LEVEL => {
                registers.count = 0;
                Done::InPlace
            }
            command::STANDBY_NOW
            | command::STANDBY_NOW_2
            | command::STANDBY
            | command::STANDBY_2
            | command::IDLE_NOW
            | command::IDLE_NOW_2
            | command::IDLE
            | command::IDLE_2
            | command::SLEEP
            | command::SLEEP_2 => Done::Now,
            command::FLUSH | command::FLUSH_EXT => {
                self.wait(Job::Flush);
                Done::Later
            }
            command::IDENTIFY => {
                let page = identify::page(drive);
                self.page(cx, &page);
                Done::Later
            }
            command::SET_FEATURES => self.set_features(),
            command::SMART => self.smart(cx),
            _ => Done::Aborted,
        }
    }

    fn run_packet(&mut self, cx: &mut Context<'_>, code: u8) -> Done {
        let Unit {
            registers,
            drive: Some(drive),
        } = self.unit_mut()
        else {
            return Done::Aborted;
        };
        match code {
            command::IDENTIFY_PACKET => {
                let page = identify::page(drive);
                self.page(cx, &page);
                Done::Later
            }
            command::PACKET => atapi::begin(self),
            command::DEVICE_RESET => {
                registers.reset(Some(drive));
                drive.state.packet.reset();
                registers.status = 0;
                self.drop_job();
                Done::Later
            }
            command::READ | command::IDENTIFY => {
                // That they fail so is how the drive is known (volume 1, section 6.16.5.2).
                registers.sign(Some(drive));
                Done::Aborted
            }
            command::FLUSH => {
                self.wait(Job::Flush);
                Done::Later
            }
            command::SET_FEATURES => self.set_features(),
            _ => Done::Aborted,
        }
    }

    fn set_features(&mut self) -> Done {
        let Unit {
            registers,
            drive: Some(drive),
        } = self.unit_mut()
        else {
            return Done::Aborted;
        };
        match registers.feature {
            // Write cache on, and off.
            0x02 => drive.state.write_cache = Some(true),
            0x82 => {
                drive.state.write_cache = Some(false);
                self.wait(Job::Flush);
                return Done::Later;
            }
            // Transfer mode.
            0x03 => {
                let (kind, bit) = (registers.count as u8 >> 3, registers.count as u8 & 7);
                drive.state.mode = match kind {
                    // By the data port: none of the others is chosen.
                    0 | 1 => Some((0, 8)),
                    2 => Some((0, bit)),
                    4 => Some((1, bit)),
                    8 => Some((2, bit)),
                    _ => return Done::Aborted,
                };
            }
            // Read look-ahead, power management, acoustics, and keeping or reverting settings:
            // nothing of it shows.
            0x05 | 0x42 | 0x55 | 0x66 | 0x67 | 0x69 | 0x85 | 0x96 | 0x9a | 0xaa | 0xc2 | 0xcc => {}
            _ => return Done::Aborted,
        }
        Done::InPlace
    }

    fn smart(&mut self, cx: &mut Context<'_>) -> Done {
        let Unit {
            registers,
            drive: Some(drive),
        } = self.unit_mut()
        else {
            return Done::Aborted;
        };
        let [which, middle, high] = registers.lba;
        let feature = registers.feature;
        if (middle, high) != SMART_SIGNATURE || !drive.state.smart && feature != 0xd8 {
            return Done::Aborted;
        }
        let state = &mut drive.state;
        let page = match (feature, which) {
            (0xd8, _) => {
                state.smart = true;
                return Done::InPlace;
            }
            (0xd9, _) => {
                state.smart = false;
                return Done::InPlace;
            }
            (0xd2, 0 | 0xf1) => {
                state.smart_autosave = which != 0;
                return Done::InPlace;
            }
            // All is well: the signature stays as it is.
            (0xda, _) => return Done::InPlace,
            (0xd4, 0..=2) => {
                if state.tests.is_full() {
                    state.tests.clear();
                }
                // There is room now.
                let _ = state.tests.push(which);
                return Done::InPlace;
            }
            (0xd0, _) => identify::attributes(state.smart_autosave),
            (0xd1, _) => identify::thresholds(),
            (0xd5, 1) => identify::error_log(),
            (0xd5, 6) => identify::test_log(&state.tests),
            _ => return Done::Aborted,
        };
        self.page(cx, &page);
        Done::Later
    }

    // ---- Sectors by the data port ---------------------------------------------------------------

    /// Begins to move sectors, at most `most` at a time.
    fn start_sectors(&mut self, cx: &mut Context<'_>, most: u8, write: bool) -> Done {
        if most == 0 {
            return Done::Aborted;
        }
        if let Some(drive) = &mut self.unit_mut().drive {
            drive.state.packet.at_once = most;
        }
        if write {
            let bytes = self.at_once() as usize * SECTOR as usize;
            self.registers().status = READY | SEEK;
            self.buffer.clear();
            self.transfer(Port::WriteSectors, 0..bytes);
        } else {
            self.read_sectors(cx);
        }
        Done::Later
    }

    /// Sectors that move next.
    fn at_once(&self) -> u32 {
        let unit = self.unit();
        let drive = unit.drive.as_ref();
        let most = drive.map_or(1, |drive| drive.state.packet.at_once.into());
        unit.registers.count.min(most)
    }

    fn read_sectors(&mut self, cx: &mut Context<'_>) {
        let count = self.at_once();
        let registers = self.registers();
        registers.status = READY | SEEK;
        registers.error = 0;
        if count != 0 {
            self.sectors_job(cx, count, Job::ReadSectors);
        }
    }

    fn write_sectors(&mut self, cx: &mut Context<'_>) {
        let count = self.at_once();
        self.registers().status = READY | SEEK;
        self.sectors_job(cx, count, Job::WriteSectors);
    }

    fn sectors_job(&mut self, cx: &mut Context<'_>, count: u32, job: Job) {
        let Unit { registers, drive } = self.unit_mut();
        registers.status |= BUSY;
        let fits = drive
            .as_ref()
            .is_some_and(|drive| drive.has(registers.sector(drive), count.into()));
        match fits {
            true => self.wait(job),
            false => self.fail(cx),
        }
    }

    /// So many sectors have moved.
    fn moved(&mut self, count: u32) {
        let Unit { registers, drive } = self.unit_mut();
        registers.count = registers.count.saturating_sub(count);
        if let Some(drive) = drive {
            let next = registers.sector(drive).wrapping_add(count.into());
            registers.set_sector(drive, next);
        }
    }

    // ---- The bus master -------------------------------------------------------------------------

    /// Begins a transfer that the bus master carries out once it is started.
    fn start_dma(&mut self, job: Job) -> Done {
        self.registers().status = READY | SEEK | DRQ;
        self.state.port = Port::Idle;
        self.wait(job);
        Done::Later
    }

    /// Reads a register of the bus master.
    pub fn master_read(&self, offset: u64, width: Width) -> u32 {
        self.master.read(offset, width.bytes())
    }

    /// Writes a register of the bus master. A transfer that is under way when it is stopped goes on to
    /// its end, as if it had come to it before.
    pub fn master_write(&mut self, offset: u64, width: Width, value: u32) {
        if self.master.write(offset, width.bytes(), value) != Change::None {
            trace::bmdma_cmd_write(value as u8);
        }
    }

    /// The transfer has ended, one way or another.
    pub(super) fn end_dma(&mut self) {
        self.state.job = None;
        self.state.issued = false;
        let longer = core::mem::take(&mut self.state.longer);
        self.master.end(longer);
    }

    fn fail_dma(&mut self, cx: &mut Context<'_>) {
        self.state.longer = false;
        self.end_dma();
        self.fail(cx);
    }

    // ---- Requests -------------------------------------------------------------------------------

    /// A drive whose request was given up.
    pub(super) fn take_cancelled(&mut self) -> Option<DriveId> {
        self.cancelled.take()
    }

    /// A request that was planned goes to the block layer.
    pub(super) fn issue<'a>(&'a mut self, planned: Planned, segments: &'a Segments) -> Request<'a> {
        let Planned {
            drive,
            operation,
            offset,
            bytes,
            place,
        } = planned;
        self.state.issued = true;
        self.tag = self.tag.wrapping_add(1);
        let data = match place {
            Place::None => Data::None,
            Place::Guest => Data::Guest(segments),
            Place::Read => Data::Read,
            Place::Write => Data::Write(&self.buffer),
        };
        Request {
            drive,
            tag: self.tag,
            operation,
            offset,
            length: bytes,
            data,
        }
    }

    /// The next request of this channel, if there is one: see
    /// [`crate::devices::block::BlockController::next_request`].
    pub(super) fn plan(
        &mut self,
        cx: &mut Context<'_>,
        segments: &mut Segments,
    ) -> Option<Planned> {
        // A trim of ranges that are all empty ends without a request, and so may others.
        let job = self.state.job.filter(|_| !self.state.issued)?;
        let Unit {
            registers,
            drive: Some(drive),
        } = self.unit()
        else {
            self.state.job = None;
            return None;
        };
        let id = drive.id();
        let force_unit_access = !drive.write_cache();
        let sector = registers.sector(drive);
        let count = self.at_once();
        let planned = |operation, sectors: u32, place| {
            Some(Planned {
                drive: id,
                operation,
                offset: sector.wrapping_mul(SECTOR),
                bytes: u64::from(sectors) * SECTOR,
                place,
            })
        };
        match job {
            Job::Flush => Some(Planned {
                drive: id,
                operation: Operation::Flush,
                offset: 0,
                bytes: 0,
                place: Place::None,
            }),
            Job::ReadSectors | Job::WriteSectors => {
                let is_write = job == Job::WriteSectors;
                let bytes = count as usize * SECTOR as usize;
                // Only a medium that has shrunk, or saved state that was changed, has nothing there.
                let fits = count != 0 && drive.has(sector, count.into());
                if !fits || is_write && self.buffer.len() != bytes {
                    self.state.job = None;
                    self.fail(cx);
                    return None;
                }
                match is_write {
                    true => planned(Operation::Write { force_unit_access }, count, Place::Write),
                    false => planned(Operation::Read, count, Place::Read),
                }
            }
            Job::ReadDma | Job::WriteDma => {
                let count = registers.count;
                let fits = drive.has(sector, count.into());
                if !self.master.is_active() || !self.regions(cx, count, segments) {
                    return None;
                }
                if !fits {
                    self.fail_dma(cx);
                    return None;
                }
                let operation = match job {
                    Job::ReadDma => Operation::Read,
                    _ => Operation::Write { force_unit_access },
                };
                planned(operation, count, Place::Guest)
            }
            Job::Trim(next) => self.trim(cx, segments, next),
            Job::ReadBlocks | Job::BlocksDma => atapi::plan(self, cx, segments, job),
        }
    }

    /// Finds memory for so many sectors. A table that is too short ends the transfer, and nobody is
    /// told but by the status register.
    fn regions(&mut self, cx: &Context<'_>, sectors: u32, segments: &mut Segments) -> bool {
        let bytes = u64::from(sectors) * SECTOR;
        let (taken, all) = self.master.regions(cx.ram, bytes, segments);
        self.state.longer = false;
        if taken < bytes {
            self.registers().status = READY | SEEK;
            self.end_dma();
            return false;
        }
        self.state.longer = all > bytes;
        true
    }

    /// The next range that is to be trimmed.
    fn trim(
        &mut self,
        cx: &mut Context<'_>,
        segments: &mut Segments,
        next: u32,
    ) -> Option<Planned> {
        let count = self.unit().registers.count & 0xffff;
        let ranges = count * 64;
        if !self.master.is_active() || !self.regions(cx, count, segments) {
            return None;
        }
        if ranges > TRIM_RANGES {
            self.fail_dma(cx);
            return None;
        }
        for index in next..ranges {
            let range = range_at(cx.ram, segments, index);
            let (sector, sectors) = (range & 0xffff_ffff_ffff, range >> 48);
            if sectors == 0 {
                continue;
            }
            let drive = self.unit().drive.as_ref();
            let Some(drive) = drive.filter(|drive| drive.has(sector, sectors)) else {
                self.fail_dma(cx);
                return None;
            };
            let planned = Planned {
                drive: drive.id(),
                operation: Operation::Discard,
                offset: sector * SECTOR,
                bytes: sectors * SECTOR,
                place: Place::None,
            };
            self.state.job = Some(Job::Trim(index + 1));
            return Some(planned);
        }
        self.moved(count);
        self.end_of_dma(cx);
        None
    }

    /// All sectors have moved.
    fn end_of_dma(&mut self, cx: &mut Context<'_>) {
        self.registers().status = READY | SEEK;
        self.interrupt(cx);
        self.end_dma();
    }

    /// A request has ended.
    pub(super) fn done(
        &mut self,
        cx: &mut Context<'_>,
        drive: DriveId,
        tag: u32,
        outcome: Outcome,
        bytes: &[u8],
    ) {
        let own = self.unit().drive.as_ref().map(Drive::id);
        let job = self.state.job.filter(|_| self.state.issued);
        let Some(job) = job.filter(|_| tag == self.tag && own == Some(drive)) else {
            return;
        };
        self.state.issued = false;
        let count = self.at_once();
        match (job, outcome) {
            (Job::ReadBlocks | Job::BlocksDma, _) => atapi::done(self, cx, job, outcome, bytes),
            (Job::ReadDma | Job::WriteDma | Job::Trim(_), Err(_)) => self.fail_dma(cx),
            (_, Err(_)) => {
                self.state.job = None;
                self.fail(cx);
            }
            (Job::Flush, Ok(())) => {
                self.state.job = None;
                self.registers().status = READY | SEEK;
                self.interrupt(cx);
            }
            (Job::ReadSectors, Ok(())) => {
                self.state.job = None;
                self.registers().status &= !BUSY;
                self.moved(count);
                self.buffer.clear();
                // The block layer gives as much as was asked for.
                let _ = self.buffer.extend_from_slice(bytes);
                self.transfer(Port::ReadSectors, 0..count as usize * SECTOR as usize);
                self.interrupt(cx);
            }
            (Job::WriteSectors, Ok(())) => {
                self.state.job = None;
                self.registers().status &= !BUSY;
                self.moved(count);
                let next = self.at_once() as usize;
                if next != 0 {
                    self.buffer.clear();
                    self.transfer(Port::WriteSectors, 0..next * SECTOR as usize);
                }
                self.interrupt(cx);
            }
            (Job::ReadDma | Job::WriteDma, Ok(())) => {
                let count = self.unit().registers.count;
                self.moved(count);
                self.end_of_dma(cx);
            }
            // The next range.
            (Job::Trim(_), Ok(())) => {}
        }
    }

    /// A drive of this channel.
    pub(super) fn drive_mut(&mut self, id: DriveId) -> Option<&mut Drive> {
        let mut drives = self.units.iter_mut().flat_map(|unit| &mut unit.drive);
        drives.find(|drive| drive.id() == id)
    }

    /// The saved form.
    pub(super) fn save(&self) -> Saved {
        let Self {
            line: _,
            units,
            master,
            state,
            buffer,
            cancelled: _,
            tag: _,
        } = self;
        let units = units.each_ref().map(|unit| {
            let drive = unit.drive.as_ref();
            (unit.registers, drive.map(|drive| drive.state.clone()))
        });
        Saved {
            units,
            master: *master,
            state: *state,
            buffer: buffer.clone(),
        }
    }

    /// Whether a saved form can be loaded.
    pub(super) fn check(&self, saved: &Saved) -> Result<(), StateError> {
        for (unit, (_, drive)) in self.units.iter().zip(&saved.units) {
            match (&unit.drive, drive) {
                (Some(_), Some(drive)) => drive.check()?,
                (None, None) => {}
                _ => return Err(StateError::Invalid("drives")),
            }
        }
        let State {
            at, end, job, port, ..
        } = saved.state;
        let drive = saved.units[usize::from(saved.state.selected & 1)]
            .1
            .as_ref();
        let is_idle = job.is_none() && matches!(port, Port::Idle | Port::Page);
        // Where the last transfer was in a buffer that has other contents since is nobody's business.
        let inside = port == Port::Idle || at <= end && usize::from(end) <= saved.buffer.len();
        if saved.state.selected > 1 || !inside || drive.is_none() && !is_idle {
            return Err(StateError::Invalid("state"));
        }
        Ok(())
    }

    /// Takes over a saved form that was checked.
    pub(super) fn load(&mut self, saved: Saved, cx: &mut Context<'_>) {
        self.drop_job();
        let Saved {
            units,
            master,
            state,
            buffer,
        } = saved;
        for (unit, (registers, state)) in self.units.iter_mut().zip(units) {
            unit.registers = registers;
            if let (Some(drive), Some(state)) = (&mut unit.drive, state) {
                drive.state = state;
            }
        }
        self.master = master;
        self.state = state;
        self.buffer = buffer;
        // It is handed out again. Of a trim, the range that was under way is the last one.
        self.state.issued = false;
        if let Some(Job::Trim(next)) = &mut self.state.job {
            *next = next.saturating_sub(1);
        }
        cx.lines.set(self.line, state.line);
    }
}

/// A range of a trim: sector in bits 47:0, sectors in the others.
fn range_at(ram: &dyn GuestRam, segments: &[Segment], index: u32) -> u64 {
    let mut skip = u64::from(index) * 8;
    let mut range = [0; 8];
    for (number, segment) in segments.iter().enumerate() {
        if skip >= segment.length.into() {
            skip -= u64::from(segment.length);
            continue;
        }
        // Regions have even lengths: a range may lie in two of them, and no more than four.
        let mut pieces = heapless::Vec::<Segment, 4>::new();
        pieces.extend(segments[number..].iter().take(4).copied());
        pieces[0].gpa = pieces[0].gpa.wrapping_add(skip);
        pieces[0].length -= skip as u32;
        // What is no memory is no range.
        if copy_from(ram, &pieces, &mut range).is_err() {
            range = [0; 8];
        }
        break;
    }
    u64::from_le_bytes(range)
}

/// How a command goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It has ended.
    Now,
    /// It has ended, and the drive has found its place.
    InPlace,
    /// It has failed.
    Aborted,
    /// It ends later, or has set the registers itself.
    Later,
}

/// A request as it is going to be.
pub(super) struct Planned {
    pub(super) drive: DriveId,
    pub(super) operation: Operation,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) place: Place,
}

/// Where its bytes are.
pub(super) enum Place {
    None,
    /// In the pieces of memory that were found.
    Guest,
    /// They are going to be in the buffer.
    Read,
    /// They are in the buffer.
    Write,
}

/// Whether disks know a command.
fn is_for_disks(code: u8) -> bool {
    !matches!(
        code,
        command::DEVICE_RESET | command::PACKET | command::IDENTIFY_PACKET
    )
}

/// Whether drives for CDs know a command.
fn is_for_cds(code: u8) -> bool {
    matches!(
        code,
        command::DEVICE_RESET
            | command::PACKET
            | command::IDENTIFY_PACKET
            | command::READ
            | command::DIAGNOSTIC
            | command::FLUSH
            | command::IDENTIFY
            | command::SET_FEATURES
    )
}
