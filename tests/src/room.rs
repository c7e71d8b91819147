//! What files take of a disk, looked at again and again while something goes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes below `dir`, as they lie on the disk.
pub fn used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |path: PathBuf| match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => used(&path),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}

/// Bytes of the files without a name that process `pid` has open, which no walk through folders finds. Linux only; else 0.
pub fn unnamed(pid: u32) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let of = |path: PathBuf| match path.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.nlink() == 0 => metadata.blocks() * 512,
        _ => 0,
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}

/// Calls `look` again and again while `act` runs, and gives the largest it saw.
pub fn largest<T>(look: impl Fn() -> u64 + Sync, act: impl FnOnce() -> T) -> (T, u64) {
    let (over, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                seen.fetch_max(look(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        over.store(true, Ordering::Relaxed);
        done
    });
    match done {
        Ok(done) => (done, seen.into_inner()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
