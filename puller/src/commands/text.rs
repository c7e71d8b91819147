//! How numbers, times and tables look to people.

use comfy_table::{Table, presets};
use jiff::Timestamp;

/// A number of bytes with three digits of a unit.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A time in the local zone, and how long ago it was.
pub(crate) fn when(at: Timestamp, now: Timestamp) -> String {
    let local = at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M");
    format!("{local} ({})", ago(at, now))
}

/// How long ago `at` was.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs();
    let (count, unit) = match seconds.unsigned_abs() {
        0..60 => return "just now".to_owned(),
        s @ 60..3600 => (s / 60, "min"),
        s @ 3600..86_400 => (s / 3600, "h"),
        s => (s / 86_400, "d"),
    };
    if seconds < 0 { format!("in {count} {unit}") } else { format!("{count} {unit} ago") }
}

/// A table without lines.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    table
}
