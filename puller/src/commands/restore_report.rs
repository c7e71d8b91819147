//! What people and scripts are told of a restore over a database that is there, before it and after.

use super::put_back::PutBack;
use super::{differences, text};
use pullback_shared::fault::Fault;
use pullback_shared::restoring::Table;
use pullback_shared::text::printable;
use puller::address::Address;
use puller::clock;
use puller::differences::Differences;
use puller::put_back::Done;
use puller::restore_record::Record;
use puller::source_dir::{SourceDir, StoredCopy};
use serde_json::{Value, json};
use std::io::BufRead;
use std::time::Duration;

/// Characters of the target's path that are shown.
const TARGET_CHARS_MAX: usize = 1024;

/// What a person should know of a restore when it is over.
pub(super) struct Report {
    pub(super) outcome: &'static str,
    pub(super) target: String,
    pub(super) safety: Option<String>,
    pub(super) differences: Option<Differences>,
    pub(super) done: Option<Done>,
    pub(super) notes: Vec<String>,
    /// How many of the notes were said already.
    pub(super) notes_said: usize,
    pub(super) took: Duration,
}

impl PutBack<'_> {
    /// Shows what is about to happen, and asks, unless that was said.
    pub(super) fn agreed(&self, report: &mut Report) -> Result<bool, Fault> {
        let manifest = self.manifest()?;
        let (taken, size) = (text::when(manifest.taken_at, clock::now()?), text::bytes(manifest.bytes));
        let target = self.shown(&report.target);
        let what = match self.asked.tables.as_slice() {
            [] => "will replace".to_owned(),
            tables => format!("will give its {} to", printable(&tables.join(", "), 400)),
        };
        if !self.cli.common.quiet || !self.asked.yes {
            eprintln!("{} of {taken}, {size}, {what} `{target}`", manifest.copy);
            match &report.safety {
                Some(safety) => eprintln!("what is there now is kept as {safety}"),
                None => eprintln!("what is there now is set aside beside it"),
            }
            if let Some(differences) = &report.differences {
                eprintln!("{}", differences::words(differences));
            }
            report.notes.iter().for_each(|note| self.note(note));
            report.notes_said = report.notes.len();
        }
        if self.asked.yes {
            return Ok(true);
        }
        eprint!("Replace it? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(|error| Fault::io("the terminal", &error))?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// The target at `path` as a person may know it: with its machine, where it is another one.
    pub(super) fn shown(&self, path: &str) -> String {
        match &self.address {
            Address::Ssh { .. } => self.address.clone().at(path).to_string(),
            _ => printable(path, TARGET_CHARS_MAX),
        }
    }

    pub(super) fn note(&self, note: &str) {
        if !self.cli.common.quiet {
            eprintln!("note: {}", printable(note, 1000));
        }
    }

    /// A restore that was cut: what it left is whole, and a person should know of it.
    pub(super) fn note_open(&self, record: Option<&Record>) {
        let Some(record) = record.filter(|record| record.is_open()) else { return };
        let safety = record.safety.as_ref();
        let safety = safety.map(|id| format!("; what was there before is copy {id}")).unwrap_or_default();
        self.note(&format!(
            "the restore of {} that was begun at {} was cut; the database is as it was before it or as that copy{safety}",
            record.copy,
            clock::rfc3339(record.begun_at)
        ));
    }

    pub(super) fn json(&self, report: &Report, into: &SourceDir, fault: Option<&Fault>) -> Value {
        let table = |table: &Table| json!({"table": table.name, "rows_before": table.rows_before, "rows": table.rows});
        let mut line = object(&self.source, self.copy, report.outcome, &report.target);
        line["source"] = into.shown().into();
        line["safety"] = report.safety.clone().into();
        line["differences"] = report.differences.as_ref().map(differences::values).into();
        line["duration_seconds"] = report.took.as_secs_f64().into();
        line["notes"] = report.notes.clone().into();
        if let Some(Done { restored, bytes_received, bytes_sent, .. }) = &report.done {
            line["journal"] = restored.journal.word().into();
            line["quarantine"] = restored.quarantine.clone().into();
            line["tables"] = restored.tables.iter().map(table).collect();
            line["moved_on"] = restored.moved_on.into();
            line["held_seconds"] = (restored.held_micros as f64 / 1e6).into();
            line["bytes_received"] = (*bytes_received).into();
            line["bytes_sent"] = (*bytes_sent).into();
        }
        with_failure(&mut line, fault);
        line
    }

    /// `into` is the source that has the safety copy; `fault`: what failed once the copy was in place.
    pub(super) fn say(&self, report: &Report, into: &SourceDir, fault: Option<&Fault>) -> Result<(), Fault> {
        if self.cli.common.json {
            println!("{}", self.json(report, into, fault));
            return Ok(());
        }
        if self.cli.common.quiet {
            return Ok(());
        }
        let (id, target) = (&self.copy.id, self.shown(&report.target));
        let size = text::bytes(self.manifest()?.bytes);
        match report.outcome {
            "unchanged" => println!("`{target}` is {id} already; nothing was changed"),
            "declined" => println!(
                "nothing was changed; what is there is kept as {}",
                report.safety.as_deref().unwrap_or("it was")
            ),
            _ if self.asked.tables.is_empty() => println!("{id} restored and proven: `{target}`, {size}"),
            _ => println!("tables of {id} restored and proven in `{target}`"),
        }
        let restored = report.done.as_ref().map(|done| &done.restored);
        for table in restored.map_or(&[][..], |restored| &restored.tables) {
            let before = table.rows_before.map_or("no such table".to_owned(), |rows| rows.to_string());
            println!("  {}: {before} before, {} now", printable(&table.name, 100), table.rows);
        }
        if let Some(quarantine) = restored.and_then(|restored| restored.quarantine.as_ref()) {
            println!("  what was there before is in `{quarantine}`");
        }
        if let Some(safety) = report.safety.as_ref().filter(|_| report.outcome == "restored") {
            let into = into.shown();
            println!(
                "  what was there before is copy {safety}; `puller restore --undo {into}` brings it back"
            );
        }
        report.notes.iter().skip(report.notes_said).for_each(|note| self.note(note));
        Ok(())
    }
}

/// What a person should know of `copy`, if it is none of the good ones.
pub(crate) fn doubt(copy: &StoredCopy) -> Option<String> {
    let what = || format!("the copy is `{}`: `puller show` says what was found", copy.verdict().word());
    (!copy.is_good()).then(what)
}

/// A restore of `copy` as scripts get it, with every field; what is not known is null.
pub(crate) fn object(from: &SourceDir, copy: &StoredCopy, outcome: &str, target: &str) -> Value {
    let manifest = copy.manifest.as_ref().ok();
    json!({
        "v": 1, "source": from.shown(), "from": from.shown(), "copy": copy.id,
        "snapshot": manifest.map(|manifest| &manifest.snapshot), "outcome": outcome, "target": target,
        "bytes": manifest.map(|manifest| manifest.bytes), "journal": null, "safety": null, "quarantine": null, "tables": [],
        "differences": null, "moved_on": null, "held_seconds": null, "bytes_received": null, "bytes_sent": null,
        "duration_seconds": null, "notes": [], "error": null,
    })
}

/// The `line` of a restore after which something failed, if it did.
pub(crate) fn with_failure(line: &mut Value, fault: Option<&Fault>) {
    if let Some(fault) = fault {
        line["outcome"] = "failed".into();
        line["error"] = super::error_json(fault);
    }
}

/// The exit code of a restore that was told of, and what came `after` it.
pub(crate) fn exit_of(after: Result<(), Fault>) -> u8 {
    after.map_or_else(
        |fault| {
            super::say_fault(&fault);
            fault.kind.exit()
        },
        |()| 0,
    )
}
