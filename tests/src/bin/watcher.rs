//! An application that reads a hostile writer's database again and again, and ends with an error where what it sees was never
//! committed.
//!
//! In each transaction it adds up all there is and compares that with the ledger; now and then it has SQLite check the whole
//! file. Each look is a line `looked` on stdout. Locked out, it tries again for ever; every other error ends it.

use clap::Parser;
use pullback_tests::ledger;
use rusqlite::{Connection, ErrorCode, Result};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Arguments {
    /// The database, which a hostile writer has made
    database: PathBuf,
    /// How long one try waits for a lock
    #[arg(long, default_value_t = 0)]
    busy_ms: u64,
    /// Rests this long after each look
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Ends by itself after this time, so that nothing is left running when its parent dies
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// Of so many looks, one is at the whole file.
const LOOKS_PER_CHECK: u64 = 8;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let ends = Instant::now() + Duration::from_secs(arguments.seconds);
    let db = Connection::open(&arguments.database)?;
    db.busy_timeout(Duration::from_millis(arguments.busy_ms))?;
    let mut stdout = std::io::stdout().lock();
    let (mut looks, mut busy) = (0_u64, 0_u64);
    while Instant::now() < ends {
        match look(&db, looks.is_multiple_of(LOOKS_PER_CHECK)) {
            Ok(()) => {
                looks += 1;
                // Nobody listens any more: the test is over.
                if writeln!(stdout, "looked").is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(arguments.pause_ms));
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => busy += 1,
            Err(error) => return Err(error),
        }
    }
    eprintln!("{looks} looks, {busy} times locked out");
    Ok(())
}

fn look(db: &Connection, at_all: bool) -> Result<()> {
    let transaction = db.unchecked_transaction()?;
    // The first read takes the lock: what is read after it cannot be busy.
    transaction.query_row("SELECT count(*) FROM ledger", [], |_| Ok(()))?;
    let newest = ledger::newest(db).expect("the ledger has a row");
    assert_eq!(ledger::recount(db), newest.state, "the state of commit {} is torn", newest.seq);
    if at_all {
        let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        assert_eq!(sound, "ok", "the check of commit {}", newest.seq);
    }
    transaction.commit()
}
