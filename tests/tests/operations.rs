//! README.md and doc/operations.md as typed: its console blocks are run, its tables of keys held to the programs, deploy/agent.toml read.

use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../doc/operations.md");
const README: &str = include_str!("../../README.md");
const AGENT_TOML: &str = include_str!("../../deploy/agent.toml");

/// The commands in the console blocks of `document` below the heading `title`.
fn commands(document: &'static str, title: &str) -> Vec<&'static str> {
    let after = document.split_once(&format!("\n## {title}\n")).expect("the heading is there").1;
    let section = after.split("\n## ").next().unwrap_or_default();
    section.lines().filter_map(|line| line.strip_prefix("$ ")).collect()
}

/// Types `command` into a shell that finds both programs, as a user of the sandbox's store.
#[track_caller]
fn shell(sandbox: &Sandbox, command: &str) -> Ran {
    let folder = |program: &Path| program.parent().expect("a program lies in a folder").to_owned();
    let system = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder(programs::puller()), folder(programs::agent())];
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&system)));
    let mut shell = sandbox.command(Path::new("/bin/sh"));
    let path: OsString = path.expect("folders of programs have plain names");
    shell.args(["-ec", command]).env("PATH", path).env("PULLER_STORE", sandbox.store());
    sandbox.run(&mut shell).exits(0)
}

#[test]
fn the_drill_and_the_way_back_work_as_typed() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("app.db");
    databases::gym(&source, 500_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let application = databases::visits_in_the_wal(&source, 50);
    let stored = sandbox.pull(&["--name", "gym", &served.source("gym")]).succeeds("stored");
    let drill = commands(DOCUMENT, "The restore drill");
    assert_eq!(drill.len(), 5);
    let said: Vec<Ran> = drill.iter().map(|command| shell(&sandbox, command)).collect();
    assert!(
        said[0].stdout.contains(&stored.copy) && said[1].stdout.contains("ok"),
        "{} {}",
        said[0],
        said[1]
    );
    assert!(said[3].stdout.contains("access_log"), "{}", said[3]);
    assert!(!sandbox.db("drill.db").exists());

    drop(application);
    let back = commands(DOCUMENT, "Getting a database back");
    assert_eq!(back.len(), 4);
    back[..3].iter().for_each(|command| drop(shell(&sandbox, command)));
    let again = shell(&sandbox, back[3]);
    assert!(again.stdout.contains("unchanged") && again.stdout.contains(&stored.copy), "{again}");
    contents::assert_equal(&source, &stored.path);
    let mode: String = rusqlite::Connection::open(&source)
        .and_then(|db| db.pragma_query_value(None, "journal_mode", |row| row.get(0)))
        .expect("the restored database can be opened");
    assert_eq!(mode, "wal");
}

/// What needs a second machine is left out: the installation, and the tunnel, whose near end is the agent itself here.
#[test]
fn the_ten_minute_start_works_as_typed() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("app.db");
    databases::gym(&source, 300_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let typed = |command: &str| command.replace("127.0.0.1:7420/gym", &served.source("gym"));
    let commands = commands(README, "Ten-minute start");
    let of_puller: Vec<&&str> = commands.iter().filter(|command| command.starts_with("puller ")).collect();
    assert_eq!(of_puller.len(), 4);
    of_puller.iter().for_each(|command| drop(shell(&sandbox, &typed(command))));
    contents::assert_equal(&source, &sandbox.db("gym-restored.db"));

    let cron = README.lines().find(|line| line.starts_with("0 9 * * *")).expect("a line for cron");
    let (_, command) = cron.split_once(" && $HOME/.cargo/bin/").expect("a tunnel and a pull");
    let _application = databases::visits_in_the_wal(&source, 50);
    let quiet = shell(&sandbox, command);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(sandbox.puller(&["list", "--json", "gym"]).exits(0).json().len(), 2);

    let config =
        README.split("<<'END'\n").nth(1).and_then(|rest| rest.split("END\n").next()).expect("a file");
    fs::create_dir_all(sandbox.file("home/xdg_config_home/pullback")).unwrap();
    let config = config.replace("/home/pi/gym/app.db", source.to_str().unwrap());
    fs::write(sandbox.file("home/xdg_config_home/pullback/agent.toml"), config).unwrap();
    shell(&sandbox, "pullback-agent doctor");
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
