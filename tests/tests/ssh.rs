//! The ssh door through a real sshd: what comes through it, and what each thing that can go wrong is said to be.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::privilege::{self, NOBODY};
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{self, Pulled, Sandbox};
use pullback_tests::sshd::{Sshd, script};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A gym of about a megabyte in `sandbox`.
fn gym(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.db("gym.db");
    databases::gym(&path, 1_000_000, 4096);
    path
}

fn write(source: &Path, sql: &str) {
    Connection::open(source).and_then(|c| c.execute_batch(sql)).expect("a gym can be written to");
}

fn at_pi(path: &Path) -> String {
    format!("pi:{}", path.display())
}

/// The folders of sources in the store.
fn sources(sandbox: &Sandbox) -> Vec<String> {
    let ran = sandbox.puller(&["info", "--json"]).exits(0);
    ran.json().iter().map(|line| line["source"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn says(pulled: &Pulled, words: &[&str]) {
    let error = &pulled.json["error"];
    let said = format!("{} | {}", error["message"], error["hint"]);
    for word in words {
        assert!(said.contains(word), "`{word}` is not in `{said}`, of {}", pulled.ran);
    }
}

#[test]
fn full_delta_and_unchanged_pulls_come_through_ssh() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    let first = sshd.pull(&[&at_pi(&source)]).succeeds("stored");
    assert_eq!((first.transfer.as_str(), &first.json["notes"]), ("full", &Value::Array(Vec::new())));
    contents::assert_equal(&source, &first.path);
    write(&source, "UPDATE access_log SET at = '2026-11-21 09:00:00' WHERE id % 5000 = 0");
    let second = sshd.pull(&[&at_pi(&source)]).succeeds("stored");
    assert_eq!(second.transfer, "delta", "{}", second.ran);
    contents::assert_equal(&source, &second.path);
    assert_eq!(sshd.pull(&[&at_pi(&source)]).succeeds("unchanged").transfer, "none");
    // One connection for each: what was not known before is asked over the same one.
    assert_eq!(sshd.sshs().len(), 3);
    sshd.nothing_is_left();
}

#[test]
fn all_spellings_of_a_place_are_one_source() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    std::os::unix::fs::symlink(&source, sandbox.file("home/link.db")).unwrap();
    let path = source.to_str().unwrap();
    let user = Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
    sshd.pull(&[&format!("ssh://pi{path}")]).succeeds("stored");
    for spelling in [
        format!("pi:{path}"),
        format!("{user}@pi:{path}"),
        format!("ssh://{user}@pi{path}"),
        "pi:link.db".to_owned(),
        "pi:~/link.db".to_owned(),
        "ssh://pi/~/link.db".to_owned(),
        format!("pi:{}/../db/gym.db", sandbox.file("home").display()),
        "pi/gym".to_owned(),
        "gym".to_owned(),
    ] {
        let again = sshd.pull(&[&spelling]).succeeds("unchanged");
        assert_eq!(again.json["source"], "pi/gym", "{spelling}");
    }
    assert_eq!(sources(&sandbox), ["pi/gym"]);
    // By its name it is reached with the user that was typed last.
    sshd.pull(&[&format!("{user}@pi:link.db")]).succeeds("unchanged");
    let about = fs::read(sandbox.store().join("pi/gym/source.json")).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    assert_eq!(about["key"], format!("ssh:pi:{path}"));
    assert_eq!(about["address"], format!("ssh://{user}@pi/~/link.db"));
    let info = sshd.puller(&["info", "--json", "gym"]).exits(0).only_json();
    assert_eq!((&info["path"], &info["transfer"]), (&Value::from(path), &Value::from("none")));
    assert_eq!(info["source"], format!("ssh://{user}@pi/~/link.db"));
}

#[test]
fn a_named_source_is_found_by_its_address_in_the_configuration() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    std::os::unix::fs::symlink(&source, sandbox.file("home/link.db")).unwrap();
    let config = sandbox.file("puller.toml");
    fs::write(&config, format!("ssh = {:?}\n[source.hall]\naddress = \"pi:link.db\"\n", sshd.ssh())).unwrap();
    let words = ["pull", "--json", "hall", "--config", config.to_str().unwrap()];
    let pull = || Pulled::from_run(sandbox.puller(&words));
    pull().succeeds("stored");
    pull().succeeds("unchanged");
    let all = ["pull", "--all", "--json", "--config", config.to_str().unwrap()];
    Pulled::from_run(sandbox.puller(&all)).succeeds("unchanged");
    assert_eq!(sources(&sandbox), ["hall"]);
}

#[test]
fn info_and_a_dry_run_ask_through_ssh() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    let info = sshd.puller(&["info", "--json", "--tables", &source]).exits(0).only_json();
    assert_eq!((&info["transfer"], &info["error"]), (&Value::from("full"), &Value::Null));
    assert!(info["tables"].as_array().is_some_and(|tables| !tables.is_empty()), "{info}");
    let planned = sshd.puller(&["pull", "--json", "-n", &source]).exits(0).only_json();
    assert_eq!((&planned["outcome"], &planned["transfer"]), (&Value::from("planned"), &Value::from("full")));
    assert!(!sandbox.store().exists());
    assert_eq!(sshd.sshs().len(), 2);
    sshd.nothing_is_left();
}

#[test]
fn a_pull_whose_ssh_is_killed_is_lost_and_goes_on_from_what_had_come() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    databases::add_noise(&source, 12_000_000);
    let relay = Relay::to(&sshd.address());
    sshd.reached_at(relay.address().rsplit_once(':').unwrap().1.parse().unwrap());
    relay.stall_after(Some(8_000_000));
    let running = sshd.start_puller(&["pull", "--json", &at_pi(&source)]);
    sandbox::wait_until("eight megabytes", || relay.from_agent() > 8_000_000);
    let ssh = *sshd.sshs().last().expect("ssh runs");
    sandbox::signal(ssh.cast_unsigned(), Signal::KILL);
    let lost = Pulled::from_run(running.finish()).fails("lost", 5);
    says(&lost, &["ssh was ended by signal 9"]);
    relay.stall_after(None);
    sshd.nothing_is_left();
    relay.cut_after(None);
    let pulled = sshd.pull(&[&at_pi(&source)]).succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
    let again = relay.from_agent();
    assert!(again < 8_000_000, "{again} bytes came again: {}", pulled.ran);
}

#[test]
fn a_puller_that_is_stopped_or_killed_leaves_no_ssh_and_no_agent() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    databases::add_noise(&source, 6_000_000);
    let relay = Relay::to(&sshd.address());
    sshd.reached_at(relay.address().rsplit_once(':').unwrap().1.parse().unwrap());
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        relay.cut_after(None);
        relay.stall_after(Some(3_000_000));
        let running = sshd.start_puller(&["pull", "--json", "--full", &at_pi(&source)]);
        sandbox::wait_until("three megabytes", || relay.from_agent() > 3_000_000);
        sandbox::signal(running.pid(), signal);
        running.finish();
        relay.stall_after(None);
        sshd.nothing_is_left();
    }
}

#[test]
fn a_restricted_key_gives_its_database_and_no_other() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    let other = sandbox.db("other.db");
    databases::gym(&other, 200_000, 4096);
    let command = format!("pullback-agent stdio --database {}", source.display());
    sshd.authorize(&format!("restrict,command=\"{command}\""));
    let pulled = sshd.pull(&[&at_pi(&source)]).succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
    std::os::unix::fs::symlink(&source, sandbox.file("home/link.db")).unwrap();
    sshd.pull(&["pi:link.db"]).succeeds("unchanged");
    for refused in [other.as_path(), Path::new("/etc/passwd"), &sandbox.db("none.db")] {
        let refused = sshd.pull(&[&at_pi(refused)]).fails("refused", 6);
        says(
            &refused,
            &["this agent may not give", &format!("it gives `{}` and nothing else", source.display())],
        );
    }
    // No other program either.
    let shell =
        Command::new(sshd.ssh()).args(["pi", "touch", sandbox.file("touched").to_str().unwrap()]).output();
    assert!(shell.unwrap().stdout.starts_with(b"\npullback-agent stdio"));
    assert!(!sandbox.file("touched").exists());
}

#[test]
fn a_connection_that_ssh_shares_carries_further_pulls() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    let socket = sandbox.file("shared");
    sshd.client_lines(&format!(
        "ControlMaster auto\nControlPersist 60\nControlPath \"{}\"",
        socket.display()
    ));
    sshd.pull(&[&source]).succeeds("stored");
    assert!(socket.exists(), "ssh shares nothing");
    // With the shared one it need not know how to get in.
    fs::write(sandbox.file("sshd/authorized"), "").unwrap();
    sshd.pull(&[&source]).succeeds("unchanged");
    let nowhere = sshd.pull(&["--remote-agent", "/nowhere/agent", &source]).fails("no_agent", 7);
    says(&nowhere, &["/nowhere/agent"]);
    let exit = Command::new(sshd.ssh()).args(["-O", "exit", "pi"]).output().unwrap();
    assert!(exit.status.success(), "{exit:?}");
    sshd.nothing_is_left();
}

/// Has every session run through `shell`, a script that gets the command as `$SSH_ORIGINAL_COMMAND`.
fn with_shell<'a>(sandbox: &'a Sandbox, body: &str) -> Option<Sshd<'a>> {
    let shell = sandbox.file("login-shell");
    script(&shell, body);
    Sshd::start_with(sandbox, &format!("ForceCommand {}", shell.display()))
}

#[test]
fn a_login_shell_that_prints_is_survived_and_named() {
    let sandbox = Sandbox::new();
    let body = "echo 'Welcome to the gym'\nprintf 'no end of line'\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let Some(sshd) = with_shell(&sandbox, body) else { return };
    let source = gym(&sandbox);
    let pulled = sshd.pull(&[&at_pi(&source)]).succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
    let notes = pulled.json["notes"].to_string();
    assert!(
        notes.contains("the login shell of pi printed 33 bytes") && notes.contains("Welcome to"),
        "{notes}"
    );
}

#[test]
fn a_login_shell_that_prints_a_mebibyte_is_given_up() {
    let sandbox = Sandbox::new();
    let body =
        "dd if=/dev/zero bs=1024 count=1024 2>/dev/null | tr '\\0' x\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let Some(sshd) = with_shell(&sandbox, body) else { return };
    let failed = sshd.pull(&[&at_pi(&gym(&sandbox))]).fails("no_agent", 7);
    says(&failed, &["printed more than 64 KiB", "terminals only"]);
    sshd.nothing_is_left();
}

#[test]
fn a_far_end_that_never_speaks_is_waited_for_no_longer_than_asked() {
    let sandbox = Sandbox::new();
    let Some(sshd) = with_shell(&sandbox, "exec sleep 60") else { return };
    let began = Instant::now();
    let failed = sshd.pull(&["--timeout", "1s", &at_pi(&gym(&sandbox))]).fails("unreachable", 5);
    says(&failed, &["no agent spoke on pi within 2 s"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let sshs = sshd.sshs();
    assert!(!sshs.iter().any(|pid| pullback_tests::sshd::is_alive(*pid)), "ssh is left");
}

#[test]
fn the_remote_command_is_understood_by_other_shells() {
    for shell in ["bash", "dash", "zsh", "fish", "csh", "tcsh", "ksh", "mksh", "busybox"] {
        if Command::new(shell).args(["-c", "true"]).output().is_err() {
            privilege::skip(&format!("the remote command in {shell}"), "it is not installed");
            continue;
        }
        let sandbox = Sandbox::new();
        let applet = if shell == "busybox" { "busybox sh" } else { shell };
        let Some(sshd) = with_shell(&sandbox, &format!("exec {applet} -c \"$SSH_ORIGINAL_COMMAND\"")) else {
            return;
        };
        let source = gym(&sandbox);
        contents::assert_equal(&source, &sshd.pull(&[&at_pi(&source)]).succeeds("stored").path);
    }
}

#[test]
fn an_agent_is_found_where_people_install_it_and_where_it_is_said_to_be() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    let agent = sandbox.file("bin/pullback-agent");
    let moved = sandbox.file("elsewhere-agent");
    fs::rename(&agent, &moved).unwrap();
    let missing = sshd.pull(&[&source]);
    match missing.outcome.as_str() {
        "stored" => privilege::skip("a missing agent", "one is installed on this machine"),
        _ => says(
            &missing.fails("no_agent", 7),
            &["ssh reached pi, but `pullback-agent` is not there", "install it there", "--remote-agent PATH"],
        ),
    }
    for place in [".cargo/bin", ".local/bin"] {
        let folder = sandbox.file("home").join(place);
        fs::create_dir_all(&folder).unwrap();
        fs::rename(&moved, folder.join("pullback-agent")).unwrap();
        assert!(matches!(sshd.pull(&[&source]).outcome.as_str(), "stored" | "unchanged"), "{place}");
        fs::rename(folder.join("pullback-agent"), &moved).unwrap();
    }
    sshd.pull(&["--remote-agent", moved.to_str().unwrap(), &source]).succeeds("unchanged");
    let nowhere = sshd.pull(&["--remote-agent", "/nowhere/agent", &source]).fails("no_agent", 7);
    says(&nowhere, &["is not there", "/nowhere/agent"]);
    let folder = sandbox.db("");
    let no_program = sshd.pull(&["--remote-agent", folder.to_str().unwrap().trim_end_matches('/'), &source]);
    says(&no_program.fails("no_agent", 7), &["cannot be run"]);
    sshd.nothing_is_left();
}

#[test]
fn a_host_key_that_is_unknown_or_another_is_refused() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    sshd.know_nobody();
    says(
        &sshd.pull(&[&source]).fails("refused", 6),
        &[
            "the host key of pi is not known here",
            "Host key verification failed",
            "run `ssh pi` once from a terminal",
        ],
    );
    sshd.know_another();
    says(
        &sshd.pull(&[&source]).fails("refused", 6),
        &["pi shows another host key than it did before", "ssh-keygen -R pi"],
    );
    assert!(sshd.agents().is_empty() && !sandbox.store().exists());
}

#[test]
fn without_a_key_nobody_is_asked_for_a_password() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    fs::write(sandbox.file("sshd/authorized"), "").unwrap();
    let failed = sshd.pull(&[&source]).fails("refused", 6);
    says(&failed, &["pi lets nobody in", "Permission denied (publickey)", "a key without a passphrase"]);
}

#[test]
fn what_cannot_be_reached_is_said_in_the_words_of_ssh() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    says(
        &sshd.pull(&["no-such-host.invalid:/gym.db"]).fails("unreachable", 5),
        &["no-such-host.invalid cannot be reached by ssh", "Could not resolve hostname"],
    );
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let typed = format!("ssh://127.0.0.1:{closed}/gym.db");
    says(
        &sshd.pull(&[&typed]).fails("unreachable", 5),
        &["127.0.0.1 cannot be reached by ssh", "Connection refused"],
    );
    // One that takes connections and says nothing, not even what sshd says first.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let typed = format!("ssh://127.0.0.1:{}/gym.db", silent.local_addr().unwrap().port());
    let began = Instant::now();
    sshd.pull(&["--timeout", "2s", &typed]).fails("unreachable", 5);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let none = sandbox.file("no-such-ssh");
    let failed = sshd.pull(&["--ssh", none.to_str().unwrap(), "pi:/gym.db"]).fails("usage", 2);
    says(&failed, &["cannot be started", "--ssh PROGRAM"]);
    assert!(!sandbox.store().exists());
}

#[test]
fn a_path_with_any_characters_is_one_path() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let names = [
        "with space.db",
        "quote'd \"and\" so.db",
        "$(touch touched).db",
        "`touch touched`; touch touched & .db",
        "back\\slash\\n.db",
        "new\nline.db",
        "회원 명부.db",
        "per%20cent%41.db",
        "-rf.db",
        "a:b@c.db",
        "!history!.db",
        "*?[x]{y}~#.db",
    ];
    for (number, name) in names.iter().enumerate() {
        let source = sandbox.db(name);
        databases::gym_with_seed(&source, 100_000, 4096, number as u64 + 1);
        let typed = match number % 2 {
            0 => at_pi(&source),
            _ => format!("ssh://pi{}", source.display()),
        };
        let pulled = sshd.pull(&[&typed]).succeeds("stored");
        contents::assert_equal(&source, &pulled.path);
        let shown = pulled.json["source"].as_str().expect("a source has a name").to_owned();
        sshd.pull(&[&shown]).succeeds("unchanged");
        sshd.pull(&[&typed]).succeeds("unchanged");
    }
    assert_eq!(sources(&sandbox).len(), names.len());
    for folder in ["home", "db", ""] {
        assert!(!sandbox.file(folder).join("touched").exists(), "a path was obeyed");
    }
}

/// Both spellings of a name with marks look the same; a file system of Linux has but one of them.
#[test]
fn either_spelling_of_a_korean_path_finds_the_file() {
    let sandbox = Sandbox::new();
    let (nfc, nfd) = ("회원.db", "\u{1112}\u{116c}\u{110b}\u{116f}\u{11ab}.db");
    assert_ne!(nfc, nfd);
    let source = sandbox.db(nfd);
    databases::gym(&source, 100_000, 4096);
    let local = sandbox.pull(&[&sandbox.db(nfc)]).succeeds("stored");
    contents::assert_equal(&source, &local.path);
    sandbox.pull(&[&source]).succeeds("unchanged");
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    sshd.pull(&[&at_pi(&sandbox.db(nfc))]).succeeds("stored");
    sshd.pull(&[&at_pi(&source)]).succeeds("unchanged");
    sshd.authorize(&format!(
        "restrict,command=\"pullback-agent stdio --database '{}'\"",
        sandbox.db(nfc).display()
    ));
    sshd.pull(&[&at_pi(&source)]).succeeds("unchanged");
}

#[test]
fn a_host_that_ssh_would_take_for_an_option_is_refused_before_anything_is_run() {
    let sandbox = Sandbox::new();
    let (ssh, ran) = (sandbox.file("ssh"), sandbox.file("ran"));
    script(&ssh, &format!("touch '{}'", ran.display()));
    let evil = "-oProxyCommand=touch ran";
    for typed in [
        format!("{evil}:/gym.db"),
        format!("ssh://{evil}/gym.db"),
        format!("me@{evil}:gym.db"),
        format!("ssh://me@{evil}:22/gym.db"),
        format!("[{evil}]:/gym.db"),
        format!("ssh://[{evil}]/gym.db"),
        "-v:/gym.db".to_owned(),
        "ssh://-v/gym.db".to_owned(),
        "me@-v:gym.db".to_owned(),
        "-lroot@pi:/gym.db".to_owned(),
        "ssh://-lroot@pi/gym.db".to_owned(),
        "pi;touch ran:/gym.db".to_owned(),
        "$(touch ran):/gym.db".to_owned(),
    ] {
        for command in ["pull", "info"] {
            let words = [command, "--ssh", ssh.to_str().unwrap(), "--", &typed];
            sandbox.puller(&words).exits(2);
        }
    }
    assert!(!ran.exists());
}

#[test]
fn ssh_is_given_fixed_words_the_host_and_one_command() {
    let sandbox = Sandbox::new();
    let (ssh, given) = (sandbox.file("ssh"), sandbox.file("given"));
    script(&ssh, &format!("printf '%s\\n' \"$@\" > '{}'; exit 255", given.display()));
    let words = ["--ssh", ssh.to_str().unwrap(), "--timeout", "8s", "ssh://me@pi:2222/srv/gym app.db"];
    sandbox.pull(&words).fails("unreachable", 5);
    let given = fs::read_to_string(&given).unwrap();
    let (options, command) = given.split_once("--\npi\n").expect("options, then the host");
    let expected = "-T -e none -o ConnectTimeout=8 -o ServerAliveInterval=4 -o ServerAliveCountMax=2 -o BatchMode=yes \
                    -p 2222 -l me";
    assert_eq!(options.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    // The path is said to the agent only.
    assert!(
        command.starts_with("sh -c 'for a in pullback-agent ") && command.ends_with("exit 127'\n"),
        "{command}"
    );
    assert!(!given.contains("gym"), "{given}");
}

#[test]
fn a_file_here_that_reads_like_a_place_has_to_be_spelled_out() {
    let sandbox = Sandbox::new();
    databases::gym(&sandbox.db("pi:gym.db"), 100_000, 4096);
    let failed = sandbox.pull(&["pi:gym.db"]).fails("usage", 2);
    says(&failed, &["`./pi:gym.db` for the file", "`ssh://pi/~/gym.db` for the place"]);
    sandbox.pull(&["./pi:gym.db"]).succeeds("stored");
}

#[test]
fn a_link_that_leads_to_another_database_mixes_no_copies() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let (link, other) = (sandbox.file("home/link.db"), sandbox.db("other.db"));
    std::os::unix::fs::symlink(gym(&sandbox), &link).unwrap();
    databases::gym(&other, 100_000, 4096);
    sshd.pull(&["pi:link.db", "--name", "gym"]).succeeds("stored");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    for typed in ["pi:link.db", "gym"] {
        says(&sshd.pull(&[typed]).fails("usage", 2), &["other.db", "puller sources adopt gym"]);
    }
    assert_eq!(sandbox.puller(&["list", "--json"]).exits(0).json().len(), 1);
}

#[test]
fn an_agent_s_wrong_configuration_is_heard_here() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    let folder = sandbox.file("home/.config/pullback");
    fs::write(folder.join("agent.toml"), "lissten = 1\n").unwrap();
    says(
        &sshd.pull(&[&source]).fails("config", 2),
        &["the agent on pi says", "line 1 (`lissten = 1`)", "pullback-agent config example"],
    );
    // What matters to it is honoured, and what does not need not be there.
    let state = sandbox.file("far-state");
    fs::write(folder.join("agent.toml"), format!("state_dir = {state:?}\nreserve = \"0\"\n")).unwrap();
    sshd.pull(&[&source]).succeeds("stored");
    assert!(fs::read_dir(&state).unwrap().count() > 0, "there is no mirror");
    fs::remove_file(folder.join("agent.toml")).unwrap();
    sshd.pull(&[&source]).succeeds("unchanged");
}

#[test]
fn what_ssh_and_the_agent_log_is_heard_with_v() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = at_pi(&gym(&sandbox));
    assert_eq!(sshd.puller(&["pull", "-q", &source]).exits(0).stderr, "");
    let ran = sshd.puller(&["pull", "-v", &source]).exits(0);
    assert!(ran.stderr.contains("ssh to pi says"), "{ran}");
}

#[test]
fn the_owner_of_a_file_is_become_by_sudo() {
    let sandbox = Sandbox::new();
    if !privilege::is_root() || Command::new("sudo").arg("-V").output().is_err() {
        privilege::skip("`--sudo`", "this is not root, or there is no sudo");
        return;
    }
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    let agent = sandbox.file("the-agent");
    // The agent may lie where another user cannot go.
    assert!(Command::new("cp").arg(programs::agent()).arg(&agent).status().unwrap().success());
    privilege::set_mode(sandbox.file("db").parent().unwrap(), 0o711);
    privilege::give_to_nobody(&sandbox.file("db"));
    privilege::give_to_nobody(&source);
    let pulled = sshd.pull(&["--sudo", "--remote-agent", agent.to_str().unwrap(), &at_pi(&source)]);
    let pulled = pulled.succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
    assert_eq!(sshd.sshs().len(), 2);
    let user = format!("#{NOBODY}");
    sshd.pull(&["--sudo-user", &user, "--remote-agent", agent.to_str().unwrap(), &at_pi(&source)])
        .succeeds("unchanged");
    let missing = sshd.pull(&["--sudo", &at_pi(&sandbox.db("none.db"))]).fails("missing", 7);
    says(&missing, &["there is no such file"]);
}

#[test]
fn a_sudo_that_refuses_is_a_sentence_with_the_line_that_mends_it() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let source = gym(&sandbox);
    // As the real one without a line for this user; its words are all that counts.
    script(&sandbox.file("bin/sudo"), "echo 'sudo: a password is required' >&2\nexit 1");
    let failed = sshd.pull(&["--sudo-user", "gym", &at_pi(&source)]).fails("refused", 6);
    says(
        &failed,
        &["sudo: a password is required", "ALL=(gym) NOPASSWD: /usr/local/bin/pullback-agent stdio"],
    );
    if privilege::is_root() {
        privilege::give_to_nobody(&source);
        let failed = sshd.pull(&["--sudo", &at_pi(&source)]).fails("refused", 6);
        let agent = programs::agent().canonicalize().unwrap();
        says(&failed, &[&format!("#0 ALL=(#{NOBODY}) NOPASSWD: {} stdio", agent.display())]);
    }
}

#[test]
fn a_person_who_types_stdio_is_told_what_it_is_for() {
    let sandbox = Sandbox::new();
    let Ok(_) = Command::new("script").arg("--version").output() else {
        privilege::skip("`stdio` at a terminal", "there is no `script`");
        return;
    };
    let mut terminal = sandbox.command(Path::new("script"));
    let typed = format!("{} stdio", programs::agent().display());
    terminal.args(["-qec", &typed, "/dev/null"]);
    let ran = sandbox.run(&mut terminal).exits(2);
    assert!(ran.stdout.contains("talks to `puller` through ssh, not to a person"), "{ran}");
}

#[test]
fn an_agent_whose_stdin_is_no_pipe_ends_with_it() {
    let sandbox = Sandbox::new();
    let said = sandbox.file("said");
    let mut agent = sandbox.command(programs::agent());
    let mut running = agent.arg("stdio").stdout(fs::File::create(&said).unwrap()).spawn().unwrap();
    let status = sandbox::wait(&mut running, Duration::from_secs(20)).expect("it ends");
    assert!(status.success(), "{status}");
    assert!(fs::read(&said).unwrap().starts_with(b"\npullback-agent stdio 1 begins\n"));
}
