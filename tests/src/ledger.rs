//! A ledger inside a database that proves a copy to be exactly the state after one commit.
//!
//! Every commit of the hostile writer stores, in the same transaction, a row `ledger(seq, state)`: the number of the
//! commit and a hash over everything else in the database. The hash is a sum over all rows, so that the writer can keep
//! it up to date by taking away the rows it changes and adding what they became. A copy with one page of another
//! commit, older or newer, has rows that do not add up to the newest row of its ledger.

use crate::{contents, rows};
use rusqlite::{Connection, OptionalExtension, Row};
use std::fmt;
use std::ops::{AddAssign, SubAssign};
use std::path::Path;

/// The sum over everything in a database but its ledger.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct State(u128);

/// One commit: its number, and the state it left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// 1 for the first commit, and one more for each.
    pub seq: i64,
    /// What the database held after it.
    pub state: State,
}

/// The newest rows a ledger keeps; the writer removes older ones.
pub const ROWS_MAX: i64 = 200;

/// Proves that the database at `copy` is exactly the state after one commit, and says after which. Panics with the
/// reason where it is not.
#[track_caller]
pub fn check(copy: &Path) -> Commit {
    let db = contents::open_read_only(copy);
    db.execute_batch("BEGIN").expect("a transaction can begin");
    let sound: String =
        db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check can run");
    assert_eq!(sound, "ok", "integrity_check of {}", copy.display());
    let newest = newest(&db).expect("the ledger has a row");
    let found = recount(&db);
    assert_eq!(
        found,
        newest.state,
        "{} is no state its writer committed (seq {})",
        copy.display(),
        newest.seq
    );
    let (first, count): (i64, i64) = db
        .query_row("SELECT min(seq), count(*) FROM ledger", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("the ledger can be counted");
    assert_eq!(count, newest.seq - first + 1, "the ledger of {} has a gap", copy.display());
    assert!(count <= ROWS_MAX, "the ledger of {} has {count} rows", copy.display());
    newest
}

/// The newest commit the ledger names; `None` before the first.
pub fn newest(db: &Connection) -> Option<Commit> {
    let row = |row: &Row<'_>| Ok(Commit { seq: row.get(0)?, state: State(u128::from_le_bytes(row.get(1)?)) });
    let newest = db.query_row("SELECT seq, state FROM ledger ORDER BY seq DESC LIMIT 1", [], row);
    newest.optional().expect("the ledger can be read")
}

/// The state, added up from all there is: the schema and every row of every table but the ledger.
pub fn recount(db: &Connection) -> State {
    let mut state = of_schema(db);
    for table in rows::tables(db).iter().filter(|table| *table != "ledger") {
        rows::each_row(db, table, |row| state += of_row(table, row));
    }
    state
}

/// What the schema adds to the state. Root pages are left out: VACUUM moves them and commits nothing new.
pub fn of_schema(db: &Connection) -> State {
    let mut state = State::default();
    let mut statement =
        db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema").expect("the schema can be read");
    let mut rows = statement.query([]).expect("the schema can be read");
    while let Some(row) = rows.next().expect("the schema can be read") {
        state += of_row("sqlite_schema", row);
    }
    state
}

/// What one row of `table` adds to the state.
pub fn of_row(table: &str, row: &Row<'_>) -> State {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(table.len() as u64).to_le_bytes()).update(table.as_bytes());
    rows::hash_into(&mut hasher, row);
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    State(u128::from_le_bytes(first))
}

impl State {
    /// The state as a ledger row stores it.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

impl AddAssign for State {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl SubAssign for State {
    fn sub_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:032x}", self.seq, self.state.0)
    }
}

impl Commit {
    /// The commit that a whole line of the writer's output names, as [`Display`](fmt::Display) wrote it.
    pub fn from_line(line: &str) -> Option<Self> {
        let (seq, state) = line.split_once(' ').filter(|(_, state)| state.len() == 32)?;
        Some(Self { seq: seq.parse().ok()?, state: State(u128::from_str_radix(state, 16).ok()?) })
    }
}
