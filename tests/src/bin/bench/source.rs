//! The databases of the bench, and what happens to them between two pulls.

use pullback_tests::databases;
use pullback_tests::dice::Dice;
use rusqlite::{Connection, params};
use std::path::Path;

/// Rows that are updated between two pulls.
pub(crate) const UPDATES: usize = 1_000;

/// Bytes in the megabyte of file sizes.
pub(crate) const MB: u64 = 1_000_000;

/// Bytes of the gym in a [`bulky`] database.
const BULKY_GYM: u64 = 50 * MB;

/// A gym of `bytes` bytes.
pub(crate) fn gym(path: &Path, bytes: u64) {
    databases::gym(path, bytes, 4096);
}

/// A gym of about `bytes` bytes that also knows of each member when he was seen last, and how often: two columns that
/// came later, as columns do, and so left their mark on the pages.
pub(crate) fn counting_gym(path: &Path, bytes: u64) {
    gym(path, bytes);
    let db = Connection::open(path).expect("a gym can be opened");
    let sql = "PRAGMA synchronous = OFF; BEGIN;
        ALTER TABLE members ADD COLUMN seen_at TEXT;
        ALTER TABLE members ADD COLUMN visits INTEGER;
        UPDATE members SET seen_at = joined_at, visits = 100 + id % 100;
        COMMIT;";
    db.execute_batch(sql).expect("columns can be added and filled");
}

/// A gym of about `bytes` bytes whose log has a text in each row, and of which nothing was ever removed: a VACUUM lays most
/// of its log into the same pages, elsewhere.
pub(crate) fn wordy_gym(path: &Path, bytes: u64) {
    const VISITS_A_MONTH: i64 = 5_000;
    let settings = "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA cache_size = -64000;
        CREATE TABLE members(id INTEGER PRIMARY KEY, name TEXT NOT NULL, joined_at TEXT NOT NULL, note TEXT);
        CREATE TABLE access_log(
            id INTEGER PRIMARY KEY, member_id INTEGER NOT NULL, at TEXT NOT NULL, remark TEXT NOT NULL);
        CREATE INDEX access_log_by_member ON access_log(member_id, at);
        CREATE INDEX access_log_by_time ON access_log(at);";
    let db = databases::create(path, settings);
    let mut dice = Dice::new(5);
    let run = |sql, values: &[&dyn rusqlite::ToSql]| {
        db.prepare_cached(sql).and_then(|mut sql| sql.execute(values)).expect("a row can be written");
    };
    let mut visit = 0;
    while std::fs::metadata(path).expect("a database has a size").len() < bytes {
        db.execute_batch("BEGIN").expect("a transaction can begin");
        for _ in 0..VISITS_A_MONTH {
            visit += 1;
            if visit % 50 == 1 {
                let sql = "INSERT INTO members(name, joined_at, note) VALUES (?1, datetime(?2 * 60, 'unixepoch'), ?3)";
                run(sql, params![dice.words(2), visit, dice.words(4)]);
            }
            let sql = "INSERT INTO access_log VALUES (?1, ?2, datetime(?1 * 60, 'unixepoch'), ?3)";
            run(sql, params![visit, dice.between(0, visit / 50 + 1) + 1, dice.words(10)]);
        }
        for _ in 0..20 {
            let id = dice.between(0, visit / 50 + 1) + 1;
            run("UPDATE members SET note = ?2 WHERE id = ?1", params![id, dice.words(12)]);
        }
        db.execute_batch("COMMIT").expect("a transaction can be committed");
    }
}

/// A gym that grew to `bytes` bytes by copies of its log: quick to make, for what depends on size alone.
pub(crate) fn bulky(path: &Path, bytes: u64, page_size: u32) {
    databases::gym(path, bytes.min(BULKY_GYM), page_size);
    let db = Connection::open(path).expect("a gym can be opened");
    db.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").expect("settings can be made");
    let mut number = 0;
    while std::fs::metadata(path).expect("a database has a size").len() < bytes {
        number += 1;
        let sql = format!("CREATE TABLE log_{number} AS SELECT * FROM access_log");
        db.execute_batch(&sql).expect("a log can be copied");
    }
    db.execute_batch("PRAGMA journal_mode = WAL").expect("the journal mode can be set");
}

/// An application that has `path` open and is idle.
pub(crate) fn application(path: &Path) -> Connection {
    let db = Connection::open(path).expect("a gym can be opened");
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).expect("a gym can be read");
    db
}

/// Updates [`UPDATES`] random members in one transaction, and closes the database, so that nothing is left in its `-wal`.
pub(crate) fn update_members(path: &Path, seed: u64) {
    let db = Connection::open(path).expect("a gym can be opened");
    let members: i64 =
        db.query_row("SELECT max(id) FROM members", [], |row| row.get(0)).expect("members can be counted");
    let mut dice = Dice::new(seed ^ (u64::from(std::process::id()) << 32));
    db.execute_batch("BEGIN").expect("a transaction can begin");
    for _ in 0..UPDATES {
        let at = dice.between(1_735_689_600, 2_000_000_000);
        let sql = "UPDATE members SET joined_at = datetime(?2, 'unixepoch') WHERE id = ?1";
        db.prepare_cached(sql)
            .and_then(|mut update| update.execute(params![dice.between(0, members) + 1, at]))
            .expect("a member can be updated");
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}
