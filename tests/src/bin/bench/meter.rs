//! What a process takes: time, CPU, memory, bytes written. From `/proc` where there is one, else not measured.

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Between two looks at a running process.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A process whose counters do not move for this long is at rest.
const REST: Duration = Duration::from_millis(300);

/// How long a process may take to come to rest.
const REST_WAIT: Duration = Duration::from_secs(120);

/// What a process that ran to its end took.
pub(crate) struct Run {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) stdout: String,
    /// From its start to its end.
    pub(crate) seconds: f64,
    /// User and system together, with those of its children that it waited for.
    pub(crate) cpu_seconds: Option<f64>,
    /// The most memory it was seen to have.
    pub(crate) peak_bytes: Option<f64>,
    /// The most files it was seen to have open.
    pub(crate) open_files: Option<f64>,
}

/// Runs `command` to its end; what it says on stderr is seen.
pub(crate) fn run(command: &mut Command) -> std::io::Result<Run> {
    let mut printed = tempfile::tempfile()?;
    let mut run = run_into(command, printed.try_clone()?)?;
    printed.rewind()?;
    printed.read_to_string(&mut run.stdout)?;
    Ok(run)
}

/// The same with its stdout in `out`.
pub(crate) fn run_into(command: &mut Command, out: File) -> std::io::Result<Run> {
    command.stdout(out);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let pid = child.id();
    let (mut peak_bytes, mut open_files) = (None, None);
    while !has_ended(&child) {
        peak_bytes = peak(pid).or(peak_bytes);
        open_files = [open_files, files(pid)].into_iter().flatten().reduce(f64::max);
        std::thread::sleep(LOOK_EVERY);
    }
    let seconds = began.elapsed().as_secs_f64();
    // It has ended and nobody asked how yet: its counters are still there.
    let cpu_seconds = cpu_with_children(pid);
    let status = child.wait()?;
    Ok(Run { status, stdout: String::new(), seconds, cpu_seconds, peak_bytes, open_files })
}

fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(Pid::from_child(child)), options).expect("a child can be asked after").is_some()
}

/// What a running process took since it was started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counters {
    /// User and system together.
    pub(crate) cpu_seconds: Option<f64>,
    /// The most memory it had.
    pub(crate) peak_bytes: Option<f64>,
    /// Bytes it caused to be written to disks.
    pub(crate) disk_bytes: Option<f64>,
    /// Bytes it gave to `write` and its like: files, pipes, and such sockets as are written that way.
    pub(crate) write_bytes: Option<f64>,
}

impl Counters {
    /// These without those of an earlier look; the peak is that of the whole life.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let less = |now: Option<f64>, before: Option<f64>| Some(now? - before?);
        Self {
            cpu_seconds: less(self.cpu_seconds, earlier.cpu_seconds),
            peak_bytes: self.peak_bytes,
            disk_bytes: less(self.disk_bytes, earlier.disk_bytes),
            write_bytes: less(self.write_bytes, earlier.write_bytes),
        }
    }
}

/// The counters of process `pid` once it is at rest.
pub(crate) fn at_rest(pid: u32) -> Counters {
    let began = Instant::now();
    let mut before = counters(pid);
    loop {
        std::thread::sleep(REST);
        let now = counters(pid);
        if now == before || began.elapsed() > REST_WAIT {
            return now;
        }
        before = now;
    }
}

fn counters(pid: u32) -> Counters {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Counters {
        cpu_seconds: cpu(pid),
        peak_bytes: peak(pid),
        disk_bytes: field(&io, "write_bytes:"),
        write_bytes: field(&io, "wchar:"),
    }
}

/// What process `pid` and those of its children that ended took, once that grows no more.
pub(crate) fn cpu_at_rest(pid: u32) -> Option<f64> {
    let began = Instant::now();
    let mut before = cpu_with_children(pid);
    loop {
        std::thread::sleep(REST);
        let now = cpu_with_children(pid);
        if now == before || began.elapsed() > REST_WAIT {
            return now;
        }
        before = now;
    }
}

fn cpu_with_children(pid: u32) -> Option<f64> {
    cpu_of(pid, &[11, 12, 13, 14])
}

fn cpu(pid: u32) -> Option<f64> {
    cpu_of(pid, &[11, 12])
}

/// proc_pid_stat(5): fields 14 and 15, those of children 16 and 17, counted after the name, which may hold anything but a last `)`.
fn cpu_of(pid: u32, fields_wanted: &[usize]) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: &usize| fields.get(*index)?.parse::<f64>().ok();
    let sum: Option<f64> = fields_wanted.iter().map(ticks).sum();
    Some(sum? / rustix::param::clock_ticks_per_second() as f64)
}

/// proc_pid_status(5): `VmHWM`, which the kernel keeps, so that looking now and then misses nothing but the very end.
fn peak(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&status, "VmHWM:").map(|kib| kib * 1024.0)
}

/// Files that process `pid` has open. Until it runs its own program it has those of this one.
fn files(pid: u32) -> Option<f64> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    (program != std::env::current_exe().ok()?).then_some(())?;
    fs::read_dir(format!("/proc/{pid}/fd")).map(|files| files.count() as f64).ok()
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
