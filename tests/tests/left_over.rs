//! What an older or dying application left beside a database when a copy is put in its place: the content afterwards is the
//! copy's, and what was there with its log is in the safety copy.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::stuck::Stuck;
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A gym in `journal` mode of which there is a copy; then `mark` rows were added and it was closed.
struct Scene {
    sandbox: Sandbox,
    db: PathBuf,
    copy: String,
    /// Of the copy.
    snapshot: String,
}

/// How the target is named.
#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    InPlace,
    ToExisting,
}

const BOTH: [How; 2] = [How::InPlace, How::ToExisting];

impl Scene {
    fn new(journal: &str) -> Self {
        let sandbox = Sandbox::new();
        let db = sandbox.db("gym.db");
        databases::gym(&db, 300_000, 4096);
        write(&db, &format!("PRAGMA journal_mode = {journal}"));
        let pulled = sandbox.pull(&[&db]).succeeds("stored");
        write(&db, "CREATE TABLE mark(a); INSERT INTO mark VALUES ('in the file')");
        Self { sandbox, db, copy: pulled.copy, snapshot: pulled.snapshot }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.db.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn run(&self, how: How, words: &[&str]) -> Ran {
        let path = self.db.to_str().expect("it is there");
        let mut all = vec!["restore", path, &self.copy, "--yes", "--json"];
        match how {
            How::InPlace => all.push("--in-place"),
            How::ToExisting => all.extend(["--to", path]),
        }
        all.extend(words);
        self.sandbox.puller(&all)
    }

    /// Restores, finds the copy's content, and gives what the safety copy is, as a file.
    #[track_caller]
    fn restores(&self, how: How, words: &[&str]) -> (Value, Option<PathBuf>) {
        let told = self.run(how, words).exits(0).only_json();
        assert_eq!(told["outcome"], "restored", "{told}");
        let safety = told["safety"].as_str().map(|safety| {
            let file = self.sandbox.db(&format!("{safety}.db"));
            self.sandbox
                .puller(&["restore", "gym", safety, "--to", file.to_str().expect("it is there")])
                .exits(0);
            file
        });
        self.is_the_copy();
        (told, safety)
    }

    /// Whether a new connection, a writing one too, and a pull find the copy's content.
    #[track_caller]
    fn is_the_copy(&self) {
        for look in ["a first", "a second"] {
            let db = Connection::open(&self.db).expect("it can be used");
            let sound: String =
                db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be used");
            assert_eq!(sound, "ok", "{look} look");
            assert!(
                !db.table_exists(None, "mark").expect("it can be used"),
                "{look} look finds the old content"
            );
        }
        let pulled = self.sandbox.pull(&[&self.db]);
        assert_eq!(pulled.snapshot, self.snapshot, "{}", pulled.ran);
    }
}

fn write(db: &Path, sql: &str) {
    Connection::open(db).and_then(|db| db.execute_batch(sql)).expect("a gym can be written to");
}

#[track_caller]
fn marks(copy: &Path, wanted: &[&str]) {
    let db = contents::open_read_only(copy);
    let mut statement = db.prepare("SELECT a FROM mark ORDER BY rowid").expect("it can be used");
    let found = statement.query_map([], |row| row.get::<_, String>(0)).expect("it can be used");
    assert_eq!(found.collect::<Result<Vec<_>, _>>().expect("it can be used"), wanted);
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be used");
    assert_eq!(sound, "ok");
}

/// Leaves what a process that was killed in WAL mode leaves: `sql` in the `-wal`, uncheckpointed unless it says so.
fn die_with_a_wal(scene: &Scene, sql: &str) {
    let db = Connection::open(&scene.db).expect("it can be used");
    db.execute_batch(&format!("PRAGMA wal_autocheckpoint = 0; {sql}")).expect("it can be used");
    let saved = ["", "-wal", "-shm"]
        .map(|suffix| (scene.beside(suffix), fs::read(scene.beside(suffix)).expect("it is there")));
    drop(db);
    for (path, bytes) in saved {
        fs::write(path, bytes).expect("it is there");
    }
}

#[test]
fn commits_that_are_only_in_a_left_over_wal_are_in_the_safety_copy() {
    for how in BOTH {
        for with_shm in [true, false] {
            let scene = Scene::new("wal");
            die_with_a_wal(&scene, "INSERT INTO mark VALUES ('in the wal')");
            if !with_shm {
                fs::remove_file(scene.beside("-shm")).unwrap();
            }
            let (_, safety) = scene.restores(how, &[]);
            marks(&safety.expect("a safety copy"), &["in the file", "in the wal"]);
        }
    }
}

#[test]
fn a_left_over_wal_that_was_checkpointed_does_not_come_back() {
    for how in BOTH {
        for with_shm in [true, false] {
            let scene = Scene::new("wal");
            die_with_a_wal(&scene, "INSERT INTO mark VALUES ('in both'); PRAGMA wal_checkpoint(PASSIVE)");
            assert!(fs::metadata(scene.beside("-wal")).unwrap().len() > 0);
            if !with_shm {
                fs::remove_file(scene.beside("-shm")).unwrap();
            }
            let (_, safety) = scene.restores(how, &[]);
            marks(&safety.expect("a safety copy"), &["in the file", "in both"]);
        }
    }
}

#[test]
fn a_left_over_wal_beside_a_database_in_a_rollback_mode_does_not_come_back() {
    // What is left when somebody copies a file in a rollback mode over one in WAL mode. SQLite replays the log all the same.
    let scene = Scene::new("wal");
    die_with_a_wal(&scene, "INSERT INTO mark VALUES ('in the wal')");
    let wal = fs::read(scene.beside("-wal")).unwrap();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(scene.beside(suffix)).unwrap();
    }
    write(&scene.db, "PRAGMA journal_mode = DELETE");
    fs::write(scene.beside("-wal"), &wal).unwrap();
    let (_, safety) = scene.restores(How::InPlace, &[]);
    marks(&safety.expect("a safety copy"), &["in the file", "in the wal"]);
}

#[test]
fn a_wal_of_another_database_or_a_torn_one_gives_what_sqlite_makes_of_it() {
    for what in ["another", "salt", "torn", "rubbish"] {
        let scene = Scene::new("wal");
        die_with_a_wal(&scene, "INSERT INTO mark VALUES ('in the wal')");
        fs::remove_file(scene.beside("-shm")).unwrap();
        let mut wal = fs::read(scene.beside("-wal")).unwrap();
        let wanted: &[&str] = match what {
            "another" => {
                // One whose frames are not valid: the beginning of a foreign log, at another page size.
                let other = Scene::new("wal");
                let db = Connection::open(&other.db).unwrap();
                db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = WAL").unwrap();
                db.execute_batch("INSERT INTO mark VALUES ('foreign')").unwrap();
                wal = fs::read(other.beside("-wal")).unwrap();
                wal[32 + 8] ^= 1;
                &["in the file"]
            }
            "salt" => {
                wal[16] ^= 1;
                &["in the file"]
            }
            "torn" => {
                wal.truncate(wal.len() - 100);
                &["in the file"]
            }
            _ => {
                wal = vec![7; 9000];
                &["in the file"]
            }
        };
        fs::write(scene.beside("-wal"), &wal).unwrap();
        let (_, safety) = scene.restores(How::InPlace, &[]);
        marks(&safety.expect("a safety copy"), wanted);
    }
}

#[test]
fn a_hot_journal_is_rolled_back_into_the_safety_copy() {
    for how in BOTH {
        let scene = Scene::new("delete");
        let before = contents::of(&scene.db);
        Stuck::start(&scene.db, "delete", "transaction").kill9();
        assert!(fs::metadata(scene.beside("-journal")).unwrap().len() > 0, "there is a hot journal");
        let (_, safety) = scene.restores(how, &[]);
        let safety = safety.expect("a safety copy");
        marks(&safety, &["in the file"]);
        assert!(contents::of(&safety) == before, "the safety copy is the state before the transaction");
        assert!(!scene.beside("-journal").exists());
    }
}

#[test]
fn the_undo_of_a_restore_over_what_a_crash_left_brings_it_back() {
    let scene = Scene::new("wal");
    die_with_a_wal(&scene, "INSERT INTO mark VALUES ('in the wal')");
    scene.restores(How::InPlace, &[]);
    scene.sandbox.puller(&["restore", "gym", "--undo", "--yes"]).exits(0);
    marks(&scene.db, &["in the file", "in the wal"]);
    scene.sandbox.puller(&["restore", "gym", "--undo", "--yes"]).exits(0);
    scene.is_the_copy();
}

#[test]
fn a_log_without_its_database_is_not_replayed_into_the_copy() {
    for suffixes in [&["-wal"][..], &["-wal", "-shm"], &["-journal"]] {
        let scene = Scene::new(if suffixes == ["-journal"] { "delete" } else { "wal" });
        match suffixes {
            ["-journal"] => Stuck::start(&scene.db, "delete", "transaction").kill9(),
            _ => die_with_a_wal(&scene, "INSERT INTO mark VALUES ('in the wal')"),
        }
        fs::remove_file(&scene.db).unwrap();
        let _ = suffixes.contains(&"-shm") || fs::remove_file(scene.beside("-shm")).is_ok();
        let kept: Vec<Vec<u8>> =
            suffixes.iter().map(|suffix| fs::read(scene.beside(suffix)).unwrap()).collect();
        // Nothing is saved, so nothing is taken away without the word.
        let ran = scene.run(How::InPlace, &[]).exits(1);
        assert!(ran.stderr.contains("--force"), "{ran}");
        assert!(!scene.db.exists());
        let (told, safety) = scene.restores(How::InPlace, &["--force"]);
        assert!(safety.is_none(), "{told}");
        let aside = PathBuf::from(told["quarantine"].as_str().expect("it was set aside"));
        for (suffix, bytes) in suffixes.iter().zip(kept) {
            assert_eq!(fs::read(aside.join(format!("gym.db{suffix}"))).unwrap(), bytes);
        }
    }
}

#[test]
fn a_wal_as_large_as_the_database_is_no_hindrance() {
    let scene = Scene::new("wal");
    let application = Connection::open(&scene.db).unwrap();
    application.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    for _ in 0..5 {
        application.execute_batch("UPDATE access_log SET door = door || '.'").unwrap();
    }
    let file = fs::metadata(&scene.db).unwrap().len();
    assert!(fs::metadata(scene.beside("-wal")).unwrap().len() > file);
    let (_, safety) = scene.restores(How::InPlace, &[]);
    marks(&safety.expect("a safety copy"), &["in the file"]);
    application.execute_batch("UPDATE members SET note = 'later' WHERE id = 1").unwrap();
    assert!(fs::metadata(scene.beside("-wal")).unwrap().len() < file, "it is no longer that large");
}
