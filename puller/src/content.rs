//! What a stored copy holds, page by page, in whatever form it is kept: a plain file, that file in gzip, or a delta.
//!
//! A delta leads from a newer copy, that one perhaps from a newer one still, until a whole one is reached: that is opened, and
//! the deltas are laid over it, newest first, in a file without a name. Nothing here is proven: [`crate::verify`] does that.

use crate::pack;
use crate::source_dir::{SourceDir, StoredCopy, sequence_of};
use pullback_shared::fault::Fault;
use pullback_shared::frame::Base;
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo, PageSize};
use pullback_shared::page_set::PageSet;
use pullback_shared::snapshot::SnapshotId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Deltas that lead to one copy, at most. Packing makes no more than [`crate::packing::DELTAS_IN_A_ROW_MAX`]; what is read may come
/// from a later release.
const CHAIN_MAX: usize = 1000;

/// A copy may be packed anew, or go, while it is read: then its files are looked for again, so many times.
const LOOKS_MAX: u32 = 4;

/// Bytes copied at once. More is no faster anywhere, and slower where Linux takes larger stretches of memory for its page cache
/// then: 1 MiB at once took two to four times as long as 128 KiB on ext4.
pub const RUN_BYTES: usize = 128 * 1024;

/// How a copy is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As an SQLite file.
    Plain,
    /// As that file within gzip.
    Gzip,
    /// As what is other than in a newer copy.
    Delta,
}

impl Form {
    /// All, the one that counts where there are several first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Gzip, Self::Delta];

    /// What its file ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "db",
            Self::Gzip => "db.gz",
            Self::Delta => "delta.gz",
        }
    }
}

/// Why a copy cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// What is kept is not what it was: a sentence.
    Rotten(String),
    /// A file is not where it was a moment ago.
    Gone(String),
    /// The copy could not be looked at.
    Fault(Fault),
}

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The form in which copy `id` is kept, and its file; one that was set aside counts where there is no other.
pub fn find(source: &SourceDir, id: &str) -> Option<(Form, PathBuf)> {
    let named = |end: &str| {
        let file = |form: Form| (form, source.file(id, &format!("{}{end}", form.suffix())));
        Form::ALL.into_iter().map(file).find(|(_, path)| path.exists())
    };
    named("").or_else(|| named(".rotten"))
}

/// The head of the delta in `file`.
pub fn head_of(file: &Path) -> io::Result<pack::Head> {
    pack::Reader::open(File::open(file)?).map(|reader| reader.head)
}

/// What a copy holds.
pub struct Content {
    geometry: Geometry,
    whole: File,
    /// The file that `whole` is, where it is plain.
    plain: Option<PathBuf>,
    /// What the deltas changed.
    laid_over: Option<LaidOver>,
    hashes: File,
}

/// Pages of deltas, each at its place in a file that has holes elsewhere.
struct LaidOver {
    file: File,
    pages: PageSet,
}

impl Content {
    /// What `copy` holds, of the shape that its manifest says.
    pub fn of(source: &SourceDir, copy: &StoredCopy) -> Result<Self, Unreadable> {
        let manifest = copy.manifest.as_ref().map_err(|why| Unreadable::Rotten(why.clone()))?;
        let makes_no_sense = || Unreadable::Rotten("the manifest's sizes make no sense".to_owned());
        let geometry = manifest.geometry().ok_or_else(makes_no_sense)?;
        let content = Self::open(source, &copy.id, geometry.page_size)?;
        if content.geometry == geometry {
            return Ok(content);
        }
        let (here, there) = (content.geometry.page_count, geometry.page_count);
        let file = named(&source.file_of(&copy.id));
        Err(Unreadable::Rotten(format!("{file} holds {here} pages instead of {there}")))
    }

    /// What copy `id` holds, whose pages have `page_size`.
    pub fn open(source: &SourceDir, id: &str, page_size: PageSize) -> Result<Self, Unreadable> {
        let mut looks = 1;
        loop {
            match Self::look(source, id, page_size) {
                Err(Unreadable::Gone(_)) if looks < LOOKS_MAX => looks += 1,
                Err(Unreadable::Gone(why)) => return Err(Unreadable::Rotten(why)),
                other => return other,
            }
        }
    }

    fn look(source: &SourceDir, id: &str, page_size: PageSize) -> Result<Self, Unreadable> {
        let mut deltas: Vec<(PathBuf, pack::Reader)> = Vec::new();
        let mut id = id.to_owned();
        let mut content = loop {
            let Some((form, path)) = find(source, &id) else {
                return Err(Unreadable::Gone(format!("the file of copy {id} is gone")));
            };
            if form != Form::Delta {
                break Self::whole(source, &id, form, &path, page_size, deltas.is_empty())?;
            }
            let mut file = File::open(&path).map_err(|error| reading(&path, &error))?;
            let delta = pack::check_seal(&mut file).and_then(|()| pack::Reader::open(file));
            let delta = delta.map_err(|error| reading(&path, &error))?;
            let base = delta.head.base.clone();
            let fits = delta.head.copy == id && sequence_of(&base) > sequence_of(&id);
            if !fits || deltas.len() == CHAIN_MAX {
                return Err(Unreadable::Rotten(format!("{} is not packed upon a newer copy", named(&path))));
            }
            if let Some((older, _)) =
                deltas.last().filter(|(_, older)| older.head.base_snapshot != delta.head.snapshot)
            {
                return Err(Unreadable::Rotten(format!(
                    "{} is packed upon another content of {id}",
                    named(older)
                )));
            }
            deltas.push((path, delta));
            id = base;
        };
        for (path, delta) in deltas.into_iter().rev() {
            content.lay(source, &path, delta)?;
        }
        Ok(content)
    }

    /// The copy `id` that is kept whole at `path`. Its list of page hashes must be there if it `is_asked_for` itself; else it is
    /// made where it is not.
    fn whole(
        source: &SourceDir,
        id: &str,
        form: Form,
        path: &Path,
        page_size: PageSize,
        is_asked_for: bool,
    ) -> Result<Self, Unreadable> {
        let mut whole = File::open(path).map_err(|error| reading(path, &error))?;
        if form == Form::Gzip {
            pack::check_seal(&mut whole).map_err(|error| reading(path, &error))?;
            let mut scratch = scratch(source)?;
            inflate(path, whole, &mut scratch)?;
            whole = scratch;
        }
        let len = whole.metadata().map_err(|error| reading(path, &error))?.len();
        let page_count = u32::try_from(len / u64::from(page_size.get())).unwrap_or(u32::MAX);
        let geometry = Geometry::new(page_size.get(), page_count).filter(|geometry| geometry.bytes() == len);
        let Some(geometry) = geometry else {
            return Err(Unreadable::Rotten(format!(
                "{} has {len} bytes: no whole number of pages",
                named(path)
            )));
        };
        let listed = open_list(source, id, geometry);
        let hashes = match listed {
            Err(Unreadable::Rotten(_) | Unreadable::Gone(_)) if !is_asked_for => {
                list_of(source, &whole, geometry)?
            }
            listed => listed?,
        };
        Ok(Self {
            geometry,
            whole,
            plain: (form == Form::Plain).then(|| path.to_owned()),
            laid_over: None,
            hashes,
        })
    }

    /// Lays `delta`, the file at `path`, over what there is.
    pub fn lay(
        &mut self,
        source: &SourceDir,
        path: &Path,
        mut delta: pack::Reader,
    ) -> Result<(), Unreadable> {
        let rotten = |why: String| Unreadable::Rotten(format!("{} {why}", named(path)));
        let before = self.geometry.page_count;
        let geometry = delta.head.geometry().filter(|geometry| geometry.page_size == self.geometry.page_size);
        let geometry =
            geometry.ok_or_else(|| rotten("has pages of another size than its base".to_owned()))?;
        let mut laid = match self.laid_over.take() {
            Some(laid) => laid,
            None => {
                // Of the base's list, which others read, a copy is changed.
                let mut list = scratch(source)?;
                let mut from = &self.hashes;
                let copied = from.seek(SeekFrom::Start(0)).and_then(|_| copy(&mut from, &mut list));
                copied.map_err(|error| scratching(source, &error))?;
                self.hashes = list;
                LaidOver { file: scratch(source)?, pages: PageSet::none(before) }
            }
        };
        laid.pages.resize(geometry.page_count);
        let list = self.hashes.try_clone().map_err(|error| scratching(source, &error))?;
        let mut list = HashList::new(list, geometry.page_count);
        let (mut page, mut there) = (Vec::new(), vec![0; geometry.page_size.as_usize()]);
        while let Some(change) = delta.next_change(&mut page).map_err(|error| reading(path, &error))? {
            let offset = geometry.offset(change.no);
            if change.is_xor {
                if change.no.get() > before {
                    return Err(rotten(format!(
                        "changes page {}, which its base does not have",
                        change.no.get()
                    )));
                }
                let file = if laid.pages.contains(change.no) { &laid.file } else { &self.whole };
                file.read_exact_at(&mut there, offset).map_err(|error| reading(path, &error))?;
                page.iter_mut().zip(&there).for_each(|(byte, there)| *byte ^= there);
            }
            laid.file.write_all_at(&page, offset).map_err(|error| scratching(source, &error))?;
            laid.pages.insert(change.no);
            list.set(change.no, change.hash).map_err(|error| scratching(source, &error))?;
        }
        list.flush().map_err(|error| scratching(source, &error))?;
        let bytes = u64::from(geometry.page_count) * PageHash::LEN as u64;
        self.hashes.set_len(bytes).map_err(|error| scratching(source, &error))?;
        let mut beyond = (before..geometry.page_count).filter_map(|index| PageNo::new(index + 1));
        if let Some(no) = beyond.find(|no| !laid.pages.contains(*no)) {
            return Err(rotten(format!("lacks page {}", no.get())));
        }
        (self.geometry, self.laid_over) = (geometry, Some(laid));
        Ok(())
    }

    /// The shape of the copy.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The page hashes, for reading from the beginning.
    pub fn hashes(&self) -> io::Result<File> {
        let mut hashes = self.hashes.try_clone()?;
        hashes.seek(SeekFrom::Start(0))?;
        Ok(hashes)
    }

    /// All pages in order, as the bytes of the file.
    pub fn pages(&self) -> Pages<'_> {
        Pages { content: self, at: 0 }
    }

    /// As [`Self::pages`], each held against its hash before it is given out, and their hashes against the name of the snapshot that
    /// they should be before the first is. What is not as it should be is an error of the kind `InvalidData`.
    pub fn proven_pages(&self, snapshot: SnapshotId) -> io::Result<ProvenPages<'_>> {
        let mut hashes = HashList::new(self.hashes()?, self.geometry.page_count);
        if hashes.snapshot_id(self.geometry)? != snapshot {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its page hashes are those of another snapshot",
            ));
        }
        Ok(ProvenPages { pages: self.pages(), hashes, next: 1, ready: Vec::new(), given: 0 })
    }

    /// Reads page `no`.
    pub fn read_page(&self, no: PageNo, page: &mut [u8]) -> io::Result<()> {
        self.read_at(page, self.geometry.offset(no))
    }

    /// Pages that deltas changed.
    pub fn changed(&self) -> Option<&PageSet> {
        self.laid_over.as_ref().map(|laid| &laid.pages)
    }

    /// Writes the plain file to `path`, which is made or overwritten, for its owner to write: a clone where the file system can
    /// and the pages lie in a plain file.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        crate::durable::remove(path)?;
        let cloned = self.plain.as_ref().is_some_and(|plain| reflink_copy::reflink(plain, path).is_ok());
        if !cloned {
            return copy(&mut self.pages(), &mut open()?);
        }
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let file = open()?;
        file.set_len(self.geometry.bytes())?;
        let Some(laid) = &self.laid_over else { return Ok(()) };
        let size = self.geometry.page_size.as_usize();
        let mut buffer = Vec::new();
        for (no, count) in laid.pages.runs((RUN_BYTES / size) as u32) {
            buffer.resize(count as usize * size, 0);
            laid.file.read_exact_at(&mut buffer, self.geometry.offset(no))?;
            file.write_all_at(&buffer, self.geometry.offset(no))?;
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let size = u64::from(self.geometry.page_size.get());
        let end = at + buffer.len() as u64;
        let Some(laid) = &self.laid_over else { return self.whole.read_exact_at(buffer, at) };
        // What lies in the whole copy: one read, whatever is laid over some of it.
        let of_whole = self.whole.metadata()?.len().clamp(at, end) - at;
        self.whole.read_exact_at(&mut buffer[..of_whole as usize], at)?;
        for index in at / size..end.div_ceil(size) {
            let no =
                u32::try_from(index + 1).ok().and_then(PageNo::new).expect("BUG: a page beyond the last");
            if laid.pages.contains(no) {
                let (from, to) = ((index * size).max(at), ((index + 1) * size).min(end));
                laid.file.read_exact_at(&mut buffer[(from - at) as usize..(to - at) as usize], from)?;
            }
        }
        Ok(())
    }
}

impl Base for Content {
    fn read(&mut self, no: PageNo, page: &mut [u8]) -> io::Result<()> {
        self.read_page(no, page)
    }
}

/// The pages of a copy in order.
pub struct Pages<'a> {
    content: &'a Content,
    at: u64,
}

impl Read for Pages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.geometry.bytes() - self.at;
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.content.read_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The pages of a copy in order, none of which is other than it should be.
pub struct ProvenPages<'a> {
    pages: Pages<'a>,
    hashes: HashList<File>,
    /// The next page to be looked at.
    next: u32,
    /// Pages that were looked at, and how many of their bytes were given out.
    ready: Vec<u8>,
    given: usize,
}

impl ProvenPages<'_> {
    fn look_at_more(&mut self) -> io::Result<()> {
        let left = self.pages.content.geometry.bytes() - self.pages.at;
        self.ready.resize(RUN_BYTES.min(usize::try_from(left).unwrap_or(RUN_BYTES)), 0);
        self.given = 0;
        self.pages.read_exact(&mut self.ready)?;
        for page in self.ready.chunks_exact(self.pages.content.geometry.page_size.as_usize()) {
            let no = PageNo::new(self.next).expect("BUG: page 0");
            if PageHash::of(page) != self.hashes.get(no)? {
                self.ready.clear();
                let why = format!("page {} is not what it was", no.get());
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            self.next += 1;
        }
        Ok(())
    }
}

impl Read for ProvenPages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.ready.len() {
            self.look_at_more()?;
        }
        let count = buffer.len().min(self.ready.len() - self.given);
        buffer[..count].copy_from_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// Copies through a small buffer, to the end: to let the system do it (`copy_file_range`) is no faster anywhere, and took four times as long
/// on ext4, for the reason that [`RUN_BYTES`] has.
pub fn copy(from: &mut dyn Read, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; RUN_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The list of page hashes beside copy `id`, of `geometry`.
fn open_list(source: &SourceDir, id: &str, geometry: Geometry) -> Result<File, Unreadable> {
    let names = ["pages", "pages.rotten"].map(|suffix| source.file(id, suffix));
    let path = names.iter().find(|path| path.exists()).unwrap_or(&names[0]);
    let file = File::open(path).map_err(|error| reading(path, &error))?;
    let len = file.metadata().map_err(|error| reading(path, &error))?.len();
    match len == u64::from(geometry.page_count) * PageHash::LEN as u64 {
        true => Ok(file),
        false => {
            let why = format!("{} has {len} bytes, for {} pages", named(path), geometry.page_count);
            Err(Unreadable::Rotten(why))
        }
    }
}

/// The page hashes of what `whole` holds, taken from its pages.
fn list_of(source: &SourceDir, whole: &File, geometry: Geometry) -> Result<File, Unreadable> {
    let mut list = HashList::new(scratch(source)?, geometry.page_count);
    let mut page = vec![0; geometry.page_size.as_usize()];
    for no in (1..=geometry.page_count).filter_map(PageNo::new) {
        let hashed = whole
            .read_exact_at(&mut page, geometry.offset(no))
            .and_then(|()| list.set(no, PageHash::of(&page)));
        hashed.map_err(|error| scratching(source, &error))?;
    }
    list.into_file().map_err(|error| scratching(source, &error))
}

/// Writes what is within `zipped`, the file at `path`, to `scratch`.
fn inflate(path: &Path, zipped: File, scratch: &mut File) -> Result<(), Unreadable> {
    let mut input = pack::unzipped(zipped);
    let mut buffer = vec![0; RUN_BYTES];
    loop {
        let read = input.read(&mut buffer).map_err(|error| reading(path, &error))?;
        if read == 0 {
            return Ok(());
        }
        let written = scratch.write_all(&buffer[..read]);
        written.map_err(|error| Fault::io(format!("a temporary file for {}", named(path)), &error))?;
    }
}

/// A file without a name, beside the copies; where nothing may be written there, where the system has its temporary files.
fn scratch(source: &SourceDir) -> Result<File, Unreadable> {
    let beside = tempfile::tempfile_in(source.copies_dir()).or_else(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => tempfile::tempfile(),
        _ => Err(error),
    });
    beside.map_err(|error| scratching(source, &error))
}

fn scratching(source: &SourceDir, error: &io::Error) -> Unreadable {
    Fault::io(format!("a temporary file in `{}`", source.copies_dir().display()), error).into()
}

/// An error while the store's own file at `path` was read.
fn reading(path: &Path, error: &io::Error) -> Unreadable {
    match error.kind() {
        io::ErrorKind::NotFound => Unreadable::Gone(format!("{} is gone", named(path))),
        _ if is_rot(error) => Unreadable::Rotten(format!("{} cannot be read: {error}", named(path))),
        _ => Fault::io(format!("`{}`", path.display()), error).into(),
    }
}

/// Whether `error`, met while a file of the store was read, says that the file is not what it was, or that its disk does not give it
/// back. All others, such as that this process has too many files open, say nothing of it: nobody is to be accused by them.
pub fn is_rot(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    // What gzip and we say of bytes, a file of another kind in the place of ours, and what disks and file systems say.
    matches!(
        error.kind(),
        E::InvalidData | E::InvalidInput | E::UnexpectedEof | E::IsADirectory | E::NotADirectory
    ) || error.raw_os_error().is_some_and(|code| DISK_ERRORS.contains(&code))
}

/// EIO and, of Linux, EUCLEAN and EBADMSG: what file systems with checksums say of blocks that rotted.
const DISK_ERRORS: &[i32] = &[
    rustix::io::Errno::IO.raw_os_error(),
    rustix::io::Errno::BADMSG.raw_os_error(),
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::io::Errno::UCLEAN.raw_os_error(),
];

/// The file's own name, as it is told.
pub fn named(path: &Path) -> String {
    format!("`{}`", path.file_name().unwrap_or_default().to_string_lossy())
}
