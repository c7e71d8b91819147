//! What a restore would change, in rows per table: for people and for scripts.

use super::text;
use pullback_shared::text::printable;
use puller::differences::{Differences, TableDifference};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Tables that are shown to people; scripts get all.
const TABLES_SHOWN_MAX: usize = 40;

/// Views, triggers and indexes that are.
const OBJECTS_SHOWN_MAX: usize = 10;

/// As a table, with an end of line; nothing where nothing differs.
pub(crate) fn shown(differences: &Differences) -> String {
    let mut said = String::new();
    if differences.is_empty() {
        said.push_str("no row differs\n");
        return said;
    }
    if !differences.tables.is_empty() {
        let mut table = text::table(&["TABLE", "ROWS NOW", "IN THE COPY", "COMES", "GOES", "CHANGES", ""]);
        for of in differences.tables.iter().take(TABLES_SHOWN_MAX) {
            table.add_row(row(of));
        }
        said.push_str(&table.trim_fmt());
        said.push('\n');
    }
    more(&mut said, differences.tables.len(), TABLES_SHOWN_MAX, "tables");
    for object in differences.objects.iter().take(OBJECTS_SHOWN_MAX) {
        said.push_str(&format!("{}\n", printable(object, 200)));
    }
    more(&mut said, differences.objects.len(), OBJECTS_SHOWN_MAX, "views, triggers and indexes");
    if let Some((now, then)) = differences.user_version {
        let newer = if now > then { ": the schema is newer than the copy's" } else { "" };
        said.push_str(&format!("user_version {now} becomes {then}{newer}\n"));
    }
    said
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
        let name = printable(row["table"].as_str().unwrap_or_default(), 60);
        table.add_row([name, count(&row["rows_now"]), count(&row["rows_then"])]);
    }
    let mut said = table.trim_fmt();
    said.push('\n');
    more(&mut said, rows.len(), TABLES_SHOWN_MAX, "tables");
    said
}

fn more(said: &mut String, count: usize, shown: usize, what: &str) {
    if let Some(left) = count.checked_sub(shown).filter(|left| *left > 0) {
        said.push_str(&format!("and {left} more {what}\n"));
    }
}

fn row(of: &TableDifference) -> [String; 7] {
    let rows = |count: Option<u64>| count.map_or("none".to_owned(), |count| count.to_string());
    let remark = match (&of.unreadable, of.is_altered) {
        (Some(why), _) => printable(why, 100),
        (None, true) => "other columns".to_owned(),
        (None, false) => String::new(),
    };
    [
        printable(&of.table, 60),
        rows(of.rows_now),
        rows(of.rows_then),
        of.added.to_string(),
        of.removed.to_string(),
        of.changed.to_string(),
        remark,
    ]
}

/// As scripts get it.
pub(crate) fn json(differences: &Differences) -> Value {
    let table = |of: &TableDifference| {
        json!({
            "table": of.table, "rows_now": of.rows_now, "rows_then": of.rows_then, "added": of.added,
            "removed": of.removed, "changed": of.changed, "altered": of.is_altered, "unreadable": of.unreadable,
        })
    };
    differences.tables.iter().map(table).collect()
}
