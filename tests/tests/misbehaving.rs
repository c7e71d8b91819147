//! Peers that misbehave cost others nothing: an honest puller is served meanwhile, and afterwards the agent is as it was.

use prost::Message;
use pullback_shared::pb;
use pullback_tests::databases;
use pullback_tests::guarded::{Guarded, NAME};
use pullback_tests::http2::{CONTINUATION, DATA, END_HEADERS, HEADERS, Http2, RST_STREAM, headers};
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Sandbox, wait_until};
use pullback_tests::tls::{Greeting, SERVER_NAME};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;
use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use tokio::runtime::Builder;

/// How long the pull of a small database may take beside any misbehaviour: a limit, and no measure of speed.
const HONEST_MAX: Duration = Duration::from_secs(30);

/// How many may misbehave at once.
const MANY: usize = 200;

/// What the agent may have more of afterwards: threads that wait a little for more work, what the system gives back late.
const THREADS_SLACK: u64 = 4;
const DESCRIPTORS_SLACK: u64 = 4;
const MEMORY_SLACK: u64 = 64 << 20;

/// What the log may say of any of this.
const LOG_MAX: u64 = 128 * 1024;

/// How long a write may be stuck until whoever writes gives up.
const STUCK: Duration = Duration::from_secs(3);

/// An agent with a small and a large database, an honest puller, and one that is not.
struct Scene {
    honest: Sandbox,
    bad: Sandbox,
    address: String,
    child: Child,
    tls: bool,
}

impl Scene {
    #[track_caller]
    fn new(tls: bool) -> Self {
        let (honest, bad) = (Sandbox::new().with_limit(HONEST_MAX), Sandbox::new());
        let (small, large) = (honest.db("gym.db"), honest.db("large.db"));
        databases::gym(&small, 100_000, 4096);
        databases::gym(&large, 100_000, 4096);
        databases::add_noise(&large, 32 << 20);
        let address = TcpListener::bind("127.0.0.1:0")
            .expect("a test can do that")
            .local_addr()
            .expect("a test can do that")
            .to_string();
        let config = honest.file("agent.toml");
        let quoted =
            |path: PathBuf| toml::Value::from(path.to_str().expect("a test can do that")).to_string();
        let mut text = format!(
            "listen = \"{address}\"\nname = \"pi\"\nreserve = \"0\"\nmax_state = \"200M\"\nstate_dir = {}\n[database.gym]\npath = {}\n[database.large]\npath = {}\n",
            quoted(honest.state()),
            quoted(small.clone()),
            quoted(large),
        );
        if !tls {
            text = format!("tls = \"off\"\n{text}");
        }
        fs::write(&config, text).expect("a test can do that");
        if tls {
            honest
                .agent(&[
                    "--config",
                    config.to_str().expect("a test can do that"),
                    "init",
                    "--database",
                    small.to_str().expect("a test can do that"),
                ])
                .exits(0);
        }
        let log = File::create(honest.file("agent.log")).expect("a test can do that");
        let mut command = honest.command(programs::agent());
        command.arg("serve").arg("--config").arg(&config).stdout(Stdio::null()).stderr(log);
        let scene = Self { child: command.spawn().expect("a test can do that"), address, tls, honest, bad };
        wait_until("the agent", || TcpStream::connect(&scene.address).is_ok());
        if tls {
            for sandbox in [&scene.honest, &scene.bad] {
                let agent = |command: &str| {
                    scene.honest.agent(&["--config", config.to_str().expect("a test can do that"), command])
                };
                let code = agent("pair").exits(0).stdout;
                sandbox.puller(&["pair", code.trim(), "--name", "pi"]).exits(0);
            }
        }
        scene
    }

    fn source(&self) -> String {
        if self.tls { "pi/gym".to_owned() } else { format!("{}/gym", self.address) }
    }

    /// A connection, as far as TCP.
    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("a test can do that");
        stream.set_write_timeout(Some(STUCK)).expect("a test can do that");
        stream.set_read_timeout(Some(STUCK)).expect("a test can do that");
        stream
    }

    /// A client that shows what the bad puller was given.
    fn client(&self) -> ClientConnection {
        let file = self.bad.file("home/xdg_config_home/pullback/agents/pi.json");
        let paired: serde_json::Value =
            serde_json::from_slice(&fs::read(file).expect("a test can do that")).expect("a test can do that");
        let pem = |name: &str| paired[name].as_str().expect("a test can do that").as_bytes().to_vec();
        let certificate = CertificateDer::from_pem_slice(&pem("certificate")).expect("a test can do that");
        let key = PrivateKeyDer::from_pem_slice(&pem("key")).expect("a test can do that");
        let greeting = Greeting { shows: Some((vec![certificate], key)), ..Greeting::without() };
        let name = ServerName::try_from(SERVER_NAME).expect("a test can do that");
        ClientConnection::new(Arc::new(greeting.config()), name).expect("a test can do that")
    }

    /// A connection of the bad puller, in which calls may be made.
    fn http2(&self) -> io::Result<Http2<Box<dyn Stream>>> {
        let stream: Box<dyn Stream> = match self.tls {
            true => Box::new(StreamOwned::new(self.client(), self.tcp())),
            false => Box::new(self.tcp()),
        };
        Http2::start(stream)
    }

    fn usage(&self) -> Option<Usage> {
        let pid = self.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Usage { threads: number("Threads:")?, descriptors, memory: number("VmRSS:")? * 1024 })
    }

    /// Commits something, and pulls it as the honest puller.
    #[track_caller]
    fn is_served(&self, meanwhile: &str) {
        let db = rusqlite::Connection::open(self.honest.db("gym.db")).expect("a test can do that");
        db.execute_batch("CREATE TABLE IF NOT EXISTS word(a); INSERT INTO word VALUES (1)")
            .expect("a test can do that");
        drop(db);
        let started = Instant::now();
        let pulled = self.honest.pull(&[self.source()]).succeeds("stored");
        assert_eq!(pulled.verdict, "ok", "{meanwhile}: {}", pulled.ran);
        eprintln!("{meanwhile}: an honest pull took {:?}", started.elapsed());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "the agent's log:\n{}",
                fs::read_to_string(self.honest.file("agent.log")).unwrap_or_default()
            );
        }
    }
}

#[derive(Debug)]
struct Usage {
    threads: u64,
    descriptors: u64,
    memory: u64,
}

trait Stream: io::Read + io::Write + Send {}

impl<T: io::Read + io::Write + Send> Stream for T {}

/// What goes on, or is held open, until the value goes.
#[derive(Default)]
struct Held {
    kept: Vec<Box<dyn Any>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Held {
    fn keep(&mut self, what: impl Any) {
        self.kept.push(Box::new(what));
    }

    /// Does `work` again and again.
    fn repeat(&mut self, mut work: impl FnMut() + Send + 'static) {
        let over = Arc::clone(&self.over);
        self.threads.push(std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                work();
            }
        }));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a test can do that"));
    }
}

/// While `misbehave` goes on, an honest puller is served; once it is over, the agent is as it was.
#[track_caller]
fn costs_nothing(what: &str, tls: bool, misbehave: impl FnOnce(&Arc<Scene>, &mut Held)) {
    let scene = Arc::new(Scene::new(tls));
    scene.is_served("before");
    let base = scene.usage();
    let mut held = Held::default();
    misbehave(&scene, &mut held);
    scene.is_served(what);
    scene.is_served(what);
    drop(held);
    let Some(base) = base else {
        eprintln!("SKIPPED: what the agent takes of the system is not looked at here: there is no /proc");
        return;
    };
    eprintln!("{what}: before {base:?}, right after {:?}", scene.usage());
    wait_until("the agent to be as it was", || {
        let now = scene.usage().expect("the agent runs");
        now.threads <= base.threads + THREADS_SLACK
            && now.descriptors <= base.descriptors + DESCRIPTORS_SLACK
            && now.memory <= base.memory + MEMORY_SLACK
    });
    scene.is_served("afterwards");
    let log = fs::metadata(scene.honest.file("agent.log")).expect("a test can do that").len();
    assert!(log <= LOG_MAX, "{what}: a log of {log} bytes");
    eprintln!("{what}: {:?} afterwards, {log} bytes of log", scene.usage());
}

#[test]
fn connections_that_say_nothing_cost_nothing() {
    for tls in [true, false] {
        costs_nothing("200 connections that say nothing", tls, |scene, held| {
            (0..MANY).for_each(|_| held.keep(scene.tcp()));
        });
    }
}

#[test]
fn handshakes_of_a_byte_a_second_cost_nothing() {
    costs_nothing("slow handshakes", true, |scene, held| {
        let mut hello = Vec::new();
        scene.client().write_tls(&mut hello).expect("a test can do that");
        let mut streams: Vec<TcpStream> = (0..MANY).map(|_| scene.tcp()).collect();
        let mut bytes = hello.into_iter();
        held.repeat(move || {
            if let Some(byte) = bytes.next() {
                // Those that the agent gave up are gone.
                streams.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
            }
            std::thread::sleep(Duration::from_secs(1));
        });
    });
}

#[test]
fn a_flood_from_one_machine_keeps_no_slow_line_out() {
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], 0));
    if TcpListener::bind(elsewhere).is_err() {
        eprintln!("SKIPPED: this system has no second address of its own to flood from");
        return;
    }
    let sandbox = Sandbox::new().with_limit(HONEST_MAX);
    let guarded = Guarded::paired(&sandbox);
    // A handshake takes far longer over it than the flood takes to fill all there is room for.
    let relay = Relay::to(guarded.served.address());
    relay.pace(Some(2_000));
    guarded.rewrite("addresses", json!([relay.address()]));
    let to: SocketAddr = guarded.served.address().parse().expect("a test can do that");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a test can do that");
    let mut held = Held::default();
    held.repeat(move || {
        let connections = async {
            let mut open = Vec::new();
            for _ in 0..MANY {
                let socket = TcpSocket::new_v4()?;
                socket.bind(elsewhere)?;
                open.push(socket.connect(to).await?);
            }
            Ok::<_, io::Error>(open)
        };
        // Each takes a port for a minute: where there are none left, it floods a little less.
        drop(runtime.block_on(connections));
        std::thread::sleep(Duration::from_millis(100));
    });
    let crowd = || guarded.served.log().contains("the oldest from 127.0.0.2 goes");
    wait_until("the flood to be noticed", crowd);
    for _ in 0..3 {
        sandbox.puller(&["info", NAME]).exits(0);
    }
}

#[test]
fn idle_connections_of_one_peer_cost_others_nothing() {
    costs_nothing("200 idle connections of a peer", true, |scene, held| {
        for _ in 0..MANY {
            // An older one may be closed while this one begins.
            if let Ok(http2) = scene.http2() {
                held.keep(http2);
            }
        }
    });
}

#[test]
fn calls_that_are_given_up_at_once_cost_others_nothing() {
    for tls in [true, false] {
        costs_nothing("rapid resets", tls, |scene, held| {
            for path in ["/pullback.v1.Pullback/Pull", "/pullback.v1.Pullback/Info"] {
                let scene = Arc::clone(scene);
                held.repeat(move || {
                    let Ok(mut http2) = scene.http2() else { return };
                    let flood = |http2: &mut Http2<Box<dyn Stream>>| -> io::Result<()> {
                        for _ in 0..10_000 {
                            let stream = http2.call(path)?;
                            http2.frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())?;
                        }
                        http2.io.flush()
                    };
                    // The agent breaks off.
                    let _ = flood(&mut http2);
                });
            }
        });
    }
}

fn start(database: &str, base: Option<pb::Base>) -> Vec<u8> {
    let start = pb::Start { protocol: 1, database: database.to_owned(), base, ..pb::Start::default() };
    pb::PullRequest { is: Some(pb::pull_request::Is::Start(start)) }.encode_to_vec()
}

#[test]
fn pulls_that_nobody_reads_cost_others_nothing() {
    costs_nothing("pulls that nobody reads", true, |scene, held| {
        for _ in 0..16 {
            let mut http2 = scene.http2().expect("a test can do that");
            for _ in 0..4 {
                let stream = http2.call("/pullback.v1.Pullback/Pull").expect("a test can do that");
                http2.say(stream, &start("large", None), false).expect("a test can do that");
            }
            held.keep(http2);
        }
        // They are under way.
        std::thread::sleep(Duration::from_secs(1));
    });
}

#[test]
fn requests_that_never_end_cost_others_nothing() {
    costs_nothing("requests that never end", true, |scene, held| {
        for path in ["/pullback.v1.Pullback/Info", "/pullback.v1.Pullback/Pull"] {
            for _ in 0..7 {
                let mut http2 = scene.http2().expect("a test can do that");
                for _ in 0..16 {
                    let stream = http2.call(path).expect("a test can do that");
                    // Of the 1,000,000 bytes that it says, 1,000 come.
                    let said = [&[0], &1_000_000u32.to_be_bytes()[..], &[0; 1000]].concat();
                    http2.frame(DATA, 0, stream, &said).expect("a test can do that");
                }
                http2.io.flush().expect("a test can do that");
                held.keep(http2);
            }
        }
        // Page hashes for ever: of the largest base that there can be.
        let mut http2 = scene.http2().expect("a test can do that");
        let base = pb::Base { page_size: 512, page_count: u32::MAX - 1, ..pb::Base::default() };
        let stream = http2.call("/pullback.v1.Pullback/Pull").expect("a test can do that");
        http2.say(stream, &start("gym", Some(base)), false).expect("a test can do that");
        let hashes = pb::HashList { hashes: vec![7; 65_536].into(), last: false };
        let hashes = pb::PullRequest { is: Some(pb::pull_request::Is::Hashes(hashes)) }.encode_to_vec();
        held.repeat(move || {
            // Slow enough for the windows, which nobody looks at here.
            let _ = http2.say(stream, &hashes, false);
            std::thread::sleep(Duration::from_millis(20));
        });
    });
}

#[test]
fn what_is_too_large_costs_others_nothing() {
    for tls in [true, false] {
        costs_nothing("messages and headers that are too large", tls, |scene, held| {
            let of_info = Arc::clone(scene);
            held.repeat(move || {
                let Ok(mut http2) = of_info.http2() else { return };
                let large = |http2: &mut Http2<Box<dyn Stream>>| -> io::Result<()> {
                    for path in ["/pullback.v1.Pullback/Info", "/pullback.v1.Pullback/Pull"] {
                        let stream = http2.call(path)?;
                        http2.frame(
                            DATA,
                            0,
                            stream,
                            &[&[0], &u32::MAX.to_be_bytes()[..], &[0; 10_000]].concat(),
                        )?;
                    }
                    let stream = http2.call("/pullback.v1.Pullback/Info")?;
                    http2.say(stream, &vec![0; 4 << 20], true)
                };
                let _ = large(&mut http2);
            });
            let of_headers = Arc::clone(scene);
            held.repeat(move || {
                let Ok(mut http2) = of_headers.http2() else { return };
                let large = |http2: &mut Http2<Box<dyn Stream>>| -> io::Result<()> {
                    let stream = http2.stream();
                    http2.frame(HEADERS, 0, stream, &headers("/pullback.v1.Pullback/Info"))?;
                    // A header of 100 bytes, over and over.
                    let header = [&[0, 4][..], b"name", &[100], &[b'x'; 100]].concat().repeat(150);
                    for _ in 0..1000 {
                        http2.frame(CONTINUATION, 0, stream, &header)?;
                    }
                    http2.frame(CONTINUATION, END_HEADERS, stream, &[])?;
                    http2.io.flush()
                };
                let _ = large(&mut http2);
            });
        });
    }
}

#[test]
fn fifty_that_count_rows_cost_others_nothing() {
    costs_nothing("50 that count rows", true, |scene, held| {
        let info = pb::InfoRequest { protocol: 1, database: "large".to_owned(), tables: true };
        for _ in 0..10 {
            let mut http2 = scene.http2().expect("a test can do that");
            for _ in 0..5 {
                let stream = http2.call("/pullback.v1.Pullback/Info").expect("a test can do that");
                http2.say(stream, &info.encode_to_vec(), true).expect("a test can do that");
            }
            held.keep(http2);
        }
    });
}
