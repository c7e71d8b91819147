//! `links`: how long a copy takes over a slow link, beside the tools that send less than everything.

use crate::across::{Peers, Tool};
use crate::figures::{Figures, bytes, ratio, seconds};
use crate::link::{EDGE, Link, MBIT_PER_SECOND};
use crate::peers;
use crate::place::{Place, Workshop};
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::contents;
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use std::path::Path;

/// The peers, and what is aimed at: the time of a pull by theirs, of a first copy and of an incremental one.
const PEERS: [(Tool, f64, f64); 4] = [
    (Tool::Sqlite3Rsync, 0.4, 0.1),
    (Tool::Rsync(&[]), 0.4, 0.1),
    (Tool::Rsync(&["-z"]), 1.1, 0.1),
    (Tool::Rsync(&["-z", "--block-size=4096"]), 1.1, 0.1),
];

/// The kinds of copies after one another.
const KINDS: [&str; 2] = ["first copy", "1,000 random members updated"];

/// Time and bytes of one tool, of each kind.
#[derive(Default)]
struct Crossings {
    seconds: [Figures; 2],
    bytes: [Figures; 2],
}

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let (mut pulls, mut others) = (Crossings::default(), [(); PEERS.len()].map(|()| Crossings::default()));
    let link = Link::make();
    let speed = match &link {
        Ok(link) => format!("a link of {MBIT_PER_SECOND} Mbit/s, {:.1} in a trial", link.trial()),
        Err(why) => format!("NOT MEASURED: there is no slow link: {why}"),
    };
    if let Ok(link) = link {
        // Not within a namespace, from where a registry could not be asked.
        programs::agent();
        let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
        let far_ends = Peers::start(&link, &workshop.file(""));
        for round in 1..=runs {
            eprintln!("links: round {round} of {runs}");
            one_round(workshop, &link, &far_ends, &database, &mut pulls, &mut others);
        }
        drop(far_ends);
        workshop.done_with(&database);
    }
    for (kind, name) in KINDS.into_iter().enumerate() {
        print(kind, &format!("{name}, gym of {size_mb} MB, over {speed}"), &pulls, &others);
    }
}

fn one_round(
    workshop: &Workshop,
    link: &Link,
    far_ends: &Peers,
    database: &Path,
    pulls: &mut Crossings,
    others: &mut [Crossings; PEERS.len()],
) {
    let place = workshop.place();
    let copies = std::array::from_fn::<_, { PEERS.len() }, _>(|at| workshop.file(&format!("copy-{at}.db")));
    for kind in 0..KINDS.len() {
        if kind > 0 {
            workshop.update_members(database);
        }
        let _application = source::application(database);
        let crossed = link.crossed();
        pulls.seconds[kind].push(Some(pull(&place, link, database)));
        pulls.bytes[kind].push(Some(link.crossed() - crossed));
        for (((tool, ..), figures), copy) in PEERS.iter().zip(others.iter_mut()).zip(&copies) {
            let crossed = link.crossed();
            let took = far_ends.bring(link, *tool, database, copy);
            let bytes = link.crossed() - crossed;
            if took.is_some() {
                // A tool may say that all is well and have brought nothing.
                contents::assert_equal(database, copy);
            }
            figures.seconds[kind].push(took);
            figures.bytes[kind].push(took.map(|_| bytes));
        }
    }
    for copy in copies {
        let _ = std::fs::remove_file(copy);
    }
}

/// How long a pull takes from an agent that runs already. Both programs speak to their own loopback only, as they do
/// without TLS; two relays lead over the link.
fn pull(place: &Place, link: &Link, database: &Path) -> f64 {
    let agent = link.edge.within(|| place.serve(database));
    let far = link.edge.within(|| Relay::between(&format!("{EDGE}:0"), agent.address()));
    let near = link.home.within(|| Relay::to(&far.address()));
    link.home.within(|| place.pull_at(&format!("{}/gym", near.address()), "hash")).seconds
}

fn print(kind: usize, title: &str, pulls: &Crossings, others: &[Crossings]) {
    let title = format!("{title} ({}, {})", peers::version("sqlite3"), peers::version("rsync"));
    let mut table =
        Table::new(title, &["", "seconds", "bytes over the link", "pull's seconds ÷ these", "goal: at most"]);
    table.row([
        "pull --verify hash: read back, equal, durable".to_owned(),
        pulls.seconds[kind].spread(seconds),
        pulls.bytes[kind].middle(bytes),
        String::new(),
        String::new(),
    ]);
    for ((tool, first, again), figures) in PEERS.iter().zip(others) {
        table.row([
            tool.name(),
            figures.seconds[kind].spread(seconds),
            figures.bytes[kind].middle(bytes),
            pulls.seconds[kind].by(&figures.seconds[kind]).spread(ratio),
            ratio(if kind == 0 { *first } else { *again }),
        ]);
    }
    table.print();
}
