//! What `puller pull` says of each source and of all, in words and as JSON.

use super::text;
use crate::cli::{Cli, Pull};
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use pullback_shared::verdict::Verdict;
use puller::clock;
use puller::config::Config;
use puller::plan::Planned;
use puller::pull::Pulled;
use puller::source_dir::{SourceDir, StoredCopy};
use serde_json::{Value, json};
use std::time::Duration;

/// Of a source as it was typed, so many characters are said.
const SHOWN_CHARS_MAX: usize = 300;

/// The end of the run of one source.
pub(crate) struct Ran {
    /// What the source is called.
    pub(crate) shown: String,
    /// Its folder, if it has one.
    pub(crate) source: Option<SourceDir>,
    /// What came of it.
    pub(crate) result: Result<Pulled, Fault>,
    /// Whether it may be off.
    pub(crate) optional: bool,
    /// When it ended.
    pub(crate) at: Timestamp,
    /// How long it took.
    pub(crate) duration: Duration,
    /// Why it could not be entered into the history, if so. The copy is in the store all the same.
    pub(crate) unrecorded: Option<Fault>,
    /// What went wrong with telling of it.
    pub(crate) warnings: Vec<String>,
}

/// What a person must hear even from cron.
struct Trouble {
    /// What happened and why.
    message: String,
    /// More of it, a line each.
    details: Vec<String>,
    /// What to do.
    hint: String,
    code: String,
}

impl Ran {
    /// Its line in the history, and on stdout for scripts.
    pub(crate) fn line(&self) -> Value {
        match (&self.result, &self.source) {
            (Ok(pulled), Some(source)) => report(&self.shown, source, pulled, self.at, self.duration),
            (Ok(_), None) => unreachable!("BUG: a copy without a source"),
            (Err(fault), _) => failure(&self.shown, fault, self.optional, self.at, self.duration),
        }
    }

    /// The exit code, were it the only source. A machine that may be off and is off is no failure.
    pub(crate) fn exit(&self) -> u8 {
        match &self.result {
            Ok(pulled) => pulled.manifest.verdict.exit(),
            Err(_) if self.is_off() => 0,
            Err(fault) => fault.kind.exit(),
        }
    }

    fn is_off(&self) -> bool {
        let kind = self.result.as_ref().err().map(|fault| fault.kind);
        self.optional && matches!(kind, Some(Kind::Unreachable | Kind::Lost))
    }

    fn trouble(&self) -> Option<Trouble> {
        let shown = printable(&self.shown, SHOWN_CHARS_MAX);
        match &self.result {
            Ok(pulled) => self.finding(pulled),
            Err(_) if self.is_off() => None,
            Err(fault) => Some(Trouble {
                message: format!("`{shown}` was not pulled: {fault}"),
                details: Vec::new(),
                hint: fault.hint.clone(),
                code: fault.kind.code(),
            }),
        }
    }

    fn finding(&self, pulled: &Pulled) -> Option<Trouble> {
        let shown = &self.shown;
        let source = self.source.as_ref();
        let newest = source.and_then(|source| source.copies().ok()?.into_iter().rfind(StoredCopy::is_good));
        let newest = newest.map_or("there is no good copy".to_owned(), |copy| {
            format!("the newest good copy is {}", copy.id)
        });
        match pulled.manifest.verdict {
            Verdict::Damaged => Some(Trouble {
                message: format!("`{shown}` is damaged at the source; the copy is exact and {newest}"),
                details: pulled.findings.iter().take(3).map(|finding| format!("SQLite: {finding}")).collect(),
                hint: format!(
                    "`puller restore {shown} --in-place` brings the good copy back; until the source is well, each run ends like this"
                ),
                code: Kind::Damaged.code(),
            }),
            Verdict::Suspect => Some(Trouble {
                message: format!(
                    "`{shown}` looks emptied: {}; {newest}",
                    pulled.findings.first().map(String::as_str).unwrap_or_default()
                ),
                details: Vec::new(),
                hint: format!("if that was meant, `puller accept {shown} {}`", pulled.manifest.copy),
                code: Kind::Suspect.code(),
            }),
            Verdict::Ok
            | Verdict::Uncheckable
            | Verdict::Unchecked
            | Verdict::Rotten
            | Verdict::Violations => None,
        }
    }
}

/// Tells of the sources of one command as they end, and of all of them at the end.
pub(crate) struct Reporter<'a> {
    cli: &'a Cli,
    config: &'a Config,
    asked: &'a Pull,
    /// Several sources, or `--all`: what went wrong is said at the end, in one paragraph.
    many: bool,
    codes: Vec<u8>,
    troubles: Vec<Trouble>,
}

impl<'a> Reporter<'a> {
    /// For a command that asked for `count` sources.
    pub(crate) fn new(cli: &'a Cli, config: &'a Config, asked: &'a Pull, count: usize) -> Self {
        let many = asked.all || count > 1;
        Self { cli, config, asked, many, codes: Vec::new(), troubles: Vec::new() }
    }

    /// Tells of one run.
    pub(crate) fn ran(&mut self, mut ran: Ran) {
        if self.cli.common.json {
            println!("{}", ran.line());
        }
        if let Some(fault) = &ran.unrecorded {
            eprintln!("warning: {fault}");
        }
        ran.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        match (&ran.result, &ran.source) {
            (Ok(pulled), Some(source)) => {
                if !self.cli.common.json && !self.cli.common.quiet {
                    say(&ran.shown, source, pulled, ran.duration);
                }
                warn(self.cli, &ran.shown, pulled);
            }
            (Err(fault), _) if ran.is_off() && !self.cli.common.quiet => {
                let shown = printable(&ran.shown, SHOWN_CHARS_MAX);
                eprintln!("note: `{shown}` may be off, and is: {fault}");
            }
            _ => {}
        }
        self.codes.push(ran.exit());
        match ran.trouble() {
            Some(trouble) if self.many => self.troubles.push(trouble),
            Some(trouble) => trouble.say(),
            None => {}
        }
        if let (Ok(_), Some(source)) = (&ran.result, &mut ran.source) {
            about_rotation(self.cli, self.asked, self.config, source);
        }
    }

    /// Tells what a pull of `typed` would move.
    pub(crate) fn planned(&mut self, (typed, planned): &(String, Result<Planned, Fault>)) {
        match planned {
            Ok(planned) => {
                say_planned(self.cli, typed, planned);
                self.codes.push(0);
            }
            Err(fault) => {
                if self.cli.common.json {
                    let at = clock::now().unwrap_or(Timestamp::UNIX_EPOCH);
                    println!("{}", failure(typed, fault, false, at, Duration::ZERO));
                }
                super::say_fault(fault);
                self.codes.push(fault.kind.exit());
            }
        }
    }

    /// Tells of all, and gives the exit code.
    pub(crate) fn end(self) -> u8 {
        let (count, failed) = (self.codes.len(), self.troubles.len());
        if failed > 0 {
            eprintln!("error: {failed} of {count} sources need a look [{}]", Kind::Partly.code());
        }
        for trouble in &self.troubles {
            let details: String = trouble.details.iter().map(|detail| format!("; {detail}")).collect();
            eprintln!("  {}{details} [{}]", trouble.message, trouble.code);
            if !trouble.hint.is_empty() {
                eprintln!("    hint: {}", trouble.hint.replace('\n', " "));
            }
        }
        if self.many && !self.cli.common.quiet && !self.cli.common.json && !self.asked.dry_run {
            println!("{count} sources, {} well", count - failed);
        }
        match self.codes.as_slice() {
            [code] => *code,
            codes if codes.iter().all(|code| *code == 0) => 0,
            _ => Kind::Partly.exit(),
        }
    }
}

impl Trouble {
    fn say(&self) {
        eprintln!("error: {} [{}]", self.message, self.code);
        self.details.iter().for_each(|detail| eprintln!("  {detail}"));
        if !self.hint.is_empty() {
            eprintln!("\nhint: {}", self.hint);
        }
    }
}

fn report(shown: &str, source: &SourceDir, pulled: &Pulled, at: Timestamp, duration: Duration) -> Value {
    let manifest = &pulled.manifest;
    json!({
        "v": 1,
        "at": clock::rfc3339(at),
        "run": "pull",
        "source": shown,
        "outcome": if pulled.stored { "stored" } else { "unchanged" },
        "transfer": pulled.transfer,
        "full_because": if pulled.stored { manifest.transfer.full_because.clone() } else { None },
        "snapshot": manifest.snapshot,
        "copy": manifest.copy,
        "path": puller::address::absolute(&source.file(&manifest.copy, "db")),
        "verdict": manifest.verdict.word(),
        "checked": pulled.checked.word(),
        "findings": pulled.findings,
        "page_size": manifest.page_size,
        "page_count": manifest.page_count,
        "changed_pages": pulled.changed_pages,
        "bytes_received": pulled.bytes_received,
        "bytes_sent": pulled.bytes_sent,
        "held_seconds": pulled.held.as_secs_f64(),
        "duration_seconds": duration.as_secs_f64(),
        "notes": pulled.notes,
        "removed": pulled.removed,
        "error": null,
    })
}

fn failure(shown: &str, fault: &Fault, optional: bool, at: Timestamp, duration: Duration) -> Value {
    json!({
        "v": 1,
        "at": clock::rfc3339(at),
        "run": "pull",
        "source": shown,
        "outcome": "failed",
        "optional": optional,
        "duration_seconds": duration.as_secs_f64(),
        "error": super::error_json(fault),
    })
}

fn say(shown: &str, source: &SourceDir, pulled: &Pulled, duration: Duration) {
    let manifest = &pulled.manifest;
    let snapshot = &manifest.snapshot[..12.min(manifest.snapshot.len())];
    let (size, seconds) = (text::bytes(manifest.bytes), duration.as_secs_f64());
    match pulled.stored {
        true => {
            println!(
                "{shown}: stored {}, {size}, snapshot {snapshot}, {} ({} check)",
                manifest.copy,
                manifest.verdict,
                pulled.checked.word()
            );
            let because =
                manifest.transfer.full_because.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
            println!(
                "  {} transfer{because}: {} pages, {} received; source held {:.3} s; {seconds:.1} s in all",
                pulled.transfer,
                pulled.changed_pages,
                text::bytes(pulled.bytes_received),
                pulled.held.as_secs_f64(),
            );
        }
        false => println!(
            "{shown}: unchanged since {}, {size}, snapshot {snapshot}, {}; {} received, {seconds:.1} s",
            manifest.copy,
            manifest.verdict,
            text::bytes(pulled.bytes_received)
        ),
    }
    println!("  {}", source.file(&manifest.copy, "db").display());
    pulled.notes.iter().for_each(|note| println!("  note: {note}"));
    if !pulled.removed.is_empty() {
        println!("  removed by the policy: {}", pulled.removed.join(", "));
    }
}

/// What is no failure, and a person should hear of all the same.
fn warn(cli: &Cli, shown: &str, pulled: &Pulled) {
    if pulled.manifest.verdict == Verdict::Violations {
        let first = pulled.findings.first().map(String::as_str).unwrap_or_default();
        let more = pulled.findings.len().saturating_sub(1);
        eprintln!("warning: `{shown}` has rows that break its own rules: {first} (and {more} more)");
    }
    if cli.common.quiet {
        let notes = pulled.notes.iter().filter(|note| note.contains("rotted") || note.contains("proof"));
        notes.for_each(|note| eprintln!("warning: {note}"));
    }
}

fn say_planned(cli: &Cli, typed: &str, planned: &Planned) {
    if cli.common.json {
        let line = json!({
            "v": 1, "source": typed, "outcome": "planned", "transfer": planned.transfer,
            "full_because": planned.full_because, "snapshot": planned.snapshot.to_string(),
            "page_size": planned.geometry.page_size.get(), "page_count": planned.geometry.page_count,
            "changed_pages": planned.pages, "bytes_expected": planned.bytes,
            "held_seconds": planned.held.as_secs_f64(), "error": null,
        });
        println!("{line}");
        return;
    }
    let typed = printable(typed, SHOWN_CHARS_MAX);
    let because = planned.full_because.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
    match planned.transfer {
        "none" => println!("{typed}: unchanged, nothing would be stored"),
        transfer => println!(
            "{typed}: a {transfer} transfer{because}: {} of {} pages, at most {}",
            planned.pages,
            planned.geometry.page_count,
            text::bytes(planned.bytes)
        ),
    }
}

/// Without a policy nothing is ever removed; that is said once for each source.
fn about_rotation(cli: &Cli, asked: &Pull, config: &Config, source: &mut SourceDir) {
    let copies = source.copies().map_or(0, |copies| copies.len());
    let has_policy = asked.no_rotate || !super::rules_of(&asked.keep, config, source).policy.is_empty();
    if cli.common.quiet || source.about.told_about_rotation || copies < 2 || has_policy {
        return;
    }
    eprintln!(
        "note: {copies} copies are kept and nothing is ever removed; for a limit add `keep = {{ last = 30 }}` to `{}`, or \
         `--keep-last 30` to the command",
        puller::config::default_path().display()
    );
    let noted = source.lock_anew().and_then(|_lock| {
        source.about.told_about_rotation = true;
        source.write_about()
    });
    // The run is over and was a success: that the note may be said again is no reason to fail.
    if let Err(fault) = noted {
        tracing::debug!(%fault, "the note will be said again");
    }
}
