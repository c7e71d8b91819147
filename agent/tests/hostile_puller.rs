//! A puller that is broken, or means harm, says what it likes on the stream of a restore: it gets a sentence, and nothing is
//! changed, kept or left behind.

use pullback_agent::service::{Agent, Databases};
use pullback_agent::settings::Settings;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Compression, Frame, FrameBuilder, Kind as FrameKind};
use pullback_shared::header::{Journal, make_canonical};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::pb;
use pullback_shared::pb::pullback_client::PullbackClient;
use pullback_shared::restoring::{Apply, Content, Reply, Request};
use pullback_shared::snapshot::{SnapshotHasher, SnapshotId};
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;
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
        Request::Start { database: self.target().to_str().unwrap().to_owned() }.encode()
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
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, talk).await }).expect("an answer in time")
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
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
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
    Request::Apply(Apply { safety: Some(SnapshotId([7; 32])), tables, ..Apply::default() }).encode()
}

#[test]
fn what_is_out_of_turn_or_makes_no_sense_is_refused_with_a_sentence() {
    let scene = Scene::new();
    let (content, frame) = content();
    let start = || scene.start();
    let says = |content: Content| Request::Content(content).encode();
    let is = || says(content.clone());
    let frame_is = |frame: Frame| Request::Frame(frame).encode();
    let pages = || frame_is(frame.clone());
    let end = || Request::End.encode();
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
    scene.refuses("gone before the word", vec![start(), is(), pages(), end()], protocol, "stopped talking");
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
