//! All that is in a folder, to see afterwards that nothing of it changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Every entry at and below one path, by its path from there. Two are equal when names, kinds, owners, modes and bytes
/// are; what was never there has no entry at all.
#[derive(PartialEq, Eq, Debug)]
pub struct Folder(BTreeMap<PathBuf, Entry>);

#[derive(PartialEq, Eq, Debug)]
struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    content: Content,
}

#[derive(PartialEq, Eq, Debug)]
enum Content {
    Directory,
    Link(PathBuf),
    /// A FIFO, a device or a socket: nothing to read.
    Special,
    /// Its length and its hash.
    File(u64, String),
}

impl Folder {
    /// Reads all of it. Plainly: a process that has one of the files open through SQLite would lose its locks.
    #[track_caller]
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        read(root, root, &mut entries);
        Self(entries)
    }

    /// Whether nothing at all is there.
    pub fn is_absent(&self) -> bool {
        self.0.is_empty()
    }

    /// Panics, naming what differs, unless `now` is the same.
    #[track_caller]
    pub fn assert_unchanged(&self, now: &Self, of: &str) {
        for (path, entry) in &self.0 {
            assert_eq!(now.0.get(path), Some(entry), "`{}` in {of}", path.display());
        }
        for path in now.0.keys() {
            assert!(self.0.contains_key(path), "`{}` appeared in {of}", path.display());
        }
    }
}

fn read(root: &Path, path: &Path, entries: &mut BTreeMap<PathBuf, Entry>) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    let kind = metadata.file_type();
    let content = if kind.is_dir() {
        for entry in fs::read_dir(path).expect("a folder can be read") {
            read(root, &entry.expect("a folder can be read").path(), entries);
        }
        Content::Directory
    } else if kind.is_symlink() {
        Content::Link(fs::read_link(path).expect("a link can be read"))
    } else if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
        Content::Special
    } else {
        // A test that takes its own right to read away still has an owner, a mode and a length to compare.
        let hash = fs::read(path).map(|bytes| blake3::hash(&bytes).to_string()).unwrap_or_default();
        Content::File(metadata.len(), hash)
    };
    let name = path.strip_prefix(root).expect("an entry lies below its root").to_owned();
    let entry = Entry { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid(), content };
    entries.insert(name, entry);
}
