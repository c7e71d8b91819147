//! Restores in place that end in an odd way: cut behind a real sshd at any moment, over what is no database any more, with an
//! application that does not start again.
//!
//! `PULLBACK_KILLS=100 cargo test -p pullback-tests --test restore_cut -- --nocapture` kills oftener.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::sandbox::{self, Sandbox};
use pullback_tests::sshd::{Sshd, is_alive};
use rusqlite::Connection;
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Restores that are cut, unless `PULLBACK_KILLS` says how many.
const KILLS: u32 = 9;

/// A gym, a copy of it, and rows since: the gym and the copy's id.
fn gym(sandbox: &Sandbox, bytes: u64, pull: impl Fn(&Path) -> String) -> (PathBuf, String) {
    let path = sandbox.db("gym.db");
    databases::gym(&path, bytes, 4096);
    let copy = pull(&path);
    let app = Connection::open(&path).expect("a gym can be opened");
    app.execute_batch("UPDATE access_log SET door = 'back' WHERE id % 3 = 0").expect("rows can be written");
    (path, copy)
}

fn pulled(sandbox: &Sandbox) -> impl Fn(&Path) -> String {
    |path| sandbox.pull(&[path]).succeeds("stored").copy
}

#[test]
fn a_restore_behind_sshd_that_is_cut_at_any_moment_leaves_the_old_content_or_the_new() {
    let sandbox = Sandbox::new();
    let Some(sshd) = Sshd::start(&sandbox) else { return };
    for config in ["home/.config/pullback", "home/xdg_config_home/pullback"] {
        fs::create_dir_all(sandbox.file(config)).expect("a folder can be made");
        let text = "reserve = \"0\"\nallow_restore = true\n";
        fs::write(sandbox.file(config).join("agent.toml"), text).expect("a configuration can be written");
    }
    let at_pi = |path: &Path| format!("pi:{}", path.display());
    let (target, copy) = gym(&sandbox, 2_000_000, |path| sshd.pull(&[&at_pi(path)]).succeeds("stored").copy);
    let old = contents::of(&target);
    let restore = ["restore", "gym", &copy, "--in-place", "--yes"];
    let undo = ["restore", "--undo", "gym", "--yes"];
    let began = Instant::now();
    sshd.puller(&restore).exits(0);
    let length = began.elapsed();
    let new = contents::of(&target);
    assert!(old != new, "there is something to restore");
    sshd.puller(&undo).exits(0);
    let kills = std::env::var("PULLBACK_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let (mut dice, mut cut, mut replaced) = (Dice::new(11), 0, 0);
    for number in 0..kills {
        let known = (sshd.sshs().len(), sshd.agents().len());
        let running = sshd.start_puller(&restore);
        // Spread over its time.
        let after =
            length.mul_f64(f64::from(number) / f64::from(kills)) + Duration::from_millis(dice.roll() % 20);
        std::thread::sleep(after);
        let of = |pids: Vec<i32>, known| pids.get(known).copied();
        let whom = match number % 3 {
            0 => Some(running.pid().cast_signed()),
            1 => of(sshd.sshs(), known.0),
            _ => of(sshd.agents(), known.1),
        };
        if let Some(pid) = whom.filter(|pid| is_alive(*pid)) {
            sandbox::signal(pid.cast_unsigned(), Signal::KILL);
        }
        let ran = running.finish();
        sshd.nothing_is_left();
        let what = format!("no. {number}, after {after:?}: {ran}");
        assert!(matches!(ran.status.code(), None | Some(0 | 5 | 7)), "{what}");
        cut += u32::from(!ran.status.success());
        let app = Connection::open(&target).expect("a gym can be opened");
        let checked = app.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(checked.as_deref(), Ok("ok"), "{what}");
        drop(app);
        let found = contents::of(&target);
        assert!(found == old || found == new, "{what}");
        replaced += u32::from(found == new);
        sshd.puller(&restore).exits(0);
        assert!(contents::of(&target) == new, "{what}");
        sshd.puller(&undo).exits(0);
        assert!(contents::of(&target) == old, "{what}");
    }
    println!("{cut} of {kills} were cut, {replaced} had replaced the content, within {length:?}");
    assert!(cut * 2 >= kills, "only {cut} of {kills} were cut");
}

/// The rows of an application that died lie in the `-wal` alone. Opened for writing, the file beside it would take them in.
#[test]
fn a_file_that_is_no_database_any_more_is_set_aside_with_every_byte_beside_it() {
    let sandbox = Sandbox::new();
    let (target, copy) = gym(&sandbox, 100_000, pulled(&sandbox));
    let app = databases::visits_in_the_wal(&target, 50);
    let wal = sandbox.db("gym.db-wal");
    let (main, rows) = (fs::read(&target).unwrap(), fs::read(&wal).unwrap());
    drop(app);
    let wrecked = [vec![b'x'; 4096], main[4096..].to_vec()].concat();
    for (bytes, what) in [(&wrecked[..], "another first page"), (&wrecked[..50], "50 bytes")] {
        let _ = fs::remove_file(sandbox.db("gym.db-shm"));
        fs::write(&target, bytes).unwrap();
        fs::write(&wal, &rows).unwrap();
        fs::write(sandbox.db("gym.db-journal"), "a journal").unwrap();
        let refused = sandbox.puller(&["restore", "gym", &copy, "--in-place", "--yes"]).exits(7);
        assert!(refused.stderr.contains("--force"), "{refused}");
        assert!(fs::read(&target).unwrap() == bytes && fs::read(&wal).unwrap() == rows, "{what}");
        let words = ["restore", "gym", &copy, "--in-place", "--yes", "--force", "--json"];
        let restored = sandbox.puller(&words).exits(0).only_json();
        let aside = PathBuf::from(restored["quarantine"].as_str().expect("it says where"));
        assert!(fs::read(aside.join("gym.db")).unwrap() == bytes, "{what}");
        assert!(fs::read(aside.join("gym.db-wal")).unwrap() == rows, "{what}");
        assert_eq!(fs::read(aside.join("gym.db-journal")).unwrap(), b"a journal", "{what}");
    }
}

/// The first bytes are those of a database, and no more than that.
#[test]
fn a_damaged_header_costs_no_row_of_the_wal_beside_it() {
    let sandbox = Sandbox::new();
    let (target, copy) = gym(&sandbox, 100_000, pulled(&sandbox));
    let app = Connection::open(&target).expect("a gym can be opened");
    // No page more, so that the first one is not in the `-wal`.
    let sql = "PRAGMA wal_autocheckpoint = 0; UPDATE access_log SET granted = 1 - granted";
    app.execute_batch(sql).expect("rows can be written");
    let (mut main, rows) = (fs::read(&target).unwrap(), fs::read(sandbox.db("gym.db-wal")).unwrap());
    drop(app);
    // No page has three bytes.
    main[16..18].copy_from_slice(&[0, 3]);
    fs::write(&target, &main).unwrap();
    fs::write(sandbox.db("gym.db-wal"), &rows).unwrap();
    let refused = sandbox.puller(&["restore", "gym", &copy, "--in-place", "--yes"]).exits(7);
    assert!(refused.stderr.contains("--force"), "{refused}");
    let words = ["restore", "gym", &copy, "--in-place", "--yes", "--force", "--json"];
    let restored = sandbox.puller(&words).exits(0).only_json();
    let aside = PathBuf::from(restored["quarantine"].as_str().expect("it says where"));
    assert!(fs::read(aside.join("gym.db")).unwrap() == main);
    assert!(fs::read(aside.join("gym.db-wal")).unwrap() == rows);
}

#[test]
fn an_application_that_does_not_start_again_is_told_and_the_restore_can_be_undone() {
    let sandbox = Sandbox::new();
    let (target, copy) = gym(&sandbox, 100_000, pulled(&sandbox));
    let old = contents::of(&target);
    let words =
        ["restore", "gym", &copy, "--in-place", "--yes", "--stop-cmd", "true", "--start-cmd", "false"];
    let ran = sandbox.puller(&words).exits(1);
    assert!(
        ran.stderr.contains("the copy is in place") && ran.stderr.contains("may still be stopped"),
        "{ran}"
    );
    assert!(ran.stderr.contains("--undo gym") || ran.stderr.contains("--undo local/gym"), "{ran}");
    assert!(contents::of(&target) != old);
    sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(0);
    assert!(contents::of(&target) == old);
}

#[test]
fn an_undo_that_was_cut_goes_on_to_what_it_was_to_bring_back() {
    let sandbox = Sandbox::new();
    let (target, copy) = gym(&sandbox, 100_000, pulled(&sandbox));
    let old = contents::of(&target);
    sandbox.puller(&["restore", "gym", &copy, "--in-place", "--yes"]).exits(0);
    // Killed once the record says that it has begun.
    let words = ["restore", "--undo", "gym", "--yes", "--stop-cmd", "kill -9 $PPID; sleep 5"];
    let ran = sandbox.run(
        sandbox.command(pullback_tests::programs::puller()).arg("--store").arg(sandbox.store()).args(words),
    );
    assert!(!ran.status.success(), "{ran}");
    assert!(contents::of(&target) != old);
    sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(0);
    assert!(contents::of(&target) == old);
    sandbox.puller(&["restore", "--undo", "gym", "--yes"]).exits(0);
    assert!(contents::of(&target) != old, "an undo can be undone");
}
