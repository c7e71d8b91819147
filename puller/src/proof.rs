//! Proving a file: read back whole against page hashes, and judged by SQLite. Databases are opened here, and in [`crate::demo_database`].

use crate::manifest::{Contents, Level};
use crate::sum::Sum;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::snapshot::{SnapshotHasher, SnapshotId};
use pullback_shared::sql::{identifier, immutable_uri};
use pullback_shared::text::printable;
use pullback_shared::verdict::Findings;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Bytes read at once: a whole number of pages of any size, and few enough to stay in a processor's cache.
const CHUNK: usize = 256 * 1024;

/// Rows of one check that are looked at.
const ROWS_MAX: u32 = 100_000;

/// How long SQLite may look at a copy: at least so long, and a second for each so many bytes. What a schema has it compute
/// can go on for ever.
const CHECK_TIME_MIN: Duration = Duration::from_secs(600);
const CHECK_BYTES_A_SECOND: u64 = 1024 * 1024;

/// How long SQLite may then take to end; within one function that a schema calls it does not notice that it is to.
const INTERRUPT_WAIT: Duration = Duration::from_secs(5);

/// Bytes that SQLite may have in memory for all checks at once: values that a schema computes can be as large as it likes.
const HEAP_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// What reading a file back found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// The name of the content that is there.
    pub snapshot: SnapshotId,
    /// MD5 of the file, if it was asked for.
    pub md5: Option<[u8; 16]>,
    /// The first page that is not as its hash in the list says.
    pub first_wrong: Option<PageNo>,
}

/// Reads the file at `path` whole and compares each page with `hashes`; a file of another length is an error. Tells
/// `progress` the bytes read.
pub fn read_back(
    path: &Path,
    geometry: Geometry,
    hashes: File,
    want_md5: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<ReadBack> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    if len != geometry.bytes() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {len} bytes instead of {}", geometry.bytes()),
        ));
    }
    read_back_from(&mut file, geometry, hashes, want_md5, progress)
}

/// As [`read_back`], of what `pages` yields; what may follow the last page is not read.
pub fn read_back_from(
    pages: &mut dyn Read,
    geometry: Geometry,
    hashes: File,
    want_md5: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<ReadBack> {
    let mut hashes = HashList::new(hashes, geometry.page_count);
    let mut sum = want_md5.then(Sum::start).transpose()?;
    let mut id = SnapshotHasher::new(geometry);
    let mut first_wrong = None;
    let mut number = 0;
    let mut left = geometry.bytes();
    let mut chunk = Vec::new();
    while left > 0 {
        chunk.resize(CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)), 0);
        pages.read_exact(&mut chunk)?;
        left -= chunk.len() as u64;
        for page in chunk.chunks_exact(geometry.page_size.as_usize()) {
            number += 1;
            let no = PageNo::new(number).expect("BUG: page 0");
            let hash = PageHash::of(page);
            if first_wrong.is_none() && hashes.get(no)? != hash {
                first_wrong = Some(no);
            }
            id.push(hash);
        }
        progress(geometry.bytes() - left);
        if let Some(sum) = &mut sum {
            chunk = sum.add(chunk);
        }
    }
    Ok(ReadBack { snapshot: id.finish(), md5: sum.map(Sum::finish), first_wrong })
}

/// The name of the content that comes from `file`, whose page hashes go to `list`; content of another length is an error.
pub fn name_of(mut file: impl Read, geometry: Geometry, list: &mut impl Write) -> io::Result<SnapshotId> {
    let mut id = SnapshotHasher::new(geometry);
    let mut page = vec![0; geometry.page_size.as_usize()];
    for _ in 0..geometry.page_count {
        file.read_exact(&mut page)?;
        let hash = PageHash::of(&page);
        list.write_all(&hash.0)?;
        id.push(hash);
    }
    match file.read(&mut [0])? {
        0 => Ok(id.finish()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than it was")),
    }
}

/// What SQLite says of a copy.
#[derive(Debug, Default)]
pub struct Judged {
    /// Of the check.
    pub findings: Findings,
    /// What is in it.
    pub contents: Contents,
}

/// Asks SQLite about the private file at `path`: `quick_check`, or `integrity_check` and `foreign_key_check`. A check that does
/// not come to an end is one that was not passed.
pub fn ask_sqlite(path: &Path, level: Level, geometry: Geometry) -> Result<Judged, Fault> {
    let limit = CHECK_TIME_MIN + Duration::from_secs(geometry.bytes() / CHECK_BYTES_A_SECOND);
    ask_sqlite_within(limit, path, level, geometry)
}

fn ask_sqlite_within(
    limit: Duration,
    path: &Path,
    level: Level,
    geometry: Geometry,
) -> Result<Judged, Fault> {
    let mut judged = Judged::default();
    judged.contents.used_pages = geometry.page_count;
    if geometry.page_count == 0 {
        judged.contents.tables = Some(0);
        return Ok(judged);
    }
    let writable = Writable::make(path)?;
    let asked = within(limit, path, move |connection| {
        let mut judged = Judged { contents: contents(connection, geometry), ..Judged::default() };
        if level != Level::Hash {
            check(connection, level, &mut judged.findings);
        }
        judged
    });
    drop(writable);
    match asked {
        Ok(found) => judged = found,
        Err(why) => judged.findings.add_error(&why),
    }
    Ok(judged)
}

/// What `ask` learns of the file at `path`, on a thread of its own: one that does not end in time is left to itself.
fn within<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    ask: impl FnOnce(&Connection) -> T + Send + 'static,
) -> Result<T, String> {
    let (opened, handle) = mpsc::channel();
    let (done, answer) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let asked = open_for_check(&path).map(|connection| {
            // Nobody listens any more where that took too long; nor to the answer.
            let _ = opened.send(connection.get_interrupt_handle());
            ask(&connection)
        });
        let _ = done.send(asked.map_err(|error| error.to_string()));
    });
    if let Ok(asked) = answer.recv_timeout(limit) {
        return asked;
    }
    if let Ok(handle) = handle.try_recv() {
        handle.interrupt();
    }
    let late = answer.recv_timeout(INTERRUPT_WAIT);
    late.unwrap_or_else(|_| Err(format!("the check did not come to an end in {} s", limit.as_secs())))
}

/// SQLite leaves CHECK constraints out of `integrity_check` on a read-only connection (its schema parser skips them), so a
/// copy, which is kept read-only, is its owner's to write for as long as it is checked. `query_only` keeps it as it is.
struct Writable<'a> {
    path: &'a Path,
    before: Option<std::fs::Permissions>,
}

impl<'a> Writable<'a> {
    fn make(path: &'a Path) -> Result<Self, Fault> {
        let io = |error: io::Error| Fault::io(format!("`{}`", path.display()), &error);
        let before = std::fs::metadata(path).map_err(io)?.permissions();
        if before.mode() & 0o200 != 0 {
            return Ok(Self { path, before: None });
        }
        let mode = std::fs::Permissions::from_mode(before.mode() | 0o200);
        // A file of another owner stays as it is: then CHECK constraints are not looked at.
        let changed = std::fs::set_permissions(path, mode).is_ok();
        Ok(Self { path, before: changed.then_some(before) })
    }
}

impl Drop for Writable<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take()
            && let Err(error) = std::fs::set_permissions(self.path, before)
        {
            tracing::warn!(path = %self.path.display(), %error, "the copy could not be made read-only again");
        }
    }
}

fn open_for_check(path: &Path) -> rusqlite::Result<Connection> {
    let writing = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reading = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, writing).or_else(|_| Connection::open_with_flags(path, reading))?;
    harden(&connection)?;
    connection.execute_batch(&format!("PRAGMA hard_heap_limit = {HEAP_BYTES_MAX}"))?;
    Ok(connection)
}

/// Opens the file at `path`, which nobody writes, for reading, without a trace beside it.
pub fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    harden(&connection)?;
    Ok(connection)
}

/// A copied schema is somebody else's: it runs no functions with side effects, and nothing is written.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON")
}

fn contents(connection: &Connection, geometry: Geometry) -> Contents {
    let sql =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let tables =
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).ok().and_then(|n| u64::try_from(n).ok());
    let free = connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u32>(0)).unwrap_or(0);
    Contents { tables, used_pages: geometry.page_count.saturating_sub(free) }
}

fn check(connection: &Connection, level: Level, findings: &mut Findings) {
    let pragma = if level == Level::Full { "integrity_check" } else { "quick_check" };
    if let Err(error) = check_rows(connection, &format!("PRAGMA {pragma}({ROWS_MAX})"), findings) {
        findings.add_error(&error.to_string());
        if findings.lacks_code() {
            // One table that cannot be checked must not hide damage in the others.
            check_tables(connection, pragma, findings);
        }
    }
    check_modules(connection, findings);
    if level == Level::Full
        && let Err(error) = check_foreign_keys(connection, findings)
    {
        match error.to_string() {
            said if said.contains("foreign key mismatch") => {
                findings.add_foreign_key(&said, "anything unique")
            }
            said => findings.add_error(&said),
        }
    }
}

fn check_rows(connection: &Connection, sql: &str, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        findings.add_check_row(&String::from_utf8_lossy(row.get_ref(0)?.as_bytes().unwrap_or_default()));
    }
    Ok(())
}

fn names(connection: &Connection, condition: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!("SELECT name FROM sqlite_schema WHERE type = 'table' AND {condition}");
    let mut statement = connection.prepare(&sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

fn check_tables(connection: &Connection, pragma: &str, findings: &mut Findings) {
    for name in names(connection, "rootpage > 0").unwrap_or_default() {
        let quoted = name.replace('\'', "''");
        if let Err(error) = check_rows(connection, &format!("PRAGMA {pragma}('{quoted}')"), findings) {
            findings.add_error(&error.to_string());
        }
    }
}

/// The checks pass over virtual tables whose module SQLite does not know.
fn check_modules(connection: &Connection, findings: &mut Findings) {
    for name in names(connection, "rootpage = 0").unwrap_or_default() {
        if let Err(error) = connection.prepare(&format!("SELECT 1 FROM {} LIMIT 0", identifier(&name)))
            && error.to_string().contains("no such module")
        {
            findings.add_error(&error.to_string());
        }
    }
}

fn check_foreign_keys(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        findings.add_foreign_key(&row.get::<_, String>(0)?, &row.get::<_, String>(2)?);
        count += 1;
        if count == ROWS_MAX {
            break;
        }
    }
    Ok(())
}

/// Tables of the file at `path`, in order.
pub fn tables(path: &Path) -> Result<Vec<String>, Fault> {
    open_immutable(path)
        .and_then(|connection| user_tables(&connection))
        .map_err(|error| of_sqlite(path, &error))
}

fn user_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names = names(connection, "name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
    names.sort();
    Ok(names)
}

fn of_sqlite(path: &Path, error: &rusqlite::Error) -> Fault {
    Fault::new(Kind::Damaged, format!("`{}`: {error}", path.display()))
}

/// Tables of the file at `path` with their rows; -1 where SQLite cannot count them.
pub fn count_rows(path: &Path) -> Result<Vec<(String, i64)>, Fault> {
    let connection = open_immutable(path).map_err(|error| of_sqlite(path, &error))?;
    let names = user_tables(&connection).map_err(|error| of_sqlite(path, &error))?;
    let count = |name: String| {
        let sql = format!("SELECT count(*) FROM {}", identifier(&name));
        let rows = connection.query_row(&sql, [], |row| row.get(0)).unwrap_or(-1);
        (name, rows)
    };
    Ok(names.into_iter().map(count).collect())
}

/// What `expected` asks of the file at `path` that is not so: each table is there and has that many rows. Rows are counted as
/// far as they matter.
pub fn unmet(path: &Path, expected: &BTreeMap<String, u64>) -> Option<String> {
    let connection = match open_immutable(path) {
        Ok(connection) => connection,
        Err(error) => return Some(format!("the tables that are expected cannot be looked for: {error}")),
    };
    for (name, fewest) in expected {
        let shown = printable(name, 80);
        let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {} LIMIT {fewest})", identifier(name));
        match connection.query_row(&sql, [], |row| row.get::<_, i64>(0)) {
            Ok(rows) if rows.cast_unsigned() >= *fewest => {}
            Ok(rows) => {
                return Some(format!("table `{shown}` has {rows} rows, and at least {fewest} are expected"));
            }
            Err(error) => return Some(format!("table `{shown}` is expected: {error}")),
        }
    }
    None
}

/// SQLite's full check of the file at `path`, whoever's it is: read-only, without a trace beside it. CHECK constraints are not
/// looked at, as SQLite leaves them out there.
pub fn ask_file(path: &Path) -> Result<Findings, Fault> {
    let mut findings = Findings::default();
    match open_immutable(path) {
        Ok(connection) => check(&connection, Level::Full, &mut findings),
        Err(error) => findings.add_error(&error.to_string()),
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database whose CHECK is `hostile` by now, and 1,000 rows that were there before.
    fn trap(dir: &Path, hostile: &str) -> (std::path::PathBuf, Geometry) {
        let path = dir.join("trap.db");
        let connection = Connection::open(&path).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).unwrap();
        let rows = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 1000) INSERT INTO t SELECT n FROM r";
        let sql = format!("CREATE TABLE t(a CHECK({hostile}))").replace('\'', "''");
        let sql = format!(
            "CREATE TABLE t(a); {rows}; PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = '{sql}'"
        );
        connection.execute_batch(&sql).unwrap();
        drop(connection);
        let pages = u32::try_from(path.metadata().unwrap().len() / 4096).unwrap();
        (path, Geometry::new(4096, pages).unwrap())
    }

    #[test]
    fn a_check_that_never_ends_is_given_up_and_was_not_passed() {
        let limit = Duration::from_secs(1);
        // Minutes of small steps, which SQLite can be stopped between; and a step that takes longer than anything.
        for (hostile, says) in [
            ("length(randomblob(100000000)) < 0", "interrupted"),
            (
                "instr(zeroblob(20000000), CAST(zeroblob(10000000) || x'01' AS BLOB)) > 0",
                "did not come to an end in 1 s",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (path, geometry) = trap(dir.path(), hostile);
            let judged = ask_sqlite_within(limit, &path, Level::Full, geometry).unwrap();
            assert!(!judged.findings.verdict().is_good(), "{hostile}");
            let lines = judged.findings.into_lines();
            assert!(lines.iter().any(|line| line.contains(says)), "{hostile}: {lines:?}");
        }
    }

    #[test]
    fn a_check_that_takes_too_much_memory_was_not_passed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, geometry) = trap(dir.path(), "length(randomblob(900000000)) < 0");
        let judged = ask_sqlite(&path, Level::Full, geometry).unwrap();
        assert!(!judged.findings.verdict().is_good());
        assert_eq!(judged.findings.into_lines()[0], "out of memory");
    }
}
