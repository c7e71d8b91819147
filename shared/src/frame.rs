//! Frames: up to 1 MiB of pages, compressed as one, with a check value. On the wire and in the agent's spool files.

use crate::page::{Geometry, PageHash, PageNo, PageSize};
use crate::rebuilt;
use bytes::Bytes;
use std::io::{Read, Write};

/// Bytes of pages in one frame, at most.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// How the pages of a frame are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As they are.
    None,
    /// One zstd frame, of this level when made.
    Zstd(i32),
    /// One gzip member, of this level when made.
    Gzip(u32),
}

/// How the pages of a frame are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// Each XORed with the page of the same number of the base.
    Patch,
    /// Each equal to a page of the base, one number for each. With a payload the pages are there as well.
    Moved(Vec<PageNo>),
    /// Compressed with the help of these pages of the base, see [`rebuilt`].
    Rebuilt(Vec<PageNo>),
}

/// Pages on their way. Built by [`FrameBuilder`], or decoded at the edge and then opened with [`Frame::open`].
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// (first page, number of pages), in the order of the frame.
    pub runs: Vec<(PageNo, u32)>,
    /// How they are told.
    pub encoding: Encoding,
    /// Of the payload.
    pub compression: Compression,
    /// The pages, or what leads to them, one after the other, compressed as one.
    pub payload: Bytes,
    /// The first 8 bytes, little-endian, of BLAKE3 over the page hashes in order.
    pub check: u64,
    /// The page hashes; empty in a frame that came over the wire.
    pub hashes: Vec<PageHash>,
}

/// The pages that a frame's patches and moved pages refer to.
pub trait Base {
    /// Reads page `no` of the base into `page`.
    fn read(&mut self, no: PageNo, page: &mut [u8]) -> std::io::Result<()>;
}

/// No base: for frames of plain pages.
pub struct NoBase;

impl Base for NoBase {
    fn read(&mut self, no: PageNo, _page: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::Error::other(format!("page {} is told by a base where there is none", no.get())))
    }
}

impl Frame {
    /// How many pages the frame says it has.
    pub fn page_count(&self) -> u64 {
        self.runs.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Brings the frame's pages into `pages`, with the help of `base`, and hands each with its number and hash to `each`, once
    /// the check value proved all of them. A frame never yields more than it declares, nor more than [`FRAME_BYTES_MAX`].
    pub fn open<E: From<FrameError>>(
        &self,
        geometry: Geometry,
        base: &mut dyn Base,
        pages: &mut Vec<u8>,
        mut each: impl FnMut(PageNo, &[u8], PageHash) -> Result<(), E>,
    ) -> Result<(), E> {
        let numbers = self.numbers(geometry)?;
        let size = geometry.page_size.as_usize();
        match &self.encoding {
            Encoding::Moved(from) if self.payload.is_empty() => {
                if from.len() != numbers.len() {
                    return Err(FrameError::Moved.into());
                }
                pages.clear();
                pages.resize(numbers.len() * size, 0);
                for (no, page) in from.iter().zip(pages.chunks_exact_mut(size)) {
                    base.read(*no, page).map_err(FrameError::base)?;
                }
            }
            Encoding::Patch => {
                self.decompress(numbers.len() * size, pages)?;
                let mut old = vec![0; size];
                for (no, page) in numbers.iter().zip(pages.chunks_exact_mut(size)) {
                    base.read(*no, &mut old).map_err(FrameError::base)?;
                    xor(page, &old);
                }
            }
            Encoding::Rebuilt(sources) => {
                let Compression::Zstd(_) = self.compression else {
                    return Err(FrameError::Compression { name: "zstd" }.into());
                };
                let len = numbers.len() * size;
                rebuilt::open(&self.payload, sources, base, geometry.page_size, len, pages)?;
            }
            Encoding::Plain | Encoding::Moved(_) => self.decompress(numbers.len() * size, pages)?,
        }
        let hashes: Vec<PageHash> = pages.chunks_exact(size).map(PageHash::of).collect();
        if check_of(&hashes) != self.check {
            return Err(FrameError::Check.into());
        }
        for ((no, page), hash) in numbers.into_iter().zip(pages.chunks_exact(size)).zip(hashes) {
            each(no, page, hash)?;
        }
        Ok(())
    }

    /// The pages' numbers, in order; an error for numbers that `geometry` does not have, or too many of them.
    pub fn numbers(&self, geometry: Geometry) -> Result<Vec<PageNo>, FrameError> {
        let pages_max = (FRAME_BYTES_MAX / geometry.page_size.as_usize()) as u64;
        let count = self.page_count();
        if count == 0 || count > pages_max {
            return Err(FrameError::PageCount { count, pages_max });
        }
        let mut numbers = Vec::with_capacity(count as usize);
        for (first, run) in &self.runs {
            for step in 0..*run {
                let no = first.get().checked_add(step).and_then(PageNo::new).filter(|no| geometry.holds(*no));
                numbers.push(no.ok_or(FrameError::PageNo { page_count: geometry.page_count })?);
            }
        }
        Ok(numbers)
    }

    /// Decompresses the payload, which must be `len` bytes, into `bytes`.
    pub fn decompress(&self, len: usize, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
        bytes.clear();
        match self.compression {
            Compression::None => bytes.extend_from_slice(&self.payload),
            Compression::Zstd(_) => {
                bytes.resize(len, 0);
                let made = zstd::bulk::decompress_to_buffer(&self.payload, bytes.as_mut_slice())
                    .map_err(|_| FrameError::Compression { name: "zstd" })?;
                bytes.truncate(made);
            }
            Compression::Gzip(_) => {
                let reader = flate2::read::GzDecoder::new(self.payload.as_ref());
                reader
                    .take(len as u64 + 1)
                    .read_to_end(bytes)
                    .map_err(|_| FrameError::Compression { name: "gzip" })?;
            }
        }
        match bytes.len() == len {
            true => Ok(()),
            false => Err(FrameError::Length { expected: len, found: bytes.len() }),
        }
    }
}

/// Makes a patch of a page, or a page of its patch: XOR is its own inverse, so a patch leads both ways.
pub fn xor(page: &mut [u8], other: &[u8]) {
    page.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
}

/// Collects pages, in the order they come, until a frame is full.
pub struct FrameBuilder {
    page_size: PageSize,
    kind: Kind,
    compressor: Compressor,
    moved_from: Vec<PageNo>,
    runs: Vec<(PageNo, u32)>,
    pages: Vec<u8>,
    hashes: Vec<PageHash>,
}

/// What a builder's frames hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Pages as they are.
    Plain,
    /// Pages XORed with those of the base.
    Patch,
    /// Pages that stand elsewhere in the base, with their content.
    Moved,
}

enum Compressor {
    None,
    Zstd(i32, Box<zstd::bulk::Compressor<'static>>),
    Gzip(u32),
}

impl FrameBuilder {
    /// A builder for pages of `page_size`.
    pub fn new(page_size: PageSize, kind: Kind, compression: Compression) -> Result<Self, FrameError> {
        let compressor = match compression {
            Compression::None => Compressor::None,
            Compression::Gzip(level) => Compressor::Gzip(level),
            Compression::Zstd(level) => Compressor::Zstd(
                level,
                Box::new(
                    zstd::bulk::Compressor::new(level)
                        .map_err(|_| FrameError::Compression { name: "zstd" })?,
                ),
            ),
        };
        Ok(Self {
            page_size,
            kind,
            compressor,
            moved_from: Vec::new(),
            runs: Vec::new(),
            pages: Vec::with_capacity(FRAME_BYTES_MAX),
            hashes: Vec::new(),
        })
    }

    /// Adds `page`, which equals page `from` of the base; gives the frame when that made it full.
    pub fn push_moved(
        &mut self,
        no: PageNo,
        from: PageNo,
        page: &[u8],
        hash: PageHash,
    ) -> Result<Option<Frame>, FrameError> {
        self.moved_from.push(from);
        self.push(no, page, hash)
    }

    /// Adds `page`, or its patch, with the hash of the page; gives the frame when that made it full.
    pub fn push(&mut self, no: PageNo, page: &[u8], hash: PageHash) -> Result<Option<Frame>, FrameError> {
        assert_eq!(page.len(), self.page_size.as_usize(), "BUG: a page of another size in a frame");
        match self.runs.last_mut() {
            Some((first, count)) if first.get() + *count == no.get() => *count += 1,
            _ => self.runs.push((no, 1)),
        }
        self.pages.extend_from_slice(page);
        self.hashes.push(hash);
        match self.pages.len() + self.page_size.as_usize() > FRAME_BYTES_MAX {
            true => self.finish(),
            false => Ok(None),
        }
    }

    /// The frame of the pages added since the last one, if there are any.
    pub fn finish(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.runs.is_empty() {
            return Ok(None);
        }
        let (compression, payload) = self.compress()?;
        let encoding = match self.kind {
            Kind::Plain => Encoding::Plain,
            Kind::Patch => Encoding::Patch,
            Kind::Moved => Encoding::Moved(std::mem::take(&mut self.moved_from)),
        };
        let frame = Frame {
            runs: std::mem::take(&mut self.runs),
            encoding,
            compression,
            payload: Bytes::from(payload),
            check: check_of(&self.hashes),
            hashes: std::mem::take(&mut self.hashes),
        };
        self.pages.clear();
        Ok(Some(frame))
    }

    fn compress(&mut self) -> Result<(Compression, Vec<u8>), FrameError> {
        let (compression, payload) = match &mut self.compressor {
            Compressor::None => return Ok((Compression::None, self.pages.clone())),
            Compressor::Zstd(level, zstd) => (Compression::Zstd(*level), zstd.compress(&self.pages)),
            Compressor::Gzip(level) => {
                let strength = flate2::Compression::new(*level);
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), strength);
                (Compression::Gzip(*level), gzip.write_all(&self.pages).and_then(|()| gzip.finish()))
            }
        };
        let payload = payload.map_err(|_| FrameError::Compression { name: "frame" })?;
        Ok(if payload.len() < self.pages.len() {
            (compression, payload)
        } else {
            (Compression::None, self.pages.clone())
        })
    }
}

/// The check value of a frame of pages with `hashes`.
pub fn check_of(hashes: &[PageHash]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hashes.iter().for_each(|hash| {
        hasher.update(&hash.0);
    });
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// A frame that is not what it says. On the wire: the peer or the line is broken; in a file: rot.
#[derive(thiserror::Error, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Too many pages in it, or none.
    #[error("a frame of {count} pages; 1 to {pages_max} are allowed")]
    PageCount {
        /// What the frame says.
        count: u64,
        /// What it may say.
        pages_max: u64,
    },
    /// A page number that the snapshot does not have.
    #[error("a frame names a page beyond the {page_count} of its snapshot")]
    PageNo {
        /// Pages of the snapshot.
        page_count: u32,
    },
    /// The payload does not decompress.
    #[error("the pages of a frame do not ({name}) decompress")]
    Compression {
        /// The compression's name.
        name: &'static str,
    },
    /// The payload is not as long as the pages it declares.
    #[error("a frame of {expected} bytes of pages holds {found}")]
    Length {
        /// Bytes of the declared pages.
        expected: usize,
        /// Bytes found, or one more than expected.
        found: usize,
    },
    /// A page that stands elsewhere, and it is not said where.
    #[error("a frame of moved pages does not say where each came from")]
    Moved,
    /// Rebuilt from too many pages, or from none.
    #[error("a frame that is rebuilt from {count} pages of the base; 1 to {sources_max} are allowed")]
    Sources {
        /// What the frame says.
        count: usize,
        /// What it may say.
        sources_max: usize,
    },
    /// The base that the frame refers to cannot be read.
    #[error("the base cannot be read: {why}")]
    Base {
        /// What the system said.
        why: String,
    },
    /// The pages are others than those that were put in.
    #[error("the pages of a frame fail its check value")]
    Check,
}

impl FrameError {
    /// The base cannot be read.
    pub(crate) fn base(error: std::io::Error) -> Self {
        Self::Base { why: error.to_string() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pages = Vec<(u32, Vec<u8>)>;

    fn build(pages: &Pages, compression: Compression) -> Vec<Frame> {
        let mut builder = FrameBuilder::new(PageSize::new(512).unwrap(), Kind::Plain, compression).unwrap();
        let mut frames = Vec::new();
        for (number, page) in pages {
            frames.extend(builder.push(PageNo::new(*number).unwrap(), page, PageHash::of(page)).unwrap());
        }
        frames.extend(builder.finish().unwrap());
        frames
    }

    fn read(frame: &Frame, page_count: u32) -> Result<Pages, FrameError> {
        let mut found = Vec::new();
        let geometry = Geometry::new(512, page_count).unwrap();
        frame.open(geometry, &mut NoBase, &mut Vec::new(), |no, page, hash| {
            assert_eq!(hash, PageHash::of(page));
            found.push((no.get(), page.to_vec()));
            Ok::<(), FrameError>(())
        })?;
        Ok(found)
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            numbers in prop::collection::vec(1u32..10_000, 1..40),
            byte in any::<u8>(),
            kind in 0usize..3,
        ) {
            let pages: Pages = numbers.iter().map(|n| (*n, vec![byte.wrapping_add(*n as u8); 512])).collect();
            let compression = [Compression::None, Compression::Zstd(1), Compression::Gzip(1)][kind];
            let found: Pages = build(&pages, compression).iter().flat_map(|f| read(f, 10_000).unwrap()).collect();
            prop_assert_eq!(found, pages);
        }

        #[test]
        fn a_changed_frame_is_noticed(at in any::<prop::sample::Index>(), bit in 0u32..8, kind in 0usize..3) {
            let compression = [Compression::None, Compression::Zstd(1), Compression::Gzip(1)][kind];
            let pages: Pages = (1..20).map(|n| (n, (0..512).map(|i| (i * n) as u8).collect())).collect();
            let mut frame = build(&pages, compression).remove(0);
            let mut payload = frame.payload.to_vec();
            let at = at.index(payload.len());
            payload[at] ^= 1u8 << bit;
            frame.payload = payload.into();
            // A flip in a part of a container that holds no content (gzip's time stamp) changes no page.
            if let Ok(found) = read(&frame, 100) {
                prop_assert_eq!(found, pages);
            }
        }
    }

    /// A base in memory.
    pub(crate) struct Old(pub(crate) Vec<Vec<u8>>);

    impl Base for Old {
        fn read(&mut self, no: PageNo, page: &mut [u8]) -> std::io::Result<()> {
            let old = self.0.get(no.index() as usize).ok_or(std::io::ErrorKind::UnexpectedEof)?;
            page.copy_from_slice(old);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn patches_lead_there_and_back(
            old in prop::collection::vec(prop::collection::vec(any::<u8>(), 512), 1..20),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0usize..512, any::<u8>()), 0..40),
            kind in 0usize..3,
        ) {
            let mut new = old.clone();
            for (page, at, byte) in flips {
                let index = page.index(new.len());
                new[index][at] = byte;
            }
            let compression = [Compression::None, Compression::Zstd(1), Compression::Gzip(1)][kind];
            let geometry = Geometry::new(512, old.len() as u32).unwrap();
            for (from, to) in [(&old, &new), (&new, &old)] {
                let mut builder = FrameBuilder::new(geometry.page_size, Kind::Patch, compression).unwrap();
                for (index, page) in to.iter().enumerate() {
                    let mut patch = page.clone();
                    xor(&mut patch, &from[index]);
                    let no = PageNo::new(index as u32 + 1).unwrap();
                    prop_assert!(builder.push(no, &patch, PageHash::of(page)).unwrap().is_none());
                }
                let frame = builder.finish().unwrap().unwrap();
                let mut found = Vec::new();
                frame.open(geometry, &mut Old(from.clone()), &mut Vec::new(), |_, page, _| {
                    found.push(page.to_vec());
                    Ok::<(), FrameError>(())
                }).unwrap();
                prop_assert_eq!(&found, to);
                // A base that is another one is noticed.
                if let Some(byte) = from.first().and_then(|page| page.first()) {
                    let mut wrong = from.clone();
                    wrong[0][0] = byte ^ 1;
                    let opened = frame.open(geometry, &mut Old(wrong), &mut Vec::new(), |_, _, _| Ok::<(), FrameError>(()));
                    prop_assert_eq!(opened, Err(FrameError::Check));
                }
            }
        }
    }

    #[test]
    fn moved_pages_are_read_from_the_base() {
        let old: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 512]).collect();
        let geometry = Geometry::new(512, 5).unwrap();
        let mut builder = FrameBuilder::new(geometry.page_size, Kind::Moved, Compression::Zstd(1)).unwrap();
        for (to, from) in [(1, 5), (2, 1), (5, 2)] {
            let page = &old[from as usize - 1];
            let (to, from) = (PageNo::new(to).unwrap(), PageNo::new(from).unwrap());
            builder.push_moved(to, from, page, PageHash::of(page)).unwrap();
        }
        let whole = builder.finish().unwrap().unwrap();
        let bare = Frame { payload: Bytes::new(), ..whole.clone() };
        for frame in [whole, bare.clone()] {
            let mut found = Vec::new();
            frame
                .open(geometry, &mut Old(old.clone()), &mut Vec::new(), |no, page, _| {
                    found.push((no.get(), page[0]));
                    Ok::<(), FrameError>(())
                })
                .unwrap();
            assert_eq!(found, [(1, 4), (2, 0), (5, 1)]);
        }
        let short = Frame { encoding: Encoding::Moved(vec![PageNo::FIRST]), ..bare };
        let opened = short.open(geometry, &mut Old(old), &mut Vec::new(), |_, _, _| Ok::<(), FrameError>(()));
        assert_eq!(opened, Err(FrameError::Moved));
    }

    #[test]
    fn frames_hold_at_most_one_mebibyte_of_pages() {
        let pages: Pages = (1..=5000).map(|n| (n, vec![1; 512])).collect();
        let frames = build(&pages, Compression::Zstd(1));
        assert_eq!(frames.iter().map(Frame::page_count).collect::<Vec<_>>(), [2048, 2048, 904]);
    }

    #[test]
    fn a_frame_yields_no_more_than_it_declares() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let frame = |runs: Vec<(u32, u32)>, compression, payload: &[u8]| Frame {
            runs: runs.into_iter().map(|(first, count)| (PageNo::new(first).unwrap(), count)).collect(),
            encoding: Encoding::Plain,
            compression,
            payload: Bytes::copy_from_slice(payload),
            check: 0,
            hashes: Vec::new(),
        };
        let wrong = |frame: Frame| read(&frame, 10).unwrap_err();
        assert_eq!(
            wrong(frame(vec![(1, 1)], Compression::Zstd(1), &bomb)),
            FrameError::Compression { name: "zstd" }
        );
        assert!(matches!(wrong(frame(vec![], Compression::None, &[])), FrameError::PageCount { .. }));
        assert!(matches!(
            wrong(frame(vec![(1, 5000)], Compression::None, &[])),
            FrameError::PageCount { .. }
        ));
        assert!(matches!(
            wrong(frame(vec![(11, 1)], Compression::None, &[0; 512])),
            FrameError::PageNo { .. }
        ));
        assert!(matches!(
            wrong(frame(vec![(u32::MAX, 2)], Compression::None, &[])),
            FrameError::PageNo { .. }
        ));
        assert!(matches!(
            wrong(frame(vec![(1, 1)], Compression::None, &[0; 511])),
            FrameError::Length { .. }
        ));
        assert_eq!(wrong(frame(vec![(1, 1)], Compression::None, &[0; 512])), FrameError::Check);
    }
}
