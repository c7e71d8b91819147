//! A restore over a database that is there, or to another machine: what is there is saved first, and nothing that was committed
//! is lost.
//!
//! The agent writes: in this process for a database here, else at the far end of ssh. See `proto/` for what is said.

use crate::client::{Client, Restoring};
use crate::content::Content;
use crate::history;
use crate::pull::{self, Options, Run, Watch};
use crate::restore_record::{self, Record};
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use crate::unpacked::{self, Unpacked};
use crate::upload;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{Header, Journal};
use pullback_shared::restoring::{self, Apply, MOVED_MAX, Reply, Request, Restored, There};
use pullback_shared::snapshot::SnapshotId;
use std::fs::File;
use std::path::Path;

/// What helps where what is there cannot be saved first.
pub const FORCE_HINT: &str =
    "`--force` sets it aside, with all that belongs to it, and puts the copy in its place";

/// What is to be restored: a copy that was proven.
pub struct What<'a> {
    /// The source it is of.
    pub source: &'a SourceDir,
    /// The copy.
    pub copy: &'a StoredCopy,
    /// Only these tables; none: all of it.
    pub tables: &'a [String],
    /// It as a plain file.
    pub file: &'a Unpacked,
}

/// A restore whose agent was asked what there is.
pub struct Begun {
    // Dropped in this order.
    restoring: Restoring,
    client: Client,
    target: restoring::Target,
    is_local: bool,
}

/// The target's own folder in the store, and the right to change it.
pub struct Folder<'a> {
    /// The folder.
    pub source: &'a mut SourceDir,
    /// The right.
    pub lock: &'a Lock,
    /// How the safety copy is pulled.
    pub options: &'a Options,
    /// When the restore began.
    pub now: Timestamp,
}

/// What there was before: the copy of it, or that there was nothing to copy.
pub struct Safety {
    /// The copy.
    pub copy: Option<StoredCopy>,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

/// A restore that waits for the word.
pub struct Ready {
    begun: Begun,
    snapshot: SnapshotId,
    set_aside: bool,
    tables: Vec<String>,
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// What the agent says.
    pub restored: Restored,
    /// The safety copy, if there was something to copy: another one than first where somebody committed meanwhile.
    pub safety: Option<String>,
    /// Bytes over the connection.
    pub bytes_received: u64,
    /// Bytes over the connection.
    pub bytes_sent: u64,
    /// The target is not what was restored, since somebody committed right after.
    pub notes: Vec<String>,
}

impl Begun {
    /// Asks the agent that `client` leads to what is there now; `is_local`: it is this process.
    pub fn ask(mut client: Client, is_local: bool) -> Result<Self, Fault> {
        let mut restoring = client.restore()?;
        match restoring.next_reply().map_err(|fault| client.explain(fault))? {
            Reply::Target(target) => Ok(Self { client, restoring, target: *target, is_local }),
            _ => Err(out_of_turn()),
        }
    }

    /// What is there.
    pub fn target(&self) -> &restoring::Target {
        &self.target
    }

    /// Refuses, before anything is saved, what the agent would refuse after it: what SQLite cannot open, unless `force` sets it
    /// aside, and what can be replaced only while its application is `stopped`.
    pub fn may_begin(&self, what: &What<'_>, force: bool, stopped: bool) -> Result<(), Fault> {
        match &self.target.there {
            There::Unreadable(fault) if !force => Err(unsaved(fault)),
            There::Database(facts) if what.tables.is_empty() && !stopped => {
                let (geometry, _) = pull::shape(what.copy)?;
                facts.must_be_stopped(geometry, encoding_of(what.file.path())?).map_or(Ok(()), Err)
            }
            _ => Ok(()),
        }
    }

    /// Saves what is there. What cannot be read is left, or, with `force`, set aside later.
    pub fn save(&mut self, folder: &mut Folder<'_>, force: bool, watch: &dyn Watch) -> Result<Safety, Fault> {
        let unreadable = match &self.target.there {
            There::Nothing => return Ok(Safety { copy: None, notes: Vec::new() }),
            There::Unreadable(fault) => fault.clone(),
            There::Database(_) => match self.pull(folder, watch) {
                Ok(safety) => return Ok(safety),
                Err(fault) if is_of_source(fault.kind) => fault,
                Err(fault) => return Err(fault),
            },
        };
        match force {
            true => Ok(Safety {
                copy: None,
                notes: vec![format!("what is there cannot be copied first, and is set aside: {unreadable}")],
            }),
            false => Err(unsaved(&unreadable)),
        }
    }

    fn pull(&mut self, folder: &mut Folder<'_>, watch: &dyn Watch) -> Result<Safety, Fault> {
        let Folder { source, lock, options, now } = folder;
        let mut run = Run { source, lock, options, now: *now, watch };
        let pulled = run.pull_over(&mut self.client)?;
        history::add(source, &history::safety_line(&pulled, *now))?;
        let copy = source.copy(&pulled.manifest.copy)?;
        Ok(Safety { copy: Some(copy), notes: pulled.notes })
    }

    /// Sends what is to be there, so that only the word is missing.
    pub fn stage(
        mut self,
        what: &What<'_>,
        safety: Option<(&SourceDir, &StoredCopy)>,
        set_aside: bool,
        watch: &dyn Watch,
    ) -> Result<Ready, Fault> {
        let staged = self.send(what, safety, watch).map_err(|fault| self.client.explain(fault));
        let snapshot = staged?;
        Ok(Ready { begun: self, snapshot, set_aside, tables: what.tables.to_vec() })
    }

    fn send(
        &mut self,
        what: &What<'_>,
        safety: Option<(&SourceDir, &StoredCopy)>,
        watch: &dyn Watch,
    ) -> Result<SnapshotId, Fault> {
        let manifest =
            what.copy.manifest.as_ref().map_err(|why| unpacked::rotten(what.source, what.copy, why))?;
        let (geometry, snapshot) = pull::shape(what.copy)?;
        let base = match safety {
            Some((source, copy)) if !self.is_local => {
                Some((pull::shape(copy)?, unpacked::open(source, copy)?))
            }
            _ => None,
        };
        let base = base.filter(|((of, _), _)| of.page_size == geometry.page_size);
        let local_path = match self.is_local {
            true => Some(path_text(what.file.path())?),
            false => None,
        };
        let is_there = self.restoring.say(Request::Content(restoring::Content {
            snapshot,
            geometry,
            base: base.as_ref().map(|((of, id), _)| (*id, of.page_count)),
            journal: Journal::from_word(&manifest.source.journal).unwrap_or(Journal::Rollback),
            mode: manifest.source.mode,
            local_path,
        }))?;
        let mut is_sent = false;
        loop {
            match self.restoring.next_reply()? {
                Reply::Staged => return Ok(snapshot),
                Reply::Want { delta } if is_there && !is_sent => {
                    is_sent = true;
                    let content: Content = unpacked::open(what.source, what.copy)?;
                    let base = base.as_ref().map(|(_, base)| base).filter(|_| delta);
                    upload::send(&self.restoring, &content, base, watch)?;
                }
                _ => return Err(out_of_turn()),
            }
        }
    }
}

impl Ready {
    /// Puts it in place. `stopped`: no application has the database open. Where somebody committed since the safety copy, another
    /// one is pulled while the agent keeps writers out.
    pub fn apply(
        mut self,
        mut safety: Option<StoredCopy>,
        stopped: bool,
        folder: Option<&mut Folder<'_>>,
        record: &mut dyn FnMut(&SourceDir, &Lock, &str) -> Result<(), Fault>,
        watch: &dyn Watch,
    ) -> Result<Done, Fault> {
        let mut folder = folder;
        let mut notes = Vec::new();
        // The first may be due whether somebody committed or not.
        for _ in 0..=MOVED_MAX + 1 {
            let of_safety = safety.as_ref().map(pull::shape).transpose()?.map(|(_, snapshot)| snapshot);
            self.begun.restoring.say(Request::Apply(Apply {
                safety: of_safety,
                tables: self.tables.clone(),
                stopped,
                set_aside: self.set_aside,
            }))?;
            match self.outcome(watch)? {
                Some(restored) => return self.done(restored, safety, notes),
                None => {
                    let Some(folder) = folder.as_deref_mut() else { return Err(out_of_turn()) };
                    let newer = self.begun.pull(folder, watch)?;
                    if let Some(copy) = &newer.copy {
                        record(folder.source, folder.lock, &copy.id)?;
                    }
                    notes.extend(newer.notes);
                    safety = newer.copy;
                }
            }
        }
        Err(Fault::new(Kind::Protocol, "the agent wants one safety copy after the other")
            .hint("update both programs to the same release"))
    }

    /// `None`: somebody committed since the safety copy.
    fn outcome(&mut self, watch: &dyn Watch) -> Result<Option<Restored>, Fault> {
        let mut written = 0;
        loop {
            let reply = self.begun.restoring.next_reply();
            match reply.map_err(|fault| self.begun.client.explain(fault))? {
                // Each word tells of more than the one before, so that they come to an end.
                Reply::Writing { pages_written, page_count } if pages_written > written => {
                    written = pages_written;
                    watch.writing(pages_written, page_count);
                }
                Reply::Moved => return Ok(None),
                Reply::Restored(restored) => return Ok(Some(restored)),
                _ => return Err(out_of_turn()),
            }
        }
    }

    fn done(
        self,
        restored: Restored,
        safety: Option<StoredCopy>,
        mut notes: Vec<String>,
    ) -> Result<Done, Fault> {
        let is_whole = self.tables.is_empty();
        if is_whole && restored.snapshot != self.snapshot {
            if !restored.moved_on {
                return Err(Fault::new(Kind::Unproven, format!("what was read back is {} instead of {}", restored.snapshot.short(), self.snapshot.short()))
                    .hint("the disk there may be failing; `puller restore --undo` brings back what was there before"));
            }
            notes.push("an application has committed since the copy was put in place".to_owned());
        }
        let (bytes_received, bytes_sent) =
            (self.begun.client.bytes_received(), self.begun.client.bytes_sent());
        Ok(Done { restored, safety: safety.map(|copy| copy.id), bytes_received, bytes_sent, notes })
    }
}

/// What a record says before anything is replaced.
pub fn record(what: &What<'_>, safety: Option<&str>, now: Timestamp) -> Result<Record, Fault> {
    let (_, snapshot) = pull::shape(what.copy)?;
    Ok(Record {
        v: restore_record::VERSION,
        begun_at: now,
        ended_at: None,
        from: what.source.shown(),
        copy: what.copy.id.clone(),
        snapshot: snapshot.to_string(),
        safety: safety.map(str::to_owned),
        quarantine: None,
        tables: what.tables.to_vec(),
        to_start: None,
        is_undo: false,
    })
}

fn unsaved(why: &Fault) -> Fault {
    Fault::new(why.kind, format!("what is there cannot be saved first: {why}; nothing was changed"))
        .hint(FORCE_HINT)
}

/// What a source is that SQLite cannot read as it stands.
pub fn is_of_source(kind: Kind) -> bool {
    matches!(kind, Kind::NotADatabase | Kind::Unreadable | Kind::HotJournal)
}

/// The text encoding of the plain copy at `path`; `None` of one without pages.
fn encoding_of(path: &Path) -> Result<Option<&'static str>, Fault> {
    let header = File::open(path).and_then(|mut file| Header::read_from(&mut file));
    let header = header.map_err(|error| Fault::io(format!("`{}`", path.display()), &error))?;
    Ok(header.map(|header| header.encoding_word()))
}

fn path_text(path: &Path) -> Result<String, Fault> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Fault::new(Kind::Usage, format!("`{}`: the store's path is not UTF-8", path.display()))
    })
}

fn out_of_turn() -> Fault {
    Fault::new(Kind::Protocol, "the agent said something that is not its turn to say during a restore")
        .hint("update both programs to the same release")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::judge::Verify;
    use crate::ssh::Door;
    use crate::store::{KnownStores, Store};
    use pullback_agent::service::{Agent, Databases};
    use pullback_agent::settings::Settings;
    use pullback_shared::page::Geometry;
    use pullback_shared::pb;
    use pullback_shared::pb::pullback_server::{Pullback, PullbackServer};
    use pullback_shared::restoring::{Facts, Target};
    use std::collections::BTreeMap;
    use std::time::Duration;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::{Request, Response, Status, Streaming};

    /// Pulls are those of an honest agent; of a restore, each request is answered by these replies.
    struct Liar {
        honest: Agent,
        replies: fn(&pb::RestoreRequest) -> Vec<Reply>,
    }

    #[tonic::async_trait]
    impl Pullback for Liar {
        type PullStream = <Agent as Pullback>::PullStream;
        type RestoreStream = ReceiverStream<Result<pb::RestoreReply, Status>>;

        async fn info(&self, request: Request<pb::InfoRequest>) -> Result<Response<pb::InfoReply>, Status> {
            self.honest.info(request).await
        }

        async fn pull(
            &self,
            request: Request<Streaming<pb::PullRequest>>,
        ) -> Result<Response<Self::PullStream>, Status> {
            self.honest.pull(request).await
        }

        async fn restore(
            &self,
            request: Request<Streaming<pb::RestoreRequest>>,
        ) -> Result<Response<Self::RestoreStream>, Status> {
            let (mut requests, replies) = (request.into_inner(), self.replies);
            let (said, heard) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                while let Ok(Some(request)) = requests.message().await {
                    for reply in replies(&request) {
                        if said.send(Ok(reply.encode())).await.is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(heard)))
        }
    }

    struct Blind;

    impl Watch for Blind {
        fn reading(&self, _: u32, _: u32) {}
        fn receiving(&self, _: u64, _: u64) {}
        fn proving(&self, _: u64, _: u64) {}
    }

    fn target() -> Reply {
        let facts = Facts {
            geometry: Geometry::new(4096, 2).expect("a geometry"),
            encoding: "UTF-8".to_owned(),
            journal: Journal::Rollback,
            user_version: 0,
        };
        let there = There::Database(facts);
        Reply::Target(Box::new(Target {
            path: "/srv/gym.db".into(),
            there,
            disk_free: 1 << 40,
            finished: None,
        }))
    }

    fn options() -> Options {
        Options {
            verify: Verify::Auto,
            full: false,
            rules: None,
            pack: None,
            expect: BTreeMap::new(),
            path: None,
            is_safety: true,
            imported: None,
        }
    }

    /// Restores the copy of a database over it, at an agent that answers by `replies`; how often another safety copy was taken.
    fn restore(replies: fn(&pb::RestoreRequest) -> Vec<Reply>) -> (Result<Done, Fault>, u32) {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let database = dir.path().join("gym.db");
        let db = rusqlite::Connection::open(&database).expect("a database can be made");
        db.execute_batch("CREATE TABLE members(name)").expect("the SQL is correct");
        let databases = Databases::Named(BTreeMap::from([("gym".to_owned(), database)]));
        let liar = Liar { honest: Agent::new(Settings::local(), databases, 2), replies };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(PullbackServer::new(liar))
                .serve_with_incoming(incoming),
        );

        let known = KnownStores::in_file(dir.path().join("known"));
        let store = Store::open_or_create(&dir.path().join("store"), &known, false).expect("a store");
        let address = Address::parse(&format!("127.0.0.1:{port}/gym")).expect("an address").expect("one");
        let mut source = store.create(&address, Some("gym")).expect("a folder");
        let lock = source.lock().expect("the lock");
        let door = Door::new(Duration::from_secs(5));
        let (options, now) = (options(), "2026-11-21T09:00:00Z".parse().expect("a time"));
        let mut client = Client::open(&address, &door).expect("an agent");
        let run = Run { source: &mut source, lock: &lock, options: &options, now, watch: &Blind }
            .pull_over(&mut client);
        let copy = source.copy(&run.expect("a copy").manifest.copy).expect("the copy");
        let from = source.clone();
        let file = Unpacked::proven(&from, &copy).expect("it is proven");
        let what = What { source: &from, copy: &copy, tables: &[], file: &file };
        let mut folder = Folder { source: &mut source, lock: &lock, options: &options, now };
        let mut taken = 0;
        let done = Begun::ask(client, false)
            .and_then(|begun| begun.stage(&what, Some((&from, &copy)), false, &Blind))
            .and_then(|ready| {
                let mut record = |_: &SourceDir, _: &_, _: &str| {
                    taken += 1;
                    Ok(())
                };
                ready.apply(Some(copy.clone()), false, Some(&mut folder), &mut record, &Blind)
            });
        (done, taken)
    }

    #[test]
    fn an_agent_that_always_says_that_somebody_committed_is_not_believed_for_ever() {
        use pb::restore_request::Is;
        let (done, taken) = restore(|request| match request.is {
            Some(Is::Start(_)) => vec![target()],
            Some(Is::Content(_)) => vec![Reply::Staged],
            Some(Is::Apply(_)) => vec![Reply::Moved],
            _ => Vec::new(),
        });
        let fault = done.expect_err("it never ends");
        assert_eq!((fault.kind, taken), (Kind::Protocol, 18), "{fault}");
    }

    #[test]
    fn an_agent_that_wants_the_pages_again_and_again_gets_them_once() {
        use pb::restore_request::Is;
        let (done, _) = restore(|request| match request.is {
            Some(Is::Start(_)) => vec![target()],
            Some(Is::Content(_) | Is::End(_)) => vec![Reply::Want { delta: true }],
            _ => Vec::new(),
        });
        let fault = done.expect_err("it never ends");
        assert_eq!(fault.kind, Kind::Protocol, "{fault}");
    }

    #[test]
    fn an_agent_that_tells_of_progress_and_makes_none_is_left() {
        use pb::restore_request::Is;
        let (done, _) = restore(|request| match request.is {
            Some(Is::Start(_)) => vec![target()],
            Some(Is::Content(_)) => vec![Reply::Staged],
            Some(Is::Apply(_)) => vec![Reply::Writing { pages_written: 1, page_count: 2 }; 2],
            _ => Vec::new(),
        });
        let fault = done.expect_err("it never ends");
        assert_eq!(fault.kind, Kind::Protocol, "{fault}");
    }
}
