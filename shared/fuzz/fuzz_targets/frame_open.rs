//! A frame whose payload is nearly what it should be: compressed content, some bytes of it changed, that is then opened.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pullback_fuzz::{Pages, open};
use pullback_shared::frame::{Compression, Encoding, FRAME_BYTES_MAX, Frame, xor};
use pullback_shared::page::{Geometry, PageNo};
use std::io::Write;

/// Of page sizes, most often the smallest: they are the fastest.
const SHIFTS: [u32; 8] = [0, 0, 0, 0, 0, 1, 3, 7];

#[derive(Arbitrary, Debug)]
struct Input {
    shift: u8,
    page_count: u16,
    base_count: u8,
    /// (first page, number of pages); the length of the content follows from them, unless `longer` says otherwise.
    runs: Vec<(u8, u8)>,
    /// A page number that is not small, and how many pages from there.
    far: Option<(u32, u32)>,
    encoding: How,
    moved_from: Vec<u8>,
    compression: How,
    /// Repeated until it is long enough.
    content: Vec<u8>,
    longer: i16,
    /// Changes to the payload.
    flips: Vec<(u16, u8)>,
    cut: u8,
    check: u64,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum How {
    One,
    Two,
    Three,
}

/// A number of pages, most often a small one.
fn few(count: u8) -> u32 {
    if count < 248 { u32::from(count % 4) } else { u32::from(count) }
}

fuzz_target!(|input: Input| {
    let shift = SHIFTS[usize::from(input.shift) % SHIFTS.len()];
    let shape = |count: u32| Geometry::new(512 << shift, count).expect("a geometry of SQLite's");
    let (geometry, base) = (shape(input.page_count.into()), shape((input.base_count % 16).into()));
    let size = geometry.page_size.as_usize();
    let number = |no: u8| PageNo::new(u32::from(no) + 1).expect("1 or more");
    let mut runs: Vec<(PageNo, u32)> =
        input.runs.iter().map(|(first, count)| (number(*first), few(*count))).collect();
    let told: usize = runs.iter().map(|(_, count)| *count as usize).sum();
    runs.extend(input.far.and_then(|(first, count)| Some((PageNo::new(first)?, count))));
    let content_len = (told * size).saturating_add_signed(input.longer.into()).min(2 * FRAME_BYTES_MAX);
    let mut content = input.content.repeat(content_len / input.content.len().max(1) + 1);
    content.resize(content_len, 0);
    let (compression, mut payload) = match input.compression {
        How::One => (Compression::None, content.clone()),
        How::Two => (Compression::Zstd(0), zstd::bulk::compress(&content, 1).expect("zstd compresses")),
        How::Three => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&content).expect("gzip compresses");
            (Compression::Gzip(0), gzip.finish().expect("gzip compresses"))
        }
    };
    let mut changed = input.cut > 0;
    payload.truncate(payload.len().saturating_sub(input.cut.into()));
    for (at, byte) in &input.flips {
        let at = usize::from(*at) % payload.len().max(1);
        if let Some(old) = payload.get_mut(at) {
            changed |= *byte != 0;
            *old ^= byte;
        }
    }
    let encoding = match input.encoding {
        How::One => Encoding::Plain,
        How::Two => Encoding::Patch,
        How::Three => Encoding::Moved(input.moved_from.iter().map(|no| number(*no)).collect()),
    };
    let whole = !changed && input.longer == 0 && input.far.is_none() && !payload.is_empty();
    let patch = encoding == Encoding::Patch;
    let frame = Frame {
        runs,
        encoding,
        compression,
        payload: payload.into(),
        check: input.check,
        hashes: Vec::new(),
    };
    let mut base = Pages { geometry: base, bytes: b"pullback".repeat(base.bytes() as usize / 8) };
    let numbers = frame.numbers(geometry);
    let opened = open(&frame, geometry, &mut base);
    let Ok(numbers) = numbers else {
        assert!(opened.is_err(), "a frame of pages that are not there");
        return;
    };
    // A payload that is just what was compressed opens to just that, unless its patches have no base.
    if whole && (!patch || numbers.iter().all(|no| base.geometry.holds(*no))) {
        let found = opened.expect("a frame that is as it was made opens");
        for ((no, page), content) in found.into_iter().zip(content.chunks_exact(size)) {
            let mut expected = content.to_vec();
            if patch {
                let start = base.geometry.offset(no) as usize;
                xor(&mut expected, &base.bytes[start..start + size]);
            }
            assert_eq!(page, expected);
        }
    }
});
