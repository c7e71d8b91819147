//! `Paired`: an agent that this machine was paired with: where it may be, who it is, and what this machine shows it.

use crate::address::{Address, NAME_RULE, is_name};
use crate::config::xdg;
use crate::durable;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{Fingerprint, Role, folded};
use pullback_shared::text::printable;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;

/// Bytes of a file about an agent, at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of one, as a rule.
const FILE_BYTES_USUAL: usize = 8 * 1024;

/// How a file about an agent is to be read.
pub const VERSION: u32 = 1;

/// An agent that this machine was paired with. It prints without its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Paired {
    /// [`VERSION`].
    pub v: u32,
    /// What it is called here, and the host of its sources.
    pub name: String,
    /// Of its identity.
    pub fingerprint: Fingerprint,
    /// `HOST:PORT`, each of which may lead to it.
    pub addresses: Vec<String>,
    /// What this machine may do there.
    pub role: Role,
    /// What this machine is called there.
    pub peer_name: String,
    /// What this machine shows the agent, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// Since when.
    pub paired_at: Timestamp,
    /// When the certificate ends.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Paired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Paired({} {})", self.name, self.fingerprint)
    }
}

/// Where the agents are that this machine was paired with, a file for each.
pub fn dir() -> PathBuf {
    xdg("XDG_CONFIG_HOME", ".config").join("pullback/agents")
}

/// The file about the agent that is called `name` here.
pub fn path_of(name: &str) -> PathBuf {
    dir().join(format!("{name}.json"))
}

/// Makes the place for them, where there is none.
fn make_dir() -> Result<(), Fault> {
    durable::make_dir(&dir()).map_err(|error| Fault::io(format!("`{}`", dir().display()), &error))
}

/// Sees that [`Paired::write`] can keep what is called `name`: afterwards it is too late, since a code is used up.
pub fn see_room(name: &str) -> Result<(), Fault> {
    make_dir()?;
    let path = path_of(name);
    if path.is_dir() {
        return Err(Fault::io(format!("`{}`", path.display()), &ErrorKind::IsADirectory.into()));
    }
    let tried = dir().join(format!(".{name}.room"));
    let written = durable::replace(&tried, &[0; FILE_BYTES_USUAL], 0o600);
    let removed = durable::remove(&tried);
    written.and(removed).map_err(|error| Fault::io(format!("`{}`", dir().display()), &error))
}

impl Paired {
    /// The agent that is called `name` here, if there is one.
    pub fn read(name: &str) -> Result<Option<Self>, Fault> {
        let name = &folded(name);
        if !is_name(name) {
            return Ok(None);
        }
        let path = path_of(name);
        let wrong = |why: String| {
            Fault::new(Kind::Config, format!("`{}`: {why}", path.display()))
                .hint(format!("bring that file back, or pair again: `puller pair CODE --replace {name}`"))
        };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::io(format!("`{}`", path.display()), &error)),
        };
        let bytes = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(wrong(format!("it has {bytes} bytes")));
        }
        let text = std::io::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let paired: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if paired.v != VERSION {
            return Err(wrong(format!("it is of another release (`\"v\": {}`)", paired.v)));
        }
        if paired.name != *name {
            return Err(wrong(format!("it is about `{}`", printable(&paired.name, 80))));
        }
        Ok(Some(paired))
    }

    /// All of them, by name; and why one could not be read.
    pub fn all() -> Vec<Result<Self, Fault>> {
        let files = match std::fs::read_dir(dir()) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => return vec![Err(Fault::io(format!("`{}`", dir().display()), &error))],
        };
        let names = files.flatten().filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            // Some file systems give a name back with its accents apart.
            let name = folded(&name);
            Some(name.strip_suffix(".json").filter(|name| is_name(name))?.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        names.iter().filter_map(|name| Self::read(name).transpose()).collect()
    }

    /// The one that has `address` (`HOST:PORT`).
    pub fn at(address: &str) -> Option<Self> {
        Self::all().into_iter().flatten().find(|paired| paired.addresses.iter().any(|known| known == address))
    }

    /// Keeps it, in the place of what was kept under its name.
    pub fn write(&self) -> Result<(), Fault> {
        if !is_name(&self.name) {
            return Err(Fault::new(Kind::Usage, format!("`{}`: {NAME_RULE}", printable(&self.name, 80)))
                .hint("give it another name here with `--name`"));
        }
        let path = path_of(&self.name);
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
        make_dir()?;
        durable::replace(&path, &text, 0o600)
            .map_err(|error| Fault::io(format!("`{}`", path.display()), &error))
    }
}

/// Forgets the agent that is called `name` here. What was pulled from it stays.
pub fn forget(name: &str) -> Result<(), Fault> {
    let path = path_of(name);
    durable::remove(&path).map_err(|error| Fault::io(format!("`{}`", path.display()), &error))
}

/// What `typed` means, if it is `AGENT/NAME` or `AGENT` and an agent of that name was paired: an address, and the agent.
pub fn behind(typed: &str) -> Result<Option<(Address, Paired)>, Fault> {
    let address = Address::agent(typed).or_else(|| Address::whole_agent(typed));
    let Some(Address::Agent { agent, .. }) = &address else { return Ok(None) };
    Ok(address.clone().zip(Paired::read(agent)?))
}

/// `address`, or, where a paired agent is at its `HOST:PORT`, the same database as that agent's: one source, whichever way it
/// is typed.
pub fn meant(address: Address) -> Address {
    let paired = address.door().and_then(|door| Paired::at(&door));
    match (paired, address) {
        (Some(paired), Address::Service { database, .. }) => Address::Agent { agent: paired.name, database },
        (_, address) => address,
    }
}

/// Whether `one` and `other` are the same database: by their keys, or because one is behind a paired agent that is at the
/// `HOST:PORT` of the other.
pub fn is_same(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Agent { agent, database: name }, service @ Address::Service { database, .. })
        | (service @ Address::Service { database, .. }, Address::Agent { agent, database: name }) => {
            let is_at = |paired: Paired| service.door().is_some_and(|door| paired.addresses.contains(&door));
            name == database && Paired::read(agent).ok().flatten().is_some_and(is_at)
        }
        _ => one.key() == other.key(),
    }
}
