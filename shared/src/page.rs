//! Pages of an SQLite file: their size, number, count and hash, as types that cannot hold a wrong value.

use std::fmt;
use std::num::NonZeroU32;

/// The byte offset of SQLite's lock bytes; the page that holds it is never written
/// (SQLite, "Database File Format", 1.4 The Lock-Byte Page).
pub const LOCK_BYTE: u64 = 0x4000_0000;

/// The largest page count SQLite can make (SQLite, "Limits In SQLite", 13: 4294967294 pages).
pub const PAGE_COUNT_MAX: u32 = 4_294_967_294;

/// A page size in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PageSize(u32);

impl PageSize {
    /// The page size of `bytes`, if SQLite allows it.
    pub fn new(bytes: u32) -> Option<Self> {
        ((512..=65536).contains(&bytes) && bytes.is_power_of_two()).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn get(self) -> u32 {
        self.0
    }

    /// In bytes, for slices.
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// The number of a page, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PageNo(NonZeroU32);

impl PageNo {
    /// Page 1, which begins with the file header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The page number `number`; there is no page 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// As SQLite counts: from 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// From 0, as offsets and lists count.
    pub fn index(self) -> u64 {
        u64::from(self.0.get()) - 1
    }
}

/// The shape of a snapshot: how large its pages are and how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of each page.
    pub page_size: PageSize,
    /// Pages, 0 for a database that nothing was ever written to.
    pub page_count: u32,
}

impl Geometry {
    /// The geometry of `page_count` pages of `page_size` bytes, if SQLite could make such a file.
    pub fn new(page_size: u32, page_count: u32) -> Option<Self> {
        let page_size = PageSize::new(page_size)?;
        (page_count <= PAGE_COUNT_MAX).then_some(Self { page_size, page_count })
    }

    /// The length of the file in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.page_size.get()) * u64::from(self.page_count)
    }

    /// Where page `no` begins, in bytes.
    pub fn offset(self, no: PageNo) -> u64 {
        no.index() * u64::from(self.page_size.get())
    }

    /// Whether page `no` is one of these.
    pub fn holds(self, no: PageNo) -> bool {
        no.get() <= self.page_count
    }

    /// The lock-byte page, if the file is large enough to have one. SQLite never stores it: it is zero in a snapshot.
    pub fn lock_page(self) -> Option<PageNo> {
        let number = u32::try_from(LOCK_BYTE / u64::from(self.page_size.get())).ok()? + 1;
        PageNo::new(number).filter(|no| self.holds(*no))
    }
}

/// The first 16 bytes of BLAKE3 over a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageHash(pub [u8; PageHash::LEN]);

impl PageHash {
    /// Bytes of a page hash.
    pub const LEN: usize = 16;

    /// In a list of hashes: "this page is not there". No page is known to hash to it.
    pub const ABSENT: Self = Self([0; Self::LEN]);

    /// The hash of `page`.
    pub fn of(page: &[u8]) -> Self {
        let mut first = [0; Self::LEN];
        first.copy_from_slice(&blake3::hash(page).as_bytes()[..Self::LEN]);
        Self(first)
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_powers_of_two_from_512_to_65536() {
        let sizes: Vec<u32> = (0..=70_000).filter(|n| PageSize::new(*n).is_some()).collect();
        assert_eq!(sizes, [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]);
    }

    #[test]
    fn the_lock_page_begins_at_one_gibibyte() {
        for size in [512, 4096, 65536] {
            let below = Geometry::new(size, (LOCK_BYTE / u64::from(size)) as u32).unwrap();
            assert_eq!(below.lock_page(), None);
            let above = Geometry::new(size, below.page_count + 1).unwrap();
            let lock = above.lock_page().unwrap();
            assert_eq!(above.offset(lock), LOCK_BYTE);
        }
    }
}
