//! When a copy made by hand was taken, as its file name tells: `backup_20251103_031500.db`, `gym-2025-11-03T03-15-00.db.gz`.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Years that a date in a name may have; other digits are no date.
const YEARS: std::ops::RangeInclusive<i16> = 1990..=2199;

/// What a name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A day and a time.
    Moment {
        /// By the clock that its writer read.
        at: DateTime,
        /// Whether it ends in `Z`, and is in UTC.
        is_utc: bool,
    },
    /// A day alone.
    Day(Date),
}

/// Where the time of a copy is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFrom {
    /// Its name.
    Name,
    /// The day from its name; the time within it from when the file was last written, if that was on this day, or else
    /// midnight.
    DayInName,
    /// When the file was last written.
    File,
}

impl TimeFrom {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::DayInName => "day_in_name",
            Self::File => "file",
        }
    }
}

/// When the file called `name`, last written at `modified`, was taken. Names are in the time of `zone`; an hour that came
/// twice is the first of them.
pub fn taken_at(name: &str, modified: Timestamp, zone: &TimeZone) -> (Timestamp, TimeFrom) {
    let instant = |at: DateTime, zone: &TimeZone| at.to_zoned(zone.clone()).ok().map(|at| at.timestamp());
    let from_file = (whole_seconds(modified), TimeFrom::File);
    match read(name) {
        None => from_file,
        Some(Named::Moment { at, is_utc }) => {
            let zone = if is_utc { &TimeZone::UTC } else { zone };
            instant(at, zone).map_or(from_file, |at| (at, TimeFrom::Name))
        }
        Some(Named::Day(day)) => {
            let written: Zoned = whole_seconds(modified).to_zoned(zone.clone());
            match written.date() == day {
                true => (written.timestamp(), TimeFrom::DayInName),
                false => instant(day.at(0, 0, 0, 0), zone).map_or(from_file, |at| (at, TimeFrom::DayInName)),
            }
        }
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The last moment in `name`; where there is none, the last day.
pub fn read(name: &str) -> Option<Named> {
    let bytes = name.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let starts = (0..bytes.len()).filter(|at| is_digit(*at) && (*at == 0 || !is_digit(at - 1)));
    let found: Vec<Named> = starts.filter_map(|at| date(&bytes[at..])).collect();
    let moment = |named: &&Named| matches!(named, Named::Moment { .. });
    found.iter().rfind(moment).or(found.last()).copied()
}

/// The date that `text` begins with, and the time behind it.
fn date(text: &[u8]) -> Option<Named> {
    let (year, rest) = digits(text, 4)?;
    let (separator, rest) = separator(rest, b"-_.");
    let (month, rest) = digits(rest, 2)?;
    let rest = after(separator, rest)?;
    let (day, rest) = digits(rest, 2)?;
    let year = YEARS.contains(&year).then_some(year)?;
    let day = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    match time(rest) {
        Some((time, is_utc)) => Some(Named::Moment { at: day.to_datetime(time), is_utc }),
        // More digits than those of a date are some other number.
        None => (!rest.first().is_some_and(u8::is_ascii_digit)).then_some(Named::Day(day)),
    }
}

/// The time that `text` begins with, behind a date: hours and minutes, and seconds if there are any, and parts of them.
fn time(text: &[u8]) -> Option<(Time, bool)> {
    let (_, rest) = separator(text, b"_-Tt .");
    let (hour, rest) = digits(rest, 2)?;
    let (between, rest) = separator(rest, b"-:_.");
    let (minute, mut rest) = digits(rest, 2)?;
    let mut second = 0;
    if let Some((found, behind)) = after(between, rest).and_then(|rest| digits(rest, 2)) {
        (second, rest) = (found, behind);
        // The parts of a second, as JavaScript and Python write them.
        let (_, parts) = separator(rest, b"-._");
        let count = parts.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if parts.len() < rest.len() && [3, 6].contains(&count) {
            rest = &parts[count..];
        }
    }
    let time = Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, i8::try_from(second).ok()?, 0);
    let ends = !rest.first().is_some_and(u8::is_ascii_digit);
    time.ok().filter(|_| ends).map(|time| (time, rest.first() == Some(&b'Z')))
}

fn digits(text: &[u8], count: usize) -> Option<(i16, &[u8])> {
    let (number, rest) = text.split_at_checked(count)?;
    number.iter().all(u8::is_ascii_digit).then_some(())?;
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// The separator that `text` begins with, if it is one of `these`.
fn separator<'text>(text: &'text [u8], these: &[u8]) -> (Option<u8>, &'text [u8]) {
    match text.split_first() {
        Some((first, rest)) if these.contains(first) => (Some(*first), rest),
        _ => (None, text),
    }
}

/// What follows `separator`, where there is one.
fn after(separator: Option<u8>, text: &[u8]) -> Option<&[u8]> {
    match separator {
        None => Some(text),
        Some(separator) => text.split_first().filter(|(first, _)| **first == separator).map(|(_, rest)| rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        let found = match read(name) {
            None => "nothing".to_owned(),
            Some(Named::Day(day)) => day.to_string(),
            Some(Named::Moment { at, is_utc }) => format!("{at}{}", if is_utc { "Z" } else { "" }),
        };
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn names_of_old_scripts_are_read() {
        check("filewallball_backup_20251103_031500.db.gz", "2025-11-03T03:15:00");
        check("backup_20251103031500.db", "2025-11-03T03:15:00");
        check("maekcord-backup-2025-11-03T03-15-00.db.gz", "2025-11-03T03:15:00");
        check("gym_system_2025-11-03.db", "2025-11-03");
        check("gym.db.2025-11-03", "2025-11-03");
        check("gym-20251103.sqlite3", "2025-11-03");
        check("gym_2025-11-03_03-15.bak", "2025-11-03T03:15:00");
        check("gym 2025-11-03 03.15.07.db", "2025-11-03T03:15:07");
        check("backup-2025-11-03T03:15:00.123Z.db", "2025-11-03T03:15:00Z");
        check("backup-2025-11-03T03-15-00-123Z.db", "2025-11-03T03:15:00Z");
        check("gym-000123-20251103T031500Z.db", "2025-11-03T03:15:00Z");
        check("2025_11_03_gym.db", "2025-11-03");
        check("gym_20251103-031500-2.db", "2025-11-03T03:15:00");
        check("v20240101/gym_20251103_0315.db", "2025-11-03T03:15:00");
        check("export-2024-01-01-of-20251103_031500.db", "2025-11-03T03:15:00");
    }

    #[test]
    fn other_numbers_are_no_time() {
        for name in
            ["gym.db", "gym-2025.db", "gym-202511.db", "1762139700.db", "gym-20251345.db", "gym-20250230.db"]
        {
            check(name, "nothing");
        }
        check("gym-18991231.db", "nothing");
        check("gym-20251103999999.db", "nothing");
        check("gym-2025-11-03-02.db", "2025-11-03");
        check("gym-2025-11-03_2500.db", "2025-11-03");
    }

    #[test]
    fn a_name_is_in_the_time_of_its_zone_and_a_day_alone_takes_its_hour_from_the_file() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |name: &str, modified: &str| {
            let (at, from) = taken_at(name, modified.parse().unwrap(), &zone);
            (at.to_string(), from)
        };
        let later = "2026-01-01T00:00:00.5Z";
        assert_eq!(at("a_20250703_031500.db", later), ("2025-07-03T01:15:00Z".into(), TimeFrom::Name));
        assert_eq!(at("a_20250703_031500Z.db", later), ("2025-07-03T03:15:00Z".into(), TimeFrom::Name));
        // Clocks go back from 03:00 to 02:00, and on from 02:00 to 03:00.
        assert_eq!(at("a_20251026_023000.db", later).0, "2025-10-26T00:30:00Z");
        assert_eq!(at("a_20250330_023000.db", later).0, "2025-03-30T01:30:00Z");
        assert_eq!(at("a_2025-07-03.db", later), ("2025-07-02T22:00:00Z".into(), TimeFrom::DayInName));
        let same_day = at("a_2025-07-03.db", "2025-07-03T04:05:06Z");
        assert_eq!(same_day, ("2025-07-03T04:05:06Z".into(), TimeFrom::DayInName));
        assert_eq!(at("a.db", later), ("2026-01-01T00:00:00Z".into(), TimeFrom::File));
    }

    proptest! {
        #[test]
        fn any_name_is_read_without_harm(name in prop_oneof!["\\PC{0,40}", "[0-9_.TZ:-]{0,30}"]) {
            read(&name);
        }

        #[test]
        fn a_moment_is_found_in_whatever_form(seconds in 946_684_800i64..4_000_000_000, form in 0usize..5) {
            let at = Timestamp::from_second(seconds).unwrap().to_zoned(TimeZone::UTC).datetime();
            let form = ["%Y%m%d_%H%M%S", "%Y%m%d%H%M%S", "%Y-%m-%dT%H-%M-%S", "%Y-%m-%d_%H:%M:%S", "%Y%m%dT%H%M%S"][form];
            let name = format!("gym-backup_{}.db.gz", at.strftime(form));
            prop_assert_eq!(read(&name), Some(Named::Moment { at, is_utc: false }), "{}", name);
        }
    }
}
