//! `puller drill`: a restore as on the day when it is needed, timed, recorded, and without a trace afterwards.

use pullback_tests::databases;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::small_disk::SmallDisk;
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A sandbox with `copies` copies of a gym called `gym`.
fn stocked(copies: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    configure(&sandbox, "");
    let source = sandbox.db("gym.db");
    databases::gym(&source, 200_000, 4096);
    for _ in 0..copies {
        sandbox.pull(&[Path::new("--name"), Path::new("gym"), &source]).succeeds("stored");
        databases::visits_in_the_wal(&source, 5);
    }
    sandbox
}

/// Writes the configuration: `rest`, and each copy is a plain file, so that one can rot without the others.
fn configure(sandbox: &Sandbox, rest: &str) {
    sandbox.configure(&format!("pack = 'none'\n{rest}"));
}

fn puller(sandbox: &Sandbox, words: &str) -> Ran {
    sandbox.puller(&words.split(' ').collect::<Vec<_>>())
}

/// The lines of drills in the history of `gym`.
fn drills(sandbox: &Sandbox) -> Vec<Value> {
    let lines = puller(sandbox, "history gym --json").exits(0).json();
    lines.into_iter().filter(|line| line["run"] == "drill").collect()
}

/// The names in `folder`.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder can be read").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().display().to_string()).collect();
    names.sort();
    names
}

/// Flips a bit of the database at `path`.
fn rot(path: &Path) {
    let mut bytes = fs::read(path).expect("a copy can be read");
    bytes[70_000] ^= 1;
    fs::remove_file(path).and_then(|()| fs::write(path, bytes)).expect("a file can be written");
}

#[test]
fn a_drill_restores_checks_counts_records_and_leaves_nothing() {
    let sandbox = stocked(2);
    let folder = sandbox.store().join("local/gym");
    puller(&sandbox, "verify gym").exits(0);
    let before = (names(&folder), names(&folder.join("copies")));
    let line = puller(&sandbox, "drill gym --json").exits(0).only_json();
    assert_eq!((&line["outcome"], &line["verdict"]), (&"passed".into(), &"ok".into()), "{line}");
    let newest = puller(&sandbox, "list gym --json").exits(0).json().pop().expect("a copy");
    assert_eq!((&line["copy"], &line["bytes"]), (&newest["copy"], &newest["bytes"]));
    let db = Connection::open(newest["path"].as_str().expect("a path")).expect("a copy can be opened");
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("rows can be counted");
    let rows: i64 = ["members", "lockers", "access_log"]
        .map(|name| count(&format!("SELECT count(*) FROM {name}")))
        .iter()
        .sum();
    assert_eq!((&line["tables"], &line["rows"]), (&3.into(), &rows.into()), "{line}");
    assert!(line["duration_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{line}");
    drop(db);
    assert_eq!(drills(&sandbox), std::slice::from_ref(&line));
    assert_eq!((names(&folder), names(&folder.join("copies"))), before);
    let elsewhere = sandbox.file("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder can be made");
    let quiet = puller(&sandbox, &format!("drill gym -q --to {}", elsewhere.display())).exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(names(&elsewhere), Vec::<String>::new());
    let status = puller(&sandbox, "status --json").exits(0).only_json();
    assert_eq!(status["drill_passed"], true);
    assert_eq!(status["drilled_at"], drills(&sandbox)[1]["at"]);
    assert!(puller(&sandbox, "drill --all").exits(0).stdout.contains("rows: "));
}

#[test]
fn a_drill_of_a_rotten_copy_fails_and_the_next_one_restores_another() {
    let sandbox = stocked(2);
    let listed = puller(&sandbox, "list gym --json").exits(0).json();
    rot(Path::new(listed[1]["path"].as_str().expect("a path")));
    let failed = puller(&sandbox, "drill gym --json").exits(4);
    let line = failed.only_json();
    assert_eq!((&line["outcome"], &line["error"]["code"]), (&"failed".into(), &"rotten".into()), "{failed}");
    assert!(failed.stderr.contains("page 18 "), "{failed}");
    assert_eq!(puller(&sandbox, "status --json").exits(13).only_json()["drill_passed"], false);
    let passed = puller(&sandbox, "drill gym --json").exits(0).only_json();
    assert_eq!(passed["copy"], listed[0]["copy"]);
    // Once there is no good copy, that is what is said.
    rot(Path::new(listed[0]["path"].as_str().expect("a path")));
    puller(&sandbox, "drill gym").exits(4);
    puller(&sandbox, "drill gym").exits(10);
    assert!(!sandbox.store().join("local/gym/latest.db").is_symlink(), "the latest good copy, of none");
    let outcomes: Vec<Value> = drills(&sandbox).iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["failed", "passed", "failed", "failed"]);
}

#[test]
fn what_is_expected_of_a_source_is_expected_of_a_restored_one() {
    let sandbox = stocked(1);
    let source = sandbox.db("gym.db");
    let config = |expect: &str| {
        configure(&sandbox, &format!("[source.gym]\naddress = {source:?}\nexpect = {{ {expect} }}\n"));
    };
    config("members = 1");
    puller(&sandbox, "drill gym").exits(0);
    config("members = 1000000");
    let failed = puller(&sandbox, "drill gym --json").exits(4);
    let line = failed.only_json();
    assert_eq!((&line["outcome"], &line["verdict"]), (&"failed".into(), &"ok".into()), "{failed}");
    assert!(failed.stderr.contains("`members`") && failed.stderr.contains("1000000"), "{failed}");
}

#[test]
fn one_source_that_fails_stops_no_other() {
    let sandbox = stocked(1);
    let other = sandbox.db("till.db");
    databases::gym(&other, 50_000, 4096);
    sandbox.pull(&[&other]).succeeds("stored");
    let copy = puller(&sandbox, "list till --json").exits(0).only_json();
    rot(Path::new(copy["path"].as_str().expect("a path")));
    let ran = puller(&sandbox, "drill --all --json").exits(3);
    let outcomes: Vec<Value> = ran.json().iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["passed", "failed"], "{ran}");
}

#[test]
fn what_a_drill_that_died_left_behind_goes_with_the_next_run() {
    let sandbox = stocked(1);
    let folder = sandbox.store().join("local/gym");
    for clears in ["drill gym", "pull gym"] {
        fs::create_dir(folder.join(".drill-died")).expect("a folder can be made");
        fs::write(folder.join(".drill-died/restored.db"), "half").expect("a file can be written");
        puller(&sandbox, clears).exits(0);
        assert!(!folder.join(".drill-died").exists(), "{clears}");
    }
}

#[test]
fn a_drill_without_room_says_what_is_needed_and_leaves_what_there_is() {
    let sandbox = stocked(1);
    let root = sandbox.file("small");
    let Some(disk) = SmallDisk::mount(&root, "size=1m", "a drill on a full disk") else { return };
    disk.fill();
    let ran = puller(&sandbox, &format!("drill gym --json --to {}", root.display()));
    let line = ran.only_json();
    assert_eq!((ran.code(), &line["error"]["code"]), (8, &"no_space".into()), "{ran}");
    let needed = puller(&sandbox, "list gym --json").exits(0).only_json()["bytes"].to_string();
    assert!(line["error"]["message"].as_str().is_some_and(|said| said.contains(&needed)), "{ran}");
    assert_eq!(names(&root), ["filler"]);
    puller(&sandbox, "drill gym").exits(0);
    disk.empty();
}
