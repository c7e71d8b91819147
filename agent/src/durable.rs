//! Files that are there whole or not at all, and stay: written aside, fsynced, given their name, their directory fsynced.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Puts `bytes` in the place of the file at `path`, with `mode`. One that is there keeps its mode, and, where root replaces it,
/// its owner.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().expect("BUG: a file without a directory");
    let mut file = tempfile::Builder::new().prefix(".pullback-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    let (mode, owner) = match path.metadata() {
        Ok(there) => (there.mode() & 0o777, Some((there.uid(), there.gid()))),
        Err(_) => (mode, None),
    };
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    if let Some((uid, gid)) = owner.filter(|_| crate::users::me() == 0) {
        std::os::unix::fs::fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(dir)
}

/// Makes names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes the file at `path`, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
