//! A disk of the agent's own for its state, to see what is written to it: only root on Linux can have one.
//!
//! What `/proc/PID/io` calls `write_bytes` is no measure of this where files lie in large folios (Linux 6.16 and later,
//! ext4): a write of one page then counts as one of the whole folio, which is not what goes to the disk.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes in the sectors that the kernel counts in, whatever the disk has.
const SECTOR: u64 = 512;

/// A file system in a file, mounted; unmounted when the value goes.
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Mounts an empty ext4 with room for `bytes` at the folder `root`; its image is the new file `image`. Nothing where
    /// that cannot be.
    pub(crate) fn mount(root: &Path, image: &Path, bytes: u64) -> Option<Self> {
        File::create(image).and_then(|image| image.set_len(bytes)).ok()?;
        // Nothing is left to be written at leisure, where it would be taken for the agent's.
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        succeed(Command::new("mkfs.ext4").args(options).arg(image))?;
        succeed(Command::new("mount").args(["-o", "loop,noatime"]).arg(image).arg(root))?;
        Some(Self { root: root.to_owned() })
    }

    /// Bytes written to it so far, with all that was written to files there, and the file system's own.
    pub(crate) fn written(&self) -> Option<f64> {
        rustix::fs::syncfs(File::open(&self.root).ok()?).ok()?;
        let device = fs::metadata(&self.root).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let counters = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        // Documentation/block/stat.rst: the seventh is "write sectors".
        let sectors: u64 = counters.split_whitespace().nth(6)?.parse().ok()?;
        Some((sectors * SECTOR) as f64)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = succeed(Command::new("umount").arg(&self.root));
    }
}

fn succeed(command: &mut Command) -> Option<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success()).then_some(())
}
