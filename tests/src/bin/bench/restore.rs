//! What a restore takes: a new file and a database in place here, beside `cp`; and a database in place behind ssh, while an
//! application writes to it.

use crate::figures::{Figures, bytes, ratio, seconds};
use crate::meter;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::programs;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::sshd::Sshd;
use rusqlite::Connection;
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes both ways that a restore of 1,000 changed rows is to stay under.
const WIRE_GOAL: f64 = 5.0 * MB as f64;

/// Between two commits of the application behind ssh.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    here(workshop, &database, runs);
    there(workshop, &database, runs);
    workshop.done_with(&database);
}

/// A new file, and in place, on this machine.
fn here(workshop: &Workshop, database: &Path, runs: usize) {
    let sandbox = Sandbox::new_in(&workshop.file(""));
    let (live, new, copied) = (sandbox.file("gym.db"), sandbox.file("new.db"), sandbox.file("copied.db"));
    fs::copy(database, &live).expect("a database can be copied");
    sandbox.pull(&["--verify", "quick", &live.to_string_lossy()]).succeeds("stored");
    let newest = sandbox.puller(&["list", "--json", &live.to_string_lossy()]).exits(0);
    let newest = newest.json().last().expect("there is a copy")["path"].as_str().map(str::to_owned);
    let newest = newest.expect("a copy has a path");
    let size = bytes(fs::metadata(&live).expect("a database has a size").len() as f64);
    let head = ["", "cp, durable", "new file", "÷", "in place", "÷", "of it held"];
    let mut table = Table::new(format!("restore of {size} here"), &head);
    let (mut by_new, mut by_place) = (Figures::default(), Figures::default());
    for round in 1..=runs {
        eprintln!("restore: round {round} of {runs}");
        let mut cp = Command::new("cp");
        let cp = timed(cp.arg("--reflink=never").arg(&newest).arg(&copied), Some(&copied));
        let restore = |to: &[&str]| {
            let mut puller = sandbox.command(programs::puller());
            puller.arg("--store").arg(sandbox.store()).args(["--json", "restore"]).arg(&live).args(to);
            puller
        };
        let to_new = timed(&mut restore(&["--to", &new.to_string_lossy()]), Some(&new));
        workshop.update_members(&live);
        let _application = source::application(&live);
        let in_place = timed(&mut restore(&["--in-place", "--yes", "latest"]), None);
        let of = |of: &Took| Some(of.seconds / cp.seconds);
        by_new.push(of(&to_new));
        by_place.push(of(&in_place));
        table.row([
            format!("round {round}"),
            seconds(cp.seconds),
            seconds(to_new.seconds),
            ratio(to_new.seconds / cp.seconds),
            seconds(in_place.seconds),
            ratio(in_place.seconds / cp.seconds),
            seconds(in_place.report["held_seconds"].as_f64().unwrap_or_default()),
        ]);
    }
    table.print();
    println!("  new file ÷ cp {}, in place ÷ cp {}", by_new.spread(ratio), by_place.spread(ratio));
}

/// In place behind ssh, where an application commits ten times a second.
fn there(workshop: &Workshop, database: &Path, runs: usize) {
    let sandbox = Sandbox::new_in(&workshop.file(""));
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    let folder = sandbox.file("home/.config/pullback");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("agent.toml"), "reserve = \"0\"\nallow_restore = true\n").expect("a configuration");
    let live = sandbox.file("gym.db");
    fs::copy(database, &live).expect("a database can be copied");
    let far = format!("pi:{}", live.display());
    let pulled = timed(&mut sshd.command(&["pull", "--json", "--verify", "quick", &far]), None);
    let size = bytes(fs::metadata(&live).expect("a database has a size").len() as f64);
    let head = ["", "sent", "received", "seconds", "of it held", "commits meanwhile"];
    let mut table = Table::new(
        format!("restore of {size} in place behind ssh, after 1,000 random members were updated"),
        &head,
    );
    table.row([
        "first copy (a pull)".to_owned(),
        bytes(pulled.report["bytes_sent"].as_f64().unwrap_or_default()),
        bytes(pulled.report["bytes_received"].as_f64().unwrap_or_default()),
        seconds(pulled.seconds),
        "-".to_owned(),
        "-".to_owned(),
    ]);
    let copy = pulled.report["copy"].as_str().expect("a pull stores a copy").to_owned();
    let mut most = 0.0f64;
    for round in 1..=runs {
        eprintln!("restore behind ssh: round {round} of {runs}");
        workshop.update_members(&live);
        let done = AtomicBool::new(false);
        let (took, commits) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_until(&live, &done));
            let took =
                timed(&mut sshd.command(&["restore", "--json", &far, &copy, "--in-place", "--yes"]), None);
            done.store(true, Ordering::Relaxed);
            (took, writer.join().expect("the application ends"))
        });
        let number = |field: &str| took.report[field].as_f64().unwrap_or_default();
        most = most.max(number("bytes_sent") + number("bytes_received"));
        table.row([
            format!("round {round}"),
            bytes(number("bytes_sent")),
            bytes(number("bytes_received")),
            seconds(took.seconds),
            seconds(number("held_seconds")),
            commits.to_string(),
        ]);
    }
    table.print();
    let met = if most < WIRE_GOAL { "met" } else { "missed" };
    println!("  at most {} on the wire, goal {}: {met}", bytes(most), bytes(WIRE_GOAL));
}

/// Commits to `database` until it is `done`, as an application that waits for locks; how often it did.
fn write_until(database: &Path, done: &AtomicBool) -> u64 {
    let db = Connection::open(database).expect("a gym can be opened");
    db.busy_timeout(Duration::from_secs(600)).expect("a wait can be set");
    let mut commits: i64 = 0;
    while !done.load(Ordering::Relaxed) {
        commits += 1;
        db.execute("UPDATE members SET joined_at = datetime('now') WHERE id = ?1", [commits % 1000 + 1])
            .expect("a member can be updated whatever is restored");
        std::thread::sleep(COMMIT_EVERY);
    }
    commits.cast_unsigned()
}

struct Took {
    seconds: f64,
    report: Value,
}

/// Runs `command` to its end, and until `file` is on the disk, which goes again.
fn timed(command: &mut Command, file: Option<&Path>) -> Took {
    rustix::fs::sync();
    let began = Instant::now();
    let ran = meter::run(command.stderr(Stdio::null())).expect("a command can be run");
    assert!(ran.status.success(), "{command:?} ended with {}: {}", ran.status, ran.stdout);
    if let Some(file) = file {
        File::open(file).and_then(|file| file.sync_all()).expect("a file can be synced");
    }
    let seconds = began.elapsed().as_secs_f64();
    if let Some(file) = file {
        fs::remove_file(file).expect("a file can be removed");
    }
    Took { seconds, report: serde_json::from_str(ran.stdout.trim()).unwrap_or_default() }
}
