//! A drill: the newest good copy is restored into a scratch place, opened, and checked in full, as on the day when it is needed.

use crate::judge;
use crate::manifest::Level;
use crate::proof;
use crate::restore;
use crate::source_dir::{DRILL, Lock, SourceDir, StoredCopy};
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::verdict::Verdict;
use std::collections::BTreeMap;
use std::path::Path;

/// What came of it.
#[derive(Debug)]
pub struct Drilled {
    /// Bytes of the restored database.
    pub bytes: u64,
    /// What SQLite's full check says of it.
    pub verdict: Verdict,
    /// What it found, and what is expected of the source and not there.
    pub findings: Vec<String>,
    /// Tables.
    pub tables: u64,
    /// Rows of all tables that SQLite alone can count.
    pub rows: u64,
    /// Whether all is as it should be.
    pub passed: bool,
}

/// Restores `copy` below `to`, or beside the copies, looks at it as closely as can be, holds it against `expect`, and removes it.
pub fn run(
    source: &SourceDir,
    copy: &StoredCopy,
    to: Option<&Path>,
    expect: &BTreeMap<String, u64>,
    now: Timestamp,
    lock: &Lock,
) -> Result<Drilled, Fault> {
    source.clear_drills(lock)?;
    let place = to.unwrap_or(source.dir());
    let io = |error: std::io::Error| Fault::io(format!("`{}`", place.display()), &error);
    let scratch = tempfile::Builder::new().prefix(DRILL).tempdir_in(place).map_err(io)?;
    let path = scratch.path().join("restored.db");
    let restored = restore::to_new_file(source, copy, &path, false)?;
    let manifest = copy.manifest.as_ref().ok();
    let makes_no_sense = || Fault::new(Kind::Rotten, "a manifest that makes no sense");
    let geometry = manifest.and_then(|manifest| manifest.geometry()).ok_or_else(makes_no_sense)?;
    let look = judge::look(&path, geometry, Level::Full, now)?;
    let (verdict, mut findings) = (look.check.result, look.check.findings);
    let unmet = if expect.is_empty() { None } else { proof::unmet(&path, expect) };
    let passed = verdict.is_good() && unmet.is_none();
    findings.extend(unmet);
    let counted = match geometry.page_count {
        0 => Vec::new(),
        // What cannot be counted at all was found to be damaged above.
        _ => proof::count_rows(&path).unwrap_or_default(),
    };
    let rows = counted.iter().filter_map(|(_, rows)| u64::try_from(*rows).ok()).sum();
    scratch.close().map_err(io)?;
    Ok(Drilled { bytes: restored.bytes, verdict, findings, tables: counted.len() as u64, rows, passed })
}
