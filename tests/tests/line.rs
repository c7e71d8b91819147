//! The line between an agent and a puller: slow ones are waited for, and small words are sent at once.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Sandbox, signal};
use pullback_tests::served::Served;
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_line_in_whose_buffers_data_waits_for_half_a_minute_is_not_given_up() {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(400));
    let source = sandbox.db("gym.db");
    databases::gym(&source, 21_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let relay = Relay::to(served.address());
    // Linux keeps 4 MiB for a line, and a sign of life waits behind them, as it does in front of an ssh tunnel.
    relay.pace(Some(90_000));
    let pulled = sandbox.pull(&[&format!("{}/gym", relay.address())]).succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
}

/// Otherwise the last words of an answer wait until the other side acknowledges those before, which takes 40 ms on Linux.
#[test]
fn the_agent_sends_small_words_at_once() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let trace = sandbox.file("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=setsockopt", "-p", &served.pid().to_string(), "-o"]).arg(&trace);
    let Ok(mut strace) = strace.stderr(Stdio::piped()).spawn() else {
        eprintln!("SKIPPED: there is no strace on this machine");
        return;
    };
    let mut said = String::new();
    let stderr = strace.stderr.take().expect("strace's stderr is a pipe");
    BufReader::new(stderr).read_line(&mut said).expect("strace says something");
    assert!(said.contains("attached"), "{said}");
    sandbox.pull(&[&served.source("gym")]).succeeds("stored");
    signal(strace.id(), Signal::TERM);
    strace.wait().expect("strace can be waited for");
    let traced = std::fs::read_to_string(&trace).expect("strace writes its file");
    assert!(traced.contains("TCP_NODELAY, [1]"), "{traced}");
}
