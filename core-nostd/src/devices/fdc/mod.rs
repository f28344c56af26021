//! The floppy disk controller of a PC: an Intel 82078, and two drives.
//!
//! Follows the 82078's datasheet (Intel 290475), as QEMU's `isa-fdc` presents it: registers 1 to 5 and 7 answer, status
//! register A does not; implied seeks are always on; a head is where it is told to go at once; a READ TRACK is a READ; deleted
//! data is not found; SCAN commands always report a hit; reading MSR ends the reset that DOR holds; parameters of
//! commands that only matter to real media are kept and do nothing.
//!
//! Where QEMU contradicts the datasheet (sections 5.1.4 and 5.2), the datasheet is followed: FORMAT TRACK formats, by filling the sectors
//! that it is told of; a sector that can't be read ends a command with a data error, not with zeros; programmed
//! writes that end with a track's last sector, or fail, end with a result.
//!
//! The machine moves bytes between the controller and the DMA controller ([`Fdc::move_by_dma`]). Sectors pass through the FIFO, for which
//! there is a request to the block layer each.
//!
//! Not modelled: bytes between sectors, marks, checksums, the time that media and motors take, power management.

mod commands;
pub mod drive;

use serde::{Deserialize, Serialize};

use super::block::{
    BlockController, Data, DriveId, Failure, Medium, Operation, Outcome, Request, SECTOR, Segments,
};
use super::class::{DeviceClass, Property, PropertyKind, PropertyValues, Value};
use super::dma::Dma;
use super::{Context, PortDevice, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::time::TimerId;
use crate::trace::events as trace;
use commands::{OPTION_HIGH, decode};
use drive::{Drive, Kind, kind_property};

/// First port of the controller, which it does not answer at.
pub const BASE: u16 = 0x3f0;
/// The ports that it answers at: where ranges begin, and how many there are.
pub const PORTS: [(u16, u16); 2] = [(BASE + 1, 5), (BASE + 7, 1)];
/// Interrupt.
pub const IRQ: u8 = 6;
/// DMA channel.
pub const CHANNEL: usize = 2;
/// Drives.
pub const DRIVES: usize = 2;
/// The name of the bus that drives are on.
pub const BUS: &str = "floppy-bus.0";

/// Properties with the drives' places in the boot order.
pub const BOOT_INDICES: [&str; DRIVES] = ["bootindexA", "bootindexB"];
/// The drives' paths in the boot order.
pub const BOOT_PATHS: [&str; DRIVES] = [
    "/pci@i0cf8/isa@1/fdc@03f0/floppy@0",
    "/pci@i0cf8/isa@1/fdc@03f0/floppy@1",
];

/// The property with the kind of drives whose kind nothing tells.
pub const FALLBACK: &str = "fallback";

/// What the controller's properties say of that.
pub fn fallback(values: &PropertyValues) -> Kind {
    Kind::of(values, FALLBACK).unwrap_or(Kind::Inch3Extra)
}

/// What `-global` and the object tree know of the controller.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-fdc",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "floppy disk controller",
    user_creatable: false,
    properties: &[
        Property {
            name: BOOT_INDICES[0],
            kind: PropertyKind::Int32,
            default: Value::Unset,
            doc: "place of drive A among what firmware boots from",
        },
        Property {
            name: BOOT_INDICES[1],
            kind: PropertyKind::Int32,
            default: Value::Unset,
            doc: "place of drive B among what firmware boots from",
        },
        Property {
            name: "dma",
            kind: PropertyKind::Uint32,
            default: Value::Uint(CHANNEL as u64),
            doc: "DMA channel",
        },
        kind_property(FALLBACK, "288", "drives whose kind nothing tells"),
        kind_property("fdtypeA", "auto", "drive A, unless it is a device"),
        kind_property("fdtypeB", "auto", "drive B, unless it is a device"),
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(BASE as u64),
            doc: "first port",
        },
        Property {
            name: "irq",
            kind: PropertyKind::Uint32,
            default: Value::Uint(IRQ as u64),
            doc: "interrupt",
        },
    ],
};

/// Offsets of registers.
mod register {
    /// Status register B.
    pub(super) const SRB: u16 = 1;
    /// Digital output.
    pub(super) const DOR: u16 = 2;
    /// Tape drive.
    pub(super) const TDR: u16 = 3;
    /// Read: main status; written: data rate select.
    pub(super) const MSR: u16 = 4;
    pub(super) const FIFO: u16 = 5;
    /// Read: digital input; written: configuration control.
    pub(super) const DIR: u16 = 7;
}

/// SRB: bits that are always 1.
const SRB_ONES: u8 = 0xc0;
/// SRB: the lowest bit of the drive's number.
const SRB_DRIVE: u8 = 1 << 5;

/// DOR: the chosen drive.
const DOR_DRIVE: u8 = 1 << 0;
/// DOR: not in reset.
const DOR_NOT_RESET: u8 = 1 << 2;
/// DOR: interrupts, and DMA.
const DOR_DMA: u8 = 1 << 3;

/// TDR: drives A and B change places.
const TDR_SWAP: u8 = 1 << 2;

/// DSR and CCR: the data rate.
const RATE: u8 = 3;
/// DSR: power down.
const DSR_POWER_DOWN: u8 = 1 << 6;
/// DSR: reset.
const DSR_RESET: u8 = 1 << 7;

/// MSR: a command is under way.
const MSR_BUSY: u8 = 1 << 4;
/// MSR: data goes through the FIFO, by the processor.
const MSR_NON_DMA: u8 = 1 << 5;
/// MSR: the FIFO is to be read.
const MSR_DIO: u8 = 1 << 6;
/// MSR: the FIFO is ready.
const MSR_RQM: u8 = 1 << 7;

/// DIR: the disk change line.
const DIR_CHANGED: u8 = 1 << 7;

/// ST0: the head.
const ST0_HEAD: u8 = 1 << 2;
/// ST0: a seek, or a step to another track, is done.
const ST0_SEEK_END: u8 = 1 << 5;
/// ST0: abnormal termination.
const ST0_ABNORMAL: u8 = 1 << 6;
/// ST0: invalid command.
const ST0_INVALID: u8 = 2 << 6;
/// ST0: the drive is ready, or no longer is.
const ST0_READY_CHANGED: u8 = 3 << 6;

/// ST1: no address mark.
const ST1_NO_MARK: u8 = 1 << 0;
/// ST1: write-protected.
const ST1_NOT_WRITABLE: u8 = 1 << 1;
/// ST1: no such sector.
const ST1_NO_DATA: u8 = 1 << 2;
/// ST1: data error.
const ST1_DATA_ERROR: u8 = 1 << 5;
/// ST1: beyond the last sector.
const ST1_END_OF_CYLINDER: u8 = 1 << 7;

/// ST2: what was scanned for is there.
const ST2_HIT: u8 = 1 << 3;
/// ST2: a data error in the data field.
const ST2_DATA_FIELD: u8 = 1 << 5;

/// CONFIGURE after reset: implied seeks, the FIFO off.
const CONFIG: u8 = 0x60;

/// SENSE INTERRUPTs that follow a reset.
const RESET_SENSES: u8 = 4;

/// Bytes of the FIFO: a sector.
const FIFO: usize = SECTOR as usize;

/// Bytes that tell of a sector in FORMAT TRACK: cylinder, head, sector and size.
const ID_BYTES: u32 = 4;
/// The code for sectors of 512 bytes.
const SECTOR_SIZE_CODE: u8 = 2;

/// What the FIFO is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Command,
    Execution,
    Result,
}

/// What is done with sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Task {
    Read,
    Write,
    Verify,
    ScanEqual,
    ScanLow,
    ScanHigh,
    Format,
}

impl Task {
    fn is_scan(self) -> bool {
        matches!(self, Self::ScanEqual | Self::ScanLow | Self::ScanHigh)
    }
}

/// What an execution waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Nothing: there is none, or the processor's accesses move it on.
    Idle,
    /// Leave to move the bytes of another sector.
    Grant,
    /// A sector, from storage.
    Fetch,
    /// More leave to move the bytes of a sector that is in the FIFO.
    Move,
    /// A sector, to storage.
    Store,
    /// The next header.
    Header,
}

/// An execution of a command that moves sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Transfer {
    task: Task,
    /// Bytes that were moved.
    position: u32,
    /// Bytes that there are.
    length: u32,
    /// Bytes that the DMA controller lets through, at most `length`.
    limit: u32,
    /// The last sector of a track.
    last: u8,
    /// Goes on to the other side.
    is_multi: bool,
    /// Beyond the last sector: the next byte that is read is none.
    is_over: bool,
    /// What sectors are filled with.
    filler: u8,
    /// The bytes that tell of the sector that is formatted.
    id: [u8; ID_BYTES as usize],
}

const NO_TRANSFER: Transfer = Transfer {
    task: Task::Read,
    position: 0,
    length: 0,
    limit: 0,
    last: 0,
    is_multi: false,
    is_over: false,
    filler: 0,
    id: [0; ID_BYTES as usize],
};

/// What changes, beside the drives and the FIFO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    srb: u8,
    dor: u8,
    /// The chosen drive, by DOR or by a command since.
    chosen: u8,
    tdr: u8,
    dsr: u8,
    msr: u8,
    status0: u8,
    /// SENSE INTERRUPTs after a reset that are left.
    senses: u8,
    /// The interrupt line.
    line: bool,
    phase: Phase,
    /// Bytes of a command or a result that went through the FIFO, and all of them.
    at: u8,
    end: u8,
    stage: Stage,
    /// What the stage waits for is under way.
    is_issued: bool,
    transfer: Transfer,
    config: u8,
    precompensation: u8,
    lock: bool,
    power: u8,
    /// What SPECIFY has set: step rate; head load.
    timers: [u8; 2],
    /// When the next header comes by, with [`Stage::Header`].
    header_at: u64,
}

const RESET: State = State {
    srb: SRB_ONES,
    dor: DOR_NOT_RESET | DOR_DMA,
    chosen: 0,
    tdr: 0,
    dsr: 0,
    msr: MSR_RQM,
    status0: 0,
    senses: 0,
    line: false,
    phase: Phase::Command,
    at: 0,
    end: 1,
    stage: Stage::Idle,
    is_issued: false,
    transfer: NO_TRANSFER,
    config: CONFIG,
    precompensation: 0,
    lock: false,
    power: 0,
    timers: [0; 2],
    header_at: 0,
};

/// What the controller is wired to.
#[derive(Clone, Copy, Debug)]
pub struct FdcWiring {
    /// Interrupt.
    pub irq: IrqLine,
    /// For READ ID.
    pub timer: TimerId,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Fdc {
    wiring: FdcWiring,
    fallback: Kind,
    drives: [Drive; DRIVES],
    state: State,
    fifo: heapless::Vec<u8, FIFO>,
    /// Whose request is under way: the guest may choose another drive meanwhile.
    asked: Option<DriveId>,
    /// A drive whose request was given up.
    cancelled: Option<DriveId>,
    tag: u32,
}

/// Saved form, version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    drives: [Option<drive::State>; DRIVES],
    state: State,
    fifo: heapless::Vec<u8, FIFO>,
}

/// Why a drive was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The property, named, has a value that the drive can't have.
    Property(&'static str),
    /// Blocks of 512 bytes are all that there are.
    BlockSize,
    /// There is no place of this number.
    NoUnit(u64),
    /// The drive of this number is there already.
    UnitTaken(u8),
}

impl Fdc {
    /// The controller without drives. `fallback` is the kind of drives whose kind nothing tells.
    pub fn new(wiring: FdcWiring, fallback: Kind) -> Self {
        let mut fifo = heapless::Vec::new();
        // As many as fit.
        let _ = fifo.resize(FIFO, 0);
        Self {
            wiring,
            fallback,
            drives: [const { Drive::none() }; DRIVES],
            state: RESET,
            fifo,
            asked: None,
            cancelled: None,
            tag: 0,
        }
    }

    /// Adds a drive with these properties, and gives its number.
    ///
    /// # Errors
    /// See [`AddError`].
    pub fn add(&mut self, id: DriveId, values: &PropertyValues) -> Result<u8, AddError> {
        let uint = |name| values.uint(name).unwrap_or(0);
        let unit = match uint("unit") {
            unit if unit == u64::from(u32::MAX) => {
                let free = self.drives.iter().position(|drive| drive.id().is_none());
                free.unwrap_or(DRIVES) as u64
            }
            unit => unit,
        };
        let number = usize::try_from(unit).unwrap_or(DRIVES);
        let place = self.drives.get_mut(number);
        let place = place.ok_or(AddError::NoUnit(unit))?;
        if place.id().is_some() {
            return Err(AddError::UnitTaken(number as u8));
        }
        for name in ["logical_block_size", "physical_block_size"] {
            if !matches!(uint(name), 0 | SECTOR) {
                return Err(AddError::BlockSize);
            }
        }
        for name in ["min_io_size", "opt_io_size"] {
            if !uint(name).is_multiple_of(SECTOR) {
                return Err(AddError::Property(name));
            }
        }
        let wanted = Kind::of(values, "drive-type");
        *place = Drive::new(id, wanted, self.fallback);
        Ok(number as u8)
    }

    /// The number of a drive.
    pub fn unit(&self, drive: DriveId) -> Option<u8> {
        let mut drives = self.drives.iter();
        let found = drives.position(|other| other.id() == Some(drive));
        found.map(|number| number as u8)
    }

    /// The kind of drives whose kind nothing tells.
    pub fn fallback(&self) -> Kind {
        self.fallback
    }

    /// The kind of a drive, 0 or 1.
    pub fn kind(&self, unit: u8) -> Kind {
        self.drives
            .get(usize::from(unit))
            .map_or(Kind::None, Drive::kind)
    }

    /// Whether a place, 0 or 1, has a drive.
    pub fn has_drive(&self, unit: u8) -> bool {
        let drive = self.drives.get(usize::from(unit));
        drive.is_some_and(|drive| drive.id().is_some())
    }

    /// State after power-on.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.give_up(cx);
        self.state = RESET;
        self.fifo.fill(0);
        for drive in &mut self.drives {
            drive.reset();
        }
        cx.lines.set(self.wiring.irq, false);
    }

    /// What is under way is given up.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        if self.state.is_issued {
            self.cancelled = self.asked;
        }
        self.state.is_issued = false;
        self.state.stage = Stage::Idle;
        self.tag = self.tag.wrapping_add(1);
        cx.timers.disarm(self.wiring.timer);
    }

    /// A reset by DOR or DSR, which keeps what is configured.
    fn soft_reset(&mut self, cx: &mut Context<'_>) {
        self.give_up(cx);
        self.lower(cx);
        let State {
            tdr,
            dsr,
            config,
            precompensation,
            lock,
            power,
            timers,
            ..
        } = self.state;
        self.state = State {
            tdr,
            dsr,
            config,
            precompensation,
            lock,
            power,
            timers,
            ..RESET
        };
        for drive in &mut self.drives {
            drive.recalibrate();
        }
        self.state.status0 |= ST0_READY_CHANGED;
        self.raise(cx);
        self.state.senses = RESET_SENSES;
    }

    fn raise(&mut self, cx: &mut Context<'_>) {
        self.state.senses = 0;
        self.state.line = true;
        cx.lines.set(self.wiring.irq, true);
    }

    fn lower(&mut self, cx: &mut Context<'_>) {
        self.state.status0 = 0;
        self.state.line = false;
        cx.lines.set(self.wiring.irq, false);
    }

    /// The number, 0 or 1, of the drive that is chosen.
    fn chosen(&self) -> u8 {
        self.state.chosen & DOR_DRIVE
    }

    /// The index of the drive of a number: A and B may have changed places.
    fn index(&self, number: u8) -> usize {
        let swapped = self.state.tdr & TDR_SWAP != 0;
        usize::from(number & 1) ^ usize::from(swapped)
    }

    fn drive(&self) -> &Drive {
        &self.drives[self.index(self.chosen())]
    }

    fn drive_mut(&mut self) -> &mut Drive {
        &mut self.drives[self.index(self.chosen())]
    }

    /// Chooses the drive that a parameter names.
    fn choose(&mut self, parameter: u8) {
        self.state.chosen = parameter & DOR_DRIVE;
    }

    /// The next byte that is written is a command.
    fn command_phase(&mut self) {
        self.state.phase = Phase::Command;
        (self.state.at, self.state.end) = (0, 1);
        self.state.msr &= !(MSR_BUSY | MSR_DIO);
        self.state.msr |= MSR_RQM;
    }

    /// The guest reads a result.
    fn result(&mut self, bytes: &[u8]) {
        self.fifo[..bytes.len()].copy_from_slice(bytes);
        self.state.phase = Phase::Result;
        (self.state.at, self.state.end) = (0, bytes.len() as u8);
        self.state.msr |= MSR_BUSY | MSR_RQM | MSR_DIO;
    }

    /// A command that moves sectors has ended.
    fn finish(&mut self, cx: &mut Context<'_>, status: [u8; 3]) {
        let place = &self.drive().state;
        let (track, head, sector) = (place.track, place.head, place.sector);
        self.finish_at(cx, status, [track, head, sector]);
    }

    /// The same, with what it tells of the place.
    fn finish_at(&mut self, cx: &mut Context<'_>, status: [u8; 3], place: [u8; 3]) {
        let [status0, status1, status2] = status;
        let head = match self.drive().state.head {
            0 => 0,
            _ => ST0_HEAD,
        };
        self.state.status0 = self.state.status0 & !(ST0_HEAD | 3) | self.chosen() | head | status0;
        let [track, head, sector] = place;
        self.state.stage = Stage::Idle;
        self.state.msr &= !MSR_NON_DMA;
        let status0 = self.state.status0;
        self.result(&[
            status0,
            status1,
            status2,
            track,
            head,
            sector,
            SECTOR_SIZE_CODE,
        ]);
        self.raise(cx);
    }

    /// The head goes on to the sector behind this one; whether there is one.
    fn next_sector(&mut self) -> bool {
        let Transfer { last, is_multi, .. } = self.state.transfer;
        let drive = self.drive_mut();
        let two_sides = drive.is_double_sided();
        let drive::State {
            mut track,
            mut head,
            mut sector,
            last_sector,
            ..
        } = drive.state;
        let (mut is_there, mut steps) = (true, false);
        if sector < last_sector && sector != last {
            sector += 1;
        } else {
            sector = 1;
            if is_multi && head == 0 && two_sides {
                head = 1;
            } else {
                track = track.wrapping_add(1);
                steps = true;
                is_there = is_multi && two_sides;
                if is_multi {
                    head = 0;
                }
            }
        }
        // Where there is no such track the head stays.
        let _ = drive.seek(head, track, sector);
        if steps {
            self.state.status0 |= ST0_SEEK_END;
        }
        is_there
    }

    /// The byte of the FIFO that is moved next.
    fn fifo_at(&self) -> usize {
        self.state.transfer.position as usize % FIFO
    }

    /// Bytes of this sector that are still to be moved, without a look at DMA.
    fn left_of_sector(&self) -> usize {
        let Transfer {
            position, limit, ..
        } = self.state.transfer;
        let left = limit.saturating_sub(position) as usize;
        left.min(FIFO - self.fifo_at())
    }

    /// Begins a command that moves sectors.
    fn start(&mut self, cx: &mut Context<'_>, task: Task) {
        let mut parameters = [0; 9];
        parameters.copy_from_slice(&self.fifo[..9]);
        let [code, select, track, head, sector, size, last, _, count] = parameters;
        self.choose(select);
        let place = [track, head, sector];
        let refused = match self.drive_mut().seek(head, track, sector) {
            Err(drive::SeekError::Track) => Some(0),
            Err(drive::SeekError::Sector) => Some(ST1_END_OF_CYLINDER),
            Ok(steps) => {
                if steps {
                    self.state.status0 |= ST0_SEEK_END;
                }
                let is_rate = self.state.dsr & RATE == self.drive().rate();
                (!is_rate).then_some(ST1_NO_MARK)
            }
        };
        if let Some(status1) = refused {
            return self.finish_at(cx, [ST0_ABNORMAL, status1, 0], place);
        }
        let is_multi = code & OPTION_HIGH != 0;
        let length = if size == 0 {
            u32::from(count)
        } else {
            let sectors = i32::from(last) - i32::from(sector) + 1;
            let Ok(sectors) = u32::try_from(sectors) else {
                return self.finish_at(cx, [ST0_ABNORMAL, ST1_NO_MARK, 0], place);
            };
            let other_side = if is_multi { u32::from(last) } else { 0 };
            (128 << size.min(7)) * (sectors + other_side)
        };
        self.state.transfer = Transfer {
            task,
            length,
            limit: length,
            last,
            is_multi,
            ..NO_TRANSFER
        };
        self.run(cx);
    }

    /// Begins to format a track.
    fn start_format(&mut self, cx: &mut Context<'_>) {
        let mut parameters = [0; 6];
        parameters.copy_from_slice(&self.fifo[..6]);
        let [_, select, size, sectors, _, filler] = parameters;
        self.choose(select);
        let head = select >> 2 & 1;
        let drive = self.drive_mut();
        let track = drive.state.track;
        let status1 = match drive.seek(head, track, 1) {
            Err(_) => Some(ST1_NO_MARK),
            Ok(_) if drive.is_read_only() => Some(ST1_NOT_WRITABLE),
            Ok(_) if size != SECTOR_SIZE_CODE || sectors > drive.state.last_sector => {
                Some(ST1_NO_DATA)
            }
            Ok(_) => None,
        };
        if let Some(status1) = status1 {
            return self.finish(cx, [ST0_ABNORMAL, status1, 0]);
        }
        let length = u32::from(sectors) * ID_BYTES;
        self.state.transfer = Transfer {
            task: Task::Format,
            length,
            limit: length,
            filler,
            ..NO_TRANSFER
        };
        self.run(cx);
    }

    /// Begins to move the bytes of a command.
    fn run(&mut self, cx: &mut Context<'_>) {
        let task = self.state.transfer.task;
        if self.state.dor & DOR_DMA != 0 {
            self.state.msr &= !MSR_RQM;
            self.state.stage = Stage::Grant;
            return;
        }
        self.state.msr |= MSR_NON_DMA;
        match task {
            Task::Write | Task::Format => {
                self.state.msr |= MSR_RQM;
                self.raise(cx);
            }
            _ => {
                self.state.msr |= MSR_DIO;
                self.fetch(cx);
            }
        }
    }

    /// Another sector is wanted. One that is nowhere, as the one before a medium's first, is of zeros.
    fn fetch(&mut self, cx: &mut Context<'_>) {
        self.state.stage = Stage::Fetch;
        self.state.msr &= !MSR_RQM;
        if self.drive().offset().is_none() {
            self.failed(cx, Failure::Range);
        }
    }

    /// A sector is to be written.
    fn store(&mut self, cx: &mut Context<'_>) {
        self.state.stage = Stage::Store;
        self.state.msr &= !MSR_RQM;
        if self.drive().offset().is_none() {
            self.failed(cx, Failure::Range);
        }
    }

    /// Lets the DMA controller move what it may. The machine calls it after whatever may have let either of them go on.
    pub fn move_by_dma(&mut self, cx: &mut Context<'_>, dma: &mut Dma) {
        while matches!(self.state.stage, Stage::Grant | Stage::Move) {
            let task = self.state.transfer.task;
            let wants = task != Task::Verify;
            dma.set_request(CHANNEL, wants);
            let granted = match wants {
                true => dma.granted(CHANNEL).map(|grant| grant.bytes),
                false => Some(u32::MAX),
            };
            let Some(granted) = granted else { return };
            match self.state.stage {
                Stage::Grant => self.begin_sector(cx, granted),
                _ => self.move_bytes(cx, dma),
            }
        }
        dma.set_request(CHANNEL, false);
    }

    /// There is leave to move so many bytes, and nothing in the FIFO.
    fn begin_sector(&mut self, cx: &mut Context<'_>, granted: u32) {
        let transfer = &mut self.state.transfer;
        transfer.limit = transfer
            .position
            .saturating_add(granted)
            .min(transfer.length);
        if transfer.position >= transfer.limit {
            return self.end(cx);
        }
        let is_whole = self.left_of_sector() == FIFO;
        match self.state.transfer.task {
            Task::Write if self.drive().is_read_only() => {
                let status0 = ST0_ABNORMAL | ST0_SEEK_END;
                self.finish(cx, [status0, ST1_NOT_WRITABLE, 0]);
            }
            Task::Format => self.state.stage = Stage::Move,
            Task::Write if is_whole => self.state.stage = Stage::Move,
            _ => self.fetch(cx),
        }
    }

    /// Moves bytes between the FIFO and the DMA controller, which has granted some.
    fn move_bytes(&mut self, cx: &mut Context<'_>, dma: &mut Dma) {
        let task = self.state.transfer.task;
        if task == Task::Format {
            return self.take_id(cx, dma);
        }
        let (at, length) = (self.fifo_at(), self.left_of_sector());
        let mut theirs = [0; FIFO];
        let ours = &mut self.fifo[at..at + length];
        let moved = match task {
            Task::Read => dma.to_memory(cx, CHANNEL, ours),
            Task::Write => dma.from_memory(cx, CHANNEL, ours),
            _ if task.is_scan() => dma.from_memory(cx, CHANNEL, &mut theirs[..length]),
            // Nobody gets what is verified.
            _ => super::dma::Moved {
                bytes: length,
                terminal_count: false,
            },
        };
        if task.is_scan() {
            let order = theirs[..moved.bytes].cmp(&self.fifo[at..at + moved.bytes]);
            let is_hit = match task {
                Task::ScanLow => order.is_le(),
                Task::ScanHigh => order.is_ge(),
                _ => order.is_eq(),
            };
            if is_hit {
                return self.end(cx);
            }
        }
        let transfer = &mut self.state.transfer;
        transfer.position += moved.bytes as u32;
        if moved.terminal_count {
            transfer.limit = transfer.position;
        }
        let is_done = self.fifo_at() == 0 || transfer_is_done(&self.state.transfer);
        match task {
            _ if !is_done => {}
            Task::Write => self.store(cx),
            _ => self.sector_moved(cx),
        }
    }

    /// Takes what tells of a sector that is to be formatted.
    fn take_id(&mut self, cx: &mut Context<'_>, dma: &mut Dma) {
        let transfer = &mut self.state.transfer;
        let at = (transfer.position % ID_BYTES) as usize;
        let moved = dma.from_memory(cx, CHANNEL, &mut transfer.id[at..]);
        transfer.position += moved.bytes as u32;
        if moved.terminal_count {
            transfer.limit = transfer.position;
        }
        if transfer.position.is_multiple_of(ID_BYTES) {
            self.format_sector(cx);
        } else if moved.terminal_count {
            self.end(cx);
        }
    }

    /// Fills the sector that it is told of.
    fn format_sector(&mut self, cx: &mut Context<'_>) {
        let Transfer { id, filler, .. } = self.state.transfer;
        let [track, head, sector, size] = id;
        let drive = self.drive_mut();
        let place = &drive.state;
        let is_here = (track, head) == (place.track, place.head);
        let is_usual = is_here && sector > 0 && size == SECTOR_SIZE_CODE;
        if !is_usual || drive.seek(head, track, sector).is_err() {
            // The layout of an image can't be changed.
            return self.finish(cx, [ST0_ABNORMAL, ST1_NO_DATA, 0]);
        }
        self.fifo.fill(filler);
        self.store(cx);
    }

    /// All bytes of a sector, or all that there were, have been moved, by DMA or to nobody.
    fn sector_moved(&mut self, cx: &mut Context<'_>) {
        let whole = self.fifo_at() == 0;
        if whole && !self.next_sector() || transfer_is_done(&self.state.transfer) {
            return self.end(cx);
        }
        self.state.stage = Stage::Grant;
    }

    /// The end of a transfer that nothing is wrong with.
    fn end(&mut self, cx: &mut Context<'_>) {
        let status2 = match self.state.transfer.task.is_scan() {
            true => ST2_HIT,
            false => 0,
        };
        self.finish(cx, [0, 0, status2]);
    }

    /// A sector is in the FIFO.
    fn fetched(&mut self, cx: &mut Context<'_>) {
        if self.state.msr & MSR_NON_DMA == 0 {
            self.state.stage = Stage::Move;
            return;
        }
        self.state.stage = Stage::Idle;
        self.state.msr |= MSR_RQM;
        if self.state.transfer.position == 0 {
            self.raise(cx);
        }
    }

    /// A sector is on the medium.
    fn stored(&mut self, cx: &mut Context<'_>) {
        let by_dma = self.state.msr & MSR_NON_DMA == 0;
        let is_format = self.state.transfer.task == Task::Format;
        match by_dma {
            true if !is_format => return self.sector_moved(cx),
            true if !transfer_is_done(&self.state.transfer) => {
                self.state.stage = Stage::Grant;
                return;
            }
            _ => {}
        }
        if !is_format {
            // At the last sector of a track there is none, and more bytes for the next one all the same.
            self.next_sector();
        }
        if transfer_is_done(&self.state.transfer) {
            return self.end(cx);
        }
        self.state.stage = Stage::Idle;
        self.state.msr |= MSR_RQM;
    }

    /// Storage has failed.
    fn failed(&mut self, cx: &mut Context<'_>, failure: Failure) {
        let storing = self.state.stage == Stage::Store;
        match failure {
            Failure::Range if !storing => {
                // The image ends within its last track: the rest was never written.
                self.fifo.fill(0);
                self.fetched(cx);
            }
            Failure::ReadOnly => {
                let status0 = ST0_ABNORMAL | ST0_SEEK_END;
                self.finish(cx, [status0, ST1_NOT_WRITABLE, 0]);
            }
            _ if storing => self.finish(cx, [ST0_ABNORMAL | ST0_SEEK_END, 0, 0]),
            _ => self.finish(cx, [ST0_ABNORMAL, ST1_DATA_ERROR, ST2_DATA_FIELD]),
        }
    }

    fn read_fifo(&mut self, cx: &mut Context<'_>) -> u8 {
        self.state.dsr &= !DSR_POWER_DOWN;
        if self.state.msr & (MSR_RQM | MSR_DIO) != MSR_RQM | MSR_DIO {
            return 0;
        }
        if self.state.phase == Phase::Result {
            let value = self.fifo[usize::from(self.state.at)];
            self.state.at += 1;
            if self.state.at >= self.state.end {
                self.command_phase();
                self.lower(cx);
            }
            return value;
        }
        if self.state.transfer.is_over {
            self.go_on_reading(cx);
            return 0;
        }
        let value = self.fifo[self.fifo_at()];
        let transfer = &mut self.state.transfer;
        transfer.position = transfer.position.wrapping_add(1);
        if transfer.position == transfer.length {
            self.finish(cx, [0; 3]);
        } else if self.fifo_at() == 0 {
            self.go_on_reading(cx);
        }
        value
    }

    /// The processor has read a sector, or has to go without.
    fn go_on_reading(&mut self, cx: &mut Context<'_>) {
        let is_there = self.next_sector();
        self.state.transfer.is_over = !is_there;
        if is_there {
            self.fetch(cx);
        }
    }

    fn write_fifo(&mut self, cx: &mut Context<'_>, value: u8) {
        let ready = self.state.msr & (MSR_RQM | MSR_DIO) == MSR_RQM;
        if self.state.dor & DOR_NOT_RESET == 0 || !ready {
            return;
        }
        self.state.dsr &= !DSR_POWER_DOWN;
        if self.state.phase == Phase::Execution {
            return self.write_data(cx, value);
        }
        let at = usize::from(self.state.at);
        self.fifo[at] = value;
        if at == 0 {
            self.state.end = decode(value).1 + 1;
            self.state.msr |= MSR_BUSY;
        }
        self.state.at += 1;
        if self.state.at >= self.state.end {
            self.state.msr &= !MSR_RQM;
            self.state.phase = Phase::Execution;
            self.execute(cx);
        }
    }

    /// The processor writes to a sector.
    fn write_data(&mut self, cx: &mut Context<'_>, value: u8) {
        let at = self.fifo_at();
        let transfer = &mut self.state.transfer;
        let position = transfer.position;
        transfer.position = position.wrapping_add(1);
        if transfer.task == Task::Format {
            transfer.id[(position % ID_BYTES) as usize] = value;
            if transfer.position.is_multiple_of(ID_BYTES) {
                self.format_sector(cx);
            }
            return;
        }
        self.fifo[at] = value;
        if transfer.position == transfer.length || at == FIFO - 1 {
            self.store(cx);
        }
    }

    /// The next sector's header comes by.
    pub fn timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {
        if timer != self.wiring.timer || self.state.stage != Stage::Header {
            return;
        }
        let rate = self.state.dsr & RATE;
        let drive = self.drive_mut();
        let place = &mut drive.state;
        if let Some(sector) = place.sector.checked_rem(place.last_sector) {
            place.sector = sector + 1;
        }
        // Without a medium nothing comes by.
        let is_found = drive.rate() == rate && drive.has_medium();
        match is_found {
            true => self.finish(cx, [0; 3]),
            false => self.finish(cx, [ST0_ABNORMAL, ST1_NO_MARK, 0]),
        }
    }

    fn read_register(&mut self, cx: &mut Context<'_>, offset: u16) -> u8 {
        match offset {
            register::SRB => self.state.srb,
            register::DOR => self.state.dor | self.state.chosen,
            register::TDR => self.state.tdr,
            register::MSR => {
                self.state.dsr &= !DSR_POWER_DOWN;
                self.state.dor |= DOR_NOT_RESET;
                self.state.msr
            }
            register::FIFO => self.read_fifo(cx),
            register::DIR if self.drive().state.changed => DIR_CHANGED,
            register::DIR => 0,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, cx: &mut Context<'_>, offset: u16, value: u8) {
        let is_held = self.state.dor & DOR_NOT_RESET == 0;
        match offset {
            register::DOR => {
                let drive = (value & DOR_DRIVE) * SRB_DRIVE;
                // The first two motors.
                self.state.srb = self.state.srb & SRB_ONES | drive | value >> 4 & 3;
                if is_held && value & DOR_NOT_RESET != 0 {
                    self.soft_reset(cx);
                    self.state.dsr &= !DSR_POWER_DOWN;
                }
                self.state.dor = value;
                self.choose(value);
            }
            _ if is_held => {}
            register::TDR => self.state.tdr = value & TDR_SWAP,
            register::MSR => {
                if value & (DSR_RESET | DSR_POWER_DOWN) != 0 {
                    self.soft_reset(cx);
                }
                self.state.dsr = value;
            }
            register::FIFO => self.write_fifo(cx, value),
            register::DIR => self.state.dsr = self.state.dsr & !RATE | value & RATE,
            _ => {}
        }
    }
}

/// Whether there is nothing more to be moved.
fn transfer_is_done(transfer: &Transfer) -> bool {
    transfer.position >= transfer.limit
}

impl PortDevice for Fdc {
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        let value = self.read_register(cx, offset);
        trace::fdc_ioport_read(offset, value);
        value.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        trace::fdc_ioport_write(offset, value as u8);
        self.write_register(cx, offset, value as u8);
    }
}

impl BlockController for Fdc {
    fn next_request<'a>(
        &'a mut self,
        _cx: &mut Context<'_>,
        _segments: &'a mut Segments,
    ) -> Option<Request<'a>> {
        if self.state.is_issued {
            return None;
        }
        let (operation, data) = match self.state.stage {
            Stage::Fetch => (Operation::Read, Data::Read),
            Stage::Store => {
                let force_unit_access = false;
                let operation = Operation::Write { force_unit_access };
                (operation, Data::Write(self.fifo.as_slice()))
            }
            _ => return None,
        };
        let place = &self.drives[self.index(self.chosen())];
        let (drive, offset) = place.id().zip(place.offset())?;
        self.state.is_issued = true;
        self.asked = Some(drive);
        Some(Request {
            drive,
            tag: self.tag,
            operation,
            offset,
            length: SECTOR,
            data,
        })
    }

    fn take_cancelled(&mut self) -> Option<DriveId> {
        self.cancelled.take()
    }

    fn request_done(
        &mut self,
        cx: &mut Context<'_>,
        drive: DriveId,
        tag: u32,
        outcome: Outcome,
        bytes: &[u8],
    ) {
        if !self.state.is_issued || tag != self.tag || self.asked != Some(drive) {
            return;
        }
        self.state.is_issued = false;
        self.tag = self.tag.wrapping_add(1);
        match (self.state.stage, outcome) {
            (_, Err(failure)) => self.failed(cx, failure),
            (Stage::Fetch, Ok(())) => {
                let length = bytes.len().min(FIFO);
                self.fifo[..length].copy_from_slice(&bytes[..length]);
                self.fetched(cx);
            }
            (_, Ok(())) => self.stored(cx),
        }
    }

    fn medium_changed(&mut self, _cx: &mut Context<'_>, drive: DriveId, medium: Option<Medium>) {
        let mut drives = self.drives.iter_mut();
        if let Some(drive) = drives.find(|other| other.id() == Some(drive)) {
            drive.set_medium(medium);
        }
    }
}

impl SavedState for Fdc {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self {
            wiring: _,
            fallback: _,
            drives,
            state,
            fifo,
            asked: _,
            cancelled: _,
            tag: _,
        } = self;
        Saved {
            drives: drives
                .each_ref()
                .map(|drive| drive.id().map(|_| drive.state.clone())),
            state: state.clone(),
            fifo: fifo.clone(),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            drives,
            mut state,
            fifo,
        } = saved;
        if fifo.len() != FIFO {
            return Err(StateError::Invalid("fifo"));
        }
        let fits = |(place, saved): (&Drive, &Option<drive::State>)| {
            place.id().is_some() == saved.is_some()
        };
        if !self.drives.iter().zip(&drives).all(fits) {
            return Err(StateError::Invalid("drives"));
        }
        state.check()?;
        self.give_up(cx);
        // What was under way is handed out again.
        state.is_issued = false;
        self.state = state;
        self.fifo = fifo;
        for (place, saved) in self.drives.iter_mut().zip(drives) {
            if let Some(saved) = saved {
                place.state = saved;
            }
        }
        if self.state.stage == Stage::Header {
            cx.timers.arm(self.wiring.timer, self.state.header_at);
        }
        cx.lines.set(self.wiring.irq, self.state.line);
        Ok(())
    }
}

impl State {
    /// Whether it can be one that the registers lead to.
    fn check(&self) -> Result<(), StateError> {
        let Transfer {
            task,
            position,
            length,
            limit,
            ..
        } = self.transfer;
        let is_executing = self.phase == Phase::Execution;
        let by_dma = self.msr & MSR_NON_DMA == 0;
        let fits = match self.phase {
            // The longest command has 18 bytes, and the longest result fewer.
            Phase::Command | Phase::Result => self.end <= 18 && self.at < self.end,
            Phase::Execution => self.end <= 18,
        } && (is_executing || self.stage == Stage::Idle)
            && (!matches!(self.stage, Stage::Grant | Stage::Move) || by_dma)
            && (!by_dma || position <= length)
            && limit <= length
            && self.senses <= RESET_SENSES
            && self.chosen <= DOR_DRIVE
            && (task != Task::Format || length.is_multiple_of(ID_BYTES));
        match fits {
            true => Ok(()),
            false => Err(StateError::Invalid("state")),
        }
    }
}

#[cfg(test)]
mod tests;
