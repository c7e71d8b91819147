//! What the fuzz targets share: a base in memory, and what must hold of every frame that opens.

use pullback_shared::frame::{Base, FRAME_BYTES_MAX, Frame, FrameError};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use std::io;

/// Characters that one character of foreign text becomes at most: `\u{10ffff}`.
const ESCAPE_CHARS_MAX: usize = 10;

/// A base in memory.
pub struct Pages {
    /// Of the pages.
    pub geometry: Geometry,
    /// One after the other.
    pub bytes: Vec<u8>,
}

impl Base for Pages {
    fn read(&mut self, no: PageNo, page: &mut [u8]) -> io::Result<()> {
        let size = self.geometry.page_size.as_usize();
        let start = usize::try_from(self.geometry.offset(no)).map_err(io::Error::other)?;
        let old = self.bytes.get(start..start + size).ok_or(io::ErrorKind::UnexpectedEof)?;
        page.copy_from_slice(old);
        Ok(())
    }
}

/// The check value of pages with `hashes`, as `proto/` has it.
pub fn check_of(hashes: impl Iterator<Item = PageHash>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for hash in hashes {
        hasher.update(&hash.0);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Opens `frame` and holds what it yields against what it declares. The pages, with their numbers, if it opens.
pub fn open(
    frame: &Frame,
    geometry: Geometry,
    base: &mut Pages,
) -> Result<Vec<(PageNo, Vec<u8>)>, FrameError> {
    let (mut buffer, mut found, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let opened = frame.open(geometry, base, &mut buffer, |no, page, hash| {
        assert!(geometry.holds(no), "a page that the snapshot does not have");
        assert_eq!(page.len(), geometry.page_size.as_usize());
        assert_eq!(hash, PageHash::of(page), "a page with another's hash");
        found.push((no, page.to_vec()));
        hashes.push(hash);
        Ok::<(), FrameError>(())
    });
    // Decompression asks for room as it goes; a vector that grows has up to twice what is in it.
    assert!(buffer.capacity() <= 2 * FRAME_BYTES_MAX + 64, "{} bytes of room", buffer.capacity());
    match opened {
        Ok(()) => {
            assert_eq!(found.len() as u64, frame.page_count(), "more or fewer pages than declared");
            assert!(found.len() * geometry.page_size.as_usize() <= FRAME_BYTES_MAX);
            assert_eq!(
                check_of(hashes.into_iter()),
                frame.check,
                "pages that the check value does not prove"
            );
            Ok(found)
        }
        Err(error) => {
            assert!(found.is_empty(), "pages of a frame that does not open");
            if error == FrameError::Check {
                // The fuzzer finds no check value: the right one is made from what would have been handed on.
                let size = geometry.page_size.as_usize();
                let check = check_of(buffer.chunks_exact(size).map(PageHash::of));
                assert_ne!(check, frame.check, "a frame refused for a check value that is right");
                return open(&Frame { check, ..frame.clone() }, geometry, base);
            }
            Err(error)
        }
    }
}

/// Holds text that came from a peer against what a terminal may be given, and `limit`.
pub fn assert_printable(text: &str, limit: usize) {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{2028}' | '\u{2029}');
    assert!(!text.chars().any(|c| c.is_control() || turns(c)), "{text:?}");
    assert!(text.chars().count() <= limit * ESCAPE_CHARS_MAX + 1, "{} bytes of text", text.len());
}
