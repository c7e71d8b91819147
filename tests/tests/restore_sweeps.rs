//! Restores that are cut: killed, or with a call that fails, at each call that changes a disk, in the puller and in the agent.
//! Each time the target is what it was or what it was to be, what was there can be had back, and the next run finishes.
//!
//! `PULLBACK_POINTS=1000 cargo test -p pullback-tests --test restore_sweeps -- --nocapture` tries more points of each restore,
//! that many at most.

use pullback_tests::contents::{self, Contents};
use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{self, Ran, Sandbox};
use pullback_tests::saved::Saved;
use pullback_tests::sshd::script;
use pullback_tests::strace::{self, Blow, Point, Points};
use pullback_tests::{databases, programs};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Points that are tried of each restore, spread evenly, unless `PULLBACK_POINTS` says how many.
const POINTS: usize = 10;

/// Of a call that a run makes more often than this, so many times are chosen, spread evenly.
const EACH_MAX: u32 = 40;

/// Calls that change names or contents on a disk, or make them durable: what is killed is killed at these.
const CHANGES: [&str; 15] = [
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "symlinkat",
    "fchmod",
    "ftruncate",
    "mkdir",
    "pwrite64",
    "copy_file_range",
    "pread64",
];

/// Those that a disk that fails has fail.
const FAIL: [&str; 9] = [
    "fsync",
    "fdatasync",
    "rename",
    "renameat2",
    "unlink",
    "ftruncate",
    "pwrite64",
    "copy_file_range",
    "pread64",
];

/// Those that a full disk has fail.
const NEED_ROOM: [&str; 3] = ["pwrite64", "copy_file_range", "mkdir"];

/// How long a program may run.
const LIMIT: Duration = Duration::from_secs(60);

/// The exit code of a program whose libraries could not be read.
const NOT_STARTED: i32 = 127;

/// What is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Puller,
    Agent,
}

/// What is at the target before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// Nothing.
    Nothing,
    /// A database whose application died, which left rows in its `-wal`.
    Wal,
    /// One in rollback mode.
    Rollback,
    /// What SQLite cannot open, and all that lies beside it.
    Rubbish,
}

/// What is at the target after a blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Old,
    New,
    /// The old files are on their way to where they are set aside, all of them there or here.
    Between,
}

/// A restore that is begun again and again from the same state.
struct Scene {
    sandbox: Sandbox,
    there: There,
    /// Behind a stand-in for `ssh`, which runs the agent here.
    is_far: bool,
    target: PathBuf,
    /// The restore.
    words: Vec<String>,
    /// The source whose folder has the record.
    folder: PathBuf,
    /// The files at the target before, and in what SQL sees.
    files: BTreeMap<String, Vec<u8>>,
    old: Option<Contents>,
    new: Option<Contents>,
    saved: Vec<Saved>,
    looks: std::cell::Cell<u32>,
}

/// What SQL sees, but for the numbers of root pages, which a table gets anew when it is replaced.
fn seen(path: &Path) -> Contents {
    let mut contents = contents::of(path);
    contents.schema.iter_mut().for_each(|row| row.3 = 0);
    contents.schema.sort();
    contents
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().into_string().expect("names of tests are UTF-8"))
        .collect()
}

/// All files below `folder`, from there.
fn all_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in names(folder) {
        let path = folder.join(&name);
        match path.is_dir() {
            true => files.extend(
                all_files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)),
            ),
            false => {
                files.insert(name, fs::read(&path).expect("a file can be read"));
            }
        }
    }
    files
}

/// Rewrites and adds rows all over.
fn change(db: &Connection, seed: u64) {
    let mut dice = Dice::new(seed);
    db.execute_batch("PRAGMA synchronous = OFF; BEGIN").expect("a transaction can begin");
    for id in 1..40 {
        let sql = "UPDATE members SET note = ?2 WHERE id = ?1";
        db.execute(sql, (id, dice.words(12))).expect("a row can be written");
        let sql =
            "INSERT INTO access_log(member_id, at, door, granted) VALUES (1, '2026-11-21', 'front', ?1)";
        db.execute(sql, [id]).expect("a row can be written");
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

impl Scene {
    fn new(there: There, is_far: bool, tables: &[&str]) -> Self {
        let sandbox = Sandbox::new().with_limit(LIMIT);
        let config = sandbox.file("home/xdg_config_home/pullback");
        sandbox.configure("pack = \"none\"\n");
        fs::write(config.join("agent.toml"), "reserve = \"0\"\nallow_restore = true\n")
            .expect("a configuration can be written");
        fs::create_dir(sandbox.file("tmp")).expect("a folder can be made");
        let target = sandbox.db("gym.db");
        databases::gym(&target, 60_000, 1024);
        let door = if is_far { format!("pi:{}", target.display()) } else { target.display().to_string() };
        let mut scene = Self {
            there,
            is_far,
            words: Vec::new(),
            folder: sandbox.store().join(if is_far { "pi/gym" } else { "local/gym" }),
            files: BTreeMap::new(),
            old: None,
            new: None,
            saved: Vec::new(),
            looks: std::cell::Cell::new(0),
            target,
            sandbox,
        };
        scene.agent_is(&Command::new(programs::agent()));
        if there == There::Rollback {
            let db = Connection::open(&scene.target).expect("a gym can be opened");
            db.execute_batch("PRAGMA journal_mode = DELETE").expect("a mode can be set");
        }
        let pulled = scene.run(&["pull", "--json", &door]).exits(0).only_json();
        let copy = pulled["copy"].as_str().expect("a copy has an id").to_owned();
        let app = Connection::open(&scene.target).expect("a gym can be opened");
        app.execute_batch("PRAGMA wal_autocheckpoint = 0").expect("a pragma");
        change(&app, 7);
        scene.prepare(app);
        let place: &[&str] = match there {
            There::Nothing => &["--to", &door, "--yes"],
            There::Rubbish => &["--in-place", "--yes", "--force"],
            There::Wal | There::Rollback => &["--in-place", "--yes"],
        };
        scene.words = ["restore", "gym", &copy].iter().chain(place).map(|word| (*word).to_owned()).collect();
        for table in tables {
            scene.words.extend(["--table".to_owned(), (*table).to_owned()]);
        }
        scene.save();
        scene
    }

    /// From now on it is the undo of that restore which is struck.
    fn undone(&mut self) {
        self.run(&self.words).exits(0);
        self.words = ["restore", "--undo", "gym", "--yes"].map(str::to_owned).into();
        self.save();
    }

    /// From now on it stops an application before, and starts it again.
    fn stopping(&mut self) {
        let say = |word: &str| format!("echo {word} >> '{}'", self.sandbox.file(word).display());
        let words = ["--stop-cmd".to_owned(), say("stopped"), "--start-cmd".to_owned(), say("started")];
        self.words.extend(words);
    }

    /// Whoever was stopped runs again, whatever became of the puller.
    #[track_caller]
    fn what_was_stopped_is_started(&self, what: &str) {
        if self.sandbox.file("stopped").exists() {
            sandbox::wait_until(&format!("the start command {what}"), || {
                self.sandbox.file("started").exists()
            });
        }
    }

    /// Makes of the gym that `app` has open what is to be at the target.
    fn prepare(&mut self, app: Connection) {
        let dir = self.sandbox.file("db");
        match self.there {
            There::Nothing => {
                drop(app);
                fs::remove_file(&self.target).expect("a file can be removed");
            }
            There::Rollback => drop(app),
            There::Wal => {
                let files = all_files(&dir);
                drop(app);
                for name in ["gym.db", "gym.db-wal"] {
                    fs::write(dir.join(name), &files[name]).expect("a file can be written");
                }
            }
            There::Rubbish => {
                drop(app);
                fs::write(&self.target, "no database ".repeat(5000)).expect("a file can be written");
                for suffix in ["-wal", "-shm", "-journal"] {
                    fs::write(dir.join(format!("gym.db{suffix}")), format!("the {suffix}").repeat(700))
                        .expect("a file can be written");
                }
            }
        }
    }

    /// From now on this is the state before.
    fn save(&mut self) {
        self.files = all_files(&self.sandbox.file("db"));
        if matches!(self.there, There::Wal | There::Rollback) {
            self.old = Some(seen(&self.copy_of_target()));
        }
        self.saved = ["db", "store", "home", "state"].map(|name| Saved::of(&self.sandbox.file(name))).into();
    }

    fn put_back(&self) {
        self.saved.iter().for_each(Saved::put_back);
        for word in ["stopped", "started"] {
            let _ = fs::remove_file(self.sandbox.file(word));
        }
        let _ = fs::remove_dir_all(self.sandbox.file("tmp"));
        fs::create_dir(self.sandbox.file("tmp")).expect("a folder can be made");
    }

    /// The target and what lies beside it, elsewhere: what looks at it there changes nothing here.
    fn copy_of_target(&self) -> PathBuf {
        let to = self.sandbox.file("looked");
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).expect("a folder can be made");
        for name in names(&self.sandbox.file("db")).iter().filter(|name| name.starts_with("gym.db")) {
            let from = self.sandbox.db(name);
            if from.is_file() {
                fs::copy(from, to.join(name)).expect("a file can be copied");
            }
        }
        to.join("gym.db")
    }

    /// Has `ssh` be `agent`, with one more word.
    fn agent_is(&self, agent: &Command) {
        let words = [agent.get_program()].into_iter().chain(agent.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let noted = self.sandbox.file("agents");
        script(
            &self.sandbox.file("ssh"),
            &format!("echo $$ >> '{}'\nexec {} stdio", noted.display(), words.join(" ")),
        );
    }

    /// `program` with `words`, in this scene.
    fn command<S: AsRef<std::ffi::OsStr>>(&self, mut program: Command, words: &[S]) -> Command {
        program.env("TMPDIR", self.sandbox.file("tmp")).env("PULLER_SSH", self.sandbox.file("ssh"));
        program.arg("--store").arg(self.sandbox.store()).args(words);
        program
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Ran {
        let ran = self.sandbox.run(&mut self.command(self.sandbox.command(programs::puller()), words));
        self.wait_for_agents();
        ran
    }

    fn last_agent(&self) -> Option<u32> {
        let pids = fs::read_to_string(self.sandbox.file("agents")).unwrap_or_default();
        pids.lines().last().map(|pid| pid.parse().expect("a process has a number"))
    }

    /// What goes on at the far end has come to its end. Nobody may wait for a process whose parent was killed.
    fn wait_for_agents(&self) {
        if let Some(pid) = self.last_agent().filter(|_| self.is_far) {
            let is_over = || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit_once(')').is_none_or(|(_, state)| state.trim_start().starts_with('Z'))
            };
            sandbox::wait_until("the end of the agent", is_over);
        }
    }

    /// Runs it once as it is to be, and chooses where to strike.
    fn points(&mut self, whose: Whose) -> Vec<(Blow, Point)> {
        self.put_back();
        let points = Points::of_calls(&self.sandbox, &CHANGES);
        let (ran, pid) = match whose {
            Whose::Puller => {
                let mut watched = self.command(points.watch(&self.sandbox, programs::puller()), &self.words);
                let running = self.sandbox.start(&mut watched);
                let pid = running.pid();
                (running.finish(), pid)
            }
            Whose::Agent => {
                self.agent_is(&points.watch(&self.sandbox, programs::agent()));
                let ran = self.run(&self.words);
                self.agent_is(&Command::new(programs::agent()));
                (ran, self.last_agent().expect("an agent was run"))
            }
        };
        ran.exits(0);
        self.wait_for_agents();
        self.new = Some(seen(&self.target));
        assert_ne!(self.new, self.old, "there is something to restore");
        let counts = points.counts(pid);
        let of = |blow: Blow, calls: &[&str]| {
            let counted: Vec<_> = counts.iter().filter(|(call, _)| calls.contains(call)).collect();
            counted
                .into_iter()
                .flat_map(|(call, count)| some_of(call, *count))
                .map(|point| (blow, point))
                .collect::<Vec<_>>()
        };
        let kills: Vec<&str> = CHANGES.into_iter().filter(|call| *call != "pread64").collect();
        let all =
            [of(Blow::Kill, &kills), of(Blow::Error("EIO"), &FAIL), of(Blow::Error("ENOSPC"), &NEED_ROOM)]
                .concat();
        let count = std::env::var("PULLBACK_POINTS")
            .map_or(POINTS, |count| count.parse().expect("a number of points"));
        let count = count.min(all.len());
        (0..count).map(|number| all[number * all.len() / count].clone()).collect()
    }

    /// Strikes at each point, and looks at what that left and at what the next run makes of it.
    fn sweep(&mut self, whose: Whose) -> Tally {
        let began = Instant::now();
        let mut tally = Tally::default();
        for (blow, point) in self.points(whose) {
            self.put_back();
            let ran = match whose {
                Whose::Puller => {
                    let program = strace::struck_at(&point, blow, &self.sandbox, programs::puller());
                    self.sandbox.run(&mut self.command(program, &self.words))
                }
                Whose::Agent => {
                    self.agent_is(&strace::struck_at(&point, blow, &self.sandbox, programs::agent()));
                    let ran = self.run(&self.words);
                    self.agent_is(&Command::new(programs::agent()));
                    ran
                }
            };
            self.wait_for_agents();
            if ran.status.code() == Some(NOT_STARTED) {
                continue;
            }
            // One point that breaks the promise does not hide the next.
            let held = catch_unwind(AssertUnwindSafe(|| {
                let what = format!("after {blow:?} of the {whose:?} at {point}: {ran}");
                self.what_was_stopped_is_started(&what);
                self.is_said(&ran, blow, whose, &what);
                let found = self.look(&what);
                self.go_on(found, &what);
                found
            }));
            match held {
                Ok(found) => tally.add(blow, &ran, found),
                Err(_) => tally.broken.push(format!("{blow:?} at {point}")),
            }
        }
        println!(
            "{:?} far={} {whose:?} {:?}: {tally:?} in {:?}",
            self.there,
            self.is_far,
            &self.words[3..],
            began.elapsed()
        );
        tally
    }

    /// Whoever lives says what happened.
    #[track_caller]
    fn is_said(&self, ran: &Ran, blow: Blow, whose: Whose, what: &str) {
        if ran.status.signal().is_some() {
            assert_eq!((blow, whose), (Blow::Kill, Whose::Puller), "{what}");
            return;
        }
        if ran.code() == 0 {
            assert_ne!(self.look(what), Found::Old, "{what}");
            return;
        }
        let line = ran.stderr.lines().find(|line| line.starts_with("error")).unwrap_or_default();
        assert!(line.contains("[P"), "no sentence {what}");
        assert!(!ran.stderr.contains("panicked"), "{what}");
        match blow {
            Blow::Error("ENOSPC") => assert_eq!(ran.code(), 8, "{what}"),
            // Of a `-shm` that cannot grow, SQLite does not say why.
            Blow::Error(_) => assert!([1, 4, 7, 8].contains(&ran.code()), "{what}"),
            // It may die before it speaks.
            Blow::Kill => assert!([5, 7].contains(&ran.code()), "{what}"),
        }
    }

    /// Holds what is there against the promise.
    #[track_caller]
    fn look(&self, what: &str) -> Found {
        let found = self.target_is(what);
        if found == Found::New && self.old.is_some() {
            self.safety_copy_is_there(what);
        }
        if self.there == There::Rubbish {
            self.every_old_file_is_somewhere(what);
        }
        found
    }

    #[track_caller]
    fn target_is(&self, what: &str) -> Found {
        let now = all_files(&self.sandbox.file("db"));
        if self.files.iter().all(|(name, bytes)| now.get(name) == Some(bytes))
            && now.contains_key("gym.db") == self.files.contains_key("gym.db")
        {
            return Found::Old;
        }
        if self.there == There::Rubbish
            && (!now.contains_key("gym.db") || now["gym.db"] == self.files["gym.db"])
        {
            return Found::Between;
        }
        let copy = self.copy_of_target();
        let contents = opened_by_an_application(&copy, what);
        match (Some(&contents) == self.old.as_ref(), Some(&contents) == self.new.as_ref()) {
            (true, _) => Found::Old,
            (_, true) => Found::New,
            _ => panic!("the target is neither what it was nor what it was to be, {what}"),
        }
    }

    #[track_caller]
    fn record(&self, what: &str) -> Value {
        let record = fs::read(self.folder.join("restore.json"));
        let record = record.unwrap_or_else(|error| panic!("no record: {error}, {what}"));
        serde_json::from_slice(&record).expect("a record is JSON")
    }

    /// The copy that the record names holds what was there.
    #[track_caller]
    fn safety_copy_is_there(&self, what: &str) {
        let record = self.record(what);
        let safety =
            record["safety"].as_str().unwrap_or_else(|| panic!("{record} names no safety copy, {what}"));
        let copy = self.folder.join(format!("copies/{safety}.db"));
        assert!(copy.is_file(), "{safety} is no copy, {what}");
        assert!(Some(seen(&copy)) == self.old, "{safety} is not what was there, {what}");
    }

    fn copies(&self) -> Vec<PathBuf> {
        let copies = self.folder.join("copies");
        let names = names(&copies).into_iter().filter(|name| name.ends_with(".db"));
        names.map(|name| copies.join(name)).collect()
    }

    #[track_caller]
    fn every_old_file_is_somewhere(&self, what: &str) {
        let now = all_files(&self.sandbox.file("db"));
        for (name, bytes) in &self.files {
            let is_it = |(at, found): (&String, &Vec<u8>)| {
                found == bytes && (at == name || at.ends_with(&format!("/{name}")))
            };
            assert!(now.iter().any(is_it), "{name} is in none of {:?}, {what}", now.keys());
        }
    }

    /// The next run finishes, or takes back.
    #[track_caller]
    fn go_on(&self, found: Found, what: &str) {
        let number = self.looks.get();
        self.looks.set(number + 1);
        let is_undo = self.words.contains(&"--undo".to_owned());
        if is_undo && found == Found::New && !self.record(what)["ended_at"].is_null() {
            // Once more would undo it.
            return;
        }
        let can_undo = self.old.is_some() && found == Found::New && !is_undo;
        if number % 3 == 1 && can_undo {
            let ran = self.run(&["restore", "--undo", "gym", "--yes"]);
            let what = format!("{what}\nand then {ran}");
            assert_eq!(ran.code(), 0, "{what}");
            self.nothing_is_left(&what);
            assert_eq!(
                opened_by_an_application(&self.target, &what),
                *self.old.as_ref().expect("there is"),
                "{what}"
            );
            return;
        }
        let mut what = what.to_owned();
        if number % 3 == 2 && found != Found::Between && self.old.is_some() {
            let ran = self.run(&["pull", "gym"]);
            what = format!("{what}\nand then {ran}");
            // A writer recovers a hot journal, and a pull is none.
            let is_left_to_a_writer = ran.code() == 7 && ran.stderr.contains("hot rollback journal");
            assert!(ran.code() == 0 || is_left_to_a_writer && self.there == There::Rollback, "{what}");
        }
        let ran = self.run(&self.words);
        what = format!("{what}\nand then {ran}");
        assert_eq!(ran.code(), 0, "{what}");
        self.nothing_is_left(&what);
        if self.there == There::Rubbish {
            self.every_old_file_is_somewhere(&what);
        }
        // Of tables that were replaced twice, the record leads to what was there in between.
        match (&self.old, self.words.contains(&"--table".to_owned())) {
            (Some(_), false) => self.safety_copy_is_there(&what),
            (Some(old), true) => assert!(self.copies().iter().any(|copy| seen(copy) == *old), "{what}"),
            (None, _) => {}
        }
        assert!(Some(opened_by_an_application(&self.target, &what)) == self.new, "{what}");
        let verified = self.run(&["verify", "--all"]);
        assert_eq!(verified.code(), 0, "{what}\nand then {verified}");
    }

    /// Nothing lies about but databases, whole copies and what belongs to them.
    #[track_caller]
    fn nothing_is_left(&self, what: &str) {
        let mut there = names(&self.sandbox.file("db"));
        if self.there == There::Rubbish {
            there.retain(|name| !name.starts_with("gym.db.quarantine-"));
        }
        let beside = ["gym.db", "gym.db-wal", "gym.db-shm"].map(str::to_owned);
        assert!(there.iter().all(|name| beside.contains(name)), "{there:?} are beside the target, {what}");
        assert_eq!(names(&self.sandbox.file("tmp")), BTreeSet::new(), "{what}");
        let listed = self.run(&["list", "--json", "gym"]).exits(0);
        let ids =
            listed.json().into_iter().map(|copy| copy["copy"].as_str().expect("a copy has an id").to_owned());
        let files = ids.flat_map(|id| ["db", "pages", "json"].map(|end| format!("{id}.{end}")));
        assert_eq!(names(&self.folder.join("copies")), files.collect(), "{what}");
        let known = [".lock", "copies", "history.jsonl", "latest.db", "source.json", "restore.json"];
        let odd: Vec<String> =
            names(&self.folder).into_iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(odd.is_empty(), "{odd:?} are in the source's folder, {what}");
        for name in all_files(&self.sandbox.file("home")).into_keys() {
            assert!(!name.contains(".pullback-") && !name.contains(".tmp"), "{name} is left, {what}");
        }
    }
}

/// The database at `path` as a writer finds it, whole.
#[track_caller]
fn opened_by_an_application(path: &Path, what: &str) -> Contents {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let app = Connection::open_with_flags(path, flags).unwrap_or_else(|error| panic!("{error}, {what}"));
    let checked = app.execute_batch("BEGIN IMMEDIATE").and_then(|()| {
        let checked = app.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?;
        app.execute_batch("ROLLBACK").map(|()| checked)
    });
    assert_eq!(checked.as_deref(), Ok("ok"), "{what}");
    drop(app);
    seen(path)
}

fn some_of(call: &str, count: u32) -> Vec<Point> {
    let chosen = count.min(EACH_MAX);
    (0..chosen).map(|number| Point::new(call, 1 + number * count / chosen)).collect()
}

/// What came of the points.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    deaths: u32,
    errors: u32,
    failed: u32,
    old: u32,
    new: u32,
    between: u32,
    /// Points after which the promise was broken.
    broken: Vec<String>,
}

impl Tally {
    fn add(&mut self, blow: Blow, ran: &Ran, found: Found) {
        let is_well = ran.status.success();
        match blow {
            Blow::Kill => (self.kills, self.deaths) = (self.kills + 1, self.deaths + u32::from(!is_well)),
            Blow::Error(_) => {
                (self.errors, self.failed) = (self.errors + 1, self.failed + u32::from(!is_well))
            }
        }
        match found {
            Found::Old => self.old += 1,
            Found::New => self.new += 1,
            Found::Between => self.between += 1,
        }
    }

    /// Most of the points were come to.
    #[track_caller]
    fn is_enough(&self) {
        assert!(self.broken.is_empty(), "{self:?}");
        assert!(self.deaths * 2 >= self.kills && self.kills > 0, "{self:?}");
        assert!(self.failed * 2 >= self.errors, "{self:?}");
        assert!(self.old > 0, "{self:?}");
    }
}

#[track_caller]
fn check(there: There, is_far: bool, tables: &[&str]) {
    if !strace::is_usable() {
        return;
    }
    let mut scene = Scene::new(there, is_far, tables);
    // What comes into being elsewhere is the agent's work alone.
    if !(is_far && there == There::Nothing) {
        scene.sweep(Whose::Puller).is_enough();
    }
    if is_far {
        scene.sweep(Whose::Agent).is_enough();
    }
}

#[test]
fn a_restore_to_a_new_file_that_is_cut_leaves_nothing_or_all_of_it() {
    check(There::Nothing, false, &[]);
}

#[test]
fn a_restore_over_a_wal_database_that_is_cut_leaves_the_old_content_or_the_new() {
    check(There::Wal, false, &[]);
}

#[test]
fn a_restore_over_a_rollback_database_that_is_cut_leaves_the_old_content_or_the_new() {
    check(There::Rollback, false, &[]);
}

#[test]
fn a_restore_that_sets_aside_and_is_cut_loses_no_file_and_is_finished() {
    check(There::Rubbish, false, &[]);
}

#[test]
fn a_restore_of_one_table_that_is_cut_leaves_the_old_content_or_the_new() {
    check(There::Wal, false, &["members"]);
}

#[test]
fn an_undo_that_is_cut_leaves_the_old_content_or_the_new_and_the_next_one_finishes_it() {
    if strace::is_usable() {
        let mut scene = Scene::new(There::Wal, false, &[]);
        scene.undone();
        scene.sweep(Whose::Puller).is_enough();
    }
}

#[test]
fn a_restore_that_is_cut_while_the_application_is_stopped_has_it_started_again() {
    if strace::is_usable() {
        let mut scene = Scene::new(There::Rollback, false, &[]);
        scene.stopping();
        scene.sweep(Whose::Puller).is_enough();
    }
}

#[test]
fn a_restore_at_the_edge_that_is_cut_leaves_the_old_content_or_the_new() {
    check(There::Wal, true, &[]);
}

#[test]
fn a_restore_over_a_rollback_database_at_the_edge_that_is_cut_leaves_the_old_content_or_the_new() {
    check(There::Rollback, true, &[]);
}

#[test]
fn a_restore_to_a_new_file_at_the_edge_that_is_cut_leaves_nothing_or_all_of_it() {
    check(There::Nothing, true, &[]);
}

#[test]
fn a_restore_at_the_edge_that_sets_aside_and_is_cut_loses_no_file_and_is_finished() {
    check(There::Rubbish, true, &[]);
}
