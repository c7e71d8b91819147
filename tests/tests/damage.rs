//! A damaged source: copied exactly, flagged, exit code 4 on each run, and no good copy goes because of it.

use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases, programs, wounds};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Header fields that a copy has of its own, whatever the source says (design.md, "Canonical page 1").
const CANONICAL: [std::ops::Range<usize>; 5] = [18..20, 24..28, 28..32, 40..44, 92..100];

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file can be read")
}

/// The copy has every byte of the source but those fields, and they say what they always say.
#[track_caller]
fn is_exact(source: &Path, copy: &Path) {
    let [mut source, mut copy] = [source, copy].map(bytes);
    assert_eq!(source.len(), copy.len(), "the length of the copy");
    let pages = (copy.len() / usize::from(u16::from_be_bytes([copy[16], copy[17]]))) as u32;
    let said = [&[1, 1][..], &[0, 0, 0, 1], &pages.to_be_bytes(), &[0, 0, 0, 1], &[0, 0, 0, 1, 0, 0, 0, 0]];
    for (field, said) in CANONICAL.into_iter().zip(said) {
        assert_eq!(&copy[field.clone()], said, "bytes {field:?} of the copy");
        source[field.clone()].fill(0);
        copy[field].fill(0);
    }
    let differs = source.iter().zip(&copy).position(|(source, copy)| source != copy);
    assert_eq!(differs, None, "the first byte that is not the source's");
}

/// What `latest.db` beside the copy at `path` leads to.
fn latest(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(Path::parent).expect("a copy lies in its source's folder");
    folder.join("latest.db").canonicalize().expect("there is a good copy")
}

/// Copies of `source` with their verdicts, oldest first.
#[track_caller]
fn listed(sandbox: &Sandbox, source: &str) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = sandbox.puller(&["list", "--json", source]).exits(0).json();
    lines.iter().map(|line| (word(&line["copy"]), word(&line["verdict"]))).collect()
}

#[track_caller]
fn is_damaged(pulled: &Pulled, outcome: &str, good: &Pulled) {
    let found = (pulled.outcome.as_str(), pulled.verdict.as_str(), pulled.ran.code());
    assert_eq!(found, (outcome, "damaged", 4), "{}", pulled.ran);
    for part in ["is damaged at the source", "[P16]", &good.copy, "SQLite: ", "hint: "] {
        assert!(pulled.ran.stderr.contains(part), "`{part}` on stderr of {}", pulled.ran);
    }
    assert_eq!(pulled.json["removed"], Value::Array(Vec::new()), "{}", pulled.ran);
    assert_eq!(latest(&pulled.path), good.path, "the latest, after {}", pulled.ran);
}

/// Pulls a gym that gets `wound` after its second good copy, through both doors, and lets it recover.
#[track_caller]
fn check(wound: fn(&Path)) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let doors = [(OsString::from(&source), "local/gym"), (served.source("gym").into(), "127.0.0.1/gym")];
    let pull = |door: &OsStr| sandbox.pull(&[OsStr::new("--keep-last"), OsStr::new("1"), door]);
    for (door, _) in &doors {
        sandbox.pull(&[door]).succeeds("stored");
    }
    databases::visits_in_the_wal(&source, 20);
    let good = doors.clone().map(|(door, _)| sandbox.pull(&[&door]).succeeds("stored"));
    let healthy = bytes(&source);
    wound(&source);
    let damaged = doors.clone().map(|(door, _)| pull(&door));
    for ((door, name), (damaged, good)) in doors.iter().zip(damaged.iter().zip(&good)) {
        is_damaged(damaged, "stored", good);
        is_exact(&source, &damaged.path);
        let again = pull(door);
        is_damaged(&again, "unchanged", good);
        assert_eq!(again.copy, damaged.copy, "{}", again.ran);
        let verified = sandbox.puller(&["verify", "--json", name]).exits(4).json();
        let results: Vec<&Value> = verified.iter().map(|line| &line["result"]).collect();
        assert_eq!(results, ["ok", "ok", "damaged"]);
        // Asked for by name, a policy keeps the newest good copy all the same.
        sandbox.puller(&["rotate", name, "--keep-last", "1"]).exits(0);
        let kept = [(good.copy.clone(), "ok".into()), (damaged.copy.clone(), "damaged".into())];
        assert_eq!(listed(&sandbox, name), kept);
    }
    assert_eq!(damaged[0].snapshot, damaged[1].snapshot, "both doors see the same damage");
    assert_eq!(bytes(&damaged[0].path), bytes(&damaged[1].path));
    fs::write(&source, healthy).expect("a file can be written");
    databases::visits_in_the_wal(&source, 20);
    for (door, _) in &doors {
        let mended = pull(door).succeeds("stored");
        assert_eq!(mended.verdict, "ok", "{}", mended.ran);
        contents::assert_equal(&source, &mended.path);
        assert_eq!(latest(&mended.path), mended.path);
    }
}

#[test]
fn a_damaged_schema_is_copied_exactly_and_flagged_on_each_run() {
    check(wounds::schema);
}

#[test]
fn a_damaged_index_is_copied_exactly_and_flagged_on_each_run() {
    check(wounds::index);
}

#[test]
fn a_damaged_table_page_is_copied_exactly_and_flagged_on_each_run() {
    check(wounds::table);
}

#[test]
fn a_damaged_free_list_is_copied_exactly_and_flagged_on_each_run() {
    check(wounds::free_list);
}

#[test]
fn a_backup_of_a_damaged_database_is_exact_and_says_so() {
    let sandbox = Sandbox::new();
    let (source, file) = (sandbox.db("gym.db"), sandbox.file("backup.db"));
    databases::gym(&source, 600_000, 4096);
    wounds::index(&source);
    let ran = sandbox.agent(&[Path::new("--json"), Path::new("backup"), &source, &file]).exits(4);
    assert_eq!(ran.only_json()["verdict"], "damaged", "{ran}");
    is_exact(&source, &file);
}

/// The first copy ever may be of a sick source: there is nothing better, and it is no good copy.
#[test]
fn a_source_that_was_always_damaged_has_no_latest() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    wounds::table(&source);
    for outcome in ["stored", "unchanged"] {
        let pulled = sandbox.pull(&[&source]);
        assert_eq!((pulled.outcome.as_str(), pulled.ran.code()), (outcome, 4), "{}", pulled.ran);
        assert!(pulled.ran.stderr.contains("there is no good copy"), "{}", pulled.ran);
        assert!(!pulled.path.parent().unwrap().with_file_name("latest.db").exists());
    }
    let kept = sandbox.puller(&["restore", "local/gym", "--to", "restored.db"]);
    assert_eq!(kept.code(), 10, "{kept}");
}

/// A gym too large for the full check of every pull.
fn large_gym(path: &Path) {
    databases::gym(path, 600_000, 32768);
    let db = databases::create(path, "CREATE TABLE photos(body BLOB)");
    db.execute("INSERT INTO photos VALUES (zeroblob(?1))", [66 << 20]).expect("a row can be written");
}

/// A store that is pulled into once a day.
struct Days<'a> {
    sandbox: &'a Sandbox,
    policy: &'a [&'a str],
    door: OsString,
}

impl Days<'_> {
    #[track_caller]
    fn pull(&self, day: u32) -> Pulled {
        let mut command = self.sandbox.command(programs::puller());
        command.env("PULLER_NOW", format!("2026-11-{day:02}T09:00:00Z")).args(["pull", "--json", "--store"]);
        command.arg(self.sandbox.store()).args(self.policy).arg(&self.door);
        Pulled::from_run(self.sandbox.run(&mut command))
    }
}

/// Pulls once a day; on day 2 an index is damaged where `quick_check` does not look.
#[track_caller]
fn check_days(policy: &[&str], door: impl Fn(&Sandbox, &Path) -> (OsString, &'static str)) {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(120));
    let source = sandbox.db("gym.db");
    large_gym(&source);
    let (door, name) = door(&sandbox, &source);
    let days = Days { sandbox: &sandbox, policy, door };
    let good = days.pull(1).succeeds("stored");
    assert_eq!((good.verdict.as_str(), good.checked.as_str()), ("ok", "full"), "{}", good.ran);
    let mut found = None;
    for day in 2..=10 {
        databases::visits_in_the_wal(&source, 20);
        if day == 2 {
            wounds::index(&source);
        }
        let pulled = days.pull(day);
        match (found, pulled.ran.code()) {
            (None, 0) => {
                assert!(day < 9, "nothing was found by day {day}: {}", pulled.ran);
                assert_eq!(pulled.checked, "quick", "{}", pulled.ran);
            }
            (_, code) => {
                assert_eq!((code, pulled.verdict.as_str()), (4, "damaged"), "day {day}: {}", pulled.ran);
                assert_eq!(pulled.checked, "full", "a finding sticks: {}", pulled.ran);
                is_exact(&source, &pulled.path);
                found.get_or_insert(day);
            }
        }
        let copies = listed(&sandbox, name);
        assert!(
            copies.contains(&(good.copy.clone(), "ok".into())),
            "the last good copy on day {day}: {copies:?}"
        );
        if found.is_some() {
            // Whatever came in between was looked at again, and none of it is taken for good any more.
            let others = copies.iter().filter(|(copy, _)| *copy != good.copy);
            assert!(others.into_iter().all(|(_, verdict)| verdict == "damaged"), "day {day}: {copies:?}");
            assert_eq!(latest(&pulled.path), good.path, "the latest on day {day}");
        }
    }
    let unchanged = days.pull(11);
    let found = (unchanged.outcome.as_str(), unchanged.checked.as_str(), unchanged.ran.code());
    assert_eq!(found, ("unchanged", "full", 4), "{}", unchanged.ran);
    sandbox.puller(&["rotate", name, "--keep-last", "1"]).exits(0);
    assert!(listed(&sandbox, name).contains(&(good.copy, "ok".into())));
}

#[test]
fn damage_that_a_quick_check_passes_is_found_within_eight_days_and_sticks() {
    check_days(&[], |_, source| (source.into(), "local/gym"));
}

/// Copies that passed only a quick check do not push out the last one that passed the full check.
#[test]
fn damage_that_a_quick_check_passes_evicts_no_good_copy_under_a_policy() {
    check_days(&["--keep-last", "2"], |_, source| (source.into(), "local/gym"));
}

#[test]
fn damage_in_a_source_that_changes_no_more_is_found_within_eight_days() {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(120));
    let source = sandbox.db("gym.db");
    large_gym(&source);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let days = Days { sandbox: &sandbox, policy: &["--keep-last", "1"], door: served.source("gym").into() };
    let good = days.pull(1).succeeds("stored");
    wounds::index(&source);
    let quick = days.pull(2).succeeds("stored");
    assert_eq!((quick.verdict.as_str(), quick.checked.as_str()), ("ok", "quick"), "{}", quick.ran);
    days.pull(5).succeeds("unchanged");
    for day in [9, 10] {
        let found = days.pull(day);
        let words = (found.outcome.as_str(), found.verdict.as_str(), found.checked.as_str());
        assert_eq!(words, ("unchanged", "damaged", "full"), "{}", found.ran);
        assert_eq!(found.ran.code(), 4, "{}", found.ran);
        assert_eq!(latest(&found.path), good.path, "the latest on day {day}");
    }
}

/// A source that was cut after `length` of its bytes is not copied at all.
#[track_caller]
fn check_cut(journal: &str, length: impl Fn(u64) -> u64) {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(5));
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    databases::create(&source, &format!("PRAGMA journal_mode = {journal}"));
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let doors = [OsString::from(&source), served.source("gym").into()];
    let good = doors.clone().map(|door| sandbox.pull(&[door]).succeeds("stored"));
    wounds::cut(&source, length(source.metadata().expect("a source has a length").len()));
    for (door, good) in doors.iter().zip(&good) {
        for _ in 0..2 {
            let failed = sandbox.pull(&[OsStr::new("--keep-last"), OsStr::new("1"), door]);
            let failed = failed.fails("unreadable", 7);
            for part in ["cannot be read to its end", "[P10]", &good.copy] {
                assert!(failed.ran.stderr.contains(part), "`{part}` on stderr of {}", failed.ran);
            }
            assert_eq!(latest(&good.path), good.path, "the latest, after {}", failed.ran);
        }
    }
    sandbox.puller(&["verify", "--all"]).exits(0);
    for name in ["local/gym", "127.0.0.1/gym"] {
        assert_eq!(listed(&sandbox, name).len(), 1, "nothing was stored of {name}");
    }
}

#[test]
fn a_source_cut_in_half_is_unreadable_and_the_newest_good_copy_is_named() {
    check_cut("wal", |length| length / 8192 * 4096);
    check_cut("delete", |length| length / 8192 * 4096);
}

/// SQLite itself reads the rest of such a page as zeros.
#[test]
fn a_source_cut_within_its_last_page_is_unreadable() {
    for missing in [1, 4095] {
        check_cut("wal", |length| length - missing);
        check_cut("delete", |length| length - missing);
    }
}

#[test]
fn a_source_cut_to_its_header_is_unreadable() {
    check_cut("wal", |_| 700);
    check_cut("delete", |_| 100);
}

#[test]
fn a_pack_that_rotted_meanwhile_does_not_stop_the_search_for_older_damage() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 600_000, 4096);
    let quick: Vec<Pulled> = (0..3)
        .map(|_| {
            databases::visits_in_the_wal(&source, 20);
            sandbox
                .pull(&[OsStr::new("--verify"), OsStr::new("quick"), source.as_os_str()])
                .succeeds("stored")
        })
        .collect();
    let pack = quick[1].path.with_extension("delta.gz");
    let mut rotten = bytes(&pack);
    rotten[100] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, rotten).unwrap();
    wounds::index(&source);
    let pulled = sandbox.pull(&[OsStr::new("--verify"), OsStr::new("full"), source.as_os_str()]);
    assert_eq!((pulled.outcome.as_str(), pulled.verdict.as_str()), ("stored", "damaged"), "{}", pulled.ran);
    let verdicts: Vec<String> =
        listed(&sandbox, "local/gym").into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(
        verdicts,
        ["rotten", "rotten", "ok", "damaged"],
        "the oldest was packed upon the one that rotted"
    );
}
