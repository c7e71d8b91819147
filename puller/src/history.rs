//! The history of a source: one JSON line for each run that stored, found nothing new, failed, or removed copies.

use crate::durable;
use crate::manifest::Manifest;
use crate::pull::Pulled;
use crate::source_dir::SourceDir;
use jiff::Timestamp;
use pullback_shared::fault::Fault;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io;

/// Adds `line` to the history of `source`.
pub fn add(source: &SourceDir, line: &Value) -> Result<(), Fault> {
    let file = source.history_file();
    durable::append_line(&file, &line.to_string())
        .map_err(|error| Fault::io(format!("`{}`", file.display()), &error))
}

/// The line of a copy whose run died after it was stored and before that was written down.
pub fn late_line(manifest: &Manifest) -> Value {
    json!({
        "v": 1, "at": crate::clock::rfc3339(manifest.taken_at), "run": "pull", "outcome": "stored",
        "transfer": manifest.transfer.kind, "snapshot": manifest.snapshot, "copy": manifest.copy,
        "verdict": manifest.verdict.word(), "checked": manifest.checked().word(),
        "notes": ["the run was cut short after the copy was stored"],
    })
}

/// The line of the pull, at `at`, that saved what a restore was about to replace.
pub fn safety_line(pulled: &Pulled, at: Timestamp) -> Value {
    let manifest = &pulled.manifest;
    json!({
        "v": 1, "at": crate::clock::rfc3339(at), "run": "pull",
        "outcome": if pulled.stored { "stored" } else { "unchanged" }, "transfer": pulled.transfer,
        "snapshot": manifest.snapshot, "copy": manifest.copy, "verdict": manifest.verdict.word(),
        "checked": pulled.checked.word(), "bytes_received": pulled.bytes_received,
        "notes": ["the safety copy of a restore"],
    })
}

/// The lines of the history, oldest first. A line that a crash cut short is left out.
pub fn lines(source: &SourceDir) -> Result<Vec<Value>, Fault> {
    let file = source.history_file();
    let text = match fs::read(&file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Fault::io(format!("`{}`", file.display()), &error)),
    };
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// What was thought last of copy `id`, as far as history knows.
pub fn last_verdict(source: &SourceDir, id: &str) -> Result<Option<String>, Fault> {
    let of_it = |line: &Value| line["copy"] == id && line["verdict"].is_string();
    let last = lines(source)?.into_iter().rfind(of_it);
    Ok(last.and_then(|line| line["verdict"].as_str().map(str::to_owned)))
}

/// The name of the content that copy `id` was stored with, as far as history knows.
pub fn stored_snapshot(source: &SourceDir, id: &str) -> Result<Option<String>, Fault> {
    let stored = lines(source)?.into_iter().rfind(|line| line["copy"] == id && line["outcome"] == "stored");
    Ok(stored.and_then(|line| line["snapshot"].as_str().map(str::to_owned)))
}

/// The ids of copies that were stored and not removed since, as far as history knows.
pub fn stored_copies(source: &SourceDir) -> Result<BTreeSet<String>, Fault> {
    let mut stored = BTreeSet::new();
    for line in lines(source)? {
        let copy = line["copy"].as_str().map(str::to_owned);
        match line["outcome"].as_str() {
            Some("stored") => stored.extend(copy),
            Some("removed") => copy.iter().for_each(|copy| {
                stored.remove(copy);
            }),
            _ => {}
        }
    }
    Ok(stored)
}
