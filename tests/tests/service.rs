//! The agent as a service of systemd, on a booted machine of its own.

use pullback_tests::booted::Booted;
use pullback_tests::ledger::{self, Commit};
use pullback_tests::sandbox::{self, Sandbox};
use pullback_tests::{privilege, programs, typed};
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

/// The device and the workstation are one machine here, with a user for each.
#[test]
fn the_service_is_set_up_paired_and_taken_away_as_the_readme_types_it() {
    let Some(booted) = booted("the service as README.md types it") else { return };
    install(&booted);
    let typed: Vec<String> = typed::blocks(include_str!("../../README.md"))
        .into_iter()
        .filter(|block| block.section == "An agent that serves")
        .flat_map(|block| block.commands)
        .collect();
    let [init, pair, there, pull, stop, remove] = typed.as_slice() else { panic!("{typed:?}") };
    let before = booted.changed_files();
    booted.must("pi", init);
    assert_eq!(booted.must("pi", "systemctl is-active pullback-agent@pi").trim(), "active");
    let code = booted.must("pi", pair);
    assert!(!booted.journal().contains(code.trim()), "a code is in no log");
    booted.must("root", &there.replace("CODE", code.trim()));
    booted.must("root", pull);
    let copy = booted.must("root", "readlink -f .local/share/pullback/raspberry-pi/app/latest.db");
    check(&booted, copy.trim());
    // What the first command did is done, and what it says is looked after.
    let made = booted.changed_files();
    booted.must("pi", init);
    let again = booted.changed_files();
    assert_eq!(made, again, "typed twice it changes nothing");
    booted.must("pi", "pullback-agent doctor");
    assert!(booted.must("pi", "pullback-agent peers list").contains("raspberry-pi"));
    booted.must("pi", stop);
    booted.must("pi", remove);
    let ours = |file: &String| !file.starts_with("/root/") && !file.starts_with("/home/pi/gym/app.db");
    let [before, after] =
        [before, booted.changed_files()].map(|files| files.into_iter().filter(ours).collect::<Vec<_>>());
    assert_eq!(before, after, "nothing is left of it");
    booted.must("pi", "systemctl is-active writer");
}

/// A root whose files nobody else may read still sets up what another user runs.
#[test]
fn a_service_is_set_up_whatever_umask_root_has() {
    let Some(booted) = booted("a service set up under a strict umask") else { return };
    install(&booted);
    let init = "umask 077; /home/pi/.cargo/bin/pullback-agent init --service --database /home/pi/gym/app.db";
    booted.must("root", init);
    assert_eq!(booted.must("pi", "systemctl is-active pullback-agent@pi").trim(), "active");
    booted.must("pi", "pullback-agent pair");
}

#[test]
fn a_unit_whose_agent_hangs_is_started_anew_and_one_that_does_not_is_left_alone() {
    let Some(booted) = booted("the watchdog of the service") else { return };
    serve(&booted);
    booted.write(
        "/etc/systemd/system/pullback-agent@.service.d/soon.conf",
        "[Service]\nWatchdogSec=1\nRestartSec=0\n",
    );
    booted.must("root", "systemctl daemon-reload && systemctl restart pullback-agent@pi && sleep 3");
    let restarts = || booted.must("root", "systemctl show --value --property NRestarts pullback-agent@pi");
    assert_eq!(restarts().trim(), "0", "{}", booted.journal());
    booted.must("root", "systemctl kill --signal STOP pullback-agent@pi");
    booted.must("root", "until test $(systemctl show --value --property NRestarts pullback-agent@pi) != 0; do sleep 0.1; done");
    booted.must("root", "until systemctl is-active pullback-agent@pi; do sleep 0.1; done");
    pull(&booted, "full");
}

#[test]
fn what_the_shipped_unit_allows_is_enough_for_a_restore() {
    let Some(booted) = booted("a restore as a service may do it") else { return };
    serve(&booted);
    let pulled = pull(&booted, "full");
    booted.must("root", &format!("systemctl stop writer && mkdir gym && cp {pulled} copy.db && puller pull -q /root/copy.db --name gym"));
    let copy = check(&booted, &pulled);
    // Written into by SQLite; and set aside where SQLite cannot open it.
    booted.must("pi", "pullback-agent pair --role restore | puller pair");
    for (damage, option) in [("true", ""), ("rm -f gym/app.db-*; echo lost > gym/app.db", "--force")] {
        booted.must("pi", damage);
        booted.must("pi", &format!("puller restore raspberry-pi/app --in-place --yes {option}"));
        assert_eq!(check(&booted, "/home/pi/gym/app.db"), copy, "{}", booted.journal());
        assert_eq!(booted.must("root", "stat -c %U /home/pi/gym/app.db").trim(), "pi");
    }
    // A new file, which root gives to the folder's owner: the same code as the agent's, in a program that ends.
    let unit = shipped("pullback-agent@.service")
        .replace("Type=notify", "Type=oneshot")
        .replace("Restart=on-failure", "Restart=no");
    let (before, command) = unit.split_once("ExecStart=").expect("the unit runs something");
    let (_, after) = command.split_once('\n').expect("the unit has more lines");
    let restore = "/usr/local/bin/puller restore gym --to /root/gym/app.db --yes";
    booted.write("/etc/systemd/system/restore@.service", &format!("{before}ExecStart={restore}\n{after}"));
    booted.must("root", "systemctl daemon-reload && systemctl start restore@root");
    assert_eq!(check(&booted, "/root/gym/app.db"), copy, "{}", booted.journal());
    assert_eq!(booted.must("root", "stat -c %U /root/gym/app.db").trim(), "root");
}

/// Puts the programs where `cargo install` of `pi` puts them, and has an application of `pi` write to a database without pause.
#[track_caller]
fn install(booted: &Booted) {
    // The machine has no network; this is an address that others could reach.
    booted.must("root", "hostname raspberry-pi && ip address add 192.0.2.1/32 dev lo");
    booted.install(programs::agent(), "/home/pi/.cargo/bin/pullback-agent");
    booted.install(programs::puller(), "/usr/local/bin/puller");
    booted.install(&programs::hostile_writer(), "/usr/local/bin/hostile-writer");
    booted.must("pi", "mkdir gym");
    let writer = "exec hostile-writer gym/app.db --journal wal --pause-ms 2 > commits";
    booted.must(
        "root",
        &format!("systemd-run --uid pi --working-directory /home/pi --unit writer sh -c '{writer}'"),
    );
    booted.must("pi", "until test -s commits; do sleep 0.05; done");
}

/// Sets the service up and pairs `pi` with it.
#[track_caller]
fn serve(booted: &Booted) {
    install(booted);
    booted.must("pi", "sudo ~/.cargo/bin/pullback-agent init --service --database ~/gym/app.db");
    // A test's machine has its disk in memory.
    booted.must(
        "root",
        "sed -i '1i reserve = \"0\"' /etc/pullback/pi.toml && systemctl restart pullback-agent@pi",
    );
    booted.must("pi", "pullback-agent pair | puller pair");
}

/// Pulls the served database as `pi`, and tells where the new copy is inside.
#[track_caller]
fn pull(booted: &Booted, transfer: &str) -> String {
    let pulled = booted.must("pi", "puller pull --json raspberry-pi/app");
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
