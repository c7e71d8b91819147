//! Kills of whatever removes or rewrites copies, before each call that changes the disk and at random: never are there fewer
//! good copies than before, or than the policy keeps, whichever is less; and the next run finishes and leaves nothing over.
//!
//! `PULLBACK_KILLS=1000 cargo test -p pullback-tests --test kills -- --nocapture` kills oftener.

use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::programs;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox, wait};
use pullback_tests::saved::Saved;
use pullback_tests::strace::{self, Point, Points};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kills in each test, unless `PULLBACK_KILLS` says how many.
const KILLS: u32 = 50;

/// Copies that there are before.
const COPIES: usize = 8;

/// How long a program may run that is not killed.
const LIMIT: Duration = Duration::from_secs(60);

/// A store, and what is done to it again and again.
struct Scene {
    sandbox: Sandbox,
    folder: PathBuf,
    /// How it is before.
    saved: Saved,
    /// The copies that it has then, oldest first.
    before: Vec<String>,
    /// What is killed.
    words: Vec<&'static str>,
    /// The copies that it leaves, oldest first.
    after: Vec<String>,
    /// The names of all files of copies when it has finished.
    files: BTreeSet<String>,
    dice: Dice,
}

impl Scene {
    /// With copies that were packed as `packed` says; what is killed packs as `pack` says.
    fn new(packed: &str, words: &[&'static str], pack: &str) -> Self {
        let sandbox = Sandbox::new().with_limit(LIMIT);
        let source = sandbox.db("gym.db");
        databases::gym(&source, 80_000, 1024);
        let mut dice = Dice::new(3);
        configure(&sandbox, packed);
        for number in 0..COPIES {
            let db = Connection::open(&source).expect("a gym can be opened");
            for _ in 0..5 {
                let sql = "UPDATE members SET note = ?2 WHERE id = ?1";
                db.execute(sql, (dice.between(1, 16), dice.words(8))).expect("a row can be written");
            }
            drop(db);
            let mut pull = sandbox.command(programs::puller());
            // Two a day.
            pull.env("PULLER_NOW", format!("2026-11-{:02}T{:02}:00:00Z", 1 + number / 2, 9 + number % 2));
            pull.arg("--store").arg(sandbox.store()).args(["pull", "--json"]).arg(&source);
            Pulled::from_run(sandbox.run(&mut pull)).succeeds("stored");
        }
        configure(&sandbox, pack);
        sandbox.puller(&["verify", "--all"]).exits(0);
        let folder = sandbox.store().join("local/gym");
        let saved = Saved::of(&folder);
        let mut scene = Self {
            before: ids(&sandbox.puller(&["list", "--json"]).exits(0)),
            after: Vec::new(),
            files: BTreeSet::new(),
            words: words.to_vec(),
            sandbox,
            folder,
            saved,
            dice,
        };
        assert_eq!(scene.before.len(), COPIES);
        scene.sandbox.run(&mut scene.command(scene.sandbox.command(programs::puller()))).exits(0);
        scene.after = scene.listed();
        scene.files = names(&scene.folder.join("copies"));
        scene
    }

    fn listed(&self) -> Vec<String> {
        ids(&self.sandbox.puller(&["list", "--json"]).exits(0))
    }

    fn command(&self, mut program: Command) -> Command {
        program.arg("--store").arg(self.sandbox.store()).args(&self.words);
        program
    }

    /// The points of a run, and how long one takes.
    fn watch(&mut self) -> (Vec<Point>, Duration) {
        self.saved.put_back();
        let started = Instant::now();
        self.sandbox.run(&mut self.command(self.sandbox.command(programs::puller()))).exits(0);
        let length = started.elapsed();
        self.saved.put_back();
        let points = Points::new(&self.sandbox);
        let mut watched = self.command(points.watch(&self.sandbox, programs::puller()));
        let mut watched = watched.stdout(Stdio::null()).spawn().expect("`strace` can be started");
        assert!(wait(&mut watched, LIMIT).is_some_and(|status| status.success()));
        (points.collect(watched.id(), &mut self.dice), length)
    }

    /// Holds what is there after a kill at `what` against the promise, has the next run finish, and looks again.
    #[track_caller]
    fn look(&self, what: &str, look_first: bool) {
        // Every other time the next run comes first: nothing may depend on somebody's looking.
        if look_first {
            self.assert_good(what);
        }
        let finished = self.sandbox.run(&mut self.command(self.sandbox.command(programs::puller()))).exits(0);
        self.assert_good(&format!("{what}, and {finished}"));
        assert_eq!(self.listed(), self.after, "the copies after {what}");
        assert_eq!(names(&self.folder.join("copies")), self.files, "the files after {what}");
        let expected = [".lock", "copies", "history.jsonl", "latest.db", "source.json"];
        assert_eq!(names(&self.folder), expected.map(str::to_owned).into(), "after {what}");
    }

    /// All that stay are good, and none that is listed is not.
    #[track_caller]
    fn assert_good(&self, what: &str) {
        let verified = self.sandbox.puller(&["verify", "--all", "--json"]);
        assert_eq!(verified.code(), 0, "after {what}: {verified}");
        let good = ids(&verified);
        for id in &self.after {
            assert!(good.contains(id), "after {what}, {id} is not among the good copies {good:?}");
        }
    }
}

/// Has all programs of `sandbox` pack as `pack` says.
fn configure(sandbox: &Sandbox, pack: &str) {
    let folder = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("puller.toml"), format!("pack = \"{pack}\"\n")).expect("a file can be written");
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder can be read").flatten();
    entries.map(|entry| entry.file_name().into_string().expect("names of tests are UTF-8")).collect()
}

fn ids(ran: &Ran) -> Vec<String> {
    ran.json().iter().map(|object| object["copy"].as_str().expect("a copy has an id").to_owned()).collect()
}

#[track_caller]
fn check(packed: &str, words: &[&'static str], pack: &str, forms: [usize; 3]) {
    if !strace::is_usable() {
        return;
    }
    let mut scene = Scene::new(packed, words, pack);
    let of_form = |end: &str| scene.files.iter().filter(|name| name.ends_with(end)).count();
    assert_eq!([".db", ".db.gz", ".delta.gz"].map(of_form), forms, "{:?}", scene.files);
    let (points, mut length) = scene.watch();
    let kills =
        std::env::var("PULLBACK_KILLS").map_or(KILLS, |count| count.parse().expect("a number of kills"));
    let (mut deaths, mut tried, mut left) = (0, 0, points.clone());
    while deaths < kills {
        tried += 1;
        assert!(tried < kills * 10 + 100, "only {deaths} of {tried} runs were killed");
        scene.saved.put_back();
        // Two at chosen points, one at random, and so on.
        let chosen = if tried % 3 == 0 || left.is_empty() {
            None
        } else {
            Some(left.swap_remove(scene.dice.between(0, left.len() as i64) as usize))
        };
        let (died, what) = match chosen {
            Some(point) => {
                let program = strace::killed_at(&point, &scene.sandbox, programs::puller());
                let ran = scene.sandbox.run(&mut scene.command(program));
                (ran.status.signal().is_some(), format!("a kill at {point}"))
            }
            None => {
                let after = length.mul_f64(scene.dice.between(0, 1_000) as f64 / 1_000.0);
                let mut command = scene.command(scene.sandbox.command(programs::puller()));
                let mut child = command.stdout(Stdio::null()).spawn().expect("puller can be started");
                let died = wait(&mut child, after).is_none();
                length = if died { length.mul_f64(1.1) } else { after };
                (died, format!("a kill after {after:?}"))
            }
        };
        scene.look(&what, tried % 2 == 0);
        deaths += u32::from(died);
    }
    let seen = points.len() - left.len();
    println!("{words:?}: {deaths} deaths in {tried} runs, {seen} of {} chosen points tried", points.len());
}

#[test]
fn a_rotation_killed_anywhere_keeps_what_the_policy_keeps() {
    check("none", &["rotate", "gym", "--keep-last", "3"], "none", [3, 0, 0]);
}

#[test]
fn packing_killed_anywhere_costs_no_copy() {
    check("none", &["rotate", "gym", "--keep-last", "8"], "delta", [1, 0, 7]);
}

#[test]
fn packing_whole_copies_killed_anywhere_costs_no_copy() {
    check("none", &["rotate", "gym", "--keep-last", "4"], "gzip", [1, 3, 0]);
}

/// Every second copy goes, upon which the one before it is packed.
#[test]
fn repacking_killed_anywhere_costs_no_copy() {
    check("delta", &["rotate", "gym", "--keep-daily", "4"], "delta", [1, 0, 3]);
}
