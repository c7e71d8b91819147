//! The mirror: the agent's private file with the newest snapshot it took of a source. A cache, nothing more.
//!
//! ```text
//! STATE/mirrors/KEY/lock         a kernel lock, held by whoever works with this mirror
//!                   state.json   the snapshot that `pages` and `hashes` hold; without it there is no mirror
//!                   pages        the pages, as a canonical database file
//!                   hashes       the page hashes, 16 bytes each
//!                   delta        frames of pages that change: the next snapshot, until it is folded in
//!                   fold.json    the mark: `delta` is whole and durable, and leads to this snapshot
//! ```
//!
//! A refresh writes `delta` inside the hold and nothing else. After the hold: `delta` is made durable, then the mark is
//! set, then the pages go into `pages` and their hashes into `hashes`, then `state.json` is replaced, then mark and delta
//! go. Folding it again after a crash gives the same: whole pages are written again, and a patch carries the hash of
//! the page it leads to, which tells a page that was done from one that was not. What is found to be wrong in any way is discarded, and the next snapshot begins anew.
//!
//! Only one call works with a mirror at a time; another one that comes meanwhile works without.

use crate::spool::FrameReader;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Encoding, Frame, FrameError, NoBase, xor};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::snapshot::SnapshotId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of the files of a mirror; another one is discarded.
const FORMAT: u32 = 1;

/// Which snapshot a mirror holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MirrorState {
    /// Its name.
    pub snapshot: SnapshotId,
    /// Its shape.
    pub geometry: Geometry,
}

/// The mirror of one source, locked.
pub struct Mirror {
    dir: PathBuf,
    _lock: File,
    state: Option<MirrorState>,
}

impl Mirror {
    /// Opens the mirror of the source at `source` below `state_dir`, completes a fold that was cut short, and discards
    /// what is not whole. The error is the sentence why the agent works without a mirror.
    pub fn open(state_dir: &Path, source: &Path) -> Result<Self, String> {
        let dir = dir_of(state_dir, source);
        let io = |error: io::Error| format!("its state in `{}` cannot be used: {error}", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        let lock = open(&dir.join("lock"), true).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err("another pull works with it".to_owned()),
            Err(fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        let mut mirror = Self { dir, _lock: lock, state: None };
        match mirror.recover() {
            Ok(state) => mirror.state = state,
            Err(why) => tracing::warn!(dir = %mirror.dir.display(), why, "the mirror is discarded"),
        }
        if mirror.state.is_none() {
            mirror.discard().map_err(|error| format!("it cannot be cleared: {error}"))?;
            let about = serde_json::json!({ "source": source.to_string_lossy() });
            let written = open(&mirror.file("source.json"), true)
                .and_then(|mut file| file.set_len(0).and_then(|()| writeln!(file, "{about}")));
            written.map_err(|error| error.to_string())?;
        }
        Ok(mirror)
    }

    /// The snapshot it holds.
    pub fn state(&self) -> Option<MirrorState> {
        self.state
    }

    /// Its page hashes.
    pub fn hashes(&self) -> Result<HashList<File>, Fault> {
        let state = self.state.expect("BUG: the hashes of a mirror that holds nothing");
        let file = open(&self.file("hashes"), false).map_err(|error| self.io(&error))?;
        Ok(HashList::new(file, state.geometry.page_count))
    }

    /// Its pages, each checked against its hash when read.
    pub fn pages(&self) -> Result<MirrorPages, Fault> {
        let state = self.state.expect("BUG: the pages of a mirror that holds nothing");
        let file = open(&self.file("pages"), false).map_err(|error| self.io(&error))?;
        Ok(MirrorPages { file, hashes: self.hashes()?, geometry: state.geometry })
    }

    /// The file of its pages: a database in canonical form.
    pub fn pages_path(&self) -> PathBuf {
        self.file("pages")
    }

    /// Makes the file that the frames of a refresh go to.
    pub fn delta(&self) -> impl FnOnce() -> io::Result<File> + Send + 'static {
        let path = self.file("delta");
        move || open(&path, true).and_then(|file| file.set_len(0).map(|()| file))
    }

    /// Begins a mirror that holds nothing: files for pages and hashes of the first snapshot.
    pub fn begin(&mut self) -> Result<(File, File), Fault> {
        assert!(self.state.is_none(), "BUG: a mirror begun over one that holds a snapshot");
        let file = |name| open(&self.file(name), true).map_err(|error| self.io(&error));
        Ok((file("pages")?, file("hashes")?))
    }

    /// Makes the first snapshot, whose pages and hashes were written to the files of [`Mirror::begin`], the state.
    /// It can be read from now on; it is durable after [`Mirror::settle`].
    pub fn adopt(&mut self, state: MirrorState) {
        self.state = Some(state);
    }

    /// Makes the adopted state durable.
    pub fn settle(&self) -> Result<(), Fault> {
        let state = self.state.expect("BUG: settling a mirror that holds nothing");
        self.settle_io(state).map_err(|error| self.io(&error))
    }

    fn settle_io(&self, state: MirrorState) -> io::Result<()> {
        open(&self.file("pages"), false)?.sync_all()?;
        open(&self.file("hashes"), false)?.sync_all()?;
        self.write_state("state.json", state)
    }

    /// Folds the whole delta, which leads to `next`, into the mirror.
    pub fn fold(&mut self, next: MirrorState) -> Result<(), Fault> {
        self.fold_io(next)
    }

    fn fold_io(&mut self, next: MirrorState) -> Result<(), Fault> {
        let io = |error: io::Error| Fault::io(format!("the mirror in `{}`", self.dir.display()), &error);
        // A refresh that only cut pages off made no delta; an empty one leads there.
        open(&self.file("delta"), true).and_then(|delta| delta.sync_all()).map_err(io)?;
        self.write_state("fold.json", next).map_err(io)?;
        self.apply(next)?;
        self.state = Some(next);
        Ok(())
    }

    /// From a mark on: pages and hashes in place, state replaced, mark and delta gone.
    fn apply(&self, next: MirrorState) -> Result<(), Fault> {
        let io = |error: io::Error| Fault::io(format!("the mirror in `{}`", self.dir.display()), &error);
        let geometry = next.geometry;
        let pages = open(&self.file("pages"), false).map_err(io)?;
        let mut hashes = HashList::new(open(&self.file("hashes"), false).map_err(io)?, geometry.page_count);
        let mut frames = FrameReader::of_file(open(&self.file("delta"), false).map_err(io)?);
        let mut buffer = Vec::new();
        while let Some(frame) = frames.next_frame()? {
            if frame.encoding == Encoding::Patch {
                patch(&frame, geometry, &pages, &mut hashes)?;
                continue;
            }
            frame.open(geometry, &mut NoBase, &mut buffer, |no, page, hash| {
                pages.write_all_at(page, geometry.offset(no)).map_err(Failed::Io)?;
                hashes.set(no, hash).map_err(Failed::Io)
            })?;
        }
        pages.set_len(geometry.bytes()).map_err(io)?;
        let hashes = hashes.into_file().map_err(io)?;
        hashes.set_len(u64::from(geometry.page_count) * PageHash::LEN as u64).map_err(io)?;
        pages.sync_all().map_err(io)?;
        hashes.sync_all().map_err(io)?;
        self.write_state("state.json", next).map_err(io)?;
        remove(&self.file("fold.json")).map_err(io)?;
        remove(&self.file("delta")).map_err(io)
    }

    /// Forgets the snapshot and gives its room back. The state goes first and durably, so that no crash leaves it beside
    /// pages of another snapshot.
    pub fn discard(&mut self) -> io::Result<()> {
        self.state = None;
        for name in ["state.json", "fold.json"] {
            remove(&self.file(name))?;
        }
        File::open(&self.dir)?.sync_all()?;
        for name in ["state.json.new", "fold.json.new", "delta", "pages", "hashes"] {
            remove(&self.file(name))?;
        }
        Ok(())
    }

    /// [`Mirror::discard`], its error as a fault.
    pub fn discard_checked(&mut self) -> Result<(), Fault> {
        self.discard().map_err(|error| Fault::io(format!("the mirror in `{}`", self.dir.display()), &error))
    }

    fn recover(&self) -> Result<Option<MirrorState>, String> {
        if let Some(next) = self.read_state("fold.json")? {
            self.apply(next).map_err(|fault| fault.message)?;
        }
        let Some(state) = self.read_state("state.json")? else { return Ok(None) };
        let io = |error: io::Error| error.to_string();
        remove(&self.file("delta")).map_err(io)?;
        let pages = fs::metadata(self.file("pages")).map_err(io)?;
        let hashes = open(&self.file("hashes"), false).map_err(io)?;
        if pages.len() != state.geometry.bytes() {
            return Err("its pages are not as many as its state says".to_owned());
        }
        let found =
            HashList::new(hashes, state.geometry.page_count).snapshot_id(state.geometry).map_err(io)?;
        match found == state.snapshot {
            true => Ok(Some(state)),
            false => Err("its page hashes are not those of its snapshot".to_owned()),
        }
    }

    fn read_state(&self, name: &str) -> Result<Option<MirrorState>, String> {
        let text = match fs::read(self.file(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let written: Written = serde_json::from_slice(&text).map_err(|error| format!("`{name}`: {error}"))?;
        let geometry = Geometry::new(written.page_size, written.page_count);
        match (written.format, SnapshotId::from_hex(&written.snapshot), geometry) {
            (FORMAT, Some(snapshot), Some(geometry)) => Ok(Some(MirrorState { snapshot, geometry })),
            _ => Err(format!("`{name}` is of another format")),
        }
    }

    fn write_state(&self, name: &str, state: MirrorState) -> io::Result<()> {
        let written = Written {
            format: FORMAT,
            snapshot: state.snapshot.to_string(),
            page_size: state.geometry.page_size.get(),
            page_count: state.geometry.page_count,
        };
        let new = self.file(&format!("{name}.new"));
        let mut file = open(&new, true)?;
        file.set_len(0)?;
        file.write_all(serde_json::to_string(&written)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.file(name))?;
        File::open(&self.dir)?.sync_all()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn io(&self, error: &io::Error) -> Fault {
        Fault::io(format!("the mirror in `{}`", self.dir.display()), error)
    }
}

/// Applies the patches of `frame` to `pages`, each to a page that is as it was; one that is as it will be was done before a
/// crash, and any other has rotted.
fn patch(frame: &Frame, geometry: Geometry, pages: &File, hashes: &mut HashList<File>) -> Result<(), Failed> {
    let numbers = frame.numbers(geometry)?;
    let size = geometry.page_size.as_usize();
    let mut patches = Vec::new();
    frame.decompress(numbers.len() * size, &mut patches)?;
    if frame.hashes.len() != numbers.len() {
        return Err(FrameError::Check.into());
    }
    let mut old = vec![0; size];
    for ((no, patch), hash) in numbers.into_iter().zip(patches.chunks_exact_mut(size)).zip(&frame.hashes) {
        pages.read_exact_at(&mut old, geometry.offset(no)).map_err(Failed::Io)?;
        if PageHash::of(&old) != *hash {
            xor(patch, &old);
            if PageHash::of(patch) != *hash {
                return Err(FrameError::Check.into());
            }
            pages.write_all_at(patch, geometry.offset(no)).map_err(Failed::Io)?;
        }
        hashes.set(no, *hash).map_err(Failed::Io)?;
    }
    Ok(())
}

/// Where the mirror of the source at `source` lies: the path itself could be too long, or clash in case.
pub fn dir_of(state_dir: &Path, source: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let hash = blake3::hash(source.as_os_str().as_bytes());
    state_dir.join("mirrors").join(&hash.to_hex()[..32])
}

/// `state.json` and `fold.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    snapshot: String,
    page_size: u32,
    page_count: u32,
}

/// The pages of a mirror.
pub struct MirrorPages {
    file: File,
    hashes: HashList<File>,
    geometry: Geometry,
}

impl MirrorPages {
    /// Of the snapshot.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The hash page `no` should have.
    pub fn hash(&mut self, no: PageNo) -> Result<PageHash, Fault> {
        self.hashes.get(no).map_err(|error| Fault::io("the mirror's page hashes", &error))
    }

    /// The same, read by itself: for looking at hashes here and there.
    pub fn hash_now(&self, no: PageNo) -> Result<PageHash, Fault> {
        let mut hash = [0; PageHash::LEN];
        let read = self.hashes.file().read_exact_at(&mut hash, no.index() * PageHash::LEN as u64);
        read.map(|()| PageHash(hash)).map_err(|error| Fault::io("the mirror's page hashes", &error))
    }

    /// Reads page `no` and says whether it is as its hash says.
    pub fn read_if_whole(&mut self, no: PageNo, page: &mut [u8]) -> Result<bool, Fault> {
        let read = self.file.read_exact_at(page, self.geometry.offset(no)).is_ok();
        Ok(read && self.hash(no)? == PageHash::of(page))
    }

    /// Reads the `pages.len()` bytes of pages from `first` on, and checks each against its hash, which goes to `hashes`.
    /// A page that fails is the fault `unproven`: the caller discards the mirror.
    pub fn read(&mut self, first: PageNo, pages: &mut [u8], hashes: &mut Vec<PageHash>) -> Result<(), Fault> {
        hashes.clear();
        self.file
            .read_exact_at(pages, self.geometry.offset(first))
            .map_err(|error| rotten(&format!("cannot be read ({error})")))?;
        for (index, page) in pages.chunks_exact(self.geometry.page_size.as_usize()).enumerate() {
            let no = PageNo::new(first.get() + index as u32).expect("BUG: page 0");
            let hash = PageHash::of(page);
            if self.hash(no)? != hash {
                return Err(rotten(&format!("has rotted at page {}", no.get())));
            }
            hashes.push(hash);
        }
        Ok(())
    }
}

fn rotten(how: &str) -> Fault {
    Fault::new(Kind::Unproven, format!("the agent's mirror {how}; it is discarded and made anew"))
        .hint("pull again; if it happens again, the device's disk or card may be failing")
}

/// What can go wrong while a frame is applied.
enum Failed {
    Io(io::Error),
    Frame(FrameError),
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Io(error) => Self::io("the mirror", &error),
            Failed::Frame(error) => {
                Self::new(Kind::Unproven, format!("the mirror's delta is damaged: {error}"))
            }
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
