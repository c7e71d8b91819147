//! The instruments themselves: what the other tests believe is shown here against SQLite alone.

use pullback_tests::catalogue::{self, Odd};
use pullback_tests::ledger::{self, Commit};
use pullback_tests::rows;
use pullback_tests::writer::Writer;
use pullback_tests::{contents, databases};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// SQLite's own backup from one read transaction: the reference for what a copy is.
fn back_up(source: &Path, copy: &Path) -> bool {
    let source = contents::open_read_only(source);
    source.busy_timeout(Duration::from_secs(5)).expect("a timeout can be set");
    let pinned = source.execute_batch("BEGIN; PRAGMA schema_version");
    let mut copy = Connection::open(copy).expect("a database can be made");
    let backup = Backup::new(&source, &mut copy).expect("a backup can begin");
    pinned.is_ok() && matches!(backup.step(-1), Ok(StepResult::Done))
}

fn follow(journal: &str) {
    let folder = TempDir::new().expect("a folder can be made");
    let source = folder.path().join("ledger.db");
    let writer = Writer::start(&source, &["--journal", journal, "--seed", "7", "--pause-ms", "1"]);
    let mut newest = 0;
    for number in 0..20 {
        let copy = folder.path().join(format!("{number}.db"));
        let told = writer.newest();
        assert!(back_up(&source, &copy), "a backup in journal mode {journal}");
        let found = ledger::check(&copy);
        assert!(found.seq >= told.max(newest), "{} after {told} and {newest}", found.seq);
        writer.confirm(found);
        newest = found.seq;
        writer.commits(5);
    }
}

#[test]
fn backups_of_sqlite_itself_pass_the_ledger_in_every_journal_mode() {
    for journal in ["wal", "delete", "truncate", "persist", "memory"] {
        follow(journal);
    }
}

#[test]
fn a_killed_writer_goes_on_where_it_was() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("ledger.db");
    let mut seen = 0;
    for seed in ["1", "2", "3"] {
        let mut writer = Writer::start(&source, &["--journal", "wal", "--seed", seed]);
        writer.commits(50);
        writer.kill9();
        assert!(writer.newest() > seen);
        seen = writer.newest();
    }
    let copy = folder.path().join("copy.db");
    assert!(back_up(&source, &copy));
    assert!(ledger::check(&copy).seq >= seen);
}

/// A file with the rows of one commit and the ledger of the next, as a torn copy has.
#[test]
#[should_panic(expected = "is no state its writer committed")]
fn the_ledger_finds_one_row_of_another_commit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ledger.db");
    Writer::start(&path, &["--journal", "delete", "--seed", "1"]).commits(10);
    let db = Connection::open(&path).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 700", []).unwrap();
    drop(db);
    ledger::check(&path);
}

#[test]
fn a_commit_is_a_line_and_back() {
    let commit = Commit { seq: 42, state: ledger::State::default() };
    assert_eq!(Commit::from_line(&commit.to_string()), Some(commit));
    for half in ["", "42", "42 ", "42 00ff"] {
        assert_eq!(Commit::from_line(half), None);
    }
}

/// What SQLite alone says of a database: the verdict table, from `integrity_check` and `foreign_key_check`.
///
/// Not on a read-only connection: that one leaves CHECK constraints out of the schema it parses, and so out of its check
/// (`sqlite3AddCheckConstraint` in SQLite 3.54.1). An unknown virtual table is passed over on any connection.
fn judge(path: &Path) -> &'static str {
    let db = Connection::open(path).expect("a database can be opened");
    db.execute_batch("PRAGMA query_only = ON").expect("a setting can be made");
    let modules = "SELECT count(*) FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%USING app_index%'";
    let unknown: i64 = db.query_row(modules, [], |row| row.get(0)).expect("the schema can be read");
    let said: rusqlite::Result<String> = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let orphans = db.prepare("PRAGMA foreign_key_check").and_then(|mut check| check.exists([]));
    match (said.as_deref(), orphans) {
        (Err(_), _) | (_, Err(_)) => "uncheckable",
        (Ok("ok"), Ok(false)) if unknown > 0 => "uncheckable",
        (Ok("ok"), Ok(false)) => "ok",
        _ => "violations",
    }
}

#[test]
fn the_catalogue_is_what_it_says() {
    let folder = TempDir::new().unwrap();
    for Odd { name, make, verdict } in catalogue::ALL {
        let path = folder.path().join(name);
        make(&path);
        assert_eq!(judge(&path), verdict, "{name}");
        contents::assert_equal(&path, &path);
    }
}

#[test]
fn a_gym_is_about_as_large_as_asked_and_the_same_each_time() {
    let folder = TempDir::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    for path in [&one, &two] {
        databases::gym(path, 4_000_000, 4096);
    }
    contents::assert_equal(&one, &two);
    let bytes = one.metadata().unwrap().len();
    assert!((3_000_000..5_000_000).contains(&bytes), "{bytes}");
}

#[test]
#[should_panic(expected = "rows of `access_log`")]
fn contents_differ_by_one_value() {
    let folder = TempDir::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    for path in [&one, &two] {
        databases::gym(path, 100_000, 4096);
    }
    Connection::open(&two).unwrap().execute("UPDATE access_log SET door = 'back' WHERE id = 9", []).unwrap();
    assert!(rows::tables(&contents::open_read_only(&two)).contains(&"access_log".to_owned()));
    contents::assert_equal(&one, &two);
}
