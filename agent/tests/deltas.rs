//! A delta as a hold writes it leads from one snapshot to the next: stored, sent, and applied over the old pages; and the
//! next refresh leads back. In every page size and compression, whatever grows, shrinks or moves.

use proptest::prelude::*;
use pullback_agent::chain::{Chain, MirrorState};
use pullback_agent::collector::{Collector, MirrorWriter, Outlet};
use pullback_agent::delta::DeltaWriter;
use pullback_agent::mirror::Mirror;
use pullback_agent::room::{Room, RoomLimits};
use pullback_agent::spool::{FrameReader, Spool};
use pullback_shared::frame::{Base, Compression, Encoding, Frame, FrameError};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::wire::Event;
use std::io;
use std::path::Path;

type Pages = Vec<Vec<u8>>;

/// More pages than change before those that moved are looked for.
const PAGES: usize = 700;

const COMPRESSIONS: [Compression; 5] = [
    Compression::None,
    Compression::Zstd(1),
    Compression::Zstd(19),
    Compression::Gzip(1),
    Compression::Gzip(9),
];

/// What happens to a database between two snapshots.
#[derive(Clone, Debug)]
enum Step {
    /// A few bytes of so many pages, from one on.
    Patch(usize, usize, u8),
    /// All of so many pages, from one on.
    Write(usize, usize, u8),
    /// All pages stand so much further back, those at the end in front: as after a VACUUM.
    Rotate(usize),
    /// So many pages are there now.
    Resize(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..PAGES, 1usize..50, any::<u8>()).prop_map(|(from, count, byte)| Step::Patch(from, count, byte)),
        (0..PAGES, 1usize..50, any::<u8>()).prop_map(|(from, count, byte)| Step::Write(from, count, byte)),
        (1..PAGES).prop_map(Step::Rotate),
        (1..PAGES * 2).prop_map(Step::Resize),
    ]
}

/// A page that is like no other, and does not compress to nothing.
fn page(size: usize, seed: usize) -> Vec<u8> {
    let noise = (0..size).map(|at| ((seed * 31 + at * at) % 251) as u8 & if at % 3 == 0 { 0xff } else { 3 });
    seed.to_le_bytes().into_iter().chain(noise).take(size).collect()
}

fn changed(old: &Pages, steps: &[Step], size: usize) -> Pages {
    let mut pages = old.clone();
    for (round, step) in steps.iter().enumerate() {
        let len = pages.len();
        match *step {
            Step::Patch(from, count, byte) => (from..from + count).for_each(|index| {
                pages[index % len][index % size] = byte;
            }),
            Step::Write(from, count, byte) => (from..from + count).for_each(|index| {
                pages[index % len] = page(size, index * 1000 + usize::from(byte) + round);
            }),
            Step::Rotate(by) => pages.rotate_right(by % len),
            Step::Resize(count) => {
                (len..count).for_each(|index| pages.push(page(size, index * 7777 + round)));
                pages.truncate(count);
            }
        }
    }
    pages
}

fn geometry(pages: &Pages, size: usize) -> Geometry {
    Geometry::new(size as u32, pages.len() as u32).expect("a geometry of SQLite's")
}

fn collect(mut collector: Collector, pages: &Pages) -> Collector {
    for (no, page) in (1..).filter_map(PageNo::new).zip(pages) {
        collector.page(no, page).expect("a page is taken");
    }
    collector.finish().expect("all pages came");
    collector
}

/// The mirror of a source whose pages are `pages`, as a first snapshot leaves it.
fn mirror_of(dir: &Path, pages: &Pages, size: usize) -> Mirror {
    let geometry = geometry(pages, size);
    let mut mirror = Mirror::open(dir, Path::new("/gym.db")).expect("a mirror is opened");
    let (file, hashes) = mirror.begin().expect("a mirror is begun");
    let outlet = Outlet::Mirror(MirrorWriter::new(file, hashes, geometry));
    let mut collector = collect(Collector::new(geometry, None, outlet, None, dir), pages);
    let snapshot = collector.snapshot_id().expect("a snapshot has a name");
    mirror.adopt(MirrorState { snapshot, geometry });
    mirror.settle().expect("a mirror is made durable");
    mirror
}

/// Refreshes `mirror` to `pages`; the frames that lead there, as they lay in its file.
fn refresh(dir: &Path, mirror: &mut Mirror, pages: &Pages, size: usize, how: Compression) -> Vec<Frame> {
    let geometry = geometry(pages, size);
    let room = Room::new(dir, RoomLimits { reserve: Some(0), max_state: None });
    let spool =
        Spool::in_file(Room::new(dir, RoomLimits { reserve: Some(0), max_state: None }), mirror.delta());
    let old = mirror.pages().expect("a mirror has pages");
    let outlet = Outlet::Delta(Box::new(DeltaWriter::new(old, how, spool).expect("a delta is begun")));
    let known = Some(mirror.hashes().expect("a mirror has hashes"));
    let mut collector = collect(Collector::new(geometry, known, outlet, None, dir), pages);
    let next = MirrorState { snapshot: collector.snapshot_id().expect("a snapshot has a name"), geometry };
    let mut frames = Vec::new();
    let mut reader =
        collector.into_spool().finish().expect("a delta is whole").frames().expect("a delta can be read");
    while let Some(frame) = reader.next_frame().expect("a frame that was written is read") {
        frames.push(frame);
    }
    if mirror.state() != Some(next) {
        let chain = mirror.keep(next, &room);
        mirror.fold(chain).expect("a delta is folded");
    }
    frames
}

/// The puller's copy of a snapshot.
struct Old<'a>(&'a Pages);

impl Base for Old<'_> {
    fn read(&mut self, no: PageNo, page: &mut [u8]) -> io::Result<()> {
        page.copy_from_slice(self.0.get(no.index() as usize).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What the puller has who gets `frames` and has `old`.
fn applied(frames: &[Frame], old: &Pages, new: Geometry) -> Pages {
    let mut pages = old.clone();
    pages.resize(new.page_count as usize, vec![0; new.page_size.as_usize()]);
    let mut came = vec![false; pages.len()];
    for frame in frames {
        let sent = Event::decode(Event::Frame(frame.clone()).encode()).expect("a frame travels");
        let Event::Frame(sent) = sent else { panic!("a frame became something else") };
        let opened = sent.open(new, &mut Old(old), &mut Vec::new(), |no, page, hash| {
            assert_eq!(hash, PageHash::of(page));
            let index = no.index() as usize;
            assert!(!std::mem::replace(&mut came[index], true), "page {} comes twice", no.get());
            pages[index] = page.to_vec();
            Ok::<(), FrameError>(())
        });
        opened.expect("a frame opens over what the puller has");
    }
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_delta_leads_to_the_new_snapshot_and_the_next_one_back(
        steps in prop::collection::vec(step(), 0..8),
        shift in prop_oneof![3 => Just(0u32), 2 => Just(3), 1 => Just(7)],
        how in prop::sample::select(&COMPRESSIONS[..]),
    ) {
        let size = 512usize << shift;
        // A mirror of pages of 64 KiB is as large with fewer of them.
        let count = if shift == 7 { 300 } else { PAGES };
        let old: Pages = (0..count).map(|index| page(size, index)).collect();
        let new = changed(&old, &steps, size);
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let mut mirror = mirror_of(dir.path(), &old, size);
        for (from, to) in [(&old, &new), (&new, &old)] {
            let frames = refresh(dir.path(), &mut mirror, to, size, how);
            prop_assert!(applied(&frames, from, geometry(to, size)) == *to);
            let told: u64 = frames.iter().map(Frame::page_count).sum();
            let differ = to.iter().enumerate().filter(|(index, page)| from.get(*index) != Some(*page)).count();
            prop_assert_eq!(told, differ as u64, "pages in the delta");
        }
    }

    #[test]
    fn whatever_lies_in_a_file_of_frames_or_in_a_chain_is_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut frames = FrameReader::of_bytes(bytes.clone());
        while let Ok(Some(_)) = frames.next_frame() {}
        prop_assert!(frames.position() <= bytes.len() as u64);
        prop_assert!(Chain::from_json(&bytes).is_err());
    }
}

#[test]
fn each_kind_of_frame_is_there_when_it_is_worth_it() {
    let (dir, size) = (tempfile::tempdir().expect("a temporary folder can be made"), 4096);
    let old: Pages = (0..PAGES).map(|index| page(size, index)).collect();
    let mut mirror = mirror_of(dir.path(), &old, size);
    let mut new = changed(&old, &[Step::Patch(310, 20, 255)], size);
    new[..300].iter_mut().flatten().for_each(|byte| *byte = !*byte);
    new[400..500].rotate_left(7);
    let frames = refresh(dir.path(), &mut mirror, &new, size, Compression::Zstd(1));
    assert!(applied(&frames, &old, geometry(&new, size)) == new);
    let pages = |is_kind: fn(&Encoding) -> bool| -> u64 {
        frames.iter().filter(|frame| is_kind(&frame.encoding)).map(Frame::page_count).sum()
    };
    let found = [
        pages(|kind| *kind == Encoding::Plain),
        pages(|kind| *kind == Encoding::Patch),
        pages(|kind| matches!(kind, Encoding::Moved(_))),
    ];
    assert_eq!(found, [300, 20, 100], "plain, patched and moved pages");
}
