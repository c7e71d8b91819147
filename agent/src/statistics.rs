//! What `info` says of a database: sizes, modes, pages, tables. Asked of `stat`, of a short read transaction, and, for
//! rows, of a snapshot: counting in the source itself would hold up a rollback-mode writer.

use crate::one_file;
use crate::room::disk;
use crate::settings::Settings;
use crate::source::{self, Source};
use pullback_shared::fault::Fault;
use pullback_shared::pb;
use pullback_shared::sql::identifier;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Tables listed, at most.
const TABLES_MAX: usize = 10_000;

/// About the database at `path`, called `name`. What is wrong with it is part of the answer.
pub fn of_database(settings: &Settings, name: &str, path: &Path, tables: bool) -> pb::DatabaseInfo {
    let mut info = pb::DatabaseInfo {
        name: name.to_owned(),
        path: path.to_string_lossy().into_owned(),
        ..Default::default()
    };
    if let Ok((path, metadata)) =
        source::resolved(path).and_then(|path| path.metadata().map(|found| (path, found)))
    {
        info.path = path.to_string_lossy().into_owned();
        info.owner = Some(metadata.uid());
    }
    if let Err(fault) = ask(settings, path, tables, &mut info) {
        info.problem = Some(fault.encode());
    }
    info
}

fn ask(settings: &Settings, path: &Path, tables: bool, info: &mut pb::DatabaseInfo) -> Result<(), Fault> {
    let source = Source::find(path)?;
    info.file_bytes = source.metadata().len();
    info.wal_bytes = source.beside_bytes("-wal");
    info.shm_bytes = source.beside_bytes("-shm");
    info.journal_bytes = source.beside_bytes("-journal");
    info.modified_at = source.modified_at();
    (info.disk_free, info.disk_total) = disk(source.path()).unwrap_or_default();
    let hold = source.hold(settings.hold)?;
    info.journal = hold.facts().journal.clone();
    info.page_size = hold.geometry().page_size.get();
    info.page_count = hold.geometry().page_count;
    if let Some(header) = hold.header() {
        info.free_pages = header.free_pages;
        info.encoding = header.encoding_word().to_owned();
        info.auto_vacuum = header.auto_vacuum_word().to_owned();
        info.user_version = header.user_version.into();
        info.application_id = header.application_id.into();
    }
    drop(hold);
    if tables {
        info.tables = tables_of(settings, &source)?;
    }
    Ok(())
}

fn tables_of(settings: &Settings, source: &Source) -> Result<Vec<pb::TableInfo>, Fault> {
    let dir = settings.temp_dir();
    if settings.state_dir.is_some() {
        settings.room().check(source.metadata().len())?;
    }
    let scratch =
        one_file::scratch(&dir).map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
    one_file::write(source, settings.hold, scratch.as_file(), &dir)?;
    count_rows(scratch.path())
}

/// The tables of the private database file at `path`, with their rows.
pub fn count_rows(path: &Path) -> Result<Vec<pb::TableInfo>, Fault> {
    let sqlite = |error: rusqlite::Error| {
        Fault::new(pullback_shared::fault::Kind::Damaged, format!("its tables cannot be listed: {error}"))
    };
    let connection = one_file::open_private(path).map_err(sqlite)?;
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = connection.prepare(sql).map_err(sqlite)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).map_err(sqlite)?;
    let mut tables = Vec::new();
    for name in names.take(TABLES_MAX) {
        let name = name.map_err(sqlite)?;
        let sql = format!("SELECT count(*) FROM {}", identifier(&name));
        let rows = connection.query_row(&sql, [], |row| row.get(0));
        tables.push(pb::TableInfo { name, rows: rows.unwrap_or(-1) });
    }
    Ok(tables)
}
