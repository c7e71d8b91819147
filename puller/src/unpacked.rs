//! A copy as a plain SQLite file, for whoever needs a path: the copy's own file, or a private one that goes when it was used.

use crate::content::{self, Content, Form, Unreadable};
use crate::durable;
use crate::manifest::Manifest;
use crate::source_dir::{SourceDir, StoredCopy};
use crate::verify;
use pullback_shared::fault::{Fault, Kind};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What the folders begin with that the private files lie in.
const PREFIX: &str = ".unpacked-";

/// In such a folder: whose lock tells whether somebody still uses it.
const LOCK: &str = "lock";

/// Between the making of such a folder and its lock another run may clear it away: then the next is made, so many times.
const TRIES_MAX: u32 = 16;

/// A plain SQLite file with the content of a copy, for reading.
pub struct Unpacked {
    path: PathBuf,
    _private: Option<(TempDir, File)>,
}

impl Unpacked {
    /// Of `copy`, which is not proven by this: [`crate::verify::read`] does.
    pub fn of(source: &SourceDir, copy: &StoredCopy) -> Result<Self, Fault> {
        if let Some((Form::Plain, path)) = content::find(source, &copy.id) {
            return Ok(Self { path, _private: None });
        }
        Self::write(source, copy, |content, path| content.write_to(path))
    }

    /// Of `copy`, proven: a packed one while it is written, which costs no second look at it.
    pub fn proven(source: &SourceDir, copy: &StoredCopy) -> Result<Self, Fault> {
        if let Some((Form::Plain, path)) = content::find(source, &copy.id) {
            verify::read(source, copy, false, &|_| {})?.map_err(|why| rotten(source, copy, &why))?;
            return Ok(Self { path, _private: None });
        }
        let snapshot = copy.manifest.as_ref().ok().and_then(Manifest::snapshot_id);
        let snapshot = snapshot.ok_or_else(|| rotten(source, copy, "its manifest makes no sense"))?;
        Self::write(source, copy, |content, path| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            content::copy(&mut content.proven_pages(snapshot)?, &mut file)
        })
    }

    fn write(
        source: &SourceDir,
        copy: &StoredCopy,
        write: impl Fn(&Content, &Path) -> io::Result<()>,
    ) -> Result<Self, Fault> {
        let content = open(source, copy)?;
        let bytes = content.geometry().bytes();
        let (mut dir, mut tries) = (source.copies_dir(), 1);
        let made = loop {
            match Self::private(&content, &copy.id, &dir, &write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
                // As a store that is somebody else's, or was mounted for reading.
                Err(error) if is_for_reading(&error) && dir == source.copies_dir() => dir = env::temp_dir(),
                made => break made,
            }
        };
        made.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => rotten(source, copy, &error.to_string()),
            _ => {
                let what = format!("copy {} is packed; its {bytes} bytes in `{}`", copy.id, dir.display());
                Fault::io(what, &error)
            }
        })
    }

    /// Of `content`, which is copy `id`, in a new folder in `dir`.
    fn private(
        content: &Content,
        id: &str,
        dir: &Path,
        write: impl Fn(&Content, &Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir)?;
        let lock = durable::lock(&dir.path().join(LOCK))?;
        // Another run took it for one that was left, and clears it away.
        let lock = lock.ok_or(io::ErrorKind::NotFound)?;
        let path = dir.path().join(format!("{id}.db"));
        write(content, &path)?;
        Ok(Self { path, _private: Some((dir, lock)) })
    }

    /// Where it is, for as long as this lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What `copy` holds, or why that cannot be had.
pub fn open(source: &SourceDir, copy: &StoredCopy) -> Result<Content, Fault> {
    Content::of(source, copy).map_err(|why| match why {
        Unreadable::Rotten(why) | Unreadable::Gone(why) => rotten(source, copy, &why),
        Unreadable::Fault(fault) => fault,
    })
}

/// What is said of a copy that somebody wants to look into, and that is not what it was.
pub fn rotten(source: &SourceDir, copy: &StoredCopy, why: &str) -> Fault {
    // Who reads holds no lock: a rotation may have removed it meanwhile.
    if !source.file(&copy.id, "json").exists() {
        return Fault::new(Kind::Unknown, format!("copy {} was removed while it was read", copy.id))
            .hint(format!("`puller list {}` shows the copies", source.shown()));
    }
    Fault::new(Kind::Rotten, format!("copy {} is rotten: {why}", copy.id))
        .hint(format!("take another: `puller list {}` shows them", source.shown()))
}

/// Removes from the folder of copies `dir` what programs that were killed left unpacked.
pub fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match clear_one(&entry.path()) {
            // Its owner was faster.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn clear_one(dir: &Path) -> io::Result<()> {
    let lock = dir.join(LOCK);
    // Without a lock it is empty, or just being made.
    match lock.exists() {
        true => match durable::lock(&lock)? {
            Some(_lock) => fs::remove_dir_all(dir),
            None => Ok(()),
        },
        false => {
            drop(fs::remove_dir(dir));
            Ok(())
        }
    }
}

fn is_for_reading(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
