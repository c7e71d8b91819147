//! A small disk in memory, to fill up: only root on Linux can have one.

use crate::privilege;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted disk, unmounted when the value goes.
#[derive(Debug)]
pub struct SmallDisk {
    root: PathBuf,
}

impl SmallDisk {
    /// Mounts an empty one at `root`, which is made, with `options` such as `size=8m`. Where that cannot be, says that
    /// `what` was not shown.
    pub fn mount(root: &Path, options: &str, what: &str) -> Option<Self> {
        if !privilege::is_root() {
            privilege::skip(what, "only root can mount a small disk");
            return None;
        }
        fs::create_dir_all(root).expect("a folder can be made");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "pullback-test"]).arg(root);
        match command.output() {
            Ok(output) if output.status.success() => Some(Self { root: root.to_owned() }),
            Ok(output) => {
                privilege::skip(what, String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                privilege::skip(what, &format!("`mount` cannot be run: {error}"));
                None
            }
        }
    }

    /// Changes an option of the mount, such as `ro`.
    #[track_caller]
    pub fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.root).status();
        assert!(done.is_ok_and(|status| status.success()), "`mount -o {options}`");
    }

    /// Takes all the room that is left.
    #[track_caller]
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file can be made");
        for length in [1 << 16, 1 << 12, 1] {
            let bytes = vec![1; length];
            loop {
                match file.write_all(&bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("a disk is filled: {error}"),
                }
            }
        }
    }

    /// Gives so many bytes of that room back.
    #[track_caller]
    pub fn leave(&self, bytes: u64) {
        let filler = fs::OpenOptions::new().write(true).open(self.filler()).expect("a file can be opened");
        let length = filler.metadata().expect("a file has a length").len();
        filler.set_len(length - bytes).expect("a file can be cut");
    }

    /// Gives that room back.
    #[track_caller]
    pub fn empty(&self) {
        fs::remove_file(self.filler()).expect("a file can be removed");
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.root).status();
    }
}
