//! What an SQLite file says, apart from how it is stored: its schema and every row, to compare a copy with its source.

use crate::rows;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;

/// A database as SQL sees it. Two are equal when no query over ordinary tables could tell them apart.
#[derive(PartialEq, Eq, Debug)]
pub struct Contents {
    /// The header's facts that a user can set, by the name of their pragma.
    pub settings: BTreeMap<&'static str, String>,
    /// `type, name, tbl_name, rootpage, sql` of each schema row, in order.
    pub schema: Vec<(String, String, String, i64, Option<String>)>,
    /// Of each ordinary table the number of its rows and a hash over all of them, in order.
    pub tables: BTreeMap<String, (u64, String)>,
}

/// Pragmas whose value belongs to the content. The journal mode does not: a copy is always one self-contained file.
const SETTINGS: [&str; 5] = ["application_id", "user_version", "encoding", "page_size", "auto_vacuum"];

/// Reads the whole of the database at `path`, in one transaction, without writing to it.
#[track_caller]
pub fn of(path: &Path) -> Contents {
    let db = open_read_only(path);
    db.execute_batch("BEGIN").expect("a transaction can begin");
    Contents { settings: settings(&db), schema: schema(&db), tables: tables(&db) }
}

/// Panics, naming what differs, unless both files have the same content.
#[track_caller]
pub fn assert_equal(source: &Path, copy: &Path) {
    let (wanted, found) = (of(source), of(copy));
    assert_eq!(found.settings, wanted.settings, "settings of {} and {}", copy.display(), source.display());
    // Not assert_eq: 3,000 tables would fill the screen.
    for (wanted, found) in wanted.schema.iter().zip(&found.schema) {
        assert_eq!(found, wanted, "a schema row of {} and of {}", copy.display(), source.display());
    }
    for (table, rows) in &wanted.tables {
        let of_copy = found.tables.get(table);
        assert_eq!(of_copy, Some(rows), "rows of `{table}` in {} and {}", copy.display(), source.display());
    }
    assert!(wanted == found, "{} has more than {}", copy.display(), source.display());
}

/// Opens `path` for reading only, whatever characters are in it.
#[track_caller]
pub fn open_read_only(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match Connection::open_with_flags(path, flags) {
        Ok(db) => db,
        Err(error) => panic!("{} cannot be opened: {error}", path.display()),
    }
}

fn settings(db: &Connection) -> BTreeMap<&'static str, String> {
    let value = |pragma| {
        let value = db.pragma_query_value(None, pragma, |row| row.get::<_, rusqlite::types::Value>(0));
        (pragma, format!("{:?}", value.expect("a pragma answers")))
    };
    SETTINGS.into_iter().map(value).collect()
}

fn schema(db: &Connection) -> Vec<(String, String, String, i64, Option<String>)> {
    let sql = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid";
    let mut statement = db.prepare(sql).expect("the schema can be read");
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .expect("the schema can be read");
    rows.collect::<Result<_, _>>().expect("the schema can be read")
}

fn tables(db: &Connection) -> BTreeMap<String, (u64, String)> {
    let summary = |table: String| {
        let (mut count, mut hasher) = (0, blake3::Hasher::new());
        rows::each_row(db, &table, |row| {
            count += 1;
            rows::hash_into(&mut hasher, row);
        });
        (table, (count, hasher.finalize().to_string()))
    };
    rows::tables(db).into_iter().map(summary).collect()
}
