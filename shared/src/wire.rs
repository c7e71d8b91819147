//! The edge: protocol messages become checked values here, and checked values become messages.
//!
//! What a peer says is held against the limits of `proto/` before anybody else sees it.

use crate::PROTOCOL;
use crate::fault::{Fault, Kind};
use crate::frame::{Compression, Encoding, FRAME_BYTES_MAX, Frame};
use crate::header::Journal;
use crate::page::{Geometry, PageHash, PageNo};
use crate::pb;
use crate::rebuilt::SOURCES_BYTES_MAX;
use crate::snapshot::SnapshotId;
use crate::text::printable;

/// Bytes of one message, at most: a frame of pages that do not compress, and what goes around it.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + 64 * 1024;

/// Bytes of hashes in one message, at most.
pub const HASH_LIST_BYTES_MAX: usize = 64 * 1024;

/// Characters of any text from a peer, at most.
pub const TEXT_CHARS_MAX: usize = 4096;

/// What a puller asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Start {
    /// A configured name, or a path behind the local door.
    pub database: String,
    /// What the puller has.
    pub base: Option<Base>,
    /// Send no frame.
    pub dry_run: bool,
}

/// Content that the puller has.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Base {
    /// Its shape.
    pub geometry: Geometry,
    /// Its name; a draft has none.
    pub snapshot: Option<SnapshotId>,
}

/// What the agent is about to send.
#[derive(Clone, PartialEq, Debug)]
pub struct Offer {
    /// Absent where pages travel while they are read.
    pub snapshot: Option<SnapshotId>,
    /// Of the snapshot.
    pub geometry: Geometry,
    /// Why this is not a delta against the base; `None` if it is one.
    pub full_because: Option<String>,
    /// Pages to come, 0 if not known.
    pub pages: u32,
    /// Bytes to come, 0 if not known.
    pub bytes: u64,
    /// About the source.
    pub source: SourceFacts,
    /// Why there was no mirror.
    pub no_mirror_because: Option<String>,
}

/// What the source says of itself.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SourceFacts {
    /// The canonical absolute path at the agent.
    pub path: String,
    /// `wal` or `rollback`.
    pub journal: String,
    /// Header, offset 24.
    pub change_counter: u32,
    /// Header, offset 40.
    pub schema_cookie: u32,
    /// Header, offset 92.
    pub version_valid_for: u32,
    /// Header, offset 96.
    pub library_version: u32,
    /// Permission bits of the file.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// The agent's release.
    pub agent_version: String,
    /// The agent's SQLite.
    pub sqlite_version: String,
    /// Of the database file.
    pub file_bytes: u64,
    /// Of the `-wal`.
    pub wal_bytes: u64,
}

/// How a pull ended, from the agent's side.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Done {
    /// The snapshot's name.
    pub snapshot: SnapshotId,
    /// MD5 of the whole canonical file, where the agent had it.
    pub md5: Option<[u8; 16]>,
    /// How long the source was held.
    pub held_micros: u64,
    /// Pages the puller still lacks.
    pub pages_missing: u32,
}

/// What the agent may say during a pull.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Send the base's hashes.
    NeedHashes,
    /// Progress of the hold.
    Reading {
        /// So far.
        pages_read: u32,
        /// Of all.
        page_count: u32,
    },
    /// What comes.
    Offer(Box<Offer>),
    /// Pages.
    Frame(Frame),
    /// The end.
    Done(Done),
}

/// Checks the version that the other side, `who`, speaks.
pub fn check_protocol(theirs: u32, who: &str) -> Result<(), Fault> {
    if theirs == PROTOCOL {
        return Ok(());
    }
    let older = if theirs < PROTOCOL { who } else { "this side" };
    Err(Fault::new(
        Kind::Protocol,
        format!("{who} speaks protocol version {theirs}, this side speaks {PROTOCOL}"),
    )
    .hint(format!("update {older} to the newer release of the two")))
}

pub(crate) fn broken(what: impl Into<String>) -> Fault {
    Fault::new(Kind::Protocol, format!("the peer broke the protocol: {}", what.into())).hint(
        "update both programs to the same release; if that does not help, this is a bug worth reporting",
    )
}

pub(crate) fn geometry(page_size: u32, page_count: u32) -> Result<Geometry, Fault> {
    Geometry::new(page_size, page_count)
        .ok_or_else(|| broken(format!("{page_count} pages of {page_size} bytes are no SQLite file")))
}

pub(crate) fn snapshot_id(bytes: &[u8]) -> Result<SnapshotId, Fault> {
    SnapshotId::from_slice(bytes).ok_or_else(|| broken("a snapshot id that is not 32 bytes"))
}

pub(crate) fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| printable(text, TEXT_CHARS_MAX))
}

impl Start {
    /// As a message.
    pub fn encode(&self) -> pb::PullRequest {
        let base = self.base.map(|base| pb::Base {
            page_size: base.geometry.page_size.get(),
            page_count: base.geometry.page_count,
            snapshot_id: base.snapshot.map(|id| id.0.to_vec()).unwrap_or_default().into(),
        });
        let start = pb::Start {
            protocol: PROTOCOL,
            puller_version: crate::RELEASE.to_owned(),
            database: self.database.clone(),
            base,
            dry_run: self.dry_run,
        };
        pb::PullRequest { is: Some(pb::pull_request::Is::Start(start)) }
    }

    /// The first message of a pull, checked.
    pub fn decode(message: pb::PullRequest) -> Result<Self, Fault> {
        let Some(pb::pull_request::Is::Start(start)) = message.is else {
            return Err(broken("a pull that does not begin with `Start`"));
        };
        check_protocol(start.protocol, "the puller")?;
        let base = start.base.map(|base| {
            let snapshot =
                (!base.snapshot_id.is_empty()).then(|| snapshot_id(&base.snapshot_id)).transpose()?;
            Ok(Base { geometry: geometry(base.page_size, base.page_count)?, snapshot })
        });
        Ok(Self { database: start.database, base: base.transpose()?, dry_run: start.dry_run })
    }
}

/// A part of a list of hashes, as a message.
pub fn encode_hashes(hashes: Vec<u8>, last: bool) -> pb::PullRequest {
    assert!(hashes.len() <= HASH_LIST_BYTES_MAX, "BUG: a message of too many hashes");
    pb::PullRequest { is: Some(pb::pull_request::Is::Hashes(pb::HashList { hashes: hashes.into(), last })) }
}

/// A part of a list of hashes, checked, and whether it is the last.
pub fn decode_hashes(message: pb::PullRequest) -> Result<(bytes::Bytes, bool), Fault> {
    let Some(pb::pull_request::Is::Hashes(list)) = message.is else {
        return Err(broken("something else where page hashes were due"));
    };
    if list.hashes.len() > HASH_LIST_BYTES_MAX || !list.hashes.len().is_multiple_of(PageHash::LEN) {
        return Err(broken(format!("{} bytes of page hashes in one message", list.hashes.len())));
    }
    Ok((list.hashes, list.last))
}

/// A frame as a message in the agent's own files, with all it holds.
pub fn encode_stored_frame(frame: Frame) -> pb::Frame {
    let compression = match frame.compression {
        Compression::None => pb::Compression::None,
        Compression::Zstd(_) => pb::Compression::Zstd,
        Compression::Gzip(_) => pb::Compression::Gzip,
    };
    let numbers = |pages: Vec<PageNo>| pages.into_iter().map(PageNo::get).collect();
    let (encoding, moved_from, rebuilt_from) = match frame.encoding {
        Encoding::Plain => (pb::Encoding::Plain, Vec::new(), Vec::new()),
        Encoding::Patch => (pb::Encoding::Patch, Vec::new(), Vec::new()),
        Encoding::Moved(from) => (pb::Encoding::Moved, numbers(from), Vec::new()),
        Encoding::Rebuilt(from) => (pb::Encoding::Rebuilt, Vec::new(), numbers(from)),
    };
    pb::Frame {
        runs: frame.runs.iter().flat_map(|(first, count)| [first.get(), *count]).collect(),
        compression: compression.into(),
        payload: frame.payload,
        check: frame.check,
        encoding: encoding.into(),
        moved_from,
        rebuilt_from,
        hashes: frame.hashes.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>().into(),
    }
}

/// A frame as a message on the wire: without hashes, and without the content of pages that the puller's base has.
pub fn encode_frame(frame: Frame) -> pb::Frame {
    let bare = matches!(frame.encoding, Encoding::Moved(_));
    let message = encode_stored_frame(Frame { hashes: Vec::new(), ..frame });
    if bare {
        pb::Frame { payload: bytes::Bytes::new(), compression: pb::Compression::None.into(), ..message }
    } else {
        message
    }
}

/// A frame, its numbers checked; its pages are checked by [`Frame::open`].
pub fn decode_frame(frame: pb::Frame) -> Result<Frame, Fault> {
    let compression = match frame.compression() {
        pb::Compression::None => Compression::None,
        pb::Compression::Zstd => Compression::Zstd(0),
        pb::Compression::Gzip => Compression::Gzip(0),
        pb::Compression::Unspecified => return Err(broken("a frame with an unknown compression")),
    };
    let odd = !frame.runs.len().is_multiple_of(2) || !frame.hashes.len().is_multiple_of(PageHash::LEN);
    if frame.payload.len() > FRAME_BYTES_MAX || odd {
        return Err(broken("a frame that is too large or names its pages in a way of its own"));
    }
    let page_0 = || broken("a frame with a page 0");
    let encoding = match pb::Encoding::try_from(frame.encoding) {
        Ok(pb::Encoding::Plain) => Encoding::Plain,
        Ok(pb::Encoding::Patch) => Encoding::Patch,
        Ok(pb::Encoding::Moved) => {
            let from = frame.moved_from.iter().map(|no| PageNo::new(*no)).collect::<Option<_>>();
            Encoding::Moved(from.ok_or_else(page_0)?)
        }
        Ok(pb::Encoding::Rebuilt) => {
            let from = &frame.rebuilt_from;
            // For the smallest pages; `Frame::open` knows how large they are.
            if from.len() > SOURCES_BYTES_MAX / 512 {
                return Err(broken(format!("a frame that is rebuilt from {} pages", from.len())));
            }
            let from = from.iter().map(|no| PageNo::new(*no)).collect::<Option<_>>();
            Encoding::Rebuilt(from.ok_or_else(page_0)?)
        }
        Err(_) => return Err(broken("a frame with an unknown encoding")),
    };
    let runs = frame.runs.chunks_exact(2).map(|run| Some((PageNo::new(run[0])?, run[1])));
    let runs = runs.collect::<Option<Vec<_>>>().ok_or_else(page_0)?;
    let hashes = frame.hashes.chunks_exact(PageHash::LEN).map(|hash| {
        let mut bytes = [0; PageHash::LEN];
        bytes.copy_from_slice(hash);
        PageHash(bytes)
    });
    let hashes = hashes.collect();
    Ok(Frame { runs, encoding, compression, payload: frame.payload, check: frame.check, hashes })
}

impl Event {
    /// As a message.
    pub fn encode(self) -> pb::PullReply {
        use pb::pull_reply::Is;
        pb::PullReply {
            is: Some(match self {
                Self::NeedHashes => Is::NeedHashes(pb::NeedHashes {}),
                Self::Reading { pages_read, page_count } => {
                    Is::Reading(pb::Reading { pages_read, page_count })
                }
                Self::Offer(offer) => Is::Offer(offer.encode()),
                Self::Frame(frame) => Is::Frame(encode_frame(frame)),
                Self::Done(done) => Is::Done(pb::Done {
                    snapshot_id: done.snapshot.0.to_vec().into(),
                    md5: done.md5.map(|md5| md5.to_vec()).unwrap_or_default().into(),
                    held_micros: done.held_micros,
                    pages_missing: done.pages_missing,
                }),
            }),
        }
    }

    /// A message, checked.
    pub fn decode(message: pb::PullReply) -> Result<Self, Fault> {
        use pb::pull_reply::Is;
        Ok(match message.is.ok_or_else(|| broken("an empty message"))? {
            Is::NeedHashes(_) => Self::NeedHashes,
            Is::Reading(reading) => {
                Self::Reading { pages_read: reading.pages_read, page_count: reading.page_count }
            }
            Is::Offer(offer) => Self::Offer(Box::new(Offer::decode(offer)?)),
            Is::Frame(frame) => Self::Frame(decode_frame(frame)?),
            Is::Done(done) => Self::Done(Done {
                snapshot: snapshot_id(&done.snapshot_id)?,
                md5: match done.md5.len() {
                    0 => None,
                    _ => Some(
                        done.md5.as_ref().try_into().map_err(|_| broken("an MD5 that is not 16 bytes"))?,
                    ),
                },
                held_micros: done.held_micros,
                pages_missing: done.pages_missing,
            }),
        })
    }
}

impl Offer {
    fn encode(self) -> pb::Offer {
        let source = self.source;
        pb::Offer {
            snapshot_id: self.snapshot.map(|id| id.0.to_vec()).unwrap_or_default().into(),
            page_size: self.geometry.page_size.get(),
            page_count: self.geometry.page_count,
            delta: self.full_because.is_none(),
            full_because: self.full_because.unwrap_or_default(),
            pages: self.pages,
            bytes: self.bytes,
            source: Some(pb::SourceFacts {
                path: source.path,
                journal: source.journal,
                change_counter: source.change_counter,
                schema_cookie: source.schema_cookie,
                version_valid_for: source.version_valid_for,
                library_version: source.library_version,
                mode: source.mode,
                uid: source.uid,
                gid: source.gid,
                agent_version: source.agent_version,
                sqlite_version: source.sqlite_version,
                file_bytes: source.file_bytes,
                wal_bytes: source.wal_bytes,
            }),
            no_mirror_because: self.no_mirror_because.unwrap_or_default(),
        }
    }

    fn decode(offer: pb::Offer) -> Result<Self, Fault> {
        let source = offer.source.ok_or_else(|| broken("an offer that says nothing of its source"))?;
        let journal = Journal::from_word(&source.journal).ok_or_else(|| broken("an unknown journal mode"))?;
        Ok(Self {
            snapshot: (!offer.snapshot_id.is_empty()).then(|| snapshot_id(&offer.snapshot_id)).transpose()?,
            geometry: geometry(offer.page_size, offer.page_count)?,
            full_because: match offer.delta {
                true => None,
                false => {
                    Some(some_text(&offer.full_because).unwrap_or_else(|| "the agent did not say".to_owned()))
                }
            },
            pages: offer.pages,
            bytes: offer.bytes,
            source: SourceFacts {
                path: printable(&source.path, TEXT_CHARS_MAX),
                journal: journal.word().to_owned(),
                change_counter: source.change_counter,
                schema_cookie: source.schema_cookie,
                version_valid_for: source.version_valid_for,
                library_version: source.library_version,
                mode: source.mode & 0o7777,
                uid: source.uid,
                gid: source.gid,
                agent_version: printable(&source.agent_version, 64),
                sqlite_version: printable(&source.sqlite_version, 64),
                file_bytes: source.file_bytes,
                wal_bytes: source.wal_bytes,
            },
            no_mirror_because: some_text(&offer.no_mirror_because),
        })
    }
}

impl Fault {
    /// As a gRPC status; the whole fault travels in its details.
    pub fn to_status(&self) -> tonic::Status {
        use prost::Message;
        use tonic::Code;
        let code = match self.kind {
            Kind::Usage | Kind::Protocol => Code::InvalidArgument,
            Kind::Refused => Code::PermissionDenied,
            Kind::Missing | Kind::Unknown => Code::NotFound,
            Kind::Busy | Kind::Locked => Code::Unavailable,
            Kind::NoSpace => Code::ResourceExhausted,
            Kind::NotADatabase | Kind::HotJournal | Kind::Unreadable | Kind::Unusable => {
                Code::FailedPrecondition
            }
            _ => Code::Internal,
        };
        let details = pb::Fault {
            code: self.kind.word().to_owned(),
            message: self.message.clone(),
            hint: self.hint.clone(),
        };
        let message = printable(&self.message, 512);
        tonic::Status::with_details(code, message, details.encode_to_vec().into())
    }

    /// From a gRPC status: the peer's own fault, or what the transport says of the connection.
    pub fn from_status(status: &tonic::Status) -> Self {
        use prost::Message;
        use tonic::Code;
        if let Some(fault) = pb::Fault::decode(status.details()).ok().filter(|fault| !fault.code.is_empty()) {
            return Self::decode(fault);
        }
        let said = printable(status.message(), TEXT_CHARS_MAX);
        match status.code() {
            Code::Unimplemented => broken(format!("it does not know this call ({said})")),
            Code::PermissionDenied | Code::Unauthenticated => {
                Self::new(Kind::Refused, format!("the agent refused: {said}"))
            }
            Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument => broken(said),
            _ => Self::new(Kind::Lost, format!("the connection to the agent was lost: {said}"))
                .hint("try again; what arrived so far does no harm"),
        }
    }

    /// From a message, its text made fit to print.
    pub fn decode(fault: pb::Fault) -> Self {
        Self {
            kind: Kind::from_word(&fault.code).unwrap_or(Kind::Internal),
            message: printable(&fault.message, TEXT_CHARS_MAX),
            hint: printable(&fault.hint, TEXT_CHARS_MAX),
        }
    }

    /// As a message.
    pub fn encode(&self) -> pb::Fault {
        pb::Fault {
            code: self.kind.word().to_owned(),
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fault_travels_whole() {
        let fault = Fault::new(Kind::Busy, "`gym` is locked").hint("close it");
        assert_eq!(Fault::from_status(&fault.to_status()), fault);
        let plain = Fault::from_status(&tonic::Status::unavailable("tcp\x1b[2J"));
        assert_eq!(plain.kind, Kind::Lost);
        assert!(!plain.message.contains('\x1b'));
    }

    #[test]
    fn another_version_is_a_sentence() {
        let mut message = Start { database: "gym".into(), base: None, dry_run: false }.encode();
        if let Some(pb::pull_request::Is::Start(start)) = &mut message.is {
            start.protocol = 9;
        }
        let fault = Start::decode(message).unwrap_err();
        assert_eq!(fault.kind, Kind::Protocol);
        assert!(fault.message.contains('9') && fault.message.contains('1'), "{fault}");
    }

    proptest! {
        #[test]
        fn a_start_goes_there_and_back(database in ".*", count in any::<u32>(), id in prop::option::of(any::<[u8; 32]>())) {
            let base = Geometry::new(4096, count).map(|geometry| Base { geometry, snapshot: id.map(SnapshotId) });
            let start = Start { database, base, dry_run: false };
            prop_assert_eq!(Start::decode(start.encode()).unwrap(), start);
        }
    }
}
