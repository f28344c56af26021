//! Virtio block device: a disk of 512-byte sectors behind virtqueues.
//!
//! Follows VIRTIO 1.2, section 5.2. Features, limits, configuration and answers to bad requests are
//! those of QEMU's `virtio-blk`: flush, a write cache that the driver may switch off, discard and
//! write-zeroes of one range each, several queues. Not modelled, and not offered: SCSI commands,
//! lifetime, secure erase and zones.
//!
//! A request is looked at when it is handed out, and what is remembered of it is its buffer's
//! descriptors, where its status byte goes, and how many bytes come back: a driver leaves
//! descriptors of buffers alone that it has given away, so that after loading saved state the same
//! chain is read again. The device has at most [`REQUESTS_MAX`] under way; further ones wait in
//! their queues.

pub mod lending;

use core::ops::Range;

use serde::{Deserialize, Serialize};

use super::queue::{
    Buffer, QueueError, RING_EVENT_IDX, RING_INDIRECT_DESC, RING_PACKED, SIZE_MAX, copy_from,
    copy_to, length, skip,
};
use super::transport::mmio::{self, VirtioMmio};
use super::transport::pci::{Interfaces, Kind, VirtioPci};
use super::transport::{IOEVENTFD, SavedDevice};
use super::{CONFIG_MAX, Common, Virtio, feature, status};
use crate::devices::block::{
    BlockController, Data, DriveId, Medium, Operation, Outcome, Request, SECTOR, Segment, Segments,
};
use crate::devices::class::{
    BOOT_INDEX, DeviceClass, IO_THREAD, Property, PropertyKind, PropertyValues, Value,
};
use crate::devices::{Context, Width};
use crate::irq::IrqLine;
use crate::memory::GuestRam;
use crate::pci::msix::VECTORS_MAX;
use crate::state::StateError;
use crate::trace::events as trace;

/// Requests that a device has under way at most.
pub const REQUESTS_MAX: usize = 128;

/// Buffers that are answered at once, without a request, before somebody else has a turn.
const ANSWERS_MAX: usize = 2 * SIZE_MAX as usize;

/// Virtio's number of this type of device.
const DEVICE_TYPE: u16 = 2;
/// PCI device ID of the transitional function.
const TRANSITIONAL_DEVICE: u16 = 0x1001;
/// Class code: mass storage, SCSI.
const CLASS_CODE: u32 = 0x01_0000;

/// Features (section 5.2.3).
mod blk {
    /// Most pieces of one request are in `seg_max`.
    pub(super) const SEG_MAX: u64 = 1 << 2;
    /// Cylinders, heads and sectors are there.
    pub(super) const GEOMETRY: u64 = 1 << 4;
    /// It takes no writes.
    pub(super) const RO: u64 = 1 << 5;
    /// Bytes of a logical block are in `blk_size`.
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    /// Legacy: SCSI commands.
    pub(super) const SCSI: u64 = 1 << 7;
    /// It has a write cache and knows how to flush it.
    pub(super) const FLUSH: u64 = 1 << 9;
    /// Sizes of physical blocks and best requests are there.
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    /// The driver may switch the write cache.
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    /// There are several queues.
    pub(super) const MQ: u64 = 1 << 12;
    /// It knows discards.
    pub(super) const DISCARD: u64 = 1 << 13;
    /// It knows how to write zeros.
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Types of requests. Bit 0 says that data go to the device.
mod kind {
    pub(super) const OUT: u32 = 1 << 0;
    /// An order that nobody keeps any more.
    pub(super) const BARRIER: u32 = 1 << 31;
    pub(super) const IN: u32 = 0;
    pub(super) const SCSI: u32 = 2;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    /// Without [`OUT`].
    pub(super) const DISCARD: u32 = 11 & !OUT;
    /// Without [`OUT`].
    pub(super) const WRITE_ZEROES: u32 = 13 & !OUT;
}

/// Status of a request: done.
const OK: u8 = 0;
/// Status of a request: failed.
const IOERR: u8 = 1;
/// Status of a request: not known.
const UNSUPP: u8 = 2;

/// Bytes of a request's header: type, reserved, first sector.
const HEADER: usize = 16;
/// Bytes of a range of discards and zeros: first sector, sectors, flags.
const RANGE: usize = 16;
/// Flags of a range: its storage may be given up.
const UNMAP: u32 = 1 << 0;
/// Bytes of a serial number at most.
pub const SERIAL_MAX: usize = 20;
/// Most bytes of a read or a write (QEMU's limit).
const BYTES_MAX: u64 = (i32::MAX as u64) & !(SECTOR - 1);

/// Where `writeback` is in the configuration.
const WRITEBACK: u64 = 32;
/// Bytes of the configuration, without discard, with it, and with write-zeroes.
const CONFIG_BYTES: [usize; 3] = [36, 48, 57];

const fn flag(name: &'static str, default: bool, doc: &'static str) -> Property {
    Property {
        name,
        kind: PropertyKind::Bool,
        default: Value::Bool(default),
        doc,
    }
}

pub(crate) const fn number(
    name: &'static str,
    kind: PropertyKind,
    default: u64,
    doc: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default: Value::Uint(default),
        doc,
    }
}

/// `on`, `off`, or whatever is best.
pub(crate) const ON_OFF_AUTO: PropertyKind = PropertyKind::Word {
    name: "OnOffAuto",
    words: &["auto", "on", "off"],
};

/// What is done about a failed request.
pub(crate) const ON_ERROR: PropertyKind = PropertyKind::Word {
    name: "BlockdevOnError",
    words: &["auto", "report", "ignore", "enospc", "stop"],
};

pub(crate) const fn word(name: &'static str, kind: PropertyKind, doc: &'static str) -> Property {
    Property {
        name,
        kind,
        default: Value::Word("auto"),
        doc,
    }
}

/// Type name of a disk on PCI.
pub(crate) const PCI_NAME: &str = "virtio-blk-pci";
/// Type name of a disk in memory.
pub(crate) const MMIO_NAME: &str = "virtio-blk-device";

/// What `-device virtio-blk-pci` takes, beside [`PROPERTIES`].
pub static PCI_CLASS: DeviceClass = DeviceClass {
    name: PCI_NAME,
    parent: "virtio-blk-pci-base",
    bus: Some("PCI"),
    doc: "virtio disk",
    user_creatable: true,
    properties: &[
        word(
            "disable-legacy",
            ON_OFF_AUTO,
            "whether it follows virtio 1.0 only",
        ),
        flag(
            "disable-modern",
            false,
            "whether it does not follow virtio 1.0",
        ),
        flag(IOEVENTFD, true, "whether the kernel takes notifications"),
        number(
            "vectors",
            PropertyKind::Uint32,
            u32::MAX as u64,
            "MSI-X vectors; one for each queue and one more by default",
        ),
    ],
};

/// What `-device virtio-blk-device` takes: [`PROPERTIES`].
pub static MMIO_CLASS: DeviceClass = DeviceClass {
    name: MMIO_NAME,
    parent: "virtio-device",
    bus: Some("virtio-bus"),
    doc: "virtio disk in memory",
    user_creatable: true,
    properties: &[],
};

/// What every virtio disk takes.
pub static PROPERTIES: &[Property] = &[
    Property {
        name: BOOT_INDEX,
        kind: PropertyKind::Int32,
        default: Value::Unset,
        doc: "place among what firmware boots from",
    },
    flag(
        "config-wce",
        true,
        "whether the driver may switch the write cache",
    ),
    number("cyls", PropertyKind::Uint32, 0, "cylinders; 0 for a guess"),
    flag("discard", true, "whether it knows discards"),
    number(
        "discard_granularity",
        PropertyKind::Size,
        u32::MAX as u64,
        "bytes that a discard is best a multiple of",
    ),
    DRIVE,
    flag("event_idx", true, "whether notifications are by index"),
    number("heads", PropertyKind::Uint32, 0, "heads; 0 for a guess"),
    flag(
        "indirect_desc",
        true,
        "whether descriptors may be in tables of their own",
    ),
    Property {
        name: IO_THREAD,
        kind: PropertyKind::IoThread,
        default: Value::Unset,
        doc: "id of the thread that serves the queues",
    },
    number(
        "logical_block_size",
        PropertyKind::Size,
        0,
        "bytes of a logical block; 0 for 512",
    ),
    number(
        "max-discard-sectors",
        PropertyKind::Uint32,
        SECTORS_MAX,
        "sectors of one discard at most",
    ),
    number(
        "max-write-zeroes-sectors",
        PropertyKind::Uint32,
        SECTORS_MAX,
        "sectors of zeros of one request at most",
    ),
    number(
        "min_io_size",
        PropertyKind::Size,
        0,
        "bytes of the least request that is good",
    ),
    number(
        "num-queues",
        PropertyKind::Uint16,
        u16::MAX as u64,
        "queues; one for each processor by default",
    ),
    number(
        "opt_io_size",
        PropertyKind::Size,
        0,
        "bytes of the best request",
    ),
    flag("packed", false, "whether queues are packed rings"),
    number(
        "physical_block_size",
        PropertyKind::Size,
        0,
        "bytes of a physical block; 0 for 512",
    ),
    number(
        "queue-size",
        PropertyKind::Uint16,
        256,
        "descriptors of a queue",
    ),
    word("rerror", ON_ERROR, "what is done about a failed read"),
    number(
        "secs",
        PropertyKind::Uint32,
        0,
        "sectors of a track; 0 for a guess",
    ),
    Property {
        name: "serial",
        kind: PropertyKind::Text,
        default: Value::Unset,
        doc: "serial number, of which 20 bytes are shown",
    },
    flag("share-rw", false, "whether others may write to the drive"),
    word("werror", ON_ERROR, "what is done about a failed write"),
    word(
        "write-cache",
        ON_OFF_AUTO,
        "whether writes may wait for a flush",
    ),
    flag("write-zeroes", true, "whether it knows how to write zeros"),
];

/// Sectors of one discard, or of zeros, at most.
const SECTORS_MAX: u64 = 0x3f_ffff;

/// The property that names what is behind a device.
pub(crate) const DRIVE: Property = Property {
    name: "drive",
    kind: PropertyKind::Drive,
    default: Value::Unset,
    doc: "id of the drive, or name of the block node, behind it",
};

/// How a disk is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    queues: u16,
    queue_size: u16,
    serial: heapless::String<SERIAL_MAX>,
    /// Bytes, powers of two.
    logical: u32,
    physical: u32,
    /// Bytes.
    min_io: u32,
    opt_io: u32,
    discard_granularity: u32,
    discard_max: u32,
    zeroes_max: u32,
    /// Cylinders, heads, sectors; 0 for a guess.
    geometry: (u16, u8, u8),
    /// Features of its own that do not depend on the medium.
    features: u64,
}

impl Settings {
    /// Those of properties, for a machine with so many processors.
    ///
    /// # Errors
    /// The property that has a value the device can't have.
    pub fn new(values: &PropertyValues, cpus: u16) -> Result<Self, &'static str> {
        let uint = |name| values.uint(name).unwrap_or(0);
        let queues = match uint("num-queues") {
            0xffff => cpus.clamp(1, super::QUEUES_MAX as u16),
            queues if (1..=super::QUEUES_MAX as u64).contains(&queues) => queues as u16,
            _ => return Err("num-queues"),
        };
        let queue_size = uint("queue-size") as u16;
        if !queue_size.is_power_of_two() || !(4..=SIZE_MAX).contains(&queue_size) {
            return Err("queue-size");
        }
        let block = |name| match uint(name) {
            0 => Ok(SECTOR as u32),
            size if size.is_power_of_two() && (SECTOR..=1 << 21).contains(&size) => Ok(size as u32),
            _ => Err(name),
        };
        let logical = block("logical_block_size")?;
        let physical = block("physical_block_size")?.max(logical);
        let blocks = |name, most: u64| match uint(name) {
            bytes if bytes.is_multiple_of(logical.into()) && bytes / u64::from(logical) <= most => {
                Ok(bytes as u32)
            }
            _ => Err(name),
        };
        let granularity = match uint("discard_granularity") {
            0xffff_ffff => logical,
            bytes if bytes.is_multiple_of(logical.into()) && bytes < 0xffff_ffff => bytes as u32,
            _ => return Err("discard_granularity"),
        };
        let limit = |name| match uint(name) {
            sectors @ 1..=SECTORS_MAX => Ok(sectors as u32),
            _ => Err(name),
        };
        let geometry = (uint("cyls"), uint("heads"), uint("secs"));
        let is_geometry = geometry == (0, 0, 0)
            || (1..=0xffff).contains(&geometry.0)
                && (1..=255).contains(&geometry.1)
                && (1..=255).contains(&geometry.2);
        if !is_geometry {
            return Err("cyls");
        }
        let mut features = blk::SEG_MAX | blk::GEOMETRY | blk::TOPOLOGY | blk::BLK_SIZE;
        for (name, bit) in [
            ("config-wce", blk::CONFIG_WCE),
            ("discard", blk::DISCARD),
            ("write-zeroes", blk::WRITE_ZEROES),
            ("event_idx", RING_EVENT_IDX),
            ("indirect_desc", RING_INDIRECT_DESC),
            ("packed", RING_PACKED),
        ] {
            if values.is_on(name) {
                features |= bit;
            }
        }
        if queues > 1 {
            features |= blk::MQ;
        }
        let serial = values.text("serial").unwrap_or_default();
        let serial = &serial[..serial.floor_char_boundary(SERIAL_MAX)];
        Ok(Self {
            queues,
            queue_size,
            serial: serial.try_into().unwrap_or_default(),
            logical,
            physical,
            min_io: blocks("min_io_size", 0xffff)?,
            opt_io: blocks("opt_io_size", 0xffff_ffff)?,
            discard_granularity: granularity,
            discard_max: limit("max-discard-sectors")?,
            zeroes_max: limit("max-write-zeroes-sectors")?,
            geometry: (geometry.0 as u16, geometry.1 as u8, geometry.2 as u8),
            features,
        })
    }
}

/// A disk behind virtqueues.
#[derive(Clone, Debug)]
pub struct VirtioBlock {
    drive: DriveId,
    settings: Settings,
    /// What the transport adds to the features.
    transport_features: u64,
    medium: Medium,
    common: Common,
    /// Told apart from requests that were given up: part of each tag.
    epoch: u16,
    /// Requests were given up that the block layer may have under way.
    cancelled: bool,
    /// Queues that may have buffers, a bit each.
    kicked: u32,
    /// Requests that are to be handed out again, a bit each.
    again: u128,
    /// Another one has the queues: see [`lending`].
    is_lent: bool,
    state: State,
}

const _: () = assert!(REQUESTS_MAX == u128::BITS as usize && super::QUEUES_MAX <= 32);

/// What changes, beside queues and features.
#[derive(Clone, Debug)]
struct State {
    /// Whether writes may wait for a flush, once the driver has said so.
    write_cache: Option<bool>,
    requests: [Option<UnderWay>; REQUESTS_MAX],
}

/// A request that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct UnderWay {
    queue: u16,
    buffer: Buffer,
    /// It has ended, and its status is where it goes: it waits for others to be given back before it.
    has_ended: bool,
    /// Bytes that come back to the driver, by what the used ring says.
    written: u32,
    /// Where the status byte goes.
    status: u64,
}

/// Saved form of what is a disk's own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    write_cache: Option<bool>,
    kicked: u32,
    requests: heapless::Vec<(u8, UnderWay), REQUESTS_MAX>,
}

/// What a buffer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// No more than this status.
    Answer(u8),
    /// Something of the block layer: on these bytes, with these pieces of guest memory.
    Work {
        operation: Operation,
        offset: u64,
        bytes: u64,
        pieces: Option<Range<usize>>,
    },
}

impl VirtioBlock {
    /// A disk without a medium: `drive` tells of one.
    pub fn new(settings: Settings, transport_features: u64, drive: DriveId) -> Self {
        let mut disk = Self {
            drive,
            transport_features,
            medium: Medium {
                bytes: 0,
                read_only: false,
                write_cache: true,
            },
            common: Common::new(0, settings.queues.into(), settings.queue_size),
            epoch: 0,
            cancelled: false,
            kicked: 0,
            again: 0,
            is_lent: false,
            state: State {
                write_cache: None,
                requests: [None; REQUESTS_MAX],
            },
            settings,
        };
        disk.offer();
        disk
    }

    /// Which drive it is.
    pub fn drive(&self) -> DriveId {
        self.drive
    }

    /// What is behind it.
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// Offers what the settings and the medium have.
    fn offer(&mut self) {
        let mut features = self.settings.features | self.transport_features;
        if self.transport_features & feature::VERSION_1 == 0 {
            features |= blk::SCSI;
        }
        if self.medium.write_cache || features & blk::CONFIG_WCE != 0 {
            features |= blk::FLUSH;
        }
        if self.medium.read_only {
            features |= blk::RO;
        }
        self.common.offer(features);
    }

    /// Whether writes may wait for a flush.
    fn write_cache(&self) -> bool {
        self.state.write_cache.unwrap_or(self.medium.write_cache)
    }

    /// Cylinders, heads and sectors: as set, or 16 heads of 63 sectors.
    fn geometry(&self) -> (u16, u8, u8) {
        if self.settings.geometry.0 != 0 {
            return self.settings.geometry;
        }
        let cylinders = self.medium.bytes / SECTOR / (16 * 63);
        (cylinders.clamp(2, 16383) as u16, 16, 63)
    }

    /// What a property came to, where the device has settled that.
    pub(crate) fn settled(&self, name: &str) -> Option<Value> {
        let settings = &self.settings;
        let (cylinders, heads, sectors) = self.geometry();
        Some(Value::Uint(match name {
            "cyls" => cylinders.into(),
            "heads" => heads.into(),
            "secs" => sectors.into(),
            "logical_block_size" => settings.logical.into(),
            "physical_block_size" => settings.physical.into(),
            "num-queues" => settings.queues.into(),
            "serial" => return settings.serial.as_str().try_into().map(Value::Text).ok(),
            _ => return None,
        }))
    }

    /// Whether the medium has so many bytes from a sector on, in whole blocks.
    fn has(&self, sector: u64, bytes: u64) -> bool {
        let block = u64::from(self.settings.logical);
        let sectors = self.medium.bytes / SECTOR;
        bytes <= BYTES_MAX
            && sector.is_multiple_of(block / SECTOR)
            && bytes.is_multiple_of(block)
            && sector <= sectors
            && bytes / SECTOR <= sectors - sector
    }

    /// Looks at a buffer of a queue: what it asks for, where
    /// its status goes, and how many bytes come back.
    fn look(
        &self,
        ram: &dyn GuestRam,
        queue: u16,
        buffer: Buffer,
        segments: &mut Segments,
    ) -> Result<(Asked, u64, u32), QueueError> {
        let ring = self.common.queue(queue).ok_or(QueueError::Index)?;
        let readable = ring.ring.chain(ram, buffer, segments)?;
        let written = length(&segments[readable..]);
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        let mut header = [0; HEADER];
        // A buffer without room for a header or a status breaks the rules as a bad chain does.
        if copy_from(ram, &segments[..readable], &mut header)? != HEADER {
            return Err(QueueError::Table);
        }
        let Some(last) = segments[readable..].last_mut() else {
            return Err(QueueError::Table);
        };
        last.length -= 1;
        let status = last.gpa.wrapping_add(last.length.into());
        let is_whole = last.length == 0;
        let end = segments.len() - usize::from(is_whole);
        let begin = skip(&mut segments[..readable], HEADER as u32);
        let asked = self.asked(ram, header, segments, begin..readable, readable..end)?;
        Ok((asked, status, written))
    }

    fn asked(
        &self,
        ram: &dyn GuestRam,
        header: [u8; HEADER],
        segments: &Segments,
        out: Range<usize>,
        input: Range<usize>,
    ) -> Result<Asked, QueueError> {
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        let is_out = kind & kind::OUT != 0;
        let answer = |status| Ok(Asked::Answer(status));
        match kind & !(kind::OUT | kind::BARRIER) {
            kind::IN => {
                let pieces = if is_out { out } else { input };
                let bytes = length(&segments[pieces.clone()]);
                trace::virtio_blk_handle(is_out, sector, bytes / SECTOR);
                if !self.has(sector, bytes) {
                    return answer(IOERR);
                }
                if bytes == 0 {
                    return answer(OK);
                }
                let operation = match is_out {
                    true => Operation::Write {
                        force_unit_access: !self.write_cache(),
                    },
                    false => Operation::Read,
                };
                let offset = sector * SECTOR;
                let pieces = Some(pieces);
                Ok(Asked::Work {
                    operation,
                    offset,
                    bytes,
                    pieces,
                })
            }
            kind::FLUSH => Ok(Asked::Work {
                operation: Operation::Flush,
                offset: 0,
                bytes: 0,
                pieces: None,
            }),
            // A header for errors comes between the data and the status.
            kind::SCSI if out.end < 2 || segments.len() - input.start < 3 => answer(IOERR),
            kind::SCSI => {
                let errors = segments.get(segments.len() - 2..).unwrap_or_default();
                copy_to(ram, errors, &255_u32.to_le_bytes())?;
                answer(UNSUPP)
            }
            kind::GET_ID => {
                // A shorter text ends with a zero only where QEMU's ends with one: nowhere.
                copy_to(ram, &segments[input], self.settings.serial.as_bytes())?;
                answer(OK)
            }
            kind::DISCARD | kind::WRITE_ZEROES
                if !is_out || length(&segments[out.clone()]) > RANGE as u64 =>
            {
                answer(UNSUPP)
            }
            kind::DISCARD => self.range(ram, &segments[out], false),
            kind::WRITE_ZEROES => self.range(ram, &segments[out], true),
            _ => answer(UNSUPP),
        }
    }

    /// A discard, or zeros.
    fn range(
        &self,
        ram: &dyn GuestRam,
        out: &[Segment],
        zeroes: bool,
    ) -> Result<Asked, QueueError> {
        let mut range = [0; RANGE];
        if copy_from(ram, out, &mut range)? != RANGE {
            return Err(QueueError::Table);
        }
        let range = u128::from_le_bytes(range);
        let (sector, sectors, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
        let most = match zeroes {
            true => self.settings.zeroes_max,
            false => self.settings.discard_max,
        };
        let bytes = u64::from(sectors) * SECTOR;
        if sectors > most || !self.has(sector, bytes) {
            return Ok(Asked::Answer(IOERR));
        }
        if flags & !UNMAP != 0 || !zeroes && flags & UNMAP != 0 {
            return Ok(Asked::Answer(UNSUPP));
        }
        if bytes == 0 {
            return Ok(Asked::Answer(OK));
        }
        let operation = match zeroes {
            true => Operation::WriteZeroes {
                may_unmap: flags & UNMAP != 0,
            },
            false => Operation::Discard,
        };
        Ok(Asked::Work {
            operation,
            offset: sector * SECTOR,
            bytes,
            pieces: None,
        })
    }

    /// A request has ended: its buffer goes back to the driver, as soon as it may.
    fn answer(&mut self, ram: &dyn GuestRam, slot: usize, request: UnderWay, status: u8) {
        let UnderWay { queue, buffer, .. } = request;
        trace::virtio_blk_req_complete(queue, buffer.id, status);
        if let Err(error) = ram.write(request.status, &[status]) {
            return self.common.fail(error.into());
        }
        let Some(entry) = self.state.requests.get_mut(slot) else {
            return;
        };
        let is_next = |common: &Common, buffer| {
            let slot = common.queue(queue);
            slot.is_some_and(|slot| slot.ring.is_next(buffer))
        };
        if !is_next(&self.common, buffer) {
            *entry = Some(UnderWay {
                has_ended: true,
                ..request
            });
            return;
        }
        self.common.give_back(ram, queue, buffer, request.written);
        // Those that have waited for it.
        while self.common.features() & RING_PACKED != 0 {
            let waits = |entry: &&mut Option<UnderWay>| {
                entry.as_ref().is_some_and(|other| {
                    other.has_ended && other.queue == queue && is_next(&self.common, other.buffer)
                })
            };
            let mut requests = self.state.requests.iter_mut();
            let Some(other) = requests.find(waits).and_then(Option::take) else {
                break;
            };
            let UnderWay {
                buffer, written, ..
            } = other;
            self.common.give_back(ram, queue, buffer, written);
        }
    }

    /// The next buffer that may ask for something, and the place that a request of it would have.
    fn next_buffer(&mut self, ram: &dyn GuestRam) -> Option<(u16, Buffer, usize)> {
        if self.is_lent {
            // It is for the other one to take.
            return None;
        }
        if self.again != 0 {
            let slot = self.again.trailing_zeros() as usize;
            self.again &= self.again - 1;
            let UnderWay { queue, buffer, .. } = self.state.requests.get(slot).copied()??;
            return Some((queue, buffer, slot));
        }
        let requests = self.state.requests.iter();
        let slot = { requests }.position(Option::is_none)?;
        let features = self.common.features();
        while self.kicked != 0 && self.common.works() {
            let queue = self.kicked.trailing_zeros() as u16;
            let ring = &mut self.common.queue_mut(queue)?.ring;
            match ring.take(ram, features) {
                Ok(Some(buffer)) => return Some((queue, buffer, slot)),
                // Whoever has hushed it looks by itself.
                Ok(None) if ring.is_quiet() => self.kicked &= !(1 << queue),
                Ok(None) => {
                    let waits = ring.wait(ram, features);
                    match waits.and_then(|()| ring.is_empty(ram)) {
                        Ok(true) => self.kicked &= !(1 << queue),
                        Ok(false) => {}
                        Err(error) => self.common.fail(error),
                    }
                }
                Err(error) => self.common.fail(error),
            }
        }
        None
    }

    /// The next request: see [`BlockController::next_request`].
    fn next<'a>(&mut self, ram: &dyn GuestRam, segments: &'a mut Segments) -> Option<Request<'a>> {
        for _ in 0..ANSWERS_MAX {
            if !self.common.works() {
                return None;
            }
            let (queue, buffer, slot) = self.next_buffer(ram)?;
            self.state.requests[slot] = None;
            let (asked, status, written) = match self.look(ram, queue, buffer, segments) {
                Ok(looked) => looked,
                Err(error) => {
                    self.common.fail(error);
                    return None;
                }
            };
            let request = UnderWay {
                queue,
                buffer,
                has_ended: false,
                written,
                status,
            };
            match asked {
                Asked::Answer(code) => self.answer(ram, slot, request, code),
                Asked::Work {
                    operation,
                    offset,
                    bytes,
                    pieces,
                } => {
                    self.state.requests[slot] = Some(request);
                    return Some(Request {
                        drive: self.drive,
                        tag: u32::from(self.epoch) << 16 | slot as u32,
                        operation,
                        offset,
                        length: bytes,
                        data: match pieces {
                            Some(pieces) => Data::Guest(&segments[pieces]),
                            None => Data::None,
                        },
                    });
                }
            }
        }
        None
    }
}

impl Virtio for VirtioBlock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn configuration(&self) -> heapless::Vec<u8, CONFIG_MAX> {
        let Settings {
            queues,
            queue_size,
            logical,
            physical,
            ..
        } = self.settings;
        let settings = &self.settings;
        let (cylinders, heads, sectors) = self.geometry();
        let block = u64::from(logical);
        // Where the geometry's tracks are no whole blocks, they are made some.
        let tracks = u64::from(heads.max(1)) * u64::from(sectors.max(1));
        let sectors = match self.medium.bytes / tracks % block {
            0 => sectors,
            _ => sectors & !((block / SECTOR - 1) as u8),
        };
        let alignment = settings.discard_granularity.max(logical) / SECTOR as u32;
        let mut bytes = heapless::Vec::new();
        let mut put = |field: &[u8]| {
            // There is room for all of them.
            let _ = bytes.extend_from_slice(field);
        };
        put(&(self.medium.bytes / SECTOR).to_le_bytes());
        put(&0_u32.to_le_bytes());
        put(&u32::from(queue_size - 2).to_le_bytes());
        put(&cylinders.to_le_bytes());
        put(&[heads, sectors]);
        put(&logical.to_le_bytes());
        put(&[(physical / logical).trailing_zeros() as u8, 0]);
        put(&((settings.min_io / logical) as u16).to_le_bytes());
        put(&(settings.opt_io / logical).to_le_bytes());
        put(&[u8::from(self.write_cache()), 0]);
        put(&queues.to_le_bytes());
        put(&settings.discard_max.to_le_bytes());
        put(&1_u32.to_le_bytes());
        put(&alignment.to_le_bytes());
        put(&settings.zeroes_max.to_le_bytes());
        put(&1_u32.to_le_bytes());
        put(&[1, 0, 0, 0]);
        let knows = |bit| settings.features & bit != 0;
        bytes.truncate(match (knows(blk::WRITE_ZEROES), knows(blk::DISCARD)) {
            (true, _) => CONFIG_BYTES[2],
            (false, true) => CONFIG_BYTES[1],
            (false, false) => CONFIG_BYTES[0],
        });
        bytes
    }

    /// The write cache is all that can be written.
    fn configure(&mut self, offset: u64, width: Width, value: u32) {
        let into = WRITEBACK.wrapping_sub(offset);
        if into < u64::from(width.bytes()) {
            let on = value >> (8 * into) & 0xff != 0;
            self.state.write_cache = Some(on);
        }
    }

    fn status_changed(&mut self) {
        let features = self.common.features();
        if self.common.status() & status::DRIVER_OK != 0 && features & blk::CONFIG_WCE == 0 {
            // A driver that knows of no flush gets writes that need none.
            self.state.write_cache = Some(features & blk::FLUSH != 0);
        }
    }

    fn notified(&mut self, queue: u16) {
        self.kicked |= 1_u32.checked_shl(queue.into()).unwrap_or(0);
    }

    fn drop_requests(&mut self, queue: Option<u16>) {
        let is_dropped = |request: &UnderWay| queue.is_none_or(|queue| queue == request.queue);
        match queue {
            Some(queue) => self.kicked &= !1_u32.checked_shl(queue.into()).unwrap_or(0),
            None => self.kicked = 0,
        }
        if !self.state.requests.iter().flatten().any(is_dropped) {
            return;
        }
        for (slot, entry) in self.state.requests.iter_mut().enumerate() {
            if entry.as_ref().is_some_and(is_dropped) {
                *entry = None;
                self.again &= !(1 << slot);
            } else if entry.is_some_and(|request| !request.has_ended) {
                // The block layer drops it with the others.
                self.again |= 1 << slot;
            }
        }
        self.cancelled = true;
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn reset_device(&mut self) {
        self.state.write_cache = None;
    }
}

impl VirtioBlock {
    fn done(&mut self, ram: &dyn GuestRam, tag: u32, outcome: Outcome) {
        let (epoch, slot) = ((tag >> 16) as u16, (tag & 0xffff) as usize);
        let request = self.state.requests.get_mut(slot);
        let request = request.filter(|request| request.is_some_and(|request| !request.has_ended));
        let is_again = self.again.checked_shr(slot as u32).unwrap_or(0) & 1 != 0;
        if epoch != self.epoch || is_again {
            return;
        }
        let Some(request) = request.and_then(Option::take) else {
            return;
        };
        if self.common.works() {
            let status = if outcome.is_ok() { OK } else { IOERR };
            self.answer(ram, slot, request, status);
        }
    }

    fn change_medium(&mut self, medium: Option<Medium>) {
        let medium = medium.unwrap_or(Medium {
            bytes: 0,
            ..self.medium
        });
        if medium != self.medium {
            self.medium = medium;
            self.offer();
            self.common.config_changed();
        }
    }
}

/// Makes a disk behind a transport a controller.
macro_rules! controller {
    ($carrier:ty) => {
        impl BlockController for $carrier {
            fn next_request<'a>(
                &'a mut self,
                cx: &mut Context<'_>,
                segments: &'a mut Segments,
            ) -> Option<Request<'a>> {
                self.with_device(cx, |disk, cx| disk.next(cx.ram, segments))
            }

            fn take_cancelled(&mut self) -> Option<DriveId> {
                self.device_mut().take_cancelled()
            }

            fn take_notified(&mut self) -> Option<DriveId> {
                self.device_mut().take_notified()
            }

            fn request_done(
                &mut self,
                cx: &mut Context<'_>,
                _drive: DriveId,
                tag: u32,
                outcome: Outcome,
                _bytes: &[u8],
            ) {
                self.with_device(cx, |disk, cx| disk.done(cx.ram, tag, outcome));
            }

            fn medium_changed(
                &mut self,
                cx: &mut Context<'_>,
                _drive: DriveId,
                medium: Option<Medium>,
            ) {
                self.with_device(cx, |disk, _| disk.change_medium(medium));
            }
        }
    };
}

controller!(VirtioPci<VirtioBlock>);
controller!(VirtioMmio<VirtioBlock>);

impl VirtioBlock {
    fn take_cancelled(&mut self) -> Option<DriveId> {
        core::mem::take(&mut self.cancelled).then_some(self.drive)
    }
}

/// A virtio disk in memory.
pub type VirtioBlkMmio = VirtioMmio<VirtioBlock>;

/// A disk in memory with these properties, for a machine with so many processors, behind legacy registers or modern ones, with the line
/// that it interrupts by.
///
/// # Errors
/// The property that has a value the device can't have.
pub fn mmio(
    values: &PropertyValues,
    cpus: u16,
    drive: DriveId,
    legacy: bool,
    line: IrqLine,
) -> Result<VirtioBlkMmio, &'static str> {
    let settings = Settings::new(values, cpus)?;
    let disk = VirtioBlock::new(settings, mmio::features(legacy), drive);
    Ok(VirtioMmio::new(DEVICE_TYPE, legacy, line, disk))
}

/// A virtio disk on PCI.
pub type VirtioBlkPci = VirtioPci<VirtioBlock>;

/// A disk on PCI with these properties, for a machine with so many processors.
///
/// # Errors
/// The property that has a value the device can't have.
pub fn pci(
    values: &PropertyValues,
    cpus: u16,
    drive: DriveId,
) -> Result<VirtioBlkPci, &'static str> {
    let settings = Settings::new(values, cpus)?;
    let interfaces = Interfaces {
        legacy: values.text("disable-legacy") != Some("on"),
        modern: !values.is_on("disable-modern"),
    };
    if !interfaces.legacy && !interfaces.modern {
        return Err("disable-modern");
    }
    let vectors = match values.uint("vectors") {
        Some(vectors) if vectors <= VECTORS_MAX as u64 => vectors as u16,
        Some(vectors) if vectors != u64::from(u32::MAX) => return Err("vectors"),
        _ => settings.queues + 1,
    };
    let kind = Kind {
        device_type: DEVICE_TYPE,
        transitional_device: TRANSITIONAL_DEVICE,
        class: CLASS_CODE,
        interfaces,
        vectors,
    };
    let disk = VirtioBlock::new(settings, interfaces.features(), drive);
    Ok(VirtioPci::new(kind, disk))
}

impl SavedDevice for VirtioBlock {
    const NAME: &'static str = PCI_NAME;
    const MMIO_NAME: &'static str = MMIO_NAME;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save_device(&self) -> Saved {
        let Self {
            drive: _,
            settings: _,
            transport_features: _,
            medium: _,
            common: _,
            epoch: _,
            cancelled: _,
            kicked,
            again: _,
            is_lent: _,
            state: State {
                write_cache,
                requests,
            },
        } = self;
        let requests = requests.iter().enumerate();
        Saved {
            write_cache: *write_cache,
            kicked: *kicked,
            requests: requests
                .filter_map(|(slot, request)| Some((slot as u8, (*request)?)))
                .collect(),
        }
    }

    fn load_device(&mut self, saved: Saved) -> Result<(), StateError> {
        let Saved {
            write_cache,
            kicked,
            requests,
        } = saved;
        let queues = self.common.queues();
        if kicked.checked_shr(queues.len() as u32).unwrap_or(0) != 0 {
            return Err(StateError::Invalid("kicked"));
        }
        let mut loaded = [None; REQUESTS_MAX];
        let mut again = 0;
        for (slot, request) in requests {
            // Whatever its buffer is, it is looked at again.
            let is_known = self.common.queue(request.queue).is_some();
            match loaded.get_mut(usize::from(slot)) {
                Some(place @ None) if is_known => *place = Some(request),
                _ => return Err(StateError::Invalid("requests")),
            }
            again |= u128::from(!request.has_ended) << slot;
        }
        self.state = State {
            write_cache,
            requests: loaded,
        };
        self.cancelled = true;
        self.epoch = self.epoch.wrapping_add(1);
        (self.kicked, self.again) = (kicked, again);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
