//! One pull at the puller: from an address to a proven copy in the store, or a fault and nothing changed.

use crate::client::Client;
use crate::content::{self, Content, Unreadable};
use crate::draft::Draft;
use crate::judge::{self, Look, Verify};
use crate::manifest::{Level, Manifest, Transfer};
use crate::packing::{self, PACKED_PER_PULL_MAX, Pack};
use crate::policy::Rules;
use crate::proof;
use crate::rotation::{self, Facts, Removed};
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use crate::unpacked::Unpacked;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame;
use pullback_shared::page::Geometry;
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::text::{printable, to_hex};
use pullback_shared::verdict::Verdict;
use pullback_shared::wire::{Base, Done, Event, Offer, SourceFacts, Start};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Proofs that may fail in one run: the second failure leads to a full transfer, a third ends the run.
const PROOFS_MAX: u32 = 3;

/// Rounds of a pull from a device without room that may pass without getting closer to the end.
const ROUNDS_WITHOUT_PROGRESS_MAX: u32 = 8;

/// Rounds of one run, with progress or not.
const ROUNDS_MAX: u32 = 10_000;

/// Words about the progress of the hold in one round; an agent says some thirty.
pub const READINGS_MAX: u32 = 1000;

const WITHOUT_MIRROR: &str = "the agent worked without its mirror";

/// How a run is to pull.
#[derive(Clone, Debug)]
pub struct Options {
    /// How closely to look at the copy.
    pub verify: Verify,
    /// Build upon nothing.
    pub full: bool,
    /// What to keep afterwards; `None`: do not rotate.
    pub rules: Option<Rules>,
    /// How older copies are kept; `None`: as they are.
    pub pack: Option<Pack>,
    /// Tables that must be there, with their fewest rows.
    pub expect: BTreeMap<String, u64>,
    /// The database's path at the agent, where what was typed may lead to another one.
    pub path: Option<String>,
    /// Whether the copy is the safety copy of a restore.
    pub is_safety: bool,
    /// What an older copy, made by hand, says of itself; `None`: the source is read as it is now.
    pub imported: Option<Imported>,
}

/// An older copy of the source, made by hand, that is pulled in its place.
#[derive(Clone, Debug)]
pub struct Imported {
    /// When it was made.
    pub taken_at: Timestamp,
    /// Its file.
    pub path: String,
    /// The permission bits of that.
    pub mode: u32,
}

/// What a run tells while it goes on.
pub trait Watch: Sync {
    /// The agent read so many pages of the source, of so many.
    fn reading(&self, pages: u32, of: u32);
    /// So many bytes of pages arrived, of so many (0: not known before).
    fn receiving(&self, bytes: u64, of: u64);
    /// So many bytes of the copy were read back, of so many.
    fn proving(&self, bytes: u64, of: u64);
    /// So many bytes of pages were sent to be restored, of so many.
    fn sending(&self, _bytes: u64, _of: u64) {}
    /// So many pages were put in place, of so many.
    fn writing(&self, _pages: u32, _of: u32) {}
}

/// What a run that did not fail did.
#[derive(Debug)]
pub struct Pulled {
    /// Whether a copy was stored; else the source is as it was in the newest one.
    pub stored: bool,
    /// The copy stored, or the one the source is still equal to.
    pub manifest: Manifest,
    /// The level of the check in this run.
    pub checked: Level,
    /// Why the copy is suspect, if it is, and what SQLite found.
    pub findings: Vec<String>,
    /// `full`, `delta` or `none`.
    pub transfer: &'static str,
    /// Pages received.
    pub changed_pages: u64,
    /// How long the source was held, all rounds together.
    pub held: Duration,
    /// What the user should know besides.
    pub notes: Vec<String>,
    /// Copies that were removed.
    pub removed: Vec<String>,
    /// Bytes over the connection.
    pub bytes_received: u64,
    /// Bytes over the connection.
    pub bytes_sent: u64,
}

/// What the transfer part of a run yields.
enum Arrived {
    Unchanged(Box<StoredCopy>),
    Draft {
        draft: Box<Draft>,
        offer: Box<Offer>,
        done: Done,
        base: Option<SnapshotId>,
        md5: Option<[u8; 16]>,
        look: Box<Look>,
    },
}

/// What is done with the agent; the rest is done here.
struct Received {
    arrived: Arrived,
    sums: Sums,
    /// Bytes received and sent.
    counts: (u64, u64),
}

/// A run of `puller pull` on one source that the store has a folder for, whose lock is held.
pub struct Run<'a> {
    /// Its folder.
    pub source: &'a mut SourceDir,
    /// The lock on it.
    pub lock: &'a Lock,
    /// How.
    pub options: &'a Options,
    /// When it began.
    pub now: Timestamp,
    /// Whom to tell.
    pub watch: &'a dyn Watch,
}

/// Sums over all rounds of a run.
#[derive(Default)]
struct Sums {
    pages: u64,
    held: Duration,
    full_because: Option<String>,
    notes: Vec<String>,
}

/// The newest copy in `source` that a pull may build upon.
pub fn newest_base(source: &SourceDir) -> Result<Option<StoredCopy>, Fault> {
    Ok(source.copies()?.into_iter().rfind(|copy| can_be_base(source, copy)))
}

impl Run<'_> {
    /// Pulls from the agent that `client` leads to, which is let go as soon as it is not needed any more.
    pub fn pull(&mut self, mut client: Client) -> Result<Pulled, Fault> {
        let received = self.receive(&mut client, (0, 0));
        drop(client);
        self.end(received)
    }

    /// As [`Self::pull`], over a connection that others go on with.
    pub fn pull_over(&mut self, client: &mut Client) -> Result<Pulled, Fault> {
        let before = (client.bytes_received(), client.bytes_sent());
        let received = self.receive(client, before);
        self.end(received)
    }

    fn end(&mut self, received: Result<Received, Fault>) -> Result<Pulled, Fault> {
        let pulled = received.and_then(|received| self.keep(received));
        // What was received would keep a full disk full, for everybody on it.
        if pulled.as_ref().is_err_and(|fault| fault.kind == Kind::NoSpace)
            && let Err(fault) = self.source.clear_drafts(false, self.lock)
        {
            tracing::debug!(%fault, "a draft is left for the next run to clear");
        }
        pulled
    }

    /// `before`: bytes over the connection, both ways, that are not this pull's.
    fn receive(&mut self, client: &mut Client, before: (u64, u64)) -> Result<Received, Fault> {
        let draft = if self.options.full { None } else { Draft::resume(self.source) };
        self.source.clear_drafts(draft.is_some(), self.lock)?;
        let mut sums = Sums { notes: client.notes().to_vec(), ..Sums::default() };
        if draft.is_some() {
            sums.notes.push("went on from what an earlier run had received".to_owned());
        }
        let arrived = self.transfer(client, draft, &mut sums)?;
        let counts = (client.bytes_received() - before.0, client.bytes_sent() - before.1);
        Ok(Received { arrived, sums, counts })
    }

    fn keep(&mut self, Received { arrived, sums, counts }: Received) -> Result<Pulled, Fault> {
        let mut pulled = match arrived {
            Arrived::Unchanged(copy) => self.unchanged(*copy, sums)?,
            Arrived::Draft { draft, offer, done, base, md5, look } => {
                self.store(*draft, *offer, done, base, md5, *look, sums, counts)?
            }
        };
        (pulled.bytes_received, pulled.bytes_sent) = counts;
        pulled.notes.extend(packing::settle(self.source, self.lock)?);
        if pulled.manifest.verdict == Verdict::Damaged && pulled.checked == Level::Full {
            let damaged = judge::reprove(self.source, pulled.manifest.sequence, self.now, self.lock)?;
            if !damaged.is_empty() {
                pulled
                    .notes
                    .push(format!("earlier copies turned out to be damaged as well: {}", damaged.join(", ")));
                pulled.notes.extend(packing::settle(self.source, self.lock)?);
            }
        }
        // A size counts copies as they are kept, not as they came.
        let packs_first =
            self.options.rules.as_ref().is_some_and(|rules| rules.policy.max_total_size.is_some());
        if packs_first {
            pulled.notes.extend(self.pack(&pulled.manifest.copy)?);
        }
        let removed = self.rotate(pulled.manifest.verdict)?;
        pulled.removed = removed.ids;
        pulled.notes.extend(removed.kept);
        if !packs_first {
            pulled.notes.extend(self.pack(&pulled.manifest.copy)?);
        }
        Ok(pulled)
    }

    /// Brings a proven draft, in as many rounds and tries as it takes.
    fn transfer(
        &mut self,
        client: &mut Client,
        mut draft: Option<Draft>,
        sums: &mut Sums,
    ) -> Result<Arrived, Fault> {
        let mut base = if self.options.full { None } else { newest_base(self.source)? };
        let (mut proofs_failed, mut rounds_without_progress, mut fewest_missing) = (0, 0, u32::MAX);
        for _ in 0..ROUNDS_MAX {
            let round = self.round(client, base.as_ref(), draft.take(), sums);
            let (now_draft, offer, done) = match round {
                Ok(round) => round,
                // The agent found its mirror rotten and discarded it, or what it sent does not fit the base: if that has
                // rotted here, another one is built upon, and after two failures none.
                Err(fault) if fault.kind == Kind::Unproven && proofs_failed + 1 < PROOFS_MAX => {
                    sums.notes.push(fault.message);
                    proofs_failed += 1;
                    if let Some(copy) = base.take_if(|_| proofs_failed > 1) {
                        sums.full_because = Some(format!("two tries to build upon {} failed", copy.id));
                    }
                    base = self.whole_base(base, sums)?;
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            if done.pages_missing > 0 {
                rounds_without_progress =
                    if done.pages_missing < fewest_missing { 0 } else { rounds_without_progress + 1 };
                fewest_missing = fewest_missing.min(done.pages_missing);
                if rounds_without_progress > ROUNDS_WITHOUT_PROGRESS_MAX {
                    return Err(Fault::new(
                        Kind::NoSpace,
                        "the agent cannot keep what it sends until it is sent: its device has too little room, and pages change faster than they travel",
                    )
                    .hint("free some room on the device, or lower `reserve` or raise `max_state` in its agent's configuration"));
                }
                draft = now_draft;
                continue;
            }
            let Some(mut now_draft) = now_draft else {
                // No page came and the shape is the same: the source is what the base is, if the names agree.
                match &base {
                    Some(copy) if is_snapshot(copy, done.snapshot) => {
                        let copy = copy.clone();
                        if self.still_whole(&copy, sums)? {
                            return Ok(Arrived::Unchanged(Box::new(copy)));
                        }
                        base = self.whole_base(Some(copy), sums)?;
                        continue;
                    }
                    Some(copy) if proofs_failed + 1 < PROOFS_MAX => {
                        sums.notes.push(format!("copy {} and its list of page hashes do not agree", copy.id));
                        sums.full_because = Some(format!("{} cannot be built upon", copy.id));
                        proofs_failed += 1;
                        base = None;
                        continue;
                    }
                    _ => {
                        return Err(Fault::new(
                            Kind::Protocol,
                            "the agent sent no page and named another snapshot",
                        ));
                    }
                }
            };
            let (mut proof, mut look) = self.prove(&mut now_draft, done)?;
            if let Some(no) = proof.first_wrong.filter(|_| proof.snapshot == done.snapshot) {
                // The pages are the snapshot's; their list, which came with the base, is not.
                sums.notes.push(format!("the base's list of page hashes has rotted at page {}", no.get()));
                now_draft.rehash()?;
                (proof, look) = self.prove(&mut now_draft, done)?;
            }
            let is_proven = proof.snapshot == done.snapshot && proof.first_wrong.is_none();
            if is_proven && done.md5.is_none_or(|md5| proof.md5 == Some(md5)) {
                let base = base.as_ref().and_then(|copy| copy.manifest.as_ref().ok()?.snapshot_id());
                return Ok(Arrived::Draft {
                    draft: Box::new(now_draft),
                    offer: Box::new(offer),
                    done,
                    base,
                    md5: proof.md5,
                    look: Box::new(look?),
                });
            }
            proofs_failed += 1;
            sums.notes.push(format!(
                "proof {proofs_failed} failed: what was read back is not {}",
                done.snapshot.short()
            ));
            match proofs_failed {
                1 => {
                    now_draft.rehash()?;
                    draft = Some(now_draft);
                }
                2 => {
                    now_draft.discard();
                    base = None;
                    sums.full_because = Some("two proofs failed".to_owned());
                }
                _ => {
                    now_draft.discard();
                    return Err(Fault::new(Kind::Unproven, format!("{PROOFS_MAX} proofs failed in a row: this disk does not give back what is written to it"))
                        .hint("look at the system's log; no copy was touched"));
                }
            }
        }
        Err(Fault::new(Kind::Protocol, format!("the agent did not come to an end in {ROUNDS_MAX} rounds")))
    }

    /// `base`, or, where that has rotted on this disk, the newest copy that has not been found to have.
    fn whole_base(&self, base: Option<StoredCopy>, sums: &mut Sums) -> Result<Option<StoredCopy>, Fault> {
        let Some(copy) = base else { return Ok(None) };
        if self.still_whole(&copy, sums)? {
            return Ok(Some(copy));
        }
        sums.notes.push(format!("copy {} has rotted on this disk", copy.id));
        newest_base(self.source)
    }

    /// One call: what leads from the base, or from the draft of an earlier round, to the newest snapshot. No draft comes back
    /// if no page came and none had to go.
    fn round(
        &self,
        client: &mut Client,
        base: Option<&StoredCopy>,
        mut draft: Option<Draft>,
        sums: &mut Sums,
    ) -> Result<(Option<Draft>, Offer, Done), Fault> {
        let mut content = base.map(|copy| open_base(self.source, copy)).transpose()?;
        let (base_said, hashes) = match (&mut draft, base.zip(content.as_ref())) {
            (Some(draft), _) => (Some(draft.as_base()), Some(draft.hashes_file()?)),
            (None, Some((copy, content))) => {
                let (geometry, snapshot) = shape(copy)?;
                (Some(Base { geometry, snapshot: Some(snapshot) }), Some(hashes_of(copy, content)?))
            }
            (None, None) => (None, None),
        };
        // Patches refer to a stored copy with a name; to a draft or to nothing, pages come as they are.
        let refers = base_said.is_some_and(|base| base.snapshot.is_some());
        let start = Start { database: client.database().to_owned(), base: base_said, dry_run: false };
        let mut events = client.pull(&start, hashes)?;
        let mut offer: Option<Offer> = None;
        let (mut pages, mut readings) = (0u64, 0);
        loop {
            match events.next_event()? {
                Event::NeedHashes => {
                    return Err(Fault::new(Kind::Internal, "a request for hashes that nobody answered"));
                }
                Event::Reading { .. } if readings == READINGS_MAX => {
                    return Err(Fault::new(Kind::Protocol, "the agent reads and reads"));
                }
                Event::Reading { pages_read, page_count } => {
                    readings += 1;
                    self.watch.reading(pages_read, page_count);
                }
                Event::Offer(_) if offer.is_some() => {
                    return Err(Fault::new(Kind::Protocol, "the agent made two offers"));
                }
                Event::Offer(offered) => {
                    self.check_path(&offered)?;
                    draft = self.prepare(draft, base.zip(content.as_ref()), &offered)?;
                    if let Some(why) = &offered.no_mirror_because {
                        // Once, however many rounds there are, and whatever it says in each.
                        if !sums.notes.iter().any(|note| note.starts_with(WITHOUT_MIRROR)) {
                            sums.notes.push(format!("{WITHOUT_MIRROR}: {why}"));
                        }
                    }
                    if sums.full_because.is_none() {
                        sums.full_because = offered.full_because.clone();
                    }
                    offer = Some(*offered);
                }
                Event::Frame(frame) => {
                    let Some(offer) = &offer else {
                        return Err(Fault::new(Kind::Protocol, "pages before an offer"));
                    };
                    pages += frame.page_count();
                    sums.pages += frame.page_count();
                    if pages > u64::from(offer.geometry.page_count) {
                        return Err(Fault::new(
                            Kind::Protocol,
                            "the agent sent more pages than the database has",
                        ));
                    }
                    let delta = offer.full_because.is_none();
                    let draft = match &mut draft {
                        Some(draft) => draft,
                        None => {
                            let base = content.as_ref().filter(|_| delta);
                            draft.insert(Draft::create(self.source, offer.geometry, base)?)
                        }
                    };
                    match content.as_mut().filter(|_| refers) {
                        Some(base) => draft.apply(&frame, base)?,
                        None => draft.apply(&frame, &mut frame::NoBase)?,
                    }
                    let size = u64::from(offer.geometry.page_size.get());
                    let of = if offer.pages > 0 {
                        u64::from(offer.pages)
                    } else {
                        u64::from(offer.geometry.page_count)
                    };
                    self.watch.receiving(pages * size, if delta && offer.pages == 0 { 0 } else { of * size });
                }
                Event::Done(done) => {
                    let offer = offer.ok_or_else(|| Fault::new(Kind::Protocol, "an end before an offer"))?;
                    if offer.snapshot.is_some_and(|offered| offered != done.snapshot) {
                        return Err(Fault::new(
                            Kind::Protocol,
                            "the agent offered one snapshot and ended with another",
                        ));
                    }
                    // Each round is to come closer to the end: that bounds their number.
                    if done.pages_missing > offer.geometry.page_count {
                        return Err(Fault::new(
                            Kind::Protocol,
                            "more pages are missing than the database has",
                        ));
                    }
                    sums.held += Duration::from_micros(done.held_micros);
                    return Ok((draft, offer, done));
                }
            }
        }
    }

    /// Copies of two databases are never mixed, whatever a link at the far end leads to by now.
    fn check_path(&self, offer: &Offer) -> Result<(), Fault> {
        let Some(path) = self.options.path.as_ref().filter(|path| **path != offer.source.path) else {
            return Ok(());
        };
        let (name, path, now) =
            (self.source.shown(), printable(path, 300), printable(&offer.source.path, 300));
        Err(Fault::new(
            Kind::Usage,
            format!("`{name}` is `{path}` at the far end, and what was typed leads to `{now}` now"),
        )
        .hint(format!(
            "if its database moved: `puller sources adopt {name} HOST:{now}`; else give that one another name"
        )))
    }

    /// The draft that the frames of `offer` go to; `None` while it may turn out that nothing changed.
    fn prepare(
        &self,
        draft: Option<Draft>,
        base: Option<(&StoredCopy, &Content)>,
        offer: &Offer,
    ) -> Result<Option<Draft>, Fault> {
        let delta = offer.full_because.is_none();
        match (draft, base) {
            (Some(mut draft), _) if delta => {
                if draft.geometry().page_size != offer.geometry.page_size {
                    return Err(two_page_sizes());
                }
                draft.resize(offer.geometry)?;
                Ok(Some(draft))
            }
            (None, Some((copy, content))) if delta => {
                let (geometry, snapshot) = shape(copy)?;
                if geometry.page_size != offer.geometry.page_size {
                    return Err(two_page_sizes());
                }
                // Where the offer has no name yet, only the shape can tell.
                let same =
                    offer.snapshot.is_none_or(|offered| offered == snapshot) && geometry == offer.geometry;
                match same {
                    true => Ok(None),
                    false => Draft::create(self.source, offer.geometry, Some(content)).map(Some),
                }
            }
            (None, None) if delta => Err(Fault::new(Kind::Protocol, "the agent offered a delta to nothing")),
            (draft, _) => {
                if let Some(draft) = draft {
                    draft.discard();
                }
                let mut draft = Draft::create(self.source, offer.geometry, None)?;
                // Behind the local door the source is held until the last page is written: nothing is to slow that down.
                if offer.snapshot.is_some() {
                    draft.sum_on_arrival()?;
                }
                Ok(Some(draft))
            }
        }
    }

    /// Makes `draft` durable, reads it back and lets SQLite look at it, all at once. What SQLite says counts only if what was
    /// read back is the snapshot.
    fn prove(&self, draft: &mut Draft, done: Done) -> Result<(proof::ReadBack, Result<Look, Fault>), Fault> {
        let (geometry, of, now) = (draft.geometry(), draft.geometry().bytes(), self.now);
        let level = judge::level(self.options.verify, of, &self.source.copies()?, now);
        let hashes = draft.hashes_file()?;
        let arrived = draft.arrived_sum();
        let (path, sync) = (draft.path(), draft.sync()?);
        // Beside SQLite's full check, which takes longer, the MD5 costs no time; else it would be the dearest step of a delta.
        let want_md5 = arrived.is_none() && (done.md5.is_some() || level == Level::Full);
        std::thread::scope(|scope| {
            let looking = scope.spawn(move || judge::look(path, geometry, level, now));
            let syncing = scope.spawn(sync);
            let read =
                proof::read_back(path, geometry, hashes, want_md5, &|bytes| self.watch.proving(bytes, of));
            let panicked = |what: &str| Fault::new(Kind::Internal, format!("{what} the draft panicked"));
            let look = looking.join().unwrap_or_else(|_| Err(panicked("SQLite's look at")));
            let synced = syncing.join().map_err(|_| panicked("the fsync of"))?;
            synced.map_err(|error| draft.io(&error))?;
            let read = read.map_err(|error| Fault::io("the draft cannot be read back", &error))?;
            Ok((proof::ReadBack { md5: read.md5.or(arrived), ..read }, look))
        })
    }

    /// Reads `copy` against its hashes; one that rotted is set aside.
    fn still_whole(&self, copy: &StoredCopy, sums: &mut Sums) -> Result<bool, Fault> {
        match crate::verify::read(self.source, copy, false, &|bytes| self.watch.proving(bytes, 0))? {
            Ok(_) => Ok(true),
            Err(why) => {
                tracing::warn!(copy = %copy.id, why, "a copy has rotted");
                let found = crate::rot::found(self.source, copy, &why, self.now, self.lock)?;
                sums.notes.extend(found.detail);
                Ok(found.is_mended)
            }
        }
    }

    /// The source is what the newest copy is; the check that is due is run on that.
    fn unchanged(&mut self, copy: StoredCopy, sums: Sums) -> Result<Pulled, Fault> {
        let copies = self.source.copies()?;
        let mut manifest = copy.manifest.clone().map_err(|why| Fault::new(Kind::Rotten, why))?;
        let geometry =
            manifest.geometry().ok_or_else(|| Fault::new(Kind::Rotten, "a manifest that makes no sense"))?;
        let level = judge::level(self.options.verify, manifest.bytes, &copies, self.now);
        let known = manifest.check(level).filter(|check| check.result == Verdict::Ok);
        let findings = if level == Level::Hash || known.is_some() {
            Vec::new()
        } else {
            let look = judge::look(Unpacked::of(self.source, &copy)?.path(), geometry, level, self.now)?;
            let findings = look.check.findings.clone();
            manifest.contents = look.contents;
            manifest.record(look.check);
            findings
        };
        let good = newest_good_before(&copies, manifest.sequence);
        if level > Level::Hash {
            manifest.unmet = self.unmet(Unpacked::of(self.source, &copy)?.path());
        }
        let (verdict, why) = judge::verdict(&manifest, good);
        manifest.verdict = verdict;
        manifest.safety &= self.options.is_safety;
        let is_news = copies.iter().all(|copy| copy.manifest.as_ref() != Ok(&manifest));
        manifest.proven(self.now, self.source.next_proof()?);
        match self.source.write_manifest(&manifest, self.lock) {
            // A full disk is no reason to say that nothing is backed up: only when it was last proven is not written down.
            Err(fault) if !is_news && fault.kind == Kind::NoSpace => {
                tracing::warn!(%fault, "the proof of a copy is not written down");
            }
            written => written?,
        }
        Ok(Pulled {
            stored: false,
            checked: level,
            findings: why.into_iter().chain(findings).collect(),
            transfer: "none",
            changed_pages: 0,
            held: sums.held,
            notes: sums.notes,
            removed: Vec::new(),
            bytes_received: 0,
            bytes_sent: 0,
            manifest,
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one arrival, used up here")]
    fn store(
        &mut self,
        draft: Draft,
        offer: Offer,
        done: Done,
        base: Option<SnapshotId>,
        md5: Option<[u8; 16]>,
        look: Look,
        sums: Sums,
        counts: (u64, u64),
    ) -> Result<Pulled, Fault> {
        let copies = self.source.copies()?;
        let geometry = draft.geometry();
        let level = look.check.level;
        let findings = look.check.findings.clone();
        let imported = self.options.imported.clone();
        let taken_at = imported.as_ref().map_or(self.now, |imported| imported.taken_at);
        let source = match imported {
            Some(Imported { path, mode, .. }) => SourceFacts { path, mode, ..offer.source },
            None => offer.source,
        };
        let (copy, sequence) = self.source.next_copy(taken_at)?;
        let kind = if sums.full_because.is_some() { "full" } else { "delta" };
        let good = newest_good_before(&copies, sequence);
        let unmet = if level > Level::Hash { self.unmet(draft.path()) } else { None };
        let mut manifest = Manifest {
            v: Manifest::VERSION,
            copy,
            sequence,
            snapshot: done.snapshot.to_string(),
            page_size: geometry.page_size.get(),
            page_count: geometry.page_count,
            bytes: geometry.bytes(),
            md5: md5.map(|md5| to_hex(&md5)),
            taken_at,
            proven_at: Some(self.now),
            proof: self.source.next_proof()?,
            source,
            transfer: Transfer {
                kind: kind.to_owned(),
                base: base.filter(|_| kind == "delta").map(|id| id.to_string()),
                full_because: sums.full_because,
                changed_pages: sums.pages,
                bytes_received: counts.0,
                bytes_sent: counts.1,
                held_seconds: sums.held.as_secs_f64(),
            },
            contents: look.contents,
            checks: vec![look.check],
            verdict: Verdict::Unchecked,
            accepted: false,
            pinned: false,
            safety: self.options.is_safety,
            unmet,
        };
        let (verdict, why) = judge::verdict(&manifest, good);
        manifest.verdict = verdict;
        draft.commit(self.source, &manifest, self.lock)?;
        Ok(Pulled {
            stored: true,
            checked: level,
            findings: why.into_iter().chain(findings).collect(),
            transfer: if kind == "full" { "full" } else { "delta" },
            changed_pages: sums.pages,
            held: sums.held,
            notes: sums.notes,
            removed: Vec::new(),
            bytes_received: 0,
            bytes_sent: 0,
            manifest,
        })
    }

    /// What is expected of the source and not in the file at `path`, which SQLite has looked at.
    fn unmet(&self, path: &Path) -> Option<String> {
        (!self.options.expect.is_empty()).then(|| proof::unmet(path, &self.options.expect)).flatten()
    }

    /// After a good copy: the policy. After a finding: only what keeps a sick source from filling the disk.
    fn rotate(&self, verdict: Verdict) -> Result<Removed, Fault> {
        let copies = Facts::of(self.source)?;
        let decisions = match (verdict, &self.options.rules) {
            (Verdict::Damaged | Verdict::Suspect, _) => rotation::plan_findings(&copies),
            (verdict, Some(rules)) if verdict.is_good() && !rules.policy.is_empty() => {
                rotation::plan(&copies, rules, self.now)
            }
            _ => return Ok(Removed::default()),
        };
        rotation::carry_out(self.source, &decisions, self.now, self.lock)
    }

    /// Older copies get the form that they are to be kept in. `newest` was read back whole in this run.
    fn pack(&self, newest: &str) -> Result<Vec<String>, Fault> {
        match self.options.pack {
            Some(pack) => packing::pack(self.source, pack, Some(newest), PACKED_PER_PULL_MAX, self.lock),
            None => Ok(Vec::new()),
        }
    }
}

/// Whether `copy` is exact and its files are there.
fn can_be_base(source: &SourceDir, copy: &StoredCopy) -> bool {
    let exact = copy
        .manifest
        .as_ref()
        .is_ok_and(|manifest| manifest.verdict.is_exact() && manifest.geometry().is_some());
    exact && content::find(source, &copy.id).is_some()
}

/// What `copy` holds, to build upon. A fault of the kind `Unproven` says that it is not what it was.
pub fn open_base(source: &SourceDir, copy: &StoredCopy) -> Result<Content, Fault> {
    Content::of(source, copy).map_err(|why| match why {
        Unreadable::Rotten(why) | Unreadable::Gone(why) => Fault::new(Kind::Unproven, why),
        Unreadable::Fault(fault) => fault,
    })
}

/// The page hashes of `copy`, which is open.
pub fn hashes_of(copy: &StoredCopy, content: &Content) -> Result<File, Fault> {
    content.hashes().map_err(|error| Fault::io(format!("the page hashes of {}", copy.id), &error))
}

/// The geometry of `copy` and its name.
pub fn shape(copy: &StoredCopy) -> Result<(Geometry, SnapshotId), Fault> {
    let manifest = copy.manifest.as_ref().ok();
    let shape = manifest.and_then(|manifest| Some((manifest.geometry()?, manifest.snapshot_id()?)));
    shape.ok_or_else(|| Fault::new(Kind::Rotten, format!("the manifest of {} makes no sense", copy.id)))
}

/// Whether `copy` is of `snapshot`.
pub fn is_snapshot(copy: &StoredCopy, snapshot: SnapshotId) -> bool {
    copy.manifest.as_ref().ok().and_then(Manifest::snapshot_id) == Some(snapshot)
}

fn two_page_sizes() -> Fault {
    Fault::new(Kind::Protocol, "the agent offered a delta between two page sizes")
}

/// The newest good copy older than `sequence`.
pub fn newest_good_before(copies: &[StoredCopy], sequence: u64) -> Option<&Manifest> {
    let older = copies.iter().rev().filter(|copy| copy.sequence < sequence && copy.is_good());
    older.filter_map(|copy| copy.manifest.as_ref().ok()).next()
}
