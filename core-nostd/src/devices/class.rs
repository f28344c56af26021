//! Device classes as data: the name, parent, bus and properties of each kind of device.
//!
//! One table of classes serves `-device`, `-global`, `-device X,help` and the object model. The
//! values of an instance's properties are checked here, against the class, wherever they come from.

use core::fmt;

use super::vmgenid::{self, GenerationId};
use crate::virtio::block;

/// Properties that a class has at most, with those that it inherits.
pub const PROPERTIES_MAX: usize = 48;

/// Bytes that a text property holds at most.
pub const TEXT_MAX: usize = 64;

/// A kind of device.
#[derive(Debug)]
pub struct DeviceClass {
    /// Type name, as `-device` takes it: `isa-serial`.
    pub name: &'static str,
    /// Type name of the parent class: `isa-device`.
    pub parent: &'static str,
    /// Type of the bus that instances plug into: `ISA`; `None` for devices without one.
    pub bus: Option<&'static str>,
    /// One line for `-device help`.
    pub doc: &'static str,
    /// Whether `-device` may create it.
    pub user_creatable: bool,
    /// What can be set, in alphabetical order.
    pub properties: &'static [Property],
}

impl DeviceClass {
    /// What it shares with other classes of the same device.
    pub fn shared(&self) -> &'static [Property] {
        match self.name {
            block::MMIO_NAME | block::PCI_NAME => block::PROPERTIES,
            _ => &[],
        }
    }

    /// What devices of this class take because of the bus that they are on.
    pub fn inherited(&self) -> &'static [Property] {
        match self.bus {
            Some("PCI") => PCI_PROPERTIES,
            _ => &[],
        }
    }

    /// All that can be set, the class's own first.
    pub fn all_properties(&self) -> impl Iterator<Item = &'static Property> + use<> {
        let own = self.properties.iter().chain(self.shared());
        own.chain(self.inherited())
    }
}

/// The thread that serves a device; also the type of what the property links to.
pub(crate) const IO_THREAD: &str = "iothread";

/// A device's place among what firmware boots from, lowest first; negative: none. Names of several begin so, too.
pub const BOOT_INDEX: &str = "bootindex";
/// Device and function number of a PCI device in one number; -1: the first free device number.
pub const PCI_ADDR: &str = "addr";
/// Whether a PCI device says that it has functions beyond 0.
pub const PCI_MULTIFUNCTION: &str = "multifunction";
/// Whether a PCI device's expansion ROM is in the PCI device.
pub const PCI_ROMBAR: &str = "rombar";
/// The file with a PCI device's expansion ROM.
pub const PCI_ROMFILE: &str = "romfile";
/// Bytes of a PCI device's expansion ROM.
pub const PCI_ROMSIZE: &str = "romsize";

/// What every PCI device takes.
pub static PCI_PROPERTIES: &[Property] = &[
    Property {
        name: PCI_ADDR,
        kind: PropertyKind::PciAddress,
        default: Value::Int(-1),
        doc: "device and function number, both hexadecimal: 06.0 or 06",
    },
    Property {
        name: PCI_MULTIFUNCTION,
        kind: PropertyKind::Bool,
        default: Value::Bool(false),
        doc: "whether other functions may follow",
    },
    Property {
        name: PCI_ROMBAR,
        kind: PropertyKind::Uint32,
        default: Value::Uint(1),
        doc: "0 gives the expansion ROM to the firmware instead of the device",
    },
    Property {
        name: PCI_ROMFILE,
        kind: PropertyKind::Text,
        default: Value::Unset,
        doc: "file with the expansion ROM",
    },
    Property {
        name: PCI_ROMSIZE,
        kind: PropertyKind::Uint32,
        default: Value::Uint(u32::MAX as u64),
        doc: "bytes of the expansion ROM, a power of two; by its file by default",
    },
];

/// One property of a class.
#[derive(Debug)]
pub struct Property {
    /// Name as written in `-device`.
    pub name: &'static str,
    /// Which values it takes.
    pub kind: PropertyKind,
    /// Value of an instance that nobody set it for.
    pub default: Value,
    /// One line for `-device X,help`.
    pub doc: &'static str,
}

/// Which values a property takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyKind {
    /// `on` or `off`.
    Bool,
    /// 0 to 255.
    Uint8,
    /// 0 to 65,535.
    Uint16,
    /// 32 bits.
    Uint32,
    /// 64 bits.
    Uint64,
    /// 32 bits with a sign.
    Int32,
    /// Bytes, 64 bits, perhaps in units: `64K`.
    Size,
    /// Device and function number of a PCI device, both hexadecimal: `1f.7`.
    PciAddress,
    /// The id of a character device, at most [`TEXT_MAX`] bytes.
    Chardev,
    /// The id of a drive, or the name of a block node, at most [`TEXT_MAX`] bytes.
    Drive,
    /// The id of a thread for input and output, at most [`TEXT_MAX`] bytes.
    IoThread,
    /// Text of at most [`TEXT_MAX`] bytes.
    Text,
    /// A UUID, or `auto`.
    Uuid,
    /// One of a few words.
    Word {
        /// The type's name: `LostTickPolicy`.
        name: &'static str,
        /// The words, of at most [`TEXT_MAX`] bytes.
        words: &'static [&'static str],
    },
}

impl PropertyKind {
    /// The words of one of a few; none for other kinds.
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Word { words, .. } => words,
            _ => &[],
        }
    }

    /// The type's name in `-device X,help` and in error messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Int32 | Self::PciAddress => "int32",
            Self::Size => "size",
            Self::IoThread => "link<iothread>",
            Self::Chardev | Self::Drive | Self::Text | Self::Uuid => "str",
            Self::Word { name, .. } => name,
        }
    }
}

/// The value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not set, and the class has no default.
    Unset,
    /// For [`PropertyKind::Bool`].
    Bool(bool),
    /// For the integer kinds without a sign.
    Uint(u64),
    /// For the integer kinds with a sign.
    Int(i64),
    /// For [`PropertyKind::Word`].
    Word(&'static str),
    /// For the text kinds.
    Text(heapless::String<TEXT_MAX>),
}

/// Why a property could not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyError {
    /// The class has no such property.
    Unknown,
    /// The text is not a value of the property's type.
    Type(PropertyKind),
    /// The number does not fit the property's type.
    Range(PropertyKind),
    /// The text is longer than [`TEXT_MAX`] bytes.
    Long,
}

impl PropertyError {
    /// Writes what is wrong with a class's property that was to have this value, in QEMU's words where it has some.
    ///
    /// # Errors
    /// The writer's.
    pub fn describe(
        self,
        class: &str,
        name: &str,
        value: &str,
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        match self {
            Self::Unknown => return write!(out, "Property '{class}.{name}' not found"),
            Self::Type(PropertyKind::PciAddress | PropertyKind::Uuid) => {
                return write!(
                    out,
                    "Property '{class}.{name}' doesn't take value '{value}'"
                );
            }
            _ => write!(out, "Parameter '{name}' ")?,
        }
        match self {
            Self::Type(PropertyKind::Bool) => out.write_str("expects 'on' or 'off'"),
            Self::Type(PropertyKind::Word { .. }) => {
                write!(out, "does not accept value '{value}'")
            }
            Self::Type(PropertyKind::Size) | Self::Range(PropertyKind::Size) => {
                out.write_str("expects size")
            }
            Self::Range(kind) => write!(out, "expects {}_t", kind.name()),
            Self::Long => write!(out, "is longer than {TEXT_MAX} bytes"),
            Self::Type(_) | Self::Unknown => out.write_str("expects integer"),
        }
    }
}

/// The properties of one instance, parallel to the properties of its class.
#[derive(Clone, Debug)]
pub struct PropertyValues {
    class: &'static DeviceClass,
    values: heapless::Vec<Value, PROPERTIES_MAX>,
}

impl PropertyValues {
    /// The defaults of a class.
    pub fn new(class: &'static DeviceClass) -> Self {
        Self {
            class,
            values: class
                .all_properties()
                .take(PROPERTIES_MAX)
                .map(|p| p.default.clone())
                .collect(),
        }
    }

    /// The class whose properties these are.
    pub fn class(&self) -> &'static DeviceClass {
        self.class
    }

    /// Sets a property from its text form. Numbers are decimal, or hexadecimal behind `0x`.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), PropertyError> {
        let mut all = self.class.all_properties().zip(&mut self.values);
        let (property, value) = all
            .find(|(property, _)| property.name == name)
            .ok_or(PropertyError::Unknown)?;
        *value = parse(property.kind, text)?;
        Ok(())
    }

    /// The value of a property; [`Value::Unset`] for a name that the class lacks.
    pub fn get(&self, name: &str) -> &Value {
        let mut all = self.class.all_properties().zip(&self.values);
        let found = all.find(|(property, _)| property.name == name);
        found.map_or(&Value::Unset, |(_, value)| value)
    }

    /// An integer property that has a value.
    pub fn uint(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Value::Uint(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether a boolean property is on.
    pub fn is_on(&self, name: &str) -> bool {
        *self.get(name) == Value::Bool(true)
    }

    /// A text or a word that has a value.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Value::Text(text) => Some(text),
            Value::Word(word) => Some(word),
            _ => None,
        }
    }
}

fn parse(kind: PropertyKind, text: &str) -> Result<Value, PropertyError> {
    let most = match kind {
        PropertyKind::Bool => {
            return match text {
                "on" | "yes" | "true" | "y" => Ok(Value::Bool(true)),
                "off" | "no" | "false" | "n" => Ok(Value::Bool(false)),
                _ => Err(PropertyError::Type(kind)),
            };
        }
        PropertyKind::Uuid if text != vmgenid::AUTO && GenerationId::parse(text).is_none() => {
            return Err(PropertyError::Type(kind));
        }
        PropertyKind::Chardev
        | PropertyKind::Drive
        | PropertyKind::IoThread
        | PropertyKind::Text
        | PropertyKind::Uuid => {
            return text
                .try_into()
                .map(Value::Text)
                .map_err(|_| PropertyError::Long);
        }
        PropertyKind::Word { words, .. } => {
            let word = words.iter().find(|word| **word == text);
            return word
                .map(|word| Value::Word(word))
                .ok_or(PropertyError::Type(kind));
        }
        PropertyKind::PciAddress => {
            let devfn = parse_address(text).ok_or(PropertyError::Type(kind))?;
            return Ok(Value::Int(devfn.into()));
        }
        PropertyKind::Size => return parse_size(text).map(Value::Uint),
        PropertyKind::Uint8 => u8::MAX.into(),
        PropertyKind::Uint16 => u16::MAX.into(),
        PropertyKind::Uint32 => u32::MAX.into(),
        PropertyKind::Uint64 => u64::MAX,
        PropertyKind::Int32 => {
            let (negative, text) = match text.strip_prefix('-') {
                Some(text) => (true, text),
                None => (false, text),
            };
            let magnitude = parse_uint(kind, text, i32::MAX as u64 + u64::from(negative))?;
            let value = magnitude as i64;
            return Ok(Value::Int(if negative { -value } else { value }));
        }
    };
    parse_uint(kind, text, most).map(Value::Uint)
}

/// Device number, and function number behind a dot if it is not 0, in one number.
fn parse_address(text: &str) -> Option<u8> {
    let (device, function) = text.split_once('.').unwrap_or((text, "0"));
    let number = |text: &str, most: u8| {
        let prefix = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let digits = prefix.unwrap_or(text);
        let plain = digits.starts_with(|c: char| c.is_ascii_hexdigit());
        let value = u32::from_str_radix(digits, 16).ok().filter(|_| plain)?;
        u8::try_from(value).ok().filter(|value| *value <= most)
    };
    Some(number(device, 31)? << 3 | number(function, 7)?)
}

/// Bytes, with one of the letters of units behind them, which are powers of 1,024.
fn parse_size(text: &str) -> Result<u64, PropertyError> {
    let kind = PropertyKind::Size;
    let unit = "bkmgtpe".find(|unit: char| text.ends_with([unit, unit.to_ascii_uppercase()]));
    let digits = match unit {
        // Digits of hexadecimal numbers are no units.
        Some(_) if !text.starts_with("0x") && !text.starts_with("0X") => &text[..text.len() - 1],
        _ => return parse_uint(kind, text, u64::MAX),
    };
    let number = parse_uint(kind, digits, u64::MAX)?;
    let factor = 1 << (10 * unit.unwrap_or(0));
    number.checked_mul(factor).ok_or(PropertyError::Range(kind))
}

/// A number from 0 to `most`.
fn parse_uint(kind: PropertyKind, text: &str, most: u64) -> Result<u64, PropertyError> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((text, 10), |digits| (digits, 16));
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return Err(PropertyError::Type(kind));
    }
    match u64::from_str_radix(digits, radix) {
        Ok(value) if value <= most => Ok(value),
        Ok(_) => Err(PropertyError::Range(kind)),
        // What doesn't fit any integer is none, as with QEMU.
        Err(_) => Err(PropertyError::Type(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    static CLASS: DeviceClass = DeviceClass {
        name: "probe",
        parent: "device",
        bus: None,
        doc: "",
        user_creatable: true,
        properties: &[
            Property {
                name: "base",
                kind: PropertyKind::Uint16,
                default: Value::Uint(0xe9),
                doc: "",
            },
            Property {
                name: "loud",
                kind: PropertyKind::Bool,
                default: Value::Bool(false),
                doc: "",
            },
            Property {
                name: "shift",
                kind: PropertyKind::Int32,
                default: Value::Int(-1),
                doc: "",
            },
            Property {
                name: "size",
                kind: PropertyKind::Word {
                    name: "Size",
                    words: &["small", "large"],
                },
                default: Value::Word("small"),
                doc: "",
            },
        ],
    };

    #[test]
    fn checks_values_against_the_class() {
        let mut values = PropertyValues::new(&CLASS);
        assert_eq!(values.uint("base"), Some(0xe9));
        values.set("base", "0x402").unwrap();
        values.set("loud", "on").unwrap();
        assert_eq!(values.uint("base"), Some(0x402));
        assert!(values.is_on("loud"));
        assert_eq!(values.set("bse", "1"), Err(PropertyError::Unknown));
        assert_eq!(
            values.set("base", "65536"),
            Err(PropertyError::Range(PropertyKind::Uint16))
        );
        for bad in ["", "+1", "-1", "0x", "12k", "0x+1"] {
            assert_eq!(
                values.set("base", bad),
                Err(PropertyError::Type(PropertyKind::Uint16)),
                "{bad}"
            );
        }
        assert_eq!(values.uint("base"), Some(0x402));
    }

    #[test]
    fn words_are_those_of_the_type() {
        let mut values = PropertyValues::new(&CLASS);
        assert_eq!(values.text("size"), Some("small"));
        values.set("size", "large").unwrap();
        assert_eq!(values.get("size"), &Value::Word("large"));
        let error = values.set("size", "huge").unwrap_err();
        assert!(matches!(error, PropertyError::Type(_)));
        let mut text = String::new();
        error.describe("c", "size", "huge", &mut text).unwrap();
        assert_eq!(text, "Parameter 'size' does not accept value 'huge'");
        assert_eq!(values.text("size"), Some("large"));
    }

    static PCI: DeviceClass = DeviceClass {
        name: "pci-probe",
        parent: "pci-device",
        bus: Some("PCI"),
        doc: "",
        user_creatable: true,
        properties: &[Property {
            name: "room",
            kind: PropertyKind::Size,
            default: Value::Uint(0),
            doc: "",
        }],
    };

    /// Observed with QEMU 7.2.
    #[test]
    fn pci_devices_have_addresses() {
        let mut values = PropertyValues::new(&PCI);
        assert_eq!(values.get(PCI_ADDR), &Value::Int(-1));
        for (text, devfn) in [
            ("5", 0x28),
            ("1f.7", 0xff),
            ("08.1", 0x41),
            ("0x10.0x2", 0x82),
        ] {
            values.set(PCI_ADDR, text).unwrap();
            assert_eq!(values.get(PCI_ADDR), &Value::Int(devfn), "{text}");
        }
        for bad in [
            "", "33", "20", "5.9", "xx", "-1", "31.7", "5.", ".1", "1.1.1", "+1",
        ] {
            let error = PropertyError::Type(PropertyKind::PciAddress);
            assert_eq!(values.set(PCI_ADDR, bad), Err(error), "{bad}");
        }
        assert_eq!(values.set("address", "1"), Err(PropertyError::Unknown));
        assert_eq!(PropertyValues::new(&CLASS).get(PCI_ADDR), &Value::Unset);
    }

    #[test]
    fn sizes_have_units() {
        let mut values = PropertyValues::new(&PCI);
        for (text, size) in [
            ("64K", 65536),
            ("0x1000", 4096),
            ("0xb", 11),
            ("3b", 3),
            ("1g", 1 << 30),
        ] {
            values.set("room", text).unwrap();
            assert_eq!(values.uint("room"), Some(size), "{text}");
        }
        for bad in ["K", "", "1KK", "-1", "1z", "é"] {
            let error = PropertyError::Type(PropertyKind::Size);
            assert_eq!(values.set("room", bad), Err(error), "{bad}");
        }
        let error = PropertyError::Range(PropertyKind::Size);
        assert_eq!(values.set("room", "16E"), Err(error));
    }

    #[test]
    fn numbers_with_a_sign() {
        let mut values = PropertyValues::new(&CLASS);
        for (text, value) in [
            ("-2147483648", i64::from(i32::MIN)),
            ("0x7fffffff", i64::from(i32::MAX)),
            ("-0x10", -16),
            ("0", 0),
        ] {
            values.set("shift", text).unwrap();
            assert_eq!(values.get("shift"), &Value::Int(value), "{text}");
        }
        for (text, error) in [
            ("-2147483649", PropertyError::Range(PropertyKind::Int32)),
            ("2147483648", PropertyError::Range(PropertyKind::Int32)),
            ("--1", PropertyError::Type(PropertyKind::Int32)),
            ("-", PropertyError::Type(PropertyKind::Int32)),
        ] {
            assert_eq!(values.set("shift", text), Err(error), "{text}");
        }
    }
}
