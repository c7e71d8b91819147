//! `fleet`: many agents, each with a small gym, pulled by one puller with `--all --jobs N`.

use crate::figures::{Figures, mebibytes, seconds};
use crate::meter;
use crate::place::Workshop;
use crate::table::Table;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use pullback_tests::{databases, programs};
use rusqlite::Connection;
use std::path::PathBuf;

/// Of each database.
const DATABASE_BYTES: u64 = 1_000_000;

/// Figures of one kind of round.
#[derive(Default)]
struct Sums {
    seconds: Figures,
    cpu_seconds: Figures,
    peak_bytes: Figures,
    open_files: Figures,
}

/// Measures `runs` rounds with `agents` agents of which `jobs` are pulled from at once.
pub(crate) fn run(workshop: &Workshop, agents: usize, jobs: usize, runs: usize) {
    let gym = workshop.database("fleet", |path| databases::gym(path, DATABASE_BYTES, 4096));
    let (mut first, mut changed, mut unchanged) = (Sums::default(), Sums::default(), Sums::default());
    for round in 1..=runs {
        eprintln!("fleet: round {round} of {runs}");
        let homes: Vec<Sandbox> = (0..agents).map(|_| Sandbox::new_in(&workshop.file(""))).collect();
        let edges: Vec<(PathBuf, Served<'_>)> = homes.iter().map(|home| edge(home, &gym)).collect();
        let puller = Sandbox::new_in(&workshop.file(""));
        let config: String = edges
            .iter()
            .enumerate()
            .map(|(number, (_, agent))| {
                format!("[source.edge{number}]\naddress = \"{}\"\n", agent.source("gym"))
            })
            .collect();
        std::fs::write(puller.file("puller.toml"), config).expect("a configuration can be written");
        first.push(&pull(&puller, jobs));
        for (path, _) in &edges {
            let db = Connection::open(path).expect("a gym can be opened");
            db.execute_batch("UPDATE members SET name = name || '.' WHERE id <= 10")
                .expect("members can change");
        }
        changed.push(&pull(&puller, jobs));
        unchanged.push(&pull(&puller, jobs));
    }
    let title = format!(
        "one puller, {agents} agents on loopback with a gym of {} MB each, {jobs} pulled from at once",
        DATABASE_BYTES / 1_000_000
    );
    let mut table = Table::new(
        title,
        &["", "seconds", "CPU seconds of the puller", "its peak memory, MiB", "its open files"],
    );
    for (name, sums) in [("first copies", first), ("10 rows changed", changed), ("unchanged", unchanged)] {
        table.row([
            name.to_owned(),
            sums.seconds.spread(seconds),
            sums.cpu_seconds.spread(seconds),
            sums.peak_bytes.spread(mebibytes),
            sums.open_files.spread(|files| format!("{files:.0}")),
        ]);
    }
    table.print();
}

fn edge<'a>(home: &'a Sandbox, gym: &PathBuf) -> (PathBuf, Served<'a>) {
    let path = home.db("gym.db");
    std::fs::copy(gym, &path).expect("a database that nobody uses can be copied");
    let served = Served::start(home, &[("gym", &path)]);
    (path, served)
}

fn pull(sandbox: &Sandbox, jobs: usize) -> meter::Run {
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).arg("--config").arg(sandbox.file("puller.toml"));
    command.args(["pull", "--all", "-q", "--retries", "0", "--jobs", &jobs.to_string()]);
    let run = meter::run(&mut command).expect("puller can be started");
    assert!(run.status.success(), "a pull failed: {}", run.stdout);
    run
}

impl Sums {
    fn push(&mut self, run: &meter::Run) {
        self.seconds.push(Some(run.seconds));
        self.cpu_seconds.push(run.cpu_seconds);
        self.peak_bytes.push(run.peak_bytes);
        self.open_files.push(run.open_files);
    }
}
