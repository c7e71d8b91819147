//! A view: one recent snapshot, read out of the mirror and the kept deltas a batch of pages at a time, whatever refreshes
//! meanwhile.
//!
//! A page of the mirror may be newer than the view; the deltas that were kept since lead it back. In the middle of a fold it
//! may be newer or not: its hash tells. Every page is held against its hash before it is given.

use crate::chain::{Chain, MirrorState};
use crate::kept::KeptDelta;
use crate::mirror_dir::{MirrorDir, Stamp};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{PageHash, PageNo};
use pullback_shared::snapshot::SnapshotId;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Hashes that are read at once where only hashes are wanted.
pub const HASHES_AT_ONCE: u32 = 4096;

/// Whether a view could give what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Found {
    /// All of it.
    All,
    /// The snapshot is no longer one of the recent ones.
    Gone,
}

/// A recent snapshot. Its files stay readable when the mirror is discarded.
pub struct View {
    dir: MirrorDir,
    lineage: u64,
    state: MirrorState,
    /// Of the kept delta that leads back to it, or would.
    number: u64,
    pages: File,
    hashes: File,
    /// What leads back to it, oldest first.
    kept: Vec<KeptDelta>,
    stamp: Stamp,
    /// The mirror was discarded: its files are as they were then, and nobody changes them any more.
    is_detached: bool,
}

impl View {
    /// Opens the view of `snapshot` on the mirror in `dir`, whose chain is `chain` while the caller may refresh it.
    pub fn open(dir: &MirrorDir, chain: &Chain, snapshot: SnapshotId) -> Result<Option<Self>, Fault> {
        let Some((number, state)) = chain.find(snapshot) else { return Ok(None) };
        let file = |name| dir.open(name).map_err(|error| failed(&error));
        let mut view = Self {
            dir: dir.clone(),
            lineage: chain.lineage,
            state,
            number,
            pages: file("pages")?,
            hashes: file("hashes")?,
            kept: Vec::new(),
            stamp: dir.stamp(),
            is_detached: false,
        };
        let found = view.follow(chain)?;
        Ok((found == Found::All).then_some(view))
    }

    /// What it is a view of.
    pub fn state(&self) -> MirrorState {
        self.state
    }

    /// Reads the `pages.len()` bytes of pages from `first` on, and their hashes.
    pub fn read(
        &mut self,
        first: PageNo,
        pages: &mut [u8],
        hashes: &mut Vec<PageHash>,
    ) -> Result<Found, Fault> {
        let size = self.state.geometry.page_size.as_usize();
        for is_last_try in [false, true] {
            let _lock = self.dir.lock_for_reading().map_err(|error| failed(&error))?;
            if self.catch_up(is_last_try)? == Found::Gone {
                return Ok(Found::Gone);
            }
            hashes.resize(pages.len() / size, PageHash::ABSENT);
            read_or_zero(&self.pages, self.state.geometry.offset(first), pages)
                .map_err(|error| rotten(&format!("cannot be read ({error})")))?;
            if self.fill(first, hashes, Some(pages))? == Found::Gone {
                return Ok(Found::Gone);
            }
            if pages.chunks_exact(size).zip(hashes.iter()).all(|(page, hash)| PageHash::of(page) == *hash) {
                return Ok(Found::All);
            }
        }
        if self.is_detached || !self.kept.is_empty() {
            return Ok(Found::Gone);
        }
        // Whoever refreshes next discards the mirror: that cannot be done beside one who does it now.
        if let Err(error) = self.dir.open_or_make("rotten") {
            tracing::warn!(%error, "a mirror that has rotted cannot be marked so");
        }
        Err(rotten(&format!("has rotted at page {} or soon after", first.get())))
    }

    /// Reads the hashes of the pages from `first` on, as many as `hashes` has.
    pub fn hashes(&mut self, first: PageNo, hashes: &mut [PageHash]) -> Result<Found, Fault> {
        let _lock = self.dir.lock_for_reading().map_err(|error| failed(&error))?;
        match self.catch_up(false)? {
            Found::All => self.fill(first, hashes, None),
            Found::Gone => Ok(Found::Gone),
        }
    }

    /// All its hashes, in an unnamed file in `temp_dir`; `None` if it is gone.
    pub fn into_hash_list(mut self, temp_dir: &Path) -> Result<Option<HashList<File>>, Fault> {
        let io = |error: io::Error| Fault::io("a list of page hashes", &error);
        let mut list = BufWriter::new(tempfile::tempfile_in(temp_dir).map_err(io)?);
        let page_count = self.state.geometry.page_count;
        for number in (1..=page_count).step_by(HASHES_AT_ONCE as usize) {
            let count = HASHES_AT_ONCE.min(page_count - number + 1);
            let mut hashes = vec![PageHash::ABSENT; count as usize];
            let first = PageNo::new(number).expect("BUG: page 0");
            if self.hashes(first, &mut hashes)? == Found::Gone {
                return Ok(None);
            }
            hashes.iter().try_for_each(|hash| list.write_all(&hash.0)).map_err(io)?;
        }
        let mut file = list.into_inner().map_err(|error| io(error.into_error()))?;
        file.rewind().map_err(io)?;
        Ok(Some(HashList::new(file, page_count)))
    }

    /// The hashes of the mirror, led back; and `pages`, those of the mirror, if given.
    fn fill(
        &self,
        first: PageNo,
        hashes: &mut [PageHash],
        mut pages: Option<&mut [u8]>,
    ) -> Result<Found, Fault> {
        let mut raw = vec![0; hashes.len() * PageHash::LEN];
        read_or_zero(&self.hashes, first.index() * PageHash::LEN as u64, &mut raw)
            .map_err(|error| Fault::io("the mirror's page hashes", &error))?;
        for (hash, raw) in hashes.iter_mut().zip(raw.chunks_exact(PageHash::LEN)) {
            hash.0.copy_from_slice(raw);
        }
        for kept in self.kept.iter().rev() {
            if let Err(fault) = kept.lead_back(first, hashes, pages.as_deref_mut()) {
                tracing::warn!(number = kept.number, why = %fault, "a kept delta cannot be used");
                return Ok(Found::Gone);
            }
        }
        Ok(Found::All)
    }

    /// Takes notice of what was folded since.
    fn catch_up(&mut self, by_all_means: bool) -> Result<Found, Fault> {
        let stamp = self.dir.stamp();
        if self.is_detached || stamp == self.stamp && !by_all_means {
            return Ok(Found::All);
        }
        self.stamp = stamp;
        match self.dir.current_chain() {
            Ok(Some(chain)) if chain.lineage == self.lineage => self.follow(&chain),
            _ => {
                self.is_detached = true;
                Ok(Found::All)
            }
        }
    }

    fn follow(&mut self, chain: &Chain) -> Result<Found, Fault> {
        let Some(kept) = chain.since(self.number) else { return Ok(Found::Gone) };
        for kept in kept.iter().skip(self.kept.len()) {
            match KeptDelta::open(&self.dir, kept) {
                Ok(delta) => self.kept.push(delta),
                Err(fault) => {
                    tracing::warn!(number = kept.number, why = %fault, "a kept delta cannot be used");
                    return Ok(Found::Gone);
                }
            }
        }
        Ok(Found::All)
    }
}

/// Reads what there is; what lies beyond the end of the file is zero.
fn read_or_zero(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => {
                bytes.fill(0);
                return Ok(());
            }
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn failed(error: &io::Error) -> Fault {
    Fault::io("the mirror", error)
}

fn rotten(how: &str) -> Fault {
    Fault::new(Kind::Unproven, format!("the agent's mirror {how}; it is discarded and made anew"))
        .hint("pull again; if it happens again, the device's disk or card may be failing")
}
