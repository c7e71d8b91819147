//! A copy as a plain SQLite file, for whoever needs a path: the copy's own file, or a private one that goes when it was used.

use crate::content::{self, Content, Form, Unreadable};
use crate::durable;
use crate::source_dir::{SourceDir, StoredCopy};
use pullback_shared::fault::{Fault, Kind};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What the folders begin with that the private files lie in.
const PREFIX: &str = ".unpacked-";

/// In such a folder: whose lock tells whether somebody still uses it.
const LOCK: &str = "lock";

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
        let rotten = |why: String| Fault::new(Kind::Rotten, format!("copy {} is rotten: {why}", copy.id));
        let geometry = copy.manifest.as_ref().map_err(|why| rotten(why.clone()))?.geometry();
        let geometry = geometry.ok_or_else(|| rotten("the manifest's sizes make no sense".to_owned()))?;
        let content = Content::open(source, &copy.id, geometry.page_size).map_err(|why| match why {
            Unreadable::Rotten(why) | Unreadable::Gone(why) => rotten(why),
            Unreadable::Fault(fault) => fault,
        })?;
        let bytes = geometry.bytes();
        let dir = source.copies_dir();
        let made = (|| {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&dir)?;
            let lock = durable::lock(&dir.path().join(LOCK))?;
            let lock = lock.ok_or_else(|| io::Error::other("a new folder is locked"))?;
            let path = dir.path().join(format!("{}.db", copy.id));
            content.write_to(&path)?;
            Ok(Self { path, _private: Some((dir, lock)) })
        })();
        made.map_err(|error: io::Error| {
            Fault::io(format!("copy {} is packed; its {bytes} bytes in `{}`", copy.id, dir.display()), &error)
        })
    }

    /// Where it is, for as long as this lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes from the folder of copies `dir` what programs that were killed left unpacked.
pub fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let lock = entry.path().join(LOCK);
        // Without a lock it is empty, or just being made.
        match lock.exists() {
            true if durable::lock(&lock)?.is_some() => fs::remove_dir_all(entry.path())?,
            true => {}
            false => drop(fs::remove_dir(entry.path())),
        }
    }
    Ok(())
}
