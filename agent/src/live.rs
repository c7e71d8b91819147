//! A database that is replaced while others may be using it: everything goes through SQLite's own locks.
//!
//! Renaming a file over a database that somebody has open breaks their writes, and a `-wal` that is left over undoes the
//! replacement silently. So the content is copied into the database by SQLite's backup API, as one transaction: whoever reads
//! sees the old state or the new one, and a crash leaves one of them.

use crate::one_file::open_private;
use crate::sink::raw_header;
use crate::source::{HoldLimits, Source, codes, is_busy, said};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{Header, Journal};
use pullback_shared::page::Geometry;
use pullback_shared::restoring::Facts;
use pullback_shared::text::printable;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two tries to get the write lock.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// Pages copied between two words about progress.
const PAGES_AT_ONCE: i32 = 4096;

/// A database that is to be replaced.
pub struct Live {
    source: Source,
    limits: HoldLimits,
    /// Open from before the safety copy to the write lock: it tells whether anybody committed meanwhile.
    guard: Connection,
    seen: Seen,
    /// Its write lock, so that nobody else commits.
    frozen: Option<Connection>,
    facts: Facts,
    /// It was in WAL mode, and is to be so again.
    was_wal: bool,
}

/// What changes with each commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    /// In rollback mode, the change counter that lies in the file tells: it can be read whoever has the lock.
    header: Option<(Journal, u32)>,
    /// In WAL mode, the guard's own number of the newest commit.
    data_version: i64,
}

/// What became of an attempt to write.
pub enum Written {
    /// Done; [`Copied::prove`] reads it back.
    Copied(Copied),
    /// Somebody committed since the guard looked. Nothing was written.
    Moved,
}

/// Content that was copied into a database, by the connection that did it.
pub struct Copied {
    path: PathBuf,
    limits: HoldLimits,
    writer: Connection,
    /// The writer's number of the newest commit of others.
    data_version: i64,
    is_wal_again: bool,
    /// How long other writers had to wait.
    pub held: Duration,
}

impl Live {
    /// Opens the database as a writer, which recovers what a crash left of it, and looks at its state.
    pub fn open(path: &Path, limits: HoldLimits) -> Result<Self, Fault> {
        let source = Source::find(path)?;
        let guard = open(&source)?;
        let mut live = Self {
            facts: until_free(limits.lock_wait, &source, || facts_of(&guard, &source))??,
            guard,
            source,
            limits,
            seen: Seen { header: None, data_version: 0 },
            frozen: None,
            was_wal: false,
        };
        live.look()?;
        Ok(live)
    }

    /// What it is.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Notes what is the newest commit now.
    pub fn look(&mut self) -> Result<(), Fault> {
        let guard = &self.guard;
        self.seen = until_free(self.limits.lock_wait, &self.source, || {
            guard.execute_batch("BEGIN")?;
            let data_version = data_version(guard);
            let header = header_of(guard);
            guard.execute_batch("COMMIT")?;
            Ok(Seen { header, data_version: data_version? })
        })?;
        Ok(())
    }

    /// Whether anybody committed since the last look; whoever asks has the write lock.
    fn has_moved(&self) -> Result<bool, Fault> {
        let header = header_of(&self.guard);
        let is_wal = |header: Option<(Journal, u32)>| matches!(header, Some((Journal::Wal, _)));
        if is_wal(header) && is_wal(self.seen.header) {
            // A checkpoint writes the counter in the file, and is no commit.
            let now = until_free(self.limits.lock_wait, &self.source, || data_version(&self.guard))?;
            return Ok(now != self.seen.data_version);
        }
        Ok(header != self.seen.header)
    }

    /// Keeps every other writer out until [`Self::replace`], and looks at the state that stays so.
    pub fn freeze(&mut self) -> Result<(), Fault> {
        if self.frozen.is_none() {
            let writer = open(&self.source)?;
            until_free(self.limits.lock_wait, &self.source, || writer.execute_batch("BEGIN IMMEDIATE"))?;
            self.frozen = Some(writer);
        }
        self.look()
    }

    /// Takes the database out of WAL mode, which works only where nobody else has it open, and freezes it.
    pub fn become_sole(&mut self) -> Result<(), Fault> {
        if self.facts.journal == Journal::Wal && !self.was_wal {
            self.guard = open(&self.source)?;
            let guard = &self.guard;
            let mode = until_free(self.limits.lock_wait, &self.source, || {
                guard.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0))
            });
            if !mode.as_ref().is_ok_and(|mode| mode == "delete") {
                return Err(Fault::new(
                    Kind::Busy,
                    format!("{} is still open in another program", self.source),
                )
                .hint("stop every application that uses it: `--stop-cmd` says how"));
            }
            self.was_wal = true;
        }
        self.freeze()
    }

    /// Copies the database file at `content`, which is private and in canonical form, over the database: all of it or nothing.
    /// `progress` hears of pages written, of all; an error from it takes everything back.
    pub fn replace(
        &mut self,
        content: &Path,
        mut progress: impl FnMut(u32, u32) -> Result<(), Fault>,
    ) -> Result<Written, Fault> {
        let from = open_private(content).map_err(|error| self.failed(&error))?;
        let mut writer = open(&self.source)?;
        let version = until_free(self.limits.lock_wait, &self.source, || data_version(&writer))?;
        let backup = Backup::new(&from, &mut writer).map_err(|error| self.failed(&error))?;
        // Only one of them can have the lock.
        drop(self.frozen.take());
        let began = Instant::now();
        self.lock(&backup, began)?;
        let locked = Instant::now();
        if self.has_moved()? {
            return Ok(Written::Moved);
        }
        loop {
            let step = backup.step(PAGES_AT_ONCE).map_err(|error| self.failed(&error))?;
            let done = backup.progress();
            let number = |count: i32| u32::try_from(count).unwrap_or(0);
            progress(number(done.pagecount - done.remaining), number(done.pagecount))?;
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // The lock is there: readers of a rollback mode may still have to end.
                _ if locked.elapsed() < self.limits.lock_wait => std::thread::sleep(LOCK_RETRY),
                _ => return Err(self.busy(began)),
            }
        }
        drop(backup);
        Ok(Written::Copied(Copied {
            path: self.source.path().to_owned(),
            limits: self.limits,
            data_version: version,
            writer,
            is_wal_again: self.was_wal,
            held: locked.elapsed(),
        }))
    }

    /// A backup that copies no page takes the write lock.
    fn lock(&self, backup: &Backup<'_, '_>, began: Instant) -> Result<(), Fault> {
        loop {
            match backup.step(0).map_err(|error| self.failed(&error))? {
                StepResult::More | StepResult::Done => return Ok(()),
                _ if began.elapsed() >= self.limits.lock_wait => return Err(self.busy(began)),
                _ => std::thread::sleep(LOCK_RETRY),
            }
        }
    }

    /// Does `work` with a connection that may write, in place of [`Self::replace`]: it is to ask its second argument, once it has
    /// the write lock, whether somebody committed since the last look.
    pub fn with_writer<T>(
        &mut self,
        work: impl FnOnce(&mut Connection, &mut dyn FnMut() -> Result<bool, Fault>) -> Result<T, Fault>,
    ) -> Result<(T, Copied), Fault> {
        let mut writer = open(&self.source)?;
        let wait = self.limits.lock_wait;
        writer.busy_timeout(wait).map_err(|error| self.failed(&error))?;
        let version = until_free(wait, &self.source, || data_version(&writer))?;
        drop(self.frozen.take());
        let began = Instant::now();
        let done = work(&mut writer, &mut || self.has_moved())?;
        let copied = Copied {
            path: self.source.path().to_owned(),
            limits: self.limits,
            data_version: version,
            writer,
            is_wal_again: false,
            held: began.elapsed(),
        };
        Ok((done, copied))
    }

    fn busy(&self, began: Instant) -> Fault {
        busy(&self.source, began)
    }

    fn failed(&self, error: &rusqlite::Error) -> Fault {
        failed(&self.source, error)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.was_wal {
            return;
        }
        drop(self.frozen.take());
        // Whatever became of the restore, the application finds the journal mode that it had.
        if let Err(error) = self.guard.execute_batch("PRAGMA journal_mode = WAL") {
            tracing::warn!(path = %self.source, %error, "the database is not in WAL mode any more");
        }
    }
}

impl Copied {
    /// The state of the database now, pinned, for whoever names it; and whether somebody else has committed since.
    pub fn pinned<T>(
        &self,
        name: impl FnOnce(crate::source::Hold<'_>) -> Result<T, Fault>,
    ) -> Result<(T, bool), Fault> {
        let source = Source::find(&self.path)?;
        let hold = source.hold(self.limits)?;
        let now = until_free(self.limits.lock_wait, &source, || data_version(&self.writer))?;
        Ok((name(hold)?, now != self.data_version))
    }

    /// Brings the new state from the `-wal` into the database file, as far as others let it, so that the `-wal` does not stay as
    /// large as the whole database.
    pub fn settle(self) -> Journal {
        if self.is_wal_again {
            return Journal::Wal;
        }
        let checkpointed = self.writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err(error) = checkpointed {
            tracing::debug!(%error, "the -wal is left to the application");
        }
        header_of(&self.writer).map_or(Journal::Rollback, |(journal, _)| journal)
    }
}

/// A connection that may write. Never one that makes the file.
fn open(source: &Source) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(source.path(), flags).and_then(|connection| {
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection
            .execute_batch("PRAGMA mmap_size = 0; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")?;
        Ok(connection)
    });
    let connection = opened.map_err(|error| failed(source, &error))?;
    match connection.is_readonly("main") {
        Ok(false) => Ok(connection),
        _ => Err(Fault::new(Kind::Refused, format!("{source} may only be read by this user"))
            .hint("`ls -l` shows its owner and mode: run as its owner, or mend them")),
    }
}

/// What it is; a fault where the file is shorter than that.
fn facts_of(connection: &Connection, source: &Source) -> rusqlite::Result<Result<Facts, Fault>> {
    connection.execute_batch("BEGIN")?;
    let facts = read_facts(connection);
    let whole = facts.as_ref().map(|facts| source.check_whole(facts.geometry, facts.journal));
    let whole = whole.unwrap_or(Ok(()));
    connection.execute_batch("COMMIT")?;
    facts.map(|facts| whole.map(|()| facts))
}

fn read_facts(connection: &Connection) -> rusqlite::Result<Facts> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    // Takes the lock, recovers what is to be recovered, and needs no readable schema.
    number("PRAGMA schema_version")?;
    let page_size = number("PRAGMA page_size")?;
    let out_of_range = || rusqlite::Error::IntegralValueOutOfRange(0, page_size);
    let header = raw_header(connection).as_ref().and_then(|bytes| Header::read(bytes));
    let page_count = number("PRAGMA page_count")?;
    let geometry = u32::try_from(page_size).ok().zip(u32::try_from(page_count).ok());
    let geometry = geometry.and_then(|(size, count)| Geometry::new(size, count)).ok_or_else(out_of_range)?;
    Ok(Facts {
        geometry,
        encoding: header.map_or("UTF-8", |header| header.encoding_word()).to_owned(),
        journal: header.map_or(Journal::Rollback, |header| header.journal),
        user_version: number("PRAGMA user_version")?,
    })
}

/// Counts the commits of others, as one connection sees them.
fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

fn header_of(connection: &Connection) -> Option<(Journal, u32)> {
    let header = raw_header(connection)?;
    Header::read(&header).map(|header| (header.journal, header.change_counter))
}

/// Does `work`, again and again while somebody else has the lock, for as long as `wait`.
fn until_free<T>(
    wait: Duration,
    source: &Source,
    mut work: impl FnMut() -> rusqlite::Result<T>,
) -> Result<T, Fault> {
    let began = Instant::now();
    loop {
        match work() {
            Err(error) if is_busy(&error) && began.elapsed() < wait => std::thread::sleep(LOCK_RETRY),
            Err(error) if is_busy(&error) => return Err(busy(source, began)),
            done => return done.map_err(|error| failed(source, &error)),
        }
    }
}

fn busy(source: &Source, began: Instant) -> Fault {
    let waited = began.elapsed().as_secs_f64();
    Fault::new(Kind::Busy, format!("{source} is locked: no write lock within {waited:.1} s"))
        .hint("stop the application for the time of the restore (`--stop-cmd`), or end the transaction or `locking_mode=EXCLUSIVE` that holds the lock")
}

/// Why the database could not be written.
fn failed(source: &Source, error: &rusqlite::Error) -> Fault {
    match codes(error).0 {
        ffi::SQLITE_FULL => Fault::new(Kind::NoSpace, format!("{source}: its disk is full; nothing was changed"))
            .hint("a restore needs room for the whole database once more, since SQLite keeps the old pages or the new ones until it is done"),
        ffi::SQLITE_READONLY => Fault::new(Kind::Refused, format!("{source} cannot be written: SQLite says `{}`", said(error)))
            .hint("`ls -ld` on it and its directory shows owners and modes: run as its owner, or mend them"),
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => busy(source, Instant::now()),
        _ => source.explain(error),
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", printable(&self.path().to_string_lossy(), 1024))
    }
}
