//! The syntax of option arguments: `value,key=value,flag,...`, a comma doubled where it belongs
//! to a value, checked against a table of what the option takes.
//!
//! A table is data: the source of parsing, of error messages and of the help text.

use std::fmt::Write as _;

/// Why an argument was refused: a sentence without a line feed and without the option's name.
pub type Reason = String;

/// Which values a sub-option takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Anything.
    Text,
    /// `on` or `off` (also `yes`, `no`, `true`, `false`, `y`, `n`).
    Bool,
    /// An unsigned 64-bit number: decimal, hexadecimal behind `0x`, octal behind `0`.
    Number,
    /// A 64-bit number with a sign, decimal.
    Integer,
    /// Bytes, with a suffix from B to E; the number is the shift of a number without suffix.
    Size(u32),
    /// One of a list of words.
    Word(&'static [&'static str]),
    /// One of a list of words, all that there is here; why others known to QEMU are refused.
    Only(&'static [&'static str], &'static str),
    /// Known to QEMU, not available here: why.
    Absent(&'static str),
}

/// One sub-option.
#[derive(Clone, Copy, Debug)]
pub struct SubOption {
    /// Name before the equals sign.
    pub name: &'static str,
    /// Which values it takes.
    pub kind: Kind,
    /// One line for the help text.
    pub doc: &'static str,
}

impl SubOption {
    /// A row of a table.
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, doc }
    }
}

/// What an option takes.
#[derive(Debug)]
pub struct OptsTable {
    /// What the option describes: `chardev`.
    pub name: &'static str,
    /// The key of a first value that comes without one.
    pub implied: Option<&'static str>,
    /// What can be given, in the order of the help text.
    pub options: &'static [SubOption],
}

/// What was given, checked against the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opts {
    values: Vec<(&'static str, String)>,
}

/// Splits an argument into its keys and values. A part without an equals sign has an empty key.
pub fn split(text: &str) -> Vec<(String, Option<String>)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        // A key can't hold a doubled comma; a lone value can.
        if rest[end..].starts_with('=') {
            let key = rest[..end].to_owned();
            let (value, after) = take_value(&rest[end + 1..]);
            parts.push((key, Some(value)));
            rest = after;
        } else {
            let (value, after) = take_value(rest);
            parts.push((value, None));
            rest = after;
        }
    }
    parts
}

/// A value up to a single comma, and what follows that comma.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let Some(comma) = rest.find(',') else {
            value.push_str(rest);
            return (value, "");
        };
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, rest),
        }
    }
}

/// Whether a text can be the id of an object: a letter, then letters, digits, `-`, `.`, `_`.
pub fn is_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// The id, if it is one.
///
/// # Errors
/// If the text is not an id.
pub fn id(text: &str) -> Result<&str, Reason> {
    if is_id(text) {
        Ok(text)
    } else {
        Err(format!(
            "Parameter 'id' expects an identifier (a letter, then letters, digits, '-', '.', '_'), not '{text}'"
        ))
    }
}

/// `on` or `off` and their synonyms.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// An unsigned number in C's notation.
///
/// # Errors
/// `Some(())`-like: whether the text is a number at all, and too large.
pub fn parse_number(text: &str) -> Result<u64, NumberError> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge)
}

/// Why a text is not a number that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// It does not look like one.
    NotANumber,
    /// 64 bits don't hold it.
    TooLarge,
}

/// A number of bytes: `1.5G`, `0x1000`, `64`. A number without suffix is shifted left by `shift`.
///
/// # Errors
/// If it is not a size, or 64 bits don't hold it.
pub fn parse_size(text: &str, shift: u32) -> Result<u64, NumberError> {
    if text.starts_with("0x") || text.starts_with("0X") {
        let bytes = u128::from(parse_number(text)?) << shift;
        return u64::try_from(bytes).map_err(|_| NumberError::TooLarge);
    }
    let (number, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(letter) if letter.is_ascii_alphabetic() => {
            let index = b"BKMGTPE".iter().position(|&suffix| suffix == letter);
            let power = index.ok_or(NumberError::NotANumber)? as u32;
            (&text[..text.len() - 1], 10 * power)
        }
        _ => (text, shift),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 18 {
        return Err(NumberError::NotANumber);
    }
    let whole: u64 = whole.parse().map_err(|_| NumberError::TooLarge)?;
    let mut bytes = u128::from(whole) << shift;
    if !fraction.is_empty() {
        let part: u64 = fraction.parse().map_err(|_| NumberError::TooLarge)?;
        bytes += (u128::from(part) << shift) / 10_u128.pow(fraction.len() as u32);
    }
    u64::try_from(bytes).map_err(|_| NumberError::TooLarge)
}

impl OptsTable {
    /// Parses and checks an argument. A key given twice: the last one counts, as with QEMU.
    ///
    /// # Errors
    /// An unknown key or a value that the key does not take, in QEMU's words where it has some.
    pub fn parse(&self, text: &str) -> Result<Opts, Reason> {
        self.parse_with(text, |key| key)
    }

    /// As [`OptsTable::parse`], with keys spelled by `respell`: some options of QEMU take other
    /// spellings, too.
    ///
    /// # Errors
    /// As above.
    pub fn parse_with(
        &self,
        text: &str,
        respell: impl Fn(String) -> String,
    ) -> Result<Opts, Reason> {
        let mut opts = Opts::default();
        for (index, (key, value)) in split(text).into_iter().enumerate() {
            let (name, value) = match (value, self.implied) {
                (Some(value), _) => (respell(key), value),
                (None, Some(implied)) if index == 0 => (implied.to_owned(), key),
                (None, _) => self.flag(key),
            };
            opts.set(self, &name, value)?;
        }
        Ok(opts)
    }

    /// A flag: `server` is `server=on`, `nowait` is `wait=off`.
    fn flag(&self, key: String) -> (String, String) {
        match key.strip_prefix("no") {
            Some(name) if self.find(&key).is_none() && self.find(name).is_some() => {
                (name.to_owned(), "off".to_owned())
            }
            _ => (key, "on".to_owned()),
        }
    }

    fn find(&self, name: &str) -> Option<&'static SubOption> {
        self.options.iter().find(|option| option.name == name)
    }

    /// Whether an argument asks for help: one of its parts is `help` or `?`.
    pub fn wants_help(text: &str) -> bool {
        split(text)
            .iter()
            .any(|(key, value)| value.is_none() && (key == "help" || key == "?"))
    }

    /// The help text: one line a sub-option.
    pub fn help(&self) -> String {
        let mut text = format!("{} options:\n", self.name);
        for option in self.options {
            let kind = match option.kind {
                Kind::Text => "<str>".to_owned(),
                Kind::Bool => "<bool (on/off)>".to_owned(),
                Kind::Number | Kind::Integer => "<num>".to_owned(),
                Kind::Size(_) => "<size>".to_owned(),
                Kind::Word(words) | Kind::Only(words, _) => words.join("|"),
                Kind::Absent(_) => continue,
            };
            let left = format!("{}={kind}", option.name);
            let _ = writeln!(text, "  {left:<22} - {}", option.doc);
        }
        text
    }
}

impl Opts {
    fn set(&mut self, table: &OptsTable, name: &str, value: String) -> Result<(), Reason> {
        let Some(option) = table.find(name) else {
            return Err(format!("Invalid parameter '{name}'"));
        };
        check(option, &value)?;
        self.values.retain(|(known, _)| *known != option.name);
        self.values.push((option.name, value));
        Ok(())
    }

    /// The text of a sub-option that was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The text of a sub-option, by value.
    pub fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// A boolean sub-option that was given.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).and_then(parse_bool)
    }

    /// A number that was given.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(|text| parse_number(text).ok())
    }

    /// A number with a sign that was given.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    /// A size that was given, in bytes.
    pub fn size(&self, name: &str, shift: u32) -> Option<u64> {
        self.text(name)
            .and_then(|text| parse_size(text, shift).ok())
    }

    /// What was given, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }
}

pub(super) fn check(option: &SubOption, value: &str) -> Result<(), Reason> {
    let name = option.name;
    let number = |result: Result<u64, NumberError>, expects: &str| match result {
        Ok(_) => Ok(()),
        Err(NumberError::NotANumber) => Err(format!("Parameter '{name}' expects {expects}")),
        Err(NumberError::TooLarge) => Err(format!(
            "Value '{value}' is out of range for parameter '{name}'"
        )),
    };
    match option.kind {
        Kind::Text => Ok(()),
        Kind::Bool if parse_bool(value).is_some() => Ok(()),
        Kind::Bool => Err(format!("Parameter '{name}' expects 'on' or 'off'")),
        Kind::Number => number(parse_number(value), "a number"),
        Kind::Integer if value.parse::<i64>().is_ok() => Ok(()),
        Kind::Integer => Err(format!("Parameter '{name}' expects integer")),
        Kind::Size(shift) => number(
            parse_size(value, shift),
            "a non-negative number below 2^64 with an optional suffix k, M, G, T, P or E",
        ),
        Kind::Word(words) if words.contains(&value) => Ok(()),
        Kind::Word(words) => Err(format!(
            "Parameter '{name}' expects one of {}, not '{value}'",
            words.join(", ")
        )),
        Kind::Only(words, _) if words.contains(&value) => Ok(()),
        Kind::Only(words, why) => Err(format!(
            "'{name}={value}' is not available, only {}: {why}",
            words.join(", ")
        )),
        Kind::Absent(why) => Err(format!("'{name}' is not available: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: OptsTable = OptsTable {
        name: "probe",
        implied: Some("type"),
        options: &[
            SubOption::new("type", Kind::Text, "the type"),
            SubOption::new("wait", Kind::Bool, "whether to wait"),
            SubOption::new("n", Kind::Number, "a number"),
            SubOption::new("size", Kind::Size(20), "a size"),
            SubOption::new("mode", Kind::Word(&["a", "b"]), "a word"),
            SubOption::new("tls", Kind::Absent("there is none"), ""),
            SubOption::new("usb", Kind::Only(&["off"], "there is no USB"), ""),
        ],
    };

    #[test]
    fn doubled_commas_belong_to_the_value() {
        let parts = split("a,,b,c=d,,,e,f=");
        let expected = [
            ("a,b", None),
            ("c", Some("d,")),
            ("e", None),
            ("f", Some("")),
        ];
        assert_eq!(parts.len(), expected.len());
        for ((key, value), (k, v)) in parts.iter().zip(expected) {
            assert_eq!((key.as_str(), value.as_deref()), (k, v));
        }
        assert!(split("").is_empty());
        assert_eq!(split("a=b=c")[0].1.as_deref(), Some("b=c"));
    }

    #[test]
    fn a_table_checks_keys_and_values() {
        let opts = TABLE
            .parse("x,nowait,n=0x10,size=2,mode=b,usb=off")
            .unwrap();
        assert_eq!(opts.text("type"), Some("x"));
        assert_eq!(opts.bool("wait"), Some(false));
        assert_eq!(opts.number("n"), Some(16));
        assert_eq!(opts.size("size", 20), Some(2 << 20));
        for (text, reason) in [
            ("x,y=1", "Invalid parameter 'y'"),
            ("x,y", "Invalid parameter 'y'"),
            ("wait=maybe", "Parameter 'wait' expects 'on' or 'off'"),
            ("n=12k", "Parameter 'n' expects a number"),
            (
                "n=99999999999999999999",
                "Value '99999999999999999999' is out of range for parameter 'n'",
            ),
            ("mode=c", "Parameter 'mode' expects one of a, b, not 'c'"),
            ("tls=x", "'tls' is not available: there is none"),
            (
                "usb=on",
                "'usb=on' is not available, only off: there is no USB",
            ),
        ] {
            assert_eq!(TABLE.parse(text).unwrap_err(), reason, "{text}");
        }
        assert!(TABLE.help().contains("mode=a|b"));
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("64", 64 << 20),
            ("1.5G", 3 << 29),
            ("1k", 1024),
            ("8B", 8),
            ("0x10", 16 << 20),
            ("0.5", 1 << 19),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse_size(text, 20), Ok(size), "{text}");
        }
        for text in ["", "12q", "-1", "k", ".5", "1..2", "1 k", "0x", "1.2.3"] {
            assert_eq!(parse_size(text, 20), Err(NumberError::NotANumber), "{text}");
        }
        for text in ["16E", "99999999999999999999", "0xfffffffffffffff"] {
            assert_eq!(parse_size(text, 20), Err(NumberError::TooLarge), "{text}");
        }
    }
}
