//! The file header on page 1, and its canonical form.
//!
//! The backup API rewrites some header fields, and a source counts its changes there. A snapshot's page 1 therefore
//! has these fixed: then a copy's name depends on the content alone, and a copy is one file that needs no `-wal`.
//! Field offsets: SQLite, "Database File Format", 1.3 The Database Header.

use std::io::{self, Read};

/// Bytes of the header.
pub const HEADER_LEN: usize = 100;

/// What every SQLite file begins with.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

const WRITE_VERSION: usize = 18;
const READ_VERSION: usize = 19;
const CHANGE_COUNTER: usize = 24;
const PAGE_COUNT: usize = 28;
const FREE_PAGES: usize = 36;
const SCHEMA_COOKIE: usize = 40;
const LARGEST_ROOT: usize = 52;
const ENCODING: usize = 56;
const USER_VERSION: usize = 60;
const INCREMENTAL_VACUUM: usize = 64;
const APPLICATION_ID: usize = 68;
const VERSION_VALID_FOR: usize = 92;
const LIBRARY_VERSION: usize = 96;

/// How a database keeps its transactions safe, as far as its file tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Journal {
    /// Write-ahead log.
    Wal,
    /// A rollback journal of one kind or another.
    Rollback,
}

impl Journal {
    /// The word for it in manifests, messages and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Rollback => "rollback",
        }
    }

    /// The journal that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Wal, Self::Rollback].into_iter().find(|journal| journal.word() == word)
    }
}

/// Fields of a header that canonical form or people care about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// From the read and write version.
    pub journal: Journal,
    /// Offset 24.
    pub change_counter: u32,
    /// Offset 36: pages on the free list.
    pub free_pages: u32,
    /// Offset 40.
    pub schema_cookie: u32,
    /// Offset 56: 1 UTF-8, 2 UTF-16le, 3 UTF-16be, 0 not yet decided.
    pub encoding: u32,
    /// Offset 52: not 0 with auto_vacuum.
    pub largest_root: u32,
    /// Offset 64: not 0 with auto_vacuum = incremental.
    pub incremental_vacuum: u32,
    /// Offset 60.
    pub user_version: i32,
    /// Offset 68.
    pub application_id: i32,
    /// Offset 92.
    pub version_valid_for: u32,
    /// Offset 96.
    pub library_version: u32,
}

impl Header {
    /// Reads the header that `page` (page 1, or its first 100 bytes) begins with.
    pub fn read(page: &[u8]) -> Option<Self> {
        if page.len() < HEADER_LEN || !page.starts_with(MAGIC) {
            return None;
        }
        let wal = page[WRITE_VERSION] == 2 && page[READ_VERSION] == 2;
        Some(Self {
            journal: if wal { Journal::Wal } else { Journal::Rollback },
            change_counter: u32_at(page, CHANGE_COUNTER),
            free_pages: u32_at(page, FREE_PAGES),
            schema_cookie: u32_at(page, SCHEMA_COOKIE),
            encoding: u32_at(page, ENCODING),
            largest_root: u32_at(page, LARGEST_ROOT),
            incremental_vacuum: u32_at(page, INCREMENTAL_VACUUM),
            user_version: u32_at(page, USER_VERSION).cast_signed(),
            application_id: u32_at(page, APPLICATION_ID).cast_signed(),
            version_valid_for: u32_at(page, VERSION_VALID_FOR),
            library_version: u32_at(page, LIBRARY_VERSION),
        })
    }

    /// Reads the header of the database file that `file` is at the beginning of; `None` where there is none, as in an empty file.
    pub fn read_from(file: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| Self::read(&header)),
        }
    }

    /// The text encoding's name.
    pub fn encoding_word(&self) -> &'static str {
        match self.encoding {
            2 => "UTF-16le",
            3 => "UTF-16be",
            _ => "UTF-8",
        }
    }

    /// The auto_vacuum mode's name.
    pub fn auto_vacuum_word(&self) -> &'static str {
        match (self.largest_root, self.incremental_vacuum) {
            (0, _) => "none",
            (_, 0) => "full",
            _ => "incremental",
        }
    }
}

/// Brings page 1 of a snapshot of `page_count` pages into canonical form: journal mode rollback; change counter,
/// version-valid-for and schema cookie 1; library version 0; the page count as it is, since SQLite trusts that field
/// once change counter and version-valid-for are equal.
pub fn make_canonical(page: &mut [u8], page_count: u32) {
    page[WRITE_VERSION] = 1;
    page[READ_VERSION] = 1;
    put_u32(page, CHANGE_COUNTER, 1);
    put_u32(page, PAGE_COUNT, page_count);
    put_u32(page, SCHEMA_COOKIE, 1);
    put_u32(page, VERSION_VALID_FOR, 1);
    put_u32(page, LIBRARY_VERSION, 0);
}

/// Sets the journal mode in a header. Only for a file that nobody else knows of yet.
pub fn set_journal(header: &mut [u8], journal: Journal) {
    let version = if journal == Journal::Wal { 2 } else { 1 };
    header[WRITE_VERSION] = version;
    header[READ_VERSION] = version;
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn put_u32(page: &mut [u8], at: usize, value: u32) {
    page[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..512).map(|n| n as u8).collect();
        page[..16].copy_from_slice(MAGIC);
        page
    }

    #[test]
    fn canonical_form_changes_just_its_fields_and_is_stable() {
        let (before, mut after) = (page(), page());
        make_canonical(&mut after, 7);
        let changed: Vec<usize> = (0..512).filter(|at| before[*at] != after[*at]).collect();
        let expected = [18..20, 24..32, 40..44, 92..100].into_iter().flatten();
        assert_eq!(changed, expected.collect::<Vec<_>>());
        let once = after.clone();
        make_canonical(&mut after, 7);
        assert_eq!(once, after);
        assert_eq!(Header::read(&after).unwrap().journal, Journal::Rollback);
    }

    #[test]
    fn a_header_that_is_not_sqlite_is_none() {
        assert_eq!(Header::read(&[0; 512]), None);
        assert_eq!(Header::read(MAGIC), None);
    }
}
