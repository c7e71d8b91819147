//! Writes to a database without pause, in every way a backup could stumble over, and keeps a ledger that proves copies.
//!
//! Each commit moves money between accounts that lie on many pages, often does something more (grows the file, shrinks
//! it, makes or drops a table or an index) and stores `ledger(seq, state)` in the same transaction; see
//! `pullback_tests::ledger`. Between commits it truncates the `-wal` and runs VACUUM. Each commit that has happened is a
//! line `SEQ STATE` on stdout. Locked out, it tries again for ever, since that is what applications do.
//!
//! With `--number` it puts up with a database that is replaced under it: it goes on from what it finds, each commit has a number
//! of its own in the table `acknowledged`, and is a line `acknowledged NUMBER` instead.

use clap::{Parser, ValueEnum};
use pullback_tests::dice::Dice;
use pullback_tests::ledger::{self, Commit, State};
use rusqlite::{Connection, ErrorCode, Result, params};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Arguments {
    /// The database; made where it is missing, taken up where it was left otherwise
    database: PathBuf,
    #[arg(long, value_enum)]
    journal: Journal,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ends by itself after this time, so that nothing is left running when its parent dies
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Rests this long after each commit
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Never runs VACUUM, which needs as much room again as the database has
    #[arg(long)]
    no_vacuum: bool,
    /// Its commits have numbers from this on, and what others make of the database between two of them is no matter
    #[arg(long)]
    number: Option<i64>,
    /// How long one try waits for a lock; without it for a moment. Then the whole transaction is taken back and tried again
    #[arg(long)]
    busy_ms: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Journal {
    Wal,
    Delete,
    Truncate,
    Persist,
    Memory,
    /// Another one now and then
    Changing,
}

/// What a journal that changes may be.
const MODES: [&str; 5] = ["wal", "delete", "truncate", "persist", "memory"];

const ACCOUNTS: i64 = 1_500;
const BALANCE: i64 = 1_000;
const FILLER_BYTES_MAX: i64 = 400_000;
/// How long one try waits for a lock, where nothing else is said.
const LOCK_WAIT: Duration = Duration::from_millis(50);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let ends = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut writer = Writer::open(&arguments)?;
    let (mut commits, mut busy) = (0_u64, 0_u64);
    let mut stdout = std::io::stdout().lock();
    while Instant::now() < ends {
        match writer.round() {
            Ok(commit) => {
                commits += 1;
                // Nobody listens any more: the test is over.
                let told = match writer.number {
                    Some(number) => writeln!(stdout, "acknowledged {number}"),
                    None => writeln!(stdout, "{commit}"),
                };
                if told.is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(arguments.pause_ms));
            }
            Err(error) if is_busy(&error) => busy += 1,
            Err(error) => return Err(error),
        }
    }
    eprintln!("{commits} commits, {busy} times locked out");
    Ok(())
}

struct Writer {
    db: Connection,
    dice: Dice,
    newest: Commit,
    vacuums: bool,
    changes_journal: bool,
    /// Of its newest commit.
    number: Option<i64>,
}

impl Writer {
    fn open(arguments: &Arguments) -> Result<Self> {
        let db = Connection::open(&arguments.database)?;
        db.busy_timeout(Duration::from_secs(60))?;
        let journal = match arguments.journal {
            Journal::Wal => "wal",
            Journal::Delete => "delete",
            Journal::Truncate => "truncate",
            Journal::Persist => "persist",
            Journal::Memory => "memory",
            Journal::Changing => MODES[0],
        };
        let found: String =
            db.query_row(&format!("PRAGMA journal_mode = {journal}"), [], |row| row.get(0))?;
        assert_eq!(found, journal, "the journal mode that SQLite grants");
        // Commits as fast as the machine can: no test here cuts the power.
        db.execute_batch("PRAGMA synchronous = OFF")?;
        let is_new = !db.table_exists(None, "ledger")?;
        if is_new {
            found_the_bank(&db)?;
        }
        // In one transaction: others may be writing too.
        db.execute_batch("BEGIN IMMEDIATE")?;
        let newest = ledger::newest(&db).expect("a bank is founded with its first ledger row");
        assert_eq!(ledger::recount(&db), newest.state, "the state this writer takes up");
        db.execute_batch("ROLLBACK")?;
        db.busy_timeout(arguments.busy_ms.map_or(LOCK_WAIT, Duration::from_millis))?;
        let (dice, vacuums) = (Dice::new(arguments.seed), !arguments.no_vacuum);
        let changes_journal = matches!(arguments.journal, Journal::Changing);
        Ok(Self { db, dice, newest, vacuums, changes_journal, number: arguments.number })
    }

    /// One commit, and now and then what commits nothing.
    fn round(&mut self) -> Result<Commit> {
        match self.dice.between(0, 100) {
            0 => ignore_busy(self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))?,
            1 if self.vacuums => ignore_busy(self.db.execute_batch("VACUUM"))?,
            2..30 if self.changes_journal => {
                let mode = MODES[self.dice.between(0, MODES.len() as i64) as usize];
                ignore_busy(self.db.execute_batch(&format!("PRAGMA journal_mode = {mode}")))?;
            }
            _ => (),
        }
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let done = self.change().and_then(|commit| self.db.execute_batch("COMMIT").map(|()| commit));
        match done {
            Ok(commit) => {
                self.newest = commit;
                self.number = self.number.map(|number| number + 1);
            }
            // Some errors have rolled back already.
            Err(_) if self.db.is_autocommit() => (),
            Err(_) => self.db.execute_batch("ROLLBACK")?,
        }
        done
    }

    /// All of one transaction but its begin and its end.
    fn change(&mut self) -> Result<Commit> {
        if self.number.is_some() {
            self.newest = ledger::newest(&self.db).expect("the ledger has a row");
        }
        let (db, dice, mut state) = (&self.db, &mut self.dice, self.newest.state);
        for _ in 0..dice.between(1, 7) {
            transfer(db, dice, &mut state)?;
        }
        match dice.between(0, 40) {
            0..4 => grow(db, dice, &mut state)?,
            4 => shrink(db, dice, &mut state)?,
            5 => change_tables(db, dice, &mut state)?,
            6 => change_indexes(db, dice, &mut state)?,
            _ => (),
        }
        if let Some(number) = self.number {
            run(db, "INSERT INTO acknowledged VALUES (?1)", params![number + 1])?;
            state += sum(db, "acknowledged", "number = ?1", number + 1)?;
        }
        let commit = Commit { seq: self.newest.seq + 1, state };
        enter(db, commit)?;
        Ok(commit)
    }
}

fn found_the_bank(db: &Connection) -> Result<()> {
    let sql = "BEGIN IMMEDIATE;
        CREATE TABLE ledger(seq INTEGER PRIMARY KEY, state BLOB NOT NULL);
        CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note TEXT NOT NULL);
        CREATE TABLE acknowledged(number INTEGER PRIMARY KEY);
        CREATE TABLE filler(id INTEGER PRIMARY KEY, body BLOB NOT NULL);";
    db.execute_batch(sql)?;
    let mut dice = Dice::new(0);
    for id in 0..ACCOUNTS {
        db.execute("INSERT INTO accounts VALUES (?1, ?2, ?3)", params![id, BALANCE, dice.words(20)])?;
    }
    enter(db, Commit { seq: 1, state: ledger::recount(db) })?;
    db.execute_batch("COMMIT")
}

/// Writes a commit's row, and forgets the oldest.
fn enter(db: &Connection, commit: Commit) -> Result<()> {
    run(db, "INSERT INTO ledger VALUES (?1, ?2)", params![commit.seq, commit.state.to_bytes()])?;
    run(db, "DELETE FROM ledger WHERE seq <= ?1", params![commit.seq - ledger::ROWS_MAX])
}

/// Moves money between two accounts, on two pages more often than not, and rewrites their notes at other lengths.
fn transfer(db: &Connection, dice: &mut Dice, state: &mut State) -> Result<()> {
    let (from, amount) = (dice.between(0, ACCOUNTS), dice.between(1, 100));
    let to = (from + dice.between(1, ACCOUNTS)) % ACCOUNTS;
    for (id, amount) in [(from, -amount), (to, amount)] {
        let words = dice.between(10, 30) as usize;
        *state -= sum(db, "accounts", "id = ?1", id)?;
        let sql = "UPDATE accounts SET balance = balance + ?2, note = ?3 WHERE id = ?1";
        run(db, sql, params![id, amount, dice.words(words)])?;
        *state += sum(db, "accounts", "id = ?1", id)?;
    }
    Ok(())
}

fn grow(db: &Connection, dice: &mut Dice, state: &mut State) -> Result<()> {
    let total: i64 =
        db.query_row("SELECT total(length(body)) FROM filler", [], |row| Ok(row.get::<_, f64>(0)? as i64))?;
    if total > FILLER_BYTES_MAX {
        return shrink(db, dice, state);
    }
    for _ in 0..dice.between(1, 20) {
        let length = dice.between(1, 9_000) as usize;
        run(db, "INSERT INTO filler(body) VALUES (?1)", params![dice.bytes(length)])?;
        *state += sum(db, "filler", "id = ?1", db.last_insert_rowid())?;
    }
    Ok(())
}

/// Removes every second row, or everything from some row on.
fn shrink(db: &Connection, dice: &mut Dice, state: &mut State) -> Result<()> {
    let newest: Option<i64> = db.query_row("SELECT max(id) FROM filler", [], |row| row.get(0))?;
    let which = if dice.between(0, 2) == 0 { "id % 2 AND id < ?1" } else { "id >= ?1" };
    let limit = dice.between(0, newest.unwrap_or(0) + 1);
    *state -= sum(db, "filler", which, limit)?;
    run(db, &format!("DELETE FROM filler WHERE {which}"), params![limit])
}

/// Makes a table with rows, or drops the one that is there.
fn change_tables(db: &Connection, dice: &mut Dice, state: &mut State) -> Result<()> {
    let name = format!("side_{}", dice.between(0, 5));
    *state -= ledger::of_schema(db);
    if db.table_exists(None, name.as_str())? {
        *state -= sum(db, &name, "id > ?1", 0)?;
        db.execute_batch(&format!("DROP TABLE {name}"))?;
    } else {
        db.execute_batch(&format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY, word TEXT)"))?;
        for _ in 0..dice.between(1, 50) {
            run(db, &format!("INSERT INTO {name}(word) VALUES (?1)"), params![dice.words(5)])?;
        }
        *state += sum(db, &name, "id > ?1", 0)?;
    }
    *state += ledger::of_schema(db);
    Ok(())
}

/// Makes an index over the accounts, or drops the one that is there.
fn change_indexes(db: &Connection, dice: &mut Dice, state: &mut State) -> Result<()> {
    let column = ["balance", "note"][dice.between(0, 2) as usize];
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND name = 'by_' || ?1";
    let is_there: bool = db.query_row(sql, [column], |row| row.get(0))?;
    *state -= ledger::of_schema(db);
    match is_there {
        true => db.execute_batch(&format!("DROP INDEX by_{column}"))?,
        false => db.execute_batch(&format!("CREATE INDEX by_{column} ON accounts({column})"))?,
    }
    *state += ledger::of_schema(db);
    Ok(())
}

/// What the rows of `table` where `condition` holds for `value` add to the state.
fn sum(db: &Connection, table: &str, condition: &str, value: i64) -> Result<State> {
    let mut state = State::default();
    let mut statement = db.prepare_cached(&format!("SELECT * FROM {table} WHERE {condition}"))?;
    let mut rows = statement.query([value])?;
    while let Some(row) = rows.next()? {
        state += ledger::of_row(table, row);
    }
    Ok(state)
}

fn run(db: &Connection, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn ignore_busy(result: Result<()>) -> Result<()> {
    result.or_else(|error| if is_busy(&error) { Ok(()) } else { Err(error) })
}
