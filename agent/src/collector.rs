//! What happens to a page inside the hold: hashed, compared with what is known, put aside if it is new. Nothing waits.

use crate::call::Outbound;
use crate::delta::DeltaWriter;
use crate::room::Room;
use crate::spool::{ROOM_CHECK_EVERY, Spool};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Frame, FrameBuilder, FrameError};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::snapshot::{SnapshotHasher, SnapshotId};
use pullback_shared::wire::Event;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use tempfile::SpooledTempFile;

/// Bytes of new page hashes in memory; more go to an unnamed file.
pub const HASHES_IN_MEMORY_MAX: usize = 4 * 1024 * 1024;

/// Pages between two words to the puller about progress, at least.
const PROGRESS_EVERY: u32 = 4096;

/// Words about progress in one hold, at most: of a database that did not change they are most of what travels.
const PROGRESS_WORDS_MAX: u32 = 32;

/// Bytes of neighbouring pages that are written to a mirror at once. More is no faster anywhere, and slower where Linux takes
/// larger stretches of memory for its page cache then.
const RUN_BYTES: usize = 128 * 1024;

/// Where new pages go.
pub enum Outlet {
    /// Into the files of a mirror that begins: pages and hashes.
    Mirror(MirrorWriter),
    /// Into the frames of a delta to the mirror.
    Delta(Box<DeltaWriter>),
    /// Into frames of plain pages that are read after the hold.
    Spool(FrameBuilder, Spool),
    /// Straight to a puller in this process, which writes them to its draft.
    Direct(FrameBuilder),
    /// Nowhere: they are only counted.
    Nowhere,
}

/// Takes the pages of one hold.
pub struct Collector {
    geometry: Geometry,
    /// The hashes that pages are compared with, if there are any.
    known: Option<HashList<File>>,
    /// The hashes that differ from the known ones; the others are absent in it.
    fresh: HashList<SpooledTempFile>,
    outlet: Outlet,
    outbound: Option<Outbound>,
    pages_read: u32,
    /// Pages between two words about progress.
    progress_every: u32,
    /// Pages whose hash is not the known one.
    pub pages_new: u32,
}

impl Collector {
    /// Collects pages of `geometry` that are not in `known`; tells progress to `outbound`; keeps a list of new hashes,
    /// when it is long, in an unnamed file in `temp_dir`.
    pub fn new(
        geometry: Geometry,
        known: Option<HashList<File>>,
        outlet: Outlet,
        outbound: Option<Outbound>,
        temp_dir: &std::path::Path,
    ) -> Self {
        let fresh = tempfile::spooled_tempfile_in(HASHES_IN_MEMORY_MAX, temp_dir);
        let fresh = HashList::new(fresh, geometry.page_count);
        let progress_every = PROGRESS_EVERY.max(geometry.page_count.div_ceil(PROGRESS_WORDS_MAX));
        Self { geometry, known, fresh, outlet, outbound, pages_read: 0, progress_every, pages_new: 0 }
    }

    /// Takes page `no`.
    pub fn page(&mut self, no: PageNo, page: &[u8]) -> Result<(), Fault> {
        self.pages_read += 1;
        if self.pages_read.is_multiple_of(self.progress_every)
            && let Some(outbound) = &self.outbound
        {
            let (pages_read, page_count) = (self.pages_read, self.geometry.page_count);
            outbound.hint(Event::Reading { pages_read, page_count })?;
        }
        let hash = PageHash::of(page);
        if let Some(known) = &mut self.known
            && known.get(no).map_err(|error| hashes_io(&error))? == hash
        {
            return Ok(());
        }
        self.pages_new += 1;
        self.fresh.set(no, hash).map_err(|error| hashes_io(&error))?;
        match &mut self.outlet {
            Outlet::Mirror(writer) => {
                writer.page(no, page).map_err(|error| Fault::io("the new mirror", &error))
            }
            Outlet::Delta(delta) => delta.page(no, page, hash),
            Outlet::Spool(builder, spool) => match builder.push(no, page, hash).map_err(internal)? {
                Some(frame) => spool.push(frame),
                None => Ok(()),
            },
            Outlet::Direct(builder) => match builder.push(no, page, hash).map_err(internal)? {
                Some(frame) => send(self.outbound.as_ref(), frame),
                None => Ok(()),
            },
            Outlet::Nowhere => Ok(()),
        }
    }

    /// Puts the last frame where the others went.
    pub fn finish(&mut self) -> Result<(), Fault> {
        match &mut self.outlet {
            Outlet::Mirror(writer) => {
                writer.finish(&mut self.fresh).map_err(|error| Fault::io("the new mirror", &error))
            }
            Outlet::Delta(delta) => delta.finish(),
            Outlet::Spool(builder, spool) => {
                builder.finish().map_err(internal)?.map_or(Ok(()), |frame| spool.push(frame))?;
                spool.flush()
            }
            Outlet::Direct(builder) => builder
                .finish()
                .map_err(internal)?
                .map_or(Ok(()), |frame| send(self.outbound.as_ref(), frame)),
            Outlet::Nowhere => Ok(()),
        }
    }

    /// The spool that the pages went to.
    pub fn into_spool(self) -> Spool {
        match self.outlet {
            Outlet::Delta(delta) => delta.into_spool(),
            Outlet::Spool(_, spool) => spool,
            _ => unreachable!("BUG: a spool was asked for where none was given"),
        }
    }

    /// The name of what was read, from the known hashes and the new ones.
    pub fn snapshot_id(&mut self) -> Result<SnapshotId, Fault> {
        let mut hasher = SnapshotHasher::new(self.geometry);
        for number in 1..=self.geometry.page_count {
            let no = PageNo::new(number).expect("BUG: page 0");
            let mut hash = self.fresh.get(no).map_err(|error| hashes_io(&error))?;
            if hash == PageHash::ABSENT
                && let Some(known) = &mut self.known
            {
                hash = known.get(no).map_err(|error| hashes_io(&error))?;
            }
            hasher.push(hash);
        }
        Ok(hasher.finish())
    }
}

fn send(outbound: Option<&Outbound>, frame: Frame) -> Result<(), Fault> {
    outbound.expect("BUG: a direct outlet without a puller").send(Event::Frame(frame))
}

fn internal(error: FrameError) -> Fault {
    Fault::new(Kind::Internal, error.to_string())
}

fn hashes_io(error: &io::Error) -> Fault {
    Fault::io("a list of page hashes", error)
}

/// Writes pages to the file of a new mirror, neighbours together.
pub struct MirrorWriter {
    pages: File,
    hashes: File,
    geometry: Geometry,
    run: Vec<u8>,
    run_start: u64,
    room: Option<Room>,
    until_check: u64,
}

impl MirrorWriter {
    /// Writes to `pages` and `hashes`, which are empty.
    pub fn new(pages: File, hashes: File, geometry: Geometry) -> Self {
        let run = Vec::with_capacity(RUN_BYTES);
        Self { pages, hashes, geometry, run, run_start: 0, room: None, until_check: ROOM_CHECK_EVERY }
    }

    /// The same, as long as there is `room`: the application may be filling the disk meanwhile.
    pub fn within(self, room: Room) -> Self {
        Self { room: Some(room), ..self }
    }

    fn page(&mut self, no: PageNo, page: &[u8]) -> io::Result<()> {
        let offset = self.geometry.offset(no);
        if self.run_start + self.run.len() as u64 != offset || self.run.len() + page.len() > RUN_BYTES {
            self.write_run()?;
            self.run_start = offset;
        }
        self.run.extend_from_slice(page);
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.pages.write_all_at(&self.run, self.run_start)?;
        self.until_check = self.until_check.saturating_sub(self.run.len() as u64);
        if self.until_check == 0 {
            self.until_check = ROOM_CHECK_EVERY;
            if self.room.as_ref().is_some_and(|room| room.left() == 0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.run.clear();
        Ok(())
    }

    fn finish(&mut self, fresh: &mut HashList<SpooledTempFile>) -> io::Result<()> {
        self.write_run()?;
        self.pages.set_len(self.geometry.bytes())?;
        let mut hashes = io::BufWriter::new(&self.hashes);
        for number in 1..=self.geometry.page_count {
            let no = PageNo::new(number).expect("BUG: page 0");
            io::Write::write_all(&mut hashes, &fresh.get(no)?.0)?;
        }
        io::Write::flush(&mut hashes)
    }
}
