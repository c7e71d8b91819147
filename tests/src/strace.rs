//! Kills a program at a chosen system call, or has the call fail, with the public tool `strace`, where there is one.
//!
//! A kill comes at the entry of the call, which is then not made: killing at each call of a run in turn shows every state
//! that a kill can leave on the disk. `strace` counts calls per thread, and so does [`Points`].

use crate::dice::Dice;
use crate::privilege;
use crate::sandbox::Sandbox;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What changes names or contents on a disk, or makes them durable. Not `write`: an asynchronous runtime makes many of its
/// own, and what one of them changes is there before the next of these calls.
const CALLS: [&str; 15] = [
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmod",
    "ftruncate",
    "mkdir",
    "pwrite64",
    "copy_file_range",
];

/// Of a call that a run makes more often than this, a sample is taken.
const EACH_MAX: u32 = 24;
const SAMPLE: u32 = 4;

/// How long `strace` may take to write its log.
const LIMIT: Duration = Duration::from_secs(20);

/// The `nth` time that a thread of the program makes `call`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    call: String,
    nth: u32,
}

impl Point {
    /// The `nth` `call`, from 1 on.
    pub fn new(call: &str, nth: u32) -> Self {
        Self { call: call.to_owned(), nth }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} no. {}", self.call, self.nth)
    }
}

/// Whether this test can choose where programs are killed. Says so where it cannot.
pub fn is_usable() -> bool {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-e", "trace=none", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let usable = command.status().is_ok_and(|status| status.success());
    if !usable {
        privilege::skip("kills at chosen points", "there is no `strace` here that may trace");
    }
    usable
}

/// What comes to a program at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL, before the call.
    Kill,
    /// The call is not made, and fails with this error, such as `EIO`.
    Error(&'static str),
}

/// The points of one run, which is watched and not killed.
#[derive(Debug)]
pub struct Points {
    log: PathBuf,
    calls: Vec<&'static str>,
}

impl Points {
    /// To be watched with a log in `sandbox`.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self::of_calls(sandbox, &CALLS)
    }

    /// The same, at `calls` alone.
    pub fn of_calls(sandbox: &Sandbox, calls: &[&'static str]) -> Self {
        Self { log: sandbox.file("strace.log"), calls: calls.to_vec() }
    }

    /// `program`, watched. Other programs that it starts are not.
    pub fn watch(&self, sandbox: &Sandbox, program: &Path) -> Command {
        let calls: Vec<String> = self.calls.iter().map(|call| format!("?{call}")).collect();
        let mut command = sandbox.command(Path::new("strace"));
        command.args(["-D", "-f", "-b", "execve", "-q", "-e", "signal=none", "-e"]);
        command.arg(format!("trace={}", calls.join(",")));
        command.arg("-o").arg(&self.log).arg(program);
        command
    }

    /// All points of the run that was process `pid` and has ended, and of calls that it made very often some.
    #[track_caller]
    pub fn collect(&self, pid: u32, dice: &mut Dice) -> Vec<Point> {
        self.counts(pid).into_iter().flat_map(|(call, count)| some_of(call, count, dice)).collect()
    }

    /// How often the run that was process `pid` and has ended made each call, in the thread that made it most often.
    #[track_caller]
    pub fn counts(&self, pid: u32) -> BTreeMap<&'static str, u32> {
        let log = self.whole_log(pid);
        let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for line in log.lines() {
            let (thread, call) = line.split_once(' ').expect("a line of `strace` begins with a thread");
            // The second half of a call that another thread's came between has no name before its bracket.
            if let Some((name, _)) = call.trim_start().split_once('(').filter(|(name, _)| !name.contains('<'))
            {
                *counts.entry((name, thread)).or_default() += 1;
            }
        }
        let mut most: BTreeMap<&'static str, u32> = BTreeMap::new();
        for ((call, _), count) in counts {
            let Some(call) = self.calls.iter().find(|known| **known == call) else { continue };
            let seen = most.entry(call).or_default();
            *seen = count.max(*seen);
        }
        most
    }

    /// The log, once the program's end is in it: `strace` is no child of ours and writes it in its own time.
    #[track_caller]
    fn whole_log(&self, pid: u32) -> String {
        let (started, pid) = (Instant::now(), pid.to_string());
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let ends = |line: &str| {
                line.split_once(' ')
                    .is_some_and(|(of, what)| of == pid && what.trim_start().starts_with("+++"))
            };
            if log.lines().any(ends) {
                return log;
            }
            assert!(started.elapsed() < LIMIT, "`strace` has not seen the end of process {pid}:\n{log}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn some_of(call: &str, count: u32, dice: &mut Dice) -> Vec<Point> {
    let point = |nth| Point::new(call, nth);
    if count <= EACH_MAX {
        return (1..=count).map(point).collect();
    }
    let between = (0..SAMPLE).map(|_| dice.between(2, count.into()) as u32).collect::<Vec<_>>();
    [1, count].into_iter().chain(between).map(point).collect()
}

/// `program`, killed with SIGKILL when it comes to `point`. The process that is started is the program's own.
pub fn killed_at(point: &Point, sandbox: &Sandbox, program: &Path) -> Command {
    struck_at(point, Blow::Kill, sandbox, program)
}

/// `program`, to which `blow` comes at `point`; to other programs that it starts nothing does. The process that is started is
/// the program's own.
pub fn struck_at(point: &Point, blow: Blow, sandbox: &Sandbox, program: &Path) -> Command {
    let Point { call, nth } = point;
    let blow = match blow {
        Blow::Kill => "signal=SIGKILL".to_owned(),
        Blow::Error(error) => format!("error={error}"),
    };
    let mut command = sandbox.command(Path::new("strace"));
    command.args(["-D", "-f", "-b", "execve", "-qq", "-e", "signal=none", "-o", "/dev/null", "-e"]);
    command.arg(format!("trace={call}")).arg("-e").arg(format!("inject={call}:{blow}:when={nth}"));
    command.arg(program);
    command
}
