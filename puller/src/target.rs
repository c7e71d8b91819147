//! A source as it was asked for: where it is, what it is called, and what the configuration says of it.

use crate::address::Address;
use crate::client::Client;
use crate::config::{self, Config};
use crate::source_dir::SourceDir;
use crate::ssh::Door;
use crate::store::{Sources, Store};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::path::Path;

/// A source that was asked for. Whether the store has it is another question.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it was called when it was asked for.
    pub typed: String,
    /// Where it is reached.
    pub address: Address,
    /// The name it has or is to have in the store.
    pub name: Option<String>,
    /// Whether that name was typed for it: then it is a source of its own, whatever another one at that address is called.
    pub is_apart: bool,
    /// Its table in the configuration.
    pub settings: Option<config::Source>,
}

/// A source that was asked for, or what it was called and why it cannot be told which.
pub type Asked = Result<Target, (String, Fault)>;

/// A target that was looked for in the store.
pub struct Met {
    /// Where it is reached: by the path as its agent tells it, where that was asked.
    pub address: Address,
    /// Its folder, if the store has one.
    pub source: Option<SourceDir>,
    /// The connection that it took to find out, if it took one.
    pub client: Option<Client>,
    /// Why it cannot be pulled now, if its agent was asked.
    pub problem: Option<Fault>,
}

impl Target {
    /// What `typed` means: an address, a name of the configuration, one that the store knows, or a file here, in this order;
    /// two readings are an error.
    pub fn read(typed: &str, config: &Config, store: Option<&Store>) -> Result<Self, Fault> {
        if let Some(address) = Address::parse(typed)? {
            return Ok(Self::at(typed, address, config));
        }
        let file = Path::new(typed).symlink_metadata().is_ok().then(|| Address::Local(typed.into()));
        let named = match config.sources.get(typed) {
            Some(source) => Ok(Self::configured(typed, source)?),
            None => match store.map(|store| store.named(typed)) {
                Some(Ok(source)) => Ok(Self::stored(typed, &source, config)?),
                Some(Err(fault)) => Err(fault),
                None => Err(Fault::new(Kind::Unknown, "there is no store yet")),
            },
        };
        match (named, file) {
            (Ok(named), None) => Ok(named),
            (Ok(named), Some(file)) if named.address.key() == file.key() => Ok(named),
            (Ok(named), Some(_)) => {
                Err(Fault::new(Kind::Usage, format!("`{typed}` is a file here and the name of a source"))
                    .hint(format!("write `./{typed}` for the file, or `{}` for the source", named.address)))
            }
            (Err(_), Some(file)) => Ok(Self::at(typed, file, config)),
            (Err(fault), None) if fault.kind != Kind::Unknown => Err(fault),
            (Err(fault), None) => Err(Fault::new(
                Kind::Missing,
                format!("`{}` is no file here and no source that is known", printable(typed, 200)),
            )
            .hint(match fault.hint.is_empty() {
                true => {
                    "name a database file, HOST:PATH behind ssh, or HOST:PORT/NAME of an agent's database"
                        .to_owned()
                }
                false => fault.hint,
            })),
        }
    }

    /// The sources of the configuration; where it names none, those that the store knows.
    /// One that cannot be read is given by what it is called, and stops no other.
    pub fn all(config: &Config, store: Option<&Store>) -> Result<Vec<Asked>, Fault> {
        if !config.sources.is_empty() {
            let read = |(name, source): (&String, &config::Source)| {
                Self::configured(name, source).map_err(|fault| (name.clone(), fault))
            };
            return Ok(config.sources.iter().map(read).collect());
        }
        let sources = store.map_or(Ok(Sources::default()), Store::sources)?;
        let read = |source: &SourceDir| {
            Self::stored(&source.shown(), source, config).map_err(|fault| (source.shown(), fault))
        };
        let damaged = sources.damaged.into_iter().map(|damaged| Err((damaged.label, damaged.fault)));
        Ok(sources.known.iter().filter(|source| !source.has_no_address()).map(read).chain(damaged).collect())
    }

    /// Its folder in `store`, if it has one there. Only its agent knows whether a place that ssh reaches is one that the store
    /// has by another spelling: then it is asked through `door`.
    pub fn meet(&self, store: Option<&Store>, door: &Door) -> Result<Met, Fault> {
        let folder = |target: &Self| store.map_or(Ok(None), |store| target.folder(store));
        let known = folder(self);
        let is_new = !matches!(&known, Ok(Some(source)) if !source.has_no_address());
        match (&self.address, known) {
            (Address::Ssh { .. }, _) if is_new => {
                let mut client = Client::open(&self.address, door)?;
                let (address, problem) = client.resolve(&self.address)?;
                let target = Self { address, ..self.clone() };
                let source = folder(&target)?;
                Ok(Met { address: target.address, source, client: Some(client), problem })
            }
            (_, known) => {
                Ok(Met { address: self.address.clone(), source: known?, client: None, problem: None })
            }
        }
    }

    /// The folder that `store` has for it. A folder that had no name yet gets the one of the configuration when it is pulled.
    /// One name for two places is an error, since the copies of two databases would be mixed; so is a new name in the
    /// configuration for a place that has one, since its copies would seem to be gone.
    pub fn folder(&self, store: &Store) -> Result<Option<SourceDir>, Fault> {
        let is_there = |source: &SourceDir| source.is_at(&self.address);
        // Of a store with thousands of sources, most are where they were made and nothing else has to be read.
        let place = store.place(&self.address, self.name.as_deref())?;
        if let Some(source) = place.filter(|source| is_there(source) && source.about.name == self.name) {
            return Ok(Some(source));
        }
        let Sources { known: sources, damaged } = store.sources()?;
        let has_name = |source: &&SourceDir| self.name.is_some() && source.about.name == self.name;
        let by_name = sources.iter().find(has_name).cloned();
        let is_tunnel =
            |source: &SourceDir| source.address().is_ok_and(|address| address.differs_by_port(&self.address));
        if let (Some(source), Some(name)) = (&by_name, &self.name)
            && !is_there(source)
            && !is_tunnel(source)
            && !source.has_no_address()
        {
            return Err(Fault::new(
                Kind::Usage,
                format!("`{name}` is the source at {}, not the one at {}", printable(&source.about.key, 300), self.address),
            )
            .hint(format!(
                "if it moved there, or is reached by another door now: `puller sources adopt {name} {}`; else give this one another name",
                self.address
            )));
        }
        if let Some(source) = by_name {
            if source.has_no_address()
                && let Some(other) = sources.iter().find(|other| is_there(other))
            {
                let (name, other) = (source.shown(), other.shown());
                return Err(Fault::new(
                    Kind::Usage,
                    format!(
                        "`{}` is the source `{other}` already, and `{name}` has imported copies",
                        self.address
                    ),
                )
                .hint(format!("pull it without `--name {name}`; both have copies, and stay apart")));
            }
            return Ok(Some(source));
        }
        let by_key = sources.into_iter().find(is_there);
        match (by_key.as_ref().and_then(|source| source.about.name.as_deref()), &self.name) {
            (Some(_), Some(_)) if self.is_apart => Ok(None),
            (Some(known), Some(name)) => Err(Fault::new(
                Kind::Usage,
                format!("the source at {} is called `{known}` in the store, not `{name}`", self.address),
            )
            .hint(format!("`puller sources rename {known} {name}` gives it the new name"))),
            (None, _) if by_key.is_none() => match damaged.into_iter().next() {
                // It may be the one: a second folder would hide its copies.
                Some(damaged) => Err(damaged.fault),
                None => Ok(None),
            },
            _ => Ok(by_key),
        }
    }

    /// The one at `address`.
    pub fn of(address: Address, config: &Config) -> Self {
        Self::at(&address.to_string(), address, config)
    }

    fn at(typed: &str, address: Address, config: &Config) -> Self {
        let key = address.key();
        let is_it = |source: &config::Source| {
            Address::parse(&source.address).ok().flatten().is_some_and(|address| address.key() == key)
        };
        let configured = config.sources.iter().find(|(_, source)| is_it(source));
        let (name, settings) = match configured {
            Some((name, source)) => (Some(name.clone()), Some(source.clone())),
            None => (None, None),
        };
        Self { typed: typed.to_owned(), address, name, is_apart: false, settings }
    }

    fn configured(name: &str, source: &config::Source) -> Result<Self, Fault> {
        let address = Address::parse(&source.address)?;
        let address = address.ok_or_else(|| {
            Fault::new(Kind::Config, format!("`{}` is no address", printable(&source.address, 200)))
        })?;
        Ok(Self {
            typed: name.to_owned(),
            address,
            name: Some(name.to_owned()),
            is_apart: false,
            settings: Some(source.clone()),
        })
    }

    fn stored(typed: &str, source: &SourceDir, config: &Config) -> Result<Self, Fault> {
        let about = Self::at(typed, source.address()?, config);
        Ok(Self { name: source.about.name.clone().or(about.name), ..about })
    }
}
