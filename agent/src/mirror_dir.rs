//! Where a mirror lies: its files, and the two locks on them, which hold among threads and processes alike.
//!
//! ```text
//! STATE/mirrors/KEY/refresh      a kernel lock, held from before a hold until what it read is folded in: one at a time
//!                   lock         a kernel lock: shared while a batch of pages is read, exclusive while one is changed
//!                   turn         a kernel lock, held until one has `lock`: who wants to change pages keeps new readers waiting
//!                   state.json   the chain: what `pages` and `hashes` hold, and where the kept deltas lead
//!                   pages        the newest snapshot's pages, as a canonical database file
//!                   hashes       its page hashes, 16 bytes each
//!                   deltas/      the kept deltas, by number
//!                   delta        frames of pages that change: the next snapshot, until it is folded in
//!                   fold.json    the mark: `delta` is whole and durable; the chain as it will be
//!                   rotten       a page was found that is not what its hash says: whoever refreshes next begins anew
//!                   source.json  for people: of which source it is
//! ```
//!
//! Locks are taken in the order `refresh`, `turn`, `lock`. Nobody holds `lock` while waiting for anything but the disk, and nobody who holds `refresh`
//! waits for a puller.

use crate::chain::Chain;
use crate::durable::remove;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a refresh by another call is waited for; then the pull goes on without the mirror.
pub const REFRESH_WAIT: Duration = Duration::from_secs(30);

/// How long the lock on pages and hashes is waited for; it is held for one batch of pages at a time.
pub const BATCH_WAIT: Duration = Duration::from_secs(30);

/// Between two tries to get a lock.
const LOCK_EVERY: Duration = Duration::from_micros(500);

/// Which of the files that tell the chain are there, so that a change is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stamp([Option<(u64, i64, i64)>; 2]);

/// The directory of one mirror.
#[derive(Clone, Debug)]
pub struct MirrorDir(PathBuf);

impl MirrorDir {
    /// That of the source at `source`, below `state_dir`: the path itself could be too long, or clash in case.
    pub fn of(state_dir: &Path, source: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let hash = blake3::hash(source.as_os_str().as_bytes());
        Self(state_dir.join("mirrors").join(&hash.to_hex()[..32]))
    }

    /// Makes it, where it is not there.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.0.join("deltas"))
    }

    /// Itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file called `name`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The kept delta with `number`.
    pub fn kept(&self, number: u64) -> PathBuf {
        self.0.join("deltas").join(number.to_string())
    }

    /// Opens the file called `name` for reading and writing.
    pub fn open(&self, name: &str) -> io::Result<File> {
        open(&self.file(name), false)
    }

    /// The same; one that is not there is made.
    pub fn open_or_make(&self, name: &str) -> io::Result<File> {
        open(&self.file(name), true)
    }

    /// The right to refresh; gone with the value, or with the process.
    pub fn lock_refresh(&self) -> io::Result<File> {
        self.lock("refresh", REFRESH_WAIT, File::try_lock)
    }

    /// For reading a batch of pages that nobody changes meanwhile.
    pub fn lock_for_reading(&self) -> io::Result<File> {
        let _turn = self.lock("turn", BATCH_WAIT, File::try_lock)?;
        self.lock("lock", BATCH_WAIT, File::try_lock_shared)
    }

    /// For changing some.
    pub fn lock_for_writing(&self) -> io::Result<File> {
        let _turn = self.lock("turn", BATCH_WAIT, File::try_lock)?;
        self.lock("lock", BATCH_WAIT, File::try_lock)
    }

    fn lock(
        &self,
        name: &str,
        wait: Duration,
        attempt: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> io::Result<File> {
        let file = self.open_or_make(name)?;
        let until = Instant::now() + wait;
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_EVERY),
            }
        }
    }

    /// The chain as readers must see it: that of a fold under way, once its mark is set.
    pub fn current_chain(&self) -> Result<Option<Chain>, String> {
        match self.read_chain("fold.json")? {
            Some(chain) => Ok(Some(chain)),
            None => self.read_chain("state.json"),
        }
    }

    /// The chain in the file called `name`, if that is there.
    pub fn read_chain(&self, name: &str) -> Result<Option<Chain>, String> {
        match fs::read(self.file(name)) {
            Ok(text) => Chain::from_json(&text).map(Some).map_err(|why| format!("`{name}`: {why}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Puts `chain` into the file called `name`, durably.
    pub fn write_chain(&self, name: &str, chain: &Chain) -> io::Result<()> {
        let new = format!("{name}.new");
        let mut file = self.open_or_make(&new)?;
        file.set_len(0)?;
        file.write_all(chain.to_json().as_bytes())?;
        file.sync_all()?;
        fs::rename(self.file(&new), self.file(name))?;
        self.sync()
    }

    /// Changes whenever the chain does.
    pub fn stamp(&self) -> Stamp {
        let stamp = |name| {
            let found = fs::metadata(self.file(name)).ok()?;
            Some((found.ino(), found.mtime(), found.mtime_nsec()))
        };
        Stamp([stamp("fold.json"), stamp("state.json")])
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    /// Removes the file called `name`, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        remove(&self.file(name))
    }

    /// Removes the kept delta with `number`, if it is there.
    pub fn remove_kept(&self, number: u64) -> io::Result<()> {
        remove(&self.kept(number))
    }

    /// Removes the kept deltas that `chain` does not name; all of them without one.
    pub fn remove_kept_but(&self, chain: Option<&Chain>) -> io::Result<()> {
        for entry in fs::read_dir(self.0.join("deltas"))? {
            let path = entry?.path();
            let named = |chain: &Chain| chain.kept.iter().any(|kept| self.kept(kept.number) == path);
            if !chain.is_some_and(named) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Opens the file at `path`, which only its owner may read.
pub fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}
