//! `init`, `pair`, `peers` and `doctor` as they are typed: once, again, with what is wrong, and killed in between.

use pullback_tests::databases;
use pullback_tests::privilege;
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Where `init` puts things in a sandbox, without a word about it.
fn config(sandbox: &Sandbox) -> PathBuf {
    sandbox.file("home/xdg_config_home/pullback/agent.toml")
}

fn identity(sandbox: &Sandbox) -> PathBuf {
    sandbox.file("home/xdg_state_home/pullback/identity")
}

/// A sandbox with a small database `gym.db`.
fn with_database() -> Sandbox {
    let sandbox = Sandbox::new();
    databases::gym(&sandbox.db("gym.db"), 100_000, 4096);
    sandbox
}

/// Every file below `dir` with its content, as it is now.
fn all(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((path.clone(), fs::read(path).expect("a file can be read"))),
            }
        }
    }
    files.sort();
    files
}

/// A port that nobody has.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a listener has an address").port()
}

/// Makes the agent of the sandbox listen at `listen`.
fn listen(sandbox: &Sandbox, listen: &str) {
    let text = fs::read_to_string(config(sandbox)).expect("a file can be read");
    fs::write(config(sandbox), text.replace("0.0.0.0:7420", listen)).expect("a file can be written");
}

#[test]
fn init_is_typed_once_and_a_second_time_changes_nothing() {
    let sandbox = with_database();
    let first = sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    for path in [config(&sandbox), identity(&sandbox)] {
        assert!(first.stdout.contains(&path.display().to_string()), "{first}");
    }
    assert!(first.stderr.contains("puller pair CODE"), "{first}");
    for (path, mode) in [(identity(&sandbox), 0o700), (identity(&sandbox).join("ca.key"), 0o600)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    let home = sandbox.file("home");
    let before = all(&home);
    let again = sandbox.agent(&["init", "--database", "./gym.db", "--json"]).exits(0).only_json();
    assert_eq!((&again["config_made"], &again["identity_made"]), (&Value::Bool(false), &Value::Bool(false)));
    assert_eq!((again["added"].as_array().unwrap().len(), &again["databases"][0]), (0, &Value::from("gym")));
    let quiet = sandbox.agent(&["init", "-q"]).exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert!(sandbox.agent(&["init"]).exits(0).stderr.contains("nothing was changed"));
    assert_eq!(all(&home), before);
    // What it made is right, but for nobody being paired yet.
    listen(&sandbox, &format!("127.0.0.1:{}", free_port()));
    let told = sandbox.agent(&["doctor"]).exits(0);
    assert!(!told.stdout.contains("fail"), "{told}");
}

#[test]
fn a_further_database_is_added_and_what_was_written_by_hand_stays() {
    let sandbox = with_database();
    sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    let mut text = fs::read_to_string(config(&sandbox)).unwrap();
    text = text.replace("listen", "# my own words\nlisten") + "# and at the end";
    fs::write(config(&sandbox), &text).unwrap();
    fs::create_dir(sandbox.db("other")).unwrap();
    databases::gym(&sandbox.db("other/gym.db"), 100_000, 4096);
    let added = sandbox.agent(&["init", "--database", "other/gym.db"]).exits(0);
    assert!(added.stdout.contains("gym-2") && added.stderr.contains("restarted"), "{added}");
    assert!(fs::read_to_string(config(&sandbox)).unwrap().starts_with(&text));
    let checked = sandbox.agent(&["config", "check", "--json"]).exits(0).only_json();
    assert_eq!(checked["databases"], serde_json::json!(["gym", "gym-2"]));
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.db("folder")).unwrap();
    fs::write(sandbox.db("text.db"), "no database at all, only words ".repeat(40)).unwrap();
    let odd = sandbox.db("").join(std::ffi::OsStr::from_bytes(b"odd\xff.db"));
    databases::gym(&sandbox.db("gym.db"), 100_000, 4096);
    fs::copy(sandbox.db("gym.db"), &odd).unwrap();
    let refused = |words: &[&std::ffi::OsStr], code: i32, why: &str| {
        let ran = sandbox.agent(words).exits(code);
        assert!(ran.stderr.contains(why) && ran.stderr.contains("hint: "), "{ran}");
        assert!(!config(&sandbox).exists() && !identity(&sandbox).exists(), "{ran}");
    };
    let [init, database, discover] = ["init", "--database", "--discover"].map(std::ffi::OsStr::new);
    refused(&[init, database, "none.db".as_ref()], 7, "no such file");
    refused(&[init, database, "folder".as_ref()], 7, "is a directory");
    refused(&[init, database, "text.db".as_ref()], 7, "is not an SQLite database");
    refused(&[init, database, odd.as_os_str()], 2, "UTF-8");
    refused(&[init, discover, "folder".as_ref()], 7, "no SQLite database");
    refused(&[init, discover, "gone".as_ref()], 7, "no such folder");
    refused(&[init, discover, "gym.db".as_ref()], 2, "is no folder");
    refused(
        &[init, "--service".as_ref(), database, "gym.db".as_ref(), "--config".as_ref(), "x".as_ref()],
        2,
        "its place",
    );
    // One wrong one spoils the whole command.
    refused(&[init, database, "gym.db".as_ref(), database, "none.db".as_ref()], 7, "no such file");
}

#[test]
fn a_configuration_that_is_wrong_is_left_as_it_is() {
    let sandbox = with_database();
    fs::create_dir_all(config(&sandbox).parent().unwrap()).unwrap();
    for text in ["listen = \"nowhere\"\n", "[database\n", "tls = \"off\"\nlisten = \"0.0.0.0:1\"\n"] {
        fs::write(config(&sandbox), text).unwrap();
        let ran = sandbox.agent(&["init", "--database", "gym.db"]).exits(2);
        assert!(ran.stderr.contains("line "), "{ran}");
        assert_eq!(fs::read_to_string(config(&sandbox)).unwrap(), text);
        assert!(!identity(&sandbox).exists());
    }
}

#[test]
fn another_user_s_database_is_refused_with_what_to_type() {
    if !privilege::is_root() {
        return privilege::skip("another user's database", "only root can make one");
    }
    let sandbox = with_database();
    privilege::give_to_nobody(&sandbox.db("gym.db"));
    let ran = sandbox.agent(&["init", "--database", "gym.db"]).exits(6);
    assert!(ran.stderr.contains("sudo -u") && ran.stderr.contains("init --service"), "{ran}");
    assert!(!config(&sandbox).exists());
    let found = sandbox.agent(&["init", "--discover", "."]).exits(7);
    assert!(found.stderr.contains("belongs to"), "{found}");
    // And the other way: as nobody, the database of root, and a folder that is root's.
    databases::gym(&sandbox.db("root.db"), 100_000, 4096);
    privilege::set_mode(&sandbox.db(""), 0o755);
    let mut command = privilege::as_nobody(&sandbox, programs::agent());
    let ran = sandbox.run(command.args(["init", "--database"]).arg(sandbox.db("root.db"))).exits(6);
    assert!(ran.stderr.contains("sudo -u root"), "{ran}");
    let mut command = privilege::as_nobody(&sandbox, programs::agent());
    let ran = sandbox.run(command.args(["init", "--config", "/etc/pullback-none/agent.toml"])).exits(6);
    assert!(ran.stderr.contains("hint: "), "{ran}");
}

#[test]
fn nobody_writes_into_the_state_of_another_user_s_agent() {
    if !privilege::is_root() {
        return privilege::skip("another user's state", "only root can make one");
    }
    let sandbox = with_database();
    sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    listen(&sandbox, &format!("127.0.0.1:{}", free_port()));
    let state = identity(&sandbox).parent().unwrap().to_owned();
    let before = all(&state);
    privilege::give_to_nobody(&state);
    for words in [&["pair"][..], &["peers", "list"], &["peers", "revoke", "mac"], &["init"]] {
        let ran = sandbox.agent(words).exits(6);
        assert!(
            ran.stderr.contains("is the agent's of") && ran.stderr.contains("sudo -u"),
            "{words:?}: {ran}"
        );
    }
    assert_eq!(all(&state), before);
}

#[test]
fn discover_takes_what_is_a_database_and_says_what_it_left() {
    let sandbox = with_database();
    fs::create_dir_all(sandbox.db("deep/er")).unwrap();
    databases::gym(&sandbox.db("deep/er/notes"), 100_000, 4096);
    fs::write(sandbox.db("deep/broken.db"), "SQLite format 3\0 and no more").unwrap();
    std::os::unix::fs::symlink(sandbox.db("gym.db"), sandbox.db("deep/link.db")).unwrap();
    let ran = sandbox.agent(&["init", "--discover", ".", "--json"]).exits(0);
    assert_eq!(ran.only_json()["databases"], serde_json::json!(["gym", "notes"]));
    assert!(ran.stderr.contains("broken.db"), "{ran}");
    let again = sandbox.agent(&["init", "--discover", ".", "--json"]).exits(0).only_json();
    assert_eq!(again["added"], serde_json::json!([]));
}

#[test]
fn an_init_that_is_killed_anywhere_is_gone_on_with() {
    let sandbox = with_database();
    let whole = |ran: Ran| ran.exits(0).only_json()["databases"] == serde_json::json!(["gym"]);
    let mut killed = 0;
    for round in 0..40 {
        let _ = fs::remove_dir_all(sandbox.file("home/xdg_config_home"));
        let _ = fs::remove_dir_all(sandbox.file("home/xdg_state_home"));
        let mut command = sandbox.command(programs::agent());
        command.args(["init", "--database", "gym.db"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * 500));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        assert!(whole(sandbox.agent(&["init", "--database", "gym.db", "--json"])), "after {round}");
        let told = sandbox.agent(&["config", "check", "-q"]).exits(0);
        assert!(told.stderr.is_empty(), "{told}");
    }
    assert!(killed > 3, "only {killed} were killed before their end");
}

#[test]
fn a_service_is_refused_with_what_to_do_where_it_cannot_be() {
    let sandbox = with_database();
    let ran = sandbox.agent(&["init", "--service", "--database", "gym.db"]);
    if Path::new("/run/systemd/system").is_dir() && privilege::is_root() {
        return privilege::skip("a service that is refused", "it could be set up here");
    }
    let ran = ran.exits(2);
    assert!(ran.stderr.contains("hint: ") && !config(&sandbox).exists(), "{ran}");
}

#[test]
fn pair_prints_the_code_and_nothing_else_and_says_it_nowhere_again() {
    let sandbox = with_database();
    let none = sandbox.agent(&["pair"]).exits(2);
    assert!(none.stderr.contains("pullback-agent init"), "{none}");
    sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    let port = free_port();
    listen(&sandbox, &format!("127.0.0.1:{port}"));
    let ran = sandbox.agent(&["-vv", "pair", "--role", "restore", "--ttl", "1h"]).exits(0);
    let code = ran.stdout.trim_end();
    assert!(code.len() > 100 && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{ran}");
    assert!(!ran.stderr.contains(code) && ran.stderr.contains("puller pair"), "{ran}");
    assert!(
        ran.stderr.contains("warning: no agent answers") && ran.stderr.contains("pullback-agent serve"),
        "{ran}"
    );
    let object = sandbox.agent(&["pair", "--json"]).exits(0).only_json();
    assert_eq!(
        (&object["role"], &object["addresses"][0]),
        (&"pull".into(), &format!("127.0.0.1:{port}").into())
    );
    assert_ne!(object["code"], code);
    // What is kept of a code is not the code: neither as it is printed nor any long part of it.
    let kept = all(&identity(&sandbox).join("codes"));
    assert_eq!(kept.len(), 2);
    for (_, text) in kept {
        let text = String::from_utf8(text).unwrap();
        assert!(
            !code.as_bytes().windows(20).any(|part| text.contains(std::str::from_utf8(part).unwrap())),
            "{text}"
        );
    }
    for ttl in ["0s", "25h", "soon", "-1"] {
        let refused = sandbox.agent(&["pair", &format!("--ttl={ttl}")]).exits(2);
        assert_eq!(refused.stdout, "", "{refused}");
    }
    sandbox.agent(&["pair", "--role", "root"]).exits(2);
    fs::write(config(&sandbox), "tls = \"off\"\n").unwrap();
    let off = sandbox.agent(&["pair"]).exits(2);
    assert!(off.stdout.is_empty() && off.stderr.contains("tls = \"off\""), "{off}");
}

#[test]
fn pair_of_an_agent_that_another_program_stands_in_the_way_of_says_so() {
    let sandbox = with_database();
    sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&sandbox, &stranger.local_addr().unwrap().to_string());
    std::thread::spawn(move || stranger.incoming().for_each(drop));
    let ran = sandbox.agent(&["pair", "-q"]).exits(0);
    assert!(ran.stderr.contains("is not this agent"), "{ran}");
    let told = findings(&sandbox, 13);
    assert!(has(&told, "fail", "another program listens"), "{told:?}");
}

/// Writes a list of peers: `mac` is paired, `old` was revoked, `late` has a certificate that ended.
fn write_peers(sandbox: &Sandbox) {
    let peer = |name: &str, number: u8, expires: &str, revoked: Value| {
        serde_json::json!({
            "name": name, "fingerprint": format!("{number:02x}").repeat(32), "role": "pull", "paired_at": "2026-01-02T03:04:05Z",
            "expires_at": expires, "revoked_at": revoked,
        })
    };
    let (later, before) = ("2036-01-02T03:04:05Z", "2026-02-02T03:04:05Z");
    let list = serde_json::json!({"v": 1, "peers": [
        peer("mac", 1, later, Value::Null), peer("old", 2, later, before.into()), peer("late", 3, before, Value::Null),
    ]});
    fs::write(identity(sandbox).join("peers.json"), list.to_string()).expect("a file can be written");
}

#[test]
fn peers_are_listed_and_revoked_by_name_or_fingerprint() {
    let sandbox = with_database();
    sandbox.agent(&["peers", "list"]).exits(2);
    sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    let none = sandbox.agent(&["peers", "list"]).exits(0);
    assert!(none.stdout.is_empty() && none.stderr.contains("pullback-agent pair"), "{none}");
    write_peers(&sandbox);
    let listed = sandbox.agent(&["peers", "list"]).exits(0);
    for (name, state) in [("mac", "paired"), ("old", "revoked"), ("late", "expired")] {
        let row = listed.stdout.lines().find(|row| row.trim_start().starts_with(name));
        assert!(
            row.is_some_and(|row| row.contains(state) && row.contains("2026-01-02T03:04:05Z")),
            "{listed}"
        );
    }
    let objects = sandbox.agent(&["peers", "list", "--json"]).exits(0).json();
    assert_eq!(objects.len(), 3);
    let revoked = sandbox.agent(&["peers", "revoke", "mac", "--json"]).exits(0).only_json();
    assert_eq!((&revoked["name"], &revoked["state"]), (&"mac".into(), &"revoked".into()));
    assert!(sandbox.agent(&["peers", "revoke", "0303030303"]).exits(0).stdout.contains("`late`"));
    let objects = sandbox.agent(&["peers", "list", "--json"]).exits(0).json();
    assert!(objects.iter().all(|peer| peer["state"] == "revoked"), "{objects:?}");
    let nobody = sandbox.agent(&["peers", "revoke", "nobody\u{1b}[2J"]).exits(10);
    assert!(!nobody.stderr.contains('\u{1b}'), "{nobody}");
}

/// What `doctor` finds: state and words.
fn findings(sandbox: &Sandbox, code: i32) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let ran = sandbox.agent(&["doctor", "--json"]).exits(code);
    ran.json().iter().map(|line| (text(&line["state"]), text(&line["about"]), text(&line["hint"]))).collect()
}

/// Whether there is such a finding, with what mends it.
fn has(findings: &[(String, String, String)], state: &str, words: &str) -> bool {
    findings.iter().any(|found| found.0 == state && found.1.contains(words) && !found.2.is_empty())
}

#[test]
fn the_doctor_finds_each_thing_that_is_wrong() {
    let sandbox = with_database();
    assert!(has(&findings(&sandbox, 13), "fail", "agent.toml"), "no configuration");
    sandbox.agent(&["init", "--database", "gym.db"]).exits(0);
    listen(&sandbox, &format!("127.0.0.1:{}", free_port()));
    let check = |code: i32, state: &str, words: &str| {
        let found = findings(&sandbox, code);
        assert!(has(&found, state, words), "{words}: {found:?}");
    };
    check(0, "warn", "no machine was paired");
    let journal = |mode: &str| {
        let database = Connection::open(sandbox.db("gym.db")).unwrap();
        database.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(())).unwrap();
    };
    journal("delete");
    check(0, "warn", "rollback journal");
    journal("wal");
    write_peers(&sandbox);
    check(0, "warn", "the peer `late` ended");
    let peers = identity(&sandbox).join("peers.json");
    fs::write(&peers, "[").unwrap();
    check(13, "fail", "the list of peers");
    fs::remove_file(&peers).unwrap();

    let (key, state) = (identity(&sandbox).join("server.key"), sandbox.file("home/xdg_state_home/pullback"));
    for (path, mode, wrong, code, verdict) in [
        (&key, 0o600, 0o644, 13, "fail"),
        (&identity(&sandbox), 0o700, 0o750, 13, "fail"),
        (&state, 0o700, 0o755, 0, "warn"),
    ] {
        privilege::set_mode(path, wrong);
        check(code, verdict, &format!("has mode {wrong:o}"));
        privilege::set_mode(path, mode);
    }
    let kept = fs::read(&key).unwrap();
    fs::write(&key, "no key").unwrap();
    check(13, "fail", "holds no key");
    fs::remove_file(&key).unwrap();
    check(13, "fail", "has no identity");
    fs::write(&key, kept).unwrap();
    privilege::set_mode(&key, 0o600);

    let text = fs::read_to_string(config(&sandbox)).unwrap();
    let (top, tables) = text.split_once("[database").unwrap();
    let elsewhere = format!("listen = \"203.0.113.77:7420\"\n[database{tables}");
    for (wrong, code, state, words) in [
        (format!("{top}reserve = \"1000 TiB\"\n[database{tables}"), 0, "warn", "none of which may be used"),
        (elsewhere, 13, "fail", "this agent cannot"),
        (top.to_owned(), 13, "fail", "no database is configured"),
    ] {
        fs::write(config(&sandbox), wrong).unwrap();
        check(code, state, words);
    }
    fs::write(config(&sandbox), &text).unwrap();
    fs::rename(sandbox.db("gym.db"), sandbox.db("moved.db")).unwrap();
    check(13, "fail", "no such file");
    fs::rename(sandbox.db("moved.db"), sandbox.db("gym.db")).unwrap();
    if privilege::is_root() {
        privilege::give_to_nobody(&sandbox.db("gym.db"));
        check(0, "warn", "belongs to");
        privilege::give_to_nobody(&state);
        check(13, "fail", "and this runs as");
    } else {
        privilege::skip("files of another user", "only root can make them");
    }
}

#[test]
fn the_doctor_knows_its_own_agent_from_others() {
    let sandbox = with_database();
    let served = Served::start(&sandbox, &[("gym", &sandbox.db("gym.db"))]);
    let config = sandbox.file("agent.toml");
    let fixed = fs::read_to_string(&config).unwrap().replace("127.0.0.1:0", served.address());
    fs::write(&config, &fixed).unwrap();
    let examine =
        |code: i32| sandbox.agent(&["doctor", "--config", &config.display().to_string()]).exits(code);
    let told = examine(0);
    assert!(told.stdout.contains(&format!("this agent answers at {}", served.address())), "{told}");
    // With TLS it would be another one that answers there.
    fs::write(&config, fixed.replace("tls = \"off\"", "tls = \"on\"")).unwrap();
    sandbox.agent(&["init", "-q", "--config", &config.display().to_string()]).exits(0);
    let told = examine(13);
    assert!(told.stdout.contains("another program listens"), "{told}");
}
