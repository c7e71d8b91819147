//! What documents have people type: their console blocks and tables, and a desk where it is typed.

use crate::programs;
use crate::sandbox::{Ran, Sandbox};
use crate::sshd::{Sshd, script};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The commands of one console block.
#[derive(Debug)]
pub struct Block {
    /// The heading it stands under.
    pub section: String,
    /// What stands behind each `$ `, a here-document with its lines.
    pub commands: Vec<String>,
}

/// The console blocks of `document`, in order.
pub fn blocks(document: &str) -> Vec<Block> {
    let (mut section, mut blocks, mut lines) = (String::new(), Vec::new(), document.lines());
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut section);
        }
        if line.trim_start() == "```console" {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| line.trim_start() != "```").collect();
            blocks.push(Block { section: section.clone(), commands: commands(&inside) });
        }
    }
    blocks
}

fn commands(lines: &[&str]) -> Vec<String> {
    let (mut commands, mut lines) = (Vec::new(), lines.iter().map(|line| line.trim_start()));
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else { continue };
        let mut command = command.to_owned();
        if let Some((_, word)) = command.split_once("<<") {
            let end = word.trim_matches('\'').to_owned();
            for line in lines.by_ref() {
                command = format!("{command}\n{line}");
                if line == end {
                    break;
                }
            }
        }
        commands.push(command);
    }
    commands
}

/// A row of a table: each cell, with a `\|` in it as `|`.
pub fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
    row.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// The words in backticks.
pub fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A user's account in a sandbox, with nothing configured but `ssh`: both programs are in its `PATH`, files lie below its
/// home, `cron` is its scheduler with a crontab of its own (`tests/schedule.rs` has the real ones), and `pi` is this machine
/// behind a real sshd.
pub struct Desk<'a> {
    sandbox: &'a Sandbox,
    sshd: Option<Sshd<'a>>,
}

/// Where `ssh` itself is.
fn system_ssh() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("ssh")).find(|ssh| ssh.is_file())
}

/// A `crontab` that keeps what it is given in the home directory.
const CRONTAB: &str = r#"case "$1" in
    -l) cat "$HOME/crontab" 2>/dev/null || { echo "no crontab for you" >&2; exit 1; } ;;
    -r) rm "$HOME/crontab" ;;
    -) cat >"$HOME/crontab" ;;
    *) exit 64 ;;
esac"#;

impl<'a> Desk<'a> {
    /// One with `lines` in the configuration of `puller`, and `pi` where there is an `sshd`.
    pub fn with(sandbox: &'a Sandbox, lines: &str, sshd: Option<Sshd<'a>>) -> Self {
        fs::create_dir_all(sandbox.file("desk")).expect("a folder can be made");
        script(&sandbox.file("desk/crontab"), CRONTAB);
        if let Some(ssh) = sshd.as_ref().and_then(|_| system_ssh()) {
            let known = sandbox.file("sshd/client");
            script(&sandbox.file("desk/ssh"), &format!("exec {ssh:?} -F {known:?} \"$@\""));
        }
        let config = sandbox.file("home/.config/pullback");
        fs::create_dir_all(&config).expect("a folder can be made");
        let ssh = sshd.as_ref().map(|sshd| format!("ssh = {:?}\n", sshd.ssh())).unwrap_or_default();
        fs::write(config.join("puller.toml"), format!("{ssh}{lines}")).expect("a file can be written");
        Self { sandbox, sshd }
    }

    /// The sandbox that it is in.
    pub fn sandbox(&self) -> &Sandbox {
        self.sandbox
    }

    /// Whether `pi` can be reached.
    pub fn has_pi(&self) -> bool {
        self.sshd.is_some()
    }

    /// Calls the machine behind `pi` by `names` as well.
    pub fn also_called(&self, names: &str) {
        let sshd = self.sshd.as_ref().expect("there is a machine");
        let address = sshd.address();
        let (host, port) = address.rsplit_once(':').expect("an address has a port");
        sshd.client_lines(&format!("Host {names}\n  HostName {host}\n  Port {port}"));
    }

    /// Types `command` into a shell, to its end.
    #[track_caller]
    pub fn type_in(&self, command: &str) -> Ran {
        self.sandbox.run(&mut self.shell(command))
    }

    /// Types `command` into a shell, and asks it to end once it has printed a line.
    #[track_caller]
    pub fn type_in_until_it_speaks(&self, command: &str) -> Ran {
        self.sandbox.run_until_its_first_line(&mut self.shell(&format!("exec {command}")))
    }

    fn shell(&self, command: &str) -> Command {
        let folder = |program: &Path| program.parent().expect("a program lies in a folder").to_owned();
        let system = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.sandbox.file("desk"), folder(programs::puller()), folder(programs::agent())];
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&system)));
        let path: OsString = path.expect("folders of programs have plain names");
        let mut shell = self.sandbox.command(Path::new("/bin/sh"));
        for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
            shell.env_remove(variable);
        }
        // As somebody at a terminal answers, and as most machines without systemd have it.
        shell.env("PULLER_YES", "1").env("PULLER_WITH", "cron");
        shell.args(["-ec", command]).env("PATH", path);
        shell
    }
}
