//! `Aside`: a private file beside a target, for what is to get the target's name. Locked while its process lives, so that what
//! a dead one left is known and can go.

use crate::durable::remove;
use pullback_shared::fault::{Fault, Kind};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Between the target's name and the letters that tell one aside from another.
const MARK: &str = ".pullback-aside-";

/// Of those letters.
const LETTERS: usize = 8;

/// How often one is made that somebody sweeps away before it is locked.
const MAKING_TRIES: usize = 10;

/// A file beside the target, only for its owner, called `.TARGET.pullback-aside-LETTERS`. It goes when this is dropped,
/// unless it got another name.
///
/// Its lock is a `flock`. Where that shuts out SQLite's own locks (macOS), SQLite cannot write it by its path.
#[derive(Debug)]
pub struct Aside(tempfile::NamedTempFile);

impl Aside {
    /// Makes an empty one beside `target`.
    pub fn beside(target: &Path) -> Result<Self, Fault> {
        let dir = dir_of(target);
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                Fault::new(Kind::Target, format!("the directory `{}` does not exist", dir.display()))
                    .hint("make it, or name another target")
            }
            _ => Fault::io(format!("a file beside `{}`", target.display()), &error),
        };
        let Some(prefix) = prefix(target) else {
            return Err(Fault::new(Kind::Target, format!("`{}` is no name for a file", target.display())));
        };
        for _ in 0..MAKING_TRIES {
            let file = tempfile::Builder::new()
                .prefix(&prefix)
                .rand_bytes(LETTERS)
                .tempfile_in(dir)
                .map_err(cannot)?;
            match file.as_file().try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(cannot(error)),
            }
            // Between its making and its lock somebody could take it for a dead one's.
            if is_at(file.as_file(), file.path()).map_err(cannot)? {
                return Ok(Self(file));
            }
        }
        Err(Fault::new(Kind::Busy, format!("files beside `{}` vanish as they are made", target.display())))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file, for reading and writing.
    pub fn file(&self) -> &File {
        self.0.as_file()
    }

    /// Gives it the name `to`, unless something has that already; the file keeps its lock.
    pub(crate) fn give_name(self, to: &Path) -> io::Result<File> {
        rename_new(self.path(), to)?;
        let (file, _) = self.0.keep().map_err(|error| error.error)?;
        Ok(file)
    }

    /// What tells it from others beside the same target.
    pub(crate) fn letters(&self) -> String {
        let name = self.path().as_os_str().as_bytes();
        name[name.len() - LETTERS..].iter().map(|byte| char::from(*byte)).collect()
    }
}

/// Where the aside of `target` with these `letters` is; `None`: there can be none with such.
pub(crate) fn path_of(target: &Path, letters: &str) -> Option<PathBuf> {
    let mut name = prefix(target).filter(|_| are_letters(letters.as_bytes()))?;
    name.push(letters);
    Some(dir_of(target).join(name))
}

/// Removes the asides of `target` that nobody works on any more, unless `are_needed`, which is asked for each once it is
/// locked: whoever needs one for later says so while it holds the lock.
pub(crate) fn sweep(target: &Path, are_needed: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let Some(prefix) = prefix(target) else { return Ok(()) };
    for entry in fs::read_dir(dir_of(target))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_aside = name.as_bytes().strip_prefix(prefix.as_bytes()).is_some_and(are_letters);
        if !is_aside || !entry.file_type()?.is_file() {
            continue;
        }
        // One that cannot be opened is another user's, or has just gone.
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock().is_ok() && is_at(&file, &entry.path())? && !are_needed()? {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The directory that `path` is in.
pub(crate) fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` with `suffix` behind its name.
pub(crate) fn with_suffix(path: &Path, suffix: impl AsRef<OsStr>) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Whether anything has the name `path`.
pub(crate) fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether `file` is what has the name `path`.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match path.symlink_metadata() {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives what is at `from` the name `to`, unless something has that already.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            // A file system without this kind of rename.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    look_and_rename(from, to)
}

/// The same where there is no such rename: what comes between the look and the rename is replaced.
fn look_and_rename(from: &Path, to: &Path) -> io::Result<()> {
    match is_there(to)? {
        true => Err(io::ErrorKind::AlreadyExists.into()),
        false => fs::rename(from, to),
    }
}

/// What the names of asides of `target` begin with.
fn prefix(target: &Path) -> Option<OsString> {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name()?);
    prefix.push(MARK);
    Some(prefix)
}

fn are_letters(bytes: &[u8]) -> bool {
    bytes.len() == LETTERS && bytes.iter().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rename_replaces_anything() {
        for rename in [rename_new, look_and_rename] {
            let dir = tempfile::tempdir().unwrap();
            let [from, to, free] = ["from", "to", "free"].map(|name| dir.path().join(name));
            fs::write(&from, "from").unwrap();
            // Not even a link that leads nowhere.
            std::os::unix::fs::symlink("nowhere", &to).unwrap();
            assert_eq!(rename(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert!(fs::symlink_metadata(&to).unwrap().is_symlink() && from.exists());
            rename(&from, &free).unwrap();
            assert_eq!(fs::read_to_string(&free).unwrap(), "from");
            assert!(!from.exists());
        }
    }
}
