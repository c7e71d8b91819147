//! Two snapshots may differ in shape: page size, growth, shrinkage, VACUUM, another file altogether. Each copy is the source.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use rusqlite::Connection;
use std::path::Path;

/// Pulls a source through both doors, before and after `change`; gives the second pulls.
#[track_caller]
fn check(change: impl Fn(&Path), transfer: &str) -> [Pulled; 2] {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 2_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let pull = || {
        [sandbox.pull(&[&source]), sandbox.pull(&[Path::new(&served.source("gym"))])]
            .map(|pulled| pulled.succeeds("stored"))
    };
    pull();
    change(&source);
    let pulls = pull();
    for pulled in &pulls {
        contents::assert_equal(&source, &pulled.path);
        assert_eq!(pulled.transfer, transfer, "{}", pulled.ran);
    }
    assert_eq!(pulls[0].snapshot, pulls[1].snapshot);
    pulls
}

fn run(source: &Path, sql: &str) {
    Connection::open(source).and_then(|c| c.execute_batch(sql)).expect("the change is valid SQL");
}

#[test]
fn a_vacuum_is_a_delta() {
    check(|source| run(source, "DELETE FROM access_log WHERE rowid % 3 = 0; VACUUM"), "delta");
}

#[test]
fn a_source_that_shrinks_is_a_delta() {
    check(
        |source| {
            run(
                source,
                "DELETE FROM access_log WHERE rowid > (SELECT max(rowid) / 2 FROM access_log); VACUUM",
            )
        },
        "delta",
    );
}

#[test]
fn a_source_that_grows_is_a_delta() {
    let grow = "CREATE TABLE more(a); INSERT INTO more SELECT randomblob(1000) FROM access_log LIMIT 500";
    let pulls = check(|source| run(source, grow), "delta");
    let (changed, all) = (&pulls[1].json["changed_pages"], &pulls[1].json["page_count"]);
    assert!(changed.as_u64() < all.as_u64(), "{}", pulls[1].ran);
}

#[test]
fn another_page_size_is_a_full_transfer_and_says_why() {
    let change = "PRAGMA journal_mode=DELETE; PRAGMA page_size=1024; VACUUM; PRAGMA journal_mode=WAL";
    for pulled in check(|source| run(source, change), "full") {
        assert_eq!(pulled.json["full_because"], "the page size changed", "{}", pulled.ran);
    }
}

#[test]
fn another_auto_vacuum_mode_is_a_delta() {
    check(|source| run(source, "PRAGMA auto_vacuum=FULL; VACUUM"), "delta");
}

#[test]
fn another_file_under_the_same_name_is_a_delta() {
    let replace = |source: &Path| {
        run(source, "PRAGMA journal_mode=DELETE");
        let other = source.with_file_name("other.db");
        databases::gym_with_seed(&other, 1_000_000, 4096, 99);
        run(&other, "PRAGMA journal_mode=DELETE");
        std::fs::rename(&other, source).unwrap();
    };
    check(replace, "delta");
}
