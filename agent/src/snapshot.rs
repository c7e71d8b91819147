//! One pull at the agent, from the puller's request to `Done`: which base, with or without a mirror, what is read.
//!
//! The hold is inside [`Hold::read_into`] and nowhere else; everything that waits for the puller or for a disk's fsync
//! comes before or after it.

use crate::call::{Inbound, Outbound};
use crate::chain::{Chain, MirrorState};
use crate::collector::{Collector, MirrorWriter, Outlet};
use crate::delta::DeltaWriter;
use crate::mirror::Mirror;
use crate::rebuild;
use crate::relay;
use crate::settings::Settings;
use crate::source::{Hold, Source};
use crate::spool::{MEMORY_SPOOL_MAX, Spool, Spooled};
use crate::transfer::{Taken, Theirs, Transfer};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash};
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::wire::{Base, Event, Offer, SourceFacts, Start};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;
use std::time::Duration;

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
    let known = |base: &Base| {
        let knows = |id| mirror.as_ref().is_some_and(|mirror| mirror.knows(id, base.geometry));
        base.snapshot.filter(|id| knows(*id))
    };
    let base = match start.base.map(|base| (base, known(&base))) {
        None => Have::Nothing,
        Some((base, Some(snapshot))) => Have::Snapshot(base.geometry, snapshot),
        Some((base, None)) => {
            // A puller may take its time with its hashes; meanwhile the mirror is for others.
            drop(mirror);
            let hashes = receive_hashes(settings, base, inbound, outbound)?;
            (mirror, no_mirror_because) = open_mirror(settings, &source);
            Have::Hashes(base.geometry, hashes)
        }
    };
    let transfer = Transfer { outbound, dry_run: start.dry_run, compression: settings.compression };
    let pull = Pull { settings, source: &source, transfer };
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
    /// A snapshot that the mirror knows.
    Snapshot(Geometry, SnapshotId),
    /// Something the agent has only the page hashes of.
    Hashes(Geometry, HashList<File>),
}

impl Have {
    /// The same base for when `mirror` is discarded, or will not know it any more: by its hashes.
    fn by_hashes(self, mirror: &Mirror, temp_dir: &Path) -> Result<Self, Fault> {
        let Self::Snapshot(geometry, snapshot) = self else { return Ok(self) };
        let list = match mirror.view(snapshot)? {
            Some(view) => view.into_hash_list(temp_dir)?,
            None => None,
        };
        Ok(Self::Hashes(geometry, list.ok_or_else(gone)?))
    }

    /// Why every page must be sent of a snapshot of `geometry`, if so.
    fn full_because(&self, geometry: Geometry) -> Option<String> {
        match self {
            Self::Snapshot(of, _) | Self::Hashes(of, _) if of.page_size == geometry.page_size => None,
            Self::Snapshot(..) | Self::Hashes(..) => Some("the page size changed".to_owned()),
            Self::Nothing => Some("the puller has no earlier copy to build upon".to_owned()),
        }
    }

    /// What of `taken`, a snapshot in `mirror`, need not be sent.
    fn theirs(self, mirror: &Mirror, taken: &Taken) -> Result<Theirs, Fault> {
        Ok(match self {
            _ if taken.full_because.is_some() => Theirs::Nothing,
            Self::Nothing => Theirs::Nothing,
            Self::Hashes(_, list) => Theirs::Hashes(list),
            Self::Snapshot(_, snapshot) => match mirror.view(snapshot)? {
                Some(view) => Theirs::Snapshot(Box::new(view)),
                None => return Err(gone()),
            },
        })
    }
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
        settings.room().check(bytes)?;
    }
    let mut list = BufWriter::new(file);
    inbound.hashes(base.geometry, &mut list)?;
    list.flush().map_err(io)?;
    let mut file = list.into_inner().map_err(|error| io(error.into_error()))?;
    file.rewind().map_err(io)?;
    Ok(HashList::new(file, base.geometry.page_count))
}

/// Lists of page hashes up to this many bytes are taken even where there is no room for more state.
const HASHES_UNCHECKED_MAX: u64 = 16 * 1024 * 1024;

struct Pull<'a> {
    settings: &'a Settings,
    source: &'a Source,
    transfer: Transfer<'a>,
}

/// A pull that cannot be done with the mirror, which is discarded: what to build upon without it, and why.
struct Instead {
    base: Have,
    why: String,
}

/// What a hold yields besides the pages.
struct Held {
    geometry: Geometry,
    facts: SourceFacts,
    time: Duration,
}

impl Held {
    fn named(self, collector: &mut Collector, full_because: Option<String>) -> Result<Taken, Fault> {
        Ok(Taken {
            snapshot: collector.snapshot_id()?,
            geometry: self.geometry,
            facts: self.facts,
            held: self.time,
            full_because,
            no_mirror_because: None,
        })
    }
}

impl Pull<'_> {
    /// A pull with the mirror, or how to do it without; then nothing was sent.
    fn with_mirror(&self, mut mirror: Mirror, base: Have) -> Result<Option<Instead>, Fault> {
        mirror.make_room(&self.settings.room());
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
                let base = base.by_hashes(&mirror, &self.settings.temp_dir())?;
                mirror.discard_checked()?;
                self.first(mirror, self.source.hold(self.settings.hold)?, base)
            }
        }
    }

    /// The first snapshot goes straight into a new mirror.
    fn first(&self, mut mirror: Mirror, hold: Hold<'_>, base: Have) -> Result<Option<Instead>, Fault> {
        let geometry = hold.geometry();
        let bytes = geometry.bytes() + u64::from(geometry.page_count) * PageHash::LEN as u64;
        let begun = self.settings.room().check(bytes).and_then(|()| mirror.begin());
        let read = begun.and_then(|(pages, hashes)| {
            let writer = MirrorWriter::new(pages, hashes, geometry).within(self.settings.room());
            self.read(hold, None, Outlet::Mirror(writer))
        });
        let (held, mut collector) = match read {
            Ok(read) => read,
            Err(fault) => {
                mirror.discard_checked()?;
                return match fault.kind {
                    Kind::NoSpace => Ok(Some(Instead { base, why: fault.message })),
                    _ => Err(fault),
                };
            }
        };
        let taken = held.named(&mut collector, base.full_because(geometry))?;
        drop(collector);
        mirror.adopt(MirrorState { snapshot: taken.snapshot, geometry });
        let view = mirror.view(taken.snapshot)?.ok_or_else(gone)?;
        let theirs = base.theirs(&mirror, &taken)?;
        std::thread::scope(|scope| {
            // The next refresh waits for this, and not for the transfer.
            let settling = scope.spawn(move || settle(mirror));
            let sent = self.transfer.from_view(view, &taken, theirs);
            settling.join().unwrap_or_else(|_| Err(panicked("making the mirror durable"))).and(sent)
        })?;
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
        let spool = Spool::in_file(self.settings.room(), mirror.delta());
        let delta = DeltaWriter::new(mirror.pages()?, self.settings.compression, spool)?;
        let outlet = Outlet::Delta(Box::new(delta));
        let (held, mut collector) = self.read(hold, Some(mirror.hashes()?), outlet)?;
        let taken = held.named(&mut collector, base.full_because(geometry))?;
        let spool = collector.into_spool();
        let temp_dir = self.settings.temp_dir();
        let grown = geometry.bytes().saturating_sub(state.geometry.bytes());
        if spool.is_full() || self.settings.room().left() < grown {
            let why = "its refresh needs more room than `reserve` and `max_state` leave".to_owned();
            drop(spool);
            let base = base.by_hashes(&mirror, &temp_dir)?;
            mirror.discard_checked()?;
            return Ok(Some(Instead { base, why }));
        }
        let delta = spool.finish()?;
        let next = MirrorState { snapshot: taken.snapshot, geometry };
        let room = self.settings.room();
        if matches!(base, Have::Snapshot(_, snapshot) if snapshot == state.snapshot) {
            let delta = self.rebuilt(delta, &mirror, geometry)?;
            // The frames are read from a file that stays readable when the fold takes its name away.
            std::thread::scope(|scope| {
                // The next refresh waits for this, and not for the transfer.
                let folded = scope.spawn(move || match state == next {
                    true => Ok(()),
                    false => {
                        let chain = mirror.keep(next, &room);
                        fold(&mut mirror, chain).map(|_| ())
                    }
                });
                let sent = self.transfer.spooled(&taken, delta, 0);
                folded.join().unwrap_or_else(|_| Err(panicked("folding the mirror"))).and(sent)
            })?;
            return Ok(None);
        }
        drop(delta);
        let mut base = base;
        if state != next {
            let chain = mirror.keep(next, &room);
            if matches!(base, Have::Snapshot(_, snapshot) if chain.find(snapshot).is_none()) {
                base = base.by_hashes(&mirror, &temp_dir)?;
            }
            if let Some(why) = fold(&mut mirror, chain)? {
                // What the mirror knew is lost with it: the puller names its base once more.
                return match base {
                    Have::Snapshot(..) => Err(gone()),
                    base => Ok(Some(Instead { base, why })),
                };
            }
        }
        let view = mirror.view(taken.snapshot)?.ok_or_else(gone)?;
        let theirs = base.theirs(&mirror, &taken)?;
        // The next refresh need not wait for the transfer.
        drop(mirror);
        self.transfer.from_view(view, &taken, theirs).map(|()| None)
    }

    /// `delta` as it is sent: with pages rebuilt from others where that is worth it. In a second file, as far as there is room;
    /// the mirror is the base no longer once the fold begins.
    fn rebuilt(&self, mut delta: Spooled, mirror: &Mirror, geometry: Geometry) -> Result<Spooled, Fault> {
        let old = mirror.pages()?;
        if self.transfer.dry_run || !rebuild::is_worth(&delta, old.geometry(), self.transfer.compression) {
            return Ok(delta);
        }
        let temp_dir = self.settings.temp_dir();
        let spool = Spool::in_file(self.settings.room(), move || tempfile::tempfile_in(temp_dir));
        match rebuild::rebuild(&mut delta, old, geometry, spool) {
            Ok(rebuilt) => Ok(rebuilt.unwrap_or(delta)),
            Err(fault) => {
                tracing::warn!(why = %fault, "pages are sent whole");
                Ok(delta)
            }
        }
    }

    /// A pull without a mirror: changed pages are spooled in the hold and then sent, or, behind the local door, go straight
    /// into the puller's draft.
    fn without_mirror(&self, base: Have, no_mirror_because: Option<String>) -> Result<(), Fault> {
        let hold = self.source.hold(self.settings.hold)?;
        let geometry = hold.geometry();
        let full_because = base.full_because(geometry);
        let known = match base {
            Have::Hashes(of, list) if of.page_size == geometry.page_size => Some(list),
            _ => None,
        };
        if self.settings.state_dir.is_none() && !self.transfer.dry_run {
            return self.direct(hold, known, full_because);
        }
        let room = self.settings.room();
        let spool = match room.left() > MEMORY_SPOOL_MAX {
            true => {
                let dir = self.settings.temp_dir();
                Spool::in_file(room, move || tempfile::tempfile_in(dir))
            }
            false => Spool::in_memory(),
        };
        let outlet = match self.transfer.dry_run {
            true => Outlet::Nowhere,
            false => Outlet::Spool(self.transfer.builder(geometry)?, spool),
        };
        let (held, mut collector) = self.read(hold, known, outlet)?;
        let taken = Taken { no_mirror_because, ..held.named(&mut collector, full_because)? };
        let pages_new = collector.pages_new;
        if self.transfer.dry_run {
            self.transfer.offer(&taken, pages_new, 0)?;
            return self.transfer.done(&taken, None, 0);
        }
        let spooled = collector.into_spool().finish()?;
        let missing = pages_new - spooled.pages;
        self.transfer.spooled(&taken, spooled, missing)
    }

    /// Pages go to the puller in this process while they are read; what they are called is known at the end.
    fn direct(
        &self,
        hold: Hold<'_>,
        known: Option<HashList<File>>,
        full_because: Option<String>,
    ) -> Result<(), Fault> {
        let geometry = hold.geometry();
        self.transfer.outbound.send(Event::Offer(Box::new(Offer {
            snapshot: None,
            geometry,
            full_because: full_because.clone(),
            pages: 0,
            bytes: 0,
            source: hold.facts().clone(),
            no_mirror_because: None,
        })))?;
        let outlet = Outlet::Direct(self.transfer.builder(geometry)?);
        let (held, mut collector) = self.read(hold, known, outlet)?;
        let taken = held.named(&mut collector, full_because)?;
        self.transfer.done(&taken, None, 0)
    }

    /// The hold: reads the source through a collector.
    fn read(
        &self,
        hold: Hold<'_>,
        known: Option<HashList<File>>,
        outlet: Outlet,
    ) -> Result<(Held, Collector), Fault> {
        let (geometry, facts) = (hold.geometry(), hold.facts().clone());
        let outbound = Some(self.transfer.outbound.clone());
        let collector = Collector::new(geometry, known, outlet, outbound, &self.settings.temp_dir());
        let (sink, collecting) = relay::start(collector, geometry)?;
        let time = hold.read_into(sink)?;
        let mut collector = collecting.finish()?;
        collector.finish()?;
        Ok((Held { geometry, facts, time }, collector))
    }
}

/// Makes a new mirror durable. A disk that does not keep it costs the mirror, not the pull.
fn settle(mut mirror: Mirror) -> Result<(), Fault> {
    let Err(fault) = mirror.settle() else { return Ok(()) };
    tracing::warn!(why = %fault, "the mirror is discarded");
    mirror.discard_checked()
}

/// Folds the delta into the mirror. A fold that fails costs the mirror, not the pull: then the sentence why is given.
fn fold(mirror: &mut Mirror, next: Chain) -> Result<Option<String>, Fault> {
    let Err(fault) = mirror.fold(next) else { return Ok(None) };
    tracing::warn!(why = %fault, "the mirror is discarded");
    mirror.discard_checked()?;
    Ok(Some(fault.message))
}

fn gone() -> Fault {
    Fault::new(Kind::Unproven, "the agent's mirror lost the snapshot that it was to build upon")
        .hint("pull again")
}

fn panicked(what: &str) -> Fault {
    Fault::new(Kind::Internal, format!("{what} panicked"))
}
