//! What is aimed at for an incremental pull, mutation by mutation, and whether it was met.

use crate::figures::{Figures, bytes, ratio, seconds};
use crate::floor::{Floor, PAGE};
use crate::mutation::Mutation;
use crate::replicas::Synced;
use crate::table::Table;

/// What was measured of one mutation in one round.
#[derive(Clone, Default)]
pub(crate) struct Measured {
    /// Between the copies before and after.
    pub(crate) floor: Floor,
    /// Both ways.
    pub(crate) wire_bytes: f64,
    /// The same where the agent had no state, if that was tried.
    pub(crate) forgotten_wire_bytes: Option<f64>,
    /// What `rsync -B4096 -z` sends and receives between the copies before and after, if that was tried.
    pub(crate) rsync_compressed_bytes: Option<f64>,
    /// Bytes written to a disk that has the agent's state and nothing else, with what the file system adds.
    pub(crate) state_disk_bytes: Option<f64>,
    /// Bytes that the agent gave to `write` and its like, without those on the wire: to files, and to wake its threads.
    pub(crate) file_bytes: Option<f64>,
    /// What the kernel calls the agent's `write_bytes`, and see [`crate::disk`].
    pub(crate) kernel_bytes: Option<f64>,
    /// Of the agent, until it was at rest.
    pub(crate) cpu_seconds: Option<f64>,
    /// Of the puller, from its start to its end.
    pub(crate) seconds: f64,
    /// `.backup` and `rsync`.
    pub(crate) rsync: Synced,
    /// `sqlite3_rsync`.
    pub(crate) sqlite3_rsync: Synced,
}

impl Measured {
    fn changed_bytes(&self) -> f64 {
        self.floor.changed_pages as f64 * PAGE as f64
    }

    /// What the hash path may send: the floor with a margin, and the hash of each page.
    fn hash_path_bytes(&self) -> f64 {
        1.6 * self.floor.bytes as f64 + 16.0 * self.floor.pages as f64
    }
}

/// A figure of a round; none where it was not measured.
type Of = fn(&Measured) -> Option<f64>;

/// What is aimed at for a figure.
#[derive(Clone, Copy)]
enum Goal {
    /// At most so much.
    AtMost(f64),
    /// Nothing: it is told for what it is worth.
    Told,
}

/// A group of rows, one for each mutation that has a goal.
struct Quantity {
    name: &'static str,
    ours: Of,
    /// What ours is divided by; nothing where ours itself is the figure.
    by: Option<Of>,
    /// How ours is written.
    show: fn(f64) -> String,
    goal: fn(Mutation) -> Option<Goal>,
}

const QUANTITIES: [Quantity; 15] = [
    Quantity {
        name: "bytes both ways ÷ floor",
        ours: |of| Some(of.wire_bytes),
        by: Some(|of| Some(of.floor.bytes as f64)),
        show: bytes,
        goal: |mutation| match mutation {
            Mutation::Members => Some(Goal::AtMost(0.06)),
            Mutation::Append => Some(Goal::AtMost(0.35)),
            Mutation::Pct1 => Some(Goal::AtMost(0.03)),
            Mutation::Vacuum => Some(Goal::AtMost(0.46)),
            Mutation::None => None,
        },
    },
    Quantity {
        name: "bytes both ways",
        ours: |of| Some(of.wire_bytes),
        by: None,
        show: bytes,
        goal: |mutation| unchanged(mutation).then_some(Goal::AtMost(2_000.0)),
    },
    Quantity {
        name: "changed pages that the base has elsewhere ÷ all changed",
        ours: |of| Some(of.floor.moved_pages as f64),
        by: Some(|of| Some(of.floor.changed_pages as f64)),
        show: |pages| format!("{pages:.0}"),
        goal: |mutation| (mutation == Mutation::Vacuum).then_some(Goal::Told),
    },
    Quantity {
        name: "rsync -B4096 -z: bytes both ways ÷ floor",
        ours: |of| of.rsync_compressed_bytes,
        by: Some(|of| Some(of.floor.bytes as f64)),
        show: bytes,
        goal: |mutation| (mutation == Mutation::Vacuum).then_some(Goal::Told),
    },
    Quantity {
        name: "agent without state: bytes both ways ÷ (1.6 floor + 16 a page)",
        ours: |of| of.forgotten_wire_bytes,
        by: Some(|of| Some(of.hash_path_bytes())),
        show: bytes,
        goal: |mutation| small(mutation).then_some(Goal::AtMost(1.0)),
    },
    Quantity {
        name: "written to the disk of the agent's state ÷ changed pages",
        ours: |of| of.state_disk_bytes,
        by: Some(|of| Some(of.changed_bytes())),
        show: bytes,
        goal: |mutation| (!unchanged(mutation)).then_some(Goal::AtMost(3.0)),
    },
    Quantity {
        name: "written to the disk of the agent's state",
        ours: |of| of.state_disk_bytes,
        by: None,
        show: bytes,
        goal: |mutation| unchanged(mutation).then_some(Goal::AtMost(0.0)),
    },
    Quantity {
        name: "written by the agent (wchar less the wire) ÷ changed pages",
        ours: |of| of.file_bytes,
        by: Some(|of| Some(of.changed_bytes())),
        show: bytes,
        goal: |mutation| (!unchanged(mutation)).then_some(Goal::AtMost(3.0)),
    },
    // A few bytes that wake threads are among them.
    Quantity {
        name: "written by the agent (wchar less the wire)",
        ours: |of| of.file_bytes,
        by: None,
        show: bytes,
        goal: |mutation| unchanged(mutation).then_some(Goal::Told),
    },
    Quantity {
        name: "the kernel's write_bytes, in whole folios",
        ours: |of| of.kernel_bytes,
        by: None,
        show: bytes,
        goal: |_| Some(Goal::Told),
    },
    Quantity {
        name: "agent's CPU ÷ .backup + rsync -B4096's sender",
        ours: |of| of.cpu_seconds,
        by: Some(|of| of.rsync.source_cpu_seconds),
        show: seconds,
        goal: |_| Some(Goal::AtMost(0.5)),
    },
    Quantity {
        name: "agent's CPU ÷ sqlite3_rsync's origin",
        ours: |of| of.cpu_seconds,
        by: Some(|of| of.sqlite3_rsync.source_cpu_seconds),
        show: seconds,
        goal: |_| Some(Goal::AtMost(0.7)),
    },
    Quantity {
        name: "time ÷ .backup + rsync -B4096",
        ours: |of| Some(of.seconds),
        by: Some(|of| of.rsync.seconds),
        show: seconds,
        goal: |_| Some(Goal::AtMost(1.0)),
    },
    Quantity {
        name: "time ÷ .backup + rsync -B4096, result fsynced",
        ours: |of| Some(of.seconds),
        by: Some(|of| of.rsync.durable_seconds),
        show: seconds,
        goal: |_| Some(Goal::Told),
    },
    // Its result is fsynced as it comes: SQLite commits it.
    Quantity {
        name: "time ÷ sqlite3_rsync",
        ours: |of| Some(of.seconds),
        by: Some(|of| of.sqlite3_rsync.seconds),
        show: seconds,
        goal: |_| Some(Goal::AtMost(1.0)),
    },
];

fn unchanged(mutation: Mutation) -> bool {
    mutation == Mutation::None
}

/// Whether it is one of those that the agent's state is also deleted for.
pub(crate) fn small(mutation: Mutation) -> bool {
    matches!(mutation, Mutation::Members | Mutation::Append | Mutation::Pct1)
}

/// A table of all figures with their goals, from the rounds of each mutation.
pub(crate) fn table(title: String, rounds: &[(Mutation, Vec<Measured>)]) -> Table {
    let mut table = Table::new(title, &["", "figure", "goal", "", "from"]);
    for quantity in &QUANTITIES {
        for (mutation, rounds) in rounds {
            if let Some(goal) = (quantity.goal)(*mutation) {
                table.row(row(quantity, *mutation, goal, rounds));
            }
        }
    }
    table
}

fn row(quantity: &Quantity, mutation: Mutation, goal: Goal, rounds: &[Measured]) -> [String; 5] {
    let show = quantity.show;
    let ours: Figures = rounds.iter().map(quantity.ours).collect();
    let by: Option<Figures> = quantity.by.map(|by| rounds.iter().map(by).collect());
    let (figure, spread, from) = match &by {
        Some(by) => {
            let ratios = ours.by(by);
            (ratios.median(), ratios.spread(exact), format!("{} ÷ {}", ours.middle(show), by.middle(show)))
        }
        None => (ours.median(), ours.spread(show), String::new()),
    };
    let shown: fn(f64) -> String = if by.is_some() { ratio } else { show };
    let (goal, met) = match goal {
        Goal::AtMost(most) => (format!("≤ {}", shown(most)), verdict(figure, most)),
        Goal::Told => (String::new(), ""),
    };
    [format!("{}, {}", quantity.name, mutation.name()), spread, goal, met.to_owned(), from]
}

/// A ratio that may be far below its goal.
fn exact(ratio: f64) -> String {
    format!("{ratio:.3}")
}

/// The last digits of a quotient decide nothing.
fn verdict(figure: Option<f64>, most: f64) -> &'static str {
    match figure {
        Some(figure) if figure <= most + 1e-9 => "met",
        Some(_) => "missed",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_missed_or_not_measured() {
        let floor = Floor { pages: 1000, changed_pages: 10, moved_pages: 0, bytes: 10_000 };
        let round = |wire_bytes| Measured { floor, wire_bytes, ..Default::default() };
        let cells = |quantity: usize, mutation, rounds: &[Measured]| {
            let quantity = &QUANTITIES[quantity];
            row(quantity, mutation, (quantity.goal)(mutation).unwrap(), rounds)
        };
        let rounds = [round(500.0), round(600.0), round(900.0)];
        let expected = [
            "bytes both ways ÷ floor, members",
            "0.060 (0.050 to 0.090)",
            "≤ 0.06",
            "met",
            "600 B ÷ 10.0 kB",
        ];
        assert_eq!(cells(0, Mutation::Members, &rounds), expected);
        assert_eq!(cells(0, Mutation::Pct1, &rounds)[3], "missed");
        let absent = cells(11, Mutation::Pct1, &rounds);
        assert_eq!((absent[1].as_str(), absent[3].as_str()), ("not measured", ""));
    }

    #[test]
    fn each_quantity_has_a_goal_for_some_mutation() {
        for quantity in &QUANTITIES {
            assert!(Mutation::ALL.into_iter().any(|mutation| (quantity.goal)(mutation).is_some()));
        }
    }
}
