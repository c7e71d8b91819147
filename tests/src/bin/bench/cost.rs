//! `cost`: a first copy, an incremental one and an unchanged source, beside `.backup` with `zstd -1` and with `rsync`.

use crate::figures::{Figures, bytes, ratio, seconds};
use crate::peers::{self, Copied, Then};
use crate::place::{Pull, Workshop};
use crate::source::{self, MB};
use crate::table::Table;
use std::path::Path;

/// How closely the puller looks at what it got, in the rows of the tables.
const VERIFY: [(&str, &str); 3] = [
    ("hash", "pull --verify hash: read back, equal, durable"),
    ("quick", "pull --verify quick: and SQLite's quick_check"),
    ("auto", "pull: and SQLite's integrity_check and foreign keys"),
];

/// The peers, with the options of `.backup`, and how many of their times are reported.
const PEERS: [(&str, &str, Then); 3] = [
    (".backup, then zstd -1", "", Then::Zstd),
    (".backup --async, then zstd -1", "--async", Then::Zstd),
    (".backup, then rsync", "", Then::Rsync),
];

/// The kinds of pulls after one another in one place.
const KINDS: [&str; 3] = ["first copy", "1,000 updates", "unchanged"];

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    let mut pulls: [[PullFigures; 3]; 3] = Default::default();
    let mut copies: [CopyFigures; 3] = Default::default();
    for round in 1..=runs {
        eprintln!("cost: round {round} of {runs}");
        for (figures, (verify, _)) in pulls.iter_mut().zip(VERIFY) {
            for (figures, pull) in figures.iter_mut().zip(three_pulls(workshop, &database, verify)) {
                figures.push(&pull);
            }
            // Peers in between, so that what slows the machine down for a while slows all of them.
            if verify != "auto" {
                let (figures, (_, options, then)) = match verify {
                    "hash" => (&mut copies[0], PEERS[0]),
                    _ => (&mut copies[1], PEERS[1]),
                };
                figures.push(&peers::copy(&database, &workshop.file(""), options, then));
            }
        }
        copies[2].push(&peers::copy(&database, &workshop.file(""), PEERS[2].1, PEERS[2].2));
    }
    print(&database, &pulls, &copies);
    workshop.done_with(&database);
}

fn three_pulls(workshop: &Workshop, database: &Path, verify: &str) -> [Pull; 3] {
    let place = workshop.place();
    let first = place.pull(database, verify, "stored");
    workshop.update_members(database);
    let updates = place.pull(database, verify, "stored");
    [first, updates, place.pull(database, verify, "unchanged")]
}

fn print(database: &Path, pulls: &[[PullFigures; 3]; 3], copies: &[CopyFigures; 3]) {
    let size = std::fs::metadata(database).expect("a database has a size").len();
    let title = format!(
        "first copy of a gym of {}, over loopback, to another file on the same disk ({}, {}, {})",
        bytes(size as f64),
        peers::version("sqlite3"),
        peers::version("zstd"),
        peers::version("rsync"),
    );
    let base = &copies[0].durable;
    let mut table = Table::new(
        title,
        &[
            "",
            "seconds",
            "÷ .backup + zstd -1, durable",
            "CPU s, agent",
            "CPU s, puller or peer",
            "bytes sent",
        ],
    );
    for (figures, (_, name)) in pulls.iter().zip(VERIFY) {
        let first = &figures[0];
        table.row([
            name.to_owned(),
            first.wall.spread(seconds),
            first.wall.by(base).spread(ratio),
            first.agent_cpu.middle(seconds),
            first.puller_cpu.middle(seconds),
            first.received.middle(bytes),
        ]);
    }
    for (figures, (name, ..)) in copies.iter().zip(PEERS) {
        for (wall, what) in [(&figures.wall, "as typed"), (&figures.durable, "result fsynced")] {
            table.row([
                format!("{name}: {what}"),
                wall.spread(seconds),
                wall.by(base).spread(ratio),
                "-".to_owned(),
                figures.cpu.middle(seconds),
                figures.bytes.middle(bytes),
            ]);
        }
    }
    table.print();
    for (figures, (_, name)) in pulls.iter().zip(VERIFY) {
        let mut table = Table::new(
            format!("one after the other: {name}; what the agent wrote has its log in it"),
            &[
                "",
                "seconds",
                "source held s",
                "CPU s, agent",
                "CPU s, puller",
                "received",
                "sent",
                "agent: disk writes",
                "agent: wchar",
            ],
        );
        for (figures, kind) in figures.iter().zip(KINDS) {
            table.row([
                kind.to_owned(),
                figures.wall.spread(seconds),
                figures.held.middle(|held| format!("{held:.3}")),
                figures.agent_cpu.middle(seconds),
                figures.puller_cpu.middle(seconds),
                figures.received.middle(bytes),
                figures.sent.middle(bytes),
                figures.disk.middle(bytes),
                figures.wchar.middle(bytes),
            ]);
        }
        table.print();
    }
}

#[derive(Default)]
struct PullFigures {
    wall: Figures,
    held: Figures,
    agent_cpu: Figures,
    puller_cpu: Figures,
    received: Figures,
    sent: Figures,
    disk: Figures,
    wchar: Figures,
}

impl PullFigures {
    fn push(&mut self, pull: &Pull) {
        self.wall.push(Some(pull.puller.seconds));
        self.held.push(pull.figure("held_seconds"));
        self.agent_cpu.push(pull.agent.cpu_seconds);
        self.puller_cpu.push(pull.puller.cpu_seconds);
        self.received.push(pull.figure("bytes_received"));
        self.sent.push(pull.figure("bytes_sent"));
        self.disk.push(pull.agent.disk_bytes);
        self.wchar.push(pull.agent.write_bytes);
    }
}

#[derive(Default)]
struct CopyFigures {
    wall: Figures,
    durable: Figures,
    cpu: Figures,
    bytes: Figures,
}

impl CopyFigures {
    fn push(&mut self, copied: &Copied) {
        self.wall.push(copied.seconds);
        self.durable.push(copied.durable_seconds);
        self.cpu.push(copied.cpu_seconds);
        self.bytes.push(copied.bytes);
    }
}
