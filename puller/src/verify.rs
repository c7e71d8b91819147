//! `verify`: whether a stored copy, or any database file, is still what it was.

use crate::content::{self, Content, Form, Unreadable};
use crate::judge::{self, Verify};
use crate::manifest::Level;
use crate::proof;
use crate::pull::newest_good_before;
use crate::rot;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use crate::unpacked::Unpacked;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{Header, Journal};
use pullback_shared::page::Geometry;
use pullback_shared::text::to_hex;
use pullback_shared::verdict::Verdict;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug)]
pub struct Verified {
    /// The result.
    pub result: Verdict,
    /// Details, one a line.
    pub detail: Vec<String>,
    /// The copy is whole, and what rotted of it was made anew in this run; `result` is `rotten` once, so that it is heard of.
    pub is_mended: bool,
}

impl Verified {
    /// Of a copy that has rotted.
    pub fn rotten(detail: Vec<String>) -> Self {
        Self { result: Verdict::Rotten, detail, is_mended: false }
    }
}

/// Reads `copy` whole, in whatever form it is kept, against its page hashes, its snapshot's name and its MD5. The inner error says
/// what is wrong with it, the outer one why it could not be looked at.
pub fn read(
    source: &SourceDir,
    copy: &StoredCopy,
    want_md5: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Result<proof::ReadBack, String>, Fault> {
    match try_read(source, copy, want_md5, progress) {
        Ok(found) => Ok(Ok(found)),
        Err(Unreadable::Rotten(why) | Unreadable::Gone(why)) => Ok(Err(why)),
        Err(Unreadable::Fault(fault)) => Err(fault),
    }
}

fn try_read(
    source: &SourceDir,
    copy: &StoredCopy,
    want_md5: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<proof::ReadBack, Unreadable> {
    let rotten = |why: String| Unreadable::Rotten(why);
    let manifest = copy.manifest.as_ref().map_err(|why| rotten(why.clone()))?;
    let content = Content::of(source, copy)?;
    let geometry = content.geometry();
    let form = content::find(source, &copy.id).map_or(Form::Plain, |(form, _)| form);
    let file = content::named(&source.file(&copy.id, form.suffix()));
    let md5 = want_md5 && manifest.md5.is_some();
    let unread = |error: io::Error| match content::is_rot(&error) {
        true => rotten(format!("{file} cannot be read: {error}")),
        false => Fault::io(&file, &error).into(),
    };
    let hashes = content.hashes().map_err(unread)?;
    let found =
        proof::read_back_from(&mut content.pages(), geometry, hashes, md5, progress).map_err(unread)?;
    let same = Some(found.snapshot) == manifest.snapshot_id();
    let upon = if form == Form::Delta { ", or of what it is packed upon," } else { "" };
    match found.first_wrong {
        // A delta has no list of its own.
        Some(no) if same && form != Form::Delta => Err(rotten(format!(
            "the list of page hashes `{}.pages` has rotted at page {}; the copy itself is whole",
            copy.id,
            no.get()
        ))),
        Some(no) if !same => Err(rotten(format!("page {} of {file}{upon} is not what it was", no.get()))),
        None if !same => Err(rotten(format!("{file} and its page hashes are those of another snapshot"))),
        _ if md5 && found.md5.map(|md5| to_hex(&md5)) != manifest.md5 => {
            Err(rotten("the MD5 in the manifest is not that of the copy".to_owned()))
        }
        _ => Ok(found),
    }
}

/// Verifies a stored copy and records what was found.
pub fn copy(
    source: &SourceDir,
    copy: &StoredCopy,
    full: bool,
    now: Timestamp,
    lock: &Lock,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Verified, Fault> {
    let mut mended = Vec::new();
    match read(source, copy, true, progress)? {
        Ok(_) => rot::take_back(source, &copy.id, lock)?,
        Err(why) => {
            let found = rot::found(source, copy, &why, now, lock)?;
            if !found.is_mended {
                return Ok(Verified::rotten(found.detail));
            }
            mended = found.detail;
        }
    }
    let makes_no_sense = || Fault::new(Kind::Rotten, "a manifest that makes no sense");
    let mut manifest = copy.manifest.clone().map_err(|_| makes_no_sense())?;
    let geometry = manifest.geometry().ok_or_else(makes_no_sense)?;
    let copies = source.copies()?;
    let others: Vec<StoredCopy> =
        copies.iter().filter(|other| other.sequence <= copy.sequence).cloned().collect();
    let wanted = if full { Verify::Full } else { Verify::Auto };
    // The level that found something before, or that was asked for before, is not gone below.
    let level = judge::level(wanted, manifest.bytes, &others, now).max(manifest.checked()).max(Level::Quick);
    manifest.proven(now, source.next_proof()?);
    let mut detail = mended.clone();
    // What SQLite said of the same bytes stands; what it found, it is asked about again.
    if full || !manifest.passed(level) {
        let unpacked = Unpacked::of(source, copy)?;
        let look = judge::look(unpacked.path(), geometry, level, now)?;
        detail.extend(look.check.findings.iter().cloned());
        manifest.contents = look.contents;
        manifest.record(look.check);
    }
    let good = newest_good_before(&copies, manifest.sequence);
    let (verdict, why) = match judge::verdict(&manifest, good) {
        // What it was held against when it came may be gone.
        (found, None) if found.is_good() && manifest.verdict == Verdict::Suspect && !manifest.accepted => {
            (Verdict::Suspect, Some("it was suspect when it came, and nobody accepted it".to_owned()))
        }
        judged => judged,
    };
    detail.extend(why);
    let is_news = manifest.verdict != verdict;
    manifest.verdict = verdict;
    match source.write_manifest(&manifest, lock) {
        // A full disk is no reason to leave the other copies unread: only when this one was proven is not written down.
        Err(fault) if !is_news && fault.kind == Kind::NoSpace => {
            tracing::warn!(%fault, "the proof of a copy is not written down");
        }
        written => written?,
    }
    let is_mended = !mended.is_empty();
    Ok(Verified { result: if is_mended { Verdict::Rotten } else { verdict }, detail, is_mended })
}

/// Verifies any database file. Nothing is written to it or beside it.
pub fn file(path: &Path) -> Result<Verified, Fault> {
    let shown = path.display();
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Fault::new(Kind::Missing, format!("`{shown}`: there is no such file"))
        }
        _ => Fault::io(format!("`{shown}`"), &error),
    };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(Fault::new(Kind::Unusable, format!("`{shown}` is no file")));
    }
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(100).read_to_end(&mut head)).map_err(io)?;
    if head.is_empty() {
        return Ok(Verified {
            result: Verdict::Ok,
            detail: vec!["an empty file: a database without tables".to_owned()],
            is_mended: false,
        });
    }
    let Some(header) = Header::read(&head) else {
        return Err(Fault::new(
            Kind::NotADatabase,
            format!("`{shown}` is not an SQLite database, or it is encrypted"),
        ));
    };
    let mut detail = Vec::new();
    let wal = std::fs::metadata(beside("-wal")).map(|metadata| metadata.len()).ok();
    if std::fs::metadata(beside("-journal")).is_ok_and(|metadata| metadata.len() > 0) {
        detail.push(
            "a -journal lies beside it: its last writer died within a transaction, or is still writing"
                .to_owned(),
        );
    }
    match (header.journal, wal) {
        (Journal::Wal, None) => detail.push(
            "this looks like a hand copy: its -wal is missing, and with it the newest rows, if there were any in it".to_owned(),
        ),
        (Journal::Wal, Some(0)) => detail.push("its -wal is empty: if this is a hand copy, the newest rows may be missing".to_owned()),
        (Journal::Wal, Some(bytes)) => detail.push(format!(
            "{bytes} bytes lie in its -wal; the file alone is checked, without the rows that are only there"
        )),
        (Journal::Rollback, _) => {}
    }
    let size = u32::from(u16::from_be_bytes([head[16], head[17]]));
    let size = if size == 1 { 65536 } else { size };
    let pages = u32::try_from(metadata.len() / u64::from(size.max(1))).unwrap_or(u32::MAX);
    let Some(geometry) = Geometry::new(size, pages) else {
        return Err(Fault::new(Kind::NotADatabase, format!("`{shown}` names a page size of {size} bytes")));
    };
    if geometry.bytes() != metadata.len() {
        detail.push(format!("its length is no whole number of pages of {size} bytes: it was cut short"));
    }
    let findings = proof::ask_file(path)?;
    let result = match geometry.bytes() == metadata.len() {
        true => findings.verdict(),
        false => Verdict::Damaged,
    };
    detail.extend(findings.into_lines());
    Ok(Verified { result, detail, is_mended: false })
}
