//! doc/guides.md as typed: each command of its middle columns is run, with a live database here and another behind `pi`.

use pullback_tests::pinged::Pinged;
use pullback_tests::privilege::skip;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::sshd::{Sshd, script};
use pullback_tests::typed::{Desk, cells, quoted};
use pullback_tests::{contents, databases};
use rusqlite::Connection;
use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../doc/guides.md");

/// The tables, by their headings, with the rows that each has at least.
const TABLES: [(&str, usize); 7] = [
    ("Copying", 20),
    ("Looking", 19),
    ("By the clock", 18),
    ("Being told", 8),
    ("Keeping an eye on it", 8),
    ("When it fails", 9),
    ("Restoring", 14),
];

/// The rows of the table below the heading `title`, without its head.
fn rows(title: &str) -> Vec<Vec<String>> {
    let after = DOCUMENT.split_once(&format!("\n## {title}\n")).expect("the heading is there").1;
    let section = after.split("\n## ").next().unwrap_or_default();
    let mut rows = section.lines().filter(|line| line.starts_with('|')).map(cells);
    assert_eq!(rows.next().expect("a head"), ["what you typed", "what you type now", "because"]);
    assert_eq!(rows.next().expect("a line below it"), ["---"; 3]);
    rows.collect()
}

/// A desk with a live database, `app.db`, one at `pi`, and somebody who is told; `gym` has been pulled.
struct Guide {
    sandbox: Sandbox,
    pinged: Pinged,
    config: String,
    applications: [Connection; 2],
}

impl Guide {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let applications = ["db/app.db", "home/gym/app.db"].map(|name| {
            let path = sandbox.file(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
            databases::gym(&path, 200_000, 4096);
            databases::visits_in_the_wal(&path, 50)
        });
        let pinged = Pinged::content();
        let told = sandbox.file("told");
        let config = format!(
            "[hooks]\non_failure = [\"touch\", {told:?}]\nafter_restore_url = {:?}\n[ping]\nurl = {:?}\n",
            pinged.url("/health"),
            pinged.url("/uuid")
        );
        Self { sandbox, pinged, config, applications }
    }
}

fn needs_pi(command: &str) -> bool {
    command.contains("pi:") || command.contains("//pi/")
}

/// Types every command of the table below `title`, in order, and gives what each said.
#[track_caller]
fn types(guide: &Guide, title: &str) -> Vec<Ran> {
    types_after(guide, title, |_| {})
}

/// The same, once `gym` was pulled and `happens` was called.
#[track_caller]
fn types_after(guide: &Guide, title: &str, happens: impl Fn(&Desk<'_>)) -> Vec<Ran> {
    let desk = Desk::with(&guide.sandbox, &guide.config, Sshd::start(&guide.sandbox));
    let source = if desk.has_pi() { "pi:gym/app.db" } else { "./app.db" };
    desk.type_in(&format!("puller pull {source} --name gym")).exits(0);
    happens(&desk);
    let mut all = Vec::new();
    for row in rows(title) {
        let [before, now, because] = &row[..] else { panic!("{row:?} has not three cells") };
        assert!(!before.is_empty() && !because.is_empty(), "{row:?}");
        let commands: Vec<&str> = quoted(now).collect();
        assert!(!commands.is_empty(), "`{now}` has no command");
        for command in commands {
            if needs_pi(command) && !desk.has_pi() {
                skip(command, "there is no sshd for `pi`");
                continue;
            }
            let ran = desk.type_in(command).exits(0);
            let silent = [" -q", "look.db"].iter().any(|end| command.ends_with(end))
                || command.contains("schedule run");
            assert_eq!(ran.stdout.is_empty(), silent, "what {command} says: {ran}");
            all.push(ran);
        }
    }
    all
}

/// What was said to the only command that reads so.
#[track_caller]
fn of<'a>(all: &'a [Ran], command: &str) -> &'a Ran {
    all.iter().find(|ran| ran.command.contains(command)).unwrap_or_else(|| panic!("nobody typed `{command}`"))
}

#[test]
fn the_tables_are_those_that_are_typed_and_have_all_their_rows() {
    let tables = DOCUMENT.matches("| what you typed | what you type now | because |").count();
    assert_eq!(tables, TABLES.len());
    for (title, least) in TABLES {
        assert!(rows(title).len() >= least, "`{title}` has lost rows");
    }
    for line in DOCUMENT.lines().filter(|line| line.starts_with("- **")) {
        assert!(line.matches("**").count() == 2, "`{line}` names no mistake");
    }
}

#[test]
fn what_copies_is_typed_and_loses_no_row() {
    let guide = Guide::new();
    // An older script has left its copies.
    fs::create_dir(guide.sandbox.db("old")).unwrap();
    for name in ["gym_backup_20251103_031500.db", "backup_20251104031500.db"] {
        fs::copy(guide.sandbox.db("app.db"), guide.sandbox.db("old").join(name)).unwrap();
    }
    let packed = "gzip -c app.db > old/app-backup-2025-11-03T03-15-00.db.gz";
    guide.sandbox.run(guide.sandbox.command(Path::new("/bin/sh")).args(["-c", packed])).exits(0);
    types(&guide, "Copying");
    let live = guide.sandbox.db("app.db");
    contents::assert_equal(&live, &guide.sandbox.db("backup.db"));
    // And what the left column does has lost some.
    let hand = guide.sandbox.db("hand.db");
    fs::copy(&live, &hand).unwrap();
    let visits = |path: &Path| -> i64 {
        let db = Connection::open(path).unwrap();
        db.query_row("SELECT count(*) FROM access_log", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(visits(&live) - visits(&hand), 50);
}

#[test]
fn what_looks_is_typed() {
    let guide = Guide::new();
    // A copy by hand is there to be looked at.
    fs::copy(guide.sandbox.db("app.db"), guide.sandbox.db("backup.db")).unwrap();
    let all = types(&guide, "Looking");
    let by_hand = of(&all, "verify ./backup.db");
    assert!(by_hand.stdout.contains("looks like a hand copy"), "{by_hand}");
    assert!(of(&all, "pullback-agent info").stdout.contains("access_log"));
}

#[test]
fn what_the_clock_does_is_typed_and_leaves_one_line_of_each_job() {
    let guide = Guide::new();
    let all = types(&guide, "By the clock");
    assert!(of(&all, "--at 03:00").stdout.contains("0 3 * * *"));
    let crontab = fs::read_to_string(guide.sandbox.file("home/crontab")).unwrap();
    assert_eq!(crontab.lines().count(), 3, "{crontab}");
}

#[test]
fn what_tells_is_typed() {
    let guide = Guide::new();
    types(&guide, "Being told");
    assert!(guide.sandbox.file("told").exists(), "the hook was run");
    assert!(guide.pinged.paths().iter().any(|path| path == "/uuid/start"), "the ping was sent");
}

#[test]
fn what_keeps_an_eye_on_it_is_typed() {
    types(&Guide::new(), "Keeping an eye on it");
}

#[test]
fn what_helps_when_it_fails_is_typed() {
    types(&Guide::new(), "When it fails");
}

#[test]
fn what_restores_is_typed_while_the_application_goes_on() {
    let guide = Guide::new();
    let members = |db: &Connection| -> i64 {
        db.query_row("SELECT count(*) FROM members", [], |row| row.get(0)).expect("a number")
    };
    let all = members(&guide.applications[0]);
    let deletes = |last: i64| {
        let sql = format!("PRAGMA foreign_keys = OFF; DELETE FROM members WHERE id > {last}");
        guide.applications.iter().for_each(|db| db.execute_batch(&sql).expect("the application goes on"));
    };
    let said = types_after(&guide, "Restoring", |desk| {
        fs::write(
            guide.sandbox.file("home/.config/pullback/agent.toml"),
            "reserve = \"0\"\nallow_restore = true\n",
        )
        .unwrap();
        for (name, word) in [("stop-gym", "stopped"), ("start-gym", "started")] {
            script(&guide.sandbox.db(name), &format!("echo {word} >&2"));
        }
        // A day that changed little, a copy, and then somebody deletes.
        deletes(all - 1);
        desk.type_in("puller pull gym").exits(0);
        deletes(3);
    });
    let shows = |command: &str, rows: &str| {
        let ran = of(&said, command);
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(rows), "{rows}: {ran}");
    };
    shows("--in-place --dry-run", &format!("{}", all - 1));
    shows("--yes", "already");
    shows("--undo", "what was there before is copy");
    shows("--table members", &format!("members: 3 before, {} now", all - 1));
    shows("--stop-cmd", "stopped\nstarted");
    let counts: Vec<i64> = guide.applications.iter().map(members).collect();
    assert!(counts.contains(&(all - 1)), "{counts:?}");
    assert_eq!(members(&Connection::open(guide.sandbox.db("chosen.db")).unwrap()), all);
    assert!(guide.pinged.paths().iter().any(|path| path == "/health"), "the application was asked");
}
