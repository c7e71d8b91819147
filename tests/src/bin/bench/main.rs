//! The bench: what a pull costs, beside the tools people use now, measured on real processes in one run.
//!
//! ```text
//! cargo run --release -p pullback-tests --bin bench -- [cost|memory|latency|links|stall|cut|two|all] [--size-mb N] [--runs N] [--dir DIR]
//! ```
//!
//! `links`, `stall`, `cut` and `two` make slow or broken lines and are not part of `all`; `links` needs root.
//!
//! It builds both programs in its own profile, makes its own seeded database, and starts the agent as a process that
//! serves on loopback. What is compared is run in turn, round after round, and ratios are taken within a round: on a busy
//! machine times mean little alone. A tool that is not installed, or a figure the system does not tell, is `not measured`.

mod across;
mod cost;
mod cut;
mod figures;
mod latency;
mod link;
mod links;
mod memory;
mod meter;
mod peers;
mod place;
mod source;
mod stall;
mod table;
mod two;

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Measures what a pull costs.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    #[arg(default_value = "all")]
    what: What,
    /// Size of the database of all but `memory`, in millions of bytes
    #[arg(long, default_value_t = 1000)]
    size_mb: u64,
    /// Rounds of all but `latency`
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Rounds of `latency`
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Sizes of the databases of `memory`, in millions of bytes
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 4000])]
    memory_mb: Vec<u64>,
    /// Where databases, copies and the agent's state lie meanwhile; a real disk, with room for four times the size
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the databases in DIR, for the next run to use
    #[arg(long, requires = "dir")]
    keep_databases: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Time, CPU, bytes on the wire and bytes written, beside `.backup` with `zstd -1` and with `rsync`
    Cost,
    /// Peak resident memory of both programs, for small and large databases
    Memory,
    /// What a writer's commits take while pulls go on
    Latency,
    /// Time over a slow link between two network namespaces, beside `rsync` and `sqlite3_rsync`
    Links,
    /// What a writer's commits take, and how its `-wal` grows, while a puller stands still for a minute
    Stall,
    /// What is sent again after a first copy was cut late, while a writer commits
    Cut,
    /// One puller at 64 KiB a second in a first copy, another that pulls every second meanwhile
    Two,
    /// `cost`, `memory` and `latency`
    All,
}

fn main() {
    let arguments = Arguments::parse();
    let workshop = place::Workshop::open(arguments.dir.as_deref(), arguments.keep_databases);
    let is_wanted = |what| arguments.what == what || arguments.what == What::All;
    println!(
        "{} processors, SQLite {}, {} rounds; times in seconds, median (least to most)",
        std::thread::available_parallelism().map_or(0, usize::from),
        rusqlite::version(),
        arguments.runs
    );
    if is_wanted(What::Cost) {
        cost::run(&workshop, arguments.size_mb, arguments.runs);
    }
    if is_wanted(What::Memory) {
        memory::run(&workshop, &arguments.memory_mb, arguments.runs);
    }
    if is_wanted(What::Latency) {
        latency::run(&workshop, arguments.size_mb, arguments.rounds);
    }
    match arguments.what {
        What::Links => links::run(&workshop, arguments.size_mb, arguments.runs),
        What::Stall => stall::run(&workshop, arguments.size_mb, arguments.runs),
        What::Cut => cut::run(&workshop, arguments.size_mb, arguments.runs),
        What::Two => two::run(&workshop, arguments.size_mb, arguments.runs),
        What::Cost | What::Memory | What::Latency | What::All => {}
    }
}
