//! Single tables out of a snapshot, put into a live database in one transaction: all of them, or nothing is changed.
//!
//! The snapshot's file is attached, and each table is dropped and made anew by the snapshot's own words: the table, its
//! rows, its place in `sqlite_sequence`, then its indexes, and last its triggers, which so do not fire. Before the commit
//! both sides are read and compared, rows and words. What a copy says in its schema is foreign text: each of its
//! statements is one statement, and what it made is compared with what it stands for.

use crate::foreign_keys::{Broken, ForeignKeys};
use crate::one_file;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, ErrorCode, Row, TransactionBehavior};
use std::path::Path;

/// The name under which the snapshot is attached.
const CONTENT: &str = "pullback_content";

/// Names listed in a sentence, at most.
const NAMES_MAX: usize = 30;

/// Characters of a name, or of SQLite's words, in a sentence.
const NAME_CHARS_MAX: usize = 200;

/// The three names of a rowid; a column may take any of them away.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

const WHOLE: &str = "restore the whole database instead, without `--table`; nothing was changed";

/// What became of one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// Its name, as the snapshot spells it.
    pub table: String,
    /// Rows before; `None`: it was not there.
    pub rows_before: Option<u64>,
    /// Rows now.
    pub rows: u64,
}

/// Replaces the tables `names` of the database that `connection` (read-write, no transaction open) leads to by those of the
/// database file at `content` (self-contained, written by nobody), in one transaction: each table as the content has it,
/// its rows with their rowids, its indexes and triggers, its AUTOINCREMENT sequence. Views over it, and triggers of other
/// tables that name it, stay as they are.
///
/// Commits only if `may_commit` says so, which is called once within the transaction, with the write lock held and before
/// anything is written. Waits for locks as long as the connection's busy timeout says, and leaves the connection without
/// enforcement of foreign keys and without trust in the schema.
pub fn replace(
    connection: &mut Connection,
    content: &Path,
    names: &[String],
    may_commit: &mut dyn FnMut() -> Result<(), Fault>,
) -> Result<Vec<Replaced>, Fault> {
    for (config, value) in [
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        // Text in double quotes where there is no such column: applications have it in their schemas.
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, true),
    ] {
        connection.set_db_config(config, value).map_err(|error| explain("the target", &error))?;
    }
    check_encoding(connection, content)?;
    connection
        .execute(&format!("ATTACH ?1 AS {CONTENT}"), [one_file::private_uri(content)])
        .map_err(|error| explain("the copy cannot be attached to the target", &error))?;
    let replaced = in_one_transaction(connection, names, may_commit);
    // Whether anything was replaced is decided; a file that stays attached goes with the connection.
    let detached = connection.execute_batch(&format!("DETACH {CONTENT}"));
    debug_assert_eq!(detached, Ok(()));
    replaced
}

fn in_one_transaction(
    connection: &mut Connection,
    names: &[String],
    may_commit: &mut dyn FnMut() -> Result<(), Fault>,
) -> Result<Vec<Replaced>, Fault> {
    let target = |error: Error| explain("the target", &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(target)?;
    let tables = find(&transaction, names)?;
    may_commit()?;
    let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
    let foreign_keys = ForeignKeys::before(&transaction, CONTENT, &names).map_err(target)?;
    let mut replaced = Vec::new();
    for Table { name, is_in_target, .. } in &tables {
        let rows_before = match is_in_target {
            true => Some(count(&transaction, name).map_err(target)?),
            false => None,
        };
        transaction.execute(&format!("DROP TABLE IF EXISTS main.{}", quoted(name)), []).map_err(target)?;
        replaced.push(Replaced { table: name.clone(), rows_before, rows: 0 });
    }
    names.iter().try_for_each(|name| check_names_are_free(&transaction, name))?;
    tables.iter().try_for_each(|table| table.make(&transaction, "table"))?;
    // Without a `-wal`, pages that do not fit the cache can be written only when nobody reads any more. It is better to
    // learn of a reader that stays now than to keep all pages in memory until the commit.
    transaction.cache_flush().map_err(target)?;
    for (table, replaced) in tables.iter().zip(&mut replaced) {
        table.fill(&transaction)?;
        table.make(&transaction, "index")?;
        table.make(&transaction, "trigger")?;
        replaced.rows = table.prove(&transaction)?;
    }
    let broken = foreign_keys.broken_since().map_err(target)?;
    if !broken.is_empty() {
        return Err(unfit(&broken, &names));
    }
    transaction.commit().map_err(target)?;
    Ok(replaced)
}

/// SQLite refuses to attach a database whose text is encoded in another way.
fn check_encoding(connection: &Connection, content: &Path) -> Result<(), Fault> {
    let encoding = |connection: &Connection| {
        connection.query_row("PRAGMA main.encoding", [], |row| row.get::<_, String>(0))
    };
    let copy = one_file::open_private(content).and_then(|content| encoding(&content));
    let copy = copy.map_err(|error| explain("the copy", &error))?;
    let target = encoding(connection).map_err(|error| explain("the target", &error))?;
    match copy == target {
        true => Ok(()),
        false => Err(Fault::new(
            Kind::Target,
            format!("the target's text is encoded as {target}, the copy's as {copy}: single tables cannot be moved"),
        )
        .hint(WHOLE)),
    }
}

/// A table of the snapshot that may be moved by itself.
struct Table {
    name: String,
    is_in_target: bool,
    /// Those that are written, quoted, and the rowid under a name that it has.
    written: Vec<String>,
    /// Those that SQLite stores without being told their values, quoted.
    generated: Vec<String>,
}

/// A table, view or the like, as SQLite lists them.
struct Listed {
    name: String,
    /// `table`, `view`, `virtual` or `shadow`.
    kind: String,
    without_rowid: bool,
}

/// The tables called `names`, each once.
fn find(connection: &Connection, names: &[String]) -> Result<Vec<Table>, Fault> {
    let copy = list(connection, CONTENT).map_err(|error| explain("the copy", &error))?;
    let target = list(connection, "main").map_err(|error| explain("the target", &error))?;
    let mut tables: Vec<Table> = Vec::new();
    for name in names {
        if tables.iter().any(|table| table.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        let shown = shown(name);
        if is_internal(name) {
            return Err(Fault::new(Kind::Target, format!("{shown} is a table of SQLite's own")).hint(WHOLE));
        }
        let is_it = |listed: &&Listed| listed.name.eq_ignore_ascii_case(name);
        let found = copy.iter().find(is_it).ok_or_else(|| unknown(name, &copy))?;
        let there = target.iter().find(is_it);
        for (listed, whose) in [(Some(found), "the copy"), (there, "the target")] {
            let what = match listed.map(|listed| listed.kind.as_str()) {
                None | Some("table") => continue,
                Some("shadow") => "belongs to a virtual table",
                Some("virtual") => "is a virtual table",
                Some(_) => "is a view",
            };
            let said = format!("{shown} {what} in {whose}: only ordinary tables can be moved by themselves");
            return Err(Fault::new(Kind::Target, said).hint(WHOLE));
        }
        for (schema, listed) in [(CONTENT, &copy), ("main", &target)] {
            if let Some(owner) = foreign_owner(connection, schema, listed, name) {
                let said =
                    format!("{shown} may belong to the virtual table {owner}, whose module is not here");
                return Err(Fault::new(Kind::Target, said).hint(WHOLE));
            }
        }
        let table = Table::of(connection, found, there.is_some());
        tables.push(table.map_err(|error| explain(&format!("the copy's table {shown}"), &error))?);
    }
    Ok(tables)
}

fn list(connection: &Connection, schema: &str) -> rusqlite::Result<Vec<Listed>> {
    let sql = "SELECT name, type, wr FROM pragma_table_list WHERE schema = ?1 ORDER BY name COLLATE NOCASE";
    let mut statement = connection.prepare(sql)?;
    let listed = statement.query_map([schema], |row| {
        Ok(Listed { name: row.get(0)?, kind: row.get(1)?, without_rowid: row.get(2)? })
    })?;
    listed.collect()
}

/// The virtual table that keeps its data in the table `name`, as far as names tell: SQLite knows this better, but only of
/// modules that it has.
fn foreign_owner(connection: &Connection, schema: &str, listed: &[Listed], name: &str) -> Option<String> {
    let owns = |owner: &&Listed| {
        let start = name.get(..owner.name.len()).unwrap_or_default();
        owner.kind == "virtual"
            && start.eq_ignore_ascii_case(&owner.name)
            && name[start.len()..].starts_with('_')
            && connection.prepare(&format!("SELECT 1 FROM {schema}.{}", quoted(&owner.name))).is_err()
    };
    listed.iter().find(owns).map(|owner| shown(&owner.name))
}

fn unknown(name: &str, copy: &[Listed]) -> Fault {
    let tables = copy.iter().filter(|listed| listed.kind == "table" && !is_internal(&listed.name));
    let names: Vec<String> = tables.map(|listed| shown(&listed.name)).collect();
    let hint = match names.len() {
        0 => "it has no tables".to_owned(),
        count if count > NAMES_MAX => {
            format!("it has {}, and {} more", names[..NAMES_MAX].join(", "), count - NAMES_MAX)
        }
        _ => format!("it has {}", names.join(", ")),
    };
    Fault::new(Kind::Unknown, format!("the copy has no table {}", shown(name))).hint(hint)
}

impl Table {
    fn of(connection: &Connection, listed: &Listed, is_in_target: bool) -> rusqlite::Result<Self> {
        let mut table =
            Self { name: listed.name.clone(), is_in_target, written: Vec::new(), generated: Vec::new() };
        let mut rowid_names = ROWID_NAMES.to_vec();
        let mut statement = connection.prepare("SELECT name, hidden FROM pragma_table_xinfo(?1, ?2)")?;
        let mut columns = statement.query([&listed.name, CONTENT])?;
        while let Some(column) = columns.next()? {
            let name: String = column.get(0)?;
            rowid_names.retain(|rowid| !rowid.eq_ignore_ascii_case(&name));
            // As `PRAGMA table_xinfo` has it: 2 and 3 are generated, and 3 are stored.
            match column.get(1)? {
                0 => table.written.push(quoted(&name)),
                3 => table.generated.push(quoted(&name)),
                _ => {}
            }
        }
        if !listed.without_rowid {
            table.written.extend(rowid_names.first().map(|name| (*name).to_owned()));
        }
        Ok(table)
    }

    /// Makes what the snapshot has of `kind` (`table`, `index`, `trigger`) for this table, by its own words.
    fn make(&self, connection: &Connection, kind: &str) -> Result<(), Fault> {
        let sql = format!(
            "SELECT name, sql FROM {CONTENT}.sqlite_schema
             WHERE type = ?1 AND tbl_name = ?2 COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid"
        );
        let of_copy = |error: Error| explain("the copy", &error);
        let mut statement = connection.prepare(&sql).map_err(of_copy)?;
        let mut rows = statement.query([kind, self.name.as_str()]).map_err(of_copy)?;
        while let Some(row) = rows.next().map_err(of_copy)? {
            let name: String = row.get(0).map_err(of_copy)?;
            let sql: String = row.get(1).map_err(of_copy)?;
            let made = connection.prepare(&sql).and_then(|mut statement| statement.execute([]));
            made.map_err(|error| {
                explain(&format!("the {kind} {} cannot be made as the copy has it", shown(&name)), &error)
            })?;
        }
        Ok(())
    }

    /// Puts the snapshot's rows into the table, which is new, and empty.
    fn fill(&self, connection: &Connection) -> Result<(), Fault> {
        let (name, columns) = (quoted(&self.name), self.written.join(", "));
        let sql = format!(
            "INSERT OR ABORT INTO main.{name}({columns}) SELECT {columns} FROM {CONTENT}.{name} NOT INDEXED"
        );
        let filled = connection.execute(&sql, []).and_then(|_| self.set_sequence(connection));
        filled.map_err(|error| {
            explain(
                &format!("the rows of {} cannot be written as the copy has them", shown(&self.name)),
                &error,
            )
        })
    }

    /// Inserting rows set the sequence too, but not to what it was: rows that are gone count.
    fn set_sequence(&self, connection: &Connection) -> rusqlite::Result<()> {
        if has_sequences(connection, "main")? {
            connection.execute("DELETE FROM main.sqlite_sequence WHERE name = ?1", [&self.name])?;
            if has_sequences(connection, CONTENT)? {
                let sql = format!(
                    "INSERT INTO main.sqlite_sequence SELECT * FROM {CONTENT}.sqlite_sequence WHERE name = ?1"
                );
                connection.execute(&sql, [&self.name])?;
            }
        }
        Ok(())
    }

    /// Reads both sides and compares them, value by value. Returns the number of rows.
    fn prove(&self, connection: &Connection) -> Result<u64, Fault> {
        let shown = shown(&self.name);
        let read = |error: Error| explain(&format!("{shown} cannot be read back"), &error);
        if !self.is_said_alike(connection).map_err(read)? {
            return Err(Fault::new(
                Kind::Unproven,
                format!("SQLite made another table, index or trigger of what the copy says of {shown}"),
            )
            .hint(WHOLE));
        }
        match self.equal_rows(connection).map_err(read)? {
            Some(rows) => Ok(rows),
            None => Err(Fault::new(
                Kind::Unproven,
                format!("the rows of {shown}, read back, are not those of the copy"),
            )
            .hint(WHOLE)),
        }
    }

    /// Whether both schemas say the same of the table.
    fn is_said_alike(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let said = |schema: &str| {
            format!(
                "SELECT type, name, tbl_name, sql FROM {schema}.sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE"
            )
        };
        let (target, copy) = (said("main"), said(CONTENT));
        let sql = format!(
            "SELECT EXISTS({target} EXCEPT {copy}) OR EXISTS({copy} EXCEPT {target}) OR NOT EXISTS({target})"
        );
        connection.query_row(&sql, [&self.name], |row| row.get(0)).map(|differs: bool| !differs)
    }

    /// How many rows both sides have; `None`: one of them differs. Both are read in the order in which they are stored.
    fn equal_rows(&self, connection: &Connection) -> rusqlite::Result<Option<u64>> {
        let columns = [self.written.as_slice(), &self.generated].concat();
        let select = |schema: &str| {
            format!("SELECT {} FROM {schema}.{} NOT INDEXED", columns.join(", "), quoted(&self.name))
        };
        let mut target = connection.prepare(&select("main"))?;
        let mut copy = connection.prepare(&select(CONTENT))?;
        let (mut target, mut copy) = (target.query([])?, copy.query([])?);
        let mut count = 0;
        loop {
            match (target.next()?, copy.next()?) {
                (None, None) => return Ok(Some(count)),
                (Some(one), Some(other)) if are_equal(one, other, columns.len())? => count += 1,
                _ => return Ok(None),
            }
        }
    }
}

fn are_equal(one: &Row<'_>, other: &Row<'_>, columns: usize) -> rusqlite::Result<bool> {
    for column in 0..columns {
        let is_equal = match (one.get_ref(column)?, other.get_ref(column)?) {
            (ValueRef::Real(one), ValueRef::Real(other)) => one.to_bits() == other.to_bits(),
            (one, other) => one == other,
        };
        if !is_equal {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tables, views and indexes share their names, triggers have their own: those of the snapshot's table must not be in use
/// for another table of the target. The tables that are replaced are dropped by now.
fn check_names_are_free(connection: &Connection, table: &str) -> Result<(), Fault> {
    let sql = format!(
        "SELECT copy.type, copy.name, other.type, other.name, other.tbl_name
         FROM {CONTENT}.sqlite_schema AS copy JOIN main.sqlite_schema AS other
         ON other.name = copy.name COLLATE NOCASE AND (other.type = 'trigger') = (copy.type = 'trigger')
         WHERE copy.tbl_name = ?1 COLLATE NOCASE LIMIT 1"
    );
    let taken = connection.query_row(&sql, [table], |row| {
        let words: [String; 5] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
        Ok(words.map(|word| printable(&word, NAME_CHARS_MAX)))
    });
    match taken {
        Err(Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(explain("the target", &error)),
        Ok([kind, name, other_kind, other, of]) => {
            let (table, of) = (shown(table), if of == other { String::new() } else { format!(" of `{of}`") });
            let said = format!(
                "the copy's {kind} `{name}` of {table} has the name of the target's {other_kind} `{other}`{of}"
            );
            Err(Fault::new(Kind::Target, said).hint(WHOLE))
        }
    }
}

/// What to say when the tables `replaced` do not fit those that stay.
fn unfit(broken: &[Broken], replaced: &[String]) -> Fault {
    let is_replaced = |name: &str| replaced.iter().any(|other| other.eq_ignore_ascii_case(name));
    let mut with: Vec<String> = Vec::new();
    let mut said = Vec::new();
    for one in broken {
        match one {
            Broken::Rows { child, parent, rows } => {
                for name in [child, parent].into_iter().filter(|name| !is_replaced(name)) {
                    let option = format!("`--table {}`", printable(name, NAME_CHARS_MAX));
                    with.extend((!with.contains(&option)).then_some(option));
                }
                let (child, parent) = (shown(child), shown(parent));
                said.push(format!("references from {child} to rows that {parent} would lack: {rows}"));
            }
            Broken::Unclear(words) => said.push(printable(words, NAME_CHARS_MAX)),
        }
    }
    let message = format!("foreign keys would break: {}", said.join("; "));
    let hint = match with.is_empty() {
        true => WHOLE.to_owned(),
        false => format!("add {}, or restore the whole database; nothing was changed", with.join(" ")),
    };
    Fault::new(Kind::Target, message).hint(hint)
}

/// What SQLite said while it was about `what`, and what that means.
fn explain(what: &str, error: &Error) -> Fault {
    let said = match error {
        Error::SqliteFailure(_, Some(said)) => said.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    let said = format!("{what}: SQLite says `{}`", printable(&said, NAME_CHARS_MAX));
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Kind::Busy, "an application keeps a transaction open: end it, or try again; nothing was changed")
        }
        Some(ErrorCode::DiskFull) => (Kind::NoSpace, "make room on that disk; nothing was changed"),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (Kind::Refused, "run as the owner of the database; nothing was changed")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (Kind::Damaged, WHOLE),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::OutOfMemory) => {
            (Kind::Io, "look at the system's log: the disk may be failing; nothing was changed")
        }
        _ => (Kind::Target, WHOLE),
    };
    Fault::new(kind, said).hint(hint)
}

fn count(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let sql = format!("SELECT count(*) FROM main.{} NOT INDEXED", quoted(table));
    connection.query_row(&sql, [], |row| row.get(0)).map(i64::unsigned_abs)
}

fn has_sequences(connection: &Connection, schema: &str) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {schema}.sqlite_schema WHERE name = 'sqlite_sequence')");
    connection.query_row(&sql, [], |row| row.get(0))
}

fn is_internal(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"))
}

/// `name` as an identifier in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `name` in a sentence.
fn shown(name: &str) -> String {
    format!("`{}`", printable(name, NAME_CHARS_MAX))
}
