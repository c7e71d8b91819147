//! Rows of any table as bytes to hash: equal bytes for equal rows, and only for those.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

/// The ordinary tables of a database in order of their names: those that own pages, SQLite's own and the shadow tables
/// of virtual tables included. Views and virtual tables have no rows of their own.
pub fn tables(db: &Connection) -> Vec<String> {
    const SQL: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name";
    let mut statement = db.prepare(SQL).expect("the schema can be read");
    let names = statement.query_map([], |row| row.get(0)).expect("the schema can be read");
    names.collect::<Result<_, _>>().expect("the schema can be read")
}

/// Calls `each` with every row of `table`, in the order of its key, in the columns that are stored.
pub fn each_row(db: &Connection, table: &str, mut each: impl FnMut(&Row<'_>)) {
    let mut read = || -> rusqlite::Result<()> {
        // Neither virtual columns nor any index: these may need a function or a collation only the application has.
        let mut columns = db.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 2")?;
        let names = columns.query_map([table], |row| row.get::<_, String>(0))?;
        let names: Vec<String> = names.map(|name| Ok(quoted(&name?))).collect::<rusqlite::Result<_>>()?;
        let sql = format!("SELECT {} FROM {} NOT INDEXED", names.join(", "), quoted(table));
        let mut statement = db.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(row);
        }
        Ok(())
    };
    if let Err(error) = read() {
        panic!("the rows of `{table}` cannot be read: {error}");
    }
}

/// Feeds one row to `hasher`, each value with its type and length, so that no two different rows feed the same bytes.
pub fn hash_into(hasher: &mut blake3::Hasher, row: &Row<'_>) {
    let columns = row.as_ref().column_count();
    hasher.update(&(columns as u64).to_le_bytes());
    for column in 0..columns {
        match row.get_ref(column).expect("a row has the columns its statement names") {
            ValueRef::Null => value(hasher, 0, &[]),
            ValueRef::Integer(number) => value(hasher, 1, &number.to_le_bytes()),
            ValueRef::Real(number) => value(hasher, 2, &number.to_bits().to_le_bytes()),
            ValueRef::Text(bytes) => value(hasher, 3, bytes),
            ValueRef::Blob(bytes) => value(hasher, 4, bytes),
        }
    }
}

/// `name` as an SQL identifier, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn value(hasher: &mut blake3::Hasher, kind: u8, bytes: &[u8]) {
    hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}
