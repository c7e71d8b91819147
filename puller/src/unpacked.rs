//! A copy as a plain SQLite file, for whoever needs a path: the copy's own file, or a private one that goes when it was used.

use crate::content::{self, Content, Form, Unreadable};
use crate::durable;
use crate::source_dir::{SourceDir, StoredCopy};
use pullback_shared::fault::{Fault, Kind};
use std::env;
use std::fs::{self, File};
use std::io;
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
        let rotten = |why: String| Fault::new(Kind::Rotten, format!("copy {} is rotten: {why}", copy.id));
        let geometry = copy.manifest.as_ref().map_err(|why| rotten(why.clone()))?.geometry();
        let geometry = geometry.ok_or_else(|| rotten("the manifest's sizes make no sense".to_owned()))?;
        let content = Content::open(source, &copy.id, geometry.page_size).map_err(|why| match why {
            Unreadable::Rotten(why) | Unreadable::Gone(why) => rotten(why),
            Unreadable::Fault(fault) => fault,
        })?;
        let bytes = geometry.bytes();
        let (mut dir, mut tries) = (source.copies_dir(), 1);
        let made = loop {
            match Self::private(&content, &copy.id, &dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
                // As a store that is somebody else's, or was mounted for reading.
                Err(error) if is_for_reading(&error) && dir == source.copies_dir() => dir = env::temp_dir(),
                made => break made,
            }
        };
        made.map_err(|error| {
            Fault::io(format!("copy {} is packed; its {bytes} bytes in `{}`", copy.id, dir.display()), &error)
        })
    }

    /// Of `content`, which is copy `id`, in a new folder in `dir`.
    fn private(content: &Content, id: &str, dir: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir)?;
        let lock = durable::lock(&dir.path().join(LOCK))?;
        // Another run took it for one that was left, and clears it away.
        let lock = lock.ok_or(io::ErrorKind::NotFound)?;
        let path = dir.path().join(format!("{id}.db"));
        content.write_to(&path)?;
        Ok(Self { path, _private: Some((dir, lock)) })
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
