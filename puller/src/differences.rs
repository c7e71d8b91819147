//! What a restore would change: rows per table between what is there now and the copy, two plain files that nobody writes.
//!
//! Rows have a key, and both sides are stepped through in its order, so that memory does not grow with a table. What
//! [`crate::table_pages`] knows to be equal is not looked at. A side that is damaged, which may be the very reason for a restore,
//! is read as far as it goes.

use crate::proof;
use crate::table_pages::{self, Pages, Range};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::sql::{ROWID_NAMES, identifier, immutable_uri};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Between two reports of progress.
const ROWS_A_REPORT: u64 = 4096;

/// What is other in the copy than it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The tables that differ in anything, by name.
    pub tables: Vec<TableDifference>,
    /// Views, triggers and indexes that the restore adds, removes or changes: a phrase each.
    pub objects: Vec<String>,
    /// `user_version` now and in the copy, where they differ.
    pub user_version: Option<(i64, i64)>,
}

impl Differences {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Leaves only what concerns `tables`; without any, all.
    pub fn only(&mut self, tables: &[String]) {
        if tables.is_empty() {
            return;
        }
        self.tables.retain(|of| tables.iter().any(|table| table.eq_ignore_ascii_case(&of.table)));
        self.objects.clear();
        self.user_version = None;
    }
}

/// What is other in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDifference {
    /// Its name.
    pub table: String,
    /// Rows now; `None`: it is not there, or `unreadable` says why that is not known.
    pub rows_now: Option<u64>,
    /// Rows of the copy, likewise.
    pub rows_then: Option<u64>,
    /// Rows that the restore brings: their key is only in the copy. Where rows have no key that both sides share, at least so
    /// many.
    pub added: u64,
    /// Rows that it takes away: their key is only in what is there now. Likewise.
    pub removed: u64,
    /// Rows of the same key with other values, of the columns that both sides have.
    pub changed: u64,
    /// Whether the table is defined otherwise.
    pub is_altered: bool,
    /// Why it could not be read to its end; the other numbers are as far as that.
    pub unreadable: Option<String>,
}

/// What differs between `now` and `then`, which are files that nobody writes. Tells `progress` how many rows were compared one
/// by one; of tables without rowid it hears nothing.
pub fn between(now: &Path, then: &Path, progress: &dyn Fn(u64)) -> Result<Differences, Fault> {
    let (now, then) = (Side::open(now, "now")?, Side::open(then, "in the copy")?);
    let (of_now, of_then) = match (&now.schema, &then.schema) {
        (Ok(of_now), Ok(of_then)) => (of_now, of_then),
        (Err(why), Ok(readable)) => return Ok(all_unreadable(why, readable, &then, false)),
        (Ok(readable), Err(why)) => return Ok(all_unreadable(why, readable, &now, true)),
        (Err(why), Err(_)) => {
            let what = format!("neither what is there now nor the copy has tables that can be read: {why}");
            return Err(Fault::new(Kind::Damaged, what));
        }
    };
    let mut comparison = Comparison { now: &now, then: &then, compared: 0, progress };
    let names: BTreeSet<&String> = of_now.tables.keys().chain(of_then.tables.keys()).collect();
    let tables = names
        .into_iter()
        .filter_map(|name| comparison.of_table(of_now.tables.get(name), of_then.tables.get(name)));
    let tables = tables.collect();
    progress(comparison.compared);
    let versions = (of_now.user_version, of_then.user_version);
    Ok(Differences {
        tables,
        objects: changed_objects(of_now, of_then),
        user_version: (versions.0 != versions.1).then_some(versions),
    })
}

/// Where the tables of one side cannot be known, each table of the other one, which is `readable`, counted.
fn all_unreadable(why: &str, readable: &Schema, side: &Side, is_now: bool) -> Differences {
    let of = |table: &Table| {
        let rows = side.count(table).ok();
        let (rows_now, rows_then) = if is_now { (rows, None) } else { (None, rows) };
        let unreadable = Some(why.to_owned());
        TableDifference { table: table.name.clone(), rows_now, rows_then, unreadable, ..Default::default() }
    };
    Differences { tables: readable.tables.values().map(of).collect(), ..Differences::default() }
}

fn changed_objects(now: &Schema, then: &Schema) -> Vec<String> {
    let keys: BTreeSet<_> = now.objects.keys().chain(then.objects.keys()).collect();
    let phrase = |key: &(String, String)| {
        let (kind, _) = key;
        Some(match (now.objects.get(key), then.objects.get(key)) {
            (None, Some(then)) => format!("{kind} `{}` is added", then.name),
            (Some(now), None) => format!("{kind} `{}` is removed", now.name),
            (Some(now), Some(then)) if now.sql != then.sql => format!("{kind} `{}` is changed", then.name),
            _ => return None,
        })
    };
    keys.into_iter().filter_map(phrase).collect()
}

/// A view, trigger or index.
struct Object {
    name: String,
    sql: String,
}

/// A table that holds rows of the application.
struct Table {
    name: String,
    sql: String,
    root: u32,
    is_virtual: bool,
    is_without_rowid: bool,
}

impl Table {
    fn quoted(&self) -> String {
        identifier(&self.name)
    }
}

/// What is defined on one side; names are keys in lower case, since SQLite takes them so.
struct Schema {
    tables: BTreeMap<String, Table>,
    objects: BTreeMap<(String, String), Object>,
    user_version: i64,
    encoding: String,
}

impl Schema {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        // Shadow tables hold what a virtual table shows; they are no tables of the application.
        let mut statement = connection.prepare(
            "SELECT l.name, s.sql, s.rootpage, l.type = 'virtual', l.wr
             FROM pragma_table_list AS l JOIN sqlite_schema AS s ON s.type = 'table' AND s.name = l.name
             WHERE l.schema = 'main' AND l.type IN ('table', 'virtual')
               AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?;
        let tables = statement.query_map([], |row| {
            let table = Table {
                name: row.get(0)?,
                sql: row.get(1)?,
                root: row.get::<_, Option<u32>>(2)?.unwrap_or(0),
                is_virtual: row.get(3)?,
                is_without_rowid: row.get(4)?,
            };
            Ok((table.name.to_ascii_lowercase(), table))
        })?;
        let tables = tables.collect::<rusqlite::Result<_>>()?;
        let mut statement = connection
            .prepare("SELECT type, name, sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL")?;
        let objects = statement.query_map([], |row| {
            let object = Object { name: row.get(1)?, sql: row.get(2)? };
            Ok(((row.get(0)?, object.name.to_ascii_lowercase()), object))
        })?;
        let objects = objects.collect::<rusqlite::Result<_>>()?;
        let user_version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let encoding = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        Ok(Self { tables, objects, user_version, encoding })
    }
}

/// One of the two files.
struct Side<'a> {
    path: &'a Path,
    /// How it is called in a sentence.
    called: &'static str,
    connection: Connection,
    /// Or why it cannot be read.
    schema: Result<Schema, String>,
    /// Its pages, where they can be looked at.
    pages: Option<Pages>,
}

impl<'a> Side<'a> {
    fn open(path: &'a Path, called: &'static str) -> Result<Self, Fault> {
        let connection = proof::open_immutable(path)
            .map_err(|error| Fault::new(Kind::Io, format!("`{}`: {error}", path.display())))?;
        let schema = Schema::read(&connection).map_err(|error| said(called, &error));
        Ok(Self { path, called, connection, schema, pages: Pages::open(path) })
    }

    fn said(&self, error: &rusqlite::Error) -> String {
        said(self.called, error)
    }

    fn count(&self, table: &Table) -> Result<u64, String> {
        // The table itself: an index may be damaged where it is not.
        let not_indexed = if table.is_virtual { "" } else { "NOT INDEXED" };
        let sql = format!("SELECT count(*) FROM {} {not_indexed}", table.quoted());
        let rows = self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
        rows.map(i64::cast_unsigned).map_err(|error| self.said(&error))
    }

    fn columns(&self, table: &Table) -> Result<Columns, String> {
        self.columns_of(table).map_err(|error| self.said(&error))
    }

    fn columns_of(&self, table: &Table) -> rusqlite::Result<Columns> {
        let mut statement = self.connection.prepare("SELECT name, hidden, pk FROM pragma_table_xinfo(?1)")?;
        let mut rows = statement.query([&table.name])?;
        let mut columns = Columns { rowid: None, given: Vec::new(), key: Vec::new() };
        let mut names = BTreeSet::new();
        while let Some(row) = rows.next()? {
            let (name, hidden, key): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            names.insert(name.to_ascii_lowercase());
            if key > 0 {
                columns.key.push(name.clone());
            }
            // The others are hidden in a virtual table, or computed from these.
            if hidden == 0 {
                columns.given.push(name);
            }
        }
        let is_free = |name: &&str| !table.is_without_rowid && !names.contains(*name);
        columns.rowid = ROWID_NAMES.into_iter().find(is_free);
        Ok(columns)
    }
}

/// The columns of a table.
struct Columns {
    /// What names its rowid.
    rowid: Option<&'static str>,
    /// Those that rows are given values for.
    given: Vec<String>,
    /// Those of the primary key.
    key: Vec<String>,
}

impl Columns {
    /// Selects the rows of `table` in the order of their rowid: that, then `shared`.
    fn select(&self, table: &Table, shared: &[&String]) -> Option<String> {
        let rowid = self.rowid?;
        let shared: String = shared.iter().map(|column| format!(", {}", identifier(column))).collect();
        let table_name = table.quoted();
        let rows = match table.is_virtual {
            true => format!("{table_name} WHERE ?1 <= ?2"),
            false => format!("{table_name} NOT INDEXED WHERE {rowid} BETWEEN ?1 AND ?2"),
        };
        Some(format!("SELECT {rowid}{shared} FROM {rows} ORDER BY {rowid}"))
    }
}

fn said(called: &str, error: &rusqlite::Error) -> String {
    format!("{called}: {error}")
}

struct Comparison<'a> {
    now: &'a Side<'a>,
    then: &'a Side<'a>,
    compared: u64,
    progress: &'a dyn Fn(u64),
}

impl Comparison<'_> {
    /// What is other in a table; `None`: nothing.
    fn of_table(&mut self, now: Option<&Table>, then: Option<&Table>) -> Option<TableDifference> {
        let table = then.or(now)?.name.clone();
        let mut found = TableDifference { table, ..TableDifference::default() };
        let result = match (now, then) {
            (Some(now), Some(then)) => self.of_both(now, then, &mut found),
            (now, then) => self.of_one(now, then, &mut found),
        };
        if let Err(why) = result {
            // A module that is not known here, on both sides alike, is nothing that the restore changes.
            let is_same_module =
                !found.is_altered && why.contains("no such module") && now.is_some() && then.is_some();
            if is_same_module {
                return None;
            }
            found.unreadable = Some(why);
        }
        let is_on_one_side = now.is_none() || then.is_none();
        let differs = found.added + found.removed + found.changed > 0 || found.rows_now != found.rows_then;
        (is_on_one_side || differs || found.is_altered || found.unreadable.is_some()).then_some(found)
    }

    fn of_one(
        &self,
        now: Option<&Table>,
        then: Option<&Table>,
        found: &mut TableDifference,
    ) -> Result<(), String> {
        found.rows_now = now.map(|table| self.now.count(table)).transpose()?;
        found.rows_then = then.map(|table| self.then.count(table)).transpose()?;
        found.removed = found.rows_now.unwrap_or(0);
        found.added = found.rows_then.unwrap_or(0);
        Ok(())
    }

    fn of_both(&mut self, now: &Table, then: &Table, found: &mut TableDifference) -> Result<(), String> {
        found.is_altered = now.sql != then.sql;
        let ranges = match self.have_equal_form(found) && !now.is_virtual {
            true => self.ranges(now, then),
            false => vec![Range::ALL],
        };
        if ranges.is_empty() {
            return Ok(());
        }
        // Each side is counted even where the other cannot be.
        let (rows_now, rows_then) = (self.now.count(now), self.then.count(then));
        (found.rows_now, found.rows_then) =
            (rows_now.as_ref().ok().copied(), rows_then.as_ref().ok().copied());
        let columns = [self.now.columns(now)?, self.then.columns(then)?];
        let shared = shared(&columns[0].given, &columns[1].given);
        let selects = [
            columns[0].select(now, &shared.iter().map(|(now, _)| *now).collect::<Vec<_>>()),
            columns[1].select(then, &shared.iter().map(|(_, then)| *then).collect::<Vec<_>>()),
        ];
        match selects {
            [Some(of_now), Some(of_then)] => {
                for range in ranges {
                    self.step(&of_now, &of_then, range, found)?;
                }
            }
            _ if now.is_without_rowid && self.have_equal_form(found) => {
                self.join(now, &columns[0], found).map_err(|error| error.to_string())?;
            }
            _ => {
                let (now, then) = (rows_now.clone()?, rows_then.clone()?);
                (found.added, found.removed) = (then.saturating_sub(now), now.saturating_sub(then));
            }
        }
        rows_now.and(rows_then).map(|_| ())
    }

    /// Whether equal bytes are equal values, and keys have one order: the table has one definition, and text one encoding.
    fn have_equal_form(&self, found: &TableDifference) -> bool {
        let encoding = |side: &Side| side.schema.as_ref().ok().map(|schema| schema.encoding.clone());
        !found.is_altered && encoding(self.now) == encoding(self.then)
    }

    /// The rows that may differ.
    fn ranges(&self, now: &Table, then: &Table) -> Vec<Range> {
        match (&self.now.pages, &self.then.pages) {
            (Some(of_now), Some(of_then)) => table_pages::differing(of_now, now.root, of_then, then.root),
            _ => vec![Range::ALL],
        }
    }

    /// Steps through both sides at once.
    fn step(
        &mut self,
        of_now: &str,
        of_then: &str,
        range: Range,
        found: &mut TableDifference,
    ) -> Result<(), String> {
        let (now, then) = (self.now, self.then);
        let (now_said, then_said) =
            (|error: rusqlite::Error| now.said(&error), |error: rusqlite::Error| then.said(&error));
        let mut now_statement = now.connection.prepare_cached(of_now).map_err(now_said)?;
        let mut then_statement = then.connection.prepare_cached(of_then).map_err(then_said)?;
        let width = now_statement.column_count();
        let bounds = [range.first, range.last];
        let mut now_rows = now_statement.query(bounds).map_err(now_said)?;
        let mut then_rows = then_statement.query(bounds).map_err(then_said)?;
        let mut now_row = now_rows.next().map_err(now_said)?;
        let mut then_row = then_rows.next().map_err(then_said)?;
        loop {
            let now_key = now_row.map(|row| row.get::<_, i64>(0)).transpose().map_err(now_said)?;
            let then_key = then_row.map(|row| row.get::<_, i64>(0)).transpose().map_err(then_said)?;
            let (takes_now, takes_then) = match (now_key, then_key) {
                (None, None) => return Ok(()),
                (now, None) => (now.is_some(), false),
                (None, then) => (false, then.is_some()),
                (Some(now), Some(then)) => (now <= then, then <= now),
            };
            match (now_row, then_row) {
                (Some(now), Some(then)) if takes_now && takes_then => {
                    let is_equal =
                        (1..width).all(|column| match (now.get_ref(column), then.get_ref(column)) {
                            (Ok(now), Ok(then)) => now == then,
                            _ => false,
                        });
                    found.changed += u64::from(!is_equal);
                }
                _ => {
                    found.removed += u64::from(takes_now);
                    found.added += u64::from(takes_then);
                }
            }
            if takes_now {
                now_row = now_rows.next().map_err(now_said)?;
            }
            if takes_then {
                then_row = then_rows.next().map_err(then_said)?;
            }
            self.compared += 1;
            if self.compared.is_multiple_of(ROWS_A_REPORT) {
                (self.progress)(self.compared);
            }
        }
    }

    /// Of a table without rowid: SQLite knows the order of its keys, so it looks each row of one side up in the other.
    fn join(&self, table: &Table, columns: &Columns, found: &mut TableDifference) -> rusqlite::Result<()> {
        let connection = proof::open_immutable(self.then.path)?;
        connection.execute("ATTACH ?1 AS now", [immutable_uri(self.now.path)])?;
        let name = table.quoted();
        let (now, then) = (format!("now.{name} AS a"), format!("main.{name} AS b"));
        let each = |names: &[String], phrase: &dyn Fn(&str) -> String, word: &str| -> String {
            names.iter().map(|name| phrase(&identifier(name))).collect::<Vec<_>>().join(word)
        };
        let is_one = each(&columns.key, &|name| format!("a.{name} = b.{name}"), " AND ");
        let differs = |name: &str| {
            format!("a.{name} IS NOT b.{name} COLLATE BINARY OR typeof(a.{name}) <> typeof(b.{name})")
        };
        let differs = each(&columns.given, &differs, " OR ");
        let count = |sql: String| connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
        let only = |one: &str, other: &str| {
            count(format!(
                "SELECT count(*) FROM {one} WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE {is_one})"
            ))
        };
        found.removed = only(&now, &then)?.cast_unsigned();
        found.added = only(&then, &now)?.cast_unsigned();
        let changed = count(format!("SELECT count(*) FROM {now} JOIN {then} ON {is_one} WHERE {differs}"))?;
        found.changed = changed.cast_unsigned();
        Ok(())
    }
}

/// The columns that both sides have, as each calls them.
fn shared<'a>(now: &'a [String], then: &'a [String]) -> Vec<(&'a String, &'a String)> {
    let of = |then: &'a String| Some((now.iter().find(|now| now.eq_ignore_ascii_case(then))?, then));
    then.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::fs;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// Two databases: both are made by `base`, and the present one changed on by `since`.
    struct Pair {
        now: PathBuf,
        then: PathBuf,
        _dir: TempDir,
    }

    impl Pair {
        fn of(base: &str, since: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (now, then) = (dir.path().join("now?.db"), dir.path().join("then'.db"));
            Connection::open(&then).unwrap().execute_batch(base).unwrap();
            fs::copy(&then, &now).unwrap();
            Connection::open(&now).unwrap().execute_batch(since).unwrap();
            Self { now, then, _dir: dir }
        }

        fn differences(&self) -> Differences {
            between(&self.now, &self.then, &|_| {}).unwrap()
        }
    }

    /// A table in few words: `name now->then +added -removed ~changed`, `altered`, `unreadable`.
    fn words(found: &TableDifference) -> String {
        let rows = |rows: Option<u64>| rows.map_or("none".to_owned(), |rows| rows.to_string());
        let TableDifference { table, rows_now, rows_then, added, removed, changed, .. } = found;
        let mut words =
            format!("{table} {}->{} +{added} -{removed} ~{changed}", rows(*rows_now), rows(*rows_then));
        words.push_str(if found.is_altered { " altered" } else { "" });
        words.push_str(if found.unreadable.is_some() { " unreadable" } else { "" });
        words
    }

    #[track_caller]
    fn check(base: &str, since: &str, expected: &[&str]) {
        let found = Pair::of(base, since).differences();
        let tables: Vec<String> = found.tables.iter().map(words).collect();
        assert_eq!(tables, expected, "{found:?}");
    }

    /// Rows enough for a tree of two levels.
    const MEMBERS: &str = "CREATE TABLE member (id INTEGER PRIMARY KEY, name, note);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO member SELECT i * 10, 'member ' || i, zeroblob(60) FROM n;";

    #[test]
    fn what_is_equal_is_no_difference() {
        let pair = Pair::of(MEMBERS, "");
        assert!(pair.differences().is_empty());
        // Other pages, the same rows.
        let pair = Pair::of(MEMBERS, "PRAGMA page_size = 1024; VACUUM;");
        assert!(pair.differences().is_empty());
        let pair = Pair::of("", "");
        assert!(pair.differences().is_empty());
    }

    #[test]
    fn rows_are_told_that_the_restore_adds_removes_and_changes() {
        check(MEMBERS, "DELETE FROM member WHERE id IN (10, 5000, 20000)", &["member 1997->2000 +3 -0 ~0"]);
        check(MEMBERS, "DELETE FROM member", &["member 0->2000 +2000 -0 ~0"]);
        check(MEMBERS, "DELETE FROM member WHERE id % 20 = 0", &["member 1000->2000 +1000 -0 ~0"]);
        check(
            MEMBERS,
            "INSERT INTO member VALUES (-5, 'a', 0), (5005, 'b', 0), (90000, 'c', 0), (9223372036854775807, 'd', 0)",
            &["member 2004->2000 +0 -4 ~0"],
        );
        check(
            MEMBERS,
            "UPDATE member SET name = 'x' WHERE id IN (10, 20000)",
            &["member 2000->2000 +0 -0 ~2"],
        );
        check(MEMBERS, "UPDATE member SET id = 11 WHERE id = 10", &["member 2000->2000 +1 -1 ~0"]);
        check(
            MEMBERS,
            "UPDATE member SET note = zeroblob(3000) WHERE id < 3000",
            &["member 2000->2000 +0 -0 ~299"],
        );
        check(
            MEMBERS,
            "DELETE FROM member WHERE id = 10; UPDATE member SET name = NULL WHERE id = 5000;
             INSERT INTO member VALUES (20005, 'x', 0); CREATE INDEX by_name ON member (name); VACUUM",
            &["member 2000->2000 +1 -1 ~1"],
        );
    }

    #[test]
    fn values_are_compared_with_their_types() {
        let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, v);
             INSERT INTO t VALUES (1, NULL), (2, 1), (3, 'a'), (4, x'61'), (5, 1.5), (6, 0), (7, ''), (8, 'a' || char(0) || 'b');";
        for (since, changed) in [
            ("UPDATE t SET v = 1.0 WHERE id = 2", true),
            ("UPDATE t SET v = '1' WHERE id = 2", true),
            ("UPDATE t SET v = x'61' WHERE id = 3", true),
            ("UPDATE t SET v = 'a' WHERE id = 4", true),
            ("UPDATE t SET v = NULL WHERE id = 7", true),
            ("UPDATE t SET v = '' WHERE id = 1", true),
            ("UPDATE t SET v = NULL WHERE id = 6", true),
            ("UPDATE t SET v = 'A' WHERE id = 3", true),
            ("UPDATE t SET v = 'a' || char(0) || 'c' WHERE id = 8", true),
            ("UPDATE t SET v = v", false),
        ] {
            for base in [base.to_owned(), base.replace("v);", "v) WITHOUT ROWID;")] {
                let expected: &[&str] = if changed { &["t 8->8 +0 -0 ~1"] } else { &[] };
                check(&base, since, expected);
            }
        }
    }

    #[test]
    fn tables_come_and_go() {
        let base =
            format!("{MEMBERS} CREATE TABLE \"odd \"\"name\" (v); INSERT INTO \"odd \"\"name\" VALUES (1);");
        check(&base, "DROP TABLE member", &["member none->2000 +2000 -0 ~0"]);
        check(&base, "DROP TABLE \"odd \"\"name\"", &["odd \"name none->1 +1 -0 ~0"]);
        check(
            &base,
            "CREATE TABLE later (v); CREATE TABLE full (v); INSERT INTO full VALUES (1), (2)",
            &["full 2->none +0 -2 ~0", "later 0->none +0 -0 ~0"],
        );
        check(
            &base,
            "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT); ANALYZE",
            &["counted 0->none +0 -0 ~0"],
        );
    }

    #[test]
    fn an_altered_table_is_compared_in_the_columns_that_both_have() {
        check(
            MEMBERS,
            "ALTER TABLE member ADD COLUMN age DEFAULT 3",
            &["member 2000->2000 +0 -0 ~0 altered"],
        );
        check(
            MEMBERS,
            "ALTER TABLE member DROP COLUMN note; UPDATE member SET name = 'x' WHERE id < 100; DELETE FROM member WHERE id > 19980",
            &["member 1998->2000 +2 -0 ~9 altered"],
        );
        check(
            MEMBERS,
            "ALTER TABLE member RENAME TO m; ALTER TABLE m RENAME TO Member",
            &["member 2000->2000 +0 -0 ~0 altered"],
        );
        check(
            MEMBERS,
            "ALTER TABLE member RENAME COLUMN name TO NAME; UPDATE member SET name = 'x' WHERE id = 10",
            &["member 2000->2000 +0 -0 ~1 altered"],
        );
        // The same bytes, and other values.
        let base = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 'x', 'y'), (2, 'z', 'z');";
        let swapped = "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE t (id INTEGER PRIMARY KEY, b, a)' WHERE name = 't'";
        check(base, swapped, &["t 2->2 +0 -0 ~1 altered"]);
        // No key is the same: more or fewer rows is all that can be said.
        let other = "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a, b) WITHOUT ROWID; INSERT INTO t VALUES (1, 'x', 'y')";
        check(base, other, &["t 1->2 +1 -0 ~0 altered"]);
    }

    #[test]
    fn tables_without_rowid_are_compared_by_their_key() {
        let base = "CREATE TABLE t (a TEXT COLLATE NOCASE, b, v, PRIMARY KEY (b DESC, a)) WITHOUT ROWID;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO t SELECT 'key ' || i, i % 7, zeroblob(i) FROM n;";
        check(base, "", &[]);
        check(base, "PRAGMA page_size = 8192; VACUUM", &[]);
        check(
            base,
            "DELETE FROM t WHERE a = 'key 7'; INSERT INTO t VALUES ('x', 1, 2), ('y', 1, 2)",
            &["t 2001->2000 +1 -2 ~0"],
        );
        check(base, "UPDATE t SET v = 1 WHERE a = 'key 7'", &["t 2000->2000 +0 -0 ~1"]);
        check(base, "UPDATE t SET a = 'KEY 7' WHERE a = 'key 7'", &["t 2000->2000 +0 -0 ~1"]);
        let altered = "ALTER TABLE t ADD COLUMN w; DELETE FROM t WHERE a = 'key 7'";
        check(base, altered, &["t 1999->2000 +1 -0 ~0 altered"]);
    }

    #[test]
    fn columns_that_are_computed_and_columns_called_rowid_are_no_obstacle() {
        let base = "CREATE TABLE g (a, v AS (a * 2) VIRTUAL, s AS (a * 3) STORED, rowid TEXT, _rowid_);
             INSERT INTO g (a, rowid) VALUES (1, 'x'), (2, 'y');";
        check(base, "UPDATE g SET a = 5 WHERE a = 1", &["g 2->2 +0 -0 ~1"]);
        check(base, "UPDATE g SET rowid = 'z' WHERE a = 1", &["g 2->2 +0 -0 ~1"]);
        // A function of the application, which is not known here.
        let pair = Pair::of(base, "UPDATE g SET rowid = 'z' WHERE a = 1");
        let unknown = "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'a * 2', 'own(a)') WHERE name = 'g'";
        for path in [&pair.now, &pair.then] {
            Connection::open(path).unwrap().execute_batch(unknown).unwrap();
        }
        assert_eq!(words(&pair.differences().tables[0]), "g 2->2 +0 -0 ~1");
        let none_left = "CREATE TABLE h (rowid, _rowid_, oid); INSERT INTO h VALUES (1, 2, 3);";
        check(none_left, "INSERT INTO h VALUES (1, 2, 3)", &["h 2->1 +0 -1 ~0"]);
    }

    #[test]
    fn a_byte_in_an_overflow_page_is_a_difference() {
        for without_rowid in ["", "WITHOUT ROWID"] {
            let base = format!(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v) {without_rowid};
                 INSERT INTO t VALUES (1, zeroblob(9000)), (2, zeroblob(20000) || 'marker' || zeroblob(20000)), (3, 4);"
            );
            let pair = Pair::of(&base, "");
            let mut bytes = fs::read(&pair.now).unwrap();
            let at = bytes.windows(6).position(|window| window == b"marker").expect("the marker");
            bytes[at] = b'M';
            fs::write(&pair.now, bytes).unwrap();
            let found = pair.differences();
            assert_eq!(found.tables.iter().map(words).collect::<Vec<_>>(), ["t 3->3 +0 -0 ~1"]);
        }
    }

    #[test]
    fn the_rows_of_a_full_text_index_are_those_of_one_table() {
        let base = "CREATE VIRTUAL TABLE note USING fts5(title, body); INSERT INTO note VALUES ('a', 'b'), ('c', 'd');
             CREATE VIRTUAL TABLE box USING rtree(id, low, high); INSERT INTO box VALUES (1, 2, 3), (5, 2, 3);";
        check(base, "", &[]);
        check(base, "UPDATE note SET body = 'x' WHERE title = 'a'", &["note 2->2 +0 -0 ~1"]);
        check(
            base,
            "DELETE FROM note WHERE title = 'a'; DELETE FROM box WHERE id = 5",
            &["box 1->2 +1 -0 ~0", "note 1->2 +1 -0 ~0"],
        );
        check(base, "DROP TABLE note", &["note none->2 +2 -0 ~0"]);
        let unknown = "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('table', 'u', 'u', 0, 'CREATE VIRTUAL TABLE u USING unheard_of(x)');";
        check(unknown, "", &[]);
        check("", unknown, &["u none->none +0 -0 ~0 unreadable"]);
    }

    #[test]
    fn other_objects_and_the_user_version_are_told() {
        let base = "CREATE TABLE t (a UNIQUE); CREATE VIEW gone AS SELECT 1; CREATE INDEX same ON t (a); CREATE VIEW other AS SELECT 1;
             PRAGMA user_version = 7;";
        let since = "DROP VIEW gone; DROP VIEW other; CREATE VIEW other AS SELECT 2; PRAGMA user_version = 8;
             CREATE TRIGGER late AFTER INSERT ON t BEGIN SELECT 1; END;";
        let found = Pair::of(base, since).differences();
        assert_eq!(found.tables, []);
        assert_eq!(
            found.objects,
            ["trigger `late` is removed", "view `gone` is added", "view `other` is changed"]
        );
        assert_eq!(found.user_version, Some((8, 7)));
        assert!(!found.is_empty());
    }

    #[test]
    fn another_encoding_of_text_is_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let rows = "CREATE TABLE t (v); INSERT INTO t VALUES ('회원'), ('a');
             CREATE TABLE w (k PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w VALUES ('회', 1);";
        let paths = ["UTF-8", "UTF-16le"].map(|encoding| {
            let path = dir.path().join(encoding);
            let sql = format!("PRAGMA encoding = '{encoding}'; {rows}");
            Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
            path
        });
        assert!(between(&paths[0], &paths[1], &|_| {}).unwrap().is_empty());
        Connection::open(&paths[1]).unwrap().execute("UPDATE t SET v = '회' WHERE rowid = 1", []).unwrap();
        let found = between(&paths[0], &paths[1], &|_| {}).unwrap();
        assert_eq!(found.tables.iter().map(words).collect::<Vec<_>>(), ["t 2->2 +0 -0 ~1"]);
    }

    fn root_of(path: &Path, table: &str) -> u64 {
        let connection = Connection::open(path).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        connection.query_row(sql, [table], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned()
    }

    #[test]
    fn a_damaged_table_is_said_to_be_unreadable_and_the_others_are_compared() {
        let base = format!(
            "{MEMBERS} CREATE TABLE visit (v, w); CREATE INDEX by_v ON visit (v); INSERT INTO visit VALUES (1, 2), (2, 3);"
        );
        let pair = Pair::of(&base, "DELETE FROM visit WHERE v = 1");
        let offset_of = |table: &str| (root_of(&pair.now, table) - 1) as usize * 4096;
        let (offset, of_index) = (offset_of("member"), offset_of("by_v"));
        let mut sound = fs::read(&pair.now).unwrap();
        // Of a table, an index says nothing.
        sound[of_index] = 77;
        // A root that is no page of a b-tree; then one leaf of it, which may still be counted.
        let mut bytes = sound.clone();
        bytes[offset] = 77;
        fs::write(&pair.now, &bytes).unwrap();
        let found = pair.differences();
        assert_eq!(
            found.tables.iter().map(words).collect::<Vec<_>>(),
            ["member none->2000 +0 -0 ~0 unreadable", "visit 1->2 +1 -0 ~0"]
        );
        assert!(found.tables[0].unreadable.as_ref().unwrap().starts_with("now: "));
        let child = u32::from_be_bytes(sound[offset + 8..offset + 12].try_into().unwrap()) as usize;
        let mut bytes = sound.clone();
        bytes[(child - 1) * 4096] = 77;
        fs::write(&pair.now, &bytes).unwrap();
        let found = pair.differences();
        assert_eq!(found.tables.len(), 2, "{found:?}");
        assert!(found.tables[0].unreadable.is_some(), "{found:?}");
        assert_eq!(words(&found.tables[1]), "visit 1->2 +1 -0 ~0");
    }

    #[test]
    fn where_no_table_can_be_known_those_of_the_other_side_are_counted() {
        let pair = Pair::of(MEMBERS, "");
        for bytes in [
            b"this is no database at all, and longer than a header is, which takes a hundred bytes of a file"
                .repeat(3),
            {
                let mut bytes = fs::read(&pair.then).unwrap();
                bytes[100..108].fill(99);
                bytes
            },
        ] {
            fs::write(&pair.now, bytes).unwrap();
            let found = pair.differences();
            assert_eq!(
                found.tables.iter().map(words).collect::<Vec<_>>(),
                ["member none->2000 +0 -0 ~0 unreadable"]
            );
            let turned = between(&pair.then, &pair.now, &|_| {}).unwrap();
            assert_eq!(words(&turned.tables[0]), "member 2000->none +0 -0 ~0 unreadable");
            assert_eq!(between(&pair.now, &pair.now, &|_| {}).unwrap_err().kind, Kind::Damaged);
        }
        let missing = pair.now.with_extension("missing");
        assert_eq!(between(&missing, &pair.then, &|_| {}).unwrap_err().kind, Kind::Io);
    }

    #[test]
    fn only_what_may_differ_is_looked_at() {
        let base = MEMBERS.replace("2000", "60000");
        let compared = |since: &str| {
            let (pair, rows) = (Pair::of(&base, since), Cell::new(0));
            between(&pair.now, &pair.then, &|so_far| rows.set(so_far)).unwrap();
            rows.get()
        };
        assert_eq!(compared(""), 0);
        let few = compared("UPDATE member SET name = 'x' WHERE id IN (20, 300000, 599990)");
        assert!((3..500).contains(&few), "{few}");
        // A page that is split changes the one above it, and not how the rest is told apart.
        let few = compared(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) INSERT INTO member SELECT 300000 + i, 0, zeroblob(900) FROM n",
        );
        assert!((9..500).contains(&few), "{few}");
        assert_eq!(compared("CREATE TABLE other (v); INSERT INTO other VALUES (1)"), 0);
        let (pair, said) = (Pair::of(&base, "UPDATE member SET name = 'x'"), Cell::new(0));
        between(&pair.now, &pair.then, &|_| said.set(said.get() + 1)).unwrap();
        assert_eq!(said.get(), 60_000 / ROWS_A_REPORT + 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Against SQLite's own answers, whatever was done to the table.
        #[test]
        fn the_counts_are_those_of_sqlites_own_set_operations(
            page_size in prop::sample::select(vec![512, 1024, 4096]),
            is_without_rowid: bool,
            steps in prop::collection::vec((0..7u8, 0..3000i64, 0..400i64), 1..12),
        ) {
            let without_rowid = if is_without_rowid { "WITHOUT ROWID" } else { "" };
            let base = format!(
                "PRAGMA page_size = {page_size}; CREATE TABLE t (id INTEGER PRIMARY KEY, v) {without_rowid};
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
                 INSERT INTO t SELECT i * 2, zeroblob(i % 90) FROM n;"
            );
            let step = |(what, at, many): &(u8, i64, i64)| match what {
                0 => format!("DELETE FROM t WHERE id BETWEEN {at} AND {at} + {many};"),
                1 => format!("UPDATE t SET v = {many} WHERE id BETWEEN {at} AND {at} + 9;"),
                2 => format!("INSERT OR IGNORE INTO t VALUES ({at}, zeroblob({many} * 20));"),
                3 => format!("INSERT OR REPLACE INTO t VALUES ({at} + 3000, {many});"),
                4 => format!("UPDATE t SET v = zeroblob({many} * 10) WHERE id = {at};"),
                5 => format!("INSERT OR IGNORE INTO t SELECT id + {many}, v FROM t WHERE id BETWEEN {at} AND {at} + 300;"),
                _ => if *at < 300 { "VACUUM;".to_owned() } else { "UPDATE t SET v = v;".to_owned() },
            };
            let pair = Pair::of(&base, &steps.iter().map(step).collect::<String>());
            let connection = Connection::open(&pair.now).unwrap();
            connection.execute("ATTACH ?1 AS other", [pair.then.to_str().unwrap()]).unwrap();
            let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned();
            let expected = TableDifference {
                table: "t".into(),
                rows_now: Some(count("SELECT count(*) FROM main.t")),
                rows_then: Some(count("SELECT count(*) FROM other.t")),
                added: count("SELECT count(*) FROM (SELECT id FROM other.t EXCEPT SELECT id FROM main.t)"),
                removed: count("SELECT count(*) FROM (SELECT id FROM main.t EXCEPT SELECT id FROM other.t)"),
                changed: count("SELECT count(*) FROM (SELECT id, typeof(v), v FROM main.t EXCEPT SELECT id, typeof(v), v FROM other.t) WHERE id IN (SELECT id FROM other.t)"),
                ..TableDifference::default()
            };
            let differs = expected.added + expected.removed + expected.changed > 0;
            let expected = if differs { vec![expected] } else { Vec::new() };
            prop_assert_eq!(pair.differences().tables, expected);
        }
    }
}
