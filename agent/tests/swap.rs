//! A replacement of a target in a process of its own: watched, and killed, at its system calls, with the public tool `strace`,
//! where there is one.

#![cfg(target_os = "linux")]

use pullback_agent::aside::Aside;
use pullback_agent::swap::{Looks, finish_begun, replace};
use pullback_shared::header::Journal;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const STAMP: &str = "20261121T101112Z";

const FILES: [&str; 4] = ["X-wal", "X-shm", "X-journal", "X"];

/// What the process of `a_process` does, and to which target.
const WORK: &str = "SWAP_TEST_WORK";
const TARGET: &str = "SWAP_TEST_TARGET";

/// A directory with a target `X`, all four files of it, and elsewhere a log.
struct Scene {
    dir: tempfile::TempDir,
    target: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let target = dir.path().join("dir/X");
        fs::create_dir(dir.path().join("dir")).expect("a directory can be made");
        for name in FILES {
            fs::write(target.with_file_name(name), format!("old {name}")).expect("a file can be written");
        }
        Self { dir, target }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Everything in the target's directory and below.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let root = self.dir.path().join("dir");
        let (mut files, mut dirs) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a directory can be read") {
                let path = entry.expect("a directory can be read").path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => {
                        let text = fs::read_to_string(&path).expect("a file can be read");
                        files.insert(path.strip_prefix(&root).unwrap_or(&path).to_owned(), text);
                    }
                }
            }
        }
        files
    }

    fn expected(is_replaced: bool) -> BTreeMap<PathBuf, String> {
        let dir = if is_replaced { format!("X.quarantine-{STAMP}") } else { String::new() };
        let mut files: BTreeMap<PathBuf, String> =
            FILES.iter().map(|name| (Path::new(&dir).join(name), format!("old {name}"))).collect();
        if is_replaced {
            files.insert("X".into(), "new".to_owned());
        }
        files
    }

    /// Does `work` in a process under `strace`; whether it came to its end.
    fn traced(&self, work: &str, how: &[&str]) -> bool {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-qq", "-s", "4096", "-o"]).arg(self.log()).args(how);
        command.arg(std::env::current_exe().expect("a test knows where it is"));
        command.args(["--exact", "a_process", "--ignored"]).env(WORK, work).env(TARGET, &self.target);
        command.output().expect("`strace` can be run").status.success()
    }
}

fn is_usable() -> bool {
    let tried = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output();
    let is_usable = tried.is_ok_and(|output| output.status.success());
    if !is_usable {
        eprintln!("SKIPPED: watching and killing at system calls: there is no `strace` here that may trace");
    }
    is_usable
}

#[test]
#[ignore = "it is what the other tests start"]
fn a_process() {
    let (Ok(work), Some(target)) = (std::env::var(WORK), std::env::var_os(TARGET)) else { return };
    let target = PathBuf::from(target);
    if work == "finish" {
        finish_begun(&target).expect("what was begun can be finished");
        return;
    }
    let aside = Aside::beside(&target).expect("a file can be made");
    aside.file().write_all(b"new").expect("a file can be written");
    let looks = Looks { journal: Journal::Rollback, mode: 0o600, owner: None };
    replace(aside, &target, &looks, STAMP).expect("the target can be replaced");
}

#[test]
fn every_name_is_durable_before_the_next_one_changes() {
    if !is_usable() {
        return;
    }
    let scene = Scene::new();
    assert!(scene.traced("replace", &["-e", "trace=fsync,?renameat2,?mkdir,?mkdirat,?unlink,?unlinkat"]));
    assert_eq!(scene.files(), Scene::expected(true));
    let log = fs::read_to_string(scene.log()).expect("there is a log");
    let dir = scene.target.parent().and_then(Path::to_str).expect("a directory has a plain name");
    let short = |path: &str| {
        let path = path.strip_prefix(dir).unwrap_or(path).trim_start_matches('/').replace(STAMP, "S");
        let path = path.split("pullback-aside-").next().unwrap_or_default().to_owned();
        if path.is_empty() { "the directory".to_owned() } else { path }
    };
    let mut done = Vec::new();
    for line in log.lines().filter(|line| line.contains(dir) && line.ends_with("= 0")) {
        let (call, rest) = line.split_once('(').expect("a call has arguments");
        let call = call.rsplit(' ').next().unwrap_or_default();
        let paths: Vec<String> = match call {
            "fsync" => rest.split(['<', '>']).skip(1).step_by(2).map(short).collect(),
            _ => rest.split('"').skip(1).step_by(2).map(short).collect(),
        };
        done.push(format!("{} {}", call.trim_end_matches("at"), paths.join(" ")));
    }
    let mut expected = vec![
        "fsync .X.".to_owned(),
        "fsync .X.".to_owned(),
        "renameat2 .X. X.pullback-restore".to_owned(),
        "fsync the directory".to_owned(),
        "mkdir X.quarantine-S".to_owned(),
        "fsync the directory".to_owned(),
    ];
    for name in FILES {
        expected.push(format!("renameat2 {name} X.quarantine-S/{name}"));
        expected.extend(["fsync X.quarantine-S".to_owned(), "fsync the directory".to_owned()]);
    }
    expected.extend(["renameat2 .X. X".to_owned(), "fsync the directory".to_owned()]);
    expected.extend(["unlink X.pullback-restore".to_owned(), "fsync the directory".to_owned()]);
    assert_eq!(done, expected);
}

#[test]
fn a_file_system_without_renames_that_replace_nothing_will_do() {
    if !is_usable() {
        return;
    }
    let scene = Scene::new();
    assert!(scene.traced("replace", &["-e", "trace=?renameat2", "-e", "inject=?renameat2:error=EINVAL"]));
    assert_eq!(scene.files(), Scene::expected(true));
    let log = fs::read_to_string(scene.log()).expect("there is a log");
    assert!(log.matches("(INJECTED)").count() >= FILES.len() + 2, "{log}");
}

#[test]
fn an_error_of_any_system_call_leaves_the_old_database_or_what_finishes_the_new_one() {
    if !is_usable() {
        return;
    }
    let mut errors = 0;
    for call in ["fsync", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "fchmod"] {
        for nth in 1.. {
            let scene = Scene::new();
            let inject = format!("inject=?{call}:error=EIO:when={nth}");
            if scene.traced("replace", &["-e", &format!("trace=?{call}"), "-e", &inject]) {
                break;
            }
            errors += 1;
            let record = scene.target.with_file_name("X.pullback-restore");
            let is_replaced = scene.target.with_file_name(format!("X.quarantine-{STAMP}")).exists();
            // Everything is back; or only the record is still there, or nobody knows whether it will be after a power cut.
            let is_begun = record.exists();
            assert!(is_replaced || !is_begun, "EIO of {call} no. {nth}");
            assert_eq!(is_replaced && !is_begun, (call, nth) == ("fsync", 14));
            let finished = finish_begun(&scene.target).expect("what was begun can be finished");
            assert_eq!(finished.map(|finished| finished.is_replaced), is_begun.then_some(true));
            assert_eq!(scene.files(), Scene::expected(is_replaced), "EIO of {call} no. {nth}");
        }
    }
    assert!(errors > 20, "{errors} errors");
}

#[test]
fn a_process_killed_at_any_system_call_leaves_the_old_database_or_the_new_one() {
    if !is_usable() {
        return;
    }
    let mut kills = 0;
    for work in ["replace", "finish"] {
        for call in ["fsync", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "fchmod", "flock"] {
            for nth in 1.. {
                let scene = Scene::new();
                let kill = |call: &str, nth: i32| format!("inject=?{call}:signal=KILL:when={nth}");
                if work == "finish" {
                    // Dead with two files moved.
                    assert!(!scene.traced("replace", &["-e", &kill("renameat2", 4)]));
                }
                let is_over = scene.traced(work, &["-e", &format!("trace=?{call}"), "-e", &kill(call, nth)]);
                kills += usize::from(!is_over);
                let is_begun = scene.target.with_file_name("X.pullback-restore").exists();
                let finished = finish_begun(&scene.target).expect("what was begun can be finished");
                assert_eq!(finished.is_some(), is_begun, "{work} killed at {call} no. {nth}");
                let is_replaced = scene.target.with_file_name(format!("X.quarantine-{STAMP}")).exists();
                assert_eq!(scene.files(), Scene::expected(is_replaced), "{work} killed at {call} no. {nth}");
                assert!(finished.is_none_or(|finished| finished.is_replaced && is_replaced));
                assert!(is_replaced || work == "replace");
                if is_over {
                    break;
                }
            }
        }
    }
    assert!(kills > 30, "{kills} kills");
}
