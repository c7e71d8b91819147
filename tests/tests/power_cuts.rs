//! Power cuts: whatever was claimed with exit 0 is there afterwards, whole, and whatever came before it; what was not
//! claimed is there whole or not at all.
//!
//! ```text
//! PULLBACK_POWER_CUTS=60 cargo test -p pullback-tests --test power_cuts -- --nocapture
//! ```
//!
//! The store lies on a disk of its own, ext4 or XFS in a file. A program is killed at a random moment of its run, or before
//! a call that changes the disk, or has just ended; then the file system is told to stop (`FS_IOC_SHUTDOWN`, without its log), so that what it had not yet written is
//! lost, and is mounted again, which replays its journal. What it had handed to its disk survives even where no flush was
//! asked for: a program that fsyncs the wrong thing may be lucky here, one that fsyncs nothing is not, as the calibration
//! shows.

use pullback_tests::dice::Dice;
use pullback_tests::loop_disk::{FileSystem, LoopDisk};
use pullback_tests::sandbox::{Ran, Sandbox, wait};
use pullback_tests::strace::{self, Point, Points};
use pullback_tests::{contents, databases, privilege, programs};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Cuts of each kind, unless `PULLBACK_POWER_CUTS` says how many.
const CUTS: u32 = 5;

/// How long a program may run whose power is not cut meanwhile.
const LIMIT: Duration = Duration::from_secs(60);

/// What is missing in the calibration: `fsync` that does nothing, for all, for all but directories, or for directories.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int skipped(int fd) {
    struct stat stat;
    const char *which = getenv("SKIP_FSYNC");
    int is_dir = fstat(fd, &stat) == 0 && S_ISDIR(stat.st_mode);
    return which && (*which == 'a' || (*which == 'd') == is_dir);
}
int fsync(int fd) { return skipped(fd) ? 0 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return skipped(fd) ? 0 : syscall(SYS_fdatasync, fd); }
"#;

/// How many copies a policy of these tests keeps.
const KEPT: usize = 3;

/// What is going on when the power goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Pull,
    /// Of plain copies.
    Rotation,
    /// Of plain copies, as deltas.
    Packing,
}

/// When the power goes.
#[derive(Clone, Debug)]
enum Moment {
    /// Some time within the work.
    Random,
    /// Before a call that changes the disk, or makes a change durable.
    At(Point),
    /// As soon as the work has ended.
    AfterTheEnd,
}

/// A store on a disk that loses its power, and what is known to be in it.
struct Trial<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    dice: Dice,
    /// How long the work takes, as far as known.
    length: Duration,
    /// The newest copy that was claimed, and the database as it was then.
    claimed: Option<(String, PathBuf)>,
    /// Variables of the program that is cut off.
    variables: Vec<(&'static str, String)>,
    disk: LoopDisk,
}

impl<'a> Trial<'a> {
    fn begin(sandbox: &'a Sandbox, system: FileSystem, seed: u64, what: &str) -> Option<Self> {
        let source = sandbox.db("gym.db");
        if !source.exists() {
            databases::gym(&source, 300_000, 1024);
        }
        // XFS is no smaller than 300 MiB.
        let disk =
            LoopDisk::mount(system, &sandbox.file("disk"), &sandbox.file("disk.img"), 320 << 20, what)?;
        let (dice, length) = (Dice::new(seed), Duration::from_millis(300));
        disk.can_lose_power(what).then_some(Self {
            sandbox,
            source,
            dice,
            length,
            claimed: None,
            variables: Vec::new(),
            disk,
        })
    }

    fn store(&self) -> PathBuf {
        self.sandbox.file("disk").join("store")
    }

    #[track_caller]
    fn puller(&self, arguments: &[&str]) -> Ran {
        self.sandbox.puller_in(&self.store(), arguments)
    }

    /// Members with other notes, and a few visits more, in a database that nobody has open afterwards.
    fn change(&mut self) {
        let db = Connection::open(&self.source).expect("a gym can be opened");
        for _ in 0..self.dice.between(1, 30) {
            let (id, words) = (self.dice.between(1, 60), self.dice.between(2, 20) as usize);
            db.execute("UPDATE members SET note = ?2 WHERE id = ?1", (id, self.dice.words(words)))
                .expect("a row can be written");
        }
    }

    /// Pulls, and takes the power for granted.
    fn pull(&mut self) -> Result<(), String> {
        self.change();
        let stored = self.puller(&["pull", "--json", "gym.db"]);
        if stored.code() != 0 {
            return Err(format!("a pull fails: {stored}"));
        }
        self.claim(&stored.only_json());
        Ok(())
    }

    fn claim(&mut self, stored: &serde_json::Value) {
        let claimed = self.sandbox.file("claimed.db");
        fs::copy(&self.source, &claimed).expect("a database can be copied");
        self.claimed = Some((stored["copy"].as_str().expect("a copy has an id").to_owned(), claimed));
    }

    /// Has all programs pack as `pack` says.
    fn configure(&self, pack: &str) {
        let folder = self.sandbox.file("home/xdg_config_home/pullback");
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join("puller.toml"), format!("pack = \"{pack}\"\n")).expect("a file can be written");
    }

    fn listed(&self) -> Result<Vec<String>, String> {
        let listed = self.puller(&["list", "--json"]);
        match listed.code() {
            0 => Ok(ids(&listed)),
            _ => Err(format!("the copies cannot be listed: {listed}")),
        }
    }

    /// What is done when the power goes, by `program`.
    fn command(&self, mut command: Command, work: Work) -> Command {
        command.envs(self.variables.iter().cloned()).arg("--store").arg(self.store());
        let keep = KEPT.to_string();
        match work {
            Work::Pull => command.args(["pull", "--json", "--keep-last", &keep, "gym.db"]),
            Work::Rotation | Work::Packing => command.args(["rotate", "--json", "--keep-last", &keep, "gym"]),
        };
        command
    }

    /// Makes sure that there is something to do.
    fn prepare(&mut self, work: Work) -> Result<(), String> {
        let (pulls, packed, pack) = match work {
            Work::Pull => (1, "delta", "delta"),
            Work::Rotation => (2, "none", "none"),
            Work::Packing => (2, "none", "delta"),
        };
        self.configure(packed);
        (0..pulls).try_for_each(|_| self.pull())?;
        while self.listed()?.len() < KEPT + pulls {
            self.pull()?;
        }
        self.configure(pack);
        self.change();
        Ok(())
    }

    /// The calls of `work` that the power may go at. None where they cannot be told.
    fn points(&mut self, work: Work) -> Vec<Point> {
        if !strace::is_usable() {
            return Vec::new();
        }
        self.prepare(work).expect("pulls with the power on succeed");
        let points = Points::new(self.sandbox);
        let mut watched = self.command(points.watch(self.sandbox, programs::puller()), work);
        let mut watched = watched.stdout(Stdio::null()).spawn().expect("`strace` can be started");
        assert!(wait(&mut watched, LIMIT).is_some_and(|status| status.success()));
        points.collect(watched.id(), &mut self.dice)
    }

    /// Cuts the power once, in `work`, and looks what is left. Whether the work was cut off.
    fn cut(&mut self, work: Work, moment: &Moment) -> Result<bool, String> {
        self.prepare(work)?;
        let before = self.listed()?;
        // What a pull adds may take the place of one of these.
        let kept = before.iter().rev().take(if work == Work::Pull { KEPT - 1 } else { KEPT });
        let kept: BTreeSet<String> = kept.cloned().collect();
        let out = self.sandbox.file("out");
        let (program, limit) = match moment {
            Moment::Random => (None, self.length.mul_f64(self.dice.between(0, 1_000) as f64 / 1_000.0)),
            Moment::At(point) => (Some(strace::killed_at(point, self.sandbox, programs::puller())), LIMIT),
            Moment::AfterTheEnd => (None, LIMIT),
        };
        let program = program.unwrap_or_else(|| self.sandbox.command(programs::puller()));
        let mut command = self.command(program, work);
        command.stdout(File::create(&out).expect("a file can be made"));
        let started = Instant::now();
        let ended = wait(&mut command.spawn().expect("puller can be started"), limit);
        self.disk.cut_power();
        let ended = ended.filter(|status| status.signal().is_none());
        // What else this machine does decides how long it takes; so that is learnt on the way.
        self.length = match ended {
            Some(_) if matches!(moment, Moment::At(_)) => self.length,
            Some(_) => started.elapsed(),
            None => self.length.mul_f64(1.05),
        };
        self.disk.restore_power();
        let said = fs::read_to_string(&out).expect("a file can be read");
        match ended {
            Some(status) if !status.success() => return Err(format!("{work:?} itself fails: {said}")),
            Some(_) if work == Work::Pull => {
                self.claim(&serde_json::from_str(&said).expect("a pull tells JSON"))
            }
            _ => {}
        }
        self.look(&kept)?;
        if ended.is_some() && work != Work::Pull && self.listed()?.len() > KEPT {
            return Err("copies that were said to be gone are back".to_owned());
        }
        self.pull()?;
        self.is_tidy()?;
        Ok(ended.is_none())
    }

    /// Whether all that was to stay did, and all that is listed is whole.
    fn look(&self, kept: &BTreeSet<String>) -> Result<(), String> {
        let listed = self.listed()?;
        let (claimed, source) = self.claimed.as_ref().expect("a copy was claimed before");
        if let Some(lost) = kept.iter().chain([claimed]).find(|id| !listed.contains(id)) {
            return Err(format!("{lost} is lost, {listed:?} are left"));
        }
        let verified = self.puller(&["verify", "--all", "--json"]);
        if verified.code() != 0 || ids(&verified) != listed {
            return Err(format!("the copies are not whole: {verified}"));
        }
        // A folder of its own: reading a database in WAL mode leaves files beside it.
        let folder = tempfile::tempdir_in(self.sandbox.db("")).expect("a folder can be made");
        let target = folder.path().join("restored.db");
        let restored = self.puller(&["restore", "gym", claimed, "--to", &target.display().to_string()]);
        if restored.code() != 0 {
            return Err(format!("{claimed} cannot be restored: {restored}"));
        }
        (contents::of(&target) == contents::of(source))
            .then_some(())
            .ok_or_else(|| format!("{claimed} is not what was pulled"))
    }

    /// Nothing that a run left half done is there after a pull.
    fn is_tidy(&self) -> Result<(), String> {
        let listed = self.listed()?;
        let copies = self.store().join("local/gym/copies");
        for entry in fs::read_dir(copies).expect("a folder can be read").flatten() {
            let name = entry.file_name().into_string().expect("names of tests are UTF-8");
            let of = name.split('.').next().unwrap_or_default();
            if !listed.iter().any(|id| id == of) {
                return Err(format!("`{name}` is left over"));
            }
        }
        Ok(())
    }
}

fn ids(ran: &Ran) -> Vec<String> {
    ran.json().iter().map(|object| object["copy"].as_str().expect("a copy has an id").to_owned()).collect()
}

fn cuts() -> u32 {
    std::env::var("PULLBACK_POWER_CUTS").map_or(CUTS, |count| count.parse().expect("a number of power cuts"))
}

#[track_caller]
fn check(system: FileSystem, work: Work) {
    let sandbox = Sandbox::new();
    let what = format!("power cuts in {work:?} on {}", system.name());
    let Some(mut trial) = Trial::begin(&sandbox, system, 1, &what) else { return };
    trial.pull().expect("a pull with its power on succeeds");
    let points = trial.points(work);
    let (cuts, mut within) = (cuts(), 0);
    for number in 1..=cuts {
        let one_of_them = |dice: &mut Dice| points[dice.between(0, points.len() as i64) as usize].clone();
        let moment = match number % 4 {
            0 => Moment::AfterTheEnd,
            1 => Moment::Random,
            _ if points.is_empty() => Moment::Random,
            _ => Moment::At(one_of_them(&mut trial.dice)),
        };
        match trial.cut(work, &moment) {
            Ok(was_within) => within += u32::from(was_within),
            Err(why) => panic!("{what}: no. {number} of {cuts}, {moment:?}: {why}"),
        }
    }
    println!(
        "{what}: {cuts} of {cuts} lost nothing; {within} cut it off, of {} chosen points and at random",
        points.len()
    );
    assert!(within > 0, "{what}: none cut it off");
}

#[test]
fn a_pull_whose_power_is_cut_on_ext4_costs_no_copy() {
    check(FileSystem::Ext4, Work::Pull);
}

#[test]
fn a_pull_whose_power_is_cut_on_xfs_costs_no_copy() {
    check(FileSystem::Xfs, Work::Pull);
}

#[test]
fn a_rotation_whose_power_is_cut_on_ext4_costs_no_copy() {
    check(FileSystem::Ext4, Work::Rotation);
}

#[test]
fn a_rotation_whose_power_is_cut_on_xfs_costs_no_copy() {
    check(FileSystem::Xfs, Work::Rotation);
}

#[test]
fn packing_whose_power_is_cut_on_ext4_costs_no_copy() {
    check(FileSystem::Ext4, Work::Packing);
}

#[test]
fn packing_whose_power_is_cut_on_xfs_costs_no_copy() {
    check(FileSystem::Xfs, Work::Packing);
}

/// A library that takes fsyncs away from the program it is loaded into.
fn shim(sandbox: &Sandbox) -> Option<PathBuf> {
    let (source, library) = (sandbox.file("shim.c"), sandbox.file("shim.so"));
    fs::write(&source, SHIM).expect("a file can be written");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    match made {
        Ok(status) if status.success() => Some(library),
        _ => {
            privilege::skip("the calibration of power cuts", "there is no `cc` here that makes libraries");
            None
        }
    }
}

/// How often `work` that was claimed, and cut off right after that, is found to have lost or broken something where fsyncs are
/// `skipped`.
fn found(system: FileSystem, work: Work, skipped: &str) -> Option<u32> {
    let sandbox = Sandbox::new();
    let library = shim(&sandbox)?;
    let mut found = 0;
    for number in 0..CUTS {
        let _ = fs::remove_dir_all(sandbox.file("home"));
        let mut trial = Trial::begin(&sandbox, system, number.into(), "the calibration of power cuts")?;
        trial.pull().expect("a pull with its power on succeeds");
        trial.variables = vec![("LD_PRELOAD", path(&library)), ("SKIP_FSYNC", skipped.to_owned())];
        found += u32::from(trial.cut(work, &Moment::AfterTheEnd).is_err());
    }
    println!("{work:?} on {}, without fsync of {skipped}: {found} of {CUTS} found", system.name());
    Some(found)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn power_cuts_show_that_fsyncs_are_missing() {
    for system in [FileSystem::Ext4, FileSystem::Xfs] {
        // Of directories it says nothing here: both file systems make names durable with the next file that is, and
        // history is written last.
        for (work, skipped) in [(Work::Pull, "all"), (Work::Pull, "files"), (Work::Packing, "files")] {
            let Some(found) = found(system, work, skipped) else { return };
            assert!(found > 0, "a missing fsync of {skipped} in {work:?} on {}", system.name());
        }
    }
}
