//! What is restored and pulled again has the name of the copy, on every path: new file, database, in place, undone, set aside,
//! at the edge. Pulled into a store of its own, which has nothing to build upon.
//!
//! `PULLBACK_HUGE=1 cargo test -p pullback-tests --test restored_again` also restores a database beyond 1 GiB.

use pullback_tests::catalogue::{self, Odd};
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::sshd::Sshd;
use pullback_tests::{contents, databases, privilege, programs};
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of what is at `path` now.
#[track_caller]
fn snapshot(sandbox: &Sandbox, path: &Path) -> String {
    let path = path.to_str().expect("a path of the sandbox is text");
    let ran = sandbox.puller_in(&sandbox.file("again"), &["pull", "--json", path]);
    let pulled = Pulled::from_run(ran);
    // What was small before it was restored may look emptied to this store when it is so again.
    assert!(["stored", "unchanged"].contains(&pulled.outcome.as_str()), "{}", pulled.ran);
    pulled.snapshot
}

#[track_caller]
fn restore(sandbox: &Sandbox, words: &[&str]) -> Value {
    let ran = sandbox.puller(&[&["restore", "--json", "--yes"], words].concat()).exits(0);
    let line = ran.only_json();
    assert_eq!((&line["v"], &line["outcome"]), (&1.into(), &"restored".into()), "{ran}");
    line
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the sandbox is text")
}

fn execute(path: &Path, sql: &str) {
    Connection::open(path).expect("a database can be opened").execute_batch(sql).expect("the SQL is correct");
}

fn journal(path: &Path) -> String {
    let db = Connection::open(path).expect("a database can be opened");
    db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("SQLite answers")
}

/// Makes each database, and restores it to a new file, over a database in WAL mode and over one in rollback mode.
fn check(entries: &[Odd]) {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(300));
    let over = sandbox.db("over");
    let other = sandbox.db("other");
    databases::gym_with_seed(&other, 60_000, 4096, 9);
    for (number, odd) in entries.iter().enumerate() {
        let (source, new) = (sandbox.db(odd.name), sandbox.db(&format!("{}.new", odd.name)));
        (odd.make)(&source);
        let name = sandbox.pull(&[&source]).snapshot;
        restore(&sandbox, &[odd.name, "--to", text(&new)]);
        assert_eq!(snapshot(&sandbox, &new), name, "{} in a new file", odd.name);
        // An empty file is something that no database can become again, and says so.
        let is_empty = odd.name == "empty-file";
        let mode = ["wal", "delete"][number % 2];
        fs::copy(&other, &over).expect("a file can be copied");
        execute(&over, &format!("PRAGMA journal_mode = {mode}"));
        // It is a source of its own since the first restore over it.
        let words = [odd.name, "--to", text(&over), "--stop-cmd", "true", "--force"];
        if is_empty {
            let ran = sandbox.puller(&[&["restore", "--yes"], &words[..]].concat()).exits(1);
            assert!(ran.stderr.contains("an empty file"), "{ran}");
            continue;
        }
        restore(&sandbox, &words);
        assert_eq!(snapshot(&sandbox, &over), name, "{} over one in mode {mode}", odd.name);
        assert_eq!(journal(&over), mode, "{}: the mode of the database stays", odd.name);
    }
}

#[test]
fn odd_databases_of_the_first_half_of_the_catalogue_are_what_they_were() {
    check(&catalogue::ALL[..24]);
}

#[test]
fn odd_databases_of_the_second_half_of_the_catalogue_are_what_they_were() {
    check(&catalogue::ALL[24..]);
}

#[test]
fn a_database_beyond_one_gib_is_what_it_was() {
    if std::env::var_os("PULLBACK_HUGE").is_none() {
        return privilege::skip("a restore beyond 1 GiB", "PULLBACK_HUGE is not set");
    }
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(900));
    let (source, target) = (sandbox.db("huge.db"), sandbox.db("target.db"));
    databases::above_one_gib(&source);
    let name = sandbox.pull(&[&source]).succeeds("stored").snapshot;
    fs::remove_file(&source).unwrap();
    databases::gym(&target, 60_000, 65536);
    restore(&sandbox, &["huge", "--to", text(&target)]);
    assert_eq!(snapshot(&sandbox, &target), name);
    // And back: what was there before is small.
    restore(&sandbox, &["--undo", "target"]);
    restore(&sandbox, &["--undo", "target"]);
    assert_eq!(snapshot(&sandbox, &target), name);
}

/// A gym in journal mode `mode`.
fn gym_in(path: &Path, mode: &str, bytes: u64) {
    databases::gym(path, bytes, 4096);
    execute(path, &format!("PRAGMA journal_mode = {mode}"));
}

const MODES: [&str; 4] = ["wal", "delete", "truncate", "persist"];

#[test]
fn in_place_and_undone_and_undone_again_in_each_journal_mode() {
    for mode in MODES {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        gym_in(&source, mode, 300_000);
        let first = sandbox.pull(&[&source]).succeeds("stored");
        execute(
            &source,
            "DELETE FROM access_log WHERE id % 2; CREATE TABLE more(a); INSERT INTO more VALUES (1)",
        );
        let second = snapshot(&sandbox, &source);
        assert_ne!(first.snapshot, second);
        let line = restore(&sandbox, &["gym", "--in-place"]);
        assert_eq!(
            (&line["copy"], &line["snapshot"]),
            (&first.copy.clone().into(), &first.snapshot.clone().into())
        );
        assert_eq!(line["source"], "local/gym", "{line}");
        let safety = line["safety"].as_str().expect("a safety copy").to_owned();
        assert_eq!(snapshot(&sandbox, &source), first.snapshot, "{mode}");
        contents::assert_equal(&first.path, &source);
        // Only WAL mode is written in the file: the others are a connection's own.
        assert_eq!(journal(&source), if mode == "wal" { "wal" } else { "delete" });

        let undone = restore(&sandbox, &["--undo", "gym"]);
        assert_eq!(undone["copy"], safety.as_str());
        assert_eq!(snapshot(&sandbox, &source), second, "{mode}, undone");
        restore(&sandbox, &["--undo", "gym"]);
        assert_eq!(snapshot(&sandbox, &source), first.snapshot, "{mode}, undone again");
        restore(&sandbox, &["--undo", "gym"]);
        assert_eq!(snapshot(&sandbox, &source), second, "{mode}, undone a third time");
        // By its place among those that are no safety copies.
        let third = sandbox.pull(&[&source]).succeeds("stored");
        execute(&source, "DELETE FROM lockers");
        let fourth = sandbox.pull(&[&source]).succeeds("stored");
        assert_eq!(third.snapshot, second);
        let places = [("latest", &fourth.snapshot), ("latest~1", &second), ("latest~2", &first.snapshot)];
        for (wanted, name) in places {
            let target = sandbox.db(wanted);
            restore(&sandbox, &["gym", wanted, "--to", text(&target)]);
            assert_eq!(&snapshot(&sandbox, &target), name, "{wanted}");
        }
        sandbox.puller(&["verify", "gym"]).exits(0);
    }
}

#[test]
fn a_time_means_the_newest_good_copy_that_was_there_then() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    gym_in(&source, "wal", 100_000);
    // Times mean whole seconds, and the second copy is of another one.
    let mut earlier = sandbox.command(programs::puller());
    earlier.env("PULLER_NOW", "2026-11-20T09:00:00Z").arg("--store").arg(sandbox.store());
    let first = Pulled::from_run(sandbox.run(earlier.args(["pull", "--json"]).arg(&source)));
    let first = first.succeeds("stored");
    let taken_at = |pulled: &Pulled| {
        let shown = sandbox.puller(&["show", "gym", &pulled.copy, "--json"]).exits(0).only_json();
        shown["taken_at"].as_str().expect("a time").to_owned()
    };
    let at = taken_at(&first);
    execute(&source, "DELETE FROM lockers");
    let second = sandbox.pull(&[&source]).succeeds("stored");
    for (at, pulled) in [(at, &first), (taken_at(&second), &second)] {
        restore(&sandbox, &["gym", "--at", &at, "--in-place"]);
        assert_eq!(snapshot(&sandbox, &source), pulled.snapshot, "{at}");
        execute(&source, "DELETE FROM access_log");
    }
    let line = restore(&sandbox, &["gym", "--at", "2999-01-01", "--to", text(&sandbox.db("new.db"))]);
    assert_ne!(line["copy"], Value::Null);
    let ran =
        sandbox.puller(&["restore", "gym", "--at", "2001-01-01", "--in-place", "--yes", "--json"]).exits(10);
    assert_eq!(ran.only_json()["error"]["code"], "unknown");
}

#[test]
fn packed_copies_are_restored_as_plain_ones_are() {
    for pack in ["delta", "gzip"] {
        let sandbox = Sandbox::new();
        sandbox.configure(&format!("pack = '{pack}'"));
        let source = sandbox.db("gym.db");
        gym_in(&source, "wal", 300_000);
        let mut pulls = Vec::new();
        for round in 0..5 {
            pulls.push(sandbox.pull(&[&source]).succeeds("stored"));
            execute(&source, &format!("UPDATE access_log SET door = 'door {round}' WHERE id % 50 = {round}"));
        }
        let packed = pulls.iter().filter(|pulled| !is_plain(pulled)).count();
        assert!(packed >= 3, "{packed} copies are packed as {pack}");
        for (number, pulled) in pulls.iter().enumerate() {
            restore(&sandbox, &["gym", &pulled.copy, "--in-place"]);
            assert_eq!(snapshot(&sandbox, &source), pulled.snapshot, "{pack}, copy {number} in place");
            let new = sandbox.db(&format!("new-{number}"));
            restore(&sandbox, &["gym", &pulled.copy, "--to", text(&new)]);
            assert_eq!(snapshot(&sandbox, &new), pulled.snapshot, "{pack}, copy {number} in a new file");
        }
        restore(&sandbox, &["--undo", "gym"]);
        assert_eq!(snapshot(&sandbox, &source), pulls[3].snapshot, "{pack}, undone");
        sandbox.puller(&["verify", "gym"]).exits(0);
    }
}

/// Whether the copy is still a plain file, now.
fn is_plain(pulled: &Pulled) -> bool {
    pulled.path.is_file()
}

#[test]
fn a_database_larger_or_smaller_by_far_than_the_other_is_replaced() {
    for mode in ["wal", "delete"] {
        let sandbox = Sandbox::new();
        let (small, large) = (sandbox.db("small.db"), sandbox.db("large.db"));
        gym_in(&small, mode, 20_000);
        gym_in(&large, mode, 8_000_000);
        let [of_small, of_large] =
            [&small, &large].map(|path| sandbox.pull(&[path]).succeeds("stored").snapshot);
        restore(&sandbox, &["small", "--to", text(&large), "--force"]);
        restore(&sandbox, &["large", "--to", text(&small), "--force"]);
        assert_eq!(
            (snapshot(&sandbox, &large), snapshot(&sandbox, &small)),
            (of_small.clone(), of_large.clone())
        );
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(
            len(&large) < 200_000 && len(&small) > 5_000_000,
            "{mode}: the files are as large as what is in them"
        );
        // Each has its own way back.
        restore(&sandbox, &["--undo", "large"]);
        restore(&sandbox, &["--undo", "small"]);
        assert_eq!((snapshot(&sandbox, &large), snapshot(&sandbox, &small)), (of_large, of_small));
    }
}

#[test]
fn what_no_sqlite_can_open_is_set_aside_and_the_copy_takes_its_place() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    gym_in(&source, "wal", 100_000);
    let pulled = sandbox.pull(&[&source]).succeeds("stored");
    // Another source's file, the source itself, and left-over files of a database that is gone.
    let text_file = sandbox.db("notes.txt");
    fs::write(&text_file, "not a database at all\n".repeat(100)).unwrap();
    fs::write(&source, "trampled over\n".repeat(1000)).unwrap();
    let gone = sandbox.db("gone.db");
    fs::write(sandbox.db("gone.db-wal"), "of an older database").unwrap();
    for (target, words) in [
        (&text_file, ["gym", "--force", "--to", text(&text_file)].as_slice()),
        (&source, &["gym", "--force", "--in-place"]),
        (&gone, &["gym", "--force", "--to", text(&gone)]),
    ] {
        let before = fs::read(target).ok();
        let line = restore(&sandbox, words);
        assert_eq!(snapshot(&sandbox, target), pulled.snapshot, "{line}");
        assert_eq!(journal(target), "wal");
        let aside = PathBuf::from(line["quarantine"].as_str().expect("what was there is set aside"));
        let kept = aside.join(target.file_name().unwrap());
        assert_eq!(fs::read(kept).ok(), before, "{line}");
    }
    // What was set aside is no copy, so there is nothing that leads back.
    let ran = sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(10);
    assert!(ran.stderr.contains("lies in `"), "{ran}");
}

/// At the edge: a new file, a database, in place, undone, set aside.
fn at_the_edge(config: &str, is_delta: bool) {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let file = sandbox.file("home/.config/pullback/agent.toml");
    fs::write(file, format!("reserve = '0'\nallow_restore = true\n{config}\n"))
        .expect("a file can be written");
    let source = sandbox.db("gym.db");
    gym_in(&source, "wal", 2_000_000);
    let far = format!("pi:{}", source.display());
    let first = sshd.pull(&[&far, "--name", "gym"]).succeeds("stored");
    let restored = |words: &[&str]| {
        let ran = sshd.puller(&[&["restore", "--json", "--yes"], words].concat()).exits(0);
        let line = ran.only_json();
        assert_eq!(line["outcome"], "restored", "{ran}");
        line
    };
    for mode in ["wal", "delete"] {
        execute(
            &source,
            &format!("PRAGMA journal_mode = {mode}; UPDATE members SET note = '{mode}' WHERE id < 30"),
        );
        let changed = snapshot(&sandbox, &source);
        let line = restored(&["gym", &first.copy, "--in-place"]);
        assert_eq!(snapshot(&sandbox, &source), first.snapshot, "{mode}");
        assert_eq!(journal(&source), mode);
        let sent = line["bytes_sent"].as_u64().expect("a number");
        assert_eq!(sent < 100_000, is_delta, "{sent} bytes were sent");
        restored(&["gym", "--undo"]);
        assert_eq!(snapshot(&sandbox, &source), changed, "{mode}, undone");
        restored(&["gym", "--undo"]);
        assert_eq!(snapshot(&sandbox, &source), first.snapshot, "{mode}, undone again");
    }
    let far = |name: &str| format!("ssh://pi{}", sandbox.db(name).display());
    restored(&["gym", &first.copy, "--to", &far("new.db")]);
    assert_eq!(snapshot(&sandbox, &sandbox.db("new.db")), first.snapshot);
    // Another geometry, and another encoding, for which nobody may have it open.
    databases::gym_with_seed(&sandbox.db("other.db"), 50_000, 1024, 5);
    databases::create(
        &sandbox.db("wide.db"),
        "PRAGMA encoding = 'UTF-16be'; CREATE TABLE t(a); INSERT INTO t VALUES ('b')",
    );
    for name in ["other.db", "wide.db"] {
        let before = snapshot(&sandbox, &sandbox.db(name));
        let words = ["gym", &first.copy, "--to", &far(name)];
        let ran = sshd.puller(&[&["restore", "--json", "--yes"], &words[..]].concat()).exits(1);
        assert_eq!(ran.only_json()["error"]["code"], "target", "{ran}");
        assert_eq!(snapshot(&sandbox, &sandbox.db(name)), before, "{name} was refused");
        let line = restored(&[&words[..], &["--stop-cmd", "true"]].concat());
        assert_eq!(snapshot(&sandbox, &sandbox.db(name)), first.snapshot, "{name}");
        let into = line["source"].as_str().expect("a source");
        restored(&[into, "--undo", "--stop-cmd", "true"]);
        assert_eq!(snapshot(&sandbox, &sandbox.db(name)), before, "{name}, undone");
    }
    fs::write(sandbox.db("notes"), "no database\n".repeat(500)).expect("a file can be written");
    let line = restored(&["gym", &first.copy, "--to", &far("notes"), "--force"]);
    assert_eq!(snapshot(&sandbox, &sandbox.db("notes")), first.snapshot, "{line}");
    assert!(Path::new(line["quarantine"].as_str().expect("a path")).join("notes").is_file(), "{line}");
    sshd.nothing_is_left();
}

#[test]
fn at_the_edge_by_deltas() {
    at_the_edge("", true);
}

#[test]
fn at_the_edge_in_full_where_the_agent_keeps_no_mirror() {
    at_the_edge("mirror = 'discard'", false);
}
