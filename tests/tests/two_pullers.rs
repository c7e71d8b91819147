//! A puller over a slow line comes to its end, however slow, and does not stand in the way of another one.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use pullback_tests::two_pullers::{self, Setting};
use std::time::Duration;

/// In a first copy, this takes the slow puller about half a minute.
const SETTING: Setting = Setting {
    bytes: 4_000_000,
    noise_bytes: 12_000_000,
    bytes_per_second: 512 * 1024,
    max_state: 64 * 1024 * 1024,
};

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
        assert_ne!(pulled.transfer, "full", "{}", pulled.ran);
    }
}

#[test]
fn a_line_in_whose_buffers_data_waits_for_half_a_minute_is_not_given_up() {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(400));
    let source = sandbox.db("gym.db");
    databases::gym(&source, 42_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let relay = Relay::to(served.address());
    // Linux keeps 4 MiB for a line, and a sign of life waits behind them, as it does in front of an ssh tunnel.
    relay.pace(Some(90_000));
    let pulled = sandbox.pull(&[&format!("{}/gym", relay.address())]).succeeds("stored");
    contents::assert_equal(&source, &pulled.path);
}
