//! Copies that older scripts made become copies of a source, of the times in their names; the files themselves stay as they are.

use flate2::Compression;
use flate2::write::GzEncoder;
use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::programs;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox};
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::wounds;
use rusqlite::Connection;
use serde_json::Value;
use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Two hours east of Greenwich in summer, one in winter.
const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

/// A live gym, and a folder for what its old scripts left.
struct Attic {
    sandbox: Sandbox,
    live: PathBuf,
    folder: PathBuf,
}

impl Attic {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let (live, folder) = (sandbox.db("gym.db"), sandbox.file("attic"));
        databases::gym(&live, 200_000, 4096);
        fs::create_dir(&folder).expect("a folder can be made");
        Self { sandbox, live, folder }
    }

    /// Some visits later: what lies in the `-wal` is brought into the file, as when the application ends.
    fn goes_on(&self) {
        drop(databases::visits_in_the_wal(&self.live, 20));
    }

    /// A copy of the live database, which is closed, under `name`.
    fn copy(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        match name.ends_with(".gz") {
            true => {
                let mut packed = GzEncoder::new(File::create(&path).expect("a file"), Compression::fast());
                packed
                    .write_all(&fs::read(&self.live).expect("a file can be read"))
                    .expect("it can be packed");
                packed.finish().expect("it can be packed");
            }
            false => drop(fs::copy(&self.live, &path).expect("a file can be copied")),
        }
        path
    }

    fn import(&self, files: &[&Path], options: &[&str]) -> Ran {
        let mut command = self.sandbox.command(programs::puller());
        command.arg("--store").arg(self.sandbox.store()).args(["--json", "import", "--name", "gym"]);
        self.sandbox.run(command.args(options).args(files).env("TZ", ZONE))
    }

    /// The copies of `gym`, as `list` tells of them.
    fn list(&self) -> Vec<Value> {
        self.sandbox.puller(&["list", "gym", "--json"]).exits(0).json()
    }

    /// What is in the folder, to the byte, with the times of writing.
    fn left(&self) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
        let entries = fs::read_dir(&self.folder).expect("a folder can be read");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        paths.sort();
        let file = |path: PathBuf| {
            let written = path.metadata().and_then(|metadata| metadata.modified()).expect("a time");
            (path.clone(), fs::read(path).expect("a file can be read"), written)
        };
        paths.into_iter().map(file).collect()
    }

    /// The content of a copy, in a file of its own.
    fn content(&self, copy: &str) -> PathBuf {
        let target = self.sandbox.file(&format!("{copy}.restored"));
        self.sandbox.puller(&["restore", "gym", copy, "--to", target.to_str().expect("text")]).exits(0);
        target
    }
}

fn word<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

fn outcomes(ran: &Ran) -> Vec<String> {
    ran.json().iter().map(|line| word(line, "outcome").to_owned()).collect()
}

#[test]
fn copies_of_old_scripts_become_copies_of_their_times_and_the_next_pull_builds_on_them() {
    let attic = Attic::new();
    // In no order, with names of four scripts.
    let names = [
        ("maekcord-backup-2025-11-05T03-15-00.db.gz", "2025-11-05T02:15:00Z"),
        ("backup_20251103031500.db", "2025-11-03T02:15:00Z"),
        ("gym_backup_20250704_031500.sqlite3", "2025-07-04T01:15:00Z"),
        ("gym-2025-11-04T03:15:00Z.bak", "2025-11-04T03:15:00Z"),
    ];
    let mut order = names.map(|(name, at)| (at, name));
    order.sort_unstable();
    for (_, name) in order {
        attic.goes_on();
        attic.copy(name);
    }
    let before = attic.left();
    let files: Vec<PathBuf> = names.iter().map(|(name, _)| attic.folder.join(name)).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let said = attic.import(&files, &[]).exits(0);
    assert_eq!(outcomes(&said), ["stored"; 4]);
    assert!(said.json().iter().all(|line| line["time_from"] == "name" && line["verdict"] == "ok"), "{said}");
    assert!(attic.left() == before, "what is imported is only read");

    let copies = attic.list();
    let times: Vec<&str> = copies.iter().map(|copy| word(copy, "taken_at")).collect();
    assert_eq!(times, order.map(|(at, _)| at));
    for (copy, (_, name)) in copies.iter().zip(order).filter(|(_, (_, name))| !name.ends_with(".gz")) {
        contents::assert_equal(&attic.folder.join(name), &attic.content(word(copy, "copy")));
    }
    assert_eq!(attic.sandbox.puller(&["verify", "gym", "--full"]).exits(0).stderr, "");
    let shown = attic.sandbox.puller(&["show", "gym", "--json"]).exits(0).only_json();
    assert!(
        word(&shown["source"], "path").ends_with("/attic/maekcord-backup-2025-11-05T03-15-00.db.gz"),
        "{shown}"
    );
    assert_eq!((word(&shown["source"], "journal"), word(&shown["transfer"], "kind")), ("wal", "delta"));
    assert_eq!(attic.sandbox.puller(&["history", "gym", "--json"]).exits(0).json().len(), 4);

    // The live database is as it was when the last copy was made: by the name of its content.
    let live = attic.live.to_str().unwrap();
    attic.sandbox.pull(&[live, "--name", "gym"]).succeeds("unchanged");
    attic.goes_on();
    let pulled = attic.sandbox.pull(&["gym"]).succeeds("stored");
    assert_eq!((pulled.transfer.as_str(), attic.list().len()), ("delta", 5));
    let sources = attic.sandbox.puller(&["sources", "--json"]).exits(0).only_json();
    assert_eq!((word(&sources, "source"), word(&sources, "address")), ("gym", live));
    let sources = attic.sandbox.puller(&["pull", "--all", "--json"]).exits(0).only_json();
    assert_eq!(word(&sources, "outcome"), "unchanged");
}

#[test]
fn rotation_goes_by_the_times_in_the_names() {
    let attic = Attic::new();
    for day in 1..=5 {
        attic.goes_on();
        attic.copy(&format!("gym_2025110{day}_031500.db"));
    }
    let files: Vec<PathBuf> = attic.left().into_iter().map(|(path, _, _)| path).collect();
    attic.import(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>(), &[]).exits(0);
    attic.sandbox.puller(&["rotate", "gym", "--keep-days", "2"]).exits(0);
    let times: Vec<String> = attic.list().iter().map(|copy| word(copy, "taken_at").to_owned()).collect();
    assert_eq!(times, [3, 4, 5].map(|day| format!("2025-11-0{day}T02:15:00Z")));
}

#[test]
fn what_is_no_sound_copy_is_told_and_the_others_are_stored() {
    let attic = Attic::new();
    let good = attic.copy("gym_20251103_031500.db");
    attic.goes_on();
    let packed = attic.copy("gym_20251104_031500.db.gz");
    let whole = fs::read(&packed).unwrap();
    fs::write(attic.folder.join("gym_20251105_031500.db.gz"), &whole[..whole.len() / 2]).unwrap();
    fs::write(attic.folder.join("gym_20251106_031500.db"), "the script said: no such file").unwrap();
    fs::write(attic.folder.join("gym_20251107_031500.db"), "").unwrap();
    wounds::table(&attic.copy("gym_20251108_031500.db"));
    let cut = attic.copy("gym_20251109_031500.db");
    wounds::cut(&cut, 50_000);
    fs::write(attic.folder.join("gym_20251110_031500.db.zst"), b"\x28\xb5\x2f\xfd....").unwrap();
    attic.copy("gym_20991231_031500.db");
    // What a run left that was killed does not stand in the way.
    let private = attic.sandbox.store().join(".import");
    attic.import(&[&good], &[]).exits(0);
    fs::write(private.join("copy.db"), "half of it").unwrap();
    fs::write(private.join("copy.db-wal"), "and more").unwrap();
    fs::create_dir(attic.folder.join("older")).unwrap();
    let names = fs::read_dir(&attic.folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = names.chain([attic.folder.join("gone.db")]).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();

    let said = attic.import(&files, &[]).exits(3);
    let found = |name: &str| {
        let lines = said.json();
        let line = lines.iter().find(|line| word(line, "file").contains(name)).expect("a line").clone();
        (word(&line, "outcome").to_owned(), word(&line["error"], "code").to_owned())
    };
    let failed = |code: &str| ("failed".to_owned(), code.to_owned());
    for (name, expected) in [
        ("20251103", ("unchanged".to_owned(), String::new())),
        ("20251104", ("stored".to_owned(), String::new())),
        ("20251105", failed("damaged")),
        ("20251106", failed("not_a_database")),
        ("20251107", failed("not_a_database")),
        ("20251108", failed("damaged")),
        ("20251110", failed("not_a_database")),
        ("20991231", failed("usage")),
        ("older", failed("unusable")),
        ("gone", failed("missing")),
    ] {
        assert_eq!(found(name), expected, "{name}, of {said}");
    }
    assert_eq!(found("20251109").0, "failed", "{said}");
    assert!(!said.stderr.contains("/.import/"), "the private copy is told of: {said}");
    assert_eq!(attic.list().len(), 2);
    assert_eq!(attic.import(&[&attic.folder.join("gym_20251106_031500.db")], &[]).code(), 7);
    assert_eq!(attic.import(&[&attic.folder.join("gym_20251108_031500.db")], &[]).code(), 4);
    // Of one that is there already there is nothing to store.
    assert_eq!(outcomes(&attic.import(&[&good, &packed], &[]).exits(0)), ["unchanged"; 2]);
    assert_eq!(attic.list().len(), 2);
    let left = fs::read_dir(&private).unwrap();
    assert_eq!(left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["lock"]);
}

#[test]
fn what_is_older_than_a_copy_of_the_source_is_refused_before_anything_is_stored() {
    let attic = Attic::new();
    let old = attic.copy("gym_20251103_031500.db");
    attic.goes_on();
    let Pulled { copy, .. } =
        attic.sandbox.pull(&[attic.live.to_str().unwrap(), "--name", "gym"]).succeeds("stored");
    attic.goes_on();
    let said = attic.import(&[&attic.copy("gym_20251104_031500.db"), &old], &[]).exits(2);
    assert!(said.stderr.contains(&copy) && said.stderr.contains("--name gym-old"), "{said}");
    assert_eq!(attic.list().len(), 1);
}

#[test]
fn rows_in_a_wal_that_was_copied_along_are_in_the_copy() {
    let attic = Attic::new();
    let application = databases::visits_in_the_wal(&attic.live, 50);
    let files = ["gym_20251103_031500.db", "gym_20251103_031500.db-wal", "gym_20251103_031500.db-shm"];
    for (name, from) in files.iter().zip(["gym.db", "gym.db-wal", "gym.db-shm"]) {
        fs::copy(attic.sandbox.db(from), attic.folder.join(name)).unwrap();
    }
    let before = attic.left();
    let files = files.map(|name| attic.folder.join(name));
    let said = attic.import(&files.each_ref().map(PathBuf::as_path), &[]).exits(0);
    assert_eq!(outcomes(&said), ["stored"], "the files beside a database are no copies of their own: {said}");
    assert_eq!(said.only_json()["notes"], serde_json::json!([]));
    assert!(attic.left() == before, "what is imported is only read");
    contents::assert_equal(&attic.live, &attic.content("latest"));
    drop(application);

    // Without it there is no telling whether rows are missing: that is said.
    let alone = attic.copy("gym_20251104_031500.db");
    let said = attic.import(&[&alone], &[]).exits(0).only_json();
    assert!(said["notes"][0].as_str().unwrap().contains("no -wal lies beside it"), "{said}");
}

#[test]
fn a_time_that_a_name_does_not_tell_is_that_of_the_file_and_this_is_said() {
    let attic = Attic::new();
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_762_139_700);
    let at = |name: &str| {
        let path = attic.copy(name);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(written))
            .unwrap();
        let said = attic.import(&[&path], &["--dry-run"]).exits(0).only_json();
        (word(&said, "taken_at").to_owned(), word(&said, "time_from").to_owned())
    };
    let of = |at: &str, from: &str| (at.to_owned(), from.to_owned());
    assert_eq!(at("backup.db"), of("2025-11-03T03:15:00Z", "file"));
    assert_eq!(at("gym_system_2025-11-03.db"), of("2025-11-03T03:15:00Z", "day_in_name"));
    assert_eq!(at("gym.db.2025-11-02"), of("2025-11-01T23:00:00Z", "day_in_name"));
    let utc = attic.import(&[&attic.copy("gym_20251103_031500.db")], &["--dry-run", "--utc"]).exits(0);
    assert_eq!(word(&utc.only_json(), "taken_at"), "2025-11-03T03:15:00Z");
    assert!(!attic.sandbox.store().exists(), "a dry run makes no store");
}

#[test]
fn an_imported_source_gets_its_address_by_its_first_pull_or_by_adoption_and_no_other_one_s() {
    let attic = Attic::new();
    let puller = |words: &[&str]| attic.sandbox.puller(words);
    attic.import(&[&attic.copy("gym_20251103_031500.db")], &[]).exits(0);
    let said = puller(&["pull", "gym"]).exits(2);
    assert!(said.stderr.contains("puller pull ADDRESS --name gym"), "{said}");
    puller(&["doctor", "gym"]).exits(0);
    // An address where nothing is does not become its own, nor does one that is another's.
    puller(&["pull", "./nowhere.db", "--name", "gym"]).exits(7);
    let other = attic.sandbox.db("other.db");
    databases::gym_with_seed(&other, 100_000, 4096, 7);
    attic.sandbox.pull(&[&other]).succeeds("stored");
    let said = puller(&["pull", "./other.db", "--name", "gym"]).exits(2);
    assert!(said.stderr.contains("is the source `local/other` already"), "{said}");
    let all = puller(&["pull", "--all", "--json"]).exits(0).only_json();
    assert_eq!(word(&all, "source"), "local/other");
    puller(&["sources", "adopt", "gym", "./gym.db"]).exits(0);
    attic.sandbox.pull(&["gym"]).succeeds("unchanged");
    Connection::open(&attic.live).unwrap().execute_batch("CREATE TABLE more(a)").unwrap();
    assert_eq!(attic.sandbox.pull(&["./gym.db"]).succeeds("stored").transfer, "delta");
}

#[test]
fn a_file_that_unpacks_to_more_than_there_is_room_for_takes_no_room() {
    let attic = Attic::new();
    let store = attic.sandbox.store();
    let Some(_disk) = SmallDisk::mount(&store, "size=24m", "a file that unpacks to more than a disk has")
    else {
        return;
    };
    attic.import(&[&attic.copy("gym_20251103_031500.db")], &[]).exits(0);
    let bomb = attic.folder.join("gym_20251104_031500.db.gz");
    let mut packed = GzEncoder::new(File::create(&bomb).unwrap(), Compression::fast());
    packed.write_all(&fs::read(&attic.live).unwrap()).unwrap();
    for _ in 0..64 {
        packed.write_all(&vec![0; 1 << 20]).unwrap();
    }
    packed.finish().unwrap();
    let said = attic.import(&[&bomb], &[]).exits(8).only_json();
    assert_eq!(word(&said["error"], "code"), "no_space");
    assert!(!store.join(".import/copy.db").exists());
    assert_eq!(attic.list().len(), 1);
    attic.sandbox.puller(&["verify", "gym"]).exits(0);
}
