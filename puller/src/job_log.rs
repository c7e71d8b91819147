//! The log of a scheduled job: what each run said, two spaces in, and one JSON line where it began and where it ended.
//!
//! `JOB.log` grows to a limit, is then called `JOB.log.1` in the place of an older one, and begins anew: always between two
//! lines. What is read back are the JSON lines alone.

use crate::durable;
use crate::schedule::JobName;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Neither file of a log grows beyond this.
pub const LOG_BYTES_MAX: u64 = 1 << 20;

/// Of a line that a run said, so much is kept: a quarter of the log at most with [`RUN_LINES_MAX`] of them.
const LINE_CHARS_MAX: usize = 1000;

/// So many lines are kept of what a run said.
pub const RUN_LINES_MAX: usize = 60;

/// Tries to get the lock of a job, and the time between two.
const LOCK_TRIES: u32 = 20;
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// A run, as its line tells. The line of its beginning has neither an end nor an exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLine {
    /// The form of the line.
    pub v: u32,
    /// The job.
    pub job: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Its exit code.
    pub exit: Option<u8>,
    /// The first line of what was wrong.
    pub problem: Option<String>,
}

/// The log of one job.
pub struct JobLog {
    dir: PathBuf,
    job: JobName,
}

/// The right to run the job.
pub struct Lock {
    _file: File,
}

impl JobLog {
    /// The log of `job` in `dir`, which need not be there.
    pub fn in_dir(dir: &Path, job: JobName) -> Self {
        Self { dir: dir.to_owned(), job }
    }

    /// Whose log it is.
    pub fn job(&self) -> JobName {
        self.job
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.job.word()))
    }

    fn older(&self) -> PathBuf {
        self.dir.join(format!("{}.log.1", self.job.word()))
    }

    /// Lets one run of the job be at a time. The lock goes with its process. Whoever only looks whether the job runs holds it
    /// for a moment, which is waited for.
    pub fn lock(&self) -> Result<Lock, Fault> {
        for _ in 1..LOCK_TRIES {
            match self.lock_at_once() {
                Err(fault) if fault.kind == Kind::Locked => std::thread::sleep(LOCK_RETRY),
                locked => return locked,
            }
        }
        self.lock_at_once()
    }

    fn lock_at_once(&self) -> Result<Lock, Fault> {
        let path = self.dir.join(format!(".{}.lock", self.job.word()));
        let io = |error: io::Error| Fault::io(format!("`{}`", path.display()), &error);
        durable::make_dir(&self.dir).map_err(io)?;
        durable::lock(&path).map_err(io)?.map(|file| Lock { _file: file }).ok_or_else(|| {
            Fault::new(Kind::Locked, format!("the job `{}` runs already", self.job.word()))
                .hint("wait until it ends; `puller schedule status` tells")
        })
    }

    /// Whether a run of the job is under way.
    pub fn is_running(&self) -> bool {
        self.path().exists() && matches!(self.lock_at_once(), Err(fault) if fault.kind == Kind::Locked)
    }

    /// Writes down that a run began.
    pub fn begin(&self, began: Timestamp) -> Result<(), Fault> {
        let job = self.job.word().to_owned();
        self.add(&RunLine { v: 1, job, began, ended: None, exit: None, problem: None }, &[])
    }

    /// Writes down how a run ended and what it said; gives its line.
    pub fn end(
        &self,
        began: Timestamp,
        ended: Timestamp,
        exit: u8,
        said: &[String],
    ) -> (RunLine, Result<(), Fault>) {
        let problem =
            said.first().map(|line| printable(line.strip_prefix("error: ").unwrap_or(line), LINE_CHARS_MAX));
        let job = self.job.word().to_owned();
        let (ended, exit) = (Some(ended), Some(exit));
        let line = RunLine { v: 1, job, began, ended, exit, problem };
        let added = self.add(&line, said);
        (line, added)
    }

    fn add(&self, line: &RunLine, said: &[String]) -> Result<(), Fault> {
        let mut text = String::new();
        for said in said.iter().take(RUN_LINES_MAX) {
            text.extend(["  ", &printable(said, LINE_CHARS_MAX), "\n"]);
        }
        if said.len() > RUN_LINES_MAX {
            text.push_str(&format!("  … and {} lines more\n", said.len() - RUN_LINES_MAX));
        }
        text.push_str(&serde_json::to_string(line).expect("BUG: a line that is no JSON"));
        let path = self.path();
        let write = || {
            durable::make_dir(&self.dir)?;
            let length = path.metadata().map_or(0, |metadata| metadata.len());
            // One more for the line break of a line that was cut short, and one for the last.
            if length + text.len() as u64 + 2 > LOG_BYTES_MAX {
                fs::rename(&path, self.older())?;
            }
            durable::append_line(&path, &text)
        };
        write().map_err(|error| Fault::io(format!("the log `{}`", path.display()), &error))
    }

    /// The last run that is written down; one that did not come to its end has none.
    pub fn last(&self) -> Option<RunLine> {
        [self.path(), self.older()].iter().find_map(|path| {
            let text = fs::read(path).ok()?;
            let text = String::from_utf8_lossy(&text);
            text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
        })
    }
}

impl RunLine {
    /// How the run ended, for people; `running` says whether it is under way.
    pub fn outcome(&self, running: bool) -> String {
        let problem = self.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        match self.exit {
            Some(0) if self.problem.is_none() => "ok".to_owned(),
            Some(0) => format!("ok, with a word{problem}"),
            Some(code) => format!("failed with exit code {code}{problem}"),
            None if running => "under way".to_owned(),
            None => "was cut off".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path) -> JobLog {
        JobLog::in_dir(&dir.join("log"), JobName::Pull)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_log_keeps_to_its_limit_and_is_cut_between_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let said: Vec<String> = (0..2 * RUN_LINES_MAX).map(|n| format!("{n} {}", "é".repeat(5000))).collect();
        for run in 0..40 {
            log.end(at(run), at(run), 1, &said).1.unwrap();
            assert_eq!(log.last().unwrap().began, at(run));
            for path in [log.path(), log.older()] {
                let Ok(text) = fs::read_to_string(path) else { continue };
                assert!(text.len() as u64 <= LOG_BYTES_MAX, "{}", text.len());
                assert!(text.starts_with("  0 é") && text.ends_with("}\n"));
            }
        }
        assert!(log.older().exists());
        assert_eq!(fs::read_dir(dir.path().join("log")).unwrap().count(), 2);
    }

    #[test]
    fn what_a_run_said_is_not_taken_for_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        log.end(at(1), at(2), 7, &["first".to_owned()]).1.unwrap();
        let fake = fs::read_to_string(log.path()).unwrap().lines().last().unwrap().replace('7', "0");
        log.end(at(3), at(4), 5, &[fake.clone(), format!("x\n{fake}")]).1.unwrap();
        let last = log.last().unwrap();
        assert_eq!((last.exit, last.began), (Some(5), at(3)));
        assert!(last.problem.unwrap().contains("\"exit\":0"));
    }

    #[test]
    fn whoever_looks_whether_a_job_runs_keeps_it_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        log.end(at(1), at(2), 0, &[]).1.unwrap();
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| (0..3000).for_each(|_| _ = log.is_running()));
            while !looking.is_finished() {
                log.lock().expect("nobody runs it");
            }
        });
    }

    #[test]
    fn a_run_that_was_cut_off_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        assert_eq!(log.last(), None);
        assert!(!log.is_running());
        log.end(at(1), at(2), 0, &[]).1.unwrap();
        let lock = log.lock().unwrap();
        log.begin(at(3)).unwrap();
        assert!(log.is_running());
        assert_eq!(log.lock().err().unwrap().kind, Kind::Locked);
        drop(lock);
        // A process that another test starts at this moment holds every lock until it has become its program.
        let began = std::time::Instant::now();
        while log.is_running() && began.elapsed() < std::time::Duration::from_secs(10) {
            std::thread::yield_now();
        }
        assert!(!log.is_running());
        assert_eq!(log.last().unwrap().outcome(log.is_running()), "was cut off");
    }
}
