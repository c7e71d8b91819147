//! Restores in place while applications write to and read from the database in other processes: none sees a state that was never
//! committed, none loses a commit that is not in the safety copy, and all go on.
//!
//! `PULLBACK_RESTORES=30 cargo test -p pullback-tests --test live_restore -- --nocapture` restores oftener.

use pullback_tests::applications::Application;
use pullback_tests::contents;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::sshd::script;
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Restores in each test, unless `PULLBACK_RESTORES` says how many.
const RESTORES: usize = 5;

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
        let mut numbers = writer.end();
        let far = sandbox.file("ssh");
        script(&far, &format!("exec {} stdio", programs::agent().display()));
        let agent = sandbox.file("home/xdg_config_home/pullback");
        std::fs::create_dir_all(&agent).unwrap();
        std::fs::write(agent.join("agent.toml"), "reserve = \"0\"\nallow_restore = true\n").unwrap();
        let source = match door {
            Door::Local => db.display().to_string(),
            Door::Edge => format!("pi:{}", db.display()),
        };
        let mut scene = Self { sandbox, db, source, copy: String::new(), saved: BTreeSet::new() };
        let pulled = scene.puller(&["pull", "--json", &scene.source]).exits(0).only_json();
        scene.copy = pulled["copy"].as_str().unwrap().to_owned();
        let mut writer = Application::writer(&scene.db, NUMBERS, &["--journal", journal, "--seed", "4"]);
        writer.goes_on(50);
        numbers.extend(writer.end());
        recover(&scene.db);
        let now = numbers_in(&scene.db);
        assert!(numbers.iter().all(|number| now.contains(number)));
        scene.saved = now;
        scene
    }

    fn puller<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        let mut command = self.sandbox.command(programs::puller());
        command.env("PULLER_SSH", self.sandbox.file("ssh")).arg("--store").arg(self.sandbox.store());
        self.sandbox.run(command.args(arguments))
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
        let path = PathBuf::from(safety["path"].as_str().unwrap());
        pullback_tests::ledger::check(&path);
        self.saved.extend(numbers_in(&path));
        told
    }

    /// Restores again and again, with undoing in between, while `writers` and `watchers` work.
    #[track_caller]
    fn stands(mut self, mut writers: Vec<Application>, mut watchers: Vec<Application>, copy_words: &[&str]) {
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
        let acknowledged: Vec<i64> = writers.into_iter().flat_map(Application::end).collect();
        recover(&self.db);
        let now = numbers_in(&self.db);
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|number| !now.contains(number) && !self.saved.contains(number))
            .collect();
        eprintln!("{} commits, {} now there, moved on {moved_on} times", acknowledged.len(), now.len());
        assert!(lost.is_empty(), "{} commits are in no safety copy, such as {:?}", lost.len(), &lost[..1]);
        pullback_tests::ledger::check(&self.db);
    }
}

/// Takes back what a writer that was killed had begun.
fn recover(db: &Path) {
    let db = Connection::open(db).unwrap();
    db.query_row("SELECT count(*) FROM ledger", [], |_| Ok(())).unwrap();
}

/// The numbers of the commits that the database at `path` has.
fn numbers_in(path: &Path) -> BTreeSet<i64> {
    let db = contents::open_read_only(path);
    db.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    let mut statement = db.prepare("SELECT number FROM acknowledged").unwrap();
    let numbers = statement.query_map([], |row| row.get(0)).unwrap();
    numbers.collect::<Result<_, _>>().unwrap()
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
    scene.stands(writers, watchers, words);
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
