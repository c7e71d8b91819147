//! Messages of page hashes, as bytes, and a list of them in a file that may hold anything.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::pb;
use pullback_shared::snapshot::SnapshotHasher;
use pullback_shared::wire::{HASH_LIST_BYTES_MAX, decode_hashes, encode_hashes};
use std::io::Cursor;

/// Hashes in a list, at most: more than twice what its buffer holds.
const PAGES_MAX: u32 = 9_000;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    message: &'a [u8],
    file: Vec<u8>,
    /// Zeros before `file`, so that lists that are longer than a buffer are reached.
    before: u32,
    page_count: u16,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Get(u16),
    Set(u16, u8),
    Resize(u16),
    Flush,
}

fn count(number: u16) -> u32 {
    u32::from(number) % (PAGES_MAX + 1)
}

fn message(bytes: &[u8]) {
    let Ok(message) = pb::PullRequest::decode(bytes) else { return };
    let Ok((hashes, last)) = decode_hashes(message) else { return };
    assert!(hashes.len() <= HASH_LIST_BYTES_MAX && hashes.len() % PageHash::LEN == 0);
    let again = decode_hashes(encode_hashes(hashes.to_vec(), last)).expect("what was made can be decoded");
    assert_eq!(again, (hashes, last));
}

fn hash_at(file: &[u8], index: usize) -> PageHash {
    let mut hash = [0; PageHash::LEN];
    let start = (index * PageHash::LEN).min(file.len());
    let there = &file[start..(start + PageHash::LEN).min(file.len())];
    hash[..there.len()].copy_from_slice(there);
    PageHash(hash)
}

/// A list in a file says what a plain vector says that takes the same steps.
fn list(input: &Input) {
    let mut file = vec![0; (input.before % (PAGES_MAX * PageHash::LEN as u32)) as usize];
    file.extend_from_slice(&input.file);
    let mut model: Vec<PageHash> = (0..PAGES_MAX as usize).map(|index| hash_at(&file, index)).collect();
    let mut list = HashList::new(Cursor::new(file), count(input.page_count));
    for step in &input.steps {
        let io = "a cursor can be read and written";
        match step {
            Step::Get(number) => {
                let Some(no) = PageNo::new(count(*number)) else { continue };
                let there = no.get() <= list.page_count();
                let expected = if there { model[no.index() as usize] } else { PageHash::ABSENT };
                assert_eq!(list.get(no).expect(io), expected);
            }
            Step::Set(number, byte) => {
                let Some(no) = PageNo::new(count(*number)).filter(|no| no.get() <= list.page_count()) else {
                    continue;
                };
                let hash = PageHash([*byte; PageHash::LEN]);
                list.set(no, hash).expect(io);
                model[no.index() as usize] = hash;
            }
            // What was set and then cut off may be in the file or not: it is flushed first, as all callers do.
            Step::Resize(number) => {
                list.flush().expect(io);
                list.set_page_count(count(*number));
            }
            Step::Flush => list.flush().expect(io),
        }
    }
    let pages = list.page_count();
    let geometry = Geometry::new(512, pages).expect("a geometry of SQLite's");
    let mut hasher = SnapshotHasher::new(geometry);
    model[..pages as usize].iter().for_each(|hash| hasher.push(*hash));
    assert_eq!(list.snapshot_id(geometry).expect("a cursor can be read"), hasher.finish());
    let file = list.into_file().expect("a cursor can be written").into_inner();
    let written: Vec<PageHash> = (0..pages as usize).map(|index| hash_at(&file, index)).collect();
    assert!(written == model[..pages as usize], "the file holds something else than the list said");
}

fuzz_target!(|input: Input| {
    message(input.message);
    list(&input);
});
