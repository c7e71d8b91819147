//! What only root can set up, and a word to whoever watches where it cannot be.

use crate::sandbox::Sandbox;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A user that owns nothing here. Its name differs between systems, so the number counts.
pub const NOBODY: u32 = 65_534;

/// Whether this test may become another user and mount disks.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that `what` was not shown, past the test harness, which hides what passing tests print.
pub fn skip(what: &str, why: &str) {
    let line = format!("\nSKIPPED: {what}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
}

/// `program` to be run in `sandbox` as a user that owns nothing there. Only for root.
pub fn as_nobody(sandbox: &Sandbox, program: &Path) -> Command {
    let home = sandbox.file("home");
    set_mode(home.parent().expect("a home lies in its sandbox"), 0o711);
    give_to_nobody(&home);
    // The program may lie where that user cannot go. Copied by another process: a program that this one holds open for
    // writing, if only in a child that another thread forks meanwhile, cannot be run.
    let copied = sandbox.file(&program.file_name().expect("a program has a name").to_string_lossy());
    let done = Command::new("cp").arg(program).arg(&copied).status();
    assert!(done.is_ok_and(|status| status.success()), "a program can be copied");
    set_mode(&copied, 0o755);
    let mut command = sandbox.command(&copied);
    command.uid(NOBODY).gid(NOBODY).current_dir(home);
    command
}

/// Makes nobody the owner of the file or folder at `path`.
#[track_caller]
pub fn give_to_nobody(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("root can give files away");
}

/// Sets the permissions of `path`.
#[track_caller]
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
}
