//! `deltas`: what an incremental pull costs after each kind of change, beside what keeps a replica up to date.

use crate::figures::bytes;
use crate::floor;
use crate::goals::{self, Measured};
use crate::mutation::Mutation;
use crate::peers;
use crate::place::{Place, Workshop};
use crate::replicas::{Replicas, Synced};
use crate::source::{self, MB};
use std::path::{Path, PathBuf};

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let gym = workshop
        .database(&format!("counting-gym-{size_mb}"), |path| source::counting_gym(path, size_mb * MB));
    measure(workshop, &gym, "a gym", &Mutation::ALL, runs);
    // Whose pages move whole, if they move: the kind of data that peers do best with.
    let wordy =
        workshop.database(&format!("wordy-gym-{size_mb}"), |path| source::wordy_gym(path, size_mb * MB));
    measure(workshop, &wordy, "a gym with texts in its log, nothing removed", &[Mutation::Vacuum], runs);
}

/// Measures `runs` rounds of `mutations` of `gym`, which is called `what`.
fn measure(workshop: &Workshop, gym: &Path, what: &str, mutations: &[Mutation], runs: usize) {
    let mut rounds: Vec<_> = mutations.iter().map(|mutation| (*mutation, Vec::new())).collect();
    let size = bytes(std::fs::metadata(gym).expect("a database has a size").len() as f64);
    for number in 1..=runs as u64 {
        eprintln!("deltas: {what} of {size}, round {number} of {runs}");
        let mut round = Round::begin(workshop, gym, number);
        for (mutation, measured) in &mut rounds {
            measured.push(round.measure(*mutation));
        }
    }
    let title = format!(
        "incremental pulls of {what} of {size}, over loopback, --verify hash, {runs} rounds ({}, {}, {})",
        peers::version("sqlite3"),
        peers::version("rsync"),
        peers::version("sqlite3_rsync"),
    );
    goals::table(title, &rounds).print();
    workshop.done_with(gym);
}

/// A gym as years of use left it, and one after the other the mutations. Each round begins anew: after a VACUUM, the next
/// one would move little.
struct Round {
    gym: PathBuf,
    number: u64,
    kept: Place,
    forgetful: Place,
    /// Apart from the others: a disk in a file takes time that a disk does not.
    on_own_disk: Option<Place>,
    replicas: Replicas,
    /// The newest copy in the place that is kept.
    copy: PathBuf,
}

impl Round {
    fn begin(workshop: &Workshop, gym: &Path, number: u64) -> Self {
        let mutable = workshop.file("gym.db");
        std::fs::copy(gym, &mutable).expect("a database can be copied");
        let (kept, forgetful) = (workshop.place(), workshop.place());
        let (first, _) = kept.pull_by_relay(&mutable, "hash", "stored");
        forgetful.pull_by_relay(&mutable, "hash", "stored");
        let bytes = std::fs::metadata(gym).expect("a database has a size").len();
        let on_own_disk = workshop.place_with_disk(bytes);
        if let Some(place) = &on_own_disk {
            place.pull_by_relay(&mutable, "hash", "stored");
        }
        let replicas = Replicas::of(&mutable, &workshop.file(""));
        Self { gym: mutable, number, kept, forgetful, on_own_disk, replicas, copy: first.copy() }
    }

    fn measure(&mut self, mutation: Mutation) -> Measured {
        mutation.apply(&self.gym, self.number);
        // In every other round the peers come first: what one of them leaves in caches helps the next.
        let peers_first = self.number.is_multiple_of(2);
        let before = peers_first.then(|| self.sync());
        let measured = self.pull(mutation);
        let (rsync, sqlite3_rsync) = before.unwrap_or_else(|| self.sync());
        Measured { rsync, sqlite3_rsync, ..measured }
    }

    fn pull(&mut self, mutation: Mutation) -> Measured {
        let outcome = if mutation == Mutation::None { "unchanged" } else { "stored" };
        let (pull, [from_agent, to_agent]) = self.kept.pull_by_relay(&self.gym, "hash", outcome);
        let forgotten_wire_bytes = goals::small(mutation).then(|| {
            self.forgetful.forget();
            let (_, ways) = self.forgetful.pull_by_relay(&self.gym, "hash", outcome);
            ways.iter().sum()
        });
        let on_own_disk =
            self.on_own_disk.as_ref().map(|place| place.pull_by_relay(&self.gym, "hash", outcome).0);
        let copy = pull.copy();
        let floor = floor::between(&self.copy, &copy).expect("copies can be read");
        let rsync_compressed_bytes = (mutation == Mutation::Vacuum)
            .then(|| self.replicas.rsync_compressed_bytes(&self.copy, &copy))
            .flatten();
        self.copy = copy;
        Measured {
            floor,
            rsync_compressed_bytes,
            wire_bytes: from_agent + to_agent,
            forgotten_wire_bytes,
            state_disk_bytes: on_own_disk.and_then(|pull| pull.state_disk_bytes),
            // The sockets of the agent are written with `writev`, which counts.
            file_bytes: pull.agent.write_bytes.map(|bytes| bytes - from_agent),
            kernel_bytes: pull.agent.disk_bytes,
            cpu_seconds: pull.agent.cpu_seconds,
            seconds: pull.puller.seconds,
            ..Default::default()
        }
    }

    /// With an application that has the database open, as in a pull.
    fn sync(&self) -> (Synced, Synced) {
        let _application = source::application(&self.gym);
        (self.replicas.rsync(&self.gym), self.replicas.sqlite3_rsync(&self.gym))
    }
}
