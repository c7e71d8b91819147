//! The edge of a restore: its messages become checked values here, and checked values become messages.

use crate::fault::{Fault, Kind};
use crate::frame::Frame;
use crate::header::Journal;
use crate::page::Geometry;
use crate::pb;
use crate::snapshot::SnapshotId;
use crate::text::printable;
use crate::wire::{
    TEXT_CHARS_MAX, broken, check_protocol, decode_frame, encode_frame, geometry, snapshot_id, some_text,
};
use crate::{PROTOCOL, RELEASE};
use std::path::Path;

/// Tables that one restore may name.
pub const TABLES_MAX: usize = 1000;

/// Safety copies that may turn out to be too old, after the write lock was there: whoever writes without pause gets in between the
/// lock that keeps writers out and the one that replaces now and then.
pub const MOVED_MAX: u32 = 16;

/// The file that makes a directory a store of copies. Nothing is ever restored into one.
pub const STORE_MARKER: &str = "pullback-store.json";

/// Why nothing is restored to `target`, which lies in the store at `store`.
pub fn within_store(target: &Path, store: &Path) -> Fault {
    let [target, store] = [target, store].map(|path| printable(&path.to_string_lossy(), 1024));
    Fault::new(
        Kind::Target,
        format!("`{target}` lies in the store `{store}`, whose copies nothing may write over"),
    )
    .hint("name a file outside of it; `puller cat` and `puller sql` read a copy where it lies")
}

/// What the puller may say during a restore.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// The first: which database.
    Start {
        /// A configured name, or a path.
        database: String,
    },
    /// What is to be there.
    Content(Content),
    /// Pages of it.
    Frame(Frame),
    /// All pages were sent.
    End,
    /// Put it in place.
    Apply(Apply),
}

/// What is to be in the target's place.
#[derive(Clone, PartialEq, Debug)]
pub struct Content {
    /// Its name.
    pub snapshot: SnapshotId,
    /// Its shape.
    pub geometry: Geometry,
    /// A snapshot of the target that the puller has: its name and number of pages.
    pub base: Option<(SnapshotId, u32)>,
    /// For a file that is made anew: its journal mode.
    pub journal: Journal,
    /// And its permission bits.
    pub mode: u32,
    /// Behind the local door: a file with this content.
    pub local_path: Option<String>,
}

/// How it is put in place.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Apply {
    /// The state of the target that there is a safety copy of.
    pub safety: Option<SnapshotId>,
    /// Only these tables; none: everything.
    pub tables: Vec<String>,
    /// The application is stopped.
    pub stopped: bool,
    /// What SQLite cannot open is set aside.
    pub set_aside: bool,
}

/// What the agent may say during a restore.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// What is there now.
    Target(Box<Target>),
    /// Send pages.
    Want {
        /// Only those that are other than in the base.
        delta: bool,
    },
    /// They came, and are what they should be.
    Staged,
    /// Something was committed since the safety copy.
    Moved,
    /// Progress.
    Writing {
        /// So far.
        pages_written: u32,
        /// Of all.
        page_count: u32,
    },
    /// The end.
    Restored(Restored),
}

/// What is there before a restore.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// The canonical absolute path, as the far side spells it: a terminal is shown it through [`printable`] only.
    pub path: String,
    /// What is there.
    pub there: There,
    /// Bytes that are free on its disk.
    pub disk_free: u64,
    /// What an earlier restore had begun here, and how it was completed.
    pub finished: Option<String>,
}

/// What may be there before a restore.
#[derive(Clone, PartialEq, Debug)]
pub enum There {
    /// Nothing.
    Nothing,
    /// Something that SQLite cannot open, and why.
    Unreadable(Fault),
    /// A database.
    Database(Facts),
}

/// Of a database that is to be replaced.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Its shape.
    pub geometry: Geometry,
    /// Such as `UTF-8`.
    pub encoding: String,
    /// Its journal mode.
    pub journal: Journal,
    /// What the application counts its schema by.
    pub user_version: i64,
}

impl Facts {
    /// Why content of another shape or text `encoding` (of none: `None`) can be put in its place only while no application has it
    /// open; `None`: it can at any time.
    pub fn must_be_stopped(&self, geometry: Geometry, encoding: Option<&str>) -> Option<Fault> {
        let (now, then) = (self.geometry.page_size, geometry.page_size);
        let what = if now != then && self.journal == Journal::Wal {
            format!("the copy has pages of {} bytes and the database of {}", then.get(), now.get())
        } else {
            let encoding =
                encoding.filter(|encoding| self.geometry.page_count > 0 && *encoding != self.encoding)?;
            format!("the copy has text in {encoding} and the database in {}", self.encoding)
        };
        let what = format!("{what}: no application may have it open while that changes; nothing was changed");
        Some(Fault::new(Kind::Target, what)
            .hint("stop the application for the time of the restore: `--stop-cmd 'systemctl stop …' --start-cmd 'systemctl start …'`"))
    }
}

/// What became of a restore.
#[derive(Clone, PartialEq, Debug)]
pub struct Restored {
    /// What was read back.
    pub snapshot: SnapshotId,
    /// Somebody committed before it was.
    pub moved_on: bool,
    /// The database's journal mode.
    pub journal: Journal,
    /// Where what was there before was set aside.
    pub quarantine: Option<String>,
    /// With [`Apply::tables`]: what became of each.
    pub tables: Vec<Table>,
    /// How long other writers had to wait.
    pub held_micros: u64,
}

/// What became of a table.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Rows before; `None`: it was not there.
    pub rows_before: Option<u64>,
    /// Rows now.
    pub rows: u64,
}

impl Request {
    /// As a message.
    pub fn encode(self) -> pb::RestoreRequest {
        use pb::restore_request::Is;
        pb::RestoreRequest {
            is: Some(match self {
                Self::Start { database } => Is::Start(pb::RestoreStart {
                    protocol: PROTOCOL,
                    puller_version: RELEASE.to_owned(),
                    database,
                }),
                Self::Content(content) => Is::Content(pb::RestoreContent {
                    snapshot_id: content.snapshot.0.to_vec().into(),
                    page_size: content.geometry.page_size.get(),
                    page_count: content.geometry.page_count,
                    base_snapshot_id: content.base.map(|(id, _)| id.0.to_vec()).unwrap_or_default().into(),
                    base_page_count: content.base.map_or(0, |(_, pages)| pages),
                    journal: content.journal.word().to_owned(),
                    mode: content.mode,
                    local_path: content.local_path.unwrap_or_default(),
                }),
                Self::Frame(frame) => Is::Frame(encode_frame(frame)),
                Self::End => Is::End(pb::ContentEnd {}),
                Self::Apply(apply) => Is::Apply(pb::Apply {
                    safety_snapshot_id: apply.safety.map(|id| id.0.to_vec()).unwrap_or_default().into(),
                    tables: apply.tables,
                    stopped: apply.stopped,
                    set_aside: apply.set_aside,
                }),
            }),
        }
    }

    /// A message, checked.
    pub fn decode(message: pb::RestoreRequest) -> Result<Self, Fault> {
        use pb::restore_request::Is;
        Ok(match message.is.ok_or_else(|| broken("an empty message"))? {
            Is::Start(start) => {
                check_protocol(start.protocol, "the puller")?;
                Self::Start { database: start.database }
            }
            Is::Content(content) => Self::Content(Content {
                snapshot: snapshot_id(&content.snapshot_id)?,
                geometry: geometry(content.page_size, content.page_count)?,
                base: some_id(&content.base_snapshot_id)?.map(|id| (id, content.base_page_count)),
                journal: journal(&content.journal)?,
                mode: content.mode & 0o777,
                local_path: (!content.local_path.is_empty()).then_some(content.local_path),
            }),
            Is::Frame(frame) => Self::Frame(decode_frame(frame)?),
            Is::End(_) => Self::End,
            Is::Apply(apply) => {
                if apply.tables.len() > TABLES_MAX {
                    return Err(broken(format!("{} tables in one restore", apply.tables.len())));
                }
                Self::Apply(Apply {
                    safety: some_id(&apply.safety_snapshot_id)?,
                    tables: apply.tables,
                    stopped: apply.stopped,
                    set_aside: apply.set_aside,
                })
            }
        })
    }
}

impl Reply {
    /// As a message.
    pub fn encode(self) -> pb::RestoreReply {
        use pb::restore_reply::Is;
        pb::RestoreReply {
            is: Some(match self {
                Self::Target(target) => Is::Target(target.encode()),
                Self::Want { delta } => Is::Want(pb::WantFrames { delta }),
                Self::Staged => Is::Staged(pb::Staged {}),
                Self::Moved => Is::Moved(pb::Moved {}),
                Self::Writing { pages_written, page_count } => {
                    Is::Writing(pb::Writing { pages_written, page_count })
                }
                Self::Restored(restored) => Is::Restored(restored.encode()),
            }),
        }
    }

    /// A message, checked.
    pub fn decode(message: pb::RestoreReply) -> Result<Self, Fault> {
        use pb::restore_reply::Is;
        Ok(match message.is.ok_or_else(|| broken("an empty message"))? {
            Is::Target(target) => Self::Target(Box::new(Target::decode(target)?)),
            Is::Want(want) => Self::Want { delta: want.delta },
            Is::Staged(_) => Self::Staged,
            Is::Moved(_) => Self::Moved,
            Is::Writing(writing) => {
                Self::Writing { pages_written: writing.pages_written, page_count: writing.page_count }
            }
            Is::Restored(restored) => Self::Restored(Restored::decode(restored)?),
        })
    }
}

impl Target {
    fn encode(self) -> pb::RestoreTarget {
        let mut message = pb::RestoreTarget {
            path: self.path,
            exists: self.there != There::Nothing,
            disk_free: self.disk_free,
            finished: self.finished.unwrap_or_default(),
            ..pb::RestoreTarget::default()
        };
        match self.there {
            There::Nothing => {}
            There::Unreadable(fault) => message.problem = Some(fault.encode()),
            There::Database(facts) => {
                message.page_size = facts.geometry.page_size.get();
                message.page_count = facts.geometry.page_count;
                message.encoding = facts.encoding;
                message.journal = facts.journal.word().to_owned();
                message.user_version = facts.user_version;
            }
        }
        message
    }

    fn decode(message: pb::RestoreTarget) -> Result<Self, Fault> {
        let there = match (message.exists, message.problem) {
            (false, _) => There::Nothing,
            (true, Some(fault)) => There::Unreadable(Fault::decode(fault)),
            (true, None) => There::Database(Facts {
                geometry: geometry(message.page_size, message.page_count)?,
                encoding: printable(&message.encoding, 16),
                journal: journal(&message.journal)?,
                user_version: message.user_version,
            }),
        };
        Ok(Self {
            path: message.path,
            there,
            disk_free: message.disk_free,
            finished: some_text(&message.finished),
        })
    }
}

impl Restored {
    fn encode(self) -> pb::Restored {
        let table = |table: Table| pb::RestoredTable {
            name: table.name,
            rows_before: table.rows_before.map_or(-1, u64::cast_signed),
            rows: table.rows.cast_signed(),
        };
        pb::Restored {
            snapshot_id: self.snapshot.0.to_vec().into(),
            moved_on: self.moved_on,
            journal: self.journal.word().to_owned(),
            quarantine: self.quarantine.unwrap_or_default(),
            tables: self.tables.into_iter().map(table).collect(),
            held_micros: self.held_micros,
        }
    }

    fn decode(message: pb::Restored) -> Result<Self, Fault> {
        if message.tables.len() > TABLES_MAX {
            return Err(broken(format!("{} tables restored", message.tables.len())));
        }
        let table = |table: pb::RestoredTable| Table {
            name: printable(&table.name, TEXT_CHARS_MAX),
            rows_before: u64::try_from(table.rows_before).ok(),
            rows: u64::try_from(table.rows).unwrap_or(0),
        };
        Ok(Self {
            snapshot: snapshot_id(&message.snapshot_id)?,
            moved_on: message.moved_on,
            journal: journal(&message.journal)?,
            quarantine: some_text(&message.quarantine),
            tables: message.tables.into_iter().map(table).collect(),
            held_micros: message.held_micros,
        })
    }
}

fn some_id(bytes: &[u8]) -> Result<Option<SnapshotId>, Fault> {
    (!bytes.is_empty()).then(|| snapshot_id(bytes)).transpose()
}

fn journal(word: &str) -> Result<Journal, Fault> {
    Journal::from_word(word).ok_or_else(|| broken("an unknown journal mode"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_the_puller_says_goes_there_and_back(
            database in ".*",
            id in any::<[u8; 32]>(),
            base in prop::option::of((any::<[u8; 32]>(), any::<u32>())),
            count in 0u32..1_000_000,
            mode in 0u32..0o1000,
            path in prop::option::of(".+"),
            tables in prop::collection::vec(".*", 0..5),
            flags in any::<(bool, bool)>(),
        ) {
            let content = Content {
                snapshot: SnapshotId(id),
                geometry: Geometry::new(4096, count).unwrap(),
                base: base.map(|(id, pages)| (SnapshotId(id), pages)),
                journal: if flags.0 { Journal::Wal } else { Journal::Rollback },
                mode,
                local_path: path,
            };
            let safety = base.map(|(id, _)| SnapshotId(id));
            let apply = Apply { safety, tables, stopped: flags.0, set_aside: flags.1 };
            for request in [Request::Start { database }, Request::Content(content), Request::End, Request::Apply(apply)] {
                prop_assert_eq!(Request::decode(request.clone().encode()).unwrap(), request);
            }
        }

        #[test]
        fn what_the_agent_says_goes_there_and_back(
            id in any::<[u8; 32]>(),
            counts in any::<(u32, u32, u64, i64)>(),
            texts in prop::collection::vec("[a-z/]{1,20}", 4),
            there in 0..3,
            flag in any::<bool>(),
            rows in prop::option::of(0..u64::MAX / 2),
        ) {
            let there = match there {
                0 => There::Nothing,
                1 => There::Unreadable(Fault::new(crate::fault::Kind::NotADatabase, texts[0].clone())),
                _ => There::Database(Facts {
                    geometry: Geometry::new(512, counts.0 / 2).unwrap(),
                    encoding: "UTF-8".to_owned(),
                    journal: Journal::Wal,
                    user_version: counts.3,
                }),
            };
            let target = Target { path: texts[1].clone(), there, disk_free: counts.2, finished: flag.then(|| texts[2].clone()) };
            let restored = Restored {
                snapshot: SnapshotId(id),
                moved_on: flag,
                journal: Journal::Rollback,
                quarantine: flag.then(|| texts[3].clone()),
                tables: vec![Table { name: texts[0].clone(), rows_before: rows, rows: rows.unwrap_or(0) }],
                held_micros: counts.2,
            };
            let writing = Reply::Writing { pages_written: counts.0, page_count: counts.1 };
            for reply in [Reply::Target(Box::new(target)), Reply::Want { delta: flag }, Reply::Staged, Reply::Moved, writing, Reply::Restored(restored)] {
                prop_assert_eq!(Reply::decode(reply.clone().encode()).unwrap(), reply);
            }
        }
    }
}
