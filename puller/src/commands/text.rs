//! How numbers, times and tables look to people.

use comfy_table::{Table, presets};
use jiff::Timestamp;
use pullback_shared::text::printable;

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

/// The columns of the terminal that stdout is, or as `COLUMNS` says; `None`: there is nothing to fit into.
pub(crate) fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col.into());
    said.or_else(terminal).filter(|width| *width > 0)
}

/// `text` in at most `width` columns of a terminal, with `…` where it was cut.
pub(crate) fn fit(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let fits = |c: &char| {
        let wide = c.width().unwrap_or_default();
        let fits = wide <= left;
        left = if fits { left - wide } else { 0 };
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// `word` in the colour that `code` is of a terminal (ECMA-48, 8.3.117).
pub(crate) fn colored(word: &str, code: u8) -> String {
    format!("\x1b[{code}m{word}\x1b[0m")
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

/// `value` on one line, exactly; whatever a terminal could obey is written as JSON can write any character, `\u009b`.
pub(crate) fn json(value: &serde_json::Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        match printable(c.encode_utf8(&mut [0; 4]), 1).starts_with(c) {
            true => line.push(c),
            // All of these have four digits.
            false => line += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_has_the_width_of_a_terminal() {
        for (text, width, expected) in [
            ("gym", 3, "gym"),
            ("gyms", 3, "gy…"),
            ("회원 관리", 9, "회원 관리"),
            ("회원 관리", 8, "회원 관…"),
            ("회원 관리", 7, "회원 …"),
            ("회원", 3, "회…"),
            ("회원", 1, "…"),
        ] {
            assert_eq!(fit(text, width), expected, "{text} in {width}");
        }
    }
}
