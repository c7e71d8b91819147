//! `latency`: what the commits of a writer take, quiet and while pulls go on, in turn.

use crate::figures::quantile;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::dice::Dice;
use rusqlite::{Connection, params};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between the beginnings of two commits: 200 a second.
const COMMIT_EVERY: Duration = Duration::from_millis(5);

/// How long each half of a round lasts, at least.
const HALF: Duration = Duration::from_secs(5);

/// How long the writer waits for a lock.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// What is aimed at in WAL mode: the pooled p99 with pulls by that without.
const GOAL: f64 = 1.25;

/// Measures `rounds` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, rounds: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    let title = format!(
        "a writer's commit in microseconds, {} a second, {rounds} rounds of quiet and pulls \
         (WAL: goal for p99 with pulls ÷ quiet: at most {GOAL}, pooled)",
        1000 / COMMIT_EVERY.as_millis()
    );
    let head = ["", "commits", "p50", "p99", "most", "p99 of each round", "pulls", "p99 ÷ quiet, pooled"];
    let mut table = Table::new(title, &head);
    for journal in ["wal", "delete"] {
        let (quiet, pulls, count) = interleave(workshop, &database, journal, rounds);
        let (quiet, pulls) = (Latencies::of(quiet), Latencies::of(pulls));
        let ratio = pulls.p99() / quiet.p99();
        table.row(quiet.row(&format!("{journal}, quiet"), String::new(), String::new()));
        table.row(pulls.row(&format!("{journal}, pulls"), count.to_string(), format!("{ratio:.2}")));
    }
    set_journal(&database, "wal");
    table.print();
    workshop.done_with(&database);
}

/// Latencies in microseconds, round by round, without and with pulls, and the number of pulls.
fn interleave(
    workshop: &Workshop,
    database: &Path,
    journal: &str,
    rounds: usize,
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>, usize) {
    set_journal(database, journal);
    let place = workshop.place();
    let agent = place.serve(database);
    place.pull_from(&agent, "hash");
    let (mut quiet, mut with_pulls, mut pulls) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        eprintln!("latency: {journal}, round {} of {rounds}", round + 1);
        let seed = 2 * round as u64;
        quiet.push(while_it_lasts(database, seed, || std::thread::sleep(HALF)));
        with_pulls.push(while_it_lasts(database, seed + 1, || {
            let began = Instant::now();
            while began.elapsed() < HALF {
                place.pull_from(&agent, "hash");
                pulls += 1;
            }
        }));
    }
    (quiet, with_pulls, pulls)
}

/// Has a writer commit in another thread for as long as `meanwhile` runs, and tells how long each commit took. A commit is
/// due at its time, whether or not the one before was late.
pub(crate) fn while_it_lasts(database: &Path, seed: u64, meanwhile: impl FnOnce()) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(database, seed, &stop));
        meanwhile();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer does not panic")
    })
}

fn write(database: &Path, seed: u64, stop: &AtomicBool) -> Vec<f64> {
    let db = Connection::open(database).expect("a gym can be opened");
    db.busy_timeout(LOCK_WAIT).expect("a time to wait can be set");
    db.execute_batch("PRAGMA synchronous = NORMAL").expect("settings can be made");
    let members: i64 =
        db.query_row("SELECT max(id) FROM members", [], |row| row.get(0)).expect("members can be counted");
    let mut update = db
        .prepare("UPDATE members SET joined_at = datetime(?2, 'unixepoch') WHERE id = ?1")
        .expect("a statement can be prepared");
    let mut dice = Dice::new(seed);
    let mut latencies = Vec::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        due += COMMIT_EVERY;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (id, at) = (dice.between(0, members) + 1, dice.between(1_735_689_600, 2_000_000_000));
        let began = Instant::now();
        update.execute(params![id, at]).expect("a member can be updated");
        latencies.push(began.elapsed().as_secs_f64() * 1e6);
        // After a long wait, what was due meanwhile is left out.
        due = due.max(Instant::now().checked_sub(COMMIT_EVERY).unwrap_or(due));
    }
    latencies
}

fn set_journal(database: &Path, journal: &str) {
    let db = Connection::open(database).expect("a gym can be opened");
    let found: String = db
        .query_row(&format!("PRAGMA journal_mode = {journal}"), [], |row| row.get(0))
        .expect("the journal mode can be set");
    assert_eq!(found, journal, "the journal mode that SQLite grants");
}

struct Latencies {
    /// p99 of each round, in order of size.
    rounds: Vec<f64>,
    /// Of all rounds, in order of size.
    pooled: Vec<f64>,
}

impl Latencies {
    fn of(mut rounds: Vec<Vec<f64>>) -> Self {
        rounds.iter_mut().for_each(|round| round.sort_by(f64::total_cmp));
        let mut pooled: Vec<f64> = rounds.iter().flatten().copied().collect();
        pooled.sort_by(f64::total_cmp);
        let mut rounds: Vec<f64> = rounds.iter().map(|round| quantile(round, 0.99)).collect();
        rounds.sort_by(f64::total_cmp);
        Self { rounds, pooled }
    }

    fn p99(&self) -> f64 {
        quantile(&self.pooled, 0.99)
    }

    fn row(&self, name: &str, pulls: String, ratio: String) -> [String; 8] {
        let spread = |share| quantile(&self.rounds, share);
        [
            name.to_owned(),
            self.pooled.len().to_string(),
            format!("{:.0}", quantile(&self.pooled, 0.5)),
            format!("{:.0}", self.p99()),
            format!("{:.0}", quantile(&self.pooled, 1.0)),
            format!("{:.0} ({:.0} to {:.0})", spread(0.5), spread(0.0), spread(1.0)),
            pulls,
            ratio,
        ]
    }
}
