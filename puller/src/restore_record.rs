//! The record of the last restore into a source: what was begun, whether it ended, and which copy leads back.
//!
//! It is one file in the source's folder, `restore.json`, written before anything at the target is replaced. So whatever cut a
//! restore short, the next run knows that one was begun, and rotation knows the copy that must not go.

use crate::durable;
use crate::sealed;
use crate::source_dir::{Lock, SourceDir, sequence_of};
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;

/// The version of the fields.
pub const VERSION: u32 = 1;

/// `restore.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of these fields: [`VERSION`].
    pub v: u32,
    /// When it was begun, by the puller's clock.
    pub begun_at: Timestamp,
    /// When it ended; `None`: it did not, as far as is known.
    pub ended_at: Option<Timestamp>,
    /// The source whose copy was restored, as shown.
    pub from: String,
    /// That copy.
    pub copy: String,
    /// The content that the target was to have, a `SnapshotId` in hex.
    pub snapshot: String,
    /// The safety copy, in this source's folder; `None`: the target was set aside instead, or there was none.
    pub safety: Option<String>,
    /// Where the target was set aside.
    pub quarantine: Option<String>,
    /// The tables that were restored; none: all there is.
    pub tables: Vec<String>,
    /// The command that starts the application again, while that has not been run.
    pub to_start: Option<String>,
    /// It is an undo itself.
    #[serde(default)]
    pub is_undo: bool,
}

impl Record {
    /// That of the last restore into `source`, if there was one.
    pub fn read(source: &SourceDir) -> Result<Option<Self>, Fault> {
        let file = file_of(source);
        let bytes = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read
                .map_err(|error| Fault::io(format!("`{}`", file.display()), &error).hint(way_out(source)))?,
        };
        let damaged =
            |why: String| Fault::new(Kind::Io, format!("`{}`: {why}", file.display())).hint(way_out(source));
        let record: Self = sealed::from_bytes(&bytes, "the record of a restore").map_err(damaged)?;
        if record.v != VERSION {
            let what =
                format!("`{}` has format version {}, this release knows {VERSION}", file.display(), record.v);
            return Err(Fault::new(Kind::Io, what).hint("update `puller`"));
        }
        match record.safety.as_deref().filter(|id| sequence_of(id).is_none()) {
            Some(_) => Err(damaged("no copy has a name like that of its safety copy".to_owned())),
            None => Ok(Some(record)),
        }
    }

    /// Puts it in the place of the one before, durable once this returns.
    pub fn write(&self, source: &SourceDir, _lock: &Lock) -> Result<(), Fault> {
        let file = file_of(source);
        durable::replace(&file, &sealed::to_bytes(self), 0o600)
            .map_err(|error| Fault::io(format!("`{}`", file.display()), &error))
    }

    /// Takes it away: the only restore that was begun has changed nothing.
    pub fn remove(source: &SourceDir, _lock: &Lock) -> Result<(), Fault> {
        let file = file_of(source);
        durable::remove(&file)
            .and_then(|()| durable::sync_dir(source.dir()))
            .map_err(|error| Fault::io(format!("`{}`", file.display()), &error))
    }

    /// The copy that an undo brings back. An undo that was cut is gone on with: what it saved is what it was to replace.
    pub fn way_back(&self) -> Option<&str> {
        match self.is_undo && self.is_open() {
            true => Some(&self.copy),
            false => self.safety.as_deref(),
        }
    }

    /// Whether `--undo` may ask for this copy, now or once it has ended.
    pub fn needs(&self, id: &str) -> bool {
        self.safety.as_deref() == Some(id) || self.way_back() == Some(id)
    }

    /// Whether it was begun and has not ended.
    pub fn is_open(&self) -> bool {
        self.ended_at.is_none()
    }
}

fn file_of(source: &SourceDir) -> PathBuf {
    source.dir().join("restore.json")
}

fn way_out(source: &SourceDir) -> String {
    format!(
        "without that file only `--undo` is lost, and what it would bring back is still a copy: `puller list {}` shows it; pin that copy, then remove the file",
        source.shown()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::store::{KnownStores, Store};
    use std::path::Path;

    fn source(dir: &Path) -> SourceDir {
        let known = KnownStores::in_file(dir.join("known"));
        let store = Store::open_or_create(&dir.join("store"), &known, false).unwrap();
        store.create(&Address::parse("/srv/gym.db").unwrap().unwrap(), Some("gym")).unwrap()
    }

    fn record() -> Record {
        Record {
            v: VERSION,
            begun_at: "2026-11-21T09:00:00Z".parse().unwrap(),
            ended_at: None,
            from: "gym".into(),
            copy: "gym-000007-20261120T090000Z".into(),
            snapshot: "0".repeat(64),
            safety: Some("gym-000009-20261121T090000Z".into()),
            quarantine: None,
            tables: vec!["member".into()],
            to_start: Some("systemctl start gym".into()),
            is_undo: false,
        }
    }

    #[test]
    fn the_record_of_the_last_restore_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        assert_eq!(Record::read(&source).unwrap(), None);
        let lock = source.lock().unwrap();
        record().write(&source, &lock).unwrap();
        assert_eq!(Record::read(&source).unwrap(), Some(record()));
        assert!(record().is_open());
        let ended = Record { ended_at: Some(record().begun_at), safety: None, ..record() };
        ended.write(&source, &lock).unwrap();
        assert_eq!(Record::read(&source).unwrap(), Some(ended.clone()));
        assert!(!ended.is_open());
    }

    #[test]
    fn an_undo_that_was_cut_is_gone_on_with_and_one_that_ended_is_undone() {
        let cut = Record { is_undo: true, ..record() };
        assert_eq!(cut.way_back(), Some(record().copy.as_str()));
        assert!(cut.needs(&record().copy) && record().safety.is_some_and(|safety| cut.needs(&safety)));
        let ended = Record { ended_at: Some(record().begun_at), ..cut };
        assert_eq!(ended.way_back(), record().safety.as_deref());
        assert_eq!(record().way_back(), record().safety.as_deref());
        assert!(!record().needs(&record().copy));
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed_and_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let bytes = sealed::to_bytes(&record());
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1u8 << (at % 8);
            fs::write(file_of(&source), &rotten).unwrap();
            let fault = Record::read(&source).expect_err("a bit flipped");
            assert!(fault.to_string().contains("restore.json"), "{fault}");
            assert!(fault.hint.contains("puller list gym"), "{}", fault.hint);
        }
    }

    #[test]
    fn a_record_of_a_later_release_or_with_a_name_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let lock = source.lock().unwrap();
        #[track_caller]
        fn check(source: &SourceDir, lock: &Lock, record: Record, said: &str) {
            record.write(source, lock).unwrap();
            let fault = Record::read(source).expect_err(said);
            assert!(fault.to_string().contains(said), "{fault}");
        }
        check(&source, &lock, Record { v: 2, ..record() }, "format version 2");
        for id in ["", "../gym-000009-20261121T090000Z", "gym"] {
            let record = Record { safety: Some(id.into()), ..record() };
            check(&source, &lock, record, "no copy has a name like that");
        }
    }
}
