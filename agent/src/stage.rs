//! The stage: the whole content that a restore puts in place, in one file of the agent's own, proven before anything is touched.

use crate::call::{Inbound, PULLER_WAIT};
use crate::durable;
use crate::mirror::Mirror;
use crate::one_file::read_back;
use crate::settings::Settings;
use crate::view::{Found, View};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Base, FRAME_BYTES_MAX, FrameError};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::page_set::PageSet;
use pullback_shared::pb;
use pullback_shared::restoring::{Content, Request};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// What the name of a stage in the state directory begins with.
const PREFIX: &str = ".pullback-stage-";

/// The view of the snapshot `base` of the database at `target`, if its mirror has it and pages of `content` may build upon it.
pub fn base_view(settings: &Settings, target: &Path, content: &Content) -> Result<Option<View>, Fault> {
    let Some(((snapshot, page_count), state_dir)) = content.base.zip(settings.state_dir.as_ref()) else {
        return Ok(None);
    };
    if !settings.mirror {
        return Ok(None);
    }
    let geometry = Geometry::new(content.geometry.page_size.get(), page_count);
    match (Mirror::open(state_dir, target), geometry) {
        (Ok(mirror), Some(geometry)) if mirror.knows(snapshot, geometry) => mirror.view(snapshot),
        _ => Ok(None),
    }
}

/// Removes from `dir` the stages that were left by agents that died.
pub fn sweep(dir: &Path) -> Result<(), Fault> {
    let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
    for entry in dir.read_dir().map_err(io)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // Another agent may have taken it away since.
            durable::remove(&entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

/// An empty file for a stage in `dir`, locked as long as it is open.
pub fn file_in(dir: &Path) -> Result<NamedTempFile, Fault> {
    let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
    let stage = tempfile::Builder::new().prefix(PREFIX).suffix(".db").tempfile_in(dir).map_err(io)?;
    stage.as_file().try_lock().map_err(|error| io(error.into()))?;
    Ok(stage)
}

/// Fills `file` with what `content` says, out of `base` and of the frames that the puller sends, and proves it.
pub fn fill(
    file: &File,
    content: &Content,
    base: Option<View>,
    inbound: &mut Inbound<pb::RestoreRequest>,
) -> Result<(), Fault> {
    let geometry = content.geometry;
    let io = |error: io::Error| Fault::io("the stage of a restore", &error);
    file.set_len(geometry.bytes()).map_err(io)?;
    let mut there = PageSet::none(geometry.page_count);
    if let Some(view) = base {
        lay_base(file, geometry, view, &mut there)?;
    }
    let mut sent = PageSet::none(geometry.page_count);
    let (mut stage, mut pages) = (Staging(file, geometry), Vec::new());
    loop {
        let frame = match inbound.next_request(PULLER_WAIT)? {
            Request::Frame(frame) => frame,
            Request::End => break,
            _ => return Err(broken("something else where pages were due")),
        };
        frame.open(geometry, &mut stage, &mut pages, |no, page, _| {
            if sent.contains(no) {
                return Err(Broken(broken(format!("page {} comes twice", no.get()))));
            }
            sent.insert(no);
            there.insert(no);
            file.write_all_at(page, geometry.offset(no)).map_err(|error| Broken(io(error)))
        })?;
    }
    let mut numbers = (1..=geometry.page_count).filter_map(PageNo::new);
    if let Some(no) = numbers.find(|no| !there.contains(*no)) {
        return Err(broken(format!("page {} is missing", no.get())));
    }
    prove(file, content)
}

/// Copies the file at `from`, which is here, into `file`, and proves it.
pub fn copy_local(from: &Path, file: &File, content: &Content) -> Result<(), Fault> {
    let io = |error: io::Error| Fault::io(format!("`{}`", from.display()), &error);
    io::copy(&mut File::open(from).map_err(io)?, &mut &*file).map_err(io)?;
    prove(file, content)
}

/// Where the content lies that was staged.
pub enum Staged {
    /// In a file of the state directory, which goes with this.
    InState(NamedTempFile),
    /// In a file that the puller named, behind the local door.
    Local(PathBuf),
}

impl Staged {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::InState(file) => file.path(),
            Self::Local(path) => path,
        }
    }
}

fn prove(file: &File, content: &Content) -> Result<(), Fault> {
    let io = |error: io::Error| Fault::io("the stage of a restore", &error);
    let len = file.metadata().map_err(io)?.len();
    let found = match len == content.geometry.bytes() {
        true => Some(read_back(file, content.geometry, |_| {}).map_err(io)?),
        false => None,
    };
    match found == Some(content.snapshot) {
        true => Ok(()),
        false => Err(Fault::new(Kind::Unproven, "what arrived is not the copy that is to be restored; nothing was changed")
            .hint("try again; if that does not help, the disk of one side may be failing: `puller verify` looks at the copies")),
    }
}

/// Brings the pages of the base that the content has room for into the stage.
fn lay_base(file: &File, geometry: Geometry, mut view: View, there: &mut PageSet) -> Result<(), Fault> {
    let size = geometry.page_size.as_usize();
    let count = view.state().geometry.page_count.min(geometry.page_count);
    let at_once = (FRAME_BYTES_MAX / size) as u32;
    let (mut pages, mut hashes): (Vec<u8>, Vec<PageHash>) = (Vec::new(), Vec::new());
    for number in (1..=count).step_by(at_once as usize) {
        let run = at_once.min(count - number + 1);
        let first = PageNo::new(number).expect("BUG: page 0");
        pages.resize(run as usize * size, 0);
        if view.read(first, &mut pages, &mut hashes)? == Found::Gone {
            return Err(Fault::new(
                Kind::Unproven,
                "the agent's mirror lost the state that the safety copy has",
            )
            .hint("try again"));
        }
        file.write_all_at(&pages, geometry.offset(first))
            .map_err(|error| Fault::io("the stage of a restore", &error))?;
        (number..number + run).filter_map(PageNo::new).for_each(|no| there.insert(no));
    }
    Ok(())
}

/// The base of patches: what was laid into the stage before the frame.
struct Staging<'a>(&'a File, Geometry);

impl Base for Staging<'_> {
    fn read(&mut self, no: PageNo, page: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(page, self.1.offset(no))
    }
}

/// A fault that [`pullback_shared::frame::Frame::open`] can pass on.
struct Broken(Fault);

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self(broken(error.to_string()))
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        broken.0
    }
}

fn broken(what: impl std::fmt::Display) -> Fault {
    Fault::new(Kind::Protocol, format!("the puller broke the protocol: {what}"))
        .hint("update both programs to the same release")
}
