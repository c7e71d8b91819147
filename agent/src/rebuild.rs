//! Frames for a puller whose database was written anew, as by VACUUM: plain pages of a delta are rebuilt from others of the base.
//!
//! It is done after the hold, since it reads the whole mirror, and before the fold, while that still is the base. What comes of it
//! is only sent: the delta that is folded into the mirror stays as it is.

use crate::mirror_pages::MirrorPages;
use crate::origins::Origins;
use crate::spool::{Spool, Spooled};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Compression, Encoding, Frame, FrameError};
use pullback_shared::page::{Geometry, PageNo};
use pullback_shared::rebuilt::{self, SOURCES_BYTES_MAX};
use std::collections::HashSet;

/// Fewer plain pages are not worth it.
const PLAIN_PAGES_MIN: u32 = 256;

/// Nor are fewer than one in so many of the mirror's pages, each of which is read.
const PLAIN_PAGES_SHARE: u32 = 8;

/// A frame of which the mirror has less than one page for so many of its own is new content.
const PAGES_PER_SOURCE: usize = 8;

/// Whether `delta`, to a mirror that is `old`, is of such a database.
pub fn is_worth(delta: &Spooled, old: Geometry, compression: Compression) -> bool {
    let enough = PLAIN_PAGES_MIN.max(old.page_count / PLAIN_PAGES_SHARE);
    matches!(compression, Compression::Zstd(_)) && delta.plain_pages >= enough
}

/// The frames to send instead of those of `delta`, which leads from `old` to a snapshot of `geometry`, in the empty `spool`;
/// `None` where they do not fit or are no fewer bytes.
pub fn rebuild(
    delta: &mut Spooled,
    old: MirrorPages,
    geometry: Geometry,
    mut spool: Spool,
) -> Result<Option<Spooled>, Fault> {
    let mut frames = delta.frames()?;
    let origins = Origins::of(&old);
    let (pages, sources, seen) = (Vec::new(), Vec::new(), HashSet::new());
    let mut rebuilder = Rebuilder { origins, old, geometry, pages, sources, seen };
    while let Some(frame) = frames.next_frame()? {
        spool.push(rebuilder.frame(frame)?)?;
        if spool.is_full() {
            return Ok(None);
        }
    }
    spool.flush()?;
    if spool.is_full() {
        return Ok(None);
    }
    let rebuilt = spool.finish()?;
    tracing::debug!(plain = delta.bytes, rebuilt = rebuilt.bytes, "pages are rebuilt from others");
    Ok((rebuilt.bytes < delta.bytes).then_some(rebuilt))
}

struct Rebuilder {
    origins: Origins,
    old: MirrorPages,
    geometry: Geometry,
    /// Of a frame.
    pages: Vec<u8>,
    /// Pages that it is rebuilt from, one after the other.
    sources: Vec<u8>,
    seen: HashSet<PageNo>,
}

impl Rebuilder {
    /// `frame` as it is sent: no content that the base has, and no hashes.
    fn frame(&mut self, frame: Frame) -> Result<Frame, Fault> {
        let frame = Frame { hashes: Vec::new(), ..frame };
        match frame.encoding {
            Encoding::Plain => self.plain(frame),
            Encoding::Moved(_) => {
                Ok(Frame { payload: Default::default(), compression: Compression::None, ..frame })
            }
            Encoding::Patch | Encoding::Rebuilt(_) => Ok(frame),
        }
    }

    fn plain(&mut self, frame: Frame) -> Result<Frame, Fault> {
        let page_size = self.geometry.page_size;
        let count = frame.numbers(self.geometry).map_err(internal)?.len();
        frame.decompress(count * page_size.as_usize(), &mut self.pages).map_err(internal)?;
        let sources = self.find_sources()?;
        if sources.len() * PAGES_PER_SOURCE < count {
            return Ok(frame);
        }
        let prefix = rebuilt::prefix(&self.sources, page_size);
        let payload = rebuilt::compress(&self.pages, &prefix).map_err(internal)?;
        let numbers_len = sources.len() * size_of::<PageNo>();
        if payload.len() + numbers_len >= frame.payload.len() {
            return Ok(frame);
        }
        let (encoding, compression) = (Encoding::Rebuilt(sources), Compression::Zstd(0));
        Ok(Frame { encoding, compression, payload: payload.into(), ..frame })
    }

    /// Reads the pages of before that hold what `pages` do, each once, and gives their numbers.
    fn find_sources(&mut self) -> Result<Vec<PageNo>, Fault> {
        let size = self.geometry.page_size.as_usize();
        let mut numbers = Vec::new();
        self.seen.clear();
        for page in self.pages.chunks_exact(size) {
            self.origins.find(page, |no| {
                if numbers.len() < SOURCES_BYTES_MAX / size && self.seen.insert(no) {
                    numbers.push(no);
                }
            });
        }
        self.sources.clear();
        let mut whole = Vec::with_capacity(numbers.len());
        for no in numbers {
            let end = self.sources.len();
            self.sources.resize(end + size, 0);
            if self.old.read_now_if_whole(no, &mut self.sources[end..])? {
                whole.push(no);
            } else {
                self.sources.truncate(end);
            }
        }
        Ok(whole)
    }
}

fn internal(error: FrameError) -> Fault {
    Fault::new(Kind::Internal, error.to_string())
}
