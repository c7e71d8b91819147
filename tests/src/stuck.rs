//! An application that is stuck where its database cannot be backed up: `stuck-application` as a test sees it.

use crate::programs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running `stuck-application`, killed when the value goes.
#[derive(Debug)]
pub struct Stuck(Child);

impl Stuck {
    /// Starts one on the gym at `db` in journal mode `journal` (`wal`, `delete`), stuck as `how` says (`exclusive`,
    /// `transaction`), and waits until it is.
    #[track_caller]
    pub fn start(db: &Path, journal: &str, how: &str) -> Self {
        let mut command = Command::new(programs::stuck_application());
        command.arg(db).args([journal, how]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the application can be started");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("the application's stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the application's stdout can be read");
        assert_eq!(line.trim(), "stuck", "what the application says");
        Self(child)
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.kill9();
    }
}
