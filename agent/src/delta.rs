//! A delta being written: what turns the snapshot in the mirror into the one that is read, page by page, inside the hold.
//!
//! A page that stands elsewhere in the mirror is *moved*; one that differs little from its old self is a *patch*; any other is
//! *plain*. What is cheap to find is tried, nothing else: this runs while the source is held.

use crate::mirror_pages::MirrorPages;
use crate::spool::Spool;
use pullback_shared::fault::{Fault, Kind as FaultKind};
use pullback_shared::frame::{Compression, Frame, FrameBuilder, FrameError, Kind, xor};
use pullback_shared::page::{PageHash, PageNo};

/// A patch is worth its while if less than one byte in so many differs: an ordinary page compresses to about a third.
const PATCH_BYTES_PER_DIFFERENCE: usize = 4;

/// After so many changed pages, others may well have moved: then the index of old pages is made.
const MOVED_AFTER: u32 = 256;

/// Slots of the index of old pages, 4 bytes each, at most.
const INDEX_SLOTS_MAX: usize = 1 << 21;

/// Takes the changed pages of one hold.
pub struct DeltaWriter {
    old: MirrorPages,
    index: Option<Index>,
    pages: u32,
    plain: FrameBuilder,
    patch: FrameBuilder,
    moved: FrameBuilder,
    spool: Spool,
    old_page: Vec<u8>,
}

impl DeltaWriter {
    /// Writes what leads from `old` to a snapshot with the same page size to `spool`.
    pub fn new(old: MirrorPages, compression: Compression, spool: Spool) -> Result<Self, Fault> {
        let size = old.geometry().page_size;
        let builder = |kind| FrameBuilder::new(size, kind, compression).map_err(internal);
        Ok(Self {
            old,
            index: None,
            pages: 0,
            plain: builder(Kind::Plain)?,
            patch: builder(Kind::Patch)?,
            moved: builder(Kind::Moved)?,
            spool,
            old_page: vec![0; size.as_usize()],
        })
    }

    /// Adds page `no`, which is not as it was.
    pub fn page(&mut self, no: PageNo, page: &[u8], hash: PageHash) -> Result<(), Fault> {
        self.pages += 1;
        if self.pages == MOVED_AFTER {
            self.index = Some(Index::of(&mut self.old)?);
        }
        let from = match &self.index {
            Some(index) => index.find(&self.old, hash)?,
            None => None,
        };
        let frame = match from {
            Some(from) => self.moved.push_moved(no, from, page, hash),
            None if self.is_patch(no, page)? => self.patch.push(no, &self.old_page, hash),
            None => self.plain.push(no, page, hash),
        };
        frame.map_err(internal)?.map_or(Ok(()), |frame| self.keep(frame))
    }

    /// Whether a patch of page `no` is worth its while; then `old_page` holds it. An old page that rotted makes none.
    fn is_patch(&mut self, no: PageNo, page: &[u8]) -> Result<bool, Fault> {
        if !self.old.geometry().holds(no) || !self.old.read_if_whole(no, &mut self.old_page)? {
            return Ok(false);
        }
        xor(&mut self.old_page, page);
        Ok(is_patch_worth(&self.old_page))
    }

    fn keep(&mut self, frame: Frame) -> Result<(), Fault> {
        self.spool.push(frame)
    }

    /// Hands the last frames to the system.
    pub fn finish(&mut self) -> Result<(), Fault> {
        for frame in [self.plain.finish(), self.patch.finish(), self.moved.finish()] {
            if let Some(frame) = frame.map_err(internal)? {
                self.keep(frame)?;
            }
        }
        self.spool.flush()
    }

    /// The spool with all frames.
    pub fn into_spool(self) -> Spool {
        self.spool
    }
}

/// Whether a page is better told by `patch`.
pub fn is_patch_worth(patch: &[u8]) -> bool {
    let differences = patch.iter().filter(|byte| **byte != 0).count();
    differences * PATCH_BYTES_PER_DIFFERENCE < patch.len()
}

fn internal(error: FrameError) -> Fault {
    Fault::new(FaultKind::Internal, error.to_string())
}

/// Which old page has a hash: a table of page numbers, looked into where the hash says, and on from there. The hashes
/// themselves stay in their file. Of a mirror with more pages than fit, the first are in it.
struct Index {
    slots: Vec<u32>,
}

impl Index {
    fn of(old: &mut MirrorPages) -> Result<Self, Fault> {
        let pages = old.geometry().page_count;
        let len = (pages as usize * 2).next_power_of_two().min(INDEX_SLOTS_MAX);
        let mut index = Self { slots: vec![0; len] };
        for number in 1..=pages.min((len / 4 * 3) as u32) {
            let no = PageNo::new(number).expect("BUG: page 0");
            let mut slot = index.slot(old.hash(no)?);
            while index.slots[slot] != 0 {
                slot = (slot + 1) % len;
            }
            index.slots[slot] = number;
        }
        Ok(index)
    }

    fn find(&self, old: &MirrorPages, hash: PageHash) -> Result<Option<PageNo>, Fault> {
        let mut slot = self.slot(hash);
        while let Some(no) = PageNo::new(self.slots[slot]) {
            if old.hash_now(no)? == hash {
                return Ok(Some(no));
            }
            slot = (slot + 1) % self.slots.len();
        }
        Ok(None)
    }

    fn slot(&self, hash: PageHash) -> usize {
        let mut first = [0; 8];
        first.copy_from_slice(&hash.0[..8]);
        (u64::from_le_bytes(first) % self.slots.len() as u64) as usize
    }
}
