//! Kills of whatever removes or rewrites copies, before each call that changes the disk and at random: never are there fewer
//! good copies than before, or than the policy keeps, whichever is less; and the next run finishes and leaves nothing over.
//!
//! `PULLBACK_KILLS=1000 cargo test -p pullback-tests --test kills -- --nocapture` kills oftener.

use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox, wait};
use pullback_tests::saved::Saved;
use pullback_tests::strace::{self, Point, Points};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
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
    /// How many copies that leaves.
    kept: usize,
    dice: Dice,
}

impl Scene {
    fn new(words: &[&'static str], kept: usize) -> Self {
        let sandbox = Sandbox::new().with_limit(LIMIT);
        let source = sandbox.db("gym.db");
        databases::gym(&source, 80_000, 1024);
        let mut dice = Dice::new(3);
        for _ in 0..COPIES {
            let db = Connection::open(&source).expect("a gym can be opened");
            for _ in 0..5 {
                let sql = "UPDATE members SET note = ?2 WHERE id = ?1";
                db.execute(sql, (dice.between(1, 16), dice.words(8))).expect("a row can be written");
            }
            drop(db);
            sandbox.pull(&[&source]).succeeds("stored");
        }
        sandbox.puller(&["verify", "--all"]).exits(0);
        let folder = sandbox.store().join("local/gym");
        let saved = Saved::of(&folder);
        let before = ids(&sandbox.puller(&["list", "--json"]).exits(0));
        assert_eq!(before.len(), COPIES);
        Self { sandbox, folder, saved, before, words: words.to_vec(), kept, dice }
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
        let wanted: Vec<&String> = self.before.iter().rev().take(self.kept).collect();
        // Every other time the next run comes first: nothing may depend on somebody's looking.
        if look_first {
            self.assert_good(what, &wanted);
        }
        let finished = self.sandbox.run(&mut self.command(self.sandbox.command(programs::puller()))).exits(0);
        self.assert_good(&format!("{what}, and {finished}"), &wanted);
        let listed = ids(&self.sandbox.puller(&["list", "--json"]).exits(0));
        assert_eq!(listed.iter().rev().collect::<Vec<_>>(), wanted, "the copies after {what}");
        self.is_tidy(what, &listed);
    }

    /// All of `wanted` are good, and none that is listed is not.
    #[track_caller]
    fn assert_good(&self, what: &str, wanted: &[&String]) {
        let verified = self.sandbox.puller(&["verify", "--all", "--json"]);
        assert_eq!(verified.code(), 0, "after {what}: {verified}");
        let good = ids(&verified);
        for id in wanted {
            assert!(good.contains(id), "after {what}, {id} is not among the good copies {good:?}");
        }
    }

    /// Nothing is there but files of these copies, and what every source has.
    #[track_caller]
    fn is_tidy(&self, what: &str, listed: &[String]) {
        let names = |folder: PathBuf| -> BTreeSet<String> {
            let entries = fs::read_dir(folder).expect("a folder can be read").flatten();
            entries.map(|entry| entry.file_name().into_string().expect("names of tests are UTF-8")).collect()
        };
        for name in names(self.folder.join("copies")) {
            let of = name.split('.').next().unwrap_or_default();
            assert!(listed.iter().any(|id| id == of), "`{name}` is left over after {what}");
        }
        let expected = [".lock", "copies", "history.jsonl", "latest.db", "source.json"];
        assert_eq!(names(self.folder.clone()), expected.map(str::to_owned).into(), "after {what}");
    }
}

fn ids(ran: &Ran) -> Vec<String> {
    ran.json().iter().map(|object| object["copy"].as_str().expect("a copy has an id").to_owned()).collect()
}

#[track_caller]
fn check(words: &[&'static str], kept: usize) {
    if !strace::is_usable() {
        return;
    }
    let mut scene = Scene::new(words, kept);
    let (points, mut length) = scene.watch();
    let kills =
        std::env::var("PULLBACK_KILLS").map_or(KILLS, |count| count.parse().expect("a number of kills"));
    let (mut deaths, mut tried, mut left) = (0, 0, points.iter());
    while deaths < kills {
        tried += 1;
        assert!(tried < kills * 10 + 100, "only {deaths} of {tried} runs were killed");
        scene.saved.put_back();
        let point = left.next();
        let (died, what) = match point {
            Some(point) => {
                let program = strace::killed_at(point, &scene.sandbox, programs::puller());
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
    println!("{words:?}: {deaths} deaths in {tried} runs, {} of them at chosen points", points.len());
}

#[test]
fn a_rotation_killed_anywhere_keeps_what_the_policy_keeps() {
    check(&["rotate", "gym", "--keep-last", "3"], 3);
}
