//! `pull --dry-run` and `info` say what a pull would move, and change nothing.

use pullback_tests::databases;
use pullback_tests::folder::Folder;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn what_was_planned_is_what_is_moved() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    for (day, name) in [source.to_str().unwrap().to_owned(), served.source("gym")].into_iter().enumerate() {
        let plan = || sandbox.puller(&["pull", "-n", "--json", &name]).exits(0).only_json();
        let first = plan();
        assert_eq!(
            (first["transfer"].as_str(), &first["changed_pages"]),
            (Some("full"), &first["page_count"]),
            "{first}"
        );
        sandbox.puller(&["list", &name]).exits(10);
        sandbox.pull(&[&name]).succeeds("stored");
        assert_eq!(plan()["transfer"], "none");
        let connection = Connection::open(&source).unwrap();
        connection.execute("UPDATE access_log SET at = ?1 WHERE id % 500 = 0", [day as i64]).unwrap();
        drop(connection);
        let (planned, again) = (plan(), plan());
        assert_eq!(planned["changed_pages"], again["changed_pages"], "asking changes nothing");
        let pulled = sandbox.pull(&[&name]).succeeds("stored");
        assert_eq!(planned["snapshot"], pulled.snapshot.as_str());
        assert_eq!(planned["transfer"], "delta");
        assert_eq!(planned["changed_pages"], pulled.json["changed_pages"], "{planned}\n{}", pulled.ran);
    }
}

/// What `info` says a pull would move: transfer, pages, bytes.
fn moves(info: &Value) -> (Option<&str>, Option<u64>, Option<u64>) {
    (info["transfer"].as_str(), info["changed_pages"].as_u64(), info["bytes_expected"].as_u64())
}

/// Checks a source through both doors: locally, and by an agent that serves it as `gym`.
fn through_both_doors(check: impl Fn(&Sandbox, &Path, &str)) {
    for door in ["local", "service"] {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        databases::gym(&source, 1_000_000, 4096);
        let served = Served::start_with(&sandbox, &[("gym", &source)], "lock_wait = \"500ms\"");
        match door {
            "local" => check(&sandbox, &source, source.to_str().expect("paths of tests are UTF-8")),
            _ => check(&sandbox, &source, &served.source("gym")),
        }
    }
}

#[test]
fn info_says_what_a_pull_would_move() {
    through_both_doors(|sandbox, source, name| {
        let info = || sandbox.puller(&["info", "--json", name]).exits(0).only_json();
        let said = |words: &str| {
            let ran = sandbox.puller(&["info", name]).exits(0);
            let row = ran.stdout.lines().find(|line| line.trim_start().starts_with("a pull would send"));
            assert!(row.is_some_and(|row| row.contains(words)), "`{words}` is not what it says: {ran}");
        };
        let first = info();
        let pages = first["page_count"].as_u64().expect("a number of pages");
        assert_eq!(moves(&first), (Some("full"), Some(pages), Some(pages * 4096)), "{first}");
        assert_eq!(first["full_because"], "there is no earlier copy to build upon");
        said(&format!("everything, there is no earlier copy to build upon: {pages} pages, at most "));
        let mirrors = Folder::of(&sandbox.state().join("mirrors"));
        assert!(mirrors.is_absent(), "an agent that was only looked at made a mirror");

        sandbox.pull(&[name]).succeeds("stored");
        let unchanged = info();
        assert_eq!(moves(&unchanged), (Some("none"), Some(0), Some(0)), "{unchanged}");
        assert!(unchanged["full_because"].is_null() && unchanged["error"].is_null(), "{unchanged}");
        said("nothing: unchanged since the newest copy");

        let connection = Connection::open(source).unwrap();
        connection.execute("UPDATE access_log SET at = 'x' WHERE id % 500 = 0", []).unwrap();
        let (looked, again) = (info(), info());
        let planned = sandbox.puller(&["pull", "-n", "--json", name]).exits(0).only_json();
        for field in ["transfer", "full_because", "changed_pages"] {
            assert_eq!(looked[field], planned[field], "`{field}` of `info` and of `pull --dry-run`");
            assert_eq!(looked[field], again[field], "asking changes nothing");
        }
        let bytes_max = looked["changed_pages"].as_u64().map(|pages| pages * 4096);
        assert!(moves(&looked).2 > Some(0) && moves(&looked).2 <= bytes_max, "{looked}");
        said(&format!("{} of {pages} pages, at most ", looked["changed_pages"]));
        let pulled = sandbox.pull(&[name]).succeeds("stored");
        assert_eq!(looked["changed_pages"], pulled.json["changed_pages"], "{looked}\n{}", pulled.ran);
        // Looking has not made it dearer. What goes around the frames is counted as received, too.
        let received = pulled.json["bytes_received"].as_u64().expect("a number of bytes");
        assert!(Some(received) < moves(&looked).2.map(|bytes| bytes + 8192), "{looked}\n{}", pulled.ran);

        connection.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM").unwrap();
        let rewritten = info();
        assert_eq!(moves(&rewritten).0, Some("full"), "{rewritten}");
        assert_eq!(rewritten["changed_pages"], rewritten["page_count"]);
        said("everything, the page size changed: ");
    });
}

#[test]
fn info_of_a_database_that_cannot_be_read_says_the_rest_and_why() {
    through_both_doors(|sandbox, source, name| {
        sandbox.pull(&[name]).succeeds("stored");
        let looks = |code: &str, why: &str| {
            let ran = sandbox.puller(&["info", "--json", name]).exits(7);
            let info = ran.only_json();
            assert_eq!(moves(&info), (None, None, None), "{ran}");
            assert_eq!(
                (info["error"]["code"].as_str(), &info["newest_copy"].is_string()),
                (Some(code), &true)
            );
            let ran = sandbox.puller(&["info", name]).exits(7);
            let row = ran.stdout.lines().find(|line| line.trim_start().starts_with("a pull would fail"));
            assert!(row.is_some_and(|row| row.contains(why)), "{ran}");
            assert!(ran.stdout.contains("newest good copy"), "{ran}");
            info
        };
        let connection = Connection::open(source).unwrap();
        connection.execute_batch("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE").unwrap();
        let busy = looks("busy", "locked");
        assert_eq!(busy["bytes"].as_u64(), Some(fs::metadata(source).unwrap().len()), "{busy}");
        drop(connection);
        fs::write(source, "dear gym, ".repeat(1_000)).unwrap();
        looks("not_a_database", "is not an SQLite database");
        fs::remove_file(source).unwrap();
        looks("missing", "there is no such file");
    });
}

/// The agent answers what it is asked of the database; what is wrong lies in the store.
#[test]
fn info_says_the_rest_where_what_a_pull_builds_upon_cannot_be_read() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    let pulled = sandbox.pull(&[&source]).succeeds("stored");
    let pages = pulled.path.with_extension("pages");
    fs::remove_file(&pages).unwrap();
    fs::create_dir(&pages).unwrap();
    let ran = sandbox.puller(&["info", "--json", "./gym.db"]).exits(4);
    let info = ran.only_json();
    assert_eq!((moves(&info), info["error"]["code"].as_str()), ((None, None, None), Some("rotten")), "{ran}");
    assert_eq!(info["page_count"], pulled.json["page_count"], "{ran}");
}

#[test]
fn info_of_an_empty_database_is_a_pull_of_no_pages() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    fs::write(&source, "").unwrap();
    let info = sandbox.puller(&["info", "--json", "./gym.db"]).exits(0).only_json();
    assert_eq!(moves(&info), (Some("full"), Some(0), Some(0)), "{info}");
    sandbox.pull(&[&source]).succeeds("stored");
    let info = sandbox.puller(&["info", "--json", "./gym.db"]).exits(0).only_json();
    assert_eq!(moves(&info), (Some("none"), Some(0), Some(0)), "{info}");
}
