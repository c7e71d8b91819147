//! `doctor`: what could keep the agent from working, looked at one by one; each finding with what mends it.

use crate::answer::Answer;
use crate::clock;
use crate::config::Config;
use crate::identity::{Identity, KEYS, dir_of};
use crate::peers::Peers;
use crate::room::{Room, disk};
use crate::source::{Source, sqlite_version};
use crate::systemd;
use crate::users;
use jiff::Timestamp;
use pullback_shared::fault::Fault;
use pullback_shared::identity::WRITTEN_AT;
use pullback_shared::text::shell_word;
use pullback_shared::{PROTOCOL, RELEASE};
use rustix::fs::{Access, access};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that ends sooner is worth a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How an agent gets a new identity.
const RENEW: &str = "move the directory `identity` of the state away and run `pullback-agent init`; then every puller has to be paired again";

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and could be better or will not for ever.
    Warn,
    /// It does not work.
    Fail,
}

impl State {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub state: State,
    /// What was looked at, and what was found.
    pub about: String,
    /// What mends it; empty where nothing has to be mended.
    pub hint: String,
}

impl Finding {
    fn ok(about: impl Into<String>) -> Self {
        Self { state: State::Ok, about: about.into(), hint: String::new() }
    }

    fn warn(about: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { state: State::Warn, about: about.into(), hint: hint.into() }
    }

    fn fail(about: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { state: State::Fail, about: about.into(), hint: hint.into() }
    }

    /// Of a fault.
    pub fn fault(fault: Fault) -> Self {
        Self::fail(fault.message, fault.hint)
    }
}

/// Looks at all there is, for the agent with the configuration that was read from `path`.
pub fn examine(path: &Path, config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        Finding::ok(format!(
            "pullback-agent {RELEASE}, protocol {PROTOCOL}, SQLite {}, as user `{}`",
            sqlite_version(),
            users::shown(users::me())
        )),
        Finding::ok(format!("configuration `{}`", path.display())),
    ];
    let state_dir = config.settings.state_dir.clone().unwrap_or_default();
    findings.extend(state(&state_dir));
    findings.push(room(config, &state_dir));
    let identity = match config.tls {
        true => of_identity(&state_dir, &mut findings),
        false => {
            findings.push(Finding::ok("`tls = \"off\"`: plaintext on loopback, and nobody is paired"));
            None
        }
    };
    findings.push(clock_of(&state_dir, clock::now()));
    if config.databases.is_empty() {
        findings.push(Finding::fail(
            "no database is configured",
            "`pullback-agent init --database PATH` adds one",
        ));
    }
    for (name, path) in &config.databases {
        findings.extend(database(config, name, path));
    }
    if !config.tls || identity.is_some() {
        findings.push(port(config, identity.as_ref()));
    }
    findings.extend(service());
    findings
}

/// The state directory: its owner and its mode.
fn state(dir: &Path) -> Option<Finding> {
    let there = dir.metadata().ok()?;
    let shown = dir.display();
    let owner = users::shown(there.uid());
    if there.uid() != users::me() {
        return Some(Finding::fail(
            format!("`{shown}` belongs to `{owner}`, and this runs as `{}`", users::shown(users::me())),
            format!(
                "run the agent, and this, as its owner: `sudo -u {} pullback-agent doctor`",
                shell_word(&owner)
            ),
        ));
    }
    if there.mode() & 0o077 != 0 {
        return Some(Finding::warn(
            format!(
                "`{shown}` has mode {:o}: others can look at copies of the databases",
                there.mode() & 0o777
            ),
            format!("chmod 700 {}", shell_word(&dir.to_string_lossy())),
        ));
    }
    Some(Finding::ok(format!("state `{shown}`, of `{owner}` alone")))
}

fn room(config: &Config, state_dir: &Path) -> Finding {
    let shown = state_dir.display();
    match (disk(state_dir), Room::new(state_dir, config.settings.room).left()) {
        (Ok((free, _)), 0) => Finding::warn(
            format!("`{shown}`: {free} bytes free, none of which may be used: pulls work without a mirror"),
            "free some room, or lower `reserve`",
        ),
        (Ok((free, _)), left) => Finding::ok(format!("`{shown}`: {free} bytes free, {left} may be used")),
        (Err(error), _) => Finding::warn(
            format!("`{shown}`: {error}"),
            "`pullback-agent init` makes it, and so does `pullback-agent serve`",
        ),
    }
}

/// The identity, whether anybody else can read it, when it ends, and the peers beside it.
fn of_identity(state_dir: &Path, findings: &mut Vec<Finding>) -> Option<Identity> {
    let dir = dir_of(state_dir);
    let identity = match Identity::open(state_dir) {
        Ok(identity) => identity,
        Err(fault) => {
            findings.push(Finding::fault(fault));
            return None;
        }
    };
    findings.push(Finding::ok(format!("identity {}", identity.fingerprint())));
    let private = std::iter::once((dir.clone(), 0o700)).chain(KEYS.map(|key| (dir.join(key), 0o600)));
    for (path, mode) in private {
        let (shown, word) = (path.display(), shell_word(&path.to_string_lossy()));
        match path.symlink_metadata() {
            Ok(there) if there.uid() != users::me() => findings.push(Finding::fail(
                format!("`{shown}` belongs to `{}`", users::shown(there.uid())),
                format!("sudo chown {} {word}", shell_word(&users::shown(users::me()))),
            )),
            Ok(there) if there.mode() & 0o777 & !mode != 0 => findings.push(Finding::fail(
                format!(
                    "`{shown}` has mode {:o}: whoever reads the keys can pass for this agent",
                    there.mode() & 0o777
                ),
                format!("chmod {mode:o} {word}"),
            )),
            Ok(_) => {}
            Err(error) => findings.push(Finding::fail(format!("`{shown}`: {error}"), "")),
        }
    }
    let (chain, _) = identity.server();
    for (what, certificate) in
        chain.iter().zip(["server's", "CA's"]).map(|(certificate, what)| (what, certificate))
    {
        findings.push(match X509Certificate::from_der(certificate) {
            Ok((_, read)) => {
                let validity = read.validity();
                dates(what, validity.not_before.timestamp(), validity.not_after.timestamp(), clock::now())
            }
            Err(error) => Finding::fail(format!("the {what} certificate cannot be read: {error}"), RENEW),
        });
    }
    findings.push(match Peers::of(&dir).all() {
        Ok(peers) => {
            let now = clock::now();
            let paired = peers.iter().filter(|peer| peer.revoked_at.is_none());
            let (ended, paired): (Vec<_>, Vec<_>) = paired.partition(|peer| peer.expires_at <= now);
            match (paired.len(), ended.first()) {
                (_, Some(peer)) => Finding::warn(
                    format!("the certificate of the peer `{}` ended at {}", peer.name, peer.expires_at),
                    format!(
                        "`pullback-agent peers revoke {}`, then pair it again: `pullback-agent pair`",
                        peer.name
                    ),
                ),
                (0, None) => {
                    Finding::warn("no machine was paired yet", "`pullback-agent pair` prints a code for one")
                }
                (paired, None) => Finding::ok(format!("paired machines: {paired}")),
            }
        }
        Err(fault) => Finding::fault(fault),
    });
    Some(identity)
}

fn dates(what: &str, from: i64, until: i64, now: Timestamp) -> Finding {
    let shown = Timestamp::from_second(until)
        .map_or_else(|_| "a time that is none".to_owned(), |time| time.to_string());
    match now.as_second() {
        now if now < from => Finding::fail(
            format!("the {what} certificate does not hold yet: the clock of this machine is wrong"),
            "timedatectl set-ntp true",
        ),
        now if now >= until => Finding::fail(format!("the {what} certificate ended at {shown}"), RENEW),
        now if now + EXPIRY_WARNING.as_secs().cast_signed() >= until => {
            Finding::warn(format!("the {what} certificate ends at {shown}"), RENEW)
        }
        _ => Finding::ok(format!("the {what} certificate holds until {shown}")),
    }
}

/// A device without a clock of its own starts in the past: codes end, and logs are dated, by what it believes.
fn clock_of(state_dir: &Path, now: Timestamp) -> Finding {
    let made = dir_of(state_dir).join(KEYS[0]).metadata().map_or(0, |key| key.mtime());
    let mends = "timedatectl set-ntp true";
    match now.as_second() {
        second if second < WRITTEN_AT => {
            Finding::fail(format!("the clock shows {now}, which is in the past"), mends)
        }
        second if second < made => Finding::warn(
            format!("the clock shows {now}, which is before this agent's identity was made"),
            mends,
        ),
        _ => Finding::ok(format!("the clock shows {now}")),
    }
}

fn database(config: &Config, name: &str, path: &Path) -> Vec<Finding> {
    let fault = |fault: Fault| vec![Finding::fail(format!("`{name}`: {}", fault.message), fault.hint)];
    let source = match Source::find(path) {
        Ok(source) => source,
        Err(why) => return fault(why),
    };
    let facts = match source.hold(config.settings.hold) {
        Ok(hold) => hold.facts().clone(),
        Err(why) => return fault(why),
    };
    let owner = source.metadata().uid();
    let mut findings = Vec::new();
    if owner != users::me() {
        // Root may read it, and is more than an agent should be.
        let owner = users::shown(owner);
        findings.push(Finding::warn(
            format!("`{name}` belongs to `{owner}`, and this runs as `{}`", users::shown(users::me())),
            format!(
                "run the agent as `{owner}`: `sudo pullback-agent init --service --database {}`",
                shell_word(&path.to_string_lossy())
            ),
        ));
    }
    let dir = source.path().parent().unwrap_or(Path::new("/"));
    if facts.journal == "wal" && access(dir, Access::WRITE_OK).is_err() {
        findings.push(Finding::fail(
            format!(
                "`{name}`: journal wal, and `{}` cannot be written: SQLite makes its `-shm` there",
                dir.display()
            ),
            format!("sudo chown {} {}", shell_word(&users::shown(owner)), shell_word(&dir.to_string_lossy())),
        ));
    } else if facts.journal == "wal" {
        findings.push(Finding::ok(format!("`{name}`: journal wal, writers go on during a hold")));
    } else {
        findings.push(Finding::warn(
            format!("`{name}`: rollback journal: commits wait while its {} bytes are read", facts.file_bytes),
            format!(
                "sqlite3 {} 'PRAGMA journal_mode=WAL' lets writers go on",
                shell_word(&path.to_string_lossy())
            ),
        ));
    }
    findings
}

fn port(config: &Config, identity: Option<&Identity>) -> Finding {
    let listen = config.listen;
    if listen.port() == 0 {
        return Finding::ok(format!("`listen` is {listen}: any port that is free"));
    }
    let who =
        format!("`ss -ltnp 'sport = :{}'` shows who; end it, or give `listen` another port", listen.port());
    match Answer::at(listen, identity.map(Identity::fingerprint)) {
        Answer::Agent => Finding::ok(format!("this agent answers at {listen}")),
        Answer::Nobody => Finding::ok(format!("nobody listens at {listen}, and this agent can")),
        Answer::Other(other) => {
            Finding::fail(format!("another agent answers at {listen}, with the identity {other}"), who)
        }
        Answer::Stranger => Finding::fail(format!("another program listens at {listen}"), who),
        Answer::Unusable(why) => Finding::fail(
            format!("nobody listens at {listen}, and this agent cannot: {why}"),
            "give `listen` an address that this machine has, and a port above 1023",
        ),
    }
}

fn service() -> Option<Finding> {
    let me = users::shown(users::me());
    let state = systemd::state_of(&me)?;
    let unit = format!("pullback-agent@{me}");
    Some(match state.as_str() {
        "active" => Finding::ok(format!("the service `{unit}` is active")),
        _ => Finding::warn(
            format!("the service `{unit}` is {state}"),
            format!("sudo systemctl enable --now {unit}; `journalctl -u {unit}` tells why it ended"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_before_it_ends() {
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let day = 24 * 60 * 60;
        let state = |from: i64, until: i64| {
            dates("CA's", now.as_second() + from * day, now.as_second() + until * day, now).state
        };
        assert_eq!(state(-1, 91), State::Ok);
        assert_eq!(state(-1, 89), State::Warn);
        assert_eq!(state(-1, 0), State::Fail);
        assert_eq!(state(1, 91), State::Fail);
    }

    #[test]
    fn a_clock_in_the_past_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        Identity::open_or_make(dir.path()).unwrap();
        let state = |second: i64| clock_of(dir.path(), Timestamp::from_second(second).unwrap()).state;
        let made = clock::now().as_second();
        assert_eq!(state(0), State::Fail);
        assert_eq!(state(WRITTEN_AT + 1), State::Warn);
        assert_eq!(state(made + 1), State::Ok);
    }
}
