//! How the differences that a restore would make look: a table for people, values for scripts.

use super::text;
use pullback_shared::text::printable;
use puller::differences::{Differences, TableDifference};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// More tables than this are only counted.
const TABLES_SHOWN_MAX: usize = 50;

/// More other objects than this are only counted.
const OBJECTS_SHOWN_MAX: usize = 20;

/// Of a name, so many characters are said.
const NAME_CHARS_MAX: usize = 60;

/// Of a reason, likewise.
const WHY_CHARS_MAX: usize = 200;

/// What differs, in lines for people.
pub(crate) fn words(found: &Differences) -> String {
    if found.is_empty() {
        return "what is there now and the copy have equal rows in equal tables".to_owned();
    }
    let mut lines = Vec::new();
    if found.tables.is_empty() {
        lines.push("equal rows in equal tables".to_owned());
    } else {
        let mut table =
            text::table(&["TABLE", "ROWS NOW", "IN THE COPY", "ADDED", "REMOVED", "CHANGED", "NOTE"]);
        found.tables.iter().take(TABLES_SHOWN_MAX).for_each(|found| {
            table.add_row(cells(found));
        });
        lines.push(table.trim_fmt());
    }
    let more = |count: usize, shown: usize, what: &str| match count.saturating_sub(shown) {
        0 => None,
        more => Some(format!("and {more} more {what}")),
    };
    lines.extend(more(found.tables.len(), TABLES_SHOWN_MAX, "tables"));
    let objects = found.objects.iter().take(OBJECTS_SHOWN_MAX);
    lines.extend(objects.map(|phrase| printable(phrase, WHY_CHARS_MAX)));
    lines.extend(more(found.objects.len(), OBJECTS_SHOWN_MAX, "views, triggers and indexes"));
    lines.extend(
        found.user_version.map(|(now, then)| format!("user_version is {now} now, and {then} in the copy")),
    );
    lines.join("\n")
}

fn cells(found: &TableDifference) -> Vec<String> {
    let rows = |rows: Option<u64>| match (rows, &found.unreadable) {
        (Some(rows), _) => rows.to_string(),
        (None, Some(_)) => "?".to_owned(),
        (None, None) => "none".to_owned(),
    };
    let count = |count: u64, sign: &str| match count {
        0 => String::new(),
        count => format!("{sign}{count}"),
    };
    let note = match (&found.unreadable, found.rows_now, found.rows_then) {
        (Some(why), _, _) => format!("cannot be read, {}", printable(why, WHY_CHARS_MAX)),
        (None, None, Some(_)) => "the table is added".to_owned(),
        (None, Some(_), None) => "the table is removed".to_owned(),
        _ if found.is_altered => "defined otherwise".to_owned(),
        _ => String::new(),
    };
    vec![
        printable(&found.table, NAME_CHARS_MAX),
        rows(found.rows_now),
        rows(found.rows_then),
        count(found.added, "+"),
        count(found.removed, "-"),
        count(found.changed, ""),
        note,
    ]
}

/// What differs, for scripts: an object for each table.
pub(crate) fn values(found: &Differences) -> Value {
    let of = |table: &TableDifference| {
        json!({
            "table": table.table, "rows_now": table.rows_now, "rows_then": table.rows_then,
            "added": table.added, "removed": table.removed, "changed": table.changed,
            "altered": table.is_altered, "unreadable": table.unreadable,
        })
    };
    found.tables.iter().map(of).collect()
}

/// The rows of each table, now and in the copy, where they were only counted; of `tables`, or of all without any.
pub(crate) fn counted(now: &[(String, i64)], then: &[(String, i64)], tables: &[String]) -> Vec<Value> {
    let is_meant =
        |name: &str| tables.is_empty() || tables.iter().any(|table| table.eq_ignore_ascii_case(name));
    let names: BTreeSet<&str> = now.iter().chain(then).map(|(name, _)| name.as_str()).collect();
    let rows = |of: &[(String, i64)], name: &str| {
        of.iter().find(|(table, _)| table == name).and_then(|(_, rows)| u64::try_from(*rows).ok())
    };
    let row = |name: &str| {
        json!({
            "table": name, "rows_now": rows(now, name), "rows_then": rows(then, name), "added": null,
            "removed": null, "changed": null, "altered": null, "unreadable": null,
        })
    };
    names.into_iter().filter(|name| is_meant(name)).map(row).collect()
}

/// As [`counted`] gives them, for people.
pub(crate) fn shown_counts(rows: &[Value]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = text::table(&["TABLE", "ROWS NOW", "IN THE COPY"]);
    let count = |value: &Value| value.as_u64().map_or("none".to_owned(), |count| count.to_string());
    for row in rows.iter().take(TABLES_SHOWN_MAX) {
        let name = printable(row["table"].as_str().unwrap_or_default(), NAME_CHARS_MAX);
        table.add_row([name, count(&row["rows_now"]), count(&row["rows_then"])]);
    }
    let mut said = table.trim_fmt();
    said.push('\n');
    if rows.len() > TABLES_SHOWN_MAX {
        said.push_str(&format!("and {} more tables\n", rows.len() - TABLES_SHOWN_MAX));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableDifference {
        TableDifference { table: name.into(), rows_now: Some(3), rows_then: Some(4), ..Default::default() }
    }

    #[test]
    fn people_see_a_row_for_each_table_and_no_more_than_fit_a_screen() {
        let member = TableDifference { added: 2, removed: 1, changed: 7, ..table("member\u{1b}[2J") };
        let gone = TableDifference { rows_now: None, added: 4, ..table("gone") };
        let unreadable =
            TableDifference { rows_now: None, unreadable: Some("now: malformed".into()), ..table("x") };
        let found = Differences {
            tables: vec![member, gone, unreadable],
            objects: vec!["view `v` is added".into()],
            user_version: Some((2, 1)),
        };
        let words = words(&found);
        let lines: Vec<Vec<&str>> = words.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["member\\u{1b}[2J", "3", "4", "+2", "-1", "7"]);
        assert_eq!(lines[2], ["gone", "none", "4", "+4", "the", "table", "is", "added"]);
        assert_eq!(lines[3], ["x", "?", "4", "cannot", "be", "read,", "now:", "malformed"]);
        assert!(words.ends_with("view `v` is added\nuser_version is 2 now, and 1 in the copy"), "{words}");
        let many = Differences {
            tables: (0..70).map(|n| table(&n.to_string())).collect(),
            ..Differences::default()
        };
        assert_eq!(super::words(&many).lines().count(), 1 + 50 + 1);
        assert!(super::words(&many).ends_with("and 20 more tables"));
        assert_eq!(super::words(&Differences::default()).lines().count(), 1);
    }

    #[test]
    fn scripts_get_numbers() {
        let altered = TableDifference { is_altered: true, changed: 5, ..table("member") };
        let found = Differences { tables: vec![altered], ..Differences::default() };
        let expected = json!([{
            "table": "member", "rows_now": 3, "rows_then": 4, "added": 0, "removed": 0, "changed": 5,
            "altered": true, "unreadable": null,
        }]);
        assert_eq!(values(&found), expected);
        assert_eq!(values(&Differences::default()), json!([]));
    }
}
