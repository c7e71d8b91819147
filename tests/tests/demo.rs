//! `puller demo`: what it shows is so, and it leaves nothing running.

use pullback_tests::contents;
use pullback_tests::sandbox::Sandbox;
use std::path::Path;
use std::process::Command;

#[test]
fn the_demo_copies_every_commit_and_leaves_nothing_running() {
    let sandbox = Sandbox::new();
    let dir = sandbox.file("demo");
    let ran = sandbox.puller(&["demo", "--json", "--dir", dir.to_str().unwrap()]).exits(0);
    let shown = ran.only_json();
    let (committed, in_copy) = (shown["committed"].as_i64().unwrap(), shown["in_copy"].as_i64().unwrap());
    assert!(committed >= 3000 && in_copy >= committed, "{ran}");
    assert!(shown["in_plain_cp"].as_i64().is_none_or(|found| found <= in_copy), "{ran}");
    assert_eq!(shown["pulls"][0]["transfer"], "full");
    assert_eq!(shown["pulls"][1]["transfer"], "delta");
    let copy = contents::open_read_only(Path::new(shown["path"].as_str().unwrap()));
    let rows: i64 = copy.query_row("SELECT count(*) FROM visit", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, in_copy, "the commits are those that are counted in the copy");
    let running = Command::new("ps").args(["-A", "-o", "args"]).output().expect("`ps` runs");
    let running = String::from_utf8_lossy(&running.stdout).into_owned();
    assert!(!running.contains(dir.to_str().unwrap()), "{running}");
}

#[test]
fn the_demo_works_only_in_an_empty_place() {
    let sandbox = Sandbox::new();
    let dir = sandbox.file("full");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("letter"), "dear").unwrap();
    sandbox.puller(&["demo", "--dir", dir.to_str().unwrap()]).exits(2);
}
