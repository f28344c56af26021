//! `-acpitable`: what a table of the user's is made of. What is refused is in QEMU's words.

use super::opts::{self, Reason};

/// One `-acpitable`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiTable {
    /// Files, in order.
    pub files: Vec<String>,
    /// Whether the first file begins with a table's header.
    pub has_header: bool,
    /// Fields of the header: where they are, their bytes.
    pub fields: Vec<(usize, Vec<u8>)>,
    /// The option as given, for messages.
    pub origin: String,
}

/// Fields of the header that are texts: name, place, bytes.
const TEXTS: [(&str, usize, usize); 4] = [
    ("sig", 0, 4),
    ("oem_id", 10, 6),
    ("oem_table_id", 16, 8),
    ("asl_compiler_id", 28, 4),
];
/// Fields that are numbers: name, place, bytes, type.
const NUMBERS: [(&str, usize, usize, &str); 3] = [
    ("rev", 8, 1, "uint8_t"),
    ("oem_rev", 24, 4, "uint32_t"),
    ("asl_compiler_rev", 32, 4, "uint32_t"),
];

/// The argument of `-acpitable`.
pub(super) fn parse(text: &str, origin: &str) -> Result<AcpiTable, Reason> {
    let mut table = AcpiTable {
        origin: origin.to_owned(),
        ..AcpiTable::default()
    };
    let (mut file, mut data) = (None, None);
    for (index, (key, value)) in opts::split(text).into_iter().enumerate() {
        let (key, value) = match value {
            Some(value) => (key, value),
            // The name of a first value that comes without one.
            None if index == 0 => ("data".to_owned(), key),
            None => (key, "on".to_owned()),
        };
        if let Some((_, at, length)) = TEXTS.iter().find(|(name, ..)| *name == key) {
            let mut bytes = value.into_bytes();
            bytes.resize(*length, 0);
            table.fields.push((*at, bytes));
        } else if let Some((_, at, length, kind)) = NUMBERS.iter().find(|row| row.0 == key) {
            let number = opts::parse_number(&value)
                .map_err(|_| format!("Parameter '{key}' expects a uint64 value"))?;
            if number >> (8 * length) != 0 {
                return Err(format!("Parameter '{key}' expects {kind}"));
            }
            let bytes = number.to_le_bytes()[..*length].to_vec();
            table.fields.push((*at, bytes));
        } else {
            match key.as_str() {
                "file" => file = Some(value),
                "data" => data = Some(value),
                _ => return Err(format!("Invalid parameter '{key}'")),
            }
        }
    }
    let list = match (&file, &data) {
        (Some(list), None) | (None, Some(list)) => list,
        _ => return Err("'-acpitable' requires one of 'data' or 'file'".to_owned()),
    };
    if list.is_empty() {
        return Err("'-acpitable' requires at least one pathname".to_owned());
    }
    table.files = list.split(':').map(str::to_owned).collect();
    table.has_header = file.is_some();
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_or_filled() {
        let table = parse("sig=NEWSX,oem_id=AB,rev=0x10,oem_rev=7,file=a:b,,c", "x").unwrap();
        assert_eq!(table.files, ["a", "b,c"]);
        assert!(table.has_header);
        let fields = [
            (0, b"NEWS".to_vec()),
            (10, b"AB\0\0\0\0".to_vec()),
            (8, vec![16]),
            (24, vec![7, 0, 0, 0]),
        ];
        assert_eq!(table.fields, fields);
        assert!(!parse("a", "x").unwrap().has_header);
        for (text, reason) in [
            ("", "'-acpitable' requires one of 'data' or 'file'"),
            (
                "data=a,file=b",
                "'-acpitable' requires one of 'data' or 'file'",
            ),
            ("data=", "'-acpitable' requires at least one pathname"),
            ("foo=1,file=a", "Invalid parameter 'foo'"),
            ("rev=300,data=a", "Parameter 'rev' expects uint8_t"),
            ("rev=x,data=a", "Parameter 'rev' expects a uint64 value"),
            (
                "oem_rev=4294967296,data=a",
                "Parameter 'oem_rev' expects uint32_t",
            ),
        ] {
            assert_eq!(parse(text, "x"), Err(reason.to_owned()), "{text}");
        }
    }
}
