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
            let Some(_lock) = self.lock()? else { return Ok(Found::Gone) };
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
        let Some(_lock) = self.lock()? else { return Ok(Found::Gone) };
        match self.catch_up(false)? {
            Found::All => self.fill(first, hashes, None),
            Found::Gone => Ok(Found::Gone),
        }
    }

    /// `None` where somebody stands still with the lock in hand.
    fn lock(&self) -> Result<Option<File>, Fault> {
        match self.dir.lock_for_reading() {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(failed(&error)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::{Collector, MirrorWriter, Outlet};
    use crate::delta::DeltaWriter;
    use crate::mirror::Mirror;
    use crate::room::{Room, RoomLimits};
    use crate::spool::Spool;
    use proptest::prelude::*;
    use pullback_shared::frame::Compression;
    use pullback_shared::page::Geometry;
    use std::sync::atomic::{AtomicBool, Ordering};

    const PAGE_SIZE: usize = 512;

    type Pages = Vec<Vec<u8>>;

    fn room(dir: &Path) -> Room {
        Room::new(dir, RoomLimits { reserve: Some(0), max_state: None })
    }

    fn mirror(dir: &Path) -> Mirror {
        Mirror::open(dir, Path::new("/gym.db")).unwrap()
    }

    /// Reads `pages` as a hold does, into the files of a mirror that begins or into its delta; gives what they are.
    fn take(dir: &Path, mirror: &Mirror, pages: &Pages) -> MirrorState {
        let geometry = Geometry::new(PAGE_SIZE as u32, pages.len() as u32).unwrap();
        let (known, outlet) = match mirror.state() {
            None => {
                let (pages, hashes) = mirror.begin().unwrap();
                (None, Outlet::Mirror(MirrorWriter::new(pages, hashes, geometry)))
            }
            Some(_) => {
                let spool = Spool::in_file(room(dir), mirror.delta());
                let delta = DeltaWriter::new(mirror.pages().unwrap(), Compression::Zstd(1), spool).unwrap();
                (Some(mirror.hashes().unwrap()), Outlet::Delta(Box::new(delta)))
            }
        };
        let mut collector = Collector::new(geometry, known, outlet, None, dir);
        for (no, page) in (1..).filter_map(PageNo::new).zip(pages) {
            collector.page(no, page).unwrap();
        }
        collector.finish().unwrap();
        let state = MirrorState { snapshot: collector.snapshot_id().unwrap(), geometry };
        if mirror.state().is_some() {
            collector.into_spool().finish().unwrap();
        }
        state
    }

    /// Refreshes the mirror to `pages`, as a pull does, but for the source.
    fn refresh(dir: &Path, mirror: &mut Mirror, pages: &Pages) -> SnapshotId {
        let state = take(dir, mirror, pages);
        if mirror.state().is_none() {
            mirror.adopt(state);
            mirror.settle().unwrap();
        } else if mirror.state() != Some(state) {
            let chain = mirror.keep(state, &room(dir));
            mirror.fold(chain).unwrap();
        }
        state.snapshot
    }

    /// Everything in `view`, in batches of `count` pages; `None` when it is gone.
    fn read(view: &mut View, count: usize) -> Option<Pages> {
        let (mut found, mut hashes) = (Pages::new(), Vec::new());
        let of = view.state().geometry.page_count as usize;
        while found.len() < of {
            let first = PageNo::new(found.len() as u32 + 1).unwrap();
            let mut pages = vec![0; count.min(of - found.len()) * PAGE_SIZE];
            if view.read(first, &mut pages, &mut hashes).unwrap() == Found::Gone {
                return None;
            }
            let mut alone = vec![PageHash::ABSENT; hashes.len()];
            assert_eq!(view.hashes(first, &mut alone).unwrap(), Found::All);
            assert_eq!(alone, hashes);
            found.extend(pages.chunks_exact(PAGE_SIZE).map(<[u8]>::to_vec));
        }
        Some(found)
    }

    /// What happens to a database between two snapshots.
    #[derive(Clone, Debug)]
    enum Step {
        /// A byte of a page.
        Byte(usize, usize, u8),
        /// All of a page.
        Page(usize, u8),
        /// So many pages are there now.
        Resize(usize),
        /// Two pages change places.
        Swap(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..600, 0usize..PAGE_SIZE, any::<u8>()).prop_map(|(page, at, to)| Step::Byte(page, at, to)),
            (0usize..600, any::<u8>()).prop_map(|(page, to)| Step::Page(page, to)),
            (1usize..600).prop_map(Step::Resize),
            (0usize..600, 0usize..600).prop_map(|(one, other)| Step::Swap(one, other)),
        ]
    }

    fn change(pages: &mut Pages, steps: &[Step]) {
        for step in steps {
            let len = pages.len();
            match *step {
                Step::Byte(page, at, to) => pages[page % len][at] = to,
                Step::Page(page, to) => {
                    pages[page % len] = (0..PAGE_SIZE).map(|i| to ^ (i * 7) as u8).collect()
                }
                Step::Resize(count) => {
                    let page = |index: usize| index.to_le_bytes().repeat(PAGE_SIZE / size_of::<usize>());
                    (len..count).for_each(|index| pages.push(page(index)));
                    pages.truncate(count);
                }
                Step::Swap(one, other) => pages.swap(one % len, other % len),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_recent_snapshot_can_be_read(
            rounds in prop::collection::vec(prop::collection::vec(step(), 0..40), 1..12),
            count in 1usize..300,
            reopened_at in 0usize..12,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut owner = mirror(dir.path());
            let mut pages: Pages = (0..300).map(|index| vec![index as u8; PAGE_SIZE]).collect();
            let first = refresh(dir.path(), &mut owner, &pages);
            let mut taken = vec![(first, pages.clone())];
            let mut views = vec![owner.view(first).unwrap().unwrap()];
            for (round, steps) in rounds.iter().enumerate() {
                change(&mut pages, steps);
                let snapshot = refresh(dir.path(), &mut owner, &pages);
                if round == reopened_at {
                    drop(owner);
                    owner = mirror(dir.path());
                }
                taken.push((snapshot, pages.clone()));
                views.push(owner.view(snapshot).unwrap().unwrap());
                for (view, (snapshot, pages)) in views.iter_mut().zip(&taken) {
                    // One that was opened when it was the newest, and one that is opened now.
                    prop_assert!(read(view, count).as_ref() == Some(pages));
                    let mut now = owner.view(*snapshot).unwrap().unwrap();
                    prop_assert!(read(&mut now, count).as_ref() == Some(pages));
                }
            }
        }
    }

    #[test]
    fn views_stay_what_they_are_while_others_refresh() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = mirror(dir.path());
        let mut pages: Pages = (0..2000).map(|index| vec![(index / 7) as u8; PAGE_SIZE]).collect();
        let first = refresh(dir.path(), &mut owner, &pages);
        let is_over = AtomicBool::new(false);
        let (views, of_readers) = std::sync::mpsc::channel();
        views.send((owner.view(first).unwrap().unwrap(), pages.clone())).unwrap();
        let of_readers = std::sync::Mutex::new(of_readers);
        std::thread::scope(|scope| {
            let reader = || {
                let mut reads = 0;
                let mut mine: Vec<(View, Pages)> = Vec::new();
                while !is_over.load(Ordering::Relaxed) || reads < 10 {
                    mine.extend(of_readers.lock().unwrap().try_iter().take(1));
                    for (view, pages) in &mut mine {
                        assert!(read(view, 100).as_ref() == Some(pages), "a view of another snapshot");
                        reads += 1;
                    }
                    mine.truncate(3);
                }
                reads
            };
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            for round in 0..40u32 {
                let from = round as usize * 37;
                let changed = |index: usize| (from + index * 11) % 1900;
                let steps = (0..300).map(|index| match index % 3 {
                    0 => Step::Byte(changed(index), index, round as u8),
                    1 => Step::Page(changed(index), round as u8),
                    _ => Step::Swap(changed(index), changed(index + 5)),
                });
                change(&mut pages, &steps.collect::<Vec<_>>());
                change(&mut pages, &[Step::Resize(1900 + round as usize * 13 % 200)]);
                let snapshot = refresh(dir.path(), &mut owner, &pages);
                views.send((owner.view(snapshot).unwrap().unwrap(), pages.clone())).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() >= 10));
        });
    }

    #[test]
    fn a_view_reads_on_when_its_mirror_is_discarded_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = mirror(dir.path());
        let mut pages: Pages = (0..100).map(|index| vec![index as u8; PAGE_SIZE]).collect();
        let first = refresh(dir.path(), &mut owner, &pages);
        let mut view = owner.view(first).unwrap().unwrap();
        let before = pages.clone();
        owner.discard().unwrap();
        change(&mut pages, &[Step::Page(3, 9)]);
        let second = refresh(dir.path(), &mut owner, &pages);
        change(&mut pages, &[Step::Page(5, 9)]);
        refresh(dir.path(), &mut owner, &pages);
        assert_eq!(read(&mut view, 10), Some(before));
        assert!(owner.view(first).unwrap().is_none() && owner.view(second).unwrap().is_some());
    }

    #[test]
    fn a_view_whose_deltas_were_dropped_or_have_rotted_is_gone() {
        for rots in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut owner = mirror(dir.path());
            let mut pages: Pages = (0..100).map(|index| vec![index as u8; PAGE_SIZE]).collect();
            let first = refresh(dir.path(), &mut owner, &pages);
            let mut view = owner.view(first).unwrap().unwrap();
            change(&mut pages, &[Step::Page(3, 9), Step::Byte(7, 3, 3)]);
            let second = refresh(dir.path(), &mut owner, &pages);
            match rots {
                true => {
                    let kept = MirrorDir::of(dir.path(), Path::new("/gym.db")).kept(1);
                    let mut bytes = std::fs::read(&kept).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    std::fs::write(&kept, bytes).unwrap();
                }
                false => {
                    let none = Room::new(dir.path(), RoomLimits { reserve: Some(u64::MAX), max_state: None });
                    owner.make_room(&none);
                    assert!(owner.view(first).unwrap().is_none());
                }
            }
            assert_eq!(read(&mut view, 10), None);
            assert_eq!(read(&mut owner.view(second).unwrap().unwrap(), 10), Some(pages));
        }
    }

    #[test]
    fn a_page_of_the_mirror_that_rots_is_noticed_and_the_mirror_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = mirror(dir.path());
        let pages: Pages = (0..100).map(|index| vec![index as u8; PAGE_SIZE]).collect();
        let first = refresh(dir.path(), &mut owner, &pages);
        let mut view = owner.view(first).unwrap().unwrap();
        let file = MirrorDir::of(dir.path(), Path::new("/gym.db")).open("pages").unwrap();
        file.write_all_at(b"rot", 4000).unwrap();
        let mut found = vec![0; 100 * PAGE_SIZE];
        let fault = view.read(PageNo::FIRST, &mut found, &mut Vec::new()).unwrap_err();
        assert_eq!(fault.kind, Kind::Unproven);
        drop(owner);
        assert_eq!(mirror(dir.path()).state(), None);
    }

    #[test]
    fn a_reader_that_stands_still_keeps_no_mirror_from_being_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = mirror(dir.path());
        let pages: Pages = (0..100).map(|index| vec![index as u8; PAGE_SIZE]).collect();
        let first = refresh(dir.path(), &mut owner, &pages);
        let mut view = owner.view(first).unwrap().unwrap();
        let reading = MirrorDir::of(dir.path(), Path::new("/gym.db")).lock_for_reading().unwrap();
        owner.discard().unwrap();
        drop(reading);
        assert_eq!(read(&mut view, 10), Some(pages));
    }

    #[test]
    fn what_cannot_be_kept_takes_no_room_until_the_fold_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = mirror(dir.path());
        let mut pages: Pages = (0..100).map(|index| vec![index as u8; PAGE_SIZE]).collect();
        refresh(dir.path(), &mut owner, &pages);
        let files = MirrorDir::of(dir.path(), Path::new("/gym.db"));
        // Page 8 was as its hash says when the hold was over, and is not any more when it is to be kept.
        change(&mut pages, &[Step::Page(3, 9), Step::Page(7, 9)]);
        let next = take(dir.path(), &owner, &pages);
        files.open("pages").unwrap().write_all_at(b"rot", 7 * PAGE_SIZE as u64 + 5).unwrap();
        let chain = owner.keep(next, &room(dir.path()));
        assert!(chain.kept.is_empty() && !files.kept(1).exists());
        owner.fold(chain).unwrap();
        assert_eq!(read(&mut owner.view(next.snapshot).unwrap().unwrap(), 10), Some(pages));
    }

    #[test]
    fn a_snapshot_is_known_by_its_name_and_its_shape() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = mirror(dir.path());
        let pages: Pages = vec![vec![1; PAGE_SIZE]; 10];
        let first = refresh(dir.path(), &mut owner, &pages);
        let shape = |pages| Geometry::new(PAGE_SIZE as u32, pages).unwrap();
        assert!(owner.knows(first, shape(10)) && !owner.knows(first, shape(11)));
    }
}
