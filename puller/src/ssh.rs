//! The ssh door: the system's `ssh` runs `pullback-agent stdio` at the far end, and what it cannot do becomes a sentence.
//!
//! On the remote command line stand fixed words, a checked `--remote-agent` and a checked user for `sudo`, nothing else: the
//! database's path travels inside the protocol. Before the agent's first line a login shell may have printed something; that
//! is passed over, and told.

use crate::address::Address;
use pullback_shared::STDIO_MAGIC;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long `ssh` may take to be connected, unless the agent itself is to be waited for no longer than that.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long somebody at a terminal may take to type a password or to look at a host key.
const PERSON_WAIT: Duration = Duration::from_secs(120);

/// What a login shell may print before the agent speaks.
const NOISE_BYTES_MAX: usize = 64 * 1024;

/// What is kept of the words on stderr.
const STDERR_BYTES_MAX: usize = 8 * 1024;

/// Characters of it that a sentence quotes.
const WORDS_MAX: usize = 300;

/// How long `ssh` may take to end once its stdin did.
const ENDING_WAIT: Duration = Duration::from_secs(2);

/// How long the last words on stderr are waited for after its end: a `ControlMaster` that stays keeps it open.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(300);

/// Between two looks at whether it ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Finds the agent where people install it. In single quotes, and without a quote, an exclamation mark or a backslash
/// within: so sh, bash, zsh, fish and csh give it to `sh` as it stands.
const FIND: &str = r#"for a in pullback-agent "$HOME/.cargo/bin/pullback-agent" "$HOME/.local/bin/pullback-agent" /usr/local/bin/pullback-agent; do p=$(command -v "$a") && [ -x "$p" ] && exec BY"$p" stdio; done; echo "neither in PATH nor in ~/.cargo/bin, ~/.local/bin, /usr/local/bin" >&2; exit 127"#;

/// How agents are reached.
#[derive(Clone, Debug)]
pub struct Door {
    /// How long an agent may give no sign of life.
    pub timeout: Duration,
    /// The program that is `ssh`.
    pub ssh: PathBuf,
    /// The agent's program at the far end; `None`: it is looked for.
    pub remote_agent: Option<RemoteAgent>,
    /// Whom the agent runs as at the far end.
    pub run_as: RunAs,
    /// Whether there is somebody who could be asked for a password.
    pub at_terminal: bool,
}

impl Door {
    /// The usual one: the `ssh` of this system, the agent as the user who logs in, nobody to ask.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, ssh: "ssh".into(), remote_agent: None, run_as: RunAs::Login, at_terminal: false }
    }
}

/// Whom the agent runs as behind the ssh door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunAs {
    /// The user who logs in.
    Login,
    /// The owner of the database, by `sudo`.
    Owner,
    /// This user, by `sudo`.
    User(SudoUser),
}

/// The agent's program at the far end, fit for a remote command line: a name, or an absolute path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteAgent(String);

impl std::str::FromStr for RemoteAgent {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let fits = typed.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        match fits
            && !typed.is_empty()
            && !typed.starts_with('-')
            && (typed.starts_with('/') || !typed.contains('/'))
        {
            true => Ok(Self(typed.to_owned())),
            false => Err("a name or an absolute path, of letters, digits, `/`, `.`, `_` and `-`".to_owned()),
        }
    }
}

/// A user of the far end, fit for a remote command line: a name, or `#` and a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SudoUser(String);

impl SudoUser {
    /// The one with this number.
    pub fn number(user: u32) -> Self {
        Self(format!("#{user}"))
    }
}

impl std::str::FromStr for SudoUser {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let is_number = typed.strip_prefix('#').is_some_and(|number| number.parse::<u32>().is_ok());
        let is_name = !typed.is_empty()
            && !typed.starts_with(['-', '.'])
            && typed.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        match is_number || is_name {
            true => Ok(Self(typed.to_owned())),
            false => Err("a user's name, or `#` and a number".to_owned()),
        }
    }
}

/// Who runs what by `sudo`, for the sentence that says how to allow it.
#[derive(Clone, Debug)]
pub struct Sudo {
    /// Whom the agent is to run as.
    pub user: SudoUser,
    /// Who logs in, and the agent's program there, as far as that is known.
    pub login: Option<(u32, String)>,
}

/// A connection to an agent that has said its first line.
pub struct Far {
    /// What the agent reads.
    pub stdin: ChildStdin,
    /// What it says.
    pub stdout: ChildStdout,
    /// What it has said already after its first line.
    pub first: Vec<u8>,
    /// What a person should know of the way there.
    pub note: Option<String>,
    /// The process.
    pub ssh: Ssh,
}

/// A running `ssh`. When this is dropped it is over: shortly after its stdin was closed, or by force.
pub struct Ssh {
    child: Child,
    /// For sentences: host, or `user@host`.
    place: String,
    sudo: Option<Sudo>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_ended: Receiver<()>,
}

/// What came before the agent's first line, if it came.
enum Greeting {
    Agent { stdout: ChildStdout, noise: Vec<u8>, first: Vec<u8> },
    Ended,
    TooMuch,
}

/// Starts `ssh` and waits for the agent's first line. `address` is one of the ssh door.
pub fn connect(address: &Address, door: &Door, sudo: Option<Sudo>) -> Result<Far, Fault> {
    let Address::Ssh { user, host, port, .. } = address else {
        return Err(Fault::new(Kind::Internal, format!("`{address}` is not reached by ssh")));
    };
    let command = remote_command(door.remote_agent.as_ref(), sudo.as_ref().map(|sudo| &sudo.user));
    let mut ssh = Command::new(&door.ssh);
    ssh.args(options(door, *port, user.as_deref())).arg("--").arg(host).arg(&command);
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ssh.spawn().map_err(|error| {
        let what = format!("`{}` cannot be started: {error}", printable(&door.ssh.to_string_lossy(), 200));
        Fault::new(Kind::Usage, what).hint("install the OpenSSH client, or name one with `--ssh PROGRAM`")
    })?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Fault::new(Kind::Internal, "ssh was started without pipes"));
    };
    let place = user.as_ref().map_or_else(|| host.clone(), |user| format!("{user}@{host}"));
    let (kept, stderr_ended) = keep_stderr(stderr, place.clone());
    let mut ssh = Ssh { child, place, sudo, stderr: kept, stderr_ended };
    let wait = if door.at_terminal { PERSON_WAIT } else { connect_wait(door) } + door.timeout;
    let (greet, greeted) = channel();
    // Ends with ssh, at the latest.
    thread::spawn(move || greet.send(greeting(stdout)));
    match greeted.recv_timeout(wait) {
        Ok(Ok(Greeting::Agent { stdout, noise, first })) => {
            let note = (!noise.is_empty()).then(|| ssh.about(&noise));
            Ok(Far { stdin, stdout, first, note, ssh })
        }
        Ok(Ok(Greeting::TooMuch)) => {
            drop(stdin);
            Err(ssh.talks_too_much())
        }
        Ok(Ok(Greeting::Ended) | Err(_)) | Err(RecvTimeoutError::Disconnected) => {
            drop(stdin);
            let status = ssh.end(ENDING_WAIT);
            Err(ssh.why_no_agent(status))
        }
        Err(RecvTimeoutError::Timeout) => {
            drop(stdin);
            Err(ssh.says_nothing(wait))
        }
    }
}

fn connect_wait(door: &Door) -> Duration {
    door.timeout.min(CONNECT_WAIT_MAX)
}

fn options(door: &Door, port: Option<u16>, user: Option<&str>) -> Vec<OsString> {
    let seconds = |time: Duration| time.as_secs().max(1);
    let mut words: Vec<OsString> = ["-T", "-e", "none"].map(OsString::from).into();
    let mut option = |name: &str, value: String| {
        words.extend([OsString::from("-o"), format!("{name}={value}").into()]);
    };
    option("ConnectTimeout", seconds(connect_wait(door)).to_string());
    option("ServerAliveInterval", seconds(door.timeout / 2).to_string());
    option("ServerAliveCountMax", "2".to_owned());
    if !door.at_terminal {
        option("BatchMode", "yes".to_owned());
    }
    if let Some(port) = port {
        words.extend(["-p".into(), port.to_string().into()]);
    }
    if let Some(user) = user {
        words.extend(["-l".into(), user.into()]);
    }
    words
}

fn remote_command(agent: Option<&RemoteAgent>, sudo: Option<&SudoUser>) -> String {
    let by = sudo.map(|user| format!("sudo -n -H -u \"{}\" -- ", user.0)).unwrap_or_default();
    match agent {
        Some(RemoteAgent(path)) => format!("sh -c 'exec {by}{path} stdio'"),
        None => format!("sh -c '{}'", FIND.replace("BY", &by)),
    }
}

/// Reads up to the agent's first line, and what came with it.
fn greeting(mut stdout: ChildStdout) -> std::io::Result<Greeting> {
    let (mut read, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let count = match stdout.read(&mut part) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Ok(Greeting::Ended);
        }
        // The line may have begun in what was read before.
        let from = read.len().saturating_sub(STDIO_MAGIC.len());
        read.extend_from_slice(&part[..count]);
        if let Some(at) = read[from..].windows(STDIO_MAGIC.len()).position(|window| window == STDIO_MAGIC) {
            let first = read.split_off(from + at + STDIO_MAGIC.len());
            read.truncate(from + at);
            return Ok(Greeting::Agent { stdout, noise: read, first });
        }
        if read.len() > NOISE_BYTES_MAX {
            return Ok(Greeting::TooMuch);
        }
    }
}

/// Reads stderr to its end on a thread, so that nobody waits for a reader; keeps the last of it.
fn keep_stderr(mut stderr: ChildStderr, place: String) -> (Arc<Mutex<VecDeque<u8>>>, Receiver<()>) {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let (end, ended) = channel();
    let keeping = Arc::clone(&kept);
    thread::spawn(move || {
        let mut part = [0; 4096];
        loop {
            match stderr.read(&mut part) {
                Ok(0) => break,
                Ok(count) => {
                    for line in String::from_utf8_lossy(&part[..count]).lines() {
                        tracing::info!("ssh to {place} says: {}", printable(line, STDERR_BYTES_MAX));
                    }
                    let mut kept = keeping.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.extend(&part[..count]);
                    let surplus = kept.len().saturating_sub(STDERR_BYTES_MAX);
                    kept.drain(..surplus);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Whoever waited for it may be gone.
        let _ = end.send(());
    });
    (kept, ended)
}

impl Ssh {
    /// Why a connection that was there is gone, if `ssh` can tell: `fault`, with its words.
    pub fn explain(&mut self, fault: Fault) -> Fault {
        if !matches!(fault.kind, Kind::Lost | Kind::Unreachable) {
            return fault;
        }
        let Some(status) = self.wait(LAST_WORDS_WAIT) else { return fault };
        let words = match self.last_words() {
            words if words.is_empty() => String::new(),
            words => format!(" (it said `{words}`)"),
        };
        Fault::new(
            fault.kind,
            format!("the connection to {} was lost: ssh {}{words}", self.place, ended(status)),
        )
        .hint("try again; what arrived so far does no harm")
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if began.elapsed() < limit => thread::sleep(LOOK_EVERY),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Its end, by force if it has not come within `limit`.
    fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = self.wait(limit);
        if status.is_none() {
            // It may end this moment; either way it is waited for, so that nothing is left running.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        status
    }

    /// The lines on stderr, made fit to print, once it has ended.
    fn words(&self) -> Vec<String> {
        let _ = self.stderr_ended.recv_timeout(LAST_WORDS_WAIT);
        let kept: Vec<u8> =
            self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let lines = String::from_utf8_lossy(&kept);
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| printable(line, STDERR_BYTES_MAX)).collect()
    }

    fn last_words(&self) -> String {
        self.words().last().map(|line| printable(line, WORDS_MAX)).unwrap_or_default()
    }

    fn about(&self, noise: &[u8]) -> String {
        let begins = String::from_utf8_lossy(noise);
        format!(
            "the login shell of {} printed {} bytes before the agent spoke, beginning `{}`: let it print to terminals only",
            self.place,
            noise.len(),
            printable(begins.trim(), 60)
        )
    }

    fn talks_too_much(&self) -> Fault {
        Fault::new(
            Kind::NoAgent,
            format!("{} printed more than {} KiB, and no agent spoke", self.place, NOISE_BYTES_MAX / 1024),
        )
        .hint("let the login shell's start-up files print to terminals only; `ssh HOST true` shows what they print")
    }

    fn says_nothing(&self, wait: Duration) -> Fault {
        let words = match self.last_words() {
            words if words.is_empty() => String::new(),
            words => format!("; ssh said `{words}`"),
        };
        Fault::new(
            Kind::Unreachable,
            format!("no agent spoke on {} within {} s{words}", self.place, wait.as_secs_f64().round()),
        )
        .hint("does `ssh HOST true` end soon by itself? `-v` shows what ssh says meanwhile")
    }

    /// `ssh` ended before an agent spoke.
    fn why_no_agent(&self, status: Option<ExitStatus>) -> Fault {
        let words = self.words();
        let last = words.last().map(|line| printable(line, WORDS_MAX)).unwrap_or_default();
        let said = if last.is_empty() { String::new() } else { format!(": {last}") };
        let place = &self.place;
        let has = |part: &str| words.iter().any(|line| line.contains(part));
        if let Some(sudo) = self.sudo.as_ref().filter(|_| has("sudo:")) {
            return sudo.refused(place, &last);
        }
        if let Some(fault) = agents_own(&words, place) {
            return fault;
        }
        match status.and_then(|status| status.code()) {
            Some(255) if has("REMOTE HOST IDENTIFICATION HAS CHANGED") => Fault::new(
                Kind::Refused,
                format!("{place} shows another host key than it did before{said}"),
            )
            .hint(format!(
                "if the machine was set up anew, `ssh-keygen -R {place}` forgets the old key; if not, somebody may be in between"
            )),
            Some(255) if has("Host key verification failed") => {
                Fault::new(Kind::Refused, format!("the host key of {place} is not known here{said}"))
                    .hint(format!("run `ssh {place}` once from a terminal and compare the key it shows"))
            }
            Some(255) if has("Permission denied") || has("Too many authentication failures") => {
                Fault::new(Kind::Refused, format!("{place} lets nobody in{said}")).hint(
                    "without a terminal ssh asks for nothing: it needs a key without a passphrase (`IdentityFile` in ~/.ssh/config), or an ssh-agent that cron can reach",
                )
            }
            Some(255) => {
                Fault::new(Kind::Unreachable, format!("{place} cannot be reached by ssh{said}"))
                    .hint(format!("does `ssh {place} true` work?"))
            }
            Some(code @ (126 | 127)) => {
                let what = if code == 126 { "cannot be run" } else { "is not there" };
                Fault::new(Kind::NoAgent, format!("ssh reached {place}, but `pullback-agent` {what}{said}")).hint(
                    "install it there, in that user's PATH, ~/.cargo/bin, ~/.local/bin or /usr/local/bin; or say where it is with `--remote-agent PATH`",
                )
            }
            _ => {
                let how = status.map_or_else(|| "did not end by itself".to_owned(), ended);
                Fault::new(Kind::NoAgent, format!("ssh reached {place}, but no agent spoke: ssh {how}{said}"))
                    .hint("may that user run commands there, and is its `pullback-agent` of this release?")
            }
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.end(ENDING_WAIT);
    }
}

impl Sudo {
    fn refused(&self, place: &str, words: &str) -> Fault {
        let user = &self.user.0;
        let (login, agent) = match &self.login {
            Some((login, agent)) => (format!("#{login}"), printable(agent, WORDS_MAX)),
            None => ("LOGIN".to_owned(), "/usr/local/bin/pullback-agent".to_owned()),
        };
        Fault::new(Kind::Refused, format!("{place}: the agent could not be run as user {user}: {words}")).hint(
            format!("this line in sudoers there (`sudo visudo -f /etc/sudoers.d/pullback`) allows it: {login} ALL=({user}) NOPASSWD: {agent} stdio"),
        )
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// What an agent that could not start said of itself: `error: MESSAGE [Pnn]`, and perhaps `hint: …`.
fn agents_own(words: &[String], place: &str) -> Option<Fault> {
    let at = words.iter().rposition(|line| line.starts_with("error: ") && line.ends_with(']'))?;
    let (message, code) = words[at].strip_prefix("error: ")?.trim_end_matches(']').rsplit_once(" [")?;
    let hint = words[at..].iter().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default();
    Some(Fault::new(Kind::from_code(code)?, format!("the agent on {place} says: {message}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remote_command_is_one_quoted_word_for_sh() {
        let agent: RemoteAgent = "/opt/pullback-agent".parse().unwrap();
        for command in [
            remote_command(None, None),
            remote_command(Some(&agent), Some(&SudoUser::number(1000))),
            remote_command(None, Some(&"pi".parse().unwrap())),
        ] {
            let script = command.strip_prefix("sh -c '").and_then(|rest| rest.strip_suffix('\'')).unwrap();
            assert!(!script.contains(['\'', '!', '\\', '\n']), "{script}");
        }
        assert_eq!(remote_command(Some(&agent), None), "sh -c 'exec /opt/pullback-agent stdio'");
        assert_eq!(
            remote_command(Some(&agent), Some(&SudoUser::number(7))),
            "sh -c 'exec sudo -n -H -u \"#7\" -- /opt/pullback-agent stdio'"
        );
    }

    #[test]
    fn only_plain_words_go_on_the_remote_command_line() {
        for wrong in ["", "-x", "a b", "$(x)", "./agent", "bin/agent", "~/agent", "a'b", "a\nb", "a;b"] {
            assert!(wrong.parse::<RemoteAgent>().is_err(), "{wrong:?}");
        }
        for wrong in ["", "-x", "a b", "#", "#x", "a$b", "\"", ".x", "#-1"] {
            assert!(wrong.parse::<SudoUser>().is_err(), "{wrong:?}");
        }
        assert!("pi".parse::<SudoUser>().is_ok() && "#1000".parse::<SudoUser>().is_ok());
    }

    #[test]
    fn an_agent_s_own_sentence_is_read_from_its_last_words() {
        let words =
            ["noise", "error: the configuration `x`: line 1 [P02]", "hint: mend it"].map(str::to_owned);
        let fault = agents_own(&words, "pi").unwrap();
        assert_eq!((fault.kind, fault.hint.as_str()), (Kind::Config, "mend it"));
        assert_eq!(fault.message, "the agent on pi says: the configuration `x`: line 1");
        assert!(agents_own(&["error: unknown".to_owned()], "pi").is_none());
    }
}
