//! `-dfilter`: of which addresses the log tells.

use std::ops::RangeInclusive;

/// Ranges of linear addresses; without a filter it is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Option<Vec<RangeInclusive<u64>>>);

impl Filter {
    /// Takes further ranges, with commas between them: `START..END`, `START+LENGTH` or `END-LENGTH`; ends are part of them. An empty
    /// text has none.
    ///
    /// # Errors
    /// What is wrong with one, in QEMU's words.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let ranges = self.0.get_or_insert_default();
        if text.is_empty() {
            return Ok(());
        }
        for range in text.split(',') {
            let found = ["-", "+", ".."]
                .iter()
                .find_map(|operator| Some((*operator, range.split_once(operator)?)));
            let Some((operator, (left, right))) = found else {
                return Err("Bad range specifier".to_owned());
            };
            let wrong = |side| format!("Invalid number to the {side} of {operator}");
            let left = number(left).ok_or_else(|| wrong("left"))?;
            let right = number(right).ok_or_else(|| wrong("right"))?;
            let (first, last) = match operator {
                "+" if right > 0 => (Some(left), left.checked_add(right - 1)),
                "-" if right > 0 => (left.checked_sub(right - 1), Some(left)),
                ".." => (Some(left), Some(right)),
                // An empty one.
                _ => continue,
            };
            let valid = first.zip(last).filter(|(first, last)| first <= last);
            let (first, last) = valid.ok_or("Invalid range")?;
            ranges.push(first..=last);
        }
        Ok(())
    }

    /// Whether the log tells of an address.
    pub fn passes(&self, address: u64) -> bool {
        let Self(ranges) = self;
        ranges
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|range| range.contains(&address)))
    }
}

/// A number as C writes it, behind spaces.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let plain = digits.chars().all(|c| c.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, inside, outside) in [
            ("0xfffffff8-0x9", 0xffff_fff0, 0xffff_ffef),
            ("0xfffffff0+1", 0xffff_fff0, 0xffff_fff1),
            ("0x10..0x10", 0x10, 0x11),
            ("010..11", 8, 7),
            (" 1+1,5..6", 6, 2),
            ("0xffffffffffffffff+1", u64::MAX, 0),
        ] {
            let mut filter = Filter::default();
            assert!(filter.passes(outside));
            filter.add(text).unwrap();
            assert!(filter.passes(inside) && !filter.passes(outside), "{text}");
        }
        for empty in ["", "5+0", "5-0"] {
            let mut filter = Filter::default();
            filter.add(empty).unwrap();
            assert!(!filter.passes(5) && !filter.passes(0), "{empty}");
        }
    }

    #[test]
    fn mistakes_are_told_as_qemu_does() {
        for (text, error) in [
            ("1", "Bad range specifier"),
            ("1.2", "Bad range specifier"),
            ("1..2,", "Bad range specifier"),
            (",1..2", "Bad range specifier"),
            ("0x1..", "Invalid number to the right of .."),
            ("ff..0x100", "Invalid number to the left of .."),
            ("1+2+3", "Invalid number to the right of +"),
            ("-1+5", "Invalid number to the left of -"),
            ("18446744073709551616+1", "Invalid number to the left of +"),
            ("1+1 ", "Invalid number to the right of +"),
            ("0x10..0x5", "Invalid range"),
            ("5-7", "Invalid range"),
            ("0xffffffffffffffff+2", "Invalid range"),
        ] {
            assert_eq!(Filter::default().add(text), Err(error.to_owned()), "{text}");
        }
    }
}
