//! The agent as a service of systemd, on a booted machine of its own.

use pullback_tests::booted::Booted;
use pullback_tests::privilege;
use std::fs;
use std::path::{Path, PathBuf};

/// A booted machine; where there cannot be one, says that `what` was not shown.
fn booted(what: &str) -> Option<Booted> {
    Booted::start().map_err(|why| privilege::skip(what, &why)).ok()
}

#[test]
fn a_booted_machine_runs_services_tells_what_was_written_and_leaves_nothing() {
    let Some(booted) = booted("a booted machine") else { return };
    assert_eq!(booted.changed_files(), [String::new(); 0], "nothing is changed by the boot");
    let unit = "[Service]\nType=notify\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'\n\
                NotifyAccess=all\nStateDirectory=little\n[Install]\nWantedBy=multi-user.target\n";
    fs::write(booted.file("/etc/systemd/system/little.service"), unit).expect("a unit can be written");
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
    let init = booted.init();
    let group = control_group(init);
    assert!(group.iter().any(|folder| folder.is_dir()), "it runs in a control group of its own: {group:?}");
    drop(booted);
    assert!(!Path::new(&format!("/proc/{init}")).exists(), "it has ended");
    assert!(!group.iter().any(|folder| folder.exists()), "{group:?} is gone");
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
