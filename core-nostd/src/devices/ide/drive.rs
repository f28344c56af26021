//! A drive on an IDE channel: what it is, and what it keeps beside its registers.

use serde::{Deserialize, Serialize};

use super::identify::MULTIPLE_MAX;
use crate::devices::block::{DriveId, Medium, SECTOR};
use crate::devices::class::{
    BOOT_INDEX, DeviceClass, Property, PropertyKind, PropertyValues, Value,
};
use crate::state::StateError;
use crate::virtio::block::{DRIVE, ON_ERROR, ON_OFF_AUTO, number, word};

/// Bytes of a serial number at most.
const SERIAL_MAX: usize = 20;
/// Bytes of a model's name at most.
const MODEL_MAX: usize = 40;
/// Bytes of a firmware's version at most.
const VERSION_MAX: usize = 8;

/// Self-tests that are remembered.
const TESTS_MAX: usize = 21;

/// The version that drives show by default.
const VERSION: &str = "2.5+";
/// The models that drives show by default.
const MODELS: [&str; 2] = ["QEMU HARDDISK", "QEMU DVD-ROM"];

/// How firmware is to translate a disk's geometry, and the ways: what comes first stands for one of the others, which are in
/// the order of their codes.
const TRANSLATION: &str = "bios-chs-trans";
const TRANSLATIONS: [&str; 5] = ["auto", "none", "lba", "large", "rechs"];

const fn text(name: &'static str, doc: &'static str) -> Property {
    Property {
        name,
        kind: PropertyKind::Text,
        default: Value::Unset,
        doc,
    }
}

const BOOT_PLACE: Property = Property {
    name: BOOT_INDEX,
    kind: PropertyKind::Int32,
    default: Value::Unset,
    doc: "place among what firmware boots from",
};
const DISCARD_GRANULARITY: Property = number(
    "discard_granularity",
    PropertyKind::Size,
    u32::MAX as u64,
    "bytes that a discard is best a multiple of: 512",
);
const LOGICAL: Property = number(
    "logical_block_size",
    PropertyKind::Size,
    0,
    "bytes of a logical block: 512",
);
const MIN_IO: Property = number(
    "min_io_size",
    PropertyKind::Size,
    0,
    "not shown by drives of this kind",
);
const OPT_IO: Property = number(
    "opt_io_size",
    PropertyKind::Size,
    0,
    "not shown by drives of this kind",
);
const PHYSICAL: Property = number(
    "physical_block_size",
    PropertyKind::Size,
    0,
    "bytes of a physical block; 0 for 512",
);
const SHARE_RW: Property = Property {
    name: "share-rw",
    kind: PropertyKind::Bool,
    default: Value::Bool(false),
    doc: "whether others may write to the drive",
};
const UNIT: Property = number(
    "unit",
    PropertyKind::Uint32,
    u32::MAX as u64,
    "0 for the first drive of the channel, 1 for the second; a free one by default",
);
const WWN: Property = number(
    "wwn",
    PropertyKind::Uint64,
    0,
    "world-wide name; 0 for none",
);
const RERROR: Property = word("rerror", ON_ERROR, "what is done about a failed read");
const WERROR: Property = word("werror", ON_ERROR, "what is done about a failed write");
const WRITE_CACHE: Property = word(
    "write-cache",
    ON_OFF_AUTO,
    "whether writes may wait for a flush",
);
const MODEL: Property = text("model", "name of the model");
const SERIAL: Property = text("serial", "serial number");
const VER: Property = text("ver", "version of the firmware");

/// What `-device ide-hd` takes.
pub static HD_CLASS: DeviceClass = DeviceClass {
    name: "ide-hd",
    parent: "ide-device",
    bus: Some("IDE"),
    doc: "IDE disk",
    user_creatable: true,
    properties: &[
        Property {
            name: TRANSLATION,
            kind: PropertyKind::Word {
                name: "BiosAtaTranslation",
                words: &TRANSLATIONS,
            },
            default: Value::Word("auto"),
            doc: "how firmware is to translate cylinders, heads and sectors",
        },
        BOOT_PLACE,
        number("cyls", PropertyKind::Uint32, 0, "cylinders; 0 for a guess"),
        DISCARD_GRANULARITY,
        DRIVE,
        number("heads", PropertyKind::Uint32, 0, "heads; 0 for a guess"),
        LOGICAL,
        MIN_IO,
        MODEL,
        OPT_IO,
        PHYSICAL,
        RERROR,
        number(
            "rotation_rate",
            PropertyKind::Uint16,
            0,
            "turns a minute; 1 for a disk that does not turn, 0 for an unknown rate",
        ),
        number(
            "secs",
            PropertyKind::Uint32,
            0,
            "sectors of a track; 0 for a guess",
        ),
        SERIAL,
        SHARE_RW,
        UNIT,
        VER,
        WERROR,
        WRITE_CACHE,
        WWN,
    ],
};

/// What `-device ide-cd` takes.
pub static CD_CLASS: DeviceClass = DeviceClass {
    name: "ide-cd",
    parent: "ide-device",
    bus: Some("IDE"),
    doc: "IDE CD-ROM drive",
    user_creatable: true,
    properties: &[
        BOOT_PLACE,
        DISCARD_GRANULARITY,
        DRIVE,
        LOGICAL,
        MIN_IO,
        MODEL,
        OPT_IO,
        PHYSICAL,
        RERROR,
        SERIAL,
        SHARE_RW,
        UNIT,
        VER,
        WERROR,
        WRITE_CACHE,
        WWN,
    ],
};

/// What a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ATA disk.
    Disk,
    /// An ATAPI drive for CDs and DVDs.
    Cdrom,
}

/// How a drive is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What it is.
    pub kind: Kind,
    /// Its serial number.
    pub serial: heapless::String<SERIAL_MAX>,
    /// Its model.
    pub model: heapless::String<MODEL_MAX>,
    /// The version of its firmware.
    pub version: heapless::String<VERSION_MAX>,
    /// World-wide name; 0 for none.
    pub wwn: u64,
    /// Turns a minute, in ATA's code.
    pub rotation_rate: u16,
    /// Bytes of a physical block.
    pub physical: u32,
    /// Cylinders, heads, sectors; 0 for a guess.
    geometry: (u16, u8, u8),
    /// How firmware is to translate them, if it is said.
    translation: Option<u8>,
}

impl Settings {
    /// Those of properties, for the drive of this number of its controller, 0 to 3.
    ///
    /// # Errors
    /// The property that has a value the drive can't have.
    pub fn new(kind: Kind, values: &PropertyValues, number: u8) -> Result<Self, &'static str> {
        let uint = |name| values.uint(name).unwrap_or(0);
        if !matches!(uint("logical_block_size"), 0 | SECTOR) {
            return Err("logical_block_size");
        }
        if !matches!(uint("discard_granularity"), SECTOR | 0xffff_ffff) {
            return Err("discard_granularity");
        }
        let physical = match uint("physical_block_size") {
            0 => SECTOR as u32,
            size if size.is_power_of_two() && (SECTOR..=1 << 21).contains(&size) => size as u32,
            _ => return Err("physical_block_size"),
        };
        for name in ["min_io_size", "opt_io_size"] {
            if !uint(name).is_multiple_of(SECTOR) {
                return Err(name);
            }
        }
        let geometry = (uint("cyls"), uint("heads"), uint("secs"));
        let fits = geometry == (0, 0, 0)
            || (1..=0xffff).contains(&geometry.0)
                && (1..=16).contains(&geometry.1)
                && (1..=255).contains(&geometry.2);
        if !fits {
            return Err("cyls");
        }
        let mut serial = heapless::String::new();
        if let Some(text) = values.text("serial") {
            let text = &text[..text.floor_char_boundary(SERIAL_MAX)];
            // It fits.
            let _ = serial.push_str(text);
        } else {
            let _ = core::fmt::write(&mut serial, format_args!("QM{:05}", number + 1));
        }
        let model = MODELS[usize::from(kind == Kind::Cdrom)];
        let model = values.text("model").unwrap_or(model);
        let version = values.text("ver").unwrap_or(VERSION);
        let model = &model[..model.floor_char_boundary(MODEL_MAX)];
        let version = &version[..version.floor_char_boundary(VERSION_MAX)];
        Ok(Self {
            kind,
            serial,
            model: model.try_into().unwrap_or_default(),
            version: version.try_into().unwrap_or_default(),
            wwn: uint("wwn"),
            rotation_rate: uint("rotation_rate") as u16,
            physical,
            geometry: (geometry.0 as u16, geometry.1 as u8, geometry.2 as u8),
            translation: match values.text(TRANSLATION) {
                Some("none") => Some(0),
                Some("lba") => Some(1),
                Some("large") => Some(2),
                Some("rechs") => Some(3),
                _ => None,
            },
        })
    }
}

/// A drive.
#[derive(Clone, Debug)]
pub struct Drive {
    id: DriveId,
    settings: Settings,
    medium: Option<Medium>,
    pub(super) state: State,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Sectors of READ MULTIPLE and WRITE MULTIPLE; 0 while they are off.
    pub(super) multiple: u8,
    /// Heads and sectors by which the guest counts, once it has said so.
    pub(super) heads: Option<(u8, u8)>,
    /// Whether writes may wait for a flush, once the guest has said so.
    pub(super) write_cache: Option<bool>,
    /// The chosen transfer mode: a group (single word, multiword, ultra) and a bit.
    pub(super) mode: Option<(u8, u8)>,
    pub(super) smart: bool,
    pub(super) smart_autosave: bool,
    /// Kinds of self-tests.
    pub(super) tests: heapless::Vec<u8, TESTS_MAX>,
    pub(super) packet: super::atapi::State,
}

impl Default for State {
    fn default() -> Self {
        Self {
            multiple: MULTIPLE_MAX,
            heads: None,
            write_cache: None,
            mode: None,
            smart: true,
            smart_autosave: true,
            tests: heapless::Vec::new(),
            packet: super::atapi::State::default(),
        }
    }
}

impl State {
    pub(super) fn check(&self) -> Result<(), StateError> {
        let mode = self.mode.is_none_or(|(group, bit)| group < 3 && bit < 8);
        match self.multiple <= MULTIPLE_MAX && mode {
            true => self.packet.check(),
            false => Err(StateError::Invalid("drive")),
        }
    }
}

impl Drive {
    /// A drive without a medium.
    pub fn new(id: DriveId, settings: Settings) -> Self {
        Self {
            id,
            settings,
            medium: None,
            state: State::default(),
        }
    }

    /// What the block layer knows it by.
    pub fn id(&self) -> DriveId {
        self.id
    }

    /// How it is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it is for CDs.
    pub fn is_cdrom(&self) -> bool {
        self.settings.kind == Kind::Cdrom
    }

    /// What is in it.
    pub fn medium(&self) -> Option<Medium> {
        self.medium
    }

    pub(super) fn set_medium(&mut self, medium: Option<Medium>) {
        self.medium = medium;
    }

    /// Sectors of 512 bytes of its medium.
    pub fn sectors(&self) -> u64 {
        self.medium.map_or(0, |medium| medium.bytes / SECTOR)
    }

    /// Whether the medium has so many sectors from this one on.
    pub(super) fn has(&self, sector: u64, count: u64) -> bool {
        let sectors = self.sectors();
        sector <= sectors && count <= sectors - sector
    }

    /// Whether writes may wait for a flush.
    pub fn write_cache(&self) -> bool {
        let own = self.medium.is_none_or(|medium| medium.write_cache);
        self.state.write_cache.unwrap_or(own)
    }

    /// Sectors of READ MULTIPLE; 0 while it is off.
    pub fn multiple(&self) -> u8 {
        self.state.multiple
    }

    /// Cylinders, heads and sectors: as set, or 16 heads of 63 sectors.
    pub fn default_geometry(&self) -> (u16, u8, u8) {
        if self.settings.geometry.0 != 0 {
            return self.settings.geometry;
        }
        let cylinders = self.sectors() / (16 * 63);
        (cylinders.clamp(2, 16383) as u16, 16, 63)
    }

    /// How firmware is to translate its geometry: 0 not at all, 1 LBA, 2 large, 3 revised CHS. By
    /// default only what the old interface of firmware can't address.
    pub fn translation_code(&self) -> u8 {
        let (cylinders, heads, sectors) = self.default_geometry();
        let fits = cylinders <= 1024 && heads <= 16 && sectors <= 63;
        self.settings.translation.unwrap_or(u8::from(!fits))
    }

    /// What a property came to, where the drive has settled that.
    pub(crate) fn settled(&self, name: &str) -> Option<Value> {
        let settings = &self.settings;
        let (cylinders, heads, sectors) = self.default_geometry();
        let text = match name {
            "cyls" => return Some(Value::Uint(cylinders.into())),
            "heads" => return Some(Value::Uint(heads.into())),
            "secs" => return Some(Value::Uint(sectors.into())),
            "logical_block_size" | "discard_granularity" => return Some(Value::Uint(SECTOR)),
            "physical_block_size" => return Some(Value::Uint(settings.physical.into())),
            TRANSLATION => {
                let word = TRANSLATIONS.get(usize::from(self.translation_code()) + 1)?;
                return Some(Value::Word(word));
            }
            "serial" => settings.serial.as_str(),
            // The drive's own has not been set.
            "model" if MODELS.contains(&settings.model.as_str()) => "",
            "model" => settings.model.as_str(),
            "ver" => settings.version.as_str(),
            _ => return None,
        };
        text.try_into().map(Value::Text).ok()
    }

    /// Heads and sectors by which the guest counts, both at least 1.
    pub fn translation(&self) -> (u64, u64) {
        let (_, heads, sectors) = self.default_geometry();
        let (heads, sectors) = self.state.heads.unwrap_or((heads, sectors));
        (heads.max(1).into(), sectors.max(1).into())
    }

    /// Words 62, 63 and 88 of what it says of itself: transfer modes, and which is chosen.
    pub fn modes(&self) -> [u16; 3] {
        let mut modes = [7, 7, 0x3f];
        match self.state.mode {
            Some((group, bit)) => {
                let chosen = 0x100_u16.checked_shl(bit.into()).unwrap_or(0);
                if let Some(mode) = modes.get_mut(usize::from(group)) {
                    *mode |= chosen;
                }
            }
            None => modes[2] = 0x203f,
        }
        modes
    }
}
