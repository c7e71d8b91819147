//! What was stored comes out again: the content, the journal mode, the owner's mode; and nothing is written over.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::sshd::script;
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A sandbox with one copy of a WAL-mode gym, and the source.
fn stored() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 500_000, 4096);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).expect("a mode can be set");
    sandbox.pull(&[&source]).succeeds("stored");
    (sandbox, source)
}

fn restore(sandbox: &Sandbox, target: &Path) -> Ran {
    sandbox.puller(&[
        "restore",
        "gym",
        "--json",
        "--to",
        target.to_str().expect("a path of the sandbox is text"),
    ])
}

#[test]
fn a_copy_becomes_the_database_it_was() {
    let (sandbox, source) = stored();
    let target = sandbox.db("back.db");
    let ran = restore(&sandbox, &target).exits(0);
    assert_eq!(ran.only_json()["outcome"], "restored");
    contents::assert_equal(&source, &target);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    let connection = Connection::open(&target).unwrap();
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(journal, "wal", "as the source had it");
    connection.execute_batch("CREATE TABLE after_restore(a); DROP TABLE after_restore").unwrap();
}

#[test]
fn a_restored_database_pulled_again_has_the_same_snapshot() {
    let (sandbox, source) = stored();
    let target = sandbox.db("back.db");
    restore(&sandbox, &target).exits(0);
    let [before, after] = [source, target].map(|path| sandbox.pull(&[&path]).snapshot);
    assert_eq!(before, after);
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let (sandbox, _) = stored();
    let there = sandbox.db("there.db");
    fs::write(&there, "mine").unwrap();
    let folder = sandbox.file("folder");
    fs::create_dir(&folder).unwrap();
    let beside_a_wal = sandbox.db("new.db");
    fs::write(sandbox.db("new.db-wal"), "of an older database").unwrap();
    for (target, code, exit) in [(&there, "[P08]", 7), (&folder, "[P11]", 7), (&beside_a_wal, "[P22]", 1)] {
        let ran = sandbox.puller(&["restore", "gym", "--yes", "--to", target.to_str().unwrap()]).exits(exit);
        assert!(ran.stderr.contains(code) && ran.stderr.contains("hint:"), "{ran}");
    }
    assert_eq!(fs::read(&there).unwrap(), b"mine");
    assert!(!beside_a_wal.exists());
}

#[test]
fn a_dry_run_proves_and_writes_nothing() {
    let (sandbox, _) = stored();
    let target = sandbox.db("back.db");
    let ran = sandbox.puller(&["restore", "gym", "-n", "--json", "--to", target.to_str().unwrap()]).exits(0);
    assert_eq!(ran.only_json()["outcome"], "planned");
    assert!(!target.exists());
}

#[test]
fn a_rotten_copy_is_not_restored() {
    let (sandbox, source) = stored();
    let copy = sandbox.pull(&[&source]).path;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(&copy).unwrap();
    bytes[70_000] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let target = sandbox.db("back.db");
    let ran = restore(&sandbox, &target).exits(4);
    assert!(ran.stderr.contains("page 18 "), "{ran}");
    assert!(!target.exists());
}

#[test]
fn an_unknown_copy_or_source_is_exit_10() {
    let (sandbox, _) = stored();
    let target = sandbox.db("back.db");
    let target = target.to_str().unwrap();
    for (source, copy) in
        [("gym", "gym-000099"), ("nobody", "latest"), ("gym", "latest~1"), ("gym", "latest~x")]
    {
        sandbox.puller(&["restore", source, copy, "--to", target]).exits(10);
    }
    sandbox.puller(&["restore", "gym", "latest~0", "--to", target]).exits(0);
}

/// What `history` says of the restores so far.
fn restores(sandbox: &Sandbox) -> Vec<serde_json::Value> {
    let lines = sandbox.puller(&["history", "gym", "--json"]).exits(0).json();
    lines.into_iter().filter(|line| line["run"] == "restore").collect()
}

/// The ids of all copies and whether each is the safety copy of a restore.
fn copies(sandbox: &Sandbox) -> Vec<(String, bool)> {
    let lines = sandbox.puller(&["list", "gym", "--json"]).exits(0).json();
    let of = |line: &serde_json::Value| {
        (line["copy"].as_str().expect("an id").to_owned(), line["safety"].as_bool().expect("yes or no"))
    };
    lines.iter().map(of).collect()
}

const IN_PLACE: [&str; 5] = ["restore", "gym", "--in-place", "--yes", "--json"];

#[test]
fn a_restore_typed_again_means_the_same_copy_and_what_a_pull_finds_again_is_latest() {
    let (sandbox, source) = stored();
    let application = Connection::open(&source).unwrap();
    application.execute_batch("DELETE FROM lockers").unwrap();
    let first = sandbox.puller(&IN_PLACE).exits(0).only_json();
    assert_eq!(
        (&first["outcome"], &first["safety"]),
        (&"restored".into(), &copies(&sandbox)[1].0.clone().into())
    );
    let again = sandbox.puller(&IN_PLACE).exits(0).only_json();
    assert_eq!((&again["outcome"], &again["copy"]), (&"unchanged".into(), &first["copy"]));
    let said = sandbox.puller(&["list", "gym"]).exits(0);
    assert_eq!(said.stdout.matches("before a restore").count(), 2, "{said}");
    let looked = sandbox.puller(&["sql", "gym", "SELECT count(*) > 0 FROM lockers"]).exits(0);
    assert_eq!(looked.stdout.trim(), "1", "what is looked at is what a restore would bring: {looked}");
    // By its id a safety copy is a copy as any.
    let safety = first["safety"].as_str().unwrap();
    let back = sandbox.puller(&["restore", "gym", safety, "--in-place", "--yes", "--json"]).exits(0);
    assert_eq!(back.only_json()["outcome"], "restored", "{back}");
    // A pull makes it what any other copy is, once the source is that again.
    application.execute_batch("UPDATE members SET note = 'later'").unwrap();
    sandbox.puller(&["restore", "gym", "--in-place", "--yes", "--undo"]).exits(2);
    sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(0);
    let newest = copies(&sandbox).pop().unwrap();
    assert!(newest.1, "the safety copy of the undo");
    sandbox.puller(&["restore", "gym", &newest.0, "--in-place", "--yes"]).exits(0);
    sandbox.pull(&[&source]).succeeds("stored");
    let newest = copies(&sandbox).pop().unwrap();
    assert!(!newest.1);
    assert_eq!(sandbox.puller(&IN_PLACE).exits(0).only_json()["copy"], newest.0);
}

#[test]
fn a_safety_copy_that_a_later_pull_finds_unchanged_is_a_copy_as_any() {
    let (sandbox, source) = stored();
    Connection::open(&source).unwrap().execute_batch("DELETE FROM lockers").unwrap();
    // The hook says no: only the safety copy was taken.
    let config = sandbox.file("hooks.toml");
    fs::write(&config, "[hooks]\nbefore_restore = [\"false\"]\n").unwrap();
    let refused = [&IN_PLACE[..], &["--config", config.to_str().unwrap()]].concat();
    let refused = sandbox.puller(&refused).exits(1);
    assert!(refused.stderr.contains("nothing was changed"), "{refused}");
    assert!(copies(&sandbox)[1].1);
    sandbox.pull(&[&source]).succeeds("unchanged");
    let newest = copies(&sandbox).pop().unwrap();
    assert!(!newest.1, "it is what the source was when it was pulled");
    let ran = sandbox.puller(&IN_PLACE).exits(0).only_json();
    assert_eq!((&ran["outcome"], &ran["copy"]), (&"unchanged".into(), &newest.0.into()));
}

#[test]
fn a_table_that_the_copy_does_not_have_is_said_before_anything_is_saved() {
    let (sandbox, source) = stored();
    Connection::open(&source).unwrap().execute_batch("DELETE FROM lockers").unwrap();
    for more in [&["--yes"][..], &["--dry-run"]] {
        let words = [&["restore", "gym", "--in-place", "--table", "acess_log"][..], more].concat();
        let ran = sandbox.puller(&words).exits(10);
        assert!(ran.stderr.contains("has no table `acess_log`"), "{ran}");
        assert!(ran.stderr.contains("`access_log`"), "the hint has what is meant: {ran}");
    }
    assert_eq!(copies(&sandbox).len(), 1);
    sandbox.puller(&["restore", "gym", "--in-place", "--table", "ACCESS_LOG", "--yes"]).exits(0);
}

#[test]
fn a_restore_to_where_nothing_is_any_more_is_in_the_history_and_leaves_nothing_to_undo() {
    let (sandbox, source) = stored();
    Connection::open(&source).unwrap().execute_batch("DELETE FROM lockers").unwrap();
    sandbox.puller(&IN_PLACE).exits(0);
    fs::remove_file(&source).unwrap();
    ["-wal", "-shm"].iter().for_each(|end| drop(fs::remove_file(format!("{}{end}", source.display()))));
    let [stop, start] = ["stopped", "started"].map(|name| sandbox.file(name));
    let commands = [format!("touch {stop:?}"), format!("touch {start:?}")];
    let more = ["--stop-cmd", &commands[0], "--start-cmd", &commands[1]];
    let ran = sandbox.puller(&[&IN_PLACE[..], &more].concat()).exits(0).only_json();
    assert_eq!((&ran["outcome"], &ran["safety"]), (&"restored".into(), &serde_json::Value::Null));
    assert!(stop.exists() && start.exists(), "an application may have the old file open");
    assert_eq!(restores(&sandbox).len(), 2);
    let undo = sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(10);
    assert!(undo.stderr.contains("there was nothing before the last restore"), "{undo}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (sandbox, _) = stored();
    let ran = restore(&sandbox, &sandbox.db("nowhere/back.db")).exits(1);
    assert!(
        ran.stderr.contains("there is no folder") && ran.stderr.contains("hint: make the folder"),
        "{ran}"
    );
}

#[test]
fn a_start_command_that_fails_is_told_and_the_restore_can_be_undone() {
    let (sandbox, source) = stored();
    let application = Connection::open(&source).unwrap();
    application.execute_batch("DELETE FROM lockers").unwrap();
    let more = ["--stop-cmd", "true", "--start-cmd", "exit 3"];
    let ran = sandbox.puller(&[&IN_PLACE[..], &more].concat()).exits(1);
    assert!(ran.stderr.contains("the copy is in place, and the application may still be stopped"), "{ran}");
    let lockers =
        || -> i64 { application.query_row("SELECT count(*) FROM lockers", [], |row| row.get(0)).unwrap() };
    assert!(lockers() > 0);
    sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(0);
    assert_eq!(lockers(), 0);
    // A new file is there as well.
    let to = ["restore", "gym", "--to", "./back.db"];
    sandbox.puller(&[&to[..], &more].concat()).exits(1);
    assert!(sandbox.db("back.db").exists());
}

#[test]
fn a_variable_that_says_no_is_no_word_to_replace_anything() {
    let (sandbox, source) = stored();
    Connection::open(&source).unwrap().execute_batch("DELETE FROM lockers").unwrap();
    for variable in ["PULLER_IN_PLACE", "PULLER_UNDO"] {
        let mut command = sandbox.command(programs::puller());
        command.arg("--store").arg(sandbox.store()).args(["restore", "gym", "--yes"]).env(variable, "0");
        let ran = sandbox.run(&mut command).exits(2);
        assert!(ran.stderr.contains("`--to TARGET`, `--in-place` or `--undo`"), "{ran}");
    }
    assert!(restores(&sandbox).is_empty());
}

#[test]
fn what_fails_after_a_restore_is_in_its_one_object() {
    let (sandbox, source) = stored();
    Connection::open(&source).unwrap().execute_batch("DELETE FROM lockers").unwrap();
    let start = ["--stop-cmd", "echo stopped", "--start-cmd", "echo started; exit 3"];
    let check = |words: &[&str], said: &str| {
        let ran = sandbox.puller(words).exits(1);
        let line = ran.only_json();
        assert_eq!((&line["outcome"], &line["error"]["exit"]), (&"failed".into(), &1.into()), "{ran}");
        let message = line["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(said), "{ran}");
        assert!(ran.stderr.contains(&format!("error: {message} [P22]")), "{ran}");
    };
    let stopped = "the copy is in place, and the application may still be stopped";
    check(&[&IN_PLACE[..], &start].concat(), stopped);
    check(&[&["restore", "gym", "--json", "--to", "./back.db"][..], &start].concat(), stopped);
    sandbox.configure("[hooks]\nafter_restore = [\"sh\", \"-c\", \"echo no; exit 1\"]\n");
    let undo = ["restore", "--undo", "gym", "--json", "--yes"];
    check(&undo, "the copy is in place, and the hook `after_restore` failed");
}

/// The way back of the restore before is none of this one.
#[test]
fn a_restore_that_is_cut_while_it_is_sent_does_not_offer_the_undo_of_the_one_before() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 500_000, 4096);
    let config = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("agent.toml"), "allow_restore = true\n").unwrap();
    let (ssh, pid) = (sandbox.file("ssh"), sandbox.file("pid"));
    script(&ssh, &format!("echo $$ > {pid:?}; exec {:?} stdio", programs::agent()));
    let puller = |words: &[&str]| {
        let mut command = sandbox.command(programs::puller());
        command.env("PULLER_SSH", &ssh).arg("--store").arg(sandbox.store()).args(words);
        sandbox.run(&mut command)
    };
    puller(&["pull", &format!("pi:{}", source.display()), "--name", "gym"]).exits(0);
    let application = Connection::open(&source).unwrap();
    application.execute_batch("DELETE FROM lockers").unwrap();
    puller(&IN_PLACE).exits(0);
    application.execute_batch("DELETE FROM access_log").unwrap();
    // Between the answer and what is sent.
    let hook = format!("before_restore = [\"sh\", \"-c\", \"kill -9 $(cat '{}')\"]", pid.display());
    sandbox.configure(&format!("[hooks]\n{hook}\n"));
    let ran = puller(&IN_PLACE).exits(5);
    assert!(!ran.stderr.contains("--undo"), "{ran}");
    assert_eq!(restores(&sandbox).len(), 2, "{ran}");
    let rows = "SELECT count(*) FROM access_log";
    assert_eq!(application.query_row(rows, [], |row| row.get::<_, i64>(0)), Ok(0));
}

#[test]
fn the_time_that_is_shown_of_a_copy_means_that_copy() {
    let (sandbox, _) = stored();
    let copy = sandbox.puller(&["list", "gym", "--json"]).exits(0).only_json();
    let at = copy["taken_at"].as_str().unwrap();
    let words = ["restore", "gym", "--json", "-n", "--to", "./back.db", "--at", at];
    assert_eq!(sandbox.puller(&words).exits(0).only_json()["copy"], copy["copy"]);
}

#[test]
fn a_target_that_is_a_sources_name_or_a_folder_is_no_file() {
    let (sandbox, source) = stored();
    sandbox.pull(&[source.to_str().unwrap(), "--name", "shop"]).succeeds("unchanged");
    for (to, said) in [("shop", "is the name of a source"), ("./shop/", "names a folder, not a file")] {
        let ran = sandbox.puller(&["restore", "shop", "--to", to]).exits(2);
        assert!(ran.stderr.contains(said) && ran.stderr.contains("hint: "), "{ran}");
    }
    assert!(!sandbox.db("shop").exists());
    sandbox.puller(&["restore", "shop", "--to", "./shop"]).exits(0);
}

#[test]
fn a_copy_that_is_packed_or_removed_while_somebody_is_asked_is_restored_or_said_to_be_gone() {
    let (sandbox, source) = stored();
    databases::gym_with_seed(&sandbox.db("other.db"), 60_000, 4096, 9);
    let application = Connection::open(&source).unwrap();
    application.execute_batch("DELETE FROM lockers").unwrap();
    let puller = format!("'{}' --store '{}'", programs::puller().display(), sandbox.store().display());
    let restore = |during: &str| {
        let hook = format!("before_restore = [\"sh\", \"-c\", \"{puller} {during}\"]");
        sandbox.configure(&format!("pack = \"gzip\"\n[hooks]\n{hook}\n"));
        sandbox.puller(&["restore", "gym", "--to", "./other.db", "--yes"])
    };
    restore("pull gym.db").exits(0);
    let path = sandbox.puller(&["list", "gym", "--json"]).exits(0).json()[0]["path"].clone();
    assert!(path.as_str().is_some_and(|path| path.ends_with(".db.gz")), "it was packed meanwhile: {path}");
    application.execute_batch("DELETE FROM access_log WHERE rowid < 100").unwrap();
    let ran = restore("pull gym.db --keep-last 1").exits(10);
    assert!(ran.stderr.contains("was removed while it was read"), "{ran}");
}
