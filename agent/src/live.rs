//! A database that is replaced while others may be using it: everything goes through SQLite's own locks.
//!
//! Renaming a file over a database that somebody has open breaks their writes, and a `-wal` that is left over undoes the
//! replacement silently. So the content is copied into the database by SQLite's backup API, as one transaction: whoever reads
//! sees the old state or the new one, and a crash leaves one of them.

use crate::one_file::open_private;
use crate::sink::{is_reserved, raw_header};
use crate::source::{HoldLimits, Source, codes, geometry_of, is_busy, said};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{HEADER_LEN, Header, Journal};
use pullback_shared::restoring::Facts;
use pullback_shared::text::printable;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two tries to get the write lock.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// Tries within which new readers and writers wait too: nobody who comes and goes keeps the lock from being had, and whoever stays
/// keeps others out for about three seconds, less than most applications wait.
const DRAIN_TRIES: i32 = 1500;

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

impl Seen {
    fn is_wal(&self) -> bool {
        matches!(self.header, Some((Journal::Wal, _)))
    }

    /// What is seen after a commit by a connection whose number of the newest commit of others is `data_version`. With another page
    /// size that number moves by itself; this happens in rollback mode only.
    fn after_one_more(self, data_version: i64) -> Self {
        let (journal, counter) = self.header.unwrap_or((Journal::Rollback, 0));
        Self { header: Some((journal, counter.wrapping_add(1))), data_version }
    }
}

/// What became of an attempt to write.
pub enum Written {
    /// Done; [`Copied::pinned`] shows what is there then.
    Copied(Box<Copied>),
    /// Somebody committed since the guard looked. Nothing was written.
    Moved,
}

/// Content that was copied into a database, by the connection that did it.
pub struct Copied {
    path: PathBuf,
    limits: HoldLimits,
    writer: Connection,
    /// As long as nobody else commits, with the writer's own number.
    seen: Seen,
    is_wal_again: bool,
    /// How long other writers had to wait.
    pub held: Duration,
}

impl Live {
    /// Opens the database as a writer, which recovers what a crash left of it, and looks at its state.
    pub fn open(path: &Path, limits: HoldLimits) -> Result<Self, Fault> {
        let source = Source::find(path)?;
        let guard = open(&source)?;
        let keep_wal = |is_kept| {
            let set = guard.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, is_kept);
            set.map_err(|error| failed(&source, &error))
        };
        // The last connection that is closed takes the `-wal` with it, even where the file beside it proves to be no database.
        keep_wal(true)?;
        let facts = until_free(limits.lock_wait, &source, || facts_of(&guard, &source))??;
        keep_wal(false)?;
        let mut live = Self {
            facts,
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
            reading(guard, || Ok(Seen { data_version: data_version(guard)?, header: header_of(guard) }))
        })?;
        Ok(())
    }

    /// Whether anybody committed since the last look; whoever asks has the write lock.
    fn has_moved(&self) -> Result<bool, Fault> {
        let now = Seen { header: header_of(&self.guard), ..self.seen };
        if now.is_wal() && self.seen.is_wal() {
            self.wait_for_leaver()?;
            // A checkpoint writes the counter in the file, and is no commit.
            let now = until_free(self.limits.lock_wait, &self.source, || data_version(&self.guard))?;
            return Ok(now != self.seen.data_version);
        }
        Ok(now != self.seen)
    }

    /// Waits for whoever is about to take the database out of WAL mode, and began before the guard had made the `-wal`: it has
    /// read the first page without a look into the `-wal`, and waits for everybody else to be gone. Then it writes that page back,
    /// over the one of what was committed and checkpointed meanwhile. Nobody else has this lock in WAL mode. As long as the guard
    /// is there it waits in vain, and is told so by SQLite.
    fn wait_for_leaver(&self) -> Result<(), Fault> {
        until_free(self.limits.lock_wait, &self.source, || match is_reserved(&self.guard) {
            Some(true) => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
            _ => Ok(()),
        })
    }

    /// Keeps every other writer out until [`Self::replace`], and looks at the state that stays so.
    pub fn freeze(&mut self) -> Result<(), Fault> {
        let writer = match self.frozen.take() {
            Some(writer) => writer,
            None => open(&self.source)?,
        };
        if writer.is_autocommit() {
            until_free(self.limits.lock_wait, &self.source, || writer.execute_batch("BEGIN IMMEDIATE"))?;
        }
        self.frozen = Some(writer);
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
        // Read before it is needed: between the lock that is given up below and the one that is taken nothing else is to be done.
        let from = open_private(content).and_then(|from| {
            from.execute_batch("BEGIN; PRAGMA schema_version")?;
            Ok(from)
        });
        let from = from.map_err(|error| self.failed(&error))?;
        let mut writer = open(&self.source)?;
        let version = until_free(self.limits.lock_wait, &self.source, || data_version(&writer))?;
        try_again(&mut writer, DRAIN_TRIES).map_err(|error| self.failed(&error))?;
        let backup = Backup::new(&from, &mut writer).map_err(|error| self.failed(&error))?;
        let began = Instant::now();
        self.thaw()?;
        self.lock(&backup, began)?;
        let locked = Instant::now();
        if self.has_moved()? {
            return Ok(Written::Moved);
        }
        loop {
            let step = backup.step(PAGES_AT_ONCE).map_err(|error| self.not_written(&error))?;
            let done = backup.progress();
            let number = |count: i32| u32::try_from(count).unwrap_or(0);
            progress(number(done.pagecount - done.remaining), number(done.pagecount))?;
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(self.busy(began)),
            }
        }
        drop(backup);
        writer.busy_timeout(Duration::ZERO).map_err(|error| self.failed(&error))?;
        Ok(Written::Copied(Box::new(Copied {
            path: self.source.path().to_owned(),
            limits: self.limits,
            seen: self.seen.after_one_more(version),
            writer,
            is_wal_again: self.was_wal,
            held: locked.elapsed(),
        })))
    }

    /// Gives the write lock up, since only one connection can have it: the next is quick, or somebody commits in between.
    fn thaw(&self) -> Result<(), Fault> {
        let frozen = self.frozen.as_ref().filter(|frozen| !frozen.is_autocommit());
        let thawed = frozen.map_or(Ok(()), |frozen| frozen.execute_batch("ROLLBACK"));
        thawed.map_err(|error| self.failed(&error))
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
        let version = until_free(wait, &self.source, || data_version(&writer))?;
        try_again(&mut writer, i32::try_from(wait.as_millis() / LOCK_RETRY.as_millis()).unwrap_or(i32::MAX))
            .map_err(|error| self.failed(&error))?;
        let began = Instant::now();
        self.thaw()?;
        let done = work(&mut writer, &mut || self.has_moved())?;
        writer.busy_timeout(Duration::ZERO).map_err(|error| self.failed(&error))?;
        let copied = Copied {
            path: self.source.path().to_owned(),
            limits: self.limits,
            seen: self.seen.after_one_more(version),
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

    /// The same of what may have been the commit: a call can fail after it has done its work.
    fn not_written(&self, error: &rusqlite::Error) -> Fault {
        match (codes(error).0, self.failed(error)) {
            (ffi::SQLITE_IOERR, fault) if fault.kind != Kind::NoSpace => Fault::new(
                Kind::Io,
                format!("{} could not be written to its end: SQLite says `{}`", self.source, said(error)),
            )
            .hint("look at the system's log: the disk or the card may be failing"),
            (_, fault) => fault,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.was_wal {
            return;
        }
        drop(self.frozen.take());
        // Whatever became of the restore, the application finds the journal mode that it had. It may be there again by now.
        let back = until_free(self.limits.lock_wait, &self.source, || {
            self.guard.execute_batch("PRAGMA journal_mode = WAL")
        });
        if let Err(error) = back {
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
        let now = match self.seen.is_wal() {
            true => Seen {
                data_version: until_free(self.limits.lock_wait, &source, || data_version(&self.writer))?,
                ..self.seen
            },
            // Nothing that needs a lock is asked while the hold has one: who waits for it to end lets nobody else read.
            false => Seen {
                header: hold.header().map(|header| (header.journal, header.change_counter)),
                ..self.seen
            },
        };
        Ok((name(hold)?, now != self.seen))
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

thread_local! {
    /// What [`try_again`] said last.
    static TRIES: Cell<i32> = const { Cell::new(0) };
}

/// Has SQLite try for a lock so many times in quick succession, on this thread: with its own longer and longer pauses it comes too
/// late again and again where somebody writes without one. In a rollback mode it keeps what it has got of the lock meanwhile, so
/// that only those who read already are waited for.
fn try_again(connection: &mut Connection, tries: i32) -> rusqlite::Result<()> {
    TRIES.set(tries);
    connection.busy_handler(Some(|tried| {
        std::thread::sleep(LOCK_RETRY);
        tried < TRIES.get()
    }))
}

/// A connection that may write. Never one that makes the file.
fn open(source: &Source) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(source.path(), flags).and_then(|connection| {
        // What SQLite does not take for a database is left as it is, with all that lies beside it. It would bring a `-journal`
        // and a `-wal` to their end there, and remove them.
        if is_no_database(source, &connection) {
            let error = ffi::Error::new(ffi::SQLITE_NOTADB);
            return Err(rusqlite::Error::SqliteFailure(error, None));
        }
        // No statement: most read the schema, which may be what is damaged.
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        Ok(connection)
    });
    let connection = opened.map_err(|error| failed(source, &error))?;
    match connection.is_readonly("main") {
        Ok(false) => Ok(connection),
        _ => Err(Fault::new(Kind::Refused, format!("{source} may only be read by this user"))
            .hint("`ls -l` shows its owner and mode: run as its owner, or mend them")),
    }
}

/// Whether what lies there begins like no database; an empty file is one.
fn is_no_database(source: &Source, connection: &Connection) -> bool {
    match raw_header(connection) {
        Some(header) => Header::read(&header).is_none(),
        None => source.path().metadata().is_ok_and(|file| (1..HEADER_LEN as u64).contains(&file.len())),
    }
}

/// What it is; a fault where the file is shorter than that.
fn facts_of(connection: &Connection, source: &Source) -> rusqlite::Result<Result<Facts, Fault>> {
    reading(connection, || {
        let facts = read_facts(connection)?;
        Ok(source.check_whole(facts.geometry, facts.journal).map(|()| facts))
    })
}

/// Does `work` in one transaction that only reads.
fn reading<T>(connection: &Connection, work: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    connection.execute_batch("BEGIN")?;
    let done = work();
    // What failed badly has ended it, and says why.
    let ended = if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("COMMIT") };
    done.and_then(|done| ended.map(|()| done))
}

fn read_facts(connection: &Connection) -> rusqlite::Result<Facts> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    // Takes the lock, recovers what is to be recovered, and needs no readable schema.
    number("PRAGMA schema_version")?;
    let header = raw_header(connection).as_ref().and_then(|bytes| Header::read(bytes));
    Ok(Facts {
        geometry: geometry_of(connection)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tempfile::TempDir;

    const MODES: [&str; 6] = ["wal", "delete", "truncate", "persist", "memory", "off"];

    const QUICK: HoldLimits = HoldLimits { lock_wait: Duration::from_millis(300), max_hold: None };

    const PATIENT: HoldLimits = HoldLimits { lock_wait: Duration::from_secs(6), max_hold: None };

    /// A database in a journal mode, an application that has it open, and content to be put in its place.
    struct Scene {
        dir: TempDir,
        application: Connection,
    }

    impl Scene {
        fn new(mode: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let application = Connection::open(dir.path().join("a.db")).unwrap();
            fill(&application, 4096, 300, "old");
            let settings = format!("PRAGMA synchronous = OFF; PRAGMA journal_mode = {mode}");
            application.execute_batch(&settings).unwrap();
            application.busy_timeout(Duration::ZERO).unwrap();
            let scene = Self { dir, application };
            scene.content(4096, 200);
            scene
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("a.db")
        }

        /// What is to be put in place.
        fn content(&self, page_size: u32, rows: u32) {
            let path = self.dir.path().join("content.db");
            let _ = std::fs::write(&path, "");
            fill(&Connection::open(path).unwrap(), page_size, rows, "new");
        }

        fn live(&self, limits: HoldLimits) -> Live {
            Live::open(&self.path(), limits).unwrap()
        }

        fn replace(&self, live: &mut Live) -> Result<Written, Fault> {
            live.replace(&self.dir.path().join("content.db"), |_, _| Ok(()))
        }

        #[track_caller]
        fn copied(&self, live: &mut Live) -> Copied {
            match self.replace(live).unwrap() {
                Written::Copied(copied) => *copied,
                Written::Moved => panic!("nobody has committed"),
            }
        }

        #[track_caller]
        fn moved(&self, live: &mut Live, what: &str) {
            let word = word_in(&self.application);
            assert!(matches!(self.replace(live).unwrap(), Written::Moved), "not noticed: {what}");
            self.holds(&word);
        }

        /// Whether a new connection finds the content, whole.
        #[track_caller]
        fn holds(&self, word: &str) {
            let db = Connection::open(self.path()).unwrap();
            let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!((sound.as_str(), word_in(&db).as_str()), ("ok", word));
        }
    }

    fn fill(db: &Connection, page_size: u32, rows: u32, word: &str) {
        let sql = format!(
            "PRAGMA page_size = {page_size}; PRAGMA synchronous = OFF; BEGIN;
             CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, body BLOB);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t SELECT i, '{word}', randomblob(1000) FROM n; COMMIT"
        );
        db.execute_batch(&sql).unwrap();
    }

    fn word_in(db: &Connection) -> String {
        db.query_row("SELECT word FROM t WHERE id = 1", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn where_nobody_commits_the_content_is_put_in_place_and_applications_go_on() {
        for mode in MODES {
            let scene = Scene::new(mode);
            word_in(&scene.application);
            let mut live = scene.live(QUICK);
            let copied = scene.copied(&mut live);
            assert!(!copied.pinned(|_| Ok(())).unwrap().1, "{mode}");
            copied.settle();
            drop(live);
            scene.holds("new");
            assert_eq!(word_in(&scene.application), "new", "{mode}");
            scene.application.execute_batch("UPDATE t SET word = 'newer'").unwrap();
            scene.holds("newer");
            let now: String =
                scene.application.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            assert_eq!(now, mode);
        }
    }

    #[test]
    fn each_commit_of_others_is_noticed_and_nothing_is_written_over_it() {
        for mode in MODES {
            for what in [
                "UPDATE t SET body = x'01' WHERE id = 1",
                "CREATE TABLE u(a)",
                "PRAGMA user_version = 7",
                "DELETE FROM t WHERE id > 100; VACUUM",
            ] {
                let scene = Scene::new(mode);
                let mut live = scene.live(QUICK);
                scene.application.execute_batch(what).unwrap();
                scene.moved(&mut live, &format!("{what} in {mode}"));
                live.look().unwrap();
                scene.application.execute_batch("UPDATE t SET body = x'02' WHERE id = 2").unwrap();
                scene.moved(&mut live, &format!("a second commit in {mode}"));
                live.freeze().unwrap();
                scene.copied(&mut live);
                scene.holds("new");
            }
        }
    }

    #[test]
    fn commits_of_a_connection_that_comes_and_goes_are_noticed_too() {
        for mode in MODES {
            let scene = Scene::new(mode);
            let mut live = scene.live(QUICK);
            let other = Connection::open(scene.path()).unwrap();
            other.execute_batch("UPDATE t SET body = x'01'").unwrap();
            drop(other);
            let checkpoint = scene.application.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
            assert!(checkpoint.is_ok(), "{mode}");
            scene.moved(&mut live, mode);
        }
    }

    #[test]
    fn a_checkpoint_of_others_is_no_commit() {
        let scene = Scene::new("wal");
        scene.application.execute_batch("UPDATE t SET body = x'01'").unwrap();
        let mut live = scene.live(QUICK);
        scene.application.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        scene.copied(&mut live);
        scene.holds("new");
    }

    #[test]
    fn another_journal_mode_than_before_is_noticed() {
        let scene = Scene::new("delete");
        let mut live = scene.live(QUICK);
        scene.application.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        scene.moved(&mut live, "delete to wal");
        live.freeze().unwrap();
        let copied = scene.copied(&mut live);
        assert_eq!(copied.settle(), Journal::Wal);
        drop(live);
        scene.holds("new");
        // There and back again.
        let scene = Scene::new("delete");
        let mut live = scene.live(QUICK);
        scene.application.execute_batch("PRAGMA journal_mode = WAL; PRAGMA journal_mode = DELETE").unwrap();
        scene.moved(&mut live, "delete to wal to delete");
        // Out of WAL mode nobody gets as long as the guard is there.
        let scene = Scene::new("wal");
        let _live = scene.live(QUICK);
        assert!(is_busy(&scene.application.execute_batch("PRAGMA journal_mode = DELETE").unwrap_err()));
    }

    /// SQLite itself lets an application come to this between two looks whether there is a `-wal`. Here the header gets into
    /// WAL mode behind the back of one that has read it.
    #[test]
    fn who_leaves_wal_mode_with_an_old_first_page_is_waited_for() {
        let scene = Scene::new("delete");
        scene.application.execute_batch("BEGIN IMMEDIATE").unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(scene.path()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[2, 2], 18).unwrap();
        let mut live = scene.live(QUICK);
        assert_eq!(live.facts().journal, Journal::Wal);
        let fault =
            scene.replace(&mut live).err().expect("somebody would write an old page over the new ones");
        assert_eq!(fault.kind, Kind::Busy);
        scene.holds("old");
        scene.application.execute_batch("ROLLBACK").unwrap();
        scene.copied(&mut live).settle();
        scene.holds("new");
    }

    #[test]
    fn a_frozen_database_is_read_and_not_written() {
        for mode in MODES {
            let scene = Scene::new(mode);
            let mut live = scene.live(QUICK);
            live.freeze().unwrap();
            live.freeze().unwrap();
            assert_eq!(word_in(&scene.application), "old", "{mode}");
            let error = scene.application.execute_batch("UPDATE t SET word = 'lost'").unwrap_err();
            assert!(is_busy(&error), "{mode}: {error}");
            scene.copied(&mut live);
            scene.holds("new");
        }
    }

    #[test]
    fn who_commits_right_after_is_told_from_a_disk_that_fails() {
        for mode in MODES {
            for (page_size, rows) in [(4096, 200), (4096, 700)] {
                let scene = Scene::new(mode);
                scene.content(page_size, rows);
                let mut live = scene.live(QUICK);
                let copied = scene.copied(&mut live);
                assert!(!copied.pinned(|_| Ok(())).unwrap().1, "{mode}: nobody has");
                assert!(!copied.pinned(|_| Ok(())).unwrap().1, "{mode}: nobody has yet");
                scene.application.execute_batch("UPDATE t SET word = 'newer' WHERE id = 1").unwrap();
                assert!(copied.pinned(|_| Ok(())).unwrap().1, "{mode}: somebody has");
                scene.holds("newer");
            }
        }
    }

    #[test]
    fn another_page_size_in_a_rollback_mode_is_no_commit_of_others() {
        for mode in &MODES[1..] {
            for page_size in [512, 1024, 16384, 65536] {
                let scene = Scene::new(mode);
                word_in(&scene.application);
                scene.content(page_size, 200);
                let mut live = scene.live(QUICK);
                let copied = scene.copied(&mut live);
                assert!(!copied.pinned(|_| Ok(())).unwrap().1, "{mode}, pages of {page_size}: nobody has");
                assert_eq!(word_in(&scene.application), "new");
                scene.application.execute_batch("UPDATE t SET word = 'newer' WHERE id = 1").unwrap();
                assert!(copied.pinned(|_| Ok(())).unwrap().1, "{mode}, pages of {page_size}: somebody has");
                scene.holds("newer");
            }
        }
    }

    #[test]
    fn a_database_is_in_wal_mode_again_although_somebody_reads_meanwhile() {
        let Scene { dir, application } = Scene::new("wal");
        let path = dir.path().join("a.db");
        word_in(&application);
        let error = Live::open(&path, QUICK).unwrap().become_sole().expect_err("somebody has it open");
        assert_eq!(error.kind, Kind::Busy);
        drop(application);
        let mut live = Live::open(&path, PATIENT).unwrap();
        live.become_sole().unwrap();
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(word_in(&reader), "old");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                reader.execute_batch("COMMIT").unwrap();
            });
            drop(live);
        });
        let now: String = Connection::open(&path)
            .and_then(|db| db.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(now, "wal");
    }

    #[test]
    fn the_first_commit_into_an_empty_file_is_noticed() {
        let scene = Scene::new("delete");
        std::fs::remove_file(scene.path()).unwrap();
        let empty = scene.path();
        std::fs::write(&empty, "").unwrap();
        let mut live = scene.live(QUICK);
        let application = Connection::open(&empty).unwrap();
        application.execute_batch("CREATE TABLE t(id, word); INSERT INTO t VALUES (1, 'mine')").unwrap();
        assert!(matches!(scene.replace(&mut live).unwrap(), Written::Moved));
        scene.holds("mine");
        drop(live);
        // And where there is none, none is made out.
        std::fs::write(&empty, "").unwrap();
        let mut live = scene.live(QUICK);
        let copied = scene.copied(&mut live);
        assert!(!copied.pinned(|_| Ok(())).unwrap().1);
        scene.holds("new");
    }

    #[test]
    fn a_reader_that_stays_keeps_its_state_under_wal_and_the_lock_in_a_rollback_mode() {
        for mode in MODES {
            let scene = Scene::new(mode);
            let mut live = scene.live(QUICK);
            scene.application.execute_batch("BEGIN").unwrap();
            assert_eq!(word_in(&scene.application), "old");
            match (mode, scene.replace(&mut live)) {
                ("wal", Ok(Written::Copied(copied))) => {
                    assert_eq!(word_in(&scene.application), "old");
                    assert_eq!(copied.settle(), Journal::Wal);
                    assert_eq!(word_in(&scene.application), "old", "even when it is in the file");
                    scene.application.execute_batch("COMMIT").unwrap();
                }
                ("wal", _) => panic!("a reader is in the way of nobody"),
                (_, Err(fault)) => {
                    assert_eq!(fault.kind, Kind::Busy, "{mode}");
                    scene.application.execute_batch("COMMIT").unwrap();
                    scene.holds("old");
                    scene.application.execute_batch("UPDATE t SET word = 'mine'").unwrap();
                    scene.moved(&mut live, "a commit after a restore that was given up");
                    continue;
                }
                (_, Ok(_)) => panic!("{mode}: somebody reads"),
            }
            assert_eq!(word_in(&scene.application), "new");
            scene.holds("new");
        }
    }

    #[test]
    fn readers_that_come_and_go_do_not_keep_the_lock_from_being_had() {
        let scene = Scene::new("delete");
        let ended = AtomicBool::new(false);
        let (path, ended) = (scene.path(), &ended);
        let read = || {
            let db = Connection::open(&path).unwrap();
            db.busy_timeout(Duration::from_secs(30)).unwrap();
            while !ended.load(Ordering::Relaxed) {
                db.execute_batch("BEGIN").unwrap();
                let word = word_in(&db);
                assert!(["old", "new"].contains(&word.as_str()), "{word}");
                std::thread::sleep(Duration::from_millis(30));
                db.execute_batch("COMMIT").unwrap();
            }
        };
        std::thread::scope(|scope| {
            // One of them reads at any time.
            (0..6).for_each(|_| drop(scope.spawn(read)));
            let mut live = scene.live(PATIENT);
            let began = Instant::now();
            let copied = scene.replace(&mut live);
            let took = began.elapsed();
            ended.store(true, Ordering::Relaxed);
            assert!(matches!(copied.unwrap(), Written::Copied(_)));
            assert!(took < PATIENT.lock_wait, "{took:?}");
        });
        scene.holds("new");
    }

    #[test]
    fn a_commit_that_is_under_way_is_waited_for_and_noticed() {
        for mode in ["wal", "delete"] {
            let scene = Scene::new(mode);
            let mut live = scene.live(PATIENT);
            let other = Connection::open(scene.path()).unwrap();
            other.execute_batch("BEGIN IMMEDIATE; UPDATE t SET word = 'newer'").unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(100));
                    other.execute_batch("COMMIT").unwrap();
                });
                assert!(matches!(scene.replace(&mut live).unwrap(), Written::Moved), "{mode}");
            });
            scene.holds("newer");
        }
    }

    #[test]
    fn a_reader_that_ends_is_waited_for_while_no_writer_gets_in_between() {
        let scene = Scene::new("delete");
        let path = scene.path();
        let mut live = scene.live(PATIENT);
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(word_in(&reader), "old");
        live.freeze().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                let writer = Connection::open(&path).unwrap();
                writer.busy_timeout(2 * PATIENT.lock_wait).unwrap();
                writer.execute_batch("UPDATE t SET word = 'newer'").unwrap();
            });
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                reader.execute_batch("COMMIT").unwrap();
            });
            assert!(matches!(scene.replace(&mut live).unwrap(), Written::Copied(_)));
        });
        scene.holds("newer");
    }

    #[test]
    fn who_waits_to_commit_right_after_does_not_keep_it_from_being_read_back() {
        let scene = Scene::new("delete");
        let mut live = scene.live(PATIENT);
        let copied = scene.copied(&mut live);
        scene.application.execute_batch("UPDATE t SET word = 'newer' WHERE id = 1").unwrap();
        let (path, ended) = (scene.path(), AtomicBool::new(false));
        let commit = || {
            let db = Connection::open(&path).unwrap();
            db.execute_batch("PRAGMA synchronous = OFF").unwrap();
            db.busy_timeout(2 * PATIENT.lock_wait).unwrap();
            while !ended.load(Ordering::Relaxed) {
                db.execute_batch("UPDATE t SET word = 'newer' WHERE id = 1").unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(commit);
            // Often enough that it begins to wait between the two looks.
            let pinned: Result<Vec<_>, _> =
                (0..100).map(|_| copied.pinned(|_| Ok(())).map(|((), moved_on)| moved_on)).collect();
            ended.store(true, Ordering::Relaxed);
            assert_eq!(pinned.unwrap(), [true; 100]);
        });
        scene.holds("newer");
    }
}
