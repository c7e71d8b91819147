//! Import: a copy that an older script made becomes a copy in the store, of the time when it was made.
//!
//! The file itself is only read. What is opened is a private copy of it in the store, unpacked, with its `-wal`; SQLite reads
//! that through the local door, as any source, so that the copy is proven, canonical and named as if it had been pulled then:
//! the next pull builds on it.
//!
//! Copies are in the order in which they were stored, and rotation counts by that. So what is imported has to be newer than
//! what the source has, and is stored oldest first.

use crate::address::Address;
use crate::client::Client;
use crate::durable;
use crate::judge::Verify;
use crate::manifest::{Level, Manifest};
use crate::named_time::TimeFrom;
use crate::packing::Pack;
use crate::plan;
use crate::proof;
use crate::pull::{Imported, Options, Pulled, Run, Watch};
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use crate::ssh::Door;
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{HEADER_LEN, Header, Journal};
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::text::printable;
use pullback_shared::verdict::Verdict;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the agent in this very process may give no sign of life.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes copied or unpacked at once.
const CHUNK: usize = 256 * 1024;

/// Room that is left on the store's disk beside what is unpacked.
const ROOM_MARGIN: u64 = 16 * 1024 * 1024;

/// What a packed file begins with, and what unpacks those that are not unpacked here.
const PACKED: [(&[u8], &str); 4] =
    [(b"\x28\xb5\x2f\xfd", "unzstd"), (b"\xfd7zXZ\0", "unxz"), (b"BZh", "bunzip2"), (b"PK\x03\x04", "unzip")];

const RECOVER: &str = "`sqlite3 FILE .recover` finds what is left in it";

/// What gzip begins a file with (RFC 1952, 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";

/// Where private copies are made, one at a time. What a run left that was killed is cleared by the next.
pub struct Desk {
    dir: PathBuf,
    _lock: File,
}

/// A file that was found to be a sound database.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The file.
    pub file: PathBuf,
    /// When it was made.
    pub taken_at: Timestamp,
    /// How that is known.
    pub time_from: TimeFrom,
    /// Its content.
    pub snapshot: SnapshotId,
    /// What should be known of it besides.
    pub notes: Vec<String>,
    state: State,
}

/// Where a file belongs among the copies that a source has.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind them.
    Behind,
    /// It is there already, as the copy with this id.
    There(String),
    /// Before the copy with this id, where no place is.
    Before(String),
}

/// What changes when somebody writes to a file.
type State = (u64, i64, i64, u64, i64, i64);

impl Desk {
    /// In `dir`, which is made; beside the copies there is as much room as they need.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
        durable::make_dir(dir).map_err(io)?;
        let lock = durable::lock(&dir.join("lock")).map_err(io)?.ok_or_else(|| {
            Fault::new(Kind::Locked, "another run imports into this store")
                .hint("wait until it ends; the lock goes with its process, there is nothing to remove")
        })?;
        // Absolute, as faults name it.
        let desk = Self { dir: crate::address::absolute(dir), _lock: lock };
        desk.cleared()?;
        Ok(desk)
    }

    /// Sees whether `file` is a sound database: its header, its pages, and SQLite's full check.
    pub fn check(&self, file: &Path, taken_at: Timestamp, time_from: TimeFrom) -> Result<Checked, Fault> {
        let state = state(file)?;
        let (staged, notes) = self.stage(file)?;
        let checked = self.look(&staged).map_err(|fault| told_of(fault, &staged, file));
        Ok(Checked { file: file.to_owned(), taken_at, time_from, snapshot: checked?, notes, state })
    }

    fn look(&self, staged: &Path) -> Result<SnapshotId, Fault> {
        let mut client = self.client(staged)?;
        let planned = plan::plan(&mut client, None, false)?;
        drop(client);
        let judged = proof::ask_sqlite(staged, Level::Full, planned.geometry)?;
        match judged.findings.verdict() {
            Verdict::Damaged => {
                let found = judged.findings.into_lines().into_iter().next().unwrap_or_default();
                Err(Fault::new(Kind::Damaged, format!("`{}` is damaged: {found}", staged.display()))
                    .hint(RECOVER))
            }
            _ => Ok(planned.snapshot),
        }
    }

    /// Stores `checked` in `source`, whose older copies are kept as `pack` says.
    pub fn store(
        &self,
        source: &mut SourceDir,
        lock: &Lock,
        checked: &Checked,
        pack: Pack,
        now: Timestamp,
        watch: &dyn Watch,
    ) -> Result<Pulled, Fault> {
        let file = &checked.file;
        if state(file)? != checked.state {
            return Err(changed(file));
        }
        let metadata = metadata(file)?;
        let (staged, _) = self.stage(file)?;
        let options = Options {
            verify: Verify::Full,
            full: false,
            rules: None,
            pack: Some(pack),
            expect: BTreeMap::new(),
            path: None,
            is_safety: false,
            imported: Some(Imported {
                taken_at: checked.taken_at,
                path: crate::address::absolute(file).to_string_lossy().into_owned(),
                mode: metadata.mode() & 0o7777,
            }),
        };
        let pulled = self
            .client(&staged)
            .and_then(|client| Run { source, lock, options: &options, now, watch }.pull(client));
        pulled.map_err(|fault| told_of(fault, &staged, file))
    }

    fn client(&self, staged: &Path) -> Result<Client, Fault> {
        Client::open(&Address::Local(staged.to_owned()), &Door::new(TIMEOUT))
    }

    /// Makes a private copy of `file`, unpacked, and of what lies in its `-wal`; and what there is to say of it.
    fn stage(&self, file: &Path) -> Result<(PathBuf, Vec<String>), Fault> {
        self.cleared()?;
        let before = state(file)?;
        let staged = self.dir.join("copy.db");
        let mut original = File::open(file).map_err(|error| cannot_read(file, &error))?;
        let mut head = Vec::new();
        let read = (&mut original).take(HEADER_LEN as u64).read_to_end(&mut head);
        read.map_err(|error| cannot_read(file, &error))?;
        let from = io::Cursor::new(head.clone()).chain(original);
        let written = match head.starts_with(GZIP) {
            true => self.write(&staged, MultiGzDecoder::new(from)),
            false => self.write(&staged, from),
        };
        written.map_err(|error| self.cannot_copy(file, &error))?;
        let mut notes = Vec::new();
        let wal = beside(file, "-wal");
        if head.starts_with(GZIP) {
            self.header(&staged, file, &mut notes, false)?;
        } else {
            let has_wal = fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0);
            self.header(&staged, file, &mut notes, has_wal)?;
            for suffix in ["-wal", "-journal"] {
                let from = beside(file, suffix);
                if fs::metadata(&from).is_ok_and(|metadata| metadata.is_file()) {
                    let copied =
                        File::open(&from).and_then(|from| self.write(&beside(&staged, suffix), from));
                    copied.map_err(|error| self.cannot_copy(&from, &error))?;
                }
            }
        }
        match state(file)? == before {
            true => Ok((staged, notes)),
            false => Err(changed(file)),
        }
    }

    /// Looks whether what was copied from `file` begins like a database.
    fn header(
        &self,
        staged: &Path,
        file: &Path,
        notes: &mut Vec<String>,
        has_wal: bool,
    ) -> Result<(), Fault> {
        let mut head = Vec::new();
        let read =
            File::open(staged).and_then(|staged| staged.take(HEADER_LEN as u64).read_to_end(&mut head));
        read.map_err(|error| Fault::io(format!("`{}`", staged.display()), &error))?;
        let shown = shown(file);
        if head.is_empty() {
            return Err(Fault::new(
                Kind::NotADatabase,
                format!("{shown} is empty: its script failed, it seems"),
            ));
        }
        let Some(header) = Header::read(&head) else {
            let packed = PACKED.iter().find(|(beginning, _)| head.starts_with(beginning));
            return Err(match packed {
                Some((_, tool)) => {
                    Fault::new(Kind::NotADatabase, format!("{shown} is packed, and not by gzip"))
                        .hint(format!("unpack it with `{tool}` and import what comes out"))
                }
                None => Fault::new(
                    Kind::NotADatabase,
                    format!("{shown} is not an SQLite database, or it is encrypted"),
                ),
            });
        };
        // SQLite's own backup leaves the journal mode in the header as well: this is no proof of a hand copy.
        if header.journal == Journal::Wal && !has_wal {
            notes.push(
                "its journal mode is WAL and no -wal lies beside it: if it was made by a plain `cp`, its newest rows may be missing"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Writes all that comes from `from`, as far as there is room, to the new private file `to`.
    fn write(&self, to: &Path, mut from: impl Read) -> io::Result<()> {
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let stat = rustix::fs::statvfs(&self.dir)?;
        let mut room = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(ROOM_MARGIN);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // A file of a few bytes may unpack to any number of them.
            room = room.checked_sub(read as u64).ok_or(io::ErrorKind::StorageFull)?;
            to.write_all(&buffer[..read])?;
        }
    }

    fn cannot_copy(&self, file: &Path, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                Fault::new(Kind::Damaged, format!("{} cannot be unpacked: {error}", shown(file)))
                    .hint("it was cut short, or has rotted; `gzip -t` says the same")
            }
            io::ErrorKind::StorageFull => Fault::new(
                Kind::NoSpace,
                format!("`{}`: there is no room for a private copy of {}", self.dir.display(), shown(file)),
            )
            .hint("free some room on that disk; no copy was touched"),
            _ => cannot_read(file, error),
        }
    }

    /// With nothing in it but its lock.
    fn cleared(&self) -> Result<(), Fault> {
        let others = |entry: &fs::DirEntry| entry.file_name() != "lock";
        let cleared = fs::read_dir(&self.dir).and_then(|entries| {
            entries.flatten().filter(others).try_for_each(|entry| durable::remove(&entry.path()))
        });
        cleared.map_err(|error| Fault::io(format!("`{}`", self.dir.display()), &error))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Err(fault) = self.cleared() {
            tracing::debug!(%fault, "a private copy is left for the next import to clear");
        }
    }
}

/// Where a copy of `snapshot` that was made at `taken_at` belongs among `copies`, which are in their order.
pub fn place(copies: &[StoredCopy], taken_at: Timestamp, snapshot: SnapshotId) -> Place {
    let known = |copy: &'_ StoredCopy| copy.manifest.clone().ok();
    let manifests: Vec<Manifest> = copies.iter().filter_map(known).collect();
    let before = manifests.iter().rfind(|manifest| manifest.taken_at <= taken_at);
    if let Some(there) = before.filter(|manifest| manifest.snapshot_id() == Some(snapshot)) {
        return Place::There(there.copy.clone());
    }
    match manifests.iter().find(|manifest| manifest.taken_at > taken_at) {
        Some(newer) => Place::Before(newer.copy.clone()),
        None => Place::Behind,
    }
}

/// When `file` was last written.
pub fn modified(file: &Path) -> Result<Timestamp, Fault> {
    let metadata = metadata(file)?;
    Ok(Timestamp::from_second(metadata.mtime()).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn metadata(file: &Path) -> Result<Metadata, Fault> {
    let metadata = fs::metadata(file).map_err(|error| cannot_read(file, &error))?;
    match metadata.is_file() {
        true => Ok(metadata),
        false => Err(Fault::new(Kind::Unusable, format!("{} is no file", shown(file)))),
    }
}

fn state(file: &Path) -> Result<State, Fault> {
    let metadata = metadata(file)?;
    let wal = fs::metadata(beside(file, "-wal")).ok();
    let wal = wal.map_or((0, 0, 0), |wal| (wal.len(), wal.mtime(), wal.mtime_nsec()));
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec(), wal.0, wal.1, wal.2))
}

fn changed(file: &Path) -> Fault {
    Fault::new(Kind::Busy, format!("{} is written to: it is no old copy, or not yet finished", shown(file)))
        .hint("`puller pull` takes a copy of a database that is in use")
}

fn cannot_read(file: &Path, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Fault::new(Kind::Missing, format!("{}: there is no such file", shown(file)))
        }
        _ => Fault::io(shown(file), error),
    }
}

/// `fault`, which tells of the private copy, told of the file that it is a copy of.
fn told_of(fault: Fault, staged: &Path, file: &Path) -> Fault {
    let (staged, file) = (staged.display().to_string(), printable(&file.to_string_lossy(), 1024));
    let message = fault.message.replace(&staged, &file);
    match fault.kind {
        Kind::Unreadable => Fault::new(fault.kind, message).hint(RECOVER),
        _ => Fault { message, ..fault },
    }
}

fn shown(file: &Path) -> String {
    format!("`{}`", printable(&file.to_string_lossy(), 1024))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_has_no_place_is_told() {
        let at = |day: u32| -> Timestamp { format!("2025-11-{day:02}T03:00:00Z").parse().unwrap() };
        let name = |digit: u32| SnapshotId::from_hex(&digit.to_string().repeat(64)).unwrap();
        let copy = |sequence: u64, day: u32| {
            let mut manifest = crate::manifest::tests::manifest(sequence);
            (manifest.taken_at, manifest.snapshot) = (at(day), name(day).to_string());
            StoredCopy { id: manifest.copy.clone(), sequence, manifest: Ok(manifest) }
        };
        let copies = [copy(1, 3), copy(2, 5)];
        let id = |at: usize| copies[at].id.clone();
        assert_eq!(place(&[], at(1), name(1)), Place::Behind);
        assert_eq!(place(&copies, at(7), name(7)), Place::Behind);
        assert_eq!(place(&copies, at(5), name(7)), Place::Behind);
        assert_eq!(place(&copies, at(3), name(3)), Place::There(id(0)));
        // Nothing had changed since the third: it was not stored, and is not missing.
        assert_eq!(place(&copies, at(4), name(3)), Place::There(id(0)));
        assert_eq!(place(&copies, at(7), name(5)), Place::There(id(1)));
        assert_eq!(place(&copies, at(4), name(4)), Place::Before(id(1)));
        assert_eq!(place(&copies, at(1), name(3)), Place::Before(id(0)));
    }
}
