//! A source: a live SQLite database, opened read-only, pinned to one committed state and read once, page after page.
//!
//! Nothing here writes to the database, checkpoints it, recovers it, or opens its file by any way but SQLite: closing a
//! plain file descriptor would drop the POSIX locks of everybody in this process.

use crate::sink::{Feed, PageSink, raw_header};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{self, Header, Journal};
use pullback_shared::page::{Geometry, PageNo};
use pullback_shared::text::{other_spellings, printable};
use pullback_shared::wire::SourceFacts;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use std::ffi::c_int;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a source may be waited for and held.
#[derive(Clone, Copy, Debug)]
pub struct HoldLimits {
    /// For getting the read lock.
    pub lock_wait: Duration,
    /// For keeping it; `None`: as long as one read takes.
    pub max_hold: Option<Duration>,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { lock_wait: Duration::from_secs(10), max_hold: None }
    }
}

/// A hold that lasts longer is worth a warning.
pub const HOLD_WARNING: Duration = Duration::from_secs(5);

/// A lock under which nothing moves for this long is not waited for any longer.
const IDLE_LOCK_WAIT: Duration = Duration::from_secs(4);

/// A rollback journal is hot if nothing moves for this long: SQLite also takes one for hot whose writer gets its lock between
/// two looks at it.
const HOT_JOURNAL_WAIT: Duration = Duration::from_secs(1);

/// Between two tries to get the read lock.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// The longest path the SQLite file layer takes, in bytes (its `MAX_PATHNAME`, less what it appends).
const PATH_BYTES_MAX: usize = 504;

/// A database file that may be opened: found, a file, and ours to read without harm.
pub struct Source {
    path: PathBuf,
    metadata: Metadata,
}

impl Source {
    /// Finds the database at `path`. Only asks the file system; the file is not opened.
    pub fn find(path: &Path) -> Result<Self, Fault> {
        let shown = shown(path);
        let path = resolved(path).map_err(|error| not_found(path, &error))?;
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(Fault::new(
                Kind::Unusable,
                format!("{shown}: its path is longer than SQLite takes ({PATH_BYTES_MAX} bytes)"),
            )
            .hint("name it by a shorter path, for example through a link"));
        }
        let metadata = path.metadata().map_err(|error| not_found(&path, &error))?;
        let kind = metadata.file_type();
        let what = match () {
            () if kind.is_dir() => "is a directory",
            () if kind.is_fifo() => "is a FIFO",
            () if kind.is_char_device() || kind.is_block_device() => "is a device",
            () if kind.is_socket() => "is a socket",
            () => "",
        };
        if !what.is_empty() {
            return Err(Fault::new(Kind::Unusable, format!("{shown} {what}, not a database file"))
                .hint("name the database file itself"));
        }
        check_user(&shown, &metadata)?;
        Ok(Self { path, metadata })
    }

    /// The canonical absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the database file, from `stat`.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes of the file beside the database whose name ends in `suffix` (`-wal`, `-shm`, `-journal`); 0 without one.
    pub fn beside_bytes(&self, suffix: &str) -> u64 {
        self.beside(suffix).metadata().map(|metadata| metadata.len()).unwrap_or(0)
    }

    /// When the database or its `-wal` changed last, in seconds since 1970.
    pub fn modified_at(&self) -> i64 {
        let wal = self.beside("-wal").metadata().map(|metadata| metadata.mtime()).unwrap_or(0);
        self.metadata.mtime().max(wal)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Opens the database and begins the hold: one committed state, until the [`Hold`] is dropped.
    pub fn hold(&self, limits: HoldLimits) -> Result<Hold<'_>, Fault> {
        let began = Instant::now();
        let mut seen = self.motion();
        let mut moved = began;
        loop {
            let error = match self.pin() {
                Ok(connection) => return Hold::of(self, connection, limits),
                Err(error) => error,
            };
            let idle_wait = match is_hot(&error) {
                true => HOT_JOURNAL_WAIT,
                false if is_busy(&error) => IDLE_LOCK_WAIT,
                false => return Err(self.explain(&error)),
            };
            let now = self.motion();
            if now != seen {
                (seen, moved) = (now, Instant::now());
            }
            let is_idle = moved.elapsed() >= idle_wait.min(limits.lock_wait);
            if is_idle && is_hot(&error) {
                return Err(self.explain(&error));
            }
            if is_idle || began.elapsed() >= limits.lock_wait {
                return Err(self.busy(began.elapsed()));
            }
            std::thread::sleep(LOCK_RETRY);
        }
    }

    /// One read transaction. `PRAGMA schema_version` takes the lock without needing a readable schema.
    fn pin(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.execute_batch("PRAGMA mmap_size = 0; BEGIN")?;
        connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
        Ok(connection)
    }

    /// What changes when somebody works on the database.
    fn motion(&self) -> [(i64, i64, u64); 3] {
        ["", "-wal", "-journal"].map(|suffix| match self.beside(suffix).metadata() {
            Ok(metadata) => (metadata.mtime(), metadata.mtime_nsec(), metadata.len()),
            Err(_) => (0, 0, 0),
        })
    }

    /// SQLite reads a last page that is not all there as if its end were zeros, so the length is looked at here. In WAL mode
    /// a checkpoint may be writing the file this moment, and its last pages may be in the `-wal` only.
    pub(crate) fn check_whole(&self, geometry: Geometry, journal: Journal) -> Result<(), Fault> {
        let len = self.path.metadata().map_err(|error| not_found(&self.path, &error))?.len();
        let is_cut = match journal {
            Journal::Rollback => len < geometry.bytes(),
            Journal::Wal => len == self.metadata.len() && len % u64::from(geometry.page_size.get()) != 0,
        };
        match is_cut && geometry.page_count > 0 {
            true => Err(self.cut_short(&format!("it ends after {len} bytes, within a page"))),
            false => Ok(()),
        }
    }

    fn cut_short(&self, why: &str) -> Fault {
        let shown = shown(&self.path);
        Fault::new(
            Kind::Unreadable,
            format!("{shown} cannot be read to its end: {why}; it may have been cut short"),
        )
        .hint("restore the newest good copy, or recover what is left with `sqlite3 FILE .recover`")
    }

    fn busy(&self, waited: Duration) -> Fault {
        let shown = shown(&self.path);
        Fault::new(
            Kind::Busy,
            format!("{shown} is locked: no read lock within {:.1} s", waited.as_secs_f64()),
        )
        .hint(
            "an application that holds the lock all the time has `PRAGMA locking_mode=EXCLUSIVE`, or a write \
             transaction that is left open: end it, or give it `journal_mode=WAL` and `locking_mode=NORMAL`; \
             `lock_wait` in the agent's configuration waits longer",
        )
    }

    /// What `error`, which SQLite gave, means for the user.
    pub(crate) fn explain(&self, error: &rusqlite::Error) -> Fault {
        let shown = shown(&self.path);
        let (code, extended) = codes(error);
        match (code, extended) {
            _ if is_hot(error) => Fault::new(
                Kind::HotJournal,
                format!("{shown} has a hot rollback journal: its last writer died within a transaction"),
            )
            .hint("start the application once, or open the database with `sqlite3`: a writer recovers it; a reader must not"),
            (ffi::SQLITE_NOTADB, _) => {
                Fault::new(Kind::NotADatabase, format!("{shown} is not an SQLite database, or it is encrypted"))
                    .hint("encrypted databases (SQLCipher, SEE) cannot be read without their key")
            }
            (ffi::SQLITE_CORRUPT, _) => self.cut_short(&format!("SQLite says `{}`", said(error))),
            (ffi::SQLITE_FULL, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => {
                Fault::new(Kind::NoSpace, format!("{shown}: its disk is full, or fails: SQLite cannot write beside it"))
                    .hint("free some room there: in WAL mode even whoever reads needs a little for the `-shm`")
            }
            (ffi::SQLITE_IOERR, _) => Fault::new(
                Kind::Unreadable,
                format!("{shown} cannot be read: SQLite says `{}` (code {extended})", said(error)),
            )
            .hint("look at the system's log: the disk or the card may be failing"),
            (ffi::SQLITE_CANTOPEN | ffi::SQLITE_READONLY | ffi::SQLITE_PERM | ffi::SQLITE_AUTH, _) => {
                let readable = rustix::fs::access(&self.path, rustix::fs::Access::READ_OK).is_ok();
                let why = if readable { "SQLite cannot open it or what lies beside it" } else { "permission denied" };
                let kind = if readable { Kind::Unusable } else { Kind::Refused };
                Fault::new(kind, format!("{shown}: {why} (SQLite says `{}`, code {extended})", said(error)))
                    .hint("the agent needs to read the file, and to write in its directory where the journal mode is WAL")
            }
            _ => Fault::new(Kind::Unusable, format!("{shown}: SQLite says `{}` (code {extended})", said(error))),
        }
    }
}

/// The time a source is kept open: one connection, one read transaction, gone when this is dropped.
pub struct Hold<'source> {
    source: &'source Source,
    connection: Connection,
    geometry: Geometry,
    facts: SourceFacts,
    header: Option<Header>,
    began: Instant,
    limits: HoldLimits,
}

impl<'source> Hold<'source> {
    fn of(source: &'source Source, connection: Connection, limits: HoldLimits) -> Result<Self, Fault> {
        let began = Instant::now();
        let geometry = geometry_of(&connection).map_err(|error| source.explain(&error))?;
        let header = raw_header(&connection).as_ref().and_then(|bytes| Header::read(bytes));
        source.check_whole(geometry, header.map_or(Journal::Rollback, |header| header.journal))?;
        let metadata = &source.metadata;
        let facts = SourceFacts {
            path: shown_raw(&source.path),
            journal: header.map_or(Journal::Rollback, |header| header.journal).word().to_owned(),
            change_counter: header.map_or(0, |header| header.change_counter),
            schema_cookie: header.map_or(0, |header| header.schema_cookie),
            version_valid_for: header.map_or(0, |header| header.version_valid_for),
            library_version: header.map_or(0, |header| header.library_version),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            agent_version: pullback_shared::RELEASE.to_owned(),
            sqlite_version: sqlite_version().to_owned(),
            file_bytes: metadata.len(),
            wal_bytes: source.beside_bytes("-wal"),
        };
        Ok(Self { source, connection, geometry, facts, header, began, limits })
    }

    /// Of the state that is held.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// About the source, as it was when the hold began.
    pub fn facts(&self) -> &SourceFacts {
        &self.facts
    }

    /// The header on the disk; `None` for a database without pages. In WAL mode, newer fields may be in the `-wal`.
    pub fn header(&self) -> Option<Header> {
        self.header
    }

    /// Reads every page into `sink`, in canonical form, and ends the hold. Returns how long it lasted.
    pub fn read_into(self, sink: Box<dyn PageSink>) -> Result<Duration, Fault> {
        let deadline = self.limits.max_hold.map(|max| (self.began + max, max));
        let mut sink = Canonical { sink, geometry: self.geometry, deadline, until_clock: 0 };
        if let Some(lock_page) = self.geometry.lock_page() {
            sink.page(lock_page, &mut vec![0; self.geometry.page_size.as_usize()])?;
        }
        if self.geometry.page_count > 0 {
            let mut feed = Feed::open(self.geometry, Box::new(sink))?;
            if let Err(error) = copy_pages(&self.connection, feed.connection()) {
                return Err(feed.fault().unwrap_or_else(|| self.source.explain(&error)));
            }
            feed.finish()?;
        }
        let held = self.began.elapsed();
        drop(self.connection);
        if held > HOLD_WARNING && self.facts.journal != Journal::Wal.word() {
            tracing::warn!(path = %self.facts.path, seconds = held.as_secs_f64(), "commits had to wait for the hold");
        }
        Ok(held)
    }
}

/// The release of the SQLite within, such as `3.54.1`.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

fn copy_pages(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    let backup = Backup::new(from, to)?;
    match backup.step(-1)? {
        StepResult::Done => Ok(()),
        StepResult::Busy | StepResult::Locked | StepResult::More => Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_BUSY),
            Some("the pinned source did not let itself be read".to_owned()),
        )),
        _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), None)),
    }
}

/// Page size and count of the pinned state. A backup that copies no page tells them without a readable schema.
pub(crate) fn geometry_of(connection: &Connection) -> rusqlite::Result<Geometry> {
    let page_size: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let mut nowhere = Connection::open_in_memory()?;
    let backup = Backup::new(connection, &mut nowhere)?;
    backup.step(0)?;
    let page_count = u32::try_from(backup.progress().pagecount).unwrap_or(0);
    Geometry::new(page_size, page_count)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(0, i64::from(page_size)))
}

/// Makes page 1 canonical and watches the time, then hands on.
struct Canonical {
    sink: Box<dyn PageSink>,
    geometry: Geometry,
    deadline: Option<(Instant, Duration)>,
    until_clock: u32,
}

impl PageSink for Canonical {
    fn page(&mut self, no: PageNo, page: &mut [u8]) -> Result<(), Fault> {
        if let Some((deadline, max)) = self.deadline {
            self.until_clock = self.until_clock.checked_sub(1).unwrap_or(64);
            if self.until_clock == 0 && Instant::now() > deadline {
                return Err(Fault::new(Kind::Busy, format!("the source was held for {:.1} s, the limit", max.as_secs_f64()))
                    .hint("`max_hold` in the agent's configuration sets the limit; `journal_mode=WAL` lets writers go on during a hold"));
            }
        }
        if no == PageNo::FIRST {
            header::make_canonical(page, self.geometry.page_count);
        }
        self.sink.page(no, page)
    }
}

/// Neither root nor the owner: SQLite would make `-wal` and `-shm` files that the application cannot write.
/// The canonical absolute path of the file at `path`; where that is not there, of the one whose path looks the same.
pub fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let found = path.canonicalize();
    let (Err(error), Some(typed)) = (&found, path.to_str()) else { return found };
    if error.kind() != std::io::ErrorKind::NotFound {
        return found;
    }
    let mut others = other_spellings(typed).into_iter().map(|spelling| Path::new(&spelling).canonicalize());
    others.find(Result::is_ok).unwrap_or(found)
}

fn check_user(shown: &str, metadata: &Metadata) -> Result<(), Fault> {
    let user = rustix::process::geteuid().as_raw();
    if user == 0 || user == metadata.uid() {
        return Ok(());
    }
    let owner = metadata.uid();
    Err(Fault::new(
        Kind::Refused,
        format!("{shown} belongs to user {owner}, and this runs as user {user}: reading it could lock its application out"),
    )
    .hint(format!("run as its owner, for example with `sudo -u '#{owner}'`, or as root; through ssh, `puller --sudo` does")))
}

/// Why the file at `path` cannot be found.
pub(crate) fn not_found(path: &Path, error: &std::io::Error) -> Fault {
    let shown = shown(path);
    match error.kind() {
        std::io::ErrorKind::NotFound if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) => {
            Fault::new(Kind::Missing, format!("{shown} is a link to a file that is not there"))
                .hint("`readlink -f` on it shows which file that is; is its disk mounted?")
        }
        std::io::ErrorKind::NotFound => Fault::new(Kind::Missing, format!("{shown}: there is no such file"))
            .hint("check the path; `ls -l` on its directory shows what is there"),
        std::io::ErrorKind::PermissionDenied => {
            Fault::new(Kind::Refused, format!("{shown}: permission denied"))
                .hint("run as the user that owns the database")
        }
        _ => Fault::new(Kind::Unusable, format!("{shown}: {error}")).hint("name the database file itself"),
    }
}

fn shown(path: &Path) -> String {
    format!("`{}`", printable(&path.to_string_lossy(), 1024))
}

fn shown_raw(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// SQLite's primary and extended result codes.
pub(crate) fn codes(error: &rusqlite::Error) -> (c_int, c_int) {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => (error.extended_code & 0xff, error.extended_code),
        rusqlite::Error::InvalidPath(_) | rusqlite::Error::NulError(_) => {
            (ffi::SQLITE_CANTOPEN, ffi::SQLITE_CANTOPEN)
        }
        _ => (ffi::SQLITE_ERROR, ffi::SQLITE_ERROR),
    }
}

fn is_hot(error: &rusqlite::Error) -> bool {
    codes(error).1 == ffi::SQLITE_READONLY_ROLLBACK
}

pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(codes(error).0, ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED)
}

/// In SQLite's words.
pub(crate) fn said(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => printable(message, 256),
        other => printable(&other.to_string(), 256),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Pages(Arc<Mutex<BTreeMap<u32, Vec<u8>>>>);

    impl PageSink for Pages {
        fn page(&mut self, no: PageNo, page: &mut [u8]) -> Result<(), Fault> {
            assert!(self.0.lock().unwrap().insert(no.get(), page.to_vec()).is_none());
            Ok(())
        }
    }

    struct Full;

    impl PageSink for Full {
        fn page(&mut self, no: PageNo, _page: &mut [u8]) -> Result<(), Fault> {
            match no.get() > 20 {
                true => Err(Fault::new(Kind::NoSpace, "full")),
                false => Ok(()),
            }
        }
    }

    struct Panics;

    impl PageSink for Panics {
        fn page(&mut self, _no: PageNo, _page: &mut [u8]) -> Result<(), Fault> {
            panic!("on purpose")
        }
    }

    fn database(page_size: u32, journal: &str, rows: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode={journal}; CREATE TABLE t(a, b);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
                 INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;"
            ))
            .unwrap();
        std::mem::forget(connection);
        (dir, path)
    }

    fn read(path: &Path) -> (Geometry, BTreeMap<u32, Vec<u8>>) {
        let source = Source::find(path).unwrap();
        let hold = source.hold(HoldLimits::default()).unwrap();
        let (geometry, pages) = (hold.geometry(), Pages::default());
        hold.read_into(Box::new(pages.clone())).unwrap();
        let pages = pages.0.lock().unwrap().clone();
        (geometry, pages)
    }

    #[test]
    fn every_page_arrives_once_in_every_page_size_and_journal_mode() {
        for page_size in [512, 4096, 65536] {
            for journal in ["wal", "delete", "truncate", "persist"] {
                let (_dir, path) = database(page_size, journal, 2000);
                let (geometry, pages) = read(&path);
                assert_eq!(geometry.page_size.get(), page_size);
                assert_eq!(pages.len(), geometry.page_count as usize);
                assert_eq!(pages, read(&path).1, "two snapshots of one state are the same");
            }
        }
    }

    #[test]
    fn an_empty_file_is_a_snapshot_of_no_pages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.db");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).0.page_count, 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_stops_the_sink_is_what_the_caller_hears() {
        let (_dir, path) = database(4096, "wal", 5000);
        let source = Source::find(&path).unwrap();
        let stopped = source.hold(HoldLimits::default()).unwrap().read_into(Box::new(Full)).unwrap_err();
        assert_eq!(stopped.kind, Kind::NoSpace);
        let panicked = source.hold(HoldLimits::default()).unwrap().read_into(Box::new(Panics)).unwrap_err();
        assert_eq!(panicked.kind, Kind::Internal);
        assert_eq!(read(&path).1.len() as u32, read(&path).0.page_count);
    }

    #[test]
    fn a_hold_ends_at_its_limit() {
        let (_dir, path) = database(512, "delete", 20_000);
        let source = Source::find(&path).unwrap();
        let limits = HoldLimits { max_hold: Some(Duration::ZERO), ..HoldLimits::default() };
        let fault = source.hold(limits).unwrap().read_into(Box::new(Pages::default())).unwrap_err();
        assert_eq!(fault.kind, Kind::Busy);
    }
}
