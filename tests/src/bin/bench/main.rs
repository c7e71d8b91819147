//! The bench: what a pull costs, beside the tools people use now, measured on real processes in one run.
//!
//! ```text
//! cargo run --release -p pullback-tests --bin bench -- [cost|deltas|memory|latency|links|stall|cut|two|fleet|ssh|space|all] [--size-mb N,…] [--runs N] [--dir DIR]
//! ```
//!
//! `links`, `stall`, `cut` and `two` make slow or broken lines and are not part of `all`; `links` needs root. Nor are `fleet`,
//! which starts some hundred agents, `ssh`, which needs an sshd, and `space`, which takes minutes and needs root.
//!
//! It builds both programs in its own profile, makes its own seeded database, and starts the agent as a process that
//! serves on loopback. What is compared is run in turn, round after round, and ratios are taken within a round: on a busy
//! machine times mean little alone. A tool that is not installed, or a figure the system does not tell, is `not measured`.

mod across;
mod cost;
mod cut;
mod deltas;
mod disk;
mod figures;
mod fleet;
mod floor;
mod goals;
mod latency;
mod link;
mod links;
mod memory;
mod meter;
mod mutation;
mod peers;
mod place;
mod replicas;
mod restore;
mod source;
mod space;
mod ssh;
mod stall;
mod table;
mod tls;
mod two;

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Measures what a pull costs.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    #[arg(default_value = "all")]
    what: What,
    /// Sizes of the databases of all but `memory`, in millions of bytes [default: 1000; `deltas`: 200,1000]
    #[arg(long, value_delimiter = ',')]
    size_mb: Vec<u64>,
    /// Rounds of all but `latency` [default: 3; `deltas`: 5]
    #[arg(long)]
    runs: Option<usize>,
    /// Rounds of `latency`
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Sizes of the databases of `memory`, in millions of bytes
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 4000])]
    memory_mb: Vec<u64>,
    /// Where databases, copies and the agent's state lie meanwhile; a real disk, with room for four times the size, `deltas` twelve
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Agents of `fleet`
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Of these, so many are pulled from at once
    #[arg(long, default_value_t = 16)]
    jobs: usize,
    #[command(flatten)]
    space: space::Asked,
    /// Leave the databases in DIR, for the next run to use
    #[arg(long, requires = "dir")]
    keep_databases: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Time, CPU, bytes on the wire and bytes written, beside `.backup` with `zstd -1` and with `rsync`
    Cost,
    /// Bytes, CPU and time of a pull after each of some mutations, against its goals and what keeps a replica up to date
    Deltas,
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
    /// Time, memory and open files of one puller that pulls from many agents
    Fleet,
    /// A first copy and an incremental one through ssh, beside `cat`, `rsync` and `sqlite3_rsync` through the same sshd
    Ssh,
    /// What 30 daily copies take on a disk, and how long it takes to get the oldest of them back
    Space,
    /// A first copy and an incremental one with mutual TLS, beside the same in plaintext, and what a handshake takes
    Tls,
    /// A restore here beside `cp`, and one behind ssh while an application writes
    Restore,
    /// `cost`, `deltas`, `memory` and `latency`
    All,
}

impl Arguments {
    fn sizes_mb<'a>(&'a self, default: &'a [u64]) -> &'a [u64] {
        if self.size_mb.is_empty() { default } else { &self.size_mb }
    }

    fn wants(&self, what: What) -> bool {
        self.what == what || self.what == What::All
    }
}

fn main() {
    let arguments = Arguments::parse();
    let workshop = place::Workshop::open(arguments.dir.as_deref(), arguments.keep_databases);
    println!(
        "{} processors, SQLite {}; times in seconds, median (least to most)",
        std::thread::available_parallelism().map_or(0, usize::from),
        rusqlite::version(),
    );
    let runs = arguments.runs.unwrap_or(3);
    if arguments.wants(What::Cost) {
        arguments.sizes_mb(&[1000]).iter().for_each(|size_mb| cost::run(&workshop, *size_mb, runs));
    }
    if arguments.wants(What::Deltas) {
        let runs = arguments.runs.unwrap_or(5);
        arguments.sizes_mb(&[200, 1000]).iter().for_each(|size_mb| deltas::run(&workshop, *size_mb, runs));
    }
    if arguments.wants(What::Memory) {
        memory::run(&workshop, &arguments.memory_mb, runs);
    }
    if arguments.wants(What::Latency) {
        let rounds = arguments.rounds;
        arguments.sizes_mb(&[1000]).iter().for_each(|size_mb| latency::run(&workshop, *size_mb, rounds));
    }
    let measure: fn(&place::Workshop, u64, usize) = match arguments.what {
        What::Links => links::run,
        What::Stall => stall::run,
        What::Cut => cut::run,
        What::Two => two::run,
        What::Ssh => ssh::run,
        What::Restore => restore::run,
        What::Tls => tls::run,
        What::Fleet => return fleet::run(&workshop, arguments.agents, arguments.jobs, runs),
        What::Space => {
            let measure = |size_mb: &u64| space::run(&workshop, *size_mb, &arguments.space);
            return arguments.sizes_mb(&[200]).iter().for_each(measure);
        }
        What::Cost | What::Deltas | What::Memory | What::Latency | What::All => return,
    };
    arguments.sizes_mb(&[1000]).iter().for_each(|size_mb| measure(&workshop, *size_mb, runs));
}
