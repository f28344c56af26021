//! The Gregorian calendar, also before it was introduced: days since 1970-01-01 to dates and back.

/// Days since the epoch of a date of the Gregorian calendar; months 1 to 12.
pub const fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    // Years start in March, so that the leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Year, month and day of the month of a day since the epoch.
pub fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    // The estimate is never early, and late by two years at most.
    let mut year = (days * 400).div_euclid(146_097) + 1;
    let start =
        |year: i64| year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    while start(year) > days {
        year -= 1;
    }
    let day = days - start(year);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_days() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((1969, 12, 31), -1),
            ((1900, 3, 1), -25_508),
            ((2026, 11, 21), 20_778),
        ] {
            assert_eq!(days_from_date(date.0, date.1, date.2), days);
            assert_eq!(date_from_days(days), date);
        }
    }

    proptest! {
        #[test]
        fn dates_round_trip(days in -1_000_000i64..10_000_000) {
            let (year, month, day) = date_from_days(days);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
            prop_assert_eq!(days_from_date(year, month, day), days);
        }
    }
}
