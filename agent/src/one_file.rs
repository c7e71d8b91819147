//! One proven snapshot in one file, without puller or state: `pullback-agent backup`, and what rows are counted in.

use crate::collector::{Collector, MirrorWriter, Outlet};
use crate::relay;
use crate::room::disk;
use crate::source::{HoldLimits, Source};
use md5::{Digest, Md5};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::page::{Geometry, PageHash};
use pullback_shared::snapshot::{SnapshotHasher, SnapshotId};
use pullback_shared::sql::immutable_uri;
use pullback_shared::verdict::{Findings, Verdict};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// A snapshot in a file.
pub struct OneFile {
    /// Its name.
    pub snapshot: SnapshotId,
    /// Its shape.
    pub geometry: Geometry,
    /// MD5 of the file.
    pub md5: [u8; 16],
    /// How long the source was held.
    pub held: Duration,
}

/// Writes a snapshot of `source` to `file`, which is empty, and reads it back. Nothing is fsynced.
pub fn write(source: &Source, limits: HoldLimits, file: &File, dir: &Path) -> Result<OneFile, Fault> {
    let io = |error: std::io::Error| Fault::io("the snapshot's file", &error);
    let hold = source.hold(limits)?;
    let geometry = hold.geometry();
    let (free, _) = disk(dir).map_err(io)?;
    if geometry.bytes() > free {
        let (need, dir) = (geometry.bytes(), dir.display());
        return Err(Fault::new(
            Kind::NoSpace,
            format!("the snapshot needs {need} bytes, and `{dir}` has {free} free"),
        ));
    }
    let hashes = tempfile::tempfile_in(dir).map_err(io)?;
    let writer = MirrorWriter::new(file.try_clone().map_err(io)?, hashes, geometry);
    let collector = Collector::new(geometry, None, Outlet::Mirror(writer), None, dir);
    let (sink, collecting) = relay::start(collector, geometry)?;
    let held = hold.read_into(sink)?;
    let mut collector = collecting.finish()?;
    collector.finish()?;
    let snapshot = collector.snapshot_id()?;
    let mut md5 = Md5::new();
    let found = read_back(file, geometry, |page| md5.update(page)).map_err(io)?;
    match found == snapshot {
        true => Ok(OneFile { snapshot, geometry, md5: md5.finalize().into(), held }),
        false => Err(Fault::new(
            Kind::Unproven,
            "the file read back is not what was written: the disk may be failing",
        )),
    }
}

/// Reads `file` whole; gives the name of its content. `each` sees the pages in order.
pub fn read_back(
    file: &File,
    geometry: Geometry,
    mut each: impl FnMut(&[u8]),
) -> std::io::Result<SnapshotId> {
    let mut id = SnapshotHasher::new(geometry);
    let mut page = vec![0; geometry.page_size.as_usize()];
    for index in 0..u64::from(geometry.page_count) {
        file.read_exact_at(&mut page, index * u64::from(geometry.page_size.get()))?;
        id.push(PageHash::of(&page));
        each(&page);
    }
    Ok(id.finish())
}

/// `pullback-agent backup DB FILE`: a snapshot in a new file at `target`, proven, durable, or nothing.
pub fn backup(
    database: &Path,
    target: &Path,
    limits: HoldLimits,
) -> Result<(OneFile, Verdict, Vec<String>), Fault> {
    let shown = target.display();
    if target.symlink_metadata().is_ok() {
        return Err(Fault::new(Kind::Target, format!("`{shown}` is there already"))
            .hint("name a file that does not exist yet"));
    }
    let source = Source::find(database)?;
    let dir = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |error: std::io::Error| Fault::io(format!("`{shown}`"), &error);
    let draft = tempfile::Builder::new().prefix(".pullback-").tempfile_in(dir).map_err(io)?;
    let one = write(&source, limits, draft.as_file(), dir)?;
    draft.as_file().sync_all().map_err(io)?;
    let (verdict, findings) = match one.geometry.page_count {
        0 => (Verdict::Ok, Vec::new()),
        _ => check(draft.path())?,
    };
    draft.persist_noclobber(target).map_err(|error| io(error.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok((one, verdict, findings))
}

/// What SQLite's full check says of the private file at `path`.
fn check(path: &Path) -> Result<(Verdict, Vec<String>), Fault> {
    let mut findings = Findings::default();
    let asked = open_private(path).and_then(|connection| {
        let mut statement = connection.prepare("PRAGMA integrity_check")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            findings.add_check_row(&row.get::<_, String>(0)?);
        }
        Ok(())
    });
    if let Err(error) = asked {
        findings.add_error(&error.to_string());
    }
    Ok((findings.verdict(), findings.into_lines()))
}

/// Opens a database file that nobody else writes, for reading, without a trace beside it.
pub fn open_private(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

/// An unnamed-to-others file for a snapshot that is only looked into.
pub fn scratch(dir: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(".pullback-").suffix(".db").tempfile_in(dir)
}
