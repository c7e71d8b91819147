//! A place of its own for one test: folders, and both programs run in it with nothing of the user's configuration.

use crate::programs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Folders that go away with the value: `store`, `state` (the agent's), `db` (the databases) and a home.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    limit: Duration,
    _folder: TempDir,
}

/// How long a program may run, unless a test sets another limit.
const LIMIT: Duration = Duration::from_secs(60);

impl Sandbox {
    /// An empty one. The store is not made: puller does that.
    #[expect(clippy::new_without_default, reason = "making folders is no default value")]
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// The same, in `dir` instead of where temporary files go.
    pub fn new_in(dir: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("pullback-").tempdir_in(dir);
        let folder = folder.expect("a temporary folder can be made");
        // Resolved, so that a path as a program reports it can be compared (macOS: /tmp is a link).
        let root = folder.path().canonicalize().expect("a temporary folder has a path");
        for name in ["state", "db", "home"] {
            fs::create_dir(root.join(name)).expect("a folder can be made");
        }
        Self { root, limit: LIMIT, _folder: folder }
    }

    /// The same, where a program may run for `limit`.
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Where copies are kept.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The agent's state.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The path of a database called `name`; its folder is the working directory of every program.
    pub fn db(&self, name: &str) -> PathBuf {
        self.root.join("db").join(name)
    }

    /// The path of any other file of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Runs `puller --store STORE ARGUMENTS` to its end.
    #[track_caller]
    pub fn puller<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        self.puller_in(&self.store(), arguments)
    }

    /// Runs `puller --store STORE ARGUMENTS` to its end, with another store than the sandbox's own.
    #[track_caller]
    pub fn puller_in<S: AsRef<OsStr>>(&self, store: &Path, arguments: &[S]) -> Ran {
        let mut command = self.command(programs::puller());
        command.arg("--store").arg(store).args(arguments);
        self.run(&mut command)
    }

    /// Runs `pullback-agent ARGUMENTS` to its end.
    #[track_caller]
    pub fn agent<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        self.run(self.command(programs::agent()).args(arguments))
    }

    /// Runs `puller pull --json ARGUMENTS`, where the arguments name one source, and reads the one object it prints.
    /// How the pull ended is for the caller to judge; that the exit code is the one the object names is checked here.
    #[track_caller]
    pub fn pull<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Pulled {
        let words = ["pull", "--json"].map(OsStr::new);
        let arguments: Vec<&OsStr> = words.into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect();
        Pulled::from_run(self.puller(&arguments))
    }

    /// Writes `toml` where `puller` looks for its configuration.
    pub fn configure(&self, toml: &str) {
        let folder = self.root.join("home/xdg_config_home/pullback");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        std::fs::write(folder.join("puller.toml"), toml).expect("a configuration can be written");
    }

    /// `program` to be run in this sandbox: its folders, its home, and no other variable of the user's than `PATH`.
    pub fn command(&self, program: &Path) -> Command {
        let home = self.root.join("home");
        let mut command = Command::new(program);
        command.current_dir(self.root.join("db")).stdin(Stdio::null()).env_clear().env("HOME", &home);
        for variable in
            ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"]
        {
            command.env(variable, home.join(variable.to_lowercase()));
        }
        for variable in ["PATH", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(variable) {
                command.env(variable, value);
            }
        }
        command
    }

    /// Runs `command` to its end; kills it and panics, with all it printed, when it takes longer than the limit.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Ran {
        self.start(command).finish()
    }

    /// Runs a program that goes on for ever, asks it to end after its first line of output, and gives what it printed.
    #[track_caller]
    pub fn run_until_its_first_line(&self, command: &mut Command) -> Ran {
        let mut stderr = scratch();
        command.stdout(Stdio::piped()).stderr(handle(&stderr));
        let mut child = command.spawn().expect("the program can be started");
        let mut output = BufReader::new(child.stdout.take().expect("its stdout is a pipe"));
        let mut stdout = String::new();
        output.read_line(&mut stdout).expect("its output can be read");
        signal(child.id(), Signal::TERM);
        output.read_to_string(&mut stdout).expect("its output can be read");
        let status = wait(&mut child, self.limit).expect("a program ends soon after SIGTERM");
        Ran { command: typed(command), status, stdout, stderr: text(&mut stderr) }
    }

    /// Starts `command`, for a test that does something meanwhile.
    #[track_caller]
    pub fn start(&self, command: &mut Command) -> Running {
        // Files, not pipes: no output is too long, and a process left behind cannot keep this one waiting.
        let (stdout, stderr) = (scratch(), scratch());
        command.stdout(handle(&stdout)).stderr(handle(&stderr));
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        Running { child, command: typed(command), limit: self.limit, stdout, stderr }
    }
}

/// A program that runs, killed when the value goes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    limit: Duration,
    stdout: File,
    stderr: File,
}

impl Running {
    /// The process, to signal.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; kills it and panics, with all it printed, when it takes longer than the limit from now on.
    #[track_caller]
    pub fn finish(mut self) -> Ran {
        let status = wait(&mut self.child, self.limit);
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        let command = std::mem::take(&mut self.command);
        match status {
            Some(status) => Ran { command, status, stdout, stderr },
            None => panic!("{command} took more than {:?}\nstdout:\n{stdout}\nstderr:\n{stderr}", self.limit),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that came to its end.
#[derive(Debug)]
pub struct Ran {
    /// The command line, to tell about.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr.
    pub stderr: String,
}

impl Ran {
    /// The exit code; panics where a signal ended the program.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("a signal ended {self}"))
    }

    /// The same, once the exit code is known to be `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "the exit code of {self}");
        self
    }

    /// The JSON objects on stdout, one per line; panics where a line is none.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let object = |line: &str| match serde_json::from_str::<Value>(line) {
            Ok(object) if object.is_object() => object,
            _ => panic!("`{line}` is no JSON object, of {self}"),
        };
        self.stdout.lines().map(object).collect()
    }

    /// The only JSON object on stdout.
    #[track_caller]
    pub fn only_json(&self) -> Value {
        let mut objects = self.json();
        assert_eq!(objects.len(), 1, "the number of objects of {self}");
        objects.remove(0)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command} ({status})\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

/// The end of a pull of one source, as its JSON tells. A field that is absent or null is empty.
#[derive(Debug)]
pub struct Pulled {
    /// `stored`, `unchanged` or `failed`.
    pub outcome: String,
    /// `full`, `delta` or `none`.
    pub transfer: String,
    /// The `SnapshotId`, hex.
    pub snapshot: String,
    /// The id of the copy.
    pub copy: String,
    /// The file of the copy.
    pub path: PathBuf,
    /// The word of the verdict table.
    pub verdict: String,
    /// `hash`, `quick` or `full`.
    pub checked: String,
    /// `error.code`, such as `busy`.
    pub error: String,
    /// All fields.
    pub json: Value,
    /// The process.
    pub ran: Ran,
}

impl Pulled {
    /// Of a `pull --json` of one source that came to its end.
    #[track_caller]
    pub fn from_run(ran: Ran) -> Self {
        let json = ran.only_json();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if let Some(exit) = json["error"]["exit"].as_i64() {
            assert_eq!(i64::from(ran.code()), exit, "the exit code and `error.exit` of {ran}");
        }
        Self {
            outcome: word(&json["outcome"]),
            transfer: word(&json["transfer"]),
            snapshot: word(&json["snapshot"]),
            copy: word(&json["copy"]),
            path: PathBuf::from(word(&json["path"])),
            verdict: word(&json["verdict"]),
            checked: word(&json["checked"]),
            error: word(&json["error"]["code"]),
            json,
            ran,
        }
    }

    /// The same, once it is known to have ended as `outcome` with exit code 0 and a copy that is there.
    #[track_caller]
    pub fn succeeds(self, outcome: &str) -> Self {
        assert_eq!((self.outcome.as_str(), self.ran.code()), (outcome, 0), "the outcome of {}", self.ran);
        assert!(self.path.is_file(), "there is no copy at `{}`, of {}", self.path.display(), self.ran);
        self
    }

    /// The same, once it is known to have failed with `error.code` `word` and exit code `exit`.
    #[track_caller]
    pub fn fails(self, word: &str, exit: i32) -> Self {
        let found = (self.outcome.as_str(), self.error.as_str(), self.ran.code());
        assert_eq!(found, ("failed", word, exit), "the outcome of {}", self.ran);
        self
    }
}

/// Waits until `child` ends; kills it and gives `None` when that takes longer than `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if started.elapsed() > limit {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `is_so`, and panics with `what` where that takes longer than a minute.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "{what} is waited for in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends `signal` to process `pid`, which is one that the test started and has not yet waited for.
#[track_caller]
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process has a number");
    kill_process(pid, signal).expect("a child can be signalled");
}

/// The words of a command line, without the environment that [`Sandbox::command`] gives every one.
fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let arguments = command.get_args().map(|argument| format!(" {argument:?}"));
    format!("{}{}", program.display(), arguments.collect::<String>())
}

fn scratch() -> File {
    tempfile::tempfile().expect("a temporary file can be made")
}

fn handle(file: &File) -> File {
    file.try_clone().expect("a file handle can be shared")
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a temporary file can be read");
    String::from_utf8(bytes).expect("programs print UTF-8")
}
