//! An agent that breaks its word during a restore: each run ends, with a sentence, and nothing that it says becomes a path.

use pullback_agent::service::{Agent, Databases};
use pullback_agent::settings::Settings;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::Journal;
use pullback_shared::page::Geometry;
use pullback_shared::pb;
use pullback_shared::pb::pullback_server::{Pullback, PullbackServer};
use pullback_shared::restoring::{Facts, Reply, Target, There};
use puller::address::Address;
use puller::client::Client;
use puller::judge::Verify;
use puller::pull::{Options, Run, Watch};
use puller::put_back::{Begun, Done, Folder, What};
use puller::source_dir::SourceDir;
use puller::ssh::Door;
use puller::store::{KnownStores, Store};
use puller::unpacked::Unpacked;
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
    Reply::Target(Box::new(Target { path: "/srv/gym.db".into(), there, disk_free: 1 << 40, finished: None }))
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
