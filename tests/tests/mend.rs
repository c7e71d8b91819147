//! What the disk does not give back as it was written is fetched again; when that does not help, everything is.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Pulled, Sandbox, wait_until};
use pullback_tests::served::Served;
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes before the end of a draft where it is spoilt: they are read back last.
const FROM_END: u64 = 100;

/// Spoils the draft at `path` again and again until `is_over`; only the first one, if there are several, where `only_first`.
fn spoil(path: &Path, only_first: bool, is_over: &AtomicBool) {
    // Held open: its number is nobody else's meanwhile.
    let mut first: Option<File> = None;
    let inode = |file: &File| file.metadata().expect("an open file has metadata").ino();
    let mut number = 0x5eed_u64;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let Ok(draft) = File::options().write(true).open(path) else { continue };
        // One that was just made has no pages yet, and may be another one soon.
        let len = draft.metadata().expect("an open file has metadata").len();
        let Some(at) = len.checked_sub(FROM_END) else { continue };
        if only_first && first.as_ref().is_some_and(|first| inode(first) != inode(&draft)) {
            return;
        }
        draft.write_all_at(&number.to_le_bytes(), at).expect("a draft can be written to");
        first.get_or_insert(draft);
    }
}

struct Edge<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    served: Served<'a>,
}

impl<'a> Edge<'a> {
    /// With a copy in the store, and a source that has changed since.
    fn with_a_copy(sandbox: &'a Sandbox) -> Self {
        let source = sandbox.db("gym.db");
        databases::gym(&source, 12_000_000, 4096);
        let served = Served::start(sandbox, &[("gym", &source)]);
        let edge = Self { sandbox, source, served };
        edge.pull().succeeds("stored");
        let sql = "UPDATE access_log SET at = '2026-11-21 09:00:00' WHERE id % 1000 = 0";
        Connection::open(&edge.source).and_then(|c| c.execute_batch(sql)).expect("a gym can be written to");
        edge
    }

    fn draft(&self) -> PathBuf {
        self.sandbox.store().join("127.0.0.1/gym/copies/draft-new.db")
    }

    fn pull(&self) -> Pulled {
        self.sandbox.pull(&["--name", "gym", &self.served.source("gym")])
    }

    /// Pulls while the draft is spoilt.
    fn pull_spoilt(&self, only_first: bool) -> Pulled {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| spoil(&self.draft(), only_first, &is_over));
            let pulled = self.pull();
            is_over.store(true, Ordering::Relaxed);
            pulled
        })
    }
}

fn notes(pulled: &Pulled) -> String {
    pulled.json["notes"].to_string()
}

#[test]
fn a_page_that_the_disk_lost_is_fetched_again_and_no_other() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 12_000_000, 4096);
    let served = Served::start_with(&sandbox, &[("gym", &source)], "compression = \"none\"");
    let relay = Relay::to(served.address());
    // Until it stands still, so much has arrived that the first pages are in the draft.
    relay.stall_after(Some(8_000_000));
    let draft = sandbox.store().join("127.0.0.1/gym/copies/draft-new.db");
    let pulled = std::thread::scope(|scope| {
        let pull = scope.spawn(|| sandbox.pull(&["--name", "gym", &format!("{}/gym", relay.address())]));
        let page = || {
            let mut page = vec![0; 4096];
            File::open(&draft).and_then(|draft| draft.read_exact_at(&mut page, 40 * 4096)).map(|()| page)
        };
        wait_until("pages are in the draft", || page().is_ok_and(|page| page.iter().any(|byte| *byte != 0)));
        let spoilt = File::options().write(true).open(&draft).expect("there is a draft");
        spoilt.write_all_at(b"rot", 40 * 4096 + 7).expect("a draft can be written to");
        relay.stall_after(None);
        pull.join().expect("a pull ends")
    });
    let pulled = pulled.succeeds("stored");
    assert!(notes(&pulled).contains("proof 1 failed"), "{}", pulled.ran);
    let pages = pulled.json["page_count"].as_u64().expect("pages are counted");
    assert_eq!(pulled.json["changed_pages"], pages + 1, "{}", pulled.ran);
    contents::assert_equal(&source, &pulled.path);
}

#[test]
fn two_failed_proofs_lead_to_a_full_transfer_which_says_so() {
    let sandbox = Sandbox::new();
    let edge = Edge::with_a_copy(&sandbox);
    let pulled = edge.pull_spoilt(true).succeeds("stored");
    assert_eq!(pulled.transfer, "full", "{}", pulled.ran);
    assert_eq!(pulled.json["full_because"], "two proofs failed", "{}", pulled.ran);
    contents::assert_equal(&edge.source, &pulled.path);
    sandbox.puller(&["verify", "--all", "--full"]).exits(0);
}

#[test]
fn a_disk_that_never_gives_back_what_was_written_ends_the_run_and_costs_no_copy() {
    let sandbox = Sandbox::new();
    let edge = Edge::with_a_copy(&sandbox);
    edge.pull_spoilt(false).fails("unproven", 1);
    assert!(!edge.draft().exists(), "a draft that cannot be proven is left");
    sandbox.puller(&["verify", "--all", "--full"]).exits(0);
    let pulled = edge.pull().succeeds("stored");
    assert_eq!(pulled.transfer, "delta", "{}", pulled.ran);
    contents::assert_equal(&edge.source, &pulled.path);
}
