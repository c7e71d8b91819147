//! Rot: which file of a copy is no longer what it was, and what becomes of it. A list of page hashes is made anew from a database
//! that is whole; what holds content is set aside as `.rotten`, never removed; and what was put right gets its name back.

use crate::clock;
use crate::history;
use crate::proof;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use flate2::read::GzDecoder;
use jiff::Timestamp;
use pullback_shared::fault::Fault;
use pullback_shared::hashes::HashList;
use pullback_shared::header::HEADER_LEN;
use pullback_shared::page::{Geometry, PageHash};
use pullback_shared::snapshot::SnapshotId;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What was found, and done.
#[derive(Debug)]
pub struct Rot {
    /// In sentences, the first of which names the file.
    pub detail: Vec<String>,
    /// Whether only the list of page hashes had rotted: it was made anew, and the copy is whole.
    pub is_mended: bool,
}

/// What becomes of `copy`, which was read and is not what it was, for the reason `why`.
pub fn found(
    source: &SourceDir,
    copy: &StoredCopy,
    why: &str,
    now: Timestamp,
    lock: &Lock,
) -> Result<Rot, Fault> {
    let mut manifest = match &copy.manifest {
        Ok(manifest) => manifest.clone(),
        Err(why) => return of_manifest(source, copy, why, now),
    };
    let id = &copy.id;
    let shape = manifest.geometry().zip(manifest.snapshot_id());
    let list_is_right = shape.is_none_or(|shape| is_list_of(&source.file(id, "pages"), shape));
    let before = source.set_aside_of(id);
    let mut detail = Vec::new();
    let plain = source.file(id, "db");
    if let (false, Some(shape)) = (list_is_right, shape) {
        let what = format!("`{id}.pages`: {why}");
        if remake_list(source, id, shape) {
            let done = "the database is whole, and its list of page hashes was made anew from it".to_owned();
            let detail = vec![what, done];
            note(source, id, "mended", manifest.verdict.word(), &detail, now)?;
            return Ok(Rot { detail, is_mended: true });
        }
        if before.is_empty() {
            detail.push(what);
        }
        source.set_aside(id, "pages", lock)?;
    }
    let is_bad = |suffix: &str| match (suffix, shape) {
        ("delta.gz", _) => !unpacks(&source.file(id, suffix)),
        ("db.gz", Some(shape)) => !is_packed_content(&source.file(id, suffix), shape),
        (_, Some(shape)) => !is_content(&plain, shape),
        (_, None) => false,
    };
    let forms = ["db", "db.gz", "delta.gz"].into_iter().filter(|form| source.file(id, form).exists());
    let bad: Vec<&str> = forms.filter(|form| is_bad(form)).collect();
    if before.is_empty() {
        detail.extend(bad.iter().map(|suffix| format!("`{id}.{suffix}`: {why}")));
    }
    if detail.is_empty() {
        let known = manifest.rot().first().cloned().filter(|_| !before.is_empty());
        detail.push(known.unwrap_or_else(|| format!("`{}`: {why}", file_name(&source.file_of(id)))));
    }
    let reason = detail[0].clone();
    for suffix in bad {
        if source.set_aside(id, suffix, lock)?.is_none() {
            detail.push(format!("`{id}.{suffix}` stays: another one was set aside before"));
        }
    }
    detail.extend(source.set_aside_of(id).iter().map(|suffix| {
        let path = source.file(id, &format!("{suffix}.rotten"));
        format!("it is set aside as `{}`", path.display())
    }));
    manifest.rotted(now, source.next_proof()?, &reason);
    note(source, id, "verified", manifest.verdict.word(), &detail, now)?;
    source.write_manifest(&manifest, lock)?;
    source.link_latest(lock)?;
    Ok(Rot { detail, is_mended: false })
}

/// What is known to be rotten of `copy` without another look at its content.
pub fn known(source: &SourceDir, copy: &StoredCopy) -> Vec<String> {
    let mut detail = match &copy.manifest {
        Ok(manifest) => manifest.rot().to_vec(),
        Err(why) => vec![format!("`{}.json`: {why}", copy.id)],
    };
    detail.extend(source.set_aside_of(&copy.id).iter().map(|suffix| {
        let path = source.file(&copy.id, &format!("{suffix}.rotten"));
        format!("it is set aside as `{}`", path.display())
    }));
    detail
}

/// Gives the files of `copy` that were set aside and are what they were again their names back.
pub fn take_back(source: &SourceDir, copy: &StoredCopy, lock: &Lock) -> Result<(), Fault> {
    let shape =
        copy.manifest.as_ref().ok().and_then(|manifest| manifest.geometry().zip(manifest.snapshot_id()));
    let Some(shape) = shape else { return Ok(()) };
    for suffix in source.set_aside_of(&copy.id) {
        let aside = source.file(&copy.id, &format!("{suffix}.rotten"));
        let is_right = match suffix {
            _ if source.file(&copy.id, suffix).exists() => false,
            "pages" => is_list_of(&aside, shape),
            "db.gz" => is_packed_content(&aside, shape),
            "delta.gz" => unpacks(&aside),
            _ => is_content(&aside, shape),
        };
        if is_right && source.take_back(&copy.id, suffix, lock)? {
            tracing::info!(copy = %copy.id, suffix, "what was set aside is what it was again");
        }
    }
    Ok(())
}

/// Forgets those of `missing` that were known to be rotten and have no file left: somebody removed them on purpose. Gives the
/// others, which nobody should miss.
pub fn forget(source: &SourceDir, missing: Vec<String>, now: Timestamp) -> Result<Vec<String>, Fault> {
    let mut missed = Vec::new();
    for id in missing {
        let has_files = source.has_files_of(&id)?;
        if !has_files && history::last_verdict(source, &id)?.as_deref() == Some("rotten") {
            let line = json!({
                "v": 1, "at": clock::rfc3339(now), "run": "verify", "source": source.shown(), "outcome": "removed", "copy": id,
            });
            history::add(source, &line)?;
            continue;
        }
        // Of one that vanished whole while it was good, nothing is noted: it is missed each time.
        if has_files {
            note(source, &id, "verified", "rotten", &["its manifest is gone".to_owned()], now)?;
        }
        missed.push(id);
    }
    Ok(missed)
}

/// A manifest that rotted says nothing, but history may know what the database beside it is to be.
fn of_manifest(source: &SourceDir, copy: &StoredCopy, why: &str, now: Timestamp) -> Result<Rot, Fault> {
    let mut detail = vec![format!("`{}.json`: {why}", copy.id)];
    let path = source.file(&copy.id, "db");
    let stored = history::stored_snapshot(source, &copy.id)?.and_then(|hex| SnapshotId::from_hex(&hex));
    if let Some((snapshot, geometry)) = stored.zip(geometry_of(&path))
        && is_content(&path, (geometry, snapshot))
    {
        detail.push(format!("the database beside it is what was stored: `{}`", path.display()));
    }
    note(source, &copy.id, "verified", "rotten", &detail, now)?;
    Ok(Rot { detail, is_mended: false })
}

/// Only what was not known before is worth a line in the history.
fn note(
    source: &SourceDir,
    id: &str,
    outcome: &str,
    verdict: &str,
    detail: &[String],
    now: Timestamp,
) -> Result<(), Fault> {
    if outcome == "verified" && history::last_verdict(source, id)?.as_deref() == Some(verdict) {
        return Ok(());
    }
    let line = json!({
        "v": 1, "at": clock::rfc3339(now), "run": "verify", "source": source.shown(), "outcome": outcome, "copy": id,
        "verdict": verdict, "findings": detail,
    });
    history::add(source, &line)
}

/// The shape of the database at `path`, from its header and its length.
fn geometry_of(path: &Path) -> Option<Geometry> {
    let mut header = [0; HEADER_LEN];
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.read_exact(&mut header).ok()?;
    let size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u32::from(size),
    };
    let pages = u32::try_from(len.checked_div(size.into())?).ok()?;
    Geometry::new(size, pages).filter(|geometry| geometry.bytes() == len)
}

fn is_list_of(path: &Path, (geometry, snapshot): (Geometry, SnapshotId)) -> bool {
    let read = || -> io::Result<bool> {
        let file = File::open(path)?;
        let right = u64::from(geometry.page_count) * PageHash::LEN as u64;
        Ok(file.metadata()?.len() == right
            && HashList::new(file, geometry.page_count).snapshot_id(geometry)? == snapshot)
    };
    read().unwrap_or(false)
}

fn is_content(path: &Path, (geometry, snapshot): (Geometry, SnapshotId)) -> bool {
    let named = File::open(path).and_then(|file| {
        proof::name_of(BufReader::with_capacity(READ_BYTES, file), geometry, &mut io::sink())
    });
    named.is_ok_and(|named| named == snapshot)
}

fn is_packed_content(path: &Path, (geometry, snapshot): (Geometry, SnapshotId)) -> bool {
    let named = File::open(path).and_then(|file| proof::name_of(unpacking(file), geometry, &mut io::sink()));
    named.is_ok_and(|named| named == snapshot)
}

/// Whether a pack is as it was written, as far as its own check value tells; what it refers to is not looked at.
fn unpacks(path: &Path) -> bool {
    File::open(path).and_then(|file| io::copy(&mut unpacking(file), &mut io::sink())).is_ok()
}

fn unpacking(file: File) -> impl Read {
    GzDecoder::new(BufReader::with_capacity(READ_BYTES, file))
}

/// Makes the list of page hashes of copy `id` anew, if its content is still what its name says.
fn remake_list(source: &SourceDir, id: &str, (geometry, snapshot): (Geometry, SnapshotId)) -> bool {
    let list = source.file(id, "pages");
    let aside = list.with_file_name(format!(".{id}.pages.new"));
    let remade = || -> io::Result<bool> {
        let (plain, packed) = (source.file(id, "db"), source.file(id, "db.gz"));
        let mut written = BufWriter::new(File::create(&aside)?);
        let named = match plain.exists() {
            true => {
                let file = BufReader::with_capacity(READ_BYTES, File::open(plain)?);
                proof::name_of(file, geometry, &mut written)?
            }
            false => proof::name_of(unpacking(File::open(packed)?), geometry, &mut written)?,
        };
        written.flush()?;
        if named != snapshot {
            return Ok(false);
        }
        written.get_ref().set_permissions(fs::Permissions::from_mode(0o400))?;
        written.get_ref().sync_all()?;
        fs::rename(&aside, &list)?;
        crate::durable::sync_dir(&source.copies_dir())?;
        Ok(true)
    };
    let remade = remade();
    if let Err(error) = &remade {
        tracing::debug!(id, %error, "the list of page hashes cannot be made anew");
    }
    let is_remade = remade.unwrap_or(false);
    if !is_remade && let Err(error) = crate::durable::remove(&aside) {
        tracing::debug!(%error, "left for the next run to clear");
    }
    is_remade
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
