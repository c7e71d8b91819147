//! `two`: one puller at 64 KiB a second in a first copy, and another one that pulls every second while a writer commits.

use crate::figures::{Figures, bytes, seconds};
use crate::place::Workshop;
use crate::source::MB;
use crate::table::Table;
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::two_pullers::{self, Outcome, Setting};
use std::time::Duration;

/// Of the slow line.
const BYTES_PER_SECOND: u64 = 64 * 1024;

/// Of the database at most: at this size, the slow puller takes about three minutes.
const SIZE_MB_MAX: u64 = 40;

/// What the agent's state may take, by the size of the database.
const STATE_PER_SIZE: u64 = 2;

/// How long a pull may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Figures over the rounds.
#[derive(Default)]
struct Sums {
    slow_seconds: Figures,
    slow_received: Figures,
    pulls: Figures,
    received: Figures,
    received_max: Figures,
    sent_max: Figures,
    full: Figures,
    without_mirror: Figures,
    state: Figures,
}

/// Measures `runs` rounds with a gym of at most `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let size = size_mb.min(SIZE_MB_MAX) * MB;
    let setting = Setting {
        bytes: size,
        noise_bytes: 0,
        bytes_per_second: BYTES_PER_SECOND,
        max_state: STATE_PER_SIZE * size,
    };
    let mut sums = Sums::default();
    for round in 1..=runs {
        eprintln!("two: round {round} of {runs}");
        let sandbox = Sandbox::new_in(&workshop.file("")).with_limit(LIMIT);
        sums.push(&two_pullers::run(&sandbox, setting));
    }
    let title = format!(
        "two pullers of a gym of {} MB, one at {} KiB/s, the other every second while a writer commits 50 times a second; \
         every copy compared with its source",
        size / MB,
        BYTES_PER_SECOND / 1024
    );
    let count = |figure: f64| format!("{figure:.0}");
    let mut table = Table::new(title, &["", "figure", "goal"]);
    let mut row = |name: &str, figure: String, goal: &str| {
        table.row([name.to_owned(), figure, goal.to_owned()]);
    };
    row("the slow one's first copy, seconds", sums.slow_seconds.spread(seconds), "");
    row("the same, received", sums.slow_received.spread(bytes), "");
    row("the quick one's pulls after its first", sums.pulls.spread(count), "");
    row("of these, full transfers", sums.full.spread(count), "0");
    row("of these, without the agent's mirror", sums.without_mirror.spread(count), "0");
    row("received in one of these, middle", sums.received.spread(bytes), "");
    row("received in one of these, most", sums.received_max.spread(bytes), "");
    row("sent in one of these, most", sums.sent_max.spread(bytes), "");
    row("the agent's state, most", sums.state.spread(bytes), &bytes(setting.max_state as f64));
    table.print();
}

impl Sums {
    fn push(&mut self, outcome: &Outcome) {
        let pulls = outcome.fast.get(1..).unwrap_or_default();
        let of = |field: &str| -> Vec<f64> {
            let mut figures: Vec<f64> =
                pulls.iter().filter_map(|pulled| pulled.json[field].as_f64()).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let count = |is_so: &dyn Fn(&&Pulled) -> bool| Some(pulls.iter().filter(is_so).count() as f64);
        let (received, sent) = (of("bytes_received"), of("bytes_sent"));
        self.slow_seconds.push(Some(outcome.slow_seconds));
        self.slow_received.push(outcome.slow.json["bytes_received"].as_f64());
        self.pulls.push(Some(pulls.len() as f64));
        self.received.push(received.get(received.len() / 2).copied());
        self.received_max.push(received.last().copied());
        self.sent_max.push(sent.last().copied());
        self.full.push(count(&|pulled| pulled.transfer == "full"));
        let says = |pulled: &&Pulled| pulled.json["notes"].to_string().contains("without its mirror");
        self.without_mirror.push(count(&says));
        self.state.push(Some(outcome.state_bytes_max as f64));
    }
}
