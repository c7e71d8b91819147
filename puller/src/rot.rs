//! Rot: which file of a copy is no longer what it was, and what becomes of it. A list of page hashes is made anew from a database
//! that is whole; what holds content is set aside as `.rotten`, never removed; and what was put right gets its name back.

use crate::clock;
use crate::content::{self, Form, RUN_BYTES};
use crate::durable;
use crate::history;
use crate::pack;
use crate::packing;
use crate::proof;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
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
    let (form, path) = content::find(source, id).unwrap_or((Form::Plain, source.file(id, "db")));
    let shape = manifest.geometry().zip(manifest.snapshot_id());
    // A delta has no list of its own.
    let list_is_right = match shape {
        Some(shape) if form != Form::Delta => is_list_of(&source.file(id, "pages"), shape)?,
        _ => true,
    };
    let mut detail = Vec::new();
    let mut bad = Vec::new();
    if let (false, Some(shape)) = (list_is_right, shape) {
        if remake_list(source, id, (form, &path), shape)? {
            let done = "the database is whole, and its list of page hashes was made anew from it".to_owned();
            let detail = vec![named(&format!("`{id}.pages`"), why), done];
            note(source, id, "mended", manifest.verdict.word(), &detail, now)?;
            take_back(source, id, lock)?;
            return Ok(Rot { detail, is_mended: true });
        }
        bad.push("pages");
    }
    let is_bad = match (form, shape) {
        // One that is as it was sealed is not at fault: what it is packed upon is.
        (Form::Delta, _) => !is_sealed(&path)?,
        (Form::Gzip, _) if !is_sealed(&path)? => true,
        (form, Some(shape)) => !is_content_of(form, &path, shape)?,
        (_, None) => false,
    };
    if is_bad {
        bad.push(form.suffix());
    }
    match source.set_aside_of(id).contains(&form.suffix()).then(|| manifest.rot().first()).flatten() {
        Some(known) if path != source.file(id, form.suffix()) => detail.push(known.clone()),
        _ => detail.push(named(&content::named(&source.file(id, form.suffix())), why)),
    }
    let reason = detail[0].clone();
    for suffix in bad.into_iter().filter(|suffix| source.file(id, suffix).exists()) {
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
    detail.extend(packing::settle(source, lock)?);
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

/// Gives the files of copy `id`, which was read and is whole, their names back: where none has it, the one that was set aside is
/// the one that was read.
pub fn take_back(source: &SourceDir, id: &str, lock: &Lock) -> Result<(), Fault> {
    let form = content::find(source, id).map(|(form, _)| form.suffix());
    for suffix in
        source.set_aside_of(id).into_iter().filter(|suffix| *suffix == "pages" || Some(*suffix) == form)
    {
        if source.take_back(id, suffix, lock)? {
            tracing::info!(id, suffix, "what was set aside is what it was again");
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
        && is_content_of(Form::Plain, &path, (geometry, snapshot))?
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

/// What is wrong, with the file that it is about.
fn named(file: &str, why: &str) -> String {
    if why.contains(file) { why.to_owned() } else { format!("{file}: {why}") }
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

fn is_list_of(path: &Path, (geometry, snapshot): (Geometry, SnapshotId)) -> Result<bool, Fault> {
    let read = || -> io::Result<bool> {
        let file = File::open(path)?;
        let right = u64::from(geometry.page_count) * PageHash::LEN as u64;
        Ok(file.metadata()?.len() == right
            && HashList::new(file, geometry.page_count).snapshot_id(geometry)? == snapshot)
    };
    unless_rot(path, read()).map(|is_it| is_it == Some(true))
}

fn is_content_of(
    form: Form,
    path: &Path,
    (geometry, snapshot): (Geometry, SnapshotId),
) -> Result<bool, Fault> {
    unless_rot(path, name_of(form, path, geometry, &mut io::sink())).map(|name| name == Some(snapshot))
}

/// What was read of the file at `path`; `None`: it is gone, or not what it was.
fn unless_rot<T>(path: &Path, read: io::Result<T>) -> Result<Option<T>, Fault> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || content::is_rot(&error) => Ok(None),
        Err(error) => Err(Fault::io(format!("`{}`", path.display()), &error)),
    }
}

/// The name of the whole copy in the file at `path`, whose page hashes go to `list`.
fn name_of(form: Form, path: &Path, geometry: Geometry, list: &mut impl Write) -> io::Result<SnapshotId> {
    let file = File::open(path)?;
    match form {
        Form::Plain => proof::name_of(BufReader::with_capacity(RUN_BYTES, file), geometry, list),
        Form::Gzip | Form::Delta => proof::name_of(pack::unzipped(file), geometry, list),
    }
}

/// Whether a pack is as it was written; what it is packed upon is not looked at.
fn is_sealed(path: &Path) -> Result<bool, Fault> {
    let sealed = File::open(path).and_then(|mut file| pack::check_seal(&mut file));
    unless_rot(path, sealed).map(|sealed| sealed.is_some())
}

/// Makes the list of page hashes of copy `id` anew, if its content is still what its name says.
fn remake_list(
    source: &SourceDir,
    id: &str,
    (form, path): (Form, &Path),
    (geometry, snapshot): (Geometry, SnapshotId),
) -> Result<bool, Fault> {
    let list = source.file(id, "pages");
    let aside = list.with_file_name(format!(".{id}.pages.new"));
    let remade = (|| {
        let mut written = BufWriter::new(File::create(&aside)?);
        let is_it = name_of(form, path, geometry, &mut written)? == snapshot;
        written.flush()?;
        if is_it {
            written.get_ref().set_permissions(fs::Permissions::from_mode(0o400))?;
            written.get_ref().sync_all()?;
            fs::rename(&aside, &list)?;
            durable::sync_dir(&source.copies_dir())?;
        }
        Ok(is_it)
    })();
    if !matches!(remade, Ok(true))
        && let Err(error) = durable::remove(&aside)
    {
        tracing::debug!(%error, "left for the next run to clear");
    }
    unless_rot(path, remade).map(|is_remade| is_remade == Some(true))
}
