//! An agent that is not there, is no agent, stops, dies or does not know the database: the pull ends within five seconds
//! with a sentence and the documented exit code, and no copy comes of it.

use pullback_tests::dice::Dice;
use pullback_tests::folder::Folder;
use pullback_tests::sandbox::{Pulled, Running, Sandbox, signal, wait_until};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases, programs};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a pull may take to end in any of these cases.
const LIMIT: Duration = Duration::from_secs(5);

/// A database large enough to be stopped in the middle.
const LARGE: usize = 48 << 20;

/// Pulls `source`, which fails as it must, and looks whether that left anything.
#[track_caller]
fn check(sandbox: &Sandbox, arguments: &[&str], code: &str, exit: i32, says: &str) {
    let before = Folder::of(&sandbox.store());
    let failed = sandbox.pull(arguments).fails(code, exit);
    tells(&failed, says);
    before.assert_unchanged(&Folder::of(&sandbox.store()), &format!("the store, by {}", failed.ran));
}

#[track_caller]
fn tells(failed: &Pulled, says: &str) {
    let stderr = &failed.ran.stderr;
    assert!(stderr.contains(says) && stderr.contains("hint: "), "`{says}` on stderr of {}", failed.ran);
}

#[test]
fn an_unknown_database_is_said_with_those_that_are_known() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let (gym, shop) = (sandbox.db("gym.db"), sandbox.db("shop.db"));
    databases::gym(&gym, 100_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &gym), ("shop", &shop)]);
    let known = "the agent serves: gym, shop";
    for name in ["yoga", "gym.db", "GYM", "../gym", "gym/", "gym\u{1b}[2J"] {
        check(&sandbox, &[&served.source(name)], "unknown", 10, known);
    }
    assert!(Folder::of(&sandbox.store()).is_absent(), "no store is made for a database that is not there");
}

#[test]
fn an_agent_that_is_not_there_is_unreachable() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("{}/gym", listener.local_addr().unwrap());
    drop(listener);
    check(&sandbox, &[&source], "unreachable", 5, "cannot be reached");
    assert!(Folder::of(&sandbox.store()).is_absent());
}

#[test]
fn a_host_without_a_name_is_unreachable() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    check(&sandbox, &["no-such-host.invalid:7420/gym"], "unreachable", 5, "cannot be reached");
}

/// Until there is mutual TLS, nothing goes over a network.
#[test]
fn another_machine_is_refused() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    check(&sandbox, &["192.0.2.1:7420/gym"], "refused", 6, "another machine");
}

/// The connection is made by the system, and nobody ever looks at it.
#[test]
fn a_port_that_nobody_answers_is_unreachable() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("{}/gym", listener.local_addr().unwrap());
    check(&sandbox, &["--timeout", "2s", &source], "unreachable", 5, "");
    check(&sandbox, &[&source], "unreachable", 5, "");
}

#[test]
fn another_programs_port_is_no_agent() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("{}/gym", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection can be taken");
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    check(&sandbox, &[&source], "unreachable", 5, "");
}

#[test]
fn a_second_agent_on_one_port_says_that_it_is_taken() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = sandbox.file("second.toml");
    let address = listener.local_addr().unwrap();
    fs::write(&config, format!("listen = \"{address}\"\ntls = \"off\"\n")).unwrap();
    let ran = sandbox.agent(&[Path::new("serve"), Path::new("--config"), &config]).exits(1);
    assert!(ran.stderr.contains("another agent may run already"), "{ran}");
}

/// An agent that is stopped where it is, and goes on when the value goes.
struct Stopped(u32);

impl Stopped {
    fn now(served: &Served<'_>) -> Self {
        signal(served.pid(), Signal::STOP);
        Self(served.pid())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// Whatever `--timeout` says: the first answer of an agent never takes long.
#[test]
fn an_agent_that_stands_still_is_unreachable_at_first_and_later() {
    let sandbox = Sandbox::new().with_limit(LIMIT);
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let source = served.source("gym");
    let stands_still = |arguments: &[&str]| {
        let _stopped = Stopped::now(&served);
        let failed = sandbox.pull(arguments);
        assert!(matches!(failed.error.as_str(), "unreachable" | "lost"), "{}", failed.ran);
        assert_eq!(failed.ran.code(), 5, "{}", failed.ran);
        tells(&failed, "");
    };
    for timeout in ["2s", "20s"] {
        stands_still(&["--timeout", timeout, &source]);
    }
    assert!(Folder::of(&sandbox.store()).is_absent(), "no store is made before an agent answered");
    let stored = sandbox.pull(&[&source]).succeeds("stored");
    for timeout in ["2s", "20s"] {
        stands_still(&["--timeout", timeout, &source]);
    }
    // It goes on as if nothing had been.
    let again = sandbox.pull(&[&source]).succeeds("unchanged");
    assert_eq!(again.copy, stored.copy, "{}", again.ran);
}

/// A pull of a large database that has begun to arrive, and the agent that sends it.
struct Midway<'a> {
    sandbox: &'a Sandbox,
    served: Served<'a>,
    good: Pulled,
    running: Running,
}

impl<'a> Midway<'a> {
    /// First a small database is pulled whole; then it grows, and what grew begins to arrive.
    fn start(sandbox: &'a Sandbox) -> Self {
        let source = sandbox.db("gym.db");
        databases::gym(&source, 100_000, 4096);
        let served = Served::start_with(sandbox, &[("gym", &source)], "compression = \"none\"");
        let good = sandbox.pull(&[served.source("gym")]).succeeds("stored");
        let db = databases::create(&source, "CREATE TABLE photos(body BLOB)");
        let mut dice = Dice::new(2);
        for _ in 0..16 {
            db.execute("INSERT INTO photos VALUES (?1)", [dice.bytes(LARGE / 16)])
                .expect("a row can be written");
        }
        drop(db);
        let mut command = sandbox.command(programs::puller());
        command.args(["pull", "--json", "--timeout", "2s", "--store"]).arg(sandbox.store());
        let running = sandbox.start(command.arg(served.source("gym")));
        let midway = Self { sandbox, served, good, running };
        wait_until("the first of the large database", || midway.arrived() > 0);
        midway
    }

    /// Bytes of the draft that are on the disk.
    fn arrived(&self) -> u64 {
        let draft = self.good.path.with_file_name("draft-new.db");
        draft.metadata().map_or(0, |metadata| metadata.blocks() * 512)
    }

    /// Waits for the end, which must come soon after the agent's.
    #[track_caller]
    fn fails(self) {
        let arrived = self.arrived();
        assert!(arrived < LARGE as u64, "{arrived} bytes had arrived: that was not in the middle");
        let Self { sandbox, mut served, good, running } = self;
        let stopped = Instant::now();
        let failed = Pulled::from_run(running.finish()).fails("lost", 5);
        assert!(stopped.elapsed() < LIMIT, "{:?} after the agent, of {}", stopped.elapsed(), failed.ran);
        tells(&failed, "");
        let list = sandbox.puller(&["list", "--json"]).exits(0);
        assert_eq!(list.only_json()["copy"], *good.copy, "the good copy, and no other, of {list}");
        sandbox.puller(&["verify", "--all"]).exits(0);
        served.restart();
        let stored = sandbox.pull(&[served.source("gym")]).succeeds("stored");
        contents::assert_equal(&sandbox.db("gym.db"), &stored.path);
        assert_eq!(stored.verdict, "ok", "{}", stored.ran);
    }
}

#[test]
fn an_agent_that_is_killed_in_the_middle_is_lost_and_the_next_pull_is_whole() {
    let sandbox = Sandbox::new();
    let mut midway = Midway::start(&sandbox);
    midway.served.kill9();
    midway.fails();
}

#[test]
fn an_agent_that_stands_still_in_the_middle_is_lost_and_the_next_pull_is_whole() {
    let sandbox = Sandbox::new();
    let midway = Midway::start(&sandbox);
    signal(midway.served.pid(), Signal::STOP);
    midway.fails();
}
