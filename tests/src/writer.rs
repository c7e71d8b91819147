//! The hostile writer as a test sees it: a process that commits without pause, and what it has committed so far.

use crate::ledger::Commit;
use crate::programs;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A running `hostile-writer`, killed when the value goes.
#[derive(Debug)]
pub struct Writer {
    child: Child,
    told: Arc<Told>,
}

/// How long the writer may take for one commit, waiting for locks included.
const LIMIT: Duration = Duration::from_secs(60);

impl Writer {
    /// Starts one on the database at `db`, made where it is missing, and waits for its first commit. `arguments` are
    /// those of `hostile-writer` after the database.
    #[track_caller]
    pub fn start(db: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(programs::hostile_writer());
        command.arg(db).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the writer can be started");
        let stdout = child.stdout.take().expect("the writer's stdout is a pipe");
        let told = Arc::new(Told::default());
        let listener = Arc::clone(&told);
        std::thread::spawn(move || listener.listen(stdout));
        let writer = Self { child, told };
        writer.wait_until("committed anything", |commits| !commits.is_empty());
        writer
    }

    /// The number of the newest commit it has told of. It may have made more, never fewer.
    pub fn newest(&self) -> i64 {
        let heard = self.told.heard.lock().expect("the listener does not panic");
        heard.commits.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// Waits until the writer tells of the commit that `found` names; panics unless it left the same state.
    #[track_caller]
    pub fn confirm(&self, found: Commit) {
        self.wait_until("told of a commit that a copy has", |commits| commits.contains_key(&found.seq));
        let heard = self.told.heard.lock().expect("the listener does not panic");
        let made = heard.commits[&found.seq];
        assert_eq!(found, made, "a copy's state and the state the writer committed");
    }

    /// Waits until it has committed `count` times more.
    #[track_caller]
    pub fn commits(&self, count: i64) {
        let wanted = self.newest() + count;
        let enough =
            |commits: &BTreeMap<i64, Commit>| commits.last_key_value().is_some_and(|last| *last.0 >= wanted);
        self.wait_until("committed more", enough);
    }

    /// The process, to signal.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as `kill -9` does, wherever it is, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn(&BTreeMap<i64, Commit>) -> bool) {
        let heard = self.told.heard.lock().expect("the listener does not panic");
        let (heard, timeout) = self
            .told
            .changed
            .wait_timeout_while(heard, LIMIT, |heard| !is_so(&heard.commits) && !heard.ended)
            .expect("the listener does not panic");
        assert!(is_so(&heard.commits), "the writer has not {what} (ended: {})", heard.ended);
        assert!(!timeout.timed_out(), "the writer has not {what} within {LIMIT:?}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.kill9();
    }
}

#[derive(Default, Debug)]
struct Told {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default, Debug)]
struct Heard {
    commits: BTreeMap<i64, Commit>,
    ended: bool,
}

impl Told {
    /// Takes down every commit the writer tells of, until it is gone. The last line may be half a line.
    fn listen(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(commit) = Commit::from_line(&line) {
                self.heard.lock().expect("nobody panics with the lock").commits.insert(commit.seq, commit);
                self.changed.notify_all();
            }
        }
        self.heard.lock().expect("nobody panics with the lock").ended = true;
        self.changed.notify_all();
    }
}
