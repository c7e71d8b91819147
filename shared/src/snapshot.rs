//! The name of a snapshot: a hash over its geometry and its page hashes. Same content, same name, everywhere.

use crate::page::{Geometry, PageHash};
use std::fmt;

/// What the hash of every snapshot begins with; a new way of naming gets a new one.
const VERSION: &[u8] = b"pullback snapshot v1\n";

/// BLAKE3, 32 bytes, over a version string, page size and page count (u32, little-endian) and all page hashes in
/// order. Shown as hex, 12 digits of it in tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SnapshotId(pub [u8; 32]);

impl SnapshotId {
    /// The id in `bytes`, if they are 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id that `hex` (64 lower-case digits) spells.
    pub fn from_hex(hex: &str) -> Option<Self> {
        crate::text::from_hex(hex).as_deref().and_then(Self::from_slice)
    }

    /// The first 12 digits: enough for people.
    pub fn short(&self) -> String {
        crate::text::to_hex(&self.0[..6])
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::text::to_hex(&self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes a [`SnapshotId`] from page hashes that come in page order.
pub struct SnapshotHasher {
    hasher: blake3::Hasher,
    missing: u32,
}

impl SnapshotHasher {
    /// A hasher that expects `geometry.page_count` page hashes.
    pub fn new(geometry: Geometry) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(VERSION);
        hasher.update(&geometry.page_size.get().to_le_bytes());
        hasher.update(&geometry.page_count.to_le_bytes());
        Self { hasher, missing: geometry.page_count }
    }

    /// Adds the next page's hash.
    pub fn push(&mut self, hash: PageHash) {
        self.push_raw(&hash.0);
    }

    /// Adds the hashes of the next pages, 16 bytes each.
    pub fn push_raw(&mut self, hashes: &[u8]) {
        self.missing = self
            .missing
            .checked_sub((hashes.len() / PageHash::LEN) as u32)
            .expect("BUG: more page hashes than pages");
        self.hasher.update(hashes);
    }

    /// The name of the snapshot whose page hashes were all pushed.
    pub fn finish(self) -> SnapshotId {
        assert_eq!(self.missing, 0, "BUG: a snapshot named before all of its pages were hashed");
        SnapshotId(*self.hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(page_size: u32, pages: &[&[u8]]) -> SnapshotId {
        let mut hasher = SnapshotHasher::new(Geometry::new(page_size, pages.len() as u32).unwrap());
        pages.iter().for_each(|page| hasher.push(PageHash::of(page)));
        hasher.finish()
    }

    #[test]
    fn a_name_depends_on_content_order_size_and_count() {
        let (a, b) = ([1u8; 512], [2u8; 512]);
        assert_eq!(id(512, &[&a, &b]), id(512, &[&a, &b]));
        assert_ne!(id(512, &[&a, &b]), id(512, &[&b, &a]));
        assert_ne!(id(512, &[&a]), id(1024, &[&a]));
        assert_ne!(id(512, &[]), id(1024, &[]));
    }

    #[test]
    fn names_do_not_change_between_releases() {
        let known = "dfd3fec40b252b808e1be197de3da3f75123ff3efe483ccd2a19a13f3dca90f6";
        assert_eq!(id(512, &[&[1; 512], &[2; 512]]).to_string(), known);
        assert_eq!(SnapshotId::from_hex(known), Some(id(512, &[&[1; 512], &[2; 512]])));
    }
}
