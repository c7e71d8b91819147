//! What is sent of a snapshot once the hold is over: an offer, frames out of a spool or out of a view, and the end.

use crate::call::Outbound;
use crate::delta::is_patch_worth;
use crate::spool::Spooled;
use crate::view::{Found, HASHES_AT_ONCE, View};
use md5::{Digest, Md5};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{
    Compression, FRAME_BYTES_MAX, Frame, FrameBuilder, FrameError, Kind as FrameKind, xor,
};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::page_set::PageSet;
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::wire::{Done, Event, Offer, SourceFacts};
use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Batches of pages between the thread that reads a view and the one that compresses.
const BATCHES_IN_FLIGHT: usize = 2;

/// A snapshot that was taken: its name, and what is the same in every offer of it.
pub struct Taken {
    /// Its name.
    pub snapshot: SnapshotId,
    /// Its shape.
    pub geometry: Geometry,
    /// About its source.
    pub facts: SourceFacts,
    /// How long the source was held.
    pub held: Duration,
    /// Why every page is sent; `None`: the pages lead from the puller's base.
    pub full_because: Option<String>,
    /// Why the agent worked without a mirror.
    pub no_mirror_because: Option<String>,
}

/// What the puller has, as far as it saves sending pages.
pub enum Theirs {
    /// Nothing.
    Nothing,
    /// Pages with these hashes.
    Hashes(HashList<File>),
    /// A snapshot that the agent can read: what differs little from it is sent as a patch.
    Snapshot(Box<View>),
}

/// Sends to one puller.
pub struct Transfer<'a> {
    /// The puller.
    pub outbound: &'a Outbound,
    /// Send no frame.
    pub dry_run: bool,
    /// Of the frames.
    pub compression: Compression,
}

impl Transfer<'_> {
    /// Sends the frames of `spooled`; `pages_missing` more did not fit into it.
    pub fn spooled(&self, taken: &Taken, mut spooled: Spooled, pages_missing: u32) -> Result<(), Fault> {
        self.offer(taken, spooled.pages, spooled.bytes)?;
        if !self.dry_run {
            let mut frames = spooled.frames()?;
            while let Some(frame) = frames.next_frame()? {
                self.outbound.send(Event::Frame(frame))?;
            }
        }
        self.done(taken, None, pages_missing)
    }

    /// Sends the pages of `view`, which is of what was taken, but for those that are `theirs` already.
    pub fn from_view(&self, mut view: View, taken: &Taken, mut theirs: Theirs) -> Result<(), Fault> {
        let Some(pages) = lacking(&mut view, taken.geometry, &mut theirs)? else {
            let pages = taken.geometry.page_count;
            self.offer(taken, pages, 0)?;
            return self.done(taken, None, pages);
        };
        self.offer(taken, pages.len(), 0)?;
        if self.dry_run {
            return self.done(taken, None, 0);
        }
        let base = match theirs {
            Theirs::Snapshot(base) => Some(base),
            Theirs::Nothing | Theirs::Hashes(_) => None,
        };
        let whole = taken.full_because.is_some();
        let (batches, received) = sync_channel(BATCHES_IN_FLIGHT);
        let (sent, used) = sync_channel(BATCHES_IN_FLIGHT + 1);
        let read = std::thread::scope(|scope| {
            let pages = &pages;
            let reader = scope.spawn(move || read_batches(view, base, pages, whole, &batches, &used));
            let ended = self.batches(taken.geometry, received, &sent);
            let panicked = |_| Err(Fault::new(Kind::Internal, "reading the mirror panicked"));
            ended.and(reader.join().unwrap_or_else(panicked))
        })?;
        self.done(taken, read.md5, read.missing)
    }

    /// Offers `pages` pages in `bytes` bytes of frames (0: not known yet).
    pub fn offer(&self, taken: &Taken, pages: u32, bytes: u64) -> Result<(), Fault> {
        self.outbound.send(Event::Offer(Box::new(Offer {
            snapshot: Some(taken.snapshot),
            geometry: taken.geometry,
            full_because: taken.full_because.clone(),
            pages,
            bytes,
            source: taken.facts.clone(),
            no_mirror_because: taken.no_mirror_because.clone(),
        })))
    }

    /// The end.
    pub fn done(&self, taken: &Taken, md5: Option<[u8; 16]>, pages_missing: u32) -> Result<(), Fault> {
        let held_micros = u64::try_from(taken.held.as_micros()).unwrap_or(u64::MAX);
        self.outbound.send(Event::Done(Done { snapshot: taken.snapshot, md5, held_micros, pages_missing }))
    }

    /// Frames of plain pages of `geometry`, compressed as configured.
    pub fn builder(&self, geometry: Geometry) -> Result<FrameBuilder, Fault> {
        self.builder_of(FrameKind::Plain, geometry)
    }

    fn builder_of(&self, kind: FrameKind, geometry: Geometry) -> Result<FrameBuilder, Fault> {
        FrameBuilder::new(geometry.page_size, kind, self.compression).map_err(internal)
    }

    /// Sends `batches` as frames, and gives each back through `sent`, to be filled again.
    fn batches(
        &self,
        geometry: Geometry,
        batches: Receiver<Batch>,
        sent: &SyncSender<Batch>,
    ) -> Result<(), Fault> {
        let size = geometry.page_size.as_usize();
        let mut plain = self.builder(geometry)?;
        let mut patches: Option<FrameBuilder> = None;
        for mut batch in batches {
            for (index, (page, hash)) in batch.pages.chunks_exact(size).zip(&batch.hashes).enumerate() {
                let no = PageNo::new(batch.first.get() + index as u32).expect("BUG: page 0");
                let patch = batch.old.chunks_exact_mut(size).nth(index).and_then(|old| {
                    xor(old, page);
                    is_patch_worth(old).then_some(old)
                });
                let frame = match patch {
                    None => plain.push(no, page, *hash),
                    Some(patch) => {
                        let builder = match &mut patches {
                            Some(builder) => builder,
                            none => none.insert(self.builder_of(FrameKind::Patch, geometry)?),
                        };
                        builder.push(no, patch, *hash)
                    }
                };
                self.send(frame)?;
            }
            // The reader may be done, and needs no more of them.
            let _ = sent.try_send(batch);
        }
        self.send(plain.finish())?;
        patches.map_or(Ok(()), |mut patches| self.send(patches.finish()))
    }

    fn send(&self, frame: Result<Option<Frame>, FrameError>) -> Result<(), Fault> {
        frame.map_err(internal)?.map_or(Ok(()), |frame| self.outbound.send(Event::Frame(frame)))
    }
}

fn internal(error: FrameError) -> Fault {
    Fault::new(Kind::Internal, error.to_string())
}

/// The pages of `view` that are not `theirs`; `None` if either is gone.
fn lacking(view: &mut View, geometry: Geometry, theirs: &mut Theirs) -> Result<Option<PageSet>, Fault> {
    if let Theirs::Nothing = theirs {
        return Ok(Some(PageSet::all(geometry.page_count)));
    }
    let mut lacking = PageSet::none(geometry.page_count);
    let (mut ours, mut other) = (Vec::new(), Vec::new());
    for number in (1..=geometry.page_count).step_by(HASHES_AT_ONCE as usize) {
        let first = PageNo::new(number).expect("BUG: page 0");
        let count = HASHES_AT_ONCE.min(geometry.page_count - number + 1);
        ours.resize(count as usize, PageHash::ABSENT);
        other.resize(count as usize, PageHash::ABSENT);
        if view.hashes(first, &mut ours)? == Found::Gone
            || their_hashes(theirs, first, &mut other)? == Found::Gone
        {
            return Ok(None);
        }
        let differ = (number..).zip(ours.iter().zip(&other)).filter(|(_, (ours, theirs))| ours != theirs);
        differ.filter_map(|(number, _)| PageNo::new(number)).for_each(|no| lacking.insert(no));
    }
    Ok(Some(lacking))
}

fn their_hashes(theirs: &mut Theirs, first: PageNo, hashes: &mut [PageHash]) -> Result<Found, Fault> {
    match theirs {
        Theirs::Nothing => hashes.fill(PageHash::ABSENT),
        Theirs::Hashes(list) => {
            for (hash, number) in hashes.iter_mut().zip(first.get()..) {
                let no = PageNo::new(number).expect("BUG: page 0");
                *hash = list.get(no).map_err(|error| Fault::io("a list of page hashes", &error))?;
            }
        }
        Theirs::Snapshot(base) => {
            let held = base.state().geometry.page_count.saturating_sub(first.get() - 1) as usize;
            let (held, beyond) = hashes.split_at_mut(held.min(hashes.len()));
            beyond.fill(PageHash::ABSENT);
            return base.hashes(first, held);
        }
    }
    Ok(Found::All)
}

/// Neighbouring pages of a view, with their hashes.
#[derive(Debug)]
struct Batch {
    first: PageNo,
    pages: Vec<u8>,
    hashes: Vec<PageHash>,
    /// The same pages of the puller's base; fewer, or none, where that has no more.
    old: Vec<u8>,
}

/// What came of reading.
struct Read {
    md5: Option<[u8; 16]>,
    /// Pages that could not be read, since the view was gone.
    missing: u32,
}

/// Reads `pages` into `batches`, which come back through `used`; where they are the `whole` file, gives its MD5.
fn read_batches(
    mut view: View,
    mut base: Option<Box<View>>,
    pages: &PageSet,
    whole: bool,
    batches: &SyncSender<Batch>,
    used: &Receiver<Batch>,
) -> Result<Read, Fault> {
    let geometry = view.state().geometry;
    let size = geometry.page_size.as_usize();
    let mut md5 = Md5::new();
    let mut missing = pages.len();
    let mut old_hashes = Vec::new();
    for (first, count) in pages.runs((FRAME_BYTES_MAX / size) as u32) {
        let mut batch = used.try_recv().unwrap_or(Batch {
            first,
            pages: Vec::new(),
            hashes: Vec::new(),
            old: Vec::new(),
        });
        batch.first = first;
        batch.pages.resize(count as usize * size, 0);
        batch.old.clear();
        if view.read(first, &mut batch.pages, &mut batch.hashes)? == Found::Gone {
            tracing::info!(missing, "a snapshot is no longer one of the recent ones; its puller asks again");
            return Ok(Read { md5: None, missing });
        }
        if let Some(view) = &mut base {
            let held = view.state().geometry.page_count.saturating_sub(first.get() - 1).min(count);
            batch.old.resize(held as usize * size, 0);
            if view.read(first, &mut batch.old, &mut old_hashes)? == Found::Gone {
                batch.old.clear();
                base = None;
            }
        }
        if whole {
            md5.update(&batch.pages);
        }
        if batches.send(batch).is_err() {
            break;
        }
        missing -= count;
    }
    Ok(Read { md5: whole.then(|| md5.finalize().into()), missing })
}
