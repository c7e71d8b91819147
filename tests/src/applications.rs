//! Applications that use a database while it is replaced under them: what they were told of is what they may rely on.

use crate::programs;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A running `hostile-writer` or `watcher`, killed when the value goes.
#[derive(Debug)]
pub struct Application {
    child: Child,
    stderr: File,
    told: Arc<(Mutex<Told>, Condvar)>,
}

/// What an application has printed.
#[derive(Default, Debug)]
struct Told {
    /// Lines of its work: commits or looks.
    lines: usize,
    /// The numbers of its commits.
    acknowledged: Vec<i64>,
    /// Nobody listens any more: it ends by itself after its next commit or look.
    is_enough: bool,
    ended: bool,
}

/// How long it may take for one commit or look, waiting for locks included.
const LIMIT: Duration = Duration::from_secs(60);

impl Application {
    /// A writer on `db` whose commits are numbered from `number` on; waits for the first. `arguments` are those of
    /// `hostile-writer`.
    #[track_caller]
    pub fn writer(db: &Path, number: i64, arguments: &[&str]) -> Self {
        let mut command = Command::new(programs::hostile_writer());
        command.arg(db).args(["--number", &number.to_string()]).args(arguments);
        Self::start(command)
    }

    /// A reader of `db` that judges each state; waits for its first look. `arguments` are those of `watcher`.
    #[track_caller]
    pub fn watcher(db: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(programs::watcher());
        command.arg(db).args(arguments);
        Self::start(command)
    }

    #[track_caller]
    fn start(mut command: Command) -> Self {
        let stderr = tempfile::tempfile().expect("a temporary file can be made");
        let handle = stderr.try_clone().expect("a file handle can be shared");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(handle);
        let mut child = command.spawn().expect("an application can be started");
        let stdout = child.stdout.take().expect("its stdout is a pipe");
        let told = Arc::<(Mutex<Told>, Condvar)>::default();
        let listener = Arc::clone(&told);
        std::thread::spawn(move || listen(&listener, stdout));
        let mut application = Self { child, stderr, told };
        application.goes_on(1);
        application
    }

    /// Waits until it has committed or looked `count` times more; panics, with what it says, where it has ended.
    #[track_caller]
    pub fn goes_on(&mut self, count: usize) {
        let (told, changed) = &*self.told;
        let told = told.lock().expect("the listener does not panic");
        let wanted = told.lines + count;
        let (told, _) = changed
            .wait_timeout_while(told, LIMIT, |told| told.lines < wanted && !told.ended)
            .expect("the listener does not panic");
        let (is_enough, has_ended) = (told.lines >= wanted, told.ended);
        drop(told);
        assert!(!has_ended, "an application ended: {}", self.said());
        assert!(is_enough, "an application does not go on within {LIMIT:?}");
    }

    /// Ends it, once it has gone on, and gives the numbers of all commits that it was told to be done.
    #[track_caller]
    pub fn end(mut self) -> Vec<i64> {
        self.goes_on(1);
        self.kill9();
        let (told, changed) = &*self.told;
        let told = told.lock().expect("the listener does not panic");
        let told = changed.wait_while(told, |told| !told.ended).expect("the listener does not panic");
        told.acknowledged.clone()
    }

    /// The same, but it ends between two commits: what has no journal on the disk may not be killed within one.
    #[track_caller]
    pub fn rests(mut self) -> Vec<i64> {
        self.goes_on(1);
        let (told, _) = &*self.told;
        told.lock().expect("the listener does not panic").is_enough = true;
        self.child.wait().expect("a child can be waited for");
        told.lock().expect("the listener does not panic").acknowledged.clone()
    }

    /// Kills it as `kill -9` does, wherever it is, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let read = self.stderr.rewind().and_then(|()| self.stderr.read_to_string(&mut said));
        read.expect("a temporary file can be read");
        said
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes down what the application tells, until it is gone. The last line may be half a line, and is not counted.
fn listen((told, changed): &(Mutex<Told>, Condvar), stdout: ChildStdout) {
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.ends_with('\n') {
        let mut told = told.lock().expect("nobody panics with the lock");
        told.lines += 1;
        let number =
            line.trim_end().strip_prefix("acknowledged ").and_then(|number| number.parse::<i64>().ok());
        told.acknowledged.extend(number);
        changed.notify_all();
        line.clear();
        if told.is_enough {
            break;
        }
    }
    told.lock().expect("nobody panics with the lock").ended = true;
    changed.notify_all();
}
