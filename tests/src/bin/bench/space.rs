//! `space`: what copies of a database take, a copy a day, and what it takes to get the oldest of them back.

use crate::figures::{bytes, ratio};
use crate::meter;
use crate::mutation::Mutation;
use crate::place::Workshop;
use crate::source::{self, MB};
use crate::table::Table;
use pullback_tests::dice::Dice;
use pullback_tests::loop_disk::{FileSystem, LoopDisk};
use pullback_tests::sandbox::Sandbox;
use pullback_tests::{programs, room};
use rusqlite::{Connection, params};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The day before the first copy's.
const DAY_NOUGHT: &str = "2026-01-01T09:00:00";

/// Days between two rows of the table, and how many copies are kept.
const KEPT: u64 = 30;

/// The disk has room for so many databases: more than copies that share nothing and are not packed take.
const ROOM: u64 = 2 * KEPT;

/// How long one pull or one packing may take.
const LIMIT: Duration = Duration::from_secs(600);

/// How the pages change that change in a day: one in a hundred.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Change {
    /// Rows are updated in place.
    Updates,
    /// Rows that do not compress are added: the database grows.
    BlobsAdded,
    /// Rows that do not compress take the place of others.
    BlobsReplaced,
}

impl Change {
    /// What happens to the pages, and what is aimed at.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Updates => ("updated in place", "goals: ≤ 1.35, on btrfs and XFS ≤ 1.4"),
            Self::BlobsAdded => ("added, incompressible", "goal: ≤ 1.75"),
            Self::BlobsReplaced => ("replaced by incompressible ones", "goal: ≤ 1.75"),
        }
    }

    fn pass(self, gym: &Path, day: u64) {
        if self == Self::Updates {
            return Mutation::Pct1.apply(gym, day);
        }
        let db = Connection::open(gym).expect("a gym can be opened");
        let pages: i64 =
            db.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("pages can be counted");
        db.execute_batch("CREATE TABLE IF NOT EXISTS blobs(body BLOB NOT NULL); BEGIN")
            .expect("a table can be made");
        if self == Self::BlobsReplaced {
            db.execute_batch("DELETE FROM blobs").expect("rows can be removed");
        }
        let mut dice = Dice::new(day);
        for _ in 0..pages / 100 {
            // One to a page: with its row's own bytes, it just fits.
            db.execute("INSERT INTO blobs VALUES (?1)", params![dice.bytes(4000)])
                .expect("a row can be written");
        }
        db.execute_batch("COMMIT").expect("a transaction can be committed");
    }
}

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Asked {
    /// File systems of `space`
    #[arg(long, value_delimiter = ',', default_values = ["ext4", "btrfs", "xfs"])]
    on: Vec<FileSystem>,
    /// Days of `space`, a copy a day
    #[arg(long, default_value_t = KEPT)]
    days: u64,
    /// How older copies are kept in `space`: delta, gzip or none [default: what puller chooses]
    #[arg(long)]
    pack: Option<String>,
    /// What happens to 1 % of the pages in each day of `space`
    #[arg(long, value_delimiter = ',', default_values = ["updates", "blobs-added", "blobs-replaced"])]
    changes: Vec<Change>,
}

/// Measures daily copies of a gym of `size_mb`, of which the newest are kept, each way that is `asked` for.
pub(crate) fn run(workshop: &Workshop, size_mb: u64, asked: &Asked) {
    let gym = workshop
        .database(&format!("counting-gym-{size_mb}"), |path| source::counting_gym(path, size_mb * MB));
    let ways = asked.on.iter().flat_map(|system| asked.changes.iter().map(move |change| (*system, *change)));
    for (system, change) in ways {
        let root = workshop.file("disk");
        let Some(disk) =
            LoopDisk::mount(system, &root, &workshop.file("disk.img"), ROOM * size_mb * MB, "space")
        else {
            return;
        };
        let (what, goal) = change.words();
        let title = format!(
            "{} daily copies on {} (pack: {}), the newest {KEPT} kept; each day 1 % of the pages of a gym of {size_mb} MB {what} ({goal})",
            asked.days,
            system.name(),
            asked.pack.as_deref().unwrap_or("as it comes"),
        );
        measure(workshop, &disk, &gym, change, asked, title);
        drop(disk);
    }
    workshop.done_with(&gym);
}

fn measure(workshop: &Workshop, disk: &LoopDisk, gym: &Path, change: Change, asked: &Asked, title: String) {
    let mutable = workshop.file("gym.db");
    fs::copy(gym, &mutable).expect("a database can be copied");
    let root = workshop.file("disk");
    let sandbox = Sandbox::new_in(&root).with_limit(LIMIT);
    if let Some(pack) = &asked.pack {
        let folder = sandbox.file("home/xdg_config_home/pullback");
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join("puller.toml"), format!("pack = \"{pack}\"\n")).expect("a file can be written");
    }
    let empty = disk.used();
    let head = [
        "day",
        "copies",
        "database",
        "used",
        "used ÷ database",
        "of it .db",
        ".db.gz",
        ".delta.gz",
        "other",
        "a pull",
    ];
    let mut table = Table::new(title, &head);
    let mut newest = PathBuf::new();
    let mut seconds = 0.0;
    for day in 1..=asked.days {
        if day > 1 {
            change.pass(&mutable, day);
        }
        let started = Instant::now();
        newest = pull(&sandbox, &mutable, day);
        seconds += started.elapsed().as_secs_f64();
        if day % KEPT == 0 || day == asked.days || day == 1 {
            eprintln!("space: day {day} of {}", asked.days);
            let used = (disk.used() - empty) as f64;
            let database = newest.metadata().expect("the newest copy is plain").len() as f64;
            let copies = newest.parent().expect("a copy lies in a folder");
            let [db, whole, delta] =
                [".db", ".db.gz", ".delta.gz"].map(|suffix| blocks(copies, suffix) as f64);
            let other = room::used(copies) as f64 - db - whole - delta;
            let count = sandbox.puller(&["list", "--json"]).exits(0).json().len();
            table.row([
                day.to_string(),
                count.to_string(),
                bytes(database),
                bytes(used),
                ratio(used / database),
                bytes(db),
                bytes(whole),
                bytes(delta),
                bytes(other),
                format!("{:.1} s", seconds / if day == 1 { 1.0 } else { KEPT as f64 }),
            ]);
            seconds = 0.0;
        }
    }
    table.print();
    open_the_oldest(workshop, &sandbox, &newest);
}

/// Pulls, on `day`; gives the file of the copy.
fn pull(sandbox: &Sandbox, gym: &Path, day: u64) -> PathBuf {
    let at: String = Connection::open_in_memory()
        .and_then(|db| {
            let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ?1, ?2 || ' days')";
            db.query_row(sql, params![DAY_NOUGHT, day.cast_signed()], |row| row.get(0))
        })
        .expect("SQLite knows the calendar");
    let mut command = sandbox.command(programs::puller());
    command.env("PULLER_NOW", at).arg("--store").arg(sandbox.store());
    command.args(["pull", "--json", "--name", "gym", "--keep-last", &KEPT.to_string()]).arg(gym);
    let stored = sandbox.run(&mut command).exits(0).only_json();
    assert_eq!(stored["outcome"], "stored", "day {day}");
    PathBuf::from(stored["path"].as_str().expect("a copy has a path"))
}

/// Blocks of the files in `folder` whose names end in `suffix`; of clones, as if they shared nothing.
fn blocks(folder: &Path, suffix: &str) -> u64 {
    let files = fs::read_dir(folder).expect("a folder can be read").flatten();
    let those = files.filter(|file| file.file_name().to_string_lossy().ends_with(suffix));
    those.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

/// Restores the oldest copy, and copies the newest, in turn.
fn open_the_oldest(workshop: &Workshop, sandbox: &Sandbox, newest: &Path) {
    let (restored, catted, copied) =
        (workshop.file("restored.db"), workshop.file("catted.db"), workshop.file("copied.db"));
    let oldest = sandbox.puller(&["list", "--json"]).exits(0).json().remove(0);
    let oldest = oldest["copy"].as_str().expect("a copy has an id").to_owned();
    let mut table = Table::new(
        format!("getting {oldest}, the oldest copy, in seconds (goal: in ≤ 3 times the time of copying it)"),
        &["", "cp, durable", "restore", "÷", "cat", "÷"],
    );
    for round in 1..=3 {
        let mut cp = Command::new("cp");
        cp.arg("--reflink=never").arg(newest).arg(&copied);
        let cp = timed(&mut cp, &copied, silence());
        let mut restore = sandbox.command(programs::puller());
        restore
            .arg("--store")
            .arg(sandbox.store())
            .args(["-q", "restore", "gym", &oldest, "--to"])
            .arg(&restored);
        let restore = timed(&mut restore, &restored, silence());
        let mut cat = sandbox.command(programs::puller());
        cat.arg("--store").arg(sandbox.store()).args(["-q", "cat", "gym", &oldest]);
        let cat = timed(&mut cat, &catted, File::create(&catted));
        let (one, by) = (
            |seconds: Option<f64>| seconds.map_or("-".into(), |seconds| format!("{seconds:.2}")),
            |seconds: Option<f64>| seconds.zip(cp).map_or("-".into(), |(seconds, cp)| ratio(seconds / cp)),
        );
        table.row([format!("round {round}"), one(cp), one(restore), by(restore), one(cat), by(cat)]);
    }
    table.print();
}

fn silence() -> io::Result<File> {
    tempfile::tempfile()
}

/// How long `command`, with its stdout in `out`, takes to make `file` and the file to be on the disk; nothing where it fails.
/// The file goes again.
fn timed(command: &mut Command, file: &Path, out: io::Result<File>) -> Option<f64> {
    rustix::fs::sync();
    let started = Instant::now();
    let run = meter::run_into(command, out.expect("a file can be made")).ok()?;
    let made = run.status.success().then(|| {
        File::open(file).and_then(|file| file.sync_all()).expect("a file can be synced");
        started.elapsed().as_secs_f64()
    });
    let _ = fs::remove_file(file);
    made
}
