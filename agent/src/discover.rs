//! `Discovery`: the SQLite databases below a folder, found by their first bytes, within limits.

use pullback_shared::fault::{Fault, Kind};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Folders within folders that are looked into.
const DEPTH_MAX: usize = 16;

/// Files and folders that are looked at.
const ENTRIES_MAX: usize = 200_000;

/// How long is looked.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Databases that are found.
const FOUND_MAX: usize = 100;

/// How every SQLite database begins that has a page.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The file that makes a folder a puller's store: what lies in it are copies.
const STORE: &str = "pullback-store.json";

/// What was found.
#[derive(Default, Debug)]
pub struct Discovery {
    /// The databases, sorted by path.
    pub found: Vec<PathBuf>,
    /// Databases of other users than the one that owns the folder's agent.
    pub foreign: Vec<(PathBuf, u32)>,
    /// Folders that cannot be read.
    pub unreadable: Vec<PathBuf>,
    /// Which limit ended the search early, if one did.
    pub ended: Option<String>,
}

impl Discovery {
    /// Looks below `dir`: into no hidden folder, no link, no store of a puller's, and not into `state_dir`. Databases that do
    /// not belong to `owner`, where one is given, are told apart.
    pub fn below(dir: &Path, state_dir: &Path, owner: Option<u32>) -> Result<Self, Fault> {
        let shown = format!("`{}`", dir.display());
        let dir = dir.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Fault::new(Kind::Missing, format!("{shown}: there is no such folder"))
                    .hint("`--discover` takes the folder to look in")
            }
            _ => Fault::io(&shown, &error),
        })?;
        if !dir.is_dir() {
            return Err(Fault::new(Kind::Usage, format!("{shown} is no folder"))
                .hint("`--discover` takes the folder to look in; `--database` takes a database"));
        }
        std::fs::read_dir(&dir).map_err(|error| Fault::io(&shown, &error))?;
        let state_dir = state_dir.canonicalize().ok();
        let mut discovery = Self::default();
        discovery.search(dir, state_dir.as_deref(), owner);
        discovery.found.sort();
        Ok(discovery)
    }

    fn search(&mut self, dir: PathBuf, state_dir: Option<&Path>, owner: Option<u32>) {
        let began = Instant::now();
        let mut folders = vec![(dir, 0)];
        let mut seen = 0;
        while let Some((folder, depth)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                self.unreadable.push(folder);
                continue;
            };
            for entry in entries.flatten() {
                seen += 1;
                if let Some(limit) = self.limit(seen, began.elapsed()) {
                    self.ended = Some(limit);
                    return;
                }
                let (path, name) = (entry.path(), entry.file_name());
                let Ok(metadata) = path.symlink_metadata() else { continue };
                if metadata.is_dir() {
                    let is_hidden = name.as_encoded_bytes().starts_with(b".");
                    let is_ours = state_dir == Some(&path) || path.join(STORE).is_file();
                    match depth < DEPTH_MAX {
                        _ if is_hidden || is_ours => {}
                        true => folders.push((path, depth + 1)),
                        false => {
                            self.ended = Some(format!("no folder was looked into below {DEPTH_MAX} others"))
                        }
                    }
                } else if metadata.is_file() && is_database(&path) {
                    match owner.is_some_and(|owner| owner != metadata.uid()) {
                        true => self.foreign.push((path, metadata.uid())),
                        false => self.found.push(path),
                    }
                }
            }
        }
    }

    fn limit(&self, seen: usize, time: Duration) -> Option<String> {
        if seen > ENTRIES_MAX {
            return Some(format!("the search ended after {ENTRIES_MAX} files and folders"));
        }
        if time > TIME_MAX {
            return Some(format!("the search ended after {} s", TIME_MAX.as_secs()));
        }
        let found = self.found.len() + self.foreign.len();
        (found >= FOUND_MAX).then(|| format!("the search ended after {FOUND_MAX} databases"))
    }
}

/// Read by hand: nothing in this process has a database open yet, whose locks the closing of the file could drop.
fn is_database(path: &Path) -> bool {
    let beside = ["-wal", "-shm", "-journal"];
    if path.to_str().is_none_or(|path| beside.iter().any(|end| path.ends_with(end))) {
        return false;
    }
    // No link and no FIFO that took the file's place meanwhile is followed or waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut begins = [0; MAGIC.len()];
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    opened.and_then(|mut file| file.read_exact(&mut begins)).is_ok() && begins == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn databases_are_found_by_their_content_and_only_where_people_keep_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let database = [&MAGIC[..], &[0; 100]].concat();
        for name in [
            "a/gym",
            "b/c/x.db",
            "b/c/x.db-wal",
            ".cache/no.db",
            "state/mirrors/no.db",
            "store/no.db",
            "회원.db",
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &database).unwrap();
        }
        fs::write(root.join("store").join(STORE), "{}").unwrap();
        fs::write(root.join("text.db"), "SQLite format 4").unwrap();
        fs::write(root.join("empty.db"), "").unwrap();
        std::os::unix::fs::symlink(&root, root.join("b/loop")).unwrap();
        std::os::unix::fs::symlink(root.join("a/gym"), root.join("link.db")).unwrap();
        let fifo = root.join("fifo.db");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let me = crate::users::me();
        let found = Discovery::below(&root, &root.join("state"), Some(me)).unwrap();
        assert_eq!(found.found, ["a/gym", "b/c/x.db", "회원.db"].map(|name| root.join(name)));
        assert!(found.ended.is_none() && found.unreadable.is_empty() && found.foreign.is_empty());
        let others = Discovery::below(&root, &root.join("state"), Some(me + 1)).unwrap();
        assert_eq!((others.found.len(), others.foreign.len()), (0, 3));
        let fault = Discovery::below(&root.join("a/gym"), &root, None).unwrap_err();
        assert_eq!(fault.kind, Kind::Usage);
        assert_eq!(Discovery::below(&root.join("none"), &root, None).unwrap_err().kind, Kind::Missing);
    }

    #[test]
    fn a_search_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join(vec!["d"; DEPTH_MAX + 2].join("/"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("deep.db"), MAGIC).unwrap();
        for number in 0..FOUND_MAX + 5 {
            fs::write(dir.path().join(format!("{number}.db")), MAGIC).unwrap();
        }
        let found = Discovery::below(dir.path(), dir.path(), None).unwrap();
        assert_eq!((found.found.len(), found.ended.is_some()), (FOUND_MAX, true));
        let deep = Discovery::below(&dir.path().join("d"), dir.path(), None).unwrap();
        assert!(deep.found.is_empty() && deep.ended.unwrap().contains("16"));
    }
}
