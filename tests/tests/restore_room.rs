//! A restore where room is short: on the target's disk, in the agent's state, on the store's disk. Each time it either comes to
//! its end or says so with exit code 8, and then nothing was changed; with room again, it comes to its end.

use pullback_tests::contents::{self, Contents};
use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::sshd::script;
use pullback_tests::{databases, programs};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that are left on a disk: from none to enough, by so many.
const LEFT_MAX: u64 = 240 << 10;
const LEFT_STEP: u64 = 12 << 10;

/// A gym with one copy, and rows since.
struct Scene {
    sandbox: Sandbox,
    disk: SmallDisk,
    target: PathBuf,
    words: Vec<String>,
    old: Contents,
    new: Contents,
}

impl Scene {
    /// With a small disk in memory at the sandbox's folder `on`.
    fn new(on: &str, journal: &str, is_far: bool) -> Option<Self> {
        let sandbox = Sandbox::new();
        let disk = SmallDisk::mount(&sandbox.file(on), "size=16m", "a restore on a full disk")?;
        let config = sandbox.file("home/xdg_config_home/pullback");
        sandbox.configure("pack = \"none\"\n");
        let agent = "reserve = \"0\"\nallow_restore = true\n";
        fs::write(config.join("agent.toml"), agent).expect("a configuration can be written");
        script(&sandbox.file("ssh"), &format!("exec '{}' stdio", programs::agent().display()));
        let target = sandbox.db("gym.db");
        databases::gym(&target, 60_000, 1024);
        let db = Connection::open(&target).expect("a gym can be opened");
        db.execute_batch(&format!("PRAGMA journal_mode = {journal}")).expect("a mode can be set");
        let door = if is_far { format!("pi:{}", target.display()) } else { target.display().to_string() };
        let new = contents::of(&target);
        let copy = run(&sandbox, &["pull", "--json", &door]).exits(0).only_json();
        let copy = copy["copy"].as_str().expect("a copy has an id").to_owned();
        let mut dice = Dice::new(3);
        db.execute_batch("BEGIN").expect("a transaction can begin");
        for id in 1..200 {
            let sql = "UPDATE access_log SET door = ?2 WHERE id = ?1";
            db.execute(sql, (id * 2, dice.words(3))).expect("a row can be written");
        }
        db.execute_batch("COMMIT").expect("a transaction can be committed");
        drop(db);
        let words = ["restore", "gym", &copy, "--in-place", "--yes"].map(str::to_owned).into();
        Some(Self { old: contents::of(&target), new, target, words, disk, sandbox })
    }

    /// The restore, or it is brought back: what it came to.
    #[track_caller]
    fn check(&self, what: &str) -> bool {
        let ran = run(&self.sandbox, &self.words);
        let what = format!("{what}: {ran}");
        assert!([0, 8].contains(&ran.code()), "{what}");
        assert!(ran.code() == 0 || ran.stderr.contains("[P12]"), "{what}");
        let is_new = self.is_whole(&what) == self.new;
        assert_eq!(is_new, ran.code() == 0, "{what}");
        is_new
    }

    /// What a writer finds.
    #[track_caller]
    fn is_whole(&self, what: &str) -> Contents {
        let app = Connection::open(&self.target).expect("a gym can be opened");
        let checked = app.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(checked.as_deref(), Ok("ok"), "{what}");
        drop(app);
        let found = contents::of(&self.target);
        assert!(found == self.old || found == self.new, "{what}");
        found
    }

    /// With room again.
    #[track_caller]
    fn finishes(&self, is_done: bool) {
        if !is_done {
            run(&self.sandbox, &self.words).exits(0);
        }
        assert_eq!(self.is_whole("with room again"), self.new);
        run(&self.sandbox, &["verify", "--all"]).exits(0);
        run(&self.sandbox, &["restore", "--undo", "gym", "--yes"]).exits(0);
        assert_eq!(self.is_whole("once it was undone"), self.old);
    }
}

fn run<S: AsRef<std::ffi::OsStr>>(sandbox: &Sandbox, words: &[S]) -> Ran {
    let mut command = sandbox.command(programs::puller());
    command.env("PULLER_SSH", sandbox.file("ssh")).arg("--store").arg(sandbox.store()).args(words);
    sandbox.run(&mut command)
}

/// A stop command that takes all room in `dir` but `left` bytes, and a start command that gives it back.
fn filling(dir: &Path, left: u64) -> Vec<String> {
    let file = dir.join("filler").display().to_string();
    let fill = format!("cat /dev/zero > '{file}' 2> '{file}.words'; truncate -s -{left} '{file}'");
    let words = ["--stop-cmd", &fill, "--start-cmd", &format!("rm -f '{file}' '{file}.words'")];
    words.map(str::to_owned).into()
}

/// The disk fills up after the look at its room, right before the database is written.
#[track_caller]
fn target_fills_up(journal: &str, tables: &[&str]) {
    let Some(mut scene) = Scene::new("db", journal, false) else { return };
    let dir = scene.sandbox.file("db");
    scene.words.extend(tables.iter().map(|word| (*word).to_owned()));
    if !tables.is_empty() {
        // The other tables stay as they are.
        scene.new = {
            run(&scene.sandbox, &scene.words).exits(0);
            let new = contents::of(&scene.target);
            run(&scene.sandbox, &["restore", "--undo", "gym", "--yes"]).exits(0);
            new
        };
    }
    let words = scene.words.clone();
    let (mut full, mut done) = (0, 0);
    for left in (0..LEFT_MAX).step_by(LEFT_STEP as usize) {
        scene.words = [words.clone(), filling(&dir, left)].concat();
        let is_done = scene.check(&format!("{left} bytes left"));
        assert!(!dir.join("filler").exists(), "the application is started again");
        scene.words = words.clone();
        scene.finishes(is_done);
        if is_done { done += 1 } else { full += 1 }
    }
    println!("{journal} {tables:?}: {full} found no room, {done} did");
    assert!(full > 1 && done > 1, "{full} found no room, {done} did");
}

#[test]
fn a_disk_that_fills_up_under_a_wal_database_costs_no_row() {
    target_fills_up("WAL", &[]);
}

#[test]
fn a_disk_that_fills_up_under_a_rollback_database_costs_no_row() {
    target_fills_up("DELETE", &[]);
}

#[test]
fn a_disk_that_fills_up_while_one_table_is_restored_costs_no_row() {
    target_fills_up("WAL", &["--table", "access_log"]);
}

/// Room is looked at before anything is sent.
#[test]
fn a_disk_without_room_for_the_wal_is_told_before_anything_begins() {
    let Some(scene) = Scene::new("db", "WAL", false) else { return };
    scene.disk.fill();
    scene.disk.leave(40 << 10);
    let ran = run(&scene.sandbox, &scene.words).exits(8);
    assert!(ran.stderr.contains("nothing was changed") && ran.stderr.contains("hint:"), "{ran}");
    scene.disk.empty();
    assert!(!scene.sandbox.store().join("local/gym/restore.json").exists());
    assert_eq!(contents::of(&scene.target), scene.old);
    scene.finishes(false);
}

/// The safety copy wants room in the store.
#[test]
fn a_store_without_room_for_the_safety_copy_keeps_the_target_as_it_is() {
    let Some(scene) = Scene::new("store", "WAL", false) else { return };
    for (left, is_done) in [(0, false), (100 << 10, false), (4 << 20, false), (6 << 20, true)] {
        scene.disk.fill();
        scene.disk.leave(left);
        assert_eq!(scene.check(&format!("{left} bytes left")), is_done, "{left} bytes left");
        assert_eq!(
            scene.sandbox.store().join("local/gym/restore.json").exists(),
            is_done,
            "{left} bytes left"
        );
        scene.disk.empty();
        scene.finishes(is_done);
        fs::remove_file(scene.sandbox.store().join("local/gym/restore.json")).expect("there is a record");
    }
}

/// Without a record nothing is replaced.
#[test]
fn a_store_without_room_for_the_record_keeps_the_target_as_it_is() {
    let Some(scene) = Scene::new("store", "WAL", false) else { return };
    let fill = format!("cat /dev/zero > '{}' || true", scene.sandbox.file("store/filler").display());
    scene
        .sandbox
        .configure(&format!("pack = \"none\"\n[hooks]\nbefore_restore = [\"sh\", \"-c\", \"{fill}\"]\n"));
    assert!(!scene.check("a full store before the record"));
    scene.disk.empty();
    scene.sandbox.configure("pack = \"none\"\n");
    assert!(!scene.sandbox.store().join("local/gym/restore.json").exists());
    scene.finishes(false);
}

/// The copy is in place then, and the record that stays open leads back.
#[test]
fn a_store_that_fills_up_before_the_record_is_closed_can_still_undo() {
    let Some(mut scene) = Scene::new("store", "WAL", false) else { return };
    let words = scene.words.clone();
    let fill = format!("cat /dev/zero > '{}' || true", scene.sandbox.file("store/filler").display());
    scene.words.extend(["--stop-cmd".to_owned(), fill]);
    let ran = run(&scene.sandbox, &scene.words).exits(0);
    assert!(ran.stderr.contains("not written down"), "{ran}");
    scene.disk.empty();
    scene.words = words;
    scene.finishes(true);
}

/// At the edge the whole content lies in the agent's state before it is put in place.
#[test]
fn an_agent_without_room_for_the_stage_keeps_the_target_as_it_is() {
    let state = "home/xdg_state_home/pullback";
    let Some(scene) = Scene::new(state, "WAL", true) else { return };
    let (mut full, mut done) = (0, 0);
    for left in (0..LEFT_MAX).step_by(LEFT_STEP as usize) {
        scene.disk.fill();
        scene.disk.leave(left);
        let is_done = scene.check(&format!("{left} bytes left"));
        scene.disk.empty();
        let names = fs::read_dir(scene.sandbox.file(state)).expect("a folder can be read").flatten();
        let stages: Vec<_> =
            names.filter(|entry| entry.file_name().to_string_lossy().contains("stage")).collect();
        assert!(stages.is_empty(), "{stages:?}, {left} bytes left");
        scene.finishes(is_done);
        if is_done { done += 1 } else { full += 1 }
    }
    println!("state: {full} found no room, {done} did");
    assert!(full > 1 && done > 1, "{full} found no room, {done} did");
    let config = scene.sandbox.file("home/xdg_config_home/pullback/agent.toml");
    fs::write(&config, "reserve = \"0\"\nmax_state = \"40 KiB\"\nallow_restore = true\n")
        .expect("a configuration can be written");
    assert!(!scene.check("a state that may have 40 KiB"));
}
