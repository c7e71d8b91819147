//! Many sources in one command: `pull --all`, the tables of the configuration, tries, and what is said at the end.

use pullback_tests::databases;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use rusqlite::Connection;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A port of this machine where nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a listener has an address").port()
}

fn gym(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.db(name);
    databases::gym(&path, 100_000, 4096);
    path
}

/// Writes the configuration of the puller.
fn configure(sandbox: &Sandbox, text: &str) {
    let dir = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&dir).expect("a folder can be made");
    fs::write(dir.join("puller.toml"), text).expect("a configuration can be written");
}

fn table(name: &str, address: &str, more: &str) -> String {
    format!("[source.{name}]\naddress = \"{address}\"\n{more}\n")
}

fn local(name: &str, path: &Path, more: &str) -> String {
    table(name, path.to_str().expect("paths of tests are UTF-8"), more)
}

#[track_caller]
fn is_one_paragraph(text: &str) {
    assert!(!text.is_empty() && !text.contains("\n\n"), "{text}");
}

#[test]
fn one_that_fails_stops_no_other_and_the_end_says_which() {
    let sandbox = Sandbox::new();
    let port = closed_port();
    let tables = [
        local("gone", &sandbox.db("gone.db"), ""),
        local("gym", &gym(&sandbox, "gym.db"), ""),
        table("off", &format!("127.0.0.1:{port}/shop"), ""),
        local("shop", &gym(&sandbox, "shop.db"), ""),
    ];
    configure(&sandbox, &tables.concat());
    let ran = sandbox.puller(&["pull", "--all", "-q", "--retries", "0"]).exits(3);
    assert_eq!(ran.stdout, "", "{ran}");
    is_one_paragraph(&ran.stderr);
    for part in ["2 of 4 sources", "`gone` was not pulled", "[P07]", "`off` was not pulled", "[P03]", "[P24]"]
    {
        assert!(ran.stderr.contains(part), "`{part}` of {ran}");
    }
    assert!(!ran.stderr.contains("gym") && !ran.stderr.contains("`shop`"), "{ran}");
    for name in ["gym", "shop"] {
        assert_eq!(sandbox.puller(&["list", "--json", name]).exits(0).json().len(), 1);
    }
    let lines = sandbox.puller(&["pull", "--all", "--json", "--retries", "0"]).exits(3).json();
    let mut outcomes: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line["source"], line["outcome"])).collect();
    outcomes.sort();
    let expected = ["gone failed", "gym unchanged", "off failed", "shop unchanged"];
    assert_eq!(outcomes.join("\n").replace('"', ""), expected.join("\n"));
}

#[test]
fn cron_hears_nothing_when_all_is_well_and_one_paragraph_when_not() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    configure(&sandbox, &local("gym", &path, ""));
    let cron = || -> Ran {
        let mut command = sandbox.command(programs::puller());
        command
            .env_clear()
            .env("HOME", sandbox.file("home"))
            .env("PATH", "/usr/bin:/bin")
            .env("SHELL", "/bin/sh");
        command.env("XDG_CONFIG_HOME", sandbox.file("home/xdg_config_home"));
        command.arg("--store").arg(sandbox.store()).args(["pull", "--all", "-q"]);
        sandbox.run(&mut command)
    };
    for _ in 0..2 {
        let ran = cron().exits(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
    }
    fs::rename(&path, sandbox.db("away.db")).unwrap();
    let ran = cron().exits(7);
    assert_eq!(ran.stdout, "", "{ran}");
    is_one_paragraph(&ran.stderr);
    assert!(ran.stderr.contains("the newest good copy is"), "{ran}");
}

#[test]
fn a_machine_that_may_be_off_is_no_failure() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    let served = Served::start(&sandbox, &[("gym", &path)]);
    configure(&sandbox, &table("gym", &served.source("gym"), "optional = true"));
    sandbox.pull(&["gym"]).succeeds("stored");
    drop(served);
    let ran = sandbox.puller(&["pull", "--all", "-q", "--retries", "0"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
    let ran = sandbox.puller(&["pull", "--all", "--retries", "0"]).exits(0);
    assert!(ran.stderr.contains("`gym` may be off, and is: the agent at"), "{ran}");
    let failed = sandbox.puller(&["history", "gym", "--failed", "--json"]).exits(0).json();
    assert_eq!((failed.len(), &failed[0]["optional"]), (2, &true.into()));
    // What is wrong for another reason is a failure all the same.
    configure(&sandbox, &local("gone", &sandbox.db("gone.db"), "optional = true"));
    sandbox.puller(&["pull", "--all", "-q"]).exits(7);
}

#[test]
fn what_is_expected_and_not_there_makes_a_copy_suspect() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    let expect =
        |tables: &str| configure(&sandbox, &local("gym", &path, &format!("expect = {{ {tables} }}")));
    expect("members = 1, access_log = 2");
    let good = sandbox.pull(&["gym"]).succeeds("stored");
    let is_suspect = |outcome: &str, says: &str| {
        let pulled = sandbox.pull(&["gym"]);
        let found = (pulled.outcome.as_str(), pulled.verdict.as_str(), pulled.ran.code());
        assert_eq!(found, (outcome, "suspect", 4), "{}", pulled.ran);
        assert!(pulled.ran.stderr.contains(says), "{}", pulled.ran);
        pulled
    };
    expect("members = 1000000");
    is_suspect("unchanged", "and at least 1000000 are expected");
    expect("members = 1");
    sandbox.pull(&["gym"]).succeeds("unchanged");
    Connection::open(&path).unwrap().execute_batch("ALTER TABLE members RENAME TO people").unwrap();
    let suspect = is_suspect("stored", "table `members` is expected: no such table");
    // A look at the copy alone does not make it good, nor does it evict what was.
    let verified = sandbox.puller(&["verify", "gym", &suspect.copy, "--json"]).exits(4).only_json();
    assert_eq!(verified["result"], "suspect");
    sandbox.puller(&["rotate", "gym", "--keep-last", "1"]).exits(0);
    assert!(good.path.is_file());
    sandbox.puller(&["accept", "gym", &suspect.copy]).exits(0);
    expect("people = 1, \"no such\" = 0");
    sandbox.pull(&["gym"]).succeeds("unchanged");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE more(x)").unwrap();
    is_suspect("stored", "table `no such` is expected");
}

#[test]
fn what_may_pass_is_tried_again_and_nothing_else() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    let mut served = Served::start(&sandbox, &[("gym", &path)]);
    let source = served.source("gym");
    served.kill9();
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(["-v", "pull", &source, "--retries", "5"]);
    let running = sandbox.start(&mut command);
    std::thread::sleep(Duration::from_millis(500));
    served.restart();
    let ran = running.finish().exits(0);
    assert!(ran.stdout.contains("stored") && ran.stderr.contains("try 1 failed"), "{ran}");
    let began = Instant::now();
    let ran = sandbox.puller(&["-v", "pull", "./gone.db", "--retries", "20"]).exits(7);
    assert!(began.elapsed() < Duration::from_secs(2) && !ran.stderr.contains("try "), "{ran}");
    sandbox.puller(&["pull", &source, "--retries", "21"]).exits(2);
}

#[test]
fn two_databases_never_share_a_name() {
    let sandbox = Sandbox::new();
    let (gym_db, shop) = (gym(&sandbox, "gym.db"), gym(&sandbox, "shop.db"));
    sandbox.pull(&["./gym.db", "--name", "gym"]).succeeds("stored");
    let refused = sandbox.pull(&["./shop.db", "--name", "gym"]).fails("usage", 2);
    assert!(refused.ran.stderr.contains("`puller sources adopt gym"), "{}", refused.ran);
    configure(&sandbox, &local("gym", &shop, ""));
    sandbox.pull(&["gym"]).fails("usage", 2);
    configure(&sandbox, &local("other", &gym_db, ""));
    let refused = sandbox.pull(&["other"]).fails("usage", 2);
    assert!(refused.ran.stderr.contains("`puller sources rename gym other`"), "{}", refused.ran);
    assert_eq!(sandbox.puller(&["list", "--json"]).exits(0).json().len(), 1);
    // A source that had no name gets the one of the configuration, and keeps its copies.
    configure(&sandbox, "");
    sandbox.pull(&["./shop.db"]).succeeds("stored");
    configure(&sandbox, &(local("shop", &shop, "") + &local("gym", &gym_db, "")));
    let pulled = sandbox.pull(&["./shop.db"]).succeeds("unchanged");
    assert_eq!(pulled.json["source"], "shop", "{}", pulled.ran);
    sandbox.pull(&["shop"]).succeeds("unchanged");
}

#[test]
fn sources_are_pulled_side_by_side_as_far_as_jobs_allow() {
    let sandbox = Sandbox::new();
    // It takes the connection and says nothing, for as long as a first answer is waited for.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = mute.local_addr().unwrap().port();
    let tables = [
        table("a", &format!("127.0.0.1:{port}/gym"), ""),
        local("b", &gym(&sandbox, "b.db"), ""),
        local("c", &gym(&sandbox, "c.db"), ""),
    ];
    configure(&sandbox, &tables.concat());
    let order = |jobs: &str| -> String {
        let ran = sandbox.puller(&["pull", "--all", "--json", "--retries", "0", "--jobs", jobs]).exits(3);
        ran.json().iter().map(|line| line["source"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order("1"), "abc");
    let ended = order("2");
    assert!(ended.ends_with('a'), "{ended}");
    sandbox.puller(&["pull", "--all", "--jobs", "0"]).exits(2);
}

#[test]
fn what_stands_in_a_source_s_table_holds_for_it_alone() {
    let sandbox = Sandbox::new();
    let (gym_db, shop) = (gym(&sandbox, "gym.db"), gym(&sandbox, "shop.db"));
    let keep = "keep = { last = 1 }\nverify = \"quick\"\n";
    configure(
        &sandbox,
        &format!("verify = \"full\"\n{}{}", local("gym", &gym_db, keep), local("shop", &shop, "")),
    );
    for round in 0..3 {
        for path in [&gym_db, &shop] {
            let db = Connection::open(path).unwrap();
            db.execute_batch(&format!("CREATE TABLE round{round}(x)")).unwrap();
        }
        let lines = sandbox.puller(&["pull", "--all", "--json"]).exits(0).json();
        for line in lines {
            let level = if line["source"] == "gym" { "quick" } else { "full" };
            assert_eq!(line["checked"], level, "{line}");
        }
    }
    let copies = |name: &str| sandbox.puller(&["list", "--json", name]).exits(0).json().len();
    assert_eq!((copies("gym"), copies("shop")), (1, 3));
}

#[test]
fn all_without_a_configuration_is_all_that_the_store_knows() {
    let sandbox = Sandbox::new();
    let nothing = sandbox.puller(&["pull", "--all"]).exits(10);
    assert!(nothing.stderr.contains("there is no source to pull yet"), "{nothing}");
    for name in ["gym.db", "shop.db"] {
        gym(&sandbox, name);
        sandbox.pull(&[&format!("./{name}")]).succeeds("stored");
    }
    let ran = sandbox.puller(&["pull", "--all"]).exits(0);
    assert!(ran.stdout.ends_with("2 sources, 2 well\n"), "{ran}");
    sandbox.puller(&["pull", "--all", "./gym.db"]).exits(2);
}

#[test]
fn one_damaged_folder_is_named_and_stops_no_other() {
    let sandbox = Sandbox::new();
    for name in ["gym", "shop"] {
        let path = gym(&sandbox, &format!("{name}.db"));
        sandbox.puller(&["pull", path.to_str().unwrap()]).exits(0);
    }
    let damaged = sandbox.store().join("local/gym/source.json");
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, "{").unwrap();
    for (arguments, code) in [
        (&["list"][..], 3),
        (&["list", "--json"], 3),
        (&["sources"], 3),
        (&["info"], 3),
        (&["verify", "--all"], 3),
        (&["rotate", "--all", "--keep-last", "3"], 3),
        (&["pull", "--all"], 3),
        (&["pull", "--all", "--json"], 3),
        (&["status"], 13),
        (&["status", "--json"], 13),
        (&["doctor"], 13),
    ] {
        let ran = sandbox.puller(arguments).exits(code);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("local/gym/source.json` is damaged"), "{ran}");
        assert!(ran.stdout.contains("shop"), "{ran}");
    }
    sandbox.pull(&["local/shop"]).succeeds("unchanged");
    for arguments in [["list", "local/gym"], ["pull", "gym"]] {
        let ran = sandbox.puller(&arguments);
        assert!(ran.code() != 0 && ran.stderr.contains("is damaged"), "{ran}");
    }
    // Copies may be hidden in it: nothing is begun beside it.
    sandbox.pull(&[sandbox.db("gym.db").to_str().unwrap()]).fails("io", 1);
    fs::write(&damaged, whole).unwrap();
    sandbox.puller(&["status"]).exits(0);
}

#[test]
fn copies_that_cannot_be_read_hide_no_other_source() {
    let sandbox = Sandbox::new();
    for name in ["gym", "shop"] {
        let path = gym(&sandbox, &format!("{name}.db"));
        sandbox.puller(&["pull", path.to_str().unwrap()]).exits(0);
    }
    fs::remove_dir_all(sandbox.store().join("local/gym/copies")).unwrap();
    for (arguments, code) in [(["list"], 3), (["status"], 13), (["sources"], 3), (["doctor"], 13)] {
        let ran = sandbox.puller(&arguments).exits(code);
        assert!(ran.stdout.contains("local/shop"), "{ran}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains("local/gym"), "{ran}");
    }
}

#[test]
fn a_source_that_is_asked_for_twice_is_pulled_once() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    let typed = path.to_str().unwrap();
    let ran = sandbox.puller(&["pull", typed, typed, "--json"]).exits(0);
    assert_eq!(ran.only_json()["outcome"], "stored", "{ran}");
    let ran = sandbox.puller(&["pull", typed, "local/gym", "gym", "--jobs", "3"]).exits(0);
    assert!(ran.stdout.contains("unchanged") && !ran.stdout.contains("3 sources"), "{ran}");
}

#[test]
fn two_tables_of_one_address_are_refused_before_anything_is_pulled() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    configure(&sandbox, &[local("gym", &path, ""), local("shop", &path, "")].concat());
    let ran = sandbox.puller(&["pull", "--all"]).exits(2);
    assert!(
        ran.stderr.contains("line 4") && ran.stderr.contains("`[source.gym]` has this address too"),
        "{ran}"
    );
    assert!(!sandbox.store().exists(), "{ran}");
}
