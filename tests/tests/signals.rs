//! Ctrl-C and its like in the middle of a pull: the shell says 130 or 143, nothing half is listed, and the next run goes on.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{self, Sandbox, wait_until};
use pullback_tests::served::Served;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

#[track_caller]
fn check(signal: Signal, shell_says: i32) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 8_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let relay = Relay::to(served.address());
    relay.pace(Some(400_000));
    let typed = format!("{}/gym", relay.address());
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(["pull", &typed]);
    let running = sandbox.start(&mut command);
    wait_until("half a megabyte", || relay.from_agent() > 500_000);
    sandbox::signal(running.pid(), signal);
    let ran = running.finish();
    assert_eq!(ran.status.signal().map(|signal| signal + 128), Some(shell_says), "{ran}");
    assert!(sandbox.puller(&["list", "--json"]).exits(0).json().is_empty());
    // The same in the words of a shell, which knows no other way to tell.
    let mut shell = sandbox.command(Path::new("/bin/sh"));
    let (puller, store) = (programs::puller().display(), sandbox.store());
    let line = format!(
        "'{puller}' --store '{}' pull {typed} & pid=$!; sleep 1; kill -{} $pid; wait $pid; exit $?",
        store.display(),
        shell_says - 128
    );
    // A shell without job control has its background processes ignore SIGINT: only the other signal can be told this way.
    if signal == Signal::TERM {
        sandbox.run(shell.args(["-c", &line])).exits(shell_says);
    }
    relay.pace(None);
    let pulled = sandbox.pull(&[&typed]).succeeds("stored");
    let went_on = pulled.json["notes"].to_string();
    assert!(went_on.contains("went on from what an earlier run had received"), "{}", pulled.ran);
    contents::assert_equal(&source, &pulled.path);
}

#[test]
fn ctrl_c_ends_with_130_and_the_next_run_goes_on() {
    check(Signal::INT, 130);
}

#[test]
fn a_request_to_end_ends_with_143_and_the_next_run_goes_on() {
    check(Signal::TERM, 143);
}
