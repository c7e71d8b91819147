//! A full disk, in each phase: what is needed is said, nothing is lost, and rotation makes room even there.

use pullback_tests::databases;
use pullback_tests::programs;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox};
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::{contents, room};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that a disk in memory gives a file at once.
const BLOCK: u64 = 4096;

/// Has all programs of `sandbox` pack as `pack` says.
fn configure(sandbox: &Sandbox, pack: &str) {
    let folder = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("puller.toml"), format!("pack = \"{pack}\"\n")).expect("a file can be written");
}

/// A store on a disk of its own, which can be full.
struct Scene {
    sandbox: Sandbox,
    source: PathBuf,
    /// All that were pulled, oldest first.
    copies: Vec<String>,
    folder: PathBuf,
    disk: SmallDisk,
}

impl Scene {
    /// With `count` copies, packed as `pack` says.
    fn new(count: usize, pack: &str, what: &str) -> Option<Self> {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        databases::gym(&source, 1_000_000, 4096);
        let disk = SmallDisk::mount(&sandbox.store(), "size=24m", what)?;
        configure(&sandbox, pack);
        let folder = sandbox.store().join("local/gym");
        let mut scene = Self { sandbox, source, copies: Vec::new(), folder, disk };
        (0..count).for_each(|_| scene.pull());
        Some(scene)
    }

    #[track_caller]
    fn pull(&mut self) {
        databases::visits_in_the_wal(&self.source, 10);
        self.copies.push(self.sandbox.pull(&[&self.source]).succeeds("stored").copy);
    }

    #[track_caller]
    fn puller(&self, arguments: &[&str]) -> Ran {
        self.sandbox.puller(arguments)
    }

    #[track_caller]
    fn listed(&self) -> Vec<String> {
        let listed = self.puller(&["list", "--json"]).exits(0).json();
        listed.iter().map(|line| line["copy"].as_str().expect("a copy has an id").to_owned()).collect()
    }

    /// With room again, everything is as it should be, and goes on.
    #[track_caller]
    fn goes_on(mut self, kept: usize) {
        assert_eq!(self.listed(), self.copies[self.copies.len() - kept..]);
        self.puller(&["verify", "--all"]).exits(0);
        self.pull();
        let stored = self.folder.join("latest.db");
        contents::assert_equal(&self.source, &stored);
        self.puller(&["verify", "--all"]).exits(0);
        for entry in fs::read_dir(self.folder.join("copies")).expect("a folder can be read").flatten() {
            let name = entry.file_name().into_string().expect("names of tests are UTF-8");
            assert!(self.copies.iter().any(|id| name.starts_with(id)), "`{name}` is left over");
        }
    }
}

/// How many files of copies end in `end`.
fn of_form(folder: &Path, end: &str) -> usize {
    let files = fs::read_dir(folder.join("copies")).expect("a folder can be read").flatten();
    files.filter(|file| file.file_name().to_string_lossy().ends_with(end)).count()
}

/// Adds to the history until the next line needs another block.
fn fill_the_last_block(history: &Path) {
    let length = fs::metadata(history).expect("there is a history").len();
    let mut missing = BLOCK - length % BLOCK;
    if missing < 100 {
        missing += BLOCK;
    }
    let empty = r#"{"v":1,"outcome":"failed","notes":""}"#;
    let note = "x".repeat(missing as usize - empty.len() - 1);
    let line = empty.replace("\"\"", &format!("\"{note}\""));
    let mut file = OpenOptions::new().append(true).open(history).expect("a history can be opened");
    writeln!(file, "{line}").expect("a line can be written");
    assert_eq!(file.metadata().expect("a file has a length").len() % BLOCK, 0);
}

/// The last byte of the disk is taken, and the line that history needs before a copy goes needs room too.
#[track_caller]
fn check_rotation(pack: &str, freed: u64) {
    let Some(scene) = Scene::new(6, pack, "rotation on a full disk") else { return };
    for kept in (1..=5).rev() {
        fill_the_last_block(&scene.folder.join("history.jsonl"));
        scene.disk.fill();
        let before = room::used(&scene.folder);
        let rotated = scene.puller(&["rotate", "gym", "--keep-last", &kept.to_string()]).exits(0);
        let after = room::used(&scene.folder);
        assert!(after + freed < before, "{} bytes were freed by {rotated}", before - after);
        assert_eq!(scene.listed(), scene.copies[scene.copies.len() - kept..]);
        scene.disk.empty();
        scene.puller(&["verify", "--all"]).exits(0);
    }
    // History knows that they were removed: nobody misses them.
    let history = fs::read_to_string(scene.folder.join("history.jsonl")).expect("a history can be read");
    assert_eq!(history.matches(r#""outcome":"removed""#).count(), 5);
    scene.goes_on(1);
}

#[test]
fn a_rotation_on_a_disk_that_is_full_to_the_last_byte_makes_room() {
    check_rotation("none", 500_000);
}

#[test]
fn a_rotation_of_packed_copies_on_a_full_disk_makes_room() {
    check_rotation("delta", 4_000);
    check_rotation("gzip", 100_000);
}

/// Copies that cannot be packed stay as they are, and are packed once there is room.
#[track_caller]
fn check_packing(pack: &str, packed: &str) {
    let Some(scene) = Scene::new(5, "none", "packing on a full disk") else { return };
    configure(&scene.sandbox, pack);
    scene.disk.fill();
    let said = scene.puller(&["rotate", "gym", "--keep-last", "5"]);
    assert!(said.stderr.contains("is kept as it was") && said.stderr.contains("No space"), "{said}");
    assert_eq!((of_form(&scene.folder, ".db"), of_form(&scene.folder, packed)), (5, 0), "{said}");
    scene.disk.empty();
    scene.puller(&["rotate", "gym", "--keep-last", "5"]).exits(0);
    assert_eq!((of_form(&scene.folder, ".db"), of_form(&scene.folder, packed)), (1, 4));
    scene.goes_on(5);
}

#[test]
fn packing_on_a_full_disk_leaves_copies_as_they_are() {
    check_packing("delta", ".delta.gz");
    check_packing("gzip", ".db.gz");
}

/// There is room for the copy and none for what packing the one before takes meanwhile: the pull is as good as ever.
#[test]
fn a_pull_with_no_room_to_pack_stores_its_copy_and_says_so() {
    let Some(mut scene) = Scene::new(2, "none", "a pull without room to pack") else { return };
    configure(&scene.sandbox, "gzip");
    databases::visits_in_the_wal(&scene.source, 10);
    scene.disk.fill();
    scene.disk.leave(scene.source.metadata().unwrap().len() + (4 << 20) + 200_000);
    let stored = scene.sandbox.pull(&[&scene.source]).succeeds("stored");
    scene.copies.push(stored.copy);
    scene.disk.empty();
    scene.goes_on(3);
}

/// A packed copy is unpacked beside the others. That there is no room for it says nothing against the copy.
#[test]
fn a_packed_copy_that_cannot_be_unpacked_is_not_taken_for_rotten() {
    let Some(scene) = Scene::new(4, "gzip", "unpacking on a full disk") else { return };
    scene.disk.fill();
    let oldest = &scene.copies[0];
    let verified = scene.puller(&["verify", "gym", oldest]).exits(8);
    assert!(verified.stderr.contains("No space") && verified.stderr.contains("hint:"), "{verified}");
    let target = scene.sandbox.db("restored.db");
    let restored = scene.puller(&["restore", "gym", oldest, "--to", &target.display().to_string()]);
    assert!([0, 8].contains(&restored.code()), "{restored}");
    assert_eq!(restored.code() == 0, target.exists(), "{restored}");
    scene.disk.empty();
    let listed = scene.puller(&["list", "--json"]).exits(0).json();
    assert!(listed.iter().all(|copy| copy["verdict"] == "ok"), "{listed:?}");
    scene.goes_on(4);
}

/// What is packed upon a copy that goes would have to be packed anew, and there is no room: it waits, and nothing is lost.
#[test]
fn repacking_on_a_full_disk_waits_until_there_is_room() {
    let Some(mut scene) = Scene::new(0, "delta", "repacking on a full disk") else { return };
    for number in 0..6 {
        databases::visits_in_the_wal(&scene.source, 10);
        let mut pull = scene.sandbox.command(programs::puller());
        // Two a day.
        pull.env("PULLER_NOW", format!("2026-11-{:02}T{:02}:00:00Z", 1 + number / 2, 9 + number % 2));
        pull.arg("--store").arg(scene.sandbox.store()).args(["pull", "--json"]).arg(&scene.source);
        scene.copies.push(Pulled::from_run(scene.sandbox.run(&mut pull)).succeeds("stored").copy);
    }
    let stay: Vec<String> = scene.copies.iter().skip(1).step_by(2).cloned().collect();
    let rotate = ["rotate", "gym", "--keep-daily", "3"];
    scene.disk.fill();
    let said = scene.puller(&rotate);
    let listed = scene.listed();
    assert!(stay.iter().all(|id| listed.contains(id)), "{listed:?}, after {said}");
    assert!(listed.len() == stay.len() || said.stderr.contains("a while longer"), "{said}");
    scene.disk.empty();
    scene.puller(&["verify", "--all"]).exits(0);
    scene.puller(&rotate).exits(0);
    assert_eq!(scene.listed(), stay);
    scene.copies = stay;
    scene.goes_on(3);
}
