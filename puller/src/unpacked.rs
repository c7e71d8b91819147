//! A copy as a plain SQLite file, for whoever needs a path: the copy's own file, or a private one that goes when it was used.

use crate::source_dir::{SourceDir, StoredCopy};
use pullback_shared::fault::Fault;
use std::path::{Path, PathBuf};

/// A plain SQLite file with the content of a copy, for reading.
pub struct Unpacked {
    path: PathBuf,
}

impl Unpacked {
    /// Of `copy`, which is not proven by this: [`crate::verify::read`] does.
    pub fn of(source: &SourceDir, copy: &StoredCopy) -> Result<Self, Fault> {
        Ok(Self { path: source.file(&copy.id, "db") })
    }

    /// Where it is, for as long as this lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
