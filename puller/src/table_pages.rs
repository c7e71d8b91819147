//! Which rows of a table may differ between two databases, told by the pages of its b-tree: what is equal to the byte on both
//! sides holds equal rows, and SQLite need not be asked for them.
//!
//! Source: SQLite, "Database File Format", 1.6 B-tree Pages. This only ever saves work: whatever looks odd, such as a damaged
//! page, is said to differ, and SQLite reads it then.

use pullback_shared::cells::{Cells, INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE};
use pullback_shared::header::HEADER_LEN;
use pullback_shared::page::PageSize;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// No b-tree is deeper (SQLite, `BTCURSOR_MAX_DEPTH`).
const DEPTH_MAX: u32 = 20;

/// So many ranges are told apart; beyond that, the last one becomes wider.
const RANGES_MAX: usize = 10_000;

/// Rowids from the first to the last, both within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The smallest.
    pub first: i64,
    /// The largest.
    pub last: i64,
}

impl Range {
    /// Every rowid there can be.
    pub const ALL: Self = Self { first: i64::MIN, last: i64::MAX };
}

/// The pages of a database file that nobody writes.
pub struct Pages {
    file: File,
    size: usize,
    /// Of a page, without what is reserved at its end.
    usable: usize,
    count: u64,
}

impl Pages {
    /// Of the file at `path`; `None`: it has no pages.
    pub fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0).ok()?;
        let size = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        let size = PageSize::new(size)?.as_usize();
        let count = file.metadata().ok()?.len() / size as u64;
        Some(Self { file, size, usable: size - usize::from(header[20]), count })
    }

    fn read(&self, no: u32) -> Option<Vec<u8>> {
        // Page 1 begins with the file's header, and is the root of no table of the application.
        let offset = u64::from(no.checked_sub(1).filter(|index| *index > 0)?) * self.size as u64;
        let mut page = vec![0; self.size];
        self.file.read_exact_at(&mut page, offset).ok()?;
        Some(page)
    }
}

/// The rowids whose rows may differ between the tables with these roots, rising; of a table without rowid, all or none. Both have
/// the same definition and the same encoding of text.
pub fn differing(now: &Pages, now_root: u32, then: &Pages, then_root: u32) -> Vec<Range> {
    if (now.size, now.usable) != (then.size, then.usable) {
        return vec![Range::ALL];
    }
    // A page is in one place of a tree; where it is in many, the tree is damaged.
    let mut walk = Walk { now, then, left: now.count, ranges: Vec::new() };
    match walk.trees(now_root, then_root, Range::ALL, DEPTH_MAX) {
        Some(()) => walk.ranges,
        None => vec![Range::ALL],
    }
}

struct Walk<'a> {
    now: &'a Pages,
    then: &'a Pages,
    /// Pages that may still be looked at.
    left: u64,
    ranges: Vec<Range>,
}

impl Walk<'_> {
    fn pages(&mut self, now: u32, then: u32) -> Option<(Vec<u8>, Vec<u8>)> {
        self.left = self.left.checked_sub(1)?;
        Some((self.now.read(now)?, self.then.read(then)?))
    }

    /// Compares the trees below two pages, which hold the rows of `range`; `None`: they cannot be told apart like that.
    fn trees(&mut self, now: u32, then: u32, range: Range, depth_left: u32) -> Option<()> {
        let depth_left = depth_left.checked_sub(1)?;
        let (now, then) = self.pages(now, then)?;
        let is_equal = now == then;
        match (now[0], then[0]) {
            (LEAF_TABLE, LEAF_TABLE) => {
                if !is_equal || !self.have_equal_overflow(&now)? {
                    self.add(range);
                }
            }
            (INTERIOR_TABLE, INTERIOR_TABLE) => {
                self.children(&children(&now, range)?, &children(&then, range)?, range, depth_left)?;
            }
            // The keys of an index are no numbers, so there are no ranges of them.
            (INTERIOR_INDEX | LEAF_INDEX, _) => {
                if !is_equal || !self.have_equal_overflow(&now)? {
                    return None;
                }
                if now[0] == INTERIOR_INDEX {
                    let cells = Cells::of(&now)?;
                    let below = cells.starts().map(|start| number(&now, start)).chain([number(&now, 8)]);
                    for child in below {
                        self.trees(child?, child?, range, depth_left)?;
                    }
                }
            }
            _ => self.add(range),
        }
        Some(())
    }

    /// Compares the children of two interior pages: pairs of them where they hold rows between the same keys.
    fn children(&mut self, now: &[Child], then: &[Child], range: Range, depth_left: u32) -> Option<()> {
        let (mut now, mut then) = (now.iter(), then.iter());
        let mut first = range.first;
        while let (Some(mut of_now), Some(mut of_then)) = (now.next(), then.next()) {
            let mut is_pair = true;
            while of_now.last != of_then.last {
                is_pair = false;
                match of_now.last < of_then.last {
                    true => of_now = now.next()?,
                    false => of_then = then.next()?,
                }
            }
            let within = Range { first, last: of_now.last };
            match is_pair {
                true => self.trees(of_now.page, of_then.page, within, depth_left)?,
                false => self.add(within),
            }
            first = of_now.last.saturating_add(1);
        }
        Some(())
    }

    /// Whether what the rows on `page`, which is the same on both sides, keep in other pages is the same too.
    fn have_equal_overflow(&mut self, page: &[u8]) -> Option<bool> {
        if page.get(3..5)? == [0, 0] {
            return Some(true);
        }
        let usable = self.now.usable;
        for start in Cells::of(page)?.starts() {
            let Some(Overflow { mut page, pages }) = overflow(page, start, usable)? else { continue };
            for _ in 0..pages {
                let (now, then) = self.pages(page, page)?;
                if now != then {
                    return Some(false);
                }
                page = number(&now, 0)?;
            }
        }
        Some(true)
    }

    fn add(&mut self, range: Range) {
        let is_full = self.ranges.len() == RANGES_MAX;
        match self.ranges.last_mut() {
            Some(last) if is_full || last.last.checked_add(1) == Some(range.first) => last.last = range.last,
            _ => self.ranges.push(range),
        }
    }
}

/// A page below an interior page of a table.
struct Child {
    /// The largest rowid that it may hold.
    last: i64,
    page: u32,
}

/// The pages below `page`, an interior page of a table that holds the rows of `range`; `None`: it makes no sense.
fn children(page: &[u8], range: Range) -> Option<Vec<Child>> {
    let mut children = Vec::new();
    let mut before = None;
    for start in Cells::of(page)?.starts() {
        let (last, _) = varint(page, start + 4)?;
        let last = last.cast_signed();
        if !(range.first..range.last).contains(&last) || before.is_some_and(|before| last <= before) {
            return None;
        }
        before = Some(last);
        children.push(Child { last, page: number(page, start)? });
    }
    children.push(Child { last: range.last, page: number(page, 8)? });
    Some(children)
}

/// Where a row goes on that does not fit into its page.
struct Overflow {
    page: u32,
    pages: u64,
}

/// What the cell at `start` keeps in other pages, if anything; the outer `None`: it makes no sense.
fn overflow(page: &[u8], start: usize, usable: usize) -> Option<Option<Overflow>> {
    let kind = *page.first()?;
    let (len, at) = match kind {
        INTERIOR_INDEX => varint(page, start + 4)?,
        _ => varint(page, start)?,
    };
    let at = if kind == LEAF_TABLE { varint(page, at)?.1 } else { at };
    // Named as in the description: U, P, X, M, K.
    let (u, p) = (usable as u64, len);
    let x = if kind == LEAF_TABLE { u - 35 } else { (u - 12) * 64 / 255 - 23 };
    if p <= x {
        return Some(None);
    }
    let m = (u - 12) * 32 / 255 - 23;
    let k = m + (p - m) % (u - 4);
    let local = if k <= x { k } else { m };
    let page = number(page, at.checked_add(usize::try_from(local).ok()?)?)?;
    Some(Some(Overflow { page, pages: (p - local).div_ceil(u - 4) }))
}

fn number(page: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(page.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The number at `at` and where it ends.
fn varint(page: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (place, byte) in page.get(at..)?.iter().take(9).enumerate() {
        if place == 8 {
            return Some((value << 8 | u64::from(*byte), at + 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((value, at + place + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::fs;
    use tempfile::TempDir;

    /// A database with the table `t`, made by `sql`; and its root.
    fn database(sql: &str) -> (TempDir, u32) {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("then")).unwrap();
        connection.execute_batch(sql).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 't'";
        let root = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        (dir, root)
    }

    /// What differs once `change` was done to the bytes of the file.
    fn differing_after((dir, root): &(TempDir, u32), change: impl Fn(&mut Vec<u8>)) -> Vec<Range> {
        let (now, then) = (dir.path().join("now"), dir.path().join("then"));
        let mut bytes = fs::read(&then).unwrap();
        change(&mut bytes);
        fs::write(&now, bytes).unwrap();
        differing(&Pages::open(&now).unwrap(), *root, &Pages::open(&then).unwrap(), *root)
    }

    const FORMS: [&str; 2] = ["", "WITHOUT ROWID"];

    #[test]
    fn rows_of_any_length_are_followed_into_their_overflow_pages() {
        for (form, page_size) in
            [("", 512), (FORMS[1], 512), ("", 4096), (FORMS[1], 1024), ("", 65_536), (FORMS[1], 65_536)]
        {
            let of_all = database(&format!(
                "PRAGMA page_size = {page_size}; CREATE TABLE t (id INTEGER PRIMARY KEY, v) {form};
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
                 INSERT INTO t SELECT i, zeroblob(i * 13) FROM n;"
            ));
            assert_eq!(differing_after(&of_all, |_| {}), [], "{form}");
        }
        assert_eq!(differing_after(&database("CREATE TABLE t (v)"), |_| {}), []);
        for form in FORMS {
            // Around the longest row that fits into a page, in both forms.
            for len in (985..1_005).chain(4_040..4_070).chain([500, 3_000, 9_000]) {
                let of_one = database(&format!(
                    "CREATE TABLE t (id INTEGER PRIMARY KEY, v) {form}; INSERT INTO t VALUES (1, zeroblob({len}) || 'end')"
                ));
                assert_eq!(differing_after(&of_one, |_| {}), [], "{len} {form}");
                let changed = differing_after(&of_one, |bytes| {
                    // The last byte of the row, which may be the only one in its page.
                    let page =
                        if bytes.len() > 2 * 4096 { bytes.len() - 4096..bytes.len() } else { 4096..8192 };
                    let page = &mut bytes[page];
                    let at = page.iter().rposition(|byte| *byte == b'd').expect("the end of the row");
                    page[at] = b'D';
                });
                assert_eq!(changed, [Range::ALL], "{len} {form}");
            }
        }
    }

    #[test]
    fn where_it_cannot_be_told_everything_may_differ() {
        for form in FORMS {
            let some = database(&format!(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v) {form};
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                 INSERT INTO t SELECT i, zeroblob(300) FROM n;"
            ));
            let root = (some.1 as usize - 1) * 4096;
            // Bytes are reserved at the end of each page on one side.
            assert_eq!(differing_after(&some, |bytes| bytes[20] = 8), [Range::ALL]);
            // No page of a b-tree.
            assert_eq!(differing_after(&some, |bytes| bytes[root] = 77), [Range::ALL]);
            // Cut short.
            assert_eq!(differing_after(&some, |bytes| bytes.truncate(root + 4096)), [Range::ALL]);
            // On both sides alike: a tree that leads back to its root, and one in which a page has its place many times over.
            for levels in [1, 15] {
                let then = some.0.path().join("then");
                let mut bytes = fs::read(&then).unwrap();
                let sound = bytes.clone();
                let page = sound[root..root + 4096].to_vec();
                let links: Vec<usize> = Cells::of(&page).unwrap().starts().chain([8]).collect();
                let below = links.iter().take(levels).map(|at| number(&page, *at).unwrap());
                let mut level = some.1;
                for next in below.map(|next| if levels == 1 { some.1 } else { next }) {
                    let at = (level as usize - 1) * 4096;
                    bytes[at..at + 4096].copy_from_slice(&page);
                    links.iter().for_each(|link| {
                        bytes[at + link..at + link + 4].copy_from_slice(&next.to_be_bytes())
                    });
                    level = next;
                }
                fs::write(&then, bytes).unwrap();
                assert_eq!(differing_after(&some, |_| {}), [Range::ALL], "{form} {levels}");
                fs::write(then, sound).unwrap();
            }
        }
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b""[..], b"SQLite format 3\0", &[0; 4096]] {
            fs::write(dir.path().join("now"), bytes).unwrap();
            assert!(Pages::open(&dir.path().join("now")).is_none());
        }
    }

    #[test]
    fn ranges_that_meet_are_one_and_there_is_a_limit_to_them() {
        let some = database("CREATE TABLE t (v)");
        let pages = Pages::open(&some.0.path().join("then")).unwrap();
        let mut walk = Walk { now: &pages, then: &pages, left: 0, ranges: Vec::new() };
        let range = |first: i64, last: i64| Range { first, last };
        [range(i64::MIN, 0), range(1, 5), range(7, 9)].into_iter().for_each(|range| walk.add(range));
        assert_eq!(walk.ranges, [range(i64::MIN, 5), range(7, 9)]);
        (10..20_000).for_each(|n| walk.add(range(n * 10, n * 10 + 1)));
        assert_eq!(walk.ranges.len(), RANGES_MAX);
        assert_eq!(walk.ranges[RANGES_MAX - 1].last, 199_991);
    }
}
