//! An agent process that serves databases over TCP on loopback.

use crate::programs;
use crate::sandbox::{self, Sandbox};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A running `pullback-agent serve`, killed when the value goes. One per sandbox: it owns the agent's state there.
#[derive(Debug)]
pub struct Served<'a> {
    sandbox: &'a Sandbox,
    tls: bool,
    lines: String,
    databases: String,
    address: String,
    child: Child,
}

/// How long the agent may take to listen, and to end when asked.
const LIMIT: Duration = Duration::from_secs(20);

impl<'a> Served<'a> {
    /// Serves each `(name, path)`.
    #[track_caller]
    pub fn start(sandbox: &'a Sandbox, databases: &[(&str, &Path)]) -> Self {
        Self::start_with(sandbox, databases, "")
    }

    /// The same with more lines of configuration, such as `mirror = "discard"`.
    #[track_caller]
    pub fn start_with(sandbox: &'a Sandbox, databases: &[(&str, &Path)], lines: &str) -> Self {
        let command = sandbox.command(programs::agent());
        Self::start_by(sandbox, databases, &with_reserve(lines), command)
    }

    /// The same with `lines` only, so that `reserve` has its default, and by a `command` to which the arguments of the
    /// agent are added: one of another user, or of a program that runs the agent. A restart is by the plain agent.
    #[track_caller]
    pub fn start_by(
        sandbox: &'a Sandbox,
        databases: &[(&str, &Path)],
        lines: &str,
        command: Command,
    ) -> Self {
        Self::begin(sandbox, databases, false, lines, command)
    }

    /// The same with mutual TLS, by `command`; the sandbox has the agent's identity, or `pullback-agent init` makes it.
    #[track_caller]
    pub fn start_with_tls(
        sandbox: &'a Sandbox,
        databases: &[(&str, &Path)],
        lines: &str,
        command: Command,
    ) -> Self {
        write_config(sandbox, "127.0.0.1:0", true, "", "");
        sandbox.agent(&[Path::new("init"), Path::new("--config"), &config_file(sandbox)]).exits(0);
        let served = Self::begin(sandbox, databases, true, &with_reserve(lines), command);
        // What opens a pairing code reads there where the agent listens.
        write_config(sandbox, &served.address, true, &served.lines, &served.databases);
        served
    }

    #[track_caller]
    fn begin(
        sandbox: &'a Sandbox,
        databases: &[(&str, &Path)],
        tls: bool,
        lines: &str,
        command: Command,
    ) -> Self {
        let mut tables = String::new();
        for (name, path) in databases {
            tables += &format!("\n[database.{name}]\npath = {}\n", toml(path));
        }
        write_config(sandbox, "127.0.0.1:0", tls, lines, &tables);
        let (child, address) = launch(sandbox, command);
        Self { sandbox, tls, lines: lines.to_owned(), databases: tables, address, child }
    }

    /// How puller spells the database called `name`: `127.0.0.1:PORT/NAME`.
    pub fn source(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The address it listens on, `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process, to look at or to signal.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has logged, over all its starts.
    pub fn log(&self) -> String {
        let bytes = fs::read(log_file(self.sandbox)).expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Kills it as `kill -9` does, and waits until it is gone. [`Self::restart`] brings it back.
    pub fn kill9(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to end, as an init system does (SIGTERM), and says how it ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a child can be signalled");
        sandbox::wait(&mut self.child, LIMIT).expect("the agent ends soon after SIGTERM")
    }

    /// Starts it again on the same address, killing it first where it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill9();
        let command = self.sandbox.command(programs::agent());
        write_config(self.sandbox, &self.address, self.tls, &self.lines, &self.databases);
        (self.child, self.address) = launch(self.sandbox, command);
    }

    /// The same with TLS, or without it.
    #[track_caller]
    pub fn restart_with_tls(&mut self, tls: bool) {
        self.tls = tls;
        self.restart();
    }

    /// The same with other lines of configuration than those it was started with.
    #[track_caller]
    pub fn restart_with(&mut self, lines: &str) {
        self.lines = with_reserve(lines);
        self.restart();
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

fn with_reserve(lines: &str) -> String {
    format!("reserve = \"0\"\n{lines}")
}

fn write_config(sandbox: &Sandbox, listen: &str, tls: bool, lines: &str, databases: &str) {
    let state = toml(&sandbox.state());
    let tls = if tls { "" } else { "tls = \"off\"\n" };
    let text = format!("listen = \"{listen}\"\nstate_dir = {state}\n{tls}{lines}\n{databases}");
    fs::write(config_file(sandbox), text).expect("a configuration can be written");
}

#[track_caller]
fn launch(sandbox: &Sandbox, mut command: Command) -> (Child, String) {
    let config = config_file(sandbox);
    let log = File::options().create(true).append(true).open(log_file(sandbox)).expect("a log can be opened");
    command.arg("serve").arg("--config").arg(&config).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().expect("the agent can be started");
    let stdout = child.stdout.take().expect("the agent's stdout is a pipe");
    let (send, receive) = mpsc::channel();
    // Reads on to the end, so that the agent never waits for a reader of its output.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(address) = line.trim().strip_prefix("listening on ") {
                let _ = send.send(address.to_owned());
            }
        }
    });
    match receive.recv_timeout(LIMIT) {
        Ok(address) => (child, address),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            let log = fs::read_to_string(log_file(sandbox)).unwrap_or_default();
            panic!("the agent does not say where it listens; its log:\n{log}")
        }
    }
}

/// The configuration of the agent of a sandbox.
pub fn config_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.file("agent.toml")
}

fn log_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.file("agent.log")
}

fn toml(path: &Path) -> String {
    toml::Value::from(path.to_str().expect("paths of tests are UTF-8")).to_string()
}
