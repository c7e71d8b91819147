//! The floor: what a tool would send that knew which pages changed and sent each whole, in one zstd stream of level 3.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Result, Write};
use std::path::Path;

/// The page size of the gyms of the bench.
pub(crate) const PAGE: usize = 4096;

/// The level of the stream; zstd's own default.
const LEVEL: i32 = 3;

/// What lies between two databases.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floor {
    /// Of the newer one.
    pub(crate) pages: u64,
    /// Pages of the newer one that the older one has not at that place.
    pub(crate) changed_pages: u64,
    /// Those of them that the older one has at another place: what could be said by a number.
    pub(crate) moved_pages: u64,
    /// Of the stream; 0 where nothing changed.
    pub(crate) bytes: u64,
}

/// The floor between two files in canonical form, `old` and `new`: copies in a store.
pub(crate) fn between(old: &Path, new: &Path) -> Result<Floor> {
    let mut stream = zstd::stream::write::Encoder::new(Counter(0), LEVEL)?;
    let mut floor = Floor::default();
    let known = hashes(old)?;
    changed_pages(old, new, |number, page| {
        floor.pages = number;
        let Some(page) = page else { return Ok(()) };
        floor.changed_pages += 1;
        floor.moved_pages += u64::from(known.contains(&blake3::hash(page)));
        stream.write_all(page)
    })?;
    let Counter(bytes) = stream.finish()?;
    Ok(Floor { bytes: if floor.changed_pages == 0 { 0 } else { bytes }, ..floor })
}

/// Whether the two hold the same pages but for page 1, where SQLite counts changes.
pub(crate) fn are_equal(one: &Path, other: &Path) -> Result<bool> {
    let mut equal = one.metadata()?.len() == other.metadata()?.len();
    changed_pages(one, other, |number, page| {
        equal &= number == 1 || page.is_none();
        Ok(())
    })?;
    Ok(equal)
}

/// Gives the number of each page of `new` from 1 on, with the page where it is another than that of `old`.
fn changed_pages(
    old: &Path,
    new: &Path,
    mut each: impl FnMut(u64, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let (mut old, mut new) = (open(old)?, open(new)?);
    let mut number = 0;
    loop {
        let page = page(&mut new)?;
        if page.is_empty() {
            return Ok(());
        }
        number += 1;
        let is_same = page == self::page(&mut old)?;
        each(number, (!is_same).then_some(&page))?;
    }
}

/// The hash of each page.
fn hashes(path: &Path) -> Result<HashSet<blake3::Hash>> {
    let (mut file, mut hashes) = (open(path)?, HashSet::new());
    loop {
        let page = page(&mut file)?;
        if page.is_empty() {
            return Ok(hashes);
        }
        hashes.insert(blake3::hash(&page));
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(256 * PAGE, File::open(path)?))
}

/// The next page; shorter, or empty, at the end of the file.
fn page(file: &mut impl Read) -> Result<Vec<u8>> {
    let mut page = Vec::with_capacity(PAGE);
    file.take(PAGE as u64).read_to_end(&mut page)?;
    Ok(page)
}

/// Counts what is written, and forgets it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullback_tests::dice::Dice;

    /// The floor between files of these pages.
    fn floor(old: &[&[u8]], new: &[&[u8]]) -> Floor {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, pages: &[&[u8]]| {
            let path = folder.path().join(name);
            std::fs::write(&path, pages.concat()).unwrap();
            path
        };
        between(&file("old", old), &file("new", new)).unwrap()
    }

    #[test]
    fn each_changed_page_counts_whole_and_all_are_one_stream() {
        let mut dice = Dice::new(1);
        let (a, b, c) = (dice.bytes(PAGE), dice.bytes(PAGE), dice.bytes(PAGE));
        let same = floor(&[&a, &b], &[&a, &b]);
        assert_eq!((same.pages, same.changed_pages, same.bytes), (2, 0, 0));
        let one = floor(&[&a, &b], &[&a, &c]);
        assert_eq!((one.pages, one.changed_pages), (2, 1));
        assert!((4096..4200).contains(&one.bytes), "{one:?}");
        // A page that moved is changed; the second of two equal ones costs next to nothing in one stream.
        let two = floor(&[&a, &b], &[&c, &c]);
        assert_eq!((two.changed_pages, two.moved_pages), (2, 0));
        assert_eq!(floor(&[&a, &b, &b], &[&b, &b, &c]).moved_pages, 1);
        assert!((one.bytes..one.bytes + 100).contains(&two.bytes), "{two:?}");
    }

    #[test]
    fn pages_that_are_new_count_and_those_that_are_gone_do_not() {
        let page = Dice::new(2).bytes(PAGE);
        let grown = floor(&[&page], &[&page, &page]);
        assert_eq!((grown.pages, grown.changed_pages), (2, 1));
        let shrunk = floor(&[&page, &page], &[&page]);
        assert_eq!((shrunk.pages, shrunk.changed_pages, shrunk.bytes), (1, 0, 0));
    }
}
