//! Restore: a proven copy becomes a database again, in a file that does not exist yet.

use crate::durable;
use crate::proof;
use crate::source_dir::{SourceDir, StoredCopy};
use crate::unpacked;
use crate::verify;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{HEADER_LEN, Journal, set_journal};
use pullback_shared::text::printable;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// The copy.
    pub copy: String,
    /// The file.
    pub target: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// The journal mode it has.
    pub journal: &'static str,
}

/// Proves `copy`, writes it beside `target`, proves what was written, and gives it the name. With `dry_run`, only proves.
pub fn to_new_file(
    source: &SourceDir,
    copy: &StoredCopy,
    target: &Path,
    dry_run: bool,
) -> Result<Restored, Fault> {
    let shown = printable(&target.to_string_lossy(), 1024);
    let io = |error: io::Error| Fault::io(format!("`{shown}`"), &error);
    if let Ok(there) = target.symlink_metadata() {
        let what = if there.is_dir() { "is a directory" } else { "is there already" };
        return Err(Fault::new(Kind::Target, format!("`{shown}` {what}; nothing was changed"))
            .hint("name a file that does not exist"));
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut beside = target.as_os_str().to_owned();
        beside.push(suffix);
        if Path::new(&beside).symlink_metadata().is_ok() {
            return Err(Fault::new(
                Kind::Target,
                format!(
                    "`{}` of an older database is there: SQLite would replay it into the copy",
                    Path::new(&beside).display()
                ),
            )
            .hint("`--force` sets it aside; or restore under another name"));
        }
    }
    let manifest = copy.manifest.as_ref().map_err(|why| unpacked::rotten(source, copy, why))?;
    let content = unpacked::open(source, copy)?;
    let journal = Journal::from_word(&manifest.source.journal).unwrap_or(Journal::Rollback);
    let restored = Restored {
        copy: copy.id.clone(),
        target: target.to_owned(),
        bytes: manifest.bytes,
        journal: journal.word(),
    };
    let dir = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !dir.is_dir() {
        let what = format!("`{shown}` cannot be made: there is no folder `{}`", dir.display());
        return Err(
            Fault::new(Kind::Target, what).hint("make the folder first, as the user the application runs as")
        );
    }
    let stat = rustix::fs::statvfs(dir).map_err(|error| io(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < manifest.bytes {
        let needed = manifest.bytes;
        return Err(Fault::new(
            Kind::NoSpace,
            format!("`{}`: {needed} bytes are needed, and {free} are free", dir.display()),
        )
        .hint("free some room there, or restore to another disk"));
    }
    let is_rotten = || verify::read(source, copy, true, &|_| {}).map(Result::err);
    if dry_run {
        return is_rotten()?.map_or(Ok(restored), |why| Err(unpacked::rotten(source, copy, &why)));
    }
    let prefix = format!(".{}.pullback-new-", target.file_name().unwrap_or_default().to_string_lossy());
    sweep(dir, &prefix).map_err(io)?;
    let aside = tempfile::Builder::new().prefix(&prefix).tempfile_in(dir).map_err(io)?;
    let aside_path = aside.path().to_owned();
    content.write_to(&aside_path).map_err(io)?;
    // That made the file anew; locked, it is not taken for one that was left.
    let _lock = durable::lock(&aside_path).map_err(io)?;
    let hashes = content.hashes().map_err(io)?;
    let written = std::thread::scope(|scope| {
        // The disk writes while what it was given is read back; what it says of that counts as well.
        let syncing = scope.spawn(|| fs::File::open(&aside_path).and_then(|file| file.sync_data()));
        let written = proof::read_back(&aside_path, content.geometry(), hashes, false, &|_| {});
        syncing
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that syncs panicked")))
            .and(written)
    });
    let written = written.map_err(io)?;
    if Some(written.snapshot) != manifest.snapshot_id() {
        // What was written proves the copy as well; only where it is another is there something to find out.
        return Err(match is_rotten()? {
            Some(why) => unpacked::rotten(source, copy, &why),
            None => Fault::new(
                Kind::Unproven,
                format!("what was written beside `{shown}` is not the copy: this disk may be failing"),
            ),
        });
    }
    finish(&aside_path, journal, manifest, dir).map_err(io)?;
    durable::rename_new(&aside_path, target).and_then(|()| durable::sync_dir(dir)).map_err(|error| {
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Fault::new(Kind::Target, format!("`{shown}` came into being meanwhile; it is left as it is"))
            }
            _ => io(error),
        }
    })?;
    Ok(restored)
}

/// Removes from `dir` the files of this prefix that runs left which were killed.
fn sweep(dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in dir.read_dir()?.flatten() {
        // Without a lock that can be had, it is being written, or another user's.
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && let Ok(Some(_lock)) = durable::lock(&entry.path())
        {
            durable::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Journal mode, owner and mode as the source had them, as far as this user may; then durable.
fn finish(path: &Path, journal: Journal, manifest: &crate::manifest::Manifest, dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if manifest.page_count > 0 && journal == Journal::Wal {
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        set_journal(&mut header, journal);
        file.write_all_at(&header, 0)?;
    }
    let parent = fs::metadata(dir)?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(parent.uid()), Some(parent.gid()))?;
    }
    let mode = if manifest.source.mode == 0 { 0o600 } else { manifest.source.mode & 0o666 };
    file.set_permissions(fs::Permissions::from_mode(mode | 0o600))?;
    file.sync_all()
}
