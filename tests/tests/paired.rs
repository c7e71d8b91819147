//! Machines that are paired, by the commands that people type: several pullers and several agents, sources that change their door,
//! pairing through ssh, roles, and the end of a pairing.

use pullback_shared::pb::InfoRequest;
use pullback_tests::applications::Application;
use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::guarded::{Guarded, NAME, refused};
use pullback_tests::ledger;
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox, wait_until};
use pullback_tests::served::config_file;
use pullback_tests::sshd::Sshd;
use pullback_tests::tls::{Greeting, Line, from_pem};
use pullback_tests::writer::Writer;
use rusqlite::Connection;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn write(source: &Path, sql: &str) {
    Connection::open(source).and_then(|c| c.execute_batch(sql)).expect("a gym can be written to");
}

/// Another time in some rows of the gym at `source`.
fn change(source: &Path) {
    write(source, "UPDATE access_log SET at = datetime(at, '+1 second') WHERE id % 500 = 0");
}

/// A gym called `name` in `sandbox`.
fn gym(sandbox: &Sandbox, name: &str, seed: u64) -> PathBuf {
    let path = sandbox.db(name);
    databases::gym_with_seed(&path, 200_000, 4096, seed);
    path
}

fn source_json(sandbox: &Sandbox, folder: &str) -> Value {
    let text =
        fs::read_to_string(sandbox.store().join(folder).join("source.json")).expect("a source is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// The folder `dir` as it is called below the store.
fn folder(sandbox: &Sandbox, dir: &str) -> String {
    Path::new(dir).strip_prefix(sandbox.store()).expect("it is in the store").display().to_string()
}

/// The folders of sources in the store.
fn sources(sandbox: &Sandbox) -> Vec<String> {
    let ran = sandbox.puller(&["sources", "list", "--json"]).exits(0);
    let mut all: Vec<String> =
        ran.json().iter().map(|line| folder(sandbox, line["dir"].as_str().unwrap_or_default())).collect();
    all.sort();
    all
}

#[track_caller]
fn says(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is not on stderr of {ran}");
    }
}

#[track_caller]
fn is_delta(pulled: Pulled) -> Pulled {
    let pulled = pulled.succeeds("stored");
    assert_eq!(pulled.transfer, "delta", "{}", pulled.ran);
    pulled
}

#[test]
fn two_pullers_of_one_agent_are_two_peers_with_bases_of_their_own() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let db = sandbox.db("bank.db");
    let writer = Writer::start(&db, &["--journal", "wal", "--no-vacuum"]);
    let guarded = Guarded::serving(&sandbox, &[("bank", &db)], "");
    guarded.pair(&guarded.code(&[])).exits(0);
    other.puller(&["pair", &guarded.code(&[]), "--name", "till"]).exits(0);
    let peers = guarded.peers();
    assert_eq!(peers.len(), 2, "{peers:?}");
    assert_eq!(peers[1][0], format!("{}-2", peers[0][0]));
    let (pull, pull_there) = (|| sandbox.pull(&["pi/bank"]), || other.pull(&["till/bank"]));
    for pulled in [pull().succeeds("stored"), pull_there().succeeds("stored")] {
        assert_eq!(pulled.transfer, "full", "{}", pulled.ran);
        writer.confirm(ledger::check(&pulled.path));
    }
    for _ in 0..3 {
        writer.commits(5);
        for pulled in [pull(), pull_there()] {
            writer.confirm(ledger::check(&is_delta(pulled).path));
        }
    }
    // Each by itself.
    guarded.agent(&["peers", "revoke", &peers[0][0]]).exits(0);
    refused(pull().fails("refused", 6).ran, &[], "`pullback-agent pair` there");
    writer.commits(5);
    is_delta(pull_there());
    assert_eq!(
        guarded.peers().iter().map(|peer| peer[2].as_str()).collect::<Vec<_>>(),
        ["revoked", "paired"]
    );
    guarded.agent(&["peers", "revoke", &peers[1][0]]).exits(0);
    pull_there().fails("refused", 6);
}

#[test]
fn databases_of_one_name_at_two_agents_are_two_sources() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let (here, there) = (gym(&sandbox, "gym.db", 1), gym(&other, "gym.db", 2));
    let guarded = Guarded::serving(&sandbox, &[("gym", &here)], "name = \"pi\"");
    let second = Guarded::serving(&other, &[("gym", &there)], "name = \"pi\"");
    sandbox.puller(&["pair", &guarded.code(&[])]).exits(0);
    let code = second.code(&[]);
    let identity = text(&guarded, "fingerprint");
    let words = ["`pi` is paired already, with the identity ", &*identity];
    refused(sandbox.puller(&["pair", &code]), &words, "if this is another machine: `--name ANOTHER`");
    sandbox.pull(&["pi/gym"]).succeeds("stored");
    // The code was not used up by that.
    sandbox.puller(&["pair", &code, "--name", "pi-2"]).exits(0);
    for _ in 0..2 {
        let (one, two) = (sandbox.pull(&["pi/gym"]), sandbox.pull(&["pi-2/gym"]));
        contents::assert_equal(&here, &one.path);
        contents::assert_equal(&there, &two.path);
        assert_eq!((&one.json["source"], &two.json["source"]), (&"pi/gym".into(), &"pi-2/gym".into()));
        change(&here);
        change(&there);
    }
    is_delta(sandbox.pull(&["pi/gym"]));
    is_delta(sandbox.pull(&["pi-2/gym"]));
    assert_eq!(sources(&sandbox), ["pi-2/gym", "pi/gym"]);
    // The name alone may be either.
    let unclear = sandbox.puller(&["list", "gym"]).exits(2);
    says(&unclear, &["pi/gym", "pi-2/gym"]);
    sandbox.puller(&["verify", "--all"]).exits(0);
}

#[test]
fn an_agent_that_turns_tls_on_is_the_same_source() {
    let sandbox = Sandbox::new();
    let db = gym(&sandbox, "gym.db", 1);
    let mut guarded = Guarded::serving(&sandbox, &[("gym", &db)], "");
    guarded.served.restart_with_tls(false);
    let typed = guarded.served.source("gym");
    let before = sandbox.pull(&[&typed]).succeeds("stored");
    let folders = sources(&sandbox);
    assert_eq!(folders.len(), 1);
    guarded.served.restart_with_tls(true);
    refused(
        sandbox.pull(&[&typed]).fails("refused", 6).ran,
        &["speaks TLS", "not paired"],
        "`pullback-agent pair` there",
    );
    guarded.pair(&guarded.code(&[])).exits(0);
    change(&db);
    let after = is_delta(guarded.pull());
    assert_eq!(before.path.parent().unwrap().parent(), after.path.parent().unwrap().parent());
    assert_eq!(source_json(&sandbox, &folders[0])["key"], "agent:pi/gym");
    change(&db);
    is_delta(sandbox.pull(&[&typed]));
    sandbox.pull(&["pi/gym"]).succeeds("unchanged");
    assert_eq!(
        (sources(&sandbox), source_json(&sandbox, &folders[0])["key"].clone()),
        (folders, json!("agent:pi/gym"))
    );
}

/// The lines about several sources, which are worked on at once and end in any order.
fn by_source(ran: Ran) -> Vec<Value> {
    let mut lines = ran.json();
    lines.sort_by_key(|line| line["source"].to_string());
    lines
}

#[test]
fn the_name_of_an_agent_is_all_its_databases() {
    let sandbox = Sandbox::new();
    let (one, two) = (gym(&sandbox, "one.db", 1), gym(&sandbox, "two.db", 2));
    let guarded = Guarded::serving(&sandbox, &[("club", &one), ("gym", &two)], "");
    guarded.pair(&guarded.code(&[])).exits(0);
    let pulled = by_source(sandbox.puller(&["pull", NAME, "--json"]).exits(0));
    assert_eq!(pulled.iter().map(|line| &line["source"]).collect::<Vec<_>>(), ["pi/club", "pi/gym"]);
    contents::assert_equal(&one, Path::new(pulled[0]["path"].as_str().unwrap()));
    contents::assert_equal(&two, Path::new(pulled[1]["path"].as_str().unwrap()));
    fs::rename(&one, sandbox.db("gone.db")).unwrap();
    change(&two);
    let pulled = by_source(sandbox.puller(&["pull", NAME, "--json"]).exits(3));
    assert_eq!(
        (&pulled[0]["error"]["exit"], &pulled[1]["transfer"]),
        (&json!(7), &json!("delta")),
        "{pulled:?}"
    );
    let info = by_source(sandbox.puller(&["info", NAME, "--json"]).exits(3));
    assert_eq!(
        (info.len(), info[0]["error"].is_null(), info[1]["error"].is_null()),
        (2, false, true),
        "{info:?}"
    );
    fs::rename(sandbox.db("gone.db"), &one).unwrap();
    assert_eq!(sandbox.puller(&["info", NAME, "--json"]).exits(0).json().len(), 2);
    let unchanged = by_source(sandbox.puller(&["pull", NAME, "--json"]).exits(0));
    assert!(unchanged.iter().all(|line| line["outcome"] == "unchanged"), "{unchanged:?}");
}

#[test]
fn copies_of_another_door_are_adopted_and_go_on() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let (db, second) = (gym(&sandbox, "gym.db", 1), gym(&sandbox, "club.db", 2));
    let guarded = Guarded::serving(&sandbox, &[("gym", &db), ("club", &second)], "");
    sshd.pull(&[&format!("pi:{}", db.display()), "--name", "gym"]).succeeds("stored");
    sandbox.pull(&["./club.db", "--name", "club"]).succeeds("stored");
    guarded.pair(&guarded.code(&[])).exits(0);
    for (name, db) in [("gym", &db), ("club", &second)] {
        let address = format!("pi/{name}");
        let kept = sandbox.puller(&["list", name, "--json"]).exits(0).json().len();
        sandbox.puller(&["sources", "adopt", name, &address]).exits(0);
        change(db);
        let pulled = is_delta(sandbox.pull(&[name]));
        contents::assert_equal(db, &pulled.path);
        sandbox.pull(&[&address]).succeeds("unchanged");
        assert_eq!(sandbox.puller(&["list", name, "--json"]).exits(0).json().len(), kept + 1);
        let about = pulled.path.parent().unwrap().parent().unwrap().join("source.json");
        let about: Value = serde_json::from_slice(&fs::read(about).unwrap()).unwrap();
        assert_eq!(about["key"], format!("agent:{address}"));
    }
}

/// Has the agent that ssh starts use the same configuration as the one that serves, with `lines` before it.
fn configure_behind_ssh(sandbox: &Sandbox, lines: &str) {
    let text = fs::read_to_string(config_file(sandbox)).expect("the agent has a configuration");
    let there = sandbox.file("home/.config/pullback/agent.toml");
    fs::write(there, format!("{lines}{text}")).expect("a configuration can be written");
}

#[test]
fn ssh_has_a_code_made_that_nobody_types() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let db = gym(&sandbox, "gym.db", 1);
    let pair = |more: &[&str]| sshd.puller(&[&["pair", "ssh://pi", "--name", NAME], more].concat());
    // Nobody has set an agent up there.
    let none = pair(&[]);
    assert!(none.code() == 6 || none.code() == 2, "{none}");
    says(&none, &["pullback-agent init"]);
    let guarded = Guarded::serving(&sandbox, &[("gym", &db)], "");
    configure_behind_ssh(&sandbox, "");
    pair(&[]).exits(0);
    assert_eq!(guarded.peers().iter().map(|peer| peer[1].as_str()).collect::<Vec<_>>(), ["pull"]);
    guarded.pull().succeeds("stored");
    refused(pair(&["--role", "restore"]), &["does not allow"], "allow_restore = true");
    guarded.pull().succeeds("unchanged");
    configure_behind_ssh(&sandbox, "allow_restore = true\n");
    pair(&["--role", "restore"]).exits(0);
    let states: Vec<_> = guarded.peers().iter().map(|peer| [peer[1].clone(), peer[2].clone()]).collect();
    assert_eq!(states, [["pull", "revoked"], ["restore", "paired"]]);
    guarded.pull().succeeds("unchanged");
    // Whoever may read one database may not let others in.
    let command = format!("pullback-agent stdio --database {}", db.display());
    sshd.authorize(&format!("restrict,command=\"{command}\""));
    refused(pair(&[]), &[], "");
    assert_eq!(guarded.peers().len(), 2);
    guarded.pull().succeeds("unchanged");
    sshd.nothing_is_left();
}

#[test]
fn who_is_paired_anew_to_restore_restores_under_a_writer_and_undoes_it() {
    let sandbox = Sandbox::new();
    let db = sandbox.db("bank.db");
    let mut before = Application::writer(&db, 0, &["--journal", "wal"]);
    before.goes_on(20);
    before.rests();
    let guarded = Guarded::serving(&sandbox, &[("bank", &db)], "");
    guarded.pair(&guarded.code(&[])).exits(0);
    let first = sandbox.pull(&["pi/bank"]).succeeds("stored");
    let mut writer = Application::writer(&db, 1_000_000, &["--journal", "wal", "--pause-ms", "5"]);
    writer.goes_on(20);
    let second = sandbox.pull(&["pi/bank"]).succeeds("stored");
    let restore =
        |more: &[&str]| sandbox.puller(&[&["restore", "pi/bank"], more, &["--yes", "--json"]].concat());
    let copies = || sandbox.puller(&["list", "pi/bank", "--json"]).exits(0).json().len();
    let listed = copies();
    let ran = restore(&[&first.copy, "--in-place"]).exits(6);
    assert!(
        ran.stderr.contains("paired to pull, not to restore")
            || ran.stdout.contains("paired to pull, not to restore"),
        "{ran}"
    );
    assert_eq!(copies(), listed, "what may not be restored needs no safety copy");
    writer.goes_on(5);
    guarded.pair(&guarded.code(&["--role", "restore"])).exits(0);
    let peers = guarded.peers();
    assert_eq!(peers.iter().filter(|peer| peer[2] == "paired").count(), 1, "{peers:?}");
    assert_eq!(guarded.pairing()["role"], "restore");
    let restored = restore(&[&first.copy, "--in-place"]).exits(0).only_json();
    assert_eq!(
        (&restored["outcome"], &restored["snapshot"]),
        (&json!("restored"), &json!(first.snapshot)),
        "{restored}"
    );
    writer.goes_on(5);
    let undone = restore(&["--undo"]).exits(0).only_json();
    assert_eq!(undone["outcome"], "restored", "{undone}");
    assert_ne!(undone["snapshot"], json!(first.snapshot));
    writer.goes_on(5);
    writer.rests();
    // Nobody writes any more: what is there is what was restored.
    restore(&[&second.copy, "--in-place"]).exits(0);
    let last = sandbox.pull(&["pi/bank"]);
    assert_eq!(last.snapshot, second.snapshot, "{}", last.ran);
}

#[test]
fn a_pairing_ends_with_the_agent_up_or_down_and_its_copies_stay() {
    let sandbox = Sandbox::new();
    let mut guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    let gone = sandbox.puller(&["unpair", NAME]).exits(0);
    assert!(gone.stdout.contains("the copies that were pulled from it stay"), "{gone}");
    assert_eq!(guarded.peers()[0][2], "revoked");
    assert!(!guarded.pairing_file().exists());
    let stay = || {
        assert!(!sandbox.puller(&["list", "pi/gym", "--json"]).exits(0).json().is_empty());
        sandbox.puller(&["verify", "pi/gym"]).exits(0);
    };
    stay();
    says(&sandbox.puller(&["pull", "pi/gym"]), &["hint: ", "pair"]);
    let nobody = sandbox.puller(&["unpair", NAME]).exits(10);
    says(&nobody, &["no agent `pi` is paired with this machine", "hint: ", "puller pair CODE"]);
    guarded.pair(&guarded.code(&[])).exits(0);
    change(&sandbox.db("gym.db"));
    is_delta(guarded.pull());
    let name = text(&guarded, "peer_name");
    guarded.served.kill9();
    let unheard = sandbox.puller(&["unpair", NAME]).exits(0);
    says(&unheard, &["warning: ", "the agent was not told", &format!("pullback-agent peers revoke {name}")]);
    stay();
    guarded.served.restart();
    assert_eq!(guarded.peers().last().unwrap()[2], "paired");
    guarded.agent(&["peers", "revoke", &name]).exits(0);
    guarded.pair(&guarded.code(&[])).exits(0);
    change(&sandbox.db("gym.db"));
    is_delta(guarded.pull());
    // Who was revoked is unpaired all the same.
    let name = text(&guarded, "peer_name");
    guarded.agent(&["peers", "revoke", &name]).exits(0);
    let unpaired = sandbox.puller(&["unpair", NAME, "--json"]).exits(0);
    assert_eq!(unpaired.only_json()["revoked"], true, "{unpaired}");
}

#[test]
fn a_code_is_typed_piped_or_broken_into_lines() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let lines = |code: &str| {
        let parts: Vec<_> =
            code.as_bytes().chunks(40).map(|part| String::from_utf8_lossy(part).to_uppercase()).collect();
        format!("\n  {}\n\n", parts.join("\r\n  "))
    };
    let piped = |words: &[&str], text: &str| {
        let mut command = sandbox.command(programs::puller());
        command.arg("--store").arg(sandbox.store()).args(words).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    for words in [&["pair", "--name", NAME][..], &["pair", "-", "--name", NAME]] {
        let out = piped(words, &lines(&guarded.code(&[])));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        // Only the answer is on stdout.
        assert!(String::from_utf8_lossy(&out.stdout).starts_with("paired with pi, as "), "{out:?}");
    }
    let out = piped(&["pair", "--name", NAME], "\n");
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    guarded.pair(&lines(&guarded.code(&[]))).exits(0);
    guarded.pull().succeeds("stored");
    // Each was what this machine was there before, and is no longer.
    let states: Vec<_> = guarded.peers().into_iter().map(|peer| peer[2].clone()).collect();
    assert_eq!(states, ["revoked", "revoked", "paired"]);
    // Behind a router.
    let relay = Relay::to(guarded.served.address());
    let made = sandbox.puller(&[
        "pair",
        &guarded.code(&[]),
        "--name",
        NAME,
        "--address",
        &relay.address(),
        "--json",
    ]);
    assert_eq!(made.exits(0).only_json()["addresses"], json!([relay.address()]));
    guarded.pull().succeeds("unchanged");
    assert!(relay.from_agent() > 0);
    for wrong in ["nonsense", "pi:7420/gym", "127.0.0.1:99999"] {
        sandbox.puller(&["pair", &guarded.code(&[]), "--name", NAME, "--address", wrong]).exits(2);
    }
}

#[test]
fn a_wrong_address_hinders_nobody_and_none_that_answers_is_told() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    let right = guarded.served.address().to_owned();
    // One that nobody listens at, one that takes a connection and says nothing, one whose name is none.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for wrong in [&*free, &*silent, "nowhere.invalid:7420"] {
        guarded.rewrite("addresses", json!([wrong, right]));
        guarded.pull().succeeds("unchanged");
    }
    guarded.rewrite("addresses", json!([free, "nowhere.invalid:7420"]));
    let nobody = guarded.pull().fails("unreachable", 5);
    says(&nobody.ran, &["no agent answers: ", &free, "nowhere.invalid:7420", "hint: "]);
    let local = gym(&sandbox, "here.db", 3);
    let config = format!(
        "[source.away]\naddress = \"pi/gym\"\noptional = true\n[source.here]\naddress = {:?}\n",
        local.to_str().unwrap()
    );
    sandbox.configure(&config);
    sandbox.puller(&["sources", "rename", "pi/gym", "away"]).exits(0);
    let pulled = sandbox.puller(&["pull", "--all", "--json"]).exits(0);
    let of =
        |name: &str| pulled.json().into_iter().find(|line| line["source"] == name).expect("it was pulled");
    assert_eq!(
        (&of("away")["error"]["code"], &of("here")["outcome"]),
        (&json!("unreachable"), &json!("stored")),
        "{pulled}"
    );
    sandbox.configure(&config.replace("optional = true\n", ""));
    sandbox.puller(&["pull", "--all", "--json"]).exits(3);
}

fn text(guarded: &Guarded<'_>, key: &str) -> String {
    guarded.pairing()[key].as_str().expect("a text").to_owned()
}

/// Connections of one peer, as the limits say.
const CONNECTIONS_EACH_MAX: usize = 16;

#[test]
fn the_oldest_connection_of_a_peer_goes_and_no_other() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let guarded = Guarded::paired(&sandbox);
    other.puller(&["pair", &guarded.code(&[]), "--name", NAME]).exits(0);
    let (certificate, key) = (text(&guarded, "certificate"), text(&guarded, "key"));
    let key = || PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("that is a key");
    let shows = || Greeting { shows: Some((vec![from_pem(&certificate)], key())), ..Greeting::without() };
    let address = guarded.served.address();
    let info = |line: &Line| {
        line.call::<_, ()>(
            "/pullback.v1.Pullback/Info",
            InfoRequest { protocol: 1, ..InfoRequest::default() },
        )
    };
    let mut lines: Vec<Line> = (0..CONNECTIONS_EACH_MAX).map(|_| Line::open(address, &shows())).collect();
    assert!(lines.iter().all(|line| info(line).is_ok()), "all that a peer may have serve it");
    lines.push(Line::open(address, &shows()));
    assert!(info(lines.last().unwrap()).is_ok());
    assert!(info(&lines[0]).is_err(), "the oldest goes");
    assert!(lines[1..].iter().all(|line| info(line).is_ok()), "and no other");
    // A pull of the same peer takes the place of the next; another peer's takes nobody's.
    other.pull(&["pi/gym"]).succeeds("stored");
    assert!(lines[1..].iter().all(|line| info(line).is_ok()));
    guarded.pull().succeeds("stored");
    assert!(info(&lines[1]).is_err() && lines[2..].iter().all(|line| info(line).is_ok()));
}

#[test]
fn a_pull_over_tls_whose_agent_starts_again_goes_on() {
    let sandbox = Sandbox::new();
    let db = gym(&sandbox, "gym.db", 1);
    databases::add_noise(&db, 12_000_000);
    let mut guarded = Guarded::serving(&sandbox, &[("gym", &db)], "");
    guarded.pair(&guarded.code(&[])).exits(0);
    let relay = Relay::to(guarded.served.address());
    guarded.rewrite("addresses", json!([relay.address()]));
    relay.stall_after(Some(8_000_000));
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(["pull", "--json", "pi/gym"]);
    let running = sandbox.start(&mut command);
    wait_until("eight megabytes", || relay.from_agent() > 8_000_000);
    guarded.served.restart();
    relay.stall_after(None);
    let cut = Pulled::from_run(running.finish()).fails("lost", 5);
    assert!(cut.path.as_os_str().is_empty());
    relay.cut_after(None);
    let pulled = guarded.pull().succeeds("stored");
    contents::assert_equal(&db, &pulled.path);
    assert!(relay.from_agent() < 8_000_000, "{} bytes came again: {}", relay.from_agent(), pulled.ran);
}

#[test]
fn a_paired_source_is_looked_at_like_any_other() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    for words in
        [&["status"][..], &["status", NAME], &["verify", "pi/gym"], &["drill", "pi/gym"], &["list", NAME]]
    {
        let lines = sandbox.puller(&[words, &["--json"]].concat()).exits(0).json();
        assert!(lines.len() == 1 && lines[0]["source"] == "pi/gym", "{words:?}: {lines:?}");
    }
    for name in [NAME, "pi/gym"] {
        let looked = sandbox.puller(&["doctor", name, "--json"]).exits(0);
        let text = looked.stdout.clone();
        assert!(looked.json().iter().all(|line| line["state"] != "fail"), "{looked}");
        assert!(text.contains("paired"), "{looked}");
    }
}

#[test]
fn what_is_kept_of_an_agent_is_its_identity_and_the_rest_is_speed() {
    let sandbox = Sandbox::new();
    let mut guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    guarded.served.kill9();
    let mut removed = 0;
    for entry in fs::read_dir(sandbox.state()).unwrap().map(Result::unwrap) {
        if entry.file_name() != "identity" {
            match entry.path().is_dir() {
                true => fs::remove_dir_all(entry.path()).unwrap(),
                false => fs::remove_file(entry.path()).unwrap(),
            }
            removed += 1;
        }
    }
    assert!(removed > 0, "there was nothing but the identity");
    guarded.served.restart();
    change(&sandbox.db("gym.db"));
    let pulled = guarded.pull().succeeds("stored");
    contents::assert_equal(&sandbox.db("gym.db"), &pulled.path);
    change(&sandbox.db("gym.db"));
    is_delta(guarded.pull());
}

#[test]
fn all_databases_of_an_agent_are_pulled_however_few_it_serves_at_once() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (0..6).map(|number| format!("gym{number}")).collect();
    let paths: Vec<PathBuf> = (0..).zip(&names).map(|(seed, name)| gym(&sandbox, name, seed)).collect();
    let databases: Vec<(&str, &Path)> =
        names.iter().zip(&paths).map(|(name, path)| (name.as_str(), path.as_path())).collect();
    // One peer has half of them: one.
    let guarded = Guarded::serving(&sandbox, &databases, "pulls_max = 2");
    guarded.pair(&guarded.code(&[])).exits(0);
    let all = by_source(sandbox.puller(&["pull", NAME, "--jobs", "6", "--json"]).exits(0));
    assert_eq!(all.len(), names.len());
    assert!(all.iter().all(|line| line["outcome"] == "stored"), "{all:?}");
}

#[test]
fn a_pairing_that_cannot_be_kept_here_costs_no_code() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let code = guarded.code(&[]);
    // No file can have a byte, as on a full disk.
    let mut full = sandbox.command(Path::new("sh"));
    full.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"]);
    full.arg(programs::puller()).args(["pair", &code, "--name", NAME]);
    says(&sandbox.run(&mut full).exits(1), &["agents"]);
    let file = guarded.pairing_file();
    fs::create_dir_all(&file).expect("a folder can be made");
    says(&sandbox.puller(&["pair", &code, "--replace", NAME]).exits(1), &["pi.json"]);
    fs::remove_dir(&file).expect("it is empty");
    assert!(guarded.peers().is_empty());
    guarded.pair(&code).exits(0);
    assert_eq!(guarded.peers().len(), 1);
}

#[test]
fn an_agent_that_was_not_reached_has_not_revoked_anybody() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let (guarded, second) = (Guarded::paired(&sandbox), Guarded::alone(&other));
    // Another machine has the address by now.
    guarded.rewrite("addresses", json!([second.served.address()]));
    let unpaired = sandbox.puller(&["unpair", NAME, "--json"]).exits(0);
    assert_eq!(unpaired.json()[0]["revoked"], false, "{unpaired}");
    says(&unpaired, &["the agent was not told", "pullback-agent peers revoke"]);
    assert_eq!(guarded.peers()[0][2], "paired");
}

#[test]
fn a_file_of_another_release_about_an_agent_is_not_guessed_at() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.rewrite("v", json!(2));
    says(&guarded.pull().fails("config", 2).ran, &["pi.json", "another release"]);
    guarded.rewrite("v", json!(1));
    guarded.pull().succeeds("stored");
}

#[test]
fn a_damaged_file_about_an_agent_goes_when_it_is_told_to() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    fs::write(guarded.pairing_file(), "{").expect("a file can be written");
    guarded.pull().fails("config", 2);
    let unpaired = sandbox.puller(&["unpair", NAME, "--json"]).exits(0);
    assert_eq!(unpaired.json()[0]["revoked"], false, "{unpaired}");
    says(&unpaired, &["the agent was not told", "pi.json", "pullback-agent peers revoke NAME"]);
    assert!(!guarded.pairing_file().exists());
    sandbox.puller(&["unpair", NAME]).exits(10);
    guarded.pair(&guarded.code(&[])).exits(0);
    change(&sandbox.db("gym.db"));
    is_delta(guarded.pull());
}

#[test]
fn an_agent_is_the_same_however_its_name_is_written() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let paired = sandbox.puller(&["pair", &guarded.code(&[]), "--name", "Cafe\u{301}"]).exits(0);
    assert!(paired.stdout.contains("paired with caf\u{e9}"), "{paired}");
    for name in ["caf\u{e9}", "CAF\u{c9}", "Cafe\u{301}"] {
        sandbox.pull(&[format!("{name}/gym")]);
        sandbox.puller(&["list", &format!("{name}/gym")]).exits(0);
        sandbox.puller(&["info", name]).exits(0);
    }
    assert_eq!(sources(&sandbox), ["caf\u{e9}/gym"]);
    let again = sandbox.puller(&["pair", &guarded.code(&[]), "--replace", "CAFE\u{301}"]).exits(0);
    assert!(again.stdout.contains("paired with caf\u{e9}"), "{again}");
    change(&sandbox.db("gym.db"));
    is_delta(sandbox.pull(&["caf\u{e9}/gym"]));
    sandbox.puller(&["unpair", "CAF\u{c9}"]).exits(0);
    let agents = sandbox.file("home/xdg_config_home/pullback/agents");
    assert_eq!(fs::read_dir(agents).expect("a folder can be read").count(), 0);
    // Whoever pairs asks who listens here before that, and nobody is refused by it.
    let log = guarded.served.log();
    assert!(!log.contains("refused"), "{log}");
}

#[test]
fn a_place_of_agents_that_cannot_be_read_is_told_of() {
    let sandbox = Sandbox::new();
    let agents = sandbox.file("home/xdg_config_home/pullback/agents");
    fs::create_dir_all(agents.parent().unwrap()).expect("a folder can be made");
    fs::write(&agents, "").expect("a file can be written");
    sandbox.pull(&[gym(&sandbox, "gym.db", 1)]).succeeds("stored");
    let doctor = sandbox.puller(&["doctor"]).exits(13);
    assert!(doctor.stdout.contains(agents.to_str().unwrap()), "{doctor}");
}
