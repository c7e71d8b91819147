//! The tools people use to keep a replica up to date: `.backup` with `rsync`, and `sqlite3_rsync`.

use crate::floor;
use crate::meter;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// What it took to bring a replica up to date.
#[derive(Clone, Copy, Default)]
pub(crate) struct Synced {
    /// Until the last process of the tool ended.
    pub(crate) seconds: Option<f64>,
    /// Until the replica was durable as well.
    pub(crate) durable_seconds: Option<f64>,
    /// Of the processes that would run where the database is.
    pub(crate) source_cpu_seconds: Option<f64>,
}

/// A replica for each tool, in a folder of their own.
pub(crate) struct Replicas {
    folder: TempDir,
}

impl Replicas {
    /// Replicas that are equal to `database`, which nobody has open.
    pub(crate) fn of(database: &Path, dir: &Path) -> Self {
        let replicas = Self { folder: tempfile::tempdir_in(dir).expect("a folder for replicas can be made") };
        for replica in [replicas.file("rsync.db"), replicas.file("sqlite3_rsync.db")] {
            fs::copy(database, replica).expect("a database can be copied");
        }
        replicas
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `sqlite3 DB ".backup TMP"`, then `rsync -B4096 TMP REPLICA`, comparing blocks as it does between two machines and
    /// not compressing, which is less work for the sender. Times and sizes tell it nothing here: `--ignore-times`.
    ///
    /// The sender is the process that is started; the receiver is a child of it, whose CPU is not in its own figures.
    pub(crate) fn rsync(&self, database: &Path) -> Synced {
        let (staged, replica) = (self.file("backup.tmp"), self.file("rsync.db"));
        let mut backup = Command::new("sqlite3");
        backup.arg(database).arg(format!(".backup '{}'", staged.display()));
        let mut rsync = Command::new("rsync");
        rsync.args(["--no-whole-file", "--block-size=4096", "--ignore-times"]).arg(&staged).arg(&replica);
        let synced = sync(database, &replica, [backup, rsync]);
        let _ = fs::remove_file(staged);
        synced
    }

    /// What `rsync -B4096 -z` says it sends and receives to make the file `old` the file `new`.
    pub(crate) fn rsync_compressed_bytes(&self, old: &Path, new: &Path) -> Option<f64> {
        let replica = self.file("compressed.db");
        let _ = fs::remove_file(&replica);
        let mut bytes = File::create(&replica).ok()?;
        std::io::copy(&mut File::open(old).ok()?, &mut bytes).ok()?;
        let mut rsync = Command::new("rsync");
        rsync.args(["--no-whole-file", "--block-size=4096", "--ignore-times", "--compress", "--stats"]);
        let run = meter::run(rsync.arg(new).arg(&replica)).ok().filter(|run| run.status.success())?;
        let _ = fs::remove_file(replica);
        let figure = |name| {
            let line = run.stdout.lines().find_map(|line| line.strip_prefix(name))?;
            line.replace(',', "").trim().parse::<f64>().ok()
        };
        Some(figure("Total bytes sent:")? + figure("Total bytes received:")?)
    }

    /// `sqlite3_rsync --protocol 1 DB REPLICA`: the faster of its protocols.
    ///
    /// The side of the origin is the process that is started; that of the replica is a child of it, whose CPU is not in
    /// its own figures.
    pub(crate) fn sqlite3_rsync(&self, database: &Path) -> Synced {
        let replica = self.file("sqlite3_rsync.db");
        let mut command = Command::new("sqlite3_rsync");
        command.args(["--protocol", "1"]).arg(database).arg(&replica);
        sync(database, &replica, [command])
    }
}

/// Runs the commands one after the other. No figures where one is not there or fails, or where the replica is another
/// database than the source afterwards: an exit code of 0 is not always the truth.
fn sync<const N: usize>(database: &Path, replica: &Path, commands: [Command; N]) -> Synced {
    rustix::fs::sync();
    let began = Instant::now();
    let cpu = commands.into_iter().map(run).sum::<Option<Option<f64>>>();
    let seconds = began.elapsed().as_secs_f64();
    let Some(source_cpu_seconds) = cpu else { return Synced::default() };
    let durable = File::open(replica).and_then(|replica| replica.sync_all()).is_ok();
    let durable_seconds = durable.then(|| began.elapsed().as_secs_f64());
    if !floor::are_equal(database, replica).unwrap_or(false) {
        eprintln!("deltas: the replica `{}` is not what it should be", replica.display());
        return Synced::default();
    }
    Synced { seconds: Some(seconds), durable_seconds, source_cpu_seconds }
}

/// Runs `command` until all processes that it starts have ended, and gives the CPU of the first; `None` where it fails.
fn run(mut command: Command) -> Option<Option<f64>> {
    // Each process has this pipe for its stderr, and the last that ends closes it: `sqlite3_rsync` does not wait for the
    // side of the replica.
    let (mut until_all_ended, stderr) = std::io::pipe().ok()?;
    let run = meter::run(command.stdin(Stdio::null()).stderr(stderr)).ok()?;
    drop(command);
    let mut said = String::new();
    until_all_ended.read_to_string(&mut said).ok()?;
    if !run.status.success() {
        eprintln!("deltas: {said}");
    }
    run.status.success().then_some(run.cpu_seconds)
}
