//! Random steps of writers, pullers, lines that are cut, deaths and rot: each copy is the source, and nobody is ever stuck.

use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::{Ran, Sandbox, signal};
use pullback_tests::served::Served;
use rusqlite::{Connection, ErrorCode};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Walk<'a> {
    dice: Dice,
    sandbox: &'a Sandbox,
    source: PathBuf,
    served: Served<'a>,
    relay: Relay,
    /// Each puller has a store of its own.
    stores: [PathBuf; 2],
    told: Vec<String>,
}

impl Walk<'_> {
    fn tell(&mut self, step: impl Into<String>) {
        self.told.push(step.into());
    }

    fn below(&mut self, high: i64) -> i64 {
        self.dice.between(0, high)
    }

    fn sql(&mut self, sql: &str) {
        self.tell(sql);
        let began = Instant::now();
        // A change of the journal mode needs the database for itself, and a hold that lost its puller may still go on.
        while let Err(error) = Connection::open(&self.source).and_then(|c| c.execute_batch(sql)) {
            let busy = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
            assert!(busy && began.elapsed() < Duration::from_secs(5), "{error}\n{:#?}", self.told);
        }
    }

    fn write(&mut self) {
        let (some, days) = (self.below(60) + 2, self.below(10_000));
        match self.below(9) {
            0 => self.sql("VACUUM"),
            1 => self.sql(&format!("DELETE FROM access_log WHERE id % {some} = 0")),
            2 => self.sql(&format!(
                "INSERT INTO access_log SELECT (SELECT max(id) FROM access_log) + a.id, a.member_id, a.at, a.door, 1
                 FROM (SELECT row_number() OVER () AS id, member_id, at, door FROM access_log LIMIT {}) a",
                some * 30
            )),
            3 => {
                let size = 512 << self.below(5);
                self.sql(&format!("PRAGMA journal_mode=DELETE; PRAGMA page_size={size}; VACUUM; PRAGMA journal_mode=WAL"));
            }
            4 => self.sql("CREATE TABLE IF NOT EXISTS extra(a); INSERT INTO extra SELECT randomblob(3000) FROM members LIMIT 40"),
            5 => self.sql("DROP TABLE IF EXISTS extra"),
            _ => self.sql(&format!("UPDATE access_log SET at = {days} WHERE id % {some} = 1")),
        }
    }

    fn flip(&mut self, file: &Path) {
        let Ok(mut bytes) = fs::read(file) else { return };
        if bytes.is_empty() {
            return;
        }
        self.tell(format!("rot in {}", file.display()));
        let at = self.below(bytes.len() as i64) as usize;
        bytes[at] ^= 1 << self.below(8);
        let mode = fs::metadata(file).expect("the file is there").permissions();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
        fs::write(file, bytes).expect("a file can rot");
        fs::set_permissions(file, mode).expect("a mode can be set");
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files
    }

    fn harm(&mut self) {
        match self.below(5) {
            0 => {
                self.tell("the agent dies and comes back");
                self.served.restart();
            }
            1 => {
                self.tell("the agent's state is gone");
                self.served.kill9();
                fs::remove_dir_all(self.sandbox.state()).ok();
                self.served.restart();
            }
            2 => {
                for mirror in Self::files(&self.sandbox.state().join("mirrors")) {
                    let files = Self::files(&mirror);
                    let which = self.below(files.len().max(1) as i64) as usize;
                    files.get(which).cloned().into_iter().for_each(|file| self.flip(&file));
                }
            }
            _ => {
                let which = self.below(2) as usize;
                let copies = Self::files(&self.stores[which].join("127.0.0.1/gym/copies"));
                let newest =
                    copies.iter().rfind(|file| file.extension().is_some_and(|e| e == "db" || e == "pages"));
                newest.cloned().into_iter().for_each(|file| self.flip(&file));
            }
        }
    }

    /// A pull that is cut, or whose puller dies: it may fail in any way that is documented.
    fn cut_pull(&mut self) {
        let which = self.below(2) as usize;
        let bytes = self.below(600_000) as u64;
        self.tell(format!("puller {which} is cut after {bytes} bytes"));
        self.relay.cut_after(Some(bytes));
        let ran = self.sandbox.puller_in(&self.stores[which], &["pull", "--name", "gym", &self.through()]);
        assert!([0, 4, 5].contains(&ran.code()), "{ran}\n{:#?}", self.told);
    }

    fn killed_pull(&mut self) {
        let which = self.below(2) as usize;
        let after = self.below(60) as u64;
        self.tell(format!("puller {which} dies after {after} ms"));
        self.relay.cut_after(None);
        let mut command = self.sandbox.command(pullback_tests::programs::puller());
        command.arg("--store").arg(&self.stores[which]).args(["pull", "--name", "gym", &self.through()]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("puller starts");
        pullback_tests::sandbox::wait(&mut child, Duration::from_millis(after));
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    fn through(&self) -> String {
        format!("{}/gym", self.relay.address())
    }

    /// A pull that nothing disturbs.
    fn pull(&mut self) {
        let which = self.below(2) as usize;
        self.pull_by(which);
    }

    /// It succeeds, whatever came before, and its copy is the source.
    fn pull_by(&mut self, which: usize) {
        self.tell(format!("puller {which} pulls"));
        self.relay.cut_after(None);
        let store = self.stores[which].clone();
        let ran = self.sandbox.puller_in(&store, &["pull", "--name", "gym", "--json", &self.through()]);
        self.is_stored(&ran, &[self.local()]);
        // A pull that was disturbed leaves nothing behind that the next success does not clear.
        let left = Self::files(&store.join("127.0.0.1/gym/copies"));
        let drafts = left.iter().filter(|file| file.to_string_lossy().contains("/draft-")).count();
        assert_eq!(drafts, 0, "{left:?}\n{:#?}", self.told);
    }

    /// The pull that `ran` succeeded, and what it has is one of `states`, as the local door gave them.
    #[track_caller]
    fn is_stored(&self, ran: &Ran, states: &[(String, Vec<u8>)]) {
        assert!([0, 4].contains(&ran.code()), "{ran}\n{:#?}", self.told);
        let pulled = ran.only_json();
        let outcome = pulled["outcome"].as_str().expect("an outcome");
        assert!(["stored", "unchanged"].contains(&outcome), "{ran}\n{:#?}", self.told);
        let state = states.iter().find(|state| pulled["snapshot"] == state.0);
        let state = state.unwrap_or_else(|| panic!("no state of the source: {ran}\n{:#?}", self.told));
        let copy = fs::read(pulled["path"].as_str().expect("a path")).expect("a copy");
        assert!(copy == state.1, "the bytes differ: {ran}\n{:#?}", self.told);
    }

    /// The name and the bytes of the source as it is, through the other door, with no mirror and no base.
    fn local(&self) -> (String, Vec<u8>) {
        let check = self.sandbox.file("check");
        fs::remove_dir_all(check.join("local")).ok();
        let source = self.source.to_str().expect("the path is text").to_owned();
        let local =
            self.sandbox.puller_in(&check, &["pull", "--name", "check", "--json", &source]).only_json();
        let word = |field: &str| local[field].as_str().expect("a word").to_owned();
        (word("snapshot"), fs::read(word("path")).expect("a copy"))
    }

    /// The agent comes to the end of a pull, and of the puller nothing is left of it: it died before its commit, or its
    /// store was put back from a backup. The agent knows newer snapshots than the puller.
    fn lost_end(&mut self) {
        let which = self.below(2) as usize;
        let times = self.below(3) + 1;
        self.tell(format!("puller {which} loses its next {times} copies"));
        let (store, aside) = (self.stores[which].clone(), self.sandbox.file("aside"));
        if !store.exists() {
            self.pull_by(which);
        }
        copy_folder(&store, &aside);
        for _ in 0..times {
            self.write();
            self.pull_by(which);
        }
        fs::remove_dir_all(&store).expect("a store can be removed");
        fs::rename(&aside, &store).expect("a store can be put back");
        self.tell(format!("puller {which} has lost them"));
        if self.below(2) == 0 {
            self.pull_by(which);
        }
    }

    /// One puller's base grows old while the other one pulls.
    fn old_base(&mut self) {
        let which = self.below(2) as usize;
        for _ in 0..self.below(3) + 2 {
            self.write();
            self.pull_by(1 - which);
        }
        self.pull_by(which);
    }

    /// For a while the agent keeps no mirror.
    fn without_mirror(&mut self) {
        self.tell("the agent is to keep no mirror");
        self.served.restart_with("mirror = \"discard\"");
        for _ in 0..self.below(3) + 1 {
            self.write();
            self.pull();
        }
        self.tell("the agent is to keep a mirror again");
        self.served.restart_with("");
    }

    /// One puller stands still in the middle of a pull, while the source changes and the other one pulls; then it goes on.
    fn paused_pull(&mut self) {
        let which = self.below(2) as usize;
        let after = self.below(40) as u64;
        self.tell(format!("puller {which} begins"));
        self.relay.cut_after(None);
        let mut states = vec![self.local()];
        let mut command = self.sandbox.command(pullback_tests::programs::puller());
        command.arg("--store").arg(&self.stores[which]);
        command.args(["pull", "--name", "gym", "--json", &self.through()]);
        let puller = self.sandbox.start(&mut command);
        std::thread::sleep(Duration::from_millis(after));
        signal(puller.pid(), Signal::STOP);
        self.tell(format!("puller {which} stands still after {after} ms"));
        for _ in 0..self.below(3) {
            self.write();
            states.push(self.local());
            if self.below(3) > 0 {
                self.pull_by(1 - which);
            }
        }
        signal(puller.pid(), Signal::CONT);
        self.tell(format!("puller {which} goes on"));
        // Where it had not begun to read, it has what the source is now.
        self.is_stored(&puller.finish(), &states);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.is_ok_and(|status| status.success()), "a folder can be copied");
}

fn walk(seed: u64, steps: usize) {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym_with_seed(&source, 600_000, 4096, seed);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    let relay = Relay::to(served.address());
    let stores = [sandbox.file("store-0"), sandbox.file("store-1")];
    let mut walk =
        Walk { dice: Dice::new(seed), sandbox: &sandbox, source, served, relay, stores, told: Vec::new() };
    for _ in 0..steps {
        match walk.below(14) {
            0..4 => walk.write(),
            4 | 5 => walk.pull(),
            6 => walk.cut_pull(),
            7 => walk.killed_pull(),
            8 => walk.harm(),
            9 => walk.lost_end(),
            10 => walk.old_base(),
            11 => walk.without_mirror(),
            12 => walk.paused_pull(),
            _ => {
                walk.write();
                walk.pull();
            }
        }
    }
    walk.pull();
}

#[test]
fn walks_of_the_first_kind() {
    (1..=4).for_each(|seed| walk(seed, 45));
}

#[test]
fn walks_of_the_second_kind() {
    (101..=104).for_each(|seed| walk(seed, 45));
}
