//! One SQL statement on a file that nobody writes: read-only, and its rows one after the other.

use crate::proof;
use pullback_shared::fault::{Fault, Kind};
use rusqlite::types::ValueRef;
use rusqlite::{Error, ErrorCode};
use std::path::Path;

/// A value in a row, as SQLite stores it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'row> {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT, which need not be UTF-8.
    Text(&'row [u8]),
    /// BLOB.
    Blob(&'row [u8]),
}

/// Who takes the rows.
pub trait Rows {
    /// The names of the columns, before the first row.
    fn columns(&mut self, names: Vec<String>);
    /// One row; `false`: no more are wanted.
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<bool, Fault>;
}

/// Runs `sql`, one statement that only reads, on the database at `path`, and hands its rows to `rows`.
pub fn run(path: &Path, sql: &str, rows: &mut dyn Rows) -> Result<(), Fault> {
    let connection = proof::open_immutable(path).map_err(|error| explain(&error, path))?;
    let mut statement = connection.prepare(sql).map_err(|error| explain(&error, path))?;
    if !statement.readonly() {
        return Err(Fault::new(Kind::Usage, "that statement would write, and copies are only read")
            .hint("`puller restore` makes a database of a copy, which may be written"));
    }
    // ATTACH would open another file, which may be in use; and the others, such as BEGIN, lead nowhere here.
    if statement.column_count() == 0 {
        return Err(Fault::new(Kind::Usage, "that statement asks for nothing")
            .hint("one that does begins with `SELECT`, `WITH` or `PRAGMA`"));
    }
    rows.columns(statement.column_names().map(str::to_owned).collect());
    let count = statement.column_count();
    let mut found = statement.raw_query();
    while let Some(row) = found.next().map_err(|error| explain(&error, path))? {
        let mut cells = Vec::with_capacity(count);
        for column in 0..count {
            cells.push(match row.get_ref(column).map_err(|error| explain(&error, path))? {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(integer) => Cell::Integer(integer),
                ValueRef::Real(real) => Cell::Real(real),
                ValueRef::Text(text) => Cell::Text(text),
                ValueRef::Blob(blob) => Cell::Blob(blob),
            });
        }
        if !rows.row(&cells)? {
            break;
        }
    }
    Ok(())
}

fn explain(error: &Error, path: &Path) -> Fault {
    let said = match error {
        Error::MultipleStatement => {
            return Fault::new(Kind::Usage, "that is more than one statement")
                .hint("run them one after the other, or all of them in `puller open`");
        }
        Error::SqliteFailure(_, Some(said)) => said.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Damaged,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::OutOfMemory) => Kind::Io,
        _ => Kind::Usage,
    };
    match kind {
        Kind::Usage => Fault::new(kind, format!("SQLite says: {said}"))
            .hint("`SELECT sql FROM sqlite_schema` shows the tables"),
        _ => Fault::new(kind, format!("`{}`: {said}", path.display())),
    }
}
