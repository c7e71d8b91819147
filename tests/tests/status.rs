//! `puller status`: which sources are as fresh as they should be, and what is said when one is not.

use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::{databases, programs};
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// When the pulls of a test are made, and times after it.
const MONDAY: &str = "2026-11-16T09:00:00Z";
const NEXT_DAY: &str = "2026-11-17T09:00:00Z";
const NEXT_WEEK: &str = "2026-11-24T09:00:00Z";

/// Runs `puller ARGUMENTS` at `time`.
#[track_caller]
fn at(sandbox: &Sandbox, time: &str, arguments: &[&str]) -> Ran {
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(arguments).env("PULLER_NOW", time);
    sandbox.run(&mut command)
}

/// A small database that was pulled at `time` as `name`.
fn pulled(sandbox: &Sandbox, time: &str, name: &str) -> PathBuf {
    let path = sandbox.db(&format!("{name}.db"));
    databases::gym(&path, 50_000, 4096);
    at(sandbox, time, &["pull", path.to_str().expect("a path is UTF-8"), "--name", name]).exits(0);
    path
}

fn configure(sandbox: &Sandbox, text: &str) {
    let dir = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&dir).expect("a folder can be made");
    fs::write(dir.join("puller.toml"), text).expect("a configuration can be written");
}

/// The state of each source at `time`, and the exit code.
#[track_caller]
fn states(sandbox: &Sandbox, time: &str, arguments: &[&str]) -> (String, i32) {
    let ran = at(sandbox, time, &[&["status", "--json"], arguments].concat());
    let state = |line: &Value| format!("{} {}", line["source"], line["state"]).replace('"', "");
    (ran.json().iter().map(state).collect::<Vec<_>>().join(", "), ran.code())
}

#[track_caller]
fn check(sandbox: &Sandbox, time: &str, arguments: &[&str], expected: &str, code: i32) {
    assert_eq!(states(sandbox, time, arguments), (expected.to_owned(), code), "{time} {arguments:?}");
}

#[test]
fn a_source_that_silently_stops_being_pulled_is_stale() {
    let sandbox = Sandbox::new();
    let path = pulled(&sandbox, MONDAY, "gym");
    check(&sandbox, NEXT_DAY, &["--max-age", "26h"], "gym fresh", 0);
    check(&sandbox, NEXT_WEEK, &["--max-age", "26h"], "gym stale", 13);
    check(&sandbox, NEXT_WEEK, &[], "gym fresh", 0);
    let quiet = at(&sandbox, NEXT_DAY, &["status", "-q", "--max-age", "26h"]).exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""), "{quiet}");
    let told = at(&sandbox, NEXT_WEEK, &["status", "-q", "--max-age", "26h"]).exits(13);
    assert!(told.stdout.contains("the last good run was 8 d ago, `max_age` is 26 h"), "{told}");
    // That nothing had changed is as good as a new copy.
    at(&sandbox, NEXT_WEEK, &["pull", path.to_str().expect("a path is UTF-8")]).exits(0);
    check(&sandbox, NEXT_WEEK, &["--max-age", "26h"], "gym fresh", 0);
    let line = at(&sandbox, NEXT_WEEK, &["status", "--json"]).only_json();
    assert_eq!((&line["last_good_at"], &line["unchanged_since"]), (&NEXT_WEEK.into(), &MONDAY.into()));
    assert_eq!((&line["runs"], &line["runs_good"]), (&2.into(), &2.into()));
}

#[test]
fn the_age_is_that_of_the_flag_then_the_environment_then_the_source_then_the_top() {
    let sandbox = Sandbox::new();
    let path = pulled(&sandbox, MONDAY, "gym");
    pulled(&sandbox, MONDAY, "till");
    configure(&sandbox, "max_age = \"26h\"\n");
    check(&sandbox, NEXT_WEEK, &[], "gym stale, till stale", 13);
    let table = format!("[source.gym]\naddress = \"{}\"\nmax_age = \"30d\"\n", path.display());
    configure(&sandbox, &format!("max_age = \"26h\"\n{table}"));
    check(&sandbox, NEXT_WEEK, &[], "gym fresh, till stale", 13);
    check(&sandbox, NEXT_WEEK, &["gym"], "gym fresh", 0);
    check(&sandbox, NEXT_WEEK, &["--max-age", "1h"], "gym stale, till stale", 13);
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(["status", "--max-age", "60d"]);
    command.env("PULLER_NOW", NEXT_WEEK).env("PULLER_MAX_AGE", "1h");
    sandbox.run(&mut command).exits(0);
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(["status", "gym"]);
    command.env("PULLER_NOW", NEXT_WEEK).env("PULLER_MAX_AGE", "1h");
    sandbox.run(&mut command).exits(13);
}

#[test]
fn a_source_that_is_configured_and_was_never_pulled_is_told() {
    let sandbox = Sandbox::new();
    let path = pulled(&sandbox, MONDAY, "gym");
    configure(
        &sandbox,
        &format!("[source.gym]\naddress = \"{}\"\n[source.till]\naddress = \"/till.db\"\n", path.display()),
    );
    check(&sandbox, MONDAY, &[], "gym fresh, till never", 13);
    check(&sandbox, MONDAY, &["till"], "till never", 13);
    check(&sandbox, MONDAY, &["gym"], "gym fresh", 0);
    at(&sandbox, MONDAY, &["status", "nobody"]).exits(10);
}

#[test]
fn a_source_that_fails_is_tolerated_until_max_age_and_told_why() {
    let sandbox = Sandbox::new();
    let path = pulled(&sandbox, MONDAY, "gym");
    fs::remove_file(&path).expect("a file can be removed");
    at(&sandbox, NEXT_DAY, &["pull", "gym"]).exits(7);
    check(&sandbox, NEXT_DAY, &["--max-age", "26h"], "gym failing", 0);
    check(&sandbox, NEXT_DAY, &[], "gym failing", 13);
    check(&sandbox, NEXT_WEEK, &["--max-age", "26h"], "gym stale", 13);
    let line = at(&sandbox, NEXT_WEEK, &["status", "--json", "--max-age", "26h"]).exits(13).only_json();
    assert_eq!(line["last_error"]["code"], "missing", "{line}");
    assert_eq!((&line["runs"], &line["runs_good"]), (&2.into(), &1.into()));
    let told = at(&sandbox, NEXT_WEEK, &["status", "--max-age", "26h"]).exits(13);
    assert!(told.stdout.contains("the last pull failed: "), "{told}");
    configure(&sandbox, &format!("[source.gym]\naddress = \"{}\"\noptional = true\n", path.display()));
    check(&sandbox, NEXT_DAY, &[], "gym failing", 0);
}

#[test]
fn an_emptied_source_is_told_though_its_last_run_is_fresh() {
    let sandbox = Sandbox::new();
    let path = pulled(&sandbox, MONDAY, "gym");
    let empty = "DROP TABLE access_log; DROP TABLE lockers; DROP TABLE members";
    Connection::open(&path).and_then(|db| db.execute_batch(empty)).expect("tables can be dropped");
    at(&sandbox, NEXT_DAY, &["pull", "gym"]).exits(4);
    check(&sandbox, NEXT_DAY, &["--max-age", "26h"], "gym suspect", 13);
}

#[test]
fn a_source_in_which_nothing_changes_is_told_where_something_should() {
    let sandbox = Sandbox::new();
    pulled(&sandbox, MONDAY, "gym");
    at(&sandbox, NEXT_WEEK, &["pull", "gym"]).exits(0);
    configure(&sandbox, "max_unchanged = \"7d\"\nmax_age = \"26h\"\n");
    check(&sandbox, NEXT_WEEK, &[], "gym unchanged", 13);
    configure(&sandbox, "max_unchanged = \"9d\"\nmax_age = \"26h\"\n");
    check(&sandbox, NEXT_WEEK, &[], "gym fresh", 0);
}

#[test]
fn a_clock_in_the_past_does_not_make_a_source_fresh() {
    let sandbox = Sandbox::new();
    pulled(&sandbox, NEXT_DAY, "gym");
    let told = at(&sandbox, MONDAY, &["status", "--max-age", "26h"]).exits(13);
    assert!(told.stdout.contains("is in the future, 2026-11-17T09:00:00Z: is the clock"), "{told}");
}

/// Columns of a terminal: Hangul takes two each.
fn width(text: &str) -> usize {
    text.chars().map(|c| if ('\u{ac00}'..='\u{d7a3}').contains(&c) { 2 } else { 1 }).sum()
}

#[test]
fn the_lines_are_aligned_and_fit_the_terminal_in_korean_too() {
    let sandbox = Sandbox::new();
    let names =
        ["gym", "회원관리", "도서관-대출-기록-데이터베이스", "a-name-that-is-as-long-as-names-get-to-be"];
    names.iter().for_each(|name| drop(pulled(&sandbox, MONDAY, name)));
    let table = |columns: &str| {
        let mut command = sandbox.command(programs::puller());
        command.arg("--store").arg(sandbox.store()).args(["status"]);
        let ran = sandbox.run(command.env("PULLER_NOW", NEXT_DAY).env("COLUMNS", columns)).exits(0);
        ran.stdout.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    for columns in [200, 120, 100, 80, 60, 45] {
        let lines = table(&columns.to_string());
        assert_eq!(lines.len(), 1 + names.len(), "one line a source: {lines:#?}");
        let last = lines[0].find("VERDICT").map(|at| width(&lines[0][..at])).expect("a head");
        for line in &lines[1..] {
            assert!(width(line) <= columns, "{columns}: {lines:#?}");
            assert_eq!(width(line.strip_suffix("ok").expect("a verdict")), last, "{columns}: {lines:#?}");
        }
        assert_eq!(lines[1..].iter().any(|line| line.contains('…')), columns < 120, "{columns}: {lines:#?}");
    }
    let root = sandbox.file("db").display().to_string();
    for command in ["sources", "info"] {
        let ran = at(&sandbox, NEXT_DAY, &[command]).exits(0);
        let addresses: Vec<usize> =
            ran.stdout.lines().filter_map(|line| line.find(&root).map(|at| width(&line[..at]))).collect();
        assert_eq!(addresses, [addresses[0]; 4], "{ran}");
    }
    // Into a file or a pipe, whole names go.
    let whole = at(&sandbox, NEXT_DAY, &["status"]).exits(0);
    assert!(names.iter().all(|name| whole.stdout.contains(&format!(" {name} "))), "{whole}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let sandbox = Sandbox::new();
    pulled(&sandbox, MONDAY, "gym");
    let plain = at(&sandbox, MONDAY, &["status"]).exits(0);
    assert!(!plain.stdout.contains('\x1b'), "{plain}");
    let asked = at(&sandbox, MONDAY, &["status", "--color", "always"]).exits(0);
    assert!(asked.stdout.contains("\x1b[32mfresh\x1b[0m  gym"), "{asked}");
    if cfg!(not(target_os = "linux")) || !std::path::Path::new("/usr/bin/script").exists() {
        return println!("SKIPPED: no `script` of util-linux, which makes a terminal");
    }
    let in_terminal = |variable: &str, options: &str| {
        let status = format!(
            "'{}' --store '{}' status {options}",
            programs::puller().display(),
            sandbox.store().display()
        );
        let mut command = sandbox.command("/usr/bin/script".as_ref());
        command.args(["-qec", &status, "/dev/null"]).env(variable, "1").env("PULLER_NOW", MONDAY);
        sandbox.run(&mut command).exits(0).stdout
    };
    assert!(in_terminal("ANYTHING", "").contains("\x1b[32mfresh"), "no colour on a terminal");
    assert!(!in_terminal("NO_COLOR", "").contains('\x1b'), "colours in spite of NO_COLOR");
    assert!(!in_terminal("ANYTHING", "--color never").contains('\x1b'), "colours in spite of --color never");
}
