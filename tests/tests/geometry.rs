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

/// Pulls a gym of which rows all over were removed, first whole and then after a VACUUM; gives the bytes received. In
/// between, `meanwhile` is given the folder of the agent's state.
#[track_caller]
fn vacuum_with_holes(meanwhile: impl Fn(&Path)) -> [u64; 2] {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 4_000_000, 4096);
    run(&source, "DELETE FROM access_log WHERE id * 7919 % 10 < 3");
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let pull = || sandbox.pull(&[Path::new(&served.source("gym"))]).succeeds("stored");
    let first = pull();
    meanwhile(&sandbox.state());
    run(&source, "VACUUM");
    let second = pull();
    contents::assert_equal(&source, &second.path);
    assert_eq!((first.transfer.as_str(), second.transfer.as_str()), ("full", "delta"), "{}", second.ran);
    let (changed, all) = (&second.json["changed_pages"], &second.json["page_count"]);
    assert!(changed.as_u64() > all.as_u64().map(|all| all / 2), "{}", second.ran);
    [first, second].map(|pulled| pulled.json["bytes_received"].as_u64().expect("bytes are counted"))
}

#[test]
fn a_vacuum_of_a_database_with_holes_travels_as_what_moved() {
    let [full, vacuumed] = vacuum_with_holes(|_| {});
    assert!(vacuumed * 4 < full, "{vacuumed} bytes after a VACUUM, {full} for all of it");
}

#[test]
fn pages_that_rotted_in_the_mirror_are_not_built_upon() {
    let [full, vacuumed] = vacuum_with_holes(|state| {
        let mirrors = std::fs::read_dir(state.join("mirrors")).expect("there are mirrors").flatten();
        let pages = mirrors.map(|entry| entry.path().join("pages")).find(|path| path.is_file());
        let pages = pages.expect("there is a mirror");
        let mut content = std::fs::read(&pages).expect("a mirror can be read");
        // A bit in each twentieth page, among the rows.
        content.iter_mut().skip(4000).step_by(20 * 4096).for_each(|byte| *byte ^= 1);
        std::fs::write(&pages, content).expect("a mirror can be written");
    });
    assert!(vacuumed * 2 < full, "{vacuumed} bytes after a VACUUM, {full} for all of it");
}
