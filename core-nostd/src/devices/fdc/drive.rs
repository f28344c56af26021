//! A floppy drive: its class, the formats of media, and where its head stands.
//!
//! Formats are those that PCs' drives of 3.5 and 5.25 inches have known. A raw image says nothing of its format but by its
//! size, so that a table, with QEMU's order of preference, tells the one from the other.

use serde::{Deserialize, Serialize};

use crate::devices::block::{DriveId, Medium, SECTOR};
use crate::devices::class::{DeviceClass, Property, PropertyKind, PropertyValues, Value};
use crate::virtio::block::{DRIVE, ON_OFF_AUTO, number, word};

/// QEMU's names of drives, in the order of its enumeration.
const KIND_WORDS: PropertyKind = PropertyKind::Word {
    name: "FdcDriveType",
    words: &["144", "288", "120", "none", "auto"],
};

/// A property that says of what kind a drive is.
pub(super) const fn kind_property(
    name: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Property {
    Property {
        name,
        kind: KIND_WORDS,
        default: Value::Word(default),
        doc,
    }
}

/// What `-device floppy` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "floppy",
    parent: "device",
    bus: Some("floppy-bus"),
    doc: "floppy drive",
    user_creatable: true,
    properties: &[
        number(
            "discard_granularity",
            PropertyKind::Size,
            u32::MAX as u64,
            "bytes that a discard is best a multiple of; floppy disks know none",
        ),
        DRIVE,
        kind_property("drive-type", "auto", "which media fit"),
        number(
            "logical_block_size",
            PropertyKind::Size,
            0,
            "bytes of a logical block: 512",
        ),
        number(
            "min_io_size",
            PropertyKind::Size,
            0,
            "not shown by drives of this kind",
        ),
        number(
            "opt_io_size",
            PropertyKind::Size,
            0,
            "not shown by drives of this kind",
        ),
        number(
            "physical_block_size",
            PropertyKind::Size,
            0,
            "bytes of a physical block: 512",
        ),
        Property {
            name: "share-rw",
            kind: PropertyKind::Bool,
            default: Value::Bool(false),
            doc: "whether others may write to the medium",
        },
        number(
            "unit",
            PropertyKind::Uint32,
            u32::MAX as u64,
            "0 for drive A, 1 for drive B; a free one by default",
        ),
        word(
            "write-cache",
            ON_OFF_AUTO,
            "whether writes may wait for a flush",
        ),
    ],
};

/// Which media fit a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 3.5 inches, high density.
    Inch3High,
    /// 3.5 inches, extra density.
    Inch3Extra,
    /// 5.25 inches, high density.
    Inch5High,
    /// None at all.
    None,
}

impl Kind {
    /// What a property of this name says; `None` where it leaves that to the medium.
    pub(super) fn of(values: &PropertyValues, name: &str) -> Option<Self> {
        match values.text(name) {
            Some("144") => Some(Self::Inch3High),
            Some("288") => Some(Self::Inch3Extra),
            Some("120") => Some(Self::Inch5High),
            Some("none") => Some(Self::None),
            _ => None,
        }
    }

    /// Whether media of another kind of drive fit into this one.
    fn takes(self, other: Self) -> bool {
        let is_small = |kind| matches!(kind, Self::Inch3High | Self::Inch3Extra);
        self == other || is_small(self) && is_small(other)
    }

    /// QEMU's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inch3High => "144",
            Self::Inch3Extra => "288",
            Self::Inch5High => "120",
            Self::None => "none",
        }
    }

    /// Its number in CMOS, and in ACPI's description of drives.
    pub const fn code(self) -> u8 {
        match self {
            Self::Inch3High => 4,
            Self::Inch3Extra => 5,
            Self::Inch5High => 2,
            Self::None => 0,
        }
    }

    /// The highest cylinder, head and sector that any of its media has.
    pub fn largest(self) -> Option<(u8, u8, u8)> {
        let formats = FORMATS.iter().filter(|format| format.kind == self);
        formats.fold(None, |most, format| {
            let (cylinder, head, sector) = most.unwrap_or_default();
            Some((
                (format.tracks - 1).max(cylinder),
                format.last_head.max(head),
                format.sectors.max(sector),
            ))
        })
    }
}

/// Data rates, as DSR and CCR have them.
mod rate {
    pub(super) const KBPS_500: u8 = 0;
    pub(super) const KBPS_300: u8 = 1;
    pub(super) const KBPS_250: u8 = 2;
    pub(super) const MBPS_1: u8 = 3;
}

/// How a medium is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    kind: Kind,
    /// Sectors of a track.
    pub(super) sectors: u8,
    /// Cylinders.
    pub(super) tracks: u8,
    /// Heads less one.
    last_head: u8,
    /// The data rate that it is read with.
    pub(super) rate: u8,
}

impl Format {
    const fn new(kind: Kind, heads: u8, tracks: u8, sectors: u8, rate: u8) -> Self {
        Self {
            kind,
            sectors,
            tracks,
            last_head: heads - 1,
            rate,
        }
    }

    /// All of its sectors.
    fn size(self) -> u64 {
        u64::from(self.last_head + 1) * u64::from(self.tracks) * u64::from(self.sectors)
    }
}

/// Formats, those first that are chosen among several of the same size.
const FORMATS: [Format; 33] = {
    use Kind::{Inch3Extra, Inch3High, Inch5High};
    use rate::{KBPS_250, KBPS_300, KBPS_500, MBPS_1};
    [
        Format::new(Inch3High, 2, 80, 18, KBPS_500),
        Format::new(Inch3High, 2, 80, 20, KBPS_500),
        Format::new(Inch3High, 2, 80, 21, KBPS_500),
        Format::new(Inch3High, 2, 82, 21, KBPS_500),
        Format::new(Inch3High, 2, 83, 21, KBPS_500),
        Format::new(Inch3High, 2, 80, 22, KBPS_500),
        Format::new(Inch3High, 2, 80, 23, KBPS_500),
        Format::new(Inch3High, 2, 80, 24, KBPS_500),
        Format::new(Inch3Extra, 2, 80, 36, MBPS_1),
        Format::new(Inch3Extra, 2, 80, 39, MBPS_1),
        Format::new(Inch3Extra, 2, 80, 40, MBPS_1),
        Format::new(Inch3Extra, 2, 80, 44, MBPS_1),
        Format::new(Inch3Extra, 2, 80, 48, MBPS_1),
        Format::new(Inch3High, 2, 80, 9, KBPS_250),
        Format::new(Inch3High, 2, 80, 10, KBPS_250),
        Format::new(Inch3High, 2, 82, 10, KBPS_250),
        Format::new(Inch3High, 2, 83, 10, KBPS_250),
        Format::new(Inch3High, 2, 80, 13, KBPS_250),
        Format::new(Inch3High, 2, 80, 14, KBPS_250),
        Format::new(Inch5High, 2, 80, 15, KBPS_500),
        Format::new(Inch5High, 2, 80, 18, KBPS_500),
        Format::new(Inch5High, 2, 82, 18, KBPS_500),
        Format::new(Inch5High, 2, 83, 18, KBPS_500),
        Format::new(Inch5High, 2, 80, 20, KBPS_500),
        Format::new(Inch5High, 2, 80, 9, KBPS_250),
        Format::new(Inch5High, 2, 80, 11, KBPS_250),
        Format::new(Inch5High, 2, 40, 9, KBPS_300),
        Format::new(Inch5High, 1, 40, 9, KBPS_300),
        Format::new(Inch5High, 2, 41, 10, KBPS_300),
        Format::new(Inch5High, 2, 42, 10, KBPS_300),
        Format::new(Inch5High, 2, 40, 8, KBPS_250),
        Format::new(Inch5High, 1, 40, 8, KBPS_250),
        Format::new(Inch3High, 1, 80, 9, KBPS_250),
    ]
};

/// The layout of a medium of so many sectors, the first one whose size it is among those that `fits` takes.
fn format_of(sectors: u64, fits: impl Fn(Kind) -> bool) -> Option<Format> {
    let mut formats = FORMATS.iter();
    let found = formats.find(|format| format.size() == sectors && fits(format.kind));
    found.copied()
}

/// The first format of a kind of drive: that of a medium of odd size, whose rest is missing.
fn first_format(kind: Kind) -> Option<Format> {
    FORMATS.iter().find(|format| format.kind == kind).copied()
}

/// Where the head of a drive stands, and what else of it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) track: u8,
    pub(super) head: u8,
    pub(super) sector: u8,
    /// Sectors of a track, unless the guest has said otherwise.
    pub(super) last_sector: u8,
    /// The disk change line.
    pub(super) changed: bool,
    pub(super) perpendicular: u8,
}

/// Why a head could not go somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeekError {
    /// There is no such track or head, or no medium.
    Track,
    /// There is no such sector.
    Sector,
}

/// A place for a drive.
#[derive(Clone, Debug)]
pub(super) struct Drive {
    id: Option<DriveId>,
    /// Which media fit; unknown until the first medium tells, or there is none to do so.
    kind: Option<Kind>,
    fallback: Kind,
    medium: Option<Medium>,
    format: Option<Format>,
    pub(super) state: State,
}

impl Drive {
    /// The place without a drive.
    pub(super) const fn none() -> Self {
        Self {
            id: None,
            kind: Some(Kind::None),
            fallback: Kind::None,
            medium: None,
            format: None,
            state: State {
                track: 0,
                head: 0,
                sector: 0,
                last_sector: 0,
                changed: true,
                perpendicular: 0,
            },
        }
    }

    /// A drive without a medium, known to the block layer as `id`. Of what kind it is the first medium says where `kind` does not,
    /// and `fallback` where neither does.
    pub(super) fn new(id: DriveId, kind: Option<Kind>, fallback: Kind) -> Self {
        let mut drive = Self {
            id: Some(id),
            kind,
            fallback,
            ..Self::none()
        };
        drive.reset();
        drive
    }

    /// State after power-on. Whether the medium was changed is not forgotten.
    pub(super) fn reset(&mut self) {
        let changed = self.state.changed;
        let last_sector = self.limits().1;
        self.state = State {
            sector: last_sector.min(1),
            last_sector,
            changed,
            ..Self::none().state
        };
    }

    pub(super) fn id(&self) -> Option<DriveId> {
        self.id
    }

    /// Which media fit.
    pub(super) fn kind(&self) -> Kind {
        self.kind.unwrap_or(self.fallback)
    }

    pub(super) fn has_medium(&self) -> bool {
        self.medium.is_some()
    }

    /// Another medium, or none. One that only takes writes no more is the same one.
    pub(super) fn set_medium(&mut self, medium: Option<Medium>) {
        let sectors = |medium: Option<Medium>| medium.map(|medium| medium.bytes / SECTOR);
        let is_other = sectors(medium) != sectors(self.medium);
        self.medium = medium;
        let kind = *self.kind.get_or_insert_with(|| {
            let format = sectors(medium).and_then(|sectors| format_of(sectors, |_| true));
            format.map_or(self.fallback, |format| format.kind)
        });
        if is_other {
            self.format = sectors(medium).and_then(|sectors| {
                format_of(sectors, |other| kind.takes(other)).or_else(|| first_format(kind))
            });
            self.state.changed = true;
            self.state.last_sector = self.limits().1;
        }
    }

    /// The highest track that the head goes to, and the last sector of tracks.
    fn limits(&self) -> (u8, u8) {
        match (self.id, self.medium, self.format) {
            (None, ..) => (0, 0),
            (_, None, _) => (0xff, 0xff),
            (.., format) => format.map_or((0, 0), |format| (format.tracks, format.sectors)),
        }
    }

    /// Whether writes are refused; so they are without a medium.
    pub(super) fn is_read_only(&self) -> bool {
        self.medium.is_none_or(|medium| medium.read_only)
    }

    /// The data rate of the medium, as far as one is known.
    pub(super) fn rate(&self) -> u8 {
        self.format.map_or(0, |format| format.rate)
    }

    /// Whether there are two sides.
    pub(super) fn is_double_sided(&self) -> bool {
        self.format.is_some_and(|format| format.last_head > 0)
    }

    /// The highest track that the head goes to.
    pub(super) fn last_track(&self) -> u8 {
        self.limits().0
    }

    fn index(&self, track: u8, head: u8, sector: u8) -> i64 {
        let sides = 1 + i64::from(self.is_double_sided());
        let tracks = i64::from(track) * sides + i64::from(head);
        tracks * i64::from(self.state.last_sector) + i64::from(sector) - 1
    }

    /// The first byte of the sector under the head; a sector 0 on the first track is nowhere.
    pub(super) fn offset(&self) -> Option<u64> {
        let State {
            track,
            head,
            sector,
            ..
        } = self.state;
        let index = u64::try_from(self.index(track, head, sector)).ok()?;
        Some(index * SECTOR)
    }

    /// Moves the head; whether to another track. Where there is no medium it goes there all the same.
    pub(super) fn seek(&mut self, head: u8, track: u8, sector: u8) -> Result<bool, SeekError> {
        if track > self.last_track() || head != 0 && !self.is_double_sided() {
            return Err(SeekError::Track);
        }
        if sector > self.state.last_sector {
            return Err(SeekError::Sector);
        }
        let state = &self.state;
        let here = self.index(state.track, state.head, state.sector);
        let mut steps = false;
        if self.index(track, head, sector) != here {
            let state = &mut self.state;
            state.head = head;
            steps = state.track != track;
            if steps && self.medium.is_some() {
                state.changed = false;
            }
            state.track = track;
            state.sector = sector;
        }
        match self.medium {
            Some(_) => Ok(steps),
            None => Err(SeekError::Track),
        }
    }

    /// Moves the head to the first track.
    pub(super) fn recalibrate(&mut self) {
        // Without a medium it moves, too; the first track is always there.
        let _ = self.seek(0, 0, 1);
    }
}
