//! Rot in the store: a flipped bit anywhere in a copy is found and named, a sound store is never accused, and a copy that
//! rotted is not built upon without being noticed.

use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases, programs};
use serde_json::Value;
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

/// Of the databases on the shelf.
const PAGE_SIZE: usize = 1024;

/// The files of some copies as they are to be, to rot one at a time.
struct Shelf {
    sandbox: Sandbox,
    folder: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// Three copies of one gym, as it was on three days, each a plain file.
    fn stock() -> Self {
        let shelf = Self::packed("none");
        assert_eq!(shelf.files.len(), 9, "three files for each of three copies");
        shelf
    }

    /// The same, the older ones as `pack` says.
    fn packed(pack: &str) -> Self {
        let sandbox = Sandbox::new();
        sandbox.configure(&format!("pack = {pack:?}"));
        let source = sandbox.db("gym.db");
        databases::gym(&source, 60_000, PAGE_SIZE as u32);
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
        Self { sandbox, folder, files }
    }

    /// Puts `bytes` in the place of the file called `name`, which cannot be written.
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.join(name);
        if path.exists() {
            fs::remove_file(&path).expect("a file can be removed");
        }
        fs::write(path, bytes).expect("a file can be written");
    }

    /// Where the file called `name` is once it was set aside.
    fn aside(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.rotten"))
    }

    /// What `verify` says of each copy, and the first line of why.
    #[track_caller]
    fn told(&self, exit: i32) -> BTreeMap<String, (String, String)> {
        let lines = self.sandbox.puller(&["verify", "--all", "--json"]).exits(exit).json();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |line: &Value| (word(&line["copy"]), (word(&line["result"]), word(&line["detail"][0])));
        lines.iter().map(told).collect()
    }

    /// What `verify` says of each copy.
    #[track_caller]
    fn verify(&self, exit: i32) -> BTreeMap<String, String> {
        self.told(exit).into_iter().map(|(copy, (result, _))| (copy, result)).collect()
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
        let of = format!("with bit {bit} of byte {byte} of {name} flipped");
        for (found, (result, why)) in self.told(4) {
            let wanted = if found == copy { "rotten" } else { "ok" };
            assert_eq!(result, wanted, "{found}, {of}");
            assert!(found != copy || why.contains(&format!("`{name}`")), "{why}, {of}");
            let page = byte / PAGE_SIZE + 1;
            assert!(
                found != copy || suffix(name) != "db" || why.contains(&format!("page {page} of ")),
                "{why}, {of}"
            );
        }
        match suffix(name) {
            "db" => {
                let aside = self.aside(name);
                assert!(!self.folder.join(name).exists() && bytes(&aside) == rotten, "{of}");
                match one_of(2) {
                    0 => fs::remove_file(&aside).and_then(|()| fs::write(self.folder.join(name), sound)),
                    _ => fs::remove_file(&aside).and_then(|()| fs::write(&aside, sound)),
                }
                .expect("a file can be put right");
            }
            "pages" => assert!(bytes(&self.folder.join(name)) == *sound, "the list is not what it was, {of}"),
            _ => self.put(name, sound),
        }
        self.is_sound();
        assert!(
            bytes(&self.folder.join(copy).with_extension("db")) == self.files[&format!("{copy}.db")],
            "{of}"
        );
        assert!(!self.aside(&format!("{copy}.db")).exists(), "{of}");
    }
}

/// What the file called `name` ends in.
fn suffix(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, suffix)| suffix)
}

/// Flips `flips` bits one after the other; between them nothing may be found.
#[track_caller]
fn check(seed: u64, flips: u32) {
    let (shelf, mut dice) = (Shelf::stock(), Dice::new(seed));
    shelf.is_sound();
    (0..flips).for_each(|_| shelf.flip(&mut dice));
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
        shelf.put(name, bytes);
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
        assert_eq!(next.ran.code(), 0, "{of}: {}", next.ran);
        is_exact_and_sound(&sandbox, &source, &next, &of);
        if place.0 == "pages" && next.outcome == "unchanged" {
            // The list was made anew from the database, which is what the source is.
            assert!(next.json["notes"].to_string().contains("made anew"), "{of}: {}", next.ran);
            continue;
        }
        assert_eq!(next.outcome, "stored", "{of}: {}", next.ran);
        assert_ne!(next.copy, newest.copy, "{of}: {}", next.ran);
        // And what rotted is still known for it, or was mended: packed upon the next copy, where the page is as it was.
        let name = next.json["source"].as_str().unwrap_or_default();
        let ran = sandbox.puller(&["verify", "--json", name, &newest.copy]);
        let found = ran.only_json();
        let is_mended = !newest.path.exists() && ran.code() == 0;
        assert_eq!(found["result"], if is_mended { "ok" } else { "rotten" }, "{of}: {ran}");
        let is_aside = newest.path.with_extension("db.rotten").exists() && !newest.path.exists();
        assert!(place.0 != "db" || is_mended || is_aside, "{of}: {ran}");
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

/// A shelf whose newest copy has a flipped bit on page 5 of its database, and the id of that copy.
fn with_a_rotten_newest() -> (Shelf, String) {
    let shelf = Shelf::stock();
    let name = shelf.files.keys().rfind(|name| suffix(name) == "db").expect("there are databases");
    let mut rotten = shelf.files[name].clone();
    rotten[4 * PAGE_SIZE + 7] ^= 1;
    shelf.put(name, &rotten);
    let copy = copy_of(name).to_owned();
    (shelf, copy)
}

#[test]
fn a_rotten_copy_is_set_aside_and_named_until_somebody_removes_it() {
    let (shelf, copy) = with_a_rotten_newest();
    let puller = |words: &str| shelf.sandbox.puller(&words.split(' ').collect::<Vec<_>>());
    let (db, aside) = (format!("{copy}.db"), shelf.aside(&format!("{copy}.db")));
    let latest = shelf.folder.with_file_name("latest.db");
    let said = puller("verify gym").exits(4);
    let why = format!("page 5 of `{db}` ");
    assert!(said.stderr.contains(&why) && said.stderr.contains(&aside.display().to_string()), "{said}");
    // `latest.db` leads to one that is good, and each command that shows the copy says what became of it.
    assert!(latest.canonicalize().is_ok_and(|latest| latest.exists() && latest != aside));
    let listed = puller("list gym --json").exits(0).json().pop().expect("a copy");
    assert_eq!(
        (&listed["verdict"], &listed["path"]),
        (&"rotten".into(), &aside.display().to_string().into())
    );
    assert!(listed["damage"].as_str().is_some_and(|damage| damage.contains(&why)), "{listed}");
    assert!(puller("list gym").exits(0).stderr.contains(&why));
    assert!(puller(&format!("show gym {copy}")).exits(0).stdout.contains(&why));
    assert!(puller("status").exits(13).stdout.contains("rotten"));
    // It is not read again to be named; it is not what a policy removes, nor what a pull builds upon; and it stays for ever.
    assert!(puller("verify gym --sample 1%").exits(4).stderr.contains(&why));
    puller("rotate gym --keep-last 1").exits(0);
    let pulled = shelf.sandbox.pull(&[&shelf.sandbox.db("gym.db")]).succeeds("stored");
    assert!(pulled.copy != copy && bytes(&aside).len() == shelf.files[&db].len());
    assert!(puller("verify gym").exits(4).stderr.contains(&why));
    assert!(puller("status").exits(13).stdout.contains("a copy is rotten"));
    // Once it was named, whoever removes its files has decided; it is in the history, and nobody misses it any more.
    for entry in fs::read_dir(&shelf.folder).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&copy) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    puller("verify gym").exits(0);
    puller("verify gym").exits(0);
    let removed = puller("history gym --json").exits(0).json();
    assert!(removed.iter().any(|line| line["outcome"] == "removed" && line["copy"] == *copy), "{removed:?}");
}

#[test]
fn a_pack_that_rotted_is_set_aside_and_what_leads_from_a_rotten_copy_is_not() {
    for (pack, suffix) in [("delta", "delta.gz"), ("gzip", "db.gz")] {
        let shelf = Shelf::packed(pack);
        let names: Vec<&String> = shelf.files.keys().filter(|name| name.ends_with(suffix)).collect();
        let [first, second] = names[..] else { panic!("{:?}", shelf.files.keys()) };
        let newest = shelf.files.keys().rfind(|name| name.ends_with(".db")).expect("the newest is plain");
        let rot = |name: &String, at: usize| {
            let mut rotten = shelf.files[name].clone();
            rotten[at] ^= 1;
            shelf.put(name, &rotten);
        };
        let results = |exit| shelf.verify(exit).into_values().collect::<Vec<String>>();
        // A pack in the middle of the row: it is set aside, and the older one waits for it where it leads from it.
        rot(second, shelf.files[second].len() / 2);
        let leads_on = pack == "delta";
        assert_eq!(results(4), [if leads_on { "rotten" } else { "ok" }, "rotten", "ok"], "{pack}");
        assert!(shelf.aside(second).exists() && !shelf.aside(first).exists(), "{pack}");
        fs::remove_file(shelf.aside(second)).expect("a file can be removed");
        fs::write(shelf.aside(second), &shelf.files[second]).expect("a file can be written");
        shelf.verify(0);
        assert!(!shelf.aside(second).exists(), "{pack}");
        // The newest copy, which is plain: what leads from its rotten page waits as well.
        rot(newest, 4 * PAGE_SIZE + 7);
        let wanted = if leads_on { ["rotten"; 3] } else { ["ok", "ok", "rotten"] };
        assert_eq!(results(4), wanted, "{pack}");
        assert!(
            shelf.aside(newest).exists() && !shelf.aside(first).exists() && !shelf.aside(second).exists()
        );
        shelf.put(newest, &shelf.files[newest]);
        fs::remove_file(shelf.aside(newest)).expect("a file can be removed");
        shelf.verify(0);
        // A list of hashes is made anew from a pack too.
        if let Some(list) =
            shelf.files.keys().find(|name| name.ends_with(".pages") && copy_of(name) == copy_of(first))
        {
            rot(list, 100);
            assert_eq!(results(4), ["rotten", "ok", "ok"], "{pack}");
            assert!(bytes(&shelf.folder.join(list)) == shelf.files[list]);
            shelf.is_sound();
        }
    }
}

/// What keeps this machine from reading says nothing of what is on the disk.
#[track_caller]
fn check_without_file_handles(pack: &str) {
    let shelf = Shelf::packed(pack);
    let (puller, store) = (programs::puller().display(), shelf.sandbox.store());
    let mut refused = 0;
    for handles in 4..24 {
        let mut shell = shelf.sandbox.command(Path::new("/bin/sh"));
        let line = format!(
            "ulimit -n {handles} && exec '{puller}' --store '{}' verify --all --json",
            store.display()
        );
        let ran = shelf.sandbox.run(shell.args(["-c", &line]));
        refused += u32::from(ran.code() != 0);
        assert!(ran.code() != 4 && !ran.stdout.contains("rotten"), "with {handles} file handles: {ran}");
    }
    assert!(refused > 0, "file handles were enough each time");
    shelf.is_sound();
    let names = fs::read_dir(&shelf.folder)
        .expect("a folder can be read")
        .map(|entry| entry.expect("a folder can be read").file_name());
    assert!(names.into_iter().all(|name| !name.display().to_string().ends_with(".rotten")));
}

#[test]
fn a_machine_without_file_handles_accuses_no_copy() {
    check_without_file_handles("none");
    check_without_file_handles("delta");
}

#[test]
fn a_good_copy_that_vanishes_is_missed_each_time() {
    let shelf = Shelf::stock();
    let copy = copy_of(shelf.files.keys().next().expect("there are copies")).to_owned();
    for suffix in ["db", "pages", "json"] {
        fs::remove_file(shelf.folder.join(format!("{copy}.{suffix}"))).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(shelf.verify(4)[&copy], "rotten");
    }
}

#[test]
fn a_file_that_was_set_aside_is_never_replaced() {
    let (shelf, copy) = with_a_rotten_newest();
    let db = format!("{copy}.db");
    shelf.verify(4);
    let first = bytes(&shelf.aside(&db));
    // Somebody puts back what has rotted as well.
    let mut other = shelf.files[&db].clone();
    other[9 * PAGE_SIZE] ^= 1;
    shelf.put(&db, &other);
    assert_eq!(shelf.verify(4)[&copy], "rotten");
    assert!(bytes(&shelf.aside(&db)) == first && bytes(&shelf.folder.join(&db)) == other);
    shelf.put(&db, &shelf.files[&db]);
    shelf.is_sound();
    assert!(bytes(&shelf.aside(&db)) == first, "what is no longer needed is its owner's to remove");
}

#[test]
fn a_manifest_that_rotted_does_not_condemn_the_database_beside_it() {
    let shelf = Shelf::stock();
    let copy = copy_of(shelf.files.keys().next().expect("there are copies")).to_owned();
    shelf.put(&format!("{copy}.json"), b"{");
    let said = shelf.sandbox.puller(&["verify", "gym"]).exits(4);
    assert!(said.stderr.contains(&format!("`{copy}.json`: ")), "{said}");
    assert!(said.stderr.contains("the database beside it is what was stored"), "{said}");
    assert!(shelf.folder.join(format!("{copy}.db")).exists());
}

#[test]
fn a_restore_names_the_file_sets_it_aside_and_the_next_one_has_another_copy() {
    let (shelf, copy) = with_a_rotten_newest();
    let target = shelf.sandbox.db("back.db").display().to_string();
    let restore =
        |more: &[&str]| shelf.sandbox.puller(&[&["restore", "gym", "--to", &target], more].concat());
    let planned = restore(&["--dry-run"]).exits(4);
    assert!(planned.stderr.contains("page 5 ") && !shelf.aside(&format!("{copy}.db")).exists(), "{planned}");
    let refused = restore(&[]).exits(4);
    assert!(refused.stderr.contains("page 5 ") && shelf.aside(&format!("{copy}.db")).exists(), "{refused}");
    restore(&[]).exits(0);
    fs::remove_file(&target).unwrap();
    // A list of hashes stands in the way of nothing.
    let list =
        shelf.files.keys().rfind(|name| suffix(name) == "pages" && copy_of(name) != copy).expect("a list");
    shelf.put(list, b"short");
    restore(&[copy_of(list)]).exits(0);
    assert!(bytes(&shelf.folder.join(list)) == shelf.files[list]);
}

/// Runs `puller ARGUMENTS` at `time`.
#[track_caller]
fn at(sandbox: &Sandbox, time: &str, arguments: &str, exit: i32) -> Ran {
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(arguments.split(' ')).env("PULLER_NOW", time);
    sandbox.run(&mut command).exits(exit)
}

/// Ids of the copies that the run read.
fn read(ran: &Ran) -> Vec<String> {
    ran.json().iter().map(|line| line["copy"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn samples_prove_everything_in_turns_whatever_the_clock_says() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 60_000, 1024);
    let mut copies = Vec::new();
    for _ in 0..5 {
        copies.push(sandbox.pull(&[&source]).succeeds("stored").copy);
        databases::visits_in_the_wal(&source, 1);
    }
    let times = [
        "1970-01-02T00:00:00Z",
        "2096-01-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    ];
    for round in 0..2 {
        let mut turn = Vec::new();
        for time in times {
            let ran = at(&sandbox, time, "verify gym --sample 20% --json", 0);
            assert!((1..=2).contains(&read(&ran).len()), "round {round}: {ran}");
            turn.extend(read(&ran));
        }
        assert_eq!(turn[..5], copies, "round {round}: those that waited longest come first");
    }
    // All of it is all of it; and what a wrong clock wrote is no proof that anybody believes.
    assert_eq!(read(&at(&sandbox, "2026-12-02T00:00:00Z", "verify --all --sample 100% --json", 0)), copies);
    let proven = |time: &str| at(&sandbox, time, "status --json", 0).only_json()["proven_at"].clone();
    assert_eq!(proven("2026-12-02T00:00:00Z"), "2026-12-02T00:00:00Z");
    assert_eq!(proven("2026-12-01T00:00:00Z"), Value::Null);
    for wrong in ["verify gym --sample 0%", "verify gym latest --sample 4%", "verify ./gym.db --sample 4%"] {
        at(&sandbox, "2026-12-02T00:00:00Z", wrong, 2);
    }
}

#[test]
fn what_sqlite_said_of_the_same_bytes_stands_unless_it_is_to_be_asked_again() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 60_000, 1024);
    at(&sandbox, "2026-12-01T00:00:00Z", &format!("pull {}", source.display()), 0);
    let shown = || {
        let manifest = sandbox.puller(&["show", "gym", "--json"]).exits(0).only_json();
        let time =
            |value: &Value| value.as_str().unwrap_or_default().get(..10).unwrap_or_default().to_owned();
        (time(&manifest["proven_at"]), time(&manifest["checks"][0]["at"]))
    };
    let is = |proven: &str, asked: &str| assert_eq!(shown(), (proven.to_owned(), asked.to_owned()));
    is("2026-12-01", "2026-12-01");
    at(&sandbox, "2026-12-20T00:00:00Z", "verify gym", 0);
    is("2026-12-20", "2026-12-01");
    at(&sandbox, "2026-12-21T00:00:00Z", "verify gym --full", 0);
    is("2026-12-21", "2026-12-21");
    at(&sandbox, "2026-12-22T00:00:00Z", "pull gym", 0);
    is("2026-12-22", "2026-12-21");
}

#[test]
fn the_link_leads_to_a_plain_file_also_where_the_newest_copy_rots_or_is_accepted() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 200_000, 4096);
    sandbox.configure("pack = \"gzip\"\n");
    let sql = |sql: &str| {
        rusqlite::Connection::open(&source).and_then(|db| db.execute_batch(sql)).expect("it can be changed");
    };
    let copies: Vec<String> = (0..3)
        .map(|number| {
            sql(&format!("CREATE TABLE noise{number} AS SELECT randomblob(50000)"));
            sandbox.pull(&[&source]).succeeds("stored").copy
        })
        .collect();
    let folder = sandbox.store().join("local/gym");
    let leads_to = |copy: &String| {
        let latest = folder.join("latest.db").canonicalize();
        assert_eq!(latest.expect("it leads somewhere"), folder.join(format!("copies/{copy}.db")));
    };
    leads_to(&copies[2]);
    rot(&folder.join(format!("copies/{}.db", copies[2])), PLACES[0]);
    sandbox.puller(&["verify", "gym"]).exits(4);
    leads_to(&copies[1]);
    rot(&folder.join(format!("copies/{}.db", copies[1])), PLACES[0]);
    sandbox.puller(&["restore", "gym", "--to", sandbox.file("back.db").to_str().unwrap()]).exits(4);
    leads_to(&copies[0]);
    // One that was emptied and packed, and is called good after all, while the next one is emptied too.
    sql("PRAGMA foreign_keys = OFF; DELETE FROM access_log; DELETE FROM lockers; DELETE FROM members;
        DROP TABLE noise0; DROP TABLE noise1; DROP TABLE noise2; VACUUM");
    let suspect = sandbox.pull(&[&source]);
    assert_eq!(suspect.verdict, "suspect", "{}", suspect.ran);
    sql("PRAGMA user_version = 9");
    assert_eq!(sandbox.pull(&[&source]).verdict, "suspect");
    leads_to(&copies[0]);
    sandbox.puller(&["accept", "gym", &suspect.copy]);
    leads_to(&suspect.copy);
}
