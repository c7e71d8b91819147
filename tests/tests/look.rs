//! Looking into copies: `cat`, `sql`, `open` and `list --long`, of copies in whatever form; and never into one that rotted.

use pullback_tests::databases;
use pullback_tests::privilege::{self, skip};
use pullback_tests::programs;
use pullback_tests::sandbox::{self, Ran, Sandbox, wait_until};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A table with each kind of value, of which integers are beyond what a double can tell apart.
const VALUES: &str = "CREATE TABLE v(i, r, t, b, n);
    INSERT INTO v VALUES (9007199254740993, 1.0, 'a\tb', x'00ff', NULL), (-9223372036854775808, 1e300, '회원', x'', NULL)";

/// Three copies of one gym, of which the older ones are kept as deltas.
struct Shelf {
    sandbox: Sandbox,
    copies: Vec<String>,
}

impl Shelf {
    fn stock() -> Self {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        databases::gym(&source, 300_000, 4096);
        let config = sandbox.file("home/xdg_config_home/pullback");
        fs::create_dir_all(&config).expect("a folder can be made");
        fs::write(config.join("puller.toml"), "pack = \"delta\"\n").expect("a file can be written");
        let pull =
            || sandbox.pull(&[source.to_str().expect("text"), "--name", "gym"]).succeeds("stored").copy;
        let mut copies = vec![pull()];
        databases::visits_in_the_wal(&source, 100);
        copies.push(pull());
        Connection::open(&source).and_then(|db| db.execute_batch(VALUES)).expect("a table can be made");
        databases::add_noise(&source, 500_000);
        copies.push(pull());
        Self { sandbox, copies }
    }

    fn copies_dir(&self) -> PathBuf {
        self.sandbox.store().join("local/gym/copies")
    }

    /// What `words` print for scripts in a shell, where `puller` is the program with its store.
    fn shell(&self, words: &str) -> Ran {
        let puller =
            format!("'{}' --store '{}'", programs::puller().display(), self.sandbox.store().display());
        let mut shell = self.sandbox.command(Path::new("/bin/sh"));
        self.sandbox.run(shell.args(["-c", &words.replace("puller", &puller)]))
    }

    fn sql(&self, words: &[&str]) -> Ran {
        self.sandbox.puller(&[&["sql", "gym"], words].concat())
    }

    /// Flips a bit of the newest copy.
    fn rot(&self) {
        let newest = self.copies_dir().join(format!("{}.db", self.copies[2]));
        let mut bytes = fs::read(&newest).expect("a copy can be read");
        bytes[20_000] ^= 1;
        fs::set_permissions(&newest, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
        fs::write(&newest, bytes).expect("a copy can be written");
    }
}

#[test]
fn cat_writes_each_copy_byte_for_byte_and_checksums_are_those_of_what_it_writes() {
    let shelf = Shelf::stock();
    let packed = |copy: &String| !shelf.copies_dir().join(format!("{copy}.db")).exists();
    assert_eq!(shelf.copies.iter().map(packed).collect::<Vec<_>>(), [true, true, false]);
    for copy in &shelf.copies {
        shelf
            .shell(&format!("puller cat gym {copy} > out.db && puller --json cat gym {copy} | cmp - out.db"))
            .exits(0);
        let out = shelf.sandbox.db("out.db");
        let sums = shelf.sandbox.puller(&["show", "gym", copy, "--checksums", "--json"]).exits(0).only_json();
        let b3 = blake3::hash(&fs::read(&out).unwrap()).to_hex();
        assert_eq!(sums["blake3"], json!(b3.as_str()));
        let bytes =
            shelf.sandbox.puller(&["show", "gym", copy, "--json"]).exits(0).only_json()["bytes"].clone();
        assert_eq!(bytes, json!(fs::metadata(&out).unwrap().len()));
        let visits = |db: &Path| -> i64 {
            let db = Connection::open(db).unwrap();
            db.query_row("SELECT count(*) FROM access_log", [], |row| row.get(0)).unwrap()
        };
        let asked = shelf.sql(&[copy, "SELECT count(*) FROM access_log"]).exits(0);
        assert_eq!(asked.stdout.trim(), visits(&out).to_string());
    }
    let plain = shelf.copies_dir().join(format!("{}.db", shelf.copies[2]));
    assert_eq!(fs::read(shelf.sandbox.db("out.db")).unwrap(), fs::read(plain).unwrap());
}

#[test]
fn a_reader_that_leaves_is_no_failure_and_a_full_disk_is_one() {
    let shelf = Shelf::stock();
    let left = shelf.shell("{ puller cat gym; echo $? >&2; } | head -c 1 >/dev/null").exits(0);
    assert_eq!(left.stderr, "0\n");
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let left = shelf.shell(&format!("{{ puller sql gym '{sql}'; echo $? >&2; }} | head -1")).exits(0);
    assert_eq!(
        (left.stdout.as_str(), left.stderr.as_str()),
        ("1\n", "0\n"),
        "rows stream, without an end too"
    );
    match Path::new("/dev/full").exists() {
        true => {
            shelf.shell("puller cat gym > /dev/full").exits(8);
            shelf.shell("puller sql gym 'SELECT 1' > /dev/full").exits(8);
        }
        false => skip("a full disk", "this system has no /dev/full"),
    }
}

#[test]
fn no_rot_is_told_as_if_it_were_rows() {
    let shelf = Shelf::stock();
    shelf.rot();
    for words in ["puller cat gym", "puller sql gym 'SELECT 1'", "puller open gym --program cat"] {
        let ran = shelf.shell(words).exits(4);
        assert!(ran.stdout.is_empty() && ran.stderr.contains("is rotten: "), "{ran}");
    }
}

#[test]
fn sql_gives_values_as_they_are() {
    let shelf = Shelf::stock();
    let lines = shelf.sql(&["SELECT * FROM v"]).exits(0);
    let expected = "9007199254740993\t1.0\ta\tb\t00ff\t\n-9223372036854775808\t1e300\t회원\t\t\n";
    assert_eq!(lines.stdout, expected);
    let rows = shelf.sql(&["SELECT i, r, t, b, n, i + 0 AS i FROM v", "--json"]).exits(0).json();
    let first = json!({"i": 9_007_199_254_740_993_i64, "r": 1.0, "t": "a\tb", "b": {"hex": "00ff"}, "n": null, "i_2": 9_007_199_254_740_993_i64});
    assert_eq!(rows.iter().map(|line| line["row"].clone()).collect::<Vec<Value>>()[0], first);
    assert_eq!(rows[1]["row"]["i"], json!(i64::MIN));
    assert_eq!(shelf.shell("echo 'SELECT count(*) FROM v' | puller sql gym -").exits(0).stdout, "2\n");
    let none = shelf.sql(&["SELECT * FROM v WHERE i = 1"]).exits(0);
    assert_eq!(none.stdout, "");
    // A copy that was made before the table.
    assert!(shelf.sql(&["latest~1", "SELECT * FROM v"]).exits(2).stderr.contains("no such table: v"));
    assert!(shelf.sql(&["PRAGMA integrity_check"]).exits(0).stdout.starts_with("ok"));
}

#[test]
fn sql_writes_nothing_and_opens_no_other_file() {
    let shelf = Shelf::stock();
    let newest = shelf.copies_dir().join(format!("{}.db", shelf.copies[2]));
    let before = fs::read(&newest).unwrap();
    let other = shelf.sandbox.db("gym.db");
    let attach = format!("ATTACH '{}' AS other", other.display());
    let into = format!("VACUUM INTO '{}'", shelf.sandbox.db("into.db").display());
    for sql in [
        "DELETE FROM v",
        "CREATE TEMP TABLE x(a)",
        "PRAGMA user_version = 7",
        "BEGIN",
        &into,
        &attach,
        "SELECT 1; DELETE FROM v",
        "nonsense",
        "",
    ] {
        let ran = shelf.sql(&[sql]).exits(2);
        assert!(ran.stdout.is_empty(), "{ran}");
    }
    assert!(!shelf.sandbox.db("into.db").exists() && fs::read(&newest).unwrap() == before);
    assert_eq!(fs::metadata(&newest).unwrap().mode() & 0o777, 0o400);
    let beside = fs::read_dir(shelf.copies_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(beside.into_iter().all(|name| !name.to_string_lossy().contains("-wal")));
}

#[test]
fn on_a_terminal_values_command_nothing_and_a_database_is_not_shown() {
    let shelf = Shelf::stock();
    let has_script = Path::new("/usr/bin/script").exists() && cfg!(target_os = "linux");
    if !has_script {
        return skip("a terminal", "there is no `script` of util-linux");
    }
    let at_terminal = |words: &str| {
        let puller =
            format!("'{}' --store '{}'", programs::puller().display(), shelf.sandbox.store().display());
        let mut script = shelf.sandbox.command(Path::new("/usr/bin/script"));
        shelf.sandbox.run(script.args(["-qec", &words.replace("puller", &puller), "/dev/null"]))
    };
    let shown = at_terminal("puller sql gym \"SELECT 1 AS one, char(27) || '[2J' AS two\"").exits(0);
    assert!(shown.stdout.contains("one") && shown.stdout.contains("\\u{1b}[2J"), "{shown}");
    assert!(!shown.stdout.contains('\u{1b}'), "{shown}");
    assert!(at_terminal("puller cat gym").exits(2).stdout.contains("puller cat gym > FILE"));
}

#[test]
fn open_starts_a_program_on_a_private_path_that_goes_afterwards() {
    let shelf = Shelf::stock();
    let program = shelf.sandbox.file("program");
    fs::write(&program, "#!/bin/sh\necho \"$1\"; head -c 6 \"$1\"; exit 9\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (copy, is_packed) in [("latest~1", true), ("latest", false)] {
        let ran =
            shelf.sandbox.puller(&["open", "gym", copy, "--program", program.to_str().unwrap()]).exits(0);
        let (path, begins) = ran.stdout.split_once('\n').unwrap();
        assert_eq!((begins, Path::new(path).exists()), ("SQLite", !is_packed), "{ran}");
    }
    let none = shelf.sandbox.puller(&["open", "gym", "--program", "/nowhere/sqlite3"]).exits(1);
    assert!(none.stderr.contains("puller sql gym"), "{none}");
}

#[test]
fn open_is_sqlite3_for_reading() {
    let shelf = Shelf::stock();
    if shelf
        .sandbox
        .run(shelf.sandbox.command(Path::new("/bin/sh")).args(["-c", "command -v sqlite3"]))
        .code()
        != 0
    {
        return skip("`puller open`", "there is no sqlite3");
    }
    let typed = r"SELECT count(*) FROM v;\nDELETE FROM v;\nSELECT count(*) FROM v;\n";
    let ran = shelf.shell(&format!("printf '{typed}' | puller open gym")).exits(0);
    assert_eq!(ran.stdout, "2\n2\n");
    assert!(ran.stderr.contains("readonly"), "{ran}");
}

#[test]
fn ctrl_c_is_for_the_program_and_what_was_unpacked_goes_with_it() {
    let shelf = Shelf::stock();
    let (program, began) = (shelf.sandbox.file("program"), shelf.sandbox.file("began"));
    let mut script = fs::File::create(&program).unwrap();
    write!(script, "#!/bin/sh\necho > '{}'; read line; echo \"$line\"\n", began.display()).unwrap();
    drop(script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = shelf.sandbox.command(programs::puller());
    command
        .arg("--store")
        .arg(shelf.sandbox.store())
        .args(["open", "gym", "latest~1", "--program"])
        .arg(&program);
    let (input, mut typed) = std::io::pipe().unwrap();
    let running = shelf.sandbox.start(command.stdin(Stdio::from(input)));
    drop(command);
    wait_until("the program", || began.exists());
    sandbox::signal(running.pid(), Signal::INT);
    typed.write_all(b"goes on\n").unwrap();
    drop(typed);
    let ran = running.finish().exits(0);
    assert_eq!(ran.stdout, "goes on\n");
    let left = fs::read_dir(shelf.copies_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
}

#[test]
fn list_tells_growth_change_and_space_by_copy() {
    let shelf = Shelf::stock();
    let copies = shelf.sandbox.puller(&["list", "gym", "--json"]).exits(0).json();
    let bytes: Vec<i64> = copies.iter().map(|copy| copy["bytes"].as_i64().unwrap()).collect();
    assert_eq!(copies[0]["growth_bytes"], Value::Null);
    assert_eq!(copies[0]["changed_pages"], Value::Null);
    assert!(copies[2]["growth_bytes"].as_i64().unwrap() > 0, "{}", copies[2]);
    for at in 1..3 {
        assert_eq!(copies[at]["growth_bytes"], json!(bytes[at] - bytes[at - 1]));
        let changed = copies[at]["changed_pages"].as_u64().unwrap();
        assert!(changed > 0 && changed < copies[at]["page_count"].as_u64().unwrap(), "{}", copies[at]);
    }
    let mut all = 0;
    for copy in &copies {
        let id = copy["copy"].as_str().unwrap();
        let files = fs::read_dir(shelf.copies_dir()).unwrap().map(|entry| entry.unwrap());
        let its = files.filter(|file| file.file_name().to_string_lossy().starts_with(&format!("{id}.")));
        let blocks: u64 = its.map(|file| file.metadata().unwrap().blocks() * 512).sum();
        assert_eq!(copy["stored_bytes"], json!(blocks), "{copy}");
        assert!(Path::new(copy["path"].as_str().unwrap()).exists(), "{copy}");
        all += blocks;
    }
    assert!(copies[0]["path"].as_str().unwrap().ends_with(".delta.gz"), "{}", copies[0]);
    let long = shelf.sandbox.puller(&["list", "gym", "--long"]).exits(0).stdout;
    let total = long.lines().find(|line| line.starts_with("copies: 3")).expect("a line of totals");
    let share = all * 100 / u64::try_from(bytes.iter().sum::<i64>()).unwrap();
    assert!(total.ends_with(&format!(", {share} % of that")), "{total} is not of {share} %");
    assert!(long.contains("GROWTH") && long.contains("ON DISK"), "{long}");
}

#[test]
fn a_packed_copy_is_looked_into_where_its_store_is_for_reading() {
    if !privilege::is_root() {
        return skip("a store that is somebody else's", "only root can run as another user");
    }
    let shelf = Shelf::stock();
    let readable =
        shelf.sandbox.command(Path::new("chmod")).args(["-R", "a+rX"]).arg(shelf.sandbox.store()).status();
    assert!(readable.is_ok_and(|status| status.success()));
    for words in ["sql gym latest~1 'SELECT count(*) FROM members'", "show gym latest~1 --checksums"] {
        let mut command = privilege::as_nobody(&shelf.sandbox, programs::puller());
        let words: Vec<&str> = words.splitn(4, ' ').map(|word| word.trim_matches('\'')).collect();
        let read = shelf.sandbox.run(command.arg("--store").arg(shelf.sandbox.store()).args(&words)).exits(0);
        let owner = shelf.sandbox.puller(&words).exits(0);
        assert!(read.stdout == owner.stdout && !read.stdout.is_empty(), "{read}");
    }
}
