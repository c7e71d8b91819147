//! `memory`: the peak resident memory of both programs, which is not to grow with the database.

use crate::figures::{Figures, mebibytes};
use crate::place::{Pull, Workshop};
use crate::source::{self, MB};
use crate::table::Table;
use std::path::Path;

/// What is aimed at, in MiB, for each program.
const GOAL_MIB: f64 = 48.0;

/// Page sizes; the smallest has the longest lists of page hashes.
const PAGE_SIZES: [u32; 2] = [4096, 512];

/// With small pages, databases of at most this size: SQLite itself takes long to make larger ones.
const SMALL_PAGES_MB_MAX: u64 = 1000;

/// Measures `runs` rounds with databases of each of `sizes_mb`.
pub(crate) fn run(workshop: &Workshop, sizes_mb: &[u64], runs: usize) {
    let mut table = Table::new(
        format!("peak resident memory in MiB, agent / puller (goal: at most {GOAL_MIB} each)"),
        &["database", "first copy", "1,000 updates", "unchanged"],
    );
    for page_size in PAGE_SIZES {
        for size_mb in sizes_mb.iter().filter(|size| page_size == 4096 || **size <= SMALL_PAGES_MB_MAX) {
            let name = format!("bulky-{size_mb}-{page_size}");
            let database = workshop.database(&name, |path| source::bulky(path, size_mb * MB, page_size));
            eprintln!("memory: {size_mb} MB in pages of {page_size} bytes");
            let mut peaks: [(Figures, Figures); 3] = Default::default();
            (0..runs).for_each(|_| one_round(workshop, &database, &mut peaks));
            let cell = |at: usize| {
                let (agent, puller) = &peaks[at];
                format!("{} / {}", agent.spread(mebibytes), puller.spread(mebibytes))
            };
            table.row([format!("{size_mb} MB, {page_size}-byte pages"), cell(0), cell(1), cell(2)]);
            workshop.done_with(&database);
        }
    }
    table.print();
}

fn one_round(workshop: &Workshop, database: &Path, peaks: &mut [(Figures, Figures); 3]) {
    let place = workshop.place();
    let mut note = |at: usize, pull: &Pull| {
        peaks[at].0.push(pull.agent.peak_bytes);
        peaks[at].1.push(pull.puller.peak_bytes);
    };
    note(0, &place.pull(database, "auto", "stored"));
    workshop.update_members(database);
    note(1, &place.pull(database, "auto", "stored"));
    note(2, &place.pull(database, "auto", "unchanged"));
}
