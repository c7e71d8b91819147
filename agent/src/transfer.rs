//! What is sent of a snapshot once the hold is over: an offer, frames out of a spool or out of the mirror, and the end.

use crate::call::Outbound;
use crate::mirror::{Mirror, MirrorPages};
use crate::spool::Spooled;
use md5::{Digest, Md5};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Compression, FRAME_BYTES_MAX, FrameBuilder, Kind as FrameKind};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::wire::{Done, Event, Offer, SourceFacts};
use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Batches of pages between the thread that reads a mirror and the one that compresses.
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
    pub fn spooled(&self, taken: &Taken, spooled: Spooled, pages_missing: u32) -> Result<(), Fault> {
        self.offer(taken, spooled.pages, spooled.bytes)?;
        if !self.dry_run {
            let mut frames = spooled.into_frames();
            while let Some(frame) = frames.next_frame()? {
                self.outbound.send(Event::Frame(frame))?;
            }
        }
        self.done(taken, None, pages_missing)
    }

    /// Sends, out of the mirror, the pages whose hash is another one in `theirs`, or every page if that is not given.
    pub fn from_mirror(
        &self,
        mirror: &Mirror,
        taken: &Taken,
        theirs: Option<&HashList<File>>,
    ) -> Result<(), Fault> {
        let pages = match theirs {
            Some(theirs) => {
                Lacking::new(mirror, theirs)?.try_fold(0, |sum, run| run.map(|(_, count)| sum + count))?
            }
            None => taken.geometry.page_count,
        };
        self.offer(taken, pages, 0)?;
        if self.dry_run {
            return self.done(taken, None, 0);
        }
        let runs: Box<dyn Iterator<Item = Result<(PageNo, u32), Fault>> + Send> = match theirs {
            Some(theirs) => Box::new(Lacking::new(mirror, theirs)?),
            None => Box::new(PageNo::new(pages).map(|last| Ok((PageNo::FIRST, last.get()))).into_iter()),
        };
        let whole = theirs.is_none();
        let (batches, received) = sync_channel(BATCHES_IN_FLIGHT);
        let (sent, used) = sync_channel(BATCHES_IN_FLIGHT + 1);
        let md5 = std::thread::scope(|scope| {
            let pages = mirror.pages()?;
            let reader = scope.spawn(move || read_batches(pages, runs, whole, &batches, &used));
            let ended = self.batches(taken.geometry, received, &sent);
            let panicked = |_| Err(Fault::new(Kind::Internal, "reading the mirror panicked"));
            ended.and(reader.join().unwrap_or_else(panicked))
        })?;
        self.done(taken, md5, 0)
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
        FrameBuilder::new(geometry.page_size, FrameKind::Plain, self.compression)
            .map_err(|error| Fault::new(Kind::Internal, error.to_string()))
    }

    /// Sends `batches` as frames, and gives each back through `sent`, to be filled again.
    fn batches(
        &self,
        geometry: Geometry,
        batches: Receiver<Batch>,
        sent: &SyncSender<Batch>,
    ) -> Result<(), Fault> {
        let internal =
            |error: pullback_shared::frame::FrameError| Fault::new(Kind::Internal, error.to_string());
        let mut builder = self.builder(geometry)?;
        for batch in batches {
            let pages = batch.pages.chunks_exact(geometry.page_size.as_usize());
            for (index, (page, hash)) in pages.zip(&batch.hashes).enumerate() {
                let no = PageNo::new(batch.first.get() + index as u32).expect("BUG: page 0");
                if let Some(frame) = builder.push(no, page, *hash).map_err(internal)? {
                    self.outbound.send(Event::Frame(frame))?;
                }
            }
            // The reader may be done, and needs no more of them.
            let _ = sent.try_send(batch);
        }
        match builder.finish().map_err(internal)? {
            Some(frame) => self.outbound.send(Event::Frame(frame)),
            None => Ok(()),
        }
    }
}

/// The runs of pages whose hash in the base is not that in the mirror, in page order.
struct Lacking {
    ours: HashList<File>,
    theirs: HashList<File>,
    next: u32,
}

impl Lacking {
    fn new(mirror: &Mirror, theirs: &HashList<File>) -> Result<Self, Fault> {
        let file = theirs.file().try_clone().map_err(|error| Fault::io("a list of page hashes", &error))?;
        Ok(Self { ours: mirror.hashes()?, theirs: HashList::new(file, theirs.page_count()), next: 1 })
    }

    fn differs(&mut self, number: u32) -> std::io::Result<bool> {
        let no = PageNo::new(number).expect("BUG: page 0");
        Ok(self.ours.get(no)? != self.theirs.get(no)?)
    }

    fn run(&mut self) -> std::io::Result<Option<(PageNo, u32)>> {
        let last = self.ours.page_count();
        while self.next <= last && !self.differs(self.next)? {
            self.next += 1;
        }
        let first = self.next;
        while self.next <= last && self.differs(self.next)? {
            self.next += 1;
        }
        Ok(PageNo::new(first).filter(|_| self.next > first).map(|no| (no, self.next - first)))
    }
}

impl Iterator for Lacking {
    type Item = Result<(PageNo, u32), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.run().map_err(|error| Fault::io("a list of page hashes", &error)).transpose()
    }
}

/// Neighbouring pages out of the mirror, with their hashes.
struct Batch {
    first: PageNo,
    pages: Vec<u8>,
    hashes: Vec<PageHash>,
}

/// Reads `runs` of pages into `batches`, which come back through `used`; where they are the whole file, in order, gives
/// its MD5.
fn read_batches(
    mut pages: MirrorPages,
    runs: impl Iterator<Item = Result<(PageNo, u32), Fault>>,
    whole: bool,
    batches: &SyncSender<Batch>,
    used: &Receiver<Batch>,
) -> Result<Option<[u8; 16]>, Fault> {
    let size = pages.geometry().page_size.as_usize();
    let batch_pages = (FRAME_BYTES_MAX / size) as u32;
    let mut md5 = Md5::new();
    for run in runs {
        let (first, count) = run?;
        let mut done = 0;
        while done < count {
            let now = batch_pages.min(count - done);
            let first = PageNo::new(first.get() + done).expect("BUG: page 0");
            let (mut room, hashes) =
                used.try_recv().map(|batch| (batch.pages, batch.hashes)).unwrap_or_default();
            room.resize(now as usize * size, 0);
            let mut batch = Batch { first, pages: room, hashes };
            pages.read(first, &mut batch.pages, &mut batch.hashes)?;
            if whole {
                md5.update(&batch.pages);
            }
            if batches.send(batch).is_err() {
                return Ok(None);
            }
            done += now;
        }
    }
    Ok(whole.then(|| md5.finalize().into()))
}
