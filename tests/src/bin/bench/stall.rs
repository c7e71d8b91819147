//! `stall`: a puller that stands still for a minute in its first copy, and what a writer notices of it.

use crate::figures::{Figures, bytes, quantile, ratio};
use crate::latency::while_it_lasts;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::relay::Relay;
use pullback_tests::room;
use pullback_tests::sandbox::wait_until;
use std::path::Path;
use std::time::Duration;

/// How long the puller stands still.
const STALL: Duration = Duration::from_secs(60);

/// After how many bytes it does: the offer and some pages have come, so the hold is over.
const STALL_AFTER: u64 = 100_000;

/// Agents with and without a mirror, as lines of their configuration.
const AGENTS: [(&str, &str); 2] =
    [("a stalled puller", ""), ("a stalled puller, agent without mirror", "mirror = \"discard\"")];

/// What the writer noticed, in each round.
#[derive(Default)]
struct Noticed {
    p50: Figures,
    p99: Figures,
    most: Figures,
    wal: Figures,
    ended: Vec<String>,
}

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    let (mut quiet, mut stalled) = (Noticed::default(), [Noticed::default(), Noticed::default()]);
    for round in 1..=runs {
        eprintln!("stall: round {round} of {runs}");
        let seed = 3 * round as u64;
        quiet.note(&database, seed);
        for (noticed, (at, (_, lines))) in stalled.iter_mut().zip(AGENTS.iter().enumerate()) {
            one_stall(workshop, &database, lines, seed + 1 + at as u64, noticed);
        }
    }
    let title = format!(
        "a writer's commits in microseconds, and its -wal, for {} s beside a first copy of a gym of {size_mb} MB that \
         stands still (goal: as if quiet)",
        STALL.as_secs()
    );
    let head = ["", "p50", "p99", "most", "p99 ÷ quiet", "-wal at most", "how the pull ended"];
    let mut table = Table::new(title, &head);
    table.row(quiet.row("quiet", &quiet));
    for (noticed, (name, _)) in stalled.iter().zip(AGENTS) {
        table.row(noticed.row(name, &quiet));
    }
    table.print();
    workshop.done_with(&database);
}

/// Lets a puller stall, looks at the writer meanwhile, and lets the puller go on.
fn one_stall(workshop: &Workshop, database: &Path, lines: &str, seed: u64, noticed: &mut Noticed) {
    let place = workshop.place();
    let agent = place.serve_with(database, lines);
    let relay = Relay::to(agent.address());
    let through = format!("{}/gym", relay.address());
    relay.stall_after(Some(STALL_AFTER));
    let run = std::thread::scope(|scope| {
        let puller = scope.spawn(|| place.try_pull_at(&through, "hash"));
        wait_until("the first bytes", || relay.from_agent() > STALL_AFTER || puller.is_finished());
        noticed.note(database, seed);
        relay.stall_after(None);
        puller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let json: serde_json::Value = serde_json::from_str(run.stdout.trim()).unwrap_or_default();
    let ended = json["error"]["code"].as_str().or(json["outcome"].as_str()).unwrap_or("?").to_owned();
    // Neither side waits for more than a minute; the next run goes on from what came.
    noticed.ended.push(match run.status.success() {
        true => ended,
        false => {
            place.pull_at(&through, "hash");
            format!("{ended}, then stored")
        }
    });
}

impl Noticed {
    /// Lets a writer commit for as long as the puller stands still, and takes down what it noticed.
    fn note(&mut self, database: &Path, seed: u64) {
        let wal = format!("{}-wal", database.display());
        let length = || std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
        let (mut commits, wal) =
            room::largest(length, || while_it_lasts(database, seed, || std::thread::sleep(STALL)));
        commits.sort_by(f64::total_cmp);
        self.p50.push(Some(quantile(&commits, 0.5)));
        self.p99.push(Some(quantile(&commits, 0.99)));
        self.most.push(Some(quantile(&commits, 1.0)));
        self.wal.push(Some(wal as f64));
    }

    fn row(&self, name: &str, quiet: &Self) -> [String; 7] {
        let micros = |figure: f64| format!("{figure:.0}");
        [
            name.to_owned(),
            self.p50.spread(micros),
            self.p99.spread(micros),
            self.most.spread(micros),
            self.p99.by(&quiet.p99).spread(ratio),
            self.wal.spread(bytes),
            self.ended.join("; "),
        ]
    }
}
