//! Room on the device's disk: what the agent's state may take without taking the application's.

use pullback_shared::fault::{Fault, Kind};
use std::path::{Path, PathBuf};

/// The default for `reserve` is the larger of this and a tenth of the disk.
const RESERVE_MIN: u64 = 1 << 30;

/// Limits on what the agent writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomLimits {
    /// Bytes left free on the disk whatever happens; `None`: the larger of 1 GiB and 10 % of it.
    pub reserve: Option<u64>,
    /// Bytes the whole state directory may have; `None`: as `reserve` allows.
    pub max_state: Option<u64>,
}

/// Bytes free for unprivileged users, and bytes in all, of the file system that holds `path`.
pub fn disk(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// The room a directory of state has.
#[derive(Clone, Debug)]
pub struct Room {
    dir: PathBuf,
    limits: RoomLimits,
}

impl Room {
    /// Room for files in `dir`, which exists.
    pub fn new(dir: &Path, limits: RoomLimits) -> Self {
        Self { dir: dir.to_owned(), limits }
    }

    /// Bytes that may still be written; 0 where the system does not say.
    pub fn left(&self) -> u64 {
        let Ok((free, total)) = disk(&self.dir) else { return 0 };
        let reserve = self.limits.reserve.unwrap_or_else(|| RESERVE_MIN.max(total / 10));
        let by_disk = free.saturating_sub(reserve);
        match self.limits.max_state {
            Some(max) => by_disk.min(max.saturating_sub(used(&self.dir))),
            None => by_disk,
        }
    }

    /// An error with a sentence unless `bytes` more fit.
    pub fn check(&self, bytes: u64) -> Result<(), Fault> {
        let left = self.left();
        match bytes <= left {
            true => Ok(()),
            false => Err(Fault::new(
                Kind::NoSpace,
                format!(
                    "{bytes} bytes are needed in `{}`, and {left} may be used (`reserve` and `max_state` keep the rest)",
                    self.dir.display()
                ),
            )),
        }
    }
}

/// Bytes of all files below `dir`, as they lie on the disk.
fn used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = dir.read_dir() else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => used(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_stays_under_its_limit_and_leaves_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mirror"), vec![1; 100_000]).unwrap();
        let left = |reserve, max_state| Room::new(dir.path(), RoomLimits { reserve, max_state }).left();
        assert_eq!(left(Some(u64::MAX), None), 0);
        assert_eq!(left(Some(0), Some(100)), 0);
        assert!((1..=400_000).contains(&left(Some(0), Some(500_000))));
        assert!(Room::new(dir.path(), RoomLimits { reserve: Some(0), max_state: Some(0) }).check(1).is_err());
    }
}
