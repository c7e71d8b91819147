//! Death: the puller is killed at any point, and the agent, and its mirror rots. No good copy is lost, no bad one is made.

use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox, wait};
use pullback_tests::served::Served;
use pullback_tests::strace::{self, Points};
use pullback_tests::{contents, databases, programs};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Pulls through each door that are killed wherever they are.
const RANDOM_KILLS: u32 = 20;

/// Rounds in which the mirror rots.
const ROUNDS_OF_ROT: usize = 50;

const SIGKILL: i32 = 9;

/// A source, how it is pulled, and what is in its store.
struct Scene<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    door: OsString,
    dice: Dice,
}

impl<'a> Scene<'a> {
    fn local(sandbox: &'a Sandbox, source: &Path, seed: u64) -> Self {
        Self { sandbox, source: source.to_owned(), door: source.into(), dice: Dice::new(seed) }
    }

    /// Rewrites rows on pages all over, so that there is something to pull.
    fn change(&mut self) {
        change(&self.source, &mut self.dice);
    }

    /// `program` as a pull of this source that keeps two copies.
    fn pull(&self, mut program: Command) -> Command {
        let words = ["pull", "--json", "--keep-last", "2"];
        program.arg("--store").arg(self.sandbox.store()).args(words).arg(&self.door);
        program
    }

    #[track_caller]
    fn listed(&self) -> Vec<String> {
        let listed = self.sandbox.puller(&["list", "--json"]).exits(0);
        assert_eq!(listed.stderr, "", "no copy is missed by {listed}");
        ids(&listed)
    }

    /// A pull that is not killed.
    #[track_caller]
    fn pull_whole(&self) -> Pulled {
        let pulled = self.sandbox.pull(&[OsStr::new("--keep-last"), OsStr::new("2"), &self.door]);
        assert_eq!(pulled.ran.code(), 0, "{}", pulled.ran);
        assert_eq!(pulled.verdict, "ok", "{}", pulled.ran);
        contents::assert_equal(&self.source, &pulled.path);
        pulled
    }

    /// Pulls until history knows every copy, so that it would miss one that a rotation half removed.
    fn settle(&mut self) {
        loop {
            let history = self.sandbox.puller(&["history", "--json", "gym"]).exits(0).json();
            let known: Vec<_> = history.iter().filter(|line| line["outcome"] == "stored").collect();
            if self.listed().iter().all(|id| known.iter().any(|line| line["copy"] == **id)) {
                return;
            }
            self.change();
            self.pull_whole();
        }
    }

    /// Changes the source, has `kill` run a pull that may die, and holds what is there then against the promise.
    #[track_caller]
    fn check(&mut self, what: &str, kill: impl FnOnce(&Self) -> bool) -> bool {
        self.settle();
        self.change();
        let last_good = self.listed().pop();
        let died = kill(self);
        let context = |ran: &Ran| format!("after a kill at {what}: {ran}");
        if let Some(last_good) = &last_good {
            let listed = self.listed();
            assert!(listed.contains(last_good), "a kill at {what} lost {last_good}, {listed:?} are left");
            let verified = self.sandbox.puller(&["verify", "--json", "--all"]);
            assert_eq!(verified.code(), 0, "{}", context(&verified));
            assert_eq!(ids(&verified), listed, "{}", context(&verified));
            assert!(verified.json().iter().all(|copy| copy["result"] == "ok"), "{}", context(&verified));
        }
        let pulled = self.pull_whole();
        self.is_tidy(what, &pulled);
        died
    }

    /// Nothing is in the store but whole copies and what belongs to them.
    #[track_caller]
    fn is_tidy(&self, what: &str, newest: &Pulled) {
        let listed = self.listed();
        assert!(listed.len() <= 2, "after a kill at {what} and a pull, {listed:?} are kept");
        assert_eq!(listed.last(), Some(&newest.copy), "after a kill at {what}");
        let copies = newest.path.parent().expect("a copy lies in a folder");
        let of_copy = |id: &String| {
            let suffixes: &[&str] = match *id == newest.copy {
                true => &["db", "pages", "json"],
                false => &["delta.gz", "json"],
            };
            suffixes.iter().map(|suffix| format!("{id}.{suffix}")).collect::<Vec<_>>()
        };
        let expected: BTreeSet<String> = listed.iter().flat_map(of_copy).collect();
        assert_eq!(names(copies), expected, "after a kill at {what} and a pull");
        for name in &expected {
            let mode =
                fs::metadata(copies.join(name)).expect("a file of a copy is there").permissions().mode()
                    & 0o777;
            assert_eq!(mode, 0o400, "of {name} after a kill at {what} and a pull");
        }
        let folder = copies.parent().expect("copies lie in their source's folder");
        let expected = [".lock", "copies", "history.jsonl", "latest.db", "source.json"];
        assert_eq!(names(folder), expected.map(str::to_owned).into(), "after a kill at {what} and a pull");
        let latest = fs::read_link(folder.join("latest.db")).expect("there is a newest copy");
        assert_eq!(folder.join(latest), newest.path, "after a kill at {what} and a pull");
        let host = folder.parent().expect("a source's folder lies in its host's");
        assert_eq!(names(host), ["gym".to_owned()].into(), "after a kill at {what} and a pull");
        let host = host.file_name().and_then(OsStr::to_str).expect("a host has a name");
        let expected = ["README.txt", host, "pullback-store.json", "unpack.py"].map(str::to_owned);
        assert_eq!(names(&self.sandbox.store()), expected.into(), "after a kill at {what} and a pull");
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = entries.map(|entry| entry.expect("a folder can be read").file_name());
    names.map(|name| name.into_string().expect("names of tests are UTF-8")).collect()
}

#[track_caller]
fn ids(ran: &Ran) -> Vec<String> {
    ran.json().iter().map(|object| object["copy"].as_str().expect("a copy has an id").to_owned()).collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A database in WAL mode, of about `bytes`, closed.
fn make(path: &Path, bytes: u64) {
    databases::gym(path, bytes, 1024);
}

/// Some visits more, and some members with other notes.
fn change(path: &Path, dice: &mut Dice) {
    let db = Connection::open(path).expect("a gym can be opened");
    db.execute_batch("PRAGMA synchronous = OFF; BEGIN").expect("a transaction can begin");
    for _ in 0..dice.between(1, 30) {
        let (id, words) = (dice.between(1, 400), dice.between(2, 20) as usize);
        db.execute("UPDATE members SET note = ?2 WHERE id = ?1", params![id, dice.words(words)])
            .expect("a row can be written");
        let sql =
            "INSERT INTO access_log(member_id, at, door, granted) VALUES (1, '2026-11-21', 'front', ?1)";
        db.execute(sql, [dice.between(0, 1_000_000)]).expect("a row can be written");
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

#[test]
fn a_pull_killed_at_any_step_leaves_the_last_good_copy_and_the_next_one_clears_up() {
    if !strace::is_usable() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 600_000);
    let mut scene = Scene::local(&sandbox, &source, 1);
    for _ in 0..3 {
        scene.change();
        scene.pull_whole().succeeds("stored");
    }
    let points = Points::new(&sandbox);
    scene.change();
    let mut watched = scene.pull(points.watch(&sandbox, programs::puller()));
    let mut watched = watched.stdout(Stdio::null()).spawn().unwrap();
    assert!(wait(&mut watched, Duration::from_secs(20)).is_some_and(|status| status.success()));
    let points = points.collect(watched.id(), &mut scene.dice);
    let mut deaths = 0;
    for point in &points {
        let died = scene.check(&point.to_string(), |scene| {
            let mut command = scene.pull(strace::killed_at(point, &sandbox, programs::puller()));
            sandbox.run(&mut command).status.signal() == Some(SIGKILL)
        });
        deaths += usize::from(died);
    }
    println!("{} points, {deaths} deaths", points.len());
    assert!(deaths >= 40, "only {deaths} of {} points were reached", points.len());
}

#[test]
fn a_first_pull_killed_at_any_step_does_not_stand_in_the_way_of_the_next() {
    if !strace::is_usable() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 100_000);
    let mut scene = Scene::local(&sandbox, &source, 2);
    let points = Points::new(&sandbox);
    let forget = || {
        for folder in [sandbox.store(), sandbox.file("home")] {
            if folder.exists() {
                fs::remove_dir_all(&folder).unwrap();
            }
        }
        fs::create_dir(sandbox.file("home")).unwrap();
    };
    let mut watched = scene.pull(points.watch(&sandbox, programs::puller()));
    let mut watched = watched.stdout(Stdio::null()).spawn().unwrap();
    assert!(wait(&mut watched, Duration::from_secs(20)).is_some_and(|status| status.success()));
    let points = points.collect(watched.id(), &mut scene.dice);
    let mut deaths = 0;
    for point in &points {
        forget();
        let mut command = scene.pull(strace::killed_at(point, &sandbox, programs::puller()));
        deaths += usize::from(sandbox.run(&mut command).status.signal() == Some(SIGKILL));
        let what = point.to_string();
        let pulled = scene.pull_whole();
        assert_eq!(pulled.json["source"], "local/gym", "after a kill at {what}");
        scene.is_tidy(&what, &pulled);
    }
    println!("{} points, {deaths} deaths", points.len());
    assert!(deaths >= 40, "only {deaths} of {} points were reached", points.len());
}

#[test]
fn a_verify_killed_at_any_step_leaves_the_copies_as_they_were() {
    if !strace::is_usable() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 100_000);
    let mut scene = Scene::local(&sandbox, &source, 7);
    scene.pull_whole().succeeds("stored");
    let verify = |mut program: Command| {
        program.arg("--store").arg(sandbox.store()).args(["verify", "--all", "--full", "--json"]);
        program
    };
    let points = Points::new(&sandbox);
    let mut watched = verify(points.watch(&sandbox, programs::puller()));
    let mut watched = watched.stdout(Stdio::null()).spawn().unwrap();
    assert!(wait(&mut watched, Duration::from_secs(20)).is_some_and(|status| status.success()));
    let mut deaths = 0;
    for point in points.collect(watched.id(), &mut scene.dice) {
        let died = scene.check(&point.to_string(), |_| {
            let mut command = verify(strace::killed_at(&point, &sandbox, programs::puller()));
            sandbox.run(&mut command).status.signal() == Some(SIGKILL)
        });
        deaths += usize::from(died);
    }
    println!("{deaths} deaths");
    assert!(deaths >= 5, "only {deaths} points were reached");
}

/// Kills pulls of `scene` at random moments of their time.
#[track_caller]
fn kill_at_random(scene: &mut Scene<'_>) {
    let sandbox = scene.sandbox;
    scene.change();
    scene.pull_whole().succeeds("stored");
    scene.change();
    let started = Instant::now();
    scene.pull_whole().succeeds("stored");
    let (mut length, mut deaths, mut number) = (started.elapsed(), 0, 0);
    while deaths < RANDOM_KILLS {
        assert!(number < RANDOM_KILLS * 10, "only {deaths} of {number} pulls were killed");
        number += 1;
        if number % 3 == 0 {
            // Nearly every page: the kill may come while they arrive, and the next run may go on from the draft.
            let sql = "UPDATE access_log SET door = 'no. ' || ?1";
            let app = Connection::open(&scene.source).expect("a gym can be opened");
            app.execute(sql, [number]).expect("rows can be written");
        }
        let after = length.mul_f64(scene.dice.between(0, 1_000) as f64 / 1_000.0);
        let died = scene.check(&format!("{after:?} (no. {number})"), |scene| {
            let out = File::create(sandbox.file("out")).expect("a file can be made");
            let mut child = scene
                .pull(sandbox.command(programs::puller()))
                .stdout(out)
                .spawn()
                .expect("puller can be started");
            wait(&mut child, after).is_none()
        });
        // What else this machine does decides how long a pull takes; so that is learnt on the way.
        match died {
            true => (deaths, length) = (deaths + 1, length.mul_f64(1.1)),
            false => length = after,
        }
    }
    println!("{deaths} deaths in {number} pulls, the last within {length:?}");
}

#[test]
fn local_pulls_killed_at_random_moments_leave_the_last_good_copy() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 3_000_000);
    kill_at_random(&mut Scene::local(&sandbox, &source, 3));
}

#[test]
fn pulls_from_an_agent_killed_at_random_moments_leave_the_last_good_copy() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 3_000_000);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let door = served.source("gym").into();
    kill_at_random(&mut Scene { door, ..Scene::local(&sandbox, &source, 4) });
}

#[test]
fn a_line_of_history_that_was_cut_short_costs_no_copy() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 100_000);
    let mut scene = Scene::local(&sandbox, &source, 9);
    for _ in 0..2 {
        scene.change();
        scene.pull_whole().succeeds("stored");
    }
    let history = sandbox.store().join("local/gym/history.jsonl");
    let lines = bytes(&history);
    fs::write(&history, &lines[..lines.len() - 30]).unwrap();
    scene.check("the last line of history", |_| true);
    scene.settle();
    assert_eq!(scene.listed().len(), 2);
}

/// An agent's source and state.
struct Edge<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    dice: Dice,
}

impl<'a> Edge<'a> {
    fn databases(&self) -> [(&str, &Path); 1] {
        [("gym", &self.source)]
    }

    /// An agent that `command` runs.
    fn serve(&self, command: Command) -> Served<'a> {
        Served::start_by(self.sandbox, &self.databases(), "reserve = \"0\"", command)
    }

    /// A pull into the part of the store called `name`, held against the source.
    #[track_caller]
    fn pull(&self, what: &str, served: &Served<'_>, name: &str, options: &[&str]) -> Pulled {
        let typed = served.source("gym");
        let words: Vec<&str> =
            options.iter().copied().chain(["--name", name, "--keep-last", "2", &typed]).collect();
        let pulled = self.sandbox.pull(&words);
        assert_eq!(pulled.ran.code(), 0, "{what}: {}", pulled.ran);
        contents::assert_equal(&self.source, &pulled.path);
        pulled
    }

    /// An agent that starts now gives exact copies: of what changed, from its mirror whole, and of what changes next.
    #[track_caller]
    fn check(&mut self, what: &str) {
        let served = self.serve(self.sandbox.command(programs::agent()));
        let first = self.pull(what, &served, "gym", &[]);
        change(&self.source, &mut self.dice);
        let whole = self.pull(what, &served, "whole", &["--full"]);
        let changed = self.pull(what, &served, "gym", &[]);
        assert_ne!(changed.snapshot, first.snapshot, "{what}");
        assert_eq!(changed.snapshot, whole.snapshot, "{what}");
        assert!(bytes(&changed.path) == bytes(&whole.path), "{what}");
    }

    /// Kills agents that do what `prepare` made necessary for a pull into `name`, at each of their steps.
    #[track_caller]
    fn kill_at_each_step(&mut self, name: &str, prepare: impl Fn(&mut Self)) {
        let typed = |served: &Served<'_>| ["--name".to_owned(), name.to_owned(), served.source("gym")];
        prepare(self);
        let points = Points::new(self.sandbox);
        let pid = {
            let mut served = self.serve(points.watch(self.sandbox, programs::agent()));
            self.sandbox.pull(&typed(&served)).succeeds("stored");
            wait_for_mirrors(&self.sandbox.state());
            assert!(served.terminate().success());
            served.pid()
        };
        let points = points.collect(pid, &mut self.dice);
        let mut deaths = 0;
        for point in &points {
            prepare(self);
            {
                let mut served = self.serve(strace::killed_at(point, self.sandbox, programs::agent()));
                // The pull may be whole before the agent dies over its mirror.
                let pulled = self.sandbox.pull(&typed(&served));
                assert!([0, 5].contains(&pulled.ran.code()), "at {point}: {}", pulled.ran);
                wait_for_mirrors(&self.sandbox.state());
                deaths += usize::from(!served.terminate().success());
            }
            self.check(&format!("after the agent was killed at {point}"));
        }
        println!("{} points, {deaths} deaths", points.len());
        assert!(deaths * 4 >= points.len() * 3, "only {deaths} of {} points were reached", points.len());
    }
}

#[test]
fn an_agent_killed_while_it_makes_its_first_mirror_serves_exact_copies_afterwards() {
    if !strace::is_usable() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 800_000);
    let mut edge = Edge { sandbox: &sandbox, source, dice: Dice::new(5) };
    edge.kill_at_each_step("gym", |edge| {
        change(&edge.source, &mut edge.dice);
        fs::remove_dir_all(edge.sandbox.state()).unwrap();
        fs::create_dir(edge.sandbox.state()).unwrap();
    });
}

/// Pulls into `name` while the mirror is refreshed: the puller builds upon what the mirror holds, or upon something older.
#[track_caller]
fn kill_refreshing_agents(name: &str) {
    if !strace::is_usable() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 800_000);
    let mut edge = Edge { sandbox: &sandbox, source, dice: Dice::new(6) };
    let served = edge.serve(sandbox.command(programs::agent()));
    edge.pull("at first", &served, name, &[]);
    drop(served);
    edge.check("at first");
    edge.kill_at_each_step(name, |edge| change(&edge.source, &mut edge.dice));
}

#[test]
fn an_agent_killed_while_it_sends_and_folds_serves_exact_copies_afterwards() {
    kill_refreshing_agents("gym");
}

#[test]
fn an_agent_killed_while_it_folds_before_it_sends_serves_exact_copies_afterwards() {
    kill_refreshing_agents("older");
}

/// The files of a mirror, all of which may rot; the last two are there only within a fold, and after one was cut short.
const MIRROR_FILES: [&str; 5] = ["pages", "hashes", "state.json", "delta", "fold.json"];

/// The one mirror below `state`, its lock taken: no agent works with it now.
#[track_caller]
fn idle_mirror(state: &Path) -> (PathBuf, File) {
    let mirrors: Vec<_> = fs::read_dir(state.join("mirrors")).expect("there are mirrors").collect();
    assert_eq!(mirrors.len(), 1, "one source, one mirror");
    let mirror = mirrors[0].as_ref().expect("a folder can be read").path();
    let lock = File::options().write(true).open(mirror.join("refresh")).expect("a mirror has a lock");
    wait_for(&lock);
    (mirror, lock)
}

#[track_caller]
fn wait_for(lock: &File) {
    let started = Instant::now();
    while lock.try_lock().is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "the mirror is locked and nobody pulls");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until no mirror below `state`, where there are any, is refreshed: a pull may end before its fold.
#[track_caller]
fn wait_for_mirrors(state: &Path) {
    let Ok(mirrors) = fs::read_dir(state.join("mirrors")) else { return };
    let locks = mirrors
        .flatten()
        .filter_map(|mirror| File::options().write(true).open(mirror.path().join("refresh")).ok());
    locks.for_each(|lock| wait_for(&lock));
}

/// What a mirror's files held: each may turn up in place of what should be there.
type Files = Vec<(&'static str, Vec<u8>)>;

fn files(mirror: &Path) -> Files {
    MIRROR_FILES.into_iter().filter_map(|name| Some((name, fs::read(mirror.join(name)).ok()?))).collect()
}

/// Lets one file of the mirror rot in one way, and says how.
fn rot(mirror: &Path, earlier: &[Files], dice: &mut Dice) -> String {
    let name = MIRROR_FILES[dice.between(0, 5) as usize];
    let path = mirror.join(name);
    let mut bytes = fs::read(&path).unwrap_or_default();
    let how = match dice.between(0, 6) {
        0 => {
            fs::remove_file(&path).ok();
            return format!("{name} removed");
        }
        1 => {
            bytes.truncate(dice.between(0, bytes.len() as i64 + 1) as usize);
            "cut short"
        }
        2 => {
            let more = dice.between(1, 5_000) as usize;
            bytes.extend(dice.bytes(more));
            "made longer"
        }
        3 if !earlier.is_empty() => {
            // As a restored disk or a lost rename would have it: good in itself, and of another time.
            let files = &earlier[dice.between(0, earlier.len() as i64) as usize];
            let json = |name: &str| name.ends_with(".json");
            let same = |other: &str| other == name || (json(name) && json(other));
            bytes = files
                .iter()
                .find(|(other, _)| same(other))
                .map(|(_, bytes)| bytes.clone())
                .unwrap_or_default();
            "as it was before"
        }
        _ => return flip(&path, 5, dice),
    };
    fs::write(&path, bytes).expect("a file can be written");
    format!("{name} {how}")
}

/// Flips up to `bits_max` bits of a file that may not be there.
fn flip(path: &Path, bits_max: i64, dice: &mut Dice) -> String {
    let mut bytes = fs::read(path).unwrap_or_default();
    let bits = if bytes.is_empty() { 0 } else { dice.between(1, bits_max + 1) };
    for _ in 0..bits {
        let at = dice.between(0, bytes.len() as i64) as usize;
        bytes[at] ^= 1 << dice.between(0, 8);
    }
    fs::write(path, bytes).expect("a file can be written");
    format!("{bits} bits of {} flipped", path.file_name().unwrap_or_default().display())
}

/// What an agent that is killed between the mark and the end of a fold leaves behind.
fn half_folded(edge: &mut Edge<'_>) -> Option<Files> {
    if !strace::is_usable() {
        return None;
    }
    change(&edge.source, &mut edge.dice);
    let point = strace::Point::new("fsync", 4);
    let mut served = edge.serve(strace::killed_at(&point, edge.sandbox, programs::agent()));
    edge.sandbox.pull(&["--name", "gym", &served.source("gym")]);
    idle_mirror(&edge.sandbox.state());
    assert!(
        !served.terminate().success(),
        "a fold makes its delta, its mark and the folder of both durable before its pages"
    );
    let found = files(&idle_mirror(&edge.sandbox.state()).0);
    assert!(found.iter().any(|(name, _)| *name == "fold.json"), "the mark is set by then");
    Some(found)
}

#[test]
fn a_mirror_that_rots_reaches_no_copy_and_blocks_no_pull() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    make(&source, 500_000);
    let mut edge = Edge { sandbox: &sandbox, source, dice: Dice::new(8) };
    edge.check("at first");
    let mut earlier: Vec<Files> = half_folded(&mut edge).into_iter().collect();
    let served = edge.serve(sandbox.command(programs::agent()));
    let mut discarded = 0;
    for round in 0..ROUNDS_OF_ROT {
        let mut said = Vec::new();
        {
            let (mirror, _lock) = idle_mirror(&sandbox.state());
            earlier.push(files(&mirror));
            // Rot in the pages alone is found last, when they are read to be sent.
            if round % 2 == 0 {
                said.push(flip(&mirror.join("pages"), 20, &mut edge.dice));
            } else {
                for _ in 0..edge.dice.between(1, 4) {
                    said.push(rot(&mirror, &earlier, &mut edge.dice));
                }
                for kept in fs::read_dir(mirror.join("deltas")).expect("there is such a folder").flatten() {
                    if edge.dice.between(0, 3) == 0 {
                        said.push(flip(&kept.path(), 20, &mut edge.dice));
                    }
                }
            }
        }
        match edge.dice.between(0, 8) {
            0 => {}
            1 => Connection::open(&edge.source).unwrap().execute_batch("VACUUM").unwrap(),
            2 => {
                let sql = "DELETE FROM access_log WHERE id > (SELECT max(id) - 300 FROM access_log); VACUUM";
                Connection::open(&edge.source).unwrap().execute_batch(sql).unwrap();
            }
            _ => change(&edge.source, &mut edge.dice),
        }
        let what = format!("round {round}: {}", said.join(", "));
        // Without an agent process, and so without a mirror.
        let direct = sandbox.pull(&["--name", "direct", "--keep-last", "2", edge.source.to_str().unwrap()]);
        assert_eq!(direct.ran.code(), 0, "{what}: {}", direct.ran);
        // What is sent comes out of the mirror, or beside it, or is little: each in turn is the first to meet the rot.
        let orders: [&[(&str, &[&str])]; 3] = [
            &[("gym", &[]), ("older", &[])],
            &[("older", &[]), ("gym", &[])],
            &[("whole", &["--full"]), ("gym", &[])],
        ];
        for (name, options) in orders[edge.dice.between(0, 3) as usize] {
            let pulled = edge.pull(&what, &served, name, options);
            assert_eq!(pulled.snapshot, direct.snapshot, "{what}: {}", pulled.ran);
            assert!(bytes(&pulled.path) == bytes(&direct.path), "{what}");
            discarded += usize::from(pulled.ran.stdout.contains("made anew"));
        }
    }
    let discarded_first = served.log().matches("the mirror is discarded").count();
    println!("{discarded_first} mirrors were discarded when opened, and {discarded} pulls met a rotten page");
    // Else nothing was shown.
    assert!(discarded_first > ROUNDS_OF_ROT / 4, "{}", served.log());
    assert!(discarded > ROUNDS_OF_ROT / 10, "only {discarded} pulls met a rotten page");
}
