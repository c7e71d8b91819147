//! `ssh`: a first copy and one after updates through a real sshd on loopback, beside `cat`, `rsync` and `sqlite3_rsync`
//! through the same one.

use crate::figures::{Figures, bytes, ratio, seconds};
use crate::meter;
use crate::peers;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::sshd::Sshd;
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// What brings a copy.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// `ssh pi 'cat DB' > COPY`
    Cat,
    /// `puller pull --verify HOW`, the agent with these lines of configuration
    Pull(&'static str, &'static str),
    /// `rsync` with these options
    Rsync(&'static [&'static str]),
    /// `sqlite3_rsync`, which reads the live database
    Sqlite3Rsync,
}

/// The rows of the tables; the first is what the others are measured by.
const WAYS: [(&str, Way); 8] = [
    ("ssh pi 'cat DB' > COPY, fsynced", Way::Cat),
    ("pull --verify hash", Way::Pull("hash", "")),
    ("pull --verify hash, compression = \"none\"", Way::Pull("hash", "compression = \"none\"")),
    (
        "pull --verify hash, and mirror = \"discard\"",
        Way::Pull("hash", "compression = \"none\"\nmirror = \"discard\""),
    ),
    ("pull", Way::Pull("auto", "")),
    ("rsync, fsynced", Way::Rsync(&[])),
    ("rsync -z, fsynced", Way::Rsync(&["-z"])),
    ("sqlite3_rsync, fsynced", Way::Sqlite3Rsync),
];

/// What one way took; nothing where its tool is not there.
#[derive(Clone, Copy, Default)]
struct Took {
    seconds: Option<f64>,
    cpu_here: Option<f64>,
    cpu_there: Option<f64>,
    received: Option<f64>,
}

#[derive(Default)]
struct Sums {
    seconds: Figures,
    cpu_here: Figures,
    cpu_there: Figures,
    received: Figures,
}

impl Sums {
    fn push(&mut self, took: Took) {
        self.seconds.push(took.seconds);
        self.cpu_here.push(took.cpu_here);
        self.cpu_there.push(took.cpu_there);
        self.received.push(took.received);
    }
}

/// Measures `runs` rounds with a gym of `size_mb`.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, runs: usize) {
    let database = workshop.database(&format!("gym-{size_mb}"), |path| source::gym(path, size_mb * MB));
    let mut sums: [[Sums; WAYS.len()]; 2] = Default::default();
    for round in 1..=runs {
        eprintln!("ssh: round {round} of {runs}");
        let sandboxes = WAYS.map(|_| Sandbox::new_in(&workshop.file("")));
        let sshds: Vec<Option<Sshd<'_>>> = sandboxes.iter().map(Sshd::start).collect();
        for sums in &mut sums {
            for (number, (_, way)) in WAYS.iter().enumerate() {
                let Some(sshd) = &sshds[number] else { return };
                sums[number].push(bring(*way, sshd, &sandboxes[number], &database));
            }
            workshop.update_members(&database);
        }
    }
    let size = bytes(fs::metadata(&database).expect("a database has a size").len() as f64);
    let versions = format!("{}, {}", peers::version("rsync"), peers::version("sqlite3_rsync"));
    print(&format!("first copy of a gym of {size} through ssh on loopback ({versions})"), &sums[0]);
    print("the same after 1,000 random members were updated", &sums[1]);
    workshop.done_with(&database);
}

fn print(title: &str, sums: &[Sums]) {
    let head = ["", "seconds", "throughput ÷ cat", "CPU s, here", "CPU s, far end with sshd", "received"];
    let mut table = Table::new(title, &head);
    for (sum, (name, _)) in sums.iter().zip(WAYS) {
        table.row([
            name.to_owned(),
            sum.seconds.spread(seconds),
            sums[0].seconds.by(&sum.seconds).spread(ratio),
            sum.cpu_here.middle(seconds),
            sum.cpu_there.middle(seconds),
            sum.received.middle(bytes),
        ]);
    }
    table.print();
}

/// Brings `database` to the place that `sandbox` is, where an earlier call may have brought it.
fn bring(way: Way, sshd: &Sshd<'_>, sandbox: &Sandbox, database: &Path) -> Took {
    let _application = source::application(database);
    let (copy, far) = (sandbox.file("copy.db"), format!("pi:{}", database.display()));
    let mut out = None;
    let mut command = match way {
        Way::Cat => {
            let mut ssh = sandbox.command(&sshd.ssh());
            ssh.arg("pi").arg(format!("cat '{}'", database.display()));
            out = Some(File::create(&copy).expect("a file can be made"));
            ssh
        }
        Way::Pull(verify, lines) => {
            configure(sandbox, lines);
            sshd.command(&["pull", "--json", "--verify", verify, "--keep-last", "2", &far])
        }
        Way::Rsync(options) => {
            let mut rsync = sandbox.command(Path::new("rsync"));
            rsync.arg("--ignore-times").args(options).arg("-e").arg(sshd.ssh()).arg(&far).arg(&copy);
            rsync
        }
        Way::Sqlite3Rsync => {
            let mut rsync = sandbox.command(Path::new("sqlite3_rsync"));
            rsync.arg(&far).arg(&copy).arg("--ssh").arg(sshd.ssh()).args(["--exe", "sqlite3_rsync"]);
            rsync
        }
    };
    rustix::fs::sync();
    let there_before = meter::cpu_at_rest(sshd.pid());
    let began = Instant::now();
    let ran = match out {
        Some(out) => meter::run_into(&mut command, out),
        None => meter::run(command.stderr(Stdio::null())),
    };
    let Some(ran) = ran.ok().filter(|ran| ran.status.success()) else {
        assert!(!matches!(way, Way::Cat | Way::Pull(..)), "{far} could not be brought");
        return Took::default();
    };
    let mut received = None;
    match way {
        Way::Pull(..) => {
            let report: Value = serde_json::from_str(ran.stdout.trim()).expect("a report is JSON");
            assert_eq!(report["outcome"], "stored");
            received = report["bytes_received"].as_f64();
        }
        _ => File::open(&copy).and_then(|copy| copy.sync_all()).expect("a copy can be made durable"),
    }
    let seconds = began.elapsed().as_secs_f64();
    let there = meter::cpu_at_rest(sshd.pid());
    let cpu_there = there.zip(there_before).map(|(now, before)| now - before);
    Took { seconds: Some(seconds), cpu_here: ran.cpu_seconds, cpu_there, received }
}

/// For the agent that the next session starts.
fn configure(sandbox: &Sandbox, lines: &str) {
    let folder = sandbox.file("home/.config/pullback");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let text = format!("reserve = \"0\"\n{lines}\n");
    fs::write(folder.join("agent.toml"), text).expect("a configuration can be written");
}
