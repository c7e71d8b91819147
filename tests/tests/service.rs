//! The agent as a service of systemd, on a booted machine of its own.

use pullback_tests::booted::Booted;
use pullback_tests::ledger::{self, Commit};
use pullback_tests::sandbox::{self, Sandbox};
use pullback_tests::{privilege, programs};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is shipped.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// The highest score that the unit may have, tenfold, as `systemd-analyze` takes it: 0 is safe and 100 exposed to all.
const EXPOSURE_MAX: &str = "20";
/// The numbers that Linux gives to these capabilities.
const CAP_SYS_MODULE: u32 = 16;
const CAP_SYS_TIME: u32 = 25;

/// A booted machine; where there cannot be one, says that `what` was not shown.
fn booted(what: &str) -> Option<Booted> {
    Booted::start().map_err(|why| privilege::skip(what, &why)).ok()
}

#[test]
fn a_booted_machine_runs_services_tells_what_was_written_and_leaves_nothing() {
    let Some(booted) = booted("a booted machine") else { return };
    assert_eq!(booted.changed_files(), Vec::<String>::new(), "nothing is changed by the boot");
    let unit = "[Service]\nType=notify\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'\n\
                NotifyAccess=all\nStateDirectory=little\n[Install]\nWantedBy=multi-user.target\n";
    booted.write("/etc/systemd/system/little.service", unit);
    booted.must("pi", "sudo systemctl enable --now little");
    assert_eq!(booted.must("pi", "systemctl is-active little").trim(), "active");
    assert!(booted.journal().contains("Started little.service"), "{}", booted.journal());
    let changed = booted.changed_files();
    assert_eq!(
        changed,
        [
            "/etc/systemd/system/little.service",
            "/etc/systemd/system/multi-user.target.wants/",
            "/etc/systemd/system/multi-user.target.wants/little.service",
            "/var/lib/little/",
        ]
    );
    assert!(!Path::new("/etc/systemd/system/little.service").exists(), "nothing is written here");
    // Root there is no root of the machine itself.
    booted.must("root", "test ! -w /proc/sys/kernel/printk && test ! -w /sys/kernel");
    let bounds = booted.must("root", "grep CapBnd /proc/self/status");
    let bounds = bounds.split_whitespace().last().map(|bits| u64::from_str_radix(bits, 16));
    let bounds = bounds.expect("a line has words").expect("capabilities are bits");
    assert_eq!(bounds & (1 << CAP_SYS_MODULE | 1 << CAP_SYS_TIME), 0, "{bounds:x}");
    let init = booted.init();
    let group = control_group(init);
    assert!(group.iter().any(|folder| folder.is_dir()), "it runs in a control group of its own: {group:?}");
    drop(booted);
    assert!(!Path::new(&format!("/proc/{init}")).exists(), "it has ended");
    assert!(!group.iter().any(|folder| folder.exists()), "{group:?} is gone");
}

#[test]
fn the_shipped_unit_is_exposed_to_little() {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=yes", "--no-pager", "--threshold", EXPOSURE_MAX]);
    match command.arg(format!("{DEPLOY}/pullback-agent@.service")).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => privilege::skip("the exposure of the unit", "there is no `systemd-analyze`"),
    }
}

#[test]
fn under_the_shipped_unit_a_database_in_wal_mode_is_pulled_while_its_owner_writes() {
    let Some(booted) = booted("the agent as a service") else { return };
    serve(&booted);
    booted.must("root", "systemd-analyze verify pullback-agent@pi.service");
    assert_eq!(booted.must("pi", "systemctl is-active pullback-agent@pi").trim(), "active");
    let mut newest = 0;
    for transfer in ["full", "delta"] {
        let copy = check(&booted, &pull(&booted, transfer));
        assert!(copy.seq > newest, "{copy} is newer than {newest}");
        newest = copy.seq;
        let made = || fs::read_to_string(booted.file("/home/pi/commits")).expect("commits can be read");
        sandbox::wait_until("the writer's word of it", || {
            made().lines().filter_map(Commit::from_line).any(|commit| commit == copy)
        });
        // The agent was in the writer's `-shm`, and left it to the writer.
        booted.must("pi", "test -O gym/app.db-wal && test -O gym/app.db-shm && systemctl is-active writer");
    }
    // Nobody has it open, and what SQLite needs beside it for reading is made by the agent, as the owner's.
    booted.must("root", "systemctl stop writer && rm /home/pi/gym/app.db-shm");
    assert!(check(&booted, &pull(&booted, "delta")).seq > newest);
    booted.must("pi", "sudo systemctl stop pullback-agent@pi");
    let result = booted.must("pi", "systemctl show --value --property Result pullback-agent@pi");
    assert_eq!(result.trim(), "success", "{}", booted.journal());
    let folders = ["/etc/", "/home/pi/", "/usr/local/bin/", "/var/lib/pullback/"];
    for file in booted.changed_files() {
        assert!(folders.iter().any(|folder| file.starts_with(folder)), "`{file}` is none of ours");
    }
}

#[test]
fn what_the_shipped_unit_allows_is_enough_for_a_restore() {
    let Some(booted) = booted("a restore as a service may do it") else { return };
    serve(&booted);
    let pulled = pull(&booted, "full");
    booted.must("root", &format!("systemctl stop writer && mkdir gym && cp {pulled} copy.db && puller pull -q /root/copy.db --name gym"));
    let copy = check(&booted, &pulled);
    // The same code as the agent's, in a program that ends.
    let unit = shipped("pullback-agent@.service")
        .replace("Type=notify", "Type=oneshot")
        .replace("Restart=on-failure", "Restart=no");
    let (before, command) = unit.split_once("ExecStart=").expect("the unit runs something");
    let (_, after) = command.split_once('\n').expect("the unit has more lines");
    // Written into by SQLite; set aside where SQLite cannot open it; and a new file, which root gives to the folder's owner.
    for (user, home, damage, option) in [
        ("pi", "/home/pi", "true", ""),
        ("pi", "/home/pi", "rm gym/app.db-*; echo lost > gym/app.db", "--force"),
        ("root", "/root", "true", ""),
    ] {
        let restore = format!("/usr/local/bin/puller restore gym --to {home}/gym/app.db --yes {option}");
        let unit = format!("{before}ExecStart={restore}\n{after}");
        booted.write("/etc/systemd/system/restore@.service", &unit);
        booted.must(user, damage);
        booted.must("root", &format!("systemctl daemon-reload && systemctl start restore@{user}"));
        assert_eq!(check(&booted, &format!("{home}/gym/app.db")), copy, "{}", booted.journal());
        assert_eq!(booted.must("root", &format!("stat -c %U {home}/gym/app.db")).trim(), user);
    }
}

/// Does what the head of the unit says, for the user `pi` and its database of that name in `deploy/agent.toml`, which an
/// application of the same user writes to without pause.
#[track_caller]
fn serve(booted: &Booted) {
    for (program, name) in [
        (programs::agent().to_owned(), "pullback-agent"),
        (programs::puller().to_owned(), "puller"),
        (programs::hostile_writer(), "hostile-writer"),
    ] {
        booted.install(&program, &format!("/usr/local/bin/{name}"));
    }
    // A test's machine has its disk in memory.
    let config =
        "state_dir = \"/var/lib/pullback/pi\"\nreserve = \"0\"\n".to_owned() + &shipped("agent.toml");
    booted.write("/etc/pullback/pi.toml", &config);
    booted.write("/etc/systemd/system/pullback-agent@.service", &shipped("pullback-agent@.service"));
    booted.must("pi", "mkdir gym");
    let writer = "exec hostile-writer gym/app.db --journal wal --pause-ms 2 > commits";
    booted.must(
        "root",
        &format!("systemd-run --uid pi --working-directory /home/pi --unit writer sh -c '{writer}'"),
    );
    booted.must("pi", "until test -s commits; do sleep 0.05; done");
    booted.must("pi", "sudo systemctl enable --now pullback-agent@pi");
}

/// Pulls the served database as `pi`, and tells where the new copy is inside.
#[track_caller]
fn pull(booted: &Booted, transfer: &str) -> String {
    let pulled = booted.must("pi", "puller pull --json 127.0.0.1:7420/gym");
    let pulled: Value = serde_json::from_str(pulled.trim()).expect("a pull tells JSON");
    assert_eq!((&pulled["outcome"], &pulled["transfer"]), (&"stored".into(), &transfer.into()), "{pulled}");
    pulled["path"].as_str().expect("a copy has a path").to_owned()
}

/// Proves the database at `path` inside, which nobody writes to, as [`ledger::check`] does, and tells its newest commit.
#[track_caller]
fn check(booted: &Booted, path: &str) -> Commit {
    let outside = Sandbox::new();
    for suffix in ["", "-wal"] {
        let inside = booted.file(&format!("{path}{suffix}"));
        if inside.exists() {
            fs::copy(inside, outside.file(&format!("app.db{suffix}"))).expect("a file can be copied");
        }
    }
    ledger::check(&outside.file("app.db"))
}

/// What is shipped as `name`.
fn shipped(name: &str) -> String {
    fs::read_to_string(format!("{DEPLOY}/{name}")).expect("it is shipped")
}

/// Where the control group of the machine whose first process is `init` may be found, for each mount of them.
fn control_group(init: u32) -> Vec<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{init}/cgroup")).expect("a process has control groups");
    let name = groups.lines().find_map(|line| line.strip_prefix("0::/")?.split('/').next());
    let name = name.expect("a process has a control group");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts can be listed");
    let mounts = mounts.lines().filter(|mount| mount.contains(" - cgroup2 "));
    mounts.map(|mount| Path::new(mount.split(' ').nth(4).expect("a mount has a place")).join(name)).collect()
}
