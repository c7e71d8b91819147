//! A disk in a file, with a real file system, whose power can be cut: only root on Linux can have one.

use crate::privilege;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a file system may stay busy with what a killed program left to it.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(20);

/// The file systems that there are disks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FileSystem {
    /// What most Linux machines have. No clones.
    Ext4,
    /// Clones that share blocks.
    Xfs,
    /// Clones that share extents, of which a part keeps the whole.
    Btrfs,
}

impl FileSystem {
    /// Its name, as `mount` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// What makes an empty one, with nothing left to be written at leisure.
    fn make(self) -> Command {
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        command.args(match self {
            Self::Ext4 => ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"].as_slice(),
            Self::Xfs => &["-q", "-f"],
            Self::Btrfs => &["-q", "-f"],
        });
        command
    }
}

/// A mounted file system in a file; unmounted when the value goes.
#[derive(Debug)]
pub struct LoopDisk {
    system: FileSystem,
    root: PathBuf,
    image: PathBuf,
}

impl LoopDisk {
    /// Mounts an empty one of `bytes` at the folder `root`, which is made; its image is the new file `image`, which takes only
    /// what is used of it. Where that cannot be, says that `what` was not shown.
    pub fn mount(system: FileSystem, root: &Path, image: &Path, bytes: u64, what: &str) -> Option<Self> {
        if !privilege::is_root() {
            privilege::skip(what, "only root can mount a disk");
            return None;
        }
        std::fs::create_dir_all(root).expect("a folder can be made");
        File::create(image).and_then(|image| image.set_len(bytes)).expect("an image can be made");
        let disk = Self { system, root: root.to_owned(), image: image.to_owned() };
        let made = done(system.make().arg(image)).and_then(|()| disk.mount_again());
        match made {
            Ok(()) => Some(disk),
            Err(why) => {
                privilege::skip(what, &format!("there is no {} here: {why}", system.name()));
                None
            }
        }
    }

    /// Bytes in use, with the file system's own.
    #[track_caller]
    pub fn used(&self) -> u64 {
        // Twice: what the first one let go of is free once the second one is through.
        for _ in 0..2 {
            let root = File::open(&self.root).expect("a disk can be opened");
            rustix::fs::syncfs(root).expect("a disk can be synced");
            if self.system == FileSystem::Xfs {
                // What XFS set aside beside each page that was written into a clone, and would give back minutes later.
                let freed = done(Command::new("xfs_spaceman").args(["-c", "prealloc -s"]).arg(&self.root));
                freed.expect("XFS gives back what it set aside");
            }
        }
        let stat = rustix::fs::statvfs(&self.root).expect("a disk can be asked");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }

    /// Cuts the power: from now on nothing reaches the disk, neither data nor the journal, and every call fails. What the
    /// file system had already handed to the disk stays, flushed or not: no more than that is lost, unlike in a real disk's cache.
    #[track_caller]
    pub fn cut_power(&self) {
        let cut = done(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.root));
        cut.expect("the power can be cut");
    }

    /// Whether its power can be cut at all. Says that `what` was not shown where it cannot.
    pub fn can_lose_power(&self, what: &str) -> bool {
        match Command::new("xfs_io").arg("-V").output() {
            Ok(_) => true,
            Err(error) => {
                privilege::skip(what, &format!("`xfs_io` cannot be run: {error}"));
                false
            }
        }
    }

    /// Gives the power back: mounts it again, which replays the journal. No program may be in it.
    #[track_caller]
    pub fn restore_power(&self) {
        let started = Instant::now();
        while let Err(why) = done(Command::new("umount").arg(&self.root)) {
            assert!(started.elapsed() < UNMOUNT_LIMIT, "{} cannot be unmounted: {why}", self.root.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mount_again().expect("a disk can be mounted after its power was cut");
    }

    fn mount_again(&self) -> Result<(), String> {
        done(Command::new("mount").args(["-o", "loop,noatime"]).args([&self.image, &self.root]))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = done(Command::new("umount").arg(&self.root));
    }
}

/// Runs `command` to its end; what it said where it failed.
fn done(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
