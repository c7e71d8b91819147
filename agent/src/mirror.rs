//! The mirror: the agent's private file with the newest snapshot it took of a source, and deltas that lead back to earlier
//! ones. A cache, nothing more. Who has one of these may refresh it; [`View`] is how it is read.
//!
//! A refresh writes `delta` inside the hold and nothing else. After the hold: what leads back is kept, `delta` is made
//! durable, then the mark is set, then the pages go into `pages` and their hashes into `hashes`, then the chain is replaced,
//! then mark and delta go. Folding it again after a crash gives the same: whole pages are written again, and a patch carries
//! the hash of the page it leads to, which tells a page that was done from one that was not. What is found to be wrong in any
//! way is discarded, and the next snapshot begins anew.
//!
//! Transfers go on meanwhile: they read a batch of pages at a time, of their own snapshot, and a fold lets them in between its
//! frames.

use crate::chain::{Chain, MirrorState};
use crate::kept;
use crate::mirror_dir::MirrorDir;
use crate::mirror_pages::MirrorPages;
use crate::room::Room;
use crate::spool::FrameReader;
use crate::view::View;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Encoding, Frame, FrameError, NoBase, xor};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash};
use pullback_shared::snapshot::SnapshotId;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

/// While less room than one in so many of a mirror's bytes is left, deltas make room for the next refresh.
const ROOM_SHARE: u64 = 8;

/// The mirror of one source, for the one who may refresh it.
pub struct Mirror {
    dir: MirrorDir,
    _refresh: File,
    chain: Option<Chain>,
}

impl Mirror {
    /// Opens the mirror of the source at `source` below `state_dir`, completes a fold that was cut short, and discards
    /// what is not whole. The error is the sentence why the agent works without a mirror.
    pub fn open(state_dir: &Path, source: &Path) -> Result<Self, String> {
        let dir = MirrorDir::of(state_dir, source);
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => "another pull works with it".to_owned(),
            _ => format!("its state in `{}` cannot be used: {error}", dir.path().display()),
        };
        dir.create().map_err(cannot)?;
        let refresh = dir.lock_refresh().map_err(cannot)?;
        let mut mirror = Self { dir, _refresh: refresh, chain: None };
        match mirror.recover() {
            Ok(chain) => mirror.chain = chain,
            Err(why) => {
                tracing::warn!(dir = %mirror.dir.path().display(), why, "the mirror is discarded");
            }
        }
        if mirror.chain.is_none() {
            mirror.discard().map_err(|error| format!("it cannot be cleared: {error}"))?;
            let about = serde_json::json!({ "source": source.to_string_lossy() });
            let written = mirror
                .dir
                .open_or_make("source.json")
                .and_then(|mut file| file.set_len(0).and_then(|()| writeln!(file, "{about}")));
            written.map_err(|error| error.to_string())?;
        }
        Ok(mirror)
    }

    /// The snapshot that its pages are.
    pub fn state(&self) -> Option<MirrorState> {
        self.chain.as_ref().map(|chain| chain.newest)
    }

    /// Whether it can give `snapshot`, which is of `geometry`.
    pub fn knows(&self, snapshot: SnapshotId, geometry: Geometry) -> bool {
        let found = self.chain.as_ref().and_then(|chain| chain.find(snapshot));
        found.is_some_and(|(_, state)| state.geometry == geometry)
    }

    /// `snapshot`, if the mirror knows it, for reading, whatever refreshes meanwhile.
    pub fn view(&self, snapshot: SnapshotId) -> Result<Option<View>, Fault> {
        match &self.chain {
            Some(chain) => View::open(&self.dir, chain, snapshot),
            None => Ok(None),
        }
    }

    /// The page hashes of the newest snapshot.
    pub fn hashes(&self) -> Result<HashList<File>, Fault> {
        let file = self.dir.open("hashes").map_err(|error| self.io(&error))?;
        Ok(HashList::new(file, self.newest().geometry.page_count))
    }

    /// The pages of the newest snapshot.
    pub fn pages(&self) -> Result<MirrorPages, Fault> {
        MirrorPages::open(&self.dir, self.newest()).map_err(|error| self.io(&error))
    }

    fn newest(&self) -> MirrorState {
        self.state().expect("BUG: the pages of a mirror that holds nothing")
    }

    /// Drops the kept deltas where they would leave too little room for a refresh.
    pub fn make_room(&mut self, room: &Room) {
        let Some(chain) = self.chain.as_mut().filter(|chain| !chain.kept.is_empty()) else { return };
        if room.left() >= chain.newest.geometry.bytes() / ROOM_SHARE {
            return;
        }
        tracing::info!(dir = %self.dir.path().display(), "the kept deltas are dropped to make room");
        chain.kept.clear();
        // The files first: a disk that is full takes a new chain only then, and a chain whose files are gone is mended.
        let dropped =
            self.dir.remove_kept_but(Some(chain)).and_then(|()| self.dir.write_chain("state.json", chain));
        if let Err(error) = dropped {
            tracing::warn!(%error, "the kept deltas cannot be dropped in good order");
        }
    }

    /// Makes the file that the frames of a refresh go to.
    pub fn delta(&self) -> impl FnOnce() -> io::Result<File> + Send + 'static {
        let dir = self.dir.clone();
        move || dir.open_or_make("delta").and_then(|file| file.set_len(0).map(|()| file))
    }

    /// Begins a mirror that holds nothing: files for pages and hashes of the first snapshot.
    pub fn begin(&self) -> Result<(File, File), Fault> {
        assert!(self.chain.is_none(), "BUG: a mirror begun over one that holds a snapshot");
        let file = |name| self.dir.open_or_make(name).map_err(|error| self.io(&error));
        Ok((file("pages")?, file("hashes")?))
    }

    /// Makes the first snapshot, whose pages and hashes were written to the files of [`Mirror::begin`], the newest.
    /// It can be read from now on; it is durable after [`Mirror::settle`].
    pub fn adopt(&mut self, state: MirrorState) {
        self.chain = Some(Chain::new(state));
    }

    /// Makes what was adopted durable.
    pub fn settle(&self) -> Result<(), Fault> {
        let chain = self.chain.as_ref().expect("BUG: settling a mirror that holds nothing");
        let settled = (|| {
            self.dir.open("pages")?.sync_all()?;
            self.dir.open("hashes")?.sync_all()?;
            self.dir.write_chain("state.json", chain)
        })();
        settled.map_err(|error| self.io(&error))
    }

    /// Keeps what will lead back from `next`, where the delta leads, as far as there is `room` and it is small enough to be
    /// worth it; gives the chain as it will be.
    pub fn keep(&self, next: MirrorState, room: &Room) -> Chain {
        let chain = self.chain.as_ref().expect("BUG: a delta to a mirror that holds nothing");
        let path = self.dir.kept(chain.next_number);
        let bytes_max = chain.kept_bytes_max().min(room.left());
        let kept = (|| {
            let delta = self.dir.open_or_make("delta").map_err(|error| self.io(&error))?;
            // What leads back is about as large as what led there.
            match delta.metadata().map_err(|error| self.io(&error))?.len() > bytes_max {
                true => Ok(None),
                false => {
                    let (delta, mut old) = (FrameReader::of_file(delta), self.pages()?);
                    kept::keep(&path, delta, &mut old, next.geometry, bytes_max)
                }
            }
        })();
        let kept = kept.unwrap_or_else(|fault: Fault| {
            tracing::warn!(why = %fault, "what leads back is not kept");
            None
        });
        if kept.is_none()
            && let Err(error) = self.dir.remove_kept(chain.next_number)
        {
            tracing::warn!(%error, "what was not kept takes room until the fold is over");
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        chain.advanced(next, kept, now.map_or(0, |now| now.as_secs()))
    }

    /// Folds the whole delta into the mirror; the chain is `next` then, which came from [`Mirror::keep`].
    pub fn fold(&mut self, next: Chain) -> Result<(), Fault> {
        // A refresh that only cut pages off made no delta; an empty one leads there.
        let marked = self.dir.open_or_make("delta").and_then(|delta| delta.sync_all());
        let marked = marked.and_then(|()| {
            // A reader sees the pages of a batch and the chain that tells of them, or neither.
            let _lock = self.dir.lock_for_writing()?;
            self.dir.write_chain("fold.json", &next)
        });
        marked.map_err(|error| self.io(&error))?;
        self.apply(&next)?;
        self.chain = Some(next);
        Ok(())
    }

    /// From the mark on: pages and hashes in place, chain replaced, mark and delta gone.
    fn apply(&self, next: &Chain) -> Result<(), Fault> {
        let io = |error: io::Error| self.io(&error);
        let geometry = next.newest.geometry;
        let pages = self.dir.open("pages").map_err(io)?;
        let mut hashes = HashList::new(self.dir.open("hashes").map_err(io)?, geometry.page_count);
        let mut frames = FrameReader::of_file(self.dir.open("delta").map_err(io)?);
        let mut buffer = Vec::new();
        while let Some(frame) = frames.next_frame()? {
            let _lock = self.dir.lock_for_writing().map_err(io)?;
            if frame.encoding == Encoding::Patch {
                patch(&frame, geometry, &pages, &mut hashes)?;
            } else {
                frame.open(geometry, &mut NoBase, &mut buffer, |no, page, hash| {
                    pages.write_all_at(page, geometry.offset(no)).map_err(Failed::Io)?;
                    hashes.set(no, hash).map_err(Failed::Io)
                })?;
            }
            hashes.flush().map_err(io)?;
        }
        let hashes = hashes.into_file().map_err(io)?;
        {
            let _lock = self.dir.lock_for_writing().map_err(io)?;
            pages.set_len(geometry.bytes()).map_err(io)?;
            hashes.set_len(u64::from(geometry.page_count) * PageHash::LEN as u64).map_err(io)?;
        }
        pages.sync_all().map_err(io)?;
        hashes.sync_all().map_err(io)?;
        self.dir.write_chain("state.json", next).map_err(io)?;
        self.dir.remove("fold.json").map_err(io)?;
        self.dir.remove("delta").map_err(io)?;
        self.dir.remove_kept_but(Some(next)).map_err(io)
    }

    /// Forgets everything and gives its room back. The chain goes first and durably, so that no crash leaves it beside
    /// pages of another snapshot. Nobody who reads is waited for: the files stay as they are for those who have them open.
    pub fn discard(&mut self) -> io::Result<()> {
        self.chain = None;
        for name in ["state.json", "fold.json"] {
            self.dir.remove(name)?;
        }
        self.dir.sync()?;
        for name in ["state.json.new", "fold.json.new", "delta", "pages", "hashes", "rotten"] {
            self.dir.remove(name)?;
        }
        self.dir.remove_kept_but(None)
    }

    /// [`Mirror::discard`], its error as a fault.
    pub fn discard_checked(&mut self) -> Result<(), Fault> {
        self.discard().map_err(|error| self.io(&error))
    }

    fn recover(&self) -> Result<Option<Chain>, String> {
        if self.dir.file("rotten").exists() {
            return Err("a page of it has rotted".to_owned());
        }
        if let Some(next) = self.dir.read_chain("fold.json")? {
            self.apply(&next).map_err(|fault| fault.message)?;
        }
        let Some(mut chain) = self.dir.read_chain("state.json")? else { return Ok(None) };
        let io = |error: io::Error| error.to_string();
        self.dir.remove("delta").map_err(io)?;
        let pages = fs::metadata(self.dir.file("pages")).map_err(io)?;
        let hashes = self.dir.open("hashes").map_err(io)?;
        let state = chain.newest;
        if pages.len() != state.geometry.bytes() {
            return Err("its pages are not as many as its state says".to_owned());
        }
        let found =
            HashList::new(hashes, state.geometry.page_count).snapshot_id(state.geometry).map_err(io)?;
        if found != state.snapshot {
            return Err("its page hashes are not those of its snapshot".to_owned());
        }
        let whole = |kept: &&crate::chain::Kept| {
            fs::metadata(self.dir.kept(kept.number)).is_ok_and(|file| file.len() == kept.bytes)
        };
        let lost = chain.kept.len() - chain.kept.iter().rev().take_while(whole).count();
        chain.kept.drain(..lost);
        self.dir.remove_kept_but(Some(&chain)).map_err(io)?;
        Ok(Some(chain))
    }

    fn io(&self, error: &io::Error) -> Fault {
        Fault::io(format!("the mirror in `{}`", self.dir.path().display()), error)
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
