//! `-drive if=pflash` and `-pflash`: the file of a chip of the system flash. All other drives are [`block`](super::block)'s.

use thimble_core::devices::pflash::UNITS_MAX;

use super::opts::{Kind, OptsTable, Reason, SubOption, id};

/// The file of a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlashOption {
    /// Its id: as given, or `pflash0`.
    pub id: String,
    /// Which chip it is.
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

static DRIVE: OptsTable = OptsTable {
    name: "drive",
    implied: None,
    options: &[
        SubOption::new("bus", Kind::Number, "bus number"),
        SubOption::new("unit", Kind::Number, "unit number (i.e. lun for scsi)"),
        SubOption::new("index", Kind::Number, "index number"),
        SubOption::new("media", Kind::Word(&["disk", "cdrom"]), "media type"),
        SubOption::new("if", Kind::Word(&["pflash"]), "interface"),
        SubOption::new("file", Kind::Text, "file name"),
        SubOption::new("format", Kind::Text, "disk format: raw"),
        SubOption::new("id", Kind::Text, ""),
        SubOption::new("read-only", Kind::Bool, "open drive file as read-only"),
        SubOption::new("snapshot", Kind::Bool, "what is written is lost in the end"),
    ],
};

/// Reads a `-drive` that is known to be flash, behind others.
pub(super) fn parse(text: &str, others: &[FlashOption]) -> Result<FlashOption, Reason> {
    let given = DRIVE.parse_with(text, |key| match key.as_str() {
        "readonly" => "read-only".to_owned(),
        _ => key,
    })?;
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
    Ok(FlashOption {
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
    fn bad_values_are_named() {
        for (text, reason) in [
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
