//! What was stored comes out again: the content, the journal mode, the owner's mode; and nothing is written over.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::sandbox::{Ran, Sandbox};
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A sandbox with one copy of a WAL-mode gym, and the source.
fn stored() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 500_000, 4096);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).expect("a mode can be set");
    sandbox.pull(&[&source]).succeeds("stored");
    (sandbox, source)
}

fn restore(sandbox: &Sandbox, target: &Path) -> Ran {
    sandbox.puller(&[
        "restore",
        "gym",
        "--json",
        "--to",
        target.to_str().expect("a path of the sandbox is text"),
    ])
}

#[test]
fn a_copy_becomes_the_database_it_was() {
    let (sandbox, source) = stored();
    let target = sandbox.db("back.db");
    let ran = restore(&sandbox, &target).exits(0);
    assert_eq!(ran.only_json()["outcome"], "restored");
    contents::assert_equal(&source, &target);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    let connection = Connection::open(&target).unwrap();
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(journal, "wal", "as the source had it");
    connection.execute_batch("CREATE TABLE after_restore(a); DROP TABLE after_restore").unwrap();
}

#[test]
fn a_restored_database_pulled_again_has_the_same_snapshot() {
    let (sandbox, source) = stored();
    let target = sandbox.db("back.db");
    restore(&sandbox, &target).exits(0);
    let [before, after] = [source, target].map(|path| sandbox.pull(&[&path]).snapshot);
    assert_eq!(before, after);
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let (sandbox, _) = stored();
    let there = sandbox.db("there.db");
    fs::write(&there, "mine").unwrap();
    let folder = sandbox.file("folder");
    fs::create_dir(&folder).unwrap();
    let beside_a_wal = sandbox.db("new.db");
    fs::write(sandbox.db("new.db-wal"), "of an older database").unwrap();
    for target in [&there, &folder, &beside_a_wal] {
        let ran = restore(&sandbox, target).exits(1);
        assert!(ran.stderr.contains("[P22]") && ran.stderr.contains("hint:"), "{ran}");
    }
    assert_eq!(fs::read(&there).unwrap(), b"mine");
    assert!(!beside_a_wal.exists());
}

#[test]
fn a_dry_run_proves_and_writes_nothing() {
    let (sandbox, _) = stored();
    let target = sandbox.db("back.db");
    let ran = sandbox.puller(&["restore", "gym", "-n", "--json", "--to", target.to_str().unwrap()]).exits(0);
    assert_eq!(ran.only_json()["outcome"], "planned");
    assert!(!target.exists());
}

#[test]
fn a_rotten_copy_is_not_restored() {
    let (sandbox, source) = stored();
    let copy = sandbox.pull(&[&source]).path;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(&copy).unwrap();
    bytes[70_000] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let target = sandbox.db("back.db");
    let ran = restore(&sandbox, &target).exits(4);
    assert!(ran.stderr.contains("page 18 "), "{ran}");
    assert!(!target.exists());
}

#[test]
fn an_unknown_copy_or_source_is_exit_10() {
    let (sandbox, _) = stored();
    let target = sandbox.db("back.db");
    let target = target.to_str().unwrap();
    for (source, copy) in
        [("gym", "gym-000099"), ("nobody", "latest"), ("gym", "latest~1"), ("gym", "latest~x")]
    {
        sandbox.puller(&["restore", source, copy, "--to", target]).exits(10);
    }
    sandbox.puller(&["restore", "gym", "latest~0", "--to", target]).exits(0);
}
