//! Who hears of a run besides the one who typed it: hooks, for each source, and the ping, for the run. What goes wrong with
//! them is a warning, and changes nothing else.

use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use pullback_shared::verdict::Verdict;
use puller::config::{Config, Hooks};
use puller::history;
use puller::hooks::{self, Facts, Moment, Ran};
use puller::ping::{Event, Ping};
use puller::source_dir::SourceDir;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Lines of a failed hook's output that are said.
const LINES_MAX: usize = 3;

/// Characters of each.
const LINE_CHARS_MAX: usize = 300;

/// One run of `puller pull`, and who is told of it; by default, nobody. Sources may be told of on several threads at once.
#[derive(Default)]
pub(crate) struct Tell {
    hooks: Hooks,
    ping: Option<Ping>,
    /// The ping of the start, which no pull waits for.
    start: Option<JoinHandle<Result<(), String>>>,
    is_over: Arc<AtomicBool>,
    /// What failed, for the ping of the end.
    failures: Mutex<String>,
}

impl Tell {
    /// A run begins. Where a hook started this program, nobody is told: hooks that pull would call each other for ever.
    pub(crate) fn run_began(config: &Config) -> Self {
        let by_hook = std::env::var_os(hooks::MARKER).is_some_and(|value| !value.is_empty());
        let hooks = if by_hook { Hooks::default() } else { config.hooks.clone() };
        let url = config.ping.as_ref().map(|ping| ping.url.as_str()).filter(|_| !by_hook);
        let ping = url.and_then(|url| Ping::new(url).inspect_err(|why| eprintln!("warning: {why}")).ok());
        let is_over = Arc::default();
        let start = ping.clone().map(|ping| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || ping.tell(Event::Start, &is_over).0.map(drop))
        });
        Self { hooks, ping, start, is_over, failures: Mutex::default() }
    }

    /// The source at `address`, which is `known_as` that, is about to be pulled. Gives what to warn of.
    pub(crate) fn before(&self, address: &str, known_as: impl FnOnce() -> String) -> Option<String> {
        self.hooks.of(Moment::BeforePull)?;
        let report = json!({"source": known_as()});
        self.run_hook(Moment::BeforePull, &Facts { address, report: &report, end: None, is_test: false })
    }

    /// Whether the last pull of `source` that stands in its history was no good one; asked only where that is to be told.
    pub(crate) fn failed_before(&self, source: Option<&SourceDir>) -> bool {
        let source = source.filter(|_| self.hooks.of(Moment::OnRecovery).is_some());
        let lines = source.and_then(|source| history::lines(source).ok()).unwrap_or_default();
        lines.iter().rfind(|line| line["run"] == "pull").is_some_and(|line| kind_of(line).is_some())
    }

    /// A source was pulled, or was not: `report` is what `--json` prints of it, `exit` its own exit code. `failed_before`:
    /// its last run before this one was no good one. Gives what to warn of.
    pub(crate) fn after(&self, address: &str, report: &Value, exit: u8, failed_before: bool) -> Vec<String> {
        let kind = kind_of(report);
        let facts = Facts { address, report, end: Some((exit, kind)), is_test: false };
        if exit != 0 {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.push_str(&failure(report, &kind.map(Kind::code).unwrap_or_default()));
        }
        let moments: &[Moment] = match (exit, kind) {
            // The run that holds the lock tells how it ended.
            (_, Some(Kind::Locked)) => &[],
            // A machine that may be off, and is.
            (0, Some(_)) => &[],
            (0, None) if failed_before => &[Moment::AfterPull, Moment::OnRecovery],
            (0, None) => &[Moment::AfterPull],
            _ => &[Moment::OnFailure],
        };
        moments.iter().filter_map(|moment| self.run_hook(*moment, &facts)).collect()
    }

    /// The run is over, with this exit code or fault.
    pub(crate) fn run_ended(self, result: &Result<u8, Fault>) {
        self.is_over.store(true, Ordering::Relaxed);
        let start = self.start.map_or(Ok(()), |start| {
            start.join().unwrap_or_else(|_| Err("the ping (start) failed".to_owned()))
        });
        let Some(ping) = self.ping else { return };
        let mut log = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        let event = match result {
            Ok(0) => Event::Success,
            Ok(_) => Event::Fail(&log),
            Err(fault) => {
                log.push_str(&format!("{fault} [{}]\n", fault.kind.code()));
                Event::Fail(&log)
            }
        };
        // One warning for both: whoever cannot be told of the end was most likely not to be told of the start either.
        if let Err(why) = ping.tell(event, &AtomicBool::new(false)).0.map(drop).and(start) {
            eprintln!("warning: {why}");
        }
    }

    fn run_hook(&self, moment: Moment, facts: &Facts<'_>) -> Option<String> {
        let ran = hooks::run(&self.hooks, moment, facts)?;
        let source = printable(facts.report["source"].as_str().unwrap_or_default(), LINE_CHARS_MAX);
        match &ran.result {
            Ok(()) => {
                tracing::info!("the hook `{moment}` of `{source}` took {:.1} s", ran.duration.as_secs_f64());
                last_lines(&ran, usize::MAX).iter().for_each(|line| tracing::info!("{moment}: {line}"));
                None
            }
            Err(why) => {
                let said = last_lines(&ran, LINES_MAX).join(" | ");
                let said = if said.is_empty() { said } else { format!("; it said: {said}") };
                Some(format!("the hook `{moment}` of `{source}` failed: {why}{said}"))
            }
        }
    }
}

/// The last lines of what a hook wrote, fit for a terminal.
pub(crate) fn last_lines(ran: &Ran, lines_max: usize) -> Vec<String> {
    let lines: Vec<&str> = ran.output.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(lines_max);
    lines[from..].iter().map(|line| printable(line, LINE_CHARS_MAX)).collect()
}

/// What a report tells of: the kind of its error, or of what was found in the copy; none where all is well.
fn kind_of(report: &Value) -> Option<Kind> {
    let verdict = |verdict: Verdict| report["verdict"] == verdict.word();
    match report["error"]["code"].as_str() {
        Some(word) => Some(Kind::from_word(word).unwrap_or(Kind::Internal)),
        None if verdict(Verdict::Damaged) => Some(Kind::Damaged),
        None if verdict(Verdict::Suspect) => Some(Kind::Suspect),
        None if verdict(Verdict::Rotten) => Some(Kind::Rotten),
        None => None,
    }
}

/// A failure as the log of a ping has it.
fn failure(report: &Value, code: &str) -> String {
    let text = |pointer: &str| report.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let shown = text("/source");
    match report["error"].is_object() {
        true => format!("{shown}: {} [{code}]\nhint: {}\n", text("/error/message"), text("/error/hint")),
        false => format!(
            "{shown}: the copy {} is {} [{code}]: {}\n",
            text("/copy"),
            text("/verdict"),
            text("/findings/0")
        ),
    }
}

/// A report as the hooks of `notify test` are told: nothing like it was pulled.
pub(crate) fn example(moment: Moment, at: Timestamp) -> Value {
    let at = puller::clock::rfc3339(at);
    match moment {
        Moment::BeforePull => json!({"source": "example"}),
        Moment::AfterPull | Moment::OnRecovery => json!({
            "at": at, "source": "example", "outcome": "stored", "transfer": "delta", "snapshot": "00".repeat(32),
            "copy": "example-000001-20261121T090000Z", "path": "/nowhere/example-000001-20261121T090000Z.db",
            "verdict": "ok", "checked": "full", "page_size": 4096, "page_count": 1000, "changed_pages": 10,
            "bytes_received": 5000, "duration_seconds": 0.5, "error": null,
        }),
        Moment::BeforeRestore => json!({
            "at": at, "source": "example", "copy": "example-000001-20261121T090000Z", "snapshot": "00".repeat(32),
            "target": "/nowhere/example.db",
        }),
        Moment::AfterRestore => json!({
            "at": at, "source": "example", "outcome": "restored", "copy": "example-000001-20261121T090000Z",
            "snapshot": "00".repeat(32), "target": "/nowhere/example.db", "safety": "example-000002-20261121T100000Z",
        }),
        Moment::OnFailure => json!({
            "at": at, "source": "example", "outcome": "failed", "duration_seconds": 0.5,
            "error": super::error_json(
                &Fault::new(Kind::Unreachable, "this is a test: nothing failed").hint("`puller notify test` sent it"),
            ),
        }),
    }
}
