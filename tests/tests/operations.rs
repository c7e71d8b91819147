//! The documents as typed: their console blocks are run or say why not, tables of keys are held to the programs, and
//! deploy/agent.toml is read.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::privilege::skip;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox, wait_until};
use pullback_tests::sshd::Sshd;
use pullback_tests::typed::{self, Desk};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOCUMENT: &str = include_str!("../../doc/operations.md");
const README: &str = include_str!("../../README.md");
const AGENT_TOML: &str = include_str!("../../deploy/agent.toml");

/// Every document with console blocks.
const DOCUMENTS: [(&str, &str); 7] = [
    ("README.md", README),
    ("CONTRIBUTING.md", include_str!("../../CONTRIBUTING.md")),
    ("doc/operations.md", DOCUMENT),
    ("doc/guides.md", include_str!("../../doc/guides.md")),
    ("doc/errors.md", include_str!("../../doc/errors.md")),
    ("doc/format.md", include_str!("../../doc/format.md")),
    ("doc/json.md", include_str!("../../doc/json.md")),
];

/// Which test here types the blocks under a heading.
const TYPED: [(&str, &str, &str); 21] = [
    ("README.md", "Two commands", "the_two_commands_work_as_typed"),
    ("README.md", "Ten-minute start", "the_ten_minute_start_works_as_typed"),
    ("README.md", "An agent that serves", "the_agent_that_serves_works_as_typed"),
    ("README.md", "Removing it", "the_ten_minute_start_works_as_typed"),
    ("CONTRIBUTING.md", "Build and test", "what_is_only_named_is_there"),
    ("CONTRIBUTING.md", "Fuzzing", "what_is_only_named_is_there"),
    ("CONTRIBUTING.md", "Benches", "what_is_only_named_is_there"),
    ("CONTRIBUTING.md", "Power cuts, kills and damage", "what_is_only_named_is_there"),
    ("doc/operations.md", "The restore drill", "the_drill_and_the_way_back_work_as_typed"),
    ("doc/operations.md", "Restoring", "a_restore_in_place_works_as_typed_under_a_live_application"),
    ("doc/operations.md", "A dead SD card", "a_dead_sd_card_costs_what_came_since_the_last_pull"),
    (
        "doc/operations.md",
        "A deleted table, deleted rows",
        "a_deleted_table_and_deleted_rows_come_back_as_typed",
    ),
    ("doc/operations.md", "A lost workstation", "a_lost_workstation_is_replaced_as_typed"),
    ("doc/operations.md", "A moved database", "a_moved_database_is_adopted_as_typed"),
    ("doc/operations.md", "An upgrade", "an_upgrade_is_looked_at_as_typed"),
    ("doc/operations.md", "The restore was wrong", "a_wrong_restore_is_undone_as_typed_and_that_too"),
    ("doc/operations.md", "A damaged source", "a_damaged_source_is_replaced_and_looked_through_as_typed"),
    ("doc/operations.md", "Looking into a copy", "looking_into_a_copy_works_as_typed"),
    ("doc/operations.md", "From the old scripts' copies", "the_old_scripts_copies_are_taken_over_as_typed"),
    ("doc/operations.md", "Proof over time", "proof_over_time_works_as_typed"),
    ("doc/operations.md", "By the clock", "the_clock_works_as_typed"),
];

/// Commands that are never typed by a test, by how they begin, and why. What they name is looked for all the same.
const NOT_TYPED: [(&str, &str); 12] = [
    ("cargo build ", "it has happened when a test runs"),
    ("cargo test ", "it is what runs this"),
    ("PULLBACK_UPDATE_SNAPSHOTS=1 cargo test ", "it would write in the repository"),
    ("PULLBACK_POWER_CUTS=60 cargo test ", "the test itself runs here, for fewer rounds"),
    ("PULLBACK_KILLS=", "the test itself runs here, for fewer rounds"),
    ("PULLBACK_POINTS=1000 cargo test ", "the test itself runs here, for fewer points"),
    ("PULLBACK_HUGE=1 cargo test ", "the test itself runs here, with smaller databases"),
    (".ci/run", "it runs this"),
    ("cargo install ", "it builds everything anew; the tests build both programs themselves"),
    ("cargo uninstall ", "nothing was installed"),
    ("cargo fuzz ", "it needs a tool of its own, and takes minutes"),
    ("cargo run --release -p pullback-tests --bin bench", "it takes minutes; its arguments are read"),
];

fn is_typed(command: &str) -> bool {
    !NOT_TYPED.iter().any(|(beginning, _)| command.starts_with(beginning))
}

/// The commands in the console blocks of the document `name` below the heading `title`, those left out that are not typed.
#[track_caller]
fn commands(name: &str, title: &str) -> Vec<String> {
    let all = all_commands(name).into_iter().filter(|(section, _)| section == title);
    let commands: Vec<String> = all.map(|(_, command)| command).filter(|command| is_typed(command)).collect();
    assert!(!commands.is_empty(), "{name} has no commands under `{title}`");
    commands
}

/// The commands in all console blocks of the document `name`, with their headings.
#[track_caller]
fn all_commands(name: &str) -> Vec<(String, String)> {
    let (_, text) = DOCUMENTS.iter().find(|(document, _)| *document == name).expect("a document");
    let blocks = typed::blocks(text).into_iter();
    blocks.flat_map(|block| block.commands.into_iter().map(move |c| (block.section.clone(), c))).collect()
}

#[test]
fn every_console_block_is_typed_or_says_why_not() {
    let this = include_str!("operations.rs");
    let mut headings = BTreeSet::new();
    for (name, text) in DOCUMENTS {
        let blocks = typed::blocks(text);
        let opened = text.lines().filter(|line| line.trim_start().starts_with("```console")).count();
        assert_eq!(opened, blocks.len(), "the blocks of {name}");
        for block in blocks {
            assert!(!block.commands.is_empty(), "a block of {name} under `{}` has no `$ `", block.section);
            let row = TYPED.iter().find(|(document, title, _)| (*document, *title) == (name, &block.section));
            let (_, _, test) = row.unwrap_or_else(|| {
                panic!("{name}, `{}`: its block is neither typed nor said not to be", block.section)
            });
            assert!(this.contains(&format!("fn {test}()")), "there is no test `{test}`");
            headings.insert((name, block.section));
        }
    }
    for name in documents_with_blocks() {
        assert!(
            DOCUMENTS.iter().any(|(document, _)| *document == name),
            "the blocks of {name} are not typed"
        );
    }
    assert_eq!(headings.len(), TYPED.len(), "TYPED has a heading without a block");
    let all: Vec<(String, String)> = DOCUMENTS.iter().flat_map(|(name, _)| all_commands(name)).collect();
    for (beginning, why) in NOT_TYPED {
        let is_said = all.iter().any(|(_, command)| command.starts_with(beginning));
        assert!(is_said, "`{beginning}` is in no document: {why}");
    }
}

/// The documents that have a console block, in the folders where documents are.
fn documents_with_blocks() -> Vec<String> {
    let root = root();
    let files =
        ["", "doc", "deploy"].iter().flat_map(|folder| fs::read_dir(root.join(folder)).expect("a folder"));
    let documents = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"));
    let with_blocks =
        documents.filter(|path| !typed::blocks(&fs::read_to_string(path).expect("a text")).is_empty());
    with_blocks
        .map(|path| path.strip_prefix(&root).expect("a file of the repository").display().to_string())
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// A gym of about `bytes` bytes at `path`, whose application goes on.
fn live_gym(path: &Path, bytes: u64) -> rusqlite::Connection {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
    databases::gym(path, bytes, 4096);
    databases::visits_in_the_wal(path, 50)
}

#[test]
fn the_drill_and_the_way_back_work_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let _application = live_gym(&sandbox.db("app.db"), 500_000);
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let drill = commands("doc/operations.md", "The restore drill");
    let said: Vec<Ran> = drill.iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert_eq!(said.len(), 6);
    assert!(said[0].stdout.contains("was restored, opened and checked in full"), "{}", said[0]);
    let said = &said[1..];
    let stored = copy(&desk);
    let id = stored.file_stem().unwrap().to_str().unwrap();
    assert!(said[0].stdout.contains(id) && said[1].stdout.contains("ok"), "{} {}", said[0], said[1]);
    assert!(said[3].stdout.contains("access_log"), "{}", said[3]);
    assert!(!sandbox.db("drill.db").exists());
}

/// Types all commands of doc/operations.md below `title`.
#[track_caller]
fn type_all(desk: &Desk<'_>, title: &str) -> Vec<Ran> {
    commands("doc/operations.md", title).iter().map(|command| desk.type_in(command).exits(0)).collect()
}

/// The newest good copy of `gym` as a file beside the database, whatever is packed later.
fn saved(desk: &Desk<'_>) -> PathBuf {
    desk.type_in("puller cat gym > ./saved.db").exits(0);
    desk.sandbox().db("saved.db")
}

/// What one query of one number gives.
fn number(db: &rusqlite::Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |row| row.get(0)).expect("a number")
}

const MEMBERS: &str = "SELECT count(*) FROM members";
const VISITS: &str = "SELECT count(*) FROM access_log";

#[test]
fn a_restore_in_place_works_as_typed_under_a_live_application() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let source = sandbox.db("app.db");
    let application = live_gym(&source, 300_000);
    let members = number(&application, MEMBERS);
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let stored = saved(&desk);
    application.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM members WHERE id > 5").unwrap();
    let said = type_all(&desk, "Restoring");
    assert_eq!(said.len(), 4);
    let in_rows = format!("5         {members}");
    assert!(
        said[1].stdout.contains(&in_rows) && said[2].stderr.contains(&in_rows),
        "{} {}",
        said[1],
        said[2]
    );
    assert!(said[3].stdout.contains("stored"), "what is there is no longer what was saved: {}", said[3]);
    assert_eq!(
        number(&application, MEMBERS),
        members,
        "the application sees it, and need not be started again"
    );
    application.execute_batch("DELETE FROM access_log WHERE id = (SELECT max(id) FROM access_log)").unwrap();
    drop(application);
    desk.type_in("puller restore gym --in-place").exits(0);
    contents::assert_equal(&source, &stored);
    let again = desk.type_in("puller restore gym --in-place").exits(0);
    assert!(again.stdout.contains("already"), "{again}");
}

#[test]
fn a_dead_sd_card_costs_what_came_since_the_last_pull() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let desk = Desk::with(&sandbox, "", Some(sshd));
    desk.also_called("newpi");
    let source = sandbox.file("home/gym/app.db");
    drop(live_gym(&source, 300_000));
    desk.type_in("puller pull pi:gym/app.db --name gym").exits(0);
    let stored = saved(&desk);
    // The card dies: the database, and all that the agent knew.
    fs::remove_dir_all(sandbox.file("home/gym")).unwrap();
    fs::remove_dir_all(sandbox.file("home/.local/state/pullback/mirrors")).unwrap();
    let said = type_all(&desk, "A dead SD card");
    assert_eq!(said.len(), 5);
    contents::assert_equal(&source, &stored);
    assert!(said[4].stdout.contains("unchanged"), "{}", said[4]);
}

#[test]
fn a_deleted_table_and_deleted_rows_come_back_as_typed() {
    let sandbox = Sandbox::new();
    if !has("sqlite3") {
        return skip("a runbook with `sqlite3`", "there is no such program");
    }
    let desk = Desk::with(&sandbox, "", None);
    let source = sandbox.db("app.db");
    let application = live_gym(&source, 300_000);
    let (members, visits) = (number(&application, MEMBERS), number(&application, VISITS));
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    // Somebody deletes, the application goes on, and the night's pull copies what is left.
    application
        .execute_batch("PRAGMA foreign_keys = OFF; DROP TABLE members; DELETE FROM access_log WHERE id = 1")
        .unwrap();
    desk.type_in("puller pull gym").exits(0);
    let typed = commands("doc/operations.md", "A deleted table, deleted rows");
    let (first, then) = typed.split_at(4);
    let said: Vec<Ran> = first.iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert_eq!(said[1].stdout.trim(), members.to_string());
    assert!(said[3].stdout.contains("members: no such table before"), "{}", said[3]);
    assert_eq!((number(&application, MEMBERS), number(&application, VISITS)), (members, visits - 1));
    application
        .execute_batch("DELETE FROM members WHERE id IN (2, 3); UPDATE members SET id = -1 WHERE id = 4")
        .unwrap();
    drop(application);
    then.iter().for_each(|command| drop(desk.type_in(command).exits(0)));
    let db = rusqlite::Connection::open(&source).unwrap();
    assert_eq!(number(&db, MEMBERS), members + 1, "those that were missing came, and the newer one stayed");
    assert_eq!(number(&db, VISITS), visits - 1);
    assert!(!sandbox.db("look.db").exists());
}

#[test]
fn a_damaged_source_is_replaced_and_looked_through_as_typed() {
    let sandbox = Sandbox::new();
    if !has("sqlite3") {
        return skip("a runbook with `sqlite3`", "there is no such program");
    }
    let desk = Desk::with(&sandbox, "", None);
    let source = sandbox.db("app.db");
    drop(live_gym(&source, 300_000));
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let stored = saved(&desk);
    // The end of the file is gone.
    let file = fs::OpenOptions::new().write(true).open(&source).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    desk.type_in("puller pull gym").exits(7);
    let typed = commands("doc/operations.md", "A damaged source");
    assert_eq!(typed.len(), 5);
    let refused = desk.type_in(&typed[0]).exits(7);
    assert!(
        refused.stderr.contains("cannot be saved first") && refused.stderr.contains("`--force`"),
        "{refused}"
    );
    desk.type_in(&typed[1]).exits(0);
    contents::assert_equal(&source, &stored);
    if desk.type_in("sqlite3 ./saved.db .recover").code() != 0 {
        return skip("`sqlite3 .recover`", "this `sqlite3` cannot do it, with a good file either");
    }
    let said: Vec<Ran> = typed[2..].iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert!(said[2].stdout.contains("members"), "{}", said[2]);
}

#[test]
fn a_lost_workstation_is_replaced_as_typed() {
    let sandbox = Sandbox::new();
    if !has("rsync") {
        return skip("a runbook with `rsync`", "there is no such program");
    }
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let desk = Desk::with(&sandbox, "keep = { daily = 7 }\n", Some(sshd));
    desk.also_called("nas");
    let _application = live_gym(&sandbox.file("home/gym/app.db"), 300_000);
    desk.type_in("puller pull pi:gym/app.db --name gym").exits(0);
    // What a login finds without `~` is the real home directory here.
    let nas = format!("nas:{}/", sandbox.file("home").display());
    let typed = commands("doc/operations.md", "A lost workstation");
    let typed: Vec<String> = typed.iter().map(|command| command.replace("nas:", &nas)).collect();
    let (before, after) = typed.split_at(2);
    before.iter().for_each(|command| drop(desk.type_in(command).exits(0)));
    desk.type_in("chmod -R u+w ~/.local ~/.config && rm -r ~/.local ~/.config").exits(0);
    let said: Vec<Ran> = after.iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert_eq!(said.len(), 6);
    assert!(said[3].stdout.contains("ok") && said[4].stdout.contains("unchanged"), "{} {}", said[3], said[4]);
}

#[test]
fn a_moved_database_is_adopted_as_typed() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let desk = Desk::with(&sandbox, "", Some(sshd));
    drop(live_gym(&sandbox.file("home/gym/app.db"), 300_000));
    desk.type_in("puller pull pi:gym/app.db --name gym").exits(0);
    desk.type_in("mkdir ~/data && mv ~/gym/app.db* ~/data/").exits(0);
    let said = type_all(&desk, "A moved database");
    assert!(said[2].stdout.contains("unchanged"), "{}", said[2]);
}

#[test]
fn an_upgrade_is_looked_at_as_typed() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let desk = Desk::with(&sandbox, "", Some(sshd));
    let _application = live_gym(&sandbox.file("home/gym/app.db"), 300_000);
    desk.type_in("puller pull pi:gym/app.db --name gym").exits(0);
    let said = type_all(&desk, "An upgrade");
    let release = env!("CARGO_PKG_VERSION");
    assert!(said[0].stdout.contains(release) && said[1].stdout.contains(release), "{} {}", said[0], said[1]);
    assert!(said[2].stdout.contains(release), "the doctor says what the agent is: {}", said[2]);
}

#[test]
fn a_wrong_restore_is_undone_as_typed_and_that_too() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let application = live_gym(&sandbox.db("app.db"), 300_000);
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let before = number(&application, VISITS);
    application.execute_batch("DELETE FROM access_log WHERE id % 2").unwrap();
    let after = number(&application, VISITS);
    desk.type_in("puller restore gym --in-place").exits(0);
    assert_eq!(number(&application, VISITS), before);
    type_all(&desk, "The restore was wrong");
    assert_eq!(number(&application, VISITS), after);
    type_all(&desk, "The restore was wrong");
    assert_eq!(number(&application, VISITS), before);
}

/// Whether there is a program `name` on this machine.
fn has(name: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
    found.is_ok_and(|found| found.status.success())
}

#[test]
fn looking_into_a_copy_works_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let _application = live_gym(&sandbox.db("app.db"), 300_000);
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let commands = commands("doc/operations.md", "Looking into a copy");
    let said: Vec<Ran> = commands[..2].iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert!(said[0].stdout.trim().parse::<u32>().is_ok_and(|rows| rows > 0), "{}", said[0]);
    assert_eq!(fs::read(sandbox.db("look.db")).unwrap(), fs::read(copy(&desk)).unwrap());
    commands[2..].iter().for_each(|command| drop(desk.type_in(command).exits(0)));
}

#[test]
fn the_old_scripts_copies_are_taken_over_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let source = sandbox.db("app.db");
    databases::gym(&source, 300_000, 4096);
    fs::create_dir(sandbox.db("backups")).unwrap();
    fs::copy(&source, sandbox.db("backups/gym_20251103_031500.db")).unwrap();
    drop(databases::visits_in_the_wal(&source, 50));
    desk.type_in("gzip -c app.db > backups/gym-2025-11-04T03-15-00.db.gz").exits(0);
    let commands = commands("doc/operations.md", "From the old scripts' copies");
    let said: Vec<Ran> = commands.iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert!(said[1].stdout.contains("gym-000002-20251104T"), "{}", said[1]);
    assert!(said[2].stdout.contains("unchanged since gym-000002"), "{}", said[2]);
}

/// The newest copy of `gym`.
fn copy(desk: &Desk<'_>) -> PathBuf {
    let copies = desk.type_in("puller list gym --json").exits(0).json();
    let newest = copies.last().and_then(|copy| copy["path"].as_str());
    PathBuf::from(newest.expect("`gym` has a copy"))
}

/// `puller` itself stands where it would be built first.
#[test]
fn the_two_commands_work_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let _application = live_gym(&sandbox.db("app.db"), 300_000);
    let built = "cargo run --release -p puller -- ";
    for command in commands("README.md", "Two commands") {
        let command = command.strip_prefix(built).unwrap_or_else(|| panic!("`{command}` is new here"));
        desk.type_in(&format!("puller {command}")).exits(0);
    }
}

#[test]
fn the_ten_minute_start_works_as_typed() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let desk = Desk::with(&sandbox, "", Some(sshd));
    let source = sandbox.file("home/gym/app.db");
    let _application = live_gym(&source, 300_000);
    let start = commands("README.md", "Ten-minute start");
    assert_eq!(start.len(), 15);
    start.iter().for_each(|command| drop(desk.type_in(command).exits(0)));
    contents::assert_equal(&source, &sandbox.db("gym-restored.db"));
    let crontab = || fs::read_to_string(sandbox.file("home/crontab")).unwrap();
    for words in ["'--keep-daily' '7'", "verify", "drill"] {
        assert!(crontab().contains(words), "{}", crontab());
    }
    let quiet = desk.type_in("puller pull --all -q").exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));

    let copy = copy(&desk);
    let end = commands("README.md", "Removing it");
    assert_eq!(end.len(), 2);
    end.iter().for_each(|command| drop(desk.type_in(command).exits(0)));
    assert_eq!(crontab(), "");
    let left = |folder: &str| sandbox.file("home").join(folder).exists();
    assert!(copy.exists() && !left(".config/pullback") && !left(".local/state/pullback"));
}

/// A process that a shell was told to leave in the background; it ends with this.
struct Serving(i32);

impl Drop for Serving {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0).expect("a process has a number");
        kill_process(pid, Signal::TERM).expect("it is there until now");
    }
}

/// Without root and systemd: the agent is set up for a user, and started by hand. `tests/service.rs` types the same on a
/// booted machine, to the last line.
#[test]
fn the_agent_that_serves_works_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let source = sandbox.file("home/gym/app.db");
    let _application = live_gym(&source, 300_000);
    let typed = commands("README.md", "An agent that serves");
    let [init, pair, there, pull, _stop, _remove] = typed.as_slice() else { panic!("{typed:?}") };
    let init = init.strip_prefix("sudo ~/.cargo/bin/").expect("root sets a service up");
    desk.type_in(&init.replace(" --service", "")).exits(0);
    let file = sandbox.file("home/.config/pullback/agent.toml");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = fs::read_to_string(&file).unwrap().replace("0.0.0.0:7420", &free);
    fs::write(&file, format!("reserve = \"0\"\nname = \"raspberry-pi\"\n{config}")).unwrap();
    let serving = desk.type_in("pullback-agent serve >serving 2>serving.log & echo $!").exits(0);
    let _serving = Serving(serving.stdout.trim().parse().expect("a process has a number"));
    wait_until("the agent listens", || {
        fs::read_to_string(sandbox.db("serving")).is_ok_and(|said| said.starts_with("listening on "))
    });
    let code = desk.type_in(pair).exits(0).stdout;
    desk.type_in(&there.replace("CODE", code.trim())).exits(0);
    let pulled = desk.type_in(pull).exits(0);
    assert!(pulled.stdout.contains("raspberry-pi/app: stored"), "{pulled}");
}

#[test]
fn the_sources_of_the_readme_are_a_right_configuration() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let blocks = README.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<&str> = blocks.collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        fs::write(sandbox.file("home/.config/pullback/puller.toml"), block).unwrap();
        desk.type_in("puller config check").exits(0);
    }
}

#[test]
fn the_clock_works_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "keep = { days = 7 }\n", None);
    let _application = live_gym(&sandbox.db("app.db"), 300_000);
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let clock = commands("doc/operations.md", "By the clock");
    assert_eq!(clock.len(), 4);
    let said: Vec<Ran> = clock.iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert!(said[0].stdout.contains("the first run: ok"), "{}", said[0]);
    for expected in ["pull: daily at 09:00", "verify: daily at 10:00", "drill: Sundays at 11:00"] {
        assert!(said[3].stdout.contains(expected), "{expected}: {}", said[3]);
    }
}

#[test]
fn proof_over_time_works_as_typed() {
    let sandbox = Sandbox::new();
    let desk = Desk::with(&sandbox, "", None);
    let _application = live_gym(&sandbox.db("app.db"), 300_000);
    desk.type_in("puller pull ./app.db --name gym").exits(0);
    let proof = commands("doc/operations.md", "Proof over time");
    let said: Vec<Ran> = proof.iter().map(|command| desk.type_in(command).exits(0)).collect();
    assert!(said[0].stdout.contains("ok") && said[1].stdout.contains("PROVEN"), "{} {}", said[0], said[1]);
}

/// Of the commands that are not typed: crates, tests, targets and arguments.
#[test]
fn what_is_only_named_is_there() {
    let root = root();
    for (name, title, _) in TYPED.iter().filter(|(_, _, test)| *test == "what_is_only_named_is_there") {
        let typed = all_commands(name).into_iter().find(|(section, c)| section == title && is_typed(c));
        assert_eq!(typed, None, "nobody types this command of {name}, and NOT_TYPED does not say why");
    }
    let named: Vec<(String, String)> =
        ["README.md", "CONTRIBUTING.md"].iter().flat_map(|name| all_commands(name)).collect();
    for command in named.iter().map(|(_, command)| command).filter(|command| !is_typed(command)) {
        let words: Vec<&str> = command.split(' ').collect();
        let after = |option: &str| words.iter().skip_while(|word| **word != option).nth(1).copied();
        if let Some(arguments) = command.split_once("--bin bench").map(|(_, rest)| rest) {
            // With `--help` at their end they are read, and nothing is measured.
            let arguments = arguments.split(' ').filter(|word| !word.is_empty() && *word != "--");
            let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
            let output = bench.args(arguments).arg("--help").output().unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        if let Some(path) = after("--path") {
            assert!(root.join(path).join("Cargo.toml").exists(), "{command}");
        }
        if let Some(file) = after("--test") {
            let text = fs::read_to_string(root.join(format!("tests/tests/{file}.rs"))).expect(command);
            let test = after(file)
                .filter(|test| *test != "--")
                .map(|test| format!("fn {test}()"))
                .unwrap_or_default();
            assert!(text.contains(&test), "{command}");
        }
        if words[1..].first() == Some(&"fuzz") {
            let folder = root.join(after("--fuzz-dir").expect("a folder"));
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect(command);
            let target = after("--fuzz-dir").and_then(after).filter(|_| words[2] == "run");
            let name = |target| format!("name = \"{target}\"");
            assert!(target.is_none_or(|target| manifest.contains(&name(target))), "{command}");
        }
        assert!(command != ".ci/run" || root.join(command).exists(), "{command}");
    }
}

/// The keys in the document's table whose head is `head`.
fn documented(head: &str) -> BTreeSet<String> {
    let table = DOCUMENT.split_once(&format!("| {head} |")).expect("the table is there").1;
    let rows = table.split("\n\n").next().unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('`').nth(1).unwrap_or_default().to_owned()).collect()
}

/// The keys that a program names when it meets one that it does not know.
#[track_caller]
fn known(sandbox: &Sandbox, program: &Path) -> BTreeSet<String> {
    let file = sandbox.file("unknown.toml");
    fs::write(&file, "nonsense = 1\n").expect("a file can be written");
    let ran = sandbox.run(sandbox.command(program).args(["config", "check", "--config"]).arg(&file)).exits(2);
    let expected = ran.stderr.split_once("expected one of ").expect("the keys are named").1;
    let line = expected.lines().next().unwrap_or_default();
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_keys_of_the_document_are_those_of_the_programs() {
    let sandbox = Sandbox::new();
    assert_eq!(documented("key of puller"), known(&sandbox, programs::puller()));
    assert_eq!(documented("key of agent"), known(&sandbox, programs::agent()));
}

#[test]
fn the_agent_s_sample_has_every_key_and_is_right() {
    let sandbox = Sandbox::new();
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key.to_owned(),
        _ => line.to_owned(),
    };
    let every_key: String = AGENT_TOML.lines().map(|line| uncommented(line) + "\n").collect();
    for text in [AGENT_TOML, &every_key] {
        let file = sandbox.file("sample.toml");
        fs::write(&file, text).unwrap();
        sandbox.agent(&["config", "check", "--config", file.to_str().unwrap()]).exits(0);
    }
    let keys: toml::Table = every_key.parse().unwrap();
    let keys: BTreeSet<String> = keys.keys().cloned().collect();
    assert_eq!(keys, known(&sandbox, programs::agent()));
}
