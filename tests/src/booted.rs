//! A machine of its own, in which systemd is process number 1: only root on Linux with systemd can have one.
//!
//! Its disk is this machine's, seen through an overlay: what is written there is kept in memory and gone afterwards. Its
//! processes, mounts, control groups and network (loopback alone) are its own. `booted.sh` boots and ends it; that it ends
//! hangs on a pipe, so that it does not outlive a test that is killed. Nothing that is enabled on this machine runs there.
//! There is a user `pi`, who may become root by `sudo` without a password, and the journal, in memory.

use crate::privilege;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What boots it, ends it and cleans up.
const SCRIPT: &str = include_str!("booted.sh");
/// How long it may take to have started what it starts.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// How long one command may run inside, as `timeout` takes it.
const RUN_LIMIT: &str = "60";
/// Where what is run inside is looked for, up to the login shell, which has a `PATH` of its own.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Taken from everybody inside, as `setpriv` takes it: what reaches the machine itself and no namespace keeps in.
const CAPABILITIES: &str =
    "-mac_admin,-mac_override,-sys_module,-sys_pacct,-sys_rawio,-sys_time,-syslog,-wake_alarm";

/// A running machine, shut down when the value goes.
#[derive(Debug)]
pub struct Booted {
    /// The shell that keeps its mounts, and ends it when its standard input ends.
    keeper: Child,
    /// Its process number 1, as it is numbered here.
    init: u32,
    /// Where the keeper sees what was written.
    upper: PathBuf,
    /// What the boot itself had written.
    written: BTreeMap<PathBuf, Stamp>,
    /// Empty for everybody but the keeper, who removes it.
    _scratch: TempDir,
}

/// By what a change of a file is seen: its inode, and the time of its last change.
type Stamp = (u64, i64, i64);

impl Booted {
    /// Boots it, which takes less than a second, and waits until all is started. Where that cannot be, why.
    pub fn start() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("only Linux has systemd".to_owned());
        }
        if !privilege::is_root() {
            return Err("only root can boot a machine in namespaces".to_owned());
        }
        let scratch = tempfile::Builder::new().prefix("pullback-booted-").tempdir();
        let scratch = scratch.map_err(|error| format!("no folder can be made: {error}"))?;
        let name = scratch.path().file_name().expect("a temporary folder has a name").to_owned();
        let mut errors = tempfile::tempfile().map_err(|error| format!("no file can be made: {error}"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "booted.sh"]);
        command.arg(scratch.path()).arg(name).arg(CAPABILITIES);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(errors.try_clone().expect("a file can be opened twice"));
        let mut keeper = command.spawn().map_err(|error| format!("`unshare` cannot be run: {error}"))?;
        let mut line = String::new();
        let output = keeper.stdout.take().expect("BUG: the output is piped");
        BufReader::new(output).read_line(&mut line).expect("a pipe can be read");
        let Ok(init) = line.trim().parse() else {
            drop(keeper.stdin.take());
            keeper.wait().expect("a child can be waited for");
            return Err(format!("no machine can be booted in namespaces: {}", said(&mut errors)));
        };
        let upper = format!("/proc/{}/root{}/upper", keeper.id(), scratch.path().display());
        let upper = PathBuf::from(upper);
        let mut booted = Self { keeper, init, upper, written: BTreeMap::new(), _scratch: scratch };
        booted.wait_until_all_is_started()?;
        booted.written = booted.upper_files();
        Ok(booted)
    }

    /// Runs `words` in a login shell of `user`, `root` or `pi`, in the user's home folder. Ended after a minute.
    #[track_caller]
    pub fn run(&self, user: &str, words: &str) -> Output {
        let mut command = self.enter();
        command.args(["timeout", "--kill-after", "1", RUN_LIMIT]);
        command.args(["runuser", "--login", user, "--command", words]);
        command.output().expect("`nsenter` can be run")
    }

    /// What `words` print when `user` runs them; they must succeed.
    #[track_caller]
    pub fn must(&self, user: &str, words: &str) -> String {
        let output = self.run(user, words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "`{words}` as {user}: {}\n{}{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.journal()
        );
        text(&output.stdout)
    }

    /// Puts a copy of the file `from` of this machine at `to` inside, as root's, to be run by everybody.
    #[track_caller]
    pub fn install(&self, from: &Path, to: &str) {
        let mut command = Command::new("install");
        command.args(["-D", "-m", "755"]).arg(from).arg(self.file(to));
        assert!(command.status().is_ok_and(|status| status.success()), "{} can be copied", from.display());
    }

    /// Writes the file that is `path` inside, as root's, and makes its folder.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let file = self.file(path);
        fs::create_dir_all(file.parent().expect("a file lies in a folder")).expect("a folder can be made");
        fs::write(file, text).expect("a file can be written");
    }

    /// Where this machine finds the file that is `path`, an absolute one, inside. Not for SQLite, which would follow links on
    /// the way and come out on this machine's own disk.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Its process number 1, as it is numbered here.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// The newest lines of the journal.
    pub fn journal(&self) -> String {
        let output = self.run("root", "journalctl --no-pager --lines 100");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The files that were made, written or removed since the boot, and the folders that were made or became another's, with a
    /// `/` at their end; sorted. What lies below /dev, /proc, /run, /sys and /tmp is in memory inside as well, and not told.
    pub fn changed_files(&self) -> Vec<String> {
        let is_new = |(path, stamp): &(PathBuf, Stamp)| self.written.get(path) != Some(stamp);
        let changed = self.upper_files().into_iter().filter(is_new);
        changed.map(|(path, _)| path.display().to_string()).collect()
    }

    /// All that is written so far.
    fn upper_files(&self) -> BTreeMap<PathBuf, Stamp> {
        let mut files = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(self.upper.join(&folder)).expect("what was written can be listed");
            for entry in entries {
                let path = folder.join(entry.expect("what was written can be listed").file_name());
                // Gone meanwhile: a temporary file.
                let Ok(metadata) = self.upper.join(&path).symlink_metadata() else { continue };
                let below = Path::new("/").join(&path);
                if !metadata.is_dir() {
                    files.insert(below, stamp(&metadata));
                    continue;
                }
                if is_other_folder(&metadata, &below) || self.written.contains_key(&below) {
                    // What happens in it changes its times.
                    files.insert(below.join(""), (metadata.ino(), 0, 0));
                }
                folders.push(path);
            }
        }
        files
    }

    fn wait_until_all_is_started(&self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let mut command = self.enter();
            command.args(["timeout", "10", "systemctl", "is-system-running", "--wait"]);
            let output = command.output().map_err(|error| format!("`nsenter` cannot be run: {error}"))?;
            match String::from_utf8_lossy(&output.stdout).trim() {
                "running" => return Ok(()),
                "degraded" => {
                    return Err(format!("systemd could not start all it should: {}", self.journal()));
                }
                state if started.elapsed() > BOOT_LIMIT => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    return Err(format!("systemd is not up after {BOOT_LIMIT:?}: {state} {said}"));
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// A command, still to be named, that is run inside by root, with nothing of this test's environment.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init.to_string());
        command.args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root", "--wd"]);
        command.args(["env", "-i"]).arg(format!("PATH={PATH}"));
        command.args(["setpriv", "--bounding-set", CAPABILITIES]).stdin(Stdio::null());
        command
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// That of a file other than a folder.
fn stamp(metadata: &Metadata) -> Stamp {
    // What was removed is a device 0: one inode with many names, whose times change with each of them.
    match metadata.file_type().is_char_device() && metadata.rdev() == 0 {
        true => (0, 0, 0),
        false => (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Whether the folder `below` is none of this machine's, or another's than here: not only copied to have something in it.
fn is_other_folder(upper: &Metadata, below: &Path) -> bool {
    let rights = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    !below.symlink_metadata().is_ok_and(|here| rights(&here) == rights(upper))
}

/// What a program has written to `file`, on one line.
fn said(file: &mut File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("a file can be read");
    text.lines().collect::<Vec<_>>().join("; ")
}
