//! The pages of a mirror's newest snapshot, for whoever refreshes it: nobody changes them meanwhile.

use crate::chain::MirrorState;
use crate::mirror_dir::MirrorDir;
use pullback_shared::fault::Fault;
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The pages of a mirror.
pub struct MirrorPages {
    file: File,
    hashes: HashList<File>,
    geometry: Geometry,
}

impl MirrorPages {
    /// Those in `dir`, which are of `state`.
    pub fn open(dir: &MirrorDir, state: MirrorState) -> io::Result<Self> {
        let hashes = HashList::new(dir.open("hashes")?, state.geometry.page_count);
        Ok(Self { file: dir.open("pages")?, hashes, geometry: state.geometry })
    }

    /// Of the snapshot.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The hash page `no` should have.
    pub fn hash(&mut self, no: PageNo) -> Result<PageHash, Fault> {
        self.hashes.get(no).map_err(|error| Fault::io("the mirror's page hashes", &error))
    }

    /// The same, read by itself: for looking at hashes here and there.
    pub fn hash_now(&self, no: PageNo) -> Result<PageHash, Fault> {
        let mut hash = [0; PageHash::LEN];
        let read = self.hashes.file().read_exact_at(&mut hash, no.index() * PageHash::LEN as u64);
        read.map(|()| PageHash(hash)).map_err(|error| Fault::io("the mirror's page hashes", &error))
    }

    /// Reads the pages from `first` on, whatever they are now.
    pub fn read(&self, first: PageNo, pages: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(pages, self.geometry.offset(first))
    }

    /// Reads page `no` and says whether it is as its hash says.
    pub fn read_if_whole(&mut self, no: PageNo, page: &mut [u8]) -> Result<bool, Fault> {
        let hash = self.hash(no)?;
        Ok(self.read(no, page).is_ok() && hash == PageHash::of(page))
    }

    /// The same, its hash read by itself: for pages here and there.
    pub fn read_now_if_whole(&self, no: PageNo, page: &mut [u8]) -> Result<bool, Fault> {
        let hash = self.hash_now(no)?;
        Ok(self.read(no, page).is_ok() && hash == PageHash::of(page))
    }
}
