//! `-drive`, `-blockdev` and their short forms: images, and what they are behind.

use thimble_core::devices::pflash::UNITS_MAX;
use thimble_core::qmp::Parser;
use thimble_monitor::schema::arguments::BlockdevOptions;
use thimble_monitor::schema::{BlockdevAioOptions, BlockdevDetectZeroesOptions, read_option};

use super::opts::{self, Kind, OptsTable, Reason, SubOption};
use crate::block::DriveOptions;
use crate::block::backend::OnError;
use crate::block::throttle::{BPS, BPS_READ, BPS_WRITE, IOPS, IOPS_READ, IOPS_WRITE, Limits};

/// What a drive is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Whatever device names it.
    None,
    /// A disk or CD-ROM drive of the board's IDE controller.
    Ide,
    /// A virtio disk of its own.
    Virtio,
    /// A floppy drive.
    Floppy,
    /// A chip of the system flash.
    Pflash,
}

impl Interface {
    /// QEMU's names of all interfaces, those that are not available among them.
    const NAMES: [(&'static str, Option<Self>); 9] = [
        ("none", Some(Self::None)),
        ("ide", Some(Self::Ide)),
        ("virtio", Some(Self::Virtio)),
        ("floppy", Some(Self::Floppy)),
        ("pflash", Some(Self::Pflash)),
        ("scsi", None),
        ("sd", None),
        ("mtd", None),
        ("xen", None),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, known)| *known == Some(self));
        found.map_or("", |(name, _)| name)
    }

    /// QEMU's number of it, which its messages tell.
    pub fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Ide => 1,
            Self::Floppy => 3,
            Self::Pflash => 4,
            Self::Virtio => 7,
        }
    }

    /// Units of a bus, 0 if there is no end.
    fn units(self) -> u64 {
        match self {
            Self::Ide | Self::Floppy => 2,
            Self::None | Self::Virtio | Self::Pflash => 0,
        }
    }
}

/// A `-drive`.
#[derive(Clone, Debug)]
pub struct DiskOption {
    /// Its name.
    pub id: String,
    /// What it is behind.
    pub interface: Interface,
    /// Which bus of that.
    pub bus: u64,
    /// Which unit of the bus.
    pub unit: u64,
    /// Whether it is a CD-ROM.
    pub cdrom: bool,
    /// Its image.
    pub image: DriveOptions,
    /// It was asked to copy what it reads, and can't, as it takes no writes.
    pub warning: Option<&'static str>,
    /// The option as given, for messages.
    pub origin: String,
}

/// What makes block nodes and drives, in order.
#[derive(Clone, Debug)]
pub enum BlockOption {
    /// `-blockdev`, and the option as given.
    Node {
        /// `driver=...` or JSON, which has been checked.
        text: String,
        /// The option as given, for messages.
        origin: String,
    },
    /// `-drive`.
    Drive(Box<DiskOption>),
}

const fn number(name: &'static str, doc: &'static str) -> SubOption {
    SubOption::new(name, Kind::Number, doc)
}

pub(super) static DRIVE: OptsTable = OptsTable {
    name: "drive",
    implied: None,
    options: &[
        number("bus", "bus number"),
        number("unit", "unit number"),
        number("index", "place among the drives of the interface"),
        SubOption::new("media", Kind::Text, "disk or cdrom"),
        SubOption::new(
            "if",
            Kind::Text,
            "interface: ide, virtio, floppy, pflash, none",
        ),
        SubOption::new("file", Kind::Text, "the image"),
        SubOption::new("id", Kind::Text, "name of the drive"),
        SubOption::new("snapshot", Kind::Bool, "writes go to a temporary file"),
        SubOption::new(
            "aio",
            Kind::Text,
            "how files are read: threads, native, io_uring",
        ),
        SubOption::new(
            "cache",
            Kind::Text,
            "none, writeback, writethrough, directsync, unsafe",
        ),
        SubOption::new("format", Kind::Text, "format of the image"),
        SubOption::new("rerror", Kind::Text, "what a failed read does"),
        SubOption::new("werror", Kind::Text, "what a failed write does"),
        SubOption::new("read-only", Kind::Bool, "whether it takes no writes"),
        SubOption::new(
            "copy-on-read",
            Kind::Bool,
            "copy what is read from the image below",
        ),
        SubOption::new(
            "cache.writeback",
            Kind::Bool,
            "writes end before they are stable",
        ),
        SubOption::new(
            "cache.direct",
            Kind::Bool,
            "leave the host's page cache out",
        ),
        SubOption::new("cache.no-flush", Kind::Bool, "ignore flushes"),
        SubOption::new("discard", Kind::Text, "ignore (off) or unmap (on)"),
        SubOption::new("detect-zeroes", Kind::Text, "off, on or unmap"),
        number("throttling.bps-total", "bytes a second"),
        number("throttling.bps-read", "bytes read a second"),
        number("throttling.bps-write", "bytes written a second"),
        number("throttling.iops-total", "requests a second"),
        number("throttling.iops-read", "reads a second"),
        number("throttling.iops-write", "writes a second"),
        number("throttling.bps-total-max", "bytes a second in a burst"),
        number("throttling.bps-read-max", "bytes read a second in a burst"),
        number(
            "throttling.bps-write-max",
            "bytes written a second in a burst",
        ),
        number("throttling.iops-total-max", "requests a second in a burst"),
        number("throttling.iops-read-max", "reads a second in a burst"),
        number("throttling.iops-write-max", "writes a second in a burst"),
        number("throttling.bps-total-max-length", "seconds of the burst"),
        number("throttling.bps-read-max-length", "seconds of the burst"),
        number("throttling.bps-write-max-length", "seconds of the burst"),
        number("throttling.iops-total-max-length", "seconds of the burst"),
        number("throttling.iops-read-max-length", "seconds of the burst"),
        number("throttling.iops-write-max-length", "seconds of the burst"),
        number("throttling.iops-size", "bytes that count as a request"),
        SubOption::new(
            "throttling.group",
            Kind::Text,
            "group that shares the limits",
        ),
    ],
};

/// Old spellings.
const SPELLINGS: [(&str, &str); 15] = [
    ("readonly", "read-only"),
    ("iops", "throttling.iops-total"),
    ("iops_rd", "throttling.iops-read"),
    ("iops_wr", "throttling.iops-write"),
    ("bps", "throttling.bps-total"),
    ("bps_rd", "throttling.bps-read"),
    ("bps_wr", "throttling.bps-write"),
    ("iops_max", "throttling.iops-total-max"),
    ("iops_rd_max", "throttling.iops-read-max"),
    ("iops_wr_max", "throttling.iops-write-max"),
    ("bps_max", "throttling.bps-total-max"),
    ("bps_rd_max", "throttling.bps-read-max"),
    ("bps_wr_max", "throttling.bps-write-max"),
    ("iops_size", "throttling.iops-size"),
    ("group", "throttling.group"),
];

/// Checks a `-blockdev`, in JSON or not.
pub(super) fn check_node(text: &str) -> Result<(), Reason> {
    let mut parser = Box::new(Parser::new());
    let options = read_option::<BlockdevOptions<'_>>(&mut parser, text);
    options.map(drop).map_err(|error| error.to_string())
}

fn limits(given: &opts::Opts) -> Limits {
    let mut limits = Limits::default();
    for (kind, name) in [
        (BPS, "bps-total"),
        (BPS_READ, "bps-read"),
        (BPS_WRITE, "bps-write"),
        (IOPS, "iops-total"),
        (IOPS_READ, "iops-read"),
        (IOPS_WRITE, "iops-write"),
    ] {
        let number = |suffix: &str| given.number(&format!("throttling.{name}{suffix}"));
        let limit = &mut limits.each[kind];
        limit.average = number("").unwrap_or(0);
        limit.maximum = number("-max").unwrap_or(0);
        limit.length = number("-max-length").unwrap_or(1);
    }
    limits.request_size = given.number("throttling.iops-size").unwrap_or(0);
    limits
}

/// What `cache=` stands for.
#[derive(Clone, Copy, Debug)]
pub struct CacheMode {
    /// Writes end before they are on stable storage.
    pub write_back: bool,
    /// The host's page cache is not used.
    pub direct: bool,
    /// Nothing is flushed to stable storage.
    pub no_flush: bool,
}

/// The mode of a name.
pub fn cache_mode(name: &str) -> Option<CacheMode> {
    let (write_back, direct, no_flush) = match name {
        "writeback" => (true, false, false),
        "none" | "off" => (true, true, false),
        "writethrough" => (false, false, false),
        "directsync" => (false, true, false),
        "unsafe" => (true, false, true),
        _ => return None,
    };
    Some(CacheMode {
        write_back,
        direct,
        no_flush,
    })
}

/// Whether `discard=` wants what is no longer needed given up.
///
/// # Errors
/// In QEMU's words.
pub fn discard_mode(name: &str) -> Result<bool, String> {
    match name {
        "ignore" | "off" => Ok(false),
        "unmap" | "on" => Ok(true),
        _ => Err("Invalid discard option".to_owned()),
    }
}

fn on_error(text: Option<&str>, read: bool) -> Result<OnError, Reason> {
    let Some(text) = text else {
        return Ok(OnError::Auto);
    };
    let known = OnError::from_name(text).filter(|known| *known != OnError::Auto);
    match known {
        Some(OnError::Enospc) | None if read => Err(format!("'{text}' invalid read error action")),
        Some(known) => Ok(known),
        None => Err(format!("'{text}' invalid write error action")),
    }
}

/// The place of a drive: its bus and its unit.
fn place(
    given: &opts::Opts,
    interface: Interface,
    others: &[BlockOption],
) -> Result<(u64, u64), Reason> {
    let units = interface.units();
    let taken = |bus: u64, unit: u64| {
        others.iter().any(|other| match other {
            BlockOption::Drive(drive) => {
                drive.interface == interface && (drive.bus, drive.unit) == (bus, unit)
            }
            BlockOption::Node { .. } => false,
        })
    };
    let (bus, unit) = (given.number("bus"), given.number("unit"));
    let index = given.number("index");
    let (bus, unit) = match index {
        Some(_) if bus.is_some() || unit.is_some() => {
            return Err("index cannot be used with bus and unit".to_owned());
        }
        Some(index) if units > 0 => (index / units, index % units),
        Some(index) => (0, index),
        None => {
            let (mut bus, first) = (bus.unwrap_or(0), unit);
            let mut unit = first.unwrap_or(0);
            while first.is_none() && taken(bus, unit) {
                unit += 1;
                if units > 0 && unit >= units {
                    (unit, bus) = (0, bus + 1);
                }
            }
            (bus, unit)
        }
    };
    if units > 0 && unit >= units {
        let most = units - 1;
        return Err(format!("unit {unit} too big (max is {most})"));
    }
    if taken(bus, unit) {
        let index = index.map_or_else(|| "-1".to_owned(), |index| index.to_string());
        return Err(format!(
            "drive with bus={bus}, unit={unit} (index={index}) exists"
        ));
    }
    let buses = match interface {
        Interface::Ide => 2,
        Interface::Floppy | Interface::Pflash => 1,
        Interface::None | Interface::Virtio => u64::MAX,
    };
    let is_beyond = interface == Interface::Pflash && unit >= UNITS_MAX as u64;
    if bus >= buses || is_beyond {
        let name = interface.name();
        return Err(format!(
            "machine type does not support if={name},bus={bus},unit={unit}"
        ));
    }
    Ok((bus, unit))
}

/// Reads a `-drive`. `others` are those before it.
///
/// # Errors
/// If something is wrong with it, in QEMU's words where it has some.
pub fn parse(text: &str, origin: &str, others: &[BlockOption]) -> Result<DiskOption, Reason> {
    let mut own = Vec::new();
    let mut rest = Vec::new();
    for (key, value) in opts::split(text) {
        let (key, value) = match value {
            Some(value) => (key, value),
            None => match key.strip_prefix("no") {
                Some(name) if DRIVE.options.iter().any(|known| known.name == name) => {
                    (name.to_owned(), "off".to_owned())
                }
                _ => (key, "on".to_owned()),
            },
        };
        let spelled = SPELLINGS.iter().find(|(old, _)| *old == key);
        let key = spelled.map_or(key, |(_, new)| (*new).to_owned());
        match DRIVE.options.iter().any(|known| known.name == key) {
            true => own.push(format!("{key}={}", value.replace(',', ",,"))),
            false => rest.push((key, value)),
        }
    }
    let given = DRIVE.parse(&own.join(","))?;
    let id = given.text("id").map(opts::id).transpose()?;
    let interface = match given.text("if") {
        None => Interface::Ide,
        Some(name) => {
            let known = Interface::NAMES.iter().find(|(known, _)| *known == name);
            let (_, known) = known.ok_or_else(|| format!("unsupported bus type '{name}'"))?;
            known.ok_or_else(|| format!("if={name} is not available"))?
        }
    };
    let cdrom = match given.text("media") {
        None | Some("disk") => false,
        Some("cdrom") => true,
        Some(other) => return Err(format!("'{other}' invalid media")),
    };
    let cache = given
        .text("cache")
        .map(|name| cache_mode(name).ok_or("invalid cache option"));
    let cache = cache.transpose()?;
    let aio = match given.text("aio") {
        None => None,
        Some(name) => {
            let mut known = BlockdevAioOptions::ALL.iter().copied();
            let found = known.find(|known| known.name() == name);
            Some(found.ok_or("invalid aio option")?)
        }
    };
    let detect_zeroes = match given.text("detect-zeroes") {
        None => BlockdevDetectZeroesOptions::Off,
        Some(name) => {
            let known = BlockdevDetectZeroesOptions::ALL.iter();
            let found = known.copied().find(|known| known.name() == name);
            found.ok_or_else(|| {
                format!("Parameter 'detect-zeroes' does not accept value '{name}'")
            })?
        }
    };
    let discard = given.text("discard").map(discard_mode).transpose()?;
    let read_only = given.bool("read-only").unwrap_or(cdrom);
    let copies = given.bool("copy-on-read") == Some(true);
    let (bus, unit) = place(&given, interface, others)?;
    let id = id.map_or_else(
        || match (interface, cdrom) {
            (Interface::Ide, true) => format!("ide{bus}-cd{unit}"),
            (Interface::Ide, false) => format!("ide{bus}-hd{unit}"),
            (interface, true) => format!("{}-cd{unit}", interface.name()),
            (interface, false) => format!("{}{unit}", interface.name()),
        },
        str::to_owned,
    );
    let same = |other: &BlockOption| matches!(other, BlockOption::Drive(drive) if drive.id == id);
    if others.iter().any(same) {
        return Err(format!("Duplicate ID '{id}' for drive"));
    }
    if interface == Interface::Floppy {
        for name in ["werror", "rerror"] {
            if given.text(name).is_some() {
                return Err(format!("{name} is not supported by this bus type"));
            }
        }
    }
    let limits = limits(&given);
    Ok(DiskOption {
        id,
        interface,
        bus,
        unit,
        cdrom,
        image: DriveOptions {
            filename: given.owned("file"),
            format: given.owned("format"),
            options: rest,
            read_only,
            direct: given
                .bool("cache.direct")
                .or(cache.map(|cache| cache.direct)),
            no_flush: given
                .bool("cache.no-flush")
                .or(cache.map(|cache| cache.no_flush)),
            write_back: given
                .bool("cache.writeback")
                .unwrap_or(cache.is_none_or(|cache| cache.write_back)),
            discard,
            detect_zeroes,
            snapshot: given.bool("snapshot"),
            copy_on_read: copies && !read_only,
            aio,
            on_write_error: on_error(given.text("werror"), false)?,
            on_read_error: on_error(given.text("rerror"), true)?,
            limits,
            group: given.owned("throttling.group"),
        },
        warning: (copies && read_only).then_some("disabling copy-on-read on read-only drive"),
        origin: origin.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Result<Vec<DiskOption>, Reason> {
        let mut drives: Vec<BlockOption> = Vec::new();
        for text in texts {
            let drive = parse(text, text, &drives)?;
            drives.push(BlockOption::Drive(Box::new(drive)));
        }
        let drive = |option| match option {
            BlockOption::Drive(drive) => Some(*drive),
            BlockOption::Node { .. } => None,
        };
        Ok(drives.into_iter().filter_map(drive).collect())
    }

    #[test]
    fn places_follow_each_other() {
        let drives = all(&[
            "file=a",
            "file=b",
            "file=c,media=cdrom",
            "index=3",
            "if=virtio",
            "if=virtio",
            "if=none",
            "if=pflash,readonly=on",
            "if=pflash",
        ]);
        let drives = drives.unwrap();
        let names: Vec<_> = drives.iter().map(|drive| drive.id.as_str()).collect();
        assert_eq!(
            names,
            [
                "ide0-hd0", "ide0-hd1", "ide1-cd0", "ide1-hd1", "virtio0", "virtio1", "none0",
                "pflash0", "pflash1"
            ]
        );
        assert!(drives[2].image.read_only && !drives[0].image.read_only);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, reason) in [
            ("if=foo", "unsupported bus type 'foo'"),
            ("if=scsi", "if=scsi is not available"),
            ("cache=foo", "invalid cache option"),
            ("werror=foo", "'foo' invalid write error action"),
            ("rerror=enospc", "'enospc' invalid read error action"),
            ("media=foo", "'foo' invalid media"),
            ("index=1,bus=1", "index cannot be used with bus and unit"),
            ("bus=7", "machine type does not support if=ide,bus=7,unit=0"),
            ("unit=2", "unit 2 too big (max is 1)"),
            (
                "if=floppy,rerror=stop",
                "rerror is not supported by this bus type",
            ),
            ("discard=foo", "Invalid discard option"),
        ] {
            assert_eq!(all(&[text]).unwrap_err(), reason, "{text}");
        }
        for text in ["if=pflash,unit=2", "if=pflash,index=2"] {
            let reason = "machine type does not support if=pflash,bus=0,unit=2";
            assert_eq!(all(&[text]).unwrap_err(), reason);
        }
        let twice = all(&["if=none,id=a", "if=none,id=a"]);
        assert_eq!(twice.unwrap_err(), "Duplicate ID 'a' for drive");
        let twice = all(&["index=1", "index=1"]);
        assert_eq!(
            twice.unwrap_err(),
            "drive with bus=0, unit=1 (index=1) exists"
        );
    }

    #[test]
    fn the_rest_is_the_drivers() {
        let drives =
            all(&["driver=null-co,size=1M,if=none,cache=none,bps=7,file.locking=off"]).unwrap();
        let image = &drives[0].image;
        let rest: Vec<_> = image.options.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(rest, ["driver", "size", "file.locking"]);
        assert_eq!((image.direct, image.no_flush), (Some(true), Some(false)));
        assert!(image.write_back);
        assert_eq!(image.limits.each[BPS].average, 7);
    }
}
