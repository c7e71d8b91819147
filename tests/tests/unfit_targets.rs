//! Whatever a restore is pointed at: it comes to its result, or ends with a sentence and its exit code, and then nothing changed,
//! neither where the target lies nor in the store.

use pullback_tests::folder::Folder;
use pullback_tests::privilege;
use pullback_tests::programs;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::sshd::Sshd;
use pullback_tests::{contents, databases, wounds};
use rusqlite::Connection;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A store with one copy of a gym in WAL mode, and the gym, which has changed since.
struct Trial {
    sandbox: Sandbox,
    source: PathBuf,
    copy: Pulled,
}

impl Trial {
    fn new() -> Self {
        Self::in_mode("wal")
    }

    fn in_mode(mode: &str) -> Self {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        databases::gym(&source, 100_000, 4096);
        execute(&source, &format!("PRAGMA journal_mode = {mode}"));
        let copy = sandbox.pull(&[&source]).succeeds("stored");
        execute(&source, "DELETE FROM lockers");
        Self { sandbox, source, copy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.db(name)
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.sandbox.puller(&[&["restore", "--json", "--yes"], words].concat())
    }

    /// What is there: at the target, and in the store.
    fn all(&self) -> [Folder; 2] {
        [Folder::of(&self.sandbox.file("db")), Folder::of(&self.sandbox.store())]
    }

    /// Runs `restore WORDS`, which is refused as `code` with exit code `exit` and words with `said` in them.
    #[track_caller]
    fn refused(&self, words: &[&str], code: &str, exit: i32, said: &str) -> Ran {
        let [there, store] = self.all();
        let ran = self.run(words);
        is_refusal(&ran, code, exit, said);
        let [there_now, store_now] = self.all();
        there.assert_unchanged(&there_now, &format!("the folder of the target, by {ran}"));
        store.assert_unchanged(&store_now, &format!("the store, by {ran}"));
        ran
    }

    /// The same `--to TARGET`, with and without `--dry-run`.
    #[track_caller]
    fn unfit(&self, target: &str, code: &str, exit: i32, said: &str) {
        self.refused(&["gym", "--to", target], code, exit, said);
        self.refused(&["gym", "--to", target, "--dry-run"], code, exit, "");
    }

    /// Runs `restore WORDS`, after which the copy's content is at `target`.
    #[track_caller]
    fn restored(&self, words: &[&str], target: &Path) -> Value {
        let ran = self.run(words).exits(0);
        assert_eq!(ran.only_json()["outcome"], "restored", "{ran}");
        contents::assert_equal(&self.copy.path, target);
        ran.only_json()
    }
}

#[track_caller]
fn is_refusal(ran: &Ran, code: &str, exit: i32, said: &str) {
    let line = ran.only_json();
    let error = &line["error"];
    assert_eq!((&error["code"], ran.code()), (&code.into(), exit), "{ran}");
    assert_eq!((&line["v"], &error["exit"]), (&1.into(), &exit.into()), "{ran}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(said), "`{said}` is not in the message of {ran}");
    assert!(!error["hint"].as_str().expect("a hint").is_empty(), "nothing says what to do: {ran}");
    let first = ran.stderr.lines().find(|line| line.starts_with("error: ")).expect("an error on stderr");
    assert!(first.contains("[P") && ran.stderr.contains("\nhint: "), "{ran}");
}

fn execute(path: &Path, sql: &str) {
    Connection::open(path)
        .expect("a database can be opened")
        .execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}"))
        .expect("the SQL is correct");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the sandbox is text")
}

fn journal(path: &Path) -> String {
    Connection::open(path)
        .expect("a database can be opened")
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .expect("the SQL is correct")
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success()));
}

#[test]
fn what_is_no_database_is_left_as_it_is() {
    let trial = Trial::new();
    fs::write(trial.path("notes.txt"), "no database\n".repeat(1000)).unwrap();
    // As an encrypted database looks: whole pages, and no word of it to be read.
    let noise: Vec<u8> = (0..20 * 4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(trial.path("noise"), &noise).unwrap();
    let whole = fs::read(&trial.copy.path).unwrap();
    fs::write(trial.path("half"), &whole[..whole.len() / 8192 * 4096]).unwrap();
    fs::write(trial.path("torn"), &whole[..whole.len() - 100]).unwrap();
    fs::write(trial.path("header"), &whole[..100]).unwrap();
    for (name, code) in [
        ("notes.txt", "not_a_database"),
        ("noise", "not_a_database"),
        ("half", "unreadable"),
        ("torn", "unreadable"),
        ("header", "unreadable"),
    ] {
        trial.unfit(&format!("./{name}"), code, 7, "cannot be saved first");
    }
    // In place, where the source itself is such a thing.
    fs::write(&trial.source, &noise).unwrap();
    trial.refused(&["gym", "--in-place"], "not_a_database", 7, "cannot be saved first");
    let line = trial.restored(&["gym", "--in-place", "--force"], &trial.source);
    assert!(line["quarantine"].is_string() && line["safety"].is_null(), "{line}");
}

#[test]
fn what_is_no_file_is_left_as_it_is() {
    let trial = Trial::new();
    fs::create_dir(trial.path("folder")).unwrap();
    mkfifo(&trial.path("fifo"));
    symlink("nowhere.db", trial.path("dangling")).unwrap();
    symlink("circle", trial.path("circle")).unwrap();
    for force in [&[][..], &["--force"]] {
        for (target, code, exit, said) in [
            ("./folder", "unusable", 7, "is a directory"),
            ("./fifo", "unusable", 7, "is a FIFO"),
            ("/dev/null", "unusable", 7, "is a device"),
            ("./dangling", "missing", 7, "is a link to a file that is not there"),
            ("./circle", "unusable", 7, ""),
            ("./nowhere/new.db", "target", 1, "there is no folder `"),
            ("./notes.txt/new.db", "target", 1, "there is no folder `"),
        ] {
            fs::write(trial.path("notes.txt"), "no folder").unwrap();
            trial.refused(&[&["gym", "--to", target], force].concat(), code, exit, said);
        }
    }
}

#[test]
fn a_link_is_the_database_it_leads_to() {
    let trial = Trial::new();
    let (real, link) = (trial.path("real.db"), trial.path("link.db"));
    databases::gym_with_seed(&real, 50_000, 4096, 4);
    symlink(&real, &link).unwrap();
    let line = trial.restored(&["gym", "--to", text(&link)], &real);
    assert_eq!(line["target"], text(&real), "{line}");
    assert!(link.symlink_metadata().unwrap().is_symlink());
}

#[test]
fn nothing_is_written_into_a_store() {
    let trial = Trial::new();
    let second = trial.sandbox.pull(&[&trial.source]).succeeds("stored");
    let store = trial.sandbox.store();
    let copies = trial.copy.path.parent().unwrap();
    symlink(&second.path, trial.path("link.db")).unwrap();
    symlink(&store, trial.path("linked")).unwrap();
    let targets = [
        second.path.clone(),
        trial.copy.path.clone(),
        copies.with_file_name("latest.db"),
        copies.join("gym-000009-20261121T000000Z.db"),
        second.path.with_extension("pages"),
        store.join("pullback-store.json"),
        store.join("new.db"),
        trial.path("link.db"),
        trial.path("linked/local/gym/new.db"),
    ];
    for target in &targets {
        for force in [&[][..], &["--force"], &["--dry-run"]] {
            let words = [&["gym", &trial.copy.copy, "--to", text(target)], force].concat();
            trial.refused(&words, "target", 1, "lies in the store");
        }
    }
    // A copy that was taken for a source, and a store that another one is told of.
    let other = trial.sandbox.file("other");
    trial.sandbox.puller_in(&other, &["pull", text(&second.path), "--name", "copy"]).exits(0);
    let before = Folder::of(&store);
    let words = ["restore", "copy", "--in-place", "--yes", "--json"];
    is_refusal(&trial.sandbox.puller_in(&other, &words), "target", 1, "lies in the store");
    before.assert_unchanged(&Folder::of(&store), "the store");
}

#[test]
fn nothing_is_written_into_a_store_at_the_edge() {
    let trial = Trial::new();
    let Some(sshd) = Sshd::start(&trial.sandbox) else { return };
    allow_restore(&trial.sandbox, true);
    let [there, store] = trial.all();
    for name in [&trial.copy.path, &trial.copy.path.with_file_name("new.db")] {
        let far = format!("ssh://pi{}", name.display());
        let ran = sshd.puller(&["restore", "gym", "--to", &far, "--yes", "--json", "--force"]);
        is_refusal(&ran, "target", 1, "lies in the store");
    }
    let [there_now, store_now] = trial.all();
    there.assert_unchanged(&there_now, "the folder of the source");
    store.assert_unchanged(&store_now, "the store");
}

fn allow_restore(sandbox: &Sandbox, allowed: bool) {
    let file = sandbox.file("home/.config/pullback/agent.toml");
    fs::write(file, format!("reserve = '0'\nallow_restore = {allowed}\n")).expect("a file can be written");
}

#[test]
fn agents_that_were_not_told_to_let_restores_in_do_not() {
    let trial = Trial::new();
    let served = Served::start(&trial.sandbox, &[("gym", &trial.source)]);
    trial.sandbox.puller(&["pull", &served.source("gym"), "--name", "served"]).exits(0);
    execute(&trial.source, "DELETE FROM members");
    trial.refused(&["served", "--in-place"], "refused", 6, "");
    trial.refused(&["gym", "--to", &served.source("gym"), "--force"], "refused", 6, "");
    let Some(sshd) = Sshd::start(&trial.sandbox) else { return };
    let far = format!("ssh://pi{}", trial.source.display());
    let [there, store] = trial.all();
    for _ in 0..2 {
        let words = ["restore", "gym", "--to", &far, "--force", "--yes", "--json"];
        is_refusal(&sshd.puller(&words), "refused", 6, "");
        allow_restore(&trial.sandbox, false);
    }
    let [there_now, store_now] = trial.all();
    there.assert_unchanged(&there_now, "the folder of the source");
    store.assert_unchanged(&store_now, "the store");
    allow_restore(&trial.sandbox, true);
    let words = ["restore", "gym", &trial.copy.copy, "--to", &far, "--force", "--yes", "--json"];
    assert_eq!(sshd.puller(&words).exits(0).only_json()["outcome"], "restored");
    contents::assert_equal(&trial.copy.path, &trial.source);
}

#[test]
fn another_page_size_or_encoding_needs_the_application_stopped() {
    for (name, make, is_due) in [
        ("wal-1024", (|path| databases::gym_with_seed(path, 60_000, 1024, 2)) as fn(&Path), true),
        ("wal-65536", |path| databases::gym_with_seed(path, 60_000, 65536, 2), true),
        (
            "delete-1024",
            |path| {
                databases::gym_with_seed(path, 60_000, 1024, 2);
                execute(path, "PRAGMA journal_mode = DELETE");
            },
            false,
        ),
        ("wal-utf16", |path| utf16(path, "WAL"), true),
        ("delete-utf16", |path| utf16(path, "DELETE"), true),
    ] {
        let trial = Trial::new();
        let target = trial.path("other.db");
        make(&target);
        let mode = journal(&target);
        let words = ["gym", "--to", text(&target)];
        if is_due {
            trial.refused(&words, "target", 1, "no application may have it open while that changes");
            trial.restored(&[&words[..], &["--stop-cmd", "true", "--start-cmd", "true"]].concat(), &target);
        } else {
            trial.restored(&words, &target);
        }
        assert_eq!(journal(&target), mode, "{name}");
        // The application goes on.
        execute(&target, "DELETE FROM access_log; CREATE TABLE more(a)");
    }
}

fn utf16(path: &Path, mode: &str) {
    let sql = "PRAGMA encoding = 'UTF-16le'; CREATE TABLE members(a TEXT); INSERT INTO members VALUES ('b')";
    databases::create(path, &format!("{sql}; PRAGMA journal_mode = {mode}"));
}

#[test]
fn a_rotten_copy_replaces_nothing() {
    let trial = Trial::new();
    let other = trial.path("other.db");
    databases::gym_with_seed(&other, 50_000, 4096, 6);
    let mut bytes = fs::read(&trial.copy.path).unwrap();
    bytes[70_000] ^= 1;
    if privilege::is_root() {
        fs::write(&trial.copy.path, bytes).unwrap();
    } else {
        fs::remove_file(&trial.copy.path).unwrap();
        fs::write(&trial.copy.path, bytes).unwrap();
    }
    let there = Folder::of(&trial.sandbox.file("db"));
    for words in [
        &["gym", &trial.copy.copy, "--to", text(&other)][..],
        &["gym", &trial.copy.copy, "--to", text(&other), "--dry-run"],
        &["gym", &trial.copy.copy, "--in-place", "--dry-run"],
        &["gym", &trial.copy.copy, "--in-place"],
        &["gym", &trial.copy.copy, "--in-place", "--force"],
    ] {
        is_refusal(&trial.run(words), "rotten", 4, "");
        there.assert_unchanged(&Folder::of(&trial.sandbox.file("db")), "the folder of the target");
    }
    let copies = trial.sandbox.puller(&["list", "gym", "--json"]).exits(0).json();
    assert_eq!(copies.len(), 1, "the store gained a copy: {copies:?}");
}

#[test]
fn another_source_is_replaced_only_by_force() {
    let trial = Trial::new();
    let other = trial.path("other.db");
    databases::gym_with_seed(&other, 50_000, 4096, 7);
    // A reader of a database in WAL mode may leave files beside it.
    execute(&other, "PRAGMA journal_mode = DELETE");
    trial.sandbox.pull(&[&other]).succeeds("stored");
    let words = ["gym", "--to", text(&other)];
    trial.refused(&words, "target", 1, "is the source `local/other`");
    trial.refused(&[&words[..], &["--dry-run"]].concat(), "target", 1, "is the source `local/other`");
    let line = trial.restored(&[&words[..], &["--force"]].concat(), &other);
    assert_eq!((&line["source"], &line["from"]), (&"local/other".into(), &"local/gym".into()));
    // Where this source was restored to the last time it may be so again, and where nothing was ever pulled.
    execute(&other, "DELETE FROM members");
    trial.restored(&words, &other);
    let staging = trial.path("staging.db");
    for seed in 1..=2 {
        if staging.exists() {
            fs::remove_file(&staging).unwrap()
        }
        databases::gym_with_seed(&staging, 50_000, 4096, seed);
        trial.restored(&["gym", "--to", text(&staging)], &staging);
    }
    let undone = trial.run(&["local/other", "--undo"]).exits(0).only_json();
    let again = trial.run(&["local/other", "--undo"]).exits(0).only_json();
    assert_eq!(again["copy"], undone["safety"]);
    contents::assert_equal(&trial.copy.path, &other);
    // It was undone from its own copies, so it is a source of its own again.
    trial.refused(&words, "target", 1, "is the source `local/other`");
}

#[test]
fn a_newer_schema_is_shown_and_replaced() {
    let trial = Trial::new();
    execute(
        &trial.source,
        "PRAGMA user_version = 12; ALTER TABLE members ADD COLUMN mood; CREATE TABLE new(a)",
    );
    let ran = trial.sandbox.puller(&["restore", "gym", &trial.copy.copy, "--in-place", "--yes"]).exits(0);
    assert!(ran.stderr.contains("user_version") && ran.stderr.contains("12"), "{ran}");
    for word in ["members", "new", "lockers"] {
        assert!(ran.stderr.contains(word), "`{word}` is not shown: {ran}");
    }
    contents::assert_equal(&trial.copy.path, &trial.source);
}

#[test]
fn what_may_only_be_read_is_refused() {
    let trial = Trial::new();
    if !privilege::is_root() {
        return privilege::skip("files that may only be read", "only root can become another user");
    }
    let target = trial.path("target.db");
    fs::copy(&trial.copy.path, &target).unwrap();
    execute(&target, "DELETE FROM members");
    for folder in ["db", "store"] {
        give(&trial.sandbox.file(folder));
    }
    let run = |words: &[&str]| {
        let mut command = privilege::as_nobody(&trial.sandbox, programs::puller());
        command.arg("--store").arg(trial.sandbox.store()).args(["restore", "--json", "--yes"]).args(words);
        trial.sandbox.run(&mut command)
    };
    let words = ["gym", &trial.copy.copy, "--to", text(&target)];
    // A file that its owner may not write; one of somebody else; and a folder that no journal can be made in.
    privilege::set_mode(&target, 0o444);
    is_unchanged(&trial, || run(&words), "refused", 6);
    std::os::unix::fs::chown(&target, Some(0), Some(0)).unwrap();
    privilege::set_mode(&target, 0o666);
    is_unchanged(&trial, || run(&words), "refused", 6);
    privilege::give_to_nobody(&target);
    privilege::set_mode(&target, 0o644);
    privilege::set_mode(&trial.sandbox.file("db"), 0o555);
    is_unchanged(&trial, || run(&words), "refused", 6);
    let new = trial.path("new.db");
    is_unchanged(&trial, || run(&["gym", "--to", text(&new)]), "refused", 6);
    privilege::set_mode(&trial.sandbox.file("db"), 0o755);
    run(&words).exits(0);
    contents::assert_equal(&trial.copy.path, &target);
}

/// What `act` refuses changes nothing beside the target; the store gains at most a safety copy.
#[track_caller]
fn is_unchanged(trial: &Trial, act: impl Fn() -> Ran, code: &str, exit: i32) {
    let [there, _] = trial.all();
    let ran = act();
    is_refusal(&ran, code, exit, "");
    there.assert_unchanged(&trial.all()[0], &format!("the folder of the target, by {ran}"));
}

/// Makes nobody the owner of all at and below `path`.
fn give(path: &Path) {
    privilege::give_to_nobody(path);
    if path.is_dir() {
        fs::read_dir(path).expect("a folder can be read").for_each(|entry| {
            let entry = entry.expect("a folder can be read");
            if !entry.file_type().expect("a folder can be read").is_symlink() {
                give(&entry.path());
            }
        });
    }
}

#[test]
fn another_disk_is_restored_to_unless_it_may_only_be_read() {
    let trial = Trial::new();
    let root = trial.sandbox.file("disk");
    let Some(disk) = SmallDisk::mount(&root, "size=8m", "a restore to another disk") else { return };
    let (old, new) = (root.join("old.db"), root.join("new.db"));
    databases::gym_with_seed(&old, 50_000, 4096, 8);
    for target in [&old, &new] {
        trial.restored(&["gym", "--to", text(target)], target);
    }
    let before = Folder::of(&root);
    disk.remount("ro");
    for (target, words) in [(&old, &["--force"][..]), (&root.join("newer.db"), &[])] {
        let words = [&["gym", "--to", text(target)], words].concat();
        // What is at the target now is the copy: another one is asked for.
        let ran = trial.run(&[&words[..1], &[&trial.copy.copy], &words[1..]].concat());
        is_refusal(&ran, "refused", 6, "");
    }
    disk.remount("rw");
    before.assert_unchanged(&Folder::of(&root), "a disk that may only be read");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_touched() {
    let trial = Trial::new();
    let root = trial.sandbox.file("disk");
    let Some(disk) = SmallDisk::mount(&root, "size=2m", "a restore to a full disk") else { return };
    let old = root.join("old.db");
    databases::gym_with_seed(&old, 50_000, 4096, 8);
    disk.fill();
    let bytes = fs::read(&old).unwrap();
    for target in [&old, &root.join("new.db")] {
        is_refusal(&trial.run(&["gym", "--to", text(target)]), "no_space", 8, "");
        assert!(fs::read(&old).unwrap() == bytes && !root.join("new.db").exists());
    }
}

#[test]
fn an_application_that_keeps_its_lock_is_waited_for_and_named() {
    // Each waits as long as a lock is waited for, so all wait at once.
    std::thread::scope(|scope| {
        for (mode, sql) in [
            ("delete", "PRAGMA locking_mode = EXCLUSIVE; BEGIN; UPDATE members SET note = 'x'; COMMIT"),
            ("delete", "BEGIN EXCLUSIVE"),
            ("wal", "PRAGMA locking_mode = EXCLUSIVE; BEGIN; UPDATE members SET note = 'x'; COMMIT"),
            ("wal", "BEGIN IMMEDIATE"),
        ] {
            scope.spawn(move || {
                let trial = Trial::in_mode(mode);
                let application = Connection::open(&trial.source).unwrap();
                application.execute_batch(sql).unwrap();
                let count = |table: &str| {
                    let sql = format!("SELECT count(*), group_concat(note) FROM {table}");
                    application
                        .query_row(&sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
                };
                let before = count("members").unwrap();
                let ran = trial.run(&["gym", &trial.copy.copy, "--in-place"]);
                is_refusal(&ran, "busy", 7, "locked");
                assert_eq!(count("members").unwrap(), before, "{mode}, {sql}");
                drop(application);
                trial.restored(&["gym", &trial.copy.copy, "--in-place"], &trial.source);
            });
        }
        // Said to be stopped, and it is not.
        scope.spawn(|| {
            let trial = Trial::new();
            let target = trial.path("other.db");
            databases::gym_with_seed(&target, 60_000, 1024, 2);
            let application = Connection::open(&target).unwrap();
            let count =
                || application.query_row("SELECT count(*) FROM members", [], |row| row.get::<_, i64>(0));
            let before = count().unwrap();
            let words = ["gym", "--to", text(&target), "--stop-cmd", "true"];
            is_refusal(&trial.run(&words), "busy", 7, "is still open in another program");
            assert_eq!(count().unwrap(), before);
            application.execute_batch("DELETE FROM lockers").unwrap();
            assert_eq!(journal(&target), "wal");
            drop(application);
            let words = [&words[..], &["--force"]].concat();
            trial.restored(&words, &target);
            assert_eq!(journal(&target), "wal");
        });
    });
}

#[test]
fn what_is_asked_for_wrongly_is_refused_before_anything_is_opened() {
    let trial = Trial::new();
    // The command line as such: not a word on stdout is due.
    for words in
        [&["gym"][..], &["gym", "--in-place", "--to", "x"], &["gym", "--undo", "--in-place"], &["--in-place"]]
    {
        let ran = trial.run(words).exits(2);
        assert!(ran.stderr.contains("Usage"), "{ran}");
    }
    let [there, store] = trial.all();
    for words in [&["gym", "--in-place"][..], &["gym", "--to", "./gym.db"]] {
        let ran = trial.sandbox.puller(&[&["restore", "--json"], words].concat());
        is_refusal(&ran, "usage", 2, "nobody is there to be asked");
        assert!(ran.stderr.contains("--yes"), "{ran}");
    }
    let [there_now, store_now] = trial.all();
    there.assert_unchanged(&there_now, "the folder of the target");
    store.assert_unchanged(&store_now, "the store");
    for (words, code, exit, said) in [
        (&["nobody", "--in-place"][..], "unknown", 10, "nobody"),
        (&["gym", "gym-000099", "--in-place"], "unknown", 10, "gym-000099"),
        (&["gym", "latest~7", "--in-place"], "unknown", 10, "latest~7"),
        (&["gym", "--at", "yesterday", "--in-place"], "usage", 2, "is no time"),
        (&["gym", "--undo"], "unknown", 10, "nothing was restored into"),
        (&["gym", "--in-place", "--table", "nobodys"], "unknown", 10, "has no table `nobodys`"),
        (&["gym", "--in-place", "--table", "members", "--table", "nobodys"], "unknown", 10, "`nobodys`"),
        (&["gym", "--in-place", "--table", "nobodys", "--dry-run"], "unknown", 10, "`nobodys`"),
        (&["gym", "--to", "./new.db", "--table", "members"], "target", 1, "there is no database"),
    ] {
        trial.refused(words, code, exit, said);
    }
}

#[test]
fn another_run_that_works_on_the_source_is_not_disturbed() {
    let trial = Trial::new();
    let lock = File::open(trial.copy.path.parent().unwrap().with_file_name(".lock")).unwrap();
    lock.try_lock().expect("nobody has the lock");
    trial.refused(&["gym", "--in-place"], "locked", 11, "");
    // What replaces nothing needs no lock.
    trial.restored(&["gym", "--to", "./new.db"], &trial.path("new.db"));
    trial.run(&["gym", "--in-place", "--dry-run"]).exits(0);
    drop(lock);
    trial.restored(&["gym", "--in-place"], &trial.source);
}

#[test]
fn a_source_whose_disk_is_gone_is_told_so() {
    let trial = Trial::new();
    let folder = trial.path("disk");
    fs::create_dir(&folder).unwrap();
    let source = folder.join("app.db");
    fs::copy(&trial.copy.path, &source).unwrap();
    trial.sandbox.pull(&[&source]).succeeds("stored");
    fs::remove_dir_all(&folder).unwrap();
    trial.refused(&["app", "--in-place"], "io", 1, "the folder `");
    // The disk is back, and empty.
    fs::create_dir(&folder).unwrap();
    trial.restored(&["app", "--in-place"], &source);
}

#[test]
fn a_path_with_any_characters_is_that_path() {
    for name in [
        "two  spaces and one at the end ",
        "a\"b'c\\d;$(e)`f`*.db",
        "a\nline.db",
        "e\u{301}tu\u{301}.db",
        "gym.db?mode=memory&x=%2e#frag",
        "-x.db",
    ] {
        let trial = Trial::new();
        let target = trial.path(name);
        let typed = format!("./{name}");
        let line = trial.restored(&["gym", "--to", &typed], &target);
        assert!(Path::new(line["target"].as_str().expect("a path")).is_absolute(), "{line}");
        execute(&target, "DELETE FROM members");
        let line = trial.restored(&["gym", "--to", &typed], &target);
        assert_eq!(line["target"], text(&target), "{line}");
        let into = line["source"].as_str().expect("a source").to_owned();
        // The way back leads to the very same file, and so does a pull of it.
        trial.run(&[&into, "--undo"]).exits(0);
        let pulled = trial.sandbox.pull(&[&typed]).succeeds("stored");
        assert_eq!(pulled.json["source"], into.as_str(), "{}", pulled.ran);
        let ran = trial.sandbox.puller(&["restore", &into, "--undo", "--yes"]).exits(0);
        assert!(!ran.stdout.contains("a\nline") && !ran.stderr.contains("a\nline"), "{ran}");
        let beside: Vec<_> =
            fs::read_dir(trial.sandbox.file("db")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let ours = |file: &&std::ffi::OsString| {
            !file.to_str().is_some_and(|file| file.starts_with("gym.db") || file.starts_with(name))
        };
        assert_eq!(beside.iter().filter(ours).count(), 0, "{beside:?}");
    }
}

#[test]
fn a_damaged_or_suspect_copy_is_restored_when_it_is_named_and_said_to_be_so() {
    let trial = Trial::new();
    let wounded = trial.path("wounded.db");
    fs::copy(&trial.copy.path, &wounded).unwrap();
    privilege::set_mode(&wounded, 0o600);
    trial.sandbox.pull(&[&wounded]).succeeds("stored");
    wounds::index(&wounded);
    let damaged = trial.sandbox.pull(&[text(&wounded), "--verify", "full"]);
    assert_eq!(damaged.verdict, "damaged", "{}", damaged.ran);
    execute(&trial.source, "DROP TABLE lockers; DROP TABLE access_log; DROP TABLE members");
    let suspect = trial.sandbox.pull(&[&trial.source]);
    assert_eq!(suspect.verdict, "suspect", "{}", suspect.ran);
    for (source, pulled) in [("wounded", &damaged), ("gym", &suspect)] {
        let said = format!("the copy is `{}`", pulled.verdict);
        // Only where it is named: `latest` is the newest good one.
        let latest = trial.run(&[source, "--to", "./latest.db"]).exits(0).only_json();
        assert_ne!(latest["copy"], pulled.copy.as_str());
        fs::remove_file(trial.path("latest.db")).unwrap();
        let target = trial.path(&format!("{source}-new.db"));
        let over = trial.path(&format!("{source}-over.db"));
        databases::gym_with_seed(&over, 50_000, 4096, 3);
        for target in [&target, &over] {
            let line = trial.run(&[source, &pulled.copy, "--to", text(target)]).exits(0).only_json();
            assert!(line["notes"].to_string().contains(&said), "{line}");
            let again =
                trial.sandbox.puller_in(&trial.sandbox.file("again"), &["pull", "--json", text(target)]);
            assert_eq!(Pulled::from_run(again).snapshot, pulled.snapshot);
        }
    }
}

#[test]
fn a_quiet_restore_that_is_well_says_nothing() {
    let trial = Trial::new();
    for words in [
        &["gym", "--in-place", "--dry-run"][..],
        &["gym", "--in-place"],
        &["gym", "--undo"],
        &["gym", "--to", "./new.db"],
        &["gym", "--in-place", "--table", "lockers"],
    ] {
        let ran = trial.sandbox.puller(&[&["restore", "-q", "--yes"], words].concat()).exits(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
    }
    let ran = trial.sandbox.puller(&["restore", "-q", "gym", "--in-place"]).exits(2);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("error: "), "{ran}");
}

#[test]
fn an_in_place_restore_of_an_import_asks_where_its_database_is() {
    let trial = Trial::new();
    fs::copy(&trial.copy.path, trial.path("app_20251103_031500.db")).unwrap();
    trial.sandbox.puller(&["import", "./app_20251103_031500.db", "--name", "app"]).exits(0);
    trial.refused(&["app", "--in-place"], "usage", 2, "it was not yet said where its database is");
    trial.restored(&["app", "--to", "./app.db"], &trial.path("app.db"));
}

#[test]
fn an_application_that_does_not_start_again_leaves_the_way_back() {
    let trial = Trial::new();
    let words = ["gym", "--in-place", "--stop-cmd", "true", "--start-cmd", "false"];
    let ran = trial.run(&words);
    assert_eq!(ran.code(), 1, "{ran}");
    contents::assert_equal(&trial.copy.path, &trial.source);
    let undone = trial.run(&["gym", "--undo"]).exits(0).only_json();
    assert_eq!(undone["outcome"], "restored", "{undone}");
    let db = Connection::open(&trial.source).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM lockers", [], |row| row.get::<_, i64>(0)), Ok(0));
}

#[test]
fn an_application_that_cannot_be_stopped_is_not_restored_under() {
    let trial = Trial::new();
    let there = Folder::of(&trial.sandbox.file("db"));
    let words = ["gym", "--in-place", "--stop-cmd", "false", "--start-cmd", "true"];
    is_refusal(&trial.run(&words), "target", 1, "could not be stopped");
    there.assert_unchanged(&Folder::of(&trial.sandbox.file("db")), "the folder of the source");
    is_refusal(&trial.run(&["gym", "--undo"]), "unknown", 10, "nothing was restored into");
}
