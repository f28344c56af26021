//! `-drive` and `-pflash`: a file, and what of the board it is behind. So far that is system flash.

use thimble_core::devices::pflash::UNITS_MAX;

use super::opts::{Kind, OptsTable, Reason, SubOption, id};

/// A drive of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveOption {
    /// Its id: as given, or `pflash0`.
    pub id: String,
    /// Which flash chip it is behind.
    pub unit: usize,
    /// The image.
    pub file: String,
    /// The guest can't write to it.
    pub read_only: bool,
    /// What the guest writes is lost in the end.
    pub snapshot: bool,
    /// The option as given, for messages.
    pub origin: String,
}

/// Why an interface is refused that is no flash.
const NO_DISKS: &str = "disks are not available";

pub(super) static DRIVE: OptsTable = OptsTable {
    name: "drive",
    implied: None,
    options: &[
        SubOption::new("bus", Kind::Number, "bus number"),
        SubOption::new("unit", Kind::Number, "unit number (i.e. lun for scsi)"),
        SubOption::new("index", Kind::Number, "index number"),
        SubOption::new("media", Kind::Word(&["disk", "cdrom"]), "media type"),
        SubOption::new("if", Kind::Text, "interface: pflash"),
        SubOption::new("file", Kind::Text, "file name"),
        SubOption::new("format", Kind::Text, "disk format: raw"),
        SubOption::new("id", Kind::Text, ""),
        SubOption::new("read-only", Kind::Bool, "open drive file as read-only"),
        SubOption::new("snapshot", Kind::Bool, "what is written is lost in the end"),
    ],
};

/// Interfaces of QEMU, but for flash.
const OTHERS: [&str; 8] = [
    "none", "ide", "scsi", "floppy", "mtd", "sd", "virtio", "xen",
];

/// Reads a `-drive`, behind others.
pub(super) fn parse(text: &str, others: &[DriveOption]) -> Result<DriveOption, Reason> {
    let given = DRIVE.parse_with(text, |key| match key.as_str() {
        "readonly" => "read-only".to_owned(),
        _ => key,
    })?;
    match given.text("if") {
        Some("pflash") => {}
        None => return Err(format!("only if=pflash is available: {NO_DISKS}")),
        Some(known) if OTHERS.contains(&known) => {
            return Err(format!(
                "if={known} is not available, only pflash: {NO_DISKS}"
            ));
        }
        Some(other) => return Err(format!("unsupported bus type '{other}'")),
    }
    match given.text("format") {
        None | Some("raw") => {}
        Some(format) => return Err(format!("format={format} is not available, only raw")),
    }
    let file = given.text("file").filter(|file| !file.is_empty());
    let file = file.ok_or("A block device must be specified for \"file\"")?;
    let bus = given.number("bus").unwrap_or(0);
    let taken = |unit: u64| others.iter().any(|other| other.unit as u64 == unit);
    let (unit, index) = match (given.number("unit"), given.number("index")) {
        (Some(_), Some(_)) => return Err("index cannot be used with bus and unit".to_owned()),
        (None, Some(index)) => (index, index.to_string()),
        (Some(unit), None) => (unit, "-1".to_owned()),
        (None, None) => {
            let free = (0..=UNITS_MAX as u64).find(|unit| !taken(*unit));
            (free.unwrap_or(UNITS_MAX as u64), "-1".to_owned())
        }
    };
    if taken(unit) && bus == 0 {
        return Err(format!(
            "drive with bus={bus}, unit={unit} (index={index}) exists"
        ));
    }
    let chip = usize::try_from(unit).ok();
    let Some(chip) = chip.filter(|unit| *unit < UNITS_MAX && bus == 0) else {
        return Err(format!(
            "machine type does not support if=pflash,bus={bus},unit={unit}"
        ));
    };
    let id = match given.text("id") {
        Some(text) => id(text)?.to_owned(),
        None => format!("pflash{chip}"),
    };
    if others.iter().any(|other| other.id == id) {
        return Err(format!("Duplicate ID '{id}' for drive"));
    }
    Ok(DriveOption {
        id,
        unit: chip,
        file: file.to_owned(),
        read_only: given.bool("read-only").unwrap_or(false),
        snapshot: given.bool("snapshot").unwrap_or(false),
        origin: format!("-drive {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_follow_each_other() {
        let first = parse("if=pflash,format=raw,file=a,readonly=on", &[]).unwrap();
        assert_eq!((first.unit, first.id.as_str()), (0, "pflash0"));
        assert!(first.read_only && !first.snapshot);
        let second = parse(
            "if=pflash,file=b,,c,id=vars,snapshot=on",
            std::slice::from_ref(&first),
        );
        let second = second.unwrap();
        assert_eq!((second.unit, second.id.as_str()), (1, "vars"));
        assert_eq!(second.file, "b,c");
        let both = [first, second];
        for (text, reason) in [
            (
                "if=pflash,file=c",
                "machine type does not support if=pflash,bus=0,unit=2",
            ),
            (
                "if=pflash,file=c,unit=1",
                "drive with bus=0, unit=1 (index=-1) exists",
            ),
            (
                "if=pflash,file=c,index=0",
                "drive with bus=0, unit=0 (index=0) exists",
            ),
            (
                "if=pflash,file=c,bus=1",
                "machine type does not support if=pflash,bus=1,unit=2",
            ),
        ] {
            assert_eq!(parse(text, &both).unwrap_err(), reason, "{text}");
        }
        let duplicate = parse("if=pflash,file=c,id=pflash0", &both[..1]);
        assert_eq!(duplicate.unwrap_err(), "Duplicate ID 'pflash0' for drive");
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (text, reason) in [
            (
                "file=a",
                "only if=pflash is available: disks are not available",
            ),
            (
                "if=virtio,file=a",
                "if=virtio is not available, only pflash: disks are not available",
            ),
            ("if=bogus,file=a", "unsupported bus type 'bogus'"),
            (
                "if=pflash,file=a,format=qcow2",
                "format=qcow2 is not available, only raw",
            ),
            ("if=pflash", "A block device must be specified for \"file\""),
            ("if=pflash,file=a,bogus=1", "Invalid parameter 'bogus'"),
            (
                "if=pflash,file=a,readonly=maybe",
                "Parameter 'read-only' expects 'on' or 'off'",
            ),
            (
                "if=pflash,file=a,unit=x",
                "Parameter 'unit' expects a number",
            ),
        ] {
            assert_eq!(parse(text, &[]).unwrap_err(), reason, "{text}");
        }
    }
}
