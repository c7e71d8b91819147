//! Which rows refer to rows that are not there, before and after tables are replaced: whom the change is to blame for.

use rusqlite::{Connection, Error, ErrorCode, params};
use std::collections::{BTreeMap, BTreeSet};

/// Pairs of tables told of, at most.
const PAIRS_MAX: usize = 10;

/// What is wrong with foreign keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// So many rows of the table `child` refer to rows of `parent` that are not there.
    Rows {
        /// The table they are in.
        child: String,
        /// The table they refer to.
        parent: String,
        /// How many.
        rows: u64,
    },
    /// A table's rows cannot be checked: SQLite's words, such as those of a parent that lacks the key.
    Unclear(String),
}

/// Where a violation was found.
#[derive(Clone, Copy)]
enum Side {
    /// In the target before.
    Before = 0,
    /// In the copy itself.
    Copy = 1,
    /// In the target now.
    Now = 2,
}

/// Violations of foreign keys, noted in a temporary table: there may be more than memory holds.
pub(crate) struct ForeignKeys<'connection> {
    connection: &'connection Connection,
    replaced: &'connection [String],
    unclear_before: BTreeSet<String>,
}

impl<'connection> ForeignKeys<'connection> {
    /// Notes what is wrong already, within the open transaction: in `main`, and in the tables `replaced` of the schema
    /// `content`, which are put there as they are. Triggers do not fire and nothing cascades, so only the tables
    /// `replaced` and those that refer to them can come to be wrong.
    pub(crate) fn before(
        connection: &'connection Connection,
        content: &str,
        replaced: &'connection [String],
    ) -> rusqlite::Result<Self> {
        connection.execute_batch(
            "CREATE TABLE temp.pullback_broken(child COLLATE NOCASE, row, parent COLLATE NOCASE, side)",
        )?;
        let mut keys = Self { connection, replaced, unclear_before: BTreeSet::new() };
        keys.unclear_before = keys.note("main", &keys.concerned()?, Side::Before)?.into_keys().collect();
        keys.unclear_before
            .extend(keys.note(content, &replaced.iter().cloned().collect(), Side::Copy)?.into_keys());
        Ok(keys)
    }

    /// What is wrong now and was not before, most rows first; and ends the noting.
    pub(crate) fn broken_since(self) -> rusqlite::Result<Vec<Broken>> {
        let unclear = self.note("main", &self.concerned()?, Side::Now)?.into_iter();
        let unclear = unclear.filter(|(child, _)| !self.unclear_before.contains(child));
        let mut broken: Vec<Broken> = unclear.map(|(_, said)| Broken::Unclear(said)).collect();
        // Rows of tables without rowids are told apart by nothing but their number.
        let sql = "SELECT child, parent, sum(more) FROM (
                       SELECT child, parent, sum(side = 2) - max(sum(side = 0), sum(side = 1)) AS more
                       FROM temp.pullback_broken GROUP BY child, row, parent HAVING more > 0)
                   GROUP BY child, parent ORDER BY 3 DESC, 1, 2 LIMIT ?1";
        let mut statement = self.connection.prepare(sql)?;
        let pairs = statement.query_map([PAIRS_MAX as i64], |row| {
            Ok(Broken::Rows {
                child: row.get(0)?,
                parent: row.get(1)?,
                rows: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        })?;
        for pair in pairs {
            broken.push(pair?);
        }
        drop(statement);
        self.connection.execute_batch("DROP TABLE temp.pullback_broken")?;
        broken.truncate(PAIRS_MAX);
        Ok(broken)
    }

    /// The tables of `main` that are replaced or refer to one that is.
    fn concerned(&self) -> rusqlite::Result<BTreeSet<String>> {
        let sql = "SELECT DISTINCT listed.name, key.\"table\" FROM pragma_table_list AS listed
                   LEFT JOIN pragma_foreign_key_list(listed.name, 'main') AS key
                   WHERE listed.schema = 'main' AND listed.type = 'table'";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut concerned = BTreeSet::new();
        let is_replaced = |name: &str| self.replaced.iter().any(|other| other.eq_ignore_ascii_case(name));
        while let Some(row) = rows.next()? {
            let (child, parent): (String, Option<String>) = (row.get(0)?, row.get(1)?);
            if is_replaced(&child) || parent.is_some_and(|parent| is_replaced(&parent)) {
                concerned.insert(child);
            }
        }
        Ok(concerned)
    }

    /// Notes each violation in `tables`, and on which side it is. Returns the tables that SQLite cannot check, in lower
    /// case, and why.
    fn note(
        &self,
        schema: &str,
        tables: &BTreeSet<String>,
        side: Side,
    ) -> rusqlite::Result<BTreeMap<String, String>> {
        let sql = "INSERT INTO temp.pullback_broken
                   SELECT \"table\", \"rowid\", parent, ?3 FROM pragma_foreign_key_check(?1, ?2)";
        let mut statement = self.connection.prepare(sql)?;
        let mut unclear = BTreeMap::new();
        for table in tables {
            match statement.execute(params![table, schema, side as i64]) {
                Ok(_) => {}
                Err(Error::SqliteFailure(code, said)) if code.code == ErrorCode::Unknown => {
                    unclear.insert(table.to_ascii_lowercase(), said.unwrap_or_default());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(unclear)
    }
}
