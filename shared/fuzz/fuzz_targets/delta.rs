//! Two snapshots, what leads from one to the other in frames of all three kinds, over the wire, and applied: forwards and back.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pullback_fuzz::{Pages, open};
use pullback_shared::frame::{Compression, Encoding, Frame, FrameBuilder, Kind, xor};
use pullback_shared::page::{Geometry, PageHash, PageNo, PageSize};
use pullback_shared::wire::{Event, decode_frame, encode_stored_frame};

/// Pages of one snapshot, at most.
const PAGES_MAX: usize = 64;

/// Of page sizes, most often the smallest: they are the fastest. Frames of the largest hold 16 pages.
const SHIFTS: [u32; 8] = [0, 0, 0, 0, 0, 1, 3, 7];

#[derive(Arbitrary, Debug)]
struct Input {
    shift: u8,
    compression: Option<(bool, u8)>,
    old: Vec<(u8, u8)>,
    new: Vec<Change>,
    /// Pages of the old snapshot that stay behind the end of `new`.
    stay: u8,
}

/// What became of a page.
#[derive(Arbitrary, Debug)]
enum Change {
    Kept,
    Edited(Vec<(u16, u8)>),
    /// Another page's old content.
    From(u8),
    Written(u8, u8),
}

fn page(size: usize, (seed, step): (u8, u8)) -> Vec<u8> {
    let pattern: Vec<u8> = (0..=255).map(|at: u8| seed.wrapping_add(at / 3).wrapping_mul(step)).collect();
    pattern.repeat(size / pattern.len())
}

fn new_page(size: usize, change: &Change, old: &[Vec<u8>], index: usize) -> Vec<u8> {
    let before = old.get(index).cloned().unwrap_or_else(|| vec![0; size]);
    match change {
        Change::Kept => before,
        Change::Edited(edits) => edits.iter().fold(before, |mut page, (at, byte)| {
            page[usize::from(*at) % size] = *byte;
            page
        }),
        Change::From(other) => old.get(usize::from(*other) % old.len().max(1)).cloned().unwrap_or(before),
        Change::Written(seed, step) => page(size, (*seed, *step)),
    }
}

/// What leads from `old` to `new`, as an agent would tell it: moved where a page stands elsewhere, a patch of two of three
/// others that have an old page, plain otherwise.
fn frames(size: u32, old: &[Vec<u8>], new: &[Vec<u8>], compression: Compression) -> Vec<Frame> {
    let size = PageSize::new(size).expect("a page size of SQLite's");
    let (mut made, mut builders) =
        (Vec::new(), [Kind::Plain, Kind::Patch, Kind::Moved].map(|kind| (kind, None)));
    for (index, page) in new.iter().enumerate().filter(|(index, page)| old.get(*index) != Some(*page)) {
        let (no, hash) = (number(index), PageHash::of(page));
        let from = old.iter().position(|other| other == page).map(number);
        let patch = old.get(index).filter(|_| index % 3 != 2).map(|before| {
            let mut patch = page.clone();
            xor(&mut patch, before);
            patch
        });
        let which = if from.is_some() { 2 } else { usize::from(patch.is_some()) };
        // Made when it is needed: the room for its frames takes longer than most deltas.
        let (kind, builder) = &mut builders[which];
        let builder =
            builder.get_or_insert_with(|| FrameBuilder::new(size, *kind, compression).expect("a builder"));
        let full = match (from, patch) {
            (Some(from), _) => builder.push_moved(no, from, page, hash),
            (None, patch) => builder.push(no, patch.as_ref().unwrap_or(page), hash),
        };
        made.extend(full.expect("a page fits into a frame"));
    }
    for builder in builders.iter_mut().filter_map(|(_, builder)| builder.as_mut()) {
        made.extend(builder.finish().expect("a frame can be finished"));
    }
    made
}

fn number(index: usize) -> PageNo {
    PageNo::new(index as u32 + 1).expect("1 or more")
}

/// What `frame` is for the puller: without hashes, and moved pages without their content.
fn over_the_wire(frame: Frame) -> Frame {
    let sent = Event::decode(Event::Frame(frame).encode()).expect("a frame that was made can be decoded");
    let Event::Frame(frame) = sent else { panic!("a frame became something else") };
    assert!(frame.hashes.is_empty());
    frame
}

fn apply(frames: &[Frame], old: &[Vec<u8>], new: Geometry) -> Vec<Vec<u8>> {
    let size = new.page_size.as_usize();
    let geometry = Geometry { page_count: old.len() as u32, ..new };
    let mut base = Pages { geometry, bytes: old.concat() };
    let mut pages = old.to_vec();
    pages.resize(new.page_count as usize, vec![0; size]);
    let mut seen = vec![false; pages.len()];
    for frame in frames {
        for (no, page) in open(frame, new, &mut base).expect("a frame of a delta opens over its base") {
            let index = no.index() as usize;
            assert!(!std::mem::replace(&mut seen[index], true), "a page that comes twice");
            pages[index] = page;
        }
    }
    pages
}

fuzz_target!(|input: Input| {
    let size = 512u32 << SHIFTS[usize::from(input.shift) % SHIFTS.len()];
    let bytes = size as usize;
    let compression = match input.compression {
        None => Compression::None,
        Some((true, level)) => Compression::Zstd(i32::from(level % 4) + 1),
        Some((false, level)) => Compression::Gzip(u32::from(level % 9) + 1),
    };
    let old: Vec<Vec<u8>> = input.old.iter().take(PAGES_MAX).map(|what| page(bytes, *what)).collect();
    let changes = input.new.iter().take(PAGES_MAX).enumerate();
    let mut new: Vec<Vec<u8>> = changes.map(|(index, change)| new_page(bytes, change, &old, index)).collect();
    new.extend(old.iter().skip(new.len()).take(input.stay.into()).cloned());
    for (from, to) in [(&old, &new), (&new, &old)] {
        let geometry = Geometry::new(size, to.len() as u32).expect("a geometry of SQLite's");
        let stored = frames(size, from, to, compression);
        for frame in &stored {
            let again =
                decode_frame(encode_stored_frame(frame.clone())).expect("a stored frame can be decoded");
            assert_eq!((&again.runs, &again.hashes, again.check), (&frame.runs, &frame.hashes, frame.check));
            // A patch leads back as well.
            if frame.encoding == Encoding::Patch {
                let numbers = frame.numbers(geometry).expect("its own pages");
                let mut patches = Vec::new();
                frame.decompress(numbers.len() * bytes, &mut patches).expect("its own payload");
                for (no, patch) in numbers.into_iter().zip(patches.chunks_exact(bytes)) {
                    let mut page = to[no.index() as usize].clone();
                    xor(&mut page, patch);
                    assert_eq!(page, from[no.index() as usize]);
                }
            }
        }
        assert_eq!(&apply(&stored, from, geometry), to, "stored frames");
        let sent: Vec<Frame> = stored.into_iter().map(over_the_wire).collect();
        assert_eq!(&apply(&sent, from, geometry), to, "frames that were sent");
    }
});
