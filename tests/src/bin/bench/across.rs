//! The peers across a slow link: what brings a copy from the edge to the home, tool by tool.

use crate::link::{EDGE, Link};
use crate::meter;
use pullback_tests::far_shell;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the rsync daemon listens.
const RSYNC_PORT: u16 = 7422;

/// How long it may take to.
const LIMIT: Duration = Duration::from_secs(10);

/// A tool, with its options.
#[derive(Clone, Copy)]
pub(crate) enum Tool {
    /// `.backup` at the edge, then `rsync` with these options
    Rsync(&'static [&'static str]),
    /// `sqlite3_rsync`, which reads the live database
    Sqlite3Rsync,
}

impl Tool {
    /// What stands in a table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Rsync(options) => {
                format!(".backup, then rsync {}", options.join(" ")).trim_end().to_owned()
            }
            Self::Sqlite3Rsync => "sqlite3_rsync".to_owned(),
        }
    }
}

/// The far ends of the tools: an rsync daemon, and a remote shell.
pub(crate) struct Peers {
    daemon: Option<Child>,
    staged: PathBuf,
    shell: PathBuf,
}

impl Peers {
    /// Starts them at the edge of `link`, with their files in `dir`.
    pub(crate) fn start(link: &Link, dir: &Path) -> Self {
        let served = dir.join("served");
        fs::create_dir_all(&served).expect("a folder can be made");
        let config = dir.join("rsyncd.conf");
        let text = format!(
            "use chroot = no\nuid = 0\ngid = 0\n[gym]\npath = {}\nread only = yes\n",
            served.display()
        );
        fs::write(&config, text).expect("a configuration can be written");
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--address", EDGE, "--port", &RSYNC_PORT.to_string()]);
        command.arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::null());
        let daemon = link.edge.within(|| command.spawn()).ok();
        let began = Instant::now();
        let answers = || link.home.within(|| TcpStream::connect((EDGE, RSYNC_PORT))).is_ok();
        while daemon.is_some() && !answers() {
            assert!(began.elapsed() < LIMIT, "rsync's daemon does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        link.edge.within(|| far_shell::serve(EDGE)).expect("the edge can listen");
        let exe = std::env::current_exe().expect("a process knows its own program");
        Self { daemon, staged: served.join("staged.db"), shell: exe.with_file_name("far-shell") }
    }

    /// Brings `database` to `copy`, which an earlier call may have made; `None` where the tool is not there, or fails.
    pub(crate) fn bring(&self, link: &Link, tool: Tool, database: &Path, copy: &Path) -> Option<f64> {
        rustix::fs::sync();
        match tool {
            Tool::Rsync(options) => {
                self.daemon.as_ref()?;
                let mut backup = Command::new("sqlite3");
                backup.arg(database).arg(format!(".backup '{}'", self.staged.display()));
                let backed_up = link.edge.within(|| succeeds(&mut backup))?;
                let mut rsync = Command::new("rsync");
                // Not by size and time: a change within one second is to be seen.
                rsync.arg("--ignore-times").args(options);
                rsync.arg(format!("rsync://{EDGE}:{RSYNC_PORT}/gym/staged.db")).arg(copy);
                Some(backed_up + link.home.within(|| succeeds(&mut rsync))?)
            }
            Tool::Sqlite3Rsync => {
                let mut command = Command::new("sqlite3_rsync");
                command.arg(format!("{EDGE}:{}", database.display())).arg(copy);
                command.arg("--ssh").arg(&self.shell).args(["--exe", "sqlite3_rsync"]);
                link.home.within(|| succeeds(&mut command))
            }
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// How long `command` took, if it is there and succeeded.
fn succeeds(command: &mut Command) -> Option<f64> {
    let run = meter::run(command).ok()?;
    run.status.success().then_some(run.seconds)
}
