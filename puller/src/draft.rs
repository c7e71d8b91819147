//! A draft: a copy that is being received. It becomes a copy by [`Draft::commit`].
//!
//! Dropped before that, it stays where so much was received that the next run goes on from it, and is removed otherwise.
//! What a draft holds is told by its pages alone: the next run hashes them, so that no crash can leave a draft that lies.

use crate::content::{self, Content, RUN_BYTES};
use crate::durable;
use crate::manifest::Manifest;
use crate::source_dir::{Lock, SourceDir};
use crate::sum::Sum;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Base, Frame, FrameError};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::wire;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Space left free on the store's disk beside what a draft needs.
const ROOM_MARGIN: u64 = 4 * 1024 * 1024;

/// A delta of fewer pages than one in so many of the database is begun anew: hashing the draft would cost more.
const RESUME_PAGES_PER_PAGE: u64 = 8;

/// `draft-new.json`: what the pages of a draft do not tell.
#[derive(serde::Serialize, serde::Deserialize)]
struct Shape {
    page_size: u32,
}

impl Shape {
    /// The shape of a draft of `len` bytes, from the bytes of its `draft-new.json`, if they can be those of one draft.
    fn geometry(json: &[u8], len: u64) -> Option<Geometry> {
        let shape: Self = serde_json::from_slice(json).ok()?;
        let page_count = u32::try_from(len / u64::from(shape.page_size.max(512))).ok()?;
        Geometry::new(shape.page_size, page_count).filter(|shape| shape.bytes() == len)
    }
}

/// A database file and its page hashes, unfinished.
pub struct Draft {
    db_path: PathBuf,
    pages_path: PathBuf,
    db: File,
    hashes: HashList<File>,
    geometry: Geometry,
    buffer: Vec<u8>,
    pages_applied: u64,
    /// The MD5 of what is written from the beginning on, as long as nothing else is.
    sum: Option<(u64, Sum)>,
    /// Whether its files stay when it is dropped.
    stays: bool,
}

impl Draft {
    /// Begins a draft of `geometry` in `source`: what `base` holds where there is one with the same page size, else empty.
    pub fn create(source: &SourceDir, geometry: Geometry, base: Option<&Content>) -> Result<Self, Fault> {
        let dir = source.copies_dir();
        let (db_path, pages_path) = (dir.join("draft-new.db"), dir.join("draft-new.pages"));
        check_room(&dir, geometry)?;
        let made = (|| {
            for path in [&dir.join("draft-new.json"), &db_path, &pages_path] {
                durable::remove(path)?;
            }
            if let Some(base) = base {
                base.write_to(&db_path)?;
                content::copy(&mut base.hashes()?, &mut open(&pages_path)?)?;
            }
            let db = open(&db_path)?;
            db.set_len(geometry.bytes())?;
            let pages = open(&pages_path)?;
            pages.set_len(u64::from(geometry.page_count) * PageHash::LEN as u64)?;
            Ok((db, pages))
        })();
        let (db, pages) = made.map_err(|error: io::Error| no_room(&dir, geometry, &error))?;
        let hashes = HashList::new(pages, geometry.page_count);
        Ok(Self {
            db_path,
            pages_path,
            db,
            hashes,
            geometry,
            buffer: Vec::new(),
            pages_applied: 0,
            sum: None,
            stays: false,
        })
    }

    /// Computes the MD5 of the file while it is written for the first time: that of the one that is there, once it was read
    /// back against the hashes of what was written.
    pub fn sum_on_arrival(&mut self) -> Result<(), Fault> {
        self.sum = Some((0, Sum::start().map_err(|error| self.io(&error))?));
        Ok(())
    }

    /// The MD5 of the whole file, if it arrived whole and in order.
    pub fn arrived_sum(&mut self) -> Option<[u8; 16]> {
        let (bytes, sum) = self.sum.take()?;
        (bytes == self.geometry.bytes()).then(|| sum.finish())
    }

    /// The draft that an earlier run left, if there is one to go on from.
    pub fn resume(source: &SourceDir) -> Option<Self> {
        let dir = source.copies_dir();
        let (db_path, pages_path) = (dir.join("draft-new.db"), dir.join("draft-new.pages"));
        let shape = fs::read(dir.join("draft-new.json")).ok()?;
        let geometry = Shape::geometry(&shape, fs::metadata(&db_path).ok()?.len())?;
        let (db, pages) = (open(&db_path).ok()?, open(&pages_path).ok()?);
        let hashes = HashList::new(pages, geometry.page_count);
        let mut draft = Self {
            db_path,
            pages_path,
            db,
            hashes,
            geometry,
            buffer: Vec::new(),
            pages_applied: 0,
            sum: None,
            stays: false,
        };
        match draft.rehash() {
            Ok(()) => {
                draft.stays = true;
                Some(draft)
            }
            Err(fault) => {
                tracing::warn!(%fault, "the draft of an earlier run cannot be read; the pull begins anew");
                None
            }
        }
    }

    /// Makes the draft one that a later run may go on from, once enough was received.
    fn stay(&mut self) {
        let worth = self.pages_applied * RESUME_PAGES_PER_PAGE >= u64::from(self.geometry.page_count);
        if self.stays || !worth {
            return;
        }
        let shape = Shape { page_size: self.geometry.page_size.get() };
        let json = serde_json::to_vec(&shape).expect("BUG: a shape that is no JSON");
        self.stays = fs::write(self.json_path(), json).is_ok();
    }

    fn json_path(&self) -> PathBuf {
        self.db_path.with_extension("json")
    }

    /// Removes the draft: it is no use to a later run.
    pub fn discard(mut self) {
        self.stays = false;
    }

    /// Its shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.db_path
    }

    /// The draft as a base for a further pull: it has no name, only hashes.
    pub fn as_base(&self) -> wire::Base {
        wire::Base { geometry: self.geometry, snapshot: None }
    }

    /// Changes its shape for a newer snapshot with the same page size.
    pub fn resize(&mut self, geometry: Geometry) -> Result<(), Fault> {
        assert_eq!(geometry.page_size, self.geometry.page_size, "BUG: a draft with two page sizes");
        let resized = self.hashes.flush().and_then(|()| {
            self.hashes.set_page_count(geometry.page_count);
            self.hashes.file().set_len(u64::from(geometry.page_count) * PageHash::LEN as u64)?;
            self.db.set_len(geometry.bytes())
        });
        self.geometry = geometry;
        // The list's buffer may hold hashes of pages that are cut off; it is read anew.
        resized.and_then(|()| self.reopen_hashes()).map_err(|error| self.io(&error))
    }

    fn reopen_hashes(&mut self) -> io::Result<()> {
        self.hashes = HashList::new(open(&self.pages_path)?, self.geometry.page_count);
        Ok(())
    }

    /// Writes the pages of `frame`, whose patches and moved pages refer to `base`.
    pub fn apply(&mut self, frame: &Frame, base: &mut dyn Base) -> Result<(), Fault> {
        let Self { db, hashes, geometry, buffer, sum, .. } = self;
        let geometry = *geometry;
        let mut run = Run { db, sum, start: 0, pages: Vec::with_capacity(RUN_BYTES) };
        let applied = frame.open(geometry, base, buffer, |no, page, hash| {
            run.add(geometry.offset(no), page).and_then(|()| hashes.set(no, hash)).map_err(Failed::Io)
        });
        let applied = applied.and_then(|()| run.write().map_err(Failed::Io));
        self.pages_applied += frame.page_count();
        if applied.is_ok() {
            self.stay();
        }
        applied.map_err(|failed| match failed {
            Failed::Io(error) => {
                // A disk that is full or failing gets its room back.
                self.stays = false;
                self.io(&error)
            }
            Failed::Frame(error) => {
                Fault::new(Kind::Unproven, format!("what arrived does not lead to what was sent: {error}"))
                    .hint("pull again; if it happens again, update both programs to the same release")
            }
        })
    }

    /// What makes durable what was written, page hashes up to the last [`Draft::hashes_file`]; for another thread.
    pub fn sync(&self) -> Result<impl FnOnce() -> io::Result<()> + Send + use<>, Fault> {
        let files = self.db.try_clone().and_then(|db| Ok([db, self.hashes.file().try_clone()?]));
        let files = files.map_err(|error| self.io(&error))?;
        Ok(move || files.iter().try_for_each(File::sync_all))
    }

    /// The page hashes, for reading.
    pub fn hashes_file(&mut self) -> Result<File, Fault> {
        self.hashes.flush().and_then(|()| File::open(&self.pages_path)).map_err(|error| self.io(&error))
    }

    /// Takes the hashes from the pages that are really there, after they were found to be others than those applied.
    pub fn rehash(&mut self) -> Result<(), Fault> {
        let rehashed = (|| {
            let mut page = vec![0; self.geometry.page_size.as_usize()];
            for number in 1..=self.geometry.page_count {
                let no = PageNo::new(number).expect("BUG: page 0");
                self.db.read_exact_at(&mut page, self.geometry.offset(no))?;
                self.hashes.set(no, PageHash::of(&page))?;
            }
            self.hashes.flush()
        })();
        rehashed.map_err(|error: io::Error| self.io(&error))
    }

    /// Puts the draft in place under the id in `manifest`. In this order: the database, its hashes, their directory, and
    /// last the manifest, which makes it a copy. Nothing that is there is replaced.
    pub fn commit(mut self, source: &SourceDir, manifest: &Manifest, lock: &Lock) -> Result<(), Fault> {
        let placed = (|| {
            self.db.set_permissions(fs::Permissions::from_mode(0o400))?;
            self.hashes.file().set_permissions(fs::Permissions::from_mode(0o400))?;
            self.db.sync_all()?;
            self.hashes.file().sync_all()?;
            durable::remove(&self.json_path())?;
            durable::rename_new(&self.db_path, &source.file(&manifest.copy, "db"))?;
            durable::rename_new(&self.pages_path, &source.file(&manifest.copy, "pages"))?;
            durable::sync_dir(&source.copies_dir())
        })();
        placed.map_err(|error: io::Error| self.io(&error))?;
        self.stays = true;
        source.write_manifest(manifest, lock)
    }

    /// Why the draft could not be written.
    pub fn io(&self, error: &io::Error) -> Fault {
        no_room(self.db_path.parent().unwrap_or(Path::new(".")), self.geometry, error)
    }
}

/// Pages that lie next to one another, written together.
struct Run<'a> {
    db: &'a File,
    sum: &'a mut Option<(u64, Sum)>,
    /// Where the first of them begins.
    start: u64,
    pages: Vec<u8>,
}

impl Run<'_> {
    fn add(&mut self, offset: u64, page: &[u8]) -> io::Result<()> {
        if self.start + self.pages.len() as u64 != offset || self.pages.len() + page.len() > RUN_BYTES {
            self.write()?;
            self.start = offset;
        }
        self.pages.extend_from_slice(page);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.db.write_all_at(&self.pages, self.start)?;
        match self.sum {
            Some((bytes, sum)) if *bytes == self.start => {
                *bytes += self.pages.len() as u64;
                self.pages = sum.add(std::mem::take(&mut self.pages));
            }
            Some(_) if !self.pages.is_empty() => *self.sum = None,
            _ => {}
        }
        self.pages.clear();
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.stays {
            for path in [&self.json_path(), &self.db_path, &self.pages_path] {
                if let Err(error) = durable::remove(path) {
                    tracing::debug!(%error, "a draft is left for the next run to clear");
                }
            }
        }
    }
}

enum Failed {
    Io(io::Error),
    Frame(FrameError),
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn check_room(dir: &Path, geometry: Geometry) -> Result<(), Fault> {
    let Ok(stat) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let hashes = u64::from(geometry.page_count) * PageHash::LEN as u64;
    let needed = geometry.bytes() + hashes + ROOM_MARGIN;
    match needed <= free {
        true => Ok(()),
        false => Err(full(dir, needed, free)),
    }
}

fn full(dir: &Path, needed: u64, free: u64) -> Fault {
    Fault::new(Kind::NoSpace, format!("`{}`: the copy needs {needed} bytes, and {free} are free", dir.display()))
        .hint("free some room, or keep fewer copies: `puller rotate --dry-run --keep-last N` shows what would go; no copy was touched")
}

fn no_room(dir: &Path, geometry: Geometry, error: &io::Error) -> Fault {
    let free = rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    match error.kind() {
        io::ErrorKind::StorageFull if free < geometry.bytes() => full(dir, geometry.bytes(), free),
        // A disk can also run out of files, or of what a quota leaves.
        _ => Fault::io(format!("the draft in `{}`", dir.display()), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_draft_that_is_gone_on_from_has_whole_pages(
            json in prop_oneof![
                any::<u32>().prop_map(|size| format!("{{\"page_size\":{size}}}").into_bytes()),
                (0u32..20).prop_map(|shift| format!("{{\"page_size\":{}}}", 1u32 << shift).into_bytes()),
                "[\\[\\]{}:\",0-9a-z_ -]{0,40}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..40),
            ],
            len in prop_oneof![any::<u64>(), (0u64..20, 0u64..20_000).prop_map(|(shift, count)| count << shift)],
        ) {
            if let Some(geometry) = Shape::geometry(&json, len) {
                prop_assert_eq!(geometry.bytes(), len);
                let again = serde_json::to_vec(&Shape { page_size: geometry.page_size.get() }).unwrap();
                prop_assert_eq!(Shape::geometry(&again, len), Some(geometry));
            }
        }
    }
}
