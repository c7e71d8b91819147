//! A full disk, in each phase: what is needed is said, nothing is lost, and rotation makes room even there.

use pullback_tests::databases;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::{contents, room};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that a disk in memory gives a file at once.
const BLOCK: u64 = 4096;

/// A source, and `count` copies of it on a disk of its own.
fn stored(sandbox: &Sandbox, count: usize, what: &str) -> Option<(SmallDisk, PathBuf, Vec<String>)> {
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    let disk = SmallDisk::mount(&sandbox.store(), "size=24m", what)?;
    let mut copies = Vec::new();
    for _ in 0..count {
        databases::visits_in_the_wal(&source, 10);
        copies.push(sandbox.pull(&[&source]).succeeds("stored").copy);
    }
    Some((disk, source, copies))
}

/// Adds to the history until the next line needs another block.
fn fill_the_last_block(history: &Path) {
    let length = fs::metadata(history).expect("there is a history").len();
    let mut missing = BLOCK - length % BLOCK;
    if missing < 100 {
        missing += BLOCK;
    }
    let empty = r#"{"v":1,"outcome":"failed","notes":""}"#;
    let note = "x".repeat(missing as usize - empty.len() - 1);
    let line = empty.replace("\"\"", &format!("\"{note}\""));
    let mut file = OpenOptions::new().append(true).open(history).expect("a history can be opened");
    writeln!(file, "{line}").expect("a line can be written");
    assert_eq!(file.metadata().expect("a file has a length").len() % BLOCK, 0);
}

#[track_caller]
fn listed(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.puller(&["list", "--json"]).exits(0).json();
    listed.iter().map(|line| line["copy"].as_str().expect("a copy has an id").to_owned()).collect()
}

/// The last byte of the disk is taken, and the line that history needs before a copy goes needs room too.
#[test]
fn a_rotation_on_a_disk_that_is_full_to_the_last_byte_makes_room() {
    let sandbox = Sandbox::new();
    let Some((disk, source, copies)) = stored(&sandbox, 6, "rotation on a full disk") else { return };
    let folder = sandbox.store().join("local/gym");
    for kept in (1..=5).rev() {
        fill_the_last_block(&folder.join("history.jsonl"));
        disk.fill();
        let before = room::used(&folder);
        sandbox.puller(&["rotate", "gym", "--keep-last", &kept.to_string()]).exits(0);
        assert!(room::used(&folder) + 500_000 < before, "room was made");
        assert_eq!(listed(&sandbox), copies[copies.len() - kept..]);
        disk.empty();
        sandbox.puller(&["verify", "--all"]).exits(0);
    }
    // History knows that they were removed: nobody misses them.
    let history = fs::read_to_string(folder.join("history.jsonl")).unwrap();
    assert_eq!(history.matches(r#""outcome":"removed""#).count(), 5);
    databases::visits_in_the_wal(&source, 10);
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    contents::assert_equal(&source, &stored.path);
}
