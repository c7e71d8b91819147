//! A source that is no database to back up: refused within five seconds through every door, with a sentence, the
//! documented exit code, and no trace of it in the source's folder or in the store.

use pullback_tests::folder::Folder;
use pullback_tests::privilege::{self, NOBODY};
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::stuck::Stuck;
use pullback_tests::{contents, databases, dice::Dice};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No refusal may take longer, whatever it is that lies there.
const LIMIT: Duration = Duration::from_secs(5);

/// What a refusal must tell: `error.code`, the exit code, the code to search for, and some words of its sentence.
type Refusal = (&'static str, i32, &'static str, &'static str);

fn sandbox() -> Sandbox {
    Sandbox::new().with_limit(LIMIT)
}

/// Tries every way to read `source`, all at once, and looks whether anything came of it.
#[track_caller]
fn check(sandbox: &Sandbox, source: &Path, refusal: Refusal) {
    let folder = sandbox.db("");
    let before = Folder::of(&folder);
    let file = sandbox.file("backup.db");
    let served = Served::start(sandbox, &[("gym", source)]);
    let backup = [Path::new("--json"), Path::new("backup"), source, &file];
    let refused = std::thread::scope(|scope| {
        let local = scope.spawn(|| sandbox.pull(&[source]).ran);
        let service = scope.spawn(|| sandbox.pull(&[served.source("gym")]).ran);
        let backup = scope.spawn(|| sandbox.agent(&backup));
        [local, service, backup].map(|thread| thread.join().expect("each ends within the limit"))
    });
    refused.iter().for_each(|ran| tells(ran, refusal));
    before.assert_unchanged(&Folder::of(&folder), "the source's folder");
    assert!(Folder::of(&sandbox.store()).is_absent(), "a store was made for nothing");
    assert!(!file.exists(), "a file was made for nothing");
}

/// The JSON and the sentence say the same.
#[track_caller]
fn tells(ran: &Ran, (code, exit, number, says): Refusal) {
    let error = &ran.only_json()["error"];
    let found = (error["code"].as_str(), error["exit"].as_i64(), ran.code());
    assert_eq!(found, (Some(code), Some(exit.into()), exit), "the error of {ran}");
    let said = format!("{} {}", error["message"], error["hint"]);
    assert!(said.contains(says), "`{says}` in the object of {ran}");
    for part in [says, &format!("[{number}]"), "hint: "] {
        assert!(ran.stderr.contains(part), "`{part}` on stderr of {ran}");
    }
    assert_eq!(ran.stderr.matches("error: ").count(), 1, "a fault is said once, by {ran}");
}

#[test]
fn a_look_at_what_is_no_database_is_one_object_with_its_error() {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    fs::write(&source, "dear").unwrap();
    let served = Served::start(&sandbox, &[("gym", &source)]);
    for name in ["./gym.db", &served.source("gym")] {
        tells(&sandbox.puller(&["info", "--json", name]), NOT_A_DATABASE);
    }
}

#[test]
fn a_file_that_is_not_there_is_missing() {
    let sandbox = sandbox();
    check(&sandbox, &sandbox.db("gym.db"), ("missing", 7, "P07", "there is no such file"));
}

#[test]
fn a_file_below_a_file_is_not_usable() {
    let sandbox = sandbox();
    fs::write(sandbox.db("letter"), "dear").unwrap();
    check(&sandbox, &sandbox.db("letter/gym.db"), ("unusable", 7, "P11", "Not a directory"));
}

#[test]
fn a_directory_is_not_usable() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.db("gym.db")).unwrap();
    check(&sandbox, &sandbox.db("gym.db"), ("unusable", 7, "P11", "is a directory"));
}

#[test]
fn a_fifo_is_not_usable_and_not_waited_for() {
    let sandbox = sandbox();
    let fifo = sandbox.db("gym.db");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).expect("a FIFO can be made");
    check(&sandbox, &fifo, ("unusable", 7, "P11", "is a FIFO"));
}

#[test]
fn a_device_is_not_usable() {
    for device in ["/dev/null", "/dev/zero", "/dev/tty"] {
        check(&sandbox(), Path::new(device), ("unusable", 7, "P11", "is a device"));
    }
}

#[test]
fn a_socket_is_not_usable() {
    let sandbox = sandbox();
    let _listener = UnixListener::bind(sandbox.db("gym.db")).unwrap();
    check(&sandbox, &sandbox.db("gym.db"), ("unusable", 7, "P11", "is a socket"));
}

#[test]
fn a_dangling_link_is_missing_and_said_to_be_a_link() {
    let sandbox = sandbox();
    symlink("nowhere.db", sandbox.db("gym.db")).unwrap();
    check(&sandbox, &sandbox.db("gym.db"), ("missing", 7, "P07", "is a link to a file that is not there"));
}

#[test]
fn a_link_to_itself_is_not_usable() {
    let sandbox = sandbox();
    symlink("gym.db", sandbox.db("gym.db")).unwrap();
    check(&sandbox, &sandbox.db("gym.db"), ("unusable", 7, "P11", "symbolic link"));
}

#[test]
fn a_text_file_is_not_a_database_however_short() {
    for text in ["dear", &"All work and no play.\n".repeat(1_000)] {
        let sandbox = sandbox();
        fs::write(sandbox.db("gym.db"), text).unwrap();
        check(&sandbox, &sandbox.db("gym.db"), NOT_A_DATABASE);
    }
}

const NOT_A_DATABASE: Refusal = ("not_a_database", 7, "P08", "is not an SQLite database, or it is encrypted");

/// Encrypted from its first byte, as SQLCipher leaves it.
#[test]
fn an_encrypted_file_is_not_a_database() {
    let sandbox = sandbox();
    fs::write(sandbox.db("gym.db"), Dice::new(1).bytes(64 * 1024)).unwrap();
    check(&sandbox, &sandbox.db("gym.db"), NOT_A_DATABASE);
}

#[test]
fn a_header_of_zeros_is_not_a_database() {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let mut bytes = fs::read(&source).unwrap();
    bytes[..100].fill(0);
    fs::write(&source, bytes).unwrap();
    check(&sandbox, &source, NOT_A_DATABASE);
    fs::write(&source, vec![0; 8192]).unwrap();
    check(&sandbox, &source, NOT_A_DATABASE);
}

#[test]
fn a_hot_rollback_journal_is_left_to_its_writer() {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    let good = fs::read(&source).unwrap();
    Stuck::start(&source, "delete", "transaction").kill9();
    assert!(fs::read(&source).unwrap() != good, "the transaction is to be half in the file");
    check(&sandbox, &source, ("hot_journal", 7, "P09", "has a hot rollback journal"));
    // A writer takes it back, and what is there then can be pulled.
    databases::visits_in_the_wal(&source, 1);
    let pulled = sandbox.pull(&[&source]).succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
}

/// SQLite takes a journal for hot whose writer takes its lock just then. What is hot for a moment is no news.
#[test]
fn a_journal_that_is_hot_for_a_moment_is_waited_for() {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    Stuck::start(&source, "delete", "transaction").kill9();
    let pulled = std::thread::scope(|scope| {
        let pull = scope.spawn(|| sandbox.pull(&[&source]));
        std::thread::sleep(Duration::from_millis(300));
        databases::visits_in_the_wal(&source, 1);
        pull.join().expect("a pull ends")
    });
    contents::assert_equal(&source, &pulled.succeeds("stored").path);
}

/// One that is still writing holds a lock; its journal is not hot.
#[test]
fn a_transaction_that_is_left_open_is_busy() {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    let _application = Stuck::start(&source, "delete", "transaction");
    check(&sandbox, &source, ("busy", 7, "P06", "is locked"));
}

#[track_caller]
fn check_exclusive(journal: &str) {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let _application = Stuck::start(&source, journal, "exclusive");
    check(&sandbox, &source, ("busy", 7, "P06", "`PRAGMA locking_mode=EXCLUSIVE`"));
}

#[test]
fn an_exclusive_lock_in_delete_mode_is_busy_and_the_pragma_is_named() {
    check_exclusive("delete");
}

#[test]
fn an_exclusive_lock_in_wal_mode_is_busy_and_the_pragma_is_named() {
    check_exclusive("wal");
}

/// Pulls and backs up as a user that is not the owner of everything.
#[track_caller]
fn check_as_nobody(sandbox: &Sandbox, source: &Path, refusal: Refusal, hint: &str) {
    let before = Folder::of(&sandbox.db(""));
    let (store, file) = (sandbox.file("home/store"), sandbox.file("home/backup.db"));
    let mut pull = privilege::as_nobody(sandbox, programs::puller());
    pull.args(["pull", "--json", "--store"]).args([&store, source]);
    let mut backup = privilege::as_nobody(sandbox, programs::agent());
    backup.args(["--json", "backup"]).args([source, &file]);
    for command in [&mut pull, &mut backup] {
        let ran = sandbox.run(command);
        tells(&ran, refusal);
        assert!(ran.stderr.contains(hint), "`{hint}` on stderr of {ran}");
        before.assert_unchanged(&Folder::of(&sandbox.db("")), &format!("the source's folder, by {ran}"));
        assert!(!store.exists() && !file.exists(), "something was made by {ran}");
    }
}

/// A gym whose owner is `owner`, in a folder of the same.
fn gym_of_nobody(sandbox: &Sandbox) -> PathBuf {
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    for path in [&source, &sandbox.db("")] {
        privilege::give_to_nobody(path);
    }
    source
}

#[test]
fn a_file_its_owner_cannot_read_is_refused() {
    if !privilege::is_root() {
        return privilege::skip("a file its owner cannot read", "only root can run as another user");
    }
    let sandbox = sandbox();
    let source = gym_of_nobody(&sandbox);
    privilege::set_mode(&source, 0o000);
    check_as_nobody(&sandbox, &source, ("refused", 6, "P05", "permission denied"), "needs to read the file");
}

#[test]
fn a_file_in_a_folder_that_is_closed_is_refused() {
    if !privilege::is_root() {
        return privilege::skip("a file in a closed folder", "only root can run as another user");
    }
    let sandbox = sandbox();
    let source = gym_of_nobody(&sandbox);
    privilege::set_mode(&sandbox.db(""), 0o000);
    let refusal = ("refused", 6, "P05", "permission denied");
    check_as_nobody(&sandbox, &source, refusal, "run as the user that owns the database");
}

#[test]
fn a_file_of_another_owner_is_refused_with_the_user_to_run_as() {
    if !privilege::is_root() {
        return privilege::skip("a file of another owner", "only root can run as another user");
    }
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    // Whatever its modes allow: what would be made beside it is what does the harm.
    privilege::set_mode(&source, 0o666);
    privilege::set_mode(&sandbox.db(""), 0o777);
    let refusal = ("refused", 6, "P05", "belongs to user 0, and this runs as user 65534");
    assert_eq!(NOBODY, 65_534);
    check_as_nobody(&sandbox, &source, refusal, "sudo -u '#0'");
}

#[test]
fn a_source_that_went_away_keeps_its_copies_and_names_the_newest() {
    let sandbox = sandbox();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    let copies = stored.path.parent().unwrap();
    let before = Folder::of(copies);
    fs::remove_file(&source).unwrap();
    let failed = sandbox.pull(&[&source]).fails("missing", 7);
    assert!(failed.ran.stderr.contains(&stored.copy), "the newest good copy is named by {}", failed.ran);
    before.assert_unchanged(&Folder::of(copies), "the copies");
    let failures = sandbox.puller(&["history", "--failed", "--json", "local/gym"]).exits(0).json();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0]["error"]["code"], "missing", "{failures:?}");
}
