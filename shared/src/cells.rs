//! The cells of a b-tree page: rows and index entries, which a VACUUM moves from page to page without changing them.
//!
//! Source: SQLite, "Database File Format", 1.6 B-tree Pages. Nothing here trusts its bytes: pages of any content, also a peer's,
//! are laid out, and what does not look like a b-tree page stays as it is.

/// Where the cells of a page begin.
pub struct Cells<'a> {
    page: &'a [u8],
    pointers: &'a [u8],
    kind: u8,
}

/// What pages begin with that lead to others, of an index or a table without rowid.
pub const INTERIOR_INDEX: u8 = 2;
/// The same of a table.
pub const INTERIOR_TABLE: u8 = 5;
/// What pages of entries begin with, of an index or a table without rowid.
pub const LEAF_INDEX: u8 = 10;
/// What pages of rows begin with.
pub const LEAF_TABLE: u8 = 13;

impl<'a> Cells<'a> {
    /// Those of `page`, if it is a b-tree page with cells. Page 1, which begins with the file header, counts as none.
    pub fn of(page: &'a [u8]) -> Option<Self> {
        let kind = *page.first()?;
        let header_len = match kind {
            LEAF_INDEX | LEAF_TABLE => 8,
            INTERIOR_INDEX | INTERIOR_TABLE => 12,
            _ => return None,
        };
        let count = usize::from(u16::from_be_bytes([*page.get(3)?, *page.get(4)?]));
        let pointers_end = header_len + 2 * count;
        let cells = Self { page, pointers: page.get(header_len..pointers_end)?, kind };
        let within = cells.starts().all(|start| (pointers_end..page.len()).contains(&start));
        (count > 0 && within).then_some(cells)
    }

    /// Offsets of the cells in the page, in the order of their keys.
    pub fn starts(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.pointers.chunks_exact(2).map(|pointer| usize::from(u16::from_be_bytes([pointer[0], pointer[1]])))
    }

    /// Offsets of what a VACUUM leaves as it is: an entry of an interior index page stands behind a page number, and is
    /// without it in a leaf; of an interior table page nothing stays.
    pub fn content_starts(&self) -> impl Iterator<Item = usize> + '_ {
        let behind = if self.kind == INTERIOR_INDEX { 4 } else { 0 };
        self.starts().filter(|_| self.kind != INTERIOR_TABLE).map(move |start| start + behind)
    }

    /// Adds the cells to `bytes` as a VACUUM would lay them into a page, the last key first; each with whatever stands
    /// behind it up to the next one, so that they are never more than a page. `None`, and nothing added, where two are one.
    fn lay_out(&self, bytes: &mut Vec<u8>) -> Option<()> {
        let mut sorted: Vec<usize> = self.starts().collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        sorted.push(self.page.len());
        for start in self.starts().rev() {
            let next = sorted.partition_point(|other| *other <= start);
            bytes.extend_from_slice(&self.page[start..sorted[next]]);
        }
        Some(())
    }
}

/// Adds what `page` holds to `bytes`, in the order in which a VACUUM would write it; at most as many bytes as it has.
pub fn lay_out(page: &[u8], bytes: &mut Vec<u8>) {
    if Cells::of(page).and_then(|cells| cells.lay_out(bytes)).is_none() {
        bytes.extend_from_slice(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page of 64 bytes of `kind`, with cells at `starts`, each byte of it its own offset.
    fn page(kind: u8, starts: &[u16]) -> Vec<u8> {
        let mut page: Vec<u8> = (0..64).collect();
        page[0] = kind;
        page[3..5].copy_from_slice(&(starts.len() as u16).to_be_bytes());
        let header_len = if kind < 8 { 12 } else { 8 };
        for (pointer, start) in page[header_len..].chunks_exact_mut(2).zip(starts) {
            pointer.copy_from_slice(&start.to_be_bytes());
        }
        page
    }

    fn laid_out(page: &[u8]) -> Vec<u8> {
        let mut bytes = vec![255];
        lay_out(page, &mut bytes);
        bytes.split_off(1)
    }

    #[test]
    fn cells_are_laid_out_from_the_last_key_to_the_first() {
        assert_eq!(
            laid_out(&page(LEAF_TABLE, &[60, 30, 50])),
            (50..60).chain(30..50).chain(60..64).collect::<Vec<u8>>()
        );
        let interior = page(INTERIOR_INDEX, &[40, 50]);
        assert_eq!(laid_out(&interior), (50..64).chain(40..50).collect::<Vec<u8>>());
        assert_eq!(Cells::of(&interior).unwrap().content_starts().collect::<Vec<_>>(), [44, 54]);
    }

    #[test]
    fn what_is_no_b_tree_page_stays_as_it_is() {
        let same_start_twice = page(LEAF_INDEX, &[40, 40]);
        let beyond_the_end = page(LEAF_INDEX, &[40, 64]);
        let within_the_pointers = page(LEAF_INDEX, &[9, 40]);
        let empty = page(LEAF_TABLE, &[]);
        let mut too_many = page(LEAF_TABLE, &[40]);
        too_many[3] = 255;
        for page in [
            same_start_twice,
            beyond_the_end,
            within_the_pointers,
            empty,
            too_many,
            page(83, &[40]),
            vec![13; 3],
        ] {
            assert_eq!(laid_out(&page), page);
        }
    }

    proptest! {
        #[test]
        fn no_page_yields_more_than_it_holds(
            kind in prop::sample::select(vec![2u8, 5, 10, 13, 83]),
            count in 0u8..40,
            bytes in prop::collection::vec(any::<u8>(), 512),
        ) {
            let mut page = bytes;
            page[0] = kind;
            page[3..5].copy_from_slice(&[0, count]);
            // Offsets within the page, most of them.
            page[8..100].iter_mut().step_by(2).for_each(|byte| *byte &= 1);
            prop_assert!(laid_out(&page).len() <= page.len());
        }
    }
}
