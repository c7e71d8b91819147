//! doc/json.md lists the fields of each command's JSON: each is run here, and what it prints is held against the list.

use pullback_tests::databases;
use pullback_tests::guarded::Guarded;
use pullback_tests::pages;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use rusqlite::Connection;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../../doc/json.md");

/// For each heading, such as "`puller list`", the fields in the first column of its table.
fn documented() -> BTreeMap<&'static str, BTreeSet<String>> {
    let sections = DOCUMENT.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'));
    let fields = |text: &str| -> BTreeSet<String> {
        let rows =
            text.lines().filter(|line| line.starts_with("| `")).filter_map(|row| row.split(" | ").next());
        rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    };
    sections.map(|(title, text)| (title, fields(text))).filter(|(_, fields)| !fields.is_empty()).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

/// What is still to be seen of the document.
struct Unseen(BTreeMap<&'static str, BTreeSet<String>>);

impl Unseen {
    /// Takes the section `title` off, once every line of `ran` has its fields.
    #[track_caller]
    fn is(&mut self, title: &str, ran: &Ran) {
        let expected =
            self.0.remove(title).unwrap_or_else(|| panic!("{title} is not in the document, or twice"));
        assert!(!ran.json().is_empty(), "nothing from {ran}");
        for line in ran.json() {
            assert_eq!(keys(&line), expected, "{title}, of {ran}");
            assert_eq!(line["v"], 1);
        }
    }
}

#[test]
fn every_command_prints_the_fields_of_the_document() {
    let sandbox = Sandbox::new();
    let mut unseen = Unseen(documented());
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let address = served.source("gym");
    let puller = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        sandbox.puller(&[&["--json"], &words[..]].concat())
    };
    let agent = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        sandbox.agent(&[&["--json"], &words[..]].concat())
    };

    unseen.is("`puller pull --dry-run`", &puller(&format!("pull {address} --dry-run")).exits(0));
    unseen.is("`puller pull`", &puller(&format!("pull {address} --name gym")).exits(0));
    let failed = puller("pull ./nowhere.db").exits(7);
    assert_eq!(
        keys(&failed.only_json()["error"]),
        ["code", "exit", "hint", "message"].map(str::to_owned).into()
    );
    unseen.is("`puller pull`, failed", &failed);
    let info = puller("info ./gym.db --tables").exits(0);
    assert_eq!(keys(&info.only_json()["tables"][0]), ["name", "rows"].map(str::to_owned).into());
    unseen.is("`puller info SOURCE`", &info);
    unseen.is("`puller info`", &puller("info").exits(0));
    unseen.is("`puller list`", &puller("list gym").exits(0));
    unseen.is("`puller show`", &puller("show gym").exits(0));
    unseen.is("`puller show --checksums`", &puller("show gym --checksums").exits(0));
    unseen.is("`puller sql`", &sandbox.puller(&["--json", "sql", "gym", "SELECT 1 AS one"]).exits(0));
    std::fs::copy(&source, sandbox.db("gym_20251103_031500.db")).unwrap();
    unseen.is("`puller import`", &puller("import ./gym_20251103_031500.db --name old").exits(0));
    unseen.is("`puller verify`", &puller("verify gym").exits(0));
    unseen.is("`puller drill`", &puller("drill gym").exits(0));
    let restored = puller("restore gym --to ./back.db").exits(0);
    Connection::open(sandbox.db("back.db")).unwrap().execute_batch("DELETE FROM lockers").unwrap();
    for (words, outcome) in [
        ("restore gym --to ./back-2.db --dry-run", "planned"),
        ("restore gym --to ./back.db --dry-run", "planned"),
        ("restore gym --to ./back.db --yes", "restored"),
        ("restore gym --to ./back.db --yes", "unchanged"),
        ("restore --undo ./back.db --yes", "restored"),
        ("restore gym --to ./back.db --table lockers --yes", "restored"),
    ] {
        let ran = puller(words).exits(0).only_json();
        assert_eq!((keys(&ran), &ran["outcome"]), (keys(&restored.only_json()), &outcome.into()), "{words}");
        if let Some(table) = ran["tables"].get(0) {
            assert_eq!(keys(table), ["rows", "rows_before", "table"].map(str::to_owned).into());
        }
        if let Some(difference) = ran["differences"].get(0) {
            let fields =
                ["added", "altered", "changed", "removed", "rows_now", "rows_then", "table", "unreadable"];
            assert_eq!(keys(difference), fields.map(str::to_owned).into(), "{words}");
        }
    }
    unseen.is("`puller restore`", &restored);
    unseen.is("`puller config path`", &puller("config path").exits(0));
    unseen.is("`puller config check`", &puller("config check").exits(0));
    unseen.is("`puller rotate`", &puller("rotate gym --keep-last 3 --dry-run").exits(0));
    unseen.is("`puller pin`, `puller unpin`", &puller("pin gym latest").exits(0));
    puller("unpin gym latest").exits(0);
    unseen.is("`puller schedule run`", &puller("schedule run pull -- gym").exits(0));
    let schedule = puller("schedule install --print --with launchd").exits(0);
    let text = &schedule.only_json()["texts"][0];
    assert_eq!(keys(text), ["content", "place"].map(str::to_owned).into());
    unseen.is("`puller schedule install`", &schedule);
    // What is installed is known by its file, on a machine without launchd too.
    let place = std::path::Path::new(text["place"].as_str().expect("a path"));
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder can be made");
    std::fs::write(place, text["content"].as_str().expect("a text")).expect("a file can be written");
    unseen.is("`puller schedule status`", &puller("schedule status").exits(0));
    unseen.is("`puller schedule uninstall`", &puller("schedule uninstall pull").exits(0));
    assert!(!place.exists());
    std::fs::write(sandbox.file("hooks.toml"), "[hooks]\nafter_pull = [\"true\"]\n").unwrap();
    let config = format!("--config {}", sandbox.file("hooks.toml").display());
    unseen.is("`puller notify test`", &puller(&format!("notify test {config}")).exits(0));
    unseen.is("`puller status`", &puller("status").exits(0));
    unseen.is("`puller sources list`", &puller("sources list").exits(0));
    let moved = puller("sources rename gym gym-2").exits(0);
    unseen.is("`puller sources rename`, `puller sources adopt`", &moved);
    assert_eq!(
        keys(&puller("sources adopt gym-2 ./gym.db -n").exits(0).only_json()),
        keys(&moved.only_json())
    );
    puller("sources rename gym-2 gym").exits(0);
    unseen.is("`puller config show`", &puller("config show").exits(0));
    unseen.is("`puller doctor`", &puller("doctor gym").exits(0));
    let explained = puller("explain P06").exits(0);
    assert_eq!(explained.stdout, agent("explain busy").exits(0).stdout);
    unseen.is("`puller explain`, `pullback-agent explain`", &explained);
    let demo = puller("demo --dir ./demo").exits(0);
    let pulls = ["transfer", "bytes_received", "changed_pages", "held_seconds", "verdict", "copy"];
    assert_eq!(keys(&demo.only_json()["pulls"][1]), pulls.map(str::to_owned).into());
    unseen.is("`puller demo`", &demo);

    let db = Connection::open(&source).unwrap();
    db.execute_batch("DROP TABLE access_log; DROP TABLE lockers; DROP TABLE members").unwrap();
    drop(db);
    let emptied = puller("pull gym").exits(4).only_json();
    let copy = emptied["copy"].as_str().expect("a copy's id");
    unseen.is("`puller accept`", &puller(&format!("accept gym {copy}")).exits(0));
    assert_eq!(puller("history gym").exits(0).json().len(), 9);

    let mut starts = sandbox.command(pullback_tests::programs::agent());
    starts
        .args(["--json", "serve", "--config"])
        .arg(sandbox.file("agent.toml"))
        .env("PULLBACK_AGENT_LOG", "off");
    unseen.is("`pullback-agent serve`", &sandbox.run_until_its_first_line(&mut starts).exits(0));
    unseen.is("`pullback-agent backup`", &agent("backup ./gym.db ./one.db").exits(0));
    unseen.is("`pullback-agent info`", &agent("info ./gym.db --tables").exits(0));
    let config = format!("--config {}", sandbox.file("agent.toml").display());
    unseen.is("`pullback-agent doctor`", &agent(&format!("doctor {config}")).exits(0));
    unseen.is("`pullback-agent config path`", &agent("config path").exits(0));
    unseen.is("`pullback-agent config check`", &agent(&format!("config check {config}")).exits(0));
    unseen.is("`pullback-agent init`", &agent("init --database ./gym.db").exits(0));
    unseen.is("`pullback-agent pair`", &agent("pair").exits(0));
    let peer = r#"{"name":"mac","fingerprint":"FINGERPRINT","role":"pull","paired_at":"2026-01-02T03:04:05Z","expires_at":"2036-01-02T03:04:05Z"}"#;
    let peers = format!("{{\"v\":1,\"peers\":[{peer}]}}").replace("FINGERPRINT", &"01".repeat(32));
    std::fs::write(sandbox.file("home/xdg_state_home/pullback/identity/peers.json"), peers).unwrap();
    let listed = agent("peers list").exits(0);
    assert_eq!(keys(&agent("peers revoke mac").exits(0).only_json()), keys(&listed.only_json()));
    unseen.is("`pullback-agent peers list`, `pullback-agent peers revoke`", &listed);
    drop(served);
    let guarded = Guarded::serving(&sandbox, &[("gym", &source)], "");
    unseen.is("`puller pair`", &puller(&format!("pair {} --name pi", guarded.code(&[]))).exits(0));
    unseen.is("`puller unpair`", &puller("unpair pi").exits(0));
    assert!(unseen.0.is_empty(), "documented and never run: {:?}", unseen.0.keys());
}

/// The commands that the document says to print no JSON.
fn without_json() -> BTreeSet<&'static str> {
    let section = DOCUMENT.split_once("\n## Without JSON\n").expect("a list of them").1;
    let words = section.split('`').skip(1).step_by(2).filter(|words| words.contains(' '));
    words.collect()
}

#[test]
fn every_command_is_in_the_document() {
    let sandbox = Sandbox::new();
    let headings = DOCUMENT.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: Vec<&str> = headings.flat_map(|title| title.split('`').skip(1).step_by(2)).collect();
    let mut without = without_json();
    for (name, program) in [("puller", programs::puller()), ("pullback-agent", programs::agent())] {
        let commands = pages::of(&sandbox, program);
        assert!(commands.len() >= 12, "{name} has only {} commands", commands.len());
        for page in commands.iter().filter(|page| !page.has_more) {
            let command = format!("{name} {}", page.words.join(" "));
            let has_fields = headings.iter().any(|title| {
                title.strip_prefix(&command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            });
            let has_none = without.remove(command.as_str());
            assert!(has_fields != has_none, "`{command}` is not in doc/json.md, or twice");
        }
    }
    assert!(without.is_empty(), "there is no {without:?}");
}

#[test]
fn a_command_without_json_prints_what_it_prints() {
    let sandbox = Sandbox::new();
    for command in without_json() {
        let (name, words) = command.split_once(' ').expect("a program and its command");
        let program = if name == "puller" { programs::puller() } else { programs::agent() };
        let more = match words {
            // Speaks a protocol: tests/ssh.rs has it.
            "stdio" => continue,
            // Of a copy: tests/look.rs has them.
            "cat" | "open" => continue,
            "completions" => " bash",
            _ => "",
        };
        let run = |options: &[&str]| {
            let words = format!("{words}{more}");
            sandbox.run(sandbox.command(program).args(options).args(words.split(' '))).exits(0).stdout
        };
        let plain = run(&[]);
        assert!(!plain.is_empty() && plain == run(&["--json"]), "{command}");
    }
}
