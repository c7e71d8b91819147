//! One copy gets another form.
//!
//! In this order: the new form is written aside and made durable, read back whole and held against the copy's name, renamed, the
//! folder made durable; only then the old form goes. Between any two steps the copy is there. Where two forms lie side by
//! side, [`content::find`] says which one counts.

use crate::content::{self, Content, Form, Unreadable};
use crate::durable;
use crate::manifest::Manifest;
use crate::pack::{self, Head, Members, Writer};
use crate::packing::Wanted;
use crate::proof;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{PageHash, PageNo};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where more than one page in so many is another, the copy is kept whole: a delta would be as large, and only another thing to lose.
const PAGES_PER_CHANGE_MIN: u64 = 2;

/// Gives copy `id` the form `wanted`.
pub fn change(
    source: &SourceDir,
    copies: &[StoredCopy],
    id: &str,
    wanted: &Wanted,
    proven: Option<&str>,
    lock: &Lock,
) -> Result<(), Fault> {
    let copy = found(copies, id)?;
    let form = match wanted {
        Wanted::Plain => Form::Plain,
        Wanted::Gzip => Form::Gzip,
        Wanted::Delta(_) => Form::Delta,
    };
    let aside = Aside(source.copies_dir().join(format!(".{id}.{}.new", form.suffix())));
    let list = Aside(source.copies_dir().join(format!(".{id}.pages.new")));
    let content = copy.open(source)?;
    match wanted {
        Wanted::Plain => {
            content.write_to(&aside.0).map_err(|error| aside.io(&error))?;
            let written = File::open(&aside.0).map_err(|error| aside.io(&error))?;
            aside.keep(&written)?;
            copy.prove(&mut &written, &content)?;
        }
        Wanted::Gzip => {
            let written = zip(&content, aside.create()?).map_err(|error| aside.io(&error))?;
            aside.keep(&written)?;
            copy.prove(&mut pack::unzipped(aside.sealed()?), &content)?;
        }
        Wanted::Delta(base) => {
            let base = found(copies, base)?;
            let mut upon = base.open(source)?;
            let written = match difference(&copy, &content, &base, &upon, &aside)? {
                Some(written) => written,
                // Most of it is other: whole, it is no larger and depends on nothing.
                None => return change(source, copies, id, &Wanted::Gzip, proven, lock),
            };
            aside.keep(&written)?;
            let again = pack::Reader::open(aside.sealed()?).map_err(|error| aside.io(&error))?;
            upon.lay(source, &aside.0, again).map_err(|why| unpacked(id, why))?;
            match proven == Some(base.id) {
                true => copy.prove_changed(&upon)?,
                false => copy.prove(&mut upon.pages(), &upon)?,
            }
        }
    }
    if form != Form::Delta && !source.file(id, "pages").exists() {
        let mut hashes = list.create()?;
        let copied = content.hashes().and_then(|mut from| content::copy(&mut from, &mut hashes));
        copied.map_err(|error| list.io(&error))?;
        list.keep(&hashes)?;
        list.place(&source.file(id, "pages"))?;
    }
    aside.place(&source.file(id, form.suffix()))?;
    source.remove_other_forms(id, form, lock)
}

/// A copy that is to be packed, or packed upon, whose manifest was read.
pub struct Known<'a> {
    id: &'a str,
    copy: &'a StoredCopy,
    /// What is known of it.
    pub manifest: &'a Manifest,
}

/// The copy `id` of `copies`.
pub fn found<'a>(copies: &'a [StoredCopy], id: &str) -> Result<Known<'a>, Fault> {
    let copy = copies.iter().find(|copy| copy.id == id);
    let known =
        copy.and_then(|copy| Some(Known { id: &copy.id, copy, manifest: copy.manifest.as_ref().ok()? }));
    known.ok_or_else(|| {
        Fault::new(Kind::Rotten, format!("copy {id} is not there, or its manifest cannot be read"))
    })
}

impl Known<'_> {
    fn open(&self, source: &SourceDir) -> Result<Content, Fault> {
        Content::of(source, self.copy).map_err(|why| unpacked(self.id, why))
    }

    fn rotten(&self, why: &str) -> Fault {
        Fault::new(Kind::Rotten, format!("copy {} is rotten: {why}", self.id))
    }

    /// Holds `pages` against the page hashes of `content` and the snapshot's name.
    fn prove(&self, pages: &mut dyn Read, content: &Content) -> Result<(), Fault> {
        let io = |error: io::Error| self.rotten(&format!("it cannot be read back: {error}"));
        let hashes = content.hashes().map_err(io)?;
        let found = proof::read_back_from(pages, content.geometry(), hashes, false, &|_| {}).map_err(io)?;
        let is_it = Some(found.snapshot) == self.manifest.snapshot_id() && found.first_wrong.is_none();
        if is_it { Ok(()) } else { Err(self.rotten("what was read back is not its snapshot")) }
    }

    /// As [`Self::prove`], where all pages of `content` were read a moment ago but those that deltas changed.
    fn prove_changed(&self, content: &Content) -> Result<(), Fault> {
        let io = |error: io::Error| self.rotten(&format!("it cannot be read back: {error}"));
        let geometry = content.geometry();
        let mut hashes = HashList::new(content.hashes().map_err(io)?, geometry.page_count);
        let mut page = vec![0; geometry.page_size.as_usize()];
        for no in content.changed().into_iter().flat_map(|pages| pages.runs(1)).map(|(no, _)| no) {
            content.read_page(no, &mut page).map_err(io)?;
            if hashes.get(no).map_err(io)? != PageHash::of(&page) {
                return Err(self.rotten(&format!("page {} that was read back is another", no.get())));
            }
        }
        let is_it = Some(hashes.snapshot_id(geometry).map_err(io)?) == self.manifest.snapshot_id();
        if is_it {
            Ok(())
        } else {
            Err(self.rotten("the page hashes that were read back are not its snapshot's"))
        }
    }
}

/// Writes what is other in `copy` than in `base`; `None`: too much is.
fn difference(
    copy: &Known,
    content: &Content,
    base: &Known,
    upon: &Content,
    aside: &Aside,
) -> Result<Option<File>, Fault> {
    let io = |error: io::Error| aside.io(&error);
    let (geometry, there) = (content.geometry(), upon.geometry());
    let mut here = HashList::new(content.hashes().map_err(io)?, geometry.page_count);
    let mut base_hashes = HashList::new(upon.hashes().map_err(io)?, there.page_count);
    let mut pages = 0u32;
    for no in (1..=geometry.page_count).filter_map(PageNo::new) {
        pages += u32::from(here.get(no).map_err(io)? != base_hashes.get(no).map_err(io)?);
    }
    if u64::from(pages) * PAGES_PER_CHANGE_MIN > u64::from(geometry.page_count) {
        return Ok(None);
    }
    let names = copy.manifest.snapshot_id().zip(base.manifest.snapshot_id());
    let (snapshot, base_snapshot) = names.ok_or_else(|| copy.rotten("a snapshot's name makes no sense"))?;
    let head = Head::new((copy.id, snapshot), (base.id, base_snapshot), geometry, pages);
    let mut writer = Writer::begin(aside.create()?, &head).map_err(io)?;
    let size = geometry.page_size.as_usize();
    let (mut page, mut old) = (vec![0; size], vec![0; size]);
    for no in (1..=geometry.page_count).filter_map(PageNo::new) {
        let hash = here.get(no).map_err(io)?;
        if hash == base_hashes.get(no).map_err(io)? {
            continue;
        }
        content.read_page(no, &mut page).map_err(io)?;
        if PageHash::of(&page) != hash {
            return Err(copy.rotten(&format!("page {} is not what it was", no.get())));
        }
        let in_base = there.holds(no);
        if in_base {
            upon.read_page(no, &mut old).map_err(io)?;
        }
        writer = writer.add(no, hash, &page, in_base.then_some(old.as_slice())).map_err(io)?;
    }
    writer.finish().map(Some).map_err(io)
}

/// Writes all of `content` to `file`, within gzip.
fn zip(content: &Content, file: File) -> io::Result<File> {
    let mut members = Members::new(file);
    let (mut pages, mut buffer) = (content.pages(), vec![0; content::RUN_BYTES]);
    loop {
        match pages.read(&mut buffer)? {
            0 => return members.finish(),
            read => members = members.append(&buffer[..read])?,
        }
    }
}

fn unpacked(id: &str, why: Unreadable) -> Fault {
    match why {
        Unreadable::Rotten(why) | Unreadable::Gone(why) => {
            Fault::new(Kind::Rotten, format!("copy {id} is rotten: {why}"))
        }
        Unreadable::Fault(fault) => fault,
    }
}

/// A file under a name that the next run clears away; it goes unless it gets its place.
struct Aside(PathBuf);

impl Aside {
    fn create(&self) -> Result<File, Fault> {
        let made = durable::remove(&self.0)
            .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0));
        made.map_err(|error| self.io(&error))
    }

    /// Makes `file`, which it is, durable and read-only.
    fn keep(&self, file: &File) -> Result<(), Fault> {
        let kept = file.set_permissions(Permissions::from_mode(0o400)).and_then(|()| file.sync_all());
        kept.map_err(|error| self.io(&error))
    }

    /// The file, read against its seal.
    fn sealed(&self) -> Result<File, Fault> {
        let mut file = File::open(&self.0).map_err(|error| self.io(&error))?;
        pack::check_seal(&mut file).map_err(|error| self.io(&error))?;
        Ok(file)
    }

    /// Gives it its place, whatever is there, for good.
    fn place(&self, path: &Path) -> Result<(), Fault> {
        let dir = path.parent().expect("BUG: a file without a directory");
        fs::rename(&self.0, path).and_then(|()| durable::sync_dir(dir)).map_err(|error| self.io(&error))
    }

    fn io(&self, error: &io::Error) -> Fault {
        Fault::io(format!("`{}`", self.0.display()), error)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = durable::remove(&self.0) {
            tracing::debug!(%error, "a file is left for the next run to clear");
        }
    }
}
