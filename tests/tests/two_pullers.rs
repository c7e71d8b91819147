//! Several pullers of one agent do not stand in one another's way, however slow one of them is.

use pullback_tests::contents;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::two_pullers::{self, Setting};
use std::time::Duration;

/// In a first copy, this takes the slow puller about half a minute.
const SETTING: Setting = Setting {
    bytes: 4_000_000,
    noise_bytes: 12_000_000,
    bytes_per_second: 512 * 1024,
    max_state: 64 * 1024 * 1024,
};

/// For a page of which a row changed, as a patch: half of this. Whole, it is nearly twice as much.
const RECEIVED_PER_PAGE_MAX: u64 = 700;

/// Of such a pull: a name, and no list of page hashes, which alone would be 60 kB.
const SENT_MAX: u64 = 2_000;

#[test]
fn a_slow_first_copy_and_a_pull_every_second_both_come_to_their_end() {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(300));
    let outcome = two_pullers::run(&sandbox, SETTING);
    assert_eq!(outcome.slow.transfer, "full", "{}", outcome.slow.ran);
    assert!(outcome.fast.len() > 3, "the slow one was not slow: {}", outcome.slow.ran);
    let most = outcome.state_bytes_max;
    assert!(most <= SETTING.max_state, "the agent's state had {most} bytes");
    sandbox.puller(&["verify", "--all", "--full"]).exits(0);
    let checked =
        contents::open_read_only(&outcome.slow.path)
            .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(checked.as_deref(), Ok("ok"));
    for pulled in &outcome.fast[1..] {
        let count = |field: &str| pulled.json[field].as_u64().expect("bytes are counted");
        let (received, sent) = (count("bytes_received"), count("bytes_sent"));
        assert_ne!(pulled.transfer, "full", "{}", pulled.ran);
        let received_max = RECEIVED_PER_PAGE_MAX * count("changed_pages") + 10_000;
        assert!(received <= received_max && sent <= SENT_MAX, "{}", pulled.ran);
        assert!(!pulled.json["notes"].to_string().contains("without its mirror"), "{}", pulled.ran);
    }
}
