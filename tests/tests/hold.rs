//! The hold is one local read: whatever a puller does afterwards, the application has its database to itself.

use pullback_tests::databases;
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use rusqlite::Connection;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Stalls a first copy in its middle, and gives `application` the source meanwhile; then lets the pull end.
#[track_caller]
fn check(lines: &str, journal: &str, application: impl Fn(&Connection)) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 30_000_000, 4096);
    let connection = Connection::open(&source).expect("the application opens its database");
    connection.pragma_update(None, "journal_mode", journal).expect("the journal mode is set");
    let served = Served::start_with(&sandbox, &[("gym", &source)], lines);
    let relay = Relay::to(served.address());
    relay.stall_after(Some(100_000));
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args([
        "pull",
        &format!("{}/gym", relay.address()),
        "--timeout",
        "60s",
    ]);
    let mut puller = command.stdout(Stdio::null()).spawn().expect("puller starts");
    let began = Instant::now();
    while relay.from_agent() < 100_000 {
        assert!(began.elapsed() < Duration::from_secs(20), "the transfer does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    // No busy timeout: the application is not to wait at all.
    connection.busy_timeout(Duration::ZERO).expect("a timeout is set");
    application(&connection);
    assert!(
        puller.try_wait().expect("a child can be asked").is_none(),
        "the transfer was to be stalled meanwhile"
    );
    relay.stall_after(None);
    assert!(puller.wait().expect("a child can be waited for").success());
    sandbox.puller(&["verify", "--all"]).exits(0);
}

/// Of a thousand pages, and of the commit that comes to more.
const WAL_BYTES_MAX: u64 = 5_000_000;

fn writes_and_checkpoints(connection: &Connection) {
    for _ in 0..200 {
        connection
            .execute("UPDATE access_log SET at = at || 'x' WHERE id = 7", [])
            .expect("a commit goes through");
    }
    // By itself, SQLite begins the -wal anew after each thousand pages, unless a reader stays.
    connection.pragma_update(None, "synchronous", "NORMAL").expect("a setting is made");
    for number in 0..3_000 {
        let sql = "UPDATE access_log SET at = ?1 WHERE id = 1 + ?1 * 7919 % 100000";
        connection.execute(sql, [number]).expect("a commit goes through");
    }
    let source = connection.path().expect("the application's database is a file");
    let wal = std::fs::metadata(format!("{source}-wal")).expect("there is a -wal").len();
    assert!(wal < WAL_BYTES_MAX, "somebody reads still: the -wal grew to {wal} bytes");
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let busy: i64 = connection.query_row(sql, [], |row| row.get(0)).expect("a checkpoint can be asked for");
    assert_eq!(busy, 0, "somebody still reads: the -wal would grow");
}

#[test]
fn a_puller_that_stands_still_costs_a_wal_application_nothing() {
    check("", "wal", writes_and_checkpoints);
}

#[test]
fn nor_where_the_agent_has_no_mirror() {
    check("mirror = \"discard\"", "wal", writes_and_checkpoints);
}

#[test]
fn a_puller_that_stands_still_blocks_no_commit_in_a_rollback_mode() {
    check("", "delete", |connection| {
        let sql = "UPDATE access_log SET at = at || 'x' WHERE id = 7";
        (0..50).for_each(|_| assert!(connection.execute(sql, []).is_ok(), "a commit waits for a puller"));
    });
}

/// What the agent opens, as the system sees it.
#[test]
fn the_source_is_opened_by_sqlite_alone_and_once_for_each_hold() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: there is no strace on this machine");
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 200_000, 4096);
    let trace = sandbox.file("trace");
    let mut command = sandbox.command(std::path::Path::new("strace"));
    command.args([
        "-f",
        "-qq",
        "-e",
        "trace=open,openat,creat,unlink,rename,renameat2,chmod,fchmod,chown,fchown",
        "-o",
    ]);
    command.arg(&trace).arg(programs::puller()).arg("--store").arg(sandbox.store()).arg("pull").arg(&source);
    sandbox.run(&mut command).exits(0);
    let traced = std::fs::read_to_string(&trace).expect("strace writes its file");
    let name = source.to_str().expect("the path is text");
    let opened = |suffix: &str| {
        traced.lines().filter(|line| line.contains(&format!("\"{name}{suffix}\""))).collect::<Vec<_>>()
    };
    // The first pull of a source asks what is there (one hold) and then reads it (another).
    assert_eq!(opened("").len(), 2, "{:#?}", opened(""));
    assert!(opened("").iter().all(|line| line.contains("O_RDONLY")), "{:#?}", opened(""));
    assert!(opened("-journal").is_empty(), "{:#?}", opened("-journal"));
}
