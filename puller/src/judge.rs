//! How closely a copy is looked at, and what the checks say together: the verdict.

use crate::manifest::{Check, Contents, Level, Manifest};
use crate::proof;
use crate::rot;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use crate::unpacked::Unpacked;
use crate::verify;
use jiff::{SignedDuration, Timestamp};
use pullback_shared::fault::Fault;
use pullback_shared::verdict::Verdict;
use std::path::Path;

/// Databases up to this size are checked in full each time, under `auto`.
const FULL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Under `auto`, no database goes longer than this without a full check.
const FULL_EVERY: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What the user asked for with `--verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// `full` for databases up to 64 MiB and at least every 7 days, else `quick`
    Auto,
    /// Read back and compared with the snapshot's hashes; SQLite is not asked
    Hash,
    /// And `PRAGMA quick_check`
    Quick,
    /// And `PRAGMA integrity_check` and a foreign-key check
    Full,
}

/// How closely to look at a copy of `bytes`, given the copies so far. A finding sticks: after damage or violations, the
/// check that found them is run until it passes.
pub fn level(wanted: Verify, bytes: u64, copies: &[StoredCopy], now: Timestamp) -> Level {
    let asked = match wanted {
        Verify::Hash => Level::Hash,
        Verify::Quick => Level::Quick,
        Verify::Full => Level::Full,
        Verify::Auto if bytes <= FULL_BYTES_MAX || !full_since(copies, now) => Level::Full,
        Verify::Auto => Level::Quick,
    };
    asked.max(sticky(copies).unwrap_or(Level::Hash))
}

/// Whether a full check was run within the last days. A check from the future says nothing.
fn full_since(copies: &[StoredCopy], now: Timestamp) -> bool {
    let checks = copies.iter().filter_map(|copy| copy.manifest.as_ref().ok()?.check(Level::Full));
    checks.map(|check| check.at).any(|at| at <= now && now.duration_since(at) < FULL_EVERY)
}

/// The level of the check that found something in the newest copy that was looked at by SQLite.
fn sticky(copies: &[StoredCopy]) -> Option<Level> {
    let manifests = copies.iter().rev().filter_map(|copy| copy.manifest.as_ref().ok());
    let newest = manifests.into_iter().find(|manifest| manifest.checked() > Level::Hash)?;
    let found = |check: &&Check| matches!(check.result, Verdict::Damaged | Verdict::Violations);
    newest.checks.iter().filter(found).map(|check| check.level).max()
}

/// What a look at a file said.
pub struct Look {
    /// To be recorded in the manifest.
    pub check: Check,
    /// What is in the file.
    pub contents: Contents,
}

/// Looks at the file at `path`, whose content was compared with its hashes before.
pub fn look(
    path: &Path,
    manifest_geometry: pullback_shared::page::Geometry,
    level: Level,
    at: Timestamp,
) -> Result<Look, Fault> {
    if level == Level::Hash {
        let contents = Contents { tables: None, used_pages: manifest_geometry.page_count };
        return Ok(Look {
            check: Check { level, at, result: Verdict::Unchecked, findings: Vec::new() },
            contents,
        });
    }
    let judged = proof::ask_sqlite(path, level, manifest_geometry)?;
    let result = judged.findings.verdict();
    let check = Check { level, at, result, findings: judged.findings.into_lines() };
    Ok(Look { check, contents: judged.contents })
}

/// The verdict on the exact copy of `manifest`: what the closest check said, whether what is expected of it is there, and
/// whether the source was emptied against `good`, the newest good copy before it.
pub fn verdict(manifest: &Manifest, good: Option<&Manifest>) -> (Verdict, Option<String>) {
    let asked = manifest.checks.iter().filter(|check| check.level > Level::Hash);
    let Some(closest) = asked.max_by_key(|check| check.level) else { return (Verdict::Unchecked, None) };
    if closest.result == Verdict::Damaged || manifest.accepted {
        return (closest.result, None);
    }
    let emptied = || good.and_then(|good| emptied(manifest.contents, good));
    match manifest.unmet.clone().or_else(emptied) {
        Some(why) => (Verdict::Suspect, Some(why)),
        None => (closest.result, None),
    }
}

/// Why `contents` look emptied against those of `good`.
fn emptied(contents: Contents, good: &Manifest) -> Option<String> {
    let before = good.contents;
    if contents.tables == Some(0) && before.tables.is_some_and(|tables| tables > 0) {
        let tables = before.tables.unwrap_or_default();
        return Some(format!("no table is left, where there were {tables} in {}", good.copy));
    }
    let (now, then) = (contents.used_pages, before.used_pages);
    (u64::from(now) * 10 < u64::from(then)).then(|| {
        format!(
            "{now} pages are in use, where there were {then} in {}: more than nine tenths are gone",
            good.copy
        )
    })
}

/// After a full check found damage: copies since the last one that passed a full check are checked in full as well, so
/// that no damaged copy is counted as a good one. Returns the ids of those that turned out to be damaged.
pub fn reprove(source: &SourceDir, before: u64, now: Timestamp, lock: &Lock) -> Result<Vec<String>, Fault> {
    let copies = source.copies()?;
    let mut damaged = Vec::new();
    for copy in copies.iter().rev().filter(|copy| copy.sequence < before) {
        let Ok(manifest) = &copy.manifest else { continue };
        if manifest.passed_full() {
            break;
        }
        let (true, Some(geometry)) = (manifest.verdict.is_good(), manifest.geometry()) else { continue };
        if let Err(why) = verify::read(source, copy, false, &|_| {})?
            && !rot::found(source, copy, &why, now, lock)?.is_mended
        {
            continue;
        }
        let look = look(Unpacked::of(source, copy)?.path(), geometry, Level::Full, now)?;
        let mut manifest = manifest.clone();
        manifest.verdict = look.check.result;
        manifest.record(look.check);
        if manifest.verdict == Verdict::Damaged {
            damaged.push(copy.id.clone());
        }
        source.write_manifest(&manifest, lock)?;
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;

    fn copy(sequence: u64, level: Level, result: Verdict, at: &str) -> StoredCopy {
        let mut manifest = manifest(sequence);
        manifest.verdict = result;
        manifest.record(Check { level, at: at.parse().unwrap(), result, findings: Vec::new() });
        StoredCopy { id: manifest.copy.clone(), sequence, manifest: Ok(manifest) }
    }

    #[track_caller]
    fn check(wanted: Verify, bytes: u64, copies: &[StoredCopy], expected: Level) {
        assert_eq!(level(wanted, bytes, copies, "2026-11-21T09:00:00Z".parse().unwrap()), expected);
    }

    #[test]
    fn auto_is_full_for_small_databases_and_every_seven_days() {
        let (small, large) = (1 << 20, 1 << 30);
        check(Verify::Auto, small, &[], Level::Full);
        check(Verify::Auto, large, &[], Level::Full);
        let at = |at| copy(1, Level::Full, Verdict::Ok, at);
        check(Verify::Auto, large, &[at("2026-11-20T09:00:00Z")], Level::Quick);
        check(Verify::Auto, large, &[at("2026-11-14T09:00:00Z")], Level::Full);
        check(Verify::Auto, large, &[at("2027-11-20T09:00:00Z")], Level::Full);
        check(Verify::Hash, small, &[], Level::Hash);
    }

    #[test]
    fn a_finding_sticks_until_the_check_that_made_it_passes() {
        let found = copy(1, Level::Full, Verdict::Damaged, "2026-11-20T09:00:00Z");
        check(Verify::Hash, 1 << 30, std::slice::from_ref(&found), Level::Full);
        let unasked = copy(2, Level::Hash, Verdict::Unchecked, "2026-11-20T10:00:00Z");
        check(Verify::Hash, 1 << 30, &[found.clone(), unasked], Level::Full);
        let passed = copy(3, Level::Full, Verdict::Ok, "2026-11-20T11:00:00Z");
        check(Verify::Hash, 1 << 30, &[found, passed], Level::Hash);
    }

    #[test]
    fn an_emptied_source_is_suspect_until_it_is_accepted() {
        let mut good = manifest(1);
        good.contents = Contents { tables: Some(3), used_pages: 100 };
        let said = |tables, used_pages, accepted, unmet: Option<&str>| {
            let mut copy = manifest(2);
            copy.contents = Contents { tables: Some(tables), used_pages };
            copy.record(Check {
                level: Level::Full,
                at: good.taken_at,
                result: Verdict::Ok,
                findings: Vec::new(),
            });
            (copy.accepted, copy.unmet) = (accepted, unmet.map(str::to_owned));
            verdict(&copy, Some(&good)).0
        };
        assert_eq!(said(0, 1, false, None), Verdict::Suspect);
        assert_eq!(said(3, 9, false, None), Verdict::Suspect);
        assert_eq!(said(3, 10, false, None), Verdict::Ok);
        assert_eq!(said(0, 1, true, None), Verdict::Ok);
        assert_eq!(said(3, 100, false, Some("no table `members`")), Verdict::Suspect);
        assert_eq!(said(3, 100, true, Some("no table `members`")), Verdict::Ok);
    }
}
