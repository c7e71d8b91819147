//! An application at the one moment when its database cannot be backed up, held there until stdin ends.
//!
//! It prints `stuck` when it is there. Killed inside its transaction it leaves a hot rollback journal, since its cache is
//! too small for what it changes.

use clap::{Parser, ValueEnum};
use rusqlite::{Connection, Result};
use std::io::Read;
use std::path::PathBuf;

#[derive(Parser)]
struct Arguments {
    /// A gym's database
    database: PathBuf,
    #[arg(value_enum)]
    journal: Journal,
    #[arg(value_enum)]
    how: How,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Journal {
    Wal,
    Delete,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// With `locking_mode = EXCLUSIVE`, and nothing open
    Exclusive,
    /// Within a large transaction
    Transaction,
}

fn main() -> Result<()> {
    let Arguments { database, journal, how } = Arguments::parse();
    let db = Connection::open(database)?;
    let journal = format!("PRAGMA journal_mode = {journal:?}");
    let change = "UPDATE access_log SET door = door || ' (seen)'";
    match how {
        How::Exclusive => {
            db.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
            db.query_row(&journal, [], |_| Ok(()))?;
            db.execute_batch("UPDATE members SET note = 'x' WHERE id = 1")?;
        }
        How::Transaction => {
            db.query_row(&journal, [], |_| Ok(()))?;
            db.execute_batch(&format!("PRAGMA cache_size = 10; BEGIN IMMEDIATE; {change}"))?;
        }
    }
    println!("stuck");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}
