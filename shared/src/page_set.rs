//! A set of pages: one bit for each page of a snapshot.

use crate::page::PageNo;

/// Pages of a snapshot.
pub struct PageSet {
    words: Vec<u64>,
    page_count: u32,
    len: u32,
}

impl PageSet {
    /// None of `page_count` pages.
    pub fn none(page_count: u32) -> Self {
        Self { words: vec![0; (page_count as usize).div_ceil(64)], page_count, len: 0 }
    }

    /// All of `page_count` pages.
    pub fn all(page_count: u32) -> Self {
        let mut all = Self::none(page_count);
        (1..=page_count).filter_map(PageNo::new).for_each(|no| all.insert(no));
        all
    }

    /// Adds page `no`.
    pub fn insert(&mut self, no: PageNo) {
        let (word, bit) = place(no);
        self.len += u32::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Whether page `no` is one of them.
    pub fn contains(&self, no: PageNo) -> bool {
        no.get() <= self.page_count && self.has(no.get())
    }

    /// Makes it a set of `page_count` pages; those beyond are no longer in it.
    pub fn resize(&mut self, page_count: u32) {
        let beyond = (page_count..self.page_count).filter_map(|index| PageNo::new(index + 1)).map(place);
        for (word, bit) in beyond {
            self.len -= u32::from(self.words[word] & bit != 0);
            self.words[word] &= !bit;
        }
        self.words.resize((page_count as usize).div_ceil(64), 0);
        self.page_count = page_count;
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Neighbours in order, at most `count_max` at once.
    pub fn runs(&self, count_max: u32) -> impl Iterator<Item = (PageNo, u32)> {
        let mut next = 1;
        std::iter::from_fn(move || {
            while next <= self.page_count && !self.has(next) {
                next += 1;
            }
            let first = next;
            while next <= self.page_count && next - first < count_max && self.has(next) {
                next += 1;
            }
            PageNo::new(first).filter(|_| next > first).map(|no| (no, next - first))
        })
    }

    fn has(&self, number: u32) -> bool {
        PageNo::new(number).map(place).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }
}

fn place(no: PageNo) -> (usize, u64) {
    ((no.index() / 64) as usize, 1 << (no.index() % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(set: &PageSet, count_max: u32) -> Vec<(u32, u32)> {
        set.runs(count_max).map(|(first, count)| (first.get(), count)).collect()
    }

    #[test]
    fn neighbours_come_together_in_order() {
        let mut set = PageSet::none(200);
        assert!(set.is_empty() && runs(&set, 10).is_empty());
        for number in [5, 4, 6, 64, 65, 200, 1, 5] {
            set.insert(PageNo::new(number).unwrap());
        }
        assert_eq!(runs(&set, 10), [(1, 1), (4, 3), (64, 2), (200, 1)]);
        assert_eq!(runs(&set, 2), [(1, 1), (4, 2), (6, 1), (64, 2), (200, 1)]);
        assert_eq!(set.len(), 7);
        assert_eq!(runs(&PageSet::all(130), 100), [(1, 100), (101, 30)]);
    }

    #[test]
    fn pages_that_are_cut_off_do_not_come_back() {
        let mut set = PageSet::all(130);
        set.resize(70);
        set.resize(200);
        assert_eq!((set.len(), runs(&set, 300)), (70, vec![(1, 70)]));
        let has = |number| set.contains(PageNo::new(number).unwrap());
        assert!(has(70) && !has(71) && !has(200) && !has(1000));
    }
}
