//! `-smbios`: which structure is told of, and the names of its fields.

use thimble_core::firmware::smbios::{LAYOUTS, ONBOARD_KINDS};

use super::opts::{self, Kind, Reason, SubOption};

/// The highest type.
const TYPE_MAX: u64 = 127;
/// The field that is the machine's UUID.
pub(super) const UUID: &str = "uuid";

/// One `-smbios`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmbiosOption {
    /// What it tells.
    pub given: SmbiosGiven,
    /// The option as given, for messages.
    pub origin: String,
}

/// What one `-smbios` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmbiosGiven {
    /// A file of structures.
    File(String),
    /// Fields of a structure.
    Fields {
        /// The structure's type.
        number: u8,
        /// Names and values in order; names may repeat.
        values: Vec<(&'static str, String)>,
    },
}

impl SmbiosGiven {
    /// The last value of a field.
    pub fn text(&self, name: &str) -> Option<&str> {
        let Self::Fields { values, .. } = self else {
            return None;
        };
        let mut values = values.iter().rev();
        let found = values.find(|(field, _)| *field == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it tells of fields of structures of this type.
    pub fn is_of(&self, of: u8) -> bool {
        matches!(self, Self::Fields { number, .. } if *number == of)
    }

    /// The last value of a field that is a flag.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.text(name).and_then(opts::parse_bool)
    }

    /// The last value of a field that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)
            .and_then(|text| opts::parse_number(text).ok())
    }
}

/// Fields that are not texts of the structure, behind its type.
static FIELDS: [(u8, SubOption); 14] = [
    (0, SubOption::new("release", Kind::Text, "")),
    (0, SubOption::new("uefi", Kind::Bool, "")),
    (1, SubOption::new(UUID, Kind::Text, "")),
    (4, SubOption::new("max-speed", Kind::Number, "")),
    (4, SubOption::new("current-speed", Kind::Number, "")),
    (4, SubOption::new("processor-id", Kind::Number, "")),
    (8, SubOption::new("connector_type", Kind::Number, "")),
    (8, SubOption::new("port_type", Kind::Number, "")),
    (11, SubOption::new("value", Kind::Text, "")),
    (11, SubOption::new("path", Kind::Text, "")),
    (17, SubOption::new("speed", Kind::Number, "")),
    (41, SubOption::new("kind", Kind::Text, "")),
    (41, SubOption::new("instance", Kind::Number, "")),
    (41, SubOption::new("pcidev", Kind::Text, "")),
];

/// The argument of `-smbios`. What is refused is in QEMU's words.
pub(super) fn parse(text: &str) -> Result<SmbiosGiven, Reason> {
    let parts = opts::split(text);
    let last = |name: &str| {
        let mut parts = parts.iter().rev();
        let found = parts.find(|(key, value)| key == name && value.is_some());
        found.and_then(|(_, value)| value.as_deref())
    };
    let unknown = |key: &str| format!("Invalid parameter '{key}'");
    if let Some(file) = last("file") {
        return match parts.iter().find(|(key, _)| key != "file") {
            Some((key, _)) => Err(unknown(key)),
            None => Ok(SmbiosGiven::File(file.to_owned())),
        };
    }
    let kind = last("type").ok_or("Must specify type= or file=")?;
    opts::check(&SubOption::new("type", Kind::Number, ""), kind)?;
    let kind = opts::parse_number(kind).unwrap_or(u64::MAX);
    if kind > TYPE_MAX {
        return Err("out of range!".to_owned());
    }
    let number = kind as u8;
    let layout = LAYOUTS.iter().find(|layout| layout.number == number);
    let texts = layout.map_or(&[][..], |layout| layout.texts);
    let fields = || FIELDS.iter().filter(|(of, _)| *of == number);
    if texts.is_empty() && fields().next().is_none() {
        return Err(format!(
            "Don't know how to build fields for SMBIOS type {kind}"
        ));
    }
    let mut values = Vec::new();
    for (key, value) in &parts {
        if key == "type" {
            continue;
        }
        let value = value.as_deref().unwrap_or("on");
        if let Some(text) = texts.iter().find(|text| text.name == key) {
            values.push((text.name, value.to_owned()));
            continue;
        }
        let (_, field) = fields()
            .find(|(_, field)| field.name == key)
            .ok_or_else(|| unknown(key))?;
        opts::check(field, value)?;
        match field.name {
            "release" if parse_release(value).is_none() => {
                return Err("Invalid release".to_owned());
            }
            "max-speed" | "current-speed"
                if opts::parse_number(value).is_ok_and(|speed| speed > u16::MAX.into()) =>
            {
                let most = u16::MAX;
                return Err(format!("SMBIOS CPU speed is too large (> {most})"));
            }
            "kind" if !ONBOARD_KINDS.contains(&value) => {
                return Err(format!("invalid parameter value: {value}"));
            }
            _ => {}
        }
        values.push((field.name, value.to_owned()));
    }
    Ok(SmbiosGiven::Fields { number, values })
}

/// A release: two decimal numbers with a dot between, of which the lowest 8 bits count; what
/// follows them does not.
pub fn parse_release(text: &str) -> Option<(u8, u8)> {
    let (major, minor) = text.split_once('.')?;
    let minor = minor.trim_start();
    let end = minor.find(|c: char| !c.is_ascii_digit());
    let minor = minor.get(..end.unwrap_or(minor.len()))?;
    let number = |text: &str| text.trim_start().parse::<u32>().ok().map(|n| n as u8);
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (text, release) in [
            ("4.5", Some((4, 5))),
            ("300.400", Some((44, 144))),
            ("4.5x", Some((4, 5))),
            (" 1. 5", Some((1, 5))),
            ("4", None),
            ("4.x", None),
            (".5", None),
            ("", None),
        ] {
            assert_eq!(parse_release(text), release, "{text}");
        }
    }

    /// As QEMU 7.2 says.
    #[test]
    fn what_is_refused() {
        for (text, reason) in [
            ("", "Must specify type= or file="),
            ("x", "Must specify type= or file="),
            ("foo=1", "Must specify type= or file="),
            ("type=abc", "Parameter 'type' expects a number"),
            ("type=300", "out of range!"),
            ("type=5", "Don't know how to build fields for SMBIOS type 5"),
            ("type=0,foo=1", "Invalid parameter 'foo'"),
            ("type=1,vendor=x", "Invalid parameter 'vendor'"),
            ("type=0,release=4", "Invalid release"),
            (
                "type=0,uefi=maybe",
                "Parameter 'uefi' expects 'on' or 'off'",
            ),
            (
                "type=4,max-speed=65536",
                "SMBIOS CPU speed is too large (> 65535)",
            ),
            ("type=41,kind=foo", "invalid parameter value: foo"),
            ("file=x,type=1", "Invalid parameter 'type'"),
        ] {
            assert_eq!(parse(text), Err(reason.to_owned()), "{text}");
        }
        let given = parse("type=11,value=a,,b,path=c,value=d").unwrap();
        let SmbiosGiven::Fields { number: 11, values } = &given else {
            panic!("{given:?}");
        };
        let values: Vec<_> = values.iter().map(|(name, v)| (*name, v.as_str())).collect();
        assert_eq!(values, [("value", "a,b"), ("path", "c"), ("value", "d")]);
        assert_eq!(given.text("value"), Some("d"));
    }
}
