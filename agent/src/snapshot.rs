//! One pull at the agent, from the puller's request to `Done`: which base, with or without a mirror, what is sent.
//!
//! The hold is inside [`Hold::read_into`] and nowhere else; everything that waits for the puller or for a disk's fsync
//! comes before or after it.

use crate::call::{Inbound, Outbound};
use crate::collector::{Collector, MirrorWriter, Outlet};
use crate::mirror::{Mirror, MirrorPages, MirrorState};
use crate::room::{Room, RoomLimits};
use crate::source::{Hold, HoldLimits, Source};
use crate::spool::{MEMORY_SPOOL_MAX, Spool, Spooled};
use md5::{Digest, Md5};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Compression, FRAME_BYTES_MAX, FrameBuilder};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::wire::{Base, Done, Event, Offer, SourceFacts, Start};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Batches of pages between the thread that reads a mirror and the one that compresses.
const BATCHES_IN_FLIGHT: usize = 2;

/// Where and how an agent works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where mirrors and spools go; `None` behind the local door, which has neither.
    pub state_dir: Option<PathBuf>,
    /// Whether to keep mirrors.
    pub mirror: bool,
    /// What state may take.
    pub room: RoomLimits,
    /// Waiting for and holding a source.
    pub hold: HoldLimits,
    /// Of frames.
    pub compression: Compression,
}

impl Settings {
    /// Behind the local door: no state, nothing compressed.
    pub fn local() -> Self {
        Self {
            state_dir: None,
            mirror: false,
            room: RoomLimits::default(),
            hold: HoldLimits::default(),
            compression: Compression::None,
        }
    }

    /// Where unnamed files go: into the state directory, or, where that cannot be written, to the system's place for such.
    pub fn temp_dir(&self) -> PathBuf {
        let usable = |dir: &PathBuf| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
        self.state_dir.clone().filter(usable).unwrap_or_else(std::env::temp_dir)
    }
}

/// Serves one pull of the database at `path`.
pub fn pull(
    settings: &Settings,
    path: &Path,
    start: &Start,
    inbound: &mut Inbound,
    outbound: &Outbound,
) -> Result<(), Fault> {
    let source = Source::find(path)?;
    let (mut mirror, mut no_mirror_because) = open_mirror(settings, &source);
    let mirrored = mirror.as_ref().and_then(Mirror::state).map(|state| state.snapshot);
    let base = match start.base {
        None => Have::Nothing,
        Some(base) if base.snapshot.is_some() && base.snapshot == mirrored => Have::Mirror,
        Some(base) => {
            // A puller may take its time with its hashes; meanwhile the mirror is for others.
            drop(mirror);
            let hashes = receive_hashes(settings, base, inbound, outbound)?;
            (mirror, no_mirror_because) = open_mirror(settings, &source);
            Have::Hashes(base.geometry, hashes)
        }
    };
    let pull = Pull { settings, source: &source, dry_run: start.dry_run, outbound };
    let mut base = base;
    if let Some(mirror) = mirror {
        match pull.with_mirror(mirror, base)? {
            None => return Ok(()),
            Some(instead) => (base, no_mirror_because) = (instead.base, Some(instead.why)),
        }
    }
    pull.without_mirror(base, no_mirror_because)
}

/// The mirror of `source`, or why there is none.
fn open_mirror(settings: &Settings, source: &Source) -> (Option<Mirror>, Option<String>) {
    let Some(state_dir) = settings.state_dir.as_ref().filter(|_| settings.mirror) else {
        return (None, None);
    };
    match Mirror::open(state_dir, source.path()) {
        Ok(mirror) => (Some(mirror), None),
        Err(why) => (None, Some(why)),
    }
}

/// What the puller has, as the agent knows it.
enum Have {
    Nothing,
    /// The snapshot that the mirror holds.
    Mirror,
    /// Something the agent has only the page hashes of.
    Hashes(Geometry, HashList<File>),
}

fn receive_hashes(
    settings: &Settings,
    base: Base,
    inbound: &mut Inbound,
    outbound: &Outbound,
) -> Result<HashList<File>, Fault> {
    if base.snapshot.is_some() {
        outbound.send(Event::NeedHashes)?;
    }
    let io = |error: std::io::Error| Fault::io("the list of the puller's page hashes", &error);
    let dir = settings.temp_dir();
    let bytes = u64::from(base.geometry.page_count) * PageHash::LEN as u64;
    let file = tempfile::tempfile_in(&dir).map_err(io)?;
    if settings.state_dir.is_some() && bytes > HASHES_UNCHECKED_MAX {
        Room::new(&dir, settings.room).check(bytes)?;
    }
    let mut list = BufWriter::new(file);
    inbound.hashes(base.geometry, &mut list)?;
    list.flush().map_err(io)?;
    let mut file = list.into_inner().map_err(|error| io(error.into_error()))?;
    file.rewind().map_err(io)?;
    Ok(HashList::new(file, base.geometry.page_count))
}

/// Lists of page hashes up to this many bytes are taken even where there is no room for more state.
const HASHES_UNCHECKED_MAX: u64 = 4 * 1024 * 1024;

struct Pull<'a> {
    settings: &'a Settings,
    source: &'a Source,
    dry_run: bool,
    outbound: &'a Outbound,
}

/// A pull that cannot be done with the mirror, which is discarded: what to build upon without it, and why.
struct Instead {
    base: Have,
    why: String,
}

/// What is the same in every offer of one hold.
struct Read {
    snapshot: SnapshotId,
    geometry: Geometry,
    facts: SourceFacts,
    held: Duration,
}

impl Pull<'_> {
    /// A pull with the mirror, or how to do it without; then nothing was sent.
    fn with_mirror(&self, mut mirror: Mirror, base: Have) -> Result<Option<Instead>, Fault> {
        let hold = self.source.hold(self.settings.hold)?;
        match mirror.state() {
            None => self.first(mirror, hold, base),
            Some(state) if state.geometry.page_size == hold.geometry().page_size => {
                self.refresh(mirror, state, hold, base)
            }
            Some(_) => {
                // Discarding waits for the disk, which nothing inside a hold may do.
                drop(hold);
                tracing::info!(path = %self.source.path().display(), "the page size changed: the mirror is made anew");
                mirror.discard().map_err(|error| Fault::io("the mirror", &error))?;
                self.first(mirror, self.source.hold(self.settings.hold)?, base)
            }
        }
    }

    /// The first snapshot goes straight into a new mirror.
    fn first(&self, mut mirror: Mirror, hold: Hold<'_>, base: Have) -> Result<Option<Instead>, Fault> {
        let geometry = hold.geometry();
        let (pages, hashes) = mirror.begin()?;
        let bytes = geometry.bytes() + u64::from(geometry.page_count) * PageHash::LEN as u64;
        if let Err(fault) = self.room().check(bytes) {
            mirror.discard().map_err(|error| Fault::io("the mirror", &error))?;
            return Ok(Some(Instead { base, why: fault.message }));
        }
        let outlet = Outlet::Mirror(MirrorWriter::new(pages, hashes, geometry));
        let (mut read, mut collector) = match self.read(hold, None, outlet) {
            Ok(read) => read,
            Err(fault) => {
                mirror.discard().map_err(|error| Fault::io("the mirror", &error))?;
                return match fault.kind {
                    Kind::NoSpace => Ok(Some(Instead { base, why: fault.message })),
                    _ => Err(fault),
                };
            }
        };
        collector.finish()?;
        read.snapshot = collector.snapshot_id()?;
        drop(collector);
        let snapshot = MirrorState { snapshot: read.snapshot, geometry };
        mirror.adopt(snapshot);
        let full_because = full_unless_hashes(&base, geometry);
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| mirror.settle());
            let sent = self.send_from_mirror(&mirror, &read, full_because, &base);
            settled
                .join()
                .unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "making the mirror durable panicked")))?;
            sent
        })
        .or_else(|fault| self.discard_rotten(mirror, fault))?;
        Ok(None)
    }

    /// A further snapshot: what differs from the mirror goes into its delta, and then into the mirror.
    fn refresh(
        &self,
        mut mirror: Mirror,
        state: MirrorState,
        hold: Hold<'_>,
        base: Have,
    ) -> Result<Option<Instead>, Fault> {
        let geometry = hold.geometry();
        let spool = Spool::in_file(self.room(), mirror.delta());
        let outlet = Outlet::Spool(self.builder(geometry)?, spool);
        let (mut read, mut collector) = self.read(hold, Some(mirror.hashes()?), outlet)?;
        collector.finish()?;
        let unchanged = collector.pages_new == 0 && geometry == state.geometry;
        read.snapshot = if unchanged { state.snapshot } else { collector.snapshot_id()? };
        let pages_new = collector.pages_new;
        let Outlet::Spool(_, spool) = collector.outlet else {
            unreachable!("BUG: the outlet of a refresh changed")
        };
        let grown = geometry.bytes().saturating_sub(state.geometry.bytes());
        if spool.is_full() || self.room().left() < grown {
            let why = "its refresh needs more room than `reserve` and `max_state` leave".to_owned();
            drop(spool);
            // The list stays readable when the mirror's files have lost their names.
            let base = match base {
                Have::Mirror => Have::Hashes(state.geometry, mirror.hashes()?),
                base => base,
            };
            mirror.discard().map_err(|error| Fault::io("the mirror", &error))?;
            return Ok(Some(Instead { base, why }));
        }
        let delta = spool.finish()?;
        if unchanged {
            mirror.drop_delta();
            let sent = match base {
                Have::Mirror => self.send_spooled(&read, None, delta, 0, None),
                _ => self.send_from_mirror(&mirror, &read, full_unless_hashes(&base, geometry), &base),
            };
            return sent.or_else(|fault| self.discard_rotten(mirror, fault)).map(|()| None);
        }
        let next = MirrorState { snapshot: read.snapshot, geometry };
        match base {
            Have::Mirror => {
                debug_assert_eq!(delta.pages, pages_new);
                // The frames are sent from a file that stays readable when the fold removes its name.
                std::thread::scope(|scope| {
                    let folded = scope
                        .spawn(|| mirror.fold(next).or_else(|fault| discard_failed(&mut mirror, &fault)));
                    let sent = self.send_spooled(&read, None, delta, 0, None);
                    folded
                        .join()
                        .unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "folding the mirror panicked")))?;
                    sent
                })
                .map(|()| None)
            }
            _ => {
                drop(delta);
                if let Err(fault) = mirror.fold(next) {
                    discard_failed(&mut mirror, &fault)?;
                    return Ok(Some(Instead { base, why: fault.message }));
                }
                let full_because = full_unless_hashes(&base, geometry);
                self.send_from_mirror(&mirror, &read, full_because, &base)
                    .or_else(|fault| self.discard_rotten(mirror, fault))
                    .map(|()| None)
            }
        }
    }

    /// A pull without a mirror: changed pages are spooled in the hold and then sent, or, behind the local door, go straight
    /// into the puller's draft.
    fn without_mirror(&self, base: Have, no_mirror_because: Option<String>) -> Result<(), Fault> {
        let hold = self.source.hold(self.settings.hold)?;
        let geometry = hold.geometry();
        let full_because = full_unless_hashes(&base, geometry);
        let known = match base {
            Have::Hashes(of, list) if of.page_size == geometry.page_size => Some(list),
            _ => None,
        };
        if self.settings.state_dir.is_none() {
            return self.direct(hold, known, full_because);
        }
        let room = self.room();
        let spool = match room.left() > MEMORY_SPOOL_MAX {
            true => {
                let dir = self.settings.temp_dir();
                Spool::in_file(room, move || tempfile::tempfile_in(dir))
            }
            false => Spool::in_memory(),
        };
        let outlet = match self.dry_run {
            true => Outlet::Nowhere,
            false => Outlet::Spool(self.builder(geometry)?, spool),
        };
        let (mut read, mut collector) = self.read(hold, known, outlet)?;
        collector.finish()?;
        read.snapshot = collector.snapshot_id()?;
        let pages_new = collector.pages_new;
        match collector.outlet {
            Outlet::Spool(_, spool) => {
                let spooled = spool.finish()?;
                let missing = pages_new - spooled.pages;
                self.send_spooled(&read, full_because, spooled, missing, no_mirror_because)
            }
            _ => {
                let pages = pages_new;
                self.outbound.send(self.offer(&read, full_because, pages, 0, no_mirror_because))?;
                self.done(&read, None, 0)
            }
        }
    }

    /// Pages go to the puller in this process while they are read.
    fn direct(
        &self,
        hold: Hold<'_>,
        known: Option<HashList<File>>,
        full_because: Option<String>,
    ) -> Result<(), Fault> {
        let geometry = hold.geometry();
        let outlet = match self.dry_run {
            true => Outlet::Nowhere,
            false => Outlet::Direct(self.builder(geometry)?),
        };
        let offer = Offer {
            snapshot: None,
            geometry,
            full_because,
            pages: 0,
            bytes: 0,
            source: hold.facts().clone(),
            no_mirror_because: None,
        };
        let mut offer = Some(offer);
        if !self.dry_run {
            self.outbound.send(Event::Offer(Box::new(offer.take().expect("BUG: an offer made twice"))))?;
        }
        let (mut read, mut collector) = self.read(hold, known, outlet)?;
        collector.finish()?;
        read.snapshot = collector.snapshot_id()?;
        if let Some(mut offer) = offer {
            offer.snapshot = Some(read.snapshot);
            offer.pages = collector.pages_new;
            self.outbound.send(Event::Offer(Box::new(offer)))?;
        }
        self.done(&read, None, 0)
    }

    /// The hold: reads the source through a collector.
    fn read(
        &self,
        hold: Hold<'_>,
        known: Option<HashList<File>>,
        outlet: Outlet,
    ) -> Result<(Read, Collector), Fault> {
        let (geometry, facts) = (hold.geometry(), hold.facts().clone());
        let outbound = Some(self.outbound.clone());
        let collector = Collector::new(geometry, known, outlet, outbound, &self.settings.temp_dir());
        let (sink, shared) = collector.share();
        let held = hold.read_into(sink)?;
        let read = Read { snapshot: SnapshotId([0; 32]), geometry, facts, held };
        Ok((read, shared.take()))
    }

    fn send_spooled(
        &self,
        read: &Read,
        full_because: Option<String>,
        spooled: Spooled,
        pages_missing: u32,
        no_mirror_because: Option<String>,
    ) -> Result<(), Fault> {
        let (pages, bytes) = (spooled.pages, spooled.bytes);
        self.outbound.send(self.offer(read, full_because, pages, bytes, no_mirror_because))?;
        if !self.dry_run {
            let mut frames = spooled.into_frames();
            while let Some(frame) = frames.next_frame()? {
                self.outbound.send(Event::Frame(frame))?;
            }
        }
        self.done(read, None, pages_missing)
    }

    /// Sends, out of the mirror, every page or those that the base lacks.
    fn send_from_mirror(
        &self,
        mirror: &Mirror,
        read: &Read,
        full_because: Option<String>,
        base: &Have,
    ) -> Result<(), Fault> {
        let lacking = match (&full_because, base) {
            (None, Have::Hashes(_, theirs)) => Some(theirs),
            _ => None,
        };
        let pages = match lacking {
            Some(theirs) => {
                Lacking::new(mirror, theirs)?.try_fold(0, |sum, run| run.map(|(_, count)| sum + count))?
            }
            None => read.geometry.page_count,
        };
        let whole = full_because.is_some();
        self.outbound.send(self.offer(read, full_because, pages, 0, None))?;
        if self.dry_run {
            return self.done(read, None, 0);
        }
        let runs: Box<dyn Iterator<Item = Result<(PageNo, u32), Fault>> + Send> = match lacking {
            Some(theirs) => Box::new(Lacking::new(mirror, theirs)?),
            None => Box::new(PageNo::new(pages).map(|last| Ok((PageNo::FIRST, last.get()))).into_iter()),
        };
        let (batches, received) = sync_channel(BATCHES_IN_FLIGHT);
        let md5 = std::thread::scope(|scope| {
            let pages = mirror.pages()?;
            let reader = scope.spawn(move || read_batches(pages, runs, whole, &batches));
            let sent = self.send_batches(read.geometry, received);
            let md5 = reader
                .join()
                .unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "reading the mirror panicked")));
            sent.and(md5)
        })?;
        self.done(read, md5, 0)
    }

    fn send_batches(&self, geometry: Geometry, batches: Receiver<Batch>) -> Result<(), Fault> {
        let mut builder = self.builder(geometry)?;
        for batch in batches {
            for (index, (page, hash)) in
                batch.pages.chunks_exact(geometry.page_size.as_usize()).zip(&batch.hashes).enumerate()
            {
                let no = PageNo::new(batch.first.get() + index as u32).expect("BUG: page 0");
                if let Some(frame) =
                    builder.push(no, page, *hash).map_err(|e| Fault::new(Kind::Internal, e.to_string()))?
                {
                    self.outbound.send(Event::Frame(frame))?;
                }
            }
        }
        match builder.finish().map_err(|error| Fault::new(Kind::Internal, error.to_string()))? {
            Some(frame) => self.outbound.send(Event::Frame(frame)),
            None => Ok(()),
        }
    }

    fn offer(
        &self,
        read: &Read,
        full_because: Option<String>,
        pages: u32,
        bytes: u64,
        no_mirror_because: Option<String>,
    ) -> Event {
        Event::Offer(Box::new(Offer {
            snapshot: Some(read.snapshot),
            geometry: read.geometry,
            full_because,
            pages,
            bytes,
            source: read.facts.clone(),
            no_mirror_because,
        }))
    }

    fn done(&self, read: &Read, md5: Option<[u8; 16]>, pages_missing: u32) -> Result<(), Fault> {
        let held_micros = u64::try_from(read.held.as_micros()).unwrap_or(u64::MAX);
        self.outbound.send(Event::Done(Done { snapshot: read.snapshot, md5, held_micros, pages_missing }))
    }

    fn builder(&self, geometry: Geometry) -> Result<FrameBuilder, Fault> {
        FrameBuilder::new(geometry.page_size, self.settings.compression)
            .map_err(|error| Fault::new(Kind::Internal, error.to_string()))
    }

    fn room(&self) -> Room {
        Room::new(&self.settings.temp_dir(), self.settings.room)
    }

    /// After a failed transfer: a mirror that was found rotten is discarded.
    fn discard_rotten(&self, mut mirror: Mirror, fault: Fault) -> Result<(), Fault> {
        if fault.kind == Kind::Unproven {
            mirror.discard().map_err(|error| Fault::io("the mirror", &error))?;
        }
        Err(fault)
    }
}

const NOTHING_TO_BUILD_ON: &str = "the puller has no earlier copy to build upon";

fn full_unless_hashes(base: &Have, geometry: Geometry) -> Option<String> {
    match base {
        Have::Hashes(of, _) if of.page_size == geometry.page_size => None,
        Have::Hashes(..) | Have::Mirror => Some("the page size changed".to_owned()),
        Have::Nothing => Some(NOTHING_TO_BUILD_ON.to_owned()),
    }
}

/// A fold that failed costs the mirror, not the pull.
fn discard_failed(mirror: &mut Mirror, fault: &Fault) -> Result<(), Fault> {
    tracing::warn!(why = %fault, "the mirror is discarded");
    mirror.discard().map_err(|error| Fault::io("the mirror", &error))
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

/// Reads `runs` of pages into `batches`; where they are the whole file, in order, gives its MD5.
fn read_batches(
    mut pages: MirrorPages,
    runs: impl Iterator<Item = Result<(PageNo, u32), Fault>>,
    whole: bool,
    batches: &SyncSender<Batch>,
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
            let mut batch = Batch { first, pages: vec![0; now as usize * size], hashes: Vec::new() };
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
