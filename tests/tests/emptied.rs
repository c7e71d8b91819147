//! A source that was emptied: its copy is exact and suspect, exit code 4 on each run, until a person accepts it or the
//! rows come back.

use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// What `latest.db` beside the copy at `path` leads to.
fn latest(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(Path::parent).expect("a copy lies in its source's folder");
    folder.join("latest.db").canonicalize().expect("there is a good copy")
}

/// The verdicts of the copies in the store, oldest first.
#[track_caller]
fn verdicts(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let lines = sandbox.puller(&["list", "--json", name]).exits(0).json();
    lines.iter().map(|line| line["verdict"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn is_suspect(pulled: &Pulled, outcome: &str, good: &Pulled, says: &str) {
    let found = (pulled.outcome.as_str(), pulled.verdict.as_str(), pulled.ran.code());
    assert_eq!(found, (outcome, "suspect", 4), "{}", pulled.ran);
    let accept = format!("accept {} {}", pulled.json["source"].as_str().unwrap_or_default(), pulled.copy);
    for part in ["looks emptied", says, "[P17]", &good.copy, "hint: ", &accept] {
        assert!(pulled.ran.stderr.contains(part), "`{part}` on stderr of {}", pulled.ran);
    }
    assert_eq!(pulled.json["removed"], Value::Array(Vec::new()), "{}", pulled.ran);
    assert_eq!(latest(&pulled.path), good.path, "the latest, after {}", pulled.ran);
}

/// One door to a gym, and how its copies are called.
struct Door<'a> {
    sandbox: &'a Sandbox,
    source: OsString,
    name: &'static str,
}

impl Door<'_> {
    fn pull(&self) -> Pulled {
        self.sandbox.pull(&[OsStr::new("--keep-last"), OsStr::new("1"), &self.source])
    }
}

/// Empties a gym as `sql` does, which is suspect for a reason that `says` names, and then says that it was meant, which
/// leaves it with `verdict`.
#[track_caller]
fn check(sql: &str, says: &str, verdict: &str) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let doors = [(OsString::from(&source), "local/gym"), (served.source("gym").into(), "127.0.0.1/gym")];
    let doors = doors.map(|(source, name)| Door { sandbox: &sandbox, source, name });
    let good = doors.each_ref().map(|door| door.pull().succeeds("stored"));
    databases::create(&source, sql);
    for (door, good) in doors.iter().zip(&good) {
        let suspect = door.pull();
        is_suspect(&suspect, "stored", good, says);
        contents::assert_equal(&source, &suspect.path);
        is_suspect(&door.pull(), "unchanged", good, says);
        // Looking at it again does not make it good.
        sandbox.puller(&["verify", door.name]).exits(4);
        sandbox.puller(&["rotate", door.name, "--keep-last", "1"]).exits(0);
        assert_eq!(verdicts(&sandbox, door.name), ["ok", "suspect"]);
        assert_eq!(latest(&suspect.path), good.path);
        let accepted = sandbox.puller(&["accept", "--json", door.name, &suspect.copy]).exits(0);
        assert_eq!(accepted.only_json()["verdict"], verdict, "{accepted}");
        assert_eq!(latest(&suspect.path), suspect.path, "the latest, after {accepted}");
        let unchanged = door.pull().succeeds("unchanged");
        assert_eq!((unchanged.verdict.as_str(), &unchanged.copy), (verdict, &suspect.copy));
    }
    // What is small now is what later copies are held against.
    databases::create(&source, "CREATE TABLE reopened(at); INSERT INTO reopened VALUES (1)");
    for door in &doors {
        let stored = door.pull().succeeds("stored");
        assert_eq!(stored.verdict, verdict, "{}", stored.ran);
        assert_eq!(verdicts(&sandbox, door.name), [verdict], "the policy works again");
    }
}

const DROP_ALL: &str = "DROP TABLE access_log; DROP TABLE lockers; DROP TABLE members;";

#[test]
fn a_source_without_its_tables_is_suspect_until_it_is_accepted() {
    check(DROP_ALL, "no table is left, where there were 3", "ok");
}

#[test]
fn a_source_without_its_tables_and_vacuumed_is_suspect_until_it_is_accepted() {
    check(&format!("{DROP_ALL} VACUUM"), "no table is left, where there were 3", "ok");
}

const DELETE_MOST: &str = "DELETE FROM access_log WHERE id > 50; DELETE FROM lockers;
    DELETE FROM members WHERE id NOT IN (SELECT member_id FROM access_log);";

#[test]
fn a_source_with_nine_tenths_deleted_is_suspect_until_it_is_accepted() {
    check(DELETE_MOST, "more than nine tenths are gone", "ok");
}

#[test]
fn a_source_with_nine_tenths_deleted_and_vacuumed_is_suspect_until_it_is_accepted() {
    check(&format!("{DELETE_MOST} VACUUM"), "more than nine tenths are gone", "ok");
}

/// The reason is said, not the first of the rows that are wrong besides.
#[test]
fn a_source_with_nine_tenths_deleted_and_rows_that_break_its_rules_is_suspect_first() {
    let sql = "DELETE FROM access_log WHERE id > 50; DELETE FROM members; DELETE FROM lockers";
    check(sql, "looks emptied: 6 pages are in use", "violations");
}

/// Stores a good copy of a gym and then one that is suspect.
#[track_caller]
fn emptied(sandbox: &Sandbox) -> (PathBuf, Vec<u8>, Pulled, Pulled) {
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    let good = sandbox.pull(&[&source]).succeeds("stored");
    let full = fs::read(&source).expect("a file can be read");
    databases::create(&source, DROP_ALL);
    let suspect = sandbox.pull(&[&source]);
    is_suspect(&suspect, "stored", &good, "no table is left");
    (source, full, good, suspect)
}

#[test]
fn a_source_cut_to_nothing_is_a_database_without_tables_and_suspect() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    let good = sandbox.pull(&[&source]).succeeds("stored");
    fs::write(&source, "").unwrap();
    for outcome in ["stored", "unchanged"] {
        is_suspect(&sandbox.pull(&[&source]), outcome, &good, "no table is left");
    }
}

#[test]
fn a_source_whose_rows_come_back_is_good_again_and_the_suspect_copy_is_not() {
    let sandbox = Sandbox::new();
    let (source, full, good, suspect) = emptied(&sandbox);
    fs::write(&source, full).unwrap();
    let back = sandbox.pull(&[&source]).succeeds("stored");
    assert_eq!((back.verdict.as_str(), &back.snapshot), ("ok", &good.snapshot));
    assert_eq!(latest(&back.path), back.path);
    assert_eq!(verdicts(&sandbox, "local/gym"), ["ok", "suspect", "ok"]);
    sandbox.puller(&["verify", "local/gym", &suspect.copy]).exits(4);
}

/// A run of suspect copies is thinned, so that a source that is emptied over and over fills no disk; the good one stays.
#[test]
fn many_suspect_copies_are_thinned_and_the_good_one_stays() {
    let sandbox = Sandbox::new();
    let (source, _, good, first) = emptied(&sandbox);
    for version in 1..6 {
        databases::create(&source, &format!("PRAGMA user_version = {version}"));
        let suspect = sandbox.pull(&[&source]);
        assert_eq!((suspect.verdict.as_str(), suspect.ran.code()), ("suspect", 4), "{}", suspect.ran);
        assert_eq!(latest(&suspect.path), good.path);
    }
    assert_eq!(verdicts(&sandbox, "local/gym"), ["ok", "suspect", "suspect"]);
    assert!(good.path.is_file() && first.path.is_file());
}

#[test]
fn only_a_suspect_copy_can_be_accepted() {
    let sandbox = Sandbox::new();
    let (_, _, good, suspect) = emptied(&sandbox);
    let ran = sandbox.puller(&["accept", "local/gym", &good.copy]).exits(2);
    assert!(ran.stderr.contains("is ok, not suspect"), "{ran}");
    sandbox.puller(&["accept", "local/gym", "gym-000009"]).exits(10);
    sandbox.puller(&["accept", "nobody", &suspect.copy]).exits(10);
    assert_eq!(latest(&suspect.path), good.path, "nothing was accepted");
}

/// Half of the rows is a spring clean.
#[test]
fn a_source_with_half_of_its_rows_is_good() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    sandbox.pull(&[&source]).succeeds("stored");
    databases::create(&source, "DELETE FROM access_log WHERE id > 3000; DROP TABLE lockers; VACUUM");
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    assert_eq!(stored.verdict, "ok", "{}", stored.ran);
}

#[test]
fn what_was_suspect_is_not_good_once_the_copy_is_gone_that_it_was_held_against() {
    let sandbox = Sandbox::new();
    let (source, full, _, suspect) = emptied(&sandbox);
    fs::write(&source, full).expect("the rows can come back");
    sandbox.pull(&[&source]).succeeds("stored");
    databases::visits_in_the_wal(&source, 20);
    sandbox.pull(&[&source]).succeeds("stored");
    sandbox.puller(&["rotate", "local/gym", "--keep-last", "1"]).exits(0);
    assert_eq!(verdicts(&sandbox, "local/gym"), ["suspect", "ok"]);
    let verified = sandbox.puller(&["verify", "local/gym"]).exits(4);
    assert!(verified.stderr.contains(&format!("{}: suspect", suspect.copy)), "{verified}");
    assert_eq!(verdicts(&sandbox, "local/gym"), ["suspect", "ok"]);
}
