//! Restores in place while applications write to and read from the database in other processes: none sees a state that was never
//! committed, none loses a commit that is not in the safety copy, and all go on.
//!
//! `PULLBACK_RESTORES=30 cargo test -p pullback-tests --test live_restore -- --nocapture` restores oftener.

use pullback_tests::applications::Application;
use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::ledger;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::sshd::script;
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Restores in each test, unless `PULLBACK_RESTORES` says how many.
const RESTORES: usize = 3;

/// Commits that one writer may be ahead of another.
const NUMBERS: i64 = 1_000_000_000;

fn restores() -> usize {
    std::env::var("PULLBACK_RESTORES").ok().and_then(|count| count.parse().ok()).unwrap_or(RESTORES)
}

/// A database that applications use, its copy, and the door to it.
struct Scene {
    sandbox: Sandbox,
    db: PathBuf,
    /// As `puller` is told.
    source: String,
    /// The copy that is restored.
    copy: String,
    /// The numbers of commits in all safety copies.
    saved: BTreeSet<i64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Door {
    Local,
    Edge,
}

impl Scene {
    /// A bank in `journal` mode, with a copy of it that is 50 commits behind.
    fn new(journal: &str, door: Door) -> Self {
        let sandbox = Sandbox::new();
        let db = sandbox.db("bank.db");
        let mut writer = Application::writer(&db, 0, &["--journal", journal]);
        writer.goes_on(100);
        let mut numbers = end(writer, journal);
        add_what_stays(&db);
        let far = sandbox.file("ssh");
        script(&far, &format!("exec {} stdio", programs::agent().display()));
        let agent = sandbox.file("home/xdg_config_home/pullback");
        std::fs::create_dir_all(&agent).expect("it is there");
        std::fs::write(agent.join("agent.toml"), "reserve = \"0\"\nallow_restore = true\n")
            .expect("it is there");
        let source = match door {
            Door::Local => db.display().to_string(),
            Door::Edge => format!("pi:{}", db.display()),
        };
        let mut scene = Self { sandbox, db, source, copy: String::new(), saved: BTreeSet::new() };
        let pulled = scene.puller(&["pull", "--json", &scene.source]).exits(0).only_json();
        scene.copy = pulled["copy"].as_str().expect("it is there").to_owned();
        let mut writer = Application::writer(&scene.db, NUMBERS, &["--journal", journal, "--seed", "4"]);
        writer.goes_on(50);
        numbers.extend(end(writer, journal));
        recover(&scene.db);
        let now = numbers_in(&scene.db);
        assert!(numbers.iter().all(|number| now.contains(number)));
        scene.saved = now;
        scene
    }

    fn command(&self) -> Command {
        let mut command = self.sandbox.command(programs::puller());
        command.env("PULLER_SSH", self.sandbox.file("ssh")).arg("--store").arg(self.sandbox.store());
        command
    }

    fn puller<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        self.sandbox.run(self.command().args(arguments))
    }

    /// Restores in place, looks at the safety copy, and says how it went.
    #[track_caller]
    fn restore(&mut self, words: &[&str]) -> Value {
        let mut arguments = vec!["restore", self.source.as_str()];
        arguments.extend(words);
        arguments.extend(["--yes", "--json"]);
        let ran = self.puller(&arguments).exits(0);
        let told = ran.only_json();
        assert_eq!(told["outcome"], "restored", "{ran}");
        let safety = told["safety"].as_str().expect("there is a safety copy");
        let listed = self.puller(&["list", "--json", &self.source]).exits(0).json();
        let safety = listed.iter().find(|copy| copy["copy"] == safety).expect("the safety copy is listed");
        let path = PathBuf::from(safety["path"].as_str().expect("it is there"));
        ledger::check(&path);
        let record = path.ancestors().nth(2).expect("copies lie in a source's folder").join("restore.json");
        let record = std::fs::read_to_string(record).expect("a restore has a record");
        assert!(record.contains(told["safety"].as_str().expect("it is there")), "{record}");
        self.saved.extend(numbers_in(&path));
        told
    }

    /// Restores again and again, with undoing in between, while `writers` and `watchers` work.
    #[track_caller]
    fn stands(
        mut self,
        journal: &str,
        mut writers: Vec<Application>,
        mut watchers: Vec<Application>,
        copy_words: &[&str],
    ) {
        let copy = self.copy.clone();
        let mut words = vec![copy.as_str(), "--in-place"];
        words.extend(copy_words);
        let mut moved_on = 0;
        for round in 0..restores() {
            let told = match round % 3 {
                2 => self.restore(&["--undo"]),
                _ => self.restore(&words),
            };
            eprintln!("{} held {} notes {}", told["duration_seconds"], told["held_seconds"], told["notes"]);
            moved_on += usize::from(told["moved_on"] == true);
            writers.iter_mut().for_each(|writer| writer.goes_on(5));
            watchers.iter_mut().for_each(|watcher| watcher.goes_on(1));
        }
        watchers.into_iter().for_each(|watcher| drop(watcher.end()));
        let acknowledged: Vec<i64> = writers.into_iter().flat_map(|writer| end(writer, journal)).collect();
        recover(&self.db);
        let now = numbers_in(&self.db);
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|number| !now.contains(number) && !self.saved.contains(number))
            .collect();
        eprintln!("{} commits, {} now there, moved on {moved_on} times", acknowledged.len(), now.len());
        assert!(lost.is_empty(), "{} commits are in no safety copy, such as {:?}", lost.len(), &lost[..1]);
        ledger::check(&self.db);
    }
}

/// Takes back what a writer that was killed had begun.
fn recover(db: &Path) {
    let db = Connection::open(db).expect("it can be used");
    db.query_row("SELECT count(*) FROM ledger", [], |_| Ok(())).expect("it can be used");
}

/// Adds a table that the writer leaves alone, as one more commit of its ledger.
fn add_what_stays(db: &Path) {
    let db = Connection::open(db).expect("it can be used");
    db.execute_batch("BEGIN IMMEDIATE; CREATE TABLE steady(id INTEGER PRIMARY KEY, body BLOB)")
        .expect("it can be used");
    let sql = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
        INSERT INTO steady SELECT i, randomblob(500) FROM n";
    db.execute_batch(sql).expect("it can be used");
    let seq = ledger::newest(&db).expect("it can be used").seq + 1;
    db.execute("INSERT INTO ledger VALUES (?1, ?2)", (seq, ledger::recount(&db).to_bytes()))
        .expect("it can be used");
    db.execute_batch("COMMIT").expect("it can be used");
}

/// The numbers of the commits that the database at `path` has.
fn numbers_in(path: &Path) -> BTreeSet<i64> {
    let db = contents::open_read_only(path);
    db.busy_timeout(std::time::Duration::from_secs(30)).expect("it can be used");
    let mut statement = db.prepare("SELECT number FROM acknowledged").expect("it can be used");
    let numbers = statement.query_map([], |row| row.get(0)).expect("it can be used");
    numbers.collect::<Result<_, _>>().expect("it can be used")
}

/// Two writers, one that waits and one that does not, and two readers.
fn stands(journal: &str, door: Door, words: &[&str]) {
    let scene = Scene::new(journal, door);
    let writers = vec![
        Application::writer(
            &scene.db,
            2 * NUMBERS,
            &["--journal", journal, "--seed", "2", "--busy-ms", "5000"],
        ),
        Application::writer(
            &scene.db,
            3 * NUMBERS,
            &["--journal", journal, "--seed", "3", "--busy-ms", "0", "--pause-ms", "1"],
        ),
    ];
    let watchers = vec![
        Application::watcher(&scene.db, &["--busy-ms", "5000"]),
        Application::watcher(&scene.db, &["--pause-ms", "5"]),
    ];
    scene.stands(journal, writers, watchers, words);
}

/// Ends `writer`: by a kill, where its `journal` survives that.
fn end(writer: Application, journal: &str) -> Vec<i64> {
    match journal {
        "memory" | "changing" => writer.rests(),
        _ => writer.end(),
    }
}

#[test]
fn nobody_is_harmed_by_a_restore_under_wal() {
    stands("wal", Door::Local, &[]);
}

#[test]
fn nobody_is_harmed_by_a_restore_at_the_edge_under_wal() {
    stands("wal", Door::Edge, &[]);
}

#[test]
fn nobody_is_harmed_by_a_restore_under_rollback_journals() {
    for journal in ["delete", "truncate", "persist", "memory"] {
        stands(journal, Door::Local, &[]);
    }
}

#[test]
fn nobody_is_harmed_by_a_restore_at_the_edge_under_a_rollback_journal() {
    stands("delete", Door::Edge, &[]);
}

#[test]
fn nobody_is_harmed_by_a_restore_who_changes_the_journal_mode() {
    // Alone: who else has it open keeps it from being changed.
    let scene = Scene::new("changing", Door::Local);
    let writer = Application::writer(&scene.db, 2 * NUMBERS, &["--journal", "changing", "--seed", "2"]);
    scene.stands("changing", vec![writer], Vec::new(), &[]);
}

#[test]
fn a_table_is_restored_under_writers_and_none_of_their_commits_goes() {
    for (journal, door) in [("wal", Door::Local), ("delete", Door::Edge)] {
        let mut scene = Scene::new(journal, door);
        let mut writer = Application::writer(
            &scene.db,
            2 * NUMBERS,
            &["--journal", journal, "--seed", "2", "--busy-ms", "5000"],
        );
        let mut watcher = Application::watcher(&scene.db, &["--busy-ms", "5000"]);
        let copy = scene.copy.clone();
        for _ in 0..restores() {
            let told = scene.restore(&[&copy, "--in-place", "--table", "steady"]);
            assert_eq!(told["tables"][0]["rows"], 200, "{told}");
            writer.goes_on(5);
            watcher.goes_on(1);
        }
        drop(watcher.end());
        let acknowledged = writer.end();
        recover(&scene.db);
        let now = numbers_in(&scene.db);
        let lost = acknowledged.iter().filter(|number| !now.contains(number)).count();
        assert_eq!(lost, 0, "of {} commits", acknowledged.len());
        ledger::check(&scene.db);
    }
}

#[test]
fn a_restore_that_is_killed_at_any_moment_costs_no_commit_and_nobody_sees_it_half_done() {
    let mut dice = Dice::new(7);
    for (journal, door) in [("wal", Door::Local), ("delete", Door::Local), ("wal", Door::Edge)] {
        let mut scene = Scene::new(journal, door);
        let arguments = ["--journal", journal, "--seed", "2", "--busy-ms", "5000", "--pause-ms", "1"];
        let mut writer = Application::writer(&scene.db, 2 * NUMBERS, &arguments);
        let mut watcher = Application::watcher(&scene.db, &["--busy-ms", "5000"]);
        let began = Instant::now();
        let words = ["restore", &scene.source, &scene.copy, "--in-place", "--yes"];
        scene.puller(&words).exits(0);
        let length = began.elapsed();
        for _ in 0..restores() {
            let mut command = scene.command();
            let restore = scene.sandbox.start(command.args(words));
            std::thread::sleep(length.mul_f64(dice.between(10, 100) as f64 / 100.0));
            // Killed when the value goes.
            drop(restore);
            writer.goes_on(5);
            watcher.goes_on(1);
        }
        drop(watcher.end());
        let acknowledged = writer.end();
        recover(&scene.db);
        let listed = scene.puller(&["list", "--json", &scene.source]).exits(0).json();
        for (number, copy) in listed.iter().enumerate() {
            let file = scene.sandbox.db(&format!("copy-{number}.db"));
            let id = copy["copy"].as_str().unwrap();
            scene.puller(&["restore", &scene.source, id, "--to", file.to_str().unwrap()]).exits(0);
            scene.saved.extend(numbers_in(&file));
        }
        let now = numbers_in(&scene.db);
        let is_lost = |number: &&i64| !now.contains(number) && !scene.saved.contains(number);
        assert_eq!(acknowledged.iter().find(is_lost), None, "{journal}");
        ledger::check(&scene.db);
        scene.restore(&[&scene.copy.clone(), "--in-place"]);
    }
}

/// A gym of which there is a copy, and that has other tables, and is larger, since.
fn changed_gym(journal: &str) -> (Sandbox, PathBuf, String) {
    let sandbox = Sandbox::new();
    let path = sandbox.db("gym.db");
    databases::gym(&path, 300_000, 4096);
    let db = Connection::open(&path).expect("it can be used");
    db.execute_batch(&format!("PRAGMA journal_mode = {journal}")).expect("it can be used");
    let snapshot = sandbox.pull(&[&path]).succeeds("stored").snapshot;
    db.execute_batch(
        "ALTER TABLE members ADD COLUMN age; DROP INDEX access_log_by_time; CREATE TABLE late(a)",
    )
    .expect("it can be used");
    drop(db);
    databases::add_noise(&path, 1_000_000);
    (sandbox, path, snapshot)
}

fn in_place(sandbox: &Sandbox, words: &[&str]) -> Ran {
    let mut all = vec!["restore", "gym", "--yes", "--json"];
    all.extend(words);
    sandbox.puller(&all)
}

fn count(db: &Connection, table: &str) -> rusqlite::Result<i64> {
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
}

#[test]
fn idle_applications_go_on_with_other_tables_and_another_length() {
    for journal in ["wal", "delete", "truncate", "persist", "memory"] {
        let (sandbox, path, snapshot) = changed_gym(journal);
        let idle = Connection::open(&path).unwrap();
        // Its schema is cached, and its statements are prepared.
        assert_eq!(count(&idle, "late").unwrap(), 0);
        let mut columns = idle.prepare("SELECT * FROM members WHERE id = 1").unwrap();
        let mut write = idle.prepare("UPDATE members SET note = ?1 WHERE id = 1").unwrap();
        let width = |columns: &mut rusqlite::Statement<'_>| {
            columns.query_row([], |row| Ok(row.as_ref().column_count())).unwrap()
        };
        assert_eq!(width(&mut columns), 6);
        in_place(&sandbox, &["--in-place"]).exits(0);
        assert_eq!(width(&mut columns), 5, "{journal}");
        assert!(count(&idle, "late").unwrap_err().to_string().contains("no such table"));
        assert_eq!(sandbox.pull(&[&path]).snapshot, snapshot);
        assert_eq!(write.execute(["after the restore"]).unwrap(), 1);
        in_place(&sandbox, &["--undo"]).exits(0);
        assert_eq!(width(&mut columns), 6, "{journal}");
        assert_eq!(write.execute(["after the undo"]).unwrap(), 1);
        assert_eq!((count(&idle, "late").unwrap(), count(&idle, "noise").unwrap()), (0, 10));
        let sound: String = idle.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        in_place(&sandbox, &["--undo"]).exits(0);
        let note: String =
            idle.query_row("SELECT note FROM members WHERE id = 1", [], |row| row.get(0)).unwrap();
        assert_eq!(note, "after the restore", "what was written after the restore is what the undo saved");
    }
}

#[test]
fn an_open_read_goes_on_under_wal_and_makes_a_restore_wait_in_vain_in_a_rollback_mode() {
    for journal in ["wal", "delete"] {
        let (sandbox, path, snapshot) = changed_gym(journal);
        let before = contents::of(&path);
        let reader = Connection::open(&path).unwrap();
        let all = count(&reader, "access_log").unwrap();
        let mut statement = reader.prepare("SELECT id FROM access_log").unwrap();
        let mut rows = statement.query([]).unwrap();
        assert!(rows.next().unwrap().is_some());
        let ran = in_place(&sandbox, &["--in-place"]);
        let mut read = 1;
        while rows.next().unwrap().is_some() {
            read += 1;
        }
        assert_eq!(read, all, "the state that it began with");
        drop(rows);
        match journal {
            "wal" => {
                ran.exits(0);
                assert_eq!(sandbox.pull(&[&path]).snapshot, snapshot);
            }
            _ => {
                let ran = ran.exits(7);
                assert!(ran.stderr.contains("[P06]") && ran.stderr.contains("no write lock"), "{ran}");
                assert!(contents::of(&path) == before, "something was changed");
                in_place(&sandbox, &["--undo"]).exits(10);
                in_place(&sandbox, &["--in-place"]).exits(0);
            }
        }
        assert!(count(&reader, "late").is_err());
    }
}

#[test]
fn another_page_size_reaches_an_idle_application_in_a_rollback_mode() {
    let (sandbox, path, _) = changed_gym("delete");
    let wide = sandbox.db("wide.db");
    databases::gym_with_seed(&wide, 200_000, 16384, 9);
    let wanted = sandbox.pull(&[&wide]).succeeds("stored").snapshot;
    let idle = Connection::open(&path).unwrap();
    let rows = count(&idle, "noise").unwrap();
    let words = ["restore", "wide", "--yes", "--force", "--to", path.to_str().unwrap()];
    sandbox.puller(&words).exits(0);
    assert!(count(&idle, "noise").is_err());
    idle.execute_batch("UPDATE members SET note = note WHERE id = 1").unwrap();
    assert_eq!(sandbox.pull(&[&path]).snapshot.len(), wanted.len());
    in_place(&sandbox, &["--undo"]).exits(0);
    assert_eq!(count(&idle, "noise").unwrap(), rows);
}
