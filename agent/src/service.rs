//! The gRPC edge: a call is decoded, given to a thread of its own, and its events are sent. Nothing else is async here.

use crate::call::{EVENTS_IN_FLIGHT, Inbound, Outbound};
use crate::peers::Peer;
use crate::restore::{self, Call};
use crate::settings::Settings;
use crate::snapshot;
use crate::source;
use crate::statistics;
use crate::turns::Turns;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::pb::pullback_server::{Pullback, PullbackServer};
use pullback_shared::restoring;
use pullback_shared::text::printable;
use pullback_shared::wire::{MESSAGE_BYTES_MAX, Start, check_protocol};
use pullback_shared::{PROTOCOL, RELEASE, pb};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a puller that opened a pull is waited for to say what it wants.
const START_WAIT: Duration = Duration::from_secs(20);

/// Which databases a caller may name.
#[derive(Clone, Debug)]
pub enum Databases {
    /// Those of the configuration, by name.
    Named(BTreeMap<String, PathBuf>),
    /// Any, by path: behind a door whose user could read the file anyway.
    ByPath,
    /// These, by path.
    Only(Vec<PathBuf>),
}

/// The service behind every door.
#[derive(Clone)]
pub struct Agent {
    settings: Arc<Settings>,
    databases: Arc<Databases>,
    turns: Turns,
    restores: Arc<Semaphore>,
}

impl Agent {
    /// An agent that serves `databases`, at most `pulls_max` pulls at once.
    pub fn new(settings: Settings, databases: Databases, pulls_max: usize) -> Self {
        Self {
            settings: Arc::new(settings),
            databases: Arc::new(databases),
            turns: Turns::new(pulls_max),
            restores: Arc::new(Semaphore::new(1)),
        }
    }

    /// As a tonic service, its message sizes limited.
    pub fn into_server(self) -> PullbackServer<Self> {
        PullbackServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn path_of(&self, database: &str) -> Result<PathBuf, Fault> {
        match &*self.databases {
            Databases::Named(named) => named.get(database).cloned().ok_or_else(|| {
                let names: Vec<&str> = named.keys().map(String::as_str).collect();
                let known = match names.is_empty() {
                    true => {
                        "the agent's configuration names no database: add `[database.NAME]` with its `path`"
                            .to_owned()
                    }
                    false => format!("the agent serves: {}", names.join(", ")),
                };
                let message = format!("the agent knows no database `{}`", printable(database, 80));
                Fault::new(Kind::Unknown, message).hint(known)
            }),
            Databases::ByPath => Ok(at_home(database)),
            Databases::Only(these) => {
                let path = at_home(database);
                let is_it = |this: &&PathBuf| **this == path || same_file(this, &path);
                these.iter().find(is_it).cloned().ok_or_else(|| {
                    let message = format!("this agent may not give `{}`", printable(database, 200));
                    let these: Vec<String> = these
                        .iter()
                        .map(|path| format!("`{}`", printable(&path.to_string_lossy(), 200)))
                        .collect();
                    Fault::new(Kind::Refused, message)
                        .hint(format!("it gives {} and nothing else", these.join(", ")))
                })
            }
        }
    }

    fn info_of(&self, request: &pb::InfoRequest) -> Result<pb::InfoReply, Fault> {
        check_protocol(request.protocol, "the puller")?;
        let wanted: Vec<(String, PathBuf)> = match (&*self.databases, request.database.is_empty()) {
            (Databases::Named(named), true) => {
                named.iter().map(|(name, path)| (name.clone(), path.clone())).collect()
            }
            (Databases::ByPath, true) => Vec::new(),
            (Databases::Only(these), true) => {
                these.iter().map(|path| (path.to_string_lossy().into_owned(), path.clone())).collect()
            }
            (_, false) => vec![(request.database.clone(), self.path_of(&request.database)?)],
        };
        let databases = wanted
            .iter()
            .map(|(name, path)| statistics::of_database(&self.settings, name, path, request.tables));
        let databases = databases.collect();
        let state_dir = self.settings.state_dir.as_deref().unwrap_or(Path::new("/"));
        let (state_free, state_total) = crate::room::disk(state_dir).unwrap_or_default();
        Ok(pb::InfoReply {
            protocol: PROTOCOL,
            agent_version: RELEASE.to_owned(),
            sqlite_version: crate::source::sqlite_version().to_owned(),
            databases,
            state_free,
            state_total,
            agent_path: std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned(),
            user: rustix::process::geteuid().as_raw(),
            now: crate::clock::now().as_second(),
        })
    }

    /// Waits until no pull and no restore goes on, but no longer than `limit`.
    pub async fn idle(&self, pulls_max: usize, limit: Duration) {
        let _ = tokio::time::timeout(limit, async {
            self.turns.until_nobody_pulls(pulls_max).await;
            let _restores = self.restores.acquire().await;
        })
        .await;
    }

    fn serve_pull(&self, start: &Start, inbound: &mut Inbound, outbound: &Outbound) -> Result<(), Fault> {
        let path = self.path_of(&start.database)?;
        snapshot::pull(&self.settings, &path, start, inbound, outbound)
    }

    /// Which database a restore may write to.
    fn target_of(&self, database: &str) -> Result<PathBuf, Fault> {
        // Behind the service door the peer's role has been asked.
        let is_peer = matches!(&*self.databases, Databases::Named(_));
        if !is_peer && !self.settings.allow_restore {
            return Err(Fault::new(Kind::Refused, "this agent's configuration does not allow that databases are restored here")
                .hint("write `allow_restore = true` into `~/.config/pullback/agent.toml` there; `pullback-agent config path` says which file it is"));
        }
        self.path_of(database)
    }

    fn serve_restore(
        &self,
        inbound: &mut Inbound<pb::RestoreRequest>,
        outbound: &Outbound<pb::RestoreReply>,
    ) -> Result<(), Fault> {
        let restoring::Request::Start { database } = inbound.next_request(START_WAIT)? else {
            return Err(Fault::new(Kind::Protocol, "a restore that does not begin with `RestoreStart`"));
        };
        tracing::Span::current().record("database", printable(&database, 200));
        let path = self.target_of(&database)?;
        let is_local = self.settings.state_dir.is_none();
        restore::restore(&self.settings, &path, &mut Call { inbound, outbound, is_local })?;
        tracing::info!("restored");
        Ok(())
    }
}

/// The path that a puller means; a shell of this user would read `~/` as well.
fn at_home(database: &str) -> PathBuf {
    match database.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest))) {
        Some(path) => path,
        None => PathBuf::from(database),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (source::resolved(one), source::resolved(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[tonic::async_trait]
impl Pullback for Agent {
    type PullStream = ReceiverStream<Result<pb::PullReply, Status>>;
    type RestoreStream = ReceiverStream<Result<pb::RestoreReply, Status>>;

    async fn info(&self, request: Request<pb::InfoRequest>) -> Result<Response<pb::InfoReply>, Status> {
        let agent = self.clone();
        let turn = match request.get_ref().tables {
            true => Some(self.turns.to_count().await.map_err(|fault| fault.to_status())?),
            false => None,
        };
        let answer = tokio::task::spawn_blocking(move || {
            // Until it is done, whoever waits for it.
            let _turn = turn;
            agent.info_of(request.get_ref())
        });
        let answer = answer.await;
        let answer =
            answer.map_err(|_| Fault::new(Kind::Internal, "asking the database panicked").to_status())?;
        answer.map(Response::new).map_err(|fault| fault.to_status())
    }

    async fn pull(
        &self,
        request: Request<Streaming<pb::PullRequest>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.name.clone());
        let place = self.turns.to_pull(peer).map_err(|fault| fault.to_status())?;
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(START_WAIT, requests.message()).await;
        let first = first
            .map_err(|_| Fault::new(Kind::Lost, "the puller did not say what it wants").to_status())??;
        let start = first.ok_or_else(|| Fault::new(Kind::Protocol, "a pull without a word").to_status())?;
        let start = Start::decode(start).map_err(|fault| fault.to_status())?;
        let agent = self.clone();
        let about = tracing::info_span!("pull", database = printable(&start.database, 200));
        on_a_thread("pull", about, place, requests, move |inbound, outbound| {
            agent.serve_pull(&start, inbound, outbound)?;
            tracing::info!("pulled");
            Ok(())
        })
    }

    async fn restore(
        &self,
        request: Request<Streaming<pb::RestoreRequest>>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let place = Arc::clone(&self.restores).try_acquire_owned().map_err(|_| {
            Fault::new(Kind::Busy, "another restore goes on there").hint("try again later").to_status()
        })?;
        let agent = self.clone();
        let about = tracing::info_span!("restore", database = tracing::field::Empty);
        on_a_thread("restore", about, place, request.into_inner(), move |inbound, outbound| {
            agent.serve_restore(inbound, outbound)
        })
    }
}

/// Gives a call to a thread of its own, which keeps its `place` until it ends, and whose log says what it is `about`; its fault
/// is the end of what is answered.
fn on_a_thread<I: Send + 'static, O: Send + 'static>(
    what: &'static str,
    about: tracing::Span,
    place: impl Send + 'static,
    requests: Streaming<I>,
    serve: impl FnOnce(&mut Inbound<I>, &Outbound<O>) -> Result<(), Fault> + Send + 'static,
) -> Result<Response<ReceiverStream<Result<O, Status>>>, Status> {
    let (events, replies) = tokio::sync::mpsc::channel(EVENTS_IN_FLIGHT);
    let runtime = Handle::current();
    let work = move || {
        let _place = place;
        let _about = about.entered();
        let outbound = Outbound::new(events, runtime.clone());
        if let Err(fault) = serve(&mut Inbound::new(requests, runtime), &outbound) {
            tracing::warn!(code = fault.kind.word(), "the {what} failed: {fault}");
            outbound.fail(&fault);
        }
    };
    let spawned = std::thread::Builder::new().name(what.to_owned()).spawn(work);
    spawned.map_err(|error| {
        Fault::new(Kind::Internal, format!("no thread for a {what}: {error}")).to_status()
    })?;
    Ok(Response::new(ReceiverStream::new(replies)))
}

/// A puller that is broken, or means harm, says what it likes on the stream of a restore: it gets a sentence, and nothing is
/// changed, kept or left behind.
#[cfg(test)]
mod tests {
    use super::*;
    use pullback_shared::frame::{Compression, Frame, FrameBuilder, Kind as FrameKind};
    use pullback_shared::header::{Journal, make_canonical};
    use pullback_shared::page::{Geometry, PageHash, PageNo};
    use pullback_shared::pb::pullback_client::PullbackClient;
    use pullback_shared::restoring::{Apply, Content, Reply, Request as Asked};
    use pullback_shared::snapshot::{SnapshotHasher, SnapshotId};
    use rusqlite::Connection;
    use tempfile::TempDir;
    use tokio::runtime::Runtime;

    /// How long the agent may take to answer all of it.
    const LIMIT: Duration = Duration::from_secs(30);

    /// An agent that restores, and a database beside it.
    struct Scene {
        dir: TempDir,
        runtime: Runtime,
        address: String,
        before: Vec<u8>,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("state")).unwrap();
            std::fs::create_dir(dir.path().join("data")).unwrap();
            let target = dir.path().join("data/a.db");
            let sql = "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(9000))";
            Connection::open(&target).unwrap().execute_batch(sql).unwrap();
            let mut settings =
                Settings { state_dir: Some(dir.path().join("state")), mirror: true, ..Settings::local() };
            settings.room.reserve = Some(0);
            let runtime = Runtime::new().unwrap();
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let agent = Agent::new(settings, Databases::ByPath, 1).into_server();
            let calls = tokio_stream::wrappers::TcpListenerStream::new(listener);
            runtime.spawn(tonic::transport::Server::builder().add_service(agent).serve_with_incoming(calls));
            let before = std::fs::read(&target).unwrap();
            Self { dir, runtime, address, before }
        }

        fn target(&self) -> PathBuf {
            self.dir.path().join("data/a.db")
        }

        fn start(&self) -> pb::RestoreRequest {
            Asked::Start { database: self.target().to_str().unwrap().to_owned() }.encode()
        }

        /// Says all of `requests` without waiting for an answer; gives the answers and how it ended.
        fn say(&self, requests: Vec<pb::RestoreRequest>) -> (Vec<Reply>, Option<Fault>) {
            let talk = async {
                let mut client = PullbackClient::connect(self.address.clone()).await.unwrap();
                let called = client.restore(tokio_stream::iter(requests)).await;
                let mut replies = Vec::new();
                let mut stream = match called {
                    Ok(called) => called.into_inner(),
                    Err(status) => return (replies, Some(Fault::from_status(&status))),
                };
                loop {
                    match stream.message().await {
                        Ok(Some(reply)) => replies.push(Reply::decode(reply).unwrap()),
                        Ok(None) => return (replies, None),
                        Err(status) => return (replies, Some(Fault::from_status(&status))),
                    }
                }
            };
            self.runtime
                .block_on(async { tokio::time::timeout(LIMIT, talk).await })
                .expect("an answer in time")
        }

        /// `requests` are refused with `kind` and a sentence that says `word`; nothing is changed or left.
        #[track_caller]
        fn refuses(&self, what: &str, requests: Vec<pb::RestoreRequest>, kind: Kind, word: &str) {
            let (replies, fault) = self.say(requests);
            assert!(!replies.iter().any(|reply| matches!(reply, Reply::Restored(_))), "{what}: restored");
            let fault = fault.unwrap_or_else(|| panic!("{what}: no sentence"));
            assert_eq!(fault.kind, kind, "{what}: {fault:?}");
            assert!(fault.message.contains(word), "{what}: {fault:?}");
            assert!(fault.message.len() < 10_000, "{what}: a sentence of {} bytes", fault.message.len());
            assert!(std::fs::read(self.target()).unwrap() == self.before, "{what}: the target was changed");
            for (dir, files) in [("state", 0), ("data", 1)] {
                let found = std::fs::read_dir(self.dir.path().join(dir)).unwrap().flatten();
                // The mirror, as each pull makes it.
                let left: Vec<_> = found.filter(|entry| entry.file_name() != "mirrors").collect();
                assert_eq!(left.len(), files, "{what}: {left:?}");
            }
        }
    }

    /// Content that is what it says: its pages, in one frame.
    fn content() -> (Content, Frame) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
            .unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let geometry = Geometry::new(4096, (bytes.len() / 4096) as u32).unwrap();
        make_canonical(&mut bytes[..4096], geometry.page_count);
        let mut hasher = SnapshotHasher::new(geometry);
        let mut builder = FrameBuilder::new(geometry.page_size, FrameKind::Plain, Compression::None).unwrap();
        for (number, page) in (1..).zip(bytes.chunks(4096)) {
            let hash = PageHash::of(page);
            hasher.push(hash);
            assert!(builder.push(PageNo::new(number).unwrap(), page, hash).unwrap().is_none());
        }
        let frame = builder.finish().unwrap().unwrap();
        let (base, journal) = (None, Journal::Rollback);
        (Content { snapshot: hasher.finish(), geometry, base, journal, mode: 0o600, local_path: None }, frame)
    }

    fn apply(tables: Vec<String>) -> pb::RestoreRequest {
        Asked::Apply(Apply { safety: Some(SnapshotId([7; 32])), tables, ..Apply::default() }).encode()
    }

    #[test]
    fn what_is_out_of_turn_or_makes_no_sense_is_refused_with_a_sentence() {
        let scene = Scene::new();
        let (content, frame) = content();
        let start = || scene.start();
        let says = |content: Content| Asked::Content(content).encode();
        let is = || says(content.clone());
        let frame_is = |frame: Frame| Asked::Frame(frame).encode();
        let pages = || frame_is(frame.clone());
        let end = || Asked::End.encode();
        let wrong = |change: fn(&mut Content)| {
            let mut content = content.clone();
            change(&mut content);
            says(content)
        };
        let broken = "broke the protocol";
        let protocol = Kind::Protocol;
        scene.refuses("silence", vec![], protocol, "stopped talking");
        scene.refuses("no start", vec![is()], protocol, "RestoreStart");
        scene.refuses("empty", vec![pb::RestoreRequest { is: None }], protocol, "empty");
        scene.refuses("start twice", vec![start(), start()], protocol, broken);
        scene.refuses("apply before content", vec![start(), apply(vec![])], protocol, broken);
        scene.refuses("frame before content", vec![start(), pages()], protocol, broken);
        scene.refuses("content twice", vec![start(), is(), is()], protocol, broken);
        scene.refuses("apply for pages", vec![start(), is(), apply(vec![])], protocol, broken);
        scene.refuses("no pages", vec![start(), is(), end()], protocol, "page 1 is missing");
        scene.refuses("pages twice", vec![start(), is(), pages(), pages()], protocol, "comes twice");
        scene.refuses("end twice", vec![start(), is(), pages(), end(), end()], protocol, broken);
        scene.refuses(
            "gone before the word",
            vec![start(), is(), pages(), end()],
            protocol,
            "stopped talking",
        );
        scene.refuses("gone among pages", vec![start(), is(), pages()], protocol, "stopped talking");
        let path = wrong(|content| content.local_path = Some("/etc/passwd".to_owned()));
        scene.refuses("a path of its own", vec![start(), path], protocol, "a path");
        let huge = wrong(|content| content.geometry = Geometry::new(65536, 4_000_000_000).unwrap());
        scene.refuses("pages without end", vec![start(), huge], Kind::NoSpace, "bytes");
        let more = wrong(|content| content.geometry = Geometry::new(4096, 9).unwrap());
        scene.refuses("pages that do not come", vec![start(), more, pages(), end()], protocol, "is missing");
        let fewer = wrong(|content| content.geometry = Geometry::new(4096, 1).unwrap());
        scene.refuses("a page beyond", vec![start(), fewer, pages(), end()], protocol, "1");
        let other = wrong(|content| content.snapshot = SnapshotId([1; 32]));
        scene.refuses("other content", vec![start(), other, pages(), end()], Kind::Unproven, "not the copy");
        let base = wrong(|content| content.base = Some((SnapshotId([1; 32]), u32::MAX)));
        let based = vec![start(), base, pages(), end(), apply(vec!["u".to_owned()])];
        scene.refuses("a base that is not there", based, Kind::Unknown, "no table `u`");
        let flipped = frame_is(Frame { check: frame.check ^ 1, ..frame.clone() });
        scene.refuses("a flipped frame", vec![start(), is(), flipped], protocol, broken);
        for (what, names) in
            [("a long name", vec!["\u{1b}x".repeat(400_000)]), ("long names", vec!["n".repeat(900); 1000])]
        {
            let requests = vec![start(), is(), pages(), end(), apply(names)];
            scene.refuses(what, requests, Kind::Unknown, "no table");
        }
        let many = vec![start(), is(), pages(), end(), apply(vec!["t".to_owned(); 1001])];
        scene.refuses("names without end", many, protocol, "1001 tables");
        // After all that, one that keeps to its turns is served.
        let (replies, fault) = scene.say(vec![start(), is(), pages(), end(), apply(vec![])]);
        assert!(fault.is_none(), "{fault:?}");
        assert!(
            matches!(replies.last(), Some(Reply::Restored(restored)) if restored.snapshot == content.snapshot)
        );
    }
}
