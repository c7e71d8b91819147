//! The database of `puller demo`: written by one process, counted by another.

use pullback_shared::fault::{Fault, Kind};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// Between two commits, so that the demo's machine has time for the rest.
const PAUSE: Duration = Duration::from_micros(300);

/// The number of the newest commit in a database that [`write_for_ever`] writes.
pub fn newest_commit(path: &Path) -> Result<i64, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let newest = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.query_row("SELECT max(number) FROM visit", [], |row| row.get::<_, Option<i64>>(0))
    });
    let newest = newest.map_err(|error| Fault::new(Kind::Unreadable, format!("SQLite says `{error}`")))?;
    Ok(newest.unwrap_or(0))
}

/// Writes to a new database at `path` for ever, as an application would: WAL mode, SQLite's own checkpoints, one row a commit.
pub fn write_for_ever(path: &Path) -> Result<u8, Fault> {
    let sqlite = |error: rusqlite::Error| Fault::new(Kind::Internal, format!("the demo's writer: {error}"));
    let connection = Connection::open(path).map_err(sqlite)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE visit (number INTEGER PRIMARY KEY, member TEXT NOT NULL, at TEXT NOT NULL);
             CREATE INDEX visit_by_member ON visit (member);",
        )
        .map_err(sqlite)?;
    let mut insert = connection
        .prepare(
            "INSERT INTO visit (member, at) VALUES ('member ' || (abs(random()) % 5000), datetime('now'))",
        )
        .map_err(sqlite)?;
    loop {
        insert.execute([]).map_err(sqlite)?;
        std::thread::sleep(PAUSE);
    }
}
