//! Damages of all kinds to a store with all forms of copies: each is found by `verify --all`, and what is damaged is not
//! restored; a sound store is never accused.

use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::saved::Saved;
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Copies in the store.
const COPIES: usize = 10;

/// Damages in each of the four tests: 500 together.
const DAMAGES: usize = 125;

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit is another.
    Bit { byte: usize, bit: u32 },
    /// It ends early.
    Cut { length: usize },
    /// A block of a disk, or a page of memory, is zero.
    Zeroed { start: usize, length: usize },
    /// It is gone.
    Deleted,
}

impl Damage {
    /// One that changes a file of these bytes.
    fn of(sound: &[u8], dice: &mut Dice) -> Self {
        let mut below = |count: usize| dice.between(0, count as i64) as usize;
        loop {
            let damage = match below(8) {
                0..3 => Self::Bit { byte: below(sound.len()), bit: below(8) as u32 },
                3..5 => Self::Cut { length: below(sound.len()) },
                5..7 => {
                    let block = [512, 4096][below(2)];
                    let start = below(sound.len().div_ceil(block)) * block;
                    Self::Zeroed { start, length: block.min(sound.len() - start) }
                }
                _ => Self::Deleted,
            };
            // A block may have been zero before.
            if damage.applied(sound).is_none_or(|bytes| bytes != sound) {
                return damage;
            }
        }
    }

    /// What is left.
    fn applied(self, sound: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sound.to_vec();
        match self {
            Self::Bit { byte, bit } => bytes[byte] ^= 1 << bit,
            Self::Cut { length } => bytes.truncate(length),
            Self::Zeroed { start, length } => bytes[start..start + length].fill(0),
            Self::Deleted => return None,
        }
        Some(bytes)
    }
}

/// A store of one source, sound, to be damaged and put back.
struct Shelf {
    sandbox: Sandbox,
    folder: PathBuf,
    saved: Saved,
}

impl Shelf {
    fn stock() -> Self {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        databases::gym(&source, 60_000, 1024);
        let mut dice = Dice::new(9);
        // What is packed in one way stays so: there are copies of each form.
        for pack in ["gzip"; 4].into_iter().chain(["delta"; 5]).chain(["none"]) {
            let config = sandbox.file("puller.toml");
            fs::write(&config, format!("pack = \"{pack}\"\n")).expect("a configuration can be written");
            let db = Connection::open(&source).expect("a gym can be opened");
            for _ in 0..3 {
                let sql = "UPDATE members SET note = ?2 WHERE id = ?1";
                db.execute(sql, (dice.between(1, 12), dice.words(8))).expect("a row can be written");
            }
            drop(db);
            sandbox.pull(&[Path::new("--config"), &config, &source]).succeeds("stored");
        }
        // The first look of `verify` writes down that it was there; from then on nothing changes.
        sandbox.puller(&["verify", "--all"]).exits(0);
        let folder = sandbox.store().join("local/gym");
        let saved = Saved::of(&folder);
        let files = saved.files("copies/");
        let of_form = |end: &str| files.iter().filter(|name| name.ends_with(end)).count();
        assert_eq!([".db.gz", ".delta.gz", ".db", ".json"].map(of_form), [3, 5, 2, COPIES]);
        Self { sandbox, saved, folder }
    }

    #[track_caller]
    fn verify(&self, exit: i32) -> BTreeMap<String, Value> {
        let verified = self.sandbox.puller(&["verify", "--all", "--json"]).exits(exit);
        let copy = |line: &Value| line["copy"].as_str().expect("a line names its copy").to_owned();
        verified.json().into_iter().map(|line| (copy(&line), line)).collect()
    }

    #[track_caller]
    fn is_sound(&self) {
        let found = self.verify(0);
        assert_eq!(found.len(), COPIES);
        assert!(found.values().all(|line| line["result"] == "ok"), "{found:?}");
    }

    fn restore(&self, copy: &str) -> Ran {
        let folder = self.sandbox.file("restored");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder can be made");
        let target = folder.join("gym.db");
        self.sandbox.puller(&["restore", "gym", copy, "--to", &target.display().to_string()])
    }

    fn restored_files(&self) -> usize {
        fs::read_dir(self.sandbox.file("restored")).expect("a folder can be read").count()
    }

    /// Does `damage` to the file called `name`, has it found, and puts all back.
    #[track_caller]
    fn check(&self, name: &str, damage: Damage) {
        let path = self.folder.join(name);
        fs::remove_file(&path).expect("a file can be removed");
        if let Some(bytes) = damage.applied(self.saved.bytes(name)) {
            fs::write(&path, bytes).expect("a file can be written");
        }
        let copy = copy_of(name);
        let found = self.verify(4);
        assert_eq!(found.len(), COPIES, "{found:?}");
        for (other, line) in &found {
            let what = format!("{line}, with {name} {damage:?}");
            if other == copy {
                assert_eq!(line["result"], "rotten", "{what}");
            } else if line["result"] == "rotten" {
                // What is packed upon it cannot be had without it, and says so.
                let is_packed = self.folder.join(format!("copies/{other}.delta.gz")).exists();
                let is_content = !name.ends_with(".pages") && !name.ends_with(".json");
                let detail = line["detail"].to_string();
                let says_so = detail.contains(copy) || detail.contains("or of what it is packed upon");
                assert!(is_packed && other.as_str() < copy && is_content && says_so, "{what}");
            } else {
                assert_eq!(line["result"], "ok", "{what}");
            }
        }
        let refused = self.restore(copy);
        if name.ends_with(".pages") {
            // `verify` made the list anew from the database, which is whole.
            assert_eq!(refused.code(), 0, "with {name} {damage:?}: {refused}");
            self.saved.put_back();
            return;
        }
        // A copy without a manifest is none.
        let exit = if name.ends_with(".json") && matches!(damage, Damage::Deleted) { 10 } else { 4 };
        assert_eq!(refused.code(), exit, "with {name} {damage:?}: {refused}");
        assert_eq!(self.restored_files(), 0, "files after {refused}");
        self.saved.put_back();
    }
}

/// The copy that the file called `name` belongs to.
fn copy_of(name: &str) -> &str {
    let name = name.strip_prefix("copies/").unwrap_or(name);
    name.split_once('.').map_or(name, |(copy, _)| copy)
}

#[track_caller]
fn check(seed: u64) {
    let (shelf, mut dice) = (Shelf::stock(), Dice::new(seed));
    shelf.is_sound();
    let files = shelf.saved.files("copies/");
    for number in 1..=DAMAGES {
        let name = &files[dice.between(0, files.len() as i64) as usize];
        shelf.check(name, Damage::of(shelf.saved.bytes(name), &mut dice));
        if number % 25 == 0 {
            shelf.is_sound();
        }
    }
}

#[test]
fn the_first_125_of_500_damages_are_found_and_what_is_damaged_is_not_restored() {
    check(1);
}

#[test]
fn the_second_125_of_500_damages_are_found_and_what_is_damaged_is_not_restored() {
    check(2);
}

#[test]
fn the_third_125_of_500_damages_are_found_and_what_is_damaged_is_not_restored() {
    check(3);
}

#[test]
fn the_fourth_125_of_500_damages_are_found_and_what_is_damaged_is_not_restored() {
    check(4);
}

/// What is no copy holds no content: what can be told from the copies is put right, and else the file is named. Copies are
/// as good as they were.
#[test]
fn damage_to_what_is_no_copy_costs_no_copy() {
    let shelf = Shelf::stock();
    let latest = shelf.folder.join("latest.db");
    let newest = fs::read_link(&latest).unwrap();
    for target in [None, Some("copies/gone.db"), Some("/etc/passwd")] {
        fs::remove_file(&latest).unwrap();
        target.map_or(Ok(()), |target| symlink(target, &latest)).unwrap();
        shelf.is_sound();
        assert_eq!(fs::read_link(&latest).unwrap(), newest, "after it led to {target:?}");
    }
    let history = shelf.folder.join("history.jsonl");
    for left in ["", "\0\0\0\0", "{\"v\":1,\"outcome\":\"stored\",\"copy\":\"gym-0000"] {
        fs::write(&history, left).unwrap();
        shelf.is_sound();
    }
    fs::remove_file(&history).unwrap();
    shelf.is_sound();
    // The next run knows of all copies again.
    shelf.sandbox.pull(&["gym.db"]).succeeds("unchanged");
    let known = fs::read_to_string(&history).unwrap();
    for copy in shelf.verify(0).into_keys() {
        assert!(known.contains(&copy), "{copy} is in the history again");
    }
    // Which source this is cannot be told from copies.
    let about = shelf.folder.join("source.json");
    for left in ["", "{", "\0\0\0\0"] {
        fs::write(&about, left).unwrap();
        let named = shelf.sandbox.puller(&["verify", "--all"]);
        assert_ne!(named.code(), 0, "{named}");
        assert!(named.stderr.contains("source.json"), "{named}");
    }
    shelf.saved.put_back();
    shelf.is_sound();
}
