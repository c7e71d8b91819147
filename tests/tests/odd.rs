//! Odd but valid databases and file names, through both doors: the copy has the source's content, the verdict is right.

use pullback_tests::catalogue::{self, Odd};
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// Pulls each database through both doors and holds what comes against the source.
fn check(sandbox: &Sandbox, entries: &[Odd]) {
    for odd in entries {
        (odd.make)(&sandbox.db(odd.name));
    }
    let paths: Vec<_> = entries.iter().map(|odd| (odd.name, sandbox.db(odd.name))).collect();
    let databases: Vec<_> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let served = Served::start(sandbox, &databases);
    for odd in entries {
        let source = sandbox.db(odd.name);
        let before = fingerprint(&source);
        let local = sandbox.pull(&[&source]);
        let service = sandbox.pull(&[served.source(odd.name)]);
        for pulled in [&local, &service] {
            is_as_expected(odd, pulled);
            contents::assert_equal(&source, &pulled.path);
        }
        assert_eq!(local.snapshot, service.snapshot, "the snapshots of {} and {}", local.ran, service.ran);
        assert_eq!(fingerprint(&local.path), fingerprint(&service.path), "the copies of {}", odd.name);
        assert_eq!(fingerprint(&source), before, "the source {}", odd.name);
    }
}

/// Every verdict of the catalogue is a good one: exit 0, and only violations are worth a line.
#[track_caller]
fn is_as_expected(odd: &Odd, pulled: &Pulled) {
    let Odd { name, verdict, .. } = odd;
    let found = (pulled.outcome.as_str(), pulled.verdict.as_str(), pulled.ran.code());
    assert_eq!(found, ("stored", *verdict, 0), "{name}: {}", pulled.ran);
    assert!(pulled.path.is_file(), "{name}: there is no copy, of {}", pulled.ran);
    if *verdict == "violations" {
        assert!(!pulled.ran.stderr.trim().is_empty(), "{name}: violations need a line, of {}", pulled.ran);
    }
}

/// No process here has the file open through SQLite, so reading it plainly drops nobody's locks.
fn fingerprint(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).expect("a file can be opened")).expect("a file can be read");
    hasher.finalize().to_string()
}

#[test]
fn every_odd_database_of_the_catalogue_comes_through_both_doors() {
    check(&Sandbox::new(), &catalogue::ALL);
}

#[test]
fn a_blob_of_64_mib_comes_through_both_doors() {
    check(&Sandbox::new(), &[catalogue::BLOB_64_MIB]);
}

#[test]
fn a_database_above_one_gib_comes_without_its_lock_byte_page() {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(300));
    let source = sandbox.db("huge.db");
    databases::above_one_gib(&source);
    let served = Served::start(&sandbox, &[("huge", &source)]);
    let local = sandbox.pull(&[&source]).succeeds("stored");
    contents::assert_equal(&source, &local.path);
    assert_eq!(local.verdict, "ok", "{}", local.ran);
    // Two gigabytes at a time are enough.
    fs::remove_dir_all(sandbox.store().join("local")).expect("a folder can be removed");
    let service = sandbox.pull(&[served.source("huge")]).succeeds("stored");
    contents::assert_equal(&source, &service.path);
    assert_eq!((&service.verdict, &service.snapshot), (&local.verdict, &local.snapshot), "{}", service.ran);
}

/// Pulls the database called `name`, with rows that are in its `-wal` only, so that opening another file, or the right
/// one without its `-wal`, cannot pass.
fn check_name(name: &str) {
    let sandbox = Sandbox::new();
    let source = sandbox.db(name);
    databases::gym(&source, 100_000, 4096);
    let _application = databases::visits_in_the_wal(&source, 50);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let relative = format!("./{name}");
    let pulls = [sandbox.pull(&[&relative]), sandbox.pull(&[served.source("gym")])]
        .map(|pulled| pulled.succeeds("stored"));
    for pulled in &pulls {
        contents::assert_equal(&source, &pulled.path);
    }
    assert_eq!(pulls[0].snapshot, pulls[1].snapshot);
    // The file as it was typed and its whole path are one source.
    sandbox.pull(&[&source]).succeeds("unchanged");
    let files =
        fs::read_dir(source.parent().expect("a file lies in a folder")).expect("a folder can be read");
    for file in files {
        let file = file.expect("a folder can be read").file_name();
        let is_its_own = ["", "-wal", "-shm"].iter().any(|end| file == OsStr::new(&format!("{name}{end}")));
        assert!(is_its_own, "`{}` appeared beside `{name}`", file.display());
    }
}

#[test]
fn a_name_with_spaces_opens_that_file() {
    check_name(" two  spaces and one at the end ");
}

#[test]
fn a_name_that_looks_like_a_uri_opens_that_file() {
    check_name("gym.db?mode=memory&x=%2e#frag");
}

#[test]
fn a_name_that_begins_with_file_and_a_colon_opens_that_file() {
    check_name("file:gym.db?immutable=1");
}

#[test]
fn a_name_that_begins_with_a_dash_opens_that_file() {
    check_name("-x.db");
}

#[test]
fn a_name_with_quotes_and_backslashes_opens_that_file() {
    check_name("a\"b'c\\d;$(e)`f`*.db");
}

#[test]
fn a_name_of_240_bytes_of_unicode_opens_that_file() {
    let name = "회원명부체".repeat(16);
    assert_eq!(name.len(), 240);
    check_name(&name);
}

#[test]
fn a_symbolic_link_opens_the_file_it_leads_to() {
    let sandbox = Sandbox::new();
    let (source, link) = (sandbox.db("gym.db"), sandbox.file("link.db"));
    databases::gym(&source, 100_000, 4096);
    let _application = databases::visits_in_the_wal(&source, 50);
    std::os::unix::fs::symlink(&source, &link).expect("a link can be made");
    let served = Served::start(&sandbox, &[("gym", &link)]);
    let local = sandbox.pull(&[&link]).succeeds("stored");
    contents::assert_equal(&source, &local.path);
    let service = sandbox.pull(&[served.source("gym")]).succeeds("stored");
    assert_eq!(service.snapshot, local.snapshot, "{}", service.ran);
    // A source is the file, not the name that led to it.
    let again = sandbox.pull(&[&source]).succeeds("unchanged");
    assert_eq!(again.copy, local.copy, "{}", again.ran);
}
