//! Which pages of a mirror hold what now stands in other pages: an index of a named size, by content.
//!
//! Of each page the few least hashes of its cells are kept (a bottom-k sketch). A cell that was moved as it is has the same
//! hash in its new page, and is among the least of that one too, most likely.

use crate::mirror_pages::MirrorPages;
use pullback_shared::cells::Cells;
use pullback_shared::page::PageNo;

/// Entries of the index, 8 bytes each, at most. Of a mirror with more pages, only each second one is in it, or third.
const ENTRIES_MAX: usize = 1 << 20;

/// Hashes kept of a page, at most; where there are more pages, fewer are.
const KEPT_OF_A_PAGE_MAX: usize = 4;

/// Hashes of a new page that are looked for. A page holds cells of two or three of before: their least are among these.
const SOUGHT_OF_A_PAGE: usize = 8;

/// Bytes that a hash is over: a row of some columns, or most of one. Fewer are the same in many rows, such as the beginning
/// of a time stamp.
const HASHED_BYTES: usize = 24;

/// Where a page has no cells (it holds a long row, or the rest of one), so many of its parts are hashed.
const PARTS: usize = 8;

/// Low bits of an entry that hold the number of a page; pages beyond that are not in the index.
const NUMBER_BITS: u32 = 28;

/// Bytes of a mirror that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// The index.
pub struct Origins {
    /// Hash and page number, sorted, no hash twice.
    entries: Vec<u64>,
}

impl Origins {
    /// That of `old`. Its pages are not held against their hashes: what is found here is only a hint.
    pub fn of(old: &MirrorPages) -> Self {
        let geometry = old.geometry();
        let size = geometry.page_size.as_usize();
        let page_count = geometry.page_count.min((1 << NUMBER_BITS) - 1);
        let kept = (ENTRIES_MAX / (page_count as usize).max(1)).clamp(1, KEPT_OF_A_PAGE_MAX);
        let every = (page_count as usize).div_ceil(ENTRIES_MAX).max(1) as u32;
        let mut entries = Vec::with_capacity((page_count.div_ceil(every)) as usize * kept);
        let at_once = (READ_BYTES / size) as u32;
        let mut pages = vec![0; READ_BYTES];
        let mut least = Least::new(kept);
        for number in (1..=page_count).step_by(at_once as usize) {
            let first = PageNo::new(number).expect("BUG: page 0");
            let pages = &mut pages[..at_once.min(page_count - number + 1) as usize * size];
            if old.read(first, pages).is_err() {
                continue;
            }
            for (number, page) in (number..).zip(pages.chunks_exact(size)) {
                if number.is_multiple_of(every) {
                    entries.extend(least.of(page).iter().map(|hash| entry(*hash, number)));
                }
            }
        }
        entries.sort_unstable();
        entries.dedup_by_key(|entry| *entry >> NUMBER_BITS);
        Self { entries }
    }

    /// Gives `each` the pages of before that hold some of what `page` holds; one may come twice.
    pub fn find(&self, page: &[u8], mut each: impl FnMut(PageNo)) {
        for hash in Least::new(SOUGHT_OF_A_PAGE).of(page) {
            let first = entry(*hash, 0);
            let at = self.entries.partition_point(|entry| *entry < first);
            let found = self.entries.get(at).filter(|entry| **entry >> NUMBER_BITS == first >> NUMBER_BITS);
            if let Some(no) = found.and_then(|entry| PageNo::new((entry % (1 << NUMBER_BITS)) as u32)) {
                each(no);
            }
        }
    }
}

fn entry(hash: u64, number: u32) -> u64 {
    hash >> NUMBER_BITS << NUMBER_BITS | u64::from(number)
}

/// The least hashes of a page, ascending.
struct Least {
    hashes: Vec<u64>,
    count: usize,
}

impl Least {
    fn new(count: usize) -> Self {
        Self { hashes: Vec::with_capacity(count + 1), count }
    }

    fn of(&mut self, page: &[u8]) -> &[u64] {
        self.hashes.clear();
        match Cells::of(page) {
            Some(cells) => cells.content_starts().for_each(|start| self.add(page, start)),
            // What such a page begins with is the number of the next one.
            None => (0..PARTS).for_each(|part| self.add(page, 4 + part * (page.len() / PARTS))),
        }
        &self.hashes
    }

    fn add(&mut self, page: &[u8], start: usize) {
        let hash = hash(page.get(start..).unwrap_or_default());
        if self.hashes.len() == self.count && self.hashes.last().is_none_or(|last| hash >= *last) {
            return;
        }
        let at = self.hashes.partition_point(|least| *least < hash);
        if self.hashes.get(at) != Some(&hash) {
            self.hashes.insert(at, hash);
            self.hashes.truncate(self.count);
        }
    }
}

/// A hash of the first [`HASHED_BYTES`] of `bytes`. Whoever makes rows that collide on purpose gets larger frames.
fn hash(bytes: &[u8]) -> u64 {
    let mut first = [0; HASHED_BYTES];
    let len = bytes.len().min(HASHED_BYTES);
    first[..len].copy_from_slice(&bytes[..len]);
    let words = first.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    // The multiplier of Fibonacci hashing (Knuth, "The Art of Computer Programming", 6.4), and the end of splitmix64.
    let mixed = words.fold(0u64, |hash, word| {
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 29)
    });
    let mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leaf of a table of 4096 bytes, with these rows of 50 bytes.
    fn leaf(rows: std::ops::Range<u64>) -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[0] = 13;
        page[4] = (rows.end - rows.start) as u8;
        for (index, row) in rows.enumerate() {
            let start = 4096 - 50 * (index + 1);
            page[8 + 2 * index..][..2].copy_from_slice(&(start as u16).to_be_bytes());
            page[start..start + 8].copy_from_slice(&row.to_be_bytes());
        }
        page
    }

    #[test]
    fn a_page_is_found_by_any_that_holds_part_of_it() {
        for kept in [1, KEPT_OF_A_PAGE_MAX] {
            let least = |rows, count| Least::new(count).of(&leaf(rows)).to_vec();
            let found = (0..1000).filter(|number| {
                let first = number * 60;
                // Its rows are in these two pages now.
                let sought = [first - first % 70, first - first % 70 + 70]
                    .map(|first| least(first..first + 70, SOUGHT_OF_A_PAGE))
                    .concat();
                least(first..first + 60, kept).iter().any(|hash| sought.contains(hash))
            });
            let found = found.count();
            assert!(found > 990, "{found} of 1000 with {kept} hashes a page");
        }
    }

    #[test]
    fn the_least_hashes_of_a_page_are_few_and_each_counts_once() {
        let all = Least::new(1000).of(&leaf(0..70)).to_vec();
        assert_eq!(all.len(), 70);
        assert!(all.is_sorted());
        assert_eq!(Least::new(5).of(&leaf(0..70)), &all[..5]);
        assert_eq!(Least::new(5).of(&[0; 4096]).len(), 1);
        assert_eq!(Least::new(5).of(&[13; 2]).len(), 1);
    }
}
