//! Copies are listed, shown, verified and rotated as they were pulled; without a policy nothing ever goes.

use pullback_tests::databases;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A sandbox with `count` copies of a gym that changed in between.
fn stored(count: usize) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 200_000, 4096);
    for number in 0..count {
        change(&source, number);
        sandbox.pull(&[&source]).succeeds("stored");
    }
    (sandbox, source)
}

fn change(source: &Path, number: usize) {
    let sql = format!("CREATE TABLE IF NOT EXISTS change(a); INSERT INTO change VALUES ({number})");
    Connection::open(source).and_then(|c| c.execute_batch(&sql)).expect("a gym can be changed");
}

fn ids(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.puller(&["list", "gym", "--json"]).exits(0).json();
    listed.iter().map(|line| line["copy"].as_str().expect("a copy has an id").to_owned()).collect()
}

#[test]
fn without_a_policy_nothing_goes_and_that_is_said_once() {
    let (sandbox, source) = stored(3);
    assert_eq!(ids(&sandbox).len(), 3);
    let history = fs::read_to_string(sandbox.store().join("local/gym/history.jsonl")).unwrap();
    assert_eq!(history.lines().count(), 3);
    sandbox.puller(&["rotate", "gym"]).exits(2);
    assert_eq!(ids(&sandbox).len(), 3);
    change(&source, 9);
    let said = sandbox.puller(&["pull", source.to_str().unwrap()]).exits(0);
    assert!(!said.stderr.contains("nothing is ever removed"), "it was said before: {said}");
}

#[test]
fn the_note_about_rotation_names_the_count_and_the_line_to_add() {
    let (sandbox, source) = stored(1);
    change(&source, 1);
    let said = sandbox.puller(&["pull", source.to_str().unwrap()]).exits(0);
    assert!(said.stderr.contains("2 copies") && said.stderr.contains("keep = { last = 30 }"), "{said}");
}

#[test]
fn a_pull_with_a_policy_rotates_after_a_good_copy() {
    let (sandbox, source) = stored(4);
    let before = ids(&sandbox);
    change(&source, 9);
    let ran = sandbox.puller(&["pull", source.to_str().unwrap(), "--keep-last", "2", "--json"]).exits(0);
    assert_eq!(ran.only_json()["removed"].as_array().unwrap().len(), 3, "{ran}");
    let after = ids(&sandbox);
    assert_eq!((after.len(), &after[0]), (2, &before[3]));
    let left = fs::read_dir(sandbox.store().join("local/gym/copies")).unwrap().count();
    assert_eq!(left, 3 + 2, "the newest copy is three files, a packed one two, and nothing else is left");
}

#[test]
fn a_dry_run_of_rotate_gives_reasons_and_removes_nothing() {
    let (sandbox, _) = stored(3);
    let ran = sandbox.puller(&["rotate", "gym", "-n", "--keep-last", "1", "--json"]).exits(0);
    let kept: Vec<bool> = ran.json().iter().map(|line| line["kept"].as_bool().unwrap()).collect();
    assert_eq!(kept, [false, false, true]);
    assert_eq!(ids(&sandbox).len(), 3);
    sandbox.puller(&["rotate", "gym", "--keep-last", "0"]).exits(0);
    assert_eq!(ids(&sandbox).len(), 1, "the newest good copy stays under a policy of zero");
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let (sandbox, source) = stored(3);
    sandbox.puller(&["rotate", "gym", "--keep-last", "1"]).exits(0);
    let newest = ids(&sandbox).remove(0);
    for suffix in ["db", "pages", "json"] {
        fs::remove_file(sandbox.store().join(format!("local/gym/copies/{newest}.{suffix}"))).unwrap();
    }
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    assert!(stored.copy.starts_with("gym-000004-"), "{}", stored.ran);
}

#[test]
fn md5sum_agrees_with_what_show_prints() {
    let (sandbox, _) = stored(1);
    let shown = sandbox.puller(&["show", "gym", "--checksums"]).exits(0);
    let md5_line = shown.stdout.lines().next().unwrap();
    let sums = sandbox.file("sums.md5");
    fs::write(&sums, format!("{md5_line}\n")).unwrap();
    match Command::new("md5sum").arg("-c").arg(&sums).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => eprintln!("SKIPPED: there is no md5sum on this machine"),
    }
    assert_eq!(shown.stdout.lines().count(), 3, "{shown}");
    let manifest = sandbox.puller(&["show", "gym", "--json"]).exits(0).only_json();
    assert_eq!(manifest["md5"].as_str(), md5_line.split_whitespace().next(), "the manifest has it as well");
}

#[test]
fn the_md5_that_an_agent_sends_with_a_first_copy_is_kept() {
    let (sandbox, source) = stored(0);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let name = served.source("gym");
    sandbox.puller(&["pull", &name, "--verify", "hash"]).exits(0);
    let manifest = sandbox.puller(&["show", &name, "gym-000001", "--json"]).exits(0).only_json();
    let shown = sandbox.puller(&["show", &name, "gym-000001", "--checksums"]).exits(0);
    assert_eq!(manifest["md5"].as_str(), shown.stdout.split_whitespace().next(), "{manifest}");
}

#[test]
fn copies_are_read_only_and_the_store_is_its_owners() {
    let (sandbox, _) = stored(1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in ["", "local", "local/gym", "local/gym/copies"] {
        assert_eq!(mode(&sandbox.store().join(folder)), 0o700, "{folder}");
    }
    for entry in fs::read_dir(sandbox.store().join("local/gym/copies")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o400, "{}", path.display());
    }
}

#[test]
fn the_latest_link_opens_the_newest_good_copy() {
    let (sandbox, source) = stored(2);
    let latest = fs::canonicalize(sandbox.store().join("local/gym/latest.db")).unwrap();
    let newest = sandbox.pull(&[&source]).succeeds("unchanged").path;
    assert_eq!(latest, fs::canonicalize(newest).unwrap());
}

#[test]
fn a_moved_store_verifies_and_goes_on() {
    let (sandbox, source) = stored(2);
    let moved = sandbox.file("elsewhere");
    fs::rename(sandbox.store(), &moved).unwrap();
    sandbox.puller_in(&moved, &["verify", "--all"]).exits(0);
    change(&source, 7);
    let pulled =
        sandbox.puller_in(&moved, &["pull", source.to_str().unwrap(), "--json"]).exits(0).only_json();
    assert_eq!((pulled["outcome"].as_str(), pulled["transfer"].as_str()), (Some("stored"), Some("delta")));
}

#[test]
fn a_hand_copy_without_its_wal_is_told_from_a_whole_file() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 200_000, 4096);
    let _application = databases::visits_in_the_wal(&source, 50);
    let hand_copy = sandbox.db("copy.db");
    fs::copy(&source, &hand_copy).unwrap();
    let said = sandbox.puller(&["verify", hand_copy.to_str().unwrap()]);
    assert!(said.stdout.contains("this looks like a hand copy: its -wal is missing"), "{said}");
    let with_wal = sandbox.puller(&["verify", source.to_str().unwrap()]);
    assert!(!with_wal.stdout.contains("hand copy"), "{with_wal}");
    let whole = sandbox.pull(&[&source]).succeeds("stored").path;
    let said = sandbox.puller(&["verify", whole.to_str().unwrap()]).exits(0);
    assert!(!said.stdout.contains("hand copy"), "{said}");
    let beside: Vec<_> = fs::read_dir(hand_copy.parent().unwrap()).unwrap().flatten().collect();
    assert!(beside.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("copy.db-")));
}

#[test]
fn one_run_at_a_time_and_the_second_is_told() {
    let (sandbox, source) = stored(1);
    let lock = fs::File::open(sandbox.store().join("local/gym/.lock")).unwrap();
    lock.try_lock().unwrap();
    let refused = sandbox.puller(&["pull", source.to_str().unwrap()]).exits(11);
    assert!(refused.stderr.contains("another run works on `local/gym`"), "{refused}");
    lock.unlock().unwrap();
    sandbox.pull(&[&source]).succeeds("unchanged");
}

#[test]
fn a_name_and_ambiguity_are_handled() {
    let sandbox = Sandbox::new();
    for folder in ["a", "b"] {
        fs::create_dir(sandbox.file(folder)).unwrap();
        let source = sandbox.file(folder).join("app.db");
        databases::gym(&source, 100_000, 4096);
        sandbox.pull(&[&source]).succeeds("stored");
    }
    assert!(sandbox.store().join("local/app-2/copies").is_dir());
    let source = sandbox.db("third.db");
    databases::gym(&source, 100_000, 4096);
    let named = sandbox.puller(&["pull", source.to_str().unwrap(), "--name", "till", "--json"]).exits(0);
    assert_eq!(named.only_json()["source"], "till");
    sandbox.puller(&["list", "till"]).exits(0);
    sandbox.puller(&["pull", "till"]).exits(0);
}

/// Pulls a changed gym once for each of `days` of November 2026, at noon UTC by the clock of the workstation.
fn stored_on(days: &[&str]) -> Sandbox {
    let (sandbox, source) = stored(0);
    // Then all are of one size.
    sandbox.configure("pack = 'none'");
    for (number, day) in days.iter().enumerate() {
        change(&source, number);
        let mut pull = sandbox.command(pullback_tests::programs::puller());
        pull.args(["pull", "--store"]).arg(sandbox.store()).arg(&source).env("PULLER_NOW", day);
        sandbox.run(&mut pull).exits(0);
    }
    sandbox
}

/// What `words` say of each copy: whether it stays, and why it does or does not.
fn decided(sandbox: &Sandbox, words: &[&str]) -> Vec<(bool, String)> {
    let mut command = sandbox.command(pullback_tests::programs::puller());
    command.args(["rotate", "gym", "--dry-run", "--json", "--store"]).arg(sandbox.store()).args(words);
    let lines = sandbox.run(command.env("PULLER_NOW", "2026-11-21T13:00:00Z")).exits(0).json();
    let of = |line: &serde_json::Value| {
        let kept: Vec<&str> =
            line["kept_because"].as_array().expect("reasons").iter().filter_map(|why| why.as_str()).collect();
        let why = line["goes_because"].as_str().map_or_else(|| kept.join(", "), str::to_owned);
        (line["kept"].as_bool().expect("a decision"), why)
    };
    lines.iter().map(of).collect()
}

#[test]
fn a_day_is_one_of_the_zone_that_is_stated() {
    let sandbox = stored_on(&["2026-11-19T14:00:00Z", "2026-11-19T16:00:00Z", "2026-11-21T12:00:00Z"]);
    let utc = decided(&sandbox, &["--keep-daily", "2", "--timezone", "UTC"]);
    assert_eq!(utc[0], (false, "no rule keeps it".to_owned()));
    assert_eq!(utc[1], (true, "keep-daily 2026-11-19".to_owned()));
    assert_eq!(utc[2], (true, "newest good copy, keep-daily 2026-11-21".to_owned()));
    let seoul = decided(&sandbox, &["--keep-daily", "3", "--keep-weekly", "1", "--timezone", "Asia/Seoul"]);
    assert_eq!(seoul[0], (true, "keep-daily 2026-11-19".to_owned()));
    assert_eq!(seoul[1], (true, "keep-daily 2026-11-20".to_owned()));
    assert_eq!(seoul[2].1, "newest good copy, keep-daily 2026-11-21, keep-weekly 2026-W47");
    let config = sandbox.file("seoul.toml");
    fs::write(&config, "timezone = \"Asia/Seoul\"\nkeep = { daily = 3 }\n").unwrap();
    let config = ["--config", config.to_str().unwrap()];
    assert_eq!(decided(&sandbox, &config)[0].1, "keep-daily 2026-11-19");
    let listed = sandbox.puller(&[&["list", "gym", "--json"], &config[..]].concat()).exits(0).json();
    assert_eq!(listed[0]["kept_because"], serde_json::json!(["keep-daily 2026-11-19"]));
}

#[test]
fn a_rule_that_is_typed_holds_in_place_of_the_configured_one_of_its_name() {
    let sandbox = stored_on(&["2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z"]);
    let config = sandbox.file("keep.toml");
    fs::write(&config, "timezone = \"UTC\"\nkeep = { daily = 2, last = 3 }\n").unwrap();
    let kept = |words: &[&str]| {
        let words = [&["--config", config.to_str().unwrap()], words].concat();
        decided(&sandbox, &words).iter().map(|(stays, _)| *stays).collect::<Vec<bool>>()
    };
    assert_eq!(kept(&[]), [true, true, true]);
    assert_eq!(kept(&["--keep-last", "1"]), [false, true, true]);
    assert_eq!(kept(&["--keep-last", "1", "--keep-daily", "0"]), [false, false, true]);
    fs::write(
        &config,
        format!(
            "keep = {{ last = 3 }}\n[source.gym]\naddress = {:?}\nkeep = {{ last = 2 }}\n",
            sandbox.db("gym.db")
        ),
    )
    .unwrap();
    assert_eq!(kept(&[]), [false, true, true], "the table of the source");
}

#[test]
fn a_pinned_copy_stays_until_it_is_unpinned() {
    let sandbox = stored_on(&["2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z"]);
    let first = ids(&sandbox).remove(0);
    let said = sandbox.puller(&["pin", "gym", &first]).exits(0);
    assert!(said.stdout.contains(&format!("copy {first} is pinned")), "{said}");
    let quiet = sandbox.puller(&["pin", "gym", &first, "-q"]).exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let decisions = decided(&sandbox, &["--keep-last", "1"]);
    assert_eq!(decisions[0], (true, "pinned".to_owned()));
    assert!(!decisions[1].0 && decisions[2].0);
    assert_eq!(sandbox.puller(&["show", "gym", &first, "--json"]).exits(0).only_json()["pinned"], true);
    sandbox.puller(&["rotate", "gym", "--keep-last", "1"]).exits(0);
    assert_eq!(ids(&sandbox).len(), 2);
    sandbox.puller(&["unpin", "gym", &first]).exits(0);
    sandbox.puller(&["rotate", "gym", "--keep-last", "1"]).exits(0);
    assert_eq!(ids(&sandbox).len(), 1);
    sandbox.puller(&["pin", "gym", &first]).exits(10);
    let runs = sandbox.puller(&["history", "gym", "--json"]).exits(0).json();
    let of_pins = runs.iter().filter(|run| run["run"] == "pin" || run["run"] == "unpin").count();
    assert_eq!(of_pins, 2, "to pin what is pinned is no run");
}

#[test]
fn a_size_takes_the_oldest_and_says_so() {
    let sandbox = stored_on(&["2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z"]);
    let all = decided(&sandbox, &["--max-total-size", "1T"]);
    assert!(all.iter().all(|(stays, why)| *stays && why.contains("max-total-size")), "{all:?}");
    // Two of about 200 kB each fit, with their hashes and manifests.
    let two = decided(&sandbox, &["--max-total-size", "600K"]);
    assert_eq!(two.iter().map(|(stays, _)| *stays).collect::<Vec<bool>>(), [false, true, true], "{two:?}");
    assert_eq!(two[0].1, "max-total-size 600K");
    let least = decided(&sandbox, &["--keep-last", "3", "--max-total-size", "1"]);
    assert_eq!(least.iter().map(|(stays, _)| *stays).collect::<Vec<bool>>(), [false, false, true]);
}

#[test]
fn a_workstation_at_1970_or_a_year_ahead_removes_nothing() {
    let days =
        ["2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z", "1970-01-01T00:03:00Z", "2027-11-21T12:00:00Z"];
    let (sandbox, source) = stored(0);
    sandbox.configure("pack = \"none\"\n");
    for (number, day) in days.iter().enumerate() {
        change(&source, number);
        let mut pull = sandbox.command(pullback_tests::programs::puller());
        pull.args(["pull", "--keep-within", "7d", "--store"]).arg(sandbox.store()).arg(&source);
        sandbox.run(pull.env("PULLER_NOW", day)).exits(0);
        assert_eq!(ids(&sandbox).len(), number + 1, "after {day}");
    }
    let right = decided(&sandbox, &["--keep-within", "7d", "--timezone", "UTC"]);
    assert!(right[2].1.contains("misdated") && right[3].1.contains("misdated"), "{right:?}");
    assert_eq!(right[1].1, "keep-within 7d");
}

#[test]
fn a_size_counts_copies_as_they_are_kept_and_not_as_they_came() {
    let (sandbox, source) = stored(5);
    let stored: Vec<u64> = sandbox
        .puller(&["list", "gym", "--json", "--long"])
        .exits(0)
        .json()
        .iter()
        .map(|line| line["stored_bytes"].as_u64().expect("what it takes"))
        .collect();
    let (newest, others) = stored.split_last().expect("copies");
    // Room for one plain copy and the packed ones, and not for two plain ones.
    let room = (newest * 3 / 2).to_string();
    assert!(others.iter().sum::<u64>() + newest < newest * 3 / 2, "{stored:?}");
    change(&source, 5);
    let pulled = sandbox.pull(&["gym", "--max-total-size", &room]).succeeds("stored");
    assert_eq!(ids(&sandbox).len(), 6, "{pulled:?}");
    // Nothing was packed, and it all goes in if it is.
    sandbox.configure("pack = \"none\"\n");
    change(&source, 6);
    sandbox.pull(&["gym"]).succeeds("stored");
    sandbox.configure("");
    sandbox.puller(&["rotate", "gym", "--max-total-size", &room]).exits(0);
    assert_eq!(ids(&sandbox).len(), 7);
}
