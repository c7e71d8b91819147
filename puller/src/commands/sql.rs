//! `puller sql`: one statement on a copy, and its rows as a table, as lines for scripts, or as JSON.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::{printable, to_hex};
use puller::query::{self, Cell, Rows};
use puller::unpacked::Unpacked;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, ErrorKind, IsTerminal, Read, StdoutLock, Write};

/// Bytes of a statement that is read from stdin.
const SQL_BYTES_MAX: u64 = 1024 * 1024;

/// Rows of one table on a terminal; more of them are shown as further tables.
const TABLE_ROWS_MAX: usize = 500;

/// Characters of one value on a terminal.
const CELL_CHARS_MAX: usize = 300;

/// What `puller sql` is asked.
#[derive(clap::Args)]
#[command(override_usage = "puller sql [OPTIONS] <SOURCE> [COPY] <SQL>")]
pub(crate) struct Sql {
    /// The source
    source: String,
    /// A copy, as for `show` [default: latest]; then one statement, or `-` to read it from stdin
    #[arg(required = true, num_args = 1..=2, value_names = ["COPY", "SQL"])]
    copy_and_sql: Vec<String>,
}

pub(crate) fn run(cli: &Cli, asked: &Sql) -> Result<u8, Fault> {
    let (copy, sql) = match asked.copy_and_sql.as_slice() {
        [copy, sql] => (copy.as_str(), sql.as_str()),
        [sql] => ("latest", sql.as_str()),
        _ => return Err(Fault::new(Kind::Usage, "a source, a copy and one statement are enough")),
    };
    let sql = if sql == "-" { typed_in()? } else { sql.to_owned() };
    let source = super::open_store(cli)?.named(&asked.source)?;
    let unpacked = Unpacked::proven(&source, &source.copy_to_restore(copy)?)?;
    let form = match (cli.common.json, std::io::stdout().is_terminal()) {
        (true, _) => Form::Json,
        (false, true) => Form::Table(Vec::new()),
        (false, false) => Form::Lines,
    };
    let mut printer = Printer { form, names: Vec::new(), out: BufWriter::new(std::io::stdout().lock()) };
    query::run(unpacked.path(), &sql, &mut printer)?;
    printer.end()?;
    Ok(0)
}

fn typed_in() -> Result<String, Fault> {
    let mut sql = String::new();
    let read = std::io::stdin().take(SQL_BYTES_MAX + 1).read_to_string(&mut sql);
    read.map_err(|error| Fault::io("the statement on standard input", &error))?;
    match sql.len() as u64 > SQL_BYTES_MAX {
        true => Err(Fault::new(Kind::Usage, format!("a statement has at most {SQL_BYTES_MAX} bytes"))),
        false => Ok(sql),
    }
}

/// How rows are shown.
enum Form {
    /// For people, with the rows that are not yet printed.
    Table(Vec<Vec<String>>),
    /// For scripts: a line for each row, tabs between the values, which are as they are.
    Lines,
    Json,
}

struct Printer<'a> {
    form: Form,
    names: Vec<String>,
    out: BufWriter<StdoutLock<'a>>,
}

impl Rows for Printer<'_> {
    fn columns(&mut self, names: Vec<String>) {
        self.names = names;
        if let Form::Json = self.form {
            tell_apart(&mut self.names);
        }
    }

    fn row(&mut self, cells: &[Cell<'_>]) -> Result<bool, Fault> {
        let written = match &mut self.form {
            Form::Table(rows) => {
                rows.push(cells.iter().map(|cell| printable(&shown(cell), CELL_CHARS_MAX)).collect());
                if rows.len() < TABLE_ROWS_MAX { Ok(()) } else { self.table() }
            }
            Form::Lines => self.line(cells),
            Form::Json => {
                let values = cells.iter().map(as_json);
                let row: Map<String, Value> = self.names.iter().cloned().zip(values).collect();
                writeln!(self.out, "{}", json!({"v": 1, "row": row}))
            }
        };
        is_wanted(written)
    }
}

impl Printer<'_> {
    fn end(mut self) -> Result<(), Fault> {
        let written = self.table().and_then(|()| self.out.flush());
        is_wanted(written).map(|_| ())
    }

    fn table(&mut self) -> std::io::Result<()> {
        let Form::Table(rows) = &mut self.form else { return Ok(()) };
        if rows.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.names.iter().map(|name| printable(name, CELL_CHARS_MAX)).collect();
        let mut table = text::table(&names.iter().map(String::as_str).collect::<Vec<_>>());
        std::mem::take(rows).into_iter().for_each(|row| {
            table.add_row(row);
        });
        writeln!(self.out, "{}", table.trim_fmt())
    }

    fn line(&mut self, cells: &[Cell<'_>]) -> std::io::Result<()> {
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 {
                self.out.write_all(b"\t")?;
            }
            match cell {
                Cell::Text(text) => self.out.write_all(text)?,
                other => self.out.write_all(shown(other).as_bytes())?,
            }
        }
        self.out.write_all(b"\n")
    }
}

/// Whether more is wanted: a reader that left (`… | head -1`) has enough.
fn is_wanted(written: std::io::Result<()>) -> Result<bool, Fault> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Fault::io("standard output", &error)),
    }
}

fn shown(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Integer(integer) => integer.to_string(),
        // With a point, as SQLite shows it.
        Cell::Real(real) => format!("{real:?}"),
        Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Cell::Blob(blob) => to_hex(blob),
    }
}

/// A blob is an object, so that it is not taken for the text of its digits; JSON has no number without an end.
fn as_json(cell: &Cell<'_>) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Integer(integer) => json!(integer),
        Cell::Real(real) if real.is_finite() => json!(real),
        Cell::Blob(blob) => json!({"hex": to_hex(blob)}),
        Cell::Real(_) | Cell::Text(_) => json!(shown(cell)),
    }
}

/// Columns of one name become `name`, `name_2`, `name_3`: an object has each key once.
fn tell_apart(names: &mut [String]) {
    for at in 1..names.len() {
        let (before, rest) = names.split_at_mut(at);
        let name = &mut rest[0];
        let mut other = name.clone();
        let mut number = 1;
        while before.contains(&other) {
            number += 1;
            other = format!("{name}_{number}");
        }
        *name = other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_one_name_are_told_apart() {
        let mut names = ["id", "id", "id_2", "name", "id"].map(str::to_owned);
        tell_apart(&mut names);
        assert_eq!(names, ["id", "id_2", "id_2_2", "name", "id_3"]);
    }
}
