//! Lists of page hashes: 16 bytes a page, in page order, in files, read and written through one buffer of 64 KiB.
//!
//! A list never lies in memory whole: 4 GB of 512-byte pages have 119 MiB of hashes.

use crate::page::{Geometry, PageHash, PageNo};
use crate::snapshot::{SnapshotHasher, SnapshotId};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

/// Bytes of the buffer.
const BUFFER_LEN: usize = 64 * 1024;

/// A list of page hashes in `F`, for looking up and setting in any order; fast when the order is about that of pages.
/// What was set is in `F` after [`HashList::flush`].
pub struct HashList<F> {
    file: F,
    page_count: u32,
    buffer: Vec<u8>,
    /// Offset in `file` of the buffer's first byte.
    start: u64,
    /// Which bytes of the buffer are not in `file` yet: few are written where few were set.
    dirty: Range<usize>,
}

impl<F: Read + Write + Seek> HashList<F> {
    /// The list of `page_count` hashes in `file`. What the file is too short for reads as [`PageHash::ABSENT`].
    pub fn new(file: F, page_count: u32) -> Self {
        Self { file, page_count, buffer: Vec::new(), start: 0, dirty: 0..0 }
    }

    /// How many hashes there are.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Changes the number of hashes; new ones read as what lies in the file, or absent.
    pub fn set_page_count(&mut self, page_count: u32) {
        self.page_count = page_count;
    }

    /// The hash of page `no`; absent beyond the end of the list.
    pub fn get(&mut self, no: PageNo) -> io::Result<PageHash> {
        if no.get() > self.page_count {
            return Ok(PageHash::ABSENT);
        }
        let at = self.load(no)?;
        let mut hash = [0; PageHash::LEN];
        hash.copy_from_slice(&self.buffer[at..at + PageHash::LEN]);
        Ok(PageHash(hash))
    }

    /// Sets the hash of page `no`, which must be within the list.
    pub fn set(&mut self, no: PageNo, hash: PageHash) -> io::Result<()> {
        assert!(no.get() <= self.page_count, "BUG: a page hash set beyond the list's end");
        let at = self.load(no)?;
        self.buffer[at..at + PageHash::LEN].copy_from_slice(&hash.0);
        self.dirty = match self.dirty.is_empty() {
            true => at..at + PageHash::LEN,
            false => self.dirty.start.min(at)..self.dirty.end.max(at + PageHash::LEN),
        };
        Ok(())
    }

    /// Writes what was set to the file.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.dirty.is_empty() {
            self.file.seek(SeekFrom::Start(self.start + self.dirty.start as u64))?;
            self.file.write_all(&self.buffer[self.dirty.clone()])?;
            self.dirty = 0..0;
        }
        Ok(())
    }

    /// The name of the snapshot with these hashes and pages of `geometry`.
    pub fn snapshot_id(&mut self, geometry: Geometry) -> io::Result<SnapshotId> {
        assert_eq!(geometry.page_count, self.page_count, "BUG: a snapshot named by another's page hashes");
        let mut hasher = SnapshotHasher::new(geometry);
        let mut index = 0;
        while index < u64::from(self.page_count) {
            let no = PageNo::new(index as u32 + 1).expect("BUG: page 0");
            let at = self.load(no)?;
            let left = (u64::from(self.page_count) - index) as usize * PageHash::LEN;
            let len = left.min(self.buffer.len() - at);
            hasher.push_raw(&self.buffer[at..at + len]);
            index += (len / PageHash::LEN) as u64;
        }
        Ok(hasher.finish())
    }

    /// The file, with everything that was set written to it.
    pub fn into_file(mut self) -> io::Result<F> {
        self.flush()?;
        Ok(self.file)
    }

    /// The file, for `fsync`; flush first.
    pub fn file(&self) -> &F {
        &self.file
    }

    /// Brings the hash of page `no` into the buffer and says where in it.
    fn load(&mut self, no: PageNo) -> io::Result<usize> {
        let offset = no.index() * PageHash::LEN as u64;
        let inside =
            !self.buffer.is_empty() && offset >= self.start && offset < self.start + self.buffer.len() as u64;
        if !inside {
            self.flush()?;
            self.start = offset / BUFFER_LEN as u64 * BUFFER_LEN as u64;
            self.buffer.resize(BUFFER_LEN, 0);
            self.file.seek(SeekFrom::Start(self.start))?;
            let mut filled = 0;
            while filled < BUFFER_LEN {
                match self.file.read(&mut self.buffer[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.buffer[filled..].fill(0);
        }
        Ok((offset - self.start) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn no(number: u32) -> PageNo {
        PageNo::new(number).unwrap()
    }

    #[test]
    fn what_is_not_in_the_file_is_absent() {
        let mut list = HashList::new(Cursor::new(vec![7; 16]), 3);
        assert_eq!(list.get(no(1)).unwrap(), PageHash([7; 16]));
        assert_eq!(list.get(no(2)).unwrap(), PageHash::ABSENT);
        assert_eq!(list.get(no(4)).unwrap(), PageHash::ABSENT);
    }

    proptest! {
        #[test]
        fn a_list_is_a_vector_in_a_file(steps in prop::collection::vec((1u32..20_000, any::<u8>()), 1..200)) {
            let mut list = HashList::new(Cursor::new(Vec::new()), 20_000);
            let mut model = vec![PageHash::ABSENT; 20_000];
            for (number, byte) in steps {
                list.set(no(number), PageHash([byte; 16])).unwrap();
                model[number as usize - 1] = PageHash([byte; 16]);
                prop_assert_eq!(list.get(no(1)).unwrap(), model[0]);
                prop_assert_eq!(list.get(no(number)).unwrap(), model[number as usize - 1]);
            }
            let geometry = Geometry::new(512, 20_000).unwrap();
            let mut hasher = SnapshotHasher::new(geometry);
            model.iter().for_each(|hash| hasher.push(*hash));
            prop_assert_eq!(list.snapshot_id(geometry).unwrap(), hasher.finish());
            let file = list.into_file().unwrap().into_inner();
            let mut again = HashList::new(Cursor::new(file), 20_000);
            for (index, hash) in model.iter().enumerate() {
                prop_assert_eq!(again.get(no(index as u32 + 1)).unwrap(), *hash);
            }
        }
    }
}
