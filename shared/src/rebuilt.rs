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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::Old;
    use crate::frame::{Compression, Encoding, Frame, check_of};
    use crate::page::{Geometry, PageHash};
    use crate::wire;
    use proptest::prelude::*;

    const SIZE: usize = 512;

    /// A leaf of a table with these rows of 40 bytes, in pages of 512 bytes.
    fn leaf(rows: &[u8]) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        page[0] = 13;
        page[4] = rows.len() as u8;
        for (index, row) in rows.iter().enumerate() {
            let start = SIZE - 40 * (index + 1);
            page[8 + 2 * index..][..2].copy_from_slice(&(start as u16).to_be_bytes());
            for (at, byte) in page[start..start + 40].iter_mut().enumerate() {
                *byte = row.wrapping_mul(31).wrapping_add((at * at) as u8) ^ row.rotate_left(at as u32);
            }
        }
        page
    }

    /// A frame of `new`, from page 1 on, rebuilt from the pages `from` of `old`.
    fn rebuild(new: &[Vec<u8>], old: &[Vec<u8>], from: &[u32]) -> Frame {
        let sources: Vec<u8> = from.iter().flat_map(|no| old[*no as usize - 1].clone()).collect();
        let payload = compress(&new.concat(), &prefix(&sources, PageSize::new(512).unwrap())).unwrap();
        let hashes: Vec<PageHash> = new.iter().map(|page| PageHash::of(page)).collect();
        Frame {
            runs: vec![(PageNo::FIRST, new.len() as u32)],
            encoding: Encoding::Rebuilt(from.iter().filter_map(|no| PageNo::new(*no)).collect()),
            compression: Compression::Zstd(0),
            payload: payload.into(),
            check: check_of(&hashes),
            hashes: Vec::new(),
        }
    }

    fn read(frame: &Frame, old: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, FrameError> {
        let (mut found, mut base) = (Vec::new(), Old(old.to_vec()));
        frame.open(Geometry::new(512, 5000).unwrap(), &mut base, &mut Vec::new(), |_, page, _| {
            found.push(page.to_vec());
            Ok::<(), FrameError>(())
        })?;
        Ok(found)
    }

    fn travelled(frame: Frame) -> Frame {
        wire::decode_frame(wire::encode_frame(frame)).unwrap()
    }

    proptest! {
        #[test]
        fn rebuilt_pages_lead_there_and_a_wrong_base_is_noticed(
            old in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 1..20),
            noise in prop::collection::vec(any::<u8>(), SIZE),
            from in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
            at in any::<prop::sample::Index>(),
        ) {
            // The rows of all old pages, and some that are new, in full pages; and a page of anything.
            let mut rows = old.concat();
            rows.extend([3, 7, 11]);
            let mut new: Vec<Vec<u8>> = rows.chunks(12).map(leaf).collect();
            new.push(noise.clone());
            let mut old: Vec<Vec<u8>> = old.iter().map(|rows| leaf(rows)).collect();
            old.push(noise);
            let from: Vec<u32> = from.iter().map(|index| index.index(old.len()) as u32 + 1).collect();
            let frame = travelled(rebuild(&new, &old, &from));
            prop_assert_eq!(&read(&frame, &old).unwrap(), &new);
            // Another page than the one it was made from: either nothing was taken from where it differs, or it is noticed.
            let changed = from[at.index(from.len())] as usize - 1;
            old[changed].iter_mut().for_each(|byte| *byte ^= 0x55);
            if let Ok(found) = read(&frame, &old) {
                prop_assert_eq!(found, new);
            }
        }
    }

    #[test]
    fn rows_that_moved_to_other_pages_are_few_bytes() {
        let old: Vec<Vec<u8>> = (0u8..200).collect::<Vec<_>>().chunks(7).map(leaf).collect();
        let new: Vec<Vec<u8>> = (0u8..200).collect::<Vec<_>>().chunks(12).map(leaf).collect();
        let from: Vec<u32> = (1..=old.len() as u32).collect();
        let frame = rebuild(&new, &old, &from);
        assert_eq!(read(&frame, &old).unwrap(), new);
        let plain = zstd::bulk::compress(&new.concat(), 3).unwrap().len();
        assert!(frame.payload.len() * 3 < plain, "{} bytes instead of {plain}", frame.payload.len());
        // The page that all else came from is another one.
        let mut wrong = old;
        wrong.iter_mut().for_each(|page| page[SIZE - 20] ^= 1);
        assert_eq!(read(&frame, &wrong), Err(FrameError::Check));
    }

    #[test]
    fn frames_that_are_rebuilt_from_too_much_or_from_nothing_are_refused() {
        let old = vec![leaf(&[1, 2, 3]); 5];
        let whole = rebuild(&[leaf(&[1, 3])], &old, &[1, 5]);
        let with = |from: Vec<u32>| {
            let from = from.into_iter().filter_map(PageNo::new).collect();
            Frame { encoding: Encoding::Rebuilt(from), ..whole.clone() }
        };
        let sources_max = SOURCES_BYTES_MAX / SIZE;
        for count in [0, sources_max + 1] {
            let refused = Err(FrameError::Sources { count, sources_max });
            assert_eq!(read(&with(vec![1; count]), &old), refused);
        }
        assert!(matches!(read(&with(vec![1, 6]), &old), Err(FrameError::Base { .. })));
        let gzip = Frame { compression: Compression::Gzip(1), ..whole.clone() };
        assert_eq!(read(&gzip, &old), Err(FrameError::Compression { name: "zstd" }));
        // At the edge.
        let decoded = |from: Vec<u32>| {
            let message = wire::encode_frame(whole.clone());
            wire::decode_frame(crate::pb::Frame { rebuilt_from: from, ..message })
        };
        assert!(decoded(vec![1; sources_max]).is_ok());
        assert!(decoded(vec![1; sources_max + 1]).is_err());
        assert!(decoded(vec![1, 0]).is_err());
    }

    #[test]
    fn a_rebuilt_frame_yields_no_more_than_it_declares() {
        let old = vec![vec![7; SIZE]; 2];
        let bomb = vec![vec![7; SIZE]; 4000];
        let frame = Frame { runs: vec![(PageNo::FIRST, 1)], ..rebuild(&bomb, &old, &[1, 2]) };
        assert_eq!(read(&frame, &old), Err(FrameError::Compression { name: "zstd" }));
        let short = Frame { runs: vec![(PageNo::FIRST, 2)], ..rebuild(&bomb[..1], &old, &[1, 2]) };
        assert_eq!(read(&short, &old), Err(FrameError::Length { expected: 2 * SIZE, found: SIZE }));
    }
}
