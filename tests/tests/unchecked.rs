//! `--verify hash`: a copy that is exact and was not judged moves no `latest` and evicts nothing, until `verify` passed it.

use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases, wounds};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

fn link(pulled: &Pulled) -> PathBuf {
    let folder = pulled.path.parent().and_then(Path::parent).expect("a copy lies in its source's folder");
    folder.join("latest.db")
}

/// The newest good copy.
#[track_caller]
fn latest(pulled: &Pulled) -> PathBuf {
    link(pulled).canonicalize().expect("there is a good copy")
}

#[track_caller]
fn is_unchecked(pulled: Pulled, outcome: &str) -> Pulled {
    let pulled = pulled.succeeds(outcome);
    assert_eq!((pulled.verdict.as_str(), pulled.checked.as_str()), ("unchecked", "hash"), "{}", pulled.ran);
    pulled
}

#[track_caller]
fn check(sandbox: &Sandbox, source: &Path, door: &OsStr, name: &str) {
    let pull = |words: &[&str]| {
        let words = words.iter().map(OsStr::new).chain([OsStr::new("--keep-last"), OsStr::new("1"), door]);
        sandbox.pull(&words.collect::<Vec<_>>())
    };
    let good = pull(&[]).succeeds("stored");
    for visits in [10, 20] {
        databases::visits_in_the_wal(source, visits);
        let unchecked = is_unchecked(pull(&["--verify", "hash"]), "stored");
        contents::assert_equal(source, &unchecked.path);
        assert_eq!(unchecked.transfer, "delta", "an unchecked copy is a base: {}", unchecked.ran);
        is_unchecked(pull(&["--verify", "hash"]), "unchanged");
        assert_eq!(latest(&good), good.path, "the latest, after {}", unchecked.ran);
    }
    assert!(good.path.is_file(), "nothing that was not judged evicts a good copy");
    sandbox.puller(&["rotate", name, "--keep-last", "1"]).exits(0);
    assert!(good.path.is_file(), "nor when a policy is asked for by name");
    let verified = sandbox.puller(&["verify", "--json", name]).exits(0).json();
    assert_eq!(verified.len(), 3);
    assert!(verified.iter().all(|line| line["result"] == "ok"), "{verified:?}");
    let newest = pull(&["--verify", "hash"]).succeeds("unchanged");
    assert_eq!(newest.verdict, "ok", "what was passed stays passed: {}", newest.ran);
    assert_eq!(latest(&good), newest.path, "the latest, once `verify` passed it");
    assert!(!good.path.exists(), "now the policy works: {}", newest.ran);
}

#[test]
fn a_copy_that_was_not_judged_waits_for_verify_through_both_doors() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    check(&sandbox, &source, source.as_os_str(), "local/gym");
    let served = Served::start(&sandbox, &[("gym", &source)]);
    check(&sandbox, &source, &OsString::from(served.source("gym")), "127.0.0.1/gym");
}

#[test]
fn a_pull_that_judges_is_as_good_as_verify() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let first = is_unchecked(sandbox.pull(&["--verify", "hash", source.to_str().unwrap()]), "stored");
    assert!(!link(&first).exists(), "there is no latest before anything was judged");
    let judged = sandbox.pull(&[&source]).succeeds("unchanged");
    assert_eq!((judged.verdict.as_str(), judged.checked.as_str()), ("ok", "full"), "{}", judged.ran);
    assert_eq!(latest(&first), first.path);
}

#[test]
fn damage_in_a_copy_that_was_not_judged_is_found_by_verify() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let good = sandbox.pull(&[&source]).succeeds("stored");
    wounds::index(&source);
    let unchecked = is_unchecked(sandbox.pull(&["--verify", "hash", source.to_str().unwrap()]), "stored");
    let found = sandbox.puller(&["verify", "--json", "local/gym", &unchecked.copy]).exits(4).only_json();
    assert_eq!(found["result"], "damaged");
    assert_eq!(latest(&good), good.path);
    // From then on it sticks, whatever is asked for.
    let next = sandbox.pull(&["--verify", "hash", source.to_str().unwrap()]);
    assert_eq!((next.verdict.as_str(), next.ran.code()), ("damaged", 4), "{}", next.ran);
}
