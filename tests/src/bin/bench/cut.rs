//! `cut`: a first copy that is cut late while a writer commits, and what the next run receives.

use crate::figures::{Figures, bytes, ratio};
use crate::latency::while_it_lasts;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::relay::Relay;
use std::path::Path;

/// Where the line is cut, in hundredths of a whole first copy.
const CUT_AT: u64 = 90;

/// What is aimed at: what the second run receives, by a whole first copy.
const GOAL: f64 = 0.15;

/// What happens to the agent between the two runs.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    Restarted,
    StateDeleted,
}

const ROWS: [(Meanwhile, &str); 3] = [
    (Meanwhile::Nothing, "the agent goes on"),
    (Meanwhile::Restarted, "the agent is restarted"),
    (Meanwhile::StateDeleted, "the agent is restarted, its state deleted"),
];

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    let (mut whole, mut second) = (Figures::default(), [(); ROWS.len()].map(|()| Figures::default()));
    for round in 1..=runs {
        eprintln!("cut: round {round} of {runs}");
        let bytes = whole_copy(workshop, &database);
        whole.push(Some(bytes as f64));
        for (figures, (at, (meanwhile, _))) in second.iter_mut().zip(ROWS.iter().enumerate()) {
            let seed = (ROWS.len() * round + at) as u64;
            figures.push(Some(cut_copy(workshop, &database, *meanwhile, bytes, seed) as f64));
        }
    }
    let title = format!(
        "a first copy of a gym of {size_mb} MB, cut after {CUT_AT} % of its bytes, pulled again while a writer commits 200 \
         times a second (goal: at most {GOAL} of a whole one)"
    );
    let mut table = Table::new(title, &["", "bytes received", "÷ a whole first copy"]);
    table.row(["a whole first copy".to_owned(), whole.spread(bytes), String::new()]);
    for (figures, (_, name)) in second.iter().zip(ROWS) {
        let row = [name.to_owned(), figures.spread(bytes), figures.by(&whole).spread(ratio)];
        table.row(row);
    }
    table.print();
    workshop.done_with(&database);
}

/// The bytes from the agent of a first copy that nobody cuts.
fn whole_copy(workshop: &Workshop, database: &Path) -> u64 {
    let place = workshop.place();
    let agent = place.serve(database);
    let relay = Relay::to(agent.address());
    place.pull_at(&format!("{}/gym", relay.address()), "hash");
    relay.from_agent()
}

/// The bytes from the agent in the run after one that was cut.
fn cut_copy(workshop: &Workshop, database: &Path, meanwhile: Meanwhile, whole: u64, seed: u64) -> u64 {
    let place = workshop.place();
    let mut agent = place.serve(database);
    let relay = Relay::to(agent.address());
    let through = format!("{}/gym", relay.address());
    relay.cut_after(Some(whole * CUT_AT / 100));
    while_it_lasts(database, seed, || {
        let run = place.try_pull_at(&through, "hash");
        assert!(
            !run.status.success(),
            "a pull came to its end over a line that was to be cut: {}",
            run.stdout
        );
        if meanwhile != Meanwhile::Nothing {
            agent.kill9();
            if meanwhile == Meanwhile::StateDeleted {
                place.forget_state();
            }
            agent.restart();
        }
        relay.cut_after(None);
        place.pull_at(&through, "auto");
    });
    relay.from_agent()
}
