//! Rot in the store: a flipped bit anywhere in a copy is found and named, a sound store is never accused, and a copy that
//! rotted is not built upon without being noticed.

use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The copy that the file called `name` belongs to.
fn copy_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(copy, _)| copy)
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file can be read")
}

/// The files of some copies as they are to be, to rot one at a time.
struct Shelf {
    sandbox: Sandbox,
    folder: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// Three copies of one gym, as it was on three days.
    fn stock() -> Self {
        let sandbox = Sandbox::new();
        sandbox.configure("pack = 'none'");
        let source = sandbox.db("gym.db");
        databases::gym(&source, 60_000, 1024);
        let mut stored = sandbox.pull(&[&source]).succeeds("stored");
        for _ in 0..2 {
            databases::visits_in_the_wal(&source, 30);
            stored = sandbox.pull(&[&source]).succeeds("stored");
        }
        // The first look of `verify` writes down that it was there; from then on nothing changes.
        sandbox.puller(&["verify", "--all"]).exits(0);
        let folder = stored.path.parent().expect("a copy lies in a folder").to_owned();
        let names = fs::read_dir(&folder).expect("a folder can be read");
        let names = names.map(|entry| entry.expect("a folder can be read").file_name());
        let files = names.map(|name| (name.display().to_string(), bytes(&folder.join(&name))));
        let files: BTreeMap<_, _> = files.collect();
        assert_eq!(files.len(), 9, "three files for each of three copies");
        Self { sandbox, folder, files }
    }

    /// Puts `bytes` in the place of the file called `name`, which cannot be written.
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.join(name);
        fs::remove_file(&path).expect("a file can be removed");
        fs::write(path, bytes).expect("a file can be written");
    }

    /// What `verify` says of each copy.
    #[track_caller]
    fn verify(&self, exit: i32) -> BTreeMap<String, String> {
        let lines = self.sandbox.puller(&["verify", "--all", "--json"]).exits(exit).json();
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        lines.iter().map(|line| (word(&line["copy"]), word(&line["result"]))).collect()
    }

    #[track_caller]
    fn is_sound(&self) {
        let found = self.verify(0);
        assert_eq!(found.len(), 3);
        assert!(found.values().all(|result| result == "ok"), "{found:?}");
    }

    /// Flips one bit that the dice choose, has it found, and flips it back.
    #[track_caller]
    fn flip(&self, dice: &mut Dice) {
        let mut one_of = |count: usize| dice.between(0, count as i64) as usize;
        let (name, sound) =
            self.files.iter().nth(one_of(self.files.len())).expect("BUG: dice above their number");
        let (byte, bit) = (one_of(sound.len()), one_of(8));
        let mut rotten = sound.clone();
        rotten[byte] ^= 1 << bit;
        self.put(name, &rotten);
        let copy = copy_of(name);
        for (found, result) in self.verify(4) {
            let wanted = if found == copy { "rotten" } else { "ok" };
            assert_eq!(result, wanted, "{found}, with bit {bit} of byte {byte} of {name} flipped");
        }
        // `verify` wrote its finding into the manifest.
        for suffix in ["db", "pages", "json"] {
            let name = format!("{copy}.{suffix}");
            self.put(&name, &self.files[&name]);
        }
    }
}

/// Flips `flips` bits one after the other; between them nothing may be found.
#[track_caller]
fn check(seed: u64, flips: u32) {
    let (shelf, mut dice) = (Shelf::stock(), Dice::new(seed));
    shelf.is_sound();
    for flip in 1..=flips {
        shelf.flip(&mut dice);
        if flip % 10 == 0 {
            shelf.is_sound();
        }
    }
}

#[test]
fn the_first_50_of_200_flipped_bits_are_found_and_named() {
    check(1, 50);
}

#[test]
fn the_second_50_of_200_flipped_bits_are_found_and_named() {
    check(2, 50);
}

#[test]
fn the_third_50_of_200_flipped_bits_are_found_and_named() {
    check(3, 50);
}

#[test]
fn the_fourth_50_of_200_flipped_bits_are_found_and_named() {
    check(4, 50);
}

#[test]
fn a_file_of_a_copy_that_is_gone_is_found() {
    let shelf = Shelf::stock();
    for (name, bytes) in &shelf.files {
        fs::remove_file(shelf.folder.join(name)).unwrap();
        let found = shelf.verify(4);
        assert_eq!(found[copy_of(name)], "rotten", "without {name}");
        fs::write(shelf.folder.join(name), bytes).unwrap();
        let manifest = format!("{}.json", copy_of(name));
        shelf.put(&manifest, &shelf.files[&manifest]);
    }
    shelf.is_sound();
}

/// Which file of the newest copy rots, and where in it.
type Place = (&'static str, fn(usize) -> usize);

const PLACES: [Place; 5] = [
    ("db", |length| length - 100),
    ("db", |_| 3),
    ("pages", |length| length / 2),
    ("pages", |_| 0),
    ("json", |length| length / 2),
];

fn rot(copy: &Path, (suffix, place): Place) {
    let path = copy.with_extension(suffix);
    let mut rotten = bytes(&path);
    let place = place(rotten.len());
    rotten[place] ^= 0x10;
    fs::remove_file(&path).expect("a file can be removed");
    fs::write(&path, rotten).expect("a file can be written");
}

#[track_caller]
fn is_exact_and_sound(sandbox: &Sandbox, source: &Path, pulled: &Pulled, of: &str) {
    assert_eq!(pulled.verdict, "ok", "{of}: {}", pulled.ran);
    contents::assert_equal(source, &pulled.path);
    let name = pulled.json["source"].as_str().unwrap_or_default();
    sandbox.puller(&["verify", name, &pulled.copy]).exits(0);
}

/// Rots the newest copy at each place, lets the source go on as `change` does, and pulls on top of it.
#[track_caller]
fn check_base(change: fn(&Path), through_service: bool) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let door = if through_service { served.source("gym").into() } else { OsString::from(&source) };
    for place in PLACES {
        let of = format!("a {} that rotted", place.0);
        // Two copies, of which only the newest is a base.
        databases::visits_in_the_wal(&source, 10);
        let newest = sandbox.pull(&[&door]).succeeds("stored");
        rot(&newest.path, place);
        change(&source);
        let next = sandbox.pull(&[&door]);
        assert_eq!((next.outcome.as_str(), next.ran.code()), ("stored", 0), "{of}: {}", next.ran);
        assert_ne!(next.copy, newest.copy, "{of}: {}", next.ran);
        is_exact_and_sound(&sandbox, &source, &next, &of);
        // And what rotted is still known for it, or was mended: packed upon the next copy, where the page is as it was.
        let name = next.json["source"].as_str().unwrap_or_default();
        let ran = sandbox.puller(&["verify", "--json", name, &newest.copy]);
        let found = ran.only_json();
        let is_mended = !newest.path.exists() && ran.code() == 0;
        assert_eq!(found["result"], if is_mended { "ok" } else { "rotten" }, "{of}: {ran}");
    }
}

fn goes_on(source: &Path) {
    databases::visits_in_the_wal(source, 10);
}

#[test]
fn a_rotten_newest_copy_is_not_built_upon_through_the_local_door() {
    check_base(goes_on, false);
}

#[test]
fn a_rotten_newest_copy_is_not_built_upon_through_the_service_door() {
    check_base(goes_on, true);
}

/// Nothing changed at the source: a sound copy has to be there before that is a success.
#[test]
fn a_rotten_newest_copy_is_replaced_where_nothing_changed_through_the_local_door() {
    check_base(|_| (), false);
}

#[test]
fn a_rotten_newest_copy_is_replaced_where_nothing_changed_through_the_service_door() {
    check_base(|_| (), true);
}

#[test]
fn a_list_of_hashes_of_another_snapshot_does_not_stop_the_next_pull() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let old = sandbox.pull(&[&source]).succeeds("stored");
    let db = rusqlite::Connection::open(&source).unwrap();
    db.execute_batch("UPDATE access_log SET at = at || 'x' WHERE id % 9 = 0").unwrap();
    drop(db);
    let elsewhere = sandbox.file("elsewhere");
    let new = sandbox.puller_in(&elsewhere, &["pull", "--json", source.to_str().unwrap()]).only_json();
    let list = old.path.with_extension("pages");
    fs::remove_file(&list).unwrap();
    fs::copy(Path::new(new["path"].as_str().unwrap()).with_extension("pages"), &list).unwrap();
    // The list says that the copy is what the source has become, so no page is sent.
    let pulled = sandbox.pull(&[&source]).succeeds("stored");
    assert_eq!(
        (pulled.transfer.as_str(), new["snapshot"].as_str()),
        ("full", Some(pulled.snapshot.as_str()))
    );
    contents::assert_equal(&source, &pulled.path);
}
