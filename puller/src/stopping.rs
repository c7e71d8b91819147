//! The application is stopped for the time of a restore, and started again, by commands of the user's.
//!
//! It is started again whatever comes between. Where a restore fails, [`Stopped`] is dropped, and that starts it. Where this
//! process ends without that, by Ctrl-C or by a kill that no handler hears of, a guard does: a shell, begun before the application
//! is stopped, that reads from a pipe whose other end is held by this process alone. A line means that all is done; the end
//! of the pipe without one means that this process is no more, and with it all its locks, and only then the guard starts
//! the application. No signal has to be handled for that: one that ends this process does so at once, as it always did.

use crate::hooks;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long either command may take: services get up to a minute and a half to stop, and somebody may have to type a password.
const TIME_MAX: Duration = Duration::from_secs(120);

/// How long the guard may take to end once it was told that all is done.
const GUARD_WAIT: Duration = Duration::from_secs(5);

/// Characters of a command that are told.
const COMMAND_CHARS_MAX: usize = 200;

/// The guard's first word: from then on it ignores what it has to.
const READY: &str = "ready\n";

/// What the guard does; the command is its first argument. It is to outlive what ends the puller, and so ignores what may
/// reach it as well; what it starts is to hear these signals again. Nobody may be left to read what it says.
const GUARD: &str = r#"
trap '' HUP INT TERM PIPE
echo ready
exec >&2
read -r word && exit 0
echo 'puller ended before its time: the application is started again'
(trap - HUP INT TERM PIPE; exec sh -c "$1" </dev/null) && exit 0
printf 'puller ended before its time; the application may still be stopped, since this failed: %s\n' "$1"
exit 1
"#;

/// The application, stopped. It is started again by [`Stopped::start`], or, where that was not reached, when this is dropped,
/// or, where this process ends before, by the guard.
#[derive(Debug)]
pub struct Stopped {
    start: Option<Start>,
}

impl Stopped {
    /// Runs `stop`, a command line for `sh`. Where it fails, the restore is not to begin: `start` was run already, since what
    /// failed half way may have stopped something. Without `start` the application stays stopped.
    pub fn stop(stop: &str, start: Option<&str>) -> Result<Self, Fault> {
        let mut stopped = Self { start: start.map(Start::guarded).transpose()? };
        let Err(why) = run(stop, TIME_MAX) else { return Ok(stopped) };
        let again = match stopped.start.take().map(Start::run) {
            None => String::new(),
            Some(Ok(())) => "; the start command was run, in case it had stopped something".to_owned(),
            Some(Err(fault)) => format!("; {fault}"),
        };
        let stop = printable(stop, COMMAND_CHARS_MAX);
        let what = format!("the application could not be stopped: `{stop}` failed: {why}{again}");
        Err(Fault::new(Kind::Target, what)
            .hint("nothing was begun; run the command by hand to see what is wrong with it"))
    }

    /// Runs the start command, if there is one.
    pub fn start(mut self) -> Result<(), Fault> {
        self.start.take().map_or(Ok(()), Start::run)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(Err(fault)) = self.start.take().map(Start::run) {
            tracing::error!("{fault}; {}", fault.hint);
        }
    }
}

/// The start command, and the guard that runs it should this process end.
#[derive(Debug)]
struct Start {
    command: String,
    guard: Child,
}

impl Start {
    fn guarded(command: &str) -> Result<Self, Fault> {
        let mut guard = shell(GUARD);
        // In a process group of its own: what Ctrl-C ends is the group of the terminal.
        guard.args(["sh", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let cannot = |error| Fault::io("the guard over the start command", &error);
        let mut guard = guard.spawn().map_err(cannot)?;
        // That is the first thing it does; where it cannot, it is over, and so is this pipe.
        let mut ready = [0; READY.len()];
        guard.stdout.take().map_or(Ok(()), |mut words| words.read_exact(&mut ready)).map_err(cannot)?;
        Ok(Self { command: command.to_owned(), guard })
    }

    fn run(self) -> Result<(), Fault> {
        let result = run(&self.command, TIME_MAX);
        if let Err(why) = dismiss(self.guard) {
            tracing::error!("the guard over the start command: {why}");
        }
        let command = printable(&self.command, COMMAND_CHARS_MAX);
        result.map_err(|why| {
            let what =
                format!("the application may still be stopped: its start command `{command}` failed: {why}");
            Fault::new(Kind::Target, what).hint("start the application by hand")
        })
    }
}

/// Tells the guard that all is done.
fn dismiss(mut guard: Child) -> Result<(), String> {
    let told = guard.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(b"done\n"));
    hooks::wait(guard, Instant::now(), GUARD_WAIT)
        .and(told.map_err(|error| format!("it cannot be told: {error}")))
}

/// Runs `command` to its end or to `limit`.
fn run(command: &str, limit: Duration) -> Result<(), String> {
    let mut shell = shell(command);
    // `ssh` and `sudo` ask for a password at the terminal, whatever their stdin is, and may do so only in the group of
    // processes that has the terminal. So they stay in that of this process, and Ctrl-C reaches them as well. Without a
    // terminal nobody can be asked: there the command has a group of its own, so that at the limit all of it can be killed.
    if File::open("/dev/tty").is_err() {
        shell.process_group(0);
    }
    let child = shell.stdin(Stdio::null()).spawn().map_err(|error| format!("`sh` cannot be run: {error}"))?;
    hooks::wait(child, Instant::now(), limit)
}

/// `sh -c`, whose output goes where people read: stdout is for data.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).stdout(io::stderr()).stderr(Stdio::inherit());
    shell
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};
    use std::path::Path;

    /// Set for a process of this test that is to be killed, to where it works.
    const TO_BE_KILLED_IN: &str = "TEST_STOPPING_TO_BE_KILLED_IN";

    /// Set for a process of this test whose output is looked at.
    const TO_WRITE: &str = "TEST_STOPPING_TO_WRITE";

    /// A command that writes `word` into a file of `dir`.
    fn say(dir: &Path, word: &str) -> String {
        format!("echo {word} >> '{}/said'", dir.display())
    }

    /// What was said so far.
    fn said(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("said")).unwrap_or_default().replace('\n', " ")
    }

    #[track_caller]
    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(20), "waiting for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_application_is_stopped_and_started_once() {
        let dir = tempfile::tempdir().unwrap();
        let stopped = Stopped::stop(&say(dir.path(), "stop"), Some(&say(dir.path(), "start"))).unwrap();
        assert_eq!(said(dir.path()), "stop ");
        stopped.start().unwrap();
        assert_eq!(said(dir.path()), "stop start ");
    }

    #[test]
    fn an_application_is_started_when_what_was_to_come_between_failed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Stopped::stop(&say(dir.path(), "stop"), Some(&say(dir.path(), "start"))).unwrap());
        assert_eq!(said(dir.path()), "stop start ");
    }

    #[test]
    fn without_a_start_command_an_application_stays_stopped() {
        let dir = tempfile::tempdir().unwrap();
        drop(Stopped::stop(&say(dir.path(), "stop"), None).unwrap());
        Stopped::stop(&say(dir.path(), "again"), None).unwrap().start().unwrap();
        assert_eq!(said(dir.path()), "stop again ");
    }

    #[test]
    fn a_stop_command_that_fails_is_told_and_what_it_stopped_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let stop = format!("{}; exit 7", say(dir.path(), "half"));
        let fault = Stopped::stop(&stop, Some(&say(dir.path(), "start"))).unwrap_err();
        assert!(fault.message.contains("failed: it ended with exit code 7"), "{fault}");
        assert!(fault.message.contains("the start command was run"), "{fault}");
        assert_eq!((fault.kind, said(dir.path()).as_str()), (Kind::Target, "half start "));
        let fault = Stopped::stop("exit 7", Some("exit 8")).unwrap_err();
        assert!(fault.message.contains("exit code 7") && fault.message.contains("exit code 8"), "{fault}");
        let fault = Stopped::stop("exit 7", None).unwrap_err();
        assert!(fault.message.ends_with("exit code 7"), "{fault}");
    }

    #[test]
    fn a_start_command_that_fails_is_told_and_not_run_twice() {
        let dir = tempfile::tempdir().unwrap();
        let start = format!("{}; kill -TERM $$", say(dir.path(), "start"));
        let fault = Stopped::stop("true", Some(&start)).unwrap().start().unwrap_err();
        assert!(fault.message.starts_with("the application may still be stopped"), "{fault}");
        assert!(fault.message.contains("signal: 15"), "{fault}");
        assert_eq!(said(dir.path()), "start ");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let began = Instant::now();
        let why = run("sleep 60", Duration::from_millis(100)).unwrap_err();
        assert!(why.contains("longer than 100ms") && began.elapsed() < Duration::from_secs(20), "{why}");
    }

    #[test]
    fn a_command_that_nobody_can_see_is_killed_with_all_that_it_started() {
        if File::open("/dev/tty").is_ok() {
            return eprintln!("SKIPPED: with a terminal, commands stay in its group of processes");
        }
        let dir = tempfile::tempdir().unwrap();
        let late = format!("(sleep 1; {}) & wait", say(dir.path(), "late"));
        run(&late, Duration::from_millis(100)).unwrap_err();
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(said(dir.path()), "");
    }

    #[test]
    fn what_commands_write_is_no_data() {
        if std::env::var_os(TO_WRITE).is_some() {
            let stopped = Stopped::stop("echo one; echo two >&2", Some("echo three; false")).unwrap();
            stopped.start().unwrap_err();
            return;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "stopping::tests::what_commands_write_is_no_data", "--nocapture"]);
        let output = command.env(TO_WRITE, "1").stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success());
        let (data, talk) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(talk, "one\ntwo\nthree\n");
        assert!(["one", "two", "three"].iter().all(|word| !data.lines().any(|line| line == *word)), "{data}");
    }

    #[test]
    fn a_process_that_is_killed_leaves_no_application_stopped() {
        if let Some(dir) = std::env::var_os(TO_BE_KILLED_IN) {
            let dir = Path::new(&dir);
            // What is started is to hear the signals that the guard does not: else this would be said twice.
            let start = format!("kill -TERM $$; {}; exit 1", say(dir, "deaf"));
            let start = format!("sh -c '{}'; {}", start.replace('\'', "'\\''"), say(dir, "start"));
            let _stopped = Stopped::stop(&say(dir, "stop"), Some(&start)).unwrap();
            std::fs::write(dir.join("stopped"), "").unwrap();
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        for signal in [Signal::KILL, Signal::INT, Signal::TERM, Signal::HUP] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "stopping::tests::a_process_that_is_killed_leaves_no_application_stopped"]);
            command.env(TO_BE_KILLED_IN, dir.path()).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            wait_until("the application to be stopped", || dir.path().join("stopped").exists());
            assert_eq!(said(dir.path()), "stop ");
            kill_process(Pid::from_child(&child), signal).unwrap();
            child.wait().unwrap();
            wait_until("the application to be started", || said(dir.path()) == "stop start ");
        }
    }

    #[test]
    fn the_guard_outlives_what_ends_a_puller() {
        let dir = tempfile::tempdir().unwrap();
        let mut start = Start::guarded(&say(dir.path(), "start")).unwrap();
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            kill_process(Pid::from_child(&start.guard), signal).unwrap();
        }
        assert_eq!(said(dir.path()), "");
        drop(start.guard.stdin.take());
        assert!(start.guard.wait().unwrap().success());
        assert_eq!(said(dir.path()), "start ");
    }
}
