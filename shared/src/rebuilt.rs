//! Pages that are rebuilt from others of the base: compressed with the cells of those as a prefix that both sides have.
//!
//! After a VACUUM a page holds the rows of some pages of before, often of none with the same number. A prefix of these pages, laid
//! out as a VACUUM does it, turns them into a few long references.

use crate::cells;
use crate::frame::{Base, FRAME_BYTES_MAX, FrameError};
use crate::page::{PageNo, PageSize};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

/// Bytes of the pages of the base that one frame is rebuilt from, at most. Pages before a VACUUM are less full than after it.
pub const SOURCES_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// The level of zstd. Level 1 keeps no index of short references, and makes twice as many bytes in about the same time.
const LEVEL: i32 = 3;

/// The window holds a prefix and a frame.
const WINDOW_LOG: u32 = (SOURCES_BYTES_MAX + FRAME_BYTES_MAX).next_power_of_two().ilog2();

/// Slots of the indexes of references, 4 bytes each: what zstd takes for its own loses a tenth here, more of them win little.
const TABLE_LOG: u32 = 18;

/// What `sources`, one page after the other in their order in a frame, are a prefix of: never more bytes than they have.
pub fn prefix(sources: &[u8], page_size: PageSize) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(sources.len());
    sources.chunks_exact(page_size.as_usize()).for_each(|page| cells::lay_out(page, &mut prefix));
    prefix
}

/// Compresses `pages` with the help of `prefix`.
pub fn compress(pages: &[u8], prefix: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::with_capacity(zstd::zstd_safe::compress_bound(pages.len()));
    let compressed = (|| {
        let mut zstd = CCtx::create();
        zstd.set_parameter(CParameter::CompressionLevel(LEVEL))?;
        zstd.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        zstd.set_parameter(CParameter::HashLog(TABLE_LOG))?;
        zstd.set_parameter(CParameter::ChainLog(TABLE_LOG))?;
        zstd.ref_prefix(prefix)?;
        zstd.compress2(&mut payload, pages)
    })();
    compressed.map(|_| payload).map_err(|_| FrameError::Compression { name: "zstd" })
}

/// The opposite of [`compress`], into the first bytes of `pages`; gives their number. No more is ever made.
fn decompress(payload: &[u8], prefix: &[u8], pages: &mut [u8]) -> Result<usize, FrameError> {
    let mut zstd = DCtx::create();
    let made = zstd.ref_prefix(prefix).and_then(|_| zstd.decompress(pages, payload));
    made.map_err(|_| FrameError::Compression { name: "zstd" })
}

/// Rebuilds the `len` bytes of pages in `payload` from pages `sources` of `base`, into `pages`.
pub fn open(
    payload: &[u8],
    sources: &[PageNo],
    base: &mut dyn Base,
    page_size: PageSize,
    len: usize,
    pages: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let sources_max = SOURCES_BYTES_MAX / page_size.as_usize();
    if sources.is_empty() || sources.len() > sources_max {
        return Err(FrameError::Sources { count: sources.len(), sources_max });
    }
    let mut read = vec![0; sources.len() * page_size.as_usize()];
    for (no, page) in sources.iter().zip(read.chunks_exact_mut(page_size.as_usize())) {
        base.read(*no, page).map_err(FrameError::base)?;
    }
    let prefix = prefix(&read, page_size);
    drop(read);
    pages.clear();
    pages.resize(len, 0);
    match decompress(payload, &prefix, pages)? {
        found if found == len => Ok(()),
        found => Err(FrameError::Length { expected: len, found }),
    }
}
