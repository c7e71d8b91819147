//! An agent with mutual TLS, and a puller that is paired with it, by the commands that a person types.

use crate::folder::Folder;
use crate::sandbox::{Pulled, Ran, Sandbox, wait_until};
use crate::served::{Served, config_file};
use crate::tls::{Authority, Shown};
use crate::{databases, programs};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the agent is called by the puller.
pub const NAME: &str = "pi";

/// What the log of an agent says of a call that was let in.
const LET_IN: [&str; 4] = ["pull{database", "restore{database", "pairing: paired", "pairing: unpaired"];

/// An agent that serves the database `gym` to those who are paired. One per sandbox.
pub struct Guarded<'a> {
    /// Its process.
    pub served: Served<'a>,
    sandbox: &'a Sandbox,
}

impl<'a> Guarded<'a> {
    /// An agent that nobody is paired with.
    #[track_caller]
    pub fn alone(sandbox: &'a Sandbox) -> Self {
        Self::by(sandbox, sandbox.command(programs::agent()))
    }

    /// The same, started by `command`.
    #[track_caller]
    pub fn by(sandbox: &'a Sandbox, command: Command) -> Self {
        let gym = sandbox.db("gym.db");
        databases::gym(&gym, 100_000, 4096);
        let served = Served::start_with_tls(sandbox, &[("gym", &gym)], "reflection = true", command);
        Self { served, sandbox }
    }

    /// An agent that nobody is paired with and that serves each `(name, path)`, with more lines of configuration.
    #[track_caller]
    pub fn serving(sandbox: &'a Sandbox, databases: &[(&str, &Path)], lines: &str) -> Self {
        let command = sandbox.command(programs::agent());
        Self { served: Served::start_with_tls(sandbox, databases, lines, command), sandbox }
    }

    /// An agent that the sandbox's puller is paired with, to pull.
    #[track_caller]
    pub fn paired(sandbox: &'a Sandbox) -> Self {
        let guarded = Self::alone(sandbox);
        guarded.pair(&guarded.code(&[])).exits(0);
        guarded
    }

    /// Runs `pullback-agent WORDS` with this agent's configuration.
    #[track_caller]
    pub fn agent(&self, words: &[&str]) -> Ran {
        let config = config_file(self.sandbox);
        let words = words.iter().map(OsStr::new);
        self.sandbox.agent(&words.chain([OsStr::new("--config"), config.as_ref()]).collect::<Vec<_>>())
    }

    /// Name, role and state of each machine that was paired, as `pullback-agent peers list` tells.
    #[track_caller]
    pub fn peers(&self) -> Vec<[String; 3]> {
        let listed = self.agent(&["peers", "list", "--json"]).exits(0).json();
        let word = |value: &Value| value.as_str().expect("a word").to_owned();
        listed.iter().map(|peer| ["name", "role", "state"].map(|key| word(&peer[key]))).collect()
    }

    /// A code that `pullback-agent pair WORDS` prints.
    #[track_caller]
    pub fn code(&self, words: &[&str]) -> String {
        let printed = self.agent(&[&["pair"], words].concat()).exits(0);
        printed.stdout.trim().to_owned()
    }

    /// Runs `puller pair CODE`.
    #[track_caller]
    pub fn pair(&self, code: &str) -> Ran {
        self.sandbox.puller(&["pair", code, "--name", NAME])
    }

    /// Pulls, as one who is paired.
    #[track_caller]
    pub fn pull(&self) -> Pulled {
        self.sandbox.pull(&[format!("{NAME}/gym")])
    }

    /// The puller's file about this agent.
    pub fn pairing_file(&self) -> PathBuf {
        self.sandbox.file(&format!("home/xdg_config_home/pullback/agents/{NAME}.json"))
    }

    /// What the puller shows this agent, and is known by.
    pub fn pairing(&self) -> Value {
        let text = fs::read_to_string(self.pairing_file()).expect("the puller is paired");
        serde_json::from_str(&text).expect("its file is JSON")
    }

    /// Changes what the puller's file about this agent says of `key`.
    pub fn rewrite(&self, key: &str, value: Value) {
        let mut pairing = self.pairing();
        pairing[key] = value;
        fs::write(self.pairing_file(), pairing.to_string()).expect("a file can be written");
    }

    /// Has the puller show something else.
    pub fn wear(&self, shown: &Shown) {
        let (certificate, key) = shown.pem();
        self.rewrite("certificate", certificate.into());
        self.rewrite("key", key.into());
    }

    /// The CA of this agent, as a thief of its keys would use it.
    pub fn authority(&self) -> Authority {
        Authority::of_agent(&self.sandbox.state())
    }

    /// Where the agent's identity lies, its peers and its codes.
    pub fn identity(&self) -> PathBuf {
        self.sandbox.state().join("identity")
    }

    /// Does what this agent refuses: its log then has a line with all of `says`, no call was let in, and neither its identity
    /// nor its peers nor its codes have changed.
    #[track_caller]
    pub fn refuses<T>(&self, says: &[&str], act: impl FnOnce() -> T) -> T {
        let before = Folder::of(&self.identity());
        let done = self.logs(says, act);
        before.assert_unchanged(&Folder::of(&self.identity()), "the identity of an agent that refused");
        done
    }

    /// The same, but that something may have changed.
    #[track_caller]
    pub fn logs<T>(&self, says: &[&str], act: impl FnOnce() -> T) -> T {
        let from = self.served.log().len();
        let done = act();
        let is_it = |line: &str| says.iter().all(|word| line.contains(word));
        wait_until(&format!("{says:?} in the agent's log"), || self.served.log()[from..].lines().any(is_it));
        let log = self.served.log();
        let let_in = LET_IN.iter().find(|word| log[from..].contains(**word));
        assert!(let_in.is_none(), "{let_in:?} in the log of an agent that was to refuse:\n{}", &log[from..]);
        done
    }
}

/// Holds `ran` to be refused: exit code 6, all of `says` on stderr, and a hint with `hint`.
#[track_caller]
pub fn refused(ran: Ran, says: &[&str], hint: &str) -> Ran {
    let ran = ran.exits(6);
    for word in says {
        assert!(ran.stderr.contains(word), "`{word}` on stderr of {ran}");
    }
    let hinted = ran.stderr.lines().any(|line| line.contains("hint: ") && line.contains(hint));
    assert!(hinted, "a hint with `{hint}` on stderr of {ran}");
    ran
}
