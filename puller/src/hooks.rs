//! Hooks: programs of the user's that are run before and after pulls and restores. What they do, or fail to do, changes no
//! pull; around a restore in place they decide.

use crate::config::Hooks;
use pullback_shared::fault::Kind;
use pullback_shared::text::printable;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt;
use std::io::{PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How long a hook may take, unless the configuration says otherwise. Then it is killed, with its process group.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks whether a hook has ended.
const POLL: Duration = Duration::from_millis(10);

/// What a hook wrote is waited for so long after its end: a process that it left behind may keep its output open.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

/// What is kept of a hook's output: its last bytes.
const OUTPUT_BYTES_MAX: usize = 8 * 1024;

/// Set in the environment of every hook, to its name: a `puller` that finds it was started by a hook, and tells nobody.
pub const MARKER: &str = "PULLER_HOOK";

/// Set to 1 where nothing was pulled and the values are examples.
const TEST: &str = "PULLER_TEST";

const ADDRESS: &str = "PULLER_ADDRESS";
const EXIT: &str = "PULLER_EXIT";
const ERROR_CODE: &str = "PULLER_ERROR_CODE";

/// The variables that say the same as fields of the report (doc/json.md), each with where it stands there.
const FIELDS: [(&str, &str); 18] = [
    ("PULLER_SOURCE", "/source"),
    ("PULLER_OUTCOME", "/outcome"),
    ("PULLER_TRANSFER", "/transfer"),
    ("PULLER_SNAPSHOT", "/snapshot"),
    ("PULLER_COPY", "/copy"),
    ("PULLER_PATH", "/path"),
    ("PULLER_VERDICT", "/verdict"),
    ("PULLER_CHECKED", "/checked"),
    ("PULLER_PAGE_SIZE", "/page_size"),
    ("PULLER_PAGE_COUNT", "/page_count"),
    ("PULLER_CHANGED_PAGES", "/changed_pages"),
    ("PULLER_BYTES_RECEIVED", "/bytes_received"),
    ("PULLER_DURATION_SECONDS", "/duration_seconds"),
    ("PULLER_TARGET", "/target"),
    ("PULLER_SAFETY", "/safety"),
    ("PULLER_ERROR_WORD", "/error/code"),
    ("PULLER_ERROR", "/error/message"),
    ("PULLER_HINT", "/error/hint"),
];

/// Every variable that a hook is given. None is the variable of an option: a hook may call `puller` itself.
pub fn variables() -> impl Iterator<Item = &'static str> {
    [MARKER, TEST, ADDRESS, EXIT, ERROR_CODE].into_iter().chain(FIELDS.map(|field| field.0))
}

/// When a hook is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Before a source is pulled.
    BeforePull,
    /// After a pull that stored a good copy or found nothing new.
    AfterPull,
    /// After a pull that failed, or found the source damaged or emptied.
    OnFailure,
    /// After the first good pull that follows one that was none.
    OnRecovery,
    /// Before a restore in place begins; where this fails, it does not.
    BeforeRestore,
    /// After a restore in place; where this fails, it did not succeed.
    AfterRestore,
}

impl Moment {
    /// In the order in which they can come.
    pub const ALL: [Self; 6] = [
        Self::BeforePull,
        Self::AfterPull,
        Self::OnFailure,
        Self::OnRecovery,
        Self::BeforeRestore,
        Self::AfterRestore,
    ];

    /// The key in `[hooks]`.
    pub fn word(self) -> &'static str {
        match self {
            Self::BeforePull => "before_pull",
            Self::AfterPull => "after_pull",
            Self::OnFailure => "on_failure",
            Self::OnRecovery => "on_recovery",
            Self::BeforeRestore => "before_restore",
            Self::AfterRestore => "after_restore",
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a hook is told.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where the source is; empty where that cannot be told.
    pub address: &'a str,
    /// The report as `--json` prints it; before a pull or a restore, what is known of it by then.
    pub report: &'a Value,
    /// The exit code of this source's pull, and what was wrong, if anything; none before it, and none around a restore.
    pub end: Option<(u8, Option<Kind>)>,
    /// Nothing was pulled: the values are examples.
    pub is_test: bool,
}

impl Facts<'_> {
    fn environment(&self, moment: Moment) -> Vec<(&'static str, String)> {
        let mut set = vec![(MARKER, moment.word().to_owned())];
        if !self.address.is_empty() {
            set.push((ADDRESS, self.address.to_owned()));
        }
        if self.is_test {
            set.push((TEST, "1".to_owned()));
        }
        if let Some((exit, kind)) = self.end {
            set.push((EXIT, exit.to_string()));
            set.extend(kind.map(|kind| (ERROR_CODE, kind.code())));
        }
        for (name, pointer) in FIELDS {
            match self.report.pointer(pointer) {
                Some(Value::String(text)) => set.push((name, text.clone())),
                Some(Value::Null) | None => {}
                Some(value) => set.push((name, value.to_string())),
            }
        }
        // No variable can hold a zero byte.
        set.into_iter().map(|(name, value)| (name, value.replace('\0', ""))).collect()
    }
}

/// A hook that was run.
#[derive(Debug)]
pub struct Ran {
    /// Which.
    pub moment: Moment,
    /// How long it took.
    pub duration: Duration,
    /// Why it came to nothing, if it did.
    pub result: Result<(), String>,
    /// The end of what it wrote.
    pub output: String,
}

/// Runs the hook of `moment`, if there is one, to its end or to its limit.
pub fn run(hooks: &Hooks, moment: Moment, facts: &Facts<'_>) -> Option<Ran> {
    let (program, arguments) = hooks.of(moment)?.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    for name in variables() {
        command.env_remove(name);
    }
    command.envs(facts.environment(moment));
    let began = Instant::now();
    let (result, output) = match start(command) {
        Ok((child, output)) => {
            let result = wait(child, began, hooks.timeout.map_or(TIMEOUT, |span| span.0));
            (result, output.text())
        }
        Err(error) => (Err(format!("`{}` cannot be run: {error}", printable(program, 200))), String::new()),
    };
    Some(Ran { moment, duration: began.elapsed(), result, output })
}

fn start(mut command: Command) -> std::io::Result<(Child, Output)> {
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn()?;
    // With `command` goes this process's end of the pipe, else the reader would never come to its end.
    drop(command);
    Ok((child, Output::gather(reader)))
}

/// Waits for a program of the user's; at the limit it is killed, with its process group if it has one of its own.
pub(crate) fn wait(mut child: Child, began: Instant, limit: Duration) -> Result<(), String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(ended(status)),
            Ok(None) if began.elapsed() < limit => std::thread::sleep(POLL),
            Ok(None) => {
                kill_group(&mut child);
                return Err(format!("it took longer than {limit:?} and was killed"));
            }
            Err(error) => {
                kill_group(&mut child);
                return Err(format!("it cannot be waited for: {error}"));
            }
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("it ended with exit code {code}"),
        None => format!("it was ended by a {status}"),
    }
}

/// Ends a hook and all that it started and that did not leave its process group.
fn kill_group(child: &mut Child) {
    if let Err(error) = kill_process_group(Pid::from_child(child), Signal::KILL) {
        tracing::debug!(%error, "the process group of a hook cannot be killed");
    }
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::debug!(%error, "a hook cannot be killed");
    }
}

/// The end of what a hook writes, read meanwhile, so that no amount of it stops the hook or fills anything.
struct Output {
    tail: Arc<Mutex<VecDeque<u8>>>,
    closed: mpsc::Receiver<()>,
}

impl Output {
    fn gather(mut reader: PipeReader) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (close, closed) = mpsc::channel();
        let filled = Arc::clone(&tail);
        std::thread::spawn(move || {
            let mut buffer = [0; OUTPUT_BYTES_MAX];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let mut tail = filled.lock().unwrap_or_else(PoisonError::into_inner);
                tail.extend(&buffer[..count]);
                let surplus = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
                tail.drain(..surplus);
            }
            // Nobody may be waiting any more.
            close.send(()).ok();
        });
        Self { tail, closed }
    }

    fn text(self) -> String {
        // Closed, or held open by a process that the hook left behind: what there is by now will do.
        self.closed.recv_timeout(OUTPUT_WAIT).ok();
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }
}
