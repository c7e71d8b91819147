//! Any recent snapshot is a base like the newest one: other pullers, and answers that were lost, cost no more.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

struct Gym<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    served: Served<'a>,
    relay: Relay,
}

impl<'a> Gym<'a> {
    fn open(sandbox: &'a Sandbox) -> Self {
        let source = sandbox.db("gym.db");
        databases::gym(&source, 8_000_000, 4096);
        let served = Served::start(sandbox, &[("gym", &source)]);
        let relay = Relay::to(served.address());
        Self { sandbox, source, served, relay }
    }

    fn sql(&self, sql: &str) {
        Connection::open(&self.source).and_then(|c| c.execute_batch(sql)).expect("a gym can be written to");
    }

    /// Some rows all over the database, others for each `day`.
    fn write(&self, day: u32) {
        self.sql(&format!("UPDATE access_log SET at = 1000 + {day} WHERE id % 900 = {day}"));
    }

    /// Pulls into the store called `store`; the copy is the source. Gives the bytes that went each way as well.
    #[track_caller]
    fn pull(&self, store: &str) -> (Pulled, u64, u64) {
        self.relay.cut_after(None);
        let store = self.sandbox.file(store);
        let source = format!("{}/gym", self.relay.address());
        let ran = self.sandbox.puller_in(&store, &["pull", "--name", "gym", "--json", &source]);
        let pulled = Pulled::from_run(ran).succeeds("stored");
        contents::assert_equal(&self.source, &pulled.path);
        (pulled, self.relay.from_agent(), self.relay.to_agent())
    }

    /// Pulls, and what travels are patches: neither page hashes one way nor pages the other.
    #[track_caller]
    fn pull_patches(&self, store: &str) {
        let (pulled, from_agent, to_agent) = self.pull(store);
        assert_eq!(pulled.transfer, "delta", "{}", pulled.ran);
        let changed = pulled.json["changed_pages"].as_u64().expect("pages are counted");
        assert!(changed > 50, "{}", pulled.ran);
        assert!(from_agent < changed * 200 + 2000, "{from_agent} bytes came: {}", pulled.ran);
        assert!(to_agent < 2000, "{to_agent} bytes went: {}", pulled.ran);
        assert_eq!(pulled.json["notes"], serde_json::json!([]), "{}", pulled.ran);
    }
}

fn newest_copy(store: &Path) -> Vec<PathBuf> {
    let copies = store.join("127.0.0.1/gym/copies");
    let files = std::fs::read_dir(copies).expect("there are copies").flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files.split_off(files.len() - 3)
}

#[test]
fn a_puller_that_was_away_for_ten_pulls_of_another_one_gets_patches() {
    let sandbox = Sandbox::new();
    let mut gym = Gym::open(&sandbox);
    gym.pull("seldom");
    gym.pull("often");
    for day in 1..=10 {
        gym.write(day);
        gym.pull_patches("often");
    }
    gym.pull_patches("seldom");
    // What leads back is in files: another agent process knows it as well.
    gym.write(11);
    gym.pull_patches("often");
    gym.served.restart();
    gym.write(12);
    gym.pull_patches("seldom");
}

#[test]
fn a_pull_whose_end_was_lost_costs_the_next_one_nothing_more() {
    let sandbox = Sandbox::new();
    // A copy that is lost by hand takes those with it that are packed upon it.
    sandbox.configure("pack = 'none'");
    let gym = Gym::open(&sandbox);
    gym.pull("store");
    gym.write(1);
    gym.pull_patches("store");
    // The agent sent all of it, and the puller lost it before it was a copy.
    newest_copy(&sandbox.file("store")).iter().for_each(|file| {
        std::fs::remove_file(file).expect("a copy can be lost");
    });
    gym.write(2);
    gym.pull_patches("store");
}

#[test]
fn a_vacuum_cuts_off_the_way_back_and_costs_hashes() {
    let sandbox = Sandbox::new();
    let gym = Gym::open(&sandbox);
    gym.pull("seldom");
    gym.pull("often");
    // Random blobs make each page that moves as large as it is: more than may be kept.
    gym.sql("CREATE TABLE noise AS SELECT id, randomblob(900) AS b FROM access_log LIMIT 40000");
    gym.pull("often");
    gym.sql("DELETE FROM noise WHERE id % 3 = 0; VACUUM");
    gym.pull("often");
    let (pulled, _, to_agent) = gym.pull("seldom");
    assert_eq!(pulled.transfer, "delta", "{}", pulled.ran);
    let page_hashes = 16 * 8_000_000 / 4096;
    assert!(to_agent > page_hashes / 2, "{to_agent} bytes went: {}", pulled.ran);
}
