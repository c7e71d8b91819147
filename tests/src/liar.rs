//! An agent that lies: a real gRPC server on loopback whose every word the test makes up.

use pullback_shared::frame::{FRAME_BYTES_MAX, check_of};
use pullback_shared::page::{Geometry, PageHash};
use pullback_shared::pb;
use pullback_shared::pb::pull_reply::Is;
use pullback_shared::pb::pullback_server::{Pullback, PullbackServer};
use pullback_shared::snapshot::{SnapshotHasher, SnapshotId};
use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// What the agent says next in a pull, or how the call ends.
pub type Reply = Result<pb::PullReply, Status>;

/// All it says in one pull. It may go on for ever.
pub type Replies = Box<dyn Iterator<Item = Reply> + Send>;

/// What it answers to the start of a pull.
pub type Pulls = Arc<dyn Fn(pb::Start) -> Replies + Send + Sync>;

/// The agent, which goes away with the value.
pub struct Liar {
    stub: Stub,
    address: String,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Stub {
    info: Arc<Mutex<Result<pb::InfoReply, Status>>>,
    pulls: Arc<Mutex<Pulls>>,
    calls: Arc<AtomicUsize>,
}

impl Liar {
    /// One that has nothing to say yet.
    #[expect(clippy::new_without_default, reason = "listening is no default value")]
    pub fn new() -> Self {
        let stub = Stub {
            info: Arc::new(Mutex::new(Ok(true_info()))),
            pulls: Arc::new(Mutex::new(Arc::new(|_| Box::new(std::iter::empty())))),
            calls: Arc::default(),
        };
        let runtime = Runtime::new().expect("a runtime can be made");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address").to_string();
        let served = Server::builder().add_service(PullbackServer::new(stub.clone()));
        runtime.spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { stub, address, runtime: Some(runtime) }
    }

    /// How puller spells its database.
    pub fn source(&self) -> String {
        format!("{}/gym", self.address)
    }

    /// From now on it answers each pull with what `pulls` makes of its start.
    pub fn pulls(&self, pulls: impl Fn(pb::Start) -> Replies + Send + Sync + 'static) {
        *self.stub.pulls.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pulls);
    }

    /// From now on it answers each pull with `replies`.
    pub fn says(&self, replies: Vec<Reply>) {
        self.pulls(move |_| Box::new(replies.clone().into_iter()));
    }

    /// What it answers when it is asked what is there.
    pub fn informs(&self, reply: Result<pb::InfoReply, Status>) {
        *self.stub.info.lock().unwrap_or_else(PoisonError::into_inner) = reply;
    }

    /// How many pulls were asked for.
    pub fn calls(&self) -> usize {
        self.stub.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        // Some of its answers never end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl Pullback for Stub {
    type PullStream = Pin<Box<dyn Stream<Item = Reply> + Send>>;
    type RestoreStream = Pin<Box<dyn Stream<Item = Result<pb::RestoreReply, Status>> + Send>>;

    async fn info(&self, _: Request<pb::InfoRequest>) -> Result<Response<pb::InfoReply>, Status> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Response::new)
    }

    async fn pull(
        &self,
        request: Request<Streaming<pb::PullRequest>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|message| message.is);
        let Some(pb::pull_request::Is::Start(start)) = first else {
            return Err(Status::invalid_argument("no start"));
        };
        tokio::spawn(async move { while let Ok(Some(_)) = requests.message().await {} });
        let pulls = Arc::clone(&self.pulls.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Response::new(Box::pin(tokio_stream::iter(pulls(start)))))
    }

    async fn restore(
        &self,
        _: Request<Streaming<pb::RestoreRequest>>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        Err(Status::unimplemented("it restores nothing"))
    }
}

/// What an honest agent answers when it is asked what is there.
pub fn true_info() -> pb::InfoReply {
    let database = pb::DatabaseInfo {
        name: "gym".to_owned(),
        path: "/home/pi/gym.db".to_owned(),
        journal: "wal".to_owned(),
        ..pb::DatabaseInfo::default()
    };
    pb::InfoReply { protocol: 1, databases: vec![database], ..pb::InfoReply::default() }
}

/// What `is` is as a reply.
pub fn say(is: Is) -> Reply {
    Ok(pb::PullReply { is: Some(is) })
}

/// Content that could be told truly.
#[derive(Clone)]
pub struct Content {
    /// Its shape.
    pub geometry: Geometry,
    bytes: Vec<u8>,
}

impl Content {
    /// That of the database at `path`, which nobody has open.
    pub fn of(path: &Path) -> Self {
        let bytes = fs::read(path).expect("a database can be read");
        let size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65536,
            size => u32::from(size),
        };
        Self::new(size, bytes)
    }

    /// That of `bytes`, whatever they are.
    pub fn new(page_size: u32, bytes: Vec<u8>) -> Self {
        let count = u32::try_from(bytes.len()).expect("databases of tests are small") / page_size;
        Self { geometry: Geometry::new(page_size, count).expect("a shape that SQLite has"), bytes }
    }

    fn hashes(&self, first: u32, count: u32) -> Vec<PageHash> {
        self.pages(first, count).chunks(self.geometry.page_size.as_usize()).map(PageHash::of).collect()
    }

    /// `count` pages from page `first` on.
    pub fn pages(&self, first: u32, count: u32) -> &[u8] {
        let size = self.geometry.page_size.as_usize();
        &self.bytes[(first as usize - 1) * size..][..count as usize * size]
    }

    /// Its name.
    pub fn snapshot(&self) -> SnapshotId {
        let mut hasher = SnapshotHasher::new(self.geometry);
        self.hashes(1, self.geometry.page_count).into_iter().for_each(|hash| hasher.push(hash));
        hasher.finish()
    }

    /// A true offer of all of it.
    pub fn offer(&self) -> pb::Offer {
        pb::Offer {
            snapshot_id: self.snapshot().0.to_vec().into(),
            page_size: self.geometry.page_size.get(),
            page_count: self.geometry.page_count,
            delta: false,
            full_because: "there is no earlier copy".to_owned(),
            pages: self.geometry.page_count,
            bytes: self.bytes.len() as u64,
            source: Some(pb::SourceFacts {
                path: "/home/pi/gym.db".to_owned(),
                journal: "wal".to_owned(),
                mode: 0o644,
                agent_version: "0.1.0".to_owned(),
                sqlite_version: "3.50.0".to_owned(),
                file_bytes: self.bytes.len() as u64,
                ..pb::SourceFacts::default()
            }),
            no_mirror_because: String::new(),
        }
    }

    /// A true frame of `count` pages from page `first` on.
    pub fn frame(&self, first: u32, count: u32) -> pb::Frame {
        let payload = zstd::bulk::compress(self.pages(first, count), 1).expect("pages can be compressed");
        pb::Frame {
            runs: vec![first, count],
            compression: pb::Compression::Zstd.into(),
            payload: payload.into(),
            check: check_of(&self.hashes(first, count)),
            encoding: pb::Encoding::Plain.into(),
            ..pb::Frame::default()
        }
    }

    /// True frames of all of it.
    pub fn frames(&self) -> Vec<Reply> {
        let most = (FRAME_BYTES_MAX / self.geometry.page_size.as_usize()) as u32;
        let firsts = (1..=self.geometry.page_count).step_by(most as usize);
        let count = |first| most.min(self.geometry.page_count + 1 - first);
        firsts.map(|first| say(Is::Frame(self.frame(first, count(first))))).collect()
    }

    /// A true end.
    pub fn done(&self) -> pb::Done {
        pb::Done { snapshot_id: self.snapshot().0.to_vec().into(), held_micros: 1, ..pb::Done::default() }
    }

    /// What an honest agent says to a puller that has nothing.
    pub fn told(&self) -> Vec<Reply> {
        let mut told = vec![say(Is::Offer(self.offer()))];
        told.extend(self.frames());
        told.push(say(Is::Done(self.done())));
        told
    }
}
