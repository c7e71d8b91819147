//! The source is untouched: not a byte of it, no owner and no mode, whatever state its application left it in; nor is its
//! disk taken, nor its `-wal` held.

use pullback_tests::dice::Dice;
use pullback_tests::privilege::{self, NOBODY};
use pullback_tests::room::{largest, used};
use pullback_tests::sandbox::{Pulled, Sandbox, wait};
use pullback_tests::served::Served;
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::writer::Writer;
use pullback_tests::{contents, databases, ledger, programs};
use rusqlite::{Connection, params};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long anything is waited for that should come at once.
const LIMIT: Duration = Duration::from_secs(20);

/// Owner, group, mode, and for the database and its `-wal` also when they were written and what is in them. No process
/// here has the file open through SQLite, so reading it plainly drops nobody's locks.
#[derive(PartialEq, Debug)]
struct Entry {
    owner: (u32, u32),
    mode: u32,
    content: Option<(u64, i64, i64, String)>,
}

/// All that lies in the folder of `db`, and the folder itself.
fn folder(db: &Path) -> BTreeMap<String, Entry> {
    let dir = db.parent().expect("a database lies in a folder");
    let names = fs::read_dir(dir).expect("a folder can be read");
    let names = names.map(|entry| entry.expect("a folder can be read").file_name());
    let entry = |name: &str| {
        let path = dir.join(name);
        let metadata = path.metadata().expect("a file has metadata");
        let content = || {
            let hash = blake3::hash(&fs::read(&path).expect("a file can be read")).to_string();
            (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), hash)
        };
        let is_content = metadata.is_file() && !name.ends_with("-shm");
        let owner = (metadata.uid(), metadata.gid());
        Entry { owner, mode: metadata.mode(), content: is_content.then(content) }
    };
    let names = names.map(|name| name.into_string().expect("names of tests are UTF-8"));
    names.chain([".".to_owned()]).map(|name| (name.clone(), entry(&name))).collect()
}

/// Holds the folder of `db` as it is now against what it was: only an empty `-wal` and a `-shm` may be new, and those
/// belong to whom the database belongs.
#[track_caller]
fn is_untouched(db: &Path, before: &BTreeMap<String, Entry>, what: &str) {
    let after = folder(db);
    for (name, entry) in before {
        assert_eq!(after.get(name), Some(entry), "`{name}` {what}");
    }
    let name = db.file_name().expect("a database has a name").to_string_lossy();
    let owner = before[name.as_ref()].owner;
    for (new, entry) in after.iter().filter(|(new, _)| !before.contains_key(*new)) {
        let suffix = new.strip_prefix(name.as_ref()).unwrap_or_default();
        assert!(["-wal", "-shm"].contains(&suffix), "`{new}` appeared {what}");
        assert_eq!(entry.owner, owner, "the owner of `{new}`, which appeared {what}");
        let bytes = entry.content.as_ref().map_or(0, |content| content.0);
        assert_eq!(bytes, 0, "the bytes of `{new}`, which appeared {what}");
    }
}

/// Looks at and pulls `db` through both doors and twice, and holds the folder against what it was each time. Gives the
/// copy, which has what the application would see.
#[track_caller]
fn check(sandbox: &Sandbox, db: &Path, what: &str) -> Pulled {
    let before = folder(db);
    let served = Served::start(sandbox, &[("app", db)]);
    let doors = [OsString::from(db), served.source("app").into()];
    let mut pulls = Vec::new();
    for door in doors.iter().chain(&doors) {
        pulls.push(sandbox.pull(&[door]));
        is_untouched(db, &before, &format!("after a pull from {what}"));
        sandbox.puller(&["info".as_ref(), "--tables".as_ref(), door.as_os_str()]).exits(0);
        is_untouched(db, &before, &format!("after a look at {what}"));
    }
    let snapshots: Vec<&str> = pulls.iter().map(|pulled| pulled.snapshot.as_str()).collect();
    assert!(snapshots.iter().all(|snapshot| *snapshot == snapshots[0]), "{snapshots:?}, of {what}");
    let outcomes: Vec<&str> = pulls.iter().map(|pulled| pulled.outcome.as_str()).collect();
    assert_eq!(outcomes, ["stored", "stored", "unchanged", "unchanged"], "of {what}");
    // The agent still runs, and has nothing open.
    let pulled = pulls.swap_remove(1).succeeds("stored");
    contents::assert_equal(db, &pulled.path);
    pulled
}

/// An application writes at once, and takes the database out of WAL mode, which takes that nobody else has it open.
#[track_caller]
fn can_be_used_at_once(db: &Path) {
    let app = Connection::open(db).expect("a database can be opened");
    app.busy_timeout(Duration::ZERO).expect("a timeout can be set");
    app.execute_batch("CREATE TABLE IF NOT EXISTS at_once(a); INSERT INTO at_once VALUES (1)")
        .expect("nobody holds a lock");
    let journal: String =
        app.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).expect("nobody holds a lock");
    assert_eq!(journal, "delete");
}

/// The same with an agent that has just been pulled from.
#[track_caller]
fn check_and_use(sandbox: &Sandbox, db: &Path, what: &str) -> Pulled {
    let pulled = check(sandbox, db, what);
    let served = Served::start(sandbox, &[("app", db)]);
    sandbox.pull(&[served.source("app")]);
    can_be_used_at_once(db);
    pulled
}

/// Puts what lies beside an open database to `to`, as it would be left behind were its application killed now.
fn as_if_killed(from: &Path, to: &Path, suffixes: &[&str]) {
    for suffix in suffixes {
        fs::copy(beside(from, suffix), beside(to, suffix)).expect("a file can be copied");
    }
}

fn beside(db: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", db.display()).into()
}

/// A gym, and its rows that are in the `-wal` only. The connection has to be kept.
fn gym_with_a_wal(sandbox: &Sandbox) -> (PathBuf, Connection) {
    let db = sandbox.file("gym.db");
    databases::gym(&db, 300_000, 4096);
    let app = databases::visits_in_the_wal(&db, 500);
    (db, app)
}

fn visits(db: &Path) -> i64 {
    let sql = "SELECT max(id) FROM access_log";
    contents::open_read_only(db).query_row(sql, [], |row| row.get(0)).expect("rows can be counted")
}

#[test]
fn an_application_that_is_connected_does_not_notice() {
    for journal in ["wal", "delete", "truncate", "persist"] {
        let sandbox = Sandbox::new();
        let db = sandbox.db("app.db");
        let app = Writer::start(&db, &["--journal", journal, "--pause-ms", "500"]);
        app.commits(2);
        // It rests after a commit. Now it rests for as long as this takes.
        let pid = Pid::from_raw(app.pid().cast_signed()).expect("a process has a number");
        kill_process(pid, Signal::STOP).expect("a child can be stopped");
        let pulled = check(&sandbox, &db, &format!("an idle application in {journal} mode"));
        kill_process(pid, Signal::CONT).expect("a child can go on");
        let copied = ledger::check(&pulled.path);
        app.confirm(copied);
        app.commits(2);
        drop(app);
        can_be_used_at_once(&db);
    }
}

#[test]
fn a_database_whose_application_is_closed_gets_at_most_an_empty_wal() {
    let sandbox = Sandbox::new();
    let db = sandbox.db("gym.db");
    databases::gym(&db, 300_000, 4096);
    assert!(!beside(&db, "-wal").exists());
    check_and_use(&sandbox, &db, "a closed database in WAL mode");
    let names = |db: &Path| folder(db).into_keys().collect::<Vec<_>>();
    let before = names(&db);
    check_and_use(&Sandbox::new(), &db, "a closed database with a rollback journal");
    assert_eq!(names(&db), before, "a rollback journal needs nothing beside it");
}

#[test]
fn rows_that_a_killed_application_left_in_the_wal_are_in_the_copy() {
    for (what, suffixes) in [("with -shm", &["", "-wal", "-shm"][..]), ("without -shm", &["", "-wal"])] {
        let sandbox = Sandbox::new();
        let (running, app) = gym_with_a_wal(&sandbox);
        let db = sandbox.db("gym.db");
        as_if_killed(&running, &db, suffixes);
        let newest: i64 = app.query_row("SELECT max(id) FROM access_log", [], |row| row.get(0)).unwrap();
        let alone = sandbox.file("alone.db");
        as_if_killed(&running, &alone, &[""]);
        assert!(visits(&alone) < newest, "the newest rows are in the `-wal` only");
        let pulled = check_and_use(&sandbox, &db, what);
        assert_eq!(visits(&pulled.path), newest, "{what}");
    }
}

#[test]
fn an_application_killed_with_kill_9_can_go_on_after_pulls() {
    let sandbox = Sandbox::new();
    let db = sandbox.db("app.db");
    for seed in ["1", "2", "3"] {
        let mut app = Writer::start(&db, &["--journal", "wal", "--seed", seed]);
        app.commits(30);
        app.kill9();
        assert!(beside(&db, "-wal").metadata().unwrap().len() > 0);
        let sandbox = Sandbox::new();
        let pulled = check(&sandbox, &db, "an application killed at work");
        assert!(ledger::check(&pulled.path).seq >= app.newest());
    }
    can_be_used_at_once(&db);
}

#[test]
fn a_torn_last_frame_is_left_as_it_is_and_its_commit_is_no_commit() {
    for how in ["cut short", "flipped"] {
        let sandbox = Sandbox::new();
        let (running, app) = gym_with_a_wal(&sandbox);
        let before = app.query_row("SELECT max(id) FROM access_log", [], |row| row.get::<_, i64>(0)).unwrap();
        app.execute_batch(
            "INSERT INTO access_log(member_id, at, door, granted) VALUES (1, 'now', 'back', 1)",
        )
        .unwrap();
        let db = sandbox.db("gym.db");
        as_if_killed(&running, &db, &["", "-wal"]);
        let mut wal = fs::read(beside(&db, "-wal")).unwrap();
        let length = wal.len();
        match how {
            "flipped" => wal[length - 100] ^= 1,
            _ => wal.truncate(length - 1_000),
        }
        fs::write(beside(&db, "-wal"), wal).unwrap();
        let pulled = check_and_use(&sandbox, &db, &format!("a `-wal` whose last frame is {how}"));
        assert_eq!(visits(&pulled.path), before);
    }
}

#[test]
fn frames_of_an_earlier_time_in_the_wal_are_no_rows() {
    let sandbox = Sandbox::new();
    let (running, app) = gym_with_a_wal(&sandbox);
    let frames = beside(&running, "-wal").metadata().unwrap().len();
    // All of it goes into the database; the next commit begins the `-wal` anew, with other salts, over the old frames.
    app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    app.execute_batch("INSERT INTO access_log(member_id, at, door, granted) VALUES (1, 'now', 'back', 1)")
        .unwrap();
    assert_eq!(beside(&running, "-wal").metadata().unwrap().len(), frames, "old frames lie behind the new");
    let newest: i64 = app.query_row("SELECT max(id) FROM access_log", [], |row| row.get(0)).unwrap();
    let db = sandbox.db("gym.db");
    as_if_killed(&running, &db, &["", "-wal"]);
    let pulled = check_and_use(&sandbox, &db, "a `-wal` with frames of an earlier time");
    assert_eq!(visits(&pulled.path), newest);
}

#[test]
fn what_root_has_to_make_beside_a_database_belongs_to_its_owner() {
    let what = "a pull by root from a database of another user";
    if !privilege::is_root() {
        return privilege::skip(what, "this is not root");
    }
    for suffixes in [&[""][..], &["", "-wal"]] {
        let sandbox = Sandbox::new();
        let (running, _app) = gym_with_a_wal(&sandbox);
        let db = sandbox.db("gym.db");
        as_if_killed(&running, &db, suffixes);
        for path in fs::read_dir(sandbox.db("")).unwrap().map(|entry| entry.unwrap().path()) {
            privilege::give_to_nobody(&path);
            privilege::set_mode(&path, 0o640);
        }
        privilege::give_to_nobody(&sandbox.db(""));
        check(&sandbox, &db, what);
        assert_eq!(beside(&db, "-shm").metadata().unwrap().uid(), NOBODY);
        // The owner goes on, with no right of root's.
        let mut command = privilege::as_nobody(&sandbox, &programs::hostile_writer());
        command.arg(&db).args(["--journal", "wal", "--pause-ms", "10"]).stdout(Stdio::piped());
        let mut app = Reaped(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(app.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(ledger::Commit::from_line(line.trim()).is_some(), "`{line}` is no commit of the owner's");
    }
}

/// A process that is killed when the value goes.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_user_than_the_owner_is_told_whom_to_run_as_and_makes_nothing() {
    let what = "a pull by another user than the owner";
    if !privilege::is_root() {
        return privilege::skip(what, "this is not root");
    }
    let sandbox = Sandbox::new();
    let db = sandbox.db("gym.db");
    databases::gym(&db, 100_000, 4096);
    privilege::set_mode(&sandbox.db(""), 0o777);
    privilege::set_mode(&db, 0o666);
    let before = folder(&db);
    privilege::give_to_nobody(&sandbox.state());
    let mut pull = privilege::as_nobody(&sandbox, programs::puller());
    let store = sandbox.file("home").join("store");
    pull.args(["pull", "--json", "--store"]).arg(&store).arg(&db);
    let local = sandbox.run(&mut pull).exits(6);
    let agent = privilege::as_nobody(&sandbox, programs::agent());
    let served = Served::start_by(&sandbox, &[("gym", &db)], "", agent);
    let service = sandbox.pull(&[served.source("gym")]).fails("refused", 6).ran;
    drop(served);
    let mut backup = privilege::as_nobody(&sandbox, programs::agent());
    let file = sandbox.file("home").join("backup.db");
    let backup = sandbox.run(backup.arg("backup").arg(&db).arg(&file)).exits(6);
    for ran in [&local, &service, &backup] {
        assert!(ran.stderr.contains("belongs to user 0"), "{ran}");
        assert!(ran.stderr.contains(&format!("this runs as user {NOBODY}")), "{ran}");
        assert!(ran.stderr.contains("sudo -u '#0'"), "{ran}");
    }
    assert_eq!(folder(&db), before, "nothing is made, not even an empty `-wal`");
    assert!(!store.exists() && !file.exists() && !sandbox.store().exists());
}

/// The notes of a pull.
fn notes(pulled: &Pulled) -> String {
    pulled.json["notes"].to_string()
}

/// Rewrites about `bytes` of a database with what does not compress.
fn rewrite(db: &Path, bytes: i64, dice: &mut Dice) {
    let app = Connection::open(db).expect("a database can be opened");
    app.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL; BEGIN")
        .expect("settings can be made");
    app.execute_batch("CREATE TABLE IF NOT EXISTS noise(id INTEGER PRIMARY KEY, body BLOB)")
        .expect("a table can be made");
    for id in 0..bytes / 4_000 {
        let sql = "INSERT OR REPLACE INTO noise VALUES (?1, ?2)";
        app.execute(sql, params![id, dice.bytes(3_900)]).expect("a row can be written");
    }
    app.execute_batch("COMMIT").expect("a transaction can be committed");
}

/// Pulls from an agent with `lines` of configuration whose mirror is in its way: each copy is exact, each pull but those
/// of an unchanged source says `note`, and the state never takes more than `state_max` bytes.
#[track_caller]
fn check_without_a_mirror(sandbox: &Sandbox, lines: &str, note: &str, state_max: u64) {
    let db = sandbox.db("app.db");
    let mut dice = Dice::new(1);
    rewrite(&db, 3_000_000, &mut dice);
    let served = Served::start_with(sandbox, &[("app", &db)], lines);
    let pull = |what: &str| {
        let (pulled, most) =
            largest(|| used(&sandbox.state()), || sandbox.pull(&[served.source("app")]).succeeds(what));
        contents::assert_equal(&db, &pulled.path);
        assert!(most <= state_max, "the state had {most} bytes, with `{lines}`");
        assert!(notes(&pulled).contains(note), "{}", pulled.ran);
        assert_eq!(note.is_empty(), !notes(&pulled).contains("without its mirror"), "{}", pulled.ran);
        pulled
    };
    assert_eq!(pull("stored").transfer, "full");
    pull("unchanged");
    for bytes in [4_000, 1_000_000, 3_000_000, 6_000_000] {
        rewrite(&db, bytes, &mut dice);
        assert_eq!(pull("stored").transfer, "delta");
    }
    let shrink = "DELETE FROM noise WHERE id > 700; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)";
    Connection::open(&db).expect("a database can be opened").execute_batch(shrink).expect("it can shrink");
    pull("stored");
}

#[test]
fn an_agent_that_is_to_keep_no_mirror_keeps_none() {
    let sandbox = Sandbox::new();
    check_without_a_mirror(&sandbox, "mirror = \"discard\"", "", 64 * 1024);
    assert_eq!(used(&sandbox.state()), 0, "nothing is left in the state");
}

#[test]
fn a_small_max_state_costs_the_mirror_and_not_the_pull() {
    let sandbox = Sandbox::new();
    let note = "`max_state` keep the rest";
    check_without_a_mirror(&sandbox, "max_state = \"500 KiB\"", note, 500 * 1024);
}

#[test]
fn a_state_that_cannot_be_written_costs_the_mirror_and_not_the_pull() {
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.state()).unwrap();
    fs::write(sandbox.state(), "no folder").unwrap();
    check_without_a_mirror(&sandbox, "", "cannot be used", 0);
    let mode = sandbox.state().metadata().unwrap().permissions().mode();
    assert_eq!((fs::read(sandbox.state()).unwrap(), mode & 0o111), (b"no folder".to_vec(), 0));
}

#[test]
fn a_state_on_a_read_only_disk_costs_the_mirror_and_not_the_pull() {
    let sandbox = Sandbox::new();
    let what = "a state on a read-only disk";
    let Some(disk) = SmallDisk::mount(&sandbox.state(), "size=1m", what) else { return };
    disk.remount("ro");
    check_without_a_mirror(&sandbox, "", "cannot be used", 0);
}

#[test]
fn a_mirror_that_has_no_room_for_its_refresh_is_given_up_and_the_pull_goes_on() {
    let sandbox = Sandbox::new();
    let db = sandbox.db("app.db");
    let mut dice = Dice::new(2);
    rewrite(&db, 2_000_000, &mut dice);
    let served = Served::start_with(&sandbox, &[("app", &db)], "max_state = \"3 MiB\"");
    let pull = || {
        let (pulled, most) =
            largest(|| used(&sandbox.state()), || sandbox.pull(&[served.source("app")]).succeeds("stored"));
        contents::assert_equal(&db, &pulled.path);
        assert!(most <= 3 * 1024 * 1024, "the state had {most} bytes");
        pulled
    };
    assert!(!notes(&pull()).contains("without its mirror"));
    assert!(used(&sandbox.state()) > 2_000_000, "there is a mirror");
    rewrite(&db, 1_900_000, &mut dice);
    let pulled = pull();
    assert!(notes(&pulled).contains("needs more room"), "{}", pulled.ran);
    assert_eq!(pulled.transfer, "delta", "{}", pulled.ran);
    rewrite(&db, 4_000, &mut dice);
    assert!(!notes(&pull()).contains("without its mirror"), "a new mirror is made");
}

#[test]
fn a_second_puller_has_the_mirror_as_well_while_the_first_one_dawdles() {
    let sandbox = Sandbox::new();
    // Each copy is looked into by its path.
    sandbox.configure("pack = 'none'");
    let db = sandbox.db("app.db");
    let mut dice = Dice::new(3);
    // More than what may lie between the agent and a puller that does not read.
    rewrite(&db, 40_000_000, &mut dice);
    let served = Served::start_with(&sandbox, &[("app", &db)], "compression = \"none\"");
    let slow_store = sandbox.file("slow-store");
    let mut slow = sandbox.command(programs::puller());
    slow.args(["pull", "--json", "--store"]).arg(&slow_store).arg(served.source("app"));
    let mut slow = Reaped(slow.stdout(Stdio::null()).spawn().unwrap());
    let draft = slow_store.join("127.0.0.1/app/copies/draft-new.db");
    let pid = Pid::from_child(&slow.0);
    let started = Instant::now();
    while !draft.exists() {
        assert!(started.elapsed() < LIMIT, "there is no draft at {}", draft.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(pid, Signal::STOP).unwrap();
    // The application goes on as well: it is not waited for the puller that stands still.
    can_write_at_once(&db);
    let second = sandbox.pull(&[served.source("app")]).succeeds("stored");
    assert!(!notes(&second).contains("without its mirror"), "{}", second.ran);
    contents::assert_equal(&db, &second.path);
    // What the first one is still being sent is changed in the mirror meanwhile, several times.
    for round in 0..5 {
        can_write_at_once(&db);
        let sql = format!("UPDATE noise SET body = randomblob(length(body)) WHERE id % 50 = {round}");
        Connection::open(&db).and_then(|app| app.execute_batch(&sql)).expect("the application goes on");
        let further = sandbox.pull(&[served.source("app")]).succeeds("stored");
        assert!(!notes(&further).contains("without its mirror"), "{}", further.ran);
    }
    kill_process(pid, Signal::CONT).unwrap();
    assert!(wait(&mut slow.0, LIMIT).is_some_and(|status| status.success()));
    let copies = slow_store.join("127.0.0.1/app/copies");
    let copy = fs::read_dir(&copies).unwrap().map(|entry| entry.unwrap().path());
    let copy = copy.into_iter().find(|path| path.extension().is_some_and(|suffix| suffix == "db")).unwrap();
    let rows = |db: &Path| {
        let sql = "SELECT count(*) || ' ' || max(id) FROM noise";
        contents::open_read_only(db).query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(rows(&copy), "10000 9999", "the first one has what was there when it began");
    assert_eq!(rows(&second.path), "10001 10000");
}

/// Also everything that is in the `-wal` goes into the database, which a reader that stays would not let happen.
#[track_caller]
fn can_write_at_once(db: &Path) {
    let app = Connection::open(db).expect("a database can be opened");
    app.busy_timeout(Duration::ZERO).expect("a timeout can be set");
    app.execute_batch("INSERT INTO noise(body) VALUES ('more')").expect("nobody holds a lock");
    let busy: i64 = app
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .expect("a checkpoint can be made");
    assert_eq!(busy, 0, "somebody reads the database still");
}

/// A database of about `bytes` that compresses to a quarter, in WAL mode, closed.
fn fill(db: &Path, bytes: i64) {
    let app = databases::create(
        db,
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA cache_size = -4000",
    );
    app.execute_batch("CREATE TABLE heap(id INTEGER PRIMARY KEY, body BLOB); BEGIN")
        .expect("a table can be made");
    let mut dice = Dice::new(4);
    for _ in 0..bytes / 1_000_000 {
        let mut body = vec![0; 1_000_000];
        body.chunks_exact_mut(4_000).for_each(|page| page[3_000..].copy_from_slice(&dice.bytes(1_000)));
        app.execute("INSERT INTO heap(body) VALUES (?1)", [body]).expect("a row can be written");
    }
    app.execute_batch("COMMIT").expect("a transaction can be committed");
    drop(app);
    Connection::open(db)
        .and_then(|app| app.execute_batch("PRAGMA journal_mode = WAL"))
        .expect("the mode can be set");
}

#[test]
fn a_database_that_nearly_fills_its_disk_is_pulled_without_taking_the_rest_of_it() {
    let sandbox = Sandbox::new().with_limit(Duration::from_secs(120));
    let what = "a database of 300 MB on a disk of 400 MB";
    let Some(_disk) = SmallDisk::mount(&sandbox.db(""), "size=400m", what) else { return };
    let db = sandbox.db("app.db");
    fill(&db, 300_000_000);
    fs::create_dir(sandbox.db("state")).unwrap();
    fs::remove_dir(sandbox.state()).unwrap();
    symlink(sandbox.db("state"), sandbox.state()).unwrap();
    let app = Writer::start(&db, &["--journal", "wal", "--pause-ms", "2", "--no-vacuum"]);
    let agent = sandbox.command(programs::agent());
    let served = Served::start_by(&sandbox, &[("app", &db)], "", agent);
    // Unnamed files are seen only in what is gone from the disk; and not while the writer's own files change.
    let taken = || {
        let blocks = || {
            ["", "-wal", "-shm"].map(|suffix| beside(&db, suffix).metadata().map_or(0, |m| m.blocks() * 512))
        };
        let before = blocks();
        let stat = rustix::fs::statvfs(sandbox.db("")).expect("a disk can be asked");
        let all = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        if before == blocks() { all.saturating_sub(before.iter().sum()) } else { 0 }
    };
    for transfer in ["full", "delta"] {
        let told = app.newest();
        let (pulled, most) = largest(taken, || sandbox.pull(&[served.source("app")]).succeeds("stored"));
        println!("{transfer}: {most} bytes of state at most; {}", pulled.ran.stdout.trim());
        assert_eq!(pulled.transfer, transfer, "{}", pulled.ran);
        assert!(notes(&pulled).contains("without its mirror"), "{}", pulled.ran);
        assert!(most <= 4 * 1024 * 1024, "the agent took {most} bytes of a disk that is nearly full");
        let copied = ledger::check(&pulled.path);
        assert!(copied.seq >= told, "{copied} was copied though {told} was made before");
        app.confirm(copied);
        // It ends by itself when a commit fails, be it for want of room.
        app.commits(5);
        let rounds = served.log().matches("pulled").count();
        assert!(rounds > 5, "all of it came in {rounds} rounds, so the spool was no narrow place");
    }
}
