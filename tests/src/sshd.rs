//! A real sshd on loopback, run by whichever user runs the test, with keys and configuration of its own, and the `ssh` of
//! this machine told to use no others.
//!
//! In its sessions HOME is the sandbox's, and `PATH` begins with a folder in which `pullback-agent` notes its process number
//! before it becomes the agent; so does `ssh` here. Nothing of the user's own configuration is read on either side.

use crate::privilege;
use crate::programs;
use crate::sandbox::{self, Pulled, Ran, Running, Sandbox};
use rustix::process::{Pid, test_kill_process};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where distributions and macOS put it; it wants to be started by its absolute path.
const SSHD: [&str; 4] =
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/opt/homebrew/sbin/sshd", "/usr/bin/sshd"];

/// A running sshd, ended when the value goes.
pub struct Sshd<'a> {
    sandbox: &'a Sandbox,
    daemon: Daemon,
    port: u16,
}

/// Ended when the value goes.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Sshd<'a> {
    /// One that lets the user of this test in; `None`, said visibly, where there is no sshd to be run.
    pub fn start(sandbox: &'a Sandbox) -> Option<Self> {
        Self::start_with(sandbox, "")
    }

    /// The same with more lines of configuration, such as `ForceCommand`.
    pub fn start_with(sandbox: &'a Sandbox, lines: &str) -> Option<Self> {
        let installed = SSHD.iter().map(Path::new).find(|path| path.is_file());
        let ssh = Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_ok();
        let Some(program) = installed.filter(|_| ssh) else {
            privilege::skip("the ssh door", "ssh and sshd are not installed");
            return None;
        };
        for folder in ["bin", "sshd"] {
            fs::create_dir(sandbox.file(folder)).expect("a folder can be made");
        }
        // How full this machine's disk is decides nothing here.
        let config = sandbox.file("home/.config/pullback");
        fs::create_dir_all(&config).expect("a folder can be made");
        fs::write(config.join("agent.toml"), "reserve = \"0\"\n").expect("a configuration can be written");
        if privilege::is_root() {
            // As the system's own start-up script does.
            fs::create_dir_all("/run/sshd").expect("root can make sshd's folder");
        }
        for key in ["sshd/host", "sshd/user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(sandbox.file(key));
            assert!(keygen.status().is_ok_and(|status| status.success()), "a key can be made");
        }
        script(
            &sandbox.file("bin/pullback-agent"),
            &format!(
                "echo $$ >> {}\nexec {} \"$@\"",
                quoted(&sandbox.file("agents")),
                quoted(programs::agent())
            ),
        );
        script(
            &sandbox.file("ssh"),
            &format!(
                "echo $$ >> {}\nexec ssh -F {} \"$@\"",
                quoted(&sandbox.file("sshs")),
                quoted(&sandbox.file("sshd/client"))
            ),
        );
        let (daemon, port) = launch(program, sandbox, lines);
        let sshd = Self { sandbox, daemon, port };
        sshd.authorize("");
        sshd.reached_at(port);
        Some(sshd)
    }

    /// The wrapper around `ssh` that reads none of the user's configuration.
    pub fn ssh(&self) -> PathBuf {
        self.sandbox.file("ssh")
    }

    /// The process that waits for sessions, and for those of its children that end.
    pub fn pid(&self) -> u32 {
        self.daemon.0.id()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Lets the user's key in with `options` of authorized_keys, such as `restrict,command="…"`.
    pub fn authorize(&self, options: &str) {
        let key = self.read("sshd/user.pub");
        self.write("sshd/authorized", &format!("{options} {key}"));
    }

    /// Has `ssh` look for the host `pi` at this port of loopback, and know this sshd's key by that name.
    pub fn reached_at(&self, port: u16) {
        let file = |name: &str| quoted(&self.sandbox.file(name));
        let host = self.read("sshd/host.pub");
        self.write("sshd/known", &format!("pi {host}"));
        self.write(
            "sshd/client",
            &format!(
                "Host pi\n  HostName 127.0.0.1\n  Port {port}\nHost *\n  HostKeyAlias pi\n  IdentityFile {}\n  \
                 IdentitiesOnly yes\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  \
                 StrictHostKeyChecking yes\n",
                file("sshd/user"),
                file("sshd/known"),
            ),
        );
    }

    /// Puts `lines` before all others of the configuration of `ssh`.
    pub fn client_lines(&self, lines: &str) {
        let others = self.read("sshd/client");
        self.write("sshd/client", &format!("{lines}\n{others}"));
    }

    /// Forgets the host's key here.
    pub fn know_nobody(&self) {
        self.write("sshd/known", "");
    }

    /// Knows another key for the host than it has.
    pub fn know_another(&self) {
        let user = self.read("sshd/user.pub");
        self.write("sshd/known", &format!("pi {user}"));
    }

    /// Runs `puller ARGUMENTS` with this `ssh`.
    #[track_caller]
    pub fn puller<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        let mut command = self.command(arguments);
        self.sandbox.run(&mut command)
    }

    /// Runs `puller pull --json ARGUMENTS` with this `ssh`, to the end of the one source they name.
    #[track_caller]
    pub fn pull<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Pulled {
        let words = ["pull", "--json"].map(OsStr::new);
        let arguments: Vec<&OsStr> = words.into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect();
        Pulled::from_run(self.puller(&arguments))
    }

    /// Starts `puller ARGUMENTS` with this `ssh`.
    #[track_caller]
    pub fn start_puller<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Running {
        let mut command = self.command(arguments);
        self.sandbox.start(&mut command)
    }

    /// `puller ARGUMENTS` to be run with this `ssh`.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.sandbox.command(programs::puller());
        command.arg("--store").arg(self.sandbox.store()).args(arguments).env("PULLER_SSH", self.ssh());
        command
    }

    /// The processes of `ssh` so far, the newest last.
    pub fn sshs(&self) -> Vec<i32> {
        self.numbers("sshs")
    }

    /// The processes of agents so far, the newest last.
    pub fn agents(&self) -> Vec<i32> {
        self.numbers("agents")
    }

    /// Waits until no `ssh` and no agent of this test is left.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let all = [self.sshs(), self.agents()].concat();
        assert!(!all.is_empty(), "nothing was ever started");
        sandbox::wait_until("the end of ssh and of its agent", || !all.iter().any(|pid| is_alive(*pid)));
    }

    fn numbers(&self, name: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.sandbox.file(name)).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("a process has a number")).collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.sandbox.file(name)).expect("a file of the test can be read")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.sandbox.file(name), text).expect("a file of the test can be written");
    }
}

impl Drop for Sshd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sshd's log:\n{}", self.read("sshd/log"));
        }
    }
}

/// Whether there is a process `pid`.
pub fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Writes a shell script that can be run. By another process: a program that this one holds open for writing, if only in a
/// child that another thread forks meanwhile, cannot be run.
#[track_caller]
pub fn script(path: &Path, body: &str) {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", body])
        .arg(path);
    assert!(shell.status().is_ok_and(|status| status.success()), "a script can be written");
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn launch(program: &Path, sandbox: &Sandbox, lines: &str) -> (Daemon, u16) {
    let path = std::env::var("PATH").expect("PATH is set");
    for _ in 0..5 {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("there is a free port").port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nMaxStartups 100\nSetEnv \"PATH={}:{path}\" \"HOME={}\"\n{lines}\n",
            quoted(&sandbox.file("sshd/host")),
            quoted(&sandbox.file("sshd/authorized")),
            sandbox.file("bin").display(),
            sandbox.file("home").display(),
        );
        fs::write(sandbox.file("sshd/config"), config).expect("a configuration can be written");
        let log = File::create(sandbox.file("sshd/log")).expect("a log can be made");
        let mut command = sandbox.command(program);
        command.args(["-D", "-e", "-f"]).arg(sandbox.file("sshd/config")).stderr(log);
        let mut daemon = Daemon(command.spawn().expect("sshd can be started"));
        let mut ended = false;
        while !ended {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (daemon, port);
            }
            ended = daemon.0.try_wait().expect("a child can be waited for").is_some();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    panic!("sshd does not run: {}", fs::read_to_string(sandbox.file("sshd/log")).unwrap_or_default())
}
