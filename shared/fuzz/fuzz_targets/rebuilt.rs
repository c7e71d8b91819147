//! Pages rebuilt from others of the base: what was compressed comes back, whatever the base's pages look like; what was not is
//! refused, or yields no more than it declares.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pullback_fuzz::{Pages, check_of, open};
use pullback_shared::cells;
use pullback_shared::frame::{Compression, Encoding, Frame};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::rebuilt::{compress, prefix};

/// Bytes of a page.
const SIZE: usize = 512;

/// Pages of the base, at most.
const BASE_MAX: usize = 32;

#[derive(Arbitrary, Debug)]
struct Input {
    /// The base, page after page.
    base: Vec<u8>,
    /// Which pages of the base the frame names; some may not be there.
    sources: Vec<u8>,
    /// What the rebuilt pages hold: parts of the base, by where they begin and how long they are, or a byte of their own.
    parts: Vec<(u16, u16, u8)>,
    pages: u8,
    /// Changes to the payload.
    flips: Vec<(u16, u8)>,
}

fuzz_target!(|input: Input| {
    let mut base = input.base;
    base.resize(base.len().next_multiple_of(SIZE).clamp(SIZE, BASE_MAX * SIZE), 0);
    let geometry = |count: usize| Geometry::new(SIZE as u32, count as u32).expect("a geometry of SQLite's");
    for page in base.chunks_exact(SIZE) {
        let mut laid_out = Vec::new();
        cells::lay_out(page, &mut laid_out);
        assert!(laid_out.len() <= SIZE, "{} bytes of a page", laid_out.len());
    }
    let count = usize::from(input.pages % 8) + 1;
    let mut content = Vec::new();
    for (from, len, byte) in &input.parts {
        let from = usize::from(*from) % base.len();
        let part = &base[from..base.len().min(from + usize::from(*len) % SIZE)];
        content.extend_from_slice(part);
        content.push(*byte);
    }
    content.resize(count * SIZE, 0);
    let mut base = Pages { geometry: geometry(base.len() / SIZE), bytes: base };
    let sources: Vec<PageNo> = input.sources.iter().filter_map(|no| PageNo::new(u32::from(*no))).collect();
    let are_there = !sources.is_empty() && sources.iter().all(|no| base.geometry.holds(*no));
    let named = sources.iter().filter(|no| base.geometry.holds(**no));
    let named: Vec<u8> = named
        .flat_map(|no| base.bytes[base.geometry.offset(*no) as usize..][..SIZE].iter().copied())
        .collect();
    let page_size = base.geometry.page_size;
    let mut payload = compress(&content, &prefix(&named, page_size)).expect("zstd compresses");
    let mut is_changed = false;
    for (at, byte) in &input.flips {
        let at = usize::from(*at) % payload.len();
        is_changed |= *byte != 0;
        payload[at] ^= byte;
    }
    let frame = Frame {
        runs: vec![(PageNo::FIRST, count as u32)],
        encoding: Encoding::Rebuilt(sources),
        compression: Compression::Zstd(0),
        payload: payload.into(),
        check: check_of(content.chunks_exact(SIZE).map(PageHash::of)),
        hashes: Vec::new(),
    };
    let opened = open(&frame, geometry(count), &mut base);
    match (are_there, is_changed) {
        (true, false) => {
            let found = opened.expect("a frame that is as it was made opens");
            assert!(found.iter().map(|(_, page)| page).eq(content.chunks_exact(SIZE)));
        }
        (true, true) => {}
        (false, _) => assert!(opened.is_err(), "a frame of base pages that are not there"),
    }
});
