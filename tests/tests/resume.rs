//! A pull that was cut goes on from what had arrived, whatever the source has become meanwhile.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::ledger;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::writer::Writer;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

fn write(source: &Path, sql: &str) {
    Connection::open(source).and_then(|c| c.execute_batch(sql)).expect("a gym can be written to");
}

/// A gym that is pulled through a relay.
struct Edge<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    served: Served<'a>,
    relay: Relay,
    /// That the agent sends for a whole first copy.
    bytes: u64,
}

impl<'a> Edge<'a> {
    fn open(sandbox: &'a Sandbox, gym_bytes: u64) -> Self {
        let source = sandbox.db("gym.db");
        databases::gym(&source, gym_bytes, 4096);
        let served = Served::start(sandbox, &[("gym", &source)]);
        let relay = Relay::to(served.address());
        let whole = sandbox.pull(&[served.source("gym").as_str(), "--name", "measure"]).succeeds("stored");
        let bytes = whole.json["bytes_received"].as_u64().expect("bytes are counted");
        Self { sandbox, source, served, relay, bytes }
    }

    /// Pulls until so many tenths of a first copy have come, or to the end.
    fn pull(&self, tenths: Option<u64>) -> Pulled {
        self.relay.cut_after(tenths.map(|tenths| self.bytes * tenths / 10));
        self.sandbox.pull(&[&format!("{}/gym", self.relay.address()), "--name", "cut"])
    }

    /// What the last pull received is at most so many tenths of a first copy.
    #[track_caller]
    fn received_at_most(&self, tenths: u64, pulled: &Pulled) {
        let (received, bytes) = (self.relay.from_agent(), self.bytes);
        assert!(received * 10 <= bytes * tenths, "{received} of {bytes} were sent again: {}", pulled.ran);
    }
}

/// Cuts a first copy at `tenths` of its bytes, lets the source change, and pulls again.
#[track_caller]
fn check(tenths: u64, restart: bool, second_tenths_max: u64) {
    let sandbox = Sandbox::new();
    let mut edge = Edge::open(&sandbox, 12_000_000);
    edge.pull(Some(tenths)).fails("lost", 5);
    sandbox
        .puller(&["list", "cut", "--json"])
        .exits(0)
        .json()
        .is_empty()
        .then_some(())
        .expect("nothing is listed");
    write(&edge.source, "UPDATE access_log SET at = '2026-11-21 09:00:00' WHERE id % 5000 = 0");
    if restart {
        edge.served.restart();
        std::fs::remove_dir_all(sandbox.state()).expect("state can be removed");
    }
    let pulled = edge.pull(None).succeeds("stored");
    contents::assert_equal(&edge.source, &pulled.path);
    edge.received_at_most(second_tenths_max, &pulled);
    sandbox.puller(&["verify", "--all", "--full"]).exits(0);
    let copies = sandbox.store().join("127.0.0.1/cut/copies");
    let left = std::fs::read_dir(copies)
        .expect("the copies' folder is there")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("draft"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_first_copy_that_was_cut_late_sends_little_again() {
    check(9, false, 3);
}

#[test]
fn a_first_copy_that_was_cut_goes_on_with_an_agent_that_forgot_everything() {
    check(6, true, 6);
}

/// What happens to the agent between a pull that was cut and the next one.
#[derive(Clone, Copy)]
enum Meanwhile {
    Nothing,
    Restarted,
    StateDeleted,
}

/// Cuts a first copy at nine tenths of its bytes while an application writes, and pulls again while it goes on.
#[track_caller]
fn check_under_a_writer(meanwhile: Meanwhile) {
    let sandbox = Sandbox::new();
    let mut edge = Edge::open(&sandbox, 24_000_000);
    // VACUUM rewrites every page: what the source becomes is to be near to what was received.
    let app = Writer::start(&edge.source, &["--journal", "wal", "--no-vacuum", "--pause-ms", "200"]);
    edge.pull(Some(9)).fails("lost", 5);
    app.commits(3);
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Restarted => edge.served.restart(),
        Meanwhile::StateDeleted => {
            edge.served.kill9();
            std::fs::remove_dir_all(sandbox.state()).expect("state can be removed");
            edge.served.restart();
        }
    }
    let told = app.newest();
    let pulled = edge.pull(None).succeeds("stored");
    // The last frames of what came were not whole, and the application rewrote some pages.
    edge.received_at_most(4, &pulled);
    let copied = ledger::check(&pulled.path);
    assert!(copied.seq >= told, "{copied} was copied though {told} was made before");
    app.confirm(copied);
}

#[test]
fn a_first_copy_that_was_cut_late_goes_on_while_an_application_writes() {
    check_under_a_writer(Meanwhile::Nothing);
}

#[test]
fn a_first_copy_that_was_cut_late_goes_on_with_an_agent_that_was_restarted() {
    check_under_a_writer(Meanwhile::Restarted);
}

#[test]
fn a_first_copy_that_was_cut_late_goes_on_with_an_agent_whose_state_is_gone() {
    check_under_a_writer(Meanwhile::StateDeleted);
}

#[test]
fn a_full_transfer_goes_on_from_nothing() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 4_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let relay = Relay::to(served.address());
    let through = format!("{}/gym", relay.address());
    relay.cut_after(Some(500_000));
    sandbox.pull(&[through.as_str()]);
    relay.cut_after(None);
    let pulled = sandbox.pull(&[through.as_str(), "--full"]).succeeds("stored");
    assert_eq!(
        (pulled.transfer.as_str(), &pulled.json["changed_pages"]),
        ("full", &pulled.json["page_count"])
    );
    contents::assert_equal(&source, &pulled.path);
}
