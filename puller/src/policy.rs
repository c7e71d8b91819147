//! What is to be kept, as people state it: rules with restic's names and meaning, by option, variable or configuration.

use jiff::tz::TimeZone;
use pullback_shared::text::printable;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::fmt;
use std::str::FromStr;

/// Of a value that makes no sense, so much is shown.
const SHOWN_CHARS_MAX: usize = 80;

/// The largest number of years, months, days or hours in a duration: ten thousand years of hours.
const LENGTH_MAX: u32 = 87_660_000;

/// What to keep. Rules are OR-ed: a copy stays if any of them keeps it; the size alone takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Keep the newest N good copies; `unlimited` keeps all, here and below
    #[arg(long, env = "PULLER_KEEP_LAST", value_name = "N", allow_negative_numbers = true)]
    #[serde(rename = "last")]
    pub keep_last: Option<Count>,
    /// Of the newest N hours that have good copies, keep the newest one each
    #[arg(long, env = "PULLER_KEEP_HOURLY", value_name = "N", allow_negative_numbers = true)]
    #[serde(rename = "hourly")]
    pub keep_hourly: Option<Count>,
    /// The same for days
    #[arg(long, env = "PULLER_KEEP_DAILY", value_name = "N", allow_negative_numbers = true)]
    #[serde(rename = "daily")]
    pub keep_daily: Option<Count>,
    /// The same for weeks, which begin on Mondays
    #[arg(long, env = "PULLER_KEEP_WEEKLY", value_name = "N", allow_negative_numbers = true)]
    #[serde(rename = "weekly")]
    pub keep_weekly: Option<Count>,
    /// The same for months
    #[arg(long, env = "PULLER_KEEP_MONTHLY", value_name = "N", allow_negative_numbers = true)]
    #[serde(rename = "monthly")]
    pub keep_monthly: Option<Count>,
    /// The same for years
    #[arg(long, env = "PULLER_KEEP_YEARLY", value_name = "N", allow_negative_numbers = true)]
    #[serde(rename = "yearly")]
    pub keep_yearly: Option<Count>,
    /// Keep good copies less than DUR older than the newest one, such as 1y5m7d2h: years, months, days, hours
    #[arg(long, env = "PULLER_KEEP_WITHIN", value_name = "DUR")]
    #[serde(rename = "within")]
    pub keep_within: Option<Length>,
    /// Of these, the newest one of each hour
    #[arg(long, env = "PULLER_KEEP_WITHIN_HOURLY", value_name = "DUR")]
    #[serde(rename = "within_hourly")]
    pub keep_within_hourly: Option<Length>,
    /// The same for days
    #[arg(long, env = "PULLER_KEEP_WITHIN_DAILY", value_name = "DUR")]
    #[serde(rename = "within_daily")]
    pub keep_within_daily: Option<Length>,
    /// The same for weeks
    #[arg(long, env = "PULLER_KEEP_WITHIN_WEEKLY", value_name = "DUR")]
    #[serde(rename = "within_weekly")]
    pub keep_within_weekly: Option<Length>,
    /// The same for months
    #[arg(long, env = "PULLER_KEEP_WITHIN_MONTHLY", value_name = "DUR")]
    #[serde(rename = "within_monthly")]
    pub keep_within_monthly: Option<Length>,
    /// The same for years
    #[arg(long, env = "PULLER_KEEP_WITHIN_YEARLY", value_name = "DUR")]
    #[serde(rename = "within_yearly")]
    pub keep_within_yearly: Option<Length>,
    /// Keep good copies up to N days older than the newest good one
    #[arg(long, env = "PULLER_KEEP_DAYS", value_name = "N")]
    #[serde(rename = "days")]
    pub keep_days: Option<u32>,
    /// Of what the rules keep, remove the oldest until the copies take no more than SIZE on the disk, such as 20G
    #[arg(long, env = "PULLER_MAX_TOTAL_SIZE", value_name = "SIZE")]
    pub max_total_size: Option<Size>,
}

impl Policy {
    /// Whether nothing is stated: then nothing is ever removed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing but the size is stated: then as many of the newest copies stay as fit.
    pub fn is_only_a_size(&self) -> bool {
        Self { max_total_size: None, ..*self }.is_empty()
    }

    /// Each rule that is stated here, and what `other` states of the rest.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            keep_last: self.keep_last.or(other.keep_last),
            keep_hourly: self.keep_hourly.or(other.keep_hourly),
            keep_daily: self.keep_daily.or(other.keep_daily),
            keep_weekly: self.keep_weekly.or(other.keep_weekly),
            keep_monthly: self.keep_monthly.or(other.keep_monthly),
            keep_yearly: self.keep_yearly.or(other.keep_yearly),
            keep_within: self.keep_within.or(other.keep_within),
            keep_within_hourly: self.keep_within_hourly.or(other.keep_within_hourly),
            keep_within_daily: self.keep_within_daily.or(other.keep_within_daily),
            keep_within_weekly: self.keep_within_weekly.or(other.keep_within_weekly),
            keep_within_monthly: self.keep_within_monthly.or(other.keep_within_monthly),
            keep_within_yearly: self.keep_within_yearly.or(other.keep_within_yearly),
            keep_days: self.keep_days.or(other.keep_days),
            max_total_size: self.max_total_size.or(other.max_total_size),
        }
    }

    /// As words of a command line.
    pub fn words(&self) -> Vec<String> {
        let text = |value: Option<&dyn fmt::Display>| value.map(ToString::to_string);
        fn shown<T: fmt::Display>(value: &Option<T>) -> Option<&dyn fmt::Display> {
            value.as_ref().map(|value| value as &dyn fmt::Display)
        }
        let rules = [
            ("--keep-last", shown(&self.keep_last)),
            ("--keep-hourly", shown(&self.keep_hourly)),
            ("--keep-daily", shown(&self.keep_daily)),
            ("--keep-weekly", shown(&self.keep_weekly)),
            ("--keep-monthly", shown(&self.keep_monthly)),
            ("--keep-yearly", shown(&self.keep_yearly)),
            ("--keep-within", shown(&self.keep_within)),
            ("--keep-within-hourly", shown(&self.keep_within_hourly)),
            ("--keep-within-daily", shown(&self.keep_within_daily)),
            ("--keep-within-weekly", shown(&self.keep_within_weekly)),
            ("--keep-within-monthly", shown(&self.keep_within_monthly)),
            ("--keep-within-yearly", shown(&self.keep_within_yearly)),
            ("--keep-days", shown(&self.keep_days)),
            ("--max-total-size", shown(&self.max_total_size)),
        ];
        let words = rules.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), text(value)?]));
        words.flatten().collect()
    }
}

/// A policy, and the time zone whose hours, days, weeks, months and years it means.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What to keep.
    pub policy: Policy,
    /// Where a day begins.
    pub zone: TimeZone,
}

/// How many: a number, or `unlimited`, which is also written as -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Of(u32),
    /// As many as there are.
    Unlimited,
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "-1" => Ok(Self::Unlimited),
            _ => text.parse().map(Self::Of).map_err(|_| {
                format!("`{}` is neither a number nor `unlimited`", printable(text, SHOWN_CHARS_MAX))
            }),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(number) => number.fmt(f),
            Self::Unlimited => "unlimited".fmt(f),
        }
    }
}

/// A duration by the calendar, as restic writes it: `1y5m7d2h`, where `m` is a month. Nothing in it: the rule is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days of the calendar.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = printable(text, SHOWN_CHARS_MAX);
            format!("`{shown}` is no such duration: write it as 1y5m7d2h, years, months, days and hours")
        };
        let (mut length, mut rest, mut seen) = (Self::default(), text, Vec::new());
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u32 = rest[..digits].parse().ok().filter(|n| *n <= LENGTH_MAX).ok_or_else(wrong)?;
            let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
            let part = match unit {
                'y' => &mut length.years,
                'm' => &mut length.months,
                'd' => &mut length.days,
                'h' => &mut length.hours,
                _ => return Err(wrong()),
            };
            *part = number;
            if seen.contains(&unit) {
                return Err(wrong());
            }
            seen.push(unit);
            rest = &rest[digits + 1..];
        }
        if seen.is_empty() { Err(wrong()) } else { Ok(length) }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        if parts.iter().all(|(number, _)| *number == 0) {
            return "0h".fmt(f);
        }
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

/// Bytes, written as a number or with `K`, `M`, `G` or `T`, each 1024 of the one before; `KiB`, `KB` and so on are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// The units of a size, from small to large.
const UNITS: [char; 4] = ['K', 'M', 'G', 'T'];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let unit = text[digits..].trim_start().to_ascii_uppercase();
        let short = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let factor = match short {
            "" => Some(1),
            _ => UNITS.iter().position(|unit| short == unit.to_string()).map(|at| 1024u64.pow(at as u32 + 1)),
        };
        let bytes =
            text[..digits].parse().ok().zip(factor).and_then(|(n, factor): (u64, u64)| n.checked_mul(factor));
        bytes.filter(|bytes| *bytes > 0).map(Self).ok_or_else(|| {
            format!(
                "`{}` is no size: write it as 20G or 500M, of 1024 each",
                printable(text, SHOWN_CHARS_MAX)
            )
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut unit) = (self.0, None);
        for larger in UNITS {
            if number == 0 || number % 1024 != 0 {
                break;
            }
            (number, unit) = (number / 1024, Some(larger));
        }
        write!(f, "{number}{}", unit.map(String::from).unwrap_or_default())
    }
}

/// What stands in a file where a number or a word may.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(i64),
    Word(String),
}

/// Reads a value as it is read from a command line.
fn read<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    let text = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Word(word) => word,
    };
    text.parse().map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

/// A time zone by its name, as in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Zone(pub TimeZone);

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        TimeZone::get(text).map(Self).map_err(|_| {
            let shown = printable(text, SHOWN_CHARS_MAX);
            format!("this machine knows no time zone `{shown}`: write it as Asia/Seoul, Europe/Berlin or UTC")
        })
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr<Err = String> + fmt::Display>(text: &str, expected: Option<&str>) {
        assert_eq!(text.parse::<T>().ok().map(|value| value.to_string()).as_deref(), expected, "{text}");
    }

    #[test]
    fn counts_durations_and_sizes_are_read_as_they_are_written() {
        check::<Count>("7", Some("7"));
        check::<Count>("-1", Some("unlimited"));
        check::<Count>("unlimited", Some("unlimited"));
        for wrong in ["", "-2", "1.5", "all", "4294967296"] {
            check::<Count>(wrong, None);
        }
        check::<Length>("2y5m7d3h", Some("2y5m7d3h"));
        check::<Length>("75y", Some("75y"));
        check::<Length>("0d", Some("0h"));
        // restic, "Removing backup snapshots": `1w` is not a recognized duration.
        for wrong in ["", "7", "1w", "1y1y", "d", "1d ", "-1d", "1é", "87660001h", "99999999999d"] {
            check::<Length>(wrong, None);
        }
        check::<Size>("20G", Some("20G"));
        check::<Size>("512 MiB", Some("512M"));
        check::<Size>("1500kb", Some("1500K"));
        check::<Size>("1025", Some("1025"));
        for wrong in ["", "0", "G", "20X", "-1G", "1.5G", "99999999999G"] {
            check::<Size>(wrong, None);
        }
    }

    #[test]
    fn a_policy_in_a_file_is_the_one_on_the_command_line() {
        let written = "last = 3\ndaily = \"unlimited\"\nweekly = -1\nwithin_monthly = \"1y6m\"\ndays = 7\nmax_total_size = \"20G\"";
        let policy: Policy = toml::from_str(written).unwrap();
        assert_eq!(
            policy.words().join(" "),
            "--keep-last 3 --keep-daily unlimited --keep-weekly unlimited --keep-within-monthly 1y6m --keep-days 7 \
             --max-total-size 20G"
        );
        for wrong in ["last = -2", "within = 7", "max_total_size = \"many\"", "weeks = 1"] {
            assert!(toml::from_str::<Policy>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_zone_is_one_that_the_machine_knows() {
        assert_eq!("UTC".parse::<Zone>().unwrap().0.iana_name(), Some("UTC"));
        assert!("Mars/Olympus".parse::<Zone>().unwrap_err().contains("Mars/Olympus"));
    }
}
