//! Device classes as data: the name, parent, bus and properties of each kind of device.
//!
//! One table of classes serves `-device`, `-global`, `-device X,help` and the object model. The
//! values of an instance's properties are checked here, against the class, wherever they come from.

use core::fmt;

/// Properties that a class has at most.
pub const PROPERTIES_MAX: usize = 24;

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
    /// The id of a character device, at most [`TEXT_MAX`] bytes.
    Chardev,
    /// Text of at most [`TEXT_MAX`] bytes.
    Text,
    /// One of a few words.
    Word {
        /// The type's name: `LostTickPolicy`.
        name: &'static str,
        /// The words, of at most [`TEXT_MAX`] bytes.
        words: &'static [&'static str],
    },
}

impl PropertyKind {
    /// The type's name in `-device X,help` and in error messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Int32 => "int32",
            Self::Chardev | Self::Text => "str",
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
    /// For [`PropertyKind::Int32`].
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

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such property"),
            Self::Type(PropertyKind::Bool) => f.write_str("expects 'on' or 'off'"),
            Self::Type(PropertyKind::Word { words, .. }) => {
                f.write_str("expects one of")?;
                for (index, word) in words.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "," };
                    write!(f, "{separator} '{word}'")?;
                }
                Ok(())
            }
            Self::Type(kind) => write!(f, "expects a number of type {}", kind.name()),
            Self::Range(kind) => write!(f, "does not fit type {}", kind.name()),
            Self::Long => write!(f, "is longer than {TEXT_MAX} bytes"),
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
                .properties
                .iter()
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
        let index = self.index(name).ok_or(PropertyError::Unknown)?;
        self.values[index] = parse(self.class.properties[index].kind, text)?;
        Ok(())
    }

    /// The value of a property; [`Value::Unset`] for a name that the class lacks.
    pub fn get(&self, name: &str) -> &Value {
        self.index(name)
            .map_or(&Value::Unset, |index| &self.values[index])
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

    fn index(&self, name: &str) -> Option<usize> {
        self.class
            .properties
            .iter()
            .position(|property| property.name == name)
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
        PropertyKind::Chardev | PropertyKind::Text => {
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
        Err(error) if *error.kind() == core::num::IntErrorKind::PosOverflow => {
            Err(PropertyError::Range(kind))
        }
        Err(_) => Err(PropertyError::Type(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

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
        assert_eq!(error.to_string(), "expects one of 'small', 'large'");
        assert_eq!(values.text("size"), Some("large"));
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
