//! Consistency under fire: whatever a hostile writer does meanwhile, a copy is exactly the state after one commit.

use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use pullback_tests::writer::Writer;
use pullback_tests::{contents, databases, ledger};
use std::ffi::OsString;
use std::fs;

/// Pulls in each journal mode, half of them through each door.
const PULLS: u32 = 100;

/// What a pull may end as when the writer holds the lock for too long.
#[derive(Clone, Copy, PartialEq)]
enum Locks {
    /// Readers and writers never wait for each other.
    Free,
    /// A reader waits for the writer, up to its limit.
    Shared,
}

/// Pulls while a writer works, and holds each copy against the commits that the writer tells of.
#[track_caller]
fn check(journal: &str, pause_ms: &str, locks: Locks) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("ledger.db");
    let writer = Writer::start(&source, &["--journal", journal, "--seed", "11", "--pause-ms", pause_ms]);
    let served = Served::start(&sandbox, &[("ledger", &source)]);
    let doors = [OsString::from(&source), OsString::from(served.source("ledger"))];
    let (mut newest, mut states, mut busy) = (0, 0, 0);
    for pull in 0..PULLS {
        let told = writer.newest();
        let pulled = sandbox.pull(&[&doors[pull as usize % 2]]);
        if pulled.outcome == "failed" && locks == Locks::Shared {
            pulled.fails("busy", 7);
            busy += 1;
            continue;
        }
        let pulled = if pulled.outcome == "unchanged" {
            pulled.succeeds("unchanged")
        } else {
            pulled.succeeds("stored")
        };
        assert_eq!(pulled.verdict, "ok", "{}", pulled.ran);
        let copy = ledger::check(&pulled.path);
        assert!(copy.seq >= told, "pull {pull} gave commit {} though {told} was made before it", copy.seq);
        assert!(copy.seq >= newest, "pull {pull} gave commit {} after {newest}", copy.seq);
        writer.confirm(copy);
        states += u32::from(copy.seq > newest);
        newest = copy.seq;
    }
    println!("{journal}: {PULLS} pulls, {states} different states, {busy} busy, {newest} commits");
    // Else the writer did not write, or no pull got through, and nothing was shown.
    assert!(states * 2 > PULLS, "only {states} of {PULLS} pulls gave a new state, {busy} were busy");
}

#[test]
fn copies_are_commits_in_wal_mode_and_a_writer_without_pause_starves_no_pull() {
    check("wal", "0", Locks::Free);
}

#[test]
fn copies_are_commits_in_delete_mode() {
    check("delete", "3", Locks::Shared);
}

#[test]
fn copies_are_commits_in_truncate_mode() {
    check("truncate", "3", Locks::Shared);
}

#[test]
fn copies_are_commits_in_persist_mode() {
    check("persist", "3", Locks::Shared);
}

#[test]
fn copies_are_commits_in_memory_mode() {
    check("memory", "3", Locks::Shared);
}

#[test]
fn both_doors_give_the_same_snapshot_and_the_same_file() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 2_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let doors = [OsString::from(&source), OsString::from(served.source("gym"))];
    // First whole, then what changed.
    for visits in [10, 200, 3_000] {
        let _application = databases::visits_in_the_wal(&source, visits);
        let [local, service] = [&doors[0], &doors[1]].map(|door| sandbox.pull(&[door]).succeeds("stored"));
        assert_eq!(local.snapshot, service.snapshot, "{}\n{}", local.ran, service.ran);
        let [of_local, of_service] =
            [&local.path, &service.path].map(|path| fs::read(path).expect("a copy can be read"));
        assert!(of_local == of_service, "{} and {} differ", local.path.display(), service.path.display());
        contents::assert_equal(&source, &local.path);
        for (door, stored) in doors.iter().zip([local, service]) {
            let again = sandbox.pull(&[door]).succeeds("unchanged");
            assert_eq!((again.snapshot, again.path), (stored.snapshot, stored.path), "{}", again.ran);
        }
    }
}
