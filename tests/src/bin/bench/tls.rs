//! `tls`: a first copy and one after updates from an agent that serves, with mutual TLS and in plaintext, and what a
//! handshake takes.

use crate::figures::{Figures, bytes, ratio, seconds};
use crate::meter;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::programs;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::{Served, config_file};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// The rows of the tables: whether there is TLS, and the agent's lines of configuration. Each with TLS is held against the
/// one before it.
const WAYS: [(&str, bool, &str); 4] = [
    ("plaintext", false, ""),
    ("mutual TLS", true, ""),
    ("plaintext, compression = \"none\"", false, "compression = \"none\""),
    ("mutual TLS, compression = \"none\"", true, "compression = \"none\""),
];

/// What is to be reached: a first copy with TLS is to come at least this many times as fast as one without.
const GOAL: &str = "goal 0.60";

#[derive(Default)]
struct Sums {
    seconds: Figures,
    cpu_here: Figures,
    cpu_there: Figures,
    received: Figures,
}

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    let mut sums: [[Sums; WAYS.len()]; 2] = Default::default();
    let mut handshake = String::new();
    for round in 1..=runs {
        for (number, (name, tls, lines)) in WAYS.iter().enumerate() {
            eprintln!("tls: round {round} of {runs}, {name}");
            let sandbox = Sandbox::new_in(&workshop.file(""));
            let (served, far) = serve(&sandbox, &database, *tls, lines);
            for sums in &mut sums {
                pull(&sandbox, &served, &far, &mut sums[number]);
                workshop.update_members(&database);
            }
            if *tls {
                handshake = greeted(&sandbox, &far);
            }
        }
    }
    let size = bytes(fs::metadata(&database).expect("a database has a size").len() as f64);
    print(&format!("first copy of a gym of {size} over loopback, pull --verify hash"), &sums[0], GOAL);
    print("the same after 1,000 random members were updated", &sums[1], "");
    println!("a handshake: {handshake}");
    workshop.done_with(&database);
}

/// Serves `database`; how the puller spells it.
fn serve<'a>(sandbox: &'a Sandbox, database: &Path, tls: bool, lines: &str) -> (Served<'a>, String) {
    let databases = [("gym", database)];
    if !tls {
        let served = Served::start_with(sandbox, &databases, lines);
        let far = served.source("gym");
        return (served, far);
    }
    let command = sandbox.command(programs::agent());
    let served = Served::start_with_tls(sandbox, &databases, lines, command);
    let config = config_file(sandbox);
    let code = sandbox.agent(&[Path::new("pair"), Path::new("--config"), &config]).exits(0);
    sandbox.puller(&["pair", code.stdout.trim(), "--name", "pi"]).exits(0);
    (served, "pi/gym".to_owned())
}

fn pull(sandbox: &Sandbox, served: &Served<'_>, far: &str, sums: &mut Sums) {
    let mut command = sandbox.command(programs::puller());
    command.args(["pull", "--json", "--verify", "hash", "--keep-last", "2", far]);
    rustix::fs::sync();
    let there_before = meter::cpu_at_rest(served.pid());
    let ran = meter::run(command.stderr(Stdio::null())).expect("a puller can be run");
    assert!(ran.status.success(), "{far} could not be pulled");
    let report: Value = serde_json::from_str(ran.stdout.trim()).expect("a report is JSON");
    assert_eq!(report["outcome"], "stored");
    let there = meter::cpu_at_rest(served.pid());
    sums.seconds.push(Some(ran.seconds));
    sums.cpu_here.push(ran.cpu_seconds);
    sums.cpu_there.push(there.zip(there_before).map(|(now, before)| now - before));
    sums.received.push(report["bytes_received"].as_f64());
}

/// What the puller logs of its handshake.
fn greeted(sandbox: &Sandbox, far: &str) -> String {
    let ran = sandbox.puller(&["-v", "info", far]).exits(0);
    let said = ran.stderr.lines().find_map(|line| line.split_once("the handshake is done "));
    said.map_or_else(|| "nothing is said of it".to_owned(), |(_, figures)| figures.to_owned())
}

fn print(title: &str, sums: &[Sums], goal: &str) {
    let head = ["", "seconds", "throughput ÷ plaintext's", "CPU s, puller", "CPU s, agent", "received"];
    let mut table = Table::new(title, &head);
    for (number, (sum, (name, tls, _))) in sums.iter().zip(WAYS).enumerate() {
        let by = tls.then(|| sums[number - 1].seconds.by(&sum.seconds).spread(ratio));
        table.row([
            name.to_owned(),
            sum.seconds.spread(seconds),
            by.map_or("1".to_owned(), |by| format!("{by} {goal}").trim().to_owned()),
            sum.cpu_here.middle(seconds),
            sum.cpu_there.middle(seconds),
            sum.received.middle(bytes),
        ]);
    }
    table.print();
}
