//! Single tables out of a snapshot, put into a live database in one transaction: all of them, or nothing is changed.
//!
//! The snapshot's file is attached, and each table is dropped and made anew by the snapshot's own words: the table, its
//! rows, its place in `sqlite_sequence`, then its indexes, and last its triggers, which so do not fire. Before the commit
//! both sides are read and compared, rows and words. What a copy says in its schema is foreign text: each of its
//! statements is one statement, and what it made is compared with what it stands for.

use crate::foreign_keys::{Broken, ForeignKeys};
use crate::one_file;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::sql::{ROWID_NAMES, identifier, immutable_uri};
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
        .execute(&format!("ATTACH ?1 AS {CONTENT}"), [immutable_uri(content)])
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
        transaction
            .execute(&format!("DROP TABLE IF EXISTS main.{}", identifier(name)), [])
            .map_err(target)?;
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
    // Which tables belong to a virtual table, SQLite knows once it has looked at that.
    for owner in listed(connection, schema)?.iter().filter(|listed| listed.kind == "virtual") {
        is_known(connection, schema, owner);
    }
    listed(connection, schema)
}

/// Whether SQLite here has the module of the virtual table `owner`.
fn is_known(connection: &Connection, schema: &str, owner: &Listed) -> bool {
    connection.prepare(&format!("SELECT 1 FROM {schema}.{}", identifier(&owner.name))).is_ok()
}

fn listed(connection: &Connection, schema: &str) -> rusqlite::Result<Vec<Listed>> {
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
            && !is_known(connection, schema, owner)
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
                0 => table.written.push(identifier(&name)),
                3 => table.generated.push(identifier(&name)),
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
        let (name, columns) = (identifier(&self.name), self.written.join(", "));
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
            format!("SELECT {} FROM {schema}.{} NOT INDEXED", columns.join(", "), identifier(&self.name))
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
    let sql = format!("SELECT count(*) FROM main.{} NOT INDEXED", identifier(table));
    connection.query_row(&sql, [], |row| row.get(0)).map(i64::unsigned_abs)
}

fn has_sequences(connection: &Connection, schema: &str) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {schema}.sqlite_schema WHERE name = 'sqlite_sequence')");
    connection.query_row(&sql, [], |row| row.get(0))
}

fn is_internal(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"))
}

/// `name` in a sentence.
fn shown(name: &str) -> String {
    format!("`{}`", printable(name, NAME_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// Those that a database keeps.
    const JOURNALS: [&str; 2] = ["delete", "wal"];

    /// A target, and the file of a snapshot.
    struct Two {
        target: PathBuf,
        copy: PathBuf,
        /// For locks.
        wait: Duration,
        _dir: tempfile::TempDir,
    }

    fn two(journal: &str, target: &str, copy: &str) -> Two {
        let dir = tempfile::tempdir().unwrap();
        // A folder whose name is no URI as it stands.
        let folder = dir.path().join("a b?c#d%41é");
        std::fs::create_dir(&folder).unwrap();
        let two = Two {
            target: folder.join("target.db"),
            copy: folder.join("copy.db"),
            wait: Duration::ZERO,
            _dir: dir,
        };
        let set = "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;";
        let target = format!("{set} PRAGMA journal_mode = {journal}; {target}");
        Connection::open(&two.target).unwrap().execute_batch(&target).unwrap();
        Connection::open(&two.copy).unwrap().execute_batch(&format!("{set} {copy}")).unwrap();
        two
    }

    impl Two {
        fn open(&self) -> Connection {
            let connection = Connection::open(&self.target).unwrap();
            // No power is cut here.
            connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            connection
        }

        fn put(&self, names: &[&str]) -> Result<Vec<Replaced>, Fault> {
            self.put_if(names, &mut || Ok(()))
        }

        /// Puts the tables there, and looks that nothing is left open.
        fn put_if(
            &self,
            names: &[&str],
            may_commit: &mut dyn FnMut() -> Result<(), Fault>,
        ) -> Result<Vec<Replaced>, Fault> {
            let mut connection = self.open();
            connection.busy_timeout(self.wait).unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let replaced = replace(&mut connection, &self.copy, &names, may_commit);
            assert!(connection.is_autocommit());
            let open: Vec<String> = column(&connection, "SELECT name FROM pragma_database_list");
            assert!(!open.contains(&CONTENT.to_owned()), "{open:?}");
            assert!(column::<String>(&connection, "SELECT name FROM temp.sqlite_schema").is_empty());
            replaced
        }

        /// Refused for a reason that is said with all of `words`, and nothing changed.
        #[track_caller]
        fn refused(&self, names: &[&str], kind: Kind, words: &[&str]) {
            let before = dump(&self.target);
            let Err(fault) = self.put(names) else { panic!("{words:?}") };
            assert_eq!(fault.kind, kind, "{words:?}: {fault:?}");
            for word in words {
                assert!(fault.message.contains(word) || fault.hint.contains(word), "`{word}` in {fault:?}");
            }
            assert_eq!(dump(&self.target), before);
        }
    }

    fn column<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str) -> Vec<T> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn lines(connection: &Connection, sql: &str) -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        let count = statement.column_count();
        let rows = statement.query_map([], |row| {
            let values: Result<Vec<ValueRef<'_>>, _> = (0..count).map(|column| row.get_ref(column)).collect();
            values.map(|values| format!("{values:?}"))
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// What is said of the table `name`, its rows with their rowids, its sequence.
    fn table(connection: &Connection, name: &str) -> Vec<String> {
        let name = &name.to_ascii_lowercase();
        let mut found = lines(
            connection,
            &format!(
                "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE lower(tbl_name) = '{}' ORDER BY 1, 2",
                name.replace('\'', "''")
            ),
        );
        let quoted = identifier(name);
        // In this file, all three names of a rowid are columns only in tables called `hidden`.
        let has_rowid = name != "hidden" && connection.prepare(&format!("SELECT oid FROM {quoted}")).is_ok();
        let rowid = if has_rowid { "oid, " } else { "" };
        found.extend(lines(connection, &format!("SELECT {rowid}* FROM {quoted} NOT INDEXED")));
        if has_sequences(connection, "main").unwrap() {
            let name = name.replace('\'', "''");
            let sql = format!("SELECT * FROM sqlite_sequence WHERE lower(name) = '{name}'");
            found.extend(lines(connection, &sql));
        }
        found
    }

    fn names(connection: &Connection, kinds: &str) -> Vec<String> {
        let sql = format!(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ({kinds})
             AND name NOT LIKE 'sqlite@_%' ESCAPE '@' ORDER BY 1"
        );
        column(connection, &sql)
    }

    /// All there is.
    fn dump(path: &Path) -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        assert_eq!(column::<String>(&connection, "PRAGMA integrity_check"), ["ok"]);
        let mut all = lines(&connection, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2");
        for name in names(&connection, "'table'") {
            all.extend(table(&connection, &name));
        }
        all
    }

    /// In each journal mode: the tables `wanted` are those of the copy, and all others are as they were.
    #[track_caller]
    fn check(target: &str, copy: &str, wanted: &[&str]) {
        for journal in JOURNALS {
            let two = two(journal, target, copy);
            let before = two.open();
            let theirs = Connection::open(&two.copy).unwrap();
            let is_wanted = |name: &String| wanted.iter().any(|other| other.eq_ignore_ascii_case(name));
            let mut others = names(&before, "'table', 'view'");
            others.retain(|name| !is_wanted(name));
            let kept: Vec<_> = others.iter().map(|name| table(&before, name)).collect();
            let counted: Vec<Option<i64>> = wanted
                .iter()
                .map(|name| {
                    before
                        .query_row(&format!("SELECT count(*) FROM {}", identifier(name)), [], |row| {
                            row.get(0)
                        })
                        .ok()
                })
                .collect();
            drop(before);
            let replaced = two.put(wanted).unwrap_or_else(|fault| panic!("{journal}: {fault:?}"));
            let now = two.open();
            for ((name, replaced), counted) in wanted.iter().zip(&replaced).zip(counted) {
                assert_eq!(table(&now, name), table(&theirs, name), "{journal}: {name}");
                let rows: i64 = now
                    .query_row(&format!("SELECT count(*) FROM {}", identifier(name)), [], |row| row.get(0))
                    .unwrap();
                assert_eq!(replaced.rows, rows as u64, "{journal}: {name}");
                assert_eq!(replaced.rows_before, counted.map(|count| count as u64), "{journal}: {name}");
                assert!(name.eq_ignore_ascii_case(&replaced.table));
            }
            for (name, kept) in others.iter().zip(kept) {
                assert_eq!(table(&now, name), kept, "{journal}: {name}");
            }
            assert_eq!(column::<String>(&now, "PRAGMA integrity_check"), ["ok"]);
            assert_eq!(column::<String>(&now, "PRAGMA journal_mode"), [journal]);
        }
    }

    const PEOPLE: &str =
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INT CHECK (age > 0));
        CREATE UNIQUE INDEX by_name ON people(name); CREATE INDEX adults ON people(age) WHERE age >= 18;
        INSERT INTO people VALUES (3, 'Ann', 31), (7, 'Bob', 12), (1000000, 'Cid', NULL);";
    const OTHER: &str = "CREATE TABLE other(a, b); INSERT INTO other VALUES (1, 2), (x'00ff', 3.5);";

    #[test]
    fn a_table_that_was_dropped_emptied_or_changed_is_as_in_the_copy() {
        let copy = format!("{PEOPLE}{OTHER}");
        for change in [
            "DROP TABLE people",
            "DELETE FROM people",
            "UPDATE people SET name = name || 'x', age = 1 + ifnull(age, 0)",
            "INSERT INTO people(name) VALUES ('Dan')",
            "ALTER TABLE people ADD COLUMN mail DEFAULT 'none'; UPDATE people SET mail = 1",
            "DROP INDEX adults; ALTER TABLE people DROP COLUMN age",
            "DROP TABLE people; CREATE TABLE PEOPLE(x PRIMARY KEY) WITHOUT ROWID; INSERT INTO people VALUES (1)",
            "DROP INDEX adults; CREATE INDEX mine ON people(age, name)",
            "CREATE TRIGGER mine AFTER INSERT ON people BEGIN DELETE FROM other; END",
            "SELECT 1",
        ] {
            check(&format!("{copy}{change};"), &copy, &["people"]);
            check(&format!("{copy}{change};"), &copy, &["PEOPLE", "other"]);
        }
    }

    #[test]
    fn a_row_that_was_written_since_to_another_table_stays() {
        check(
            &format!("{PEOPLE}{OTHER}DELETE FROM people; INSERT INTO other VALUES ('new', NULL);"),
            PEOPLE,
            &["people"],
        );
    }

    #[test]
    fn a_name_given_twice_is_one_table() {
        let two = two("wal", OTHER, PEOPLE);
        let replaced = two.put(&["people", "PEOPLE", "people"]).unwrap();
        assert_eq!(replaced, [Replaced { table: "people".into(), rows_before: None, rows: 3 }]);
    }

    #[test]
    fn all_kinds_of_values_and_tables_come_back() {
        let rows =
            "VALUES (1, NULL), ('1', 1.0), (x'31', 9223372036854775807), (-0.5, 1e300), (9e999, -9e999),
                    ('a' || char(0) || 'b', CAST(x'fffe80' AS TEXT)), (zeroblob(70000), '')";
        for copy in [
            format!("CREATE TABLE t(a, b); INSERT INTO t {rows};"),
            format!("CREATE TABLE t(a REAL, b NUMERIC); INSERT INTO t {rows};"),
            format!("CREATE TABLE t(a ANY PRIMARY KEY, b ANY) STRICT, WITHOUT ROWID; INSERT INTO t {rows};"),
            format!("CREATE TABLE t(b, a COLLATE NOCASE, PRIMARY KEY (a DESC, b)) WITHOUT ROWID;
                     INSERT INTO t(a, b) {rows} ON CONFLICT DO NOTHING; DELETE FROM t WHERE b IS NULL;",
                rows = rows.replace("(1, NULL)", "(1, 0)")),
            format!("CREATE TABLE t(a, b, v AS (typeof(a)) VIRTUAL, s TEXT AS (hex(b)) STORED, c DEFAULT 5);
                     INSERT INTO t(a, b) {rows}; CREATE INDEX t_v ON t(v, lower(s));"),
            // Some of these would be refused or replaced by others, were they inserted as the table says.
            "CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE, b NOT NULL ON CONFLICT IGNORE, CHECK (a IS NOT 'x'));
             INSERT INTO t VALUES (1, 2), (NULL, 3), (NULL, 4);".into(),
            "CREATE TABLE t(a INT PRIMARY KEY DESC, b INTEGER); INSERT INTO t(oid, a, b) VALUES (-5, 2, 1), (9, 1, 1);".into(),
            "CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b); INSERT INTO t(oid, a) VALUES (77, 2), (9, 1), (8, 4);".into(),
            // Trailing words, and text in double quotes.
            "CREATE TABLE t /* a */ (a CHECK (a <> \"text\"), -- b\n b) -- c\n; CREATE INDEX t_a ON t(a) /* d */ ;".into(),
            "CREATE TABLE t (a PRIMARY KEY) WITHOUT ROWID ; CREATE INDEX t_a ON t(a) WHERE a > 0 ;".into(),
            "CREATE TABLE t AS SELECT 1 AS a, 'x' AS \"b c\";".into(),
            "CREATE TABLE u(a INTEGER PRIMARY KEY, b UNIQUE); ALTER TABLE u ADD COLUMN c DEFAULT 7;
             ALTER TABLE u RENAME TO t; ALTER TABLE t RENAME COLUMN b TO d; INSERT INTO t(d) VALUES (3);".into(),
        ] {
            check("CREATE TABLE t(z)", &copy, &["t"]);
            let some = if copy.contains("ROWID") { "typeof(a) = 'text'" } else { "oid % 2" };
            check(&copy, &format!("{copy} DELETE FROM t WHERE {some};"), &["t"]);
            check(OTHER, &copy, &["T"]);
        }
    }

    #[test]
    fn rowids_are_kept_under_whatever_name_they_have() {
        for columns in [
            "a",
            "rowid",
            "\"RowId\", _rowid_",
            "rowid INTEGER PRIMARY KEY, _rowid_",
            "a INTEGER PRIMARY KEY, rowid",
        ] {
            let copy = format!("CREATE TABLE t({columns}, b); WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
                                INSERT INTO t(oid, b) SELECT i * i - 20, i FROM n;");
            check("CREATE TABLE t(x); INSERT INTO t VALUES (5);", &copy, &["t"]);
        }
        let hidden =
            "CREATE TABLE hidden(rowid, _rowid_ AS (rowid), oid); INSERT INTO hidden(rowid) VALUES (2), (1);";
        check("", hidden, &["hidden"]);
        let hidden = "CREATE TABLE hidden(rowid, _rowid_ INTEGER PRIMARY KEY, oid); INSERT INTO hidden VALUES (2, 9, 0), (2, 5, 0);";
        check("", hidden, &["hidden"]);
    }

    #[test]
    fn a_sequence_goes_on_where_the_copy_s_did() {
        let copy =
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO t VALUES (50, 1), (60, 1);
                    DELETE FROM t WHERE id = 60;";
        for target in [
            "",
            OTHER,
            "CREATE TABLE u(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO u VALUES (9);",
            "CREATE TABLE T(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES (900);
             CREATE TABLE u(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO u VALUES (9);",
        ] {
            check(target, copy, &["t"]);
            check(target, "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (4)", &["t"]);
            check(target, &format!("{copy} DELETE FROM sqlite_sequence"), &["t"]);
            let two = two("wal", target, copy);
            two.put(&["t"]).unwrap();
            two.open().execute("INSERT INTO t(a) VALUES (2)", []).unwrap();
            assert_eq!(column::<i64>(&two.open(), "SELECT max(id) FROM t"), [61]);
        }
    }

    #[test]
    fn no_trigger_fires() {
        let triggers = "CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('in'); END;
                        CREATE TRIGGER b BEFORE DELETE ON t BEGIN INSERT INTO log VALUES ('out'); END;";
        let base = "CREATE TABLE t(x); CREATE TABLE log(what); INSERT INTO t VALUES (1), (2);";
        check(&format!("{base}{triggers}"), &format!("{base}{triggers}"), &["t"]);
        check(base, &format!("{base}{triggers}"), &["t"]);
        check(&format!("{base}{triggers}"), base, &["t"]);
        // Those of other tables that name it stay, and so do views over it.
        check(
            &format!(
                "{base} CREATE TRIGGER c AFTER INSERT ON log BEGIN DELETE FROM t; END; CREATE VIEW v AS SELECT x, x FROM t;"
            ),
            &format!("{base}{triggers}"),
            &["t"],
        );
        let two = two("wal", base, &format!("{base}{triggers}"));
        two.put(&["t"]).unwrap();
        two.open().execute("INSERT INTO t VALUES (3)", []).unwrap();
        assert_eq!(column::<String>(&two.open(), "SELECT what FROM log"), ["in"]);
    }

    #[test]
    fn any_name_is_a_name() {
        for name in [
            "a b", "a\"b", "a'b", "[a]", "a`b", "select", "회원", "É", "a;b--", "%_", "\u{1}", " ", "main.t",
            "1",
        ] {
            let (table, column, index, trigger) = (
                identifier(name),
                identifier(&format!("c{name}")),
                identifier(&format!("i{name}")),
                identifier(&format!("t{name}")),
            );
            let copy = format!(
                "CREATE TABLE {table}({column} UNIQUE, {table} DEFAULT 1); CREATE INDEX {index} ON {table}({column}, {table});
                 INSERT INTO {table}({column}) VALUES (1), (5); CREATE TABLE other({column} REFERENCES {table}({column}));
                 CREATE TRIGGER {trigger} AFTER UPDATE ON {table} BEGIN DELETE FROM {table}; END;"
            );
            check("", &copy, &[name]);
            check(
                &format!("{copy} INSERT INTO {table}({column}) VALUES (9); INSERT INTO other VALUES (1);"),
                &copy,
                &[name],
            );
        }
        // SQLite compares ASCII letters only: these are two tables.
        check("CREATE TABLE É(a)", "CREATE TABLE é(a); CREATE TABLE É(b)", &["é"]);
    }

    #[test]
    fn only_ordinary_tables_of_the_copy_are_taken() {
        let copy = format!(
            "{PEOPLE} CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE docs USING fts5(text);
                            CREATE TABLE docs_2(a); CREATE TABLE spot(a); CREATE TABLE mine(a);"
        );
        let target =
            "CREATE TABLE people(a); CREATE TABLE v(a); CREATE VIEW spot AS SELECT 1; CREATE TABLE docs(a);
                      CREATE VIRTUAL TABLE mine USING rtree(id, a, b);";
        let two = two("wal", target, &copy);
        for (name, kind, words) in [
            ("peoples", Kind::Unknown, ["no table `peoples`", "`docs_2`, `mine`, `people`, `spot`"]),
            ("", Kind::Unknown, ["no table ``", "`people`"]),
            ("v", Kind::Target, ["`v` is a view in the copy", "whole database"]),
            ("docs", Kind::Target, ["`docs` is a virtual table in the copy", "whole database"]),
            ("DOCS_content", Kind::Target, ["belongs to a virtual table in the copy", "whole database"]),
            ("sqlite_schema", Kind::Target, ["SQLite's own", "whole database"]),
            ("SQLITE_SEQUENCE", Kind::Target, ["SQLite's own", "whole database"]),
            ("spot", Kind::Target, ["`spot` is a view in the target", "whole database"]),
            ("mine", Kind::Target, ["`mine` is a virtual table in the target", "whole database"]),
        ] {
            two.refused(&[name], kind, &words);
            two.refused(&["people", name], kind, &words);
        }
        assert_eq!(two.put(&["docs_2"]).unwrap().len(), 1, "FTS5 has no such table");
        let many: String = (0..99).map(|at| format!("CREATE TABLE t{at:02}(a);")).collect();
        super::tests::two("wal", "", &many).refused(&["x"], Kind::Unknown, &["`t29`, and 69 more"]);
    }

    #[test]
    fn a_table_of_a_virtual_table_of_an_unknown_module_is_not_moved_by_itself() {
        let copy = "CREATE TABLE docs_data(a); CREATE TABLE docsmore(a); CREATE TABLE doc(a); PRAGMA writable_schema = ON;
                    INSERT INTO sqlite_schema VALUES ('table', 'docs', 'docs', 0, 'CREATE VIRTUAL TABLE docs USING vec0(a)');";
        let two = two("wal", "", copy);
        two.refused(&["docs_data"], Kind::Target, &["virtual table `docs`", "module"]);
        assert_eq!(two.put(&["docsmore", "doc"]).unwrap().len(), 2);
    }

    #[test]
    fn a_name_that_is_taken_is_told_with_its_owner() {
        let copy = "CREATE TABLE t(a); CREATE INDEX i ON t(a); CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END;";
        for (target, words) in [
            ("CREATE TABLE u(b); CREATE INDEX I ON u(b)", ["index `i` of `t`", "index `I` of `u`"]),
            ("CREATE TABLE u(b); CREATE INDEX t ON u(b)", ["table `t` of `t`", "index `t` of `u`"]),
            ("CREATE TABLE i(b)", ["index `i` of `t`", "table `i`"]),
            (
                "CREATE TABLE u(b); CREATE TRIGGER g BEFORE UPDATE ON u BEGIN SELECT 2; END",
                ["trigger `g` of `t`", "trigger `g` of `u`"],
            ),
        ] {
            two("delete", target, copy).refused(&["t"], Kind::Target, &words);
        }
        // No clash: triggers have names of their own, and tables that are replaced too give theirs up.
        check("CREATE TABLE g(b); CREATE INDEX k ON g(b)", copy, &["t"]);
        check(
            "CREATE TABLE u(b); CREATE INDEX i ON u(b)",
            &format!("{copy} CREATE TABLE u(c);"),
            &["t", "u"],
        );
    }

    const SHOP: &str = "CREATE TABLE customers(id INTEGER PRIMARY KEY, name);
        CREATE TABLE orders(id INTEGER PRIMARY KEY, customer REFERENCES customers ON DELETE CASCADE);
        CREATE TABLE lines(of REFERENCES Orders(id), item, PRIMARY KEY (of, item)) WITHOUT ROWID;";

    #[test]
    fn foreign_keys_that_would_break_are_refused_with_the_table_that_is_missing() {
        let copy = format!(
            "{SHOP} INSERT INTO customers VALUES (1, 'a'), (2, 'b'); INSERT INTO orders VALUES (1, 1), (2, 2), (3, 2);"
        );
        // Customer 2 was removed since, with the orders.
        let two = two(
            "wal",
            &format!("{copy} DELETE FROM orders WHERE customer = 2; DELETE FROM customers WHERE id = 2;"),
            &copy,
        );
        two.refused(&["orders"], Kind::Target, &["`orders`", "`customers`", ": 2", "--table customers"]);
        assert_eq!(two.put(&["Orders", "customers"]).unwrap().len(), 2);
        // Customer 3 came since, with orders.
        let more = format!(
            "{copy} INSERT INTO customers VALUES (3, 'c'); INSERT INTO orders VALUES (7, 3); INSERT INTO lines VALUES (7, 1), (7, 2);"
        );
        let two = super::tests::two("delete", &more, &copy);
        two.refused(&["customers"], Kind::Target, &["`orders`", "`customers`", ": 1", "--table orders"]);
        two.refused(&["customers", "orders"], Kind::Target, &["`lines`", ": 2", "--table lines"]);
        assert_eq!(two.put(&["customers", "orders", "lines"]).unwrap().len(), 3);
        // Rows that refer to the table stay: nothing cascades.
        check(&format!("{copy} INSERT INTO lines VALUES (1, 1);"), &copy, &["customers"]);
        check(&format!("{copy} DROP TABLE customers;"), &copy, &["customers"]);
        check(&format!("{copy} DROP TABLE customers; DROP TABLE orders;"), &copy, &["orders", "customers"]);
    }

    #[test]
    fn foreign_keys_that_are_broken_already_or_in_the_copy_itself_are_not_held_against_it() {
        let orphans = format!(
            "{SHOP} INSERT INTO customers VALUES (1, 'a'); INSERT INTO orders VALUES (1, 1), (2, 9); INSERT INTO lines VALUES (5, 1);"
        );
        check(&orphans, &orphans, &["orders"]);
        check(&orphans, &orphans, &["customers"]);
        check(&orphans, &orphans, &["lines"]);
        check("", &orphans, &["lines"]);
        check(
            &format!("{orphans} DROP TABLE orders; DROP TABLE customers;"),
            &orphans,
            &["customers", "orders"],
        );
        // Three before, two in the copy itself, and three that were none there.
        let target = format!("{SHOP} INSERT INTO lines VALUES (7, 1), (7, 2), (7, 3);");
        let copy = format!(
            "{SHOP} INSERT INTO orders VALUES (1, NULL);
             INSERT INTO lines VALUES (1, 1), (1, 2), (1, 3), (5, 1), (5, 2);"
        );
        two("wal", &target, &copy).refused(&["lines"], Kind::Target, &["`lines`", ": 2", "--table Orders"]);
        // As many as before, but another one.
        let two = two(
            "wal",
            &format!("{orphans} UPDATE orders SET customer = 1;"),
            &format!("{orphans} DELETE FROM customers;"),
        );
        two.refused(&["customers"], Kind::Target, &["`orders`", ": 2"]);
    }

    #[test]
    fn a_parent_without_the_key_that_its_children_name_is_refused() {
        let target = "CREATE TABLE p(a UNIQUE); CREATE TABLE c(a REFERENCES p(a)); INSERT INTO p VALUES (1); INSERT INTO c VALUES (1);";
        let copy = "CREATE TABLE p(a); CREATE TABLE c(a REFERENCES p(a)); INSERT INTO p VALUES (1); INSERT INTO c VALUES (1);";
        two("wal", target, copy).refused(&["p"], Kind::Target, &["mismatch", "`"]);
        check(copy, copy, &["p"]);
        check(copy, copy, &["c"]);
        check(copy, target, &["p"]);
        check("", copy, &["p", "c"]);
    }

    #[test]
    fn what_sqlite_cannot_make_here_is_refused() {
        let base = "PRAGMA writable_schema = ON; CREATE TABLE t(a); INSERT INTO t VALUES (1);";
        for (said, kind, words) in [
            ("CREATE TABLE t(a CHECK (foreign_one(a)))", Kind::Target, "foreign_one"),
            ("CREATE TABLE t(a, b AS (foreign_one(a)) STORED)", Kind::Target, "foreign_one"),
            ("CREATE TABLE t(a COLLATE foreign_one UNIQUE)", Kind::Target, "no such collation"),
            ("CREATE TABLE t(a); DROP TABLE other", Kind::Damaged, "malformed"),
            ("CREATE TABLE u(a)", Kind::Damaged, "malformed"),
            ("CREATE TEMP TABLE t(a)", Kind::Target, "no such table: main.t"),
            ("create table t(a)", Kind::Unproven, "another table, index or trigger"),
            ("CREATE TABLE t(a CHECK (a > 1))", Kind::Target, "CHECK constraint failed"),
            ("CREATE TABLE t(a TEXT)", Kind::Unproven, "read back, are not those"),
        ] {
            for target in [OTHER, "CREATE TABLE other(a); CREATE TABLE t(x); INSERT INTO t VALUES (5)"] {
                let copy = format!("{base} UPDATE sqlite_schema SET sql = '{said}';");
                two("wal", target, &copy).refused(&["t"], kind, &[words]);
            }
        }
        let copy = format!(
            "{base} INSERT INTO t VALUES (NULL); UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a NOT NULL)';"
        );
        two("wal", "", &copy).refused(&["t"], Kind::Target, &["NOT NULL"]);
        // What is not asked of a function that is not here is made.
        let copy =
            format!("{base} UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a DEFAULT (foreign_one()))';");
        check(OTHER, &copy, &["t"]);
    }

    #[test]
    fn text_of_another_encoding_is_not_moved() {
        for (one, other) in [("UTF-8", "UTF-16le"), ("UTF-16be", "UTF-8"), ("UTF-16le", "UTF-16be")] {
            let [target, copy] =
                [one, other].map(|encoding| format!("PRAGMA encoding = '{encoding}'; {PEOPLE}"));
            two("wal", &target, &copy).refused(&["people"], Kind::Target, &[one, other, "whole database"]);
            check(&target, &target, &["people"]);
        }
        check(
            "PRAGMA page_size = 512; CREATE TABLE x(a)",
            &format!("PRAGMA page_size = 8192; {PEOPLE}"),
            &["people"],
        );
    }

    #[test]
    fn what_may_not_be_committed_is_not_written() {
        for journal in JOURNALS {
            let two = two(journal, PEOPLE, &format!("{PEOPLE} DELETE FROM people;"));
            let before = dump(&two.target);
            let mut asked = 0;
            let fault = two.put_if(&["people"], &mut || {
                asked += 1;
                let other = two.open();
                assert!(other.execute_batch("BEGIN IMMEDIATE").is_err(), "the write lock is held");
                assert_eq!(column::<i64>(&other, "SELECT count(*) FROM people"), [3], "others may read");
                Err(Fault::new(Kind::Interrupted, "no"))
            });
            assert_eq!((fault.unwrap_err().kind, asked), (Kind::Interrupted, 1));
            assert_eq!(dump(&two.target), before);
            two.put_if(&["people"], &mut || {
                asked += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(asked, 2);
        }
    }

    #[test]
    fn a_reader_in_a_transaction_reads_on() {
        for journal in JOURNALS {
            let two = two(journal, PEOPLE, &format!("{PEOPLE} DELETE FROM people WHERE id > 3;"));
            let reader = two.open();
            reader.execute_batch("BEGIN").unwrap();
            assert_eq!(column::<i64>(&reader, "SELECT count(*) FROM people"), [3]);
            match journal {
                "wal" => assert_eq!(two.put(&["people"]).unwrap()[0].rows, 1),
                _ => two.refused(&["people"], Kind::Busy, &["transaction open"]),
            }
            assert_eq!(column::<i64>(&reader, "SELECT count(*) FROM people"), [3]);
            reader.execute_batch("COMMIT").unwrap();
            if journal != "wal" {
                two.put(&["people"]).unwrap();
            }
            assert_eq!(column::<i64>(&reader, "SELECT count(*) FROM people"), [1]);
        }
    }

    #[test]
    fn without_a_wal_a_reader_that_stays_is_told_before_rows_are_written() {
        let copy = "PRAGMA writable_schema = ON; CREATE TABLE people(a); INSERT INTO people VALUES (1);
                    UPDATE sqlite_schema SET sql = 'CREATE TABLE people(a CHECK (a > 1))';";
        let two = two("delete", PEOPLE, copy);
        let reader = two.open();
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(column::<i64>(&reader, "SELECT count(*) FROM people"), [3]);
        two.refused(&["people"], Kind::Busy, &["transaction open"]);
        reader.execute_batch("COMMIT").unwrap();
        two.refused(&["people"], Kind::Target, &["CHECK constraint failed"]);
    }

    #[test]
    fn a_writer_in_a_transaction_is_waited_for_or_said() {
        for journal in JOURNALS {
            let two = two(journal, PEOPLE, PEOPLE);
            let writer = two.open();
            writer.execute_batch("BEGIN IMMEDIATE; DELETE FROM people").unwrap();
            let fault = two.put(&["people"]).unwrap_err();
            assert_eq!(fault.kind, Kind::Busy, "{fault:?}");
            writer.execute_batch("COMMIT").unwrap();
            assert_eq!(two.put(&["people"]).unwrap()[0].rows_before, Some(0));
        }
    }

    #[test]
    fn applications_at_work_get_busy_at_most_and_lose_no_commit() {
        for journal in JOURNALS {
            let rows = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, hex(zeroblob(200))";
            let tables = "CREATE TABLE t(a PRIMARY KEY, b); CREATE TABLE log(a);";
            let mut two = two(
                journal,
                &format!("{tables} INSERT INTO t VALUES (1, 2);"),
                &format!("{tables} {rows} FROM n;"),
            );
            two.wait = Duration::from_secs(10);
            let is_over = AtomicBool::new(false);
            let is_busy = |error: Error| {
                let code = error.sqlite_error_code();
                assert_eq!(code, Some(ErrorCode::DatabaseBusy), "{journal}: {error}");
            };
            let (written, read) = std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let (connection, mut written) = (two.open(), 0);
                    while !is_over.load(Ordering::Relaxed) || written == 0 {
                        match connection.execute("INSERT INTO log VALUES (1)", []) {
                            Ok(_) => written += 1,
                            Err(error) => is_busy(error),
                        }
                    }
                    written
                });
                let reader = scope.spawn(|| {
                    let (connection, mut read) = (two.open(), 0);
                    while !is_over.load(Ordering::Relaxed) || read == 0 {
                        match connection.query_row("SELECT count(*), sum(length(b)) FROM t", [], |row| {
                            Ok((row.get(0)?, row.get(1)?))
                        }) {
                            Ok(found) => {
                                let states: [(i64, i64); 2] = [(1, 1), (3000, 1_200_000)];
                                assert!(states.contains(&found), "{journal}: {found:?}");
                                read += 1;
                            }
                            Err(error) => is_busy(error),
                        }
                    }
                    read
                });
                let mut put = 0;
                while put < 5 {
                    match two.put(&["t"]) {
                        Ok(_) => put += 1,
                        Err(fault) => assert_eq!(fault.kind, Kind::Busy, "{fault:?}"),
                    }
                }
                is_over.store(true, Ordering::Relaxed);
                (writer.join().unwrap(), reader.join().unwrap())
            });
            assert!(read > 0);
            assert_eq!(column::<i64>(&two.open(), "SELECT count(*) FROM log"), [written], "{journal}");
            assert_eq!(column::<i64>(&two.open(), "SELECT count(*) FROM t"), [3000]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whatever_was_done_to_tables_the_copy_s_come_back(
            made in proptest::collection::vec(statement(), 1..30),
            since in proptest::collection::vec(statement(), 0..30),
            wanted in proptest::sample::subsequence(vec!["t0", "t1", "t2"], 1..=3),
        ) {
            let tables = "CREATE TABLE t0(a, b); CREATE TABLE t1(a PRIMARY KEY, b UNIQUE ON CONFLICT REPLACE) WITHOUT ROWID;
                          CREATE TABLE t2(a INTEGER PRIMARY KEY AUTOINCREMENT, b, c AS (b || 'x') STORED);";
            // A statement that fails in one of them leads to two databases with other contents, as well.
            let copy: String = made.concat();
            let target: String = made.iter().chain(&since).map(String::as_str).collect();
            check(&format!("{tables}{target}"), &format!("{tables}{copy}"), &wanted);
        }
    }

    /// A change of one of three tables that no table refuses.
    fn statement() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("NULL".to_owned()),
            any::<i32>().prop_map(|number| number.to_string()),
            any::<f32>()
                .prop_filter("a number", |number| number.is_finite())
                .prop_map(|number| format!("{number:?}")),
            "[a-z'\"é]{0,9}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
            (0u32..9000).prop_map(|len| format!("zeroblob({len})")),
        ];
        prop_oneof![
            6 => (0..3, any::<i16>(), value).prop_map(|(table, key, value)| format!("INSERT OR REPLACE INTO t{table}(a, b) VALUES ({key}, {value});")),
            1 => (0..3, 2..5).prop_map(|(table, share)| format!("DELETE FROM t{table} WHERE a % {share} = 0;")),
            1 => (0..3, 2..5).prop_map(|(table, share)| format!("UPDATE OR REPLACE t{table} SET b = a WHERE a % {share} = 1;")),
            1 => (0..3, any::<u16>()).prop_map(|(table, name)| format!("CREATE INDEX IF NOT EXISTS i{table}_{name} ON t{table}(b, a);")),
            1 => (0..3, any::<u16>()).prop_map(|(table, name)| format!("CREATE TRIGGER IF NOT EXISTS g{table}_{name} AFTER DELETE ON t{table} BEGIN SELECT 1; END;")),
            1 => (1..2).prop_map(|_| "ALTER TABLE t0 RENAME COLUMN b TO c; ALTER TABLE t0 RENAME COLUMN c TO b;".to_owned()),
        ]
    }
}
