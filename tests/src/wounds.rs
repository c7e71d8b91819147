//! Wounds as a failing card or a stray write inflicts them on a database file, each at a place that is known.
//!
//! For a gym (see [`crate::databases`]) that nobody has open. Offsets: SQLite, "Database File Format", 1.3 to 1.6.

use crate::databases;
use std::fs;
use std::path::Path;

/// The text of a table's definition: SQLite cannot read the schema any more.
pub fn schema(path: &Path) {
    let mut bytes = settled(path);
    let text = b"CREATE TABLE members";
    let at = bytes.windows(text.len()).position(|window| window == text).expect("the schema is in the file");
    bytes[at + 7] = b'#';
    write(path, &bytes);
}

/// One entry of an index names another row: only the full check compares the two.
pub fn index(path: &Path) {
    let mut bytes = settled(path);
    let leaf = first_leaf(&bytes, root(path, "access_log_by_time"));
    let cell = leaf + usize::from(u16_at(&bytes, leaf + 8));
    // An entry is its length, one byte where it is short, and then its values, the row's number last.
    let length = usize::from(bytes[cell]);
    assert!(length < 0x80, "an entry of one visit is short");
    bytes[cell + length] ^= 0x55;
    write(path, &bytes);
}

/// A page of a table is zeros, as a sector that was never written back.
pub fn table(path: &Path) {
    let mut bytes = settled(path);
    let leaf = first_leaf(&bytes, root(path, "access_log"));
    let size = page_size(&bytes);
    bytes[leaf..leaf + size].fill(0);
    write(path, &bytes);
}

/// The first page of the free list names more free pages than fit into it.
pub fn free_list(path: &Path) {
    let db = databases::create(path, "DELETE FROM access_log WHERE id > 1000");
    drop(db);
    let mut bytes = settled(path);
    let trunk = u32_at(&bytes, 32) as usize;
    assert!(trunk > 0, "rows were removed, so pages are free");
    let trunk = (trunk - 1) * page_size(&bytes);
    bytes[trunk + 4..trunk + 8].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    write(path, &bytes);
}

/// The file ends after `length` bytes, as after a copy that was broken off.
pub fn cut(path: &Path, length: u64) {
    settled(path);
    let file = fs::File::options().write(true).open(path).expect("a database can be written");
    file.set_len(length).expect("a file can be cut");
}

/// The bytes of the file, with nothing left in a `-wal`.
fn settled(path: &Path) -> Vec<u8> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let left = fs::metadata(&wal).map_or(0, |wal| wal.len());
    assert_eq!(left, 0, "{} is still in use", path.display());
    fs::read(path).expect("a database can be read")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a database can be written");
}

/// The root page of the table or index called `name`.
fn root(path: &Path, name: &str) -> u32 {
    let db = databases::create(path, "");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    db.query_row(sql, [name], |row| row.get(0)).expect("a gym has that table or index")
}

/// Where the leftmost leaf below page `no` begins. Not for page 1, whose tree begins after the file's header.
fn first_leaf(bytes: &[u8], no: u32) -> usize {
    let page = (no as usize - 1) * page_size(bytes);
    match bytes[page] {
        2 | 5 => first_leaf(bytes, u32_at(bytes, page + usize::from(u16_at(bytes, page + 12)))),
        10 | 13 => page,
        other => panic!("page {no} has type {other}"),
    }
}

fn page_size(bytes: &[u8]) -> usize {
    match u16_at(bytes, 16) {
        1 => 65_536,
        size => size.into(),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
