//! The smaller values of the command line: clocks, the UUID, the seed, log items.

use thimble_core::time::calendar::{date_from_days, days_from_date};

use super::opts::{Kind, OptsTable, Reason, SubOption, parse_number};
use crate::soft::{Icount, SHIFT_MAX};

/// What the real-time clock shows at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time, in UTC.
    #[default]
    Utc,
    /// The host's time, in its time zone.
    LocalTime,
    /// A fixed time: seconds since 1970-01-01T00:00:00Z, read as UTC.
    At(i64),
}

/// What makes the real-time clock go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtcClock {
    /// The host's clock.
    #[default]
    Host,
    /// The host's monotonic clock.
    Rt,
    /// The virtual clock, which stops with the VM.
    Vm,
}

/// `-rtc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rtc {
    /// What it shows at the start.
    pub base: RtcBase,
    /// What makes it go.
    pub clock: RtcClock,
    /// Whether periodic interrupts that the guest has lost are repeated.
    pub slew: bool,
}

pub(super) static RTC: OptsTable = OptsTable {
    name: "rtc",
    implied: None,
    options: &[
        SubOption::new(
            "base",
            Kind::Text,
            "utc, localtime, or a date: 2006-06-17T16:01:21",
        ),
        SubOption::new(
            "clock",
            Kind::Word(&["host", "rt", "vm"]),
            "what makes it go",
        ),
        SubOption::new(
            "driftfix",
            Kind::Word(&["none", "slew"]),
            "slew: periodic interrupts that the guest has lost come later",
        ),
    ],
};

pub(super) fn parse_rtc(text: &str) -> Result<Rtc, Reason> {
    let given = RTC.parse(text)?;
    Ok(Rtc {
        base: match given.text("base") {
            None | Some("utc") => RtcBase::Utc,
            Some("localtime") => RtcBase::LocalTime,
            Some(date) => RtcBase::At(parse_date(date).ok_or_else(|| {
                format!(
                    "invalid datetime '{date}': '2006-06-17T16:01:21' and '2006-06-17' are valid forms"
                )
            })?),
        },
        clock: match given.text("clock") {
            Some("rt") => RtcClock::Rt,
            Some("vm") => RtcClock::Vm,
            _ => RtcClock::Host,
        },
        slew: given.text("driftfix") == Some("slew"),
    })
}

const NOT_RECORDED: &str = "runs are not recorded, as with a seed they repeat themselves";

pub(super) static ICOUNT: OptsTable = OptsTable {
    name: "icount",
    implied: Some("shift"),
    options: &[
        SubOption::new(
            "shift",
            Kind::Text,
            "an instruction takes 2^N ns, N being 0 to 10; auto: as the host's clock goes",
        ),
        SubOption::new(
            "sleep",
            Kind::Bool,
            "whether an idle guest waits for the host's clock",
        ),
        SubOption::new(
            "align",
            Kind::Only(
                &["off"],
                "a guest that is ahead of the host's clock is not held",
            ),
            "whether a guest that is ahead waits for the host's clock",
        ),
        SubOption::new("rr", Kind::Absent(NOT_RECORDED), ""),
        SubOption::new("rrfile", Kind::Absent(NOT_RECORDED), ""),
        SubOption::new("rrsnapshot", Kind::Absent(NOT_RECORDED), ""),
    ],
};

/// `-icount`; without `shift` it does nothing, as with QEMU.
pub(super) fn parse_icount(text: &str) -> Result<Option<Icount>, Reason> {
    let given = ICOUNT.parse(text)?;
    let Some(shift) = given.text("shift") else {
        return Ok(None);
    };
    let shift = match shift {
        "auto" => None,
        number => {
            let number = parse_number(number).ok();
            let shift = number.filter(|shift| *shift <= SHIFT_MAX.into());
            Some(shift.ok_or("icount: Invalid shift value")? as u32)
        }
    };
    Ok(Some(Icount {
        shift,
        sleep: given.bool("sleep").unwrap_or(true),
    }))
}

/// `-seed`.
pub(super) fn parse_seed(text: &str) -> Result<u64, Reason> {
    parse_number(text).map_err(|_| format!("Invalid seed number: {text}"))
}

/// Seconds since 1970 of a date and time of the Gregorian calendar.
fn parse_date(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "0:0:0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let days = days_from_date(year, month, day);
    let exists = date_from_days(days) == (year, month, day);
    let fits = (1970..=9999).contains(&year) && hour < 24 && minute < 60 && second < 60;
    (exists && fits).then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits =
            !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse().ok().filter(|_| digits)
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// A UUID in its usual form, of 8-4-4-4-12 hexadecimal digits.
pub(super) fn parse_uuid(text: &str) -> Result<[u8; 16], Reason> {
    let wrong = || "failed to parse UUID string: wrong format".to_owned();
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return Err(wrong());
    }
    let mut uuid = [0; 16];
    let mut digits = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return Err(wrong());
            }
            continue;
        }
        let digit = char::from(byte).to_digit(16).ok_or_else(wrong)? as u8;
        uuid[digits / 2] = uuid[digits / 2] << 4 | digit;
        digits += 1;
    }
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2006-06-17T16:01:21", 1_150_560_081),
            ("2000-02-29T23:59:59", 951_868_799),
            ("2038-01-19T03:14:08", 1 << 31),
        ] {
            assert_eq!(parse_date(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "foo",
            "2006-06",
            "2006-02-29",
            "2006-13-01",
            "2006-06-17T24:00:00",
            "2006-06-17T1:2",
            "2006-06-17T1:2:3:4",
            "1-+2-3",
            "99999-01-01",
            "1969-12-31",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
        assert!(parse_rtc("driftfix=slew").unwrap().slew);
        assert!(parse_rtc("driftfix=both").is_err());
        assert_eq!(
            parse_rtc("base=localtime,clock=vm").unwrap().clock,
            RtcClock::Vm
        );
    }

    #[test]
    fn instructions_as_time() {
        let icount = |shift, sleep| Ok(Some(Icount { shift, sleep }));
        assert_eq!(parse_icount("shift=3"), icount(Some(3), true));
        assert_eq!(parse_icount("010,sleep=off"), icount(Some(8), false));
        assert_eq!(parse_icount("auto,align=off"), icount(None, true));
        assert_eq!(parse_icount("sleep=off"), Ok(None));
        for text in ["shift=11", "shift=x", "shift=", "shift=-1"] {
            let invalid = Err("icount: Invalid shift value".to_owned());
            assert_eq!(parse_icount(text), invalid, "{text}");
        }
        for text in ["3,align=on", "3,rr=record,rrfile=x", "3,sleep=x", "3,foo=1"] {
            assert!(parse_icount(text).is_err(), "{text}");
        }
        assert_eq!(parse_seed("0x10"), Ok(16));
        for text in ["", "x", "-1", "18446744073709551616"] {
            let invalid = format!("Invalid seed number: {text}");
            assert_eq!(parse_seed(text), Err(invalid));
        }
    }

    #[test]
    fn uuids() {
        let uuid = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(uuid[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!(uuid[15], 0xff);
        for text in [
            "",
            "foo",
            "00112233-4455-6677-8899-aabbccddeefg",
            "00112233445566778899aabbccddeeff0000",
        ] {
            assert!(parse_uuid(text).is_err(), "{text}");
        }
    }
}
