//! A source as it was asked for: where it is, what it is called, and what the configuration says of it.

use crate::address::{Address, is_database_name};
use crate::client::Client;
use crate::config::{self, Config};
use crate::paired::{Paired, behind, is_same, meant};
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

/// Databases of one agent that are pulled because of its name alone.
const DATABASES_MAX: usize = 1000;

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
    /// What `typed` means: an address, a name of the configuration, one that the store knows, a paired agent or a database of one,
    /// or a file here, in this order; two readings are an error.
    pub fn read(typed: &str, config: &Config, store: Option<&Store>) -> Result<Self, Fault> {
        if let Some(address) = Address::parse(typed)? {
            return Ok(Self::at(typed, meant(address), config));
        }
        let named = match config.sources.get(typed) {
            Some(source) => Ok(Self::configured(typed, source)?),
            None => match (store, behind(typed)?) {
                (Some(store), Some((address, _))) if address.is_whole_agent() => store.called(typed),
                (Some(store), _) => store.named(typed),
                (None, _) => Err(Fault::new(Kind::Unknown, "there is no store yet")),
            }
            .and_then(|source| Self::stored(typed, &source, config)),
        };
        let addresses = Readings::of(typed)?;
        match named {
            Ok(named) => addresses.beside(&named.address).map(|()| named),
            Err(fault) => match addresses.only()? {
                Some(address) => Ok(Self::at(typed, address, config)),
                None if fault.kind != Kind::Unknown => Err(fault),
                None => Err(unknown(typed, fault)),
            },
        }
    }

    /// The databases of the agent that this one names without any of them, each a target; what is none is told by what it is
    /// called. What `door` leads to is asked.
    pub fn each(&self, config: &Config, door: &Door) -> Result<Vec<Asked>, Fault> {
        let Address::Agent { agent, .. } = &self.address else { return Ok(vec![Ok(self.clone())]) };
        let databases = Client::open(&self.address, door)?.info(false)?.databases;
        let names: Vec<String> = databases.into_iter().map(|database| database.name).collect();
        each_of(agent, &names, config)
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
        let key = self.address.key();
        let by_key = sources.iter().find(|source| source.about.key == key).cloned();
        let by_key = by_key.or_else(|| sources.into_iter().find(is_there));
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
        let is_it = |source: &config::Source| {
            let written = Address::written(&source.address).ok().flatten();
            written.is_some_and(|written| is_same(&written, &address))
        };
        let configured = config.sources.iter().find(|(_, source)| is_it(source));
        let (name, settings) = match configured {
            Some((name, source)) => (Some(name.clone()), Some(source.clone())),
            None => (None, None),
        };
        Self { typed: typed.to_owned(), address, name, is_apart: false, settings }
    }

    fn configured(name: &str, source: &config::Source) -> Result<Self, Fault> {
        let address = Address::written(&source.address)?.map(meant);
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
        let about = Self::at(typed, meant(source.address()?), config);
        Ok(Self { name: source.about.name.clone().or(about.name), ..about })
    }
}

/// The address that `typed` is, if it is one: with a door, of a paired agent's database, or a file here that needs no `./`.
pub fn address_of(typed: &str) -> Result<Option<Address>, Fault> {
    match Address::parse(typed)? {
        Some(address) => Ok(Some(meant(address))),
        None => Readings::of(typed)?.only(),
    }
}

/// What a text may mean that [`Address::parse`] finds no door in.
struct Readings<'a> {
    typed: &'a str,
    file: Option<Address>,
    agent: Option<(Address, Paired)>,
}

impl<'a> Readings<'a> {
    fn of(typed: &'a str) -> Result<Self, Fault> {
        // No database is a folder: what ends in a slash is not meant as a file where it is an agent.
        let agent = behind(typed)?;
        let is_file =
            !(agent.is_some() && typed.ends_with('/')) && Path::new(typed).symlink_metadata().is_ok();
        Ok(Self { typed, file: is_file.then(|| Address::Local(typed.into())), agent })
    }

    /// The one that there is.
    fn only(self) -> Result<Option<Address>, Fault> {
        match (&self.file, &self.agent) {
            (Some(_), Some(_)) => Err(self.unclear(None)),
            (file, agent) => Ok(file.clone().or(agent.clone().map(|(address, _)| address))),
        }
    }

    /// That the source at `named` is not called as something else.
    fn beside(&self, named: &Address) -> Result<(), Fault> {
        let is_other = |address: &Address| !is_same(address, named);
        let other_file = self.file.as_ref().is_some_and(is_other);
        let other_agent = self.agent.as_ref().is_some_and(|(address, _)| is_other(address));
        if other_file || other_agent { Err(self.unclear(Some(named))) } else { Ok(()) }
    }

    fn unclear(&self, named: Option<&Address>) -> Fault {
        let Self { typed, file, agent } = self;
        let (mut readings, mut spellings) = (Vec::new(), Vec::new());
        if file.is_some() {
            readings.push("a file here".to_owned());
            spellings.push(format!("`./{}` for the file", printable(typed, 200)));
        }
        if let Some(named) = named {
            readings.push("the name of a source".to_owned());
            spellings.push(format!("`{named}` for the source"));
        }
        if let Some((Address::Agent { agent, database }, paired)) = agent
            && named.is_none_or(|named| Some(named) != self.agent.as_ref().map(|(address, _)| address))
        {
            let what = if database.is_empty() { "an agent" } else { "a database of an agent" };
            readings.push(format!("{what} that is paired here"));
            spellings.push(match (database.is_empty(), paired.addresses.first()) {
                (false, Some(door)) => format!("`{}/{database}` for the agent's", printable(door, 200)),
                _ => format!("`{agent}/{database}` for the agent's"),
            });
        }
        Fault::new(Kind::Usage, format!("`{}` is {}", printable(typed, 200), readings.join(" and ")))
            .hint(format!("write {}", spellings.join(", or ")))
    }
}

/// Those of the `names` that `agent` told that are names. A name is all that is taken of what it told.
fn each_of(agent: &str, names: &[String], config: &Config) -> Result<Vec<Asked>, Fault> {
    if names.is_empty() {
        return Err(Fault::new(Kind::Missing, format!("agent `{agent}` has no database"))
            .hint("give it one there: `pullback-agent init --database PATH`"));
    }
    let asked = |name: &String| match is_database_name(name) {
        true => {
            let address = Address::Agent { agent: agent.to_owned(), database: name.clone() };
            Ok(Target::at(&address.to_string(), address, config))
        }
        false => {
            let called = format!("{agent}/{}", printable(name, 80));
            let why = format!("agent `{agent}` tells of a database that no agent may call so");
            Err((
                called,
                Fault::new(Kind::Protocol, why)
                    .hint("the others are not touched by it; look at that agent's configuration"),
            ))
        }
    };
    let too_many = (names.len() > DATABASES_MAX).then(|| {
        let why = format!(
            "agent `{agent}` tells of {} databases, and no more than {DATABASES_MAX} are taken",
            names.len()
        );
        Err((
            agent.to_owned(),
            Fault::new(Kind::Protocol, why).hint("name those that are meant, as AGENT/NAME"),
        ))
    });
    Ok(names.iter().take(DATABASES_MAX).map(asked).chain(too_many).collect())
}

fn unknown(typed: &str, fault: Fault) -> Fault {
    let hint = match (Address::agent(typed), fault.hint.is_empty()) {
        (Some(Address::Agent { agent, .. }), _) => {
            format!(
                "if it is of an agent, pair with that first: no agent `{agent}` is paired here (`puller pair`); {}",
                fault.hint
            )
        }
        (_, true) => {
            "name a database file, HOST:PATH behind ssh, AGENT/NAME or HOST:PORT/NAME of an agent's database"
                .to_owned()
        }
        (_, false) => fault.hint,
    };
    Fault::new(
        Kind::Missing,
        format!("`{}` is no file here and no source that is known", printable(typed, 200)),
    )
    .hint(hint.trim_end_matches("; ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn each(names: &[String]) -> Vec<Asked> {
        each_of("pi", names, &Config::default()).unwrap()
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_database_that_an_agent_calls_so_that_it_leads_elsewhere_stops_no_other() {
        let long = "a".repeat(10_000);
        let hostile = [
            "../../etc",
            "",
            ".",
            "..",
            "/etc/passwd",
            "-rf",
            ".ssh",
            "a/b",
            "a\0b",
            "a\nb",
            "\u{1b}[2J",
            &long,
        ];
        for name in hostile {
            let asked = each(&owned(&["gym", name, "club"]));
            let [Ok(gym), Err((called, fault)), Ok(club)] = asked.as_slice() else {
                panic!("{name:?}: {asked:?}")
            };
            assert_eq!([&gym.typed, &club.typed], ["pi/gym", "pi/club"]);
            assert_eq!(fault.kind, Kind::Protocol);
            for text in [called, &fault.message] {
                assert!(text.len() < 400 && !text.contains(char::is_control), "{text:?}");
            }
        }
    }

    #[test]
    fn an_agent_gives_so_many_databases_and_no_more() {
        let names: Vec<String> = (0..=DATABASES_MAX).map(|number| format!("db{number}")).collect();
        let (most, all) = (each(&names[1..]), each(&names));
        assert_eq!((most.len(), all.len()), (DATABASES_MAX, DATABASES_MAX + 1));
        assert!(most.iter().all(Result::is_ok));
        assert!(all[..DATABASES_MAX].iter().all(Result::is_ok) && all[DATABASES_MAX].is_err());
        assert_eq!(each_of("pi", &[], &Config::default()).unwrap_err().kind, Kind::Missing);
    }

    proptest! {
        #[test]
        fn what_an_agent_tells_is_below_its_own_folder(name in prop_oneof!["\\PC{0,80}", "[a-z./-]{0,12}"]) {
            for target in each(&[name]).into_iter().flatten() {
                let Address::Agent { agent, database } = &target.address else { panic!("{target:?}") };
                prop_assert_eq!(agent, "pi");
                prop_assert_eq!(Address::agent(&target.typed), Some(target.address.clone()));
                prop_assert_eq!(Address::from_key(&target.address.key()), Some(target.address.clone()));
                prop_assert!(!database.contains(['/', '\\', '\0']) && !database.starts_with('.'), "{}", database);
            }
        }
    }
}
