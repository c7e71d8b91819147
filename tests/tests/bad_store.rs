//! A store that cannot be used: refused with a sentence and the documented exit code, and left as it was.

use pullback_tests::dice::Dice;
use pullback_tests::folder::Folder;
use pullback_tests::privilege;
use pullback_tests::sandbox::{Pulled, Sandbox, signal, wait_until};
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::{contents, databases, programs};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

fn gym(sandbox: &Sandbox) -> PathBuf {
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    source
}

#[track_caller]
fn tells(failed: &Pulled, says: &str) {
    let stderr = &failed.ran.stderr;
    assert!(stderr.contains(says) && stderr.contains("hint: "), "`{says}` on stderr of {}", failed.ran);
}

/// Pulls into a store that `prepare` made unusable, which must stay as it is.
#[track_caller]
fn check(prepare: impl FnOnce(&Path), code: &str, exit: i32, says: &str) {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = gym(&sandbox);
    prepare(&sandbox.store());
    let before = Folder::of(&sandbox.store());
    let failed = sandbox.pull(&[source]).fails(code, exit);
    tells(&failed, says);
    before.assert_unchanged(&Folder::of(&sandbox.store()), &format!("the store, by {}", failed.ran));
}

#[test]
fn a_folder_with_other_files_is_not_taken_for_a_store() {
    let prepare = |store: &Path| {
        fs::create_dir(store).unwrap();
        fs::write(store.join("letter"), "dear").unwrap();
    };
    check(prepare, "usage", 2, "is no store, and not empty");
}

#[test]
fn a_file_is_no_store() {
    check(|store| fs::write(store, "dear").unwrap(), "io", 1, "cannot be made");
}

fn marker(text: &'static str) -> impl FnOnce(&Path) {
    move |store| {
        fs::create_dir(store).expect("a folder can be made");
        fs::write(store.join("pullback-store.json"), text).expect("a file can be written");
    }
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    check(marker(r#"{"v":2,"store":"0123456789abcdef"}"#), "io", 1, "has format version 2");
}

#[test]
fn a_damaged_marker_is_named_with_what_mends_it() {
    check(marker(r#"{"v":1,"sto"#), "io", 1, "pullback-store.json` is damaged");
}

/// All that reads or changes a store stops at its version, not just `pull`.
#[test]
fn no_command_touches_a_store_of_a_newer_version() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = gym(&sandbox);
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    fs::write(sandbox.store().join("pullback-store.json"), r#"{"v":9,"store":"x"}"#).unwrap();
    let before = Folder::of(&sandbox.store());
    let commands: [&[&str]; 6] = [
        &["list"],
        &["verify", "--all"],
        &["rotate", "--all", "--keep-last", "1"],
        &["accept", "local/gym", &stored.copy],
        &["show", "local/gym"],
        &["restore", "local/gym", "--to", "restored.db"],
    ];
    for command in commands {
        let ran = sandbox.puller(command).exits(1);
        assert!(ran.stderr.contains("has format version 9"), "{ran}");
    }
    before.assert_unchanged(&Folder::of(&sandbox.store()), "the store");
}

#[test]
fn a_store_that_vanished_is_missed_and_not_made_anew() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = gym(&sandbox);
    sandbox.pull(&[&source]).succeeds("stored");
    fs::remove_dir_all(sandbox.store()).unwrap();
    for _ in 0..2 {
        let failed = sandbox.pull(&[&source]).fails("store_missing", 10);
        tells(&failed, "is its disk mounted?");
        assert!(Folder::of(&sandbox.store()).is_absent(), "a store was made by {}", failed.ran);
    }
    // Nor when the empty folder is there that its disk was mounted upon.
    fs::create_dir(sandbox.store()).unwrap();
    sandbox.pull(&[&source]).fails("store_missing", 10);
    assert_eq!(fs::read_dir(sandbox.store()).unwrap().count(), 0);
}

#[test]
fn a_source_that_another_run_works_on_is_locked() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = gym(&sandbox);
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    let folder = stored.path.parent().and_then(Path::parent).unwrap();
    let lock = File::open(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    let before = Folder::of(&sandbox.store());
    tells(&sandbox.pull(&[&source]).fails("locked", 11), "another run works on");
    before.assert_unchanged(&Folder::of(&sandbox.store()), "the store");
    drop(lock);
    sandbox.pull(&[&source]).succeeds("unchanged");
}

/// Pulls as a user that owns the source and not the place of the store.
#[test]
fn a_place_that_may_not_be_written_is_refused() {
    if !privilege::is_root() {
        return privilege::skip("a store that may not be written", "only root can run as another user");
    }
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = gym(&sandbox);
    for path in [&source, &sandbox.db("")] {
        privilege::give_to_nobody(path);
    }
    let pull = |store: &Path| {
        let mut command = privilege::as_nobody(&sandbox, programs::puller());
        command.args(["pull", "--json", "--store"]).args([store, &source]);
        Pulled::from_run(sandbox.run(&mut command))
    };
    tells(&pull(&sandbox.store()).fails("refused", 6), "cannot be made");
    assert!(Folder::of(&sandbox.store()).is_absent());
    // One that was theirs, and whose folders have lost their modes since.
    let store = sandbox.file("home/store");
    let stored = pull(&store).succeeds("stored");
    databases::visits_in_the_wal(&source, 10);
    let copies = stored.path.parent().unwrap();
    for (folder, mode) in [(copies, 0o500), (copies.parent().unwrap(), 0o500), (copies, 0o000)] {
        privilege::set_mode(folder, mode);
        let before = Folder::of(&stored.path);
        tells(&pull(&store).fails("refused", 6), "Permission denied");
        before.assert_unchanged(&Folder::of(&stored.path), "the copy");
        privilege::set_mode(folder, 0o700);
        // What was received may stay for the next run to go on from; it is no copy.
        let mut list = privilege::as_nobody(&sandbox, programs::puller());
        let list = sandbox.run(list.args(["list", "--json", "--store"]).arg(&store)).exits(0);
        assert_eq!(list.only_json()["copy"], *stored.copy, "{list}");
    }
    pull(&store).succeeds("stored");
}

#[test]
fn a_store_on_a_disk_that_is_read_only_is_refused() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = gym(&sandbox);
    let Some(disk) = SmallDisk::mount(&sandbox.store(), "size=16m", "a read-only disk") else { return };
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    databases::visits_in_the_wal(&source, 10);
    let before = Folder::of(&sandbox.store());
    disk.remount("ro");
    tells(&sandbox.pull(&[&source]).fails("refused", 6), "Read-only file system");
    before.assert_unchanged(&Folder::of(&sandbox.store()), "the store");
    // What only reads goes on.
    sandbox.puller(&["restore", "local/gym", "--to", "restored.db"]).exits(0);
    contents::assert_equal(&sandbox.db("restored.db"), &stored.path);
}

/// What of a copy lies in the store, finished or not.
fn parts(store: &Path) -> usize {
    let copies = store.join("local/gym/copies");
    fs::read_dir(copies).map_or(0, Iterator::count)
}

#[test]
fn a_disk_without_room_for_the_copy_is_full_before_anything_is_written() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = sandbox.db("gym.db");
    databases::gym(&source, 4_000_000, 4096);
    let Some(disk) = SmallDisk::mount(&sandbox.store(), "size=6m", "a disk without room") else { return };
    tells(&sandbox.pull(&[&source]).fails("no_space", 8), "the copy needs");
    assert_eq!(parts(&sandbox.store()), 0);
    disk.remount("size=64m");
    let good = sandbox.pull(&[&source]).succeeds("stored");
    databases::visits_in_the_wal(&source, 10);
    disk.fill();
    let before = Folder::of(good.path.parent().unwrap());
    tells(&sandbox.pull(&[&source]).fails("no_space", 8), "the copy needs");
    before.assert_unchanged(&Folder::of(good.path.parent().unwrap()), "the copies");
    // Nothing new needs no room, and says so rightly even where not a line can be written.
    disk.empty();
    let newest = sandbox.pull(&[&source]).succeeds("stored");
    disk.fill();
    let unchanged = sandbox.pull(&[&source]).succeeds("unchanged");
    assert_eq!(unchanged.copy, newest.copy, "{}", unchanged.ran);
}

/// The room is there when it is looked for, and taken by somebody else meanwhile.
#[test]
fn a_disk_that_fills_up_meanwhile_leaves_nothing_of_the_draft() {
    let sandbox = Sandbox::new();
    let source = gym(&sandbox);
    let Some(disk) = SmallDisk::mount(&sandbox.store(), "size=64m", "a disk that fills up") else { return };
    let good = sandbox.pull(&[&source]).succeeds("stored");
    let db = databases::create(&source, "CREATE TABLE photos(body BLOB)");
    db.execute("INSERT INTO photos VALUES (?1)", [Dice::new(2).bytes(40 << 20)]).unwrap();
    drop(db);
    let before = Folder::of(good.path.parent().unwrap());
    let mut command = sandbox.command(programs::puller());
    let running =
        sandbox.start(command.args(["pull", "--json", "--store"]).args([&sandbox.store(), &source]));
    let draft = good.path.with_file_name("draft-new.db");
    wait_until("the first of the draft", || {
        draft.metadata().is_ok_and(|draft| draft.blocks() * 512 > 20 << 20)
    });
    signal(running.pid(), Signal::STOP);
    disk.fill();
    signal(running.pid(), Signal::CONT);
    let failed = Pulled::from_run(running.finish()).fails("no_space", 8);
    tells(&failed, "are free");
    before.assert_unchanged(&Folder::of(good.path.parent().unwrap()), "the copies");
    sandbox.puller(&["verify", "--all"]).exits(0);
    disk.empty();
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    contents::assert_equal(&source, &stored.path);
}

/// A disk on which one more file can be made for each run: a store is full at each step of making it, and the run after
/// goes on from there.
#[test]
fn a_disk_without_room_for_one_more_file_fails_at_each_step_and_goes_on() {
    let sandbox = Sandbox::new();
    let source = gym(&sandbox);
    let what = "a disk without room for files";
    let Some(disk) = SmallDisk::mount(&sandbox.store(), "size=64m,nr_inodes=2", what) else { return };
    let mut failures = 0;
    let stored = loop {
        let pulled = sandbox.pull(&[&source]);
        if pulled.outcome == "stored" {
            break pulled;
        }
        let pulled = pulled.fails("no_space", 8);
        assert_eq!(parts(&sandbox.store()), 0, "files of no copy, after {}", pulled.ran);
        failures += 1;
        assert!(failures < 50, "{}", pulled.ran);
        disk.remount(&format!("nr_inodes={}", 2 + failures));
    };
    assert!(failures > 5, "only {failures} steps failed");
    contents::assert_equal(&source, &stored.path);
    disk.remount("nr_inodes=100");
    sandbox.puller(&["verify", "--all"]).exits(0);
    assert_eq!(parts(&sandbox.store()), 3, "files of one copy");
    sandbox.pull(&[&source]).succeeds("unchanged");
}
